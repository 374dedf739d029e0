"""Files from elsewhere name functions, and hold other objects than expected: nothing of them is called or imported."""

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import config
import dataset_tool
import evaluate_metrics
import export
import figures
import legacy
import reproduce
import theano_env
import train
import util_scripts
from common.files import save_pkl
from common.objects import import_obj
from nets.network import Network
from paper import campaign
from runs import states
from tests.helpers import write
from training import recorded
from training.options import resolve_config

OUTSIDERS = ['os.system', 'torch.hub.load', 'subprocess.run', 'evil.build']
SECTIONS = ['train', 'G', 'D', 'create_dataset', 'dataset', 'loss']
NETWORKS = {'num_channels': 1, 'resolution': 16, 'label_size': 10, 'fmap_base': 16, 'fmap_max': 4}
OVERRIDES = ['G.fmap_base=16', 'G.fmap_max=4', 'G.latent_size=4', 'D.fmap_base=16', 'D.fmap_max=4', 'metrics=[]']

pytestmark = pytest.mark.usefixtures('restore_theano_config')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    dataset_tool.create_digits(str(folder / 'digits-16x16.h5'), resolution=16)
    return folder


@pytest.fixture(scope='module')
def networks():
    theano_env.configure('torch', {'device': 'cpu'})
    G, D = Network('G', 'networks.G_paper', latent_size=4, **NETWORKS), Network('D', 'networks.D_paper', **NETWORKS)
    return G, D, G.clone('Gs')


class ForeignRun:
    """A run folder in which anything can be written; `called` lists what was run of it."""

    def __init__(self, folder, networks, data_dir):
        self.folder, self.results, self.data_dir, self.called = folder / '000-digits', folder, data_dir, []
        self.folder.mkdir()
        self.networks = str(self.folder / 'network-final.pkl')
        save_pkl(networks, self.networks)
        self.honest = resolve_config(config, 'digits', OVERRIDES)
        self.write(self.honest)

    def write(self, experiment, **record):
        record = {'experiment': 'digits', 'data_dir': str(self.data_dir), **record}
        (self.folder / 'config.txt').write_text(repr({**experiment, 'run': record}))

    def with_func(self, section, func):
        experiment = copy.deepcopy(self.honest)
        experiment.setdefault(section, {})['func'] = func
        return experiment

    def resume(self, *argv):
        return train.main(['--resume', str(self.folder), '--result-dir', str(self.results), '--engine', 'torch',
                           '--device', 'cpu', *argv])

    def evaluate(self, *argv):
        return evaluate_metrics.main([str(self.folder), '--metrics', 'ms_ssim', '--num-images', '4', '--engine',
                                      'torch', '--device', 'cpu', '--cache-dir', str(self.results / 'c'), *argv])


@pytest.fixture
def run(tmp_path, networks, data_dir, monkeypatch):
    foreign = ForeignRun(tmp_path, networks, data_dir)
    # Nothing finds it but an import by its name.
    (tmp_path / 'evil.py').write_text('raise SystemExit("imported")')
    monkeypatch.syspath_prepend(tmp_path)
    for owner, name in ((os, 'system'), (torch.hub, 'load'), (subprocess, 'run')):
        monkeypatch.setattr(owner, name, lambda *args, name=name, **kwargs: foreign.called.append(name))
    yield foreign
    assert not foreign.called and 'evil' not in sys.modules


def one_line(capsys, status, message):
    err = ''.join(line for line in capsys.readouterr().err.rpartition('\r')[2].splitlines(True)
                  if ' kimg, ' not in line)     # A progress bar.
    assert status == 1 and message in err and err.count('\n') == 1, err


@pytest.mark.parametrize('func', OUTSIDERS)
def test_functions_in_config_txt(func, run, capsys):
    for section in SECTIONS:
        run.write(run.with_func(section, func))
        message = f'{section}.func={func!r} is not a function of this program'
        one_line(capsys, run.resume(), message)
        one_line(capsys, run.resume('--dry-run'), message)
        one_line(capsys, run.evaluate(), message)
    for overrides in ([f'G.func={func}', 'G.fmap_max=8'], [f' D.func = "{func}"', 'D.fmap_max=8']):
        run.write(run.honest, set=overrides)
        one_line(capsys, run.resume('--dry-run'), f'.func={func!r} is not a function of this program')


