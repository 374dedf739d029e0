"""Kill and resume a training repeatedly: the result must equal that of an uninterrupted training.

``python tests/training/kill_resume.py --kills 50`` does so in a temporary folder and prints each outcome.
test_resume.py is the short version. Runs are small and save their state after every iteration, so that many kills
happen during a save.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import random
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from common.files import TEMPORARY_SUFFIX
from nets.pickles import load_pkl
from runs.folder import DONE_FILE, state_paths

# At least two changes of the resolution and four ticks.
OPTIONS = {
    'dataset.resolution': 8, 'dataset.mirror_augment': True, 'G.fmap_max': 4, 'D.fmap_max': 4,
    'train.minibatch_default': 4, 'train.lod_training_kimg': 0.4, 'train.lod_transition_kimg': 0.4,
    'train.total_kimg': 1.6, 'train.tick_kimg_default': 0.25, 'train.rampup_kimg': 0.5, 'train.separate_funcs': True,
    'train.dequantize_reals': True, 'train.image_snapshot_ticks': 2, 'train.network_snapshot_ticks': 3,
    'train.image_grid_zoom': 1, 'train.show_progress': False, 'train.state_minutes': 0, 'metrics': '[]',
}
TIMES = re.compile(r'time .*? (?=Dgdrop)')


def command(folder, options, *arguments):
    """The command line of a run in `folder` with `OPTIONS` and other `options`."""
    words = [word for key, value in {**OPTIONS, **options}.items() for word in ('--set', f'{key}={value}')]
    return [sys.executable, str(ROOT / 'train.py'), '--engine', 'torch', '--data-dir', str(folder.parent / 'data'),
            '--result-dir', str(folder), *words, *arguments]


def start(folder, options, *arguments, **popen_kwargs):
    return subprocess.Popen(command(folder, options, *arguments), env=dict(os.environ, OMP_NUM_THREADS='1'),
                            text=True, **popen_kwargs)


def processes():
    """A multiprocessing context whose processes have already imported everything."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['train', 'torch'])
    return context


def live(folder, options, arguments, *output_paths):
    """Run the command of :func:`start` in this process; redirect stdout and stderr to one or two files."""
    import torch

    import train
    torch.set_num_threads(1)
    redirect(output_paths)
    sys.exit(train.main(command(folder, options, *arguments)[2:]))


class Script:
    """A script in a process that has already imported everything, with the interface of `subprocess.Popen`.

    Parameters
    ----------
    command : list of str
        The script and its arguments.
    environment : dict
    folder : path
        Folder for its output.
    """

    def __init__(self, command, environment, folder):
        self.paths = [pathlib.Path(folder, name) for name in ('out.txt', 'err.txt')]
        self.process = processes().Process(target=run_script, args=(command, environment, *self.paths), daemon=True)
        self.process.start()
        self.kill, self.terminate = self.process.kill, self.process.terminate

    @property
    def returncode(self):
        return self.process.exitcode

    poll = returncode.fget

    def communicate(self, timeout=None):
        """Wait for its end; return (stdout, stderr)."""
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired('a script', timeout)
        return tuple(path.read_text(encoding='utf-8') for path in self.paths)


def run_script(command, environment, *output_paths):
    import torch

    from training import stopping
    torch.set_num_threads(1)
    stopping.LAUNCHER = os.getppid()        # The module was imported before this process was forked.
    os.environ.update(environment)
    redirect(output_paths)
    sys.argv = list(command)
    runpy.run_path(command[0], run_name='__main__')


def redirect(paths):
    """Redirect stdout and stderr of this process to two files, or both to one."""
    for descriptor, path in ((1, paths[0]), (2, paths[-1])):
        with open(path, 'a', encoding='utf-8') as file:
            os.dup2(file.fileno(), descriptor)


def finish(folder, options, *arguments):
    """Run to the end; return (stdout, stderr)."""
    with tempfile.TemporaryDirectory() as temporary:
        paths = [pathlib.Path(temporary, name) for name in ('out.txt', 'err.txt')]
        process = processes().Process(target=live, args=(folder, options, arguments, *paths), daemon=True)
        process.start()
        process.join()
        out, err = [path.read_text(encoding='utf-8') for path in paths]
    assert process.exitcode == 0, err
    return out, err


