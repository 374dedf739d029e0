"""Evaluate metrics on the network snapshots of a run."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from tqdm import tqdm

import metrics
from common.console import format_time
from common.errors import UserError
from common.files import AnyPath, atomic_write
from data.dataset import Dataset
from metrics.classifier import load_classifier
from nets.network import Network
from nets.pickles import load_pkl
from runs.records import RESULTS_NAME, find_snapshots, read_jsonl

FEED_IMAGES = 256       # Images handed to the metrics at a time; even, as MS-SSIM compares pairs.


def feed_reals(metric: metrics.Meter, dataset: Dataset, num_images: int, random_seed: int) -> None:
    """Give `metric` reals in random order, mirrored at random if the training's were; all of them before any twice."""
    random = np.random.RandomState(random_seed)
    repeats = -(-num_images // dataset.num_images)
    order = np.concatenate([random.permutation(dataset.num_images) for _repeat in range(repeats)])[:num_images]
    mirrored = random.rand(num_images) < (0.5 if dataset.mirror_augment else 0)
    metric.begin('reals')
    with tqdm(total=num_images, desc='reals', unit='images', leave=False) as bar:
        for begin in range(0, num_images, FEED_IMAGES):
            rows = slice(begin, min(begin + FEED_IMAGES, num_images))
            images = dataset.get_images(order[rows])[0]
            images[mirrored[rows]] = images[mirrored[rows], :, :, ::-1]
            metric.feed('reals', images)
            bar.update(len(images))
    metric.end('reals')


def feed_fakes(wanted: dict[str, tuple[metrics.Meter, int]], Gs: Network, dataset: Dataset, minibatch_size: int,
               random_seed: int, desc: str) -> dict[str, dict[str, float]]:
    """Give the first n images of a generator to each metric.

    Parameters
    ----------
    wanted : dict
        {name: (metric, n)}.
    Gs : Network
    dataset : Dataset
        Labels are those of random reals.
    minibatch_size : int
        Images generated at a time.
    random_seed : int
    desc : str
        Of the progress bar.

    Returns
    -------
    dict
        {name: {name of the number: value}}.
    """
    random = np.random.RandomState(random_seed)
    total = max(num_images for _metric, num_images in wanted.values())
    for metric, _num_images in wanted.values():
        metric.begin('fakes')
    with tqdm(total=total, desc=desc, unit='images', leave=False) as bar:
        for begin in range(0, total, FEED_IMAGES):
            num = min(FEED_IMAGES, total - begin)
            latents = random.randn(num, *Gs.input_shapes[0][1:]).astype(np.float32)
            labels = dataset.labels[random.randint(len(dataset.labels), size=num)]
            images = Gs.run(latents, labels, minibatch_size=minibatch_size, out_mul=127.5, out_add=127.5,
                            out_dtype='uint8')
            for metric, num_images in wanted.values():
                if begin < num_images:
                    metric.feed('fakes', images if begin + num <= num_images else images[:num_images - begin])
            bar.update(num)
    return {name: dict(zip(metric.names(), metric.end('fakes'), strict=True)) for name, (metric, _) in wanted.items()}


def evaluate_run(run_dir: AnyPath, names: list[str], open_dataset: Callable[[], AbstractContextManager[Dataset]],
                 cache_dir: AnyPath, num_images: int | None = None, random_seed: int = 1000, minibatch_size: int = 64,
                 inception_weights: AnyPath | None = None, classifier: AnyPath | None = None, only_final: bool = False,
                 spill_dir: AnyPath | None = None, final_Gs: Network | None = None,
                 snapshot: str | None = None) -> list[dict[str, Any]]:
    """Evaluate metrics on the snapshots of a run.

    Parameters
    ----------
    run_dir : str
    names : list of str
        Of `metrics.METRICS`.
    open_dataset : callable
        Returns the data set of the run as a context manager; called only if something is missing.
    cache_dir : str
        Where statistics of the reals are kept.
    num_images : int, optional
        Generated images per snapshot. Default: as many as in the paper, see `metrics.METRICS`.
    random_seed : int
        All snapshots get the same latents.
    minibatch_size : int
        Images generated at a time.
    inception_weights, classifier : str, optional
        Files that some metrics need, see `metrics.inception` and `train_classifier`.
    only_final : bool
        Leave out all snapshots but the last.
    spill_dir : str, optional
        Folder for temporary files of `swd`, which otherwise keeps its descriptors in memory.
    final_Gs : Network, optional
        The averaged generator of ``network-final.pkl``, where it is at hand.
    snapshot : str, optional
        File name without suffix: leave out all other snapshots.

    Returns
    -------
    list of dict
        The results of the run, as in ``metrics.jsonl``: 'metric', 'snapshot', 'kimg', 'seconds' (of training),
        'num_images', 'random_seed', 'values'.

    Raises
    ------
    UserError
        Something is missing; metrics that were done are kept.
    """
    for name in names:
        metrics.check_name(name)
    snapshots = find_snapshots(os.fspath(run_dir))[-1 if only_final else 0:]
    snapshots = [entry for entry in snapshots if snapshot in (None, entry.snapshot)]
    results_path = os.path.join(run_dir, RESULTS_NAME)
    results = read_jsonl(results_path)
    done = {_key(entry) for entry in results}
    counts = {name: num_images or metrics.METRICS[name].num_images for name in names}
    for name in names:
        if name == 'ms_ssim' and counts[name] % 2:
            raise UserError(f'num_images={counts[name]}: ms_ssim compares pairs of images; use an even number')
    missing = [(entry, [name for name in names if (name, entry.snapshot, counts[name], random_seed) not in done])
               for entry in snapshots]
    needed = [name for name in names if any(name in of_snapshot for _entry, of_snapshot in missing)]
    if needed:
        with open_dataset() as dataset:
            made = make_metrics(needed, counts, random_seed, inception_weights, classifier, spill_dir, dataset)
            for name in needed:
                if 'reals' in metrics.METRICS[name].needs:
                    prepare_reals(name, made[name], dataset, counts[name], random_seed, cache_dir)
            for entry, of_snapshot in missing:
                if not of_snapshot:
                    continue
                Gs = final_Gs if entry.snapshot == 'network-final' else None
                Gs = Gs or load_pkl(entry.path)[2]
                wanted = {name: (made[name], counts[name]) for name in of_snapshot}
                values = feed_fakes(wanted, Gs, dataset, minibatch_size, random_seed, entry.snapshot)
                for name in of_snapshot:
                    results.append({
                        'metric': name, 'snapshot': entry.snapshot, 'kimg': entry.kimg, 'seconds': entry.seconds,
                        'num_images': counts[name], 'random_seed': random_seed, 'values': values[name],
                        'evaluated': time.strftime('%Y-%m-%d %H:%M:%S')})
                    tqdm.write(f'{name:<16} {entry.snapshot}  {_format_values(values[name])}')
                write_results(run_dir, results)
    return results


def make_metrics(names: list[str], counts: dict[str, int], random_seed: int, inception_weights: AnyPath | None,
                 classifier: AnyPath | None, spill_dir: AnyPath | None, dataset: Dataset) -> dict[str, Any]:
    """{name: metric} with what they need."""
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
                raise UserError(f'mnist_modes: {dataset.h5_path} has {dataset.shape[0]} colour channels; needs 3 '
                                'with a digit each')
            options['classify'] = load_classifier(classifier, dataset.resolution)
            options['images_per_draw'] = min(counts[name], 25600)
        if name == 'inception_score':
            options['num_images'] = counts[name]
        if name == 'swd':
            options.update(random_seed=random_seed, spill_dir=spill_dir)
        made[name] = metrics.make_metric(name, **options)
    return made


def prepare_reals(name: str, metric: metrics.ComparingMeter, dataset: Dataset, num_images: int, random_seed: int,
                  cache_dir: AnyPath) -> None:
    """Feed the reals to `metric`, or take their statistics from an earlier evaluation."""
    if name == 'fid':           # The distance does not need equal numbers.
        num_images = min(num_images, dataset.num_images)
    file_state = os.stat(dataset.h5_path)
    identity = [os.path.abspath(dataset.h5_path), file_state.st_size, file_state.st_mtime_ns, dataset.resolution,
                dataset.num_images, dataset.mirror_augment, name, num_images, random_seed]
    stem = os.path.splitext(os.path.basename(dataset.h5_path))[0]
    path = os.path.join(cache_dir, '%s-%s-%d-%s.npz' % (
        stem, name, num_images, hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]))
    if os.path.exists(path):
        with np.load(path, allow_pickle=False) as arrays:
            metric.set_reals(dict(arrays))
        return
    feed_reals(metric, dataset, num_images, random_seed)
    arrays = metric.get_reals()
    if arrays is not None:
        try:
            os.makedirs(cache_dir, exist_ok=True)
        except OSError as error:
            raise UserError(f'cache_dir={cache_dir!r}: cannot be made ({error.strerror}); choose another folder '
                            'with --cache-dir') from error
        with atomic_write(path) as cache_file:
            np.savez(cache_file, **arrays)


