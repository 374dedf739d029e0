"""What a training run tells: status lines, statistics as data, warnings, a progress bar that knows the schedule."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tqdm import tqdm

from common.console import format_time
from common.files import GrowingFile
from common.machine import peak_memory
from nets import costs
from nets.network import Network
from training.divergence import TrainingDiverged, cause
from training.event_file import EventFile
from training.saving import Unwritten
from training.schedule import Schedule


class Tick:
    """The stretch of a training between two status lines, with averages over its D steps.

    Scores count image by image, as in the release.

    Parameters
    ----------
    number : int
        From 1.
    start_nimg : int
        Real images shown before it.
    run_start_time, start_time : float
        When the run, pauses not counted, and the tick began, as `time.monotonic`.
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
        """Whether it is one of every `number` ticks; of every 0: none is."""
        return number > 0 and self.number % number == 0

    def add(self, outputs: Sequence, G: Network | None = None, **inputs: np.ndarray) -> None:
        """Add the outputs of one D step.

        Parameters
        ----------
        outputs : sequence of arrays
        G : Network, optional
            As the step has left it. Where D and G do not step together, these weights were those of the step.
        **inputs : array
            What the step was given.

        Raises
        ------
        TrainingDiverged
            A sum of theirs is NaN or infinite: the message says what caused it.
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
        """Around compiling, whose time is told apart."""
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

    def steps_sec_per_kimg(self, statistics: dict) -> float:
        """Seconds per thousand images without compiling."""
        return statistics['sec_per_kimg'] * (1 - self.compile_seconds / statistics['sec_per_tick'])

    def get_state(self) -> dict:
        """Plain data for :meth:`from_state`."""
        cur_time = time.monotonic()
        return {'cur_tick': self.number - 1, 'tick_start_nimg': self.start_nimg,
                'seconds': cur_time - self.run_start_time, 'tick_seconds': cur_time - self.start_time,
                'tick': {'sums': self.sums.tolist(), 'counts': self.counts.tolist(),
                         'compile_seconds': self.compile_seconds}}

    @classmethod
    def from_state(cls, state: dict, start_time: float) -> 'Tick':
        """The tick that :meth:`get_state` described, going on since `start_time`."""
        tick = cls(state['cur_tick'] + 1, state['tick_start_nimg'], time.monotonic() - state['seconds'],
                   start_time - state['tick_seconds'])
        tick.sums, tick.counts = np.array(state['tick']['sums']), np.array(state['tick']['counts'])
        tick.compile_seconds = state['tick']['compile_seconds'] + time.monotonic() - start_time
        return tick


class StatusLines:
    """The status lines of a run: printed, and as data in ``stats.jsonl`` and in TensorBoard's events.

    Parameters
    ----------
    run_dir : str
    events : EventFile
    unwritten : Unwritten
        Tells files that cannot be written; they get what they lack later.
    """

    def __init__(self, run_dir: str, events: EventFile, unwritten: Unwritten) -> None:
        self.stats, self.events = GrowingFile(os.path.join(run_dir, 'stats.jsonl')), events
        self.unwritten = unwritten

    def report(self, statistics: dict) -> None:
        """Print the values of a tick and append them to the files."""
        tqdm.write(
            'tick {tick:<5d} kimg {kimg:<8.1f} lod {lod:<5.2f} minibatch {minibatch:<4d} time {time:<12} '
            'sec/tick {sec_per_tick:<9.1f} sec/kimg {sec_per_kimg:<6.1f} Dgdrop {Dgdrop:<8.4f} Gloss {Gloss:<8.4f} '
            'Dloss {Dloss:<8.4f} Dreal {Dreal:<8.4f} Dfake {Dfake:<8.4f}'.format(
                time=format_time(statistics['seconds']), **statistics), file=sys.stdout)
        with self.unwritten.tolerated('stats.jsonl'):
            self.stats.append((json.dumps(statistics) + '\n').encode())
        with self.unwritten.tolerated('events'):
            self.events.scalars(int(round(statistics['kimg'] * 1000)), statistics)

    def catch_up(self) -> None:
        """Write what could not be written until now."""
        with self.unwritten.tolerated('stats.jsonl'):
            self.stats.append()
        with self.unwritten.tolerated('events'):
            self.events.file.append()


class ProgressBar:
    """A tqdm bar over the kimg of the training whose ETA knows that high resolutions take longer.

    The time still to come is the convolutions' multiplications in the rest of the schedule, at the rate measured in
    the last tick.
    """

    def __init__(self, G: Network, D: Network, resolution: int, total_kimg: float,
                 resolution_at: Callable[[float], int], show: bool) -> None:
        self.total_kimg = total_kimg
        self.resolution_at = resolution_at      # Function: kimg -> resolution of the images then.
        per_layer = costs.layer_multiplications(G) + costs.layer_multiplications(D)
        self.work = {2 ** stage: sum(count for height, count in per_layer if height <= 2 ** stage)
                     for stage in range(2, int(np.log2(resolution)) + 1)}
        self.seconds_per_work = np.nan      # Until the first tick has ended.
        self.bar = tqdm(total=self.total_kimg, disable=not show, mininterval=1 if sys.stderr.isatty() else 30,
                        bar_format='{percentage:3.0f}%|{bar:30}| {n:.1f}/{total:.0f} kimg, {elapsed} gone{postfix}')
        self.bar.set_postfix_str('ETA after the first tick', refresh=False)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def update(self, cur_nimg: int) -> None:
        self.bar.update(min(cur_nimg / 1000.0, self.total_kimg) - self.bar.n)

    def calibrate(self, resolution: int, seconds_per_kimg: float) -> None:
        """Take the rate of a finished tick."""
        self.seconds_per_work = seconds_per_kimg / self.work[resolution]
        self.bar.set_postfix_str('ETA ' + format_time(self.remaining_seconds(self.bar.n)), refresh=False)

    def remaining_seconds(self, kimg: float) -> float:
        """Estimated seconds from `kimg` to the end."""
        points, step = np.linspace(kimg, self.total_kimg, 200, endpoint=False, retstep=True)
        return float(step) * self.seconds_per_work * sum(self.work[self.resolution_at(point)] for point in points)
