"""Import the small labelled datasets: MNIST, MNIST-RGB, CIFAR-10 and -100, SVHN, scikit-learn's digits.

Each importer reads the dataset's published files and returns images with one-hot labels.
"""

import contextlib
import gzip
import json
import math
import os
import pickle
import pickletools
import re
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import scipy.ndimage

from common.child import read_in_child
from common.errors import UserError
from common.files import AnyPath, check_regular, open_input
from data.archives import MAX_DEFLATION
from data.hdf5_format import is_power_of_two
from data.image_source import ImageSource, array_source, check_count, group_size, one_hot
from data.native_readers import MAT_MEMORY, mat_arrays

MNIST_IMAGES = {'train': 60000, 'test': 10000}
CIFAR_IMAGES = {'train': 50000, 'test': 10000}
SVHN_IMAGES = {'train': 73257, 'test': 26032, 'extra': 531131}
MAX_IDX_BYTES = 1 << 32     # EMNIST, the largest dataset in this format, has 0.6 GB.
DIGITS = tuple('0123456789')        # Class names.
CIFAR10_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
CIFAR100_NAMES = 'meta'              # The file of the class names.
CIFAR10_FILES = {'train': [f'data_batch_{number}' for number in range(1, 6)], 'test': ['test_batch']}


def choose_splits(split: str, images_of_splits: dict[str, int], expected_images: int | None) -> tuple[list[str], int]:
    """Names of the splits in `split`, such as 'train' or 'train+test', and their total number of images."""
    splits = split.split('+')
    if not set(splits) <= set(images_of_splits) or len(set(splits)) < len(splits):
        raise UserError(f'--split {split}: must be {" or ".join(images_of_splits)}, or several of these joined by '
                        '+')
    default = sum(images_of_splits[name] for name in splits)
    return splits, default if expected_images is None else expected_images


def find_file(folder: AnyPath, subdirs: tuple[str, ...], names: list[str], cure: str) -> str:
    """Path of the first of `names` that exists in a folder or in one of its `subdirs`."""
    for subdir in ('',) + subdirs:
        for name in names:
            path = os.path.join(folder, subdir, name)
            if os.path.isfile(path):
                return path
    raise UserError(f'{folder}: has no file {" or ".join(names)}; {cure}')


def check_classes(path: AnyPath, classes: Any, num_images: int, num_classes: int) -> np.ndarray:
    """Check class numbers, one for each image, and return them as an array of integers."""
    classes = np.asarray(classes)
    if classes.shape != (num_images,) or classes.dtype.kind not in 'iu' or not num_images \
            or classes.min() < 0 or classes.max() >= num_classes:
        raise UserError(f'{path}: must hold a class from 0 to {num_classes - 1} for each of {num_images} '
                        'images; download it again')
    return classes.astype(np.int64)


# ----------------------------------------------------------------------------------------------------------------------
# MNIST.


def mnist(mnist_dir: AnyPath, split: str = 'train', expected_images: int | None = None) -> ImageSource:
    """Import MNIST: handwritten digits, 28x28 grey, with a black border of 2 pixels: 32x32, 10 classes.

    Parameters
    ----------
    mnist_dir : str
        Folder of ``train-images-idx3-ubyte`` and so on, gzipped or not.
    split : str
        'train' (60000 images), 'test' (10000) or 'train+test'.
    expected_images : int, optional
        Required number of images; 0: any number. Default: the size of the published splits.

    Returns
    -------
    ImageSource

    Raises
    ------
    UserError
        A file is missing, cut off or of another kind, or the number of images is wrong.
    """
    splits, expected_images = choose_splits(split, MNIST_IMAGES, expected_images)
    parts, labels = zip(*[read_mnist(mnist_dir, {'test': 't10k'}.get(name, name), expected_images)
                          for name in splits], strict=True)
    check_count(mnist_dir, sum(map(len, parts)), expected_images, 'download it again')
    return array_source(parts, np.concatenate(labels), DIGITS)


