"""Metrics while a network is trained. They leave no trace in the training itself."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence

import lasagne
import numpy as np

from common.console import tell
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
    """After the block, NumPy's and Lasagne's generators and the order of the data set are as they were before it."""
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
    """Whether an entry is of a training that had come further."""
    return entry.get('training') is True and (entry.get('kimg') or 0) > cur_nimg / 1000


def _rename_final(run_dir):
    """Let the best networks, which the training ended with, be a snapshot like others: the training goes on."""
    path = os.path.join(run_dir, FINAL + '.pkl')
    final, = [entry for entry in read_results(run_dir) if entry.get('best') is True][:1]
    name = os.path.splitext(NETWORK_SNAPSHOT % int(final['kimg'] or 0))[0]
    if os.path.exists(path):
        link_or_copy(path, os.path.join(run_dir, name + '.pkl'))
        results.update(run_dir, lambda before: [
            {**entry, 'snapshot': name} if entry.get('training') and entry.get('snapshot') == FINAL else entry
            for entry in before if not entry.get('training') or entry.get('snapshot') != name])


class TrainingMetrics:
    """Evaluates the averaged generator every so many ticks, saves the best networks and marks them.

    The best ones are those of the best value of the first metric. Its entry in ``metrics.jsonl`` has the field 'best',
    see :func:`runs.records.best_snapshot`; all entries of a training have the field 'training'.

    Parameters
    ----------
    names : sequence of str or None
        Of `metrics.METRICS`.
    ticks : int
        Evaluate every so many ticks, and at the end. 0: never.
    num_images : int
        Generated images.
    run_dir : str
    dataset : Dataset
        The training's own.
    ranks : Ranks
        The first one evaluates, the others wait.
    cur_nimg : int
        Real images shown so far. Entries of a later time are removed, as the training goes on from here.
    inception_weights, classifier : str, optional
        See :func:`metrics.evaluation.evaluate_run`.
    batchnorm, like : str, Network
        See :class:`metrics.evaluation.Evaluator`.
    unwritten : Unwritten, optional
        Tells results and networks that cannot be written.

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
        """Read the reals, and find out now what the metrics do not bear."""
        try:
            self.evaluator.prepare(self.names)
            for name in self.names:
                self.evaluator.made[name].begin('fakes')
                self.evaluator.made[name].feed('fakes', self.dataset.get_images([0, 0])[0])
        except UserError as error:
            raise UserError(f'train.metrics: {error}') from error

    def measure(self, tick: int, cur_nimg: int, done: bool, seconds: float,
                snapshots: SnapshotWriter) -> dict[str, float]:
        """Evaluate at the end of a tick, if it is time for that.

        Parameters
        ----------
        tick : int
            Number of the tick.
        cur_nimg : int
            Real images shown.
        done : bool
            Whether the training is at its end.
        seconds : float
            Since its beginning.
        snapshots : SnapshotWriter
            Has the networks, and saves those that are the best so far.

        Returns
        -------
        dict
            {name of the number: value} and 'metric_seconds', for the statistics of the tick.
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
        """Write entries, and the networks if they are the best so far.

        Of several networks within a thousand images, which have one name, the best are kept with their entries.
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
            tell(f'{name}  {decides} {entry["values"][decides]:.4f}{praise}',
                 f'{name:<16} {entry["snapshot"]}  {results.format_values(entry["values"])}{praise}')

    def _is_worse(self, entries, before):
        """Whether there are results of better networks of the same name, by the first metric."""
        place = entries[0]['snapshot']
        earlier = [self._score(entry) for entry in self._compared(before) if entry.get('snapshot') == place]
        new = [self._score(entry) for entry in entries if entry['metric'] == self.names[0]]
        return bool(earlier) and (not new or min(earlier) <= min(new))

    def makes_way(self, cur_nimg: int) -> bool:
        """Whether the networks of now can be saved under the number of their thousand images.

        They cannot in place of others that were evaluated. Results of others that are not in the file are forgotten.
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
        """Those entries of this training by the first metric that are comparable."""
        decides = self.evaluator.made[self.names[0]].decides
        return [entry for entry in entries if entry.get('training') is True and entry['metric'] == self.names[0]
                and self.evaluator.is_done(entry) and is_finite(entry.get('values', {}).get(decides))]

    def _marked(self, entries: list[Entry]) -> list[Entry]:
        """The entries, of which the best one of this training by the first metric has the mark."""
        entries = [{key: value for key, value in entry.items() if key != 'best'} for entry in entries]
        if compared := self._compared(entries):
            min(compared, key=self._score)['best'] = True
        return entries

    def _score(self, entry):
        """By the first metric; lower is better."""
        meter = self.evaluator.made[self.names[0]]
        return entry['values'][meter.decides] * (1 if meter.better[meter.decides] == 'lower' else -1)
