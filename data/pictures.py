"""The reader of users' image files: which formats it opens, how they become 8 bit grey or RGB, what it rejects."""

import contextlib
import ctypes
import dataclasses
import functools
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError, _imaging

from common.errors import UserError, one_line
from common.files import AnyPath, check_regular, open_input

Mode = Literal['L', 'RGB']
Crop = Literal['center', 'none']
Source: TypeAlias = AnyPath | bytes | Callable[[], bytes]       # A file, its content, or a function that reads it.

# Pillow's names of the accepted formats, and their file suffixes. Of Pillow's other formats, some are not images (HDF5,
# PDF), and some start a program (PostScript: Ghostscript).
FORMATS = ('PNG', 'JPEG', 'WEBP', 'AVIF', 'TIFF', 'BMP', 'DIB', 'GIF', 'JPEG2000', 'PPM', 'TGA')
SUFFIXES = frozenset(
    '.png .apng .jpg .jpeg .jpe .jfif .mpo .webp .avif .tif .tiff .bmp .dib .gif .jp2 .j2k .j2c .jpc .jpf .jpx .ppm '
    '.pgm .pbm .pnm .pfm .tga'.split())
PIXELS_AT_ONCE = 1 << 26        # Images are decoded in parallel up to this many pixels in total; larger ones, alone.
STRIP_PIXELS = 1 << 22          # Pixels converted at a time.
NARROW_RANGE = 1 / 25           # An image that uses a smaller part of its range is probably a mistake.

ORIENTATION = 0x0112            # Tag numbers of EXIF and TIFF.
BITS_PER_SAMPLE = 258
PHOTOMETRIC = 262
SAMPLE_FORMAT = 339
WHITE_IS_ZERO, SIGNED = 0, 2
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90}


class PictureError(UserError):
    """An image cannot be used. The message is the reason; the caller adds the name."""


@dataclasses.dataclass(frozen=True)
class ImageKind:
    """Properties of an image file, after turning it upright and cropping."""

    width: int
    height: int
    mode: str                       # Pillow's name: 'L' grey, 'RGB', 'RGBA', 'P' palette, 'I;16' 16 bit grey, ...
    frames: int = 1                 # Frames or pages in the file; the first one is used.
    profile: str = ''               # Name of the colour profile, if it is not sRGB and the colours were converted.
    is_narrow: bool = False         # Uses less than `NARROW_RANGE` of its range, or 12 of 16 bits.
    warnings: tuple[str, ...] = ()  # Warnings of Pillow and libtiff.

    NAMES = {'1': 'black and white', 'L': 'grey', 'LA': 'grey with alpha', 'La': 'grey with alpha',
             'RGBA': 'RGB with alpha', 'P': 'palette', 'PA': 'palette with alpha', 'I': '16 bit grey',
             'I;16': '16 bit grey', 'I;16B': '16 bit grey', 'I;16L': '16 bit grey'}

    @property
    def size(self) -> str:
        return f'{self.width}x{self.height}'

    @property
    def name(self) -> str:
        return self.NAMES.get(self.mode, self.mode)

    @property
    def is_grey(self) -> bool:
        return is_grey(self.mode)


def is_grey(mode: str) -> bool:
    """Whether Pillow's `mode` is a grey one."""
    return mode in ('1', 'L', 'LA', 'La') or mode.startswith('I')


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an image."""
    return not name.startswith('.') and os.path.splitext(name)[1].lower() in SUFFIXES


def printable(name: AnyPath) -> str:
    """A file name as one printable line, whatever bytes it consists of."""
    return one_line(os.fspath(name))


def read_picture(source: Source, mode: Mode | None = None, crop: Crop = 'none', size: int | None = None,
                 as_released: bool = False) -> tuple[Image.Image, ImageKind]:
    """Decode an image file to 8 bit: the first frame, upright, transparent pixels on white.

    Values of 16 bits, and of 12 bits in TIFF files, are scaled down. Colours with a profile become sRGB. The number of
    images in memory is limited for all threads together, see `PIXELS_AT_ONCE`.

    Parameters
    ----------
    source : str, bytes or callable
        File, its content, or a function that returns its content.
    mode : {'L', 'RGB'}, optional
        Mode of the result. Default: 'L' if the image is grey, else 'RGB'.
    crop : {'center', 'none'}
        Crop to the largest centred square, or not.
    size : int, optional
        Resize to this width and height (Lanczos).
    as_released : bool
        Drop alpha and ignore colour profiles, as the 2017 release did; for datasets that must match it bit for bit.

    Returns
    -------
    (Image, ImageKind)
        The Pillow image in `mode`, and the properties of the file.

    Raises
    ------
    PictureError
        The file is broken or cannot be read, or the range of its values is unknown. The message is one line without the
        file's name.
    """
    with collected_warnings() as notes:
        try:
            source = source() if callable(source) else source
            if not isinstance(source, bytes):
                check_regular(source)
            with Image.open(_opened(source), formats=formats()) as opened:
                pixels = opened.width * opened.height
            with _PIXEL_BUDGET.reserve(pixels):
                image, orientation, kind = _decode(source, mode, as_released)
                if orientation in UPRIGHT:
                    image = image.transpose(UPRIGHT[orientation])
                if crop == 'center':
                    image = center_square(image)
                kind = dataclasses.replace(kind, width=image.width, height=image.height,
                                           warnings=tuple(dict.fromkeys(notes)))
                return resize_image(image, size) if size else image, kind
        except Exception as error:      # Pillow's decoders may raise anything.
            if isinstance(error, UnidentifiedImageError):
                error = _decoder_error(error, source)
            raise PictureError(_reason(error, notes)) from error


def picture_kind(source: Source, crop: Crop = 'none') -> ImageKind | str:
    """:class:`ImageKind` of a file that :func:`read_picture` can read, or the reason why it cannot."""
    try:
        source = source() if callable(source) else source
        kind = read_picture(source, None, crop)[1]
        return dataclasses.replace(kind, frames=_count_frames(source))
    except Exception as error:
        return _reason(error, [])


def center_square(image: Image.Image) -> Image.Image:
    """Crop a Pillow image to the largest centred square; an odd pixel is cut off at the right or bottom."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image if image.size == (side, side) else image.crop((left, top, left + side, top + side))


