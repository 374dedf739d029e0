"""Conversion between NumPy and torch."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def torch_dtype(name: str) -> torch.dtype:
    """'float32' -> torch.float32."""
    return getattr(torch, str(name))


def computing_dtype(name: str) -> torch.dtype:
    """The type to compute in: int64 for the wide unsigned types, with which torch can hardly compute."""
    return torch.int64 if name in ('uint16', 'uint32', 'uint64') else torch_dtype(name)


def filled(value: int | float | complex, dtype: torch.dtype, like: Tensor) -> Tensor:
    """A number as a tensor on the device of `like`, filled by a kernel; `torch.tensor` would make the host wait."""
    return torch.full((), value, dtype=dtype, device=like.device)


def from_numpy(value: Any, device: torch.device) -> Tensor:
    """An ndarray or number as a contiguous tensor on `device`; shares memory on the CPU if torch can."""
    value = np.asarray(value)
    if not (value.flags.carray and value.dtype.isnative):   # Torch warns about arrays that are not writable.
        value = np.array(value, dtype=value.dtype.newbyteorder('='), order='C')
    try:
        tensor = torch.from_numpy(value)
    except ValueError:      # Dimensions of size one may have any stride.
        tensor = torch.from_numpy(value.copy())
    if device.type == 'cuda' and torch.cuda.is_current_stream_capturing():
        # In every replay, a CUDA graph would read this memory again, which then holds something else.
        raise RuntimeError(f'an array of shape {value.shape} is copied from the host in every call')
    return tensor if device.type == 'cpu' else tensor.to(device, non_blocking=True)


def to_numpy(value: Any) -> Any:
    """A tensor as an ndarray, without a copy on the CPU; anything else unchanged."""
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
