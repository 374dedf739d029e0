"""Make CelebA-HQ images (paper, Appendix C) from CelebA photos and the published deltas, bit for bit.

The published images were made with Pillow 3.1.1, libjpeg 8d and NumPy 1, and the deltas fit only their exact output.
Every dtype and every rounding step here is therefore explicit. Two steps have a fast form that may round differently:
if the MD5 of the result is wrong, the exact form runs. Images are (H, W, 3) uint8 unless stated otherwise; sizes are
(width, height), points (x, y).
"""

import base64
import bz2
import dataclasses
import hashlib
import math
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.ndimage
from PIL import Image

from common.errors import UserError, one_line
from common.files import AnyPath, open_input
from data.archives import open_archive, read_member
from data.pictures import formats
from data.pillow_2015 import ROWS_PER_BLOCK, resize, transform_exactly, transform_fast

Record = Callable[[str, np.ndarray], None]
Region = tuple[slice, slice]    # Rows and columns.

SIZE = 1024                 # Side of the finished images.
SUPERSAMPLING = 4           # The face is cut out at this multiple of SIZE, then reduced.
MAX_TOKEN_BYTES = 1 << 24   # The published deltas take 1 to 4 MB.
MAX_PHOTO_BYTES = 1 << 28   # Photo files of CelebA take up to 10 MB.
MIN_ZOOM, MAX_ZOOM = 2.0 ** -8, 2.0 ** 6    # Finished pixels per pixel: face squares of 16 to 260000 pixels a side.
MAX_COORDINATE = 1 << 20    # Largest coordinate of a face square's corner, in pixels.
BLUR_TRUNCATE = 4.0         # scipy.ndimage truncates a Gaussian after this many standard deviations.


class BadImage(ValueError):
    """An image cannot be made. The message is one line: the file, what was expected, and the likely cause."""


class ListEntry(NamedTuple):
    """A row of the image list."""

    idx: int                # Number within CelebA-HQ.
    orig_idx: int           # Row in CelebA's list of landmarks.
    orig_file: str          # The photo's file name.
    proc_md5: str           # MD5 of the aligned photo, (3, 1024, 1024) uint8.
    final_md5: str          # MD5 of the finished image, (3, 1024, 1024) uint8.
    landmarks: np.ndarray   # (5, 2) float32: left eye, right eye, nose, left and right corner of the mouth.


# ----------------------------------------------------------------------------------------------------------------------
# Files.


def check_packages() -> None:
    """Raise ImportError, with the cure in its one-line message, if a package for decoding or decryption is missing."""
    try:
        import cryptography.fernet  # noqa: F401
    except ImportError as error:
        raise ImportError(f'CelebA-HQ needs the package cryptography ({error}); pip install cryptography') from error
    try:
        import jpeglib
        jpeglib.version.set('8d')
    except (ImportError, OSError, NotImplementedError, RuntimeError) as error:
        raise ImportError(f'CelebA-HQ needs the package jpeglib, which has libjpeg 8d ({str(error).splitlines()[0]}); '
                          'pip install jpeglib. It has wheels only for Linux on x86-64, macOS on Apple silicon and '
                          'Windows; use one of these platforms') from error


def decode_jpeg(path: AnyPath) -> np.ndarray:
    """Decode a JPEG file to (H, W, 3) uint8 with libjpeg 8d; today's libjpeg-turbo gives other pixels."""
    import jpeglib
    if jpeglib.version.get() != '8d':
        jpeglib.version.set('8d')
    try:
        # Check format and size first: jpeglib has no limits of its own.
        with Image.open(path, formats=['JPEG']):
            pass
    except Exception as error:      # Pillow's decoders may raise anything.
        raise BadImage(f'{path}: cannot be decoded as JPEG ({one_line(error)})') from error
    try:
        pixels = jpeglib.read_spatial(os.fspath(path)).spatial
    except OSError as error:
        raise BadImage(f'{path}: cannot be decoded as JPEG ({error})') from error
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise BadImage(f'{path}: decodes to the shape {pixels.shape}; need RGB or grey')
    return np.ascontiguousarray(np.broadcast_to(pixels, pixels.shape[:2] + (3,)))


