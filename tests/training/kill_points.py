"""Kill a training at each of its file operations in turn; `--resume latest` must cope with whatever is left.

``python tests/training/kill_points.py`` does so for all operations in a temporary folder, and prints each outcome.
test_kill_points.py is the short version.
"""

import argparse
import collections
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.training import kill_resume

# A few steps in two lod ranges that write every kind of file: pictures, networks, states.
OPTIONS = {
    'train.total_kimg': 0.032, 'train.lod_training_kimg': 0.012, 'train.lod_transition_kimg': 0.012,
    'train.tick_kimg_default': 0.008, 'train.rampup_kimg': 0.01, 'train.image_snapshot_ticks': 1,
    'train.network_snapshot_ticks': 1, 'dataset.prefetch_images': 32, 'train.image_grid_size': '(2, 2)'}
CHANGES = {'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.truncate', 'shutil.rmtree'}


def killed_live(moment, folder, *args):
    """Like `kill_resume.live`, but killed before a file operation in `folder`.

    `moment` is the number of the operation, from 0, or a pattern of its name and path, such as 'os.rename .*config'.
    Opening a file for writing counts twice: before it, and after it, when the file is empty or unchanged.
    """
    count = 0
    busy = False

    def watch(event, event_args):
        nonlocal count, busy
        is_opened = event == 'open' and isinstance(event_args[2], int) and event_args[2] & (os.O_WRONLY | os.O_RDWR)
        if busy or not (is_opened or event in CHANGES) or not str(event_args[0]).startswith(str(folder)):
            return
        is_made = is_opened and not event_args[2] & os.O_EXCL
        for _moment in range(2 if is_made else 1):
            if moment == count or isinstance(moment, str) and re.match(moment, f'{event} {event_args[0]}'):
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            if is_made:
                busy = True
                os.close(os.open(event_args[0], event_args[2], 0o644))
                busy = False

    sys.addaudithook(watch)
    kill_resume.live(folder, *args)


def outcome(moment, folder, options, wanted):
    """Kill a new run in `folder` at a moment, see :func:`killed_live`, and resume it.

    Returns
    -------
    str
        'the end': the run was not killed. 'went on': the result is `wanted`, bit for bit. 'nothing': a one-line error
        reports that there is nothing to resume, and the folder is unchanged. Anything else is a fault.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    output = folder.parent / 'output.txt'
    process = kill_resume.processes().Process(target=killed_live, daemon=True, args=(
        moment, folder, options, [], output))
    process.start()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        assert process.exitcode == 0, output.read_text()
        return 'the end'
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob('*')}
    paths = [folder.parent / name for name in ('out.txt', 'err.txt')]
    for path in paths:
        path.unlink(missing_ok=True)
    process = kill_resume.processes().Process(target=kill_resume.live, daemon=True, args=(
        folder, options, ['--resume', 'latest'], *paths))
    process.start()
    process.join()
    error = paths[1].read_text()
    if process.exitcode:
        after = {path: path.is_file() and path.read_bytes() for path in folder.rglob('*')}
        told = error.count('\n') == 1 and 'no training has saved' in error
        return 'nothing' if told and after == before else f'status {process.exitcode}: {error}'
    if len(list(folder.iterdir())) != 1:
        return f'folders: {sorted(os.listdir(folder))}'
    try:
        kill_resume.assert_same(wanted, kill_resume.contents(folder / '000-digits'))
    except AssertionError as difference:
        return f'another result: {str(difference)[:200]}'
    return 'went on'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--first', type=int, default=0)
    parser.add_argument('--last', type=int, default=10 ** 6)
    parser.add_argument('--step', type=int, default=1)
    parser.add_argument('--set', action='append', default=[], metavar='SECTION.KEY=VALUE', dest='overrides')
    args = parser.parse_args()
    options = {**OPTIONS, **dict(override.split('=', 1) for override in args.overrides)}
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        kill_resume.finish(folder / 'alone', options)
        wanted = kill_resume.contents(folder / 'alone' / '000-digits')
        for number in range(args.first, args.last, args.step):
            result = outcome(number, folder / 'killed', options, wanted)
            if result == 'the end':
                break
            counts[result[:60]] += 1
            if result not in ('went on', 'nothing'):
                print(number, result, sorted(os.listdir(folder / 'killed' / '000-digits')), flush=True)
        print(dict(counts), 'of', sum(counts.values()))


if __name__ == '__main__':
    main()
