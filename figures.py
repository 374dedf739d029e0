"""The figures and tables of "Progressive Growing of GANs" (Karras et al. 2017), remade from runs or trained networks.

    python figures.py all --run results/003-table1-celeba-a-gulrajani --run results/004-cifar10
    python figures.py figure11 --run karras2018iclr-celebahq-1024x1024.pkl --seeds 0-29
    python figures.py figure4a figure4b --run table1-celeba-a-gulrajani=results/007-mine --run 8
    python figures.py --list

Pictures are written as PNG, plots and drawings also as PDF, tables as Markdown and LaTeX beside the paper's numbers.
What the present runs do not suffice for is listed with the commands that make the rest.
"""

import argparse
import functools
import os
import shlex
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import theano_env  # isort: skip  (restores what the imports of Theano and Lasagne need)

import lasagne
from PIL import Image

import figure_output
import figure_plots
import metrics
import paper_numbers
import util_scripts
from common.errors import UserError, did_you_mean, exit_status
from common.images import save_pil_image
from figure_material import Material, nearest_neighbours, recognise
from nets import costs, layers
from paper_numbers import Number
from training import plan
from training.options import resolve_config

CELEBAHQ = ('celebahq-1024', 'celebahq-v1-1gpu', 'celebahq-v2-8gpus', 'celebahq-v2-4gpus', 'celebahq-v2-2gpus',
            'celebahq-v2-1gpu', 'celebahq-1024-lsgan')      # The paper's own first; the others are stand-ins.
FIGURE1 = ('celebahq-1024-lsgan', *CELEBAHQ[:-1])
FIGURE4C = ('figure4c-growing', 'figure4c-nogrowing')
# Which categories, and on which page, is recalled.
FIGURE7 = ('pottedplant', 'horse', 'sofa', 'bus', 'church_outdoor', 'bicycle', 'tvmonitor')
LSUN_PAGES = {
    'figure12': ('airplane', 'bedroom', 'bicycle', 'bird', 'boat'),
    'figure13': ('bottle', 'bridge', 'bus', 'car', 'cat'),
    'figure14': ('chair', 'church_outdoor', 'classroom', 'conference_room', 'cow'),
    'figure15': ('dining_room', 'diningtable', 'dog', 'horse', 'kitchen'),
    'figure16': ('living_room', 'motorbike', 'person', 'pottedplant', 'restaurant'),
    'figure17': ('sheep', 'sofa', 'tower', 'train', 'tvmonitor'),
}
STEPS = {       # Of the making of CelebA-HQ, by the names of the files of create_celebahq.
    'decoded': 'photo', 'shrink': 'shrunk', 'crop': 'cropped', 'superres': 'enlarged', 'padraw': 'borders mirrored',
    'mask': 'weight of the borders', 'padblur': 'borders blurred', 'padmed': 'faded to the median', 'pad': 'padded',
    'region': 'the square to cut out', 'transform': 'cut out', 'final': 'shrunk to 1024x1024', 'delta': 'corrected',
}
NEIGHBOURS = 5
CREATE_CELEBAHQ = 'python dataset_tool.py create_celebahq datasets/celeba-hq-1024x1024.h5 CELEBA_DIR DELTA_DIR'


def table1_experiments(data):
    """{experiment: (row, configuration)} of the rows of Table 1 for 'celeba' or 'lsun-bedroom'."""
    return {f'table1-{data}-{name}': row for name, row in paper_numbers.TABLE1_ROWS.items()}


def table4_experiments():
    """{(divisor, column): experiment} of Table 4."""
    return {(divisor, column): f'mnist-modes-k{divisor}-{name}' for divisor in paper_numbers.TABLE4
            for column, name in paper_numbers.TABLE4_COLUMNS.items() if name}


# ----------------------------------------------------------------------------------------------------------------------
# Tables.


def sample_note(results):
    """How many images our numbers come from, where that is not the paper's number; results of `Run.metric`."""
    used = {(entry['metric'], entry['num_images']) for entry in results}
    other = [f'{metric} of {num} images instead of {metrics.METRICS[metric].num_images}'
             for metric, num in sorted(used) if num != metrics.METRICS[metric].num_images]
    return [f'Ours: {", ".join(other)}.'] if other else []


