"""CUDA graphs: record ops, and replay them in the same order and on the same memory."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.utils._mode_utils import no_dispatch

from tests.standin.collectives import FINISH, START
from tests.standin.gpu import GpuError
from tests.standin.ops import UNINITIALIZED
from tests.standin.streams import current_stream
from tests.standin.tensors import fill_with_garbage, mapped, storage_id, tensors_in


class Node(NamedTuple):
    """A recorded op."""

    op: Callable
    args: tuple
    kwargs: dict
    places: list            # The new tensors among its results.
    read: list              # Tensors that it reads.
    written: list           # Tensors that it writes, new ones included.


class Graph:
    """Replaces `torch.cuda.CUDAGraph`.

    During the recording, ops run to determine shapes and memory. Afterwards, their effects are undone: overwritten
    tensors get their old values back, and new tensors are filled with garbage. When another graph of the same pool is
    replayed, the memory of this graph is filled with garbage, except for tensors that the program still has.

    Attributes
    ----------
    replays : int
        Number of replays.
    """

    def __init__(self, keep_graph=False, *, gpu):
        self.gpu, self.pool_id = gpu, None
        self.nodes, self.new = [], []       # Recorded ops; tensors that they made.
        self.own, self.kept = set(), {}     # Memory of these; values from before the recording.
        self.running = set()                # Storages of the sums over processes that nobody has waited for.
        self.is_broken = self.is_complete = False
        self.replays = 0

    def capture_begin(self, pool=None):
        gpu = self.gpu
        if gpu.clocks.current() is gpu.clocks.default:
            raise GpuError('CUDA graphs must be captured on a non-default stream')
        if gpu.here.graph is not None:
            raise GpuError('CUDA error: a recording is under way')
        self.pool_id = pool if pool is not None else (0, next(gpu.pool_numbers))
        gpu.here.graph = self

    def keep(self, written):
        """Save the values of tensors that an op is about to overwrite."""
        for real in written:
            key = storage_id(real)
            if self.gpu.backing == 'cpu' and key not in self.own and key not in self.kept:
                whole = torch.empty(0, dtype=torch.uint8).set_(real.untyped_storage())
                self.kept[key] = whole, whole.clone()

    def add(self, func, args, kwargs, outputs, new, written):
        self.new.extend(new)
        self.own.update(map(storage_id, new))
        if torch.Tag.inplace_view not in func.tags:     # Such ops change the shape of a tensor, not its memory.
            # Detached tensors keep their shapes if a later op is such an op.
            args, kwargs, outputs, written = mapped(torch.Tensor.detach, (args, kwargs, outputs, written))
            places = tensors_in(outputs) if new else []
            self.nodes.append(Node(func, args, kwargs, places, tensors_in((args, kwargs)), [*places, *written]))

    def capture_end(self):
        gpu, gpu.here.graph = self.gpu, None
        for whole, value in self.kept.values():
            whole.copy_(value)
        self.kept.clear()
        if self.is_broken or self.running:
            gpu.broken_pools.add(self.pool_id)      # PyTorch raises before it tells its allocator.
            raise GpuError('CUDA error: operation failed due to a previous error during capture' if self.is_broken else
                           'CUDA error: capturing stream has unjoined work')
        self.is_complete = True
        gpu.pools[self.pool_id].add(self)
        with no_dispatch():
            for real in self.new:
                fill_with_garbage(real)

    def replay(self):
        if not self.is_complete or self.gpu.here.graph is not None:
            raise GpuError('a graph can be replayed only once it is recorded, and while none is being recorded')
        self.replays += 1
        if self.gpu.backing == 'cpu':
            with no_dispatch():
                for other in self.gpu.pools[self.pool_id]:
                    if other is not self:
                        other.lose_memory()
                for node in self.nodes:
                    self.run_again(node)

    def run_again(self, node):
        """Compute a recorded op, into the tensors that it made when it was recorded."""
        if node.op._schema.name in (START, FINISH):
            self.gpu.nccl.run(node.op, node.args)
            return
        if node.op in UNINITIALIZED:
            for real in node.places:
                fill_with_garbage(real)
        else:
            results = node.op(*node.args, **node.kwargs)
            if node.places:
                for real, value in zip(node.places, tensors_in(results), strict=True):
                    if real is not value:
                        real.copy_(value)
        self.gpu.clocks.use(node.read, node.written, node.op)

    def lose_memory(self):
        for real in self.new:
            if not self.gpu.is_held(real):
                fill_with_garbage(real)

    def reset(self):
        self.nodes, self.new, self.is_complete = [], [], False

    def pool(self):
        return self.pool_id


class Recording:
    """Replaces the context manager `torch.cuda.graph`."""

    def __init__(self, cuda_graph, pool=None, stream=None, capture_error_mode='global', **options):
        if capture_error_mode not in ('global', 'thread_local', 'relaxed') or options:
            raise ValueError((capture_error_mode, options))
        self.graph, self.pool, self.stream = cuda_graph, pool, stream or torch.cuda.Stream()

    def __enter__(self):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self.context = current_stream(self.graph.gpu, self.stream)
        self.context.__enter__()
        self.graph.capture_begin(self.pool)

    def __exit__(self, *exception):
        try:
            self.graph.capture_end()
        finally:
            self.context.__exit__(None, None, None)
