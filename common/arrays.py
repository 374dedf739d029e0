"""Read and write NumPy's file formats ``.npy`` and ``.npz``. All of the project's arrays in files pass through here.

Files are not trusted: nothing is unpickled, and claimed sizes are compared with the size of the file before memory is
allocated. The arrays are writable and in this machine's byte order.
"""

import io
import math
import os
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from common.errors import UserError
from common.files import AnyPath, atomic_write

MAX_HEADER = 10000      # Bytes of an array's header, as in NumPy.
BLOCK = 2 ** 20         # Bytes read at a time. Also limits an archive's table of contents, to about 15 000 arrays.
INFLATION = 10          # Largest ratio of decompressed to archive size, except for small members.
SMALL = 2 ** 20
SUFFIX = '.npy'
# Raised by NumPy and zipfile for damaged files.
DAMAGES = (ValueError, LookupError, TypeError, ArithmeticError, SyntaxError, RuntimeError, OSError, EOFError,
           AttributeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)


class DamagedArrays(UserError):
    """A file of arrays cannot be read."""


# ----------------------------------------------------------------------------------------------------------------------
# Reading.


def read_array(path: AnyPath, cure: str) -> np.ndarray:
    """Read the array in a ``.npy`` file; any dtype except objects.

    Parameters
    ----------
    path : str
    cure : str
        End of the error message, for example 'copy it again'.

    Raises
    ------
    DamagedArrays
        The file is missing, damaged, or not a ``.npy`` file.
    """
    return _guarded(path, 'a NumPy array', cure, _read_member)


def read_arrays(path: AnyPath, cure: str) -> dict[str, np.ndarray]:
    """Read the arrays in a ``.npz`` file, {name: array}; see :func:`read_array`."""
    return _guarded(path, 'an archive of NumPy arrays', cure, read_archive)


def read_archive(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Read the archive in the first `size` bytes of an open file.

    Raises
    ------
    any of `DAMAGES`
        The archive is damaged, or is not an archive of arrays.
    """
    arrays: dict[str, np.ndarray] = {}
    # zipfile needs only the methods of _Window.
    with zipfile.ZipFile(_Window(file, size)) as archive:       # type: ignore[arg-type]
        members = archive.infolist()
        claimed = sum(member.file_size for member in members)
        is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if claimed > (size if is_stored else max(INFLATION * size, SMALL)):
            raise ValueError(f'claims to hold {claimed} bytes, but has {size}')
        for member in members:
            name = member.filename.removesuffix(SUFFIX)
            if name == member.filename or name in arrays:
                raise ValueError(f'holds {member.filename!r:.80} twice, or it is not an array')
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f'{name!r:.80} is compressed by a method that NumPy does not use')
            with archive.open(member) as stream:
                arrays[name] = _read_member(stream, member.file_size)
                if stream.read(1):      # Reading to the end makes zipfile verify the checksum.
                    raise ValueError(f'{name!r:.80} is longer than it claims to be')
    return arrays


def _guarded(path, kind, cure, read):
    path = os.fspath(path)
    if not os.path.isfile(path):        # Opening a pipe would wait for its other end.
        raise DamagedArrays(f'{path}: there is no such file; {cure}')
    try:
        with open(path, 'rb') as file:
            return read(file, os.fstat(file.fileno()).st_size)
    except DAMAGES as error:
        reason = getattr(error, 'strerror', None) or f'{error!s:.200}' or type(error).__name__
        raise DamagedArrays(f'{path}: cannot be read as {kind} ({" ".join(reason.split())}); {cure}') from error


def _read_member(stream, size):
    """Read the array of an open ``.npy`` file of `size` bytes."""
    shape, is_fortran, dtype, header_size = _read_header(stream)
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f'holds an array of type {dtype!s:.40}')
    if any(length < 0 for length in shape):
        raise ValueError(f'holds an array of the shape {shape!s:.80}')
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes != size - header_size:
        raise ValueError(f'claims to hold {dtype!s:.40} {shape!s:.80}, but has {size - header_size} bytes')
    memory = np.empty(num_bytes, np.uint8)
    for begin in range(0, num_bytes, BLOCK):
        block = memoryview(memory)[begin:begin + BLOCK]
        while len(block):
            count = stream.readinto(block)
            if not count:
                raise EOFError('is cut off')
            block = block[count:]
    array = memory.view(dtype).reshape(shape[::-1] if is_fortran else shape)
    return (array.T if is_fortran else array).astype(dtype.newbyteorder('='), copy=False)


def _read_header(stream):
    """Read the header of an open ``.npy`` file: (shape, is Fortran order, dtype, size of the header in bytes)."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): (2, np.lib.format.read_array_header_1_0), (2, 0): (4, np.lib.format.read_array_header_2_0)}
    if version not in readers:
        raise ValueError(f'is a .npy file of version {version}')
    width, read = readers[version]
    length = stream.read(width)
    if int.from_bytes(length, 'little') > MAX_HEADER:
        raise ValueError('the header is too long')
    header = length + stream.read(int.from_bytes(length, 'little'))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')     # For files written on Python 2, and strange escapes in damaged ones.
        try:
            shape, is_fortran, dtype = read(io.BytesIO(header))
        except MemoryError as error:        # Python's parser raises it for deeply nested brackets.
            raise ValueError('the header is damaged') from error
    return shape, is_fortran, dtype, np.lib.format.MAGIC_LEN + len(header)


class _Window:
    """The first `size` bytes of a file, for `zipfile`, which itself would accept a table of contents of any length."""

    def __init__(self, file, size):
        self.file, self.size, self.position = file, size, 0

    def seekable(self):
        return True

    def tell(self):
        return self.position

    def seek(self, offset, whence=io.SEEK_SET):
        position = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence] + offset
        if position < 0:
            raise OSError('a position before the start of the file')
        self.position = position
        return position

    def read(self, num=-1):
        left = max(self.size - self.position, 0)
        num = left if num is None or num < 0 else min(num, left)
        if num > BLOCK:
            raise ValueError('the table of contents is too long')
        self.file.seek(self.position)
        data = self.file.read(num)
        self.position += len(data)
        return data


# ----------------------------------------------------------------------------------------------------------------------
# Writing.


def write_array(file: IO[bytes], array: ArrayLike) -> None:
    """Write an array of numbers or text to an open file as ``.npy``; arrays of objects raise ValueError."""
    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def write_archive(file: Any, arrays: Iterable[tuple[str, ArrayLike]]) -> None:
    """Write (name, array) pairs to an open file as ``.npz``. The file needs no `seek`."""
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            with archive.open(name + SUFFIX, 'w', force_zip64=True) as member:
                write_array(member, array)


def save_array(path: AnyPath, array: ArrayLike) -> None:
    """Write an array as ``.npy``, atomically."""
    with atomic_write(path) as file:
        write_array(file, array)


def save_arrays(path: AnyPath, arrays: Mapping[str, ArrayLike]) -> None:
    """Write {name: array} as ``.npz``, atomically."""
    with atomic_write(path) as file:
        write_archive(file, arrays.items())
