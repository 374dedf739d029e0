"""The cost of networks: multiplications, activations, parameters."""


import lasagne
import numpy as np

from nets.network import Network
from nets.variables import shape_of


def multiplications(net: Network, resolution: int) -> int:
    """Multiplications of one forward pass of the convolutions of `net` at and below `resolution`, per image."""
    return sum(count for height, count in layer_multiplications(net) if height <= resolution)


def layer_multiplications(net: Network) -> list[tuple[int, int]]:
    """[(height of the output, multiplications per image)] of every layer of `net`."""
    counts = []
    for layer in lasagne.layers.get_all_layers(net.output_layers):
        height = layer.output_shape[2] if len(layer.output_shape) == 4 else 1
        weights = [shape_of(param).num_elements() for param in layer.get_params() if param.ndim >= 2]
        counts.append((height, int(sum(weights) * height ** 2 * getattr(layer, 'taps_per_weight', 1))))
    return counts


def activations(net: Network, resolution: int) -> int:
    """Values that the layers of `net` at and below `resolution` put out for one image."""
    shapes = [layer.output_shape[1:] for layer in lasagne.layers.get_all_layers(net.output_layers)]
    return sum(int(np.prod(shape)) for shape in shapes if len(shape) < 3 or shape[1] <= resolution)


def num_trainable(net: Network) -> int:
    """Number of trainable parameters of a network, all its toRGB or fromRGB layers included."""
    return sum(shape_of(var).num_elements() for var in net.trainables.values())
