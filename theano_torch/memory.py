"""Memory: what is freed stays with the process, and what happens when there is none left."""

import contextlib
import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Of glibc's mallopt, <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

# What torch, cuBLAS and cuDNN say when they get no memory, in errors of no particular type.
MESSAGES = re.compile("out of memory|can't allocate memory|not enough memory|ALLOC(ATION)?_FAILED|"
                      'unable to find an engine to execute this computation')

# Held while a CUDA graph is recorded, and while the value of a shared variable is read or written: a thread that
# compiles functions does that beside the one that trains.
DEVICE = threading.RLock()


class OutOfMemory(MemoryError):
    """There is not enough memory on the device, or on the host, for what a function computes."""


@contextlib.contextmanager
def translating_errors(device: 'torch.device') -> Iterator[None]:
    """Around work on the torch device `device`: errors that mean too little memory become :class:`OutOfMemory`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        raise out_of_memory(error, device) from error


def is_lack_of_memory(error: Exception) -> bool:
    """Whether `error` means too little memory and does not say so well."""
    return not isinstance(error, OutOfMemory) and (isinstance(error, MemoryError) or bool(MESSAGES.search(str(error))))


def out_of_memory(error: Exception, device: 'torch.device') -> OutOfMemory:
    """What to raise for an error that means too little memory, in work on the torch device `device`."""
    on_host = isinstance(error, MemoryError) or 'CPUAllocator' in str(error) or device.type == 'cpu'
    return OutOfMemory(f'out of memory: {host() if on_host else gpu(device)}')


def host() -> str:
    """The host and how much memory it has."""
    return 'the machine has %.1f GiB' % (os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2 ** 30)


def gpu(device: 'torch.device') -> str:
    """The GPU and how much memory it has."""
    import torch
    facts = torch.cuda.get_device_properties(device)
    return f'{device} ({facts.name}) has {facts.total_memory / 2 ** 30:.1f} GiB'


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensor instead of giving it back to the system each time.

    Otherwise every large temporary tensor is made of fresh pages, which the system has to clear: elementwise work takes
    two to five times as long. Does nothing where the C library is another one.
    """
    if not sys.platform.startswith('linux'):
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)              # Large blocks, too, come out of the heap...
        mallopt(M_TRIM_THRESHOLD, -1)       # ...which never shrinks...
        mallopt(M_ARENA_MAX, 1)             # ...and is the same one for all threads.
