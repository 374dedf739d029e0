"""training/functions_ahead.py and steps.py: compiling ahead. test_train.py compares the functions with recorded runs.
"""

import threading
import time

import numpy as np
import pytest
import theano
import theano.tensor as T

from nets.network import Network
from tests.helpers import load_golden, training_functions
from training import functions_ahead, steps
from training.functions_ahead import FunctionsAhead
from training.schedule import Schedule, lod_range_of, next_lod_range


def schedule(min_lod, max_lod):
    return Schedule((min_lod + max_lod) / 2, min_lod, max_lod, 4, 4, 1.0, 1.0)


@pytest.fixture
def compiled(monkeypatch):
    """Replaces compiling, and records which functions were compiled in which thread."""
    calls = []

    def compile_instead(G, D, Gs, schedule, *args, adam_states):
        calls.append((lod_range_of(schedule), threading.current_thread().name))
        if schedule.min_lod == 9:
            raise ValueError('no such lod')
        if schedule.min_lod == 8:
            while True:         # Simulates compiling that takes minutes.
                time.sleep(0.001)
        return steps.TrainingFunctions(lod_range_of(schedule), None, [])

    monkeypatch.setattr(functions_ahead, 'compile_training_functions', compile_instead)
    monkeypatch.setattr(functions_ahead, 'layer_streams', lambda *nets: [])
    return calls


def test_the_next_range_is_compiled_in_the_background(compiled):
    with FunctionsAhead('G', 'D', 'Gs') as ahead:
        assert ahead.take(schedule(2, 2)).train_d == (2, 2)
        ahead.prepare(schedule(1, 2))
        assert ahead.take(schedule(1, 2)).train_d == (1, 2)
        assert ahead.lod_range == (1, 2)
    assert compiled == [((2, 2), 'MainThread'), ((1, 2), 'compiling ahead')]


def test_another_range_than_expected_is_compiled_at_once(compiled):
    with FunctionsAhead('G', 'D', 'Gs') as ahead:
        ahead.prepare(schedule(1, 2))
        assert ahead.take(schedule(0, 1)).train_d == (0, 1)
    assert compiled[-1] == ((0, 1), 'MainThread')


def test_errors_reach_whoever_needs_the_functions(compiled):
    with FunctionsAhead('G', 'D', 'Gs') as ahead:
        ahead.prepare(schedule(9, 9))
        with pytest.raises(ValueError, match='no such lod'):
            ahead.take(schedule(9, 9))


def test_what_nobody_needs_any_more_is_abandoned(compiled):
    with FunctionsAhead('G', 'D', 'Gs') as ahead:
        ahead.prepare(schedule(8, 8))
        thread = ahead.pending[1]
    assert not thread.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize('engine', ['torch'], indirect=True)
