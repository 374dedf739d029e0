"""Data-parallel training: Theano ops that average tensors over all processes of `torch.distributed`.

Every process builds the same function, feeds it its own share of the minibatch, and calls it equally often::

    torch.distributed.init_process_group('gloo')                    # 'nccl' for CUDA GPUs
    grads = theano_torch.collective.all_reduce_mean(theano.grad(loss, params))
    updates = lasagne.updates.adam(grads, params)

The ops run on all engines. PyTorch is imported only when they run.
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

# A collective has an overhead of tens of microseconds. Transferring 8 MiB takes 40 us in a ring of GPUs in one machine
# and 700 to 1200 us between machines with 100 Gb/s, where larger buckets gain little. Larger buckets also leave more to
# transfer after the last gradient. See the table in docs/gpus.md.
BUCKET_BYTES = 8 << 20


def all_reduce_mean(tensors: Sequence, sizes: Sequence[int] | None = None, bucket_bytes: int | None = None) -> list:
    """Means of `tensors` over all processes.

    The tensors are sent in buckets, each with one collective operation, from the last tensor to the first, because the
    gradients of the last layers are ready first. The sum of a bucket starts as soon as its tensors are computed, and
    overlaps with the rest of the program. Pass all tensors of a function in one call: the order of two independent
    calls is up to Theano and may differ between processes, which would then wait for each other forever.

    Parameters
    ----------
    tensors : list of float expressions
        Types and shapes must be the same in all processes.
    sizes : list of int, optional
        Approximate number of elements of each tensor. Default: one bucket for all.
    bucket_bytes : int, optional
        Size at which a bucket is full. Default: `BUCKET_BYTES`.

    Returns
    -------
    list of expressions
        Means of the same types, with the same bits in all processes. With two processes they do not depend on the
        buckets. With more, the position of a number in its bucket determines the order of summation in a ring.
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
    """Distribute tensors of these sizes, from last to first, to buckets that are full at `limit`; returns indices."""
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
    """Base of the ops. Without `__props__` an instance equals only itself, so that Theano never merges two of them."""

    in_order = True             # All processes must run them in the same order.

    @property
    def can_be_captured(self) -> bool:
        """Whether a CUDA graph may contain the op: not if NCCL waits in the calling thread."""
        return os.environ.get('TORCH_NCCL_BLOCKING_WAIT', '0') in ('', '0')

    def do_constant_folding(self, node: Any) -> bool:
        """Never fold: constants may differ between processes, and the others wait for this one."""
        return False


class StartSum(_Collective):
    """Start the sum of some tensors over all processes.

    Inputs: the bucket that must start before, if `is_chained`; then the tensors. Outputs: a bucket, which is the vector
    of all their elements in the type `dtype`, and the view of each tensor in it. They hold the sums once a
    :class:`FinishMean` has waited for them; no other op may use them.
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
    """Wait for started sums, and divide them by the number of processes.

    Inputs: buckets, then the views of the tensors in them, `counts[i]` for bucket i. Outputs: the means, of types
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
        """Wait for all buckets, and return the outputs in these shapes."""
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
    """Start the sum of torch tensors over all processes, after the sum of the bucket `previous`.

    Returns
    -------
    list of tensors
        The bucket and the view of each tensor in it, see :class:`StartSum`.

    Raises
    ------
    ConnectionLost
    """
    import theano_torch.sums  # noqa: F401  (defines the ops)

    import torch
    bucket = torch.cat([tensor.reshape(-1).to(dtype) for tensor in tensors])
    torch.ops.theano_torch.start_sum(bucket, previous)
    parts = bucket.split([tensor.numel() for tensor in tensors])
    return [bucket, *(part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))]


def finish_mean(bucket: 'torch.Tensor', shapes: Sequence[tuple[int, ...]],
                dtypes: Sequence['torch.dtype']) -> list['torch.Tensor']:
    """Wait for the sum of a bucket, and return the means in these shapes and types.

    Raises
    ------
    ConnectionLost
    """
    import torch
    torch.ops.theano_torch.finish_sum(bucket)
    parts = (bucket / torch.distributed.get_world_size()).split([math.prod(shape) for shape in shapes])
    return [part.view(shape).to(dtype) for part, shape, dtype in zip(parts, shapes, dtypes, strict=True)]


def mean_over_processes(tensors: Sequence['torch.Tensor']) -> list['torch.Tensor']:
    """Means of torch tensors over all processes, in the same shapes and types.

    Raises
    ------
    ConnectionLost
    """
    import torch
    dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    bucket, *places = start_sum(tensors, dtype)
    return finish_mean(bucket, [tuple(place.shape) for place in places], [tensor.dtype for tensor in tensors])
