"""Measures how long the host has been waiting for a device. Importable without PyTorch.

If another process dies, a collective operation on the GPU never ends, and in a CUDA graph it raises no error: the host
hangs while it waits for a value. A watching thread can notice this with `longest`.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import ClassVar


class _Waiting:
    """The threads that are waiting."""

    since: ClassVar[dict[int, float]] = {}      # {thread id: time.monotonic() at the start of its wait}


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Context of code that makes the host wait for a device."""
    thread = threading.get_ident()
    if thread in _Waiting.since:        # A nested wait is part of the outer one.
        yield
        return
    _Waiting.since[thread] = time.monotonic()
    try:
        yield
    finally:
        del _Waiting.since[thread]


def longest() -> float:
    """Duration in seconds of the longest current wait; 0 if no thread waits."""
    now = time.monotonic()
    return now - min(list(_Waiting.since.values()), default=now)
