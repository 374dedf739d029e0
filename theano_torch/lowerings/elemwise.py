"""Element-wise ops, reductions and permuted dimensions."""

from collections.abc import Callable, Sequence
from typing import Any

from theano_torch.convert import computing_dtype, filled, torch_dtype
from theano_torch.lowerings.scalars import TAKE_NUMBERS, Value
from theano_torch.lowerings.tensors import check_not_empty
from theano_torch.registry import lower, lower_scalar
from theano_torch.trace import Build

import torch
from theano import scalar
from theano.tensor import elemwise
from torch import Tensor

# These convert their arguments themselves.
UNTYPED = (scalar.Cast, scalar.Second, scalar.Switch, scalar.Composite, scalar.Complex, scalar.ComplexFromPolar)


def typed(node: Any, op: Any) -> Callable:
    """A function of tensors that computes the scalar op of `node` with Theano's types.

    It computes in the common type of inputs and output, which Python numbers among its arguments do not change.
    """
    function = lower_scalar(op, node)
    if isinstance(op, scalar.Composite):
        return function
    wanted = node.outputs[0].type.dtype
    common = scalar.upcast(wanted, *[var.type.dtype for var in node.inputs])
    dtype, compute = torch_dtype(wanted), computing_dtype(common)
    casts = not isinstance(op, UNTYPED) and any(torch_dtype(var.type.dtype) != compute for var in node.inputs)

    is_whole = not compute.is_floating_point and not compute.is_complex

    def run(*args: Any) -> Tensor:
        arguments = [arg.to(compute) if isinstance(arg, torch.Tensor) else arg for arg in args] if casts else args
        result = function(*arguments)
        if is_whole and result.dtype.is_floating_point:
            # For example the sine of an integer, as an integer: C computes with doubles, torch with float32.
            result = function(*[arg.double() if isinstance(arg, torch.Tensor) else arg for arg in arguments])
        return result if result.dtype == dtype else result.to(dtype)
    if not casts and dtype == compute and not is_whole and not isinstance(op, UNTYPED):
        return function
    return run


@lower_scalar.register(scalar.Composite)
def _(op, node):
    """A graph of scalar ops within one op, run op by op on whole tensors."""
    order = op.fgraph.toposort()
    functions = [typed(inner, inner.op) for inner in order]
    outputs, inputs = op.fgraph.outputs, op.fgraph.inputs

    def composite(*args: Any) -> Tensor | tuple[Tensor, ...]:
        like = next(arg for arg in args if isinstance(arg, torch.Tensor))
        values = dict(zip(inputs, args, strict=True))
        for inner, function in zip(order, functions, strict=True):
            arguments = [constant(var, like, inner.op) if isinstance(var, scalar.ScalarConstant) else values[var]
                         for var in inner.inputs]
            if not any(isinstance(value, torch.Tensor) for value in arguments):
                arguments = [filled(value, torch_dtype(var.type.dtype), like)
                             for value, var in zip(arguments, inner.inputs, strict=True)]
            values[inner.outputs[0]] = function(*arguments)
        results = tuple(values[var] if var in values else constant(var, like, None) for var in outputs)
        return results[0] if len(results) == 1 else results
    return composite


def constant(var: Any, like: Tensor, op: Any) -> Value:
    """A constant inside a Composite for the scalar op `op`."""
    if isinstance(op, TAKE_NUMBERS):
        return var.data.item()
    return filled(var.data.item(), torch_dtype(var.type.dtype), like)


def check_shapes(node: Any, build: Build) -> None:
    """Raise ValueError for sizes of 1 that Theano does not broadcast: those unknown when the graph is compiled."""
    for axis in range(node.outputs[0].ndim):
        sizes = {build.shape(var)[axis] for var in node.inputs if not var.type.broadcastable[axis]}
        if len(sizes) > 1:
            raise ValueError(f'Input dimension mis-match: inputs have sizes {sorted(sizes)} along axis {axis}')


@lower.register(elemwise.Elemwise)
def _(op, node, build):
    """Torch broadcasts; single elements known on the host become Python numbers."""
    check_shapes(node, build)
    function = typed(node, op.scalar_op)
    if not isinstance(op.scalar_op, TAKE_NUMBERS):
        return function
    numbers = [build.number(var) for var in node.inputs]
    if all(number is not None for number in numbers):
        numbers[0] = None
    variables = [var for var, number in zip(node.inputs, numbers, strict=True) if number is None]
    if len(variables) == len(numbers):
        return function
    return with_numbers(function, numbers), variables


