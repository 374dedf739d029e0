"""Parsers for command line values: numbers and ranges, classes, grid sizes."""

import argparse
import re
from collections.abc import Iterator
from typing import Any

from common.options import option_name, short_repr, shortened


def number_ranges(text: str, spaces: bool = False) -> Iterator[tuple[str, range | None]]:
    """Parse a list of numbers and ranges such as '0-3,7'.

    Parameters
    ----------
    text : str
    spaces : bool
        Allow white space around the numbers, and only ASCII digits.

    Yields
    ------
    (str, range or None)
        Each item as written and its numbers: an empty range if it descends, None if it is not a number or range.
    """
    pattern = (re.compile(r'\s*(\d+)\s*(?:-\s*(\d+)\s*)?', re.ASCII) if spaces
               else re.compile(r'(\d+)(?:-(\d+))?'))
    for part in text.split(','):
        match = pattern.fullmatch(part)
        yield part, range(int(match[1]), int(match[2] or match[1]) + 1) if match else None


def number_list(text: str) -> list[int]:
    """'0-3,7' -> [0, 1, 2, 3, 7]; for the ``type`` of an option.

    Raises
    ------
    argparse.ArgumentTypeError
        An item is not a number or ascending range.
    """
    numbers: list[int] = []
    for _part, part_numbers in number_ranges(text):
        if part_numbers is None:
            raise argparse.ArgumentTypeError(f'{text!r}: write numbers and ranges, for example 0-3,7')
        numbers += part_numbers
    return numbers


def class_list(text: str) -> list[int | str]:
    """'0-2,cat' -> [0, 1, 2, 'cat']; for the ``type`` of an option.

    Raises
    ------
    argparse.ArgumentTypeError
        A name is empty.
    """
    classes: list[int | str] = []
    for part, part_numbers in number_ranges(text):
        if not part.strip():
            raise argparse.ArgumentTypeError(f'{text!r}: write numbers, ranges and names, for example 0-3,cat')
        classes += [part.strip()] if part_numbers is None else part_numbers
    return classes


def grid(text: str) -> tuple[int, int]:
    """'8x4' -> (8, 4); for the ``type`` of an option.

    Raises
    ------
    argparse.ArgumentTypeError
        The text is not two positive numbers.
    """
    match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'{text!r}: write COLUMNSxROWS, for example 8x4')
    return int(match[1]), int(match[2])


class FromCommandLine(str):
    """A value from the command line. Marks it for later checks, which also see values from `config.py`."""


class RememberOrigin(argparse.Action):
    """``action=RememberOrigin`` turns values from the user into :class:`FromCommandLine`, but not the default."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        setattr(namespace, self.dest, FromCommandLine(values))


def said(parameter: str, value: object, elsewhere: str | None = None) -> str:
    """A value as the user wrote it, for messages: '--device gpu9' on the command line, else "device='gpu9'".

    Parameters
    ----------
    parameter : str
        For example 'device' for the option ``--device``.
    value : object
    elsewhere : str, optional
        Name of the parameter outside the command line. Default: `parameter`.
    """
    if isinstance(value, FromCommandLine):
        return f'{option_name(parameter)} {shortened(value)}'
    return f'{elsewhere or parameter}={short_repr(value)}'
