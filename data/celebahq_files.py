"""Make CelebA-HQ from folders of files: lists, checks, worker processes, resuming after an interruption.

:func:`make_celebahq` stores each finished image as a PNG file in a work folder beside the dataset; :func:`read_images`
reads them back. `data.celebahq` does the arithmetic.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from common.arguments import number_ranges
from common.console import Progress
from common.errors import UserError
from common.files import TEMPORARY_SUFFIX, AnyPath, atomic_write, check_regular, open_input
from common.images import save_image
from common.machine import num_cores
from data import celebahq
from data.shards import shard_range

FIRST_PHOTO = '000001.jpg'
WORK_BYTES = 5 << 20        # Largest disk space per image: its PNG file and all its levels in the HDF5 file.
HOPELESS_IMAGES = 20        # Give up if this many images fail before the first success.
READ_AHEAD = 16             # PNG files decoded at the same time.


class Expected(NamedTuple):
    """Properties of the published files. Others only cause a warning, because each image is checked by its MD5."""

    num_photos: int = 202599
    num_images: int = 30000
    first_photo_md5: str = '9cad8178d6cb0196b36f7b34bc5eb6d3'     # MD5 of 000001.jpg, decoded to (H, W, 3) uint8.


def warn(text: str) -> None:
    print('Warning: ' + text, file=sys.stderr)


# ----------------------------------------------------------------------------------------------------------------------
# Lists and checks.


def read_lines(path: AnyPath, cure: str) -> list[str]:
    try:
        with open_input(path, 'r', encoding='ascii') as list_file:
            return list_file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: cannot be read ({getattr(error, "strerror", None) or "is not text"}); '
                        f'{cure}') from error


def read_lists(celeba_dir: AnyPath, delta_dir: AnyPath, indices: str | None = None, num_images: int | None = None,
               expected: Expected | None = None, shard: tuple[int, int] | None = None) -> list[celebahq.ListEntry]:
    """List the images to make, in the order of their numbers.

    Parameters
    ----------
    celeba_dir : str
        Folder with ``Anno/list_landmarks_celeba.txt``.
    delta_dir : str
        Folder with ``image_list.txt``.
    indices : str, optional
        Numbers of the images to make, for example '0-99,205'.
    num_images : int, optional
        Make only the first `num_images` images. Default: all.
    expected : Expected, optional
    shard : (int, int), optional
        Make only shard I of N of these images.

    Returns
    -------
    list of celebahq.ListEntry

    Raises
    ------
    UserError
        A list is missing or damaged, or lacks images that were requested.
    """
    expected = expected or Expected()
    list_path = os.path.join(delta_dir, 'image_list.txt')
    cure = 'DELTA_DIR must be the folder of the CelebA-HQ deltas, with image_list.txt and the deltas*.zip files'
    rows = parse_image_list(list_path, read_lines(list_path, cure))
    if len(rows) != expected.num_images:
        warn(f'{list_path}: has {len(rows)} images, expected {expected.num_images}; continuing')
    chosen = choose_indices(len(rows), indices, num_images)
    part = shard_range(len(chosen), shard)
    if not part:
        raise UserError('--shard %d/%d: there are only %d images; use fewer shards' % (
            *(shard or (1, 1)), len(chosen)))
    chosen = chosen[part.start:part.stop]
    landmarks_path = os.path.join(celeba_dir, 'Anno', 'list_landmarks_celeba.txt')
    cure = 'CELEBA_DIR must be the folder of CelebA, with img_celeba and Anno (the landmarks "in the wild") in it'
    lines = read_lines(landmarks_path, cure)
    if not lines or not lines[0].strip().isdecimal() or int(lines[0]) != len(lines) - 2:
        raise UserError(f'{landmarks_path}: does not have as many rows as its first line claims; download it again')
    if len(lines) - 2 != expected.num_photos:
        warn(f'{landmarks_path}: has {len(lines) - 2} photos, expected {expected.num_photos}; continuing')
    return [rows[idx]._replace(landmarks=find_landmarks(landmarks_path, lines, rows[idx])) for idx in chosen]


def parse_image_list(path: AnyPath, lines: list[str]) -> list[celebahq.ListEntry]:
    """Parse ``image_list.txt``, without landmarks; its first line names the columns."""
    names = lines[0].split() if lines else []
    wanted = celebahq.ListEntry._fields[:-1]
    if not set(wanted) <= set(names):
        raise UserError(f'{path}: its first line must name the columns {" ".join(wanted)}; download it again')
    rows: list[celebahq.ListEntry] = []
    for number, line in enumerate(lines[1:], 2):
        cells = dict(zip(names, line.split(), strict=False))
        try:
            if int(cells['idx']) != len(rows) or not all(
                    re.fullmatch('[0-9a-fA-F]{32}', cells[name]) for name in ('proc_md5', 'final_md5')):
                raise ValueError
            rows.append(celebahq.ListEntry(len(rows), int(cells['orig_idx']), os.path.basename(cells['orig_file']),
                                           cells['proc_md5'].lower(), cells['final_md5'].lower(),
                                           np.empty((0, 2), np.float32)))
        except (KeyError, ValueError) as error:
            raise UserError(f'{path}: line {number} is damaged: {line[:100]!r}; download the file '
                            'again') from error
    return rows


def find_landmarks(path: AnyPath, lines: list[str], row: celebahq.ListEntry) -> np.ndarray:
    """Landmarks of an image, (5, 2) float32, from CelebA's list."""
    cells = lines[row.orig_idx + 2].split() if 0 <= row.orig_idx < len(lines) - 2 else []
    if not cells or cells[0] != row.orig_file:
        raise UserError(f'{path}: row {row.orig_idx} is {cells[0] if cells else "missing"}, expected '
                        f'{row.orig_file} (image {row.idx} of CelebA-HQ); the list is likely of another version of '
                        'CelebA')
    try:
        return np.array(cells[1:], np.float32).reshape(5, 2)
    except ValueError as error:
        raise UserError(f'{path}: the row of {row.orig_file} is damaged: need ten numbers, not '
                        f'{" ".join(cells[1:])[:100]}; download the file again') from error


