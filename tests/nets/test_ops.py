"""nets/ops.py: values, gradients and second derivatives of the ops on every engine, against NumPy."""

import pickle

import numpy as np
import pytest
import theano
import theano.tensor as T

from nets import ops

ENGINES = ['torch', 'python', 'theano']
TOLERANCES = {'float32': 1e-6, 'float64': 1e-14}    # Rounding.


def values(shape, dtype, seed=0):
    """Standard normal numbers in a non-contiguous array, so that strides matter."""
    return np.random.RandomState(seed).randn(*shape[::-1]).astype(dtype).T


def assert_close(actual, desired):
    tolerance = TOLERANCES[str(actual.dtype)]
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def check_linear(engine, op, dense, transposed, in_shape, out_shape, dtype):
    """Check that `op` equals `dense`, its gradient equals `transposed`, and the gradient of that equals `dense`."""
    x = T.TensorType(dtype, (False,) * 4)('x')
    weights = T.TensorType(dtype, (False,) * 4)('weights')
    direction = T.TensorType(dtype, (False,) * 4)('direction')
    y = op(x)
    gradient = theano.grad(T.sum(y * weights), x)
    again = theano.grad(T.sum(gradient * direction), weights)
    function = theano.function([x, weights, direction], [y, gradient, again])
    arrays = values(in_shape, dtype), values(out_shape, dtype, 1), values(in_shape, dtype, 2)
    results = function(*arrays)
    assert [result.dtype for result in results] == [dtype] * 3
    for result, desired in zip(results, [dense(arrays[0]), transposed(arrays[1]), dense(arrays[2])], strict=True):
        assert_close(result, desired)


