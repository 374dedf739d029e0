"""Import the multi-resolution TFRecords of the 2018 release without TensorFlow.

A dataset is a folder of ``NAME-r02.tfrecords`` (4x4), ``NAME-r03.tfrecords`` (8x8) and so on, with one record per
image, and ``NAME-rxx.labels``, a NumPy array. A record is a ``tf.train.Example`` in protocol buffer encoding, framed by
its length and by checksums (CRC-32C), with the features ``shape``, (C, H, W), and ``data``, the pixels.

References
----------
https://www.tensorflow.org/tutorials/load_data/tfrecord (framing), https://protobuf.dev/programming-guides/encoding
"""

import math
import os
import re
import struct
from collections.abc import Iterator
from typing import IO

import numpy as np

from common.arrays import read_array
from common.errors import UserError, one_line
from common.files import AnyPath, open_input
from common.options import short_repr
from data.hdf5_format import as_labels, is_power_of_two
from data.image_source import ImageSource, grouped

Buffer = bytes | memoryview

HEADER = struct.Struct('<QI')       # Length of the data, and the masked checksum of the length.
FOOTER = struct.Struct('<I')        # Masked checksum of the data.
MAX_RECORD_BYTES = 1 << 30          # 16384x16384 RGB takes 0.8 GB, the largest images of the 2018 release 3 MB.
COMPARED_IMAGES = 8                 # Number of images of each coarser level to compare with the finest level.


def tfrecords(tfrecord_dir: AnyPath) -> ImageSource:
    """Import the images of the finest level of a dataset of the 2018 release, and its labels.

    The coarser levels are recomputed from the finest. Those in the folder must have as many images, and a few of their
    images are compared; differences and missing levels are reported but do not matter.

    Parameters
    ----------
    tfrecord_dir : str
        Folder, or the file of the finest level if the folder holds several datasets.

    Returns
    -------
    ImageSource

    Raises
    ------
    UserError
        The files are missing, damaged, cut off or of another kind, or the folder holds several datasets.
    """
    levels, label_paths = find_files(tfrecord_dir)
    finest_lod = max(levels)
    path = levels[finest_lod]
    offsets = index_records(path)
    with open_input(path) as file:
        channels, resolution, _ = shape = read_image(file, path, offsets, 0).shape
    if channels not in (1, 3) or resolution != shape[2] or resolution != 2 ** finest_lod:
        raise UserError(f'{path}: the images have the shape {shape}; the name requires (1 or 3, {2 ** finest_lod}, '
                        f'{2 ** finest_lod})')
    missing = [f'r{lod:02d}' for lod in range(2, finest_lod) if lod not in levels]
    if missing and len(levels) > 1:
        print(f'{tfrecord_dir}: missing, but not needed: {", ".join(missing)}')
    for lod in sorted(set(levels) - {finest_lod}):
        compare_level(levels[lod], path, offsets)

    def read_in_order(start, stop):
        with open_input(path) as file:
            for number in range(start, stop):
                yield read_image(file, path, offsets, number, shape)

    return ImageSource(len(offsets), resolution, channels,
                       lambda start, stop: grouped(read_in_order(start, stop)), read_labels(label_paths, len(offsets)))


def find_files(tfrecord_dir: AnyPath) -> tuple[dict[int, str], list[str]]:
    """Find the files of a dataset: paths by the NN of ``-rNN.tfrecords``, and a list of the paths of its labels."""
    folder, only = os.path.split(tfrecord_dir) if os.path.isfile(tfrecord_dir) else (tfrecord_dir, None)
    try:
        names = sorted(os.listdir(folder or '.'))
    except OSError as error:
        raise UserError(f'TFRECORD_DIR={tfrecord_dir!r}: cannot be read ({error.strerror}); give the folder of '
                        'the .tfrecords files') from error
    matches = list(filter(None, map(re.compile(r'(.+)-r(\d\d)\.tfrecords').fullmatch, [only] if only else names)))
    prefixes = sorted({match[1] for match in matches})
    if not matches:
        raise UserError(f'TFRECORD_DIR={tfrecord_dir!r}: has no files like NAME-r08.tfrecords; give the folder of '
                        'the dataset')
    if len(prefixes) > 1:
        raise UserError(f'TFRECORD_DIR={tfrecord_dir!r}: has several datasets, {", ".join(prefixes)}; give the '
                        'finest .tfrecords file of one')
    label_names = [name for name in names
                   if name.endswith('.labels') and (not only or name.startswith(prefixes[0] + '-'))]
    return ({int(match[2]): os.path.join(folder, match[0]) for match in matches},
            [os.path.join(folder, name) for name in label_names])


