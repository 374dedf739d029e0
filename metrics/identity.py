"""What a result of a metric depends on, as digests of contents: files, networks, the reals."""

import hashlib
import json
import os
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import AnyPath, open_input
from data.dataset import Dataset
from nets.network import Network

DIGITS = 16                     # Hexadecimal, of a digest.
WHOLE_BYTES = 1 << 27           # Images that take up to so much are digested whole...
SAMPLE_IMAGES = 64              # ...of more: all small copies that take less, and so many in full.
READ_IMAGES = 256               # At a time.
OF_VALUES = 'values-'           # Begins the digest of a network that is in no file.


def of_json(document: Any) -> str:
    """The digest of plain data."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:DIGITS]


def of_file(path: AnyPath) -> str:
    """The digest of a file's content."""
    digest = hashlib.sha256()
    with open_input(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]


def of_network(network: Network) -> str:
    """The digest of a network's build function and values."""
    digest = hashlib.sha256(json.dumps([network.func_name, network.static_kwargs], sort_keys=True,
                                       default=str).encode())
    for name, var in network.vars.items():
        _add_array(digest, name, var.get_value(borrow=True))
    return OF_VALUES + digest.hexdigest()[:DIGITS]


def of_dataset(dataset: Dataset) -> str:
    """The digest of the reals that a data set gives, and of their labels.

    Where the file lies does not count, nor how it is compressed, nor when it was written. The images themselves are
    digested as far as :data:`WHOLE_BYTES` goes. In larger files that are all copies of lower resolution, each of which
    is made of the finer ones, and some images in full.
    """
    facts = [list(dataset.shape), int(dataset.num_images), bool(dataset.mirror_augment)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    _add_array(digest, 'labels', dataset.labels)
    resolution = dataset.resolution
    rows = np.arange(dataset.num_images) if dataset.chosen is None else dataset.chosen[:dataset.num_images]
    finest = dataset.h5[f'data{resolution}x{resolution}']
    if _image_bytes(finest) * len(rows) > WHOLE_BYTES:
        _add_images(digest, finest, rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE_IMAGES).astype(np.int64))])
    while _image_bytes(finest) * len(rows) > WHOLE_BYTES and resolution > 1:
        resolution //= 2
        finest = dataset.h5[f'data{resolution}x{resolution}']
    _add_images(digest, finest, rows)
    return digest.hexdigest()[:DIGITS]


def of_weights(path: AnyPath | None) -> str | None:
    """The digest of a file of weights; None if there is no such file."""
    return of_file(path) if path is not None and os.path.isfile(path) else None


def _image_bytes(level):
    return int(np.prod(level.shape[1:]))


def _add_images(digest, level, rows):
    digest.update(f'{level.shape[1:]}'.encode())
    for begin in range(0, len(rows), READ_IMAGES):
        part = rows[begin:begin + READ_IMAGES]      # Rising, as HDF5 wants it.
        is_block = part[-1] - part[0] + 1 == len(part)
        try:
            images = level[part[0]:part[-1] + 1] if is_block else level[part]
        except OSError as error:
            raise UserError('%s: images %d to %d at %dx%d cannot be read (%s); make or copy the file again' % (
                level.file.filename, part[0], part[-1], *level.shape[2:], str(error).splitlines()[0])) from error
        digest.update(np.ascontiguousarray(images))


def _add_array(digest, name, array):
    digest.update(f'{name} {array.dtype.str} {array.shape}'.encode())
    digest.update(np.ascontiguousarray(array))
