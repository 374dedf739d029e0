"""The pytest plugin of the processes that run Theano's tests: chooses the engine and records each result at once.

Each line of the results file is a JSON object: ``{"id": ..., "outcome": "started"}`` before a test and ``{"id",
"outcome": "passed", "failed" or "skipped", "seconds", "error", "statement", "message"}`` after it. Tests that have a
result in the file are skipped, so that another process can continue. With `--suite-failed-in`, only tests that failed
in another results file run.
"""

import inspect
import json
import os
import pathlib
import unittest
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.suite import shims

MAX_MESSAGE = 2000      # Characters.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--suite-engine', required=True)
    parser.addoption('--suite-results', required=True, type=pathlib.Path)
    parser.addoption('--suite-failed-in', type=pathlib.Path)


def pytest_configure(config: pytest.Config) -> None:
    warnings.simplefilter('ignore')
    shims.install()
    import theano_env
    theano_env.configure(engine=config.getoption('--suite-engine'), flags={'device': 'cpu'})
    other = config.getoption('--suite-failed-in')
    config.pluginmanager.register(Log(config.getoption('--suite-results'), other and failed_in(other)))


def read_results(path: pathlib.Path) -> dict[str, dict]:
    """{id of a test: its result} in a results file; {} if the file does not exist."""
    lines = map(json.loads, path.read_text(encoding='utf-8').splitlines()) if path.exists() else ()
    return {line['id']: line for line in lines if line['outcome'] != 'started'}


def failed_in(path: pathlib.Path) -> set[str]:
    """Ids of the tests that failed in a results file."""
    return {test for test, result in read_results(path).items() if result['outcome'] == 'failed'}


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> list | None:
    """Collect generator tests, which pytest no longer supports, as tests that run all yielded calls."""
    if isinstance(obj, type) and getattr(obj, 'check_name', False):
        obj.check_name = False      # The check expects the class name that nose gives.
    if not name.startswith('test') or not inspect.isgeneratorfunction(obj) or isinstance(collector.obj, type) and \
            issubclass(collector.obj, unittest.TestCase):
        return None
    setattr(collector.obj, name, running_all(obj, isinstance(collector.obj, type)))
    return list(collector._genfunctions(name, getattr(collector.obj, name)))


def running_all(function: Callable, is_method: bool) -> Callable:
    """A test that runs all calls that `function` yields and fails at the end if any of them failed."""
    def run(parts: Iterator) -> None:
        failures = []
        for call, *arguments in parts:
            try:
                call(*arguments)
            except (unittest.SkipTest, pytest.skip.Exception):
                continue
            except Exception as error:
                failures.append(f'{getattr(call, "__name__", call)}{tuple(arguments)!r:.200}: '
                                f'{type(error).__name__}: {error!s:.300}')
        assert not failures, ' | '.join(failures)

    def method(self: Any) -> None:
        run(function(self))

    def test() -> None:
        run(function())
    return shims.without_signature(method if is_method else test, function)


class Log:
    """Writes the results file.

    Parameters
    ----------
    path : pathlib.Path
        The results file; created if it does not exist.
    wanted : set of str or None
        Ids of the tests to run. None: all.
    """

    def __init__(self, path: pathlib.Path, wanted: set[str] | None) -> None:
        self.done, self.wanted = set(read_results(path)), wanted
        self.file = path.open('a', encoding='utf-8')
        self.result: dict = {}

    def is_left_out(self, test: str) -> bool:
        return test in self.done or self.wanted is not None and test not in self.wanted

    def write(self, line: dict) -> None:
        self.file.write(json.dumps(line) + '\n')
        self.file.flush()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list) -> None:
        config.hook.pytest_deselected(items=[item for item in items if self.is_left_out(item.nodeid)])
        items[:] = [item for item in items if not self.is_left_out(item.nodeid)]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.is_left_out(report.nodeid):
            self.write(dict(id=report.nodeid, outcome='failed', seconds=0, error='CollectError', statement='',
                            message=str(report.longrepr)[-MAX_MESSAGE:]))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.result = dict(id=nodeid, outcome='passed', seconds=0, error='', statement='', message='')
        self.write(dict(id=nodeid, outcome='started'))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> Iterator:
        outcome = yield
        report = outcome.get_result()
        self.result['seconds'] += round(report.duration, 3)
        if report.outcome == 'passed' or self.result['outcome'] == 'failed':
            return
        self.result['outcome'] = report.outcome
        if call.excinfo is not None:
            self.result.update(error=call.excinfo.typename, statement=failing_statement(call.excinfo),
                               message=str(call.excinfo.value)[:MAX_MESSAGE])

    def pytest_runtest_logfinish(self) -> None:
        self.write(self.result)


def failing_statement(error: pytest.ExceptionInfo) -> str:
    """The last statement of a test file in the traceback of an exception, as one line."""
    entries = [entry for entry in error.traceback if os.path.basename(entry.path).startswith('test_')]
    return ' '.join(str(entries[-1].statement).split()) if entries else ''
