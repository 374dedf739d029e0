"""runs/phases.py: times of phases when some values are missing in status lines."""

import pytest

from runs.phases import find_phases, whole_run

TICK = {'resolution': 4, 'lod': 2.0, 'sec_per_tick': 10.0, 'sec_per_kimg': 5.0}


def test_phases_last_from_status_line_to_status_line():
    """The elapsed time includes compiling and metrics; a run that starts from saved networks begins later."""
    lines = [{**TICK, 'kimg': 12.0, 'seconds': 110.0, 'compile_seconds': 4.0, 'metric_seconds': 3.0},
             {**TICK, 'kimg': 14.0, 'seconds': 125.0, 'resolution': 8, 'lod': 1.5}]
    first, second = find_phases(lines)
    assert (first.begin, first.seconds, first.compile_seconds, first.metric_seconds) == (10, 10, 4, None)
    assert (second.name, second.begin, second.seconds, second.metric_seconds) == ('8x8 fading in', 12, 15, 3)
    assert (first.sec_per_kimg, second.sec_per_kimg) == (3, 5)
    whole = whole_run([first, second])
    assert (whole.name, whole.seconds, whole.compile_seconds, whole.metric_seconds) == ('since kimg 10', 25, 4, 3)
    assert whole.sec_per_kimg == pytest.approx(4)


def test_lines_without_times():
    phase, = find_phases([{'kimg': 1.0, 'sec_per_tick': 7.0}, {'kimg': 2.0, 'sec_per_tick': 8.0}])
    assert (phase.name, phase.seconds, phase.sec_per_kimg, phase.compile_seconds) == ('?', 15, 7.5, None)
    assert find_phases([]) == []
    phase, = find_phases([{'kimg': 1.0, 'seconds': 5.0}])
    assert phase.seconds is None and whole_run([phase]).seconds is None
