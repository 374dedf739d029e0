"""Memory: keep freed memory in the process, and explain errors when there is none left."""

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

# Constants of glibc's mallopt, <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

# Messages of torch, cuBLAS and cuDNN when memory runs out, in errors of general types.
MESSAGES = re.compile("out of memory|can't allocate memory|not enough memory|ALLOC(ATION)?_FAILED|"
                      'unable to find an engine to execute this computation')

# Held while a CUDA graph is recorded, and while a shared variable's value is read or written: one thread may compile
# functions, which does the latter, while another one trains.
DEVICE = threading.RLock()


class OutOfMemory(MemoryError):
    """The device, or the host, does not have enough memory for a function."""


@contextlib.contextmanager
def translating_errors(device: 'torch.device') -> Iterator[None]:
    """Turn errors that mean too little memory, in work on the torch device `device`, into :class:`OutOfMemory`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        raise out_of_memory(error, device) from error


def is_lack_of_memory(error: Exception) -> bool:
    """Whether `error` means too little memory, but is not an :class:`OutOfMemory`."""
    return not isinstance(error, OutOfMemory) and (isinstance(error, MemoryError) or bool(MESSAGES.search(str(error))))


def out_of_memory(error: Exception, device: 'torch.device') -> OutOfMemory:
    """The :class:`OutOfMemory` for an error that means too little memory, in work on the torch device `device`."""
    on_host = isinstance(error, MemoryError) or 'CPUAllocator' in str(error) or device.type == 'cpu'
    return OutOfMemory(f'out of memory: {host() if on_host else gpu(device)}')


def host() -> str:
    """Description of the host and its memory."""
    return 'the machine has %.1f GiB' % (os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2 ** 30)


def gpu(device: 'torch.device') -> str:
    """Description of the GPU and its memory."""
    import torch
    facts = torch.cuda.get_device_properties(device)
    return f'{device} ({facts.name}) has {facts.total_memory / 2 ** 30:.1f} GiB'


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next tensor instead of returning it to the system.

    Otherwise every large temporary tensor consists of new pages, which the system must clear first: element-wise work
    takes two to five times as long. Does nothing with other C libraries.
    """
    if not sys.platform.startswith('linux'):
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)              # Large blocks also come from the heap, ...
        mallopt(M_TRIM_THRESHOLD, -1)       # ... which never shrinks ...
        mallopt(M_ARENA_MAX, 1)             # ... and is shared by all threads.
