"""What nodes cost: estimates of their time in one thread, out of the shapes of their variables.

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

# Of one thread.
STEP_SECONDS = 10e-6
MULTIPLICATIONS_PER_SECOND = 40e9
BYTES_PER_SECOND = 16e9


def is_product(node: Any) -> bool:
    """Whether `node` is one of those that take nearly all of the time: a convolution or matrix product."""
    return isinstance(node.op, (*CONVOLUTIONS, theano.tensor.Dot))


def seconds(node: Any, shapes: Shapes) -> float:
    """What a node takes. None stands for a conversion between host and device."""
    if node is None or getattr(node.op, 'view_map', None):
        return STEP_SECONDS
    elements = sum(math.prod(shapes.get(var, ())) for var in node.inputs + node.outputs)
    return STEP_SECONDS + multiplications(node, shapes) / MULTIPLICATIONS_PER_SECOND + 4 * elements / BYTES_PER_SECOND


def multiplications(node: Any, shapes: Shapes) -> int:
    """How many multiplications a node takes; only those of convolutions and matrix products count."""
    if not is_product(node):
        return 0
    op = unfused(node.op)
    if isinstance(op, abstract_conv.AbstractConv):      # Perhaps with strides: the result is the smaller one.
        return math.prod(shapes[node.outputs[0]]) * math.prod(shapes[node.inputs[1]][1:])
    if isinstance(op, abstract_conv.AbstractConv_gradInputs):
        return math.prod(shapes[node.inputs[1]]) * math.prod(shapes[node.inputs[0]][1:])
    if isinstance(op, abstract_conv.AbstractConv_gradWeights):
        return math.prod(shapes[node.inputs[1]]) * math.prod(shapes[node.outputs[0]][1:])
    return multiplications_per_kernel_element(node, shapes)


def multiplications_per_kernel_element(node: Any, shapes: Shapes) -> int:
    """At most how many a convolution or matrix product takes, by the shapes of its inputs alone."""
    first, second = (shapes[var] for var in node.inputs[:2])
    op = unfused(node.op)
    if isinstance(op, theano.tensor.Dot):
        return math.prod(first) * math.prod(second[1:])
    if isinstance(op, abstract_conv.AbstractConv):
        return math.prod(first) * second[0]
    return math.prod(second) * first[1]         # Channels of the filters, or of the image.


def unfused(op: Any) -> Any:
    """`op`, or the convolution in it where a rewrite has put more into one op."""
    return op.conv if isinstance(op, ConvBiasActivation) else op
