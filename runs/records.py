"""Readers of the files of a run: configuration, status lines, metrics, pictures."""

import ast
import json
import os
import re
from typing import Any, NamedTuple

from common.console import format_time
from common.errors import UserError

LARGEST = 1e100                 # Larger numbers count as infinite; integers may be larger than any float.


def read_stats(run_dir: str) -> list[dict[str, float]]:
    """The status lines of a run, list of dict; [] if it has none.

    Lines without a number 'kimg' are passed over, as is one cut off at the end. Values that are not finite numbers are
    left out. Where `kimg` goes back, the run was resumed: the earlier lines from there on are dropped.
    """
    stats: list[dict[str, float]] = []
    for line in read_jsonl(os.path.join(run_dir, 'stats.jsonl')):
        line = {name: value for name, value in line.items() if is_finite(value)}
        if 'kimg' in line:
            while stats and stats[-1]['kimg'] >= line['kimg']:
                stats.pop()
            stats.append(line)
    return stats


def read_jsonl(path: str | os.PathLike) -> list[dict]:
    """The objects of a file with one JSON object per line; [] without the file. What is not one is passed over."""
    objects = []
    try:
        with open(path, encoding='utf-8', errors='replace') as lines:
            for line in lines:
                try:
                    objects.append(json.loads(line))
                except (ValueError, RecursionError):    # Cut off.
                    continue
    except FileNotFoundError:
        return []
    return [item for item in objects if isinstance(item, dict)]


def is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and -LARGEST < value < LARGEST


def finite_or_none(value: Any) -> float | None:
    return value if is_finite(value) else None


def list_fakes(run_dir: str) -> list[tuple[int, str]]:
    """[(kimg, path)] of a run's image grids ``fakesNNNNNN.png``, the earliest first."""
    matches = [re.fullmatch(r'fakes(\d+)\.png', name) for name in os.listdir(run_dir)]
    return sorted((int(match[1]), os.path.join(run_dir, match[0])) for match in matches if match)


def caption_of(kimg: int, stats: list[dict]) -> str:
    """``kimg 120   lod 1.50   time 2h 03m 07s`` for the picture of so many thousands of images."""
    past = [line for line in stats if int(line['kimg']) <= kimg and 'lod' in line and 'seconds' in line]
    if not past:
        return f'kimg {kimg}'
    return f'kimg {kimg:<6d}  lod {past[-1]["lod"]:.2f}   time {format_time(past[-1]["seconds"])}'


def read_text(run_dir: str, name: str) -> str:
    """A text file of a run; '' without the file."""
    try:
        with open(os.path.join(run_dir, name), encoding='utf-8', errors='replace') as text_file:
            return text_file.read()
    except FileNotFoundError:
        return ''


def total_kimg_of(config: str) -> float | None:
    """``train.total_kimg`` in the text of a ``config.txt``, or None."""
    return finite_or_none(_train_option(config, 'total_kimg'))


def grid_type_of(config: str) -> str | None:
    """``train.image_grid_type`` in the text of a ``config.txt``, or None."""
    grid_type = _train_option(config, 'image_grid_type')
    return grid_type if isinstance(grid_type, str) else None


def _train_option(config, name):
    try:
        return ast.literal_eval(config)['train'][name]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        return None


RESULTS_NAME = 'metrics.jsonl'
REALS_NAME = 'metrics-reals.jsonl'      # The same numbers of the reals themselves, see metrics.floor.
SNAPSHOT_PATTERN = re.compile(r'network-(snapshot-(\d+)|final)\.pkl')


def place_of_result(entry: dict) -> tuple:
    """What an entry of ``metrics.jsonl`` is about. Of several entries about the same, the last one is shown."""
    return tuple(str(entry.get(name)) for name in ('metric', 'snapshot', 'num_images', 'random_seed'))


