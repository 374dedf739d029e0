"""GPUs: checks that PyTorch supports them, and settings that depend on the card.

The settings are the memory format of images (`image_format`), the choice of cuDNN's algorithms (`set_algorithms`), and
the choice among several implementations of ours (`Fastest`).
"""

import functools
import re
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# {major version of CUDA: the oldest NVIDIA driver that supports it}
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
OTHER_BUILD = 'install PyTorch for another version of CUDA, see pytorch.org/get-started'


def why_none() -> str:
    """Why PyTorch finds no CUDA GPU, and the cure; '' if it finds one."""
    import torch
    if torch.cuda.is_available():
        return ''
    if torch.version.cuda is None:
        return 'this PyTorch is a build without CUDA'
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        reason = str(error)
    else:
        reason = 'No CUDA GPUs are available'
    build = f'this PyTorch is a build for CUDA {torch.version.cuda}'
    if 'too old' in reason:
        version = re.search(r'found version (\d+)', reason)
        found = '' if version is None else \
            f', which has CUDA {int(version[1]) // 1000}.{int(version[1]) % 1000 // 10} at most'
        oldest = OLDEST_DRIVER.get(int(torch.version.cuda.partition('.')[0]))
        newer = 'a newer one' if oldest is None else f'{oldest} or newer'
        return f'{build}, too new for the NVIDIA driver{found}: install a driver of version {newer}, or {OTHER_BUILD}'
    return f'{build}, which reports: {re.split(r"[.:;] |[.:;]?$", reason.strip().splitlines()[0])[0]}'


def missing_kernels(device: str) -> str:
    """Why this PyTorch cannot run on the GPU `device` ('cuda:N'), and the cure; '' if it can.

    Kernels (sm_*) run on GPUs of the same major compute capability and an equal or higher minor one. Intermediate code
    (compute_*) is compiled at run time for any GPU of an equal or higher capability.
    """
    import torch
    capability = torch.cuda.get_device_capability(device)
    names = torch.cuda.get_arch_list()
    for kind, major, minor in re.findall(r'\b(sm|compute)_(\d+)(\d)\b', ' '.join(names)):
        of_kernels = int(major), int(minor)
        if of_kernels <= capability and (kind == 'compute' or of_kernels[0] == capability[0]):
            return ''
    if not names:
        return ''       # This build has no list of architectures.
    return f'{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}, and this ' \
        f'PyTorch has kernels for {", ".join(names)} only: {OTHER_BUILD}'


def set_algorithms(deterministic: bool, benchmark: bool) -> None:
    """Set how the algorithms of cuDNN and the implementations of `Fastest` are chosen.

    Parameters
    ----------
    deterministic : bool
        Use only algorithms that give the same bits in every call and every run. Nothing is timed.
    benchmark : bool
        Time the algorithms in the first call with new shapes, and use the fastest. Otherwise use heuristics.
    """
    import torch
    torch.backends.cudnn.benchmark = benchmark and not deterministic     # The fastest one may differ between runs.
    torch.backends.cudnn.deterministic = deterministic


def has_tensor_cores(device: 'torch.device', dtype: 'torch.dtype') -> bool:
    """Whether the GPU `device` computes convolutions of type `dtype` on tensor cores.

    Float32 needs TF32 to be allowed.
    """
    import torch
    capability = torch.cuda.get_device_capability(device)
    if dtype == torch.float16:
        return capability >= (7, 0)
    return capability >= (8, 0) and (
        dtype == torch.bfloat16 or dtype == torch.float32 and torch.backends.cudnn.allow_tf32)


def image_format(device: 'torch.device', dtype: 'torch.dtype') -> 'torch.memory_format':
    """The memory format in which convolutions of type `dtype` on `device` are fastest.

    This is channels-last on the CPU and on tensor cores. Other kernels of cuDNN are slower with it.
    """
    import torch
    if device.type != 'cuda' or has_tensor_cores(device, dtype):
        return torch.channels_last
    return torch.contiguous_format


WARM_UPS, ROUNDS = 2, 5         # Calls before the timing, in which libraries initialize; timed calls.
HEAD_START = 1000000            # GPU cycles to sleep before a timed call, about half a millisecond.


def seconds_of(function: Callable[[], Any], device: 'torch.device') -> float:
    """Time in seconds that the GPU `device` takes for the kernels of a call of `function`.

    The GPU sleeps first, so that the host has launched all kernels when the first one starts, as in a CUDA graph.
    """
    import torch
    with torch.cuda.device(device):
        for _ in range(WARM_UPS):
            function()
        rounds = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(ROUNDS)]
        for start, end in rounds:
            torch.cuda._sleep(HEAD_START)
            start.record()
            function()
            end.record()
        torch.cuda.synchronize()
        return min(start.elapsed_time(end) for start, end in rounds) / 1e3


@functools.cache
def timed_on(device: 'torch.device') -> dict[Hashable, list[float]]:
    """Measurements of `Fastest` on a GPU: {key: seconds of each implementation}."""
    return {}


class Fastest:
    """The fastest of several implementations of a function on a GPU.

    The first call times all of them with its arguments, unless the `key` was timed before. That call is never part of a
    CUDA graph, because programs are recorded after some calls.

    Parameters
    ----------
    ways : list of functions
        The implementations, which agree up to rounding. The first one is used with deterministic algorithms.
    expected : int
        Index of the implementation that is probably the fastest. It is used if heuristics also choose cuDNN's
        algorithms, and in case of a tie.
    key : hashable
        Everything that the times depend on: name of the function, shapes, types.
    device : torch.device
    """

    def __init__(self, ways: Sequence[Callable], expected: int, key: Hashable, device: 'torch.device') -> None:
        self.ways, self.expected, self.key, self.device = ways, expected, key, device
        self.way: Callable | None = None

    def __call__(self, *arguments: Any) -> Any:
        import torch
        if self.way is None:
            if torch.cuda.is_current_stream_capturing():
                return self.ways[self.expected](*arguments)
            self.way = self.ways[self.choice(arguments)]
        return self.way(*arguments)

    def choice(self, arguments: Sequence) -> int:
        """Index of the implementation to use."""
        import torch
        if torch.are_deterministic_algorithms_enabled():
            return 0
        if not torch.backends.cudnn.benchmark:
            return self.expected
        timed = timed_on(self.device)
        if self.key not in timed:
            timed[self.key] = [seconds_of(functools.partial(way, *arguments), self.device) for way in self.ways]
        seconds = timed[self.key]
        return min(range(len(seconds)), key=lambda index: (seconds[index], index != self.expected))
