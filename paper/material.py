"""The runs that figures show: their experiments in `config.py`, images, metrics and times, and what is missing."""

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.options import BatchNorm
from metrics import identity
from metrics.identity import OF_VALUES
from nets.network import random_latents
from paper import numbers
from paper.entries import Comparison, Entry, compare, path_of_data, same_task, some
from paper.neighbours import PIXELS, Description
from runs.folder import is_trained, kimg_of_networks, locate_network_pkl, locate_run_dir
from runs.images import generate, load_generator, num_classes, one_hot
from runs.records import (
    REALS_NAME,
    SNAPSHOT_PATTERN,
    config_or_none,
    is_finite,
    read_config,
    read_entries,
    read_results,
    read_stats,
)
from training.data_sets import create_command, data_path
from training.options import with_variants
from training.recorded import RECORD

FINAL = 'final'
NUMBERS = {     # {metric: values that the figures use}; the values of swd depend on the resolution.
    'ms_ssim': ('MS-SSIM',), 'inception_score': ('IS_mean', 'IS_std'), 'fid': ('FID',),
    'mnist_modes': ('modes_mean', 'KL_mean')}


class Need(NamedTuple):
    """Something that a figure lacks, with the command that makes it."""

    what: str
    command: str
    data: str = ''          # Dataset that the command needs.


