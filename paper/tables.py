"""Tables 1 to 4 of the paper, beside its numbers."""

from collections.abc import Iterable
from typing import NamedTuple

import theano_torch  # noqa: F401  (lets Theano be imported)

import lasagne
import numpy as np

import metrics
from nets import costs, layers
from nets.network import Network
from paper import numbers, output
from paper.material import Material, Run
from paper.numbers import Number
from training.experiment import build_network
from training.options import resolve_config


def table1_experiments(data: str) -> dict[str, tuple[str, str]]:
    """{experiment: (row, configuration)} of the rows of Table 1 for 'celeba' or 'lsun-bedroom'."""
    return {f'table1-{data}-{name}': row for name, row in numbers.TABLE1_ROWS.items()}


def table4_experiments() -> dict[tuple[int, str], str]:
    """{(divisor, column): experiment} of Table 4."""
    return {(divisor, column): f'mnist-modes-k{divisor}-{name}' for divisor in numbers.TABLE4
            for column, name in numbers.TABLE4_COLUMNS.items() if name}


def sample_note(results: Iterable[dict]) -> list[str]:
    """A note on metrics of more or fewer images than in the paper; `results` are those of `Run.metric`."""
    used = {(entry['metric'], entry['num_images']) for entry in results}
    other = [f'{metric} of {num} images instead of {metrics.METRICS[metric].num_images}'
             for metric, num in sorted(used) if num != metrics.METRICS[metric].num_images]
    return [f'Ours: {", ".join(other)}.'] if other else []


def remarks(runs: Iterable[Run]) -> list[str]:
    """Notes on runs that were not trained on the data of their experiments."""
    return [f'Ours, {run.name}: {run.remark}.' for run in runs if run.remark]


def table1(material: Material, name: str) -> None:
    """Sliced Wasserstein distance and MS-SSIM of the ablation, last snapshot of each run."""
    columns = [('128', 2), ('64', 2), ('32', 2), ('16', 2), ('avg', 2), ('ms_ssim', 4)]
    tables, made = [], False
    for data, title in (('celeba', 'CelebA'), ('lsun-bedroom', 'LSUN bedroom')):
        rows: list[list[output.Cell]] = []
        results: list[dict] = []
        shown: list[Run] = []
        for experiment_name, (row, configuration) in table1_experiments(data).items():
            paper = numbers.TABLE1[data][row]
            rows.append([row, configuration, 'paper', *((paper[key], digits) for key, digits in columns)])
            runs = [run for run in material.all_runs(experiment_name, folder=True)
                    if material.check_metrics(run, 'swd', 'ms_ssim')]
            if runs:
                ours = [{**run.swd(), 'ms_ssim': run.last('ms_ssim')['MS-SSIM']} for run in runs]
                rows.append(['', '', 'ours', *(
                    (output.mean_and_deviation([values[key] for values in ours]), digits)
                    if all(key in values for values in ours) else None for key, digits in columns)])
                results += [run.metric(metric)[-1] for run in runs for metric in ('swd', 'ms_ssim')]
                shown += runs
                made = True
        tables.append(output.Table(
            f'Table 1, {title}: sliced Wasserstein distance × 1000 by level, and MS-SSIM',
            ['', 'configuration', '', '128', '64', '32', '16', 'average', 'MS-SSIM'], rows, 3,
            [*sample_note(results), *remarks(shown)]))
    if made:
        output.save_tables(material, name, tables)


def table2(material: Material, name: str) -> None:
    """The networks for 1024x1024 from the code, trainable parameters beside the paper's."""
    chosen = resolve_config(material.config, 'celebahq-1024')
    tables = []
    for net, title in (('G', 'generator'), ('D', 'discriminator')):
        network = build_network(net, chosen, 3, chosen['dataset']['resolution'], 0)
        lines = layer_table(network)
        # Only the image layer of the full resolution is in the paper's table.
        shown = [line for line in lines if line.num == 0 or line.shown]
        counts = iter(numbers.TABLE2[net])
        rows: list[list[output.Cell]] = [
            [layer, activation, shape, str(num) if num else '-', (Number(next(counts), None, 'C'), 0) if num else '-']
            for layer, activation, shape, num, _shown in shown]
        totals = [sum(line.num for line in shown), costs.num_trainable(network)]
        for text, ours, paper in zip(('total', 'total with the image layers of all resolutions'), totals,
                                     (numbers.TABLE2_TOTAL[net], numbers.TABLE2_TOTAL_ALL[net]),
                                     strict=True):
            rows.append([text, '', '', str(ours), (Number(paper, None, 'C'), 0)])
        tables.append(output.Table(
            f'Table 2, {title} for 1024×1024', ['layer', 'activation', 'output', 'parameters', 'official network'],
            rows, 3))
    output.save_tables(material, name, tables)


