"""Copies between the host and the GPU, pinned memory, and other ops that make the host wait."""

import weakref

import torch

from tests.standin.gpu import GpuError
from tests.standin.streams import Upload, forbid_while_recording
from tests.standin.tensors import GpuTensor

aten = torch.ops.aten

# Kinds of notes.
VALUE, DOWNLOAD, UPLOAD, ASYNCHRONOUS = 'value wanted on the host', 'copy to the host', 'blocking copy to the device', \
    'asynchronous copy to the device'

# Ops whose results are on the host or have a shape that depends on values.
WAITING = {'aten::_local_scalar_dense', 'aten::nonzero', 'aten::masked_select', 'aten::equal', 'aten::_unique2',
           'aten::unique_dim', 'aten::is_nonzero', 'aten::repeat_interleave', 'aten::bincount', 'aten::allclose'}

MASKING = {'aten::index', 'aten::index_put_', 'aten::index_put'}        # Ops that wait if an index is a mask.


def host_waits(gpu, kind, op):
    """Record that the host waits for the current stream."""
    forbid_while_recording(gpu, kind, op)
    gpu.waits += 1
    gpu.here.waits += 1
    gpu.note(kind, op)
    gpu.clocks.current().synchronize()


def check_waiting(gpu, op, args):
    """Record a wait if the host needs the values of an op's arguments."""
    is_masked = op._schema.name in MASKING and any(
        isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1])
    if op._schema.name in WAITING or is_masked:
        host_waits(gpu, VALUE, op)
        if gpu.backing == 'meta':
            raise GpuError('meta tensors have no values', op)


class Pinned:
    """The pinned memory of the host."""

    def __init__(self):
        self.tensors = {}       # id of a storage -> weak reference to the tensor that was pinned

    def add(self, tensor):
        self.tensors[tensor.untyped_storage()._cdata] = weakref.ref(tensor)
        return tensor

    def has(self, tensor):
        known = self.tensors.get(tensor.untyped_storage()._cdata)
        return known is not None and known() is not None


def to_host(gpu, op, args, kwargs):
    """`tensor.to('cpu')`."""
    source = args[0]
    host_waits(gpu, DOWNLOAD, op)
    dtype = kwargs.get('dtype') or source.dtype
    if gpu.backing == 'meta':
        return torch.zeros(source.shape, dtype=dtype)
    gpu.clocks.use([source.behind], [], op)
    gpu.clocks.current().synchronize()
    memory_format = kwargs.get('memory_format') or torch.preserve_format
    return source.behind.to(dtype=dtype, memory_format=memory_format, copy=True)


def to_device(gpu, op, args, kwargs):
    """`tensor.to('cuda')`."""
    source = args[0]
    dtype = kwargs.get('dtype') or source.dtype
    if gpu.backing == 'meta':
        real = torch.empty_strided(source.shape, source.stride(), dtype=dtype, device='meta')
    else:
        real = source.to(dtype=dtype, copy=True)
    upload(gpu, op, source, real, bool(kwargs.get('non_blocking')), fresh=[real])
    result = GpuTensor(real, gpu)
    for observer in gpu.observers:
        observer(op, (source,), kwargs, result)
    return result


def copy_between(gpu, op, args, kwargs):
    """`target.copy_(source)` if one of them is on the host."""
    target, source = args[:2]
    non_blocking = bool(args[2] if len(args) > 2 else kwargs.get('non_blocking'))
    if isinstance(target, GpuTensor):
        upload(gpu, op, source, target.behind, non_blocking)
        if gpu.backing == 'cpu':
            target.behind.copy_(source)
        for observer in gpu.observers:
            observer(op, args, kwargs, target)
        return target
    host_waits(gpu, DOWNLOAD, op)
    if gpu.backing == 'cpu':
        gpu.clocks.use([source.behind], [], op)
        gpu.clocks.current().synchronize()
        target.copy_(source.behind)
    return target


def upload(gpu, op, source, real, non_blocking, fresh=()):
    """Record a copy from the host into `real`. Only copies from pinned memory are asynchronous."""
    forbid_while_recording(gpu, 'a copy from the host', op)
    is_asynchronous = non_blocking and gpu.pinned.has(source)
    if is_asynchronous:
        gpu.note(ASYNCHRONOUS, op)
    else:
        host_waits(gpu, UPLOAD, op)
    clocks = gpu.clocks
    clocks.use([], [real], op, fresh)
    if is_asynchronous:
        clocks.uploads.append(Upload(source, (clocks.current().number, clocks.current().time)))
    else:
        clocks.current().synchronize()
