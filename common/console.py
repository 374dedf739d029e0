"""Console output: progress of long work, durations, the log of a run.

All long work reports its progress with :class:`Progress`: on a terminal in the last line, below all other output; off a
terminal as a plain line every 30 s.
"""

import contextlib
import math
import os
import re
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sized
from numbers import Integral
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from tqdm.std import Bar
from tqdm.utils import disp_len, disp_trim

from common.errors import UserError, WriteError
from common.files import AnyPath, GrowingFile

DRAW_SECONDS = 0.25         # Interval between updates on a terminal.
PLAIN_SECONDS = 30.0        # Interval between lines off a terminal.
PACE_SECONDS = 30.0         # Time constant of the running mean of the speed.
ERASE = '\x1b[K'            # Erases the line right of the cursor, on terminals other than those of Windows.
BAR_WIDTHS = 8, 30          # Smallest and largest width of a bar in columns.

Progressing = TypeVar('Progressing', bound='Progress')


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


def rough_time(seconds: float) -> str:
    """An estimate in words, with two significant digits: 'about 35 minutes', 'about 2.5 hours', 'about 10 years'."""
    for unit, length, least in [('year', 365.25 * 86400, 1.5), ('month', 30.44 * 86400, 2), ('day', 86400.0, 2),
                                ('hour', 3600.0, 1.5), ('minute', 60.0, 1.5)]:
        if seconds >= least * length:
            return f'about {float(f"{seconds / length:.2g}"):g} {unit}s'
    return f'about {float(f"{seconds:.2g}"):g} seconds' if seconds >= 1.5 else 'about a second'


# ----------------------------------------------------------------------------------------------------------------------
# Progress.


class Pace:
    """Running mean of the seconds per unit of work.

    Parameters
    ----------
    horizon : float
        Time in seconds after which the weight of a measurement falls to 1/e.
    """

    def __init__(self, horizon: float = PACE_SECONDS) -> None:
        self.horizon, self.work, self.seconds = horizon, 0.0, 0.0

    def add(self, work: float, seconds: float) -> None:
        """Add a measurement: `work` took `seconds`."""
        kept = math.exp(-seconds / self.horizon)
        self.work, self.seconds = kept * self.work + work, kept * self.seconds + seconds

    @property
    def seconds_per_work(self) -> float:
        """NaN before the first measurement."""
        return self.seconds / self.work if self.work > 0 else math.nan


