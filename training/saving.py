"""Keeping the work: when a state is saved, and disks that are full, or gone, for a while."""

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
from training.stopping import Stopped, StopRequest, cause, how_to_go_on
from training.turn import Turn

RETRY_SECONDS = 5.0         # Between two attempts to write the files without which a run must not end.
ADVICE = 'trying again until there is room; Ctrl-C, or the signal once more, ends without saving'


class Unwritten:
    """What could not be written and is done without for now; each file is told once until it can be written again."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    @contextlib.contextmanager
    def tolerated(self, what: str) -> Iterator[None]:
        """Around writing the file or files `what`: errors become a warning."""
        try:
            yield
        except (WriteError, OSError) as error:
            if what not in self.told:
                say(f'warning: {error}; the training goes on, earlier files are kept')
            self.told.add(what)
        else:
            self.told.discard(what)


def until_written(write: Callable[[], None], advice: str) -> None:
    """Call `write` again and again until it succeeds; says once why it does not, and `advice`."""
    told = ''
    while True:
        try:
            write()
            return
        except (WriteError, OSError) as error:
            if told != (told := str(error)):
                say(f'{error}; {advice}')
        time.sleep(RETRY_SECONDS)


def say(line: str) -> None:
    """Print a line above the progress bar."""
    print(line)


class StateSaver:
    """Decides when the training state is saved.

    Parameters
    ----------
    run_states : RunStates or None
        None: there are no states.
    minutes : float or None
        Between two states; None: at the end only.
    collect : callable
        Returns images shown, {name: array} and JSON of the state as it is now.
    unwritten : Unwritten
    """

    def __init__(self, run_states: RunStates | None, minutes: float | None,
                 collect: Callable[[], tuple[int, dict, dict]], unwritten: Unwritten) -> None:
        self.run_states, self.minutes, self.collect, self.unwritten = run_states, minutes, collect, unwritten
        self.has_state = bool(run_states and run_states.start)
        self.is_behind = False      # After an attempt in vain.
        self.last_time = time.monotonic()

    def is_due(self, networks_follow: bool) -> bool:
        """Whether it is time. Before a run saves its first networks it saves a state, or it could not go on there."""
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
        """Save the state unless that fails; then the next time has to do."""
        self.is_behind = True
        with self.unwritten.tolerated('training state'):
            self.save()
        self.last_time = time.monotonic()

    def save_and_stop(self, stop: StopRequest, signum: int, save_networks: Callable[[], None], kimg: float) -> Stopped:
        """Save the state and the networks when all ranks are asked to stop; returns the exception to be raised then.

        What cannot be saved is tried again until a second Ctrl-C, a KeyboardInterrupt.
        """
        ranks, run_states = stop.ranks, self.run_states
        if ranks.rank == 0:
            stop.is_saving = True
            until_written(self.save if run_states else save_networks, ADVICE)
            with self.unwritten.tolerated('network snapshot'):
                save_networks()
        # The others wait for the files; some may have no patience.
        with contextlib.suppress(*[collective.ConnectionLost] if ranks.rank == 0 else []):
            processes.from_rank_0(ranks, None)
        way = f'; {how_to_go_on(ranks, run_states.run_dir)}' if run_states else ''
        return Stopped(f'stopped by {cause(signum)} at kimg {kimg:.1f}{way}', signum)

    def finish(self, save_final: Callable[[], None], advice: str, ranks: Ranks) -> None:
        """Save the networks at the end, with ``save_final()``, however long that takes; the state, too, if it lags.

        Raises
        ------
        Stopped
            After Ctrl-C, if the state at the end is saved at least.
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
            raise Stopped(f'interrupted; the networks at the end are not saved; '
                          f'{how_to_go_on(ranks, self.run_states.run_dir)}', signal.SIGINT) from None

    @contextlib.contextmanager
    def rescuing(self, turn: Turn, dataset: Dataset, stop: StopRequest) -> Iterator[None]:
        """Around the turns: when images cannot be read, or another process has ended, save the state as it is.

        Raises
        ------
        UserError
            For an error of the data set; the message says how to go on.
        """
        ranks, run_states = stop.ranks, self.run_states
        try:
            yield
        except ReadError as error:
            if ranks.rank or not run_states:
                raise
            turn.take_back(dataset)
            stop.is_saving = True
            until_written(self.save, ADVICE)
            raise UserError(f'{error}; all until then is saved, {how_to_go_on(ranks, run_states.run_dir)}') from error
        except collective.ConnectionLost:
            if run_states and processes.tells_the_end(ranks):
                os.kill(os.getpid(), signal.SIGTERM)    # The device may be lost, too: see stopping.SAVING_SECONDS.
                turn.take_back(dataset)
                with self.unwritten.tolerated('training state'), self._in_place_of_rank_0(ranks):
                    self.save()
            raise

    def _in_place_of_rank_0(self, ranks):
        """Rank 0 has the folder already; another rank must not disturb whoever goes on there."""
        return in_use(self.run_states.run_dir) if ranks.rank else contextlib.nullcontext()
