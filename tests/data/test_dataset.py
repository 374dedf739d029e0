"""dataset: the recorded minibatches, exactly; wrong files and arguments; reading ahead."""

import gc
import json
import threading
import zlib

import h5py
import numpy as np
import pytest

from common.errors import UserError
from data import chunk_reader, dataset
from tests.helpers import load_golden

ARRAYS = load_golden('dataset_reader')[0]
SCENARIOS = sorted(key[:-5] for key in ARRAYS if key.endswith('_meta'))
LEVELS = {key[len('source_'):]: value for key, value in ARRAYS.items() if key.startswith('source_data')}


def write_file(path, levels=LEVELS, labels=None):
    with h5py.File(path, 'w') as h5:
        for name, value in levels.items():
            h5[name] = value
    if labels is not None:
        np.save(str(path)[:-len('.h5')] + '-labels.npy', labels)
    return path


@pytest.fixture
def h5_path(tmp_path):
    return write_file(tmp_path / 'faces.h5', labels=ARRAYS['source_labels'])


def crc(array):
    return zlib.crc32(np.ascontiguousarray(array))


# ----------------------------------------------------------------------------------------------------------------------
# Recorded minibatches.


@pytest.mark.parametrize('cache_gb, parallel_bytes', [(0, 1 << 20), (1, 1 << 20), (0, 0)],
                         ids=['streaming', 'cached', 'threads'])
@pytest.mark.parametrize('name', SCENARIOS)
def test_recorded_scenario(name, cache_gb, parallel_bytes, h5_path, monkeypatch):
    monkeypatch.setattr(dataset, 'PARALLEL_BYTES', parallel_bytes)
    meta = json.loads(str(ARRAYS[name + '_meta']))
    info, kwargs = meta['info'], meta['kwargs']
    kwargs.pop('max_gb_to_load_right_away', None)   # An option of the release; ours is cache_gb.
    np.random.seed(meta['seed'])
    with dataset.Dataset(h5_path, cache_gb=cache_gb, read_threads=3, **kwargs) as reader:
        assert [reader.num_images, *reader.shape] == info['shape']
        assert reader.resolution == info['resolution']
        assert (reader.dtype, list(reader.dynamic_range)) == (info['dtype'], info['dynamic_range'])
        assert list(reader.labels.shape) == info['labels_shape'] and reader.labels.dtype == info['labels_dtype']
        assert len(reader.order) == info['order_size'] and reader.reshuffle_window == info['reshuffle_window']
        np.testing.assert_array_equal(reader.order, ARRAYS[name + '_order_initial'])
        for number, recorded in enumerate(meta['calls']):
            call = recorded['call']
            upcoming = (reader.position + np.arange(call['minibatch_size'])) % len(reader.order)
            assert reader.order[upcoming].tolist() == recorded['indices']
            images, labels = reader.next_minibatch(
                call['minibatch_size'], call['lod'], shrink_based_on_lod=call['shrink_based_on_lod'])
            assert list(images.shape) == recorded['shape'] and images.dtype == recorded['dtype']
            assert list(labels.shape) == recorded['labels_shape']
            golden = f'{name}_call{number:02d}_'
            if golden + 'images' in ARRAYS:
                np.testing.assert_array_equal(images, ARRAYS[golden + 'images'])
                np.testing.assert_array_equal(labels, ARRAYS[golden + 'labels'])
            assert (crc(images), crc(labels)) == (recorded['crc32'], recorded['labels_crc32'])
        np.testing.assert_array_equal(reader.order, ARRAYS[name + '_order_final'])
    keys, position = np.random.get_state()[1:3]
    assert (crc(keys), position) == (info['final_rng_crc32'], info['final_rng_pos'])


def test_the_recorded_scenarios_are_there():
    assert len(SCENARIOS) == 6


# ----------------------------------------------------------------------------------------------------------------------
# Labels and given images.


def test_random_labels_are_drawn_from_all_rows_also_without_labels(h5_path):
    with dataset.Dataset(h5_path, max_images=3, max_labels=0) as reader:
        np.random.seed(5)
        assert reader.random_labels(7).shape == (7, 0)
        after = np.random.rand()
        np.random.seed(5)
        rows = np.random.randint(24, size=7)
        assert after == np.random.rand()
    with dataset.Dataset(h5_path, max_images=3) as reader:
        np.random.seed(5)
        labels = reader.random_labels(7)
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, ARRAYS['source_labels'][rows])


