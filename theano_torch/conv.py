"""Convolutions in two and three dimensions and their gradients.

Theano's `filter_flip` is a convolution proper; torch computes correlations, so the filters are flipped before. Theano's
three ops name their inputs image, filters and top gradient (the one of the output); torch needs only the shape of
the tensor whose gradient is asked for.
"""

import torch
from theano.tensor.nnet import abstract_conv

from theano_torch.convert import torch_dtype
from theano_torch.registry import UnsupportedOp, lower

convolution = torch.ops.aten.convolution.default
convolution_backward = torch.ops.aten.convolution_backward.default


class Geometry:
    """What a convolution op says, in torch's words."""

    def __init__(self, op, node, kernel_size):
        if getattr(op, 'unshared', False):
            raise UnsupportedOp('theano_torch has no convolutions with unshared filters: %s' % node)
        self.ndim = op.convdim
        self.stride, self.dilation = list(op.subsample), list(op.filter_dilation)
        self.groups = getattr(op, 'num_groups', 1)
        self.pads = self.padding(op, kernel_size)
        self.is_symmetric = all(before == after for before, after in self.pads)
        self.pad = [before for before, _ in self.pads] if self.is_symmetric else [0] * self.ndim
        flips = op.filter_flip and any(size > 1 for size in kernel_size)
        self.flip_axes = tuple(range(2, 2 + self.ndim)) if flips else None
        self.dtype = torch_dtype(node.outputs[0].type.dtype)

    def padding(self, op, kernel_size):
        """(before, after) for each spatial dimension."""
        dilated = [(size - 1) * step + 1 for size, step in zip(kernel_size, self.dilation, strict=True)]
        if op.border_mode == 'half':
            return [(size // 2, size // 2) for size in dilated]
        if op.border_mode == 'full':
            return [(size - 1, size - 1) for size in dilated]
        if op.border_mode == 'valid':
            return [(0, 0)] * self.ndim
        modes = op.border_mode if isinstance(op.border_mode, tuple) else (op.border_mode,) * self.ndim
        return [pad if isinstance(pad, tuple) else (pad, pad) for pad in modes]

    def flip(self, filters):
        return filters if self.flip_axes is None else filters.flip(self.flip_axes)

    def padded(self, image):
        """`image` with the padding that torch cannot do, the one that differs between the two sides."""
        if self.is_symmetric:
            return image
        return torch.nn.functional.pad(image, [side for pads in reversed(self.pads) for side in pads])

    def padded_size(self, size):
        return list(size) if self.is_symmetric else [n + sum(pads) for n, pads in zip(size, self.pads, strict=True)]

    def cropped(self, image):
        """The inverse of `padded`."""
        if self.is_symmetric:
            return image
        return image[(slice(None), slice(None), *[slice(before, size - after) for (before, after), size in
                                                  zip(self.pads, image.shape[2:], strict=True)])]


@lower.register(abstract_conv.AbstractConv)
def _(op, node, build):
    geometry = Geometry(op, node, build.shape(node.inputs[1])[2:])
    stride, pad, dilation, groups, zeros = (
        geometry.stride, geometry.pad, geometry.dilation, geometry.groups, [0] * geometry.ndim)
    channels = build.shape(node.inputs[0])[1], build.shape(node.inputs[1])[1] * groups
    if channels[0] != channels[1]:
        raise ValueError('The image has %d channels, the filters (times groups) have %d' % channels)

    def conv(image, filters):
        return convolution(geometry.padded(image).to(geometry.dtype), geometry.flip(filters.to(geometry.dtype)), None,
                           stride, pad, dilation, False, zeros, groups)
    return conv


@lower.register(abstract_conv.AbstractConv_gradWeights)
def _(op, node, build):
    kernel_size = build.integers(node.inputs[2])
    geometry = Geometry(op, node, kernel_size)
    stride, pad, dilation, groups, zeros = (
        geometry.stride, geometry.pad, geometry.dilation, geometry.groups, [0] * geometry.ndim)
    shape = [build.shape(node.inputs[1])[1], build.shape(node.inputs[0])[1] // groups, *kernel_size]

    def grad_weights(image, top_grad):
        like = top_grad.new_empty(shape, dtype=geometry.dtype)
        gradient = convolution_backward(
            top_grad.to(geometry.dtype), geometry.padded(image).to(geometry.dtype), like, None, stride, pad, dilation,
            False, zeros, groups, [False, True, False])[1]
        return geometry.flip(gradient)
    return grad_weights, node.inputs[:2]


@lower.register(abstract_conv.AbstractConv_gradInputs)
def _(op, node, build):
    image_size = build.integers(node.inputs[2])
    kernel_size, top_size = build.shape(node.inputs[0])[2:], build.shape(node.inputs[1])[2:]
    geometry = Geometry(op, node, kernel_size)
    stride, pad, dilation, groups = geometry.stride, geometry.pad, geometry.dilation, geometry.groups
    # What the strides skipped at the end of the image.
    missing = [size - ((top - 1) * step - 2 * edge + (kernel - 1) * dil + 1) for size, top, step, edge, kernel, dil in
               zip(geometry.padded_size(image_size), top_size, stride, pad, kernel_size, dilation, strict=True)]
    if not all(0 <= rest < step for rest, step in zip(missing, stride, strict=True)):
        raise ValueError('gradients of size %s do not belong to images of size %s' % (top_size, image_size))

    def grad_inputs(filters, top_grad):
        filters = geometry.flip(filters.to(geometry.dtype))
        return geometry.cropped(convolution(top_grad.to(geometry.dtype), filters, None, stride, pad, dilation, True,
                                            missing, groups))
    return grad_inputs, node.inputs[:2]
