"""A `config.py` of the 2017 or 2018 release, read without executing it, as an entry for our table of experiments."""

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

MAX_BYTES = 1 << 20         # Of a file to read.
MAX_SIZE = 1 << 16          # Of texts, lists and numbers that its arithmetic makes.
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
FUNCS = {       # By the last part of their names in the releases: {release: {name: ours}}.
    '2017': {name: 'networks.' + name for name in (
        'G_paper', 'D_paper', 'G_mnist_mode_recovery', 'D_mnist_mode_recovery')},
    '2018': {name: 'networks_2018.' + name for name in ('G_paper', 'D_paper')}}
UTILITIES = ('generate_fake_images', 'generate_interpolation_video', 'generate_training_video')
TRAININGS = ('train_gan', 'train_progressive_gan')
LOSSES = ('G_wgan_acgan', 'D_wgangp_acgan')
VALUES: dict[str, dict] = {     # Values with other names here: {old option: {value: ours}}.
    'dataset.max_label_size': {'full': 'all'},
    'grid.layout': {'random': 'default', 'col_per_class': 'category', 'row_per_class': 'category-rows'},
    'grid.size': {'1080p': None}}
SETTINGS = ('data_dir', 'result_dir', 'theano_flags')   # Of config.py, not of an experiment.


class _Unreadable(Exception):
    """An expression that is more than data."""


# ----------------------------------------------------------------------------------------------------------------------
# Reading.


class _Reader:
    """Carries out the assignments of a module's syntax tree, and remembers the lines that it cannot carry out."""

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
            raise _Unreadable('options in that file are missing')
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
        """``options.update(...)`` and ``options.setdefault(...)``; what is printed is of no interest."""
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
        """The value of an expression of literals, names that were assigned, and ``dict(...)`` or ``EasyDict(...)``."""
        kind = type(node).__name__
        if not hasattr(self, '_' + kind):
            raise _Unreadable
        return getattr(self, '_' + kind)(node)

    def _Constant(self, node):
        return node.value

    def _Name(self, node):
        if node.id not in self.values:
            raise _Unreadable(f'{node.id} is not known')
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
    """Raise `_Unreadable` unless these are together small enough to be printed."""
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
    """The target of an assignment as an expression to be read."""
    return ast.parse(ast.unparse(target), mode='eval').body


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """What is assigned at the top of a Python file, found without executing it.

    Parameters
    ----------
    path : str

    Returns
    -------
    (dict, list of (int, str))
        {name: value}, and the lines, with their text, that are more than data.

    Raises
    ------
    UserError
        The file cannot be read or is no Python.
    """
    try:
        with open(path, 'rb') as config_file:
            source = config_file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    if len(source) > MAX_BYTES:
        raise UserError(f'{path}: has more than {MAX_BYTES} bytes: is no config.py')
    reader = _Reader()
    try:
        reader.statements(ast.parse(source).body)
    except SyntaxError as error:
        raise UserError(f'{path}, line {error.lineno}: {error.msg}; Python 2 words have to be made Python 3 first'
                        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f'{path}: is no config.py ({error or type(error).__name__})') from error
    return reader.values, reader.unread


# ----------------------------------------------------------------------------------------------------------------------
# Translating.


class Entry(NamedTuple):
    """An experiment for our `config.py`, and what of the old one is not in it."""

    release: str                    # '2017' or '2018'
    experiment: dict[str, Any]
    notes: list[str]                # One line each.