def test_a_dataset_without_labels(tmp_path):
    with dataset.Dataset(write_file(tmp_path / 'faces.h5')) as reader:
        assert reader.label_size == 0 and reader.labels.shape == (24, 0)
        assert reader.next_minibatch(5)[1].shape == (5, 0)


def test_given_images_are_as_they_are_in_the_file_and_draw_nothing(h5_path):
    np.random.seed(3)
    with dataset.Dataset(h5_path, mirror_augment=True, max_images=4) as reader:
        before = reader.get_state(), crc(np.random.get_state()[1]), np.random.get_state()[2]
        images, labels = reader.get_images([23, 0, 23])
        assert (crc(np.random.get_state()[1]), np.random.get_state()[2]) == before[1:]
        np.testing.assert_array_equal(images, LEVELS['data16x16'][[23, 0, 23]])
        np.testing.assert_array_equal(labels, ARRAYS['source_labels'][[23, 0, 23]])
        with pytest.raises(IndexError, match='indices from 0 to 24: there are 24 images'):
            reader.get_images([0, 24])


def grouped_labels():
    """Labels of 24 images with classes 0, 1, 2, 0, 1, ...; the last image has no label."""
    labels = np.eye(3, dtype=np.float32)[np.arange(24) % 3]
    labels[23] = 0
    return labels


@pytest.mark.parametrize('classes, max_labels, columns', [
    ([1], 'all', [1]), ([2, 0], 'all', [2, 0]), ((0, 1, 2), 'all', [0, 1, 2]), (np.array([2, 0]), 1, [2]), ([1], 0, []),
])
def test_some_classes_only(classes, max_labels, columns, tmp_path):
    """`classes` gives the same minibatches as a file with only these images and label columns."""
    labels = grouped_labels()
    wanted = np.flatnonzero(labels[:, list(classes)].any(axis=1))
    path = write_file(tmp_path / 'faces.h5', labels=labels)
    other = write_file(tmp_path / 'some.h5', {name: level[wanted] for name, level in LEVELS.items()},
                       labels[wanted][:, columns] if columns else None)
    results = []
    for h5_path, kwargs in ((path, {'classes': classes, 'max_labels': max_labels}), (other, {})):
        np.random.seed(4)
        with dataset.Dataset(h5_path, mirror_augment=True, prefetch_images=4, cache_gb=0, **kwargs) as reader:
            assert reader.num_images == len(wanted) and reader.label_size == len(columns)
            minibatches = [reader.next_minibatch(5, lod) for lod in (0, 0, 0.5, 1, 0)]
            results.append([*minibatches, (reader.random_labels(9),), reader.get_images([3, len(wanted) - 1])])
    for got, expected in zip(*results, strict=True):
        for array, expected_array in zip(got, expected, strict=True):
            np.testing.assert_array_equal(array, expected_array)


def test_the_first_images_of_a_class(tmp_path):
    path = write_file(tmp_path / 'faces.h5', labels=grouped_labels())
    with dataset.Dataset(path, classes=[1], max_images=3, max_labels=0, shuffle=False, prefetch_images=1) as reader:
        np.testing.assert_array_equal(reader.next_minibatch(4)[0], LEVELS['data16x16'][[1, 4, 7, 1]])


def test_images_without_a_label_have_a_row_of_zeros(tmp_path):
    path = write_file(tmp_path / 'faces.h5', labels=grouped_labels())
    with dataset.Dataset(path, shuffle=False, prefetch_images=1) as reader:
        np.testing.assert_array_equal(reader.next_minibatch(24)[1], grouped_labels())
    with dataset.Dataset(path, classes=[2]) as reader:
        assert reader.num_images == 7


@pytest.mark.parametrize('kwargs, message', [
    ({'classes': []}, r'classes=\[\]: must be a list of different columns of .*faces-labels.npy, from 0 to 4'),
    ({'classes': [5]}, r'classes=\[5\]: must be a list of different columns'),
    ({'classes': [1, 1]}, r'classes=\[1, 1\]: must be a list of different columns'),
    ({'classes': [True]}, r'classes=\[True\]: must be a list of different columns'),
    ({'classes': 3}, 'classes=3: must be a list of different columns'),
    ({'classes': [0], 'max_labels': 2}, 'max_labels=2: .*faces-labels.npy has 1 columns of these classes'),
    ({'classes': [0], 'max_images': 20}, 'max_images=20: .*faces.h5 has only 5 of these classes'),
    ({'classes': [4]}, r'classes=\[4\]: .*faces-labels.npy has no image with one of these labels'),
])
def test_classes_that_do_not_fit(kwargs, message, tmp_path):
    labels = np.eye(5)[np.arange(24) % 5]
    labels[:, 4] = 0
    path = write_file(tmp_path / 'faces.h5', labels=labels)
    with pytest.raises(UserError, match=message) as raised:
        dataset.Dataset(path, **kwargs)
    assert '\n' not in str(raised.value)


