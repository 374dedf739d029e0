"""A fixture that compares expressions on the torch engine with Theano's Python code."""

import theano_torch

import pytest
import theano

from tests.standin.engine import a_gpu
from tests.theano_torch.helpers import TORCH, assert_same


@pytest.fixture
def agree(python_mode):
    """A function that evaluates expressions several times on the CPU and a GPU, and compares with Theano's code."""
    def check(inputs, outputs, *calls, tolerance=None):
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        calls += calls[:1]      # Repeat the first call, which runs the cached program.

        def compute(mode):
            f = theano.function(inputs, outputs, mode=mode, on_unused_input='ignore', allow_input_downcast=True)
            return [value for values in calls for value in f(*values)]

        references, found = compute(python_mode), [compute(TORCH)]
        with a_gpu():
            found.append(compute(theano_torch.mode('cuda:0')))
        for results in found:
            for mine, reference in zip(results, references, strict=True):
                assert_same(mine, reference, tolerance)
    return check
