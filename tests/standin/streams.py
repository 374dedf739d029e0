"""Streams and events: each stream has a clock that counts its ops, and knows how far it has waited for the others."""

import collections
import contextlib
import itertools

import torch

from tests.standin.gpu import DEVICE, GpuError, place
from tests.standin.tensors import storage_id


class Race(GpuError):
    """Two streams, or a stream and the host, use the same memory in no certain order."""


class Clocks:
    """What has been done on which stream, and who may rely on it.

    Parameters
    ----------
    gpu : Gpu
    """

    def __init__(self, gpu):
        self.gpu = gpu
        self.numbers = itertools.count()
        self.known_to_host = collections.Counter()      # stream -> the time up to which the host has waited
        self.accesses = {}      # storage -> Access
        # Stream -> moments of other streams at which memory was in use that went back to it for its next tensors.
        self.given_back = collections.defaultdict(list)
        self.latest = collections.Counter()     # stream -> its time
        self.uploads = []       # Copies out of pinned memory that may be under way: see `Upload`.
        self.default = Stream(gpu=gpu, clocks=self)

    def current(self):
        return self.gpu.here.stream or self.default

    def use(self, read, written, op, fresh=()):
        """An op of the current stream reads and writes these tensors (`fresh` ones have new memory): may it?"""
        if self.gpu.here.graph is not None:
            return      # Nothing happens while a graph is recorded.
        stream = self.current()
        with self.gpu.lock:
            stream.time += 1
            self.latest[stream.number] = stream.time
            new = {storage_id(real) for real in fresh}
            for real in read:
                access = self.accesses.setdefault(storage_id(real), Access())
                self.check(stream, access.last_write, 'reads memory that stream %d may still be writing', op)
                access.reads[stream.number] = stream.time
            for real in written:
                key = storage_id(real)
                access = Access(home=stream.number) if key in new else self.accesses.setdefault(key, Access())
                for moment in (access.last_write, *access.reads.items()):
                    self.check(stream, moment, 'writes memory that stream %d may still be using', op)
                access.last_write, access.reads = (stream.number, stream.time), {}
                self.accesses[key] = access
            if new:
                self.take_memory(stream, op)

    def take_memory(self, stream, op):
        """A new tensor gets memory that was used on `stream` before: is that over on the other streams?"""
        for moment in self.given_back.pop(stream.number, []):
            self.check(stream, moment, 'gets memory that was given back while stream %d may still be using it', op)

    def give_back(self, key):
        """The program has no tensor in this memory any more."""
        access = self.accesses.pop(key, None)
        if access is None or access.home is None:
            return
        for moment in (access.last_write, *access.reads.items()):
            # The allocator waits for all that is on the recorded streams now.
            if moment and moment[0] != access.home and not any(self.is_done(moment, s) for s in access.recorded):
                self.given_back[access.home].append(moment)

    def check(self, stream, moment, message, op):
        if moment and not self.is_done(moment, stream):
            raise Race(f'stream {stream.number} {message % moment[0]}', op)

    def is_done(self, moment, stream=None):
        """Whether what happened at `moment` is over for the host, or for what comes next on `stream`."""
        number, time = moment
        if stream is not None and (stream.number == number or stream.seen[number] >= time):
            return True
        return self.known_to_host[number] >= time

    def host_waits_for(self, seen):
        """The host has waited until the times `seen`: later work of any stream comes after that."""
        self.gpu.nccl.host_waits()
        with self.gpu.lock:
            for number, time in seen.items():
                self.known_to_host[number] = max(self.known_to_host[number], time)
            self.uploads = [upload for upload in self.uploads if not upload.is_over(self)]


class Access:
    """The latest use of some memory; moments are pairs of a stream's number and its time.

    Attributes
    ----------
    home : int or None
        The stream for which the memory was allocated, and which gets it back.
    recorded : set of Stream
        Those on which it is known to be in use (`Tensor.record_stream`): the allocator waits for them.
    """

    def __init__(self, home=None):
        self.last_write, self.reads, self.home, self.recorded = None, {}, home, set()


class Upload:
    """A copy out of pinned memory, which the GPU reads some time before the host has waited for it."""

    def __init__(self, source, moment):
        self.source, self.value, self.moment, self.place = source, bits(source).clone(), moment, place()

    def is_over(self, clocks):
        """Whether it is known to be done. Raises `Race` if the host has overwritten the memory before it was."""
        if not bits(self.source).equal(self.value):
            raise Race(f'pinned memory was overwritten while the copy started in {self.place} may have read it')
        return clocks.is_done(self.moment)


def bits(tensor):
    """The bytes of a contiguous tensor: NaN is not equal to itself."""
    return tensor.view(torch.uint8)


class Stream:
    """Stands in for `torch.cuda.Stream`."""

    def __init__(self, device=None, priority=0, *, gpu, clocks):
        self.gpu, self.clocks, self.device, self.number = gpu, clocks, DEVICE, next(clocks.numbers)
        self.time, self.seen = 0, collections.Counter()

    def moments(self):
        """Up to which time of each stream everything is over where the work of this one is."""
        return {**self.seen, self.number: self.time}

    def wait(self, moments):
        if self.gpu.here.graph is not None:
            raise GpuError('CUDA error: dependency created on uncaptured work in another stream')
        for number, time in moments.items():
            self.seen[number] = max(self.seen[number], time)

    def wait_stream(self, other):
        if other is not self:
            self.wait(other.moments())

    def wait_event(self, event):
        self.wait(event.moments)

    def record_event(self, event=None):
        event = event or Event(gpu=self.gpu, clocks=self.clocks)
        event.record(self)
        return event

    def synchronize(self):
        """The host waits."""
        forbid_while_recording(self.gpu, 'waiting for a stream')
        self.clocks.host_waits_for(self.moments())

    def query(self):
        return True


class Event:
    """Stands in for `torch.cuda.Event`."""

    def __init__(self, enable_timing=False, blocking=False, interprocess=False, *, gpu, clocks):
        self.gpu, self.clocks, self.moments, self.is_timed = gpu, clocks, {}, enable_timing

    def record(self, stream=None):
        self.moments = (stream or self.clocks.current()).moments()

    def wait(self, stream=None):
        (stream or self.clocks.current()).wait_event(self)

    def synchronize(self):
        """The host waits."""
        forbid_while_recording(self.gpu, 'waiting for an event')
        self.clocks.host_waits_for(self.moments)

    def query(self):
        return all(self.clocks.is_done(moment) for moment in self.moments.items())

    def elapsed_time(self, end):
        """Nothing takes any time here."""
        if not (self.is_timed and end.is_timed and self.moments and end.query()):
            raise GpuError('both events must be made with enable_timing=True, recorded, and waited for')
        return 0.0


def forbid_while_recording(gpu, what, op=None):
    """CUDA breaks a recording off at what would make the host wait."""
    if gpu.here.graph is not None:
        gpu.here.graph.is_broken = True
        raise GpuError(f'CUDA error: operation not permitted when stream is capturing: {what}', op)


@contextlib.contextmanager
def current_stream(gpu, stream):
    """Inside, ops of this thread go to `stream`."""
    before, gpu.here.stream = gpu.here.stream, stream
    try:
        yield
    finally:
        gpu.here.stream = before
