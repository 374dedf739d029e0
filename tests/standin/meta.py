"""Ops on meta tensors, which have shapes only: each is computed once for arguments of the same shapes.

PyTorch computes many of these shapes in Python, and programs call the same ops again and again.
"""

import functools
from typing import NamedTuple

import torch

from tests.standin.tensors import mapped, storage_id, tensors_in

KNOWN = {}      # (op, arguments) -> its results as `Layout`s


class Layout(NamedTuple):
    """What there is to a meta tensor that fills its memory."""

    shape: tuple
    stride: tuple
    dtype: torch.dtype


def computed(func, args, kwargs, compute):
    """The result of ``compute(*args, **kwargs)`` of the op `func`."""
    if not makes_new_tensors(func):
        return compute(*args, **kwargs)
    key = func, described(args), described(tuple(sorted(kwargs.items())))
    if key not in KNOWN:
        outputs = compute(*args, **kwargs)
        known = {storage_id(value) for value in tensors_in((args, kwargs))}
        if any(storage_id(value) in known for value in tensors_in(outputs)):
            return outputs      # A view after all.
        KNOWN[key] = mapped(lambda value: Layout(tuple(value.shape), value.stride(), value.dtype), outputs)
        return outputs
    return made(KNOWN[key])


@functools.cache
def makes_new_tensors(func):
    """Whether an op neither changes nor returns its arguments."""
    return all(place.alias_info is None for place in (*func._schema.arguments, *func._schema.returns))


def described(value):
    """Something hashable that is the same for arguments which give results of the same shapes."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device.type
    if isinstance(value, tuple | list):
        return tuple(map(described, value))
    return type(value), value       # 1 and 1.0 are equal, and give other types.


def made(tree):
    """Nested tuples and lists of `Layout` with a new tensor in the place of each."""
    if isinstance(tree, Layout):
        return torch.empty_strided(tree.shape, tree.stride, dtype=tree.dtype, device='meta')
    if isinstance(tree, tuple | list):
        return type(tree)(map(made, tree))
    return tree
