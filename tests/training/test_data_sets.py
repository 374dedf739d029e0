"""Missing datasets: an experiment makes only its own file; otherwise the message says how to make or find it."""

import os

import pytest

import config
import dataset_tool
import theano_env
import train
from common.errors import UserError
from data.dataset import Dataset
from training.data_sets import check_data_set, count_note, create_command, data_path
from training.experiment import open_dataset, prepare
from training.options import resolve_config


@pytest.mark.parametrize('experiment, command', [
    ('celebahq-1024', 'create_celebahq {} CELEBA_DIR DELTA_DIR'), ('celebahq-v2-8gpus', 'create_celebahq {}'),
    ('lsun-cat', 'create_lsun LMDB_DIR {} --max-images 100000'), ('lsun-dog', 'create_lsun LMDB_DIR {}`'),
    ('table1-lsun-bedroom-h-converged', 'create_lsun LMDB_DIR {}'),
    ('table1-celeba-h-converged', 'create_celeba CELEBA_DIR {}'), ('cifar10', 'create_cifar10 CIFAR_DIR {}'),
    ('mnist-modes-k4-wgan-gp', 'create_mnistrgb MNIST_DIR {}'), ('figure4c-growing', 'create_synthetic {} --res'),
])
@pytest.mark.parametrize('h5_path', [None, 'mine.h5'])
def test_the_command_that_makes_it(experiment, command, h5_path, tmp_path):
    overrides = [f'dataset.h5_path={h5_path}'] if h5_path else []
    chosen = resolve_config(config, experiment, overrides, train.train_gan)
    path = str(tmp_path / chosen['dataset']['h5_path'])
    with pytest.raises(UserError) as error:
        check_data_set(chosen, str(tmp_path))
    assert f'there is no {path}; make it with `python dataset_tool.py {command.format(path)}' in str(error.value)


def test_every_command_exists():
    for name in ('x', 'celebahq', 'celeba', 'lsun', 'cifar100', 'cifar10', 'mnist-rgb', 'mnist', 'svhn', 'digits'):
        assert create_command(name + '.h5').split()[2] in dataset_tool.COMMANDS


def test_a_mistyped_name_makes_nothing(tmp_path, capsys):
    (tmp_path / 'data').mkdir()
    for name in ('faces-64x64.h5', 'digits-16x16.h5', 'faces-labels.npy'):
        (tmp_path / 'data' / name).touch()
    status = train.main(['--data-dir', str(tmp_path / 'data'), '--result-dir', str(tmp_path / 'results'), '--set',
                         'dataset.h5_path=face-64x64.h5'])
    err = capsys.readouterr().err
    assert status == 1 and err.count('\n') == 1 and "did you mean 'faces-64x64.h5'? make it with" in err
    assert not (tmp_path / 'results').exists() and len(list((tmp_path / 'data').iterdir())) == 3
    chosen = resolve_config(config, 'digits', ['dataset.h5_path=zoo.h5'], train.train_gan)
    with pytest.raises(UserError, match='zoo.h5; there are digits-16x16.h5, faces-64x64.h5; make it with'):
        open_dataset(chosen, str(tmp_path / 'data'))


@pytest.mark.parametrize('wanted, there, others', [
    ('lsun-car-256x256.h5', 'lsun-car-256x256-100k.h5', ['lsun-cat-256x256.h5', 'lsun-car-128x128.h5']),
    ('lsun-cat-256x256-100k.h5', 'lsun-cat-256x256.h5', ['lsun-car-256x256-100k.h5']),
    ('cifar10-32x32.h5', 'cifar-10-32x32.h5', ['cifar100-32x32.h5']),
    ('cifar-100-32x32.h5', 'cifar100-32x32.h5', ['cifar-10-32x32.h5']),
    ('mnist-rgb-32x32.h5', 'mnistrgb-32x32.h5', ['mnist-32x32.h5']),
    ('celeba-hq-1024x1024.h5', 'celebahq.h5', ['celeba-128x128.h5']),
    ('celeba-128x128.h5', 'CelebA-128x128.h5', ['celeba-hq-128x128.h5']),
])
def test_names_of_the_releases_are_suggested(wanted, there, others, tmp_path):
    for name in [there, *others]:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=f'no .*{wanted}; did you mean {there!r}\\?'):
        check_data_set({'dataset': {'h5_path': wanted}}, str(tmp_path))


