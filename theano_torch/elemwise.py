"""Element-wise ops and reductions."""

import functools
import operator

import torch
from theano import scalar
from theano.tensor import nnet
from theano.tensor.elemwise import CAReduce, DimShuffle, Elemwise

from theano_torch.registry import lower, lower_scalar


def torch_dtype(name):
    """'float32' -> torch.float32."""
    return getattr(torch, name)


def fold(function):
    """An n-ary function out of a binary one."""
    return lambda first, *others: functools.reduce(function, others, first)


def tensor_first(function):
    """For functions of torch that take no Python number in some places: numbers become 0-d tensors."""
    def run(*args):
        like = next(arg for arg in args if isinstance(arg, torch.Tensor))
        return function(*[arg if isinstance(arg, torch.Tensor) else torch.tensor(arg, dtype=like.dtype, device=like.device)
                          for arg in args])
    return run


def add(x, y):
    return torch.add(x, y) if isinstance(x, torch.Tensor) else torch.add(y, x)


def mul(x, y):
    return torch.mul(x, y) if isinstance(x, torch.Tensor) else torch.mul(y, x)


def mod(x, y):
    """Python's and Theano's sign rule: that of the divisor."""
    return torch.remainder(x, y)


# Scalar op class -> function of tensors (all but one may be Python numbers).
FUNCTIONS = {
    scalar.Add: fold(add), scalar.Mul: fold(mul), scalar.Sub: operator.sub, scalar.TrueDiv: operator.truediv,
    scalar.IntDiv: operator.floordiv, scalar.Mod: mod, scalar.Pow: operator.pow,
    scalar.Maximum: tensor_first(torch.maximum), scalar.Minimum: tensor_first(torch.minimum),
    scalar.Clip: tensor_first(lambda x, low, high: torch.minimum(torch.maximum(x, low), high)),
    scalar.Identity: lambda x: x, scalar.Neg: torch.neg, scalar.Abs: torch.abs, scalar.Sgn: torch.sgn,
    scalar.Sqr: torch.square, scalar.Sqrt: torch.sqrt, scalar.Inv: torch.reciprocal, scalar.Exp: torch.exp,
    scalar.Exp2: torch.exp2, scalar.Expm1: torch.expm1, scalar.Log: torch.log, scalar.Log2: torch.log2,
    scalar.Log10: torch.log10, scalar.Log1p: torch.log1p, scalar.Ceil: torch.ceil, scalar.Floor: torch.floor,
    scalar.Trunc: torch.trunc, scalar.RoundHalfToEven: torch.round,
    scalar.RoundHalfAwayFromZero: lambda x: torch.sign(x) * torch.floor(torch.abs(x) + 0.5),
    scalar.Sin: torch.sin, scalar.Cos: torch.cos, scalar.Tan: torch.tan, scalar.ArcSin: torch.asin,
    scalar.ArcCos: torch.acos, scalar.ArcTan: torch.atan, scalar.ArcTan2: tensor_first(torch.atan2),
    scalar.Sinh: torch.sinh, scalar.Cosh: torch.cosh, scalar.Tanh: torch.tanh, scalar.ArcSinh: torch.asinh,
    scalar.ArcCosh: torch.acosh, scalar.ArcTanh: torch.atanh,
    scalar.Deg2Rad: torch.deg2rad, scalar.Rad2Deg: torch.rad2deg,
    scalar.LT: operator.lt, scalar.GT: operator.gt, scalar.LE: operator.le, scalar.GE: operator.ge,
    scalar.EQ: operator.eq, scalar.NEQ: operator.ne, scalar.IsNan: torch.isnan, scalar.IsInf: torch.isinf,
    scalar.AND: fold(operator.and_), scalar.OR: fold(operator.or_), scalar.XOR: fold(operator.xor),
    scalar.Invert: torch.bitwise_not,
    nnet.sigm.ScalarSigmoid: torch.sigmoid, nnet.sigm.ScalarSoftplus: lambda x: torch.nn.functional.softplus(x),
    scalar.basic_scipy.Erf: torch.erf, scalar.basic_scipy.Erfc: torch.erfc, scalar.basic_scipy.Erfinv: torch.erfinv,
    scalar.basic_scipy.GammaLn: torch.lgamma, scalar.basic_scipy.Psi: torch.digamma,
}
# These look at their inputs in the inputs' common type; the others compute in the type of the output.
INPUT_TYPED = (scalar.LT, scalar.GT, scalar.LE, scalar.GE, scalar.EQ, scalar.NEQ, scalar.IsNan, scalar.IsInf)


def register_functions():
    for scalar_op, function in FUNCTIONS.items():
        lower_scalar.register(scalar_op)(lambda op, node, function=function: function)


register_functions()


@lower_scalar.register(scalar.Cast)
def _(op, node):
    dtype = torch_dtype(op.o_type.dtype)
    return lambda x: x.to(dtype)


@lower_scalar.register(scalar.Second)
def _(op, node):
    """Theano's fill: the second value in the shape of the first."""
    def second(shaped, value):
        like = shaped if isinstance(shaped, torch.Tensor) else value
        if not isinstance(value, torch.Tensor):
            return torch.full_like(like, value)
        return value.expand(torch.broadcast_shapes(like.shape, value.shape))
    return second


