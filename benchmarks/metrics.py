"""Time our metrics against straightforward NumPy code; the two take turns in one process.

    python benchmarks/metrics.py --images 16384
    python benchmarks/metrics.py --images 2048 --resolution 64 --parts swd ms_ssim

The images are random waves of all sizes with varying contrast; the fakes have slightly more contrast. `swd` feeds reals
and fakes and computes one distance with the paper's settings (128 patches, 4 x 128 directions). The plain version
follows the formulas: `scipy.ndimage.convolve` with the 5x5 filter, fancy indexing, whole sets as arrays, `np.sort`.

The script prints the results, wall-clock and processor times in seconds, and the ratios plain / ours. Other programs
disturb the processor time less. With 16384 images of 128x128, ours needs about 13 GB of memory, images included, and
the plain version about 20 GB. If memory is short, run `--only ours` and `--only plain` one after the other.
"""

import argparse
import os
import pathlib
import sys
import time

import numpy as np
import scipy.ndimage
import scipy.signal

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from metrics.ms_ssim import MultiScaleSSIM
from metrics.sliced_wasserstein import SlicedWasserstein

FILTER = np.float32([1, 4, 6, 4, 1])
FILTER = np.outer(FILTER, FILTER) / 256


def waves(num, resolution, contrast, seed):
    """Random uint8 images (num, 3, r, r) with details of all sizes; the contrast varies between images."""
    random = np.random.RandomState(seed)
    images = np.empty((num, 3, resolution, resolution), np.uint8)
    for image in images:
        pixels, size = np.full((3, resolution, resolution), 128.0), 4
        strength = contrast * random.gamma(2.0)
        while size <= resolution:
            coarse = random.randn(3, size, size)
            pixels += strength * 40 / size ** 0.5 * scipy.ndimage.zoom(coarse, (1, resolution // size,
                                                                                resolution // size), order=1)
            size *= 4
        image[:] = np.rint(pixels).clip(0, 255)
    return images


# ----------------------------------------------------------------------------------------------------------------------
# The plain versions.


def plain_pyramid(images, num_levels):
    kernel = FILTER[np.newaxis, np.newaxis]
    pyramid = [images.astype(np.float32)]
    for _level in range(1, num_levels):
        smaller = scipy.ndimage.convolve(pyramid[-1], kernel, mode='mirror')[:, :, ::2, ::2]
        stretched = np.zeros_like(pyramid[-1])
        stretched[:, :, ::2, ::2] = smaller
        pyramid[-1] -= scipy.ndimage.convolve(stretched, kernel * 4, mode='mirror')
        pyramid.append(smaller)
    return pyramid


def plain_patches(level, random, radius=3, per_image=128):
    num = per_image * len(level)
    image, channel, x, y = np.ogrid[0:num, 0:3, -radius:radius + 1, -radius:radius + 1]
    x = x + random.randint(radius, level.shape[3] - radius, size=(num, 1, 1, 1))
    y = y + random.randint(radius, level.shape[2] - radius, size=(num, 1, 1, 1))
    return level[image // per_image, channel, y, x]


def plain_swd(reals, fakes, minibatch_size, random):
    num_levels = reals.shape[2].bit_length() - 4
    sets = []
    for images in (reals, fakes):
        patches = [[] for _level in range(num_levels)]
        for begin in range(0, len(images), minibatch_size):
            pyramid = plain_pyramid(images[begin:begin + minibatch_size], num_levels)
            for level, kept in zip(pyramid, patches, strict=True):
                kept.append(plain_patches(level, random))
        if images is reals:     # The release draws these while it compares the reals with themselves.
            [random.randn(147, 128) for _draw in range(4 * num_levels)]
        normalized = []
        while patches:
            x = np.concatenate(patches.pop(0), axis=0)
            x -= np.mean(x, axis=(0, 2, 3), keepdims=True)
            x /= np.std(x, axis=(0, 2, 3), keepdims=True)
            normalized.append(x.reshape(len(x), -1))
        sets.append(normalized)
    distances = []
    for a, b in zip(*sets, strict=True):
        repeats = []
        for _repeat in range(4):
            directions = random.randn(147, 128)
            directions = (directions / np.linalg.norm(directions, axis=0)).astype(np.float32)
            difference = np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)
            repeats.append(np.mean(np.abs(difference)))
        distances.append(1e3 * np.mean(repeats))
    return [*distances, np.mean(distances)]


def plain_ms_ssim(a, b):
    """MS-SSIM of two sets of images (N, C, H, W), with two-dimensional Gaussian windows by FFT."""
    weights, levels = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]), []
    x, y = (images.transpose(0, 2, 3, 1).astype(np.float32) for images in (a, b))
    for _level in range(5):
        size = min(11, x.shape[1])
        points = np.arange(size) - (size - 1) / 2
        window = np.exp(-points ** 2 / (2 * (1.5 * size / 11) ** 2))
        window = np.outer(window, window)
        window = (window / window.sum())[np.newaxis, :, :, np.newaxis]
        mean_x, mean_y, xx, yy, xy = (scipy.signal.fftconvolve(image, window, mode='valid')
                                      for image in (x, y, x * x, y * y, x * y))
        xx, yy, xy = xx - mean_x ** 2, yy - mean_y ** 2, xy - mean_x * mean_y
        contrast = (2 * xy + 58.5225) / (xx + yy + 58.5225)
        ssim = (2 * mean_x * mean_y + 6.5025) / (mean_x ** 2 + mean_y ** 2 + 6.5025) * contrast
        levels.append((ssim.mean((1, 2, 3)), contrast.mean((1, 2, 3))))
        x, y = (image.reshape(len(image), image.shape[1] // 2, 2, image.shape[2] // 2, 2, -1).mean((2, 4))
                if image.shape[1] > 1 else image for image in (x, y))
    factors = [cs for _ssim, cs in levels[:-1]] + [levels[-1][0]]
    return np.prod([np.maximum(factor, 0) ** weight for factor, weight in zip(factors, weights, strict=True)], axis=0)


# ----------------------------------------------------------------------------------------------------------------------


def our_swd(reals, fakes, minibatch_size, random):
    metric = SlicedWasserstein()
    metric.random = random
    for mode, images in (('reals', reals), ('fakes', fakes)):
        metric.begin(mode)
        for begin in range(0, len(images), minibatch_size):
            metric.feed(mode, images[begin:begin + minibatch_size])
        result = metric.end(mode)
    return result


def our_ms_ssim(images, minibatch_size):
    metric = MultiScaleSSIM()
    metric.begin('fakes')
    for begin in range(0, len(images), minibatch_size):
        metric.feed('fakes', images[begin:begin + minibatch_size])
    return metric.end('fakes')


def compare(name, ours, plain, repeats, only):
    """Time both in turns and print times and results."""
    clocks = time.perf_counter, time.process_time
    seconds = {'ours': [], 'plain': []}
    for _repeat in range(repeats):
        for which, function in (('ours', ours), ('plain', plain)):
            if only in (None, which):
                starts = [clock() for clock in clocks]
                result = function()
                seconds[which].append([clock() - start for clock, start in zip(clocks, starts, strict=True)])
                print('%-8s %-5s %8.2f s, %8.2f s of processor time; results %s' % (
                    name, which, *seconds[which][-1], ' '.join('%.6f' % x for x in np.atleast_1d(result))), flush=True)
    if only is None:
        times, processor_times = (np.array(seconds['plain']) / seconds['ours']).T
        print(f'{name:<8} plain {np.median(times):.1f} ({times.min():.1f} - {times.max():.1f}) times as long, '
              f'{np.median(processor_times):.1f} times the processor time', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=1024, help='number of reals and of fakes; default: %(default)s')
    parser.add_argument('--resolution', type=int, default=128)
    parser.add_argument('--minibatch', type=int, default=64)
    parser.add_argument('--repeats', type=int, default=1)
    parser.add_argument('--parts', nargs='+', choices=['swd', 'ms_ssim'], default=['swd', 'ms_ssim'])
    parser.add_argument('--only', choices=['ours', 'plain'])
    args = parser.parse_args()
    print(f'{args.images} images of {args.resolution}x{args.resolution}, '
          f'OMP_NUM_THREADS={os.environ.get("OMP_NUM_THREADS")}, {os.cpu_count()} cores')
    reals, fakes = (waves(args.images, args.resolution, contrast, seed) for seed, contrast in ((1, 1.0), (2, 1.02)))
    if 'swd' in args.parts:
        compare('swd', lambda: our_swd(reals, fakes, args.minibatch, np.random.RandomState(1000)),
                lambda: plain_swd(reals, fakes, args.minibatch, np.random.RandomState(1000)), args.repeats,
                args.only)
    if 'ms_ssim' in args.parts:
        def plain():
            parts = [fakes[begin:begin + args.minibatch] for begin in range(0, len(fakes), args.minibatch)]
            return np.mean(np.concatenate([plain_ms_ssim(part[0::2], part[1::2]) for part in parts]))
        compare('ms_ssim', lambda: our_ms_ssim(fakes, args.minibatch), plain, args.repeats, args.only)


if __name__ == '__main__':
    main()
