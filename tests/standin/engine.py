"""A GPU for tests of the engine: a real one where there is one, else the stand-in."""

import contextlib

from theano_torch import capture, gpus, uploads
from theano_torch.fuser.kernels import loaded

import pytest
import torch

from tests.standin.installing import installed


@contextlib.contextmanager
def a_gpu(backing='cpu', **facts):
    """Inside, there is a GPU. Yields the stand-in, a `Gpu`, or None where the GPU is real.

    Only tensors with values can be on a real one: with ``backing='meta'`` it is the stand-in in any case.
    """
    if backing == 'cpu' and not facts and torch.cuda.is_available():
        yield None
        return
    forget()
    try:
        with pytest.MonkeyPatch.context() as patch, installed(backing, **facts) as gpu:
            patch.setenv('TRITON_INTERPRET', '1')       # For the kernels of `theano_torch.fuser`.
            yield gpu
    finally:
        forget()


def forget():
    """Clear the engine's notes on devices: streams and pools are those of one stand-in, kernels for the interpreter."""
    capture.graphs_on.cache_clear()
    gpus.timed_on.cache_clear()
    loaded.cache_clear()
    uploads.uploads_to.cache_clear()
