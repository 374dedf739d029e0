"""Tables 1 to 4 of the paper, with our numbers beside the paper's."""

from collections.abc import Sequence
from typing import NamedTuple

import theano_torch  # noqa: F401  (lets Theano be imported)

import lasagne
import numpy as np

from nets import costs, layers
from nets.network import Network
from paper import numbers, output
from paper.entries import Entry
from paper.material import Material, Run, swd_by_level
from paper.numbers import Number
from training.building import build_network
from training.options import resolve_config


def table1_experiments(data: str) -> dict[str, tuple[str, str]]:
    """{experiment: (row, configuration)} of the rows of Table 1 for 'celeba' or 'lsun-bedroom'."""
    return {f'table1-{data}-{name}': row for name, row in numbers.TABLE1_ROWS.items()}


def table4_experiments() -> dict[tuple[int, str], str]:
    """{(divisor, column): experiment} of Table 4."""
    return {(divisor, column): f'mnist-modes-k{divisor}-{name}' for divisor in numbers.TABLE4
            for column, name in numbers.TABLE4_COLUMNS.items() if name}


def label_of(entries: Sequence[Entry], text: str = 'ours') -> str:
    """`text`, with a warning if a run differs from its experiment."""
    if any(entry.other for entry in entries):
        return f'{text}, NOT the experiment'
    return text if all(entry.is_exact for entry in entries) else f'{text}, differs: see below'


def floor_label(floor: dict[str, dict]) -> str:
    """Label of the row for the reals, with the number of images of each metric."""
    texts = [f'{metric}: {result["num_images"]}' for metric, result in floor.items()]
    return f'reals ({", ".join(texts)} images)'


def table1(material: Material, name: str) -> None:
    """Sliced Wasserstein distance and MS-SSIM of the ablation, for the final networks of each run."""
    columns = [('128', 2), ('64', 2), ('32', 2), ('16', 2), ('avg', 2), ('ms_ssim', 4)]
    tables, shown = [], []
    for data, title in (('celeba', 'CelebA'), ('lsun-bedroom', 'LSUN bedroom')):
        rows: list[list[output.Cell]] = []
        of_data: list[Run] = []
        for experiment_name, (row, configuration) in table1_experiments(data).items():
            paper = numbers.TABLE1[data][row]
            rows.append([row, configuration, 'paper', *((paper[key], digits) for key, digits in columns)])
            runs = [run for run in material.all_runs(experiment_name, folder=True)
                    if material.check_metrics(run, 'swd', 'ms_ssim')]
            if runs:
                entries = [material.show(f'{title}, row {row}', run, experiment_name, len(runs), [
                    run.result(metric) for metric in ('swd', 'ms_ssim')]) for run in runs]
                ours = [{**run.swd(), 'ms_ssim': run.values('ms_ssim')['MS-SSIM']} for run in runs]
                rows.append(['', '', label_of(entries), *(
                    (output.mean_and_deviation([values[key] for values in ours]), digits)
                    if all(key in values for values in ours) else None for key, digits in columns)])
                of_data += runs
        floor = material.check_floor(of_data, 'swd', 'ms_ssim')
        if floor:
            values = {**swd_by_level(floor.get('swd', {}).get('values', {})),
                      'ms_ssim': floor.get('ms_ssim', {}).get('values', {}).get('MS-SSIM')}
            rows.append(['', floor_label(floor), 'floor', *(
                (Number(values[key]), digits) if values.get(key) is not None else None for key, digits in columns)])
        shown += of_data
        tables.append(output.Table(
            f'Table 1, {title}: sliced Wasserstein distance × 1000 by level, and MS-SSIM',
            ['', 'configuration', '', '128', '64', '32', '16', 'average', 'MS-SSIM'], rows, 3,
            [numbers.TABLE1_NOTE]))
    if shown:
        output.save_tables(material, name, tables)


def table2(material: Material, name: str) -> None:
    """Layers and trainable parameters of our networks for 1024x1024, beside the parameters of the official networks."""
    chosen = resolve_config(material.config, 'celebahq-1024')
    tables = []
    for net, title in (('G', 'generator'), ('D', 'discriminator')):
        network = build_network(net, chosen, 3, chosen['dataset']['resolution'], 0)
        lines = layer_table(network)
        # The paper's table has toRGB and fromRGB at full resolution only.
        shown = [line for line in lines if line.num == 0 or line.shown]
        counts = iter(numbers.TABLE2[net])
        rows: list[list[output.Cell]] = []
        for layer, activation, shape, num, _shown in shown:
            rows.append([layer, activation, shape, *(_parameters(num, next(counts)) if num else '---')])
        totals = [sum(line.num for line in shown), costs.num_trainable(network)]
        for text, ours, paper in zip(('total', 'total with the image layers of all resolutions'), totals,
                                     (numbers.TABLE2_TOTAL[net], numbers.TABLE2_TOTAL_ALL[net]),
                                     strict=True):
            rows.append([text, '', '', *_parameters(ours, paper)])
        tables.append(output.Table(
            f'Table 2, {title} for 1024×1024',
            ['layer', 'activation', 'output', 'parameters', 'exactly', 'official network'], rows, 3))
    output.save_tables(material, name, tables)


def _parameters(ours: int, official: int) -> list[output.Cell]:
    """The last three cells of a row of Table 2."""
    return [numbers.rounded(ours), str(ours), (Number(official, None, 'C'), 0)]


class LayerRow(NamedTuple):
    """A line of Table 2."""

    layer: str
    activation: str
    shape: str          # Output shape.
    num: int            # Trainable parameters.
    shown: bool         # Whether the paper's table has this layer.