def table1(material, name):
    """Sliced Wasserstein distance and MS-SSIM of the ablation, last snapshot of each run."""
    columns = [('128', 2), ('64', 2), ('32', 2), ('16', 2), ('avg', 2), ('ms_ssim', 4)]
    tables, made = [], False
    for data, title in (('celeba', 'CelebA'), ('lsun-bedroom', 'LSUN bedroom')):
        rows, results = [], []
        for experiment_name, (row, configuration) in table1_experiments(data).items():
            paper = paper_numbers.TABLE1[data][row]
            rows.append([row, configuration, 'paper', *((paper[key], digits) for key, digits in columns)])
            runs = [run for run in material.all_runs(experiment_name, folder=True)
                    if material.check_metrics(run, 'swd', 'ms_ssim')]
            if runs:
                ours = [{**run.swd(), 'ms_ssim': run.last('ms_ssim')['MS-SSIM']} for run in runs]
                rows.append(['', '', 'ours', *(
                    (figure_output.mean_and_deviation([values[key] for values in ours]), digits)
                    if all(key in values for values in ours) else None for key, digits in columns)])
                results += [run.metric(metric)[-1] for run in runs for metric in ('swd', 'ms_ssim')]
                made = True
        tables.append(figure_output.Table(
            f'Table 1, {title}: sliced Wasserstein distance × 1000 by level, and MS-SSIM',
            ['', 'configuration', '', '128', '64', '32', '16', 'average', 'MS-SSIM'], rows, 3, sample_note(results)))
    if made:
        figure_output.save_tables(material, name, tables)


def table2(material, name):
    """The networks for 1024x1024 from the code, trainable parameters beside the paper's."""
    chosen = resolve_config(material.config, 'celebahq-1024')
    tables = []
    for net, title in (('G', 'generator'), ('D', 'discriminator')):
        network = plan.build(net, chosen, 3, 0)
        lines = layer_table(network)
        # Only the image layer of the full resolution is in the paper's table.
        shown = [line for line in lines if line[3] == 0 or line[4]]
        counts = iter(paper_numbers.TABLE2[net])
        rows = [[layer, activation, shape, str(num) if num else '-',
                 (Number(next(counts), None, 'C'), 0) if num else '-']
                for layer, activation, shape, num, _shown in shown]
        totals = [sum(line[3] for line in shown), costs.num_trainable(network)]
        for text, ours, paper in zip(('total', 'total with the image layers of all resolutions'), totals,
                                     (paper_numbers.TABLE2_TOTAL[net], paper_numbers.TABLE2_TOTAL_ALL[net]),
                                     strict=True):
            rows.append([text, '', '', str(ours), (Number(paper, None, 'C'), 0)])
        tables.append(figure_output.Table(
            f'Table 2, {title} for 1024×1024', ['layer', 'activation', 'output', 'parameters', 'official network'],
            rows, 3))
    figure_output.save_tables(material, name, tables)


def layer_table(network):
    """[(layer, activation, output shape, trainable parameters, whether Table 2 has it)] of G_paper or D_paper.

    Scaling, bias and activation, which are layers of their own here, count with the layer that they belong to.
    """
    lines = []
    for layer in lasagne.layers.get_all_layers(network.output_layers):
        size = sum(int(np.prod(param.get_value(borrow=True).shape)) for param in layer.get_params(trainable=True))
        shape = ' × '.join(map(str, layer.output_shape[1:]))
        activation = getattr(layer, 'nonlinearity', None)
        activation = 'LReLU' if isinstance(activation, layers.LeakyRectify) else 'linear'
        if isinstance(layer, layers.WScaleLayer):
            text, _, _, num, shown = lines[-1]
            lines[-1] = text, activation, shape, num + size, shown
        elif isinstance(layer, layers.NINLayer):
            text = 'toRGB, conv 1×1' if network.name == 'G' else 'fromRGB, conv 1×1'
            lines.append((text, activation, shape, size, layer.output_shape[-1] == 1024))
        elif isinstance(layer, layers.Conv2DLayer):
            lines.append(('conv %d×%d' % (2 * (layer.filter_size,)), activation, shape, size, True))
        elif isinstance(layer, lasagne.layers.DenseLayer):
            lines.append(('fully connected', activation, shape, size, True))
        else:
            words = {layers.Upscale2DLayer: 'upsample', layers.MinibatchStatConcatLayer: 'minibatch stddev',
                     lasagne.layers.InputLayer: 'latent vector' if network.name == 'G' else 'input image'}
            text = words.get(type(layer))
            if isinstance(layer, layers.Pool2DLayer) and not layer.name.endswith('xs'):     # Those shrink the image.
                text = 'downsample'
            if text:
                lines.append((text, '-', shape, 0, True))
    return lines


