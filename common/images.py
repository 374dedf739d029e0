"""Images as arrays and files: dynamic ranges, grids, PNG and JPEG."""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError
from common.files import AnyPath, atomic_write

DynamicRange = Sequence[float]      # Lowest and highest value.
TITLE_CHARACTERS = 30
PICTURE_PIXELS = 1000               # Approximate longer side of a picture of enlarged small images.
FEW_CLASSES = 5                     # With fewer classes, a square grid would show too few images.


def adjust_dynamic_range(data: Any, drange_in: DynamicRange, drange_out: DynamicRange) -> Any:
    """Map values linearly from `drange_in` to `drange_out`.

    Parameters
    ----------
    data : ndarray or Theano expression
    drange_in, drange_out : (float, float)
        Lowest and highest value.

    Returns
    -------
    ndarray or Theano expression
        `data` itself if the ranges are equal. Otherwise scale and offset are float32, integers become float32 and
        float64 stays float64. Values outside the range are not clipped.
    """
    if tuple(drange_in) == tuple(drange_out):
        return data
    if isinstance(data, np.ndarray) and data.dtype.kind in 'bui':
        data = data.astype(np.float32)
    low_in, high_in, low_out, high_out = np.array([*drange_in, *drange_out], np.float32)
    scale = (high_out - low_out) / (high_in - low_in)
    return data * scale + (low_out - low_in * scale)


def create_image_grid(images: np.ndarray, grid_size: tuple[int, int] | None = None) -> np.ndarray:
    """Arrange images in a grid, row by row.

    Parameters
    ----------
    images : ndarray, shape (N, C, H, W) or (N, H, W)
    grid_size : (columns, rows), optional
        Default: the smallest nearly square grid.

    Returns
    -------
    ndarray, shape (C, rows * H, columns * W) or (rows * H, columns * W), dtype of `images`
        Empty cells are 0.

    Raises
    ------
    ValueError
        The images have other axes, or do not fit into the grid.
    """
    if images.ndim not in (3, 4):
        raise ValueError(f'images of shape {images.shape}: must be [N, C, H, W] or [N, H, W]')
    num, (height, width) = len(images), images.shape[-2:]
    if grid_size is None:
        columns = max(math.ceil(math.sqrt(num)), 1)
        grid_size = columns, max(math.ceil(num / columns), 1)
    columns, rows = grid_size
    if num > columns * rows:
        raise ValueError(f'grid_size={tuple(grid_size)}: holds {columns * rows} images, but there are {num}')
    grid = np.zeros(images.shape[1:-2] + (rows * height, columns * width), dtype=images.dtype)
    for index, image in enumerate(images):
        y, x = index // columns * height, index % columns * width
        grid[..., y:y + height, x:x + width] = image
    return grid


def convert_to_pil_image(image: np.ndarray, drange: DynamicRange | None = None) -> Image.Image:
    """Convert an array to a Pillow image of mode L or RGB.

    Parameters
    ----------
    image : ndarray, shape (1, H, W), (3, H, W) or (H, W)
    drange : (float, float), optional
        Values of black and white. Values are rounded half to even, then clipped. Default: (0, 255) for uint8,
        else (0, 1).

    Raises
    ------
    ValueError
        `image` has another shape.
    UserError
        Some pixels are NaN or infinite, which would show as black or white.
    """
    if image.dtype.kind == 'f' and not np.isfinite(image).all():
        raise UserError('an image contains NaN or infinity and cannot be shown; the network that made it has diverged')
    if image.ndim == 3 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[0] == 3):
        raise ValueError(f'image of shape {image.shape}: must be [1, H, W], [3, H, W] or [H, W]')
    if drange is None:
        drange = (0, 255) if image.dtype == np.uint8 else (0, 1)
    image = np.rint(adjust_dynamic_range(image, drange, (0, 255))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)) if image.ndim == 3 else image)


def save_image(image: np.ndarray, path: AnyPath, drange: DynamicRange | None = None, quality: int = 95) -> None:
    """Write one image, (C, H, W) or (H, W); the suffix of `path` selects the format. `quality` is for JPEG."""
    save_pil_image(convert_to_pil_image(image, drange), path, quality)


def save_image_grid(images: np.ndarray, path: AnyPath, drange: DynamicRange | None = None,
                    grid_size: tuple[int, int] | None = None) -> None:
    """Write images (N, C, H, W) or (N, H, W) as a grid in one file; see :func:`create_image_grid`."""
    save_image(create_image_grid(images, grid_size), path, drange)


def save_pil_image(image: Image.Image, path: AnyPath, quality: int = 95) -> None:
    """Write a Pillow image to `path`, atomically."""
    extensions = Image.registered_extensions()
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in extensions:
        raise UserError(f'{path}: no image format has the suffix {suffix!r}; use .png or .jpg')
    with atomic_write(path) as image_file:
        image.save(image_file, format=extensions[suffix], quality=quality)


def with_row_titles(image: Image.Image, titles: Sequence[str], num_rows: int | None = None) -> Image.Image:
    """Add a line of text to the left of each row of an image with rows of equal height.

    Parameters
    ----------
    image : Pillow image
    titles : sequence of str
        Titles of the first rows. Characters that the built-in font lacks are replaced.
    num_rows : int, optional
        Default: the number of `titles`.
    """
    row_height = image.height / (num_rows or len(titles))
    size = int(np.clip(row_height / 3, 9, 24))
    font = ImageFont.load_default(size)
    lines = [title.encode('latin-1', 'replace').decode('latin-1')[:TITLE_CHARACTERS] for title in titles]
    margin = int(max(map(font.getlength, lines), default=0)) + size
    canvas = Image.new('RGB', (margin + image.width, image.height), 'white')
    canvas.paste(image, (margin, 0))
    draw = ImageDraw.Draw(canvas)
    for row, line in enumerate(lines):
        draw.text((margin - size // 2, int((row + 0.5) * row_height)), line, fill='black', font=font, anchor='rm')
    return canvas


def zoom_to_see(height: int, width: int, pixels: int = PICTURE_PIXELS) -> int:
    """The whole number by which to enlarge a picture so that its longer side has about `pixels` pixels."""
    return max(round(pixels / max(height, width)), 1)


def zoomed(images: np.ndarray, zoom: int) -> np.ndarray:
    """Images (..., H, W), each pixel enlarged to `zoom` x `zoom`."""
    return images if zoom == 1 else images.repeat(zoom, axis=-2).repeat(zoom, axis=-1)


def class_grid_size(num_classes: int, height: int, width: int, in_rows: bool) -> tuple[int, int]:
    """(columns, rows) of the image grids of a training, with one class per row or column.

    Each class has as many images as there are classes, as in the 2017 release. If there are few classes, each has as
    many images as fit on the screen.
    """
    columns, rows = snapshot_grid_size(height, width)
    images = num_classes if num_classes >= FEW_CLASSES else max(num_classes, columns if in_rows else rows)
    return (images, num_classes) if in_rows else (num_classes, images)


def snapshot_grid_size(height: int, width: int) -> tuple[int, int]:
    """(columns, rows) of a run's image grids: as many as fit on a Full HD screen, within limits."""
    return int(np.clip(1920 // width, 3, 16)), int(np.clip(1080 // height, 2, 16))
