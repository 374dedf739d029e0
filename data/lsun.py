"""Import LSUN's LMDB folders."""

import functools
import os
from collections.abc import Iterable, Iterator

import numpy as np

from common.child import read_in_child
from common.errors import UserError
from common.files import AnyPath, check_regular
from data import pillow_2015
from data.hdf5_format import is_power_of_two
from data.image_folder import list_files
from data.image_source import ImageSource, grouped, map_in_order
from data.native_readers import data_path, lmdb_entries, lmdb_records
from data.pictures import PictureError, read_picture

Record = tuple[bytes, bytes]    # Key and value.


def lsun(lmdb_dir: AnyPath, resolution: int = 256, max_images: int | None = None) -> ImageSource:
    """Import a category of LSUN: the largest centred square of each image, resized (Lanczos), in the order of the keys.

    Reads the database once from front to back, without a list of its keys. Records that cannot be decoded are left out
    and counted.

    Parameters
    ----------
    lmdb_dir : str
        Folder that holds ``data.mdb``, for example ``bedroom_train_lmdb``.
    resolution : int
        A power of two.
    max_images : int, optional
        Use only the first `max_images` records. Default: all.

    Returns
    -------
    ImageSource

    Raises
    ------
    UserError
        The folder is missing, the database is empty, damaged or cut off, or the package lmdb is missing.
    """
    if not is_power_of_two(resolution):
        raise UserError(f'--resolution {resolution}: must be a power of two, for example 256')
    if max_images is not None and max_images < 1:
        raise UserError(f'--max-images {max_images}: must be at least 1')
    check_lmdb(lmdb_dir)
    [(entries,)] = read_in_child(data_path(lmdb_dir), lmdb_entries, os.fspath(lmdb_dir))
    num_records = int(entries)
    if not num_records:
        raise UserError(f'LMDB_DIR={lmdb_dir!r}: has no records; unpack the category again')

    def read(start, stop):
        return grouped(decode_records(read_records(lmdb_dir, start, stop), resolution))

    return ImageSource(min(num_records, max_images or num_records), resolution, 3, read)


def check_lmdb(lmdb_dir: AnyPath) -> None:
    """Raise UserError if a folder has no database, or the package to read it is missing."""
    try:
        import lmdb  # noqa: F401
    except ImportError as error:
        raise UserError('create_lsun: needs the package lmdb; pip install lmdb') from error
    check_regular(data_path(lmdb_dir))
    if not os.path.isfile(data_path(lmdb_dir)):
        entries = sorted(os.scandir(lmdb_dir), key=lambda entry: entry.name) if os.path.isdir(lmdb_dir) else []
        folders = ', '.join(entry.name for entry in entries if entry.is_dir())
        raise UserError(f'LMDB_DIR={lmdb_dir!r}: has no data.mdb{folders and ", only the folders " + folders}; '
                        'give the unpacked folder of one category, such as bedroom_train_lmdb')


def read_records(lmdb_dir: AnyPath, start: int, stop: int) -> Iterator[Record]:
    """Yield the records `start` to `stop` - 1 of a database, (key, value), in the order of the keys."""
    if start >= stop:
        return iter(())
    records = read_in_child(data_path(lmdb_dir), lmdb_records, os.fspath(lmdb_dir), start, stop)
    return ((key, value) for key, value in records)


def decode_records(records: Iterable[Record], resolution: int) -> Iterator[np.ndarray]:
    """Decode records to images, (3, resolution, resolution) uint8; records that cannot be decoded are only counted."""
    num_records, bad = 0, []
    warned: list[tuple[str, str]] = []
    decode = functools.partial(decode_record, resolution=resolution, warned=warned)
    for image in map_in_order(decode, records):
        num_records += 1
        if isinstance(image, np.ndarray):
            yield image
        else:
            bad.append(image)
    if bad:
        print(f'Left out: {len(bad)} of {num_records} records cannot be decoded: {list_files(bad)}')
    if warned:
        print(f'Warnings for {len(warned)} records: {list_files(sorted(warned))}')


def decode_record(record: Record, resolution: int,
                  warned: list[tuple[str, str]] | None = None) -> np.ndarray | tuple[str, str]:
    """Decode a record to (3, resolution, resolution) uint8, or return (key, reason) if that is impossible.

    As in the 2017 release, alpha is dropped and colour profiles are ignored. Adds (key, warning) pairs to `warned`.
    """
    key, value = record
    name = key.decode('ascii', 'backslashreplace')
    try:
        image, kind = read_picture(value, 'RGB', 'center', as_released=True)
    except PictureError as error:
        return name, str(error)
    if kind.warnings and warned is not None:
        warned.append((name, '; '.join(kind.warnings)))
    return resize(np.asarray(image), (resolution, resolution)).transpose(2, 0, 1)


# ----------------------------------------------------------------------------------------------------------------------
# The Lanczos filter of Pillow 3.1.1, which the 2017 release used, bit for bit.


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Equals :func:`data.pillow_2015.resize`, (H, W, 3) uint8 to (width, height); ten times as fast on small images."""
    return pillow_2015.resize(image, size, filter_rows)


def filter_rows(rows: np.ndarray, num: int) -> np.ndarray:
    """Filter an array (n, k) uint8 along its first axis to (num, k): all rows at once, one tap after the other."""
    rows = rows.astype(np.float32)
    total = np.full((num, rows.shape[1]), 0.5, np.float32)
    product = np.empty_like(total)
    for places, weights in zip(*lanczos_taps(len(rows), num), strict=True):
        np.take(rows, places, axis=0, out=product, mode='clip')
        product *= weights
        total += product
    return np.clip(total, 0, 255, out=total).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def lanczos_taps(num_in: int, num_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Input rows, (taps, num_out) int, and their weights, (taps, num_out, 1) float32, for each output row.

    Outputs with fewer taps are padded with weights of 0, which change nothing.
    """
    first, ragged = pillow_2015.lanczos_weights(num_in, num_out)
    weights = np.zeros((max(map(len, ragged)), num_out, 1), np.float32)
    for column, values in enumerate(ragged):
        weights[:len(values), column, 0] = values
    return np.array(first) + np.arange(len(weights))[:, np.newaxis], weights
