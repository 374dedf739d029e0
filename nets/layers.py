"""The layers of "Progressive Growing of GANs" (Karras et al. 2017, arXiv 1710.10196) as Lasagne layers.

Activations are (N, C, H, W). Lasagne 0.1 pads convolutions by hand and lacks nearest-neighbour upscaling and batch
normalization: all are here. The layers below use these keyword arguments of `lasagne.layers.get_output`:

================ =======================================================================================================
deterministic    False (default): training mode, with noise; batch norm uses and updates its statistics, see there
min_lod, max_lod floor and ceil of `cur_lod`, static ints: only these levels of detail are computed. None: all levels
image_lod        static int k, default 0: images enter and leave the network at resolution / 2^k instead of being
                 repeated to the full resolution; same values for less work. Requires min_lod >= k
ranks            Ranks: the minibatch is one rank's share; noise is drawn for all ranks
================ =======================================================================================================
"""

from typing import Any

import lasagne
import numpy as np
import theano
import theano.tensor as T
from lasagne.init import Constant, Normal
from lasagne.layers import Layer, MergeLayer
from lasagne.nonlinearities import identity
from theano.sandbox.rng_mrg import MRG_RandomStreams
from theano.tensor.signal.pool import pool_2d

from nets import ops
from nets.ranks import SINGLE, Ranks, own_rows
from nets.variables import shape_of

# ----------------------------------------------------------------------------------------------------------------------
# Activations.


class LeakyRectify(lasagne.nonlinearities.LeakyRectify):
    """Lasagne's leaky rectifier, computed by :class:`nets.ops.LeakyReLU`."""

    def __call__(self, x):
        return ops.leaky_relu(x, self.leakiness)


def rectify(x):
    """max(x, 0), computed by :class:`nets.ops.LeakyReLU`."""
    return ops.leaky_relu(x, 0.0)


# ----------------------------------------------------------------------------------------------------------------------
# Resampling.


