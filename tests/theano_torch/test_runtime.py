"""theano_torch as a whole: functions, shared variables, random streams, networks."""


import copy
import pickle
import warnings

import theano_torch
from theano_torch.lowerings import random as random_lowerings
from theano_torch.lowerings.random import M1, M2, step
from theano_torch.shared import DeviceCell, DeviceConstructor, TorchSharedVariable

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
import torch
from theano.sandbox.rng_mrg import MRG_RandomStreams

from tests.helpers import GOLDEN, load_golden

MODE = theano_torch.mode()


@pytest.fixture(params=['host', 'device'])
def shared(request):
    """`theano.shared` for variables on the host, and for variables on a device."""
    if request.param == 'host':
        return theano.shared
    return DeviceConstructor('cpu')


# ----------------------------------------------------------------------------------------------------------------------
# Shared variables.


def test_values_are_independent_copies(shared):
    original = np.arange(6.).reshape(2, 3)
    a = shared(original)
    original[:] = -1
    value = a.get_value()
    value[:] = -2
    np.testing.assert_array_equal(a.get_value(), np.arange(6.).reshape(2, 3))
    new = np.ones((1, 4))
    a.set_value(new)
    new[:] = 5
    assert type(a.get_value()) is np.ndarray
    np.testing.assert_array_equal(a.get_value(), np.ones((1, 4)))
    a.zero()
    np.testing.assert_array_equal(a.get_value(), np.zeros((1, 4)))
    with pytest.raises(TypeError):
        a.set_value(np.zeros(3))


def test_updates_are_simultaneous(shared):
    a, b = shared(np.array([1., 2])), shared(np.array([3., 4]))
    c = shared(np.zeros((2, 1)), broadcastable=(False, True))
    f = theano.function([], a + b, updates=[(a, b), (b, a), (c, a.dimshuffle(0, 'x'))], mode=MODE)
    np.testing.assert_array_equal(f(), [4, 6])
    assert (a.get_value().tolist(), b.get_value().tolist(), c.get_value().tolist()) == ([3, 4], [1, 2], [[1], [2]])
    f()
    assert (a.get_value().tolist(), b.get_value().tolist(), c.get_value().tolist()) == ([1, 2], [3, 4], [[3], [4]])


def test_variables_do_not_share_memory_after_updates(shared):
    a, b = shared(np.zeros(3)), shared(np.zeros(3))
    x = T.dvector()
    f = theano.function([x], [x, a], updates=[(a, x), (b, x)], mode=MODE)
    argument = np.array([1., 2, 3])
    f(argument)
    argument[:] = 7
    np.testing.assert_array_equal(a.get_value(), [1, 2, 3])
    add = theano.function([], [], updates=[(a, T.inc_subtensor(a[0], 10))], mode=MODE)
    add()
    np.testing.assert_array_equal(a.get_value(), [11, 2, 3])
    np.testing.assert_array_equal(b.get_value(), [1, 2, 3])


def test_results_are_not_changed_by_later_calls(shared):
    a = shared(np.zeros(3))
    f = theano.function([], [a, a + 1, a[1:], T.alloc(a[0], 4)], updates=[(a, a + 1)], mode=MODE)
    first = f()
    kept = copy.deepcopy(first)
    for value in f():
        value[:] = 99
    for value, expected in zip(first, kept, strict=True):
        np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(a.get_value(), [2, 2, 2])


def test_shapes_of_shared_variables_may_change(shared):
    a = shared(np.ones((2, 3)))
    f = theano.function([], [a.sum(), a.shape], updates=[(a, T.concatenate([a, a]))], mode=MODE)
    assert [f()[0].item() for _ in range(3)] == [6, 12, 24]
    assert a.get_value().shape == (16, 3)


def test_shared_variables_under_another_engine(shared, python_mode):
    a = shared(np.ones(3))
    plus = {mode: theano.function([], a * 2, updates=[(a, a + 1)], mode=mode) for mode in (MODE, python_mode)}
    for number, mode in enumerate([MODE, python_mode, python_mode, MODE, MODE]):
        np.testing.assert_array_equal(plus[mode](), np.full(3, 2. * (number + 1)))
        np.testing.assert_array_equal(a.get_value(), np.full(3, number + 2.))


