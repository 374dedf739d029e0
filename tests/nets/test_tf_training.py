"""nets/tf_training.py: optimizers and summaries give the recorded numbers of the 2018 release."""

import io
import json

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T

import tfutil_shim
import theano_env
from common.errors import UserError
from nets.network import Network
from tests.helpers import ANY_ENGINE, GOLDEN, load_golden
from tfutil_shim import Autosummaries, Optimizer

TRAIN_UTILS = load_golden('tf/train_utils')[0]
TRAIN_UTILS_INFO = json.loads((GOLDEN / 'tf' / 'train_utils.json').read_text())


@pytest.fixture(autouse=True)
def quick_engine():
    """By default, use Theano's Python linker (on NumPy 2 PyTorch), which starts quickly."""
    before = theano.config.mode
    theano_env.configure(ANY_ENGINE)
    yield
    theano.config.mode = before


# ----------------------------------------------------------------------------------------------------------------------
# Optimizers.

OPTIMIZER_CASES = {case['tag']: case for case in TRAIN_UTILS_INFO['optimizer']['cases']}


class Problem:
    """The recorded minimisation problem, with variables p, q and one that does not affect the loss."""

    def __init__(self, floatx='float32'):
        def variable(name):
            return theano.shared(TRAIN_UTILS['opt/' + name].astype(floatx), name=name[0])

        self.p, self.q, self.unused = variable('p0'), variable('q0'), theano.shared(np.ones(2, floatx), name='unused')
        self.gate = T.scalar('gate', dtype='float32')
        self.target, self.curvature = TRAIN_UTILS['opt/target'], TRAIN_UTILS['opt/curvature']

    def loss(self, p_weight=1.0):
        # A quadratic form, because Theano may reorder a product of element-wise factors so that it overflows.
        offset = self.p - self.target
        p_term = T.dot(offset, T.dot(np.diag(self.curvature), offset)) * 0.5
        return p_term * p_weight + T.sum(self.q ** 3) / 3 * self.gate

    def variables(self):
        return {'p': self.p, 'q': self.q, 'unused': self.unused}


def check_against_recording(name, value, recorded, tolerance=1e-6):
    """Compare with a float32 tolerance: 1 - 0.999^t loses four digits, so a step of 0.01 is accurate to about 1e-7."""
    np.testing.assert_allclose(value, recorded, rtol=0, atol=tolerance * np.abs(recorded).max(), err_msg=name)


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
@pytest.mark.parametrize('tag', OPTIMIZER_CASES)
def test_optimizer_makes_the_recorded_steps(engine, tag):
    case, problem = OPTIMIZER_CASES[tag], Problem()
    learning_rate = theano.shared(np.float32(0))
    optimizer = Optimizer('T/' + tag, learning_rate=learning_rate, **case['kwargs'])
    for index in range(case['num_registered_losses']):
        optimizer.register_gradients(problem.loss(1.0 if index == 0 else 3.0), problem.variables())
    updates = optimizer.apply_updates()
    assert problem.unused not in updates
    step = theano.function([problem.gate], [], updates=updates)
    for index in range(case['steps']):
        learning_rate.set_value(np.float32(case['learning_rates'][index]))
        step(np.float32(case['gates'][index]))
        check_against_recording('p', problem.p.get_value(), TRAIN_UTILS[f'opt/{tag}/p'][index])
        check_against_recording('q', problem.q.get_value(), TRAIN_UTILS[f'opt/{tag}/q'][index])
        if f'opt/{tag}/loss_scaling_log2' in TRAIN_UTILS:
            assert optimizer.get_loss_scaling_var().get_value() == pytest.approx(
                TRAIN_UTILS[f'opt/{tag}/loss_scaling_log2'][index], rel=1e-6)
        else:
            assert optimizer.get_loss_scaling_var() is None
        if index == case['reset_state_after_step_index']:
            optimizer.reset_optimizer_state()
    check_state(optimizer, problem, case)


def check_state(optimizer, problem, case):
    state = optimizer.get_optimizer_state()
    recorded = {key.split('/state/')[1]: value for key, value in TRAIN_UTILS.items()
                if key.startswith(f'opt/{case["tag"]}/state/')}
    assert sorted(recorded) == sorted(case['optimizer_variables'])
    for name in recorded:
        if name.endswith('_power'):
            # The release stores the power for the next step.
            beta = case['kwargs'].get(name[-11:-6], {'beta1': 0.9, 'beta2': 0.999}[name[-11:-6]])
            check_against_recording(name, beta ** (state['t'] + 1), recorded[name])
        elif not name.startswith('unused/'):
            slot = 'v' if name.endswith('_opt0_1') else 'm'
            # The release rounds 1 - beta2 to float32, an error of 1.3e-5 for 0.999 that cancels in the steps.
            check_against_recording(name, state[slot, problem.variables()[name[0]]], recorded[name], tolerance=2e-5)
        else:
            np.testing.assert_array_equal(recorded[name], 0)
    assert problem.unused not in [key[1] for key in state if isinstance(key, tuple)]


