"""Checks of untrusted HDF5 files before anything is read, because HDF5 itself trusts what a file claims.

HDF5 follows links to other files, reads any file as pixels (external storage), inflates a chunk to any size, returns
black for missing chunks, and uninitialised memory for the rest of a chunk that is too short.
"""

import contextlib
import math
from collections.abc import Iterator

import h5py
import numpy as np

from common.errors import UserError, one_line
from common.files import AnyPath
from data.archives import MAX_DEFLATION

# Also limits chunks, which are inflated in memory. 16384x16384 RGB takes 0.8 GB, the paper's largest images take 3 MB.
MAX_IMAGE_BYTES = 1 << 30
MAX_IMAGES = 1 << 28            # LSUN has 60 million. Training holds a shuffled order of 8 bytes per image.
MAX_ATTRIBUTE_BYTES = 64 << 10  # HDF5's limit for attributes stored in the ordinary way.
MAX_VIRTUAL_BYTES = 1 << 26     # Size of a file of virtual datasets, which takes about 2 KB per part.
MAX_LINKS = 16                  # Length of a chain of soft links.

FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF)
CHECKSUM_BYTES = 4              # Appended by fletcher32.

# Raised by h5py for damaged or malicious files.
HDF5_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError,
               NotImplementedError)


@contextlib.contextmanager
def damage_as_user_error() -> Iterator[None]:
    """Turn HDF5 errors within the block into a UserError of one line, without the file's name."""
    try:
        yield
    except UserError:
        raise
    except HDF5_ERRORS as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise UserError(f'is damaged ({one_line(reason)})') from error


def has_global_heap(path: AnyPath) -> bool:
    """Whether a file is small and may have a virtual dataset, whose list of parts is in HDF5's global heap.

    HDF5 crashes if such a list is damaged: see :func:`data.native_readers.try_hdf5`.
    """
    with contextlib.suppress(OSError), open(path, 'rb') as file:
        content = file.read(MAX_VIRTUAL_BYTES + 1)
        return len(content) <= MAX_VIRTUAL_BYTES and b'GCOL' in content
    return False


# ----------------------------------------------------------------------------------------------------------------------
# Links and attributes.


def open_object(h5: h5py.File, name: str) -> h5py.HLObject:
    """``h5[name]``, except for links to other files, links in a circle, and links through linked groups."""
    for _ in range(MAX_LINKS):
        link = h5.get(name, getlink=True)
        if isinstance(link, h5py.HardLink):
            return h5[name]
        if isinstance(link, h5py.ExternalLink):
            raise UserError(f'{name}: is a link to another file, {one_line(link.filename)}; only data within the file '
                            'are read')
        path = link.path.strip('/')
        if '/' in path:
            raise UserError(f'{name}: is a link to {one_line(path)}; only links to the top of the file are followed')
        name = path
    raise UserError(f'{name}: is a circle of links')


def read_attribute(h5: h5py.File, name: str) -> np.ndarray | None:
    """Read an attribute of fixed size from an open file; None if it does not exist.

    Raises
    ------
    UserError
        The attribute is damaged, too large, or of another type.
    """
    try:
        with damage_as_user_error():
            return _read_attribute(h5, name)
    except UserError as error:
        raise UserError(f'{h5.filename}: its attribute {name} {error}; make or copy the file again') from error


def _read_attribute(h5, name):
    if not h5py.h5a.exists(h5.id, name.encode()):
        return None
    attribute = h5py.h5a.open(h5.id, name.encode())
    kind, size = attribute.get_type(), attribute.get_storage_size()
    is_text = isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str()
    if size > MAX_ATTRIBUTE_BYTES or not (is_text or isinstance(kind, h5py.h5t.TypeIntegerID)):
        raise UserError(f'has {size} bytes, or a type that dataset_tool.py does not write')
    value = h5.attrs[name]
    return None if isinstance(value, h5py.Empty) else np.asarray(value)


