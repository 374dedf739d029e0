"""Ctrl-C, SIGTERM, SIGHUP: stop where the run can be saved; when one process or torchrun ends, all end."""

import contextlib
import glob
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from theano_torch import collective, waits

from common.console import ERASE
from common.files import process_exists
from nets.ranks import Ranks
from training import processes

GRACE_SECONDS = 3.0         # From SIGTERM to the end of a process whose main thread hangs in a collective operation...
SAVING_SECONDS = 25.0       # ...and of one that has a training state to save; torchrun waits 30 s.
WATCH_SECONDS = 1.0         # How often to look whether torchrun is still there, and how long the host has waited.
LAUNCHER = os.getppid()


class Stopped(processes.SharedError):
    """The run was asked to stop, by the signal `signum`, and has done so; the message says how to go on."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def cause(signum: int) -> str:
    """Why a run stops that got this signal."""
    return 'the end of torchrun' if _launcher_has_ended() else signal.Signals(signum).name


def how_to_go_on(ranks: Ranks, run_dir: str) -> str:
    """The command that goes on with a run whose state is saved."""
    return f'go on with: {"python" if ranks.size == 1 else "torchrun ..."} train.py --resume {shlex.quote(run_dir)}'


class _Terminated(BaseException):
    """SIGTERM. Not an Exception, so that nothing on the way up takes it for an error of its own."""


class StopRequest:
    """Within ``with StopRequest(ranks) as stop: ...`` some signals ask to stop where the run can be saved.

    They are those of Ctrl-C, SIGTERM and SIGHUP. A second Ctrl-C is a KeyboardInterrupt, as ever; so is a second one of
    the others while saving does not succeed.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.signum = 0
        self.is_saving = False
        self.previous: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            signums = [signal.SIGINT, signal.SIGTERM]
            if os.name != 'nt' and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:      # As under nohup.
                signums.append(signal.SIGHUP)
            self.previous = {signum: signal.signal(signum, self) for signum in signums}
        return self

    def __exit__(self, *exception):
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def __call__(self, signum, _frame):
        if self.signum and (signum == signal.SIGINT or self.is_saving and signum == self.signum):
            raise KeyboardInterrupt
        self.signum = int(signum)
        if self.ranks.rank == 0 and sys.stderr.isatty():
            with contextlib.suppress(OSError):      # The terminal may be gone. Printing might be what is interrupted.
                text = 'stopping and saving after this step; Ctrl-C again stops at once'
                os.write(sys.stderr.fileno(), f'\r{text}{"" if os.name == "nt" else ERASE}\n'.encode())

    def asked(self, is_due: bool = False) -> tuple[int, bool]:
        """The number of the signal, or 0, and whether a state is due; the same on all ranks, also if only one says so.
        """
        if self.ranks.size == 1:
            return self.signum, is_due
        import torch
        import torch.distributed as dist
        said = torch.tensor([self.signum, is_due])
        with collective.translating_errors('cpu'):
            dist.all_reduce(said, dist.ReduceOp.MAX)
        return int(said[0]), bool(said[1])


@contextlib.contextmanager
def ending_together(ranks: Ranks, run_dir: str) -> Iterator[None]:
    """Around the training: when another rank has ended, end with one line that says so and names the last snapshot.

    A rank that has died shows in an error of the next collective operation on the host, in SIGTERM, which torchrun
    sends, or in a wait for the GPU that takes longer than ranks wait for each other: NCCL's operations in a CUDA graph
    raise no errors, and never end then.

    Raises
    ------
    EndedElsewhere
    """
    if ranks.size == 1:
        yield
        return

    is_ending = False

    def terminate(*_signal):
        nonlocal is_ending
        if not is_ending:
            is_ending = True
            raise _Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        with _never_hanging(ranks, run_dir), _never_waiting(ranks, run_dir):
            yield
    except (collective.ConnectionLost, _Terminated) as error:
        is_ending = True
        raise processes.EndedElsewhere(_farewell(run_dir), processes.tells_the_end(ranks)) from error
    finally:
        signal.signal(signal.SIGTERM, previous)


def _farewell(run_dir):
    snapshots, states = [sorted(glob.glob(os.path.join(glob.escape(run_dir), pattern)))
                         for pattern in ('network-*.pkl', 'training-state-*.npz')]
    return '%s; %s%s' % (
        'torchrun has ended' if _launcher_has_ended() else
        'another process of the run has ended, see its own message if it left one',
        'the last snapshot is %s' % snapshots[-1] if snapshots else 'there is no snapshot yet',
        '; go on with --resume %s' % run_dir if states else '')


@contextlib.contextmanager
def ending_with_launcher(ranks: Ranks) -> Iterator[None]:
    """Within the block, this process gets SIGTERM when torchrun, which has started it, ends in whatever way."""
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        yield
        return
    finished = threading.Event()

    def watch():
        while not finished.wait(WATCH_SECONDS):
            if _launcher_has_ended():
                if ranks.rank == 0 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                    print(f'{os.path.basename(sys.argv[0])}: error: torchrun has ended', file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, name='ending with torchrun', daemon=True).start()
    try:
        yield
    finally:
        finished.set()


def _launcher_has_ended():
    if os.name == 'nt':     # There, the number of the parent stays.
        return not process_exists(LAUNCHER)
    return os.getppid() != LAUNCHER


@contextlib.contextmanager
def _never_hanging(ranks, run_dir):
    """End the process some time after SIGTERM if the main thread cannot, because it waits inside of NCCL or Gloo."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    finished = threading.Event()

    def watch():
        while (received := receiver.recv(1)) and received[0] != signal.SIGTERM:
            pass
        handler = signal.getsignal(signal.SIGTERM)
        if received and not finished.wait(SAVING_SECONDS if isinstance(handler, StopRequest) else GRACE_SECONDS):
            _end(ranks, run_dir)

    # Python's own handlers wait until the main thread runs Python code again; the bytes written here do not.
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, name='ending on SIGTERM', daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        signal.set_wakeup_fd(previous)
        sender.close()
        thread.join()
        receiver.close()


@contextlib.contextmanager
def _never_waiting(ranks, run_dir):
    """End the process if the host waits for the GPU for longer than ranks wait for each other.

    The values on the GPU are out of reach then, so that nothing can be saved.
    """
    finished = threading.Event()

    def watch():
        while not finished.wait(WATCH_SECONDS):
            if waits.longest() > processes.timeout_seconds():
                _end(ranks, run_dir)

    threading.Thread(target=watch, name='ending a wait for the GPU', daemon=True).start()
    try:
        yield
    finally:
        finished.set()


def _end(ranks, run_dir):
    """End the process at once while its main thread hangs."""
    if processes.tells_the_end(ranks):
        print(f'{os.path.basename(sys.argv[0])}: error: {_farewell(run_dir)}', file=sys.stderr)
        sys.stderr.flush()
    os._exit(1)
