"""The folder of a run: its file names, and functions that create, find and lock it and list its contents."""

import contextlib
import glob
import os
import re
from collections.abc import Callable, Iterator

from common.errors import UserError, did_you_mean
from common.files import atomic_write, locked
from runs import records

# ----------------------------------------------------------------------------------------------------------------------
# File names.

NETWORK_SNAPSHOT = 'network-snapshot-%06d.pkl'     # % thousands of images
FINAL_NETWORKS = 'network-final.pkl'
DONE_FILE = '_training-done.txt'
EVENTS_FILE = 'events.out.tfevents.training'
LOCK_FILE = '.lock'         # Locked while a process trains in the folder.
GROWING_FILES = ('log.txt', 'stats.jsonl', EVENTS_FILE)    # The run appends to these.


def number_of(path: str) -> int:
    """The last number in a file name; -1 without one."""
    return int(([-1] + re.findall(r'\d+', os.path.basename(path)))[-1])


# ----------------------------------------------------------------------------------------------------------------------
# Creating a run folder.


def create_result_subdir(result_dir: str, desc: str) -> str:
    """Create the folder ``result_dir/NNN-desc``, where NNN is one above the highest number in `result_dir`.

    Two runs that start at the same moment get different numbers.

    Returns
    -------
    str
        Path of the new folder.

    Raises
    ------
    UserError
        The folder cannot be created, or `desc` is not a file name.
    """
    if os.path.basename(desc) != desc:
        raise UserError(f'desc={desc!r}: becomes part of a folder name; leave out the {os.sep!r}')
    try:
        os.makedirs(result_dir, exist_ok=True)
        number = 0
        while True:
            number = max([number, *(used + 1 for used in _run_numbers(result_dir))])
            # Reserve the bare number first: mkdir would let '003-a' and '003-b' both succeed.
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


# ----------------------------------------------------------------------------------------------------------------------
# Finding runs and networks. All scripts use these functions.


def is_training(run_dir: str) -> bool:
    """Whether a folder is the folder of a training, not of images, a video or a projection."""
    config = records.config_or_none(run_dir)
    if config is not None:
        return 'dataset' in config
    return has_networks(run_dir) or bool(state_paths(run_dir))


def has_begun(run_dir: str) -> bool:
    """Whether a training has something to look at: a snapshot, a state or a status line."""
    return is_training(run_dir) and bool(
        has_networks(run_dir) or state_paths(run_dir) or os.path.exists(os.path.join(run_dir, 'stats.jsonl')))


def has_networks(run_dir: str) -> bool:
    """Whether a folder has network snapshots."""
    return bool(list_network_pkls(run_dir))


def can_go_on(run_dir: str) -> bool:
    """Whether a training can be continued: it has saved a training state or networks."""
    return is_training(run_dir) and (has_networks(run_dir) or bool(state_paths(run_dir)))


def is_trained(run_dir: str) -> bool:
    """Whether a folder is the folder of a training that has saved networks."""
    return is_training(run_dir) and has_networks(run_dir)


def locate_run_dir(run: int | str, result_dir: str = 'results', latest: Callable[[str], bool] = has_begun) -> str:
    """The folder of a run.

    Parameters
    ----------
    run : int or str
        Its number, ``3`` or ``'003'``, the name of its folder, a path, or ``'latest'``. Empty folders are ignored when
        a number is given.
    result_dir : str
        The folder that contains the run folders.
    latest : callable
        Function of a path that tells whether ``'latest'`` may choose this folder. The highest number wins.

    Raises
    ------
    UserError
        There is no such run, or there are several.
    """
    text = str(run)
    folders = _run_folders(result_dir)
    if text == 'latest':
        for name in reversed(folders):
            if latest(os.path.join(result_dir, name)):
                return os.path.join(result_dir, name)
        raise UserError(f'run latest: {_LACKING.get(latest, "none fits")} in {result_dir}; there are {_some(folders)}')
    for path in (text, os.path.join(result_dir, text)):
        if os.path.isdir(path) and not text.isdecimal():
            return os.path.normpath(path)
    if text.isdecimal():
        number = re.compile(f'0*{int(text)}(-.*)?')
        matches = list(filter(number.fullmatch, folders))
        if len(matches) == 1:
            return os.path.join(result_dir, matches[0])
        if matches:
            raise UserError(f'run {text}: there are several in {result_dir}, {" and ".join(matches)}; give the folder')
    raise UserError(f'run {run}: no such run in {result_dir}'
                    f'{did_you_mean(text, folders) or "; there are " + _some(folders)}')


_LACKING: dict[Callable[[str], bool], str] = {
    has_begun: 'no training has written a status line yet',
    is_trained: 'no training has saved networks yet',
    can_go_on: 'no training has saved a state or networks yet'}


def _run_folders(result_dir):
    """Names of the numbered folders, the lowest number first."""
    folders = []
    for name in os.listdir(result_dir) if os.path.isdir(result_dir) else ():
        path = os.path.join(result_dir, name)
        match = re.match(r'\d+(?=-|$)', name)
        if match and os.path.isdir(path) and {*os.listdir(path)} - {LOCK_FILE}:     # Ignore folders just created.
            folders.append((int(match[0]), name))
    return [name for _number, name in sorted(folders)]


