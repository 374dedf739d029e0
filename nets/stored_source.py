"""Read the definition of a network from the source text that published pickles store beside the weights.

The text is parsed, never executed. Sources with equal names and shapes can define different functions; the facts below
distinguish them. This module knows nothing of pickles and builds no networks.
"""

import ast
import hashlib
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

MAX_SOURCE_CHARACTERS = 1 << 17     # The releases' modules have about 20 000; parsing takes 250 times as much memory.
MAX_DEPTH = 50                      # Depth of a constant expression.
MAX_MAGNITUDE = 1e100               # Magnitude of numbers in it.

RELEASED_GAIN = math.sqrt(2) / 4
RELEASED_EPSILON = 1e-8
RELEASED_SLOPE = 0.2
RELEASED_GROUP = 4
SLOPES_2017 = {'G_mnist_mode_recovery': 0.3, 'mnist_classifier': 0.1}
LASAGNE_SLOPES = {'leaky_rectify': 0.01, 'very_leaky_rectify': 1 / 3}

# SHA-256 of published sources, see `normalised_digest`.
PUBLIC_2017 = '76173aae58c4a97a87768a2c61c18587d902cb2e99986a20c05b213eb5e9c88f'
PUBLIC_2018_02 = '3461ac76826af710e3276c4d5240fde1920ba3573813b60fae00b758ad883d38'
PUBLIC_2018_04 = '08fe0d239a20dd5bc5ebf5e04a0f6c8f31090e4ee2a591e498fca077c7bcf4b8'

AVERAGE, STRIDE = 'average', 'stride'
MAPS_AND_PIXELS = 'maps and pixels'


class Meaning(NamedTuple):
    """How to build a network of the 2018 format.

    Attributes
    ----------
    kwargs : dict
        Arguments of our build function in addition to the stored ones.
    deviations : list of str
        Facts that differ from the release of 2018-04, and are reproduced.
    unread : list of str
        Facts that the source does not define.
    unbuildable : list of str
        Facts that our layers cannot reproduce, with both values.
    """

    kwargs: dict[str, Any]
    deviations: list[str]
    unread: list[str]
    unbuildable: list[str]


def normalised_digest(source: str) -> str:
    """SHA-256 of a source without trailing white space, empty lines and carriage returns."""
    lines = (line.rstrip() for line in source.replace('\r\n', '\n').split('\n'))
    return hashlib.sha256('\n'.join(line for line in lines if line).encode()).hexdigest()


def as_text(source: object) -> str:
    """A stored source as text; '' if it is missing or not plausible."""
    if isinstance(source, bytes):
        source = source.decode('utf-8', 'replace')
    return source if isinstance(source, str) and len(source) <= MAX_SOURCE_CHARACTERS else ''


# ----------------------------------------------------------------------------------------------------------------------
# Reading the syntax tree.


OPERATORS: dict[type[ast.AST], Callable] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.USub: operator.neg, ast.UAdd: operator.pos}
FUNCTIONS: dict[str, Callable] = {'sqrt': math.sqrt, 'float': float, 'float32': float, 'float64': float}


