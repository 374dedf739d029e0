"""Facts about this machine."""

import os
import sys


def num_cores() -> int:
    """Number of processor cores that this process may use; all of the machine if the system cannot tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    try:
        import resource
    except ImportError:     # On Windows.
        import psutil
        memory = psutil.Process().memory_info()
        return getattr(memory, 'peak_wset', memory.rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
