"""Specialise a function graph to the shapes of its inputs, once, and run the resulting flat list of steps.

The first call with new input shapes walks the graph node by node. What depends on shapes and constants alone (and is
small) is computed with NumPy there and then and is baked into the steps as Python numbers; everything else becomes a
closure on tensors. Later calls with the same shapes run the closures and nothing else.
"""

import collections

import numpy as np
import theano
import torch
from theano.gof.link import raise_with_op
from theano.gof.utils import MethodNotDefined  # noqa: F401  (named in error messages of ops)

import theano_torch.elemwise
import theano_torch.linalg
import theano_torch.nnet
import theano_torch.random
import theano_torch.tensors  # noqa: F401  (importing fills the registries)
from theano_torch.registry import lower
from theano_torch.shared import from_numpy, to_numpy

MAX_PROGRAMS = 32       # Programs kept per function; the least recently used one goes first.
MAX_HOST_NDIM = 1       # Shape arithmetic is on scalars and vectors.


class Build:
    """What a lowering can ask while a program is made."""

    def __init__(self, device):
        self.device = device
        self.hosts = {}         # variable -> ndarray, known on the host
        self.tensors = {}       # variable -> tensor, value in this very call
        self.reusable = True    # False: values were baked in that may differ in the next call

    def host(self, var):
        """The value of `var` as ndarray. If only the device knows it, the program holds for this call alone."""
        if isinstance(var, theano.Constant):
            return np.asarray(var.data)
        if var in self.hosts:
            return self.hosts[var]
        self.reusable = False
        return to_numpy(self.tensors[var])

    def is_host(self, var):
        return isinstance(var, theano.Constant) or var in self.hosts

    def number(self, var):
        """`var` as a Python number if it is a host value with one element, else None."""
        if self.is_host(var) and all(var.type.broadcastable):
            return self.host(var).reshape(()).item()
        return None

    def forget(self):
        """To be called by a lowering whose output shape depends on values."""
        self.reusable = False


class Program:
    """Steps for one signature of inputs. A step is (function, input slots, output slots or slot, slots to free)."""

    def __init__(self, steps, initial, input_slots, output_slots, copied):
        self.steps, self.initial, self.input_slots = steps, initial, input_slots
        self.output_slots, self.copied = output_slots, copied

    def __call__(self, inputs):
        values = self.initial.copy()
        for slot, value in zip(self.input_slots, inputs, strict=True):
            values[slot] = value
        for function, sources, target, free in self.steps:
            result = function(*[values[slot] for slot in sources])
            if type(target) is int:
                values[target] = result
            else:
                for slot, value in zip(target, result, strict=True):
                    values[slot] = value
            for slot in free:
                values[slot] = None
        outputs = [values[slot] for slot in self.output_slots]
        for index in self.copied:
            outputs[index] = outputs[index].clone()
        return outputs


