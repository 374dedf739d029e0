"""Shared variables whose value lives on the device, and the way between NumPy and torch."""

import copy

import numpy as np
import theano
import torch
from theano.gof.link import Container
from theano.tensor.sharedvar import TensorSharedVariable


def from_numpy(value, device):
    """An ndarray as a tensor on `device`; on the CPU without a copy where torch can."""
    value = np.asarray(value)
    if any(stride < 0 for stride in value.strides) or not value.dtype.isnative:
        value = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder('='))
    if not value.flags.writeable:       # Torch warns; nothing here ever writes into an input.
        value = value.copy()
    return torch.from_numpy(value).to(device)


def to_numpy(value):
    """A tensor as ndarray (on the CPU without a copy); anything else as it is."""
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value


class TorchContainer(Container):
    """A storage cell that holds a tensor; writes take ndarrays or tensors, reads give ndarrays."""

    device = 'cpu'

    def __get__(self):
        return to_numpy(self.storage[0])

    def __set__(self, value):
        if not isinstance(value, torch.Tensor):
            super().__set__(value)
            value = self.storage[0]
        self.storage[0] = value if value is None else as_tensor(value, self.device)

    data = property(__get__, __set__)
    value = property(__get__, __set__)


def as_tensor(value, device):
    return value.to(device) if isinstance(value, torch.Tensor) else from_numpy(value, device)


class TorchSharedVariable(TensorSharedVariable):
    """A shared variable whose value is a tensor on a device; its Theano type is the ordinary tensor type."""

    device = 'cpu'

    def get_value(self, borrow=False, return_internal_type=False):
        """The value as an ndarray, always a copy (or the tensor itself with `return_internal_type`)."""
        if return_internal_type:
            return self.container.storage[0]
        return np.array(self.container.value)

    def set_value(self, value, borrow=False):
        self.container.value = copy.deepcopy(value)


def install(device):
    """Make `theano.shared` create variables on `device` from now on, where that is not the CPU.

    On the CPU Theano's own shared variables do: a tensor and an ndarray can share memory.
    """
    constructors = theano.compile.sharedvalue.shared.constructors
    constructors[:] = [constructor for constructor in constructors if not isinstance(constructor, DeviceConstructor)]
    if torch.device(device).type != 'cpu':
        constructors.append(DeviceConstructor(device))


class DeviceConstructor:
    """A constructor for `theano.shared` that takes ndarrays to a device."""

    def __init__(self, device):
        self.device = device

    def __call__(self, value, name=None, strict=False, allow_downcast=None, borrow=False, broadcastable=None,
                 target='cpu'):
        if not isinstance(value, np.ndarray | np.generic):
            raise TypeError('not an array')
        value = np.array(value)
        type_ = theano.tensor.TensorType(value.dtype, broadcastable or (False,) * value.ndim)
        container = TorchContainer(type_, [None], strict=strict, allow_downcast=allow_downcast, name=name)
        container.device = self.device
        container.value = value
        return TorchSharedVariable(type=type_, value=None, name=name, strict=strict, container=container)
