"""paper.small_scale: results in the order of training, cells of tables, the section on modes."""

import json
from types import SimpleNamespace

import pytest

from paper import small_scale


def write_metrics(run_dir, *entries):
    run_dir.mkdir()
    (run_dir / 'metrics.jsonl').write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    return str(run_dir)


def entry(metric, kimg, **values):
    return {'metric': metric, 'kimg': kimg, 'seconds': 10 * kimg, 'values': values}


def test_results_are_in_the_order_of_training(tmp_path):
    run_dir = write_metrics(tmp_path / 'run', entry('swd', 3.0, avg=1.0), entry('fid', 1.0, FID=9.0),
                            entry('swd', 2.0, avg=4.0))
    assert small_scale.results_of(run_dir, 'swd') == [(2.0, 20.0, {'avg': 4.0}), (3.0, 30.0, {'avg': 1.0})]
    assert small_scale.results_of(run_dir, 'ms_ssim') == []


@pytest.mark.parametrize('numbers, digits, text', [
    ([], 1, '-'), ([2.0], 1, '2.0'), ([1.0, 3.0], 2, '2.00 ± 1.41')])
def test_cells_of_a_few_runs(numbers, digits, text):
    assert small_scale.mean_std(numbers, digits) == text


def test_a_table_in_markdown():
    assert small_scale.table(['name', 'x'], [['a', 1], ['b', 2.5]]) == (
        '| name | x |\n| --- | ---: |\n| a | 1 |\n| b | 2.5 |\n')


def test_modes_are_those_of_the_last_snapshot(tmp_path):
    parts = [SimpleNamespace(name=name, folder=f'modes-{name}-{seed}')
             for name in ('k4-wgan-gp', 'k4-our-norm') for seed in (0, 1)]
    run_dirs = {part.folder: write_metrics(
        tmp_path / part.folder, entry('mnist_modes', 2.0, modes_mean=100.0 + 10 * number, KL_mean=2.0),
        entry('mnist_modes', 1.0, modes_mean=7.0, KL_mean=7.0)) for number, part in enumerate(parts)}
    lines = small_scale.modes(parts, run_dirs, str(tmp_path)).splitlines()
    assert lines[2:4] == ['| k4-wgan-gp | 2 | 105.0 ± 7.1 | 2.00 ± 0.00 |',
                          '| k4-our-norm | 2 | 125.0 ± 7.1 | 2.00 ± 0.00 |']
    assert lines[7].startswith('| k4: our normalization finds more modes | 2, 2 | 20.0 (') and len(lines) == 8
    # A study without finished runs is left out.
    small_scale.write(['modes'], parts, dict.fromkeys(run_dirs), str(tmp_path / 'report'))
    assert 'modes' not in (tmp_path / 'report' / 'README.md').read_text()
