"""Types for option values, and the one function that checks a value against its type.

Functions that are called from a configuration or a command line annotate their options with a plain type, a ``Literal``
or one of the types below. :func:`check_options` and :func:`parse_text` read the signature, and pydantic compares.
Nothing is converted: 'false' is not a boolean, 15.5 and True are not whole numbers.
"""

import ast
import collections.abc
import contextlib
import copy
import functools
import inspect
import os
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast

import numpy as np
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    PydanticUserError,
    Strict,
    TypeAdapter,
    ValidationError,
)

from common.errors import UserError, did_you_mean

Func = TypeVar('Func', bound=Callable)


class Allowed(NamedTuple):
    """Description of a type in messages: "must be ..."."""

    words: str


def _power_of_two(value: int) -> int:
    if value < 1 or value & (value - 1):
        raise ValueError('not a power of two')
    return value


def _all_different(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError('duplicates')
    return values


def _group_name(name: str) -> str:
    if not re.fullmatch('group[1-9][0-9]{0,5}', name):
        raise ValueError('unknown average')
    return name


def _file_name(text: str) -> str:
    if len(text) > 200 or any(character in '/\\' or ord(character) < 32 for character in text):
        raise ValueError('not a file name')
    return text


def _ordered(values: object) -> object:
    if not isinstance(values, list):    # _plain has turned tuples, ranges and arrays into lists.
        raise ValueError('not a list')
    return values


def _path_text(text: Any) -> str:
    # Names that are not UTF-8 contain surrogates, which pydantic's own text type rejects.
    if not isinstance(text, str) or not text:
        raise ValueError('not a name')
    return _plain_text(text)


def _plain_text(text: str) -> str:
    if '\0' in text:
        raise ValueError('contains a NUL character')
    return text


# ----------------------------------------------------------------------------------------------------------------------
# Types.

IN_ORDER = BeforeValidator(_ordered)    # For sequences.

PositiveInt = Annotated[int, Ge(1), Allowed('a whole number from 1')]
NonNegativeInt = Annotated[int, Ge(0), Allowed('a whole number from 0')]
Size = Annotated[int, Ge(1), Le(2 ** 20), Allowed('a whole number from 1 to 1048576')]
Zoom = Annotated[int, Ge(1), Le(256), Allowed('a whole number from 1 to 256')]
FramesPerSecond = Annotated[int, Ge(1), Le(1000), Allowed('a whole number from 1 to 1000')]
Threads = Annotated[int, Ge(1), Le(1024), Allowed('a whole number from 1 to 1024')]
PowerOfTwo = Annotated[int, Ge(1), Le(2 ** 20), AfterValidator(_power_of_two),
                       Allowed('a power of two, for example 64')]
NetResolution = Annotated[int, Ge(4), Le(2 ** 20), AfterValidator(_power_of_two),
                          Allowed('a power of two of at least 4, for example 64')]
Seed = Annotated[int, Ge(0), Le(2 ** 32 - 1), Allowed('a whole number from 0 to 4294967295')]
Ticks = Annotated[int, Ge(0), Allowed('a whole number of ticks, 0 for never')]

Number = Annotated[float, Ge(-1e30), Le(1e30), Allowed('a number')]
Positive = Annotated[float, Gt(0), Le(1e30), Allowed('a number above 0')]
Factor = Annotated[bool | Positive, Allowed('a number above 0, True for 1 or False for none')]
NonNegative = Annotated[float, Ge(0), Le(1e30), Allowed('a number of at least 0')]
Probability = Annotated[float, Ge(0), Le(1), Allowed('a number from 0 to 1')]
MapDecay = Annotated[float, Ge(0), Le(100), Allowed('a number from 0 to 100')]
Decay = Annotated[float, Ge(0), Lt(1), Allowed('a number from 0 to less than 1')]
Seconds = Annotated[float, Ge(0), Le(86400), Allowed('a number of seconds from 0 to 86400')]

Text = Annotated[str, AfterValidator(_plain_text), Allowed('a text')]
RunName = Annotated[str, AfterValidator(_file_name), Allowed('a text that can be part of a folder name')]
FileName = Annotated[str, PlainValidator(_path_text), Allowed('the name of a file or folder')]
FilePath = Annotated[FileName | os.PathLike, Allowed('the name of a file or folder')]
Run = Annotated[NonNegativeInt | FileName, Allowed("the number or folder of a run, or a network pickle")]
Snapshot = Annotated[NonNegativeInt | FileName,
                     Allowed("a number of thousands of images, 'latest' or 'final'")]
GridSize = Annotated[tuple[PositiveInt, PositiveInt], Strict(False), IN_ORDER,
                     Allowed('two whole numbers from 1, (columns, rows), for example (8, 4)')]
Shard = Annotated[tuple[PositiveInt, PositiveInt], Strict(False), IN_ORDER,
                  Allowed('two whole numbers, (shard, number of shards), for example (1, 4)')]
ClassChoice = NonNegativeInt | Annotated[str, MinLen(1), AfterValidator(_plain_text)]
Classes = Annotated[list[ClassChoice], IN_ORDER, MinLen(1),
                    Allowed("a list of one or more class numbers from 0 or class names, for example [0, 3] or ['cat']")]
DifferentClasses = Annotated[list[ClassChoice], IN_ORDER, MinLen(1), AfterValidator(_all_different),
                             Allowed("a list of different class numbers from 0 or class names, for example [0, 3] or "
                                     "['cat', 'dog']")]
Seeds = Annotated[list[Seed], IN_ORDER, MinLen(1),
                  Allowed('a list of one or more whole numbers from 0 to 4294967295, for example [0, 1, 2]')]
Names = Annotated[list[Text], IN_ORDER, Allowed("a list of names, for example ['swd']")]
RateTable = Annotated[dict[PowerOfTwo, NonNegative], Allowed(
    '{resolution: number of at least 0}, for example {512: 0.002, 1024: 0.003}')]
CountTable = Annotated[dict[PowerOfTwo, PositiveInt], Allowed(
    '{resolution: whole number from 1}, for example {256: 14, 512: 6}')]
NumberTable = Annotated[dict[PowerOfTwo, Positive], Allowed(
    '{resolution: number above 0}, for example {256: 5, 512: 2}')]

MinibatchStat = Literal['Tstdeps', 'Tstd']
BatchNorm = Literal['minibatch', 'running']     # Statistics that batch norm uses for generated images.
MinibatchAverage = Annotated[
    Literal['all', 'flat', 'spatial', 'none', 'gpool'] | Annotated[str, AfterValidator(_group_name)],
    Allowed("'all', 'flat', 'spatial', 'none', 'gpool' or 'groupG', for example 'group4'")]
Kernels = Annotated[int, Ge(0), Le(4096), Allowed('a whole number from 0 to 4096')]

SETTINGS: dict[str, Any] = {    # Top-level values of config.py.
    'experiment': Annotated[str, MinLen(1), Allowed('the name of an experiment')],
    'data_dir': FileName,
    'result_dir': FileName,
    'engine': Literal['auto', 'torch', 'theano', 'python'],
    'precision': Literal['auto', 'float32', 'tf32', 'bfloat16', 'float16'],
    'theano_flags': Annotated[dict[str, Any] | None, Allowed("a dict {flag: value}, for example {'device': 'cpu'}")],
    'experiments': Annotated[dict[str, Any], Allowed('a dict {name: experiment}')],
    'variants': Annotated[dict[str, Any], Allowed('a dict {name: sections}')],
}


DEFAULT_SETTINGS: dict[str, Any] = {    # Settings that config.py may omit.
    'experiment': None, 'data_dir': 'datasets', 'result_dir': 'results', 'engine': 'auto', 'precision': 'auto',
    'theano_flags': None, 'variants': {},
}

OLD_SECTIONS = ('dataset', 'train')     # Top-level names of each config.py of the 2017 and 2018 releases.


# ----------------------------------------------------------------------------------------------------------------------
# Checks.


@contextlib.contextmanager
def reading_config(script: str) -> Iterator[None]:
    """Context for importing and checking `config.py`: errors in it end `script` with one line."""
    try:
        yield
    except SyntaxError as error:
        raise SystemExit(f'{script}: error: {error.filename}, line {error.lineno}: {error.msg}') from None
    except UserError as error:
        raise SystemExit(f'{script}: error: {error}') from None


def check_settings(config: types.ModuleType) -> None:
    """Check the top-level values of `config.py`, and set those that it omits; None means not chosen.

    Raises
    ------
    UserError
    """
    if not hasattr(config, 'experiments') and all(
            isinstance(getattr(config, name, None), dict) for name in OLD_SECTIONS):
        raise UserError('config.py: is from the 2017 or 2018 release; rename it to old_config.py, restore ours '
                        'with `git checkout config.py`, and paste the entry that `python legacy.py config '
                        'old_config.py` prints')
    for name, annotation in SETTINGS.items():
        if name not in DEFAULT_SETTINGS and not hasattr(config, name):
            raise UserError(f'config.py: `{name} = ...` is missing; it is {allowed(annotation)}')
        if not hasattr(config, name):
            setattr(config, name, copy.copy(DEFAULT_SETTINGS[name]))
        elif getattr(config, name) is not None or name not in ('experiment', 'theano_flags'):
            check_value(f'config.py: {name}', getattr(config, name), annotation)


def check_value(option: str, value: object, annotation: Any, equals: str = '=') -> None:
    """Check a value against an annotation.

    Parameters
    ----------
    option : str
        Name in the message, for example ``'train.total_kimg'``.
    value : object
    annotation : type
    equals : str
        Text between option and value in the message.

    Raises
    ------
    UserError
        The value is not allowed. The message is one line with the option, its value and the allowed values.
    """
    adapter = _adapter(annotation)
    if adapter is None:
        return
    try:
        adapter.validate_python(_plain(value))
    except (ValidationError, RecursionError):
        choices = [choice for choice in _choices(annotation) if isinstance(choice, str)]
        near = did_you_mean(value, choices) if isinstance(value, str) else ''
        if equals == '=':
            raise UserError(f'{option}={short_repr(value)}: must be {allowed(annotation)}{near}') from None
        words = allowed(annotation).removesuffix(' or None')    # A command line cannot give None.
        raise UserError(f'{option}{equals}{shortened(str(value))}: must be {words}{near}') from None


def check_options(values: Mapping[str, object], func: Callable, naming: Callable[[str], str],
                  equals: str = '=', more: Mapping[str, Any] = types.MappingProxyType({})) -> None:
    """Check values against the signature of a function; unknown names are ignored.

    Parameters
    ----------
    values : dict
    func : callable
    naming : callable
        Maps a parameter's name to the option's name.
    equals : str
        See :func:`check_value`.
    more : dict
        {name: annotation} of further options, which are not parameters.
    """
    annotations = {**more, **annotations_of(func)}
    for name, value in values.items():
        if name in annotations:
            check_value(naming(name), value, annotations[name], equals)


def checked(func: Func) -> Func:
    """Decorator that checks calls from Python against the signature, see :func:`check_options`."""
    signature = inspect.signature(func)

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return func(*args, **kwargs)    # Python reports missing and surplus arguments.
        check_options({name: os.fspath(value) if isinstance(value, os.PathLike) else value
                       for name, value in given.items()}, func, str)
        return func(*args, **kwargs)

    return cast(Func, call)


def option_name(parameter: str) -> str:
    """Command line option of a parameter: '--num-images' for 'num_images'."""
    return '--' + parameter.replace('_', '-')


def check_command_line(values: Mapping[str, object], func: Callable) -> None:
    """:func:`check_options` for command line options, which begin with ``--``."""
    check_options(values, func, option_name, ' ')


@functools.cache
def annotations_of(func: Callable) -> dict[str, Any]:
    """{parameter: annotation} of a function or class, ``Annotated`` included; {} if they cannot be read."""
    try:
        hints = typing.get_type_hints(func.__init__ if inspect.isclass(func) else func, include_extras=True)
    except (NameError, TypeError, AttributeError):     # For example of a user's own function.
        return {}
    # The annotation of ``**kwargs`` applies to each value, not to an option.
    kinds = {name: parameter.kind for name, parameter in inspect.signature(func).parameters.items()}
    return {name: hint for name, hint in hints.items()
            if kinds.get(name) in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)}


