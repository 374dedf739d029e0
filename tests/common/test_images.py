"""common/images.py: dynamic ranges, grids and files against recorded images."""

import os

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.images import (
    adjust_dynamic_range,
    class_grid_size,
    convert_to_pil_image,
    create_image_grid,
    save_image,
    save_image_grid,
    snapshot_grid_size,
    zoom_to_see,
    zoomed,
)
from tests.helpers import load_golden

ARRAYS = load_golden('misc')[0]


@pytest.mark.parametrize('name', sorted(key[:-3] for key in ARRAYS if key.startswith('adr_') and key.endswith('_in')))
def test_adjust_dynamic_range(name):
    drange_in, drange_out = ARRAYS['_'.join(name.split('_')[:2]) + '_ranges']
    result = adjust_dynamic_range(ARRAYS[name + '_in'], drange_in, drange_out)
    assert result.dtype == ARRAYS[name + '_out'].dtype
    np.testing.assert_array_equal(result, ARRAYS[name + '_out'])


@pytest.mark.parametrize('name', sorted(key[:-3] for key in ARRAYS if key.startswith('grid_') and key.endswith('_in')))
def test_image_grids_and_their_pil_images(name):
    grid = create_image_grid(ARRAYS[name + '_in'], (3, 2) if name == 'grid_rgb_grid' else None)
    assert grid.dtype == ARRAYS[name + '_out'].dtype
    np.testing.assert_array_equal(grid, ARRAYS[name + '_out'])
    image = convert_to_pil_image(grid, (-1, 1))
    assert image.mode == ARRAYS[name + '_mode']
    np.testing.assert_array_equal(np.asarray(image), ARRAYS[name + '_pil'])


@pytest.mark.parametrize('height, width, grid', [
    (1024, 1024, (3, 2)), (256, 256, (7, 4)), (128, 128, (15, 8)), (16, 16, (16, 16)), (128, 256, (7, 8)),
])
def test_snapshot_grid_size(height, width, grid):
    assert snapshot_grid_size(height, width) == grid


def test_a_saved_grid_is_the_image(tmp_path):
    images = np.random.RandomState(0).randint(256, size=(5, 3, 4, 6), dtype=np.uint8)
    save_image_grid(images, tmp_path / 'grid.png', (0, 255), (2, 3))
    saved = np.asarray(Image.open(tmp_path / 'grid.png'))
    assert saved.shape == (12, 12, 3)
    np.testing.assert_array_equal(saved[4:8, 6:], images[3].transpose(1, 2, 0))
    assert not saved[8:, 6:].any()
    save_image(images[0, 0], tmp_path / 'gray.jpg', (0, 255))
    assert Image.open(tmp_path / 'gray.jpg').mode == 'L'
    assert sorted(os.listdir(tmp_path)) == ['gray.jpg', 'grid.png']


@pytest.mark.parametrize('save', [save_image_grid, lambda images, path: save_image(images[0], path)])
@pytest.mark.parametrize('dtype, white', [(np.uint8, 255), (np.float32, 1), (np.float64, 1)])
def test_the_type_determines_the_range(dtype, white, save, tmp_path):
    images = np.zeros((1, 3, 4, 4), dtype)
    images[:, 1], images[:, 2] = white, dtype(white * 0.4)
    save(images, tmp_path / 'a.png')
    assert (np.asarray(Image.open(tmp_path / 'a.png')) == (0, 255, 102)).all()
    save_image_grid(images, tmp_path / 'b.png', (0, 2 * white))
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / 'b.png'))[0, 0], (0, 127.5, 51), atol=0.5)


def test_shapes_that_are_no_images():
    with pytest.raises(ValueError, match=r'shape \(2, 4\)'):
        create_image_grid(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r'shape \(2, 4, 4\)'):
        convert_to_pil_image(np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r'grid_size=\(2, 2\): holds 4 images, but there are 5'):
        create_image_grid(np.zeros((5, 1, 4, 4)), (2, 2))


def test_an_image_format_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"grid.pong: no image format has the suffix '.pong'"):
        save_image(np.zeros((4, 4)), tmp_path / 'grid.pong')


def test_grids_of_classes():
    """As many images as classes, as in 2017; of fewer than five classes as many as fit on a screen."""
    assert class_grid_size(10, 32, 32, True) == class_grid_size(10, 32, 32, False) == (10, 10)
    assert class_grid_size(5, 32, 32, True) == (5, 5)
    assert class_grid_size(2, 32, 32, True) == (16, 2) and class_grid_size(2, 32, 32, False) == (2, 16)
    assert class_grid_size(4, 1024, 1024, True) == (4, 4)


def test_pictures_that_a_person_can_see():
    assert [zoom_to_see(*size) for size in ((16, 16), (32, 160), (600, 700), (2000, 3000))] == [62, 6, 1, 1]
    assert zoom_to_see(100, 100, 720) == 7
    np.testing.assert_array_equal(zoomed(np.array([[[1, 2]]]), 2), [[[1, 1, 2, 2], [1, 1, 2, 2]]])
