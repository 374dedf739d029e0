"""Make and look into datasets: ``python dataset_tool.py COMMAND --help`` shows how. The format is hdf5_format.py's."""

import argparse
import concurrent.futures
import dataclasses
import os
import sys
from collections import Counter

import numpy as np
import scipy.ndimage
from PIL import Image, ImageOps
from tqdm import tqdm

import celebahq_run
import misc
from celebahq import SIZE as CELEBAHQ_SIZE
from hdf5_format import HDF5Writer, is_power_of_two, labels_path, load_labels, open_levels, read_image, refuse_existing

MIN_GROUP = 16              # So many images at least are decoded in parallel before they are written.
GROUP_BYTES = 1 << 22       # More of them if they are small.
LISTED_FILES = 10           # So many names are listed in a message about files.


def progress(iterable, desc, total=None):
    """A progress bar with ETA. Not on a terminal it stays silent for half a minute and is rare after that."""
    seconds = 0 if sys.stderr.isatty() else 30
    return tqdm(iterable, desc=desc, total=total, unit='img', delay=seconds, mininterval=max(seconds, 0.1))


# ----------------------------------------------------------------------------------------------------------------------
# Folders of images.


@dataclasses.dataclass(frozen=True)
class ImageKind:
    """What must be the same for all images of a dataset."""

    width: int
    height: int
    mode: str       # Pillow's name: 'L' grey, 'RGB', 'RGBA', 'P' palette, 'I;16' 16 bit grey, ...

    def __str__(self):
        names = {'L': 'grey', 'LA': 'grey with alpha', 'RGBA': 'RGB with alpha', 'P': 'palette', 'PA': 'palette',
                 '1': 'black and white', 'I': '16 bit grey', 'I;16': '16 bit grey', 'I;16B': '16 bit grey'}
        return '%dx%d %s' % (self.width, self.height, names.get(self.mode, self.mode))


