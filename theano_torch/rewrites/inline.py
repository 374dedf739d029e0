"""Expand OpFromGraph into its inner graph, so that it runs on the device and is rewritten like all other nodes.

By default Theano runs it as a separate compiled function. Expansion keeps the user's own gradients, because Theano
differentiates before it compiles.
"""

from typing import Any

import theano
from theano import gof
from theano.compile.builders import OpFromGraph


@gof.local_optimizer([OpFromGraph])
def expand(node: Any) -> list | bool:
    """Outputs of the inner graph, computed from the inputs of the node."""
    if not isinstance(node.op, OpFromGraph):
        return False
    return theano.clone(node.op.local_outputs, dict(zip(node.op.local_inputs, node.inputs, strict=True)))


# Before all other rewrites, like Theano's own expansion.
theano.compile.optdb.register('torch_expand_graphs', gof.opt.in2out(expand), -0.01, 'torch')