class _Module:
    """The functions and constants of a parsed source."""

    def __init__(self, source: str) -> None:
        try:
            body = ast.parse(source).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):      # Python 2, or not Python.
            body = []
        self.functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
        self.assigned = {node.targets[0].id: node.value for node in body if isinstance(node, ast.Assign)
                         and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)}

    def number(self, node, names: Mapping[str, Any] = MappingProxyType({}), depth: int = 0):
        """Evaluate a constant expression, such as ``np.sqrt(2) / 4``; None if it is not constant.

        `names` are the values of the parameters of the function around it.
        """
        if depth > MAX_DEPTH or node is None:
            return None
        if isinstance(node, ast.Constant):
            return _bounded(node.value)
        if isinstance(node, ast.Name):
            return names[node.id] if node.id in names else self.number(self.assigned.get(node.id), {}, depth + 1)
        function, operands = None, []
        if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
            function, operands = FUNCTIONS.get(_last_name(node.func)), node.args
        elif isinstance(node, ast.BinOp):
            function, operands = OPERATORS.get(type(node.op)), [node.left, node.right]
        elif isinstance(node, ast.UnaryOp):
            function, operands = OPERATORS.get(type(node.op)), [node.operand]
        values = [self.number(operand, names, depth + 1) for operand in operands]
        if function is None or None in values:
            return None
        try:
            return _bounded(function(*map(float, values)))
        except (ArithmeticError, ValueError):
            return None

    def parameters(self, function: str | None) -> list[tuple[str, Any]]:
        """(name, syntax tree of the default or None) for each parameter of a function; [] if there is no function."""
        if function not in self.functions:
            return []
        arguments = self.functions[function].args
        positional = [*arguments.posonlyargs, *arguments.args]
        defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
        pairs = [*zip(positional, defaults, strict=True),
                 *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
        return [(argument.arg, default) for argument, default in pairs]

    def numbers_passed(self, caller: str, callee: str | None, parameter: str, kwargs: Mapping[str, Any]) -> list:
        """Values of a parameter in all calls of a function by another one; None for each that is not constant.

        If the function is only passed by name, the value is its default. `kwargs` are arguments of the caller.
        """
        outer = {name: _bounded(kwargs[name]) if name in kwargs else self.number(default)
                 for name, default in self.parameters(caller)}
        pairs = self.parameters(callee)
        names = [name for name, _default in pairs]
        if parameter not in names:
            return []
        default, values = self.number(dict(pairs)[parameter]), []
        nodes = list(_walk(self.functions.get(caller)))
        calls = [node for node in nodes if isinstance(node, ast.Call) and _last_name(node.func) == callee]
        for call in calls:
            given = dict(zip(names, call.args, strict=False)) | {word.arg: word.value for word in call.keywords}
            values.append(self.number(given[parameter], outer) if parameter in given else default)
        handed_on = sum(isinstance(node, ast.Name) and node.id == callee for node in nodes) > len(calls)
        return [*values, default] if handed_on else values

    def calls(self, caller: str, callee: str) -> bool:
        return any(isinstance(node, ast.Call) and _last_name(node.func) == callee
                   for node in _walk(self.functions.get(caller)))


def _bounded(value):
    return value if type(value) in (int, float) and abs(value) < MAX_MAGNITUDE else None


def _walk(node: ast.AST | None) -> Iterator[ast.AST]:
    return iter(()) if node is None else ast.walk(node)


def _last_name(node):
    """``sqrt`` for both ``np.sqrt`` and ``sqrt``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ''


def _keyword(call, name):
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _only(values):
    """The value that all of `values` share; None if they differ or there are none."""
    return values[0] if values and all(value == values[0] for value in values) else None


def _added_constant(module, nodes):
    """The constant that is added to something in these nodes, or None."""
    sums = [node for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)]
    constants = [module.number(side) for node in sums for side in (node.left, node.right)]
    return _only([value for value in constants if value is not None])


# ----------------------------------------------------------------------------------------------------------------------
# Facts; None if the source does not define them.


def _image_shrinking(module, func):
    """How D reduces images."""
    if module.calls(func, 'downscale2d_stride'):
        return STRIDE
    return AVERAGE if module.calls(func, 'downscale2d') else None


def _pixelnorm_epsilon(module, func, kwargs):
    passed = module.numbers_passed(func, 'pixel_norm', 'epsilon', kwargs)
    return _only(passed) if passed else _added_constant(module, _walk(module.functions.get('pixel_norm')))


def _leaky_slope(module, func, kwargs):
    """Slope of the leaky ReLU for negative inputs."""
    return _only(module.numbers_passed(func, 'leaky_relu', 'alpha', kwargs))


def _statistic_function(module):
    """Name of the function that appends the minibatch statistic."""
    names = [name for name in module.functions if 'group_size' in dict(module.parameters(name))]
    return names[0] if len(names) == 1 else None


def _group_size(module, func, kwargs):
    size = _only(module.numbers_passed(func, _statistic_function(module), 'group_size', kwargs))
    return int(size) if size is not None and size == int(size) else None


def _statistic_epsilon(module):
    function = module.functions.get(_statistic_function(module))
    roots = [node for node in _walk(function) if isinstance(node, ast.Call) and _last_name(node.func) == 'sqrt']
    return _added_constant(module, [argument for root in roots for argument in root.args])


def _statistic_mean(module):
    """The axes over which the minibatch statistic is averaged."""
    function = module.functions.get(_statistic_function(module))
    axes = [_keyword(node, 'axis') for node in _walk(function)
            if isinstance(node, ast.Call) and _last_name(node.func) in ('reduce_mean', 'mean')]
    lists = [node for node in axes if isinstance(node, (ast.List, ast.Tuple))]
    if len(lists) != 1:
        return None
    return MAPS_AND_PIXELS if len(lists[0].elts) == 3 else f'axes {ast.unparse(lists[0])}'


def meaning_2018(source: object, func: str, kwargs: dict[str, Any], is_generator: bool) -> Meaning:
    """Definition of a network of the 2018 format according to its source.

    Parameters
    ----------
    source : object
        The stored text; None or '' if there is none.
    func : str
        Name of the build function in the text.
    kwargs : dict
        The stored arguments.
    is_generator : bool

    Returns
    -------
    Meaning
    """
    text = as_text(source)
    digest = normalised_digest(text)
    if source in (None, '', b'') or digest == PUBLIC_2018_04:
        values: dict[_Fact, Any] = {}
    elif digest == PUBLIC_2018_02:
        values = {GAIN: math.sqrt(2)} if is_generator else {SHRINKING: _shrinking_by(kwargs, STRIDE)}
    else:
        facts = _generator_facts if is_generator else _discriminator_facts
        values = facts(_Module(text), func, kwargs)
    meaning = Meaning({}, [], [], [])
    for fact, value in values.items():
        _judge(meaning, fact, value, kwargs)
    return meaning


class _Fact(NamedTuple):
    words: str
    released: Any
    argument: str | None        # Argument of our build function; None: our layers support only `released`.


GAIN = _Fact('the gain of the 4x4 dense layer', RELEASED_GAIN, 'dense_gain')
EPSILON = _Fact('the epsilon of pixel norm', RELEASED_EPSILON, 'pixelnorm_epsilon')
SHRINKING = _Fact('how D shrinks images', AVERAGE, 'image_shrinking')
GROUP = _Fact('the group size of the minibatch statistic', RELEASED_GROUP, 'mbstd_group_size')
SLOPE = _Fact('the slope of the leaky ReLU', RELEASED_SLOPE, None)
STATISTIC_EPSILON = _Fact('the epsilon of the minibatch statistic', RELEASED_EPSILON, None)
STATISTIC_MEAN = _Fact('the mean of the minibatch statistic', MAPS_AND_PIXELS, None)


def _shrinking_by(kwargs, shrinking):
    """The linear structure, which is not the training default, averages in every version."""
    return AVERAGE if kwargs.get('structure') == 'linear' else shrinking


def _generator_facts(module, func, kwargs):
    values = {GAIN: _only(module.numbers_passed(func, 'dense', 'gain', kwargs))}
    if kwargs.get('use_pixelnorm', True) or kwargs.get('normalize_latents', True):
        values[EPSILON] = _pixelnorm_epsilon(module, func, kwargs)
    if kwargs.get('use_leakyrelu', True):
        values[SLOPE] = _leaky_slope(module, func, kwargs)
    return values


def _discriminator_facts(module, func, kwargs):
    values = {SHRINKING: _shrinking_by(kwargs, _image_shrinking(module, func)),
              SLOPE: _leaky_slope(module, func, kwargs), GROUP: _group_size(module, func, kwargs)}
    if values[GROUP] is None or values[GROUP] > 1:
        values.update({STATISTIC_EPSILON: _statistic_epsilon(module), STATISTIC_MEAN: _statistic_mean(module)})
    return values


def _judge(meaning, fact, value, kwargs):
    """Add the consequences of a fact to `meaning`, unless the stored arguments already define it."""
    ours = kwargs.get(fact.argument, fact.released)
    if value is None:
        meaning.unread.append(fact.words)
    elif value == ours or isinstance(value, float) and isinstance(ours, float) and math.isclose(
            value, ours, rel_tol=1e-6):
        return
    elif fact.argument is None:
        meaning.unbuildable.append(f'{fact.words} is {_short(value)} there and {_short(ours)} here')
    else:
        meaning.kwargs[fact.argument] = value
        meaning.deviations.append(f'{fact.words}: {_short(value)} instead of {_short(ours)}')


def _short(value):
    return f'{value:.6g}' if isinstance(value, float) else str(value)


def differences_2017(source: object, func: str) -> list[str]:
    """Slopes of leaky ReLUs in the source of a 2017 network that differ from ours, with both values.

    Empty for sources that define no slope or are not Python 3.
    """
    text = as_text(source)
    if normalised_digest(text) == PUBLIC_2017:
        return []
    module, expected = _Module(text), SLOPES_2017.get(func, RELEASED_SLOPE)
    slopes = set()
    for node in _walk(module.functions.get(func)):
        activation = module.assigned.get(node.id, node) if isinstance(node, ast.Name) else node
        if isinstance(activation, ast.Call) and _last_name(activation.func) == 'LeakyRectify':
            argument = next(iter([*activation.args, *filter(None, [_keyword(activation, 'leakiness')])]), None)
            slopes.add(LASAGNE_SLOPES['leaky_rectify'] if argument is None else module.number(argument))
        elif _last_name(activation) in LASAGNE_SLOPES:
            slopes.add(LASAGNE_SLOPES[_last_name(activation)])
    return [f'{SLOPE.words} is {_short(slope)} there and {expected} here' for slope in slopes
            if slope is not None and not math.isclose(slope, expected, rel_tol=1e-6)]
