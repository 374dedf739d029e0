"""data/synthetic.py: reproducible random images of any size."""

import h5py
import numpy as np
import pytest

import dataset_tool
from common.errors import UserError
from data.synthetic import synthetic
from tests.helpers import run_tool


@pytest.mark.parametrize('resolution, grey', [(4, True), (64, False), (1024, False)])
def test_images_depend_on_seed_and_number_only(resolution, grey):
    source = synthetic(resolution, 5, grey, seed=1)
    images = np.concatenate(list(source.images(0, 3)))
    assert images.shape == (3, 1 if grey else 3, resolution, resolution) and images.dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate(list(source.images(1, 3))), images[1:])
    assert (images[0] != images[1]).any() and images.std() > 20
    assert (np.concatenate(list(synthetic(resolution, 5, grey, seed=2).images(0, 3))) != images).any()


def test_the_command(tmp_path, capsys):
    path = tmp_path / 'a.h5'
    assert run_tool(capsys, 'create_synthetic', path, '--resolution', 32, '--num-images', 3)[0] == 0
    with h5py.File(path) as h5:
        assert h5['data32x32'].shape == (3, 3, 32, 32)
    assert run_tool(capsys, 'inspect', path, '--verify')[0] == 0
    content = path.read_bytes()
    assert run_tool(capsys, 'create_synthetic', path, '--resolution', 32, '--num-images', 3, '--force')[0] == 0
    assert path.read_bytes() == content
    dataset_tool.create_synthetic(str(tmp_path / 'part.h5'), 32, 3, shard=(2, 3))
    with h5py.File(path) as whole, h5py.File(tmp_path / 'part.h5') as part:
        np.testing.assert_array_equal(part['data32x32'][:], whole['data32x32'][1:2])


@pytest.mark.parametrize('arguments', [{'resolution': 48}, {'resolution': 2}, {'num_images': 0}])
def test_data_sets_that_cannot_be_made(arguments):
    with pytest.raises(UserError, match='^--'):
        synthetic(**arguments)