@lower_scalar.register(scalar.Switch)
def _(op, node):
    dtype = torch_dtype(node.outputs[0].type.dtype)

    def switch(condition, then, otherwise):
        if not isinstance(condition, torch.Tensor):
            like = then if isinstance(then, torch.Tensor) else otherwise
            condition = torch.tensor(bool(condition), device=like.device)
        if not isinstance(then, torch.Tensor) and not isinstance(otherwise, torch.Tensor):
            then = torch.tensor(then, dtype=dtype, device=condition.device)
        return torch.where(condition != 0 if condition.dtype != torch.bool else condition, then, otherwise)
    return switch


@lower_scalar.register(scalar.Composite)
def _(op, node):
    """A scalar graph inside one op: run it step by step on whole tensors."""
    order = op.fgraph.toposort()
    functions = [typed(lower_scalar(inner.op, inner), inner.op, inner) for inner in order]

    def composite(*args):
        values = dict(zip(op.fgraph.inputs, args, strict=True))
        for inner, function in zip(order, functions, strict=True):
            inputs = [values[var] if var in values else var.data.item() for var in inner.inputs]
            values[inner.outputs[0]] = function(*inputs)
        outputs = tuple(values[var] for var in op.fgraph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs
    return composite


def typed(function, scalar_op, node):
    """`function` with its arguments cast as Theano's type rules say and its result in the output's type."""
    wanted = torch_dtype(node.outputs[0].type.dtype)
    compute = wanted
    if isinstance(scalar_op, INPUT_TYPED):
        compute = torch_dtype(scalar.upcast(*[var.type.dtype for var in node.inputs]))
    if isinstance(scalar_op, scalar.Composite | scalar.Cast | scalar.Second | scalar.Switch):
        compute = None
    if compute is not None and all(var.type.dtype == str(compute)[6:] for var in node.inputs):
        compute = None      # Nothing to cast.
    exact = compute is None and node.outputs[0].type.dtype == node.inputs[0].type.dtype

    def run(*args):
        if compute is not None:
            args = [arg.to(compute) if isinstance(arg, torch.Tensor) else arg for arg in args]
        result = function(*args)
        return result if result.dtype == wanted else result.to(wanted)
    return function if exact and not isinstance(scalar_op, scalar.Switch | scalar.Second) else run


@lower.register(Elemwise)
def _(op, node, build):
    """Broadcasting is torch's own; host values with one element become Python numbers."""
    if len(node.outputs) > 1 and not isinstance(op.scalar_op, scalar.Composite):
        raise TypeError('Elemwise with %d outputs: %s' % (len(node.outputs), op))
    function = typed(lower_scalar(op.scalar_op, node), op.scalar_op, node)
    numbers = [build.number(var) for var in node.inputs]
    if all(number is not None for number in numbers):
        numbers = [None] * len(numbers)
    if all(number is None for number in numbers):
        return function
    if len(numbers) == 2:
        if numbers[0] is None:
            right = numbers[1]
            return lambda x, _: function(x, right)
        left = numbers[0]
        return lambda _, y: function(left, y)
    return lambda *tensors: function(*[tensor if number is None else number
                                       for tensor, number in zip(tensors, numbers, strict=True)])


@lower.register(DimShuffle)
def _(op, node, build):
    kept, order = list(op.shuffle), list(op.new_order)
    dropped, ndim = list(op.drop), node.inputs[0].ndim
    permuted = kept + dropped
    is_identity = permuted == list(range(ndim))
    augmented = [position for position, axis in enumerate(order) if axis == 'x']

    def dimshuffle(x):
        if not is_identity:
            x = x.permute(permuted)
        if dropped:
            x = x.reshape(x.shape[:len(kept)])
        for position in augmented:
            x = x.unsqueeze(position)
        return x
    return dimshuffle


@lower.register(CAReduce)
def _(op, node, build):
    """Sum, Prod, Max, Min, All, Any over some or all axes."""
    dtype = torch_dtype(node.outputs[0].type.dtype)
    ndim = node.inputs[0].ndim
    axes = list(range(ndim)) if op.axis is None else sorted(op.axis if isinstance(op.axis, tuple | list) else [op.axis])
    acc = getattr(op, 'acc_dtype', None)
    acc = torch_dtype(acc) if acc else None
    scalar_op = op.scalar_op
    if isinstance(scalar_op, scalar.Add):
        def reduce(x):
            return torch.sum(x, dim=axes, dtype=acc) if axes else x
    elif isinstance(scalar_op, scalar.Mul):
        def reduce(x):
            for axis in reversed(axes):
                x = torch.prod(x, dim=axis, dtype=acc)
            return x
    elif isinstance(scalar_op, scalar.Maximum):
        def reduce(x):
            return torch.amax(x, dim=axes) if axes else x
    elif isinstance(scalar_op, scalar.Minimum):
        def reduce(x):
            return torch.amin(x, dim=axes) if axes else x
    elif isinstance(scalar_op, scalar.AND):
        def reduce(x):
            for axis in reversed(axes):
                x = torch.all(x, dim=axis)
            return x
    elif isinstance(scalar_op, scalar.OR):
        def reduce(x):
            for axis in reversed(axes):
                x = torch.any(x, dim=axis)
            return x
    else:
        raise TypeError('reduction by %s' % scalar_op)
    return lambda x: reduce(x).to(dtype)
