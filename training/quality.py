"""Evaluates metrics during a training, without changing its course."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence

import lasagne
import numpy as np

from common.console import print_and_log
from common.errors import UserError
from common.files import AnyPath, link_or_copy
from common.options import BatchNorm
from data.dataset import Dataset
from metrics import identity, results
from metrics.evaluation import Evaluator, check_settings
from metrics.results import Entry
from nets.network import Network
from nets.ranks import Ranks
from runs.folder import NETWORK_SNAPSHOT
from runs.images import MINIBATCH_PIXELS
from runs.records import RESULTS_NAME, Snapshot, best_snapshot, is_finite, read_entries, read_results
from training import processes
from training.saving import Unwritten
from training.snapshots import SnapshotWriter

FINAL = 'network-final'


@contextlib.contextmanager
def random_state_kept(dataset: Dataset) -> Iterator[None]:
    """Restore NumPy's and Lasagne's random generators and the order of the dataset after the block."""
    generator = lasagne.random.get_rng()
    state, reader = np.random.get_state(), dataset.get_state()
    of_lasagne = generator.get_state()
    try:
        yield
    finally:
        lasagne.random.set_rng(generator)
        generator.set_state(of_lasagne)
        np.random.set_state(state)
        dataset.set_state(reader)


def _is_later(entry, cur_nimg):
    """Whether an entry belongs to a later time of the training than `cur_nimg`."""
    return entry.get('training') is True and (entry.get('kimg') or 0) > cur_nimg / 1000


def _rename_final(run_dir):
    """Turn the best networks into a numbered snapshot if they are the final ones, because the training continues."""
    path = os.path.join(run_dir, FINAL + '.pkl')
    final, = [entry for entry in read_results(run_dir) if entry.get('best') is True][:1]
    name = os.path.splitext(NETWORK_SNAPSHOT % int(final['kimg'] or 0))[0]
    if os.path.exists(path):
        link_or_copy(path, os.path.join(run_dir, name + '.pkl'))
        results.update(run_dir, lambda before: [
            {**entry, 'snapshot': name} if entry.get('training') and entry.get('snapshot') == FINAL else entry
            for entry in before if not entry.get('training') or entry.get('snapshot') != name])


class TrainingMetrics:
    """Evaluates the averaged generator at regular intervals, saves the best networks and marks them.

    The first metric decides which networks are best. Their entry in ``metrics.jsonl`` has the field 'best', see
    :func:`runs.records.best_snapshot`; all entries written by a training have the field 'training'.

    Parameters
    ----------
    names : sequence of str or None
        Keys of `metrics.METRICS`.
    ticks : int
        Ticks between evaluations; there is another one at the end. 0: never evaluate.
    num_images : int
        Generated images per evaluation.
    run_dir : str
    dataset : Dataset
        Dataset of the training.
    ranks : Ranks
        Rank 0 evaluates, the others wait.
    cur_nimg : int
        Real images shown so far. Entries of a later time are removed, because the training repeats that part.
    inception_weights, classifier : str, optional
        See :func:`metrics.evaluation.evaluate_run`.
    batchnorm, like : str, Network
        See :class:`metrics.evaluation.Evaluator`.
    unwritten : Unwritten, optional
        Reports results and networks that cannot be written.

    Raises
    ------
    UserError
        Something that the metrics need is missing.
    """

    def __init__(self, names: Sequence[str] | None, ticks: int, num_images: int, run_dir: str, dataset: Dataset,
                 ranks: Ranks, cur_nimg: int = 0, inception_weights: AnyPath | None = None,
                 classifier: AnyPath | None = None, batchnorm: BatchNorm = 'minibatch', like: Network | None = None,
                 unwritten: Unwritten | None = None) -> None:
        self.names, self.ticks = list(names or []) if ticks else [], ticks
        self.run_dir, self.dataset, self.ranks = run_dir, dataset, ranks
        self.unwritten = unwritten or Unwritten()
        if not ranks.rank and any(_is_later(entry, cur_nimg) for entry in read_results(run_dir)):
            results.update(run_dir, lambda before: [entry for entry in before if not _is_later(entry, cur_nimg)])
        if not ranks.rank and best_snapshot(run_dir) == FINAL:
            _rename_final(run_dir)
        if not self.names:
            return
        check_settings(self.names, num_images, 'train.')
        with processes.rank_0_first(ranks), random_state_kept(dataset):
            if not ranks.rank:
                self.evaluator = Evaluator(
                    self.names, dataset, os.path.join(os.path.dirname(dataset.h5_path), 'metric-cache'), num_images,
                    minibatch_size=int(np.clip(MINIBATCH_PIXELS // dataset.resolution ** 2, 1, 64)),
                    inception_weights=inception_weights, classifier=classifier, batchnorm=batchnorm, like=like)
                self._prepare()
                results.update(run_dir, self._marked)

    def _prepare(self) -> None:
        """Read the reals, and fail early if a metric does not support these images."""
        try:
            self.evaluator.prepare(self.names)
            for name in self.names:
                self.evaluator.made[name].begin('fakes')
                self.evaluator.made[name].feed('fakes', self.dataset.get_images([0, 0])[0])
        except UserError as error:
            raise UserError(f'train.metrics: {error}') from error

    def measure(self, tick: int, cur_nimg: int, done: bool, seconds: float,
                snapshots: SnapshotWriter) -> dict[str, float]:
        """Evaluate at the end of a tick, if an evaluation is due.

        Parameters
        ----------
        tick : int
            Number of the tick.
        cur_nimg : int
            Real images shown.
        done : bool
            Whether the training is complete.
        seconds : float
            Duration of the training so far.
        snapshots : SnapshotWriter
            Provides the networks, and saves the best ones.

        Returns
        -------
        dict
            {name of the value: value} and 'metric_seconds', for the statistics of the tick; empty if not due.
        """
        if not self.names or not (done or tick % self.ticks == 0):
            return {}
        statistics: dict[str, float] = {}
        with processes.rank_0_first(self.ranks):
            if not self.ranks.rank:
                start_time, Gs = time.monotonic(), snapshots.networks['Gs']
                name = FINAL if done else os.path.splitext(NETWORK_SNAPSHOT % (cur_nimg // 1000))[0]
                with random_state_kept(self.dataset):
                    entries = self.evaluator.evaluate(self.names, Gs, Snapshot(name, '', cur_nimg / 1000, seconds),
                                                      identity.of_network(Gs))
                with self.unwritten.tolerated(RESULTS_NAME):
                    self._keep([{**entry, 'training': True} for entry in entries], cur_nimg, done, snapshots)
                statistics = {key: value for entry in entries for key, value in entry['values'].items()}
                statistics['metric_seconds'] = time.monotonic() - start_time
        return statistics

    def _keep(self, entries, cur_nimg, done, snapshots):
        """Write entries, and save the networks if they are the best so far.

        Networks within the same kimg have the same file name. The best of them are kept with their entries.
        """
        if not entries:
            return
        before, name = read_entries(self.run_dir), entries[0]['snapshot']
        is_there = os.path.exists(os.path.join(self.run_dir, name + '.pkl'))
        if not done and is_there and self._is_worse(entries, before):
            return
        is_best = any(entry.get('best') for entry in self._marked(results.merged(before, entries))[-len(entries):])
        if not done and (is_best or is_there):
            snapshots.save_networks(cur_nimg)
        results.update(self.run_dir, lambda before: self._marked(results.merged(before, entries)))
        for entry in entries:
            name, praise = entry['metric'], '  best so far' if is_best and entry['metric'] == self.names[0] else ''
            decides = self.evaluator.made[name].decides
            print_and_log(f'{name}  {decides} {entry["values"][decides]:.4f}{praise}',
                          f'{name:<16} {entry["snapshot"]}  {results.format_values(entry["values"])}{praise}')

    def _is_worse(self, entries, before):
        """Whether earlier networks of the same name have a better result in the first metric."""
        place = entries[0]['snapshot']
        earlier = [self._score(entry) for entry in self._compared(before) if entry.get('snapshot') == place]
        new = [self._score(entry) for entry in entries if entry['metric'] == self.names[0]]
        return bool(earlier) and (not new or min(earlier) <= min(new))

    def can_save(self, cur_nimg: int) -> bool:
        """Whether the current networks can be saved under the number of their kimg.

        They must not replace a snapshot of the same number that was evaluated. Results of such a snapshot whose file is
        missing are removed.
        """
        name = os.path.splitext(NETWORK_SNAPSHOT % (cur_nimg // 1000))[0]

        def is_of_others(entry):
            return entry.get('training') is True and entry.get('snapshot') == name and (
                entry.get('kimg') != cur_nimg / 1000)

        if any(map(is_of_others, read_entries(self.run_dir))):
            if os.path.exists(os.path.join(self.run_dir, name + '.pkl')):
                return False
            results.update(self.run_dir, lambda before: [entry for entry in before if not is_of_others(entry)])
        return True

    def _compared(self, entries):
        """The comparable entries of this training by the first metric."""
        decides = self.evaluator.made[self.names[0]].decides
        return [entry for entry in entries if entry.get('training') is True and entry['metric'] == self.names[0]
                and self.evaluator.is_done(entry) and is_finite(entry.get('values', {}).get(decides))]

    def _marked(self, entries: list[Entry]) -> list[Entry]:
        """The entries, with the mark 'best' on the best one of this training by the first metric."""
        entries = [{key: value for key, value in entry.items() if key != 'best'} for entry in entries]
        if compared := self._compared(entries):
            min(compared, key=self._score)['best'] = True
        return entries

    def _score(self, entry):
        """The value of an entry by the first metric, negated if higher is better."""
        meter = self.evaluator.made[self.names[0]]
        return entry['values'][meter.decides] * (1 if meter.better[meter.decides] == 'lower' else -1)
