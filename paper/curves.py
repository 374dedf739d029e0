"""Figure 4 of the paper: the effect of growing on quality (a, b) and on speed (c)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from paper import numbers
from paper.material import Material, Run, swd_by_level
from paper.output import COLORS, GREY, new_figure, save_figure, tidy, time_unit
from training.options import with_variants
from training.plan import phases

LABEL_GAP = 0.04        # Smallest distance of two labels above the time axis, as a share of its length.


def doublings(stats: list[dict]) -> list[tuple[float, int]]:
    """[(seconds, new resolution)] for each doubling of the resolution in a run's status lines."""
    pairs = zip(stats[:-1], stats[1:], strict=True)
    return [(before['seconds'], after['resolution']) for before, after in pairs
            if after['resolution'] != before['resolution']]


def tick_marks(low: float, high: float) -> tuple[list[float], list[str]]:
    """(values, labels) of the marks 1, 2, 5, 10, 20, ... between the limits of a logarithmic axis."""
    values = [digit * 10.0 ** power for power in range(-4, 5) for digit in (1, 2, 5)]
    values = [value for value in values if low <= value <= high]
    return values, [f'{value:g}' for value in values]


def seconds_at(entries: Sequence[dict], kimg: float) -> float | None:
    """Training time in seconds at which a run reached `kimg`, interpolated; None if the run is shorter.

    `entries` are status lines or results, with 'kimg' and 'seconds'. A run may end up to 0.1 % early.
    """
    points = sorted((entry['kimg'], entry['seconds']) for entry in entries if entry['kimg'] is not None)
    if not points or points[-1][0] < 0.999 * kimg:
        return None
    return float(np.interp(kimg, *np.transpose([(0.0, 0.0), *points])))


# ----------------------------------------------------------------------------------------------------------------------
# Figures 4a and 4b.


def timed(run: Run) -> list[dict]:
    """The sliced Wasserstein distances of a run's snapshots whose training time is known."""
    return [entry for entry in run.series('swd') if entry['seconds'] is not None]


def timed_stats(run: Run) -> list[dict]:
    """Status lines that have a time."""
    return [entry for entry in run.stats() if 'seconds' in entry]


def mean_curve(series: Sequence[Sequence[dict]]) -> list[tuple[float, dict[str, float]]]:
    """[(seconds, {level: distance})]: means over runs, at each kimg that all of them have."""
    by_kimg = [{round(entry['kimg'] or 0): entry for entry in entries} for entries in series]
    common = sorted(set.intersection(*map(set, by_kimg)))
    points = []
    for kimg in common:
        at_kimg = [entries[kimg] for entries in by_kimg]
        values = [swd_by_level(entry['values']) for entry in at_kimg]
        points.append((float(np.mean([entry['seconds'] for entry in at_kimg])),
                       {level: float(np.mean([one[level] for one in values])) for level in values[0]}))
    return points


