"""Project an image: find the latents whose generated image is nearest to it."""

import os
from typing import Literal

import theano_torch

import numpy as np
import theano
import theano.tensor as T

import theano_env
from common.arrays import save_array
from common.console import Progress
from common.errors import UserError
from common.images import (
    adjust_dynamic_range,
    convert_to_pil_image,
    save_pil_image,
)
from common.options import Classes, FileName, NonNegative, PositiveInt, Run, Seed, Snapshot, checked
from data.pictures import Mode, PictureError, as_array, read_picture
from nets import ops
from nets.network import Network, random_latents
from nets.tf_training import Optimizer
from runs.images import (
    DYNAMIC_RANGE_NETS,
    MINIBATCH_PIXELS,
    classes_in_turn,
    generate,
    load_generator,
    num_classes,
    one_hot,
)
from runs.videos import video_writer


def load_target(path: str, G: Network) -> np.ndarray:
    """Read an image file and resize its centre square to the output shape of `G`; (C, H, W) float32 in -1..1."""
    channels, resolution = G.output_shape[1], G.output_shape[-1]
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f'image={path!r}: is not a file; give a picture')
    mode: Mode = 'RGB' if channels == 3 else 'L'
    try:
        image, kind = read_picture(path, mode, 'center', resolution)
    except PictureError as error:
        raise UserError(f'image={path!r}: {error}') from error
    if channels == 1 and not kind.is_grey:
        print(f'{path}: converted to grey, as the network makes grey images')
    for warning in kind.warnings:
        print(f'Warning: {path}: {warning}')
    return adjust_dynamic_range(as_array(image), (0, 255), DYNAMIC_RANGE_NETS)


def pyramid_distance(images, target: np.ndarray):
    """(N,) mean squared differences of images (N, C, H, W) from an array (1, C, H, W), averaged over a pyramid.

    The levels of the pyramid are averages over boxes of 1, 2, 4, ... pixels, down to a size of 4x4, with equal weights:
    coarse levels lead the search, fine levels refine it. Values beyond white or black count as white or black, since
    picture files are clipped there.
    """
    lowest = np.where(target <= -1, 0, -np.inf).astype(np.float32)
    highest = np.where(target >= 1, 0, np.inf).astype(np.float32)
    difference, size, levels = T.clip(images - target, lowest, highest), target.shape[-1], []
    while size >= 4:
        levels.append(T.mean(T.sqr(difference), axis=(1, 2, 3)))
        difference, size = ops.downscale2d(difference, 2), size // 2
    return sum(levels) / len(levels)


class _Search:
    """Adam on a minibatch of latents of `G`, compiled once.

    The loss is :func:`pyramid_distance` plus a prior on the length of the latents: the mean square of normal latents
    with many components is close to 1.
    """

    def __init__(self, G, target, num_latents, prior_weight):
        self.latents = theano.shared(np.zeros((num_latents, G.input_shape[1]), np.float32), name='latents')
        self.labels = theano.shared(np.zeros((num_latents, num_classes(G)), np.float32), name='labels')
        self.learning_rate = theano.shared(np.float32(0), name='learning_rate')
        images = G.get_output_for(*[self.latents, self.labels][:G.num_inputs], deterministic=True, **G.present_lods())
        distances = pyramid_distance(T.cast(images, 'float32'), target[np.newaxis])
        prior = T.sqr(T.mean(T.sqr(self.latents), axis=1) - 1)
        self.optimizer = Optimizer('Projection', learning_rate=self.learning_rate, beta1=0.9, beta2=0.99,
                                   summaries=False)
        self.optimizer.register_gradients(T.sum(distances + prior_weight * prior), [self.latents])
        updates = self.optimizer.apply_updates()
        with theano_env.COMPILING:
            self.step = theano.function([], distances, updates=updates,
                                        mode=theano_torch.float32_sums(theano.config.mode))

    def run(self, latents, labels, num_steps, learning_rate, progress):
        """Search from `latents`; return (num_steps, N, latent_size) latents and (num_steps, N) distances."""
        self.latents.set_value(latents)
        self.labels.set_value(labels)
        self.optimizer.reset_optimizer_state()
        trace, distances = [], []
        for step in range(num_steps):
            self.learning_rate.set_value(np.float32(learning_rate * (0.5 + 0.5 * np.cos(np.pi * step / num_steps))))
            trace.append(self.latents.get_value())
            distances.append(np.asarray(self.step()))
            progress.note(f'distance {np.nanmin(distances):.5f}')
            progress.update()
        return np.stack(trace), np.stack(distances)


