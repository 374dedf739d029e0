"""nets/stored_source.py: facts read from stored source code, and the networks built from them."""

import hashlib
import math

import lasagne
import numpy as np
import pytest
import theano.tensor as T

import legacy
import theano_env
from common.errors import UserError
from nets import stored_source
from nets.network import Network
from nets.pickles import load_pkl
from nets.stored_source import meaning_2018, normalised_digest
from tests.helpers import dumps, small_state_2017, state_2018, write

# Our own source texts, which contain only the facts of a version.
SOURCE = '''
import numpy as np
import tensorflow as tf
HALF = 1 / 2
def dense(x, fmaps, gain=np.sqrt(2), use_wscale=False): pass
def conv(x, fmaps): pass
def leaky_relu(x, alpha=0.2): pass
def downscale2d(x, factor=2): pass
def downscale2d_stride(x, factor=2): pass
def pixel_norm(x, epsilon=1e-8): return x * tf.rsqrt(tf.reduce_mean(tf.square(x), axis=1, keepdims=True) + epsilon)
def deviation(x, group_size=4):
    y = tf.reduce_mean(tf.square(x), axis=0)
    y = tf.sqrt(y + 1e-8)
    return tf.reduce_mean(y, axis=[1, 2, 3], keepdims=True)

def G_paper(latents_in, labels_in, use_leakyrelu=True, pixelnorm_epsilon=1e-8, **kwargs):
    act = leaky_relu if use_leakyrelu else tf.nn.relu
    def norm(x): return pixel_norm(x, epsilon=pixelnorm_epsilon)
    def block(x, res):
        return norm(act(dense(x, fmaps=16 * 8, gain=np.sqrt(2) / 4))) if res == 2 else norm(act(conv(x, 8)))
    return block(latents_in, 2)

def D_paper(images_in, mbstd_group_size=4, **kwargs):
    act = leaky_relu
    x = act(conv(downscale2d(images_in), 8))
    x = deviation(x, mbstd_group_size)
    return dense(x, 1, gain=1)
'''


def variant(*changes):
    source = SOURCE
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    return source


OWN_GAIN = ', gain=np.sqrt(2) / 4', ''
STRIDE = 'conv(downscale2d(images_in), 8)', 'conv(downscale2d_stride(images_in, 4), 8)'


def meaning(source, net='G', **kwargs):
    return meaning_2018(source, net + '_paper', kwargs, net == 'G')


@pytest.mark.parametrize('net, kwargs', [('G', {}), ('D', {}), ('D', {'mbstd_group_size': 16}), ('D', {
    'mbstd_group_size': 0}), ('G', {'pixelnorm_epsilon': 1e-6}), ('G', {'use_leakyrelu': False})])
def test_the_released_meaning_is_silent(net, kwargs):
    assert meaning(SOURCE, net, **kwargs) == ({}, [], [], [])


def test_no_source_is_silent():
    for source in (None, '', b''):
        assert meaning(source) == ({}, [], [], [])


@pytest.mark.parametrize('net, change, kwargs', [
    ('G', OWN_GAIN, {'dense_gain': math.sqrt(2)}),
    ('G', ('np.sqrt(2) / 4', '-(-3) ** 2 / 9 + HALF * 3'), {'dense_gain': 0.5}),
    ('G', ('pixelnorm_epsilon=1e-8', 'pixelnorm_epsilon=1e-6'), {'pixelnorm_epsilon': 1e-6}),
    ('G', ('pixel_norm(x, epsilon=pixelnorm_epsilon)', 'pixel_norm(x, 1e-4)'), {'pixelnorm_epsilon': 1e-4}),
    ('D', STRIDE, {'image_shrinking': 'stride'}),
    ('D', ('mbstd_group_size=4', 'mbstd_group_size=8'), {'mbstd_group_size': 8}),
    ('D', ('deviation(x, mbstd_group_size)', 'deviation(x, 2)'), {'mbstd_group_size': 2})])
