"""The report of `reproduce.py`: ``results/README.md`` with its pictures, out of the runs' own files."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from common.files import atomic_write
from paper.output import markdown_lines, mean_and_deviation, new_figure, text_of
from runs.records import are_finite, read_results, read_stats

CLAIMS = {
    'growing': 'Growing makes training faster (section 6.2, Figure 4)',
    'ablation': 'Every row of Table 1 adds something',
    'modes': 'Our normalization and the minibatch standard deviation find more modes (Table 4)',
}


class Job(NamedTuple):
    """One training run of `reproduce.py`."""

    part: str           # 'growing', 'ablation' or 'modes'.
    name: str
    seed: int
    experiment: dict    # As an entry of config.experiments.

    @property
    def folder(self) -> str:
        return f'{self.part}-{self.name}-seed{self.seed}'


def results_of(run_dir: str | os.PathLike, metric: str) -> list[tuple[float, float, dict[str, float]]]:
    """[(kimg, seconds of training, {value: number})] of a metric of a run, in the order of the snapshots."""
    found = [(entry['kimg'], entry['seconds'], entry['values'])
             for entry in read_results(run_dir)
             if entry['metric'] == metric and None not in (entry['kimg'], entry['seconds'])
             and are_finite(entry['values'], ['modes_mean', 'KL_mean'] if metric == 'mnist_modes' else ())]
    return sorted(found, key=lambda row: row[:2])


def average(values: dict[str, float]) -> float:
    """The last of the values of a sliced Wasserstein distance: the mean over its levels."""
    return list(values.values())[-1]


def mean_std(numbers: Sequence[float], digits: int = 1) -> str:
    """'mean ± deviation' of a few numbers, or a dash."""
    return text_of((mean_and_deviation(numbers), digits))[0] if numbers else '-'


def table(header: list[str], rows: list[list]) -> str:
    """A table in Markdown; the first column is text."""
    return '\n'.join(markdown_lines(header, rows)) + '\n'


def save(figure: Any, path: str) -> None:
    with atomic_write(path) as picture:
        figure.savefig(picture, dpi=110, format='png')


# ----------------------------------------------------------------------------------------------------------------------
# The parts.


def growing(jobs: list[Job], run_dirs: dict, report_dir: str) -> str:
    """Quality against time, as in Figure 4, and when each way reaches what the other one ends with."""
    figure = new_figure(10, 3.8)
    left, right = figure.subplots(1, 2)
    finals: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for job in jobs:
        results = results_of(run_dirs[job.folder], 'swd')
        if not results:
            continue
        color = {'growing': 'C0', 'nogrowing': 'C3'}[job.name]
        minutes = [seconds / 60 for _kimg, seconds, _values in results]
        distances = [average(values) for *_, values in results]
        label = job.name if job.name not in finals else None
        left.plot(minutes, distances, color=color, label=label, marker='.')
        stats = [line for line in read_stats(run_dirs[job.folder]) if 'seconds' in line]
        right.plot([line['seconds'] / 60 for line in stats], [line['kimg'] for line in stats], color=color, label=label)
        finals.setdefault(job.name, []).append(distances[-1])
        times.setdefault(job.name, []).append(minutes[-1])
    left.set(xlabel='minutes', ylabel='sliced Wasserstein distance x 1000', yscale='log')
    right.set(xlabel='minutes', ylabel='thousands of images shown')
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, os.path.join(report_dir, 'small-scale-growing.png'))
    rows = [[name, mean_std(times.get(name, []), 2), mean_std(finals.get(name, []))]
            for name in ('growing', 'nogrowing')]
    return table(['', 'minutes for all images', 'final SWD x 1000'], rows) + '\n![](small-scale-growing.png)\n'


def ablation(jobs: list[Job], run_dirs: dict, report_dir: str) -> str:
    """Table 1: mean and deviation over the seeds, row by row."""
    names = list(dict.fromkeys(job.name for job in jobs))
    distances: dict[str, list[list[float]]] = {}
    similarities: dict[str, list[float]] = {}
    levels: list[str] = []
    for job in jobs:
        for _kimg, _seconds, values in results_of(run_dirs[job.folder], 'swd')[-1:]:
            levels = levels or list(values)
            if list(values) == levels:
                distances.setdefault(job.name, []).append(list(values.values()))
        for _kimg, _seconds, values in results_of(run_dirs[job.folder], 'ms_ssim')[-1:]:
            similarities.setdefault(job.name, []).append(list(values.values())[0])
    rows = []
    for name in names:
        columns: Any = np.transpose(distances[name]) if name in distances else [[]] * len(levels)
        rows.append([name, len(distances.get(name, [])), *[mean_std(list(column)) for column in columns],
                     mean_std(similarities.get(name, []), 3)])
    figure = new_figure(9, 3.6)
    axes = figure.subplots()
    shown = [name for name in names if name in distances]
    averages = [[entry[-1] for entry in distances[name]] for name in shown]
    axes.bar(shown, [np.mean(numbers) for numbers in averages], color='C0', alpha=0.6)
    for index, numbers in enumerate(averages):
        axes.plot([index] * len(numbers), numbers, 'k.')
    axes.set_ylabel('SWD x 1000, average')
    axes.tick_params(axis='x', labelrotation=25)
    save(figure, os.path.join(report_dir, 'small-scale-ablation.png'))
    return table(['row of Table 1', 'runs', *levels, 'MS-SSIM'], rows) + '\n![](small-scale-ablation.png)\n'


def modes(jobs: list[Job], run_dirs: dict, report_dir: str) -> str:
    """Table 4: of 1000 modes those found, and the divergence from all being equally frequent."""
    found: dict[str, list[tuple[float, float]]] = {}
    for job in jobs:
        for _kimg, _seconds, values in results_of(run_dirs[job.folder], 'mnist_modes')[-1:]:
            found.setdefault(job.name, []).append((values['modes_mean'], values['KL_mean']))
    rows = [[name, len(found.get(name, [])), mean_std([modes for modes, _ in found.get(name, [])]),
             mean_std([divergence for _, divergence in found.get(name, [])], 2)]
            for name in dict.fromkeys(job.name for job in jobs)]
    return table(['K / 4', 'runs', 'modes of 1000', 'KL(found, uniform)'], rows)


PARTS = {'growing': growing, 'ablation': ablation, 'modes': modes}
MARK = '<!-- made by reproduce.py: %s -->\n'


def write(jobs: list[Job], run_dirs: dict, report_dir: str) -> None:
    """Bring ``README.md`` in `report_dir` up to date: the tables between two marks per part; the words stay.

    Parameters
    ----------
    jobs : list of Job
    run_dirs : dict
        {folder of the job: folder of its finished run, or None}
    report_dir : str
    """
    path = pathlib.Path(report_dir, 'README.md')
    text = path.read_text(encoding='utf-8') if path.exists() else '# The paper\'s claims at a size for a laptop\n'
    os.makedirs(report_dir, exist_ok=True)
    for part in dict.fromkeys(job.part for job in jobs):
        done = [job for job in jobs if job.part == part and run_dirs[job.folder]]
        if not done:
            continue
        begin, end = MARK % part, MARK % (part + ' end')
        if begin not in text:
            text += f'\n## {CLAIMS[part]}\n\n{begin}{end}'
        before, _, after = text.partition(begin)
        text = before + begin + '\n' + PARTS[part](done, run_dirs, report_dir) + '\n' + end + after.partition(end)[2]
    with atomic_write(str(path), 'w', encoding='utf-8') as report:
        report.write(text)
    print(f'Wrote {path}')
