"""common/console.py: how far work is, in a real terminal and elsewhere, durations, and the log of a run."""

import errno
import io
import json
import math
import os
import re
import subprocess
import sys
import types

import pytest
from tqdm import tqdm
from tqdm.utils import disp_len

from common import console, files
from common.console import (
    OutputLogger,
    Pace,
    Progress,
    format_time,
    lasting_output,
    print_and_log,
    progress,
    rough_time,
)
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


@pytest.mark.parametrize('seconds, words', [
    (0.4, 'a second'), (52, '52 seconds'), (95, '1.6 minutes'), (2040, '34 minutes'), (9000, '2.5 hours'),
    (86400 * 3.2, '3.2 days'), (86400 * 100, '3.3 months'), (3812.98 * 86400, '10 years')])
def test_an_estimate_in_words(seconds, words):
    assert rough_time(seconds) == f'about {words}'


# ----------------------------------------------------------------------------------------------------------------------
# How far work is.


WORK = '''
import sys, time
from common.console import OutputLogger, Progress, progress, print_and_log
with OutputLogger(sys.argv[1]), Progress('Working', 60, start=20, seconds=3600) as bar:
    for step in range(40):
        time.sleep(0.02)
        bar.update()
        if step % 10 == 5:
            print('in two', end=' ', flush=True)
            time.sleep(0.3)
            print(f'parts {step}')
            print('warning', file=sys.stderr)
        if step == 20:
            print_and_log('short', 'for the log')
            for _item in progress(range(4), 'inner'):
                time.sleep(0.1)
            time.sleep(1.3)
'''
MESSAGES = ['in two parts 5', 'warning', 'in two parts 15', 'warning', 'short', 'in two parts 25', 'warning',
            'in two parts 35', 'warning']


@pytest.mark.skipif(os.name == 'nt', reason='no pseudo-terminals')
@pytest.mark.parametrize('columns', [80, 30])
def test_one_line_in_a_terminal(columns, tmp_path):
    from tests.terminal import run_in_terminal
    shown = run_in_terminal(['-c', WORK, str(tmp_path / 'log.txt')], columns)
    assert shown.status == 0 and shown.lines[:-1] == MESSAGES
    assert shown.lines[-1].startswith('Working 100% ') and '60/60 images' in shown.lines[-1]
    lines = {line for screen in shown.screens for line in screen if '%' in line}
    assert all(sum('%' in line for line in screen) <= 1 for screen in shown.screens)
    # Nothing of a line is left over in a message, and it never begins anew.
    assert {line for screen in shown.screens for line in screen} - lines <= {
        *MESSAGES, *(message[:length] for message in MESSAGES for length in range(len(message)))}
    shares = [int(re.search(r'(\d+)%', line)[1]) for screen in shown.screens for line in screen if line in lines]
    assert shares == sorted(shares) and shares[0] == 33
    # It goes on while the work is silent.
    if columns == 80:
        assert len({line for line in lines if '41/60' in line}) >= 3 and any(', inner ' in line for line in lines)
    assert (tmp_path / 'log.txt').read_text().splitlines() == [
        line.replace('short', 'for the log') for line in MESSAGES]


@pytest.mark.skipif(os.name == 'nt', reason='no pseudo-terminals')
def test_a_terminal_that_gets_narrow():
    from tests.terminal import run_in_terminal
    shown = run_in_terminal(['-c', """
import fcntl, struct, termios, time
from common.console import Progress
with Progress('Working', 60) as bar:
    bar.update(10)
    time.sleep(0.6)
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 30, 0, 0))
    bar.update(10)
    time.sleep(0.6)
"""])
    before = [line for screen in shown.screens for line in screen if '10/60' in line]
    after = [line for screen in shown.screens for line in screen if '20/60' in line]
    assert before and after and max(map(len, before)) > 40 and max(map(len, after)) < 30


