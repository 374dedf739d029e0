"""Read images from an HDF5 file in many threads at once, without the HDF5 library's lock.

HDF5 admits one thread at a time, decompression included. Here it only locates the chunks of a level. The locations are
checked, then chunks are read and decompressed without HDF5, and never to more than their proper size.
"""

import bisect
import contextlib
import io
import math
import os
import threading
import types
import zlib
from collections.abc import Iterator

import h5py
import numpy as np

from common.errors import UserError
from data.hdf5_checks import (
    CHECKSUM_BYTES,
    check_places,
    chunk_grid,
    filters_of,
    find_chunks,
)
from data.hdf5_format import open_part, read_image, unreadable_image, virtual_parts

inflater: types.ModuleType
try:
    # Takes 0.6 of zlib's time for photographs.
    from isal import isal_zlib
    inflater = isal_zlib
except ImportError:
    inflater = zlib


class DamagedChunk(ValueError):
    """A chunk does not hold the data of a whole chunk; the message is a short reason."""


class ChunkReader:
    """Reads the images of one level; any number of threads may call :meth:`read`.

    Chunks that hold whole images and use gzip or no filter are decoded here. HDF5 reads the other layouts, after a
    check of the chunk's size, because HDF5 does not notice a wrong size.

    Parameters
    ----------
    level : h5py.Dataset, shape (N, C, r, r), uint8
    raw_file : file or None
        The file of `level`, see :func:`open_raw`. None: HDF5 reads everything.
    """

    def __init__(self, level: h5py.Dataset, raw_file: io.FileIO | None) -> None:
        self.level = level
        self.raw_file = raw_file
        self.chunk_shape = level.chunks
        self.grid = chunk_grid(level) if self.chunk_shape else ()
        self.filters = filters_of(level)
        self.is_direct = self.chunk_shape is not None and self.chunk_shape[1:] == level.shape[1:] and set(
            self.filters) <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}
        self.table: np.ndarray | None = None    # Result of find_chunks; None before that and for levels without chunks.
        self.lock = threading.Lock()            # Guards the table.

    def read(self, index: int) -> np.ndarray:
        """Read one image, (C, r, r) uint8; do not write to it.

        Raises
        ------
        UserError
            The file is damaged at this image.
        """
        chunks = self.find_chunks()
        if chunks is None:
            return read_image(self.level, index)
        row, place = divmod(index, self.chunk_shape[0])
        across = math.prod(self.grid[1:])
        try:
            for number in range(row * across, (row + 1) * across):
                data = self.decode(self.stored(number), int(chunks[number, 2]))
        except (DamagedChunk, OSError, RuntimeError) as error:
            raise unreadable_image(self.level, index, error) from error
        if not self.is_direct:
            return read_image(self.level, index)
        offset = place * math.prod(self.chunk_shape[1:])
        image: np.ndarray = np.ndarray(self.chunk_shape[1:], np.uint8, data, offset=offset)
        # Copy, so that one image does not keep a whole chunk in memory.
        return image if self.chunk_shape[0] == 1 else image.copy()

    def read_compressed(self, index: int) -> bytes | None:
        """Read the compressed bytes of one image, verified; None if it has no chunk of its own or does not use gzip.

        Raises
        ------
        UserError
            The file is damaged at this image.
        """
        chunks = self.find_chunks()
        if chunks is None or not self.is_direct or self.chunk_shape[0] != 1 or self.filters.count(
                h5py.h5z.FILTER_DEFLATE) != 1:
            return None
        mask = int(chunks[index, 2])
        if mask >> self.filters.index(h5py.h5z.FILTER_DEFLATE) & 1:
            return None
        try:
            data = self.stored(index)
            self.decode(data, mask)
        except (DamagedChunk, OSError, RuntimeError) as error:
            raise unreadable_image(self.level, index, error) from error
        return data

    def find_chunks(self) -> np.ndarray | None:
        """Locations of all chunks, see :func:`data.hdf5_checks.find_chunks`; located on first use."""
        with self.lock:
            if self.table is None and self.chunk_shape is not None:
                self.table = find_chunks(self.level)
            return self.table

    def stored(self, number: int) -> bytes:
        """Read a chunk as it is stored."""
        assert self.table is not None
        offset, size, mask = self.table[number].tolist()
        if not size:
            raise DamagedChunk('was never written')
        data = None if self.raw_file is None else os.pread(self.raw_file.fileno(), size, offset)
        if data is None or not self.is_direct:
            place = tuple(int(step) * length for step, length in zip(
                np.unravel_index(number, self.grid), self.chunk_shape, strict=True))
            # If its index is damaged, HDF5 may find another chunk here, or none.
            found_mask, found = self.level.id.read_direct_chunk(place)
            if found_mask != mask or data not in (None, found):
                raise DamagedChunk('the index of the file is damaged')
            data = found
        if len(data) != size:
            raise DamagedChunk(f'only {len(data)} of {size} bytes exist')
        return data

    def decode(self, data: bytes, mask: int) -> bytes:
        """Decode a chunk to pixels; if :attr:`is_direct` is false, only to bytes of the right number.

        Raises
        ------
        DamagedChunk
            The chunk has a wrong size or cannot be decompressed.
        """
        wanted = math.prod(self.chunk_shape)
        for number, code in reversed(list(enumerate(self.filters))):
            if mask >> number & 1 or code == h5py.h5z.FILTER_SHUFFLE:      # Shuffling has no effect on single bytes.
                continue
            if code == h5py.h5z.FILTER_DEFLATE:
                data = inflate(data, wanted + CHECKSUM_BYTES)
            elif code == h5py.h5z.FILTER_FLETCHER32:        # HDF5 verifies the checksum.
                data = data[:-CHECKSUM_BYTES]
            elif lzf_length(data, wanted) == wanted:
                data = bytes(wanted)
            else:
                raise DamagedChunk(f'lzf does not decompress to {wanted} bytes')
        if len(data) != wanted:
            raise DamagedChunk(f'{len(data)} bytes, expected {wanted}')
        return data


