"""Sums over processes: NCCL's, on a stream of its own. Gloo plays its role, with the CPU tensors behind the stand-in's.

Where a process has died, NCCL raises no error: the sum never ends, and who waits for it waits for ever.
"""

import ctypes
import functools

import torch

from tests.standin.gpu import GpuError
from tests.standin.streams import Stream, current_stream, forbid_while_recording
from tests.standin.tensors import storage_id

START, FINISH = 'theano_torch::start_sum', 'theano_torch::finish_sum'


class Nccl:
    """The process group of a GPU.

    Attributes
    ----------
    is_chosen : bool
        Whether sums of tensors on the GPU go to NCCL. Gloo's would bring them to the host.
    is_warm : bool
        Whether the processes are connected: NCCL does that in the first sum, and not while a graph is recorded.
    hangs : bool
        Whether a sum never ends, because another process has died.
    """

    def __init__(self, gpu):
        self.gpu = gpu
        self.is_chosen = self.is_warm = self.hangs = False
        self.running = {}           # Storage of a bucket -> the moments at which its sum is done.

    @functools.cached_property
    def stream(self):
        """Where sums happen."""
        return Stream(gpu=self.gpu, clocks=self.gpu.clocks)

    def init_process_group(self, backend=None, device_id=None, **options):
        """Stands in for the function of that name in `torch.distributed`."""
        self.is_chosen = 'nccl' in backend or backend == 'fake'
        if 'nccl' in backend and device_id is None:
            raise GpuError('No device id is provided: using GPU 0, which may be that of another process')
        return self.init('gloo' if 'nccl' in backend else backend, **options)

    init = staticmethod(torch.distributed.init_process_group)

    def call(self, op, args):
        """One of the two ops, on the real tensors, perhaps as a part of a graph."""
        graph, key = self.gpu.here.graph, storage_id(args[0])
        if not self.is_chosen:
            self.wait_for_host(op)
        elif graph is not None:
            if not self.is_warm:
                forbid_while_recording(self.gpu, 'connecting processes', op)
            if op._schema.name == START:
                graph.running.add(key)
            elif key not in graph.running:
                raise GpuError('CUDA error: dependency created on uncaptured work in another stream', op)
            else:
                graph.running.discard(key)
            graph.add(op, args, {}, None, [], args[:1])
            return
        self.run(op, args)

    def wait_for_host(self, op):
        forbid_while_recording(self.gpu, 'a sum on the host', op)
        self.gpu.waits += 1

    def run(self, op, args):
        """The op as it happens, also in a replay."""
        clocks, bucket, key = self.gpu.clocks, args[0], storage_id(args[0])
        if op._schema.name == START:
            self.stream.wait(clocks.current().moments())
            with current_stream(self.gpu, self.stream):
                clocks.use([bucket], [bucket], op)
            self.running[key] = self.stream.moments()
        else:
            clocks.current().wait(self.running.pop(key))
        try:
            if not self.hangs:
                op(*args)
        except RuntimeError:
            if not self.is_chosen:
                raise
            self.hangs = True
        self.is_warm = True

    def host_waits(self):
        """Hang, inside of a C function that no signal ends, if the GPU never gets there."""
        if self.hangs:
            lock = ctypes.create_string_buffer(256)     # A mutex that is free.
            for _ in range(2):
                ctypes.CDLL(None).pthread_mutex_lock(lock)
