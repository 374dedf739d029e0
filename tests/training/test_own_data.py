"""own_data: ``train.py --data`` makes an experiment that fits pictures and machine, and prints it for config.py."""

import ast
import itertools
import os
import shutil
import types

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import config
import dataset_tool
import theano_env
import train
from common.errors import UserError
from runs.records import read_config
from training import own_data
from training.options import resolve_config
from training.own_data import Machine, Source

pytestmark = pytest.mark.usefixtures('restore_theano_config')

TWO_CORES = Machine('cpu', 16.0, 2)


@pytest.fixture
def pictures(tmp_path):
    """A folder of two classes of ten pictures each, 20 pixels wide and 16 high."""
    top = tmp_path / 'my pictures'
    for name, level in (('dark', 0), ('light', 200)):
        (top / name).mkdir(parents=True)
        for number in range(10):
            Image.new('RGB', (20, 16), (level, level + number, 0)).save(top / name / f'{number}.png')
    return top


def run(tmp_path, capsys, *argv):
    """Run train.py; return (exit status, stdout, stderr)."""
    status = train.main([*map(str, argv), '--data-dir', str(tmp_path / 'data'), '--result-dir',
                         str(tmp_path / 'results'), '--device', 'cpu'])
    return status, *capsys.readouterr()


def make(path, tmp_path, resolution=None, labels=False, machine=TWO_CORES):
    return own_data.make_experiment(str(path), resolution, labels, str(tmp_path / 'data'), machine)


def test_the_printed_entry_is_the_experiment(pictures, tmp_path, capsys):
    arguments = ['--set', 'train.total_kimg=7', '--set', "train.minibatch_overrides={8: 4}", '--set', 'desc=mine']
    status, out, err = run(tmp_path, capsys, '--data', pictures, '--resolution', 16, '--dry-run', *arguments)
    assert (status, err) == (0, '') and not (tmp_path / 'data').exists()
    pasted = ast.literal_eval('{' + out.partition('in config.py:\n')[2] + '}')
    expected = make(pictures, tmp_path, 16, machine=own_data.machine_of(theano_env.configure(
        'auto', {'device': 'cpu'})))[0]
    expected['train'].update(total_kimg=7, minibatch_overrides={8: 4})
    assert pasted == {'mine': {**expected, 'desc': 'mine'}}
    assert max(map(len, out.splitlines())) <= 120 + len(str(pictures))
    # The pasted experiment can be run like any other.
    again = types.SimpleNamespace(experiments={**config.experiments, **pasted}, variants=config.variants)
    assert resolve_config(again, 'mine', [], train.train_gan) == pasted['mine']


def test_pictures_are_trained_on_and_the_data_set_is_kept(pictures, tmp_path, capsys):
    tiny = ['--resolution', 8, '--set', 'G.fmap_max=4', '--set', 'D.fmap_max=4', '--set', 'train.total_kimg=0.016',
            '--set', 'train.lod_initial_resolution=8']
    status, out, _err = run(tmp_path, capsys, '--data', pictures, *tiny)
    assert status == 0 and 'will be made' in out
    h5_path, = (tmp_path / 'data').glob('my-pictures-8x8-????????.h5')
    with h5py.File(h5_path) as h5:
        assert h5['data8x8'].shape == (20, 3, 8, 8)
    assert not list((tmp_path / 'data').glob('*.npy'))      # Labels only with --labels.
    recorded = read_config(str(tmp_path / 'results' / '000-my-pictures-8x8'))
    assert recorded['create_dataset']['image_dir'] == str(pictures) and recorded['G']['fmap_max'] == 4
    # The run can be resumed without its pictures.
    kept = h5_path.stat().st_mtime_ns
    os.rename(pictures, tmp_path / 'elsewhere')
    status, out, _err = run(tmp_path, capsys, '--resume', 'latest', '--set', 'train.total_kimg=0.032')
    assert status == 0 and 'config.py' not in out
    # The same pictures in another folder give the same dataset.
    os.rename(tmp_path / 'elsewhere', pictures)
    assert 'already made' in make(pictures, tmp_path, 8)[1][0] and h5_path.stat().st_mtime_ns == kept


