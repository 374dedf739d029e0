"""Theano's scalar ops as functions of tensors, for `elemwise`.

Arguments have the common type of the op's inputs and output; `elemwise` converts them, and the result. For the ops in
`TAKE_NUMBERS`, all arguments but one may be Python numbers.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from theano_torch.convert import filled, torch_dtype
from theano_torch.registry import lower_scalar

import numpy as np
import torch
from theano import scalar
from theano.scalar import basic_scipy as special
from theano.tensor import nnet, xlogx
from torch import Tensor

# A tensor or, for ops in `TAKE_NUMBERS`, a number. At least one argument is a tensor, which types cannot express.
Value = Any


def fold(function: Callable) -> Callable:
    """An n-ary function from a binary one."""
    return lambda first, *others: functools.reduce(function, others, first)


def add(first: Value, *others: Value) -> Tensor:
    """Sum of tensors and numbers; overwrites partial sums that already have the final shape."""
    return accumulate(torch.add, torch.Tensor.add_, first, others)


def mul(first: Value, *others: Value) -> Tensor:
    """Product of tensors and numbers, like `add`."""
    return accumulate(torch.mul, torch.Tensor.mul_, first, others)


def accumulate(function: Callable, in_place: Callable, first: Value, others: Sequence[Value]) -> Tensor:
    """Fold `function`, a sum or product of two values, over all values; `in_place` overwrites its first argument."""
    arguments = (first, *others)
    tensors = [value for value in arguments if isinstance(value, torch.Tensor)]
    if len(arguments) == 2:
        return function(first, others[0]) if isinstance(first, torch.Tensor) else function(others[0], first)
    rest = [value for value in arguments if not isinstance(value, torch.Tensor)] + tensors[1:]
    if not rest:
        return first
    result = function(tensors[0], rest[0])
    for value in rest[1:]:
        fits = not isinstance(value, torch.Tensor) or \
            result.dtype == value.dtype and is_broadcast_to(value.shape, result.shape)
        result = in_place(result, value) if fits else function(result, value)
    return result


def is_broadcast_to(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether broadcasting tensors of `shape` and `target` gives the shape `target`.

    `torch.broadcast_shapes` would import SymPy: 32 MB of memory, and a third of a second before the first result.
    """
    return shape == target or len(shape) <= len(target) and \
        all(size in (1, other) for size, other in zip(reversed(shape), reversed(target), strict=False))


def maximum(x: Value, y: Value) -> Tensor:
    """Maximum that propagates NaN, as in NumPy."""
    if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
        return torch.maximum(x, y)
    return torch.clamp(x, min=y) if isinstance(x, torch.Tensor) else torch.clamp(y, min=x)


def minimum(x: Value, y: Value) -> Tensor:
    """Minimum that propagates NaN, as in NumPy."""
    if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
        return torch.minimum(x, y)
    return torch.clamp(x, max=y) if isinstance(x, torch.Tensor) else torch.clamp(y, max=x)


def clip(x: Value, low: Value, high: Value) -> Tensor:
    """Clip; like Theano, test against `low` first, which matters if it is above `high`."""
    if isinstance(x, torch.Tensor) and not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor) \
            and low <= high:
        return torch.clamp(x, low, high)
    like = next(value for value in (x, low, high) if isinstance(value, torch.Tensor))
    x, low, high = (value if isinstance(value, torch.Tensor) else filled(value, like.dtype, like)
                    for value in (x, low, high))
    return torch.where(x < low, low, torch.where(x > high, high, x))


def sgn(x: Tensor) -> Tensor:
    """Sign; propagates NaN."""
    return torch.where(torch.isnan(x), x, torch.sgn(x)) if x.is_floating_point() else torch.sgn(x)


def power(x: Value, y: Value) -> Tensor:
    """Power; squares and cubes are computed as products, which is several times faster."""
    if isinstance(y, float) and y in (2.0, 3.0):
        return torch.square(x) if y == 2.0 else torch.square(x).mul_(x)
    return torch.pow(x, y)


def int_div(x: Value, y: Value) -> Tensor:
    """Division rounded towards minus infinity."""
    return without_zeros(operator.floordiv, x, y)


