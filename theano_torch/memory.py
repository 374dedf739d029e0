"""Host memory of the process."""

import ctypes
import sys

# Of glibc's mallopt, <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory():
    """Let glibc keep freed memory for the next tensor instead of giving it back to the system each time.

    Otherwise every large temporary tensor is made of fresh pages, which the system has to clear: elementwise work takes
    up to twice as long. Does nothing where the C library is another one.
    """
    if not sys.platform.startswith('linux'):
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)         # The largest value that it takes.
        mallopt(M_TRIM_THRESHOLD, 2 ** 31 - 1)
