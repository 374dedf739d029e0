"""Numbers that are computed on the host become one step, which caches its results."""

from theano_torch import host_steps

import numpy as np
import pytest
import theano
import theano.tensor as T

from tests.theano_torch.helpers import TORCH

DATA = np.arange(20, dtype='float32').reshape(10, 2)


@pytest.fixture
def run():
    """A function of a minibatch's number and size that returns the sum of the minibatch and of its arguments."""
    index, size = T.lscalar(), T.lscalar()
    rows = theano.shared(DATA)[index * size:(index + 1) * size]
    return theano.function([index, size], [rows.sum(), index + size], mode=TORCH)


def steps(function):
    return [step for programs in function.fn.programs.values() for program in programs for part in program.parts
            for step in part.steps]


def test_bounds_of_minibatches_are_one_step(run):
    for index, size in [(0, 2), (1, 3), (1, 3), (0, 2), (2, 3), (5, 2), (0, 3)]:
        total, number = run(index, size)
        assert total == DATA[index * size:(index + 1) * size].sum() and number == index + size
    pure = [step for step in steps(run) if step.node is not None and host_steps.is_pure(step.node)]
    assert any(isinstance(step.function, host_steps.Numbers) for step in steps(run)) and not pure


def test_results_are_the_callers_own(run):
    for _ in range(3):
        number = run(1, 2)[1]
        assert number == 3
        number[...] = 7


def test_memory_is_bounded(monkeypatch, run):
    monkeypatch.setattr(host_steps, 'MAX_REMEMBERED', 3)
    for index in range(5):
        run(index, 2)
    known = [step.function.known for step in steps(run) if isinstance(step.function, host_steps.Numbers)]
    assert known and all(0 < len(results) <= 3 for results in known)


def test_errors_name_the_node():
    index = T.lscalar()
    number = T.opt.Assert('too small')(index, T.gt(index, 2))
    run = theano.function([index], T.arange(9)[number * 2 - index // 2:number * 3 - 1], mode=TORCH)
    assert run(3).tolist() == [5, 6, 7]
    with pytest.raises(AssertionError, match='too small') as error:
        run(1)
    assert 'Apply node that caused the error: Assert' in str(error.value)