def resize_activations(x, from_shape: tuple, to_shape: tuple):
    """Resize `x` from the static shape `from_shape` to `to_shape`, tuples (N or None, C, H, W).

    Extra channels are dropped, missing ones are zero; images are averaged down or repeated up by whole factors.
    """
    if to_shape[1] < from_shape[1]:
        x = x[:, :to_shape[1]]
    for axis_size, wanted in zip(from_shape[2:], to_shape[2:], strict=True):
        if axis_size % wanted and wanted % axis_size:
            raise ValueError(f'Cannot resize activations from {from_shape!r} to {to_shape!r}: sizes must be whole '
                             'multiples of each other')
    x = ops.downscale2d(x, max(from_shape[2] // to_shape[2], 1))
    x = ops.upscale2d(x, max(to_shape[2] // from_shape[2], 1))
    if to_shape[1] > from_shape[1]:
        zeros = T.zeros((x.shape[0], to_shape[1] - from_shape[1], x.shape[2], x.shape[3]), dtype=x.dtype)
        x = T.concatenate([x, zeros], axis=1)
    return x


class Upscale2DLayer(Layer):
    """Nearest-neighbour upscaling by `scale_factor`."""

    def __init__(self, incoming, scale_factor: int = 2, **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        self.scale_factor = scale_factor

    def get_output_shape_for(self, input_shape: tuple) -> tuple:
        n, c, h, w = input_shape
        return n, c, h * self.scale_factor, w * self.scale_factor

    def get_output_for(self, input, **kwargs: Any):
        return ops.upscale2d(input, self.scale_factor)


class Pool2DLayer(lasagne.layers.Pool2DLayer):
    """Pooling without overlap: the average (default) or maximum of pool_size x pool_size pixels.

    `image_lod` is given to a layer that pools the network's own images: it is the lod of the layer's output. If the
    images already have a lower resolution, the layer pools by a smaller factor.
    """

    def __init__(self, incoming, pool_size: int = 2, mode: str = 'average', image_lod: int | None = None,
                 **kwargs: Any) -> None:
        if mode not in ('average', 'max'):
            raise ValueError(f"Pool2DLayer mode={mode!r}: use 'average' or 'max'")
        super().__init__(incoming, pool_size, mode=mode, **kwargs)
        if mode == 'average' and any(size % pool_size for size in self.input_shape[2:]):
            raise ValueError('Pool2DLayer pool_size=%r: must divide the input size, which is %dx%d'
                             % ((pool_size,) + tuple(self.input_shape[2:])))
        self.image_lod = image_lod

    def get_output_for(self, input, image_lod: int = 0, **kwargs: Any):
        if self.mode == 'max':
            return pool_2d(input, ws=self.pool_size, ignore_border=True, mode='max')
        if self.image_lod is None:
            return ops.downscale2d(input, self.pool_size[0])
        # Images below the wanted resolution pass unchanged: no lod at or above image_lod uses them.
        return ops.downscale2d(input, self.pool_size[0] // 2 ** min(image_lod, self.image_lod))


class LODSelectLayer(MergeLayer):
    """Fade between levels of detail (section 2 and Figure 2 of the paper).

    Input i of `incomings` belongs to lod `first_incoming_lod` + i. The output has the shape of the first input. With
    static `min_lod` and `max_lod`, only the inputs of these lods are computed. Two neighbours are blended as
    ``(1 - t) * finer + t * coarser`` with t = clip(cur_lod - lod of the finer one, 0, 1).

    Parameters
    ----------
    incomings : list of Layer
        Finest first.
    cur_lod : Theano shared float32 scalar
    first_incoming_lod : int
    """

    def __init__(self, incomings, cur_lod, first_incoming_lod: int = 0, **kwargs: Any) -> None:
        super().__init__(incomings, **kwargs)
        self.cur_lod = cur_lod
        self.first_incoming_lod = first_incoming_lod

    def get_output_shape_for(self, input_shapes: list[tuple]) -> tuple:
        return input_shapes[0]

    def _index(self, lod):
        return int(np.clip(lod - self.first_incoming_lod, 0, len(self.input_shapes) - 1))

    def get_output_for(self, inputs, min_lod: int | None = None, max_lod: int | None = None, image_lod: int = 0,
                       **kwargs: Any):
        if image_lod and (min_lod is None or min_lod < image_lod):
            raise ValueError(f'image_lod={image_lod!r} needs min_lod >= image_lod, but min_lod={min_lod!r}: images at '
                             'a lower resolution than that of min_lod would lose detail')
        first = 0 if min_lod is None else self._index(min_lod)
        last = len(inputs) - 1 if max_lod is None else self._index(max_lod)
        # The inputs are images of lod 0, 1, ... in G; in D they all have the same shape.
        shape = self.input_shapes[self._index(image_lod)]
        output = resize_activations(inputs[first], self.input_shapes[first], shape)
        for i in range(first + 1, last + 1):
            t = T.clip(self.cur_lod - (self.first_incoming_lod + i - 1), 0, 1)
            output = output * (1 - t) + resize_activations(inputs[i], self.input_shapes[i], shape) * t
        return output


# ----------------------------------------------------------------------------------------------------------------------
# Weights.


def _per_channel(b):
    return b.dimshuffle('x', 0, 'x', 'x')


class _WeightLayer(Layer):
    """Base of layers with W, a bias per output channel (None after another layer took it over), a nonlinearity."""

    def __init__(self, incoming, num_units, W_shape, W, nonlinearity=None, **kwargs):
        super().__init__(incoming, **kwargs)
        self.num_units = num_units
        self.nonlinearity = identity if nonlinearity is None else nonlinearity
        self.W = self.add_param(W, W_shape, name='W')
        self.b = self.add_param(Constant(0.), (num_units,), name='b', regularizable=False)
        self._filters = {}

    def filters(self, form):
        """``form(W)``, always the same expression, so that the gradients of several evaluations are added before it."""
        if self._filters.get('W') is not self.W:
            self._filters = {'W': self.W}
        if form not in self._filters:
            self._filters[form] = form(self.W)
        return self._filters[form]

    def activate(self, x):
        return self.nonlinearity(x if self.b is None else x + _per_channel(self.b))


class Conv2DLayer(_WeightLayer):
    """2D convolution of stride 1 (filters flipped, as in Lasagne), padded by Theano.

    Parameters
    ----------
    incoming : Layer
    num_units, filter_size : int
        Number of feature maps, and size of the square filters. W is (num_units, C, filter_size, filter_size).
    pad : str or int
        ``'same'``, ``'full'``, ``'valid'`` or a number of pixels.
    """

    def __init__(self, incoming, num_units: int, filter_size: int, pad: str | int = 'same', **kwargs: Any) -> None:
        if pad == 'same' and filter_size % 2 == 0:
            raise ValueError(f"pad='same' needs an odd filter_size, not {filter_size!r}")
        self.filter_size = filter_size
        named_pads: dict[Any, int] = {'same': filter_size // 2, 'full': filter_size - 1, 'valid': 0}
        self.pad = named_pads.get(pad, pad)
        W_shape = (num_units, incoming.output_shape[1], filter_size, filter_size)
        super().__init__(incoming, num_units, W_shape, **kwargs)

    def get_output_shape_for(self, input_shape: tuple) -> tuple:
        h, w = [size + 2 * self.pad - self.filter_size + 1 for size in input_shape[2:]]
        return input_shape[0], self.num_units, h, w

    def get_output_for(self, input, **kwargs: Any):
        size = self.filter_size
        if self.input_shape[2:] == (1, 1) and self.pad == size - 1:
            # With a single input pixel this is a matrix product; a convolution would mostly multiply by zero.
            x = T.dot(input.flatten(2), self.filters(filters_to_outputs))
            return self.activate(x.reshape((-1, self.num_units, size, size)))
        if self.output_shape[2:] == (1, 1) and self.pad == 0:
            # With filters as large as the image, this is a matrix product, too.
            x = T.dot(input.flatten(2), self.filters(filters_to_inputs))
            return self.activate(x.dimshuffle(0, 1, 'x', 'x'))
        x = as_type_of(self.W, input)
        if size == 3 and self.pad == 1 and ops.is_upscaled(x, 2):
            return self.activate(ops.upscale2x_conv2d(x.owner.inputs[0], self.filters(ops.upscale2x_filters)))
        return self.activate(T.nnet.conv2d(x, self.filters(ops.flip_filters), border_mode=(self.pad, self.pad),
                                           filter_flip=False))


def filters_to_outputs(W):
    """W (K, C, height, width) as a matrix (C, K height width) that maps one pixel to all output pixels."""
    return W.dimshuffle(1, 0, 2, 3).flatten(2)


def filters_to_inputs(W):
    """W (K, C, height, width) as a matrix (C height width, K) that maps all input pixels to one."""
    return ops.flip_filters(W).flatten(2).T


class NINLayer(_WeightLayer):
    """1x1 convolution. W has the shape (C, num_units), as in Lasagne."""

    def __init__(self, incoming, num_units: int, **kwargs: Any) -> None:
        super().__init__(incoming, num_units, (incoming.output_shape[1], num_units), **kwargs)

    def get_output_shape_for(self, input_shape: tuple) -> tuple:
        return (input_shape[0], self.num_units) + tuple(input_shape[2:])

    def get_output_for(self, input, **kwargs: Any):
        return self.activate(T.nnet.conv2d(as_type_of(self.W, input), self.filters(filters_of_size_1),
                                           filter_flip=False))


def filters_of_size_1(W):
    """W (C, K) as filters (K, C, 1, 1)."""
    return W.dimshuffle(1, 0, 'x', 'x')


def as_type_of(W, x):
    """Cast `x` to the dtype of `W`. Training inputs are float32 even if floatX is float64, and convolutions do not mix
    dtypes."""
    return x if x.dtype == W.dtype else T.cast(x, W.dtype)


class ScaleLayer(Layer):
    """Multiply by a constant, stored per channel in the parameter `scales`, neither trainable nor regularizable."""

    def __init__(self, incoming, scale: float, **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        self.scales = self.add_param(Constant(scale), (self.input_shape[1],), name='scales', trainable=False,
                                     regularizable=False)

    def get_output_for(self, input, **kwargs: Any):
        return input * _per_channel(self.scales)


def _take_over(layer):
    """Remove the bias and the nonlinearity of `layer`, and return the nonlinearity."""
    nonlinearity = layer.nonlinearity
    layer.nonlinearity = identity
    if layer.b is not None:
        del layer.params[layer.b]
        layer.b = None
    return nonlinearity


class WScaleLayer(Layer):
    """Equalized learning rate (section 4.1): the layer below uses ``W * scale`` in place of its weights W.

    `scale` is the root mean square of the initial W, which is divided by it. This layer takes over the bias and the
    nonlinearity of the layer below.
    """

    def __init__(self, incoming, **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        W = incoming.W.get_value()
        scale = np.sqrt(np.mean(W ** 2))
        incoming.W.set_value(W / scale)
        self.scale = self.add_param(np.asarray(scale), (), name='scale', trainable=False)
        # Scaling W equals scaling the output, but avoids two passes over the activations.
        incoming.W = incoming.W * self.scale
        self.nonlinearity = _take_over(incoming)
        self.b = self.add_param(Constant(0.), (incoming.output_shape[1],), name='b', regularizable=False)

    def get_output_for(self, input, **kwargs: Any):
        if self.b is not None:
            input = input + (_per_channel(self.b) if input.ndim == 4 else self.b)
        return self.nonlinearity(input)


# ----------------------------------------------------------------------------------------------------------------------
# Normalization.


class PixelNormLayer(Layer):
    """Pixelwise feature vector normalization (section 4.2): ``x / sqrt(mean over C of x^2 + 1e-8)``."""

    def __init__(self, incoming, epsilon: float = 1e-8, **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        self.epsilon = epsilon

    def get_output_for(self, input, **kwargs: Any):
        # The dtype matters for float32 latents if floatX is float64.
        mean_square = T.mean(T.sqr(input), axis=1, dtype=theano.config.floatX, keepdims=True)
        return input / T.sqrt(mean_square + self.epsilon)


class LayerNormLayer(Layer):
    """Layer normalization over C, H, W of each sample, with a scalar gain and a bias per channel.

    Takes over the bias and the nonlinearity of the layer below (Ba et al. 2016; baseline (a) of Table 1).
    """

    def __init__(self, incoming, epsilon: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        self.epsilon = epsilon
        self.nonlinearity = _take_over(incoming)
        # Always float32, whatever floatX is, as in the 2017 release.
        self.gain = self.add_param(np.asarray(1.0, dtype='float32'), (), name='gain')
        self.b = self.add_param(Constant(0.), (self.input_shape[1],), name='b', regularizable=False)

    def get_output_for(self, input, **kwargs: Any):
        axes = tuple(range(1, input.ndim))
        centered = input - T.mean(input, axis=axes, keepdims=True)
        std = T.sqrt(T.mean(T.sqr(centered), axis=axes, keepdims=True) + self.epsilon)
        normalized = centered * (self.gain / std)
        return self.nonlinearity(normalized if self.b is None else normalized + _per_channel(self.b))


class BatchNormLayer(Layer):
    """Batch normalization over N, H, W (Ioffe and Szegedy 2015), as in Lasagne 0.2.

    The parameters are beta, gamma, mean, inv_std. By default, training mode normalizes by the minibatch's statistics
    and moves the running statistics by `alpha`, as default updates of the compiled function; deterministic mode uses
    the running statistics. Lasagne's argument ``batch_norm_use_averages`` overrides the choice of statistics.
    ``batch_norm_update_averages=False`` disables the updates: a function that evaluates the layer several times passes
    it in all evaluations but one. Deterministic evaluations never move the running statistics.
    """

    def __init__(self, incoming, epsilon: float = 1e-4, alpha: float = 0.1, **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        self.epsilon = epsilon
        self.alpha = alpha
        shape = (self.input_shape[1],)
        self.beta = self.add_param(Constant(0.), shape, name='beta', regularizable=False)
        self.gamma = self.add_param(Constant(1.), shape, name='gamma')
        statistic = dict(trainable=False, regularizable=False, batch_norm_stat=True)
        self.mean = self.add_param(Constant(0.), shape, name='mean', **statistic)
        self.inv_std = self.add_param(Constant(1.), shape, name='inv_std', **statistic)

    def get_output_for(self, input, deterministic: bool = False, batch_norm_use_averages: bool | None = None,
                       batch_norm_update_averages: bool = True, **kwargs: Any):
        mean, inv_std = self.mean, self.inv_std
        use_averages = deterministic if batch_norm_use_averages is None else batch_norm_use_averages
        if not use_averages:
            mean = T.mean(input, axis=(0, 2, 3))
            centered = input - _per_channel(mean)
            inv_std = T.inv(T.sqrt(T.mean(T.sqr(centered), axis=(0, 2, 3)) + self.epsilon))
        if not use_averages and not deterministic and batch_norm_update_averages:
            mean = mean + self._moving(self.mean, mean)
            inv_std = inv_std + self._moving(self.inv_std, inv_std)
        return (input - _per_channel(mean)) * _per_channel(self.gamma * inv_std) + _per_channel(self.beta)

    def _moving(self, param, value):
        """Return zeros that carry the default update to `value`, on a stand-in that shares the value of `param`.

        The parameter itself must not have a default update, because deterministic functions use it, too.
        """
        running = theano.clone(param, share_inputs=False)
        running.default_update = (1 - self.alpha) * running + self.alpha * value
        return 0 * running


def batch_norm(layer):
    """Insert batch normalization between `layer` and its nonlinearity; names as in Lasagne: ``_bn``, ``_bn_nonlin``."""
    nonlinearity = _take_over(layer)
    normalized = BatchNormLayer(layer, name=layer.name + '_bn')
    return lasagne.layers.NonlinearityLayer(normalized, nonlinearity, name=normalized.name + '_nonlin')


def has_batch_norm(output_layers: list) -> bool:
    """Whether there is a :class:`BatchNormLayer` among the layers below `output_layers`."""
    return any(isinstance(layer, BatchNormLayer) for layer in lasagne.layers.get_all_layers(output_layers))


# ----------------------------------------------------------------------------------------------------------------------
# Noise and minibatch statistics.


class GDropLayer(Layer):
    """Multiplicative noise per sample and channel (appendix A.1); the identity in deterministic mode.

    Parameters
    ----------
    incoming : Layer
    strength : Theano shared float32 scalar
    mode : str
        ``'prop'``: Gaussian of mean 1 and standard deviation strength * sqrt(C); ``'drop'``: dropout with probability
        strength; ``'mul'``: (1 + strength) ^ Gaussian.
    """

    def __init__(self, incoming, strength, mode: str = 'prop', **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        if mode not in ('prop', 'drop', 'mul'):
            raise ValueError(f"GDropLayer mode={mode!r}: use 'prop', 'drop' or 'mul'")
        self.strength = strength
        self.mode = mode
        self.random = MRG_RandomStreams(lasagne.random.get_rng().randint(1, 2147462579))

    def draw(self, size: tuple, dtype: str):
        if self.mode == 'drop':
            keep = 1 - self.strength
            return self.random.binomial(size, p=keep, dtype=dtype) / keep
        if self.mode == 'mul':
            return (1 + self.strength) ** self.random.normal(size, dtype=dtype)
        return 1 + self.random.normal(size, dtype=dtype) * (self.strength * self.input_shape[1] ** 0.5)

    def get_output_for(self, input, deterministic: bool = False, ranks: Ranks = SINGLE, **kwargs: Any):
        if deterministic:
            return input
        noise = own_rows(lambda num: self.draw((num, input.shape[1]), input.dtype), input.shape[0], ranks)
        return input * noise.reshape((input.shape[0], input.shape[1]) + (1,) * (input.ndim - 2))


def Tstdeps(x, axis: int | tuple[int, ...], epsilon: float = 1e-8):
    """Standard deviation along `axis` (broadcastable), with a finite gradient at zero: sqrt(variance + 1e-8)."""
    return T.sqrt(T.mean(T.sqr(x - T.mean(x, axis=axis, keepdims=True)), axis=axis, keepdims=True) + epsilon)


def Tstd(x, axis: int | tuple[int, ...]):
    """Standard deviation along `axis` (broadcastable)."""
    return Tstdeps(x, axis, epsilon=0.0)


class MinibatchStatConcatLayer(Layer):
    """Minibatch standard deviation (section 3): append statistics over the minibatch as constant feature maps.

    Parameters
    ----------
    incoming : Layer
    func : str
        ``'Tstdeps'`` (section 3, with an epsilon) or ``'Tstd'``.
    averaging : str
        The axes over which the statistic over N of each activation is averaged: ``'all'`` all axes (one map, the
        paper's choice), ``'spatial'`` H and W (C maps), ``'none'`` no axes (C maps), ``'groupG'`` H, W and C / G
        channels (G maps). ``'gpool'`` computes the statistic over N, H, W (C maps), ``'flat'`` over all axes (one map).
    num_parts : int
        The minibatch is divided into this many equal consecutive parts, each with its own statistic; its size must be
        a multiple. 1: one statistic, as in the 2017 release; N: like data-parallel training on N ranks.
    """

    FUNCS = {'Tstdeps': Tstdeps, 'Tstd': Tstd}

    def __init__(self, incoming, func: str = 'Tstdeps', averaging: str = 'all', num_parts: int = 1,
                 **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        if not isinstance(num_parts, int) or num_parts < 1:
            raise ValueError(f'MinibatchStatConcatLayer num_parts={num_parts!r}: use 1 for the whole minibatch, or a '
                             'divisor of its size')
        channels = self.input_shape[1]
        maps = {'all': 1, 'flat': 1, 'spatial': channels, 'none': channels, 'gpool': channels}
        if averaging not in maps:
            groups = averaging[len('group'):] if str(averaging).startswith('group') else ''
            if not groups.isdigit() or int(groups) < 1 or channels % int(groups):
                raise ValueError(f'MinibatchStatConcatLayer averaging={averaging!r}: use one of {", ".join(maps)}, or '
                                 f'groupG where G divides the {channels} channels')
            maps[averaging] = int(groups)
        if func not in self.FUNCS:
            raise ValueError(f'MinibatchStatConcatLayer func={func!r}: use one of {", ".join(self.FUNCS)}')
        self.func = self.FUNCS[func]
        self.averaging = averaging
        self.num_parts = num_parts
        self.num_maps = maps[averaging]

    def get_output_shape_for(self, input_shape: tuple) -> tuple:
        return (input_shape[0], input_shape[1] + self.num_maps) + tuple(input_shape[2:])

    def statistic(self, x):
        """Statistic of `x` (N, C, H, W): (1, num_maps, 1 or H, 1 or W)."""
        if self.averaging == 'flat':
            return self.func(x, axis=(0, 1, 2, 3))
        if self.averaging == 'gpool':
            return self.func(x, axis=(0, 2, 3))
        per_activation = self.func(x, axis=0)
        if self.averaging == 'none':
            return per_activation
        if self.averaging == 'all':
            return T.mean(per_activation, axis=(1, 2, 3), keepdims=True)
        per_channel = T.mean(per_activation, axis=(2, 3), keepdims=True)
        if self.averaging == 'spatial':
            return per_channel
        groups = per_channel.reshape((self.num_maps, self.input_shape[1] // self.num_maps))
        return T.mean(groups, axis=1).dimshuffle('x', 0, 'x', 'x')

    def get_output_for(self, input, **kwargs: Any):
        n, _c, h, w = [input.shape[i] for i in range(4)]
        if self.num_parts == 1:
            maps = T.alloc(self.statistic(input), n, self.num_maps, h, w)
        else:
            is_whole = T.opt.Assert(f'mbstat_groups={self.num_parts}: must divide the size of the minibatch')
            size = is_whole(n // self.num_parts, T.eq(n % self.num_parts, 0))
            parts = [input[i * size:(i + 1) * size] for i in range(self.num_parts)]
            maps = T.concatenate([T.alloc(self.statistic(part), size, self.num_maps, h, w) for part in parts])
        return T.concatenate([input, maps], axis=1)


class MinibatchLayer(Layer):
    """Minibatch discrimination (Salimans et al. 2016, section 3.2), row e* of Table 1.

    Appends `num_kernels` features to the flattened input. Weights are normalized per output. :func:`initialize_mbdisc`
    sets their scale and the bias from the activations of real images.
    """

    def __init__(self, incoming, num_kernels: int, dim_per_kernel: int = 5, **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        self.num_kernels = num_kernels
        self.num_inputs = int(np.prod(self.input_shape[1:]))
        self.theta = self.add_param(Normal(0.05), (self.num_inputs, num_kernels, dim_per_kernel), name='theta')
        self.log_weight_scale = self.add_param(Constant(0.), (num_kernels, dim_per_kernel), name='log_weight_scale')
        self.b = self.add_param(Constant(-1.), (num_kernels,), name='b')

    def get_output_shape_for(self, input_shape: tuple) -> tuple:
        return input_shape[0], self.num_inputs + self.num_kernels

    def distances(self, x):
        """L1 distances (N, num_kernels, N) between the samples of `x` (N, num_inputs); huge on the diagonal."""
        W = self.theta * (T.exp(self.log_weight_scale) / T.sqrt(T.sum(T.sqr(self.theta), axis=0)))
        projected = T.dot(x, W.flatten(2)).reshape((x.shape[0],) + shape_of(self.theta)[1:])
        differences = projected.dimshuffle(0, 1, 2, 'x') - projected.dimshuffle('x', 1, 2, 0)
        return T.sum(abs(differences), axis=2) + 1e6 * T.eye(x.shape[0], dtype=x.dtype).dimshuffle(0, 'x', 1)

    def get_output_for(self, input, **kwargs: Any):
        x = input.flatten(2)
        return T.concatenate([x, T.sum(T.exp(-self.distances(x)), axis=2) + self.b], axis=1)

    def initial_values(self, input) -> list[tuple]:
        """(parameter, expression) pairs: the mean distance to the nearest sample becomes 2, the mean feature 0."""
        distances = self.distances(input.flatten(2))
        nearest = 0.5 * T.mean(T.min(distances, axis=2), axis=0)
        features = T.sum(T.exp(-distances / nearest.dimshuffle('x', 0, 'x')), axis=2)
        return [(self.log_weight_scale, self.log_weight_scale - T.log(nearest).dimshuffle(0, 'x')),
                (self.b, -T.mean(features, axis=0))]


def has_mbdisc(output_layers: list) -> bool:
    """Whether there is a :class:`MinibatchLayer` among the layers below `output_layers`."""
    return any(isinstance(layer, MinibatchLayer) for layer in lasagne.layers.get_all_layers(output_layers))


def initialize_mbdisc(input_layer, output_layers: list, images: np.ndarray, **kwargs: Any) -> None:
    """Data-dependent initialisation of every :class:`MinibatchLayer` below `output_layers`, in training mode.

    Parameters
    ----------
    input_layer, output_layers : Layer, list of Layer
        Layers of the discriminator.
    images : array (N, C, H, W) float32
        Real images; the 2017 release uses 500.
    **kwargs
        Passed to `lasagne.layers.get_output`: min_lod, max_lod, image_lod.
    """
    variable = T.TensorType(images.dtype, (False,) * 4)('images')
    layers = [layer for layer in lasagne.layers.get_all_layers(output_layers) if isinstance(layer, MinibatchLayer)]
    inputs = lasagne.layers.get_output([layer.input_layer for layer in layers], {input_layer: variable},
                                       deterministic=False, **kwargs)
    updates = [pair for layer, x in zip(layers, inputs, strict=True) for pair in layer.initial_values(x)]
    theano.function([variable], [], updates=updates)(images)
