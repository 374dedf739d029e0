"""Programs, flat lists of steps for given input shapes, and the `Runner` that Theano calls to run them."""

import collections
import math
from collections.abc import Iterable, Sequence, Set
from typing import Any

from theano_torch import capture, destroying, host_steps, hosts, memory, waits
from theano_torch.convert import to_numpy
from theano_torch.errors import WrongShapes, is_about_values
from theano_torch.scheduler import Scheduler
from theano_torch.shared import DeviceCell
from theano_torch.steps import Part, Step, TracedStep, emptying
from theano_torch.trace import Tracer, storage_of
from theano_torch.uploads import to_device

import theano
import torch

MAX_SIGNATURES = 32     # Number of combinations of input shapes with programs, per function.
MAX_PROGRAMS = 8        # Number of programs per combination; several if inner shapes depend on values.


class Program:
    """Steps on slots, see `steps`.

    Parameters
    ----------
    parts : list of Part
        These run one after the other.
    initial : list
        Initial values of the slots: static values and None.
    input_slots, output_slots : list of int
    in_place : list of (int or None)
        For each output, the index of the input whose new value it is, and whose memory it may have; else None.
    copied : list of int or None
        Outputs to copy because they share memory with something else. None: determined in each call.
    is_fixed : bool
        Whether all steps are the same in every call, and all values are on the device.
    shapes : dict
        Node -> shapes of its outputs, if these may depend on values. The program fits only these shapes.
    saved : list of int
        Inputs that are overwritten before it is known whether the program fits; they are restored if it does not.
    """

    def __init__(self, parts: list[Part], initial: list, input_slots: list[int], output_slots: list[int],
                 in_place: list[int | None], copied: list[int] | None, is_fixed: bool,
                 shapes: dict, saved: Sequence[int]) -> None:
        self.shapes, self.saved = shapes, saved
        self.parts, self.initial, self.in_place, self.copied = parts, initial, in_place, copied
        self.input_slots, self.output_slots, self.is_fixed = input_slots, output_slots, is_fixed
        self.taken = storages_of(initial)

    @property
    def nodes(self) -> list:
        """Theano's nodes of the steps."""
        return [step.node for part in self.parts for step in part.steps if step.node is not None]

    def fits(self, found: dict) -> bool:
        """Whether the program may fit a call in which outputs of nodes have the shapes `found`."""
        return all(self.shapes.get(node, shapes) == shapes for node, shapes in found.items())

    def __call__(self, inputs: Sequence) -> list:
        values = self.initial.copy()
        for slot, value in zip(self.input_slots, inputs, strict=True):
            values[slot] = value
        before = [inputs[index].clone() for index in self.saved]
        try:
            for part in self.parts:
                part.run(values)
        except WrongShapes:
            for index, value in zip(self.saved, before, strict=True):
                inputs[index].copy_(value)
            raise
        outputs = [values[slot] for slot in self.output_slots]
        copied = aliases(inputs, self.taken, outputs, self.in_place) if self.copied is None else self.copied
        copy_outputs(outputs, copied)
        return outputs


AnyProgram = Program | capture.CapturedProgram


def plain(program: AnyProgram) -> Program:
    """The program without its CUDA graph, if it has one."""
    return program.program if isinstance(program, capture.CapturedProgram) else program


def copy_outputs(outputs: list, copied: Sequence[int]) -> None:
    """Replace the outputs with indices in `copied` by copies."""
    for index in copied:
        outputs[index] = outputs[index].clone(memory_format=torch.contiguous_format)


def storages_of(values: Iterable) -> set[int]:
    """Addresses of the memory of all tensors in `values`."""
    return {storage_of(value) for value in values} - {0}


def aliases(inputs: Sequence, taken: Set[int], outputs: Sequence, in_place: Sequence[int | None]) -> list[int]:
    """Indices of the outputs that share memory or are not contiguous.

    `taken` are the addresses of static values. See `Program` for `in_place`.
    """
    seen = storages_of(inputs) | taken
    copied = []
    for index, (value, target) in enumerate(zip(outputs, in_place, strict=True)):
        if not isinstance(value, torch.Tensor):
            continue
        address = storage_of(value)
        old = None if target is None else inputs[target]
        if isinstance(old, torch.Tensor) and address and value.data_ptr() == old.data_ptr() and value.is_contiguous():
            continue
        if address in seen or not value.is_contiguous() or value.untyped_storage().nbytes() > max(value.nbytes, 1):
            copied.append(index)
        elif address:
            seen.add(address)
    return copied


