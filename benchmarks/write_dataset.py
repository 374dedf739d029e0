"""Time writing a dataset against h5py with its gzip filter.

    python benchmarks/write_dataset.py
    python benchmarks/write_dataset.py --resolution 256 --num-images 64 --threads 1 2

The two take turns at writing the same random images; both average and round every level. `photo` images are smooth with
a mild grain and compress like photographs. `noise` cannot be compressed. The table shows images per second and the
speed relative to h5py in the same repetition, both as median (minimum - maximum) over the repetitions, milliseconds of
processor time per image, which other programs disturb less, and the relative size of the file.
"""

import argparse
import contextlib
import io
import os
import pathlib
import sys
import tempfile
import time

import h5py
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from read_dataset import noise, photo_like, spread

from data import hdf5_writer
from data.hdf5_writer import (
    GROUP_BYTES,
    HDF5Writer,
    halve,
)


def write_plainly(h5_path, images):
    """Write the same file with h5py only: HDF5's gzip filter compresses each level, in this thread."""
    resolution = images.shape[2]
    with h5py.File(h5_path, 'w') as h5:
        levels = []
        for shape in [(3, resolution >> lod, resolution >> lod) for lod in range(resolution.bit_length())]:
            levels.append(h5.create_dataset('data%dx%d' % shape[1:], (0,) + shape, np.uint8, maxshape=(None,) + shape,
                                            chunks=(-(-128 // np.prod(shape)),) + shape,
                                            compression='gzip', compression_opts=4))
        step = max(GROUP_BYTES // images[0].nbytes, 1)
        for start in range(0, len(images), step):
            group = images[start:start + step].astype(np.float32)
            for level in levels:
                if group.shape[2] > level.shape[2]:
                    group = halve(group)
                level.resize(len(level) + len(group), axis=0)
                level[-len(group):] = np.rint(group).clip(0, 255).astype(np.uint8)


def write(h5_path, images, num_threads):
    with contextlib.redirect_stdout(io.StringIO()):
        with HDF5Writer(h5_path, images.shape[2], 3, force=True, num_threads=num_threads) as writer:
            for image in images:
                writer.add_images(image[np.newaxis])


def measure(function, h5_path, images, *args):
    """(images per second, milliseconds of processor time per image, bytes in the file per byte of the images)."""
    start, processor_start = time.perf_counter(), time.process_time()
    function(h5_path, images, *args)
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    return len(images) / seconds, 1e3 * processor_seconds / len(images), os.path.getsize(h5_path) / images.size


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--resolution', type=int, default=1024, help='default: %(default)s')
    parser.add_argument('--images', choices=['photo', 'noise'], default='photo', help='default: %(default)s')
    parser.add_argument('--num-images', type=int, default=16, help='default: %(default)s')
    parser.add_argument('--threads', type=int, nargs='*', default=[1, 2], help='default: 1 2')
    parser.add_argument('--repetitions', type=int, default=5, help='default: %(default)s')
    return parser.parse_args()


def main():
    args = parse_arguments()
    np.random.seed(1)
    make = {'photo': photo_like, 'noise': noise}[args.images]
    images = np.stack([make(args.resolution) for _ in range(args.num_images)])
    ways = [('h5py', write_plainly, ())] + [(f'HDF5Writer, {num} threads', write, (num,)) for num in args.threads]
    with tempfile.TemporaryDirectory() as folder:
        results = np.array([[measure(function, os.path.join(folder, 'images.h5'), images, *more)
                             for _name, function, more in ways] for _ in range(args.repetitions)])
    print(f'{args.num_images} {args.images} images of {args.resolution}x{args.resolution}, compressed by '
          f'{hdf5_writer.zlib_compress.__module__}')
    print(f'{"":<24} {"img/s":<24} {"ms":<8} {"times as fast":<24} {"size"}')
    for number, (name, _function, _more) in enumerate(ways):
        rates, milliseconds, sizes = results[:, number].T
        ratios = rates / results[:, 0, 0]
        print('%-24s %-24s %-8.1f %-24s %.1f %%' % (
            name, spread(rates), np.median(milliseconds), '%.1f (%.1f - %.1f)' % (
                np.median(ratios), ratios.min(), ratios.max()), 100 * sizes[0]))


if __name__ == '__main__':
    main()
