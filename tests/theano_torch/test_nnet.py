"""Ops of neural networks (softmax, convolution, pooling) give the same results as Theano's own Python code."""


import numpy as np
import pytest
import theano
import theano.tensor as T
from theano.tensor.nnet import abstract_conv, neighbours, nnet
from theano.tensor.signal import pool

from tests.theano_torch.helpers import TORCH, numbers

# ----------------------------------------------------------------------------------------------------------------------
# Softmax and cross-entropy.


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_softmax_and_cross_entropy(agree, dtype):
    x, b, target = T.matrix(dtype=dtype), T.vector(dtype=dtype), T.lvector()
    p = T.nnet.softmax(x)
    soft = [p, T.nnet.logsoftmax(x), T.grad((p ** 2).sum(), x), nnet.softmax_with_bias(x, b), T.log(p),
            T.grad(T.log(p).sum(), x)]
    losses = [T.nnet.categorical_crossentropy(p, target),
              *nnet.crossentropy_softmax_argmax_1hot_with_bias(x, b, target),
              T.nnet.binary_crossentropy(T.nnet.sigmoid(x), 0.3), nnet.crossentropy_categorical_1hot(p, target)]
    grads = [T.grad(T.nnet.categorical_crossentropy(T.nnet.softmax(x + b), target).mean(), [x, b])[0],
             T.grad(T.nnet.categorical_crossentropy(T.nnet.softmax(x + b), target).sum(), b),
             T.grad(nnet.crossentropy_categorical_1hot(p, target).sum(), x)]
    agree([x, b, target], soft + losses + grads,
          (numbers(3, 4, dtype=dtype), numbers(4, dtype=dtype), np.array([0, 3, 1])))


def test_prepended_columns():
    x, value = T.dmatrix(), T.dscalar()
    outputs = [nnet.Prepend_scalar_constant_to_each_row(2)(x), nnet.Prepend_scalar_to_each_row()(value, x)]
    f = theano.function([x, value], outputs, mode=TORCH)
    for result, first in zip(f([[1, 2], [3, 4]], 7.5), (2, 7.5), strict=True):
        np.testing.assert_array_equal(result, [[first, 1, 2], [first, 3, 4]])


def test_batch_normalisation(agree):
    x, gamma, beta = T.tensor4(dtype='float64'), T.vector(dtype='float64'), T.vector(dtype='float64')
    shape = [value.dimshuffle('x', 0, 'x', 'x') for value in (gamma, beta)]
    out, mean, invstd = T.nnet.bn.batch_normalization_train(x, *shape, axes='spatial')
    fixed = T.nnet.bn.batch_normalization_test(x, *shape, shape[0], shape[0], axes='spatial')
    agree([x, gamma, beta], [out, mean, invstd, fixed, *T.grad((out ** 3).sum(), [x, gamma, beta])],
          (numbers(2, 3, 4, 4, dtype='float64'), numbers(3, dtype='float64', low=1), numbers(3, dtype='float64')))


# ----------------------------------------------------------------------------------------------------------------------
# Convolution.

CONVOLUTIONS = [
    dict(), dict(border_mode='half'), dict(border_mode='full'), dict(border_mode=1), dict(border_mode=(2, 1)),
    dict(border_mode='half', filter_flip=False), dict(subsample=(2, 2)), dict(subsample=(2, 1), border_mode=1),
    dict(subsample=(3, 2), border_mode='full', filter_flip=False), dict(filter_dilation=(2, 1)),
    dict(filter_dilation=(2, 2), border_mode='half', subsample=(2, 2)), dict(border_mode=((1, 2), (0, 1))),
    dict(border_mode=((1, 0), (2, 1)), subsample=(2, 2)), dict(num_groups=2)]


