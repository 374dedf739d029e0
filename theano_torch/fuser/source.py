"""Write the source of a Triton kernel for a group of elements.

Each program of the kernel computes `rows` pixels of the base; with sums over rows or columns, each row has all
`columns`, the innermost dimension. A program holds all fine pixels of a base pixel in separate registers, so average
pooling and upscaling need no memory access.
"""

import hashlib
import itertools
import math
import re
from typing import NamedTuple

from theano_torch.fuser.elements import POOL, SUM, UPSCALE, Element, Shape
from theano_torch.fuser.expressions import TYPES, cast
from theano_torch.fuser.grouping import Group
from theano_torch.fuser.recording import Operand, Version

import torch

FLAT_SIZE = 1024        # Pixels per program, fine ones included.
TILE_SIZE = 2048        # Base pixels per program of a kernel with rows and columns.

NAME = re.compile(r'\b[a-z]\w*')

HEADER = '''"""Made by theano_torch.fuser."""

import triton
import triton.language as tl


@triton.jit
def kernel({parameters}):
'''


class Sum(NamedTuple):
    """A sum of a group. Each program of the kernel writes a partial sum."""

    element: Element
    kind: str               # 'rows' or 'all'.
    width: int              # Size of a partial sum.


class Source(NamedTuple):
    """A kernel's source text and its parameters: inputs, outputs, partial sums.

    Attributes
    ----------
    text : str
    inputs : list of Operand
        One view of each version that the kernel reads.
    outputs : list of Operand
        Results, without the sums.
    sums : list of Sum
    num_programs : int
    places : dict
        Index of an output -> indices of inputs whose memory it may reuse: each program writes only elements that it
        has read itself and that no other program reads.
    """

    text: str
    inputs: list[Operand]
    outputs: list[Operand]
    sums: list[Sum]
    num_programs: int
    places: dict[int, list[int]]

    @property
    def types(self) -> list[torch.dtype]:
        """Types of the kernel's parameters."""
        return [operand.dtype for operand in [*self.inputs, *self.outputs]] + \
            [summed.element.expression.compute for summed in self.sums]

    @property
    def name(self) -> str:
        """A file name, the hash of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:24]


class Writer:
    """Writes the kernel of `group`; `wanted` are the versions that it must store."""

    def __init__(self, group: Group, wanted: set[Version]) -> None:
        self.group, self.space = group, group.space
        self.sums = [Sum(element, kind, self.width(kind)) for element in group.elements if element.kind == SUM
                     and (kind := group.sum_kind(element)) != 'columns']
        self.outputs = [element.output for element in group.elements if element.version in wanted
                        and element.version not in {summed.element.version for summed in self.sums}]
        self.inputs: dict[Version, Operand] = {}
        self.lines: list[str] = []
        self.indices: dict[str, str] = {}       # Name -> expression, in an order of evaluation.
        self.offsets: dict[str, str] = {}       # Expression -> name.
        self.registers: dict[tuple[Version, Shape], str] = {}
        self.loads: dict[tuple[int, str], str] = {}
        self.names = (f'v{index}' for index in itertools.count())
        sizes = self.space.base
        self.columns = sizes[group.order[-1]] if group.is_tiled else 1
        self.width_of_tile = 1 << (self.columns - 1).bit_length()
        self.row_axes = group.order[:-1] if group.is_tiled else group.order
        self.num_rows = math.prod(sizes[axis] for axis in self.row_axes)
        size = TILE_SIZE // self.width_of_tile if group.is_tiled else FLAT_SIZE // math.prod(self.space.factors)
        self.rows = max(min(size, 1 << (self.num_rows - 1).bit_length()), 1)
        self.num_programs = -(-self.num_rows // self.rows)

    def width(self, kind: str) -> int:
        return self.space.base[self.group.order[-1]] if kind == 'rows' else 1

    def subs(self, level: int) -> list[Shape]:
        """Offsets, per dimension, of the pixels on a level that belong to one base pixel."""
        if level == 0:
            return [(0,) * len(self.space.base)]
        return list(itertools.product(*map(range, self.space.factors)))

    # ------------------------------------------------------------------------------------------------------------------
    # Memory access.

    def set_indices(self) -> None:
        """Set the index along each dimension, and masks of the pixels that are inside the space."""
        is_tiled = self.group.is_tiled
        wide = 'tl.program_id(0).to(tl.int64)' if self.is_large() else 'tl.program_id(0)'
        self.indices['row'] = f'{wide} * {self.rows} + tl.arange(0, {self.rows}){"[:, None]" if is_tiled else ""}'
        self.indices['row_inside'] = f'row < {self.num_rows}'
        if is_tiled:
            self.indices[f'd{self.group.order[-1]}'] = f'tl.arange(0, {self.width_of_tile})[None, :]'
            self.indices['column_inside'] = f'd{self.group.order[-1]} < {self.columns}'
        after = self.num_rows
        for place, axis in enumerate(self.row_axes):
            size = self.space.base[axis]
            after //= size
            index = 'row' if after == 1 else f'row // {after}'
            self.indices[f'd{axis}'] = index if place == 0 else f'({index}) % {size}'

    def index_lines(self) -> list[str]:
        """Lines that compute the indices that the kernel uses."""
        lines: list[str] = []
        used = set(NAME.findall('\n'.join(self.lines)))
        for name, expression in reversed(self.indices.items()):
            if name in used:
                used.update(NAME.findall(expression))
                lines.insert(0, f'    {name} = {expression}')
        return lines

    def is_large(self) -> bool:
        """Whether indices need 64 bits."""
        return any(operand.offset + sum(abs(step) * size for step, size in
                                        zip(operand.strides, operand.shape, strict=True)) >= 1 << 31
                   for element in self.group.elements for operand in [*element.reads, element.output])

    def place(self, operand: Operand, level: int, sub: Shape) -> tuple[str, str | None]:
        """(source of an element's offset in memory, mask of valid elements or None if all are valid)"""
        steps, offset = {}, operand.offset
        for axis, step in enumerate(operand.strides):
            if not step or operand.shape[axis] == 1:
                continue
            offset += step * sub[axis] if level else 0
            if self.space.base[axis] > 1:
                steps[axis] = step * (self.space.factors[axis] if level else 1)
        column = self.group.order[-1] if self.group.is_tiled else None
        masks = ['row_inside'] if set(steps) - {column} else []
        masks += ['column_inside'] if column in steps else []
        named = {f'd{axis}': step for axis, step in steps.items()}
        row_step = self.row_step(steps)
        if row_step is not None:
            named = {'row': row_step, **{f'd{axis}': step for axis, step in steps.items() if axis == column}}
        terms = [name if step == 1 else f'{name} * {step}' for name, step in named.items()]
        return ' + '.join([*terms, str(offset)] if offset or not terms else terms), ' & '.join(masks) or None

    def row_step(self, steps: dict[int, int]) -> int | None:
        """The distance of rows in memory for the strides `steps`; None if it is not constant."""
        axes = [axis for axis in self.row_axes if self.space.base[axis] > 1]
        if not axes or not steps.keys() >= set(axes):
            return None
        step = wanted = steps[axes[-1]]
        for axis in reversed(axes):
            if steps[axis] != wanted:
                return None
            wanted *= self.space.base[axis]
        return step

    def offset(self, place: str) -> str:
        """The name of a variable with an offset of :meth:`place`."""
        if ' ' not in place:
            return place
        if place not in self.offsets:
            self.offsets[place] = f'p{len(self.offsets)}'
            self.emit(f'{self.offsets[place]} = {place}')
        return self.offsets[place]

    def load(self, operand: Operand, level: int, sub: Shape) -> str:
        """Load an element of `operand`; return the name of its register."""
        first = self.inputs.setdefault(operand.version, operand)
        number = list(self.inputs).index(operand.version)
        place, mask = self.place(operand, level, sub)
        if (number, place) not in self.loads:
            name = next(self.names)
            rest = '' if mask is None else f', {mask}, other=0'
            self.emit(f'{name} = tl.load(i{number} + {self.offset(place)}{rest})')
            if first.dtype == torch.bool:
                self.emit(f'{name} = {name} != 0')
            self.loads[number, place] = name
        return self.loads[number, place]

    def register(self, operand: Operand, level: int, sub: Shape) -> str:
        """The name of the register with an element of `operand`, which is computed in the kernel or loaded."""
        for key in ((operand.version, sub), (operand.version, self.subs(0)[0])):
            if key in self.registers:
                return self.registers[key]
        return self.load(operand, level, sub)

    # ------------------------------------------------------------------------------------------------------------------
    # Elements.

    def emit(self, line: str) -> None:
        self.lines.append('    ' + line)

    def write_element(self, element: Element) -> None:
        """Compute an element for all pixels that belong to one base pixel."""
        if element.kind == SUM:
            self.write_sum(element)
            return
        level = self.space.level(element.output.shape)
        if element.kind == POOL:
            self.write_pool(element)
            return
        for sub in self.subs(level):
            if element.kind == UPSCALE:
                name = self.register(element.reads[0], 0, self.subs(0)[0])
                self.registers[element.version, sub] = cast(name, element.reads[0].dtype, element.output.dtype)
                continue
            names = [self.register(value, level, sub) if isinstance(value, Operand) else ''
                     for value in element.operands]
            name = next(self.names)
            self.emit(f'{name} = {element.expression.source(names, element.operands)}')
            self.registers[element.version, sub] = name

    def write_pool(self, element: Element) -> None:
        names = [f'{self.register(element.reads[0], 1, sub)}.to(tl.float32)' for sub in self.subs(1)]
        name = next(self.names)
        self.emit(f'{name} = (({" + ".join(names)}) * {1 / len(names)!r}).to({TYPES[element.output.dtype]})')
        self.registers[element.version, self.subs(0)[0]] = name

    def write_sum(self, element: Element) -> None:
        """Compute a sum over columns in a register; for other sums, store a partial sum."""
        level = self.space.level(element.shape)
        kind = self.group.sum_kind(element)
        inside = 'row_inside & column_inside' if self.group.is_tiled else 'row_inside'
        if kind == 'columns':
            for sub in self.subs(level):
                name = next(self.names)
                self.emit(f'{name} = tl.where({inside}, {self.summand(element, level, sub)}, 0)')
                self.emit(f'{name} = tl.sum({name}, 1)[:, None].to({TYPES[element.output.dtype]})')
                self.registers[element.version, sub] = name
            return
        name = next(self.names)
        parts = [self.summand(element, level, sub) for sub in self.subs(level)]
        self.emit(f'{name} = tl.where({inside}, {" + ".join(parts)}, 0)')
        number = len(self.outputs) + [summed.element for summed in self.sums].index(element)
        if kind == 'rows':
            place = f'tl.program_id(0) * {self.columns} + tl.arange(0, {self.width_of_tile})'
            self.emit(f'tl.store(o{number} + {place}, tl.sum({name}, 0), '
                     f'tl.arange(0, {self.width_of_tile}) < {self.columns})')
        else:
            total = f'tl.sum(tl.sum({name}, 1), 0)' if self.group.is_tiled else f'tl.sum({name}, 0)'
            self.emit(f'tl.store(o{number} + tl.program_id(0), {total})')

    def summand(self, element: Element, level: int, sub: Shape) -> str:
        return f'{self.register(element.reads[0], level, sub)}.to({TYPES[element.expression.compute]})'

    def write_stores(self) -> None:
        for number, output in enumerate(self.outputs):
            level = self.space.level(output.shape)
            for sub in self.subs(level):
                place, mask = self.place(output, level, sub)
                # Repeated elements are stored once.
                repeated = [f'(d{axis} == 0)' for axis in self.group.order
                            if self.space.base[axis] > 1 and (output.shape[axis] == 1 or not output.strides[axis])]
                masks = [f'({mask})'] * (mask is not None) + repeated
                value = self.registers.get((output.version, sub)) or self.registers[output.version, self.subs(0)[0]]
                if output.dtype == torch.bool:
                    value = f'{value}.to(tl.int8)'
                shape = 'row * 0' if not self.group.is_tiled else f'row * 0 + d{self.group.order[-1]} * 0'
                spread = bool(repeated) or mask is None
                self.emit(f'tl.store(o{number} + {self.offset(place)}{" + " + shape if spread else ""}, {value}, '
                         f'{" & ".join(masks) or "row_inside"})')

    def places(self) -> dict[int, list[int]]:
        """See `Source`."""
        made = self.group.made
        found: dict[int, list[int]] = {}
        for number, output in enumerate(self.outputs):
            sources = self.sources_of(made[output.version])
            for index, version in enumerate(self.inputs):
                reads = [operand for element in self.group.elements for operand in element.reads
                         if operand.version == version]
                if version in sources and all(operand[1:] == output[1:] for operand in reads):
                    found.setdefault(number, []).append(index)
        return found

    def sources_of(self, element: Element) -> set[Version]:
        """All versions from which an element is computed, inside and outside of the group."""
        made, found, pending = self.group.made, set(), [element]
        while pending:
            for operand in pending.pop().reads:
                if operand.version not in found:
                    found.add(operand.version)
                    if operand.version in made:
                        pending.append(made[operand.version])
        return found

    def source(self) -> Source:
        """The whole kernel."""
        self.set_indices()
        for element in self.group.elements:
            self.write_element(element)
        self.write_stores()
        parameters = [f'i{n}' for n in range(len(self.inputs))] + \
            [f'o{n}' for n in range(len(self.outputs) + len(self.sums))]
        text = HEADER.format(parameters=', '.join(parameters)) + '\n'.join([*self.index_lines(), *self.lines]) + '\n'
        return Source(text, list(self.inputs.values()), self.outputs, self.sums, self.num_programs, self.places())


def source_of(group: Group, wanted: set[Version]) -> Source:
    """The kernel of a group; `wanted` are the versions that it must store."""
    return Writer(group, wanted).source()

