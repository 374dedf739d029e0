"""ops.py: values, gradients and second derivatives of the ops, on every engine, against NumPy."""

import pickle

import numpy as np
import pytest

import theano_env  # noqa: F401  isort: skip

import theano
import theano.tensor as T

import ops

ENGINES = ['torch', 'python', 'theano']
TOLERANCES = {'float32': 1e-6, 'float64': 1e-14}    # Rounding of the dtype.


def values(shape, dtype, seed=0):
    """Standard normal; not contiguous, so that strides matter."""
    return np.random.RandomState(seed).randn(*shape[::-1]).astype(dtype).T


def assert_close(actual, desired):
    tolerance = TOLERANCES[str(actual.dtype)]
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def check_linear(engine, op, dense, transposed, in_shape, out_shape, dtype):
    """`op` equals the NumPy function `dense`; its gradient the transposed map; the gradient of that `dense` again."""
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
    # The sum with a fresh matrix lets the rewrites work in place.
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