class Progress:
    """Shows the progress of long work, and the time left: ``with Progress(desc, total) as bar: ...; bar.update()``.

    On a terminal, a thread keeps one line on stderr up to date, which always fits the width of the screen. Off a
    terminal, it prints a plain line every 30 s. The file of an :class:`OutputLogger` gets none of this. Nested work
    appears at the end of the outer work's line.

    Parameters
    ----------
    desc : str
        Description of the work.
    total : float, optional
        Amount of work. Default: unknown.
    unit : str
        Unit of `total`, in the plural.
    start : float
        Amount of work done before.
    seconds : float
        Time that the earlier work took.
    show : bool
        False: print nothing.
    """

    def __init__(self, desc: str, total: float | None = None, unit: str = 'images', start: float = 0,
                 seconds: float = 0.0, show: bool = True) -> None:
        self.desc, self.total, self.unit, self.n, self.show = desc, total, unit, start, show
        self.start_time = self.last_time = time.monotonic()
        self.start_time -= seconds
        self.pace, self.step_seconds, self.remark = Pace(), 0.0, ''
        self.lock = threading.Lock()
        self.line: _ProgressLine | None = None

    def __enter__(self: Progressing) -> Progressing:
        self.last_time = time.monotonic()
        if self.show:
            # Nested work shares the line of the outer work, which the stream knows.
            line = getattr(sys.stderr, 'progress_line', None)
            self.line = line if line and line.is_open else _ProgressLine()
            self.line.add(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.line:
            self.line.remove(self)
            self.line = None

    def update(self, n: float = 1) -> None:
        """Add finished work. May be called by any thread."""
        with self.lock:
            now = time.monotonic()
            self.n += n
            self.step_seconds = now - self.last_time
            self.pace.add(n, self.step_seconds)
            self.last_time = now

    def note(self, remark: str) -> None:
        """Show a remark, for example the current activity; '' removes it."""
        self.remark = remark

    def remaining(self) -> float:
        """Estimated seconds until the work is done; NaN if unknown."""
        if self.total is None:
            return math.nan
        return self.counted_down((self.total - self.n) * self.pace.seconds_per_work)

    def counted_down(self, seconds: float) -> float:
        """The `seconds` left at the last update minus the time since, but at most the duration of one update."""
        return max(seconds - min(time.monotonic() - self.last_time, self.step_seconds), 0.0)

    def share(self) -> float:
        """The share of the work that is done, from 0 to 1; NaN if unknown."""
        return min(self.n / self.total, 1.0) if self.total else math.nan

    def count(self) -> str:
        """'19.8/44 kimg', with enough decimals to show a thousandth of the total."""
        if self.total is None or isinstance(self.n, Integral) and isinstance(self.total, Integral):
            return f'{self.n}{"" if self.total is None else f"/{self.total}"} {self.unit}'
        digits = 1 if self.total >= 10 else min(2 - math.floor(math.log10(max(self.total, 1e-3))), 5)
        return f'{self.n:.{digits}f}/{self.total:g} {self.unit}'

    def percent(self) -> str:
        """'45%', rounded down; '' if unknown."""
        return '' if math.isnan(self.share()) else f'{int(self.share() * 100):d}%'

    def times(self) -> tuple[str, str]:
        """('3m 07s gone', 'ETA 12s'); the second is empty if unknown."""
        left = self.remaining()
        return (format_time(time.monotonic() - self.start_time) + ' gone',
                '' if math.isnan(left) or self.n == self.total else 'ETA ' + format_time(left))


class _ProgressLine:
    """The progress line of all current work, and the thread that updates it."""

    def __init__(self):
        self.screen = sys.stderr
        while isinstance(self.screen, (_AboveLine, _LoggedStream)):
            self.screen = self.screen.stream
        self.is_terminal = bool(self.screen and self.screen.isatty()) and os.environ.get('TERM') != 'dumb'
        self.works: list[Progress] = []     # Outermost work first.
        self.drawn, self.is_open, self.unfinished = '', False, set()
        self.lock, self.finished = threading.RLock(), threading.Event()
        self.thread = threading.Thread(target=self.update_repeatedly, name='updating progress', daemon=True)

    def add(self, work):
        self.works.append(work)
        if not self.is_open:
            self.is_open = True
            sys.stdout, sys.stderr = (stream and _AboveLine(stream, self) for stream in (sys.stdout, sys.stderr))
            if self.is_terminal:
                self.draw()
            self.thread.start()

    def remove(self, work):
        if self.works != [work]:
            self.works.remove(work)
            return
        if self.is_terminal:
            self.draw(end='\n')
        self.is_open = False
        self.finished.set()
        if threading.current_thread() is not self.thread:
            self.thread.join()
        for name in ('stdout', 'stderr'):       # Others may have replaced them meanwhile.
            stream = getattr(sys, name)
            if isinstance(stream, _AboveLine) and stream.progress_line is self:
                setattr(sys, name, stream.stream)

    def update_repeatedly(self):
        while not self.finished.wait(DRAW_SECONDS if self.is_terminal else PLAIN_SECONDS):
            if self.is_terminal:
                self.draw()
            else:
                self.print_plainly()

    def draw(self, end=''):
        """Overwrite the progress line, unless other output is in the middle of a line."""
        with self.lock:
            width = self.width()
            text = self.text(width)
            if self.works and not self.unfinished and (end or text != self.drawn):
                # Return the cursor, so that the terminal's ^C does not wrap to the next line.
                self.write('\r' + text + (' ' * (width - disp_len(text)) if os.name == 'nt' else ERASE) + (end or '\r'))
                self.drawn = text

    def hide(self):
        if self.drawn:
            self.write('\r' + ' ' * self.width() + '\r' if os.name == 'nt' else '\r' + ERASE)
            self.drawn = ''

    def print_plainly(self):
        with self.lock:
            if self.works and not self.unfinished:
                self.write(self.text(None) + '\n')

    def write(self, text):
        with contextlib.suppress(OSError, ValueError):      # The terminal or pipe may be closed.
            if self.screen is not None:
                self.screen.write(text)
                self.screen.flush()

    def width(self):
        """Number of columns that can be written without wrapping to the next line."""
        columns = 0
        with contextlib.suppress(OSError, ValueError, AttributeError):
            columns = os.get_terminal_size(self.screen.fileno()).columns
        return max((columns or 80) - 1, 1)

    def text(self, width):
        """The line in at most `width` columns, without the least important parts if they do not fit; None: no limit."""
        works = list(self.works)
        if not works:
            return ''
        work, (gone, left) = works[0], works[0].times()
        now = ', '.join(filter(None, [work.remark, *(
            f'{inner.desc} {inner.percent() or inner.count()}' for inner in works[1:])]))
        head = ' '.join(filter(None, [work.desc, work.percent()]))
        ways = [(head, [work.count(), gone, left, now]), (head, [work.count(), left, now]),
                (head, [work.count(), left]), (work.percent(), [work.count(), left]), (work.percent(), [left])]
        for head, tail in ways:
            tail = ', '.join(filter(None, tail))
            if width is None:
                return f'{head}: {tail}'
            room = width - disp_len(f'{head}  {tail}')
            if room >= BAR_WIDTHS[0] and not math.isnan(work.share()):
                return f'{head} {Bar(work.share(), min(room, BAR_WIDTHS[1]), self.charset())} {tail}'
            if room >= -1:
                return f'{head} {tail}'
        return disp_trim(f'{head} {tail}', width)

    def charset(self):
        try:
            Bar.UTF.encode(self.screen.encoding or 'ascii')
        except (UnicodeEncodeError, LookupError, AttributeError):
            return Bar.ASCII
        return Bar.UTF


class _AboveLine:
    """Replaces sys.stdout or sys.stderr, and prints output above the progress line."""

    def __init__(self, stream, line):
        self.stream, self.progress_line = stream, line

    def write(self, text):
        line = self.progress_line
        if not line.is_open or not text:
            return self.stream.write(text)
        with line.lock:
            if line.is_terminal:
                line.hide()
            self.stream.write(text)
            if text.endswith('\n'):
                line.unfinished.discard(self)
                if line.is_terminal:
                    self.stream.flush()
                    line.draw()
            else:
                line.unfinished.add(self)
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def progress(iterable: Iterable[Any], desc: str, total: int | None = None, unit: str = 'images') -> Iterator[Any]:
    """Iterate over `iterable` with a :class:`Progress`."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(desc, total, unit) as bar:
        for item in iterable:
            yield item
            bar.update()


# ----------------------------------------------------------------------------------------------------------------------
# Output that outlives its terminal, and its copy in a file.


class _LastingStream:
    """Replaces sys.stdout or sys.stderr, and ignores errors of a closed terminal, a broken pipe or a full disk."""

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

    The file gets complete lines as they finally appear on the screen: the last state of another library's progress bar,
    and nothing of :class:`Progress`. An exception that leaves the block is also written to the file. Write errors do
    not end the program: errors of the streams are ignored as in :func:`lasting_output`; if the file cannot be written,
    a warning is printed once, and the missing lines follow later.

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
        self.silent_thread: int | None = None
        self.streams: tuple[Any, Any] = sys.stdout, sys.stderr
        self.copied: list[_LoggedStream] = []

    def __enter__(self) -> 'OutputLogger':
        self.streams = sys.stdout, sys.stderr
        self.copied = [_LoggedStream(_lasting(stream), self) for stream in self.streams]
        sys.stdout, sys.stderr = self.copied
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for stream in self.copied:
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
    """The active logger; None if there is none."""
    return getattr(sys.stdout, 'logger', None)


def print_and_log(shown: str | None, logged: str | None) -> None:
    """Print `shown` on the screen, and write `logged` instead to the file of the active :class:`OutputLogger`.

    None: print or write nothing.
    """
    log = is_logged()
    if log:
        if logged is not None:
            log.log(logged + '\n')
        log.silent_thread = threading.get_ident()
    try:
        if shown is not None:
            print(shown)
    finally:
        if log:
            log.silent_thread = None


class _LoggedStream:
    """Replaces sys.stdout or sys.stderr within an OutputLogger."""

    CONTROL_SEQUENCE = re.compile(r'\x1b\[[0-9;]*[A-Za-z]')

    def __init__(self, stream, logger):
        self.stream = stream
        self.logger = logger
        self.pending = ''

    def write(self, text):
        self.stream.write(text)
        if self.logger.silent_thread == threading.get_ident():
            return len(text)
        *lines, self.pending = (self.pending + text).split('\n')
        for line in lines:
            self.logger.log(self.visible(line) + '\n')
        # Progress bars of other libraries rewrite their line a few times per second: keep the last state only.
        self.pending = self.pending[max(self.pending.rfind('\r', 0, -1), 0):]
        return len(text)

    def visible(self, line):
        """The text that a terminal finally shows for a line with carriage returns and control sequences."""
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