def parse_text(option: str, text: str, annotation: Any = Any) -> object:
    """Parse the text of a command line option according to its type.

    Parameters
    ----------
    option : str
        For messages.
    text : str
        ``true``, ``yes``, ``on`` and their opposites are booleans if the option is one, ``none`` is None; otherwise
        Python literals are evaluated, and any other text is kept.
    annotation : type

    Raises
    ------
    UserError
        Brackets or quotes do not match.
    """
    text, kinds = text.strip(), set(_leaves(annotation))
    if text in [choice for choice in _choices(annotation) if isinstance(choice, str)]:
        return text
    word = text.lower()
    if annotation is Any and word in ('true', 'yes', 'false', 'no', 'none'):
        return {'true': True, 'yes': True, 'false': False, 'no': False, 'none': None}[word]
    if bool in kinds and word in ('true', 'yes', 'on', 'false', 'no', 'off'):
        return word in ('true', 'yes', 'on')
    if type(None) in kinds and word in ('none', 'null'):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if str not in kinds and (text[:1] in tuple('([{\'"') or text[-1:] in tuple(')]}\'"')):
            raise UserError(f'{option}={shortened(text)}: must be {allowed(annotation)}; do all brackets and quotes '
                            'match?') from None
        return text
    if str in kinds and not isinstance(value, str) and not _fits(value, annotation):
        return text
    return value