def test_copies_and_pickles(shared):
    a = shared(np.arange(3.), name='a')
    a.tag.remark = 'seen'
    for b in (pickle.loads(pickle.dumps(a, 2)), copy.deepcopy(a)):
        assert (type(b), b.name, b.type, b.tag.remark) == (type(a), 'a', a.type, 'seen')
        b.set_value(b.get_value() * 2)
        np.testing.assert_array_equal(b.get_value(), [0, 2, 4])
        np.testing.assert_array_equal(theano.function([], b + 1, mode=MODE)(), [1, 3, 5])
    np.testing.assert_array_equal(a.get_value(), [0, 1, 2])
    b = a.clone()
    b.set_value(np.ones(2))
    np.testing.assert_array_equal(a.get_value(), [1, 1])


def test_device_variables():
    shared = DeviceConstructor('cpu')
    a = shared(np.float32(2.5), name='a')
    assert isinstance(a, TorchSharedVariable) and isinstance(a.container.storage, DeviceCell)
    assert isinstance(a.type, T.TensorType) and (a.dtype, a.ndim) == ('float32', 0)
    assert shared(np.zeros((1, 3)), broadcastable=(True, False)).broadcastable == (True, False)
    np.testing.assert_array_equal(a.get_value(return_internal_type=True).numpy(), 2.5)
    with pytest.raises(TypeError):
        shared('text')
    assert '<value on cpu>' in repr(a.container.storage)


def test_install_makes_device_variables_only_away_from_the_cpu():
    from theano_torch.shared import install
    constructors = theano.compile.sharedvalue.shared.constructors
    before = list(constructors)
    try:
        install('meta')
        assert [getattr(constructor, 'device', None) for constructor in constructors][-1] == 'meta'
        install('cpu')
        assert type(theano.shared(np.zeros(2))) is T.sharedvar.TensorSharedVariable
    finally:
        constructors[:] = before


def test_integer_shared_variable_as_a_shape(shared):
    n = shared(np.array(2))
    f = theano.function([], T.ones((n, 2)).sum(), updates=[(n, n + 1)], mode=MODE)
    assert [f().item() for _ in range(4)] == [4, 6, 8, 10]


# ----------------------------------------------------------------------------------------------------------------------
# Functions.


def test_features_of_theano_functions():
    x, y = T.dvectors('xy')
    a = theano.shared(np.ones(2), 'a')
    a.default_update = a * 2
    f = theano.function([x, theano.In(y, value=np.array([1., 1]))], {'sum': x + y + a, 'twice': 2 * x}, mode=MODE)
    assert {key: value.tolist() for key, value in f([1, 2]).items()} == {'sum': [3, 4], 'twice': [2, 4]}
    assert f([1, 2], y=[0, 0], output_subset=['sum'])['sum'].tolist() == [3, 4]
    assert a.get_value().tolist() == [4, 4]
    f = theano.function([x], x + a, givens={a: np.array([5., 5])}, no_default_updates=True, mode=MODE, profile=False)
    assert f([1, 2]).tolist() == [6, 7]
    f.trust_input = True
    assert f(np.array([1., 2])).tolist() == [6, 7]
    with pytest.raises(TypeError):
        theano.function([x], x, mode=MODE)(np.zeros((2, 2)))
    n = T.ivector()
    assert theano.function([n], n * 2, mode=MODE, allow_input_downcast=True)([1.5, 2]).tolist() == [2, 4]
    assert theano.function([], [], mode=MODE)() == []
    assert theano.clone(x + a, replace={a: y}).eval({x: [1.], y: [2.]}) == [3]


def test_copies_of_functions():
    x, a, b = T.dscalar(), theano.shared(np.array(1.)), theano.shared(np.array(100.))
    f = theano.function([x], x + a, updates=[(a, a + x)], mode=MODE)
    assert f(1).item() == 2
    again, swapped, frozen = f.copy(), f.copy(swap={a: b}), f.copy(delete_updates=True, share_memory=True)
    # Copies of a function return lists.
    assert [g(1)[0].item() for g in (again, swapped, frozen)] + [f(1).item()] == [3, 101, 4, 4]
    assert (a.get_value().item(), b.get_value().item()) == (4, 101)
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert other(1).item() == 5
    assert a.get_value().item() == 4


def test_arguments_of_all_memory_layouts():
    x = T.dmatrix()
    f = theano.function([x], [x * 2, x.T, x[::-1]], mode=MODE)
    values = np.arange(12.).reshape(3, 4)
    readonly = values.copy()
    readonly.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for argument in (values, values[::-1], values.T, np.asfortranarray(values), values[:, ::2], readonly,
                         values.astype('>f8'), np.broadcast_to(values[0], (3, 4))):
            doubled, transposed, reverse = f(argument)
            np.testing.assert_array_equal(doubled, argument * 2)
            np.testing.assert_array_equal(transposed, argument.T)
            np.testing.assert_array_equal(reverse, argument[::-1])
    np.testing.assert_array_equal(values, np.arange(12.).reshape(3, 4))