def table3(material, name):
    """Inception scores of CIFAR-10: each run's last snapshot; the best run and the mean of all."""
    rows, results = [], []
    for column, experiment_name in (('unsupervised', 'cifar10'), ('label conditioned', 'cifar10-cond')):
        rows += [[column, method, (number, 2)] for method, number in paper_numbers.TABLE3[column]]
        runs = [run for run in material.all_runs(experiment_name, folder=True)
                if material.check_metrics(run, 'inception_score')]
        if runs:
            scores = [run.last('inception_score') for run in runs]
            best = max(scores, key=lambda score: score['IS_mean'])
            rows.append([column, f'ours, best of {len(runs)}' if len(runs) > 1 else 'ours',
                         (Number(best['IS_mean'], best['IS_std']), 2)])
            if len(runs) > 1:
                mean = figure_output.mean_and_deviation([score['IS_mean'] for score in scores])
                rows.append([column, f'ours, mean of {len(runs)} runs', (mean, 2)])
            results += [run.metric('inception_score')[-1] for run in runs]
    if results:
        figure_output.save_tables(material, name, [figure_output.Table(
            'Table 3: inception scores of CIFAR-10', ['', 'method', 'inception score'], rows, 2,
            [*sample_note(results), paper_numbers.TABLE3_NOTE])])


def table4(material, name):
    """Modes of MNIST-RGB found and their divergence: mean and deviation over runs, last snapshot of each."""
    experiments, rows, results = table4_experiments(), [], []
    columns = list(paper_numbers.TABLE4_COLUMNS)
    for divisor, paper in paper_numbers.TABLE4.items():
        ours = {}
        for column in columns:
            if (divisor, column) in experiments:
                runs = [run for run in material.all_runs(experiments[divisor, column], folder=True)
                        if material.check_metrics(run, 'mnist_modes')]
                if runs:
                    ours[column] = [run.last('mnist_modes') for run in runs]
                    results += [run.metric('mnist_modes')[-1] for run in runs]
        for text, key, value, digits in (('modes', 'modes', 'modes_mean', 1), ('KL', 'KL', 'KL_mean', 2)):
            rows.append([f'K/{divisor}', text, 'paper', *((number, digits) for number in paper[key])])
            if ours:
                rows.append(['', '', 'ours', *(
                    (figure_output.mean_and_deviation([run_values[value] for run_values in ours[column]]), digits)
                    if column in ours else None for column in columns)])
    if results:
        figure_output.save_tables(material, name, [figure_output.Table(
            'Table 4: discrete modes of MNIST-RGB, of 1000', ['', '', '', *columns], rows, 3,
            [*sample_note(results), paper_numbers.TABLE4_NOTE])])


# ----------------------------------------------------------------------------------------------------------------------
# Figures made of images.


def caption_of(run, title, captions):
    """`title` and, if `captions`, what the run has of SWD and FID, beside the paper's."""
    results = {name: run.metric(name)[-1] for name in ('swd', 'fid') if captions and run.metric(name)}
    parts = [title]     # Without '×', which Pillow's own font lacks.
    if 'swd' in results:
        paper = paper_numbers.SWD.get(run.name, {})
        parts.append('SWD x 1000: ' + ', '.join(
            beside_paper(value, paper.get(level)) + (' on average' if level == 'avg' else ' at ' + level)
            for level, value in run.swd().items()))
    if 'fid' in results:
        parts.append('FID ' + beside_paper(run.last('fid')['FID'], paper_numbers.FID.get(run.name)))
    return '. '.join(parts + [note.rstrip('.') for note in sample_note(results.values())])


def beside_paper(value, number):
    """'7.41 (paper 7.30)', or '7.41' where `number` is None."""
    return f'{value:.2f}' + (f' (paper {number.value:.2f})' if number else '')


