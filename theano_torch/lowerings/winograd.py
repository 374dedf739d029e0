"""3x3 convolutions and the gradients of their filters with a quarter of the multiplications, on the CPU.

Winograd's minimal filtering (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016). In one
dimension, six neighbours d, three weights g and four outputs y are transformed to six numbers each, so that the sum of
the products of these equals the sum of ``d[j + t] g[j] y[t]`` over all j and t. The transposed transform gives the
unknown factor: outputs from pixels and weights, or the gradient of the weights from pixels and gradients of the
outputs. In two dimensions, tiles of 6x6 pixels give 4x4 outputs, with 36 products instead of 144. For all channels and
tiles these are 36 matrix products; the transforms are products with matrices of six rows.

Images are transformed in blocks that fit a cache. Rounding errors are about twice those of oneDNN's convolutions.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

TILE, FILTER = 4, 3     # Outputs and weights along one dimension.
PIXELS = TILE + FILTER - 1
POINTS = (0, 0.625, -0.625, 1.5, -1.5)      # Half the rounding errors of the usual 0, 1, -1, 2, -2.


@functools.cache
def transforms(dtype: torch.dtype) -> list[Tensor]:
    """Matrices (6, 6) for pixels, (6, 3) for weights and (6, 4) for outputs.

    The product of two polynomials with coefficients g and y is found from its values at five points and at infinity.
    """
    def values(count: int) -> np.ndarray:
        return np.array([[point ** power for power in range(count)] for point in POINTS] + [[0] * (count - 1) + [1]])
    return [torch.tensor(matrix, dtype=dtype) for matrix in (
        np.linalg.inv(values(PIXELS)).T.copy(), values(FILTER), values(TILE))]


class Transform:
    """Multiplication by a matrix along the first two axes of `values`, without allocating memory.

    The first product goes from `buffer` to `spare`, the second one back.

    Parameters
    ----------
    matrix : tensor (n, k)
    shape : (k, k, ...)
        Shape of the values.
    buffer : flat tensor
        Holds the values, and afterwards the result, at its start.
    spare : flat tensor
        Scratch memory, overwritten.

    Attributes
    ----------
    values : tensor (k, k, ...)
    result : tensor (n, n, ...)
    """

    def __init__(self, matrix: Tensor, shape: Sequence[int], buffer: Tensor, spare: Tensor) -> None:
        num, size = matrix.shape
        self.values = part_of(buffer, shape)
        self.matrix, self.matrices = matrix, matrix.expand(num, num, size)
        self.columns = self.values.view(size, -1)
        self.products = part_of(spare, (num, self.columns.shape[1]))
        self.rows = self.products.view(num, size, -1)
        self.flat_result = part_of(buffer, (num, num, self.rows.shape[2]))
        self.result = self.flat_result.view(num, num, *shape[2:])

    def run(self) -> None:
        """Replace the values by the result."""
        torch.mm(self.matrix, self.columns, out=self.products)
        torch.bmm(self.matrices, self.rows, out=self.flat_result)


def part_of(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    """The beginning of a flat tensor, with the given shape."""
    return buffer[:math.prod(shape)].view(shape)


def transformed(matrix: Tensor, values: Tensor) -> Tensor:
    """Multiply `values` (k, k, ...) by `matrix` (n, k) along both of these axes; a new tensor."""
    num, size = matrix.shape
    rows = torch.mm(matrix, values.reshape(size, -1)).view(num, size, -1)
    return torch.bmm(matrix.expand(num, num, size), rows).view(num, num, *values.shape[2:])


class Tiles:
    """A convolution of stride one in tiles of 4x4 outputs, one block of tiles at a time.

    Every call of PyTorch releases the interpreter, and while another thread computes, getting it back can take longer
    than the call. Therefore as much as possible is prepared before the loop over blocks.

    Parameters
    ----------
    filters : (K, C, height, width)
        Shape of the filters.
    image_shape : (N, C, H, W)
    pad : (int, int)
        Padding rows above and below, padding columns on both sides.
    """

    # Tiles per block and thread; more would only take more memory.
    BLOCK_TILES = 128
    BLOCK_BYTES = 5 << 20       # Size of transformed pixels and outputs; more would not fit the caches.
    # A direct convolution is faster with fewer filters times channels, smaller outputs, or less work per image.
    MIN_FILTERS = 4096
    MIN_SIZE = 8
    MIN_WORK = 1 << 22

    def __init__(self, filters: Sequence[int], image_shape: Sequence[int], pad: Sequence[int]) -> None:
        self.filters, self.pad = filters, pad
        self.num, _, *size = image_shape
        self.out_size = [length + 2 * edge - FILTER + 1 for length, edge in zip(size, pad, strict=True)]
        self.num_rows, self.num_columns = (length // TILE for length in self.out_size)

    def is_faster(self) -> bool:
        """Whether tiles are possible and faster than a direct convolution."""
        count = math.prod(self.filters[:2])
        return self.is_possible() and count >= self.MIN_FILTERS and min(self.out_size) >= self.MIN_SIZE and \
            count * math.prod(self.out_size) >= self.MIN_WORK

    def is_possible(self) -> bool:
        """Whether the filters are 3x3 and the tiles cover the outputs exactly."""
        return list(self.filters[2:]) == [FILTER, FILTER] and all(0 <= edge < FILTER for edge in self.pad) and \
            all(length > 0 and length % TILE == 0 for length in self.out_size)

    def block(self, itemsize: int) -> tuple[int, int, int]:
        """(images, rows, columns) of tiles in a block; the same for all blocks."""
        tile_bytes = PIXELS ** 2 * sum(self.filters[:2]) * itemsize
        tiles = min(self.BLOCK_TILES, self.BLOCK_BYTES // tile_bytes) * torch.get_num_threads()
        rows = largest_divisor(self.num_rows, tiles // self.num_columns)
        images = largest_divisor(self.num, tiles // (self.num_columns * self.num_rows))
        return images, rows, self.num_columns

    def pixels(self, image: Tensor, block: tuple[int, int, int]) -> list[Tensor]:
        """Pixels of each block of `image` (N, H, W, C): views (6, 6, images, rows, columns, C)."""
        (vertical, horizontal), (images, rows, _) = self.pad, block
        if vertical or horizontal:
            image = torch.nn.functional.pad(image, (0, 0, horizontal, horizontal, vertical, vertical))
        tiles = image.unfold(1, PIXELS, TILE).unfold(2, PIXELS, TILE)
        return unbound(tiles.unflatten(1, (-1, rows)).unflatten(0, (-1, images)).permute(0, 2, 6, 7, 1, 3, 4, 5))

    def outputs(self, image: Tensor, block: tuple[int, int, int]) -> list[Tensor]:
        """Blocks of `image` (N, H, W, K), which has the output's size: views (4, 4, images, rows, columns, K)."""
        images, rows, columns = block
        tiles = image.unflatten(2, (columns, TILE)).unflatten(1, (-1, rows, TILE)).unflatten(0, (-1, images))
        return unbound(tiles.permute(0, 2, 4, 6, 1, 3, 5, 7))


