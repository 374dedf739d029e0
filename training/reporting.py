"""Reports a training: status lines, statistics as data, progress with an ETA."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence

import numpy as np

from common.console import Pace, Progress, format_time, print_and_log
from common.files import GrowingFile
from common.machine import peak_memory
from nets.network import Network
from training.divergence import TrainingDiverged, cause
from training.event_file import EventFile
from training.plan import Stretch
from training.saving import Unwritten
from training.schedule import Schedule

WARM_UP_UPDATES = 3     # The first steps are slower and are not timed.


class Tick:
    """The interval between two status lines, with averages over its D steps.

    Scores are averaged over images, as in the release.

    Parameters
    ----------
    number : int
        Number of the tick, from 1.
    start_nimg : int
        Real images shown before the tick.
    run_start_time, start_time : float
        `time.monotonic` at the start of the tick, and at that of the run minus its pauses.
    """

    names = ('Gloss', 'Dloss', 'Dreal', 'Dfake')

    def __init__(self, number: int, start_nimg: int, run_start_time: float, start_time: float) -> None:
        self.number, self.start_nimg = number, start_nimg
        self.run_start_time, self.start_time = run_start_time, start_time
        self.sums, self.counts = np.zeros(4), np.zeros(4)
        self.compile_seconds = 0.0

    def next(self, cur_nimg: int, cur_time: float) -> 'Tick':
        """The tick after this one."""
        return Tick(self.number + 1, cur_nimg, self.run_start_time, cur_time)

    def is_over(self, cur_nimg: int, schedule: Schedule) -> bool:
        """Whether the status line is due."""
        return cur_nimg >= self.start_nimg + schedule.tick_kimg * 1000

    def is_every(self, number: int) -> bool:
        """Whether this is a `number`-th tick; never if `number` is 0."""
        return number > 0 and self.number % number == 0

    def add(self, outputs: Sequence, G: Network | None = None, **inputs: np.ndarray) -> None:
        """Add the outputs of one D step.

        Parameters
        ----------
        outputs : sequence of arrays
        G : Network, optional
            Generator, unless the step has changed its weights.
        **inputs : array
            Inputs of the step.

        Raises
        ------
        TrainingDiverged
            An output is NaN or infinite; the message names the cause.
        """
        for index, (name, output) in enumerate(zip(self.names, outputs, strict=True)):
            total = float(np.sum(output))
            if not np.isfinite(total):
                raise TrainingDiverged(f'{name} became {total} in tick {self.number}; the last snapshots are kept. '
                                       + cause(G, inputs))
            self.sums[index] += total
            self.counts[index] += np.size(output)

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Context of compiling, whose time has its own statistic."""
        start_time = time.monotonic()
        yield
        self.compile_seconds += time.monotonic() - start_time

    def statistics(self, cur_nimg: int, cur_time: float, schedule: Schedule, gdrop_strength: float) -> dict:
        """The values of the status line: {name: number}."""
        kimg, seconds = (cur_nimg - self.start_nimg) / 1000.0, cur_time - self.start_time
        return {'tick': self.number, 'kimg': cur_nimg / 1000.0, 'lod': schedule.lod, 'resolution': schedule.resolution,
                'minibatch': schedule.minibatch_size, 'seconds': cur_time - self.run_start_time,
                'sec_per_tick': seconds, 'sec_per_kimg': seconds / kimg, 'compile_seconds': self.compile_seconds,
                'peak_memory_mb': peak_memory() / 2 ** 20, 'Dgdrop': gdrop_strength,
                **dict(zip(self.names, self.sums / self.counts, strict=True))}

    def get_state(self) -> dict:
        """Plain data for :meth:`from_state`."""
        cur_time = time.monotonic()
        return {'cur_tick': self.number - 1, 'tick_start_nimg': self.start_nimg,
                'seconds': cur_time - self.run_start_time, 'tick_seconds': cur_time - self.start_time,
                'tick': {'sums': self.sums.tolist(), 'counts': self.counts.tolist(),
                         'compile_seconds': self.compile_seconds}}

    @classmethod
    def from_state(cls, state: dict, start_time: float) -> 'Tick':
        """Restore a tick from :meth:`get_state`; `start_time` is when the resumed process began to restore."""
        tick = cls(state['cur_tick'] + 1, state['tick_start_nimg'], time.monotonic() - state['seconds'],
                   start_time - state['tick_seconds'])
        tick.sums, tick.counts = np.array(state['tick']['sums']), np.array(state['tick']['counts'])
        tick.compile_seconds = state['tick']['compile_seconds'] + time.monotonic() - start_time
        return tick


