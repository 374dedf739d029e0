"""Cost model: estimated times of nodes in one thread, from the shapes of their variables.

In this module `shapes` maps the variables of a node to tuples of ints.
"""

import math
from collections.abc import Mapping
from typing import Any

from theano_torch.rewrites.fusion import ConvBiasActivation

import theano
from theano.tensor.nnet import abstract_conv

Shapes = Mapping[Any, tuple[int, ...]]

CONVOLUTIONS = (abstract_conv.BaseAbstractConv, ConvBiasActivation)

# Rates of one thread.
STEP_SECONDS = 10e-6
MULTIPLICATIONS_PER_SECOND = 40e9
BYTES_PER_SECOND = 16e9


def is_product(node: Any) -> bool:
    """Whether `node` is a convolution or matrix product; these take nearly all of the time."""
    return isinstance(node.op, (*CONVOLUTIONS, theano.tensor.Dot))


def seconds(node: Any, shapes: Shapes) -> float:
    """Estimated time of a node. None stands for a conversion between host and device."""
    if node is None or getattr(node.op, 'view_map', None):
        return STEP_SECONDS
    elements = sum(math.prod(shapes.get(var, ())) for var in node.inputs + node.outputs)
    return STEP_SECONDS + multiplications(node, shapes) / MULTIPLICATIONS_PER_SECOND + 4 * elements / BYTES_PER_SECOND


def multiplications(node: Any, shapes: Shapes) -> int:
    """Number of multiplications of a convolution or matrix product; 0 for other nodes."""
    if not is_product(node):
        return 0
    op = unfused(node.op)
    if isinstance(op, abstract_conv.AbstractConv):      # With strides, the result may be the smaller one.
        return math.prod(shapes[node.outputs[0]]) * math.prod(shapes[node.inputs[1]][1:])
    if isinstance(op, abstract_conv.AbstractConv_gradInputs):
        return math.prod(shapes[node.inputs[1]]) * math.prod(shapes[node.inputs[0]][1:])
    if isinstance(op, abstract_conv.AbstractConv_gradWeights):
        return math.prod(shapes[node.inputs[1]]) * math.prod(shapes[node.outputs[0]][1:])
    return multiplications_per_kernel_element(node, shapes)


def multiplications_per_kernel_element(node: Any, shapes: Shapes) -> int:
    """Upper bound of a convolution's or matrix product's multiplications per kernel element, from its input shapes."""
    first, second = (shapes[var] for var in node.inputs[:2])
    op = unfused(node.op)
    if isinstance(op, theano.tensor.Dot):
        return math.prod(first) * math.prod(second[1:])
    if isinstance(op, abstract_conv.AbstractConv):
        return math.prod(first) * second[0]
    return math.prod(second) * first[1]         # Channels of the filters or of the image.


def unfused(op: Any) -> Any:
    """The convolution in a fused op; any other op itself."""
    return op.conv if isinstance(op, ConvBiasActivation) else op
