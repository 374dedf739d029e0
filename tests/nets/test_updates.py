"""Adam and moving averages against Lasagne and NumPy on every engine; which steps work in place."""

import copy
import pickle
import shutil

import theano_torch
from theano_torch.shared import DeviceConstructor

import lasagne
import numpy as np
import pytest
import theano
import theano.ifelse
import theano.tensor as T

import theano_env
from nets import updates
from tests.standin.engine import a_gpu
from tests.standin.kernels import Trace

ENGINES = ['torch', 'python']
# With Theano's C code, steps still run their Python code, and compiling the rest takes long. So few tests use it.
ALL_ENGINES = [*ENGINES, pytest.param(
    'theano', marks=pytest.mark.skipif(not shutil.which('g++'), reason="no g++ for Theano's C code"))]
# For ten steps with different rounding: torch's kernel rounds once after multiplying and adding. float64 parameters
# are as accurate as the learning rate, which is computed in floatX.
TOLERANCES = {'float32': 2e-6, 'float64': 2e-7}
DTYPES = {'float32': ['float32'] * 3, 'float64': ['float64'] * 3, 'mixed': ['float32', 'float64', 'float32']}
SHAPES = [(3, 4), (5,), (2, 1, 2)]


@pytest.fixture
def double():
    """Set floatX to float64."""
    before, theano.config.floatX = theano.config.floatX, 'float64'
    yield
    theano.config.floatX = before


def normal(*shape, seed=0, dtype='float64'):
    return np.random.RandomState(seed).randn(*shape).astype(dtype)


def parameters(dtypes, seed=0):
    return [theano.shared(normal(*shape, seed=seed + i, dtype=dtype))
            for i, (shape, dtype) in enumerate(zip(SHAPES, dtypes, strict=True))]


def gradients(params):
    """Gradients down to the size of epsilon. They depend on the parameters, so that errors would add up."""
    return [param ** 3 * np.asarray(size, param.dtype) for size, param in zip((1, 1e-3, 1e-7), params, strict=True)]


def steps_of(function):
    return [node for node in function.maker.fgraph.toposort() if isinstance(node.op, updates._Step)]


def is_in_place(function):
    step, = steps_of(function)
    return step.op.inplace


def values_of(variables):
    return [variable.get_value() for variable in variables]


def assert_all_equal(actual, desired):
    for mine, reference in zip(actual, desired, strict=True):
        np.testing.assert_array_equal(mine, reference)


# ----------------------------------------------------------------------------------------------------------------------
# Adam.


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('dtypes', list(DTYPES))
@pytest.mark.parametrize('options', [dict(), dict(beta1=0.0, beta2=0.99), dict(beta1=0.5, beta2=0.9, epsilon=1e-4)],
                         ids=str)
def test_adam_is_lasagnes(engine, dtypes, options):
    ours, theirs = parameters(DTYPES[dtypes]), parameters(DTYPES[dtypes])
    rate = T.fscalar()
    mine = theano.function([rate], [], updates=updates.adam(gradients(ours), ours, rate, **options))
    reference = theano.function([rate], [], allow_input_downcast=True,
                                updates=lasagne.updates.adam(gradients(theirs), theirs, rate, **options))
    for number in range(10):
        for function in (mine, reference):
            function(np.float32(0.1 / (1 + number)))
    for param, other, before in zip(ours, theirs, parameters(DTYPES[dtypes]), strict=True):
        assert param.get_value().dtype == before.dtype
        np.testing.assert_allclose(param.get_value(), other.get_value(), rtol=0, atol=TOLERANCES[param.dtype])
        assert np.abs(param.get_value() - before.get_value()).max() > 1e-4


@pytest.mark.parametrize('dtypes', list(DTYPES))
def test_adam_on_a_gpu(dtypes, cuda):
    found = []
    for device in ('cpu', 'cuda0'):
        theano_env.configure('torch', {'device': device})
        params, rate, wrong = parameters(DTYPES[dtypes]), T.fscalar(), T.bscalar()
        step = theano.function([rate, wrong], [], updates=updates.adam(gradients(params), params, rate, overflow=wrong))
        for number in range(6):
            step(np.float32(0.1), np.int8(number == 3))
        found.append(values_of(params))
    for mine, reference in zip(*found, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=0, atol=TOLERANCES[str(mine.dtype)])


