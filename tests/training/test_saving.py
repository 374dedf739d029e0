"""saving and stopping: full disks, signals, and launchers that end."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import types

import pytest

from common.errors import WriteError
from nets.ranks import SINGLE
from tests.helpers import ROOT
from training import saving, stopping
from training.saving import StateSaver, Unwritten, until_written
from training.stopping import Stopped, StopRequest


class FullDisk:
    """Replaces runs.states.RunStates, and fails to write a given number of times."""

    start, run_dir = None, 'results/000-digits'

    def __init__(self, failures, on_failure=lambda: None):
        self.failures, self.on_failure, self.saved = failures, on_failure, []

    def save(self, *state):
        if self.failures:
            self.failures -= 1
            self.on_failure()
            raise WriteError('state: cannot be written (No space left on device)')
        self.saved.append(state)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(saving, 'RETRY_SECONDS', 0.0)


def saver_of(run_states, minutes=10):
    return StateSaver(run_states, minutes, lambda: (4, {}, {}), Unwritten())


def test_what_is_written_in_vain_is_told_once(capsys):
    unwritten = Unwritten()
    for error in (WriteError('full'), OSError(errno.EIO, 'gone')):
        for what in ('picture', 'stats'):
            with unwritten.tolerated(what):
                raise error
    assert capsys.readouterr().out.count('warning: ') == 2
    with unwritten.tolerated('stats'):
        pass
    with unwritten.tolerated('stats'):
        raise WriteError('full again')
    assert 'full again' in capsys.readouterr().out
    with pytest.raises(ZeroDivisionError), unwritten.tolerated('stats'):
        raise ZeroDivisionError


def test_what_must_be_written_is_tried_again(capsys):
    disk = FullDisk(3)
    until_written(disk.save, 'needs 7 MB')
    assert disk.saved == [()] and capsys.readouterr().out.count('needs 7 MB') == 1


def test_intervals_do_not_depend_on_the_wall_clock(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(saving.time, 'monotonic', lambda: now)
    monkeypatch.setattr(saving.time, 'time', lambda: -1e9)
    saver = saver_of(FullDisk(0))
    assert not saver.is_due(networks_follow=False) and saver.is_due(networks_follow=True)
    now = 1600.0
    assert saver.is_due(networks_follow=False)
    saver.try_to_save()
    assert not saver.is_due(networks_follow=True), 'there is one already'
    assert not saver_of(FullDisk(0), None).is_due(networks_follow=True), 'at the end only'


def stop_with(signum, disk, networks=lambda: None):
    saver = saver_of(disk)
    with StopRequest(SINGLE) as stop:
        os.kill(os.getpid(), signum)
        assert stop.requested() == (signum, False)
        return saver.save_and_stop(stop, signum, networks, 1.25)


SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if os.name != 'nt' else [])]


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal():
    """Reset signals that nohup or a shell has ignored, as ignored signals would stop nothing."""
    before = {signum: signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
              for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize('signum', SIGNALS)
def test_a_signal_waits_for_a_disk_that_is_full(signum, capsys):
    disk = FullDisk(2)
    stopped = stop_with(signum, disk)
    assert isinstance(stopped, Stopped) and stopped.signum == signum and disk.saved
    assert str(stopped) == (f'stopped by {signal.Signals(signum).name} at kimg 1.2; continue with: python train.py '
                            '--resume results/000-digits')
    assert capsys.readouterr().out.count('trying again') == 1


@pytest.mark.parametrize('signum', SIGNALS)
def test_the_second_signal_ends_the_waiting(signum):
    disk = FullDisk(10, lambda: os.kill(os.getpid(), signum))
    with pytest.raises(KeyboardInterrupt):
        stop_with(signum, disk)
    assert not disk.saved


def test_without_states_the_networks_are_saved_and_nothing_to_go_on_with_is_named():
    networks = FullDisk(2)
    assert str(stop_with(signal.SIGTERM, None, networks.save)) == 'stopped by SIGTERM at kimg 1.2' and networks.saved


def test_the_last_networks_wait_for_room_and_the_state_catches_up(capsys):
    states, networks = FullDisk(2), FullDisk(3)
    saver = saver_of(states)
    saver.try_to_save()
    saver.finish(networks.save, 'needs 7 MB', SINGLE)
    assert networks.saved and len(states.saved) == 1
    assert capsys.readouterr().out.count('needs 7 MB') == 1


@pytest.mark.parametrize('failures, error, message', [
    (0, Stopped, 'interrupted; the final networks are not saved; continue with: python train.py --resume'),
    (99, KeyboardInterrupt, None)])
def test_what_was_not_saved_is_not_gone_on_with(failures, error, message):
    saver = saver_of(FullDisk(failures))
    saver.try_to_save()
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)     # Background jobs of a shell ignore SIGINT.
    try:
        with pytest.raises(error, match=message):
            saver.finish(FullDisk(9, lambda: os.kill(os.getpid(), signal.SIGINT)).save, 'needs 7 MB', SINGLE)
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGHUP')
def test_nohup_is_respected():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(SINGLE) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.requested() == (0, False)
    finally:
        signal.signal(signal.SIGHUP, previous)


CHILD = '''
import time
from nets.ranks import SINGLE
from training import stopping
stopping.WATCH_SECONDS = 0.1
with stopping.ending_with_launcher(SINGLE), stopping.StopRequest(SINGLE) as stop:
    print('ready', flush=True)
    while not stop.signum:
        time.sleep(0.05)
    print('stopped by', stopping.cause(stop.signum), flush=True)
'''
LAUNCHER = '''
import subprocess, sys, time
subprocess.Popen([sys.executable, '-c', sys.argv[1]])
time.sleep(600)
'''


def test_processes_of_torchrun_end_with_it():
    """torchrun is killed with SIGKILL, so that it cannot end its processes itself."""
    with subprocess.Popen([sys.executable, '-c', LAUNCHER, CHILD], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, 'TORCHELASTIC_RUN_ID': 'x'}) as launcher:
        assert launcher.stdout.readline() == 'ready\n'
        launcher.kill()
        assert launcher.stdout.read() == 'stopped by the end of torchrun\n'


def test_a_shell_that_ends_before_the_run_is_not_torchrun(monkeypatch):
    monkeypatch.delenv('TORCHELASTIC_RUN_ID', raising=False)
    monkeypatch.setattr(stopping, 'LAUNCHER', -1)
    assert stopping.cause(signal.SIGTERM) == 'SIGTERM'


def test_another_rank_saves_where_nobody_else_is_at_work(tmp_path):
    disk = FullDisk(0)
    disk.run_dir = str(tmp_path)
    saver = saver_of(disk)
    for rank in range(2):
        with saver._in_place_of_rank_0(types.SimpleNamespace(rank=rank)):
            saver.save()
    with saver._in_place_of_rank_0(types.SimpleNamespace(rank=1)), contextlib.suppress(ValueError):
        with pytest.raises(ValueError, match='another process'), saver._in_place_of_rank_0(
                types.SimpleNamespace(rank=1)):
            saver.save()
    assert len(disk.saved) == 2