def test_one_program_for_each_shape():
    from theano_torch import program
    x = T.dmatrix()
    f = theano.function([x], (x - x.mean()) / x.shape[0], mode=MODE)
    for rows in [1, 4, 3, 4, 1, *range(program.MAX_SIGNATURES + 5)]:
        values = np.random.RandomState(rows).rand(rows + 1, 3)
        np.testing.assert_allclose(f(values), (values - values.mean()) / (rows + 1), rtol=1e-12, atol=1e-15)
    assert len(f.fn.programs) == program.MAX_SIGNATURES


def test_shape_work_and_dead_ends_leave_no_steps():
    x = T.dmatrix()
    f = theano.function([x], x.sum() / (x.shape[0] * x.shape[1]) + T.zeros_like(x).sum(), mode=MODE)
    assert f(np.ones((3, 4))).item() == 1
    (program,), = f.fn.programs.values()
    names = [str(node.op) for node in program.nodes]
    assert not any('Shape' in name or 'MakeVector' in name for name in names)
    assert len(names) <= 4


def test_views_that_depend_on_values_do_not_leak():
    x, step = T.dvector(), T.lscalar()
    a = theano.shared(np.arange(3.))
    f = theano.function([x, step], [x[::step], a[::step]], mode=MODE)
    argument = np.arange(3.)
    for value in (-1, 1, -1, 1):
        for result in f(argument, value):
            np.testing.assert_array_equal(result, np.arange(3.)[::value])
            result[:] = 7
    np.testing.assert_array_equal(argument, np.arange(3.))
    np.testing.assert_array_equal(a.get_value(), np.arange(3.))


def test_profile_of_a_function():
    x = T.dvector()
    f = theano.function([x], x * 2, mode=MODE, profile=True)
    f([1])
    assert f.profile.fct_callcount == 1


def test_errors_name_the_node_and_the_shapes():
    x, y = T.dmatrix('left'), T.dmatrix('right')
    f = theano.function([x, y], T.dot(x, y) + 1, mode=MODE)
    for _ in range(2):      # The first call compiles the program, the second one runs it.
        with pytest.raises(ValueError, match=r'(?s)dot\(left, right\).*\(2, 3\), \(2, 2\)'):
            f(np.ones((2, 3)), np.ones((2, 2)))
    f = theano.function([x], T.opt.Assert('all positive')(x, T.all(x > 0)), mode=MODE)
    f(np.ones((2, 2)))
    with pytest.raises(AssertionError, match='(?s)all positive.*Apply node'):
        f(-np.ones((2, 2)))


def test_not_a_number_passes_through():
    x = T.dvector()
    f = theano.function([x], [x + 1, x.max(), T.nnet.relu(x), x / 0, T.switch(T.isnan(x), 0, x)], mode=MODE)
    plus, highest, positive, divided, cleaned = f([np.nan, 1, -1])
    assert np.isnan([plus[0], highest, positive[0], divided[0]]).all()
    np.testing.assert_array_equal(divided[1:], [np.inf, -np.inf])
    np.testing.assert_array_equal(cleaned, [0, 1, -1])


def test_constants_are_results_of_their_own():
    f = theano.function([], T.constant(np.arange(3.)) * 1, mode=MODE)
    f()[:] = 7
    np.testing.assert_array_equal(f(), [0, 1, 2])


def test_the_mode_can_be_the_default(python_mode):
    before = theano.config.mode
    try:
        theano.config.mode = theano_torch.install('cpu')
        x = T.dscalar()
        f = theano.function([x], x ** 2)
        assert isinstance(f.maker.linker, theano_torch.linker.TorchLinker)
        assert (f(3).item(), (x * 2).eval({x: 2}).item()) == (9, 4)
    finally:
        theano.config.mode = before


# ----------------------------------------------------------------------------------------------------------------------
# Random numbers.


@pytest.mark.parametrize('size, streams', [((3,), 7), ((7,), 7), ((4, 5), 7), ((2, 3, 2), 1), ((5, 3), None),
                                           ((41, 11), 7), ((320,), 3)])
def test_uniform_streams_bit_for_bit(python_mode, size, streams):
    results = []
    for mode in (MODE, python_mode):
        random = MRG_RandomStreams(123)
        f = theano.function([], [random.uniform(size, dtype='float64', nstreams=streams),
                                 random.uniform(size, -1, 2, dtype='float64', nstreams=streams)], mode=mode)
        results.append([[f() for _ in range(3)], [update[0].get_value() for update in random.updates()]])
    (ours, states), (theirs, expected) = results
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine[0].tobytes() == reference[0].tobytes()
        np.testing.assert_allclose(mine[1], reference[1], rtol=1e-15)
    for state, reference in zip(states, expected, strict=True):
        np.testing.assert_array_equal(state, reference)