def mnist_rgb(mnist_dir: AnyPath, num_images: int = 1000000, seed: int = 123,
              expected_images: int | None = None) -> ImageSource:
    """Import MNIST-RGB: three random digits of MNIST as the colour channels of an image, without labels.

    Used for the mode-recovery experiment of the paper.

    Parameters
    ----------
    mnist_dir, expected_images
        See :func:`mnist`; the digits come from its training images.
    num_images : int
    seed : int
        Seed of NumPy's generator, which draws the three digits of one image after the other.

    References
    ----------
    Appendix D of the paper; L. Metz et al.: Unrolled Generative Adversarial Networks, 2016.
    """
    if num_images < 1:
        raise UserError(f'--num-images {num_images}: must be at least 1')
    if not 0 <= seed < 2 ** 32:
        raise UserError(f'--seed {seed}: must be from 0 to 2^32 - 1')
    _splits, expected_images = choose_splits('train', MNIST_IMAGES, expected_images)
    digits, _labels = read_mnist(mnist_dir, 'train', expected_images)
    check_count(mnist_dir, len(digits), expected_images, 'download it again')
    chosen = np.random.RandomState(seed).randint(len(digits), size=(num_images, 3))
    step = group_size(3, 32)

    def read(start, stop):
        for first in range(start, stop, step):
            yield digits[chosen[first:min(first + step, stop)], 0]

    return ImageSource(num_images, 32, 3, read)


