"""theano_torch/program.py: how many threads a program runs with, and programs that turn out not to hold."""

import theano_env  # noqa: F401  isort: skip

import numpy as np
import pytest
import theano
import theano.tensor as T
import torch
from test_theano_torch import TORCH, numbers
from theano import gof
from theano.tensor.nnet import abstract_conv

import theano_torch
import updates
from theano_torch import program
from theano_torch.fusion import ConvBiasActivation
from theano_torch.program import Program, multiplications

# ----------------------------------------------------------------------------------------------------------------------
# Threads.


class Witness(gof.Op):
    """Its input, and the number of torch's threads while it runs in `seen`; fails for negative numbers."""

    __props__ = ()
    seen = []

    def make_node(self, x):
        return gof.Apply(self, [x], [x.type()])


@theano_torch.lower.register(Witness)
def _(op, node, build):
    def look(x):
        op.seen.append(torch.get_num_threads())
        if (x < 0).any():
            raise ArithmeticError('negative')
        return x.clone()
    return look


@pytest.fixture
def three_threads(monkeypatch):
    """torch is set to three threads."""
    Witness.seen.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def programs_of(function):
    return [kept for programs in function.fn.programs.values() for kept in programs]


def test_little_work_runs_in_one_thread(three_threads):
    x = T.fmatrix()
    function = theano.function([x], T.dot(Witness()(x), x.T), mode=TORCH)
    array = np.abs(numbers(4, 5))
    for _ in range(3):
        np.testing.assert_allclose(function(array), np.dot(array, array.T), rtol=1e-6)    # Rounding.
        assert torch.get_num_threads() == 3
    assert Witness.seen == [3, 1, 1]        # The first call makes the program.
    assert [kept.threads for kept in programs_of(function)] == [1]


def test_threads_come_back_after_an_error(three_threads):
    x = T.fmatrix()
    function = theano.function([x], Witness()(x), mode=TORCH)
    function(np.ones((2, 2), 'float32'))
    for _ in range(2):
        with pytest.raises(ArithmeticError, match='(?s)negative.*Apply node'):
            function(-np.ones((2, 2), 'float32'))
        assert torch.get_num_threads() == 3
    assert Witness.seen == [3, 1, 1]


def test_much_work_runs_in_all_threads(three_threads, monkeypatch):
    x = T.fmatrix()
    function = theano.function([x], T.dot(Witness()(x), x.T), mode=TORCH)
    steps = 3
    for multiplied, threads in ((64, None), (65, 1)):       # 4 * 4 * 12 multiplications are those of three such steps.
        monkeypatch.setattr(program, 'SMALL_STEP', multiplied)
        function.fn.programs.clear()
        function(np.ones((4, 12), 'float32'))
        kept, = programs_of(function)
        assert (len(kept.steps), kept.threads) == (steps, threads)
        function(np.ones((4, 12), 'float32'))
        assert Witness.seen[-1] == (threads or 3)


def test_threads_of_wrong_shapes(three_threads):
    """A run that is given up leaves the number of threads as it was."""
    x = T.fvector()
    function = theano.function([x], x[Witness()(x).nonzero()], mode=TORCH)
    for array in ([1, 0, 1], [1, 1, 1], [0, 0, 1], [1, 0, 1], [1, 1, 1]):
        array = np.asarray(array, 'float32')
        np.testing.assert_array_equal(function(array), array[array > 0])
        assert torch.get_num_threads() == 3
    assert len(programs_of(function)) == 3


# ----------------------------------------------------------------------------------------------------------------------
# Multiplications.


def count(*outputs):
    """What `multiplications` says of the last node of each output, whose inputs are constants, and their shapes."""
    counts = []
    for output in outputs:
        node = output.owner
        shapes = {var: theano.function([], var.shape, mode=TORCH)() for var in [*node.inputs, *node.outputs]}
        shapes = {var: tuple(map(int, shape)) for var, shape in shapes.items()}
        counts.append(multiplications(node, shapes))
    return counts


def zeros(*shape):
    return T.constant(np.zeros(shape, 'float32'))


def test_multiplications_of_matrix_products():
    a, b, u, v = zeros(2, 3), zeros(3, 5), zeros(3), zeros(5)
    assert count(T.dot(a, b), T.dot(a, u), T.dot(b, v), T.dot(u, b), T.dot(u, u)) == [30, 6, 15, 15, 3]


def test_multiplications_of_convolutions():
    image, filters = zeros(2, 4, 8, 7), zeros(6, 4, 3, 2)
    assert count(abstract_conv.AbstractConv2d()(image, filters)) == [2 * 6 * 6 * 6 * 4 * 3 * 2]
    assert count(abstract_conv.AbstractConv2d(border_mode=(1, 1), subsample=(2, 2))(image, filters)) == \
        [2 * 6 * 4 * 4 * 4 * 3 * 2]
    assert count(abstract_conv.AbstractConv2d(num_groups=2)(image, zeros(6, 2, 3, 2))) == [2 * 6 * 6 * 6 * 2 * 3 * 2]
    top = zeros(2, 6, 6, 6)
    assert count(abstract_conv.AbstractConv2d_gradInputs()(filters, top, (8, 7)),
                 abstract_conv.AbstractConv2d_gradWeights()(image, top, (3, 2))) == [2 * 6 * 6 * 6 * 4 * 3 * 2] * 2
    volume, cubes = zeros(2, 3, 4, 4, 4), zeros(5, 3, 2, 2, 2)
    assert count(abstract_conv.AbstractConv3d()(volume, cubes)) == [2 * 5 * 27 * 3 * 8]


