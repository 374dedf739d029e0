"""A GPU for tests of the engine: a real one if the machine has one, else the stand-in."""

import contextlib

import theano_torch
from theano_torch import capture, gpus, uploads
from theano_torch.fuser.kernels import loaded

import pytest
import torch

from tests.helpers import restored_settings
from tests.standin.installing import installed


@contextlib.contextmanager
def a_gpu(backing='cpu', **facts):
    """Provide a GPU inside the context. Yields the stand-in, a `Gpu`, or None if the GPU is real.

    With ``backing='meta'`` or other `facts` of `Gpu`, the stand-in is used in any case.
    """
    with restored_settings():
        if backing == 'cpu' and not facts and torch.cuda.is_available():
            yield None
            return
        forget()
        try:
            with pytest.MonkeyPatch.context() as patch, installed(backing, **facts) as gpu:
                patch.setenv('TRITON_INTERPRET', '1')       # For the kernels of `theano_torch.fuser`.
                yield gpu
                theano_torch.install('cpu')
        finally:
            forget()


def forget():
    """Clear the engine's caches: streams and pools belong to one stand-in, and its kernels to Triton's interpreter."""
    capture.graphs_on.cache_clear()
    gpus.timed_on.cache_clear()
    loaded.cache_clear()
    uploads.uploads_to.cache_clear()
