"""Check and time this project on a machine with a GPU and without internet, in at most eight minutes.

    python benchmarks/gpu_carry.py carry                                # First, on a machine with internet.
    python3 benchmarks/gpu_check.py --carry carry --out OUT             # On the GPU machine, with its PyTorch.
    python benchmarks/gpu_check.py --standin --out OUT                  # To try it anywhere.

``pytest -m gpu`` runs in parallel with the checks of gpu_correct.py: results equal those of the CPU, recorded steps
equal single ones, runs repeat exactly, memory stays constant. Then gpu.py measures times: 1024x1024 first, then all
lods, then larger minibatches. OUT/gpu_check.json and OUT/gpu_check.md are rewritten after every row. A failure is a row
with a one-line error. The remaining rows still run, in a new process if the old one has ended or has lost the GPU. The
exit status is 1 if anything failed.

The stand-in of tests/standin computes on the CPU: with --standin, times mean nothing.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'benchmarks'), str(ROOT)]

import gpu
import gpu_correct

TEST_COLUMNS = (('test', '%s'), ('error', '%s'))
CHECK_COLUMNS = (('check', '%s'), ('precision', '%s'), ('found', '%s'), ('passed', '%s'), ('seconds', '%.1f'),
                 ('error', '%s'))
WAY_COLUMNS = (('key', '%s'), ('seconds', '%s'))
AGAIN = 3                   # Exit status of a process that needs a successor.
LEFT_OUT = ('tests/standin', 'tests/benchmarks')        # These test the stand-in and this program.
STANDIN = {'resolution': 4, 'fmap_max': 4, 'fmap_base': 16, 'check_resolution': 4, 'check_fmap_max': 4,
           'check_fmap_base': 16, 'long_steps': 3, 'seconds': 0.01, 'paper_only': True,
           'tests': ['tests/theano_torch/test_gpus.py'], 'budget': 3600, 'tests_seconds': 900}


class Report:
    """The results in OUT/gpu_check.json, to which several processes add one after the other.

    Parameters
    ----------
    folder : path
        OUT.
    """

    def __init__(self, folder):
        self.folder = folder
        path = pathlib.Path(folder, 'gpu_check.json')
        self.found = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {
            'facts': {}, 'checks': [], 'rows': [], 'projections': [], 'ways': [], 'tests': None, 'failures': []}

    def save(self):
        from common.files import atomic_write
        found = self.found
        lines = [f'{name}: {value}  ' for name, value in found['facts'].items()]
        lines += ['', *gpu.table(found['checks'], CHECK_COLUMNS), '', *gpu.tables(found['rows'], found['projections'])]
        if found['tests']:
            lines += ['', f'pytest -m gpu: {found["tests"]}', '', *gpu.table(found['failures'], TEST_COLUMNS)]
        if found['ways']:
            lines += ['', 'Seconds of each implementation of a function:', '',
                      *gpu.table(found['ways'], WAY_COLUMNS)]
        for name, text in (('json', json.dumps(found, indent=1)), ('md', '\n'.join(lines))):
            with atomic_write(os.path.join(self.folder, f'gpu_check.{name}'), 'w', encoding='utf-8') as file:
                file.write(text + '\n')

    def note_end(self, part, error):
        """Add a failed row for a part that could not start."""
        self.found['checks'].append({'check': part, 'passed': False, 'error': error})
        self.save()

    def num_rows(self):
        return len(self.found['checks']) + len(self.found['rows'])

    def has_failed(self):
        """Whether anything failed. Running out of memory with large minibatches is not a failure."""
        found = self.found
        return bool(found['failures']) or not all(row['passed'] for row in found['checks']) or any(
            not row.get('error', 'OutOfMemory').startswith('OutOfMemory') for row in found['rows'])


class Checks:
    """Runs the checks of `gpu_correct`.

    Parameters
    ----------
    args : argparse.Namespace
        Options of :func:`main`.
    report : Report
    """

    def __init__(self, args, report):
        self.args, self.report = args, report
        self.subject = gpu_correct.Subject('cuda0', args.check_resolution, args.check_fmap_base, args.check_fmap_max,
                                           args.long_steps)

    def run(self):
        """Run all checks that have no row yet; yield each row."""
        known = {(row['check'], row['precision']) for row in self.report.found['checks']}
        for name, function, is_for_each in gpu_correct.CHECKS:
            for precision in dict.fromkeys(['float32', *self.args.precisions]) if is_for_each else ['float32']:
                if (name, precision) not in known:
                    yield self.check(name, function, precision)

    def check(self, name, function, precision):
        """Run one check and return its row."""
        row, start = {'check': name, 'precision': precision, 'passed': False, 'error': gpu.UNFINISHED}, time.monotonic()
        self.report.found['checks'].append(row)
        self.report.save()
        try:
            found, row['passed'] = function(self.subject, precision)
            row['found'] = f'{found:.2g}' if isinstance(found, float) else found
            del row['error']
        except Exception as error:      # Even after a bug, the other checks are worth having.
            row['error'] = gpu.one_line(error)
        row['seconds'] = time.monotonic() - start
        self.report.save()
        print('  '.join(gpu.words(row, CHECK_COLUMNS)), flush=True)
        return row


class Timing:
    """Measures times with `gpu`; parameters as for `Checks`."""

    def __init__(self, args, report):
        self.report = report
        args.device = 'cuda0'
        self.bench = gpu.Bench(args, self.save, report.found['rows'])

    def save(self):
        from theano_torch import gpus

        import torch
        timed = gpus.timed_on(torch.device('cuda:0'))
        self.report.found.update(
            rows=self.bench.rows, projections=self.bench.projections(),
            ways=[{'key': str(key), 'seconds': ', '.join(f'{1e6 * way:.0f} us' for way in seconds)}
                  for key, seconds in timed.items()] or self.report.found['ways'])
        self.report.save()

    def run(self):
        """Measure all missing rows; yield each row."""
        return self.bench.steps()


PARTS = {'checks': Checks, 'timing': Timing}


def run_part(args):
    """Run one part in this process; return the exit status, which is `AGAIN` if the rest needs a new process."""
    import torch
    report = Report(args.out)
    report.found['facts'] = facts(args)
    try:
        part = PARTS[args.part](args, report)
    except Exception as error:      # Even after a bug, the other part is worth having.
        report.note_end(args.part, gpu.one_line(error))
        return 0
    for row in part.run():
        if 'error' in row:
            try:
                torch.cuda.synchronize()
            except RuntimeError:        # After some errors, the process cannot use the GPU any more.
                return AGAIN
        if time.time() > args.until:
            break
    return 0


def run_all(args, argv):
    """Run both parts, and the tests in parallel with the checks, in separate processes; return the exit status."""
    if not args.standin:
        need_gpu()
    args.until = min(args.until, time.time() + args.budget)
    for path in pathlib.Path(args.out).glob('gpu_check.*'):
        path.unlink()
    tests = Tests(args) if args.tests else None
    for part in PARTS:
        run_in_processes(part, args, argv)
        if tests is not None:       # Nothing else may run during the timing.
            report = Report(args.out)
            report.found['tests'], report.found['failures'] = tests.results()
            report.save()
            print(report.found['tests'], flush=True)
            tests = None
    report = Report(args.out)
    print(f'written: {os.path.join(args.out, "gpu_check.json")} and gpu_check.md beside it')
    return int(report.has_failed())


def run_in_processes(part, args, argv):
    """Run one part in a new process; repeat this for its missing rows as long as each process adds rows."""
    status, before = None, -1
    while status != 0 and time.time() < args.until:
        if Report(args.out).num_rows() == before:
            Report(args.out).note_end(part, f'its process ended with status {status} before its first row')
            return
        before = Report(args.out).num_rows()
        command = [sys.executable, __file__, *argv, '--part', part, '--until', str(args.until), '--budget',
                   str(args.until - time.time())]
        status = subprocess.run(command, check=False).returncode


class Tests:
    """``pytest -m gpu`` in a separate process, with a time limit."""

    def __init__(self, args):
        self.end = time.time() + args.tests_seconds
        self.log = pathlib.Path(args.out, 'pytest.log')
        command = [sys.executable, '-m', 'pytest', '-v', '-rfE', '--tb=short', '-m', 'gpu', '-p', 'no:cacheprovider',
                   *(f'--ignore={path}' for path in LEFT_OUT), *args.tests]
        with open(self.log, 'w', encoding='utf-8') as file:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)

    def results(self):
        """Wait for the end; return (summary, rows of the failed tests)."""
        words = ''
        try:
            self.process.wait(max(self.end - time.time(), 0))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            words = ', stopped by the time limit'
        passed, failures = read_log(self.log.read_text(encoding='utf-8', errors='replace'))
        return f'{passed} passed, {len(failures)} failed{words}', failures


def read_log(text):
    """(number of passed tests, rows of the others) in the output of ``pytest -v -rfE``, which may be incomplete."""
    results = dict(re.findall(r'^(tests/\S.*?) (PASSED|FAILED|ERROR)\b', text, re.MULTILINE))
    words = dict(re.findall(r'^(?:FAILED|ERROR) (tests/\S.*?) - (.*)$', text, re.MULTILINE))
    bad = [name for name, result in results.items() if result != 'PASSED']
    rows = [{'test': name, 'error': words.get(name)} for name in dict.fromkeys([*bad, *words])]
    if not results and not rows:
        lines = [line for line in text.splitlines() if line.strip()]
        rows = [{'test': 'pytest', 'error': lines[-1] if lines else 'no output'}]
    return sum(result == 'PASSED' for result in results.values()), rows


def facts(args):
    """Facts about this machine: {name: value}."""
    import numpy
    import torch
    found = {'GPU': torch.cuda.get_device_name('cuda'), 'compute capability': '%d.%d' % (
        torch.cuda.get_device_capability('cuda')), 'CUDA': torch.version.cuda, 'cuDNN': torch.backends.cudnn.version(),
        'PyTorch': torch.__version__, 'NumPy': numpy.__version__, 'Python': platform.python_version(),
        'machine': platform.platform(), 'date': time.strftime('%Y-%m-%d')}
    if shutil.which('nvidia-smi') and not args.standin:
        found['driver'] = subprocess.run(
            ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'], capture_output=True, text=True,
            check=False).stdout.strip()
    return found


@contextlib.contextmanager
def carried(folder):
    """Context in which the wheels in `folder` are installed, for this process and its children."""
    with tempfile.TemporaryDirectory() as site:
        paths = sorted(pathlib.Path(folder, 'wheels').glob('*.whl'))
        if not paths:
            raise SystemExit(f'--carry: {folder} has no wheels; make them with benchmarks/gpu_carry.py')
        if subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-index', '--no-deps', '--target',
                           site, *paths], check=False).returncode:
            raise SystemExit(f'--carry: pip cannot install the wheels in {folder} for Python '
                             f'{platform.python_version()}; make them again with gpu_carry.py --python')
        sys.path.insert(0, site)
        os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [site, os.environ.get('PYTHONPATH')]))
        yield


@contextlib.contextmanager
def a_gpu(is_standin):
    """Context with a GPU: the real one, or the stand-in."""
    if is_standin:
        os.environ['TRITON_INTERPRET'] = '1'        # Must be set before Triton is imported.
        from tests.standin.engine import a_gpu
        with a_gpu(capability=(9, 0)):
            yield
        return
    need_gpu()
    yield


def need_gpu():
    """Exit with a message if there is no GPU."""
    if importlib.util.find_spec('torch') is None:
        raise SystemExit(f'{sys.executable} has no PyTorch: install it, or use another Python')
    from theano_torch import gpus
    reason = gpus.why_none()
    if reason:
        raise SystemExit(f'no GPU: {reason}; --standin needs none')


def parser():
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu.add_options(result)
    result.set_defaults(precisions=['bfloat16', 'tf32'], budget=420)
    result.add_argument('--carry', metavar='DIR', help='folder of gpu_carry.py: wheels to install, and estimates')
    result.add_argument('--standin', action='store_true', help='use the stand-in, with tiny networks')
    result.add_argument('--out', default='.', metavar='DIR', help='folder for gpu_check.json, .md and pytest.log')
    result.add_argument('--check-resolution', type=int, default=64, help='for the checks; default: %(default)s')
    result.add_argument('--check-fmap-base', type=int, default=512, help='default: %(default)s')
    result.add_argument('--check-fmap-max', type=int, default=64, help='default: %(default)s')
    result.add_argument('--long-steps', type=int, default=200, help='steps of the memory check; default: %(default)s')
    result.add_argument('--tests', nargs='*', default=['tests'], help='paths for pytest; default: %(default)s')
    result.add_argument('--tests-seconds', type=float, default=180, help='limit of the tests; default: %(default)s')
    # Passed to the separate processes.
    result.add_argument('--part', choices=sorted(PARTS), help=argparse.SUPPRESS)
    result.add_argument('--until', type=float, default=math.inf, help=argparse.SUPPRESS)
    return result


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    options = parser()
    args = options.parse_args(argv)
    if args.standin:
        options.set_defaults(**STANDIN)
        args = options.parse_args(argv)
    os.makedirs(args.out, exist_ok=True)
    if args.carry and args.estimates is None and os.path.exists(os.path.join(args.carry, 'estimates.json')):
        args.estimates = os.path.join(args.carry, 'estimates.json')
    if args.part:
        with a_gpu(args.standin):
            return run_part(args)
    with carried(args.carry) if args.carry else contextlib.nullcontext():
        return run_all(args, argv)


if __name__ == '__main__':
    sys.exit(main())
