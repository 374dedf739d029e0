"""Networks and training states saved before the modules moved into packages can still be loaded and resumed.

Commit 4aa92ca trained ``tests/golden/saved/000-digits`` to 0.08 kimg with the options below, and saved a state at
0.072 kimg.
"""

import os
import shutil

import numpy as np
import pytest

import theano_env
import train
from nets.network import Network
from nets.pickles import load_pkl
from runs.records import read_config
from tests.helpers import GOLDEN

pytestmark = pytest.mark.usefixtures('restore_theano_config')

SAVED = GOLDEN / 'saved' / '000-digits'
OPTIONS = {
    'dataset.resolution': 8, 'G.fmap_max': 4, 'D.fmap_max': 4, 'G.latent_size': 8, 'train.minibatch_default': 4,
    'train.state_minutes': 0, 'train.show_progress': False, 'metrics': [], 'train.total_kimg': 0.08,
    'train.lod_training_kimg': 0.02, 'train.lod_transition_kimg': 0.02, 'train.image_grid_type': 'default',
    'train.image_grid_size': (2, 2)}


def test_networks():
    theano_env.configure('torch', {'device': 'cpu'})
    networks = load_pkl(SAVED / 'network-final.pkl')
    assert [(type(net), net.name, net.func_name) for net in networks] == [
        (Network, 'G', 'networks.G_paper'), (Network, 'D', 'networks.D_paper'), (Network, 'G', 'networks.G_paper')]
    images = networks[2].run(np.zeros((2, 8), np.float32), np.eye(10, dtype=np.float32)[:2])
    assert images.shape == (2, 1, 8, 8) and np.isfinite(images).all()


def test_a_state_goes_on_to_the_same_networks(tmp_path):
    run_dir = tmp_path / 'results' / '000-digits'
    shutil.copytree(SAVED, run_dir)
    os.rename(run_dir / 'network-final.pkl', tmp_path / 'wanted.pkl')
    words = [word for name, value in OPTIONS.items() for word in ('--set', f'{name}={value}')]
    assert train.main(['--data-dir', str(tmp_path / 'data'), '--result-dir', str(tmp_path / 'results'),
                       '--resume', '0', *words]) == 0
    assert 'resumed at kimg 0.072' in (run_dir / 'run.txt').read_text()
    assert read_config(run_dir)['train']['gdrop_coef'] == 0.2, 'the default of its time'
    for net, wanted in zip(load_pkl(run_dir / 'network-final.pkl'), load_pkl(tmp_path / 'wanted.pkl'), strict=True):
        for name, var in wanted.vars.items():
            # Two steps on another processor: the order of summation differs, and Adam divides by small numbers.
            np.testing.assert_allclose(net.get_var(name), var.get_value(), rtol=1e-3, atol=1e-5, err_msg=name)
