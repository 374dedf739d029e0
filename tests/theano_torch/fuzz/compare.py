"""Run a recipe on several engines and say where they differ."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import theano_torch

import numpy as np
import theano

import theano_env
from tests.theano_torch.fuzz.recipes import Recipe

# Relative to the largest element: the engines add in another order, and use other approximations of functions.
TOLERANCE = {2: 1e-2, 4: 2e-4, 8: 1e-9}     # By bytes of the least exact type in the program.
# Absolute, in units in the last place of 1: differences such as 1 - tanh(x)^2 lose what is smaller.
UNITS = 16
# How far results may move beyond that, as a multiple of how far Theano's own move when its inputs change by some units
# in the last place: rounding errors grow in a program as these do.
MOVEMENT = 30
NUM_CHANGES = 6
LARGE_FLOAT16 = 3e4
# What Theano's Python code says where NumPy cannot do what its C code and torch do.
LIMITS_OF_NUMPY = ('read-only', 'Integers to negative integer powers', 'which has no identity')


@dataclasses.dataclass(frozen=True)
class Failed:
    """An engine has raised an error."""

    error: Exception

    def is_about_shapes(self) -> bool:
        """Whether it says that shapes or indices do not fit, so that the other engines have to raise one as well."""
        return isinstance(self.error, ValueError | IndexError) and not any(
            text in str(self.error) for text in LIMITS_OF_NUMPY)

    def __str__(self) -> str:
        lines = str(self.error).splitlines() or ['']
        return f'{type(self.error).__name__}: {lines[0][:160]}'


def modes(compiler: str = '') -> dict[str, Any]:
    """The engines by name; that of Theano's C code only with a `compiler`."""
    chosen = {'torch': theano_torch.mode(), 'python': theano_env._python_engine('cpu')[0]}
    if compiler:
        theano.config.cxx = compiler
        chosen['theano'] = theano_env._theano_engine('cpu')[0]
        theano.config.cxx = ''
    return chosen


@contextlib.contextmanager
def settings(compiler: str) -> Iterator[None]:
    """No warnings of NumPy about NaN, and the C compiler for the time of one compilation."""
    before, theano.config.cxx = theano.config.cxx, compiler
    try:
        with warnings.catch_warnings(), np.errstate(all='ignore'):
            warnings.simplefilter('ignore')
            # NumPy lets them pass where nothing is read in the end.
            warnings.filterwarnings('error', 'Out of bound index found')
            yield
    finally:
        theano.config.cxx = before


def run(recipe: Recipe, mode: Any, compiler: str = '', casts: bool = True) -> list[np.ndarray] | Failed:
    """The results of two calls of the function and the shared variables after them, or the error.

    With `casts` they are cast to the types that they should have: some of Theano's Python code has others.
    """
    with settings(compiler):
        try:
            compiled = recipe.function(mode)
            results = compiled.results()
            return [value.astype(dtype) for value, dtype in zip(results, compiled.types, strict=True)] \
                if casts else results
        except DeprecationWarning as error:
            return Failed(IndexError(str(error)))
        except Exception as error:
            return Failed(error)


