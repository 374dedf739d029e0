"""What a training run tells: status lines, statistics as data, warnings, a progress bar that knows the schedule."""

import contextlib
import json
import os
import sys

import numpy as np
from tqdm import tqdm

import theano_env  # noqa: F401  isort: skip  (restores what the imports of Theano and Lasagne need)

import lasagne

import distributed
import misc


@contextlib.contextmanager
def going_on():
    """Around writing what the training can do without for now: the disk may be full for a while only."""
    try:
        yield
    except misc.WriteError as error:
        tqdm.write(f'warning: {error}; the training goes on, earlier files are kept', file=sys.stdout)


class TrainingDiverged(distributed.SharedError):
    """A loss is NaN or infinite."""


class TickStatistics:
    """Averages over the D steps since the last status line; scores count image by image, as in the release."""

    names = ('Gloss', 'Dloss', 'Dreal', 'Dfake')

    def __init__(self):
        self.sums, self.counts = np.zeros(4), np.zeros(4)
        self.compile_seconds = 0.0

    def add(self, outputs, tick):
        """Add the outputs of one D step; `tick` is the number of the tick for the error message."""
        for index, (name, output) in enumerate(zip(self.names, outputs, strict=True)):
            total = float(np.sum(output))
            if not np.isfinite(total):
                raise TrainingDiverged(f'{name} became {total} in tick {tick}; the last snapshots are kept. Lower the '
                                       'learning rates or change random_seed')
            self.sums[index] += total
            self.counts[index] += np.size(output)

    def report(self, run_dir, events, tick, kimg, schedule, seconds, tick_seconds, tick_kimg, gdrop_strength):
        """Print the status line; append the same values to ``stats.jsonl`` and `events`, an EventFile."""
        means = self.sums / self.counts
        tqdm.write('tick %-5d kimg %-8.1f lod %-5.2f minibatch %-4d time %-12s sec/tick %-9.1f sec/kimg %-6.1f '
                   'Dgdrop %-8.4f Gloss %-8.4f Dloss %-8.4f Dreal %-8.4f Dfake %-8.4f' % (
                       tick, kimg, schedule.lod, schedule.minibatch_size, misc.format_time(seconds), tick_seconds,
                       tick_seconds / tick_kimg, gdrop_strength, *means), file=sys.stdout)
        stats = {'tick': tick, 'kimg': kimg, 'lod': schedule.lod, 'resolution': schedule.resolution,
                 'minibatch': schedule.minibatch_size, 'seconds': seconds, 'sec_per_tick': tick_seconds,
                 'sec_per_kimg': tick_seconds / tick_kimg, 'compile_seconds': self.compile_seconds,
                 'peak_memory_mb': misc.peak_memory() / 2 ** 20, 'Dgdrop': gdrop_strength,
                 **dict(zip(self.names, means, strict=True))}
        with going_on():
            misc.append(os.path.join(run_dir, 'stats.jsonl'), (json.dumps(stats) + '\n').encode())
        with going_on():
            events.scalars(int(round(kimg * 1000)), stats)

    def get_state(self):
        """Plain data for :meth:`set_state`."""
        return {'sums': self.sums.tolist(), 'counts': self.counts.tolist(), 'compile_seconds': self.compile_seconds}

    def set_state(self, state):
        self.sums, self.counts = np.array(state['sums']), np.array(state['counts'])
        self.compile_seconds = state['compile_seconds']


class ProgressBar:
    """A tqdm bar over the kimg of the training whose ETA knows that high resolutions take longer.

    The time still to come is the convolutions' multiplications in the rest of the schedule, at the rate measured in
    the last tick.
    """

    def __init__(self, G, D, resolution, total_kimg, resolution_at, show):
        self.total_kimg = total_kimg
        self.resolution_at = resolution_at      # Function: kimg -> resolution of the images then.
        per_layer = layer_multiplications(G) + layer_multiplications(D)
        self.work = {2 ** stage: sum(count for height, count in per_layer if height <= 2 ** stage)
                     for stage in range(2, int(np.log2(resolution)) + 1)}
        self.seconds_per_work = None
        self.bar = tqdm(total=self.total_kimg, disable=not show, mininterval=1 if sys.stderr.isatty() else 30,
                        bar_format='{percentage:3.0f}%|{bar:30}| {n:.1f}/{total:.0f} kimg, {elapsed} gone{postfix}')
        self.bar.set_postfix_str('ETA after the first tick', refresh=False)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def update(self, cur_nimg):
        self.bar.update(min(cur_nimg / 1000.0, self.total_kimg) - self.bar.n)

    def calibrate(self, resolution, seconds_per_kimg):
        """Take the rate of a finished tick."""
        self.seconds_per_work = seconds_per_kimg / self.work[resolution]
        self.bar.set_postfix_str('ETA ' + misc.format_time(self.remaining_seconds(self.bar.n)), refresh=False)

    def remaining_seconds(self, kimg):
        """Estimated seconds from `kimg` to the end."""
        points, step = np.linspace(kimg, self.total_kimg, 200, endpoint=False, retstep=True)
        return step * self.seconds_per_work * sum(self.work[self.resolution_at(point)] for point in points)


def multiplications(net, resolution):
    """Multiplications of one forward pass of the convolutions of `net` at and below `resolution`, per image."""
    return sum(count for height, count in layer_multiplications(net) if height <= resolution)


def layer_multiplications(net):
    """[(height of the output, multiplications per image)] of every layer of `net`."""
    counts = []
    for layer in lasagne.layers.get_all_layers(net.output_layers):
        height = layer.output_shape[2] if len(layer.output_shape) == 4 else 1
        weights = [param.get_value(borrow=True).size for param in layer.get_params() if param.ndim >= 2]
        counts.append((height, sum(weights) * height ** 2))
    return counts
