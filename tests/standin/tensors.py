"""Tensors of the stand-in: wrappers on cuda:0 around CPU or meta tensors."""

import types

import torch

from tests.standin.gpu import DEVICE


class GpuTensor(torch.Tensor):
    """A tensor on the stand-in `gpu`; `behind` is the wrapped tensor, on the CPU or on meta."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, real, gpu):
        # For C++, the wrapper is a meta tensor, since a CPU build does not support CUDA tensors.
        self = torch.Tensor._make_wrapper_subclass(
            cls, real.size(), strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype,
            layout=real.layout, device='meta', requires_grad=False)
        self.behind, self.gpu = real, gpu
        gpu.hold(self, real)
        return self

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def to(self, *args, **kwargs):
        """Like `torch.Tensor.to`. C++, for which this is a meta tensor, would copy even if the device is the same."""
        for value in args:
            if isinstance(value, torch.Tensor):
                kwargs.update(device=value.device, dtype=value.dtype)
            elif isinstance(value, torch.dtype):
                kwargs['dtype'] = value
            elif isinstance(value, str | torch.device):
                kwargs['device'] = value
        if torch.device(kwargs.get('device') or DEVICE).type == 'cuda':
            kwargs.pop('device', None)
        return super().to(**kwargs) if kwargs else self

    def cuda(self, *args, **kwargs):
        return self

    def data_ptr(self):
        if not self.behind.numel():
            return 0
        return address(self.behind, self.gpu) + self.behind.storage_offset() * self.behind.element_size()

    def untyped_storage(self):
        start, size = address(self.behind, self.gpu), self.behind.untyped_storage().nbytes()
        return types.SimpleNamespace(data_ptr=lambda: start, nbytes=lambda: size, device=DEVICE)

    def record_stream(self, stream):
        with self.gpu.lock:
            self.gpu.clocks.accesses[storage_id(self.behind)].recorded.add(stream)

    def numpy(self, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
                        'memory first.')

    __array__ = numpy

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f'GpuTensor({tuple(self.shape)}, {self.dtype})'

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        from tests.standin.ops import dispatch
        gpu = next(value.gpu for value in tensors_in((args, kwargs)) if isinstance(value, GpuTensor))
        return dispatch(gpu, func, args, kwargs or {})


def storage_id(real):
    return real.untyped_storage()._cdata


def address(real, gpu):
    """The address of a tensor's memory; for meta tensors, the address of the storage object."""
    storage = real.untyped_storage()
    return storage.data_ptr() if gpu.backing == 'cpu' and storage.nbytes() else storage._cdata


def tensors_in(tree):
    """All tensors in nested tuples, lists and dicts. PyTorch's `tree_flatten` would take a third of a test's time."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, tuple | list):
        return []
    found = []
    for part in tree:
        if isinstance(part, torch.Tensor):
            found.append(part)
        elif isinstance(part, tuple | list | dict):
            found += tensors_in(part)
    return found


def mapped(function, tree):
    """Apply `function` to each tensor in nested tuples, lists and dicts."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, tuple | list):
        return type(tree)([mapped(function, part) for part in tree])
    if isinstance(tree, dict):
        return {name: mapped(function, part) for name, part in tree.items()}
    return tree


def unwrapped(tree):
    return mapped(lambda tensor: tensor.behind if isinstance(tensor, GpuTensor) else tensor, tree)


def wrapped(tree, gpu, known=()):
    """Wrap each tensor in `tree`; a tensor that one of `known` wraps keeps that wrapper."""
    by_real = {id(tensor.behind): tensor for tensor in known}

    def wrap(real):
        return by_real[id(real)] if id(real) in by_real else GpuTensor(real, gpu)
    return mapped(wrap, tree)


def fill_with_garbage(real):
    """Fill the whole memory of a tensor with NaN, or with arbitrary integers."""
    if real.device.type == 'cpu' and real.numel():
        whole = torch.empty(0, dtype=torch.uint8).set_(real.untyped_storage())
        whole.fill_(0xff if real.is_floating_point() or real.is_complex() else 0x55)
