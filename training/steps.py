"""Compiles the training steps of D and G for a lod range as Theano functions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import theano_torch

import lasagne
import numpy as np
import theano
import theano.tensor as T
from theano.sandbox.rng_mrg import MRG_RandomStreams

import loss
from common.images import adjust_dynamic_range
from data.dataset import Dataset
from nets import layers, ops, updates
from nets.network import Network
from nets.ranks import SINGLE, mean_over_ranks, own_rows
from nets.variables import shape_of

DYNAMIC_RANGE_IMAGES = (0, 255)     # Range of the uint8 images in the dataset.
DYNAMIC_RANGE_NETS = (-1, 1)        # Range of the images between G and D.
MBDISC_INIT_IMAGES = 500            # Reals that initialize minibatch discrimination (Salimans et al. 2016).


class TrainingFunctions(NamedTuple):
    """Compiled steps for one lod range."""

    train_d: Callable       # (reals, real_labels, latents, fake_labels) -> G_loss, D_loss, real_scores, fake_scores
    train_g: Callable | None    # (latents, fake_labels) -> nothing; None when D's function updates G too
    streams: list           # Random streams of the functions, see `seed_streams`.
    variables: Sequence = ()    # Shared variables that only the functions update: Adam's, random streams.
    layer_rstates: Sequence = ()    # States of the layers' random streams after compiling, see `layer_streams`.


def compile_training_functions(
    G, D, Gs,               # Networks; Gs is the smoothed copy of G.
    schedule,               # Schedule: the functions are valid for its min_lod and max_lod.
    G_lrate, D_lrate,       # Shared float32 scalars: learning rates.
    G_smoothing,            # Decay of the moving average of G's weights per step.
    loss_kwargs,            # Arguments of loss.evaluate_loss.
    adam_kwargs,            # beta1, beta2, epsilon.
    separate_funcs,         # Compile one function per network, so that D can make several steps per step of G.
    dequantize_reals,       # Add uniform noise of one grey level to the real images.
    ranks = SINGLE,         # Ranks: the inputs are this rank's share of the minibatch.
    loss_scaling = (None, None),    # Exponents of D's and G's loss scaling, see updates.scaled.
    adam_states = (None, None),     # Optimizer states of D and G. None: new ones.
) -> TrainingFunctions:
    """Build and compile the D and G steps for the lod range ``[schedule.min_lod, schedule.max_lod]``.

    All images have the resolution of `min_lod`. Gradients and outputs are averaged over all ranks. Seed the random
    streams with :func:`seed_streams` before the first step.
    """
    # Float32 inputs even when theano.config.floatX is float64, as in the release.
    real_images = T.TensorType('uint8', (False,) * 4)('real_images')
    real_labels = T.TensorType('float32', (False,) * 2)('real_labels')
    latents = T.TensorType('float32', (False,) * 2)('latents')
    fake_labels = T.TensorType('float32', (False,) * 2)('fake_labels')

    layers_random = layer_streams(G, D)
    layers_drawn = [len(stream.state_updates) for stream in layers_random]
    reals, streams = T.cast(real_images, 'float32'), []
    if dequantize_reals:
        noise = MRG_RandomStreams()
        streams.append(noise)
        num, *image_shape = real_images.shape
        reals = reals + own_rows(
            lambda num: noise.uniform((num, *image_shape), -0.5, 0.5, dtype='float32'), num, ranks)
    reals = adjust_dynamic_range(reals, DYNAMIC_RANGE_IMAGES, DYNAMIC_RANGE_NETS)
    mixing = MRG_RandomStreams()
    streams.append(mixing)
    losses = loss.evaluate_loss(G, D, schedule.min_lod, schedule.max_lod, reals, real_labels, latents, fake_labels,
                                image_lod=schedule.min_lod, ranks=ranks, random=mixing, **loss_kwargs)
    outputs = [losses.G_loss, losses.D_loss, losses.real_scores_out, losses.fake_scores_out]

    d_grads, d_params = gradients(updates.scaled(losses.D_loss, loss_scaling[0]), D)
    g_grads, g_params = gradients(updates.scaled(losses.G_loss, loss_scaling[1]), G)
    sizes = {grad: shape_of(param).num_elements()
             for grad, param in zip(d_grads + g_grads, d_params + g_params, strict=True)}
    if separate_funcs:
        d_grads, outputs = mean_over_ranks(ranks, d_grads, outputs, sizes=sizes)
        g_grads, = mean_over_ranks(ranks, g_grads, sizes=sizes)
    else:
        d_grads, g_grads, outputs = mean_over_ranks(ranks, d_grads, g_grads, outputs, sizes=sizes)
    d_updates = updates.adam(d_grads, d_params, D_lrate, **adam_kwargs, loss_scaling=loss_scaling[0],
                             state=adam_states[0])
    g_updates = updates.adam(g_grads, g_params, G_lrate, **adam_kwargs, loss_scaling=loss_scaling[1],
                             state=adam_states[1])
    # Updates are simultaneous: as in the release, Gs averages the weights before this step.
    g_updates.update(Gs.setup_as_moving_average_of(G, beta=G_smoothing))

    # The order of `variables` must be the same in every process.
    outliving = {*loss_scaling, *(var for state in adam_states if state for var in state.variables())}
    outliving |= {var for net in (G, D, Gs) for var in net.vars.values()}
    variables = [var for var in [*d_updates, *g_updates] if var not in outliving]
    for stream, drawn in zip(layers_random + streams, layers_drawn + [0] * len(streams), strict=True):
        variables += [update[0] for update in stream.state_updates[drawn:]]

    inputs = [real_images, real_labels, latents, fake_labels]
    mode = theano_torch.float32_sums(theano.config.mode)
    train_g = None
    if separate_funcs:
        train_g = theano.function([latents, fake_labels], [], updates=g_updates, on_unused_input='ignore', mode=mode)
        train_g.trust_input = True      # Saves the check of every pair of shared variables for aliasing.
    else:
        d_updates.update(g_updates)
    train_d = theano.function(inputs, outputs, updates=d_updates, on_unused_input='ignore', mode=mode)
    train_d.trust_input = True
    return TrainingFunctions(train_d, train_g, streams, variables, [stream.rstate for stream in layers_random])


def layer_streams(*nets: Network) -> list:
    """The random streams of the layers of `nets`. Compiling the functions advances them."""
    return [value for net in nets for layer in lasagne.layers.get_all_layers(net.output_layers)
            for value in vars(layer).values() if isinstance(value, MRG_RandomStreams)]


def gradients(loss: Any, net: Network) -> tuple[list, list]:
    """(gradients, parameters) for the parameters of `net` that `loss` depends on."""
    params = list(net.trainables.values())
    grads = theano.grad(loss, params, disconnected_inputs='ignore', return_disconnected='None')
    connected = [(grad, param) for grad, param in zip(grads, params, strict=True) if grad is not None]
    return [grad for grad, _param in connected], [param for _grad, param in connected]


def seed_streams(functions: TrainingFunctions) -> None:
    """Seed the random streams of `functions` from Lasagne's generator, as the release did when compiling."""
    for stream in functions.streams:
        stream.seed(lasagne.random.get_rng().randint(1, 2147462579))


