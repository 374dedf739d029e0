"""Steps, the elements of programs, and functions that run lists of them. Most steps compute one node.

A step reads and writes slots, which are positions in a list of values.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

from theano_torch.errors import WrongShapes, raise_naming


class Step(NamedTuple):
    """A step of a program."""

    function: Callable
    sources: tuple[int, ...]            # Slots of the arguments.
    target: int | tuple[int, ...]       # Slot of the result; a tuple of slots if the function returns a tuple.
    emptied: tuple[int, ...] = ()       # Slots that are not needed after the step.
    node: Any = None                    # Theano's node, for errors. None: a conversion, or a change of threads.

    @property
    def targets(self) -> tuple[int, ...]:
        """The slots that the step writes."""
        return (self.target,) if isinstance(self.target, int) else self.target


@dataclasses.dataclass
class TracedStep:
    """A step of an unfinished program, with variables instead of slots.

    Sources and targets are keys: pairs of a variable and a bool, which is true for the variable's value on the host.
    """

    function: Callable
    sources: list
    targets: list
    node: Any = None
    is_single: bool = True              # Whether the function returns its only result instead of a tuple.
    is_check: bool = False              # Whether it may raise `WrongShapes`; then it runs even if nothing needs it.
    # Set by the schedule:
    threads: int | None = None          # Number of threads outside of lanes. None: unchanged.
    may_be_in_lanes: bool = False


class Part(Protocol):
    """A part of a program."""

    @property
    def steps(self) -> Sequence[Step]:
        """All steps."""

    def run(self, values: list) -> None:
        """Run all steps on the slots `values`."""


class Serial:
    """A part whose steps run one after the other."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps

    def run(self, values: list) -> None:
        execute(self.steps, values)


def execute(steps: Sequence[Step], values: list) -> None:
    """Run `steps` in order on the slots `values`. Errors name the node."""
    arguments: Sequence = ()
    target: Any
    node = None
    try:
        for function, sources, target, emptied, node in steps:     # noqa: B007  (the error handler uses them)
            arguments = [values[slot] for slot in sources]
            result = function(*arguments)
            if type(target) is int:
                values[target] = result
            else:
                for slot, value in zip(target, result, strict=True):
                    values[slot] = value
            for slot in emptied:
                values[slot] = None
    except WrongShapes:
        raise
    except Exception:
        if node is None:
            raise
        raise_naming(node, arguments)


def emptying(steps: Sequence[Step], own: Collection[int]) -> list[Step]:
    """Copies of `steps` that also empty each slot in `own` after its last use."""
    own = set(own)
    last_use = {slot: index for index, step in enumerate(steps) for slot in (*step.sources, *step.targets)}
    result = []
    for index, step in enumerate(steps):
        used = own.intersection((*step.sources, *step.targets))
        result.append(step._replace(emptied=tuple(sorted(slot for slot in used if last_use[slot] == index))))
    return result