@pytest.mark.parametrize('floatx', ['float32', 'float64'])
def test_adam_without_skipping_is_lasagnes_bit_by_bit(floatx, monkeypatch):
    monkeypatch.setattr(theano.config, 'floatX', floatx)
    kwargs = {'beta1': 0.5, 'beta2': 0.99, 'epsilon': 1e-8}
    results = []
    for ours in (True, False):
        problem, learning_rate = Problem(floatx), theano.shared(np.float32(0.003))
        if ours:
            optimizer = Optimizer(learning_rate=learning_rate, skip_nonfinite=False, **kwargs)
            optimizer.register_gradients(problem.loss(), problem.variables())
            updates = optimizer.apply_updates()
        else:
            updates = lasagne.updates.adam(problem.loss(), [problem.p, problem.q], learning_rate, **kwargs)
        step = theano.function([problem.gate], [], updates=updates)
        for _ in range(5):
            step(1.0)
        results.append([problem.p.get_value(), problem.q.get_value()])
    for ours, lasagnes in zip(*results, strict=True):
        assert ours.dtype == floatx
        np.testing.assert_array_equal(ours, lasagnes)


def test_momentum():
    problem = Problem()
    optimizer = Optimizer(tf_optimizer='tf.train.MomentumOptimizer', learning_rate=0.1, momentum=0.9)
    optimizer.register_gradients(problem.loss(), [problem.p])
    step = theano.function([problem.gate], [], updates=optimizer.apply_updates(), on_unused_input='ignore')
    p, velocity = problem.p.get_value(), 0
    for _ in range(3):
        step(1.0)
        velocity = 0.9 * velocity + problem.curvature * (p - problem.target)
        p = p - 0.1 * velocity
    np.testing.assert_allclose(problem.p.get_value(), p, rtol=1e-5)     # Float32 rounding.


