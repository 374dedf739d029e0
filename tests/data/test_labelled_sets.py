"""labelled_sets: recorded MNIST and CIFAR-10; damaged and hostile files; the digits of scikit-learn."""

import collections
import gzip
import os
import pickle
import sys

import h5py
import numpy as np
import pytest
import scipy.io

from data import dataset, hdf5_format, labelled_sets
from dataset_tool import create_digits
from tests.helpers import check_h5_file, load_golden, run_tool

ARRAYS, META = load_golden('h5tool_cifar_mnist')


def check_recorded(h5_path, key):
    """Check that a file and its labels equal the recorded ones."""
    check_h5_file(h5_path, (ARRAYS, META), key)
    labels = h5_path.with_name(h5_path.stem + '-labels.npy')
    if '_labels' not in META[key]:
        assert not labels.exists()
        return
    labels = np.load(labels)
    assert labels.dtype == META[key]['_labels']['dtype']
    np.testing.assert_array_equal(labels, ARRAYS[key + '_labels'])


def check_message(capsys, argv, *messages):
    """Check that a command writes nothing and prints a one-line error that contains `messages`."""
    status, _out, err = run_tool(capsys, *argv)
    assert status == 1 and err.count('\n') == 1 and not os.path.exists(argv[2]), err
    for message in messages:
        assert message in err


# ----------------------------------------------------------------------------------------------------------------------
# MNIST.


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, '>u4').tobytes() + array.tobytes()


def write_mnist(folder, images=None, labels=None, prefix='train', dash='-', compress=gzip.compress, suffix='.gz'):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (('images', ARRAYS['mnist_source_images'] if images is None else images),
                        ('labels', ARRAYS['mnist_source_labels'] if labels is None else labels)):
        name = f'{prefix}-{kind}{dash}idx{array.ndim}-ubyte{suffix}'
        (folder / name).write_bytes(compress(idx_bytes(array)))
    return folder


@pytest.mark.parametrize('subdir, kwargs', [
    ('', {}), ('', {'compress': bytes, 'suffix': ''}), ('raw', {'compress': bytes}), ('MNIST/raw', {'dash': '.'}),
])
def test_the_recorded_mnist(subdir, kwargs, tmp_path, capsys):
    write_mnist(tmp_path / 'mnist' / subdir, **kwargs)
    argv = ['create_mnist', tmp_path / 'mnist', tmp_path / 'a.h5', '--expected-images', 20]
    assert run_tool(capsys, *argv) == (0, f'Wrote 20 images to {tmp_path / "a.h5"}\n', '')
    check_recorded(tmp_path / 'a.h5', 'mnist')


@pytest.mark.parametrize('command', ['create_mnistrgb', 'create_mnist_rgb'])
def test_the_recorded_mnist_rgb(command, tmp_path, capsys):
    kwargs = META['mnist_rgb']['_kwargs']
    argv = [command, tmp_path / 'a.h5', write_mnist(tmp_path / 'mnist'), '--num_images', kwargs['num_images'],
            '--expected_images', 20]
    assert run_tool(capsys, *argv)[0] == 0      # The default seed is the recorded one.
    check_recorded(tmp_path / 'a.h5', 'mnist_rgb')
    assert run_tool(capsys, *argv, '--seed', kwargs['random_seed'], '--force')[0] == 0
    check_recorded(tmp_path / 'a.h5', 'mnist_rgb')


def test_mnist_rgb_has_a_million_images_and_any_range_can_be_read(tmp_path):
    source = labelled_sets.mnist_rgb(write_mnist(tmp_path), expected_images=20)
    assert source.num_images == 1000000 and source.labels is None
    np.testing.assert_array_equal(next(source.images(0, 9)), ARRAYS['mnist_rgb_data32x32'])
    np.testing.assert_array_equal(next(source.images(4, 6)), ARRAYS['mnist_rgb_data32x32'][4:6])
    assert sum(len(images) for images in source.images(0, 1000)) == 1000


def test_the_parts_of_mnist(tmp_path):
    write_mnist(tmp_path)
    write_mnist(tmp_path, ARRAYS['mnist_source_images'][:3], ARRAYS['mnist_source_labels'][:3], 't10k')
    whole = ARRAYS['mnist_data32x32']
    for split, expected in [('test', whole[:3]), ('train+test', np.concatenate([whole, whole[:3]]))]:
        source = labelled_sets.mnist(tmp_path, split, 0)
        np.testing.assert_array_equal(np.concatenate(list(source.images(0, source.num_images))), expected)
        np.testing.assert_array_equal(source.labels[-3:], ARRAYS['mnist_labels'][:3])
    # Ranges, as for shards, that begin and end in either of the two files.
    for start, stop in [(18, 22), (19, 20), (20, 21), (21, 23)]:
        np.testing.assert_array_equal(np.concatenate(list(source.images(start, stop))), expected[start:stop])


