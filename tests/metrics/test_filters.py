"""metrics.filters: products with banded matrices equal products with the full matrices."""

import numpy as np
import pytest

from metrics.filters import BAND_ROWS, bands, filtered


def banded(num_outputs, num_inputs, width, seed=0):
    """A matrix whose rows have `width` nonzero numbers around the diagonal."""
    matrix = np.random.RandomState(seed).randn(num_outputs, num_inputs)
    centres = np.arange(num_outputs)[:, np.newaxis] * num_inputs / num_outputs
    matrix[np.abs(np.arange(num_inputs) - centres) > width / 2] = 0
    return matrix


@pytest.mark.parametrize('size', [7, BAND_ROWS, BAND_ROWS + 1, 3 * BAND_ROWS])
def test_bands_hold_every_number_of_the_matrix_once(size):
    matrix = banded(size, 2 * size, 5)
    whole = np.zeros_like(matrix)
    for outputs, inputs, part in bands(matrix):
        assert not whole[outputs].any() and part.flags.c_contiguous
        whole[outputs, inputs] += part
    np.testing.assert_array_equal(whole, matrix)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_filtered_multiplies_along_both_axes(dtype):
    rows, columns = banded(40, 80, 6).astype(dtype), banded(70, 35, 4, seed=1).astype(dtype)
    x = np.random.RandomState(2).randn(2, 3, 80, 35).astype(dtype)
    kept = x.copy()
    result = filtered(x, bands(rows), bands(columns))
    assert result.dtype == dtype and result.shape == (2, 3, 40, 70)
    np.testing.assert_allclose(result, rows @ x @ columns.T, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-12)
    np.testing.assert_array_equal(x, kept)
