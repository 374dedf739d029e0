"""The paper's claims at a size for a laptop, on handwritten digits: growing, the ablation of Table 1, discrete modes.

    python reproduce.py                         # everything; interrupt it and call it again whenever you like
    python reproduce.py --parts growing         # one part of it
    python reproduce.py --report                # only make the pictures and tables again

Trains one process per core, one thread each, so that runs do not disturb each other. Runs go into
``results/small-scale``; the report is ``results/README.md`` with pictures beside it.
"""

import common.starting  # noqa: F401  (Ctrl-C while the rest is imported)

import argparse
import concurrent.futures
import contextlib
import copy
import io
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

import config
import dataset_tool
import theano_env
import train
import train_classifier
from common.errors import UserError, exit_status
from data import hdf5_format
from data.hdf5_writer import HDF5Writer
from metrics import evaluation
from paper import small_scale
from paper.small_scale import Job
from runs.records import read_config
from training import experiment

ROOT = pathlib.Path(__file__).resolve().parent
SEEDS = (1000, 1001, 1002)
NUM_STACKED = 20000     # RGB images of three digits.
METRICS = {'growing': ['swd'], 'ablation': ['swd', 'ms_ssim'], 'modes': ['mnist_modes']}
NUM_IMAGES = {'growing': 1024, 'ablation': 1024, 'modes': 25600}

DIGITS: dict[str, Any] = {'h5_path': 'digits-32x32.h5', 'resolution': 32, 'max_labels': 0, 'mirror_augment': False}
SMALL_DIGITS = {**DIGITS, 'resolution': 16}
STACKED = {**DIGITS, 'h5_path': 'digits-rgb-32x32.h5'}
NETWORKS = {'fmap_base': 128, 'fmap_max': 32, 'latent_size': 32}
TRAIN = {'rampup_kimg': 0, 'tick_kimg_default': 2, 'tick_kimg_overrides': {}, 'image_snapshot_ticks': 5,
         'network_snapshot_ticks': 1000, 'show_progress': False}


# ----------------------------------------------------------------------------------------------------------------------
# The runs.


def derived(name: str, dataset: dict, networks: dict, **train: Any) -> dict:
    """An experiment of `config.py` with other data, smaller networks and a shorter training."""
    chosen: dict = copy.deepcopy(config.experiments[name])
    growing = chosen['train'].get('lod_training_kimg', 600) > 0
    chosen['dataset'] = dict(dataset)
    for net in 'GD':
        chosen[net].update({key: value for key, value in networks.items() if net == 'G' or key != 'latent_size'})
    if not growing:
        train.pop('lod_training_kimg', None)
        train.pop('lod_transition_kimg', None)
    chosen['train'].update({**TRAIN, **train})
    return chosen


def growing_jobs() -> list[Job]:
    """Figure 4: the networks of row g with and without growing, with a snapshot every few kimg."""
    common: dict[str, Any] = {'total_kimg': 48, 'network_snapshot_ticks': 1, 'minibatch_default': 16,
                              'G_learning_rate_max': 0.003, 'D_learning_rate_max': 0.003}
    networks = {**NETWORKS, 'fmap_base': 256}
    grown = derived('table1-celeba-g-pixelwise-normalization', DIGITS, networks, lod_training_kimg=3,
                    lod_transition_kimg=3, **common)
    fixed = copy.deepcopy(grown)
    fixed['train'].update(config.variants['nogrowing']['train'])
    return [Job('growing', name, seed, chosen) for seed in SEEDS[:2]
            for name, chosen in (('growing', grown), ('nogrowing', fixed))]


def ablation_jobs() -> list[Job]:
    """Table 1 row by row, with the same changes between rows; half the minibatch, five times the learning rate."""
    jobs = []
    for row in config.table1_rows:
        if row.startswith('h-'):
            continue    # The networks of row g with more of everything.
        name = 'table1-celeba-' + row
        train = config.experiments[name]['train']
        chosen = derived(name, SMALL_DIGITS, NETWORKS, total_kimg=32, lod_training_kimg=4, lod_transition_kimg=4,
                         minibatch_default=train['minibatch_default'] // 2,
                         G_learning_rate_max=5 * train.get('G_learning_rate_max', 0.001),
                         D_learning_rate_max=5 * train.get('D_learning_rate_max', 0.001))
        if chosen['D'].get('mbdisc_kernels'):
            chosen['D']['mbdisc_kernels'] = 20
        jobs += [Job('ablation', row, seed, chosen) for seed in SEEDS]
    return sorted(jobs, key=lambda job: job.seed)


def modes_jobs() -> list[Job]:
    """Table 4, column K / 4: modes of stacked digits found without and with our normalization and minibatch stddev."""
    jobs = []
    for variant in ('wgan-gp', 'our-norm', 'mb-stddev'):
        chosen = derived('mnist-modes-k4-' + variant, STACKED, {'fmap_base': 256, 'fmap_max': 64, 'latent_size': 64},
                         total_kimg=120, tick_kimg_default=10, image_snapshot_ticks=4)
        jobs += [Job('modes', variant, seed, chosen) for seed in SEEDS[:2]]
    return sorted(jobs, key=lambda job: job.seed)


PARTS = {'growing': growing_jobs, 'ablation': ablation_jobs, 'modes': modes_jobs}


# ----------------------------------------------------------------------------------------------------------------------
# Running it.


