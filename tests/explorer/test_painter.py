"""explorer/painter.py: images compared with those of `Network.run`."""

import numpy as np
import pytest

import theano_env
from common.errors import UserError
from explorer.painter import Painter
from explorer.points import Point
from nets.network import Network

SMALL = {'num_channels': 3, 'resolution': 16, 'fmap_base': 64, 'fmap_max': 8, 'latent_size': 8}


@pytest.fixture(autouse=True)
def torch_engine(restore_theano_config):
    theano_env.configure('torch', {'device': 'cpu'})


def make_painter(func='networks.G_paper', lod=0.0, **kwargs):
    np.random.seed(1)
    G = Network('Gs', func, **{**SMALL, **kwargs})
    G.set_var('cur_lod', np.float32(lod))
    return Painter(G)


def points_of(painter, psi=1.0, lod=0.0, num=3):
    labels = np.eye(painter.label_size)
    return [Point(latents=painter.latents_of_seed(seed), psi=psi, lod=lod,
                  label=labels[seed % len(labels)].tolist() if painter.label_size else []) for seed in range(num)]


def paint(painter, points):
    return np.stack(list(painter.images(points))).astype(float)


@pytest.mark.parametrize('func, kwargs', [
    ('networks.G_paper', {}), ('networks_2018.G_paper', {'label_size': 3}),
    ('networks.G_mnist_mode_recovery', {'label_size': 3, 'normalize_latents': False})])
def test_images_are_those_of_the_network(func, kwargs):
    painter = make_painter(func, **kwargs)
    points = points_of(painter)
    for lod in [lod for lod in (0.0, 0.5, 1.0) if lod <= painter.lods[1]]:
        images = paint(painter, [point.model_copy(update={'lod': lod}) for point in points])
        if painter.lods[1]:
            painter.G.set_var('cur_lod', np.float32(lod))
        latents, labels = (np.float32([getattr(point, name) for point in points]) for name in ('latents', 'label'))
        expected = painter.G.run(latents, labels, out_mul=127.5, out_add=127.5, batch_norm_use_averages=True)
        repeats = 16 // images.shape[-1]
        assert repeats == 2 ** int(lod)
        # Rounding to uint8 accounts for half a grey level, the rest is rounding in the engine.
        np.testing.assert_allclose(images.repeat(repeats, 2).repeat(repeats, 3), np.clip(expected, 0, 255), atol=0.51)


@pytest.mark.parametrize('func, label_size', [('networks.G_paper', 0), ('networks.G_paper', 3),
                                              ('networks_2018.G_paper', 0), ('networks_2018.G_paper', 3)])
def test_truncation_ends_at_one_image_of_each_class(func, label_size):
    painter = make_painter(func, label_size=label_size)
    for name, var in painter.G.trainables.items():      # With zero biases, pixel norm would cancel psi.
        if var.ndim == 1:
            painter.G.set_var(name, np.random.RandomState(2).randn(*painter.G.get_var(name).shape).astype(np.float32))
    spread = []
    for psi in (1.0, 0.3, 0.0):
        points = [point.model_copy(update={'label': [1.0, 0.0, 0.0][:label_size]}) for point in
                  points_of(painter, psi)]
        spread.append(paint(painter, points).std(axis=0).mean())
    assert spread[0] > spread[1] > spread[2] == 0


def test_images_of_several_lods_have_one_size():
    painter = make_painter()
    fine, coarse = (points_of(painter, lod=lod, num=1)[0] for lod in (0.5, 2.0))
    images = paint(painter, [fine, coarse])
    assert images.shape == (2, 3, 16, 16)
    small = paint(painter, [coarse])
    assert small.shape == (1, 3, 4, 4)
    np.testing.assert_array_equal(images[1:], small.repeat(4, 2).repeat(4, 3))


def test_untrained_lods_and_wrong_sizes_are_refused():
    painter = make_painter(lod=1.5, label_size=3)
    assert painter.lods == (1.5, 2)
    assert painter.describe() == {'latent_size': 8, 'classes': ['0', '1', '2'], 'resolution': 16, 'channels': 3,
                                  'lods': [1.5, 2]}
    good, = points_of(painter, lod=1.5, num=1)
    painter.check([good])
    for change, words in [({'lod': 1.0}, 'lod=1.0: this network has 1.5 to 2'), ({'lod': 2.5}, 'lod=2.5'),
                          ({'latents': [0.0] * 7}, 'latents: 7 numbers; this network takes 8'),
                          ({'label': []}, 'label: 0 numbers; this network takes 3')]:
        with pytest.raises(UserError, match=words):
            painter.check([good, good.model_copy(update=change)])


def test_a_network_of_nan_is_told():
    painter = make_painter()
    painter.G.set_var('G1aS.b', np.full(8, np.nan, np.float32))
    with pytest.raises(UserError, match='Gs: this network makes images of NaN'):
        paint(painter, points_of(painter))
