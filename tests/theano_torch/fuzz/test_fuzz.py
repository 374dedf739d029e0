"""Random programs agree on the engines for some seeds of each kind; differences are detected and shortened."""

import logging

import numpy as np
import pytest

from tests.theano_torch.fuzz.compare import Failed, difference
from tests.theano_torch.fuzz.kinds import KINDS
from tests.theano_torch.fuzz.recipes import Call, Recipe, Ref, Source
from tests.theano_torch.fuzz.shrink import shrink

# (kind, first seed, number of seeds), about ten seconds each.
RANGES = [('graphs', first, 50) for first in (0, 100)] + [('convolutions', first, 20) for first in (0, 100)] + \
    [('scans', first, 6) for first in (0, 100)]


@pytest.fixture(autouse=True)
def quiet():
    """Silence Theano's reports of failed rewrites, without which it continues."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize('kind, first, count', RANGES, ids=lambda value: str(value))
def test_random_programs(kind, first, count):
    make, _ = KINDS[kind]
    compare = KINDS[kind].comparison()
    for seed in range(first, first + count):
        recipe = make(seed)
        found = compare(recipe)
        assert not found, f'{kind} of seed {seed}: {found}\n{shrink(recipe, compare)!r}'
    assert compare.num_failing + compare.num_refused < count / 2


# ----------------------------------------------------------------------------------------------------------------------
# The comparison itself.


LONG = Recipe(
    (Source('float64', (3, 2), seed=1, layout='F'), Source('float64', (2,), seed=2, is_shared=True)),
    (Call('T.exp', (Ref(0),)), Call('operator.add', (Ref(2), Ref(1))), Call('T.sum', (Ref(3),), {'axis': 0}),
     Call('T.sqr', (Ref(4),))),
    (Ref(3), Ref(5)), updates=((Ref(1), Ref(4)),))


def test_programs_are_cut_down():
    def differs(recipe):
        return 'yes' if any(call.function == 'T.sum' for call in recipe.calls) else ''
    small = shrink(LONG, differs)
    assert repr(small).splitlines() == ["v0 = Source('float64', (3, 2), seed=1)", 'v1 = T.sum(v0, axis=0)',
                                        'outputs = [v1]']


def test_results_of_two_calls_and_shared_variables(python_mode):
    outputs = LONG.function(python_mode).results()
    x, state = (source.value() for source in LONG.sources)
    for call in range(2):
        total = (np.exp(x) + state).sum(0)
        np.testing.assert_allclose(outputs[2 * call], np.exp(x) + state)
        np.testing.assert_allclose(outputs[2 * call + 1], total ** 2)
        state = total
    np.testing.assert_allclose(outputs[4], state)


@pytest.mark.parametrize('mine, theirs, text', [
    ([1.0, np.nan], [1.0, np.nan], ''),
    ([1.0, 2.0], [1.0, np.nan], '2.0 instead of nan'),
    ([np.inf, 2.0], [-np.inf, 2.0], 'inf instead of -inf'),
    ([1.0, 2.0 + 1e-10], [1.0, 2.0], ''),
    ([1.0, 2.0 + 1e-7], [1.0, 2.0], 'instead of 2.0'),
    ([1, 2], [1.0, 2.0], 'type int64, not float64'),
    ([1.0], [1.0, 2.0], r'shape (1,), not (2,)'),
])
def test_differences(mine, theirs, text):
    found = difference([np.array(mine)], [np.array(theirs)], 8)
    assert text in found and bool(text) == bool(found)


def test_errors_differ_from_results():
    failed = Failed(ValueError('no'))
    assert difference(failed, failed, 8) == ''
    assert difference(failed, [np.zeros(1)], 8) == 'error: ValueError: no'
    assert difference([np.zeros(1)], failed, 8) == 'no error: ValueError: no'
