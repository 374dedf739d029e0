"""Changed defaults, and how to interpret files that were written before the change.

Files store the options that were given, not the defaults. When a default changes, new network pickles store the option
explicitly, and new run folders record that they know the change. Files with neither use the earlier default.
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
    """Options of a function as stored in a file, completed by the earlier defaults.

    `known` lists the entries of :data:`CHANGED` that had already changed when the file was written.
    """
    earlier = {option: default for option, default in EARLIER.get(func_name, {}).items()
               if f'{func_name}.{option}' not in known}
    return {**earlier, **options}


def spelled_out(func_name: str, func: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a function to store in a file, including the present values of options with changed defaults."""
    changed = EARLIER.get(func_name)
    if not changed:
        return dict(options)
    defaults = defaults_of(func)
    return {**{name: defaults[name] for name in changed}, **options}