@pytest.mark.parametrize('reset', [True, False])
def test_optimizer_state_across_ranges(engine, reset):
    kwargs = {'num_channels': 1, 'resolution': 8, 'fmap_base': 16, 'fmap_max': 4}
    G = Network('G', func='networks.G_paper', latent_size=4, **kwargs)
    D = Network('D', func='networks.D_paper', use_gdrop=False, **kwargs)
    Gs, rate = G.clone(share_nontrainables=True), theano.shared(np.float32(1e-3))
    nothing = np.zeros((4, 0), np.float32)

    def step(functions, size):
        functions.train_d(np.zeros((4, 1, size, size), np.uint8), nothing, np.ones((4, 4), np.float32), nothing)
        return [var.get_value() for var in functions.train_d.get_shared() if var.ndim == 0 and var.dtype == 'float32']

    with FunctionsAhead(G, D, Gs, rate, rate, 0.99, {}, {'beta1': 0.5}, True, False,
                        reset_optimizer=reset) as ahead:
        assert 1 in step(ahead.take(schedule(1, 1)), 4)
        before = [var.get_value() for var in ahead.outliving]
        numbers = step(ahead.take(schedule(0, 1)), 8)
    # Adam's step count.
    assert (2 in numbers, 1 in numbers) == (not reset, reset)
    if reset:
        assert not before
    else:
        state = ahead.adam_states[0]
        assert state.steps.get_value() == 2
        assert any(np.any(value) for value in before[1:len(state.variables())])
        arrays, lod_range = ahead.get_state()
        for var in ahead.outliving:
            var.set_value(var.get_value() * 0)
        ahead.set_state(arrays, lod_range, schedule(1, 1))  # Another lod range: Adam's state is kept.
        assert state.steps.get_value() == 2


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
def test_a_step_in_lanes_has_the_same_bits(engine, monkeypatch):
    """The first call has the same bits as later calls, for exact resuming, and as a single thread."""
    torch = pytest.importorskip('torch')
    from theano_torch import lanes, scheduler
    monkeypatch.setattr(lanes, 'WAKING_SECONDS', 1e-6)
    for name, value in {'SMALL_STEP': 0, 'WIDE_ELEMENTS': 100, 'WIDE_PRODUCT': 1000}.items():
        monkeypatch.setattr(scheduler, name, value)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        kwargs = {'num_channels': 1, 'resolution': 8, 'fmap_base': 64, 'fmap_max': 8}
        G = Network('G', func='networks.G_paper', latent_size=8, **kwargs)
        D = Network('D', func='networks.D_paper', use_gdrop=False, **kwargs)
        step = training_functions(G, D, G.clone(share_nontrainables=True), schedule(0, 1)).train_d
        variables = step.get_shared()
        start = [var.get_value() for var in variables]
        random = np.random.RandomState(0)
        inputs = (random.randint(0, 256, (4, 1, 8, 8)).astype(np.uint8), np.zeros((4, 0), np.float32),
                  random.randn(4, 8).astype(np.float32), np.zeros((4, 0), np.float32))

        def run():
            for var, value in zip(variables, start, strict=True):
                var.set_value(value)
            outputs = step(*inputs)
            return [*outputs, *(var.get_value() for var in variables)]
        expected = run()
        results = [run(), run()]
        (program,), = step.fn.programs.values()
        assert [isinstance(part, lanes.Lanes) for part in program.parts] == [False, True, False]
        assert len(program.parts[1].tasks) > 50
        for name in ('SMALL_STEP', 'WIDE_ELEMENTS', 'WIDE_PRODUCT'):
            monkeypatch.setattr(scheduler, name, 1e9)
        step.fn.programs.clear()
        results += [run(), run()]
        (program,), = step.fn.programs.values()
        assert len(program.parts) == 1
        for result in results:
            for value, wanted in zip(result, expected, strict=True):
                np.testing.assert_array_equal(value, wanted)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize('kimg, wanted', [(0, (2, 3)), (3.9, (2, 3)), (4, (2, 2)), (10, (1, 2)), (23.5, (0, 0)),
                                          (24, None)])
def test_next_lod_range(kimg, wanted):
    kwargs = {'total_kimg': 40, 'lod_training_kimg': 4, 'lod_transition_kimg': 4}
    coming = next_lod_range(int(kimg * 1000) + 1, 32, kwargs)
    assert (coming and lod_range_of(coming)) == wanted


def test_no_next_lod_range_without_growing_or_time():
    no_growing = {'total_kimg': 40, 'lod_training_kimg': 0, 'lod_transition_kimg': 0}
    assert next_lod_range(0, 32, no_growing) is None
    assert next_lod_range(0, 32, {'total_kimg': 3, 'lod_training_kimg': 4, 'lod_transition_kimg': 4}) is None


# ----------------------------------------------------------------------------------------------------------------------
# The reals of the 2018 release.

TRAIN_UTILS = load_golden('tf/train_utils')[0]


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
@pytest.mark.parametrize('key', [key for key in TRAIN_UTILS if key.startswith('process_reals/out_')])
def test_reals_as_in_the_2018_release(engine, key):
    lod = float(key.partition('lod')[2])
    images, draws, lod_var = T.tensor4('images', dtype='uint8'), T.fvector('draws'), T.fscalar('lod')
    result = steps.process_reals(
        images, lod_var, int(lod), drange_net=(0, 1) if 'drange01' in key else (-1, 1),
        mirror_draws=draws if 'mirror' in key else None)
    function = theano.function([images, draws, lod_var], result, on_unused_input='ignore')
    reals = function(TRAIN_UTILS[f'process_reals/input_lod{int(lod)}'], TRAIN_UTILS['process_reals/mirror_mask'], lod)
    assert reals.dtype == np.float32
    # Float32 rounding of values up to 1.
    np.testing.assert_allclose(reals, TRAIN_UTILS[key], rtol=0, atol=3e-7)
