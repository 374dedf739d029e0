"""Values of command line options: numbers and ranges, sizes of grids."""

import argparse
import re


def number_list(text):
    """'0-3,7' -> [0, 1, 2, 3, 7], for the ``type`` of an option.

    Raises
    ------
    argparse.ArgumentTypeError
        Not numbers and ascending ranges.
    """
    numbers = []
    for part in text.split(','):
        match = re.fullmatch(r'(\d+)(?:-(\d+))?', part)
        if not match:
            raise argparse.ArgumentTypeError(f'{text!r}: write numbers and ranges, for example 0-3,7')
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return numbers


def grid(text):
    """'8x4' -> (8, 4), for the ``type`` of an option.

    Raises
    ------
    argparse.ArgumentTypeError
        Not two positive numbers.
    """
    match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'{text!r}: write COLUMNSxROWS, for example 8x4')
    return int(match[1]), int(match[2])
