"""Specialise a function graph to the shapes of its inputs: from Theano's nodes to a flat list of steps.

The first call with new input shapes walks the graph node by node and computes it on the way. A variable is one of

- static: depends on shapes and constants alone. Computed with NumPy, once, and baked into the steps.
- on the host: an integer argument of the function and what is computed from it, such as the bounds of a minibatch.
  Computed with NumPy in each call.
- on the device: everything else, a tensor.

A lowering that asks for the value of a variable that is not static (a shape or index that is computed from data)
makes its step a dynamic one, which is lowered again when that value changes. Every step whose output shape may depend
on values checks it; another shape than in the first call means that the steps do not hold (`WrongShapes`).
"""

import theano
import torch
from theano.compile.function_module import alias_root
from theano.compile.ops import Shape, Shape_i

from theano_torch import hosts
from theano_torch.convert import from_numpy, to_numpy
from theano_torch.errors import naming
from theano_torch.registry import is_registered, lower
from theano_torch.steps import WrongShapes

MAX_LOWERINGS = 64      # Kept per dynamic step.


class Build:
    """What a lowering can ask about the graph that is being specialised."""

    def __init__(self, device, product_dtype, statics, shapes, live):
        self.device = device
        self.product_dtype = product_dtype      # type in which convolutions and matrix products of float32 compute
        self.statics = statics      # variable -> host value that holds for all calls of this program
        self.shapes = shapes        # variable -> shape of its tensor
        self.live = live            # variable -> value in the current call only
        self.asked = []             # variables whose current value was asked for
        self.varying = False        # set by a lowering whose output shapes depend on values

    def computing(self, dtype):
        """The type in which a convolution or matrix product computes whose result has the torch type `dtype`."""
        return self.product_dtype if dtype == torch.float32 else dtype

    def shape(self, var):
        """Shape of `var`: a tuple of ints that holds for all calls of this program."""
        return self.shapes[var]

    def is_static(self, var):
        """Whether the value of `var` is known and the same in all calls of this program."""
        return isinstance(var, theano.Constant) or var in self.statics

    def host(self, var):
        """The value of `var`: an ndarray, NumPy number, slice or None."""
        if isinstance(var, theano.Constant):
            return var.data
        if var in self.statics:
            return self.statics[var]
        self.asked.append(var)
        return hosts.as_host(var, self.live[var])

    def integers(self, var):
        """The value of a vector of integers as a list of ints."""
        return [int(value) for value in self.host(var)]

    def number(self, var):
        """`var` as a Python number if it is static and a single element, else None."""
        if not hosts.is_host_type(var) and all(var.broadcastable) and self.is_static(var):
            return self.host(var).item()
        return None


class Step:
    """One entry of a program while it is built. Sources and targets are keys ``(variable, is_host)``."""

    threads = None          # That it runs with outside of lanes. None: as many as PyTorch is set to.
    may_be_in_lanes = False

    def __init__(self, function, sources, targets, node=None, single=True):
        self.function, self.sources, self.targets = function, sources, targets
        self.node, self.single = node, single


