"""labelled_sets: the recorded MNIST and CIFAR-10; damaged and hostile files; the embedded digits."""

import os
import sys

import h5py
import numpy as np
import pytest
from conftest import load_golden, run_tool
from test_hdf5_format import check_file

import dataset
import labelled_sets
import misc
from dataset_tool import create_digits

ARRAYS, META = load_golden('h5tool_cifar_mnist')


# ----------------------------------------------------------------------------------------------------------------------
# create_digits.


def center_of_mass(images):
    """(N, 2) distances in pixels, down and right, from the middle of the images (N, H, H)."""
    coordinates = np.arange(images.shape[1]) + 0.5 - images.shape[1] / 2
    weights = images / images.sum(axis=(1, 2), keepdims=True)
    return np.stack([weights.sum(axis=2) @ coordinates, weights.sum(axis=1) @ coordinates], axis=1)


@pytest.mark.parametrize('resolution', [16, 32])
def test_digits(resolution, tmp_path, capsys):
    h5_path = tmp_path / 'digits.h5'
    assert run_tool(capsys, 'create_digits', h5_path, '--resolution', resolution) == (
        0, 'Wrote 1797 images to %s\n' % h5_path, '')
    with dataset.Dataset(h5_path) as reader:
        assert reader.shape == (1, resolution, resolution) and reader.num_images == 1797
        images, labels = reader.get_images(range(1797))
    # About equally many of each class, each digit from black to white, and strokes never at the edge.
    assert set(labels.sum(axis=1)) == {1} and (170 < labels.sum(axis=0)).all()
    assert (images.min(axis=(1, 2, 3)) == 0).all() and (images.max(axis=(1, 2, 3)) == 255).all()
    inner = images[:, :, 1:-1, 1:-1]
    assert inner.sum(dtype=np.int64) == images.sum(dtype=np.int64)
    # Enlarged in place: the centres of mass are, on average, where they are in the 8x8 digits.
    from sklearn.datasets import load_digits
    enlargement = resolution * 0.75 / 8
    shift = center_of_mass(images[:, 0]) - center_of_mass(load_digits().images) * enlargement
    # In pixels. A shift by half a pixel of the 8x8 digits, the usual mistake, is enlargement / 2 >= 0.75.
    assert np.abs(shift.mean(axis=0)).max() < 0.05
    np.testing.assert_array_equal(labels.argmax(axis=1), load_digits().target)


def test_digits_are_the_same_every_time(tmp_path):
    create_digits(tmp_path / 'a.h5')
    create_digits(tmp_path / 'b.h5', resolution=16, margin=2)
    with h5py.File(tmp_path / 'a.h5') as a, h5py.File(tmp_path / 'b.h5') as b:
        np.testing.assert_array_equal(a['data16x16'][:], b['data16x16'][:])


@pytest.mark.parametrize('argv, message', [
    (['--resolution', 20], 'resolution=20: must be a power of two'),
    (['--resolution', 4], 'resolution=4: must be a power of two, at least 8'),
    (['--margin', 8], 'margin=8: must be from 0 to 7 at a resolution of 16'),
])
def test_digits_that_cannot_be_made(argv, message, tmp_path, capsys):
    status, _out, err = run_tool(capsys, 'create_digits', tmp_path / 'a.h5', *argv)
    assert status == 1 and message in err and err.count('\n') == 1
    assert os.listdir(tmp_path) == []


def test_digits_without_scikit_learn(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    status, _out, err = run_tool(capsys, 'create_digits', tmp_path / 'a.h5')
    assert status == 1 and 'pip install scikit-learn' in err


def test_an_existing_file_needs_force(tmp_path, capsys):
    (tmp_path / 'a.h5').write_text('precious')
    status, _out, err = run_tool(capsys, 'create_digits', tmp_path / 'a.h5')
    assert status == 1 and 'a.h5: exists' in err and '--force' in err
    assert (tmp_path / 'a.h5').read_text() == 'precious'
    assert run_tool(capsys, 'create_digits', tmp_path / 'a.h5', '--force')[0] == 0
    assert run_tool(capsys, 'inspect', tmp_path / 'a.h5')[0] == 0
