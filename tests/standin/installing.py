"""Replace `torch.cuda` by the stand-in, and restore it."""

import contextlib
import functools
import threading
import types

import torch

from tests.standin.collectives import Nccl
from tests.standin.gpu import Gpu
from tests.standin.graphs import Graph, Recording
from tests.standin.ops import EveryOp
from tests.standin.streams import Clocks, Event, Stream, current_stream, forbid_while_recording
from tests.standin.transfers import Pinned

ARCHITECTURES = ['sm_75', 'sm_80', 'sm_86', 'sm_90']
CUDA_VERSION = '13.0'       # The CUDA version of the PyTorch build that requirements.txt names.


@contextlib.contextmanager
def installed(backing='cpu', **facts):
    """Inside the context, PyTorch has one CUDA GPU, in this thread and in threads started there. Yields the `Gpu`.

    Parameters
    ----------
    backing, **facts
        See `Gpu`.
    """
    gpu = Gpu(backing, **facts)
    gpu.clocks, gpu.pinned = Clocks(gpu), Pinned()
    gpu.nccl = Nccl(gpu)
    missing, threads = object(), torch.get_num_threads()
    before = []
    for owner, name, value in replacements(gpu):
        before.append((owner, name, vars(owner).get(name, missing)))
        setattr(owner, name, value)
    try:
        torch.set_num_threads(1)        # The tensors of tests are small: waking threads takes longer than the work.
        with EveryOp(gpu):
            yield gpu
    finally:
        torch.set_num_threads(threads)
        for owner, name, value in reversed(before):
            delattr(owner, name) if value is missing else setattr(owner, name, value)


def replacements(gpu):
    """(owner, name, value) of each attribute that is replaced."""
    functions = {**facts_of(gpu), **memory_of(gpu), **streams_of(gpu)}
    run_thread, make_tensor = threading.Thread.run, torch.tensor

    def run(thread):
        with EveryOp(gpu):
            run_thread(thread)

    def tensor(*args, device=None, **kwargs):
        value = make_tensor(*args, **kwargs)
        return value if device is None else value.to(device)

    return [*((torch.cuda, name, value) for name, value in functions.items()),
            (torch._C, '_cuda_endAllocateToPool', lambda device, pool: gpu.broken_pools.discard(pool)),
            (torch.distributed, 'init_process_group', gpu.nccl.init_process_group),
            (torch, 'tensor', tensor), (torch.version, 'cuda', CUDA_VERSION), (threading.Thread, 'run', run)]


def facts_of(gpu):
    """The functions of `torch.cuda` that describe the device."""
    def properties(device=None):
        return types.SimpleNamespace(name=gpu.name, total_memory=gpu.total_memory, major=gpu.capability[0],
                                     minor=gpu.capability[1], multi_processor_count=132)
    return {
        '_lazy_init': lambda: None, 'init': lambda: None, 'is_initialized': lambda: True,
        'is_available': lambda: True, 'device_count': lambda: 1, 'current_device': lambda: 0,
        'set_device': lambda device: None, 'get_device_capability': lambda device=None: gpu.capability,
        'get_device_name': lambda device=None: gpu.name, 'get_device_properties': properties,
        'get_arch_list': lambda: ARCHITECTURES, 'is_bf16_supported': lambda including_emulation=True: True}


def memory_of(gpu):
    """The functions of `torch.cuda` for memory."""
    def empty_cache():
        if gpu.broken_pools:
            raise RuntimeError('captures_underway.empty() INTERNAL ASSERT FAILED: a recording that failed was not '
                               'ended in the allocator')

    def set_fraction(fraction, device=None):
        gpu.limit = None if fraction >= 1 else int(fraction * gpu.total_memory)

    return {
        'memory_allocated': lambda device=None: gpu.allocated, 'memory_reserved': lambda device=None: gpu.allocated,
        'max_memory_allocated': lambda device=None: gpu.peak,
        'reset_peak_memory_stats': lambda device=None: gpu.reset_peak(),
        'empty_cache': empty_cache, 'set_per_process_memory_fraction': set_fraction}


def streams_of(gpu):
    """The functions and classes of `torch.cuda` for streams, events and graphs."""
    clocks = gpu.clocks

    def synchronize(device=None):
        forbid_while_recording(gpu, 'waiting for the device')
        clocks.host_waits_for(clocks.latest)

    return {
        'device': lambda device: contextlib.nullcontext(), '_sleep': lambda cycles: None,
        'synchronize': synchronize, 'current_stream': lambda device=None: clocks.current(),
        'default_stream': lambda device=None: clocks.default,
        'stream': functools.partial(current_stream, gpu),
        'Stream': functools.partial(Stream, gpu=gpu, clocks=clocks),
        'Event': functools.partial(Event, gpu=gpu, clocks=clocks),
        'CUDAGraph': functools.partial(Graph, gpu=gpu), 'graph': Recording,
        'graph_pool_handle': lambda: (0, next(gpu.pool_numbers)),
        'is_current_stream_capturing': lambda: gpu.here.graph is not None}
