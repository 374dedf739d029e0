"""tfrecords: files of an independent writer; all kinds of damage; checksums and protocol buffers."""

import os
import struct
import sys

import google_crc32c
import h5py
import numpy as np
import pytest

from common.errors import UserError
from data import tfrecords
from tests.helpers import load_golden, run_tool

SAMPLE, _META = load_golden('tfrecords')    # Written by the PyPI package tfrecord in the layout of the release.
LABELS = np.eye(3, dtype=np.float32)[[2, 0, 1, 1, 0]]


@pytest.fixture
def folder(tmp_path):
    """A folder with the sample: five images at 8x8 and 4x4, with labels."""
    (tmp_path / 'faces').mkdir()
    for lod in (2, 3):
        (tmp_path / 'faces' / f'faces-r{lod:02d}.tfrecords').write_bytes(SAMPLE[f'file_r{lod:02d}'].tobytes())
    with open(tmp_path / 'faces' / 'faces-rxx.labels', 'wb') as file:
        np.save(file, LABELS)
    return tmp_path / 'faces'


# An encoder, for cases that are not in the sample.


def varint_bytes(number):
    number &= (1 << 64) - 1
    result = b''
    while number > 127:
        result += bytes([number & 127 | 128])
        number >>= 7
    return result + bytes([number])


def field(number, value):
    """A protocol buffer field, with a number or bytes."""
    if isinstance(value, int):
        return varint_bytes(number << 3) + varint_bytes(value)
    return varint_bytes(number << 3 | 2) + varint_bytes(len(value)) + value


def example_bytes(**features):
    """A tf.train.Example of encoded features."""
    entries = [field(1, field(1, name.encode()) + field(2, feature)) for name, feature in features.items()]
    return field(1, b''.join(entries))


def image_bytes(image, shape=None):
    shape = b''.join(map(varint_bytes, image.shape if shape is None else shape))
    return example_bytes(shape=field(3, field(1, shape)), data=field(1, field(1, image.tobytes())))


def checksum(data):
    crc = google_crc32c.value(data)
    return struct.pack('<I', ((crc >> 15) + (crc << 17) + 0xa282ead8) % (1 << 32))


def record_bytes(data):
    length = struct.pack('<Q', len(data))
    return length + checksum(length) + data + checksum(data)


def write_records(path, messages):
    path.write_bytes(b''.join(map(record_bytes, messages)))


# ----------------------------------------------------------------------------------------------------------------------
# Datasets.


def test_a_dataset_of_another_writer(folder, tmp_path, capsys):
    h5_path = tmp_path / 'a.h5'
    assert run_tool(capsys, 'create_from_tfrecords', folder, h5_path) == (0, f'Wrote 5 images to {h5_path}\n', '')
    with h5py.File(h5_path) as h5:
        np.testing.assert_array_equal(h5['data8x8'][:], SAMPLE['images'])
    np.testing.assert_array_equal(np.load(tmp_path / 'a-labels.npy'), LABELS)


def test_any_range_can_be_read(folder):
    source = tfrecords.tfrecords(folder)
    assert (source.num_images, source.resolution, source.channels) == (5, 8, 3)
    for start, stop in [(0, 5), (2, 4), (4, 5)]:
        np.testing.assert_array_equal(np.concatenate(list(source.images(start, stop))), SAMPLE['images'][start:stop])


def test_one_file_alone_and_several_data_sets_in_a_folder(folder, tmp_path, capsys):
    write_records(folder / 'cats-r03.tfrecords', [image_bytes(np.full((1, 8, 8), 7, np.uint8))])
    status, _out, err = run_tool(capsys, 'create_from_tfrecords', folder, tmp_path / 'a.h5')
    assert status == 1 and 'has several datasets, cats, faces; give the finest .tfrecords file' in err
    status, out, err = run_tool(capsys, 'create_from_tfrecords', tmp_path / 'a.h5', folder / 'cats-r03.tfrecords')
    assert (status, err) == (0, '') and 'not there' not in out
    with h5py.File(tmp_path / 'a.h5') as h5:
        assert h5['data8x8'].shape == (1, 1, 8, 8) and (h5['data8x8'][:] == 7).all()
    assert not (tmp_path / 'a-labels.npy').exists()     # The labels in the folder belong to the other dataset.


