"""The way between NumPy and torch."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def torch_dtype(name: str) -> torch.dtype:
    """'float32' -> torch.float32."""
    return getattr(torch, str(name))


def computing_dtype(name: str) -> torch.dtype:
    """The type to compute in: int64 for the wide unsigned types, with which torch can do little but convert."""
    return torch.int64 if name in ('uint16', 'uint32', 'uint64') else torch_dtype(name)


def filled(value: int | float | complex, dtype: torch.dtype, like: Tensor) -> Tensor:
    """A number as a tensor on the device of `like`, by a kernel there: `torch.tensor` would make the host wait."""
    return torch.full((), value, dtype=dtype, device=like.device)


def from_numpy(value: Any, device: torch.device) -> Tensor:
    """An ndarray (or number) as a contiguous tensor on `device`; on the CPU it shares the memory where torch can."""
    value = np.asarray(value)
    if not (value.flags.carray and value.dtype.isnative):   # Torch warns of those that cannot be written to.
        value = np.array(value, dtype=value.dtype.newbyteorder('='), order='C')
    try:
        tensor = torch.from_numpy(value)
    except ValueError:      # The stride of a dimension of size one may be anything.
        tensor = torch.from_numpy(value.copy())
    if device.type == 'cuda' and torch.cuda.is_current_stream_capturing():
        # A CUDA graph would read this memory again in every replay, when it is long something else.
        raise RuntimeError(f'an array of shape {value.shape} comes from the host in every call')
    return tensor if device.type == 'cpu' else tensor.to(device, non_blocking=True)


def to_numpy(value: Any) -> Any:
    """A tensor as ndarray, on the CPU without a copy; anything else as it is."""
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
