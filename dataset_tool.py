"""Make and inspect datasets. ``python dataset_tool.py COMMAND --help`` explains each command."""

import common.starting  # noqa: F401  (handles Ctrl-C during the imports)

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from common.errors import exit_status
from common.options import (
    FilePath,
    NonNegativeInt,
    PositiveInt,
    PowerOfTwo,
    Seed,
    Shard,
    Text,
    check_command_line,
    check_value,
    option_name,
)
from data import celebahq_files, image_folder, labelled_sets, lsun, synthetic, tfrecords
from data.celebahq import SIZE as CELEBAHQ_SIZE
from data.hdf5_writer import HDF5Writer, refuse_existing
from data.image_source import create
from data.inspection import compare, display, extract, inspect
from data.pictures import FORMATS
from data.shards import merge, parse_shard

Argument = tuple[str, dict[str, Any]]       # Name, keyword arguments of add_argument.
Commands: TypeAlias = 'argparse._SubParsersAction[argparse.ArgumentParser]'

# ----------------------------------------------------------------------------------------------------------------------
# Making datasets. The importers document the arguments; `writing` are those of image_source.write_dataset.


def create_mnist(h5_path: FilePath, mnist_dir: FilePath, split: Text = 'train',
                 expected_images: NonNegativeInt | None = None, **writing: Any) -> None:
    """Make a dataset from MNIST, see :func:`data.labelled_sets.mnist`."""
    create(h5_path, labelled_sets.mnist, mnist_dir, split, expected_images, **writing)


def create_mnistrgb(h5_path: FilePath, mnist_dir: FilePath, num_images: PositiveInt = 1000000, seed: Seed = 123,
                    expected_images: NonNegativeInt | None = None, **writing: Any) -> None:
    """Make a dataset from triples of MNIST digits, see :func:`data.labelled_sets.mnist_rgb`."""
    create(h5_path, labelled_sets.mnist_rgb, mnist_dir, num_images, seed, expected_images, **writing)


def create_cifar10(h5_path: FilePath, cifar_dir: FilePath, split: Text = 'train',
                   expected_images: NonNegativeInt | None = None, **writing: Any) -> None:
    """Make a dataset from CIFAR-10, see :func:`data.labelled_sets.cifar10`."""
    create(h5_path, labelled_sets.cifar10, cifar_dir, split, expected_images, **writing)


def create_cifar100(h5_path: FilePath, cifar_dir: FilePath, split: Text = 'train', coarse: bool = False,
                    expected_images: NonNegativeInt | None = None, **writing: Any) -> None:
    """Make a dataset from CIFAR-100, see :func:`data.labelled_sets.cifar100`."""
    create(h5_path, labelled_sets.cifar100, cifar_dir, split, coarse, expected_images, **writing)


def create_svhn(h5_path: FilePath, svhn_dir: FilePath, split: Text = 'train',
                expected_images: NonNegativeInt | None = None, **writing: Any) -> None:
    """Make a dataset from Street View House Numbers, see :func:`data.labelled_sets.svhn`."""
    create(h5_path, labelled_sets.svhn, svhn_dir, split, expected_images, **writing)


def create_lsun(h5_path: FilePath, lmdb_dir: FilePath, resolution: PowerOfTwo = 256,
                max_images: PositiveInt | None = None, **writing: Any) -> None:
    """Make a dataset from a category of LSUN, see :func:`data.lsun.lsun`."""
    create(h5_path, lsun.lsun, lmdb_dir, resolution, max_images, **writing)


def create_celeba(h5_path: FilePath, celeba_dir: FilePath, cx: NonNegativeInt = 89, cy: NonNegativeInt = 121,
                  expected_images: NonNegativeInt | None = None, **writing: Any) -> None:
    """Make a dataset from CelebA at 128x128, see :func:`data.image_folder.celeba`."""
    create(h5_path, image_folder.celeba, celeba_dir, cx, cy, expected_images, **writing)


