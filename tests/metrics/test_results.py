"""metrics.results: lines of metrics.jsonl are kept by content; concurrent writers lose no lines."""

import json
import subprocess
import sys

import pytest

from metrics import results
from runs.records import best_snapshot, read_results
from tests.helpers import ROOT


def entry(metric='swd', snapshot='network-final', network='n1', data='d1', weights=None, value=1.0, **more):
    return {'metric': metric, 'snapshot': snapshot, 'num_images': 10, 'random_seed': 1000, 'network': network,
            'data': data, 'weights': weights, 'kimg': 1.0, 'seconds': 10.0, 'values': {'x': value}, **more}


WRITER = '''
import sys
from metrics import results
name, run_dir = sys.argv[1:]
for number in range(40):
    line = {'metric': name, 'snapshot': f'network-snapshot-{number:06d}', 'num_images': 1, 'random_seed': 1,
            'network': str(number), 'data': 'd', 'weights': None, 'kimg': 1.0, 'seconds': 1.0, 'values': {'x': 1.0}}
    results.update(run_dir, lambda before: results.merged(before, [line]))
'''


def test_two_writers_at_once_lose_nothing(tmp_path):
    writers = [subprocess.Popen([sys.executable, '-c', WRITER, name, str(tmp_path)], cwd=ROOT) for name in 'ab']
    assert [writer.wait(100) for writer in writers] == [0, 0]
    assert len(read_results(tmp_path)) == 80
    for name in 'ab':
        assert len((tmp_path / f'metric-{name}.txt').read_text().splitlines()) == 40


def test_a_new_line_displaces_those_that_it_makes_obsolete_only():
    old = {**entry(value=0.0)}
    for name in ('network', 'data', 'weights'):
        del old[name]
    other_place = entry(snapshot='network-snapshot-000001')
    assert results.merged([old, other_place], [entry()]) == [other_place, entry()]
    assert results.merged([entry()], [entry(network='n2')]) == [entry(network='n2')]
    assert results.merged([entry()], [entry(data='d2')]) == [entry(), entry(data='d2')]
    assert results.merged([entry()], [entry(weights='w2')]) == [entry(), entry(weights='w2')]
    assert results.merged([entry(), entry(weights='w2')], [entry(value=2.0)]) == [entry(weights='w2'), entry(value=2.0)]


def test_readers_see_the_last_line_of_each_place(tmp_path):
    lines = [entry(), entry('fid', value=3.0), entry(data='d2', value=2.0), {'metric': 'swd'}]
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines) + '{"cut')
    assert read_results(tmp_path) == lines[1:3]
    assert best_snapshot(tmp_path) is None
    results.update(tmp_path, lambda before: results.merged(before, [entry(data='d2', value=2.0, best=True)]))
    assert best_snapshot(tmp_path) == 'network-final'
    text = results.table(read_results(tmp_path), ['swd', 'fid'])
    assert text.splitlines()[0] == 'swd:' and text.splitlines()[1].endswith('x 2.0000  best')
    assert text.splitlines()[3].endswith('x 3.0000')
    assert (tmp_path / 'metric-swd.txt').read_text().splitlines() == text.splitlines()[1:2]
    assert [line['metric'] for line in results.update(tmp_path, lambda before: before[1:2])] == ['fid']
    assert sorted(path.name for path in tmp_path.glob('metric*')) == ['metric-fid.txt', 'metrics.jsonl']


def test_a_lock_that_another_process_holds_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(results, 'LOCK_SECONDS', 0.1)
    with results._locked(tmp_path), pytest.raises(ValueError, match='another process has held'):
        results.update(tmp_path, lambda before: [entry()])
    assert not (tmp_path / 'metrics.jsonl').exists()


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_values_that_are_not_finite(value):
    assert not results.is_finite_result({'a': 1.0, 'b': value}) and results.is_finite_result({'a': 1.0})
