"""Theano programs as data: sources, calls, outputs and updates.

Variables are numbered: first the sources, then the results of calls. A call that returns a list, such as ``T.grad``, is
followed by calls of ``operator.getitem``.
"""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import theano
import theano.tensor as T
from theano.sandbox.rng_mrg import MRG_RandomStreams
from theano.tensor.nnet import abstract_conv
from theano.tensor.shared_randomstreams import RandomStreams
from theano.tensor.signal import conv, pool

from tests.theano_torch.fuzz.pooling import padded_max_pool

# Names of functions in calls begin with one of these.
MODULES = {'T': T, 'theano': theano, 'operator': operator, 'abstract_conv': abstract_conv, 'pool': pool, 'conv': conv,
           'padded_max_pool': padded_max_pool, 'MRG_RandomStreams': MRG_RandomStreams, 'RandomStreams': RandomStreams}
# Huge numbers have one sign only, since sums of both signs depend on the order.
SPECIAL = (np.nan, np.inf, -np.inf, -0.0, 1e30, 1e-30)


@dataclasses.dataclass(frozen=True)
class Ref:
    """The variable number `index` of a recipe."""

    index: int

    def __repr__(self) -> str:
        return f'v{self.index}'


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of `function`, such as ``'T.maximum'``, or of a method of the first argument, such as ``'.sum'``.

    Arguments and options are numbers, strings, slices, arrays, `Ref`, `Body`, and lists, tuples and dicts of them.
    """

    function: str
    arguments: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        arguments = [shown(value) for value in self.arguments]
        if self.function == 'operator.getitem':
            return f'{arguments[0]}[{shown_index(self.arguments[1])}]'
        options = [f'{name}={shown(value)}' for name, value in self.options.items()]
        if self.function.startswith('.'):
            return f'{arguments[0]}{self.function}({", ".join(arguments[1:] + options)})'
        return f'{self.function}({", ".join(arguments + options)})'


@dataclasses.dataclass(frozen=True)
class Body:
    """The inner function of a scan: `count` arguments, then the results of `calls`.

    Attributes
    ----------
    outputs : tuple of Ref
    until : Ref or None
        The loop ends when this becomes true.
    """

    count: int
    calls: tuple[Call, ...]
    outputs: tuple[Ref, ...]
    until: Ref | None = None

    def function(self, *arguments: Any) -> Any:
        """The inner function, for ``theano.scan``."""
        variables = list(arguments)
        for call in self.calls:
            variables.append(evaluate(call, variables))
        outputs = [variables[ref.index] for ref in self.outputs]
        if self.until is None:
            return outputs
        return outputs, theano.scan_module.until(variables[self.until.index])

    def __repr__(self) -> str:
        names = ', '.join(f'v{index}' for index in range(self.count))
        steps = '; '.join(f'v{self.count + index} = {call!r}' for index, call in enumerate(self.calls))
        end = '' if self.until is None else f', until({self.until!r})'
        return f'<function of ({names}): {steps}; return {list(self.outputs)!r}{end}>'


@dataclasses.dataclass(frozen=True)
class Source:
    """An argument or a shared variable, and its value.

    Attributes
    ----------
    layout : str
        Memory layout of the value: one of `LAYOUTS`.
    is_whole : bool
        Whether floating-point values are small whole numbers, many of which are equal.
    special : int
        Number of elements that are NaN, infinite, huge or tiny.
    """

    dtype: str
    shape: tuple[int, ...]
    seed: int = 0
    layout: str = 'C'
    is_shared: bool = False
    is_whole: bool = False
    special: int = 0
    scale: float = 2.0

    def value(self) -> np.ndarray:
        random = np.random.RandomState(self.seed)
        kind = np.dtype(self.dtype).kind
        if kind == 'b':
            value = random.rand(*self.shape) < 0.5
        elif kind in 'iu':
            value = random.randint(0 if kind == 'u' else -5, 9, self.shape)
        else:
            value = random.randn(*self.shape) * self.scale
            if kind == 'c':
                value = value + 1j * random.randn(*self.shape)
            value = np.asarray(np.round(value) if self.is_whole else value)
            for position in range(self.special if value.size else 0):
                value.flat[random.randint(value.size)] = SPECIAL[(self.seed + position) % len(SPECIAL)]
        with np.errstate(over='ignore'):
            return np.asarray(LAYOUTS[self.layout](np.array(value, dtype=self.dtype)))

    def variable(self) -> Any:
        broadcastable = tuple(size == 1 for size in self.shape)
        if self.is_shared:
            return theano.shared(self.value(), broadcastable=broadcastable)
        return T.TensorType(self.dtype, broadcastable)()

    def __repr__(self) -> str:
        fields = [f'{field.name}={getattr(self, field.name)!r}' for field in dataclasses.fields(self)[2:]
                  if getattr(self, field.name) != field.default]
        return f'Source({", ".join([repr(self.dtype), repr(self.shape), *fields])})'


def reversed_in_memory(value: np.ndarray) -> np.ndarray:
    everywhere = (slice(None, None, -1),) * value.ndim
    return value[everywhere].copy()[everywhere]


def every_second(value: np.ndarray) -> np.ndarray:
    wide = np.repeat(value, 2, axis=-1) if value.ndim else value
    return wide[..., ::2] if value.ndim else value


LAYOUTS = {'C': lambda value: value,
           'F': lambda value: np.array(value, order='F'),
           'reversed': reversed_in_memory, 'strided': every_second}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A Theano function.

    Attributes
    ----------
    outputs : tuple of Ref
    updates : tuple of (Ref, Ref)
        Shared variables and their new values.
    more_updates : tuple of Ref
        Dicts of updates, as a scan returns them.
    """

    sources: tuple[Source, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Ref, ...]
    updates: tuple[tuple[Ref, Ref], ...] = ()
    more_updates: tuple[Ref, ...] = ()

    def __repr__(self) -> str:
        lines = [f'v{index} = {source!r}' for index, source in enumerate(self.sources)]
        lines += [f'v{len(self.sources) + index} = {call!r}' for index, call in enumerate(self.calls)]
        lines += [f'outputs = {list(self.outputs)!r}']
        lines += [f'updates = {list(self.updates)!r}'] if self.updates else []
        lines += [f'more_updates = {list(self.more_updates)!r}'] if self.more_updates else []
        return '\n'.join(lines)

    def variables(self) -> list:
        """Build new Theano variables for all sources and calls."""
        variables = [source.variable() for source in self.sources]
        for call in self.calls:
            variables.append(evaluate(call, variables))
        return variables

    def function(self, mode: Any) -> 'Compiled':
        """Compile the function."""
        variables = self.variables()
        updates = {variables[target.index]: fitting(variables[target.index], variables[value.index])
                   for target, value in self.updates}
        for ref in self.more_updates:
            updates.update(variables[ref.index])
        arguments, shared = [], []
        for source, variable in zip(self.sources, variables, strict=False):
            (shared if source.is_shared else arguments).append((source, variable))
        function = theano.function(
            [variable for _, variable in arguments], [variables[ref.index] for ref in self.outputs], mode=mode,
            updates=list(updates.items()), on_unused_input='ignore')
        types = [variables[ref.index].dtype for ref in self.outputs] * 2 + [variable.dtype for _, variable in shared]
        return Compiled(function, [source for source, _ in arguments], [variable for _, variable in shared], types)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled recipe. `types` are the declared types of its results."""

    function: Any
    arguments: list[Source]
    shared: list
    types: list[str]

    def results(self, change: Any = lambda value: value) -> list[np.ndarray]:
        """The outputs of two calls, then the shared variables; `change` is applied to all values before the calls."""
        before = [variable.get_value() for variable in self.shared]
        for variable, value in zip(self.shared, before, strict=True):
            variable.set_value(change(value))
        results: list = []
        for _ in range(2):
            results += [np.array(value) for value in self.function(*[change(source.value())
                                                                     for source in self.arguments])]
        results += [variable.get_value() for variable in self.shared]
        for variable, value in zip(self.shared, before, strict=True):
            variable.set_value(value)
        return results


def fitting(shared: Any, value: Any) -> Any:
    """Convert `value` to the type of a shared variable."""
    value = T.cast(value, shared.dtype)
    axes = [axis for axis in range(shared.ndim) if shared.broadcastable[axis] and not value.broadcastable[axis]]
    return T.addbroadcast(value, *axes) if axes else value


def evaluate(call: Call, variables: Sequence) -> Any:
    """Apply a call to Theano variables."""
    arguments = [resolved(value, variables) for value in call.arguments]
    options = {name: resolved(value, variables) for name, value in call.options.items()}
    if call.function.startswith('.'):
        return getattr(arguments[0], call.function[1:])(*arguments[1:], **options)
    first, *rest = call.function.split('.')
    function = MODULES[first]
    for name in rest:
        function = getattr(function, name)
    return function(*arguments, **options)


def resolved(value: Any, variables: Sequence) -> Any:
    """Replace references in `value` by variables."""
    if isinstance(value, Ref):
        return variables[value.index]
    if isinstance(value, Body):
        return value.function
    if isinstance(value, list | tuple):
        return type(value)(resolved(item, variables) for item in value)
    if isinstance(value, dict):
        return {name: resolved(item, variables) for name, item in value.items()}
    if isinstance(value, slice):
        return slice(*[resolved(part, variables) for part in (value.start, value.stop, value.step)])
    return value


def references(value: Any) -> list[Ref]:
    """All references in an argument, a call, or a collection of them."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, Call):
        return references([*value.arguments, *value.options.values()])
    if isinstance(value, dict):
        return references(list(value.values()))
    if isinstance(value, slice):
        return references([value.start, value.stop, value.step])
    if isinstance(value, list | tuple):
        return [ref for item in value for ref in references(item)]
    return []


