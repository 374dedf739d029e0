"""The error of a lost connection between processes. Importable without PyTorch."""

import contextlib
from collections.abc import Iterator


class ConnectionLost(RuntimeError):
    """A collective operation failed: another process has ended or cannot be reached, or it took too long."""


@contextlib.contextmanager
def translating_errors(device_type: str) -> Iterator[None]:
    """Turn errors of a collective operation on tensors of the torch device type `device_type` into `ConnectionLost`."""
    import torch.distributed as dist
    # Gloo raises plain RuntimeErrors; with NCCL, those may be any error of CUDA.
    lost = RuntimeError if device_type == 'cpu' else dist.DistError
    try:
        yield
    except lost as error:
        raise ConnectionLost(' '.join(str(error).split())) from error
