"""theano_torch/lowerings/winograd.py: Winograd convolutions and gradients of filters."""


from theano_torch.lowerings import winograd
from theano_torch.lowerings.winograd import Convolution, FilterGradient, Tiles, largest_divisor, transformed, transforms

import numpy as np
import pytest
import theano.tensor as T
import torch

from tests.theano_torch.helpers import assert_close, numbers, tensors

# (K, C, 3, 3) of the filters, (N, C, H, W) of the images, padding.
SHAPES = [
    ((4, 3, 3, 3), (2, 3, 8, 12), (1, 1)), ((3, 5, 3, 3), (3, 5, 6, 10), (0, 0)), ((2, 2, 3, 3), (1, 2, 2, 6), (2, 2)),
    ((1, 1, 3, 3), (5, 1, 4, 4), (1, 1)), ((2, 3, 3, 3), (4, 3, 6, 8), (0, 1)), ((3, 2, 3, 3), (6, 2, 16, 12), (1, 1)),
    ((7, 1, 3, 3), (7, 1, 12, 2), (1, 2)), ((1, 7, 3, 3), (1, 7, 24, 4), (1, 1))]


def test_transforms_multiply():
    """For any numbers, the sum of the transformed products equals the sum of all d[j + t] g[j] y[t]."""
    d, g, y = (torch.from_numpy(numbers(size, 1, dtype='float64', seed=size)) for size in (6, 3, 4))
    pixels, weights, outputs = transforms(torch.float64)
    wanted = sum(d[j + t] * g[j] * y[t] for j in range(3) for t in range(4))
    np.testing.assert_allclose(((pixels @ d) * (weights @ g) * (outputs @ y)).sum(), wanted.sum(), rtol=1e-13)


def test_transformed():
    matrix, values = (torch.from_numpy(numbers(*shape, dtype='float64')) for shape in ((5, 2), (2, 2, 3, 4)))
    result = transformed(matrix, values.transpose(2, 3))
    np.testing.assert_allclose(result, np.einsum('ai,bj,ijkl->ablk', matrix, matrix, values), rtol=1e-13)


