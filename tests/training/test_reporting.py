"""reporting: averages of a tick, the status lines and their data, a full disk, the remaining time."""

import json
import types

import numpy as np
import pytest

from common.console import OutputLogger
from training import reporting
from training.plan import Stretch
from training.saving import Unwritten

SCHEDULE = types.SimpleNamespace(lod=1.5, minibatch_size=16, resolution=8)


class Events:
    """Replaces event_file.EventFile."""

    def __init__(self):
        self.seen = []

    def scalars(self, step, values):
        self.seen.append((step, values))


def new_tick(number=3):
    """A tick that starts at 8 kimg and 80 seconds."""
    return reporting.Tick(number, 8000, 0.0, 80.0)


def report(tick, run_dir, events):
    lines = reporting.StatusLines(str(run_dir), events, Unwritten())
    lines.report(tick.statistics(12000, 100.0, SCHEDULE, 0.125))
    return lines


def test_scores_count_image_by_image(tmp_path, capsys):
    tick, events = new_tick(), Events()
    tick.add([1.0, 2.0, np.array([0.0, 1.0]), np.array([1.0, 1.0])])
    tick.add([3.0, 4.0, np.array([2.0, 3.0, 4.0, 8.0]), np.array([1.0] * 3 + [-5.0])])
    tick.compile_seconds = 1.5
    with OutputLogger(tmp_path / 'log.txt'):
        report(tick, tmp_path, events)
    assert capsys.readouterr().out == 'tick 3    kimg 12.0   8x8 50%   1m 40s      5.0 sec/kimg  G 2 D 3\n'
    line = (tmp_path / 'log.txt').read_text()
    assert line.startswith('tick 3     kimg 12.0     lod 1.50  minibatch 16 ') and line.count('\n') == 1
    assert 'sec/kimg 5.0 ' in line and 'Gloss 2.0000   Dloss 3.0000   Dreal 3.0000   Dfake 0.0000' in line
    stats = json.loads((tmp_path / 'stats.jsonl').read_text())
    assert [stats[name] for name in tick.names] == [2, 3, 3, 0] and stats['compile_seconds'] == 1.5
    assert (stats['tick'], stats['kimg'], stats['lod'], stats['resolution'], stats['minibatch']) == (3, 12, 1.5, 8, 16)
    assert stats['peak_memory_mb'] > 1
    (step, values), = events.seen
    assert step == 12000 and values == stats
    report(tick, tmp_path, events)
    assert len((tmp_path / 'stats.jsonl').read_text().splitlines()) == 2


@pytest.mark.parametrize('index, value', [(0, np.nan), (1, np.inf), (3, -np.inf)])
def test_a_loss_that_is_no_number_names_itself(index, value):
    tick = new_tick(7)
    outputs = [0.0, 0.0, np.zeros(2), np.zeros(2)]
    outputs[index] = outputs[index] + value
    with pytest.raises(reporting.TrainingDiverged, match=f'{tick.names[index]} became {value} in tick 7'):
        tick.add(outputs)


def test_the_state_goes_on_in_another_object(monkeypatch):
    monkeypatch.setattr(reporting.time, 'monotonic', lambda: 100.0)
    one = new_tick()
    one.add([1.0, 2.0, np.ones(2), np.ones(2)])
    one.compile_seconds = 2.5
    other = reporting.Tick.from_state(json.loads(json.dumps(one.get_state())), 100.0)
    assert other.get_state() == one.get_state() and other.number == 3
    np.testing.assert_array_equal(other.sums / other.counts, [1, 2, 1, 1])


def test_a_tick_ends_with_its_images_and_the_next_one_follows():
    tick = new_tick()
    schedule = types.SimpleNamespace(tick_kimg=4)
    assert not tick.is_over(11999, schedule) and tick.is_over(12000, schedule)
    following = tick.next(12000, 100.0)
    assert (following.number, following.start_nimg, following.start_time, following.run_start_time) == (
        4, 12000, 100.0, 0.0)
    assert not following.counts.any()


def test_a_full_disk_is_one_warning_and_the_lines_are_written_later(tmp_path, capsys):
    tick, events = new_tick(), Events()
    tick.add([1.0, 2.0, np.ones(2), np.ones(2)])
    lines = report(tick, tmp_path / 'missing', events)
    lines.report({**tick.statistics(12000, 100.0, SCHEDULE, 0.125), 'tick': 4})
    out = capsys.readouterr().out
    assert out.count('warning: ') == 1 and 'the training continues' in out and len(events.seen) == 2
    (tmp_path / 'missing').mkdir()
    lines.report({**tick.statistics(12000, 100.0, SCHEDULE, 0.125), 'tick': 5})
    rows = [json.loads(line) for line in (tmp_path / 'missing' / 'stats.jsonl').read_text().splitlines()]
    assert [row['tick'] for row in rows] == [3, 4, 5]


def test_the_short_line_fits_80_columns():
    assert len(reporting.short_line({
        'tick': 8000, 'kimg': 12345.6, 'lod': 0.41, 'resolution': 1024, 'seconds': 86400 * 12.9, 'sec_per_kimg': 1234.5,
        'Gloss': -123.456, 'Dloss': -0.0123456})) < 80


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(reporting.time, 'monotonic', lambda: clock.now)
    return clock


def training_progress(kimg=0.0, seconds=0.0):
    """A training of 4 kimg at 4x4, then 4 kimg at 8x8, where an image costs five times as much."""
    return reporting.TrainingProgress([Stretch(0, 4, 10, 2), Stretch(4, 8, 50, 1)], kimg, seconds, show=False)


def advance(progress, clock, seconds, *nimg):
    for cur_nimg in nimg:
        clock.now += seconds
        progress.advance(cur_nimg)


def test_the_time_that_is_left_counts_the_costs_ahead(clock):
    with training_progress() as progress:
        advance(progress, clock, 60, *[250] * reporting.WARM_UP_UPDATES)       # Warm-up steps do not count.
        assert np.isnan(progress.remaining()) and progress.count() == '0.25/8 kimg'
        advance(progress, clock, 0.5, 500, 750, 1000)
        assert progress.remaining() == pytest.approx(3 * 2 + 4 * 10)
        assert progress.times() == ('3m 02s gone', 'ETA 46s')


def test_what_ends_a_tick_counts_by_ticks_and_compiling_not(clock):
    with training_progress() as progress:
        advance(progress, clock, 0.5, 250, 500, 750, 1000, 1250, 1500, 1750)
        with progress.apart('compiling', compiling=True):
            clock.now += 100
            assert progress.remark == 'compiling'
        with progress.apart():
            clock.now += 3
        advance(progress, clock, 0.5, 2000, 2250, 2500)
        # One tick is over, 5.75 are left; warm-up steps do not count.
        assert progress.remark == '' and progress.remaining() == pytest.approx(
            1.5 * 2 + 4 * 10 + 3 / 1.25 * (0.75 + 4), rel=1e-6)


def test_a_training_goes_on_where_it_was(clock):
    clock.now = 50.0
    with training_progress(6.0, seconds=3600.0) as progress:
        assert progress.percent() == '75%' and progress.times() == ('1h 00m 00s gone', '')
        advance(progress, clock, 1, 6100, 6200, 6300, 6400)
        assert progress.remaining() == pytest.approx(1.6 * 10)
        advance(progress, clock, 1, 9000)
        assert progress.percent() == '100%' and progress.times()[1] == ''
