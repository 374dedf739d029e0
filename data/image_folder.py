"""Folders of image files as sources of datasets: any images, one folder per class or not, and the aligned CelebA."""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from common.console import progress
from common.errors import UserError
from common.files import AnyPath
from data.hdf5_format import is_power_of_two
from data.image_source import ImageSource, check_count, decoded_source, map_in_order, one_hot

Crop = Literal['center', 'none']

LISTED_FILES = 10           # At most this many names are listed in a message about files.
LISTED_CLASSES = 20

CELEBA_SIZE = (178, 218)    # Width and height of the aligned images.
CELEBA_CROP = 128
CELEBA_IMAGES = 202599


# ----------------------------------------------------------------------------------------------------------------------
# Any images.


@dataclasses.dataclass(frozen=True)
class ImageKind:
    """Size and mode of an image, after it was turned upright."""

    width: int
    height: int
    mode: str       # Pillow's name: 'L' grey, 'RGB', 'RGBA', 'P' palette, 'I;16' 16 bit grey, ...

    NAMES = {'1': 'black and white', 'L': 'grey', 'LA': 'grey with alpha', 'RGBA': 'RGB with alpha', 'P': 'palette',
             'PA': 'palette with alpha', 'I': '16 bit grey', 'I;16': '16 bit grey', 'I;16B': '16 bit grey'}

    @property
    def size(self) -> str:
        return f'{self.width}x{self.height}'

    @property
    def name(self) -> str:
        return self.NAMES.get(self.mode, self.mode)

    @property
    def is_grey(self) -> bool:
        return self.mode in ('1', 'L', 'LA') or self.mode.startswith('I')


def image_folder(image_dir: AnyPath, resize: int | None = None, crop: Crop | None = None, skip_bad: bool = False,
                 labels: bool = True) -> ImageSource:
    """The images of a folder in the order of their names, or of its sub-folders, each of them a class.

    All become 8 bit RGB, or grey if all are grey: 16 bits are scaled down, transparency is laid on white, and images
    are turned upright as their EXIF data say.

    Parameters
    ----------
    image_dir : str
        Folder; files whose names are not those of images are left out. If it has no images itself, those in its
        sub-folders, at any depth, are taken, sorted by path.
    resize : int, optional
        Resize the images to this power of two (Lanczos). Without it they must be equal in size, a power of two.
    crop : {'center', 'none'}, optional
        Cut the largest centred square out of each image, or take all of it: then `resize` squeezes what is not square.
        Default: 'center' with `resize`, else 'none'.
    skip_bad : bool
        Leave out images that are broken or differ in size from most of the others.
    labels : bool
        Number the sub-folders by name and make them one-hot labels.

    Returns
    -------
    ImageSource

    Raises
    ------
    UserError
        No images, or images that do not fit together: all of them are found here, before anything is written.
    """
    if resize is not None and not is_power_of_two(resize):
        raise UserError(f'--resize {resize}: must be a power of two, for example '
                        f'{2 ** max(int(resize).bit_length() - 1, 2)}')
    crop = crop or ('center' if resize else 'none')
    names, classes = list_images(image_dir)
    paths = [os.path.join(image_dir, name) for name in names]
    kinds = list(progress(map_in_order(functools.partial(image_kind, crop=crop), paths), 'Checking', len(paths)))
    chosen, resolution = choose_images(image_dir, names, kinds, resize, skip_bad)
    paths, kinds = [paths[index] for index in chosen], [kinds[index] for index in chosen]
    mode: Literal['L', 'RGB'] = 'L' if all(kind.is_grey for kind in kinds) else 'RGB'
    converted = Counter(kind.name for kind in kinds if kind.mode != mode)
    if converted:
        print('Converted to 8 bit %s: %s' % (
            'grey' if mode == 'L' else mode, ', '.join('%d %s' % (num, name) for name, num in converted.items())))
    decode = functools.partial(load_image, size=resolution, crop=crop, mode=mode)
    return decoded_source(paths, decode, resolution, {'L': 1, 'RGB': 3}[mode],
                          class_labels([classes[index] for index in chosen]) if labels and classes else None)