@pytest.mark.parametrize('size, streams', [((7,), 7), ((3,), 7), ((6, 11), 7), ((41,), 3)])
def test_uniform_streams_on_a_gpu(size, streams, cuda, monkeypatch):
    monkeypatch.setattr(random_lowerings, 'LONGEST', 4)     # The stand-in takes a second for 32 steps.
    results = []
    for device in ('cpu', 'cuda:0'):
        random = MRG_RandomStreams(123)
        f = theano.function([], [random.uniform(size, dtype=dtype, nstreams=streams)
                                 for dtype in ('float64', 'float32', 'float16')], mode=theano_torch.mode(device))
        results.append([value.tobytes() for _ in range(5) for value in f()] +
                       [update[0].get_value().tobytes() for update in random.updates()])
    assert results[0] == results[1]


def test_steps_of_streams_are_exact_in_float64():
    """Steps equal the recurrence of the MRG31k3p paper in 64-bit integers, even for extreme states."""
    edges = [sorted({0, 1, 511, 512, 2 ** 16, modulus // 2, modulus - 512, modulus - 2, modulus - 1,
                     *np.random.RandomState(modulus % 100).randint(modulus, size=5)}) for modulus in (M1, M2)]
    x12, x13, x21, x23 = (grid.ravel() for grid in np.meshgrid(edges[0], edges[0], edges[1], edges[1]))
    zero = torch.zeros(len(x12), dtype=torch.float64)
    state = [zero, *map(torch.from_numpy, map(np.float64, (x12, x13, x21))), zero, torch.from_numpy(np.float64(x23))]
    new, samples = step(state)
    first, second = (x12 * 2 ** 22 + x13 * 129) % M1, (x21 * 2 ** 15 + x23 * (2 ** 15 + 1)) % M2
    np.testing.assert_array_equal(new[0], first)
    np.testing.assert_array_equal(new[3], second)
    np.testing.assert_array_equal(samples, np.where(first <= second, first - second + M1, first - second))
    assert all(mine is old for mine, old in zip((*new[1:3], *new[4:]), (*state[:2], *state[3:5]), strict=True))


def test_uniform_streams_in_single_precision():
    """Samples equal those of Theano's C code, which multiplies in float32; its Python code uses float64."""
    singles, doubles = [], []
    for dtype, results in (('float32', singles), ('float64', doubles)):
        f = theano.function([], MRG_RandomStreams(123).uniform((1000,), dtype=dtype, nstreams=600), mode=MODE)
        results.extend([f(), f()])
    for single, double in zip(singles, doubles, strict=True):
        integers = double * 2. ** 31
        np.testing.assert_array_equal(integers, np.round(integers))
        np.testing.assert_array_equal(single, integers.astype('float32') * np.float32(4.6566126e-10))


@pytest.mark.parametrize('name', sorted(path.stem for path in GOLDEN.glob('loss_iwass*.npz')))
def test_uniform_streams_as_recorded_from_the_c_code(name):
    arrays, meta = load_golden(name)
    n = T.lscalar()
    random = MRG_RandomStreams(meta['mrg_seed'])
    f = theano.function([n], random.uniform((n, 1, 1, 1), dtype='float32'), mode=MODE)
    assert random.updates()[0][0].get_value().shape == (15360, 6)       # Theano's default for a symbolic size.
    for key in ('mixing_factors', 'second_call_mixing_factors'):
        assert f(len(arrays[key])).tobytes() == arrays[key].astype('float32').tobytes()


def test_other_distributions(python_mode):
    results = []
    for mode in (MODE, python_mode):
        random = MRG_RandomStreams(9)
        f = theano.function([], [random.normal((3, 5), 1, 2, dtype='float64'), random.normal((7,), dtype='float32'),
                                 random.binomial((9,), p=0.3), random.multinomial(pvals=np.full((4, 3), 1 / 3)),
                                 random.binomial((3,), p=0.5, dtype='int32')], mode=mode)
        results.append([f(), f()])
    for mine, reference in zip(*results, strict=True):
        for value, expected in zip(mine, reference, strict=True):
            assert value.dtype == expected.dtype
            # Logarithm and cosine may be rounded differently.
            np.testing.assert_allclose(value, expected, rtol=1e-5 if value.dtype == 'float32' else 1e-12)