# ----------------------------------------------------------------------------------------------------------------------
# Claims of a level.


def check_claims(level: h5py.Dataset) -> None:
    """Check how a level is stored and that the file can hold its claimed size; reads and allocates no data.

    Parameters
    ----------
    level : h5py.Dataset, shape (N, C, r, r)

    Raises
    ------
    UserError
        The data are in other files, use unsupported filters or types, or claim impossible sizes.
    """
    name, properties = level.name.strip('/'), level.id.get_create_plist()
    if properties.get_external_count():
        raise UserError(f'{name}: its data are in another file, {one_line(properties.get_external(0)[0])}; only data '
                        'within the file are read')
    if not level.id.get_type().equal(h5py.h5t.STD_U8LE) and not level.id.get_type().equal(h5py.h5t.STD_U8BE):
        raise UserError(f'{name}: its numbers are not stored as plain bytes')
    image_bytes = math.prod(level.shape[1:])
    if image_bytes > MAX_IMAGE_BYTES:
        raise UserError(f'{name}: an image would take {image_bytes} bytes; at most {MAX_IMAGE_BYTES} are read')
    if len(level) > MAX_IMAGES:
        raise UserError(f'{name}: claims {len(level)} images; at most {MAX_IMAGES} are read')
    if level.is_virtual:
        if size_of(level.file) > MAX_VIRTUAL_BYTES:
            raise UserError(f'{name}: is virtual in a file of more than {MAX_VIRTUAL_BYTES} bytes')
        return
    filters = [properties.get_filter(number) for number in range(properties.get_nfilters())]
    for number, _flags, values, text in filters:
        if number not in FILTERS:
            raise UserError(f'{name}: uses the filter {number} {one_line(text)}, which is not supported; copy the '
                            'file with `h5repack -f GZIP=4`')
        if number == h5py.h5z.FILTER_LZF and values[2:3] not in ((), (0,), (math.prod(level.chunks),)):
            raise UserError(f'{name}: is damaged (lzf claims chunks of {values[2]} bytes)')
    file_bytes = size_of(level.file)
    most = file_bytes * (MAX_DEFLATION if filters else 1)       # gzip compresses best of `FILTERS`.
    if len(level) * image_bytes > most:
        raise UserError(f'{name}: claims {len(level)} images of {image_bytes} bytes, but a file of {file_bytes} bytes '
                        f'can hold at most {most}')
    if level.chunks and math.prod(level.chunks) > MAX_IMAGE_BYTES:
        raise UserError(f'{name}: has chunks of {math.prod(level.chunks)} bytes; at most {MAX_IMAGE_BYTES} are read')


def size_of(h5: h5py.File) -> int:
    """Size in bytes of an open file."""
    return h5.id.get_filesize()


# ----------------------------------------------------------------------------------------------------------------------
# Locations of the data.


def find_chunks(level: h5py.Dataset) -> np.ndarray:
    """Locate the chunks of a level in the file.

    Parameters
    ----------
    level : h5py.Dataset, shape (N, C, r, r), uint8
        Stored in chunks.

    Returns
    -------
    ndarray
        (number of chunks, 3) int64 in C order: offset, size in the file, mask with a bit for each filter that was
        skipped; the size of a chunk that was never written is 0.

    Raises
    ------
    UserError
        The index is damaged: it cannot be read, or lists chunks twice or outside the level.
    """
    grid = chunk_grid(level)
    chunks = np.zeros((math.prod(grid), 3), dtype=np.int64)
    steps = [math.prod(grid[axis + 1:]) for axis in range(len(grid))]
    wrong = 0

    def add(chunk):
        nonlocal wrong
        number = 0
        for start, length, count, step in zip(chunk.chunk_offset, level_chunks, grid, steps, strict=True):
            place, rest = divmod(start, length)
            if rest or not 0 <= place < count:
                wrong += 1
                return
            number += place * step
        if chunks[number, 1]:
            wrong += 1
        chunks[number] = chunk.byte_offset, chunk.size, chunk.filter_mask

    level_chunks = level.chunks     # h5py queries HDF5 on each access.
    with damage_as_user_error():
        if hasattr(level.id, 'chunk_iter'):
            level.id.chunk_iter(add)
        else:
            for place in np.ndindex(*grid):
                chunk = level.id.get_chunk_info_by_coord(tuple(map(int.__mul__, place, level_chunks)))
                if chunk.size:
                    add(chunk)
    if wrong:
        raise UserError(f'is damaged (at {place_of(level)} the index lists {wrong} chunks twice or outside the '
                        'images)')
    return chunks