@pytest.mark.standin
def test_checking_for_overflow_takes_few_kernels():
    """A naive check, by halves, would take 1100 kernels in a step of the paper's D."""
    with a_gpu('meta') as gpu:
        tensors = [T.fmatrix() for _ in range(10)]
        f = theano.function(tensors, updates.any_not_finite(tensors), mode=theano_torch.mode('cuda:0'))
        trace, values = Trace(), [np.zeros((64, 64), 'f')] * 10
        f(*values)
        gpu.observers.append(trace)
        f(*values)
    kernels = [kernel for kernel in trace.kernels if kernel.kind != 'h2d']
    assert len(kernels) <= 3 * len(tensors) + 3         # For each tensor: abs, comparison, all.


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_adam_in_double_precision_throughout(engine, double):
    ours, theirs = parameters(DTYPES['float64']), parameters(DTYPES['float64'])
    mine = theano.function([], [], updates=updates.adam(gradients(ours), ours, 0.1))
    reference = theano.function([], [], updates=lasagne.updates.adam(gradients(theirs), theirs, 0.1))
    for _ in range(10):
        mine()
        reference()
    for param, other in zip(ours, theirs, strict=True):
        # Rounding in ten steps.
        np.testing.assert_allclose(param.get_value(), other.get_value(), rtol=0, atol=1e-13)


