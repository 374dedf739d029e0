"""The device: its memory, its log of transfers and waits, and the lines of the program that caused them."""

import collections
import itertools
import pathlib
import sys
import threading
import weakref

import torch

DEVICE = torch.device('cuda:0')
BLOCK = 512                 # PyTorch's CUDA allocator rounds sizes up to multiples of this many bytes.
ROOT = pathlib.Path(__file__).resolve().parents[2]
OURS = str(pathlib.Path(__file__).resolve().parent)
MAX_FRAMES = 3              # Lines of the program in a note.


class GpuError(RuntimeError):
    """The program breaks a rule of CUDA. The message names the op, if given, and the line of the program."""

    def __init__(self, message, op=None):
        super().__init__(message if op is None else f'{message} ({op}, called in {place()})')


def place():
    """The innermost lines of the program, as 'file:line < file:line', without lines of the stand-in."""
    frame, found = sys._getframe(1), []
    while frame is not None and len(found) < MAX_FRAMES:
        name = frame.f_code.co_filename
        if name.startswith(str(ROOT)) and (not name.startswith(OURS) or 'test_' in name):
            found.append(f'{name[len(str(ROOT)) + 1:]}:{frame.f_lineno}')
        frame = frame.f_back
    return ' < '.join(found)


class PerThread(threading.local):
    """State of each thread."""

    stream = None           # The current stream; None is the default stream.
    graph = None            # The graph that the thread is recording.
    waits = 0               # How often the thread has waited for the GPU.


class Gpu:
    """One GPU.

    Parameters
    ----------
    backing : str
        'cpu': tensors have values; 'meta': they have shapes only.
    capability : (int, int)
    total_memory : int
        Bytes.

    Attributes
    ----------
    notes : Counter
        (kind, op, place) -> count; kinds are the constants of `transfers`, and 'number of the host'.
    waits : int
        How often the host has waited.
    observers : list of callables
        Called with (op, args, kwargs, outputs) of each op on the device.
    allocated, peak : int
        Bytes of all living tensors, now and at most since `reset_peak`.
    limit : int or None
        Allocations beyond this many bytes fail.
    """

    def __init__(self, backing='cpu', capability=(9, 0), total_memory=141 << 30):
        self.backing, self.capability, self.total_memory = backing, capability, total_memory
        self.name = 'stand-in for an NVIDIA H200'
        self.lock, self.here = threading.RLock(), PerThread()
        self.observers = []
        self.blocks = {}            # id of a storage -> [bytes, number of wrappers]
        self.allocated = self.peak = 0
        self.limit = None
        self.notes, self.waits = collections.Counter(), 0
        self.pool_numbers = itertools.count(1)
        self.pools = collections.defaultdict(weakref.WeakSet)       # pool -> recorded graphs
        self.clocks = self.pinned = self.nccl = None        # See `installing.installed`.
        self.broken_pools = set()       # Into which the allocator goes on recording, after a recording that failed.

    def reset_notes(self):
        self.notes.clear()
        self.waits = 0

    def reset_peak(self):
        self.peak = self.allocated

    def note(self, kind, op):
        with self.lock:
            self.notes[kind, str(op), place()] += 1

    def hold(self, wrapper, real):
        """Count the memory of `real` for as long as `wrapper` lives."""
        key = real.untyped_storage()._cdata
        with self.lock:
            if key not in self.blocks:
                size = -(-real.untyped_storage().nbytes() // BLOCK) * BLOCK
                if self.limit is not None and self.allocated + size > self.limit:
                    raise torch.OutOfMemoryError(f'CUDA out of memory. Tried to allocate {size / 2 ** 20:.2f} MiB.')
                self.blocks[key] = [size, 0]
                self.allocated += size
                self.peak = max(self.peak, self.allocated)
            self.blocks[key][1] += 1
        weakref.finalize(wrapper, self.let_go, key).atexit = False

    def let_go(self, key):
        with self.lock:
            block = self.blocks[key]
            block[1] -= 1
            if not block[1]:
                self.allocated -= block[0]
                del self.blocks[key]
                self.clocks.give_back(key)

    def is_held(self, real):
        """Whether the program still has a tensor in the memory of `real`."""
        return real.untyped_storage()._cdata in self.blocks
