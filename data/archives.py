"""Read files from untrusted .zip archives, with limits on how far they may inflate."""

import lzma
import struct
import zipfile
import zlib

from common.errors import UserError, one_line
from common.files import AnyPath, check_regular

MAX_DEFLATION = 1032            # Largest compression factor of gzip and zlib (zlib's manual).
MAX_MEMBER_BYTES = 1 << 31      # The largest image that is decoded (16 bit RGBA) takes 1.4 GB.
# Small members may compress by any factor, as an image of one colour does. A larger member that compresses by more than
# MAX_SHRINKING is likely meant to fill memory; photos compress by less than ten, even as BMP.
SMALL_MEMBER_BYTES = 1 << 26
MAX_SHRINKING = 100

# Raised by zipfile and its decompressors for archives that are damaged, encrypted or packed by an unknown method.
ZIP_ERRORS = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, LookupError, OverflowError,
              struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


class MemberError(UserError):
    """A file cannot be read from an archive. The message is the reason; the caller adds the file names."""


def open_archive(path: AnyPath) -> zipfile.ZipFile:
    """Open a .zip file; raises :class:`MemberError`."""
    check_regular(path)
    try:
        return zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        raise MemberError(one_line(error)) from error


def read_member(archive: zipfile.ZipFile, name: str | zipfile.ZipInfo, most: int = MAX_MEMBER_BYTES) -> bytes:
    """Read a file from an archive.

    Parameters
    ----------
    archive : zipfile.ZipFile
    name : str or zipfile.ZipInfo
    most : int
        Largest accepted size in bytes.

    Raises
    ------
    KeyError
        There is no such file.
    MemberError
        The file is damaged or encrypted, or claims to be larger than allowed.
    """
    member = archive.getinfo(name) if isinstance(name, str) else name
    size = member.file_size
    if size > most or size > max(SMALL_MEMBER_BYTES, member.compress_size * MAX_SHRINKING):
        raise MemberError(f'too large: claims {size} bytes, compressed to {member.compress_size}; at most '
                          f'{min(most, max(SMALL_MEMBER_BYTES, member.compress_size * MAX_SHRINKING))} are read')
    try:
        content = archive.read(member)      # Inflates at most `size` bytes and verifies the checksum.
    except ZIP_ERRORS as error:
        raise MemberError(one_line(error)) from error
    if len(content) != size:
        raise MemberError(f'has {len(content)} bytes but claims {size}')
    return content
