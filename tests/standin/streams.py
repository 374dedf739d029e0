"""Streams and events: each stream has a clock that counts its ops, and knows up to which time it waited for others."""

import collections
import contextlib
import itertools

import torch

from tests.standin.gpu import DEVICE, GpuError, place
from tests.standin.tensors import storage_id


class Race(GpuError):
    """Two streams, or a stream and the host, use the same memory in an undefined order."""


class Clocks:
    """Tracks the accesses of each stream to memory, and which streams and the host have waited for them.

    A moment is a pair of a stream's number and its time.

    Parameters
    ----------
    gpu : Gpu
    """

    def __init__(self, gpu):
        self.gpu = gpu
        self.numbers = itertools.count()
        self.known_to_host = collections.Counter()      # stream -> the time up to which the host has waited
        self.accesses = {}      # storage -> Access
        # Stream -> moments at which other streams used memory that the stream has got back since.
        self.given_back = collections.defaultdict(list)
        self.latest = collections.Counter()     # stream -> its time
        self.uploads = []       # Copies from pinned memory that may be unfinished: see `Upload`.
        self.default = Stream(gpu=gpu, clocks=self)

    def current(self):
        return self.gpu.here.stream or self.default

    def use(self, read, written, op, fresh=()):
        """Check and record that an op of the current stream reads and writes tensors; `fresh` ones have new memory."""
        if self.gpu.here.graph is not None:
            return      # Ops do not run while a graph is being recorded.
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
        """Check that no other stream still uses the memory that a new tensor on `stream` may get."""
        for moment in self.given_back.pop(stream.number, []):
            self.check(stream, moment, 'gets memory that was given back while stream %d may still be using it', op)

    def give_back(self, key):
        """Return memory to its stream, since the program has no tensor in it any more."""
        access = self.accesses.pop(key, None)
        if access is None or access.home is None:
            return
        for moment in (access.last_write, *access.reads.items()):
            # The allocator waits for all current work of the recorded streams.
            if moment and moment[0] != access.home and not any(self.is_done(moment, s) for s in access.recorded):
                self.given_back[access.home].append(moment)

    def check(self, stream, moment, message, op):
        if moment and not self.is_done(moment, stream):
            raise Race(f'stream {stream.number} {message % moment[0]}', op)

    def is_done(self, moment, stream=None):
        """Whether the work at `moment` is certainly over for the host, or for later work on `stream`."""
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
    """The latest uses of a block of memory.

    Attributes
    ----------
    last_write : moment or None
    reads : dict
        Number of a stream -> time of its latest read since the last write.
    home : int or None
        The stream for which the memory was allocated, and which gets it back.
    recorded : set of Stream
        Streams that use it according to `Tensor.record_stream`; the allocator waits for them.
    """

    def __init__(self, home=None):
        self.last_write, self.reads, self.home, self.recorded = None, {}, home, set()


class Upload:
    """A copy from pinned memory. The GPU may read the memory at any time until the host has waited for the copy."""

    def __init__(self, source, moment):
        self.source, self.value, self.moment, self.place = source, bits(source).clone(), moment, place()

    def is_over(self, clocks):
        """Whether the copy is certainly done. Raises `Race` if the host has overwritten the memory too early."""
        if not bits(self.source).equal(self.value):
            raise Race(f'pinned memory was overwritten while the copy started in {self.place} may have read it')
        return clocks.is_done(self.moment)


def bits(tensor):
    """The bytes of a contiguous tensor, for comparisons: NaN is not equal to itself."""
    return tensor.view(torch.uint8)


class Stream:
    """Replaces `torch.cuda.Stream`."""

    def __init__(self, device=None, priority=0, *, gpu, clocks):
        self.gpu, self.clocks, self.device, self.number = gpu, clocks, DEVICE, next(clocks.numbers)
        self.time, self.seen = 0, collections.Counter()

    def moments(self):
        """{stream: time up to which its work is over once the present work of this stream is}"""
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
        """Let the host wait for the stream."""
        forbid_while_recording(self.gpu, 'waiting for a stream')
        self.clocks.host_waits_for(self.moments())

    def query(self):
        return True


class Event:
    """Replaces `torch.cuda.Event`."""

    def __init__(self, enable_timing=False, blocking=False, interprocess=False, *, gpu, clocks):
        self.gpu, self.clocks, self.moments, self.is_timed = gpu, clocks, {}, enable_timing

    def record(self, stream=None):
        self.moments = (stream or self.clocks.current()).moments()

    def wait(self, stream=None):
        (stream or self.clocks.current()).wait_event(self)

    def synchronize(self):
        """Let the host wait for the event."""
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
    """Break the recording, if any, and raise: CUDA does not allow the host to wait while a graph is being recorded."""
    if gpu.here.graph is not None:
        gpu.here.graph.is_broken = True
        raise GpuError(f'CUDA error: operation not permitted when stream is capturing: {what}', op)


@contextlib.contextmanager
def current_stream(gpu, stream):
    """Run the ops of this thread on `stream` inside the context."""
    before, gpu.here.stream = gpu.here.stream, stream
    try:
        yield
    finally:
        gpu.here.stream = before
