"""theano_torch/lowerings/conv.py: gradients of filters as matrix products, and small convolutions as products."""


from theano_torch.lowerings import conv
from theano_torch.lowerings.conv import FoldedGradient, WeightProducts

import pytest
import theano
import theano.tensor as T
import torch

from tests.theano_torch.helpers import TORCH, assert_close, numbers, tensors

# ----------------------------------------------------------------------------------------------------------------------
# Gradients with respect to the filters.

# (K, C, height, width) of the filters, (N, C, H, W) of the images, padding.
SHAPES = [
    ((4, 3, 3, 3), (2, 3, 6, 7), (1, 1)), ((4, 3, 3, 3), (2, 3, 6, 7), (0, 0)), ((2, 3, 1, 3), (3, 3, 5, 4), (0, 1)),
    ((2, 3, 3, 1), (3, 3, 5, 4), (1, 0)), ((3, 2, 3, 3), (2, 2, 5, 6), (0, 1)), ((3, 2, 5, 5), (2, 2, 7, 5), (2, 2)),
    ((3, 2, 5, 5), (1, 2, 5, 5), (0, 0)), ((5, 1, 3, 3), (3, 1, 6, 4), (0, 0)), ((5, 1, 3, 3), (3, 1, 6, 4), (1, 1)),
    ((1, 6, 3, 3), (7, 6, 4, 4), (1, 1)), ((2, 2, 2, 4), (2, 2, 6, 6), (1, 2)), ((2, 3, 3, 3), (1, 3, 1, 1), (1, 1)),
    ((2, 3, 1, 3), (2, 3, 1, 5), (0, 1)), ((2, 3, 4, 4), (2, 3, 4, 4), (3, 3)), ((6, 4, 3, 3), (13, 4, 11, 9), (1, 1))]