def gallery(material, experiments, num_images, columns, size, title, captions=False):
    """A picture of generated images of the first of `experiments` that has a run, with a caption; None without."""
    run = material.run(*experiments)
    if run is None:
        return None
    if captions and run.folder:
        material.check_metrics(run, 'swd', 'fid')
    seeds = material.seeds_or(num_images)
    images = run.images(seeds)
    title += ', %dx%d' % images[0].shape[:0:-1] if captions else ''
    return figure_output.captioned(figure_output.image_grid(images, columns, size), caption_of(run, title, captions))


def save_pictures(material, name, pictures, columns=1):
    """Write pictures, those that are not None, side by side as ``NAME.png``."""
    pictures = [picture for picture in pictures if picture is not None]
    if pictures:
        save_pil_image(figure_output.arranged(pictures, columns), material.path(name + '.png'))


def figure3(material, name):
    """The same latents through the CelebA networks of all rows of Table 1."""
    pictures = [gallery(material, [experiment_name], 6, 3, 128, '(%s) %s' % row)
                for experiment_name, row in table1_experiments('celeba').items()]
    save_pictures(material, name, pictures, 3)


def figure5(material, name):
    """CelebA-HQ faces; choose them with --seeds."""
    save_pictures(material, name, [gallery(material, CELEBAHQ, 8, 4, 512, 'CelebA-HQ')])


def figure6(material, name):
    """LSUN bedrooms. The images of the other methods in the paper's figure are theirs."""
    save_pictures(material, name, [gallery(material, ['lsun-bedroom'], 6, 3, 256, 'LSUN bedroom')])


def figure7(material, name):
    """Seven categories of LSUN, one a row."""
    save_pictures(material, name, [gallery(material, ['lsun-' + category], 6, 6, 192, 'LSUN ' + category)
                                   for category in FIGURE7])


def figure8(material, name):
    """What each step of making CelebA-HQ does to a photo."""
    folder = material.stages_dir
    paths = [os.path.join(folder, file) for file in sorted(os.listdir(folder)) if file.endswith('.png')] if (
        folder and os.path.isdir(folder)) else []
    if not paths:
        material.need('the steps of an image, for --stages DIR' if folder is None else
                      f'--stages {folder}: has no PNG files, the steps of an image',
                      CREATE_CELEBAHQ + f' --save_stages {shlex.quote(folder or "stages")}')
        return
    pictures = []
    for index, path in enumerate(paths):
        with Image.open(path) as image:
            image = image.convert('RGB')
            image.thumbnail((320, 240), Image.Resampling.LANCZOS)
        step = os.path.splitext(os.path.basename(path))[0].partition('-')[2]
        pictures.append(figure_output.captioned(image, f'({chr(ord("a") + index)}) {STEPS.get(step, step)}'))
    save_pictures(material, name, pictures, min(len(pictures), 4))


def figure9(material, name):
    """CIFAR-10, unsupervised."""
    save_pictures(material, name, [gallery(material, ['cifar10'], 100, 10, 64, 'CIFAR-10, unsupervised')])


def figure10(material, name):
    """CelebA-HQ: generated images above their nearest neighbours among the reals."""
    run = material.run(*CELEBAHQ)
    if run is None:
        return
    h5_path = run.h5_path(material.config, material.data_dir)
    if not os.path.exists(h5_path):
        material.need(f'{h5_path}, to look for neighbours in', CREATE_CELEBAHQ)
        return
    images = np.stack(run.images(material.seeds_or(6)))
    _indices, neighbours = nearest_neighbours(images, h5_path, NEIGHBOURS, material.features)
    size = 192
    fakes = figure_output.image_grid(images, len(images), size)
    by_rank = neighbours.swapaxes(0, 1).reshape(-1, *neighbours.shape[2:])
    reals = figure_output.captioned(
        figure_output.image_grid(by_rank, len(images), size),
        f'Above: generated. Below: the nearest {NEIGHBOURS} training images, compared by '
        f'{"Inception features" if material.features else "pixels"} of the middle part.')
    save_pictures(material, name, [fakes, reals])


def figure11(material, name):
    """Uncurated CelebA-HQ with SWD and FID."""
    save_pictures(material, name, [gallery(material, CELEBAHQ, 30, 6, 256, 'CelebA-HQ, uncurated', True)])


def lsun_page(material, name):
    """Uncurated images of five categories of LSUN with SWD and FID."""
    save_pictures(material, name, [gallery(material, ['lsun-' + category], 20, 10, 128, 'LSUN ' + category, True)
                                   for category in LSUN_PAGES[name]])