def test_a_changed_folder_is_another_data_set(pictures, tmp_path):
    def file_of(path, **options):
        return make(path, tmp_path, 16, **options)[0]['dataset']['h5_path']

    first = file_of(pictures)
    assert file_of(pictures) == first != file_of(pictures, labels=True)
    archive = shutil.make_archive(str(tmp_path / 'my pictures'), 'zip', pictures)
    assert file_of(archive).startswith('my-pictures-16x16-')
    os.utime(archive, (1, 1))
    files = {first, file_of(archive), file_of(archive)}
    assert len(files) == 2      # For an archive, only the contents count.
    (pictures / 'dark' / '0.png').write_bytes((pictures / 'dark' / '1.png').read_bytes())
    files.add(file_of(pictures))
    (pictures / 'dark' / '0.png').unlink()
    files.add(file_of(pictures))
    assert len(files) == 4
    # Earlier files of these pictures are reported.
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / first).touch()
    assert [first in line for line in make(pictures, tmp_path, 16)[1]][-1]


def test_labels_are_used_when_they_are_asked_for(pictures, tmp_path):
    experiment, _lines = make(pictures, tmp_path, labels=True)
    assert experiment['create_dataset']['labels'] is True
    assert experiment['dataset']['max_labels'] == 'all' and experiment['dataset']['require_labels'] is True
    assert '-classes-' in experiment['dataset']['h5_path']
    experiment, _lines = make(pictures, tmp_path)
    assert experiment['create_dataset']['labels'] is False and experiment['dataset']['max_labels'] == 0


def test_a_data_set_is_used_as_it_is(tmp_path):
    h5_path = tmp_path / 'digits-16x16.h5'
    dataset_tool.create_digits(str(h5_path), resolution=16)
    experiment, lines = make(h5_path, tmp_path)
    assert experiment['dataset']['h5_path'] == str(h5_path) and 'create_dataset' not in experiment
    assert experiment['desc'] == 'digits-16x16' and '1797 pictures' in lines[0] and 'used unchanged' in lines[0]
    assert make(h5_path, tmp_path, 8)[0]['dataset']['resolution'] == 8
    with pytest.raises(UserError, match='--resolution 32: the pictures have 16 pixels per side; use --resolution 16'):
        make(h5_path, tmp_path, 32)


def test_mistakes_are_one_line(pictures, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'records').mkdir()
    (tmp_path / 'records' / 'a.tfrecords').touch()
    (tmp_path / 'notes.rar').write_bytes(b'Rar!')
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / '1.png').write_bytes(b'junk')
    (tmp_path / 'small').mkdir()
    Image.new('RGB', (3, 90)).save(tmp_path / 'small' / '1.png')
    for argv, message in [
            (['--data', tmp_path / 'my picture'], "no such folder or file; did you mean 'my pictures'?"),
            (['--data', tmp_path / 'empty'], 'empty: has no images'),
            (['--data', tmp_path / 'records'], 'create_from_tfrecords'),
            (['--data', tmp_path / 'notes.rar'], 'notes.rar: is not a folder of pictures, .zip file or dataset'),
            (['--data', tmp_path / 'broken'], 'none of the 1 pictures tried can be read: 1.png'),
            (['--data', tmp_path / 'small'], 'the pictures are too small, 3 pixels'),
            (['--data', tmp_path / 'empty', '--resolution', 48], '--resolution 48: must be a power of two'),
            (['--data', pictures, '--resolution', 64], 'the pictures have 16 pixels per side; use --resolution 16'),
            (['--data', pictures / 'dark', '--labels'], 'omit --labels'),
            (['--data', pictures, '--experiment', 'digits'], '--experiment: omit one of them'),
            (['--data', pictures, '--resume', 'latest'], '--resume: omit one of them'),
            (['--resolution', 64], '--resolution: needs --data PICTURES'),
            (['--labels', '--experiment', 'cifar10'], '--labels: needs --data PICTURES')]:
        status, out, err = run(tmp_path, capsys, *argv)
        assert (status, out) == (1, '') and message in err and err.count('\n') == 1 and 'Traceback' not in err
    assert not (tmp_path / 'data').exists() and not (tmp_path / 'results').exists()


# ----------------------------------------------------------------------------------------------------------------------
# Sizes.


