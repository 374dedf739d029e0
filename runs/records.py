"""Readers of the files of a run: configuration, status lines, metrics, pictures.

The files are not trusted, and a killed run may have left them incomplete. Damaged lines are skipped, and their number
is printed.
"""

import ast
import filecmp
import functools
import json
import os
import re
import sys
from collections.abc import Iterable
from typing import IO, Annotated, Any, Literal, NamedTuple

from annotated_types import Le, MinLen
from PIL import Image

from common.console import format_time
from common.errors import UserError
from common.files import open_input
from common.options import Names, NonNegative, PositiveInt, Seed, check_value

LARGEST = 1e100                 # Larger numbers count as infinite: JSON has integers that exceed any float.
Values = Annotated[dict[str, Any], MinLen(1)]
RESULT_TYPES: dict[str, Any] = {    # Keys in the lines of ``metrics.jsonl``; earlier versions wrote fewer keys.
    'metric': str, 'snapshot': str, 'num_images': Annotated[PositiveInt, Le(10 ** 12)], 'random_seed': Seed,
    'kimg': NonNegative | None, 'seconds': NonNegative | None, 'values': Values, 'network': str | None,
    'data': str | None, 'weights': str | None, 'training': bool, 'best': bool,
    'better': dict[str, Literal['lower', 'higher']]}    # {name of a value: which of two is better}.
CONFIG_TYPES: dict[str, Any] = {'desc': str, 'random_seed': Seed, 'metrics': Names}     # All other values are dicts.


def read_stats(run_dir: str | os.PathLike) -> list[dict[str, float]]:
    """The status lines of a run, list of dict; [] if it has none.

    Values that are not finite numbers are left out. If a resumed run goes back to an earlier kimg, the older lines from
    that kimg on are dropped.
    """
    stats: list[dict[str, float]] = []
    for line in read_jsonl(os.path.join(run_dir, 'stats.jsonl'), {'kimg': NonNegative}, ['kimg']):
        line = {name: value for name, value in line.items() if is_finite(value)}
        while stats and stats[-1]['kimg'] >= line['kimg']:
            stats.pop()
        stats.append(line)
    return stats


def read_jsonl(path: str | os.PathLike, types: dict[str, Any], required: Iterable[str]) -> list[dict]:
    """The objects of a file with one JSON object per line; [] without the file.

    Parameters
    ----------
    path : str
    types : dict
        {key: type annotation}. A line whose value does not match is damaged; other keys may have any value.
    required : iterable of str
        Keys that every line must have.

    Raises
    ------
    UserError
        The file cannot be read.
    """
    objects, damaged = [], 0
    try:
        with open_input(path, 'r', encoding='utf-8', errors='replace') as lines:
            for line in lines:
                try:
                    objects.append(_parse_line(line, types, required))
                except (ValueError, RecursionError):
                    damaged += bool(line.strip()) and line.endswith('\n')      # The run may be writing the last line.
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    if damaged:
        _warn_once(f'{path}: {damaged} damaged line{"s" * (damaged > 1)} left out')
    return objects


def _parse_line(line, types, required):
    """The JSON object in a line; ValueError if it is damaged."""
    entry = json.loads(line, object_pairs_hook=_without_repeats)
    if not isinstance(entry, dict) or not set(required) <= entry.keys():
        raise ValueError(line)
    for key, annotation in types.items():
        if key in entry:
            check_value(key, entry[key], annotation)
            if annotation is Values and not all(is_number(value) for value in entry[key].values()):
                raise ValueError(line)
    return entry


