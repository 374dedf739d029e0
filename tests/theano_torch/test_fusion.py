"""Convolution, bias and activation become one op where possible, with the same values."""


from theano_torch.rewrites.fusion import ConvBiasActivation

import numpy as np
import pytest
import theano
import theano.tensor as T
from theano.tensor.nnet import abstract_conv

from nets import ops
from tests.theano_torch.helpers import TORCH, numbers

UNFUSED = TORCH.excluding('torch_fuse_convolutions')
TOLERANCE = {'float32': 1e-5, 'float64': 1e-12}     # Relative to the largest value; covers the order of summation.
SLOPES = [None, 0.2, 0.0, 1.5]      # Slopes of the leaky ReLU; None means no activation.


def fused(function):
    return [node.op for node in function.maker.fgraph.toposort() if isinstance(node.op, ConvBiasActivation)]


def check(inputs, outputs, *calls, number=1):
    """Check that `number` convolutions are fused and that fused and unfused `outputs` agree for all `calls`."""
    functions = [theano.function(inputs, outputs, mode=mode) for mode in (TORCH, UNFUSED)]
    assert [len(fused(function)) for function in functions] == [number, 0]
    for arrays in calls + calls[:1]:        # Repeat the first call, which runs the cached program.
        for result, wanted in zip(*[function(*arrays) for function in functions], strict=True):
            assert (result.dtype, result.shape) == (wanted.dtype, wanted.shape)
            assert result.flags.c_contiguous
            tolerance = TOLERANCE[wanted.dtype.name] * np.abs(wanted).max()
            np.testing.assert_allclose(result, wanted, rtol=0, atol=tolerance)
    return functions[0]


def tensor4s(dtype, number=2):
    return [T.tensor4(dtype=dtype) for _ in range(number)]


def per_channel(b):
    return b.dimshuffle('x', 0, 'x', 'x')


def activated(x, slope):
    return x if slope is None else ops.leaky_relu(x, slope)


# ----------------------------------------------------------------------------------------------------------------------
# Fused.


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('slope', SLOPES)
@pytest.mark.parametrize('bias_first', [False, True])
def test_convolution(dtype, slope, bias_first):
    (x, w), b = tensor4s(dtype), T.vector(dtype=dtype)
    y = T.nnet.conv2d(x, w, border_mode=(1, 1))
    y = activated(per_channel(b) + y if bias_first else y + per_channel(b), slope)
    function = check([x, w, b], [y],
                     (numbers(2, 3, 6, 5, dtype=dtype), numbers(4, 3, 3, 3, dtype=dtype, seed=1),
                      numbers(4, dtype=dtype, seed=2)),
                     (numbers(3, 2, 8, 8, dtype=dtype)[:, :, ::-1], numbers(5, 2, 1, 3, dtype=dtype, seed=1),
                      numbers(10, dtype=dtype, seed=2)[::2]))
    op, = fused(function)
    assert isinstance(op.conv, abstract_conv.AbstractConv2d)
    assert op.activation == (None if slope is None else ops.LeakyReLU(slope))


@pytest.mark.parametrize('options', [
    dict(), dict(filter_flip=False), dict(subsample=(2, 1)), dict(border_mode='half', filter_dilation=(2, 2)),
    dict(num_groups=2), dict(border_mode=((1, 2), (0, 1)))], ids=str)
