"""metrics.inception: torch-fidelity's network runs with a file of (random) weights in its format."""

import os
import pathlib
import pickle
import random
import urllib.error
import zipfile

import numpy as np
import pytest
import torch

from common.errors import UserError
from metrics import inception


@pytest.fixture(scope='module')
def weights_path(tmp_path_factory):
    """A file of random weights with the names and shapes of the real weights."""
    extractor_class = inception._import_extractor()
    torch.manual_seed(0)
    saved = {}
    # The package cannot build the network without weights, so intercept load_state_dict to get names and shapes.
    network = extractor_class.__new__(extractor_class)
    original, extractor_class.load_state_dict = extractor_class.load_state_dict, lambda self, state: saved.update(
        self.state_dict())
    try:
        path = tmp_path_factory.mktemp('weights') / 'random.pth'
        torch.save({}, path)
        network.__init__('inception-v3-compat', ['2048'], feature_extractor_weights_path=str(path))
    finally:
        extractor_class.load_state_dict = original
    for name, value in saved.items():
        if name.endswith('conv.weight'):    # Keeps the magnitude of activations.
            saved[name] = value.normal_() * (2 / value[0].numel()) ** 0.5
    torch.save(saved, path)
    return str(path)


def test_features_and_probabilities(weights_path):
    features = inception.InceptionFeatures(weights_path, minibatch_size=2)
    images = np.random.RandomState(0).randint(256, size=(2, 3, 32, 32)).astype(np.uint8)
    vectors, probabilities = features(images)
    assert vectors.shape == (2, 2048) and probabilities.shape == (2, 1008)
    assert vectors.dtype == probabilities.dtype == np.float32
    assert np.isfinite(vectors).all() and vectors.std() > 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    # Images do not affect each other, and grey images are three equal channels.
    np.testing.assert_allclose(features(images[1:])[0], vectors[1:], rtol=1e-4, atol=1e-5)
    gray = images[:1, :1]
    np.testing.assert_array_equal(features(gray)[0], features(np.repeat(gray, 3, axis=1))[0])
    assert features(images) is features(images)     # The second metric does not compute them again.
    with pytest.raises(ValueError, match='must be uint8'):
        features(images / 255)


def test_missing_and_wrong_weights(tmp_path, monkeypatch):
    def no_network(url, path, hash_prefix):
        raise urllib.error.URLError('no network')

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', no_network)
    with pytest.raises(UserError, match=r'cannot download http.*no network.*6726825d\.pth or give the file with'):
        inception.InceptionFeatures()
    with pytest.raises(UserError, match='nowhere.pth: no such file; download http'):
        inception.InceptionFeatures('nowhere.pth')
    text = tmp_path / 'text.pth'
    text.write_text('no weights')
    with pytest.raises(UserError, match='text.pth: is not a file of weights'):
        inception.InceptionFeatures(str(text))
    other = tmp_path / 'other.pth'
    torch.save({'weight': torch.zeros(3)}, other)
    with pytest.raises(UserError, match='other.pth: is not a file of weights'):
        inception.InceptionFeatures(str(other))


class Evil:
    """An object that deletes a file when it is unpickled without restrictions."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.remove, (self.path,)


def test_junk_as_weights(weights_path, tmp_path):
    state, path, victim = torch.load(weights_path), tmp_path / 'junk.pth', tmp_path / 'victim'
    victim.touch()
    first, value = next(iter(state.items()))
    for junk in (
            Evil(str(victim)), {'a': Evil(str(victim))}, [state], {'state_dict': state}, {**state, 'more': value},
            {**state, first: value[:1]}, {**state, first: torch.full_like(value, float('nan'))}, {**state, first: None},
            {**state, first: value.to_sparse()}, {**state, first: torch.zeros(1).expand(10 ** 6, 10 ** 6)}, 5):
        torch.save(junk, path)
        with pytest.raises(UserError, match=r'junk\.pth: is not a file of weights of torch-fidelity \('):
            inception.InceptionFeatures(str(path))
    intact, draw = pathlib.Path(weights_path).read_bytes(), random.Random(0)
    for content in (b'', b'PK\3\4', b'\x80\2.', b'(' * 9999, pickle.dumps(Evil(str(victim))), intact[:10 ** 6],
                    draw.randbytes(9999)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r'junk\.pth: is not a file of weights'):
            inception.InceptionFeatures(str(path))
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr('archive/data/0', bytes(2 << 20))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match='cannot be read'):
        patch.setattr(inception, 'MAX_WEIGHTS_BYTES', 1 << 20)
        inception.InceptionFeatures(str(path))
    assert victim.exists()


def test_missing_package(monkeypatch):
    monkeypatch.setattr(inception.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='pip install --no-deps torch-fidelity'):
        inception._import_extractor()
