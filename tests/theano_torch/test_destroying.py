"""Ops that overwrite their inputs overwrite the same memory as on Theano's own engines."""

import theano_torch
from theano_torch.compat import T, theano

import numpy as np
import pytest
import torch
from theano.tensor import inplace
from theano.tensor.raw_random import RandomFunction, random_state_type


def mutable(*variables):
    return [theano.In(var, mutable=True) for var in variables]


OVERWRITING = {
    'set': lambda x: T.set_subtensor(x[1], 7, inplace=True),
    'increment': lambda x: T.inc_subtensor(x[:, 1:], 7, inplace=True),
    'backwards': lambda x: T.inc_subtensor(x[::-1, 0], np.float32([1, 2, 3]), inplace=True),
    'rows': lambda x: T.inc_subtensor(x[np.array([0, 2, 0])], 1, inplace=True),
    'element-wise': lambda x: inplace.neg_inplace(x),
    'two ops': lambda x: inplace.add_inplace(T.set_subtensor(x[0], 1, inplace=True), np.float32(2)),
    'a view': lambda x: T.inc_subtensor(x.T[1:, 0], 3, inplace=True),
    'a flipped view': lambda x: inplace.add_inplace(x[::-1][:2], np.float32(3)),
    'a view of a flipped view': lambda x: inplace.neg_inplace(x[::-2].T[::-1]),
    'transposed': lambda x: inplace.sqr_inplace(x.T),
}


@pytest.mark.parametrize('name', OVERWRITING)
@pytest.mark.parametrize('order', ['C', 'F', 'reversed'])
def test_mutable_argument(name, order):
    """The argument afterwards is the same as with the op's own Python code."""
    x = T.fmatrix()
    result = OVERWRITING[name](x)
    start = np.arange(9, dtype=np.float32).reshape(3, 3) % 5
    found = []
    for mode in (theano.compile.Mode(theano.gof.vm.VM_Linker(use_cloop=False, c_thunks=False), None),
                 theano_torch.mode()):
        compute = theano.function(mutable(x), result, mode=mode, accept_inplace=True)
        for _ in range(2):      # The first call compiles the program.
            argument = {'C': start.copy(), 'F': np.asfortranarray(start), 'reversed': start[::-1].copy()[::-1]}[order]
            value = np.array(compute(argument))
        found.append((value, argument))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert (found[1][1] != start).any()


@pytest.mark.parametrize('dtype', ['uint16', 'float64'])
def test_types_without_kernels(dtype):
    x = T.vector(dtype=dtype)
    argument = np.arange(4, dtype=dtype)
    theano.function(mutable(x), T.inc_subtensor(x[1], 5, inplace=True), mode=theano_torch.mode(),
                    accept_inplace=True)(argument)
    assert argument.tolist() == [0, 6, 2, 3]


def test_whole_numbers():
    """0-d integers are overwritten, too, although they usually stay on the host."""
    n = T.lscalar()
    compute = theano.function(mutable(n), inplace.add_inplace(n, 1), mode=theano_torch.mode(), accept_inplace=True)
    argument = np.array(3)
    assert compute(argument) == 4 and compute(argument) == 5 and argument == 5


def test_random_states():
    states = random_state_type()
    draw = RandomFunction('uniform', T.fvector, inplace=True)
    compute = theano.function(mutable(states), draw(states, T.constant([2]), np.float32(0), np.float32(1)),
                              mode=theano_torch.mode(), accept_inplace=True)
    given, expected = np.random.RandomState(1), np.random.RandomState(1)
    for _ in range(2):
        compute(given)
        expected.uniform(size=2)
    assert given.uniform() == expected.uniform()


@pytest.mark.parametrize('value', [np.arange(4.), np.arange(8.)[::2]])
def test_borrowed_shared_value(value):
    """An in-place update changes the array from which the variable was made."""
    start = value.copy()
    shared = theano.shared(value, borrow=True)
    update = T.inc_subtensor(shared[1:], 1, inplace=True)
    compute = theano.function([], shared.sum(), updates=[(shared, update)], mode=theano_torch.mode(),
                              accept_inplace=True)
    sums = [compute() for _ in range(3)]
    assert sums == [start.sum() + 3 * step for step in range(3)]
    np.testing.assert_array_equal(value, start + [0, 3, 3, 3])
    assert shared.get_value(borrow=True) is value


def test_only_what_theano_overwrites():
    """If a result is a view here, but a new tensor in Theano, an op overwrites a copy of it."""
    x = T.TensorType('float32', (False, True))()
    y = T.fvector()
    sums = T.set_subtensor(x.sum(axis=1)[0], 9, inplace=True)
    spread = T.set_subtensor(T.alloc(y[0], 3)[1], 9, inplace=True)
    chosen = T.set_subtensor(T.set_subtensor((y + 0)[0], 8, inplace=True)[1], 9, inplace=True)
    compute = theano.function([x, y], [sums, spread, chosen, x.sum(), y.sum()], mode=theano_torch.mode(),
                              accept_inplace=True)
    arguments = np.ones((3, 1), np.float32), np.ones(3, np.float32)
    for _ in range(2):
        results = compute(*arguments)
        assert [value.tolist() for value in results] == [[9, 1, 1], [1, 9, 1], [8, 9, 1], 3, 3]
    assert all((value == 1).all() for value in arguments)


def test_a_program_that_does_not_fit_overwrites_nothing():
    """A wrong shape is found after the input was overwritten; the next attempt must not overwrite it again."""
    x, mask = T.fvector(), T.bvector()
    changed = T.inc_subtensor(x[:1], 1, inplace=True)
    compute = theano.function([*mutable(x), mask], changed[mask.nonzero()], mode=theano_torch.mode(),
                              accept_inplace=True)
    argument = np.zeros(3, np.float32)
    assert compute(argument, [1, 0, 0]).tolist() == [1]
    assert compute(argument, [1, 1, 0]).tolist() == [2, 0]      # Another shape needs another program.
    assert compute(argument, [1, 0, 1]).tolist() == [3, 0]
    assert argument.tolist() == [3, 0, 0]


def test_lanes(monkeypatch):
    """With lanes, the first call computes on copies, and the program overwrites the input."""
    monkeypatch.setattr('theano_torch.scheduler.SMALL_STEP', 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x, y = T.fmatrices(2)
        result = T.inc_subtensor(x[::-1][:1], (T.dot(y, y) + T.dot(y, y.T))[:1], inplace=True)
        argument = np.zeros((2, 2), np.float32)
        compute = theano.function([*mutable(x), y], result, mode=theano_torch.mode(), accept_inplace=True)
        for _ in range(2):
            compute(argument, np.ones((2, 2), np.float32))
    finally:
        torch.set_num_threads(before)
    assert argument.tolist() == [[0, 0], [8, 8]]
