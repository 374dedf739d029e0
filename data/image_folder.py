"""Import folders of image files: any images, with one sub-folder per class or without classes, and aligned CelebA."""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Iterable

import numpy as np
from PIL import Image

from common.console import progress
from common.errors import UserError, one_line
from common.files import AnyPath, check_regular
from data.hdf5_format import check_one_hot, is_power_of_two
from data.image_source import ImageSource, check_count, decoded_source, map_in_order, one_hot
from data.picture_folder import LABELS_FILE, LISTED_FILES, json_labels, list_pictures
from data.pictures import (
    Crop,
    ImageKind,
    Mode,
    PictureError,
    Source,
    as_array,
    collected_warnings,
    formats,
    picture_kind,
    printable,
    read_picture,
)

LISTED_CLASSES = 20

CELEBA_SIZE = (178, 218)    # Width and height of the aligned images.
CELEBA_CROP = 128
CELEBA_IMAGES = 202599


# ----------------------------------------------------------------------------------------------------------------------
# Any images.


def image_folder(image_dir: AnyPath, resize: int | None = None, crop: Crop | None = None, skip_bad: bool = False,
                 labels: bool = True) -> ImageSource:
    """Import the images of a folder, sorted by name, or of its sub-folders, each of which is a class.

    Images become 8 bit RGB, or grey if all are grey, see :func:`data.pictures.read_picture`: 16 bits are scaled down,
    transparent images are placed on white, colours with a profile become sRGB, and images are turned upright according
    to their EXIF data.

    Parameters
    ----------
    image_dir : str
        Folder or .zip file, see :func:`data.picture_folder.list_pictures`. If it has no images itself, the images in
        its sub-folders at any depth are used, sorted by path.
    resize : int, optional
        Resize the images to this power of two (Lanczos). Without it, all must have the same size, a power of two.
    crop : {'center', 'none'}, optional
        Crop each image to its largest centred square, or use all of it; `resize` then distorts images that are not
        square. Default: 'center' with `resize`, else 'none'.
    skip_bad : bool
        Leave out images that are broken or differ in size from the majority.
    labels : bool
        Make one-hot labels from the sub-folders, sorted by name, or from a ``dataset.json`` of StyleGAN.

    Returns
    -------
    ImageSource

    Raises
    ------
    UserError
        There are no images, or they do not fit together. All problems are found before anything is written.
    """
    if resize is not None and not is_power_of_two(resize):
        raise UserError(f'--resize {resize}: must be a power of two, for example '
                        f'{2 ** max(int(resize).bit_length() - 1, 2)}')
    crop = crop or ('center' if resize else 'none')
    folder = list_pictures(image_dir)
    names = folder.names
    kinds = list(progress(map_in_order(lambda name: picture_kind(folder.source(name), crop), names), 'Checking',
                          len(names)))
    chosen, resolution = choose_images(image_dir, names, kinds, resize, skip_bad)
    names = [names[index] for index in chosen]
    readable = [kind for kind in (kinds[index] for index in chosen) if isinstance(kind, ImageKind)]
    mode: Mode = 'L' if all(kind.is_grey for kind in readable) else 'RGB'
    report_kinds(names, readable, mode)

    left_out: list[int] = []

    def decode(index):
        name = names[index]
        try:
            return load_image(folder.source(name), resolution, crop, mode)
        except PictureError as error:       # It was readable during the check.
            if skip_bad:
                print(f'Left out: {printable(name)} can no longer be read ({error})')
                left_out.append(index)
                return None
            raise UserError(f'{printable(os.path.join(image_dir, name))}: can no longer be read ({error}); it may have '
                            'changed; start again') from error

    label_rows, class_names = None, None
    if labels and folder.labels_file is not None:
        label_rows = json_labels(folder.labels_file, names)
        if label_rows is not None:
            check_one_hot(label_rows, LABELS_FILE)
    elif labels and folder.classes:
        label_rows, class_names = class_labels([folder.classes[index] for index in chosen])
    source = decoded_source(range(len(names)), decode, resolution, {'L': 1, 'RGB': 3}[mode], label_rows, class_names)
    return dataclasses.replace(source, left_out=left_out)


