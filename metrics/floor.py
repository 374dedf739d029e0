"""Metrics of the reals themselves, the values of a generator that makes nothing but other reals; and of noise.

A distance is measured between two samples without a common image, as large as the paper's, or both half of the data
set where it is smaller. The other metrics take one sample, or the whole data set.
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

REALS, NOISE = 'reals', 'noise'     # They stand in for the names of snapshot and network in the entries.


def sample_size(name: str, wanted: int, num_reals: int) -> int:
    """How many reals a metric takes in each sample.

    Parameters
    ----------
    name : str
        Of `metrics.METRICS`.
    wanted : int
        How many of a generator it would take.
    num_reals : int
        Size of the data set.

    Raises
    ------
    UserError
        The data set is too small.
    """
    is_distance = 'reals' in metrics.METRICS[name].needs
    size = min(wanted, num_reals // 2 if is_distance else num_reals)
    size -= size % 2 if name == 'ms_ssim' else 0
    if size < 2:
        raise UserError(f'{name}: {num_reals} reals are too few to compare with each other; needs '
                        f'{4 if is_distance else 2}')
    return size


def feed_noise(metric: metrics.Meter, shape: tuple[int, ...], num_images: int, random_seed: int) -> list[float]:
    """Give a metric images (C, H, W) of independent pixels in the place of generated ones; return its values."""
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
        The results are kept in its ``metrics-reals.jsonl``; what is in there already is not evaluated again, as far as
        reals, weights and settings are the same by content.
    names : list of str
        Of `metrics.METRICS`.
    open_dataset : callable
        Returns the data set of the run as a context manager.
    cache_dir : str
        Where statistics of the reals are kept.
    num_images : int, optional
        In each sample. Default: as many as of a generator in the paper.
    random_seed : int
        Of the choice of reals.
    images : {'reals', 'noise'}
        Noise: independent pixels, all values equally frequent.
    **needs
        inception_weights, classifier, spill_dir: see :func:`metrics.evaluation.evaluate_run`.

    Returns
    -------
    list of dict
        As of :func:`metrics.evaluation.evaluate_run`, with `images` as the snapshot; those that were asked for come
        last.

    Raises
    ------
    UserError
        Something is missing, or the data set is too small.
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
                print(f'{name} of the {images} is not finite and not kept: '
                           f'{results.format_values(entry["values"])}', file=sys.stderr)
                continue
            print(f'{name:<16} {images}  {results.format_values(entry["values"])}')
            done.append(entry)
            results.update(run_dir, functools.partial(results.merged, new=[entry]), REALS_NAME)
        return results.update(run_dir, lambda before: [
            *(entry for entry in before if not evaluator.is_done(entry)), *filter(evaluator.is_done, before)],
            REALS_NAME)
