"""The multi-resolution HDF5 files that networks are trained on: opening, checking, reading.

A file holds one HDF5 dataset ``data{r}x{r}`` (N, C, r, r) uint8, a *level*, per power of two from the full resolution
down to 1x1. One-hot labels are beside it in ``NAME-labels.npy``. Writers use a temporary name and rename the complete
file, labels first, so that a file under its final name is complete and has its labels. Attributes state whether a file
has labels and identify them; files of the 2017 release lack these attributes.
"""

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Sequence

import h5py
import numpy as np

from common.arrays import DamagedArrays, read_array
from common.child import read_in_child
from common.errors import UserError, one_line
from common.files import TEMPORARY_SUFFIX, AnyPath, check_regular
from common.options import short_repr
from data.hdf5_checks import (
    HDF5_ERRORS,
    check_claims,
    damage_as_user_error,
    has_global_heap,
    open_object,
    read_attribute,
)
from data.native_readers import try_hdf5

Levels = dict[int, h5py.Dataset]    # Keys are resolutions, finest first.

SHARD_ATTRIBUTE = 'shard'                   # (I, N) of a file that is shard I of N of a dataset.
LABEL_SIZE_ATTRIBUTE = 'label_size'         # Number of classes of a file with labels.
LABELS_ATTRIBUTE = 'labels_sha256'          # Identifies its labels, see labels_digest.
CLASS_NAMES_ATTRIBUTE = 'class_names'       # Names of the classes as JSON, if known.
LABEL_ATTRIBUTES = (LABEL_SIZE_ATTRIBUTE, LABELS_ATTRIBUTE, CLASS_NAMES_ATTRIBUTE)
# Identifies the old labels when a file without labels replaces one with labels. They are deleted after the renaming.
REPLACED_ATTRIBUTE = 'replaced_labels_sha256'
MAX_ATTRIBUTE_BYTES = 60000                 # HDF5 stores at most 64 KB.
LABELS_PATTERN = r'-labels\.npy(\..*\.tmp)?$'      # Includes temporary names that a killed writer left.
LISTED_ROWS = 10
TRY_SECONDS = 20            # Time limit to open a small file, which takes less than one; some files never return.
MAX_DEPTH = 8               # Nesting depth of virtual datasets.
OTHER_VIRTUAL = 'is a virtual dataset that `python dataset_tool.py merge` did not make'
LISTED_NAMES = 10           # Largest number of wrong names that a message lists.


def labels_path(h5_path: AnyPath) -> str:
    """Path of the labels of an HDF5 file: ``faces-labels.npy`` for ``faces.h5``."""
    return os.path.splitext(h5_path)[0] + '-labels.npy'


def is_power_of_two(value: int) -> bool:
    return value >= 1 and value & (value - 1) == 0


def open_levels(h5_path: AnyPath) -> tuple[h5py.File, Levels]:
    """Open a multi-resolution HDF5 file and check that it is complete.

    Parameters
    ----------
    h5_path : str

    Returns
    -------
    (h5py.File, dict)
        The open file and its levels by resolution, finest first: each (N, C, r, r) uint8 with the same N and C.

    Raises
    ------
    UserError
        The file is missing, cut off, not HDF5, or has another layout.
    """
    return _open_levels(os.fspath(h5_path), ())


def _open_levels(h5_path, above):
    """`above`: paths of the virtual datasets that contain this file."""
    if not os.path.exists(h5_path):
        raise UserError(f'h5_path={h5_path!r}: no such file; check the name and the data folder, or make it with '
                        f'`python dataset_tool.py create_from_images IMAGE_DIR {h5_path}`')
    if h5_path.endswith(TEMPORARY_SUFFIX):
        raise UserError(f'h5_path={h5_path!r}: is the unfinished file of a writer that is running or was killed; make '
                        'it again')
    check_regular(h5_path)
    if has_global_heap(h5_path):
        status = os.stat(h5_path)
        _try_in_child(h5_path, status.st_ino, status.st_size, status.st_mtime_ns)
    try:
        h5 = h5py.File(h5_path, 'r')
    except HDF5_ERRORS as error:
        if is_locked(error):
            raise UserError(f'h5_path={h5_path!r}: is locked: another program has it open for writing, or the file '
                            'system has no locks; close that program, or set HDF5_USE_FILE_LOCKING=FALSE in the '
                            'environment') from error
        if isinstance(error, PermissionError):
            raise UserError(f'h5_path={h5_path!r}: cannot be read: you have no permission; change that') from error
        raise UserError(f'h5_path={h5_path!r}: is not a complete HDF5 file ({str(error).splitlines()[0]}); make '
                        'or copy the file again') from error
    try:
        with damage_as_user_error():
            levels = check_levels(h5)
    except UserError as error:
        h5.close()
        raise UserError(f'h5_path={h5_path!r}: {error}; make the file with dataset_tool.py') from error
    try:
        check_parts(levels, above)
    except UserError:
        h5.close()
        raise
    return h5, levels


