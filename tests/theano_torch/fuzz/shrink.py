"""Shorten a recipe on which the engines differ."""

import dataclasses
from collections.abc import Callable, Iterator

import theano.tensor as T

from tests.theano_torch.fuzz.recipes import Recipe, Ref, pruned, references, renamed

MAX_TRIES = 150


def shrink(recipe: Recipe, differs: Callable[[Recipe], str]) -> Recipe:
    """A small part of `recipe` for which `differs` still returns a text.

    Stops when no smaller part differs, or after `MAX_TRIES` attempts.
    """
    tries = 0
    changed = True
    while changed and tries < MAX_TRIES:
        changed = False
        for smaller in candidates(recipe):
            tries += 1
            if still_differs(smaller, differs):
                recipe, changed = smaller, True
                break
            if tries == MAX_TRIES:
                break
    return recipe


def still_differs(recipe: Recipe, differs: Callable[[Recipe], str]) -> bool:
    """Whether `recipe` can be built and differs."""
    try:
        recipe.variables()
    except Exception:       # The shortened program is not valid.
        return False
    return bool(differs(recipe))


def candidates(recipe: Recipe) -> Iterator[Recipe]:
    """Yield recipes that are a little smaller than `recipe`, the smallest ones first."""
    yield from with_one_output(dataclasses.replace(recipe, updates=(), more_updates=()))
    yield from without_updates(recipe)
    yield from with_one_output(recipe)
    yield from with_earlier_variables(recipe)
    yield from with_simpler_sources(recipe)


def with_one_output(recipe: Recipe) -> Iterator[Recipe]:
    """Yield recipes with a single output: the result of any call."""
    variables = recipe.variables()
    for index in range(len(recipe.sources), len(variables)):
        smaller = dataclasses.replace(recipe, outputs=(Ref(index),))
        if isinstance(variables[index], T.TensorVariable) and recipe.outputs != smaller.outputs:
            yield pruned(smaller)


def without_updates(recipe: Recipe) -> Iterator[Recipe]:
    if recipe.updates:
        yield pruned(dataclasses.replace(recipe, updates=()))
    if recipe.more_updates:
        yield pruned(dataclasses.replace(recipe, more_updates=()))


def with_earlier_variables(recipe: Recipe) -> Iterator[Recipe]:
    """Yield recipes in which one argument of a call is replaced by a source, or by an input of the argument's call."""
    count = len(recipe.sources)
    for index, call in enumerate(recipe.calls):
        for ref in dict.fromkeys(references(call)):
            if ref.index < count:
                continue
            inner = [other for other in references(recipe.calls[ref.index - count])]
            for other in dict.fromkeys([*map(Ref, range(count)), *inner]):
                names = {used.index: used.index for used in references(call)} | {ref.index: other.index}
                calls = list(recipe.calls)
                calls[index] = renamed(call, names)
                yield pruned(dataclasses.replace(recipe, calls=tuple(calls)))


def with_simpler_sources(recipe: Recipe) -> Iterator[Recipe]:
    for index, source in enumerate(recipe.sources):
        for field in dataclasses.fields(source)[3:]:
            if getattr(source, field.name) != field.default:
                sources = list(recipe.sources)
                sources[index] = dataclasses.replace(source, **{field.name: field.default})
                yield dataclasses.replace(recipe, sources=tuple(sources))
