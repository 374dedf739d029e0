"""The networks of "Progressive Growing of GANs" (Karras et al. 2017): Table 2, section 6.2 and appendices A, B, D.

A build function returns a dict: `input_layers`, `output_layers`, and shared float32 scalars that control the network,
by name: `cur_lod` (0: full resolution, k: resolution / 2^k, fractions blend) and, for discriminators, `gdrop_strength`.
Layers draw their initial weights from Lasagne's generator in the order of their construction.

Common arguments of the build functions (each ignores those that it does not use):

=================== ====================================================================================================
num_channels        channels of the images
resolution          width and height of the images: a power of two, at least 4
label_size          length of the one-hot labels; 0: no labels
fmap_base,          stage s has ``min(int(fmap_base / 2 ** (s * fmap_decay)), fmap_max)`` feature maps; stage 1 has 4x4
fmap_decay,         pixels, stage 2 has 8x8, and so on
fmap_max
latent_size         length of the latent vectors; None: the number of feature maps of stage 0
use_wscale          equalized learning rate (section 4.1)
use_pixelnorm       pixelwise feature vector normalization (section 4.2)
use_batchnorm,      normalizations of the baselines, instead
use_layernorm
use_gdrop           multiplicative Gaussian noise before D's convolutions (appendix B), and before the dense layer of
                    the network for MNIST
mbstat_avg          minibatch standard deviation (section 3): see `nets.layers.MinibatchStatConcatLayer`; None: none
mbstat_groups       number of equal parts of the minibatch with separate statistics; 1: one statistic
=================== ====================================================================================================
"""

from typing import Literal

import theano_torch  # noqa: F401  (makes Theano importable)

import numpy as np
import theano
from lasagne.init import HeNormal
from lasagne.layers import ConcatLayer, DenseLayer, FlattenLayer, InputLayer, NonlinearityLayer, ReshapeLayer
from lasagne.nonlinearities import softmax, tanh

from common.errors import UserError
from common.options import (
    Factor,
    Kernels,
    MapDecay,
    MinibatchAverage,
    MinibatchStat,
    NetResolution,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Size,
)
from nets import layers

RELU_GAIN = np.sqrt(2)      # He et al. 2015; for layers followed by a (leaky) rectifier. Linear layers: 1.


class FeatureMaps:
    """Numbers of feature maps, ``maps(stage)``, and the index of the finest stage, ``maps.last_stage``."""

    def __init__(self, resolution: int, base: float, decay: float, maximum: int, section: str = '') -> None:
        if resolution < 4 or resolution & (resolution - 1):
            raise UserError(f'resolution={resolution!r}: must be a power of two, at least 4')
        self.last_stage = int(resolution).bit_length() - 2
        self.base, self.decay, self.maximum, self.section = base, decay, maximum, section

    def __call__(self, stage: int) -> int:
        maps = min(int(self.base / 2.0 ** (stage * self.decay)), self.maximum)
        if maps < 1:
            raise UserError(f'{self.section}fmap_base={self.base!r}: gives no feature maps at '
                            f'{2 ** (stage + 1)}x{2 ** (stage + 1)} pixels (fmap_decay={self.decay!r}, '
                            f'fmap_max={self.maximum!r}); use a larger fmap_base')
        return maps


def _shared_scalar(name):
    return theano.shared(np.float32(0.0), name=name)


def _suffixed(layer, wscale='', batchnorm=False, layernorm=False, pixelnorm=False):
    """Add the requested normalizations to `layer`, in this order, each with its suffix to the name."""
    if wscale:
        layer = layers.WScaleLayer(layer, name=layer.name + wscale)
    if layernorm:
        layer = layers.LayerNormLayer(layer, name=layer.name + 'ln')
    if batchnorm:
        layer = layers.batch_norm(layer)
    if pixelnorm:
        layer = layers.PixelNormLayer(layer, name=layer.name + 'pn')
    return layer


def _conv(layer, name, num_maps, filter_size, activation, pad='same', **suffixes):
    layer = layers.Conv2DLayer(layer, num_maps, filter_size, pad=pad, W=HeNormal(RELU_GAIN), nonlinearity=activation,
                               name=name)
    return _suffixed(layer, **suffixes)


