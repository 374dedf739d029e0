"""Resizing with the Lanczos filter and the QUAD transform of Pillow 3.1.1, bit for bit.

Pillow has since changed both: it filters with integer weights, and evaluates transforms at the centres of pixels.
Images are (H, W, 3) uint8, sizes (width, height).
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

ROWS_PER_BLOCK = 16         # Rows filtered at a time, to fit the cache.


# ----------------------------------------------------------------------------------------------------------------------
# Resizing.


def filter_rows(rows: np.ndarray, num: int) -> np.ndarray:
    """Lanczos-filter an array (n, k) uint8 along its first axis to (num, k) uint8.

    Each value is 0.5 plus the products in order, with every partial sum rounded to float32, truncated at the end.
    """
    first, weights = lanczos_weights(len(rows), num)
    result = np.empty((num, rows.shape[1]), np.uint8)
    total, product = np.empty((2, rows.shape[1]), np.float32)
    for start in range(0, num, ROWS_PER_BLOCK):
        stop = min(start + ROWS_PER_BLOCK, num)
        block_first = min(first[start:stop])
        block = rows[block_first:max(first[i] + len(weights[i]) for i in range(start, stop))].astype(np.float32)
        for i in range(start, stop):
            total.fill(0.5)
            for row, weight in zip(block[first[i] - block_first:], weights[i], strict=False):
                np.multiply(row, weight, out=product)
                np.add(total, product, out=total)
            result[i] = np.clip(total, 0, 255, out=total)
    return result


def resize(image: np.ndarray, size: tuple[int, int],
           filter_rows: Callable[[np.ndarray, int], np.ndarray] = filter_rows) -> np.ndarray:
    """Resize like Pillow 3.1.1: first the rows, rounded to 8 bits, then the columns.

    Parameters
    ----------
    image : ndarray, shape (H, W, 3), uint8
    size : (int, int)
        New width and height.
    filter_rows : callable, optional
        Filter for the rows. Default: :func:`filter_rows`, which is best for large images.
    """
    width, height = size
    if (image.shape[1], image.shape[0]) == (width, height):
        return image.copy()
    columns = filter_rows(swap_axes(image).reshape(image.shape[1], -1), width)
    rows = swap_axes(columns.reshape(width, image.shape[0], 3)).reshape(image.shape[0], -1)
    return filter_rows(rows, height).reshape(height, width, 3)


def swap_axes(image: np.ndarray) -> np.ndarray:
    """Transpose an image: (H, W, 3) -> (W, H, 3), contiguous."""
    return np.asarray(Image.fromarray(image).transpose(Image.Transpose.TRANSPOSE))


@functools.lru_cache(maxsize=4)
def lanczos_weights(num_in: int, num_out: int) -> tuple[list[int], list[np.ndarray]]:
    """Inputs and weights of each output, as Pillow 3.1.1 computes them in float32.

    Returns
    -------
    (list of int, list of ndarray)
        For each output the index of its first input, and the float32 weights of the consecutive inputs.
    """
    scale = np.float32(num_in) / np.float32(num_out)
    filter_scale = max(scale, np.float32(1))
    support = np.float32(3) * filter_scale
    inverse = np.float32(1) / filter_scale
    centers = ((np.arange(num_out) + 0.5) * np.float64(scale)).astype(np.float32)
    first = np.maximum(np.floor(centers - support), 0).astype(int)
    end = np.minimum(np.ceil(centers + support), num_in).astype(int)
    taps = first[:, np.newaxis] + np.arange((end - first).max())
    arguments = taps.astype(np.float32) - centers[:, np.newaxis]
    arguments = ((arguments + np.float64(0.5)) * np.float64(inverse)).astype(np.float32)
    # Few arguments differ, so the C library's sine is affordable; it rounds better than vectorised ones.
    values, places = np.unique(arguments, return_inverse=True)
    kernel = np.array([lanczos(value) for value in values], np.float32) * inverse
    weights = kernel[places.reshape(arguments.shape)]
    weights[taps >= end[:, np.newaxis]] = 0
    total = np.zeros(num_out, np.float32)
    for tap in weights.T:
        total += tap
    weights /= total[:, np.newaxis]
    return first.tolist(), [row[:count] for row, count in zip(weights, (end - first).tolist(), strict=True)]


def lanczos(x: np.float32) -> np.float32:
    """The Lanczos kernel with three lobes, float32 -> float32."""
    return sinc(x) * sinc(x / np.float32(3)) if -3 <= x < 3 else np.float32(0)


def sinc(x: np.float32) -> np.float32:
    """sin(pi x) / (pi x), float32 -> float32; sine and division are float64."""
    if x == 0:
        return np.float32(1)
    angle = float(np.float32(float(x) * math.pi))
    return np.float32(math.sin(angle) / angle)


# ----------------------------------------------------------------------------------------------------------------------
# The QUAD transform with bilinear interpolation.


def quad_coefficients(quad: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Source position of output pixel (i, j) is a0 + a1 i + a2 j + a3 i j: float64 (4, 2), rows a0 to a3.

    Parameters
    ----------
    quad : ndarray, shape (4, 2), float32
        Upper left, lower left, lower right, upper right corner in the source.
    size : (int, int)
        Width and height of the output.
    """
    width, height = size
    upper_left, lower_left, lower_right, upper_right = np.asarray(quad, np.float32)
    differences = np.stack([upper_left, upper_right - upper_left, lower_left - upper_left,
                            lower_right - lower_left - upper_right + upper_left])
    return differences.astype(np.float64) / np.array([[1], [width], [height], [width * height]], np.float64)


