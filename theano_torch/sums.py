"""Defines two PyTorch ops for sums over all processes: one starts the sum of a tensor, the other waits for it.

The ops are ``torch.ops.theano_torch.start_sum(bucket, previous)`` and ``finish_sum(bucket)``. Between the two calls,
NCCL or Gloo owns the bucket and works in parallel with the program: NCCL on a separate stream, which a CUDA graph
records as a parallel branch; Gloo in a separate thread. `previous` is the bucket whose sum must start before, or None:
all processes must start their sums in the same order. On meta tensors, which have no values, the ops do nothing.
"""

from typing import Any, ClassVar

from theano_torch.connection import translating_errors

import torch
import torch.distributed as dist

LIBRARY = torch.library.Library('theano_torch', 'FRAGMENT')
LIBRARY.define('start_sum(Tensor(a!) bucket, Tensor? previous) -> ()')
LIBRARY.define('finish_sum(Tensor(a!) bucket) -> ()')


class Running:
    """Sums that were started and not yet waited for."""

    handles: ClassVar[dict[int, Any]] = {}      # {address of a bucket: PyTorch's handle of its sum}


def start(bucket: torch.Tensor, previous: torch.Tensor | None) -> None:
    with translating_errors(bucket.device.type):
        Running.handles[bucket.data_ptr()] = dist.all_reduce(bucket, async_op=True)


def finish(bucket: torch.Tensor) -> None:
    with translating_errors(bucket.device.type):
        Running.handles.pop(bucket.data_ptr()).wait()      # With NCCL the stream waits, not the host.


def do_nothing(*tensors: torch.Tensor | None) -> None:
    """Both ops on meta tensors."""


for key, starting, finishing in (('CUDA', start, finish), ('CPU', start, finish), ('Meta', do_nothing, do_nothing)):
    LIBRARY.impl('start_sum', starting, key)
    LIBRARY.impl('finish_sum', finishing, key)
