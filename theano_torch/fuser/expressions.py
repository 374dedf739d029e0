"""Translate element-wise PyTorch calls into Triton expressions.

Only ops that give the same values in both are translated: correctly rounded sums, products, quotients and roots,
comparisons and selections. Exponentials and other functions stay PyTorch calls.
"""

import math
from collections.abc import Callable
from typing import Any

from theano_torch.fuser.recording import Operand

import torch

aten = torch.ops.aten

TYPES = {torch.float16: 'tl.float16', torch.bfloat16: 'tl.bfloat16', torch.float32: 'tl.float32',
         torch.float64: 'tl.float64', torch.int8: 'tl.int8', torch.int16: 'tl.int16', torch.int32: 'tl.int32',
         torch.int64: 'tl.int64', torch.uint8: 'tl.uint8', torch.bool: 'tl.int1'}


def literal(value: float | int | bool, dtype: torch.dtype) -> str:
    """A number as source text, to be converted to `dtype`."""
    if isinstance(value, bool) or not dtype.is_floating_point:
        return str(int(value))
    value = float(value)
    return repr(value) if math.isfinite(value) else f"float('{value}')"


def computing(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which PyTorch's kernels compute a result of `dtype`."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def cast(x: str, source: torch.dtype, target: torch.dtype) -> str:
    """Convert an expression from one dtype to another."""
    return x if source == target else f'({x}).to({TYPES[target]})'


def divided(x: str, y: str, dtype: torch.dtype) -> str:
    return f'tl.div_rn({x}, {y})' if dtype == torch.float32 else f'({x}) / ({y})'


def root(x: str, dtype: torch.dtype) -> str:
    return f'tl.sqrt_rn({x})' if dtype == torch.float32 else f'tl.sqrt({x})'


def scaled(x: str, factor: float, dtype: torch.dtype) -> str:
    return x if factor == 1 else f'({x}) * {literal(factor, dtype)}'


def added(x: str, y: str, dtype: torch.dtype, alpha: float = 1) -> str:
    return f'({x}) + ({scaled(y, alpha, dtype)})'


def subtracted(x: str, y: str, dtype: torch.dtype, alpha: float = 1) -> str:
    return f'({x}) - ({scaled(y, alpha, dtype)})'


def power(x: str, exponent: Any, dtype: torch.dtype) -> str | None:
    """The source of a power with exponent 0.5, 1, 2 or 3; None for other exponents."""
    if not isinstance(exponent, int | float):
        return None
    known: dict[float, str] = {2: f'({x}) * ({x})', 3: f'({x}) * ({x}) * ({x})', 1: x}
    if dtype.is_floating_point:
        known[0.5] = root(x, dtype)
    return known.get(exponent)


def clamped(x: str, dtype: torch.dtype, low: Any = None, high: Any = None) -> str:
    """Clamp to [low, high]; NaN stays NaN."""
    if low is not None:
        x = f'tl.where(({x}) < {literal(low, dtype)}, {literal(low, dtype)}, {x})'
    if high is not None:
        x = f'tl.where(({x}) > {literal(high, dtype)}, {literal(high, dtype)}, {x})'
    return x


def leaky(x: str, dtype: torch.dtype, slope: float = 0.01) -> str:
    return f'tl.where(({x}) > 0, {x}, ({x}) * {literal(slope, dtype)})'


def leaky_gradient(gradient: str, x: str, dtype: torch.dtype, slope: float, _is_result: bool) -> str:
    return f'tl.where(({x}) > 0, {gradient}, ({gradient}) * {literal(slope, dtype)})'


def largest(x: str, y: str, sign: str) -> str:
    """Maximum (`sign` '>') or minimum ('<'); NaN if one of them is NaN."""
    return f'tl.where((({x}) {sign} ({y})) | (({x}) != ({x})), {x}, {y})'


# Op -> function of the source of each operand, the dtype to compute in, and the remaining arguments of the call.
ARITHMETIC: dict[Any, Callable] = {
    aten.add: added, aten.sub: subtracted, aten.rsub: lambda x, y, dtype, alpha=1: subtracted(y, x, dtype, alpha),
    aten.mul: lambda x, y, dtype: f'({x}) * ({y})', aten.neg: lambda x, dtype: f'-({x})',
    aten.square: lambda x, dtype: f'({x}) * ({x})', aten.relu: lambda x, dtype: clamped(x, dtype, 0),
    aten.abs: lambda x, dtype: f'tl.abs({x})', aten.leaky_relu: leaky, aten.leaky_relu_backward: leaky_gradient,
    aten.maximum: lambda x, y, dtype: largest(x, y, '>'), aten.minimum: lambda x, y, dtype: largest(x, y, '<'),
    aten.clamp: clamped,
}
OF_FLOATS: dict[Any, Callable] = {
    aten.div: lambda x, y, dtype: divided(x, y, dtype), aten.sqrt: root,
    aten.reciprocal: lambda x, dtype: divided('1.0', x, dtype),
}
COMPARISONS = {aten.eq: '==', aten.ne: '!=', aten.lt: '<', aten.le: '<=', aten.gt: '>', aten.ge: '>='}
LOGICAL = {aten.bitwise_and: '&', aten.bitwise_or: '|', aten.bitwise_xor: '^', aten.logical_and: '&',
           aten.logical_or: '|'}


def in_place_as_plain(packet: Any) -> Any:
    """The op that is not in place: ``aten.add_`` -> ``aten.add``. Other ops are returned unchanged."""
    name = packet.__name__
    plain = name[:-1] if name.endswith('_') and not name.startswith('_') else name
    return getattr(aten, plain, packet)


def common_type(operands: list) -> torch.dtype:
    """The dtype in which PyTorch compares operands, some of which may be numbers."""
    samples = [torch.empty((1,) * len(value.shape), dtype=value.dtype, device='meta') if isinstance(value, Operand)
               else value for value in operands]
    result: Any = samples[0]
    for other in samples[1:]:
        result = torch.empty((1,) * max(getattr(result, 'ndim', 0), getattr(other, 'ndim', 0)),
                             dtype=torch.result_type(result, other), device='meta')
    return result.dtype


class Expression:
    """The computation of one element of a call's result.

    Attributes
    ----------
    operands : list of (Operand or number)
        Inputs.
    dtype : torch.dtype
        Type of the result.
    compute : torch.dtype
        Type to which operands are converted and in which the result is computed.
    text : callable
        Function from the source of each converted operand to the source of the result.
    is_conversion : bool
        Whether the call only converts to another type.
    """

    def __init__(self, operands: list, dtype: torch.dtype, compute: torch.dtype,
                 text: Callable[[list[str]], str], is_conversion: bool = False) -> None:
        self.operands, self.dtype, self.compute, self.text = operands, dtype, compute, text
        self.is_conversion = is_conversion

    def source(self, names: list[str], operands: list) -> str:
        """The source text; `names` are the registers of `operands`, each in its own dtype."""
        converted = [cast(name, value.dtype, self.compute) if isinstance(value, Operand)
                     else f'tl.full((), {literal(value, self.compute)}, {TYPES[self.compute]})'
                     for name, value in zip(names, operands, strict=True)]
        return cast(self.text(converted), self.compute, self.dtype)


def expression_of(call: Any) -> Expression | None:
    """The expression of an element-wise call; None if the call is not supported."""
    op = in_place_as_plain(call.function.overloadpacket)
    if len(call.outputs) != 1 or call.outputs[0].dtype not in TYPES or any(x.dtype not in TYPES for x in call.reads):
        return None
    dtype = call.outputs[0].dtype
    arguments = list(call.arguments)
    if op is aten.copy:
        return Expression([arguments[1]], dtype, dtype, lambda names: names[0])
    if op is aten.where and len(arguments) == 3:
        return Expression(arguments, dtype, computing(dtype),
                          lambda names: f'tl.where(({names[0]}) != 0, {names[1]}, {names[2]})')
    count = 0
    while count < len(arguments) and is_value(arguments[count]):
        count += 1
    operands, rest = arguments[:count], arguments[count:]
    if op in COMPARISONS and not rest:
        sign = COMPARISONS[op]
        return Expression(operands, dtype, computing(common_type(operands)),
                          lambda names: f'({names[0]}) {sign} ({names[1]})')
    if op in LOGICAL and not rest and (op not in (aten.logical_and, aten.logical_or) or all(
            x.dtype == torch.bool for x in call.reads)):
        sign = LOGICAL[op]
        return Expression(operands, dtype, dtype, lambda names: f'({names[0]}) {sign} ({names[1]})')
    if op is aten.pow:
        exponent = operands[1] if len(operands) == 2 else None
        if not isinstance(operands[0], Operand) or power('x', exponent, dtype) is None:
            return None
        return Expression(operands[:1], dtype, computing(dtype),
                          lambda names: str(power(names[0], exponent, computing(dtype))))
    if op in (aten._to_copy, aten.clone):
        return conversion(call, dtype)
    return arithmetic(op, call, dtype)


def is_value(argument: Any) -> bool:
    return isinstance(argument, Operand | int | float)


def conversion(call: Any, dtype: torch.dtype) -> Expression | None:
    """The expression of a copy or conversion; None if Triton converts differently from PyTorch."""
    is_plain = set(call.options) <= {'dtype', 'memory_format', 'layout', 'device', 'non_blocking'}
    is_moved = call.options.get('device') is not None and torch.device(call.options['device']).type == 'cpu'
    source = call.reads[0].dtype
    if not is_plain or is_moved or dtype == torch.bool and source != torch.bool or \
            source.is_floating_point and not dtype.is_floating_point:
        return None
    return Expression(list(call.arguments[:1]), dtype, dtype, lambda names: names[0], is_conversion=True)


def arithmetic(op: Any, call: Any, dtype: torch.dtype) -> Expression | None:
    """The expression of an op in `ARITHMETIC` or `OF_FLOATS`; None for other ops."""
    function = ARITHMETIC.get(op)
    if function is None and dtype.is_floating_point and 'rounding_mode' not in call.options:
        function = OF_FLOATS.get(op)
    if function is None or dtype == torch.bool:
        return None
    compute = computing(dtype)
    num_operands = {aten.leaky_relu: 1, aten.clamp: 1, aten.leaky_relu_backward: 2}.get(op, len(call.arguments))
    operands, rest = list(call.arguments[:num_operands]), call.arguments[num_operands:]
    if not all(map(is_value, operands)) or not all(value is None or isinstance(value, int | float) for value in rest):
        return None
    options = dict(call.options)
    return Expression(operands, dtype, compute, lambda names: function(*names, compute, *rest, **options))
