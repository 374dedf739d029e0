"""Steps, the entries of a program: running a list of them, what they cost, how many threads they run with.

A step is a tuple (function, source slots, target slot or tuple of them, slots to empty afterwards, Theano's node or
None). Slots are places in a list of values.
"""

import math

import theano
import torch
from theano.tensor.nnet import abstract_conv

from theano_torch.errors import raise_naming
from theano_torch.rewrites.fusion import ConvBiasActivation

CONVOLUTIONS = (abstract_conv.BaseAbstractConv, ConvBiasActivation)

# Of one thread, for estimates.
STEP_SECONDS = 10e-6
MULTIPLICATIONS_PER_SECOND = 40e9
BYTES_PER_SECOND = 16e9


class WrongShapes(Exception):
    """A value-dependent shape differs from the one that the program was made for."""


def execute(steps, values):
    """Run `steps` in order on the list `values`. Errors name the node."""
    arguments, node = (), None
    try:
        for function, sources, target, emptied, node in steps:     # noqa: B007  (used where it fails)
            arguments = [values[slot] for slot in sources]
            result = function(*arguments)
            if type(target) is int:
                values[target] = result
            else:
                for slot, value in zip(target, result, strict=True):
                    values[slot] = value
            for slot in emptied:
                values[slot] = None
    except WrongShapes:
        raise
    except Exception:
        if node is None:
            raise
        raise_naming(node, arguments)


def targets_of(step):
    """The slots that a step fills, as a tuple."""
    target = step[2]
    return (target,) if type(target) is int else target


def emptying(steps, own):
    """`steps` that empty the slots in the set `own` after their last use."""
    last_use = {slot: index for index, step in enumerate(steps) for slot in (*step[1], *targets_of(step))}
    result = []
    for index, step in enumerate(steps):
        function, sources, target, _, node = step
        used = own.intersection((*sources, *targets_of(step)))
        emptied = tuple(sorted(slot for slot in used if last_use[slot] == index))
        result.append((function, sources, target, emptied, node))
    return result


def set_threads(number):
    """A step after which PyTorch uses `number` threads."""
    def change():
        torch.set_num_threads(number)
        return ()
    return change, (), (), (), None


def is_product(node):
    """Whether `node` is one of those that take nearly all of the time: a convolution or matrix product."""
    return isinstance(node.op, (*CONVOLUTIONS, theano.tensor.Dot))


def seconds(node, shapes):
    """An estimate of what a node takes in one thread; `shapes` maps its variables to tuples."""
    if node is None or getattr(node.op, 'view_map', None):
        return STEP_SECONDS
    elements = sum(math.prod(shapes.get(var, ())) for var in node.inputs + node.outputs)
    return STEP_SECONDS + multiplications(node, shapes) / MULTIPLICATIONS_PER_SECOND + 4 * elements / BYTES_PER_SECOND


def multiplications(node, shapes):
    """How many a node takes with the given shapes; only those of convolutions and matrix products count."""
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


def multiplications_per_kernel_element(node, shapes):
    """At most how many a convolution or matrix product takes, by the shapes of its inputs alone."""
    first, second = (shapes[var] for var in node.inputs[:2])
    op = unfused(node.op)
    if isinstance(op, theano.tensor.Dot):
        return math.prod(first) * math.prod(second[1:])
    if isinstance(op, abstract_conv.AbstractConv):
        return math.prod(first) * second[0]
    return math.prod(second) * first[1]         # Channels of the filters, or of the image.


def unfused(op):
    return op.conv if isinstance(op, ConvBiasActivation) else op
