"""Every op that theano_torch supports gives the same results as Theano's own Python code."""


import theano_torch
from theano_torch import registry

import numpy as np
import pytest
import theano
import theano.tensor as T
from theano import scalar
from theano.ifelse import ifelse
from theano.tensor import elemwise, extra_ops

from tests.theano_torch.helpers import TORCH, numbers


def tensor(value, name=None):
    """A symbolic variable of the type of `value`; dimensions of size 1 are broadcastable."""
    return T.TensorType(value.dtype, [size == 1 for size in value.shape])(name)


# ----------------------------------------------------------------------------------------------------------------------
# Element by element.

UNARY = [T.neg, T.abs_, T.sgn, T.sqr, T.exp, T.exp2, T.expm1, T.ceil, T.floor, T.trunc, T.sin, T.cos, T.tan,
         T.arctan, T.sinh, T.cosh, T.tanh, T.arcsinh, T.isnan, T.isinf, T.erf, T.erfc, T.erfcx, T.deg2rad, T.rad2deg,
         T.round, lambda x: T.round(x, 'half_away_from_zero'), T.nnet.sigmoid, T.nnet.softplus, T.nnet.hard_sigmoid,
         T.nnet.ultra_fast_sigmoid, T.nnet.relu, T.nnet.elu, T.nnet.nnet.softsign, T.j0, T.j1, T.i0, T.i1, T.inv]
POSITIVE = [T.sqrt, T.log, T.log2, T.log10, T.log1p, T.gammaln, T.gamma, T.psi, T.tri_gamma, T.xlogx.xlogx]
UNIT = [T.arcsin, T.arccos, T.arctanh, T.erfinv, T.erfcinv]


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_unary(agree, dtype):
    x = tensor(numbers(2, 2, dtype=dtype))
    values = numbers(3, 4, dtype=dtype)
    # Some special functions of SciPy and PyTorch are accurate to about single precision only.
    agree([x], [function(x) for function in UNARY if function not in (T.j0, T.j1, T.i0, T.i1, T.erfcx)], (values,),
          (numbers(0, 4, dtype=dtype),), (values[:, ::-1],))
    agree([x], [function(x) for function in [T.j0, T.j1, T.i0, T.i1, T.erfcx]], (values,), tolerance=2e-6)
    positive = np.abs(values) + 0.1
    agree([x], [function(x) for function in [*POSITIVE, T.arccosh]], (positive + 1,), tolerance=2e-6)
    agree([x], [function(x) for function in POSITIVE[:-4]], (positive,))
    agree([x], [function(x) for function in UNIT], (values / 3.5,), tolerance=2e-6)
    agree([x], [T.erfcinv(x), T.gamma(-x)], (positive / 4,), tolerance=2e-6)


def test_unary_on_not_a_number_and_infinity(agree):
    x = T.vector(dtype='float32')
    values = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1], 'float32')
    agree([x], [T.sgn(x), T.isnan(x), T.isinf(x), T.maximum(x, 0), T.minimum(x, 0), T.tanh(x), T.sqrt(x), T.log(x),
                T.nnet.relu(x), x > 0, T.eq(x, x), x.max(), x.sum(), T.switch(x > 0, x, 0), 1 / x, T.floor(x),
                T.nnet.sigmoid(x), T.nnet.softplus(x)], (values,))


@pytest.mark.parametrize('dtype', ['int8', 'int32', 'int64', 'uint8'])
def test_unary_on_integers(agree, dtype):
    x = T.vector(dtype=dtype)
    values = np.array([0, 1, 3, 2], dtype) if dtype == 'uint8' else np.array([0, 1, -3, 2, -2], dtype)
    agree([x], [T.abs_(x), T.sqr(x), T.sgn(x), T.exp(x), T.invert(x), T.cast(x, 'float32'), T.cast(x, 'bool'), x * 3,
                T.neg(x), T.ceil(x), T.sin(x)], (values,))


@pytest.mark.parametrize('dtype', ['uint16', 'uint32', 'uint64'])
def test_wide_unsigned_integers(agree, dtype):
    x = T.vector(dtype=dtype)
    agree([x], [x + 1, x * x, x - 3, T.cast(x, 'float32'), x.sum(), x[1:], x > 2, T.maximum(x, 3), x.max(), x // 2,
                T.switch(x > 2, x, 0), x / 2], (np.array([1, 2, 3, 60000], dtype),))


