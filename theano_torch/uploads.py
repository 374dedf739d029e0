"""Copy arrays to a GPU through pinned memory on a separate stream, while GPU and host keep working."""

import collections
import functools
from typing import Any

from theano_torch import waits
from theano_torch.convert import from_numpy

import torch
from torch import Tensor

MAX_BUFFERS = 4     # Copies in progress per size; then the host waits for the oldest one.


class Uploads:
    """Copies to one GPU.

    From memory that is not pinned, CUDA would copy only after waiting for all work queued on the GPU.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        # Bytes -> (pinned memory, event after the last copy from it), oldest copy first.
        self.buffers: dict[int, collections.deque] = collections.defaultdict(collections.deque)

    def __call__(self, value: Any) -> Tensor:
        """Copy an ndarray or number to a contiguous tensor on the device, for use on the current stream."""
        source = from_numpy(value, torch.device('cpu'))
        if source.dim() == 0:
            return torch.full((), source.item(), dtype=source.dtype, device=self.device)    # A kernel argument.
        if source.numel() == 0:
            return torch.empty(source.shape, dtype=source.dtype, device=self.device)
        memory, event = self.buffer(source.nbytes)
        pinned = memory.view(source.dtype).view(source.shape)
        pinned.copy_(source)
        stream = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            result = pinned.to(self.device, non_blocking=True)
            event.record(self.stream)
        stream.wait_event(event)
        result.record_stream(stream)        # Otherwise its memory might be reused while the stream still reads it.
        self.buffers[source.nbytes].append((memory, event))
        return result

    def buffer(self, size: int) -> tuple[Tensor, Any]:
        """Pinned memory that no copy is using, and the event to record after the next copy."""
        known = self.buffers[size]
        if known and (len(known) >= MAX_BUFFERS or known[0][1].query()):
            memory, event = known.popleft()
            with waits.noted():
                event.synchronize()
            return memory, event
        return torch.empty(size, dtype=torch.uint8, pin_memory=True), torch.cuda.Event()


uploads_to = functools.cache(Uploads)


def to_device(value: Any, device: torch.device) -> Tensor:
    """An ndarray or number as a contiguous tensor on `device`, for a single use; shares memory on the CPU."""
    if device.type != 'cuda' or torch.cuda.is_current_stream_capturing():
        return from_numpy(value, device)
    return uploads_to(device)(value)
