"""Write a multi-resolution HDF5 file, see `hdf5_format`; it gets its final name when complete, after its labels."""

import collections
import concurrent.futures
import contextlib
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from common.arrays import write_array
from common.errors import UserError
from common.files import AnyPath, publish, remove_stale_temporaries, temporary_path
from common.machine import num_cores
from data import hdf5_format

Contents = list[list[bytes | bytearray] | np.ndarray]      # Levels of some images, see make_levels.

zlib_compress: Callable[[Any, int], bytes | bytearray] = zlib.compress
with contextlib.suppress(ImportError):
    # libdeflate takes a quarter to half the time of zlib, for files that are 0.5 to 1 % larger.
    from deflate import zlib_compress as libdeflate_compress
    zlib_compress = libdeflate_compress

COMPRESSION_LEVEL = 4       # gzip level, as in the 2017 release; readers do not depend on it.
GROUP_BYTES = 1 << 20       # Images are averaged, compressed and written in groups of about this size.


def compress(pixels: np.ndarray) -> bytes | bytearray:
    """Compress a contiguous chunk, (..., r, r) uint8, as HDF5's gzip filter does; other threads keep running."""
    return zlib_compress(pixels, COMPRESSION_LEVEL)


class HDF5Writer:
    """Writes a multi-resolution HDF5 file; use it as ``with HDF5Writer(...) as writer: writer.add_images(...)``.

    The file gets its final name at the end of the block. An exception, including Ctrl-C, leaves nothing behind; a kill
    leaves a file whose name ends in ``.tmp``, which the next writer of the same file removes.

    Threads average and compress the images, which are written in order: the same images give the same bytes for any
    number of threads and any division of the images into calls.

    Parameters
    ----------
    h5_path : str
        Missing folders are created.
    resolution : int
        A power of two.
    channels : int
        1 or 3.
    labels : ndarray, shape (N, label_size), optional
        One-hot labels of all images that will be added; stored as float32.
    force : bool
        Replace an existing file and its labels.
    shard : (int, int), optional
        The file is shard I of N of a dataset; stored in the file for data.shards.merge.
    num_threads : int, optional
        Default: one per processor core. Each takes about 40 MB at 1024x1024, 10 MB below 512x512.
    class_names : list of str, optional
        Names of the columns of `labels`.

    Raises
    ------
    UserError
        The file exists or cannot be written, or `resolution` or `channels` is invalid.
    """

    def __init__(self, h5_path: AnyPath, resolution: int, channels: int, labels: np.ndarray | None = None,
                 force: bool = False, shard: tuple[int, int] | None = None, num_threads: int | None = None,
                 class_names: Sequence[str] | None = None) -> None:
        self.h5_path = os.fspath(h5_path)
        self.resolution = resolution
        self.channels = channels
        self.num_images = 0
        self.labels = None if labels is None else np.asarray(labels, dtype=np.float32)
        self.class_names = class_names
        self.pending: list[np.ndarray] = []     # Images not yet submitted to a thread, (n, C, H, H) each.
        # Levels of groups of images, computed in threads, in order.
        self.groups: collections.deque[concurrent.futures.Future[Contents]] = collections.deque()
        if not hdf5_format.is_power_of_two(resolution):
            raise UserError(f'resolution={resolution!r}: must be a power of two')
        if channels not in (1, 3):
            raise UserError(f'channels={channels!r}: must be 1 (grey) or 3 (RGB)')
        refuse_existing(self.h5_path, labels is not None, force)
        self.group_images = max(GROUP_BYTES // (channels * resolution ** 2), 1)
        self.num_threads = num_threads or num_cores()
        self.executor = concurrent.futures.ThreadPoolExecutor(self.num_threads, 'hdf5 writer')
        self.temporary = temporary_path(self.h5_path)
        with self.reported_errors():
            os.makedirs(os.path.dirname(self.h5_path) or '.', exist_ok=True)
            finish_publishing(self.h5_path)
            for path in (self.h5_path, hdf5_format.labels_path(self.h5_path)):
                for stale in remove_stale_temporaries(path):
                    print(f'Removed {stale}, left behind by a writer that was killed')
            self.file = _OutputFile(self.temporary, 'x+')
            self.h5 = h5py.File(self.file, 'w')
            self.levels = [_LevelWriter(self.h5, channels, resolution >> lod) for lod in range(resolution.bit_length())]
            if shard is not None:
                self.h5.attrs[hdf5_format.SHARD_ATTRIBUTE] = shard

    @contextlib.contextmanager
    def reported_errors(self) -> Iterator[None]:
        try:
            yield
            if self.file.error:
                raise self.file.error
        except OSError as error:
            raise UserError(f'h5_path={self.h5_path!r}: cannot be written ({error.strerror or error}); choose '
                            'another folder or free some space') from error

    def __enter__(self) -> 'HDF5Writer':
        return self

    def __exit__(self, error_type: type[BaseException] | None, _error: BaseException | None,
                 _trace: TracebackType | None) -> None:
        try:
            if error_type is None:
                self.finish()
        finally:
            self.discard()

    def add_images(self, images: np.ndarray) -> None:
        """Append images.

        Parameters
        ----------
        images : ndarray, shape (N, C, H, W), uint8 or float in [0, 255]
            H = W is the resolution or a larger power of two, which is averaged down.
        """
        if images.ndim != 4 or images.shape[1] != self.channels or images.shape[2] != images.shape[3] \
                or not hdf5_format.is_power_of_two(images.shape[2]) or images.shape[2] < self.resolution:
            raise ValueError(f'images of shape {images.shape}: need [N, {self.channels}, {self.resolution}, '
                             f'{self.resolution}] or a larger power of two')
        while len(images):
            # Fixed group sizes, so that the file does not depend on how images are divided into calls.
            head, images = np.split(images, [self.group_images - self.num_images % self.group_images])
            self.pending.append(head.copy())
            self.num_images += len(head)
            if self.num_images % self.group_images == 0:
                self.submit_pending()

    def submit_pending(self) -> None:
        if self.pending:
            self.submit(make_levels, self.pending, [level.chunk_images for level in self.levels])
            self.pending = []

    def add_group(self, num_images: int, function: Callable[..., Contents], *args: Any) -> None:
        """Append `group_images` images, or fewer at the end only, whose levels a thread computes.

        Parameters
        ----------
        num_images : int
        function : callable
            ``function(*args)`` returns levels like :func:`make_levels`.
        """
        self.num_images += num_images
        self.submit(function, *args)

    def submit(self, function: Callable[..., Contents], *args: Any) -> None:
        self.groups.append(self.executor.submit(function, *args))
        while len(self.groups) > self.num_threads + 1:
            self.write_group()

    def write_group(self) -> None:
        contents = self.groups.popleft().result()
        with self.reported_errors():
            for level, content in zip(self.levels, contents, strict=True):
                level.append(content)

    def finish(self) -> None:
        """Complete the files and rename them to their final names."""
        self.submit_pending()
        while self.groups:
            self.write_group()
        if not self.num_images:
            raise UserError(f'h5_path={self.h5_path!r}: no images were added')
        if self.labels is not None and (self.labels.ndim != 2 or len(self.labels) != self.num_images):
            raise ValueError(f'labels of shape {self.labels.shape}: need one row for each of the {self.num_images} '
                             'images')
        with self.reported_errors():
            hdf5_format.set_label_attributes(self.h5, self.h5_path, self.labels, self.class_names)
            for level in self.levels:
                level.finish()
            self.h5.close()
            os.fsync(self.file.fileno())
        with self.reported_errors():
            publish_dataset(self.temporary, self.h5_path, self.labels)
        print(f'Wrote {self.num_images} images to {self.h5_path}')

    def discard(self) -> None:
        """Close and delete the unfinished file."""
        self.executor.shutdown(cancel_futures=True)
        self.h5.close()
        self.file.close()
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.temporary)


