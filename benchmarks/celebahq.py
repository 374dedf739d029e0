"""Time the stages of making one CelebA-HQ image on one core: straightforward code against our optimised code.

    python benchmarks/celebahq.py
    python benchmarks/celebahq.py --files 000003.jpg 000008.jpg --rounds 5
    python benchmarks/celebahq.py --celeba ~/celeba --deltas ~/celeba-hq-deltas --files 000131.jpg

`plain` implements the rounding rules directly: whole-array NumPy with gathers, and SciPy's Gaussian filter on the whole
padded photo. `ours` is the code of `dataset_tool.py create_celebahq`. The two take turns, and both must produce the
image with the MD5 of the image list. The table shows the smallest processor time over the rounds in seconds, and the
median over the rounds of plain / ours.
"""

import argparse
import os
import pathlib
import sys
import time

import numpy as np
import scipy.ndimage

os.environ.setdefault('OMP_NUM_THREADS', '1')
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from data import (
    celebahq,
    celebahq_files,
    pillow_2015,
)
from data.hdf5_writer import HDF5Writer

FIXTURE = pathlib.Path(__file__).resolve().parent.parent / 'tests' / 'golden' / 'celebahq'
BLOCK = 256     # Rows that the plain filter processes at a time, to limit memory.


def plain_filter(image, num):
    """Lanczos filter along the first axis, one tap at a time for all outputs."""
    first, weights = pillow_2015.lanczos_weights(len(image), num)
    taps = np.zeros((num, max(map(len, weights))), np.float32)
    for row, values in zip(taps, weights, strict=True):
        row[:len(values)] = values
    result = np.empty((num,) + image.shape[1:], np.uint8)
    for start in range(0, num, BLOCK):
        part = slice(start, min(start + BLOCK, num))
        total = np.full(result[part].shape, 0.5, np.float32)
        for tap in range(taps.shape[1]):
            rows = np.minimum(np.array(first[part]) + tap, len(image) - 1)
            total += image[rows].astype(np.float32) * taps[part, tap][:, np.newaxis, np.newaxis]
        result[part] = total.clip(0, 255)
    return result


def plain_resize(image, size):
    width, height = size
    return plain_filter(plain_filter(image.transpose(1, 0, 2), width).transpose(1, 0, 2), height)


def plain_pad(image, pad, blur):
    left, top, right, bottom = pad
    image = np.pad(image.astype(np.float32), ((top, bottom), (left, right), (0, 0)), mode='reflect')
    mask = np.maximum.outer(celebahq.edge_mask(image.shape[0], top, bottom),
                            celebahq.edge_mask(image.shape[1], left, right))[..., np.newaxis]
    blurred = scipy.ndimage.gaussian_filter(image, (blur, blur, 0))
    image += (blurred - image) * (mask * np.float32(3) + np.float32(1)).clip(0, 1)
    image += (np.median(image, axis=(0, 1)) - image) * mask.clip(0, 1)
    return np.rint(image).clip(0, 255).astype(np.uint8)


WAYS = {
    'plain': (plain_resize, plain_pad, pillow_2015.transform_exactly),
    'ours': (pillow_2015.resize, celebahq.pad_photo, pillow_2015.transform_fast),
}


