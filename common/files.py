"""Files that are either complete or not there."""

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
    """Raise UserError if `path` is a pipe, a socket or a device: to read it can wait for ever, or never end.

    Call it before a library opens a file that the user names, or a stranger packed. Whether there is such a file at
    all, and whether it is a folder, opening it tells.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = 'a pipe' if stat.S_ISFIFO(mode) else 'a socket' if stat.S_ISSOCK(mode) else 'a device'
        raise UserError(f'{os.fspath(path)}: is {kind}, and only files are read; give a file')


def open_input(path: AnyPath, mode: str = 'rb', **open_kwargs: Any) -> IO[Any]:
    """``open`` for reading, after :func:`check_regular`."""
    check_regular(path)
    return open(path, mode, **open_kwargs)


def temporary_path(path: AnyPath) -> str:
    """A name beside `path` that no other writer uses; says who writes it, so that leftovers can be told."""
    return f'{path}.{socket.gethostname()}-{os.getpid()}-{next(_temporary_counter)}{TEMPORARY_SUFFIX}'


def remove_stale_temporaries(path: AnyPath) -> list[str]:
    """Delete what writers of `path` on this machine that were killed have left behind.

    Returns
    -------
    list of str
        The files deleted.
    """
    folder, name = os.path.split(path)
    owned = re.compile(re.escape(f'{name}.{socket.gethostname()}-') + r'(\d+)-\d+' + re.escape(TEMPORARY_SUFFIX))
    removed = []
    for entry in os.listdir(folder or '.'):
        match = owned.fullmatch(entry)
        if match and not process_exists(int(match[1])):
            stale_path = os.path.join(folder, entry)
            with contextlib.suppress(FileNotFoundError):    # Another writer tidies up at the same time.
                os.remove(stale_path)
                removed.append(stale_path)
    return removed


def process_exists(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    if os.name == 'nt':     # There, os.kill ends the process.
        import psutil
        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


def publish(temporary: AnyPath, path: AnyPath, and_folder: bool = True) -> None:
    """Give the finished file `temporary` its real name, its content safely on the disk first, and the name after.

    Without `and_folder` the name gets there some time later.
    """
    _fsync(temporary)
    os.replace(temporary, path)
    if and_folder:
        with contextlib.suppress(OSError):      # Not all file systems let a folder be opened.
            _fsync(os.path.dirname(path) or '.')


def _fsync(path):
    # Windows wants a file that may be written.
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: AnyPath, mode: str = 'wb', **open_kwargs: Any) -> Iterator[IO[Any]]:
    """Open a file for writing that gets its name when it is complete: ``with atomic_write(path) as file: ...``.

    After an exception, or a kill, `path` is what it was before: the old file or none.

    Raises
    ------
    WriteError
        The file cannot be written: no permission, no such folder, disk full.
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
    """Around what one process at a time may do; `path` is the lock. It is gone when the process is, however it ends.

    On a file system without locks, or one that is read-only, nobody is kept out.

    Parameters
    ----------
    path : str or path
        File of the lock.
    busy : callable
        Gets the lock if another process has kept it for `timeout` seconds: raises an error, or waits on.
    timeout : float
    remove : bool
        Delete the file afterwards.
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
            # Before the lock is given up, so that it is not the lock of the next process. Windows keeps an open file.
            with contextlib.suppress(OSError):
                os.remove(path)
        lock.release()


@contextlib.contextmanager
def one_at_a_time(path: AnyPath) -> Iterator[None]:
    """Around making the file `path` if it is not there: other processes that are about to do the same wait."""
    def wait(lock: filelock.BaseFileLock) -> None:
        print(f'Another process is making {path}: waiting for it')
        lock.acquire(timeout=-1)

    # Whoever waits for the deleted file of the lock goes on at once, and finds what has been made.
    with locked(f'{os.fspath(path)}.lock', wait):
        yield


def append_bytes(path: AnyPath, data: bytes) -> None:
    """Append bytes to a file, all of them or, with a `WriteError`, none."""
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
    """A file that is appended to; what cannot be written waits for the next time.

    Parameters
    ----------
    path : str or path
    """

    MOST_WAITING = 1 << 24      # Bytes. What comes then is lost.

    def __init__(self, path: AnyPath) -> None:
        self.path, self.waiting = path, b''

    def append(self, data: bytes = b'') -> None:
        """Append what waits, and then `data`.

        Raises
        ------
        WriteError
            All of it waits now.
        """
        if len(self.waiting) + len(data) <= self.MOST_WAITING:
            self.waiting += data
        if self.waiting:
            append_bytes(self.path, self.waiting)
            self.waiting = b''


def is_full(error: OSError | WriteError) -> bool:
    """Whether a file could not be written because the disk, or the user's share of it, is full."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def _write_error(path, error):
    return WriteError(f'{path}: cannot be written ({error.strerror or error}); choose another folder or make room')


def save_pkl(obj: object, path: AnyPath) -> None:
    """Pickle `obj` into a file that is either complete or not there."""
    with atomic_write(path) as file:
        pickle.dump(obj, file, protocol=4)


def link_or_copy(source: AnyPath, path: AnyPath) -> None:
    """Give a finished file a second name, which takes no room; where the file system has no links, a copy.

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
        with contextlib.suppress(FileNotFoundError):    # It stays where `path` was the same file before.
            os.remove(temporary)
