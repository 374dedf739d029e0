"""paper.signals: the largest signal of the layers with weights, without the output layer."""

import numpy as np
import pytest

from nets.network import Network
from paper.signals import largest_signal

G_OPTIONS = {'func': 'networks.G_paper', 'num_channels': 1, 'resolution': 8, 'fmap_base': 32, 'fmap_max': 8,
             'latent_size': 8, 'label_size': 0}


def test_pixel_norm_bounds_the_signals_of_a_generator():
    latents = np.random.RandomState(1).randn(4, 8).astype(np.float32)
    normalized, plain = Network('G', **G_OPTIONS), Network('G', **G_OPTIONS, use_pixelnorm=False)
    before = largest_signal(plain, latents)
    for net in (normalized, plain):
        for name, var in net.trainables.items():
            if name.endswith('W'):
                var.set_value(10 * var.get_value())
    # Convolutions are measured before their pixel norm. Their inputs have a mean square of one.
    assert largest_signal(plain, latents) > 100 * before
    assert largest_signal(normalized, latents) < largest_signal(plain, latents) / 5


def test_an_output_scaled_up_does_not_count():
    net = Network('G', **G_OPTIONS)
    latents = np.random.RandomState(1).randn(4, 8).astype(np.float32)
    before = largest_signal(net, latents)
    output, = (layer for layer in net.output_layers)
    images = net.run(latents)
    for var in output.get_params():
        var.set_value(100 * var.get_value())
    assert np.abs(net.run(latents)).max() >= np.abs(images).max()
    assert largest_signal(net, latents) == pytest.approx(before, rel=1e-6)
