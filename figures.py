"""Make the figures and tables of "Progressive Growing of GANs" (Karras et al. 2017) from runs or trained networks.

    python figures.py all --run results/003-table1-celeba-a-gulrajani --run results/004-cifar10
    python figures.py figure11 --run karras2018iclr-celebahq-1024x1024.pkl --seeds 0-29
    python figures.py figure4a figure4b --run table1-celeba-a-gulrajani=results/007-mine --run 8
    python figures.py --list

Pictures are written as PNG, plots and drawings also as PDF, tables as Markdown and LaTeX with the paper's numbers. Each
figure names the runs that it shows, their training progress and dataset, and options that differ from `config.py`;
NAME.json has the same facts as data. Runs with another dataset, networks or loss are refused without --allow-other.
Figures that need further runs are listed at the end, with the commands to make them.
"""

import common.starting  # noqa: F401  (Ctrl-C while the rest is imported)

import argparse
import functools
import os
import shlex
import sys
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import theano_env
from common.arguments import number_list
from common.errors import UserError, did_you_mean, exit_status
from common.options import check_settings, reading_config
from paper import curves, neighbours, numbers, plots
from paper.material import Material, Need, Run, recognise
from paper.pictures import (
    CELEBAHQ,
    FIGURE1,
    FIGURE7,
    LSUN_PAGES,
    appendix_h,
    figure3,
    figure5,
    figure6,
    figure7,
    figure8,
    figure9,
    figure10,
    figure11,
    lsun_page,
)
from paper.tables import table1, table1_experiments, table2, table3, table4, table4_experiments
from train import train_gan

FIGURE4C = ('figure4c-growing', 'figure4c-nogrowing')


# ----------------------------------------------------------------------------------------------------------------------
# The table of figures.


class Figure(NamedTuple):
    """How to make a figure or table of the paper."""

    make: Callable          # make(material, name): writes the files and adds missing runs to `material`.
    shows: str
    experiments: tuple = ()     # Experiments whose runs it shows; some may be missing.
    also: str = ''          # Further requirements.


def _rows_of_table1(*datasets):
    return tuple(name for data in datasets for name in table1_experiments(data))


FIGURES = {
    'table1': Figure(table1, 'ablation at 128x128', _rows_of_table1(*numbers.TABLE1), 'metrics swd, ms_ssim'),
    'table2': Figure(table2, 'the networks for 1024x1024'),
    'table3': Figure(table3, 'inception scores of CIFAR-10', ('cifar10', 'cifar10-cond'), 'metric inception_score '
                     f'of all snapshots; {numbers.TABLE3_RUNS} runs each, --set random_seed=N'),
    'table4': Figure(table4, 'modes of MNIST-RGB', tuple(table4_experiments().values()), 'metric mnist_modes; '
                     f'{numbers.TABLE4_RUNS} runs each, --set random_seed=N'),
    'figure1': Figure(functools.partial(plots.growing_scheme, experiments=FIGURE1, num_images=6),
                      'how the networks grow; faces', FIGURE1[:1]),
    'figure2': Figure(plots.fade_in, 'how layers fade in'),
    'figure3': Figure(figure3, 'CelebA, rows of Table 1', _rows_of_table1('celeba')),
    'figure4a': Figure(functools.partial(
        curves.swd_over_time, experiment_name='table1-celeba-a-gulrajani', title='(a) not growing',
        others=['table1-celeba-b-growing']), 'SWD against time, not growing', ('table1-celeba-a-gulrajani',),
        'metric swd of all snapshots'),
    'figure4b': Figure(functools.partial(
        curves.swd_over_time, experiment_name='table1-celeba-b-growing', title='(b) growing',
        others=['table1-celeba-a-gulrajani']), 'SWD against time, growing', ('table1-celeba-b-growing',),
        'metric swd of all snapshots'),
    'figure4c': Figure(functools.partial(curves.speed, experiment_names=FIGURE4C), 'images shown against time',
                       FIGURE4C, 'any images of 1024x1024, for example from dataset_tool.py create_synthetic'),
    'figure5': Figure(figure5, 'chosen CelebA-HQ faces', CELEBAHQ[:1]),
    'figure6': Figure(figure6, 'chosen LSUN bedrooms', ('lsun-bedroom',)),
    'figure7': Figure(figure7, 'chosen images of seven LSUN categories', tuple('lsun-' + name for name in FIGURE7)),
    'figure8': Figure(figure8, 'making of CelebA-HQ', (), '--stages, a folder made by create_celebahq --save_stages'),
    'figure9': Figure(figure9, 'CIFAR-10', ('cifar10',)),
    'figure10': Figure(figure10, 'nearest CelebA-HQ training images', CELEBAHQ[:1], 'the dataset'),
    'figure11': Figure(figure11, 'uncurated CelebA-HQ faces', CELEBAHQ[:1], 'metrics swd, fid for the caption'),
    **{name: Figure(lsun_page, 'uncurated LSUN: ' + ', '.join(categories),
                    tuple('lsun-' + category for category in categories), 'metrics swd, fid for the caption')
       for name, categories in LSUN_PAGES.items()},
    'appendix-h': Figure(appendix_h, 'uncurated images of all rows of Table 1', _rows_of_table1(*numbers.TABLE1)),
}


