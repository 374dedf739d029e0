"""Values on the host: shapes, indices and values derived from them, computed by the NumPy code of Theano's ops."""

from collections.abc import Callable
from typing import Any

from theano_torch import destroying
from theano_torch.convert import from_numpy, to_numpy
from theano_torch.errors import warn_once
from theano_torch.registry import is_registered

import numpy as np
import theano
from theano.compile.ops import Shape, Shape_i
from theano.gof.op import PureOp
from theano.tensor import basic, elemwise, opt, subtensor, type_other

# Ops on small values known on the host, which run as NumPy code instead of on the device.
HOST_OPS = (elemwise.Elemwise, elemwise.DimShuffle, elemwise.CAReduce, opt.MakeVector, opt.Assert, subtensor.Subtensor,
            subtensor.IncSubtensor, subtensor.AdvancedSubtensor1, basic.Join, basic.Split, basic.ScalarFromTensor,
            basic.TensorFromScalar, basic.Reshape, basic.ARange, basic.Alloc, theano.compile.ops.Rebroadcast,
            theano.compile.ops.ViewOp, theano.compile.ops.DeepCopyOp, theano.scalar.ScalarOp, type_other.MakeSlice)

MAX_REMEMBERED = 64     # Number of results remembered per node.


def is_host_type(var: Any) -> bool:
    """Whether values of `var` are never tensors: Theano scalars, slices, random states, None."""
    return not isinstance(var.type, theano.tensor.TensorType)


def is_small(var: Any) -> bool:
    """Whether `var` is a scalar, a vector, or has one element: the sizes that occur in shape arithmetic."""
    return is_host_type(var) or var.ndim <= 1 or all(var.broadcastable)


def runs_on_host(node: Any) -> bool:
    """Whether `node` runs as NumPy code if all its inputs are known on the host."""
    if not isinstance(node.op, theano.gof.Op):
        return False        # The op has no `perform`, like loops.
    if any(is_host_type(var) for var in node.outputs):
        return True
    return isinstance(node.op, HOST_OPS) and all(is_small(var) for var in node.inputs + node.outputs)


def is_foreign(op: Any) -> bool:
    """Whether the engine does not know `op`, whose Python code may therefore have side effects."""
    return not is_registered(op) and not isinstance(op, (*HOST_OPS, Shape, Shape_i))


def has_effects(op: Any) -> bool:
    """Whether `op` has side effects, see `registry.lower`."""
    return getattr(op, 'in_order', False) or isinstance(op, theano.printing.Print) or is_foreign(op)


def has_python_code(op: Any) -> bool:
    """Whether `op`, or the scalar op of an Elemwise, has Python code."""
    if isinstance(op, elemwise.Elemwise):
        return has_python_code(op.scalar_op)
    if isinstance(op, theano.scalar.Composite):
        return all(has_python_code(inner.op) for inner in op.fgraph.apply_nodes)
    if isinstance(op, theano.scalar.ScalarOp):
        return type(op).impl is not theano.scalar.ScalarOp.impl
    return getattr(type(op), 'perform', PureOp.perform) is not PureOp.perform


def host_function(node: Any) -> Callable[..., tuple]:
    """The Python code of a node's op, as a function from host values to a tuple of host values."""
    if isinstance(node.op, elemwise.Elemwise) and isinstance(node.op.scalar_op, theano.scalar.Cast):
        return host_cast(node.outputs[0].type.dtype)
    if isinstance(node.op, elemwise.Elemwise) and isinstance(node.op.scalar_op, theano.scalar.Pow) \
            and is_whole_number(node.outputs[0]):
        return host_power(node.outputs[0].type.dtype)
    cells = {var: [None] for var in node.inputs + node.outputs}
    node.op.prepare_node(node, cells, None, 'py')
    params = node.run_params()
    if params is not theano.gof.graph.NoParams:
        params = node.params_type.filter(params)

    destroyed = {index for _, index in destroying.pairs(node)}

    def run(*values: Any) -> tuple:
        outputs = [[None] for _ in node.outputs]
        given = [value.copy() if index in destroyed and isinstance(value, np.ndarray) else value
                 for index, value in enumerate(values)]
        arguments = (node, given, outputs)
        node.op.perform(*(arguments if params is theano.gof.graph.NoParams else (*arguments, params)))
        return tuple(as_host(var, cell[0]) for var, cell in zip(node.outputs, outputs, strict=True))
    return run


def host_cast(dtype: str) -> Callable[..., tuple]:
    """A cast like NumPy's: Theano's Python code raises an error for infinite numbers, its C code does not."""
    def run(value: Any) -> tuple:
        with np.errstate(invalid='ignore'):
            return (np.asarray(value).astype(dtype),)
    return run


