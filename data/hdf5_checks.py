"""Checks of HDF5 files that others made, before anything is read: HDF5 itself trusts what a file says of itself.

It follows links to other files, reads any file as pixels (external storage), inflates a chunk to whatever comes out,
takes black for chunks that are not there and uninitialised memory for the rest of one that is too short.
"""

import contextlib
import math
from collections.abc import Iterator

import h5py
import numpy as np

from common.errors import UserError, one_line
from common.files import AnyPath
from data.archives import MAX_DEFLATION

# 16384x16384 RGB has 0.8 GB, the paper's largest images 3 MB. Also of a chunk, which is inflated in memory.
MAX_IMAGE_BYTES = 1 << 30
MAX_IMAGES = 1 << 28            # LSUN has 60 million. Training holds a shuffled order, 8 bytes an image.
MAX_ATTRIBUTE_BYTES = 64 << 10  # HDF5 stores no more in the ordinary way.
MAX_VIRTUAL_BYTES = 1 << 26     # Of a file of virtual datasets: it has no images, and some 2 KB for each part.
MAX_LINKS = 16                  # Soft links one after the other.

FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF)
CHECKSUM_BYTES = 4              # That fletcher32 appends.

# What h5py raises for files that are damaged, or made to do damage.
HDF5_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError,
               NotImplementedError)


@contextlib.contextmanager
def told_damage() -> Iterator[None]:
    """What HDF5 stumbles over within the block becomes a UserError of one line, without the name of the file."""
    try:
        yield
    except UserError:
        raise
    except HDF5_ERRORS as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise UserError(f'is damaged ({one_line(reason)})') from error


def has_global_heap(path: AnyPath) -> bool:
    """Whether a file is small and may have a virtual dataset, whose list of parts lies in HDF5's global heap.

    HDF5 crashes where such a list is damaged: see :func:`data.native_readers.try_hdf5`.
    """
    with contextlib.suppress(OSError), open(path, 'rb') as file:
        content = file.read(MAX_VIRTUAL_BYTES + 1)
        return len(content) <= MAX_VIRTUAL_BYTES and b'GCOL' in content
    return False


# ----------------------------------------------------------------------------------------------------------------------
# Links and attributes.


def open_object(h5: h5py.File, name: str) -> h5py.HLObject:
    """``h5[name]``, but for links that lead to other files, in a circle, or through groups that are links."""
    for _ in range(MAX_LINKS):
        link = h5.get(name, getlink=True)
        if isinstance(link, h5py.HardLink):
            return h5[name]
        if isinstance(link, h5py.ExternalLink):
            raise UserError(f'{name}: is a link to another file, {one_line(link.filename)}; only data in the file '
                            'itself are read')
        path = link.path.strip('/')
        if '/' in path:
            raise UserError(f'{name}: is a link to {one_line(path)}; only links to the top of the file are followed')
        name = path
    raise UserError(f'{name}: is a link that leads in a circle')


def read_attribute(h5: h5py.File, name: str) -> np.ndarray | None:
    """An attribute of an open file with a fixed number of bytes, or None if there is none.

    Raises
    ------
    UserError
        It is damaged, of another type or too large.
    """
    try:
        with told_damage():
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
        raise UserError(f'has {size} bytes, of another type than dataset_tool.py writes')
    value = h5.attrs[name]
    return None if isinstance(value, h5py.Empty) else np.asarray(value)


# ----------------------------------------------------------------------------------------------------------------------
# What a level says of itself.


def check_claims(level: h5py.Dataset) -> None:
    """Check how a level is stored, and that so much data can be in the file; nothing of it is read or allocated.

    Parameters
    ----------
    level : h5py.Dataset, shape (N, C, r, r)

    Raises
    ------
    UserError
        Data in other files, filters or types that are not read, or sizes that cannot be.
    """
    name, properties = level.name.strip('/'), level.id.get_create_plist()
    if properties.get_external_count():
        raise UserError(f'{name}: its data lie in another file, {one_line(properties.get_external(0)[0])}; only data '
                        'in the file itself are read')
    if not level.id.get_type().equal(h5py.h5t.STD_U8LE) and not level.id.get_type().equal(h5py.h5t.STD_U8BE):
        raise UserError(f'{name}: its numbers are not stored as plain bytes')
    image_bytes = math.prod(level.shape[1:])
    if image_bytes > MAX_IMAGE_BYTES:
        raise UserError(f'{name}: an image would take {image_bytes} bytes, at most {MAX_IMAGE_BYTES} are read')
    if len(level) > MAX_IMAGES:
        raise UserError(f'{name}: claims {len(level)} images, at most {MAX_IMAGES} are read')
    if level.is_virtual:
        if size_of(level.file) > MAX_VIRTUAL_BYTES:
            raise UserError(f'{name}: is virtual in a file of more than {MAX_VIRTUAL_BYTES} bytes')
        return
    filters = [properties.get_filter(number) for number in range(properties.get_nfilters())]
    for number, _flags, values, text in filters:
        if number not in FILTERS:
            raise UserError(f'{name}: has passed the filter {number} {one_line(text)}, which is not read; copy the '
                            'file with `h5repack -f GZIP=4`')
        if number == h5py.h5z.FILTER_LZF and values[2:3] not in ((), (0,), (math.prod(level.chunks),)):
            raise UserError(f'{name}: is damaged (lzf claims chunks of {values[2]} bytes)')
    file_bytes = size_of(level.file)
    most = file_bytes * (MAX_DEFLATION if filters else 1)       # gzip is the strongest of `FILTERS`.
    if len(level) * image_bytes > most:
        raise UserError(f'{name}: claims {len(level)} images of {image_bytes} bytes; in a file of {file_bytes} bytes '
                        f'there are at most {most}')
    if level.chunks and math.prod(level.chunks) > MAX_IMAGE_BYTES:
        raise UserError(f'{name}: has chunks of {math.prod(level.chunks)} bytes, at most {MAX_IMAGE_BYTES} are read')