def create_celebahq(h5_path: FilePath, celeba_dir: FilePath, delta_dir: FilePath, force: bool = False,
                    shard: Shard | None = None, **options: Any) -> None:
    """Make CelebA-HQ, 30 000 faces in 1024x1024, each with its published MD5.

    Parameters
    ----------
    h5_path : str
        File to write. Until it is complete, the folder ``H5.images`` stores the finished images.
    celeba_dir : str
        CelebA "in the wild": ``img_celeba/*.jpg`` and ``Anno/list_landmarks_celeba.txt``.
    delta_dir : str
        ``image_list.txt`` and ``deltas*.zip``.
    force : bool
        Replace an existing file; without `resume`, discard finished images and start over.
    shard : (int, int), optional
        Make only shard I of N of the images.
    **options
        indices, num_images, num_processes, resume, skip_bad, save_stages: see
        :func:`data.celebahq_files.make_celebahq`.

    Raises
    ------
    UserError
        An image cannot be made; the others are then finished and stored.
    """
    refuse_existing(h5_path, force=force)
    work_dir = f'{h5_path}.images'
    entries = celebahq_files.make_celebahq(celeba_dir, delta_dir, work_dir, force=force, shard=shard, **options)
    with HDF5Writer(h5_path, CELEBAHQ_SIZE, 3, force=force, shard=shard) as writer:
        for image in celebahq_files.read_images(entries, celeba_dir, delta_dir, work_dir):
            writer.add_images(image[np.newaxis])
    celebahq_files.remove_work_dir(work_dir)


def create_from_images(h5_path: FilePath, image_dir: FilePath, resize: PowerOfTwo | None = None,
                       crop: Literal['center', 'none'] | None = None, skip_bad: bool = False, labels: bool = True,
                       **writing: Any) -> None:
    """Make a dataset from a folder of images, see :func:`data.image_folder.image_folder`."""
    create(h5_path, image_folder.image_folder, image_dir, resize, crop, skip_bad, labels, **writing)


def create_from_tfrecords(h5_path: FilePath, tfrecord_dir: FilePath, **writing: Any) -> None:
    """Make a dataset from TFRecords of the 2018 release, see :func:`data.tfrecords.tfrecords`."""
    create(h5_path, tfrecords.tfrecords, tfrecord_dir, **writing)


def create_digits(h5_path: FilePath, resolution: PowerOfTwo = 16, margin: NonNegativeInt | None = None,
                  **writing: Any) -> None:
    """Make the demo's dataset in seconds, see :func:`data.labelled_sets.digits`."""
    create(h5_path, labelled_sets.digits, resolution, margin, **writing)


def create_synthetic(h5_path: FilePath, resolution: PowerOfTwo = 1024, num_images: PositiveInt = 64,
                     grey: bool = False, seed: Seed = 123, **writing: Any) -> None:
    """Make a dataset of random images for speed measurements, see :func:`data.synthetic.synthetic`."""
    create(h5_path, synthetic.synthetic, resolution, num_images, grey, seed, **writing)


# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def add_command(commands: Commands, name: str, help_text: str, example: str, *arguments: Argument,
                aliases: Sequence[str] = ()) -> None:
    """Add a command to the parser; each of `arguments` is (name, keyword arguments of add_argument)."""
    command = commands.add_parser(name, aliases=aliases, help=help_text, description=help_text,
                                  epilog='example:\n  python dataset_tool.py ' + example,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for argument, kwargs in arguments:
        command.add_argument(with_hyphens(argument), **kwargs)
    command.set_defaults(command=name)


FORCE = ('--force', {'action': 'store_true', 'help': 'replace existing files'})
H5 = ('h5_path', {'metavar': 'H5', 'help': 'dataset, an .h5 file'})
SHARD = ('--shard', {'type': parse_shard, 'metavar': 'I/N', 'help': 'make only shard I of N, from 1/N to N/N, for '
                     'example on one of many machines; merge joins the shards'})
WRITING = (FORCE, SHARD)        # Options of all commands that make a dataset.


def source(name: str, metavar: str, help_text: str) -> tuple[Argument, Argument]:
    """The two arguments of a command that makes a dataset from files: the source and the dataset."""
    return (name, {'metavar': metavar, 'help': help_text + f'; the order H5 {metavar} also works'}), H5


CLASS_NAMES = ('--class-names', {'metavar': 'FILE', 'help': 'text file with the names of the classes, one per line'})


def expected(default: str) -> Argument:
    return '--expected-images', {'type': int, 'metavar': 'N', 'help': 'required number of images; 0: any number; '
                                                                      f'default: {default}'}


def split(*names: str) -> Argument:
    return '--split', {'default': 'train', 'help': f'{", ".join(names)}, or several joined by +; default: %(default)s'}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Make and inspect multi-resolution HDF5 datasets.',
                                     epilog='Help on a command: python dataset_tool.py COMMAND --help')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    add_viewing_commands(commands)
    add_creating_commands(commands)
    return parser.parse_args([with_hyphens(word) for word in (sys.argv[1:] if argv is None else argv)])