def resize_image(image: Image.Image, size: int) -> Image.Image:
    """Resize a Pillow image to size x size pixels (Lanczos)."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS)


def as_array(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image of mode 'L' or 'RGB' to (C, H, W) uint8."""
    pixels = np.asarray(image)
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@functools.lru_cache(maxsize=1)
def formats() -> list[str]:
    """The `FORMATS` that this Pillow supports, for ``Image.open(..., formats=formats())``."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _opened(source: Source) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _count_frames(source):
    with collected_warnings():      # Decoding the first frame has already reported them.
        try:
            with Image.open(_opened(source), formats=formats()) as image:
                return getattr(image, 'n_frames', 1)
        except Exception:       # A later frame is broken; the first one is not.
            return 1


def _decoder_error(error, source):
    """Error of the decoder that recognises the file's first bytes; Pillow hides it and tries the next decoder."""
    with contextlib.suppress(Exception), contextlib.ExitStack() as stack:
        file = stack.enter_context(io.BytesIO(source) if isinstance(source, bytes) else open_input(source))
        start = file.read(16)
        for factory, accept in map(Image.OPEN.__getitem__, formats()):
            if accept and accept(start) is True:
                file.seek(0)
                try:
                    factory(file, '').close()
                except Exception as said:
                    return said
    return error


def _reason(error, notes):
    """The reason why an image cannot be used, on one line."""
    if isinstance(error, PictureError):
        return str(error)
    if isinstance(error, MemoryError):
        return 'too large for the free memory; make it smaller, or free some memory'
    text = (str(error).splitlines() or [''])[0] or type(error).__name__
    said = ''.join(f' ({note})' for note in dict.fromkeys(notes))
    if isinstance(error, Image.DecompressionBombError):
        return f'too large: {text.replace(", could be decompression bomb DOS attack.", "")}; make it smaller'
    if isinstance(error, OSError) and error.errno:
        return f'cannot be read: {error.strerror}'
    if isinstance(error, UnidentifiedImageError):
        return f'broken: not in a supported image format{said}'
    unsupported = isinstance(error, NotImplementedError) or any(
        sign in text + said for sign in ('not available', 'not configured', 'not supported', 'unsupported', 'unknown',
                                  'too large', 'encrypted'))
    return f'{"cannot be read" if unsupported else "broken"}: {text}{said}'


# ----------------------------------------------------------------------------------------------------------------------
# Conversion in strips: for a large image, memory holds the source and the result, but no further copies.


@dataclasses.dataclass(frozen=True)
class _Conversion:
    """How to convert the pixels of an image to 8 bit grey or RGB."""

    mode: Mode
    highest: int                    # Value of white.
    is_inverted: bool               # Zero is white, and Pillow did not invert the values.
    transparent: int | None         # Grey value that is transparent.
    to_srgb: Callable[[Image.Image], Image.Image] | None
    drops_alpha: bool


