"""Facts about this machine."""

import os


def num_cores():
    """Of this process, where the system can tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
