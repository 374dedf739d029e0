"""paper.curves: marks of axes, training times, means over runs, and times extrapolated from measured speeds."""

import types

import numpy as np
import pytest

import config
from paper import curves
from tests.paper.fake_runs import entries_of, fake_run, material_of, swd
from training.schedule import training_schedule


def stats(*rows):
    return [{'seconds': seconds, 'resolution': resolution} for seconds, resolution in rows]


def test_resolution_doublings_come_from_status_lines():
    assert curves.doublings(stats((1, 4), (2, 4), (3, 8), (5, 8), (8, 16))) == [(2, 8), (5, 16)]
    assert curves.doublings(stats((1, 4), (2, 4))) == curves.doublings(stats((1, 4))) == []


@pytest.mark.parametrize('limits, labels', [
    ((1, 10), ['1', '2', '5', '10']), ((0.3, 3), ['0.5', '1', '2']), ((150, 300), ['200']), ((21, 49), [])])
def test_marks_of_a_logarithmic_axis(limits, labels):
    values, texts = curves.tick_marks(*limits)
    assert texts == labels
    np.testing.assert_allclose(values, [float(label) for label in labels])


def test_curves_are_not_drawn_without_their_runs(tmp_path):
    material = material_of(tmp_path)
    curves.swd_over_time(material, 'figure4a', 'table1-celeba-a-gulrajani', 'title')
    curves.speed(material, 'figure4c', ['figure4c-growing', 'figure4c-nogrowing'])
    assert [need.what for need in material.needs] == [
        f'a run of {name}' for name in ('table1-celeba-a-gulrajani', 'figure4c-growing', 'figure4c-nogrowing')]
    assert not material.files


def test_several_runs_have_a_mean_at_common_numbers_of_images():
    def series(offset, *kimgs):
        return [{'kimg': kimg, 'seconds': kimg + offset, 'values': {'SWDx1e3_16': kimg * offset}} for kimg in kimgs]

    assert curves.mean_curve([series(1, 10, 20, 30), series(3, 10.2, 30, 40)]) == [
        (pytest.approx(12.1), {'16': pytest.approx(20.3)}), (32.0, {'16': 60.0})]


@pytest.mark.parametrize('kimg, seconds', [(5, 50), (15, 200), (20, 300), (20.01, 300), (25, None)])
def test_the_time_of_a_number_of_images(kimg, seconds):
    entries = [{'kimg': 20.0, 'seconds': 300.0}, {'kimg': 10.0, 'seconds': 100.0}]
    assert curves.seconds_at(entries, kimg) == seconds


