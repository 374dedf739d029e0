"""Terminal output: progress bars, durations, the log of a run."""

import contextlib
import os
import re
import shlex
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import numpy as np
from tqdm import tqdm

from common.errors import UserError, WriteError
from common.files import AnyPath, GrowingFile


def progress(iterable: Iterable[Any] | None, desc: str, total: int | None = None) -> tqdm:
    """Progress bar with ETA. Off a terminal: nothing for 30 s, then one update every 30 s."""
    seconds = 0 if sys.stderr.isatty() else 30
    return tqdm(iterable, desc=desc, total=total, unit='img', delay=seconds, mininterval=max(seconds, 0.1))


def command_line() -> str:
    """The command that started this program, for messages."""
    return shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])


def format_time(seconds: float) -> str:
    """'12s', '3m 07s', '2h 03m 07s' or '4d 2h 03m'; seconds are rounded half to even."""
    minutes, sec = divmod(int(np.rint(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f'{days}d {hour}h {minute:02d}m'
    if hours:
        return f'{hour}h {minute:02d}m {sec:02d}s'
    if minutes:
        return f'{minute}m {sec:02d}s'
    return f'{sec}s'


class _LastingStream:
    """Stands in for sys.stdout or sys.stderr, and ignores errors if the terminal, pipe or full disk is gone."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        self._try(self.stream.write, text)
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        self._try(self.stream.flush)

    def isatty(self):
        return bool(self._try(self.stream.isatty))

    def _try(self, method, *args):
        with contextlib.suppress(OSError, ValueError):      # ValueError: the stream is closed.
            return method(*args)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def _lasting(stream):
    if stream is None:      # It was closed before the program started.
        stream = open(os.devnull, 'w', encoding='utf-8')
    return stream if isinstance(stream, (_LastingStream, _LoggedStream)) else _LastingStream(stream)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Let work continue when its output can no longer be written.

    Within the block and at the interpreter's exit, write errors of stdout and stderr are ignored.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_lasting, streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in streams:
            if stream is not None:
                _forget_unwritten(stream)


def _forget_unwritten(stream):
    """Discard buffered output that cannot be written, which would fail at the interpreter's exit."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError), open(os.devnull, 'wb') as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
            stream.flush()


class OutputLogger:
    """Copies everything printed to stdout and stderr to a file: ``with OutputLogger('log.txt'): ...``.

    The file receives complete lines as a terminal shows them, so that only the last state of a progress bar is kept. An
    exception that leaves the block is logged, too. Write errors never stop the program: :func:`lasting_output` ignores
    errors of the streams; errors of the file are reported once, and its lines are written when that is possible.

    Raises
    ------
    UserError
        The file cannot be opened.
    """

    def __init__(self, path: AnyPath) -> None:
        try:
            with open(path, 'a', encoding='utf-8'):
                pass
        except OSError as error:
            raise UserError(f'{path}: the log cannot be written ({error.strerror}); choose another folder') from error
        self.start(GrowingFile(path))

    def start(self, file: GrowingFile) -> None:
        """Set the log's file; call it before anything is logged."""
        self.file, self.is_open, self.is_failing = file, True, False
        self.lock = threading.Lock()
        self.streams: tuple[Any, Any] = sys.stdout, sys.stderr

    def __enter__(self) -> 'OutputLogger':
        self.streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_LoggedStream(_lasting(stream), self) for stream in self.streams)
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _LoggedStream):
                stream.flush()
                stream.log_pending()
        sys.stdout, sys.stderr = self.streams
        if isinstance(error, UserError):
            self.log(f'error: {error}\n')
        elif error is not None:
            self.log(''.join(traceback.format_exception(error_type, error, trace)))
        with self.lock:
            self.is_open = False

    def log(self, text: str) -> None:
        with self.lock:
            if not self.is_open:        # A progress bar may outlive the block.
                return
            try:
                self.file.append(text.encode('utf-8', 'backslashreplace'))
                self.is_failing = False
            except WriteError as error:
                if not self.is_failing:
                    _lasting(self.streams[1]).write(
                        f'warning: {error}; the missing lines follow when the log can be written\n')
                self.is_failing = True


def is_logged() -> OutputLogger | None:
    """The active logger, or None."""
    return sys.stdout.logger if isinstance(sys.stdout, _LoggedStream) else None


class _LoggedStream:
    """Stands in for sys.stdout or sys.stderr within OutputLogger."""

    CONTROL_SEQUENCE = re.compile(r'\x1b\[[0-9;]*[A-Za-z]')

    def __init__(self, stream, logger):
        self.stream = stream
        self.logger = logger
        self.pending = ''

    def write(self, text):
        self.stream.write(text)
        *lines, self.pending = (self.pending + text).split('\n')
        for line in lines:
            self.logger.log(self.visible(line) + '\n')
        # Progress bars return to the start of the line a few times per second: keep only the last state.
        self.pending = self.pending[max(self.pending.rfind('\r', 0, -1), 0):]
        return len(text)

    def visible(self, line):
        """The text that a terminal shows for a line with carriage returns and control sequences."""
        if '\r' not in line and '\x1b' not in line:
            return line
        shown = ''
        for part in self.CONTROL_SEQUENCE.sub('', line).split('\r'):
            shown = part + shown[len(part):]
        return shown.rstrip()

    def log_pending(self):
        if self.visible(self.pending):
            self.logger.log(self.visible(self.pending) + '\n')
        self.pending = ''

    def __getattr__(self, name):
        return getattr(self.stream, name)