def allowed(annotation: Any) -> str:
    """Description of the values that a type allows."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        words = [extra.words for extra in annotation.__metadata__ if isinstance(extra, Allowed)]
        return words[-1] if words else allowed(arguments[0])
    if origin is Literal:
        return ' or '.join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        # None is last.
        return ' or '.join(map(allowed, sorted(arguments, key=lambda argument: argument is type(None))))
    if origin is collections.abc.Callable or annotation is collections.abc.Callable:
        return 'a function'
    words_of: dict[Any, str] = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'a text',
                                type(None): 'None', dict: 'a dict', list: 'a list', tuple: 'a list'}
    return words_of.get(origin or annotation, f'a {getattr(annotation, "__name__", annotation)}')


def short_repr(value: object) -> str:
    """``repr(value)`` shortened to one line."""
    return shortened(_SHORT.repr(value))


def shortened(text: str, length: int = 100) -> str:
    """`text` shortened to one line of at most `length` characters."""
    line = ' '.join(text.split())
    return line if len(line) <= length else f'{line[:length - 4]} ...'


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 90
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple = 4, 12, 12, 12


# Annotations are hashable, except those with unhashable metadata or Literals, which the project does not use.
@functools.cache
def _adapter(annotation: Any) -> TypeAdapter | None:
    if annotation in (Any, inspect.Parameter.empty, np.ndarray):
        return None
    try:
        return TypeAdapter(annotation, config=ConfigDict(strict=True, arbitrary_types_allowed=True,
                                                         allow_inf_nan=False))
    except (PydanticUserError, TypeError):      # A user's own type, unknown to pydantic.
        return None


def _fits(value: object, annotation: Any) -> bool:
    try:
        check_value('', value, annotation)
    except UserError:
        return False
    return True


def _plain(value: object) -> object:
    """Convert NumPy scalars and arrays, ranges and tuples to Python numbers and lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple, range)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(key) if isinstance(key, np.generic) else key: _plain(item) for key, item in value.items()}
    return value


def _leaves(annotation: Any) -> Iterator[Any]:
    """Plain types of an annotation: ``bool | None`` has bool and NoneType."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        yield from _leaves(arguments[0])
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from _leaves(argument)
    else:
        yield origin or annotation


def _choices(annotation: Any) -> Iterable[object]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        yield from arguments
    elif origin is Annotated:
        yield from _choices(arguments[0])
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from _choices(argument)
