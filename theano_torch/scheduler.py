"""Scheduling of a function's steps: how many threads each uses, and which run side by side.

This is the only interface to threads and lanes. A function has a `Scheduler`; each of its programs gets a `Schedule`:

- A walk over the graph makes the program. It calls `begin` before each node, `add` for each step, `arguments` for the
  values to compute a node with, and `end` after the last node.
- Afterwards `is_final` tells whether the walk computed exactly what the program computes. If not, the program must
  run, too.
- `parts` divides the steps into the parts of the program, each with a method `run`.

The number of threads of an operation may change the last bits of its result. It therefore depends only on the graph and
on shapes, and is the same in every call. In the first call, the walk uses the same numbers of threads as the program
will, except for steps that will run in lanes: with such steps, the walk is not final.
"""

import contextlib
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from theano_torch import costs, hosts
from theano_torch.lanes import Lanes, needs_of
from theano_torch.steps import Part, Serial, Step, TracedStep

import torch
from theano.ifelse import IfElse
from theano.scan_module.scan_op import Scan

# Outside of lanes, nodes with at least this much work use all threads. For less, waking the threads costs more than it
# saves.
WIDE_PRODUCT = 3000000      # Multiplications per kernel element.
WIDE_ELEMENTS = 500000      # Elements of the largest input, for other nodes.

SPEED_UP = 1.6              # Speed of products with all threads relative to half of them.
SMALL_STEP = 1500000        # Multiplications per step: with fewer on average, switching the interpreter between threads
                            # costs more than lanes save.
BIG_PRODUCT = 600000000     # Multiplications per kernel element: for larger products, the cost of waking threads is
                            # negligible, and lanes would only take more memory.


class Scheduler:
    """Makes the schedules of one function.

    Parameters
    ----------
    order : list of theano.gof.Apply
    device : torch.device
    """

    def __init__(self, order: list, device: torch.device) -> None:
        self.order, self.device = order, device
        # Made in the first call, with the number of threads then, which may differ from that during compilation.
        self.policy: ThreadPolicy | None = None

    @contextlib.contextmanager
    def around_call(self) -> Iterator[None]:
        """Context of a call of the function; restores PyTorch's number of threads afterwards."""
        before = torch.get_num_threads()
        try:
            yield
        finally:
            if self.policy is not None:
                torch.set_num_threads(before)

    def new_schedule(self, shapes: costs.Shapes) -> 'Schedule':
        """A schedule for a walk, which fills `shapes`: variable -> tuple."""
        if self.policy is None and self.device.type == 'cpu' and torch.get_num_threads() > 1:
            self.policy = ThreadPolicy(self.order, torch.get_num_threads())
        return Schedule() if self.policy is None else ThreadedSchedule(self.policy, shapes)


class Schedule:
    """Runs all steps one after the other, with PyTorch's number of threads.

    Attributes
    ----------
    steps : list of TracedStep
        All added steps.
    is_final : bool
        Whether the walk over the graph computed exactly what the program computes.
    """

    is_final = True

    def __init__(self) -> None:
        self.steps: list[TracedStep] = []

    def begin(self, node: Any) -> None:
        """Call it before `node` is computed."""

    def end(self) -> None:
        """Call it after the last node."""

    def add(self, step: TracedStep) -> None:
        """Add the step that the walk has just computed."""
        self.steps.append(step)

    def arguments(self, node: Any, values: Sequence) -> Sequence:
        """Arguments with which the walk computes `node`; `values` are the node's inputs."""
        return values

    def parts(self, traced: Sequence[TracedStep], steps: Sequence[Step], kept: Collection[int]) -> list[Part]:
        """Divide `steps` into the parts of the program.

        Parameters
        ----------
        traced : list of TracedStep
            Some of the added steps.
        steps : list of Step
            Made from `traced`, in the same order.
        kept : collection of int
            Slots that are needed after the steps.
        """
        return [Serial(list(steps))]