def with_numbers(function: Callable, numbers: Sequence) -> Callable:
    """`function` with fixed values for those arguments that are not None in `numbers`."""
    if len(numbers) == 2 and numbers[0] is None:
        number = numbers[1]
        return lambda x: function(x, number)
    if len(numbers) == 2:
        number = numbers[0]
        return lambda y: function(number, y)

    def run(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        return function(*[next(rest) if number is None else number for number in numbers])
    return run


@lower.register(elemwise.DimShuffle)
def _(op, node, build):
    """Permutes, drops and inserts dimensions: a view."""
    kept, shape = list(op.shuffle), build.shape(node.inputs[0])
    if any(shape[axis] != 1 for axis in op.drop):
        raise ValueError(f'DimShuffle drops axes {op.drop} of shape {shape}: only axes of size 1 can be dropped')
    target = [1 if axis == 'x' else shape[axis] for axis in op.new_order]
    if kept == sorted(kept):
        return lambda x: x.reshape(target)
    permutation = kept + list(op.drop)
    return lambda x: x.permute(permutation).reshape(target)


# ----------------------------------------------------------------------------------------------------------------------
# Reductions.


@lower.register(elemwise.CAReduce)
def _(op, node, build):
    """Sum, product, extrema and so on over some or all axes. Sums and products accumulate in the op's `acc_dtype`."""
    dtype = torch_dtype(node.outputs[0].type.dtype)
    ndim = node.inputs[0].ndim
    axes = list(range(ndim)) if op.axis is None else sorted(axis % ndim for axis in op.axis)
    if not axes:
        return lambda x: x.to(dtype)
    shape = build.shape(node.inputs[0])
    same_type = node.inputs[0].type.dtype == node.outputs[0].type.dtype
    compute = computing_dtype(getattr(op, 'acc_dtype', None) or node.outputs[0].type.dtype)
    if isinstance(op.scalar_op, scalar.Add):
        if all(shape[axis] == 1 for axis in axes) and same_type:
            kept = [size for axis, size in enumerate(shape) if axis not in axes]
            return lambda x: x.reshape(kept)
        return lambda x: torch.sum(x, dim=axes, dtype=compute).to(dtype)
    if isinstance(op.scalar_op, scalar.Maximum | scalar.Minimum):
        check_not_empty(op, shape, axes)
    if isinstance(op.scalar_op, scalar.Maximum):
        return lambda x: torch.amax(x.to(compute), dim=axes).to(dtype)
    if isinstance(op.scalar_op, scalar.Minimum):
        return lambda x: torch.amin(x.to(compute), dim=axes).to(dtype)
    if isinstance(op.scalar_op, scalar.Mul):
        def reduce(x: Tensor) -> Tensor:
            for axis in reversed(axes):
                x = torch.prod(x, dim=axis, dtype=compute)
            return x.to(dtype)
        return reduce
    if isinstance(op.scalar_op, scalar.AND | scalar.OR) and node.inputs[0].type.dtype == 'bool':
        function = torch.all if isinstance(op.scalar_op, scalar.AND) else torch.any
        return lambda x: function(x, dim=axes)
    return by_halves(op, node, axes, dtype)


def by_halves(op: Any, node: Any, axes: Sequence[int], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A reduction that torch lacks, for example a bitwise one: combine halves until one element is left."""
    function = lower_scalar(op.scalar_op, node)
    identity = getattr(op.scalar_op, 'identity', None)

    def reduce(x: Tensor) -> Tensor:
        x = x.to(dtype)
        for axis in reversed(axes):
            x = x.movedim(axis, 0)
            if x.shape[0] == 0:
                if identity is None:
                    raise ValueError(f'{op} over an axis of size 0 has no identity')
                x = torch.full((1, *x.shape[1:]), identity, dtype=dtype, device=x.device)
            while x.shape[0] > 1:
                half = x.shape[0] // 2
                x = torch.cat([function(x[:half], x[half:2 * half]).to(dtype), x[2 * half:]])
            x = x[0]
        return x
    return reduce


@lower_scalar.register(elemwise.MulWithoutZeros)
def _(op, node):
    return lambda x, y: torch.where(x == 0, y, torch.where(y == 0, x, x * y))
