"""The runtime: flat lists of steps, one for each combination of input shapes, and what Theano calls to run them."""

import collections
import contextlib

import numpy as np
import theano
import torch

import theano_torch.lowerings
import theano_torch.rewrites  # noqa: F401  (importing these fills the registries)
from theano_torch import capture, hosts, lanes, memory
from theano_torch.convert import from_numpy, to_numpy
from theano_torch.shared import DeviceCell
from theano_torch.steps import WrongShapes, emptying, execute, seconds, set_threads
from theano_torch.trace import Tracer, storage_of

MAX_SIGNATURES = 32     # Combinations of input shapes for which programs are kept per function.
MAX_PROGRAMS = 8        # Programs per combination, where shapes inside depend on values.


class Program:
    """Steps on numbered slots.

    Parameters
    ----------
    parts : list of (list of tuples, or lanes.Lanes)
        Run one after the other. The tuples are steps, see `steps.py`.
    initial : list
        What the slots hold at the start: static values and None.
    input_slots, output_slots : list of int
    in_place : list of (int or None)
        For each output, which input's new value it is: it may be in the old one's memory.
    copied : list of int or None
        Which outputs have to be copied, because they share memory with something else. None: find out in each call.
    is_fixed : bool
        Whether all steps are the same in every call, and everything is on the device.
    """

    def __init__(self, parts, initial, input_slots, output_slots, in_place, copied, is_fixed):
        self.parts, self.initial, self.in_place, self.copied = parts, initial, in_place, copied
        self.input_slots, self.output_slots, self.is_fixed = input_slots, output_slots, is_fixed

    def __call__(self, inputs):
        values = self.initial.copy()
        for slot, value in zip(self.input_slots, inputs, strict=True):
            values[slot] = value
        for part in self.parts:
            if isinstance(part, list):
                execute(part, values)
            else:
                part.run(values)
        outputs = [values[slot] for slot in self.output_slots]
        copied = aliases(inputs, self.initial, outputs, self.in_place) if self.copied is None else self.copied
        copy_outputs(outputs, copied)
        return outputs


def copy_outputs(outputs, copied):
    for index in copied:
        outputs[index] = outputs[index].clone(memory_format=torch.contiguous_format)


def aliases(inputs, statics, outputs, in_place):
    """Indices of the outputs that do not own their memory alone or are not contiguous; `in_place` as of `Program`."""
    seen = {storage_of(value) for value in (*inputs, *statics)} - {0}
    copied = []
    for index, (value, target) in enumerate(zip(outputs, in_place, strict=True)):
        if not isinstance(value, torch.Tensor):
            continue
        address = storage_of(value)
        if target is not None and address and value.data_ptr() == inputs[target].data_ptr() and value.is_contiguous():
            continue
        if address in seen or not value.is_contiguous() or value.untyped_storage().nbytes() > max(value.nbytes, 1):
            copied.append(index)
        elif address:
            seen.add(address)
    return copied


def assemble(tracer, inputs, on_host, outputs, in_place, copied):
    """A `Program` out of the steps of a walk: without those that nothing needs, with slots instead of variables."""
    output_keys = [(var, hosts.is_host_type(var)) for var in outputs]
    needed, steps = set(output_keys), []
    for step in reversed(tracer.steps):
        if needed.intersection(step.targets):
            needed.update(step.sources)
            steps.append(step)
    steps.reverse()
    slots, initial = {}, []

    def slot(key):
        if key not in slots:
            slots[key] = len(initial)
            initial.append(tracer.static_value(*key) if tracer.is_static(key[0]) else None)
        return slots[key]

    input_slots = [slot(key) for key in zip(inputs, on_host, strict=True)]
    output_slots = [slot(key) for key in output_keys]
    entries = []
    for step in steps:
        sources, targets = tuple(map(slot, step.sources)), tuple(map(slot, step.targets))
        entries.append((step.function, sources, targets[0] if step.single else targets, (), step.node))
    entries = emptying(entries, {index for index, value in enumerate(initial) if value is None} - set(output_slots))
    keys = [key for step in steps for key in (*step.sources, *step.targets) if not tracer.is_static(key[0])]
    is_fixed = not tracer.is_dynamic and not any(on_host) and not any(is_host for _, is_host in keys + output_keys)
    parts = parts_of(entries, steps, tracer, output_slots)
    return Program(parts, initial, input_slots, output_slots, in_place, copied, is_fixed)


def parts_of(entries, steps, tracer, output_slots):
    """The parts of a `Program`: `entries` with changes of the number of threads in between, and perhaps lanes.

    `steps` are what the entries were made of.
    """
    last = sum(step.may_be_in_lanes for step in steps)      # These come first.
    costs = [seconds(step.node, tracer.shapes) for step in steps[:last]]
    costs_alone = [cost / lanes.SPEED_UP if step.threads == tracer.plan.threads else cost
                   for cost, step in zip(costs, steps[:last], strict=True)]
    first = lanes.first_in_lanes(entries[:last], costs, costs_alone)
    if first == last:
        return [with_threads(entries, steps)]
    kept = set(output_slots).union(*(entry[1] for entry in entries[last:]))
    return [with_threads(entries[:first], steps[:first]),
            lanes.Lanes(entries[first:last], costs[first:], kept, tracer.plan.lane_threads),
            with_threads(entries[last:], steps[last:])]


def with_threads(entries, steps):
    """`entries` with steps in between that set the number of threads where it changes."""
    result, threads = [], None
    for entry, step in zip(entries, steps, strict=True):
        if step.threads not in (None, threads):
            result.append(set_threads(step.threads))
            threads = step.threads
        result.append(entry)
    return result