def compare_level(path: str, finest_path: str, finest_offsets: np.ndarray) -> None:
    """Check that a coarser level has as many images, and print how much it differs from the average of the finest."""
    offsets = index_records(path)
    if len(offsets) != len(finest_offsets):
        raise UserError(f'{path}: has {len(offsets)} images, but {finest_path} has {len(finest_offsets)}; copy or '
                        'download the folder again, or give only the file of the finest level')
    difference = 0
    with open_input(path) as file, open_input(finest_path) as finest_file:
        for number in np.unique(np.linspace(0, len(offsets) - 1, COMPARED_IMAGES).astype(int)):
            image = read_image(file, path, offsets, number).astype(float)
            finest = read_image(finest_file, finest_path, finest_offsets, number).astype(float)
            channels, height, width = image.shape
            factor = finest.shape[1] // max(height, 1)
            if finest.shape != (channels, height * factor, width * factor):
                raise UserError(f'{path}: the images have the shape {image.shape}, which is not a fraction of the '
                                f'{finest.shape} of {finest_path}; move the file away')
            average = finest.reshape(channels, height, factor, width, factor).mean(axis=(2, 4))
            difference = max(difference, np.abs(average - image).max())
    # Differences of 1 come from rounding, and from rounding sums to float32.
    if difference > 1:
        print(f'{path}: differs from the averages of {finest_path} by up to {difference:.0f}; the averages are used')


def read_labels(paths: list[str], num_images: int) -> np.ndarray | None:
    """Read one-hot labels (num_images, label_size) float32 from the file in `paths`; None if it is empty."""
    if not paths:
        return None
    if len(paths) > 1:
        raise UserError(f'{", ".join(paths)}: several files of labels; keep one and move the others away')
    path = paths[0]
    labels = read_array(path, 'copy or download it again, or move it away to import without labels')
    if labels.ndim != 2 or labels.dtype.kind not in 'fiub' or len(labels) != num_images:
        raise UserError(f'{path}: must hold one row of labels for each of {num_images} images, not '
                        f'{labels.shape!s:.80} {labels.dtype!s:.40}; move it away to import without labels')
    return as_labels(labels) if labels.shape[1] else None


# ----------------------------------------------------------------------------------------------------------------------
# Records.


def index_records(path: str) -> np.ndarray:
    """Offsets of the records of a file in bytes, (N,) int64. Reads only the lengths, and verifies their checksums."""
    offsets = []
    try:
        size, offset = os.path.getsize(path), 0
        with open_input(path) as file:
            while offset < size:
                offsets.append(offset)
                length = read_length(file, path, len(offsets) - 1)
                offset += HEADER.size + length + FOOTER.size
                if offset > size:
                    raise cut_off(path, len(offsets) - 1)
                if length > MAX_RECORD_BYTES:
                    raise UserError(f'{path}: record {len(offsets) - 1} claims {length} bytes; the limit is '
                                    f'{MAX_RECORD_BYTES}; this is not a dataset of the 2018 release')
                file.seek(offset)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    if not offsets:
        raise UserError(f'{path}: is empty; copy or download it again')
    return np.array(offsets, dtype=np.int64)


def read_length(file: IO[bytes], path: str, number: int) -> int:
    """Read the length in bytes of the record at the current position of `file`."""
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise cut_off(path, number)
    length, checksum = HEADER.unpack(header)
    if masked_crc32c(header[:8]) != checksum:
        raise UserError(f'{path}: is damaged at the start of record {number}, or is not a TFRecord file (compressed '
                        'files are not supported); copy or download it again')
    return length


