"""paper.neighbours: nearest neighbours by pixels and by features; files of VGG16 weights."""

import os
import pickle

import h5py
import numpy as np
import pytest
from PIL import Image

import dataset_tool
from common.errors import UserError
from paper import neighbours
from paper.pictures import CROP_COLOR, framed_centre


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """(path, images) of the demo's digits."""
    path = str(tmp_path_factory.mktemp('data') / 'digits-16x16.h5')
    dataset_tool.create_digits(path, resolution=16)
    with h5py.File(path) as h5:
        return path, h5['data16x16'][:]


@pytest.mark.parametrize('features', [None, lambda images: images.mean(axis=(1, 3)).astype(np.float32)])
def test_nearest_neighbours(digits, features):
    h5_path, reals = digits
    changed = reals[[17, 1500]].copy()
    changed[:, :, 0] = 255      # Outside the compared centre.
    indices, images = neighbours.nearest_neighbours(changed, h5_path, 4, features)
    assert indices[:, 0].tolist() == [17, 1500]
    np.testing.assert_array_equal(images, reals[indices])
    part = neighbours.centre(reals)
    described = (features(part) if features else part).reshape(len(reals), -1).astype(np.float64)
    for row in indices:
        distances = np.square(described - described[row[0]]).sum(axis=1)
        np.testing.assert_array_equal(np.sort(distances)[:4], distances[row])


def test_other_colours_or_too_few_images_are_errors(digits, tmp_path):
    with pytest.raises(UserError, match='1797 images with 1 channels; needs at least 4 images with 3'):
        neighbours.nearest_neighbours(np.zeros((1, 3, 16, 16), np.uint8), digits[0], 4)
    dataset_tool.create_synthetic(str(tmp_path / 'few.h5'), resolution=16, num_images=3)
    with pytest.raises(UserError, match='3 images with 3 channels; needs at least 4'):
        neighbours.nearest_neighbours(np.zeros((1, 3, 16, 16), np.uint8), str(tmp_path / 'few.h5'), 4)


def test_the_frame_surrounds_the_compared_centre():
    grid = Image.new('RGB', (3 * 40, 2 * 40), 'black')
    pixels = np.asarray(framed_centre(grid, 3, 2)).any(axis=2)
    left, top, right, bottom = neighbours.centre_box(40, 40)
    rows, columns = np.nonzero(pixels)
    assert (rows.min() - 40, rows.max() - 40, columns.min() - 80, columns.max() - 80) == (
        top, bottom - 1, left, right - 1)
    assert (right - left) / 40 == neighbours.CENTRE and CROP_COLOR.startswith('#')
    marked = np.arange(1600).reshape(1, 40, 40)
    np.testing.assert_array_equal(neighbours.centre(marked), marked[:, top:bottom, left:right])


# ----------------------------------------------------------------------------------------------------------------------
# VGG16.


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A state dict like that of torchvision's vgg16, with random convolutions and without the large last layers."""
    torch = pytest.importorskip('torch')
    torch.manual_seed(0)
    network, _ends = neighbours._vgg16(torch)
    state = {f'features.{name}': value for name, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp('weights') / 'vgg16.pth'
    torch.save({**state, 'classifier.0.bias': torch.zeros(3)}, path)
    return path


# torchvision's vgg16: {index of the convolution: output channels}. There is a pooling where indices differ by 3.
CONVOLUTIONS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512,
                28: 512}


def test_features_are_five_layers_of_vgg16(weights, monkeypatch):
    torch = pytest.importorskip('torch')
    monkeypatch.setattr(neighbours, 'VGG_SIZE', 32)
    monkeypatch.setattr(neighbours, 'VGG_GRID', 2)
    state = torch.load(weights, weights_only=True)
    assert {name: value.shape[0] for name, value in state.items() if name.endswith('weight')} == {
        f'features.{number}.weight': channels for number, channels in CONVOLUTIONS.items()}
    images = np.random.RandomState(0).randint(256, size=(1, 3, 32, 32)).astype(np.uint8)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.tensor(images).float() / 255).permute(0, 2, 3, 1) - mean).div(deviation).permute(0, 3, 1, 2)
    expected = []
    for number in CONVOLUTIONS:
        if number - 1 not in {before + 1 for before in CONVOLUTIONS} | {-1}:
            x = torch.nn.functional.max_pool2d(x, 2)
        x = torch.nn.functional.conv2d(x, state[f'features.{number}.weight'], state[f'features.{number}.bias'],
                                       padding=1).relu()
        if number in (2, 7, 12, 19, 26):        # conv1_2, conv2_2, conv3_2, conv4_2, conv5_2.
            small = x.reshape(1, x.shape[1], 2, x.shape[2] // 2, 2, -1).mean(dim=(3, 5)).flatten(1)
            expected.append(small / np.sqrt(small.shape[1]))
    features = neighbours.VGGFeatures(weights)
    np.testing.assert_allclose(features(images), torch.cat(expected, 1).numpy(), rtol=1e-4, atol=1e-6)


def test_neighbours_by_vgg_features(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, 'VGG_SIZE', 32)
    few = str(tmp_path / 'few.h5')
    dataset_tool.create_synthetic(few, resolution=16, num_images=6, grey=True)
    with h5py.File(few) as h5:
        images = h5['data16x16'][:]
    described = neighbours.by_vgg(weights)
    assert 'conv5_2 of VGG16' in described.words
    indices, _images = neighbours.nearest_neighbours(images[[4, 1]], few, 2, described.describe)
    assert indices[:, 0].tolist() == [4, 1]


class Evil:
    def __reduce__(self):
        return os.mkdir, ('evil',)


def test_files_that_are_no_weights_are_one_line_and_nothing_runs(weights, tmp_path, monkeypatch):
    torch = pytest.importorskip('torch')
    monkeypatch.chdir(tmp_path)
    content = weights.read_bytes()
    (tmp_path / 'cut.pth').write_bytes(content[:len(content) // 2])
    (tmp_path / 'text.pth').write_text('no weights')
    (tmp_path / 'empty.pth').write_bytes(b'')
    (tmp_path / 'evil.pth').write_bytes(pickle.dumps({'features.0.weight': Evil()}, protocol=2))
    torch.save([1, 2], tmp_path / 'list.pth')
    torch.save({'features.0.weight': torch.zeros(2, 2)}, tmp_path / 'shape.pth')
    torch.save({'features.0.weight': 3}, tmp_path / 'number.pth')
    for name in ('cut', 'text', 'empty', 'evil', 'list', 'shape', 'number', 'none'):
        with pytest.raises(UserError, match=f'--vgg-weights .*{name}.pth: ') as error:
            neighbours.by_vgg(tmp_path / f'{name}.pth')
        assert '\n' not in str(error.value)
    assert not (tmp_path / 'evil').exists()
