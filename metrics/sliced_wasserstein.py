"""Sliced Wasserstein distance between patches of two sets of images, at each level of a Laplacian pyramid.

Section 5 of the paper: 16384 images, 128 patches of 7x7 pixels per image and level, 512 random directions. A low value
at a level means that the sets have similar structure at this scale.
"""

import functools
import tempfile
from collections.abc import Callable
from types import ModuleType

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common.console import Progress
from common.errors import UserError
from common.files import AnyPath
from common.options import PositiveInt, Seed, checked
from metrics import Direction, check_finite
from metrics.filters import bands, filtered
from metrics.threads import blocks, map_threads

RandomNumbers = np.random.RandomState | ModuleType     # The module is `numpy.random`.

FILTER_BITS = 8             # The binomial filter 1 4 6 4 1 has weights in units of 1/16 along each axis: 8 more bits.
BLOCK_PIXELS = 1 << 18      # Pixels that a thread processes at a time, to fit its cache.
PROJECTION_BYTES = 1 << 30  # Size of the projections in memory at a time.
HISTOGRAM_ROWS = 1 << 16    # Values sorted into bins at a time.
MAX_BINS = 1 << 16          # Bin numbers are stored in 16 bits.
MAX_SAVED_BYTES = 1 << 30   # Larger sets of descriptors are recomputed rather than stored.
MIN_BINNED = 1 << 14        # Fewer values are simply sorted.


# ----------------------------------------------------------------------------------------------------------------------
# Laplacian pyramid. Borders are mirrored without repeating the outermost pixels (SciPy's mode 'mirror').


@functools.cache
def _binomial(size, up, dtype):
    """The filter 1 4 6 4 1 along an axis of `size` pixels, see `metrics.filters`.

    Down: evaluated at every second pixel. Up: applied to the pixels with zeros between them.
    """
    grid = 2 * size if up else size
    matrix = np.zeros((grid, grid), dtype)
    for center in range(grid):
        for offset, weight in enumerate((1, 4, 6, 4, 1), start=-2):
            position = abs(center + offset)
            matrix[center, min(position, 2 * (grid - 1) - position)] += weight
    return bands(matrix[:, ::2] if up else matrix[::2])


def _filtered(images, up, bits, factor):
    """Filter `images` along both axes and multiply by `factor`; float32."""
    x = images.astype(np.float32 if bits + FILTER_BITS <= 24 else np.float64, copy=False)
    y = filtered(x, *(_binomial(size, up, x.dtype) for size in x.shape[-2:]))
    y *= factor
    return y.astype(np.float32, copy=False)


def pyr_down(images: np.ndarray, bits: int = 24) -> np.ndarray:
    """Halve the resolution: 5x5 binomial filter, then every second pixel.

    Parameters
    ----------
    images : ndarray, shape (..., H, W)
        H and W even, 4 or more.
    bits : int
        The values are multiples of a unit and less than 2^bits times the unit: 8 for uint8. Up to 16 bits, float32
        arithmetic is exact and used; otherwise float64.

    Returns
    -------
    ndarray, shape (..., H / 2, W / 2), float32
    """
    return _filtered(images, False, bits, 1 / 256)


def pyr_up(images: np.ndarray, bits: int = 24) -> np.ndarray:
    """Double the resolution: zeros between the pixels, then the 5x5 filter with gain 4; see :func:`pyr_down`."""
    return _filtered(images, True, bits, 1 / 64)


def laplacian_pyramid(images: np.ndarray, num_levels: int) -> list[np.ndarray]:
    """Differences between an image and its blurred version at `num_levels` scales; the last level is the remainder.

    Parameters
    ----------
    images : ndarray, shape (N, C, H, W)

    Returns
    -------
    list of ndarray, shapes (N, C, H / 2^level, W / 2^level), float32
        Level k plus `pyr_up` of the sum of the coarser levels is the image at scale k.
    """
    bits = 8 if images.dtype == np.uint8 else 24
    current, levels = images.astype(np.float32), []
    for _level in range(num_levels - 1):
        smaller = pyr_down(current, bits)
        bits = min(bits + FILTER_BITS, 24)
        current -= pyr_up(smaller, bits)
        levels.append(current)
        current = smaller
    return levels + [current]


