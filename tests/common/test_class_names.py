"""Choosing classes by number and by name, and the file of class names in a run folder."""

import argparse

import pytest

from common.arguments import class_list
from common.class_names import class_number, list_classes, read_class_names, write_class_names
from common.errors import UserError

NAMES = ['cat', 'Dog', 'dog', '7', 'Horse']


@pytest.mark.parametrize('choice, number', [(0, 0), (4, 4), ('cat', 0), ('CAT', 0), ('Dog', 1), ('dog', 2), ('7', 3),
                                            ('horse', 4)])
def test_class_number(choice, number):
    assert class_number(choice, NAMES, 5, 'G') == number


@pytest.mark.parametrize('choice, names, message', [
    (5, NAMES, 'there is no class 5; G has 0 to 4'), (-1, NAMES, 'no class -1'),
    ('hors', NAMES, "no class 'hors'; G has 0 cat, 1 Dog, 2 dog, 3 7, 4 Horse; did you mean 'Horse'"),
    ('DOG', NAMES, "'DOG' is the name of the classes 1, 2 of G; give the number"),
    ('cat', None, "G stores no class names, so 'cat' is unknown; give numbers from 0 to 4")])
def test_class_that_is_not_there(choice, names, message):
    with pytest.raises(UserError, match=message):
        class_number(choice, names, 5, 'G')


def test_long_lists_are_cut():
    assert list_classes(['a'] * 12, 2) == '0 a, 1 a, ... (12 classes)'


def test_names_in_a_run_folder(tmp_path):
    assert read_class_names(tmp_path) is None
    write_class_names(tmp_path, None)
    assert not list(tmp_path.iterdir())
    write_class_names(tmp_path, NAMES)
    assert read_class_names(tmp_path) == read_class_names(tmp_path, 5) == NAMES
    assert read_class_names(tmp_path, 4) is None, 'other networks'


@pytest.mark.parametrize('content', [b'', b'[]', b'{}', b'[1]', b'["a"', b'\xff', b'[' * 100000])
def test_damaged_names(tmp_path, content):
    (tmp_path / 'class-names.json').write_bytes(content)
    assert read_class_names(tmp_path) is None


def test_class_list():
    assert class_list('0-2,cat, ice cream,5') == [0, 1, 2, 'cat', 'ice cream', 5]
    with pytest.raises(argparse.ArgumentTypeError, match='write numbers, ranges and names'):
        class_list('1,,2')
