"""The folder of a run: names of its files, making, finding and locking it, its snapshots and training states."""

import contextlib
import glob
import os
import re
from collections.abc import Callable, Iterator

from common.errors import UserError, did_you_mean
from common.files import atomic_write, locked
from runs import records

# ----------------------------------------------------------------------------------------------------------------------
# Names of its files.

NETWORK_SNAPSHOT = 'network-snapshot-%06d.pkl'     # % thousands of images
FINAL_NETWORKS = 'network-final.pkl'
DONE_FILE = '_training-done.txt'
EVENTS_FILE = 'events.out.tfevents.training'
LOCK_FILE = '.lock'         # While a process trains there.
GROWING_FILES = ('log.txt', 'stats.jsonl', EVENTS_FILE)    # The run appends to these.


def number_of(path: str) -> int:
    """The last number in a file name; -1 without one."""
    return int(([-1] + re.findall(r'\d+', os.path.basename(path)))[-1])


# ----------------------------------------------------------------------------------------------------------------------
# Making it.


def create_result_subdir(result_dir: str, desc: str) -> str:
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


# ----------------------------------------------------------------------------------------------------------------------
# Finding it. All scripts find runs and networks by these functions.


def is_training(run_dir: str) -> bool:
    """Whether `train.py` has trained there. A folder of images, of a video or of a projection is none."""
    config = records.config_or_none(run_dir)
    if config is not None:
        return 'dataset' in config
    return has_networks(run_dir) or bool(state_paths(run_dir))


def has_begun(run_dir: str) -> bool:
    """Whether a training has got far enough to be looked at: it has saved something, or written a status line."""
    return is_training(run_dir) and bool(
        has_networks(run_dir) or state_paths(run_dir) or os.path.exists(os.path.join(run_dir, 'stats.jsonl')))


def has_networks(run_dir: str) -> bool:
    """Whether there are network snapshots in a folder."""
    return bool(list_network_pkls(run_dir))


def can_go_on(run_dir: str) -> bool:
    """Whether a training has got far enough to be gone on with: it has saved a training state or networks."""
    return is_training(run_dir) and (has_networks(run_dir) or bool(state_paths(run_dir)))


def is_trained(run_dir: str) -> bool:
    """Whether it is the folder of a training that has saved networks."""
    return is_training(run_dir) and has_networks(run_dir)


def locate_run_dir(run: int | str, result_dir: str = 'results', latest: Callable[[str], bool] = has_begun) -> str:
    """The folder of a run.

    Parameters
    ----------
    run : int or str
        Its number, ``3`` or ``'003'``, the name of its folder, a path, or ``'latest'``. An empty folder has no number.
    result_dir : str
        Where run folders are.
    latest : callable
        Which folders ``'latest'`` chooses from: function of a path. The highest number wins.

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
    has_begun: 'no training has got as far as a status line',
    is_trained: 'no training has saved networks yet',
    can_go_on: 'no training has saved a state or networks to go on from'}


def _run_folders(result_dir):
    """Names of the folders with numbers, the lowest first."""
    folders = []
    for name in os.listdir(result_dir) if os.path.isdir(result_dir) else ():
        path = os.path.join(result_dir, name)
        match = re.match(r'\d+(?=-|$)', name)
        if match and os.path.isdir(path) and {*os.listdir(path)} - {LOCK_FILE}:     # Else just made.
            folders.append((int(match[0]), name))
    return [name for _number, name in sorted(folders)]


def _some(names):
    """The last of some names for a message."""
    return ('..., ' if len(names) > 10 else '') + ', '.join(names[-10:]) if names else 'none'


def locate_network_pkl(run_or_pkl: int | str, snapshot: int | str | None = None, result_dir: str = 'results') -> str:
    """Path of a network pickle.

    Parameters
    ----------
    run_or_pkl : int or str
        A run as for :func:`locate_run_dir`, or a pickle.
    snapshot : int, str or None
        Of a run: thousands of images of the snapshot, ``'final'``, or ``'latest'``, as None.

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
    """Thousands of images that the networks of a run's pickle have seen, by its name or ``stats.jsonl``; else None."""
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
# Locking it.


@contextlib.contextmanager
def in_use(run_dir: str) -> Iterator[None]:
    """Around all that writes into a run folder. The lock is gone when the process is, however it ends.

    Raises
    ------
    UserError
        Another process trains there.
    """
    def refuse(_lock: object) -> None:
        raise UserError(f'resume_run_id: another process is training in {run_dir}; stop it first')

    with locked(os.path.join(run_dir, LOCK_FILE), refuse):
        yield


# ----------------------------------------------------------------------------------------------------------------------
# Listing what is in it.


def network_snapshots(run_dir: str) -> list[str]:
    """The numbered network snapshots in a run folder, oldest first."""
    return sorted(glob.glob(os.path.join(glob.escape(run_dir), 'network-snapshot-*.pkl')), key=number_of)


def list_network_pkls(run_dir: str) -> list[str]:
    """Paths of the network snapshots of a run, the earliest first, ``network-final.pkl`` at the end."""
    pattern = re.compile(r'network-(snapshot-(\d+)|final)\.pkl')
    found = [(not match[2], int(match[2] or 0), match[0]) for match in map(pattern.fullmatch, os.listdir(run_dir))
             if match]
    return [os.path.join(run_dir, name) for _final, _kimg, name in sorted(found)]


def thin_out(run_dir: str, num_newest: int, ticks: int) -> None:
    """Delete network snapshots of a training.

    Kept are ``network-final.pkl``, the newest ones, one at least, every tenth, those that a metric puts first, and
    those whose tick is not known.

    Parameters
    ----------
    run_dir : str
    num_newest : int
    ticks : int
        Between two snapshots.
    """
    tick_at = {int(line['kimg']): line['tick'] for line in records.read_stats(run_dir) if 'tick' in line}
    best = records.best_snapshots(run_dir)
    for path in network_snapshots(run_dir)[:-max(num_newest, 1)]:
        tick = tick_at.get(number_of(path))
        if tick is not None and tick % (10 * ticks) and os.path.splitext(os.path.basename(path))[0] not in best:
            os.remove(path)


def mark_as_done(run_dir: str) -> None:
    """Note that a training and its metrics are done.

    Raises
    ------
    WriteError
    """
    with atomic_write(os.path.join(run_dir, DONE_FILE)):
        pass


def state_paths(run_dir: str) -> list[str]:
    """The training states in a run folder, oldest first."""
    return sorted(glob.glob(os.path.join(glob.escape(run_dir), 'training-state-*.npz')), key=number_of)


def pictures(run_dir: str) -> list[str]:
    """The pictures ``fakesNNNNNN.png`` that a training has made of its progress, the earliest first."""
    return sorted(glob.glob(os.path.join(glob.escape(run_dir), 'fakes*.png')), key=number_of)


def sizes_of_growing_files(run_dir: str) -> dict[str, int]:
    paths = {name: os.path.join(run_dir, name) for name in GROWING_FILES}
    return {name: os.path.getsize(path) for name, path in paths.items() if os.path.exists(path)}