@pytest.mark.parametrize('engine', ALL_ENGINES, indirect=True)
def test_first_step_of_adam(engine):
    """The formulas of the Adam paper, with epsilon outside the bias correction as in Lasagne."""
    g, p = np.array([1e-9, -2, 0.5]), np.array([1., 2, 3])
    param = theano.shared(p)
    step = updates.adam([T.constant(g)], [param], T.constant(np.float64(0.25)), 0.5, 0.75, 1e-8)
    theano.function([], [], updates=step)()
    new, m, v, steps = values_of(step)
    np.testing.assert_allclose(m, g * 0.5, rtol=1e-15)
    np.testing.assert_allclose(v, g ** 2 * 0.25, rtol=1e-15)
    # The rate is 0.25 * sqrt(0.25) / 0.5, whose root and quotient are exact in float32.
    np.testing.assert_allclose(new, p - 0.25 * g * 0.5 / (np.abs(g) * 0.5 + 1e-8), rtol=1e-15)
    assert steps == 1


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('kind', ['bool', 'count', 'nan'])
def test_overflow_leaves_everything_as_it_was(engine, kind):
    params = parameters(DTYPES['mixed'])
    others = parameters(DTYPES['mixed'])
    grad = T.dscalar()
    overflow = {'bool': T.isnan(grad), 'count': T.cast(3 * T.isnan(grad), 'int64'),
                'nan': T.switch(T.isnan(grad), np.nan, 0)}[kind]
    mine = updates.adam([p * grad.astype(p.dtype) for p in params], params, 0.1, overflow=overflow)
    reference = updates.adam([p * 2 for p in others], others, 0.1)
    step, plain = theano.function([grad], [], updates=mine), theano.function([], [], updates=reference)
    step(2)
    before = values_of(mine)
    step(np.nan)
    step(np.nan)
    assert_all_equal(values_of(mine), before)
    assert [values.tolist() for values in before if values.ndim == 0] == [1]
    step(2)
    plain()
    plain()
    for state, other in zip(mine, reference, strict=True):      # The skipped steps leave no trace.
        np.testing.assert_array_equal(state.get_value(), other.get_value())


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_gradients_in_any_layout(engine):
    random = [normal(4, 3), normal(2, 3, 4, seed=1), normal(6, 5, seed=2)]
    plain, odd = ([theano.shared(normal(*shape, seed=7)) for shape in [(3, 4), (4, 3, 2), (3, 5)]] for _ in range(2))
    matrix, cube, tall = T.dmatrix(), T.dtensor3(), T.dmatrix()
    step = theano.function([matrix, cube, tall], [], updates=updates.adam(
        [matrix.T, cube.dimshuffle(2, 1, 0), tall[::-2]], odd, 0.1))
    same = T.dmatrix(), T.dtensor3(), T.dmatrix()
    contiguous = theano.function(same, [], updates=updates.adam(list(same), plain, 0.1))
    for factor in (1, -2):
        step(*[value * factor for value in random])
        contiguous(random[0].T * factor, random[1].transpose(2, 1, 0) * factor, random[2][::-2] * factor)
    assert is_in_place(step)
    assert_all_equal(values_of(odd), values_of(plain))


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_state_that_two_functions_share(engine):
    """Two functions that share a state make the same steps as one function."""
    one, two = parameters(DTYPES['float32']), parameters(DTYPES['float32'])
    alone = theano.function([], [], updates=updates.adam(gradients(one), one, 0.1, 0.5, 0.9))
    state = updates.AdamState(two)
    shared = [theano.function([], [], updates=updates.adam(gradients(two), two, 0.1, 0.5, 0.9, state=state))
              for _ in range(2)]
    for index in range(6):
        alone()
        shared[index // 3]()
    for expected, found in zip(one, two, strict=True):
        np.testing.assert_array_equal(found.get_value(), expected.get_value())
    assert state.steps.get_value() == 6


# ----------------------------------------------------------------------------------------------------------------------
# Moving averages.


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('dtypes', list(DTYPES))
@pytest.mark.parametrize('kind', ['number', 'expression', 'argument'])
def test_moving_average(engine, dtypes, kind):
    averages, sources = parameters(DTYPES[dtypes]), parameters(DTYPES[dtypes], seed=10)
    number = T.dscalar()
    decay = {'number': 0.75, 'expression': T.exp(T.log(number)), 'argument': number}[kind]
    step = updates.moving_average(averages, sources, decay)
    assert set(step) == set(averages)
    follow = theano.function([number], [], updates=step, on_unused_input='ignore')
    wanted = [value.astype('float64') for value in values_of(averages)]
    for _ in range(3):
        follow(0.75)
        wanted = [source + (average - source) * 0.75 for average, source in
                  zip(wanted, values_of(sources), strict=True)]
        for average, value in zip(averages, wanted, strict=True):
            tolerance = {'float32': 5e-7, 'float64': 1e-15}[average.dtype]      # Rounding, of values up to 2.
            assert average.get_value().dtype == average.dtype
            np.testing.assert_allclose(average.get_value(), value, rtol=0, atol=tolerance)


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_moving_average_of_sources_of_another_type(engine):
    average, source = theano.shared(np.zeros(2, 'float32')), theano.shared(np.array([1, -8.]))
    theano.function([], [], updates=updates.moving_average([average], [source], 0.5))()
    np.testing.assert_array_equal(average.get_value(), [0.5, -4])


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_averages_follow_the_weights_from_before_the_step(engine):
    """As in training, one function updates parameters and averages simultaneously."""
    params, averages = parameters(DTYPES['float32']), parameters(DTYPES['float32'], seed=5)
    both = updates.adam(gradients(params), params, 0.1)
    both.update(updates.moving_average(averages, params, 0.5))
    function = theano.function([], [], updates=both)
    wanted = [(average + param) / 2 for average, param in zip(values_of(averages), values_of(params), strict=True)]
    before = values_of(params)
    function()
    for average, value in zip(values_of(averages), wanted, strict=True):
        np.testing.assert_allclose(average, value, rtol=0, atol=5e-7)       # Rounding of float32.
    assert [step.op.inplace for step in steps_of(function)] == [True, True]
    assert all(np.abs(param - old).min() > 0 for param, old in zip(values_of(params), before, strict=True))


# ----------------------------------------------------------------------------------------------------------------------
# In place.


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
def test_variables_keep_their_memory(engine):
    params, averages = parameters(DTYPES['mixed']), parameters(DTYPES['mixed'], seed=5)
    step = updates.adam(gradients(params), params, 0.1)
    follow = updates.moving_average(averages, params, 0.5)
    for function, changed in ((theano.function([], [], updates=step), list(step)[:-1]),
                              (theano.function([], [], updates=follow), list(follow))):
        before = [variable.get_value(borrow=True) for variable in changed]
        kept = copy.deepcopy(before)
        function()
        function()
        for variable, array, old in zip(changed, before, kept, strict=True):
            assert np.shares_memory(variable.get_value(borrow=True), array)
            assert np.abs(array - old).max() > 0
        assert all(step.op.inplace for step in steps_of(function))


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_values_that_were_read_stay(engine):
    param = theano.shared(np.ones(3))
    step = theano.function([], param * 2, updates=updates.adam([param * 3], [param], 0.5))
    value, result = param.get_value(), step()
    step()
    np.testing.assert_array_equal(value, np.ones(3))
    np.testing.assert_array_equal(result, np.full(3, 2))


def check_outputs(make_outputs, shape=(2, 2), shared=theano.shared):
    """Check a function that steps p and returns ``make_outputs(p)`` of the old p; return whether it is in place."""
    param, alone = shared(normal(*shape)), theano.shared(normal(*shape))
    grad = param.type()
    outputs = make_outputs(param)
    expected = theano.function([], outputs)
    function = theano.function([grad], outputs, updates=updates.adam([grad], [param], 0.1))
    step = theano.function([grad], [], updates=updates.adam([grad], [alone], 0.1))
    for number in range(3):
        wanted, array = expected(), normal(*shape, seed=number)
        assert_all_equal(function(array), wanted)
        step(array)
        np.testing.assert_array_equal(param.get_value(), alone.get_value())
    return is_in_place(function)


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_old_values_are_returned(engine):
    # On Theano's own engines, the addition may already reuse the memory of p.
    assert check_outputs(lambda p: [p + 1, p.sum(), T.dot(p, p.T)]) or engine.engine != 'torch'
    assert not check_outputs(lambda p: [p, p + 1, p.T])
    assert not check_outputs(lambda p: [p.T])
    assert not check_outputs(lambda p: [p[::-1, 0]])
    assert not check_outputs(lambda p: [p + 1, p.dimshuffle(1, 'x', 0)[:1]])


HIDDEN_VIEWS = {        # PyTorch makes no copy for these ops, although Theano expects one.
    'alloc': ((2,), lambda p: [T.alloc(p, 3, 2), T.alloc(p, 3, 2) + 1]),
    'split': ((2,), lambda p: T.split(p, [1, 1], 2)),
    'sum': ((1, 2), lambda p: [p.sum(axis=0), p.sum(axis=(0, 1))]),
    'fill': ((2, 2), lambda p: [T.fill(T.zeros((3, 2, 2)), p)]),
    'ifelse': ((2,), lambda p: [theano.ifelse.ifelse(T.gt(p.sum(), 2.0), 2 * p, p)]),
    'view of a view': ((1, 3), lambda p: [T.alloc(p[0, 1:], 2, 2), T.alloc(T.alloc(p[0], 1, 3), 2, 1, 3)])}


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('kind', list(HIDDEN_VIEWS))
def test_old_values_are_returned_by_ops_that_copy_nothing(engine, kind):
    shape, make_outputs = HIDDEN_VIEWS[kind]
    check_outputs(make_outputs, shape)
    check_outputs(make_outputs, shape, DeviceConstructor('cpu'))


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_old_values_become_those_of_another_variable(engine):
    param, other, alone = (theano.shared(normal(2, 2)) for _ in range(3))
    step = updates.adam([param * 1.], [param], 0.1)
    step[other] = param
    function = theano.function([], [param, param + 1, param.T], updates=step)
    plain = theano.function([], [], updates=updates.adam([alone * 1.], [alone], 0.1))
    assert not is_in_place(function)
    for _ in range(3):
        before = param.get_value()
        assert_all_equal(function(), [before, before + 1, before.T])
        plain()
        assert_all_equal(values_of([param, other]), [alone.get_value(), before])
        assert not np.shares_memory(param.get_value(borrow=True), other.get_value(borrow=True))


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_new_values_become_those_of_another_variable(engine):
    param, other = theano.shared(normal(2, 2)), theano.shared(np.zeros((2, 2)))
    step = updates.adam([param * 1.], [param], 0.1)
    step[other] = step[param]
    function = theano.function([], [step[param], step[param].T], updates=step)
    for _ in range(3):
        new, transposed = function()
        assert_all_equal([param.get_value(), other.get_value(), transposed.T], [new] * 3)
    assert not np.shares_memory(param.get_value(borrow=True), other.get_value(borrow=True))


@pytest.mark.parametrize('engine', ALL_ENGINES, indirect=True)
def test_two_steps_on_the_same_parameters(engine):
    """Two consecutive steps in one function; two steps from the same start, of which only one can be in place."""
    def step(param, source):
        return updates.MovingAverageStep(1)(np.float64(0.5), source, param)

    start = np.array([1., 2, 3])
    param, kept = theano.shared(start), theano.shared(np.zeros(3))
    chain = theano.function([], [], updates=[(param, step(step(param, np.zeros(3)), np.ones(3)))])
    chain()
    np.testing.assert_array_equal(param.get_value(), start / 4 + 0.5)
    assert [node.op.inplace for node in steps_of(chain)] == [True, True]

    param.set_value(start)
    fork = theano.function([], [], updates=[(param, step(param, np.zeros(3))), (kept, step(param, np.ones(3)))])
    fork()
    assert_all_equal(values_of([param, kept]), [start / 2, start / 2 + 0.5])
    assert sorted(node.op.inplace for node in steps_of(fork)) == [False, True]


@pytest.mark.parametrize('engine', ALL_ENGINES, indirect=True)
def test_arguments_and_constants_are_not_destroyed(engine):
    x, constant = T.dvector(), T.constant(np.array([1., 2]))
    step = updates.MovingAverageStep(1)
    function = theano.function([x], [step(0.5, constant, x), step(0.5, x, constant)])
    argument = np.array([3., 4])
    for _ in range(2):
        assert_all_equal(function(argument), [[2, 3], [2, 3]])
    np.testing.assert_array_equal(argument, [3, 4])
    assert not any(node.op.inplace for node in steps_of(function))


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
def test_variables_of_odd_layouts(engine):
    """Borrowed arrays, and variables that another function has transposed."""
    for shared in (theano.shared, DeviceConstructor('cpu')):
        array, grad = normal(3, 3), T.dmatrix()
        param, alone = shared(array), theano.shared(array.T)
        theano.function([], [], updates=[(param, param.T)])()
        borrowed = theano.shared(np.asfortranarray(array.T), borrow=True)
        for variable in (param, alone, borrowed):
            theano.function([grad], [], updates=updates.adam([grad], [variable], 0.1))(np.tri(3) - 0.5)
        assert_all_equal([param.get_value(), borrowed.get_value()], [alone.get_value()] * 2)


# ----------------------------------------------------------------------------------------------------------------------
# Functions and ops as objects.


@pytest.mark.parametrize('engine', ['torch'], indirect=True)     # Theano's copies of functions lose updates.
def test_copies_and_pickles_of_functions(engine):
    param, other = theano.shared(np.ones(2)), theano.shared(np.full(2, 100.))
    f = theano.function([], param * 2, updates=updates.moving_average([param], [T.zeros(2)], 0.5))
    again, swapped = f.copy(), f.copy(swap={param: other})
    twins = [copy.deepcopy(f), pickle.loads(pickle.dumps(f))]
    assert all(is_in_place(function) for function in (f, again, swapped, *twins))
    assert [np.ravel(function()).tolist() for function in (f, again, swapped)] == [[2, 2], [1, 1], [200, 200]]
    for twin in twins:      # Twins have their own variables.
        assert [twin().tolist() for _ in range(2)] == [[2, 2], [1, 1]]
    assert_all_equal(values_of([param, other]), [[0.25, 0.25], [50, 50]])


def test_ops_are_equal_by_their_arguments():
    for make in (lambda n: updates.AdamStep(n, 0.5, 0.9, 1e-8), updates.MovingAverageStep):
        assert make(2) == make(2) == pickle.loads(pickle.dumps(make(2)))
        assert hash(make(2)) == hash(make(2))
        assert make(2) != make(3)
        assert make(2) != make(2).in_place() == pickle.loads(pickle.dumps(make(2).in_place()))
    assert updates.AdamStep(2, 0.5, 0.9, 1e-8) != updates.AdamStep(2, 0.5, 0.99, 1e-8)


def test_as_many_gradients_as_parameters():
    params = parameters(DTYPES['float32'])
    with pytest.raises(ValueError):
        updates.adam(gradients(params)[:2], params, 0.1)
    with pytest.raises(ValueError):
        updates.moving_average(params, params[:2], 0.5)
