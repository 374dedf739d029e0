"""Translates a `config.py` of the 2017 or 2018 release into an entry for our table of experiments.

The file is parsed and never executed.
"""

import ast
import operator
import os
import pprint
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from common.errors import UserError
from common.old_options import DEFAULTS_2018, find
from common.options import OLD_SECTIONS, short_repr
from training.options import TOP_LEVEL_TYPES, check_options, check_utility, is_training

MAX_BYTES = 1 << 20         # Largest file to read.
MAX_SIZE = 1 << 16          # Largest text, list or number that an expression may compute.
OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.USub: operator.neg,
    ast.UAdd: operator.pos, ast.Not: operator.not_, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
    ast.Is: operator.is_, ast.IsNot: operator.is_not}
DICTS = ('dict', 'EasyDict', 'config.EasyDict', 'misc.EasyDict', 'OrderedDict', 'collections.OrderedDict')
CONVERSIONS: dict[str, Callable] = {'int': int, 'float': float, 'str': str, 'bool': bool, 'list': list, 'tuple': tuple,
                                    'os.path.join': os.path.join}
SECTIONS_2018 = {'sched', 'grid', 'G_opt', 'D_opt', 'G_loss', 'D_loss', 'tf_config'}
FUNCS = {       # {release: {last part of a function's name there: name here}}
    '2017': {name: 'networks.' + name for name in (
        'G_paper', 'D_paper', 'G_mnist_mode_recovery', 'D_mnist_mode_recovery')},
    '2018': {name: 'networks_2018.' + name for name in ('G_paper', 'D_paper')}}
UTILITIES = ('generate_fake_images', 'generate_interpolation_video', 'generate_training_video')
TRAININGS = ('train_gan', 'train_progressive_gan')
LOSSES = ('G_wgan_acgan', 'D_wgangp_acgan')
VALUES: dict[str, dict] = {     # {old option: {value there: value here}}
    'dataset.max_label_size': {'full': 'all'},
    'grid.layout': {'random': 'default', 'col_per_class': 'category', 'row_per_class': 'category-rows'},
    'grid.size': {'1080p': None}}
SETTINGS = ('data_dir', 'result_dir', 'theano_flags')   # Belong to config.py, not to an experiment.


class _Unreadable(Exception):
    """An expression that is not plain data."""


# ----------------------------------------------------------------------------------------------------------------------
# Reading.


