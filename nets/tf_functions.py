"""The functions of `tfutil_shim`: objects by name, small expressions, and evaluating and assigning.

Everything here is imported by `tfutil_shim`, which is the name that other modules use.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import theano
import theano.tensor as T

import theano_env

MAX_COMPILED = 64                       # Functions that `run` keeps.
TF_OPTIONS = {      # Fields of TensorFlow's session options, and the environment that `init_tf` set.
    'allow_soft_placement', 'cluster_def', 'device_count', 'device_filters', 'env', 'gpu_options', 'graph_options',
    'inter_op_parallelism_threads', 'intra_op_parallelism_threads', 'isolate_session_state',
    'log_device_placement', 'operation_timeout_in_ms', 'placement_period', 'rpc_options',
    'session_inter_op_thread_pool', 'share_cluster_devices_in_session', 'use_per_session_threads'}


# ----------------------------------------------------------------------------------------------------------------------
# Small expressions, on Theano expressions or arrays.


def is_tf_expression(x: Any) -> bool:
    """Whether `x` is a symbolic (Theano) expression."""
    return isinstance(x, theano.gof.Variable)


def shape_to_list(shape: Iterable) -> list[int | None]:
    """[int or None, ...] of a static shape."""
    return [None if size is None else int(size) for size in shape]


def flatten(x):
    """`x` as a vector."""
    return x.flatten()


def log2(x):
    """Binary logarithm."""
    return (T.log if is_tf_expression(x) else np.log)(x) * float(1.0 / np.log(2.0))


def exp2(x):
    """2 to the power of `x`."""
    return (T.exp if is_tf_expression(x) else np.exp)(x * float(np.log(2.0)))


def lerp(a, b, t):
    """Linear interpolation: `a` for t = 0, `b` for t = 1."""
    return a + (b - a) * t


def lerp_clip(a, b, t):
    """`lerp` with t clipped to 0..1."""
    return a + (b - a) * (T.clip(t, 0.0, 1.0) if is_tf_expression(t) else np.clip(t, 0.0, 1.0))


def absolute_name_scope(scope: str) -> contextlib.AbstractContextManager[str]:
    """A context manager that does nothing: Theano's variables have the names that they are given."""
    return contextlib.nullcontext(scope)


# ----------------------------------------------------------------------------------------------------------------------
# Evaluating and assigning.


def init_tf(config_dict: dict | None = None) -> theano_env.Environment:
    """Choose engine and flags: {'engine': ..., THEANO_FLAG: VALUE, ...}; see :func:`theano_env.configure`.

    TensorFlow's own options, ``'gpu_options.allow_growth'`` and so on, have no meaning here and are passed over.
    """
    flags = {name: value for name, value in (config_dict or {}).items() if name.split('.')[0] not in TF_OPTIONS}
    return theano_env.configure(flags.pop('engine', 'auto'), flags)


def init_uninited_vars(vars: Iterable | None = None) -> None:
    """Does nothing: shared variables have a value from the beginning."""


class Updates(OrderedDict):
    """{shared variable: new value}: what `run` carries out, as TensorFlow an op. A plain dict of expressions is not."""


class _Evaluator:
    """Compiles what `run` is asked for, once as long as it is asked for the same expressions."""

    def __init__(self):
        self._compiled = OrderedDict()      # {key: (function, fetched and fed objects)}, the last used at the end.

    def run(self, fetches, feed_dict=None):
        """Evaluate expressions and carry out updates.

        Parameters
        ----------
        fetches : expression, Updates, or nested lists, tuples and dicts of them
            `Updates` are what the methods `apply_updates` and `setup_as_moving_average_of` return; all those of one
            call are carried out at the same moment. Keys of dicts may be anything.
        feed_dict : dict or None
            {input, shared variable or other expression: value to use instead}.

        Returns
        -------
        The structure of `fetches` with arrays in it, None where it had updates.

        Notes
        -----
        The first call with some expressions compiles them, which takes seconds for a network; later calls with the
        very same objects do not.
        """
        theano_env.ensure_configured()
        feed_dict = feed_dict or {}
        leaves = []
        structure = _collect_fetches(fetches, leaves)
        objects = [*leaves, *(obj for leaf in leaves if isinstance(leaf, Updates) for pair in leaf.items()
                              for obj in pair), *feed_dict]
        # The kept objects make sure that an id means the same object as long as it is in a key.
        key = (*map(id, objects), len(feed_dict), theano.config.mode, theano.config.floatX)
        if key not in self._compiled:
            self._compiled[key] = _compile(leaves, list(feed_dict)), objects
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        function, _objects = self._compiled[key]
        arrays = iter(function(*[np.asarray(value, dtype=var.dtype) for var, value in feed_dict.items()]))
        values = [None if isinstance(leaf, Updates) else next(arrays) for leaf in leaves]
        return _fill(structure, values)


def _collect_fetches(fetches, leaves):
    """Put the expressions and updates in `fetches` into the list `leaves`; the same structure with their indices."""
    if isinstance(fetches, (list, tuple)):
        return type(fetches)([_collect_fetches(fetch, leaves) for fetch in fetches])
    if isinstance(fetches, dict) and not isinstance(fetches, Updates):
        return {name: _collect_fetches(fetch, leaves) for name, fetch in fetches.items()}
    if not isinstance(fetches, Updates) and not is_tf_expression(fetches):
        raise TypeError(f'run: cannot evaluate {fetches!r}: need Theano expressions, updates, or lists and dicts of '
                        'them')
    leaves.append(fetches)
    return len(leaves) - 1


def _fill(structure, values):
    if isinstance(structure, dict):
        return {name: _fill(part, values) for name, part in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)([_fill(part, values) for part in structure])
    return values[structure]


def _compile(leaves, fed):
    updates = OrderedDict()
    for leaf in leaves:
        for var, value in leaf.items() if isinstance(leaf, Updates) else ():
            if updates.setdefault(var, value) is not value:
                raise ValueError(f'run: two updates of the variable {var} in one call')
    # A shared variable is no input of a function; something else stands for it.
    stand_ins = [var.type() if isinstance(var, theano.compile.SharedVariable) else var for var in fed]
    givens = [(var, stand_in) for var, stand_in in zip(fed, stand_ins, strict=True) if var is not stand_in]
    with theano_env.COMPILING:
        return theano.function(stand_ins, [leaf for leaf in leaves if not isinstance(leaf, Updates)], updates=updates,
                               givens=givens, on_unused_input='ignore')


run = _Evaluator().run


def set_vars(var_to_value: Mapping) -> None:
    """Assign {shared variable: array or number}; each value gets the variable's dtype and must have its shape."""
    for var, value in var_to_value.items():
        value = np.asarray(value, dtype=var.dtype)
        shape = var.get_value(borrow=True).shape
        if value.shape != shape:
            raise ValueError(f'{var.name}: cannot assign a value of shape {value.shape!r} to a variable of shape '
                             f'{shape!r}')
        var.set_value(value)
