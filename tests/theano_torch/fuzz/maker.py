"""A random program under construction."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import theano.tensor as T

from tests.theano_torch.fuzz.recipes import LAYOUTS, Call, Ref, Source, evaluate

FLOATS = ('float64', 'float64', 'float32', 'float16')
INTEGERS = ('int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64')
MAX_NDIM = 5
MAX_SIZE = 3000     # Largest number of elements of a result.


class Maker:
    """Collects the sources and calls of a random program; calls that Theano refuses are left out.

    Parameters
    ----------
    random : numpy.random.RandomState
    variables : list
        Existing Theano variables.
    sizes : list of int
        Largest number of elements of each variable.
    """

    def __init__(self, random: np.random.RandomState, variables: Sequence = (), sizes: Sequence[int] = ()) -> None:
        self.random, self.variables, self.sizes = random, list(variables), list(sizes)
        self.sources: list[Source] = []
        self.calls: list[Call] = []

    def add_source(self, source: Source) -> Ref:
        self.sources.append(source)
        self.variables.append(source.variable())
        self.sizes.append(int(np.prod(source.shape)))
        return Ref(len(self.variables) - 1)

    def add(self, function: str, *arguments: Any, growth: float = 1, **options: Any) -> Ref | None:
        """Add a call and return its result; None if Theano refuses the call.

        The result may be `growth` times as large as the largest argument.
        """
        call = Call(function, arguments, options)
        size = growth * max([self.sizes[value.index] for value in arguments if isinstance(value, Ref)], default=1)
        if size > MAX_SIZE:
            return None
        try:
            result = evaluate(call, self.variables)
        except Exception:       # Theano refuses invalid calls with errors of any type.
            return None
        if getattr(result, 'ndim', 0) > MAX_NDIM:
            return None
        self.calls.append(call)
        self.variables.append(result)
        self.sizes.append(int(size))
        return Ref(len(self.variables) - 1)

    def __getitem__(self, ref: Ref) -> Any:
        """The Theano variable of a reference."""
        return self.variables[ref.index]

    def tensors(self, first: int = 0, accepts: Callable[[Any], bool] = lambda variable: True) -> list[Ref]:
        """The tensors with numbers from `first` on that `accepts` accepts."""
        return [Ref(index) for index, variable in enumerate(self.variables)
                if index >= first and isinstance(variable, T.TensorVariable | T.sharedvar.TensorSharedVariable)
                and accepts(variable)]

    def floats(self) -> list[Ref]:
        """The floating-point sources."""
        return [Ref(index) for index, source in enumerate(self.sources) if source.dtype.startswith('float')]

    def any_of(self, choices: Sequence) -> Any:
        return choices[self.random.randint(len(choices))]

    def chance(self, probability: float) -> bool:
        return bool(self.random.rand() < probability)

    def integer(self, low: int, high: int) -> int:
        """A random integer from `low` to `high` - 1."""
        return int(self.random.randint(low, high))

    def axis(self, variable: Any) -> int:
        return self.integer(-variable.ndim, variable.ndim)

    def axes(self, variable: Any) -> int | list[int] | None:
        """Random axes: one, several, or all (None)."""
        if not variable.ndim or self.chance(0.3):
            return None
        if self.chance(0.5):
            return self.axis(variable)
        return [int(axis) for axis in self.random.permutation(variable.ndim)[:self.integer(1, variable.ndim + 1)]]

    def source(self, dtype: str, shape: Sequence[int]) -> Source:
        return Source(dtype, tuple(map(int, shape)), seed=self.integer(0, 2 ** 31),
                      layout=self.any_of(list(LAYOUTS)) if self.chance(0.4) else 'C', is_shared=self.chance(0.2),
                      is_whole=self.chance(0.3), special=self.integer(1, 4) if self.chance(0.1) else 0,
                      scale=self.any_of((0.5, 2.0, 2.0, 10.0)))
