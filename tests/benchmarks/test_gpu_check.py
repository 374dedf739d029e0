"""benchmarks/gpu_check.py, gpu_correct.py and gpu_carry.py, on the stand-in."""

import ast
import importlib
import json
import sys
import types

import numpy as np
import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.standin


@pytest.fixture
def check(monkeypatch, restore_theano_config):
    """The module gpu_check."""
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    monkeypatch.setenv('TRITON_INTERPRET', '1')     # The command sets it; here it must not outlast the test.
    yield importlib.import_module('gpu_check')
    for name in ('gpu_check', 'gpu_correct', 'gpu_carry', 'gpu_model', 'gpu', 'train_step'):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_parts_on_the_stand_in(check, tmp_path, monkeypatch, capsys):
    """A check that passes, one with a bug, and a time beside its estimate."""
    def with_a_bug(subject, precision):
        raise ValueError('some\nbug')
    monkeypatch.setattr(check.gpu_correct, 'CHECKS', (
        ('bug', with_a_bug, True), ('memory ends', check.gpu_correct.out_of_memory, False)))
    (tmp_path / 'estimates.json').write_text(json.dumps([
        {'precision': 'tf32', 'lod': 0.0, 'minibatch': 16, 'net': net, 'ms': 8.0, 'peak_gb': 2.0} for net in 'DG']))
    options = ['--standin', '--precisions', 'tf32', '--how', 'eager', '--carry', str(tmp_path), '--out', str(tmp_path)]
    assert [check.main([*options, '--part', part]) for part in ('checks', 'timing')] == [0, 0]
    found = json.loads((tmp_path / 'gpu_check.json').read_text())
    assert [(row['check'], row['precision'], row['passed'], row.get('error')) for row in found['checks']] == [
        ('bug', 'float32', False, 'ValueError: some'), ('bug', 'tf32', False, 'ValueError: some'),
        ('memory ends', 'float32', True, None)]
    assert found['checks'][2]['found'].startswith('out of memory: cuda:0 (stand-in')
    row, = found['rows']
    assert row['estimated'] == 1.0 and row['estimated_mb'] == 2048 and row['sec_per_kimg'] > 0
    assert len(found['projections']) == 2 and found['ways']
    text = (tmp_path / 'gpu_check.md').read_text()
    assert '| bug | tf32 | - | False |' in text and '| 0.0 | 4 | tf32 | eager | 16 |' in text
    # Nothing is done twice.
    assert [check.main([*options, '--part', part]) for part in ('checks', 'timing')] == [0, 0]
    again = json.loads((tmp_path / 'gpu_check.json').read_text())
    assert (again['checks'], again['rows']) == (found['checks'], found['rows'])


def test_a_part_goes_on_in_a_new_process(check, tmp_path, monkeypatch):
    """After one that ended within a row, or left the GPU unusable; pytest has ended before times are taken."""
    called, module = [], check

    def run(command, check):
        part = command[command.index('--part') + 1]
        called.append(part)
        if part == 'checks':
            report = module.Report(tmp_path)
            report.found['checks'].append({'check': 'a', 'passed': True})
            report.save()
        return types.SimpleNamespace(returncode=0 if called.count(part) == 2 else -11)
    monkeypatch.setattr(check.subprocess, 'run', run)
    monkeypatch.setattr(check, 'Tests', lambda args: types.SimpleNamespace(
        results=lambda: (called.append('tests') or '1 passed, 1 failed', [{'test': 'tests/a.py::b', 'error': 'c'}])))
    assert check.main(['--standin', '--out', str(tmp_path)]) == 1
    assert called == ['checks', 'checks', 'tests', 'timing']
    text = (tmp_path / 'gpu_check.md').read_text()
    assert '| tests/a.py::b | c |' in text and text.count('| a | - | - | True |') == 2
    assert '| timing | - | - | False | - | its process ended with status -11 before its first row |' in text


def test_a_part_that_cannot_begin(check, tmp_path, monkeypatch):
    def fails(args, report):
        raise MemoryError('no\nmore')
    monkeypatch.setattr(check, 'facts', lambda args: {})
    monkeypatch.setitem(check.PARTS, 'timing', fails)
    assert check.run_part(check.parser().parse_args(['--part', 'timing', '--out', str(tmp_path)])) == 0
    assert check.Report(tmp_path).found['checks'] == [
        {'check': 'timing', 'passed': False, 'error': 'MemoryError: no'}]


def test_a_gpu_that_is_of_no_more_use(check, tmp_path, monkeypatch):
    def broken():
        raise RuntimeError('CUDA error: an illegal memory access was encountered')
    monkeypatch.setattr(check, 'facts', lambda args: {})
    monkeypatch.setattr(check.gpu_correct, 'CHECKS', (('bug', lambda subject, precision: broken(), True),))
    monkeypatch.setattr('torch.cuda.synchronize', broken)
    options = ['--standin', '--precisions', 'tf32', '--out', str(tmp_path), '--part', 'checks']
    args = check.parser().parse_args(options)
    assert [check.run_part(args) for _ in range(3)] == [check.AGAIN, check.AGAIN, 0]
    report = check.Report(tmp_path)
    assert [row['error'] for row in report.found['checks']] == [
        'RuntimeError: CUDA error: an illegal memory access was encountered'] * 2
    assert report.has_failed()


