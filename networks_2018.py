"""The networks of the 2018 TensorFlow release as Lasagne graphs, for networks that were trained with it.

For new networks, use `networks.py`: the topology is the same, but the functions differ.

=================== ============================================================================================
equalized learning  weights are initialised from N(0, 1) and multiplied by gain / sqrt(fan_in) of He et al. 2015
rate
latents             the vector [latents, labels] is normalized to the hypersphere
fused scaling       D averages before bias and activation, by a convolution of stride 2; in G the function is the same
minibatch standard  computed in groups of `mbstd_group_size`; the members of a group are N / mbstd_group_size apart
deviation
outputs             D's scores and labels are columns of one dense layer; D always has both outputs and G both inputs,
                    with zero columns if label_size is 0. There is no tanh
float16             with ``dtype='float16'`` inputs, weights, activations and outputs are rounded to float16; operations
                    compute in float32, as GPUs accumulate. Parameters stay float32
=================== ============================================================================================

Variables have the names and layouts of the 2018 release: (height, width, in, out) for convolutions, (height, width,
out, in) for fused upscaling, (in, out) for dense layers, all unflipped; ``lod`` is our `cur_lod`. Unknown arguments are
ignored, as in the release; among them are `structure`, whose two values give the same function, and `tanh_at_end`.
"""

from collections.abc import Callable
from typing import Any, Literal

import theano_torch  # noqa: F401  (makes Theano importable)

import numpy as np
import theano
import theano.tensor as T
from lasagne.init import Constant, Normal
from lasagne.layers import ConcatLayer, InputLayer, Layer, SliceLayer
from lasagne.nonlinearities import identity

from common.errors import UserError
from common.options import MapDecay, NetResolution, NonNegativeInt, Positive, Size
from nets import layers, ops
from networks import RELU_GAIN, FeatureMaps

# ----------------------------------------------------------------------------------------------------------------------
# Layers.


def as_float16(x):
    """Round `x` to float16, but keep its dtype."""
    return T.cast(T.cast(x, 'float16'), x.dtype)


def unrounded(x):
    """Return `x`; replaces :func:`as_float16` in float32 networks."""
    return x