def chunk_grid(level: h5py.Dataset) -> tuple[int, ...]:
    """Number of chunks of a level along each axis."""
    return tuple(-(-length // chunk) for length, chunk in zip(level.shape, level.chunks, strict=True))


def place_of(level: h5py.Dataset) -> str:
    """The resolution of a level as '16x16'."""
    return f'{level.shape[2]}x{level.shape[3]}'


def check_places(levels: list[h5py.Dataset], tables: list[np.ndarray | None]) -> None:
    """Check that all data of the levels of a file exist within the file, do not overlap, and have the right sizes.

    Parameters
    ----------
    levels : list of h5py.Dataset
    tables : list of (ndarray or None)
        Result of :func:`find_chunks` for each level; None: the level is not stored in chunks.

    Raises
    ------
    UserError
        The data are not all there or are damaged. The message does not name the file.
    """
    file_bytes, extents = size_of(levels[0].file), []
    for level, table in zip(levels, tables, strict=True):
        if table is None:
            with damage_as_user_error():
                offset, size = level.id.get_offset(), level.id.get_storage_size()
                is_compact = level.id.get_create_plist().get_layout() == h5py.h5d.COMPACT
            if (offset is None and not is_compact) or size != level.size:
                written = size if offset is not None or is_compact else 0
                raise UserError(f'at {place_of(level)} only {written} of {level.size} bytes were written')
            if not is_compact:
                extents.append(np.array([[offset, size]], np.int64))
            continue
        _check_sizes(level, table)
        extents.append(table[:, :2])
    places = np.concatenate(extents) if extents else np.zeros((0, 2), np.int64)
    places = places[np.argsort(places[:, 0], kind='stable')]
    ends = places.sum(axis=1)
    if len(places) and (places[0, 0] < 0 or ends.max() > file_bytes):
        raise UserError(f'is damaged (has data at byte {max(ends.max(), -places[0, 0])} of {file_bytes})')
    twice = np.flatnonzero(ends[:-1] > places[1:, 0])
    if len(twice):
        raise UserError(f'is damaged (the data of {len(twice)} chunks overlap, first at byte '
                        f'{places[twice[0] + 1, 0]})')


def _check_sizes(level, table):
    missing = np.flatnonzero(table[:, 1] == 0)
    if len(missing):
        image = int(missing[0]) // math.prod(chunk_grid(level)[1:]) * level.chunks[0]
        raise UserError(f'at {place_of(level)} some images were never written, such as image {image}')
    chunk_bytes = math.prod(level.chunks)
    filters = filters_of(level)
    if not filters:
        wrong = table[:, 1] != chunk_bytes
    else:       # gzip may enlarge incompressible data a little, and chunks may be written without a filter.
        wrong = table[:, 1] > chunk_bytes + chunk_bytes // 8 + 1024
        wrong |= table[:, 1] * MAX_DEFLATION < chunk_bytes
    if wrong.any():
        raise UserError(f'is damaged (at {place_of(level)} {np.count_nonzero(wrong)} chunks of {chunk_bytes} bytes '
                        f'have a wrong size in the file, such as {table[wrong][0, 1]})')


def filters_of(level: h5py.Dataset) -> list[int]:
    """Numbers of the filters of a level, in the order of compression."""
    properties = level.id.get_create_plist()
    return [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]