def list_images(image_dir: AnyPath) -> tuple[list[str], list[str] | None]:
    """What a folder holds.

    Returns
    -------
    (list of str, list of str or None)
        Paths below the folder of the files that are images by their names, and the sub-folder of each; None if the
        folder itself has images.
    """
    try:
        entries = sorted(os.scandir(image_dir), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f'IMAGE_DIR={image_dir!r}: cannot be read ({error.strerror}); give a folder of '
                        'images') from error
    files = [entry.name for entry in entries if entry.is_file() and not entry.name.startswith('.')]
    folders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.')]
    images = list(filter(is_image_name, files))
    if images:
        left_out = [text % num for text, num in [('%d files that are no images by name', len(files) - len(images)),
                                                 ('%d sub-folders', len(folders))] if num]
        if left_out:
            print('Left out: ' + ', '.join(left_out))
        return images, None
    nested = [(os.path.relpath(os.path.join(parent, name), image_dir), folder)
              for folder in folders
              for parent, _folders, names in os.walk(os.path.join(image_dir, folder))
              for name in filter(is_image_name, names)]
    if not nested:
        raise UserError(f'IMAGE_DIR={image_dir!r}: has no images ({len(files)} other files, {len(folders)} '
                        'sub-folders without images); give the folder that holds them')
    nested.sort(key=lambda item: (item[1], item[0]))
    return [name for name, _folder in nested], [folder for _name, folder in nested]


def is_image_name(name: str) -> bool:
    return not name.startswith('.') and os.path.splitext(name)[1].lower() in Image.registered_extensions()


def image_kind(path: AnyPath, crop: Crop) -> ImageKind | str:
    """The :class:`ImageKind` of a file, after the crop, or why it cannot be used."""
    try:
        with Image.open(path) as image:
            image.load()    # The header of a cut-off file is whole.
            if image.mode == 'F':
                return 'floating-point values, whose range is not known'
            upright = ImageOps.exif_transpose(image)
            size = (min(upright.size),) * 2 if crop == 'center' else upright.size
            return ImageKind(*size, upright.mode)
    except Exception as error:      # Pillow's decoders raise whatever they stumble over.
        return f'broken: {(str(error).splitlines() or [type(error).__name__])[0]}'


