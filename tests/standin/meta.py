"""Cache the results of ops on meta tensors by the shapes of their arguments.

PyTorch computes many of these shapes in Python, which is slow, and programs call the same ops many times.
"""

import functools
from typing import NamedTuple

import torch

from tests.standin.tensors import mapped, storage_id, tensors_in

KNOWN = {}      # (op, described arguments) -> `Layout`s of its results


class Layout(NamedTuple):
    """A description of a meta tensor that fills its memory."""

    shape: tuple
    stride: tuple
    dtype: torch.dtype


def computed(func, args, kwargs, compute):
    """The result of the op `func`, by ``compute(*args, **kwargs)`` or from the cache."""
    if not makes_new_tensors(func):
        return compute(*args, **kwargs)
    key = func, described(args), described(tuple(sorted(kwargs.items())))
    if key not in KNOWN:
        outputs = compute(*args, **kwargs)
        known = {storage_id(value) for value in tensors_in((args, kwargs))}
        if any(storage_id(value) in known for value in tensors_in(outputs)):
            return outputs      # Some ops return views although their schema does not say so.
        KNOWN[key] = mapped(lambda value: Layout(tuple(value.shape), value.stride(), value.dtype), outputs)
        return outputs
    return made(KNOWN[key])


@functools.cache
def makes_new_tensors(func):
    """Whether an op neither changes nor returns its arguments."""
    return all(place.alias_info is None for place in (*func._schema.arguments, *func._schema.returns))


def described(value):
    """A hashable key; arguments with equal keys give results of equal shapes."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device.type
    if isinstance(value, tuple | list):
        return tuple(map(described, value))
    return type(value), value       # With the type, since 1 == 1.0, but they give different result types.


def made(tree):
    """Make a new tensor for each `Layout` in nested tuples and lists."""
    if isinstance(tree, Layout):
        return torch.empty_strided(tree.shape, tree.stride, dtype=tree.dtype, device='meta')
    if isinstance(tree, tuple | list):
        return type(tree)(map(made, tree))
    return tree