@pytest.mark.parametrize('resolution, cores', [(16, 2), (32, 2), (64, 2), (128, 2), (32, 8)])
def test_a_training_on_a_cpu_ends_within_hours(resolution, cores):
    row, sizes = own_data.paper_row(resolution), own_data.sizes_for(resolution, Machine('cpu', 16.0, cores))
    assert sizes.hours <= own_data.CPU_HOURS
    assert own_data.LEAST_KIMG <= sizes.schedule['lod_training_kimg'] <= row.lod_kimg
    assert sizes.fmap_max <= row.fmap_max and sizes.fmap_base * row.fmap_max == row.fmap_base * sizes.fmap_max
    doublings = int(np.log2(resolution)) - 2
    assert sizes.schedule['total_kimg'] > 2 * doublings * sizes.schedule['lod_training_kimg']


def test_more_cores_bear_more():
    found = [own_data.sizes_for(32, Machine('cpu', 16.0, cores)) for cores in (1, 2, 8)]
    for fewer, more in itertools.pairwise((sizes.fmap_max, sizes.schedule['total_kimg']) for sizes in found):
        assert more > fewer
    # The measurement behind CPU_SPEED: 29 seconds for a thousand images on two cores, with 64 feature maps.
    G, D = own_data.networks(32, 2)[2:]
    speed = own_data.CPU_SPEED._replace(flops=2 * own_data.CPU_SPEED.flops)
    needs = own_data.plan.estimate(own_data.plan.Phase(0, 1, 32, False, 16), G, D, 1, speed)
    assert needs.seconds_per_kimg == pytest.approx(29, rel=0.05)


def test_a_gpu_gets_the_networks_of_the_paper():
    sizes = own_data.sizes_for(32, Machine('cuda:0', 8.0, 2))
    assert (sizes.fmap_base, sizes.fmap_max, sizes.minibatches, sizes.hours) == (4096, 128, {}, None)
    assert sizes.schedule == {'lod_training_kimg': 400, 'lod_transition_kimg': 400, 'total_kimg': 20000}
    cifar10 = config.experiments['cifar10']
    assert all(cifar10['train'][name] == value for name, value in sizes.schedule.items())
    assert cifar10['G']['fmap_base'] == sizes.fmap_base and cifar10['G']['fmap_max'] == sizes.fmap_max
    # With less memory, minibatches become smaller, then networks narrower, at the largest resolutions first.
    less = own_data.sizes_for(32, Machine('cuda:0', 0.8, 2))
    assert less.fmap_max == 128 and less.minibatches == {32: 8}
    narrow = own_data.sizes_for(32, Machine('cuda:0', 0.66, 2))
    assert narrow.fmap_max < 128
    assert own_data.sizes_for(32, Machine('cuda:0', 0.1, 2)) is None


def test_the_memory_is_that_of_the_gpu(cuda):
    machine = own_data.machine_of(theano_env.configure('torch', {'device': 'cuda0'}))
    assert machine.device == 'cuda:0'
    assert machine.memory_gb == torch.cuda.get_device_properties(0).total_memory / 2 ** 30


def test_the_table_is_that_of_the_experiments():
    for resolution, name in ((32, 'cifar10'), (128, 'table1-celeba-h-converged'), (256, 'lsun-cat'),
                             (1024, 'celebahq-1024')):
        row, experiment = own_data.PAPER[resolution], config.experiments[name]
        assert experiment['dataset']['resolution'] == resolution
        assert [experiment[net][key] for net in 'GD' for key in ('fmap_base', 'fmap_max')] == [*row[:2]] * 2
        assert [experiment['train'][key] for key in ('lod_training_kimg', 'total_kimg')] == [*row[2:4]]
    assert config.experiments['celebahq-1024']['train']['minibatch_overrides'] == own_data.MINIBATCHES


def test_the_resolution_is_the_largest_that_fits():
    source = Source('x', '/x', 5000, 300, '0')
    resolution, sizes = own_data.choose_sizes(source, None, TWO_CORES)
    assert resolution == 128 and sizes.hours <= own_data.CPU_HOURS
    with pytest.raises(UserError, match='--resolution 256: without a GPU, 2 cores .*; use --resolution 128'):
        own_data.choose_sizes(source, 256, TWO_CORES)
    with pytest.raises(UserError, match='the pictures have 300 pixels per side; use --resolution 256'):
        own_data.choose_sizes(source, 1024, TWO_CORES)
    with pytest.raises(UserError, match='not enough for any training'):
        own_data.choose_sizes(source, None, Machine('cpu', 0.1, 2))