def test_tfrecords_of_2018_are_found(tmp_path):
    (tmp_path / 'celebahq').mkdir()
    (tmp_path / 'celeba').mkdir()       # Another dataset, and empty.
    (tmp_path / 'celebahq' / 'celebahq-r10.tfrecords').touch()
    h5_path = str(tmp_path / 'celeba-hq-1024x1024.h5')
    assert create_command(h5_path) == (
        f'python dataset_tool.py create_from_tfrecords {tmp_path / "celebahq"} {h5_path}')
    assert 'create_celeba CELEBA_DIR' in create_command(str(tmp_path / 'celeba-128x128.h5'))


@pytest.mark.parametrize('name', ['digits-16x16.h5', 'data/digits-16x16.h5', './data/digits-16x16.h5'])
def test_its_own_file_is_made_and_the_folder_may_be_named_twice(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = resolve_config(config, 'digits', [f'dataset.h5_path={name}'], train.train_gan)
    for data_dir in ('data', str(tmp_path / 'data')):
        with open_dataset(chosen, data_dir) as dataset:
            assert dataset.num_images == 1797
    assert sorted(os.listdir(tmp_path / 'data')) == ['digits-16x16-labels.npy', 'digits-16x16.h5']


def test_options_of_the_making_allow_another_name():
    chosen = resolve_config(config, 'digits', ['dataset.h5_path=large.h5', 'create_dataset.resolution=32'])
    assert chosen['create_dataset'] == {'func': 'dataset_tool.create_digits', 'resolution': 32}
    assert 'create_dataset' not in resolve_config(config, 'digits', ['dataset.h5_path=/mine/digits-16x16.h5'])


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere' / 'x.h5').touch()
    assert data_path('x.h5', 'datasets') == os.path.join('datasets', 'x.h5')
    assert data_path('datasets/x.h5', 'datasets') == os.path.join('datasets', 'x.h5')
    assert data_path('datasets/x.h5', '/mnt/datasets') == os.path.join('/mnt/datasets', 'x.h5')
    assert data_path('sub/x.h5', 'datasets') == os.path.join('datasets', 'sub/x.h5')
    assert data_path('elsewhere/x.h5', 'datasets') == 'elsewhere/x.h5'
    assert data_path('~/elsewhere/x.h5', 'datasets') == str(tmp_path / 'elsewhere' / 'x.h5')
    assert data_path('/mine/x.h5', 'datasets') == '/mine/x.h5'


@pytest.mark.parametrize('options, note', [
    ({}, ''), ({'expected_images': 9}, ''), ({'expected_images': 6, 'max_images': 6}, ''),
    ({'expected_images': 4}, "9 images; the paper's dataset has 4; --set dataset.max_images=4 uses"),
    ({'expected_images': 100}, "9 images; the paper's dataset has 100; make the full one with python dataset_tool.py "
                               'create_lsun LMDB_DIR')])
def test_other_numbers_of_images_are_said(tmp_path, options, note):
    path = str(tmp_path / 'lsun-dog.h5')
    dataset_tool.create_synthetic(path, resolution=4, num_images=9)
    with Dataset(path, **options) as dataset:
        assert note in count_note(dataset) and bool(note) == bool(count_note(dataset))
        assert '\n' not in count_note(dataset) and '--max-images' not in count_note(dataset)


@pytest.mark.usefixtures('restore_theano_config')
def test_a_training_on_fewer_images_says_so_and_begins(tmp_path, capsys):
    theano_env.configure('torch', {'device': 'cpu'})
    dataset_tool.create_synthetic(str(tmp_path / 'lsun-cat-256x256.h5'), resolution=8, num_images=9)
    chosen = resolve_config(config, 'lsun-cat', ['dataset.resolution=8', 'G.fmap_base=16', 'D.fmap_base=16'])
    training_set, _G, _D, _Gs = prepare(chosen, str(tmp_path))
    training_set.close()
    lines = [line for line in capsys.readouterr().out.splitlines() if "the paper's dataset" in line]
    assert len(lines) == 1 and "9 images; the paper's dataset has 100000;" in lines[0]


def test_lsun_is_trained_on_as_the_paper_says():
    for name, experiment in config.experiments.items():
        if 'lsun' in name:
            whole = 'bedroom' in name or name == 'lsun-dog'
            assert experiment['dataset']['mirror_augment'] != whole
            assert (experiment['dataset']['expected_images'] > 3_000_000) == whole
            assert ('--max-images 100000' in create_command(experiment['dataset']['h5_path'])) != whole
