"""Specialise a function graph to the shapes of its inputs: turn Theano's nodes into a flat list of steps.

The first call with new input shapes walks the graph node by node and computes it at the same time. Each variable is

- static: depends only on shapes and constants. Computed once with NumPy, and stored in the steps.
- on the host: an integer argument of the function or computed from such arguments, for example the bounds of a
  minibatch; or not a tensor. Computed with NumPy in each call.
- on the device: everything else, a tensor.

A lowering may request the value of a variable that is not static, such as a shape or index computed from data. Its step
is then dynamic: it is lowered again when the value changes. A step whose output shape may depend on values checks the
shape in every call. If the shape differs from that of the first call, the program does not fit: `WrongShapes`. Only one
branch of an IfElse is traced, and the steps check that the condition is the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

from theano_torch import destroying, gpus, hosts, kernels
from theano_torch.convert import from_numpy, to_numpy
from theano_torch.errors import WrongShapes, naming
from theano_torch.registry import UnsupportedOp, is_registered, lower, on_host
from theano_torch.scheduler import Scheduler
from theano_torch.steps import TracedStep
from theano_torch.uploads import to_device

import numpy as np
import theano
import torch
from theano.compile.function_module import alias_root
from theano.compile.ops import Shape, Shape_i
from theano.ifelse import IfElse

MAX_LOWERINGS = 64      # Number of lowerings kept per dynamic step.


class Facts:
    """Facts about the variables of a graph that hold in all calls of a program.

    Attributes
    ----------
    device : torch.device
    product_dtype : torch.dtype
        The type in which convolutions and matrix products of float32 are computed.
    statics : dict
        Variable -> value on the host. Constants are static, too, but are not included.
    prepared : dict
        Node -> result of `registry.prepare`.
    shapes : dict
        Variable -> shape, a tuple.
    done : dict
        See `hosts.once`.
    """

    def __init__(self, device: torch.device, product_dtype: torch.dtype, prepared: dict, done: dict) -> None:
        self.device, self.product_dtype, self.prepared, self.done = device, product_dtype, prepared, done
        self.statics: dict = {}
        self.shapes: dict = {}

    def is_static(self, var: Any) -> bool:
        """Whether the value of `var` is known and the same in all calls of the program."""
        return isinstance(var, theano.Constant) or var in self.statics

    def static_value(self, var: Any) -> Any:
        """Value of a static variable: an ndarray, NumPy number, slice or None."""
        return var.data if isinstance(var, theano.Constant) else self.statics[var]

    def set_static(self, var: Any, value: Any) -> None:
        self.statics[var] = value
        self.shapes[var] = getattr(value, 'shape', ())


class Build:
    """The information about the graph that lowerings can query.

    Parameters
    ----------
    facts : Facts
    live : dict
        Variable -> value in the current call.
    """

    def __init__(self, facts: Facts, live: dict) -> None:
        self.facts, self.device = facts, facts.device
        self.is_static = facts.is_static
        self.live = live
        self.requested: list = []       # Variables whose current value was requested.
        self.varying = False        # A lowering sets it if its output shapes depend on values.

    def computing(self, dtype: torch.dtype) -> torch.dtype:
        """The type in which a convolution or matrix product with results of type `dtype` is computed."""
        return self.facts.product_dtype if dtype == torch.float32 else dtype

    def image_format(self, dtype: torch.dtype) -> torch.memory_format:
        """The memory format of images for convolutions whose result has the type `dtype`, see `gpus.image_format`."""
        return gpus.image_format(self.device, self.computing(dtype))

    def prepared(self, node: Any) -> Any:
        """Result of `registry.prepare` for `node`."""
        return self.facts.prepared[node]

    def expect_length(self, var: Any, length: int) -> None:
        """Call it as soon as the first dimension of the output `var` is known to become `length`.

        It avoids computing an output that does not fit the program.
        """
        if self.facts.shapes.get(var, (length,))[0] != length:
            raise WrongShapes

    def shape(self, var: Any) -> tuple[int, ...]:
        """Shape of `var`, which is the same in all calls of the program."""
        return self.facts.shapes[var]

    def host(self, var: Any) -> Any:
        """Value of `var`: an ndarray, NumPy number, slice or None."""
        if self.is_static(var):
            return self.facts.static_value(var)
        self.requested.append(var)
        return hosts.as_host(var, self.live[var])

    def on_host(self, node: Any) -> Callable:
        """See `registry.on_host`."""
        return hosts.on_host(node, self)

    def integers(self, var: Any) -> list[int]:
        """Value of a vector of integers."""
        return [int(value) for value in self.host(var)]

    def number(self, var: Any) -> bool | int | float | complex | None:
        """`var` as a Python number if it is static and has a single element, else None."""
        if not hosts.is_host_type(var) and all(var.broadcastable) and self.is_static(var):
            return self.host(var).item()
        return None


class Tracer:
    """One walk over the graph, which computes the outputs for the given inputs and collects the steps.

    Parameters
    ----------
    order : list of theano.gof.Apply
    constants : dict
        Constant -> tensor on the device. Walks share it and add to it.
    device : torch.device
    product_dtype : torch.dtype
        See `Facts`.
    scheduler : scheduler.Scheduler
    prepared, done : dict
        See `Facts`.

    Attributes
    ----------
    schedule : scheduler.Schedule
        Contains the steps.
    """

    def __init__(self, order: list, constants: dict, device: torch.device, product_dtype: torch.dtype,
                 scheduler: Scheduler, prepared: dict, done: dict) -> None:
        self.order, self.constants = order, constants
        self.facts = Facts(device, product_dtype, prepared, done)
        self.schedule = scheduler.new_schedule(self.facts.shapes)
        self.static_tensors: dict = {}      # static variable -> value as a tensor
        self.values: dict = {}      # (variable, is_host) -> value in this call
        self.checked_shapes: dict = {}      # node whose output shapes may depend on values -> these shapes
        self.is_dynamic = False     # Whether some step depends on values, or its result may be a view.
        self.destroyed = destroying.overwritten(order)
        self.has_destroyed = False      # Whether the walk has reached a node that overwrites an input.
        self.may_fail_late = False      # Whether later steps may find that the program does not fit.
        self.inputs: set = set()        # Inputs of the graph.
        self.views: dict = {}       # Views of inputs that are overwritten -> (function, keys of its arguments).
        self.destroyed_storages: set[int] = set()   # Addresses of the memory that steps of the program overwrite.
        # Lazy: compute only the branches that conditions select. That changes the order of nodes, so it is not possible
        # if nodes overwrite inputs: Theano has ordered the nodes so that nothing reads overwritten memory.
        self.is_lazy = not self.destroyed and any(isinstance(node.op, IfElse) for node in order)
        self.visited: set = set()
        # Variable -> the last node that needs it; empty if lazy, because the order is then unknown.
        self.last_use = {} if self.is_lazy else {var: node for node in order for var in node.inputs}

    def run(self, inputs: Sequence, outputs: Sequence, values: Sequence, on_host: Sequence[bool]) -> list:
        """Walk over the graph.

        Parameters
        ----------
        inputs, outputs : lists of variables
        values : list
            Values of the inputs: ndarrays if `on_host`, else tensors or values of other types.
        on_host : list of bool

        Returns
        -------
        list
            Outputs: tensors, or values of other types.
        """
        self.inputs = set(inputs)
        for var, value, is_host in zip(inputs, values, on_host, strict=True):
            check_type(var, value)
            self.put(var, is_host, value)
        for var in [*inputs, *outputs, *filter(self.is_overwritten_view, self.last_use if self.destroyed else ())]:
            self.last_use.pop(var, None)
        self.walk(self.needed_for(outputs) if self.is_lazy else self.order)
        self.schedule.end()
        return [self.get(var, hosts.is_host_type(var)) for var in outputs]

    def walk(self, nodes: Sequence) -> None:
        """Compute the nodes that are not computed yet."""
        for node in nodes:
            if node in self.visited:
                continue
            self.visited.add(node)
            self.note_shapes_of_constants(node)
            self.schedule.begin(node)
            self.visit(node)
            for var in set(node.inputs):
                if self.last_use.get(var) is node and not isinstance(var, theano.Constant):
                    self.values.pop((var, False), None)     # Free memory, as the program will.

    def needed_for(self, variables: Sequence) -> list:
        """The nodes, in order, that `variables` need in any case, without the branches of an IfElse."""
        found: set = set()
        pending = list(variables)
        while pending:
            node = pending.pop().owner
            if node is None or node in found:
                continue
            found.add(node)
            pending.extend(node.inputs[:1] if isinstance(node.op, IfElse) else node.inputs)
        return [node for node in self.order if node in found]

    def note_shapes_of_constants(self, node: Any) -> None:
        for var in node.inputs:
            if isinstance(var, theano.Constant) and hasattr(var.data, 'shape'):
                self.facts.shapes[var] = tuple(var.data.shape)

    # ------------------------------------------------------------------------------------------------------------------
    # Values.

    def put(self, var: Any, is_host: bool, value: Any) -> None:
        """Store the value of `var` in one of its two forms."""
        self.values[var, is_host] = value
        if self.destroyed and (var in self.destroyed or destroying.is_result_in_place(var)):
            self.destroyed_storages.add(storage_of(value))
        if hasattr(value, 'shape'):
            self.facts.shapes[var] = tuple(value.shape)

    def get(self, var: Any, is_host: bool) -> Any:
        """Value of `var` in one of its two forms. A missing form is converted, by a step unless `var` is static."""
        key = (var, is_host)
        if key in self.values:
            return self.values[key]
        value = self.static_value(var, is_host) if self.facts.is_static(var) else self.convert(var, is_host)
        self.put(var, is_host, value)
        return value

    def static_value(self, var: Any, is_host: bool) -> Any:
        value = self.facts.static_value(var)
        if is_host:
            return value
        known = self.constants if isinstance(var, theano.Constant) else self.static_tensors
        if var not in known:
            known[var] = from_numpy(value, self.facts.device)
        return known[var]

    def convert(self, var: Any, is_host: bool) -> np.ndarray | torch.Tensor | None:
        """Convert the value of `var` from its other form, in a new step."""
        device = self.facts.device
        function = to_numpy if is_host else lambda value: None if value is None else to_device(value, device)
        self.schedule.add(TracedStep(function, [(var, not is_host)], [(var, is_host)]))
        return function(self.values[var, not is_host])

    def is_on_host(self, var: Any) -> bool:
        return self.facts.is_static(var) or (var, True) in self.values

    # ------------------------------------------------------------------------------------------------------------------
    # Nodes.

    def visit(self, node: Any) -> None:
        """Compute `node`."""
        self.has_destroyed = self.has_destroyed or bool(destroying.pairs(node))
        if isinstance(node.op, Shape | Shape_i):
            self.visit_shape(node)
        elif self.is_lazy and isinstance(node.op, IfElse):
            self.visit_if(node)
        elif all(self.is_on_host(var) for var in node.inputs) and hosts.runs_on_host(node):
            self.visit_on_host(node)
        elif all(map(hosts.is_host_type, node.outputs)) and not is_registered(node.op):
            self.visit_on_host(node)
        else:
            self.visit_on_device(node)

    def visit_shape(self, node: Any) -> None:
        var, result = node.inputs[0], node.outputs[0]
        shape = self.facts.shapes[var]
        value = shape[node.op.i] if isinstance(node.op, Shape_i) else shape
        self.facts.set_static(result, hosts.as_host(result, value))

    def visit_if(self, node: Any) -> None:
        """Compute the branch that the condition selects, for a program that fits only this choice."""
        condition, count = node.inputs[0], node.op.n_outs
        is_true = bool(self.get(condition, True))
        if not self.facts.is_static(condition):
            self.is_dynamic = True
            self.schedule.add(TracedStep(same_choice(is_true), [(condition, True)], [], node, is_single=False,
                                         is_check=True))
        chosen = node.inputs[1:1 + count] if is_true else node.inputs[1 + count:]
        self.walk(self.needed_for(chosen))
        for var, result in zip(chosen, node.outputs, strict=True):
            if self.facts.is_static(var):
                self.facts.set_static(result, self.facts.static_value(var))
                continue
            is_host = hosts.is_host_type(var)
            value = self.get(var, is_host)
            self.schedule.add(TracedStep(lambda value: value, [(var, is_host)], [(result, is_host)], node))
            self.put(result, is_host, value)

    def visit_on_host(self, node: Any) -> None:
        arguments = [self.get(var, True) for var in node.inputs]
        if hosts.is_foreign(node.op):
            hosts.warn_of_host(node)
        with naming(node, arguments):
            function = hosts.once(node, self.facts.done, hosts.host_function(node))
            results = function(*arguments)
        if all(self.facts.is_static(var) for var in node.inputs) and not hosts.is_foreign(node.op):
            for var, value in zip(node.outputs, results, strict=True):
                self.facts.set_static(var, value)
            return
        function, is_check = self.checked(node, hosts.remembering(node, function), results, is_single=False)
        sources, targets = ([(var, True) for var in variables] for variables in (node.inputs, node.outputs))
        self.schedule.add(TracedStep(function, sources, targets, node, is_single=False, is_check=is_check))
        for var, value in zip(node.outputs, results, strict=True):
            self.put(var, True, value)

    def visit_on_device(self, node: Any) -> None:
        live = {var: self.values[var, is_host] for is_host in (False, True) for var in node.inputs
                if (var, is_host) in self.values}
        build = Build(self.facts, live)
        arguments: list = []
        with naming(node, arguments):
            function, variables = lowered(node, build)
            arguments.extend(self.get(*key) for key in map(argument, variables))
            if not isinstance(function, hosts.OnHost):
                check_values(variables, arguments)
            try:
                places = self.in_place(node, variables, arguments)
                results = places(function)(*self.schedule.arguments(node, arguments))
            except (NotImplementedError, RuntimeError, TypeError) as error:
                if not kernels.is_missing(error):
                    raise
                function, variables = hosts.fallback(node, build, error), node.inputs
                arguments[:] = [self.get(*key) for key in map(argument, variables)]
                places = self.in_place(node, variables, arguments)
                results = places(function)(*self.schedule.arguments(node, arguments))
        is_hidden_view = self.is_hidden_view(node, build, arguments, results)
        if is_hidden_view:
            results = clone(results)
        is_single = not isinstance(results, tuple)
        values = (results,) if is_single else results
        sources = list(map(argument, variables))
        requested = list(dict.fromkeys(build.requested))
        if requested:
            requested_keys = [(var, (var, True) in self.values) for var in requested]
            function = Dynamic(node, self.facts, requested, len(variables), function,
                               [self.values[key] for key in requested_keys])
            sources += requested_keys
        function = places(function)
        if self.destroyed and any(map(self.is_overwritten_view, node.outputs)):
            self.views[node.outputs[0]] = function, sources
        if is_hidden_view:
            function = cloned(function)
        is_check = False
        if requested or build.varying:
            self.is_dynamic = True
            function, is_check = self.checked(node, function, values, is_single)
        build.live = {}         # Lowerings may keep `build`, but must not keep this call's tensors.
        targets = [(var, hosts.is_host_type(var)) for var in node.outputs]
        self.schedule.add(TracedStep(function, sources, targets, node, is_single, is_check))
        for var, value in zip(node.outputs, values, strict=True):
            self.put(var, hosts.is_host_type(var), value)
        for output, index in destroying.pairs(node):
            self.write_through(node.outputs[output], node.inputs[index])

    def in_place(self, node: Any, variables: Sequence, values: Sequence) -> Callable[[Callable], Callable]:
        """Wrapper that makes a function's results overwrite the `values` of `variables`, like those of `node`."""
        found = [(output, variables.index(node.inputs[index])) for output, index in destroying.pairs(node)
                 if node.inputs[index] in variables]
        places = [(output, position) for output, position in found if isinstance(values[position], torch.Tensor)]
        if not places:
            return lambda function: function
        copied = [position for _, position in places if not self.may_be_overwritten(variables[position])]
        return lambda function: destroying.InPlace(function, places, copied)

    def is_overwritten_view(self, var: Any) -> bool:
        """Whether `var` is a view of an overwritten input of the function."""
        root = alias_root(var)
        return root is not var and root in self.inputs and root in self.destroyed

    def write_through(self, result: Any, var: Any) -> None:
        """Add steps that write `result`, which overwrote `var`, to the function's input of which `var` is a view.

        None are needed if `var` shares the input's memory; with a negative step, Theano's view is a copy here.
        """
        while var in self.views and not self.may_be_overwritten(var):
            view, keys = self.views[var]
            position = next(index for index, (source, _) in enumerate(keys) if source is var.owner.inputs[0])
            write = destroying.through(view, position)
            if self.schedule.is_final:      # Otherwise the program will do it.
                write(self.get(result, False), *[self.get(*key) for key in keys])
            self.schedule.add(TracedStep(write, [(result, False), *keys], [], var.owner, is_single=False,
                                         is_check=True))
            result = var = keys[position][0]

    def may_be_overwritten(self, var: Any) -> bool:
        """Whether `var` owns its memory or has that of an input of the function."""
        root = alias_root(var)
        return destroying.is_result_in_place(var) or root in self.inputs and \
            storage_of(self.get(var, False)) == storage_of(self.get(root, False))

    def checked(self, node: Any, function: Callable, values: Sequence, is_single: bool) -> tuple[Callable, bool]:
        """Make `function` of `node` raise `WrongShapes` if its outputs do not have the shapes of `values`.

        Also returns whether it can raise; results that are numbers need no check.
        """
        self.may_fail_late = self.may_fail_late or self.has_destroyed
        self.checked_shapes[node] = shapes = [shape_of(value) for value in values]
        if not any(shapes):
            return function, False

        def run(*arguments: Any) -> Any:
            results = function(*arguments)
            found = [shape_of(value) for value in ((results,) if is_single else results)]
            if found != shapes:
                raise WrongShapes({node: found})
            return results
        return run, True

    def is_hidden_view(self, node: Any, build: Build, arguments: Sequence, results: Any) -> bool:
        """Whether `results` may share memory that a later step destroys, though Theano takes them for new tensors."""
        if not self.destroyed or getattr(node.op, 'view_map', None) or getattr(node.op, 'destroy_map', None):
            return False
        if build.requested or build.varying:
            found = arguments       # The next call may return a view of any of them.
        else:
            found = results if isinstance(results, tuple) else (results,)
        return any(storage_of(value) in self.destroyed_storages - {0} for value in found)


