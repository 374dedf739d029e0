"""Make a figure or table of the paper with one command: train the missing runs, evaluate them and draw.

    python reproduce.py --list                                  # list the figures and tables
    python reproduce.py table1 --list                           # list its runs, their progress, data, hours and disk
    python reproduce.py table1 --runs 3                         # make all; to continue, repeat the command
    python reproduce.py table4 --scale small --workers 2        # small enough for a laptop, into results/README.md
    python reproduce.py study                                   # make everything that exists at small scale
    python reproduce.py table1 --part 7                         # make one run, on a cluster: docs/reproduce.md
    python reproduce.py table1 --draw                           # draw the finished runs

Each run has its own folder below ``results/reproduce`` (``results/small-scale``). Figures that show the same experiment
share its runs.
"""

import common.starting  # noqa: F401  (Ctrl-C while the rest is imported)

import argparse
import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import figures
import theano_env
import train
import train_classifier
from common.console import progress, rough_time
from common.errors import UserError, did_you_mean, exit_status
from common.files import one_at_a_time
from common.options import PositiveInt, check_settings, check_value, reading_config
from metrics import floor
from paper import campaign, small_scale, studies
from paper.campaign import Part, Place
from training import plan
from training.data_sets import create_command, data_path
from training.options import resolve_config
from training.stopping import Stopped

ROOT = pathlib.Path(__file__).resolve().parent
ALIASES = {'figure4': ('figure4a', 'figure4b', 'figure4c')}
MNIST = 'mnist-32x32.h5'        # Training set of the classifier for Table 4.


class Evaluation(NamedTuple):
    """Evaluation of the runs of a figure at the scale of the paper."""

    metrics: tuple[str, ...]
    all_snapshots: bool = False
    runs: int = 1               # Number of runs per experiment in the paper.


EVALUATIONS = {
    'table1': Evaluation(('swd', 'ms_ssim')),
    'table3': Evaluation(('inception_score',), True, 10),
    'table4': Evaluation(('mnist_modes',), False, 8),
    'figure4a': Evaluation(('swd',), True),
    'figure4b': Evaluation(('swd',), True),
    'figure11': Evaluation(('swd', 'fid')),
    **{name: Evaluation(('swd', 'fid')) for name in figures.LSUN_PAGES},
}


# ----------------------------------------------------------------------------------------------------------------------
# Targets and their parts.


def figures_of(target: str) -> tuple[str, ...]:
    """The keys of `figures.FIGURES` that a target stands for."""
    return ALIASES.get(target, (target,))


def targets() -> list[str]:
    return [*figures.FIGURES, *ALIASES, 'study']


def parts_of(config: ModuleType, target: str, scale: str, runs: int | None) -> list[Part]:
    """The parts of a target, in the order of training.

    Parameters
    ----------
    config : module
        `config.py`.
    target : str
        One of :func:`targets`.
    scale : {'small', 'paper'}
    runs : int or None
        Number of runs per experiment, each with another seed. None: as many as in the paper, or in the study.
    """
    if scale == 'small':
        return [part for name in studies.TARGETS[target] for part in studies.parts_of(config, name, runs)]
    parts: dict[str, Part] = {}
    for figure in figures_of(target):
        evaluation = EVALUATIONS.get(figure, Evaluation(()))
        for seed in range(runs or evaluation.runs):
            for name in figures.FIGURES[figure].experiments:
                chosen = resolve_config(config, name, (), train.train_gan)
                chosen['random_seed'] = chosen.get('random_seed', 1000) + seed
                part = Part(name, chosen['random_seed'], {**chosen, 'desc': chosen.get('desc', name)},
                            f'{name}-seed{chosen["random_seed"]}', evaluation.metrics, evaluation.all_snapshots)
                other = parts.get(part.folder, part)
                parts[part.folder] = part._replace(
                    metrics=tuple(dict.fromkeys((*other.metrics, *part.metrics))),
                    all_snapshots=other.all_snapshots or part.all_snapshots)
    return list(parts.values())