@pytest.mark.parametrize('first', ['float32', 'float64', 'int32', 'int8', 'uint8', 'bool'])
@pytest.mark.parametrize('second', ['float32', 'int64', 'uint8'])
def test_binary_types(agree, first, second):
    a, b = numbers(3, 4, dtype=first), numbers(3, 4, dtype=second, seed=1)
    x, y = tensor(a), tensor(b)
    b = np.where(b == 0, 1, b).astype(second)
    a = a + 5 if first.startswith('i') else a
    results = [x + y, x - y, x * y, T.maximum(x, y), T.minimum(x, y), T.lt(x, y), T.gt(x, y), T.le(x, y),
               T.ge(x, y), T.eq(x, y), T.neq(x, y), T.switch(x, y, 2), T.switch(T.eq(y, 1), x, y), T.second(x, y)]
    if 'bool' not in (first, second):
        results += [x / y, x // y, x % y]
    agree([x, y], results, (a.astype(first), b))


def test_powers(agree):
    x, y, n = T.fmatrix(), T.fmatrix(), T.lmatrix()
    a, b = numbers(3, 4, low=0.5), numbers(3, 4, seed=1)
    agree([x, y, n], [x ** y, x ** 2, x ** 3, x ** 0.5, x ** -1, 2 ** x, n ** 2, x ** n],
          (a, b, numbers(3, 4, dtype='int64')))


def test_division_and_remainder_follow_the_sign_of_the_divisor(agree):
    x, y = T.lvectors('xy')
    agree([x, y], [x // y, x % y, x / y, x // 3, x % -3, 7 // y], (np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])))
    with np.errstate(divide='ignore'):
        agree([x, y], [x // y, x % y], (np.array([7, -7, 0]), np.array([0, 0, 0])))
    x, y = T.dvectors('xy')
    agree([x, y], [x // y, x % y], (np.array([7.5, -7.5, 7.5, -7.5]), np.array([2., 2, -2, -2])))


def test_integers_overflow_as_in_numpy(agree):
    x, y = T.vector(dtype='int8'), T.vector(dtype='uint8')
    agree([x, y], [x + x, x * x, y - y - y, y + y], (np.array([100, -100], 'int8'), np.array([200, 3], 'uint8')))


def test_bits_and_logic(agree):
    x, y = T.lvectors('xy')
    a, b = T.vector(dtype='bool'), T.vector(dtype='bool')
    agree([x, y, a, b], [x & y, x | y, x ^ y, ~x, a & b, a | b, a ^ b, ~a, T.and_(a, b), T.or_(a, b)],
          (np.array([5, -3, 0]), np.array([3, 6, 1]), np.array([True, False, True]), np.array([True, True, False])))


def test_clip(agree):
    x, low, high = T.dvector(), T.dscalar(), T.dscalar()
    values = np.array([-5, 0.5, 2, 7, np.nan])
    agree([x, low, high], [T.clip(x, low, high), T.clip(x, -1, 1), T.clip(x, low, 3), T.clip(0, x, 3)],
          (values, -2, 2.5), (values, 3, 1))
    n = T.lvector()
    agree([n], T.clip(n, -1, 2), (np.array([-4, 0, 4]),))


def test_special_functions_of_two_arguments(agree):
    x, y = T.dvectors('xy')
    agree([x, y], [T.arctan2(x, y), T.xlogx.xlogy0(x, y), T.chi2sf(x, y), T.gammainc(x, y), T.gammaincc(x, y),
                   T.gammau(x, y), T.gammal(x, y), T.jv(x, y), T.iv(x, y)],
          (np.array([0.5, 1, 2.5]), np.array([1.5, 0.3, 4])), tolerance=1e-9)


def test_complex_numbers(agree):
    x, y = T.zvector(), T.dvector()
    values = np.array([1 + 2j, -1j, 3.0])
    agree([x, y], [T.real(x), T.imag(x), T.conj(x), T.angle(x), abs(x), x * x + 1, T.complex(y, y * 2),
                   T.complex_from_polar(y, y)], (values, np.array([1., 2, 3])))


@pytest.mark.parametrize('shapes', [((3, 4), (3, 4)), ((3, 1), (1, 4)), ((1, 1), (3, 4)), ((1, 1), (1, 1)),
                                    ((0, 4), (1, 4)), ((3, 1), (3, 0))])
def test_broadcasting(agree, shapes):
    a, b = (numbers(*shape, dtype='float64', seed=seed) for seed, shape in enumerate(shapes))
    x, y = tensor(a), tensor(b)
    agree([x, y], [x + y, x * y - 2 * x + y, T.maximum(x, y), T.second(x, y), T.switch(x > 0, y, x), x + y + 1 + x * 3],
          (a, b))


def test_sizes_that_are_not_known_to_be_one_do_not_broadcast():
    x, y = T.dvectors('xy')
    f = theano.function([x, y], x + y, mode=TORCH)
    with pytest.raises(ValueError, match='mis-match'):
        f(np.zeros(1), np.zeros(3))


def test_composite(agree):
    x, y = scalar.float32('x'), scalar.float32('y')
    op = scalar.Composite([x, y], [x * y + 2, scalar.exp(x) / 3, scalar.switch(x > y, x, y)])
    a, b = T.fmatrix(), T.fmatrix()
    agree([a, b], elemwise.Elemwise(op)(a, b), (numbers(3, 4), numbers(3, 4, seed=1)))


def test_in_range(agree):
    x = T.dvector()
    for low_open in (False, True):
        op = elemwise.Elemwise(scalar.InRange(low_open, not low_open))
        agree([x], op(x, 0.0, 2.0), (np.array([-1., 0, 1, 2, 3]),))


def test_half_precision(agree):
    x = T.matrix(dtype='float16')
    agree([x], [x * 2, x + x, T.exp(x), x.sum(), T.maximum(x, 0)], (numbers(3, 4, dtype='float16'),))


# ----------------------------------------------------------------------------------------------------------------------
# Reductions.


@pytest.mark.parametrize('axis', [None, 0, 1, -1, (0, 2), (0, 1, 2), ()])
@pytest.mark.parametrize('dtype', ['float32', 'float64', 'int8', 'int64', 'bool'])
def test_reductions(agree, axis, dtype):
    x = tensor(numbers(2, 2, 2, dtype=dtype))
    results = [x.sum(axis=axis), x.prod(axis=axis), T.all(x, axis=axis), T.any(x, axis=axis),
               x.mean(axis=axis) if dtype.startswith('f') else x.sum(axis=axis, dtype='int32')]
    if axis != ():
        results += [x.max(axis=axis), x.min(axis=axis), x.max(axis=axis, keepdims=True), T.argmax(x, axis=axis),
                    *T.max_and_argmax(x, axis=axis)]
    agree([x], results, (numbers(2, 3, 4, dtype=dtype, low=-2, high=2),))


def test_reductions_of_nothing(agree):
    x = T.dmatrix()
    agree([x], [x.sum(), x.prod(), x.sum(axis=0), x.prod(axis=1), T.all(x, axis=0), T.any(x, axis=0)],
          (np.zeros((0, 3)),), (np.zeros((3, 0)),))


def test_reduction_types(agree):
    x, y = T.vector(dtype='int8'), T.fvector()
    agree([x, y], [x.sum(), x.sum(dtype='int8'), x.sum(acc_dtype='int64', dtype='int8'), x.prod(), x.mean(),
                   y.sum(dtype='float64'), y.mean(dtype='float64'), y.var(), y.std(), y.norm(2)],
          (np.array([100, 100, 100], 'int8'), numbers(7)))


def test_rare_reductions(agree):
    x = T.lmatrix()
    values = numbers(5, 3, dtype='int64', high=60)
    agree([x], [elemwise.CAReduce(op, axis)(x) for op in (scalar.and_, scalar.or_, scalar.xor)
                for axis in ((0,), (1,), (0, 1))], (values,), (values[:1],))
    y = T.dmatrix()
    agree([y], [elemwise.ProdWithoutZeros(0)(y), elemwise.ProdWithoutZeros()(y)],
          (np.array([[0, 2.], [3, 0], [4, 0]]),))


def test_argmax_takes_the_first(agree):
    x = T.dmatrix()
    agree([x], [T.argmax(x), T.argmax(x, axis=0), T.argmin(x, axis=1)], (np.array([[1., 5, 5], [5, 5, 1]]),))


# ----------------------------------------------------------------------------------------------------------------------
# Shapes.


def test_dimshuffle_and_reshape(agree):
    x = T.TensorType('float32', (False, True, False))()
    agree([x], [x.dimshuffle(2, 0), x.dimshuffle('x', 2, 1, 0), x.dimshuffle(0, 'x', 2, 'x'), x.T, x.flatten(),
                x.reshape((-1, 2)), x.reshape((x.shape[2], x.shape[0])), x.T.flatten(),
                T.swapaxes(x, 0, 2), T.addbroadcast(x, 1), T.unbroadcast(x, 1), T.shape_padright(x), T.squeeze(x),
                T.reshape(x, x.shape[::-1], ndim=3)],
          (numbers(4, 1, 2),), (numbers(0, 1, 2),), (numbers(2, 1, 6),))


def test_shape_arithmetic(agree):
    x = T.fmatrix()
    n = T.lscalar()
    agree([x, n], [x.shape, x.shape[0] * 2 + x.shape[1], x / x.shape[0], T.zeros((x.shape[0], n)), T.ones_like(x),
                   T.alloc(x[0, 0], n, x.shape[1]), T.arange(n), T.arange(x.shape[0], dtype='float32') * x[:, 0],
                   T.eye(n, 3), T.identity_like(x), T.prod(x.shape), T.stack([x.shape[0], n]), x.size,
                   T.concatenate([x.shape, [n]]), x.reshape((n, -1)), x.mean(), T.tri(n)],
          (numbers(3, 4), 2), (numbers(3, 4), 3), (numbers(5, 4), 2), (numbers(3, 4), 2))


def test_shapes_that_come_from_data(agree):
    v, size = T.lvector(), theano.shared(np.array(2))
    x = T.fvector()
    agree([v, x], [T.zeros((v[0], v.sum())), x[:v[1]], T.repeat(x, v), x.reshape(v[:2], ndim=2), T.zeros(size) + 1,
                   T.tile(x, v[0]), T.arange(v[0], v[0] + v[1])],
          (np.array([3, 2, 0, 1, 1, 1]), numbers(6)), (np.array([2, 3, 1, 1, 1, 1]), numbers(6)))


def test_join_split_stack_and_tile(agree):
    x, y, n = T.fmatrix(), T.dmatrix(), T.lscalar()
    agree([x, y, n], [T.concatenate([x, y], axis=0), T.concatenate([x, x], axis=1), T.join(n, x, y),
                      T.stack([x, x * 2], axis=1), *T.split(x, [1, n], 2, axis=1), T.tile(x, (2, 3)), T.tile(x, 2),
                      T.repeat(x, 2, axis=1), T.repeat(x, 2), T.repeat(x, [1, 0, 2], axis=0), T.roll(x, 1, axis=0)],
          (numbers(3, 2), numbers(3, 2, dtype='float64'), 1))


def test_sorting(agree):
    x, n = T.dmatrix(), T.lvector()
    agree([x, n], [T.sort(x), T.sort(x, axis=0), T.argsort(x), T.argsort(x, axis=0), T.sort(x, axis=None),
                   T.argsort(n, kind='mergesort'), T.cumsum(x), T.cumsum(x, axis=1), T.cumprod(x, axis=0),
                   T.cumsum(n), extra_ops.diff(x), extra_ops.cumprod(n)],
          (numbers(4, 3, dtype='float64'), np.array([3, 1, 2, 1])))


def test_largest_and_smallest():
    x = T.dmatrix()
    outputs = [*T.topk_and_argtopk(x, 2, sorted=False), T.topk(x, -1, axis=0, sorted=False),
               T.argtopk(x, 1, sorted=False, idx_dtype='int32')]
    values, positions, smallest, largest = theano.function([x], outputs, mode=TORCH)([[3, 1, 2], [0, 9, 8.]])
    np.testing.assert_array_equal(np.sort(values), [[2, 3], [8, 9]])
    np.testing.assert_array_equal(np.sort(positions), [[0, 2], [1, 2]])
    np.testing.assert_array_equal(smallest, [[0, 1, 2]])
    np.testing.assert_array_equal(largest, [[0], [1]])
    assert (positions.dtype, largest.dtype) == ('int64', 'int32')


def test_diagonals_and_friends(agree):
    x, v = T.dmatrix(), T.dvector()
    agree([x, v], [T.diag(v), T.diag(x), T.diagonal(x, 1), extra_ops.fill_diagonal(x, 7.), T.tril(x), T.triu(x),
                   extra_ops.bartlett(4), extra_ops.searchsorted(T.sort(v), x[:, 0]),
                   extra_ops.fill_diagonal_offset(x, 2., 1), T.outer(v, v), T.nlinalg.trace(x)],
          (numbers(3, 3, dtype='float64'), numbers(3, dtype='float64')))


def test_linear_algebra_on_the_host(agree):
    x = T.dmatrix()
    positive = np.array([[2., 0.5], [0.5, 1]])
    agree([x], [T.nlinalg.matrix_inverse(x), T.nlinalg.det(x), T.slinalg.cholesky(x), T.nlinalg.eigh(x)[0]],
          (positive,))


def test_assert_specify_shape_and_views(agree):
    from theano.tensor.opt import Assert
    x, n = T.fmatrix(), T.lscalar()
    agree([x, n], [Assert('positive')(x, n > 0, T.all(T.eq(x, x))), T.specify_shape(x, (n, 2)),
                   theano.gradient.disconnected_grad(x), theano.gradient.grad_clip(x, -1, 1), theano.compile.view_op(x),
                   theano.compile.deep_copy_op(x)], (numbers(3, 2), 3))
    f = theano.function([x, n], Assert('positive')(x, n > 0), mode=TORCH)
    with pytest.raises(AssertionError, match='positive'):
        f(numbers(3, 2), -1)
    f = theano.function([x, n], T.specify_shape(x, (n, 2)), mode=TORCH)
    with pytest.raises(AssertionError, match='SpecifyShape'):
        f(numbers(3, 2), 4)


def test_ifelse_and_print(capsys):
    x, n = T.fvector(), T.lscalar()
    f = theano.function([x, n], [ifelse(n > 0, x * 2, x[1:]), theano.printing.Print('seen')(x)], mode=TORCH)
    for n_value in (1, -1, 1, -1):
        chosen, _ = f([1, 2, 3], n_value)
        np.testing.assert_array_equal(chosen, [2, 4, 6] if n_value > 0 else [2, 3])
        assert capsys.readouterr().out.count('seen') == 1


def test_ifelse_computes_the_branch_that_is_chosen():
    c, d, x = T.lscalar(), T.lscalar(), T.fvector()
    wrong = x[:2] + x
    inner = ifelse(T.eq(d, 1), wrong.sum(), (x * 3).sum())
    a, b = ifelse(c, (x * 2, T.constant(1.5)), (wrong, inner))
    f = theano.function([c, d, x], [a + 1, b, ifelse(T.lt(c, 5), x, wrong)], mode=TORCH)
    for c_value in (1, 2):
        first, second, third = f(c_value, 1, [1, 2, 3])
        np.testing.assert_array_equal(first, [3, 5, 7])
        assert second == 1.5
        np.testing.assert_array_equal(third, [1, 2, 3])
    with pytest.raises(ValueError, match='mis-match'):
        f(0, 1, [1, 2, 3])
    g = theano.function([c, d, x], ifelse(c, wrong.sum(), inner), mode=TORCH)
    assert [g(0, 0, [1, 2, 3]), g(0, 2, [1, 2, 3]), g(1, 0, [1, 2])] == [18, 18, 6]


def test_ifelse_updates_shared_variables():
    counter, x = theano.shared(0.0), T.dscalar()
    f = theano.function([x], [], updates=[(counter, ifelse(x > counter, counter + 1, counter))], mode=TORCH)
    for value, wanted in ((5, 1), (5, 2), (1, 2), (5, 3)):
        f(value)
        assert counter.get_value() == wanted


# ----------------------------------------------------------------------------------------------------------------------
# Indexing.


@pytest.mark.parametrize('index', [
    np.s_[1], np.s_[-1], np.s_[1:], np.s_[:-1], np.s_[::2], np.s_[::-1], np.s_[::-2, 1:], np.s_[3:0:-1, ::-1],
    np.s_[:, -2], np.s_[-1, ::-1], np.s_[10:], np.s_[0:0], np.s_[-100:100:3], np.s_[0:3:-1], np.s_[..., 0],
    np.s_[2, :, ::-1], np.s_[:, None, 1, ::-1]], ids=str)
def test_slices(agree, index):
    x = T.dtensor3()
    values = numbers(5, 4, 3, dtype='float64')
    part = values[index]
    results = [x[index], T.grad((x[index] ** 2).sum(), x)]
    y = T.TensorType('float64', (False,) * part.ndim)()
    if None not in np.index_exp[index]:
        results += [T.set_subtensor(x[index], y), T.inc_subtensor(x[index], y), T.set_subtensor(x[index], 3.5)]
    agree([x, y], results, (values, part * 2 + 1))


def test_symbolic_slices(agree):
    x, i, j, step = T.dmatrix(), T.lscalar(), T.iscalar(), T.lscalar()
    agree([x, i, j, step], [x[i], x[i:j], x[:, j], x[i::step], x[::step, i], T.set_subtensor(x[i:j], 0),
                            T.inc_subtensor(x[:, i], x[:, j]), x[T.cast(x[0, 0], 'int64')]],
          *[(numbers(5, 4, dtype='float64', low=0, high=2), *bounds)
            for bounds in [(0, 3, 1), (1, 3, -1), (1, 2, 2), (-1, 3, -2), (0, 3, 1)]])


def test_minibatches_by_index_use_one_program():
    data, i = theano.shared(numbers(10, 3)), T.lscalar()
    f = theano.function([i], data[i * 4:(i + 1) * 4] * 2, mode=TORCH)
    for number in [0, 1, 0, 2, 1, 2]:
        np.testing.assert_array_equal(f(number), data.get_value()[number * 4:(number + 1) * 4] * 2)
    # One program for full minibatches, one for the last minibatch.
    assert [len(programs) for programs in f.fn.programs.values()] == [2]


def test_an_index_out_of_range_is_an_error():
    x, i = T.dvector(), T.lscalar()
    f = theano.function([x, i], x[i], mode=TORCH)
    with pytest.raises(IndexError, match='Apply node that caused the error'):
        f([1, 2], 2)


def test_index_vectors(agree):
    x, y, i = T.dmatrix(), T.dmatrix(), T.ivector()
    agree([x, y, i], [x[i], T.grad((x[i] ** 3).sum(), x), T.set_subtensor(x[i[:2]], 1.5), T.inc_subtensor(x[i], y),
                      T.inc_subtensor(x[i], 1), x[:, i], x.take(i, axis=1), T.inc_subtensor(x[i], y[:, :1])],
          (numbers(4, 3, dtype='float64'), numbers(5, 3, dtype='float64'), np.array([2, 0, 2, -2, 1], 'int32')),
          (numbers(4, 3, dtype='float64'), numbers(5, 3, dtype='float64'), np.zeros(5, 'int32')))


def test_advanced_indexing(agree):
    x, i, j, n = T.dtensor3(), T.lvector(), T.lmatrix(), T.lscalar()
    indices = [np.index_exp[i, i], np.index_exp[i, :, i], np.index_exp[:, j], np.index_exp[0, :, i], np.index_exp[j, 1],
               np.index_exp[i, None, i], np.index_exp[i, ::-1], np.index_exp[::-1, i, 1:], np.index_exp[:n, i],
               np.index_exp[n, :, i]]
    results = [x[index] for index in indices]
    results += [T.set_subtensor(x[index], 2.5) for index in indices[:1] + indices[3:4]]
    results += [T.grad((x[index] ** 2).sum(), x) for index in indices]
    results += [T.inc_subtensor(x[i, :, i], x[:2, :, 0]), x[T.arange(3), i[0]]]
    values = numbers(3, 4, 3, dtype='float64')
    agree([x, i, j, n], results, (values, np.array([0, 2]), np.array([[0, 1], [2, 2]]), 1),
          (values, np.array([1, 1]), np.array([[0, 0], [0, 0]]), 2))


def test_boolean_masks(agree):
    x, mask, rows = T.dmatrix(), T.matrix(dtype='bool'), T.vector(dtype='bool')
    values = numbers(3, 4, dtype='float64')
    agree([x, mask, rows], [x[mask], x[rows], x[:, 1:][rows], T.set_subtensor(x[mask], 0), T.inc_subtensor(x[rows], 1),
                            (x > 0).nonzero()[0], x[(x > 0).nonzero()], x.nonzero_values(), x[x > 0].sum()],
          (values, values > 1, values[:, 0] > 0), (-values, values > 2, values[:, 1] > 0),
          (values, values > 10, values[:, 0] > 10), (values, values > 1, values[:, 0] > 0))


def test_choose_and_unique(agree):
    x = T.lvector()
    agree([x], [extra_ops.Unique()(x), T.choose(x, [x * 10, x * 20, x]), extra_ops.unravel_index(x, (2, 3))[1]],
          (np.array([1, 0, 2, 1]),), (np.array([1, 1, 1, 1]),))


# ----------------------------------------------------------------------------------------------------------------------
# Matrix products.


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_dot(agree, dtype):
    x, y, v = T.matrix(dtype=dtype), T.matrix(dtype=dtype), T.vector(dtype=dtype)
    stack = T.tensor3(dtype=dtype)
    a, b = numbers(3, 4, dtype=dtype), numbers(4, 5, dtype=dtype)
    agree([x, y, v, stack], [T.dot(x, y), T.dot(x, v), T.dot(v, y), T.dot(v, v), T.dot(x, y) * 0.5 + 2 * T.dot(x, y),
                             T.dot(x.T, x), T.batched_dot(stack, stack.dimshuffle(0, 2, 1)),
                             T.batched_dot(stack[:, :, 0], stack[:, :, 0]), T.grad(T.dot(x, y).sum(), y),
                             T.tensordot(stack, x, [[2], [1]]), T.outer(v, v)],
          (a, b, a[0], numbers(2, 3, 4, dtype=dtype)), (a[:0], b, a[0], numbers(2, 0, 4, dtype=dtype)))


def test_products_of_unlike_types(agree):
    x, y = T.fmatrix(), T.dmatrix()
    n = T.lmatrix()
    agree([x, y, n], [T.dot(x, y), T.dot(n, n), T.dot(n, x)],
          (numbers(2, 2), numbers(2, 2, dtype='float64'), numbers(2, 2, dtype='int64')))


def test_blas_ops(agree):
    from theano.tensor import blas
    z, x, y, v = T.dmatrix(), T.dmatrix(), T.dmatrix(), T.dvector()
    two, half = T.constant(2.0, dtype='float64'), T.constant(0.5, dtype='float64')
    agree([z, x, y, v], [blas.gemm_no_inplace(z, two, x, y, half), blas.gemv_no_inplace(v, two, x, v, half),
                         blas.ger(z, two, v, v), blas.Dot22()(x, y), blas.Dot22Scalar()(x, y, two),
                         blas.gemm_no_inplace(z, two, x, y, T.constant(0.0, dtype='float64'))],
          tuple(numbers(*shape, dtype='float64', seed=n) for n, shape in enumerate([(3, 3), (3, 3), (3, 3), (3,)])))


# ----------------------------------------------------------------------------------------------------------------------
# The registries.


class UnknownOp(theano.Op):
    __props__ = ()

    def make_node(self, x):
        x = T.as_tensor_variable(x)
        return theano.Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = inputs[0] * 7


def test_an_unknown_op_without_python_code_is_an_error_when_the_function_is_made():
    class Unknown(UnknownOp):
        perform = theano.gof.op.PureOp.perform

    class UnknownScalar(scalar.UnaryScalarOp):
        pass

    x = T.dvector('x')
    with pytest.raises(theano_torch.UnsupportedOp, match=r'op Unknown.*node Unknown\(x\).*lower.register\(Unknown\)'):
        theano.function([x], Unknown()(x), mode=TORCH)
    op = elemwise.Elemwise(UnknownScalar(scalar.same_out))
    with pytest.raises(theano_torch.UnsupportedOp, match=r'UnknownScalar.*lower_scalar.register\(UnknownScalar\)'):
        theano.function([x], op(x), mode=TORCH)


def test_ops_can_be_registered():
    class Known(UnknownOp):
        pass

    class OnHost(UnknownOp):
        pass

    class KnownScalar(scalar.UnaryScalarOp):
        pass

    theano_torch.lower.register(Known)(lambda op, node, build: lambda x: x * 7)
    theano_torch.lower.register(OnHost)(theano_torch.on_host)
    theano_torch.lower_scalar.register(KnownScalar)(lambda op, node: lambda x: x * 7)
    x = T.dvector('x')
    outputs = [Known()(x), OnHost()(x), elemwise.Elemwise(KnownScalar(scalar.same_out))(x)]
    f = theano.function([x], outputs, mode=TORCH)
    for value in f([1, 2]):
        np.testing.assert_array_equal(value, [7, 14])


def test_the_registries_do_not_need_torch():
    import subprocess
    import sys
    code = ("import sys; sys.modules['torch'] = None; import theano_torch, theano_torch.shared; "
            "theano_torch.lower.register(int)(theano_torch.on_host)")
    subprocess.run([sys.executable, '-c', 'import theano_env; ' + code], check=True)
    assert registry.lower is theano_torch.lower