def test_multiplications_of_fused_convolutions():
    image, filters, bias = zeros(2, 4, 8, 7), zeros(6, 4, 3, 2), zeros(6)
    assert count(ConvBiasActivation(abstract_conv.AbstractConv2d(), None)(image, filters, bias)) == \
        [2 * 6 * 6 * 6 * 4 * 3 * 2]
    transposed = abstract_conv.AbstractConv2d_gradInputs(border_mode=(1, 1), subsample=(2, 2))
    shape = T.constant(np.array([16, 14]))
    assert count(ConvBiasActivation(transposed, None)(zeros(4, 6, 4, 4), image, shape, bias)) == \
        [2 * 4 * 8 * 7 * 6 * 4 * 4]


def test_multiplications_of_other_nodes():
    x = zeros(2, 3)
    assert count(T.exp(x), x.sum(), x * x, x.T) == [0, 0, 0, 0]


def test_work_is_that_of_the_steps_that_are_needed(monkeypatch):
    """A product of shapes, which is done when the program is made, does not count."""
    monkeypatch.setattr(program, 'SMALL_STEP', 1)
    x = T.fmatrix()
    function = theano.function([x], x + T.dot(x.shape, x.shape).astype('float32'), mode=TORCH)
    function(np.ones((100, 100), 'float32'))
    assert [kept.threads for kept in programs_of(function)] == [1]


def test_programs_on_a_gpu_leave_the_threads_alone(three_threads):
    add = (lambda x: x + torch.get_num_threads(), (0,), 1, (), None)
    for threads, wanted in ((None, 3), (2, 2)):
        outputs = Program([add], [None, None], [0], [1], [None], [], threads, is_fixed=True)([torch.zeros(1)])
        assert outputs[0].item() == wanted
    assert torch.get_num_threads() == 3


# ----------------------------------------------------------------------------------------------------------------------
# Shapes that depend on values, beside variables that change in place.


def chosen(values, wanted):
    """The elements of `values` where `wanted` is not zero: how many there are depends on values."""
    return values[wanted.nonzero()]


def order_of(nodes):
    """'step' and 'shape' among nodes."""
    names = {updates._Step: 'step', T.AdvancedSubtensor1: 'shape', T.AdvancedSubtensor: 'shape'}
    return [name for node in nodes for kind, name in names.items() if isinstance(node.op, kind)]


MASKS = [[1, 0, 1], [1, 1, 1], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize('num_steps', [1, 2])
def test_steps_happen_once_whatever_the_shapes(num_steps):
    """`num_steps` one after the other on the same variable, in a function with another update, of many shapes."""
    param, other = theano.shared(np.array([8., 16, 32])), theano.shared(np.zeros(1))
    x, wanted = T.dvector(), T.dvector()
    new = param
    for _ in range(num_steps):
        new = updates.MovingAverageStep(1)(np.float64(0.5), np.zeros(3), new)
    selected = chosen(x, T.exp(wanted) - 1)
    function = theano.function([x, wanted], [], updates=[(param, new), (other, selected)], mode=TORCH)
    assert all(node.op.inplace for node in function.fn.order if isinstance(node.op, updates._Step))
    assert order_of(function.maker.fgraph.toposort())[0] == 'step'      # As Theano would run it.
    assert order_of(function.fn.order) == ['shape'] + ['step'] * num_steps
    value = param.get_value()
    for mask in MASKS:
        function([1, 2, 3], mask)
        np.testing.assert_array_equal(other.get_value(), np.array([1., 2, 3])[np.array(mask) > 0])
        value = value * 0.5 ** num_steps
        np.testing.assert_array_equal(param.get_value(), value)


def test_shapes_from_the_variables_that_change():
    """The old values are looked at before the step, in programs that hold and in those that do not."""
    param, threshold = theano.shared(np.array([8., 16, 32])), T.dscalar()
    big = chosen(param, T.gt(param, threshold))
    function = theano.function([threshold], [big, big * 2], mode=TORCH,
                               updates=updates.adam([big.sum() * T.ones_like(param)], [param], 1.0))
    assert [node.op.inplace for node in function.fn.order if isinstance(node.op, updates._Step)] == [True]
    for level in (10, 20, 10, 0, 20, 0, 10):
        before = param.get_value()
        selected, twice = function(level)
        np.testing.assert_array_equal(selected, before[before > level])
        np.testing.assert_array_equal(twice, selected * 2)
        assert (param.get_value() < before).all() and (param.get_value() > before - 1.5).all()
