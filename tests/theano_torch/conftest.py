"""The fixture that computes expressions on both engines."""


import pytest
import theano

from tests.standin.engine import a_gpu
from tests.theano_torch.helpers import TORCH, assert_same


@pytest.fixture
def gpu():
    """A CUDA GPU: a real one (None), else the stand-in."""
    with a_gpu() as stand_in:
        yield stand_in


@pytest.fixture
def agree(python_mode):
    """A function that computes expressions on both engines, several times, and compares them."""
    def check(inputs, outputs, *calls, tolerance=None):
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        ours = theano.function(inputs, outputs, mode=TORCH, on_unused_input='ignore', allow_input_downcast=True)
        theirs = theano.function(inputs, outputs, mode=python_mode, on_unused_input='ignore', allow_input_downcast=True)
        for values in calls + calls[:1]:        # The first ones again: they run the program that was kept.
            for mine, reference in zip(ours(*values), theirs(*values), strict=True):
                assert_same(mine, reference, tolerance)
    return check