def _key(entry):
    return entry['metric'], entry['snapshot'], entry['num_images'], entry['random_seed']


def write_results(run_dir: AnyPath, results: list[dict[str, Any]]) -> None:
    """Write ``metrics.jsonl`` and one ``metric-NAME.txt`` per metric."""
    with atomic_write(os.path.join(run_dir, RESULTS_NAME), 'w', encoding='utf-8') as results_file:
        results_file.writelines(json.dumps(entry) + '\n' for entry in results)
    for name in sorted({entry['metric'] for entry in results}):
        of_metric = sorted((entry for entry in results if entry['metric'] == name), key=lambda entry: (
            entry['num_images'], entry['snapshot'] == 'network-final', entry['snapshot']))
        with atomic_write(os.path.join(run_dir, f'metric-{name}.txt'), 'w', encoding='utf-8') as text_file:
            for entry in of_metric:
                text_file.write('%-24s kimg %-9s time %-12s images %-7d %s\n' % (
                    entry['snapshot'], '-' if entry['kimg'] is None else '%.1f' % entry['kimg'],
                    '-' if entry['seconds'] is None else format_time(entry['seconds']), entry['num_images'],
                    _format_values(entry['values'])))


def _format_values(values):
    return '  '.join('%s %-9.4f' % item for item in values.items()).rstrip()
