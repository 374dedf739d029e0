"""data/sheets.py: the layout of contact sheets."""

import numpy as np
import pytest

from data.sheets import PAPER, draw_sheet, grid_of, rows_of_classes


@pytest.mark.parametrize('num, side, grid', [
    (1, 32, (1, 1)), (3, 32, (3, 1)), (12, 32, (4, 3)), (7, 32, (3, 3)), (100, 32, (10, 10)), (5000, 32, (16, 16)),
    (5000, 128, (7, 7)), (5000, 1024, (4, 4))])
def test_grids_without_classes(num, side, grid):
    assert grid_of(num, side) == grid


@pytest.mark.parametrize('num_classes, side, rows', [
    (2, 32, (16, 4)), (10, 32, (16, 1)), (10, 128, (7, 1)), (100, 32, (7, 1)), (1000, 32, (1, 1))])
def test_images_of_classes(num_classes, side, rows):
    assert rows_of_classes(num_classes, side) == rows


def test_names_stand_beside_their_rows():
    """Each class has one colour; characters that the font lacks do not fail."""
    rows = [[np.full((3, 8, 8), level, np.uint8)] * 2 for level in (10, 20, 30)]
    plain, named = (np.asarray(draw_sheet(rows, titles)) for titles in (None, ['ant', 'fish', '猫']))
    for sheet in (plain, named):
        for level in (10, 20, 30):
            y, x = np.nonzero((sheet == level).all(axis=2))
            assert len(y) == np.sum((sheet == 10).all(axis=2)) and abs(y.mean() / len(sheet) - (level - 5) / 30) < 0.01
    left = named[:, :int(np.nonzero((named == 20).all(axis=2))[1].min())]
    texts = [(part != PAPER).any(axis=(0, 2)).sum() for part in np.array_split(left, 3)]
    assert texts[1] > texts[0] > texts[2] > 0        # Columns of pixels: fish, ant, ?.
