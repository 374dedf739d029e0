"""Theano ops of the project, for all engines and twice differentiable: leaky ReLU, and resampling by whole factors.

Each has Python code, C code and a lowering to PyTorch. Each replaces several passes over memory in Theano's version;
the resampling ops also replace about ten graph nodes.
"""

from typing import Any

import theano_torch

import numpy as np
import theano
import theano.tensor as T
from theano import gof, scalar
from theano.tensor.nnet import abstract_conv

# ----------------------------------------------------------------------------------------------------------------------
# Leaky ReLU: one pass over memory; Lasagne's a * x + b * abs(x) takes three.


class _Leaky:
    """Base of :class:`LeakyReLU` and its gradient."""

    __props__ = ('slope',)

    def __init__(self, slope, output_types=scalar.upgrade_to_float):
        self.slope = float(slope)
        super().__init__(output_types)

    def make_new_inplace(self, output_types=scalar.upgrade_to_float, name=None):
        """Theano's inplace rewrite calls this, because it cannot pass the slope to the constructor."""
        return type(self)(self.slope, output_types)

    def c_code(self, node, name, inputs, outputs, sub):
        ctype = node.outputs[0].type.dtype_specs()[1]
        x, y, z = inputs[0], inputs[-1], outputs[0]
        return f'{z} = {x} > 0 ? ({ctype}){y} : ({ctype}){self.slope!r} * {y};'

    def c_code_cache_version(self):
        return (1, self.slope)


class LeakyReLU(_Leaky, scalar.UnaryScalarOp):
    """``x if x > 0 else slope * x``.

    At zero the derivative is `slope`, as in PyTorch and cuDNN; Theano's ``a * x + b * abs(x)`` has (1 + slope) / 2.
    """

    __props__ = ('slope',)

    def impl(self, x: float) -> float:
        return x if x > 0 else self.slope * x

    def grad(self, inputs, output_grads) -> list:
        return [LeakyReLUGrad(self.slope)(inputs[0], output_grads[0])]


class LeakyReLUGrad(_Leaky, scalar.BinaryScalarOp):
    """``gz if x > 0 else slope * gz``: the gradient of :class:`LeakyReLU`, linear in gz."""

    __props__ = ('slope',)

    def impl(self, x: float, gz: float) -> float:
        return gz if x > 0 else self.slope * gz

    def grad(self, inputs, output_grads) -> list:
        x, _gz = inputs
        return [x.zeros_like(), LeakyReLUGrad(self.slope)(x, output_grads[0])]


def leaky_relu(x, slope: float):
    """Elementwise ``x if x > 0 else slope * x`` of a Theano expression (any shape, float dtype)."""
    return T.Elemwise(LeakyReLU(slope))(x)


@T.opt.register_specialize
@gof.local_optimizer([T.Elemwise])
def local_leaky_relu_grad_of_output(node):
    """Rewrite the gradient to use the output of the leaky ReLU, which has the same sign as its input.

    The memory of the input can then be freed as soon as the output exists.
    """
    if not isinstance(node.op.scalar_op, LeakyReLUGrad) or node.op.scalar_op.slope < 0:
        return None
    x, gz = node.inputs
    for client, _index in x.clients:
        if client != 'output' and isinstance(client.op, T.Elemwise) and \
                client.op.scalar_op == LeakyReLU(node.op.scalar_op.slope):
            return [node.op(client.outputs[0], gz)]
    return None


# ----------------------------------------------------------------------------------------------------------------------
# Resampling. Averaging and repeating pixels are each other's gradients, up to a factor.


