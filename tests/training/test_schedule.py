"""training/schedule.py: the ramps of the learning rates equal recorded ones; lengths of ticks."""

import json

import pytest

from tests.helpers import GOLDEN
from training.schedule import lod_range_of, next_lod_range, rampdown_linear, rampup, training_schedule

NUMBERS = json.loads((GOLDEN / 'misc.json').read_text())


@pytest.mark.parametrize('epoch, length, value', NUMBERS['rampup'])
def test_rampup(epoch, length, value):
    assert rampup(epoch, length) == value


@pytest.mark.parametrize('epoch, num_epochs, length, value', NUMBERS['rampdown_linear'])
def test_rampdown_linear(epoch, num_epochs, length, value):
    assert rampdown_linear(epoch, num_epochs, length) == value


@pytest.mark.parametrize('options, wanted', [
    ({}, [50, 50, 20, 10, 1]),      # The release's table.
    ({'tick_kimg_default': 7}, [7, 7, 7, 7, 7]),
    ({'tick_kimg_default': 7, 'tick_kimg_overrides': {}}, [7, 7, 7, 7, 7]),
    ({'tick_kimg_default': 7, 'tick_kimg_overrides': {8: 3, 1024: 2}}, [7, 3, 7, 7, 2]),
    ({'tick_kimg_overrides': {8: 3}}, [50, 3, 50, 50, 50]),
])
def test_length_of_ticks(options, wanted):
    assert [training_schedule(1, resolution, lod_initial_resolution=resolution, **options).tick_kimg
            for resolution in (4, 8, 32, 64, 1024)] == wanted


def test_the_next_lod_range_takes_no_time_to_find():
    schedule = {'total_kimg': 1e30, 'lod_training_kimg': 1e9, 'lod_transition_kimg': 1}
    assert lod_range_of(next_lod_range(0, 1024, schedule)) == (7, 8)
    for training, transition in ((4, 0), (0, 4), (4, 4)):
        schedule = {'total_kimg': 100, 'lod_training_kimg': training, 'lod_transition_kimg': transition}
        found, predicted = [lod_range_of(training_schedule(1, 16, **schedule))], None
        for nimg in range(51, 40000, 50):
            present = lod_range_of(training_schedule(nimg, 16, **schedule))
            upcoming = next_lod_range(nimg, 16, schedule)
            if present != found[-1]:
                found.append(present)
                assert predicted == present
            predicted = upcoming and lod_range_of(upcoming)
        assert upcoming is None and found[-1] == (0, 0)
