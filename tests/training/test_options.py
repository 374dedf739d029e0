"""Invalid experiments and settings: a one-line error, nothing is written, other experiments still work."""

import copy
import re
import types

import pytest

import config
import train
from common.errors import UserError
from common.options import check_settings
from nets.network import Network
from training.building import build_network
from training.options import check_options, describe_experiment, final_metrics, resolve_config

DIGITS = config.experiments['digits']


def without(section, key=None):
    changed = copy.deepcopy(DIGITS)
    if key is None:
        del changed[section]
    else:
        del changed[section][key]
    return changed


BROKEN = {
    'no dict': ('digits', r"experiments\['broken'\]='digits': must be a dict of sections"),
    'a list': ({**DIGITS, 'loss': ['iwass']}, r"\['loss'\]=\['iwass'\]: must be a dict"),
    'a text': ({**DIGITS, 'train': 'long'}, r"\['train'\]='long': must be a dict"),
    'no train': (without('train'), "the section 'train' is missing"),
    'no dataset': (without('dataset'), "the section 'dataset' is missing"),
    'no func': (without('G', 'func'), "G.func: is missing; name the function, for example 'networks.G_paper'"),
    'no func to create': (without('create_dataset', 'func'), 'create_dataset.func: is missing'),
    'no h5_path': (without('dataset', 'h5_path'), 'dataset.h5_path: is missing'),
    'a func that is no name': ({**DIGITS, 'G': {'func': 5}}, 'write MODULE.NAME'),
    'not a function': ({**DIGITS, 'G': {'func': 'networks.RELU_GAIN'}}, "'networks.RELU_GAIN': is not a function"),
    'a func without signature': ({**DIGITS, 'G': {'func': 'builtins.type'}}, 'G.func=.*options'),
    'an unknown section': ({**DIGITS, 'losses': {}}, "losses: no such option; did you mean 'loss'"),
    'a number as an option': ({**DIGITS, 'loss': {5: 1}}, 'loss.5: no such option'),
    'an unknown option of G': ({**DIGITS, 'G': {**DIGITS['G'], 'fmapmax': 1}}, "did you mean 'fmap_max'"),
    'a text for a number': ({**DIGITS, 'G': {**DIGITS['G'], 'fmap_base': '256'}}, "G.fmap_base='256': must be"),
    'None for a number': ({**DIGITS, 'train': {'lod_training_kimg': None}}, 'lod_training_kimg=None: must be a number'),
    'a name for names': ({**DIGITS, 'metrics': 'swd'}, "metrics='swd': must be a list"),
    'a metric with a file': ({**DIGITS, 'metrics': ['mnist_modes']}, 'needs the file of a classifier'),
    'a seed': ({**DIGITS, 'random_seed': 1.5}, 'random_seed=1.5'),
    'a folder as desc': ({**DIGITS, 'desc': 'a/b'}, "desc='a/b'"),
}


def run_main(capsys, tmp_path, *argv):
    status = train.main(['--data-dir', str(tmp_path / 'data'), '--result-dir', str(tmp_path / 'results'), *argv])
    return status, *capsys.readouterr()


@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_experiment_is_one_line(name, capsys, tmp_path, monkeypatch):
    broken, message = BROKEN[name]
    monkeypatch.setitem(config.experiments, 'broken', broken)
    status, out, err = run_main(capsys, tmp_path, '--experiment', 'broken')
    assert (status, out) == (1, '') and re.search(message, err) and err.count('\n') == 1
    assert not list(tmp_path.iterdir())
    # The list of experiments is still printed, and other experiments can be run.
    with pytest.raises(SystemExit) as stopped:
        train.main(['--help'])
    assert stopped.value.code == 0 and 'celebahq-1024' in capsys.readouterr().out
    assert resolve_config(config, 'digits', [], train.train_gan) == DIGITS