@functools.lru_cache
def _try_in_child(h5_path, *_version):
    """Raise UserError if HDF5 crashes when it opens the file; `_version` makes the cache distinguish its versions."""
    for _record in read_in_child(h5_path, try_hdf5, h5_path, max_seconds=TRY_SECONDS):
        pass


def is_locked(error: Exception) -> bool:
    """Whether HDF5 could not lock a file: another program is writing it, or the file system has no locks."""
    return 'unable to lock file' in str(error)


def check_levels(h5: h5py.File) -> Levels:
    """Levels of an open file by resolution, finest first, see :func:`open_levels`."""
    with damage_as_user_error():
        names = list(h5)
    odd = [name for name in names if not isinstance(name, str)]
    if odd:
        raise UserError(f'is damaged (holds {short_repr(odd[0])}, which is not a valid name)')
    # No resolution has more than nine digits.
    matches = [re.fullmatch(r'data([1-9][0-9]{0,8})x([1-9][0-9]{0,8})', name) for name in names]
    levels = {int(match[1]): _open_level(h5, match[0]) for match in matches if match and match[1] == match[2]}
    if not levels:
        raise UserError('has no dataset like data16x16, only '
                        f'{", ".join(map(short_repr, names[:LISTED_NAMES])) or "nothing"}')
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
            raise UserError(f'data{res}x{res}: has the shape {level.shape}, but data{resolution}x{resolution} '
                            f'has {finest.shape}; N and C must be the same')
    if finest.shape[1] not in (1, 3):
        raise UserError(f'data{resolution}x{resolution}: has {finest.shape[1]} channels; must have 1 (grey) or 3 '
                        '(RGB)')
    for res in expected:
        check_claims(levels[res])
    # If one byte of the finest level's name is damaged, the next level would pass for the finest.
    larger = finest.shape[:2] + (2 * resolution,) * 2
    for name in [name for name in names if name not in {f'data{res}x{res}' for res in expected}][:LISTED_NAMES]:
        if _shape_of(h5, name) == larger:
            raise UserError(f'{short_repr(name)}: has the shape of data{larger[2]}x{larger[2]}, which is missing')
    return {res: levels[res] for res in expected}


def _open_level(h5, name):
    try:
        level = open_object(h5, name)
        getattr(level, 'dtype', None)       # Raises for types that NumPy lacks.
        return level
    except HDF5_ERRORS as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'{name}: cannot be read ({one_line(error.args[0] if error.args else error)})') from error


def _shape_of(h5, name):
    """Shape of an HDF5 dataset; None for all other objects."""
    try:
        return getattr(_open_level(h5, name), 'shape', None)
    except UserError:
        return None


def read_shard(h5: h5py.File) -> tuple[int, int] | None:
    """(I, N) if an open file is shard I of N of a dataset, else None."""
    shard = read_attribute(h5, SHARD_ATTRIBUTE)
    if shard is None or shard.shape != (2,) or shard.dtype.kind not in 'iu':
        return None
    number, count = shard.tolist()
    return (number, count) if 1 <= number <= count else None


def virtual_parts(level: h5py.Dataset) -> list[tuple[int, int, str, str]] | None:
    """Files that a level of a virtual dataset consists of.

    Parameters
    ----------
    level : h5py.Dataset

    Returns
    -------
    list of (int, int, str, str) or None
        For each part: first image, index after the last image, path of the file, name of the HDF5 dataset in it. None
        if the level is not virtual.

    Raises
    ------
    UserError
        ``merge --virtual`` did not make the level: it would use whole consecutive images and relative paths.
    """
    if not level.is_virtual:
        return None
    # HDF5 resolves relative paths against the folder of the file itself, not of a link to it.
    folder = os.path.dirname(os.path.realpath(level.file.filename))
    parts = []
    for source in level.virtual_sources():
        start, last = (int(corner[0]) for corner in source.vspace.get_select_bounds())
        wanted = (last + 1 - start) * math.prod(level.shape[1:])
        if os.path.isabs(source.file_name) or source.vspace.get_select_npoints() != wanted:
            raise UserError(OTHER_VIRTUAL)
        parts.append((start, last + 1, os.path.normpath(os.path.join(folder, source.file_name)),
                      source.dset_name.strip('/')))
    return sorted(parts)


