"""Stops a training on Ctrl-C, SIGTERM or SIGHUP when it can be saved, and ends all processes when one has ended."""

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

GRACE_SECONDS = 3.0         # Time from SIGTERM to the end of a process that hangs in a collective operation.
SAVING_SECONDS = 25.0       # The same for a process that saves a training state; torchrun waits 30 s.
WATCH_SECONDS = 1.0         # Interval of the checks for the end of torchrun and for long waits.
LAUNCHER = os.getppid()


class Stopped(processes.SharedError):
    """The run has stopped on the signal `signum`; the message names the command to resume."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def cause(signum: int) -> str:
    """The reason for which a run stops on this signal, for messages."""
    return 'the end of torchrun' if _launcher_has_ended() else signal.Signals(signum).name


def resume_hint(ranks: Ranks, run_dir: str) -> str:
    """The command that resumes a run whose state is saved, for messages."""
    return f'continue with: {"python" if ranks.size == 1 else "torchrun ..."} train.py --resume {shlex.quote(run_dir)}'


class _Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that no handler on the way up catches it."""


class StopRequest:
    """Turns Ctrl-C, SIGTERM and SIGHUP into requests to stop: ``with StopRequest(ranks) as stop: ...``.

    The training stops after the current step, when it can be saved. A second Ctrl-C raises KeyboardInterrupt; so does
    repeating another signal while saving does not succeed.
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
            # The terminal may be gone. print() is not safe here, because the signal may have interrupted it.
            with contextlib.suppress(OSError):
                text = 'stopping and saving after this step; Ctrl-C again stops at once'
                os.write(sys.stderr.fileno(), f'\r{text}{"" if os.name == "nt" else ERASE}\n'.encode())

    def requested(self, is_due: bool = False) -> tuple[int, bool]:
        """(number of the signal or 0, whether a state is due), combined over all ranks."""
        if self.ranks.size == 1:
            return self.signum, is_due
        import torch
        import torch.distributed as dist
        request = torch.tensor([self.signum, is_due])
        with collective.translating_errors('cpu'):
            dist.all_reduce(request, dist.ReduceOp.MAX)
        return int(request[0]), bool(request[1])


@contextlib.contextmanager
def ending_together(ranks: Ranks, run_dir: str) -> Iterator[None]:
    """Context of the training that ends this process with a one-line error when another rank has ended.

    A dead rank is noticed in one of three ways: the next collective operation on the host fails; torchrun sends
    SIGTERM; a wait for the GPU exceeds the timeout, because NCCL's operations in a CUDA graph hang without an error.

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
        raise processes.EndedElsewhere(_end_message(run_dir), processes.reports_the_end(ranks)) from error
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end_message(run_dir):
    snapshots, states = [sorted(glob.glob(os.path.join(glob.escape(run_dir), pattern)))
                         for pattern in ('network-*.pkl', 'training-state-*.npz')]
    return '%s; %s%s' % (
        'torchrun has ended' if _launcher_has_ended() else
        'another process of the run has ended, see its own message if there is one',
        'the last snapshot is %s' % snapshots[-1] if snapshots else 'there is no snapshot yet',
        '; continue with --resume %s' % run_dir if states else '')


@contextlib.contextmanager
def ending_with_launcher(ranks: Ranks) -> Iterator[None]:
    """Context in which this process gets SIGTERM when torchrun, which has started it, ends for any reason."""
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
    if 'TORCHELASTIC_RUN_ID' not in os.environ:     # Another parent, such as a shell, may end before the run.
        return False
    if os.name == 'nt':     # Windows keeps the parent's process id after its end.
        return not process_exists(LAUNCHER)
    return os.getppid() != LAUNCHER


@contextlib.contextmanager
def _never_hanging(ranks, run_dir):
    """End the process some time after SIGTERM if the main thread hangs inside NCCL or Gloo."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    finished = threading.Event()

    def watch():
        while (received := receiver.recv(1)) and received[0] != signal.SIGTERM:
            pass
        handler = signal.getsignal(signal.SIGTERM)
        if received and not finished.wait(SAVING_SECONDS if isinstance(handler, StopRequest) else GRACE_SECONDS):
            _end(ranks, run_dir)

    # Python's handlers run only when the main thread executes Python code again; the wakeup byte arrives at once.
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
    """End the process if the host waits for the GPU longer than ranks wait for each other.

    Nothing is saved, because the values on the GPU are out of reach.
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
    """End the process immediately, while its main thread hangs."""
    if processes.reports_the_end(ranks):
        print(f'{os.path.basename(sys.argv[0])}: error: {_end_message(run_dir)}', file=sys.stderr)
        sys.stderr.flush()
    os._exit(1)