@pytest.mark.parametrize('options', CONVOLUTIONS, ids=str)
def test_convolution_and_gradients(agree, options):
    x, w = T.tensor4(dtype='float64'), T.tensor4(dtype='float64')
    groups = options.get('num_groups', 1)
    y = T.nnet.conv2d(x, w, **options)
    gx, gw = T.grad((y ** 2).sum(), [x, w])
    penalty = (gx ** 2).sum() + (gw ** 3).sum()
    agree([x, w], [y, gx, gw, *T.grad(penalty, [x, w])],
          (numbers(2, 4, 8, 7, dtype='float64'), numbers(4, 4 // groups, 3, 2, dtype='float64', seed=1)))


def test_convolution_in_single_precision(agree):
    x, w = T.ftensor4(), T.ftensor4()
    y = T.nnet.conv2d(x, w, border_mode=1)
    agree([x, w], [y, *T.grad((y ** 2).sum(), [x, w])], (numbers(3, 4, 6, 6), numbers(5, 4, 3, 3)),
          (numbers(1, 4, 5, 6), numbers(5, 4, 1, 1)))


def test_transposed_convolution(agree):
    x, w = T.tensor4(dtype='float64'), T.tensor4(dtype='float64')
    outputs = [abstract_conv.conv2d_grad_wrt_inputs(x, w, (None, 2, size, size), border_mode=1, subsample=(2, 2))
               for size in (7, 8)]
    agree([x, w], outputs, (numbers(2, 3, 4, 4, dtype='float64'), numbers(3, 2, 3, 3, dtype='float64')))


def test_convolution_in_three_dimensions(agree):
    x, w = T.tensor5(dtype='float64'), T.tensor5(dtype='float64')
    y = T.nnet.conv3d(x, w, border_mode=(1, 0, 2), subsample=(1, 2, 1))
    agree([x, w], [y, *T.grad((y ** 2).sum(), [x, w])],
          (numbers(2, 2, 3, 4, 3, dtype='float64'), numbers(3, 2, 2, 2, 2, dtype='float64')))


def test_wrong_number_of_channels_is_an_error():
    x, w = T.ftensor4(), T.ftensor4()
    f = theano.function([x, w], T.nnet.conv2d(x, w), mode=TORCH)
    with pytest.raises(ValueError, match='3 channels.*have 2'):
        f(numbers(1, 3, 4, 4), numbers(1, 2, 3, 3))


# ----------------------------------------------------------------------------------------------------------------------
# Pooling.


@pytest.mark.parametrize('mode', ['max', 'sum', 'average_inc_pad', 'average_exc_pad'])
@pytest.mark.parametrize('window, stride, pad, ignore_border, size', [
    ((2, 2), None, (0, 0), True, (6, 4)), ((2, 2), None, (0, 0), True, (5, 7)), ((2, 2), None, (0, 0), False, (5, 7)),
    ((3, 2), (2, 1), (0, 0), True, (7, 6)), ((3, 3), (2, 2), (0, 0), False, (6, 8)),
    ((2, 3), (3, 4), (0, 0), False, (7, 9)), ((3, 3), (2, 2), (1, 1), True, (7, 6)),
    ((4, 4), (2, 2), (0, 0), False, (3, 5)), ((4, 4), (2, 2), (0, 0), True, (3, 5))])
def test_pooling_and_gradients(agree, mode, window, stride, pad, ignore_border, size):
    x = T.tensor4(dtype='float64')
    y = pool.pool_2d(x, window, ignore_border=ignore_border, stride=stride, pad=pad, mode=mode)
    outputs = [y]
    # Theano's Python code has no gradient of averages that exclude padding, and misplaces windows of padded maxima.
    if not (any(pad) and mode in ('max', 'average_exc_pad')):
        gx = T.grad((y ** 2).sum(), x)
        outputs += [gx, T.grad((gx ** 3).sum(), x)]
    agree([x], outputs, (np.round(numbers(2, 3, *size, dtype='float64')),))


def test_padded_maxima_pass_their_gradient_on():
    x = T.dtensor4()
    y = pool.pool_2d(x, (3, 3), ignore_border=True, stride=(2, 2), pad=(1, 1), mode='max')
    f = theano.function([x], [y, T.grad(y.sum(), x)], mode=TORCH)
    values = -np.arange(1., 17).reshape(1, 1, 4, 4)
    pooled, gradient = f(values)
    np.testing.assert_array_equal(pooled, [[[[-1, -2], [-5, -6]]]])
    np.testing.assert_array_equal(np.argwhere(gradient[0, 0]), [[0, 0], [0, 1], [1, 0], [1, 1]])


def test_pooling_in_one_and_three_dimensions(agree):
    x = T.tensor5(dtype='float64')
    for mode in ('max', 'average_exc_pad', 'sum'):
        y = pool.pool_3d(x, (2, 2, 3), ignore_border=True, mode=mode)
        agree([x], [y, T.grad((y ** 2).sum(), x)], (numbers(2, 1, 4, 5, 6, dtype='float64'),))
    line = T.tensor3(dtype='float64')
    op = pool.Pool(ignore_border=True, mode='max', ndim=1)
    agree([line], op(line, (3,), (2,), (0,)), (numbers(2, 3, 7, dtype='float64'),))


def test_derivative_of_pooling_in_a_direction(agree):
    x, d = T.tensor4(dtype='float64'), T.tensor4(dtype='float64')
    y = pool.pool_2d(x, (2, 2), ignore_border=True, mode='max')
    agree([x, d], T.Rop(y, x, d), (numbers(2, 3, 4, 4, dtype='float64'), numbers(2, 3, 4, 4, dtype='float64', seed=1)))


def test_old_convolutions(agree):
    from theano.tensor.signal.conv import conv2d
    x, w = T.dmatrix(), T.dmatrix()
    agree([x, w], [conv2d(x, w), conv2d(x, w, border_mode='full')],
          (numbers(5, 6, dtype='float64'), numbers(3, 2, dtype='float64')))


def test_patches(agree):
    x = T.tensor4(dtype='float64')
    agree([x], neighbours.images2neibs(x, (2, 2), mode='valid'), (numbers(2, 3, 4, 4, dtype='float64'),))
