"""Errors that name the Theano node in which they happened, as Theano's own linkers do, and one that asks for a new try.
"""

import contextlib
import functools
import logging
import types
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from theano_torch.registry import UnsupportedOp

from theano.gof.link import raise_with_op


logger = logging.getLogger('theano_torch')


class WrongShapes(Exception):
    """A shape that depends on values differs from the one that the program was made for: another program is needed."""


@contextlib.contextmanager
def naming(node: Any, arguments: Sequence) -> Iterator[None]:
    """Add `node` and the shapes of `arguments` to the message of an exception that is raised inside."""
    try:
        yield
    except UnsupportedOp:
        raise               # Names the node already.
    except Exception:
        raise_naming(node, arguments)


def raise_naming(node: Any, arguments: Sequence) -> NoReturn:     # type: ignore[misc]  # raise_with_op raises.
    """Raise the exception that is being handled again, with `node` and the shapes of `arguments` in its message."""
    cells = [[types.SimpleNamespace(shape=tuple(value.shape), strides=strides(value)) if hasattr(value, 'shape')
              else value] for value in arguments]
    raise_with_op(node, types.SimpleNamespace(inputs=cells, outputs=[]))


def strides(value: Any) -> tuple[int, ...]:
    """Strides in bytes, of a tensor or an ndarray."""
    if hasattr(value, 'strides'):
        return value.strides
    return tuple(step * value.element_size() for step in value.stride())


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, but the same one only once."""
    logger.warning(message)