@checked
def project_image(
    run_dir,                                         # Folder to write into.
    run: Run,                                        # Run or network pickle.
    image: FileName,                                 # Image file; its centre square is used.
    snapshot: Snapshot | None          = None,       # Snapshot of the run, in kimg. None = the latest.
    num_steps: PositiveInt             = 300,        # Adam steps from each starting point.
    num_starts: PositiveInt | None     = None,       # Random starting points; None = 4, or one per class.
    learning_rate: NonNegative         = 0.3,        # Initial rate of Adam; it falls to zero along a cosine.
    prior_weight: NonNegative          = 0.01,       # Weight of the prior on the latents' length.
    classes: Classes | None            = None,       # Numbers or names of classes. None = cycle through all.
    video: bool                        = False,      # Also write a video of the search.
    random_seed: Seed                  = 1000,
    net: Literal['G', 'Gs']            = 'Gs',       # 'Gs' = averaged weights, 'G' = weights of the last step.
    minibatch_size: PositiveInt | None = None,       # Starting points searched at once. None = by resolution.
    result_dir: FileName               = 'results',
) -> tuple[np.ndarray, np.ndarray, float]:
    """Find the latents whose image is nearest to a given one.

    Writes ``projected-latents.npy`` (1, latent_size); for a conditional network, ``projected-labels.npy``
    (1, label_size); the given and the found image side by side, ``projected.png``; with `video`, the search,
    ``projected.mp4``.

    Batch norm uses its running averages, so that starting points searched at once do not depend on each other.

    Returns
    -------
    latents : ndarray, shape (1, latent_size), float32
    labels : ndarray, shape (1, label_size), float32
    distance : float
        See :func:`pyramid_distance`.
    """
    G = load_generator(run, snapshot, net, result_dir)
    if num_starts is None:
        num_starts = max(4, num_classes(G) if classes is None else len(classes))
    for name, value in (('num_steps', num_steps), ('num_starts', num_starts)):
        if value < 1:
            raise UserError(f'{name}={value!r}: must be at least 1')
    target = load_target(image, G)
    limit = minibatch_size or int(np.clip(MINIBATCH_PIXELS // G.output_shape[-1] ** 2, 1, 64))
    num_batches = -(-num_starts // limit)
    batch_size = -(-num_starts // num_batches)      # All batches have one size: only one function is compiled.
    starts = random_latents(num_batches * batch_size, G, np.random.RandomState(random_seed))
    labels = one_hot(G, classes_in_turn(G, classes, len(starts))).reshape(len(starts), -1)
    print('Compiling...')
    search = _Search(G, target, batch_size, prior_weight)
    best: tuple = (np.inf,)
    with Progress('Projecting', num_batches * num_steps, 'steps') as progress:
        for begin in range(0, len(starts), batch_size):
            rows = slice(begin, begin + batch_size)
            trace, distances = search.run(starts[rows], labels[rows], num_steps, learning_rate, progress)
            step, row = np.unravel_index(np.nanargmin(distances), distances.shape)
            if distances[step, row] < best[0]:
                best = float(distances[step, row]), trace[:step + 1, row], labels[begin + row:begin + row + 1]
    distance, way, label = best
    save_projection(run_dir, G, target, way, label, video)
    print(f'Distance {distance:.5f}; wrote the latents to {os.path.join(run_dir, "projected-latents.npy")}')
    return way[-1:], label, distance


def save_projection(run_dir: str, G: Network, target: np.ndarray, way: np.ndarray, label: np.ndarray, video: bool,
                    fps: int = 30) -> None:
    """Write the files of :func:`project_image`; `way` has the latents of all steps (steps, latent_size)."""
    arrays = {'latents': way[-1:], 'labels': label}
    for name, array in arrays.items():
        if array.shape[1]:
            save_array(os.path.join(run_dir, f'projected-{name}.npy'), array)
    target = np.rint(adjust_dynamic_range(target, DYNAMIC_RANGE_NETS, (0, 255))).astype(np.uint8)

    def beside_target(images):
        return (convert_to_pil_image(np.concatenate([target, image], axis=2), (0, 255)) for image in images)

    picture, = beside_target(generate(G, way[-1:], label, 'Generating', batchnorm='running'))
    save_pil_image(picture, os.path.join(run_dir, 'projected.png'))
    if video:
        with video_writer(os.path.join(run_dir, 'projected.mp4'), fps) as write:
            for frame in beside_target(generate(G, way, label.repeat(len(way), axis=0), 'Encoding',
                                                batchnorm='running')):
                write(frame)
