"""`python legacy.py config`: configs of both releases are read, never executed, and no option is lost silently."""

import ast
import os
import re

import pytest

import config
import evaluate_metrics
import legacy
import reproduce
import train
import util_scripts
from common.errors import UserError
from training import old_config

CONFIG_2017 = '''
import os
import re
data_dir = 'datasets'; result_dir = 'results'
random_seed = 1000
theano_flags = {'device': 'cuda', 'floatX': 'float32', 'lib.cnmem': '0.5', 'nvcc.fastmath': 'True'}
dataset = dict(h5_path='celeba-128x128.h5', resolution=128, max_labels=0, mirror_augment=True)
train = dict(func='train_gan', drange_net=[-1,1], drange_viz=[-1,1], total_kimg=100)
G = dict(func='G_paper', fmap_base=8192, tanh_at_end=None)
D = dict(func='D_paper', fmap_base=8192, mbstat_avg='all', use_gdrop=False)
loss = dict(type='lsgan', L2_fake_weight=0.2, cond_type='acgan')
if 1:
    run_desc = 'lsun-' + 'cat'
    dataset.update(h5_path='lsun-%s-%dx%d-100k.h5' % ('cat', 256, 256), resolution=2 ** 8)
    train.update({'rampup_kimg': 0, 'minibatch_overrides': {256: 14}}, lod_training_kimg=800)
elif unknown_name: train.update(total_kimg=1)
if 0: run_desc = 'not this'
'''
DICTS = 'dataset, train = {}, {}\n'


def entry_of(tmp_path, capsys, text):
    path = tmp_path / 'old_config.py'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    status = legacy.main(['config', str(path)])
    out, err = capsys.readouterr()
    if status:
        assert status == 1 and out == '' and err.count('\n') == 1 and 'Traceback' not in err
        return err
    (experiment,), comments = ast.literal_eval('{' + out + '}').values(), out
    return experiment, comments


def test_config_of_2017(tmp_path, capsys):
    experiment, comments = entry_of(tmp_path, capsys, CONFIG_2017)
    assert experiment == {
        'desc': 'lsun-cat', 'random_seed': 1000,
        'dataset': {'h5_path': 'lsun-cat-256x256-100k.h5', 'resolution': 256, 'max_labels': 0, 'mirror_augment': True},
        'G': {'func': 'networks.G_paper', 'fmap_base': 8192, 'tanh_at_end': None},
        'D': {'func': 'networks.D_paper', 'fmap_base': 8192, 'mbstat_avg': 'all', 'use_gdrop': False},
        'loss': {'type': 'lsgan', 'L2_fake_weight': 0.2, 'cond_type': 'acgan'},
        'train': {'total_kimg': 100, 'rampup_kimg': 0, 'minibatch_overrides': {256: 14}, 'lod_training_kimg': 800}}
    for words in ('train.drange_net = [-1, 1]: no counterpart', 'train.drange_viz', "theano_flags['lib.cnmem'] = '0.5'",
                  "theano_flags['nvcc.fastmath']", "theano_flags['device'] = 'cuda': set it at the top"):
        assert words in comments
    assert 'not read' not in comments and 'correct this' not in comments


def test_utilities(tmp_path, capsys):
    experiment, comments = entry_of(tmp_path, capsys, 'dataset = {}\ntrain = dict(func='
                                    "'util_scripts.generate_interpolation_video', run_id=3, duration_sec=2.0, "
                                    "grid_size=[2, 2], mp4='x.mp4')\n")
    assert experiment == {'desc': 'old', 'train': {'func': 'util_scripts.generate_interpolation_video', 'run': 3,
                                                   'duration_seconds': 2.0, 'grid_size': [2, 2]}}
    assert 'train.mp4' in comments and 'correct this' not in comments
    err = entry_of(tmp_path, capsys, "dataset = {}; train = dict(func='util_scripts.evaluate_metrics', run_id=1)")
    assert 'python evaluate_metrics.py RUN' in err


