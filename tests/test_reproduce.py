"""reproduce.py: parts are made once, resumed and drawn; an update of the report keeps its text."""

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import scipy.stats

import config
import figures
import reproduce
import train
from data.dataset import Dataset
from paper import campaign, small_scale, studies
from paper.campaign import Part, Place
from training.options import check_arguments, check_options
from training.stopping import Stopped


@pytest.mark.parametrize('target', sorted(studies.TARGETS))
def test_all_small_parts_are_valid_experiments(target):
    parts = reproduce.parts_of(config, target, 'small', None)
    assert len({part.folder for part in parts}) == len(parts)
    for part in parts:
        train_func, _options, _loss = check_options(part.experiment, train.train_gan)
        assert train_func.__name__ == 'train_gan'
        check_arguments('dataset', part.experiment['dataset'], Dataset)
    assert [part.seed for part in parts[:1]] == [min(part.seed for part in parts[:1])]
    more = reproduce.parts_of(config, target, 'small', 5)
    assert len({part.seed for part in more if part.name == more[0].name}) == 5


@pytest.mark.parametrize('target', [name for name in reproduce.targets() if name != 'study'])
def test_the_parts_of_the_paper(target):
    parts = reproduce.parts_of(config, target, 'paper', 2)
    wanted = {name for figure in reproduce.figures_of(target) for name in figures.FIGURES[figure].experiments}
    assert {part.name for part in parts} == wanted
    assert len({part.folder for part in parts}) == len(parts) == 2 * len(wanted)
    for part in parts:
        assert part.experiment['random_seed'] == part.seed and part.folder == f'{part.name}-seed{part.seed}'


def test_the_numbers_of_runs_of_the_paper():
    counts = {target: len(reproduce.parts_of(config, target, 'paper', None))
              for target in ('table1', 'table3', 'table4')}
    assert counts == {'table1': 18, 'table3': 2 * 10, 'table4': 8 * 8}
    row_a, = [part for part in reproduce.parts_of(config, 'figure4', 'paper', None)
              if part.name == 'table1-celeba-a-gulrajani']
    assert row_a.metrics == ('swd',) and row_a.all_snapshots


