"""Measures in a second or two how fast this machine trains, to estimate the time of a run.

On the torch engine it times the gradient of D's scores with respect to D's weights, which is about a sixth of a step
and compiles quickly. Theano's own engines compile slowly, so there it times a single convolution.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import theano
import theano.tensor as T

from nets.network import Network

GRADIENT_FORWARDS = 3       # Cost of a forward pass and the gradients of the weights, in forward passes.
WARM_UP_CALLS = 2           # The first calls compile kernels and choose algorithms.


def mean_seconds(function: Callable[[], object], seconds: float) -> float:
    """Mean duration of a call. Calls are repeated until they take `seconds` together.

    The time includes waiting for a busy machine, as in a training.
    """
    def duration() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    for _call in range(WARM_UP_CALLS):
        first = duration()
        if first > seconds:     # Compiling is then a small part of it.
            return first
    durations = [duration()]
    while sum(durations) < seconds:
        durations.append(duration())
    return sum(durations) / len(durations)


def gradient_seconds(D: Network, resolution: int, num_images: int, seconds: float = 0.5) -> float:
    """Seconds that the gradients of D's weights take on the current engine.

    Parameters
    ----------
    D : Network
    resolution : int
        Resolution of the images. If it is below the network's, finer layers are skipped.
    num_images : int
        Size of the minibatch.
    seconds : float
        Duration of the measurement, without compiling.
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
    """Operations per second of a 3x3 convolution and its gradients on the current engine."""
    images = T.TensorType('float32', (False,) * 4)('images')
    random = np.random.RandomState(0)
    weights = theano.shared(random.randn(channels, channels, 3, 3).astype(np.float32))
    output = T.sum(T.nnet.conv2d(images, weights, border_mode='half') ** 2)
    function = theano.function([images], [T.sum(grad) for grad in theano.grad(output, [images, weights])])
    values = random.randn(num_images, channels, size, size).astype(np.float32)
    operations = 2 * GRADIENT_FORWARDS * num_images * channels ** 2 * 9 * size ** 2
    return operations / mean_seconds(lambda: function(values), seconds)
