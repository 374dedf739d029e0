"""Run a function over items on all processor cores; NumPy and SciPy release Python's lock in their inner loops."""

import concurrent.futures
import os


def num_cores():
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def map_threads(function, items):
    """``[function(item) for item in items]``, one thread per core."""
    items = list(items)
    if len(items) < 2 or num_cores() == 1:
        return [function(item) for item in items]
    with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
        return list(pool.map(function, items))


def blocks(num, size):
    """Slices that cut `num` rows into blocks of at most `size`."""
    return [slice(begin, min(begin + size, num)) for begin in range(0, num, size)]