def clone(results: Any) -> Any:
    """Copy a tensor, or each tensor in a tuple; return anything else unchanged."""
    if isinstance(results, tuple):
        return tuple(map(clone, results))
    return results.clone() if isinstance(results, torch.Tensor) else results


def cloned(function: Callable) -> Callable:
    """`function` with results copied to new memory."""
    return lambda *arguments: clone(function(*arguments))


def lowered(node: Any, build: Build) -> tuple[Callable, Sequence]:
    """(function, variables that it takes) for a node."""
    try:
        is_missing = kernels.are_missing(node) and lower.dispatch(type(node.op)) is not on_host
        result = hosts.fallback(node, build) if is_missing else lower(node.op, node, build)
    except UnsupportedOp as error:
        result = hosts.fallback(node, build, error)
    return result if isinstance(result, tuple) else (result, node.inputs)


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Shape of a tensor or an ndarray; None for other values."""
    return tuple(value.shape) if hasattr(value, 'shape') else None


def check_type(var: Any, value: Any) -> None:
    """Raise an error for a value of a wrong type, which Theano does not check if told to trust the caller."""
    if not hosts.is_host_type(var) and not (value is None or hasattr(value, 'dtype')):
        raise ValueError(f'{var} has the type {var.type}, but its value is a {type(value).__name__}, not an array')
    if hasattr(var.type, 'broadcastable') and hasattr(value, 'shape') and (
            value.ndim != var.ndim or str(value.dtype).removeprefix('torch.') != var.dtype):
        raise TypeError(f'{var} has the type {var.type}, but its value has {value.ndim} dimensions of {value.dtype}')


def check_values(variables: Sequence, values: Sequence) -> None:
    """Raise ValueError if a tensor is missing: arguments of a function may be None for `theano.tensor.default`."""
    for var, value in zip(variables, values, strict=True):
        if value is None and not hosts.is_host_type(var):
            raise ValueError(f'{var} has no value')


def argument(var: Any) -> tuple[Any, bool]:
    """Key of `var` as an argument of a lowered function; numbers of Theano's scalar types become tensors, too."""
    return var, hosts.is_host_type(var) and not isinstance(var.type, theano.scalar.Scalar)