def read_results(run_dir: str | os.PathLike) -> list[dict]:
    """The entries of ``metrics.jsonl`` that are to be shown: the last one of each place and kimg, in their order."""
    entries = [entry for entry in read_jsonl(os.path.join(run_dir, RESULTS_NAME))
               if isinstance(entry.get('metric'), str) and isinstance(entry.get('values'), dict)]
    last = {(place_of_result(entry), str(entry.get('kimg'))): entry for entry in entries}
    return [entry for entry in entries if last[place_of_result(entry), str(entry.get('kimg'))] is entry]


def best_snapshot(run_dir: str | os.PathLike) -> str | None:
    """The snapshot, ``network-snapshot-NNNNNN`` or ``network-final``, that is marked as the best one; None without."""
    return next((entry.get('snapshot') for entry in read_results(run_dir) if entry.get('best') is True), None)


def read_config(run_dir: str) -> dict:
    """The resolved experiment that ``config.txt`` of a run folder holds, as a dict."""
    path = os.path.join(run_dir, 'config.txt')
    try:
        with open(path, encoding='utf-8') as config_file:
            config = ast.literal_eval(config_file.read())
        if not isinstance(config, dict) or 'dataset' not in config:
            raise ValueError
        return config
    except OSError as error:
        raise UserError(f'{run_dir}: no config.txt in there ({error.strerror}); give a run folder, for example '
                        'results/000-digits') from error
    except (ValueError, SyntaxError) as error:
        raise UserError(f'{path}: is not the configuration of a run; restore the file') from error


def config_or_none(run_dir: str) -> dict | None:
    """What ``config.txt`` of a folder holds, of whatever experiment; None if it is missing or no such file."""
    try:
        config = ast.literal_eval(read_text(run_dir, 'config.txt'))
    except (OSError, ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def read_command(run_dir: str) -> str:
    """How a run was started, as ``run.txt`` says; '?' where it does not."""
    first = read_text(run_dir, 'run.txt').partition('\n')[0]
    return first.removeprefix('command: ') if first.startswith('command: ') else '?'


def best_snapshots(run_dir: str) -> set[str]:
    """Names of the snapshots that a metric in ``metrics.jsonl`` puts first or last, whichever is the good end."""
    values: dict[tuple, dict[str, float]] = {}
    best = set()
    for entry in read_jsonl(os.path.join(run_dir, RESULTS_NAME)):
        name, numbers = str(entry.get('snapshot')), entry.get('values')
        if entry.get('best'):
            best.add(name)
        for key, value in (numbers if isinstance(numbers, dict) else {}).items():
            if is_finite(value):
                values.setdefault((entry.get('metric'), entry.get('num_images'), key), {})[name] = value
    for by_name in values.values():
        best |= {min(by_name, key=by_name.__getitem__), max(by_name, key=by_name.__getitem__)}
    return best


class Snapshot(NamedTuple):
    """A network snapshot in a run folder."""

    snapshot: str           # File name without suffix.
    path: str
    kimg: float | None      # From ``stats.jsonl``, else from the file name, which has none at the end of the training.
    seconds: float | None   # Since the start of the run; None where ``stats.jsonl`` does not tell.


def find_snapshots(run_dir: str | os.PathLike) -> list[Snapshot]:
    """The network snapshots of a run, in the order of training."""
    stats = read_jsonl(os.path.join(run_dir, 'stats.jsonl'))
    snapshots = []
    for name in sorted(os.listdir(run_dir)):
        match = SNAPSHOT_PATTERN.fullmatch(name)
        if match:
            of_snapshot = [tick for tick in stats if match[2] is None or int(tick['kimg']) == int(match[2])][-1:]
            kimg, seconds = next(((tick['kimg'], tick['seconds']) for tick in of_snapshot),
                                 (float(match[2]) if match[2] else None, None))
            snapshots.append(Snapshot(name[:-len('.pkl')], os.path.join(run_dir, name), kimg, seconds))
    if not snapshots:
        raise UserError(f'{run_dir}: no network-snapshot-*.pkl or network-final.pkl in there')
    return sorted(snapshots, key=lambda entry: (entry.snapshot == 'network-final', entry.kimg))
