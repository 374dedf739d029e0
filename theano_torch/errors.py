"""Errors like Theano's: their messages name the node, and mismatched shapes raise ValueError.

In addition, `WrongShapes` requests another program.
"""

import contextlib
import functools
import logging
import os
import re
import types
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from theano_torch.registry import UnsupportedOp

import numpy as np
import torch
from theano.gof.link import raise_with_op

logger = logging.getLogger('theano_torch')

# Words in torch's RuntimeErrors about shapes and values, and in those about the machine.
ABOUT_VALUES = re.compile('size|shape|dimension|bounds|range|index|elements|channels|negative|must match|broadcast')
ABOUT_DEVICES = re.compile('CUDA|cuDNN|CUDNN|cuBLAS|CUBLAS|NCCL|gloo|INTERNAL ASSERT|primitive')
OWN_FOLDERS = tuple(os.path.dirname(file) + os.sep for file in (__file__, torch.__file__))


class WrongShapes(Exception):
    """A shape that depends on values differs from that of the program, so another program is needed.

    Parameters
    ----------
    found : dict, optional
        Node -> shapes of its outputs in the current call.
    """

    def __init__(self, found: dict | None = None) -> None:
        super().__init__()
        self.found = found or {}


@contextlib.contextmanager
def naming(node: Any, arguments: Sequence) -> Iterator[None]:
    """Add `node` and the shapes of `arguments` to the message of any exception in the block."""
    try:
        yield
    except UnsupportedOp:
        raise               # The message already names the node.
    except Exception:
        raise_naming(node, arguments)


def raise_naming(node: Any, arguments: Sequence) -> NoReturn:     # type: ignore[misc]  # raise_with_op raises.
    """Raise the current exception again, with `node` and the shapes of `arguments` in its message."""
    cells = [[types.SimpleNamespace(shape=tuple(value.shape), strides=strides(value))
              if isinstance(value, torch.Tensor | np.ndarray | np.generic) else value] for value in arguments]
    raise_with_op(node, types.SimpleNamespace(inputs=cells, outputs=[]))


def is_about_values(error: RuntimeError) -> bool:
    """Whether torch's error is about mismatched shapes or values, for which Theano raises ValueError.

    False for errors about the machine and for errors raised by users' code.
    """
    text, last = str(error), error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    is_torchs = type(error) is RuntimeError and last is not None and \
        last.tb_frame.f_code.co_filename.startswith(OWN_FOLDERS)
    return is_torchs and not ABOUT_DEVICES.search(text) and \
        ABOUT_VALUES.search(text.partition('Apply node')[0]) is not None


def strides(value: torch.Tensor | np.ndarray | np.generic) -> tuple[int, ...]:
    """Strides in bytes."""
    if isinstance(value, torch.Tensor):
        return tuple(step * value.element_size() for step in value.stride())
    return value.strides


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, but each message only once."""
    logger.warning(message)