class _Translator:
    """Puts the options of an old config into an experiment, one by one, by the table."""

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
            self.notes.append(f'{name} = {short_repr(value)}: {option} is {short_repr(options[key])} already, by '
                              f'{self.origin[option]}')
            return
        options[key], self.origin[option] = value, name

    def option(self, name: str, value: Any) -> None:
        old = find(name, self.release) or find(name)
        if not _is_plain(value):
            self.notes.append(f'{name} = {short_repr(value)}: no plain data')
        elif name.endswith('.func'):
            self.func(name, value)
        elif old is None or old.ours is None or old.ours in ('train', 'loss'):
            reason = old.note if old else 'not known'
            self.notes.append(f'{name} = {short_repr(value)}: no counterpart: {reason}')
        elif old.ours in SETTINGS:
            self.notes.append(f'{name} = {short_repr(value)}: stands at the top of config.py')
        elif name == 'dataset.tfrecord_dir':
            self.put(old.ours, f'{os.path.basename(os.path.normpath(str(value)))}.h5', name)
            self.notes.append(f'{name} = {short_repr(value)}: {old.note}')
        else:
            known = VALUES.get(name, {})
            self.put(old.ours, known[value] if isinstance(value, str) and value in known else value, name)

    def flags(self, name: str, value: dict) -> None:
        """Say of each flag of Theano, or of TensorFlow, where it belongs."""
        for flag, setting in value.items():
            old = find(f'{name}.{flag}', '2017') or find(name)
            self.notes.append(f'{name}[{flag!r}] = {short_repr(setting)}: ' + (
                f'no counterpart: {old.note}' if old and not old.ours else 'stands at the top of config.py'))

    def func(self, name: str, value: Any) -> None:
        section, last = name.partition('.')[0], str(value).rpartition('.')[2]
        if section == 'train' and last in UTILITIES:
            self.put('train.func', 'util_scripts.' + last, name)
        elif section in 'GD' and last in FUNCS[self.release]:
            self.put(name, FUNCS[self.release][last], name)
        elif section in ('G_loss', 'D_loss') and last in LOSSES:
            self.put('loss.type', 'iwass', name)
        elif not (section == 'train' and last in TRAININGS):
            self.notes.append(f'{name} = {short_repr(value)}: no counterpart: a function of your own; name it in this '
                              'entry if it fits ours')


def _is_plain(value):
    """Whether a value stands in the printed entry as it is."""
    try:
        check_size(value)
        return ast.literal_eval(repr(value)) == value
    except (_Unreadable, ValueError, SyntaxError, RecursionError):
        return False


def translate(values: dict[str, Any]) -> Entry:
    """The experiment that the values of an old config describe.

    Parameters
    ----------
    values : dict
        See :func:`read`.

    Raises
    ------
    UserError
        They are not those of a config of the 2017 or 2018 release.
    """
    if 'experiments' in values:
        raise UserError('is no config.py of 2017 or 2018: it has a table of experiments, as ours')
    if not all(isinstance(values.get(section), dict) for section in OLD_SECTIONS):
        raise UserError(f'is no config.py of 2017 or 2018: it has no dicts {" and ".join(OLD_SECTIONS)}')
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
    """With the defaults of the release where they are not ours, and sections in the order of `config.py`."""
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
    """What to paste into the table of `config.py`: comments on all that is left out, then the entry.

    Parameters
    ----------
    entry : Entry
    unread : list of (int, str)
        See :func:`read`.
    path : str
        Of the old config.
    train_gan : callable
        The training function of experiments that name none.
    """
    notes = [*entry.notes, *(f'line {number} is not read: {text}' for number, text in unread)]
    try:
        if is_training(entry.experiment):
            check_options(entry.experiment, train_gan)
        else:
            check_utility(entry.experiment)
    except UserError as error:
        notes.append(f'to be mended: {error}')
    comments = [f'From {os.path.basename(path)}, of the {entry.release} release.', *notes]
    # Names and texts may hold anything, but no line that begins without '#', and nothing that cannot be written.
    lines = [f'# {" ".join(comment.split())}'.encode('utf-8', 'backslashreplace').decode() for comment in comments]
    desc = entry.experiment['desc']
    lines.append(f'{desc if isinstance(desc, str) else "old"!r}: {{')
    for section, options in entry.experiment.items():
        head = f'    {section!r}: '
        value = pprint.pformat(options, width=110 - len(head), sort_dicts=False)
        lines += (head + value.replace('\n', '\n' + ' ' * len(head)) + ',').split('\n')
    lines.append('},')
    return '\n'.join('    ' + line for line in lines)