class Tracer:
    """One walk over the graph: computes the outputs for the given inputs and collects the steps.

    Parameters
    ----------
    order : list of theano.gof.Apply
    constants : dict
        Constant -> tensor on the device; kept and filled across walks.
    device : torch.device
    product_dtype : torch.dtype
        See `Build`.
    plan : lanes.ThreadPlan or None
        None: PyTorch's number of threads stays as it is.
    """

    def __init__(self, order, constants, device, product_dtype, plan=None):
        self.order, self.constants, self.device, self.product_dtype = order, constants, device, product_dtype
        self.plan = plan
        self.is_rehearsal = False   # Whether the call has to be repeated with the program that is made.
        self.statics, self.shapes = {}, {}
        self.static_tensors = {}    # static variable -> its value as a tensor
        self.values = {}            # (variable, is_host) -> value in this call
        self.steps = []
        self.is_dynamic = False     # Whether what a step computes, a view or a copy, may depend on values.
        self.destroyed = {alias_root(node.inputs[index]) for node in order
                          for indices in getattr(node.op, 'destroy_map', {}).values() for index in indices}
        self.destroyed_storages = set()     # Addresses of what some step of this program works on in place.

    def run(self, inputs, outputs, values, on_host):
        """Walk.

        Parameters
        ----------
        inputs, outputs : lists of variables
        values : list
            Values of the inputs: ndarrays where `on_host`, else tensors or what non-tensor types hold.
        on_host : list of bool

        Returns
        -------
        list
            Tensors (or values of non-tensor types) of the outputs.
        """
        for var, value, is_host in zip(inputs, values, on_host, strict=True):
            self.put(var, is_host, value)
        last_use = {var: node for node in self.order for var in node.inputs}
        for var in [*inputs, *outputs]:
            last_use.pop(var, None)
        last = 0 if self.plan is None else self.plan.last
        self.walk(self.order[:last], last_use)
        if self.plan is not None and self.plan.has_lanes([step.node for step in self.steps], self.shapes):
            self.is_rehearsal = True
            for step in self.steps:
                step.may_be_in_lanes = True
        self.walk(self.order[last:], last_use)
        return [self.get(var, hosts.is_host_type(var)) for var in outputs]

    def walk(self, nodes, last_use):
        """Compute `nodes`; `last_use` maps what may be forgotten to the last node that uses it."""
        for node in nodes:
            self.visit(node)
            for var in set(node.inputs):
                if last_use.get(var) is node and not isinstance(var, theano.Constant):
                    self.values.pop((var, False), None)     # Free memory as the program will.

    def put(self, var, is_host, value):
        self.values[var, is_host] = value
        if var in self.destroyed:
            self.destroyed_storages.add(storage_of(value))
        if hasattr(value, 'shape'):
            self.shapes[var] = tuple(value.shape)

    def get(self, var, is_host):
        """The value of `var` in one of its two forms, which is made (by a step, unless static) where it is missing."""
        key = (var, is_host)
        if key in self.values:
            return self.values[key]
        if isinstance(var, theano.Constant) or var in self.statics:
            value = self.static_value(var, is_host)
        else:
            value = self.add_conversion(var, is_host)
        self.put(var, is_host, value)
        return value

    def static_value(self, var, is_host):
        value = var.data if isinstance(var, theano.Constant) else self.statics[var]
        if is_host or hosts.is_host_type(var):
            return value
        known = self.constants if isinstance(var, theano.Constant) else self.static_tensors
        if var not in known:
            known[var] = from_numpy(value, self.device)
        return known[var]

    def know_shape(self, var):
        if isinstance(var, theano.Constant) and hasattr(var.data, 'shape'):
            self.shapes[var] = tuple(var.data.shape)

    def add_conversion(self, var, is_host):
        device = self.device
        convert = to_numpy if is_host else lambda value: from_numpy(value, device)
        self.steps.append(Step(convert, [(var, not is_host)], [(var, is_host)]))
        return convert(self.values[var, not is_host])

    def is_static(self, var):
        return isinstance(var, theano.Constant) or var in self.statics

    def is_on_host(self, var):
        return self.is_static(var) or (var, True) in self.values

    def visit(self, node):
        """Compute `node` with the planned number of threads."""
        for var in node.inputs:
            self.know_shape(var)
        if self.plan is None:
            self.compute(node)
            return
        threads, num_steps = self.plan.threads_of(node, self.shapes), len(self.steps)
        torch.set_num_threads(threads)
        self.compute(node)
        for step in self.steps[num_steps:]:
            step.threads = threads

    def compute(self, node):
        if isinstance(node.op, Shape | Shape_i):
            self.visit_shape(node)
        elif all(self.is_on_host(var) for var in node.inputs) and hosts.runs_on_host(node):
            self.visit_on_host(node)
        elif all(map(hosts.is_host_type, node.outputs)) and not is_registered(node.op):
            self.visit_on_host(node)
        else:
            self.visit_on_device(node)

    def visit_shape(self, node):
        var, result = node.inputs[0], node.outputs[0]
        shape = self.shapes[var]
        self.set_static(result, hosts.as_host(result, shape[node.op.i] if isinstance(node.op, Shape_i) else shape))

    def set_static(self, var, value):
        self.statics[var] = value
        self.shapes[var] = getattr(value, 'shape', ())

    def visit_on_host(self, node):
        arguments = [self.get(var, True) for var in node.inputs]
        with naming(node, arguments):
            function = hosts.host_function(node)
            results = function(*arguments)
        if all(self.is_static(var) for var in node.inputs):
            for var, value in zip(node.outputs, results, strict=True):
                self.set_static(var, value)
            return
        function = checked(function, [getattr(value, 'shape', None) for value in results], single=False)
        sources, targets = ([(var, True) for var in variables] for variables in (node.inputs, node.outputs))
        self.steps.append(Step(function, sources, targets, node, single=False))
        for var, value in zip(node.outputs, results, strict=True):
            self.put(var, True, value)

    def visit_on_device(self, node):
        live = {var: self.values[var, is_host] for is_host in (False, True) for var in node.inputs
                if (var, is_host) in self.values}
        build = Build(self.device, self.product_dtype, self.statics, self.shapes, live)
        arguments = []
        with naming(node, arguments):
            function, variables = lowered(node, build)
            arguments.extend(self.get(var, hosts.is_host_type(var)) for var in variables)
            if self.is_rehearsal and getattr(node.op, 'destroy_map', None):
                arguments[:] = map(clone, arguments)
            results = function(*arguments)
        is_hidden_view = self.is_hidden_view(node, build, arguments, results)
        if is_hidden_view:
            results = clone(results)
        single = not isinstance(results, tuple)
        values = (results,) if single else results
        sources = [(var, hosts.is_host_type(var)) for var in variables]
        asked = list(dict.fromkeys(build.asked))
        if asked:
            asked_keys = [(var, (var, True) in self.values) for var in asked]
            function = Dynamic(node, build, asked, len(variables), function, [self.values[key] for key in asked_keys])
            sources += asked_keys
        if is_hidden_view:
            function = cloned(function)
        if asked or build.varying:
            self.is_dynamic = True
            function = checked(function, [getattr(value, 'shape', None) for value in values], single)
        build.live = {}         # Lowerings that keep `build` must not keep this call's tensors.
        targets = [(var, hosts.is_host_type(var)) for var in node.outputs]
        self.steps.append(Step(function, sources, targets, node, single))
        for var, value in zip(node.outputs, values, strict=True):
            self.put(var, hosts.is_host_type(var), value)

    def is_hidden_view(self, node, build, arguments, results):
        """Whether `results` may be, where Theano's op makes new tensors, in memory that a later step destroys."""
        if not self.destroyed or getattr(node.op, 'view_map', None) or getattr(node.op, 'destroy_map', None):
            return False
        found = arguments if build.asked or build.varying else results if isinstance(results, tuple) else (results,)
        return any(storage_of(value) in self.destroyed_storages - {0} for value in found)


