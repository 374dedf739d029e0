"""Decides when a training state is saved, and waits for disks that are temporarily full or missing."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

from theano_torch import collective

from common.errors import UserError, WriteError
from data.dataset import Dataset, ReadError
from nets.ranks import Ranks
from runs.folder import in_use
from runs.states import RunStates
from training import processes
from training.step_sequence import StepSequence
from training.stopping import Stopped, StopRequest, cause, resume_hint

RETRY_SECONDS = 5.0         # Interval between attempts to write files that a run must not end without.
ADVICE = 'trying again until there is free space; Ctrl-C, or a second signal, ends without saving'


class Unwritten:
    """Tolerates optional files that cannot be written; warns once per file until it can be written again."""

    def __init__(self) -> None:
        self.reported: set[str] = set()

    @contextlib.contextmanager
    def tolerated(self, name: str) -> Iterator[None]:
        """Context in which errors of writing `name` become a warning."""
        try:
            yield
        except (WriteError, OSError) as error:
            if name not in self.reported:
                print(f'warning: {error}; the training continues, earlier files are kept')
            self.reported.add(name)
        else:
            self.reported.discard(name)


def until_written(write: Callable[[], None], advice: str) -> None:
    """Repeat `write` until it succeeds; print each new error with `advice`."""
    reported = ''
    while True:
        try:
            write()
            return
        except (WriteError, OSError) as error:
            if reported != (reported := str(error)):
                print(f'{error}; {advice}')
        time.sleep(RETRY_SECONDS)


class StateSaver:
    """Decides when the training state is saved.

    Parameters
    ----------
    run_states : RunStates or None
        None: never save states.
    minutes : float or None
        Interval between states; None: only at the end.
    collect : callable
        Returns (images shown, {name: array}, JSON) of the current state.
    unwritten : Unwritten
    """

    def __init__(self, run_states: RunStates | None, minutes: float | None,
                 collect: Callable[[], tuple[int, dict, dict]], unwritten: Unwritten) -> None:
        self.run_states, self.minutes, self.collect, self.unwritten = run_states, minutes, collect, unwritten
        self.has_state = bool(run_states and run_states.start)
        self.is_behind = False      # Whether the last attempt failed.
        self.last_time = time.monotonic()

    def is_due(self, networks_follow: bool) -> bool:
        """Whether a state is due. A run saves a state before its first networks, so that it can be resumed there."""
        return self.minutes is not None and (
            time.monotonic() >= self.last_time + self.minutes * 60 or networks_follow and not self.has_state)

    def save(self) -> None:
        """Save the state.

        Raises
        ------
        WriteError, OSError
        """
        if self.run_states:
            self.run_states.save(*self.collect())
            self.has_state = True
        self.is_behind = False

    def try_to_save(self) -> None:
        """Save the state; if that fails, warn and leave it to the next time."""
        self.is_behind = True
        with self.unwritten.tolerated('training state'):
            self.save()
        self.last_time = time.monotonic()

    def save_and_stop(self, stop: StopRequest, signum: int, save_networks: Callable[[], None], kimg: float) -> Stopped:
        """Save the state and the networks after a request to stop; return the exception for the caller to raise.

        Failed attempts are repeated until a second Ctrl-C raises KeyboardInterrupt.
        """
        ranks, run_states = stop.ranks, self.run_states
        if ranks.rank == 0:
            stop.is_saving = True
            until_written(self.save if run_states else save_networks, ADVICE)
            with self.unwritten.tolerated('network snapshot'):
                save_networks()
        # The other ranks wait for the files; some may have timed out.
        with contextlib.suppress(*[collective.ConnectionLost] if ranks.rank == 0 else []):
            processes.from_rank_0(ranks, None)
        hint = f'; {resume_hint(ranks, run_states.run_dir)}' if run_states else ''
        return Stopped(f'stopped by {cause(signum)} at kimg {kimg:.1f}{hint}', signum)

    def finish(self, save_final: Callable[[], None], advice: str, ranks: Ranks) -> None:
        """Repeat ``save_final()`` until the final networks are saved; also save the state if the last attempt failed.

        Raises
        ------
        Stopped
            After Ctrl-C, if at least the final state is saved.
        """
        def write():
            try:
                save_final()
            finally:
                if self.is_behind:
                    self.try_to_save()

        try:
            until_written(write, advice)
        except KeyboardInterrupt:
            if self.is_behind or not self.run_states:
                raise
            raise Stopped(f'interrupted; the final networks are not saved; '
                          f'{resume_hint(ranks, self.run_states.run_dir)}', signal.SIGINT) from None

    @contextlib.contextmanager
    def rescuing(self, sequence: StepSequence, dataset: Dataset, stop: StopRequest) -> Iterator[None]:
        """Context of the training steps that saves the state if images cannot be read or another process has ended.

        Raises
        ------
        UserError
            Images cannot be read; the message names the command to resume.
        """
        ranks, run_states = stop.ranks, self.run_states
        try:
            yield
        except ReadError as error:
            if ranks.rank or not run_states:
                raise
            sequence.take_back(dataset)
            stop.is_saving = True
            until_written(self.save, ADVICE)
            raise UserError(f'{error}; the training so far is saved; {resume_hint(ranks, run_states.run_dir)}'
                            ) from error
        except collective.ConnectionLost:
            if run_states and processes.reports_the_end(ranks):
                # Limits the time to save, as the device may be lost, too: see stopping.SAVING_SECONDS.
                os.kill(os.getpid(), signal.SIGTERM)
                sequence.take_back(dataset)
                with self.unwritten.tolerated('training state'), self._in_place_of_rank_0(ranks):
                    self.save()
            raise

    def _in_place_of_rank_0(self, ranks):
        """Lock the folder unless this is rank 0, which has locked it: another process may already resume the run."""
        return in_use(self.run_states.run_dir) if ranks.rank else contextlib.nullcontext()