def appendix_h(material, name):
    """A larger grid for each row of Table 1, one file each."""
    for data in paper_numbers.TABLE1:
        for experiment_name, (row, configuration) in table1_experiments(data).items():
            picture = gallery(material, [experiment_name], 80, 10, 128, f'{data} ({row}) {configuration}')
            save_pictures(material, f'{name}-{data}-{row.replace("*", "star")}', [picture])


# ----------------------------------------------------------------------------------------------------------------------
# The table of figures.


class Figure(NamedTuple):
    """How to make a figure or table of the paper."""

    make: Callable          # make(material, name): writes the files, notes in `material` what is missing.
    shows: str
    experiments: tuple = ()     # Of config.py, whose runs it shows; some can be missing.
    also: str = ''          # What else it needs.


def _rows_of_table1(*datasets):
    return tuple(name for data in datasets for name in table1_experiments(data))


FIGURES = {
    'table1': Figure(table1, 'ablation at 128x128', _rows_of_table1(*paper_numbers.TABLE1), 'metrics swd, ms_ssim'),
    'table2': Figure(table2, 'the networks for 1024x1024'),
    'table3': Figure(table3, 'inception scores of CIFAR-10', ('cifar10', 'cifar10-cond'), 'metric inception_score'),
    'table4': Figure(table4, 'modes of MNIST-RGB', tuple(table4_experiments().values()), 'metric mnist_modes'),
    'figure1': Figure(functools.partial(figure_plots.growing_scheme, experiments=FIGURE1, num_images=6),
                      'how the networks grow; faces', FIGURE1[:1]),
    'figure2': Figure(figure_plots.fade_in, 'how layers fade in'),
    'figure3': Figure(figure3, 'CelebA, rows of Table 1', _rows_of_table1('celeba')),
    'figure4a': Figure(functools.partial(
        figure_plots.swd_over_time, experiment_name='table1-celeba-a-gulrajani', title='(a) not growing',
        others=['table1-celeba-b-growing']), 'SWD against time, not growing', ('table1-celeba-a-gulrajani',),
        'metric swd of all snapshots'),
    'figure4b': Figure(functools.partial(
        figure_plots.swd_over_time, experiment_name='table1-celeba-b-growing', title='(b) growing',
        others=['table1-celeba-a-gulrajani']), 'SWD against time, growing', ('table1-celeba-b-growing',),
        'metric swd of all snapshots'),
    'figure4c': Figure(functools.partial(figure_plots.speed, experiment_names=FIGURE4C), 'images shown against time',
                       FIGURE4C),
    'figure5': Figure(figure5, 'chosen CelebA-HQ faces', CELEBAHQ[:1]),
    'figure6': Figure(figure6, 'chosen LSUN bedrooms', ('lsun-bedroom',)),
    'figure7': Figure(figure7, 'chosen images of seven LSUN categories', tuple('lsun-' + name for name in FIGURE7)),
    'figure8': Figure(figure8, 'making of CelebA-HQ', (), '--stages, of create_celebahq --save_stages'),
    'figure9': Figure(figure9, 'CIFAR-10', ('cifar10',)),
    'figure10': Figure(figure10, 'nearest CelebA-HQ training images', CELEBAHQ[:1], 'the dataset'),
    'figure11': Figure(figure11, 'uncurated CelebA-HQ faces', CELEBAHQ[:1], 'metrics swd, fid for the caption'),
    **{name: Figure(lsun_page, 'uncurated LSUN: ' + ', '.join(categories),
                    tuple('lsun-' + category for category in categories), 'metrics swd, fid for the caption')
       for name, categories in LSUN_PAGES.items()},
    'appendix-h': Figure(appendix_h, 'uncurated images of all rows of Table 1', _rows_of_table1(*paper_numbers.TABLE1)),
}


def describe(name):
    """Some lines on a figure: what it shows and needs."""
    figure = FIGURES[name]
    experiments = ', '.join(figure.experiments[:3]) + (', ...' if len(figure.experiments) > 3 else '')
    needs = '; '.join(filter(None, [experiments and 'runs of ' + experiments, figure.also]))
    return f'{name:<11} {figure.shows}\n{"":>11} needs {needs or "nothing"}'