def _some(names):
    """The last ten of some names, for a message."""
    return ('..., ' if len(names) > 10 else '') + ', '.join(names[-10:]) if names else 'none'


def locate_network_pkl(run_or_pkl: int | str, snapshot: int | str | None = None, result_dir: str = 'results') -> str:
    """Path of a network pickle.

    Parameters
    ----------
    run_or_pkl : int or str
        A run, as for :func:`locate_run_dir`, or the path of a pickle.
    snapshot : int, str or None
        Snapshot of the run: its kimg, ``'final'`` or ``'latest'``. None means ``'latest'``.

    Raises
    ------
    UserError
        There is no such file.
    """
    if os.path.isfile(str(run_or_pkl)):
        return str(run_or_pkl)
    if is_pickle(run_or_pkl):
        raise UserError(f'{run_or_pkl}: no such file')
    run_dir = locate_run_dir(run_or_pkl, result_dir, is_trained)
    pkls = list_network_pkls(run_dir)
    if not pkls:
        raise UserError(f'{run_dir}: has no network snapshots yet')
    if snapshot in (None, 'latest'):
        return pkls[-1]
    text = str(snapshot)
    for path in pkls:
        name = os.path.basename(path)
        if name == f'network-{text}.pkl' or text.isdecimal() and number_of(name) == int(text):
            return path
    raise UserError(f"snapshot={text}: {run_dir} has no such snapshot; use 'latest', 'final' or the thousands of "
                    f'images of one of {_some([os.path.basename(path) for path in pkls])}')


def kimg_of_networks(path: str) -> float | None:
    """Training progress (kimg) of a network pickle, from its name or the run's ``stats.jsonl``; None if unknown."""
    name = os.path.basename(path)
    numbered = re.fullmatch(r'network-snapshot-(\d+)\.pkl', name)
    if numbered:
        return float(numbered[1])
    stats = records.read_stats(os.path.dirname(path)) if name == FINAL_NETWORKS else []
    return stats[-1]['kimg'] if stats else None


def is_pickle(run_id: int | str) -> bool:
    """Whether `run_id` names a network pickle rather than a run."""
    return str(run_id).endswith('.pkl')


# ----------------------------------------------------------------------------------------------------------------------
# Locking a run folder.


@contextlib.contextmanager
def in_use(run_dir: str) -> Iterator[None]:
    """Hold the lock of a run folder. Everything that writes into the folder runs inside this context.

    The operating system releases the lock when the process ends for any reason.

    Raises
    ------
    UserError
        Another process trains in the folder.
    """
    def refuse(_lock: object) -> None:
        raise UserError(f'resume_run_id: another process is training in {run_dir}; stop it first')

    with locked(os.path.join(run_dir, LOCK_FILE), refuse):
        yield


# ----------------------------------------------------------------------------------------------------------------------
# Contents of a run folder.


def network_snapshots(run_dir: str) -> list[str]:
    """The numbered network snapshots in a run folder, oldest first."""
    return sorted(glob.glob(os.path.join(glob.escape(run_dir), 'network-snapshot-*.pkl')), key=number_of)


def list_network_pkls(run_dir: str) -> list[str]:
    """Paths of the network snapshots of a run, oldest first, ``network-final.pkl`` last."""
    pattern = re.compile(r'network-(snapshot-(\d+)|final)\.pkl')
    found = [(not match[2], int(match[2] or 0), match[0]) for match in map(pattern.fullmatch, os.listdir(run_dir))
             if match]
    return [os.path.join(run_dir, name) for _final, _kimg, name in sorted(found)]


def thin_out(run_dir: str, num_newest: int, ticks: int) -> None:
    """Delete network snapshots of a training.

    These are kept: ``network-final.pkl``, the newest ones, every tenth one, the best ones by any metric, and those
    whose tick is unknown.

    Parameters
    ----------
    run_dir : str
    num_newest : int
        How many of the newest snapshots to keep; at least one is kept.
    ticks : int
        Number of ticks between two snapshots.
    """
    tick_at = {int(line['kimg']): line['tick'] for line in records.read_stats(run_dir) if 'tick' in line}
    best = records.best_snapshots(run_dir)
    for path in network_snapshots(run_dir)[:-max(num_newest, 1)]:
        tick = tick_at.get(number_of(path))
        if tick is not None and tick % (10 * ticks) and os.path.splitext(os.path.basename(path))[0] not in best:
            os.remove(path)


def mark_as_done(run_dir: str) -> None:
    """Mark a training, including its metrics, as finished.

    Raises
    ------
    WriteError
        The file cannot be written.
    """
    with atomic_write(os.path.join(run_dir, DONE_FILE)):
        pass


def state_paths(run_dir: str) -> list[str]:
    """The training states in a run folder, oldest first."""
    return sorted(glob.glob(os.path.join(glob.escape(run_dir), 'training-state-*.npz')), key=number_of)


def pictures(run_dir: str) -> list[str]:
    """The image grids ``fakesNNNNNN.png`` of a training, oldest first."""
    return sorted(glob.glob(os.path.join(glob.escape(run_dir), 'fakes*.png')), key=number_of)


def sizes_of_growing_files(run_dir: str) -> dict[str, int]:
    paths = {name: os.path.join(run_dir, name) for name in GROWING_FILES}
    return {name: os.path.getsize(path) for name, path in paths.items() if os.path.exists(path)}
