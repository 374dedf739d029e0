"""summary: the lines printed when a training begins."""

import types

import pytest

import theano_env
from common.console import OutputLogger
from nets.ranks import Ranks
from training import plan, summary

OPTIONS = {'total_kimg': 44, 'lod_training_kimg': 4, 'lod_transition_kimg': 4}
CPU = theano_env.Environment('torch', 'cpu', 'bfloat16',
                             'Engine: torch 2.13 on CPU (2 threads), float32, products in bfloat16')


@pytest.fixture
def networks():
    from nets.network import Network
    kwargs = {'num_channels': 1, 'resolution': 16, 'label_size': 10, 'fmap_max': 16}
    return Network('G', func='networks.G_paper', **kwargs), Network('D', func='networks.D_paper', **kwargs)


def dataset(**changes):
    return types.SimpleNamespace(**{'h5_path': '/data/digits.h5', 'shape': (1, 16, 16), 'num_images': 1797,
                                    'resolution': 16, 'label_size': 10, **changes})


def test_ten_lines_on_the_screen_and_none_in_the_log(networks, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, 'measured_speed', lambda device, precision: plan.Speed(1e10))
    with OutputLogger(tmp_path / 'log.txt'):
        summary.print_summary('results/003-digits', dataset(), *networks, CPU, OPTIONS)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and not (tmp_path / 'log.txt').read_text()
    facts = dict(line.split(maxsplit=1) for line in lines if line)
    assert facts == {
        'Run': 'results/003-digits', 'Dataset': 'digits.h5: 1,797 images of 16x16, grey, 10 classes',
        'G': 'networks.G_paper, 18,323 trainable parameters', 'D': facts['D'],
        'Engine': 'torch 2.13 on CPU (2 threads)', 'Precision': 'float32, products in bfloat16',
        'Phases': '4x4 until kimg 4, 8x8 until 12, 16x16 until 44', 'Time': facts['Time'], 'Memory': 'about 0.5 GB',
        'More': 'log.txt: all values of each tick, layers of the networks'}
    assert facts['Time'].startswith('about ') and facts['Time'].endswith(' minutes (within a factor of 2)')


def test_a_short_training_or_another_rank_measures_nothing(networks, capsys, monkeypatch):
    monkeypatch.setattr(plan, 'measured_speed', lambda device, precision: pytest.fail('it measures'))
    summary.print_summary('run', dataset(), *networks, CPU, OPTIONS, 40.0)
    assert 'Time' not in capsys.readouterr().out
    summary.print_summary('run', dataset(), *networks, CPU, OPTIONS, ranks=Ranks(1, 2))
    assert capsys.readouterr().out == ''


def test_phases_of_a_long_schedule_and_one_that_goes_on():
    schedule = plan.phases(1024, total_kimg=12000, lod_training_kimg=600, lod_transition_kimg=600)
    assert summary.of_phases(schedule, 0) == '4x4 until kimg 600, ..., 512x512 until 9000, 1024x1024 until 12000'
    assert summary.of_phases(plan.phases(8, **OPTIONS), 7.25) == '4x4 until kimg 4, 8x8 until 44; resumed at 7.2'


def test_what_is_left_takes_less(networks, monkeypatch):
    monkeypatch.setattr(plan, 'measured_speed', lambda device, precision: plan.Speed(1e9))
    training = plan.Training(*networks, True, OPTIONS, plan.phases(16, **OPTIONS))
    whole, rest = (float(summary.of_time(training, CPU, kimg).split()[1]) for kimg in (0.0, 30.0))
    assert 0.3 < rest / whole < 0.5       # 14 of 28 kimg at 16x16, and 16 kimg at lower resolutions.


def test_facts_of_a_data_set_and_of_several_gpus(networks):
    assert summary.of_data_set(dataset(shape=(3, 64, 64), label_size=0)) == 'digits.h5: 1,797 images of 64x64, RGB'
    training = plan.Training(*networks, True, OPTIONS, plan.phases(16, **OPTIONS), processes=4)
    assert summary.of_memory(training, CPU._replace(device='cuda:0')).endswith(' GB per GPU')
