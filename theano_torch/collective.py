"""Data-parallel training: averages over all processes of `torch.distributed`, as ops of a Theano graph.

Every process builds the same function, feeds it with its own share of the minibatch and calls it equally often::

    torch.distributed.init_process_group('gloo')                    # 'nccl' for CUDA GPUs
    grads = theano_torch.collective.all_reduce_mean(theano.grad(loss, params))
    updates = lasagne.updates.adam(grads, params)

The ops run on all engines. PyTorch is imported when they run, not before.
"""

import functools
import math
import operator
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from theano_torch.connection import ConnectionLost, translating_errors
from theano_torch.registry import lower

import numpy as np
import theano
import theano.tensor as T
from theano import gof

if TYPE_CHECKING:
    import torch

__all__ = ['ConnectionLost', 'FinishMean', 'StartSum', 'all_reduce_mean', 'mean_over_processes', 'translating_errors']

# A collective takes tens of microseconds beside the transfer. The transfer of 8 MiB takes 40 in a ring of GPUs in a
# machine and 700 to 1200 between machines with 100 Gb/s, so larger buckets gain little there. With larger ones, more is
# left to transfer when the last gradient is there. See the table in docs/gpus.md.
BUCKET_BYTES = 8 << 20


def all_reduce_mean(tensors: Sequence, sizes: Sequence[int] | None = None, bucket_bytes: int | None = None) -> list:
    """Means of `tensors` over all processes.

    The tensors travel in buckets, in one collective operation each, from the last tensor to the first: the gradients of
    the last layers are ready first. A bucket starts as soon as its tensors are there, and the program goes on beside
    it. Processes wait for each other, so give all tensors of a function to one call: the order in which a function runs
    two independent ones is up to Theano and not sure to be the same everywhere.

    Parameters
    ----------
    tensors : list of float expressions
        Of the same types and shapes in all processes.
    sizes : list of int, optional
        How many numbers each tensor has, at least about. Without them all travel in one bucket.
    bucket_bytes : int, optional
        A bucket that has reached this size is full; `BUCKET_BYTES` by default.

    Returns
    -------
    list of expressions
        Of the same types, with the same bits in all processes. For two processes they do not depend on the buckets; of
        more, the order in which a ring adds depends on the place of a number in its bucket.
    """
    tensors = [T.as_tensor_variable(tensor) for tensor in tensors]
    for tensor in tensors:
        if tensor.dtype not in T.float_dtypes:
            raise TypeError(f'all_reduce_mean needs float tensors, got {tensor.type}')
    if not tensors:
        return []
    dtype = theano.scalar.upcast(*[tensor.dtype for tensor in tensors])
    buckets: list = []
    parts: list = []
    order = []
    for indices in in_buckets(sizes or [0] * len(tensors),
                              (bucket_bytes or BUCKET_BYTES) // np.dtype(dtype).itemsize):
        bucket, *places = StartSum(dtype, bool(buckets))(*buckets[-1:], *[tensors[index] for index in indices],
                                                         return_list=True)
        buckets.append(bucket)
        parts.append(places)
        order += indices
    finish = FinishMean([len(places) for places in parts], [tensors[index].dtype for index in order])
    means = finish(*buckets, *[place for places in parts for place in places], return_list=True)
    return [mean for _index, mean in sorted(zip(order, means, strict=True), key=lambda pair: pair[0])]


def in_buckets(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Indices of tensors with these sizes in buckets, from the last one to the first; a bucket of `limit` is full."""
    result: list[list[int]] = []
    filled = limit
    for index in reversed(range(len(sizes))):
        if filled >= limit:
            result.append([])
            filled = 0
        result[-1].append(index)
        filled += sizes[index]
    return result


class _Collective(gof.Op):
    """Without `__props__` every instance equals only itself, so that Theano does not merge two of them."""

    in_order = True             # All processes take part equally often.

    @property
    def can_be_captured(self) -> bool:
        """Whether a CUDA graph may have it: not where NCCL waits in the calling thread."""
        return os.environ.get('TORCH_NCCL_BLOCKING_WAIT', '0') in ('', '0')

    def do_constant_folding(self, node: Any) -> bool:
        """Constants of this process may not be those of another, and the others wait."""
        return False


class StartSum(_Collective):
    """Start the sum of some tensors over all processes.

    Inputs: the bucket that has to start before, if `is_chained`; then the tensors. Outputs: a bucket, the vector of all
    their numbers in the type `dtype`, and the place of each tensor in it. They hold the sums when a
    :class:`FinishMean` has waited for them; nothing else may use them.
    """

    starts = True

    def __init__(self, dtype: str, is_chained: bool) -> None:
        self.dtype, self.is_chained = dtype, is_chained

    def make_node(self, *inputs: Any) -> gof.Apply:
        tensors = inputs[self.is_chained:]
        return gof.Apply(self, list(inputs), [T.TensorType(self.dtype, (False,))()] + [
            T.TensorType(self.dtype, tensor.broadcastable)() for tensor in tensors])

    def infer_shape(self, node: Any, input_shapes: list) -> list:
        shapes = input_shapes[self.is_chained:]
        sizes = [functools.reduce(operator.mul, shape, 1) for shape in shapes]
        return [(functools.reduce(operator.add, sizes),), *shapes]

    def perform(self, node: Any, inputs: list, output_storage: list) -> None:
        import torch
        tensors = [torch.from_numpy(np.array(value)) for value in inputs[self.is_chained:]]
        for cell, value in zip(output_storage, start_sum(tensors, getattr(torch, self.dtype)), strict=True):
            cell[0] = value.numpy()


class FinishMean(_Collective):
    """Wait for sums that were started, and divide them by the number of processes.

    Inputs: buckets, then the places of the tensors in them, `counts` of each bucket. Outputs: the means, of the types
    `dtypes`.
    """

    def __init__(self, counts: Sequence[int], dtypes: Sequence[str]) -> None:
        self.counts, self.dtypes = list(counts), list(dtypes)

    def make_node(self, *inputs: Any) -> gof.Apply:
        places = inputs[len(self.counts):]
        return gof.Apply(self, list(inputs), [T.TensorType(dtype, place.broadcastable)()
                                              for dtype, place in zip(self.dtypes, places, strict=True)])

    def infer_shape(self, node: Any, input_shapes: list) -> list:
        return input_shapes[len(self.counts):]

    def means(self, buckets: Sequence['torch.Tensor'], shapes: Sequence[Sequence[int]]) -> list['torch.Tensor']:
        """The outputs of these shapes, when all buckets have arrived."""
        import torch
        remaining, dtypes = iter(shapes), iter(self.dtypes)
        result: list[torch.Tensor] = []
        for bucket, count in zip(buckets, self.counts, strict=True):
            mine = [tuple(next(remaining)) for _ in range(count)]
            result += finish_mean(bucket, mine, [getattr(torch, next(dtypes)) for _ in mine])
        return result

    def perform(self, node: Any, inputs: list, output_storage: list) -> None:
        import torch
        num = len(self.counts)
        means = self.means(list(map(torch.from_numpy, inputs[:num])), [value.shape for value in inputs[num:]])
        for var, cell, mean in zip(node.outputs, output_storage, means, strict=True):
            cell[0] = theano._asarray(mean.numpy(), dtype=var.dtype)


@lower.register(StartSum)
def _(op, node, build):
    import torch
    dtype = getattr(torch, op.dtype)
    if op.is_chained:
        return lambda previous, *tensors: tuple(start_sum(tensors, dtype, previous))
    return lambda *tensors: tuple(start_sum(tensors, dtype))


@lower.register(FinishMean)
def _(op, node, build):
    num = len(op.counts)
    shapes = [build.shape(var) for var in node.inputs[num:]]

    def finish(*buckets):
        means = op.means(buckets, shapes)
        return means[0] if len(means) == 1 else tuple(means)
    return finish, node.inputs[:num]


def start_sum(tensors: Sequence['torch.Tensor'], dtype: 'torch.dtype',
              previous: 'torch.Tensor | None' = None) -> list['torch.Tensor']:
    """Start the sum of torch tensors over all processes, after that of the bucket `previous`.

    Returns
    -------
    list of tensors
        The bucket and the place of each tensor in it, see :class:`StartSum`.

    Raises
    ------
    ConnectionLost
    """
    import theano_torch.sums  # noqa: F401  (it defines the ops)

    import torch
    bucket = torch.cat([tensor.reshape(-1).to(dtype) for tensor in tensors])
    torch.ops.theano_torch.start_sum(bucket, previous)
    parts = bucket.split([tensor.numel() for tensor in tensors])
    return [bucket, *(part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))]


def finish_mean(bucket: 'torch.Tensor', shapes: Sequence[tuple[int, ...]],
                dtypes: Sequence['torch.dtype']) -> list['torch.Tensor']:
    """Wait for the sum of a bucket; returns the means, tensors of these shapes and types.

    Raises
    ------
    ConnectionLost
    """
    import torch
    torch.ops.theano_torch.finish_sum(bucket)
    parts = (bucket / torch.distributed.get_world_size()).split([math.prod(shape) for shape in shapes])
    return [part.view(shape).to(dtype) for part, shape, dtype in zip(parts, shapes, dtypes, strict=True)]


def mean_over_processes(tensors: Sequence['torch.Tensor']) -> list['torch.Tensor']:
    """Means of torch tensors over all processes: a list of tensors of the same shapes and types.

    Raises
    ------
    ConnectionLost
    """
    import torch
    dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    bucket, *places = start_sum(tensors, dtype)
    return finish_mean(bucket, [tuple(place.shape) for place in places], [tensor.dtype for tensor in tensors])
