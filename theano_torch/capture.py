"""Records whole functions as CUDA graphs, which replay a thousand kernel launches with a single call.

A program with fixed steps runs step by step a few times and is then recorded, including updates of shared variables.
The first of these runs notes its PyTorch calls, many of which our own kernels then replace, see `fuser`. A graph works
on fixed addresses: the tensors of the shared variables at the time of recording, and copies of the other inputs. New
values are copied there before a replay.

Programs that cannot be recorded run step by step, as all programs do on the CPU.
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

WARM_UP_CALLS = 2       # Calls between the first one, which makes the program, and the recording.
MAX_GRAPHS = 16         # Graphs kept per device.


class CudaGraphs:
    """The stream and the memory pool shared by all graphs on one device.

    They can share the pool because it holds nothing of use after a replay: results are copied to the host, and new
    values of shared variables into their own tensors.
    """

    known: 'ClassVar[weakref.WeakSet[CudaGraphs]]' = weakref.WeakSet()

    def __init__(self, device: torch.device) -> None:
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self.recorded: weakref.WeakSet[CapturedProgram] = weakref.WeakSet()
        self.clock = itertools.count()
        CudaGraphs.known.add(self)

    def warm_up(self, function: Callable, inputs: list) -> list:
        """Call `function` on the recording stream, so that libraries initialize before a recording, which forbids it.
        """
        # Each stream waits for the other, so that memory passed between them is not in use.
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                return function(inputs)
        finally:
            current.wait_stream(self.stream)

    def record(self, function: Callable, inputs: list) -> tuple[Any, list]:
        """Record a call of `function` without computing anything; return (an object with `replay()`, the result)."""
        if self.recorded:
            gc.collect()        # Frees the graphs of dead Theano functions, which are reference cycles.
        with waits.noted():
            torch.cuda.synchronize(self.stream.device)      # Recording would do this first; here the wait is noted.
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer context restores the stream if the inner one, which also sets it, fails.
            with memory.DEVICE, torch.cuda.stream(self.stream), torch.cuda.graph(
                    graph, pool=self.pool, stream=self.stream, capture_error_mode='thread_local'):
                result = function(inputs)
        except RuntimeError:
            self.end_broken_recording()
            raise
        return graph, result

    def end_broken_recording(self) -> None:
        """Clean up after a failed recording, and use a new pool for the next one.

        If CUDA cannot end the recording, PyTorch raises an error before it notifies its allocator. The allocator would
        then crash in the next `torch.cuda.empty_cache`, and thus in the next recording.
        """
        with contextlib.suppress(RuntimeError):     # The allocator was already notified.
            torch._C._cuda_endAllocateToPool(self.stream.device.index, self.pool)
        self.pool = torch.cuda.graph_pool_handle()


graphs_on = functools.cache(CudaGraphs)


def release_graphs() -> None:
    """Release all graphs. Call it before shutting down NCCL, which waits until no graph contains a call of it."""
    for graphs in list(CudaGraphs.known):
        for captured in list(graphs.recorded):
            captured.release()


def can_be_captured(program: Any) -> bool:
    """Whether a `program.Program` may be recorded: none of its ops has the attribute ``can_be_captured = False``."""
    return program.is_fixed and all(getattr(node.op, 'can_be_captured', True) for node in program.nodes)


class CapturedProgram:
    """A `program.Program` that is recorded as a graph after some calls. It is called like the program.

    Parameters
    ----------
    program : program.Program
    cells : list of (DeviceCell or None)
        For each input, the cell of the shared variable that holds it; None for other inputs.
    num_returned : int
        Number of outputs to return. The outputs after them are new values of inputs.
    graphs : CudaGraphs
    """

    def __init__(self, program: Any, cells: list[DeviceCell | None], num_returned: int,
                 graphs: CudaGraphs) -> None:
        self.program, self.cells, self.num_returned, self.graphs = program, cells, num_returned, graphs
        self.graph: Any = None
        self.runs = program     # The program, or its fused form with fewer kernels.
        self.calls, self.has_failed = 0, False
        self.inputs: list = []      # Tensors that the graph reads.
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
        # The next replay overwrites the results, and the caller needs them on the host.
        with waits.noted():
            returned = [value.to('cpu', copy=True) for value in self.outputs[:self.num_returned]]
        return returned + self.outputs[self.num_returned:]

    def fuse(self, inputs: list) -> list:
        """Call the program, and fuse its kernels for all later calls."""
        # With deterministic algorithms, do not fuse: another order of summation would change bits between calls.
        if torch.are_deterministic_algorithms_enabled() or not kernels.can_run(self.graphs.stream.device):
            return self.program(inputs)
        with Recorder(inputs) as recorder:
            results = self.program(inputs)
        if recorder.waits:
            return results      # It cannot be recorded as a graph either; `record` will warn.
        try:
            fused = FusedProgram(recorder, results, theano.config.compiledir)
            fused.prepare(next(value for value in [*inputs, *results] if isinstance(value, torch.Tensor)))
        except CannotFuse as error:
            warn_once(f'{error}; such functions run with more kernels than needed')
            return results
        self.runs = fused
        return results

    def record(self, inputs: list) -> bool:
        """Record the graph; return whether that succeeded."""
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
        """The recorded function: run the program, then copy new values into the tensors of the shared variables.

        All new values are computed before the first is written, and none shares memory with an input other than its own
        old value (`program.aliases`).
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
        """Copy the inputs of a call to the tensors that the graph reads."""
        for value, place, cell in zip(inputs, self.inputs, self.cells, strict=True):
            if value is not place:
                place.copy_(value)
                if cell is not None:
                    cell.tensor = place

    def release(self) -> None:
        """Release the graph; the program may be recorded again."""
        self.graph, self.inputs, self.outputs = None, [], []
        self.calls = 0
        self.graphs.recorded.discard(self)


def one_line(error: BaseException) -> str:
    """A message with the first line of an error, and the node in which it occurred."""
    node = None
    cause: BaseException | None = error
    while node is None and cause is not None:       # Ending a failed recording may raise a second error.
        node = re.search('Apply node that caused the error: (.*)', str(cause))
        reason, cause = next(iter(str(cause).splitlines()), type(cause).__name__), cause.__context__
    return f'cannot record {node.group(1) if node else "a function"} as a CUDA graph: {reason}'
