"""Tries values of all kinds for every option of config.py and the command lines.

Wrong values are one-line errors that name the option and leave no files; both ends of each range are accepted.
"""

import collections.abc
import inspect
import itertools
import random
import re
import types
import typing

import annotated_types
import numpy as np
import pytest

import config
import dataset_tool
import evaluate_metrics
import loss
import networks
import networks_2018
import train
import train_classifier
import util_scripts
from common.errors import UserError
from common.options import SETTINGS, annotations_of, check_value, option_name, parse_text
from data.dataset import Dataset
from metrics import classifier, evaluation
from metrics.inception_score import InceptionScore
from metrics.mnist_modes import MnistModes
from metrics.sliced_wasserstein import SlicedWasserstein
from training import options

FUNCTIONS = [
    ('dataset', Dataset), ('loss', loss.evaluate_loss), ('train', train.train_gan),
    *(('G', func) for func in (networks.G_paper, networks.G_mnist_mode_recovery, networks_2018.G_paper)),
    *(('D', func) for func in (networks.D_paper, networks.D_mnist_mode_recovery, networks_2018.D_paper)),
    *(('train', func) for func in util_scripts.COMMANDS),
    *(('create_dataset', func) for name, func in dataset_tool.COMMANDS.items() if name.startswith('create_')),
]
NO_OPTIONS = {'self', 'run_dir', 'dataset', 'G', 'D', 'Gs', 'loss_kwargs', 'ranks', 'loss_scaling', 'run_states',
              *options.LOSS_INPUTS, *options.NETWORK_SHAPE} - {'resolution'}
SEED = 16
# Integers, floats, strings, containers, and objects that no option accepts.
POOL = [0, 1, -1, 3, 10 ** 400, 15.5, -0.5, 1e300, float('nan'), float('inf'), True, False, None, '', 'abc', '256',
        'false', 'None', 'a\0b', [], [1], [1, 2], [-1], ['x'], (1, 2), (0, 1), (1.5, 2), {}, {4: 1}, {5: 1}, {4: 0},
        {'4': 1}, {4: 'x'}, {True: 1}, {1, 2}, b'abc', object(), print, np.int64(-1), np.float32(0.5), np.zeros(3),
        range(3), 1j]


def all_options():
    """(section, function, option, annotation) of all options."""
    for section, func in FUNCTIONS:
        for name, parameter in inspect.signature(func).parameters.items():
            if name not in NO_OPTIONS and parameter.kind == parameter.POSITIONAL_OR_KEYWORD and not (
                    name == 'resolution' and section in 'GD'):
                yield section, func, name, annotations_of(func).get(name)


OPTIONS = list(all_options())


