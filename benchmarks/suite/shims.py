"""Replacements for the names of nose, parameterized, and older NumPy and Python versions that Theano's tests import.

:func:`install` makes them importable.
"""

import inspect
import re
import sys
import types
import unittest
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np


class Param(NamedTuple):
    """The arguments of a parametrized test."""

    args: tuple


def without_signature(run: Callable, function: Callable) -> Callable:
    """`run` with the name of `function`, without its signature: pytest would take the parameters for fixtures."""
    run.__name__, run.__doc__, run.__module__ = function.__name__, function.__doc__, function.__module__
    return run


def expand(values: Iterable, name_func: Callable | None = None, testcase_func_name: Callable | None = None) -> Callable:
    """``parameterized.expand``: add a test per value to the class or module of the decorated function."""
    naming = name_func or testcase_func_name or (lambda function, number, param: f'{function.__name__}_{number}')

    def decorate(function: Callable) -> None:
        namespace = sys._getframe(1).f_locals
        is_method = '__qualname__' in namespace     # Only class bodies define it.
        for number, value in enumerate(values):
            arguments = tuple(value) if isinstance(value, tuple | list) else (value,)
            test = called_with(function, arguments, is_method)
            test.__name__ = naming(function, number, Param(arguments))
            namespace[test.__name__] = test
    return decorate


def called_with(function: Callable, arguments: tuple, is_method: bool) -> Callable:
    """A test without parameters that calls `function` with `arguments`."""
    def method(self: Any) -> None:
        function(self, *arguments)

    def test() -> None:
        function(*arguments)
    return without_signature(method if is_method else test, function)


def raises(*kinds: type[Exception]) -> Callable:
    """``nose.tools.raises``: the decorated test must raise one of `kinds`."""
    def decorate(function: Callable) -> Callable:
        def method(self: Any) -> None:
            with unittest.TestCase().assertRaises(kinds):
                function(self)
        return without_signature(method, function)
    return decorate


def skip_if(condition: Any, message: str = 'skipped') -> Callable:
    """``numpy.testing.dec.skipif``."""
    return unittest.skipIf(condition() if callable(condition) else condition, message)


def getargspec(function: Callable) -> tuple:
    """``inspect.getargspec``."""
    return inspect.getfullargspec(function)[:4]


def install() -> None:
    """Make the replacements importable in this process."""
    check = unittest.TestCase()
    tools = dict(assert_raises=check.assertRaises, assert_true=check.assertTrue, assert_equal=check.assertEqual,
                 assert_equals=check.assertEqual, raises=raises)
    parameterized = types.SimpleNamespace(expand=expand, to_safe_name=lambda text: re.sub('[^a-zA-Z0-9_]+', '_', text))
    contents: dict[str, dict] = {
        'nose': {}, 'nose.plugins': {}, 'nose.tools': tools,
        'nose.plugins.skip': dict(SkipTest=unittest.SkipTest),
        'nose.plugins.attrib': dict(attr=lambda *tags: lambda function: function),
        'parameterized': dict(parameterized=parameterized),
    }
    for name, names in contents.items():
        module = sys.modules[name] = types.ModuleType(name, 'Stand-in for Theano\'s tests.')
        module.__dict__.update(names)
    if not hasattr(np.testing, 'dec'):
        np.testing.dec = types.SimpleNamespace(skipif=skip_if, knownfailureif=skip_if, slow=lambda function: function)
    if not hasattr(inspect, 'getargspec'):
        inspect.getargspec = getargspec