# ----------------------------------------------------------------------------------------------------------------------
# Making parts.


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Arguments for Table 1 at small scale, reduced to two rows of a few images."""
    def rows(_config):
        train_options = {**studies.TRAIN, 'total_kimg': 0.032, 'minibatch_default': 8, 'tick_kimg_default': 0.016,
                         'lod_initial_resolution': 16, 'network_snapshot_ticks': 1}
        networks = {'fmap_base': 16, 'fmap_max': 4}
        return {row: {'dataset': {**studies.DIGITS, 'resolution': 16},
                      'G': {'func': 'networks.G_paper', **networks}, 'D': {'func': 'networks.D_paper', **networks},
                      'train': {**train_options, 'G_learning_rate_max': rate}}
                for row, rate in (('a-gulrajani', 0.001), ('b-growing', 0.002))}

    monkeypatch.setattr(studies, 'ablation', rows)
    monkeypatch.setitem(studies.STUDIES, 'ablation', studies.STUDIES['ablation']._replace(
        seeds=(1000,), metrics=('swd',), num_images=32))
    monkeypatch.setitem(studies.TARGETS, 'table1', ('ablation',))
    return ['table1', '--scale', 'small', '--workers', '1', '--data-dir', str(tmp_path / 'data'), '--out-dir',
            str(tmp_path / 'out'), '--report-dir', str(tmp_path / 'report'), '--engine', 'torch']


def test_parts_are_made_once_and_resumed(tiny, tmp_path, capsys, monkeypatch, restore_theano_config):
    assert reproduce.main([*tiny, '--list']) == 0
    listed = capsys.readouterr().out
    assert '    1  ablation-a-gulrajani-seed1000  missing, about' in listed and 'Total: about' in listed
    assert not (tmp_path / 'out').exists()

    assert reproduce.main([*tiny, '--part', '2']) == 0
    folder = tmp_path / 'out' / 'ablation-b-growing-seed1000'
    assert os.listdir(folder) == ['000-b-growing'] and not (tmp_path / 'report').exists()
    assert [json.loads(line)['metric'] for line in open(folder / '000-b-growing' / 'metrics.jsonl')] == ['swd']

    # Interrupt the other part in the middle.
    def interrupt(step):
        if step.cur_nimg >= 24:
            raise KeyboardInterrupt
    train_gan = train.train_gan
    with monkeypatch.context() as patches:
        patches.setattr(train, 'train_gan', lambda *args, **kwargs: train_gan(
            *args, **{**kwargs, 'on_step': interrupt, 'state_minutes': 0}))
        patches.setattr(reproduce.train.train_gan, '__wrapped__', train_gan, raising=False)
        assert reproduce.main(tiny) == 130
    capsys.readouterr()
    assert reproduce.main([*tiny, '--list']) == 0
    listed = capsys.readouterr().out
    assert '    2  ablation-b-growing-seed1000    done' in listed
    assert reproduce.main(tiny) == 0
    report = (tmp_path / 'report' / 'README.md').read_text()
    assert '| a-gulrajani | 1 |' in report and '| b-growing | 1 |' in report
    assert '| reals |  | ' in report and '| noise |  | ' in report, 'the report lacks a floor'
    assert (tmp_path / 'report' / 'small-scale-ablation.png').exists()
    assert os.listdir(folder) == ['000-b-growing'], 'trained once'
    assert os.listdir(tmp_path / 'out' / 'ablation-a-gulrajani-seed1000') == ['000-a-gulrajani'], 'gone on with'

    capsys.readouterr()
    monkeypatch.setattr(campaign.experiment, 'run_experiment', None)  # No training is left to do.
    assert reproduce.main(tiny) == 0


def test_a_part_that_another_process_makes(tmp_path):
    part = Part('a', 0, {'train': {'total_kimg': 1}}, 'a-seed0')
    os.makedirs(tmp_path / 'a-seed0')
    with campaign.locked(str(tmp_path / 'a-seed0' / campaign.LOCK_NAME), lambda lock: None):
        with pytest.raises(campaign.Busy, match='another process is making this part'):
            campaign.make_part(part, Place('data', str(tmp_path)), train.train_gan)


@pytest.mark.parametrize('argv, message', [
    (['tabel1'], "tabel1: there is no such target; did you mean 'table1'?"),
    (['table1', '--part', '100'], '--part 100: there are only 18 parts; --list prints them'),
    (['table1', '--runs', '0'], '--runs 0: must be a whole number from 1'),
    (['figure9', '--scale', 'small'], '--scale small: figure9 has no small version; there are table1, '),
    (['study', '--scale', 'paper'], '--scale paper: the study is at small scale'),
    (['table3', '--part', '1'], 'cifar10-32x32.h5 is missing: python dataset_tool.py create_cifar10 CIFAR_DIR')])
def test_mistakes_are_one_line(argv, message, tmp_path, capsys, restore_theano_config):
    assert reproduce.main([*argv, '--data-dir', str(tmp_path), '--out-dir', str(tmp_path / 'out')]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1 and err.startswith('reproduce.py: error: ')


# ----------------------------------------------------------------------------------------------------------------------
# The report.


@pytest.mark.parametrize('first, second', [([1, 2, 3], [2, 4, 9, 5]), ([1.5, 1.25], [0.25, 0.5, 0.125])])
def test_comparisons_are_those_of_scipy(first, second):
    found, expected = small_scale.compare(first, second), scipy.stats.ttest_ind(first, second, equal_var=False)
    interval = expected.confidence_interval()
    np.testing.assert_allclose(found, [np.mean(first) - np.mean(second), interval.low, interval.high, expected.pvalue])


@pytest.mark.parametrize('first, second, words', [
    ([1, 2, 1.5], [9, 10, 9.5], 'shown'), ([9, 10, 9.5], [1, 2, 1.5], 'the opposite is shown'),
    ([1, 20, 5], [9, 1, 9], 'not shown'), ([1], [2], 'not shown'), ([1, 1], [1, 1], 'not shown')])
def test_verdicts(first, second, words):
    assert small_scale.verdict(small_scale.compare(first, second), -1) == words


@pytest.fixture
def runs(tmp_path):
    """(parts of two studies, {folder: run folder}); the three seeds of each row have distances 10, 20 and 40."""
    parts = [part for part in studies.parts_of(config, 'ablation') if part.name in ('a-gulrajani', 'b-growing')]
    parts += studies.parts_of(config, 'growing', 1)
    for part in parts:
        run_dir = tmp_path / part.folder / ('000-' + part.name)
        run_dir.mkdir(parents=True)
        distance = {1000: 10.0, 1001: 20.0, 1002: 40.0}[part.seed]
        entries = [{'metric': 'swd', 'kimg': kimg, 'seconds': 60 * kimg, 'values': {'SWDx1e3_32': 1.0, 'avg': distance
                                                                                     * kimg}} for kimg in (2.0, 1.0)]
        entries.append({'metric': 'ms_ssim', 'kimg': 2.0, 'seconds': 120.0, 'values': {'MS-SSIM': 0.25}})
        (run_dir / 'metrics.jsonl').write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
        (run_dir / 'stats.jsonl').write_text(''.join(json.dumps({
            'kimg': kimg, 'seconds': 60 * kimg, 'resolution': 32, 'lod': 0.0, 'sec_per_tick': 60.0}) + '\n'
            for kimg in (1.0, 2.0)))
        (run_dir / 'network-final.pkl').touch()
        (run_dir / '_training-done.txt').touch()
    return parts, {part.folder: campaign.finished_run(part, str(tmp_path)) for part in parts}


def test_report(runs, tmp_path):
    report_dir = tmp_path / 'report'
    small_scale.write(['growing', 'ablation', 'modes'], *runs, report_dir)
    text = (report_dir / 'README.md').read_text()
    # The report uses the last snapshots, with distances 20, 40 and 80.
    assert '| a-gulrajani | 3 | 1.0 ± 0.0 | 46.7 ± 30.6 | 0.250 ± 0.000 |' in text
    assert '| growing | 1 | 2.00 | 20.0 |' in text and '| 32x32 | 60.00 | 60.00 |' in text
    assert '| b, growing, is better than a | 3, 3 | 0.0 (-69.3, 69.3) | 1.000 | not shown |' in text
    assert 'modes of 1000' not in text, 'no run of it'
    for name in ('growing', 'ablation'):
        assert (report_dir / f'small-scale-{name}.png').read_bytes().startswith(b'\x89PNG')
    (report_dir / 'README.md').write_text(text.replace('## Every row', 'Our words.\n\n## Every row'))
    small_scale.write(['growing', 'ablation'], *runs, report_dir)
    assert (report_dir / 'README.md').read_text() == text.replace('## Every row', 'Our words.\n\n## Every row')


def test_sigterm_reaches_the_processes_of_all_parts():
    child = multiprocessing.get_context('spawn').Process(target=time.sleep, args=(60,))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match='SIGTERM'), reproduce.stopping_all():
        child.start()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    child.join(30)
    assert child.exitcode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
