"""Files of run folders with all kinds of damage: every reader leaves damaged lines out, or says one line."""

import json
import random
import re

import matplotlib
import numpy as np
import pytest

import config
from common.errors import UserError
from common.images import save_image
from metrics import results
from paper import curves, small_scale, tables
from paper.campaign import Part
from paper.material import Material, recognise
from runs import folder, page, records
from tests.runs.test_page import TICKS
from training import quality, recorded

matplotlib.use('agg')

NUMBERS = {'swd': ['SWDx1e3_16', 'SWDx1e3_avg'], 'ms_ssim': ['MS-SSIM'], 'fid': ['FID'],
           'inception_score': ['IS_mean', 'IS_std'], 'kid': ['KIDx1e3_mean', 'KIDx1e3_std'],
           'precision_recall': ['precision', 'recall', 'f_score'],
           'mnist_modes': ['modes_mean', 'modes_std', 'KL_mean', 'KL_std']}
SNAPSHOTS = {1.0: 'network-snapshot-000001', 3.5: 'network-snapshot-000003', 6.0: 'network-final'}
RESULTS = [{'metric': metric, 'snapshot': snapshot, 'num_images': 64, 'random_seed': 1000, 'network': 'n', 'data': 'd',
            'weights': None, 'kimg': kimg, 'seconds': 20 * kimg, 'values': dict.fromkeys(names, kimg + 0.5),
            'better': dict.fromkeys(names, 'lower'), 'training': True,
            'best': kimg == 3.5, 'evaluated': '2026-01-01 00:00:00'}
           for metric, names in NUMBERS.items() for kimg, snapshot in SNAPSHOTS.items()]
CONFIG = repr({**config.experiments['digits'], 'desc': 'table1-celeba-a-gulrajani', 'run': {
    'experiment': 'digits', 'set': ['train.total_kimg=2'], 'engine': 'torch', 'device': 'cpu',
    'precision': 'float32', 'theano_flags': {'floatX': 'float32'}, 'data_dir': 'data', 'data_set': 'data/digits.h5'}})
ODD = ['', 'soon', 'NaN', 'a\0b', '\ud800', '../../evil', 0, -1, 1.5, 1e300, 10 ** 400, -1e99, float('nan'),
       float('inf'), True, None, [], [[]], [1], {}, {'a': {'b': 1}}, {'SWDx1e3_avg': 'low'}, {'kimg': None}]
JUNK = [b'', b'\n\n', b'\xff\xfe\x00', b'[' * 100000, b'{"a":' * 5000, b'9' * 5000, b'{"kimg": 1, "kimg": 2}', b'null',
        b'"', b'{"metric": "swd", "values": {"x": 1e999}}', b'{"kimg": 1e999}', b'\x89PNG', b'1' * 100 + b'L',
        b"{[]: 1}"]


def make_run(path):
    path.mkdir()
    (path / 'stats.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in TICKS))
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in RESULTS))
    (path / 'config.txt').write_text(CONFIG)
    (path / 'run.txt').write_text('command: train.py\n')
    (path / 'log.txt').write_text('tick 1\n')
    (path / 'metric-digits.txt').write_text('digits: 99.6 %\n')
    for name in SNAPSHOTS.values():
        (path / f'{name}.pkl').touch()
    save_image(np.zeros((1, 8, 8), np.uint8), path / 'fakes000002.png', (0, 255))
    return path


def mutated(content, draw):
    """`content`, bytes of a file, with some damage."""
    lines = content.splitlines(keepends=True)
    how, place, line = draw.randrange(9), draw.randrange(len(content)), draw.randrange(len(lines))
    if how == 0:
        return content[:place]
    if how == 1:
        return content[:place] + bytes([draw.randrange(256)]) + content[place + 1:]
    if how == 2:
        return content[:place] + draw.choice(JUNK) + content[place:]
    if how == 3:
        lines[line] = draw.choice(JUNK) + b'\n'
        return b''.join(lines)
    if how == 4:        # Pieces of it in another order.
        cuts = sorted(draw.randrange(len(content)) for _ in range(3))
        return content[cuts[1]:cuts[2]] + content[cuts[0]:cuts[1]] + content[:cuts[0]] + content[cuts[2]:]
    try:
        entry = json.loads(lines[line])
    except ValueError:      # config.txt: a value of it becomes another one.
        words = re.findall(rb"'[^']*'|\d+|\w+", content)
        return content.replace(draw.choice(words), repr(draw.choice(ODD)).encode('utf-8', 'replace'), 1)
    for _change in range(draw.randint(1, 3)):
        target = entry['values'] if how == 6 and isinstance(entry.get('values'), dict) and entry['values'] else entry
        key = draw.choice(list(target))
        if how == 7:
            target[draw.choice(['a', 'x\ny', '', 'kimg', 'values'])] = draw.choice(ODD)
        elif how == 8 and len(target) > 1:
            del target[key]
        else:
            target[key] = draw.choice(ODD)
    lines[line] = json.dumps(entry).encode() + b'\n'
    return b''.join(lines)