def check_parts(levels: Levels, above: tuple[str, ...] = ()) -> None:
    """Check that the files of a virtual dataset exist; HDF5 would silently return black for missing images.

    Parameters
    ----------
    levels : dict
    above : tuple of str
        Real paths of the virtual datasets that contain this one.
    """
    finest = next(iter(levels.values()))
    h5_path = finest.file.filename
    try:
        with damage_as_user_error():
            listings = [virtual_parts(level) for level in levels.values()]
            names = [level.name.strip('/') for level in levels.values()]
    except UserError as error:
        raise UserError(f'h5_path={h5_path!r}: {error}; copy it to a plain one') from error
    if not any(listings):
        return
    above = (*above, os.path.realpath(h5_path))
    position = 0
    for start, stop, path, _name in listings[0] or ():
        if start != position:
            break
        position = stop
        part_h5, part_levels = open_part(h5_path, path, above)
        with part_h5:
            shapes = [part_levels[res].shape for res in levels if res in part_levels]
        if shapes != [(stop - start,) + level.shape[1:] for level in levels.values()]:
            raise UserError(f'h5_path={h5_path!r}: its part {path} has changed; join the parts '
                            'again with `python dataset_tool.py merge`')
    expected = [[(*part[:3], name) for part in listings[0] or ()] for name in names]
    if position != len(finest) or listings != expected:
        raise UserError(f'h5_path={h5_path!r}: {OTHER_VIRTUAL}; copy it to a plain one')


def open_part(h5_path: AnyPath, part_path: str, above: tuple[str, ...] = ()) -> tuple[h5py.File, Levels]:
    """:func:`open_levels` for one of the files of a virtual dataset; see :func:`check_parts`."""
    if os.path.realpath(part_path) in above:
        raise UserError(f'h5_path={h5_path!r}: its part {part_path} contains the dataset itself; join the parts again '
                        'with `python dataset_tool.py merge`')
    if len(above) > MAX_DEPTH:
        raise UserError(f'h5_path={h5_path!r}: virtual datasets are nested more than {MAX_DEPTH} deep; copy '
                        'it to a plain one')
    try:
        return _open_levels(part_path, above)
    except UserError as error:
        raise UserError(f'h5_path={h5_path!r}: one of the files it consists of is missing or damaged: '
                        f'{error}') from error


def read_image(level: h5py.Dataset, index: int) -> np.ndarray:
    """Read one image of a level, (C, r, r) uint8, by HDF5. Its chunks must have been checked, see data.chunk_reader.

    Raises
    ------
    UserError
        The file is damaged at this image.
    """
    try:
        return level[index]
    except (OSError, RuntimeError) as error:
        raise unreadable_image(level, index, error) from error


def unreadable_image(level: h5py.Dataset, index: int, reason: object) -> UserError:
    return UserError('%s: image %d at %dx%d cannot be read (%s); make or copy the file again' % (
        level.file.filename, index, *level.shape[2:], one_line(str(reason).split('\n', 1)[0])))


# ----------------------------------------------------------------------------------------------------------------------
# Labels.


def set_label_attributes(h5: h5py.File, h5_path: AnyPath, labels: np.ndarray | None,
                         class_names: Sequence[str] | None = None) -> None:
    """Store in an open file, whose final name is `h5_path`, the digest of `labels` and the class names if they fit."""
    if labels is None:
        replaced = _digest(labels_path(h5_path))
        if replaced:
            h5.attrs[REPLACED_ATTRIBUTE] = np.bytes_(replaced)
        return
    h5.attrs[LABEL_SIZE_ATTRIBUTE] = labels.shape[1]
    h5.attrs[LABELS_ATTRIBUTE] = np.bytes_(labels_digest(labels))
    text = json.dumps(list(class_names or ())).encode()
    if class_names and len(text) <= MAX_ATTRIBUTE_BYTES:
        h5.attrs[CLASS_NAMES_ATTRIBUTE] = np.bytes_(text)
    elif class_names:
        print(f'The names of the {len(class_names)} classes are too long and are not stored')


def labels_digest(labels: np.ndarray) -> str:
    """SHA-256 of the values of labels."""
    return hashlib.sha256(np.ascontiguousarray(labels, np.float32).data).hexdigest()


