"""The runtime: flat lists of steps, one for each combination of input shapes, and what Theano calls to run them."""

import collections
import math

import numpy as np
import theano
import torch
from theano.tensor.nnet import abstract_conv

import theano_torch.conv
import theano_torch.elemwise
import theano_torch.fusion
import theano_torch.indexing
import theano_torch.linalg
import theano_torch.nnet
import theano_torch.pool
import theano_torch.random
import theano_torch.shapes
import theano_torch.tensors  # noqa: F401  (importing these fills the registries)
from theano_torch import capture, hosts, memory
from theano_torch.build import Tracer, WrongShapes, storage_of
from theano_torch.convert import from_numpy, to_numpy
from theano_torch.errors import raise_naming
from theano_torch.shared import DeviceCell

MAX_SIGNATURES = 32     # Combinations of input shapes for which programs are kept per function.
MAX_PROGRAMS = 8        # Programs per combination, where shapes inside depend on values.
SMALL_STEP = 1500000    # Multiplications: below this mean, waking a second thread costs more than it saves.


class Program:
    """Steps on numbered slots.

    Parameters
    ----------
    steps : list of tuples
        (function, source slots, target slot or tuple of them, slots to empty afterwards, Theano's node or None)
    initial : list
        What the slots hold at the start: static values and None.
    input_slots, output_slots : list of int
    in_place : list of (int or None)
        For each output, which input's new value it is: it may be in the old one's memory.
    copied : list of int or None
        Which outputs have to be copied, because they share memory with something else. None: find out in each call.
    threads : int or None
        Of the CPU. None: as many as PyTorch is set to.
    is_fixed : bool
        Whether all steps are the same in every call, and everything is on the device.
    """

    def __init__(self, steps, initial, input_slots, output_slots, in_place, copied, threads, is_fixed):
        self.steps, self.initial, self.in_place, self.copied = steps, initial, in_place, copied
        self.input_slots, self.output_slots, self.threads = input_slots, output_slots, threads
        self.is_fixed = is_fixed

    def __call__(self, inputs):
        if self.threads is None:
            return self.run(inputs)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return self.run(inputs)
        finally:
            torch.set_num_threads(before)

    def run(self, inputs):
        values = self.initial.copy()
        for slot, value in zip(self.input_slots, inputs, strict=True):
            values[slot] = value
        arguments = node = None
        try:
            for function, sources, target, emptied, node in self.steps:     # noqa: B007  (used where it fails)
                arguments = [values[slot] for slot in sources]
                result = function(*arguments)
                if type(target) is int:
                    values[target] = result
                else:
                    for slot, value in zip(target, result, strict=True):
                        values[slot] = value
                for slot in emptied:
                    values[slot] = None
        except WrongShapes:
            raise
        except Exception:
            if node is None:
                raise
            raise_naming(node, arguments)
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
    entries, last_use = [], {}
    for number, step in enumerate(steps):
        sources, targets = tuple(map(slot, step.sources)), tuple(map(slot, step.targets))
        last_use.update(dict.fromkeys(sources + targets, number))
        entries.append((step.function, sources, targets[0] if step.single else targets, step.node))
    emptied = collections.defaultdict(list)
    for index, number in last_use.items():
        if index not in output_slots and initial[index] is None:
            emptied[number].append(index)
    keys = [key for step in steps for key in (*step.sources, *step.targets) if not tracer.is_static(key[0])]
    is_fixed = not tracer.is_dynamic and not any(on_host) and not any(is_host for _, is_host in keys + output_keys)
    work = sum(multiplications(step.node, tracer.shapes) for step in steps if step.node is not None)
    return Program([(function, sources, target, tuple(emptied[number]), node)
                    for number, (function, sources, target, node) in enumerate(entries)],
                   initial, input_slots, output_slots, in_place, copied,
                   threads=1 if tracer.device.type == 'cpu' and work < SMALL_STEP * len(steps) else None,
                   is_fixed=is_fixed)


def multiplications(node, shapes):
    """How many a node takes for inputs of the given shapes; only those of convolutions and matrix products count."""
    op = node.op.conv if isinstance(node.op, theano_torch.fusion.ConvBiasActivation) else node.op
    if isinstance(op, theano.tensor.Dot):
        return math.prod(shapes[node.inputs[0]]) * math.prod(shapes[node.inputs[1]][1:])
    if isinstance(op, abstract_conv.AbstractConv):
        return math.prod(shapes[node.outputs[0]]) * math.prod(shapes[node.inputs[1]][1:])
    if isinstance(op, abstract_conv.AbstractConv_gradInputs):
        return math.prod(shapes[node.inputs[1]]) * math.prod(shapes[node.inputs[0]][1:])
    if isinstance(op, abstract_conv.AbstractConv_gradWeights):
        return math.prod(shapes[node.inputs[1]]) * math.prod(shapes[node.outputs[0]][1:])
    return 0


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
        See `build.Build`.
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
        self.programs = collections.OrderedDict()       # signature -> list of programs, the last used one first
        self.constants = {}

    def __call__(self, output_subset=None):
        with memory.translating_errors(self.device), torch.inference_mode():
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
        tracer = Tracer(self.order, self.constants, self.device, self.product_dtype)
        outputs = tracer.run(self.fgraph.inputs, self.fgraph.outputs, inputs, self.on_host)
        copied = aliases(inputs, [*self.constants.values(), *tracer.static_tensors.values()], outputs, self.in_place)
        program = assemble(tracer, self.fgraph.inputs, self.on_host, self.fgraph.outputs, self.in_place,
                           None if tracer.is_dynamic else copied)
        if self.graphs is not None and capture.can_be_captured(program):
            program = capture.CapturedProgram(program, self.device_cells, self.num_returned, self.graphs)
        programs.insert(0, program)
        del programs[MAX_PROGRAMS:]
        while len(self.programs) > MAX_SIGNATURES:
            self.programs.popitem(last=False)
        copy_outputs(outputs, copied)
        return outputs


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
