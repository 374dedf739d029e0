"""Basic and advanced indexing, for reading and writing, with NumPy's rules."""

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from theano_torch.convert import computing_dtype, torch_dtype
from theano_torch.registry import lower
from theano_torch.trace import Build

import torch
from theano.tensor import subtensor
from torch import Tensor

Index = tuple[int | slice, ...]

index_tensors = torch.ops.aten.index.Tensor


def basic_index(idx_list: Sequence, variables: Sequence, build: Build) -> Index:
    """The tuple of ints and slices of a Subtensor op; `variables` are its symbolic indices in order."""
    remaining = list(variables)

    def resolve(entry: Any) -> int | None:
        return entry if entry is None or isinstance(entry, int) else int(build.host(remaining.pop(0)))

    index: list = []
    for entry in idx_list:
        if isinstance(entry, slice):
            index.append(slice(*[resolve(part) for part in (entry.start, entry.stop, entry.step)]))
        else:
            index.append(resolve(entry))
    return tuple(index)


def is_backward(entry: int | slice) -> TypeGuard[slice]:
    """Whether `entry` is a slice with a negative step."""
    return isinstance(entry, slice) and entry.step is not None and entry.step < 0


def forward_slice(entry: int | slice, size: int) -> tuple[int | slice, bool]:
    """(slice with a positive step, whether its result must be flipped), because torch has no negative steps."""
    if not is_backward(entry):
        return entry, False
    positions = range(*entry.indices(size))
    if not positions:
        return slice(0, 0), False
    return slice(positions[-1], positions[0] + 1, -entry.step), True


def read(x: Tensor, index: Index) -> Tensor:
    """``x[index]`` for ints and slices; a view unless a step is negative."""
    plain, flips, axis = [], [], 0
    for position, entry in enumerate(index):
        entry, flipped = forward_slice(entry, x.shape[position])
        plain.append(entry)
        if flipped:
            flips.append(axis)
        axis += isinstance(entry, slice)
    x = x[tuple(plain)]
    return x.flip(flips) if flips else x


@lower.register(subtensor.Subtensor)
def _(op, node, build):
    index = basic_index(op.idx_list, node.inputs[1:], build)
    return lambda x: read(x, index), node.inputs[:1]


@lower.register(subtensor.IncSubtensor)
def _(op, node, build):
    index = basic_index(op.idx_list, node.inputs[2:], build)
    backwards, set_it = any(map(is_backward, index)), op.set_instead_of_inc

    def inc_subtensor(x: Tensor, y: Tensor) -> Tensor:
        x = own(x, op)
        if backwards:
            return write_at(x, positions_like(x, lambda positions: read(positions, index)), y, not set_it)
        target = x[index]
        if set_it:
            target.copy_(y)
        else:
            target.add_(y)
        return x
    return wrapping(inc_subtensor, node), node.inputs[:2]


def own(x: Tensor, op: Any) -> Tensor:
    """A contiguous tensor with the values of `x`, which `op` may overwrite."""
    return x if op.inplace and x.is_contiguous() else x.clone(memory_format=torch.contiguous_format)


def wrapping(function: Callable, node: Any) -> Callable:
    """`function`, which writes to a copy of its first argument, extended to types that torch cannot compute with."""
    name = node.outputs[0].type.dtype
    dtype, compute = torch_dtype(name), computing_dtype(name)
    if name == 'bool' and node.inputs[1].type.dtype != 'bool' and not node.op.set_instead_of_inc:
        compute = torch.int64       # After the addition of numbers, True is anything but 0.
    if dtype == compute:
        return function
    return lambda x, y, *index: function(x.to(compute), y.to(compute), *index).to(dtype)