def photo_path(celeba_dir: AnyPath, name: str) -> str:
    return os.path.join(celeba_dir, 'img_celeba', name)


def zip_path(delta_dir: AnyPath, idx: int) -> str:
    return os.path.join(delta_dir, f'deltas{idx - idx % 1000:05d}.zip')


def check_files(entry: ListEntry, celeba_dir: AnyPath, delta_dir: AnyPath) -> None:
    """Raise BadImage if a file that `entry` needs is missing."""
    for path in (photo_path(celeba_dir, entry.orig_file), zip_path(delta_dir, entry.idx)):
        if not os.path.isfile(path):
            raise BadImage(f'{path}: is missing; image {entry.idx} needs it')


def read_token(delta_dir: AnyPath, idx: int) -> bytes:
    """Read the encrypted delta of image `idx` from its zip file."""
    path = zip_path(delta_dir, idx)
    member = f'delta{idx:05d}.dat'
    try:
        with open_archive(path) as archive:
            return read_member(archive, member, MAX_TOKEN_BYTES)
    except KeyError as error:
        raise BadImage(f'{path}: lacks {member}, which image {idx} needs; download it again') from error
    except UserError as error:
        raise BadImage(f'{path}: {member} cannot be read ({error}); download it again') from error


def decrypt_delta(token: bytes, jpeg_bytes: bytes, name: str) -> np.ndarray | None:
    """Decrypt the delta that turns an aligned photo into the finished image.

    Parameters
    ----------
    token : bytes
        Fernet token.
    jpeg_bytes : bytes
        Content of the photo's file; serves as the password.
    name : str
        File name of the photo; serves as the salt.

    Returns
    -------
    ndarray, shape (3, 1024, 1024), uint8, or None
        None if the token was made with another photo or name.
    """
    from cryptography.fernet import Fernet, InvalidToken
    key = hashlib.pbkdf2_hmac('sha256', jpeg_bytes, name.encode('ascii'), 100000, 32)
    try:
        compressed = Fernet(base64.urlsafe_b64encode(key)).decrypt(token)
    except InvalidToken:
        return None
    try:
        pixels = bz2.BZ2Decompressor().decompress(compressed, 3 * SIZE * SIZE + 1)
    except (OSError, ValueError, EOFError) as error:
        raise BadImage(f'the delta of {name} cannot be decompressed ({error}); download the deltas '
                       'again') from error
    if len(pixels) != 3 * SIZE * SIZE:
        raise BadImage(f'the delta of {name} does not have {3 * SIZE * SIZE} bytes; download the '
                       'deltas again')
    return np.frombuffer(pixels, np.uint8).reshape(3, SIZE, SIZE)


def image_md5(image: np.ndarray) -> str:
    """Hexadecimal MD5 of an array's bytes."""
    return hashlib.md5(np.ascontiguousarray(image).data, usedforsecurity=False).hexdigest()