def missing_data(parts: Iterable[Part], place: Place, scale: str) -> dict[str, str]:
    """{file: command that makes it} of the missing datasets that the user has to make."""
    parts = list(parts)
    if scale == 'small':
        path = os.path.join(place.data_dir, studies.COLOUR_DATA)
        wanted = any(part.experiment['dataset']['h5_path'] == studies.COLOUR_DATA for part in parts)
        return {path: f'npm pack emoji-datasource-twitter@14.0.0, unpack it, and python dataset_tool.py '
                      f'create_from_images package/img/twitter/64 {path} --resize 32'
                } if wanted and not os.path.exists(path) else {}
    missing = campaign.missing_data(parts, place.data_dir)
    path = data_path(MNIST, place.data_dir)
    if any('mnist_modes' in part.metrics for part in parts) and not os.path.exists(path):
        missing[path] = create_command(path)
    return missing


# ----------------------------------------------------------------------------------------------------------------------
# Listing.


def describe_parts(parts: list[Part], place: Place, target: str, scale: str) -> None:
    """Print the parts with their numbers and progress, the missing data, and estimates of time and disk space."""
    print(f'{target} at {"the scale of the paper" if scale == "paper" else "small scale"}: {len(parts)} runs')
    environment = theano_env.configure(place.engine, place.theano_flags, precision=place.precision)
    print(environment)
    for path, command in missing_data(parts, place, scale).items():
        print(f'missing data: {path}: {command}')
    speed = plan.speed_of(environment)
    known: dict[str, tuple[float, float]] = {}
    total_seconds, total_size = 0.0, 0.0
    width = max(len(part.folder) for part in parts)
    for number, part in enumerate(parts, start=1):
        # Time and disk space do not depend on the name and images of an experiment.
        same = repr({key: value for key, value in part.experiment.items() if key in ('G', 'D', 'train')}
                    | {'resolution': part.experiment['dataset'].get('resolution')})
        if same not in known:
            known[same] = plan.whole_run(part.experiment, place.data_dir, speed, train.train_gan)
        words, share = campaign.progress_of(part, place.out_dir)
        seconds, size = (share * value for value in known[same])
        total_seconds, total_size = total_seconds + seconds, total_size + size
        print(f'{number:5d}  {part.folder:<{width}}  {words}'
              f'{f", {rough_time(seconds)} to go" if seconds else ""}')
    print(f'Total: {rough_time(total_seconds)} of training in sequence on this machine (within a factor of 2), without '
          f'metrics, and up to {plan.format_size(total_size)} of disk space in {place.out_dir}')


# ----------------------------------------------------------------------------------------------------------------------
# Making the parts.


def make_classifier(place: Place, scale: str) -> None:
    """Train the classifier that reads the digits of the three colour channels, unless its file exists."""
    data = data_path(MNIST if scale == 'paper' else studies.CLASSIFIER_DATA, place.data_dir)
    path = str(place.classifier)
    flags = place.theano_flags or {}
    arguments = [data, path, '--engine', place.engine, '--device', str(flags.get('device', 'auto'))]
    with one_at_a_time(path):
        if not os.path.exists(path) and train_classifier.main(arguments):
            raise UserError(f'{path}: the classifier could not be trained')


def make_in_background(part: Part, place: Place) -> None:
    """:func:`campaign.make_part` with its output in ``output.txt`` in the folder of the part."""
    os.makedirs(os.path.join(place.out_dir, part.folder), exist_ok=True)
    with open(os.path.join(place.out_dir, part.folder, 'output.txt'), 'a', encoding='utf-8') as output, \
            contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        campaign.make_part(part, place, train.train_gan)


def outcome(part: Part, make: Callable[[], None]) -> str | None:
    """Call ``make()``; return why the part failed, or None.

    A failure must not stop the other parts: that a run diverges is a result, too.
    """
    try:
        make()
    except Stopped:
        raise
    except UserError as error:
        return f'{part.folder}: {error}'
    return None


