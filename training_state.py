"""Training states: everything that decides how a run goes on, in files from which it can be resumed exactly.

``training-state-NNNNNNNNN.npz`` in the run folder, NNNNNNNNN real images shown, is an .npz archive of plain arrays, one
of which is a JSON document. Behind the archive stands the SHA-256 of all that comes before, so that a torn or damaged
file is known for what it is. ``numpy.load(path)`` reads it.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import zipfile
from typing import NamedTuple

import filelock
import numpy as np

import misc

VERSION = 1                 # Of the arrays and the document.
STATES_KEPT = 2             # The last one, and the one before in case that one is damaged.
NETWORK_SNAPSHOT = 'network-snapshot-%06d.pkl'     # % thousands of images
DONE_FILE = '_training-done.txt'
EVENTS_FILE = 'events.out.tfevents.training'
GROWING_FILES = ('log.txt', 'stats.jsonl', EVENTS_FILE)    # To these the run appends.

# Options by which a resumed run may differ: when to stop, what to show, where to look.
FREE_OPTIONS = {
    'desc', 'create_dataset', 'metrics', 'dataset.h5_path', 'dataset.cache_gb', 'dataset.read_threads',
    'train.total_kimg', 'train.image_snapshot_ticks', 'train.network_snapshot_ticks', 'train.image_grid_zoom',
    'train.state_minutes', 'train.show_progress', 'train.resume_run_id', 'train.resume_snapshot', 'train.resume_kimg',
    'train.resume_time', 'train.resume_with_changes',
}


# ----------------------------------------------------------------------------------------------------------------------
# One file.


class State(NamedTuple):
    """What a file holds."""

    arrays: dict            # {name: ndarray}
    document: dict          # JSON: version, counters, config, ...


class DamagedState(misc.UserError):
    """A training state that was not written completely or has changed since."""


def write(path, state):
    """Write a :class:`State` into a file that is either complete, checksum included, or not there.

    Raises
    ------
    misc.WriteError
        Disk full, no permission, ...
    """
    document = np.frombuffer(json.dumps(dict(state.document, version=VERSION)).encode(), dtype=np.uint8)
    with misc.atomic_write(path, 'w+b') as file:
        with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
            for name, array in [*state.arrays.items(), ('document', document)]:
                with archive.open(name + '.npy', 'w', force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        size = file.tell()
        checksum = _checksum(file, size)
        file.seek(size)
        file.write(checksum)


def read(path):
    """The :class:`State` in a file.

    Raises
    ------
    DamagedState
        The checksum does not fit, or the file cannot be read at all.
    misc.UserError
        The file is of another version of this program.
    """
    try:
        with open(path, 'rb') as file:
            size = os.fstat(file.fileno()).st_size - len(_checksum(file, 0))
            if size <= 0:
                raise DamagedState(f'{path} is damaged: it is cut off')
            expected = _checksum(file, size)
            if file.read() != expected:
                raise DamagedState(f'{path} is damaged: its checksum does not fit')
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
    except OSError as error:
        raise DamagedState(f'{path} cannot be read: {error.strerror or error}') from error
    document = json.loads(arrays.pop('document').tobytes())
    if document['version'] != VERSION:
        raise misc.UserError(f'{path}: this program writes version {VERSION}, the file has {document["version"]!r}; '
                             'resume with the version that made it')
    return State(arrays, document)


def _checksum(file, size):
    """The line that stands behind the first `size` bytes of a file; leaves the position there."""
    digest, remaining = hashlib.sha256(), size
    file.seek(0)
    while remaining and (block := file.read(min(remaining, 1 << 20))):
        digest.update(block)
        remaining -= len(block)
    return b'sha256 %s\n' % digest.hexdigest().encode()


# ----------------------------------------------------------------------------------------------------------------------
# The states of a run.


class RunStates:
    """The training states of one run folder.

    Parameters
    ----------
    run_dir : str
    about : dict
        JSON that each state has in its document: the experiment, the command, ...
    start : State, optional
        What the run goes on from.
    """

    def __init__(self, run_dir, about, start=None):
        self.run_dir, self.about, self.start = run_dir, about, start

    def save(self, cur_nimg, arrays, document):
        """Save a state and delete old ones; says also how far the growing files have come."""
        document = {**self.about, 'growing_files': sizes_of_growing_files(self.run_dir), **document}
        write(os.path.join(self.run_dir, f'training-state-{cur_nimg:09d}.npz'), State(arrays, document))
        for path in state_paths(self.run_dir)[:-STATES_KEPT]:
            os.remove(path)

    def rewind(self):
        """Undo what the run has written since the state `start`, so that its files read as if it had never ended.

        Without `start`, since the beginning.
        """
        kept_nimg, sizes = -1, {}
        if self.start:
            kept_nimg, sizes = self.start.document['cur_nimg'], self.start.document['growing_files']
        for name in GROWING_FILES:
            path = os.path.join(self.run_dir, name)
            if os.path.exists(path) and os.path.getsize(path) > sizes.get(name, 0):
                os.truncate(path, sizes.get(name, 0))
        leftovers = [path for path in state_paths(self.run_dir) if _number(path) > kept_nimg]
        leftovers += glob.glob(os.path.join(glob.escape(self.run_dir), '*' + misc.TEMPORARY_SUFFIX))
        leftovers.append(os.path.join(self.run_dir, DONE_FILE))
        for path in leftovers:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


def sizes_of_growing_files(run_dir):
    paths = {name: os.path.join(run_dir, name) for name in GROWING_FILES}
    return {name: os.path.getsize(path) for name, path in paths.items() if os.path.exists(path)}


def state_paths(run_dir):
    """The training states in a run folder, oldest first."""
    return sorted(glob.glob(os.path.join(glob.escape(run_dir), 'training-state-*.npz')), key=_number)


def _number(path):
    """The last number in a file name."""
    return int(([-1] + re.findall(r'\d+', os.path.basename(path)))[-1])


def newest(run_dir):
    """The newest state of a run that is intact; says which ones are not. None if there has never been one.

    Raises
    ------
    misc.UserError
        There are only damaged ones, or network snapshots only.
    """
    paths = state_paths(run_dir)
    for path in reversed(paths):
        try:
            return read(path)
        except DamagedState as error:
            print(f'{error}; trying the one before')
    snapshots = network_snapshots(run_dir)
    if snapshots:
        raise misc.UserError(f'resume_run_id: {run_dir} has no intact training state; start a new run from its last '
                             f'networks with train.resume_snapshot={_number(snapshots[-1])}')
    if paths:
        raise misc.UserError(f'resume_run_id: {run_dir} has only damaged training states; start the run again')
    return None


def network_snapshots(run_dir):
    """The numbered network snapshots in a run folder, oldest first."""
    return sorted(glob.glob(os.path.join(glob.escape(run_dir), 'network-snapshot-*.pkl')), key=_number)


@contextlib.contextmanager
def in_use(run_dir):
    """Around all that writes into a run folder. The lock is gone when the process is, however it ends.

    Raises
    ------
    misc.UserError
        Another process trains there.
    """
    path = os.path.join(run_dir, misc.LOCK_FILE)
    lock = filelock.FileLock(path, timeout=0, fallback_to_soft=False)   # A soft lock would outlive a killed process.
    try:
        lock.acquire()
    except filelock.Timeout:
        raise misc.UserError(f'resume_run_id: another process is training in {run_dir}; stop it first') from None
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
# Which run, and whether the config fits.


def find_run(result_dir, run_id):
    """The folder of a run.

    Parameters
    ----------
    result_dir : str
    run_id : int or str
        Its number, 'latest' for the highest one, its name in `result_dir`, or its path.

    Raises
    ------
    misc.UserError
    """
    runs = {}
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
        raise misc.UserError('resume_run_id=%r: %s; give its number, folder or \'latest\'%s' % (
            run_id, 'there are several such runs: ' + ', '.join(found) if found else 'no such run in %s' % result_dir,
            misc.did_you_mean(run_id, names)))
    return os.path.join(result_dir, found[0])


def find_networks(result_dir, run_id, snapshot):
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
    misc.UserError
    """
    path = str(run_id)
    if not is_pickle(run_id):
        run_dir = find_run(result_dir, run_id)
        snapshots = {_number(path): path for path in network_snapshots(run_dir)}
        number = str(snapshot)
        if not number.isdigit() or int(number) not in snapshots:
            raise misc.UserError(f"train.resume_snapshot={snapshot!r}: use 'latest', or a snapshot of {run_dir}: "
                                 f"{', '.join(map(str, snapshots)) or 'it has none'}")
        path = snapshots[int(number)]
    numbered = re.fullmatch(r'network-snapshot-(\d+)\.pkl', os.path.basename(path))
    return path, float(numbered[1]) if numbered else None


def is_pickle(run_id):
    """Whether `run_id` names a network pickle rather than a run."""
    return str(run_id).endswith('.pkl')


def differing_options(recorded, present):
    """How the options of two experiments differ, apart from those in `FREE_OPTIONS`: a list of str.

    Parameters
    ----------
    recorded, present : dict
        Experiments with all defaults filled in. They are compared as JSON, in which `recorded` has been stored.
    """
    recorded, present = [_flat(json.loads(json.dumps(options))) for options in (recorded, present)]
    return ['%s (%s in the run, %s now)' % (key, *[json.dumps(options[key]) if key in options else 'not set'
                                                   for options in (recorded, present)])
            for key in sorted(recorded.keys() | present.keys())
            if key not in FREE_OPTIONS and key.partition('.')[0] not in FREE_OPTIONS
            and recorded.get(key) != present.get(key)]


def _flat(experiment):
    """{'SECTION.KEY': value}"""
    flat = {}
    for section, value in experiment.items():
        if isinstance(value, dict):
            flat.update((f'{section}.{key}', option) for key, option in value.items())
        else:
            flat[section] = value
    return flat