def with_hyphens(word: str) -> str:
    """Accept the underscores in option names of the releases: --max_images=5 becomes --max-images=5."""
    if not word.startswith('--'):
        return word
    name, equals, value = word.partition('=')
    return name.replace('_', '-') + equals + value


def add_viewing_commands(commands: Commands) -> None:
    add_command(
        commands, 'inspect', 'Print the content of a dataset and whether it is complete.',
        'inspect datasets/digits.h5 --verify --sheet digits.png', H5,
        ('--verify', {'action': 'store_true', 'help': 'read all images, print a checksum per level, and check that '
                      'each level is the average of the finer one'}),
        ('--sheet', {'metavar': 'PNG', 'help': 'write one picture with images from the whole dataset'}))
    add_command(
        commands, 'display', 'Show images in a window; without a display, write a picture and print its path.',
        'display datasets/digits.h5 --start 1000', H5,
        ('--start', {'type': int, 'default': 0, 'help': 'first image; default: %(default)s'}),
        ('--output', {'metavar': 'PNG', 'help': 'write the picture to this file instead of opening a window'}))
    add_command(
        commands, 'compare', 'Print which images of two datasets differ; the exit status is 0 if none do.',
        'compare datasets/digits.h5 datasets/digits-new.h5', H5,
        ('other_path', {'metavar': 'OTHER_H5', 'help': 'dataset to compare with'}))
    add_command(
        commands, 'merge', 'Join the shards of a dataset made with --shard, or datasets with images of equal size.',
        'merge datasets/lsun.h5 datasets/lsun-part1.h5 datasets/lsun-part2.h5', H5,
        ('part_paths', {'metavar': 'PART', 'nargs': '+', 'help': 'files to join; shards in any order'}),
        ('--virtual', {'action': 'store_true', 'help': 'do not copy: write a small file that refers to the parts'}),
        FORCE)
    add_command(
        commands, 'extract', 'Write images of a dataset as PNG files.',
        'extract datasets/digits.h5 /tmp/digits --stop 100', H5,
        ('output_dir', {'metavar': 'DIR', 'help': 'folder to write'}),
        ('--start', {'type': int, 'default': 0, 'help': 'first image; default: %(default)s'}),
        ('--stop', {'type': int, 'help': 'image to stop before; default: all'}),
        ('--step', {'type': int, 'default': 1, 'help': 'write every STEP-th image; default: %(default)s'}), FORCE)