def downscale(images: np.ndarray, factor: int) -> np.ndarray:
    """Average boxes of `factor` x `factor` pixels; integer types are rounded half to even."""
    if factor == 1:
        return images
    num, channels, height, width = images.shape
    boxes = images.reshape(num, channels, height // factor, factor, width // factor, factor)
    means = boxes.mean(axis=(3, 5), dtype=np.float64 if images.dtype == np.float64 else np.float32)
    return np.rint(means).astype(images.dtype) if images.dtype.kind in 'iu' else means


# ----------------------------------------------------------------------------------------------------------------------
# Descriptors.


def draw_centers(num_images: int, nhoods_per_image: int, nhood_size: int, height: int, width: int,
                 random: RandomNumbers) -> tuple[np.ndarray, np.ndarray]:
    """Random centres (x, y) of patches, each (num_images, nhoods_per_image), drawn in the order of the 2017 release."""
    radius = nhood_size // 2
    shape = num_images * nhoods_per_image, 1, 1, 1
    x = random.randint(radius, width - radius, size=shape)
    y = random.randint(radius, height - radius, size=shape)
    return x.reshape(num_images, -1), y.reshape(num_images, -1)


def extract_descriptors(images: np.ndarray, x: np.ndarray, y: np.ndarray, nhood_size: int) -> np.ndarray:
    """Patches of one pyramid level around the given centres.

    Parameters
    ----------
    images : ndarray, shape (N, C, H, W), float32
    x, y : int arrays, shape (N, nhoods_per_image)
    nhood_size : int
        Odd.

    Returns
    -------
    ndarray, shape (N * nhoods_per_image, C, nhood_size, nhood_size)
        The axes are colour, x, y: transposed in space, as in the 2017 release.
    """
    radius = nhood_size // 2
    transposed = np.ascontiguousarray(images.swapaxes(2, 3))
    # NumPy's type stub allows only one axis.
    windows = sliding_window_view(transposed, (nhood_size,) * 2, axis=(2, 3))  # type: ignore[call-overload]
    image = np.broadcast_to(np.arange(len(images))[:, np.newaxis], x.shape)
    return windows[image.ravel(), :, x.ravel() - radius, y.ravel() - radius]


class DescriptorSet:
    """All descriptors of one level, and the mean and standard deviation of each colour channel.

    Descriptors are stored unnormalised, 4 bytes per number; the projection normalises them. They are in memory or, with
    `spill_dir`, in a temporary file in that folder, which the system caches if it has free memory.
    """

    def __init__(self, channels: int, spill_dir: AnyPath | None = None) -> None:
        self.num = 0
        self.parts: list[np.ndarray] = []
        self.sums, self.square_sums = np.zeros(channels), np.zeros(channels)
        try:
            self.file = tempfile.TemporaryFile(dir=spill_dir) if spill_dir else None
        except OSError as error:
            raise UserError(f'spill_dir={spill_dir!r}: cannot make a file in it ({error.strerror}); choose '
                            'another folder') from error

    def append(self, descriptors: np.ndarray, sums: np.ndarray, square_sums: np.ndarray) -> None:
        """Add descriptors (N, C * size * size) float32, with the sums and the sums of squares of each channel."""
        self.num += len(descriptors)
        self.sums += sums
        self.square_sums += square_sums
        self.length = descriptors.shape[1]
        if self.file:
            descriptors.tofile(self.file)
        else:
            self.parts.append(descriptors)

    def arrays(self) -> list[np.ndarray]:
        """The descriptors as a few arrays (n, C * size * size)."""
        if not self.file:
            return [part[rows] for part in self.parts for rows in blocks(len(part), 1 << 13)]
        self.file.flush()
        rows = np.memmap(self.file, dtype=np.float32, mode='r', shape=(self.num, self.length))
        return [rows[block] for block in blocks(self.num, 1 << 13)]

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel over all descriptors, float64."""
        count = self.num * (self.length // len(self.sums))
        mean = self.sums / count
        return mean, np.sqrt(np.maximum(self.square_sums / count - mean ** 2, 0))

    def projected(self, directions: np.ndarray) -> np.ndarray:
        """Normalised descriptors times `directions` (C * size * size, n): (n, N) float32."""
        mean, std = (np.repeat(x, self.length // len(x))[:, np.newaxis] for x in self.mean_std())
        scaled = directions / std
        offsets = np.sum(scaled * mean, axis=0, keepdims=True).T.astype(np.float32)
        scaled = np.ascontiguousarray(scaled.T, dtype=np.float32)
        result, parts = np.empty((len(scaled), self.num), np.float32), self.arrays()

        def project(part, end):
            np.subtract(scaled @ part.T, offsets, out=result[:, end - len(part):end])

        map_threads(project, parts, np.cumsum([len(part) for part in parts]))
        return result


# ----------------------------------------------------------------------------------------------------------------------
# Distances.


def draw_directions(length: int, num: int, random: RandomNumbers) -> np.ndarray:
    """Random unit vectors (length, num) float32, drawn in the order of the 2017 release."""
    directions = random.randn(length, num)
    directions /= np.sqrt(np.sum(np.square(directions), axis=0, keepdims=True))
    return directions.astype(np.float32)


def wasserstein_1d(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference between the sorted values of `a` and `b`.

    This is the integral over x of the difference between the shares of `a` and of `b` below x. In an interval where the
    difference has the same sign throughout, the integral follows from the number and the sum of the values in it,
    without sorting. Values are therefore counted and summed in many narrow bins, and only the bins in which the sign
    could change, usually a few per cent, are sorted. The result equals that of sorting everything, and takes about a
    tenth of the time for millions of values.

    Parameters
    ----------
    a, b : ndarray, shape (n,), float32
        Overwritten.

    Returns
    -------
    float
    """
    sample = np.sort(np.concatenate([x[::max(len(x) // 2048, 1)] for x in (a, b)]))
    low, high = sample[len(sample) // 256], sample[-1 - len(sample) // 256]
    num_bins = min(1 << (len(a).bit_length() - 3), MAX_BINS)
    if len(a) < MIN_BINNED or not high - low > 1e-6 * max(abs(low), abs(high)):
        return float(np.mean(np.abs(np.sort(a) - np.sort(b)), dtype=np.float64))

    # From here on in units of bins, with 0 in the middle. The first and last bins include all values beyond them.
    scale = np.float32(num_bins / (high - low))
    for x in (a, b):
        x -= (low + high) / 2
        x *= scale
    (counts_a, below_a, bins_a), (counts_b, below_b, bins_b) = (_histogram(x, num_bins) for x in (a, b))
    difference = np.cumsum(counts_a - counts_b)
    difference -= counts_a - counts_b
    changing = (difference - counts_b < 0) & (difference + counts_a > 0)
    changing[[0, -1]] = True
    integrals = np.abs(difference + below_a - below_b)
    integrals[changing] = 0
    sorted_integral = _sorted_integral(_within(a, bins_a, changing), _within(b, bins_b, changing), difference)
    return float((np.sum(integrals) + sorted_integral) / scale / len(a))


def _bins(positions, num_bins):
    """(position within the bin, from 0 to 1; number of the bin); the outermost bins include all values beyond them."""
    inside = np.maximum(positions, np.float32(-num_bins // 2))
    np.minimum(inside, np.float32(num_bins // 2 - 0.5), out=inside)
    bins = np.floor(inside)
    inside -= bins
    bins += np.float32(num_bins // 2)
    return inside, bins


def _histogram(positions, num_bins):
    """Number of values in each bin; number of values below x, integrated over each bin; each value's bin, uint16.

    A single sum gives the first two: each value adds 1 plus a tiny multiple of its position in the bin.
    """
    tiny = 0.5 ** (len(positions).bit_length() + 1)
    sums, bin_of_value = np.zeros(num_bins), np.empty(len(positions), np.uint16)
    for rows in blocks(len(positions), HISTOGRAM_ROWS):
        fractions, bins = _bins(positions[rows], num_bins)
        bins = bins.astype(np.intp)
        bin_of_value[rows] = bins
        weights = fractions.astype(np.float64)
        weights *= tiny
        weights += 1
        sums += np.bincount(bins, weights=weights, minlength=num_bins)
    counts = np.floor(sums)
    return counts, counts - (sums - counts) / tiny, bin_of_value


def _within(positions, bin_of_value, chosen):
    """The `positions` in the chosen bins, sorted."""
    return np.sort(np.concatenate([positions[rows][chosen.take(bin_of_value[rows])]
                                   for rows in blocks(len(positions), HISTOGRAM_ROWS)]))


def _sorted_integral(a, b, difference):
    """Integral of |number of `a` below x - number of `b` below x| over the bins of the values `a` and `b`.

    `a` and `b` are sorted; `difference` is the difference of these numbers at the lower end of each bin.
    """
    order = np.argsort(np.concatenate([a, b]), kind='stable')       # Merges two sorted runs.
    signs = np.where(order < len(a), 1.0, -1.0)
    x = np.concatenate([a, b])[order].astype(np.float64)
    bins = _bins(x, len(difference))[1].astype(np.intp)
    first = np.flatnonzero(np.diff(bins, prepend=-1))       # First value of each bin.
    last = np.append(first[1:], len(x)) - 1
    heights = np.cumsum(signs)
    heights += np.repeat(difference[bins[first]] - heights[first] + signs[first], last - first + 1)
    ends = np.append(x[1:], 0)
    ends[last] = bins[last] + 1 - len(difference) // 2
    before_first = np.abs(difference[bins[first]]) * (x[first] - bins[first] + len(difference) // 2)
    return np.sum(np.abs(heights) * (ends - x)) + np.sum(before_first)


def sliced_wasserstein(a: DescriptorSet, b: DescriptorSet, dir_repeats: int, dirs_per_repeat: int,
                       random: RandomNumbers = np.random, progress: Callable[[], object] = lambda: None) -> float:
    """Sliced Wasserstein distance of two sets of descriptors.

    Parameters
    ----------
    a, b : DescriptorSet
        Must have the same number of descriptors.
    dir_repeats, dirs_per_repeat : int
        Averages over `dir_repeats` times `dirs_per_repeat` random directions.
    random : numpy.random.RandomState or the module
        Used for one ``randn(length, dirs_per_repeat)`` per repeat.
    progress : callable
        Called after every repeat.

    Returns
    -------
    float
    """
    if a.num != b.num:
        raise ValueError(f'{a.num} and {b.num} descriptors: both sets need the same number of images')
    distances = []
    for _repeat in range(dir_repeats):
        directions = draw_directions(a.length, dirs_per_repeat, random)
        for block in blocks(dirs_per_repeat, max(PROJECTION_BYTES // (8 * a.num), 1)):
            projections = zip(a.projected(directions[:, block]), b.projected(directions[:, block]), strict=True)
            distances += map_threads(lambda pair: wasserstein_1d(*pair), projections)
        progress()
    return float(np.mean(distances))


class SlicedWasserstein:
    """Sliced Wasserstein distance times 1000 per pyramid level.

    ``begin('reals')``, feed the real images, ``end('reals')``; then the same with ``'fakes'`` for each generator. Takes
    ``4 * nhoods_per_image * C * nhood_size^2`` bytes per image and level for each of the two sets (4.9 GB for the
    paper's setting at 128x128), because the distance is defined on whole sets; images are not stored.

    Parameters
    ----------
    nhood_size : int
        Width of the patches, in pixels; odd.
    nhoods_per_image : int
        Patches per image and level.
    dir_repeats, dirs_per_repeat : int
        Number of random directions.
    resolution_max, resolution_min : int
        Finest and coarsest level. Larger images are averaged down to `resolution_max`.
    random_seed : int, optional
        Every `begin` restarts the random numbers, with one sequence for the reals and another one for all fakes.
        Default: NumPy's global generator, in the order of the 2017 release.
    spill_dir : str, optional
        Store the descriptors in temporary files in this folder instead of in memory.
    """

    decides = 'SWDx1e3_avg'
    better: dict[str, Direction] = {'SWDx1e3_avg': 'lower'}     # Of an instance: of all its levels, too.

    @checked
    def __init__(self, nhood_size: PositiveInt = 7, nhoods_per_image: PositiveInt = 128, dir_repeats: PositiveInt = 4,
                 dirs_per_repeat: PositiveInt = 128, resolution_max: PositiveInt = 1024,
                 resolution_min: PositiveInt = 16, random_seed: Seed | None = None,
                 spill_dir: AnyPath | None = None) -> None:
        self.nhood_size, self.nhoods_per_image = nhood_size, nhoods_per_image
        self.dir_repeats, self.dirs_per_repeat = dir_repeats, dirs_per_repeat
        self.resolution_max, self.resolution_min = resolution_max, resolution_min
        self.random: RandomNumbers = np.random
        self.random_seed = random_seed
        self.spill_dir = spill_dir
        self.resolutions: list[int] = []
        self.sets: list[DescriptorSet] = []
        self.real_sets: list[DescriptorSet] = []

    def names(self) -> list[str]:
        """Names of the values that :meth:`end` returns; known after the first images."""
        return [f'SWDx1e3_{resolution}' for resolution in self.resolutions] + ['SWDx1e3_avg']

    def begin(self, mode: str) -> None:
        """Start with `mode` 'warmup', 'reals' or 'fakes'."""
        if mode == 'fakes' and not self.real_sets:
            raise ValueError("begin('fakes'): feed 'reals' first")
        self.sets = []
        if self.random_seed is not None:
            self.random = np.random.RandomState((self.random_seed + (mode == 'fakes')) % 2 ** 32)

    def feed(self, mode: str, images: np.ndarray) -> None:
        """Add images (N, C, H, W), uint8 or floats from 0 to 255; H = W must be a power of two."""
        check_finite('swd: images', images)
        images = downscale(images, max(images.shape[2] // self.resolution_max, 1))
        channels, resolution = images.shape[1:3]
        if not self.sets:
            self._start(channels, resolution)
        elif resolution != self.resolutions[0]:
            raise ValueError('images of %dx%d after images of %dx%d' % ((resolution,) * 2 + (self.resolutions[0],) * 2))
        centers = [draw_centers(len(images), self.nhoods_per_image, self.nhood_size, size, size, self.random)
                   for size in self.resolutions]
        parts = blocks(len(images), max(BLOCK_PIXELS // images[0].size, 1))
        length = channels * self.nhood_size ** 2
        results = [np.empty((len(images) * self.nhoods_per_image, length), np.float32) for _size in self.resolutions]

        def describe(part):
            sums = []
            pyramid = laplacian_pyramid(images[part], len(self.resolutions))
            for level, (x, y), result in zip(pyramid, centers, results, strict=True):
                rows = result[part.start * self.nhoods_per_image:part.stop * self.nhoods_per_image]
                rows[:] = extract_descriptors(level, x[part], y[part], self.nhood_size).reshape(len(rows), length)
                sums.append([_channel_sums(rows, channels), _channel_sums(np.square(rows), channels)])
            return sums

        sums = np.sum(map_threads(describe, parts), axis=0)
        for descriptors, result, (level_sums, square_sums) in zip(self.sets, results, sums, strict=True):
            descriptors.append(result, level_sums, square_sums)

    def _start(self, channels, resolution):
        sizes = [1 << k for k in range(resolution.bit_length() - 1, 0, -1)]
        self.resolutions = [size for size in sizes if size >= self.resolution_min]
        self.better = dict.fromkeys(self.names(), 'lower')
        if not self.resolutions or resolution & (resolution - 1):
            raise UserError(f'swd: images of {resolution}x{resolution}; needs a power of two, '
                            f'{self.resolution_min} or more')
        self.sets = [DescriptorSet(channels, self.spill_dir) for _size in self.resolutions]

    def end(self, mode: str) -> list[float]:
        """Distances to the reals, one per level, and their mean, all times 1000; 0 for 'reals' and 'warmup'."""
        if not self.sets:
            raise ValueError(f'end({mode!r}): no images were fed')
        if mode in ('warmup', 'reals'):
            self.real_sets = self.sets
            for descriptors in self.sets:
                for _repeat in range(self.dir_repeats):     # The 2017 release compares the reals with themselves.
                    draw_directions(descriptors.length, self.dirs_per_repeat, self.random)
            distances = [0.0] * len(self.sets)
        else:
            with Progress('swd', len(self.sets) * self.dir_repeats, 'comparisons') as bar:
                distances = [1e3 * sliced_wasserstein(fakes, reals, self.dir_repeats, self.dirs_per_repeat, self.random,
                                                      bar.update)
                             for fakes, reals in zip(self.sets, self.real_sets, strict=True)]
        self.sets = []
        return distances + [float(np.mean(distances))]

    def get_reals(self) -> dict[str, np.ndarray] | None:
        """Descriptors of the reals, {name: array}, for :meth:`set_reals`; None if they take more than 1 GB."""
        if sum(4 * descriptors.num * descriptors.length for descriptors in self.real_sets) > MAX_SAVED_BYTES:
            return None
        arrays = {'resolutions': np.array(self.resolutions)}
        for size, descriptors in zip(self.resolutions, self.real_sets, strict=True):
            arrays[f'descriptors_{size}'] = np.concatenate(descriptors.arrays())
            arrays[f'sums_{size}'] = np.stack([descriptors.sums, descriptors.square_sums])
        return arrays

    def set_reals(self, arrays: dict[str, np.ndarray]) -> None:
        """Use descriptors of reals from an earlier :meth:`get_reals`; ValueError or KeyError if they are invalid."""
        if arrays['resolutions'].ndim != 1 or arrays['resolutions'].dtype.kind != 'i' or not len(arrays['resolutions']):
            raise ValueError('the list of resolutions is invalid')
        resolutions, real_sets = arrays['resolutions'].tolist(), []
        for size in resolutions:
            rows, sums = arrays[f'descriptors_{size}'], arrays[f'sums_{size}']
            if rows.ndim != 2 or rows.dtype != np.float32 or not len(rows) or sums.ndim != 2 or len(sums) != 2 \
                    or rows.shape[1] != sums.shape[1] * self.nhood_size ** 2 or sums.dtype != np.float64:
                raise ValueError(f'descriptors {rows.shape} with sums {sums.shape} at {size}x{size}')
            descriptors = DescriptorSet(sums.shape[1], self.spill_dir)
            descriptors.append(rows, *sums)
            real_sets.append(descriptors)
        self.resolutions, self.real_sets = resolutions, real_sets
        self.better = dict.fromkeys(self.names(), 'lower')


def _channel_sums(rows, channels):
    """Sums of each channel of descriptors (N, C * size * size), float64; float32 adds only some hundred rows."""
    sums = sum(rows[part].sum(axis=0).astype(np.float64) for part in blocks(len(rows), 256))
    return sums.reshape(channels, -1).sum(axis=1)
