"""Shapes, indexing, joining, allocating, sorting and conversions."""

import numpy as np
import torch
from theano.compile.ops import DeepCopyOp, OutputGuard, Rebroadcast, Shape, Shape_i, SpecifyShape, ViewOp
from theano.tensor import basic, extra_ops, opt, subtensor
from theano.tensor.sort import ArgSortOp, SortOp

from theano_torch.registry import lower


def torch_dtype(name):
    return getattr(torch, name)


def integers(build, variables):
    return [int(build.host(var)) for var in variables]


@lower.register(DeepCopyOp)
def _(op, node, build):
    return lambda x: x.clone() if isinstance(x, torch.Tensor) else x


@lower.register(ViewOp)
@lower.register(OutputGuard)
@lower.register(Rebroadcast)
@lower.register(basic.TensorFromScalar)
@lower.register(basic.ScalarFromTensor)
def _(op, node, build):
    return lambda x: x


@lower.register(opt.Assert)
def _(op, node, build):
    def check(value, *conditions):
        for condition in conditions:
            if not bool(condition.all()):
                raise AssertionError(op.msg)
        return value
    return check


@lower.register(SpecifyShape)
def _(op, node, build):
    expected = tuple(int(size) for size in build.host(node.inputs[1]))

    def specify(x, _):
        if tuple(x.shape) != expected:
            raise AssertionError('SpecifyShape: got shape %s, expected %s' % (tuple(x.shape), expected))
        return x
    return specify


@lower.register(Shape)
def _(op, node, build):
    return lambda x: torch.tensor(x.shape, dtype=torch.int64, device=x.device)


@lower.register(Shape_i)
def _(op, node, build):
    return lambda x: torch.tensor(x.shape[op.i], dtype=torch.int64, device=x.device)


@lower.register(basic.Reshape)
def _(op, node, build):
    shape = [int(size) for size in build.host(node.inputs[1])]
    return lambda x, _: x.reshape(shape)


@lower.register(basic.Alloc)
def _(op, node, build):
    shape = integers(build, node.inputs[1:])
    return lambda value, *_: value.expand(shape)


@lower.register(basic.AllocEmpty)
def _(op, node, build):
    shape, dtype = integers(build, node.inputs), torch_dtype(op.dtype)
    return lambda *_: torch.zeros(shape, dtype=dtype, device=build.device)


@lower.register(opt.MakeVector)
def _(op, node, build):
    dtype = torch_dtype(op.dtype)
    if not node.inputs:
        return lambda: torch.empty(0, dtype=dtype, device=build.device)
    return lambda *items: torch.stack([item.to(dtype) for item in items])


@lower.register(basic.Join)
def _(op, node, build):
    axis, dtype = int(build.host(node.inputs[0])), torch_dtype(node.outputs[0].type.dtype)
    return lambda _, *parts: torch.cat([part.to(dtype) for part in parts], dim=axis)


@lower.register(basic.Split)
def _(op, node, build):
    axis, sizes = int(build.host(node.inputs[1])), [int(size) for size in build.host(node.inputs[2])]
    return lambda x, *_: tuple(torch.split(x, sizes, dim=axis))


@lower.register(basic.ARange)
def _(op, node, build):
    values = np.arange(*[build.host(var).item() for var in node.inputs], dtype=op.dtype)
    constant = torch.from_numpy(values).to(build.device)
    return lambda *_: constant


@lower.register(basic.Eye)
def _(op, node, build):
    rows, columns, offset = integers(build, node.inputs)
    constant = torch.from_numpy(np.eye(rows, columns, offset, dtype=op.dtype)).to(build.device)
    return lambda *_: constant


@lower.register(basic.Nonzero)
def _(op, node, build):
    build.forget()
    return lambda x: tuple(torch.nonzero(x, as_tuple=True))


@lower.register(basic.MaxAndArgmax)
def _(op, node, build):
    def max_and_argmax(x):
        values, position = flattened(x, op.axis).max(dim=-1)
        return values, position
    return max_and_argmax


@lower.register(basic.Argmax)
def _(op, node, build):
    return lambda x, *_: flattened(x, op.axis).argmax(dim=-1)


def flattened(x, axes):
    """`x` with the axes (None: all) moved to the end and flattened into one."""
    axes = list(range(x.dim())) if axes is None else list(axes) if isinstance(axes, tuple | list) else [int(axes)]
    kept = [axis for axis in range(x.dim()) if axis not in axes]
    return x.permute(kept + axes).reshape([x.shape[axis] for axis in kept] + [-1])


# ----------------------------------------------------------------------------------------------------------------------
# Indexing.


def basic_index(idx_list, inputs, build):
    """The tuple of ints and slices behind a Subtensor op; `inputs` are its symbolic indices in order."""
    remaining = list(inputs)

    def resolve(entry):
        return entry if entry is None or isinstance(entry, int | np.integer) else int(build.host(remaining.pop(0)))

    index = []
    for entry in idx_list:
        if isinstance(entry, slice):
            index.append(slice(*[resolve(part) for part in (entry.start, entry.stop, entry.step)]))
        else:
            index.append(resolve(entry))
    return tuple(index)


