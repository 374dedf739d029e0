"""Whole functions as CUDA graphs: recorded once, then replayed with a single call instead of a thousand launches.

A program whose steps are always the same is run step by step a few times and then recorded, updates of shared
variables included. In the first of these runs its calls of PyTorch are noted, and kernels of our own take the place of
many of them, see `fuser`. A graph works on fixed addresses: the tensors that the shared variables' cells held when it
was recorded, and copies of the other inputs. Before a replay, new values go there.

What cannot be recorded runs step by step, as everything does on the CPU.
"""

import contextlib
import functools
import gc
import itertools
import re
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

from theano_torch import memory, waits
from theano_torch.errors import warn_once
from theano_torch.fuser import kernels
from theano_torch.fuser.program import FusedProgram
from theano_torch.fuser.recording import CannotFuse, Recorder
from theano_torch.shared import DeviceCell

import theano
import torch

WARM_UP_CALLS = 2       # Before a program is recorded, beside the first one, which makes the program.
MAX_GRAPHS = 16         # Kept per device.


class CudaGraphs:
    """What all graphs on one device share: a stream on which they are recorded and the memory in which they work.

    They may share the memory because nothing of use is left there when a replay is done: results go to the host, new
    values of shared variables into their own tensors.
    """

    known: 'ClassVar[weakref.WeakSet[CudaGraphs]]' = weakref.WeakSet()

    def __init__(self, device: torch.device) -> None:
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self.recorded: weakref.WeakSet[CapturedProgram] = weakref.WeakSet()
        self.clock = itertools.count()
        CudaGraphs.known.add(self)

    def warm_up(self, function: Callable, inputs: list) -> list:
        """Call `function` on the stream that records: libraries prepare there what they must not while recording."""
        # Both streams wait for each other, so that memory that passes from one to the other is never in use.
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                return function(inputs)
        finally:
            current.wait_stream(self.stream)

    def record(self, function: Callable, inputs: list) -> tuple[Any, list]:
        """Record a call of `function`, which computes nothing yet; returns (what has a method `replay`, the result)."""
        if self.recorded:
            gc.collect()        # Dead Theano functions, whose graphs hold memory, wait in reference cycles.
        with waits.noted():
            torch.cuda.synchronize(self.stream.device)      # As a recording does first.
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer context brings the stream back where the inner one, which also sets it, ends in an error.
            with memory.DEVICE, torch.cuda.stream(self.stream), torch.cuda.graph(
                    graph, pool=self.pool, stream=self.stream, capture_error_mode='thread_local'):
                result = function(inputs)
        except RuntimeError:
            self.end_broken_recording()
            raise
        return graph, result

    def end_broken_recording(self) -> None:
        """After a recording that was broken off: the next one needs another pool.

        Where CUDA cannot end a broken recording, PyTorch raises that before it tells its allocator that the recording
        is over. The allocator then dies of the next `torch.cuda.empty_cache`, thus of the next recording.
        """
        with contextlib.suppress(RuntimeError):     # It has been told.
            torch._C._cuda_endAllocateToPool(self.stream.device.index, self.pool)
        self.pool = torch.cuda.graph_pool_handle()


graphs_on = functools.cache(CudaGraphs)


def release_graphs() -> None:
    """Give up all graphs, before what they use is taken down: NCCL waits until no graph has a call of it."""
    for graphs in list(CudaGraphs.known):
        for captured in list(graphs.recorded):
            captured.release()


def can_be_captured(program: Any) -> bool:
    """Whether a `program.Program` may be recorded; an op with an attribute ``can_be_captured = False`` may not."""
    return program.is_fixed and all(getattr(node.op, 'can_be_captured', True) for node in program.nodes)