class Runner:
    """What `Function.fn` is: reads Theano's input cells, runs, writes output cells and updated shared variables."""

    need_update_inputs = False      # Updates are written straight into the cells of the shared variables.
    allow_gc = True

    def __init__(self, fgraph, order, input_storage, output_storage, updated_vars, device):
        self.fgraph, self.order, self.device = fgraph, order, torch.device(device)
        self.input_storage, self.output_storage = input_storage, output_storage
        self.storage_map = dict(zip(fgraph.inputs + fgraph.outputs, input_storage + output_storage, strict=False))
        updated = {output: variable for variable, output in updated_vars.items()}
        num_updates = len(updated_vars)
        self.num_returned = len(fgraph.outputs) - num_updates
        cells = dict(zip(fgraph.inputs, input_storage, strict=True))
        # The updates are the last outputs, in the order of the inputs that they belong to.
        self.update_cells = [cells[var] for var in fgraph.inputs if var in updated_vars]
        assert len(updated) <= num_updates
        # Integer scalars among the arguments may be shapes: their values are part of the signature.
        self.host_inputs = [var.owner is None and getattr(var, 'ndim', 1) == 0 and 'int' in str(var.type.dtype)
                            and var not in updated_vars for var in fgraph.inputs]
        self.programs = collections.OrderedDict()

    def __call__(self, output_subset=None):
        with torch.inference_mode():
            inputs, signature = [], []
            for var, cell, is_host in zip(self.fgraph.inputs, self.input_storage, self.host_inputs, strict=True):
                value = cell[0]
                if is_host:
                    signature.append(int(value))
                value = value if isinstance(value, torch.Tensor) else from_numpy(value, self.device)
                if value.device != self.device:
                    value = value.to(self.device)
                inputs.append(value)
                signature.append(value.shape)
            signature = tuple(signature)
            program = self.programs.get(signature)
            if program is None:
                outputs = self.trace(inputs, signature)
            else:
                self.programs.move_to_end(signature)
                outputs = self.run(program, inputs)
            for cell, value in zip(self.update_cells, outputs[self.num_returned:], strict=True):
                cell[0] = value if self.device.type != 'cpu' else to_numpy(value)
            for cell, value, var in zip(self.output_storage, outputs, self.fgraph.outputs, strict=True):
                cell[0] = None if value is None else to_numpy(value)
        return None

    def run(self, program, inputs):
        return program(inputs)

    def trace(self, inputs, signature):
        """Run the graph node by node; keep the steps as a program if they hold for other values too."""
        build = Build(self.device)
        build.tensors.update(zip(self.fgraph.inputs, inputs, strict=True))
        for var, value, is_host in zip(self.fgraph.inputs, inputs, self.host_inputs, strict=True):
            if is_host:
                build.hosts[var] = to_numpy(value)
        traced = []
        for node in self.order:
            if self.try_on_host(node, build):
                continue
            try:
                function = lower(node.op, node, build)
                result = function(*[self.tensor(var, build) for var in node.inputs])
            except Exception:
                raise_with_op(node)
            results = result if isinstance(result, tuple) else (result,)
            traced.append((node, function, isinstance(result, tuple)))
            for var, value in zip(node.outputs, results, strict=True):
                build.tensors[var] = value
        outputs = [self.tensor(var, build) for var in self.fgraph.outputs]
        copied = self.aliases(inputs, outputs)
        program = self.assemble(traced, build, copied)
        if build.reusable:
            self.programs[signature] = program
            if len(self.programs) > MAX_PROGRAMS:
                self.programs.popitem(last=False)
        for index in copied:
            outputs[index] = outputs[index].clone()
        return outputs

    def try_on_host(self, node, build):
        """Compute small things that depend on shapes and constants alone with the op's own NumPy code."""
        op = node.op
        if isinstance(op, theano.compile.ops.Shape):
            build.hosts[node.outputs[0]] = np.array(self.shape_of(node.inputs[0], build), dtype='int64')
            return True
        if isinstance(op, theano.compile.ops.Shape_i):
            build.hosts[node.outputs[0]] = np.array(self.shape_of(node.inputs[0], build)[op.i], dtype='int64')
            return True
        if not all(build.is_host(var) for var in node.inputs):
            return False
        if not node.inputs or any(getattr(var, 'ndim', 9) > MAX_HOST_NDIM for var in node.inputs + node.outputs):
            return False
        if not isinstance(op, HOST_OPS):
            return False
        cells = {var: [self.filtered(var, build)] for var in node.inputs}
        cells.update((var, [None]) for var in node.outputs)
        op.prepare_node(node, cells, None, 'py')
        op.make_py_thunk(node, cells, {var: [True] for var in cells}, [])()
        for var in node.outputs:
            build.hosts[var] = np.asarray(cells[var][0], dtype=var.type.dtype)
        return True

    @staticmethod
    def filtered(var, build):
        """The host value in the form that the op's NumPy code expects: NumPy scalars for Theano scalars."""
        value = build.host(var)
        return value[()] if isinstance(var.type, theano.scalar.Scalar) else value

    def shape_of(self, var, build):
        return build.hosts[var].shape if var in build.hosts else self.tensor(var, build).shape

    def tensor(self, var, build):
        """The value of `var` as a tensor, or whatever a non-tensor type holds."""
        if var not in build.tensors:
            value = var.data if isinstance(var, theano.Constant) else build.hosts[var]
            build.tensors[var] = value
            if isinstance(value, (np.ndarray, np.generic, int, float)) and not isinstance(value, bool):
                build.tensors[var] = from_numpy(np.asarray(value), self.device)
        return build.tensors[var]

    def aliases(self, inputs, outputs):
        """Indices of outputs that share memory with an input, a constant or an earlier output."""
        seen = {value.untyped_storage().data_ptr() for value in inputs if isinstance(value, torch.Tensor)}
        copied = []
        for index, (var, value) in enumerate(zip(self.fgraph.outputs, outputs, strict=True)):
            if not isinstance(value, torch.Tensor) or not value.numel():
                continue
            pointer = value.untyped_storage().data_ptr()
            if pointer in seen or var.owner is None or value.untyped_storage().nbytes() > value.nbytes or \
                    value.numel() == 1:
                copied.append(index)
            seen.add(pointer)
        return copied

    def assemble(self, traced, build, copied):
        """Give slots to variables and say after which step each is not needed any more."""
        slots, initial = {}, []

        def slot(var):
            if var not in slots:
                slots[var] = len(initial)
                known = isinstance(var, theano.Constant) or var in build.hosts
                initial.append(self.tensor(var, build) if known else None)
            return slots[var]

        input_slots = [slot(var) for var in self.fgraph.inputs]
        kept = {slot(var) for var in self.fgraph.outputs}
        last_use, raw = {}, []
        for node, function, is_tuple in traced:
            sources = tuple(slot(var) for var in node.inputs)
            targets = tuple(slot(var) for var in node.outputs)
            for index in sources + targets:
                last_use[index] = len(raw)
            raw.append((function, sources, targets if is_tuple else targets[0]))
        free = collections.defaultdict(list)
        for index, step in last_use.items():
            if index not in kept and initial[index] is None:
                free[step].append(index)
        steps = [(*step, tuple(free[number])) for number, step in enumerate(raw)]
        return Program(steps, initial, input_slots, [slot(var) for var in self.fgraph.outputs], copied)


HOST_OPS = (theano.tensor.Elemwise, theano.tensor.opt.MakeVector, theano.tensor.Subtensor, theano.tensor.Join,
            theano.tensor.DimShuffle, theano.tensor.CAReduce, theano.tensor.ScalarFromTensor,
            theano.tensor.TensorFromScalar, theano.tensor.IncSubtensor, theano.tensor.Rebroadcast,
            theano.tensor.Reshape, theano.tensor.ARange, theano.tensor.Split, theano.tensor.opt.Assert,
            theano.scalar.ScalarOp, theano.tensor.AdvancedSubtensor1, theano.tensor.Alloc)
