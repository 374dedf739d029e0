"""Training states: files from which a run can be resumed exactly.

``training-state-NNNNNNNNN.npz`` in the run folder is an .npz archive of plain arrays, one of which is a JSON document;
NNNNNNNNN is the number of real images shown. The SHA-256 of the archive is appended to it, so that a truncated or
damaged file is detected. ``numpy.load(path)`` reads the file.
"""

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from common.arrays import DAMAGES, read_archive, write_archive
from common.errors import UserError, WriteError
from common.files import TEMPORARY_SUFFIX, atomic_write, is_full
from runs.folder import (
    DONE_FILE,
    FINAL_NETWORKS,
    GROWING_FILES,
    NETWORK_SNAPSHOT,
    list_network_pkls,
    network_snapshots,
    number_of,
    pictures,
    sizes_of_growing_files,
    state_paths,
)

VERSION = 1                 # Version of the format of arrays and document.
STATES_KEPT = 2             # The last one, and its predecessor in case the last one is damaged.


# ----------------------------------------------------------------------------------------------------------------------
# The file format.


class State(NamedTuple):
    """The content of a training state."""

    arrays: dict            # {name: ndarray}
    document: dict          # JSON: version, counters, config, ...


class DamagedState(UserError):
    """A training state that is incomplete or has changed since it was written."""


def write(path: str, state: State) -> None:
    """Write a :class:`State` into a file, which appears only when it is complete.

    Raises
    ------
    WriteError
        Disk full, no permission, ...
    """
    document = np.frombuffer(json.dumps(dict(state.document, version=VERSION)).encode(), dtype=np.uint8)
    with atomic_write(path) as file:
        hashed = _Hashed(file)
        write_archive(hashed, [*state.arrays.items(), ('document', document)])
        file.write(_checksum_line(hashed.digest))


def read(path: str) -> State:
    """Read a :class:`State` from a file.

    Raises
    ------
    DamagedState
        The checksum does not match, or the file is not a training state.
    UserError
        Another version of this program wrote the file.
    """
    try:
        with open(path, 'rb') as file:
            size = os.fstat(file.fileno()).st_size - len(_checksum(file, 0))
            if size <= 0:
                raise DamagedState(f'{path} is damaged: it is cut off')
            expected = _checksum(file, size)
            if file.read() != expected:
                raise DamagedState(f'{path} is damaged: its checksum does not match')
            content = read_archive(file, size)
        document = json.loads(content.pop('document').tobytes())
        if not isinstance(document, dict) or 'version' not in document:
            raise DamagedState(f'{path} is damaged: its version number is missing')
    except DamagedState:
        raise
    except OSError as error:
        raise DamagedState(f'{path} cannot be read: {error.strerror or error}') from error
    except DAMAGES as error:
        raise DamagedState(f'{path} is damaged: it is not a training state ({error!s:.200})') from error
    if document['version'] != VERSION:
        raise UserError(f'{path}: this program writes version {VERSION}, the file has {document["version"]!r}; '
                        'resume with the version that made it')
    return State(content, document)


def fitting(content: dict[str, np.ndarray], name: str, like: np.ndarray) -> np.ndarray:
    """The array `name` of a training state.

    Raises
    ------
    UserError
        The array is missing, or its shape or dtype differs from that of `like`.
    """
    array = content.get(name)
    if array is None or array.shape != like.shape or array.dtype != like.dtype:
        found = 'missing' if array is None else f'{array.dtype} {array.shape!s:.80}'
        raise UserError(f'the training state belongs to another run: {name} is {found}, expected {like.dtype} '
                        f'{like.shape}; resume with the options and the version of this program that made it')
    return array


def _checksum(file, size):
    """The checksum line of the first `size` bytes of a file; leaves the file position after them."""
    digest, remaining = hashlib.sha256(), size
    file.seek(0)
    while remaining and (block := file.read(min(remaining, 1 << 20))):
        digest.update(block)
        remaining -= len(block)
    return _checksum_line(digest)


def _checksum_line(digest):
    return b'sha256 %s\n' % digest.hexdigest().encode()


class _Hashed:
    """A writable file that computes the SHA-256 of the data written to it.

    It has no `seek`: `zipfile` would use that to rewrite headers, which the hash has already covered.
    """

    def __init__(self, file):
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data):
        self.digest.update(data)
        return self.file.write(data)

    def flush(self):
        self.file.flush()


# ----------------------------------------------------------------------------------------------------------------------
# The states of a run.


