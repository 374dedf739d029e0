"""Element types with few PyTorch kernels, unusual memory layouts, and errors of the same classes as in Theano."""

import numpy as np
import pytest
import theano
import theano.tensor as T
from theano.sandbox import multinomial
from theano.tensor import extra_ops, inplace

from tests.theano_torch.helpers import TORCH, numbers


@pytest.mark.parametrize('dtype', ['uint16', 'uint32', 'uint64'])
def test_wide_unsigned_integers_beyond_the_signed_ones(agree, dtype):
    x, y = T.vector(dtype=dtype), T.vector(dtype=dtype)
    top = np.iinfo(dtype).max
    a, b = np.array([3, top, 0, top - 1, 3], dtype), np.array([2, top - 1, 5, 7, 3], dtype)
    agree([x, y], [T.argmax(x), T.max(x), T.min(y), T.dot(x, y), T.sort(x), T.argsort(x),
                      T.set_subtensor(x[1:3], y[1:3]),
                      x > y, x >= y, T.eq(x, y), T.maximum(x, y), T.clip(x, 2, 9), x // y, x % 3, x / 2, x + y, x * y,
                      T.cast(x, 'float64'), x[::-1], x[[0, 0]], T.switch(x > 3, x, y), x & y,
                      T.concatenate([x, y]), x.sum(), x.prod(), T.outer(x, y), T.diag(x), x.mean(),
                      T.stack([x, y]), T.tile(x, 2), T.roll(x, 1),
                      *([T.cumsum(x), T.cumprod(y)] if dtype == 'uint64' else [extra_ops.bincount(x % 5)])],
          (a, b))
    written = theano.function([x, y], [T.inc_subtensor(x[[0, 0]], y[:2]), T.inc_subtensor(x[1:3], 3),
                                       T.inc_subtensor(x[::-2], y[:3]), T.inc_subtensor(x[x > 3], 1)], mode=TORCH)
    wanted = [[3 + 2 + top - 1], [top + 3, 3], [3 + 5, top, top - 1, top - 1, 3 + 2], [3, 0, 0, top, 3]]
    for value, numbers_ in zip(written(a, b), wanted, strict=True):
        value = value[1:3] if len(numbers_) == 2 else value[:len(numbers_)]
        assert [int(number) for number in value] == [number % (top + 1) for number in numbers_]
    values, positions = theano.function([x], T.topk_and_argtopk(x, 1, sorted=False), mode=TORCH)(a)
    assert (values, positions) == (top, 1)


@pytest.mark.parametrize('dtype', ['complex64', 'complex128'])
def test_complex_numbers_are_ordered_as_in_numpy(dtype):
    x, y = T.vector(dtype=dtype), T.vector(dtype=dtype)
    a, b = np.array([1 + 2j, 1 - 1j, -3, 1 + 2j], dtype), np.array([1 + 1j, 2, -3j, 1 + 2j], dtype)
    outputs = dict(
        gt=(x > y, a > b), le=(x <= y, a <= b), ne=(T.neq(x, y), a != b), maximum=(T.maximum(x, y), np.maximum(a, b)),
        sort=(T.sort(x), np.sort(a)), argsort=(T.argsort(x), np.argsort(a, kind='stable')),
        argmax=(T.argmax(x), a.argmax()), max=(T.max(x), a.max()), sum=(x.sum(), a.sum()), prod=(x.prod(), a.prod()),
        dot=(T.dot(x, y), a @ b), sqrt=(T.sqrt(x), np.sqrt(a)), power=(x ** 2, a ** 2), exp=(T.exp(x), np.exp(a)),
        quotient=(x / y, a / b), real=(x.real, a.real), imag=(x.imag, a.imag), size=(abs(x), abs(a)),
        cumsum=(T.cumsum(x), a.cumsum()), mean=(x.mean(), a.mean()), join=(T.concatenate([x, y]), [*a, *b]),
        set=(T.set_subtensor(x[1:], y[1:]), [a[0], *b[1:]]),
        switch=(T.switch(T.eq(x, y), x, 0), np.where(a == b, a, 0)))
    f = theano.function([x, y], [output for output, _ in outputs.values()], mode=TORCH)
    for name, value, (_, wanted) in zip(outputs, f(a, b), outputs.values(), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5 if dtype == 'complex64' else 1e-12, err_msg=name)


@pytest.mark.parametrize('name', ['add', 'sub', 'neg'])
def test_infinities_and_signed_zeros_of_complex_numbers(name):
    """PyTorch's complex sums turn infinity into NaN, and its negation loses the sign of 0; the engine's do not."""
    parts = [0.0, -0.0, 1.5, np.inf, -np.inf, np.nan]
    x, y = (grid.ravel() for grid in np.meshgrid(*[[complex(re, im) for re in parts for im in parts]] * 2))
    arrays = (x,) if name == 'neg' else (x, y)
    variables = [T.zvector() for _ in arrays]
    found = theano.function(variables, getattr(T, name)(*variables), mode=TORCH)(*arrays)
    with np.errstate(invalid='ignore'):
        wanted = {'add': np.add, 'sub': np.subtract, 'neg': np.negative}[name](*arrays)
    for part in ('real', 'imag'):
        np.testing.assert_array_equal(getattr(found, part), getattr(wanted, part))
        numbers_too = ~np.isnan(getattr(wanted, part))      # The sign of NaN is arbitrary.
        assert (np.signbit(getattr(found, part)) == np.signbit(getattr(wanted, part)))[numbers_too].all()


