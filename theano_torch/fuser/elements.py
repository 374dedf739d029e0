"""The calls that a fused kernel can compute: element-wise ops, sums, average pooling, nearest-neighbour upscaling."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from theano_torch.fuser.expressions import TYPES, Expression, computing, expression_of
from theano_torch.fuser.recording import Call, Operand, Version

import torch

aten = torch.ops.aten

MAP, SUM, POOL, UPSCALE = 'map', 'sum', 'pool', 'upscale'
MAX_FACTOR = 4      # Fine pixels per coarse pixel.

Shape = tuple[int, ...]


@dataclasses.dataclass(eq=False)
class Element:
    """A call that a fused kernel can compute.

    Attributes
    ----------
    index : int
        Position of the call in the program.
    kind : {'map', 'sum', 'pool', 'upscale'}
    operands : list of (Operand or number)
        Inputs, with as many dimensions as `output`.
    output : Operand
        The result. A sum keeps the summed dimensions, with size 1.
    expression : Expression
        The computation of a map; for other kinds, only its types matter.
    shape : tuple of int
        Shape of the result; for sums, shape of the operand.
    axes : frozenset of int
        Dimensions that are summed over and have more than one element.
    """

    index: int
    kind: str
    operands: list
    output: Operand
    expression: Expression
    shape: Shape
    axes: frozenset[int] = frozenset()

    @property
    def version(self) -> Version:
        """The version that the element makes."""
        return self.output.version

    @property
    def reads(self) -> list[Operand]:
        return [value for value in self.operands if isinstance(value, Operand)]

    @property
    def levels(self) -> tuple[Shape, Shape | None]:
        """(shape of the coarse images, shape of the fine images or None)"""
        if self.kind == POOL:
            return self.output.shape, self.reads[0].shape
        if self.kind == UPSCALE:
            return self.reads[0].shape, self.output.shape
        return self.shape, None

    def with_dimensions(self, positions: Sequence[int], ndim: int) -> 'Element':
        """The same element, viewed with `ndim` dimensions; dimension k becomes dimension ``positions[k]``."""
        def seen(operand: Any) -> Any:
            return spread(operand, positions, ndim) if isinstance(operand, Operand) else operand
        shape = [1] * ndim
        for place, size in zip(positions, self.shape, strict=True):
            shape[place] = size
        return dataclasses.replace(self, operands=list(map(seen, self.operands)), output=seen(self.output),
                                   shape=tuple(shape), axes=frozenset(positions[axis] for axis in self.axes))


def spread(operand: Operand, positions: Sequence[int], ndim: int) -> Operand:
    """View an operand with `ndim` dimensions: dimension k becomes ``positions[k]``, the others have size 1."""
    shape, strides = [1] * ndim, [0] * ndim
    for place, size, step in zip(positions, operand.shape, operand.strides, strict=True):
        shape[place], strides[place] = size, step
    return operand._replace(shape=tuple(shape), strides=tuple(strides))


def broadcast(operand: Operand, shape: Shape) -> Operand:
    """View an operand with as many dimensions as `shape`; new ones come first. Dimensions of size 1 get stride 0."""
    operand = spread(operand, range(len(shape) - len(operand.shape), len(shape)), len(shape))
    return operand._replace(strides=tuple(0 if size == 1 else step
                                          for size, step in zip(operand.shape, operand.strides, strict=True)))


def element_of(index: int, call: Call, sizes: dict[int, int]) -> Element | None:
    """Describe a call as an `Element`; None if a kernel cannot compute it.

    Parameters
    ----------
    index : int
        Position of the call in the program.
    call : Call
    sizes : dict
        See `recording.Recorder`. Calls that write to memory outside the program are not elements.
    """
    outputs = call.outputs
    if len(outputs) != 1 or len(call.made) != 1:
        return None
    output = outputs[0]
    if output.version not in call.made or output.version.memory not in sizes or not output.shape and call.written or \
            not output.is_whole(sizes[output.version.memory]) or 0 in output.shape:
        return None
    packet = call.function.overloadpacket
    if packet is aten.sum:
        return sum_of(index, call, output)
    if packet is aten.avg_pool2d or packet is aten.upsample_nearest2d:
        return resampling(index, call, output)
    expression = flipped(call, output) if packet is aten.flip else expression_of(call)
    if expression is None or not any(isinstance(value, Operand) for value in expression.operands):
        return None
    if output.dtype not in TYPES:
        return None
    operands = [broadcast(value, output.shape) if isinstance(value, Operand) else value
                for value in expression.operands]
    return Element(index, MAP, operands, broadcast(output, output.shape), expression, output.shape)


def plain(operand: Operand, compute: torch.dtype) -> Expression:
    """An expression that only specifies types."""
    return Expression([operand], operand.dtype, compute, lambda names: names[0])


def flipped(call: Call, output: Operand) -> Expression:
    """The expression of a flip: a view of the operand with negative strides."""
    operand, axes = call.arguments
    strides, offset = list(operand.strides), operand.offset
    for axis in axes:
        offset += strides[axis] * (operand.shape[axis] - 1)
        strides[axis] = -strides[axis]
    return plain(operand._replace(strides=tuple(strides), offset=offset), output.dtype)


def sum_of(index: int, call: Call, output: Operand) -> Element | None:
    """The element of a sum; None if its types are not supported or it sums over single elements only."""
    operand = call.arguments[0]
    ndim = len(operand.shape)
    axes = call.arguments[1] if len(call.arguments) > 1 and call.arguments[1] else range(ndim)
    axes = {axis % ndim for axis in axes} if ndim else set()
    if not axes or not output.dtype.is_floating_point or output.dtype not in TYPES or operand.dtype not in TYPES:
        return None
    kept = [axis for axis in range(ndim) if axis not in axes]
    if len(output.shape) == ndim:
        kept = list(range(ndim))
    result = broadcast(spread(output, kept, ndim), output.shape if len(output.shape) == ndim else (1,) * ndim)
    summed = frozenset(axis for axis in axes if operand.shape[axis] > 1)
    if not summed:
        return None
    return Element(index, SUM, [broadcast(operand, operand.shape)], result, plain(output, computing(output.dtype)),
                   operand.shape, summed)


def resampling(index: int, call: Call, output: Operand) -> Element | None:
    """The element of an average pooling or a nearest-neighbour upscaling; None if it is not supported."""
    operand = call.arguments[0]
    is_pool = call.function.overloadpacket is aten.avg_pool2d
    coarse, fine = (output, operand) if is_pool else (operand, output)
    factors = [large // small for large, small in zip(fine.shape, coarse.shape, strict=True)]
    if len(fine.shape) != 4 or tuple(n * k for n, k in zip(coarse.shape, factors, strict=True)) != fine.shape or \
            math.prod(factors) not in range(2, MAX_FACTOR + 1) or factors[:2] != [1, 1] or \
            operand.dtype != output.dtype or operand.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    if is_pool and not tiles(call, factors[2:]):
        return None
    return Element(index, POOL if is_pool else UPSCALE, [broadcast(operand, operand.shape)],
                   broadcast(output, output.shape), plain(output, torch.float32), output.shape)


def tiles(call: Call, factors: Sequence[int]) -> bool:
    """Whether a pooling call averages over adjacent tiles of the size `factors`, without padding."""
    names = [argument.name for argument in call.function._schema.arguments]
    given = {**dict(zip(names, call.arguments, strict=False)), **call.options}
    stride = given.get('stride') or given['kernel_size']
    return list(given['kernel_size']) == list(stride) == list(factors) and not any(given.get('padding', [0])) and \
        not given.get('ceil_mode', False) and given.get('divisor_override') is None
