"""train_classifier: accuracy on digits, and files of weights."""

import json
import pickle

import numpy as np
import pytest

import dataset_tool
import theano_env
import train_classifier
from common.arrays import save_arrays
from common.errors import UserError
from data.dataset import Dataset
from metrics import classifier
from nets.network import Network
from tests.helpers import ANY_ENGINE, text_of_python_2

pytestmark = pytest.mark.usefixtures('restore_theano_config')


@pytest.fixture(scope='module')
def digits_path(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'digits-32x32.h5'
    dataset_tool.create_digits(str(path), resolution=32)
    return path


@pytest.mark.slow
def test_command_trains_to_95_percent_on_unseen_digits(digits_path, tmp_path, capsys):
    output = tmp_path / 'classifier.npz'
    assert train_classifier.main([str(digits_path), str(output), '--epochs', '1', '--engine', 'torch']) == 0
    printed = capsys.readouterr().out
    assert 'of unseen digits correctly' in printed
    rows = [line.replace('.', '0').split() for line in printed.splitlines()[-10:]]
    assert [row[0] for row in rows] == list('0123456789')
    assert sum(int(count) for row in rows for count in row[1:]) == 1797 // 5
    with np.load(output) as arrays:
        meta = json.loads(str(arrays['meta']))
    assert 0.95 < meta['accuracy'] <= 1
    assert meta['num_images'] == 1797

    # The saved classifier is as accurate as the trained one.
    with Dataset(str(digits_path), shuffle=False) as dataset:
        images, labels = dataset.get_images(np.arange(300))
    read = classifier.load_classifier(str(output), 32)(images)
    assert np.mean(read == labels.argmax(axis=1)) > 0.95
    noise = np.random.RandomState(0).randint(256, size=images.shape).astype(np.uint8)
    assert np.mean(classifier.load_classifier(str(output), 32)(noise) == labels.argmax(axis=1)) < 0.3

    with pytest.raises(UserError, match='is for images of 32x32, but these are 64x64'):
        classifier.load_classifier(str(output), 64)
    with np.load(output) as arrays:
        damaged = {**arrays, 'param_000': np.zeros((1, 1, 3, 3), np.float32)}
    np.savez(tmp_path / 'damaged.npz', **damaged)
    with pytest.raises(UserError, match='damaged.npz: .* has the shape'):
        classifier.load_classifier(str(tmp_path / 'damaged.npz'), 32)


def test_mistakes(digits_path, tmp_path, capsys):
    theano_env.configure(ANY_ENGINE, {'device': 'cpu'})
    with pytest.raises(UserError, match='make one with train_classifier.py'):
        classifier.load_classifier(None, 32)
    with pytest.raises(UserError, match='nowhere.npz: is not a file of weights'):
        classifier.load_classifier(str(tmp_path / 'nowhere.npz'), 32)
    np.savez(tmp_path / 'other.npz', x=np.zeros(3))
    with pytest.raises(UserError, match='other.npz: is not a file of weights'):
        classifier.load_classifier(str(tmp_path / 'other.npz'), 32)
    with pytest.raises(UserError, match='10 images: a classifier needs at least 21'):
        classifier.train_classifier(np.zeros((10, 1, 32, 32), np.uint8), np.eye(10), show_progress=False)
    for argv, message in [(['nowhere.h5', 'x.npz'], 'nowhere.h5'),
                          ([str(digits_path), 'x.npz', '--epochs', '0'], '--epochs 0: must be a whole number from 1')]:
        assert train_classifier.main([*argv, '--engine', 'torch']) == 1
        error = capsys.readouterr().err
        assert error.startswith('train_classifier.py: error: ') and message in error and error.count('\n') == 1


def test_the_classifier_of_the_release(tmp_path):
    """The release's pickle, a list of values in Lasagne's order, gives a classifier with the same outputs."""
    theano_env.configure(ANY_ENGINE, {'device': 'cpu'})
    random = np.random.RandomState(3)
    network = Network('classifier', func='networks.mnist_classifier')
    for name, var in network.vars.items():
        network.set_var(name, random.randn(*var.get_value().shape).astype(np.float32) / 9)
    values = [var.get_value() for var in network.vars.values()]
    assert len(values) == 14
    images = random.randint(256, size=(20, 1, 32, 32)).astype(np.uint8)
    expected = classifier.classify(network, images)
    assert len(set(expected)) > 1
    path = tmp_path / 'classifier.pkl'
    for content in (text_of_python_2(values) + b'.', pickle.dumps(values, 2)):
        path.write_bytes(content)
        np.testing.assert_array_equal(classifier.load_classifier(path, 32)(images), expected)
    with pytest.raises(UserError, match='is for images of 32x32, but these are 64x64'):
        classifier.load_classifier(path, 64)


def test_other_pickles_are_no_classifiers(tmp_path):
    network = Network('classifier', func='networks.mnist_classifier')
    values = [var.get_value() for var in network.vars.values()]
    path = tmp_path / 'other.pkl'
    for content in ([], 7, values[:-1], values[::-1], [*values[:-2], np.zeros((384, 20), 'f4'), values[-1]],
                    [*values[:-1], np.full(10, np.nan, 'f4')], [*values[:-1], np.arange(10)], values + values,
                    (np.zeros(3),) * 14, [np.float32(1)] * 14, [values[0]] * 14, 'text'):
        path.write_bytes(pickle.dumps(content, 2))
        with pytest.raises(UserError, match='other.pkl: .*') as raised:
            classifier.load_classifier(path, 32)
        assert '\n' not in str(raised.value)


@pytest.mark.parametrize('meta', [
    {}, [], {'num_channels': 1, 'resolution': 32, 'label_size': 10 ** 12}, {'num_channels': 1, 'resolution': 32},
    {'num_channels': 10 ** 9, 'resolution': 32, 'label_size': 10},
    {'num_channels': 1, 'resolution': '32', 'label_size': 1},
    {'num_channels': 1, 'resolution': 32, 'label_size': 2 ** 14}])
def test_descriptions_that_are_wrong(meta, tmp_path):
    network = Network('classifier', func='networks.mnist_classifier', num_channels=1, resolution=32, label_size=10)
    classifier.save_classifier(network, tmp_path / 'c.npz')
    classifier.load_classifier(tmp_path / 'c.npz', 32)
    with np.load(tmp_path / 'c.npz') as good:
        save_arrays(tmp_path / 'c.npz', {**good, 'meta': json.dumps(meta)})
    with pytest.raises(UserError, match='c.npz: is not a file of weights') as raised:
        classifier.load_classifier(tmp_path / 'c.npz', 32)
    assert '\n' not in str(raised.value)