@contextlib.contextmanager
def stopping_all() -> Iterator[None]:
    """A context in which SIGTERM also stops the processes of the parts. They save their states before they exit."""
    def stop(signum: int, _frame: Any) -> None:
        for process in multiprocessing.active_children():
            process.terminate()
        raise Stopped('stopped by SIGTERM', signum)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def make_all(parts: list[Part], place: Place, workers: int) -> list[str]:
    """Make parts, several at a time with one thread each; return what failed."""
    parts = [part for part in parts if campaign.progress_of(part, place.out_dir)[0] != 'done']
    failures: list[str] = []
    if workers == 1:
        for part in parts:
            failure = outcome(part, functools.partial(campaign.make_part, part, place, train.train_gan))
            failures += [failure] if failure else []
        return failures
    os.environ['OMP_NUM_THREADS'] = '1'     # The new processes inherit it.
    context = multiprocessing.get_context('spawn')
    with stopping_all(), concurrent.futures.ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(make_in_background, part, place): part for part in parts}
        try:
            for future in progress(concurrent.futures.as_completed(futures), 'Training', len(futures), 'runs'):
                failure = outcome(futures[future], future.result)
                if failure:
                    print(failure)
                    failures.append(failure)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return failures


def make_floors(parts: list[Part], place: Place, scale: str) -> None:
    """Evaluate the metrics on the reals of each dataset, at small scale also on noise, to compare results with."""
    first: dict[str, Part] = {}
    for part in parts:
        if campaign.finished_run(part, place.out_dir):
            first.setdefault(part.experiment['dataset']['h5_path'], part)
    for part in first.values():
        for images in (floor.REALS, floor.NOISE)[:2 if scale == 'small' else 1]:
            campaign.make_floor(part, place, images)


def draw(parts: list[Part], place: Place, target: str, scale: str, report_dir: str, engine: list[str]) -> int:
    """Draw the figures and tables, or write the report of the studies, from finished runs; return the exit status."""
    done = {part.folder: campaign.finished_run(part, place.out_dir) for part in parts}
    if scale == 'small':
        small_scale.write(studies.TARGETS[target], parts, done, report_dir)
        return 0
    runs = [f'--run={part.name}={run_dir}' for part in parts if (run_dir := done[part.folder])]
    return figures.main([*figures_of(target), *runs, '--data-dir', place.data_dir, '--out',
                         os.path.join(place.out_dir, 'figures'), *engine])


# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def parse_arguments(argv: list[str] | None, config: ModuleType) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition('\n')[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n' + '\n'.join(line[2:] for line in __doc__.splitlines() if line.startswith('    ')))
    parser.add_argument('target', nargs='?', metavar='TARGET', help="name of a figure or table, 'figure4', or 'study'; "
                        'without a target, list them')
    parser.add_argument('--scale', choices=('paper', 'small'), help="default: paper; for 'study': small")
    parser.add_argument('--runs', type=int, metavar='N', help='runs per experiment, each with another seed; default: '
                        'as in the paper, 10 for Table 3, 8 for Table 4, else 1')
    parser.add_argument('--list', action='store_true', help='print the parts, missing data, hours and disk space, and '
                        'exit')
    parser.add_argument('--part', type=int, metavar='N', help='make one part of the list, and draw nothing')
    parser.add_argument('--draw', action='store_true', help='train nothing, draw the finished runs')
    parser.add_argument('--workers', type=int, metavar='N', help='number of runs trained at the same time, with one '
                        'thread each if more than 1; default: 1, at small scale one per core')
    parser.add_argument('--inception-weights', metavar='FILE', help='weights of the Inception network, for Table 3 and '
                        'FID')
    parser.add_argument('--data-dir', default=config.data_dir, metavar='DIR', help='folder of the datasets; default: '
                        '%(default)s')
    parser.add_argument('--out-dir', metavar='DIR', help="folder of the runs; default: 'reproduce', or 'small-scale', "
                        'in the result folder')
    parser.add_argument('--report-dir', default=str(ROOT / 'results'), metavar='DIR', help='folder of the report at '
                        'small scale; default: %(default)s')
    theano_env.add_arguments(parser, config)
    return parser.parse_args(argv)