class RunStates:
    """The training states of one run folder.

    Parameters
    ----------
    run_dir : str
    about : dict
        JSON values that are added to the document of each state: the experiment, the command, ...
    start : State, optional
        The state from which the run resumes.
    on_rewind : callable, optional
        Called after the run folder has been reset to `start`, when nothing before that can fail any more.
    """

    def __init__(self, run_dir: str, about: dict, start: State | None = None,
                 on_rewind: Callable[[], None] = lambda: None) -> None:
        self.run_dir, self.about, self.start, self.on_rewind = run_dir, about, start, on_rewind

    def save(self, cur_nimg: int, arrays: dict, document: dict) -> None:
        """Save a state and delete old ones. The document also records the pictures and the sizes of the growing files.

        If the disk is full, all older states but the newest intact one are deleted, and the state is written again.

        Raises
        ------
        WriteError
            The disk is still full, no permission, ...
        """
        document = {**self.about, 'growing_files': sizes_of_growing_files(self.run_dir),
                    'pictures': [os.path.basename(path) for path in pictures(self.run_dir)], **document}
        path, state = os.path.join(self.run_dir, f'training-state-{cur_nimg:09d}.npz'), State(arrays, document)
        try:
            write(path, state)
        except WriteError as error:
            if not is_full(error) or not self._free_space():
                raise
            write(path, state)
        for old in state_paths(self.run_dir)[:-STATES_KEPT]:
            os.remove(old)

    def _free_space(self):
        """Delete all states but the newest intact one; return whether there were any."""
        paths = state_paths(self.run_dir)
        if len(paths) < 2:
            return False
        intact = next(filter(_is_intact, reversed(paths)), None)
        for path in paths:
            if path != intact:
                os.remove(path)
        return True

    def rewind(self) -> None:
        """Remove everything that the run has written since the state `start`.

        If the run was finished and continues, ``network-final.pkl`` is renamed to a snapshot with the number of its
        kimg.
        """
        assert self.start
        document = self.start.document
        kept_nimg, sizes = document['cur_nimg'], document['growing_files']
        cut_back(self.run_dir, sizes)
        with contextlib.suppress(FileNotFoundError):    # First, since this file promises that all others are there.
            os.remove(os.path.join(self.run_dir, DONE_FILE))
        final, numbered = (os.path.join(self.run_dir, name) for name in
                           (FINAL_NETWORKS, NETWORK_SNAPSHOT % (kept_nimg // 1000)))
        if document.get('done') and os.path.exists(final):
            os.replace(final, numbered)
        leftovers = [path for path in state_paths(self.run_dir) if number_of(path) > kept_nimg]
        leftovers += [path for path in network_snapshots(self.run_dir) if number_of(path) > kept_nimg // 1000]
        leftovers += [path for path in pictures(self.run_dir) if os.path.basename(path) not in document['pictures']] \
            if 'pictures' in document else [path for path in pictures(self.run_dir)
                                            if number_of(path) > kept_nimg // 1000]
        self._remove([*leftovers, final])
        self.on_rewind()

    def start_over(self, sizes: dict[str, int]) -> None:
        """Remove the files of an attempt that saved no state; `sizes` are the sizes of its growing files at its end."""
        for name, size in sizes.items():
            path = os.path.join(self.run_dir, name)
            with open(path, 'r+b') as file:     # Keep the bytes that were written after the attempt.
                file.seek(size)
                since = file.read()
                file.seek(0)
                file.write(since)
                file.truncate()
        self._remove([*state_paths(self.run_dir), *pictures(self.run_dir)])
        self.on_rewind()

    def _remove(self, paths):
        temporary = glob.glob(os.path.join(glob.escape(self.run_dir), '*' + TEMPORARY_SUFFIX))
        for path in [*paths, *temporary, os.path.join(self.run_dir, DONE_FILE)]:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


def cut_back(run_dir: str, sizes: dict[str, int]) -> None:
    """Truncate the growing files of a run to earlier sizes; files without a size become empty."""
    for name in GROWING_FILES:
        path = os.path.join(run_dir, name)
        if os.path.exists(path) and os.path.getsize(path) > sizes.get(name, 0):
            os.truncate(path, sizes.get(name, 0))


def _is_intact(path):
    try:
        read(path)
    except UserError:
        return False
    return True


def newest(run_dir: str) -> State | None:
    """The newest intact state of a run, or None. Damaged ones are reported."""
    for path in reversed(state_paths(run_dir)):
        try:
            return read(path)
        except DamagedState as error:
            print(f'{error}; trying the one before')
    return None


def check_nothing_is_lost(run_dir: str) -> None:
    """Raise `UserError` if starting a run again in its folder, without an intact state, would lose its networks."""
    networks = list_network_pkls(run_dir)
    if networks:
        number = number_of(networks[-1])
        raise UserError(f'resume_run_id: {run_dir} has no intact training state; start a new run from its last '
                        f'networks with train.resume_snapshot={"final" if number < 0 else number}')
    if state_paths(run_dir):
        raise UserError(f'resume_run_id: {run_dir} has only damaged training states; start the run again')