class ThreadedSchedule(Schedule):
    """Runs each step with the number of threads that `policy` selects, and some steps in lanes."""

    def __init__(self, policy: 'ThreadPolicy', shapes: costs.Shapes) -> None:
        super().__init__()
        self.policy, self.shapes = policy, shapes
        self.num_begun = 0
        self.threads: int | None = None     # Number of threads of the current node.

    def begin(self, node: Any) -> None:
        self.decide()
        self.num_begun += 1
        self.threads = self.policy.threads_of(node, self.shapes)
        torch.set_num_threads(self.threads)

    def end(self) -> None:
        self.decide()
        self.threads = None

    def decide(self) -> None:
        """Decide whether to use lanes, once all nodes that may run in lanes are computed."""
        if self.num_begun == self.policy.last and \
                self.policy.has_lanes([step.node for step in self.steps], self.shapes):
            self.is_final = False
            for step in self.steps:
                step.may_be_in_lanes = True

    def add(self, step: TracedStep) -> None:
        step.threads = self.threads
        super().add(step)

    def arguments(self, node: Any, values: Sequence) -> Sequence:
        """Copies if a node destroys its inputs and the program will run after the walk, because it needs the inputs."""
        if self.is_final or not getattr(node.op, 'destroy_map', None):
            return values
        return [value.clone() if isinstance(value, torch.Tensor) else value for value in values]

    def parts(self, traced: Sequence[TracedStep], steps: Sequence[Step], kept: Collection[int]) -> list[Part]:
        last = sum(step.may_be_in_lanes for step in traced)     # These steps come first.
        seconds = [costs.seconds(step.node, self.shapes) for step in steps[:last]]
        seconds_alone = [cost / SPEED_UP if step.threads == self.policy.threads else cost
                         for cost, step in zip(seconds, traced[:last], strict=True)]
        first = first_in_lanes(steps[:last], seconds, seconds_alone)
        if first == last:
            return [with_threads(steps, traced)]
        needed = set(kept).union(*(step.sources for step in steps[last:]))
        return [with_threads(steps[:first], traced[:first]),
                Lanes(steps[first:last], seconds[first:], needed, self.policy.lane_threads),
                with_threads(steps[last:], traced[last:])]


def with_threads(steps: Sequence[Step], traced: Sequence[TracedStep]) -> Serial:
    """`steps`, with additional steps that set the number of threads where it changes."""
    result, threads = [], None
    for step, origin in zip(steps, traced, strict=True):
        if origin.threads not in (None, threads):
            threads = origin.threads
            result.append(set_threads(threads))
        result.append(step)
    return Serial(result)


def set_threads(number: int) -> Step:
    """A step that sets PyTorch's number of threads."""
    def change() -> tuple:
        torch.set_num_threads(number)
        return ()
    return Step(change, sources=(), target=())


class ThreadPolicy:
    """Number of threads for each node of a function, and which nodes may run in lanes.

    Parameters
    ----------
    order : list of theano.gof.Apply
    threads : int
        Total number of threads.

    Attributes
    ----------
    last : int
        Index of the first node that destroys its inputs. This and later nodes run one by one.
    """

    def __init__(self, order: list, threads: int) -> None:
        self.threads, self.lane_threads = threads, threads // 2
        self.last = next((index for index, node in enumerate(order) if getattr(node.op, 'destroy_map', None)),
                         len(order))
        self.may_have_lanes = threads % 2 == 0 and not any(is_in_order(node.op) for node in order)

    def threads_of(self, node: Any, shapes: costs.Shapes) -> int:
        """Number of threads for a node outside of lanes, with inputs of the given shapes."""
        if isinstance(node.op, Scan):
            return self.threads     # The scheduler of its inner function divides them.
        if costs.is_product(node):
            is_wide = costs.multiplications_per_kernel_element(node, shapes) >= WIDE_PRODUCT
        else:
            is_wide = max((math.prod(shapes.get(var, ())) for var in node.inputs), default=0) >= WIDE_ELEMENTS
        return self.threads if is_wide else 1

    def has_lanes(self, nodes: Sequence, shapes: costs.Shapes) -> bool:
        """Whether lanes pay off for `nodes`. None stands for a conversion between host and device."""
        products = [node for node in nodes if node is not None and costs.is_product(node)]
        if not self.may_have_lanes or any(costs.multiplications_per_kernel_element(node, shapes) >= BIG_PRODUCT
                                          for node in products):
            return False
        work = sum(costs.multiplications(node, shapes) for node in products)
        return bool(nodes) and work >= SMALL_STEP * len(nodes)


def is_in_order(op: Any) -> bool:
    """Whether `op` has side effects, see `registry.lower`, determines what is computed, or sets numbers of threads
    itself."""
    return isinstance(op, IfElse | Scan) or hosts.has_effects(op)


def first_in_lanes(steps: Sequence[Step], seconds: Sequence[float], seconds_alone: Sequence[float]) -> int:
    """Index of the first step to run in lanes so that they save the most time; ``len(steps)`` if they save none.

    Parameters
    ----------
    steps : list of Step
    seconds, seconds_alone : lists of float
        Time of each step in a lane, and outside of lanes.
    """
    needs = needs_of(steps)
    path = [0.0] * len(steps)       # For each step, the time of the longest chain of steps after it.
    best, shortest = len(steps), sum(seconds_alone)
    before, work, longest = shortest, 0.0, 0.0
    for index in reversed(range(len(steps))):
        through = path[index] + seconds[index]
        for other in needs[index]:
            path[other] = max(path[other], through)
        before, work, longest = before - seconds_alone[index], work + seconds[index], max(longest, through)
        total = before + max(work / 2, longest)
        if total < shortest:
            best, shortest = index, total
    return best