def clone(results):
    if isinstance(results, tuple):
        return tuple(map(clone, results))
    return results.clone() if isinstance(results, torch.Tensor) else results


def cloned(function):
    """`function` with results in memory of their own."""
    return lambda *arguments: clone(function(*arguments))


def lowered(node, build):
    """(function, variables that it takes) of a node."""
    result = lower(node.op, node, build)
    return result if isinstance(result, tuple) else (result, node.inputs)


def checked(function, shapes, single):
    """`function`, but another output shape than `shapes` raises `WrongShapes`."""
    shapes = [None if shape is None else tuple(shape) for shape in shapes]

    def run(*arguments):
        results = function(*arguments)
        for value, shape in zip((results,) if single else results, shapes, strict=True):
            if shape is not None and tuple(value.shape) != shape:
                raise WrongShapes
        return results
    return run


class Dynamic:
    """A step whose lowering depends on values: lowered again for each new combination of them, which are remembered."""

    def __init__(self, node, build, asked, num_variables, function, values):
        self.node, self.asked, self.num_variables = node, asked, num_variables
        self.facts = build.device, build.product_dtype, build.statics, build.shapes
        self.functions = {self.key(values): function}

    def key(self, values):
        return tuple(to_numpy(value).tobytes() if hasattr(value, 'dtype') else repr(value) for value in values)

    def __call__(self, *arguments):
        values = arguments[self.num_variables:]
        key = self.key(values)
        if key not in self.functions:
            build = Build(*self.facts, dict(zip(self.asked, values, strict=True)))
            try:
                function, variables = lowered(self.node, build)
            except KeyError:        # Another value was asked for than the first time.
                raise WrongShapes from None
            if len(variables) != self.num_variables:
                raise WrongShapes
            if len(self.functions) == MAX_LOWERINGS:
                self.functions.clear()
            self.functions[key] = function
        return self.functions[key](*arguments[:self.num_variables])


def storage_of(value):
    """Address of the memory behind a tensor; 0 for other values and empty tensors."""
    return value.untyped_storage().data_ptr() if isinstance(value, torch.Tensor) and value.numel() else 0
