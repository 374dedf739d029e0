"""chunk_reader: the same bytes as h5py for every layout, without h5py for the layouts of our files; damaged files."""

import concurrent.futures
import zlib

import h5py
import numpy as np
import pytest

from common.errors import UserError
from data import chunk_reader
from data.chunk_reader import ChunkReader, open_raw, open_readers


def make_images(num=11, channels=3, resolution=16):
    """Compressible images that all differ."""
    images = np.random.RandomState(channels).randint(256, size=(num, channels, resolution, resolution), dtype=np.uint8)
    images[:, :, ::2] = np.arange(num, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis]
    return images


@pytest.fixture(params=['zlib', 'isal'])
def inflater(request, monkeypatch):
    module = zlib if request.param == 'zlib' else pytest.importorskip('isal.isal_zlib')
    monkeypatch.setattr(chunk_reader, 'inflater', module)


@pytest.fixture
def no_h5py(monkeypatch):
    """Make reading with h5py an error."""
    def read_image(level, index):
        raise AssertionError(f'image {index} was read by h5py')
    monkeypatch.setattr(chunk_reader, 'read_image', read_image)


def open_reader(path):
    h5 = h5py.File(path, 'r')
    return h5, ChunkReader(h5['data16x16'], open_raw(h5))


def write(path, images, **kwargs):
    with h5py.File(path, 'w', **{key: kwargs.pop(key) for key in ('userblock_size', 'libver') if key in kwargs}) as h5:
        h5.create_dataset('data16x16', data=images, **kwargs)
    return path


# ----------------------------------------------------------------------------------------------------------------------
# Layouts.


@pytest.mark.parametrize('libver', ['earliest', 'latest'])
@pytest.mark.parametrize('chunk_images', [1, 3, 64])
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('filters', [{'compression': 'gzip', 'compression_opts': 4}, {},
                                     {'compression': 'gzip', 'shuffle': True}, {'shuffle': True}],
                         ids=['gzip', 'plain', 'gzip and shuffle', 'shuffle'])
def test_whole_images_in_chunks(filters, channels, chunk_images, libver, tmp_path, inflater, no_h5py):
    images = make_images(channels=channels)
    h5, reader = open_reader(write(tmp_path / 'a.h5', images, chunks=(chunk_images,) + images.shape[1:], libver=libver,
                                   maxshape=(None,) + images.shape[1:], **filters))
    with h5, reader.raw_file:
        for index in [10, 3, *range(11)]:
            image = reader.read(index)
            assert (image.dtype, image.shape) == (np.uint8, images.shape[1:])
            np.testing.assert_array_equal(image, images[index])


@pytest.mark.parametrize('kwargs', [
    {},
    {'chunks': (1, 3, 16, 16), 'compression': 'lzf'},
    {'chunks': (1, 3, 16, 16), 'compression': 'gzip', 'fletcher32': True},
    {'chunks': (2, 1, 16, 16), 'compression': 'gzip'},
    {'chunks': (1, 3, 8, 16)},
    {'chunks': (1, 3, 16, 16), 'compression': 'gzip', 'userblock_size': 512},
], ids=['contiguous', 'lzf', 'fletcher32', 'channels apart', 'rows apart', 'user block'])
def test_other_layouts_are_left_to_h5py(kwargs, tmp_path):
    images = make_images()
    h5, reader = open_reader(write(tmp_path / 'a.h5', images, **kwargs))
    with h5:
        assert reader.raw_file is None if 'userblock_size' in kwargs else not reader.is_direct
        for index in range(11):
            np.testing.assert_array_equal(reader.read(index), images[index])


def test_a_virtual_dataset(tmp_path):
    images = make_images()
    write(tmp_path / 'b.h5', images, chunks=(1, 3, 16, 16), compression='gzip')
    layout = h5py.VirtualLayout(images.shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(tmp_path / 'b.h5'), 'data16x16', images.shape)
    with h5py.File(tmp_path / 'a.h5', 'w') as h5:
        h5.create_virtual_dataset('data16x16', layout)
    h5, reader = open_reader(tmp_path / 'a.h5')
    with h5:
        np.testing.assert_array_equal(reader.read(7), images[7])


def test_a_file_in_memory(tmp_path):
    images = make_images()
    with h5py.File(write(tmp_path / 'a.h5', images, chunks=(1, 3, 16, 16)), 'r', driver='core') as h5:
        assert open_raw(h5) is None
        np.testing.assert_array_equal(ChunkReader(h5['data16x16'], None).read(7), images[7])


