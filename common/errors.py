"""User errors: one line that names the option, its value and the cure, without a traceback."""

from common.starting import begin_work

import difflib
import io
import sys
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """A mistake of the user: one line that names the option, its value and the cure, shown without a traceback."""


class WriteError(UserError):
    """A file cannot be written: the disk is full, permission is missing, or the folder does not exist."""


def one_line(text: object) -> str:
    """Escape line breaks and unprintable characters, so that a text or file name takes one line.

    Bytes are decoded. File names that are not UTF-8 keep the invalid bytes as ``\\xNN``.
    """
    text = text.decode(errors='surrogateescape') if isinstance(text, bytes) else str(text)
    return ''.join(char if char.isprintable() else f'\\x{ord(char) - 0xdc00:02x}' if 0xdc80 <= ord(char) <= 0xdcff
                   else char.encode('unicode_escape').decode() for char in text)


def did_you_mean(word: object, candidates: Iterable[object], cutoff: float = 0.6) -> str:
    """End of an error message, ``"; did you mean 'nearest candidate'?"``; '' if no candidate is similar."""
    matches = difflib.get_close_matches(str(word), [str(candidate) for candidate in candidates], n=1, cutoff=cutoff)
    return f'; did you mean {matches[0]!r}?' if matches else ''


def exit_status(script: str, work: Callable[[], int | None],
                mistakes: type[BaseException] | tuple[type[BaseException], ...] = UserError,
                interrupted: str = 'interrupted') -> int:
    """Call ``work()`` and return the script's exit status; user errors and Ctrl-C print one line.

    Parameters
    ----------
    script : str
        Name of the script, for the line.
    work : callable
        Returns an exit status, or None for success.
    mistakes : exception type or tuple of them
        Reported in one line without a traceback; the exit status is 1.
    interrupted : str
        Printed after Ctrl-C; the exit status is 130.

    Returns
    -------
    int
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')       # File names need not be UTF-8.
    try:
        begin_work()
        return work() or 0
    except mistakes as error:
        # File names may contain line breaks.
        print(f'{script}: error: {one_line(error)}', file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f'{script}: error: out of memory{f" ({error})" if str(error) else ""}; process less at a time',
              file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'{script}: {interrupted}', file=sys.stderr)
        return 130
