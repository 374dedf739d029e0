"""Sums over all processes as two ops that PyTorch knows: one starts the sum of a tensor, another waits for it.

The ops are ``torch.ops.theano_torch.start_sum(bucket, previous)`` and ``finish_sum(bucket)``. In between the bucket
belongs to NCCL or Gloo, which work beside the program: NCCL on a stream of its own, which a CUDA graph records as a
parallel branch, Gloo in a thread of its own. `previous` is the bucket whose sum has to be started before, or None: all
processes have to start their sums in the same order. On meta tensors, which have shapes only, the ops do nothing.
"""

from typing import Any, ClassVar

from theano_torch.connection import translating_errors

import torch
import torch.distributed as dist

LIBRARY = torch.library.Library('theano_torch', 'FRAGMENT')
LIBRARY.define('start_sum(Tensor(a!) bucket, Tensor? previous) -> ()')
LIBRARY.define('finish_sum(Tensor(a!) bucket) -> ()')


class Running:
    """The sums that were started and not yet waited for."""

    handles: ClassVar[dict[int, Any]] = {}      # Address of a bucket -> what PyTorch gave for its sum.


def start(bucket: torch.Tensor, previous: torch.Tensor | None) -> None:
    with translating_errors(bucket.device.type):
        Running.handles[bucket.data_ptr()] = dist.all_reduce(bucket, async_op=True)


def finish(bucket: torch.Tensor) -> None:
    with translating_errors(bucket.device.type):
        Running.handles.pop(bucket.data_ptr()).wait()      # With NCCL the stream waits, not the host.


def do_nothing(*tensors: torch.Tensor | None) -> None:
    """On meta tensors."""


for key, starting, finishing in (('CUDA', start, finish), ('CPU', start, finish), ('Meta', do_nothing, do_nothing)):
    LIBRARY.impl('start_sum', starting, key)
    LIBRARY.impl('finish_sum', finishing, key)