def host_power(dtype: str) -> Callable[..., tuple]:
    """A power of integers. A negative exponent gives a truncated fraction as in C, where NumPy raises an error."""
    def run(base: Any, exponent: Any) -> tuple:
        with np.errstate(all='ignore'):
            exact = np.power(np.asarray(base, dtype), np.asarray(np.maximum(exponent, 0), dtype))
            fraction = np.power(np.asarray(base, np.float64), exponent).astype(dtype)
        return (np.asarray(np.where(np.less(exponent, 0), fraction, exact)),)
    return run


def once(node: Any, done: dict, function: Callable[..., tuple]) -> Callable[..., tuple]:
    """`function`, the Python code of `node`; if it has side effects, it runs once per call of a Theano function.

    `done` keeps its results until the call ends, because a call that needs another program starts again.
    """
    destroys = any(is_host_type(node.inputs[index]) for _, index in destroying.pairs(node))
    if not has_effects(node.op) and not destroys:
        return function

    def run(*values: Any) -> tuple:
        if node not in done:
            done[node] = function(*values)
        return done[node]
    return run


def remembering(node: Any, function: Callable[..., tuple]) -> Callable[..., tuple]:
    """`function`, the Python code of `node`; for whole numbers, its latest results are remembered.

    These are bounds of minibatches and shapes: dozens of nodes, with the same few values in all calls.
    """
    if not isinstance(node.op, elemwise.Elemwise) or not all(map(is_whole_number, node.inputs + node.outputs)):
        return function
    known: dict[tuple, tuple] = {}

    def run(*values: Any) -> tuple:
        key = tuple([value.item() for value in values])
        if key not in known:
            if len(known) == MAX_REMEMBERED:
                known.clear()
            results = tuple(map(np.array, function(*values)))
            for result in results:
                result.flags.writeable = False      # Callers that pass it on must copy it.
            known[key] = results
        return known[key]
    return run


def is_whole_number(var: Any) -> bool:
    """Whether `var` is a zero-dimensional tensor of integers or booleans."""
    return not is_host_type(var) and var.ndim == 0 and var.dtype in theano.tensor.discrete_dtypes


def as_host(var: Any, value: Any) -> Any:
    """`value` in the form that Theano's NumPy code expects for `var`: an ndarray, a NumPy number, or unchanged."""
    if value is None:
        return None
    if isinstance(var.type, theano.tensor.TensorType):
        return np.asarray(to_numpy(value), dtype=var.type.dtype)
    if isinstance(var.type, theano.scalar.Scalar):
        return np.asarray(to_numpy(value)).astype(var.type.dtype)[()]
    return value


class OnHost:
    """The Python code of a node as a function of tensors; values that are not tensors stay as they are.

    Parameters
    ----------
    node : theano.gof.Apply
    build : theano_torch.trace.Build
    """

    def __init__(self, node: Any, build: Any) -> None:
        self.node, self.device = node, build.device
        self.function = once(node, build.facts.done, host_function(node))

    def __call__(self, *arguments: Any) -> Any:
        values = [as_host(var, value) for var, value in zip(self.node.inputs, arguments, strict=True)]
        if is_foreign(self.node.op):    # It may need memory that NumPy owns: SciPy sets flags of arrays.
            values = [value.copy() if isinstance(value, np.ndarray) else value for value in values]
        results = tuple(value if is_host_type(var) else from_numpy(value.copy(), self.device)
                        for var, value in zip(self.node.outputs, self.function(*values), strict=True))
        return results if len(results) > 1 else results[0]


def on_host(node: Any, build: Any) -> OnHost:
    """See `registry.on_host`. Output shapes may depend on values, and are checked in every call."""
    build.varying = True
    return OnHost(node, build)


def fallback(node: Any, build: Any, error: Exception | None = None) -> Callable:
    """`on_host` with a warning, for nodes without a lowering or without a kernel for their types.

    Raises
    ------
    Exception
        `error`, if the op has no Python code.
    """
    if error is not None and not has_python_code(node.op):
        raise error
    warn_of_host(node)
    build.requested.clear()
    return on_host(node, build)


def warn_of_host(node: Any) -> None:
    """Warn that the op of `node`, or the scalar op of an Elemwise, runs on the host."""
    op = node.op.scalar_op if isinstance(node.op, elemwise.Elemwise) else node.op
    types = ', '.join(dict.fromkeys(str(getattr(var.type, 'dtype', var.type)) for var in node.inputs))
    warn_once(f'theano_torch has no lowering of the op {type(op).__module__}.{type(op).__name__} for inputs of the '
              f'types {types or "()"}: its Python code runs on the host, which is slow')