class RoundLayer(Layer):
    """Apply `rounding`."""

    def __init__(self, incoming, rounding: Callable, **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        self.rounding = rounding

    def get_output_for(self, input, **kwargs: Any):
        return self.rounding(input)


class Float16Layer(Layer):
    """Cast to float16."""

    def get_output_for(self, input, **kwargs: Any):
        return T.cast(input, 'float16')


class WeightLayer(Layer):
    """A weight ``NAME/weight``, multiplied by gain / sqrt(fan_in), a bias ``NAME/bias`` per map, an activation.

    Parameters
    ----------
    incoming : Layer
    shape : tuple of int
        Shape of the weight.
    num_units : int
        Number of feature maps or units.
    fan_in : int
        Number of inputs of each output.
    gain : float
        Sqrt(2) for layers followed by a rectifier.
    use_wscale : bool
        False: the factor is applied to the initial weights instead.
    activation, rounding : callable
    """

    def __init__(self, incoming, shape: tuple[int, ...], num_units: int, fan_in: int, gain: float = RELU_GAIN,
                 use_wscale: bool = True, activation: Callable = identity, rounding: Callable = unrounded,
                 **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        self.num_units = num_units
        self.nonlinearity = activation
        self.rounding = rounding
        self.use_wscale = use_wscale
        self.scale = np.float32(gain / np.sqrt(fan_in))
        self.weight = self.add_param(Normal(1.0 if use_wscale else float(self.scale)), shape, 'weight')
        self.bias = self.add_param(Constant(0.), (num_units,), 'bias', regularizable=False)
        # Single expressions, so that the gradients of several evaluations are added before them.
        self.scaled_weight = rounding(self.weight * self.scale if use_wscale else self.weight)
        self.rounded_bias = rounding(self.bias)

    def add_param(self, spec: Callable, shape: tuple[int, ...], name: str, **tags: bool):
        """Like Lasagne's method, but with the names of the 2018 release."""
        param = super().add_param(spec, shape, None, **tags)
        param.name = f'{self.name}/{name}'
        return param

    def activate(self, x):
        b = self.rounded_bias
        x = self.rounding(x) + (b.dimshuffle('x', 0, 'x', 'x') if x.ndim == 4 else b)
        return self.rounding(self.nonlinearity(self.rounding(x)))


class ConvLayer(WeightLayer):
    """Convolution with unflipped size x size filters, padded to keep the image size."""

    def __init__(self, incoming, num_units: int, size: int = 3, **kwargs: Any) -> None:
        channels = incoming.output_shape[1]
        super().__init__(incoming, (size, size, channels, num_units), num_units, size ** 2 * channels, **kwargs)
        self.pad = size // 2
        self.filters = self.scaled_weight.dimshuffle(3, 2, 0, 1)

    def get_output_shape_for(self, input_shape: tuple) -> tuple:
        return input_shape[0], self.num_units, *input_shape[2:]

    def get_output_for(self, input, **kwargs: Any):
        x = layers.as_type_of(self.weight, input)
        return self.activate(T.nnet.conv2d(x, self.filters, border_mode=(self.pad, self.pad), filter_flip=False))


class UpscaleConvLayer(WeightLayer):
    """Nearest-neighbour upscaling by 2, then a 3x3 convolution; `fused` determines the layout of the weight."""

    def __init__(self, incoming, num_units: int, fused: bool, **kwargs: Any) -> None:
        channels = incoming.output_shape[1]
        maps = (num_units, channels) if fused else (channels, num_units)
        super().__init__(incoming, (3, 3, *maps), num_units, 9 * channels, **kwargs)
        self.fused = fused
        self.filters = ops.upscale2x_filters(self.flipped())

    def flipped(self):
        """Filters (num_units, C, 3, 3) for a convolution that flips them."""
        if self.fused:      # The weight belongs to a transposed convolution, which is already flipped.
            return self.scaled_weight.dimshuffle(2, 3, 0, 1)
        return ops.flip_filters(self.scaled_weight.dimshuffle(3, 2, 0, 1))

    def get_output_shape_for(self, input_shape: tuple) -> tuple:
        n, _c, h, w = input_shape
        return n, self.num_units, 2 * h, 2 * w

    def get_output_for(self, input, **kwargs: Any):
        return self.activate(ops.upscale2x_conv2d(layers.as_type_of(self.weight, input), self.filters))


class ConvDownscaleLayer(WeightLayer):
    """3x3 convolution, average over 2x2 pixels, then bias and activation: one 4x4 convolution of stride 2."""

    taps_per_weight = 16 / 9

    def __init__(self, incoming, num_units: int, **kwargs: Any) -> None:
        channels = incoming.output_shape[1]
        super().__init__(incoming, (3, 3, channels, num_units), num_units, 9 * channels, **kwargs)
        # Each of these taps sums the filter taps that meet the same pixel of a 2x2 box.
        taps = ops.upscale2x_filters(self.scaled_weight.dimshuffle(3, 2, 0, 1)).dimshuffle(1, 0, 2, 3)
        self.filters = taps * np.float32(0.25)

    def get_output_shape_for(self, input_shape: tuple) -> tuple:
        n, _c, h, w = input_shape
        return n, self.num_units, h // 2, w // 2

    def get_output_for(self, input, **kwargs: Any):
        x = layers.as_type_of(self.weight, input)
        return self.activate(T.nnet.conv2d(x, self.filters, border_mode=(1, 1), subsample=(2, 2), filter_flip=False))


class DenseLayer(WeightLayer):
    """Dense layer; the input is flattened in the order C, H, W."""

    def __init__(self, incoming, num_units: int, **kwargs: Any) -> None:
        num_inputs = int(np.prod(incoming.output_shape[1:]))
        super().__init__(incoming, (num_inputs, num_units), num_units, num_inputs, **kwargs)

    def get_output_shape_for(self, input_shape: tuple) -> tuple:
        return input_shape[0], self.num_units

    def get_output_for(self, input, **kwargs: Any):
        return self.activate(T.dot(input.flatten(2), self.scaled_weight))


class DenseTo4x4Layer(WeightLayer):
    """Dense layer whose outputs are feature maps of 4x4 pixels, with one bias per map."""

    def __init__(self, incoming, num_units: int, gain: float, **kwargs: Any) -> None:
        num_inputs = incoming.output_shape[1]
        super().__init__(incoming, (num_inputs, num_units * 16), num_units, num_inputs, gain=gain, **kwargs)

    def get_output_shape_for(self, input_shape: tuple) -> tuple:
        return input_shape[0], self.num_units, 4, 4

    def get_output_for(self, input, **kwargs: Any):
        return self.activate(T.dot(input, self.scaled_weight).reshape((input.shape[0], self.num_units, 4, 4)))


class StridedImagesLayer(layers.Pool2DLayer):
    """Images at a lower lod, as in D of the first TensorFlow version: every 2^lod-th pixel.

    While `image_lod` fades in as the coarser of two, it is the 2x2 average of the finer one. `cur_lod` is a Theano
    shared scalar.
    """

    def __init__(self, incoming, cur_lod, image_lod: int, **kwargs: Any) -> None:
        super().__init__(incoming, 2 ** image_lod, image_lod=image_lod, **kwargs)
        self.cur_lod, self.own_lod = cur_lod, image_lod

    def get_output_for(self, input, image_lod: int = 0, **kwargs: Any):
        halvings = self.own_lod - min(image_lod, self.own_lod)
        if not halvings:
            return input
        finer = input[:, :, ::2 ** (halvings - 1), ::2 ** (halvings - 1)]
        return T.switch(T.ge(self.cur_lod, self.own_lod), finer[:, :, ::2, ::2], ops.downscale2d(finer, 2))


class GroupStdConcatLayer(Layer):
    """Minibatch standard deviation within groups, appended as one feature map.

    The N samples form M = N / min(group_size, N) groups; sample n belongs to group n mod M. N must be a multiple of the
    group size, or smaller.
    """

    def __init__(self, incoming, group_size: int, **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        self.group_size = group_size

    def get_output_shape_for(self, input_shape: tuple) -> tuple:
        return input_shape[0], input_shape[1] + 1, *input_shape[2:]

    def get_output_for(self, input, **kwargs: Any):
        n, c, h, w = [input.shape[i] for i in range(4)]
        size = T.minimum(n, self.group_size)
        is_whole = T.opt.Assert(f'mbstd_group_size={self.group_size}: the minibatch size must be a multiple of it, or '
                                'smaller')
        num_groups = is_whole(n // size, T.eq(n % size, 0))
        groups = input.reshape((size, num_groups, c, h, w))
        std = T.mean(layers.Tstdeps(groups, axis=0)[0], axis=(1, 2, 3))         # One number per group.
        std = T.alloc(std.dimshuffle('x', 0, 'x', 'x', 'x'), size, num_groups, 1, h, w).reshape((n, 1, h, w))
        return T.concatenate([input, std], axis=1)


# ----------------------------------------------------------------------------------------------------------------------
# Networks.


def _rounding(dtype):
    if dtype not in ('float32', 'float16'):
        raise UserError(f"dtype={dtype!r}: use 'float32' or 'float16'")
    return as_float16 if dtype == 'float16' else unrounded


def _rounded(layer, rounding, pixelnorm_epsilon=None):
    """Add pixelwise normalization to `layer`, if requested, and round."""
    if pixelnorm_epsilon is not None:
        layer = layers.PixelNormLayer(layer, pixelnorm_epsilon, name=layer.name.rpartition('/')[0] + '/PixelNorm')
    return layer if rounding is unrounded else RoundLayer(layer, rounding, name=layer.name + '/Round')


def _shrunk_images(images, lod, cur_lod, image_shrinking):
    name = f'Downscale2D_lod{lod}'
    if image_shrinking == 'stride':
        return StridedImagesLayer(images, cur_lod, lod, name=name)
    return layers.Pool2DLayer(images, 2 ** lod, image_lod=lod, name=name)


def _lod_variable():
    return theano.shared(np.float32(0.0), name='lod')


def G_paper(
    num_channels: Literal[1, 3]          = 1,
    resolution: NetResolution            = 32,
    label_size: NonNegativeInt           = 0,
    fmap_base: Positive                  = 8192,       # See networks.py for the numbers of feature maps.
    fmap_decay: MapDecay                 = 1.0,
    fmap_max: Size                       = 512,
    latent_size: Size | None             = None,
    normalize_latents: bool              = True,       # Normalize [latents, labels] to the unit hypersphere.
    use_wscale: bool                     = True,
    use_pixelnorm: bool                  = True,
    pixelnorm_epsilon: Positive          = 1e-8,
    use_leakyrelu: bool                  = True,       # False: ReLU.
    dense_gain: Positive                 = RELU_GAIN / 4,   # Gain of the 4x4 layer; first TensorFlow version: sqrt(2).
    fused_scale: bool                    = True,       # Layout of the weights of the upscaling convolutions.
    dtype: Literal['float32', 'float16'] = 'float32',
    **_unknown,
) -> dict:
    """The generator: latents (N, latent_size), labels (N, label_size) -> images (N, C, resolution, resolution)."""
    maps = FeatureMaps(resolution, fmap_base, fmap_decay, fmap_max)
    cur_lod, rounding = _lod_variable(), _rounding(dtype)
    options = dict(use_wscale=use_wscale, rounding=rounding)
    hidden = dict(options, activation=layers.LeakyRectify(0.2) if use_leakyrelu else layers.rectify)
    epsilon = pixelnorm_epsilon if use_pixelnorm else None

    latents = InputLayer((None, maps(0) if latent_size is None else latent_size), name='latents_in')
    labels = InputLayer((None, label_size), name='labels_in')
    layer = ConcatLayer([latents, labels], name='4x4/Concat') if label_size else latents
    layer = _rounded(layer, rounding)
    layer = _rounded(layer, rounding, pixelnorm_epsilon if normalize_latents else None)
    layer = _rounded(DenseTo4x4Layer(layer, maps(1), dense_gain, name='4x4/Dense', **hidden), rounding, epsilon)
    layer = _rounded(ConvLayer(layer, maps(1), name='4x4/Conv', **hidden), rounding, epsilon)
    stages = [layer]
    for stage in range(2, maps.last_stage + 1):
        block = f'{2 ** (stage + 1)}x{2 ** (stage + 1)}/'
        layer = UpscaleConvLayer(layer, maps(stage), fused_scale, name=block + ('Conv0_up' if fused_scale else 'Conv0'),
                                 **hidden)
        layer = _rounded(layer, rounding, epsilon)
        layer = _rounded(ConvLayer(layer, maps(stage), name=block + 'Conv1', **hidden), rounding, epsilon)
        stages.append(layer)

    images = [ConvLayer(layer, num_channels, 1, gain=1.0, name=f'ToRGB_lod{lod}', **options)
              for lod, layer in enumerate(reversed(stages))]
    output = layers.LODSelectLayer(images, cur_lod, name='images_out')
    if dtype == 'float16':
        output = Float16Layer(output, name='images_out')
    return dict(input_layers=[latents, labels], output_layers=[output], cur_lod=cur_lod)


def D_paper(
    num_channels: Literal[1, 3]          = 1,
    resolution: NetResolution            = 32,
    label_size: NonNegativeInt           = 0,
    fmap_base: Positive                  = 8192,
    fmap_decay: MapDecay                 = 1.0,
    fmap_max: Size                       = 512,
    use_wscale: bool                     = True,
    mbstd_group_size: NonNegativeInt     = 4,          # Samples per group of the minibatch deviation; 0, 1: off.
    image_shrinking: Literal['average', 'stride'] = 'average',     # 'stride': first TensorFlow version.
    fused_scale: bool                    = True,       # Average before bias and activation, not after.
    dtype: Literal['float32', 'float16'] = 'float32',
    **_unknown,
) -> dict:
    """The discriminator: images (N, C, resolution, resolution) -> scores (N, 1), label logits (N, label_size)."""
    maps = FeatureMaps(resolution, fmap_base, fmap_decay, fmap_max)
    cur_lod, rounding = _lod_variable(), _rounding(dtype)
    options = dict(use_wscale=use_wscale, rounding=rounding)
    hidden = dict(options, activation=layers.LeakyRectify(0.2))

    last = maps.last_stage
    images = InputLayer((None, num_channels, resolution, resolution), name='images_in')
    layer = ConvLayer(_rounded(images, rounding), maps(last), 1, name='FromRGB_lod0', **hidden)
    for stage in range(last, 1, -1):
        block, lod = f'{2 ** (stage + 1)}x{2 ** (stage + 1)}/', last - stage
        layer = ConvLayer(layer, maps(stage), name=block + 'Conv0', **hidden)
        if fused_scale:
            layer = ConvDownscaleLayer(layer, maps(stage - 1), name=block + 'Conv1_down', **hidden)
        else:
            layer = ConvLayer(layer, maps(stage - 1), name=block + 'Conv1', **hidden)
            layer = _rounded(layers.Pool2DLayer(layer, name=block + 'Downscale2D'), rounding)
        shrunk = _shrunk_images(images, lod + 1, cur_lod, image_shrinking)
        coarser = ConvLayer(_rounded(shrunk, rounding), maps(stage - 1), 1, name=f'FromRGB_lod{lod + 1}', **hidden)
        layer = layers.LODSelectLayer([layer, coarser], cur_lod, first_incoming_lod=lod, name=f'Grow_lod{lod}')
        layer = _rounded(layer, rounding)

    if mbstd_group_size > 1:
        layer = _rounded(GroupStdConcatLayer(layer, mbstd_group_size, name='4x4/MinibatchStddev'), rounding)
    layer = ConvLayer(layer, maps(1), name='4x4/Conv', **hidden)
    layer = DenseLayer(layer, maps(0), name='4x4/Dense0', **hidden)
    layer = DenseLayer(layer, 1 + label_size, gain=1.0, name='4x4/Dense1', **options)
    if dtype == 'float16':
        layer = Float16Layer(layer, name='4x4/Float16')
    outputs = [SliceLayer(layer, slice(0, 1), axis=1, name='scores_out'),
               SliceLayer(layer, slice(1, None), axis=1, name='labels_out')]
    return dict(input_layers=[images], output_layers=outputs, cur_lod=cur_lod)