def read_image(file: IO[bytes], path: str, offsets: np.ndarray, number: int,
               expected_shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Read image `number`, (C, H, W) uint8, from an open file."""
    file.seek(offsets[number])
    length = read_length(file, path, number)
    data, footer = file.read(length), file.read(FOOTER.size)
    if len(data) < length or len(footer) < FOOTER.size:
        raise cut_off(path, number)
    if masked_crc32c(data) != FOOTER.unpack(footer)[0]:
        raise UserError(f'{path}: record {number} is damaged (wrong checksum); copy or download it again')
    try:
        features = parse_example(data)
        shape, pixels = tuple(features['shape']), b''.join(features['data'])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path}: record {number} is not an image ({one_line(error)}); this is not a dataset of the '
                        '2018 release') from error
    is_shape = len(shape) == 3 and all(isinstance(length, int) and length > 0 for length in shape)
    if not is_shape or len(pixels) != math.prod(shape) or not is_power_of_two(shape[1]) \
            or shape != (expected_shape or shape):
        raise UserError(f'{path}: record {number} has {len(pixels)} bytes and the shape {short_repr(shape)}; expected '
                        f'bytes of the shape {expected_shape or "(C, H, W), H a power of two"}')
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def cut_off(path: str, number: int) -> UserError:
    return UserError(f'{path}: is cut off in record {number}; copy or download it again')


def masked_crc32c(data: bytes) -> int:
    """Checksum of the TFRecord format: CRC-32C, rotated right by 15 bits, plus a constant."""
    try:
        import google_crc32c
    except ImportError as error:
        raise UserError('create_from_tfrecords: needs the package google-crc32c for checksums; '
                        'pip install google-crc32c') from error
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


# ----------------------------------------------------------------------------------------------------------------------
# Protocol buffers: only the parts that tf.train.Example needs.


def parse_example(data: bytes) -> dict[str, list]:
    """Features of a serialized ``tf.train.Example`` by name: lists of bytes or of int; other kinds are skipped.

    Example has `features` = 1; Features has the map `feature` = 1, entries with `key` = 1 and `value` = 2; Feature has
    one of `bytes_list` = 1, `float_list` = 2, `int64_list` = 3; each list has the repeated `value` = 1.

    Raises
    ------
    ValueError
        `data` is not such a message.
    """
    parsed: dict[str, list] = {}
    for features in submessages(data, 1):
        for entry in submessages(features, 1):
            name = b''.join(map(bytes, submessages(entry, 1))).decode()
            for feature in submessages(entry, 2):
                for bytes_list in submessages(feature, 1):
                    parsed[name] = [bytes(value) for value in submessages(bytes_list, 1)]
                for int64_list in submessages(feature, 3):
                    parsed[name] = [number for _, value in fields(int64_list) for number in integers(value)]
    return parsed


def submessages(buffer: Buffer, number: int) -> Iterator[memoryview]:
    """Fields with a given number, which must be length-delimited."""
    for field_number, value in fields(buffer):
        if field_number == number:
            if isinstance(value, int):
                raise ValueError(f'field {number} is not length-delimited')
            yield value


def fields(buffer: Buffer) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field of a message; the value is an int, or a memoryview if length-delimited."""
    value: int | memoryview
    buffer, position = memoryview(buffer), 0
    while position < len(buffer):
        key, position = varint(buffer, position)
        wire_type = key & 7
        if wire_type == 0:
            value, position = varint(buffer, position)
        else:
            if wire_type == 2:
                length, position = varint(buffer, position)
            elif wire_type in (1, 5):
                length = {1: 8, 5: 4}[wire_type]
            else:
                raise ValueError(f'unknown wire type {wire_type}')
            value, position = buffer[position:position + length], position + length
            if position > len(buffer):
                raise ValueError('a field is longer than its message')
        yield key >> 3, value


def integers(value: int | memoryview) -> list[int]:
    """The int64 values of a repeated field: one, or several packed into one field."""
    if isinstance(value, int):
        numbers = [value]
    else:
        numbers, position = [], 0
        while position < len(value):
            number, position = varint(value, position)
            numbers.append(number)
    return [number - (1 << 64) if number >> 63 else number for number in numbers]


def varint(buffer: Buffer, position: int) -> tuple[int, int]:
    """Decode a varint to (number, next position): 7 bits per byte, lowest first; the 8th bit marks continuation."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(buffer):
            raise ValueError('a number is cut off')
        byte = buffer[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number & (1 << 64) - 1, position
    raise ValueError('a number has more than 10 bytes')