def make_image(entry: ListEntry, celeba_dir: AnyPath, delta_dir: AnyPath) -> tuple[np.ndarray, bool]:
    """Make one image of CelebA-HQ.

    Parameters
    ----------
    entry : ListEntry
    celeba_dir : str
        Folder with ``img_celeba/``, the photos in the wild.
    delta_dir : str
        Folder with ``deltas00000.zip`` and so on.

    Returns
    -------
    (ndarray, bool)
        The image, (3, 1024, 1024) uint8, verified by its MD5, and whether the exact path was needed.

    Raises
    ------
    BadImage
        A file is missing, or is not the one that the published images were made from.
    """
    check_files(entry, celeba_dir, delta_dir)
    path = photo_path(celeba_dir, entry.orig_file)
    try:
        with open_input(path) as jpeg_file:
            jpeg_bytes = jpeg_file.read(MAX_PHOTO_BYTES + 1)
    except OSError as error:
        raise BadImage(f'{path}: cannot be read ({error.strerror})') from error
    if len(jpeg_bytes) > MAX_PHOTO_BYTES:
        raise BadImage(f'{path}: has more than {MAX_PHOTO_BYTES} bytes; need the photo of CelebA')
    # Only the bytes of the right photo decrypt the token, so a wrong photo is found before any work is done.
    delta = decrypt_delta(read_token(delta_dir, entry.idx), jpeg_bytes, entry.orig_file)
    if delta is None:
        raise BadImage(explain_wrong_photo(path, entry))
    photo = decode_jpeg(path)
    plan = plan_alignment(entry.landmarks, (photo.shape[1], photo.shape[0]))
    for exact in (False, True):
        aligned = align(photo, plan, exact).transpose(2, 0, 1)
        md5 = image_md5(aligned)
        if md5 == entry.proc_md5:
            break
    else:
        raise BadImage(f'{path}: is the right photo, but its aligned image has the MD5 {md5}, expected '
                       f'{entry.proc_md5}: list_landmarks_celeba.txt differs, or this machine rounds differently')
    final = aligned + delta
    if image_md5(final) != entry.final_md5:
        raise BadImage(f'{path}: image {entry.idx} made from it has the MD5 {image_md5(final)}, expected '
                       f'{entry.final_md5}: image_list.txt and the deltas do not belong together')
    return final, exact


def explain_wrong_photo(path: AnyPath, entry: ListEntry) -> str:
    """One line on why the photo at `path` does not decrypt the delta of `entry`."""
    try:
        with Image.open(path, formats=formats()) as image:
            image.load()
            (width, height), is_jpeg = image.size, image.format == 'JPEG'
    except Exception as error:      # Pillow's decoders may raise anything.
        return f'{path}: is damaged ({str(error).splitlines()[0]}); download or unpack it again'
    if not is_jpeg:
        return f'{path}: is not a JPEG file; need the original photo of CelebA "in the wild"'
    if (width, height) == (178, 218):
        return (f'{path}: is one of the aligned 178x218 images (img_align_celeba); need the photo of the same name '
                'from CelebA "in the wild" (img_celeba)')
    photo = decode_jpeg(path)
    md5 = image_md5(align(photo, plan_alignment(entry.landmarks, (width, height))).transpose(2, 0, 1))
    if md5 == entry.proc_md5:
        return (f'{path}: has the right pixels but other bytes than the original file, which is the key to the delta '
                f'of image {entry.idx}: its metadata were changed; unpack the original again')
    return (f'{path}: is not the photo that image {entry.idx} was made from: its aligned image has the MD5 {md5}, '
            f'expected {entry.proc_md5}; it is likely from another version of CelebA or was saved again by a program; '
            'download CelebA "in the wild" (img_celeba.7z) again')


# ----------------------------------------------------------------------------------------------------------------------
# Alignment.


@dataclasses.dataclass
class Plan:
    """The steps of aligning a photo, in this order: shrink, crop, enlarge, pad, cut out.

    Attributes
    ----------
    quads : dict of str to ndarray, shape (4, 2), float32
        Corners of the face's square (upper left, lower left, lower right, upper right) after each step, in pixels of
        the photo as it is then: 'start', 'shrink', 'crop', 'superres', 'pad'.
    zooms : dict of str to float
        Finished pixels per pixel after each step.
    """

    shrink: int             # The photo is reduced by this factor if it is larger than 1.
    shrunk_size: tuple[int, int]        # (width, height).
    border: int             # Pixels kept around the square.
    crop: tuple[int, int, int, int]     # (left, upper, right, lower).
    crop_done: bool
    superres: int           # The photo is enlarged by this factor if it is larger than 1.
    superres_size: tuple[int, int]      # (width, height).
    pad: tuple[int, int, int, int]      # Pixels to add: (left, top, right, bottom).
    pad_done: bool
    quads: dict[str, np.ndarray]
    zooms: dict[str, float]


