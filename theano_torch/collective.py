"""Data-parallel training: averages over all processes of `torch.distributed`, as an op of a Theano graph.

Every process builds the same function, feeds it with its own share of the minibatch and calls it equally often::

    torch.distributed.init_process_group('gloo')                    # 'nccl' for CUDA GPUs
    grads = theano_torch.collective.all_reduce_mean(theano.grad(loss, params))
    updates = lasagne.updates.adam(grads, params)

The op runs on all engines. PyTorch is imported when it runs, not before.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from theano_torch.registry import lower

import numpy as np
import theano
import theano.tensor as T
from theano import gof

if TYPE_CHECKING:
    import torch


class ConnectionLost(RuntimeError):
    """A collective operation failed: another process has ended or cannot be reached, or it took too long."""


def all_reduce_mean(tensors: Sequence) -> list:
    """Means of `tensors` over all processes.

    All tensors travel in one bucket, in one collective operation. Processes wait for each other there, so give all
    tensors of a function to one call: the order in which a function runs two independent ones is up to Theano and not
    sure to be the same everywhere.

    Parameters
    ----------
    tensors : list of float expressions
        Of the same types and shapes in all processes.

    Returns
    -------
    list of expressions
        Of the same types, with the same bits in all processes.
    """
    return AllReduceMean()(*tensors, return_list=True)


class AllReduceMean(gof.Op):
    """See :func:`all_reduce_mean`.

    Without `__props__` every instance equals only itself, so that Theano does not merge two of them.
    """

    can_be_captured = False     # NCCL's waiting in the calling thread, which shows errors, cannot be recorded.
    in_order = True             # All processes take part equally often.

    def make_node(self, *tensors: Any) -> gof.Apply:
        inputs = [T.as_tensor_variable(tensor) for tensor in tensors]
        for tensor in inputs:
            if tensor.dtype not in T.float_dtypes:
                raise TypeError(f'AllReduceMean needs float tensors, got {tensor.type}')
        return gof.Apply(self, inputs, [tensor.type() for tensor in inputs])

    def do_constant_folding(self, node: Any) -> bool:
        """Constants of this process may not be those of another, and the others wait."""
        return False

    def infer_shape(self, node: Any, input_shapes: list) -> list:
        return input_shapes

    def perform(self, node: Any, inputs: list, output_storage: list) -> None:
        import torch
        tensors = [torch.from_numpy(np.array(value)) for value in inputs]
        for var, cell, mean in zip(node.outputs, output_storage, mean_over_processes(tensors), strict=True):
            cell[0] = theano._asarray(mean.numpy(), dtype=var.dtype)


@lower.register(AllReduceMean)
def _(op, node, build):
    if len(node.inputs) == 1:
        return lambda tensor: mean_over_processes([tensor])[0]
    return lambda *tensors: tuple(mean_over_processes(tensors))


def mean_over_processes(tensors: Sequence['torch.Tensor']) -> list['torch.Tensor']:
    """Means of torch tensors over all processes: a list of tensors of the same shapes and types.

    Raises
    ------
    ConnectionLost
    """
    import torch
    import torch.distributed as dist
    dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    bucket = torch.cat([tensor.reshape(-1).to(dtype) for tensor in tensors])
    with translating_errors(bucket.device.type):
        dist.all_reduce(bucket)
    bucket /= dist.get_world_size()
    parts = bucket.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]


@contextlib.contextmanager
def translating_errors(device_type: str) -> Iterator[None]:
    """Around a collective on tensors of the torch device type `device_type`: errors become :class:`ConnectionLost`."""
    import torch.distributed as dist
    # Gloo raises nothing more specific than RuntimeError; beside NCCL that may be any error of CUDA.
    lost = RuntimeError if device_type == 'cpu' else dist.DistError
    try:
        yield
    except lost as error:
        raise ConnectionLost(' '.join(str(error).split())) from error