def time_image(entry, celeba_dir, delta_dir, way):
    """{stage: seconds of processor time} of making one image."""
    resize, pad, transform = WAYS[way]
    seconds = {}

    def timed(step, function, *args):
        start = time.process_time()
        result = function(*args)
        seconds[step] = seconds.get(step, 0) + time.process_time() - start
        return result

    path = celebahq.photo_path(celeba_dir, entry.orig_file)
    token = timed('read', celebahq.read_token, delta_dir, entry.idx)
    delta = timed('decrypt', celebahq.decrypt_delta, token, pathlib.Path(path).read_bytes(), entry.orig_file)
    image = timed('decode', celebahq.decode_jpeg, path)
    plan = celebahq.plan_alignment(entry.landmarks, (image.shape[1], image.shape[0]))
    if plan.shrink > 1:
        image = timed('shrink', resize, image, plan.shrunk_size)
    if plan.crop_done:
        left, upper, right, lower = plan.crop
        image = image[upper:lower, left:right]
    if plan.superres > 1:
        image = timed('superres', resize, image, plan.superres_size)
    if plan.pad_done:
        image = timed('pad', pad, image, plan.pad, celebahq.SIZE * 0.02 / plan.zooms['pad'])
    side = celebahq.SIZE * celebahq.SUPERSAMPLING
    image = timed('transform', transform, image, plan.quads['pad'] + np.float32(0.5), (side, side))
    image = timed('reduce', resize, image, (celebahq.SIZE, celebahq.SIZE))
    final = timed('add, MD5', lambda: image.transpose(2, 0, 1) + delta)
    if timed('add, MD5', celebahq.image_md5, final) != entry.final_md5:
        raise SystemExit(f'{entry.orig_file}: {way} gives another image')
    seconds['all'] = sum(seconds.values())
    return seconds


def print_table(entry, rounds):
    """Print the stages of one image. `rounds` is {'plain' or 'ours': a dict of :func:`time_image` per round}."""
    print(f'\n{entry.orig_file}')
    print(f'{"step":<12}{"plain":>10}{"ours":>10}{"times as long":>18}')
    for step in rounds['ours'][0]:
        times = {way: [seconds[step] for seconds in rounds[way]] for way in WAYS}
        ratios = [plain / max(ours, 1e-9) for plain, ours in zip(times['plain'], times['ours'], strict=True)]
        print('%-12s%10.2f%10.2f%18s' % (step, min(times['plain']), min(times['ours']),
                                         '%.1f' % np.median(ratios) if min(times['ours']) > 0.02 else ''), flush=True)


def time_keeping(entry, celeba_dir, delta_dir, folder):
    """Print time and size of the files for an image: the PNG file for resuming, and the HDF5 file with all levels."""
    os.makedirs(folder, exist_ok=True)
    image, _ = celebahq.make_image(entry, celeba_dir, delta_dir)
    start = time.process_time()
    celebahq_files.write_part(image, celebahq_files.part_path(folder, entry.idx))
    wrote = time.process_time()
    celebahq_files.read_part(entry, folder)
    read = time.process_time()
    with HDF5Writer(os.path.join(folder, 'a.h5'), celebahq.SIZE, 3, force=True) as writer:
        writer.add_images(image[np.newaxis])
    end = time.process_time()
    sizes = [os.path.getsize(path) / 1e6
             for path in (celebahq_files.part_path(folder, entry.idx), os.path.join(folder, 'a.h5'))]
    print(f'\n{entry.orig_file}: PNG written in {wrote - start:.2f} s ({sizes[0]:.1f} MB) and read in '
          f'{read - wrote:.2f} s; HDF5 written in {end - read:.2f} s ({sizes[1]:.1f} MB)')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--celeba', default=str(FIXTURE / 'celeba'), help='folder of CelebA; default: the fixture')
    parser.add_argument('--deltas', default=str(FIXTURE / 'deltas'), help='folder of deltas; default: the fixture')
    parser.add_argument('--files', nargs='+', default=['000001.jpg', '000005.jpg', '000006.jpg', '000008.jpg'],
                        help='photos; default: %(default)s')
    parser.add_argument('--rounds', type=int, default=3, help='default: %(default)s')
    parser.add_argument('--folder', default='/tmp/celebahq-benchmark', help='output folder; default: %(default)s')
    args = parser.parse_args()
    chosen = [entry for entry in celebahq_files.read_lists(args.celeba, args.deltas) if entry.orig_file in args.files]
    for entry in chosen:
        rounds = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way in WAYS:
                rounds[way].append(time_image(entry, args.celeba, args.deltas, way))
        print_table(entry, rounds)
    for entry in chosen[:1]:
        time_keeping(entry, args.celeba, args.deltas, args.folder)


if __name__ == '__main__':
    main()