def test_functions_of_the_house_in_another_section(run, capsys):
    for section, func in (('train', 'dataset_tool.create_mnist'), ('G', 'train.train_gan'), ('D', 'train.main'),
                          ('create_dataset', 'dataset_tool.create'), ('create_dataset', 'dataset_tool.create_evil'),
                          ('G', 'networks.np.load')):
        run.write(run.with_func(section, func))
        one_line(capsys, run.resume(), f'{section}.func={func!r} is not a function of this program')
    # config.py names it, and it does not train.
    run.write(run.with_func('train', 'util_scripts.generate_fake_images'))
    one_line(capsys, run.resume(), 'is not the folder of a training')


def test_functions_in_training_states(run, capsys):
    np.random.seed(0)
    algorithm, *rest = np.random.get_state()
    honest = {'experiment': run.honest, 'command': 'train.py', 'cur_nimg': 0, 'growing_files': {}, 'lod_range': [0, 0],
              'numpy_random': [algorithm, *rest[1:]], 'gdrop_average': 0.0, 'cur_tick': 0, 'tick_start_nimg': 0,
              'seconds': 0.0, 'tick_seconds': 0.0,
              'tick': {'sums': [0.0] * 4, 'counts': [0.0] * 4, 'compile_seconds': 0.0}}

    os.rename(run.networks, run.folder / 'network-snapshot-000000.pkl')     # The training is not at its end.

    def resume(message, **changes):
        states.write(str(run.folder / 'training-state-000000000.npz'), states.State({}, {**honest, **changes}))
        before = sorted(os.listdir(run.folder))
        one_line(capsys, run.resume('--data-dir', str(run.data_dir)), message)
        assert set(os.listdir(run.folder)) - set(before) <= {'log.txt', 'events.out.tfevents.training'}

    for section in SECTIONS:
        for func in OUTSIDERS[::3]:
            resume(f'{section}.func={func!r} is not a function of this program',
                   experiment=run.with_func(section, func))
    for changes in ({'cur_nimg': -1}, {'cur_nimg': 'x'}, {'growing_files': {'log.txt': 'x'}}, {'seconds': None},
                    {'numpy_random': [algorithm, 10 ** 6, 0, 0.0]}, {'tick': {}}, {'experiment': 3}):
        resume(f'its newest training state is invalid ({next(iter(changes))})', **changes)
    resume('must be a dict', experiment={'G': {}, 'D': {}, 'dataset': {}, 'train': 7})
    resume("the training state belongs to another run: G/", cur_nimg=1)      # The state has no arrays.


def test_functions_in_pickles(run, capsys):
    """Each script that reads networks."""
    ours = {'version': 3, 'name': 'G', 'static_kwargs': {}, 'param_values': [], 'toplevel_values': {}}
    contents = [b'\x80\x02ctfutil_shim\nNetwork\n)\x81' + pickle.dumps({**ours, 'func': func}, 2)[2:-1] + b'b.'
                for func in OUTSIDERS]
    for content in [*contents, b'cos\nsystem\n(Vtrue\ntR.']:
        with open(run.networks, 'wb') as file:
            file.write(content)
        one_line(capsys, run.evaluate(), 'network-final.pkl: ')
        one_line(capsys, legacy.main([run.networks, str(run.results / 'x.pkl')]), 'network-final.pkl: ')
        one_line(capsys, export.main(['state', run.networks, str(run.results / 'x.npz')]), 'network-final.pkl: ')
        assert not [name for name in os.listdir(run.results) if name.startswith('x.')]


def test_scripts_that_call_no_function_of_a_folder(run, capsys, monkeypatch):
    """They read it all the same: everything in it that can name a function names one from elsewhere."""
    monkeypatch.chdir(run.results)
    experiment = copy.deepcopy(run.honest)
    for section in SECTIONS:
        experiment.setdefault(section, {})['func'] = 'evil.build'
    run.write(experiment, set=['G.func=evil.build', 'G.fmap_max=3'])
    arguments = ['--result-dir', str(run.results)]
    assert util_scripts.main(['report', str(run.folder), *arguments]) == 0
    assert util_scripts.main(['generate_fake_images', str(run.folder), '--seeds', '1', '--engine', 'torch', '--device',
                              'cpu', *arguments]) == 0
    assert export.main(['state', str(run.folder), 'x.npz', *arguments]) == 1
    assert 'label_size=10' in capsys.readouterr().err       # Which the 2018 release has not; not the folder's fault.
    figures.main(['figure3', '--run', str(run.folder), '--out', 'out', *arguments])
    out_dir = run.results / 'small'
    part = reproduce.parts_of(config, 'figure4', 'small', 1)[0]
    (out_dir / part.folder).mkdir(parents=True)
    os.rename(run.folder, out_dir / part.folder / '000-digits')
    (out_dir / part.folder / '000-digits' / '_training-done.txt').touch()
    assert campaign.finished_run(part, str(out_dir)) is None, 'a run of other networks'