def choose_indices(num: int, indices: str | None = None, num_images: int | None = None) -> Sequence[int]:
    """Numbers of the images to make, ascending; see :func:`read_lists`."""
    if indices is not None and num_images is not None:
        raise UserError('--indices and --num_images: both select images; give only one of them')
    if num_images is not None:
        if not 1 <= num_images <= num:
            raise UserError(f'--num_images {num_images}: must be from 1 to {num}')
        return range(num_images)
    if indices is None:
        return range(num)
    chosen: set[int] = set()
    for part, numbers in number_ranges(indices, spaces=True):
        if not numbers or numbers[-1] >= num:
            raise UserError(f'--indices {indices}: {part!r} is not a number or range within 0-{num - 1}; example: '
                            '0-99,205')
        chosen.update(numbers)
    return sorted(chosen)


def check_decoder(celeba_dir: AnyPath, expected: Expected | None = None) -> None:
    """Decode the first photo, if it exists, and warn if the pixels are not those of the real photo and libjpeg 8d."""
    path = celebahq.photo_path(celeba_dir, FIRST_PHOTO)
    if not os.path.isfile(path):
        return
    expected_md5 = (expected or Expected()).first_photo_md5
    try:
        found = f'decodes to the MD5 {celebahq.image_md5(celebahq.decode_jpeg(path))}'
    except celebahq.BadImage as error:
        found = str(error)[len(path) + 2:]
    if expected_md5 not in found:
        warn(f'{path}: {found}, expected the MD5 {expected_md5}: this is another version of CelebA, or the JPEG '
             'decoder is not libjpeg 8d; continuing, because each image is checked by its own MD5')


# ----------------------------------------------------------------------------------------------------------------------
# Finished images.


def part_path(work_dir: AnyPath, idx: int) -> str:
    return os.path.join(work_dir, f'image{idx:05d}.png')


def prepare_work_dir(work_dir: AnyPath, num_images: int, resume: bool, force: bool) -> None:
    """Make the work folder, keep or delete finished images in it, and warn if disk space is short.

    Raises
    ------
    UserError
        It holds images and neither `resume` nor `force` is set, or it cannot be made.
    """
    try:
        os.makedirs(work_dir, exist_ok=True)
        names = os.listdir(work_dir)
    except OSError as error:
        raise UserError(f'{work_dir}: cannot be made ({error.strerror}); choose another place for the '
                        'dataset') from error
    finished = [name for name in names if re.fullmatch(r'image\d{5}\.png', name)]
    if finished and not resume:
        if not force:
            raise UserError(f'{work_dir}: holds {len(finished)} finished images of an interrupted run; add '
                            '--resume to continue it, or --force to start over')
        remove_work_dir(work_dir)
        os.makedirs(work_dir, exist_ok=True)
    for name in names:
        if name.endswith(TEMPORARY_SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(work_dir, name))
    free, needed = shutil.disk_usage(work_dir).free, num_images * WORK_BYTES
    if free < needed:
        warn(f'{work_dir}: has {free / 1e9:.0f} GB of free space; up to {needed / 1e9:.0f} GB may be needed')


def remove_work_dir(work_dir: AnyPath) -> None:
    """Delete the finished images, and the work folder unless it holds other files."""
    for name in os.listdir(work_dir):
        if re.fullmatch(r'image\d{5}\.png(\..*)?', name):
            os.remove(os.path.join(work_dir, name))
    with contextlib.suppress(OSError):
        os.rmdir(work_dir)


