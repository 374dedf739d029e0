"""A GPU for tests of the engine: a real one where there is one, else the stand-in."""

import contextlib

import theano_torch
from theano_torch import capture, gpus, uploads
from theano_torch.fuser.kernels import loaded

import pytest
import theano
import torch

from tests.standin.installing import installed


@contextlib.contextmanager
def a_gpu(backing='cpu', **facts):
    """Inside, there is a GPU. Yields the stand-in, a `Gpu`, or None where the GPU is real.

    Only tensors with values can be on a real one: with ``backing='meta'`` it is the stand-in in any case.
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


@contextlib.contextmanager
def restored_settings():
    """Bring Theano's mode, type of floats and kinds of shared variables back at the end."""
    constructors = theano.compile.sharedvalue.shared.constructors
    before = theano.config.mode, theano.config.floatX, list(constructors)
    try:
        yield
    finally:
        theano.config.mode, theano.config.floatX, constructors[:] = before


def forget():
    """Clear the engine's notes on devices: streams and pools are those of one stand-in, kernels for the interpreter."""
    capture.graphs_on.cache_clear()
    gpus.timed_on.cache_clear()
    loaded.cache_clear()
    uploads.uploads_to.cache_clear()
