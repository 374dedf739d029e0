"""Trains and evaluates the runs behind a figure, table or study, and reports their progress.

A part is one run with its metrics. Parts share only datasets, so several processes or machines can make different
parts in one folder at the same time. This module does not choose the parts; `reproduce.py` does.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import filelock

import theano_env
from common.errors import UserError
from common.files import locked
from metrics import evaluation
from metrics.floor import REALS, evaluate_reals
from runs.folder import DONE_FILE, can_go_on, has_begun, is_trained, locate_run_dir
from runs.records import config_or_none, read_results, read_stats
from training import experiment
from training.data_sets import create_command, data_path

LOCK_NAME = 'part.lock'


class Part(NamedTuple):
    """One training run of a figure, table or study.

    Attributes
    ----------
    name : str
        Experiment of `config.py`, or row of a study at small scale.
    seed : int
    experiment : dict
        The resolved experiment, with ``desc`` and ``random_seed``.
    folder : str
        Folder that contains its run folders, relative to ``Place.out_dir``.
    metrics : tuple of str
        Keys of `metrics.METRICS`.
    all_snapshots : bool
        Evaluate all network snapshots, not only the last one.
    num_images : int or None
        Images to generate for each metric. None: as many as in the paper.
    precision : str or None
        Precision of the training, see `theano_env.configure`. None: ``Place.precision``.
    """

    name: str
    seed: int
    experiment: dict[str, Any]
    folder: str
    metrics: tuple[str, ...] = ()
    all_snapshots: bool = False
    num_images: int | None = None
    precision: str | None = None

    @property
    def total_kimg(self) -> float:
        return self.experiment['train']['total_kimg']


class Place(NamedTuple):
    """Folders, engine and files that all parts use."""

    data_dir: str
    out_dir: str
    engine: str = 'auto'
    theano_flags: dict[str, Any] | None = None
    precision: str = 'auto'
    classifier: str | None = None           # Weights of the digit classifier for the metric mnist_modes.
    inception_weights: str | None = None


class Busy(UserError):
    """Another process is making this part."""


# ----------------------------------------------------------------------------------------------------------------------
# Progress of a part.


def find_run(part: Part, out_dir: str, kind: Callable[[str], bool] = has_begun) -> str | None:
    """The newest run folder of a part for which `kind` is true, or None; see `runs.folder.locate_run_dir`.

    Runs with other networks are ignored; they belong to an earlier version of the experiment.
    """
    def is_of_part(run_dir: str) -> bool:
        recorded = config_or_none(run_dir)
        return kind(run_dir) and (recorded is None or all(recorded.get(net) == part.experiment[net] for net in 'GD'))

    try:
        return locate_run_dir('latest', os.path.join(out_dir, part.folder), is_of_part)
    except UserError:
        return None


def finished_run(part: Part, out_dir: str) -> str | None:
    """The run folder of a part whose training is complete, or None."""
    run_dir = find_run(part, out_dir, is_trained)
    return run_dir if run_dir and os.path.exists(os.path.join(run_dir, DONE_FILE)) else None


def missing_metrics(part: Part, run_dir: str) -> list[str]:
    """The metrics of a part that have no result in `run_dir` yet."""
    found = {entry['metric'] for entry in read_results(run_dir)}
    return [name for name in part.metrics if name not in found]


def progress_of(part: Part, out_dir: str) -> tuple[str, float]:
    """How far a part is: in words, and the share of its images that its training has still to show, from 0 to 1.

    The words are 'done', 'trained', 'at 120 of 400 kimg' or 'missing'.
    """
    run_dir = finished_run(part, out_dir)
    if run_dir:
        return 'trained' if missing_metrics(part, run_dir) else 'done', 0.0
    run_dir = find_run(part, out_dir)
    stats = read_stats(run_dir) if run_dir else []
    if not stats:
        return 'missing', 1.0
    kimg = stats[-1]['kimg']
    return f'at {kimg:.4g} of {part.total_kimg:g} kimg', 1 - min(kimg / part.total_kimg, 1)


def missing_data(parts: Iterable[Part], data_dir: str) -> dict[str, str]:
    """{file: command that makes it} of the missing datasets that parts need."""
    commands = {}
    for part in parts:
        path = data_path(part.experiment['dataset']['h5_path'], data_dir)
        if not os.path.exists(path) and 'create_dataset' not in part.experiment:
            commands[path] = create_command(path, part.experiment['desc'])
    return commands


# ----------------------------------------------------------------------------------------------------------------------
# Making a part.


def make_floor(part: Part, place: Place, images: str = REALS) -> None:
    """Evaluate the metrics of a finished part on its reals, or on noise, see :mod:`metrics.floor`."""
    _evaluate(evaluate_reals, part, place, images=images)


def _evaluate(evaluate: Callable[..., object], part: Part, place: Place, **options: Any) -> None:
    """Evaluate the metrics of a part with `evaluate_run` or `evaluate_reals`, if it is finished and has any."""
    run_dir = finished_run(part, place.out_dir)
    if run_dir and part.metrics:
        theano_env.configure(place.engine, place.theano_flags, precision=place.precision)
        evaluate(run_dir, list(part.metrics), lambda: experiment.open_dataset(part.experiment, place.data_dir),
                 os.path.join(place.data_dir, 'metric-cache'), part.num_images, classifier=place.classifier,
                 inception_weights=place.inception_weights, **options)


def make_part(part: Part, place: Place, train_gan: Callable) -> None:
    """Train a part or resume its training, then evaluate its metrics. Finished work is not repeated.

    Raises
    ------
    Busy
        Another process is making this part.
    UserError
        For example, the training diverged or the dataset is missing.
    """
    result_dir = os.path.join(place.out_dir, part.folder)
    os.makedirs(result_dir, exist_ok=True)

    def busy(_lock: filelock.BaseFileLock) -> None:
        raise Busy(f'{result_dir}: another process is making this part')

    with locked(os.path.join(result_dir, LOCK_NAME), busy):
        if finished_run(part, place.out_dir) is None:
            chosen = part.experiment
            unfinished = find_run(part, place.out_dir, can_go_on)
            if unfinished:
                chosen = {**chosen, 'train': {**chosen['train'], 'resume_run_id': unfinished}}
            experiment.run_experiment(chosen, place.data_dir, result_dir, place.engine, place.theano_flags,
                                      precision=part.precision or place.precision, train_gan=train_gan)
        _evaluate(evaluation.evaluate_run, part, place, only_final=not part.all_snapshots)
