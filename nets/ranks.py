"""Data parallelism: each process's share of a minibatch, and averages over all processes within a graph."""

from collections.abc import Callable
from typing import NamedTuple

from theano_torch import collective

import theano


class Ranks(NamedTuple):
    """Identifies this process among all processes of a training."""

    rank: int = 0           # Number of this process, from 0.
    size: int = 1           # Number of processes.
    local_rank: int = 0     # Number of this process on its machine, from 0.

    def share(self, num: int) -> slice:
        """Slice of `num` rows that belongs to this rank."""
        if num % self.size:
            raise ValueError(f'{num} rows cannot be divided evenly among {self.size} processes')
        return slice(self.rank * num // self.size, (self.rank + 1) * num // self.size)


SINGLE = Ranks()


def mean_over_ranks(ranks: Ranks, *lists: list, sizes: dict | None = None) -> list[list]:
    """Average the expressions in `lists` over all ranks, in buckets that are sent as soon as they are full.

    Constants are equal on all ranks and are returned unchanged, as is everything for a single process.

    Parameters
    ----------
    ranks : Ranks
    *lists : lists of expressions
        The last expressions are computed first.
    sizes : dict, optional
        {expression: number of elements}. Missing expressions count as empty.

    Returns
    -------
    list of lists of expressions
        Same structure as `lists`.
    """
    if ranks.size == 1:
        return [list(expressions) for expressions in lists]
    varying = [var for expressions in lists for var in expressions if not isinstance(var, theano.Constant)]
    numbers = [(sizes or {}).get(var, 0) for var in varying]
    means = iter(collective.all_reduce_mean(varying, numbers))
    return [[var if isinstance(var, theano.Constant) else next(means) for var in expressions] for expressions in lists]


def own_rows(draw: Callable, num, ranks: Ranks):
    """Draw random numbers for all ranks, ``draw(number of rows)``, and return this rank's `num` rows."""
    if ranks.size == 1:
        return draw(num)
    return draw(num * ranks.size)[ranks.rank * num:(ranks.rank + 1) * num]