def test_angle_of_real_numbers():
    x = T.dvector()
    found = theano.function([x], T.angle(x), mode=TORCH)([0.0, -0.0, 2, -2, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(found, [0, np.pi, 0, np.pi, 0, np.pi, np.nan])


@pytest.mark.parametrize('dtype', ['int32', 'int64'])
def test_powers_of_integers_with_negative_exponents(dtype):
    """As in Theano's C code, whether the numbers are on the host (scalars) or on the device."""
    cases = {(2, -1): 0, (-1, -1): -1, (-1, -2): 1, (1, -5): 1, (-2, -2): 0, (3, 4): 81, (-3, 3): -27, (5, 0): 1}
    for variable in (T.scalar, T.vector):
        x, y = variable(dtype=dtype), variable(dtype=dtype)
        power = theano.function([x, y], x ** y, mode=TORCH)
        for (base, exponent), result in cases.items():
            found = power(*[np.full((1,) * x.ndim, number, dtype) for number in (base, exponent)])
            assert found.dtype == dtype and found.item() == result, (base, exponent)


def test_complex_numbers_out_of_real_ones(agree):
    i, r, f = T.lvector(), T.dvector(), T.fvector()
    agree([i, r, f], [T.basic.complex_from_polar(i, i), T.complex(i, r), T.complex(f, f), T.imag(r), T.real(r),
                      T.imag(f), T.real(T.complex(r, i))], (np.array([1, 2]), np.array([1., 2]), numbers(2)))


def test_products_of_booleans(agree):
    x, y = T.matrix(dtype='bool'), T.matrix(dtype='bool')
    agree([x, y], [T.dot(x, y), T.dot(x[0], y[:, 0]), T.dot(x, y[:, 0])],
          (numbers(2, 3, dtype='bool'), numbers(3, 2, dtype='bool', seed=1)))


def test_strides_of_dimensions_of_size_one():
    x = T.fmatrix()
    shared = theano.shared(np.ones((1, 3), 'float32')[::-1], borrow=True)
    f = theano.function([x], [x * 2, x[::-1], shared + 1], mode=TORCH)
    records = np.zeros((1, 3), [('other', 'int32'), ('value', 'float32')])['value']
    for array in (np.ones((1, 3), 'f')[::-1], np.ones((3, 1), 'f')[:, ::-1], np.ones((1, 1), 'f')[::-1, ::-1],
                  np.ones((4, 6), 'f')[::-2, ::-3][:1], records, records[:, :1], np.zeros((1, 0), 'f')[::-1]):
        for value, wanted in zip(f(array), [array * 2, array[::-1], np.full((1, 3), 2)], strict=True):
            np.testing.assert_array_equal(value, wanted)


def raised(inputs, output, *arguments):
    """The class of the error that the first call of a function raises."""
    with pytest.raises(Exception) as caught:
        theano.function(inputs, output, mode=TORCH)(*arguments)
    return caught.type


def test_shapes_that_do_not_fit_are_value_errors():
    A, B, v, i, n = T.fmatrix(), T.fmatrix(), T.fvector(), T.lvector(), T.ivector()
    a, b, e = numbers(2, 3), numbers(4, 3), numbers(0, 3)
    softmax = T.nnet.softmax(A)
    cases = [
        ([A, B], T.dot(A, B), a, b), ([A, v], T.dot(A, v), a, b[0, :2]), ([A, B], T.set_subtensor(A[:], B), a, b),
        ([A, B], T.inc_subtensor(A[:1], B), a, b), ([A], A.reshape((13,)), a), ([A, B], A + B, a, b),
        ([A, n], A.reshape(n, ndim=2), a, np.array([1, 2, 3], 'int32')),
        ([A, n], A.reshape(n, ndim=2), a, np.array([2, 2], 'int32')), ([A, B], T.concatenate([A, B], 1), a, b),
        ([A], T.split(A, [3, -1], 2, axis=0)[0], a), ([A], T.split(A, [1, 2], 2, axis=0)[0], a), ([A], A.max(), e),
        ([A], A.min(axis=0), e), ([A], A.argmax(), e), ([A], T.max_and_argmax(A, axis=0)[1], e),
        ([A, i], T.nnet.categorical_crossentropy(softmax, i), a, np.array([-1, 5])),
        ([A, i], T.nnet.categorical_crossentropy(softmax, i), a, np.array([1])),
        ([A, i], T.nnet.categorical_crossentropy(A, i), a, np.array([0, 3])),
        ([A, i], T.grad(T.nnet.categorical_crossentropy(softmax, i).sum(), A), a, np.array([0, 3])),
        ([A, B], T.batched_dot(A, B), a, b), ([A, v], T.nnet.nnet.softmax_with_bias(A, v), a, b[0, :1]),
        ([A, i], T.repeat(A, i, axis=0), a, np.array([1, 2, 3])),
        ([A], T.topk(A, 5, sorted=False), a), ([A], T.topk(A, 0, sorted=False), a),
        ([i], T.zeros((i[0], 2)) + 1, np.array([-1]))]
    assert [raised(*case) for case in cases] == [ValueError] * len(cases)
    assert raised([A, i], A[i], a, np.array([5])) is IndexError


def test_shapes_that_do_not_fit_in_a_later_call():
    x, target = T.fmatrix(), T.lvector()
    f = theano.function([x, target], T.nnet.categorical_crossentropy(T.nnet.softmax(x), target), mode=TORCH)
    for _ in range(2):
        f(numbers(2, 3), [0, 2])
        with pytest.raises(ValueError, match='(?s)out of bounds.*Apply node'):
            f(numbers(2, 3), [0, 3])


def test_masks_of_numbers(agree):
    x, c = T.dscalar(), T.scalar(dtype='bool')
    agree([x, c], [x[x > 1], T.set_subtensor(x[x > 1], 5), T.inc_subtensor(x[c], 2)], (2., True), (0., True),
          (2., False))


def test_values_that_are_trusted_are_checked():
    x = T.fvector()
    f = theano.function([x], x * 2, mode=TORCH)
    f.trust_input = True
    for _ in range(2):
        with pytest.raises(TypeError, match='float64'):
            f(np.ones(2))
        assert list(f(np.ones(2, 'float32'))) == [2, 2]
    with pytest.raises(TypeError, match='2 dimensions'):
        f(np.ones((2, 1), 'float32'))
    with pytest.raises(ValueError, match='not an array'):
        f([1., 2.])


def test_functions_of_whole_numbers_in_place(python_mode):
    """Results are computed in float64, as in C, and truncated to the integer type of the argument."""
    n = T.lvector()
    for function in (inplace.gamma_inplace, inplace.tanh_inplace, inplace.exp_inplace):
        compute = [theano.function([theano.In(n, mutable=True)], function(n), mode=mode, accept_inplace=True)
                   for mode in (TORCH, python_mode)]
        mine, reference = [call([9, 5, 13, 2, 3, 6, 20]) for call in compute]
        assert mine.dtype == reference.dtype and list(mine) == list(reference)


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'int32'])
@pytest.mark.parametrize('axis', [None, 0, 1])
def test_cumulative_sums_are_exact(dtype, axis, python_mode):
    """Sums are rounded after each element, as in NumPy, so that results have the same bits."""
    x = T.matrix(dtype=dtype)
    value = numbers(40, 50, dtype=dtype)
    for mine, reference in zip(*[theano.function([x], [T.cumsum(x, axis), T.cumprod(x, axis)], mode=mode)(value)
                                 for mode in (TORCH, python_mode)], strict=True):
        np.testing.assert_array_equal(mine, reference)