def choose_images(image_dir: AnyPath, names: list[str], kinds: list[ImageKind | str], resize: int | None,
                  skip_bad: bool) -> tuple[list[int], int]:
    """Decide which images make the dataset.

    Returns
    -------
    (list of int, int)
        Their places in `names`, and the resolution of the dataset.
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
            f'{1 << (min(width, height).bit_length() - 1)}, and --crop none if the whole image is to be squeezed into '
            'the square')
    good = [isinstance(kind, ImageKind) and (bool(resize) or kind.size == common) for kind in kinds]
    bad = [(name, kind if isinstance(kind, str) else kind.size)
           for name, kind, is_good in zip(names, kinds, good, strict=True) if not is_good]
    if bad:
        unlike = '' if resize else f' or not {common} like most'
        text = f'{len(bad)} of {len(names)} images are broken{unlike}'
        if not skip_bad:
            cure = '--skip-bad to leave them out'
            if not resize:
                cure = f'--resize {width} to make them alike (broken ones need --skip-bad), or {cure}'
            raise UserError(f'{text}: {list_files(bad)}; nothing was written; add {cure}')
        print('Left out: %s:\n%s' % (text, '\n'.join('  %s (%s)' % item for item in bad)))
    return [index for index, is_good in enumerate(good) if is_good], resize or width


def list_files(names_and_reasons: Iterable[tuple[str, object]]) -> str:
    listed = ['%s (%s)' % item for item in names_and_reasons]
    more = len(listed) - LISTED_FILES
    return ', '.join(listed[:LISTED_FILES]) + (f' and {more} more' if more > 0 else '')


def class_labels(folders: list[str]) -> np.ndarray:
    """One-hot labels of images by the folders they lie in; prints which column is which folder."""
    names = sorted(set(folders))
    counts = Counter(folders)
    print('Labels: ' + ', '.join(f'{column} {name} ({counts[name]} images)'
                                 for column, name in enumerate(names[:LISTED_CLASSES]))
          + (f' and so on to {len(names) - 1} {names[-1]}' if len(names) > LISTED_CLASSES else ''))
    columns = {name: column for column, name in enumerate(names)}
    return one_hot([columns[folder] for folder in folders], len(names))


def load_image(path: AnyPath, size: int, crop: Crop, mode: Literal['L', 'RGB']) -> np.ndarray:
    """(C, size, size) uint8 of one file."""
    try:
        with Image.open(path) as opened:
            image = flatten_image(ImageOps.exif_transpose(opened), mode)
    except Exception as error:      # It could be read when it was checked.
        raise UserError(f'{path}: cannot be read any more ({error}); was it changed? start again') from error
    pixels = np.asarray(resize_image(center_square(image) if crop == 'center' else image, size))
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def flatten_image(image: Image.Image, mode: Literal['L', 'RGB']) -> Image.Image:
    """Any Pillow image as 8 bit `mode` 'L' or 'RGB'; transparency laid on white."""
    if image.mode.startswith('I'):      # 16 bit grey, also in Pillow's 32 bit form; Pillow itself would clip at 255.
        image = Image.fromarray(np.rint(np.asarray(image) / 257.0).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert(mode)


def center_square(image: Image.Image) -> Image.Image:
    """The largest centred square of a Pillow image; the odd pixel goes at the right or at the bottom."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def resize_image(image: Image.Image, size: int) -> Image.Image:
    """A Pillow image of size x size pixels, Lanczos filtered."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS)


# ----------------------------------------------------------------------------------------------------------------------
# CelebA.


def celeba(celeba_dir: AnyPath, cx: int = 89, cy: int = 121, expected_images: int | None = None) -> ImageSource:
    """The aligned CelebA images, of which 128x128 pixels are cut out.

    Parameters
    ----------
    celeba_dir : str
        Folder ``img_align_celeba_png``, or the one that holds it.
    cx, cy : int
        Centre of the crop in the 178x218 pixels: the crop begins 64 pixels left of it and above it.
    expected_images : int, optional
        So many must be there; 0: any number. Default: 202599, all of CelebA.

    Returns
    -------
    ImageSource

    Raises
    ------
    UserError
        Another number of images, or a crop that leaves the image. An image of another size when it is read.
    """
    half = CELEBA_CROP // 2
    for option, value, extent in (('cx', cx, CELEBA_SIZE[0]), ('cy', cy, CELEBA_SIZE[1])):
        if not half <= value <= extent - half:
            raise UserError(f'--{option} {value}: must be from {half} to {extent - half}, so that {CELEBA_CROP} '
                            'pixels around it lie in the image')
    folder, names = find_celeba(celeba_dir)
    check_count(folder, len(names), CELEBA_IMAGES if expected_images is None else expected_images,
                'unpack img_align_celeba_png.7z completely')
    box = (cx - half, cy - half, cx + half, cy + half)
    paths = [os.path.join(folder, name) for name in names]
    return decoded_source(paths, functools.partial(load_celeba, box=box), CELEBA_CROP, 3)


def find_celeba(celeba_dir: AnyPath) -> tuple[AnyPath, list[str]]:
    """The folder of the aligned images and the names in it, sorted."""
    for suffix, subdir in (('.png', 'img_align_celeba_png'), ('.jpg', 'img_align_celeba')):
        for folder in (os.path.join(celeba_dir, subdir), os.path.join(celeba_dir, 'Img', subdir), celeba_dir):
            names = os.listdir(folder) if os.path.isdir(folder) else []
            names = sorted(name for name in names if name.endswith(suffix))
            if names:
                if suffix == '.jpg':
                    print(f'{folder}: these are the JPEG files; the paper used the PNG files')
                return folder, names
    raise UserError(f'CELEBA_DIR={celeba_dir!r}: has no folder img_align_celeba_png with images; give the folder '
                    'into which img_align_celeba_png.7z of CelebA was unpacked')


def load_celeba(path: AnyPath, box: tuple[int, int, int, int]) -> np.ndarray:
    try:
        with Image.open(path) as image:
            size, pixels = image.size, np.asarray(image.convert('RGB').crop(box))
    except Exception as error:      # Pillow's decoders raise whatever they stumble over.
        raise UserError(f'{path}: is broken ({error}); unpack it again') from error
    if size != CELEBA_SIZE:
        raise UserError('%s: has %dx%d pixels where the aligned images of CelebA have %dx%d; take those, not the '
                        'images in the wild' % (path, *size, *CELEBA_SIZE))
    return pixels.transpose(2, 0, 1)