def name_the_nameless(runs, names):
    """Let runs that stand for no experiment stand for the one that all the figures asked for show."""
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


def make_figures(material, names):
    """Make figures, print what was written and what is missing; return whether all went well.

    Parameters
    ----------
    material : figure_material.Material
    names : list of str
        Keys of `FIGURES`.
    """
    needed_by, failed = {}, []
    for name in names:
        material.files, material.needs = [], []
        try:
            FIGURES[name].make(material, name)
        except UserError as error:
            failed.append(name)
            print(f'{name}: error: {error}', file=sys.stderr)
        for path in material.files:
            print(f'{name:<11} {path}')
        for need in material.needs:
            needed_by.setdefault(need, []).append(name)
    if needed_by:
        print('\nMissing:')
    for need, of_figures in needed_by.items():
        print(f'{need.what} (for {", ".join(dict.fromkeys(of_figures))}): {need.command}')
    return not failed


# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def parse_arguments(argv, config):
    parser = argparse.ArgumentParser(
        description='Make the figures and tables of the paper.', formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='figures:\n%s\n\nexamples:\n%s' % (
            '\n'.join('  %-11s %s' % (name, figure.shows) for name, figure in FIGURES.items()),
            '\n'.join('  ' + line.strip() for line in __doc__.split('\n') if line.startswith('    '))))
    parser.add_argument('names', nargs='*', metavar='NAME', help="figures, see below; 'all': all of them")
    parser.add_argument('--run', action='append', default=[], dest='runs', metavar='[EXPERIMENT=]RUN',
                        help="number or folder of a run, or a network pickle; with the experiment of config.py that it "
                             "stands for, unless the folder's config.txt tells; may be given several times")
    parser.add_argument('--out', default=os.path.join(config.result_dir, 'figures'), metavar='DIR',
                        help='default: %(default)s')
    parser.add_argument('--seeds', type=util_scripts.number_list, metavar='LIST',
                        help='images to show, for example 3,8,20-24; default: the first ones')
    parser.add_argument('--stages', metavar='DIR', help='of create_celebahq --save_stages, for figure8')
    parser.add_argument('--inception-weights', metavar='FILE',
                        help='compare by these features in figure10; default: pixels')
    parser.add_argument('--list', action='store_true', help='print what each figure needs, and stop')
    parser.add_argument('--data-dir', default=config.data_dir, metavar='DIR', help='default: %(default)s')
    parser.add_argument('--result-dir', default=config.result_dir, metavar='DIR', help='default: %(default)s')
    parser.add_argument('--engine', default=config.engine, help='what computes; default: %(default)s')
    args = parser.parse_args(argv)
    if not args.names and not args.list:
        parser.error("which figures? Name some, or 'all'; --list tells what there is")
    return args


def run_command(args, config):
    """What the command line asks for; return whether all went well."""
    if args.list:
        print('\n'.join(map(describe, FIGURES)))
        print('\nA run of EXPERIMENT: python train.py --experiment EXPERIMENT\n'
              'Its metrics: python evaluate_metrics.py RUN --metrics NAME ...')
        return True
    for name in args.names:
        if name not in FIGURES and name != 'all':
            raise UserError('%s: there is no such figure%s' % (
                name, did_you_mean(name, FIGURES) or '; --list tells what there is'))
    names = list(FIGURES) if 'all' in args.names else list(dict.fromkeys(args.names))
    runs = [recognise(config, run, args.result_dir) for run in args.runs]
    name_the_nameless(runs, names)
    theano_env.configure(args.engine, config.theano_flags, precision=config.precision)
    features = None
    if args.inception_weights and 'figure10' in names:
        from metrics.inception import InceptionFeatures
        network = InceptionFeatures(args.inception_weights)

        def features(images):
            return network(images)[0]
    try:
        os.makedirs(args.out, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out {args.out}: cannot make this folder ({error.strerror})') from error
    material = Material(config, runs, args.out, args.seeds, args.stages, args.data_dir, features)
    return make_figures(material, names)


def main(argv=None):
    """Run the command; return the exit status."""
    import config
    args = parse_arguments(argv, config)
    return exit_status('figures.py', lambda: 0 if run_command(args, config) else 1,
                       (UserError, theano_env.EnvironmentProblem))


if __name__ == '__main__':
    sys.exit(main())
