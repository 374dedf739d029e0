"""A network's variables with the interface of the 2018 release: static shapes, and several names each."""

import functools
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np

SESSION_WORDS = {       # Attributes of TensorFlow's variables that do not exist here, and what to use instead.
    'op': 'there are no op attributes: networks store their variables by name, net.vars[NAME] and '
          'net.get_var_localname(var)',
    'initializer': 'shared variables always hold a value: net.reset_vars() draws new ones',
    'assign': 'write net.set_var(var, value), tfutil.set_vars({var: value}), or var.set_value(value)',
    'assign_add': 'write var.set_value(var.get_value() + value)',
    'assign_sub': 'write var.set_value(var.get_value() - value)',
    'load': 'there are no sessions: write var.set_value(value)',
    'read_value': 'write var.get_value(), or use the variable itself in expressions',
    'graph': 'there are no graphs to select',
}


class Shape(tuple):
    """Shape of a variable; equals tuples and lists with the same sizes."""

    ndims = property(len)

    def as_list(self) -> list[int]:
        return list(self)

    def num_elements(self) -> int:
        return int(np.prod(self, dtype=np.int64))

    def eval(self) -> np.ndarray:
        """Like the symbolic shape of other Theano variables."""
        return np.array(self, dtype=np.int64)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple | list) and tuple(self) == tuple(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


def shape_of(variable: Any) -> Shape:
    """Shape of a shared variable, without transferring its value from a GPU."""
    return Shape(variable.get_value(borrow=True, return_internal_type=True).shape)


class _Static:
    """Mixin that gives a shared variable's shape as a tuple of numbers, as in TensorFlow, instead of a symbol."""

    @property
    def shape(self) -> Shape:
        return shape_of(self)

    def get_shape(self) -> Shape:
        return self.shape

    def __getattr__(self, name: str) -> Any:
        reason = f': {SESSION_WORDS[name]}' if name in SESSION_WORDS else ''
        raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}{reason}')


@functools.cache
def _static_class(cls):
    return type('Network' + cls.__name__, (_Static, cls), {'__module__': __name__})


def fix_shape(variable: Any) -> None:
    """Make the shape of a shared variable static; it remains the same object."""
    if not isinstance(variable, _Static):
        variable.__class__ = _static_class(type(variable))      # type: ignore[arg-type]


class Variables(OrderedDict):
    """{local name: shared variable}, with lookup by other names, too.

    The other names are those of the 2018 release: ``'lod'`` for ``'cur_lod'``, ``'SCOPE/NAME'``, and both with
    ``':0'``. Iteration and `len` use only local names.

    Parameters
    ----------
    scope : str
        Name of the network.
    items : iterable of (str, shared variable)
    """

    def __init__(self, scope: str = '', items: Iterable[tuple[str, Any]] = ()) -> None:
        self.scope = scope
        super().__init__(items)

    def local_name(self, name: object) -> str | None:
        """Local name of the variable with the given name; None if there is none."""
        if not isinstance(name, str):
            return None
        for text in (name, name.removesuffix(':0')):
            for local in (text, text.removeprefix(self.scope + '/')):
                for known in (local, 'cur_lod' if local == 'lod' else local):
                    if super().__contains__(known):
                        return known
        return None

    def __missing__(self, name: object) -> Any:
        local = self.local_name(name)
        if local is None:
            raise KeyError(name)
        return self[local]

    def __contains__(self, name: object) -> bool:
        return self.local_name(name) is not None

    def get(self, name: Any, default: Any = None) -> Any:
        return self[name] if name in self else default
