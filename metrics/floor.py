"""Metrics of the reals, which a perfect generator would reach, and metrics of noise.

Distances compare two disjoint samples of reals, each as large as in the paper, or half of a smaller dataset. The other
metrics use one sample, or the whole dataset.
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

import metrics
from common.errors import UserError
from common.files import AnyPath
from data.dataset import Dataset
from metrics import results
from metrics.evaluation import FEED_IMAGES, Evaluator, check_settings, feed_reals
from metrics.results import Entry
from runs.records import REALS_NAME, read_entries

REALS, NOISE = 'reals', 'noise'     # Used as names of snapshot and network in the entries.


def sample_size(name: str, wanted: int, num_reals: int) -> int:
    """Number of reals in each sample for a metric.

    Parameters
    ----------
    name : str
        Key of `metrics.METRICS`.
    wanted : int
        Number of generated images that the metric would use.
    num_reals : int
        Size of the dataset.

    Raises
    ------
    UserError
        The dataset is too small.
    """
    is_distance = 'reals' in metrics.METRICS[name].needs
    size = min(wanted, num_reals // 2 if is_distance else num_reals)
    size -= size % 2 if name == 'ms_ssim' else 0
    if size < 2:
        raise UserError(f'{name}: {num_reals} reals are too few to compare with each other; need at least '
                        f'{4 if is_distance else 2}')
    return size


def feed_noise(metric: metrics.Meter, shape: tuple[int, ...], num_images: int, random_seed: int) -> list[float]:
    """Feed a metric images (C, H, W) of independent random pixels, and return its values."""
    random = np.random.RandomState(random_seed)
    metric.begin('fakes')
    for begin in range(0, num_images, FEED_IMAGES):
        metric.feed('fakes', random.randint(256, size=(min(FEED_IMAGES, num_images - begin), *shape), dtype=np.uint8))
    return metric.end('fakes')


def evaluate_reals(run_dir: AnyPath, names: Sequence[str], open_dataset: Callable[[], AbstractContextManager[Dataset]],
                   cache_dir: AnyPath, num_images: int | None = None, random_seed: int = 1000,
                   images: str = REALS, **needs: Any) -> list[Entry]:
    """Evaluate metrics on the reals of a run, or on noise of their size.

    Parameters
    ----------
    run_dir : str
        Its ``metrics-reals.jsonl`` stores the results. Those that it already has are not computed again if the contents
        of reals and weights and the settings are the same.
    names : list of str
        Keys of `metrics.METRICS`.
    open_dataset : callable
        Returns the run's dataset as a context manager.
    cache_dir : str
        Folder for statistics of the reals.
    num_images : int, optional
        Size of each sample. Default: the number of generated images in the paper.
    random_seed : int
        Seed for the choice of reals.
    images : {'reals', 'noise'}
        Noise: independent pixels, uniform over all values.
    **needs
        inception_weights, classifier, spill_dir: see :func:`metrics.evaluation.evaluate_run`.

    Returns
    -------
    list of dict
        As in :func:`metrics.evaluation.evaluate_run`, with `images` as the snapshot; the requested ones come last.

    Raises
    ------
    UserError
        Something that a metric needs is missing, or the dataset is too small.
    """
    check_settings(names, num_images)
    with open_dataset() as dataset:
        evaluator = Evaluator(names, dataset, cache_dir, num_images, random_seed, **needs)
        evaluator.counts = {name: sample_size(name, evaluator.counts[name], dataset.num_images) for name in names}
        done = [entry for entry in read_entries(run_dir, REALS_NAME)
                if entry.get('snapshot') == images and evaluator.is_done(entry)]
        for name in names:
            if name in {entry['metric'] for entry in done}:
                continue
            evaluator.prepare([name])
            metric, count = evaluator.made[name], evaluator.counts[name]
            skipped = count if 'reals' in metrics.METRICS[name].needs else 0
            values = feed_noise(metric, dataset.shape, count, random_seed) if images == NOISE else feed_reals(
                metric, dataset, count, random_seed, 'fakes', skipped)
            entry = {**evaluator.key(name, images, images), 'kimg': None, 'seconds': None,
                     'values': dict(zip(metric.names(), values, strict=True)), 'better': metric.better,
                     'evaluated': time.strftime('%Y-%m-%d %H:%M:%S')}
            if not results.is_finite_result(entry['values']):
                print(f'{name} of the {images} is not finite and not stored: '
                      f'{results.format_values(entry["values"])}', file=sys.stderr)
                continue
            print(f'{name:<16} {images}  {results.format_values(entry["values"])}')
            done.append(entry)
            results.update(run_dir, functools.partial(results.merged, new=[entry]), REALS_NAME)
        return results.update(run_dir, lambda before: [
            *(entry for entry in before if not evaluator.is_done(entry)), *filter(evaluator.is_done, before)],
            REALS_NAME)
