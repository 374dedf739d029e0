"""image_source: images in order from threads, in constant memory; labels and files written together."""

import threading

import h5py
import numpy as np
import pytest

from common.errors import UserError
from data import image_source
from data.image_source import ImageSource, array_source, decoded_source, map_in_order


def test_results_come_in_order_and_from_several_threads():
    barrier = threading.Barrier(3, timeout=60)     # Only three simultaneous calls pass it.

    def wait_for_others(number):
        barrier.wait()
        return number

    assert list(map_in_order(wait_for_others, range(30), num_threads=3)) == list(range(30))


def test_only_a_few_items_are_read_ahead():
    num_read = 0

    def items():
        nonlocal num_read
        for num_read in range(1, 1001):     # noqa: UP028
            yield num_read

    ahead = []
    for number in map_in_order(lambda item: item, items(), num_threads=2):
        ahead.append(num_read - number)
    assert len(ahead) == 1000 and max(ahead) < 2 * 4


def test_an_error_comes_in_its_place_and_ends_the_rest():
    def fail_at_five(number):
        if number == 5:
            raise ValueError(f'number {number}')
        return number

    results, num_threads = map_in_order(fail_at_five, range(1000), num_threads=2), threading.active_count()
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match='number 5'):
        next(results)
    assert list(results) == [] and threading.active_count() == num_threads


def test_threads_end_when_nobody_asks_for_more():
    num_threads = threading.active_count()
    results = map_in_order(str, range(1000), num_threads=2)
    assert next(results) == '0' and threading.active_count() == num_threads + 2
    results.close()
    assert threading.active_count() == num_threads


PARTS = [np.arange(3 * 48, dtype=np.uint8).reshape(3, 3, 4, 4), np.arange(4 * 48, dtype=np.uint8).reshape(4, 3, 4, 4)]


@pytest.mark.parametrize('group_bytes', [1, 100, 1000])
@pytest.mark.parametrize('make', [array_source, lambda parts: decoded_source(
    np.concatenate(parts), lambda image: image, 4, 3)])
def test_any_range_in_groups_of_any_size(make, group_bytes, monkeypatch):
    monkeypatch.setattr(image_source, 'GROUP_BYTES', group_bytes)
    source, whole = make(PARTS), np.concatenate(PARTS)
    assert (source.num_images, source.resolution, source.channels, source.labels) == (7, 4, 3, None)
    for start in range(8):
        for stop in range(start, 8):
            groups = list(source.images(start, stop))
            assert all(0 < group.nbytes <= max(group_bytes, 48) for group in groups)
            np.testing.assert_array_equal(np.concatenate([whole[:0], *groups]), whole[start:stop])


def test_images_and_labels_are_written(tmp_path):
    labels = image_source.one_hot(np.array([0, 2, 1, 1, 0, 2, 2]), 3)
    assert labels.dtype == np.float32
    image_source.create(tmp_path / 'a.h5', array_source, PARTS, labels)
    with h5py.File(tmp_path / 'a.h5') as h5:
        np.testing.assert_array_equal(h5['data4x4'][:], np.concatenate(PARTS))
    np.testing.assert_array_equal(np.load(tmp_path / 'a-labels.npy').argmax(axis=1), [0, 2, 1, 1, 0, 2, 2])


def test_an_existing_file_is_refused_before_the_source_is_read(tmp_path):
    (tmp_path / 'a.h5').write_text('precious')
    with pytest.raises(UserError, match='a.h5: exists'):
        image_source.create(tmp_path / 'a.h5', lambda: pytest.fail('read'))
    image_source.create(tmp_path / 'a.h5', array_source, PARTS, force=True)
    with h5py.File(tmp_path / 'a.h5') as h5:
        assert len(h5['data4x4']) == 7


def test_a_source_that_ends_in_an_error_leaves_nothing(tmp_path):
    def images(_start, _stop):
        yield PARTS[0]
        raise UserError('the second part is broken')

    with pytest.raises(UserError, match='second part'):
        image_source.write_dataset(ImageSource(7, 4, 3, images), tmp_path / 'a.h5')
    assert list(tmp_path.iterdir()) == []


def test_expected_numbers():
    image_source.check_count('folder', 3, 3, 'cure')
    image_source.check_count('folder', 3, 0, 'cure')
    with pytest.raises(UserError, match='^folder: has 3 images, expected 4; cure, or --expected-images 3 if'):
        image_source.check_count('folder', 3, 4, 'cure')