def contents(run_dir):
    """The contents of a finished run that do not depend on the clock: {name: array, text or bytes}."""
    result = {}
    for net, network in zip(('G', 'D', 'Gs'), load_pkl(run_dir / 'network-final.pkl'), strict=True):
        result.update((f'{net} {name}', var.get_value()) for name, var in network.vars.items())
    rows = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    clocks = ('seconds', 'sec_per_tick', 'sec_per_kimg', 'compile_seconds', 'peak_memory_mb')
    result['stats'] = [{key: value for key, value in row.items() if key not in clocks} for row in rows]
    lines = [TIMES.sub('', line) for line in (run_dir / 'log.txt').read_text().splitlines()]
    result['log'] = [line for line in lines if not line.startswith(('Saving results to', 'Wrote '))]
    result.update((path.name, path.read_bytes()) for path in run_dir.glob('*.png'))
    return result


def assert_same(wanted, found):
    """Assert that :func:`contents` of two runs are equal bit for bit."""
    assert sorted(wanted) == sorted(found)
    for name, value in wanted.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == found[name].dtype and value.tobytes() == found[name].tobytes(), name
        else:
            assert value == found[name], name


def newest_state(run_dir):
    return max(map(str, run_dir.glob('training-state-*.npz')), default='')


def damage(path, chance):
    """Truncate a state, or flip one of its bits."""
    size = os.path.getsize(path)
    if chance.random() < 0.5:
        os.truncate(path, chance.randrange(size))
        return
    with open(path, 'r+b') as file:
        position = chance.randrange(size)
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1 << chance.randrange(8)]))


def kill_and_resume(folder, options, kills, chance, seconds=1.5, report=lambda line: None):
    """Start a run, kill it `kills` times at random moments, then let it finish.

    Returns
    -------
    dict
        Number of kills, of kills while a file was being written, and of damaged newest states.
    """
    run_dir = folder / '000-digits'
    counts = {'kills': 0, 'while writing': 0, 'damaged': 0}
    while counts['kills'] < kills:
        before = newest_state(run_dir)
        arguments = ['--resume', '0'] if (run_dir / 'config.txt').exists() else []
        if not arguments:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        process = processes().Process(target=live, daemon=True,
                                      args=(folder, options, arguments, folder / 'output.txt'))
        process.start()
        # Most processes live long enough to train.
        if chance.random() < 0.8:
            while newest_state(run_dir) in ('', before) and process.is_alive():
                time.sleep(0.01)
            time.sleep(chance.uniform(0, seconds))
        else:
            time.sleep(chance.uniform(0, 5 * seconds))
        if not process.is_alive():
            assert process.exitcode == 0, (folder / 'output.txt').read_text()
            break
        process.kill()
        process.join()
        counts['kills'] += 1
        counts['while writing'] += bool(list(run_dir.glob('*' + TEMPORARY_SUFFIX)))
        if len(state_paths(str(run_dir))) > 1 and chance.random() < 0.15:
            damage(newest_state(run_dir), chance)
            counts['damaged'] += 1
        report(f'{counts}, state {newest_state(run_dir)[-13:-4]}')
    if not (run_dir / DONE_FILE).exists():
        finish(folder, options, '--resume', '0')
    assert not list(run_dir.glob('*' + TEMPORARY_SUFFIX))
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--set', action='append', default=[], metavar='SECTION.KEY=VALUE', dest='overrides')
    args = parser.parse_args()
    options, chance = dict(override.split('=', 1) for override in args.overrides), random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        finish(folder / 'alone', options)
        wanted = contents(folder / 'alone' / '000-digits')
        total = {}
        for number in range(args.kills):
            counts = kill_and_resume(folder / f'killed-{number}', options, args.kills - total.get('kills', 0),
                                     chance, report=lambda line: print(line, flush=True))
            assert_same(wanted, contents(folder / f'killed-{number}' / '000-digits'))
            total = {key: total.get(key, 0) + count for key, count in counts.items()}
            print(f'run {number} is the same as the one left alone, bit for bit', flush=True)
            if total['kills'] >= args.kills:
                break
        print('all the same; in total:', total)


if __name__ == '__main__':
    main()