def read_mnist(mnist_dir: AnyPath, prefix: str, expected_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Read one split of MNIST, 'train' or 't10k': images (N, 1, 32, 32) uint8 and one-hot labels.

    Reads at most `expected_images`; 0: any number.
    """
    arrays = {}
    for kind, ndim in (('images', 3), ('labels', 1)):
        # The usual names, and those used in some archives.
        names = [f'{prefix}-{kind}{dash}idx{ndim}-ubyte{suffix}' for dash in '-.' for suffix in ('', '.gz')]
        path = find_file(mnist_dir, ('raw', os.path.join('MNIST', 'raw')), names,
                         'give the folder of the four files of MNIST')
        arrays[kind] = read_idx(path, ndim, expected_images)
    images = arrays['images']
    if images.shape[1:] != (28, 28):
        raise UserError(f'{mnist_dir}: the images of {prefix} are {images.shape[1]}x{images.shape[2]}, but those of '
                        'MNIST are 28x28')
    classes = check_classes(path, arrays['labels'], len(images), 10)
    return np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, np.newaxis], one_hot(classes, 10)


def read_idx(path: AnyPath, ndim: int, most_rows: int = 0) -> np.ndarray:
    """Read an array of bytes from an IDX file, gzipped or not, regardless of its name.

    Decompresses at most the size that the header claims. The claim is limited by the size of the file and by
    `most_rows` (0: no limit).
    """
    header_bytes = 4 + 4 * ndim
    try:
        with open_input(path) as file:
            is_gzip = file.read(2) == b'\x1f\x8b'
            most = min(file.seek(0, os.SEEK_END) * (MAX_DEFLATION if is_gzip else 1), MAX_IDX_BYTES)
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if is_gzip else contextlib.nullcontext(file) as stream:
                header = stream.read(header_bytes)
                if header[:4] != bytes([0, 0, 8, ndim]) or len(header) < header_bytes:
                    raise UserError(f'{path}: is not an IDX file of bytes with {ndim} axes; download it again')
                shape = [int(length) for length in np.frombuffer(header, '>u4', ndim, offset=4)]
                if shape[0] > most_rows:
                    check_count(path, shape[0], most_rows, 'download it again')
                claimed = math.prod(shape)
                if claimed > most:
                    raise UserError(f'{path}: claims {"x".join(map(str, shape))} = {claimed} bytes; a file of this '
                                    f'size may hold at most {most}; download it again')
                data = stream.read(claimed + 1)     # gzip verifies its checksum at the end.
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'{path}: is damaged or cut off ({error}); download it again') from error
    if len(data) != claimed:
        raise UserError(f'{path}: has {"more" if len(data) > claimed else header_bytes + len(data)} bytes, but its '
                        f'header claims {header_bytes + claimed}; download it again')
    return np.frombuffer(data, np.uint8).reshape(shape)


# ----------------------------------------------------------------------------------------------------------------------
# CIFAR.


def cifar10(cifar_dir: AnyPath, split: str = 'train', expected_images: int | None = None) -> ImageSource:
    """Import CIFAR-10: 32x32 RGB, 10 classes.

    Parameters
    ----------
    cifar_dir : str
        Folder ``cifar-10-batches-py``, or its parent folder.
    split, expected_images
        See :func:`mnist`; 50000 images for training, 10000 for testing.
    """
    splits, expected_images = choose_splits(split, CIFAR_IMAGES, expected_images)
    return cifar(cifar_dir, 'cifar-10-batches-py', sum([CIFAR10_FILES[name] for name in splits], []), 'labels', 10,
                 expected_images, CIFAR10_CLASSES)


def cifar100(cifar_dir: AnyPath, split: str = 'train', coarse: bool = False,
             expected_images: int | None = None) -> ImageSource:
    """Import CIFAR-100: 32x32 RGB, 100 classes, or 20 with `coarse`; otherwise like :func:`cifar10`.

    The class names come from the file ``meta`` in the folder.
    """
    splits, expected_images = choose_splits(split, CIFAR_IMAGES, expected_images)
    key, num_classes = ('coarse_labels', 20) if coarse else ('fine_labels', 100)
    return cifar(cifar_dir, 'cifar-100-python', splits, key, num_classes, expected_images,
                 cifar100_class_names(cifar_dir, key.replace('labels', 'label_names'), num_classes))


def cifar100_class_names(cifar_dir: AnyPath, key: str, num_classes: int) -> list[str] | None:
    """Class names of CIFAR-100; None, after a warning, if the file ``meta`` lacks them."""
    try:
        path = find_file(cifar_dir, ('cifar-100-python',), [CIFAR100_NAMES], 'it has the names of the classes')
        names = load_cifar_pickle(path).get(key)
        if isinstance(names, list) and len(names) == num_classes:
            return [_text(name) for name in names]
        problem = f'{path}: lacks {num_classes} {key}'
    except (UserError, ValueError) as error:
        problem = str(error)
    print(f'The classes have no names ({problem})')
    return None


def cifar(cifar_dir: AnyPath, subdir: str, names: list[str], label_key: str, num_classes: int,
          expected_images: int, class_names: Sequence[str] | None = None) -> ImageSource:
    parts, classes = [], []
    for name in names:
        path = find_file(cifar_dir, (subdir,), [name], f'give the folder {subdir}, unpacked from its .tar.gz')
        batch = load_cifar_pickle(path)
        images = batch.get('data')
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (3072,) \
                or label_key not in batch:
            raise UserError(f'{path}: must hold data, (N, 3072) uint8, and {label_key}; download it again')
        parts.append(images.reshape(-1, 3, 32, 32))
        classes.append(check_classes(path, batch[label_key], len(images), num_classes))
    check_count(cifar_dir, sum(map(len, parts)), expected_images, 'download it again')
    return array_source(parts, one_hot(np.concatenate(classes), num_classes), class_names)


def load_cifar_pickle(path: AnyPath) -> dict[str, Any]:
    """Read a dict from a pickle of arrays, lists, dicts, strings and numbers, without executing anything else.

    Raises
    ------
    UserError
        The file holds anything else, or is cut off.
    """
    try:
        with open(path, 'rb') as file:
            check_memo(file)
            content = _ArrayUnpickler(file, encoding='bytes').load()
            items = {_text(key): value for key, value in content.items()}
            return {key: value.array() if isinstance(value, _PickledArray) else value for key, value in items.items()}
    # Raised by Unpickler and the calls below for damaged or malicious files.
    except (pickle.UnpicklingError, OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, ImportError,
            MemoryError, OverflowError) as error:
        raise UserError(f'{path}: is not a pickle of CIFAR '
                        f'({(str(error).splitlines() or [type(error).__name__])[0]}); download it '
                        'again') from error


def check_memo(file: BinaryIO) -> None:
    """Raise pickle.UnpicklingError if an object number is absurdly large: Unpickler allocates a table of that size."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name in ('PUT', 'BINPUT', 'LONG_BINPUT') and (argument or 0) > size:
            raise pickle.UnpicklingError(f'object number {argument} at byte {position} of {size}')
    file.seek(0)


class _ArrayUnpickler(pickle.Unpickler):
    """Replaces NumPy's functions that build arrays, which trust their arguments, by the classes below."""

    def find_class(self, module, name):
        if module in ('numpy.core.multiarray', 'numpy._core.multiarray') and name == '_reconstruct':
            return _PickledArray
        if (module, name) in (('numpy', 'ndarray'), ('numpy', 'dtype')):
            return _PickledType
        if (module, name) == ('_codecs', 'encode'):     # Python 3's way to write bytes for Python 2.
            return _PickledBytes
        raise pickle.UnpicklingError(f'refers to {module}.{name}, which data never needs')


class _Pickled:
    """Base class. It has `__setstate__` so that a pickle cannot set attributes of the classes below."""

    def __init__(self, *args):
        self.args = args
        self.state = None

    def __setstate__(self, state):
        self.state = state


class _PickledType(_Pickled):
    """Stands for numpy.ndarray and for a dtype: arguments (name, align, copy), state (version, byte order, ...)."""

    def dtype(self):
        name = _text(self.args[0])
        if not re.fullmatch('[iu][1248]', name):
            raise ValueError(f'an array of type {name!r}')
        return np.dtype(name).newbyteorder(_text(self.state[1]))


class _PickledBytes(bytes):
    def __new__(cls, text, encoding):
        return bytes.__new__(cls, text, _text(encoding))

    def __setstate__(self, state):
        raise ValueError('bytes with a state')


class _PickledArray(_Pickled):
    """An array of integers; its state is (version, shape, dtype, is Fortran order, bytes)."""

    def array(self):
        _version, shape, dtype, fortran, data = self.state
        if not isinstance(dtype, _PickledType) or not isinstance(data, bytes):
            raise ValueError('an array of objects')
        return np.frombuffer(data, dtype.dtype()).reshape(shape, order='F' if fortran else 'C')


def _text(value):
    """Decode a string; strings of Python 2 are bytes."""
    if isinstance(value, bytes):
        return value.decode('latin1')
    if not isinstance(value, str):
        raise ValueError(f'{type(value).__name__} instead of a string')
    return value


# ----------------------------------------------------------------------------------------------------------------------
# SVHN.


def svhn(svhn_dir: AnyPath, split: str = 'train', expected_images: int | None = None) -> ImageSource:
    """Import Street View House Numbers, cropped digits: 32x32 RGB, 10 classes; class 0 is the digit 0.

    Keeps all images in memory; the split 'extra' needs 2 to 4 GB.

    Parameters
    ----------
    svhn_dir : str
        Folder of ``train_32x32.mat`` and so on.
    split : str
        'train' (73257 images), 'test' (26032), 'extra' (531131, easier), or for example 'train+extra'.
    expected_images : int, optional
        See :func:`mnist`.
    """
    splits, expected_images = choose_splits(split, SVHN_IMAGES, expected_images)
    parts, classes = zip(*[read_svhn(svhn_dir, name) for name in splits], strict=True)
    check_count(svhn_dir, sum(map(len, parts)), expected_images, 'download it again')
    return array_source(parts, one_hot(np.concatenate(classes), 10), DIGITS)


def read_svhn(svhn_dir: AnyPath, split: str) -> tuple[np.ndarray, np.ndarray]:
    path = find_file(svhn_dir, (), [split + '_32x32.mat'], 'give the folder of the cropped digits (format 2) of SVHN')
    images, classes = load_mat(path, ['X', 'y'])
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise UserError(f'{path}: X must hold (32, 32, 3, N) uint8, not {images.shape} {images.dtype}; download it '
                        'again')
    images = images.transpose(3, 2, 0, 1)
    classes = check_classes(path, np.ravel(classes), len(images), 11)
    return images, classes % 10     # The file stores the digit 0 as class 10.


def load_mat(path: str, names: list[str]) -> list[np.ndarray]:
    """Read arrays of a MATLAB file in another process, because a damaged file can crash SciPy's reader."""
    check_regular(path)
    arrays = []
    records = read_in_child(path, mat_arrays, path, names, max_memory=MAT_MEMORY)
    for (kind,) in records:
        dtype, shape = json.loads(bytes(kind))
        # Grows slice by slice, so that a false claim of size allocates nothing.
        content = bytearray()
        while slices := next(records):
            content += slices[0]
        arrays.append(np.frombuffer(content, dtype).reshape(shape, order='F'))
    return arrays


# ----------------------------------------------------------------------------------------------------------------------
# The digits in scikit-learn.


def digits(resolution: int = 16, margin: int | None = None) -> ImageSource:
    """Import the 1797 handwritten digits (8x8) of scikit-learn, smoothly enlarged, with one-hot labels.

    Deterministic: white on black, one channel, values 0 to 255.

    Parameters
    ----------
    resolution : int
        16, 32 or a larger power of two.
    margin : int, optional
        Empty pixels on each side. Default: an eighth of the resolution, which keeps strokes off the edge.

    Raises
    ------
    UserError
        `resolution` or `margin` is invalid, or scikit-learn is missing.

    References
    ----------
    E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """
    if not is_power_of_two(resolution) or resolution < 8:
        raise UserError(f'resolution={resolution!r}: must be a power of two, at least 8; use 16 or 32')
    margin = resolution // 8 if margin is None else margin
    if not 0 <= margin < resolution // 2:
        raise UserError(f'margin={margin!r}: must be from 0 to {resolution // 2 - 1} at a resolution of '
                        f'{resolution}')
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError('create_digits: needs scikit-learn, which contains the digits; '
                        'pip install scikit-learn') from error
    bundle = load_digits()

    def read(start, stop):
        for digit in bundle.images[start:stop]:
            yield enlarge_digit(digit, resolution, margin)[np.newaxis, np.newaxis]

    return ImageSource(len(bundle.images), resolution, 1, read, one_hot(bundle.target, 10), DIGITS)


def enlarge_digit(digit: np.ndarray, resolution: int, margin: int) -> np.ndarray:
    """Enlarge one digit, (8, 8) with values 0 to 16, to (resolution, resolution) float with values 0 to 255."""
    scale = (resolution - 2 * margin) / 8.0
    centers = (np.arange(resolution) + 0.5 - resolution / 2.0) / scale + 3.5
    grid = np.meshgrid(centers, centers, indexing='ij')
    # The spline continues into zeros, so that strokes at the edge of the 8x8 digit end softly in the margin.
    ink = scipy.ndimage.map_coordinates(digit / 16.0, grid, order=3, mode='grid-constant', cval=0.0)
    # More contrast removes some of the blur (each value of the 8x8 digit is the share of ink in 4x4 binary pixels) and
    # the ripples of the spline beside strokes.
    return ((ink - 1 / 6) * 1.5).clip(0, 1) * 255
