"""Writes pictures of fixed latents, and network snapshots."""

import os
import sys
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError
from common.files import link_or_copy, save_pkl
from common.images import (
    class_grid_size,
    convert_to_pil_image,
    create_image_grid,
    save_pil_image,
    snapshot_grid_size,
)
from common.options import BatchNorm
from data.dataset import Dataset
from data.hdf5_format import labels_path
from nets.network import Network, random_latents
from nets.variables import shape_of
from runs.folder import FINAL_NETWORKS, NETWORK_SNAPSHOT, thin_out
from runs.records import best_snapshot
from training.divergence import check_weights
from training.event_file import EventFile
from training.steps import DYNAMIC_RANGE_IMAGES, DYNAMIC_RANGE_NETS

SNAPSHOT_MINIBATCH = 32             # Images generated at a time; with batch norm, they influence each other.


class SnapshotGrid(NamedTuple):
    """The fixed latents and labels of the saved image grids, and as many reals for comparison."""

    size: tuple             # (columns, rows)
    reals: np.ndarray       # (N, C, H, W) uint8
    latents: np.ndarray     # (N, latent_size) float32
    labels: np.ndarray      # (N, label_size) float32


def setup_snapshot_grid(
    G: Network, dataset: Dataset,
    grid_size = None,       # (columns, rows); None = as many as fit on a Full HD screen, or see class_grid_size.
    grid_type = 'default',  # 'default': random reals; 'category': class k in column k; 'category-rows': in row k.
) -> SnapshotGrid:
    """Draw a :class:`SnapshotGrid` with NumPy's global generator."""
    if grid_type == 'default':
        columns, rows = grid_size or snapshot_grid_size(*dataset.shape[1:])
        reals, labels = dataset.next_minibatch(columns * rows)
        latents = random_latents(columns * rows, G)
    elif grid_type in ('category', 'category-rows'):
        num_classes = dataset.label_size
        if not num_classes:
            raise UserError(f"train.image_grid_type={grid_type!r}: the dataset has no labels; add "
                            f"{labels_path(dataset.h5_path)}, or use 'default'")
        columns, rows = grid_size or class_grid_size(num_classes, *dataset.shape[1:], grid_type == 'category-rows')
        latents = random_latents(columns * rows, G)
        indices = np.empty((rows, columns), dtype=np.int64)
        by_class = indices.T if grid_type == 'category' else indices    # A view with one class per row.
        classes = np.empty_like(indices)
        (classes.T if grid_type == 'category' else classes)[:] = (np.arange(len(by_class)) % num_classes)[:, np.newaxis]
        for class_index, cells in enumerate(by_class):
            candidates = np.flatnonzero(dataset.labels[:, class_index % num_classes])
            for cell in range(len(cells)):
                cells[cell] = np.random.choice(candidates) if len(candidates) else 0
        reals, labels = dataset.get_images(indices.ravel())
        empty = ~dataset.labels.any(axis=0)[classes.ravel()]
        reals[empty] = 0
        labels[empty] = np.eye(num_classes, dtype=labels.dtype)[classes.ravel()[empty]]
    else:
        raise UserError(f"train.image_grid_type={grid_type!r}: use 'default', 'category' or 'category-rows'")
    return SnapshotGrid((columns, rows), reals, latents, labels)