@pytest.mark.parametrize('text, words', [
    ("__import__('os').system('touch executed')", 'line 2 was not read'),
    ("train['x'] = open('executed', 'w')", 'line 2 was not read'),
    ("class X: train = open('executed', 'w')", 'line 2 was not read'),
    ("def f(): pass", 'line 2 was not read'),
    ("train.update(total_kimg=os.environ['X'])", '(the variable os is unknown)'),
    ('from base import *', 'the options of that file are not read'),
    ('x = 10 ** 10 ** 10', '(too large)'), ("x = 'a' * 10 ** 10", '(too large)'),
    ("x = '%999999999d' % 1", '(too large)'),
    ('x = [0]\n' + 'x = [x, x]\n' * 60 + "y = str(x)\n", '(too large)'),
    ('x = [0]\n' + 'x = [x, x]\n' * 60 + 'train.update(total_kimg=x)\n', 'train.total_kimg = '),
    ('train.update(total_kimg=train)', 'train.total_kimg = '), ("train['total_kimg'] = 1e999", 'not plain data'),
    ('train.update(total_kimg={1, 2})', 'line 2 was not read'), ('sched = 3', 'sched = 3'),
    ("train.total_kimg = 'long'", "correct this: train.total_kimg='long': must be"), ('a, b = 1', 'not read'),
    ("desc = 'a\\n\"\"\"\\\\b'", 'correct this'), ('G = {1: 2}', 'G.1 = 2'), ('del train.nothing', 'not read'),
    ("train['a\\nimport os'] = 1", 'unknown option'), ('G = 3', 'G = 3'),
    ('desc = [1]', 'correct this: desc=[1]'), ("train['\\ud800'] = 1", 'ud800 = 1: no counterpart'),
    ('sched = {}; grid = dict(size=(2, 2))', 'release'),
    ('if unknown: train.total_kimg = 1', '(the variable unknown is unknown)'), ('1 < train', 'not read'),
])
def test_what_is_no_data_is_named_and_never_executed(text, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment, comments = entry_of(tmp_path, capsys, DICTS + text + '\n')
    assert words in comments and os.listdir(tmp_path) == ['old_config.py'] and len(comments) < 20000
    assert experiment['dataset'].keys() <= {'max_labels'}


@pytest.mark.parametrize('text, words', [
    ('', 'no dicts dataset and train'), ("print 'x'\n", 'line 1: .*Python 2 syntax'), (b'\0', 'config'),
    (b'\xff\xfe', ''),
    ('(' * 10000, ''), (DICTS + 'x = ' + '-' * 100000 + '1', ''), ('x = 1 #' + 'x' * (1 << 20), 'bytes'),
    ('experiments = {}', 'has a table of experiments, like ours'), ('dataset = 3; train = 4', 'no dicts'),
    ("train = {}\ndataset = 'x'", 'no dicts'),
])
def test_files_that_are_no_old_configs_are_one_line(text, words, tmp_path, capsys):
    err = entry_of(tmp_path, capsys, text)
    assert isinstance(err, str)
    pytest.raises(UserError, old_config.read, tmp_path / 'nothing.py')
    assert re.search(words, err)


@pytest.mark.parametrize('main', [train.main, util_scripts.main, evaluate_metrics.main, reproduce.main])
def test_an_old_config_in_place_of_ours_is_one_line(main, monkeypatch, capsys):
    monkeypatch.delattr(config, 'experiments')
    for name in ('dataset', 'train', 'G', 'D'):
        monkeypatch.setattr(config, name, {}, raising=False)
    with pytest.raises(SystemExit) as end:
        main([])
    assert 'is from the 2017 or 2018 release;' in str(end.value) and 'legacy.py config' in str(end.value)
    assert '\n' not in str(end.value)


def test_defaults_of_2018_are_those_where_the_config_is_silent():
    values = {'dataset': {}, 'train': {}, 'sched': {}}
    entry = old_config.translate(values)
    assert entry.release == '2018' and entry.notes == []
    assert entry.experiment['train']['minibatch_repeats'] == 4 and entry.experiment['dataset'] == {'max_labels': 0}
    assert old_config.translate({'dataset': {}, 'train': {}}).experiment['train'] == {}
    notes = old_config.translate({**values, 'G_opt': {'beta1': 0.5}, 'D_opt': {'beta1': 0.0}}).notes
    assert notes == ['D_opt.beta1 = 0.0: train.adam_beta1 is already 0.5, set by G_opt.beta1']
