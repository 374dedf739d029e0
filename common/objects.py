"""Find functions by dotted names, which configurations and files store."""

import importlib
import inspect
import pathlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from common.errors import UserError, did_you_mean

MODULE_ALIASES = {'np': 'numpy'}        # Abbreviated module names in the releases' configurations.


def import_module(module_or_obj_name: str) -> tuple[ModuleType, str]:
    """Import the module of a dotted name: ``'networks.G_paper'`` -> (module `networks`, ``'G_paper'``).

    Returns
    -------
    module
    str
        The rest of the name; '' if the name is only a module.

    Raises
    ------
    UserError
        The module does not exist.
    """
    parts = str(module_or_obj_name).split('.')
    if not all(part.isidentifier() for part in parts):
        raise UserError(f"{module_or_obj_name!r}: write MODULE.NAME, for example 'networks.G_paper'")
    parts[0] = MODULE_ALIASES.get(parts[0], parts[0])
    for num_modules in range(len(parts), 0, -1):
        module_name = '.'.join(parts[:num_modules])
        try:
            return _import_once(module_name), '.'.join(parts[num_modules:])
        except ModuleNotFoundError as error:
            # Only the module itself may be missing, not one that it imports.
            if error.name is None or not (module_name + '.').startswith(error.name + '.'):
                raise
    raise UserError(f'{module_or_obj_name!r}: there is no module {parts[0]!r}; write MODULE.NAME, for example '
                    f'{"networks.G_paper"!r}')


def _import_once(module_name):
    """Import a module. For the running script, return ``__main__`` instead of loading it a second time."""
    main = sys.modules['__main__']
    if pathlib.Path(getattr(main, '__file__', None) or '').stem == module_name and main.__spec__ is None:
        return main
    return importlib.import_module(module_name)


def find_obj_in_module(module: ModuleType, relative_obj_name: str) -> Any:
    """Find an object by its dotted name within a module; '' is the module itself.

    Raises
    ------
    UserError
        The object does not exist; the message suggests the most similar name.
    """
    obj, name = module, module.__name__
    for part in relative_obj_name.split('.') if relative_obj_name else []:
        if not hasattr(obj, part):
            raise UserError(f'{module.__name__ + "." + relative_obj_name!r}: there is no {part!r} in '
                            f'{name}{did_you_mean(part, dir(obj))}')
        obj, name = getattr(obj, part), name + '.' + part
    return obj


def import_obj(name: str) -> Any:
    """Import an object by its dotted name, for example ``'networks.G_paper'``.

    Raises
    ------
    UserError
        The module or object does not exist; the message suggests the most similar name.
    """
    if '.' not in str(name):
        raise UserError(f"{name!r}: write MODULE.NAME, for example 'networks.G_paper'")
    return find_obj_in_module(*import_module(name))


def call_func_by_name(*args: Any, func: str | Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Call `func`, a callable or its dotted name, with the other arguments, and return its result."""
    if func is None:
        raise UserError("func=None: give the function to call, for example func='networks.G_paper'")
    return (func if callable(func) else import_obj(func))(*args, **kwargs)


def defaults_of(func: Callable) -> dict[str, Any]:
    """{parameter: default} of a function; `inspect.Parameter.empty` for parameters without a default."""
    return {name: parameter.default for name, parameter in inspect.signature(func).parameters.items()}