class Runner:
    """What ``Function.fn`` is: reads Theano's input cells, runs, writes the output cells and the shared variables.

    Parameters
    ----------
    fgraph : theano.gof.FunctionGraph
    order : list of theano.gof.Apply
    input_storage, output_storage : list of cells
    updated : list of variables
        Shared inputs whose new values are the last outputs of `fgraph`, in this order.
    device : torch.device
    product_dtype : torch.dtype
        See `trace.Build`.
    captures : bool
        Whether programs become CUDA graphs, on devices that have them.
    """

    need_update_inputs = False      # Tells Theano that the updates are done here.
    allow_gc = True

    def __init__(self, fgraph, order, input_storage, output_storage, updated, device, product_dtype, captures):
        self.fgraph, self.order, self.device, self.product_dtype = fgraph, order, device, product_dtype
        self.input_storage, self.output_storage = input_storage, output_storage
        self.storage_map = dict(zip(fgraph.inputs + fgraph.outputs, input_storage + output_storage, strict=True))
        cells = dict(zip(fgraph.inputs, input_storage, strict=True))
        self.update_cells = [cells[var] for var in updated]
        self.num_returned = len(fgraph.outputs) - len(updated)
        self.in_place = [None] * self.num_returned + [fgraph.inputs.index(var) for var in updated]
        # An output that is an input shares its cell, which is not to be written to.
        inputs = {id(cell) for cell in input_storage}
        self.result_cells = [None if id(cell) in inputs else cell for cell in output_storage[:self.num_returned]]
        self.on_host = [is_host_input(var) for var in fgraph.inputs]
        # The inputs whose memory is that of a shared variable.
        self.device_cells = [cell if isinstance(cell, DeviceCell) and cell.device == device else None
                             for cell in input_storage]
        self.graphs = capture.graphs_on(device) if captures and device.type == 'cuda' else None
        self.plan = None        # A lanes.ThreadPlan for the threads of the first caller; who compiles may have others.
        self.programs = collections.OrderedDict()       # signature -> list of programs, the last used one first
        self.constants = {}

    def __call__(self, output_subset=None):
        with memory.translating_errors(self.device), torch.inference_mode(), self.keeping_threads():
            inputs = [self.read(cell, is_host)
                      for cell, is_host in zip(self.input_storage, self.on_host, strict=True)]
            outputs = self.compute(inputs)
            for cell, value in zip(self.update_cells, outputs[self.num_returned:], strict=True):
                if isinstance(cell, DeviceCell):
                    cell.put(value)
                elif not is_memory_of(cell[0], value):
                    cell[0] = to_numpy(value)
            returned = [to_numpy(value) for value in outputs[:self.num_returned]]
        for cell, value in zip(self.result_cells, returned, strict=True):
            if cell is not None:
                cell[0] = value
        return returned + [None] * (len(outputs) - self.num_returned)      # Theano drops the updates.

    @contextlib.contextmanager
    def keeping_threads(self):
        """Around what sets PyTorch's number of threads: it is as before afterwards."""
        before = torch.get_num_threads()
        try:
            yield
        finally:
            if self.plan is not None:
                torch.set_num_threads(before)

    def read(self, cell, is_host):
        """The content of an input cell as contiguous tensor on the device, or as it is where it stays on the host."""
        if isinstance(cell, DeviceCell):
            return cell.tensor.to(self.device)
        value = cell[0]
        if is_host:
            return value
        return from_numpy(value, self.device)

    def compute(self, inputs):
        signature = tuple(getattr(value, 'shape', None) for value in inputs)
        programs = self.programs.setdefault(signature, [])
        self.programs.move_to_end(signature)
        for index, program in enumerate(programs):
            try:
                outputs = program(inputs)
            except WrongShapes:
                continue
            if index:
                programs.insert(0, programs.pop(index))
            return outputs
        program, outputs = self.make_program(inputs)
        programs.insert(0, program)
        del programs[MAX_PROGRAMS:]
        while len(self.programs) > MAX_SIGNATURES:
            self.programs.popitem(last=False)
        return program(inputs) if outputs is None else outputs

    def make_program(self, inputs):
        """A program for inputs of these shapes, and the outputs; None if it has yet to be called for them."""
        if self.plan is None and self.device.type == 'cpu' and torch.get_num_threads() > 1:
            self.plan = lanes.ThreadPlan(self.order, torch.get_num_threads())
        tracer = Tracer(self.order, self.constants, self.device, self.product_dtype, self.plan)
        outputs = tracer.run(self.fgraph.inputs, self.fgraph.outputs, inputs, self.on_host)
        copied = aliases(inputs, [*self.constants.values(), *tracer.static_tensors.values()], outputs, self.in_place)
        program = assemble(tracer, self.fgraph.inputs, self.on_host, self.fgraph.outputs, self.in_place,
                           None if tracer.is_dynamic else copied)
        if self.graphs is not None and capture.can_be_captured(program):
            program = capture.CapturedProgram(program, self.device_cells, self.num_returned, self.graphs)
        if tracer.is_rehearsal:
            return program, None
        copy_outputs(outputs, copied)
        return program, outputs


def is_memory_of(array, tensor):
    """Whether `tensor` is `array`, changed in place.

    An array around its tensor in the place of the array itself would add a link to a chain in every call.
    """
    return isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor) and array.shape == tensor.shape and \
        array.size > 0 and array.flags.c_contiguous and array.__array_interface__['data'][0] == tensor.data_ptr()


def is_host_input(var):
    """Integer arguments of a function stay on the host, where shapes and indices are computed from them."""
    if hosts.is_host_type(var):
        return True
    return var.ndim == 0 and var.dtype in theano.tensor.discrete_dtypes and \
        not isinstance(var, theano.compile.SharedVariable)