def _latent_inputs(latent_size, label_size, normalize_latents):
    """(input layers, layer of shape (N, latent_size + label_size, 1, 1))."""
    inputs = [InputLayer((None, latent_size), name='Glatents')]
    layer = inputs[0]
    if normalize_latents:
        layer = layers.PixelNormLayer(layer, name='Glnorm')
    if label_size:
        inputs.append(InputLayer((None, label_size), name='Glabels'))
        layer = ConcatLayer([layer, inputs[1]], name='Gina')
    return inputs, ReshapeLayer(layer, ([0], [1], 1, 1), name='Ginb')


def _tanh(layer, tanh_at_end):
    """Optionally add tanh times a constant."""
    if tanh_at_end is not None and tanh_at_end is not False:
        if not tanh_at_end > 0:
            raise UserError(f'tanh_at_end={tanh_at_end!r}: makes all images equal; use a number above 0, or '
                            'None for no tanh')
        layer = NonlinearityLayer(layer, tanh, name='Gtanh')
        if tanh_at_end != 1.0:
            layer = layers.ScaleLayer(layer, tanh_at_end, name='Gtanhs')
    return layer


def _faded_input(layer, images, name_stage, lod, num_maps, activation, cur_lod, **suffixes):
    """Blend `layer`, at `lod`, with features computed from the image at lod + 1 (Figure 2)."""
    shrunk = layers.Pool2DLayer(images, 2 ** (lod + 1), image_lod=lod + 1, name=f'D{name_stage}xs')
    features = layers.NINLayer(shrunk, num_maps, W=HeNormal(RELU_GAIN), nonlinearity=activation,
                               name=f'D{name_stage}x')
    features = _suffixed(features, **suffixes)
    return layers.LODSelectLayer([layer, features], cur_lod, first_incoming_lod=lod, name=f'D{name_stage}lod')


def _classifier_outputs(layer, label_size, **suffixes):
    """Linear scores (N, 1) and, if there are labels, their logits (N, label_size)."""
    outputs = []
    for name, size in [('Dscores', 1), ('Dlabels', label_size)]:
        if size:
            output = DenseLayer(layer, size, W=HeNormal(1.0), nonlinearity=None, name=name)
            outputs.append(_suffixed(output, **suffixes))
    return outputs


# ----------------------------------------------------------------------------------------------------------------------
# The networks of the paper (Table 2).


def G_paper(
    num_channels: Literal[1, 3]  = 1,
    resolution: NetResolution    = 32,
    label_size: NonNegativeInt   = 0,
    fmap_base: Positive          = 4096,
    fmap_decay: MapDecay         = 1.0,
    fmap_max: Size               = 256,
    latent_size: Size | None     = None,
    normalize_latents: bool      = True,   # Normalize the latents to the unit hypersphere.
    use_wscale: bool             = True,
    use_pixelnorm: bool          = True,
    use_leakyrelu: bool          = True,   # False: ReLU.
    use_batchnorm: bool          = False,
    tanh_at_end: Factor | None   = None,   # Factor of a final tanh; None, False: linear.
    **_unknown,
) -> dict:
    """The generator: latents (N, latent_size) [, labels (N, label_size)] -> images (N, C, resolution, resolution)."""
    maps = FeatureMaps(resolution, fmap_base, fmap_decay, fmap_max)
    cur_lod = _shared_scalar('cur_lod')
    activation = layers.LeakyRectify(0.2) if use_leakyrelu else layers.rectify
    wscale = 'S' if use_wscale else ''
    norms = dict(wscale=wscale, batchnorm=use_batchnorm, pixelnorm=use_pixelnorm)

    inputs, layer = _latent_inputs(latent_size or maps(0), label_size, normalize_latents)
    layer = _conv(layer, 'G1a', maps(1), 4, activation, pad='full', **norms)
    layer = _conv(layer, 'G1b', maps(1), 3, activation, **norms)
    stages = [layer]
    for stage in range(2, maps.last_stage + 1):
        layer = layers.Upscale2DLayer(layer, name=f'G{stage}up')
        layer = _conv(layer, f'G{stage}a', maps(stage), 3, activation, **norms)
        layer = _conv(layer, f'G{stage}b', maps(stage), 3, activation, **norms)
        stages.append(layer)

    images = []
    for lod, layer in enumerate(reversed(stages)):
        layer = layers.NINLayer(layer, num_channels, W=HeNormal(1.0), name=f'Glod{lod}')
        images.append(_suffixed(layer, wscale))
    output = _tanh(layers.LODSelectLayer(images, cur_lod, name='Glod'), tanh_at_end)
    return dict(input_layers=inputs, output_layers=[output], cur_lod=cur_lod)


