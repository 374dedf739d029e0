"""Metric results of a run: ``metrics.jsonl``, and ``metric-NAME.txt`` for people.

Each line has digests of everything that its values depend on: 'network', 'data', and 'weights' if the metric has any.
Lines of earlier versions lack them; they can be read, but are computed again. 'batchnorm_minibatch' is the size of the
minibatches whose statistics batch norm used; without it, each image was made independently.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from common.console import format_time
from common.errors import UserError
from common.files import AnyPath, atomic_write, locked
from runs.records import RESULTS_NAME, place_of_result, read_entries

Entry = dict[str, Any]

LOCK_NAME = '.metrics.lock'
LOCK_SECONDS = 60           # The lock is held only while small files are written.
FILE_PART = re.compile('[A-Za-z0-9_.-]{1,100}')    # Metric names that may be part of a file name.
KEY = ('metric', 'snapshot', 'num_images', 'random_seed', 'network', 'data', 'weights', 'batchnorm_minibatch')


def key_of(entry: Entry) -> tuple:
    """Everything that the values of an entry depend on."""
    return tuple(entry.get(name) for name in KEY)


def is_finite_result(values: dict[str, float]) -> bool:
    """Whether all values of a metric are finite."""
    return all(math.isfinite(value) for value in values.values())


def merged(entries: list[Entry], new: Iterable[Entry]) -> list[Entry]:
    """Append the `new` entries to `entries`, and remove those that they replace.

    These are entries with the same key, and entries of the same snapshot and metric with another or no network.
    """
    for entry in new:
        entries = [old for old in entries if place_of_result(old) != place_of_result(entry)
                   or old.get('network') == entry['network'] and key_of(old) != key_of(entry)]
        entries.append(entry)
    return entries


def update(run_dir: AnyPath, change: Callable[[list[Entry]], list[Entry]],
           file_name: str = RESULTS_NAME) -> list[Entry]:
    """Change the results of a run; safe for several processes at the same time.

    Parameters
    ----------
    run_dir : str
    change : callable
        Receives the list of entries and returns the new one.
    file_name : str
        File of the results; only those of ``metrics.jsonl`` are also written as text.

    Returns
    -------
    list of dict
        The new entries.
    """
    path = os.path.join(run_dir, file_name)
    with _locked(run_dir):
        before = read_entries(run_dir, file_name)
        entries = change(list(before))
        if entries != before:
            with atomic_write(path, 'w', encoding='utf-8') as results_file:
                results_file.writelines(json.dumps(entry) + '\n' for entry in entries)
            texts = before + entries if file_name == RESULTS_NAME else []
            names = {entry['metric'] for entry in texts if _is_complete(entry)}
            for name in sorted(filter(FILE_PART.fullmatch, names)):
                text_path, lines = os.path.join(run_dir, f'metric-{name}.txt'), lines_of(entries, name)
                if not lines:
                    with contextlib.suppress(FileNotFoundError):
                        os.remove(text_path)
                    continue
                with atomic_write(text_path, 'w', encoding='utf-8') as text_file:
                    text_file.writelines(line + '\n' for line in lines)
    return entries


@contextlib.contextmanager
def _locked(run_dir: AnyPath) -> Iterator[None]:
    """Hold the lock while results are read and written. It ends with the process, however that ends."""
    def refuse(_lock: object) -> None:
        raise UserError(f'{run_dir}: another process has held {LOCK_NAME} for {LOCK_SECONDS} seconds; repeat the '
                        'command when it has ended')

    # The file is not removed, because processes that wait for the lock have it open.
    with locked(os.path.join(run_dir, LOCK_NAME), refuse, LOCK_SECONDS, remove=False):
        yield


def lines_of(entries: Iterable[Entry], name: str) -> list[str]:
    """Lines of text with the results of the metric `name`, in the order of training."""
    newest = {place_of_result(entry): entry for entry in entries if entry.get('metric') == name and _is_complete(entry)}
    ordered = sorted(newest.values(), key=lambda entry: (
        entry['num_images'], entry['snapshot'] == 'network-final', entry['snapshot']))
    return ['%-24s kimg %-9s time %-12s images %-7d %s' % (
        entry['snapshot'], '-' if entry['kimg'] is None else '%.1f' % entry['kimg'],
        '-' if entry['seconds'] is None else format_time(entry['seconds']), entry['num_images'],
        format_values(entry['values']) + ('  best' if entry.get('best') else '')) for entry in ordered]


def table(entries: Iterable[Entry], names: Iterable[str]) -> str:
    """Results of some metrics as text."""
    entries = list(entries)
    return '\n'.join(line for name in names for line in [f'{name}:', *lines_of(entries, name)])


def format_values(values: dict[str, float]) -> str:
    return '  '.join('%s %-9.4f' % item for item in values.items()).rstrip()


def _is_complete(entry):
    return {'metric', 'snapshot', 'kimg', 'seconds', 'values'} <= set(entry) and entry.get('num_images') is not None
