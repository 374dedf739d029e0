"""Since when the host has been waiting for a device. Importable without PyTorch.

On a GPU, a collective operation of a process that has died never ends, and in a CUDA graph nobody is told. The host
then hangs where it waits for a value. Whoever must notice that asks `longest`, in another thread.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import ClassVar


class _Waiting:
    """The threads that wait now."""

    since: ClassVar[dict[int, float]] = {}      # Number of a thread -> time.monotonic() when it began.


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Around what makes the host wait for a device."""
    thread = threading.get_ident()
    if thread in _Waiting.since:        # Part of a longer wait.
        yield
        return
    _Waiting.since[thread] = time.monotonic()
    try:
        yield
    finally:
        del _Waiting.since[thread]


def longest() -> float:
    """Seconds since the thread that has waited for longest began to; 0 if none waits."""
    now = time.monotonic()
    return now - min(list(_Waiting.since.values()), default=now)
