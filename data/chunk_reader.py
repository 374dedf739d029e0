"""Reads images out of an HDF5 file in many threads at once, past the lock of the HDF5 library.

HDF5 lets one thread in at a time, decompression included. Here it only says where the chunks of a level lie; they are
then read and decompressed without it.
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

from data.hdf5_format import open_part, read_image, virtual_parts

inflater: types.ModuleType
try:
    # Takes 0.6 of zlib's time for photographs.
    from isal import isal_zlib
    inflater = isal_zlib
except ImportError:
    inflater = zlib


class ChunkReader:
    """Reads the images of one level; any number of threads may call :meth:`read`.

    What it cannot read itself, HDF5 reads: layouts other than whole images in chunks, filters other than gzip, chunks
    that are damaged or were never written.

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
        self.chunks: np.ndarray | None = None   # See find_chunks.
        self.chunks_found = raw_file is None
        self.lock = threading.Lock()    # Guards the two above.

    def read(self, index: int) -> np.ndarray:
        """One image, (C, r, r) uint8; not to be written to.

        Raises
        ------
        UserError
            The file is damaged there.
        """
        data = None
        chunks = self.find_chunks()
        if chunks is not None:
            chunk, place = divmod(index, self.chunk_shape[0])
            data = self.read_chunk(*chunks[chunk].tolist())
        if data is None:
            return read_image(self.level, index)
        offset = place * math.prod(self.chunk_shape[1:])
        image: np.ndarray = np.ndarray(self.chunk_shape[1:], np.uint8, data, offset=offset)
        # A copy, lest one image keep all of a chunk in memory.
        return image if self.chunk_shape[0] == 1 else image.copy()

    def read_compressed(self, index: int) -> bytes | None:
        """The compressed bytes of one image, or None where it shares a chunk with others or is not compressed."""
        if self.chunk_shape is None or self.chunk_shape[0] != 1:
            return None
        chunks = self.find_chunks()
        if chunks is None or self.raw_file is None:
            return None
        offset, size, is_compressed = chunks[index].tolist()
        data = os.pread(self.raw_file.fileno(), size, offset) if is_compressed else b''
        return data if data and len(data) == size else None

    def find_chunks(self) -> np.ndarray | None:
        """Where all chunks are, see :func:`find_chunks`; found when it is first asked for."""
        with self.lock:
            if not self.chunks_found:
                self.chunks = find_chunks(self.level)
                self.chunks_found = True
        return self.chunks

    def read_chunk(self, offset: int, size: int, is_compressed: int) -> bytes | None:
        """The bytes of the images of one chunk, or None if that fails: then HDF5 has to say what is wrong."""
        if self.raw_file is None:
            return None
        num_bytes = math.prod(self.chunk_shape)
        try:
            data = os.pread(self.raw_file.fileno(), size, offset)
            if is_compressed:
                data = inflater.decompress(data, bufsize=num_bytes)
        except (OSError, inflater.error):
            return None
        return data if len(data) == num_bytes else None


class JoinedReader:
    """Reads the images of one level of a virtual dataset out of the files of which it consists, like ChunkReader.

    Parameters
    ----------
    starts : list of int
        Ascending: which image is the first of each part.
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
        """The reader of an image, and its place there."""
        part = bisect.bisect_right(self.starts, index) - 1
        return self.readers[part], index - self.starts[part]


Reader = ChunkReader | JoinedReader


@contextlib.contextmanager
def open_readers(h5: h5py.File, levels: list[h5py.Dataset]) -> Iterator[list[Reader]]:
    """Readers of some levels of an open file; what they open beside it is closed at the end of the block.

    Parameters
    ----------
    h5 : h5py.File
    levels : list of h5py.Dataset

    Yields
    ------
    list of ChunkReader or JoinedReader
    """
    with contextlib.ExitStack() as stack:
        yield _open_readers(h5, levels, stack)


def _open_readers(h5, levels, stack):
    parts = virtual_parts(levels[0])
    if parts is None:
        raw_file = open_raw(h5)
        if raw_file is not None:
            stack.enter_context(raw_file)
        return [ChunkReader(level, raw_file) for level in levels]
    part_readers = []
    for _start, _stop, path, _name in parts:
        part_h5, part_levels = open_part(h5.filename, path)
        stack.enter_context(part_h5)
        part_readers.append(_open_readers(part_h5, [part_levels[level.shape[2]] for level in levels], stack))
    starts = [part[0] for part in parts]
    return [JoinedReader(starts, list(readers)) for readers in zip(*part_readers, strict=True)]


def open_raw(h5: h5py.File) -> io.FileIO | None:
    """The file that `h5` has open, as a Python file of its own; None if HDF5 does not read it in the plain way."""
    if h5.driver != 'sec2' or h5.userblock_size or not hasattr(os, 'pread'):
        return None
    return open(os.dup(h5.id.get_vfd_handle()), 'rb', buffering=0)


def find_chunks(level: h5py.Dataset) -> np.ndarray | None:
    """Where the chunks of a level lie in the file.

    Parameters
    ----------
    level : h5py.Dataset, shape (N, C, r, r), uint8

    Returns
    -------
    ndarray or None
        (number of chunks, 3) int64: offset, size in the file, whether it is compressed; size 0 for chunks that were
        never written. None where chunks are not whole images, or have passed other filters than gzip and shuffle;
        shuffle leaves single bytes where they are.
    """
    shape = level.chunks
    if shape is None or shape[1:] != level.shape[1:] or not hasattr(level.id, 'chunk_iter'):
        return None
    properties = level.id.get_create_plist()
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if not set(filters) <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE} or len(set(filters)) < len(filters):
        return None
    # In a chunk's mask there is a bit for each filter that it was written without.
    gzip_bit = 1 << filters.index(h5py.h5z.FILTER_DEFLATE) if h5py.h5z.FILTER_DEFLATE in filters else None
    chunks = np.zeros((-(-len(level) // shape[0]), 3), dtype=np.int64)

    def add(chunk):
        is_compressed = gzip_bit is not None and not chunk.filter_mask & gzip_bit
        chunks[chunk.chunk_offset[0] // shape[0]] = chunk.byte_offset, chunk.size, is_compressed

    try:
        level.id.chunk_iter(add)
    except (OSError, RuntimeError):     # The index is damaged.
        return None
    return chunks
