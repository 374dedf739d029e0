"""Creation, joining, reshaping, sorting and conversion of tensors."""

from collections.abc import Sequence
from typing import Any

from theano_torch.convert import from_numpy, to_numpy, torch_dtype
from theano_torch.registry import lower, on_host
from theano_torch.trace import Build

import numpy as np
import torch
from theano import printing
from theano.compile.ops import (
    DeepCopyOp,
    FromFunctionOp,
    OutputGuard,
    Rebroadcast,
    Shape,
    Shape_i,
    SpecifyShape,
    ViewOp,
)
from theano.gradient import ZeroGrad
from theano.ifelse import IfElse
from theano.sandbox import multinomial, rng_mrg
from theano.tensor import basic, extra_ops, fft, nlinalg, opt, slinalg
from theano.tensor.nnet import conv, neighbours
from theano.tensor.sort import ArgSortOp, SortOp, TopKOp
from torch import Tensor

# Rare ops, and ops that must run on the host.
for op_class in (extra_ops.Bartlett, extra_ops.FillDiagonal, extra_ops.FillDiagonalOffset, extra_ops.SearchsortedOp,
                 extra_ops.Unique, extra_ops.UnravelIndex, extra_ops.RavelMultiIndex, extra_ops.DiffOp,
                 basic.PermuteRowElements, basic.Choose, basic.Tri, basic.Default,
                 nlinalg.MatrixPinv, nlinalg.MatrixInverse, nlinalg.Det, nlinalg.Eig, nlinalg.Eigh, nlinalg.EighGrad,
                 nlinalg.QRFull, nlinalg.QRIncomplete, nlinalg.SVD, nlinalg.lstsq, nlinalg.TensorInv,
                 nlinalg.TensorSolve, nlinalg.AllocDiag, slinalg.Cholesky, slinalg.CholeskyGrad, slinalg.Solve,
                 slinalg.Eigvalsh, slinalg.EigvalshGrad, slinalg.Expm, slinalg.ExpmGrad, fft.RFFTOp, fft.IRFFTOp,
                 conv.ConvOp, neighbours.Images2Neibs, printing.Print, FromFunctionOp, rng_mrg.DotModulo,
                 multinomial.MultinomialFromUniform, multinomial.ChoiceFromUniform):
    lower.register(op_class)(on_host)


@lower.register(DeepCopyOp)
def _(op, node, build):
    return lambda x: x.clone() if isinstance(x, torch.Tensor) else x


@lower.register(ViewOp)
@lower.register(OutputGuard)
@lower.register(basic.TensorFromScalar)
def _(op, node, build):
    return lambda x: x


@lower.register(ZeroGrad)
def _(op, node, build):
    return lambda x: x


@lower.register(extra_ops.CpuContiguous)
def _(op, node, build):
    return lambda x: x.contiguous()


@lower.register(Rebroadcast)
def _(op, node, build):
    shape = build.shape(node.inputs[0])
    for axis, broadcastable in op.axis.items():
        if broadcastable and shape[axis] != 1:
            raise ValueError(f'Dimension {axis} in Rebroadcast\'s input was supposed to be 1 (got {shape[axis]} '
                             'instead)')
    return lambda x: x


@lower.register(opt.Assert)
def _(op, node, build):
    unknown = [var for var in node.inputs[1:] if not build.is_static(var)]
    if not all(np.all(build.host(var)) for var in node.inputs[1:] if build.is_static(var)):
        raise AssertionError(op.msg)

    def check(value: Tensor, *conditions: Tensor) -> Tensor:
        if not all(bool(condition.all()) for condition in conditions):
            raise AssertionError(op.msg)
        return value
    return check, [node.inputs[0], *unknown]


@lower.register(SpecifyShape)
def _(op, node, build):
    expected, shape = tuple(build.integers(node.inputs[1])), build.shape(node.inputs[0])
    if shape != expected:
        raise AssertionError(f'SpecifyShape: got shape {shape}, expected {expected}')
    return lambda x: x, node.inputs[:1]


@lower.register(IfElse)
def _(op, node, build):
    """For functions that are not lazy, see `trace.Tracer`: both branches are already computed."""
    build.varying = True
    count = op.n_outs

    def choose(condition: Tensor, *values: Tensor) -> Tensor | tuple[Tensor, ...]:
        chosen = values[:count] if bool(condition) else values[count:]
        return chosen if count > 1 else chosen[0]
    return choose


