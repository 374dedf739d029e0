"""Ops that overwrite inputs, according to their `destroy_map`. Memory that a user can see is overwritten as in Theano.

A user can see the memory of a function's inputs: of a mutable argument, or of a shared variable that is updated. A
result that overwrites such an input, or a view of it, is written to that memory. In the engine's own memory, a result
may be a view where Theano has a separate tensor; there the op overwrites a copy.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from theano.compile.function_module import alias_root
from torch import Tensor


def pairs(node: Any) -> list[tuple[int, int]]:
    """(index of an output, index of the input that it overwrites) for each such output of a node."""
    destroy_map = getattr(node.op, 'destroy_map', None) or {}
    return [(output, index) for output, indices in destroy_map.items() for index in indices]


def overwritten(order: Sequence) -> set:
    """Variables that nodes overwrite, and the variables that own their memory."""
    direct = {node.inputs[index] for node in order for _, index in pairs(node)}
    return direct | set(map(alias_root, direct))


def is_result_in_place(var: Any) -> bool:
    """Whether `var` overwrites an input of its node."""
    return var.owner is not None and any(var is var.owner.outputs[output] for output, _ in pairs(var.owner))


class InPlace:
    """A lowered function whose results overwrite arguments.

    `function` may write to them itself, or return new tensors, which are then copied.

    Parameters
    ----------
    function : callable
    places : list of (int, int)
        (result, argument that it overwrites).
    copied : list of int
        Arguments that are copied first, so that only the copies are overwritten.
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
    """Copy `value` to the memory `place`, and return that; return `value` if it does not fit."""
    if value.shape != place.shape or value.dtype != place.dtype or \
            (value.data_ptr() == place.data_ptr() and value.stride() == place.stride()):
        return value
    return place.copy_(value)


def through(view: Callable, position: int) -> Callable:
    """A function that writes a result, which overwrote the copy ``view(*arguments)``, to ``arguments[position]``."""
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
    """Write the overwritten `tensor` back to the argument `array`, unless they share memory."""
    if isinstance(array, np.ndarray) and array.flags.writeable and not is_memory_of(array, tensor):
        array[...] = tensor.cpu().numpy()


def is_memory_of(array: Any, tensor: Any) -> bool:
    """Whether `tensor` shares the memory of `array`, so that the value was changed in place.

    The caller then keeps `array`: storing a new view in each call would nest views ever deeper.
    """
    return isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor) and array.shape == tensor.shape and \
        array.size > 0 and array.flags.c_contiguous and array.__array_interface__['data'][0] == tensor.data_ptr()