def view(x, index):
    """Basic indexing with negative steps, which torch does not have: slice forwards, then flip."""
    plain, flips, axis = [], [], 0
    for position, entry in enumerate(index):
        if isinstance(entry, slice) and (entry.step or 1) < 0:
            positions = range(*entry.indices(x.shape[position]))
            plain.append(slice(positions[-1], positions[0] + 1, -entry.step) if len(positions) else slice(0, 0))
            flips.append(axis)
        else:
            plain.append(entry)
        axis += isinstance(entry, slice)
    x = x[tuple(plain)]
    return x.flip(flips) if flips else x


@lower.register(subtensor.Subtensor)
def _(op, node, build):
    index = basic_index(op.idx_list, node.inputs[1:], build)
    return lambda x, *_: view(x, index)


@lower.register(subtensor.IncSubtensor)
def _(op, node, build):
    index = basic_index(op.idx_list, node.inputs[2:], build)
    backwards = any(isinstance(entry, slice) and (entry.step or 1) < 0 for entry in index)

    def inc_subtensor(x, y, *_):
        x, y = x.clone(memory_format=torch.contiguous_format), y.to(x.dtype)
        if backwards:
            # Positions of the elements in flattened x, in the order of the index.
            positions = view(torch.arange(x.numel(), device=x.device).reshape(x.shape), index)
            target, values = x.view(-1), y.expand(positions.shape).reshape(-1)
            positions = positions.reshape(-1)
            if op.set_instead_of_inc:
                target[positions] = values
            else:
                target[positions] += values
        elif op.set_instead_of_inc:
            x[index] = y
        else:
            x[index] += y
        return x
    return inc_subtensor


@lower.register(subtensor.AdvancedSubtensor1)
def _(op, node, build):
    return lambda x, index: x[checked(index, x.shape[0])]


def checked(index, size):
    """Negative indices count from the end; an index out of range is an error on every device."""
    index = index.long()
    if index.numel() and index.device.type == 'cpu' and (int(index.max()) >= size or int(index.min()) < -size):
        raise IndexError('index out of bounds for axis of size %d' % size)
    return index


@lower.register(subtensor.AdvancedIncSubtensor1)
def _(op, node, build):
    def inc(x, y, index):
        x, index = x.clone(memory_format=torch.contiguous_format), checked(index, x.shape[0])
        y = y.to(x.dtype).expand(index.shape[:1] + x.shape[1:])
        if op.set_instead_of_inc:
            x[index] = y
            return x
        return x.index_put_((index,), y, accumulate=True)
    return inc


def advanced_index(variables, values):
    from theano.tensor.type_other import NoneTypeT, SliceType
    index = []
    for var, value in zip(variables, values, strict=True):
        if isinstance(var.type, NoneTypeT):
            index.append(None)
        elif isinstance(var.type, SliceType):
            index.append(value)
        else:
            index.append(value.long() if value.dtype not in (torch.bool,) else value)
    return tuple(index)


@lower.register(subtensor.BaseAdvancedSubtensor)
def _(op, node, build):
    build.forget()
    return lambda x, *index: x[advanced_index(node.inputs[1:], index)]


@lower.register(subtensor.BaseAdvancedIncSubtensor)
def _(op, node, build):
    build.forget()

    def inc(x, y, *index):
        x, index = x.clone(memory_format=torch.contiguous_format), advanced_index(node.inputs[2:], index)
        if op.set_instead_of_inc:
            x[index] = y.to(x.dtype)
            return x
        return x.index_put_(index, y.to(x.dtype), accumulate=True)
    return inc


# ----------------------------------------------------------------------------------------------------------------------
# Repeating, cumulating, sorting.


@lower.register(extra_ops.RepeatOp)
def _(op, node, build):
    counts = torch.from_numpy(np.atleast_1d(build.host(node.inputs[1])).astype(np.int64)).to(build.device)
    scalar_count = int(counts[0]) if counts.numel() == 1 else counts
    return lambda x, _: torch.repeat_interleave(x, scalar_count, dim=op.axis)


@lower.register(basic.Tile)
def _(op, node, build):
    counts = [int(count) for count in build.host(node.inputs[1])]
    return lambda x, _: x.tile(counts)


@lower.register(extra_ops.CumOp)
def _(op, node, build):
    function = torch.cumsum if op.mode == 'add' else torch.cumprod
    dtype = torch_dtype(node.outputs[0].type.dtype)
    return lambda x: function(x.reshape(-1) if op.axis is None else x, dim=op.axis or 0, dtype=dtype)


@lower.register(SortOp)
def _(op, node, build):
    axis = build.host(node.inputs[1])
    axis = int(axis)
    return lambda x, _: torch.sort(x, dim=axis).values


@lower.register(ArgSortOp)
def _(op, node, build):
    axis = int(build.host(node.inputs[1]))
    return lambda x, _: torch.argsort(x, dim=axis, stable=True)


@lower.register(basic.ExtractDiag)
def _(op, node, build):
    return lambda x: torch.diagonal(x, op.offset, op.axis1, op.axis2)


@lower.register(basic.AllocDiag)
def _(op, node, build):
    return lambda x: torch.diag_embed(x, op.offset)