def mod(x: Value, y: Value) -> Tensor:
    """Remainder with the sign of the divisor."""
    return without_zeros(operator.mod, x, y)


def without_zeros(function: Callable, x: Value, y: Value) -> Tensor:
    """A division; for integers, division by 0 gives 0, as in NumPy."""
    like = y if isinstance(y, torch.Tensor) else x
    if like.is_floating_point() or not isinstance(y, torch.Tensor) and y != 0:
        return function(x, y)
    y = y if isinstance(y, torch.Tensor) else filled(y, like.dtype, like)
    return torch.where(y == 0, 0, function(x, torch.where(y == 0, 1, y)))


def round_half_away(x: Tensor) -> Tensor:
    """Round half away from zero. The fraction is exact, whereas ``x + 0.5`` would be rounded."""
    whole = torch.trunc(x)
    return torch.where(torch.abs(x - whole) >= 0.5, whole + torch.copysign(torch.ones_like(x), x), whole)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); torch's threshold of 20 is too low for float64."""
    return torch.nn.functional.softplus(x, threshold=40)


def ultra_fast_sigmoid(x: Tensor) -> Tensor:
    """Theano's piecewise approximation of the sigmoid; NaN is treated as minus infinity."""
    half = x.abs() * 0.5
    upper = torch.where(half < 1.7, 1.5 * half / (1 + half),
                        torch.where(half < 3, 0.935409070603099 + 0.0458812946797165 * (half - 1.7),
                                    torch.full_like(half, 0.99505475368673)))
    return 0.5 * (torch.where(x >= 0, upper, -upper) + 1)


def gamma(x: Tensor) -> Tensor:
    """The gamma function, in float64; NaN at its poles (negative integers), exact at positive integers."""
    value = x.double()
    whole = torch.floor(value)
    sign = torch.where((value < 0) & (torch.remainder(whole, 2) == 1), -1.0, 1.0)
    result = torch.where((value < 0) & (value == whole), torch.nan, torch.exp(torch.lgamma(value)) * sign)
    known = factorials(x.device)
    is_known = (value == whole) & (value > 0) & (value <= len(known))
    return torch.where(is_known, known[torch.where(is_known, whole - 1, 0).long()], result).to(x.dtype)


@functools.cache
def factorials(device: torch.device) -> Tensor:
    """Factorials of 0, 1, ... 170; larger ones exceed float64."""
    return torch.tensor([float(math.factorial(number)) for number in range(171)], dtype=torch.float64, device=device)


def gamma_upper(k: Tensor, x: Tensor) -> Tensor:
    """Upper incomplete gamma function, not regularised."""
    return torch.special.gammaincc(k, x) * gamma(k)


def gamma_lower(k: Tensor, x: Tensor) -> Tensor:
    """Lower incomplete gamma function, not regularised."""
    return torch.special.gammainc(k, x) * gamma(k)


def tri_gamma(x: Tensor) -> Tensor:
    """Second derivative of the logarithm of the gamma function; infinite at 0 and negative integers."""
    return torch.where((x <= 0) & (x == torch.floor(x)), torch.inf, torch.polygamma(1, x))


def chi2_survival(x: Tensor, k: Tensor) -> Tensor:
    """Probability of values above `x` in a chi-squared distribution with `k` degrees of freedom."""
    return torch.where(k > 0, torch.special.gammaincc(k / 2, torch.clamp(x, min=0) / 2), torch.nan)


def erfcinv(x: Tensor) -> Tensor:
    """Inverse of the complementary error function."""
    return torch.special.ndtri(x * 0.5) * -math.sqrt(0.5)


def scipy_function(name: str) -> Callable[..., Tensor]:
    """A function of SciPy that torch lacks, computed on the host."""
    def run(*args: Tensor) -> Tensor:
        import scipy.special
        result = np.asarray(getattr(scipy.special, name)(*[arg.cpu().numpy() for arg in args]))
        return torch.from_numpy(result).to(args[0].device, args[0].dtype)   # SciPy computes float16 in float32.
    return run