def largest_divisor(number: int, limit: int) -> int:
    """Largest divisor of `number` up to `limit`; at least 1."""
    return next((divisor for divisor in range(min(number, limit), 1, -1) if not number % divisor), 1)


def unbound(blocks: Tensor) -> list[Tensor]:
    """Unbind the first two axes: one flat list."""
    return [block for row in blocks.unbind() for block in row.unbind()]


class Convolution(Tiles):
    """``convolution(image, filters, bias)``; the bias (K,) may be None. Parameters: see `Tiles`."""

    def __call__(self, image: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
        image = image.permute(0, 2, 3, 1)
        num_filters, channels, *_ = self.filters
        of_pixels, of_weights, of_outputs = transforms(image.dtype)
        weights = transformed(of_weights, filters.permute(2, 3, 1, 0)).flatten(0, 1)
        result = image.new_empty(self.num, *self.out_size, num_filters)
        block = self.block(image.itemsize)
        # The first buffer holds the pixels of a block, the second one their products with the weights. While one is
        # transformed, the other one is scratch memory.
        first, second = image.new_empty(2, PIXELS ** 2 * math.prod(block) * max(num_filters, channels)).unbind()
        forth = Transform(of_pixels, (PIXELS, PIXELS, *block, channels), buffer=first, spare=second)
        back = Transform(of_outputs.t(), (PIXELS, PIXELS, *block, num_filters), buffer=second, spare=first)
        pixels = forth.result.view(PIXELS ** 2, -1, channels)
        products = back.values.view(PIXELS ** 2, -1, num_filters)
        for source, target in zip(self.pixels(image, block), self.outputs(result, block), strict=True):
            forth.values.copy_(source)
            forth.run()
            torch.bmm(pixels, weights, out=products)
            back.run()
            if bias is None:
                target.copy_(back.result)
            else:
                torch.add(back.result, bias, out=target)
        return result.permute(0, 3, 1, 2)


class FilterGradient(Tiles):
    """``gradient(image, top_grad)`` with respect to the filters of a convolution. Parameters: see `Tiles`."""

    MIN_WORK = 1 << 20

    def __call__(self, image: Tensor, top_grad: Tensor) -> Tensor:
        image, top_grad = image.permute(0, 2, 3, 1), top_grad.permute(0, 2, 3, 1)
        num_filters, channels, *_ = self.filters
        of_pixels, of_weights, of_outputs = transforms(image.dtype)
        block = self.block(image.itemsize)
        first, second, spare = image.new_empty(
            3, PIXELS ** 2 * math.prod(block) * max(num_filters, channels)).unbind()
        pixels = Transform(of_pixels, (PIXELS, PIXELS, *block, channels), first, spare)
        outputs = Transform(of_outputs, (TILE, TILE, *block, num_filters), second, spare)
        left = pixels.result.view(PIXELS ** 2, -1, channels).transpose(1, 2)
        right = outputs.result.view(PIXELS ** 2, -1, num_filters)
        sums = image.new_zeros(PIXELS ** 2, channels, num_filters)
        for parts in zip(self.pixels(image, block), self.outputs(top_grad, block), strict=True):
            for transform, part in zip((pixels, outputs), parts, strict=True):
                transform.values.copy_(part)
                transform.run()
            torch.baddbmm(sums, left, right, out=sums)
        return transformed(of_weights.t(), sums.unflatten(0, (PIXELS, PIXELS))).permute(3, 2, 0, 1)