def swd_over_time(material: Material, name: str, experiment_name: str, title: str, others: Sequence[str] = ()) -> None:
    """Write Figure 4a or 4b: sliced Wasserstein distance per level against training time.

    With several runs, each has a thin line and their mean a thick one. Dashed lines mark the doublings of the first
    run's resolution; a dotted line marks the kimg of Table 1. The axes also cover the runs of the experiments
    `others`, so that the two figures can be compared.
    """
    runs = [run for run in material.all_runs(experiment_name, folder=True)
            if material.check_metrics(run, 'swd', all_snapshots=True)]
    if not runs:
        return
    series = [timed(run) for run in runs]
    compared = [entry for entries in series for entry in entries]
    compared += [entry for other in material.runs if other.name in others for entry in timed(other)]
    unit, unit_seconds = time_unit(max(entry['seconds'] for entry in compared))
    figure = new_figure(5.2, 3.2)
    axes = figure.add_subplot()
    levels = [level for level in swd_by_level(series[0][0]['values']) if level != 'avg']
    curves = [[(entry['seconds'], swd_by_level(entry['values'])) for entry in entries] for entries in series]
    means = mean_curve(series) if len(runs) > 1 else []
    for curve, is_mean in [*((curve, False) for curve in curves), *([(means, True)] if len(means) > 1 else [])]:
        bold = is_mean or len(runs) == 1
        for level, color in zip(levels, COLORS, strict=False):
            axes.plot([seconds / unit_seconds for seconds, _values in curve],
                      [values.get(level, np.nan) for _seconds, values in curve], color=color, marker='o',
                      markersize=2.5 if bold else 1.2, linewidth=1.4 if bold else 0.5, alpha=1 if bold else 0.5,
                      label=level if curve is (means if len(means) > 1 else curves[0]) else None)
    draw_times(axes, runs[0], unit_seconds)
    distances = [value for entry in compared for value in entry['values'].values()]
    axes.set(xlabel=f'training time ({unit})', ylabel='sliced Wasserstein distance × 10³', yscale='log',
             xlim=(0, 1.04 * max(entry['seconds'] for entry in compared) / unit_seconds),
             ylim=(0.8 * max(min(distances), 1e-3), 1.4 * max(distances)))
    axes.set_title(title, size=9, pad=14)       # The labels of the vertical lines need space.
    axes.set_yticks(*tick_marks(*axes.get_ylim()))
    axes.minorticks_off()
    axes.legend(title='level', fontsize=7, title_fontsize=7, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
    tidy(axes)
    for run, entries in zip(runs, series, strict=True):
        notes = [f'{len(entries)} points']
        if seconds_at([*entries, *timed_stats(run)], numbers.TABLE1_KIMG) is None:
            notes.append(f'ends before the {numbers.TABLE1_KIMG} kimg of Table 1')
        material.show(title, run, experiment_name, len(runs), entries[-1:], 'all snapshots', entries[-1]['kimg'], notes)
    save_figure(material, name, figure)


def draw_times(axes: Any, run: Run, unit_seconds: float) -> None:
    """Draw vertical lines at the doublings of a run's resolution and at the kimg of Table 1."""
    stats = timed_stats(run)
    labelled = -np.inf
    for seconds, resolution in doublings([entry for entry in stats if 'resolution' in entry]):
        is_free = seconds - labelled > LABEL_GAP * max(entry['seconds'] for entry in stats)
        axes.axvline(seconds / unit_seconds, color=GREY, linewidth=0.9, linestyle='--')
        if is_free:
            axes.text(seconds / unit_seconds, 1.01, f'{resolution}', transform=axes.get_xaxis_transform(),
                      fontsize=6.5, va='bottom', ha='center', color=GREY)
        labelled = seconds if is_free else labelled
    end = seconds_at([*timed(run), *stats], numbers.TABLE1_KIMG)
    if end is not None:
        axes.axvline(end / unit_seconds, color=GREY, linewidth=0.9, linestyle=':')
        axes.text(end / unit_seconds, 0.02, 'Table 1 ', transform=axes.get_xaxis_transform(), fontsize=6.5,
                  va='bottom', ha='right', rotation=90, color=GREY)


# ----------------------------------------------------------------------------------------------------------------------
# Figure 4c.


class Speed(NamedTuple):
    """Measured training times of a run, and predicted ones if it is shorter than the whole training."""

    measured: list[tuple[float, float]]     # [(seconds, kimg)] of the status lines.
    predicted: list[tuple[float, float]]    # [(seconds, kimg)] at the end of each phase; [] if all was measured.
    missing: list[int]                      # Resolutions of the schedule without a measurement.

    @property
    def seconds(self) -> float:
        """Time of the whole training."""
        return (self.predicted or self.measured)[-1][0]


def seconds_per_kimg(stats: Sequence[dict]) -> dict[tuple[int, bool], float]:
    """{(resolution, whether layers fade in): seconds per 1000 images} from status lines, without compile time.

    Ticks in which the resolution or the fading changes are used only if a phase has no other ticks.
    """
    sums: dict[tuple[int, bool], list[tuple[float, float, bool]]] = {}
    before: dict = {'seconds': 0.0, 'kimg': 0.0}
    for entry in stats:
        if 'seconds' not in entry or 'resolution' not in entry:
            continue
        key = int(entry['resolution']), entry.get('lod', 0.0) % 1 != 0
        seconds = entry['seconds'] - before['seconds'] - entry.get('compile_seconds', 0.0)
        kimg = entry['kimg'] - before['kimg']
        if kimg > 0 and seconds > 0:
            sums.setdefault(key, []).append((seconds, kimg, before.get('key') == key))
        before = {**entry, 'key': key}
    speeds = {}
    for key, ticks in sums.items():
        pure = [tick for tick in ticks if tick[2]] or ticks
        speeds[key] = sum(tick[0] for tick in pure) / sum(tick[1] for tick in pure)
    return speeds


def extrapolated(stats: Sequence[dict], resolution: int, schedule: dict, kimg: float) -> Speed:
    """Training time up to `kimg`: measured if the run is that long, else extrapolated from its speed in each phase.

    Parameters
    ----------
    stats : list of dict
        Status lines of the run.
    resolution : int
        Resolution of the dataset.
    schedule : dict
        Options of `training.schedule.training_schedule`.
    kimg : float
    """
    stats = [entry for entry in stats if 'seconds' in entry]
    measured = [(0.0, 0.0), *((entry['seconds'], entry['kimg']) for entry in stats if entry['kimg'] < kimg)]
    end = seconds_at(stats, kimg)
    if end is not None:
        return Speed([*measured, (end, kimg)], [], [])
    speeds = seconds_per_kimg(stats)
    points, missing = [(0.0, 0.0)], []
    for phase in phases(resolution, **{**schedule, 'total_kimg': kimg}):
        key = phase.resolution, phase.fading
        # Fading in costs little, so either speed can replace the other.
        speed = speeds.get(key, speeds.get((phase.resolution, not phase.fading)))
        if speed is None:
            missing.append(phase.resolution)
            continue
        points.append((points[-1][0] + speed * (phase.end_kimg - phase.start_kimg), phase.end_kimg))
    return Speed(measured, points, sorted(set(missing)))


def schedule_of(experiment: dict) -> dict:
    """The options of an experiment that determine its phases."""
    return {key: value for key, value in experiment['train'].items() if key in (
        'lod_initial_resolution', 'lod_training_kimg', 'lod_transition_kimg', 'minibatch_default',
        'minibatch_overrides')}


def speed(material: Material, name: str, experiment_names: Sequence[str]) -> None:
    """Write Figure 4c: thousands of images shown against training time, with and without growing.

    Runs shorter than their experiment are extrapolated, by its schedule and their seconds per 1000 images in each
    phase.
    """
    speeds = []
    for experiment_name in experiment_names:
        runs = material.all_runs(experiment_name, folder=True)
        experiment = with_variants(material.config, experiment_name)
        found = [(run, experiment_name, extrapolated(
            run.stats(), experiment['dataset']['resolution'], schedule_of(experiment),
            experiment['train']['total_kimg'])) for run in runs]
        complete = [entry for entry in found if not entry[2].missing]
        speeds += complete[:1]
        if found and not complete:
            run, _name, one = found[0]
            sizes = ', '.join(f'{size}x{size}' for size in one.missing)
            material.need(f'the speed at {sizes}, which {run.path} has not reached; make a short run and pass --run '
                          f'{experiment_name}=RUN', f'python train.py --experiment {experiment_name}'
                          f'-BENCHMARK{"0" if "nogrowing" in experiment_name else ""}{material.folder_options()}',
                          material.data_of(experiment_name))
    if len(speeds) == len(experiment_names):
        draw_speed(material, name, speeds)


def draw_speed(material: Material, name: str, speeds: Sequence[tuple[Run, str, Speed]]) -> None:
    """Draw Figure 4c from (run, experiment, speed) with growing, then without."""
    kimg = (speeds[0][2].predicted or speeds[0][2].measured)[-1][1]
    unit, unit_seconds = time_unit(max(one.seconds for _run, _experiment, one in speeds))
    figure = new_figure(5.2, 3.2)
    axes = figure.add_subplot()
    for (run, experiment, one), label, color in zip(speeds, numbers.FIGURE4C, COLORS, strict=False):
        for points, style, width, text in ((one.predicted, '--', 1.0, f'{label}, extrapolated'),
                                           (one.measured, '-', 2.0, f'{label}, measured')):
            if points:
                seconds, shown = np.transpose(points)
                axes.plot(seconds / unit_seconds, shown, style, color=color, linewidth=width, label=text)
        # In this order, the speed without fading in is set last.
        speed_at = {key[0]: value for key, value in sorted(seconds_per_kimg(run.stats()).items(), reverse=True)}
        how = f'extrapolated to {kimg:g} kimg from measured sec/kimg, ' if one.predicted else ''
        material.show(label, run, experiment, snapshot='status lines', kimg=one.measured[-1][1], notes=[
            f'{how}{speed_at[size]:.3g} at {size}x{size}' for size in sorted(speed_at)[-1:]])
    words = {0: 'both measured', 1: 'one of them extrapolated from measured sec/kimg',
             2: 'both extrapolated from measured sec/kimg'}[sum(bool(one.predicted) for _run, _name, one in speeds)]
    growing, fixed = (one.seconds for _run, _experiment, one in speeds)
    (paper_growing, paper_kimg), (paper_fixed, _kimg) = numbers.FIGURE4C.values()
    axes.set(xlabel=f'training time ({unit})', ylabel='thousands of real images shown', xlim=(0, None), ylim=(0, None),
             title=f'{kimg:g} kimg, {words}: {fixed / growing:.1f} times as fast with '
                   f'growing\n({growing / unit_seconds:.3g} and {fixed / unit_seconds:.3g} {unit}); paper, 1024×1024, '
                   f'{paper_kimg:g} kimg: {paper_fixed.value / paper_growing.value:.1f} times '
                   f'({paper_growing.value:g} and {paper_fixed.value:g} hours)')
    axes.title.set_size(7)
    axes.legend(fontsize=7, frameon=False)
    tidy(axes)
    save_figure(material, name, figure)