@pytest.mark.parametrize('layout', [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize('filters, image_shape, pad', SHAPES)
def test_weight_products(filters, image_shape, pad, layout):
    image, top_grad, wanted = tensors(filters, image_shape, pad, layout=layout)
    products = WeightProducts(filters, image_shape, pad)
    assert products.is_whole        # Small problems are computed by a single product.
    assert_close(products(image, top_grad), wanted)
    products.is_whole = False
    assert_close(products(image, top_grad), wanted)


@pytest.mark.parametrize('rows, images', [(1, 1), (2, 2), (4, 3), (3, 5), (20, 20)])
@pytest.mark.parametrize('filters, image_shape, pad', SHAPES)
def test_weight_products_by_blocks(filters, image_shape, pad, rows, images):
    """Blocks may be larger than the image, and need not divide the number of rows or images."""
    image, top_grad, wanted = tensors(filters, image_shape, pad)
    products = WeightProducts(filters, image_shape, pad)
    products.is_whole, products.rows, products.images = False, rows, images
    assert_close(products(image, top_grad), wanted)


@pytest.mark.parametrize('threads', [1, 2, 5])
@pytest.mark.parametrize('num', [1, 3, 7])
def test_blocks_are_shared_out_among_the_threads(monkeypatch, threads, num):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    monkeypatch.setattr(WeightProducts, 'WHOLE_BYTES', 0)
    monkeypatch.setattr(WeightProducts, 'BLOCK_BYTES', 9000)
    shapes = (4, 3, 3, 3), (num, 3, 12, 10), (1, 1)
    products = WeightProducts(*shapes)
    assert not products.is_whole
    assert 1 <= products.images <= num and 1 <= products.rows <= 12
    assert products.images == num or products.images % min(threads, num) == 0
    image, top_grad, wanted = tensors(*shapes)
    assert_close(products(image, top_grad), wanted)


def test_what_is_one_product_and_what_are_blocks(monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    assert not WeightProducts((16, 32, 3, 3), (8, 32, 64, 64), (1, 1)).is_whole
    assert WeightProducts((16, 32, 3, 3), (8, 32, 8, 8), (1, 1)).is_whole
    assert WeightProducts((256, 256, 3, 3), (8, 256, 32, 32), (1, 1)).is_whole
    shapes = (16, 32, 3, 3), (5, 32, 48, 40), (1, 1)
    image, top_grad, wanted = tensors(*shapes, dtype=torch.float32)
    products = WeightProducts(*shapes)
    assert not products.is_whole and products.images == 2       # The last of five images is a block of one.
    assert_close(products(image, top_grad), wanted)


@pytest.mark.parametrize('filters, image_shape, pad, fold', [
    ((16, 16, 3, 3), (2, 16, 5, 8), (1, 1), 4), ((3, 16, 1, 1), (2, 16, 4, 4), (0, 0), 4),
    ((16, 3, 3, 5), (1, 3, 5, 8), (1, 2), 4), ((32, 32, 1, 3), (2, 32, 3, 6), (0, 1), 2)])
def test_folded_gradient(filters, image_shape, pad, fold):
    image, top_grad, wanted = tensors(filters, image_shape, pad)
    folded = FoldedGradient(filters, top_grad.shape, pad)
    assert folded.fold == fold and folded.may_be_faster() and folded.is_faster()
    assert_close(folded(image, top_grad), wanted)


@pytest.mark.parametrize('filters, width', [((64, 64, 3, 3), 8), ((16, 16, 3, 3), 7), ((16, 16, 3, 2), 8)])
def test_gradients_that_are_not_folded(filters, width):
    assert not FoldedGradient(filters, (2, filters[0], 4, width), (1, 1)).may_be_faster()


def test_weight_products_of_no_images():
    result = WeightProducts((4, 3, 3, 3), (0, 3, 6, 6), (1, 1))(torch.zeros(0, 3, 6, 6), torch.zeros(0, 4, 6, 6))
    assert result.shape == (4, 3, 3, 3) and not result.any()


@pytest.mark.parametrize('num_filters', [2, 32])
def test_images_too_small_for_any_output(num_filters):
    """Many filters are computed by a matrix product, few by PyTorch; neither fails while computing sizes."""
    x, top = T.ftensor4(), T.ftensor4()
    shape = num_filters, 16, 3, 3
    f = theano.function([x, top], T.nnet.abstract_conv.conv2d_grad_wrt_weights(x, top, shape), mode=TORCH)
    arguments = numbers(2, 16, 2, 5), numbers(2, num_filters, 0, 3)
    if num_filters * 16 >= WeightProducts.MIN_FILTERS:
        assert not f(*arguments).any()
    else:
        with pytest.raises(ValueError, match="Kernel size can't be greater"):
            f(*arguments)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('size, options', [
    ((3, 3), dict(border_mode=(1, 1))), ((3, 3), dict(border_mode='half', filter_flip=False)), ((1, 3), dict()),
    ((5, 2), dict(border_mode='full'))])
def test_functions_use_weight_products(agree, monkeypatch, dtype, size, options):
    """A convolution with many filters, and its second derivatives."""
    made = []

    class Recorded(WeightProducts):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(args)

    monkeypatch.setattr(conv, 'WeightProducts', Recorded)
    x, w = T.tensor4(dtype=dtype), T.tensor4(dtype=dtype)
    y = T.nnet.conv2d(x, w, **options)
    gx, gw = T.grad((y ** 2).sum(), [x, w])
    agree([x, w], [gw, T.grad((gx ** 2).sum(), w)],
          (numbers(2, 16, 6, 5, dtype=dtype), numbers(32, 16, *size, dtype=dtype, seed=1)))
    assert made and all(tuple(shape) == (32, 16, *size) for shape, _, _ in made)


# ----------------------------------------------------------------------------------------------------------------------
# Products of few pixels.


def recorded(monkeypatch, name):
    """A list to which each call of ``conv.NAME`` appends its device."""
    devices, function = [], getattr(conv, name)
    monkeypatch.setattr(conv, name, lambda *args: devices.append(args[0].device.type) or function(*args))
    return devices


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('flip', [True, False])
def test_small_products(agree, monkeypatch, dtype, flip):
    """A convolution with 1x1 filters and both gradients, for images in NCHW and in channels-last layout."""
    convolutions, backward = recorded(monkeypatch, 'convolution'), recorded(monkeypatch, 'convolution_backward')
    x, w = T.tensor4(dtype=dtype), T.tensor4(dtype=dtype)
    y = T.nnet.conv2d(x, w, filter_flip=flip)
    gx, gw = T.grad((y ** 3).sum(), [x, w])
    agree([x, w], [y, gx, gw, *T.grad((gx ** 2).sum(), [x, w])],
          (numbers(3, 4, 6, 5, dtype=dtype), numbers(7, 4, 1, 1, dtype=dtype, seed=1)),
          (numbers(1, 1, 1, 1, dtype=dtype), numbers(1, 1, 1, 1, dtype=dtype, seed=1)),
          (numbers(3, 6, 5, 4, dtype=dtype).transpose(0, 3, 1, 2), numbers(4, 7, 1, 1, dtype=dtype).swapaxes(0, 1)))
    assert 'cpu' not in convolutions + backward


@pytest.mark.parametrize('options', [dict(border_mode=(1, 0)), dict(subsample=(2, 2)), dict(num_groups=2)], ids=str)
def test_filters_of_one_pixel_that_are_no_products(agree, options):
    x, w = T.dtensor4(), T.dtensor4()
    y = T.nnet.conv2d(x, w, **options)
    gx, gw = T.grad((y ** 3).sum(), [x, w])
    agree([x, w], [y, gx, gw], (numbers(2, 4, 5, 5, dtype='float64'),
                                numbers(6, 4 // options.get('num_groups', 1), 1, 1, dtype='float64', seed=1)))


def test_products_of_many_pixels_are_convolutions(agree, monkeypatch):
    convolutions, backward = recorded(monkeypatch, 'convolution'), recorded(monkeypatch, 'convolution_backward')
    x, w = T.dtensor4(), T.dtensor4()
    y = T.nnet.conv2d(x, w)
    arrays = numbers(2, 3, 32, 33, dtype='float64'), numbers(4, 3, 1, 1, dtype='float64', seed=1)
    agree([x, w], [y, *T.grad((y ** 2).sum(), [x, w])], arrays)
    assert convolutions and backward


@pytest.mark.parametrize('shape', [(3, 4, 6, 5), (1, 4, 2048, 1), (1, 4, 2049, 1)])
def test_small_products_with_bias(agree, shape):
    """The product adds the bias."""
    x, w, b = T.ftensor4(), T.ftensor4(), T.fvector()
    y = T.nnet.conv2d(x, w) + b.dimshuffle('x', 0, 'x', 'x')
    top = numbers(shape[0], 7, *shape[2:], seed=3)
    back = T.nnet.abstract_conv.conv2d_grad_wrt_inputs(T.constant(top), w, shape) + b[:4].dimshuffle('x', 0, 'x', 'x')
    agree([x, w, b], [y, back], (numbers(*shape), numbers(7, 4, 1, 1, seed=1), numbers(7, seed=2)))


def test_results_of_small_products_are_contiguous():
    x, w = T.ftensor4(), T.ftensor4()
    result = theano.function([x, w], T.nnet.conv2d(x, w), mode=TORCH)(numbers(2, 3, 4, 5), numbers(6, 3, 1, 1))
    assert result.shape == (2, 6, 4, 5) and result.flags.c_contiguous