class StatusLines:
    """Writes status lines: short on the screen, as in the release to the log, as data to ``stats.jsonl`` and `events`.

    Parameters
    ----------
    run_dir : str
    events : EventFile
    unwritten : Unwritten
        Reports files that cannot be written; their missing lines follow later.
    """

    def __init__(self, run_dir: str, events: EventFile, unwritten: Unwritten) -> None:
        self.stats, self.events = GrowingFile(os.path.join(run_dir, 'stats.jsonl')), events
        self.unwritten = unwritten

    def report(self, statistics: dict) -> None:
        """Print the values of a tick and append them to the files."""
        print_and_log(short_line(statistics), full_line(statistics))
        with self.unwritten.tolerated('stats.jsonl'):
            self.stats.append((json.dumps(statistics) + '\n').encode())
        with self.unwritten.tolerated('events'):
            self.events.scalars(int(round(statistics['kimg'] * 1000)), statistics)

    def catch_up(self) -> None:
        """Write the lines that could not be written before."""
        with self.unwritten.tolerated('stats.jsonl'):
            self.stats.append()
        with self.unwritten.tolerated('events'):
            self.events.file.append()


def full_line(statistics: dict) -> str:
    """The status line of the release."""
    return ('tick {tick:<5d} kimg {kimg:<8.1f} lod {lod:<5.2f} minibatch {minibatch:<4d} time {time:<12} '
            'sec/tick {sec_per_tick:<9.1f} sec/kimg {sec_per_kimg:<6.1f} Dgdrop {Dgdrop:<8.4f} Gloss {Gloss:<8.4f} '
            'Dloss {Dloss:<8.4f} Dreal {Dreal:<8.4f} Dfake {Dfake:<8.4f}'.format(
                time=format_time(statistics['seconds']), **statistics))


def short_line(statistics: dict) -> str:
    """The status line for a screen of 80 columns."""
    size = '{resolution}x{resolution}'.format(**statistics)
    if statistics['lod'] % 1:
        size += f' {int((1 - statistics["lod"] % 1) * 100):d}%'     # Weight of the fading layers.
    kimg, rate = (f'{value:.{digits}f}' if value < 1000 else f'{value:.0f}'
                  for value, digits in [(statistics['kimg'], 1), (statistics['sec_per_kimg'], 1)])
    return 'tick {tick:<4d} kimg {kimg:<6} {size:<9} {time:<11} {rate} sec/kimg  G {Gloss:.3g} D {Dloss:.3g}'.format(
        **{**statistics, 'kimg': kimg}, size=size, time=format_time(statistics['seconds']), rate=rate)


class TrainingProgress(Progress):
    """Progress of a training. Its ETA takes into account that high resolutions take longer.

    The remaining time has two parts: the estimated cost of the remaining schedule at the pace of the last minute, and
    the mean time per tick spent on pictures, snapshots and metrics.

    Parameters
    ----------
    stretches : list of Stretch
        The whole schedule.
    kimg, seconds : float
        Length and duration of the training before this process.
    show : bool
    """

    def __init__(self, stretches: list[Stretch], kimg: float, seconds: float, show: bool) -> None:
        super().__init__('Training', stretches[-1].end_kimg, 'kimg', kimg, seconds, show)
        self.stretches, self.start_kimg = stretches, kimg
        self.pace = Pace(60.0)
        self.warming_up = WARM_UP_UPDATES
        self.seconds_apart = 0.0

    def advance(self, cur_nimg: int) -> None:
        """Update the progress after a step; `cur_nimg` is the number of real images shown."""
        now, kimg = time.monotonic(), min(cur_nimg / 1000, self.stretches[-1].end_kimg)
        with self.lock:
            if self.warming_up:
                self.warming_up -= 1
            else:
                self.step_seconds = now - self.last_time
                self.pace.add(self.cost(self.n, kimg), self.step_seconds)
            self.n, self.last_time = kimg, now

    @contextlib.contextmanager
    def apart(self, remark: str = '', compiling: bool = False) -> Iterator[None]:
        """Context of work between steps, such as compiling or ending a tick, which is timed separately."""
        start_time = time.monotonic()
        self.note(remark)
        try:
            yield
        finally:
            self.note('')
            self.last_time = time.monotonic()
            if compiling:
                self.warming_up = WARM_UP_UPDATES
            else:
                self.seconds_apart += self.last_time - start_time

    def cost(self, start_kimg: float, end_kimg: float) -> float:
        """The estimated cost of a part of the schedule."""
        return self._sum(start_kimg, end_kimg, lambda stretch: stretch.seconds_per_kimg)

    def ticks(self, start_kimg: float, end_kimg: float) -> float:
        """The number of ticks in a part of the schedule."""
        return self._sum(start_kimg, end_kimg, lambda stretch: 1 / max(stretch.tick_kimg, 1e-3))

    def _sum(self, start_kimg, end_kimg, density):
        return sum(max(min(end_kimg, stretch.end_kimg) - max(start_kimg, stretch.start_kimg), 0) * density(stretch)
                   for stretch in self.stretches)

    def remaining(self) -> float:
        """Estimated seconds to the end; NaN before the first steps."""
        end = self.stretches[-1].end_kimg
        done = self.ticks(self.start_kimg, self.n)
        left = self.cost(self.n, end) * self.pace.seconds_per_work
        left += self.seconds_apart * self.ticks(self.n, end) / max(done, 1)
        return self.counted_down(left)
