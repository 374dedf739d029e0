"""Material of the figures: runs that stand for experiments of `config.py`, their images, metrics and times."""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.options import BatchNorm
from data import chunk_reader, hdf5_format
from nets.network import random_latents
from runs.folder import is_trained, locate_network_pkl, locate_run_dir
from runs.images import generate, load_generator, num_classes, one_hot
from runs.records import are_finite, read_config, read_results, read_stats
from training.options import with_variants

PIXELS = 32             # Images are compared at so many pixels a side where there are no features...
CHANNELS = {'digits': 1}    # Of the experiments whose images are not in colour.
CENTRE = 0.75           # ...and so much of their width and height, as in the paper, whose crop shows the face only.
NUMBERS = {             # Of a metric, without which a result is not shown.
    'ms_ssim': ['MS-SSIM'], 'fid': ['FID'], 'inception_score': ['IS_mean', 'IS_std'],
    'mnist_modes': ['modes_mean', 'modes_std', 'KL_mean', 'KL_std']}


class Need(NamedTuple):
    """Something that a figure lacks."""

    what: str
    command: str


class Run:
    """A run folder or a network pickle.

    Parameters
    ----------
    path : str
    name : str or None
        The experiment of `config.py` that it stands for.
    snapshot : str or None
        Of a folder: whose images it shows, see `runs.folder.locate_network_pkl`.
    batchnorm : str
        Of its images, see `runs.images.finite_images`.

    Attributes
    ----------
    remark : str
        What it was trained on, where that is something else than the experiment's data; see :meth:`compare`.
    """

    def __init__(self, path: str, name: str | None, snapshot: str | None = None,
                 batchnorm: BatchNorm = 'minibatch') -> None:
        self.path, self.name, self.snapshot, self.batchnorm = path, name, snapshot, batchnorm
        self.folder = path if os.path.isdir(path) else None
        self._images: dict[int, np.ndarray] = {}
        self._image_shape: list[int] | None = None      # Of the network, once it was read.
        self.remark = ''

    def images(self, seeds: Iterable[int]) -> list[np.ndarray]:
        """Generated images, list of uint8 (C, H, W).

        As of ``util_scripts.py generate_fake_images``, seed by seed; networks with the same latent size get the same
        latents, one with a smaller size their beginning. A conditional network makes class ``seed % classes``.
        """
        new = sorted(set(seeds) - set(self._images))
        if new:
            G = load_generator(self.path, self.snapshot)
            self._image_shape = list(G.output_shape[1:])
            latents = np.concatenate([random_latents(1, G, np.random.RandomState(seed)) for seed in new])
            classes = num_classes(G)
            labels = one_hot(G, [seed % classes for seed in new] if classes else [])
            desc = self.name or os.path.basename(self.path)
            self._images.update(zip(new, generate(G, latents, labels, desc, batchnorm=self.batchnorm),
                                    strict=True))
        return [self._images[seed] for seed in seeds]

    def stats(self) -> list[dict]:
        """The status lines that have a time and a resolution, list of dict; [] of a pickle."""
        stats = read_stats(self.folder) if self.folder else []
        return [line for line in stats if {'seconds', 'resolution'} <= line.keys()]

    def metric(self, name: str) -> list[dict]:
        """Results of a metric of `metrics.METRICS` in the order of training, list of dict as in ``metrics.jsonl``.

        Where a snapshot was evaluated with several numbers of images or seeds: those of the most images, the last.
        """
        entries = [entry for entry in (read_results(self.folder) if self.folder else [])
                   if entry['metric'] == name and entry['num_images'] and 'snapshot' in entry
                   and are_finite(entry['values'], NUMBERS.get(name, ()))]
        most = max((entry['num_images'] for entry in entries), default=0)
        of_snapshot = {entry['snapshot']: entry for entry in entries if entry['num_images'] == most}
        return sorted(of_snapshot.values(), key=lambda entry: (
            entry['snapshot'] == 'network-final', entry['kimg'] or 0, entry['snapshot']))

    def last(self, name: str) -> dict[str, float]:
        """{name of the number: value} of a metric after the training; {} if it was not evaluated."""
        entries = self.metric(name)
        return entries[-1]['values'] if entries else {}

    def swd(self) -> dict[str, float]:
        """:meth:`last` of the sliced Wasserstein distance, by level: '128', ..., 'avg'."""
        return swd_by_level(self.last('swd'))

    def compare(self, config: ModuleType, data_dir: str) -> None:
        """Set `remark`: compare data set, resolution and colours with those of the experiment that it stands for.

        Those of a run are in its ``config.txt`` and the file named there; those of a network are known once it has made
        images.
        """
        if self.name is None:
            return
        dataset = with_variants(config, self.name)['dataset']
        expected = os.path.basename(dataset['h5_path']), dataset['resolution'], CHANNELS.get(self.name, 3)
        h5_name, resolution, channels = expected
        if self.folder:
            own = read_config(self.folder)['dataset']
            h5_name, shape = os.path.basename(str(own.get('h5_path'))), _shape_in_file(self.h5_path(config, data_dir))
            resolution, channels = own.get('resolution') or shape[0] or resolution, shape[1] or channels
        if self._image_shape:
            channels, resolution = self._image_shape[:2]
        if (h5_name, resolution, channels) != expected:
            remark = f'trained on {_described(h5_name, resolution, channels)}, not on {_described(*expected)}'
            if remark != self.remark:
                print(f'{self.path}: shown as {self.name}, but {remark}', file=sys.stderr)
            self.remark = remark

    def h5_path(self, config: ModuleType, data_dir: str) -> str:
        """The data set that it was trained on."""
        chosen = read_config(self.folder) if self.folder else config.experiments[self.name]
        return os.path.join(data_dir, chosen['dataset']['h5_path'])