def leaves(annotation):
    """The plain types of an annotation with numeric bounds, independent of :mod:`common.options`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        for leaf, extras in leaves(arguments[0]):
            yield leaf, [*extras, *arguments[1:]]
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from leaves(argument)
    elif origin is typing.Literal:
        yield from ((argument, ['literal']) for argument in arguments)
    else:
        yield origin or annotation, []


def ends(annotation):
    """Values at the ends of the range that an annotation allows."""
    for leaf, extras in leaves(annotation):
        limits = {kind.__name__: next((getattr(extra, kind.__name__.lower()) for extra in extras if isinstance(
            extra, kind)), None) for kind in (annotated_types.Ge, annotated_types.Gt, annotated_types.Le,
                                              annotated_types.Lt)}
        if 'literal' in extras:
            yield leaf
        elif leaf is bool:
            yield from (True, False)
        elif leaf is type(None):
            yield None
        elif leaf is int:
            yield limits['Ge'] if limits['Ge'] is not None else 0
            yield limits['Le'] if limits['Le'] is not None else 2 ** 31
        elif leaf is float:
            yield limits['Ge'] if limits['Ge'] is not None else limits['Gt'] + 1e-300
            yield limits['Le'] if limits['Le'] is not None else np.nextafter(limits['Lt'], 0).item()


def fits_roughly(value, annotation):
    """Whether a value has a type of the annotation, with numbers within its bounds."""
    for leaf, extras in leaves(annotation):
        if 'literal' in extras:
            if type(value) is type(leaf) and value == leaf:
                return True
        elif leaf in (int, float):
            kinds = (int, np.integer) if leaf is int else (int, float, np.integer, np.floating)
            if isinstance(value, kinds) and not isinstance(value, bool) and np.isfinite(float(min(value, 1e308))):
                return all((not hasattr(extra, 'ge') or value >= extra.ge) and (
                    not hasattr(extra, 'gt') or value > extra.gt) and (
                    not hasattr(extra, 'le') or value <= extra.le) for extra in extras)
        elif leaf in (list, tuple):
            if isinstance(value, (list, tuple, range, np.ndarray)):
                return True
        elif leaf is collections.abc.Callable:
            if callable(value):
                return True
        elif isinstance(leaf, type) and isinstance(value, leaf):
            return True
    return False


def test_every_option_has_a_type():
    assert len(OPTIONS) > 150
    assert not [(func.__name__, name) for _section, func, name, annotation in OPTIONS if annotation is None]


def test_values_of_all_kinds_for_every_option():
    rejected = 0
    for (section, _func, name, annotation), value in itertools.product(OPTIONS, POOL):
        option = f'{section}.{name}'
        try:
            check_value(option, value, annotation)
        except UserError as error:
            rejected += 1
            assert str(error).startswith(option + '=') and ': must be ' in str(error)
            assert '\n' not in str(error) and len(str(error)) < 500
        else:
            assert fits_roughly(value, annotation), (option, value)
    assert rejected > 4000


def test_both_ends_of_every_range_are_accepted():
    tried = 0
    for section, func, name, annotation in OPTIONS:
        default = inspect.signature(func).parameters[name].default
        for value in [*ends(annotation), *([] if default is inspect.Parameter.empty else [default])]:
            check_value(f'{section}.{name}', value, annotation)
            if not isinstance(value, (float, str)) or value == value:
                assert parse_text(name, str(value), annotation) == value
            tried += 1
    assert tried > 400


TEXTS = ['abc', '-3', '0', '15.5', 'nan', '1e999', '{4:', '[1', '"a', 'None', 'true', 'no', '', '()', '{4: 0}', '[[]]',
         'print', '1_0', '0x', '٣', "{'4': 1}", '8x4', '[1, 2', '1' * 500]


def wrong_texts(count):
    """Random pairs (option of the experiment 'digits', text) whose text is no valid value of the option."""
    rng = random.Random(SEED)
    digits = config.experiments['digits']
    known = {('dataset', Dataset), ('loss', loss.evaluate_loss), ('train', train.train_gan), ('G', networks.G_paper),
             ('D', networks.D_paper), ('create_dataset', dataset_tool.create_digits)}
    assert {section for section, _func in known} == {section for section in digits if isinstance(digits[section], dict)}
    mine = [(f'{section}.{name}', annotation) for section, func, name, annotation in OPTIONS
            if (section, func) in known and name != 'h5_path'] + list(options.TOP_LEVEL_TYPES.items())
    pairs = []
    for option, annotation in mine:
        for text in TEXTS:
            try:
                check_value(option, parse_text(option, text, annotation), annotation)
            except UserError:
                pairs.append((option, text))
    assert {option for option, _text in pairs} >= {option for option, _annotation in mine if option != 'desc'}
    # One pair for every option, and random further pairs.
    first = {option: (option, text) for option, text in rng.sample(pairs, len(pairs))}
    return [*first.values(), *rng.sample(pairs, count)]


def test_a_wrong_value_for_every_option_on_the_command_line(tmp_path, capsys):
    for option, text in wrong_texts(200):
        status = train.main(['--data-dir', str(tmp_path / 'data'), '--result-dir', str(tmp_path / 'results'),
                             '--set', f'{option}={text}'])
        out, err = capsys.readouterr()
        assert status == 1 and not out, (option, text)
        assert err.startswith(f'train.py: error: {option}=') and err.count('\n') == 1, err
    assert not list(tmp_path.iterdir())


def test_wrong_values_in_config(tmp_path, capsys, monkeypatch):
    rng = random.Random(SEED)
    experiment = config.experiments['digits']
    chosen = [(section, name, value) for (section, func, name, annotation), value in itertools.product(OPTIONS, POOL)
              if func in (Dataset, train.train_gan, networks.G_paper, networks.D_paper, loss.evaluate_loss)
              and not fits_roughly(value, annotation)]
    for section, name, value in rng.sample(chosen, 200):
        broken = {**experiment, section: {**experiment.get(section, {}), name: value}}
        monkeypatch.setitem(config.experiments, 'broken', broken)
        status = train.main(['--experiment', 'broken', '--data-dir', str(tmp_path / 'data'), '--result-dir',
                             str(tmp_path / 'results')])
        err = capsys.readouterr().err
        assert status == 1 and err.startswith(f'train.py: error: {section}.{name}=') and err.count('\n') == 1, err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('func', util_scripts.COMMANDS)
def test_wrong_values_of_utilities(func, tmp_path, capsys):
    for name, annotation in annotations_of(func).items():
        if name in util_scripts.OPTIONS and name not in ('classes', 'seeds', 'grid_size', 'snapshot', 'net', 'captions',
                                                         'titles', 'video'):
            for text in ('-1', '0', '-0.5', '1e99'):
                try:
                    value = float(text) if util_scripts.OPTIONS[name]['type'] is float else int(text)
                    check_value(name, value, annotation)
                except UserError:
                    argv = [func.__name__, '0', *(['x.png'] if func.__name__ == 'project_image' else []),
                            f'{option_name(name)}={text}', '--out', str(tmp_path / 'out')]
                    assert util_scripts.main(argv) == 1
                    err = capsys.readouterr().err
                    assert err.startswith(f'util_scripts.py: error: {option_name(name)} {value}: must be'), err
                    assert err.count('\n') == 1
                except ValueError:
                    pass    # Not an integer: argparse reports it.
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('main, argv', [
    (evaluate_metrics.main, ['nowhere', '--seed=-1']), (evaluate_metrics.main, ['nowhere', '--seed=4294967296']),
    (evaluate_metrics.main, ['nowhere', '--minibatch=0']), (evaluate_metrics.main, ['nowhere', '--num-images=1']),
    (train_classifier.main, ['x.h5', 'x.npz', '--epochs=0']), (train_classifier.main, ['x.h5', 'x.npz', '--seed=-1']),
])
def test_wrong_values_of_other_scripts(main, argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert f'error: {argv[-1].replace("=", " ")}: must be ' in err and err.count('\n') == 1
    assert not list(tmp_path.iterdir())


def whole_numbers_of_commands():
    """(command, its positional arguments, option) for all integer options of dataset_tool.py."""
    parser = dataset_tool.argparse.ArgumentParser()
    commands = parser.add_subparsers()
    dataset_tool.add_viewing_commands(commands)
    dataset_tool.add_creating_commands(commands)
    for name, command in commands.choices.items():
        places = [action.dest for action in command._actions if not action.option_strings]
        yield from ((name, places, action.option_strings[0]) for action in command._actions if action.type is int)


@pytest.mark.parametrize('command, places, option', list(whole_numbers_of_commands()))
def test_wrong_values_of_the_tool_for_data_sets(command, places, option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ('-3', '-1000000000000000000000'):
        assert dataset_tool.main([command, *(f'{place}.h5' for place in places), f'{option}={text}']) == 1
        err = capsys.readouterr().err
        assert re.match(f'dataset_tool.py: error: {option} {text}: must be|dataset_tool.py: error: h5_path=', err), err
        assert err.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_wrong_settings(monkeypatch, capsys):
    for name, value in itertools.product(SETTINGS, [5, [], '', b'x', ('a',), 1.5]):
        with monkeypatch.context() as context:
            context.setattr(config, name, value)
            with pytest.raises(SystemExit) as stopped:
                train.main(['--dry-run'])
            assert str(stopped.value).startswith(f'train.py: error: config.py: {name}=')
    assert capsys.readouterr() == ('', '')


DIRECT = {
    train.train_gan: {'run_dir': 'none', 'dataset': None, 'G': None, 'D': None},
    **{function: {'run_dir': 'none', 'run': 'none.pkl', **({'image': 'none.png'} if takes else {})}
       for function, (_help, _examples, takes) in util_scripts.COMMANDS.items()},
    evaluation.evaluate_run: {'run_dir': 'none', 'names': ['swd'], 'open_dataset': print, 'cache_dir': 'none'},
    classifier.train_classifier: {'images': np.zeros((1, 1, 8, 8), np.uint8), 'labels': np.ones((1, 1))},
    SlicedWasserstein: {}, MnistModes: {'classify': len}, InceptionScore: {'num_images': 1},
}


@pytest.mark.parametrize('func', DIRECT, ids=lambda func: func.__name__)
def test_calls_from_python_are_checked_like_options(func):
    init = func.__init__ if inspect.isclass(func) else func
    for name, annotation in annotations_of(init).items():
        for value in POOL:
            try:
                check_value(name, value, annotation)
            except UserError as error:
                with pytest.raises(UserError, match=re.escape(str(error))):
                    func(**{**DIRECT[func], name: value})
    with pytest.raises(TypeError):
        func(no_such_option=1)


# Values at the ends of ranges with which a run of a few images is possible.
BOUNDARY_RUNS = [
    {'train.minibatch_default': 1, 'train.image_snapshot_ticks': 0, 'train.network_snapshot_ticks': 0,
     'train.lod_training_kimg': 0, 'train.lod_transition_kimg': 0, 'train.state_minutes': 0, 'train.adam_beta2': 0,
     'G.latent_size': 1, 'G.fmap_max': 1, 'D.fmap_max': 1, 'dataset.prefetch_images': 0, 'dataset.cache_gb': 0,
     'dataset.max_images': 1, 'dataset.read_threads': 1, 'train.G_smoothing': 0, 'loss.iwass_lambda': 0},
    {'train.minibatch_default': 8, 'train.lod_initial_resolution': 2 ** 20, 'train.rampdown_kimg': 1e30,
     'train.lod_training_kimg': 1e30, 'train.lod_transition_kimg': 1e30, 'train.gdrop_beta': 1, 'D.mbdisc_kernels': 0,
     'D.use_gdrop': 'yes', 'G.use_wscale': 'false', 'dataset.mirror_augment': 'on', 'G.tanh_at_end': 'none',
     'train.image_grid_size': (1, 1), 'random_seed': 2 ** 32 - 1, 'G.fmap_decay': 0, 'train.rampup_kimg': 1e30},
]


@pytest.mark.parametrize('values', BOUNDARY_RUNS)
def test_a_tiny_run_with_values_at_the_ends(values, tmp_path, capsys):
    tiny = {'dataset.resolution': 8, 'G.fmap_max': 4, 'D.fmap_max': 4, 'G.latent_size': 8, 'metrics': [],
            'train.total_kimg': 0.02, 'train.tick_kimg_default': 0.01, 'train.show_progress': 'no',
            'train.image_grid_type': 'default', **values}
    status = train.main(['--data-dir', str(tmp_path), '--result-dir', str(tmp_path / 'results'), *itertools.chain(
        *(('--set', f'{option} = {value}') for option, value in tiny.items()))])
    assert (status, capsys.readouterr().err) == (0, '')
    run, = (tmp_path / 'results').iterdir()
    assert (run / 'network-final.pkl').exists()
    if 'train.image_snapshot_ticks' in values:
        assert [path.name for path in run.glob('network-snapshot-*')] == ['network-snapshot-000000.pkl']    # The end.
        assert [path.name for path in run.glob('fakes*')] == ['fakes000000.png']
