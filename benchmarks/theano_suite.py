"""Run the tests in the package of Theano 1.0.5 on two engines and compare the results.

    python benchmarks/theano_suite.py --out /tmp/suite
    python benchmarks/theano_suite.py tensor/tests/test_subtensor.py scan_module --engines torch theano
    python benchmarks/theano_suite.py --out /tmp/suite --resume

Each test file runs in its own process. The other engines run only the tests that fail on the first one. A test fails if
it takes too long. If a process crashes or takes too long, another process continues with the next test. The results are
JSON lines in a folder; `--resume` continues an earlier run.

The report counts the tests that fail only on the first engine, by kind. `benchmarks/suite/known.txt` lists the accepted
failures with reasons; any other failure makes the exit status 1. With a single engine, the tests that the list marks
as failing everywhere do not count. Theano's own engines need NumPy 1.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.suite import kinds
from benchmarks.suite.plugin import failed_in, read_results

KNOWN = ROOT / 'benchmarks' / 'suite' / 'known.txt'
# These need a GPU and libgpuarray, or check the style of Theano's source code.
LEFT_OUT = ('gpuarray/', 'tests/test_flake8.py')


def theano_folder() -> pathlib.Path:
    """The folder of the installed Theano."""
    spec = importlib.util.find_spec('theano')
    if spec is None or spec.origin is None:
        raise SystemExit('Theano is not installed')
    return pathlib.Path(spec.origin).parent


def files_of(names: Sequence[str]) -> list[str]:
    """Theano's test files, relative to its folder: those whose paths begin with one of `names`, or all without."""
    folder = theano_folder()
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob('test_*.py'))
    files = [file for file in files if not file.startswith(LEFT_OUT)]
    unknown = [name for name in names if not any(file.startswith(name) for file in files)]
    if unknown:
        raise SystemExit(f'Theano has no tests in {", ".join(unknown)}')
    return [file for file in files if file.startswith(tuple(names) or '')]


class Group:
    """The tests of one file on one engine, in child processes.

    Parameters
    ----------
    engine, file : str
    out : pathlib.Path
        Folder of results.
    test_seconds, seconds : float
        Limits for each test and for the whole file.
    first : Group or None
        The same tests on another engine. Only the tests that failed there are run.
    """

    def __init__(self, engine: str, file: str, out: pathlib.Path, test_seconds: float, seconds: float,
                 first: 'Group | None') -> None:
        self.engine, self.file, self.out, self.first = engine, file, out, first
        self.test_seconds, self.seconds = test_seconds, seconds
        name = file.removesuffix('.py').replace('/', '.')
        self.results_path, self.done_path = out / engine / f'{name}.jsonl', out / engine / f'{name}.done'
        self.log_path = out / engine / f'{name}.log'

    def begin_anew(self) -> None:
        """Delete earlier results."""
        for path in (self.results_path, self.done_path):
            path.unlink(missing_ok=True)

    def is_done(self) -> bool:
        if self.first is None:
            return self.done_path.exists()
        return failed_in(self.first.results_path) <= self.results().keys()

    def run(self) -> None:
        """Run all tests that have no result yet."""
        self.results_path.parent.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + self.seconds
        while not self.is_done():
            status = self.run_child(end - time.monotonic())
            running = self.running()
            if running is None and status in (0, 1, 5):     # pytest: passed, failed, no tests left.
                break
            reason = ('the time limit of the file is reached' if status is None
                      else f'the process ended with status {status}')
            self.note_end(running or self.file, reason)
            if running is None or time.monotonic() > end:
                self.note_end(self.file, reason)
                break
        self.done_path.touch()

    def run_child(self, seconds: float) -> int | None:
        """Run the tests in a new process; return its exit status, or None if it exceeded the time limit."""
        folder = theano_folder()
        command = [sys.executable, '-m', 'pytest', '-c', str(ROOT / 'benchmarks' / 'suite' / 'pytest.ini'),
                   '--rootdir', str(folder), '-p', 'benchmarks.suite.plugin', '-p', 'no:cacheprovider', '-q',
                   '--timeout', str(self.test_seconds), '--suite-engine', self.engine,
                   '--suite-results', str(self.results_path), str(folder / self.file)]
        if self.first is not None:
            command += ['--suite-failed-in', str(self.first.results_path)]
        flags = [os.environ.get('THEANO_FLAGS'), f'base_compiledir={self.out / self.engine / "compiled"}']
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONHASHSEED': '0',
                       'THEANO_FLAGS': ','.join(filter(None, flags))}
        with self.log_path.open('a') as log, contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                  timeout=max(seconds, 1)).returncode
        return None

    def results(self) -> dict[str, dict]:
        """{id of a test: its result}."""
        return read_results(self.results_path)

    def running(self) -> str | None:
        """The test that was started and has no result yet, or None."""
        if not self.results_path.exists():
            return None
        lines = self.results_path.read_text(encoding='utf-8').splitlines()
        last = json.loads(lines[-1]) if lines else {'outcome': 'none'}
        return last['id'] if last['outcome'] == 'started' else None

    def note_end(self, test: str, reason: str) -> None:
        """Record a failure of `test` because its process ended."""
        with self.results_path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(dict(id=test, outcome='failed', seconds=0, error='Ended', statement='',
                                       message=reason)) + '\n')


