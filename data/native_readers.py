"""Functions that common.child runs in a separate process: C readers of LMDB, MATLAB and virtual HDF5 files.

Damaged files can crash these readers. Each library is imported where it is used.
"""

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterator

import numpy as np

from common.errors import UserError, one_line
from common.files import AnyPath
from data.archives import MAX_DEFLATION

MIN_RECORD_BYTES = 10           # Smallest record in LMDB: a node header of 8 bytes and a pointer of 2.
MAX_MAT_BYTES = 4 << 30         # SVHN's extra images take 1.6 GB.
MAT_MEMORY = 3 * MAX_MAT_BYTES  # The array, the bytes it is made from, and the libraries.
MAX_OBJECTS = 100              # Largest number of objects of an HDF5 file that are tried.
SLICE_BYTES = 1 << 24           # Arrays are sent in slices of this size.


# ----------------------------------------------------------------------------------------------------------------------
# LMDB.


def data_path(lmdb_dir: AnyPath) -> str:
    """Path of a database's file."""
    return os.path.join(lmdb_dir, 'data.mdb')


@contextlib.contextmanager
def _lmdb_transaction(lmdb_dir):
    import lmdb
    path = data_path(lmdb_dir)
    try:
        with lmdb.open(lmdb_dir, readonly=True, lock=False, create=False) as env:
            # LMDB maps the file into memory: reading a page beyond its end would kill the process.
            needed = (env.info()['last_pgno'] + 1) * env.stat()['psize']
            if os.path.getsize(path) < needed:
                raise UserError(f'{path}: is cut off: has {os.path.getsize(path)} of {needed} bytes; unpack or '
                                'download it again')
            with env.begin() as transaction:
                yield transaction, env.stat()['entries']
    except lmdb.Error as error:
        raise UserError(f'{path}: cannot be read ({one_line(error)}); unpack or download it again') from error


def lmdb_entries(lmdb_dir: str) -> Iterator[tuple[bytes]]:
    """Number of records that a database claims, as a text of digits, if a file of its size can hold them."""
    path = data_path(lmdb_dir)
    with _lmdb_transaction(lmdb_dir) as (_transaction, entries):
        pass
    most = os.path.getsize(path) // MIN_RECORD_BYTES
    if entries > most:
        raise UserError(f'{path}: is damaged: it claims {entries} records, but a file of its size can hold at most '
                        f'{most}; unpack or download it again')
    yield (str(entries).encode(),)


def lmdb_records(lmdb_dir: str, start: int, stop: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records `start` to `stop` - 1 of a database, (key, value), in the order of the keys.

    Raises
    ------
    UserError
        There are fewer records, or keys are out of order: pages are missing or duplicated.
    """
    path, number, last = data_path(lmdb_dir), 0, b''

    def follow(key):
        nonlocal number, last
        if number and key <= last:
            raise UserError(f'{path}: is damaged: record {number} is out of order; unpack or download it again')
        number, last = number + 1, key

    with _lmdb_transaction(lmdb_dir) as (transaction, _entries):
        cursor = transaction.cursor()
        # Iterate over keys only: the images before a shard are not read.
        for key in itertools.islice(cursor.iternext(values=False), start):
            follow(key)
        if number == start and (not start or cursor.next()):
            for key, value in itertools.islice(cursor.iternext(), stop - start):
                follow(key)
                yield key, value
    if number < stop:
        raise UserError(f'{path}: is damaged: it has {number} records but claims more; unpack or download it '
                        'again')


# ----------------------------------------------------------------------------------------------------------------------
# MATLAB.


def mat_arrays(path: str, names: list[str]) -> Iterator[tuple[bytes | memoryview, ...]]:
    """Read arrays of a MATLAB file by name: for each the type and shape as JSON, then the bytes in Fortran order.

    Raises
    ------
    UserError
        An array is missing, not numeric, or claims more bytes than the file can hold or than the limit.
    """
    import scipy.io
    try:
        claims = {name: shape for name, shape, _type in scipy.io.whosmat(path)}
        _check_mat_claims(path, [claims[name] for name in names])
        content = scipy.io.loadmat(path, variable_names=names)
        arrays = [content[name] for name in names]
        if not all(isinstance(array, np.ndarray) and array.dtype.kind in 'iuf' for array in arrays):
            raise ValueError(f'{" and ".join(names)} are not arrays of numbers')
    except (UserError, MemoryError):
        raise
    except Exception as error:      # SciPy's reader may raise anything for a damaged file.
        raise UserError(f'{path}: cannot be read as a MATLAB file with {" and ".join(names)} '
                        f'({one_line((str(error).splitlines() or [type(error).__name__])[0])}); download it '
                        'again') from error
    for array in arrays:
        yield (json.dumps([array.dtype.str, array.shape]).encode(),)
        flat = array.reshape(-1, order='F').view(np.uint8)
        for start in range(0, len(flat), SLICE_BYTES):
            yield (memoryview(flat[start:start + SLICE_BYTES]),)
        yield ()


def _check_mat_claims(path, shapes):
    claimed = sum(math.prod(map(abs, shape)) for shape in shapes)
    most = min(os.path.getsize(path) * MAX_DEFLATION, MAX_MAT_BYTES)
    if claimed > most:
        raise UserError(f'{path}: claims arrays of {claimed} numbers; a file of this size may hold at most {most}; '
                        'download it again')


# ----------------------------------------------------------------------------------------------------------------------
# HDF5.


def try_hdf5(path: str) -> Iterator[tuple[bytes, ...]]:
    """Open and close everything that :func:`data.hdf5_format.open_levels` opens; yields nothing."""
    import h5py

    from data.hdf5_checks import HDF5_ERRORS, open_object
    with contextlib.suppress(*HDF5_ERRORS), h5py.File(path, 'r') as h5:
        for name in itertools.islice(h5, MAX_OBJECTS):
            with contextlib.suppress(*HDF5_ERRORS):
                level = open_object(h5, name)
                if isinstance(level, h5py.Dataset) and level.is_virtual:
                    level.virtual_sources()
    yield from ()
