"""OpFromGraph as the graph that it stands for: it runs on the device, and its parts are rewritten like all others.

Theano expands it only where its user asks for that, and runs a compiled function of its own otherwise. Gradients that
its user has given are in the graph already: Theano differentiates before it compiles.
"""

from typing import Any

import theano
from theano import gof
from theano.compile.builders import OpFromGraph


@gof.local_optimizer([OpFromGraph])
def expand(node: Any) -> list | bool:
    """The outputs of the inner graph, computed from the inputs of the node."""
    if not isinstance(node.op, OpFromGraph):
        return False
    return theano.clone(node.op.local_outputs, dict(zip(node.op.local_inputs, node.inputs, strict=True)))


# Before anything else, as Theano's own expansion.
theano.compile.optdb.register('torch_expand_graphs', gof.opt.in2out(expand), -0.01, 'torch')