def test_classes_without_labels(tmp_path):
    with pytest.raises(UserError, match=r'classes=\[0\]: there is no .*faces-labels.npy; use None, or make'):
        dataset.Dataset(write_file(tmp_path / 'faces.h5'), classes=[0], max_labels=0)


def test_the_result_can_be_changed_without_changing_the_dataset(h5_path):
    with dataset.Dataset(h5_path) as reader:
        reader.get_images([1])[0][:] = 0
        np.testing.assert_array_equal(reader.get_images([1])[0][0], LEVELS['data16x16'][1])


def test_minibatches_that_cannot_be(h5_path):
    with dataset.Dataset(h5_path) as reader:
        with pytest.raises(ValueError, match='lod=4.5: must be from 0 to 4'):
            reader.next_minibatch(1, lod=4.5)
        with pytest.raises(ValueError, match='minibatch_size=0'):
            reader.next_minibatch(0)


# ----------------------------------------------------------------------------------------------------------------------
# State and reading ahead.


def test_a_reader_continues_from_a_saved_state(h5_path):
    np.random.seed(1)
    with dataset.Dataset(h5_path, mirror_augment=True, prefetch_images=4) as reader:
        reader.next_minibatch(30)
        state, generator = reader.get_state(), np.random.get_state()
        expected = [reader.next_minibatch(7, lod=0.3) for _ in range(9)]
    with dataset.Dataset(h5_path, mirror_augment=True, prefetch_images=4) as reader:
        reader.set_state(state)
        np.random.set_state(generator)
        for images, labels in expected:
            got_images, got_labels = reader.next_minibatch(7, lod=0.3)
            np.testing.assert_array_equal(got_images, images)
            np.testing.assert_array_equal(got_labels, labels)
    with dataset.Dataset(h5_path, prefetch_images=12) as reader:
        with pytest.raises(UserError, match='reader state of 24 entries: .* prefetch_images=12 has 48'):
            reader.set_state(state)


def test_reshuffling_images_that_are_read_ahead(h5_path):
    """Shuffle window, minibatch and read-ahead overlap in the order of 24 entries, because 2 x 6 + 20 > 24."""
    np.random.seed(2)
    with dataset.Dataset(h5_path, prefetch_images=6, cache_gb=0) as reader:
        for _ in range(200):
            upcoming = reader.order[(reader.position + np.arange(20)) % len(reader.order)]
            images, labels = reader.next_minibatch(20, lod=1, shrink_based_on_lod=True)
            np.testing.assert_array_equal(images, LEVELS['data8x8'][upcoming])
            np.testing.assert_array_equal(labels, ARRAYS['source_labels'][upcoming])
        assert sorted(reader.order.tolist()) == list(range(24))


def test_streaming_reads_ahead_and_drops_used_images(h5_path):
    with dataset.Dataset(h5_path, prefetch_images=4, cache_gb=0) as reader:
        for lod in (0, 0, 0, 1, 1):
            reader.next_minibatch(5, lod=lod)
            upcoming = reader.order[(reader.position + np.arange(4)) % len(reader.order)].tolist()
            # Wait up to a minute, which is far more than reads of 768 bytes take.
            for _ in range(6000):
                if set(reader.reader.images[lod]) == set(upcoming):
                    break
                threading.Event().wait(0.01)
            assert set(reader.reader.images[lod]) == set(upcoming)
            assert not reader.reader.images[1 - lod]


def test_a_reader_that_is_not_closed_stops_its_threads(h5_path):
    reader = dataset.Dataset(h5_path, read_threads=3)
    reader.next_minibatch(1)
    threads, h5 = reader.reader.threads, reader.h5
    assert len(threads) == 3 and all(thread.is_alive() for thread in threads)
    del reader
    gc.collect()
    assert not any(thread.is_alive() for thread in threads) and not h5