def test_evaluating_makes_no_data_set(run, tmp_path, capsys):
    run.write(run.honest, data_dir=str(tmp_path / 'nothing'))
    one_line(capsys, run.evaluate('--data-dir', str(tmp_path / 'nothing')), 'there is no ')
    assert not (tmp_path / 'nothing').exists()
    assert run.evaluate('--data-dir', str(run.data_dir)) == 0


def test_functions_of_ones_own(run, capsys, monkeypatch):
    """They are called where one's own config.py or command line names them."""
    (run.results / 'own_nets.py').write_text('from networks import G_paper\n'
                                             'def G(fmap_base=16, fmap_max=4, latent_size=4, **kwargs):\n'
                                             '    return G_paper(fmap_base=fmap_base, fmap_max=fmap_max,\n'
                                             '                   latent_size=latent_size, **kwargs)')
    run.write(run.with_func('G', 'own_nets.G'))
    one_line(capsys, run.resume('--dry-run'), "G.func='own_nets.G' is not a function of this program; if you trust it")
    assert 'own_nets' not in sys.modules
    assert run.resume('--dry-run', '--set', 'G.func=own_nets.G') == 0
    monkeypatch.setitem(config.variants, 'own', {'G': {'func': 'own_nets.G'}})
    assert run.resume('--dry-run') == 0


def test_the_list_is_that_of_the_house():
    assert recorded.FUNCTIONS['create_dataset'] == {
        f'dataset_tool.{name}' for name in dataset_tool.COMMANDS if name.startswith('create_')}
    assert all(callable(import_obj(name)) for names in recorded.FUNCTIONS.values() for name in names)


# ----------------------------------------------------------------------------------------------------------------------
# Pickles of something else than (G, D, Gs).


def others(networks):
    """{what: content} of pickles that do not hold the networks of a training."""
    G, D, _Gs = networks
    small = Network('G', 'networks.G_paper', latent_size=4, **{**NETWORKS, 'resolution': 8})
    classifier = Network('c', 'networks.mnist_classifier', num_channels=1, resolution=32, label_size=10)
    return {'one network': G, 'two': [G, D], 'none': (), 'a dict': {'G': G}, 'no networks': (1, 2, 3), 'number': 7,
            'arrays': [np.zeros(3)] * 14, 'a classifier': (classifier,) * 3, 'changed places': (D, G, D),
            'another Gs': (G, D, small)}


def test_pickles_without_three_networks(run, networks, capsys):
    theano_env.configure('torch', {'device': 'cpu'})
    for what, content in others(networks).items():
        path = str(run.results / 'other.pkl')
        save_pkl(content, path)
        one_line(capsys, train.main(['--experiment', 'digits', '--set', f'train.resume_run_id={path}', '--data-dir',
                                     str(run.data_dir), '--result-dir', str(run.results), '--engine', 'torch']),
                 f'{path}: ')
        assert not [name for name in os.listdir(run.results) if name.startswith('001')]
        if what in ('one network', 'another Gs'):
            continue    # There is a generator in them.
        one_line(capsys, util_scripts.main(['generate_fake_images', path, '--result-dir', str(run.results), '--seeds',
                                            '1', '--engine', 'torch']), f'{path}: holds no generator')
        one_line(capsys, export.main(['onnx', path, str(run.results / 'x.onnx')]), '')
        save_pkl(content, run.networks)
        one_line(capsys, run.evaluate(), 'network-final.pkl: ')
        one_line(capsys, figures.main(['figure3', '--run', f'table1-celeba-a-gulrajani={path}', '--out',
                                       str(run.results / 'out')]), 'holds no generator')


def test_networks_of_another_data_set(run, networks, capsys):
    for change in ({'resolution': 8}, {'num_channels': 3}, {'label_size': 3}):
        Gs = Network('Gs', 'networks.G_paper', latent_size=4, **{**NETWORKS, **change})
        save_pkl((None, None, Gs), run.networks)
        one_line(capsys, run.evaluate(), 'network-final.pkl: makes images of the shape')


def test_a_pickle_of_anything_is_not_converted(tmp_path, capsys):
    one_line(capsys, legacy.main([write(tmp_path, pickle.dumps([1, 2])), str(tmp_path / 'x.pkl')]), 'holds 2 objects')
    assert not (tmp_path / 'x.pkl').exists()