def test_numpy_streams(python_mode):
    results = []
    for mode in (MODE, python_mode):
        random = T.shared_randomstreams.RandomStreams(3)
        f = theano.function([], [random.normal((2, 3)), random.permutation(n=5), random.random_integers((4,), 0, 9)],
                            mode=mode)
        results.append([*f(), *f()])
    for mine, reference in zip(*results, strict=True):
        np.testing.assert_array_equal(mine, reference)


# ----------------------------------------------------------------------------------------------------------------------
# Networks.


@pytest.mark.slow
@pytest.mark.parametrize('dtype, tolerance', [('float32', 2e-5), ('float64', 1e-11)])
def test_gradient_penalty_of_a_convolutional_network(python_mode, dtype, tolerance):
    """Second derivatives through convolutions, pooling, normalisation, concatenation and softmax, with Adam."""
    random = np.random.RandomState(1)
    before, theano.config.floatX = theano.config.floatX, dtype

    def weights(*shape):
        return (random.randn(*shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype)

    initial = [weights(6, 3, 3, 3), weights(6) * 0.1, weights(5, 7, 3, 3), weights(5 * 16, 4), weights(4, 1)]
    images, labels = random.randn(4, 3, 16, 16).astype(dtype), np.array([0, 1, 3, 1])

    def build(mode):
        x, y = T.tensor4(), T.lvector()
        w1, b1, w2, w3, w4 = params = [theano.shared(value) for value in initial]
        h = T.nnet.relu(T.nnet.conv2d(x, w1, border_mode='half') + b1.dimshuffle('x', 0, 'x', 'x'), 0.2)
        h = T.signal.pool.pool_2d(h, (2, 2), ignore_border=True, mode='average_exc_pad')
        h = h / T.sqrt(T.mean(h ** 2, axis=1, keepdims=True) + 1e-8)
        spread = T.sqrt(T.mean((h - h.mean(axis=0, keepdims=True)) ** 2) + 1e-8)
        h = T.concatenate([h, T.alloc(spread, h.shape[0], 1, h.shape[2], h.shape[3])], axis=1)
        h = T.tanh(T.nnet.conv2d(h, w2, border_mode=1, filter_flip=False))
        h = T.signal.pool.pool_2d(h, (2, 2), ignore_border=True, mode='sum').flatten(2)
        logits = T.dot(h, w3)
        score = T.dot(T.nnet.softplus(logits), w4)
        gradient = T.grad(score.sum(), x)
        penalty = T.mean((T.sqrt(T.sum(gradient ** 2, axis=(1, 2, 3)) + 1e-12) - 1) ** 2)
        loss = score.mean() + 10 * penalty + T.nnet.categorical_crossentropy(T.nnet.softmax(logits), y).mean()
        updates = lasagne.updates.adam(T.grad(loss, params), params, learning_rate=1e-3)
        outputs = [loss, penalty, gradient, *T.grad(loss, params)]
        return theano.function([x, y], outputs, updates=updates, mode=mode), params

    try:
        functions = [build(mode) for mode in (MODE, python_mode)]
    finally:
        theano.config.floatX = before
    for _ in range(3):
        ours, theirs = (f(images, labels) for f, _ in functions)
        for mine, reference in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, reference, rtol=0, atol=tolerance * np.abs(reference).max())
    for mine, reference in zip(functions[0][1], functions[1][1], strict=True):
        # Adam amplifies rounding errors of tiny gradients.
        np.testing.assert_allclose(mine.get_value(), reference.get_value(), rtol=0, atol=100 * tolerance)


def test_on_a_gpu(cuda):
    random = np.random.RandomState(2)
    values, weights = random.randn(4, 3, 9, 9).astype('float32'), random.randn(5, 3, 3, 3).astype('float32')
    results = []
    for device in ('cpu', 'cuda:0'):
        constructor = DeviceConstructor(device)
        x, w = T.ftensor4(), constructor(weights)
        streams = MRG_RandomStreams(7)
        y = T.nnet.conv2d(x, w, border_mode='half') * streams.uniform((4, 1, 1, 1), dtype='float32')
        loss = T.sum(T.grad(T.sum(y ** 2), x) ** 2)
        drawn = [update[:2] for update in streams.updates()]    # A third update belongs to the stream itself.
        f = theano.function([x], [y, loss], updates=[*drawn, (w, w - 1e-9 * T.grad(loss, w))],
                            mode=theano_torch.mode(device))
        results.append([*f(values), *f(values), w.get_value()])
    for mine, reference in zip(*results, strict=True):
        # Covers another order of summation in a large sum.
        np.testing.assert_allclose(mine, reference, rtol=0, atol=1e-5 * np.abs(reference).max())
