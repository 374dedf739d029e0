"""From the dotted name of a function, as configs and files store it, to the function."""

import importlib
import inspect
import pathlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from common.errors import UserError, did_you_mean

MODULE_ALIASES = {'np': 'numpy'}        # Short names of modules that the release's configurations use.


def import_module(module_or_obj_name: str) -> tuple[ModuleType, str]:
    """Import the module in a dotted name: ``'networks.G_paper'`` -> (module `networks`, ``'G_paper'``).

    Returns
    -------
    module
    str
        The rest of the name, '' where the name is that of a module.

    Raises
    ------
    UserError
        There is no such module.
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
            # Only the named module itself may be missing, not something that it imports.
            if error.name is None or not (module_name + '.').startswith(error.name + '.'):
                raise
    raise UserError(f'{module_or_obj_name!r}: there is no module {parts[0]!r}; write MODULE.NAME, for example '
                    f'{"networks.G_paper"!r}')


def _import_once(module_name):
    """Import a module; the script that is running, if it is that one, so that it is not loaded a second time."""
    main = sys.modules['__main__']
    if pathlib.Path(getattr(main, '__file__', None) or '').stem == module_name and main.__spec__ is None:
        return main
    return importlib.import_module(module_name)


def find_obj_in_module(module: ModuleType, relative_obj_name: str) -> Any:
    """The object with the dotted name `relative_obj_name` in a module; the module itself for ''.

    Raises
    ------
    UserError
        There is no such object; the message has the nearest name.
    """
    obj, name = module, module.__name__
    for part in relative_obj_name.split('.') if relative_obj_name else []:
        if not hasattr(obj, part):
            raise UserError(f'{module.__name__ + "." + relative_obj_name!r}: there is no {part!r} in '
                            f'{name}{did_you_mean(part, dir(obj))}')
        obj, name = getattr(obj, part), name + '.' + part
    return obj


def import_obj(name: str) -> Any:
    """The object with the dotted name `name`, for example ``'networks.G_paper'``.

    Raises
    ------
    UserError
        There is no such module or object; the message has the nearest name.
    """
    if '.' not in str(name):
        raise UserError(f"{name!r}: write MODULE.NAME, for example 'networks.G_paper'")
    return find_obj_in_module(*import_module(name))


def call_func_by_name(*args: Any, func: str | Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Call `func`, a dotted name or a callable, with the other arguments; returns what it returns."""
    if func is None:
        raise UserError("func=None: give the function to call, for example func='networks.G_paper'")
    return (func if callable(func) else import_obj(func))(*args, **kwargs)


def defaults_of(func: Callable) -> dict[str, Any]:
    """{parameter: default} of a function; a parameter without one has `inspect.Parameter.empty`."""
    return {name: parameter.default for name, parameter in inspect.signature(func).parameters.items()}