def test_the_list_of_experiments_says_what_is_wrong():
    assert describe_experiment(DIGITS) == '16x16, 44 kimg'
    assert describe_experiment(config.experiments['training-video']) == 'util_scripts.generate_training_video'
    assert describe_experiment(without('dataset', 'resolution')) == 'digits-16x16.h5, 44 kimg'
    for broken, message in [('x', "error: experiment='x': must be"), (without('train'), "error: the section 'train'"),
                            (without('G'), "error: the section 'G'"), (without('dataset', 'h5_path'), 'error: dataset'),
                            ({**DIGITS, 'dataset': {'h5_path': 'x', 'resolution': 5}}, 'error: dataset.resolution=5')]:
        assert describe_experiment(broken).startswith(message)


def test_a_broken_variant(monkeypatch):
    for broken in (['train'], {'train': ['nogrowing']}):
        monkeypatch.setitem(config.variants, 'broken', broken)
        with pytest.raises(UserError, match=r"variants\['broken'\].* must be a dict"):
            resolve_config(config, 'digits-broken')


@pytest.mark.parametrize('override, section, key, value', [
    ('dataset.mirror_augment=false', 'dataset', 'mirror_augment', False),
    ('dataset.mirror_augment = Yes', 'dataset', 'mirror_augment', True),
    (' train.state_minutes = none ', 'train', 'state_minutes', None),
    ('train.total_kimg=1e3', 'train', 'total_kimg', 1000.0),
    ('train.minibatch_overrides={4: 8}', 'train', 'minibatch_overrides', {4: 8}),
    ('train.minibatch_overrides[8]=4', 'train', 'minibatch_overrides', {8: 4}),
    ('dataset.h5_path=123', 'dataset', 'h5_path', '123'),
    ('dataset.max_labels=all', 'dataset', 'max_labels', 'all'),
    ('D.mbstat_avg=none', 'D', 'mbstat_avg', 'none'),
    ('D.mbstat_avg=None', 'D', 'mbstat_avg', None),
    ('desc=no', 'desc', None, 'no'),
    ("metrics=['swd']", 'metrics', None, ['swd']),
])
def test_what_texts_mean(override, section, key, value):
    chosen = resolve_config(config, 'digits', [override], train.train_gan)
    found = chosen[section] if key is None else chosen[section][key]
    assert found == value and type(found) is type(value)
    check_options({**chosen, 'train': {**chosen['train'], 'resume_run_id': None}}, train.train_gan)


def test_the_type_is_that_of_the_function_given_with_it():
    overrides = ['G.fused_scale=no', 'G.func=networks_2018.G_paper']
    assert resolve_config(config, 'digits', overrides, train.train_gan)['G']['fused_scale'] is False


@pytest.mark.parametrize('overrides, message', [
    (['D.mbstat_groups=3'], r'D.mbstat_groups=3: must divide the minibatch, which is 16 at 4x4'),
    (['D.mbstat_groups=4', 'train.minibatch_overrides={8: 6}'], 'which is 6 at 8x8'),
    (['dataset.max_labels=0'], "train.image_grid_type='category-rows': the dataset has no labels"),
    (['dataset.resolution=2'], 'dataset.resolution=2: must be a power of two of at least 4'),
    (['G.fmap_base=2'], 'G.fmap_base=2: gives no feature maps'),
    (['D.fmap_base=2'], 'D.fmap_base=2: gives no feature maps'),
    (['train.minibatch_overrides={4:'], 'do all brackets and quotes match'),
    (['desc.x=1'], 'write SECTION.KEY=VALUE'),
    (['train=1'], 'write SECTION.KEY=VALUE'),
    (['G.resolution=8'], 'G.resolution: no such option'),
    (['loss.min_lod=1'], 'loss.min_lod: no such option'),
    (['train.minibatch_default=15.5'], r'train.minibatch_default=15.5: must be a whole number from 1$'),
    (['train.minibatch_overrides[8]=x'], "minibatch_overrides={8: 'x'}: must be"),
])
def test_mistakes_are_named_before_anything_exists(overrides, message, capsys, tmp_path):
    status, out, err = run_main(capsys, tmp_path, *(word for text in overrides for word in ('--set', text)))
    assert (status, out) == (1, '') and re.search(message, err.strip()) and err.count('\n') == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('overrides, message', [
    (['D.mbstat_avg=group3'], "D: MinibatchStatConcatLayer averaging='group3': use one of"),
    (['D.func=networks.D_mnist_mode_recovery', 'D.X=999'], 'D.X=999: leaves none of'),
    (['G.func=networks.D_paper', 'G.mbstat_groups=1'], "G.latent_size: no such option"),
    (['D.func=networks.G_paper'], "D.func='networks.G_paper': builds no discriminator"),
    (['D.func=networks.G_paper', 'D.use_gdrop=yes'], 'D.use_gdrop: no such option'),
    (['create_dataset.margin=99'], 'margin=99: must be from 0 to 7'),
])
def test_what_only_building_tells_leaves_no_folder(overrides, message, capsys, tmp_path):
    status, _out, err = run_main(capsys, tmp_path, *(word for text in overrides for word in ('--set', text)))
    assert status == 1 and message in err and len(err.splitlines()) == 1
    assert not list(tmp_path.glob('results/*'))


