"""The helpers that scripts of the 2017 and 2018 releases know as `misc`; the rooms below the scripts do not use it."""

import math
import os
import re

import numpy as np

from common.console import OutputLogger, format_time, progress
from common.errors import UserError, WriteError, did_you_mean, exit_status
from common.files import append, atomic_write, save_pkl
from common.images import (
    adjust_dynamic_range,
    convert_to_pil_image,
    create_image_grid,
    save_image,
    save_image_grid,
    save_pil_image,
    snapshot_grid_size,
)

# ----------------------------------------------------------------------------------------------------------------------
# Time and schedules.


def rampup(epoch, rampup_length):
    """Factor that rises from exp(-5) at 0 to 1 at `rampup_length`: ``exp(-5 (1 - epoch / rampup_length)^2)``."""
    if epoch >= rampup_length:
        return 1.0
    remaining = 1.0 - max(epoch, 0.0) / rampup_length
    return math.exp(-5.0 * remaining ** 2)


def rampdown_linear(epoch, num_epochs, rampdown_length):
    """Factor that falls linearly from 1 to 0 over the last `rampdown_length` of `num_epochs`."""
    if rampdown_length <= 0 or epoch < num_epochs - rampdown_length:
        return 1.0
    return max(num_epochs - epoch, 0.0) / rampdown_length


# ----------------------------------------------------------------------------------------------------------------------
# Run folders and their logs.


def create_result_subdir(result_dir, desc):
    """Make the folder ``result_dir/NNN-desc``, NNN being one above the highest number there.

    Two runs that start at the same moment get different numbers.

    Returns
    -------
    str
        Path of the new folder.

    Raises
    ------
    UserError
        The folder cannot be made there, or `desc` is not a file name.
    """
    if os.path.basename(desc) != desc:
        raise UserError(f'desc={desc!r}: becomes part of a folder name; leave out the {os.sep!r}')
    try:
        os.makedirs(result_dir, exist_ok=True)
        number = 0
        while True:
            number = max([number, *(used + 1 for used in _run_numbers(result_dir))])
            # mkdir alone would let '003-a' and '003-b' both succeed: the bare number is taken first.
            reserved = os.path.join(result_dir, f'.{number:03d}')
            try:
                os.mkdir(reserved)
            except FileExistsError:
                number += 1
                continue
            if number not in _run_numbers(result_dir):
                run_dir = os.path.join(result_dir, f'{number:03d}-{desc}')
                os.rename(reserved, run_dir)
                return run_dir
            os.rmdir(reserved)
    except OSError as error:
        raise UserError(f'result_dir={result_dir!r}: cannot make a run folder there ({error.strerror}); choose another '
                        'one with --result-dir') from error


def _run_numbers(result_dir):
    return [int(match[1]) for match in map(re.compile(r'(\d+)(-.*)?').fullmatch, os.listdir(result_dir)) if match]


def locate_run_dir(run, result_dir='results'):
    """The folder of a run.

    Parameters
    ----------
    run : int or str
        Its number, ``3`` or ``'003'``, the name of its folder or a path.
    result_dir : str
        Where run folders are.

    Raises
    ------
    UserError
        There is no such run, or there are several.
    """
    text = str(run)
    for path in (text, os.path.join(result_dir, text)):
        if os.path.isdir(path) and not text.isdecimal():
            return path
    folders = []
    for name in sorted(os.listdir(result_dir)) if os.path.isdir(result_dir) else ():
        path = os.path.join(result_dir, name)
        if re.match(r'\d+', name) and os.path.isdir(path) and os.listdir(path):     # An empty one has just been made.
            folders.append(name)
    if text.isdecimal():
        number = re.compile(f'0*{int(text)}(-.*)?')
        matches = list(filter(number.fullmatch, folders))
        if len(matches) == 1:
            return os.path.join(result_dir, matches[0])
        if matches:
            raise UserError(f'run {text}: there are several in {result_dir}, {" and ".join(matches)}; give the folder')
    raise UserError('run %s: no such run in %s%s' % (
        run, result_dir, did_you_mean(text, folders) or '; there are ' + (', '.join(folders) or 'none')))


def list_network_pkls(run_dir):
    """Paths of the network snapshots of a run, the earliest first, ``network-final.pkl`` at the end."""
    pattern = re.compile(r'network-(snapshot-(\d+)|final)\.pkl')
    found = [(not match[2], int(match[2] or 0), match[0]) for match in map(pattern.fullmatch, os.listdir(run_dir))
             if match]
    return [os.path.join(run_dir, name) for _final, _kimg, name in sorted(found)]


def locate_network_pkl(run_or_pkl, snapshot=None, result_dir='results'):
    """Path of a network pickle.

    Parameters
    ----------
    run_or_pkl : int or str
        A run as for :func:`locate_run_dir`, or a pickle.
    snapshot : int, str or None
        Of a run: thousands of images of the snapshot, or ``'final'``. None: the latest.

    Raises
    ------
    UserError
        There is no such file.
    """
    if os.path.isfile(str(run_or_pkl)):
        return str(run_or_pkl)
    if str(run_or_pkl).endswith('.pkl'):
        raise UserError(f'{run_or_pkl}: no such file')
    run_dir = locate_run_dir(run_or_pkl, result_dir)
    pkls = list_network_pkls(run_dir)
    if not pkls:
        raise UserError(f'{run_dir}: has no network snapshots yet')
    if snapshot is None:
        return pkls[-1]
    wanted = 'network-final.pkl' if snapshot == 'final' else f'network-snapshot-{int(snapshot):06d}.pkl'
    for path in pkls:
        if os.path.basename(path) == wanted:
            return path
    raise UserError(f'snapshot={snapshot}: {run_dir} has no {wanted}; there are '
                    f'{", ".join(map(os.path.basename, pkls))}')
