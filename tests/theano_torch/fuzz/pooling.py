"""Max pooling whose gradients are the same on all of Theano's engines, with explicit padding."""

from typing import Any

import numpy as np
import theano.tensor as T
from theano.tensor.signal import pool

LOWEST = -1e30      # Used as minus infinity.


def padded_max_pool(images: Any, size: tuple, ignores_border: bool, stride: tuple, pad: tuple) -> Any:
    """Max pooling of images that are padded with the lowest number."""
    ndim = len(size)
    lead = [images.shape[axis] for axis in range(images.ndim - ndim)]
    spatial = [images.shape[images.ndim - ndim + axis] for axis in range(ndim)]
    around_them = T.alloc(np.asarray(LOWEST, images.dtype), *lead,
                          *[length + 2 * edge for length, edge in zip(spatial, pad, strict=True)])
    inside = (Ellipsis, *[slice(edge, edge + length) for length, edge in zip(spatial, pad, strict=True)])
    padded = T.set_subtensor(around_them[inside], images)
    return (pool.pool_2d if ndim == 2 else pool.pool_3d)(padded, size, ignores_border, stride, (0,) * ndim, 'max')
