"""Writes the report of the studies at small scale, ``results/README.md`` and its pictures, from the files of the runs.

Significance tests, not authors, decide which claims of the paper hold: see :func:`verdict`.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from common.files import atomic_write
from metrics.floor import NOISE, REALS
from paper.campaign import Part
from paper.output import markdown_lines, mean_and_deviation, new_figure, text_of
from paper.signals import signals_of_run
from paper.studies import STUDIES
from runs.phases import find_phases
from runs.records import REALS_NAME, are_finite, read_entries, read_results, read_stats

SIGNIFICANT = 0.05      # Largest p value at which a difference counts as shown.

RunDirs = dict[str, str | None]


def results_of(run_dir: str | os.PathLike, metric: str) -> list[tuple[float, float, dict[str, float]]]:
    """[(kimg, seconds of training, {name: value})] of a metric of a run, in the order of the snapshots."""
    found = [(entry['kimg'], entry['seconds'], entry['values'])
             for entry in read_results(run_dir)
             if entry['metric'] == metric and None not in (entry['kimg'], entry['seconds'])
             and are_finite(entry['values'], ['modes_mean', 'KL_mean'] if metric == 'mnist_modes' else ())]
    return sorted(found, key=lambda row: row[:2])


def floors_of(parts: Sequence[Part], run_dirs: RunDirs, metric: str) -> dict[str, dict[str, float]]:
    """{'reals' or 'noise': {name: value}} of a metric for real images and for noise, as bounds for generators."""
    found = {}
    for part in parts:
        for entry in read_entries(str(run_dirs[part.folder]), REALS_NAME):
            if entry['metric'] == metric and entry.get('values'):
                found[str(entry.get('snapshot'))] = entry['values']
    return {name: found[name] for name in (REALS, NOISE) if name in found}


def average(values: dict[str, float]) -> float:
    """The mean over the levels of a sliced Wasserstein distance, which is the last of its values."""
    return list(values.values())[-1]


def mean_std(numbers: Sequence[float], digits: int = 1) -> str:
    """'mean ± deviation' of the numbers, or '-' if there are none."""
    return text_of((mean_and_deviation(numbers), digits))[0] if numbers else '-'


def table(header: list[str], rows: list[list]) -> str:
    """A table in Markdown; the first column is text."""
    return '\n'.join(markdown_lines(header, rows)) + '\n'


def save(figure: Any, path: str) -> None:
    with atomic_write(path) as picture:
        figure.savefig(picture, dpi=110, format='png')


# ----------------------------------------------------------------------------------------------------------------------
# Comparisons.


class Comparison(NamedTuple):
    """Welch's t-test of the hypothesis that two samples have equal means.

    Attributes
    ----------
    difference : float
        Mean of the first sample minus mean of the second.
    low, high : float
        95 % confidence interval of the difference.
    p : float
        Two-sided p value; NaN if a sample has fewer than two values or if neither sample varies.
    """

    difference: float
    low: float
    high: float
    p: float


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Compare the means of two samples whose variances may differ (B. L. Welch 1947)."""
    difference = float(np.mean(first) - np.mean(second))
    variances = [np.var(sample, ddof=1) / len(sample) if len(sample) > 1 else np.nan for sample in (first, second)]
    error = float(np.sqrt(sum(variances)))
    if not error > 0:
        return Comparison(difference, np.nan, np.nan, np.nan)
    freedom = error ** 4 / sum(variance ** 2 / (len(sample) - 1)
                               for variance, sample in zip(variances, (first, second), strict=True))
    reach = float(scipy.stats.t.ppf(0.975, freedom)) * error
    p = float(2 * scipy.stats.t.sf(abs(difference) / error, freedom))
    return Comparison(difference, difference - reach, difference + reach, p)


def verdict(comparison: Comparison, expected_sign: int) -> str:
    """'shown', 'the opposite is shown' or 'not shown', for a difference whose sign the paper predicts."""
    if not comparison.p <= SIGNIFICANT:
        return 'not shown'
    return 'shown' if comparison.difference * expected_sign > 0 else 'the opposite is shown'


