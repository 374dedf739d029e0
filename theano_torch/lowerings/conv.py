"""Convolutions in two and three dimensions and their gradients.

With `filter_flip`, Theano's ops are true convolutions. Torch computes correlations, so the filters are flipped first.
Theano's three ops name their inputs image, filters and top gradient, which is the gradient of the output. For a
gradient, torch needs only the shape of the tensor to differentiate by.

2D images use the channels-last memory format, except on old GPUs, see `gpus.image_format`. Element-wise ops, pooling
and resampling preserve the format, so a whole network runs in it after its first convolution.

On the CPU, convolutions with 3x3 filters and many channels are computed in tiles, see `winograd`.

Float32 convolutions may compute in a shorter type, see `Build.computing`; their inputs and outputs remain float32.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from theano_torch.convert import torch_dtype
from theano_torch.gpus import Fastest
from theano_torch.lowerings import winograd
from theano_torch.registry import UnsupportedOp, lower
from theano_torch.trace import Build

import torch
from theano.tensor.nnet import abstract_conv
from torch import Tensor

SMALL_PRODUCT_PIXELS = 2048     # Largest number of pixels, of all images together, for `Geometry.is_small_product`.

convolution = torch.ops.aten.convolution.default
convolution_backward = torch.ops.aten.convolution_backward.default


class Geometry:
    """The parameters of a convolution op, as torch needs them."""

    def __init__(self, op: Any, node: Any, build: Build, kernel_size: Sequence[int]) -> None:
        if getattr(op, 'unshared', False):
            raise UnsupportedOp(f'theano_torch has no convolutions with unshared filters: {node}')
        self.ndim, self.kernel_size = op.convdim, list(kernel_size)
        self.stride, self.dilation = list(op.subsample), list(op.filter_dilation)
        self.groups = getattr(op, 'num_groups', 1)
        self.pads = self.padding(op, kernel_size)
        self.is_symmetric = all(before == after for before, after in self.pads)
        self.pad = [before for before, _ in self.pads] if self.is_symmetric else [0] * self.ndim
        flips = op.filter_flip and any(size > 1 for size in kernel_size)
        self.flip_axes = tuple(range(2, 2 + self.ndim)) if flips else None
        self.dtype = torch_dtype(node.outputs[0].type.dtype)    # Type of the result.
        self.compute = build.computing(self.dtype)
        self.format = build.image_format(self.dtype) if self.ndim == 2 else torch.contiguous_format

    def is_plain(self) -> bool:
        """Whether this is a 2D convolution of stride 1 without dilation, groups or asymmetric padding."""
        return self.ndim == 2 and self.groups == 1 and self.is_symmetric and \
            math.prod(self.stride) == math.prod(self.dilation) == 1

    def is_small_product(self, build: Build, image: Any) -> bool:
        """Whether this is a matrix product with so few pixels that calling oneDNN takes longer than the work."""
        num, _, *size = build.shape(image)
        return build.device.type == 'cpu' and self.is_plain() and math.prod(self.kernel_size) == 1 and \
            not any(self.pad) and num * math.prod(size) <= SMALL_PRODUCT_PIXELS

    def faster(self, kinds: Sequence[type], build: Build, *shapes: Sequence[int]) -> Callable | None:
        """Construct the `kinds` from `shapes`, and return the first that is faster than oneDNN; None if none is."""
        if build.device.type == 'cpu' and self.is_plain() and self.is_exact():
            for kind in kinds:
                way = kind(*shapes)
                if way.is_faster():
                    return way
        return None

    def padding(self, op: Any, kernel_size: Sequence[int]) -> list[tuple[int, int]]:
        """Padding (before, after) of each spatial dimension."""
        dilated = [(size - 1) * step + 1 for size, step in zip(kernel_size, self.dilation, strict=True)]
        if op.border_mode == 'half':
            return [(size // 2, size // 2) for size in dilated]
        if op.border_mode == 'full':
            return [(size - 1, size - 1) for size in dilated]
        if op.border_mode == 'valid':
            return [(0, 0)] * self.ndim
        modes = op.border_mode if isinstance(op.border_mode, tuple) else (op.border_mode,) * self.ndim
        return [pad if isinstance(pad, tuple) else (pad, pad) for pad in modes]

    def flip(self, filters: Tensor) -> Tensor:
        """Convert `filters` of the op to those of a correlation."""
        return filters if self.flip_axes is None else filters.flip(self.flip_axes)

    def image(self, x: Tensor) -> Tensor:
        """Convert `x` to the type and memory format of the computation."""
        x = x.to(self.compute)
        return x.contiguous(memory_format=self.format) if self.ndim == 2 else x

    def is_exact(self) -> bool:
        """Whether the computation has the type of the result."""
        return self.compute == self.dtype

    def widened(self, convolve: Callable) -> Callable:
        """Wrap `convolve` (image, filters, bias or None) so that it returns the type of the result.

        If the type of the computation is shorter, the bias is added in the type of the result.
        """
        if self.is_exact():
            return convolve

        def run(image: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
            result = convolve(image, filters)
            # Adding a bias of a longer type converts the result.
            return result.to(self.dtype) if bias is None else result + bias.view(-1, *[1] * self.ndim)
        return run

    def padded(self, image: Tensor) -> Tensor:
        """Pad `image` if the padding is asymmetric, which torch's convolutions do not support."""
        if self.is_symmetric:
            return image
        return torch.nn.functional.pad(image, [side for pads in reversed(self.pads) for side in pads])

    def padded_size(self, size: Sequence[int]) -> list[int]:
        """The size that `padded` gives an image of size `size`."""
        return list(size) if self.is_symmetric else [n + sum(pads) for n, pads in zip(size, self.pads, strict=True)]

    def cropped(self, image: Tensor) -> Tensor:
        """The inverse of `padded`."""
        if self.is_symmetric:
            return image
        return image[(slice(None), slice(None), *[slice(before, size - after) for (before, after), size in
                                                  zip(self.pads, image.shape[2:], strict=True)])]