def _decode(source, mode, as_released):
    """Decode to (8 bit image, EXIF orientation, :class:`ImageKind` before turning)."""
    with Image.open(_opened(source), formats=formats()) as image:
        raw_mode = _raw_mode(image)
        image.load()
        image_mode = image.mode
        _refuse_unknown_range(image)
        profile, to_srgb = ('', None) if as_released else _colour_profile(image)
        mode = mode or ('L' if is_grey(image_mode) else 'RGB')
        conversion = _Conversion(mode, _highest(image), _is_inverted(image), _transparent_grey(image, raw_mode),
                                 to_srgb, as_released)
        if raw_mode == 'RGB;16B' and 'transparency' in image.info:     # Pillow kept the upper bytes of the pixels.
            image.info['transparency'] = tuple(value >> 8 for value in image.info['transparency'])
        is_12_bit = conversion.highest == 65535 and _extrema(image)[1] < 4096
        orientation = _orientation(image)
        if image_mode != mode or to_srgb or image.has_transparency_data:
            flat = _in_strips(image, conversion)
        else:
            # The pixels may be mapped from the file, which would be closed.
            flat = image.copy() if getattr(image, 'map', None) else image
    lowest, largest = _extrema(flat)
    is_narrow = is_12_bit or largest - lowest < NARROW_RANGE * 255
    return flat, orientation, ImageKind(*flat.size, image_mode, profile=profile, is_narrow=is_narrow)


def _raw_mode(image):
    """Pillow's name for the layout of the pixels in a PNG file, such as 'L;2'; '' for others. Lost after loading."""
    args = image.tile[0][3] if image.format == 'PNG' and image.tile else ''
    return args if isinstance(args, str) else str(args[0]) if args else ''


def _tag(image, tag, default):
    """First value of a TIFF tag."""
    value = image.tag_v2.get(tag, default) if image.format == 'TIFF' else default
    return value[0] if isinstance(value, tuple) else value


def _refuse_unknown_range(image):
    if image.mode == 'F':
        raise PictureError('floating-point values of unknown range')
    if _tag(image, SAMPLE_FORMAT, 1) == SIGNED:
        raise PictureError(f'signed {_tag(image, BITS_PER_SAMPLE, 16)} bit integers of unknown range')
    if image.mode == 'I' and image.format not in ('PPM', 'PNG'):    # Older versions of Pillow load 16 bits as 'I'.
        raise PictureError('32 bit integers of unknown range')


def _highest(image):
    if not image.mode.startswith('I'):
        return 255
    return 2 ** _tag(image, BITS_PER_SAMPLE, 16) - 1