# ----------------------------------------------------------------------------------------------------------------------
# Shapes and allocation. (`Shape` and `Shape_i` are computed when the graph is specialised.)


@lower.register(Shape)
@lower.register(Shape_i)
def _(op, node, build):
    raise AssertionError(f'the shape of {node.inputs[0]} is computed when the graph is specialised')


@lower.register(basic.Reshape)
def _(op, node, build):
    shape = build.integers(node.inputs[1])
    if len(shape) != op.ndim:
        raise ValueError(f'the shape that Reshape gets has {len(shape)} dimensions; should be {op.ndim}')
    return lambda x: x.reshape(shape), node.inputs[:1]


@lower.register(basic.Flatten)
def _(op, node, build):
    shape = build.shape(node.inputs[0])
    target = [*shape[:op.outdim - 1], int(np.prod(shape[op.outdim - 1:], dtype=int))]
    return lambda x: x.reshape(target)


@lower.register(basic.Alloc)
def _(op, node, build):
    """A view that repeats the same elements along broadcast dimensions."""
    shape = [int(build.host(var)) for var in node.inputs[1:]]
    if min(shape, default=0) < 0:       # In torch, -1 means unchanged.
        raise ValueError(f'Alloc of shape {shape}: sizes cannot be negative')
    for axis, size in enumerate(reversed(build.shape(node.inputs[0]))):
        if size not in (1, shape[-1 - axis]):
            raise ValueError(f'Alloc of shape {shape} cannot hold a value of shape {build.shape(node.inputs[0])}')
    return lambda value: value.expand(shape), node.inputs[:1]


@lower.register(basic.AllocEmpty)
def _(op, node, build):
    shape, dtype, device = [int(build.host(var)) for var in node.inputs], torch_dtype(op.dtype), build.device
    return lambda: torch.zeros(shape, dtype=dtype, device=device), []


@lower.register(opt.MakeVector)
def _(op, node, build):
    dtype, device = torch_dtype(op.dtype), build.device
    if not node.inputs:
        return lambda: torch.empty(0, dtype=dtype, device=device)
    return lambda *items: torch.stack([item.to(dtype) for item in items])


@lower.register(basic.ARange)
def _(op, node, build):
    bounds = [build.host(var).item() for var in node.inputs]
    values = from_numpy(np.arange(*bounds, dtype=op.dtype), build.device)
    return lambda: values, []


@lower.register(basic.Eye)
def _(op, node, build):
    rows, columns, offset = map(build.host, node.inputs)     # `columns` may be None.
    values = from_numpy(np.eye(rows, columns, offset, dtype=op.dtype), build.device)
    return lambda: values, []


@lower.register(basic.AllocDiag)
def _(op, node, build):
    return lambda x: torch.diag_embed(x, op.offset, op.axis1, op.axis2)


@lower.register(basic.ExtractDiag)
@lower.register(nlinalg.ExtractDiag)
def _(op, node, build):
    return lambda x: torch.diagonal(x, getattr(op, 'offset', 0), getattr(op, 'axis1', 0), getattr(op, 'axis2', 1))


@lower.register(basic.Nonzero)
def _(op, node, build):
    build.varying = True
    return lambda x: torch.nonzero(x).T


# ----------------------------------------------------------------------------------------------------------------------
# Joining and repeating.


@lower.register(basic.Join)
def _(op, node, build):
    axis, dtype = int(build.host(node.inputs[0])), torch_dtype(node.outputs[0].type.dtype)
    if any(var.type.dtype != node.outputs[0].type.dtype for var in node.inputs[1:]):
        return lambda *parts: torch.cat([part.to(dtype) for part in parts], dim=axis), node.inputs[1:]
    return lambda *parts: torch.cat(parts, dim=axis), node.inputs[1:]


@lower.register(basic.Split)
def _(op, node, build):
    axis, sizes = int(build.host(node.inputs[1])), build.integers(node.inputs[2])
    if len(sizes) != op.len_splits or min(sizes) < 0 or sum(sizes) != build.shape(node.inputs[0])[axis]:
        raise ValueError(f'Split of axis {axis} of shape {build.shape(node.inputs[0])} into {op.len_splits} parts '
                         f'cannot have sizes {sizes}')
    if op.len_splits == 1:
        return lambda x: x, node.inputs[:1]
    return lambda x: tuple(torch.split(x, sizes, dim=axis)), node.inputs[:1]