class SnapshotWriter:
    """Writes pictures and networks of a training into its run folder.

    Parameters
    ----------
    run_dir : str
    events : EventFile
        Also gets the pictures.
    networks : dict
        'G', 'D' and 'Gs'.
    grid : SnapshotGrid
    zoom : int
        Integer factor by which the pictures are enlarged.
    batchnorm : str
        ``'minibatch'``: batch norm uses the statistics of the generated images and updates its averages with them, as
        in the 2017 release. ``'running'``: it uses the averages of the training.
    """

    def __init__(self, run_dir: str, events: EventFile, networks: dict[str, Network], grid: SnapshotGrid,
                 zoom: int, batchnorm: BatchNorm = 'minibatch') -> None:
        self.batchnorm = batchnorm
        self.run_dir, self.events, self.networks, self.grid, self.zoom = run_dir, events, networks, grid, zoom
        self.fakes_nimg: int | None = None      # Real images shown before the last picture of fakes.

    def has_fakes(self, cur_nimg: int) -> bool:
        """Whether the fakes of the current networks are saved."""
        return self.fakes_nimg == cur_nimg

    def save_reals(self) -> None:
        """Save the reals as ``reals.png``."""
        self.events.picture(0, 'Images/reals', self._save_grid('reals.png', self.grid.reals, DYNAMIC_RANGE_IMAGES))

    def save_fakes(self, cur_nimg: int) -> None:
        """Save the images of the fixed latents as ``fakesNNNNNN.png``, NNNNNN in thousands of images.

        Gs runs in training mode unless `batchnorm` is 'running'.
        """
        Gs = self.networks['Gs']
        inputs = [self.grid.latents, self.grid.labels][:Gs.num_inputs]
        images = Gs.run(*inputs, minibatch_size=SNAPSHOT_MINIBATCH, deterministic=self.batchnorm == 'running')
        self.fakes_nimg = cur_nimg
        name = f'fakes{cur_nimg // 1000:06d}.png'
        if not np.isfinite(images).all():
            print(f'warning: {name} is not written: the generator produces NaN or infinity', file=sys.stdout)
            return
        picture = self._save_grid(name, images, DYNAMIC_RANGE_NETS)
        self.events.picture(cur_nimg, 'Images/fakes', picture)

    def save_networks(self, cur_nimg: int, keep: int | None = None, ticks: int = 1) -> None:
        """Save (G, D, Gs) as ``network-snapshot-NNNNNN.pkl``, NNNNNN in thousands of images.

        With `keep`, some earlier snapshots are deleted, see `runs.folder.thin_out`; `ticks` is the interval between
        snapshots.
        """
        self._save_networks(NETWORK_SNAPSHOT % (cur_nimg // 1000))
        if keep is not None:
            thin_out(self.run_dir, keep, ticks)

    def save_final(self) -> None:
        """Save (G, D, Gs) as ``network-final.pkl``."""
        self._save_networks(FINAL_NETWORKS)

    def number_final(self, cur_nimg: int, keep: int | None = None, ticks: int = 1) -> None:
        """Make ``network-final.pkl`` the last numbered snapshot as well. For the parameters see `save_networks`."""
        link_final(self.run_dir, cur_nimg / 1000)
        if keep is not None:
            thin_out(self.run_dir, keep, ticks)

    def megabytes(self) -> int:
        """Approximate size of a network pickle."""
        return 1 + sum(shape_of(var).num_elements() * np.dtype(var.dtype).itemsize for net in self.networks.values()
                       for var in net.vars.values()) // 10 ** 6

    def _save_networks(self, name):
        check_weights(self.networks)
        save_pkl(tuple(self.networks[key] for key in ('G', 'D', 'Gs')), os.path.join(self.run_dir, name))

    def _save_grid(self, name, images, drange):
        picture = grid_picture(images, drange, self.grid.size, self.zoom)
        save_pil_image(picture, os.path.join(self.run_dir, name))
        return picture


def link_final(run_dir: str, kimg: float) -> None:
    """Link ``network-final.pkl`` to the name of the numbered snapshot at `kimg`.

    An existing snapshot of that name is kept if it is marked as the best one.
    """
    path = os.path.join(run_dir, NETWORK_SNAPSHOT % int(kimg))
    is_best = best_snapshot(run_dir) == os.path.splitext(os.path.basename(path))[0]
    if not (is_best and os.path.exists(path)):
        link_or_copy(os.path.join(run_dir, FINAL_NETWORKS), path)


def grid_picture(images: np.ndarray, drange: tuple[float, float], grid_size: tuple[int, int], zoom: int) -> Image.Image:
    """Arrange images (N, C, H, W) in a grid, enlarged by the factor `zoom`, as a Pillow image."""
    return convert_to_pil_image(create_image_grid(images.repeat(zoom, axis=2).repeat(zoom, axis=3), grid_size), drange)
