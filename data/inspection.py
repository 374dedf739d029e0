"""Inspect datasets: print and verify the content of a file, show its images, compare two files."""

import contextlib
import functools
import hashlib
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.console import Progress, progress
from common.errors import UserError
from common.files import AnyPath
from common.images import convert_to_pil_image, save_image, save_pil_image
from data.chunk_reader import Reader, open_readers
from data.hdf5_format import (
    Levels,
    find_labels,
    is_one_hot,
    load_labels,
    open_levels,
    read_class_names,
    read_labels,
    read_shard,
    virtual_parts,
)
from data.hdf5_writer import halve
from data.image_source import group_size, map_in_order
from data.sheets import draw_sheet, grid_of, rows_of_classes

LISTED_IMAGES = 10          # Largest number of image indices in a message.
LISTED_COLUMNS = 16         # Largest number of label columns for which images are counted.
SHEET_RESOLUTION = 128      # Largest side of the images on a sheet.
WINDOW_PIXELS = 512         # Smallest side of the images in a window.
PAGE = 100                  # Number of images that Page Up and Page Down skip.


# ----------------------------------------------------------------------------------------------------------------------
# inspect.


def inspect(h5_path: AnyPath, verify: bool = False, sheet: AnyPath | None = None) -> None:
    """Print the content of a dataset and whether it is complete.

    Parameters
    ----------
    h5_path : str
    verify : bool
        Read every image of every level: print a SHA-256 checksum per level of the pixels of all images in order, which
        does not depend on the compression; check that each level is the average of the finer one.
    sheet : str, optional
        Write a PNG of images from the whole dataset; if there are labels, one class per row.

    Raises
    ------
    UserError
        The file is not complete or, with `verify`, has errors.
    """
    h5, levels = open_levels(h5_path)
    with h5, open_readers(h5, list(levels.values())) as readers:
        finest = next(iter(levels.values()))
        num, channels, resolution, _ = finest.shape
        paths = [part[2] for part in virtual_parts(finest) or ()]
        size = sum(os.path.getsize(path) for path in paths or [os.fspath(h5_path)])
        path = find_labels(h5, h5_path)
        labels = None if path is None else load_labels(path, num)
        print(f'{"HDF5 filename":<20}{h5_path}')
        if paths:
            print(f'{"Joined from":<20}{", ".join(paths)}')
        shard = read_shard(h5)
        if shard:
            print('%-20s%d of %d; join the shards with merge' % ('Shard', *shard))
        print(f'{"Total size":<20}{size / 2 ** 30:.2f} GB')
        print(f'{"Total images":<20}{num}')
        print(f'{"Resolution":<20}{resolution}x{resolution}')
        print(f'{"Color channels":<20}{channels}')
        print(f'{"Size per image":<20}{size / num / 2 ** 10:.2f} KB')
        print('%-20s%s' % ('Labels', 'none' if labels is None else '%s; %s' % (
            path, describe_labels(labels))))
        names = read_class_names(h5)
        if names and labels is not None:
            print(f'{"Classes":<20}{", ".join(f"{number} {name}" for number, name in enumerate(names))}')
        print(f'\n{"Level":<16}{"Shape":<24}{"Type":<8}{"Chunks":<22}{"Filter":<10}{"Stored MB":>10}')
        for level in levels.values():
            print('%-16s%-24s%-8s%-22s%-10s%10.2f' % (
                level.name[1:], level.shape, level.dtype, level.chunks or ('joined' if paths else 'none'),
                '%s %s' % (level.compression, level.compression_opts) if level.compression else 'none',
                level.id.get_storage_size() / 2 ** 20))
        print(f'\nComplete: has all levels from {resolution}x{resolution} to 1x1')
        if sheet is not None:
            write_sheet(levels, readers, labels, sheet, names)
        if verify:
            verify_levels(h5_path, readers, levels)


def describe_labels(labels: np.ndarray) -> str:
    counts = np.count_nonzero(labels, axis=0)
    text = '%d columns, images per column: %s' % (
        labels.shape[1], ' '.join(map(str, counts[:LISTED_COLUMNS])) + ' ...' * (len(counts) > LISTED_COLUMNS))
    one_hot = is_one_hot(labels)
    return text + ('' if one_hot.all() else f'; {np.count_nonzero(~one_hot)} rows are not one-hot')


