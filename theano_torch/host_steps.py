"""Numbers that a program computes on the host from its arguments, for example the bounds of a minibatch.

There are dozens of them, and each costs as much as a small tensor operation. They are joined to a single step, which
remembers its results for recent arguments.
"""

from collections.abc import Callable, Sequence
from typing import Any

from theano_torch import hosts
from theano_torch.errors import naming
from theano_torch.steps import TracedStep

import numpy as np
import theano

MAX_REMEMBERED = 4096       # Number of argument combinations; covers the minibatches of an epoch.
FEWEST = 3                  # Smallest number of steps to join.


def is_number(var: Any) -> bool:
    """Whether values of `var` are single numbers, or arrays with one element."""
    if isinstance(var.type, theano.scalar.Scalar):
        return True
    return not hosts.is_host_type(var) and all(var.broadcastable)


def is_pure(node: Any) -> bool:
    """Whether `node` computes numbers from numbers, without side effects, and does not overwrite its inputs."""
    return not hosts.has_effects(node.op) and not getattr(node.op, 'destroy_map', None) and \
        all(map(is_number, node.inputs + node.outputs))


def joined(steps: Sequence[TracedStep], inputs: Sequence[tuple], outputs: Sequence[tuple],
           is_static: Callable[[Any], bool]) -> list[TracedStep]:
    """Join the steps that compute numbers on the host from whole numbers among the inputs; put the result in front.

    Parameters
    ----------
    steps : list of TracedStep
    inputs, outputs : list of keys
        Keys of the program, see `TracedStep`.
    is_static : callable
        Whether a variable is static, see `trace.Facts`.
    """
    roots = [key for key in inputs if key[1] and is_number(key[0]) and
             key[0].type.dtype in theano.tensor.discrete_dtypes]
    known, found, rest = set(roots), [], []
    for step in steps:
        if step.node is not None and step.targets and all(is_host for _, is_host in step.targets) and \
                is_pure(step.node) and all(key in known or is_static(key[0]) for key in step.sources):
            found.append(step)
            known.update(step.targets)
        else:
            rest.append(step)
    if len(found) < FEWEST:
        return list(steps)
    needed = {key for step in rest for key in step.sources}.union(outputs)
    targets = [key for step in found for key in step.targets if key in needed]
    statics = list(dict.fromkeys(key for step in found for key in step.sources if key not in known))
    first = TracedStep(Numbers(found, roots, statics, targets), roots + statics, targets, is_single=False,
                       may_be_in_lanes=any(step.may_be_in_lanes for step in steps))
    return [first, *rest]


class Numbers:
    """A function of the values of `roots` and `statics` that runs `steps` and returns the values of `targets`."""

    def __init__(self, steps: Sequence[TracedStep], roots: list, statics: list, targets: list) -> None:
        self.steps, self.keys, self.num_roots, self.targets = steps, roots + statics, len(roots), targets
        self.known: dict[tuple, tuple] = {}

    def __call__(self, *arguments: Any) -> tuple:
        key = tuple([value.item() for value in arguments[:self.num_roots]])
        results = self.known.get(key)
        if results is None:
            if len(self.known) == MAX_REMEMBERED:
                self.known.clear()
            results = self.known[key] = self.computed(arguments)
        return results

    def computed(self, arguments: Sequence) -> tuple:
        values = dict(zip(self.keys, arguments, strict=True))
        for step in self.steps:
            sources = [values[key] for key in step.sources]
            with naming(step.node, sources):
                results = step.function(*sources)
            values.update(zip(step.targets, (results,) if step.is_single else results, strict=True))
        return tuple(map(kept, [values[key] for key in self.targets]))


def kept(value: Any) -> Any:
    """`value`; an array is copied and made read-only, so callers that pass it on must copy it."""
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.flags.writeable = False
    return value
