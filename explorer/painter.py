"""Generate images for points of the latent space, at any level of detail. Nothing here knows the page or HTTP."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence

import theano_torch

import lasagne
import numpy as np
import theano
import theano.tensor as T

import theano_env
from common.errors import UserError
from common.images import zoomed
from explorer.points import Point
from nets.layers import LODSelectLayer
from nets.network import Network, random_latents
from runs.images import DivergedNetwork, class_names_of, num_classes

MINIBATCH_PIXELS = 1 << 18      # Pixels generated at once; small, so that other requests do not wait long.


class Painter:
    """Generates images with `G`. Use it from one thread only, since Theano and PyTorch keep state per thread.

    Parameters
    ----------
    G : Network
        Its variable ``cur_lod`` is changed.

    Attributes
    ----------
    lods : (float, int)
        The finest and the coarsest trained lod. The finest one is ``cur_lod`` of the saved network.
    """

    def __init__(self, G: Network) -> None:
        self.G = G
        self._functions: dict = {}      # {level: compiled function}
        self.latent_size, self.label_size = G.input_shapes[0][1], num_classes(G)
        self.channels, self.resolution = G.output_shape[1], G.output_shape[-1]
        selects = [layer for layer in lasagne.layers.get_all_layers(G.output_layers)
                   if isinstance(layer, LODSelectLayer)]
        last = max((len(layer.input_layers) - 1 for layer in selects), default=0)
        first = float(G.get_var('cur_lod')) if last else 0.0
        self.lods = (min(max(first, 0.0), float(last)), last)

    def describe(self) -> dict:
        """Facts about the network that the page needs, for JSON."""
        classes = class_names_of(self.G) or [str(number) for number in range(self.label_size)]
        return {'latent_size': self.latent_size, 'classes': classes, 'resolution': self.resolution,
                'channels': self.channels, 'lods': list(self.lods)}

    def latents_of_seed(self, seed: int) -> list[float]:
        """The latents that ``generate_fake_images --seeds SEED`` uses."""
        return random_latents(1, self.G, np.random.RandomState(seed))[0].tolist()

    def check(self, points: Sequence[Point]) -> None:
        """Raise `UserError` unless all points fit the network: latent size, label size, trained lods."""
        first, last = self.lods
        for point in points:
            for name, values, size in (('latents', point.latents, self.latent_size),
                                       ('label', point.label, self.label_size)):
                if len(values) != size:
                    raise UserError(f'{name}: {len(values)} numbers; this network takes {size}')
            if not first <= point.lod <= last:
                raise UserError(f'lod={point.lod!r}: this network has {first:g} to {last}')

    def images(self, points: Sequence[Point], level: int | None = None) -> Iterator[np.ndarray]:
        """Yield uint8 images (C, H, W), all of the resolution of `level`: full resolution / 2^level.

        Parameters
        ----------
        points : sequence of Point
        level : int, optional
            Must not exceed the lod of any point. Default: :func:`finest_level`.

        Raises
        ------
        DivergedNetwork
            Pixels are NaN or infinity.
        """
        finest = finest_level(points) if level is None else level
        for lod, group in itertools.groupby(points, lambda point: point.lod):
            own_level, rest = math.floor(lod), list(group)
            limit = max(MINIBATCH_PIXELS // (self.resolution >> own_level) ** 2, 1)
            for begin in range(0, len(rest), limit):
                yield from zoomed(self._minibatch(rest[begin:begin + limit], lod), 2 ** (own_level - finest))

    def seconds_per_image(self, point: Point, tries: int = 3) -> float:
        """Seconds to generate one image: the fastest of some tries, after compiling."""
        list(self.images([point]))
        seconds = []
        for _try in range(tries):
            begin = time.perf_counter()
            list(self.images([point]))
            seconds.append(time.perf_counter() - begin)
        return min(seconds)

    def _minibatch(self, points, lod):
        level = math.floor(lod)
        if self.lods[1]:
            self.G.set_var('cur_lod', np.float32(lod))
        arrays = [np.array([getattr(point, name) for point in points], np.float32).reshape(len(points), -1)
                  for name in ('latents', 'label')]
        pixels = self._function(level)(*arrays, np.array([[point.psi] for point in points], np.float32))
        if not np.isfinite(pixels).all():
            raise DivergedNetwork(f'{self.G.source or self.G.name}: this network makes images of NaN or infinity, as '
                                  'its training diverged; use an earlier snapshot')
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)

    def _function(self, level):
        """The compiled function (latents, labels, psi) -> images 0..255 for lods in [level, level + 1)."""
        if level not in self._functions:
            inputs = [T.fmatrix('latents'), T.fmatrix('labels'), T.TensorType('float32', (False, True))('psi')]
            images = truncated_output(self.G, *inputs, min_lod=level, max_lod=min(level + 1, self.lods[1]),
                                      image_lod=level)
            with theano_env.COMPILING:
                self._functions[level] = theano.function(
                    inputs, T.cast(images, 'float32') * np.float32(127.5) + np.float32(127.5), on_unused_input='ignore',
                    mode=theano_torch.float32_sums(theano.config.mode))
        return self._functions[level]


def finest_level(points: Sequence[Point]) -> int:
    """The lowest lod of some points, rounded down."""
    return min(math.floor(point.lod) for point in points)


def truncated_output(G: Network, latents, labels, psi, **lods: int):
    """Symbolic images for symbolic latents (N, latent_size) and labels, with truncation `psi` (N, 1).

    Most networks normalize their latents, so scaling the input would have no effect. Instead, `psi` scales the output
    of the last layer that depends on nothing but the latents and has no weights below it. The conditional network of
    2018 normalizes latents and labels together; there, `psi` scales the latents. Batch norm uses its running averages,
    so that an image does not depend on the other points.
    """
    given = dict(zip(G.input_layers, (latents, labels), strict=False))
    lone = [layer for layer in lasagne.layers.get_all_layers(G.output_layers)
            if not lasagne.layers.get_all_params(layer)
            and [one for one in lasagne.layers.get_all_layers(layer) if one in G.input_layers] == G.input_layers[:1]]
    kwargs = {**G.static_kwargs, 'deterministic': True, 'batch_norm_use_averages': True, **lods}
    prepared = lasagne.layers.get_output(lone[-1], given, **kwargs)
    factor = psi if prepared.ndim == 2 else psi.reshape((-1, *[1] * (prepared.ndim - 1)))
    return lasagne.layers.get_output(G.output_layers[0], {**given, lone[-1]: prepared * factor}, **kwargs)