def test_figure_4_states_images_runs_and_the_end_of_table_1(tmp_path, monkeypatch):
    name = 'table1-celeba-b-growing'
    lines = []
    monkeypatch.setattr('matplotlib.axes.Axes.text', lambda self, x, y, text, **_options: lines.append((x, text)))
    results = [swd(10.0 - index, f'network-snapshot-{index:06d}', 2500.0 * index, 2000, 3600.0 * index)
               for index in range(5)]
    ticks = [(3600.0 * k / 2.5, 1000.0 * k, 4 * 2 ** min(k // 2, 5), 0.0) for k in range(1, 11)]
    runs = [fake_run(tmp_path / str(seed), name, results[:5 - seed], ticks[:10 - 3 * seed],
                     [f'random_seed={seed}'], name=name) for seed in (0, 1)]
    material = material_of(tmp_path, *runs)
    curves.swd_over_time(material, 'figure4b', name, '(b) growing')
    entries = entries_of(tmp_path, 'figure4b')
    assert [entry['images'] for entry in entries] == [{'swd': 2000}] * 2
    assert [entry['seed'] for entry in entries] == [0, 1]
    assert [entry['runs'] for entry in entries] == [2, 2] and [entry['kimg'] for entry in entries] == [10000, 7500]
    assert entries[0]['notes'] == ['5 points']
    assert entries[1]['notes'] == ['4 points', 'ends before the 10000 kimg of Table 1']
    assert (4.0, 'Table 1 ') in [(round(x, 6), text) for x, text in lines] and '8' in {text for _x, text in lines}


# ----------------------------------------------------------------------------------------------------------------------
# Speed.

COST = {size: 2.0 ** k for k, size in enumerate((4, 8, 16, 32, 64, 128, 256, 512, 1024))}     # Seconds per kimg.
GROWING = curves.schedule_of(config.experiments['figure4c-growing'])
FIXED = curves.schedule_of(config.experiments['figure4c-nogrowing'])


def ticks_of(schedule, kimg, step=0.5, compile_seconds=0.0):
    """Status lines of a training that takes `COST`, and 10 % more while layers fade in."""
    ticks, seconds = [], 0.0
    for index in range(int(kimg / step)):
        now = training_schedule(int(index * step * 1000) + 1, 1024, **schedule)
        seconds += step * COST[now.resolution] * (1.1 if now.lod % 1 else 1) + compile_seconds
        ticks.append({'seconds': seconds, 'kimg': (index + 1) * step, 'resolution': now.resolution, 'lod': now.lod,
                      'compile_seconds': compile_seconds})
    return ticks


def whole(schedule):
    return ticks_of(schedule, 6400, 5)[-1]['seconds']


@pytest.mark.parametrize('compile_seconds', [0.0, 30.0])
def test_some_images_at_each_resolution_suffice_to_extrapolate(compile_seconds):
    short = {**GROWING, 'lod_training_kimg': 3, 'lod_transition_kimg': 3}
    growing = curves.extrapolated(ticks_of(short, 51, compile_seconds=compile_seconds), 1024, GROWING, 6400)
    fixed = curves.extrapolated(ticks_of(FIXED, 2, compile_seconds=compile_seconds), 1024, FIXED, 6400)
    assert growing.missing == fixed.missing == []
    assert growing.seconds == pytest.approx(whole(GROWING), rel=0.01)
    assert fixed.seconds == pytest.approx(whole(FIXED), rel=1e-3)


def test_wherever_two_runs_stop_the_comparison_is_the_same():
    expected = whole(FIXED) / whole(GROWING)
    for kimg_growing in (6010, 6200, 6400):
        for kimg_fixed in (1, 7, 300):
            growing = curves.extrapolated(ticks_of(GROWING, kimg_growing, 5), 1024, GROWING, 6400)
            fixed = curves.extrapolated(ticks_of(FIXED, kimg_fixed), 1024, FIXED, 6400)
            assert fixed.seconds / growing.seconds == pytest.approx(expected, rel=0.02)
            assert bool(growing.predicted) == (kimg_growing < 6400) and fixed.predicted


def test_a_resolution_that_was_not_measured_is_missing():
    assert curves.extrapolated(ticks_of(GROWING, 3000, 5), 1024, GROWING, 6400).missing == [128, 256, 512, 1024]
    assert curves.extrapolated([], 1024, FIXED, 6400).missing == [1024]


def test_figure_4c_lists_missing_runs_and_states_extrapolation(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr('matplotlib.axes.Axes.set', lambda self, **options: titles.append(options.get('title')))

    def run(name, ticks):
        rows = [(tick['seconds'], tick['kimg'], tick['resolution'], tick['lod']) for tick in ticks]
        return fake_run(tmp_path / name, name, stats=rows)

    names = ['figure4c-growing', 'figure4c-nogrowing']
    slow = run(names[1], ticks_of(FIXED, 2))
    early = run(names[0], ticks_of(GROWING, 1000, 5))
    material = material_of(tmp_path, early, slow)
    curves.speed(material, 'figure4c', names)
    need, = material.needs
    assert not material.files and need.what.startswith('the speed at 16x16, 32x32')
    assert need.command.startswith('python train.py --experiment figure4c-growing-BENCHMARK')
    assert material.create_command(need.data) == (
        f'python dataset_tool.py create_synthetic {tmp_path / "timing-1024x1024.h5"} --resolution 1024')
    early.folder = None
    late = fake_run(tmp_path / 'late', names[0], stats=[(tick['seconds'], tick['kimg'], tick['resolution'], tick['lod'])
                                                        for tick in ticks_of(GROWING, 6200, 5)])
    material = material_of(tmp_path, late, slow)
    curves.speed(material, 'figure4c', names)
    title, = titles
    assert title.startswith(f'6400 kimg, both extrapolated from measured sec/kimg: '
                            f'{whole(FIXED) / whole(GROWING):.1f} times')
    entries = entries_of(tmp_path, 'figure4c')
    assert 'is a guess' in entries[0]['notes'][0] and 'extrapolated to 6400 kimg' in entries[0]['notes'][1]
    assert [entry['kimg'] for entry in entries] == [6200, 2]


# ----------------------------------------------------------------------------------------------------------------------
# The experiments.


def test_growing_ends_with_a_stretch_at_full_resolution():
    lods = [training_schedule(kimg * 1000, 1024, **GROWING).lod for kimg in range(0, 6400, 10)]
    assert lods.count(0) * 10 >= 300 and lods[-1] == 0
    assert max(lods) == 8


@pytest.mark.parametrize('row', ['a-gulrajani', 'b-growing'])
def test_there_are_snapshots_at_every_resolution(row):
    options = config.experiments[f'table1-celeba-{row}']['train']
    schedule = {key: options[key] for key in ('lod_training_kimg', 'lod_transition_kimg', 'total_kimg')}
    schedule['lod_initial_resolution'] = options.get('lod_initial_resolution', 4)
    kimg, number, found = 0.0, 0, []
    while kimg < options['total_kimg']:
        kimg += training_schedule(int(kimg * 1000), 128, **schedule).tick_kimg
        number += 1
        if number % options['network_snapshot_ticks'] == 0:
            found.append(training_schedule(int(kimg * 1000), 128, **schedule).resolution)
    resolutions = {4, 8, 16, 32, 64, 128} if row == 'b-growing' else {128}
    assert set(found) == resolutions and 20 < len(found) < 120


def test_labels_that_would_overlap_are_left_out(tmp_path):
    texts = []
    axes = types.SimpleNamespace(axvline=lambda *_args, **_options: None, get_xaxis_transform=lambda: None,
                                 text=lambda x, y, text, **_options: texts.append(text))
    run = fake_run(tmp_path / 'run', 'table1-celeba-b-growing', stats=[
        (1.0, 10.0, 4, 0.0), (2.0, 20.0, 8, 0.0), (3.0, 30.0, 16, 0.0), (100.0, 40.0, 32, 0.0)])
    curves.draw_times(axes, run, 1)
    assert texts == ['8']