class _LevelWriter:
    """Appends to one level, chunk by chunk, bypassing HDF5's own filter."""

    def __init__(self, h5, channels, res):
        shape = (channels, res, res)
        # Smaller chunks than 128 bytes would cost more in the index than in the data.
        self.chunk_images = -(-128 // (channels * res * res))
        self.level = h5.create_dataset(f'data{res}x{res}', shape=(0,) + shape, dtype=np.uint8,
                                       maxshape=(None,) + shape, chunks=(self.chunk_images,) + shape,
                                       compression='gzip', compression_opts=COMPRESSION_LEVEL, track_times=False)
        self.num_images = 0
        self.pending = np.zeros((0,) + shape, dtype=np.uint8)   # Images of a chunk that is not full yet.

    def append(self, content):
        """Write chunks, or images (n, C, r, r) uint8 if chunks hold several images."""
        if self.chunk_images == 1:
            self.write_chunks(content, len(content))
            return
        pending = np.concatenate([self.pending, content])
        full, self.pending = np.split(pending, [len(pending) // self.chunk_images * self.chunk_images])
        chunks = full.reshape((-1,) + self.level.chunks)
        self.write_chunks(map(compress, chunks), len(full))

    def write_chunks(self, chunks, num_images):
        start = self.num_images
        self.num_images += num_images
        self.level.resize(self.num_images, axis=0)
        for number, chunk in enumerate(chunks):
            self.level.id.write_direct_chunk((start + number * self.chunk_images, 0, 0, 0), chunk)

    def finish(self):
        """Write the last chunk, padded with zeros."""
        if len(self.pending):
            chunk = np.zeros(self.level.chunks, dtype=np.uint8)
            chunk[:len(self.pending)] = self.pending
            self.write_chunks([compress(chunk)], len(self.pending))
            self.pending = self.pending[:0]


def make_levels(groups: list[np.ndarray], chunk_images: list[int]) -> Contents:
    """All levels of some images: each is the average of the unrounded finer level, rounded half to even.

    Parameters
    ----------
    groups : list of ndarray, (n, C, H, H) each, uint8 or float
        H may differ.
    chunk_images : list of int
        Number of images in a chunk of each level, finest first.

    Returns
    -------
    list of (list of bytes or ndarray)
        For each level the compressed chunks, one per image, or (N, C, r, r) uint8 if chunks hold several images.
    """
    resolution = 1 << (len(chunk_images) - 1)
    images = np.concatenate([shrink(images.astype(np.float32), resolution) for images in groups])
    contents = []
    for lod, chunk_size in enumerate(chunk_images):
        if lod > 0:
            images = halve(images)
        pixels = np.rint(images)
        pixels = np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)
        contents.append([compress(image) for image in pixels] if chunk_size == 1 else pixels)
    return contents


def publish_dataset(temporary: str, h5_path: AnyPath, labels: np.ndarray | None) -> None:
    """Rename a finished file and its labels to their final names, replacing an old file and its labels.

    At every moment either the old or the new file exists, and its attributes identify its labels, see
    :func:`data.hdf5_format.find_labels`, which also finds the new file's labels under their temporary name.
    """
    labels_path = hdf5_format.labels_path(h5_path)
    temporary_labels, is_published = temporary_path(labels_path), False
    try:
        if labels is not None:
            with open(temporary_labels, 'xb') as labels_file:
                write_array(labels_file, labels)
                labels_file.flush()
                os.fsync(labels_file.fileno())
        publish(temporary, h5_path, and_folder=labels is None)
        is_published = True
        if labels is not None:
            publish(temporary_labels, labels_path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.remove(labels_path)
    finally:
        if not is_published:    # Otherwise they belong to the new file.
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary_labels)


def finish_publishing(h5_path: AnyPath) -> None:
    """Complete the last step of a killed writer: rename the labels, before they count as stale."""
    if not os.path.isfile(h5_path):
        return
    with contextlib.suppress(UserError):
        h5, _levels = hdf5_format.open_levels(h5_path)
        with h5, contextlib.redirect_stdout(None):
            found = hdf5_format.find_labels(h5, h5_path)
        labels_path = hdf5_format.labels_path(h5_path)
        if found is not None and os.path.basename(found).startswith(os.path.basename(labels_path) + '.'):
            publish(found, labels_path)


class _OutputFile(io.FileIO):
    """The file that HDF5 writes to. It hides errors from HDF5, which crashes the process if it cannot write on closing.

    Attributes
    ----------
    error : OSError or None
        The first error; later writes do nothing.
    """

    error = None

    def write(self, data):
        data = memoryview(data).cast('B')
        done = 0
        while done < len(data) and self.error is None:
            try:
                done += super().write(data[done:])
            except OSError as error:
                self.error = error
        return len(data)

    def truncate(self, size=None):
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size


def refuse_existing(h5_path: AnyPath, with_labels: bool = False, force: bool = False) -> None:
    """Raise UserError if `h5_path`, with or without labels, exists and `force` is not set."""
    if os.path.exists(h5_path) and not force:
        raise UserError(f'{h5_path}: exists; choose another name, or add --force to replace it and its labels')
    if os.path.exists(hdf5_format.labels_path(h5_path)) and not with_labels and not force:
        raise UserError(f'{hdf5_format.labels_path(h5_path)}: exists and would pass for the labels of the new '
                        'dataset; move it, or add --force to delete it')


def shrink(images: np.ndarray, resolution: int) -> np.ndarray:
    """Halve float images down to a resolution."""
    while images.shape[2] > resolution:
        images = halve(images)
    return images


def halve(images: np.ndarray) -> np.ndarray:
    """Averages of 2x2 pixels: (N, C, H, W) float -> (N, C, H / 2, W / 2)."""
    return (images[:, :, 0::2, 0::2] + images[:, :, 0::2, 1::2] +
            images[:, :, 1::2, 0::2] + images[:, :, 1::2, 1::2]) * images.dtype.type(0.25)