def length(vector: np.ndarray) -> float:
    """float32 length of a float32 vector, as a float."""
    return float(np.hypot(vector[0], vector[1]))


def rotated(vector: np.ndarray) -> np.ndarray:
    """The vector rotated by 90 degrees."""
    return np.array([-vector[1], vector[0]], np.float32)


def face_square(landmarks: np.ndarray) -> tuple[np.ndarray, float]:
    """Square around a face, given (5, 2) float32 landmarks: corners (4, 2) float32, finished pixels per pixel."""
    landmarks = np.asarray(landmarks, np.float32)
    half = np.float32(0.5)
    eye_center = (landmarks[0] + landmarks[1]) * half + half
    mouth_center = (landmarks[3] + landmarks[4]) * half + half
    eye_to_eye = landmarks[1] - landmarks[0]
    eye_to_mouth = mouth_center - eye_center
    x = eye_to_eye - rotated(eye_to_mouth)
    if not length(x) > 0:
        raise BadImage(f'landmarks {landmarks.tolist()}: eyes and mouth coincide')
    x = x / np.float32(length(x))
    x = x * np.float32(max(length(eye_to_eye) * 2.0, length(eye_to_mouth) * 1.8))
    y = rotated(x)
    center = eye_center + eye_to_mouth * np.float32(0.1)
    return np.stack([center - x - y, center - x + y, center + x + y, center + x - y]), SIZE / (length(x) * 2.0)


def plan_alignment(landmarks: np.ndarray, size: tuple[int, int]) -> Plan:
    """Plan how to align a photo.

    Parameters
    ----------
    landmarks : ndarray, shape (5, 2), float32
        Left eye, right eye, nose, left and right corner of the mouth.
    size : (int, int)
        Width and height of the photo.

    Returns
    -------
    Plan
    """
    quad, zoom = face_square(landmarks)
    if not (np.isfinite(quad).all() and np.abs(quad).max() < MAX_COORDINATE and MIN_ZOOM < zoom < MAX_ZOOM):
        raise BadImage(f'landmarks {np.asarray(landmarks).tolist()}: do not fit a face in a photo of {size[0]}x'
                       f'{size[1]} pixels')
    quads, zooms = {'start': quad}, {'start': zoom}

    # Shrink a photo that is far too large.
    shrink = math.floor(0.5 / zoom)
    if shrink > 1:
        size = round(size[0] / shrink), round(size[1] / shrink)
        quad, zoom = quad / np.float32(shrink), zoom * shrink
        if min(size) < 1:
            raise BadImage(f'landmarks {np.asarray(landmarks).tolist()}: belong to another, larger photo')
    shrunk_size = size
    quads['shrink'], zooms['shrink'] = quad, zoom

    # Crop to the square plus a border.
    border = max(round(SIZE * 0.1 / zoom), 3)
    low, high = bounds(quad)
    crop = (max(low[0] - border, 0), max(low[1] - border, 0),
            min(high[0] + border, size[0]), min(high[1] + border, size[1]))
    crop_done = crop[2] - crop[0] < size[0] or crop[3] - crop[1] < size[1]
    if crop_done:
        quad = (quad - np.array(crop[:2], np.float64)).astype(np.float32)
        size = crop[2] - crop[0], crop[3] - crop[1]
    quads['crop'], zooms['crop'] = quad, zoom

    # Enlarge a photo that is too small.
    superres = int(2 ** math.ceil(np.log2(zoom)))
    if superres > 1:
        size = size[0] * superres, size[1] * superres
        quad, zoom = quad * np.float32(superres), zoom / superres
    quads['superres'], zooms['superres'] = quad, zoom

    # Pad a photo whose square reaches beyond it. The border keeps its size from before the enlargement.
    low, high = bounds(quad)
    pad = (max(border - low[0], 0), max(border - low[1], 0),
           max(high[0] - size[0] + border, 0), max(high[1] - size[1] + border, 0))
    pad_done = max(pad) > border - 4
    if pad_done:
        left, top, right, bottom = (max(side, round(SIZE * 0.3 / zoom)) for side in pad)
        pad = left, top, right, bottom
        quad = (quad + np.array(pad[:2], np.float64)).astype(np.float32)
    quads['pad'], zooms['pad'] = quad, zoom
    return Plan(shrink, shrunk_size, border, crop, crop_done, superres, size, pad, pad_done, quads, zooms)