def test_nothing_is_read_twice(h5_path, monkeypatch):
    """No image is read by two threads, or by the reader while a thread reads it."""
    reads, read = [], chunk_reader.ChunkReader.read

    def slow_read(level, index):
        reads.append(index)
        threading.Event().wait(0.002 + 0.004 * (index % 2))
        return read(level, index)

    monkeypatch.setattr(chunk_reader.ChunkReader, 'read', slow_read)
    monkeypatch.setattr(dataset, 'PARALLEL_BYTES', 0)
    with dataset.Dataset(h5_path, shuffle=False, prefetch_images=6, cache_gb=0, read_threads=3) as reader:
        for start in range(0, 18, 2):
            images = reader.next_minibatch(2)[0]
            np.testing.assert_array_equal(images, LEVELS['data16x16'][start:start + 2])
    assert sorted(reads) == sorted(set(reads))


def test_images_read_meanwhile_are_not_read_ahead(h5_path, monkeypatch):
    reads, read, go_on = [], chunk_reader.ChunkReader.read, threading.Event()

    def blocked_read(level, index):
        reads.append(index)
        assert index or go_on.wait(60)
        return read(level, index)

    monkeypatch.setattr(chunk_reader.ChunkReader, 'read', blocked_read)
    with dataset.Dataset(h5_path, cache_gb=0, read_threads=1) as reader:
        ahead = reader.reader
        ahead.read_ahead(0, np.arange(3))
        ahead.read(0, 1)
        go_on.set()
        with ahead.lock:
            assert ahead.reading_ended.wait_for(lambda: not ahead.wanted and not ahead.reading, 60)
        assert sorted(reads) == [0, 1, 2] and sorted(ahead.images[0]) == [0, 2]


def test_memory_for_reading_ahead_is_bounded(h5_path, monkeypatch):
    monkeypatch.setattr(dataset, 'PREFETCH_BYTES', 5 * 768 + 767)
    with dataset.Dataset(h5_path, cache_gb=0) as reader:
        for _ in range(20):
            reader.next_minibatch(3)
            with reader.reader.lock:
                assert len(set(reader.reader.images[0]) | {index for _lod, index in reader.reader.wanted}) <= 5


def test_an_error_in_one_thread_is_raised_when_all_are_done(h5_path):
    with dataset.Dataset(h5_path, read_threads=3) as reader:
        done = []

        def work(item):
            if item in (0, 7):
                raise ValueError(f'item {item}')
            if threading.current_thread() is not threading.main_thread():
                threading.Event().wait(0.05)
            done.append(item)

        with pytest.raises(ValueError, match='item 0'):
            reader.reader.for_each(work, range(10))
        assert sorted(done) == [1, 2, 3, 4, 5, 6, 8, 9]
        reader.reader.for_each(work, range(1, 4))
        assert len(done) == 11


def test_reading_from_a_closed_dataset(h5_path):
    reader = dataset.Dataset(h5_path, cache_gb=0)
    reader.close()
    with pytest.raises(ValueError, match='closed|identifier|[Nn]ot a '):
        reader.next_minibatch(2)


def test_close_twice(h5_path):
    reader = dataset.Dataset(h5_path)
    reader.next_minibatch(1)
    reader.close()
    reader.close()
    assert not any(thread.is_alive() for thread in reader.reader.threads)


# ----------------------------------------------------------------------------------------------------------------------
# Pixels.


@pytest.mark.parametrize('width', [1, 2, 4, 8, 64])
def test_mirrored_images(width):
    image = np.random.RandomState(0).randint(256, size=(3, width, width), dtype=np.uint8)
    out = np.zeros((2, 3, width, width), dtype=np.uint8)
    dataset.copy_image(image, out[0], False)
    dataset.copy_image(image, out[1], True)
    np.testing.assert_array_equal(out[0], image)
    np.testing.assert_array_equal(out[1], image[:, :, ::-1])


def test_images_mirrored_by_the_2018_release():
    """The 2018 release draws one uniform number per image, like Dataset with mirror_augment."""
    recorded = load_golden('tf/train_utils')[0]
    images, mirrored = recorded['process_reals/input_lod0'], np.random.RandomState(17).rand(4) < 0.5
    out = np.zeros_like(images)
    for index in range(4):
        dataset.copy_image(images[index], out[index], mirrored[index])
    np.testing.assert_array_equal(out, recorded['misc/mirror_augment_np_seed17'])