def add_creating_commands(commands: Commands) -> None:
    mnist_dir = source('mnist_dir', 'MNIST_DIR', 'folder of train-images-idx3-ubyte.gz and so on')
    add_command(
        commands, 'create_mnist', 'Make a dataset from MNIST: 60000 digits, 32x32 grey, 10 labels.',
        'create_mnist ~/downloads/mnist datasets/mnist-32x32.h5', *mnist_dir, split('train', 'test'),
        expected('60000 for train, 10000 for test'), *WRITING)
    add_command(
        commands, 'create_mnistrgb', 'Make a dataset with three random MNIST digits as colour channels, 32x32 RGB.',
        'create_mnistrgb ~/downloads/mnist datasets/mnist-rgb-32x32.h5', *mnist_dir,
        ('--num-images', {'type': int, 'default': 1000000, 'metavar': 'N', 'help': 'default: %(default)s'}),
        ('--seed', {'type': int, 'default': 123, 'help': 'seed for the choice of digits; default: %(default)s'}),
        expected('60000 images of MNIST'), *WRITING, aliases=['create_mnist_rgb'])
    add_command(
        commands, 'create_cifar10', 'Make a dataset from CIFAR-10: 50000 images, 32x32 RGB, 10 labels.',
        'create_cifar10 ~/downloads/cifar-10-batches-py datasets/cifar10-32x32.h5',
        *source('cifar_dir', 'CIFAR_DIR', 'folder of data_batch_1 and so on'), split('train', 'test'),
        expected('50000 for train, 10000 for test'), *WRITING)
    add_command(
        commands, 'create_cifar100', 'Make a dataset from CIFAR-100: 50000 images, 32x32 RGB, 100 labels.',
        'create_cifar100 ~/downloads/cifar-100-python datasets/cifar100-32x32.h5',
        *source('cifar_dir', 'CIFAR_DIR', 'folder of the files train and test'), split('train', 'test'),
        ('--coarse', {'action': 'store_true', 'help': 'use the 20 groups of classes as labels'}),
        expected('50000 for train, 10000 for test'), *WRITING)
    add_command(
        commands, 'create_svhn', 'Make a dataset from Street View House Numbers: 73257 digits, 32x32 RGB, 10 labels.',
        'create_svhn ~/downloads/svhn datasets/svhn-32x32.h5 --split train+extra',
        *source('svhn_dir', 'SVHN_DIR', 'folder of train_32x32.mat and so on'), split('train', 'test', 'extra'),
        expected('73257 for train, 26032 for test, 531131 for extra'), *WRITING)
    add_command(
        commands, 'create_lsun', 'Make a dataset from a category of LSUN: centre squares, resized.',
        'create_lsun ~/downloads/cat_train_lmdb datasets/lsun-cat-256x256.h5 --max-images 100000',
        *source('lmdb_dir', 'LMDB_DIR', 'folder of data.mdb'),
        ('--resolution', {'type': int, 'default': 256, 'metavar': 'N', 'help': 'default: %(default)s'}),
        ('--max-images', {'type': int, 'metavar': 'N', 'help': 'use only the first N records; the paper uses 100000, '
                          'except all of bedroom and dog'}), *WRITING)
    add_command(
        commands, 'create_celeba', 'Make a dataset from the aligned CelebA images: 202599 faces, 128x128 RGB.',
        'create_celeba ~/downloads/celeba datasets/celeba-128x128.h5',
        *source('celeba_dir', 'CELEBA_DIR', 'folder of img_align_celeba_png'),
        ('--cx', {'type': int, 'default': 89, 'help': 'centre of the crop, from the left; default: %(default)s'}),
        ('--cy', {'type': int, 'default': 121, 'help': 'centre of the crop, from the top; default: %(default)s'}),
        expected('202599'), *WRITING)
    add_command(
        commands, 'create_celebahq', 'Make CelebA-HQ, 30 000 faces in 1024x1024, each with its published MD5.',
        'create_celebahq datasets/celeba-hq-1024x1024.h5 ~/celeba ~/celeba-hq-deltas', H5,
        ('celeba_dir', {'metavar': 'CELEBA_DIR', 'help': 'CelebA "in the wild": folder of img_celeba and Anno'}),
        ('delta_dir', {'metavar': 'DELTA_DIR', 'help': 'CelebA-HQ deltas: image_list.txt and deltas*.zip'}),
        ('--num-images', {'type': int, 'metavar': 'N', 'help': 'make the first N images; default: all'}),
        ('--indices', {'metavar': 'LIST', 'help': 'make these images, for example 0-99,205'}),
        ('--num-processes', {'type': int, 'metavar': 'N', 'help': 'default: one per core; each takes up to 0.8 GB'}),
        ('--resume', {'action': 'store_true', 'help': 'continue an interrupted run'}),
        ('--skip-bad', {'action': 'store_true', 'help': 'leave out images whose files are missing or wrong'}),
        ('--save-stages', {'metavar': 'DIR', 'help': 'also write the steps of the first image as PNG files, as in '
                           'Figure 8 of the paper'}),
        *WRITING, aliases=['create_celeba_hq'])
    add_command(
        commands, 'create_from_images', 'Make a dataset from a folder or .zip file of images (' + ', '.join(
            sorted(set(FORMATS) - {'DIB'})) + '), or with one sub-folder per class.',
        'create_from_images ~/photos datasets/photos-256x256.h5 --resize 256',
        *source('image_dir', 'IMAGE_DIR', 'folder or .zip file with images, or with sub-folders of images, which '
                'become classes; labels can also come from a dataset.json of StyleGAN'),
        ('--resize', {'type': int, 'metavar': 'N', 'help': 'resize each image to NxN; without it, all images must be '
                      'squares of the same size, a power of two'}),
        ('--crop', {'choices': ('center', 'none'), 'help': 'crop each image to its centre square, or use all of it: '
                    '--resize then distorts images that are not square; default: center with --resize, else none'}),
        ('--skip-bad', {'action': 'store_true', 'help': 'leave out images that are broken, unusable or differ in size '
                        'from most others'}),
        ('--no-labels', {'action': 'store_false', 'dest': 'labels', 'help': 'ignore dataset.json, and do not treat '
                         'sub-folders as classes'}),
        CLASS_NAMES, *WRITING, aliases=['create_custom'])
    add_command(
        commands, 'create_from_tfrecords', 'Make a dataset, with labels, from TFRecords of the 2018 release.',
        'create_from_tfrecords ~/datasets/cifar10 datasets/cifar10-32x32.h5',
        *source('tfrecord_dir', 'TFRECORD_DIR', 'folder of NAME-r02.tfrecords and so on, or the file of the finest '
                'level'), CLASS_NAMES, *WRITING)
    add_command(
        commands, 'create_digits', 'Make a dataset, with labels, from the handwritten digits in scikit-learn.',
        'create_digits datasets/digits-32x32.h5 --resolution 32', H5,
        ('--resolution', {'type': int, 'default': 16, 'metavar': 'N', 'help': '16, 32, ...; default: %(default)s'}),
        ('--margin', {'type': int, 'metavar': 'PIXELS', 'help': 'black border on each side; default: N / 8'}), *WRITING)
    add_command(
        commands, 'create_synthetic', 'Make a dataset of random soft blots of colour, for speed measurements.',
        'create_synthetic datasets/timing-1024x1024.h5 --resolution 1024', H5,
        ('--resolution', {'type': int, 'default': 1024, 'metavar': 'N', 'help': 'default: %(default)s'}),
        ('--num-images', {'type': int, 'default': 64, 'metavar': 'N', 'help': 'default: %(default)s'}),
        ('--grey', {'action': 'store_true', 'help': 'one channel instead of three'}),
        ('--seed', {'type': int, 'default': 123, 'help': 'seed of the images; default: %(default)s'}), *WRITING)