def process_reals(images: np.ndarray, lod: Any, min_lod, drange_data=DYNAMIC_RANGE_IMAGES,
                  drange_net=DYNAMIC_RANGE_NETS,
                  mirror_draws=None):
    """Prepare reals as the 2018 release does: full-size float images, faded between two resolutions.

    Only old scripts use this. Our training fades uint8 images while a minibatch is read, as the 2017 release does, and
    works at the current resolution.

    Parameters
    ----------
    images : expression, shape (N, C, H, W)
        Reals at the resolution of `min_lod`.
    lod : number or scalar expression
        Its fractional part is the weight of the averages over 2x2 pixels.
    min_lod : int
        floor(lod).
    drange_data, drange_net : (float, float)
        Dynamic range of `images` and of the result.
    mirror_draws : vector or None
        Uniform random numbers, one per image: images with 0.5 or more are mirrored.

    Returns
    -------
    expression, shape (N, C, 2^min_lod H, 2^min_lod W), float32
    """
    x = adjust_dynamic_range(T.cast(images, 'float32'), drange_data, drange_net)
    if mirror_draws is not None:
        x = T.switch(T.lt(mirror_draws, 0.5).dimshuffle(0, 'x', 'x', 'x'), x, x[:, :, :, ::-1])
    averages = ops.upscale2d(ops.downscale2d(x, 2), 2)
    x = x + (averages - x) * T.cast(lod - min_lod, 'float32')
    return ops.upscale2d(x, 2 ** min_lod)


def initialize_mbdisc(D: Network, dataset: Dataset, lod: float) -> None:
    """Initialize the minibatch discrimination of `D`, if any, with real images."""
    if not layers.has_mbdisc(D.output_layers):
        return
    print('Initializing minibatch discrimination...')
    reals, _labels = dataset.next_minibatch(MBDISC_INIT_IMAGES, lod)
    if 'cur_lod' in D.toplevel_params:
        D.toplevel_params['cur_lod'].set_value(np.float32(lod))
    reals = adjust_dynamic_range(reals.astype(np.float32), DYNAMIC_RANGE_IMAGES, DYNAMIC_RANGE_NETS)
    layers.initialize_mbdisc(D.input_layers[0], D.output_layers, reals)
