"""benchmarks/theano_suite.py: the runner, and some of Theano's own tests on the torch engine."""

import json

import pytest

from benchmarks import theano_suite
from benchmarks.suite import kinds

# The list has all tests in these files that fail on the torch engine.
FILES = [
    'compile/tests/test_builders.py', 'compile/tests/test_function.py', 'gof/tests/test_vm.py',
    'scan_module/tests/test_scan_opt.py', 'sparse/tests/test_sp2.py', 'tensor/tests/test_complex.py',
    'tensor/tests/test_inc_subtensor.py', 'tests/test_ifelse.py']

DEMO = '''
import os
import time
from nose.plugins.skip import SkipTest
from nose.tools import raises
from parameterized import parameterized
import numpy as np
import theano

def test_is_fine():
    assert theano.config.mode.linker.runs_on_torch

def test_value():
    np.testing.assert_allclose(1, 2)

def test_graph():
    f = theano.function([], theano.tensor.zeros(3))
    assert len(f.maker.fgraph.toposort()) == 7

def test_crash():
    os._exit(9)

def test_slow():
    time.sleep(600)

def test_skip():
    raise SkipTest()

def test_parts():
    for number in (1, 2, 0, 3):
        yield check, number

def check(number):
    1 / number

@parameterized.expand([(1, 2), (3, 3)])
def test_pairs(a, b):
    assert a < b

class Test_class:
    @raises(ZeroDivisionError)
    def test_raises(self):
        1 / 0
'''
KINDS = {'test_value': kinds.VALUE, 'test_graph': kinds.REWRITES, 'test_crash': kinds.TIME, 'test_slow': kinds.TIME,
         'test_pairs_1': kinds.VALUE, 'test_parts': kinds.VALUE}


@pytest.mark.timeout(900)       # Enough for a busy machine.
@pytest.mark.parametrize('file', FILES)
def test_failing_tests_are_in_the_list(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['theano_suite.py', file, '--engines', 'torch', '--out', str(tmp_path),
                                     '--test-seconds', '400', '--file-seconds', '800'])
    assert theano_suite.main() == 0, capsys.readouterr().out
    words = capsys.readouterr().out.splitlines()[-1].split()
    assert words[1] == 'tests:' and int(words[2]) > 3


@pytest.mark.timeout(900)
def test_groups_go_on_after_crashes(tmp_path, monkeypatch):
    folder = tmp_path / 'demo'
    folder.mkdir()
    (folder / 'test_demo.py').write_text(DEMO)
    monkeypatch.setattr(theano_suite, 'theano_folder', lambda: folder)
    group = theano_suite.Group('torch', 'test_demo.py', tmp_path / 'out', 20, 2000, None)
    group.run()
    results = {test.rpartition('::')[2]: result for test, result in group.results().items()}
    assert {name for name, result in results.items() if result['outcome'] == 'passed'} == {
        'test_is_fine', 'test_pairs_0', 'test_raises'}
    assert results['test_skip']['outcome'] == 'skipped'
    assert {name: kinds.kind_of(result) for name, result in results.items() if result['outcome'] == 'failed'} == KINDS
    assert 'check(0,): ZeroDivisionError' in results['test_parts']['message']
    assert group.is_done() and group.running() is None
    second = theano_suite.Group('torch', 'test_demo.py', tmp_path / 'second', 20, 2000, group)
    assert not second.is_done()


def results_of(path, **outcomes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        for test, outcome in outcomes.items():
            file.write(json.dumps(dict(id=f't.py::{test}', outcome=outcome, error='AssertionError', seconds=1,
                                       statement='assert np.allclose(a, b)', message='')) + '\n')


def test_report(tmp_path, capsys):
    first = theano_suite.Group('torch', 't.py', tmp_path, 1, 1, None)
    second = theano_suite.Group('python', 't.py', tmp_path, 1, 1, first)
    results_of(first.results_path, a='passed', b='failed', c='failed', d='failed', e='skipped')
    results_of(second.results_path, b='passed', c='failed', d='passed')
    entries = [kinds.Known('t.py::d', kinds.REWRITES, 'why'), kinds.Known('t.py::a', kinds.REWRITES, 'why')]
    report = theano_suite.Report([first, second], ['torch', 'python'], entries)
    assert (report.alone, report.unlisted) == (['t.py::b', 't.py::d'], ['t.py::b'])
    report.print()
    printed = capsys.readouterr().out
    assert 'Not in the list: t.py::b (wrong value)' in printed and 'In the list, but passes: t.py::a' in printed
    assert printed.splitlines()[-1] == '4 tests: 1 passed, 2 fail only on torch'
    # Without another engine, the list decides which tests also fail elsewhere.
    entries.append(kinds.Known('t.py::c', kinds.EVERYWHERE, 'why'))
    report = theano_suite.Report([first], ['torch'], entries)
    assert (report.alone, report.unlisted) == (['t.py::b', 't.py::d'], ['t.py::b'])


def test_list():
    entries = kinds.read_known(theano_suite.KNOWN)
    assert {entry.kind for entry in entries} <= {kinds.REWRITES, kinds.EVERYWHERE}
    assert len({entry.pattern for entry in entries}) == len(entries)
    assert kinds.find_known('a[b', [kinds.Known('a[*', 'k', 'r')]) and not kinds.find_known('b', entries)


def test_list_that_cannot_be_read(tmp_path):
    path = tmp_path / 'known.txt'
    path.write_text('[kind]\na.py::test\n')
    with pytest.raises(ValueError, match='a.py::test'):
        kinds.read_known(path)
