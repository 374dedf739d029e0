"""Typical user scripts for the 2017 release, with its names and without a call of theano_env.configure."""

import os
import shutil

import lasagne
import numpy as np
import PIL.Image
import pytest
import theano
import theano.tensor as T

import config
import misc
import network
import theano_env
import train
from common.errors import UserError
from tests.helpers import GOLDEN, load_golden


@pytest.fixture(autouse=True)
def folder_of_a_user(tmp_path, monkeypatch, restore_theano_config):
    theano.config.mode = theano_env.THEANOS_OWN_MODE
    monkeypatch.chdir(tmp_path)
    np.random.seed(1)


def test_images_of_a_run():
    os.makedirs('results/000-toy')
    shutil.copy(GOLDEN / 'snapshot.pkl', 'results/000-toy/network-snapshot-000012.pkl')
    recorded, meta = load_golden('snapshot')
    net = train.imgapi_load_net(run_id=0, snapshot=12, random_seed=7, num_example_latents=6, load_dataset=False)
    assert net.network_pkl.endswith('000-toy/network-snapshot-000012.pkl') and net.example_labels.shape == (6, 0)
    np.random.seed(7)
    np.testing.assert_array_equal(net.example_latents, misc.random_latents(6, net.G.input_shape))
    assert net.Gs.cur_lod.get_value() == np.float32(meta['cur_lod_saved'])
    images = train.imgapi_generate_batch(net, net.example_latents, net.example_labels, minibatch_size=4)
    np.testing.assert_allclose(images, net.Gs.run(net.example_latents), rtol=0, atol=2e-5)
    net.Gs.cur_lod.set_value(np.float32(0))
    images = train.imgapi_generate_batch(net, recorded['latents'], np.zeros((len(recorded['latents']), 0)),
                                         convert_to_uint8=True)
    misc.save_image_grid(images, 'fakes.png', drange=[0, 255])
    assert PIL.Image.open('fakes.png').mode == 'RGB'
    np.testing.assert_allclose(images, net.Gs.run(recorded['latents'], out_mul=127.5, out_add=127.5,
                                                  out_dtype=np.uint8).astype(int), rtol=0, atol=1)


def test_user_training_loop():
    sizes = dict(num_channels=1, resolution=8, label_size=0, fmap_base=32, fmap_max=4)
    G = network.Network(func='G_paper', latent_size=4, **sizes)
    D = network.Network(func='D_paper', mbstat_avg='all', use_gdrop=True, **sizes)
    Gs, Gs_updates = G.create_temporally_smoothed_version(beta=0.9, explicit_updates=True)
    D.gdrop_strength.set_value(np.float32(0.1))
    latents, labels = T.fmatrix('latents'), T.fmatrix('labels')
    fakes = G.eval(latents, labels, ignore_unused_inputs=True)
    loss = T.mean(T.sqr(D.eval_nd(fakes)))
    updates = lasagne.updates.adam(loss, G.trainable_params(), learning_rate=0.01)
    step = theano.function([latents], [loss], updates=list(updates.items()) + Gs_updates)
    before, losses = [Gs.get_var('G1a.W')], []
    for _step in range(3):
        losses.append(float(step(train.random_latents(4, G.input_shape))[0]))
        before.append(Gs.get_var('G1a.W'))
    assert np.isfinite(losses).all() and len(set(losses)) == 3
    # Gs averages the weights before each step; before the first step, these equal its own.
    np.testing.assert_allclose(before[1], before[0], rtol=1e-6)
    assert abs(before[3] - before[0]).max() > 1e-3
    layer = G.find_layer('G2b')
    features = theano.function([latents], lasagne.layers.get_output(layer, {G.input_layers[0]: latents}))
    assert features(train.random_latents(2, G.input_shape)).shape == (2, 4, 8, 8)
    with pytest.raises(UserError, match="no layer 'G2c'; did you mean 'G2b'"):
        G.find_layer('G2c')
    scores, = D.eval_multi_d(T.ftensor4(), min_lod=0, max_lod=0)
    assert scores.ndim == 2 and config.EasyDict(a=1).a == 1


def test_smoothed_version_with_default_updates():
    G = network.Network(func='G_paper', resolution=4, fmap_base=8, fmap_max=2, latent_size=2)
    Gs = G.create_temporally_smoothed_version(beta=0.75)
    W, smoothed = G.vars['G1a.W'], Gs.vars['G1a.W']
    before = W.get_value()
    theano.function([], smoothed, updates=[(W, W + 4)])()
    np.testing.assert_allclose(W.get_value(), before + 4, rtol=1e-6)
    theano.function([], smoothed)()
    np.testing.assert_allclose(smoothed.get_value(), before + 1, rtol=1e-5)    # 1/4 of the new value.
