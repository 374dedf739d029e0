"""Bounds of decompression, and files within .zip files of strangers: inflated no further than what they may hold."""

import lzma
import struct
import zipfile
import zlib

from common.errors import UserError, one_line
from common.files import AnyPath, check_regular

MAX_DEFLATION = 1032            # gzip and zlib make nothing smaller than by this factor (zlib's manual).
MAX_MEMBER_BYTES = 1 << 31      # The largest picture that is decoded, 16 bit RGBA, has 1.4 GB.
# A smaller member may shrink as well as it can: a picture of one colour does. A larger one that shrinks this well is
# likely made to fill memory; photos, even as BMP, shrink by less than ten.
SMALL_MEMBER_BYTES = 1 << 26
MAX_SHRINKING = 100

# What zipfile and its decompressors raise for archives that are damaged, encrypted or packed in other ways.
ZIP_ERRORS = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, LookupError, OverflowError,
              struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


class MemberError(UserError):
    """Why a file cannot be read out of an archive; the caller adds the names."""


def open_archive(path: AnyPath) -> zipfile.ZipFile:
    """Open a .zip file; raises :class:`MemberError`."""
    check_regular(path)
    try:
        return zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        raise MemberError(one_line(error)) from error


def read_member(archive: zipfile.ZipFile, name: str | zipfile.ZipInfo, most: int = MAX_MEMBER_BYTES) -> bytes:
    """The content of a file in an archive.

    Parameters
    ----------
    archive : zipfile.ZipFile
    name : str or zipfile.ZipInfo
    most : int
        Bytes that it may have.

    Raises
    ------
    KeyError
        There is no such file.
    MemberError
        It is damaged or encrypted, or claims to have more bytes.
    """
    member = archive.getinfo(name) if isinstance(name, str) else name
    size = member.file_size
    if size > most or size > max(SMALL_MEMBER_BYTES, member.compress_size * MAX_SHRINKING):
        raise MemberError(f'too large: claims {size} bytes, made of {member.compress_size}; at most '
                          f'{min(most, max(SMALL_MEMBER_BYTES, member.compress_size * MAX_SHRINKING))} are read')
    try:
        content = archive.read(member)      # Inflates no more than `size`, and compares the checksum.
    except ZIP_ERRORS as error:
        raise MemberError(one_line(error)) from error
    if len(content) != size:
        raise MemberError(f'has {len(content)} bytes where {size} are claimed')
    return content
