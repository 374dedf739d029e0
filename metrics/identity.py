"""Digests of the contents that a metric's result depends on: files, networks, the reals."""

import contextlib
import hashlib
import json
import os
import time
from typing import Any

import numpy as np

from common.console import Progress
from common.errors import UserError, WriteError
from common.files import AnyPath, atomic_write, open_input
from data.dataset import Dataset
from data.hdf5_format import open_part, virtual_parts
from nets.network import Network

DIGITS = 16                     # Hexadecimal digits of a digest.
DIGEST_VERSION = 1              # Version of stored digests.
KEPT_FROM_BYTES = 1 << 27       # Digests of smaller datasets are not stored; they take a second.
QUICK_BYTES = 1 << 32           # Before a training starts, this much uncompressed data is read at most, ...
SAMPLE_IMAGES = 64              # ... and only this many images of each larger level.
BLOCK_BYTES = 1 << 20           # Size of the blocks of images that are hashed.
SMALL_BYTES = 1 << 12           # For images of at most this size, HDF5 is as fast as many threads.
CLOCK_SECONDS = 2               # A file modified this recently may change again without a change of its times.
OF_VALUES = 'values-'           # Prefix of the digest of a network that is not in a file.


def of_json(document: Any) -> str:
    """Digest of plain data."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:DIGITS]


def of_array(array: np.ndarray) -> str:
    """Digest of an array: dtype, shape and values."""
    digest = hashlib.sha256()
    _add_array(digest, '', array)
    return digest.hexdigest()[:DIGITS]


def of_file(path: AnyPath) -> str:
    """Digest of a file's content."""
    digest = hashlib.sha256()
    with open_input(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]


def of_network(network: Network) -> str:
    """Digest of a network's build function and values."""
    digest = hashlib.sha256(json.dumps([network.func_name, network.static_kwargs], sort_keys=True,
                                       default=str).encode())
    for name, var in network.vars.items():
        _add_array(digest, name, var.get_value(borrow=True))
    return OF_VALUES + digest.hexdigest()[:DIGITS]


