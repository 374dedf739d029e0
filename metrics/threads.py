"""Run a function on items in threads on all cores; NumPy and SciPy release Python's lock in their inner loops."""

import concurrent.futures
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from common.machine import num_cores

Result = TypeVar('Result')


@functools.cache
def _libraries():
    return ThreadpoolController()


def map_threads(function: Callable[..., Result], *items: Iterable[Any]) -> list[Result]:
    """``list(map(function, *items))`` with one thread per core; matrix products within `function` use one thread."""
    arguments = list(zip(*items, strict=True))
    if len(arguments) < 2 or num_cores() == 1:
        return [function(*each) for each in arguments]
    with _libraries().limit(limits=1, user_api='blas'), concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
        return list(pool.map(lambda each: function(*each), arguments))


def blocks(num: int, size: int) -> list[slice]:
    """Slices that divide `num` rows into blocks of at most `size`."""
    return [slice(begin, min(begin + size, num)) for begin in range(0, num, size)]