def _without_repeats(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError('duplicate key')
    return dict(pairs)


@functools.cache
def _warn_once(text):
    print(text, file=sys.stderr)


def are_finite(values: dict[str, Any], names: Iterable[str]) -> bool:
    """Whether all values of a result are finite, and all `names` are among them."""
    return set(names) <= values.keys() and all(map(is_finite, values.values()))


def is_number(value: Any) -> bool:
    """Whether a value is a number, NaN and infinity included, that fits into a float."""
    return isinstance(value, float) or isinstance(value, int) and not isinstance(value, bool) and is_finite(value)


def is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def finite_or_none(value: Any) -> float | None:
    return value if is_finite(value) else None


def list_fakes(run_dir: str) -> list[tuple[int, str]]:
    """[(kimg, path)] of a run's image grids ``fakesNNNNNN.png``, oldest first."""
    matches = [re.fullmatch(r'fakes(\d+)\.png', name) for name in os.listdir(run_dir)]
    return sorted((int(match[1]), os.path.join(run_dir, match[0])) for match in matches if match)


def load_picture(source: str | IO[bytes]) -> Image.Image | None:
    """Read a PNG or JPEG file; None if it is damaged or another format."""
    try:
        with Image.open(source, formats=['PNG', 'JPEG']) as image:
            image.load()
            return image
    except Exception:       # Pillow's decoders raise errors of many types.
        return None


def caption_of(kimg: int, stats: list[dict]) -> str:
    """``kimg 120   64x64   lod 1.50   time 2h 03m 07s``, the caption of the picture at `kimg`.

    The resolution, if status lines have it, includes the layers that fade in.
    """
    past = [line for line in stats if int(line['kimg']) <= kimg and 'lod' in line and 'seconds' in line]
    if not past:
        return f'kimg {kimg}'
    last = past[-1]
    resolution = f'{last["resolution"]:g}x{last["resolution"]:g}   ' if 'resolution' in last else ''
    return f'kimg {kimg}   {resolution}lod {last["lod"]:.2f}   time {format_time(last["seconds"])}'


def read_text(run_dir: str, name: str) -> str:
    """The text of a file in a run folder; '' if it cannot be read."""
    try:
        with open_input(os.path.join(run_dir, name), 'r', encoding='utf-8', errors='replace') as text_file:
            return text_file.read()
    except OSError:
        return ''


def parse_config(text: str) -> dict | None:
    """Parse the text of a ``config.txt`` into a dict; None if it is damaged."""
    try:
        config = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def total_kimg_of(config: str) -> float | None:
    """``train.total_kimg`` in the text of a ``config.txt``, or None."""
    return finite_or_none(_train_option(config, 'total_kimg'))


def grid_type_of(config: str) -> str | None:
    """``train.image_grid_type`` in the text of a ``config.txt``, or None."""
    grid_type = _train_option(config, 'image_grid_type')
    return grid_type if isinstance(grid_type, str) else None


def _train_option(config, name):
    train = (parse_config(config) or {}).get('train')
    return train.get(name) if isinstance(train, dict) else None


RESULTS_NAME = 'metrics.jsonl'
REALS_NAME = 'metrics-reals.jsonl'      # The same metrics with reals in place of fakes, see metrics.floor.
SNAPSHOT_PATTERN = re.compile(r'network-(snapshot-(\d+)|final)\.pkl')


def place_of_result(entry: dict) -> tuple:
    """A key of an entry in ``metrics.jsonl``. An entry replaces earlier ones with the same key."""
    return tuple(str(entry.get(name)) for name in ('metric', 'snapshot', 'num_images', 'random_seed'))


def read_entries(run_dir: str | os.PathLike, file_name: str = RESULTS_NAME) -> list[dict]:
    """All entries of ``metrics.jsonl``, or of another file in its format; see :data:`RESULT_TYPES`."""
    return read_jsonl(os.path.join(run_dir, file_name), RESULT_TYPES, ['metric'])


def read_results(run_dir: str | os.PathLike) -> list[dict]:
    """The entries of ``metrics.jsonl``, in the file's order, without those that a later one replaces.

    A later entry replaces an earlier one with the same :func:`place_of_result` and kimg. 'num_images', 'kimg' and
    'seconds' are None if an entry lacks them.
    """
    entries = [{'num_images': None, 'kimg': None, 'seconds': None, **entry} for entry in read_entries(run_dir)
               if 'values' in entry]
    last = {(place_of_result(entry), str(entry['kimg'])): entry for entry in entries}
    return [entry for entry in entries if last[place_of_result(entry), str(entry['kimg'])] is entry]


def best_snapshot(run_dir: str | os.PathLike) -> str | None:
    """Name of the snapshot marked as the best, ``network-snapshot-NNNNNN`` or ``network-final``; None if none is."""
    return next((entry.get('snapshot') for entry in read_results(run_dir) if entry.get('best') is True), None)


def read_config(run_dir: str) -> dict:
    """Read ``config.txt`` of a run folder, the resolved experiment, as a dict.

    Raises
    ------
    UserError
        The file is missing, damaged, or not the configuration of a training.
    """
    path = os.path.join(run_dir, 'config.txt')
    try:
        with open_input(path, 'r', encoding='utf-8', errors='replace') as config_file:
            config = parse_config(config_file.read())
    except OSError as error:
        raise UserError(f'{run_dir}: no config.txt in there ({error.strerror}); give a run folder, for example '
                        'results/000-digits') from error
    try:
        if config is None:
            raise UserError('not a dict')
        for section, options in config.items():
            check_value(str(section), options, CONFIG_TYPES.get(section, dict))
        check_value('dataset.h5_path', config.get('dataset', {}).get('h5_path'), str)
    except UserError as error:
        raise UserError(f'{path}: is not the configuration of a run; restore the file ({error})') from error
    return config


def config_or_none(run_dir: str) -> dict | None:
    """Read ``config.txt`` of a folder, whatever its experiment; None if it is missing or damaged."""
    return parse_config(read_text(run_dir, 'config.txt'))


def read_command(run_dir: str) -> str:
    """The command that started a run, read from ``run.txt``; '?' if unknown."""
    first = read_text(run_dir, 'run.txt').partition('\n')[0]
    return first.removeprefix('command: ') if first.startswith('command: ') else '?'


def best_snapshots(run_dir: str) -> set[str]:
    """Names of the snapshots that are the best by at least one value of a metric in ``metrics.jsonl``.

    Entries of earlier versions lack 'better'; both the snapshot with the lowest and the one with the highest value are
    included for them.
    """
    values: dict[tuple, dict[str, float]] = {}
    best = set()
    for entry in read_entries(run_dir):
        name = str(entry.get('snapshot'))
        if entry.get('best'):
            best.add(name)
        for key, value in entry.get('values', {}).items():
            end = entry['better'].get(key, 'neither') if 'better' in entry else None
            if is_finite(value):
                values.setdefault((entry['metric'], entry.get('num_images'), key, end), {})[name] = value
    for (*_number, end), by_name in values.items():
        best |= {function(by_name, key=by_name.__getitem__) for function, of_end in ((min, 'lower'), (max, 'higher'))
                 if end in (None, of_end)}
    return best


class Snapshot(NamedTuple):
    """A network snapshot in a run folder."""

    snapshot: str           # File name without suffix.
    path: str
    kimg: float | None      # From ``stats.jsonl``, else from the file name; ``network-final.pkl`` has none in its name.
    seconds: float | None   # Since the start of the run, from ``stats.jsonl``; None if unknown.


def find_snapshots(run_dir: str | os.PathLike) -> list[Snapshot]:
    """The network snapshots of a run, in the order of training."""
    try:
        names = sorted(os.listdir(run_dir))
    except OSError as error:
        raise UserError(f'{run_dir}: cannot be read ({error.strerror}); give a run folder') from error
    stats, snapshots = read_stats(run_dir), []
    for name in names:
        match = SNAPSHOT_PATTERN.fullmatch(name)
        if match:
            of_snapshot = [tick for tick in stats if match[2] is None or int(tick['kimg']) == int(match[2])][-1:]
            kimg, seconds = next(((tick['kimg'], tick.get('seconds')) for tick in of_snapshot),
                                 (float(match[2]) if match[2] else None, None))
            snapshots.append(Snapshot(name[:-len('.pkl')], os.path.join(run_dir, name), kimg, seconds))
    if not snapshots:
        raise UserError(f'{run_dir}: no network-snapshot-*.pkl or network-final.pkl in there')
    return sorted(snapshots, key=lambda entry: (entry.snapshot == 'network-final', entry.kimg))


def twin_of_final(snapshots: list[Snapshot]) -> Snapshot | None:
    """The last numbered snapshot of a run if it is identical to ``network-final.pkl``; else None."""
    *_others, last, final = [None, None, *snapshots]
    if not last or not final or final.snapshot != 'network-final':
        return None
    return last if os.path.samefile(last.path, final.path) or filecmp.cmp(last.path, final.path, False) else None
