"""data/pillow_2015.py: weights and corners against their definition. test_celebahq.py compares recorded images."""

import numpy as np
import pytest

from data.pillow_2015 import lanczos, lanczos_weights, quad_coefficients, resize, sinc, transform_exactly


def test_the_kernel_has_three_lobes():
    assert sinc(np.float32(0)) == lanczos(np.float32(0)) == 1
    assert lanczos(np.float32(3)) == lanczos(np.float32(-3.5)) == 0
    for x in (1, 2, -1, -2):
        assert abs(lanczos(np.float32(x))) < 1e-7
    assert lanczos(np.float32(1.5)) < 0 < lanczos(np.float32(2.5))


@pytest.mark.parametrize('num_in, num_out', [(8, 8), (5, 16), (64, 16), (37, 11)])
def test_weights_add_up_to_one_and_mirror(num_in, num_out):
    first, weights = lanczos_weights(num_in, num_out)
    assert len(first) == len(weights) == num_out
    for index, (begin, row) in enumerate(zip(first, weights, strict=True)):
        assert row.dtype == np.float32 and 0 <= begin and begin + len(row) <= num_in
        assert row.sum() == pytest.approx(1, abs=1e-6)
        # Pillow may include a weight of zero at the ends.
        whole, mirrored = np.zeros((2, num_in))
        whole[begin:begin + len(row)] = row
        mirrored[first[-1 - index]:first[-1 - index] + len(weights[-1 - index])] = weights[-1 - index]
        np.testing.assert_allclose(whole, mirrored[::-1], rtol=0, atol=1e-5)


def test_one_colour_stays_one_colour():
    image = np.full((40, 30, 3), [3, 128, 255], np.uint8)
    result = resize(image, (17, 90))
    assert result.shape == (90, 17, 3) and (result == [3, 128, 255]).all()


def test_corners_of_a_quad():
    quad = np.float32([[1, 2], [3, 12], [21, 14], [23, 1]])
    a0, a1, a2, a3 = quad_coefficients(quad, (10, 20))
    for (i, j), corner in zip([(0, 0), (0, 20), (10, 20), (10, 0)], quad, strict=True):
        np.testing.assert_allclose(a0 + a1 * i + a2 * j + a3 * i * j, corner, rtol=1e-12)


def test_pixels_outside_are_black():
    image = np.full((8, 8, 3), 200, np.uint8)
    result = transform_exactly(image, np.float32([[-8, 0], [-8, 8], [8, 8], [8, 0]]), (16, 8))
    assert (result[:, :8] == 0).all() and (result[:, 8:] == 200).all()