def run_all(files: Sequence[Sequence[Group]], jobs: int) -> None:
    """Run the groups of each file one after the other, `jobs` files at a time, and print the progress."""
    def run(groups: Sequence[Group]) -> None:
        for group in groups:
            group.run()

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(run, groups): groups[0] for groups in files}
        for number, future in enumerate(concurrent.futures.as_completed(running), 1):
            future.result()
            group = running[future]
            counts = collections.Counter(result['outcome'] for result in group.results().values())
            print(f'{number} of {len(files)}: {group.file}: {counts["passed"]} passed, {counts["failed"]} failed on '
                  f'{group.engine}', flush=True)


def merged(groups: Iterable[Group], engines: Sequence[str]) -> dict[str, dict]:
    """{test: result} of all tests that passed or failed on one of `engines`; a passed result takes precedence."""
    found: dict[str, dict] = {}
    for group in groups:
        if group.engine in engines:
            for test, result in group.results().items():
                if result['outcome'] == 'passed' or result['outcome'] == 'failed' and test not in found:
                    found[test] = result
    return found


class Report:
    """The tests that fail only on the first engine, compared with the list of known failures.

    Parameters
    ----------
    groups : list of Group
    engines : list of str
        The first engine is compared with the others.
    entries : list of kinds.Known
    """

    def __init__(self, groups: Sequence[Group], engines: Sequence[str], entries: list[kinds.Known]) -> None:
        self.ours = merged(groups, engines[:1])
        theirs = merged(groups, engines[1:])
        self.known = {test: kinds.find_known(test, entries) for test in self.ours}
        failed = [test for test, result in self.ours.items() if result['outcome'] == 'failed']
        if len(engines) == 1:
            self.alone = [test for test in failed if not self.is_everywhere(test)]
        else:
            self.alone = [test for test in failed if test in theirs and theirs[test]['outcome'] == 'passed']
        self.unlisted = [test for test in self.alone if self.known[test] is None or self.is_everywhere(test)]
        used = {self.known[test] for test in failed}
        self.unused = [entry for entry in dict.fromkeys(self.known.values()) if entry not in used and entry is not None]

    def is_everywhere(self, test: str) -> bool:
        """Whether the list marks `test` as failing on Theano's own engines, too."""
        entry = self.known[test]
        return entry is not None and entry.kind == kinds.EVERYWHERE

    def kind(self, test: str) -> str:
        entry = self.known[test]
        return kinds.kind_of(self.ours[test]) if test in self.unlisted or entry is None else entry.kind

    def print(self) -> None:
        """Print unlisted failures, unused lines of the list and, last, the counts."""
        for test in self.unlisted:
            result = self.ours[test]
            print(f'\nNot in the list: {test} ({self.kind(test)})\n    {result["statement"]}\n    {result["error"]}: '
                  f'{" ".join(result["message"].split())[:400]}')
        for entry in self.unused:
            print(f'\nIn the list, but passes: {entry.pattern}')
        print('\n%-22s %8s %12s' % ('fail only on torch', 'listed', 'not listed'))
        for kind in kinds.KINDS:
            tests = [test for test in self.alone if self.kind(test) == kind]
            outside = sum(test in self.unlisted for test in tests)
            print('%-22s %8d %12d' % (kind, len(tests) - outside, outside))
        passed = sum(result['outcome'] == 'passed' for result in self.ours.values())
        print(f'\n{len(self.ours)} tests: {passed} passed, {len(self.alone)} fail only on torch')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('files', nargs='*', help="test files or folders, as in 'tensor/tests'; default: all")
    parser.add_argument('--engines', nargs='+', default=['torch', 'python'], choices=['torch', 'theano', 'python'],
                        help='the first engine is compared with the others')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / 'theano-suite',
                        help='folder for the results')
    parser.add_argument('--resume', action='store_true', help='keep the results of an earlier run')
    parser.add_argument('--jobs', type=int, default=1, help='number of parallel processes')
    parser.add_argument('--test-seconds', type=float, default=60, help='time limit for each test')
    parser.add_argument('--file-seconds', type=float, default=1500, help='time limit for each file')
    args = parser.parse_args()
    files = []
    for file in files_of(args.files):
        first = None
        groups = []
        for engine in args.engines:
            groups.append(Group(engine, file, args.out.resolve(), args.test_seconds, args.file_seconds, first))
            first = groups[0]
        files.append(groups)
    everything = [group for groups in files for group in groups]
    if not args.resume:
        for group in everything:
            group.begin_anew()
    run_all(files, args.jobs)
    report = Report(everything, args.engines, kinds.read_known(KNOWN))
    report.print()
    return 1 if report.unlisted else 0


if __name__ == '__main__':
    sys.exit(main())