class Run:
    """A run folder or a network pickle.

    Parameters
    ----------
    path : str
    name : str or None
        The experiment of `config.py` that the run stands for.
    snapshot : str or None
        The networks to show of a run folder, see `runs.folder.locate_network_pkl`. None: the final ones.
    batchnorm : str
        Statistics for generating images, see `runs.images.finite_images`.
    """

    def __init__(self, path: str, name: str | None, snapshot: str | None = None,
                 batchnorm: BatchNorm = 'minibatch') -> None:
        self.path, self.name, self.snapshot, self.batchnorm = path, name, snapshot or FINAL, batchnorm
        self.folder = path if os.path.isdir(path) else None
        self._images: dict[int, np.ndarray] = {}
        self._digests: dict[str, str] = {}
        self.network: tuple[list[int], dict] | None = None      # (image shape, options) of G, once it is loaded.

    def own_config(self) -> dict | None:
        """The parsed ``config.txt`` in the folder or beside the pickle; None without one."""
        if self.folder:
            return config_of(self.folder)
        folder, name = os.path.split(self.path)
        own = config_or_none(folder or '.') if SNAPSHOT_PATTERN.fullmatch(name) else None
        return own if own and 'dataset' in own else None

    def pickle(self) -> str | None:
        """The path of the networks to show, None if they are missing."""
        if not self.folder:
            return self.path
        try:
            return locate_network_pkl(self.folder, self.snapshot)
        except UserError:
            return None

    def snapshot_name(self) -> str:
        """File name, without suffix, of the networks to show."""
        return os.path.splitext(os.path.basename(self.pickle() or 'network-final.pkl'))[0]

    def kimg(self) -> float | None:
        """Thousands of images that the networks to show were trained on, None if unknown."""
        path = self.pickle()
        return kimg_of_networks(path) if path else None

    def load_generator(self):
        """The averaged generator of the networks to show."""
        G = load_generator(self.pickle() or self.path)
        self.network = list(G.output_shape[1:]), dict(G.static_kwargs)
        return G

    def images(self, seeds: Iterable[int]) -> list[np.ndarray]:
        """Generated images, list of uint8 (C, H, W).

        Each seed gives the same image as in ``util_scripts.py generate_fake_images``. Networks with equal latent size
        share latents; smaller ones use a prefix. A conditional network generates class ``seed % classes``.
        """
        new = sorted(set(seeds) - set(self._images))
        if new:
            G = self.load_generator()
            latents = np.concatenate([random_latents(1, G, np.random.RandomState(seed)) for seed in new])
            classes = num_classes(G)
            labels = one_hot(G, [seed % classes for seed in new] if classes else [])
            desc = self.name or os.path.basename(self.path)
            self._images.update(zip(new, generate(G, latents, labels, desc, batchnorm=self.batchnorm),
                                    strict=True))
        return [self._images[seed] for seed in seeds]

    def stats(self) -> list[dict]:
        """The status lines that have a time and a resolution; [] for a pickle."""
        stats = read_stats(self.folder) if self.folder else []
        return [line for line in stats if {'seconds', 'resolution'} <= line.keys()]

    def result(self, name: str) -> dict | None:
        """The result of a metric for the networks to show, an entry of ``metrics.jsonl``; None without one.

        If there are several, the one with the most images; of these, the last.
        """
        entries = [entry for entry in self._results(name) if entry['snapshot'] == self.snapshot_name()]
        most = max((entry['num_images'] for entry in entries), default=0)
        return next((entry for entry in reversed(entries) if entry['num_images'] == most), None)

    def series(self, name: str) -> list[dict]:
        """Results of a metric, one per snapshot in the order of training, all with the same number of images.

        This number of images is the one that covers the most snapshots; in a tie, the largest.
        """
        series: dict[int, dict] = {}
        for entry in self._results(name):
            series.setdefault(entry['num_images'], {})[entry['snapshot']] = entry
        best = max(series, key=lambda num: (len(series[num]), num), default=0)
        return sorted(series.get(best, {}).values(), key=lambda entry: (
            entry['snapshot'] == 'network-final', entry['kimg'] or 0, entry['snapshot']))

    def values(self, name: str) -> dict[str, float]:
        """The values in :meth:`result`, {name: value}; {} without a result."""
        result = self.result(name)
        return result['values'] if result else {}

    def swd(self) -> dict[str, float]:
        """Sliced Wasserstein distances {level: value} from :meth:`result`; the levels are '128', ..., 'avg'."""
        return swd_by_level(self.values('swd'))

    def _results(self, name):
        """Complete results of a metric, without those of networks that were replaced since."""
        entries = read_results(self.folder) if self.folder else []
        return [{'kimg': None, 'seconds': None, **entry} for entry in entries
                if entry['metric'] == name and _is_complete(entry)
                and not self._is_of_other_networks(entry)]

    def _is_of_other_networks(self, entry):
        digest = entry.get('network')
        path = os.path.join(self.folder, f'{entry["snapshot"]}.pkl')
        if not isinstance(digest, str) or digest.startswith(OF_VALUES) or not os.path.isfile(path):
            return False
        if path not in self._digests:
            self._digests[path] = identity.of_file(path)
        return self._digests[path] != digest

    def h5_path(self, config: ModuleType, data_dir: str) -> str:
        """Path of the dataset that the networks were trained on."""
        own = self.own_config()
        if own is None:
            return data_path(with_variants(config, self.name or '')['dataset']['h5_path'], data_dir)
        return path_of_data(config, own, data_dir)


def config_of(folder: str) -> dict:
    """The parsed ``config.txt`` of a run. Damaged sections are no error; they make it a run of another experiment."""
    own = config_or_none(folder)
    return own if own and 'dataset' in own else read_config(folder)


def _is_complete(entry):
    """Whether an entry of ``metrics.jsonl`` has all values that figures use."""
    values = entry['values']
    return (isinstance(entry.get('num_images'), int) and isinstance(entry.get('snapshot'), str)
            and all(entry.get(key) is None or is_finite(entry[key]) for key in ('kimg', 'seconds'))
            and bool(values) and all(map(is_finite, values.values()))
            and set(NUMBERS.get(entry['metric'], ())) <= values.keys())


def swd_by_level(values: dict[str, float]) -> dict[str, float]:
    """{'128': ..., 'avg': ...} from the values of the metric swd."""
    return {name.rpartition('_')[2]: value for name, value in values.items()}


