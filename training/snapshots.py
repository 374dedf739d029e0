"""Pictures of fixed latents, and network snapshots."""

import os
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.files import save_pkl
from common.images import save_image_grid, snapshot_grid_size
from nets.network import random_latents
from runs.folder import NETWORK_SNAPSHOT
from training.steps import DYNAMIC_RANGE_NETS

SNAPSHOT_MINIBATCH = 32             # Images generated at once for a picture; with batch norm they influence each other.


class SnapshotGrid(NamedTuple):
    """The fixed latents whose images are saved again and again, and as many reals to compare them with."""

    size: tuple             # (columns, rows)
    reals: np.ndarray       # (N, C, H, W) uint8
    latents: np.ndarray     # (N, latent_size) float32
    labels: np.ndarray      # (N, label_size) float32


def setup_snapshot_grid(
    G, dataset,
    grid_size = None,       # (columns, rows); None = as many images as fit on a Full HD screen, or one row a class.
    grid_type = 'default',  # 'default': random reals. 'category': column k holds class k. 'category-rows': row k does.
):
    """Draw what :class:`SnapshotGrid` holds, from NumPy's global generator."""
    if grid_type == 'default':
        columns, rows = grid_size or snapshot_grid_size(*dataset.shape[1:])
        reals, labels = dataset.next_minibatch(columns * rows)
        latents = random_latents(columns * rows, G)
    elif grid_type in ('category', 'category-rows'):
        num_classes = dataset.label_size
        if not num_classes:
            raise UserError(f"train.image_grid_type={grid_type!r}: the dataset has no labels; use 'default'")
        columns, rows = grid_size or (num_classes, num_classes)
        latents = random_latents(columns * rows, G)
        indices = np.empty((rows, columns), dtype=np.int64)
        by_class = indices.T if grid_type == 'category' else indices    # A view: one class per row of it.
        for class_index, cells in enumerate(by_class):
            candidates = np.flatnonzero(dataset.labels[:, class_index % num_classes])
            for cell in range(len(cells)):
                cells[cell] = np.random.choice(candidates)
        reals, labels = dataset.get_images(indices.ravel())
    else:
        raise UserError(f"train.image_grid_type={grid_type!r}: use 'default', 'category' or 'category-rows'")
    return SnapshotGrid((columns, rows), reals, latents, labels)


def save_fakes(run_dir, cur_nimg, Gs, grid, zoom):
    """Save the images of the fixed latents as ``fakesNNNNNN.png``, NNNNNN in thousands of images; return the path.

    As in the release, Gs runs in training mode: batch norm uses and moves its statistics.
    """
    inputs = [grid.latents, grid.labels][:Gs.num_inputs]
    images = Gs.run(*inputs, minibatch_size=SNAPSHOT_MINIBATCH, deterministic=False)
    path = os.path.join(run_dir, f'fakes{cur_nimg // 1000:06d}.png')
    save_grid(path, images, DYNAMIC_RANGE_NETS, grid.size, zoom)
    return path


def save_grid(path, images, drange, grid_size, zoom):
    """Save images (N, C, H, W) as one picture, each pixel `zoom` times as large."""
    save_image_grid(images.repeat(zoom, axis=2).repeat(zoom, axis=3), path, drange, grid_size)


def save_networks(run_dir, cur_nimg, networks):
    """Save (G, D, Gs) as ``network-snapshot-NNNNNN.pkl``, NNNNNN in thousands of images."""
    save_pkl(networks, os.path.join(run_dir, NETWORK_SNAPSHOT % (cur_nimg // 1000)))