def test_numbers_of_images_that_are_not_mnist(tmp_path, capsys):
    argv = ['create_mnist', write_mnist(tmp_path / 'mnist'), tmp_path / 'a.h5']
    write_mnist(tmp_path / 'mnist', prefix='t10k')
    check_message(capsys, argv, 'mnist: has 20 images, expected 60000;', '--expected-images 20')
    check_message(capsys, argv + ['--split', 'test'], 'expected 10000;')
    check_message(capsys, argv + ['--split', 'test+train'], 'has 40 images, expected 70000;')
    check_message(capsys, ['create_mnistrgb', *argv[1:]], 'has 20 images, expected 60000;')
    for split in ('valid', 'train+train', ''):
        check_message(capsys, argv + ['--split', split], f'--split {split}: must be train or test')
    check_message(capsys, ['create_mnistrgb', *argv[1:], '--num-images', 0], '--num-images 0: must be a whole number')
    check_message(capsys, ['create_mnistrgb', *argv[1:], '--seed', -1], '--seed -1: must be')


@pytest.mark.parametrize('name, damage, message', [
    ('train-images-idx3-ubyte.gz', lambda data: data[:len(data) // 2], 'is damaged or cut off'),
    ('train-images-idx3-ubyte.gz', lambda data: data[:40] + b'spoilt' + data[46:], 'is damaged or cut off'),
    ('train-images-idx3-ubyte.gz', lambda data: gzip.decompress(data)[:-1], 'has 15695 bytes, but its header'),
    ('train-images-idx3-ubyte.gz', lambda data: b'<html>', 'is not an IDX file of bytes with 3 axes'),
    ('train-images-idx3-ubyte.gz', lambda data: bytes([0, 0, 8, 3, 0, 0]), 'is not an IDX file of bytes with 3 axes'),
    ('train-images-idx3-ubyte.gz', lambda data: idx_bytes(np.zeros((20, 32, 32), np.uint8)), 'are 32x32, but those of'),
    ('train-labels-idx1-ubyte.gz', lambda data: idx_bytes(np.zeros(19, np.uint8)), 'must hold a class from 0 to 9'),
    ('train-labels-idx1-ubyte.gz', lambda data: idx_bytes(np.full(20, 10, np.uint8)), 'must hold a class from 0 to 9'),
    ('train-labels-idx1-ubyte.gz', lambda data: b'', 'is not an IDX file'),
])
def test_damaged_files_of_mnist(name, damage, message, tmp_path, capsys):
    path = write_mnist(tmp_path / 'mnist') / name
    path.write_bytes(damage(path.read_bytes()))
    check_message(capsys, ['create_mnist', tmp_path / 'mnist', tmp_path / 'a.h5'], str(tmp_path / 'mnist'), message)


def test_folders_that_are_not_mnist(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / 'none'):
        check_message(capsys, ['create_mnist', folder, tmp_path / 'a.h5'], str(folder),
                      'has no file train-images-idx3-ubyte or train-images-idx3-ubyte.gz')


# ----------------------------------------------------------------------------------------------------------------------
# CIFAR.


def write_cifar10(folder, protocol=2, python2=False):
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = ARRAYS['cifar10_source_images'].reshape(-1, 3072), ARRAYS['cifar10_source_labels']
    step = int(ARRAYS['cifar10_per_batch'])
    for number in range(5):
        rows = slice(number * step, (number + 1) * step)
        batch = {'batch_label': 'training batch', 'data': images[rows], 'labels': labels[rows].tolist(),
                 'filenames': [f'{row}.png' for row in range(step)]}
        data = pickle_of_python2(batch) if python2 else pickle.dumps(batch, protocol)
        (folder / f'data_batch_{number + 1}').write_bytes(data)
    return folder


def pickle_of_python2(batch):
    """A batch pickled as by Python 2 and NumPy 1, like the original files: strings are bytes without a codec."""
    def string(value):
        return b'T' + len(value).to_bytes(4, 'little') + value

    pixels = batch['data']
    numbers = b''.join(b'K' + bytes([number]) for number in batch['labels'])
    array = (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R('
             b'K\x01' + b'K' + bytes([len(pixels)]) + b'M\x00\x0c\x86'
             b'cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
             b'\x89' + string(pixels.tobytes()) + b'tb')
    return b'\x80\x02}(U\x04data' + array + b'U\x06labels](' + numbers + b'eu.'


@pytest.mark.parametrize('subdir', ['', 'cifar-10-batches-py'])
@pytest.mark.parametrize('kwargs', [{'python2': True}, {'protocol': 0}, {'protocol': 2}, {'protocol': 4}])
def test_the_recorded_cifar10(subdir, kwargs, tmp_path, capsys):
    write_cifar10(tmp_path / 'cifar' / subdir, **kwargs)
    argv = ['create_cifar10', tmp_path / 'cifar', tmp_path / 'a.h5', '--expected-images', 30]
    assert run_tool(capsys, *argv) == (0, f'Wrote 30 images to {tmp_path / "a.h5"}\n', '')
    check_recorded(tmp_path / 'a.h5', 'cifar10')


def test_numpy_reads_the_pickle_of_python2():
    """NumPy reads our imitations of the original files."""
    batch = {'data': np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), 'labels': [3, 4]}
    read = pickle.loads(pickle_of_python2(batch), encoding='bytes')
    np.testing.assert_array_equal(read[b'data'], batch['data'])
    assert read[b'labels'] == [3, 4]


def test_cifar100_with_fine_and_coarse_labels(tmp_path, capsys):
    images = ARRAYS['cifar10_source_images'][:4]
    fine, coarse = [99, 0, 42, 7], np.array([19, 0, 3, 3])
    for name, rows in (('train', slice(0, 3)), ('test', slice(3, 4))):
        batch = {'data': np.asfortranarray(images[rows].reshape(-1, 3072)), 'fine_labels': fine[rows],
                 'coarse_labels': coarse[rows]}
        (tmp_path / name).write_bytes(pickle.dumps(batch, 2))
    argv = ['create_cifar100', tmp_path, tmp_path / 'a.h5', '--expected-images', 0, '--force', '--split', 'train+test']
    assert 'The classes have no names' in run_tool(capsys, *argv)[1]
    names = {'fine': [f'class {number}' for number in range(100)],
             'coarse': [f'group {number}' for number in range(20)]}
    (tmp_path / 'meta').write_bytes(pickle.dumps({f'{kind}_label_names': [name.encode() for name in of_kind]
                                                  for kind, of_kind in names.items()}, 2))
    for options, classes, num_classes in (([], fine, 100), (['--coarse'], coarse, 20)):
        assert run_tool(capsys, *argv, *options)[0] == 0
        with h5py.File(tmp_path / 'a.h5') as h5:
            assert hdf5_format.read_class_names(h5) == names['coarse' if options else 'fine']
        np.testing.assert_array_equal(np.load(tmp_path / 'a-labels.npy'), np.eye(num_classes)[classes])
        with h5py.File(tmp_path / 'a.h5') as h5:
            np.testing.assert_array_equal(h5['data32x32'][:], images)


def test_numbers_of_images_that_are_not_cifar(tmp_path, capsys):
    argv = ['create_cifar10', write_cifar10(tmp_path / 'cifar'), tmp_path / 'a.h5']
    check_message(capsys, argv, 'cifar: has 30 images, expected 50000;')
    check_message(capsys, argv + ['--split', 'test'], 'has no file test_batch; give the folder cifar-10-batches-py')
    check_message(capsys, ['create_cifar100', *argv[1:]], 'has no file train; give the folder cifar-100-python')


class Malicious:
    """Its pickle refers to `function` to be called."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def array_pickle(dtype=b"(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb", shape=b'(I1\nI3072\nt',
                 data=b"S'" + b'x' * 3072 + b"'\n"):
    """A pickle of {'data': array, 'labels': [0]} in protocol 0, with some parts replaced."""
    return (b"(dS'data'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n" + shape +
            b'cnumpy\ndtype\n' + dtype + b'I00\n' + data + b"tbsS'labels'\n(lI0\nas.")


def test_the_array_of_the_hostile_pickles_without_hostility(tmp_path):
    (tmp_path / 'good').write_bytes(array_pickle())
    batch = labelled_sets.load_cifar_pickle(tmp_path / 'good')
    assert batch['labels'] == [0] and (batch['data'] == ord('x')).all() and batch['data'].shape == (1, 3072)


@pytest.mark.parametrize('data, message', [
    (pickle.dumps({'data': Malicious(os.mkdir, 'pwned')}), f'refers to {os.mkdir.__module__}.mkdir'),
    (pickle.dumps({'data': Malicious(eval, '1')}), 'refers to builtins.eval'),
    (pickle.dumps({'data': collections.OrderedDict()}), 'refers to collections.OrderedDict'),
    (b'cnumpy.core.multiarray\nfromfile\n.', 'refers to numpy.core.multiarray.fromfile'),
    (b'Ppersistent\n.', 'persistent'),
    (b'\x80\x02\x82\x01.', 'is not a pickle of CIFAR'),          # An extension code.
    (b'Nr\xff\xff\xff\xff.', 'object number 4294967295 at byte 1 of 7'),     # Would allocate 64 GB.
    (b'Np4294967295\n.', 'object number 4294967295'),
    (b'\x80\x04\x8e' + b'\xff' * 8 + b'.', 'is not a pickle of CIFAR'),     # A string of 2^64 bytes.
    (b'', 'pickle exhausted before seeing STOP'),
    (pickle.dumps({'data': np.zeros((1, 3072), np.uint8)})[:-100], 'is not a pickle of CIFAR'),
    (pickle.dumps([1, 2]), 'is not a pickle of CIFAR'),
    (pickle.dumps({1: 2}), 'is not a pickle of CIFAR (int instead of a string)'),
    (array_pickle(dtype=b"(S'O'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb"), "an array of type 'O'"),
    (array_pickle(dtype=b"(S'V16'\nI0\nI1\ntR(I3\nS'|'\nNNNI16\nI1\nI0\ntb"), "an array of type 'V16'"),
    (array_pickle(dtype=b"(S'u1'\nI0\nI1\ntR"), 'is not a pickle of CIFAR'),
    (array_pickle(shape=b'(I1\nI999999999999\nt'), 'cannot reshape'),
    (array_pickle(shape=b'(I-5\nI-7\nt'), 'is not a pickle of CIFAR'),
    (array_pickle(data=b'(lS\'x\'\na'), 'an array of objects'),
    # State for the classes that stand for NumPy's themselves.
    (b"cnumpy\ndtype\n(dS'dtype'\nI1\nsb.", 'is not a pickle of CIFAR'),
    (b"c_codecs\nencode\n(N(dS'__new__'\nI1\nstb.", 'is not a pickle of CIFAR'),
])
def test_hostile_and_damaged_pickles(data, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {name: value for name, value in vars(labelled_sets._PickledType).items()}
    folder = write_cifar10(tmp_path / 'cifar')
    (folder / 'data_batch_3').write_bytes(data)
    check_message(capsys, ['create_cifar10', folder, tmp_path / 'a.h5'], 'data_batch_3: is not a pickle of CIFAR (',
                  message, '); download it again')
    assert os.listdir(tmp_path) == ['cifar'] and vars(labelled_sets._PickledType) == before


@pytest.mark.parametrize('change, message', [
    ({'data': np.zeros((6, 3000), np.uint8)}, 'must hold data, (N, 3072) uint8, and labels'),
    ({'data': np.zeros((6, 3072), np.int16)}, 'must hold data, (N, 3072) uint8, and labels'),
    ({'data': [1, 2]}, 'must hold data, (N, 3072) uint8, and labels'),
    ({'data': np.zeros((0, 3072), np.uint8), 'labels': []}, 'must hold a class from 0 to 9 for each of 0 images'),
    ({'labels': [0] * 5}, 'must hold a class from 0 to 9 for each of 6 images'),
    ({'labels': [0, 1, 2, 3, 4, 10]}, 'must hold a class from 0 to 9'),
    ({'labels': [0, 1, 2, 3, 4, -1]}, 'must hold a class from 0 to 9'),
    ({'labels': ['a'] * 6}, 'must hold a class from 0 to 9'),
    ({'labels': None}, 'must hold a class from 0 to 9'),
])
def test_pickles_of_something_else(change, message, tmp_path, capsys):
    folder = write_cifar10(tmp_path / 'cifar')
    batch = {'data': np.zeros((6, 3072), np.uint8), 'labels': [0] * 6} | change
    (folder / 'data_batch_1').write_bytes(pickle.dumps(batch))
    check_message(capsys, ['create_cifar10', folder, tmp_path / 'a.h5'], 'data_batch_1: ' + message)


# ----------------------------------------------------------------------------------------------------------------------
# SVHN.


def write_svhn(folder, split, seed, num=6, **change):
    random = np.random.RandomState(seed)
    images = random.randint(256, size=(num, 3, 32, 32), dtype=np.uint8)
    classes = random.randint(1, 11, size=(num, 1)).astype(np.uint8)
    classes[0] = 10
    scipy.io.savemat(folder / (split + '_32x32.mat'),
                     {'X': images.transpose(2, 3, 1, 0), 'y': classes, **change}, do_compression=True)
    return images, classes[:, 0] % 10


def test_svhn(tmp_path, capsys):
    train, extra = write_svhn(tmp_path, 'train', 1), write_svhn(tmp_path, 'extra', 2, 3)
    argv = ['create_svhn', tmp_path, tmp_path / 'a.h5', '--expected-images', 0, '--force']
    for options, parts in (([], [train]), (['--split', 'train+extra'], [train, extra])):
        assert run_tool(capsys, *argv, *options)[0] == 0
        images, classes = map(np.concatenate, zip(*parts, strict=True))
        with h5py.File(tmp_path / 'a.h5') as h5:
            np.testing.assert_array_equal(h5['data32x32'][:], images)
        np.testing.assert_array_equal(np.load(tmp_path / 'a-labels.npy'), np.eye(10)[classes])


def test_files_that_are_not_svhn(tmp_path, capsys):
    argv = ['create_svhn', tmp_path, tmp_path / 'a.h5']
    check_message(capsys, argv, 'has no file train_32x32.mat')
    write_svhn(tmp_path, 'train', 1)
    check_message(capsys, argv, 'has 6 images, expected 73257;')
    path = tmp_path / 'train_32x32.mat'
    whole = path.read_bytes()
    for size in (0, 100, 200, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        check_message(capsys, argv, 'train_32x32.mat: cannot be read as a MATLAB file with X and y (')
    for change, message in [({'X': np.zeros((32, 32, 3, 6))}, 'X must hold (32, 32, 3, N) uint8, not'),
                            ({'X': np.zeros((6, 32, 32, 3), np.uint8)}, 'X must hold (32, 32, 3, N) uint8, not'),
                            ({'y': np.full((6, 1), 11, np.uint8)}, 'must hold a class from 0 to 10')]:
        write_svhn(tmp_path, 'train', 1, **change)
        check_message(capsys, argv, 'train_32x32.mat: ' + message)


# ----------------------------------------------------------------------------------------------------------------------
# create_digits.


def center_of_mass(images):
    """Offsets (N, 2) of the centres of mass from the centre of images (N, H, H), in pixels down and right."""
    coordinates = np.arange(images.shape[1]) + 0.5 - images.shape[1] / 2
    weights = images / images.sum(axis=(1, 2), keepdims=True)
    return np.stack([weights.sum(axis=2) @ coordinates, weights.sum(axis=1) @ coordinates], axis=1)


@pytest.mark.parametrize('resolution', [16, 32])
def test_digits(resolution, tmp_path, capsys):
    h5_path = tmp_path / 'digits.h5'
    assert run_tool(capsys, 'create_digits', h5_path, '--resolution', resolution) == (
        0, f'Wrote 1797 images to {h5_path}\n', '')
    with dataset.Dataset(h5_path) as reader:
        assert reader.shape == (1, resolution, resolution) and reader.num_images == 1797
        images, labels = reader.get_images(range(1797))
    # Classes are about equally frequent, each digit ranges from black to white, and no strokes are at the edge.
    assert set(labels.sum(axis=1)) == {1} and (170 < labels.sum(axis=0)).all()
    assert (images.min(axis=(1, 2, 3)) == 0).all() and (images.max(axis=(1, 2, 3)) == 255).all()
    inner = images[:, :, 1:-1, 1:-1]
    assert inner.sum(dtype=np.int64) == images.sum(dtype=np.int64)
    # Enlarging does not shift the digits: on average, the centres of mass are the same as in the 8x8 digits.
    from sklearn.datasets import load_digits
    enlargement = resolution * 0.75 / 8
    shift = center_of_mass(images[:, 0]) - center_of_mass(load_digits().images) * enlargement
    # In pixels. The usual mistake is a shift by half a pixel of the 8x8 digits, which is enlargement / 2 >= 0.75.
    assert np.abs(shift.mean(axis=0)).max() < 0.05
    np.testing.assert_array_equal(labels.argmax(axis=1), load_digits().target)


def test_digits_are_the_same_every_time(tmp_path):
    create_digits(tmp_path / 'a.h5')
    create_digits(tmp_path / 'b.h5', resolution=16, margin=2)
    with h5py.File(tmp_path / 'a.h5') as a, h5py.File(tmp_path / 'b.h5') as b:
        np.testing.assert_array_equal(a['data16x16'][:], b['data16x16'][:])


@pytest.mark.parametrize('argv, message', [
    (['--resolution', 20], '--resolution 20: must be a power of two'),
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
