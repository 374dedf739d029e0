"""Finds the nearest neighbours of generated images in a dataset, by pixels or by network features (Figure 10)."""

import contextlib
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from common.console import Progress
from common.errors import UserError
from common.files import AnyPath
from data import chunk_reader, hdf5_format

SMALL = 32              # Pixels are compared at this resolution.
CENTRE = 0.75           # Share of width and height that is compared: the face in the centre, not the background.
VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))      # VGG16: (channels, convolutions) between poolings.
VGG_LAYERS = 'conv1_2, conv2_2, conv3_2, conv4_2 and conv5_2'
VGG_SIZE, VGG_GRID = 224, 14    # Side of its input in pixels, and side of the grid that the layers are averaged to.
VGG_BATCH = 16


class Description(NamedTuple):
    """The features whose Euclidean distance defines the nearest neighbours."""

    words: str          # Name of the features, for the caption.
    describe: Callable[[np.ndarray], np.ndarray] | None     # uint8 (N, C, H, W) -> (N, F); None: pixels.


PIXELS = Description(f'the pixels of {SMALL}x{SMALL} copies', None)


def by_inception(weights: AnyPath | None) -> Description:
    """The last features of the Inception network that FID uses, see `metrics.inception`."""
    from metrics.inception import InceptionFeatures
    network = InceptionFeatures(weights)
    return Description('features of Inception-v3', lambda images: network(images)[0])


# ----------------------------------------------------------------------------------------------------------------------
# VGG16: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition" (2014).


def by_vgg(weights: AnyPath) -> Description:
    """Activations of five layers of VGG16; all layers have equal weight.

    Parameters
    ----------
    weights : str
        State dict of torchvision's ``vgg16``, saved by ``torch.save``. No code in the file is executed.

    Raises
    ------
    UserError
        PyTorch is missing, or the file is no state dict of ``vgg16``.
    """
    return Description(f'activations of {VGG_LAYERS} of VGG16, averaged to {VGG_GRID}x{VGG_GRID}',
                       VGGFeatures(weights))


class VGGFeatures:
    """uint8 images (N, 1 or 3, H, W) -> activations (N, F), float32; on a GPU if there is one."""

    def __init__(self, weights: AnyPath) -> None:
        try:
            import torch
        except ImportError as error:
            raise UserError('--vgg-weights: needs PyTorch; pip install torch') from error
        self.torch = torch
        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.network, self.ends = _vgg16(torch)
        self.network.load_state_dict(_read_state(torch, weights, self.network))
        self.network.to(self.device).eval()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.concatenate([self._features(images[begin:begin + VGG_BATCH])
                               for begin in range(0, len(images), VGG_BATCH)])

    def _features(self, images):
        torch, functional = self.torch, self.torch.nn.functional
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).float() / 255
            x = x.expand(-1, 3, -1, -1)
            x = functional.interpolate(x, (VGG_SIZE, VGG_SIZE), mode='bilinear', antialias=True, align_corners=False)
            mean, deviation = (torch.tensor(values, device=self.device).view(3, 1, 1)
                               for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            x = (x - mean) / deviation
            features = []
            for number, layer in enumerate(self.network):
                x = layer(x)
                if number in self.ends:
                    pooled = functional.adaptive_avg_pool2d(x, VGG_GRID).flatten(1)
                    features.append(pooled / pooled.shape[1] ** 0.5)
            return torch.cat(features, 1).cpu().numpy()


def _vgg16(torch):
    """(convolutional part of VGG16 with torchvision's names, indices of the ReLUs after conv1_2, ..., conv5_2)."""
    layers, ends, channels = [], [], 3
    for width, count in VGG_STAGES:
        for number in range(count):
            layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.ReLU()]
            channels = width
            if number == 1:
                ends.append(len(layers) - 1)
        layers.append(torch.nn.MaxPool2d(2))
    return torch.nn.Sequential(*layers), ends


