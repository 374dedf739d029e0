"""The cost of networks: multiplications, activations, parameters."""


import lasagne
import numpy as np

from nets.network import Network
from nets.variables import shape_of


def multiplications(net: Network, resolution: int) -> int:
    """Multiplications per image in the convolutions of `net` at and below `resolution`, forward pass."""
    return sum(count for height, count in layer_multiplications(net) if height <= resolution)


def layer_multiplications(net: Network) -> list[tuple[int, int]]:
    """(output height, multiplications per image) of every layer of `net`."""
    counts = []
    for layer in lasagne.layers.get_all_layers(net.output_layers):
        height = layer.output_shape[2] if len(layer.output_shape) == 4 else 1
        weights = [shape_of(param).num_elements() for param in layer.get_params() if param.ndim >= 2]
        counts.append((height, int(sum(weights) * height ** 2 * getattr(layer, 'taps_per_weight', 1))))
    return counts


def activations(net: Network, resolution: int) -> int:
    """Number of output values per image of the layers of `net` at and below `resolution`."""
    shapes = [layer.output_shape[1:] for layer in lasagne.layers.get_all_layers(net.output_layers)]
    return sum(int(np.prod(shape)) for shape in shapes if len(shape) < 3 or shape[1] <= resolution)


def num_trainable(net: Network) -> int:
    """Number of trainable parameters of a network, including all its toRGB or fromRGB layers."""
    return sum(shape_of(var).num_elements() for var in net.trainables.values())
