"""Facts about this machine."""

import os


def num_cores() -> int:
    """Number of processor cores that this process may use; those of the machine where the system cannot tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