def D_paper(
    num_channels: Literal[1, 3]         = 1,
    resolution: NetResolution           = 32,
    label_size: NonNegativeInt          = 0,
    fmap_base: Positive                 = 4096,
    fmap_decay: MapDecay                = 1.0,
    fmap_max: Size                      = 256,
    mbstat_func: MinibatchStat          = 'Tstdeps',
    mbstat_avg: MinibatchAverage | None = 'all',
    mbstat_groups: PositiveInt          = 1,
    mbdisc_kernels: Kernels | None      = None,       # Minibatch discrimination (Salimans et al. 2016); None: off.
    use_wscale: bool                    = True,
    use_gdrop: bool                     = True,
    use_layernorm: bool                 = False,
    **_unknown,
) -> dict:
    """The discriminator: images (N, C, resolution, resolution) -> scores (N, 1) [, label logits (N, label_size)]."""
    maps = FeatureMaps(resolution, fmap_base, fmap_decay, fmap_max)
    cur_lod, gdrop_strength = _shared_scalar('cur_lod'), _shared_scalar('gdrop_strength')
    activation = layers.LeakyRectify(0.2)
    wscale = 'ws' if use_wscale else ''

    def conv(layer, name, num_maps, filter_size=3, pad='same'):
        if use_gdrop:
            layer = layers.GDropLayer(layer, gdrop_strength, name=layer.name + 'gd')
        return _conv(layer, name, num_maps, filter_size, activation, pad, wscale=wscale, layernorm=use_layernorm)

    last = maps.last_stage
    images = InputLayer((None, num_channels, resolution, resolution), name='Dimages')
    layer = layers.NINLayer(images, maps(last), W=HeNormal(RELU_GAIN), nonlinearity=activation, name=f'D{last}x')
    layer = _suffixed(layer, wscale)
    for stage in range(last, 1, -1):
        layer = conv(layer, f'D{stage}b', maps(stage))
        layer = conv(layer, f'D{stage}a', maps(stage - 1))
        layer = layers.Pool2DLayer(layer, name=f'D{stage}dn')
        layer = _faded_input(layer, images, stage - 1, last - stage, maps(stage - 1), activation, cur_lod,
                             wscale=wscale)

    if mbstat_avg is not None:
        layer = layers.MinibatchStatConcatLayer(layer, mbstat_func, mbstat_avg, mbstat_groups, name='Dstat')
    layer = conv(layer, 'D1b', maps(1))
    layer = conv(layer, 'D1a', maps(0), filter_size=4, pad='valid')
    if mbdisc_kernels:
        layer = layers.MinibatchLayer(layer, mbdisc_kernels, name='Dmd')
    outputs = _classifier_outputs(layer, label_size, wscale=wscale)
    return dict(input_layers=[images], output_layers=outputs, cur_lod=cur_lod, gdrop_strength=gdrop_strength)


# ----------------------------------------------------------------------------------------------------------------------
# The reduced networks for the mode-recovery experiment on stacked MNIST digits (appendix D), and its classifier.


def G_mnist_mode_recovery(
    num_channels: Literal[1, 3]  = 1,
    resolution: NetResolution    = 32,
    label_size: NonNegativeInt   = 10,
    fmap_base: Positive          = 64,
    fmap_decay: MapDecay         = 1.0,
    fmap_max: Size               = 256,
    latent_size: Size | None     = None,
    normalize_latents: bool      = True,
    use_wscale: bool             = False,
    use_pixelnorm: bool          = False,
    use_batchnorm: bool          = True,
    tanh_at_end: Factor | None   = 1.0,
    progressive: bool            = False,  # Grow: build an image output for each resolution.
    **_unknown,
) -> dict:
    """One convolution per stage, 64 maps in the first. Inputs and output as in :func:`G_paper`."""
    maps = FeatureMaps(resolution, fmap_base, fmap_decay, fmap_max)
    cur_lod = _shared_scalar('cur_lod')
    activation = layers.LeakyRectify(0.3)
    wscale = 'S' if use_wscale else ''
    norms = dict(wscale=wscale, batchnorm=use_batchnorm, pixelnorm=use_pixelnorm)

    inputs, layer = _latent_inputs(latent_size or maps(0), label_size, normalize_latents)
    layer = _conv(layer, 'G1a', 64, 4, activation, pad='full', **norms)
    stages = [layer]
    for stage in range(2, maps.last_stage + 1):
        layer = layers.Upscale2DLayer(layer, name=f'G{stage}up')
        layer = _conv(layer, f'G{stage}a', maps(stage - 1), 3, activation, **norms)
        stages.append(layer)

    def to_rgb(layer, name):
        return _suffixed(layers.Conv2DLayer(layer, num_channels, 3, W=HeNormal(1.0), name=name), wscale)

    if progressive:
        images = [to_rgb(layer, f'Glod{lod}') for lod, layer in enumerate(reversed(stages))]
        layer = layers.LODSelectLayer(images, cur_lod, name='Glod')
    else:
        layer = to_rgb(layer, 'toRGB')
    return dict(input_layers=inputs, output_layers=[_tanh(layer, tanh_at_end)], cur_lod=cur_lod)


