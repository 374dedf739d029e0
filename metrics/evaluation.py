"""Evaluate metrics on the network snapshots of a run."""

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

import metrics
from common.arrays import DamagedArrays, read_arrays, save_arrays
from common.console import Progress, progress
from common.errors import UserError
from common.files import AnyPath
from common.options import BatchNorm, FilePath, Names, PositiveInt, Seed, checked
from data.dataset import Dataset
from metrics import identity, results
from metrics.classifier import load_classifier
from metrics.results import Entry
from nets import layers
from nets.network import Network
from runs.images import DivergedNetwork, finite_images, load_generator
from runs.records import Snapshot, find_snapshots, place_of_result, read_entries, twin_of_final

FEED_IMAGES = 256       # Images fed to the metrics at a time; even, because MS-SSIM compares pairs.


def feed_reals(metric: metrics.Meter, dataset: Dataset, num_images: int, random_seed: int, mode: str = 'reals',
               skip: int = 0) -> list[float]:
    """Feed reals to `metric` in random order, mirrored as in training. Images repeat only after all have been used.

    Parameters
    ----------
    metric : metric
    dataset : Dataset
    num_images, random_seed : int
    mode : str
        The mode for `metric`.
    skip : int
        Number of images to skip at the start of the random order. A multiple of `num_images` gives different reals.

    Returns
    -------
    list of float
        Result of ``metric.end``.
    """
    random = np.random.RandomState(random_seed)
    repeats = -(-(skip + num_images) // dataset.num_images)
    order = np.concatenate([random.permutation(dataset.num_images) for _repeat in range(repeats)])[skip:][:num_images]
    mirrored = random.rand(skip + num_images)[skip:] < (0.5 if dataset.mirror_augment else 0)
    metric.begin(mode)
    with Progress('reals', num_images) as bar:
        for begin in range(0, num_images, FEED_IMAGES):
            rows = slice(begin, min(begin + FEED_IMAGES, num_images))
            images = dataset.get_images(order[rows])[0]
            images[mirrored[rows]] = images[mirrored[rows], :, :, ::-1]
            metric.feed(mode, images)
            bar.update(len(images))
    return metric.end(mode)


def feed_fakes(wanted: dict[str, tuple[metrics.Meter, int]], Gs: Network, dataset: Dataset, minibatch_size: int,
               random_seed: int, desc: str, batchnorm: BatchNorm = 'minibatch') -> dict[str, dict[str, float]]:
    """Feed the first n images of a generator to each metric.

    Parameters
    ----------
    wanted : dict
        {name: (metric, n)}.
    Gs : Network
    dataset : Dataset
        Provides the labels, which are those of random reals.
    minibatch_size : int
        Images generated at a time.
    random_seed : int
    desc : str
        Name of the generator, for the progress bar and errors.
    batchnorm : str
        See `runs.images.finite_images`.

    Returns
    -------
    dict
        {metric: {name of the value: value}}.

    Raises
    ------
    UserError
        The generator produces NaN or infinity.
    """
    random = np.random.RandomState(random_seed)
    total = max(num_images for _metric, num_images in wanted.values())
    for metric, _num_images in wanted.values():
        metric.begin('fakes')
    with Progress(desc, total) as bar:
        for begin in range(0, total, FEED_IMAGES):
            num = min(FEED_IMAGES, total - begin)
            latents = random.randn(num, *Gs.input_shapes[0][1:]).astype(np.float32)
            labels = dataset.labels[random.randint(len(dataset.labels), size=num)]
            images = finite_images(Gs, latents, labels, minibatch_size=minibatch_size, source=desc,
                                   batchnorm=batchnorm)
            for metric, num_images in wanted.values():
                if begin < num_images:
                    metric.feed('fakes', images if begin + num <= num_images else images[:num_images - begin])
            bar.update(num)
    return {name: dict(zip(metric.names(), metric.end('fakes'), strict=True)) for name, (metric, _) in wanted.items()}


def check_settings(names: Sequence[str], num_images: int | None, section: str = '') -> None:
    """Raise UserError unless these metrics exist and can be evaluated on this number of images.

    `section` is a prefix of the options in the message.
    """
    option = f'{section}{"metric_" if section else ""}num_images={num_images!r}'
    if num_images is not None and (type(num_images) is not int or num_images < 2):
        raise UserError(f'{option}: must be a whole number of at least 2')
    if not isinstance(names, (list, tuple)):
        raise UserError(f"{section}metrics={names!r}: write a list of names, for example ['swd']")
    for name in names:
        metrics.check_name(name, section)
        if name == 'ms_ssim' and num_images and num_images % 2:
            raise UserError(f'{option}: ms_ssim compares pairs of images; use an even number')


class Evaluator:
    """Metrics with everything they need, to evaluate several generators one after the other.

    Parameters
    ----------
    names : list of str
        Keys of `metrics.METRICS`.
    dataset : Dataset
        The reals; must stay open until the last evaluation.
    cache_dir : str
        Folder for statistics of the reals.
    num_images, random_seed, minibatch_size, inception_weights, classifier, spill_dir, batchnorm
        See :func:`evaluate_run`.
    like : Network, optional
        A generator of the kind to evaluate; determines whether results depend on `batchnorm`.
    """

    def __init__(self, names: Sequence[str], dataset: Dataset, cache_dir: AnyPath, num_images: int | None = None,
                 random_seed: int = 1000, minibatch_size: int = 64, inception_weights: AnyPath | None = None,
                 classifier: AnyPath | None = None, spill_dir: AnyPath | None = None,
                 batchnorm: BatchNorm = 'minibatch', like: Network | None = None) -> None:
        check_settings(names, num_images)
        self.names, self.dataset, self.cache_dir = list(names), dataset, cache_dir
        self.counts = {name: num_images or metrics.METRICS[name].num_images for name in names}
        self.random_seed, self.minibatch_size = random_seed, minibatch_size
        self.inception_weights, self.classifier, self.spill_dir = inception_weights, classifier, spill_dir
        self.data = identity.of_dataset(dataset, cache_dir)
        self.weights = {name: self._digest_of_weights(name) for name in names}
        self.made: dict[str, Any] = {}
        self.batchnorm: BatchNorm = batchnorm
        self.batchnorm_minibatch: int | None = None
        if like:
            self.look_at(like)

    def look_at(self, Gs: Network) -> None:
        """Note whether this generator's images depend on their minibatch."""
        depends = self.batchnorm == 'minibatch' and layers.has_batch_norm(Gs.output_layers)
        self.batchnorm_minibatch = self.minibatch_size if depends else None

    def _digest_of_weights(self, name):
        if 'inception' in metrics.METRICS[name].needs:
            from metrics.inception import weights_path
            return identity.of_weights(weights_path(self.inception_weights))
        return identity.of_weights(self.classifier) if 'classifier' in metrics.METRICS[name].needs else None

    def prepare(self, names: Sequence[str]) -> None:
        """Make these metrics and feed the reals, unless that is already done.

        Raises
        ------
        UserError
            Something that a metric needs is missing.
        """
        new = [name for name in names if name not in self.made]
        made = make_metrics(new, self.counts, self.random_seed, self.inception_weights, self.classifier,
                            self.spill_dir, self.dataset)
        for name in new:
            self.weights[name] = self._digest_of_weights(name)      # Making the metric may have downloaded them.
            if 'reals' in metrics.METRICS[name].needs:
                prepare_reals(name, made[name], self.dataset, self.counts[name], self.random_seed, self.cache_dir,
                              self.data, self.weights[name])
            self.made[name] = made[name]

    def key(self, name: str, snapshot: str, network: str) -> Entry:
        """The fields of an entry of ``metrics.jsonl`` that identify everything its values depend on."""
        key = {'metric': name, 'snapshot': snapshot, 'num_images': self.counts[name],
               'random_seed': self.random_seed, 'network': network, 'data': self.data,
               'weights': self.weights[name]}
        return key if self.batchnorm_minibatch is None else {**key, 'batchnorm_minibatch': self.batchnorm_minibatch}

    def is_done(self, entry: Entry) -> bool:
        """Whether an entry of ``metrics.jsonl`` belongs to its snapshot and metric with the current settings."""
        name = entry.get('metric')
        return name in self.counts and bool(entry.get('network')) and results.key_of(entry) == results.key_of(
            self.key(name, entry.get('snapshot', ''), entry['network'])) and (
                self.weights[name] is not None or not {'inception', 'classifier'} & {*metrics.METRICS[name].needs})

    def evaluate(self, names: Sequence[str], Gs: Network, snapshot: Snapshot, network: str,
                 report: Callable[[str], object] = lambda line: print(line, file=sys.stderr)) -> list[Entry]:
        """Evaluate metrics on a generator.

        Parameters
        ----------
        names : list of str
        Gs : Network
        snapshot : Snapshot
            Its name and time.
        network : str
            Digest of the network.
        report : callable
            Called with a line about each result that is not finite.

        Returns
        -------
        list of dict
            Entries for ``metrics.jsonl``, without results that are not finite.

        Raises
        ------
        UserError
            Something that a metric needs is missing, or the generator produces NaN.
        """
        self.prepare(names)
        self.look_at(Gs)
        values = feed_fakes({name: (self.made[name], self.counts[name]) for name in names}, Gs, self.dataset,
                            self.minibatch_size, self.random_seed, snapshot.snapshot, self.batchnorm)
        entries = []
        for name in names:
            if results.is_finite_result(values[name]):
                entries.append({
                    **self.key(name, snapshot.snapshot, network), 'kimg': snapshot.kimg, 'seconds': snapshot.seconds,
                    'values': values[name], 'better': self.made[name].better,
                    'evaluated': time.strftime('%Y-%m-%d %H:%M:%S')})
            else:
                report(f'{name} of {snapshot.snapshot} is not finite and not stored: '
                       f'{results.format_values(values[name])}')
        return entries


@checked
def evaluate_run(run_dir: FilePath, names: Names, open_dataset: Callable[[], AbstractContextManager[Dataset]],
                 cache_dir: FilePath, num_images: PositiveInt | None = None, random_seed: Seed = 1000,
                 minibatch_size: PositiveInt = 64, inception_weights: FilePath | None = None,
                 classifier: FilePath | None = None, only_final: bool = False, spill_dir: FilePath | None = None,
                 final_Gs: Network | None = None, only_snapshot: str | None = None,
                 batchnorm: BatchNorm = 'minibatch') -> list[Entry]:
    """Evaluate metrics on the snapshots of a run.

    Results that ``metrics.jsonl`` already has are not computed again if the contents of network, reals and weights and
    the settings are the same.

    Parameters
    ----------
    run_dir : str
    names : list of str
        Keys of `metrics.METRICS`.
    open_dataset : callable
        Returns the run's dataset as a context manager.
    cache_dir : str
        Folder for statistics of the reals.
    num_images : int, optional
        Generated images per snapshot. Default: as in the paper, see `metrics.METRICS`.
    random_seed : int
        All snapshots use the same latents.
    minibatch_size : int
        Images generated at a time.
    inception_weights, classifier : str, optional
        Files that some metrics need, see `metrics.inception` and `train_classifier`.
    only_final : bool
        Evaluate only the last snapshot.
    spill_dir : str, optional
        Folder for temporary files of `swd`, which otherwise keeps its descriptors in memory.
    final_Gs : Network, optional
        The averaged generator of ``network-final.pkl``, if it is already in memory.
    only_snapshot : str, optional
        Evaluate only this snapshot, a file name without suffix. The last snapshot of a finished run is
        ``network-final`` under both of its names.
    batchnorm : str
        Statistics that batch norm uses, see `runs.images.finite_images`.

    Returns
    -------
    list of dict
        All results of the run, as in ``metrics.jsonl``: 'metric', 'snapshot', 'kimg', 'seconds' (of training),
        'num_images', 'random_seed', 'values' and digests; the requested ones come last.

    Raises
    ------
    UserError
        Something that a metric needs is missing, or a network produces NaN. Finished results are stored.
    """
    check_settings(names, num_images)
    snapshots = find_snapshots(os.fspath(run_dir))
    if twin := twin_of_final(snapshots):       # A file with two names is evaluated once.
        snapshots.remove(twin)
        only_snapshot = 'network-final' if only_snapshot == twin.snapshot else only_snapshot
    snapshots = snapshots[-1 if only_final else 0:]
    snapshots = [entry for entry in snapshots if only_snapshot in (None, entry.snapshot)]
    with open_dataset() as dataset:
        evaluator = Evaluator(names, dataset, cache_dir, num_images, random_seed, minibatch_size, inception_weights,
                              classifier, spill_dir, batchnorm)
        entries = read_entries(run_dir)
        loaded: dict[str, Network] = {'network-final': final_Gs} if final_Gs else {}
        if entries and snapshots and batchnorm == 'minibatch':
            last = snapshots[-1]
            if last.snapshot not in loaded:
                loaded[last.snapshot] = load_generator(last.path)
            evaluator.look_at(loaded[last.snapshot])
        entries = [entry for entry in entries if evaluator.is_done(entry)]
        networks = {snapshot.snapshot: identity.of_file(snapshot.path) for snapshot in snapshots}
        done = {(entry['snapshot'], entry['network'], entry['metric']): entry for entry in entries}
        missing = {snapshot.snapshot: [name for name in names if (
            snapshot.snapshot, networks[snapshot.snapshot], name) not in done] for snapshot in snapshots}
        evaluator.prepare([name for name in names if any(name in of_one for of_one in missing.values())])
        errors: list[str] = []
        pending = [snapshot for snapshot in snapshots if missing[snapshot.snapshot]]
        for snapshot in progress(pending, 'Evaluating', unit='snapshots') if len(pending) > 1 else pending:
            networks[snapshot.snapshot] = network = identity.of_file(snapshot.path)     # It may have changed since.
            Gs = loaded.pop(snapshot.snapshot, None) or load_generator(snapshot.path)
            check_network(Gs, snapshot.path, dataset)
            values = identity.of_network(Gs)        # The digest that a training writes.
            known = [done[snapshot.snapshot, values, name] for name in missing[snapshot.snapshot]
                     if (snapshot.snapshot, values, name) in done]
            unknown = [name for name in missing[snapshot.snapshot] if name not in {item['metric'] for item in known}]
            try:
                new = evaluator.evaluate(unknown, Gs, snapshot, network, errors.append) if unknown else []
                new += [{**item, 'network': network} for item in known]
            except DivergedNetwork as error:
                errors.append(f'{os.path.join(run_dir, "")}{error}')
                continue
            for entry in new:
                print(f'{entry["metric"]:<16} {snapshot.snapshot}  {results.format_values(entry["values"])}')
            results.update(run_dir, functools.partial(results.merged, new=new))
        wanted = {(snapshot, networks[snapshot], name) for snapshot in networks for name in names}
        if errors:
            raise UserError('; '.join(errors))
        return results.update(run_dir, lambda before: _requested_last(before, lambda entry: evaluator.is_done(
            entry) and (entry['snapshot'], entry['network'], entry['metric']) in wanted))


def check_network(G: Network, path: AnyPath, dataset: Dataset) -> None:
    """Raise UserError unless a generator's image shape and number of classes match the dataset."""
    label_size = G.input_shapes[1][1] if len(G.input_shapes) > 1 else 0
    if list(G.output_shape[1:]) != list(dataset.shape) or label_size not in (0, dataset.label_size):
        raise UserError(f'{path}: makes images of the shape {G.output_shape[1:]} with {label_size} classes, but '
                        f'{dataset.h5_path} has {list(dataset.shape)} and {dataset.label_size}; choose the dataset '
                        'that the network was trained on')


def _requested_last(entries, is_requested):
    """Move requested entries to the end, unless each is already the last one of its snapshot and metric."""
    requested = [entry for entry in entries if is_requested(entry)]
    last = {place_of_result(entry): entry for entry in entries}
    if all(last[place_of_result(entry)] == entry for entry in requested):
        return entries
    return [entry for entry in entries if not is_requested(entry)] + requested


def make_metrics(names: list[str], counts: dict[str, int], random_seed: int, inception_weights: AnyPath | None,
                 classifier: AnyPath | None, spill_dir: AnyPath | None, dataset: Dataset) -> dict[str, Any]:
    """Make metrics with everything they need: {name: metric}."""
    features = None
    made = {}
    for name in names:
        needs = metrics.METRICS[name].needs
        options: dict[str, Any] = {}
        if 'inception' in needs:
            from metrics.inception import InceptionFeatures
            features = features or InceptionFeatures(inception_weights)
            options['features'] = features
        if 'classifier' in needs:
            if dataset.shape[0] != 3:
                raise UserError(f'mnist_modes: {dataset.h5_path} has {dataset.shape[0]} colour channels; needs 3, '
                                'each with a digit')
            options['classify'] = load_classifier(classifier, dataset.resolution)
            options['images_per_draw'] = min(counts[name], 25600)
        if name == 'inception_score':
            options['num_images'] = counts[name]
        if name == 'swd':
            options.update(random_seed=random_seed, spill_dir=spill_dir)
        made[name] = metrics.make_metric(name, **options)
    return made


def prepare_reals(name: str, metric: metrics.ComparingMeter, dataset: Dataset, num_images: int, random_seed: int,
                  cache_dir: AnyPath, data: str, weights: str | None) -> None:
    """Feed the reals to `metric`, or use their statistics from an earlier evaluation.

    Parameters
    ----------
    name : str
    metric : metric
    dataset : Dataset
    num_images : int
    random_seed : int
    cache_dir : str
    data, weights : str
        Digests of the dataset and of the network that the metric uses.
    """
    # Inception metrics allow different numbers of reals and fakes, and some must not see an image twice.
    if 'inception' in metrics.METRICS[name].needs:
        num_images = min(num_images, dataset.num_images)
    path = os.path.join(cache_dir, '%s-%d-%s.npz' % (
        name, num_images, identity.of_json([data, weights, name, num_images, random_seed])))
    has_key = weights is not None or 'inception' not in metrics.METRICS[name].needs
    if has_key and os.path.exists(path):
        try:
            kept = read_arrays(path, 'making it again')
            if not all(array.dtype.kind in 'fiu' and np.isfinite(array).all() for array in kept.values()):
                raise ValueError('not finite')
            metric.set_reals(kept)
            return
        except DamagedArrays as error:
            print(str(error), file=sys.stderr)
        except (ValueError, KeyError) as error:
            print(f'{path}: is not a file of statistics of reals ({error}); making it again', file=sys.stderr)
    feed_reals(metric, dataset, num_images, random_seed)
    arrays = metric.get_reals()
    if arrays is not None and has_key and all(np.isfinite(array).all() for array in arrays.values()):
        try:
            os.makedirs(cache_dir, exist_ok=True)
        except OSError as error:
            raise UserError(f'cache_dir={cache_dir!r}: cannot be made ({error.strerror}); choose another folder '
                            'with --cache-dir') from error
        save_arrays(path, arrays)