def verify_levels(h5_path: AnyPath, readers: list[Reader], levels: Levels) -> None:
    """Read everything; print a checksum per level, and raise UserError if there are errors."""
    num, channels, resolution, _ = next(iter(levels.values())).shape
    hashes = [hashlib.sha256() for _ in levels]
    unreadable: list[list[int]] = [[] for _ in levels]
    differences = [np.zeros(num, dtype=np.uint8) for _ in levels]
    with Progress('Verifying', num) as bar:
        check = functools.partial(check_images, readers, (channels, resolution))
        for results in map_in_order(check, groups_of_images(num, channels, resolution)):
            for lod, (indices, pixels, bad, difference) in enumerate(results):
                hashes[lod].update(pixels.data)
                unreadable[lod].extend(bad)
                differences[lod][indices.start:indices.stop] = difference
            bar.update(len(indices))
    print(f'\n{"Level":<16}{"SHA-256 of the pixels":<66}{"Average of the finer level"}')
    problems = []
    for lod, level in enumerate(levels.values()):
        largest, wrong = int(differences[lod].max()), np.flatnonzero(differences[lod] > 1)
        place = 'at %dx%d' % level.shape[2:]
        if unreadable[lod]:
            problems.append(f'{place} {list_images(unreadable[lod])} cannot be read')
        if len(wrong):
            problems.append(f'{place} {list_images(wrong)} differ from the average of the finer level, by up to '
                            f'{largest}')
        average = 'no' if len(wrong) else 'yes, +-1: averaged before rounding' if largest else 'yes'
        print('%-16s%-66s%s' % (
            level.name[1:], 'images cannot be read' if unreadable[lod] else hashes[lod].hexdigest(),
            average if lod else '-'))
    if problems:
        raise UserError(f'{h5_path}: {"; ".join(problems)}; make or copy the file again')
    print('\nVerified: all images of all levels can be read and match')


def groups_of_images(num: int, channels: int, resolution: int) -> list[range]:
    step = group_size(channels, resolution)
    return [range(start, min(start + step, num)) for start in range(0, num, step)]


def list_images(indices: Sequence[int] | np.ndarray) -> str:
    return f'image {indices[0]}' if len(indices) == 1 else f'{len(indices)} images ({list_numbers(indices)})'


def list_numbers(indices: Sequence[int] | np.ndarray) -> str:
    return ', '.join(map(str, indices[:LISTED_IMAGES])) + ', ...' * (len(indices) > LISTED_IMAGES)


def check_images(readers: list[Reader], shape: tuple[int, int],
                 indices: range) -> list[tuple[range, np.ndarray, list[int], np.ndarray]]:
    """Read some images at all levels and compare each level with the averages of the finest one.

    Returns
    -------
    list of (range, ndarray, list of int, ndarray)
        For each level: `indices`; the pixels (n, C, r, r) uint8; the images that cannot be read; for each image the
        largest difference, 0 if it is unknown.
    """
    expected: np.ndarray = np.empty(0)
    results, usable = [], np.ones(len(indices), dtype=bool)
    for lod, reader in enumerate(readers):
        pixels = np.zeros((len(indices), shape[0]) + (shape[1] >> lod,) * 2, dtype=np.uint8)
        bad = []
        for row, index in enumerate(indices):
            try:
                pixels[row] = reader.read(index)
            except UserError:
                bad.append(index)
        expected = pixels.astype(np.float32) if lod == 0 else halve(expected)
        readable = ~np.isin(indices, bad)
        if lod == 0:
            usable = readable
        difference = np.abs(np.rint(expected) - pixels).max(axis=(1, 2, 3)) * (usable & readable)
        results.append((indices, pixels, bad, difference))
    return results


# ----------------------------------------------------------------------------------------------------------------------
# Showing images.


def write_sheet(levels: Levels, readers: list[Reader], labels: np.ndarray | None, path: AnyPath,
                names: list[str] | None = None) -> None:
    """Write a picture with images from the whole dataset; with labels, there is a row for each class that has images.

    Rows are titled with the name of the class, or with its number if the name is unknown.
    """
    shown = min(max(levels), SHEET_RESOLUTION)
    level, reader = levels[shown], readers[list(levels).index(shown)]
    titles: list[str] | None = None
    if labels is None or not labels.any():
        columns, num_rows = grid_of(len(level), shown)
        images = spread(np.arange(len(level)), columns * num_rows)
        choice = [images[begin:begin + columns] for begin in range(0, len(images), columns)]
    else:
        classes = np.flatnonzero(labels.any(axis=0))
        across, down = rows_of_classes(len(classes), shown)
        names = names if names and len(names) == labels.shape[1] else [str(number) for number in range(labels.shape[1])]
        choice, titles = [], []
        for number in classes:
            images = spread(np.flatnonzero(labels[:, number]), across * down)
            choice += [images[begin:begin + across] for begin in range(0, len(images), across)]
            titles += [names[number]] + [''] * (len(choice) - len(titles) - 1)
    picture = draw_sheet([[reader.read(int(index)) for index in images] for images in choice], titles)
    save_pil_image(picture, path)
    of_classes = f' of {len(classes)} classes' if titles else ''
    print('Wrote %d images%s at %dx%d to %s' % (sum(map(len, choice)), of_classes, *level.shape[2:], path))


