"""metrics.identity: digests depend on the contents and on nothing else."""

import os
import shutil

import h5py
import numpy as np
import pytest

import theano_env
from common.errors import UserError
from common.files import save_pkl
from data.dataset import Dataset
from data.hdf5_writer import HDF5Writer
from metrics import identity
from nets.network import Network
from nets.pickles import load_pkl

pytestmark = pytest.mark.usefixtures('restore_theano_config')


def write(path, images, labels=None):
    with HDF5Writer(str(path), images.shape[-1], images.shape[1], labels) as writer:
        writer.add_images(images)
    return path


def digest(path, **options):
    with Dataset(str(path), **options) as dataset:
        return identity.of_dataset(dataset)


@pytest.fixture
def images():
    return np.random.RandomState(0).randint(256, size=(12, 3, 8, 8)).astype(np.uint8)


@pytest.fixture
def labels():
    return np.eye(3, dtype=np.float32)[np.arange(12) % 3]


def test_a_data_set_is_the_same_at_another_place_and_time(tmp_path, images, labels):
    first = write(tmp_path / 'a.h5', images, labels)
    before = digest(first)
    (tmp_path / 'b').mkdir()
    for name in ('a.h5', 'a-labels.npy'):
        shutil.copy(tmp_path / name, tmp_path / 'b' / name.replace('a', 'c', 1))
    os.utime(first, (1, 1))
    assert digest(first) == digest(tmp_path / 'b' / 'c.h5') == before
    assert digest(first, shuffle=False, prefetch_images=3, cache_gb=0, read_threads=1) == before


@pytest.mark.parametrize('resolution', [8, 4, 1])
@pytest.mark.parametrize('kept_from, clock', [(1 << 27, 2), (0, 2), (0, -3600)])
def test_a_data_set_is_another_one_by_any_pixel_also_with_size_and_time_as_before(tmp_path, images, monkeypatch,
                                                                                  kept_from, clock, resolution):
    monkeypatch.setattr(identity, 'KEPT_FROM_BYTES', kept_from)
    monkeypatch.setattr(identity, 'CLOCK_SECONDS', clock)
    path = write(tmp_path / 'a.h5', images)
    before, time = digest(path), os.stat(path)
    with h5py.File(path, 'r+') as h5:
        level = h5[f'data{resolution}x{resolution}']
        level[7, 1, 0, 0] = 255 - level[7, 1, 0, 0]
    os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))
    assert digest(path) != before
    assert (tmp_path / 'metric-cache').exists() == (clock < 0)


def test_many_images_are_read_once(tmp_path, images, labels, monkeypatch):
    monkeypatch.setattr(identity, 'KEPT_FROM_BYTES', 0)
    monkeypatch.setattr(identity, 'CLOCK_SECONDS', -3600)
    path, read, digest_of = write(tmp_path / 'a.h5', images, labels), [], identity._digest
    monkeypatch.setattr(identity, '_digest', lambda *args: read.append(args) or digest_of(*args))
    digests = [digest(path, **options) for _twice in range(2) for options in ({}, {'classes': [1]}, {'max_images': 5})]
    assert digests[:3] == digests[3:] and len(set(digests)) == len(read) == 3
    for kept in (tmp_path / 'metric-cache').iterdir():      # Damage only costs time.
        kept.write_bytes(b'{"files": [')
    assert digest(path) == digests[0] and len(read) == 4
    shutil.copy(path, tmp_path / 'b.h5')
    shutil.copy(tmp_path / 'a-labels.npy', tmp_path / 'b-labels.npy')
    monkeypatch.setattr(identity, 'KEPT_FROM_BYTES', 1 << 27)
    assert digest(tmp_path / 'b.h5') == digests[0], 'the same, kept or not'