def transform_fast(image: np.ndarray, quad: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Approximates :func:`transform_exactly` with the installed Pillow; rarely, a last bit differs.

    Today's Pillow evaluates positions at pixel centres, 3.1.1 at their upper left corners; therefore the quad is moved
    by half an output pixel.
    """
    width, height = size
    a0, a1, a2, a3 = quad_coefficients(quad, size)
    moved = [a0 + a1 * x + a2 * y + a3 * x * y
             for x, y in [(-0.5, -0.5), (-0.5, height - 0.5), (width - 0.5, height - 0.5), (width - 0.5, -0.5)]]
    return np.asarray(Image.fromarray(image).transform(
        size, Image.Transform.QUAD, np.concatenate(moved).tolist(), Image.Resampling.BILINEAR))


def transform_exactly(image: np.ndarray, quad: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut a quadrilateral out of an image.

    Parameters
    ----------
    image : ndarray, shape (H, W, 3), uint8
    quad : ndarray, shape (4, 2), float32
        Corners: upper left, lower left, lower right, upper right.
    size : (int, int)
        Width and height of the output.

    Returns
    -------
    ndarray, shape (height, width, 3), uint8
        Interpolated in float64 and truncated; black where the source has no pixel.
    """
    width, height = size
    num_rows, num_columns, _ = image.shape
    a0, a1, a2, a3 = quad_coefficients(quad, size)
    pixels = image.reshape(-1, 3)
    i = np.arange(width)
    result = np.empty((height, width, 3), np.uint8)
    for start in range(0, height, ROWS_PER_BLOCK):
        j = np.arange(start, min(start + ROWS_PER_BLOCK, height))[:, np.newaxis]
        x, y = (((a0[k] + a1[k] * i) + a2[k] * j) + (a3[k] * i) * j for k in (0, 1))
        outside = (x < 0) | (x >= num_columns) | (y < 0) | (y >= num_rows)
        column, row = np.floor(x - 0.5), np.floor(y - 0.5)
        dx, dy = ((x - 0.5) - column)[..., np.newaxis], ((y - 0.5) - row)[..., np.newaxis]
        left, right = (np.clip(column + step, 0, num_columns - 1).astype(np.intp) for step in (0, 1))
        upper, lower = (np.clip(row + step, 0, num_rows - 1).astype(np.intp) * num_columns for step in (0, 1))
        values = []
        for line in (upper, lower):
            first, second = (np.take(pixels, line + place, axis=0).astype(np.float64) for place in (left, right))
            values.append(first + (second - first) * dx)
        block = (values[0] + (values[1] - values[0]) * dy).astype(np.uint8)
        block[outside] = 0
        result[start:start + len(j)] = block
    return result