def make_part(entry: celebahq.ListEntry, celeba_dir: AnyPath, delta_dir: AnyPath,
              work_dir: AnyPath) -> tuple[str | None, bool]:
    """Make one image and store it.

    Returns
    -------
    (str or None, bool)
        The reason if it could not be made, and whether the exact path was needed.
    """
    try:
        final, exact = celebahq.make_image(entry, celeba_dir, delta_dir)
    except celebahq.BadImage as error:
        return str(error), False
    write_part(final, part_path(work_dir, entry.idx))
    return None, exact


def write_part(image: np.ndarray, path: AnyPath) -> None:
    """Store an image, (3, 1024, 1024) uint8."""
    with atomic_write(path) as png_file:
        # Stronger compression would cost time for files that are deleted in the end.
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(png_file, 'PNG', compress_level=1)


def read_part(entry: celebahq.ListEntry, work_dir: AnyPath) -> np.ndarray | None:
    """A finished image, (3, 1024, 1024) uint8, or None if its file is missing or damaged."""
    try:
        check_regular(part_path(work_dir, entry.idx))
        with Image.open(part_path(work_dir, entry.idx), formats=['PNG']) as image:
            pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return pixels if celebahq.image_md5(pixels) == entry.final_md5 else None


def read_images(entries: list[celebahq.ListEntry], celeba_dir: AnyPath, delta_dir: AnyPath,
                work_dir: AnyPath) -> Iterator[np.ndarray]:
    """Generate the finished images, (3, 1024, 1024) uint8, in order. Images with damaged files are made again.

    Raises
    ------
    UserError
        An image cannot be made again.
    """
    with concurrent.futures.ThreadPoolExecutor() as executor, Progress('Writing', len(entries)) as bar:
        for start in range(0, len(entries), READ_AHEAD):
            group = entries[start:start + READ_AHEAD]
            for entry, image in zip(group, executor.map(lambda entry: read_part(entry, work_dir), group), strict=True):
                if image is None:
                    warn(f'{part_path(work_dir, entry.idx)}: is damaged; making it again')
                    try:
                        image, _ = celebahq.make_image(entry, celeba_dir, delta_dir)
                    except celebahq.BadImage as error:
                        raise UserError(str(error)) from error
                yield image
                bar.update()


# ----------------------------------------------------------------------------------------------------------------------
# Worker processes.


