"""Generate images with trained networks and write them as files or grids."""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from PIL import Image

from common.class_names import ClassChoice, class_number, read_class_names
from common.console import Progress
from common.errors import UserError
from common.images import (
    convert_to_pil_image,
    create_image_grid,
    save_image,
    save_pil_image,
    with_row_titles,
    zoom_to_see,
    zoomed,
)
from common.options import BatchNorm, Classes, FileName, GridSize, PositiveInt, Run, Seeds, Snapshot, Zoom, checked
from nets.network import Network, random_latents
from nets.pickles import is_generator, load_pkl, pick
from runs.folder import locate_network_pkl

DYNAMIC_RANGE_NETS = (-1, 1)
MINIBATCH_PIXELS = 1 << 20          # Pixels generated at once; a process that makes a 1024x1024 image takes 1 GB.


def load_generator(run: int | str, snapshot: int | str | None = None, net: str = 'Gs',
                   result_dir: str = 'results') -> Network:
    """Load a generator from a network pickle.

    Parameters
    ----------
    run, snapshot, result_dir
        See `locate_network_pkl`.
    net : str
        ``'Gs'``: averaged weights. ``'G'``: the weights of the last step.

    Raises
    ------
    UserError
        There is no such pickle, or it has no such generator.
    """
    path = locate_network_pkl(run, snapshot, result_dir)
    if net not in ('G', 'Gs'):
        raise UserError(f"net={net!r}: use 'Gs' or 'G'")
    network = pick(load_pkl(path), net, path)
    if not is_generator(network):
        raise UserError(f'{path}: holds no generator, but a network of {network.func_name}; choose another pickle')
    return network


def num_classes(G: Network) -> int:
    """Number of classes of a generator; 0 if it is unconditional."""
    return G.input_shapes[1][1] if len(G.input_shapes) > 1 else 0


def class_names_of(G: Network) -> list[str] | None:
    """The class names of a generator, read from the folder of its pickle; None if unknown."""
    return read_class_names(os.path.dirname(G.source), num_classes(G)) if G.source else None


def class_numbers(G: Network, classes: Sequence[ClassChoice]) -> list[int]:
    """Numbers of the chosen classes, which are given by number or name."""
    size = num_classes(G)
    if len(classes) and not size:
        raise UserError(f'classes: {G.name} is unconditional; leave this option out')
    names = class_names_of(G) if any(isinstance(choice, str) for choice in classes) else None
    return [class_number(choice, names, size, G.name) for choice in classes]


def one_hot(G: Network, classes: Sequence[ClassChoice]) -> np.ndarray:
    """(N, label_size) float32 labels of classes; the label size is 0 for an unconditional generator."""
    return np.eye(num_classes(G), dtype=np.float32)[class_numbers(G, classes)]


def classes_in_turn(G: Network, classes: Sequence[ClassChoice] | None, num: int) -> list[int]:
    """`num` class numbers that cycle through `classes` (None: all); [] for an unconditional generator."""
    numbers = list(range(num_classes(G))) if classes is None else class_numbers(G, classes)
    return [numbers[index % len(numbers)] for index in range(num)] if numbers else []


class DivergedNetwork(UserError):
    """A network generates NaN or infinity."""