def bounds(quad: np.ndarray) -> tuple[list[int], list[int]]:
    """Smallest integer rectangle around a quad: ((left, top), (right, bottom))."""
    return [math.floor(value) for value in quad.min(axis=0)], [math.ceil(value) for value in quad.max(axis=0)]


def align(photo: np.ndarray, plan: Plan, exact: bool = False, record: Record | None = None) -> np.ndarray:
    """Cut the face out of a photo, upright, at 1024x1024 pixels.

    Parameters
    ----------
    photo : ndarray, shape (H, W, 3), uint8
    plan : Plan
    exact : bool
        Blur and cut out by the slow methods that are exact by construction.
    record : callable, optional
        Called as ``record(step, image)`` with each step's result: 'decoded', 'shrink', 'crop', 'superres', 'padraw',
        'mask', 'padblur', 'padmed' (float32, overwritten later), 'pad', 'transform', 'final'.

    Returns
    -------
    ndarray, shape (1024, 1024, 3), uint8
    """
    record = record or (lambda step, image: None)
    image = photo
    record('decoded', image)
    if plan.shrink > 1:
        image = resize(image, plan.shrunk_size)
        record('shrink', image)
    if plan.crop_done:
        left, upper, right, lower = plan.crop
        if left >= right or upper >= lower:
            raise BadImage(f'the face lies outside the photo of {image.shape[1]}x{image.shape[0]} pixels: the '
                           'landmarks belong to another photo')
        image = image[upper:lower, left:right]
        record('crop', image)
    if plan.superres > 1:
        image = resize(image, plan.superres_size)
        record('superres', image)
    if plan.pad_done:
        blur = SIZE * 0.02 / plan.zooms['pad']
        image = pad_photo(image, plan.pad, blur, exact, record)
        record('pad', image)
    quad = plan.quads['pad'] + np.float32(0.5)
    side = SIZE * SUPERSAMPLING
    image = transform_exactly(image, quad, (side, side)) if exact else transform_fast(image, quad, (side, side))
    record('transform', image)
    image = resize(image, (SIZE, SIZE))
    record('final', image)
    return image


# ----------------------------------------------------------------------------------------------------------------------
# Padding: the photo is mirrored beyond its edges, blurred there, and faded to its median colour.


def edge_mask(num: int, before: int, after: int) -> np.ndarray:
    """(num,) float32 mask of an axis: 1 at both ends, 0 where the padding ends, negative further in."""
    place = np.arange(num, dtype=np.float32)
    return np.float32(1) - np.minimum(place / np.float32(before), (np.float32(num - 1) - place) / np.float32(after))


