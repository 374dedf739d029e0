"""Random convolutions and poolings with gradients of first and second order."""

import dataclasses
from typing import Any

import numpy as np
from theano.tensor.nnet.abstract_conv import get_conv_output_shape

from tests.theano_torch.fuzz.maker import Maker
from tests.theano_torch.fuzz.recipes import Call, Recipe, Ref, pruned

FUNCTIONS = {2: 'T.nnet.conv2d', 3: 'T.nnet.conv3d'}
BORDERS = ('valid', 'full', 'half', 'number', 'numbers', 'pairs')


def make(seed: int) -> Recipe:
    """Make the program of a seed."""
    maker = Maker(np.random.RandomState(seed))
    result = None
    while result is None:
        maker.sources, maker.calls, maker.variables, maker.sizes = [], [], [], []
        result = maker.any_of(KINDS)(maker)
    if maker.chance(0.3):
        result = around(maker, result)
    outputs = [result, *add_gradients(maker, result)]
    return pruned(Recipe(tuple(maker.sources), tuple(maker.calls), tuple(outputs)))


def add_gradients(maker: Maker, result: Ref) -> list[Ref]:
    """Add gradients of first order and, to some programs, of second order."""
    cost = maker.add('T.sum', maker.add('operator.mul', result, maker.add('T.cos', result)))
    sources = maker.floats()
    found = []
    for _ in range(1 if maker.chance(0.7) else 2):
        gradients = maker.add('T.grad', cost, sources, disconnected_inputs='ignore')
        if gradients is None:
            break
        found += [maker.add('operator.getitem', gradients, index) for index in range(len(sources))]
        cost = maker.add('T.sum', maker.add('T.sqr', found[-len(sources)]))
    return found


def around(maker: Maker, result: Ref) -> Ref:
    """Add an op after `result` with which rewrites may fuse it."""
    kind = maker.integer(0, 3)
    if kind == 0:
        return maker.add('T.nnet.relu', result, maker.any_of([0, 0.2]))
    if kind == 1:
        return maker.add('operator.getitem', result, (Ellipsis, slice(None, None, -1)))
    bias = maker.add_source(maker.source(maker[result].dtype, (1,) * maker[result].ndim))
    return maker.add('T.tanh', maker.add('operator.add', result, bias))


# ----------------------------------------------------------------------------------------------------------------------
# Convolutions.


@dataclasses.dataclass
class Geometry:
    """A convolution: the shapes of images (N, C, ...) and filters (F, C / groups, ...), and options."""

    images: tuple[int, ...]
    filters: tuple[int, ...]
    options: dict

    def output(self) -> tuple[int, ...]:
        return get_conv_output_shape(self.images, self.filters, self.options['border_mode'], self.options['subsample'],
                                     self.options['filter_dilation'])


def geometry(maker: Maker, ndim: int) -> Geometry | None:
    """A random convolution over `ndim` dimensions; None if its output would be empty."""
    groups = maker.any_of([1, 1, 1, 2, 3]) if ndim == 2 else 1
    batch, channels, filters = (maker.integer(1, 4) for _ in range(3))
    size = [maker.integer(1, 4) for _ in range(ndim)]
    border = maker.any_of(BORDERS)
    modes: dict[str, Any] = {'number': maker.integer(0, 3), 'numbers': tuple(maker.integer(0, 3) for _ in range(ndim)),
                             'pairs': tuple((maker.integer(0, 3), maker.integer(0, 3)) for _ in range(ndim))}
    if ndim == 3 and border == 'pairs':
        border = 'full'
    options = {'border_mode': modes.get(border, border),
               'subsample': tuple(maker.integer(1, 3) for _ in range(ndim)),
               'filter_dilation': tuple(maker.integer(1, 3) if maker.chance(0.3) else 1 for _ in range(ndim)),
               'filter_flip': maker.chance(0.5)}
    if groups > 1:
        options['num_groups'] = groups
    found = Geometry((batch, channels * groups, *[maker.integer(2, 9) for _ in range(ndim)]),
                     (filters * groups, channels, *size), options)
    return found if min(found.output()) > 0 else None


def sources(maker: Maker, *shapes: tuple[int, ...]) -> list[Ref]:
    dtype = maker.any_of(['float64', 'float64', 'float32'])
    return [maker.add_source(dataclasses.replace(maker.source(dtype, shape), special=0, scale=1.0)) for shape in shapes]


def forward(maker):
    ndim = maker.any_of([2, 2, 2, 3])
    shapes = geometry(maker, ndim)
    if shapes is None:
        return None
    known = {'input_shape': shapes.images, 'filter_shape': shapes.filters} if maker.chance(0.4) else {}
    return maker.add(FUNCTIONS[ndim], *sources(maker, shapes.images, shapes.filters), **shapes.options, **known)