def test_a_function_that_builds_the_other_network():
    for name, func in (('G', 'networks.D_paper'), ('D', 'networks.G_paper'), ('D', 'networks.mnist_classifier')):
        with pytest.raises(UserError, match=f'{name}.func=.*: builds no'):
            build_network(name, {name: {'func': func}}, 1, 32, 10)


def settings(**changes):
    made = types.ModuleType('config')
    vars(made).update({'experiments': {}, 'experiment': 'digits', **changes})
    return made


def test_settings_that_are_left_out():
    made = settings()
    del made.experiment
    check_settings(made)
    assert (made.experiment, made.data_dir, made.engine, made.variants) == (None, 'datasets', 'auto', {})
    with pytest.raises(UserError, match='`experiments = ...` is missing'):
        check_settings(types.ModuleType('config'))


def test_no_experiment_is_chosen(capsys, tmp_path, monkeypatch):
    monkeypatch.delattr(config, 'experiment')
    status, _out, err = run_main(capsys, tmp_path)
    assert status == 1 and '`experiment = ...` is missing' in err and err.count('\n') == 1
    assert run_main(capsys, tmp_path, '--experiment', 'training-video', '--dry-run')[0] == 0


def test_a_config_that_is_no_python(tmp_path, monkeypatch):
    (tmp_path / 'config.py').write_text("experiment = 'digits'\nexperiments = {\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__('sys').modules, 'config')
    with pytest.raises(SystemExit, match=r'train.py: error: .*config.py, line 2: .* was never closed'):
        train.main(['--dry-run'])


@pytest.mark.parametrize('label_size, left_out', [(0, True), (1, True), (2, False)])
def test_digit_recognition_without_classes_is_left_out_and_said_before_the_training(label_size, left_out, capsys):
    names = final_metrics({'metrics': ['swd', 'digit_recognition']}, label_size)
    assert names == ['swd'] + ['digit_recognition'] * (not left_out)
    assert ('digit_recognition is skipped' in capsys.readouterr().out) == left_out


def test_what_a_network_does_not_know_may_be_off():
    """The networks of 2018 have no GDrop. Switching it off is allowed, switching it on is an error."""
    swapped = ['G.func=networks_2018.G_paper', 'D.func=networks_2018.D_paper']
    for name in ('celebahq-1024', 'cifar10', 'digits'):
        chosen = resolve_config(config, name, swapped)
        assert chosen['D']['use_gdrop'] is False
        check_options(chosen, train.train_gan)
    D = build_network('D', chosen, 1, 16, 10)
    assert D.func_name == 'networks_2018.D_paper' and 'use_gdrop' not in D.static_kwargs
    train.set_lod(1.5, D, Network(func='networks.mnist_classifier'))     # The latter has no lod.
    assert D.get_var('lod') == 1.5
    for option in ('D.use_gdrop=yes', 'D.use_gdrp=no', 'D.mbdisc_kernels=4', 'D.use_leakyrelu=no'):
        with pytest.raises(UserError, match=f'{option.partition("=")[0]}: no such option'):
            check_options(resolve_config(config, 'digits', [*swapped, option]), train.train_gan)