def _shape_in_file(h5_path):
    """(resolution, channels) of a data set, (None, None) where it cannot be read."""
    try:
        h5, levels = hdf5_format.open_levels(h5_path)
    except UserError:
        return None, None
    with h5:
        return max(levels), next(iter(levels.values())).shape[1]


def _described(h5_name, resolution, channels):
    return f'{h5_name or "images"} at {resolution}x{resolution}, {"grey" if channels == 1 else "colour"}'


def swd_by_level(values: dict[str, float]) -> dict[str, float]:
    """{'128': ..., 'avg': ...} of the numbers of metric swd."""
    return {name.rpartition('_')[2]: value for name, value in values.items()}


def recognise(config: ModuleType, argument: str, result_dir: str = 'results', snapshot: str | None = None,
              batchnorm: BatchNorm = 'minibatch') -> Run:
    """The :class:`Run` that an argument ``RUN`` or ``EXPERIMENT=RUN`` means.

    Parameters
    ----------
    config : module
        `config.py`.
    argument : str
        RUN is a run's number, its folder, or a network pickle. Without a name, the ``desc`` in the ``config.txt`` of
        the folder tells what it stands for.
    result_dir : str
        Where run folders are.
    snapshot, batchnorm : str
        See :class:`Run`.

    Raises
    ------
    UserError
        There is no such run or no such experiment.
    """
    name: str | None
    name, equals, run = argument.partition('=')
    if os.path.exists(argument) or not equals:
        name, run = None, argument
    if name is not None:
        with_variants(config, name)
    if os.path.isfile(run) or run.endswith('.pkl'):
        return Run(locate_network_pkl(run), name, batchnorm=batchnorm)
    folder = locate_run_dir(run, result_dir, is_trained)
    if name is None:
        name = experiment_called(config, read_config(folder).get('desc', ''))
    if snapshot is not None:
        locate_network_pkl(folder, snapshot)        # It is there.
    return Run(folder, name, snapshot, batchnorm)


def experiment_called(config: ModuleType, desc: str) -> str | None:
    """The experiment, with variants or not, whose runs are called `desc`; None if there is none."""
    for name, entry in config.experiments.items():
        if desc == entry.get('desc', name):
            return name
    try:
        with_variants(config, desc)
    except UserError:
        return None
    return desc


