"""Shared variables on a device. Importable without PyTorch, so that their pickles can be read without it.

The CPU needs none, because tensors and ndarrays share memory there: Theano's own shared variables work.
"""

import importlib.util
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from theano_torch import memory, waits

import numpy as np
import theano
from theano.compile.function_module import FunctionMaker
from theano.gof.link import Container
from theano.tensor.sharedvar import TensorSharedVariable

if TYPE_CHECKING:
    import torch


class _Making(threading.local):
    """Whether the current thread is making a function for the torch engine."""

    a_function = False


_making = _Making()


class DeviceCell(list):
    """A storage cell of Theano, ``[value]``, that holds a torch tensor but reads and writes ndarrays.

    Theano, its containers and its Python linkers see an ndarray: ``cell[0]`` copies it from the device. The torch
    engine uses `tensor`, a contiguous tensor on `device`, or None if the cell is empty.
    """

    def __init__(self, value: np.ndarray | None, device: str) -> None:
        super().__init__([None])
        import torch
        self.device = torch.device(device)
        self.tensor: torch.Tensor | None = None
        self[0] = value

    def __getitem__(self, index: Any) -> Any:
        if index != 0:
            return super().__getitem__(index)
        if _making.a_function:
            return None     # Theano reads the values of all shared variables without using them.
        with memory.DEVICE, waits.noted():
            return None if self.tensor is None else self.tensor.to('cpu', copy=True).numpy()

    def __setitem__(self, index: Any, value: Any) -> None:
        from theano_torch.convert import from_numpy

        import torch
        if value is None:
            self.tensor = None
            return
        with memory.DEVICE, memory.translating_errors(self.device), torch.inference_mode():
            self.put(from_numpy(np.array(value), torch.device('cpu')))

    def __iter__(self) -> Iterator:
        return iter((self[0],))

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None

    def __repr__(self) -> str:
        return f'<value on {self.device}>'

    def put(self, tensor: 'torch.Tensor') -> None:
        """Store a contiguous tensor; copy it to the present tensor, which CUDA graphs use, if it fits."""
        if self.tensor is None or self.tensor.shape != tensor.shape or self.tensor.dtype != tensor.dtype:
            self.tensor = tensor.to(self.device)
        elif tensor.dim() == 0 and tensor.device.type == 'cpu':
            self.tensor.fill_(tensor.item())        # A kernel argument; a copy would wait for all queued work.
        elif self.tensor.data_ptr() != tensor.data_ptr():
            self.tensor.copy_(tensor)

    def __reduce__(self) -> tuple:
        return _restore_cell, (self[0], str(self.device))


def _restore_cell(value: np.ndarray | None, device: str) -> list:
    """Restore a cell from a pickle or copy; without the device, as an ordinary cell."""
    if importlib.util.find_spec('torch'):
        import torch
        if not device.startswith('cuda') or torch.device(device).index in range(torch.cuda.device_count()):
            return DeviceCell(value, device)
    return [value]


class TorchSharedVariable(TensorSharedVariable):
    """A shared variable with a `DeviceCell`; its Theano type is the ordinary tensor type.

    `get_value` returns an independent ndarray, even with ``borrow=True``. With ``return_internal_type=True`` it returns
    the variable's own tensor, which must only be read.
    """

    def get_value(self, borrow: bool = False, return_internal_type: bool = False) -> Any:
        storage = self.container.storage
        if return_internal_type and isinstance(storage, DeviceCell):
            return storage.tensor       # The value stays on the device.
        return np.array(self.container.value)

    def set_value(self, new_value: Any, borrow: bool = False) -> None:
        self.container.value = new_value

    def zero(self, borrow: bool = False) -> None:
        self.container.value = np.zeros_like(self.container.value)


class DeviceConstructor:
    """A constructor in ``theano.shared.constructors`` that puts numeric arrays and numbers on `device`."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, value: Any, name: str | None = None, strict: bool = False, allow_downcast: bool | None = None,
                 borrow: bool = False, broadcastable: tuple[bool, ...] | None = None,
                 target: str = 'cpu') -> TorchSharedVariable:
        if not isinstance(value, np.ndarray | np.number | float | int | complex):
            raise TypeError('not a number or array of numbers')     # Makes Theano try the next constructor.
        value = np.asarray(value)
        broadcastable = (False,) * value.ndim if broadcastable is None else broadcastable
        type_ = theano.tensor.TensorType(value.dtype, broadcastable)
        container = Container(type_, DeviceCell(type_.filter(value), self.device), strict=strict,
                              allow_downcast=allow_downcast, name=name)
        return TorchSharedVariable(name=name, type=type_, value=None, strict=None, container=container)


def _create(maker: FunctionMaker, *args: Any, create: Any = FunctionMaker.create, **kwargs: Any) -> Any:
    """`FunctionMaker.create` without copying the values of all shared variables from the device."""
    before, _making.a_function = _making.a_function, getattr(maker.linker, 'runs_on_torch', False)
    try:
        return create(maker, *args, **kwargs)
    finally:
        _making.a_function = before


FunctionMaker.create = _create


def install(device: str) -> None:
    """Make `theano.shared` create variables on the torch device `device`; earlier variables stay where they are."""
    constructors = theano.compile.sharedvalue.shared.constructors
    constructors[:] = [constructor for constructor in constructors if not isinstance(constructor, DeviceConstructor)]
    if not str(device).startswith('cpu'):
        constructors.append(DeviceConstructor(device))
