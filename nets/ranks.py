"""Data parallelism: the share of a minibatch of each process, and averages over all processes in the graph."""

from collections.abc import Callable
from typing import NamedTuple

from theano_torch import collective

import theano


class Ranks(NamedTuple):
    """The place of this process among all processes of a training."""

    rank: int = 0           # Number of this process.
    size: int = 1           # How many there are.
    local_rank: int = 0     # Number of this process on its machine.

    def share(self, num: int) -> slice:
        """The slice of `num` rows that this rank works on."""
        if num % self.size:
            raise ValueError(f'{num} rows cannot be divided among {self.size} processes')
        return slice(self.rank * num // self.size, (self.rank + 1) * num // self.size)


SINGLE = Ranks()


def mean_over_ranks(ranks: Ranks, *lists: list, sizes: dict | None = None) -> list[list]:
    """Average the expressions in `lists` over all ranks, in buckets that start as soon as they are full.

    Constants, which are the same everywhere, stay as they are, and so does everything for a single process.

    Parameters
    ----------
    ranks : Ranks
    *lists : lists of expressions
        The last ones are ready first.
    sizes : dict, optional
        Expression -> how many numbers it has; those that are not there have few.

    Returns
    -------
    list of lists of expressions
        Like `lists`.
    """
    if ranks.size == 1:
        return [list(expressions) for expressions in lists]
    varying = [var for expressions in lists for var in expressions if not isinstance(var, theano.Constant)]
    numbers = [(sizes or {}).get(var, 0) for var in varying]
    means = iter(collective.all_reduce_mean(varying, numbers))
    return [[var if isinstance(var, theano.Constant) else next(means) for var in expressions] for expressions in lists]


def own_rows(draw: Callable, num, ranks: Ranks):
    """This rank's `num` rows of random numbers ``draw(number of rows)`` that are drawn for all ranks alike."""
    if ranks.size == 1:
        return draw(num)
    return draw(num * ranks.size)[ranks.rank * num:(ranks.rank + 1) * num]
