"""Pooling over the last one, two or three dimensions, with first and second order gradients."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from theano_torch.convert import from_numpy
from theano_torch.registry import UnsupportedOp, lower
from theano_torch.trace import Build

import numpy as np
import torch
import torch.nn.functional as F
from theano.tensor.signal import pool
from torch import Tensor

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Windows:
    """The windows of a pooling op on images of one size.

    Parameters
    ----------
    op : Pool, or one of its gradients
    build : theano_torch.trace.Build
    image : variable
        The pooled images: (..., spatial dimensions).
    parameters : list of variables
        Window size, stride and padding.
    """

    def __init__(self, op: Any, build: Build, image: Any, parameters: Sequence) -> None:
        self.ndim, self.mode = op.ndim, getattr(op, 'mode', 'max')
        self.size, self.stride, self.pad = (build.integers(var) for var in parameters[:3])
        shape = build.shape(image)
        self.lead, self.image = list(shape[:-self.ndim]), list(shape[-self.ndim:])
        if self.ndim not in MAX_POOL:
            raise UnsupportedOp(f'theano_torch has no pooling over {self.ndim} dimensions')
        out = pool.Pool.out_shape(shape, self.size, op.ignore_border, self.stride, self.pad, self.ndim)
        self.out = [int(size) for size in out[-self.ndim:]]
        self.device = build.device
        self.is_tiling = self.size == self.stride and not any(self.pad) and \
            all(n % k == 0 for n, k in zip(self.image, self.size, strict=True))
        self.known_counts: dict[torch.dtype, Tensor] = {}
        # Size that holds all windows, including those that extend beyond the end.
        self.padded = [max(n + 2 * p, (o - 1) * s + k) if o else n + 2 * p for n, p, o, s, k in
                       zip(self.image, self.pad, self.out, self.stride, self.size, strict=True)]

    def flat(self, x: Tensor) -> Tensor:
        """Reshape `x` to one leading dimension and one channel."""
        return x.reshape(-1, 1, *x.shape[-self.ndim:])

    def enlarge(self, x: Tensor, value: float) -> Tensor:
        """Pad `x` (..., image) with `value`: (..., padded)."""
        sides = [(p, full - n - p) for n, p, full in zip(self.image, self.pad, self.padded, strict=True)]
        if not any(map(any, sides)):
            return x
        return F.pad(x, [side for pair in reversed(sides) for side in pair], value=value)

    def crop(self, x: Tensor) -> Tensor:
        """Undo `enlarge`."""
        index: tuple = (..., *[slice(p, p + n) for p, n in zip(self.pad, self.image, strict=True)])
        return x[index]

    def members(self) -> Iterator[tuple]:
        """For each position within a window, the index that selects it in all windows of a padded image."""
        for offset in itertools.product(*map(range, self.size)):
            yield (..., *[slice(first, first + (o - 1) * s + 1, s) for first, o, s in
                          zip(offset, self.out, self.stride, strict=True)])

    def spread(self, y: Tensor) -> Tensor:
        """Repeat every element of y (..., out) over its window, if windows tile the image."""
        y = y.reshape(*self.lead, *[n for size in self.out for n in (size, 1)])
        return y.expand(*self.lead, *[n for pair in zip(self.out, self.size, strict=True) for n in pair]).reshape(
            *self.lead, *self.image)

    def counts(self, dtype: torch.dtype) -> Tensor:
        """Divisors of the sums over the windows: tensor (out), computed in the first call."""
        if dtype not in self.known_counts:
            self.known_counts[dtype] = self.count(dtype)
        return self.known_counts[dtype]

    def count(self, dtype: torch.dtype) -> Tensor:
        counts = np.ones([1] * self.ndim)
        for axis, (n, p, o, s, k) in enumerate(zip(self.image, self.pad, self.out, self.stride, self.size,
                                                   strict=True)):
            starts = np.arange(o) * s
            ends = np.minimum(starts + k, n + 2 * p)
            if self.mode == 'average_exc_pad':
                starts, ends = np.maximum(starts, p), np.minimum(ends, n + p)
            shape = [1] * self.ndim
            shape[axis] = o
            counts = counts * (ends - starts).reshape(shape)
        return from_numpy(np.ones_like(counts) if self.mode == 'sum' else counts, self.device).to(dtype)

    # ------------------------------------------------------------------------------------------------------------------

    def pool(self, x: Tensor) -> Tensor:
        """Maximum, average or sum over each window."""
        if 0 in self.out or 0 in self.lead:
            return x.new_zeros(*self.lead, *self.out)
        if not x.is_floating_point():
            return self.pool_integers(x)
        enlarged = self.flat(self.enlarge(x, -torch.inf if self.mode == 'max' and x.is_floating_point() else 0))
        if self.mode == 'max':
            pooled = MAX_POOL[self.ndim](enlarged, self.size, self.stride)
        else:
            pooled = AVERAGE_POOL[self.ndim](enlarged, self.size, self.stride)
            if not self.is_tiling or self.mode == 'sum':
                pooled = pooled * (float(np.prod(self.size)) / self.counts(x.dtype))
        index: tuple = (..., *[slice(size) for size in self.out])
        return pooled[index].reshape(*self.lead, *self.out)

    def pool_integers(self, x: Tensor) -> Tensor:
        """Like Theano's C code: sums wrap around in the type of the images, averages are truncated."""
        is_max = self.mode == 'max'
        enlarged = self.enlarge(x.to(torch.int64), torch.iinfo(torch.int64).min if is_max else 0)
        parts = [enlarged[index] for index in self.members()]
        pooled = functools.reduce(torch.maximum if is_max else torch.add, parts).to(x.dtype)
        if self.mode in ('max', 'sum'):
            return pooled
        return torch.div(pooled.to(torch.int64), self.counts(torch.int64), rounding_mode='trunc').to(x.dtype)

    def average_grad(self, gz: Tensor) -> Tensor:
        """Gradient of an average or sum: every element gets its share of all windows that contain it."""
        if self.is_tiling:
            return self.spread(gz if self.mode == 'sum' else gz * (1 / float(np.prod(self.size))))
        gx = gz.new_zeros(*self.lead, *self.padded)
        if gz.numel() == 0:
            return self.crop(gx)
        share = gz / self.counts(gz.dtype)
        for index in self.members():
            gx[index] += share
        return self.crop(gx)

    def max_grad(self, x: Tensor, maximum: Tensor, gz: Tensor) -> Tensor:
        """Every element that equals its window's maximum gets the full gradient, as in Theano."""
        if self.is_tiling:
            return self.spread(gz).mul(x == self.spread(maximum))
        gx = gz.new_zeros(*self.lead, *self.padded)
        if gz.numel() == 0:
            return self.crop(gx)
        x = self.enlarge(x, -torch.inf)
        for index in self.members():
            gx[index] += gz * (x[index] == maximum)
        return self.crop(gx)

    def max_grad_grad(self, x: Tensor, maximum: Tensor, ggx: Tensor) -> Tensor:
        """For each window, the sum of `ggx` where x equals the maximum."""
        if maximum.numel() == 0:
            return torch.zeros_like(maximum)
        x, ggx = self.enlarge(x, -torch.inf), self.enlarge(ggx, 0)
        parts = (ggx[index] * (x[index] == maximum) for index in self.members())
        return sum(parts)       # type: ignore[return-value]  # There is at least one part.

    def max_rop(self, x: Tensor, tangent: Tensor) -> Tensor:
        """For each window, the element of `tangent` at its first maximum in x."""
        x, tangent = self.enlarge(x, -torch.inf), self.enlarge(tangent, 0)
        best: Any = None
        result: Any = None
        for index in self.members():
            if best is None:
                best, result = x[index], tangent[index]
            else:
                better = x[index] > best
                best, result = torch.where(better, x[index], best), torch.where(better, tangent[index], result)
        return result


@lower.register(pool.Pool)
def _(op, node, build):
    return Windows(op, build, node.inputs[0], node.inputs[1:]).pool, node.inputs[:1]


@lower.register(pool.AveragePoolGrad)
def _(op, node, build):
    return Windows(op, build, node.inputs[0], node.inputs[2:]).average_grad, node.inputs[1:2]


@lower.register(pool.MaxPoolGrad)
def _(op, node, build):
    return Windows(op, build, node.inputs[0], node.inputs[3:]).max_grad, node.inputs[:3]


@lower.register(pool.DownsampleFactorMaxGradGrad)
def _(op, node, build):
    return Windows(op, build, node.inputs[0], node.inputs[3:]).max_grad_grad, node.inputs[:3]


@lower.register(pool.MaxPoolRop)
def _(op, node, build):
    windows = Windows(op, build, node.inputs[0], node.inputs[2:])
    if windows.mode != 'max':
        raise UnsupportedOp(f'theano_torch has no R-operator of {windows.mode} pooling')
    return windows.max_rop, node.inputs[:2]