@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('layout', [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize('filters, image_shape, pad', SHAPES)
def test_convolution(filters, image_shape, pad, layout, with_bias):
    image, _, _ = tensors(filters, image_shape, pad, layout=layout)
    weights = torch.from_numpy(numbers(*filters, dtype='float64'))
    bias = torch.from_numpy(numbers(filters[0], dtype='float64')) if with_bias else None
    result = Convolution(filters, image_shape, pad)(image, weights, bias)
    assert_close(result, torch.conv2d(image, weights, bias, padding=pad))
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('layout', [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize('filters, image_shape, pad', SHAPES)
def test_filter_gradient(filters, image_shape, pad, layout):
    image, top_grad, wanted = tensors(filters, image_shape, pad, layout=layout)
    result = FilterGradient(filters, image_shape, pad)(image, top_grad)
    assert_close(result, wanted)
    assert result.untyped_storage().nbytes() == wanted.nbytes       # The result is not a view of a larger buffer.


@pytest.mark.parametrize('threads', [1, 2, 3])
@pytest.mark.parametrize('tiles', [1, 2, 3, 5, 11, 24, 1000])
def test_blocks(monkeypatch, tiles, threads):
    """All blocks have the same size, and the results do not depend on it."""
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    monkeypatch.setattr(Tiles, 'BLOCK_TILES', tiles)
    shapes = (3, 2, 3, 3), (6, 2, 16, 12), (1, 1)
    image, top_grad, wanted = tensors(*shapes)
    images, rows, columns = Convolution(*shapes).block(8)
    assert 6 % images == 4 % rows == 0 and columns == 3 and (images == 1 or rows == 4)
    assert images * rows * columns <= max(tiles * threads, 3)
    assert_close(FilterGradient(*shapes)(image, top_grad), wanted)
    weights = torch.from_numpy(numbers(3, 2, 3, 3, dtype='float64'))
    assert_close(Convolution(*shapes)(image, weights), torch.conv2d(image, weights, padding=1))


def test_blocks_of_many_channels_are_smaller(monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    few, many = (Convolution((num, num, 3, 3), (16, num, 32, 32), (1, 1)) for num in (64, 512))
    assert few.block(4) == (2, 8, 8) and many.block(4) == (1, 4, 8)
    assert 36 * 4 * 8 * (512 + 512) * 4 <= Tiles.BLOCK_BYTES
    assert few.block(4)[0] * few.block(4)[1] * few.block(4)[2] == Tiles.BLOCK_TILES


def test_largest_divisor():
    assert [largest_divisor(12, limit) for limit in (0, 1, 2, 5, 7, 11, 12, 99)] == [1, 1, 2, 4, 6, 6, 12, 12]
    assert largest_divisor(7, 6) == 1


def test_rounding_errors():
    """Errors are about twice those of oneDNN: 4e-7 and 5.5e-7 of the standard deviation for these shapes."""
    shapes = (64, 64, 3, 3), (4, 64, 16, 16), (1, 1)
    image, top_grad, wanted = tensors(*shapes)
    weights = torch.from_numpy(numbers(64, 64, 3, 3, dtype='float64'))
    for result, exact in [
            (Convolution(*shapes)(image.float(), weights.float()), torch.conv2d(image, weights, padding=1)),
            (FilterGradient(*shapes)(image.float(), top_grad.float()), wanted)]:
        assert 1e-8 < (result - exact).std() / exact.std() < 1.2e-6


@pytest.mark.parametrize('filters, image_shape, pad, possible', [
    ((2, 2, 3, 3), (1, 2, 8, 8), (1, 1), True), ((2, 2, 3, 3), (1, 2, 8, 9), (1, 1), False),
    ((2, 2, 3, 3), (1, 2, 6, 8), (1, 1), False), ((2, 2, 1, 3), (1, 2, 8, 8), (0, 1), False),
    ((2, 2, 5, 5), (1, 2, 8, 8), (2, 2), False), ((2, 2, 3, 3), (1, 2, 4, 8), (3, 1), False),
    ((2, 2, 3, 3), (1, 2, 8, 8), (-1, 1), False), ((2, 2, 3, 3), (1, 2, 2, 6), (0, 0), False),
    ((2, 2, 3, 3), (1, 2, 1, 6), (0, 0), False)])
def test_is_possible(filters, image_shape, pad, possible):
    assert Convolution(filters, image_shape, pad).is_possible() == possible


@pytest.mark.parametrize('num_filters, channels, size, faster', [
    (64, 64, 32, (True, True)), (64, 64, 16, (False, True)), (64, 64, 8, (False, False)), (32, 64, 64, (False, False)),
    (128, 128, 16, (True, True)), (128, 128, 8, (False, True)), (512, 512, 8, (True, True)),
    (512, 512, 4, (False, False))])
def test_where_it_is_faster(num_filters, channels, size, faster):
    shapes = (num_filters, channels, 3, 3), (16, channels, size, size), (1, 1)
    assert (Convolution(*shapes).is_faster(), FilterGradient(*shapes).is_faster()) == faster


@pytest.mark.parametrize('num', [0, 1])
def test_few_images(num):
    shapes = (4, 3, 3, 3), (num, 3, 8, 8), (1, 1)
    image, top_grad, wanted = tensors(*shapes)
    assert_close(FilterGradient(*shapes)(image, top_grad), wanted)
    weights = torch.ones(4, 3, 3, 3, dtype=torch.float64)
    assert Convolution(*shapes)(image, weights).shape == (num, 4, 8, 8)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('size, options', [
    ((8, 12), dict(border_mode=(1, 1))), ((4, 8), dict(border_mode='half', filter_flip=False)), ((10, 6), dict()),
    ((6, 10), dict(border_mode='full')), ((8, 6), dict(border_mode=(1, 0)))], ids=str)
def test_functions_use_tiles(agree, monkeypatch, dtype, size, options):
    """A convolution, both gradients, a second derivative, and a convolution with bias and activation."""
    called = []

    def recorded(kind):
        compute = kind.__call__
        monkeypatch.setattr(kind, '__call__', lambda self, *args: called.append(kind) or compute(self, *args))

    for kind in (Convolution, FilterGradient):
        recorded(kind)
        monkeypatch.setattr(kind, 'MIN_WORK', 1)
    for name in ('MIN_FILTERS', 'MIN_SIZE'):
        monkeypatch.setattr(winograd.Tiles, name, 1)
    x, w, b = T.tensor4(dtype=dtype), T.tensor4(dtype=dtype), T.vector(dtype=dtype)
    y = T.nnet.conv2d(x, w, **options)
    gx, gw = T.grad((y ** 2).sum(), [x, w])
    activated = T.nnet.relu(T.nnet.conv2d(x, w * 2, **options) + b.dimshuffle('x', 0, 'x', 'x'))
    agree([x, w, b], [y, gx, gw, T.grad((gx ** 2).sum(), w), activated],
          (numbers(2, 4, *size, dtype=dtype), numbers(5, 4, 3, 3, dtype=dtype, seed=1),
           numbers(5, dtype=dtype, seed=2)))
    # If the gradient of the images has no whole tiles, only that is not a Winograd convolution.
    assert called.count(Convolution) >= 2 and called.count(FilterGradient) >= 2
