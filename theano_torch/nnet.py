"""Convolution, pooling, softmax."""

import numpy as np
import torch
import torch.nn.functional as F
from theano.tensor import nnet
from theano.tensor.nnet import abstract_conv
from theano.tensor.signal import pool

from theano_torch.registry import lower

convolution = torch.ops.aten.convolution
convolution_backward = torch.ops.aten.convolution_backward


def padding_of(op, kernel_size):
    """Symmetric zero padding of each spatial dimension."""
    if op.border_mode == 'valid':
        return [0] * len(kernel_size)
    dilated = [(size - 1) * step + 1 for size, step in zip(kernel_size, op.filter_dilation, strict=True)]
    if op.border_mode == 'half':
        return [size // 2 for size in dilated]
    if op.border_mode == 'full':
        return [size - 1 for size in dilated]
    pads = [pad if isinstance(pad, tuple) else (pad, pad) for pad in op.border_mode]
    if any(before != after for before, after in pads):
        raise TypeError('asymmetric padding %s' % (op.border_mode,))
    return [before for before, _after in pads]


def flip_of(op):
    """Theano's filter_flip=True is convolution; torch computes correlations."""
    return (lambda w: w.flip((2, 3))) if op.filter_flip else (lambda w: w)


def check_supported(op):
    if getattr(op, 'unshared', False) or op.convdim != 2:
        raise TypeError('only shared 2-d convolutions are supported: %s' % op)


@lower.register(abstract_conv.AbstractConv2d)
def _(op, node, build):
    check_supported(op)
    flip, stride, dilation, groups = flip_of(op), list(op.subsample), list(op.filter_dilation), op.num_groups
    dtype = getattr(torch, node.outputs[0].type.dtype)

    def conv(image, w):
        pads = padding_of(op, w.shape[2:])
        return convolution(image.to(dtype), flip(w.to(dtype)), None, stride, pads, dilation, False, [0, 0], groups)
    return conv


@lower.register(abstract_conv.AbstractConv2d_gradWeights)
def _(op, node, build):
    check_supported(op)
    flip, stride, dilation, groups = flip_of(op), list(op.subsample), list(op.filter_dilation), op.num_groups
    kernel_size = [int(size) for size in build.host(node.inputs[2])]
    pads = padding_of(op, kernel_size)

    def grad_weights(image, top_grad, _):
        shape = [top_grad.shape[1], image.shape[1] // groups, *kernel_size]
        like = top_grad.new_empty(1).expand(shape)
        return flip(convolution_backward(top_grad, image, like, None, stride, pads, dilation, False, [0, 0], groups,
                                         [False, True, False])[1])
    return grad_weights


@lower.register(abstract_conv.AbstractConv2d_gradInputs)
def _(op, node, build):
    check_supported(op)
    flip, stride, dilation, groups = flip_of(op), list(op.subsample), list(op.filter_dilation), op.num_groups
    image_size = [int(size) for size in build.host(node.inputs[2])]

    def grad_inputs(w, top_grad, _):
        pads = padding_of(op, w.shape[2:])
        missing = [size - ((out - 1) * step - 2 * pad + (kernel - 1) * dil + 1) for size, out, step, pad, kernel, dil in
                   zip(image_size, top_grad.shape[2:], stride, pads, w.shape[2:], dilation, strict=True)]
        return convolution(top_grad, flip(w), None, stride, pads, dilation, True, missing, groups)
    return grad_inputs


# ----------------------------------------------------------------------------------------------------------------------
# Pooling.


class Window:
    """Size, stride and padding of a pooling op, and torch's words for them."""

    def __init__(self, op, node, build, first):
        self.size, self.stride, self.pad = (
            [int(value) for value in build.host(var)] for var in node.inputs[first:first + 3])
        self.mode, self.ceil, self.ndim = op.mode, not op.ignore_border, op.ndim
        if self.ndim != 2:
            raise TypeError('pooling over %d dimensions' % self.ndim)
        self.options = {'kernel_size': self.size, 'stride': self.stride, 'padding': self.pad, 'ceil_mode': self.ceil}
        self.is_tiling = self.size == self.stride and self.pad == [0, 0]

    def forward(self, x):
        flat = x.reshape(-1, 1, *x.shape[-2:])
        if self.mode == 'max':
            flat = F.max_pool2d(flat, **self.options)
        else:
            flat = F.avg_pool2d(flat, count_include_pad=self.mode != 'average_exc_pad', **self.options)
            if self.mode == 'sum':
                flat = flat * float(np.prod(self.size))
        return flat.reshape(*x.shape[:-2], *flat.shape[-2:])


@lower.register(pool.Pool)
def _(op, node, build):
    window = Window(op, node, build, 1)
    return lambda x, *_: window.forward(x)


@lower.register(pool.AveragePoolGrad)
def _(op, node, build):
    window = Window(op, node, build, 2)
    factor = 1.0 if window.mode == 'sum' else 1.0 / float(np.prod(window.size))
    high, wide = window.size

    def grad(x, gz, *_):
        if window.is_tiling and x.shape[-2] % high == 0 and x.shape[-1] % wide == 0:
            scaled = gz * factor
            spread = scaled[..., :, None, :, None].expand(*gz.shape[:-1], high, gz.shape[-1], wide)
            return spread.reshape(x.shape)
        flat_x, flat_gz = x.reshape(-1, 1, *x.shape[-2:]), gz.reshape(-1, 1, *gz.shape[-2:])
        result = torch.ops.aten.avg_pool2d_backward(
            flat_gz, flat_x, window.size, window.stride, window.pad, window.ceil, window.mode != 'average_exc_pad', None)
        return (result * float(np.prod(window.size)) if window.mode == 'sum' else result).reshape(x.shape)
    return grad


@lower.register(pool.MaxPoolGrad)
def _(op, node, build):
    """Every position that equals the window's maximum gets the gradient, as in Theano."""
    window = Window(op, node, build, 3)
    high, wide = window.size

    def grad(x, z, gz, *_):
        if not (window.is_tiling and x.shape[-2] % high == 0 and x.shape[-1] % wide == 0):
            raise TypeError('gradient of max pooling with overlapping windows or borders')
        def spread(y):
            return y[..., :, None, :, None].expand(*y.shape[:-1], high, y.shape[-1], wide).reshape(x.shape)
        return torch.where(x == spread(z), spread(gz), torch.zeros((), dtype=gz.dtype, device=gz.device))
    return grad


# ----------------------------------------------------------------------------------------------------------------------
# Softmax and cross-entropy.


@lower.register(nnet.nnet.Softmax)
def _(op, node, build):
    return lambda x: torch.softmax(x, dim=-1)


@lower.register(nnet.nnet.LogSoftmax)
def _(op, node, build):
    return lambda x: torch.log_softmax(x, dim=-1)


@lower.register(nnet.nnet.SoftmaxWithBias)
def _(op, node, build):
    return lambda x, b: torch.softmax(x + b, dim=-1)


@lower.register(nnet.nnet.SoftmaxGrad)
def _(op, node, build):
    return lambda dy, sm: dy * sm - (dy * sm).sum(dim=1, keepdim=True) * sm


@lower.register(nnet.nnet.CrossentropySoftmaxArgmax1HotWithBias)
def _(op, node, build):
    def cross_entropy(x, b, target):
        log_probabilities = torch.log_softmax(x + b, dim=-1)
        picked = log_probabilities.gather(1, target.long().unsqueeze(1)).squeeze(1)
        return -picked, log_probabilities.exp(), (x + b).argmax(dim=-1).to(target.dtype)
    return cross_entropy


@lower.register(nnet.nnet.CrossentropySoftmax1HotWithBiasDx)
def _(op, node, build):
    def gradient(dy, sm, target):
        hot = F.one_hot(target.long(), sm.shape[1]).to(sm.dtype)
        return dy.reshape(-1, 1) * (sm - hot)
    return gradient


@lower.register(nnet.nnet.CrossentropyCategorical1Hot)
def _(op, node, build):
    return lambda coding, target: -torch.log(coding.gather(1, target.long().unsqueeze(1)).squeeze(1))


@lower.register(nnet.nnet.CrossentropyCategorical1HotGrad)
def _(op, node, build):
    def gradient(dy, coding, target):
        index = target.long().unsqueeze(1)
        return torch.zeros_like(coding).scatter_(1, index, -dy.unsqueeze(1) / coding.gather(1, index))
    return gradient