def same_choice(is_true: bool) -> Callable:
    """A function that raises `WrongShapes` unless the condition of an IfElse is `is_true`."""
    def check(condition: Any) -> tuple:
        if bool(condition) != is_true:
            raise WrongShapes
        return ()
    return check


class Dynamic:
    """A step whose lowering depends on values. It is lowered for each new combination of values, and cached.

    Called with the tensors of the lowering's variables, followed by the values that the lowering requested.

    Parameters
    ----------
    node : theano.gof.Apply
    facts : Facts
    requested : list of variables
        Variables whose values the lowering requested.
    num_variables : int
        Number of arguments of the lowered function.
    function, values
        The first lowered function, and the values for which it was lowered.
    """

    def __init__(self, node: Any, facts: Facts, requested: list, num_variables: int, function: Callable,
                 values: Sequence) -> None:
        self.node, self.facts, self.requested, self.num_variables = node, facts, requested, num_variables
        self.functions = {self.key(values): function}

    def key(self, values: Sequence) -> tuple:
        """`values` as a hashable key."""
        return tuple(to_numpy(value).tobytes() if hasattr(value, 'dtype') else repr(value) for value in values)

    def __call__(self, *arguments: Any) -> Any:
        values = arguments[self.num_variables:]
        key = self.key(values)
        if key not in self.functions:
            function = self.lowered_for(values)
            if len(self.functions) == MAX_LOWERINGS:
                self.functions.clear()
            self.functions[key] = function
        return self.functions[key](*arguments[:self.num_variables])

    def lowered_for(self, values: Sequence) -> Callable:
        try:
            function, variables = lowered(self.node, Build(self.facts, dict(zip(self.requested, values, strict=True))))
        except KeyError:        # The lowering requested another variable than the first time.
            raise WrongShapes from None
        if len(variables) != self.num_variables:
            raise WrongShapes
        return function


def storage_of(value: Any) -> int:
    """Address of a tensor's memory; 0 for other values and empty tensors."""
    return value.untyped_storage().data_ptr() if isinstance(value, torch.Tensor) and value.numel() else 0
