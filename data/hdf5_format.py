"""The multi-resolution HDF5 file that networks are trained on: opening, checking, reading.

A file holds one dataset ``data{r}x{r}`` (N, C, r, r) uint8 per power of two, from the full resolution down to 1x1;
one-hot labels lie beside it in ``NAME-labels.npy``. Everything is written under a temporary name and renamed when it is
complete, the labels first: a file that has its name is complete and has its labels.
"""

import os
import re

import h5py
import numpy as np

from common.errors import UserError
from common.files import TEMPORARY_SUFFIX, AnyPath

Levels = dict[int, h5py.Dataset]    # By resolution, finest first.

SHARD_ATTRIBUTE = 'shard'   # Of a file that is a part of a dataset: its number, from 1, and the number of parts.
LISTED_NAMES = 10           # At most this many wrong names in a file are listed.


def labels_path(h5_path: AnyPath) -> str:
    """Path of the labels of an HDF5 file: ``faces-labels.npy`` for ``faces.h5``."""
    return os.path.splitext(h5_path)[0] + '-labels.npy'


def is_power_of_two(value: int) -> bool:
    return value >= 1 and value & (value - 1) == 0


def open_levels(h5_path: AnyPath) -> tuple[h5py.File, Levels]:
    """Open a multi-resolution HDF5 file and check that it is a complete one.

    Parameters
    ----------
    h5_path : str

    Returns
    -------
    (h5py.File, dict)
        The open file and its datasets by resolution, finest first: each (N, C, r, r) uint8, N and C the same for all.

    Raises
    ------
    UserError
        No such file, not HDF5, cut off, or of another layout.
    """
    h5_path = os.fspath(h5_path)
    if not os.path.exists(h5_path):
        raise UserError(f'h5_path={h5_path!r}: no such file; check the name and the data folder, or make it with '
                        f'`python dataset_tool.py create_from_images IMAGE_DIR {h5_path}`')
    if h5_path.endswith(TEMPORARY_SUFFIX):
        raise UserError(f'h5_path={h5_path!r}: is the unfinished file of a writer that runs or was killed; make '
                        'it again')
    try:
        h5 = h5py.File(h5_path, 'r')
    except OSError as error:
        if is_locked(error):
            raise UserError(f'h5_path={h5_path!r}: is locked: another program has it open for writing, or the file '
                            'system has no locks; close that program, or set HDF5_USE_FILE_LOCKING=FALSE in the '
                            'environment') from error
        if isinstance(error, PermissionError):
            raise UserError(f'h5_path={h5_path!r}: cannot be read: you have no permission to; change that') from error
        raise UserError(f'h5_path={h5_path!r}: is not a complete HDF5 file ({str(error).splitlines()[0]}); make '
                        'or copy it again') from error
    try:
        levels = check_levels(h5)
    except UserError as error:
        h5.close()
        raise UserError(f'h5_path={h5_path!r}: {error}; make the file with dataset_tool.py') from error
    try:
        check_parts(levels)
    except UserError:
        h5.close()
        raise
    return h5, levels


def is_locked(error: OSError) -> bool:
    """Whether HDF5 could not open a file because it got no lock: another program writes, or there are no locks."""
    return 'unable to lock file' in str(error)


def check_levels(h5: h5py.File) -> Levels:
    """The datasets of an open file by resolution, finest first, see :func:`open_levels`."""
    matches = [re.fullmatch(r'data(\d+)x(\d+)', name) for name in h5]
    levels = {int(match[1]): h5[match[0]] for match in matches if match and match[1] == match[2]}
    if not levels:
        raise UserError('has no dataset like data16x16, only '
                        f'{", ".join(map(repr, list(h5)[:LISTED_NAMES])) or "nothing"}')
    resolution = max(levels)
    if not is_power_of_two(resolution):
        raise UserError(f'data{resolution}x{resolution}: the resolution must be a power of two')
    expected = [resolution >> lod for lod in range(resolution.bit_length())]
    for res in expected:
        if res not in levels:
            raise UserError(f'data{res}x{res} is missing; all powers of two from {resolution} to 1 must be there')
        level, finest = levels[res], levels[resolution]
        if not isinstance(level, h5py.Dataset) or level.dtype != np.uint8 or level.ndim != 4 or not level.size:
            raise UserError(f'data{res}x{res}: must hold [N, C, {res}, {res}] uint8, is '
                            f'{getattr(level, "shape", "a group")} {getattr(level, "dtype", "")}')
        if level.shape != finest.shape[:2] + (res, res):
            raise UserError(f'data{res}x{res}: has the shape {level.shape} where data{resolution}x{resolution} '
                            f'has {finest.shape}; N and C must be the same')
    if finest.shape[1] not in (1, 3):
        raise UserError(f'data{resolution}x{resolution}: has {finest.shape[1]} channels; must have 1 (grey) or 3 '
                        '(RGB)')
    return {res: levels[res] for res in expected}