def layer_table(network: Network) -> list[LayerRow]:
    """The rows of Table 2 for a network made by G_paper or D_paper.

    A convolution and its scaling, bias and activation are separate layers in our networks, but one row in the table.
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
        elif isinstance(layer, layers.PixelNormLayer):
            before = lines[-1].activation
            lines[-1] = lines[-1]._replace(activation='pixel norm' if before == '-' else before + ', pixel norm')
        else:
            words = {layers.Upscale2DLayer: 'upsample', layers.MinibatchStatConcatLayer: 'minibatch stddev',
                     lasagne.layers.InputLayer: 'latent vector' if network.name == 'G' else 'input image'}
            text = words.get(type(layer), '')
            if isinstance(layer, layers.Pool2DLayer) and not layer.name.endswith('xs'):     # 'xs' shrinks the image.
                text = 'downsample'
            if text:
                lines.append(LayerRow(text, '-', shape, 0, True))
    return lines


def best_score(run: Run) -> Number | None:
    """The highest inception score of a run's snapshots, with its deviation; None without a score."""
    entries = [*run.series('inception_score'), *filter(None, [run.result('inception_score')])]
    scores = [Number(entry['values']['IS_mean'], entry['values']['IS_std']) for entry in entries]
    return max(scores, key=lambda score: score.value, default=None)


def table3(material: Material, name: str) -> None:
    """Inception scores of CIFAR-10: the highest score during each training, as in the paper, and the final score.

    Both are given for the best run and as a mean over the runs.
    """
    rows: list[list[output.Cell]] = []
    shown: list[Run] = []
    for column, experiment_name in (('unsupervised', 'cifar10'), ('label conditioned', 'cifar10-cond')):
        rows += [[column, method, (number, 2)] for method, number in numbers.TABLE3[column]]
        given = material.all_runs(experiment_name, folder=True, count=numbers.TABLE3_RUNS)
        # The command for all snapshots, which check_metrics records above, also evaluates the final one.
        during = [run for run in given if material.check_metrics(run, 'inception_score', all_snapshots=True)]
        runs = [run for run in given if (material.check_metrics(run, 'inception_score') if run in during else
                                         run.result('inception_score'))]
        for of_runs, words in ((during, 'highest during training'), (runs, 'final networks')):
            entries, scores = [], []
            for run in of_runs:
                series = run.series('inception_score')
                if of_runs is during:
                    best = max(series, key=lambda entry: entry['values']['IS_mean'])
                    entries.append(material.show(
                        f'{column}, {words}', run, experiment_name, len(of_runs), [best], best['snapshot'],
                        best['kimg'], [f'highest of {len(series)} snapshots']))
                    entries[-1].chosen = True
                else:
                    best = run.result('inception_score') or {}
                    entries.append(material.show(f'{column}, {words}', run, experiment_name, len(of_runs), [best]))
                scores.append(Number(best['values']['IS_mean'], best['values']['IS_std']))
            if scores:
                ours = label_of(entries)
                best_text = f'{ours}, best of {len(scores)} runs' if len(scores) > 1 else f'{ours}, 1 run'
                rows.append([column, f'{best_text}, {words}', (max(scores, key=lambda score: score.value), 2)])
            if len(scores) > 1:
                mean = output.mean_and_deviation([score.value for score in scores])
                rows.append([column, f'{ours}, mean of {len(scores)} runs, {words}', (mean, 2)])
        shown += dict.fromkeys([*during, *runs])
    floor = material.check_floor(shown, 'inception_score')
    for result in floor.values():
        values = result['values']
        rows.append(['floor', floor_label(floor), (Number(values['IS_mean'], values['IS_std']), 2)])
    if shown:
        output.save_tables(material, name, [output.Table(
            'Table 3: inception scores of CIFAR-10', ['', 'method', 'inception score'], rows, 2,
            [numbers.TABLE3_NOTE])])


def table4(material: Material, name: str) -> None:
    """Modes of MNIST-RGB found and their KL divergence, for the final networks: mean and deviation over the runs."""
    experiments = table4_experiments()
    rows: list[list[output.Cell]] = []
    shown: list[Run] = []
    columns = list(numbers.TABLE4_COLUMNS)
    kinds = (('modes', 'modes', 'modes_mean', 1), ('KL', 'KL', 'KL_mean', 2))
    for divisor, paper in numbers.TABLE4.items():
        ours: dict[str, list[dict[str, float]]] = {}
        entries = []
        for column in columns:
            if (divisor, column) in experiments:
                experiment_name = experiments[divisor, column]
                runs = [run for run in material.all_runs(experiment_name, folder=True, count=numbers.TABLE4_RUNS)
                        if material.check_metrics(run, 'mnist_modes')]
                if runs:
                    ours[column] = [run.values('mnist_modes') for run in runs]
                    entries += [material.show(f'K/{divisor}, {column}', run, experiment_name, len(runs),
                                              [run.result('mnist_modes')]) for run in runs]
                    shown += runs
        for text, key, value, digits in kinds:
            rows.append([f'K/{divisor}', text, 'paper', *((number, digits) for number in paper[key])])
            if ours:
                rows.append(['', '', label_of(entries), *(
                    (output.mean_and_deviation([run_values[value] for run_values in ours[column]]), digits)
                    if column in ours else None for column in columns)])
    floor = material.check_floor(shown, 'mnist_modes')
    for result in floor.values():
        for text, _key, value, digits in kinds:
            rows.append([floor_label(floor), text, 'floor', *(
                (Number(result['values'][value]), digits) if numbers.TABLE4_COLUMNS[column] else None
                for column in columns)])
    if shown:
        output.save_tables(material, name, [output.Table(
            'Table 4: discrete modes of MNIST-RGB, of 1000', ['', '', '', *columns], rows, 3,
            [numbers.TABLE4_NOTE])])