def pad_photo(image: np.ndarray, pad: tuple[int, int, int, int], blur: float, exact: bool = False,
              record: Record | None = None) -> np.ndarray:
    """Pad a photo.

    Parameters
    ----------
    image : ndarray, shape (H, W, 3), uint8
    pad : (int, int, int, int)
        Pixels to add: left, top, right, bottom.
    blur : float
        Standard deviation in pixels.
    exact, record
        See :func:`align`.

    Returns
    -------
    ndarray, shape (top + H + bottom, left + W + right, 3), uint8
        Computed in float32; rounded half to even.
    """
    record = record or (lambda step, image: None)
    left, top, right, bottom = pad
    planes = np.pad(image.transpose(2, 0, 1), ((0, 0), (top, bottom), (left, right)), mode='reflect').astype(np.float32)
    record('padraw', planes.transpose(1, 2, 0))
    mask_y, mask_x = edge_mask(planes.shape[1], top, bottom), edge_mask(planes.shape[2], left, right)
    mask = np.maximum.outer(mask_y, mask_x)
    record('mask', mask[..., np.newaxis])
    regions = frame_regions(mask_y, mask_x)
    for plane in planes:
        changes = [blur_region(plane, region, blur, exact) for region in regions]
        for region, change in zip(regions, changes, strict=True):
            change -= plane[region]
            change *= (mask[region] * np.float32(3) + np.float32(1)).clip(0, 1)
            plane[region] += change
    record('padblur', planes.transpose(1, 2, 0))
    for plane in planes:
        median = np.float32(np.median(plane))
        for region in regions:
            plane[region] += (median - plane[region]) * mask[region].clip(0, 1)
    record('padmed', planes.transpose(1, 2, 0))
    pixels = np.rint(planes, out=planes).clip(0, 255, out=planes).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def frame_regions(mask_y: np.ndarray, mask_x: np.ndarray) -> list[Region]:
    """Rectangles, as (rows, columns) slices, that together cover all pixels whose mask is above -1/3."""
    (y0, y1), (x0, x1) = (inner_range(mask) for mask in (mask_y, mask_x))
    if y0 == y1 or x0 == x1:
        return [(slice(0, len(mask_y)), slice(0, len(mask_x)))]
    everywhere, middle = slice(0, len(mask_x)), slice(y0, y1)
    return [(slice(0, y0), everywhere), (slice(y1, len(mask_y)), everywhere),
            (middle, slice(0, x0)), (middle, slice(x1, len(mask_x)))]


def inner_range(mask: np.ndarray) -> tuple[int, int]:
    """Start and end of the range along an axis where the blur has no weight; equal if it has weight everywhere."""
    inner = np.flatnonzero(mask * np.float32(3) + np.float32(1) <= 0)
    return (inner[0], inner[-1] + 1) if len(inner) else (0, 0)


def blur_region(plane: np.ndarray, region: Region, sigma: float, exact: bool = False) -> np.ndarray:
    """`region` of a Gaussian blur of `plane`, (H, W) float32. The result is float32, rounded after each axis.

    The fast form uses Fourier transforms in float64; its error of about 1e-13 rarely changes a float32 value.
    """
    radius = int(BLUR_TRUNCATE * sigma + 0.5)
    reach, missing, within = [], [], []
    for part, size in zip(region, plane.shape, strict=True):
        start, stop = part.start - radius, part.stop + radius
        reach.append(slice(max(start, 0), min(stop, size)))
        missing.append((max(-start, 0), max(stop - size, 0)))
        within.append(slice(part.start - reach[-1].start, part.stop - reach[-1].start))
    source = plane[tuple(reach)]
    if exact:
        return scipy.ndimage.gaussian_filter(source, sigma, truncate=BLUR_TRUNCATE)[tuple(within)]
    kernel = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    kernel /= kernel.sum()
    source = np.pad(source, missing, mode='symmetric')
    return convolve_rows(convolve_rows(source.T, kernel).T, kernel)


def convolve_rows(rows: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve the rows of (n, k) with a symmetric kernel, without padding: float32 (n, k - len + 1)."""
    radius, num = len(kernel) // 2, rows.shape[1]
    padded = scipy.fft.next_fast_len(num, real=True)
    centered = np.zeros(padded)
    centered[:len(kernel)] = kernel
    response = scipy.fft.rfft(np.roll(centered, -radius)).real      # Real, because the kernel is symmetric.
    result = np.empty((len(rows), num - 2 * radius), np.float32)
    block = np.zeros((ROWS_PER_BLOCK, padded))
    for start in range(0, len(rows), ROWS_PER_BLOCK):
        count = min(ROWS_PER_BLOCK, len(rows) - start)
        block[:count, :num] = rows[start:start + count]
        spectrum = scipy.fft.rfft(block[:count])
        spectrum *= response
        result[start:start + count] = scipy.fft.irfft(spectrum, padded, overwrite_x=True)[:, radius:num - radius]
    return result
