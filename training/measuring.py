"""How fast this machine is at what a training does, measured in a second or two.

On the torch engine that is the gradient of D's scores with respect to D's weights, about a sixth of a step, for which
no training has to be compiled. On Theano's own engines, whose compiling takes long, it is one convolution.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import theano
import theano.tensor as T

from nets.network import Network

GRADIENT_FORWARDS = 3       # What a network's forward pass and the gradients of its weights take, in forward passes.
WARM_UP_CALLS = 2           # The first ones compile kernels and choose algorithms.


def mean_seconds(function: Callable[[], object], seconds: float) -> float:
    """The mean duration of a call, of calls that take `seconds` together, or of one.

    It counts how long the calls wait for a busy machine, as a training will.
    """
    def duration() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    for _call in range(WARM_UP_CALLS):
        first = duration()
        if first > seconds:     # Then compiling is a small part of it.
            return first
    durations = [duration()]
    while sum(durations) < seconds:
        durations.append(duration())
    return sum(durations) / len(durations)


def gradient_seconds(D: Network, resolution: int, num_images: int, seconds: float = 0.5) -> float:
    """Seconds that the gradients of D's weights take at a resolution, on the engine in use.

    Parameters
    ----------
    D : Network
    resolution : int
        Of the images; below that of the network, its finer layers are left out.
    num_images : int
        In a minibatch.
    seconds : float
        How long to measure, compiling not counted.
    """
    lod = int(np.log2(D.input_shape[-1] // resolution))
    grows = 'cur_lod' in D.toplevel_params
    images = T.TensorType('float32', (False,) * 4)('images')
    lods: Any = {'min_lod': lod, 'max_lod': lod, 'image_lod': lod} if grows else {}
    scores = D.get_output_for(images, **lods)
    loss = sum(T.sum(output) for output in (scores if isinstance(scores, (list, tuple)) else [scores]))
    gradients = theano.grad(loss, list(D.trainables.values()), disconnected_inputs='ignore')
    function = theano.function([images], [T.sum(gradient) for gradient in gradients])
    height = resolution if grows else D.input_shape[-1]
    values = np.random.RandomState(0).randn(num_images, D.input_shape[1], height, height).astype(np.float32)
    return mean_seconds(lambda: function(values), seconds)


def convolution_flops(num_images: int = 4, channels: int = 32, size: int = 32, seconds: float = 0.3) -> float:
    """Operations a second of a convolution with 3x3 taps and its gradients, on the engine in use."""
    images = T.TensorType('float32', (False,) * 4)('images')
    random = np.random.RandomState(0)
    weights = theano.shared(random.randn(channels, channels, 3, 3).astype(np.float32))
    output = T.sum(T.nnet.conv2d(images, weights, border_mode='half') ** 2)
    function = theano.function([images], [T.sum(grad) for grad in theano.grad(output, [images, weights])])
    values = random.randn(num_images, channels, size, size).astype(np.float32)
    operations = 2 * GRADIENT_FORWARDS * num_images * channels ** 2 * 9 * size ** 2
    return operations / mean_seconds(lambda: function(values), seconds)