def in_float64(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`function` computed in float64, because torch's overflows for results that still fit float32."""
    return lambda x: function(x.double()).to(x.dtype)


def bessel(function: Callable[[Tensor], Tensor], name: str) -> Callable[[Tensor], Tensor]:
    """A Bessel function; torch's has seven digits, so float64 uses SciPy's."""
    precise = scipy_function(name)
    return lambda x: precise(x) if x.dtype == torch.float64 else function(x)


def imag(x: Tensor) -> Tensor:
    """Imaginary part; works for real numbers, too."""
    return torch.imag(x) if x.is_complex() else torch.zeros_like(x)


def angle(x: Tensor) -> Tensor:
    """0 or pi for real numbers; pi for -0, as in NumPy, where PyTorch returns 0."""
    return torch.atan2(torch.zeros_like(x), x) if x.is_floating_point() else torch.angle(x)


def of_parts(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Make `function`, which combines two real numbers of one type to a complex number, accept all types."""
    def run(x: Tensor, y: Tensor) -> Tensor:
        dtype = torch.float32 if x.dtype == y.dtype == torch.float32 else torch.float64
        return function(x.to(dtype), y.to(dtype))
    return run


def xlogy0(x: Tensor, y: Tensor) -> Tensor:
    """x log(y), and 0 if x is 0, even if y is NaN."""
    return torch.where(x == 0, 0, torch.special.xlogy(x, y))


FUNCTIONS = {
    scalar.Add: add, scalar.Mul: mul, scalar.Sub: operator.sub, scalar.TrueDiv: operator.truediv,
    scalar.IntDiv: int_div, scalar.Mod: mod, scalar.Pow: power,
    scalar.Maximum: maximum, scalar.Minimum: minimum, scalar.Clip: clip,
    scalar.Identity: lambda x: x, scalar.Neg: torch.neg, scalar.Abs: torch.abs, scalar.Sgn: sgn,
    scalar.Sqr: lambda x: x * x, scalar.Sqrt: torch.sqrt, scalar.Inv: torch.reciprocal, scalar.Exp: torch.exp,
    scalar.Exp2: torch.exp2, scalar.Expm1: torch.expm1, scalar.Log: torch.log, scalar.Log2: torch.log2,
    scalar.Log10: torch.log10, scalar.Log1p: torch.log1p, scalar.Ceil: torch.ceil, scalar.Floor: torch.floor,
    scalar.Trunc: torch.trunc, scalar.RoundHalfToEven: torch.round, scalar.RoundHalfAwayFromZero: round_half_away,
    scalar.Sin: torch.sin, scalar.Cos: torch.cos, scalar.Tan: torch.tan, scalar.ArcSin: torch.asin,
    scalar.ArcCos: torch.acos, scalar.ArcTan: torch.atan, scalar.ArcTan2: torch.atan2,
    scalar.Sinh: in_float64(torch.sinh), scalar.Cosh: in_float64(torch.cosh), scalar.Tanh: torch.tanh,
    scalar.ArcSinh: torch.asinh, scalar.ArcCosh: torch.acosh, scalar.ArcTanh: torch.atanh,
    scalar.Deg2Rad: torch.deg2rad, scalar.Rad2Deg: torch.rad2deg, scalar.Real: torch.real, scalar.Imag: imag,
    scalar.Conj: torch.conj_physical,
    scalar.Angle: angle, scalar.Complex: of_parts(torch.complex), scalar.ComplexFromPolar: of_parts(torch.polar),
    scalar.LT: operator.lt, scalar.GT: operator.gt, scalar.LE: operator.le, scalar.GE: operator.ge,
    scalar.EQ: operator.eq, scalar.NEQ: operator.ne, scalar.IsNan: torch.isnan, scalar.IsInf: torch.isinf,
    scalar.AND: fold(operator.and_), scalar.OR: fold(operator.or_), scalar.XOR: fold(operator.xor),
    scalar.Invert: torch.bitwise_not,
    nnet.sigm.ScalarSigmoid: torch.sigmoid, nnet.sigm.ScalarSoftplus: softplus,
    nnet.sigm.UltraFastScalarSigmoid: ultra_fast_sigmoid, nnet.nnet.ScalarSoftsign: torch.nn.functional.softsign,
    xlogx.XlogX: lambda x: torch.special.xlogy(x, x), xlogx.XlogY0: xlogy0,
    special.Erf: torch.erf, special.Erfc: torch.erfc, special.Erfcx: torch.special.erfcx,
    special.Erfinv: torch.erfinv, special.Erfcinv: erfcinv, special.Gamma: gamma, special.GammaLn: torch.lgamma,
    special.Psi: torch.digamma, special.TriGamma: tri_gamma,
    special.Chi2SF: chi2_survival, special.GammaInc: torch.special.gammainc,
    special.GammaIncC: torch.special.gammaincc, special.GammaU: gamma_upper, special.GammaL: gamma_lower,
    special.J0: bessel(torch.special.bessel_j0, 'j0'), special.J1: bessel(torch.special.bessel_j1, 'j1'),
    special.I0: in_float64(torch.special.i0), special.I1: in_float64(torch.special.i1),
    special.Jv: scipy_function('jv'), special.Iv: scipy_function('iv'),
}


def in_parts(function: Callable) -> Callable:
    """A linear function of complex numbers, computed on real and imaginary parts.

    PyTorch computes x + y as x + 1 y and -x as 0 - x, in complex numbers: infinities become NaN, -0 becomes +0.
    """
    return lambda *values: torch.complex(function(*[value.real for value in values]),
                                         function(*[value.imag for value in values]))


LINEAR = {scalar.Add: in_parts(add), scalar.Sub: in_parts(operator.sub), scalar.Neg: in_parts(torch.neg)}

TAKE_NUMBERS = (scalar.Add, scalar.Mul, scalar.Sub, scalar.TrueDiv, scalar.IntDiv, scalar.Mod, scalar.Pow,
                scalar.Maximum, scalar.Minimum, scalar.Clip, scalar.LT, scalar.GT, scalar.LE, scalar.GE, scalar.EQ,
                scalar.NEQ, scalar.Switch, scalar.Second)


for scalar_op, function_of_it in FUNCTIONS.items():
    lower_scalar.register(scalar_op)(lambda op, node, function=function_of_it: function)
for scalar_op, of_parts_of_it in LINEAR.items():
    lower_scalar.register(scalar_op)(
        lambda op, node, function=FUNCTIONS[scalar_op], on_parts=of_parts_of_it:
        on_parts if node.outputs[0].type.dtype.startswith('complex') else function)


@lower_scalar.register(scalar.InRange)
def _(op, node):
    above = operator.gt if op.openlow else operator.ge
    below = operator.lt if op.openhi else operator.le
    return lambda x, low, high: above(x, low) & below(x, high)


@lower_scalar.register(scalar.Cast)
def _(op, node):
    dtype = torch_dtype(op.o_type.dtype)
    if dtype in (torch.uint16, torch.uint32) and node.inputs[0].type.dtype.startswith('float'):
        # As in C; torch's own conversion is right only within the range of the type.
        return lambda x: x.to(torch.int64).to(dtype)
    return lambda x: x.to(dtype)


@lower_scalar.register(scalar.Second)
def _(op, node):
    """Theano's fill: the second value with the shape of the first."""
    dtype = torch_dtype(node.outputs[0].type.dtype)

    def second(like: Value, value: Value) -> Tensor:
        if not isinstance(value, torch.Tensor):
            return torch.full_like(like, value, dtype=dtype)
        return torch.broadcast_tensors(like, value)[1] if isinstance(like, torch.Tensor) else value
    return second


@lower_scalar.register(scalar.Switch)
def _(op, node):
    dtype = torch_dtype(node.outputs[0].type.dtype)

    def switch(condition: Value, then: Value, otherwise: Value) -> Tensor:
        like = next(value for value in (condition, then, otherwise) if isinstance(value, torch.Tensor))
        if not isinstance(condition, torch.Tensor):
            condition = filled(bool(condition), torch.bool, like)
        if condition.dtype != torch.bool:
            condition = condition != 0
        if not isinstance(then, torch.Tensor):
            then = filled(then, dtype, like)
        if not isinstance(otherwise, torch.Tensor):
            otherwise = filled(otherwise, dtype, like)
        return torch.where(condition, then.to(dtype), otherwise.to(dtype))
    return switch