def read_all(path, other, out):
    """Call all readers of a run folder: list of the errors, each of one line."""
    part = Part('a', 1, {}, 'ablation-a-seed1')

    def figures():
        run = recognise(config, str(path))
        material = Material(config, [run, recognise(config, f'table1-celeba-b-progressive={other}')], str(out))
        for make in (tables.table1, tables.table3, tables.table4):
            make(material, make.__name__)
        for name in NUMBERS:
            run.result(name), run.series(name), run.values(name)
        curves.doublings(run.stats())
        material.check_metrics(run, *NUMBERS, all_snapshots=True)

    readers = [
        lambda: records.read_stats(path), lambda: records.read_config(str(path)), lambda: page.write_report(str(path)),
        lambda: records.best_snapshots(path), lambda: records.find_snapshots(path),
        lambda: recorded.read_folder(str(path)), lambda: records.read_command(str(path)),
        lambda: folder.kimg_of_networks(str(path / 'network-final.pkl')), lambda: folder.is_training(str(path)),
        lambda: results.table(records.read_results(path), NUMBERS), figures,
        lambda: small_scale.results_of(path, 'swd'),
        lambda: small_scale.ablation([part], {part.folder: str(path)}, str(out)),
        lambda: quality.TrainingMetrics(None, 1, 2, str(path), None, quality.Ranks(), 5000),
        lambda: results.update(path, lambda before: before[1:]), lambda: folder.thin_out(str(path), 1, 1),
        lambda: recorded.data_dir_of(records.read_config(str(path)).get('run'), 'data', records.read_config(str(path)))]
    errors = []
    for reader in readers:
        try:
            reader()
        except UserError as error:
            assert str(error).count('\n') == 0 and len(str(error)) < 1000
            errors.append(str(error))
    return errors


def campaign(tmp_path, seed, count):
    """Yield so many damaged runs: (number, folder, name of the damaged file, folder of an intact run)."""
    names = 'stats.jsonl', 'metrics.jsonl', 'config.txt', 'run.txt', 'metric-digits.txt'
    draw = random.Random(seed)
    other = make_run(tmp_path / '000-other')
    (other / 'config.txt').write_text(CONFIG.replace('a-gulrajani', 'b-progressive'))
    for number in range(count):
        path, name = make_run(tmp_path / f'{number + 1:03d}-run'), draw.choice(names)
        (path / name).write_bytes(mutated((path / name).read_bytes(), draw))
        yield number, path, name, other


def test_what_is_left_out_is_told_and_the_rest_is_read(tmp_path, capsys):
    path = make_run(tmp_path / '000-run')
    good = (path / 'metrics.jsonl').read_bytes()
    (path / 'metrics.jsonl').write_bytes(b'{"metric": 5}\n' + good + b'\xff\n{"metric": "swd", "metric": "fid"}\n{"cut')
    assert records.read_results(path) == RESULTS
    assert capsys.readouterr().err == f'{path}/metrics.jsonl: 3 damaged lines left out\n'
    (path / 'stats.jsonl').unlink()
    (path / 'stats.jsonl').mkdir()
    with pytest.raises(UserError, match='stats.jsonl: cannot be read'):
        records.read_stats(path)


def test_a_result_names_no_file_elsewhere(tmp_path):
    path = make_run(tmp_path / '000-run')
    results.update(path, lambda before: [{**before[0], 'metric': '/../../evil'}, before[1]])
    assert not list(tmp_path.glob('*evil*')) and (path / 'metric-swd.txt').exists()


def test_every_reader_bears_every_damage(tmp_path, capfd):
    for _number, path, _name, other in campaign(tmp_path, 1, 15):
        read_all(path, other, tmp_path / 'out')
    assert not set(tmp_path.parent.glob('evil*')) and 'Traceback' not in capfd.readouterr().err