def start_worker() -> None:
    """Initialise a worker process: leave Ctrl-C to the parent, and end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def make_images(entries: list[celebahq.ListEntry], celeba_dir: AnyPath, delta_dir: AnyPath, work_dir: AnyPath,
                num_processes: int) -> dict[int, str]:
    """Make all images that are not finished yet in parallel processes, and store each in `work_dir` at once.

    Parameters
    ----------
    entries : list of celebahq.ListEntry
    celeba_dir, delta_dir, work_dir : str
    num_processes : int
        Each process takes up to 0.8 GB of memory.

    Returns
    -------
    dict of int to str
        Numbers of the images that cannot be made, and the reasons.

    Raises
    ------
    UserError
        The disk is full, a process was killed, or all of the first images failed.
    """
    pending = [entry for entry in entries if not os.path.exists(part_path(work_dir, entry.idx))]
    finished = len(entries) - len(pending)
    if finished:
        print(f'{finished} of {len(entries)} images are already finished')
    bad = {}
    for entry in pending:
        try:
            celebahq.check_files(entry, celeba_dir, delta_dir)
        except celebahq.BadImage as error:
            bad[entry.idx] = str(error)
    if len(bad) == len(entries):
        raise UserError(f'{next(iter(bad.values()))}; the files of all other images are missing, too')
    for text in bad.values():
        print('Bad image: ' + text, file=sys.stderr)
    pending = [entry for entry in pending if entry.idx not in bad]
    if not pending:
        return bad
    executor = concurrent.futures.ProcessPoolExecutor(
        min(num_processes, len(pending)), multiprocessing.get_context('spawn'), initializer=start_worker)
    try:
        with Progress('Making', len(pending)) as bar:
            futures = {executor.submit(make_part, entry, celeba_dir, delta_dir, work_dir): entry for entry in pending}
            num_exact = 0
            for future in concurrent.futures.as_completed(futures):
                reason, exact = future.result()
                bar.update()
                num_exact += exact
                if reason:
                    bad[futures[future].idx] = reason
                    print('Bad image: ' + reason, file=sys.stderr)
                finished += reason is None
                if not finished and len(bad) >= HOPELESS_IMAGES:
                    raise UserError(f'the first {len(bad)} images all failed, the last one: {reason}')
    except KeyboardInterrupt:
        print(f'\nInterrupted; {work_dir} keeps the finished images; add --resume to continue', file=sys.stderr)
        raise
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(f'a process was killed, likely for lack of memory: each of the {num_processes} takes up '
                        'to 0.8 GB; lower --num_processes and add --resume to continue') from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)   # Images in progress are finished and stored.
    if num_exact:
        print(f'{num_exact} images took the slow exact path')
    return bad


def make_celebahq(celeba_dir: AnyPath, delta_dir: AnyPath, work_dir: AnyPath, indices: str | None = None,
                  num_images: int | None = None, num_processes: int | None = None, resume: bool = False,
                  skip_bad: bool = False, save_stages: AnyPath | None = None, force: bool = False,
                  expected: Expected | None = None, shard: tuple[int, int] | None = None) -> list[celebahq.ListEntry]:
    """Make images of CelebA-HQ and store them in a folder for :func:`read_images`.

    Parameters
    ----------
    celeba_dir, delta_dir, indices, num_images, expected, shard
        See :func:`read_lists`.
    work_dir : str
        Folder of the finished images.
    num_processes : int, optional
        Default: one per core.
    resume, force : bool
        Keep, or delete, the images that `work_dir` already holds.
    skip_bad : bool
        Leave out images that cannot be made.
    save_stages : str, optional
        Write the steps of making the first image to this folder, see :func:`write_stages`.

    Returns
    -------
    list of celebahq.ListEntry
        The finished images.

    Raises
    ------
    UserError
        No image can be made, or some cannot and `skip_bad` is not set; the others are then finished and stored.
    """
    if num_processes is not None and num_processes < 1:
        raise UserError(f'--num_processes {num_processes}: must be at least 1')
    try:
        celebahq.check_packages()
    except ImportError as error:
        raise UserError(str(error)) from error
    entries = read_lists(celeba_dir, delta_dir, indices, num_images, expected, shard)
    if save_stages:
        try:
            os.makedirs(save_stages, exist_ok=True)
        except OSError as error:
            raise UserError(f'--save_stages {save_stages}: cannot be made ({error.strerror}); choose another '
                            'folder') from error
    prepare_work_dir(work_dir, len(entries), resume, force)
    check_decoder(celeba_dir, expected)
    bad = make_images(entries, celeba_dir, delta_dir, work_dir, num_processes or num_cores())
    good = [entry for entry in entries if entry.idx not in bad]
    if save_stages and good:
        write_stages(good[0], celeba_dir, delta_dir, save_stages)
    if bad:
        text = '%d of %d images cannot be made, for the reasons above: %s' % (
            len(bad), len(entries), ', '.join(entry.orig_file for entry in entries if entry.idx in bad))
        if not good or not skip_bad:
            raise UserError(f'{text}; {work_dir} keeps the others; correct the files and add --resume, or add '
                            '--resume --skip-bad to make a dataset without these images')
        print('Left out: ' + text)
    return good


# ----------------------------------------------------------------------------------------------------------------------
# Figure 8 of the paper.


def write_stages(entry: celebahq.ListEntry, celeba_dir: AnyPath, delta_dir: AnyPath, stages_dir: AnyPath) -> None:
    """Write the result of each step for one photo as ``00-decoded.png`` and so on.

    'region' is the photo with the outline of the face's square, 'delta' the finished image. Steps that the photo does
    not need are absent; a face near an edge of a small photo needs most of them.
    """
    number, previous = 0, None

    def write(step, image):
        nonlocal number
        path = os.path.join(stages_dir, f'{number:02d}-{step}.png')
        save_image(image.transpose(2, 0, 1), path, (0, 255))
        number += 1

    def record(step, image):
        nonlocal previous
        if step == 'transform':
            write('region', draw_region(previous, plan.quads['pad']))
        write(step, image.clip(0, 1) * 255 if step == 'mask' else image)
        previous = image

    photo = celebahq.decode_jpeg(celebahq.photo_path(celeba_dir, entry.orig_file))
    plan = celebahq.plan_alignment(entry.landmarks, (photo.shape[1], photo.shape[0]))
    celebahq.align(photo, plan, exact=True, record=record)
    final, _ = celebahq.make_image(entry, celeba_dir, delta_dir)
    write('delta', final.transpose(1, 2, 0))
    print(f'Wrote {number} steps of {entry.orig_file} to {stages_dir}')


def draw_region(image: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """Copy an image and draw the square's outline on it."""
    picture = Image.fromarray(image)
    corners = [tuple(corner) for corner in quad.tolist()]
    ImageDraw.Draw(picture).line(corners + corners[:2], fill=(255, 255, 0), width=max(max(picture.size) // 300, 1))
    return np.asarray(picture)
