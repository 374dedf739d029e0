"""Common part of the create commands of dataset_tool.py: read a source of images in order and write a dataset."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from common.console import Progress
from common.errors import UserError
from common.files import AnyPath
from common.machine import num_cores
from data.hdf5_writer import HDF5Writer, refuse_existing
from data.shards import shard_range

Item = TypeVar('Item')
Result = TypeVar('Result')

GROUP_BYTES = 1 << 20       # Images are handed to the writer in groups of about this size.


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Images of one size that a dataset can be made from; each importer returns one.

    Attributes
    ----------
    num_images : int
    resolution : int
        Height and width; a power of two.
    channels : int
        1 or 3.
    images : callable
        ``images(start, stop)`` yields the images start to stop - 1 in order, as groups (n, channels, resolution,
        resolution), uint8 or float in [0, 255]. Every call reads again, and only these images. Some
        importers skip and report images that cannot be decoded; if there are labels, they are in `left_out`.
    labels : ndarray, shape (num_images, label_size), float32, optional
        One-hot.
    class_names : list of str, optional
        Names of the columns of `labels`.
    left_out : list of int
        Indices of the images that `images` skipped.
    """

    num_images: int
    resolution: int
    channels: int
    images: Callable[[int, int], Iterator[np.ndarray]]
    labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    left_out: list[int] = dataclasses.field(default_factory=list)


def create(h5_path: AnyPath, read_source: Callable[..., ImageSource], *source_args: Any, **writing: Any) -> None:
    """Make a dataset from ``read_source(*source_args)``; `writing` are options of :func:`write_dataset`."""
    # Check early, because reading the source can take long. Whether there are labels is known only after reading; the
    # writer checks again then.
    refuse_existing(h5_path, with_labels=True, force=writing.get('force', False))
    write_dataset(read_source(*source_args), h5_path, **writing)


def write_dataset(source: ImageSource, h5_path: AnyPath, force: bool = False,
                  shard: tuple[int, int] | None = None, class_names: AnyPath | None = None) -> None:
    """Write the images and labels of an :class:`ImageSource`, with a progress bar.

    Parameters
    ----------
    source : ImageSource
    h5_path : str
        File to write.
    force : bool
        Replace an existing file and its labels.
    shard : (int, int), optional
        Write only shard I of N of the images; data.shards.merge joins the shards.
    class_names : str, optional
        Text file with the names of the classes, one per line. Default: the names that the source provides.

    Raises
    ------
    UserError
        The file exists or cannot be written, or an image cannot be read.
    """
    names = source.class_names if class_names is None else names_in_file(class_names, source.labels)
    wanted = shard_range(source.num_images, shard)
    if not wanted:
        raise UserError('--shard %d/%d: there are only %d images; use fewer shards' % (
            *(shard or (1, 1)), source.num_images))
    labels = None if source.labels is None else source.labels[wanted.start:wanted.stop]
    with HDF5Writer(h5_path, source.resolution, source.channels, labels, force, shard,
                    class_names=names) as writer, \
            Progress('Writing', len(wanted)) as bar:
        for images in source.images(wanted.start, wanted.stop):
            writer.add_images(images)
            bar.update(len(images))
        if labels is not None and source.left_out:
            writer.labels = np.delete(labels, np.array(source.left_out) - wanted.start, axis=0)


def names_in_file(path: AnyPath, labels: np.ndarray | None) -> list[str]:
    """Read class names from a text file, one per line, and check that there is one for each column of `labels`."""
    try:
        with open(path, encoding='utf-8-sig') as file:
            names = [line.strip() for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f'--class-names {path}: cannot be read as text ({error}); give a file with one name per '
                        'line') from error
    if labels is None:
        raise UserError(f'--class-names {path}: these images have no labels; omit the option')
    if len(names) != labels.shape[1]:
        raise UserError(f'--class-names {path}: has {len(names)} names for {labels.shape[1]} classes; '
                        'write one per line')
    return names


# ----------------------------------------------------------------------------------------------------------------------
# Tools for importers.


def array_source(parts: Sequence[np.ndarray], labels: np.ndarray | None = None,
                 class_names: Sequence[str] | None = None) -> ImageSource:
    """:class:`ImageSource` of arrays (N, C, H, W), one after the other."""
    _, channels, resolution, _ = parts[0].shape
    step = group_size(channels, resolution)

    def read(start, stop):
        offset = 0
        for part in parts:
            end = min(stop - offset, len(part))
            for first in range(max(start - offset, 0), end, step):
                yield part[first:min(first + step, end)]
            offset += len(part)

    return ImageSource(sum(map(len, parts)), resolution, channels, read, labels, class_names)


def decoded_source(items: Sequence[Item], decode: Callable[[Item], np.ndarray | None], resolution: int, channels: int,
                   labels: np.ndarray | None = None, class_names: Sequence[str] | None = None) -> ImageSource:
    """:class:`ImageSource` of items that ``decode(item)`` turns into images (C, H, W), in threads.

    Items for which it returns None are left out.
    """
    def read(start, stop):
        return grouped(image for image in map_in_order(decode, items[start:stop]) if image is not None)

    return ImageSource(len(items), resolution, channels, read, labels, class_names)


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item],
                 num_threads: int | None = None) -> Iterator[Result]:
    """``map(function, items)``, computed in threads.

    Only a few results per thread exist at any time. The calling thread reads `items`, and no further ahead than that.

    Yields
    ------
        Results in the order of `items`; an exception is raised in place of its result.
    """
    num_threads = num_threads or num_cores()
    pending: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(num_threads) as executor:
        try:
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) >= 4 * num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def grouped(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Collect single images (C, H, W) into groups (n, C, H, W)."""
    group = []
    for image in images:
        group.append(image)
        if len(group) >= group_size(*image.shape[:2]):
            yield np.stack(group)
            group = []
    if group:
        yield np.stack(group)


def group_size(channels: int, resolution: int) -> int:
    return max(GROUP_BYTES // (channels * resolution * resolution), 1)


def one_hot(classes: Sequence[int] | np.ndarray, num_classes: int) -> np.ndarray:
    """One-hot labels (N, num_classes) float32 of N integers from 0 to num_classes - 1."""
    labels = np.zeros((len(classes), num_classes), dtype=np.float32)
    labels[np.arange(len(classes)), classes] = 1
    return labels


def check_count(place: AnyPath, found: int, expected: int, cure: str) -> None:
    """Raise UserError unless `expected` images were found; 0: any number."""
    if found != expected and expected:
        raise UserError(f'{place}: has {found} images, expected {expected}; {cure}, or --expected-images {found} '
                        'if that is meant')
