"""Host memory of the process."""

import ctypes
import sys

# Of glibc's mallopt, <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory():
    """Let glibc keep freed memory for the next tensor instead of giving it back to the system each time.

    Otherwise every large temporary tensor is made of fresh pages, which the system has to clear: elementwise work takes
    two to five times as long. Does nothing where the C library is another one.
    """
    if not sys.platform.startswith('linux'):
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)              # Large blocks, too, come out of the heap...
        mallopt(M_TRIM_THRESHOLD, -1)       # ...which never shrinks.