def of_inputs(maker):
    """The gradient with respect to the images; with unknown batch size and channels, a transposed convolution."""
    ndim = maker.any_of([2, 2, 3])
    shapes = geometry(maker, ndim)
    if shapes is None:
        return None
    size = shapes.images if maker.chance(0.5) else (None, None, *shapes.images[2:])
    return maker.add(f'abstract_conv.conv{ndim}d_grad_wrt_inputs', *sources(maker, shapes.output(), shapes.filters),
                     size, **shapes.options)


def of_weights(maker):
    ndim = maker.any_of([2, 2, 3])
    shapes = geometry(maker, ndim)
    if shapes is None:
        return None
    return maker.add(f'abstract_conv.conv{ndim}d_grad_wrt_weights', *sources(maker, shapes.images, shapes.output()),
                     shapes.filters, **shapes.options)


def unshared(maker):
    """A convolution with different filters at each position."""
    shapes = geometry(maker, 2)
    if shapes is None:
        return None
    _, _, height, width = shapes.output()
    count, channels, *size = shapes.filters
    images, filters = sources(maker, shapes.images, (count, height, width, channels, *size))
    return maker.add('T.nnet.conv2d', images, filters, **shapes.options, unshared=True)


def separable(maker):
    shapes = geometry(maker, 2)
    if shapes is None or 'num_groups' in shapes.options or not isinstance(shapes.options['border_mode'], str):
        return None
    channels, options = shapes.images[1], {**shapes.options}
    images, depth, point = sources(maker, shapes.images, (channels, 1, *shapes.filters[2:]), (2, channels, 1, 1))
    return maker.add('T.nnet.separable_conv2d', images, depth, point, channels, **options)


def causal(maker):
    channels, length = maker.integer(1, 4), maker.integer(2, 9)
    images, filters = sources(maker, (2, channels, length), (3, channels, maker.integer(1, 4)))
    return maker.add('abstract_conv.causal_conv1d', images, filters, (3, channels, maker.sources[1].shape[2]),
                     subsample=maker.integer(1, 3), filter_flip=maker.chance(0.5), filter_dilation=maker.integer(1, 3))


def upsampled(maker):
    images, = sources(maker, (maker.integer(1, 3), maker.integer(1, 3), maker.integer(2, 5), maker.integer(2, 5)))
    return maker.add('abstract_conv.bilinear_upsampling', images, maker.integer(2, 4), use_1D_kernel=maker.chance(0.5))


def without_channels(maker):
    """A convolution of `theano.tensor.signal`."""
    size, filters = [tuple(maker.integer(low, high) for _ in range(2)) for low, high in ((3, 8), (1, 4))]
    image, kernel = sources(maker, size, filters)
    return maker.add('conv.conv2d', image, kernel, border_mode=maker.any_of(['valid', 'full']))


def neighbours(maker):
    size = maker.integer(1, 4), maker.integer(1, 4)
    images, = sources(maker, (2, 2, size[0] * maker.integer(1, 4), size[1] * maker.integer(1, 4)))
    return maker.add('T.nnet.neighbours.images2neibs', images, size, mode='valid')


# ----------------------------------------------------------------------------------------------------------------------
# Pooling.


def pooled(maker):
    ndim = maker.any_of([2, 2, 3])
    size = tuple(maker.integer(1, 4) for _ in range(ndim))
    shape = [maker.integer(3, 9) for _ in range(ndim)]
    shape = [*[maker.integer(1, 3) for _ in range(maker.any_of([0, 1, 2, 2, 2]))], *shape]
    images, = sources(maker, tuple(shape))
    ignores = maker.chance(0.6)
    pad = tuple(maker.integer(0, length) for length in size) if ignores and maker.chance(0.5) else (0,) * ndim
    return maker.add(f'pool.pool_{ndim}d', images, size, ignores, tuple(maker.integer(1, 4) for _ in range(ndim)), pad,
                     maker.any_of(['max', 'max', 'sum', 'average_inc_pad', 'average_exc_pad']))


KINDS = [forward] * 5 + [of_inputs] * 2 + [of_weights] * 2 + [pooled] * 4 + [
    unshared, separable, causal, upsampled, without_channels, neighbours]


def by_rule(recipe: Recipe) -> Recipe:
    """Replace padded max pooling by padding and max pooling.

    The gradient of padded max pooling uses wrong windows in Theano's Python code, unlike its C code.
    """
    calls = []
    for call in recipe.calls:
        is_padded = call.function.startswith('pool.') and call.arguments[5] == 'max' and any(call.arguments[4])
        calls.append(Call('padded_max_pool', call.arguments[:5]) if is_padded else call)
    return dataclasses.replace(recipe, calls=tuple(calls))
