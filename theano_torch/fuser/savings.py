"""Reduce memory traffic between kernels: read rounded copies of values, and recompute cheap values."""

import dataclasses
import math
from collections.abc import Sequence

from theano_torch.fuser.elements import MAP, Element
from theano_torch.fuser.grouping import Group, Grouping, Mismatch
from theano_torch.fuser.recording import Call, Operand, Version

import torch

MAX_CHAIN = 4       # Longest chain of elements that is recomputed.
WORTH = 0.75        # A value is recomputed if that reads at most this share of the value's own bytes.


def read_rounded(grouping: Grouping, readers: dict[Version, set[int]], needed: set[Version]) -> set[int]:
    """Let kernels read the rounded copy of a value, if its maker stores one; then the value itself is not stored.

    For example, images and filters have rounded copies for convolutions in 16 bits. Changes `readers` and the elements
    of groups; returns the names of the changed groups.
    """
    changed: set[int] = set()
    for name, group in grouping.groups.items():
        for copy in group.elements:
            source = copy.reads[0] if copy.kind == MAP and is_rounding(copy) else None
            if source is None or source.version not in group.made or source.version in needed:
                continue
            others = readers.get(source.version, set()) - {name}
            if not others or not readers.get(copy.version, set()) - {name} or not all(
                    other in grouping.groups for other in others):
                continue
            for other in others:
                grouping.groups[other].elements = [replaced(element, source.version, copy.output)
                                                   for element in grouping.groups[other].elements]
            readers[source.version] = {name}
            readers[copy.version] = readers[copy.version] | others
            changed |= others
    return changed


def compute_again(grouping: Grouping, readers: dict[Version, set[int]], needed: set[Version],
                  calls: Sequence[Call]) -> set[int]:
    """Recompute a value in the kernels that read it, instead of storing it, if that reads fewer bytes.

    For example, a convolution's result in 16 bits plus a bias is not stored in 32 bits. Changes `readers` and groups;
    returns the names of the changed groups.
    """
    overwriting = {version: grouping.group_of[index] for index, call in enumerate(calls) for version in call.written}
    changed: set[int] = set()
    for name, group in list(grouping.groups.items()):
        for element in group.elements:
            others = readers.get(element.version, set()) - {name}
            if element.kind != MAP or element.version in needed or element.version in group.borrowed or not others or \
                    not all(other in grouping.groups for other in others):
                continue
            chain = chain_to(element, group)
            if chain is None:
                continue
            sources = {operand.version for link in chain for operand in link.reads} - {link.version for link in chain}
            if any(version in overwriting and not grouping.reach[overwriting[version]] >> other & 1
                   for version in sources for other in others):
                continue
            try:
                extended = {other: grouping.groups[other].borrowing(chain) for other in others}
            except Mismatch:
                continue
            for other, larger in extended.items():
                grouping.groups[other] = larger
                for version in sources:
                    readers.setdefault(version, set()).add(other)
            readers[element.version] = {name}
            changed |= others
    return changed


def chain_to(element: Element, group: Group) -> list[Element] | None:
    """The elements of `group` from which `element` is computed, itself included; all are maps.

    None if they are not all maps, are too many, or read too many bytes to be recomputed.
    """
    made = group.made
    chain: list[Element] = []
    pending = [element]
    read: dict[Version, int] = {}
    while pending:
        link = pending.pop()
        if link.kind != MAP or len(chain) == MAX_CHAIN:
            return None
        if link in chain:
            continue
        chain.append(link)
        for operand in link.reads:
            if operand.version in made:
                pending.append(made[operand.version])
            else:
                read[operand.version] = max(read.get(operand.version, 0), size_of(operand))
    return chain if sum(read.values()) <= WORTH * size_of(element.output) else None


def size_of(operand: Operand) -> int:
    """Bytes of an operand's elements; repeated elements count once."""
    return operand.dtype.itemsize * math.prod(size for size, step in zip(operand.shape, operand.strides, strict=True)
                                              if step)


def is_rounding(element: Element) -> bool:
    """Whether an element only converts from float32 to a 16-bit float."""
    return len(element.operands) == 1 and isinstance(element.operands[0], Operand) and \
        element.expression.is_conversion and element.output.dtype in (torch.bfloat16, torch.float16) and \
        element.operands[0].dtype == torch.float32 and element.operands[0].strides == element.output.strides


def replaced(element: Element, version: Version, copy: Operand) -> Element:
    """`element` with `copy`, which has the same strides, in place of operands of `version`."""
    return dataclasses.replace(element, operands=[
        operand._replace(version=copy.version, dtype=copy.dtype)
        if isinstance(operand, Operand) and operand.version == version else operand for operand in element.operands])