def test_chunks_that_were_written_without_their_filter(tmp_path, inflater, no_h5py):
    """A bit of the mask marks a filter that was skipped: bit 0 shuffle, bit 1 gzip."""
    images = make_images(3)
    with h5py.File(tmp_path / 'a.h5', 'w') as h5:
        level = h5.create_dataset('data16x16', images.shape, np.uint8, chunks=(1, 3, 16, 16), compression='gzip',
                                  shuffle=True)
        level.id.write_direct_chunk((0, 0, 0, 0), images[0].tobytes(), filter_mask=0b10)
        level.id.write_direct_chunk((1, 0, 0, 0), zlib.compress(images[1].tobytes()), filter_mask=0b01)
        level.id.write_direct_chunk((2, 0, 0, 0), images[2].tobytes(), filter_mask=0b11)
    h5, reader = open_reader(tmp_path / 'a.h5')
    with h5, reader.raw_file:
        np.testing.assert_array_equal(h5['data16x16'][:], images)
        np.testing.assert_array_equal([reader.read(index) for index in range(3)], images)


def test_chunks_that_were_never_written(tmp_path):
    """Missing chunks are errors, although HDF5 would return the fill value 7."""
    with h5py.File(tmp_path / 'a.h5', 'w') as h5:
        level = h5.create_dataset('data16x16', (4, 1, 16, 16), np.uint8, chunks=(1, 1, 16, 16), fillvalue=7)
        level[1] = 5
    h5, reader = open_reader(tmp_path / 'a.h5')
    with h5, reader.raw_file:
        assert reader.read(1).max() == 5
        with pytest.raises(UserError, match=r'a.h5: image 2 at 16x16 cannot be read \(was never written\)'):
            reader.read(2)
        with pytest.raises(UserError, match='a.h5.: at 16x16 some images were never written, such as image 0; make'), \
                open_readers(h5, [reader.level]):
            pass


def test_many_threads(tmp_path, inflater, no_h5py):
    images = make_images(100)
    h5, reader = open_reader(write(tmp_path / 'a.h5', images, chunks=(1, 3, 16, 16), compression='gzip'))
    indices = np.random.RandomState(0).randint(100, size=2000).tolist()
    with h5, reader.raw_file, concurrent.futures.ThreadPoolExecutor(8) as pool:
        for index, image in zip(indices, pool.map(reader.read, indices), strict=True):
            np.testing.assert_array_equal(image, images[index])


# ----------------------------------------------------------------------------------------------------------------------
# Files that cannot be read.


@pytest.mark.parametrize('position', [2, 40, -1], ids=['start', 'middle', 'checksum'])
@pytest.mark.parametrize('chunk_images', [1, 3])
def test_a_damaged_chunk(chunk_images, position, tmp_path, inflater):
    images = make_images()
    path = write(tmp_path / 'a.h5', images, chunks=(chunk_images, 3, 16, 16), compression='gzip')
    with h5py.File(path, 'r') as h5:
        chunk = h5['data16x16'].id.get_chunk_info_by_coord((6, 0, 0, 0))
    damaged = bytearray(path.read_bytes())
    place = chunk.byte_offset + position % chunk.size
    damaged[place:place + 1] = bytes([damaged[place] ^ 0xff])
    path.write_bytes(damaged)
    h5, reader = open_reader(path)
    with h5, reader.raw_file:
        with pytest.raises(UserError, match=r'a.h5: image 6 at 16x16 cannot be read \(.*\); make') as raised:
            reader.read(6)
        assert '\n' not in str(raised.value)
        for index in (0, 5, 9, 10):
            np.testing.assert_array_equal(reader.read(index), images[index])


@pytest.mark.parametrize('filters', [{'compression': 'gzip'}, {'compression': 'gzip', 'fletcher32': True}],
                         ids=['read here', 'read by h5py'])
@pytest.mark.parametrize('change', [5, -5])
def test_a_chunk_of_another_length(change, filters, tmp_path, inflater):
    """Wrong lengths are errors, although h5py would drop surplus bytes or return uninitialised memory."""
    images = make_images(2)
    changed = images[0].tobytes() + bytes(5) if change > 0 else images[0].tobytes()[:change]
    with h5py.File(tmp_path / 'a.h5', 'w') as h5:
        level = h5.create_dataset('data16x16', data=images, chunks=(1, 3, 16, 16), **filters)
        level.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(changed), filter_mask=0b10 if len(filters) > 1 else 0)
    h5, reader = open_reader(tmp_path / 'a.h5')
    with h5, reader.raw_file:
        reason = 'decompresses to more than 772' if change > 0 else '763 bytes, expected 768'
        with pytest.raises(UserError, match=rf'a.h5: image 0 at 16x16 cannot be read \({reason}'):
            reader.read(0)
        np.testing.assert_array_equal(reader.read(1), images[1])


def test_a_file_that_is_closed(tmp_path):
    h5, reader = open_reader(write(tmp_path / 'a.h5', make_images(), chunks=(1, 3, 16, 16)))
    reader.read(0)
    reader.raw_file.close()
    h5.close()
    with pytest.raises(ValueError, match='closed file'):
        reader.read(1)