def recognise(config: ModuleType, argument: str, result_dir: str = 'results', snapshot: str | None = None,
              batchnorm: BatchNorm = 'minibatch') -> Run:
    """Parse an argument ``RUN`` or ``EXPERIMENT=RUN``.

    Parameters
    ----------
    config : module
        `config.py`.
    argument : str
        RUN is a run's number, its folder, or a network pickle. Without EXPERIMENT, the experiment is read from the
        ``config.txt`` of the folder.
    result_dir : str
        Folder of the runs.
    snapshot, batchnorm : str
        See :class:`Run`.

    Raises
    ------
    UserError
        The run or the experiment does not exist.
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
        own = config_of(folder)
        record = own.get(RECORD)
        name = experiment_called(config, own.get('desc', '')) or experiment_called(
            config, str(record.get('experiment')) if isinstance(record, dict) else '')
    if snapshot not in (None, FINAL):
        locate_network_pkl(folder, snapshot)        # Raises an error if the snapshot is missing.
    return Run(folder, name, snapshot, batchnorm)


def experiment_called(config: ModuleType, desc: str) -> str | None:
    """The experiment, with or without variants, whose runs have the description `desc`; None if there is none."""
    for name, entry in config.experiments.items():
        if desc == entry.get('desc', name):
            return name
    try:
        with_variants(config, desc)
    except UserError:
        return None
    return desc


class Material:
    """The given runs, and a record of the current figure: files written, runs shown or refused, needs.

    Parameters
    ----------
    config : module
        `config.py`.
    runs : list of Run
    out_dir : str
        Folder of the figures.
    seeds : list of int, optional
        Seeds of the images to show. Default: each figure's own.
    stages_dir : str, optional
        Folder that ``create_celebahq --save_stages`` has written.
    data_dir : str
        Folder of the datasets.
    description : paper.neighbours.Description
        The features that define the nearest neighbours.
    allow_other : bool
        Show runs that differ from their experiment, with a mark.
    result_dir : str, optional
        Folder of the runs. Default: ``result_dir`` of `config.py`.
    train_gan : callable, optional
        The training function of experiments that name none.

    Attributes
    ----------
    files, needs, entries, refused : list
        For the current figure: files written, what it lacks, the runs it shows, and reasons why runs are not shown.
    """

    def __init__(self, config: ModuleType, runs: list[Run], out_dir: str, seeds: list[int] | None = None,
                 stages_dir: str | None = None, data_dir: str = 'datasets', description: Description = PIXELS,
                 allow_other: bool = False, result_dir: str | None = None, train_gan: Callable | None = None) -> None:
        self.config, self.runs, self.out_dir = config, runs, out_dir
        self.seeds, self.stages_dir, self.data_dir, self.description = seeds, stages_dir, data_dir, description
        self.allow_other, self.result_dir, self.train_gan = allow_other, result_dir, train_gan
        self._comparisons: dict[tuple[Run, str, bool], Comparison] = {}
        self.begin()

    def begin(self) -> None:
        """Start the record of another figure."""
        self.files: list[str] = []
        self.needs: list[Need] = []
        self.entries: list[Entry] = []
        self.refused: list[str] = []

    def path(self, name: str) -> str:
        """The path of the output file `name`; the file is recorded as written."""
        path = os.path.join(self.out_dir, name)
        self.files.append(path)
        return path

    # ------------------------------------------------------------------------------------------------------------------
    # Needs of the current figure.

    def need(self, what: str, command: str, data: str = '') -> None:
        """Record that `what` is missing, the command that makes it, and the dataset that the command needs."""
        self.needs.append(Need(what, command, data))

    def data_of(self, experiment: str) -> str:
        """The path of the dataset of an experiment."""
        return data_path(with_variants(self.config, experiment)['dataset']['h5_path'], self.data_dir)

    def need_runs(self, experiment: str, count: int = 1, there: Sequence[Run] = ()) -> None:
        """Record the runs that an experiment lacks, if it has fewer than `count`. Each run needs a different seed."""
        lacking = count - len(there)
        if lacking < 1:
            return
        command = f'python train.py --experiment {experiment}' + self.folder_options()
        if count == 1:
            self.need(f'a run of {experiment}', command, self.data_of(experiment))
            return
        used = {self.compared(run, experiment).seed for run in there}
        seeds = [seed for seed in range(1000, 1000 + 2 * count) if seed not in used][:lacking]
        self.need(f'{lacking}{" more" if there else ""} run{"s" * (lacking > 1)} of {experiment}, --set random_seed=N '
                  f'with {" ".join(map(str, seeds))}', f'{command} --set random_seed={seeds[0]}',
                  self.data_of(experiment))

    def folder_options(self, results: bool = True) -> str:
        """Command-line options for the folders that differ from `config.py`."""
        pairs = [('--data-dir', self.data_dir, self.config.data_dir)]
        pairs += [('--result-dir', self.result_dir or self.config.result_dir, self.config.result_dir)] * results
        return ''.join(f' {option} {shlex.quote(given)}' for option, given, usual in pairs if given != usual)

    def check_metrics(self, run: Run, *names: str, all_snapshots: bool = False) -> bool:
        """Whether a run has results of metrics. If not, the command that makes them is recorded as a need.

        With `all_snapshots`, each metric needs results of two or more snapshots whose training time is known.
        """
        missing = []
        for name in names:
            timed = [entry for entry in run.series(name) if entry['seconds'] is not None]
            if len(timed) < 2 if all_snapshots else run.result(name) is None:
                missing.append(name)
        if missing:
            options = ''
            if not all_snapshots:
                options = ' --only-final' if run.snapshot == FINAL else f' --snapshot {shlex.quote(run.snapshot)}'
            what = ' of all snapshots' if all_snapshots else ''
            self._need_metrics(f'{" and ".join(missing)}{what} of {run.path}', run, missing, options)
        return not missing

    def _need_metrics(self, what, run, names, options):
        data = run.h5_path(self.config, self.data_dir)
        if 'mnist_modes' in names:
            options += ' --classifier classifier.npz'
            if not os.path.exists('classifier.npz'):
                digits = os.path.join(self.data_dir, 'mnist-32x32.h5')
                self.need('classifier.npz, which reads the digits',
                          f'python train_classifier.py {shlex.quote(digits)} classifier.npz', digits)
        self.need(what, f'python evaluate_metrics.py {shlex.quote(run.path)} --metrics {" ".join(names)}{options}'
                  + self.folder_options(results=False), data)

    def create_command(self, path: str) -> str:
        """The command that makes a dataset."""
        return create_command(shlex.quote(path))

    # ------------------------------------------------------------------------------------------------------------------
    # Available runs.

    def all_runs(self, *names: str, folder: bool = False, count: int = 1) -> list[Run]:
        """The runs of the first experiment in `names` that has any. Missing runs are recorded as a need.

        Unless `allow_other` is set, only experiments with the dataset, networks and loss of ``names[0]`` count, and
        runs that differ from ``names[0]`` are left out and recorded in `refused`. With `folder`, pickles do not count.
        `count` is the number of runs in the paper.
        """
        for name in names:
            if name != names[0] and not self.allow_other and not same_task(self.config, name, names[0]):
                continue
            runs = [run for run in self.runs if run.name == name and (run.folder or not folder)]
            if runs:
                accepted = [run for run in runs if self.accepts(run, names[0])]
                self.need_runs(names[0], count, accepted)
                return accepted
        self.need_runs(names[0], count)
        return []

    def run(self, *names: str, folder: bool = False) -> Run | None:
        """The first of :meth:`all_runs`, or None."""
        return next(iter(self.all_runs(*names, folder=folder)), None)

    def compared(self, run: Run, experiment: str, by_network: bool = False) -> Comparison:
        """Compare a run with an experiment; with `by_network`, also compare the image shape of its generator."""
        own = run.own_config()
        by_network = by_network or own is None
        key = run, experiment, by_network
        if key not in self._comparisons:
            if by_network and run.network is None:
                run.load_generator()
            self._comparisons[key] = compare(self.config, experiment, own, run.path, self.data_dir, self.train_gan,
                                             run.network if by_network else None)
        return self._comparisons[key]

    def accepts(self, run: Run, experiment: str, by_network: bool = False) -> bool:
        """Whether a run may be shown as an experiment. If not, the reason is recorded in `refused`.

        `by_network` is explained at :meth:`compared`.
        """
        other = self.compared(run, experiment, by_network).other
        if other and not self.allow_other:
            text = f'{run.path} is not {experiment}: {some(other)}; --allow-other shows it, marked'
            if text not in self.refused:
                self.refused.append(text)
        return not other or self.allow_other

    def images(self, run: Run, experiment: str, seeds: Sequence[int]) -> list[np.ndarray]:
        """Images of a run, see :meth:`Run.images`.

        If its networks are missing or differ from the experiment, this is recorded and the result is [].
        """
        if run.pickle() is None:
            stopped = f', which stopped at kimg {run.stats()[-1]["kimg"]:g}' if run.stats() else ''
            self.need(f'the {run.snapshot} networks of {run.path}{stopped}; or show others, --snapshot latest',
                      f'python train.py --resume {shlex.quote(run.path)}', run.h5_path(self.config, self.data_dir))
            return []
        images = run.images(seeds)
        return images if self.accepts(run, experiment, by_network=True) else []

    def show(self, part: str, run: Run, experiment: str, runs: int = 1, results: Iterable[dict | None] = (),
             snapshot: str | None = None, kimg: float | None = None, notes: Sequence[str] = (),
             by_network: bool = False) -> Entry:
        """Record that the current figure shows a run; return the new :class:`~paper.entries.Entry`.

        Parameters
        ----------
        part : str
            Row, panel or curve.
        run : Run
        experiment : str
            The experiment that the run stands for.
        runs : int
            Number of runs in the same row, panel or curve.
        results : iterable of dict or None
            The results of metrics that the figure shows.
        snapshot, kimg : str, float
            The networks and their training length. Default: the networks to show of the run.
        notes : list of str
        by_network : bool
            See :meth:`compared`.
        """
        compared = self.compared(run, experiment, by_network)
        shown = [result for result in results if result]
        if snapshot is None:
            snapshot = run.snapshot_name()
            kimg = next((result['kimg'] for result in shown if result.get('kimg') is not None), run.kimg())
        guess = numbers.GUESSES.get(next((text for text in numbers.GUESSES if experiment.endswith(text)), ''))
        entry = Entry(part, experiment, run.path, snapshot, kimg, compared.planned_kimg, compared.data, runs,
                      compared.seed, {result['metric']: result['num_images'] for result in shown},
                      compared.differs, compared.other, [*([guess] if guess else []), *notes])
        self.entries.append(entry)
        return entry

    def floor(self, runs: Sequence[Run], name: str) -> dict | None:
        """The result of a metric for the reals of several runs: the one with the most images, of these the last.

        None without a result, or if the results of the runs were measured against different reals.
        """
        wanted = {entry.get('data') for run in runs for entry in [run.result(name)] if entry} - {None}
        if len(wanted) > 1:
            return None
        lines = [line for run in runs if run.folder for line in read_entries(run.folder, REALS_NAME)]
        entries = [line for line in lines if line.get('metric') == name and isinstance(line.get('values'), dict)
                   and _is_complete(line) and (line.get('data') in wanted or not wanted)]
        most = max((entry['num_images'] for entry in entries), default=0)
        return next((entry for entry in reversed(entries) if entry['num_images'] == most), None)

    def check_floor(self, runs: Sequence[Run], *names: str) -> dict[str, dict]:
        """{metric: :meth:`floor`}. Missing results are recorded as a need."""
        found = {name: result for name in names for result in [self.floor(runs, name)] if result}
        missing = [name for name in names if name not in found]
        folders = [run for run in runs if run.folder]
        if missing and folders:
            self._need_metrics(f'{" and ".join(missing)} of the reals', folders[0], missing, ' --reals')
        return found

    def seeds_or(self, count: int) -> list[int]:
        """The seeds that the user requested, or 0 to ``count - 1``."""
        return self.seeds or list(range(count))
