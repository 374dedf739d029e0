"""reporting: averages of a tick, the status line and its data, a full disk, and how long the rest will take."""

import json
import types

import numpy as np
import pytest

from nets import costs
from training import reporting
from training.saving import Unwritten

SCHEDULE = types.SimpleNamespace(lod=1.5, minibatch_size=16, resolution=8)


class Events:
    """Stands in for event_file.EventFile."""

    def __init__(self):
        self.seen = []

    def scalars(self, step, values):
        self.seen.append((step, values))


def new_tick(number=3):
    """From 8 to 12 kimg of a run, from 80 to 100 seconds."""
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
    report(tick, tmp_path, events)
    line = capsys.readouterr().out
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
    assert out.count('warning: ') == 1 and 'the training goes on' in out and len(events.seen) == 2
    (tmp_path / 'missing').mkdir()
    lines.report({**tick.statistics(12000, 100.0, SCHEDULE, 0.125), 'tick': 5})
    rows = [json.loads(line) for line in (tmp_path / 'missing' / 'stats.jsonl').read_text().splitlines()]
    assert [row['tick'] for row in rows] == [3, 4, 5]


def test_the_time_that_is_left_counts_the_work(monkeypatch):
    """Half of 8 kimg at 4x4, half at 8x8, where an image is five times the work."""
    monkeypatch.setattr(costs, 'layer_multiplications', {'G': [(4, 100), (8, 400)], 'D': [(8, 400), (4, 100)]}.get)
    with reporting.ProgressBar('G', 'D', 8, 8.0, lambda kimg: 4 if kimg < 4 else 8, show=False) as progress:
        assert progress.work == {4: 200, 8: 1000}
        progress.calibrate(4, seconds_per_kimg=2.0)
        assert progress.remaining_seconds(0) == pytest.approx(4 * 2 + 4 * 10)
        assert progress.remaining_seconds(6) == pytest.approx(2 * 10)
        progress.update(9000)