def create_from_images(h5_path, image_dir, resize=None, skip_bad=False, force=False):
    """Make a dataset of a folder of images, in the order of their names.

    Parameters
    ----------
    h5_path : str
        File to write.
    image_dir : str
        Folder; sub-folders and files whose names are not those of images are left out.
    resize : int, optional
        Cut the largest centred square out of each image and resize it (Lanczos) to this power of two; transparency is
        laid on white, and all become RGB unless all are grey. Without it the images must be 8 bit grey or RGB and
        equal in size and kind.
    skip_bad : bool
        Leave out images that are broken or differ from most of the others.
    force : bool
        Replace an existing file.

    Raises
    ------
    misc.UserError
        No images, images that do not fit together (all are found before anything is written), or an existing file.
    """
    refuse_existing(h5_path, force=force)
    if resize is not None and not is_power_of_two(resize):
        raise misc.UserError('--resize %d: must be a power of two, for example %d' % (
            resize, 2 ** max(int(resize).bit_length() - 1, 2)))
    paths = list_images(image_dir)
    with concurrent.futures.ThreadPoolExecutor() as executor:
        kinds = list(progress(executor.map(image_kind, paths), 'Checking', len(paths)))
        paths, kind = choose_images(image_dir, paths, kinds, resize, skip_bad)
        resolution, mode = (resize, kind.mode) if resize else (kind.width, kind.mode)
        with HDF5Writer(h5_path, resolution, {'L': 1, 'RGB': 3}[mode], force=force) as writer:
            group_size = max(GROUP_BYTES // (resolution * resolution * 3), MIN_GROUP)
            with progress(None, 'Writing', len(paths)) as bar:
                for start in range(0, len(paths), group_size):
                    group = paths[start:start + group_size]
                    for image in executor.map(lambda path: load_image(path, resize, mode), group):
                        writer.add_images(image[np.newaxis])
                        bar.update()


def list_images(image_dir):
    """Paths of the files in a folder that are images by their names, sorted by name."""
    try:
        entries = sorted(os.scandir(image_dir), key=lambda entry: entry.name)
    except OSError as error:
        raise misc.UserError('IMAGE_DIR=%r: cannot be read (%s); give a folder of images' % (
            image_dir, error.strerror)) from error
    suffixes = Image.registered_extensions()
    files = [entry for entry in entries if entry.is_file() and not entry.name.startswith('.')]
    images = [entry.path for entry in files if os.path.splitext(entry.name)[1].lower() in suffixes]
    if not images:
        folders = sum(entry.is_dir() for entry in entries)
        raise misc.UserError('IMAGE_DIR=%r: has no images (%d other files, %d sub-folders, which are not searched); '
                             'give the folder that holds them' % (image_dir, len(files), folders))
    if len(files) > len(images):
        print('Left out %d files that are no images by name' % (len(files) - len(images)))
    return images


def image_kind(path):
    """The :class:`ImageKind` of a file, or why it cannot be decoded."""
    try:
        with Image.open(path) as image:
            image.load()    # The header of a cut-off file is whole.
            upright = ImageOps.exif_transpose(image)
            return ImageKind(*upright.size, upright.mode)
    except Exception as error:      # Pillow's decoders raise whatever they stumble over.
        return 'broken: %s' % (str(error).splitlines() or [type(error).__name__])[0]


def choose_images(image_dir, paths, kinds, resize, skip_bad):
    """Decide which images make the dataset.

    Returns
    -------
    (list of str, ImageKind)
        The files to use, and what they all are; with `resize`, what they will be made.
    """
    readable = [kind for kind in kinds if isinstance(kind, ImageKind)]
    if not readable:
        raise misc.UserError('IMAGE_DIR=%r: none of its %d images can be read: %s' % (
            image_dir, len(paths), list_files(paths, kinds)))
    if resize:
        grey = all(kind.mode in ('1', 'L', 'LA', 'I', 'I;16', 'I;16B') for kind in readable)
        common = ImageKind(resize, resize, 'L' if grey else 'RGB')
        good = [isinstance(kind, ImageKind) for kind in kinds]
    else:
        common = Counter(readable).most_common(1)[0][0]
        good = [kind == common for kind in kinds]
        if common.width != common.height or not is_power_of_two(common.width) or common.mode not in ('L', 'RGB'):
            raise misc.UserError(
                'IMAGE_DIR=%r: the images are %s; need square 8 bit grey or RGB images with a power of two as side: '
                'add --resize %d' % (image_dir, common, 1 << (min(common.width, common.height).bit_length() - 1)))
    bad = [(path, kind) for path, kind, is_good in zip(paths, kinds, good, strict=True) if not is_good]
    if bad:
        unlike = '' if resize else ' or not %s like most' % common
        text = '%d of %d images are broken%s: %s' % (
            len(bad), len(paths), unlike, list_files(*zip(*bad, strict=True)))
        if not skip_bad:
            cure = '--skip-bad to leave them out'
            if not resize:
                cure = '--resize %d to make them alike (broken ones need --skip-bad), or %s' % (common.width, cure)
            raise misc.UserError('%s; nothing was written; add %s' % (text, cure))
        print('Left out: ' + text)
    return [path for path, is_good in zip(paths, good, strict=True) if is_good], common


def list_files(paths, kinds):
    listed = ['%s (%s)' % (os.path.basename(path), kind) for path, kind in zip(paths, kinds, strict=True)]
    more = len(listed) - LISTED_FILES
    return ', '.join(listed[:LISTED_FILES]) + (' and %d more' % more if more > 0 else '')


def load_image(path, resize, mode):
    """(C, H, W) uint8 of one file, cut and resized if `resize` is given."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if resize:
            image = center_crop(flatten_image(image, mode), resize)
        pixels = np.asarray(image)
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def flatten_image(image, mode):
    """Any Pillow image as 8 bit `mode` 'L' or 'RGB'; transparency laid on white."""
    if image.mode.startswith('I'):      # 16 bit grey, also in Pillow's 32 bit form; Pillow itself would clip at 255.
        image = Image.fromarray(np.rint(np.asarray(image) / 257.0).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert(mode)


def center_crop(image, size):
    """The largest centred square of a Pillow image, resized to `size` pixels with the Lanczos filter."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), Image.Resampling.LANCZOS)


# ----------------------------------------------------------------------------------------------------------------------
# The embedded dataset.


def create_digits(h5_path, resolution=16, margin=None, force=False):
    """Make a dataset of the 1797 handwritten digits (8x8) in scikit-learn, smoothly enlarged, with one-hot labels.

    Deterministic and done in seconds: white on black, one channel, values 0 to 255.

    Parameters
    ----------
    h5_path : str
        File to write.
    resolution : int
        16, 32 or a larger power of two.
    margin : int, optional
        Pixels left free on each side; default: an eighth of the resolution, which keeps strokes off the edge.
    force : bool
        Replace an existing file.

    Raises
    ------
    misc.UserError
        `resolution` or `margin` is not possible, scikit-learn is missing, or the file exists.

    References
    ----------
    E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """
    if not is_power_of_two(resolution) or resolution < 8:
        raise misc.UserError('resolution=%r: must be a power of two, at least 8; use 16 or 32' % (resolution,))
    margin = resolution // 8 if margin is None else margin
    if not 0 <= margin < resolution // 2:
        raise misc.UserError('margin=%r: must be from 0 to %d at a resolution of %d' % (
            margin, resolution // 2 - 1, resolution))
    refuse_existing(h5_path, with_labels=True, force=force)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise misc.UserError('create_digits: needs scikit-learn, which holds the digits; '
                             'pip install scikit-learn') from error
    digits = load_digits()
    labels = np.eye(10, dtype=np.float32)[digits.target]
    with HDF5Writer(h5_path, resolution, 1, labels, force) as writer:
        for digit in progress(digits.images, 'Digits'):
            writer.add_images(enlarge_digit(digit, resolution, margin)[np.newaxis, np.newaxis])


def enlarge_digit(digit, resolution, margin):
    """One digit, (8, 8) with values 0 to 16, as (resolution, resolution) float with values 0 to 255."""
    scale = (resolution - 2 * margin) / 8.0
    centers = (np.arange(resolution) + 0.5 - resolution / 2.0) / scale + 3.5
    grid = np.meshgrid(centers, centers, indexing='ij')
    # The spline continues into zeros, so that strokes at the edge of the 8x8 digit end softly in the margin.
    ink = scipy.ndimage.map_coordinates(digit / 16.0, grid, order=3, mode='grid-constant', cval=0.0)
    # More contrast: undoes some of the blur (a value of the 8x8 digit is the share of ink in 4x4 binary pixels) and
    # cuts off the ripples that the spline has beside strokes.
    return ((ink - 1 / 6) * 1.5).clip(0, 1) * 255


# ----------------------------------------------------------------------------------------------------------------------
# CelebA-HQ.


def create_celebahq(h5_path, celeba_dir, delta_dir, force=False, **options):
    """Make CelebA-HQ, 30 000 faces in 1024x1024, bit for bit the published images.

    Parameters
    ----------
    h5_path : str
        File to write. Until it is complete, finished images are kept in the folder ``H5.images``.
    celeba_dir : str
        CelebA "in the wild": ``img_celeba/*.jpg`` and ``Anno/list_landmarks_celeba.txt``.
    delta_dir : str
        ``image_list.txt`` and ``deltas*.zip``.
    force : bool
        Replace an existing file, and start over if there are finished images and no `resume`.
    **options
        indices, num_images, num_processes, resume, skip_bad, save_stages: see :func:`celebahq_run.create`.

    Raises
    ------
    misc.UserError
        An image cannot be made; the others are finished then and kept.
    """
    refuse_existing(h5_path, force=force)
    work_dir = '%s.images' % h5_path
    entries = celebahq_run.create(celeba_dir, delta_dir, work_dir, progress, force=force, **options)
    with HDF5Writer(h5_path, CELEBAHQ_SIZE, 3, force=force) as writer:
        for image in celebahq_run.read_images(entries, celeba_dir, delta_dir, work_dir, progress):
            writer.add_images(image[np.newaxis])
    celebahq_run.remove_work_dir(work_dir)


# ----------------------------------------------------------------------------------------------------------------------
# Looking into files.


def inspect(h5_path):
    """Print what is in a dataset and whether it is complete.

    Raises
    ------
    misc.UserError
        It is not.
    """
    h5, levels = open_levels(h5_path)
    with h5:
        finest = next(iter(levels.values()))
        num, channels, resolution, _ = finest.shape
        print('%-20s%s' % ('HDF5 filename', h5_path))
        print('%-20s%.2f GB' % ('Total size', os.path.getsize(h5_path) / 2 ** 30))
        print('%-20s%d' % ('Total images', num))
        print('%-20s%dx%d' % ('Resolution', resolution, resolution))
        print('%-20s%d' % ('Color channels', channels))
        print('%-20s%.2f KB' % ('Size per image', os.path.getsize(h5_path) / num / 2 ** 10))
        print('%-20s%s' % ('Labels', describe_labels(h5_path, num)))
        print('\n%-16s%-24s%-8s%-22s%-10s%10s' % ('Level', 'Shape', 'Type', 'Chunks', 'Filter', 'Stored MB'))
        for level in levels.values():
            print('%-16s%-24s%-8s%-22s%-10s%10.2f' % (
                level.name[1:], level.shape, level.dtype, level.chunks,
                '%s %s' % (level.compression, level.compression_opts) if level.compression else 'none',
                level.id.get_storage_size() / 2 ** 20))
        print('\nComplete: all levels from %dx%d to 1x1 are there' % (resolution, resolution))


def describe_labels(h5_path, num):
    """'none', or the shape of the labels with the number of images per class; an error if they do not fit."""
    path = labels_path(h5_path)
    if not os.path.exists(path):
        return 'none'
    labels = load_labels(path, num)
    return '%d columns, %s; images per column: %s' % (
        labels.shape[1], path, ' '.join('%d' % count for count in np.count_nonzero(labels, axis=0)[:16]) +
        (' ...' if labels.shape[1] > 16 else ''))


def extract(h5_path, output_dir, start=0, stop=None, step=1, force=False):
    """Write images ``start:stop:step`` at full resolution as ``imgNNNNNNNN.png``.

    Raises
    ------
    misc.UserError
        The range is empty, the folder cannot be written or, without `force`, holds such images already.
    """
    h5, levels = open_levels(h5_path)
    with h5:
        finest = next(iter(levels.values()))
        if step < 1:
            raise misc.UserError('--step %d: must be at least 1' % step)
        indices = range(len(finest))[start:stop:step]
        if not indices:
            raise misc.UserError('--start %s --stop %s: no images in this range; %s has %d' % (
                start, stop, h5_path, len(finest)))
        names = {index: 'img%08d.png' % index for index in indices}
        try:
            os.makedirs(output_dir, exist_ok=True)
            existing = sorted(set(os.listdir(output_dir)).intersection(names.values()))
        except OSError as error:
            raise misc.UserError('DIR=%r: cannot be written (%s); choose another folder' % (
                output_dir, error.strerror)) from error
        if existing and not force:
            raise misc.UserError('%s: exists; choose another folder, or --force to replace images there' %
                                 os.path.join(output_dir, existing[0]))
        for index, name in progress(names.items(), 'Extracting'):
            misc.save_image(read_image(finest, index), os.path.join(output_dir, name), (0, 255))
    print('Extracted %d images to %s' % (len(names), output_dir))


# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def add_command(commands, name, help_text, example, *arguments, aliases=()):
    """Add a command to the parser; each of `arguments` is (name, keyword arguments of add_argument)."""
    command = commands.add_parser(name, aliases=aliases, help=help_text, description=help_text,
                                  epilog='example:\n  python dataset_tool.py ' + example,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    for argument, kwargs in arguments:
        command.add_argument(argument, **kwargs)
    command.set_defaults(command=name)


FORCE = ('--force', {'action': 'store_true', 'help': 'replace existing files'})
H5 = ('h5_path', {'metavar': 'H5', 'help': 'dataset, an .h5 file'})


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description='Make and look into multi-resolution HDF5 datasets.',
                                     epilog='More on each: python dataset_tool.py COMMAND --help')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    add_command(
        commands, 'inspect', 'Print what is in a dataset and whether it is complete.', 'inspect datasets/digits.h5', H5)
    add_command(
        commands, 'extract', 'Write images of a dataset as PNG files.',
        'extract datasets/digits.h5 /tmp/digits --stop 100', H5,
        ('output_dir', {'metavar': 'DIR', 'help': 'folder to write'}),
        ('--start', {'type': int, 'default': 0, 'help': 'first image; default: %(default)s'}),
        ('--stop', {'type': int, 'help': 'image to stop before; default: all'}),
        ('--step', {'type': int, 'default': 1, 'help': 'take every STEP-th; default: %(default)s'}), FORCE)
    add_command(
        commands, 'create_from_images', 'Make a dataset of a folder of images.',
        'create_from_images ~/photos datasets/photos-256x256.h5 --resize 256',
        ('image_dir', {'metavar': 'IMAGE_DIR', 'help': 'folder of images; H5 IMAGE_DIR is understood, too'}), H5,
        ('--resize', {'type': int, 'metavar': 'N', 'help': 'cut the centre square of each image and resize it to NxN; '
                      'transparency becomes white'}),
        ('--skip-bad', {'action': 'store_true', 'help': 'leave out images that are broken or unlike most others'}),
        FORCE, aliases=['create_custom'])
    add_command(
        commands, 'create_digits', 'Make the dataset of handwritten digits that is part of scikit-learn, with labels.',
        'create_digits datasets/digits-32x32.h5 --resolution 32', H5,
        ('--resolution', {'type': int, 'default': 16, 'metavar': 'N', 'help': '16, 32, ...; default: %(default)s'}),
        ('--margin', {'type': int, 'metavar': 'PIXELS', 'help': 'black on each side; default: N / 8'}), FORCE)
    add_command(
        commands, 'create_celebahq', 'Make CelebA-HQ, 30 000 faces in 1024x1024, bit for bit the published images.',
        'create_celebahq datasets/celeba-hq-1024x1024.h5 ~/celeba ~/celeba-hq-deltas', H5,
        ('celeba_dir', {'metavar': 'CELEBA_DIR', 'help': 'CelebA "in the wild", with img_celeba and Anno in it'}),
        ('delta_dir', {'metavar': 'DELTA_DIR', 'help': 'CelebA-HQ deltas: image_list.txt and deltas*.zip'}),
        ('--num_images', {'type': int, 'metavar': 'N', 'help': 'make the first N images; default: all'}),
        ('--indices', {'metavar': 'LIST', 'help': 'make these images, for example 0-99,205'}),
        ('--num_processes', {'type': int, 'metavar': 'N', 'help': 'default: one per core; each takes up to 0.8 GB'}),
        ('--resume', {'action': 'store_true', 'help': 'go on where an earlier run ended'}),
        ('--skip-bad', {'action': 'store_true', 'help': 'leave out images whose files are missing or wrong'}),
        ('--save_stages', {'metavar': 'DIR', 'help': 'also write the steps of the first image as PNG files, as in '
                           'Figure 8 of the paper'}),
        FORCE, aliases=['create_celeba_hq'])
    return parser.parse_args(argv)


def main(argv=None):
    """Run a command; return the exit status."""
    args = vars(parse_arguments(argv))
    command = args.pop('command')
    if command == 'create_from_images' and os.path.isdir(args['h5_path']):
        # The order of the releases, whose commands named the file to write first.
        args['h5_path'], args['image_dir'] = args['image_dir'], args['h5_path']
    functions = {function.__name__: function for function in (
        inspect, extract, create_from_images, create_digits, create_celebahq)}
    try:
        functions[command](**args)
    except misc.UserError as error:
        print('dataset_tool.py: error: %s' % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('dataset_tool.py: interrupted; unfinished files were removed', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