def describe(name: str) -> str:
    """Two lines about a figure: its content and its requirements."""
    figure = FIGURES[name]
    experiments = ', '.join(figure.experiments[:3]) + (', ...' if len(figure.experiments) > 3 else '')
    needs = '; '.join(filter(None, [experiments and 'runs of ' + experiments, figure.also]))
    return f'{name:<11} {figure.shows}\n{"":>11} needs {needs or "nothing"}'


def name_the_nameless(runs: list[Run], names: list[str]) -> None:
    """Assign runs of unknown experiments to the only experiment that the requested figures show, if there is one."""
    wanted = {FIGURES[name].experiments for name in names}
    only = wanted.pop() if len(wanted) == 1 else ()
    shown = {*CELEBAHQ, *(experiment_name for figure in FIGURES.values() for experiment_name in figure.experiments)}
    for run in runs:
        if run.name is None and len(only) == 1:
            run.name = only[0]
        elif run.name not in shown:
            print('%s: %s; to use it, give --run EXPERIMENT=%s' % (
                run.path, 'no figure shows runs of %s' % run.name if run.name else 'which experiment is this',
                shlex.quote(run.path)))


def without_repeats(runs: list[Run]) -> list[Run]:
    """Remove runs that are given twice for one experiment; they would count as two."""
    by_place: dict[tuple, Run] = {}
    for run in runs:
        by_place.setdefault((os.path.realpath(run.path), run.name), run)
    return list(by_place.values())


def make_figures(material: Material, names: list[str]) -> bool:
    """Make figures, and print the files and the missing runs.

    Parameters
    ----------
    material : paper.material.Material
    names : list of str
        Keys of `FIGURES`.

    Returns
    -------
    bool
        Whether at least one file was written and no run was refused.
    """
    needed_by: dict[Need, list[str]] = {}
    failed, num_files = [], 0
    for name in names:
        material.begin()
        try:
            FIGURES[name].make(material, name)
        except UserError as error:
            material.refused.append(str(error))
        for reason in material.refused:
            failed.append(name)
            print(f'{name}: error: {reason}', file=sys.stderr)
        for path in material.files:
            print(f'{name:<11} {path}')
        num_files += len(material.files)
        for need in material.needs:
            needed_by.setdefault(need, []).append(name)
    print_missing(material, needed_by)
    return not failed and num_files > 0


def print_missing(material: Material, needed_by: dict[Need, list[str]]) -> None:
    """Print the commands that make missing runs and datasets; `needed_by` maps each need to names of figures.

    Datasets come first. Commands that differ in one name only are printed once, with NAME in its place, followed by
    the names and the figures that need them.
    """
    datasets: dict[str, list[str]] = {}
    for need, figures in needed_by.items():
        if need.data and not os.path.exists(need.data):
            datasets.setdefault(need.data, []).extend(figures)
    missing = [(material.create_command(data), 'dataset', figures) for data, figures in datasets.items()]
    missing += [(need.command, need.what, figures) for need, figures in needed_by.items()
                if need.command != material.create_command(need.data) or need.data not in datasets]
    groups: dict[tuple[str, str], list[tuple]] = {}     # {(command, what), both with NAME: entries}
    for command, what, figures in missing:
        template, name = template_of(command)
        key = template, what.replace(name, 'NAME') if name else what
        groups.setdefault(key, []).append((command, what, ', '.join(dict.fromkeys(figures)), name))
    if groups:
        print('\nMissing, by the command that makes it:')
    for (template, what), entries in groups.items():
        command, own_what, _figures, _name = entries[0]
        is_one = len(entries) == 1
        print(f'\n{command if is_one else template}')
        if what not in ('dataset', 'a run of NAME'):
            print(wrapped(own_what if is_one else what))
        for figures in dict.fromkeys(entry[2] for entry in entries):
            names = ', '.join(entry[3] for entry in entries if entry[2] == figures)
            print(wrapped(f'for {figures}' + ('' if is_one else f': {names}')))


def wrapped(text: str) -> str:
    """An indented paragraph for a terminal of 80 columns."""
    return textwrap.fill(text, 80, initial_indent='  ', subsequent_indent=6 * ' ', break_on_hyphens=False,
                         break_long_words=False)


