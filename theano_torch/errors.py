"""Errors that name the Theano node in which they happened, as Theano's own linkers do."""

import contextlib
import types

from theano.gof.link import raise_with_op

from theano_torch.registry import UnsupportedOp


@contextlib.contextmanager
def naming(node, arguments):
    """Add `node` and the shapes of `arguments` to the message of an exception that is raised inside."""
    try:
        yield
    except UnsupportedOp:
        raise               # Names the node already.
    except Exception:
        raise_naming(node, arguments)


def raise_naming(node, arguments):
    """Raise the exception that is being handled again, with `node` and the shapes of `arguments` in its message."""
    cells = [[types.SimpleNamespace(shape=tuple(value.shape), strides=strides(value)) if hasattr(value, 'shape')
              else value] for value in arguments]
    raise_with_op(node, types.SimpleNamespace(inputs=cells, outputs=[]))


def strides(value):
    """Strides in bytes, of a tensor or an ndarray."""
    if hasattr(value, 'strides'):
        return value.strides
    return tuple(step * value.element_size() for step in value.stride())