def numpy_average(x, f):
    n, c, h, w = x.shape
    return x.astype('float64').reshape(n, c, h // f, f, w // f, f).mean(axis=(3, 5))


def numpy_repeat(x, f):
    return x.astype('float64').repeat(f, axis=2).repeat(f, axis=3)


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('dtype, factor', [('float32', 2), ('float64', 3)])
def test_average_pool(engine, dtype, factor):
    check_linear(engine, ops.AveragePool2D(factor),
                 lambda x: numpy_average(x, factor), lambda z: numpy_repeat(z, factor) / factor ** 2,
                 (2, 3, 2 * factor, 3 * factor), (2, 3, 2, 3), dtype)


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('dtype, factor', [('float32', 2), ('float64', 3)])
def test_repeat(engine, dtype, factor):
    check_linear(engine, ops.Repeat2D(factor),
                 lambda x: numpy_repeat(x, factor), lambda z: numpy_average(z, factor) * factor ** 2,
                 (2, 3, 2, 3), (2, 3, 2 * factor, 3 * factor), dtype)


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_shapes_are_inferred(engine):
    x = T.ftensor4()
    shapes = [ops.AveragePool2D(2)(x).shape, ops.Repeat2D(2)(x).shape]
    function = theano.function([x], shapes)
    assert not any(isinstance(node.op, (ops.AveragePool2D, ops.Repeat2D)) for node in function.maker.fgraph.toposort())
    down, up = function(np.zeros((1, 2, 4, 6), 'float32'))
    assert list(down) == [1, 2, 2, 3] and list(up) == [1, 2, 8, 12]


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_average_pool_of_a_size_that_is_no_multiple(engine):
    x = T.ftensor4()
    with pytest.raises(ValueError, match='not a multiple of the factor'):
        theano.function([x], ops.AveragePool2D(2)(x))(np.zeros((1, 1, 4, 5), 'float32'))


def test_resampling_needs_4d_floats():
    for bad in (T.fmatrix(), T.TensorType('int32', (False,) * 4)()):
        with pytest.raises(TypeError, match='needs a 4D float tensor'):
            ops.AveragePool2D(2)(bad)
    x = T.ftensor4()
    assert ops.upscale2d(x, 1) is x and ops.downscale2d(x, 1) is x


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_leaky_relu(engine, dtype):
    x, weights, direction = [T.TensorType(dtype, (False,) * 2)(name) for name in ('x', 'weights', 'direction')]
    y = ops.leaky_relu(x, 0.2)
    gradient = theano.grad(T.sum(y * y * weights), x)
    second = theano.grad(T.sum(gradient * direction), x)
    # Adding a new matrix allows rewrites to work in place.
    function = theano.function([x, weights, direction], [y, gradient, second, ops.leaky_relu(T.dot(x, x.T), 0.2)])
    arrays = [values((5, 4), dtype, seed) for seed in range(3)]
    arrays[0][1, 2] = 0
    slope = np.where(arrays[0] > 0, 1, 0.2)
    product = np.dot(arrays[0], arrays[0].T)
    wanted = [arrays[0] * slope, 2 * arrays[0] * slope ** 2 * arrays[1], 2 * slope ** 2 * arrays[1] * arrays[2],
              np.where(product > 0, product, 0.2 * product)]
    for result, desired in zip(function(*arrays), wanted, strict=True):
        assert result.dtype == dtype
        assert_close(result, desired)


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_leaky_relu_at_zero_infinity_and_nan(engine):
    x = T.fvector()
    y = ops.leaky_relu(x, 0.25)
    value, gradient = theano.function([x], [y, theano.grad(T.sum(y), x)])(
        np.asarray([0, -0.0, np.inf, -np.inf, np.nan], 'float32'))
    np.testing.assert_array_equal(value, [0, 0, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(gradient[:4], [0.25, 0.25, 1, 0.25])


def test_ops_are_equal_by_their_arguments():
    for make in (ops.LeakyReLU, ops.LeakyReLUGrad, ops.AveragePool2D, ops.Repeat2D):
        assert make(2) == make(2) == pickle.loads(pickle.dumps(make(2)))
        assert hash(make(2)) == hash(make(2))
        assert make(2) != make(3)
    assert ops.AveragePool2D(2) != ops.Repeat2D(2)
    assert ops.LeakyReLU(2) != ops.LeakyReLUGrad(2)


# ----------------------------------------------------------------------------------------------------------------------
# Filters.


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
@pytest.mark.parametrize('dtype, shapes', [
    ('float64', [(2, 3, 4, 5), (4, 3, 3, 3)]), ('float64', [(1, 1, 1, 1), (2, 1, 3, 3)]),
    ('float32', [(3, 2, 4, 4), (5, 2, 3, 3)])])
def test_convolution_of_an_upscaled_image(engine, dtype, shapes):
    """The fused form equals the plain one in values, gradients and the gradients of a gradient penalty."""
    x, W = (T.TensorType(dtype, (False,) * 4)() for _ in range(2))
    plain = T.nnet.conv2d(ops.upscale2d(x, 2), W, border_mode=(1, 1))
    fused = ops.upscale2x_conv2d(x, ops.upscale2x_filters(W))
    functions = []
    for y in (plain, fused):
        gx, gW = T.grad(T.sum(y ** 3), [x, W])
        seconds = T.grad(T.sum(gx ** 2), [x, W]) + T.grad(T.sum(gW ** 2), [x, W])
        functions.append(theano.function([x, W], [y, y.shape, gx, gW, *seconds]))
    arrays = [values(shape, dtype, seed) for seed, shape in enumerate(shapes)]
    for result, desired in zip(functions[1](*arrays), functions[0](*arrays), strict=True):
        assert result.dtype == desired.dtype
        # The order of summation differs. Relative to the largest value.
        tolerance = {'float32': 1e-5, 'float64': 1e-12, 'int64': 0}[str(result.dtype)]
        np.testing.assert_allclose(result, desired, rtol=0, atol=tolerance * np.abs(desired).max())


def test_filters_of_an_upscaled_image():
    W = T.dtensor4()
    filters = ops.upscale2x_filters(W).eval({W: np.arange(1., 19).reshape(2, 1, 3, 3)})
    assert filters.shape == (1, 2, 4, 4)
    np.testing.assert_array_equal(filters[0, 0], [[1, 3, 5, 3], [5, 12, 16, 9], [11, 24, 28, 15], [7, 15, 17, 9]])


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_flipped_filters(engine, dtype):
    def flip(W):
        return W[:, :, ::-1, ::-1]
    shape = (2, 3, 4, 5)
    check_linear(engine, ops.flip_filters, flip, flip, shape, shape, dtype)


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
def test_flipped_filters_share_no_memory_with_the_original(engine):
    W = theano.shared(values((2, 1, 2, 2), 'float64'))
    before = W.get_value()
    function = theano.function([], [ops.flip_filters(W), ops.flip_filters(W).shape], updates=[(W, W * 2)])
    flipped, shape = function()
    np.testing.assert_array_equal(flipped, before[:, :, ::-1, ::-1])
    np.testing.assert_array_equal(shape, [2, 1, 2, 2])
    flipped[:] = 7
    np.testing.assert_array_equal(W.get_value(), before * 2)


# ----------------------------------------------------------------------------------------------------------------------
# The gradient of the leaky ReLU.


def gradient_inputs(function):
    """The variables whose signs the gradients of leaky ReLUs in a compiled function use."""
    return [node.inputs[0] for node in function.maker.fgraph.toposort()
            if isinstance(node.op, T.Elemwise) and isinstance(node.op.scalar_op, ops.LeakyReLUGrad)]


def is_leaky_relu(var):
    return var.owner is not None and isinstance(var.owner.op, T.Elemwise) and \
        isinstance(var.owner.op.scalar_op, ops.LeakyReLU)


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
@pytest.mark.parametrize('slope', [0.0, 0.2, -0.5])
def test_gradient_looks_at_the_output(engine, slope):
    x, weights = T.dvector(), T.dvector()
    y = ops.leaky_relu(x, slope)
    gradient = T.grad(T.sum(T.sqr(y) * weights), x)
    second = T.grad(T.sum(gradient ** 3), weights)
    function = theano.function([x, weights], [y, gradient, second])
    looked_at = gradient_inputs(function)
    # With a negative slope, the output has not the sign of the input, so its sign cannot be used.
    assert looked_at and all(is_leaky_relu(var) == (slope >= 0) for var in looked_at)
    array, factors = np.array([-2, -1e-300, -0.0, 0, 1e-300, 3]), np.arange(1., 7)
    slopes = np.where(array > 0, 1, slope)
    wanted = 2 * slopes * (array * slopes) * factors
    for result, desired in zip(function(array, factors), [
            array * slopes, wanted, 3 * wanted ** 2 * (2 * slopes * (array * slopes))], strict=True):
        np.testing.assert_allclose(result, desired, rtol=1e-14, atol=0)


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
def test_gradient_looks_at_outputs_of_its_own_slope(engine):
    x = T.dvector()
    y = ops.leaky_relu(x, 0.2)
    function = theano.function([x], [ops.leaky_relu(x, 0.3), ops.leaky_relu(y, 0.2), T.grad(T.sum(y), x)])
    looked_at, = gradient_inputs(function)
    assert not is_leaky_relu(looked_at) or looked_at.owner.op.scalar_op.slope == 0.2
    np.testing.assert_allclose(function([-1, 2])[2], [0.2, 1], rtol=1e-15)
