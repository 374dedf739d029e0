"""measuring: the number of operations is right, and the measured time grows with the work."""

import numpy as np
import pytest

import config
from nets import costs
from training import measuring
from training.building import build_network
from training.options import resolve_config


@pytest.mark.parametrize('experiment, resolutions', [('digits', [4, 16]), ('celebahq-v2-1gpu', [8])])
@pytest.mark.parametrize('engine', ['torch'], indirect=True)
def test_the_gradient_of_each_resolution(experiment, resolutions, engine):
    chosen = resolve_config(config, experiment, ['D.fmap_max=16'])
    D = build_network('D', chosen, 1, 16, 0)
    seconds = [measuring.gradient_seconds(D, resolution, 4, seconds=0.01) for resolution in resolutions]
    assert all(0 < value < np.inf for value in seconds)
    assert costs.multiplications(D, resolutions[0]) > 0


def test_the_mean_of_the_calls_after_the_first_ones():
    durations = iter([5, 4, 1, 1, 3, 1, 1, 1])
    clock = 0.0

    def call():
        nonlocal clock
        clock += next(durations)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring.time, 'perf_counter', lambda: clock)
        assert measuring.mean_seconds(call, 6) == 1.5
        assert next(durations) == 1


def test_one_long_call_is_enough():
    clock, calls = 0.0, 0

    def call():
        nonlocal clock, calls
        clock, calls = clock + 7, calls + 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring.time, 'perf_counter', lambda: clock)
        assert measuring.mean_seconds(call, 6) == 7 and calls == 1


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
def test_the_speed_of_a_convolution(engine):
    assert 1e3 < measuring.convolution_flops(1, 8, 8, seconds=0.01) < 1e15
