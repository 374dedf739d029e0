"""A real terminal for tests: a program runs in it, and `pyte` says what it shows."""

import contextlib
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyte

from tests.helpers import ROOT

ROWS = 24


class Shown(NamedTuple):
    """What a terminal has shown."""

    status: int                     # Exit status of the program.
    screens: list[list[str]]        # After each piece of output: the lines that are not empty.
    lines: list[str]                # At the end: all of them, with those that were scrolled away.


def run_in_terminal(arguments: Sequence[str], columns: int = 80, env: Mapping[str, str] | None = None) -> Shown:
    """Run Python with these arguments in a terminal of so many columns."""
    import fcntl  # Windows has none of them.
    import pty
    import termios
    pid, fd = pty.fork()
    if not pid:
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', ROWS, columns, 0, 0))
            os.chdir(ROOT)
            os.execve(sys.executable, [sys.executable, *arguments],
                      {**os.environ, 'TERM': 'xterm', 'PYTHONPATH': str(ROOT), **(env or {})})
        finally:
            os._exit(127)       # It is a copy of the tests.
    screen, screens = pyte.HistoryScreen(columns, ROWS, history=10000), []
    stream = pyte.ByteStream(screen)
    with contextlib.suppress(OSError):      # The end of a terminal.
        while data := os.read(fd, 65536):
            stream.feed(data)
            screens.append([line.rstrip() for line in screen.display if line.strip()])
    os.close(fd)
    gone = [''.join(line[column].data for column in range(screen.columns)).rstrip() for line in screen.history.top]
    return Shown(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screens, gone + (screens[-1] if screens else []))