def check_arguments(args: argparse.Namespace) -> str:
    """Check a command line with a target, and return the scale."""
    if args.target not in targets():
        raise UserError(f'{args.target}: there is no such target'
                        f'{did_you_mean(args.target, targets()) or "; --list prints all targets"}')
    for name in ('runs', 'workers', 'part'):
        check_value(f'--{name}', getattr(args, name), PositiveInt | None, ' ')
    scale = args.scale or ('small' if args.target == 'study' else 'paper')
    if scale == 'small' and args.target not in studies.TARGETS:
        raise UserError(f'--scale small: {args.target} has no small version; there are '
                        f'{", ".join(studies.TARGETS)}')
    if scale == 'paper' and args.target == 'study':
        raise UserError('--scale paper: the study is at small scale; name a figure or table instead')
    return scale


def run_command(args: argparse.Namespace, config: ModuleType) -> int:
    """Run the parsed command line; return the exit status."""
    if args.target is None:
        for name in targets():
            words = figures.FIGURES[name].shows if name in figures.FIGURES else (
                'everything at small scale' if name == 'study' else ', '.join(ALIASES[name]))
            print(f'{name:<12} {words}{"; --scale small" if name in studies.TARGETS and name != "study" else ""}')
        return 0
    scale = check_arguments(args)
    out_dir = args.out_dir or os.path.join(config.result_dir, 'reproduce' if scale == 'paper' else 'small-scale')
    device = args.device or ('cpu' if scale == 'small' else None)
    place = Place(args.data_dir, out_dir, args.engine, theano_env.with_device(config.theano_flags, device),
                  config.precision, os.path.join(out_dir, 'classifier.npz'), args.inception_weights)
    parts = parts_of(config, args.target, scale, args.runs)
    if args.part is not None and args.part > len(parts):
        raise UserError(f'--part {args.part}: there are only {len(parts)} parts; --list prints them')
    if not parts:
        return draw(parts, place, args.target, scale, args.report_dir, [])
    if args.part is None and not args.draw or args.list:
        describe_parts(parts, place, args.target, scale)
    if args.list:
        return 0
    engine = ['--engine', args.engine, *(['--device', args.device] if args.device else [])]
    if args.draw:
        return draw(parts, place, args.target, scale, args.report_dir, engine)
    chosen = parts if args.part is None else parts[args.part - 1:args.part]
    try:
        failures = make(chosen, place, scale, args, device is not None)
    except Stopped as stopped:
        print(f'reproduce.py: {stopped}; repeat the command to continue', file=sys.stderr)
        return 128 + stopped.signum
    status = 0
    if args.part is None:
        make_floors(parts, place, scale)
        status = draw(parts, place, args.target, scale, args.report_dir, engine)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else status


def make(parts: list[Part], place: Place, scale: str, args: argparse.Namespace, is_device_named: bool) -> list[str]:
    """Make datasets, the classifier and parts; return a message for each failure.

    At small scale, parts whose dataset is missing are left out; at the scale of the paper they are an error.
    """
    os.makedirs(place.out_dir, exist_ok=True)
    if scale == 'small':
        studies.make_datasets(studies.TARGETS[args.target], place.data_dir)
    missing = missing_data(parts, place, scale)
    lacking = [part for part in parts if data_path(part.experiment['dataset']['h5_path'], place.data_dir) in missing]
    if missing and (len(lacking) == len(parts) or scale == 'paper'):
        raise UserError('; '.join(f'{path} is missing: {command}' for path, command in missing.items()))
    parts = [part for part in parts if part not in lacking]
    if scale == 'paper':
        for chosen in {part.name: part.experiment for part in parts}.values():
            plan.check_duration(chosen, place.data_dir, place.engine, place.theano_flags, place.precision,
                                train_gan=train.train_gan, is_device_named=is_device_named)
    if any('mnist_modes' in part.metrics for part in parts):
        make_classifier(place, scale)
    workers = args.workers or (1 if scale == 'paper' else os.cpu_count() or 1)
    failures = make_all(parts, place, min(workers, len(parts)))
    return failures + [f'some parts were left out because {path} is missing: {command}'
                       for path, command in missing.items()]


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    with reading_config('reproduce.py'):
        import config
        check_settings(config)
    args = parse_arguments(argv, config)
    return exit_status('reproduce.py', lambda: run_command(args, config),
                       (UserError, theano_env.EnvironmentProblem),
                       'interrupted; finished work is kept, repeat the command to continue')


if __name__ == '__main__':
    sys.exit(main())