def renamed(value: Any, names: dict[int, int]) -> Any:
    """Renumber the variables in `value`; `names` maps old to new numbers."""
    if isinstance(value, Ref):
        return Ref(names[value.index])
    if isinstance(value, Call):
        return Call(value.function, renamed(value.arguments, names), renamed(value.options, names))
    if isinstance(value, list | tuple):
        return type(value)(renamed(item, names) for item in value)
    if isinstance(value, dict):
        return {name: renamed(item, names) for name, item in value.items()}
    if isinstance(value, slice):
        return slice(*[renamed(part, names) for part in (value.start, value.stop, value.step)])
    return value


def shown(value: Any) -> str:
    """Source code of `value`."""
    if isinstance(value, np.ndarray):
        return f'np.array({value.tolist()!r}, {str(value.dtype)!r})'
    if isinstance(value, dict):
        return '{%s}' % ', '.join(f'{name!r}: {shown(item)}' for name, item in value.items())
    if isinstance(value, list | tuple):
        items = ', '.join(map(shown, value))
        return f'[{items}]' if isinstance(value, list) else f'({items}{"," if len(value) == 1 else ""})'
    return repr(value)


def shown_index(index: Any) -> str:
    """Source code of an index, without the brackets."""
    if isinstance(index, tuple) and index:
        return ', '.join(map(shown_index, index))
    if isinstance(index, slice):
        start, stop, step = ['' if part is None else shown(part) for part in (index.start, index.stop, index.step)]
        return f'{start}:{stop}:{step}' if step else f'{start}:{stop}'
    return '...' if index is Ellipsis else shown(index)


def pruned(recipe: Recipe) -> Recipe:
    """Remove sources and calls that no output or update needs."""
    count = len(recipe.sources)
    needed = {ref.index for ref in references([recipe.outputs, recipe.updates, recipe.more_updates])}
    for index in reversed(range(len(recipe.calls))):
        if count + index in needed:
            needed.update(ref.index for ref in references(recipe.calls[index]))
    kept = sorted(needed)
    names = {old: new for new, old in enumerate(kept)}
    return Recipe(tuple(recipe.sources[index] for index in kept if index < count),
                  tuple(renamed(recipe.calls[index - count], names) for index in kept if index >= count),
                  renamed(recipe.outputs, names), renamed(recipe.updates, names), renamed(recipe.more_updates, names))