class LayerRow(NamedTuple):
    """A line of Table 2."""

    layer: str
    activation: str
    shape: str          # Of the output.
    num: int            # Trainable parameters.
    shown: bool         # Whether the paper's table has it.


def layer_table(network: Network) -> list[LayerRow]:
    """The layers of G_paper or D_paper.

    Scaling, bias and activation, which are layers of their own here, count with the layer that they belong to.
    """
    lines: list[LayerRow] = []
    for layer in lasagne.layers.get_all_layers(network.output_layers):
        size = sum(int(np.prod(param.get_value(borrow=True).shape)) for param in layer.get_params(trainable=True))
        shape = ' × '.join(map(str, layer.output_shape[1:]))
        activation = getattr(layer, 'nonlinearity', None)
        activation = 'LReLU' if isinstance(activation, layers.LeakyRectify) else 'linear'
        if isinstance(layer, layers.WScaleLayer):
            lines[-1] = lines[-1]._replace(activation=activation, shape=shape, num=lines[-1].num + size)
        elif isinstance(layer, layers.NINLayer):
            text = 'toRGB, conv 1×1' if network.name == 'G' else 'fromRGB, conv 1×1'
            lines.append(LayerRow(text, activation, shape, size, layer.output_shape[-1] == 1024))
        elif isinstance(layer, layers.Conv2DLayer):
            lines.append(LayerRow('conv %d×%d' % (2 * (layer.filter_size,)), activation, shape, size, True))
        elif isinstance(layer, lasagne.layers.DenseLayer):
            lines.append(LayerRow('fully connected', activation, shape, size, True))
        else:
            words = {layers.Upscale2DLayer: 'upsample', layers.MinibatchStatConcatLayer: 'minibatch stddev',
                     lasagne.layers.InputLayer: 'latent vector' if network.name == 'G' else 'input image'}
            text = words.get(type(layer), '')
            if isinstance(layer, layers.Pool2DLayer) and not layer.name.endswith('xs'):     # Those shrink the image.
                text = 'downsample'
            if text:
                lines.append(LayerRow(text, '-', shape, 0, True))
    return lines


def table3(material: Material, name: str) -> None:
    """Inception scores of CIFAR-10: each run's last snapshot; the best run and the mean of all."""
    rows: list[list[output.Cell]] = []
    results: list[dict] = []
    shown: list[Run] = []
    for column, experiment_name in (('unsupervised', 'cifar10'), ('label conditioned', 'cifar10-cond')):
        rows += [[column, method, (number, 2)] for method, number in numbers.TABLE3[column]]
        runs = [run for run in material.all_runs(experiment_name, folder=True)
                if material.check_metrics(run, 'inception_score')]
        if runs:
            scores = [run.last('inception_score') for run in runs]
            best = max(scores, key=lambda score: score['IS_mean'])
            rows.append([column, f'ours, best of {len(runs)}' if len(runs) > 1 else 'ours',
                         (Number(best['IS_mean'], best['IS_std']), 2)])
            if len(runs) > 1:
                mean = output.mean_and_deviation([score['IS_mean'] for score in scores])
                rows.append([column, f'ours, mean of {len(runs)} runs', (mean, 2)])
            results += [run.metric('inception_score')[-1] for run in runs]
            shown += runs
    if results:
        output.save_tables(material, name, [output.Table(
            'Table 3: inception scores of CIFAR-10', ['', 'method', 'inception score'], rows, 2,
            [*sample_note(results), *remarks(shown), numbers.TABLE3_NOTE])])


def table4(material: Material, name: str) -> None:
    """Modes of MNIST-RGB found and their divergence: mean and deviation over runs, last snapshot of each."""
    experiments = table4_experiments()
    rows: list[list[output.Cell]] = []
    results: list[dict] = []
    shown: list[Run] = []
    columns = list(numbers.TABLE4_COLUMNS)
    for divisor, paper in numbers.TABLE4.items():
        ours = {}
        for column in columns:
            if (divisor, column) in experiments:
                runs = [run for run in material.all_runs(experiments[divisor, column], folder=True)
                        if material.check_metrics(run, 'mnist_modes')]
                if runs:
                    ours[column] = [run.last('mnist_modes') for run in runs]
                    results += [run.metric('mnist_modes')[-1] for run in runs]
                    shown += runs
        for text, key, value, digits in (('modes', 'modes', 'modes_mean', 1), ('KL', 'KL', 'KL_mean', 2)):
            rows.append([f'K/{divisor}', text, 'paper', *((number, digits) for number in paper[key])])
            if ours:
                rows.append(['', '', 'ours', *(
                    (output.mean_and_deviation([run_values[value] for run_values in ours[column]]), digits)
                    if column in ours else None for column in columns)])
    if results:
        output.save_tables(material, name, [output.Table(
            'Table 4: discrete modes of MNIST-RGB, of 1000', ['', '', '', *columns], rows, 3,
            [*sample_note(results), *remarks(shown), numbers.TABLE4_NOTE])])