class _Reader:
    """Interprets the assignments in a module's syntax tree, and collects the lines that it cannot interpret."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.unread: list[tuple[int, str]] = []     # (line, text)

    def statements(self, body: list[ast.stmt]) -> None:
        for statement in body:
            try:
                self.statement(statement)
            except (_Unreadable, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
                reason = f' ({error})' if isinstance(error, _Unreadable) and str(error) else ''
                first_line = ast.unparse(statement).partition('\n')[0]
                self.unread.append((statement.lineno, f'{first_line:.80}{reason}'))

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign):
            value = self.value(node.value)
            for target in node.targets:
                self.assign(target, value)
        elif isinstance(node, ast.AnnAssign):
            if node.value:
                self.assign(node.target, self.value(node.value))
        elif isinstance(node, ast.AugAssign):
            present = self.value(_as_read(node.target))
            self.assign(node.target, self.calculate(node.op, present, self.value(node.value)))
        elif isinstance(node, ast.If):
            self.statements(node.body if self.value(node.test) else node.orelse)
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                self.delete(target)
        elif isinstance(node, ast.Expr):
            if isinstance(node.value, ast.Call):
                self.method(node.value)
            elif not isinstance(node.value, ast.Constant):
                raise _Unreadable
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == '*':
            raise _Unreadable('the options of that file are not read')
        elif not isinstance(node, ast.Import | ast.ImportFrom | ast.Pass) and not (
                isinstance(node, ast.ClassDef) and node.name == 'EasyDict'):
            raise _Unreadable

    def assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.values[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            for part, part_value in zip(target.elts, value, strict=True):
                self.assign(part, part_value)
        else:
            place, key = self.place(target)
            place[key] = value

    def delete(self, target: ast.expr) -> None:
        place, key = (self.values, target.id) if isinstance(target, ast.Name) else self.place(target)
        del place[key]

    def place(self, target: ast.expr) -> tuple[dict, Any]:
        """(dict, key) of ``options.name`` or ``options['name']``."""
        if isinstance(target, ast.Attribute):
            place, key = self.value(target.value), target.attr
        elif isinstance(target, ast.Subscript):
            place, key = self.value(target.value), self.value(target.slice)
        else:
            raise _Unreadable
        if not isinstance(place, dict):
            raise _Unreadable
        return place, key

    def method(self, call: ast.Call) -> None:
        """Execute ``options.update(...)``, ``setdefault`` and ``pop``; skip ``print``."""
        if isinstance(call.func, ast.Attribute) and call.func.attr in ('update', 'setdefault', 'pop'):
            options = self.value(call.func.value)
            if not isinstance(options, dict):
                raise _Unreadable
            arguments, keywords = self.arguments(call)
            getattr(options, call.func.attr)(*arguments, **keywords)
        elif not (isinstance(call.func, ast.Name) and call.func.id == 'print'):
            raise _Unreadable

    def arguments(self, call: ast.Call) -> tuple[list, dict]:
        keywords: dict[str, Any] = {}
        for keyword in call.keywords:
            keywords.update({keyword.arg: self.value(keyword.value)} if keyword.arg else self.value(keyword.value))
        return [self.value(argument) for argument in call.args], keywords

    def value(self, node: ast.expr) -> Any:
        """Evaluate an expression of literals, assigned names, operators and calls such as ``EasyDict(...)``."""
        kind = type(node).__name__
        if not hasattr(self, '_' + kind):
            raise _Unreadable
        return getattr(self, '_' + kind)(node)

    def _Constant(self, node):
        return node.value

    def _Name(self, node):
        if node.id not in self.values:
            raise _Unreadable(f'the variable {node.id} is unknown')
        return self.values[node.id]

    def _Attribute(self, node):
        options = self.value(node.value)
        if not isinstance(options, dict):
            raise _Unreadable
        return options[node.attr]

    def _Subscript(self, node):
        return self.value(node.value)[self.value(node.slice)]

    def _List(self, node):
        return [self.value(item) for item in node.elts]

    def _Tuple(self, node):
        return tuple(self._List(node))

    def _Dict(self, node):
        options = {}
        for key, value in zip(node.keys, node.values, strict=True):
            options.update({self.value(key): self.value(value)} if key else self.value(value))
        return options

    def _UnaryOp(self, node):
        return OPERATORS[type(node.op)](self.value(node.operand))

    def _BinOp(self, node):
        return self.calculate(node.op, self.value(node.left), self.value(node.right))

    def calculate(self, op: ast.operator, left: Any, right: Any) -> Any:
        """The result of an operator, unless it is huge."""
        check_size(left, right)
        numbers = all(isinstance(value, int | float) for value in (left, right))
        if isinstance(op, ast.Pow) and not (numbers and abs(left) <= MAX_SIZE and abs(right) <= 64):
            raise _Unreadable('too large')
        if isinstance(op, ast.Mult) and not numbers:
            times = max(value for value in (left, right) if isinstance(value, int))
            if times * max(len(value) for value in (left, right) if not isinstance(value, int)) > MAX_SIZE:
                raise _Unreadable('too large')
        if isinstance(op, ast.Mod) and isinstance(left, str) and re.search(r'\d{4}|\*', left):
            raise _Unreadable('too large')
        result = OPERATORS[type(op)](left, right)
        check_size(result)
        return result

    def _BoolOp(self, node):
        result = None
        for part in node.values:
            result = self.value(part)
            if bool(result) == isinstance(node.op, ast.Or):
                break
        return result

    def _Compare(self, node):
        left = self.value(node.left)
        for op, part in zip(node.ops, node.comparators, strict=True):
            right = self.value(part)
            check_size(left, right)
            if not OPERATORS[type(op)](left, right):
                return False
            left = right
        return True

    def _IfExp(self, node):
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _Call(self, node):
        name = ast.unparse(node.func)
        arguments, keywords = self.arguments(node)
        check_size(*arguments)
        if name in DICTS:
            return dict(*arguments, **keywords)
        if name in CONVERSIONS and not keywords:
            return CONVERSIONS[name](*arguments)
        raise _Unreadable


def check_size(*values: Any) -> None:
    """Raise `_Unreadable` unless these values together are small enough to print."""
    left, rest = MAX_SIZE, list(values)
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            rest += value
        left -= len(value) // 100 + 1 if isinstance(value, str) else 1
        if left < 0 or isinstance(value, int) and abs(value) >= 1 << 1024:
            raise _Unreadable('too large')


def _as_read(target):
    """The target of an assignment as an expression that can be evaluated."""
    return ast.parse(ast.unparse(target), mode='eval').body


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """The values of the variables at the top level of a Python file, found without executing it.

    Parameters
    ----------
    path : str

    Returns
    -------
    (dict, list of (int, str))
        {name: value}, and (line number, text) of the lines that are not plain data.

    Raises
    ------
    UserError
        The file cannot be read or is not Python 3.
    """
    try:
        with open(path, 'rb') as config_file:
            source = config_file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    if len(source) > MAX_BYTES:
        raise UserError(f'{path}: is not a config.py, it has more than {MAX_BYTES} bytes')
    reader = _Reader()
    try:
        reader.statements(ast.parse(source).body)
    except SyntaxError as error:
        raise UserError(f'{path}, line {error.lineno}: {error.msg}; convert Python 2 syntax to Python 3 first'
                        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f'{path}: is not a config.py ({error or type(error).__name__})') from error
    return reader.values, reader.unread


# ----------------------------------------------------------------------------------------------------------------------
# Translating.


class Entry(NamedTuple):
    """An experiment for our `config.py`, and notes on the options that could not be translated."""

    release: str                    # '2017' or '2018'
    experiment: dict[str, Any]
    notes: list[str]                # One line per option.


class _Translator:
    """Translates the options of an old config one by one with the table `common.old_options`."""

    def __init__(self, release: str) -> None:
        self.release = release
        self.experiment: dict[str, Any] = {}
        self.origin: dict[str, str] = {}    # {option of ours: old option}
        self.notes: list[str] = []

    def put(self, option: str, value: Any, name: str) -> None:
        """Set an option of ours to the value of the old option `name`."""
        section, dot, key = option.rpartition('.')
        options = self.experiment.setdefault(section, {}) if dot else self.experiment
        if option in self.origin and options[key] != value:
            self.notes.append(f'{name} = {short_repr(value)}: {option} is already {short_repr(options[key])}, set by '
                              f'{self.origin[option]}')
            return
        options[key], self.origin[option] = value, name

    def option(self, name: str, value: Any) -> None:
        old = find(name, self.release) or find(name)
        if not _is_plain(value):
            self.notes.append(f'{name} = {short_repr(value)}: not plain data')
        elif name.endswith('.func'):
            self.func(name, value)
        elif old is None or old.ours is None or old.ours in ('train', 'loss'):
            reason = old.note if old else 'unknown option'
            self.notes.append(f'{name} = {short_repr(value)}: no counterpart: {reason}')
        elif old.ours in SETTINGS:
            self.notes.append(f'{name} = {short_repr(value)}: set it at the top of config.py')
        elif name == 'dataset.tfrecord_dir':
            self.put(old.ours, f'{os.path.basename(os.path.normpath(str(value)))}.h5', name)
            self.notes.append(f'{name} = {short_repr(value)}: {old.note}')
        else:
            known = VALUES.get(name, {})
            self.put(old.ours, known[value] if isinstance(value, str) and value in known else value, name)

    def flags(self, name: str, value: dict) -> None:
        """Note for each flag of Theano or TensorFlow where it belongs."""
        for flag, setting in value.items():
            old = find(f'{name}.{flag}', '2017') or find(name)
            self.notes.append(f'{name}[{flag!r}] = {short_repr(setting)}: ' + (
                f'no counterpart: {old.note}' if old and not old.ours else 'set it at the top of config.py'))

    def func(self, name: str, value: Any) -> None:
        section, last = name.partition('.')[0], str(value).rpartition('.')[2]
        if section == 'train' and last in UTILITIES:
            self.put('train.func', 'util_scripts.' + last, name)
        elif section in 'GD' and last in FUNCS[self.release]:
            self.put(name, FUNCS[self.release][last], name)
        elif section in ('G_loss', 'D_loss') and last in LOSSES:
            self.put('loss.type', 'iwass', name)
        elif not (section == 'train' and last in TRAININGS):
            self.notes.append(f'{name} = {short_repr(value)}: no counterpart: your own function; name it in this '
                              'entry if it has the interface of ours')


def _is_plain(value):
    """Whether printing a value and reading it again gives the same value."""
    try:
        check_size(value)
        return ast.literal_eval(repr(value)) == value
    except (_Unreadable, ValueError, SyntaxError, RecursionError):
        return False


def translate(values: dict[str, Any]) -> Entry:
    """Translate the values of an old config into an experiment.

    Parameters
    ----------
    values : dict
        See :func:`read`.

    Raises
    ------
    UserError
        The values are not from a config of the 2017 or 2018 release.
    """
    if 'experiments' in values:
        raise UserError('is not a config.py of 2017 or 2018: it has a table of experiments, like ours')
    if not all(isinstance(values.get(section), dict) for section in OLD_SECTIONS):
        raise UserError(f'is not a config.py of 2017 or 2018: it has no dicts {" and ".join(OLD_SECTIONS)}')
    func = str(values['train'].get('func')).rpartition('.')[2]
    if func == 'evaluate_metrics' or func.startswith('calc_'):
        raise UserError(f'its train.func is {func}: run `python evaluate_metrics.py RUN --metrics NAME` instead')
    is_2018 = SECTIONS_2018 & values.keys() or 'tfrecord_dir' in values['dataset']
    translator = _Translator('2018' if is_2018 else '2017')
    for name, value in values.items():
        old = find(name, translator.release)
        if isinstance(value, dict) and (name == 'theano_flags' or old and old.ours is None):
            translator.flags(name, value)
        elif isinstance(value, dict):
            for key, option in value.items():
                translator.option(f'{name}.{key}', option)
        elif not name.startswith('_'):
            translator.option(name, value)
    return Entry(translator.release, _completed(translator.experiment, translator.release), translator.notes)


def _completed(experiment: dict[str, Any], release: str) -> dict[str, Any]:
    """Add the release's defaults where they differ from ours, and order the sections as in `config.py`."""
    experiment = {'desc': 'old', 'train': {}, **experiment}
    if 'func' not in experiment['train']:
        defaults: dict[str, dict] = DEFAULTS_2018 if release == '2018' else {}
        for section in ('dataset', 'G', 'D', 'loss', 'train'):
            options = {**defaults.get(section, {}), **experiment.get(section, {})}
            if section in 'GD':
                options = {'func': FUNCS[release][section + '_paper'], **options}
            experiment[section] = options
    else:
        for section in ('dataset', 'G', 'D', 'loss'):
            experiment.pop(section, None)
    order = [*TOP_LEVEL_TYPES, 'dataset', 'G', 'D', 'loss', 'train']
    return {name: experiment[name] for name in order if name in experiment}