class Material:
    """The runs and files at hand, the files written, and what was found missing.

    Parameters
    ----------
    config : module
        `config.py`.
    runs : list of Run
    out_dir : str
        Folder of the figures.
    seeds : list of int, optional
        Of the images to show, instead of each figure's own.
    stages_dir : str, optional
        What ``create_celebahq --save_stages`` has written.
    data_dir : str
        Folder of the HDF5 files.
    features : callable, optional
        uint8 images (N, C, H, W) -> features (N, F), for nearest neighbours. None: pixels.
    """

    def __init__(self, config: ModuleType, runs: list[Run], out_dir: str, seeds: list[int] | None = None,
                 stages_dir: str | None = None, data_dir: str = 'datasets', features: Callable | None = None) -> None:
        self.config, self.runs, self.out_dir = config, runs, out_dir
        self.seeds, self.stages_dir, self.data_dir, self.features = seeds, stages_dir, data_dir, features
        self.files: list[str] = []
        self.needs: list[Need] = []

    def path(self, name: str) -> str:
        """The path of the file `name`, which is noted as written."""
        path = os.path.join(self.out_dir, name)
        self.files.append(path)
        return path

    def need(self, what: str, command: str) -> None:
        """Note what is missing."""
        self.needs.append(Need(what, command))

    def all_runs(self, *names: str, folder: bool = False) -> list[Run]:
        """The runs of the first of the experiments `names` that has any; [] and a note if none has.

        With `folder`, pickles do not count.
        """
        for name in names:
            runs = [run for run in self.runs if run.name == name and (run.folder or not folder)]
            if runs:
                for run in runs:
                    run.compare(self.config, self.data_dir)
                return runs
        self.need(f'a run of {names[0]}', f'python train.py --experiment {names[0]}')
        return []

    def run(self, *names: str, folder: bool = False) -> Run | None:
        """The first of :meth:`all_runs`, or None."""
        return next(iter(self.all_runs(*names, folder=folder)), None)

    def check_metrics(self, run: Run, *names: str, all_snapshots: bool = False) -> bool:
        """Whether a run has metrics; a note with the command if it has not.

        With `all_snapshots`, there must be results of two or more whose time is known.
        """
        missing = []
        for name in names:
            entries = run.metric(name)
            if all_snapshots:
                entries = [entry for entry in entries if entry['seconds'] is not None][1:]
            if not entries:
                missing.append(name)
        if missing:
            options = '' if all_snapshots else ' --only-final'
            if 'mnist_modes' in missing:
                options += ' --classifier classifier.npz'       # Which train_classifier.py makes.
            if self.data_dir != self.config.data_dir:
                options += ' --data-dir ' + shlex.quote(self.data_dir)
            self.need(f'{" and ".join(missing)} of {run.path}', 'python evaluate_metrics.py '
                                                                      f'{shlex.quote(run.path)} --metrics '
                                                                      f'{" ".join(missing)}{options}')
        return not missing

    def seeds_or(self, count: int) -> list[int]:
        """The seeds asked for, or the first `count`."""
        return self.seeds or list(range(count))


# ----------------------------------------------------------------------------------------------------------------------
# Nearest neighbours.


def centre(images: np.ndarray) -> np.ndarray:
    """The middle part of images (..., H, W)."""
    height, width = (max(round(length * CENTRE), 1) for length in images.shape[-2:])
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top:top + height, left:left + width]


def shrunk(images: np.ndarray, resolution: int) -> np.ndarray:
    """Images (N, C, H, H) averaged down to `resolution`, float32."""
    factor = images.shape[-1] // resolution
    shape = (*images.shape[:2], resolution, factor, resolution, factor)
    return images.reshape(shape).mean(axis=(3, 5), dtype=np.float32)


def nearest_neighbours(images: np.ndarray, h5_path: str, count: int,
                       features: Callable | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The images of a data set that are nearest to some given ones.

    Parameters
    ----------
    images : ndarray, shape (N, C, H, H), uint8
    h5_path : str
        Multi-resolution HDF5 file.
    count : int
        Neighbours of each image.
    features : callable, optional
        uint8 images (N, C, H, W) -> features (N, F). None: pixels of small copies.

    Returns
    -------
    (ndarray, ndarray)
        Indices (N, count), the nearest first, and those images (N, count, C, H', H'), uint8, at full resolution. The
        distance is the Euclidean one between the middle parts of the images.
    """
    h5, levels = hdf5_format.open_levels(h5_path)
    with h5, contextlib.ExitStack() as stack:
        full = max(levels)
        compared = full if features else min(PIXELS, full, images.shape[-1])
        step = 64 if features else 1024

        def describe(batch):
            batch = centre(batch)
            return (features(np.ascontiguousarray(batch)) if features else batch).reshape(len(batch), -1).astype(
                np.float64)

        queries = describe(images if features else shrunk(images, compared))
        best = np.full((len(images), count), np.inf)
        indices = np.full((len(images), count), -1)
        num = levels[full].shape[0]
        small, large = stack.enter_context(chunk_reader.open_readers(h5, [levels[compared], levels[full]]))
        with tqdm(total=num, desc='Comparing', unit='image') as progress:
            for begin in range(0, num, step):
                rows = describe(np.stack([small.read(index) for index in range(begin, min(begin + step, num))]))
                distances = np.square(queries).sum(1)[:, None] + np.square(rows).sum(1) - 2 * queries @ rows.T
                candidates = np.concatenate([best, distances], axis=1)
                numbers = np.concatenate([indices, np.tile(begin + np.arange(len(rows)), (len(images), 1))], axis=1)
                order = np.argsort(candidates, axis=1, kind='stable')[:, :count]
                best, indices = (np.take_along_axis(x, order, axis=1) for x in (candidates, numbers))
                progress.update(len(rows))
        return indices, np.stack([[large.read(index) for index in row] for row in indices.tolist()])