@pytest.mark.parametrize('error, has_failed', [(None, False), ('OutOfMemory: 141 GiB', False), ('ValueError: x', True)])
def test_what_is_a_failure(error, has_failed, check, tmp_path):
    report = check.Report(tmp_path)
    report.found.update(checks=[{'passed': True}], rows=[{} if error is None else {'error': error}])
    assert report.has_failed() == has_failed


def test_logs_of_pytest(check):
    log = '\n'.join([
        'tests/a.py::test_one[x y] PASSED   [ 25%]', 'tests/a.py::test_two FAILED   [ 50%]',
        'tests/b.py::test_three ERROR [ 75%]', '____ test_two ____', 'E   assert 1 == 2',
        'FAILED tests/a.py::test_two - assert 1 == 2', 'ERROR tests/b.py::test_three - RuntimeError: no'])
    assert check.read_log(log) == (1, [{'test': 'tests/a.py::test_two', 'error': 'assert 1 == 2'},
                                       {'test': 'tests/b.py::test_three', 'error': 'RuntimeError: no'}])
    assert check.read_log(log[:100]) == (1, [{'test': 'tests/a.py::test_two', 'error': None}])      # It was ended.
    assert check.read_log('usage\nno module pytest') == (0, [{'test': 'pytest', 'error': 'no module pytest'}])


def test_the_checks_see_differences(check):
    """Given what two trainings gave."""
    correct = check.gpu_correct
    subject = correct.Subject('cuda0', 4, 8, 8, 1)
    good = correct.Outcome([np.ones(3)], [np.ones(2)], [np.float32([0.5, 1])], 2)
    bad = good._replace(images=[np.float64([1, 1, 1.3])], changes=[np.float32([0.5, 0.6])])
    for device, precision, deterministic, captured, repetition, outcome in [
            ('cpu', 'float32', False, True, 0, good), ('cuda0', 'float32', False, True, 0, good),
            ('cuda0', 'float32', False, False, 0, good._replace(graphs=0)), ('cuda0', 'tf32', False, True, 0, bad),
            ('cuda0', 'tf32', False, False, 0, good), ('cuda0', 'float32', True, True, 0, good),
            ('cuda0', 'float32', True, True, 1, bad), ('cuda0', 'float32', True, False, 0, good)]:
        subject.done[device, precision, deterministic, captured, repetition] = outcome
    for function in (correct.networks, correct.steps, correct.recorded_and_fused):
        assert function(subject, 'float32') == (0, True)
    assert correct.networks(subject, 'tf32') == (pytest.approx(0.3), False)
    assert correct.steps(subject, 'tf32') == (pytest.approx(0.4), False)
    assert correct.recorded_and_fused(subject, 'tf32') == (pytest.approx(0.4), False)
    assert correct.recorded_bits(subject, 'float32') == ('0 of 3 arrays differ', True)
    assert correct.two_runs(subject, 'float32') == ('2 of 3 arrays differ', False)
    subject.done['cuda0', 'float32', True, True, 0] = good._replace(graphs=0)       # Nothing was recorded.
    assert not correct.recorded_bits(subject, 'float32')[1]


def test_what_is_carried(check, tmp_path, monkeypatch):
    """All requirements are made, downloaded or there; pip is asked for the other machine's wheels."""
    carry = importlib.import_module('gpu_carry')
    setup = ast.parse((ROOT / 'setup.py').read_text())
    required, = (ast.literal_eval(node.value) for node in ast.walk(setup)
                 if isinstance(node, ast.keyword) and node.arg == 'install_requires')
    assert set(required) <= {*carry.BUILT, *carry.NEEDED} and set(carry.THERE) <= set(carry.NEEDED)
    commands = []
    monkeypatch.setattr(carry.subprocess, 'run', lambda command, check: commands.append(command))
    (tmp_path / 'wheels').mkdir()
    (tmp_path / 'wheels' / 'old-1.0.whl').touch()
    carry.main([str(tmp_path), '--wheels-only', '--python', '3.13', '--there', *carry.THERE[1:]])
    assert set(carry.BUILT) <= set(commands[0]) and not list((tmp_path / 'wheels').iterdir())
    assert '3.13' in commands[1] and 'numpy' in commands[1] and 'scipy' not in commands[1]


@pytest.mark.slow
def test_estimates_are_those_of_the_rows(check, tmp_path):
    carry = importlib.import_module('gpu_carry')
    carry.main([str(tmp_path), '--estimates-only', '--resolution', '4', '--fmap-max', '4', '--paper-only'])
    rows = json.loads((tmp_path / 'estimates.json').read_text())
    assert [row['waits'] for row in rows] == [4, 0, 4, 0]       # The second stand-in starts anew.
    found = check.gpu.read_estimates(tmp_path / 'estimates.json')
    assert list(found) == [('bfloat16', 0.0, 16), ('tf32', 0.0, 16)]
    assert all(row['estimated'] > 0 and row['estimated_mb'] > 0 for row in found.values())


def test_without_wheels_or_a_gpu(check, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match='--carry: .* has no wheels'):
        check.main(['--carry', str(tmp_path), '--out', str(tmp_path)])
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    for options in ([], ['--part', 'checks']):
        with pytest.raises(SystemExit, match='no GPU: this PyTorch.*; --standin needs none'):
            check.main([*options, '--out', str(tmp_path)])
