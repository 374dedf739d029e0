"""Random images of any size, for speed measurements, which depend only on the size of the images."""

import numpy as np

from common.errors import UserError
from data.hdf5_format import is_power_of_two
from data.image_source import ImageSource

BLOT_GRID = 8           # Random values per side, enlarged smoothly.


def synthetic(resolution: int = 1024, num_images: int = 64, grey: bool = False, seed: int = 123) -> ImageSource:
    """Make soft blots of random colour; each image depends only on `seed` and its index.

    Parameters
    ----------
    resolution : int
        A power of two, at least 4.
    num_images : int
    grey : bool
        One channel instead of three.
    seed : int

    Returns
    -------
    ImageSource

    Raises
    ------
    UserError
        An argument is out of range.
    """
    if not is_power_of_two(resolution) or resolution < 4:
        raise UserError(f'--resolution {resolution}: must be a power of two, at least 4, for example 1024')
    if num_images < 1:
        raise UserError(f'--num-images {num_images}: must be at least 1')
    channels = 1 if grey else 3
    weights = _enlargement(min(BLOT_GRID, resolution), resolution)

    def read(start, stop):
        for number in range(start, stop):
            blots = np.random.RandomState([seed, number]).rand(channels, weights.shape[1], weights.shape[1])
            yield np.rint(255 * (weights @ blots.astype(np.float32) @ weights.T)).astype(np.uint8)[np.newaxis]

    return ImageSource(num_images, resolution, channels, read)


def _enlargement(size, resolution):
    """Weights (resolution, size), float32, that interpolate linearly between `size` values."""
    places = np.linspace(0, size - 1, resolution)
    distances = np.abs(places[:, np.newaxis] - np.arange(size))
    return np.maximum(1 - distances, 0).astype(np.float32)