def test_unusual_convolutions(options):
    (x, w), b = tensor4s('float32'), T.fvector()
    y = ops.leaky_relu(T.nnet.conv2d(x, w, **options) + per_channel(b), 0.2)
    check([x, w, b], [y], (numbers(2, 4, 8, 7), numbers(4, 4 // options.get('num_groups', 1), 3, 2), numbers(4)))


@pytest.mark.parametrize('slope', SLOPES)
def test_small_product(slope):
    (x, w), b = tensor4s('float32'), T.fvector()
    y = activated(T.nnet.conv2d(x, w) + per_channel(b), slope)
    check([x, w, b], [y], (numbers(2, 3, 4, 4), numbers(5, 3, 1, 1, seed=1), numbers(5, seed=2)),
          (numbers(2, 3, 40, 40), numbers(5, 3, 1, 1, seed=1), numbers(5, seed=2)))     # Too large for a product.


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('slope', SLOPES)
@pytest.mark.parametrize('bias_first', [False, True])
def test_transposed_convolution(dtype, slope, bias_first):
    (x, w), b = tensor4s(dtype), T.vector(dtype=dtype)
    y = ops.upscale2x_conv2d(x, w)
    y = activated(per_channel(b) + y if bias_first else y + per_channel(b), slope)
    function = check([x, w, b], [y],
                     (numbers(2, 3, 4, 5, dtype=dtype), numbers(3, 6, 4, 4, dtype=dtype, seed=1),
                      numbers(6, dtype=dtype, seed=2)),
                     (numbers(1, 2, 1, 1, dtype=dtype), numbers(2, 3, 4, 4, dtype=dtype, seed=1),
                      numbers(3, dtype=dtype, seed=2)))
    op, = fused(function)
    assert isinstance(op.conv, abstract_conv.AbstractConv2d_gradInputs)


@pytest.mark.parametrize('options', [dict(), dict(subsample=(2, 1)), dict(border_mode=((1, 2), (0, 1)))], ids=str)
def test_unusual_transposed_convolutions(options):
    x, w, b = T.ftensor4(), T.ftensor4(), T.fvector()
    shape = (2, 3, 8, 7)
    top = theano.function([x, w], T.nnet.conv2d(x, w, **options), mode=TORCH)(numbers(*shape), numbers(5, 3, 3, 2))
    y = ops.leaky_relu(abstract_conv.conv2d_grad_wrt_inputs(x, w, shape, **options) + per_channel(b), 0.2)
    check([x, w, b], [y], (top, numbers(5, 3, 3, 2, seed=1), numbers(3, seed=2)))


def test_gradients_of_a_network():
    """Gradients of two layers need only the outputs of fused ops, not their intermediate results."""
    x, w, v, b, c = *tensor4s('float32', 3), T.fvector(), T.fvector()
    y = ops.leaky_relu(T.nnet.conv2d(x, w, border_mode=1) + per_channel(b), 0.2)
    z = ops.leaky_relu(T.nnet.conv2d(y, v, border_mode=1) + per_channel(c), 0.2)
    gx = T.grad(T.sum(T.sqr(z)), x)
    outputs = [z, gx, *T.grad(T.sum(T.sqr(gx)), [w, v])]
    check([x, w, v, b, c], outputs, (numbers(2, 3, 6, 6), numbers(4, 3, 3, 3, seed=1), numbers(5, 4, 3, 3, seed=2),
                                     numbers(4, seed=3), numbers(5, seed=4)), number=2)


@pytest.mark.parametrize('dtype', ['int8', 'float16', 'bool'])
def test_bias_of_another_type(dtype):
    (x, w), b = tensor4s('float32'), T.vector(dtype=dtype)
    check([x, w, b], [ops.leaky_relu(T.nnet.conv2d(x, w, border_mode=1) + per_channel(b), 0.2)],
          (numbers(2, 3, 6, 5), numbers(4, 3, 3, 3, seed=1), numbers(4, dtype=dtype)))


def test_one_channel():
    """Parameters made by Lasagne: W and b have broadcastable dimensions."""
    x, w = T.ftensor4(), T.TensorType('float32', (True, False, False, False))()
    b = T.TensorType('float32', (True,))()
    check([x, w, b], [T.nnet.conv2d(x, w, border_mode=1) + per_channel(b)],
          (numbers(2, 3, 6, 5), numbers(1, 3, 3, 3, seed=1), numbers(1)))


@pytest.mark.parametrize('size', [1, 3])
@pytest.mark.parametrize('slope', [0.0, 0.2])
def test_not_a_number_and_infinity(size, slope):
    (x, w), b = tensor4s('float32'), T.fvector()
    function = theano.function([x, w, b], ops.leaky_relu(
        T.nnet.conv2d(x, w, border_mode='half') + per_channel(b), slope), mode=TORCH)
    assert fused(function)
    array = np.ones((1, 3, 48, 48), 'float32')
    array[0, :, 10, 20], array[0, :, 30, 40] = np.nan, np.inf
    result = function(array, np.ones((20, 3, size, size), 'float32'), np.zeros(20, 'float32'))
    edge = size // 2
    wanted = np.zeros((48, 48), bool)
    wanted[10 - edge:11 + edge, 20 - edge:21 + edge] = True
    assert all((np.isnan(channel) == wanted).all() for channel in result[0])
    assert (np.isinf(result).sum(axis=(2, 3)) == size ** 2).all()


# ----------------------------------------------------------------------------------------------------------------------
# Not fused.

ARRAYS = numbers(2, 3, 6, 5), numbers(4, 3, 3, 3, seed=1), numbers(4, seed=2)


def parts():
    """(inputs, convolution, sum with the bias, activation)"""
    (x, w), b = tensor4s('float32'), T.fvector()
    y = T.nnet.conv2d(x, w, border_mode=(1, 1))
    z = y + per_channel(b)
    return [x, w, b], y, z, ops.leaky_relu(z, 0.2)


def test_inner_results_that_are_outputs_too():
    inputs, y, z, a = parts()
    check(inputs, [a, y], ARRAYS, number=0)
    function = check(inputs, [a, z], ARRAYS)        # The activation is not fused.
    assert fused(function)[0].activation is None
    function = check(inputs, [a, a], ARRAYS)
    assert fused(function)[0].activation == ops.LeakyReLU(0.2)


def test_inner_results_with_other_clients():
    inputs, y, z, a = parts()
    check(inputs, [a, y.sum(axis=(2, 3))], ARRAYS, number=0)
    check(inputs, [y + y + per_channel(inputs[2])], ARRAYS, number=0)
    function = check(inputs, [a, z.sum(axis=(2, 3))], ARRAYS)
    assert fused(function)[0].activation is None
    function = check(inputs, [a, a.sum(axis=(2, 3))], ARRAYS)
    assert fused(function)[0].activation == ops.LeakyReLU(0.2)


def test_sum_of_two_convolutions():
    inputs, y, _, _ = parts()
    other = T.nnet.conv2d(inputs[0] * 2, inputs[1], border_mode=(1, 1))
    check(inputs[:2], [y + other], ARRAYS[:2], number=0)


def test_bias_that_is_broadcast_differently():
    inputs, y, _, _ = parts()
    x, w, b = inputs
    along_width, matrix, per_image = T.fvector(), T.fmatrix(), T.fvector()
    for extra, value, array in [
            (along_width, along_width.dimshuffle('x', 'x', 'x', 0), numbers(5)),
            (per_image, per_image.dimshuffle(0, 'x', 'x', 'x'), numbers(2)),
            (matrix, matrix.dimshuffle(0, 1, 'x', 'x'), numbers(2, 4)),
            (matrix, matrix.dimshuffle('x', 'x', 0, 1), numbers(6, 5))]:
        check([x, w, extra], [ops.leaky_relu(y + value, 0.2)], ARRAYS[:2] + (array,), number=0)
    one = T.TensorType('float32', (True,))()        # One bias for all channels.
    check([x, w, one], [ops.leaky_relu(y + per_channel(one), 0.2)], ARRAYS[:2] + (numbers(1),), number=0)
    check([x, w], [ops.leaky_relu(y + np.float32(0.5), 0.2)], ARRAYS[:2], number=0)
    check([x, w, b], [y * per_channel(b), y - per_channel(b) * per_channel(b)], ARRAYS, number=0)


def test_sum_of_another_type():
    (x, w), b = tensor4s('float32'), T.dvector()
    check([x, w, b], [ops.leaky_relu(T.nnet.conv2d(x, w, border_mode=1) + per_channel(b), 0.2)],
          ARRAYS[:2] + (numbers(4, dtype='float64'),), number=0)


def test_other_activations():
    inputs, _, z, _ = parts()
    function = check(inputs, [T.tanh(z)], ARRAYS)
    assert fused(function)[0].activation is None
    check(inputs, [T.exp(T.maximum(z, 0)) + z], ARRAYS)


def test_three_dimensions():
    x, w, b = T.tensor5(dtype='float32'), T.tensor5(dtype='float32'), T.fvector()
    y = T.nnet.conv3d(x, w) + b.dimshuffle('x', 0, 'x', 'x', 'x')
    check([x, w, b], [y], (numbers(2, 3, 4, 4, 4), numbers(2, 3, 2, 2, 2), numbers(2)), number=0)


@pytest.mark.parametrize('mode', [TORCH, UNFUSED])
@pytest.mark.parametrize('size', [1, 3, 5])
def test_bias_of_the_wrong_size_is_an_error(mode, size):
    inputs, _, _, a = parts()
    function = theano.function(inputs, a, mode=mode)
    with pytest.raises((RuntimeError, ValueError), match='4'):
        function(*ARRAYS[:2], numbers(size))


def test_without_the_kernel_that_some_builds_of_pytorch_lack(monkeypatch):
    from theano_torch.lowerings import fused as lowering
    monkeypatch.setattr(lowering, 'pointwise', None)
    (x, w), b = tensor4s('float32'), T.fvector()
    check([x, w, b], activated(T.nnet.conv2d(x, w, border_mode='half') + per_channel(b), 0.2),
          (numbers(2, 3, 6, 5), numbers(4, 3, 3, 3, seed=1), numbers(4, seed=2)))
