"""Helpers for tests of the engine: random arrays, comparisons, convolutions, a stand-in for CUDA graphs."""

import itertools
import types
import weakref

import theano_torch

import numpy as np
import torch

TORCH = theano_torch.mode()
# Relative to the largest value of the output; covers another order of summation.
TOLERANCE = {'float16': 2e-3, 'float32': 1e-5, 'float64': 1e-11, 'complex64': 1e-5, 'complex128': 1e-11}


def assert_same(mine, reference, tolerance=None):
    """Check type, shape, dtype and values; floats may differ by TOLERANCE of the largest one, integers not at all."""
    reference = np.asarray(reference)
    assert isinstance(mine, np.ndarray)
    assert mine.dtype == reference.dtype
    assert mine.shape == reference.shape
    if reference.dtype.kind in 'fc' and reference.size:
        finite = np.abs(reference[np.isfinite(reference)])
        scale = max(finite.max() if finite.size else 1, 1e-30)
        np.testing.assert_allclose(mine, reference, rtol=0, atol=scale * (tolerance or TOLERANCE[reference.dtype.name]))
    else:
        np.testing.assert_array_equal(mine, reference)


def numbers(*shape, dtype='float32', seed=0, low=-3, high=3):
    random = np.random.RandomState(seed)
    if dtype == 'bool':
        return random.rand(*shape) < 0.5
    if np.dtype(dtype).kind in 'iu':
        return random.randint(0 if dtype.startswith('u') else low, high, size=shape).astype(dtype)
    return (random.rand(*shape) * (high - low) + low).astype(dtype)


def tensors(filters, image_shape, pad, dtype=torch.float64, layout=torch.channels_last):
    """(image, gradients of the output, expected gradients of the filters)"""
    random = torch.Generator().manual_seed(1)
    image = torch.randn(image_shape, generator=random, dtype=dtype)
    size = [n + 2 * edge - k + 1 for n, edge, k in zip(image_shape[2:], pad, filters[2:], strict=True)]
    top_grad = torch.randn(image_shape[0], filters[0], *size, generator=random, dtype=dtype)
    wanted = torch.ops.aten.convolution_backward(
        top_grad, image, torch.empty(filters, dtype=dtype), None, [1, 1], list(pad), [1, 1], False, [0, 0], 1,
        [False, True, False])[1]
    return image.contiguous(memory_format=layout), top_grad.contiguous(memory_format=layout), wanted


def assert_close(result, wanted):
    assert result.shape == wanted.shape and result.dtype == wanted.dtype
    # Covers another order of summation, relative to the largest value.
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[wanted.dtype] * wanted.abs().max().item()
    np.testing.assert_allclose(result.numpy(), wanted.numpy(), rtol=0, atol=tolerance)


class Graph:
    """Replaces a CUDA graph: a replay computes on the same inputs and writes into the same outputs."""

    def __init__(self, function, inputs, outputs):
        self.function, self.inputs, self.outputs, self.replays = function, inputs, outputs, 0

    def replay(self):
        self.replays += 1
        for place, value in zip(self.outputs, self.function(list(self.inputs)), strict=True):
            if place is not value:
                place.copy_(value)


class Graphs:
    """Replaces `capture.CudaGraphs` on the CPU: recording restores all values afterwards.

    Programs are fused if Triton interprets kernels.
    """

    stream = types.SimpleNamespace(device=torch.device('cpu'))

    def __init__(self):
        self.recorded, self.clock, self.warm_ups, self.recordings = weakref.WeakSet(), itertools.count(), 0, 0

    def warm_up(self, function, inputs):
        self.warm_ups += 1
        return function(inputs)

    def record(self, function, inputs):
        self.recordings += 1
        before = [value.clone() for value in inputs]
        outputs = function(list(inputs))
        for value, old in zip(inputs, before, strict=True):
            value.copy_(old)
        # As on a GPU, a recording computes nothing: fill its results with garbage.
        for value in outputs:
            if not any(value is place for place in inputs):
                value.fill_(77)
        return Graph(function, inputs, outputs), outputs
