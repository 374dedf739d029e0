"""Datasets made as shards, by many machines: which images belong to a shard, and joining files to one dataset."""

import argparse
import contextlib
import io
import itertools
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import h5py
import numpy as np

from common.console import Progress
from common.errors import UserError
from common.files import AnyPath, temporary_path
from data.chunk_reader import Reader, open_readers
from data.hdf5_format import (
    Levels,
    find_labels,
    labels_path,
    load_labels,
    open_levels,
    read_class_names,
    read_shard,
    set_label_attributes,
)
from data.hdf5_writer import Contents, HDF5Writer, compress, publish_dataset, refuse_existing

LISTED_PARTS = 10       # Largest number of missing shards that a message lists.


class Part(NamedTuple):
    """One of the files to join."""

    path: str
    h5: h5py.File
    levels: Levels


def parse_shard(text: str) -> tuple[int, int]:
    """Parse 'I/N' from the command line: (I, N), from 1/N to N/N."""
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f'{text!r}: must be I/N, shard I of N, from 1/N to N/N; for example 2/8')
    return int(match[1]), int(match[2])


def shard_range(num_images: int, shard: tuple[int, int] | None) -> range:
    """Indices of the images in shard I of N. Shards are consecutive; their sizes differ by at most one.

    Parameters
    ----------
    num_images : int
        Number of images of the whole dataset.
    shard : (int, int) or None
        (I, N), I from 1; None: all images.

    Returns
    -------
    range
        Empty only if there are fewer images than shards.
    """
    number, count = shard or (1, 1)
    return range(num_images * (number - 1) // count, num_images * number // count)


def merge(h5_path: AnyPath, part_paths: Sequence[AnyPath], virtual: bool = False, force: bool = False) -> None:
    """Join datasets, with their labels, into one.

    Files made with ``--shard`` are sorted and must be complete; others are joined in the given order.

    Parameters
    ----------
    h5_path : str
        File to write.
    part_paths : list of str
    virtual : bool
        Write an HDF5 virtual dataset: a small file that refers to the joined files by relative paths. Otherwise copy
        the images without recompression; the result equals a file that was written without shards, byte for byte.
    force : bool
        Replace an existing file.

    Raises
    ------
    UserError
        Files are missing, damaged or do not fit together, or the result exists or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        parts = []
        for path in [os.fspath(path) for path in part_paths]:
            h5, levels = open_levels(path)
            stack.enter_context(h5)
            parts.append(Part(path, h5, levels))
            if os.path.exists(h5_path) and os.path.samefile(h5_path, path):
                raise UserError(f'{path}: is one of the files to join; choose another name for the joined dataset')
        parts = ordered_parts(parts)
        labels = joined_labels(parts)
        class_names = joined_class_names(parts)
        write = write_virtual if virtual else write_copy
        write(os.fspath(h5_path), parts, labels, class_names, force)


def ordered_parts(parts: list[Part]) -> list[Part]:
    """Sort the parts by shard number, if they have numbers, and check that they fit together."""
    first_path, _h5, first_levels = parts[0]
    for path, _h5, levels in parts:
        if image_shape(levels) != image_shape(first_levels):
            raise UserError(f'{path}: has images of {image_shape(levels)}, but {first_path} of '
                            f'{image_shape(first_levels)} (channels, height, width); the shapes must be '
                            'equal')
    shards = [read_shard(h5) for _path, h5, _levels in parts]
    if all(shard is None for shard in shards):
        return parts
    by_number: dict[int, Part] = {}
    for shard, part in zip(shards, parts, strict=True):
        number, count = shard or (1, 1)
        if not by_number:
            first_count = count
        if count != first_count:
            raise UserError(f'{part.path}: is shard {number} of {count}, but {first_path} is one of {first_count}; '
                            'make all shards with the same N of --shard I/N')
        if number in by_number:
            raise UserError(f'{by_number[number].path} and {part.path}: are both shard {number} of {count}; give each '
                            'shard once')
        by_number[number] = part
    missing = [f'{number}/{first_count}' for number in range(1, first_count + 1) if number not in by_number]
    if missing:
        raise UserError(f'{len(missing)} of {first_count} shards are missing: --shard '
                        f'{", ".join(missing[:LISTED_PARTS])}{", ..." * (len(missing) > LISTED_PARTS)}; make them '
                        'and give all shards')
    return [by_number[number] for number in sorted(by_number)]


def joined_labels(parts: list[Part]) -> np.ndarray | None:
    """Labels of all parts, (N, label_size) float32, or None if no part has labels."""
    found = [find_labels(h5, path) for path, h5, _levels in parts]
    paths = [path for path in found if path is not None]
    if not paths:
        return None
    if len(paths) < len(parts):
        raise UserError(f'{labels_path(parts[found.index(None)].path)}: is missing, while other files have labels; '
                        'copy it here, or make the file again')
    labels = [load_labels(path, num_images(levels)) for path, (_path, _h5, levels) in zip(paths, parts, strict=True)]
    for path, array in zip(paths, labels, strict=True):
        if array.shape[1] != labels[0].shape[1]:
            raise UserError(f'{path}: has {array.shape[1]} columns, but {paths[0]} has {labels[0].shape[1]}; all '
                            'parts must have the same classes')
    return np.concatenate(labels)


def joined_class_names(parts: list[Part]) -> list[str] | None:
    """Class names, which must be the same in all parts that have some."""
    named = [(path, names) for path, h5, _levels in parts if (names := read_class_names(h5))]
    for path, names in named:
        if names != named[0][1]:
            first, second = next(pair for pair in itertools.zip_longest(named[0][1], names) if pair[0] != pair[1])
            raise UserError(f'{path}: has other class names than {named[0][0]} ({second!r} instead of {first!r}); '
                            'all files must have the same classes')
    return named[0][1] if named else None


def num_images(levels: Levels) -> int:
    return len(next(iter(levels.values())))


def image_shape(levels: Levels) -> tuple[int, int, int]:
    return next(iter(levels.values())).shape[1:]


# ----------------------------------------------------------------------------------------------------------------------
# The two ways of joining.


def write_copy(h5_path: str, parts: list[Part], labels: np.ndarray | None, class_names: list[str] | None,
               force: bool) -> None:
    """Copy the images of all parts to one file."""
    channels, resolution, _ = image_shape(parts[0].levels)
    with contextlib.ExitStack() as stack:
        sources = [(stack.enter_context(open_readers(h5, list(levels.values()))), num_images(levels))
                   for _path, h5, levels in parts]
        places = ((readers, index) for readers, num in sources for index in range(num))
        bar = stack.enter_context(Progress('Copying', sum(num for _readers, num in sources)))
        writer = stack.enter_context(HDF5Writer(h5_path, resolution, channels, labels, force,
                                                class_names=class_names))
        chunk_images = [level.chunk_images for level in writer.levels]
        while group := list(itertools.islice(places, writer.group_images)):
            writer.add_group(len(group), read_group, group, chunk_images)
            bar.update(len(group))


def read_group(places: list[tuple[list[Reader], int]], chunk_images: list[int]) -> Contents:
    """Read the levels of some images from their files, in the form that :func:`data.hdf5_writer.make_levels` returns.

    Parameters
    ----------
    places : list of (list of ChunkReader, int)
        For each image the readers of its file's levels, finest first, and its index in the file.
    chunk_images : list of int
        Number of images in a chunk of each level.
    """
    contents: Contents = []
    for lod, chunk_size in enumerate(chunk_images):
        if chunk_size == 1:
            contents.append([readers[lod].read_compressed(index) or compress(readers[lod].read(index))
                             for readers, index in places])
        else:
            contents.append(np.stack([readers[lod].read(index) for readers, index in places]))
    return contents


def write_virtual(h5_path: str, parts: list[Part], labels: np.ndarray | None, class_names: list[str] | None,
                  force: bool) -> None:
    """Write a file that refers to the files of the parts."""
    refuse_existing(h5_path, labels is not None, force)
    folder = os.path.realpath(os.path.dirname(h5_path) or '.')
    total = sum(num_images(levels) for _path, _h5, levels in parts)
    content = io.BytesIO()
    with h5py.File(content, 'w') as h5:
        set_label_attributes(h5, h5_path, labels, class_names)
        for res, first_level in parts[0].levels.items():
            layout = h5py.VirtualLayout((total,) + first_level.shape[1:], np.uint8)
            start = 0
            for path, _h5, levels in parts:
                stop = start + num_images(levels)
                source_path = os.path.relpath(os.path.realpath(path), folder)
                layout[start:stop] = h5py.VirtualSource(source_path, levels[res].name, levels[res].shape)
                start = stop
            h5.create_virtual_dataset(f'data{res}x{res}', layout)
    temporary = temporary_path(h5_path)
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, 'wb') as file:
            file.write(content.getbuffer())
        publish_dataset(temporary, h5_path, labels)
    except OSError as error:
        raise UserError(f'h5_path={h5_path!r}: cannot be written ({error.strerror or error}); choose another '
                        'folder or free some space') from error
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.remove(temporary)
    print(f'Joined {total} images of {len(parts)} files in {h5_path}. It refers to these files: keep them, and move '
          'them only together')
