"""Functions of `tfutil_shim`: names, small expressions, evaluation and assignment.

`tfutil_shim` imports everything here; other modules import it from there.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import theano
import theano.tensor as T

import theano_env

MAX_COMPILED = 64                       # Number of compiled functions that `run` keeps.
TF_OPTIONS = {      # Fields of TensorFlow's session options, and environment variables, that `init_tf` accepts.
    'allow_soft_placement', 'cluster_def', 'device_count', 'device_filters', 'env', 'gpu_options', 'graph_options',
    'inter_op_parallelism_threads', 'intra_op_parallelism_threads', 'isolate_session_state',
    'log_device_placement', 'operation_timeout_in_ms', 'placement_period', 'rpc_options',
    'session_inter_op_thread_pool', 'share_cluster_devices_in_session', 'use_per_session_threads'}


# ----------------------------------------------------------------------------------------------------------------------
# Small expressions on Theano expressions or arrays.


def is_tf_expression(x: Any) -> bool:
    """Whether `x` is a symbolic Theano expression."""
    return isinstance(x, theano.gof.Variable)


def shape_to_list(shape: Iterable) -> list[int | None]:
    """A static shape as a list of int or None."""
    return [None if size is None else int(size) for size in shape]


def flatten(x):
    """Flatten `x` to a vector."""
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
    """`lerp` with t clipped to [0, 1]."""
    return a + (b - a) * (T.clip(t, 0.0, 1.0) if is_tf_expression(t) else np.clip(t, 0.0, 1.0))


def absolute_name_scope(scope: str) -> contextlib.AbstractContextManager[str]:
    """A context manager that does nothing, because Theano's variables have no scopes."""
    return contextlib.nullcontext(scope)


# ----------------------------------------------------------------------------------------------------------------------
# Evaluation and assignment.


def init_tf(config_dict: dict | None = None) -> theano_env.Environment:
    """Configure engine and flags: {'engine': ..., THEANO_FLAG: VALUE, ...}; see :func:`theano_env.configure`.

    TensorFlow's options, such as ``'gpu_options.allow_growth'``, are ignored.
    """
    flags = {name: value for name, value in (config_dict or {}).items() if name.split('.')[0] not in TF_OPTIONS}
    return theano_env.configure(flags.pop('engine', 'auto'), flags)


def init_uninited_vars(vars: Iterable | None = None) -> None:
    """Does nothing, because shared variables always have a value."""


class Updates(OrderedDict):
    """{shared variable: new value} that `run` carries out like an op of TensorFlow, unlike a plain dict."""


class _Evaluator:
    """Compiles the requests to `run`, once for each set of expressions."""

    def __init__(self):
        self._compiled = OrderedDict()      # {key: (function, fetched and fed objects)}, most recently used last.

    def run(self, fetches, feed_dict=None):
        """Evaluate expressions and carry out updates.

        Parameters
        ----------
        fetches : expression, Updates, or nested lists, tuples and dicts of them
            `Updates` are results of the methods `apply_updates` and `setup_as_moving_average_of`; all updates of a call
            happen simultaneously. Keys of dicts may be any objects.
        feed_dict : dict or None
            {input, shared variable or other expression: value to use in its place}.

        Returns
        -------
        The structure of `fetches` with arrays in place of expressions and None in place of updates.

        Notes
        -----
        The first call with given expressions compiles them, which takes seconds for a network; later calls with the
        same objects do not.
        """
        theano_env.ensure_configured()
        feed_dict = feed_dict or {}
        leaves = []
        structure = _collect_fetches(fetches, leaves)
        objects = [*leaves, *(obj for leaf in leaves if isinstance(leaf, Updates) for pair in leaf.items()
                              for obj in pair), *feed_dict]
        # The cache keeps the objects alive, so that an id in a key always means the same object.
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
    """Append the expressions and updates in `fetches` to `leaves`; return the same structure with their indices."""
    if isinstance(fetches, (list, tuple)):
        return type(fetches)([_collect_fetches(fetch, leaves) for fetch in fetches])
    if isinstance(fetches, dict) and not isinstance(fetches, Updates):
        return {name: _collect_fetches(fetch, leaves) for name, fetch in fetches.items()}
    if not isinstance(fetches, Updates) and not is_tf_expression(fetches):
        raise TypeError(f'run: cannot evaluate {fetches!r}; give Theano expressions, updates, or lists and dicts of '
                        'these')
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
                raise ValueError(f'run: two updates of the variable {var} in the same call')
    # Shared variables cannot be inputs of a function, so an input of the same type replaces each.
    stand_ins = [var.type() if isinstance(var, theano.compile.SharedVariable) else var for var in fed]
    givens = [(var, stand_in) for var, stand_in in zip(fed, stand_ins, strict=True) if var is not stand_in]
    with theano_env.COMPILING:
        return theano.function(stand_ins, [leaf for leaf in leaves if not isinstance(leaf, Updates)], updates=updates,
                               givens=givens, on_unused_input='ignore')


run = _Evaluator().run


def set_vars(var_to_value: Mapping) -> None:
    """Assign {shared variable: array or number}; values are cast to the variable's dtype and must have its shape."""
    for var, value in var_to_value.items():
        value = np.asarray(value, dtype=var.dtype)
        shape = var.get_value(borrow=True).shape
        if value.shape != shape:
            raise ValueError(f'{var.name}: cannot assign a value of shape {value.shape!r} to a variable of shape '
                             f'{shape!r}')
        var.set_value(value)