def assemble(tracer: Tracer, inputs: Sequence, on_host: Sequence[bool], outputs: Sequence,
             in_place: list[int | None], copied: list[int] | None) -> Program:
    """Make a program from the steps of a walk: remove steps that nothing needs, and assign slots to variables."""
    output_keys = [(var, hosts.is_host_type(var)) for var in outputs]
    input_keys = list(zip(inputs, on_host, strict=True))
    traced = needed_steps(tracer.schedule.steps, output_keys)
    traced = host_steps.joined(traced, input_keys, output_keys, tracer.facts.is_static)
    slots: dict[tuple, int] = {}
    initial: list = []

    def slot(key: tuple) -> int:
        if key not in slots:
            slots[key] = len(initial)
            initial.append(tracer.static_value(*key) if tracer.facts.is_static(key[0]) else None)
        return slots[key]

    input_slots = [slot(key) for key in input_keys]
    output_slots = [slot(key) for key in output_keys]
    steps = []
    for step in traced:
        sources, targets = tuple(map(slot, step.sources)), tuple(map(slot, step.targets))
        steps.append(Step(step.function, sources, targets[0] if step.is_single else targets, node=step.node))
    steps = emptying(steps, {index for index, value in enumerate(initial) if value is None} - set(output_slots))
    keys = [key for step in traced for key in (*step.sources, *step.targets) if not tracer.facts.is_static(key[0])]
    is_fixed = not tracer.is_dynamic and not any(on_host) and not any(is_host for _, is_host in keys + output_keys)
    parts = tracer.schedule.parts(traced, steps, output_slots)
    saved = [index for index, var in enumerate(inputs)
             if tracer.may_fail_late and var in tracer.destroyed and not hosts.is_host_type(var)]
    return Program(parts, initial, input_slots, output_slots, in_place, copied, is_fixed, tracer.checked_shapes, saved)


def needed_steps(steps: Sequence[TracedStep], wanted: Sequence[tuple]) -> list[TracedStep]:
    """The steps that compute the keys `wanted`, or their sources, and all steps that only check something."""
    needed, kept = set(wanted), []
    for step in reversed(steps):
        if step.is_check or needed.intersection(step.targets):
            needed.update(step.sources)
            kept.append(step)
    kept.reverse()
    return kept


