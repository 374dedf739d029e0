"""Fuse convolution, bias and activation into one op, which makes one pass over the output instead of three.

The rewrite runs after all of Theano's. It finds ``activation(conv(image, filters) + b)``, where b has one number per
channel and nothing else uses the intermediate results. `lowerings.fused` implements the op.
"""

from typing import Any

from theano_torch.registry import lower_activation

import theano
from theano import gof, scalar
from theano.tensor import elemwise
from theano.tensor.nnet import abstract_conv

CONVOLUTIONS = (abstract_conv.AbstractConv2d, abstract_conv.AbstractConv2d_gradInputs)


class ConvBiasActivation(gof.Op):
    """``activation(conv(...) + b)`` of the inputs of a convolution (or its transpose) and the bias (channels,).

    Parameters
    ----------
    conv : AbstractConv2d or AbstractConv2d_gradInputs
    activation : theano.scalar.ScalarOp or None
    """

    __props__ = ('conv', 'activation')

    def __init__(self, conv: Any, activation: Any) -> None:
        self.conv, self.activation = conv, activation

    def make_node(self, *inputs: Any) -> gof.Apply:
        *convolved, bias = map(theano.tensor.as_tensor_variable, inputs)
        return gof.Apply(self, [*convolved, bias], [self.conv(*convolved).type()])


class FuseConvolutions(gof.Optimizer):
    """Replace convolutions and the ops that follow them by :class:`ConvBiasActivation`."""

    def apply(self, fgraph: gof.FunctionGraph) -> None:
        for node in fgraph.toposort():
            if isinstance(node.op, CONVOLUTIONS) and node.op.convdim == 2:
                self.fuse(fgraph, node)

    def fuse(self, fgraph: gof.FunctionGraph, node: Any) -> None:
        """Fuse the convolution `node` with its bias and activation, if possible."""
        adding = only_client(fgraph, node.outputs[0])
        if adding is None or not is_elemwise(adding, scalar.Add) or len(adding.inputs) != 2:
            return
        bias = bias_vector(adding.inputs[1 - adding.inputs.index(node.outputs[0])])
        if bias is None or adding.outputs[0].type != node.outputs[0].type or \
                bias.broadcastable[0] != node.outputs[0].broadcastable[1]:
            return
        last, activation = adding, None
        activating = only_client(fgraph, adding.outputs[0])
        if activating is not None and isinstance(activating.op, elemwise.Elemwise) and \
                lower_activation(activating.op.scalar_op) and activating.outputs[0].type == adding.outputs[0].type:
            last, activation = activating, activating.op.scalar_op
        fused = ConvBiasActivation(node.op, activation)(*node.inputs, bias)
        fgraph.replace(last.outputs[0], fused, reason='fuse_convolutions')


def only_client(fgraph: gof.FunctionGraph, var: Any) -> Any:
    """The only node that uses `var`, or None."""
    clients = fgraph.clients(var) if callable(getattr(fgraph, 'clients', None)) else var.clients
    return clients[0][0] if len(clients) == 1 and clients[0][0] != 'output' else None


def is_elemwise(node: Any, kind: type) -> bool:
    """Whether `node` is an Elemwise of a scalar op of the class `kind`."""
    return isinstance(node.op, elemwise.Elemwise) and isinstance(node.op.scalar_op, kind)


def bias_vector(var: Any) -> Any:
    """The vector that `var` broadcasts as (1, C, 1, 1); None if `var` is anything else."""
    node = var.owner
    if node is not None and isinstance(node.op, elemwise.DimShuffle) and \
            tuple(node.op.new_order) == ('x', 0, 'x', 'x') and node.inputs[0].ndim == 1:
        return node.inputs[0]
    return None


theano.compile.optdb.register('torch_fuse_convolutions', FuseConvolutions(), 49.2, 'torch')
