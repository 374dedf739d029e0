"""Defaults that have changed, and what files mean that were written before.

Pickles of networks and ``config.txt`` hold the options that were given, not the defaults. Where a default changes, new
files spell the option out, and a file without it means the earlier value.
"""

from collections.abc import Callable, Mapping
from typing import Any

from common.objects import defaults_of

EARLIER: dict[str, dict[str, Any]] = {      # {function: {option: default until it changed}}
    'networks.G_mnist_mode_recovery': {'fmap_base': 4096, 'label_size': 0},
    'networks.D_mnist_mode_recovery': {'fmap_base': 4096, 'label_size': 0},
    'train.train_gan': {'gdrop_coef': 0.2},
}


def as_written(func_name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a function out of a file, with the earlier defaults of those that it lacks."""
    return {**EARLIER.get(func_name, {}), **options}


def spelled_out(func_name: str, func: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a function for a file: with the present value of those whose default has changed."""
    changed = EARLIER.get(func_name)
    if not changed:
        return dict(options)
    defaults = defaults_of(func)
    return {**{name: defaults[name] for name in changed}, **options}
