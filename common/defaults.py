"""Defaults that have changed, and what files mean that were written before.

Files hold the options that were given, not the defaults. Where a default changes, new pickles of networks spell the
option out, and new folders of runs say that they know of the change; a file that does neither means the earlier value.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from common.objects import defaults_of

EARLIER: dict[str, dict[str, Any]] = {      # {function: {option: default until it changed}}
    'networks.G_mnist_mode_recovery': {'fmap_base': 4096, 'label_size': 0},
    'networks.D_mnist_mode_recovery': {'fmap_base': 4096, 'label_size': 0},
    'train.train_gan': {'gdrop_coef': 0.2},
}


CHANGED = sorted(f'{func}.{option}' for func, options in EARLIER.items() for option in options)


def as_written(func_name: str, options: Mapping[str, Any], known: Collection[str] = ()) -> dict[str, Any]:
    """The options of a function out of a file, with the earlier defaults of those that it lacks.

    `known` are those of :data:`CHANGED` that had changed when it was written.
    """
    earlier = {option: default for option, default in EARLIER.get(func_name, {}).items()
               if f'{func_name}.{option}' not in known}
    return {**earlier, **options}


def spelled_out(func_name: str, func: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a function for a file: with the present value of those whose default has changed."""
    changed = EARLIER.get(func_name)
    if not changed:
        return dict(options)
    defaults = defaults_of(func)
    return {**{name: defaults[name] for name in changed}, **options}
