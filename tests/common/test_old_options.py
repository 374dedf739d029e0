"""Options of the releases: all options of ours in the table exist, and errors quote the table."""

import inspect

import pytest

import config
import loss
import networks
import networks_2018
import theano_env
import train
import util_scripts
from common import old_options
from common.errors import UserError
from common.old_options import OLD_OPTIONS, advice, find
from common.options import SETTINGS
from data.dataset import Dataset
from tests.helpers import ROOT
from training import options

FUNCTIONS = {
    'dataset': [Dataset], 'loss': [loss.evaluate_loss], 'train': [train.train_gan, *util_scripts.COMMANDS],
    'G': [networks.G_paper, networks.G_mnist_mode_recovery, networks_2018.G_paper],
    'D': [networks.D_paper, networks.D_mnist_mode_recovery, networks_2018.D_paper]}


def exists(option):
    section, dot, name = option.partition('.')
    if not dot:
        return name in SETTINGS or section in {*SETTINGS, *options.SECTIONS}
    if section == 'theano_flags':
        return name in config.theano_flags
    return name == 'func' or name in options.RESUME_OPTIONS or any(
        name in inspect.signature(function).parameters for function in FUNCTIONS.get(section, ()))


def test_all_that_is_ours_exists():
    assert [old for old in OLD_OPTIONS if old.ours and not exists(old.ours)] == []
    assert len({(old.release, old.name) for old in OLD_OPTIONS}) == len(OLD_OPTIONS) > 200


def test_every_row_has_an_option_or_a_note_and_removed_options_do_not_exist():
    for old in OLD_OPTIONS:
        assert old.ours or old.note, old
        # No option that the table calls removed exists, except in the networks of the other release.
        if old.ours is None:
            assert not exists(old.name) or any(other.ours == old.name for other in OLD_OPTIONS), old


@pytest.mark.parametrize('old', [old for old in OLD_OPTIONS if old.ours != old.name and '.' in old.name],
                         ids=lambda old: old.name)
def test_the_error_about_an_option_quotes_the_table(old):
    section, _, name = old.name.partition('.')
    if section == 'theano_flags':
        with pytest.raises(theano_env.EnvironmentProblem) as error:
            theano_env._set_flags({name: 'x'})
    else:
        with pytest.raises(UserError) as error:
            chosen = options.resolve_config(config, 'digits', [f'{old.name}=1'])
            chosen = {**chosen, 'G': {**chosen['G'], 'func': 'networks_2018.G_paper'}}
            options.check_options(chosen, train.train_gan)
    assert (old.ours or old.note) in str(error.value) and '\n' not in str(error.value)
    assert 'did you mean' not in str(error.value)


@pytest.mark.parametrize('option, words', [
    ('train.drange_net', 'images in the range -1 to 1'), ('train.drange_viz', 'images|pictures'),
    ('dataset.label_path', 'NAME-labels.npy'), ('dataset.max_gb_to_load_right_away', 'dataset.cache_gb'),
    ('train.minibatch_base', 'train.minibatch_default'), ('train.minibatch_dict', 'train.minibatch_overrides'),
    ('train.G_lrate_dict', 'train.G_learning_rate_overrides'), ('train.loss_scaling_init', "precision = 'float16'"),
    ('D.mbstd_group_size', 'networks_2018.D_paper'), ('train.image_shrink', 'out_shrink'),
    ('train.mirror_augment', 'dataset.mirror_augment'), ('G.structure', 'leave it out'),
    ('dataset.label_file', 'NAME-labels.npy'),
])
def test_options_where_people_put_them(option, words):
    with pytest.raises(UserError, match=words) as error:
        options.check_options(options.resolve_config(config, 'digits', [f'{option}=1']), train.train_gan)
    assert 'did you mean' not in str(error.value)


def test_plain_words_mean_something_else_in_another_section():
    assert advice('loss.epsilon') == '' and advice('train.total_kimgs') == '' and advice('train.epsilon') != ''
    assert find('G.tanh_at_end', '2017').ours == 'G.tanh_at_end' and find('G.tanh_at_end', '2018').ours is None
    assert old_options.DEFAULTS_2018['train'].items() <= config._train_2018.items()


def test_the_page_is_that_of_the_table():
    page = (ROOT / 'docs' / 'old-options.md').read_text(encoding='utf-8')
    assert page == old_options.markdown(), 'python legacy.py options > docs/old-options.md'