def report_kinds(names: list[str], kinds: list[ImageKind], mode: Mode) -> None:
    """Print which properties the images lose in the 8 bit `mode`, and which ones may be mistakes."""
    converted = Counter(kind.name for kind in kinds if kind.mode != mode)
    if converted:
        print('Converted to 8 bit %s: %s' % (
            'grey' if mode == 'L' else mode, ', '.join('%d %s' % (num, name) for name, num in converted.items())))
    pairs = list(zip(names, kinds, strict=True))
    remarks: list[tuple[str, list[tuple[str, object]]]] = [
        ('have several frames or pages; the first one is used',
         [(name, kind.frames) for name, kind in pairs if kind.frames > 1]),
        ('have a colour profile other than sRGB, and were converted',
         [(name, kind.profile) for name, kind in pairs if kind.profile]),
        ('use less than 1/25 of their range of values',
         [(name, kind.name) for name, kind in pairs if kind.is_narrow])]
    for text, found in remarks:
        if found:
            print(f'{len(found)} images {text}: {list_files(found)}')
    warned = [f'{printable(name)}: {"; ".join(kind.warnings)}' for name, kind in pairs if kind.warnings]
    for line in warned[:LISTED_FILES]:
        print(f'Warning: {line}')
    if len(warned) > LISTED_FILES:
        print(f'Warnings for {len(warned) - LISTED_FILES} more images are not listed')


def choose_images(image_dir: AnyPath, names: list[str], kinds: list[ImageKind | str], resize: int | None,
                  skip_bad: bool) -> tuple[list[int], int]:
    """Choose the images for the dataset.

    Returns
    -------
    (list of int, int)
        Indices of these images in `names`, and the resolution of the dataset.
    """
    readable = [kind for kind in kinds if isinstance(kind, ImageKind)]
    if not readable:
        raise UserError(f'IMAGE_DIR={image_dir!r}: none of its {len(names)} images can be read: '
                        f'{list_files(zip(names, kinds, strict=True))}')
    common = Counter(kind.size for kind in readable).most_common(1)[0][0]
    width, height = next((kind.width, kind.height) for kind in readable if kind.size == common)
    if not resize and (width != height or not is_power_of_two(width)):
        raise UserError(
            f'IMAGE_DIR={image_dir!r}: the images are {common}; need squares with a power of two as side: add --resize '
            f'{1 << (min(width, height).bit_length() - 1)}, and --crop none to squeeze the whole image into the '
            'square')
    good = [isinstance(kind, ImageKind) and (bool(resize) or kind.size == common) for kind in kinds]
    bad = [(name, kind if isinstance(kind, str) else kind.size)
           for name, kind, is_good in zip(names, kinds, good, strict=True) if not is_good]
    if bad:
        unlike = '' if resize else f' or not {common} like most'
        reasons = [kind for kind in kinds if isinstance(kind, str)]
        is_broken = not reasons or any(reason.startswith('broken') for reason in reasons)
        text = f'{len(bad)} of {len(names)} images {"are broken" if is_broken else "cannot be used"}{unlike}'
        if not skip_bad:
            cure = '--skip-bad to leave them out'
            if not resize:
                cure = f'--resize {width} to resize them (broken ones need --skip-bad), or {cure}'
            raise UserError(f'{text}: {list_files(bad)}; nothing was written; add {cure}')
        print('Left out: %s:\n%s' % (text, '\n'.join(f'  {printable(name)} ({reason})' for name, reason in bad)))
    return [index for index, is_good in enumerate(good) if is_good], resize or width


def list_files(names_and_reasons: Iterable[tuple[str, object]]) -> str:
    listed = [f'{printable(name)} ({reason})' for name, reason in names_and_reasons]
    more = len(listed) - LISTED_FILES
    return ', '.join(listed[:LISTED_FILES]) + (f' and {more} more' if more > 0 else '')