def _read_state(torch, path, network):
    """The entries 'features.*' of a state dict in a file, without this prefix, checked against `network`."""
    if not os.path.isfile(path):
        raise UserError(f'--vgg-weights {path}: no such file; give the state dict of torchvision\'s vgg16')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(f'--vgg-weights {path}: cannot be read as a state dict ({type(error).__name__}); give the '
                        "state dict of torchvision's vgg16") from error
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: state.get(f'features.{name}') for name in wanted} if isinstance(state, dict) else {}
    wrong = [f'features.{name}' for name, shape in wanted.items()
             if tuple(getattr(found.get(name), 'shape', ())) != shape]
    if wrong:
        raise UserError(f"--vgg-weights {path}: {wrong[0]} is missing or has another shape; give the state dict of "
                        "torchvision's vgg16")
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Nearest neighbours.


def centre_box(height: int, width: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the centre of an image, which is compared, in pixels."""
    inner_height, inner_width = (max(round(length * CENTRE), 1) for length in (height, width))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    return left, top, left + inner_width, top + inner_height


def centre(images: np.ndarray) -> np.ndarray:
    """The centre of images (..., H, W), see :func:`centre_box`."""
    left, top, right, bottom = centre_box(*images.shape[-2:])
    return images[..., top:bottom, left:right]


def shrunk(images: np.ndarray, resolution: int) -> np.ndarray:
    """Images (N, C, H, H) downscaled to `resolution` by averaging, float32."""
    factor = images.shape[-1] // resolution
    shape = (*images.shape[:2], resolution, factor, resolution, factor)
    return images.reshape(shape).mean(axis=(3, 5), dtype=np.float32)


def nearest_neighbours(images: np.ndarray, h5_path: str, count: int,
                       features: Callable | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Find the images of a dataset that are nearest to the given ones.

    Parameters
    ----------
    images : ndarray, shape (N, C, H, H), uint8
    h5_path : str
        Multi-resolution HDF5 file.
    count : int
        Number of neighbours per image.
    features : callable, optional
        uint8 images (N, C, H, W) -> features (N, F). None: pixels of small copies.

    Returns
    -------
    (ndarray, ndarray)
        Indices (N, count), nearest first, and the images (N, count, C, H', H'), uint8, at full resolution. The
        distance is the Euclidean distance between the features of the images' centres.

    Raises
    ------
    UserError
        The dataset has another number of channels, or too few images.
    """
    h5, levels = hdf5_format.open_levels(h5_path)
    with h5, contextlib.ExitStack() as stack:
        full = max(levels)
        compared = full if features else min(SMALL, full, images.shape[-1])
        step = 64 if features else 1024
        num, channels = levels[full].shape[:2]
        small, large = stack.enter_context(chunk_reader.open_readers(h5, [levels[compared], levels[full]]))
        if channels != images.shape[1] or num < count:
            raise UserError(f'{h5_path}: has {num} images with {channels} channels; needs at least {count} images with '
                            f'{images.shape[1]} channels, like the generated images')

        def describe(batch):
            batch = centre(batch)
            return (features(np.ascontiguousarray(batch)) if features else batch).reshape(len(batch), -1).astype(
                np.float64)

        queries = describe(images if features else shrunk(images, compared))
        best = np.full((len(images), count), np.inf)
        indices = np.full((len(images), count), -1)
        with Progress('Comparing', num) as progress:
            for begin in range(0, num, step):
                rows = describe(np.stack([small.read(index) for index in range(begin, min(begin + step, num))]))
                distances = np.square(queries).sum(1)[:, None] + np.square(rows).sum(1) - 2 * queries @ rows.T
                candidates = np.concatenate([best, distances], axis=1)
                numbers = np.concatenate([indices, np.tile(begin + np.arange(len(rows)), (len(images), 1))], axis=1)
                order = np.argsort(candidates, axis=1, kind='stable')[:, :count]
                best, indices = (np.take_along_axis(x, order, axis=1) for x in (candidates, numbers))
                progress.update(len(rows))
        return indices, np.stack([[large.read(index) for index in row] for row in indices.tolist()])
