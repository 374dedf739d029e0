"""Run a recipe on several engines and describe how the results differ."""

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

# Relative to the largest element. The engines add in different orders and approximate functions differently.
TOLERANCE = {2: 1e-2, 4: 2e-4, 8: 1e-9}     # {bytes of the least exact type in the program: tolerance}
# Absolute, in units in the last place of 1: differences such as 1 - tanh(x)^2 lose smaller values.
UNITS = 16
# Rounding errors grow in a program like small changes of its inputs. Results may differ by this multiple of the largest
# movement of Theano's results when its inputs change by some units in the last place.
MOVEMENT = 30
NUM_CHANGES = 6
LARGE_FLOAT16 = 3e4
# Messages of Theano's Python code when NumPy cannot do what its C code and torch do.
LIMITS_OF_NUMPY = ('read-only', 'Integers to negative integer powers', 'which has no identity')


@dataclasses.dataclass(frozen=True)
class Failed:
    """The error of an engine."""

    error: Exception

    def is_about_shapes(self) -> bool:
        """Whether shapes or indices do not fit, so that the other engines must raise an error, too."""
        return isinstance(self.error, ValueError | IndexError) and not any(
            text in str(self.error) for text in LIMITS_OF_NUMPY)

    def __str__(self) -> str:
        lines = str(self.error).splitlines() or ['']
        return f'{type(self.error).__name__}: {lines[0][:160]}'


def modes(compiler: str = '') -> dict[str, Any]:
    """{name: mode} of the engines; Theano's C code only with a `compiler`."""
    chosen = {'torch': theano_torch.mode(), 'python': theano_env._python_engine('cpu')[0]}
    if compiler:
        theano.config.cxx = compiler
        chosen['theano'] = theano_env._theano_engine('cpu')[0]
        theano.config.cxx = ''
    return chosen


@contextlib.contextmanager
def settings(compiler: str) -> Iterator[None]:
    """Silence NumPy's warnings about NaN, and set the C compiler, inside the context."""
    before, theano.config.cxx = theano.config.cxx, compiler
    try:
        with warnings.catch_warnings(), np.errstate(all='ignore'):
            warnings.simplefilter('ignore')
            # NumPy only warns of bad indices if the result is empty.
            warnings.filterwarnings('error', 'Out of bound index found')
            yield
    finally:
        theano.config.cxx = before


def run(recipe: Recipe, mode: Any, compiler: str = '', casts: bool = True) -> list[np.ndarray] | Failed:
    """The results of two calls of a recipe and the shared variables after them, or the error.

    With `casts`, results are cast to their declared types, since some of Theano's Python code returns other types.
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

    Functions of 8-bit integers count as float16, since NumPy computes them so (Theano's C code uses float32).
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
    """How the results differ; '' if they do not.

    Parameters
    ----------
    mine, theirs
        Results of `run`. Two errors count as equal.
    size : int
        See `precision`.
    movement : list of ndarray, optional
        See `movements`; widens the tolerance of each element.
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
            if size == 2:       # Theano's fused ops compute in float32, where large numbers do not overflow.
                close |= (~(np.abs(one) < LARGE_FLOAT16)) | (~(np.abs(other) < LARGE_FLOAT16))
            return close | (one == other) | (np.isnan(one) & np.isnan(other)) | np.isinf(movement)
    return (one == other) | (np.asarray(movement) > 0)


def movements(recipe: Recipe, mode: Any, size: int) -> list:
    """The largest change of each result element on Theano's engine when the inputs change a little.

    Equal inputs change equally, so that ties remain. The change is infinite for elements that become NaN or infinite,
    and None for a result whose shape changes. For `size` see `precision`.
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
    """Change the floating-point numbers in `value` slightly."""
    if value.dtype.kind not in 'fc':
        return value
    factor = 1 + step * np.sin(1000.0 * (number + 1) * np.nan_to_num(np.abs(value.astype('complex128')), posinf=0))
    changed = np.empty_like(value)     # Keeps the strides of `value`.
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
        ``'python'`` or ``'theano'``. If torch differs from the python engine and there is a compiler, Theano's C code
        decides: if it agrees with torch, the program counts as equal.
    compiler : str
        Path of g++, or ''.
    reference_of : callable
        Function from a recipe to the recipe that Theano's Python code runs in its place.

    Attributes
    ----------
    num_failing : int
        Programs that fail on both engines.
    num_refused : int
        Programs that run on torch and fail on the reference, with an error that is not about shapes.
    num_decided : int
        Programs on which torch agrees with Theano's C code, but not with its Python code.
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
        """How torch differs from the reference; '' if it does not."""
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
        # Some of Theano's Python code does not check shapes.
        is_decidable = not isinstance(mine, Failed) or mine.is_about_shapes()
        if found and self.compiler and self.reference == 'python' and is_decidable:
            if not difference(mine, self.run(recipe, 'theano'), size, movement):
                self.num_decided += 1
                return ''
        return found