def test_facts_that_are_built(net, change, kwargs):
    found = meaning(variant(change), net)
    assert found.kwargs == pytest.approx(kwargs) if net == 'G' else found.kwargs == kwargs
    assert len(found.deviations) == 1 and not found.unread and not found.unbuildable


def test_the_linear_structure_always_averaged():
    assert not meaning(variant(STRIDE), 'D', structure='linear').kwargs
    assert meaning(variant(STRIDE), 'D', structure='recursive').kwargs


@pytest.mark.parametrize('net, change, text', [
    ('G', ('alpha=0.2', 'alpha=0.1'), 'the slope of the leaky ReLU is 0.1 there and 0.2 here'),
    ('D', ('alpha=0.2', 'alpha=1/3'), 'the slope of the leaky ReLU is 0.333333 there and 0.2 here'),
    ('D', ('y + 1e-8', 'y + 1e-4'), 'the epsilon of the minibatch statistic is 0.0001 there and 1e-08 here'),
    ('D', ('axis=[1, 2, 3]', 'axis=[2, 3]'),
     'the mean of the minibatch statistic is axes [2, 3] there and maps and pixels here')])
def test_facts_that_cannot_be_built(net, change, text):
    assert meaning(variant(change), net).unbuildable == [text]


@pytest.mark.parametrize('net, source, unread', [
    ('G', 'raise SystemExit', 3), ('D', 'raise SystemExit', 5), ('G', 'print "Python 2"', 3), ('G', '\0', 3),
    ('G', '(' * 100000, 3), ('G', 'x = ' + '-' * 100000 + '1', 3), ('G', object(), 3),
    ('G', variant(('np.sqrt(2) / 4', 'os.system("x")')), 1), ('G', variant(('np.sqrt(2) / 4', '9 ** 9 ** 9')), 1),
    ('G', variant(('alpha=0.2', 'slope=0.2')), 1), ('D', variant(('group_size=4)', 'groups=4)')), 4)])
def test_facts_that_cannot_be_read(net, source, unread):
    found = meaning(source, net)
    assert len(found.unread) >= unread - 1 and not found.kwargs and not found.unbuildable


def test_white_space_does_not_count(monkeypatch):
    digest = normalised_digest('a = 1\n  b = 2')
    assert digest == normalised_digest('\r\na = 1  \r\n\r\n  b = 2\t\n') == hashlib.sha256(
        b'a = 1\n  b = 2').hexdigest()
    monkeypatch.setattr(stored_source, 'PUBLIC_2018_02', digest)
    assert meaning('a = 1\n  b = 2').kwargs == {'dense_gain': math.sqrt(2)}
    assert meaning('a = 1\n  b = 2', 'D').kwargs == {'image_shrinking': 'stride'}


# ----------------------------------------------------------------------------------------------------------------------
# Networks.


@pytest.fixture
def torch_engine(restore_theano_config):
    theano_env.configure('torch', {'device': 'cpu'})
    np.random.seed(1)


KWARGS = dict(num_channels=3, resolution=16, fmap_base=64, fmap_max=16)


def pickled(net, source):
    variables = {'lod' if name == 'cur_lod' else name: net.get_var(name) for name in net.vars}
    state = state_2018(net.func_name.rpartition('.')[2], variables, **KWARGS)
    return state | {'build_module_src': source}


@pytest.fixture
def files(tmp_path, torch_engine):
    """A function that writes a pickle in the 2018 format with a source text and returns its path."""
    nets = [Network(name, f'networks_2018.{name}_paper', **KWARGS) for name in 'GD']
    for net in nets:
        for name in net.vars:
            if name.endswith('/bias'):      # Without biases, pixel norm would cancel all gains.
                net.set_var(name, np.random.randn(*net.get_var(name).shape))

    def write_file(source):
        return write(tmp_path, dumps([('tfutil.Network', pickled(net, source)) for net in (*nets, nets[0])], 4))
    return nets, write_file