def test_plain_lines_elsewhere(tmp_path):
    """Of half a minute one is left here: a fifth of a second."""
    code = 'from common import console; console.PLAIN_SECONDS = 0.2\n' + WORK
    ended = subprocess.run([sys.executable, '-c', code, str(tmp_path / 'log.txt')], cwd=ROOT, capture_output=True,
                           text=True, check=True)
    lines = [line for line in ended.stderr.splitlines() if line != 'warning']
    assert len(lines) >= 3 and '\r' not in ended.stderr
    pattern = r'Working \d+%: \d+/60 images, 1h 00m \d\ds gone(, ETA \d+s)?(, inner \d+%)?'
    assert all(re.fullmatch(pattern, line) for line in lines), lines
    assert '%' not in (tmp_path / 'log.txt').read_text()


def test_the_line_fits_at_every_width():
    line = console._ProgressLine()
    work = Progress('Working on 画像', 12000.0, 'kimg', start=3456.7, seconds=86400 * 3)
    work.pace.add(1, 10)
    line.works = [work, Progress('inner', 10)]
    for width in range(1, 140):
        text = line.text(width)
        assert disp_len(text) <= width
        assert width < 40 or '3456.7/12000 kimg' in text and 'ETA' in text
    assert '28%' in line.text(20) and '█' in line.text(120) and 'inner 0%' in line.text(120)


def test_what_is_known_is_told():
    assert Progress('x').count() == '0 images' and Progress('x').percent() == ''
    assert Progress('x', 7, 'files', start=3).count() == '3/7 files'
    assert Progress('x', 0.05, 'kimg', start=0.016).count() == '0.0160/0.05 kimg'
    work = Progress('x', 1000, start=999.9)
    assert work.percent() == '99%' and math.isnan(work.remaining()) and work.times()[1] == ''


def test_the_pace_is_that_of_the_last_half_minute():
    pace = Pace(30)
    assert math.isnan(pace.seconds_per_work)
    for _second in range(1000):
        pace.add(1, 1)
    assert pace.seconds_per_work == pytest.approx(1)
    for _second in range(200):
        pace.add(0.1, 1)
    assert 9 < pace.seconds_per_work < 10


def test_the_rest_counts_down_within_a_step_only(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(console.time, 'monotonic', lambda: clock.now)
    with Progress('x', 10, show=False) as work:
        clock.now = 4
        work.update(2)
        assert work.remaining() == 16
        clock.now = 7
        assert work.remaining() == 13
        clock.now = 100
        assert work.remaining() == 12


def test_streams_are_restored_in_whatever_order_work_ends(capsys):
    before = sys.stdout, sys.stderr
    one, other = progress([1, 2], 'one'), progress([1, 2], 'other')
    assert next(one) == next(other) == 1 and sys.stdout is not before[0]
    assert list(one) == [2] and sys.stdout is not before[0]
    print('between')
    assert list(other) == [2] and (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ('between\n', '')


def test_work_that_ends_within_another_stream(capsys, monkeypatch):
    with Progress('x') as work:
        kept = sys.stdout
        monkeypatch.setattr(sys, 'stdout', io.StringIO())
        work.update()
    print('late', file=kept)
    assert capsys.readouterr().out == 'late\n' and isinstance(sys.stdout, io.StringIO)


# ----------------------------------------------------------------------------------------------------------------------
# The log.


def test_screen_and_log_may_get_different_words(capsys, tmp_path):
    print_and_log('without a log', 'nowhere')
    print_and_log(None, 'nowhere')
    with OutputLogger(tmp_path / 'log.txt'):
        with Progress('x'):
            print_and_log('short', 'long')
        print_and_log(None, 'logged')
        print_and_log('shown', None)
        print('both')
    assert capsys.readouterr().out == 'without a log\nshort\nshown\nboth\n'
    assert (tmp_path / 'log.txt').read_text() == 'long\nlogged\nboth\n'


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