def test_optimizer_keeps_its_state_when_functions_are_compiled_again():
    results = []
    for times in (1, 2):
        problem = Problem()
        optimizer = Optimizer(learning_rate=0.01, beta1=0.9)
        for _ in range(times):
            optimizer.register_gradients(problem.loss(), problem.variables())
            step = theano.function([problem.gate], [], updates=optimizer.apply_updates())
            for _step in range(4 // times):
                step(1.0)
        results.append(problem.p.get_value())
    np.testing.assert_array_equal(*results)


def test_loss_scaling_is_undone():
    optimizer = Optimizer(use_loss_scaling=True, loss_scaling_init=3)
    x = T.fscalar()
    scaled, back = theano.function([x], [optimizer.apply_loss_scaling(x),
                                         optimizer.undo_loss_scaling(optimizer.apply_loss_scaling(x))])(5)
    assert scaled == pytest.approx(40, rel=1e-6) and back == pytest.approx(5, rel=1e-6)
    plain = Optimizer()
    assert plain.apply_loss_scaling(x) is x and plain.undo_loss_scaling(x) is x


def test_optimizer_reports_to_the_summaries():
    problem = Problem()
    optimizer = Optimizer('Train/X', learning_rate=0.25, use_loss_scaling=True, loss_scaling_init=4.0)
    optimizer.register_gradients(problem.loss(), problem.variables())
    step = theano.function([problem.gate], [], updates=optimizer.apply_updates())
    for gate in (1, np.nan, 1, 1):
        step(gate)
    averages = tfutil_shim.get_autosummaries()
    assert averages['Train.X/learning_rate'] == 0.25
    assert averages['Train.X/overflow_frequency'] == 0.25
    # The exponents before the steps are 4, 4.0005, 3.0005 and 3.001.
    assert averages['Train.X/loss_scaling_log2'] == pytest.approx(3.5005, rel=1e-6)


@pytest.mark.parametrize('kwargs, message', [
    ({'tf_optimizer': 'tf.train.AdamOptimiser'}, 'tf_optimizer=.tf.train.AdamOptimiser.: choose one of'),
    ({'beta_1': 0.5}, r'Optimizer\(beta_1=0.5\): .* takes beta1, beta2, epsilon'),
    ({'tf_optimizer': 'tf.train.MomentumOptimizer'}, 'needs momentum'),
    ({'use_loss_scaling': True, 'skip_nonfinite': False}, 'use_loss_scaling=True'),
])
def test_optimizer_reports_bad_arguments(kwargs, message):
    with pytest.raises(UserError, match=message):
        Optimizer(**kwargs)


def test_optimizer_reports_wrong_use():
    problem = Problem()
    with pytest.raises(ValueError, match='call register_gradients first'):
        Optimizer().apply_updates()
    with pytest.raises(ValueError, match='must be a scalar, but has 1 axes'):
        Optimizer().register_gradients(problem.p, [problem.p])
    with pytest.raises(ValueError, match='does not depend on any of the 1 variables'):
        Optimizer().register_gradients(problem.loss(), [problem.unused])


# ----------------------------------------------------------------------------------------------------------------------
# Summaries.


def as_numbers(feed):
    return [float(x) if isinstance(x, str) else as_numbers(x) if isinstance(x, list) else x for x in feed]


def assert_same_averages(averages, recorded):
    assert list(averages) == list(recorded)
    for name, value in recorded.items():
        np.testing.assert_equal(averages[name], float(value), err_msg=name)


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
def test_autosummary(engine):
    info = TRAIN_UTILS_INFO['autosummary']
    summaries = Autosummaries()
    for name, *feeds in info['immediate_feeds']:
        for value in as_numbers(feeds):
            assert summaries.add(name, value) is value
    vec, scalar, mat, integer = T.fvector('vec'), T.fscalar('scalar'), T.fmatrix('mat'), T.iscalar('int')
    outputs = [summaries.add('Graph/vec', vec), summaries.add('Graph/scalar', scalar),
               summaries.add('Graph/mat', mat), summaries.add('Graph/int', integer),
               summaries.add('Graph/shared', 2 * scalar), summaries.add('Graph/shared', 3 * vec)]
    summaries.add('Graph/never_run', scalar)
    function = theano.function([vec, scalar, mat, integer], outputs)
    for feed in info['graph_feeds']:
        results = function(np.float32(feed['vec']), feed['scalar'], np.float32(feed['mat']), feed['int'])
        np.testing.assert_array_equal(results[0], np.float32(feed['vec']))
        np.testing.assert_array_equal(results[2], feed['mat'])
        assert results[3] == feed['int'] and results[3].dtype == np.int32

    recorded = [save['values'] for save in info['saves']]
    assert_same_averages(summaries.averages(), recorded[0])
    stream = io.StringIO()
    assert_same_averages(summaries.save(stream, global_step=info['saves'][0]['step']), recorded[0])
    summaries.add('Imm/scalar', 42.0)
    theano.function([vec], summaries.add('Graph/vec', vec))(np.float32([4, 6]))
    assert_same_averages(summaries.save(stream, global_step=info['saves'][1]['step']), recorded[1])
    with pytest.raises(AssertionError, match='Imm/new'):
        summaries.add('Imm/new', 1.0)

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.pop('step') for line in lines] == [save['step'] for save in info['saves']]
    for line, values in zip(lines, recorded, strict=True):
        assert line == {name: None if value == 'nan' else value for name, value in values.items()}


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
def test_graph_summaries_leave_values_types_and_gradients_alone(engine):
    summaries = Autosummaries()
    for dtype in ('float32', 'float64', 'int64', 'uint8', 'bool'):
        x = T.vector(dtype=dtype)
        y = summaries.add(dtype, x)
        assert y.type == x.type
        array = np.array([0, 1, 1], dtype)
        np.testing.assert_array_equal(theano.function([x], y)(array), array)
        assert summaries.averages()[dtype] == np.float32(2 / 3)
    x = T.fvector()
    gradient = theano.function([x], theano.grad(T.sum(summaries.add('x', T.sqr(x))), x))
    np.testing.assert_array_equal(gradient(np.float32([1, 2])), [2, 4])
    bad = theano.function([x], summaries.add('bad', x))
    for array in ([1, np.nan], [np.inf, 0], [3, 5]):
        bad(np.float32(array))
    assert summaries.averages()['bad'] == 4


class Writer:
    """The methods of TensorBoard's `SummaryWriter` that `save_summaries` calls."""

    def __init__(self):
        self.scalars, self.histograms = [], {}

    def add_scalar(self, tag, scalar_value, global_step):
        self.scalars.append((tag, scalar_value, global_step))

    def add_histogram(self, tag, values, global_step):
        self.histograms[tag] = values, global_step


def build_two_layers():
    latents = lasagne.layers.InputLayer((None, 2), name='latents')
    hidden = lasagne.layers.DenseLayer(latents, 3, name='hidden')
    return {'input_layers': [latents], 'output_layers': [lasagne.layers.DenseLayer(hidden, 1, W=np.ones((3, 1), 'f'))]}


def test_a_tensorboard_writer_gets_averages_and_histograms(monkeypatch):
    summaries = Autosummaries()
    monkeypatch.setattr('nets.network.histogram', summaries.add_histogram)
    net = Network('N', build_two_layers)
    net.setup_weight_histograms()
    net.setup_weight_histograms(title='Other')
    summaries.add('x', [1, 2])
    writer = Writer()
    summaries.save(writer, global_step=5)
    assert writer.scalars == [('x', 1.5, 5)]
    assert sorted(writer.histograms) == sorted(
        f'{title}_{name}' for title in ('N', 'Other') for name in (
            'W/hidden', 'b/hidden', 'toplevel/W', 'toplevel/b'))
    values, step = writer.histograms['N_W/hidden']
    np.testing.assert_array_equal(values, net.get_var('hidden.W'))
    assert step == 5
