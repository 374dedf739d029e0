"""The losses of "Progressive Growing of GANs" (Karras et al. 2017): section 6.4 and appendices A, B, D."""

from typing import Literal, NamedTuple

import theano_torch  # noqa: F401  (makes Theano importable)

import lasagne
import theano
import theano.tensor as T
from theano.sandbox.rng_mrg import MRG_RandomStreams

from common.errors import UserError
from common.options import NonNegative, NonNegativeInt, Positive
from nets.ranks import SINGLE, own_rows

TYPES = ('iwass', 'lsgan')
COND_TYPES = ('acgan',)


class Losses(NamedTuple):
    """The results of :func:`evaluate_loss`: Theano expressions."""

    G_loss: object              # Scalar.
    D_loss: object              # Scalar.
    real_scores_out: object     # For reports: D's scores of the reals (N, 1); iwass: the constant 0.
    fake_scores_out: object     # For reports: D's scores of the fakes (N, 1); iwass: fake minus real.
    mixing_factors: object      # (N, 1, 1, 1) float32, uniform: weight of the fake in the images of iwass's penalty.


def evaluate_loss(
    G, D,                                       # Network.
    min_lod, max_lod,                           # floor and ceil of cur_lod: static ints that differ by at most 1.
    real_images,                                # (N, C, H, W) with H = W = resolution / 2^image_lod.
    real_labels,                                # (N, label_size) one-hot.
    fake_latents,                               # (N, latent_size)
    fake_labels,                                # (N, label_size) one-hot.
    type: Literal['iwass', 'lsgan'] = 'iwass',  # WGAN-GP (Gulrajani et al. 2017), or least squares; 0 means real.
    iwass_lambda: NonNegative       = 10.0,     # Weight of the gradient penalty.
    iwass_epsilon: NonNegative      = 0.001,    # Weight of the squared real scores, which limits their drift.
    iwass_target: Positive          = 1.0,      # Target norm of the gradient.
    L2_fake_weight: NonNegative     = 0.1,      # Weight of the fakes in D's least squares.
    cond_type: Literal['acgan']     = 'acgan',  # Loss of D's label outputs, if any: 'acgan' (Odena et al. 2016).
    cond_weight: NonNegative        = 1.0,
    image_lod: NonNegativeInt       = 0,        # Resolution of the images; min_lod needs the least computation.
    random                          = None,     # MRG_RandomStreams for mixing factors; default: seeded by Lasagne's.
    ranks                           = SINGLE,   # Data-parallel training: the images are the share of one rank.
) -> Losses:
    """Losses of both networks, evaluated in training mode.

    The values are the same for any `image_lod` up to `min_lod`: D uses its images only after average pooling, which
    does not change repeated pixels. A pixel at lod k stands for 4^k pixels, each with 1 / 4^k of its gradient;
    therefore iwass divides its gradient norm by 2^k.

    Returns
    -------
    Losses

    Raises
    ------
    UserError
        `type` or `cond_type` is unknown.
    """
    check_choices(type, cond_type)
    lods = dict(deterministic=False, min_lod=min_lod, max_lod=max_lod, image_lod=image_lod, ranks=ranks)

    fake_images = G.get_output_for(*[fake_latents, fake_labels][:len(G.input_layers)], **lods)
    # Batch norm in D updates its statistics in one evaluation only: of the mixed images if any, else of the reals.
    real_scores, *real_logits = _outputs(D, real_images, **lods, batch_norm_update_averages=type != 'iwass')
    fake_scores, *fake_logits = _outputs(D, fake_images, **lods, batch_norm_update_averages=False)

    # Seeded for every type, so that the number of draws from NumPy's generator is always the same.
    if random is None:
        random = MRG_RandomStreams(lasagne.random.get_rng().randint(1, 2147462579))
    mixing_factors = own_rows(lambda num: random.uniform((num, 1, 1, 1), dtype='float32'),
                              real_images.shape[0], ranks)

    if type == 'iwass':
        mixed_images = real_images * (1 - mixing_factors) + fake_images * mixing_factors
        mixed_scores = _outputs(D, mixed_images, **lods)[0]
        gradients = theano.grad(T.sum(mixed_scores), mixed_images)
        norms = T.sqrt(T.sum(T.sqr(gradients), axis=(1, 2, 3))) / 2 ** image_lod
        penalty = T.mean(T.sqr(norms - iwass_target)) * (iwass_lambda / iwass_target ** 2)
        G_loss = -T.mean(fake_scores)
        D_loss = T.mean(fake_scores) - T.mean(real_scores) + penalty + T.mean(T.sqr(real_scores)) * iwass_epsilon
        real_scores_out, fake_scores_out = T.constant(0), fake_scores - real_scores
    else:
        G_loss = T.mean(T.sqr(fake_scores))
        D_loss = T.mean(T.sqr(real_scores)) + T.mean(T.sqr(fake_scores - 1)) * L2_fake_weight
        real_scores_out, fake_scores_out = real_scores, fake_scores

    if real_logits:
        fake_entropy = cross_entropy(fake_logits[0], fake_labels)
        G_loss += fake_entropy * cond_weight
        D_loss += (cross_entropy(real_logits[0], real_labels) + fake_entropy) * cond_weight
    return Losses(G_loss, D_loss, real_scores_out, fake_scores_out, mixing_factors)


def _outputs(D, images, **kwargs):
    """Outputs of `D` with at least one column, not in float16; networks of the 2018 release may have empty labels."""
    outputs = D.get_output_for(images, return_as_list=True, **kwargs)
    outputs = [output for output, layer in zip(outputs, D.output_layers, strict=True) if layer.output_shape[1]]
    return [T.cast(output, 'float32') if output.dtype == 'float16' else output for output in outputs]


def cross_entropy(logits, labels):
    """Mean softmax cross-entropy of `logits` and one-hot `labels`, (N, label_size)."""
    shifted = logits - theano.gradient.disconnected_grad(T.max(logits, axis=1, keepdims=True))
    log_probs = shifted - T.log(T.sum(T.exp(shifted), axis=1, keepdims=True))
    return -T.mean(T.sum(labels * log_probs, axis=1))


def check_choices(type: str = 'iwass', cond_type: str = 'acgan') -> None:
    """Raise UserError unless :func:`evaluate_loss` supports `type` and `cond_type`."""
    for name, value, choices in (('type', type, TYPES), ('cond_type', cond_type, COND_TYPES)):
        if value not in choices:
            raise UserError(f'loss.{name}={value!r}: use {" or ".join(repr(choice) for choice in choices)}')