@lower.register(extra_ops.RepeatOp)
def _(op, node, build):
    counts = np.atleast_1d(build.host(node.inputs[1])).astype(np.int64)
    counts = int(counts[0]) if node.inputs[1].ndim == 0 else from_numpy(counts, build.device)
    return lambda x: torch.repeat_interleave(x, counts, dim=op.axis), node.inputs[:1]


@lower.register(basic.Tile)
def _(op, node, build):
    counts = build.integers(node.inputs[1])
    return lambda x: x.tile(counts), node.inputs[:1]


# ----------------------------------------------------------------------------------------------------------------------
# Sorting, searching, cumulating.


def last_axis(x: Tensor, axes: Sequence[int] | int | None) -> Tensor:
    """Move `axes` of `x` (None: all) to the end and flatten them. Booleans become bytes, which torch can order."""
    axes = list(range(x.dim())) if axes is None else [int(axis) % x.dim() for axis in np.atleast_1d(axes)]
    kept = [axis for axis in range(x.dim()) if axis not in axes]
    x = x.permute(kept + axes).flatten(len(kept)) if axes else x.unsqueeze(-1)
    return x.to(torch.uint8) if x.dtype == torch.bool else x


def check_not_empty(op: Any, shape: Sequence[int], axes: Sequence[int] | int | None) -> None:
    """Raise ValueError if `shape` has no elements along one of `axes` (None: all)."""
    if 0 in (shape if axes is None else [shape[int(axis)] for axis in np.atleast_1d(axes)]):
        raise ValueError(f'{op} of an array of shape {tuple(shape)}: there are no elements')


@lower.register(basic.MaxAndArgmax)
def _(op, node, build):
    check_not_empty(op, build.shape(node.inputs[0]), op.axis)
    dtype = torch_dtype(node.outputs[0].type.dtype)

    def max_and_argmax(x: Tensor) -> tuple[Tensor, Tensor]:
        x = last_axis(x, op.axis)
        return torch.amax(x, dim=-1).to(dtype), torch.argmax(x, dim=-1)
    return max_and_argmax


@lower.register(basic.Argmax)
def _(op, node, build):
    check_not_empty(op, build.shape(node.inputs[0]), op.axis)
    return lambda x: torch.argmax(last_axis(x, op.axis), dim=-1), node.inputs[:1]


def sorting_axis(node: Any, build: Build) -> int | None:
    """The axis of a sort; None sorts the flattened array."""
    axis = build.host(node.inputs[1])
    return None if axis is None or getattr(node.inputs[1], 'data', 0) is None else int(axis)


@lower.register(SortOp)
def _(op, node, build):
    axis = sorting_axis(node, build)
    return lambda x: torch.sort(x.flatten() if axis is None else x, dim=axis or 0, stable=True).values, node.inputs[:1]


@lower.register(ArgSortOp)
def _(op, node, build):
    axis = sorting_axis(node, build)
    return lambda x: torch.argsort(x.flatten() if axis is None else x, dim=axis or 0, stable=True), node.inputs[:1]


@lower.register(TopKOp)
def _(op, node, build):
    count, descending = int(build.host(node.inputs[1])), True
    if count == 0:
        raise ValueError('TopK of no elements')
    if count < 0:
        count, descending = -count, False

    def top_k(x: Tensor) -> Tensor | tuple[Tensor, ...]:
        values, positions = torch.topk(x, count, dim=op.axis, largest=descending)
        results = [values] if op.return_values else []
        results += [positions.to(torch_dtype(op.idx_dtype))] if op.return_indices else []
        return tuple(results) if len(results) > 1 else results[0]
    return top_k, node.inputs[:1]


@lower.register(extra_ops.CumOp)
def _(op, node, build):
    """NumPy runs it on the CPU, because it rounds after each element, as Theano's C code does; torch does not."""
    name, axis = node.outputs[0].type.dtype, op.axis or 0
    if build.device.type == 'cpu':
        on_arrays = np.cumsum if op.mode == 'add' else np.cumprod
        return lambda x: from_numpy(on_arrays(to_numpy(x), axis=op.axis, dtype=name), build.device)
    function, dtype = torch.cumsum if op.mode == 'add' else torch.cumprod, torch_dtype(name)
    return lambda x: function(x.flatten() if op.axis is None else x, dim=axis, dtype=dtype)