def test_the_first_tensorflow_version(files, capsys):
    (G, D), write_file = files
    old_G, old_D, _Gs = load_pkl(write_file(variant(OWN_GAIN, STRIDE)))
    out, err = capsys.readouterr()
    assert out.count('\n') == 1 and not err
    assert 'the gain of the 4x4 dense layer: 1.41421 instead of 0.353553; how D shrinks images: stride' in out
    latents, labels = np.random.randn(4, 16), np.zeros((4, 0))
    wanted = Network('G', 'networks_2018.G_paper', **KWARGS)
    for name in G.vars:
        wanted.set_var(name, G.get_var(name) * (4 if name == '4x4/Dense/weight' else 1))
    np.testing.assert_allclose(old_G.run(latents, labels), wanted.run(latents, labels), rtol=0, atol=1e-5)
    assert np.abs(old_G.run(latents, labels) - G.run(latents, labels)).max() > 0.05

    # For images that consist of blocks, taking every n-th pixel equals averaging.
    images = np.random.randn(4, 3, 16, 16).astype(np.float32)
    for lod in (0, 0.25, 1, 1.5, 2):
        size = 2 ** int(lod)
        blocks = images[:, :, ::size, ::size].repeat(size, axis=2).repeat(size, axis=3)
        for net in (D, old_D):
            net.set_var('cur_lod', lod)
        np.testing.assert_allclose(old_D.run(images)[0], D.run(blocks)[0], rtol=0, atol=1e-5)
        if lod >= 1:
            assert np.abs(old_D.run(images)[0] - D.run(images)[0]).max() > 1e-3
    # In training, the images have a lower resolution.
    small, reals = T.tensor4(), images[:, :, ::2, ::2]
    for net in (D, old_D):
        net.set_var('cur_lod', 1.5)
    scores = [lasagne.layers.get_output(net.output_layers[0], small, min_lod=1, max_lod=2, image_lod=1).eval(
        {small: reals}) for net in (D, old_D)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)


def test_a_released_source_and_an_unknown_one(files, capsys):
    _nets, write_file = files
    load_pkl(write_file(SOURCE))
    assert capsys.readouterr() == ('', '')
    load_pkl(write_file('raise SystemExit'))
    out, err = capsys.readouterr()
    assert not out and err.count('\n') == 1 and 'its source does not define the gain of the 4x4 dense layer, ' in err


def test_a_fork_that_cannot_be_built(files, tmp_path, capsys):
    _nets, write_file = files
    path = write_file(variant(('alpha=0.2', 'alpha=0.1')))
    with pytest.raises(UserError, match='slope of the leaky ReLU is 0.1 there and 0.2 here.*--ignore-source'):
        load_pkl(path)
    assert legacy.main([path, str(tmp_path / 'ours.pkl')]) == 1
    assert not (tmp_path / 'ours.pkl').exists()
    assert legacy.main(['--ignore-source', path, str(tmp_path / 'ours.pkl')]) == 0
    assert len(load_pkl(str(tmp_path / 'ours.pkl'))) == 3


@pytest.mark.parametrize('source, slope', [
    ('from lasagne.nonlinearities import LeakyRectify\nact = LeakyRectify(0.1)\n', '0.1'),
    ('act = lasagne.nonlinearities.very_leaky_rectify\n', '0.333333'),
    ('act = LeakyRectify(leakiness=0.2)\n', None), ('act = unknown\n', None)])
def test_slopes_of_2017(source, slope, tmp_path, torch_engine):
    state = small_state_2017() | {'build_module_src': source + 'def G_paper(**kwargs):\n    return act\n'}
    path = write(tmp_path, dumps([('network.Network', state)], 4))
    if slope is None:
        load_pkl(path)
    else:
        with pytest.raises(UserError, match=f'leaky ReLU is {slope} there and 0.2 here'):
            load_pkl(path)
