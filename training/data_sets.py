"""Locates the HDF5 file of an experiment's dataset, and suggests the command that makes a missing one."""

import glob
import os
import re

from common.errors import UserError, did_you_mean
from data.dataset import Dataset

# Substrings of a file name or an experiment's `desc`, and the command that makes the dataset. The first match counts.
CREATE_COMMANDS = (
    (('celebahq', 'celeba-hq'), 'create_celebahq {h5} CELEBA_DIR DELTA_DIR'),
    (('celeba',), 'create_celeba CELEBA_DIR {h5}'),
    (('lsun-bedroom', 'lsun-dog'), 'create_lsun LMDB_DIR {h5}'),
    (('lsun',), 'create_lsun LMDB_DIR {h5} --max-images 100000'),
    (('cifar100', 'cifar-100'), 'create_cifar100 CIFAR_DIR {h5}'),
    (('cifar',), 'create_cifar10 CIFAR_DIR {h5}'),
    (('mnist-rgb', 'mnistrgb', 'mnist-modes'), 'create_mnistrgb MNIST_DIR {h5}'),
    (('mnist',), 'create_mnist MNIST_DIR {h5}'),
    (('svhn',), 'create_svhn SVHN_DIR {h5}'),
    (('digits',), 'create_digits {h5}'),
    (('timing', 'figure4c'), 'create_synthetic {h5} --resolution 1024'),
)
LISTED_FILES = 5        # Existing files that an error message lists at most.


def data_path(h5_path: str | os.PathLike[str], data_dir: str) -> str:
    """The path of an experiment's dataset: `h5_path`, in `data_dir` unless it contains a folder already.

    If `data_dir` is 'datasets', then 'faces.h5' and 'datasets/faces.h5' are the same file.
    """
    h5_path = os.path.expanduser(os.fspath(h5_path))
    joined = os.path.join(data_dir, h5_path)
    if os.path.exists(joined):
        return joined
    folder, name = os.path.split(h5_path)
    if folder and os.path.normpath(folder) in (os.path.normpath(data_dir), os.path.basename(os.path.abspath(data_dir))):
        return os.path.join(data_dir, name)
    return h5_path if folder and os.path.exists(h5_path) else joined


def is_same_set(name: str, other: str) -> bool:
    """Whether two file names denote the same dataset in the spellings of the releases or ours.

    'cifar-10-32x32.h5' equals 'cifar10-32x32.h5', 'lsun-cat-256x256-100k.h5' equals 'lsun-cat-256x256.h5', and a
    folder 'celebahq' equals 'celeba-hq-1024x1024.h5'.
    """
    sets = []
    for text in (name, other):
        stem = re.sub(r'-\d+k$', '', os.path.splitext(text.lower())[0])
        size = ''.join(re.findall(r'\d+x\d+$', stem))
        sets.append((re.sub('[^a-z0-9]', '', stem.removesuffix(size)), size))
    (words, size), (other_words, other_size) = sets
    return words == other_words and (size == other_size or not (size and other_size))


def create_command(path: str, desc: str = '') -> str:
    """The command that makes a dataset: from TFRecords next to `path`, or chosen by the file name or `desc`."""
    folder = os.path.dirname(path) or '.'
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        records = os.path.join(folder, name)
        if is_same_set(name, os.path.basename(path)) and glob.glob(os.path.join(glob.escape(records), '*.tfrecords')):
            return f'python dataset_tool.py create_from_tfrecords {records} {path}'
    for text in (os.path.basename(path), desc):
        for names, command in CREATE_COMMANDS:
            if any(name in text.lower() for name in names):
                return 'python dataset_tool.py ' + command.format(h5=path)
    return f'python dataset_tool.py create_from_images IMAGE_DIR {path}'


def count_note(dataset: Dataset) -> str:
    """A note if the dataset has another number of images than the experiment's; '' otherwise."""
    expected, num = dataset.expected_images, dataset.num_images
    if expected is None or num == expected:
        return ''
    if num > expected:
        cure = f'--set dataset.max_images={expected} uses the first {expected}'
    else:
        cure = f'make the full one with {create_command(dataset.h5_path)}'
    return f"{dataset.h5_path}: {num} images; the paper's dataset has {expected}; {cure}"


def check_data_set(experiment: dict, data_dir: str) -> None:
    """Raise `UserError` if the dataset is missing and the experiment cannot make it."""
    path = data_path(experiment['dataset']['h5_path'], data_dir)
    if os.path.exists(path) or 'create_dataset' in experiment:
        return
    folder = os.path.dirname(path) or '.'
    there = sorted(name for name in os.listdir(folder) if name.endswith(('.h5', '.hdf5'))) if os.path.isdir(
        folder) else []
    same = [name for name in there if is_same_set(name, os.path.basename(path))]
    near = did_you_mean(os.path.basename(path), same, cutoff=0.0) or did_you_mean(os.path.basename(path), there)
    if there and not near:
        more = f' and {len(there) - LISTED_FILES} more' if len(there) > LISTED_FILES else ''
        near = f'; there are {", ".join(there[:LISTED_FILES])}{more}'
    raise UserError(f'dataset.h5_path={experiment["dataset"]["h5_path"]!r}: there is no {path}{near.rstrip("?")}'
                    f'{"?" if near.endswith("?") else ";"} make it with '
                    f'`{create_command(path, experiment.get("desc", ""))}`, or choose the folder with --data-dir')