@pytest.mark.parametrize('weight', [0.5, 1 / 3, 0.1, 0.999, 1e-17])
@pytest.mark.parametrize('shape', [(3, 3, 2, 2), (2, 1, 4, 4), (2, 3, 64, 64)])
@pytest.mark.parametrize('block_pixels', [1, 1000, 1 << 18])
def test_blending_is_the_plain_formula_in_float64(block_pixels, shape, weight, monkeypatch):
    monkeypatch.setattr(dataset, 'BLEND_PIXELS', block_pixels)
    images = np.random.RandomState(0).randint(256, size=shape, dtype=np.uint8)
    images[0, 0] //= 128
    images[0, 0] *= 255     # Black and white have the largest differences.
    blocks = images.reshape(shape[0], shape[1], shape[2] // 2, 2, shape[3] // 2, 2).astype(np.float64)
    blocks += (blocks.mean(axis=(3, 5), keepdims=True) - blocks) * weight
    dataset.blend_with_average(images, weight)
    np.testing.assert_array_equal(images, blocks.astype(np.uint8).reshape(shape))


# ----------------------------------------------------------------------------------------------------------------------
# User errors.


@pytest.mark.parametrize('kwargs, message', [
    ({'resolution': 20}, 'resolution=20: must be a power of two'),
    ({'resolution': 0}, 'resolution=0: must be a power of two'),
    ({'resolution': 16.0}, r'resolution=16.0: must be a power of two'),
    ({'resolution': 32}, r'resolution=32: .*faces.h5 has at most 16'),
    ({'max_images': 25}, r'max_images=25: .*faces.h5 has only 24'),
    ({'max_images': 0}, 'max_images=0: must be a whole number from 1 or None'),
    ({'max_labels': 6}, r"max_labels=6: .*faces-labels.npy has 5 columns"),
    ({'max_labels': 'some'}, "max_labels='some': must be 'all'"),
    ({'max_labels': -1}, 'max_labels=-1: must be'),
    ({'prefetch_images': -1}, 'prefetch_images=-1: must be a whole number from 0'),
    ({'read_threads': 0}, 'read_threads=0: must be a whole number from 1'),
    ({'read_threads': 1.5}, 'read_threads=1.5: must be a whole number from 1'),
    ({'mirror_augment': 'false'}, "mirror_augment='false': must be True or False"),
    ({'shuffle': 1}, 'shuffle=1: must be True or False'),
    ({'cache_gb': -1}, 'cache_gb=-1: must be a number of at least 0'),
])
def test_arguments_that_do_not_fit(kwargs, message, h5_path):
    with pytest.raises(UserError, match=message) as raised:
        dataset.Dataset(h5_path, **kwargs)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('labels, message', [
    (np.zeros((23, 5), np.float32), 'faces-labels.npy: has 23 rows, but the dataset has 24 images'),
    (np.zeros(24, np.int64), r'must hold one-hot labels, \[N, label_size\] float32, not \(24,\) int64'),
    (np.full((24, 1), 'cat'), r'faces-labels.npy: must hold one-hot labels'),
    (np.full((24, 1), None), 'faces-labels.npy: cannot be read as a NumPy array'),
])
def test_labels_that_do_not_fit(labels, message, tmp_path):
    write_file(tmp_path / 'faces.h5', labels=labels)
    with pytest.raises(UserError, match=message):
        dataset.Dataset(tmp_path / 'faces.h5')
    with dataset.Dataset(tmp_path / 'faces.h5', max_labels=0) as reader:
        assert reader.label_size == 0


def test_labels_that_are_missing(tmp_path):
    with pytest.raises(UserError, match='max_labels=3: there is no .*faces-labels.npy'):
        dataset.Dataset(write_file(tmp_path / 'faces.h5'), max_labels=3)


@pytest.mark.parametrize('parallel_bytes', [0, 1 << 20])
def test_an_image_that_cannot_be_read(parallel_bytes, tmp_path, monkeypatch):
    """If bytes of one compressed image change, reading it is an error; the other images are readable."""
    monkeypatch.setattr(dataset, 'PARALLEL_BYTES', parallel_bytes)
    path = tmp_path / 'faces.h5'
    with h5py.File(path, 'w') as h5:
        for name, value in LEVELS.items():
            h5.create_dataset(name, data=value, chunks=(1,) + value.shape[1:], compression='gzip')
        chunk = h5['data16x16'].id.get_chunk_info(7)
    with open(path, 'r+b') as file:
        file.seek(chunk.byte_offset + 2)
        file.write(b'\xff\xff\xff\xff')
    with dataset.Dataset(path, shuffle=False) as reader:
        np.testing.assert_array_equal(reader.next_minibatch(7)[0], LEVELS['data16x16'][:7])
        with pytest.raises(UserError, match='faces.h5: image 7 at 16x16 cannot be read'):
            reader.next_minibatch(3)
        np.testing.assert_array_equal(reader.next_minibatch(3)[0], LEVELS['data16x16'][10:13])