def test_multinomial_samples_of_many_rows():
    """Theano stores the number of samples as int8; its product with the number of rows must not overflow."""
    p, u = T.fmatrix(), T.fvector()
    compute = theano.function([p, u], multinomial.MultinomialFromUniform('auto')(p, u), mode=TORCH)
    chances = np.tile(np.float32([[0.25, 0.75]]), (300, 1))
    assert compute(chances, np.linspace(0, 0.99, 300, dtype=np.float32)).sum(axis=0).tolist() == [76, 224]


# ----------------------------------------------------------------------------------------------------------------------
# Cases found by random programs, see tests/theano_torch/fuzz.


def test_bessel_functions_of_float16(agree):
    x = T.TensorType('float16', (False,))()
    agree([x], T.jv(x, x), [numbers(5, dtype='float16')])


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_trigamma_is_infinite_at_its_poles(agree, dtype):
    x = T.vector(dtype=dtype)
    # PyTorch's function has nine digits, like that of Theano's C code.
    agree([x], T.tri_gamma(x), [np.array([-3, -1, 0, 1, 2.5], dtype)], tolerance=1e-8)


def test_chi_squared_survival_outside_of_its_domain(agree):
    x, k = T.dvector(), T.dvector()
    values = np.array([-2, -2, 0, 3, 3, np.nan]), np.array([-1, 2, 0, 0, 2, 2.0])
    agree([x, k], T.chi2sf(x, k), values)


def test_ultra_fast_sigmoid_of_nan(agree):
    x = T.fvector()
    agree([x], T.nnet.ultra_fast_sigmoid(x), [np.array([np.nan, -9, -2, 0, 2, 9, np.inf], 'float32')])


def test_infinite_numbers_on_the_host_become_integers():
    x = T.bscalar()
    run = theano.function([x], x ** -1, mode=TORCH)
    assert run(1) == 1 and run(0).dtype == 'int8'


def test_numbers_are_added_to_booleans():
    x, y = T.TensorType('bool', (False,))(), T.lscalar()
    run = theano.function([x, y], T.inc_subtensor(x[-1], y), mode=TORCH)
    assert run([True, True], -1).tolist() == [True, False]
    assert run([False, False], 3).tolist() == [False, True]
