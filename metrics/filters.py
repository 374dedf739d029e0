"""Separable image filters as products with banded matrices, which is faster than adding shifted images."""

import numpy as np

from metrics.threads import blocks

Band = tuple[slice, slice, np.ndarray]      # See bands.

BAND_ROWS = 32      # Outputs per product; more would multiply more zeros.


def bands(matrix: np.ndarray) -> list[Band]:
    """Split a matrix (outputs, inputs), whose rows are zero except near the diagonal, for :func:`filtered`.

    Returns
    -------
    list of (slice, slice, ndarray)
        Output range, the range of inputs that it depends on, and the submatrix.
    """
    result = []
    for outputs in blocks(len(matrix), BAND_ROWS):
        used = np.flatnonzero(matrix[outputs].any(axis=0))
        inputs = slice(int(used[0]), int(used[-1]) + 1)
        result.append((outputs, inputs, np.ascontiguousarray(matrix[outputs, inputs])))
    return result


def filtered(x: np.ndarray, row_bands: list[Band], column_bands: list[Band]) -> np.ndarray:
    """Multiply `x` (..., H, W) by one banded matrix along H and by another one along W; a new array."""
    y = np.empty(x.shape[:-1] + (column_bands[-1][0].stop,), x.dtype)
    for outputs, inputs, part in column_bands:
        np.matmul(x[..., inputs], part.T, out=y[..., outputs])
    z = np.empty(x.shape[:-2] + (row_bands[-1][0].stop, y.shape[-1]), x.dtype)
    for outputs, inputs, part in row_bands:
        np.matmul(part, y[..., inputs, :], out=z[..., outputs, :])
    return z
