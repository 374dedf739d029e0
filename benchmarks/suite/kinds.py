"""Of which kind a failure is, and the list of those that stay."""

import fnmatch
import pathlib
import re
from typing import NamedTuple

VALUE, MISSING, OTHER, TIME = 'wrong value', 'missing op or type', 'other error', 'time'
REWRITES = "Theano's own graphs"
KINDS = (VALUE, MISSING, OTHER, TIME, REWRITES)
# The kind of a line in the list: these fail on Theano's own engines as well. They count where those are not run.
EVERYWHERE = 'everywhere'

# In the message of an error that means that something is missing.
UNSUPPORTED = re.compile('theano_torch cannot run|not implemented for|UnsupportedOp|NotImplemented')
# In the statement that fails, where a test looks at the graph that Theano's rewrites have left, or at memory.
ABOUT_GRAPHS = re.compile(
    r'topo|fgraph|\.ops?\b|nodes?\b|isinstance|share_memory|inplace|destroy|clients|FunctionContains|stack_trace|'
    r'compile_and_check|\bis\b')
# In the statement of a test that compares values.
ABOUT_VALUES = re.compile('allclose|close\\(|array_equal|WrongValue|almost_equal|not close|Not equal to tolerance')


class Known(NamedTuple):
    """A line of the list: tests that fail, of which kind, and why they stay."""

    pattern: str    # Of ids, with the wildcards * and ?.
    kind: str
    reason: str


def kind_of(result: dict) -> str:
    """The kind of the failure `result`, see `plugin`. A guess; the list says it better."""
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
    """The list: lines of ``pattern | reason`` under headings ``[kind]``; ``#`` starts a comment."""
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
            raise ValueError(f'{path}: not `pattern | reason` under a heading [kind]: {line}')
        entries.append(Known(pattern.strip(), kind, reason.strip()))
    return entries


def find_known(test: str, entries: list[Known]) -> Known | None:
    """The line of the list for the test with the id `test`, or None."""
    return next((entry for entry in entries if fnmatch.fnmatchcase(test, entry.pattern.replace('[', '[[]'))), None)