def precision(recipe: Recipe) -> int:
    """Bytes of the least exact floating-point type in the program.

    NumPy computes functions of numbers of 8 bits in float16, Theano's C code in float32.
    """
    found = [8]
    for variable in recipe.variables():
        dtype = np.dtype(getattr(variable, 'dtype', 'float64'))
        if dtype.kind in 'fc':
            found.append(dtype.itemsize // (2 if dtype.kind == 'c' else 1))
            arguments = variable.owner.inputs if getattr(variable, 'owner', None) else []
            if arguments and all(np.dtype(getattr(one, 'dtype', 'int64')).itemsize == 1 for one in arguments):
                found.append(2)
    return min(found)


def difference(mine: list | Failed, theirs: list | Failed, size: int, movement: Sequence | None = None) -> str:
    """How the results differ, or ''.

    Parameters
    ----------
    mine, theirs
        Results of `run`. Two errors count as equal.
    size : int
        Bytes of the least exact type in the program.
    movement : list of ndarray, optional
        See `movements`: how far the elements of each output may differ beyond that.
    """
    if isinstance(mine, Failed) or isinstance(theirs, Failed):
        if isinstance(mine, Failed) and isinstance(theirs, Failed):
            return ''
        return f'{"error" if isinstance(mine, Failed) else "no error"}: ' + str(
            mine if isinstance(mine, Failed) else theirs)
    for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        if one.dtype != other.dtype:
            return f'result {index} has the type {one.dtype}, not {other.dtype}'
        if movement is not None and movement[index] is None:
            continue
        if one.shape != other.shape:
            return f'result {index} has the shape {one.shape}, not {other.shape}'
        wrong = ~equal(one, other, size, 0 if movement is None else movement[index])
        if wrong.any():
            where = np.unravel_index(wrong.argmax(), wrong.shape)
            return (f'result {index} of the type {one.dtype} differs in {wrong.sum()} of {wrong.size} elements, at '
                    f'{[int(number) for number in where]}: {one[where]} instead of {other[where]}')
    return ''


def equal(one: np.ndarray, other: np.ndarray, size: int, movement: Any) -> np.ndarray:
    """Which elements are equal, up to the tolerance; NaN equals NaN, and infinities must be the same."""
    if one.dtype.kind in 'fc':
        with np.errstate(all='ignore'):
            one, other = (value.astype('complex128' if value.dtype.kind == 'c' else 'float64')
                          for value in (one, other))
            finite = np.abs(other[np.isfinite(other)])
            scale = finite.max() if finite.size else 1.0
            allowed = TOLERANCE[size] * scale + UNITS * np.finfo(f'f{size}').eps + MOVEMENT * movement
            close = np.abs(one - other) <= allowed
            if size == 2:       # Fused ops of Theano compute in float32, where less is too large.
                close |= (~(np.abs(one) < LARGE_FLOAT16)) | (~(np.abs(other) < LARGE_FLOAT16))
            return close | (one == other) | (np.isnan(one) & np.isnan(other)) | np.isinf(movement)
    return (one == other) | (np.asarray(movement) > 0)


def movements(recipe: Recipe, mode: Any, size: int) -> list:
    """How far each element of the results moves when the inputs change a little, on Theano's own engine.

    Equal numbers change alike, so that ties stay ties. Infinite where an element is not always finite; None for a
    result whose shape changes. `size` is that of the least exact type.
    """
    step = {2: 1e-3, 4: 4e-7, 8: 1e-14}[size]
    with settings(''):
        compiled = recipe.function(mode)
        first = compiled.results()
        found: list = [np.zeros(value.shape) for value in first]
        for number in range(NUM_CHANGES):
            for index, value in enumerate(compiled.results(change=lambda value, k=number: nudged(value, step, k))):
                if found[index] is None or value.shape != first[index].shape:
                    found[index] = None
                    continue
                found[index] = np.maximum(found[index], distance(value, first[index]))
    return found


def nudged(value: np.ndarray, step: float, number: int) -> np.ndarray:
    """`value` with floating-point numbers a little larger or smaller."""
    if value.dtype.kind not in 'fc':
        return value
    factor = 1 + step * np.sin(1000.0 * (number + 1) * np.nan_to_num(np.abs(value.astype('complex128')), posinf=0))
    changed = np.empty_like(value)     # With the strides of `value`.
    changed[...] = np.where(np.isfinite(value), value * factor, value)
    return changed


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    if one.dtype.kind not in 'fc':
        return (one != other).astype('float64')
    with np.errstate(all='ignore'):
        apart = np.abs(one.astype('complex128') - other.astype('complex128'))
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))


@dataclasses.dataclass
class Comparison:
    """Compares the torch engine with others.

    Parameters
    ----------
    reference : str
        ``'python'`` or ``'theano'``. Where the python engine differs, Theano's C code decides if there is a compiler:
        a program on which it agrees with torch is counted as equal.
    compiler : str
        Path of g++, or ''.
    reference_of : callable
        Recipe -> the recipe to be run by Theano's Python code in its place.

    Attributes
    ----------
    num_failing : int
        Programs that no engine runs.
    num_refused : int
        Programs that torch runs, and that the other engine does not, with an error that says nothing about shapes.
    num_decided : int
        Programs on which Theano's C code agrees with torch, and its Python code does not.
    """

    reference: str = 'python'
    compiler: str = ''
    reference_of: Callable[[Recipe], Recipe] = lambda recipe: recipe

    def __post_init__(self) -> None:
        self.modes = modes(self.compiler)
        self.num_failing = self.num_refused = self.num_decided = 0

    def run(self, recipe: Recipe, engine: str) -> list[np.ndarray] | Failed:
        if engine == 'python':
            recipe = self.reference_of(recipe)
        return run(recipe, self.modes[engine], self.compiler if engine == 'theano' else '', casts=engine != 'torch')

    def __call__(self, recipe: Recipe) -> str:
        """How torch differs from the others, or ''."""
        mine, theirs = self.run(recipe, 'torch'), self.run(recipe, self.reference)
        if isinstance(theirs, Failed) and isinstance(mine, Failed):
            self.num_failing += 1
            return ''
        size = precision(recipe)
        found = difference(mine, theirs, size)
        if not found:
            return ''
        if isinstance(theirs, Failed) and not theirs.is_about_shapes():
            self.num_refused += 1
            return ''
        if not isinstance(mine, Failed) and not isinstance(theirs, Failed):
            movement = movements(self.reference_of(recipe), self.modes['python'], size)
            found = difference(mine, theirs, size, movement)
        else:
            movement = None
        is_decidable = not isinstance(mine, Failed) or mine.is_about_shapes()   # Some Python code checks no shapes.
        if found and self.compiler and self.reference == 'python' and is_decidable:
            if not difference(mine, self.run(recipe, 'theano'), size, movement):
                self.num_decided += 1
                return ''
        return found