def size_of(h5: h5py.File) -> int:
    """Bytes of the file under an open file."""
    return h5.id.get_filesize()


# ----------------------------------------------------------------------------------------------------------------------
# Where the data lie.


def find_chunks(level: h5py.Dataset) -> np.ndarray:
    """Where the chunks of a level lie in the file.

    Parameters
    ----------
    level : h5py.Dataset, shape (N, C, r, r), uint8
        In chunks.

    Returns
    -------
    ndarray
        (number of chunks, 3) int64 in C order: offset, size in the file, mask with a bit for each filter that the chunk
        was written without; size 0 for chunks that were never written.

    Raises
    ------
    UserError
        The index is damaged: it cannot be read, or has chunks twice or outside of the level.
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

    level_chunks = level.chunks     # h5py asks HDF5 each time.
    with told_damage():
        if hasattr(level.id, 'chunk_iter'):
            level.id.chunk_iter(add)
        else:
            for place in np.ndindex(*grid):
                chunk = level.id.get_chunk_info_by_coord(tuple(map(int.__mul__, place, level_chunks)))
                if chunk.size:
                    add(chunk)
    if wrong:
        raise UserError(f'is damaged (at {place_of(level)} the index has {wrong} chunks twice or outside of the '
                        'images)')
    return chunks


def chunk_grid(level: h5py.Dataset) -> tuple[int, ...]:
    """How many chunks a level has along each axis."""
    return tuple(-(-length // chunk) for length, chunk in zip(level.shape, level.chunks, strict=True))


def place_of(level: h5py.Dataset) -> str:
    """The resolution of a level as '16x16'."""
    return f'{level.shape[2]}x{level.shape[3]}'


def check_places(levels: list[h5py.Dataset], tables: list[np.ndarray | None]) -> None:
    """Check that all data of levels of one file are there: within the file, none upon another, of the right size.

    Parameters
    ----------
    levels : list of h5py.Dataset
    tables : list of (ndarray or None)
        :func:`find_chunks` of each; None: the level is not in chunks.

    Raises
    ------
    UserError
        Without the name of the file.
    """
    file_bytes, extents = size_of(levels[0].file), []
    for level, table in zip(levels, tables, strict=True):
        if table is None:
            with told_damage():
                offset, size = level.id.get_offset(), level.id.get_storage_size()
                is_compact = level.id.get_create_plist().get_layout() == h5py.h5d.COMPACT
            if (offset is None and not is_compact) or size != level.size:
                written = size if offset is not None or is_compact else 0
                raise UserError(f'at {place_of(level)} {written} of {level.size} bytes were written')
            if not is_compact:
                extents.append(np.array([[offset, size]], np.int64))
            continue
        _check_sizes(level, table)
        extents.append(table[:, :2])
    places = np.concatenate(extents) if extents else np.zeros((0, 2), np.int64)
    places = places[np.argsort(places[:, 0], kind='stable')]
    ends = places.sum(axis=1)
    if len(places) and (places[0, 0] < 0 or ends.max() > file_bytes):
        raise UserError(f'is damaged (data at byte {max(ends.max(), -places[0, 0])} of {file_bytes})')
    twice = np.flatnonzero(ends[:-1] > places[1:, 0])
    if len(twice):
        raise UserError(f'is damaged (the data of {len(twice)} chunks overlap, first at byte '
                        f'{places[twice[0] + 1, 0]})')


def _check_sizes(level, table):
    missing = np.flatnonzero(table[:, 1] == 0)
    if len(missing):
        image = int(missing[0]) // math.prod(chunk_grid(level)[1:]) * level.chunks[0]
        raise UserError(f'at {place_of(level)} image {image} and others were never written')
    chunk_bytes = math.prod(level.chunks)
    filters = filters_of(level)
    if not filters:
        wrong = table[:, 1] != chunk_bytes
    else:       # gzip may make a little more of what it cannot compress, and chunks may be written without a filter.
        wrong = table[:, 1] > chunk_bytes + chunk_bytes // 8 + 1024
        wrong |= table[:, 1] * MAX_DEFLATION < chunk_bytes
    if wrong.any():
        raise UserError(f'is damaged (at {place_of(level)} {np.count_nonzero(wrong)} chunks of {chunk_bytes} bytes '
                        f'have other sizes in the file, such as {table[wrong][0, 1]})')


def filters_of(level: h5py.Dataset) -> list[int]:
    """The numbers of the filters that a level has passed, in order."""
    properties = level.id.get_create_plist()
    return [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]

