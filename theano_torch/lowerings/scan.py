"""Loops, `theano.scan`: the inner function is a separate program, and the loop passes tensors to it.

The values of an output in all steps are kept in a list, which becomes one tensor at the end.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from theano_torch import hosts
from theano_torch.convert import from_numpy, to_numpy
from theano_torch.program import Runner
from theano_torch.registry import lower, prepare

import numpy as np
import theano
import torch
from theano.compile.io import In, Out
from theano.compile.mode import Mode
from theano.scan_module.scan_op import Scan
from torch import Tensor

MAX_RECORDED = 20000    # Largest number of steps of inner programs in one CUDA graph.


@prepare.register(Scan)
def _(op, node, linker):
    """Compile the inner function with the same linker; return its `Runner`, or a `WatchedLoop`."""
    if op.mode is not None and type(op.mode_instance) is not Mode:
        return WatchedLoop(op, node)
    op.validate_inner_graph()
    # CUDA graphs record whole functions, including all steps of their loops.
    mode = type(linker)(linker.device, linker.precision, capture=False).mode()
    if getattr(op.mode_instance.linker, 'runs_on_torch', False):
        mode = Mode(mode.linker, op.mode_instance.provided_optimizer)
    inputs, outputs = [In(var, borrow=True) for var in op.inputs], [Out(var, borrow=True) for var in op.outputs]
    op.fn = theano.function(inputs, outputs, mode=mode, on_unused_input='ignore', name=op.name)     # As in Theano.
    runner = op.fn.fn
    runner.gives_copies = False
    states = {*op.inner_mitmot(op.inputs), *op.inner_mitsot(op.inputs), *op.inner_sitsot(op.inputs),
              *op.inner_shared(op.inputs)}
    # Integer states stay on the device: otherwise each step would wait for their values, perhaps without need.
    runner.on_host = [is_host and not (var in states and isinstance(var.type, theano.tensor.TensorType))
                      for var, is_host in zip(op.inputs, runner.on_host, strict=True)]
    return runner


@dataclasses.dataclass(frozen=True)
class Output:
    """How a loop reads and writes an output of a scan that has a row for each step, or for the last ones.

    Attributes
    ----------
    taps, targets : tuple of int
        Rows that each step reads and writes, relative to the step's position.
    first : int
        Position of the first step.
    length : int
        Number of rows that are kept. Positions beyond the end wrap around to the first row.
    is_state : bool
        Whether the output has an initial value.
    is_accumulated : bool
        Whether the initial value has all rows (mit-mot), not only those before `first`.
    """

    taps: tuple[int, ...]
    targets: tuple[int, ...]
    first: int
    length: int
    is_state: bool
    is_accumulated: bool

    def initial_rows(self, initial: Tensor | None) -> list:
        """A list of `length` rows; unknown rows are None."""
        if initial is None:
            return [None] * self.length
        if self.is_accumulated:
            return list(initial.unbind(0))
        return [*initial[:self.first].unbind(0), *[None] * (self.length - self.first)]

    def final_rows(self, rows: list, steps: int, num_steps: int) -> list:
        """Put `rows` into the order of time after `steps` of at most `num_steps` steps."""
        if self.is_accumulated:
            return rows
        written = self.first + steps
        if self.length <= written:
            start = written % self.length
            return rows[start:] + rows[:start]
        # Rows that truncated gradients do not reach are zero; rows after the end of a while loop are dropped.
        missing = torch.zeros_like(rows[written - 1])
        rows = rows[:written] + [missing] * (self.length - written)
        return rows[:max(len(rows) - (num_steps - steps), 0)]


class Loop:
    """Runs the inner function step by step; called with the tensors of a scan's inputs, without those that are ints.

    Parameters
    ----------
    op : Scan
    runner : Runner
        The inner function.
    num_steps : int
    lengths : list of int
        Lengths of the outputs that have rows.
    """

    def __init__(self, op: Scan, runner: Runner, num_steps: int, lengths: Sequence[int]) -> None:
        self.op, self.runner, self.num_steps = op, runner, num_steps
        targets = [*op.mit_mot_out_slices[:op.n_mit_mot], *[[0]] * (len(lengths) - op.n_mit_mot)]
        taps = [*op.tap_array, *[[]] * op.n_nit_sot]
        self.outputs = [
            Output(tuple(map(int, taps[index])), tuple(targets[index]), int(-op.mintaps[index]), length,
                   is_state=index < op.n_outs, is_accumulated=index < op.n_mit_mot)
            for index, length in enumerate(lengths)]
        self.is_host_sequence = runner.on_host[:op.n_seqs]
        self.is_host_other = runner.on_host[len(runner.on_host) - len(op.inner_non_seqs(op.inputs)):]

    def __call__(self, *arguments: Any) -> Any:
        num_sequences, num_states, num_shared = self.op.n_seqs, self.op.n_outs, self.op.n_shared_outs
        initial = arguments[num_sequences:num_sequences + num_states]
        shared = list(arguments[num_sequences + num_states:num_sequences + num_states + num_shared])
        others = [to_numpy(value) if is_host else value for value, is_host in
                  zip(arguments[num_sequences + num_states + num_shared:], self.is_host_other, strict=True)]
        sequences = [self.rows_of(value, is_host) for value, is_host in
                     zip(arguments[:num_sequences], self.is_host_sequence, strict=True)]
        with self.runner.scheduler.around_call():
            kept, shared, steps = self.run(sequences, initial, shared, others)
        results = tuple(stacked(output.final_rows(rows, steps, self.num_steps), rows)
                        for output, rows in zip(self.outputs, kept, strict=True)) + tuple(shared)
        return results if len(results) > 1 else results[0]

    def rows_of(self, sequence: Tensor, is_host: bool) -> Sequence:
        """Rows of a sequence, as the steps need them."""
        sequence = sequence[:self.num_steps]
        return [np.asarray(value) for value in to_numpy(sequence)] if is_host else sequence.unbind(0)

    def run(self, sequences: Sequence, initial: Sequence, shared: list, others: list) -> tuple[list, list, int]:
        """Run the loop: (rows of each output, last values of the shared variables, number of steps)."""
        outputs, step, as_while = self.outputs, 0, self.op.as_while
        kept = [output.initial_rows(initial[index] if output.is_state else None)
                for index, output in enumerate(outputs)]
        large: set[int] = set()     # Outputs that are small views of larger tensors, whose memory should not be kept.
        shapes = [initial[index].shape[1:] if output.is_state else None for index, output in enumerate(outputs)]
        is_going_on = True
        while is_going_on and step < self.num_steps:
            inputs = [rows[step] for rows in sequences]
            for output, rows in zip(outputs, kept, strict=True):
                position = output.first + step
                for tap in output.taps:
                    inputs.append(rows[(position + tap) % output.length])
            values = iter(self.runner.compute(inputs + shared + others))
            self.runner.done.clear()    # Side effects happen in every step.
            for index, output in enumerate(outputs):
                position = (output.first + step) % output.length
                for target in output.targets:
                    value = next(values)
                    if value.shape != shapes[index]:
                        value, shapes[index] = fitted(value, shapes[index])
                    if step == 0 and value.untyped_storage().nbytes() > 2 * value.nbytes:
                        large.add(index)
                    kept[index][position + target] = value.clone() if index in large else value
            shared = [next(values) for _ in shared]
            is_going_on = not (as_while and bool(next(values)))
            step += 1
        return kept, shared, step


class WatchedLoop:
    """Theano's own loop on the host, for scans whose mode watches the values of each step.

    Such modes are MonitorMode, NanGuardMode and DebugMode.
    """

    def __init__(self, op: Scan, node: Any) -> None:
        self.node = node
        self.cells: dict = {var: [None] for var in node.inputs + node.outputs}
        self.thunk = op.make_thunk(node, self.cells, {var: [True] for var in self.cells}, [], impl='py')

    def __call__(self, device: torch.device, *arguments: Any) -> Any:
        for var, value in zip(self.node.inputs, arguments, strict=True):
            self.cells[var][0] = hosts.as_host(var, value)
        for var in self.node.outputs:
            self.cells[var][0] = None
        self.thunk()
        values = [hosts.as_host(var, self.cells[var][0]) for var in self.node.outputs]
        results = tuple(value if hosts.is_host_type(var) else from_numpy(value.copy(), device)
                        for var, value in zip(self.node.outputs, values, strict=True))
        return results if len(results) > 1 else results[0]


def fitted(value: Tensor, shape: Sequence[int] | None) -> tuple[Tensor, Sequence[int]]:
    """(`value` in the shape of its row, that shape); for None, any shape is accepted."""
    if shape is None:
        return value, value.shape
    try:
        return value.expand(shape), shape
    except RuntimeError:
        raise ValueError(f'An output of the scan has changed shape, from {tuple(shape)} to {tuple(value.shape)}'
                         ) from None


def stacked(rows: list, kept: list) -> Tensor:
    """Stack `rows`, some of those in `kept`, to one tensor. Empties `kept` to free memory."""
    result = torch.stack(rows) if rows else kept[0].new_empty((0, *kept[0].shape))
    kept.clear()
    return result


@lower.register(Scan)
def _(op, node, build):
    runner = build.prepared(node)
    if isinstance(runner, WatchedLoop):
        build.varying = True
        return functools.partial(runner, build.device)
    num_steps = int(build.host(node.inputs[0]))
    check_steps(op, node, build, num_steps)
    initial = [*op.outer_mitmot(node), *op.outer_mitsot(node), *op.outer_sitsot(node)]
    lengths = [build.shape(var)[0] for var in initial] + [int(build.host(var)) for var in op.outer_nitsot(node)]
    if not op.as_while:
        for var, length in zip(node.outputs, lengths, strict=False):     # Shared variables come after these.
            build.expect_length(var, length)
    loop = Loop(op, runner, num_steps, lengths)
    build.varying = True

    def run(*arguments: Any) -> Any:
        results = loop(*arguments)
        # Known only after the first call. If all calls run the same steps, and not too many, the function may become a
        # CUDA graph like any other.
        build.varying = op.as_while or num_steps * runner.max_steps() > MAX_RECORDED
        return results
    return run, [*op.outer_seqs(node), *initial, *op.outer_shared(node), *op.outer_non_seqs(node)]


def check_steps(op: Scan, node: Any, build: Any, num_steps: int) -> None:
    """Raise the errors of Theano's own loop."""
    if num_steps < 0:
        raise IndexError(f'Scan was asked to run for negative number of step {num_steps}')
    if num_steps == 0:
        raise NotImplementedError("We didn't implemented yet the case where scan do 0 iteration")
    for var in op.outer_seqs(node):
        if build.shape(var)[0] < num_steps:
            raise ValueError(f'Sequence is shorter then the required number of steps : (n_steps, seq, seq.shape): '
                             f'{num_steps}, {var}, {build.shape(var)}')