def test_a_training_reads_small_copies_and_a_sample_of_many_images(tmp_path, images, monkeypatch):
    with Dataset(write(tmp_path / 'a.h5', images)) as dataset:
        assert identity.of_images_quickly(dataset) == identity.of_images(dataset)
        monkeypatch.setattr(identity, 'QUICK_BYTES', 12 * 3 * (4 * 4 + 2 * 2 + 1))
        monkeypatch.setattr(identity, 'SAMPLE_IMAGES', 2)
        read, read_block = [], identity._read_block
        monkeypatch.setattr(identity, '_read_block', lambda level, reader, rows: read.append(
            (level.shape[-1], rows.tolist())) or read_block(level, reader, rows))
        before = identity.of_images_quickly(dataset)
    assert sorted(read) == [(1, list(range(12))), (2, list(range(12))), (4, list(range(12))), (8, [0, 11])]
    for resolution, index in ((4, 5), (8, 11)):
        with h5py.File(tmp_path / 'a.h5', 'r+') as h5:
            level = h5[f'data{resolution}x{resolution}']
            level[index, 0, 0, 0] = 255 - level[index, 0, 0, 0]
        with Dataset(tmp_path / 'a.h5') as dataset:
            assert identity.of_images_quickly(dataset) != before
            before = identity.of_images_quickly(dataset)


@pytest.mark.parametrize('clock', [2, -3600])
def test_a_file_of_which_a_data_set_consists_counts(tmp_path, images, monkeypatch, clock):
    monkeypatch.setattr(identity, 'KEPT_FROM_BYTES', 0)
    monkeypatch.setattr(identity, 'CLOCK_SECONDS', clock)
    for number in range(2):
        write(tmp_path / f'{number}.h5', images[number::2])
    with h5py.File(tmp_path / 'joined.h5', 'w') as joined:
        for resolution in (8, 4, 2, 1):
            name, shape = f'data{resolution}x{resolution}', (3, resolution, resolution)
            layout = h5py.VirtualLayout((12, *shape), np.uint8)
            for number in range(2):
                layout[6 * number:6 * number + 6] = h5py.VirtualSource(f'{number}.h5', name, (6, *shape))
            joined.create_virtual_dataset(name, layout)
    before = digest(tmp_path / 'joined.h5')
    assert digest(write(tmp_path / 'whole.h5', np.concatenate([images[::2], images[1::2]]))) == before
    with h5py.File(tmp_path / '1.h5', 'r+') as h5:
        h5['data8x8'][3, 0, 0, 0] ^= 1
    assert digest(tmp_path / 'joined.h5') != before


def test_all_options_that_choose_reals_count(tmp_path, images, labels):
    path = write(tmp_path / 'a.h5', images, labels)
    digests = [digest(path, **options) for options in (
        {}, {'max_images': 11}, {'resolution': 4}, {'mirror_augment': True}, {'max_labels': 0}, {'classes': [1]},
        {'classes': [2]}, {'classes': [1], 'max_labels': 0}, {'classes': [2], 'max_labels': 0},
        {'classes': [0, 1, 2]}, {'classes': [2, 1, 0]})]
    assert len(set(digests)) == len(digests) - 1 and digests[0] == digests[-2]     # All classes: all images.


def test_other_labels_are_another_data_set(tmp_path, images, labels):
    path = write(tmp_path / 'a.h5', images, labels)
    before = digest(path)
    np.save(tmp_path / 'a-labels.npy', labels[::-1])
    assert digest(path) != before


def test_networks_are_distinguished_by_their_values(tmp_path):
    theano_env.configure('torch', {'device': 'cpu'})
    net = Network('Gs', func='networks.G_paper', num_channels=1, resolution=8, fmap_base=8, fmap_max=2, latent_size=2)
    before = identity.of_network(net)
    save_pkl(net, tmp_path / 'a.pkl')
    copy = load_pkl(str(tmp_path / 'a.pkl'))
    assert identity.of_network(copy) == before and before.startswith(identity.OF_VALUES)
    assert copy.source == str(tmp_path / 'a.pkl')
    name = next(iter(copy.trainables))
    copy.set_var(name, copy.get_var(name) + 1e-6)
    assert identity.of_network(copy) != before


def test_a_damaged_data_set_is_named(tmp_path, images):
    path = write(tmp_path / 'a.h5', images)
    with h5py.File(path) as h5:
        offset = h5['data8x8'].id.get_chunk_info(3).byte_offset
    content = bytearray(path.read_bytes())
    content[offset:offset + 100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'a\.h5: images 0 to 11 at 8x8 cannot be read'):
        digest(path)


def test_files_of_weights(tmp_path):
    path = tmp_path / 'weights'
    path.write_bytes(b'a' * (3 << 20))
    first = identity.of_weights(path)
    path.write_bytes(b'a' * (3 << 20) + b'b')
    assert first and identity.of_weights(path) not in (first, None)
    assert identity.of_weights(tmp_path / 'none') is None and identity.of_weights(None) is None