def positions_like(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Positions in flattened `x` of the elements that `function`, an indexing of tensors like `x`, selects."""
    return function(torch.arange(x.numel(), device=x.device).reshape(x.shape))


def write_at(x: Tensor, positions: Tensor, y: Tensor, accumulate: bool) -> Tensor:
    """Set or add `y` in place at `positions` of flattened `x`, which must be contiguous."""
    values = y.to(x.dtype).expand(positions.shape)
    x.view(-1).index_put_((positions.reshape(-1),), values.reshape(-1), accumulate=accumulate)
    return x


# ----------------------------------------------------------------------------------------------------------------------
# Advanced indexing.


@lower.register(subtensor.AdvancedSubtensor1)
def _(op, node, build):
    return lambda x, index: index_tensors(x, [index.long()])


@lower.register(subtensor.AdvancedIncSubtensor1)
def _(op, node, build):
    def inc(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        x = own(x, op)
        return x.index_put_((index.long(),), y.to(x.dtype), accumulate=not op.set_instead_of_inc)
    return wrapping(inc, node)


def advanced(x: Tensor, entries: Sequence) -> tuple[Tensor, list[Tensor | None]]:
    """(`x` with slices and new axes applied, its index tensors, one or None for each dimension).

    Index tensors are not mixed with slices, so that `aten.index` orders the indexed dimensions like NumPy.
    """
    tensors: list[Tensor | None] = []
    flips, axis = [], 0
    for entry in entries:
        if entry is None:
            x = x.unsqueeze(axis)
            tensors.append(None)
            axis += 1
        elif isinstance(entry, slice):
            entry, flipped = forward_slice(slice(*[None if part is None else int(part) for part in
                                                   (entry.start, entry.stop, entry.step)]), x.shape[axis])
            x = x[(slice(None),) * axis + (entry,)]
            if flipped:
                flips.append(axis)
            tensors.append(None)
            axis += 1
        elif entry.dtype == torch.bool and entry.dim() == 0:    # A new axis of size 1 or 0.
            x = x.unsqueeze(axis)
            tensors.append(torch.nonzero(entry.reshape(1)).reshape(-1))
            axis += 1
        elif entry.dtype == torch.bool:
            if tuple(entry.shape) != tuple(x.shape[axis:axis + entry.dim()]):
                raise IndexError(f'boolean index of shape {tuple(entry.shape)} on dimensions of size '
                                 f'{tuple(x.shape[axis:axis + entry.dim()])}')
            tensors.extend(torch.nonzero(entry, as_tuple=True))
            axis += entry.dim()
        else:
            tensors.append(entry.long())
            axis += 1
    return (x.flip(flips) if flips else x), tensors


def sources(node: Any, first: int) -> tuple[list, list[bool]]:
    """(variables of an advanced indexing node that the step needs, which indices are None and therefore omitted).

    The indices are the inputs from `first` on.
    """
    return [var for var in node.inputs if not is_none(var)], [is_none(var) for var in node.inputs[first:]]


def is_none(var: Any) -> bool:
    """Whether `var` is the constant None, a new axis."""
    return getattr(var, 'data', 0) is None


def entries_of(values: Sequence, nones: Sequence[bool]) -> list:
    """The indices: `values`, with None inserted where `nones` is true."""
    rest = iter(values)
    return [None if none else next(rest) for none in nones]


def is_varying(node: Any, first: int) -> bool:
    """Whether the result's shape depends on values: of boolean masks or symbolic slices."""
    return any(getattr(var.type, 'dtype', 'bool') == 'bool' for var in node.inputs[first:] if not is_none(var))


@lower.register(subtensor.BaseAdvancedSubtensor)
def _(op, node, build):
    build.varying = is_varying(node, 1)
    variables, nones = sources(node, 1)

    def take(x: Tensor, *values: Any) -> Tensor:
        x, tensors = advanced(x, entries_of(values, nones))
        return index_tensors(x, tensors) if any(tensor is not None for tensor in tensors) else x
    return take, variables


@lower.register(subtensor.BaseAdvancedIncSubtensor)
def _(op, node, build):
    variables, nones = sources(node, 2)
    accumulate = not op.set_instead_of_inc

    def inc(x: Tensor, y: Tensor, *values: Any) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)      # In Theano it never works in place.
        entries = entries_of(values, nones)

        def take(positions: Tensor) -> Tensor:
            positions, tensors = advanced(positions, entries)
            return index_tensors(positions, tensors) if any(tensor is not None for tensor in tensors) else positions
        if any(isinstance(entry, slice) or entry is None for entry in entries):
            return write_at(x, positions_like(x, take), y, accumulate)
        target, tensors = advanced(x, entries)      # At most a view.
        target.index_put_(tensors, y.to(x.dtype), accumulate=accumulate)
        return x
    return wrapping(inc, node), variables