def test_levels_that_are_missing_and_a_second_file_of_labels(folder, capsys):
    (folder / 'faces-r05.tfrecords').write_bytes(record_bytes(image_bytes(np.zeros((3, 32, 32), np.uint8))) * 5)
    assert tfrecords.tfrecords(folder).resolution == 32
    assert 'missing, but not needed: r04\n' in capsys.readouterr().out
    (folder / 'other.labels').write_bytes((folder / 'faces-rxx.labels').read_bytes())
    assert tfrecords.tfrecords(folder / 'faces-r05.tfrecords').labels is not None
    with pytest.raises(UserError, match='faces-rxx.labels, .*other.labels: several files of labels'):
        tfrecords.tfrecords(folder)
    (folder / 'faces-rxx.labels').unlink()
    np.testing.assert_array_equal(tfrecords.tfrecords(folder).labels, LABELS)


def test_coarser_levels_that_are_not_averages_are_reported(folder, tmp_path, capsys):
    images = tfrecords.tfrecords(folder)
    assert images.num_images == 5 and capsys.readouterr().out == ''
    write_records(folder / 'faces-r02.tfrecords', [image_bytes(np.zeros((3, 4, 4), np.uint8))] * 5)
    status, out, _err = run_tool(capsys, 'create_from_tfrecords', folder, tmp_path / 'a.h5')
    assert status == 0 and 'faces-r02.tfrecords: differs from the averages of' in out
    with h5py.File(tmp_path / 'a.h5') as h5:
        assert h5['data4x4'][:].mean() > 100


@pytest.mark.parametrize('messages, error', [
    ([image_bytes(np.zeros((3, 4, 4), np.uint8))] * 4, 'has 4 images, .*faces-r03.tfrecords has 5'),
    ([image_bytes(np.zeros((1, 4, 4), np.uint8))] * 5, r'the shape \(1, 4, 4\), which is not a fraction of the \(3, 8'),
    ([image_bytes(np.zeros((3, 16, 16), np.uint8))] * 5, r'the shape \(3, 16, 16\), which is not a fraction of the'),
])
def test_coarser_levels_of_something_else(messages, error, folder):
    write_records(folder / 'faces-r02.tfrecords', messages)
    with pytest.raises(UserError, match='faces-r02.tfrecords: .*' + error):
        tfrecords.tfrecords(folder)


@pytest.mark.parametrize('labels, error', [
    (np.eye(4), r'one row of labels for each of 5 images, not \(4, 4\) float64; move it away'),
    (np.arange(5), r'not \(5,\) int64'), (np.array([['a']] * 5), 'for each of 5 images'),
    (np.array([[{}]] * 5), 'cannot be read as a NumPy array'), (b'', 'cannot be read'), (b'text', 'cannot be read'),
])
def test_labels_that_do_not_fit(labels, error, folder):
    with open(folder / 'faces-rxx.labels', 'wb') as file:
        if isinstance(labels, bytes):
            file.write(labels)
        else:
            np.save(file, labels, allow_pickle=True)
    with pytest.raises(UserError, match='faces-rxx.labels: .*' + error):
        tfrecords.tfrecords(folder)


def test_a_dataset_without_labels(folder, tmp_path):
    (folder / 'faces-rxx.labels').unlink()
    assert tfrecords.tfrecords(folder).labels is None
    with open(folder / 'faces-rxx.labels', 'wb') as file:
        np.save(file, np.zeros((5, 0), np.float32))
    assert tfrecords.tfrecords(folder).labels is None


def test_folders_that_are_no_data_sets(tmp_path, capsys):
    for path, message in [(tmp_path, 'has no files like NAME-r08.tfrecords'), (tmp_path / 'none', 'cannot be read (')]:
        status, _out, err = run_tool(capsys, 'create_from_tfrecords', path, tmp_path / 'a.h5')
        assert status == 1 and message in err and err.count('\n') == 1 and os.listdir(tmp_path) == []


# ----------------------------------------------------------------------------------------------------------------------
# Damage.


def test_a_file_that_is_cut_off_anywhere(folder):
    path = folder / 'faces-r03.tfrecords'
    whole = path.read_bytes()
    size = len(whole) // 5
    for length in range(1, len(whole), 7):
        if length % size:
            path.write_bytes(whole[:length])
            with pytest.raises(UserError, match=f'faces-r03.tfrecords: is cut off in record {length // size};'):
                tfrecords.tfrecords(folder)
    path.write_bytes(b'')
    with pytest.raises(UserError, match='faces-r03.tfrecords: is empty'):
        tfrecords.tfrecords(folder)