def _is_inverted(image):
    return image.mode.startswith('I') and _tag(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO


def _transparent_grey(image, raw_mode):
    """Transparent value of a grey image, or None. Pillow does not scale it together with the pixels."""
    value = image.info.get('transparency')
    if not isinstance(value, int) or not (image.mode in ('1', 'L') or image.mode.startswith('I')):
        return None
    bits = int(raw_mode[2:]) if raw_mode in ('L;2', 'L;4') else 8
    return value * 255 // (2 ** bits - 1)


def _extrema(image):
    """Lowest and highest value of an image over all channels."""
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return min(band[0] for band in bands), max(band[1] for band in bands)


def _orientation(image):
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception as error:      # Bad EXIF data do not affect the pixels.
        warnings.warn(f'EXIF data cannot be read ({error})', stacklevel=1)
        return 1


def _in_strips(image, conversion):
    flat = Image.new(conversion.mode, image.size)
    step = max(STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, step):
        strip = image.crop((0, top, image.width, min(top + step, image.height)))
        flat.paste(_converted(strip, conversion), (0, top))
    return flat


def _converted(image, conversion):
    """Convert a strip to 8 bit, with transparent pixels on white."""
    if image.mode == 'La':      # Premultiplied by alpha: the missing part is white.
        grey, alpha = (np.asarray(image.getchannel(band)).astype(np.int16) for band in (0, 1))
        return Image.fromarray((grey + 255 - alpha).clip(0, 255).astype(np.uint8)).convert(conversion.mode)
    mask = None
    if image.mode.startswith('I'):      # Pillow itself would clip at 255.
        values = np.asarray(image)
        mask = None if conversion.transparent is None else values == conversion.transparent
        values = np.rint(values / (conversion.highest / 255)).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(255 - values if conversion.is_inverted else values)
    elif conversion.transparent is not None:
        image = image.convert('L')
        mask = np.asarray(image) == conversion.transparent
        del image.info['transparency']
    alpha = None
    if conversion.drops_alpha:
        pass
    elif mask is not None:
        alpha = Image.fromarray(np.where(mask, 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert('RGBA')
        alpha = image.getchannel('A')
    if conversion.to_srgb:
        image = conversion.to_srgb(image)
    if alpha is not None:
        image = image.convert('RGB')
        image.putalpha(alpha)
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert(conversion.mode)


# ----------------------------------------------------------------------------------------------------------------------
# Colour profiles.


def _colour_profile(image):
    """(name, function) of an image's colour profile; ('', None) if there is none or it is sRGB."""
    mode = 'RGB' if image.mode in ('RGB', 'RGBA', 'P', 'PA') else 'L' if is_grey(image.mode) else image.mode
    content = image.info.get('icc_profile')
    try:
        if image.mode == 'LAB':
            profile, name = ImageCms.createProfile('LAB'), 'LAB'
        elif not content:
            return '', None
        else:
            opened = ImageCms.ImageCmsProfile(io.BytesIO(content))
            profile, name = opened, ImageCms.getProfileDescription(opened).strip()
            space = opened.profile.xcolor_space.strip()
            if space != {'L': 'GRAY'}.get(mode, mode):
                warnings.warn(f'its colour profile is for {space} and is ignored', stacklevel=1)
                return '', None
            if name.lower().startswith(('srgb', 'c2')):
                return '', None
        # A grey image converts to three equal sRGB channels, of which one is kept.
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile('sRGB'), mode, 'RGB')
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        warnings.warn(f'its colour profile cannot be read and is ignored ({error})', stacklevel=1)
        return '', None

    def to_srgb(strip):
        converted = ImageCms.applyTransform(strip if strip.mode == mode else strip.convert(mode), transform)
        return converted.getchannel(0) if mode == 'L' else converted

    return name or 'unnamed', to_srgb


# ----------------------------------------------------------------------------------------------------------------------
# Memory.


class _PixelBudget:
    """Lets threads decode in parallel while their images have at most `limit` pixels in total."""

    def __init__(self, limit):
        self.limit, self.used, self.condition = limit, 0, threading.Condition()

    @contextlib.contextmanager
    def reserve(self, pixels):
        with self.condition:
            self.condition.wait_for(lambda: not self.used or self.used + pixels <= self.limit)
            self.used += pixels
        try:
            yield
        finally:
            with self.condition:
                self.used -= pixels
                self.condition.notify_all()


_PIXEL_BUDGET = _PixelBudget(PIXELS_AT_ONCE)


# ----------------------------------------------------------------------------------------------------------------------
# Warnings of Python, of Pillow's logger, and of libtiff, which writes to stderr directly.

_COLLECTED = threading.local()      # .notes: list of warnings while the thread is in collected_warnings().
_LOCK = threading.Lock()
_LISTENERS: list[contextlib.ExitStack] = []


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect warnings of Pillow and libtiff in this thread instead of showing them: a list of lines."""
    outer, _COLLECTED.notes = _notes(), []
    with _LOCK:
        _LISTENERS.append(_redirect_warnings() if not _LISTENERS else _LISTENERS[0])
    try:
        yield _COLLECTED.notes
    finally:
        _COLLECTED.notes = outer
        with _LOCK:
            listener = _LISTENERS.pop()
            if not _LISTENERS:
                listener.close()


def _redirect_warnings() -> contextlib.ExitStack:
    """Redirect the warnings of all threads until the result is closed."""
    stack = contextlib.ExitStack()
    stack.enter_context(warnings.catch_warnings())
    show = warnings.showwarning

    def note_or_show(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
        # Every step of the conversion repeats the warning about a large image.
        again = category is Image.DecompressionBombWarning and any('exceeds limit' in note for note in _notes() or ())
        if not again and not _note(str(message)):
            show(message, category, *args, **kwargs)

    warnings.simplefilter('always')
    warnings.showwarning = note_or_show
    handler, logger = _Handler(logging.WARNING), logging.getLogger('PIL')
    logger.addHandler(handler)
    stack.callback(logger.removeHandler, handler)
    _redirect_libtiff()
    return stack


def _notes():
    return getattr(_COLLECTED, 'notes', None)


def _note(text):
    notes = _notes()
    if notes is not None:
        notes.append(' '.join(text.split()))
    return notes is not None


class _Handler(logging.Handler):
    def emit(self, record):
        if not _note(record.getMessage()) and logging.lastResort:
            logging.lastResort.handle(record)


@functools.lru_cache(maxsize=1)
def _redirect_libtiff():
    """Make libtiff call `receive`; where Pillow hides its libtiff, its messages still go to stderr."""
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)

    @prototype
    def receive(_module, text, values):
        buffer = ctypes.create_string_buffer(text, 1000)
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).vsnprintf(buffer, len(buffer), text, ctypes.c_void_p(values))
        message = buffer.value.decode('utf-8', 'replace')
        if not _note(message):
            print(message, file=sys.stderr)

    with contextlib.suppress(OSError, AttributeError, TypeError):
        libtiff = ctypes.CDLL(_imaging.__file__)
        for name in ('TIFFSetErrorHandler', 'TIFFSetWarningHandler'):
            getattr(libtiff, name)(receive)
    return receive    # The cache keeps it alive, because libtiff refers to it.
