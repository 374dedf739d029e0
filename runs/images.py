"""Images of trained networks."""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.images import (
    save_image,
    save_image_grid,
)
from common.options import Classes, FileName, GridSize, PositiveInt, Run, Seeds, Snapshot, Zoom, checked
from nets.network import Network, random_latents
from nets.pickles import load_pkl
from runs.folder import locate_network_pkl

DYNAMIC_RANGE_NETS = (-1, 1)
MINIBATCH_PIXELS = 1 << 20          # Generated at once; a process that makes a 1024x1024 image takes 1 GB.


def load_generator(run: int | str, snapshot: int | str | None = None, net: str = 'Gs',
                   result_dir: str = 'results') -> Network:
    """A generator out of a network pickle.

    Parameters
    ----------
    run, snapshot, result_dir
        See `locate_network_pkl`.
    net : str
        ``'Gs'``: averaged weights. ``'G'``: those of the last step.
    """
    path = locate_network_pkl(run, snapshot, result_dir)
    if net not in ('G', 'Gs'):
        raise UserError(f"net={net!r}: use 'Gs' or 'G'")
    networks = load_pkl(path)
    if isinstance(networks, tuple) and len(networks) == 3:
        networks = networks[0 if net == 'G' else 2]
    if not isinstance(networks, Network) or len(networks.output_shape) != 4:
        raise UserError(f'{path}: holds no generator')
    return networks


def num_classes(G: Network) -> int:
    """Label columns of a generator, 0 of an unconditional one."""
    return G.input_shapes[1][1] if len(G.input_shapes) > 1 else 0


def one_hot(G: Network, classes: Sequence[int]) -> np.ndarray:
    """(N, label_size) float32 labels for class indices; without columns for an unconditional generator."""
    size = num_classes(G)
    for index in classes:
        if not size:
            raise UserError(f'classes: {G.name} knows no classes, leave them out')
        if not 0 <= index < size:
            raise UserError(f'classes: there is no class {index}, {G.name} has 0 to {size - 1}')
    return np.eye(size, dtype=np.float32)[list(classes)]


def classes_in_turn(G: Network, classes: Sequence[int] | None, num: int) -> list[int]:
    """`num` class indices: those given, again and again; None: all of a conditional generator, [] of another one."""
    if not num_classes(G):
        if classes:
            one_hot(G, classes)     # Says that there are no classes.
        return []
    classes = list(range(num_classes(G))) if classes is None else list(classes)
    return [classes[index % len(classes)] for index in range(num)]


class DivergedNetwork(UserError):
    """A network makes NaN or infinity."""


def finite_images(G: Network, *inputs: np.ndarray, minibatch_size: int | None = None,
                  source: str | None = None) -> np.ndarray:
    """The images (N, C, H, W) of a generator as `Network.run` makes them with `out_dtype` uint8.

    Parameters
    ----------
    G : Network
    *inputs : arrays
        Latents and labels.
    minibatch_size : int, optional
        Images generated at a time. Default: all.
    source : str, optional
        Which network it is, for the error. Default: the file that it was read from.

    Raises
    ------
    DivergedNetwork
        There are numbers among the pixels that are not finite. As uint8 they would be black or white.
    """
    parts = []
    for begin in range(0, len(inputs[0]), minibatch_size or len(inputs[0])):
        rows = slice(begin, begin + (minibatch_size or len(inputs[0])))
        pixels = G.run(*[array[rows] for array in inputs], out_mul=127.5, out_add=127.5)
        if not np.isfinite(pixels).all():
            raise DivergedNetwork(f'{source or G.source or G.name}: this network makes images of NaN or infinity, as '
                                  'its training diverged; use an earlier snapshot')
        parts.append(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return np.concatenate(parts)


def generate(G: Network, latents: np.ndarray, labels: np.ndarray, desc: str,
             minibatch_size: int | None = None) -> Iterator[np.ndarray]:
    """Yield uint8 images (C, H, W) for latents (N, latent_size) and labels, with a progress bar."""
    minibatch_size = minibatch_size or int(np.clip(MINIBATCH_PIXELS // G.output_shape[-1] ** 2, 1, 64))
    with tqdm(total=len(latents), desc=desc, unit='image') as progress:
        for begin in range(0, len(latents), minibatch_size):
            rows = slice(begin, begin + minibatch_size)
            inputs = [latents[rows], labels[rows] if len(labels) else np.zeros((len(latents[rows]), 0))]
            images = finite_images(G, *inputs)
            progress.update(len(images))
            yield from images


@checked
def generate_fake_images(
    run_dir,                                         # Folder to write into.
    run: Run,                                        # Run or network pickle.
    snapshot: Snapshot | None          = None,       # Of a run: thousands of images. None = the latest.
    seeds: Seeds | None                = None,       # One random image each. None = enough to fill one grid, or 16.
    classes: Classes | None            = None,       # Class indices; each seed in each. None = one after the other.
    grid_size: GridSize | None         = None,       # (columns, rows): write grids. None = one file per image.
    image_zoom: Zoom                   = 1,          # Enlarge every pixel to so many.
    net: Literal['G', 'Gs']            = 'Gs',       # 'Gs' = averaged weights, 'G' = those of the last step.
    minibatch_size: PositiveInt | None = None,       # Images generated at once. None = by resolution.
    result_dir: FileName               = 'results',
) -> list[str]:
    """Write generated images as ``seedNNNN.png`` (``seedNNNN-classK.png``), or as grids ``gridNNN.png``.

    A seed stands for the latents ``RandomState(seed).randn(1, latent_size)``, whatever else is generated. Images come
    class by class, so a grid with as many columns as seeds has one row per class.

    Returns
    -------
    list of str
        The files.
    """
    G = load_generator(run, snapshot, net, result_dir)
    seeds = list(range(np.prod(grid_size or 16)) if seeds is None else seeds)
    if not seeds:
        raise UserError('seeds=[]: give at least one')
    if classes is None:
        in_turn: Sequence[int | None] = classes_in_turn(G, None, len(seeds)) or [None] * len(seeds)
        jobs = list(zip(seeds, in_turn, strict=True))
    else:
        one_hot(G, classes)
        jobs = [(seed, index) for index in classes for seed in seeds]
    latents = np.concatenate([random_latents(1, G, np.random.RandomState(seed)) for seed, _class in jobs])
    labels = one_hot(G, [index for _seed, index in jobs if index is not None])
    images = generate(G, latents, labels, 'Generating', minibatch_size)
    paths = []
    if grid_size is None:
        for image, (seed, index) in zip(images, jobs, strict=True):
            name = 'seed%04d%s.png' % (seed, '' if index is None else '-class%d' % index)
            paths.append(os.path.join(run_dir, name))
            save_image(zoomed(image, image_zoom), paths[-1], (0, 255))
    else:
        cells = int(np.prod(grid_size))
        for number in range(-(-len(jobs) // cells)):
            grid = np.stack(list(itertools.islice(images, cells)))
            paths.append(os.path.join(run_dir, f'grid{number:03d}.png'))
            save_image_grid(zoomed(grid, image_zoom), paths[-1], (0, 255), grid_size)
    print(f'Wrote {len(paths)} files to {run_dir}')
    return paths


def zoomed(images: np.ndarray, zoom: int) -> np.ndarray:
    """Images (..., H, W), each pixel enlarged to `zoom` x `zoom`."""
    return images if zoom == 1 else images.repeat(zoom, axis=-2).repeat(zoom, axis=-1)