def read_shard(h5: h5py.File) -> tuple[int, int] | None:
    """(I, N) if an open file is part I of N of a dataset, else None."""
    shard = h5.attrs.get(SHARD_ATTRIBUTE)
    return tuple(shard.tolist()) if np.shape(shard) == (2,) and shard.dtype.kind in 'iu' else None


def virtual_parts(level: h5py.Dataset) -> list[tuple[int, int, str, str]] | None:
    """The files that a level of a virtual dataset consists of.

    Parameters
    ----------
    level : h5py.Dataset

    Returns
    -------
    list of (int, int, str, str) or None
        First image, image to stop before, path of the file and name of the dataset in it that holds these images; None
        where the dataset is not virtual.
    """
    if not level.is_virtual:
        return None
    # HDF5 looks for relative paths in the folder of the file itself, wherever a link to it is.
    folder = os.path.dirname(os.path.realpath(level.file.filename))
    parts = []
    for source in level.virtual_sources():
        start, last = (int(corner[0]) for corner in source.vspace.get_select_bounds())
        parts.append((start, last + 1, os.path.normpath(os.path.join(folder, source.file_name)),
                      source.dset_name.strip('/')))
    return sorted(parts)


def check_parts(levels: Levels) -> None:
    """Check that the files of a virtual dataset are there; HDF5 would silently take black for the missing images."""
    finest = next(iter(levels.values()))
    h5_path, listings = finest.file.filename, [virtual_parts(level) for level in levels.values()]
    if not any(listings):
        return
    position = 0
    for start, stop, path, _name in listings[0] or ():
        if start != position:
            break
        position = stop
        part_h5, part_levels = open_part(h5_path, path)
        with part_h5:
            shapes = [part_levels[res].shape for res in levels if res in part_levels]
        if shapes != [(stop - start,) + level.shape[1:] for level in levels.values()]:
            raise UserError(f'h5_path={h5_path!r}: {path}, of which it consists, has changed; join the parts '
                            'again with `python dataset_tool.py merge`')
    expected = [[(*part[:3], level.name.strip('/')) for part in listings[0] or ()] for level in levels.values()]
    if position != len(finest) or listings != expected:
        raise UserError(f'h5_path={h5_path!r}: is a virtual dataset of another kind than `python dataset_tool.py '
                        'merge` makes; copy it into a plain one')


def open_part(h5_path: AnyPath, part_path: str) -> tuple[h5py.File, Levels]:
    """:func:`open_levels` of one of the files of which a virtual dataset consists."""
    try:
        return open_levels(part_path)
    except UserError as error:
        raise UserError(f'h5_path={h5_path!r}: consists of several files, of which one is missing or damaged: '
                        f'{error}') from error


def read_image(level: h5py.Dataset, index: int) -> np.ndarray:
    """One image of a level, (C, r, r) uint8.

    Raises
    ------
    UserError
        The file is damaged there.
    """
    try:
        return level[index]
    except OSError as error:
        raise UserError('%s: image %d at %dx%d cannot be read (%s); make or copy the file again' % (
            level.file.filename, index, *level.shape[2:], str(error).splitlines()[0])) from error


def load_labels(path: AnyPath, num: int) -> np.ndarray:
    """Read the labels of `num` images: (num, label_size) float32.

    Raises
    ------
    UserError
        The file is no array of numbers with one row per image.
    """
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f'{path}: cannot be read as a NumPy array; delete it or make the dataset again') from error
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in 'fiub':
        raise UserError(f'{path}: must hold one-hot labels, [N, label_size] float32, not '
                        f'{getattr(labels, "shape", "an archive")} {getattr(labels, "dtype", "")}')
    if len(labels) != num:
        raise UserError(f'{path}: has {len(labels)} rows, the dataset has {num} images; the labels belong to '
                        'another dataset')
    return labels.astype(np.float32)