def entry_text(entry: Entry, unread: list[tuple[int, str]], path: str, train_gan: Callable) -> str:
    """Text for the table of `config.py`: comments on everything that was left out, then the entry.

    Parameters
    ----------
    entry : Entry
    unread : list of (int, str)
        See :func:`read`.
    path : str
        Path of the old config.
    train_gan : callable
        Default training function of experiments.
    """
    notes = [*entry.notes, *(f'line {number} was not read: {text}' for number, text in unread)]
    try:
        if is_training(entry.experiment):
            check_options(entry.experiment, train_gan)
        else:
            check_utility(entry.experiment)
    except UserError as error:
        notes.append(f'correct this: {error}')
    comments = [f'From {os.path.basename(path)} of the {entry.release} release.', *notes]
    # A text from the file must neither start a new line outside of the comment nor contain unencodable characters.
    lines = [f'# {" ".join(comment.split())}'.encode('utf-8', 'backslashreplace').decode() for comment in comments]
    desc = entry.experiment['desc']
    lines.append(f'{desc if isinstance(desc, str) else "old"!r}: {{')
    for section, options in entry.experiment.items():
        head = f'    {section!r}: '
        value = pprint.pformat(options, width=110 - len(head), sort_dicts=False)
        lines += (head + value.replace('\n', '\n' + ' ' * len(head)) + ',').split('\n')
    lines.append('},')
    return '\n'.join('    ' + line for line in lines)