def spread(indices: np.ndarray, num: int) -> np.ndarray:
    """At most `num` of the indices, evenly spaced from the first to the last."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, min(num, len(indices))).round().astype(int))]


def display(h5_path: AnyPath, start: int = 0, output: AnyPath | None = None) -> None:
    """Show the images of a dataset in a window; without a display, write a sheet and print its path.

    Keys: right or space for the next image, left for the previous one, Page Up and Down for a hundred, Home and End,
    Escape to close.

    Parameters
    ----------
    h5_path : str
    start : int
        Index of the first image.
    output : str, optional
        Write the sheet to this PNG file instead of opening a window.

    Raises
    ------
    UserError
        The file is not complete, or has no image `start`.
    """
    h5, levels = open_levels(h5_path)
    with h5, open_readers(h5, list(levels.values())) as readers:
        num = len(next(iter(levels.values())))
        if not 0 <= start < num:
            raise UserError(f'--start {start}: must be from 0 to {num - 1}, {h5_path} has {num} images')
        labels, names = read_labels(h5, h5_path, num), read_class_names(h5)
        if names and (labels is None or len(names) != labels.shape[1]):
            names = None
        window = None if output else open_window()
        if window is None:
            if output is None:
                output = os.path.splitext(os.path.basename(h5_path))[0] + '-images.png'
                print('There is no display to open a window on')
            write_sheet(levels, readers, labels, output, names)
        else:
            _Viewer(window, readers[0], num, labels, start, names)
            window.mainloop()


def open_window() -> Any:
    """A Tk window, or None without a display or without Tk."""
    try:
        import tkinter
    except ImportError:     # Many systems package it separately.
        return None
    try:
        return tkinter.Tk()
    except tkinter.TclError:
        return None


class _Viewer:
    """Shows one image of a level in a window, enlarged if small; keys switch to other images."""

    STEPS = {'<Right>': 1, '<space>': 1, '<Return>': 1, '<Left>': -1, '<Next>': PAGE, '<Prior>': -PAGE}

    def __init__(self, window, reader, num, labels, start, names=None):
        from tkinter import Label
        self.window, self.reader, self.num, self.labels, self.names = window, reader, num, labels, names
        self.index = start
        self.photo = None       # Tk keeps no reference to the image that it shows.
        self.widget = Label(window, borderwidth=0)
        self.widget.pack()
        for key, step in self.STEPS.items():
            window.bind(key, lambda _event, step=step: self.show(self.index + step))
        window.bind('<Home>', lambda _event: self.show(0))
        window.bind('<End>', lambda _event: self.show(num - 1))
        window.bind('<Escape>', lambda _event: window.destroy())
        self.show(start)

    def show(self, index):
        from tkinter import PhotoImage
        self.index = min(max(index, 0), self.num - 1)
        image = convert_to_pil_image(self.reader.read(self.index), (0, 255))
        zoom = -(-WINDOW_PIXELS // image.width)
        png = io.BytesIO()
        image.resize((image.width * zoom, image.height * zoom), resample=0).save(png, 'png')
        self.photo = PhotoImage(master=self.window, data=png.getvalue(), format='png')
        self.widget.configure(image=self.photo)
        title = f'image {self.index} of {self.num}'
        if self.labels is not None:
            numbers = np.flatnonzero(self.labels[self.index])
            title += f', label {" ".join(self.names[number] if self.names else str(number) for number in numbers)}'
        self.window.title(title)


def extract(h5_path: AnyPath, output_dir: AnyPath, start: int = 0, stop: int | None = None, step: int = 1,
            force: bool = False) -> None:
    """Write images ``start:stop:step`` at full resolution as ``imgNNNNNNNN.png``.

    Raises
    ------
    UserError
        The range is empty, or the folder cannot be written or, without `force`, already holds such images.
    """
    h5, levels = open_levels(h5_path)
    finest = next(iter(levels.values()))
    with h5, open_readers(h5, [finest]) as [reader]:
        if step < 1:
            raise UserError(f'--step {step}: must be at least 1')
        indices = range(len(finest))[start:stop:step]
        if not indices:
            raise UserError(f'--start {start} --stop {stop}: no images in this range; {h5_path} has {len(finest)}')
        names = {index: f'img{index:08d}.png' for index in indices}
        try:
            os.makedirs(output_dir, exist_ok=True)
            existing = sorted(set(os.listdir(output_dir)).intersection(names.values()))
        except OSError as error:
            raise UserError(f'DIR={output_dir!r}: cannot be written ({error.strerror}); choose another '
                            'folder') from error
        if existing and not force:
            raise UserError(f'{os.path.join(output_dir, existing[0])}: exists; choose another folder, or add --force '
                            'to replace images in it')
        for index, name in progress(names.items(), 'Extracting'):
            save_image(reader.read(index), os.path.join(output_dir, name), (0, 255))
    print(f'Extracted {len(names)} images to {output_dir}')


# ----------------------------------------------------------------------------------------------------------------------
# compare.


def compare(h5_path: AnyPath, other_path: AnyPath) -> int:
    """Print which images of two datasets differ, and statistics of each level.

    Returns
    -------
    int
        Exit status of the command: 0 if all images and labels are the same, else 1.

    Raises
    ------
    UserError
        One of the files is incomplete or damaged.
    """
    paths = [h5_path, other_path]
    with contextlib.ExitStack() as stack:
        files, levels = zip(*map(open_levels, paths), strict=True)
        for h5 in files:
            stack.enter_context(h5)
        print(f'Comparing {h5_path} vs. {other_path}')
        shapes = [opened[max(opened)].shape for opened in levels]
        if shapes[0][1] != shapes[1][1]:
            print(f'The datasets have different number of color channels: {shapes[0][1]} vs. {shapes[1][1]}')
        if shapes[0][2] != shapes[1][2]:
            print(f'The datasets have different resolutions: {shapes[0][2]} vs. {shapes[1][2]}')
        if shapes[0][1:] != shapes[1][1:]:
            return 1
        num = min(shapes[0][0], shapes[1][0])
        labels, other_labels = (read_labels(h5, path, shape[0])
                                for h5, path, shape in zip(files, paths, shapes, strict=True))
        readers = [stack.enter_context(open_readers(h5, list(opened.values())))
                   for h5, opened in zip(files, levels, strict=True)]
        different = compare_levels(readers, num, shapes[0][1:3])
        same = not different
        if shapes[0][0] != shapes[1][0]:
            same = False
            print(f'The datasets contain different number of images: {shapes[0][0]} vs. {shapes[1][0]}')
        print(f'{len(different)} images out of {num} are different: {list_numbers(different)}' if different
              else f'All {num} images are identical.')
    return int(not (compare_labels(labels, other_labels, num) and same))


def compare_levels(readers: list[list[Reader]], num: int, shape: tuple[int, int]) -> list[int]:
    """Print a table of all levels of the first `num` images of two files; return the images that differ anywhere."""
    num_levels = len(readers[0])
    histograms = np.zeros((2, num_levels, 256), dtype=np.int64)
    differences = np.zeros((num_levels, num), dtype=np.uint8)

    def read(indices):
        """Histograms (2, 256) and differences (n,) of each level."""
        results = []
        for pair in zip(*readers, strict=True):
            pixels = np.array([[reader.read(index) for index in indices] for reader in pair])
            difference = np.abs(pixels[0].astype(np.int16) - pixels[1]).max(axis=(1, 2, 3))
            results.append(([np.bincount(part.ravel(), minlength=256) for part in pixels], difference))
        return results

    with Progress('Comparing', num) as bar:
        groups = groups_of_images(num, *shape)
        for indices, results in zip(groups, map_in_order(read, groups), strict=True):
            for lod, (counts, difference) in enumerate(results):
                histograms[:, lod] += counts
                differences[lod, indices.start:indices.stop] = difference
            bar.update(len(indices))
    print(f'\n{"Level":<16}{"Different":>12}{"Largest by":>12}{"Mean":>22}{"Standard deviation":>22}')
    values = np.arange(256)
    for lod, size in enumerate(shape[1] >> lod for lod in range(num_levels)):
        means = histograms[:, lod] @ values / histograms[:, lod].sum(axis=1)
        squares = histograms[:, lod] @ values ** 2 / histograms[:, lod].sum(axis=1)
        print('%-16s%12d%12d%22s%22s' % (
            'data%dx%d' % (size, size), np.count_nonzero(differences[lod]), differences[lod].max(),
            '%.3f vs. %.3f' % tuple(means), '%.3f vs. %.3f' % tuple(np.sqrt(np.maximum(squares - means ** 2, 0)))))
    print()
    return np.flatnonzero(differences.any(axis=0)).tolist()


def compare_labels(labels: np.ndarray | None, other_labels: np.ndarray | None, num: int) -> bool:
    """Compare the labels of the first `num` images, print the result, and return whether they are the same."""
    if labels is None and other_labels is None:
        return True
    if labels is None or other_labels is None:
        print(f'Only the {"first" if other_labels is None else "second"} dataset has labels.')
        return False
    if labels.shape[1] != other_labels.shape[1]:
        print(f'The labels have different numbers of columns: {labels.shape[1]} vs. {other_labels.shape[1]}')
        return False
    different = np.flatnonzero((labels[:num] != other_labels[:num]).any(axis=1)).tolist()
    print(f'The labels of {len(different)} images are different: {list_numbers(different)}' if different
          else 'All labels are identical.')
    return not different
