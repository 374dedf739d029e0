"""Time reading minibatches from a dataset against plain h5py and NumPy.

    python benchmarks/read_dataset.py
    python benchmarks/read_dataset.py --images noise --lods 0 --read-threads 1

The two take turns at reading a temporary dataset of random images, from a warm disk cache and without a cache of
images. `photo` images are smooth with a mild grain and compress like photographs. `noise` cannot be compressed, so gzip
only copies it. The table shows images per second, as median (minimum - maximum) over the repetitions, and milliseconds
of processor time per image, which other programs disturb less.
"""

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from data import chunk_reader
from data.dataset import Dataset
from data.hdf5_writer import HDF5Writer

GRAIN = 1.0     # Standard deviation of the noise in photo-like images, in uint8 levels.


def photo_like(resolution):
    """A uint8 image (3, r, r) of random waves of all sizes, from the whole image down to 4 pixels, with grain."""
    image = 128 + GRAIN * np.random.randn(3, resolution, resolution)
    size = 4
    while size <= resolution // 4:
        for channel in image:
            coarse = Image.fromarray(np.random.randn(size, size).astype(np.float32))
            channel += 60 / np.log2(size) * np.asarray(coarse.resize((resolution, resolution), Image.BICUBIC))
        size *= 4
    return np.rint(image).clip(0, 255).astype(np.uint8)


def noise(resolution):
    return np.random.randint(256, size=(3, resolution, resolution), dtype=np.uint8)


def plain_minibatch(reader, size, lod):
    """The next images of `reader`, read one by one with h5py, then mirrored and blended with plain NumPy."""
    res = reader.resolution >> int(lod)
    images = np.stack([reader.h5[f'data{res}x{res}'][index] for index in reader._advance(size).tolist()])
    mirrored = np.random.rand(size) < 0.5
    images[mirrored] = images[mirrored, :, :, ::-1]
    if lod > int(lod):
        blocks = images.reshape(size, 3, images.shape[2] // 2, 2, images.shape[3] // 2, 2).astype(np.float64)
        blocks += (blocks.mean(axis=(3, 5), keepdims=True) - blocks) * (lod - int(lod))
        images = blocks.astype(np.uint8).reshape(images.shape)
    return images


def wait_until_read_ahead(reader):
    with reader.reader.lock:
        reader.reader.reading_ended.wait_for(lambda: not reader.reader.wanted and not reader.reader.reading)


def measure(read, size, seconds, reader):
    """Images per second and milliseconds of processor time per image.

    Reading ahead is complete at the start and at the end of the measurement, so its time counts.
    """
    start, processor_start, num = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        read()
        num += size
    wait_until_read_ahead(reader)
    return num / (time.perf_counter() - start), 1e3 * (time.process_time() - processor_start) / num


def spread(values):
    return f'{np.median(values):.0f} ({values.min():.0f} - {values.max():.0f})'


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--resolution', type=int, default=1024, help='default: %(default)s')
    parser.add_argument('--images', choices=['photo', 'noise'], default='photo', help='default: %(default)s')
    parser.add_argument('--num-images', type=int, default=32, help='images in the file; default: %(default)s')
    parser.add_argument('--minibatch', type=int, default=4, help='images; default: %(default)s')
    parser.add_argument('--lods', type=float, nargs='*', default=[0, 0.5], help='default: 0 0.5')
    parser.add_argument('--read-threads', type=int, help='default: as in dataset.Dataset')
    parser.add_argument('--repetitions', type=int, default=5, help='default: %(default)s')
    parser.add_argument('--seconds', type=float, default=0.5, help='per measurement; default: %(default)s')
    return parser.parse_args()


def main():
    args = parse_arguments()
    np.random.seed(1)
    make = {'photo': photo_like, 'noise': noise}[args.images]
    with tempfile.TemporaryDirectory() as folder:
        h5_path = os.path.join(folder, 'images.h5')
        with HDF5Writer(h5_path, args.resolution, 3) as writer:
            for _ in range(args.num_images):
                writer.add_images(make(args.resolution)[np.newaxis])
        # The dataset is four times as large as the read-ahead, so that no image is read again while in memory.
        kwargs = {'mirror_augment': True, 'cache_gb': 0, 'prefetch_images': args.num_images // 4}
        with contextlib.ExitStack() as stack:
            plain = stack.enter_context(Dataset(h5_path, **kwargs))
            reader = stack.enter_context(Dataset(h5_path, read_threads=args.read_threads, **kwargs))
            print('%s, %d threads, %s images of %dx%d, compressed to %.0f %%' % (
                chunk_reader.inflater.__name__, reader.reader.num_threads, args.images, args.resolution,
                args.resolution, 100 * os.path.getsize(h5_path) / (args.num_images * 4 * args.resolution ** 2)))
            print(f'{"lod":<5} {"h5py":<22} {"ms":<8} {"dataset.Dataset":<22} {"ms":<8} {"ratio"}')
            for lod in args.lods:
                reads = [lambda lod=lod: plain_minibatch(plain, args.minibatch, lod),
                         lambda lod=lod: reader.next_minibatch(args.minibatch, lod, shrink_based_on_lod=True)]
                for read in reads:
                    read()
                wait_until_read_ahead(reader)
                results = np.array([[measure(read, args.minibatch, args.seconds, reader) for read in reads]
                                    for _ in range(args.repetitions)])
                (plain_rates, rates), (plain_ms, ms) = results.transpose(2, 1, 0)
                print(f'{lod:<5.1f} {spread(plain_rates):<22} {np.median(plain_ms):<8.1f} {spread(rates):<22} '
                      f'{np.median(ms):<8.1f} {np.median(rates / plain_rates):.1f}', flush=True)


if __name__ == '__main__':
    main()