def read_class_names(h5: h5py.File) -> list[str] | None:
    """Class names of an open file; None if it has none."""
    content = read_attribute(h5, CLASS_NAMES_ATTRIBUTE)
    try:
        names = json.loads(content.tobytes().rstrip(b'\0')) if content is not None else None
    except (RecursionError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def find_labels(h5: h5py.File, h5_path: AnyPath, required: bool = False) -> str | None:
    """Find the labels of an open file, even if it was linked or renamed; None if it has no labels.

    Raises
    ------
    UserError
        The labels are missing, though the file states that it has labels, or `required` is set.
    """
    paths = dict.fromkeys([labels_path(h5_path), labels_path(os.path.realpath(h5_path))])
    wanted, replaced = (_text_attribute(h5, name) for name in (LABELS_ATTRIBUTE, REPLACED_ATTRIBUTE))
    there = next((path for path in paths if os.path.exists(path)), None)
    # A writer that was killed between its last two steps leaves the labels of the file that it replaced.
    if there is not None and (not wanted or wanted == _digest(there)) and not (replaced and replaced == _digest(there)):
        return there
    label_size = read_attribute(h5, LABEL_SIZE_ATTRIBUTE)
    if label_size is None and required:
        raise UserError(f'{labels_path(h5_path)}: is missing, and this training is conditional on labels; copy it '
                        'here, make the dataset with labels, or choose an experiment without -cond')
    if label_size is None:
        return None
    for folder in dict.fromkeys(os.path.dirname(path) or '.' for path in paths):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if re.search(LABELS_PATTERN, name) and _digest(path) == wanted:
                print(f'{one_line(h5_path)}: uses the labels in {one_line(path)}')
                return path
    if there is not None:       # Its labels were edited.
        return there
    raise UserError(f'{labels_path(h5_path)}: is missing; it holds the labels ({label_size} classes) of {h5_path}; '
                    'copy it here, or train without labels: dataset.max_labels=0')


def _text_attribute(h5, name):
    value = read_attribute(h5, name)
    return '' if value is None else value.tobytes().decode('ascii', 'replace')


def _digest(path):
    """:func:`labels_digest` of a file; '' if it is missing or cannot be read."""
    try:
        return labels_digest(read_array(path, ''))
    except (DamagedArrays, ValueError, TypeError):
        return ''


def read_labels(h5: h5py.File, h5_path: AnyPath, num: int, required: bool = False) -> np.ndarray | None:
    """Labels of an open file with `num` images, (num, label_size) float32, or None; see :func:`find_labels`."""
    path = find_labels(h5, h5_path, required)
    return None if path is None else load_labels(path, num)


def as_labels(array: np.ndarray) -> np.ndarray:
    """Convert an array of numbers to float32 labels; values that are too large become infinite."""
    with np.errstate(over='ignore'):
        return array.astype(np.float32)


def is_one_hot(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: whether each row is one-hot."""
    return (np.count_nonzero(labels, axis=1) == 1) & (labels.max(axis=1, initial=0) == 1)


def check_one_hot(labels: np.ndarray, path: AnyPath) -> None:
    """Raise UserError if rows of `labels`, (N, label_size), are not one-hot; lists the rows and their values."""
    if not labels.shape[1]:
        return
    bad = ~is_one_hot(labels)
    if not bad.any():
        return
    text = f'{path}: {np.count_nonzero(bad)} of {len(labels)} rows are not one-hot: '
    if labels.shape[1] == 1 and (labels == np.rint(labels)).all():
        raise UserError(f'{text}the file holds class numbers from {labels.min():.0f} to {labels.max():.0f} in one '
                        f'column ({_rows(bad)}); make them one-hot with numpy.eye(CLASSES)[numbers]')
    kinds, rest = [], bad
    for text_of_kind, found in (
            ('with values that are not finite', ~np.isfinite(labels).all(axis=1)),
            ('with negative values, such as attributes of -1 or 1', (labels < 0).any(axis=1)),
            ('without a class', ~labels.any(axis=1)),
            ('with several classes', np.count_nonzero(labels, axis=1) > 1),
            ('with a value other than 1', bad)):
        kind, rest = rest & found, rest & ~found
        if kind.any():
            kinds.append(f'{np.count_nonzero(kind)} {text_of_kind} ({_rows(kind)})')
    raise UserError(f'{text}{", ".join(kinds)}; correct them, or train without labels: dataset.max_labels=0')


def _rows(chosen):
    rows = np.flatnonzero(chosen)
    return f'row{"s" * (len(rows) > 1)} {", ".join(map(str, rows[:LISTED_ROWS]))}{", ..." * (len(rows) > LISTED_ROWS)}'


def load_labels(path: AnyPath, num: int) -> np.ndarray:
    """Read the labels of `num` images: (num, label_size) float32.

    Raises
    ------
    UserError
        The file does not hold an array of numbers with one row per image.
    """
    labels = read_array(path, 'delete it or make the dataset again')
    if labels.ndim != 2 or labels.dtype.kind not in 'fiub':
        raise UserError(f'{path}: must hold one-hot labels, [N, label_size] float32, not {labels.shape!s:.80} '
                        f'{labels.dtype!s:.40}; delete it or make the dataset again')
    if len(labels) != num:
        raise UserError(f'{path}: has {len(labels)} rows, but the dataset has {num} images; the labels belong to '
                        'another dataset')
    return as_labels(labels)