def comparison_table(samples: dict[str, list[float]], claims: Sequence[tuple[str, str, str]], digits: int,
                     lower_is_better: bool) -> str:
    """A table of the paper's claims about pairs of rows, with the test of each claim on our runs.

    Parameters
    ----------
    samples : dict
        {row: values of its runs}.
    claims : sequence of (str, str, str)
        The claim, the row that should be better, and the row that should be worse.
    digits : int
        Decimals of the difference.
    lower_is_better : bool
    """
    rows = []
    for claim, better, worse in claims:
        if not samples.get(better) or not samples.get(worse):
            continue
        found = compare(samples[better], samples[worse])
        numbers = [f'{value:.{digits}f}' if np.isfinite(value) else '-' for value in found[:3]]
        rows.append([claim, f'{len(samples[better])}, {len(samples[worse])}',
                     f'{numbers[0]} ({numbers[1]}, {numbers[2]})',
                     f'{found.p:.3f}' if np.isfinite(found.p) else '-', verdict(found, -1 if lower_is_better else 1)])
    return table(['claim', 'runs', 'difference (95 % interval)', "p (Welch's test)", 'by these runs'], rows)


# ----------------------------------------------------------------------------------------------------------------------
# Growing.


def growing(parts: list[Part], run_dirs: RunDirs, report_dir: str) -> str:
    """Quality against training time, as in Figure 4, distances by level, and the speed in each phase."""
    figure = new_figure(13, 3.8)
    left, middle, right = figure.subplots(1, 3)
    finals: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for part in parts:
        run_dir = str(run_dirs[part.folder])
        results = results_of(run_dir, 'swd')
        if not results:
            continue
        color = {'growing': 'C0', 'nogrowing': 'C3'}[part.name]
        minutes = [seconds / 60 for _kimg, seconds, _values in results]
        distances = [average(values) for *_, values in results]
        label = part.name if part.name not in finals else None
        left.plot(minutes, distances, color=color, label=label, marker='.')
        stats = [line for line in read_stats(run_dir) if 'seconds' in line]
        middle.plot([line['seconds'] / 60 for line in stats], [line['kimg'] for line in stats], color=color,
                    label=label)
        if part.name == 'growing' and label:
            for level in list(results[0][2])[:-1]:
                right.plot([kimg for kimg, *_ in results], [values[level] for *_, values in results], marker='.',
                           label=level.rpartition('_')[2])
        finals.setdefault(part.name, []).append(distances[-1])
        times.setdefault(part.name, []).append(minutes[-1])
    left.set(xlabel='minutes', ylabel='sliced Wasserstein distance x 1000', yscale='log')
    middle.set(xlabel='minutes', ylabel='thousands of images shown')
    right.set(xlabel='thousands of images shown', title='growing, by level', yscale='log')
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, os.path.join(report_dir, 'small-scale-growing.png'))
    rows = [[name, len(finals.get(name, [])), mean_std(times.get(name, []), 2), mean_std(finals.get(name, []))]
            for name in ('growing', 'nogrowing')]
    claims = [('growing ends with smaller distances', 'growing', 'nogrowing')]
    return '\n'.join([
        table(['', 'runs', 'minutes for all images', 'final SWD x 1000'], rows),
        comparison_table(finals, claims, 1, lower_is_better=True),
        comparison_table(times, [('growing shows the same images in fewer minutes', 'growing', 'nogrowing')], 2,
                         lower_is_better=True),
        phase_table(parts, run_dirs), '![](small-scale-growing.png)\n'])


def phase_table(parts: list[Part], run_dirs: RunDirs) -> str:
    """Seconds per thousand images in each phase, without compile time: mean over the runs of each kind."""
    found: dict[str, dict[str, list[float]]] = {}
    for part in parts:
        for phase in find_phases(read_stats(str(run_dirs[part.folder]))):
            if phase.sec_per_kimg is not None:
                found.setdefault(phase.name, {}).setdefault(part.name, []).append(phase.sec_per_kimg)
    names = list(dict.fromkeys(part.name for part in parts))
    return table(['sec/kimg', *names], [[phase, *(mean_std(by_name.get(name, []), 2) for name in names)]
                                        for phase, by_name in found.items()])


# ----------------------------------------------------------------------------------------------------------------------
# Table 1.

