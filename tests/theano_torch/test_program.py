"""theano_torch/program.py: programs whose shapes turn out not to fit, while variables are updated in place."""

import numpy as np
import pytest
import theano
import theano.tensor as T

from nets import updates
from tests.theano_torch.helpers import TORCH


def chosen(values, wanted):
    """The elements of `values` where `wanted` is not zero; the shape of the result depends on values."""
    return values[wanted.nonzero()]


def order_of(nodes):
    """The order of update steps ('step') and ops with a value-dependent shape ('shape') among nodes."""
    names = {updates._Step: 'step', T.AdvancedSubtensor1: 'shape', T.AdvancedSubtensor: 'shape'}
    return [name for node in nodes for kind, name in names.items() if isinstance(node.op, kind)]


MASKS = [[1, 0, 1], [1, 1, 1], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize('num_steps', [1, 2])
def test_steps_happen_once_whatever_the_shapes(num_steps):
    """`num_steps` successive steps on one variable happen once per call, whatever the shape of another update."""
    param, other = theano.shared(np.array([8., 16, 32])), theano.shared(np.zeros(1))
    x, wanted = T.dvector(), T.dvector()
    new = param
    for _ in range(num_steps):
        new = updates.MovingAverageStep(1)(np.float64(0.5), np.zeros(3), new)
    selected = chosen(x, T.exp(wanted) - 1)
    function = theano.function([x, wanted], [], updates=[(param, new), (other, selected)], mode=TORCH)
    assert all(node.op.inplace for node in function.fn.order if isinstance(node.op, updates._Step))
    assert order_of(function.maker.fgraph.toposort())[0] == 'step'      # Theano's own order.
    assert order_of(function.fn.order) == ['shape'] + ['step'] * num_steps
    value = param.get_value()
    for mask in MASKS:
        function([1, 2, 3], mask)
        np.testing.assert_array_equal(other.get_value(), np.array([1., 2, 3])[np.array(mask) > 0])
        value = value * 0.5 ** num_steps
        np.testing.assert_array_equal(param.get_value(), value)


def test_shapes_from_the_variables_that_change():
    """Shapes depend on the values before the step, whether or not the program fits."""
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
