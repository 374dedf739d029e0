"""What a person reads: how far long work is, durations, the log of a run.

Long work tells how far it is in one way, :class:`Progress`: on a terminal in one line at the bottom, elsewhere in a
plain line every half minute. Everything else that is printed meanwhile stands above that line.
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

DRAW_SECONDS = 0.25         # Between two looks at the work, on a terminal...
PLAIN_SECONDS = 30.0        # ...and between two lines elsewhere.
PACE_SECONDS = 30.0         # How long ago work counts 1/e in the running mean of the speed.
ERASE = '\x1b[K'            # What stands right of the cursor, on terminals other than those of Windows.
BAR_WIDTHS = 8, 30          # A bar of fewer columns is left out, one of more is not made.

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
# How far long work is.


class Pace:
    """Short running mean of the seconds that a unit of work takes.

    Parameters
    ----------
    horizon : float
        Seconds after which a piece of work counts 1/e.
    """

    def __init__(self, horizon: float = PACE_SECONDS) -> None:
        self.horizon, self.work, self.seconds = horizon, 0.0, 0.0

    def add(self, work: float, seconds: float) -> None:
        """Take in that so much work took so many seconds."""
        kept = math.exp(-seconds / self.horizon)
        self.work, self.seconds = kept * self.work + work, kept * self.seconds + seconds

    @property
    def seconds_per_work(self) -> float:
        """NaN before there was any."""
        return self.seconds / self.work if self.work > 0 else math.nan


class Progress:
    """How far long work is, and when it is done: ``with Progress(desc, total) as bar: ...; bar.update()``.

    On a terminal it is one line on stderr, never longer than the screen is wide, that goes on while the work says
    nothing. Elsewhere it is a plain line every half minute. It is no part of an :class:`OutputLogger`'s file. Work
    within other work is told at the end of the line of the outer one.

    Parameters
    ----------
    desc : str
        What is being done.
    total : float, optional
        How much there is to do; None: nobody knows.
    unit : str
        Of `total`, as a plural.
    start : float
        How much was done before.
    seconds : float
        How long that took.
    show : bool
        False: tell nothing.
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
            # Work within other work finds the line of that by its stream.
            line = getattr(sys.stderr, 'progress_line', None)
            self.line = line if line and line.is_open else _ProgressLine()
            self.line.add(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.line:
            self.line.remove(self)
            self.line = None

    def update(self, n: float = 1) -> None:
        """So much more is done; any thread may say so."""
        with self.lock:
            now = time.monotonic()
            self.n += n
            self.step_seconds = now - self.last_time
            self.pace.add(n, self.step_seconds)
            self.last_time = now

    def note(self, remark: str) -> None:
        """Say something about the work, for example what it does now; '' says nothing."""
        self.remark = remark

    def remaining(self) -> float:
        """Estimated seconds until the work is done; NaN before that is known."""
        if self.total is None:
            return math.nan
        return self.counted_down((self.total - self.n) * self.pace.seconds_per_work)

    def counted_down(self, seconds: float) -> float:
        """Seconds that were left at the last update, less those since; never less than what the next one leaves."""
        return max(seconds - min(time.monotonic() - self.last_time, self.step_seconds), 0.0)

    def share(self) -> float:
        """The share that is done, from 0 to 1; NaN if nobody knows."""
        return min(self.n / self.total, 1.0) if self.total else math.nan

    def count(self) -> str:
        """'19.8/44 kimg', with as many decimals of a fraction as show a thousandth of the whole."""
        if self.total is None or isinstance(self.n, Integral) and isinstance(self.total, Integral):
            return f'{self.n}{"" if self.total is None else f"/{self.total}"} {self.unit}'
        digits = 1 if self.total >= 10 else min(2 - math.floor(math.log10(max(self.total, 1e-3))), 5)
        return f'{self.n:.{digits}f}/{self.total:g} {self.unit}'

    def percent(self) -> str:
        """'45%', 100% at the end only; '' if nobody knows."""
        return '' if math.isnan(self.share()) else f'{int(self.share() * 100):d}%'

    def times(self) -> tuple[str, str]:
        """('3m 07s gone', 'ETA 12s'); the second is empty as long as it is unknown."""
        left = self.remaining()
        return (format_time(time.monotonic() - self.start_time) + ' gone',
                '' if math.isnan(left) or self.n == self.total else 'ETA ' + format_time(left))


class _ProgressLine:
    """The line of all work in progress, and the thread that writes it."""

    def __init__(self):
        self.screen = sys.stderr
        while isinstance(self.screen, (_AboveLine, _LoggedStream)):
            self.screen = self.screen.stream
        self.is_terminal = bool(self.screen and self.screen.isatty()) and os.environ.get('TERM') != 'dumb'
        self.works: list[Progress] = []     # From the outermost to the innermost.
        self.drawn, self.is_open, self.unfinished = '', False, set()
        self.lock, self.finished = threading.RLock(), threading.Event()
        self.thread = threading.Thread(target=self.tell_again_and_again, name='telling progress', daemon=True)

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
        for name in ('stdout', 'stderr'):       # Something else may stand in for them by now.
            stream = getattr(sys, name)
            if isinstance(stream, _AboveLine) and stream.progress_line is self:
                setattr(sys, name, stream.stream)

    def tell_again_and_again(self):
        while not self.finished.wait(DRAW_SECONDS if self.is_terminal else PLAIN_SECONDS):
            if self.is_terminal:
                self.draw()
            else:
                self.print_plainly()

    def draw(self, end=''):
        """Write the line over what stands there, unless a line of somebody else is not finished."""
        with self.lock:
            width = self.width()
            text = self.text(width)
            if self.works and not self.unfinished and (end or text != self.drawn):
                # The cursor returns, so that the terminal's ^C does not lead to the next line.
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
        with contextlib.suppress(OSError, ValueError):      # Nobody can read it any more.
            if self.screen is not None:
                self.screen.write(text)
                self.screen.flush()

    def width(self):
        """Columns that can be written without the terminal's going on to the next line."""
        columns = 0
        with contextlib.suppress(OSError, ValueError, AttributeError):
            columns = os.get_terminal_size(self.screen.fileno()).columns
        return max((columns or 80) - 1, 1)

    def text(self, width):
        """The line in so many columns: of what does not fit, the least important is left out; None: all of it."""
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
    """Stands in for sys.stdout or sys.stderr: what is printed stands above the line of the work in progress."""

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
    """Yield what is in `iterable`; a :class:`Progress` tells how far that is."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(desc, total, unit) as bar:
        for item in iterable:
            yield item
            bar.update()


# ----------------------------------------------------------------------------------------------------------------------
# Output that nobody can read any more, and its copy in a file.


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

    The file gets finished lines only, as they stand on the screen when the line ends: of a progress bar of somebody
    else's the last state only, of :class:`Progress` nothing. An exception that leaves the block is written into the
    file, too. Errors of writing end nothing: see :func:`lasting_output` for the streams; what the file does not take is
    told once, and written when it takes it.

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
    """The logger that copies what is printed at present; None if there is none."""
    return getattr(sys.stdout, 'logger', None)


def tell(shown: str | None, logged: str | None) -> None:
    """Print the line or lines `shown`; the file of the :class:`OutputLogger`, if there is one, gets `logged` instead.

    None: nothing.
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
    """Stands in for sys.stdout or sys.stderr within OutputLogger."""

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
        # Bars of others return to the start of their line a few times a second: keep the last state only.
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
