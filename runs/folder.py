"""The folder of a run: names of its files, making, finding and locking it, its snapshots and training states."""

import contextlib
import glob
import os
import re
from collections.abc import Iterator

import filelock

from common.errors import UserError, did_you_mean

# ----------------------------------------------------------------------------------------------------------------------
# Names of its files.

NETWORK_SNAPSHOT = 'network-snapshot-%06d.pkl'     # % thousands of images
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
# Finding the run that a training starts from: by the number of a folder ``NNN-...``, its name, its path or 'latest'.


def find_run(result_dir: str, run_id: int | str) -> str:
    """The folder of a run.

    Parameters
    ----------
    result_dir : str
    run_id : int or str
        Its number, 'latest' for the highest one, its name in `result_dir`, or its path.

    Raises
    ------
    UserError
    """
    runs: dict[int, list[str]] = {}
    for name in sorted(os.listdir(result_dir)) if os.path.isdir(result_dir) else []:
        match = re.match(r'(\d+)-', name)
        if match and os.path.isdir(os.path.join(result_dir, name)):
            runs.setdefault(int(match[1]), []).append(name)
    names = [name for number in sorted(runs) for name in runs[number]]
    run_id = str(run_id)
    if run_id == 'latest' and names:
        found = names[-1:]
    elif run_id.isdigit():
        found = runs.get(int(run_id), [])
    else:
        found = [run_id] if run_id in names else []
        if not found and os.path.isdir(run_id):
            return os.path.normpath(run_id)
    if len(found) != 1:
        raise UserError('resume_run_id=%r: %s; give its number, folder or \'latest\'%s' % (
            run_id, 'there are several such runs: ' + ', '.join(found) if found else 'no such run in %s' % result_dir,
            did_you_mean(run_id, names)))
    return os.path.join(result_dir, found[0])


def find_networks(result_dir: str, run_id: int | str, snapshot: int | str) -> tuple[str, float | None]:
    """(path, kimg or None) of the network pickle that a new run starts from.

    Parameters
    ----------
    result_dir : str
    run_id : int or str
        A run, see :func:`find_run`, or the path of a network pickle.
    snapshot : int or str
        Of a run: its kimg. For a pickle it is ignored.

    Raises
    ------
    UserError
    """
    path = str(run_id)
    if not is_pickle(run_id):
        run_dir = find_run(result_dir, run_id)
        snapshots = {number_of(path): path for path in network_snapshots(run_dir)}
        number = str(snapshot)
        if not number.isdigit() or int(number) not in snapshots:
            raise UserError(f"train.resume_snapshot={snapshot!r}: use 'latest', or a snapshot of {run_dir}: "
                            f"{', '.join(map(str, snapshots)) or 'it has none'}")
        path = snapshots[int(number)]
    numbered = re.fullmatch(r'network-snapshot-(\d+)\.pkl', os.path.basename(path))
    return path, float(numbered[1]) if numbered else None


def is_pickle(run_id: int | str) -> bool:
    """Whether `run_id` names a network pickle rather than a run."""
    return str(run_id).endswith('.pkl')


# ----------------------------------------------------------------------------------------------------------------------
# Finding the run to look at: by path, name or number; a folder ``NNN`` counts too, an empty one does not.


def locate_run_dir(run: int | str, result_dir: str = 'results') -> str:
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
        if re.match(r'\d+', name) and os.path.isdir(path) and {*os.listdir(path)} - {LOCK_FILE}:    # Else just made.
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


def locate_network_pkl(run_or_pkl: int | str, snapshot: int | str | None = None, result_dir: str = 'results') -> str:
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
    path = os.path.join(run_dir, LOCK_FILE)
    lock = filelock.FileLock(path, timeout=0, fallback_to_soft=False)   # A soft lock would outlive a killed process.
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f'resume_run_id: another process is training in {run_dir}; stop it first') from None
    except (OSError, NotImplementedError):
        pass        # A file system without locks, or one that is read-only.
    try:
        yield
    finally:
        if lock.is_locked:
            # Before the lock is given up, so that it is not the lock of the next process. Windows keeps an open file.
            with contextlib.suppress(OSError):
                os.remove(path)
        lock.release()


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


def state_paths(run_dir: str) -> list[str]:
    """The training states in a run folder, oldest first."""
    return sorted(glob.glob(os.path.join(glob.escape(run_dir), 'training-state-*.npz')), key=number_of)


def sizes_of_growing_files(run_dir: str) -> dict[str, int]:
    paths = {name: os.path.join(run_dir, name) for name in GROWING_FILES}
    return {name: os.path.getsize(path) for name, path in paths.items() if os.path.exists(path)}
