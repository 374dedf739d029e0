"""Write files atomically, lock them, and check paths that users name."""

import contextlib
import errno
import itertools
import os
import pickle
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from typing import IO, Any

import filelock

from common.errors import UserError, WriteError

AnyPath = str | os.PathLike[str]

TEMPORARY_SUFFIX = '.tmp'
_temporary_counter = itertools.count()


def check_regular(path: AnyPath) -> None:
    """Raise UserError if `path` is a pipe, a socket or a device, because reading it may wait or continue forever.

    Call it before a library opens a path from a user or an archive. Missing files and folders are not errors here;
    opening them reports those.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = 'a pipe' if stat.S_ISFIFO(mode) else 'a socket' if stat.S_ISSOCK(mode) else 'a device'
        raise UserError(f'{os.fspath(path)}: is {kind}, which cannot be read; give a file')


def open_input(path: AnyPath, mode: str = 'rb', **open_kwargs: Any) -> IO[Any]:
    """``open`` for reading, after :func:`check_regular`."""
    check_regular(path)
    return open(path, mode, **open_kwargs)


def temporary_path(path: AnyPath) -> str:
    """A unique name beside `path`. It contains the writer's host and process, so that leftovers can be recognised."""
    return f'{path}.{socket.gethostname()}-{os.getpid()}-{next(_temporary_counter)}{TEMPORARY_SUFFIX}'


def remove_stale_temporaries(path: AnyPath) -> list[str]:
    """Delete leftovers of killed writers of `path` on this machine.

    Returns
    -------
    list of str
        The deleted files.
    """
    folder, name = os.path.split(path)
    owned = re.compile(re.escape(f'{name}.{socket.gethostname()}-') + r'(\d+)-\d+' + re.escape(TEMPORARY_SUFFIX))
    removed = []
    for entry in os.listdir(folder or '.'):
        match = owned.fullmatch(entry)
        if match and not process_exists(int(match[1])):
            stale_path = os.path.join(folder, entry)
            with contextlib.suppress(FileNotFoundError):    # Another writer may delete them at the same time.
                os.remove(stale_path)
                removed.append(stale_path)
    return removed


def process_exists(pid: int) -> bool:
    """Whether a process with this number exists on this machine."""
    if os.name == 'nt':     # On Windows, os.kill would end the process.
        import psutil
        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


def publish(temporary: AnyPath, path: AnyPath, and_folder: bool = True) -> None:
    """Rename the finished file `temporary` to `path`, after flushing its content to disk; then flush the folder.

    Without `and_folder`, the new name reaches the disk some time later.
    """
    _fsync(temporary)
    os.replace(temporary, path)
    if and_folder:
        with contextlib.suppress(OSError):      # Some file systems cannot open folders.
            _fsync(os.path.dirname(path) or '.')


def _fsync(path):
    # Windows requires a writable file.
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: AnyPath, mode: str = 'wb', **open_kwargs: Any) -> Iterator[IO[Any]]:
    """Open a file for writing that gets its name when it is complete: ``with atomic_write(path) as file: ...``.

    After an exception or a kill, `path` is unchanged: the old file, or none.

    Raises
    ------
    WriteError
        The file cannot be written: permission is missing, the folder does not exist, or the disk is full.
    """
    path = os.fspath(path)
    temporary = temporary_path(path)
    try:
        with open(temporary, mode, **open_kwargs) as file:
            yield file
        publish(temporary, path)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.remove(temporary)


@contextlib.contextmanager
def locked(path: AnyPath, busy: Callable[[filelock.BaseFileLock], None], timeout: float = 0,
           remove: bool = True) -> Iterator[None]:
    """Hold a lock during the block; `path` is the lock file. The lock ends with the process, however that ends.

    On a read-only file system or one without locks, the block runs without a lock.

    Parameters
    ----------
    path : str or path
        The lock file.
    busy : callable
        Called with the lock if another process still holds it after `timeout` seconds: raises an error, or waits.
    timeout : float
    remove : bool
        Delete the lock file afterwards.
    """
    lock = filelock.FileLock(path, timeout=timeout, fallback_to_soft=False)     # A soft lock outlives a killed process.
    try:
        lock.acquire()
    except filelock.Timeout:
        with contextlib.suppress(OSError, NotImplementedError):
            busy(lock)
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        if lock.is_locked and remove:
            # Delete it before releasing the lock; later, it might be the next process's lock. Windows keeps open files.
            with contextlib.suppress(OSError):
                os.remove(path)
        lock.release()


@contextlib.contextmanager
def one_at_a_time(path: AnyPath) -> Iterator[None]:
    """Let one process at a time make the file `path`; other processes that are about to make it wait."""
    def wait(lock: filelock.BaseFileLock) -> None:
        print(f'Another process is making {path}; waiting for it')
        lock.acquire(timeout=-1)

    # A process that waited for the deleted lock file continues at once, and finds the finished file.
    with locked(f'{os.fspath(path)}.lock', wait):
        yield


def append_bytes(path: AnyPath, data: bytes) -> None:
    """Append all of `data` to a file, or nothing if that raises `WriteError`."""
    try:
        with open(path, 'ab', buffering=0) as file:
            size = file.tell()
            try:
                while data:
                    data = data[file.write(data):]
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise _write_error(path, error) from error


class GrowingFile:
    """A file that is appended to. Data that cannot be written are kept and written with the next call.

    Parameters
    ----------
    path : str or path
    """

    MOST_WAITING = 1 << 24      # Bytes that are kept; further data are dropped.

    def __init__(self, path: AnyPath) -> None:
        self.path, self.waiting = path, b''

    def append(self, data: bytes = b'') -> None:
        """Append the data that were kept, then `data`.

        Raises
        ------
        WriteError
            Nothing was written; all of it is kept for the next call.
        """
        if len(self.waiting) + len(data) <= self.MOST_WAITING:
            self.waiting += data
        if self.waiting:
            append_bytes(self.path, self.waiting)
            self.waiting = b''


def is_full(error: OSError | WriteError) -> bool:
    """Whether writing failed because the disk, or the user's quota, is full."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def _write_error(path, error):
    return WriteError(f'{path}: cannot be written ({error.strerror or error}); choose another folder or free some '
                      'space')


def save_pkl(obj: object, path: AnyPath) -> None:
    """Pickle `obj` to a file, atomically."""
    with atomic_write(path) as file:
        pickle.dump(obj, file, protocol=4)


def link_or_copy(source: AnyPath, path: AnyPath) -> None:
    """Make a second name for a finished file (a hard link), or a copy if the file system has no links.

    Raises
    ------
    WriteError
    """
    temporary = temporary_path(path)
    try:
        os.link(source, temporary)
        os.replace(temporary, path)
    except OSError:
        with open(source, 'rb') as file, atomic_write(path) as copy:
            shutil.copyfileobj(file, copy)
    finally:
        with contextlib.suppress(FileNotFoundError):    # os.replace does nothing if both names were the same file.
            os.remove(temporary)
