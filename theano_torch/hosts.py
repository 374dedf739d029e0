"""Values on the host: shapes, indices and what is computed from them, by the NumPy code of Theano's ops."""

from collections.abc import Callable
from typing import Any

from theano_torch.convert import from_numpy, to_numpy

import numpy as np
import theano
from theano.tensor import basic, elemwise, opt, subtensor, type_other

# Ops that work on small things known on the host with NumPy instead of launching device work.
HOST_OPS = (elemwise.Elemwise, elemwise.DimShuffle, elemwise.CAReduce, opt.MakeVector, opt.Assert, subtensor.Subtensor,
            subtensor.IncSubtensor, subtensor.AdvancedSubtensor1, basic.Join, basic.Split, basic.ScalarFromTensor,
            basic.TensorFromScalar, basic.Reshape, basic.ARange, basic.Alloc, theano.compile.ops.Rebroadcast,
            theano.compile.ops.ViewOp, theano.compile.ops.DeepCopyOp, theano.scalar.ScalarOp, type_other.MakeSlice)


def is_host_type(var: Any) -> bool:
    """Whether values of `var` never are tensors: Theano scalars, slices, random states, None."""
    return not isinstance(var.type, theano.tensor.TensorType)


def is_small(var: Any) -> bool:
    """Whether `var` is a scalar, a vector, or a scalar in more dimensions: the sizes of shape arithmetic."""
    return is_host_type(var) or var.ndim <= 1 or all(var.broadcastable)


def runs_on_host(node: Any) -> bool:
    """Whether `node` runs with NumPy if all of its inputs are known on the host."""
    if not isinstance(node.op, theano.gof.Op):
        return False        # Has no `perform`, as loops have none.
    if any(is_host_type(var) for var in node.outputs):
        return True
    return isinstance(node.op, HOST_OPS) and all(is_small(var) for var in node.inputs + node.outputs)


def host_function(node: Any) -> Callable[..., tuple]:
    """The Python code of the node's op as a function from host values to a tuple of host values."""
    cells = {var: [None] for var in node.inputs + node.outputs}
    node.op.prepare_node(node, cells, None, 'py')
    params = node.run_params()

    def run(*values: Any) -> tuple:
        outputs = [[None] for _ in node.outputs]
        arguments = (node, list(values), outputs)
        node.op.perform(*(arguments if params is theano.gof.graph.NoParams else (*arguments, params)))
        return tuple(as_host(var, cell[0]) for var, cell in zip(node.outputs, outputs, strict=True))
    return run


def as_host(var: Any, value: Any) -> Any:
    """`value` in the form that Theano's NumPy code expects for `var`: an ndarray, a NumPy number, or as it is."""
    if isinstance(var.type, theano.tensor.TensorType):
        return np.asarray(to_numpy(value), dtype=var.type.dtype)
    if isinstance(var.type, theano.scalar.Scalar):
        return np.asarray(to_numpy(value)).astype(var.type.dtype)[()]
    return value


def on_host(op: Any, node: Any, build: Any) -> Callable:
    """See `registry.on_host`. Output shapes may depend on values: they are checked on every call."""
    build.varying = True
    function, device = host_function(node), build.device

    def run(*tensors: Any) -> Any:
        values = [as_host(var, value) for var, value in zip(node.inputs, tensors, strict=True)]
        results = tuple(value if is_host_type(var) else from_numpy(value.copy(), device)
                        for var, value in zip(node.outputs, function(*values), strict=True))
        return results if len(results) > 1 else results[0]
    return run
