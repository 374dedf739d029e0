"""Minibatches of real images from a multi-resolution HDF5 file, in the order of the 2017 release."""

import os
import weakref
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from common.class_names import class_number
from common.errors import UserError
from common.machine import num_cores
from common.options import (
    DifferentClasses,
    FilePath,
    NonNegative,
    NonNegativeInt,
    PositiveInt,
    PowerOfTwo,
    Threads,
    check_options,
)
from data.hdf5_format import (
    check_one_hot,
    find_labels,
    labels_path,
    load_labels,
    open_levels,
    read_class_names,
)
from data.read_ahead import ReadAhead

PREFETCH_BYTES = 1 << 28    # Most memory for images that are read ahead.
PARALLEL_BYTES = 1 << 20    # Minibatches of at least this size are put together by several threads.
BLEND_PIXELS = 1 << 18      # Pixels blended at a time, so that the float64 values fit the processor's cache.
LISTED_CLASSES = 10
MAX_READ_THREADS = 4        # Default limit; `read_threads` may be larger.


class ReadError(UserError):
    """Images of an open dataset cannot be read: the file is damaged, or its disk or network is gone."""


class Dataset:
    """Shuffled, optionally mirrored minibatches at any level of detail, with labels.

    All random draws use NumPy's global generator, in the order of the 2017 release: one shuffle on opening, then per
    minibatch ``randint(window, size=n)`` and, with `mirror_augment`, ``rand(n)``. Caching and prefetching do not change
    them.

    Parameters
    ----------
    h5_path : str
        File in the format of data/hdf5_format.py. Labels, if any, are in ``NAME-labels.npy`` beside it.
    resolution : int, optional
        Resolution of the file that becomes lod 0. Default: the highest.
    max_labels : 'all' or int
        Number of label columns to use; 0: no labels. The paper uses labels for CIFAR-10 and MNIST-RGB only.
    max_images : int, optional
        Use only the first `max_images` images. Random labels still come from all rows.
    expected_images : int, optional
        Number of images in the paper's training; training reports any other number in one line.
    mirror_augment : bool
        Mirror each image with probability 1/2. The paper does this for CelebA, CelebA-HQ and LSUN, except LSUN bedroom
        and dog.
    classes : sequence of int or str, optional
        Use only the images of these classes, as if the file had no others: images with a label in one of these columns.
        The labels then have these columns, in this order. ``[3]`` with ``max_labels=0`` trains an unconditional network
        on class 3. Names such as ``['cat', 'dog']`` are accepted if the file stores class names.
    shuffle : bool
        False: keep the order of the file.
    prefetch_images : int
        Number of images to read ahead. It determines the length of the shuffled order, hence the sequence of images.
    cache_gb : float
        Levels of at most this uncompressed size, in GB, stay in memory once read.
    read_threads : int, optional
        Number of threads that read ahead and help to put large minibatches together. Idle threads sleep.
        Default: one per processor core, at most 4.
    require_labels : bool
        Raise an error if the dataset has no labels; for conditional training.

    Attributes
    ----------
    shape : (C, H, W)
        Shape of an image at lod 0.
    dtype : numpy dtype
        uint8.
    dynamic_range : (0, 255)
    num_images : int
    labels : ndarray, shape (rows, label_size), float32
        One row for each image of the file, or of the chosen `classes`, including those beyond `max_images`.
    label_size : int
        0 without labels.
    class_names : list of str or None
        Names of the columns of `labels`; None: the file stores no names.

    Raises
    ------
    UserError
        The file is missing, incomplete or has another layout, or an argument does not fit it.
    """

    dtype = np.dtype(np.uint8)
    dynamic_range = (0, 255)

    def __init__(self, h5_path: FilePath, resolution: PowerOfTwo | None = None,
                 max_labels: Literal['all'] | NonNegativeInt = 'all', max_images: PositiveInt | None = None,
                 mirror_augment: bool = False, shuffle: bool = True, prefetch_images: NonNegativeInt = 512,
                 cache_gb: NonNegative = 1.0, read_threads: Threads | None = None,
                 classes: DifferentClasses | None = None, require_labels: bool = False,
                 expected_images: PositiveInt | None = None) -> None:
        # Without `classes`, which can only be checked against the file.
        check_options({
            'h5_path': h5_path, 'resolution': resolution, 'max_labels': max_labels, 'max_images': max_images,
            'mirror_augment': mirror_augment, 'shuffle': shuffle, 'prefetch_images': prefetch_images,
            'cache_gb': cache_gb, 'read_threads': read_threads, 'require_labels': require_labels,
            'expected_images': expected_images}, Dataset, str)
        self.h5_path = os.fspath(h5_path)
        self.h5, levels = open_levels(self.h5_path)
        try:
            file_images, channels, file_resolution, _ = levels[max(levels)].shape
            self.resolution = file_resolution if resolution is None else int(resolution)
            if self.resolution not in levels:
                raise UserError(f'resolution={resolution}: {self.h5_path} has at most {file_resolution}; use that '
                                'or less')
            self.labels, self.chosen, self.class_names, self._labels_of_file = _choose_labels(
                self.h5, self.h5_path, file_images, max_labels, classes, require_labels)
            if max_images is not None and max_images > len(self.labels):
                raise UserError(f'max_images={max_images}: {self.h5_path} has only '
                                f'{len(self.labels)}{"" if classes is None else " of these classes"}; use None '
                                'for all')
        except BaseException:
            self.h5.close()
            raise
        self.shape = (channels, self.resolution, self.resolution)
        self.num_images = int(max_images or len(self.labels))
        self.label_size = self.labels.shape[1]
        self.mirror_augment = mirror_augment
        self.expected_images = expected_images
        self.prefetch_images = prefetch_images

        # So long that a reshuffle never changes images that are being read ahead.
        repeats = max(-(-4 * prefetch_images // self.num_images), 1)
        self.order = np.tile(np.arange(self.num_images), repeats)
        self.position = 0
        self._swapped: list[tuple[np.integer, np.integer]] = []     # Positions that the last minibatch swapped.
        self.reshuffle_window = 1
        if shuffle:
            np.random.shuffle(self.order)
            self.reshuffle_window = max(min(len(self.order) // 2, len(self.order) - 2 * prefetch_images - 1), 1)

        read_threads = int(read_threads or min(num_cores(), MAX_READ_THREADS))
        self.levels = {res: level for res, level in levels.items() if res <= self.resolution}   # Finest first.
        self.reader = ReadAhead(self.h5, list(self.levels.values()),
                                cache_gb * 2 ** 30, read_threads)
        # Stops the threads even if close() is never called.
        self._finalizer = weakref.finalize(self, _close, self.reader, self.h5)

    def close(self) -> None:
        """Stop reading ahead and close the file; safe to call twice."""
        self._finalizer()

    def __enter__(self) -> 'Dataset':
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def check_labels(self) -> None:
        """Print which classes have no images.

        Raises
        ------
        UserError
            Labels of the file are not one-hot, as training requires; the message lists the rows.
        """
        if self._labels_of_file is not None:
            labels, path, names = self._labels_of_file
            check_one_hot(labels, path)
            _report_empty_classes(labels, path, names)

    def next_minibatch(self, minibatch_size: int, lod: float = 0.0, shrink_based_on_lod: bool = False,
                       rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Take the next images of the shuffled order.

        Parameters
        ----------
        minibatch_size : int
        lod : float
            Level of detail: 0 is full resolution, and each further 1 halves the resolution. Images at fractional values
            are blended with their own averages over 2x2 pixels.
        shrink_based_on_lod : bool
            Return images at the resolution of ``floor(lod)``; otherwise repeat pixels to full resolution.
        rows : slice
            Read and return only these of the `minibatch_size` images; random numbers are drawn for all.

        Returns
        -------
        (ndarray, ndarray)
            Images (N, C, H, W) uint8 and labels (N, label_size) float32.

        Raises
        ------
        ValueError
            `minibatch_size` is less than 1 or `lod` is not from 0 to log2(resolution).
        ReadError
            Reading failed. After :meth:`take_back`, the next call returns the same images.
        """
        max_lod = self.resolution.bit_length() - 1
        if not 0 <= lod <= max_lod:
            raise ValueError(f'lod={lod!r}: must be from 0 to {max_lod} at a resolution of {self.resolution}')
        if minibatch_size < 1:
            raise ValueError(f'minibatch_size={minibatch_size!r}: must be at least 1')
        floor_lod = int(np.floor(lod))
        indices = self._advance(minibatch_size)[rows]
        mirrored = np.zeros(len(indices), dtype=bool)
        if self.mirror_augment:
            mirrored = np.random.rand(minibatch_size)[rows] < 0.5
        try:
            images = self._read(floor_lod, indices, mirrored, lod - floor_lod)
        except (OSError, UserError) as error:
            raise ReadError(str(error)) from error
        self.reader.read_ahead(floor_lod, self._upcoming(floor_lod, minibatch_size, rows))
        if not shrink_based_on_lod and floor_lod > 0:
            images = images.repeat(2 ** floor_lod, axis=2).repeat(2 ** floor_lod, axis=3)
        return images, self.labels[indices]

    def take_back(self) -> None:
        """Undo the last :meth:`next_minibatch`: its images come again. The caller must restore NumPy's generator."""
        for position, earlier in reversed(self._swapped):
            self.order[[position, earlier]] = self.order[[earlier, position]]
        if self._swapped:
            self.position = int(self._swapped[0][0])
        self._swapped = []

    def random_labels(self, num: int) -> np.ndarray:
        """Labels of random images, (num, label_size) float32. Draws ``randint(rows, size=num)`` even without labels."""
        return self.labels[np.random.randint(len(self.labels), size=num)]

    def get_images(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read given images at full resolution, and their labels. Draws no random numbers.

        Parameters
        ----------
        indices : sequence of int
            Positions in the file, from 0; with `classes`, positions among the images of these classes.

        Returns
        -------
        (ndarray, ndarray)
            Images (N, C, H, W) uint8 and labels (N, label_size) float32.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and not (0 <= indices.min() and indices.max() < len(self.labels)):
            raise IndexError(f'indices from {indices.min()} to {indices.max()}: there are {len(self.labels)} images')
        return self._read(0, indices, np.zeros(len(indices), dtype=bool), 0.0), self.labels[indices]

    def get_state(self) -> dict[str, Any]:
        """State for :meth:`set_state` to continue with the same images: a dict of plain arrays and numbers."""
        return {'order': self.order.copy(), 'position': self.position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state of :meth:`get_state`; the caller must restore NumPy's generator.

        Raises
        ------
        UserError
            The state belongs to another dataset or other arguments.
        """
        order, position = np.asarray(state['order']), int(state['position'])
        if order.shape != self.order.shape or order.dtype.kind not in 'iu' or not np.array_equal(
                np.sort(order), np.sort(self.order)) or not 0 <= position < len(order):
            raise UserError(f'reader state of {order.size} entries: {self.h5_path} with '
                            f'max_images={self.num_images} and prefetch_images={self.prefetch_images} has '
                            f'{len(self.order)}; resume with the same dataset options')
        self.order, self.position = order.astype(np.int64), position

    def _advance(self, num):
        """Indices of the next `num` images. Reshuffles their positions for the next pass."""
        positions = (self.position + np.arange(num)) % len(self.order)
        indices = self.order[positions]
        distances = np.random.randint(self.reshuffle_window, size=num)
        self._swapped = list(zip(positions, (positions - distances) % len(self.order), strict=True))
        for position, earlier in self._swapped:
            self.order[[position, earlier]] = self.order[[earlier, position]]
        self.position = int((self.position + num) % len(self.order))
        return indices

    def _read(self, lod, indices, mirrored, blend_weight):
        """Read images (N, C, H, W) uint8 of a level, mirror some, blend all by `blend_weight`; a new array."""
        indices = self._in_file(indices)
        result = np.empty((len(indices), self.shape[0]) + (self.resolution >> lod,) * 2, dtype=np.uint8)

        reader = self.reader    # A thread must not refer to self, which would keep the dataset from being closed.

        def fill(rows):
            for row in rows:
                copy_image(reader.read(lod, int(indices[row])), result[row], mirrored[row])
            if blend_weight:
                blend_with_average(result[rows.start:rows.stop], blend_weight)

        if result.nbytes < PARALLEL_BYTES:
            fill(range(len(result)))
        else:
            reader.for_each(fill, [range(row, row + 1) for row in range(len(result))])
        return result

    def _upcoming(self, lod, minibatch_size, rows):
        ahead, wanted = np.arange(self.prefetch_images), np.zeros(minibatch_size, dtype=bool)
        wanted[rows] = True
        ahead = ahead[wanted[ahead % minibatch_size]]
        ahead = ahead[:PREFETCH_BYTES // (self.shape[0] * (self.resolution >> lod) ** 2)]
        return self._in_file(self.order[(self.position + ahead) % len(self.order)])

    def _in_file(self, indices):
        """Positions of images in the file."""
        return indices if self.chosen is None else self.chosen[indices]


def copy_image(image: np.ndarray, out: np.ndarray, mirrored: bool) -> None:
    """Copy an image, uint8 (C, H, W), into `out`, mirrored left to right if `mirrored`."""
    if not mirrored:
        out[:] = image
    elif image.shape[-1] % 8:
        out[:] = image[:, :, ::-1]
    else:
        # Seven times as fast as single bytes: reverses numbers of eight pixels, and the bytes within each.
        out.view('<u8')[:] = image.view('>u8')[:, :, ::-1]


def blend_with_average(images: np.ndarray, weight: float) -> None:
    """Blend images, uint8 (N, C, H, W) and contiguous, with their own averages over 2x2 pixels, in place.

    As in the 2017 release, the blend is computed in float64 and truncated, not rounded.
    """
    width = images.shape[-1]
    row_pairs = images.reshape(-1, 2, width)
    step = min(max(BLEND_PIXELS // (2 * width), 1), len(row_pairs))
    # Every step reuses this scratch memory, because allocation would take longer than the arithmetic.
    shorts: np.ndarray = np.empty((step, 2, width), dtype=np.uint16)
    sums: np.ndarray = np.empty((step, width // 2), dtype=np.uint32)
    averages: np.ndarray = np.empty((step, 1, width))
    pixels, blend = np.empty((2, step, 2, width))
    for start in range(0, len(row_pairs), step):
        block = row_pairs[start:start + step]
        if len(block) < step:
            shorts, sums, averages, pixels, blend = (
                scratch[:len(block)] for scratch in (shorts, sums, averages, pixels, blend))
        # Sums of 2x2 pixels are at most 1020, so that one 32 bit addition adds two neighbours of 16 bits, ...
        shorts[:] = block
        pairs = shorts.view(np.uint32)
        np.add(pairs[:, 0], pairs[:, 1], out=sums)
        # ... then the neighbours are added to each other, which leaves the sum in both positions.
        sums *= np.uint32(0x10001)
        sums >>= np.uint32(16)
        sums *= np.uint32(0x10001)
        averages[:, 0] = sums.view(np.uint16)
        averages *= 0.25
        pixels[:] = block
        np.subtract(averages, pixels, out=blend)
        blend *= weight
        blend += pixels
        np.copyto(block, blend, casting='unsafe')


def _is_count(value, minimum):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= minimum


def _choose_labels(h5, h5_path, file_images, max_labels, classes, require_labels):
    """Choose the labels and images to use.

    Returns
    -------
    (ndarray, ndarray or None, list or None, (ndarray, str, list or None) or None)
        Labels (N, label_size) float32; positions of their images in the file, or None if all are used; names of the
        columns, or None if unknown; labels, path and class names of the whole file, or None if labels are not used.
    """
    if require_labels and max_labels == 0:
        raise UserError("max_labels=0: this training is conditional on labels; use 'all', or require_labels=False")
    if classes is None and max_labels == 0:
        return np.zeros((file_images, 0), dtype=np.float32), None, None, None
    path = find_labels(h5, h5_path, require_labels)
    if path is None and classes is None and max_labels == 'all':
        return np.zeros((file_images, 0), dtype=np.float32), None, None, None
    if path is None:
        option = f'max_labels={max_labels}' if classes is None else f'classes={classes!r}'
        raise UserError(f'{option}: there is no {labels_path(h5_path)}; use {0 if classes is None else None}, or make '
                        'the dataset with labels')
    labels, chosen = load_labels(path, file_images), None
    names = read_class_names(h5)
    of_file = labels, path, names
    names = names if names and len(names) == labels.shape[1] else None
    if classes is not None:
        columns = _choose_columns(path, labels.shape[1], names, classes)
        labels, chosen = _choose_classes(path, labels, columns)
        names = names and [names[column] for column in columns]
    if max_labels == 'all':
        return labels, chosen, names, of_file
    if max_labels > labels.shape[1]:
        raise UserError(f"max_labels={max_labels}: {path} has {labels.shape[1]} "
                        f"columns{'' if classes is None else ' of these classes'}; use that, less, or 'all'")
    return labels[:, :max_labels], chosen, names and names[:max_labels] or None, of_file


def _report_empty_classes(labels, path, names):
    empty = np.flatnonzero(~labels.any(axis=0))
    if len(empty):
        listed = [f'{number} {names[number]}' if names and number < len(names) else str(number) for number in empty]
        print(f'{path}: no image has the class{"es" * (len(empty) > 1)} {", ".join(listed[:LISTED_CLASSES])}'
              f'{", ..." * (len(empty) > LISTED_CLASSES)}')


def _choose_columns(path, num_classes, names, classes):
    """Columns of the labels for `classes`: a list of int."""
    if isinstance(classes, (list, tuple, range, np.ndarray)) and len(classes) and all(
            isinstance(choice, str) or _is_count(choice, 0) and choice < num_classes for choice in classes):
        columns = [class_number(choice, names, num_classes, path) for choice in classes]
        if len(set(columns)) == len(columns):
            return columns
    raise UserError(f'classes={classes!r}: must be a list of different columns of {path}, from 0 to {num_classes - 1}'
                    f'{", or their names" if names else ""}')


def _choose_classes(path, labels, columns):
    """Select the images that have a label in one of `columns`: labels of these columns, positions of the images."""
    labels = labels[:, columns]
    chosen = np.flatnonzero(labels.any(axis=1))
    if not len(chosen):
        raise UserError(f'classes={columns!r}: {path} has no image with one of these labels')
    return labels[chosen], chosen


def _close(reader, h5):
    reader.close()
    h5.close()
