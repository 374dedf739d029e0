"""Find the calls that one kernel computes: join elements over the same pixels into groups that can still be ordered."""

import heapq
import math
from collections.abc import Iterable, Sequence

from theano_torch.fuser.elements import POOL, SUM, UPSCALE, Element, Shape
from theano_torch.fuser.recording import Call, Operand, Version

MAX_ELEMENTS = 48       # Per group; more elements would not fit into registers.
MAX_TENSORS = 24        # Tensors that a group reads.
MAX_COLUMNS = 4096      # For groups with sums over rows or columns: one program of the kernel holds all columns.


class Mismatch(Exception):
    """Some elements do not fit into one kernel."""


def joined(a: Shape, b: Shape) -> Shape:
    """The larger of two shapes; the smaller one must equal it except for sizes of 1."""
    if len(a) == len(b):
        for large, small in ((a, b), (b, a)):
            if all(n in (1, m) for m, n in zip(large, small, strict=True)):
                return large
    raise Mismatch


class Space:
    """The index space of a kernel: images of shape `base` (level 0) and, optionally, of shape `fine` (level 1).

    Attributes
    ----------
    base : tuple of int
    fine : tuple of int or None
        ``base`` with some sizes multiplied by `factors`.
    """

    def __init__(self, base: Shape, fine: Shape | None = None) -> None:
        self.base, self.fine = base, fine

    def with_other(self, other: 'Space') -> 'Space':
        """A space that contains both spaces; `Mismatch` if there is none."""
        if self.fine is not None and other.fine is not None:
            return Space(joined(self.base, other.base), joined(self.fine, other.fine))
        if self.fine is None and other.fine is None:
            return Space(joined(self.base, other.base))
        deep, flat = (self, other) if self.fine is not None else (other, self)
        deep.level(flat.base)
        return deep

    def level(self, shape: Shape) -> int:
        """The level to which a shape belongs; sizes of 1 match any size."""
        for level, full in enumerate((self.base, self.fine)):
            if full is not None and all(n in (1, m) for m, n in zip(full, shape, strict=True)):
                return level
        raise Mismatch

    def full(self, level: int) -> Shape:
        """The shape of the images on a level."""
        return self.base if level == 0 or self.fine is None else self.fine

    @property
    def factors(self) -> Shape:
        """Number of fine pixels per base pixel, for each dimension."""
        return tuple(m // n for m, n in zip(self.fine or self.base, self.base, strict=True))


def memory_order(operand: Operand) -> Shape:
    """Dimensions with more than one element, from the outermost to the innermost in memory."""
    return tuple(sorted((axis for axis, size in enumerate(operand.shape) if size > 1),
                        key=lambda axis: -abs(operand.strides[axis])))


class Group:
    """The elements of one kernel, in the order of the program, and their common space.

    Attributes
    ----------
    order : tuple of int
        Dimensions of the space in the order of memory, outermost first.
    borrowed : set of Version
        Versions that this group recomputes. Another group makes them, too, and stores them if needed.
    """

    def __init__(self, elements: Sequence[Element], space: Space | None = None, order: Shape | None = None) -> None:
        self.borrowed: set[Version] = set()
        self.elements = list(elements)
        if space is None or order is None:
            element, = elements
            space = Space(*element.levels)
            like = element.reads[0] if element.kind == SUM else element.output
            order = memory_order(like)
        self.space, self.order = space, order

    @property
    def indices(self) -> list[int]:
        return [element.index for element in self.elements]

    @property
    def made(self) -> dict[Version, Element]:
        return {element.version: element for element in self.elements}

    @property
    def is_tiled(self) -> bool:
        """Whether a sum of the group is over rows or columns, which needs 2-D tiles."""
        return any(self.sum_kind(element) != 'all' for element in self.elements if element.kind == SUM)

    def sum_kind(self, element: Element) -> str:
        """'columns': a sum over the innermost dimension; 'rows': over all others; 'all': over all dimensions."""
        level = self.space.level(element.shape)
        if element.shape != self.space.full(level):
            raise Mismatch
        dims = frozenset(axis for axis, size in enumerate(element.shape) if size > 1)
        if element.axes == dims:
            return 'all'
        if not self.order or self.space.base[self.order[-1]] > MAX_COLUMNS or \
                self.space.factors[self.order[-1]] != 1 or dims != frozenset(self.order):
            raise Mismatch
        column = frozenset(self.order[-1:])
        if element.axes == column:
            return 'columns'
        if element.axes == dims - column:
            return 'rows'
        raise Mismatch

    def with_other(self, other: 'Group') -> 'Group':
        """Join two groups.

        Raises
        ------
        Mismatch
            Their elements do not fit into one kernel.
        """
        if len(self.elements) + len(other.elements) > MAX_ELEMENTS:
            raise Mismatch
        first, second = (group.matching(len(max(self.space.base, other.space.base, key=len)), other_group)
                         for group, other_group in ((self, other), (other, self)))
        space = first.space.with_other(second.space)
        orders = {group.order for group in (first, second)
                  if math.prod(group.space.fine or group.space.base) == math.prod(space.fine or space.base) or
                  group.space.base == space.base}
        if len(orders) > 1:
            raise Mismatch
        order = orders.pop() if orders else first.order
        elements = sorted([*first.elements, *second.elements], key=lambda element: element.index)
        result = Group(elements, space, order)
        result.check()
        return result

    def borrowing(self, chain: Sequence[Element]) -> 'Group':
        """This group with a copy of the elements `chain` of another group.

        Raises
        ------
        Mismatch
            The elements do not fit into one kernel.
        """
        known = self.made
        added = [element for element in chain if element.version not in known]
        shapes = [shape for element in added for shape in (element.shape, element.output.shape)]
        if any(len(shape) != len(self.space.base) for shape in shapes):
            raise Mismatch
        result = Group(sorted([*self.elements, *added], key=lambda element: element.index), self.space, self.order)
        result.borrowed = self.borrowed | {element.version for element in added}
        result.check()
        return result

    def matching(self, ndim: int, other: 'Group') -> 'Group':
        """View a group with `ndim` dimensions. If it has fewer, it must be a single map that reads a value of `other`.

        Raises
        ------
        Mismatch
        """
        missing = ndim - len(self.space.base)
        if not missing:
            return self
        if len(self.elements) > 1 or self.elements[0].kind in (SUM, POOL, UPSCALE) or missing > 3:
            raise Mismatch
        element, = self.elements
        known = other.made
        reads = [operand for operand in element.reads if operand.version in known]
        if not reads and math.prod(element.shape) > 1:
            raise Mismatch
        positions = positions_of(reads[0], known[reads[0].version].output) if reads else range(len(element.shape))
        return Group([element.with_dimensions(positions, ndim)])

    def check(self) -> None:
        """Raise `Mismatch` if the group is too large or an element reads a value that is not in its register."""
        made: dict[Version, tuple[int, Element]] = {}
        tensors: set[Version] = set()
        for element in self.elements:
            if element.kind == SUM:
                self.sum_kind(element)
            for operand in element.reads:
                if operand.version not in made:
                    tensors.add(operand.version)
                    continue
                self.check_register(element, operand, *made[operand.version])
            made[element.version] = (self.space.level(element.output.shape), element)
        if len(tensors) > MAX_TENSORS or self.is_tiled and self.space.base[self.order[-1]] > MAX_COLUMNS:
            raise Mismatch

    def check_register(self, element: Element, operand: Operand, level: int, maker: Element) -> None:
        """Raise `Mismatch` unless `operand` of `element` is the result of `maker` at the same pixel."""
        if maker.kind == SUM and self.sum_kind(maker) != 'columns':
            raise Mismatch      # Such sums are complete only after the kernel has ended.
        if operand.strides != maker.output.strides or operand.offset or operand.dtype != maker.output.dtype:
            raise Mismatch
        wanted = self.space.level(element.reads[0].shape) if element.kind in (POOL, UPSCALE) else \
            self.space.level(element.shape)
        if element.kind == POOL and wanted != 1 or element.kind == UPSCALE and wanted != 0:
            raise Mismatch
        if level != wanted and any(step and factor > 1 for step, factor in
                                   zip(operand.strides, self.space.factors, strict=True)):
            raise Mismatch


def positions_of(operand: Operand, made: Operand) -> list[int]:
    """For each dimension of `operand`, the corresponding one of `made`; both are views of the same memory."""
    places: list[int] = []
    for size, step in zip(operand.shape, operand.strides, strict=True):
        found = next((axis for axis, (n, m) in enumerate(zip(made.shape, made.strides, strict=True))
                      if axis not in places and axis > max(places, default=-1) and (n, m) == (size, step)), None)
        if found is None:
            raise Mismatch
        places.append(found)
    return places


# ----------------------------------------------------------------------------------------------------------------------
# Groups of a whole program.


def dependencies(calls: Sequence[Call]) -> list[set[int]]:
    """For each call, the indices of the calls that must precede it."""
    makers: dict[Version, int] = {}
    readers: dict[Version, set[int]] = {}
    before: list[set[int]] = []
    last_random: int | None = None
    for index, call in enumerate(calls):
        needed = {makers[operand.version] for operand in call.reads if operand.version in makers}
        for old in call.written:
            needed |= readers.get(old, set())
        if 'nondeterministic_seeded' in str(call.function.tags):
            needed |= {last_random} if last_random is not None else set()
            last_random = index
        before.append(needed - {index})
        for operand in call.reads:
            readers.setdefault(operand.version, set()).add(index)
        for version in call.made:
            makers[version] = index
    return before


class Grouping:
    """Joins calls into groups greedily, in the order of the program. A group is named by its first call.

    Parameters
    ----------
    before : list of sets of int
        See `dependencies`.
    elements : list of (Element or None)
        For each call, its element; None if a kernel cannot compute it.

    Attributes
    ----------
    members : dict
        Name of a group -> its calls.
    needs : dict
        Name of a group -> groups that must precede it.
    groups : dict
        Name of a group -> `Group`, for groups of elements.
    """

    def __init__(self, before: list[set[int]], elements: Sequence[Element | None]) -> None:
        self.group_of = list(range(len(before)))
        self.members: dict[int, list[int]] = {}
        self.needs: dict[int, set[int]] = {}
        self.reach: dict[int, int] = {}     # Name of a group -> bit set of all calls that must precede it.
        self.groups: dict[int, Group] = {}
        for index, element in enumerate(elements):
            self.members[index] = [index]
            self.needs[index] = {self.group_of[other] for other in before[index]}
            self.reach[index] = self.behind(self.needs[index])
            if element is not None:
                self.groups[index] = Group([element])
                self.join(index, sorted(self.needs[index], reverse=True))

    def bits(self, group: int) -> int:
        """The calls of a group as a bit set."""
        return sum(1 << index for index in self.members[group])

    def behind(self, groups: Iterable[int]) -> int:
        """All calls of some groups and their predecessors, as a bit set."""
        result = 0
        for group in groups:
            result |= self.bits(group) | self.reach[group]
        return result

    def join(self, index: int, candidates: Iterable[int]) -> None:
        """Join the group of call `index` with each of `candidates` that fits."""
        for other in candidates:
            mine = self.group_of[index]
            if other == mine or other not in self.groups or self.has_detour(mine, other) or \
                    self.has_detour(other, mine):
                continue
            try:
                merged = self.groups[other].with_other(self.groups[mine])
            except Mismatch:
                continue
            self.replace(other, mine, merged)

    def has_detour(self, last: int, first: int) -> bool:
        """Whether a third group must run between `first` and `last`."""
        goal = 1 << self.members[first][0]
        return any(self.reach[group] & goal for group in self.needs[last] if group != first)

    def replace(self, first: int, second: int, merged: Group) -> None:
        """Replace two groups by `merged`, under the name of the first."""
        for index in self.members[second]:
            self.group_of[index] = first
        self.members[first] = sorted(self.members[first] + self.members.pop(second))
        self.needs[first] = (self.needs[first] | self.needs.pop(second)) - {first, second}
        del self.reach[second], self.groups[second]
        self.groups[first] = merged
        own = self.bits(first)
        self.reach[first] = self.behind(self.needs[first])
        everything = own | self.reach[first]
        for group, needed in self.needs.items():
            if second in needed:
                needed.discard(second)
                needed.add(first)
            if group != first and self.reach[group] & own:
                self.reach[group] |= everything

    def order(self) -> list[int]:
        """The names of the groups in an order that respects `needs` and stays close to the program's order."""
        waiting = {group: set(needed) for group, needed in self.needs.items()}
        followers: dict[int, list[int]] = {}
        for group, needed in waiting.items():
            for other in needed:
                followers.setdefault(other, []).append(group)
        ready = [(self.members[group][-1], group) for group, needed in waiting.items() if not needed]
        heapq.heapify(ready)
        result = []
        while ready:
            _, group = heapq.heappop(ready)
            result.append(group)
            for follower in followers.get(group, []):
                waiting[follower].discard(group)
                if not waiting[follower]:
                    heapq.heappush(ready, (self.members[follower][-1], follower))
        assert len(result) == len(self.needs), 'the groups form a cycle'
        return result
