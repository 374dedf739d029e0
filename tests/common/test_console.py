"""common/console.py: durations, and the log of a run."""

import errno
import io
import json
import os
import subprocess
import sys

import pytest
from tqdm import tqdm

from common import files
from common.console import OutputLogger, format_time, lasting_output
from common.errors import UserError, WriteError
from tests.helpers import GOLDEN, ROOT

NUMBERS = json.loads((GOLDEN / 'misc.json').read_text())


@pytest.mark.parametrize('seconds, text', NUMBERS['format_time'])
def test_format_time(seconds, text):
    assert format_time(seconds) == text


@pytest.mark.parametrize('seconds, text', json.loads((GOLDEN / 'tf' / 'train_utils.json').read_text())['format_time'])
def test_format_time_of_the_2018_release(seconds, text):
    """Beside days, the 2018 release pads hours to two digits and the 2017 release does not."""
    assert format_time(seconds) == text.replace('d 0', 'd ')


def test_the_log_gets_both_streams_and_they_are_restored(capsys, tmp_path):
    before = sys.stdout, sys.stderr
    with OutputLogger(tmp_path / 'log.txt'):
        print('columns   ', end='')
        print('warning', file=sys.stderr)
        print('more  ')
        print('no newline', end='')
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ('columns   more  \nno newline', 'warning\n')
    assert (tmp_path / 'log.txt').read_text() == 'warning\ncolumns   more  \nno newline\n'


def test_the_log_gets_only_the_last_state_of_a_progress_bar(capsys, tmp_path):
    with OutputLogger(tmp_path / 'log.txt'):
        with tqdm(range(100), desc='kimg', mininterval=0, miniters=1, ascii=True, ncols=60) as bar:
            for step in bar:
                if step == 50:
                    tqdm.write('tick 1', file=sys.stdout)
    assert capsys.readouterr().err.count('\r') > 100
    first, last = (tmp_path / 'log.txt').read_text().splitlines()
    assert first == 'tick 1'
    assert last.startswith('kimg: 100%|') and '100/100' in last and '\x1b' not in last


def test_the_log_has_the_reason_for_the_end_of_the_run(capsys, tmp_path):
    with pytest.raises(ZeroDivisionError), OutputLogger(tmp_path / 'log.txt'):
        print(1 / 0)
    log = (tmp_path / 'log.txt').read_text()
    assert 'Traceback' in log and log.endswith('ZeroDivisionError: division by zero\n')
    with pytest.raises(UserError), OutputLogger(tmp_path / 'log2.txt'):
        raise UserError('lod=-1: must be positive')
    assert (tmp_path / 'log2.txt').read_text() == 'error: lod=-1: must be positive\n'


def test_printing_after_the_end_of_the_log_still_reaches_the_terminal(capsys, tmp_path):
    with OutputLogger(tmp_path / 'log.txt'):
        kept = sys.stderr
    print('late', file=kept)
    assert capsys.readouterr().err == 'late\n' and (tmp_path / 'log.txt').read_text() == ''


def test_a_log_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r'missing/log.txt: the log cannot be written \(No such file'):
        OutputLogger(tmp_path / 'missing' / 'log.txt')


# ----------------------------------------------------------------------------------------------------------------------
# Output that cannot be written.


class Lost(io.StringIO):
    """A terminal that was closed."""

    def write(self, text):
        raise OSError(errno.EIO, 'Input/output error')

    def flush(self):
        raise BrokenPipeError(errno.EPIPE, 'Broken pipe')


@pytest.mark.parametrize('stream', [Lost(), None])
def test_work_continues_without_a_terminal(stream, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, 'stdout', stream)
    monkeypatch.setattr(sys, 'stderr', stream)
    with lasting_output():
        print('out')
        print('err', file=sys.stderr, flush=True)
        sys.stdout.writelines(['more', 'lines'])
        assert not sys.stderr.isatty()
        with OutputLogger(tmp_path / 'log.txt'):
            for _step in tqdm(range(3), mininterval=0):
                tqdm.write('logged', file=sys.stdout)
    assert sys.stdout is stream
    assert (tmp_path / 'log.txt').read_text().startswith('logged\nlogged\nlogged\n')


LONG_WORK = '''
import sys
from common.console import lasting_output
with lasting_output():
    for number in range(1000):
        print('line', number, 'of many', flush=number % 7 == 0)
        print('line', number, file=sys.stderr)
sys.exit(3)
'''


@pytest.mark.skipif(os.name == 'nt', reason='no /dev/full')
@pytest.mark.parametrize('redirection', ['>/dev/full', '>/dev/full 2>&1', '2>&1 | head -n 1 >&2', '>&- 2>&-'])
def test_the_interpreter_exits_normally_if_output_cannot_be_written(redirection):
    result = subprocess.run(
        ['bash', '-c', f'"$0" -c "$1" {redirection}; exit ${{PIPESTATUS[0]}}', sys.executable, LONG_WORK], cwd=ROOT,
        capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert not [line for line in result.stderr.splitlines() if not line.startswith('line ')]


def test_a_full_disk_is_reported_once_and_the_log_completed_later(capsys, monkeypatch, tmp_path):
    append_bytes, full = files.append_bytes, True

    def append(path, data):
        if full:
            raise WriteError(f'{path}: cannot be written (No space left on device)')
        append_bytes(path, data)

    monkeypatch.setattr(files, 'append_bytes', append)
    with OutputLogger(tmp_path / 'log.txt'):
        print('first')
        print('second')
        full = False
        print('third')
    assert (tmp_path / 'log.txt').read_text() == 'first\nsecond\nthird\n'
    out, err = capsys.readouterr()
    assert out == 'first\nsecond\nthird\n' and err.count('\n') == err.count('warning: ') == 1