class LoweredConvolution(NamedTuple):
    """An implementation of a convolution or of a transposed convolution."""

    geometry: Geometry
    run: Callable           # Function of the node's first two inputs and an optional bias.
    is_direct: bool         # Whether `run` is only torch's convolution of images and filters.


def forward_convolution(op: Any, node: Any, build: Build) -> LoweredConvolution:
    """Lower a convolution of the node's first two inputs, image and filters."""
    image_shape, filters_shape = (build.shape(var) for var in node.inputs[:2])
    geometry = Geometry(op, node, build, filters_shape[2:])
    stride, pad, dilation, groups, zeros = (
        geometry.stride, geometry.pad, geometry.dilation, geometry.groups, [0] * geometry.ndim)
    channels = image_shape[1], filters_shape[1] * groups
    if channels[0] != channels[1]:
        raise ValueError('The image has %d channels, the filters (times groups) have %d' % channels)
    faster: Any = geometry.faster([winograd.Convolution], build, filters_shape, image_shape, pad)

    def convolve(image: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolution(geometry.image(geometry.padded(image)), geometry.flip(filters.to(geometry.compute)), bias,
                           stride, pad, dilation, False, zeros, groups)

    def multiply(image: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
        matrix = filters.flatten(1).t().to(geometry.compute)
        pixels = pixels_of(image.to(geometry.compute))
        return image_of(torch.mm(pixels, matrix) if bias is None else torch.addmm(bias, pixels, matrix), image)

    def convolve_faster(image: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
        return faster(geometry.image(image), geometry.flip(filters.to(geometry.compute)), bias)

    if faster is not None:
        return LoweredConvolution(geometry, convolve_faster, is_direct=False)
    is_small = geometry.is_small_product(build, node.inputs[0])
    return LoweredConvolution(geometry, geometry.widened(multiply if is_small else convolve), is_direct=not is_small)


def transposed_convolution(op: Any, node: Any, build: Build) -> LoweredConvolution:
    """Lower a transposed convolution of the node's first two inputs, filters and top gradient."""
    image_size = build.integers(node.inputs[2])
    filters_shape, top_shape = (build.shape(var) for var in node.inputs[:2])
    kernel_size, top_size = filters_shape[2:], top_shape[2:]
    geometry = Geometry(op, node, build, kernel_size)
    stride, pad, dilation, groups = geometry.stride, geometry.pad, geometry.dilation, geometry.groups
    # Pixels at the end of the image that the strides skipped.
    missing = [size - ((top - 1) * step - 2 * edge + (kernel - 1) * dil + 1) for size, top, step, edge, kernel, dil in
               zip(geometry.padded_size(image_size), top_size, stride, pad, kernel_size, dilation, strict=True)]
    if not all(0 <= rest < step for rest, step in zip(missing, stride, strict=True)):
        raise ValueError(f'gradients of size {top_size} do not belong to images of size {image_size}')
    # With stride 1, this is a convolution with transposed filters.
    faster: Any = geometry.faster(
        [winograd.Convolution], build, [filters_shape[1], filters_shape[0], *kernel_size], top_shape,
        [size - 1 - edge for size, edge in zip(kernel_size, pad, strict=True)])

    def convolve(filters: Tensor, top_grad: Tensor, bias: Tensor | None = None) -> Tensor:
        filters = geometry.flip(filters.to(geometry.compute))
        return geometry.cropped(convolution(geometry.image(top_grad), filters, bias, stride, pad, dilation, True,
                                            missing, groups))

    def multiply(filters: Tensor, top_grad: Tensor, bias: Tensor | None = None) -> Tensor:
        matrix = filters.flatten(1).to(geometry.compute)
        pixels = pixels_of(top_grad.to(geometry.compute))
        return image_of(torch.mm(pixels, matrix) if bias is None else torch.addmm(bias, pixels, matrix), top_grad)

    def convolve_faster(filters: Tensor, top_grad: Tensor, bias: Tensor | None = None) -> Tensor:
        filters = geometry.flip(filters.to(geometry.compute)).flip(2, 3).transpose(0, 1)
        return faster(geometry.image(top_grad), filters, bias)

    if faster is not None:
        return LoweredConvolution(geometry, convolve_faster, is_direct=False)
    is_small = geometry.is_small_product(build, node.inputs[1])
    return LoweredConvolution(geometry, geometry.widened(multiply if is_small else convolve), is_direct=False)


def pixels_of(image: Tensor) -> Tensor:
    """Reshape (N, C, H, W) to a matrix (N H W, C)."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def image_of(pixels: Tensor, like: Tensor) -> Tensor:
    """The inverse of `pixels_of`, with the number and size of the images in `like`."""
    num, _, height, width = like.shape
    return pixels.view(num, height, width, -1).permute(0, 3, 1, 2)


@lower.register(abstract_conv.AbstractConv)
def _(op, node, build):
    return forward_convolution(op, node, build).run


@lower.register(abstract_conv.AbstractConv_gradWeights)
def _(op, node, build):
    kernel_size = build.integers(node.inputs[2])
    geometry = Geometry(op, node, build, kernel_size)
    stride, pad, dilation, groups, zeros = (
        geometry.stride, geometry.pad, geometry.dilation, geometry.groups, [0] * geometry.ndim)
    shape = [build.shape(node.inputs[1])[1], build.shape(node.inputs[0])[1] // groups, *kernel_size]

    def gradient(image: Tensor, top_grad: Tensor) -> Tensor:
        like = top_grad.new_empty(shape)
        return convolution_backward(top_grad, image, like, None, stride, pad, dilation, False, zeros, groups,
                                    [False, True, False])[1]

    if geometry.is_small_product(build, node.inputs[0]):
        def multiply(image: Tensor, top_grad: Tensor) -> Tensor:
            grads, pixels = pixels_of(top_grad.to(geometry.compute)), pixels_of(image.to(geometry.compute))
            return torch.mm(grads.t(), pixels).view(shape).to(geometry.dtype)
        return multiply, node.inputs[:2]
    faster = geometry.faster([winograd.FilterGradient, WeightProducts], build, shape, build.shape(node.inputs[0]),
                             geometry.pad)
    if faster is None and build.device.type == 'cuda' and geometry.is_plain():
        faster = with_folding(gradient, geometry, build.device, shape, build.shape(node.inputs[1]))
    compute = gradient if faster is None else faster
    return lambda image, top_grad: geometry.flip(compute(
        geometry.image(geometry.padded(image)), geometry.image(top_grad)).to(geometry.dtype)), node.inputs[:2]


def with_folding(gradient: Callable, geometry: Geometry, device: torch.device, shape: Sequence[int],
                 top_shape: Sequence[int]) -> Callable | None:
    """The faster of `gradient` and `FoldedGradient`; None if the latter does not apply.

    `gradient` is a function of images and top gradients. For the other parameters see `FoldedGradient`.
    """
    folded = FoldedGradient(shape, top_shape, geometry.pad)
    if geometry.format != torch.channels_last or not folded.may_be_faster():
        return None
    key = 'gradient of filters', tuple(shape), tuple(top_shape), tuple(geometry.pad), geometry.compute
    return Fastest([gradient, folded], int(folded.is_faster()), key, device)


class FoldedGradient:
    """The gradient with respect to filters with few channels on a GPU, computed on folded images.

    Tensor cores multiply tiles of 64 by 64 channels, which are mostly empty with 16 by 16 channels. In channels-last
    memory, `fold` neighbours in a row with C channels can be viewed as one pixel with ``fold * C`` channels, without a
    copy. The gradient of the larger filters between such pixels contains `fold` parts of each gradient of the original
    filters, which are summed. This takes `fold` times the work, on tiles that are `fold` squared times as full.

    Parameters
    ----------
    shape : (K, C, height, width)
        Shape of the filters; `width` must be odd.
    top_shape : (N, K, H, W)
        Shape of the top gradient, which must be as wide as the image.
    pad : (int, int)
    """

    TILE = 64           # Channels of a tile.

    def __init__(self, shape: Sequence[int], top_shape: Sequence[int], pad: Sequence[int]) -> None:
        self.filters, self.pad, width = shape, pad, top_shape[3]
        self.keeps_width = shape[3] % 2 == 1 and pad[1] == shape[3] // 2
        folds = [fold for fold in (2, 4) if width % fold == 0 and fold >= pad[1]]
        self.fold = max(folds, key=self.gain, default=1)

    def gain(self, fold: int) -> float:
        """Estimated speedup from fuller tiles; 1 without folding."""
        before, after = (min(1, times * self.filters[0] / self.TILE) * min(1, times * self.filters[1] / self.TILE)
                         for times in (1, fold))
        return after / before / fold

    def may_be_faster(self) -> bool:
        """Whether it is worth timing."""
        return self.keeps_width and self.gain(self.fold) > 1

    def is_faster(self) -> bool:
        """Whether it is probably faster than cuDNN's gradient."""
        return self.keeps_width and self.gain(self.fold) >= 1.5

    def __call__(self, image: Tensor, top_grad: Tensor) -> Tensor:
        """(N, C, H, W) and (N, K, H, W), channels-last -> (K, C, height, width)"""
        num_filters, channels, height, width = self.filters
        fold, pad = self.fold, [self.pad[0], 1]
        like = top_grad.new_empty([fold * num_filters, fold * channels, height, 3])
        gradient = convolution_backward(self.folded(top_grad), self.folded(image), like, None, [1, 1], pad, [1, 1],
                                        False, [0, 0], 1, [False, True, False])[1]
        # (pixel of the output, filter, pixel of the image, channel, row, folded pixel)
        parts = gradient.view(fold, num_filters, fold, channels, height, 3)
        columns = [sum_of([parts[there, :, (there + step) % fold, :, :, 1 + (there + step) // fold]
                           for there in range(fold)]) for step in range(-(width // 2), width // 2 + 1)]
        return torch.stack(columns, dim=-1)

    def folded(self, x: Tensor) -> Tensor:
        """View (N, C, H, W) as (N, fold * C, H, W / fold)."""
        num, channels, height, width = x.shape
        return x.permute(0, 2, 3, 1).reshape(num, height, width // self.fold, self.fold * channels).permute(0, 3, 1, 2)


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """The sum, accumulated in at least float32."""
    wide = torch.promote_types(parts[0].dtype, torch.float32)
    return functools.reduce(torch.add, [part.to(wide) for part in parts])


class WeightProducts:
    """The gradient with respect to the filters of a plain convolution as matrix products, on the CPU.

    There is one product per row of the filters: the pixels under that row, with `width` neighbours in one long column,
    times the top gradient. In channels-last format such columns are contiguous in memory, so that one copy of the image
    with its columns serves all rows. This is twice as fast as oneDNN's kernels on AVX2. With few filters, products
    whose result has its long side first are up to twice as fast again.

    Parameters
    ----------
    shape : (K, C, height, width)
        Shape of the filters.
    image_shape : (N, C, H, W)
    pad : (int, int)
    """

    BLOCK_BYTES = 7 << 18       # Largest size of a block of columns per thread; it stays in a cache.
    WHOLE_BYTES = 8 << 20       # One large product is faster if all columns fit in this size...
    WHOLE_CHANNELS = 256        # ...or if there are this many channels.
    MIN_FILTERS = 512           # oneDNN is faster if filters times channels are fewer.

    def __init__(self, shape: Sequence[int], image_shape: Sequence[int], pad: Sequence[int]) -> None:
        self.filters, self.pad = shape, pad
        self.num, self.channels, height, width = image_shape
        self.height, self.width = height + 2 * pad[0], width + 2 * pad[1]       # With padding.
        self.out_height, self.out_width = self.height - shape[2] + 1, self.width - shape[3] + 1
        row_bytes = max(self.out_width * shape[3] * self.channels * 4, 1)
        self.is_whole = self.channels >= self.WHOLE_CHANNELS or \
            self.num * self.out_height * row_bytes * shape[2] <= self.WHOLE_BYTES
        least = max(min(self.num, torch.get_num_threads()), 1)      # At least one image per thread.
        self.rows = max(min(max(self.BLOCK_BYTES // row_bytes, 8), self.out_height), 1)
        self.images = min(max(self.BLOCK_BYTES // (self.rows * row_bytes), 1) * least, self.num)

    def is_faster(self) -> bool:
        num_filters, channels, *size = self.filters
        return max(size) > 1 and num_filters * channels >= self.MIN_FILTERS

    def __call__(self, image: Tensor, top_grad: Tensor) -> Tensor:
        image = image.permute(0, 2, 3, 1)
        if any(self.pad):
            image = torch.nn.functional.pad(image, (0, 0, self.pad[1], self.pad[1], self.pad[0], self.pad[0]))
        image, top_grad = image.contiguous(), top_grad.permute(0, 2, 3, 1)
        return self.whole(image, top_grad) if self.is_whole else self.by_blocks(image, top_grad)

    def whole(self, image: Tensor, top_grad: Tensor) -> Tensor:
        """Compute one product, with all neighbours of a pixel in one column."""
        num_filters, channels, height, width = self.filters
        _, row, pixel, _ = image.stride()
        columns = image.as_strided((self.num, self.out_height, self.out_width, height, width * channels),
                                   (image.stride(0), row, pixel, row, 1)).reshape(-1, height * width * channels)
        product = torch.mm(columns.t(), top_grad.reshape(-1, num_filters))
        return product.view(height, width, channels, num_filters).permute(3, 2, 0, 1)

    def by_blocks(self, image: Tensor, top_grad: Tensor) -> Tensor:
        """Compute products for blocks of some images and rows, whose columns fit in a cache."""
        num_filters, channels, height, width = self.filters
        result = image.new_zeros(height, self.images, width * channels, num_filters)
        for first in range(0, self.num, self.images):
            for top in range(0, self.out_height, self.rows):
                self.add_block(result, image[first:first + self.images, top:top + self.rows + height - 1],
                               top_grad[first:first + self.images, top:top + self.rows])
        return result.sum(dim=1).view(height, width, channels, num_filters).permute(3, 2, 0, 1)

    def add_block(self, result: Tensor, image: Tensor, top_grad: Tensor) -> None:
        """Add the products of one block to `result`, one per row of the filters and image."""
        num_filters, channels, height, width = self.filters
        num, rows = top_grad.shape[:2]
        columns = image.as_strided((num, rows + height - 1, self.out_width, width * channels),
                                   (*image.stride()[:3], 1), image.storage_offset()).contiguous()
        grads = top_grad.reshape(num, rows * self.out_width, num_filters)
        for index in range(height):
            products = result[index, :num]
            torch.baddbmm(products, columns[:, index:index + rows].flatten(1, 2).transpose(1, 2), grads, out=products)


@lower.register(abstract_conv.AbstractConv_gradInputs)
def _(op, node, build):
    return transposed_convolution(op, node, build).run, node.inputs[:2]