def inflate(data: bytes, most: int) -> bytes:
    """Decompress zlib data to at most `most` bytes.

    Raises
    ------
    DamagedChunk
        There are more bytes, the data are cut off, or the checksum is wrong.
    """
    stream = inflater.decompressobj()
    try:
        pixels = stream.decompress(data, most + 1)
    except inflater.error as error:
        raise DamagedChunk(str(error)) from error
    if len(pixels) > most:
        raise DamagedChunk(f'decompresses to more than {most} bytes')
    if not stream.eof:
        raise DamagedChunk('is cut off')
    return pixels


def lzf_length(data: bytes, most: int) -> int:
    """Decompressed length of LZF data; any number above `most` if it is larger than that."""
    position = length = 0
    while position < len(data) and length <= most:
        control = data[position]
        if control < 32:            # A literal run: control + 1 bytes.
            length += control + 1
            position += control + 2
        else:                       # A copy of earlier bytes: its length may take one more byte, its offset takes one.
            is_long = control >= 224
            length += (control >> 5) + 2 + (data[position + 1] if is_long and position + 1 < len(data) else 0)
            position += 2 + is_long
    return length if position == len(data) else most + 1


class JoinedReader:
    """Reads the images of one level of a virtual dataset from the files of its parts; same interface as ChunkReader.

    Parameters
    ----------
    starts : list of int
        Index of the first image of each part, ascending.
    readers : list of ChunkReader or JoinedReader
    """

    def __init__(self, starts: list[int], readers: 'list[Reader]') -> None:
        self.starts = starts
        self.readers = readers

    def read(self, index: int) -> np.ndarray:
        reader, place = self.find(index)
        return reader.read(place)

    def read_compressed(self, index: int) -> bytes | None:
        reader, place = self.find(index)
        return reader.read_compressed(place)

    def find(self, index: int) -> 'tuple[Reader, int]':
        """The reader of the part that holds an image, and the image's index there."""
        part = bisect.bisect_right(self.starts, index) - 1
        return self.readers[part], index - self.starts[part]


Reader = ChunkReader | JoinedReader


@contextlib.contextmanager
def open_readers(h5: h5py.File, levels: list[h5py.Dataset]) -> Iterator[list[Reader]]:
    """Open readers of some levels of a file; all other files that they open are closed at the end of the block.

    Checks that all chunks exist within the file and do not overlap, see :func:`data.hdf5_checks.check_places`.

    Parameters
    ----------
    h5 : h5py.File
    levels : list of h5py.Dataset

    Yields
    ------
    list of ChunkReader or JoinedReader

    Raises
    ------
    UserError
        Chunks are missing, or the index of the file is damaged.
    """
    with contextlib.ExitStack() as stack:
        yield _open_readers(h5, levels, stack)


def _open_readers(h5, levels, stack):
    parts = virtual_parts(levels[0])
    if parts is None:
        raw_file = open_raw(h5)
        if raw_file is not None:
            stack.enter_context(raw_file)
        readers = {level.shape[2]: ChunkReader(level, raw_file) for level in levels}     # `levels` may repeat a level.
        try:
            check_places([reader.level for reader in readers.values()],
                         [reader.find_chunks() for reader in readers.values()])
        except UserError as error:
            raise UserError(f'h5_path={h5.filename!r}: {error}; make or copy the file again') from error
        return [readers[level.shape[2]] for level in levels]
    part_readers = []
    for _start, _stop, path, _name in parts:
        part_h5, part_levels = open_part(h5.filename, path)
        stack.enter_context(part_h5)
        part_readers.append(_open_readers(part_h5, [part_levels[level.shape[2]] for level in levels], stack))
    starts = [part[0] for part in parts]
    return [JoinedReader(starts, list(readers)) for readers in zip(*part_readers, strict=True)]


def open_raw(h5: h5py.File) -> io.FileIO | None:
    """Open the file of `h5` as a separate Python file; None if HDF5 reads it through a special driver."""
    if h5.driver != 'sec2' or h5.userblock_size or not hasattr(os, 'pread'):
        return None
    return open(os.dup(h5.id.get_vfd_handle()), 'rb', buffering=0)