def test_every_flipped_bit_is_found(folder, tmp_path):
    path = folder / 'faces-r03.tfrecords'
    whole = path.read_bytes()
    for position in range(0, len(whole) // 5, 3):
        damaged = bytearray(whole)
        damaged[2 * (len(whole) // 5) + position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match='faces-r03.tfrecords: .*record 2[ ,]'):
            source = tfrecords.tfrecords(path)
            list(source.images(0, 5))


def test_damage_leaves_no_dataset(folder, tmp_path, capsys):
    path = folder / 'faces-r03.tfrecords'
    damaged = bytearray(path.read_bytes())
    damaged[-10] ^= 1
    path.write_bytes(damaged)
    status, _out, err = run_tool(capsys, 'create_from_tfrecords', path, tmp_path / 'a.h5')
    assert status == 1 and 'record 4 is damaged (wrong checksum)' in err and err.count('\n') == 1
    assert os.listdir(tmp_path) == ['faces']


GOOD = np.zeros((3, 8, 8), np.uint8)


@pytest.mark.parametrize('message, error', [
    (b'', "is not an image .'shape'"),
    (example_bytes(shape=field(3, field(1, b'\x03\x08\x08'))), "is not an image .'data'"),
    (example_bytes(shape=field(1, field(1, b'a')), data=field(1, field(1, b'a'))), r'has 1 bytes and the shape \(b'),
    (image_bytes(GOOD, (3, 8, 9)), r'has 192 bytes and the shape \(3, 8, 9\)'),
    (image_bytes(GOOD, (3, 64)), r'has 192 bytes and the shape \(3, 64\)'),
    (image_bytes(GOOD, (-3, -8, 8)), r'has 192 bytes and the shape \(-3, -8, 8\)'),
    (image_bytes(np.zeros((3, 6, 6), np.uint8)), r'the shape \(3, 6, 6\); expected bytes of the shape \(C, H, W\)'),
    (image_bytes(np.zeros((3, 4, 4), np.uint8)), r'the name requires \(1 or 3, 8, 8\)'),
    (image_bytes(np.zeros((2, 8, 8), np.uint8)), r'the name requires \(1 or 3, 8, 8\)'),
    (image_bytes(GOOD)[:-1], 'a field is longer than its message'),
    (b'\x0b', 'unknown wire type 3'), (b'\x80', 'a number is cut off'), (b'\xff' * 11, 'more than 10 bytes'),
    (field(1, 5), 'field 1 is not length-delimited'), (b'text', 'is not an image'),
])
def test_records_of_something_else(message, error, folder):
    (folder / 'faces-r02.tfrecords').unlink()
    write_records(folder / 'faces-r03.tfrecords', [message] * 5)
    with pytest.raises(UserError, match='faces-r03.tfrecords: .*' + error):
        tfrecords.tfrecords(folder)


def test_images_of_another_shape_further_on(folder):
    write_records(folder / 'faces-r03.tfrecords', [image_bytes(GOOD)] * 4 + [image_bytes(GOOD[:1])])
    source = tfrecords.tfrecords(folder / 'faces-r03.tfrecords')
    with pytest.raises(UserError, match=r'record 4 has 64 bytes and the shape \(1, 8, 8\); expected .* \(3, 8, 8\)'):
        list(source.images(0, 5))


# ----------------------------------------------------------------------------------------------------------------------
# Formats.


def test_checksums():
    # RFC 3720, appendix B.4: 32 bytes of zeros and of ones. The mask is part of the format's definition.
    for data, crc in [(bytes(32), 0x8a9136aa), (b'\xff' * 32, 0x62a8ab43)]:
        assert tfrecords.masked_crc32c(data) == ((crc >> 15 | crc << 17) % 2 ** 32 + 0xa282ead8) % 2 ** 32


def test_numbers_packed_and_not_negative_and_unknown_fields():
    packed = field(3, field(1, varint_bytes(300) + varint_bytes(-1)))
    single = field(3, field(1, 300) + field(1, -1))
    for feature in (packed, single):
        unknown = field(9, 7) + varint_bytes(10 << 3 | 5) + b'abcd' + varint_bytes(11 << 3 | 1) + b'abcdefgh'
        parsed = tfrecords.parse_example(unknown + example_bytes(a=feature, b=field(2, b'')))
        assert parsed == {'a': [300, -1]}
    assert tfrecords.parse_example(example_bytes(a=field(1, field(1, b'x') + field(1, b'')))) == {'a': [b'x', b'']}


def test_without_the_package_for_checksums(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'google_crc32c', None)
    status, _out, err = run_tool(capsys, 'create_from_tfrecords', folder, tmp_path / 'a.h5')
    assert status == 1 and 'pip install google-crc32c' in err and err.count('\n') == 1