TABLE1_CLAIMS = (       # (claim, better row, worse row), by the average SWD on CelebA in the paper's Table 1.
    ('b, growing, is better than a', 'b-growing', 'a-gulrajani'),
    ('c, a small minibatch, is worse than b', 'b-growing', 'c-small-minibatch'),
    ('d, revised training, is better than c', 'd-revised-training', 'c-small-minibatch'),
    ('e, minibatch stddev, is better than e*, discrimination', 'e-minibatch-stddev', 'estar-minibatch-discrimination'),
    ('e, minibatch stddev, is better than d', 'e-minibatch-stddev', 'd-revised-training'),
    ('f, equalized learning rate, is better than e', 'f-equalized-learning-rate', 'e-minibatch-stddev'),
    ('g, pixelwise normalization, is better than f', 'g-pixelwise-normalization', 'f-equalized-learning-rate'),
    ('g is better than a', 'g-pixelwise-normalization', 'a-gulrajani'),
)


def table_of_rows(parts: list[Part], run_dirs: RunDirs, report_dir: str, picture: str, title: str = 'row of Table 1',
                  claims: Sequence[tuple[str, str, str]] = TABLE1_CLAIMS) -> str:
    """SWD and MS-SSIM of each row, mean and deviation over its seeds, and tests of claims about pairs of rows."""
    names = list(dict.fromkeys(part.name for part in parts))
    distances: dict[str, list[list[float]]] = {}
    similarities: dict[str, list[float]] = {}
    levels: list[str] = []
    for part in parts:
        run_dir = str(run_dirs[part.folder])
        for _kimg, _seconds, values in results_of(run_dir, 'swd')[-1:]:
            levels = levels or list(values)
            if list(values) == levels:
                distances.setdefault(part.name, []).append(list(values.values()))
        for _kimg, _seconds, values in results_of(run_dir, 'ms_ssim')[-1:]:
            similarities.setdefault(part.name, []).append(list(values.values())[0])
    rows = []
    for name in names:
        columns: Any = np.transpose(distances[name]) if name in distances else [[]] * len(levels)
        rows.append([name, len(distances.get(name, [])), *[mean_std(list(column)) for column in columns],
                     mean_std(similarities.get(name, []), 3)])
    similarity = floors_of(parts, run_dirs, 'ms_ssim')
    for name, values in floors_of(parts, run_dirs, 'swd').items():
        rows.append([name, '', *(f'{values[level]:.1f}' if level in values else '-' for level in levels),
                     f'{list(similarity[name].values())[0]:.3f}' if name in similarity else '-'])
    averages = {name: [entry[-1] for entry in distances[name]] for name in names if name in distances}
    figure = new_figure(9, 3.6)
    axes = figure.subplots()
    axes.bar(list(averages), [np.mean(numbers) for numbers in averages.values()], color='C0', alpha=0.6)
    for index, numbers in enumerate(averages.values()):
        axes.plot([index] * len(numbers), numbers, 'k.')
    axes.set_ylabel('SWD x 1000, average')
    axes.tick_params(axis='x', labelrotation=25)
    save(figure, os.path.join(report_dir, picture))
    return '\n'.join([table([title, 'runs', *levels, 'MS-SSIM'], rows),
                      comparison_table(averages, claims, 1, lower_is_better=True), f'![]({picture})\n'])


def ablation(parts: list[Part], run_dirs: RunDirs, report_dir: str) -> str:
    return table_of_rows(parts, run_dirs, report_dir, 'small-scale-ablation.png')


def colour(parts: list[Part], run_dirs: RunDirs, report_dir: str) -> str:
    return table_of_rows(parts, run_dirs, report_dir, 'small-scale-colour.png')


# ----------------------------------------------------------------------------------------------------------------------
# One change at a time.

VARIATION_CLAIMS = (    # (claim, better row, worse row)
    ('gamma 1 is better than gamma 750', 'g', 'gamma-750'),
    ('averaged weights are better than plain ones', 'g', 'plain-weights'),
    ('float32 is better than bfloat16', 'g', 'bfloat16'),
    ('pixel norm helps', 'g', 'no-pixelnorm'),
    ('WGAN-GP is better than least squares', 'g', 'lsgan'),
    ("noise in D's layers helps least squares", 'lsgan', 'lsgan-no-noise'),
    ('pixel norm helps least squares', 'lsgan-no-noise', 'lsgan-no-noise-no-pixelnorm'),
)


