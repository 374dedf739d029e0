"""Read untrusted files in a child process, for C libraries that a damaged file can crash.

The child runs one generator and streams the items, so that a database of millions of records needs only one process. It
is a fresh interpreter that shares no threads, locks or devices with this process.
"""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from common.errors import UserError
from common.files import AnyPath

Record = tuple[bytes, ...]

HEADER = struct.Struct('<cQ')       # Kind of a message, and the number of its parts.
LENGTH = struct.Struct('<Q')        # Length of a part, in front of it.
DATA, MISTAKE, BUG, END = b'd', b'e', b'x', b'.'
BUFFER_BYTES = 1 << 20              # Records are sent in batches of about this size.
START = 'import sys; sys.path[:] = {path!r}; from common.child import serve; from {module} import {name}; serve({name})'


def read_in_child(path: AnyPath, read: Callable[..., Iterable[tuple[Any, ...]]], *args: Any,
                  max_memory: int | None = None, max_seconds: float | None = None) -> Iterator[Record]:
    """Yield the items of ``read(*args)``, computed in a child process, which ends with this generator.

    Parameters
    ----------
    path : str
        The file, for messages.
    read : callable
        A top-level generator function that yields tuples of bytes; its module should be quick to import.
    *args
        Texts, numbers, None, or lists of these.
    max_memory : int, optional
        Largest memory of the child in bytes, if the system can limit it.
    max_seconds : float, optional
        The child is ended after this time.

    Raises
    ------
    UserError
        `read` raised it, or the child crashed, ran out of memory or took too long.
    """
    start = START.format(path=[os.path.abspath(folder) for folder in sys.path], module=read.__module__,
                         name=read.__name__)
    # One thread is enough for reading.
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
    process = subprocess.Popen([sys.executable, '-c', start], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, bufsize=BUFFER_BYTES, env=environment)
    assert process.stdin is not None and process.stdout is not None
    clock = threading.Timer(max_seconds or 0, process.kill)
    try:
        if max_seconds:
            clock.start()
        with contextlib.suppress(BrokenPipeError):      # The child ended at once, which is reported below.
            process.stdin.write(json.dumps({'args': args, 'max_memory': max_memory}).encode())
            process.stdin.close()
        with contextlib.suppress(EOFError):
            yield from _records(process.stdout)
            process.stdout.read()       # Corrupted memory may crash the child only now.
        process.wait()
    finally:
        is_late = bool(max_seconds) and clock.finished.is_set()
        clock.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
    if process.returncode:
        how = f'took more than {max_seconds:g} seconds' if is_late else f'ended by {_end_of(process)}'
        raise UserError(f'{os.fspath(path)}: is damaged: the process that reads it {how}; copy or download it again')


def _records(stream: IO[bytes]) -> Iterator[Record]:
    while True:
        kind, num_parts = HEADER.unpack(_exactly(stream, HEADER.size))
        parts = tuple(_exactly(stream, LENGTH.unpack(_exactly(stream, LENGTH.size))[0]) for _ in range(num_parts))
        if kind == DATA:
            yield parts
        elif kind == END:
            return
        elif kind == MISTAKE:
            raise UserError(parts[0].decode('utf-8', 'surrogateescape'))
        else:
            raise RuntimeError(f'in the child process: {parts[0].decode("utf-8", "surrogateescape")}')


def _exactly(stream, length):
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _end_of(process):
    status = process.returncode
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f'exit status {status}'


# ----------------------------------------------------------------------------------------------------------------------
# In the child process.


def serve(read: Callable[..., Iterable[tuple[Any, ...]]]) -> None:
    """Call `read` with the arguments from stdin, and write its records to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # The parent ends the child.
    order = json.loads(sys.stdin.buffer.read())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        with open(os.dup(1), 'wb', BUFFER_BYTES) as stream:
            os.dup2(nowhere, 1)     # Keeps output of libraries out of the records.
            _serve(read, order['args'], order['max_memory'], stream)
    except BrokenPipeError:         # The parent needs no more records, or has ended.
        os._exit(0)


def _serve(read, args, max_memory, stream):
    try:
        _limit_memory(max_memory)
        for record in read(*args):
            _send(stream, DATA, record)
        _send(stream, END)
    except UserError as error:
        _send(stream, MISTAKE, (_encoded(error),))
    except MemoryError:
        limit = f'the {max_memory} bytes that a process may use for it' if max_memory else 'the free memory'
        _send(stream, MISTAKE, (_encoded(f'{args[0]}: needs more than {limit}'),))
    except BrokenPipeError:
        raise
    except Exception:
        _send(stream, BUG, (_encoded(traceback.format_exc()),))


def _encoded(text):
    return str(text).encode('utf-8', 'surrogateescape')


def _limit_memory(limit):
    if limit is None:
        return
    try:
        import resource
    except ImportError:     # On Windows.
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _send(stream, kind, parts=()):
    stream.write(HEADER.pack(kind, len(parts)))
    for part in parts:
        stream.write(LENGTH.pack(memoryview(part).nbytes))
        stream.write(part)