class _Resample2D(gof.Op):
    """Base of :class:`AveragePool2D` and :class:`Repeat2D`."""

    __props__ = ('factor',)

    def __init__(self, factor: int):
        self.factor = int(factor)

    def make_node(self, x):
        x = T.as_tensor_variable(x)
        if x.ndim != 4 or x.dtype not in theano.tensor.float_dtypes:
            raise TypeError(f'{self} needs a 4D float tensor, got {x.type}')
        return gof.Apply(self, [x], [T.TensorType(x.dtype, x.broadcastable[:2] + (False, False))()])

    def infer_shape(self, node, input_shapes):
        (n, c, h, w), = input_shapes
        return [(n, c, self.resized(h), self.resized(w))]

    def c_code(self, node, name, inputs, outputs, sub):
        names = dict(x=inputs[0], z=outputs[0], f=self.factor, type=node.inputs[0].type.dtype_specs()[1], **sub)
        names.update(check=self.c_check % names, height=self.c_resized % dict(names, axis=2),
                     width=self.c_resized % dict(names, axis=3), pixel=self.c_pixel % names)
        return """
            {
                %(check)s
                npy_intp dims[4] = {PyArray_DIM(%(x)s, 0), PyArray_DIM(%(x)s, 1), %(height)s, %(width)s};
                Py_XDECREF(%(z)s);
                %(z)s = (PyArrayObject*) PyArray_EMPTY(4, dims, PyArray_TYPE(%(x)s), 0);
                if (!%(z)s) { %(fail)s }
                for (npy_intp n = 0; n < dims[0]; n++)
                for (npy_intp c = 0; c < dims[1]; c++)
                for (npy_intp i = 0; i < dims[2]; i++)
                for (npy_intp j = 0; j < dims[3]; j++) {
                    %(type)s value;
                    %(pixel)s
                    *(%(type)s*) PyArray_GETPTR4(%(z)s, n, c, i, j) = value;
                }
            }
        """ % names

    def c_code_cache_version(self):
        return (2,)


class AveragePool2D(_Resample2D):
    """Average of `factor` x `factor` pixels of x (N, C, H, W); H and W are multiples of `factor`."""

    __props__ = ('factor',)
    c_check = """
        if (PyArray_DIM(%(x)s, 2) %% %(f)d || PyArray_DIM(%(x)s, 3) %% %(f)d) {
            PyErr_SetString(PyExc_ValueError, "AveragePool2D: the size is not a multiple of the factor");
            %(fail)s
        }"""
    c_resized = 'PyArray_DIM(%(x)s, %(axis)d) / %(f)d'
    c_pixel = """
        value = 0;
        for (npy_intp k = 0; k < %(f)d; k++)
        for (npy_intp l = 0; l < %(f)d; l++)
            value += *(%(type)s*) PyArray_GETPTR4(%(x)s, n, c, i * %(f)d + k, j * %(f)d + l);
        value /= %(f)d * %(f)d;"""

    def resized(self, size: int) -> int:
        return size // self.factor

    def perform(self, node, inputs: list[np.ndarray], output_storage: list[list]) -> None:
        x, f = inputs[0], self.factor
        if x.shape[2] % f or x.shape[3] % f:
            raise ValueError('%s: %dx%d is not a multiple of the factor' % ((self,) + x.shape[2:]))
        # Row by row, as in the C code, so that float32 sums are bitwise equal.
        total: Any = sum(x[:, :, i::f, j::f] for i in range(f) for j in range(f))
        output_storage[0][0] = (total / f ** 2).astype(x.dtype)

    def grad(self, inputs, output_grads) -> list:
        share = np.asarray(1.0 / self.factor ** 2, dtype=inputs[0].dtype)
        return [Repeat2D(self.factor)(output_grads[0] * share)]


class Repeat2D(_Resample2D):
    """Repeat every pixel of x (N, C, H, W) `factor` times along H and W."""

    __props__ = ('factor',)
    c_check = ''
    c_resized = 'PyArray_DIM(%(x)s, %(axis)d) * %(f)d'
    c_pixel = 'value = *(%(type)s*) PyArray_GETPTR4(%(x)s, n, c, i / %(f)d, j / %(f)d);'

    def resized(self, size: int) -> int:
        return size * self.factor

    def perform(self, node, inputs: list[np.ndarray], output_storage: list[list]) -> None:
        output_storage[0][0] = inputs[0].repeat(self.factor, axis=2).repeat(self.factor, axis=3)

    def grad(self, inputs, output_grads) -> list:
        number = np.asarray(self.factor ** 2, dtype=inputs[0].dtype)
        return [AveragePool2D(self.factor)(output_grads[0]) * number]


def upscale2d(x, factor: int):
    """Repeat every pixel of `x` (N, C, H, W) `factor` times along H and W."""
    return x if factor == 1 else Repeat2D(factor)(x)


