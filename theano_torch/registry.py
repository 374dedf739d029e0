"""How an op becomes PyTorch calls: two registries, usable without PyTorch."""

import functools


class UnsupportedOp(NotImplementedError):
    """The engine has no lowering for an op of the graph."""


@functools.singledispatch
def lower(op, node, build):
    """Return a function from the tensors of `node`'s inputs to its output tensor (or a tuple of them).

    Parameters
    ----------
    op : theano.gof.Op
        What is dispatched on.
    node : theano.gof.Apply
        The op with its input and output variables: dtypes, broadcastable dimensions.
    build : program.Build
        ``build.host(variable)`` is a value known on the host (shapes, indices) as an ndarray.
    """
    raise UnsupportedOp('theano_torch cannot run %s (%s) in the node %s. Register a lowering: @theano_torch.lower.register('
                        '%s)' % (op, type(op).__module__, node, type(op).__name__))


@functools.singledispatch
def lower_scalar(op, node):
    """Return a function from tensors to a tensor that applies the scalar op `op` element by element.

    `node` is the Apply node with the dtypes of inputs and output. The tensors arrive broadcastable to each other; all
    but one may also be Python numbers. The result is cast to the output's dtype by the caller.
    """
    raise UnsupportedOp('theano_torch cannot run the scalar op %s (%s). Register a lowering: @theano_torch.lower_scalar.'
                        'register(%s)' % (op, type(op).__module__, type(op).__name__))
