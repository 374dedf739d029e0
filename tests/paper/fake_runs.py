"""Run folders without networks for tests of figures: configuration, status lines, results of metrics."""

import json

import config
import train
from common import defaults
from paper.material import Material, Run
from training.options import resolve_config
from training.recorded import CHANGED_DEFAULTS, RECORD

LEVELS = ('128', '64', '32', '16', 'avg')
KEYS = ('metric', 'snapshot', 'kimg', 'seconds', 'num_images', 'values')


def fake_run(folder, experiment, results=(), stats=(), overrides=(), snapshots=('network-final',), name=None):
    """A :class:`Run` of `experiment` with `overrides` that stands for `name`, by default for `experiment`.

`results` are tuples of `KEYS`, optionally with a dict of further entries; `stats` are tuples (seconds, kimg,
    resolution, lod).
    """
    folder.mkdir()
    chosen = resolve_config(config, experiment, overrides, train.train_gan)
    (folder / 'config.txt').write_text(repr({**chosen, RECORD: {CHANGED_DEFAULTS: defaults.CHANGED}}))
    for snapshot in snapshots:
        (folder / f'{snapshot}.pkl').write_bytes(b'')
    lines = [{**dict(zip(KEYS, result, strict=False)), 'random_seed': 1000, **(result[6:] or ({},))[0]}
             for result in results]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    ticks = [dict(zip(('seconds', 'kimg', 'resolution', 'lod'), line, strict=True)) for line in stats]
    (folder / 'stats.jsonl').write_text(''.join(json.dumps(tick) + '\n' for tick in ticks))
    return Run(str(folder), name or experiment)


def swd(value, snapshot='network-final', kimg=10000.0, num_images=16384, seconds=3600.0, **more):
    return 'swd', snapshot, kimg, seconds, num_images, {f'SWDx1e3_{level}': value for level in LEVELS}, more


def ms_ssim(value, kimg=10000.0, num_images=20000):
    return 'ms_ssim', 'network-final', kimg, 3600.0, num_images, {'MS-SSIM': value}


def material_of(tmp_path, *runs, **options):
    """A :class:`Material` of runs with datasets, if any, in `tmp_path`."""
    (tmp_path / 'out').mkdir(exist_ok=True)
    return Material(config, list(runs), str(tmp_path / 'out'), data_dir=str(tmp_path), train_gan=train.train_gan,
                    **options)


def entries_of(tmp_path, name):
    """The entries in ``NAME.json``."""
    return json.loads((tmp_path / 'out' / f'{name}.json').read_text())['entries']