def swap_if_h5_first(args: dict[str, Any]) -> None:
    """Accept the releases' order of the two paths, with the file to write first."""
    source_name = next((name for name in args if name.endswith('_dir') and name != 'output_dir'), None)
    if source_name and (os.path.isdir(args['h5_path']) or (
            is_h5_name(args[source_name]) and not is_h5_name(args['h5_path']))):
        args['h5_path'], args[source_name] = args[source_name], args['h5_path']


def is_h5_name(path: str) -> bool:
    return path.lower().endswith(('.h5', '.hdf5'))


COMMANDS = {function.__name__: function for function in (
    inspect, display, compare, extract, merge, create_mnist, create_mnistrgb, create_cifar10, create_cifar100,
    create_svhn, create_lsun, create_celeba, create_celebahq, create_from_images, create_from_tfrecords,
    create_digits, create_synthetic)}


def run_command(command: str, args: dict[str, Any]) -> int | None:
    """Check the arguments of a command and run it."""
    check_command_line(args, COMMANDS[command])
    for name in {'num_images', 'num_processes'} & args.keys():      # Arguments of create_celebahq.
        check_value(option_name(name), args[name], PositiveInt | None, ' ')
    return COMMANDS[command](**args)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status; 0 if it returns none."""
    args = vars(parse_arguments(argv))
    command = args.pop('command')
    swap_if_h5_first(args)
    return exit_status('dataset_tool.py', lambda: run_command(command, args),
                       interrupted='interrupted; unfinished files were removed')


if __name__ == '__main__':
    sys.exit(main())
