"""Multi-scale structural similarity between pairs of images: how similar the images of a set are.

Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality assessment" (2003). The paper averages it
over 10 000 pairs of generated images; low values mean high variation.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.errors import UserError
from metrics import Direction, check_finite
from metrics.filters import bands, filtered
from metrics.threads import blocks, map_threads

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)      # Weights of the scales, finest first.
FILTER_SIZE, FILTER_SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
BLOCK_PIXELS = 1 << 16      # Pixels of the pairs that a thread compares at a time.


def gaussian_window(size: int, sigma: float) -> np.ndarray:
    """Normalised Gaussian (size,), float64. The two-dimensional window is its product with itself."""
    points = np.arange(size) - (size - 1) / 2
    window = np.exp(-points ** 2 / (2 * sigma ** 2))
    return window / window.sum()


@functools.cache
def _gaussian_bands(side, size, sigma):
    """The window at each position along an axis of `side` pixels; see `metrics.filters`."""
    matrix = np.zeros((side - size + 1, side))
    for position, row in enumerate(matrix):
        row[position:position + size] = gaussian_window(size, sigma)
    return bands(matrix)


def ssim_per_pair(a: np.ndarray, b: np.ndarray, max_val: float = 255, filter_size: int = FILTER_SIZE,
                  filter_sigma: float = FILTER_SIGMA, k1: float = K1, k2: float = K2) -> tuple[np.ndarray, np.ndarray]:
    """Structural similarity and its contrast-structure factor, averaged over each pair.

    Parameters
    ----------
    a, b : ndarray, shape (N, C, H, W)
    max_val : float
        Largest value of a pixel.
    filter_size, filter_sigma : int, float
        Size and deviation of the Gaussian window; for smaller images, both are reduced by the same factor.
    k1, k2 : float
        Relative size of the constants that stabilise the quotients.

    Returns
    -------
    (ndarray, ndarray), shape (N,), float64
        The similarity, and its factor without the luminance comparison.
    """
    size = min(filter_size, *a.shape[2:])
    windows = [_gaussian_bands(side, size, filter_sigma * size / filter_size) for side in a.shape[2:]]

    def blurred(x):
        return filtered(x, *windows)

    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = blurred(a), blurred(b)
    product = mean_a * mean_b
    squares = mean_a ** 2 + mean_b ** 2
    covariance = blurred(a * b) - product
    variances = blurred(a * a + b * b) - squares
    c1, c2 = (k1 * max_val) ** 2, (k2 * max_val) ** 2
    contrast = (2 * covariance + c2) / (variances + c2)
    ssim = (2 * product + c1) / (squares + c1) * contrast
    return ssim.mean(axis=(1, 2, 3)), contrast.mean(axis=(1, 2, 3))


def ms_ssim_per_pair(a: np.ndarray, b: np.ndarray, max_val: float = 255, weights: Sequence[float] = WEIGHTS,
                     **ssim_kwargs: Any) -> np.ndarray:
    """Multi-scale structural similarity of each pair: the product of the scales' factors, raised to `weights`.

    Parameters
    ----------
    a, b : ndarray, shape (N, C, H, W)
        Sides must be divisible by 2^(number of weights - 1). Negative factors count as 0.
    max_val : float
    weights : sequence of float
        One per scale; each scale has half the resolution of the one before.
    **ssim_kwargs
        Arguments of :func:`ssim_per_pair`.

    Returns
    -------
    ndarray, shape (N,), float64

    Raises
    ------
    UserError
        The images are too small, or cannot be halved for all scales.
    """
    factor = 2 ** (len(weights) - 1)
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f'pairs of shapes {a.shape} and {b.shape}: must be two equal arrays [N, C, H, W]')
    if a.shape[2] % factor or a.shape[3] % factor:
        raise UserError('ms_ssim: images of %dx%d; sides must be multiples of %d' % (*a.shape[2:], factor))
    a, b = a.astype(np.float64), b.astype(np.float64)
    result = np.ones(len(a))
    for scale, weight in enumerate(weights):
        if scale:
            a, b = (x.reshape(*x.shape[:2], x.shape[2] // 2, 2, -1, 2).mean(axis=(3, 5)) for x in (a, b))
        ssim, contrast = ssim_per_pair(a, b, max_val, **ssim_kwargs)
        result *= np.maximum(ssim if scale == len(weights) - 1 else contrast, 0) ** weight
    return result


class MultiScaleSSIM:
    """Mean similarity of consecutive images: the first with the second, the third with the fourth, and so on.

    Feed minibatches of independently drawn images, of even size. Stores only a sum.
    """

    decides = 'MS-SSIM'
    better: dict[str, Direction] = {'MS-SSIM': 'lower'}

    def __init__(self) -> None:
        self.total, self.num_pairs = 0.0, 0

    def names(self) -> list[str]:
        """Names of the values that :meth:`end` returns."""
        return ['MS-SSIM']

    def begin(self, mode: str) -> None:
        """Start a new evaluation; `mode` may be any name."""
        self.total, self.num_pairs = 0.0, 0

    def feed(self, mode: str, images: np.ndarray) -> None:
        """Add images (N, C, H, W) with values from 0 to 255; N must be even."""
        if len(images) % 2:
            raise ValueError(f'{len(images)} images: pairs are compared, so feed an even number')
        check_finite('ms_ssim: images', images)
        first, second = images[0::2], images[1::2]
        parts = blocks(len(first), max(BLOCK_PIXELS // images[0].size, 1))
        for result in map_threads(lambda part: ms_ssim_per_pair(first[part], second[part]), parts):
            self.total += float(np.sum(result))
            self.num_pairs += len(result)

    def end(self, mode: str) -> list[float]:
        """[mean similarity], between 0 and 1."""
        return [self.total / self.num_pairs]