def variations(parts: list[Part], run_dirs: RunDirs, report_dir: str) -> str:
    """The rows of the study, and the signal magnitudes of their networks."""
    signals: dict[str, list[tuple[float, float]]] = {}
    for part in parts:
        signals.setdefault(part.name, []).append(signals_of_run(str(run_dirs[part.folder])))
    rows = [[name, *(mean_std(strengths, 2) for strengths in zip(*of_runs, strict=True))]
            for name, of_runs in signals.items()]
    return '\n'.join([
        table_of_rows(parts, run_dirs, report_dir, 'small-scale-variations.png', 'change', VARIATION_CLAIMS),
        table(['largest root mean square of a layer', 'G', 'D'], rows)])


# ----------------------------------------------------------------------------------------------------------------------
# Table 4.


def modes(parts: list[Part], run_dirs: RunDirs, _report_dir: str) -> str:
    """Table 4: the number of modes found, of 1000, and the KL divergence from the uniform distribution."""
    found: dict[str, list[float]] = {}
    divergences: dict[str, list[float]] = {}
    for part in parts:
        for _kimg, _seconds, values in results_of(str(run_dirs[part.folder]), 'mnist_modes')[-1:]:
            found.setdefault(part.name, []).append(values['modes_mean'])
            divergences.setdefault(part.name, []).append(values['KL_mean'])
    names = list(dict.fromkeys(part.name for part in parts))
    rows = [[name, len(found.get(name, [])), mean_std(found.get(name, [])), mean_std(divergences.get(name, []), 2)]
            for name in names]
    rows += [[name, '', f'{values["modes_mean"]:.1f}', f'{values["KL_mean"]:.2f}']
             for name, values in floors_of(parts, run_dirs, 'mnist_modes').items()]
    claims = [(f'{size}: {words}', f'{size}-{better}', f'{size}-{worse}') for size in ('k4', 'k2')
              for words, better, worse in (('our normalization finds more modes', 'our-norm', 'wgan-gp'),
                                           ('minibatch stddev finds more', 'mb-stddev', 'our-norm'),
                                           ('growing finds as many or more', 'progression', 'mb-stddev'))]
    return '\n'.join([table(['discriminator and variant', 'runs', 'modes of 1000', 'KL(found, uniform)'], rows),
                      comparison_table(found, claims, 1, lower_is_better=False)])


# ----------------------------------------------------------------------------------------------------------------------
# The report.

WRITERS: dict[str, Callable[[list[Part], RunDirs, str], str]] = {
    'growing': growing, 'ablation': ablation, 'colour': colour, 'variations': variations,
    'modes': modes}
MARK = '<!-- made by reproduce.py: %s -->\n'


def write(names: Sequence[str], parts: list[Part], run_dirs: RunDirs, report_dir: str) -> None:
    """Update ``README.md`` in `report_dir`: replace the tables between the two marks of each study, keep other text.

    Parameters
    ----------
    names : sequence of str
        Studies, keys of `paper.studies.STUDIES`.
    parts : list of Part
        All parts of these studies.
    run_dirs : dict
        {folder of a part: run folder of its finished training, or None}
    report_dir : str
        Folder of the report and its pictures.
    """
    path = pathlib.Path(report_dir, 'README.md')
    text = path.read_text(encoding='utf-8') if path.exists() else '# The paper\'s claims at a size for a laptop\n'
    os.makedirs(report_dir, exist_ok=True)
    for name in names:
        done = [part for part in parts if part.folder.startswith(name + '-') and run_dirs[part.folder]]
        if not done:
            continue
        begin, end = MARK % name, MARK % (name + ' end')
        if begin not in text:
            text += f'\n## {STUDIES[name].title}\n\n{begin}{end}'
        before, _, after = text.partition(begin)
        text = before + begin + '\n' + WRITERS[name](done, run_dirs, report_dir) + '\n' + end + after.partition(end)[2]
    with atomic_write(str(path), 'w', encoding='utf-8') as report:
        report.write(text)
    print(f'Wrote {path}')
