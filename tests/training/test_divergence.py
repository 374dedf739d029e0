"""NaN in a training: the message names its cause, and no networks with NaN are saved."""

import numpy as np
import pytest

import theano_env
from common.errors import UserError
from nets.network import Network
from training import divergence, snapshots
from training.event_file import EventFile
from training.reporting import Tick

pytestmark = pytest.mark.usefixtures('restore_theano_config')
NAN = [0.0, np.nan, np.zeros(2), np.zeros(2)]


@pytest.fixture
def networks():
    theano_env.configure('torch', {'device': 'cpu'})
    nets = {name: Network(name, func=f'networks.{name[0]}_paper', num_channels=1, resolution=8, fmap_base=8, fmap_max=2)
            for name in ('G', 'D', 'Gs')}
    return nets


def spoil(net, value=np.nan):
    name = next(iter(net.trainables))
    net.set_var(name, np.full_like(net.get_var(name), value))
    return name


@pytest.mark.parametrize('inputs, named', [
    ({'labels': np.array([[0, np.nan]])}, 'The labels of this step hold NaN or infinity: correct the dataset'),
    ({'labels': np.zeros((1, 2)), 'fake_labels': np.array([[np.inf, 0]])}, 'The fake labels of this step hold NaN'),
    ({'labels': np.zeros((1, 2))}, 'Images, labels and latents were finite. Lower the learning rates'),
])
def test_the_cause_of_a_loss_that_is_no_number(inputs, named, networks):
    with pytest.raises(divergence.TrainingDiverged, match=f'Dloss became nan in tick 1; .*{named}'):
        Tick(1, 0, 0.0, 0.0).add(NAN, networks['G'], **inputs)
    if 'were finite' in named:
        name = spoil(networks['G'], np.inf)
        with pytest.raises(divergence.TrainingDiverged, match=f'G: {name} had become NaN or infinite before this step'):
            Tick(1, 0, 0.0, 0.0).add(NAN, networks['G'], **inputs)


@pytest.mark.parametrize('key', ['G', 'D', 'Gs'])
def test_networks_of_nan_are_no_beginning_and_are_not_saved(key, networks, tmp_path):
    divergence.check_start(networks, None)
    writer = snapshots.SnapshotWriter(str(tmp_path), EventFile(str(tmp_path)), networks, None, 1)
    writer.save_networks(1000)
    name = spoil(networks[key])
    with pytest.raises(UserError, match=f'a.pkl: {key}: {name} holds NaN .* start from an earlier snapshot'):
        divergence.check_start(networks, 'a.pkl')
    with pytest.raises(UserError, match='the new networks: .* check the options of G and D'):
        divergence.check_start(networks, None)
    for save in (lambda: writer.save_networks(2000), writer.save_final):
        with pytest.raises(divergence.TrainingDiverged, match=f'{key}: {name} became NaN or infinite'):
            save()
    assert [path.name for path in tmp_path.iterdir()] == ['network-snapshot-000001.pkl']


def test_a_picture_of_nan_is_told_and_not_written(networks, tmp_path, capsys):
    grid = snapshots.SnapshotGrid((2, 1), None, np.ones((2, 2), np.float32), np.zeros((2, 0), np.float32))
    writer = snapshots.SnapshotWriter(str(tmp_path), EventFile(str(tmp_path)), networks, grid, 1)
    writer.save_fakes(1000)
    spoil(networks['Gs'])
    writer.save_fakes(2000)
    assert [path.name for path in tmp_path.glob('*.png')] == ['fakes000001.png'] and writer.has_fakes(2000)
    assert capsys.readouterr().out == (
        'warning: fakes000002.png is not written: the generator produces NaN or infinity\n')
