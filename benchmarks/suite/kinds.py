"""Kinds of failures in Theano's tests, and the list of known failures."""

import fnmatch
import pathlib
import re
from typing import NamedTuple

VALUE, MISSING, OTHER, TIME = 'wrong value', 'missing op or type', 'other error', 'time'
REWRITES = "Theano's own graphs"
KINDS = (VALUE, MISSING, OTHER, TIME, REWRITES)
# Kind of listed tests that also fail on Theano's own engines. It matters if those engines do not run.
EVERYWHERE = 'everywhere'

# Matches error messages about a missing op or type.
UNSUPPORTED = re.compile('theano_torch cannot run|not implemented for|UnsupportedOp|NotImplemented')
# Matches failing statements that check the graph after Theano's rewrites, or memory.
ABOUT_GRAPHS = re.compile(
    r'topo|fgraph|\.ops?\b|nodes?\b|isinstance|share_memory|inplace|destroy|clients|FunctionContains|stack_trace|'
    r'compile_and_check|\bis\b')
# Matches failing statements that compare values.
ABOUT_VALUES = re.compile('allclose|close\\(|array_equal|WrongValue|almost_equal|not close|Not equal to tolerance')


class Known(NamedTuple):
    """A line of the list: tests that fail, the kind of failure, and the reason to accept it."""

    pattern: str    # Test ids, with the wildcards * and ?.
    kind: str
    reason: str


def kind_of(result: dict) -> str:
    """Guess the kind of a failed `result` of `plugin`. For listed tests, use the kind in the list."""
    error, statement, message = result['error'], result['statement'], result['message']
    if error == 'Ended' or 'Timeout (' in message and 'pytest-timeout' in message:
        return TIME
    if error in ('UnsupportedOp', 'NotImplementedError') or UNSUPPORTED.search(message):
        return MISSING
    if error == 'WrongValue' or ABOUT_VALUES.search(statement):
        return VALUE
    if ABOUT_GRAPHS.search(statement):
        return REWRITES
    return VALUE if error == 'AssertionError' else OTHER


def read_known(path: pathlib.Path) -> list[Known]:
    """Read the list: lines ``pattern | reason`` under headings ``[kind]``; ``#`` starts a comment line."""
    kind, entries = '', []
    for line in path.read_text(encoding='utf-8').splitlines():
        line = line.strip()
        if not line or line.startswith('#'):
            continue
        if line.startswith('[') and line.endswith(']'):
            kind = line[1:-1]
            continue
        pattern, separator, reason = line.partition(' | ')
        if not kind or not separator or not reason.strip():
            raise ValueError(f'{path}: expected `pattern | reason` under a heading [kind]: {line}')
        entries.append(Known(pattern.strip(), kind, reason.strip()))
    return entries


def find_known(test: str, entries: list[Known]) -> Known | None:
    """The first line of the list that matches the test id `test`, or None."""
    return next((entry for entry in entries if fnmatch.fnmatchcase(test, entry.pattern.replace('[', '[[]'))), None)