def D_mnist_mode_recovery(
    num_channels: Literal[1, 3]         = 1,
    resolution: NetResolution           = 32,
    label_size: NonNegativeInt          = 10,
    fmap_base: Positive                 = 64,
    fmap_decay: MapDecay                = 1.0,
    fmap_max: Size                      = 256,
    X: Size                             = 2,          # Divides the numbers of feature maps: 2 or 4 in the paper.
    mbstat_func: MinibatchStat          = 'Tstdeps',
    mbstat_avg: MinibatchAverage | None = None,
    mbstat_groups: PositiveInt          = 1,
    use_wscale: bool                    = False,
    use_gdrop: bool                     = False,
    use_layernorm: bool                 = False,
    use_batchnorm: bool                 = True,
    progressive: bool                   = False,      # Grow; has an image input per resolution.
    **_unknown,
) -> dict:
    """One convolution per stage, dense layers on the flattened 4x4 maps. Input and outputs as in :func:`D_paper`."""
    maps = FeatureMaps(resolution, fmap_base, fmap_decay, fmap_max)
    cur_lod, gdrop_strength = _shared_scalar('cur_lod'), _shared_scalar('gdrop_strength')
    activation = layers.LeakyRectify(0.2)
    wscale = 'ws' if use_wscale else ''
    if maps(maps.last_stage - 1) < X:
        raise UserError(f'X={X!r}: leaves none of {maps(maps.last_stage - 1)} feature maps at full resolution; '
                        'use a smaller X or a larger fmap_base')

    images = layer = InputLayer((None, num_channels, resolution, resolution), name='Dimages')
    for stage in range(maps.last_stage, 1, -1):
        num_maps = maps(stage - 1) // X
        if use_gdrop:
            layer = layers.GDropLayer(layer, gdrop_strength, name=layer.name + 'gd')
        layer = _conv(layer, f'D{stage}a', num_maps, 3, activation, wscale=wscale, batchnorm=use_batchnorm,
                      layernorm=use_layernorm)
        layer = layers.Pool2DLayer(layer, name=f'D{stage}dn')
        if progressive:
            layer = _faded_input(layer, images, stage - 1, maps.last_stage - stage, num_maps, activation, cur_lod,
                                 wscale=wscale)

    if mbstat_avg is not None:
        layer = layers.MinibatchStatConcatLayer(layer, mbstat_func, mbstat_avg, mbstat_groups, name='Dstat')
    if use_gdrop:
        layer = layers.GDropLayer(layer, gdrop_strength, name=layer.name + 'gd')
    outputs = _classifier_outputs(FlattenLayer(layer, name='Dflatten'), label_size, wscale=wscale)
    return dict(input_layers=[images], output_layers=outputs, cur_lod=cur_lod, gdrop_strength=gdrop_strength)


def mnist_classifier(
    num_channels: Literal[1, 3] = 1,
    resolution: NetResolution   = 32,
    label_size: NonNegativeInt  = 10,
    **_unknown,
) -> dict:
    """Plain classifier of digits: images (N, num_channels, resolution, resolution) -> probabilities (N, label_size)."""
    activation = layers.LeakyRectify(0.1)
    images = layer = InputLayer((None, num_channels, resolution, resolution), name='Cimages')
    for stage, num_maps, pad in [(1, 32, 'same'), (2, 55, 'same'), (3, 96, 'valid')]:
        layer = _conv(layer, f'C{stage}a', num_maps, 3, activation, pad)
        layer = _conv(layer, f'C{stage}b', num_maps, 3, activation, pad)
        layer = layers.Pool2DLayer(layer, mode='max', name=f'C{stage}dn')
    output = DenseLayer(layer, label_size, W=HeNormal(1.0), nonlinearity=softmax, name='Cprobs')
    return dict(input_layers=[images], output_layers=[output])
