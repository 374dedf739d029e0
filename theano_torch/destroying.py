"""Ops that overwrite inputs, as their `destroy_map` says: what a user can see is overwritten where Theano does it.

A user sees the memory of a function's own inputs: a mutable argument, or a shared variable that is updated. A result
that overwrites such an input, or a view of it, goes to that memory. All other memory is the engine's: there a result of
Theano's may be a view of something that Theano has as a tensor of its own, so the op gets a copy to write into.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from theano.compile.function_module import alias_root
from torch import Tensor


def pairs(node: Any) -> list[tuple[int, int]]:
    """(index of an output, index of the input that it overwrites) for a node's op."""
    destroy_map = getattr(node.op, 'destroy_map', None) or {}
    return [(output, index) for output, indices in destroy_map.items() for index in indices]


def overwritten(order: Sequence) -> set:
    """The variables that nodes overwrite, and those in whose memory they are."""
    direct = {node.inputs[index] for node in order for _, index in pairs(node)}
    return direct | set(map(alias_root, direct))


def is_result_in_place(var: Any) -> bool:
    """Whether `var` has overwritten an input of its node."""
    return var.owner is not None and any(var is var.owner.outputs[output] for output, _ in pairs(var.owner))


class InPlace:
    """A lowered function whose results overwrite arguments.

    The function may have written into them itself, or have made new tensors.

    Parameters
    ----------
    function : callable
    places : list of (int, int)
        Which result overwrites which argument.
    copied : list of int
        Arguments in whose place it overwrites copies.
    """

    def __init__(self, function: Callable, places: Sequence[tuple[int, int]], copied: Sequence[int]) -> None:
        self.function, self.places, self.copied = function, places, copied

    def __call__(self, *arguments: Any) -> Any:
        given = list(arguments)
        for position in self.copied:
            given[position] = given[position].clone(memory_format=torch.contiguous_format)
        results = self.function(*given)
        values = list(results) if isinstance(results, tuple) else [results]
        for output, position in self.places:
            values[output] = moved(values[output], given[position])
        return tuple(values) if isinstance(results, tuple) else values[0]


def moved(value: Tensor, place: Tensor) -> Tensor:
    """`value` in the memory `place`; as it is where it does not fit."""
    if value.shape != place.shape or value.dtype != place.dtype or \
            (value.data_ptr() == place.data_ptr() and value.stride() == place.stride()):
        return value
    return place.copy_(value)


def through(view: Callable, position: int) -> Callable:
    """What writes a result that overwrote ``view(*arguments)``, a copy, through to ``arguments[position]``."""
    def write(result: Tensor, *arguments: Any) -> tuple:
        given = list(arguments)
        seen = given[position]
        numbers = torch.arange(seen.numel(), device=seen.device)
        given[position] = numbers.reshape(seen.shape)
        places = view(*given).reshape(-1)
        values = seen.flatten().index_put((places,), result.reshape(-1))
        seen.copy_(values.reshape(seen.shape))
        return ()
    return write


def put_back(array: Any, tensor: Any) -> None:
    """Write `tensor`, which was made of the argument `array` and overwritten, back to it if it is a copy of it."""
    if isinstance(array, np.ndarray) and array.flags.writeable and not is_memory_of(array, tensor):
        array[...] = tensor.cpu().numpy()


def is_memory_of(array: Any, tensor: Any) -> bool:
    """Whether `tensor` has the memory of `array`: the value was changed in place.

    Then `array` is to stay. A new array, made of the tensor, would keep the old one alive, and every call would add a
    link to that chain.
    """
    return isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor) and array.shape == tensor.shape and \
        array.size > 0 and array.flags.c_contiguous and array.__array_interface__['data'][0] == tensor.data_ptr()