def of_dataset(dataset: Dataset, cache_dir: AnyPath | None = None) -> str:
    """Digest of a dataset's images, as it provides them, and of their labels; see :func:`of_images`."""
    facts = [list(dataset.shape), int(dataset.num_images), bool(dataset.mirror_augment)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    _add_array(digest, 'labels', dataset.labels)
    digest.update(of_images(dataset, cache_dir))
    return digest.hexdigest()[:DIGITS]


def of_images_quickly(dataset: Dataset) -> bytes:
    """:func:`of_images`; for datasets that take minutes to read, a digest of the low-resolution levels and a sample.

    Low-resolution images are averages of the others, so a changed image almost always changes them.
    """
    rows = _rows(dataset)
    if len(rows) * int(np.prod(dataset.shape)) <= QUICK_BYTES:
        return of_images(dataset)
    sample = np.unique(rows[np.linspace(0, len(rows) - 1, SAMPLE_IMAGES).astype(np.int64)])
    left, rows_of_levels = QUICK_BYTES, []      # type: int, list[np.ndarray]
    for level in reversed(dataset.levels.values()):
        left -= _image_bytes(level) * len(rows)
        rows_of_levels.insert(0, rows if left >= 0 else sample)
    return _digest(dataset, rows_of_levels)


def of_images(dataset: Dataset, cache_dir: AnyPath | None = None) -> bytes:
    """SHA-256 of all images that a dataset provides, at all its resolutions.

    Path, compression and date of the file do not matter. The digest of a large dataset is stored, and remains valid as
    long as size, times and inode of all its files are the same.

    Parameters
    ----------
    dataset : Dataset
    cache_dir : str, optional
        Folder for the stored digest. Default: ``metric-cache`` beside the file.

    Raises
    ------
    UserError
        The file is damaged.
    """
    rows = _rows(dataset)
    all_rows = [rows] * len(dataset.levels)
    if not _is_large(dataset, rows):
        return _digest(dataset, all_rows)
    path = os.path.realpath(dataset.h5_path)
    selection = [DIGEST_VERSION, path, dataset.resolution, hashlib.sha256(rows.astype('<i8').tobytes()).hexdigest()]
    kept = os.path.join(cache_dir or os.path.join(os.path.dirname(dataset.h5_path), 'metric-cache'),
                        f'digest-{of_json(selection)}.json')
    files, begin = _state_of_files(dataset, path), time.time()
    digest = _read_kept(kept, files)
    if digest is None:
        digest = _digest(dataset, all_rows)
        if _state_of_files(dataset, path) == files and all(
                max(state[1:3]) / 1e9 < begin - CLOCK_SECONDS for state in files.values()):
            _keep(kept, files, digest)
    return digest


def _rows(dataset):
    """Positions in the file of the images that a dataset provides."""
    return np.arange(dataset.num_images) if dataset.chosen is None else dataset.chosen[:dataset.num_images]


def _is_large(dataset, rows):
    return len(rows) * int(np.prod(dataset.shape)) >= KEPT_FROM_BYTES


def _state_of_files(dataset, path):
    """{path: [size, modification time, status change time, inode]} of the files of a dataset."""
    paths = [path]
    files: dict[str, list[int]] = {}
    while paths:
        path = paths.pop()
        if path in files:
            continue
        facts = os.stat(path)
        files[path] = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
        h5, levels = (dataset.h5, dataset.levels) if len(files) == 1 else open_part(dataset.h5_path, path)
        with contextlib.nullcontext() if h5 is dataset.h5 else h5:
            for level in levels.values():
                paths += {part[2] for part in virtual_parts(level) or ()}
    return files


def _read_kept(kept, files):
    """Read the digest that an earlier call stored; None if there is none or the files have changed."""
    try:
        with open(kept, encoding='utf-8') as file:
            document = json.load(file)
        return bytes.fromhex(document['sha256']) if document['files'] == files else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _keep(kept, files, digest):
    # If it cannot be stored, it is computed again next time.
    with contextlib.suppress(OSError, WriteError):
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        with atomic_write(kept, 'w', encoding='utf-8') as file:
            json.dump({'files': files, 'sha256': digest.hex()}, file)


def _digest(dataset, rows_of_levels):
    """SHA-256 of the hashes of blocks of images, level by level, which many threads compute.

    `rows_of_levels` are the positions of the images, an array for each level of the dataset.
    """
    jobs: list[tuple] = []
    for lod, (level, rows) in enumerate(zip(dataset.levels.values(), rows_of_levels, strict=True)):
        block = max(BLOCK_BYTES // _image_bytes(level), 1)
        jobs += [(len(jobs) + number, lod, level, rows[begin:begin + block])
                 for number, begin in enumerate(range(0, len(rows), block))]
    digests: list[bytes] = [b''] * len(jobs)
    is_large = _is_large(dataset, _rows(dataset))
    with Progress('Reading all images', sum(map(len, rows_of_levels))) if is_large else \
            contextlib.nullcontext() as bar:
        def add(job):
            number, lod, level, part = job
            images = _read_block(level, dataset.reader.levels[lod], part)
            digests[number] = hashlib.sha256(f'{level.shape[1:]}'.encode() + images.tobytes()).digest()
            if bar:
                bar.update(len(part))

        dataset.reader.for_each(add, jobs)
    return hashlib.sha256(b''.join(digests)).digest()


def _read_block(level, reader, rows):
    """Read images (N, C, r, r) of a level; `rows` are ascending, as HDF5 requires."""
    if _image_bytes(level) >= SMALL_BYTES and level.chunks and level.chunks[0] == 1:
        return np.stack([reader.read(int(row)) for row in rows])        # Without HDF5's lock.
    try:
        return level[rows[0]:rows[-1] + 1] if rows[-1] - rows[0] + 1 == len(rows) else level[rows]
    except OSError as error:
        raise UserError('%s: images %d to %d at %dx%d cannot be read (%s); make or copy the file again' % (
            level.file.filename, rows[0], rows[-1], *level.shape[2:], str(error).splitlines()[0])) from error


def of_weights(path: AnyPath | None) -> str | None:
    """Digest of a file of weights; None if there is no such file."""
    return of_file(path) if path is not None and os.path.isfile(path) else None


def _image_bytes(level):
    return int(np.prod(level.shape[1:]))


def _add_array(digest, name, array):
    digest.update(f'{name} {array.dtype.str} {array.shape}'.encode())
    digest.update(np.ascontiguousarray(array))