def make_datasets(data_dir: str) -> None:
    """The handwritten digits at 32x32, and RGB images of three of them each."""
    digits, stacked = [os.path.join(data_dir, section['h5_path']) for section in (DIGITS, STACKED)]
    if not os.path.exists(digits):
        dataset_tool.create_digits(digits, resolution=32)
    if not os.path.exists(stacked):
        h5, levels = hdf5_format.open_levels(digits)
        with h5:
            images = levels[32][:, 0]
        indices = np.random.RandomState(123).randint(len(images), size=(NUM_STACKED, 3))
        with HDF5Writer(stacked, 32, 3) as writer:
            for group in np.array_split(indices, 40):
                writer.add_images(images[group])


def make_classifier(data_dir: str, out_dir: str, engine: str, device: str) -> None:
    """The classifier that reads the digits of the three colour channels."""
    path = os.path.join(out_dir, 'classifier.npz')
    arguments = [os.path.join(data_dir, DIGITS['h5_path']), path, '--engine', engine, '--device', device]
    if not os.path.exists(path) and train_classifier.main(arguments):
        raise UserError(f'{path}: could not be made')


def run_dir_of(job: Job, out_dir: str) -> pathlib.Path | None:
    """Folder of the finished run of a job, or None."""
    for done in sorted(pathlib.Path(out_dir, job.folder).glob('*/_training-done.txt')):
        return done.parent
    return None


def train_job(job: Job, data_dir: str, out_dir: str, engine: str = 'auto', device: str = 'cpu') -> None:
    """Train one job in this process."""
    result_dir = os.path.join(out_dir, job.folder)
    os.makedirs(result_dir, exist_ok=True)
    with open(os.path.join(result_dir, 'output.txt'), 'w', encoding='utf-8') as output, \
            contextlib.redirect_stdout(output):
        experiment.run_experiment({**job.experiment, 'desc': job.name, 'random_seed': job.seed}, data_dir, result_dir,
                                  engine, theano_env.with_device(config.theano_flags, device),
                                  train_gan=train.train_gan)


def evaluate_job(job: Job, data_dir: str, out_dir: str, engine: str = 'auto', device: str = 'cpu') -> None:
    """Evaluate the metrics of one job that are not evaluated yet; a diverged run has none."""
    run_dir = run_dir_of(job, out_dir)
    if run_dir is None:
        return
    theano_env.configure(engine, theano_env.with_device(config.theano_flags, device))
    with contextlib.redirect_stderr(io.StringIO()):     # Its progress bars.
        evaluation.evaluate_run(
            str(run_dir), METRICS[job.part], lambda: experiment.open_dataset(read_config(str(run_dir)), data_dir),
            os.path.join(data_dir, 'metric-cache'), NUM_IMAGES[job.part], only_final=job.part != 'growing',
            classifier=os.path.join(out_dir, 'classifier.npz'))


def on_all(function: Callable[[Job, str, str, str, str], None], desc: str, jobs: list[Job], data_dir: str,
           out_dir: str, workers: int, engine: str, device: str) -> None:
    """Call ``function(job, data_dir, out_dir, engine, device)`` for all jobs, a process each, of one thread."""
    os.environ['OMP_NUM_THREADS'] = '1'     # For the processes that are about to start.
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(function, job, data_dir, out_dir, engine, device): job for job in jobs}
        try:
            for future in tqdm(concurrent.futures.as_completed(futures), total=len(futures), desc=desc, unit='run'):
                try:
                    future.result()
                except UserError as error:     # A run that diverged is a result; the others go on.
                    tqdm.write(f'{futures[future].folder}: {error}')
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def run_command(args: argparse.Namespace) -> None:
    """Train and evaluate what is missing and write the report."""
    jobs = [job for part in args.parts for job in PARTS[part]() if job.seed in SEEDS[:args.seeds]]
    os.makedirs(args.data_dir, exist_ok=True)
    if not args.report:
        make_datasets(args.data_dir)
        unfinished = [job for job in jobs if run_dir_of(job, args.out_dir) is None]
        on_all(train_job, 'Training', unfinished, args.data_dir, args.out_dir, args.workers, args.engine, args.device)
        make_classifier(args.data_dir, args.out_dir, args.engine, args.device)
        on_all(evaluate_job, 'Evaluating', jobs, args.data_dir, args.out_dir, args.workers, args.engine, args.device)
    small_scale.write(jobs, {job.folder: run_dir_of(job, args.out_dir) for job in jobs}, args.report_dir)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--parts', nargs='+', choices=list(PARTS), default=list(PARTS), help='default: all')
    parser.add_argument('--seeds', type=int, default=len(SEEDS), metavar='N', help='at most so many runs of each kind')
    parser.add_argument('--report', action='store_true', help='make the report of what there is')
    parser.add_argument('--data-dir', default=config.data_dir, metavar='DIR', help='default: %(default)s')
    parser.add_argument('--out-dir', default=str(ROOT / 'results' / 'small-scale'), metavar='DIR',
                        help='default: %(default)s')
    parser.add_argument('--report-dir', default=str(ROOT / 'results'), metavar='DIR', help='default: %(default)s')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), metavar='N', help='default: one per core')
    theano_env.add_arguments(parser, config)
    parser.set_defaults(device='cpu')
    args = parser.parse_args(argv)
    return exit_status('reproduce.py', lambda: run_command(args),
                       interrupted='interrupted; finished runs are kept, the same command goes on')


if __name__ == '__main__':
    sys.exit(main())