def class_labels(folders: list[str]) -> tuple[np.ndarray, list[str]]:
    """One-hot labels from the folders of images, and the names of the folders; prints which column is which."""
    names = sorted(set(folders))
    counts = Counter(folders)
    print('Labels: ' + ', '.join(f'{column} {printable(name)} ({counts[name]} images)'
                                 for column, name in enumerate(names[:LISTED_CLASSES]))
          + (f' and so on to {len(names) - 1} {printable(names[-1])}' if len(names) > LISTED_CLASSES else ''))
    columns = {name: column for column, name in enumerate(names)}
    return one_hot([columns[folder] for folder in folders], len(names)), list(map(printable, names))


def load_image(path: Source, size: int, crop: Crop, mode: Mode) -> np.ndarray:
    """Read one file as (C, size, size) uint8."""
    return as_array(read_picture(path, mode, crop, size)[0])


# ----------------------------------------------------------------------------------------------------------------------
# CelebA.


def celeba(celeba_dir: AnyPath, cx: int = 89, cy: int = 121, expected_images: int | None = None) -> ImageSource:
    """Import the aligned CelebA images, cropped to 128x128 pixels.

    Parameters
    ----------
    celeba_dir : str
        Folder ``img_align_celeba_png``, or its parent folder.
    cx, cy : int
        Centre of the crop in the 178x218 pixels: the crop starts 64 pixels to the left of it and above it.
    expected_images : int, optional
        Required number of images; 0: any number. Default: 202599, all of CelebA.

    Returns
    -------
    ImageSource

    Raises
    ------
    UserError
        Wrong number of images, or a crop beyond the image. An image of a wrong size raises when it is read.
    """
    half = CELEBA_CROP // 2
    for option, value, extent in (('cx', cx, CELEBA_SIZE[0]), ('cy', cy, CELEBA_SIZE[1])):
        if not half <= value <= extent - half:
            raise UserError(f'--{option} {value}: must be from {half} to {extent - half}, so that {CELEBA_CROP} '
                            'pixels around it are within the image')
    folder, names = find_celeba(celeba_dir)
    check_count(folder, len(names), CELEBA_IMAGES if expected_images is None else expected_images,
                'unpack img_align_celeba_png.7z completely')
    box = (cx - half, cy - half, cx + half, cy + half)
    paths = [os.path.join(folder, name) for name in names]
    return decoded_source(paths, functools.partial(load_celeba, box=box), CELEBA_CROP, 3)


def find_celeba(celeba_dir: AnyPath) -> tuple[AnyPath, list[str]]:
    """Find the folder of the aligned images: its path and the sorted names in it."""
    for suffix, subdir in (('.png', 'img_align_celeba_png'), ('.jpg', 'img_align_celeba')):
        for folder in (os.path.join(celeba_dir, subdir), os.path.join(celeba_dir, 'Img', subdir), celeba_dir):
            names = os.listdir(folder) if os.path.isdir(folder) else []
            names = sorted(name for name in names if name.endswith(suffix) and not name.startswith('.'))
            if names:
                if suffix == '.jpg':
                    print(f'{folder}: holds the JPEG files; the paper used the PNG files')
                return folder, names
    raise UserError(f'CELEBA_DIR={celeba_dir!r}: has no folder img_align_celeba_png with images; give the folder '
                    'where img_align_celeba_png.7z of CelebA was unpacked')


def load_celeba(path: AnyPath, box: tuple[int, int, int, int]) -> np.ndarray:
    check_regular(path)
    try:
        with collected_warnings() as notes, Image.open(path, formats=formats()) as image:
            size, pixels = image.size, np.asarray(image.convert('RGB').crop(box))
    except Exception as error:      # Pillow's decoders may raise anything.
        raise UserError(f'{path}: is broken ({one_line(error)}); unpack it again') from error
    for note in dict.fromkeys(notes):
        print(f'Warning: {path}: {note}')
    if size != CELEBA_SIZE:
        raise UserError('%s: has %dx%d pixels, but the aligned images of CelebA have %dx%d; use those, not the images '
                        'in the wild' % (path, *size, *CELEBA_SIZE))
    return pixels.transpose(2, 0, 1)