class CapturedProgram:
    """A `program.Program`, called like one, that becomes a graph after some calls.

    Parameters
    ----------
    program : program.Program
    cells : list of (DeviceCell or None)
        For each input, the cell of a shared variable whose tensor it is.
    num_returned : int
        How many of the outputs come first that are not new values of inputs.
    graphs : CudaGraphs
    """

    def __init__(self, program: Any, cells: list[DeviceCell | None], num_returned: int,
                 graphs: CudaGraphs) -> None:
        self.program, self.cells, self.num_returned, self.graphs = program, cells, num_returned, graphs
        self.graph: Any = None
        self.runs = program     # Or what does the same with fewer kernels.
        self.calls, self.has_failed = 0, False
        self.inputs: list = []      # What the graph works on.
        self.outputs: list = []
        self.last_used = 0

    def __call__(self, inputs: list) -> list:
        if self.graph is None:
            if not self.has_failed and self.calls < WARM_UP_CALLS:
                self.calls += 1
                return self.graphs.warm_up(self.fuse if self.calls == 1 else self.runs, inputs)
            if self.has_failed or not self.record(inputs):
                return self.runs(inputs)
        self.last_used = next(self.graphs.clock)
        self.put(inputs)
        self.graph.replay()
        # The next replay overwrites results: they are wanted on the host anyway.
        with waits.noted():
            returned = [value.to('cpu', copy=True) for value in self.outputs[:self.num_returned]]
        return returned + self.outputs[self.num_returned:]

    def fuse(self, inputs: list) -> list:
        """Call the program, and from now on run the same with fewer kernels."""
        # The calls before this one were not fused, and sums in another order have other last bits.
        if torch.are_deterministic_algorithms_enabled() or not kernels.can_run(self.graphs.stream.device):
            return self.program(inputs)
        with Recorder(inputs) as recorder:
            results = self.program(inputs)
        if recorder.waits:
            return results      # It cannot be recorded as a graph either; trying to will say so.
        try:
            fused = FusedProgram(recorder, results, theano.config.compiledir)
            fused.prepare(next(value for value in [*inputs, *results] if isinstance(value, torch.Tensor)))
        except CannotFuse as error:
            warn_once(f'{error}; such functions run with more kernels than needed')
            return results
        self.runs = fused
        return results

    def record(self, inputs: list) -> bool:
        """Record the graph; returns whether that worked."""
        fixed = [value.clone() if cell is None else value for value, cell in zip(inputs, self.cells, strict=True)]
        try:
            self.graph, self.outputs = self.graphs.record(self.compute_and_update, fixed)
        except RuntimeError as error:
            self.has_failed = True
            warn_once(f'{one_line(error)}; such functions run step by step, which is slower')
            return False
        self.inputs = fixed
        self.graphs.recorded.add(self)
        while len(self.graphs.recorded) > MAX_GRAPHS:
            min(self.graphs.recorded - {self}, key=lambda captured: captured.last_used).release()
        return True

    def compute_and_update(self, inputs: list) -> list:
        """What is recorded: the program, then new values into the tensors of the shared variables.

        All are computed before the first is written, and none shares memory with an input that is not its own old
        value (`program.aliases`).
        """
        outputs = self.runs(inputs)
        for index in range(self.num_returned, len(outputs)):
            target = self.program.in_place[index]
            assert target is not None       # These outputs are new values.
            if self.cells[target] is not None:
                if outputs[index].data_ptr() != inputs[target].data_ptr():
                    inputs[target].copy_(outputs[index])
                outputs[index] = inputs[target]
        return outputs

    def put(self, inputs: list) -> None:
        """Bring the inputs of a call to where the graph reads them."""
        for value, place, cell in zip(inputs, self.inputs, self.cells, strict=True):
            if value is not place:
                place.copy_(value)
                if cell is not None:
                    cell.tensor = place

    def release(self) -> None:
        """Give up the graph; the program may be recorded again."""
        self.graph, self.inputs, self.outputs = None, [], []
        self.calls = 0
        self.graphs.recorded.discard(self)


def one_line(error: BaseException) -> str:
    """The first line of an error, and the node in which it happened."""
    node = None
    cause: BaseException | None = error
    while node is None and cause is not None:       # Ending a broken recording is an error of its own, after the first.
        node = re.search('Apply node that caused the error: (.*)', str(cause))
        reason, cause = next(iter(str(cause).splitlines()), type(cause).__name__), cause.__context__
    return f'cannot record {node.group(1) if node else "a function"} as a CUDA graph: {reason}'
