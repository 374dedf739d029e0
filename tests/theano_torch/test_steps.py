"""theano_torch/steps.py and costs.py: executing lists of steps, and estimating their costs."""


from theano_torch import costs
from theano_torch.costs import is_product, multiplications, multiplications_per_kernel_element, seconds
from theano_torch.errors import WrongShapes
from theano_torch.rewrites.fusion import ConvBiasActivation
from theano_torch.steps import Step, execute

import numpy as np
import pytest
import theano
import theano.tensor as T
from theano import gof
from theano.tensor.nnet import abstract_conv

from tests.theano_torch.helpers import TORCH

ARGUMENT = T.dvector('argument')
NODE = gof.FunctionGraph([ARGUMENT], [T.exp(ARGUMENT)], clone=False).outputs[0].owner


def failing(error):
    def fail(*arguments):
        raise error
    return fail


def test_execute():
    values = [2, None, None, None, None]
    program = [Step(lambda x: x + 1, (0,), 1, (0,)), Step(divmod, (1, 1), (2, 3)),
               Step(lambda *found: found, (1, 2, 3), 4, (1, 3))]
    assert [step.targets for step in program] == [(1,), (2, 3), (4,)]
    execute(program, values)
    assert values == [None, None, 1, None, (3, 1, 0)]


def test_errors_name_the_node():
    with pytest.raises(ArithmeticError, match=r'(?s)^by design.*Apply node.*Elemwise\{exp.*\(3,\)'):
        execute([Step(failing(ArithmeticError('by design')), (0,), 1, (), NODE)], [np.zeros(3), None])
    with pytest.raises(ArithmeticError, match='^by design$'):       # A conversion step belongs to no node.
        execute([Step(failing(ArithmeticError('by design')), (0,), 1)], [np.zeros(3), None])
    with pytest.raises(WrongShapes):
        execute([Step(failing(WrongShapes()), (0,), 1, (), NODE)], [np.zeros(3), None])


def test_seconds():
    a, b = T.fmatrix(), T.fmatrix()
    product = T.dot(a, b).owner
    shapes = {a: (100, 200), b: (200, 300), product.outputs[0]: (100, 300)}
    expected = costs.STEP_SECONDS + 6e6 / costs.MULTIPLICATIONS_PER_SECOND + 4 * 110e3 / costs.BYTES_PER_SECOND
    assert seconds(product, shapes) == pytest.approx(expected, rel=1e-12)
    assert seconds(None, {}) == seconds(a.T.owner, shapes) == costs.STEP_SECONDS     # A view is free.


def test_is_product():
    image, filters = zeros(2, 4, 8, 7), zeros(6, 4, 3, 2)
    convolution = abstract_conv.AbstractConv2d()
    products = [T.dot(image[0, 0], image[0, 0].T), convolution(image, filters),
                ConvBiasActivation(convolution, None)(image, filters, zeros(6)),
                abstract_conv.AbstractConv2d_gradInputs()(filters, zeros(2, 6, 6, 6), (8, 7)),
                abstract_conv.AbstractConv2d_gradWeights()(image, zeros(2, 6, 6, 6), (3, 2))]
    assert all(is_product(output.owner) for output in products)
    assert not any(is_product(output.owner) for output in (T.exp(image), image.sum(), image * image))


# ----------------------------------------------------------------------------------------------------------------------
# Multiplications.


def count(*outputs):
    """Call `multiplications` for the node of each output, whose inputs are constants."""
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


def test_multiplications_by_inputs_alone():
    image, filters, top = zeros(2, 4, 8, 7), zeros(6, 4, 3, 2), zeros(2, 6, 6, 6)
    products = [abstract_conv.AbstractConv2d(border_mode='half')(image, filters),
                ConvBiasActivation(abstract_conv.AbstractConv2d(), None)(image, filters, zeros(6)),
                abstract_conv.AbstractConv2d_gradInputs()(filters, top, (8, 7)),
                abstract_conv.AbstractConv2d_gradWeights()(image, top, (3, 2)), T.dot(zeros(2, 3), zeros(3, 5))]
    counts = [multiplications_per_kernel_element(
        product.owner, {var: var.data.shape for var in product.owner.inputs if hasattr(var, 'data')})
        for product in products]
    assert counts == [2 * 8 * 7 * 4 * 6, 2 * 8 * 7 * 4 * 6, 2 * 6 * 6 * 6 * 4, 2 * 6 * 6 * 6 * 4, 2 * 3 * 5]
