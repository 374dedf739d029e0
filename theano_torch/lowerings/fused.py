"""Lowering of fused convolution, bias and activation, the op of `rewrites.fusion`.

On the CPU, oneDNN computes all in one kernel. Elsewhere bias and activation are applied to the new output in place.
"""

from typing import Any

from theano_torch.lowerings.conv import forward_convolution, transposed_convolution
from theano_torch.registry import lower, lower_activation
from theano_torch.rewrites.fusion import ConvBiasActivation

import torch
from theano.tensor.nnet import abstract_conv
from torch import Tensor

pointwise: Any = getattr(torch.ops.mkldnn, '_convolution_pointwise', None)     # PyTorch for macOS lacks it.


@lower.register(ConvBiasActivation)
def _(op, node, build):
    is_transposed = isinstance(op.conv, abstract_conv.AbstractConv2d_gradInputs)
    convolution = (transposed_convolution if is_transposed else forward_convolution)(op.conv, node, build)
    geometry = convolution.geometry
    name, parameters, in_place = lower_activation(op.activation) if op.activation else ('none', [], None)
    variables = [*node.inputs[:2], node.inputs[-1]]
    is_one_kernel = name and pointwise is not None and convolution.is_direct and build.device.type == 'cpu' and \
        geometry.compute == torch.float32 and geometry.is_plain() and torch.backends.mkldnn.is_available()

    def run_one_kernel(image: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
        return pointwise(geometry.image(image), geometry.flip(filters), bias.to(geometry.dtype).contiguous(),
                         geometry.pad, [1, 1], [1, 1], 1, name, parameters, '')

    def run(first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
        result = convolution.run(first, second, bias.to(geometry.dtype))
        return result if in_place is None else in_place(result)
    return (run_one_kernel if is_one_kernel else run), variables
