"""training/schedule.py: Ramps of the learning rates against recorded ones."""

import json

import pytest

from tests.helpers import GOLDEN
from training.schedule import rampdown_linear, rampup

NUMBERS = json.loads((GOLDEN / 'misc.json').read_text())


@pytest.mark.parametrize('epoch, length, value', NUMBERS['rampup'])
def test_rampup(epoch, length, value):
    assert rampup(epoch, length) == value


@pytest.mark.parametrize('epoch, num_epochs, length, value', NUMBERS['rampdown_linear'])
def test_rampdown_linear(epoch, num_epochs, length, value):
    assert rampdown_linear(epoch, num_epochs, length) == value