def template_of(command: str) -> tuple[str, str]:
    """(the command with NAME for an experiment, a run or a dataset and with N for a seed; that name or '')"""
    words, name = shlex.split(command), ''
    for index, word in enumerate(words):
        if word.startswith('random_seed='):
            words[index] = 'random_seed=N'
        elif name:
            continue
        elif words[index - 1] == '--experiment' or index == 2 and words[1] == 'evaluate_metrics.py':
            name, words[index] = word, 'NAME'
        elif word.endswith('.h5') and words[1] == 'dataset_tool.py':
            folder, file_name = os.path.split(word)
            name, words[index] = os.path.splitext(file_name)[0], os.path.join(folder, 'NAME.h5')
    return shlex.join(words), name


# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def parse_arguments(argv: list[str] | None, config: ModuleType) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Make the figures and tables of the paper.', formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='figures:\n%s\n\nexamples:\n%s' % (
            '\n'.join('  %-11s %s' % (name, figure.shows) for name, figure in FIGURES.items()),
            '\n'.join('  ' + line.strip() for line in __doc__.split('\n') if line.startswith('    '))))
    parser.add_argument('names', nargs='*', metavar='NAME', help="figures and tables, see below; 'all' for all")
    parser.add_argument('--run', action='append', default=[], dest='runs', metavar='[EXPERIMENT=]RUN',
                        help="number or folder of a run, 'latest', or a network pickle; EXPERIMENT is its experiment "
                             "in config.py, by default the one of the folder's config.txt; may be repeated")
    parser.add_argument('--snapshot', metavar='KIMG', help="snapshot of the runs: kimg, 'latest' or 'final'; "
                        'default: final')
    parser.add_argument('--batchnorm', choices=['minibatch', 'running'], default='minibatch', help='statistics of '
                        'batch norm: those of the images generated at once, or running averages of the training; '
                        'default: %(default)s')
    parser.add_argument('--allow-other', action='store_true', help='also show runs whose dataset, networks or loss '
                        'differ from the experiment, and mark them')
    parser.add_argument('--out', default=os.path.join(config.result_dir, 'figures'), metavar='DIR',
                        help='default: %(default)s')
    parser.add_argument('--seeds', type=number_list, metavar='LIST',
                        help='images to show, for example 3,8,20-24; default: the first ones')
    parser.add_argument('--stages', metavar='DIR', help='folder made by create_celebahq --save_stages, for figure8')
    features = parser.add_mutually_exclusive_group()
    features.add_argument('--inception-weights', metavar='FILE',
                          help='compare features of Inception-v3 in figure10; default: compare pixels')
    features.add_argument('--vgg-weights', metavar='FILE', help='compare features of VGG16 in figure10; FILE is a '
                          "state dict of torchvision's vgg16")
    parser.add_argument('--list', action='store_true', help='print the requirements of each figure, and stop')
    parser.add_argument('--data-dir', default=config.data_dir, metavar='DIR', help='default: %(default)s')
    parser.add_argument('--result-dir', default=config.result_dir, metavar='DIR', help='default: %(default)s')
    theano_env.add_arguments(parser, config)
    args = parser.parse_args(argv)
    if not args.names and not args.list:
        parser.error("give names of figures, or 'all'; --list prints the names")
    return args


def run_command(args: argparse.Namespace, config: ModuleType) -> bool:
    """Run the command; return whether it succeeded."""
    if args.list:
        print('\n'.join(map(describe, FIGURES)))
        print('\nTrain a run: python train.py --experiment EXPERIMENT\n'
              'Train with another seed: python train.py --experiment EXPERIMENT --set random_seed=N\n'
              'Evaluate metrics: python evaluate_metrics.py RUN --metrics NAME ...; of the reals: ... --reals')
        return True
    for name in args.names:
        if name not in FIGURES and name != 'all':
            raise UserError('%s: there is no such figure%s' % (
                name, did_you_mean(name, FIGURES) or '; --list prints the names'))
    names = list(FIGURES) if 'all' in args.names else list(dict.fromkeys(args.names))
    runs = without_repeats([recognise(config, run, args.result_dir, args.snapshot, args.batchnorm)
                            for run in args.runs])
    name_the_nameless(runs, names)
    theano_env.configure(args.engine, theano_env.with_device(config.theano_flags, args.device),
                         precision=config.precision)
    description = neighbours.PIXELS
    if 'figure10' in names and args.inception_weights:
        description = neighbours.by_inception(args.inception_weights)
    elif 'figure10' in names and args.vgg_weights:
        description = neighbours.by_vgg(args.vgg_weights)
    try:
        os.makedirs(args.out, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out {args.out}: cannot make this folder ({error.strerror})') from error
    material = Material(config, runs, args.out, args.seeds, args.stages, args.data_dir, description, args.allow_other,
                        args.result_dir, train_gan)
    return make_figures(material, names)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    with reading_config('figures.py'):
        import config
        check_settings(config)
    args = parse_arguments(argv, config)
    return exit_status('figures.py', lambda: 0 if run_command(args, config) else 1,
                       (UserError, theano_env.EnvironmentProblem))


if __name__ == '__main__':
    sys.exit(main())