def downscale2d(x, factor: int):
    """Average of `factor` x `factor` pixels of `x` (N, C, H, W)."""
    return x if factor == 1 else AveragePool2D(factor)(x)


def is_upscaled(x, factor: int) -> bool:
    """Whether the expression `x` is the output of ``upscale2d(..., factor)``."""
    return x.owner is not None and x.owner.op == Repeat2D(factor)


def upscale2x_conv2d(x, filters):
    """Convolve x, repeated to twice its size, with 3x3 filters W and one pixel of padding.

    Takes 16 multiplications per pixel of x instead of 36. Filter taps that multiply the same repeated pixel are added
    beforehand, which gives a transposed convolution of stride 2 with 4x4 filters.

    Parameters
    ----------
    x : 4D expression (N, C, H, W)
    filters : 4D expression (C, K, 4, 4)
        ``upscale2x_filters(W)``.

    Returns
    -------
    4D expression (N, K, 2 H, 2 W)
    """
    transposed = abstract_conv.AbstractConv2d_gradInputs(border_mode=(1, 1), subsample=(2, 2), filter_flip=False)
    return transposed(filters, x, (x.shape[2] * 2, x.shape[3] * 2))


def upscale2x_filters(W):
    """Filters for :func:`upscale2x_conv2d` from W (K, C, 3, 3); along each axis W0, W0 + W1, W1 + W2, W2."""
    taps = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]])
    taps = T.constant(np.kron(taps, taps).astype(W.dtype))
    k, c = W.shape[0], W.shape[1]
    return T.dot(W.reshape((k * c, 9)), taps).reshape((k, c, 4, 4)).dimshuffle(1, 0, 2, 3)


class FlipFilters(gof.Op):
    """Reverse filters (K, C, height, width) along height and width, which turns correlation into convolution."""

    __props__ = ()
    view_map = {0: [0]}

    def make_node(self, W):
        W = T.as_tensor_variable(W)
        return gof.Apply(self, [W], [W.type()])

    def infer_shape(self, node, input_shapes: list) -> list:
        return input_shapes

    def perform(self, node, inputs: list[np.ndarray], output_storage: list[list]) -> None:
        output_storage[0][0] = inputs[0][:, :, ::-1, ::-1]

    def grad(self, inputs, output_grads) -> list:
        return [flip_filters(output_grads[0])]


def flip_filters(W):
    """``W[:, :, ::-1, ::-1]`` for 4D filters, as a single op whose gradient is the same op."""
    return FlipFilters()(W)


# ----------------------------------------------------------------------------------------------------------------------
# Lowerings to PyTorch for `theano_torch`.


@theano_torch.lower_scalar.register(LeakyReLU)
def _(op, node):
    import torch
    return lambda x: torch.nn.functional.leaky_relu(x, op.slope)


@theano_torch.lower_scalar.register(LeakyReLUGrad)
def _(op, node):
    import torch
    return lambda x, gz: torch.ops.aten.leaky_relu_backward(gz, x, op.slope, False)


@theano_torch.lower_activation.register(LeakyReLU)
def _(op):
    import torch
    # With slope 0, oneDNN turns NaN into zero, which would hide a diverged training.
    return 'leaky_relu' if op.slope else '', [op.slope], lambda x: torch.nn.functional.leaky_relu_(x, op.slope)


@theano_torch.lower.register(FlipFilters)
def _(op, node, build):
    import torch
    memory_format = build.image_format(torch.float32)
    return lambda W: W.flip(2, 3).contiguous(memory_format=memory_format)


@theano_torch.lower.register(AveragePool2D)
def _(op, node, build):
    import torch
    f = op.factor

    def average(x):
        if x.shape[2] % f or x.shape[3] % f:
            raise ValueError(f'{op}: {x.shape[2]}x{x.shape[3]} is not a multiple of the factor')
        return torch.nn.functional.avg_pool2d(x, f)
    return average


@theano_torch.lower.register(Repeat2D)
def _(op, node, build):
    import torch
    return lambda x: torch.nn.functional.interpolate(x, scale_factor=float(op.factor), mode='nearest')