class Runner:
    """The callable ``Function.fn``: reads Theano's input cells, runs, writes output cells and shared variables.

    Parameters
    ----------
    fgraph : theano.gof.FunctionGraph
    order : list of theano.gof.Apply
    input_storage, output_storage : list of cells
    updated : list of variables
        Shared inputs whose new values are the last outputs of `fgraph`, in this order.
    device : torch.device
    product_dtype : torch.dtype
        See `trace.Facts`.
    captures : bool
        Whether programs become CUDA graphs, if the device supports them.
    prepared : dict
        Node -> result of `registry.prepare`.

    Attributes
    ----------
    gives_copies : bool
        Whether outputs own their memory and are contiguous. Otherwise they may be views of inputs and constants.
    """

    need_update_inputs = False      # Theano need not update the inputs.
    allow_gc = True

    def __init__(self, fgraph: Any, order: list, input_storage: list, output_storage: list, updated: list,
                 device: torch.device, product_dtype: torch.dtype, captures: bool, prepared: dict) -> None:
        self.prepared, self.gives_copies = prepared, True
        self.fgraph, self.order, self.device, self.product_dtype = fgraph, order, device, product_dtype
        self.input_storage, self.output_storage = input_storage, output_storage
        self.storage_map = dict(zip(fgraph.inputs + fgraph.outputs, input_storage + output_storage, strict=True))
        cells = dict(zip(fgraph.inputs, input_storage, strict=True))
        self.update_cells = [cells[var] for var in updated]
        self.num_returned = len(fgraph.outputs) - len(updated)
        self.in_place = [None] * self.num_returned + [fgraph.inputs.index(var) for var in updated]
        # An output that is also an input shares the input's cell, which must not be written to.
        inputs = {id(cell) for cell in input_storage}
        self.result_cells = [None if id(cell) in inputs else cell for cell in output_storage[:self.num_returned]]
        destroyed = destroying.overwritten(order)
        self.overwritten = [index for index, var in enumerate(fgraph.inputs)
                            if var in destroyed and not hosts.is_host_type(var)]
        self.on_host = [is_host_input(var) and index not in self.overwritten
                        for index, var in enumerate(fgraph.inputs)]
        # For each input, the cell of the shared variable that owns its memory, or None.
        self.device_cells = [cell if isinstance(cell, DeviceCell) and cell.device == device else None
                             for cell in input_storage]
        # A CUDA graph works on copies of arguments.
        captures = captures and device.type == 'cuda' and all(self.device_cells[index] for index in self.overwritten)
        self.graphs = capture.graphs_on(device) if captures else None
        self.scheduler = Scheduler(order, device)
        # shapes and types of the inputs -> programs, most recently used first
        self.programs: collections.OrderedDict[tuple, list[AnyProgram]] = collections.OrderedDict()
        self.constants: dict = {}
        self.done: dict = {}        # Results in the current call, see `hosts.once`.

    def __call__(self, output_subset: None = None) -> list:
        try:
            return self.call()
        except (MemoryError, RuntimeError) as error:
            if memory.is_lack_of_memory(error):
                raise memory.out_of_memory(error, self.device) from error
            if isinstance(error, MemoryError) or not is_about_values(error):
                raise
            raise ValueError(str(error)).with_traceback(error.__traceback__) from None
        finally:
            self.done.clear()

    def call(self) -> list:
        with torch.inference_mode(), self.scheduler.around_call():
            inputs = [self.read(cell, is_host)
                      for cell, is_host in zip(self.input_storage, self.on_host, strict=True)]
            outputs = self.compute(inputs)
            for index in self.overwritten:
                self.put_back(self.input_storage[index], inputs[index])
            for cell, index, value in zip(self.update_cells, self.in_place[self.num_returned:],
                                          outputs[self.num_returned:], strict=True):
                if isinstance(cell, DeviceCell):
                    cell.put(value)
                elif not destroying.is_memory_of(cell[0], value) and not (
                        index in self.overwritten and storage_of(value) == storage_of(inputs[index])):
                    cell[0] = to_numpy(value)
            with waits.noted():
                returned = [to_numpy(value) for value in outputs[:self.num_returned]]
        for cell, value in zip(self.result_cells, returned, strict=True):
            if cell is not None:
                cell[0] = value
        return returned + [None] * (len(outputs) - self.num_returned)      # Theano ignores the updates.

    def read(self, cell: list, is_host: bool) -> Any:
        """The content of an input cell: a contiguous tensor on the device, or unchanged if it stays on the host."""
        if isinstance(cell, DeviceCell):
            return cell.tensor.to(self.device)      # type: ignore[union-attr]  # It has a value.
        value = cell[0]
        if is_host or not hasattr(value, 'dtype'):     # The walk over the graph rejects values that are not arrays.
            return value
        return to_device(value, self.device)

    def put_back(self, cell: list, value: torch.Tensor) -> None:
        """Write an overwritten input back to its cell, if it is a copy."""
        if isinstance(cell, DeviceCell):
            cell.put(value)
        else:
            destroying.put_back(cell[0], value)

    def compute(self, inputs: list) -> list:
        """Compute the outputs, with an existing program or a new one."""
        signature = tuple([(value.shape, value.dtype) if hasattr(value, 'dtype') else None for value in inputs])
        programs = self.programs.setdefault(signature, [])
        self.programs.move_to_end(signature)
        found: dict = {}
        for index, program in enumerate(programs):
            if found and not plain(program).fits(found):
                continue
            try:
                outputs = program(inputs)
            except WrongShapes as error:
                found.update(error.found)
                continue
            if index:
                programs.insert(0, programs.pop(index))
            return outputs
        program, computed = self.make_program(inputs)
        programs.insert(0, program)
        del programs[MAX_PROGRAMS:]
        while len(self.programs) > MAX_SIGNATURES:
            self.programs.popitem(last=False)
        return program(inputs) if computed is None else computed

    def max_steps(self) -> float:
        """Largest number of steps of the programs so far; infinite if calls may run different steps."""
        programs = [plain(program) for kept in self.programs.values() for program in kept]
        return max((sum(len(part.steps) for part in program.parts) if program.is_fixed else math.inf
                    for program in programs), default=0)

    def make_program(self, inputs: list) -> tuple[AnyProgram, list | None]:
        """Make a program for inputs of these shapes; return it and the outputs, or None if it must still run."""
        tracer = Tracer(self.order, self.constants, self.device, self.product_dtype, self.scheduler,
                        self.prepared, self.done)
        outputs = tracer.run(self.fgraph.inputs, self.fgraph.outputs, inputs, self.on_host)
        copied = aliases(inputs, storages_of([*self.constants.values(), *tracer.static_tensors.values()]), outputs,
                         self.in_place) if self.gives_copies else []
        program = assemble(tracer, self.fgraph.inputs, self.on_host, self.fgraph.outputs, self.in_place,
                           None if tracer.is_dynamic and self.gives_copies else copied)
        made: AnyProgram = program
        if self.graphs is not None and capture.can_be_captured(program):
            made = capture.CapturedProgram(program, self.device_cells, self.num_returned, self.graphs)
        if not tracer.schedule.is_final:
            return made, None
        copy_outputs(outputs, copied)
        return made, outputs


def is_host_input(var: Any) -> bool:
    """Whether an input stays on the host: integer arguments, from which shapes and indices are computed."""
    if hosts.is_host_type(var):
        return True
    return var.ndim == 0 and var.dtype in theano.tensor.discrete_dtypes and \
        not isinstance(var, theano.compile.SharedVariable)