def finite_images(G: Network, *inputs: np.ndarray, minibatch_size: int | None = None,
                  source: str | None = None, batchnorm: BatchNorm = 'minibatch') -> np.ndarray:
    """Generate images (N, C, H, W), uint8, and check that all pixels are finite.

    Parameters
    ----------
    G : Network
    *inputs : arrays
        Latents and labels.
    minibatch_size : int, optional
        Number of images generated at once. Default: all.
    source : str, optional
        Name of the network for error messages. Default: the path of its pickle.
    batchnorm : str
        The statistics that batch norm uses, if the network has any. ``'minibatch'``: those of the images generated at
        once, as in the 2017 release; an image then depends on the others of its minibatch. ``'running'``: the averages
        of the training; images are independent. Neither changes the network.

    Raises
    ------
    DivergedNetwork
        Some pixels are not finite. As uint8 they would silently become black or white.
    """
    parts = []
    for begin in range(0, len(inputs[0]), minibatch_size or len(inputs[0])):
        rows = slice(begin, begin + (minibatch_size or len(inputs[0])))
        pixels = G.run(*[array[rows] for array in inputs], out_mul=127.5, out_add=127.5,
                       batch_norm_use_averages=batchnorm == 'running')
        if not np.isfinite(pixels).all():
            raise DivergedNetwork(f'{source or G.source or G.name}: this network makes images of NaN or infinity, as '
                                  'its training diverged; use an earlier snapshot')
        parts.append(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return np.concatenate(parts)


def generate(G: Network, latents: np.ndarray, labels: np.ndarray, desc: str,
             minibatch_size: int | None = None, batchnorm: BatchNorm = 'minibatch') -> Iterator[np.ndarray]:
    """Yield uint8 images (C, H, W) for latents (N, latent_size) and labels, with a progress bar.

    `minibatch_size` images are generated at once; by default, as many as have a million pixels, at most 64. For
    `batchnorm` see :func:`finite_images`.
    """
    minibatch_size = minibatch_size or int(np.clip(MINIBATCH_PIXELS // G.output_shape[-1] ** 2, 1, 64))
    with Progress(desc, len(latents)) as progress:
        for begin in range(0, len(latents), minibatch_size):
            rows = slice(begin, begin + minibatch_size)
            inputs = [latents[rows], labels[rows] if len(labels) else np.zeros((len(latents[rows]), 0))]
            images = finite_images(G, *inputs, batchnorm=batchnorm)
            progress.update(len(images))
            yield from images


@checked
def generate_fake_images(
    run_dir,                                         # Folder to write into.
    run: Run,                                        # Run or network pickle.
    snapshot: Snapshot | None          = None,       # Snapshot of the run, in kimg. None = the latest.
    seeds: Seeds | None                = None,       # One random image each. None = enough to fill one grid, or 16.
    classes: Classes | None            = None,       # Numbers or names; all seeds for each. None = cycle through all.
    grid_size: GridSize | None         = None,       # (columns, rows): write grids. None = one file per image.
    image_zoom: Zoom | None            = None,       # Enlarge every pixel. None = grids to about 1000 pixels.
    titles: bool                       = True,       # Name the class of each row of a grid with one class a row.
    net: Literal['G', 'Gs']            = 'Gs',       # 'Gs' = averaged weights, 'G' = weights of the last step.
    minibatch_size: PositiveInt | None = None,       # Images generated at once. None = by resolution.
    batchnorm: BatchNorm               = 'minibatch',    # Statistics: of the 'minibatch', or 'running' averages.
    result_dir: FileName               = 'results',
) -> list[str]:
    """Write generated images as ``seedNNNN.png`` (``seedNNNN-classK.png``), or as grids ``gridNNN.png``.

    A seed stands for the latents ``RandomState(seed).randn(1, latent_size)``. With ``batchnorm='minibatch'``, the image
    of a seed also depends on the other seeds. Images are ordered by class, so a grid with as many columns as seeds has
    one row per class; if the class names are known, they are written to the left of the rows. A grid ends with its last
    row that has images; its empty cells are white, and their number is printed.

    Returns
    -------
    list of str
        Paths of the files.
    """
    G = load_generator(run, snapshot, net, result_dir)
    cells = int(np.prod(grid_size or 16))
    if seeds is None:
        seeds = list(range(cells if classes is None or grid_size is None else max(cells // len(classes), 1)))
    if not seeds:
        raise UserError('seeds=[]: give at least one')
    if classes is None:
        in_turn: Sequence[int | None] = classes_in_turn(G, None, len(seeds)) or [None] * len(seeds)
        jobs = list(zip(seeds, in_turn, strict=True))
    else:
        jobs = [(seed, index) for index in class_numbers(G, classes) for seed in seeds]
    latents = np.concatenate([random_latents(1, G, np.random.RandomState(seed)) for seed, _class in jobs])
    labels = one_hot(G, [index for _seed, index in jobs if index is not None])
    images = generate(G, latents, labels, 'Generating', minibatch_size, batchnorm)
    paths = []
    if grid_size is None:
        for image, (seed, index) in zip(images, jobs, strict=True):
            name = 'seed%04d%s.png' % (seed, '' if index is None else '-class%d' % index)
            paths.append(os.path.join(run_dir, name))
            save_image(zoomed(image, image_zoom or 1), paths[-1], (0, 255))
        print(f'Wrote {paths[0]}' + (f' to {os.path.basename(paths[-1])}, {len(paths)} images' if paths[1:] else ''))
    else:
        for number in range(-(-len(jobs) // cells)):
            part = jobs[number * cells:(number + 1) * cells]
            picture = picture_of_grid(list(itertools.islice(images, cells)), grid_size[0], image_zoom)
            names = row_titles(G, [index for _seed, index in part], grid_size[0]) if titles else None
            paths.append(os.path.join(run_dir, f'grid{number:03d}.png'))
            save_pil_image(with_row_titles(picture, names) if names else picture, paths[-1])
            empty = f', {cells - len(part)} of {cells} cells are empty' if len(part) < cells else ''
            print(f'Wrote {paths[-1]}, {len(part)} images of {G.output_shape[-1]}x{G.output_shape[-1]}{empty}')
    return paths


def picture_of_grid(images: Sequence[np.ndarray], columns: int, zoom: int | None) -> Image.Image:
    """Arrange uint8 images (C, H, W) row by row; empty cells of the last row are white.

    If `zoom` is None, small images are enlarged to a visible size.
    """
    rows = -(-len(images) // columns)
    zoom = zoom or zoom_to_see(rows * images[0].shape[-2], columns * images[0].shape[-1])
    blanks = [np.full_like(images[0], 255)] * (columns * rows - len(images))
    grid = create_image_grid(np.stack([*images, *blanks]), (columns, rows))
    return convert_to_pil_image(zoomed(grid, zoom), (0, 255))


def row_titles(G: Network, classes: Sequence[int | None], columns: int) -> list[str] | None:
    """The class name of each row of a grid; None if names are unknown or a row has several classes."""
    names = class_names_of(G)
    rows = [set(classes[begin:begin + columns]) for begin in range(0, len(classes), columns)]
    if not names or any(len(row) > 1 or None in row for row in rows):
        return None
    return [names[number] for row in rows for number in row if number is not None]
