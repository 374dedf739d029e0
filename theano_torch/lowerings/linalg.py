"""Matrix products."""

from collections.abc import Callable
from typing import Any

from theano_torch.convert import torch_dtype
from theano_torch.registry import lower
from theano_torch.trace import Build

import torch
from theano.tensor import basic, blas
from torch import Tensor

SHORT_SUM = 32      # For sums of fewer terms, conversion to a shorter type takes longer than multiplication.


def product(function: Callable, node: Any, build: Build, first: Any) -> Callable:
    """`function`, a product of two tensors, in the type of the computation; the result has the node's output type.

    `first` is the variable of the first factor, whose last axis is summed over.
    """
    dtype = torch_dtype(node.outputs[0].type.dtype)
    terms = build.shape(first)[-1] if first.ndim and function is not torch.outer else 1
    compute = build.computing(dtype) if terms >= SHORT_SUM else dtype
    if compute == dtype and all(var.type.dtype == node.outputs[0].type.dtype for var in node.inputs):
        return function
    return lambda x, y: function(x.to(compute), y.to(compute)).to(dtype)


def check_sum(shape: tuple[int, ...], product_shape: tuple[int, ...]) -> None:
    """Raise ValueError if a product cannot be added to a tensor; torch would broadcast the tensor."""
    if shape != product_shape:
        raise ValueError(f'Shape mismatch: a product of shape {product_shape} cannot be added to one of shape {shape}')


@lower.register(basic.Dot)
@lower.register(blas.Dot22)
def _(op, node, build):
    return product(torch.matmul, node, build, node.inputs[0])


@lower.register(blas.Dot22Scalar)
def _(op, node, build):
    multiply = product(torch.mm, node, build, node.inputs[0])
    return lambda x, y, factor: multiply(x, y) * factor


@lower.register(blas.Gemm)
@lower.register(blas.Gemv)
def _(op, node, build):
    """``b * z + a * dot(x, y)``; z is ignored if b is 0."""
    multiply = product(torch.matmul, node, build, node.inputs[2])
    check_sum(build.shape(node.inputs[0]), (*build.shape(node.inputs[2])[:-1], *build.shape(node.inputs[3])[1:]))
    if build.number(node.inputs[4]) == 0:
        return lambda a, x, y: multiply(x, y) * a, node.inputs[1:4]
    return lambda z, a, x, y, b: b * z + a * multiply(x, y)


@lower.register(blas.Ger)
def _(op, node, build):
    multiply = product(torch.outer, node, build, node.inputs[2])
    check_sum(build.shape(node.inputs[0]), (*build.shape(node.inputs[2]), *build.shape(node.inputs[3])))
    return lambda z, a, x, y: z + a * multiply(x, y)


@lower.register(blas.BatchedDot)
def _(op, node, build):
    multiply = product(torch.bmm, node, build, node.inputs[0])
    left, right = (var.ndim for var in node.inputs)
    sizes = [build.shape(var)[0] for var in node.inputs]
    if sizes[0] != sizes[1]:
        raise ValueError(f'Shapes of the inputs of BatchedDot differ in the first dimension: {sizes}')

    def batched_dot(x: Tensor, y: Tensor) -> Tensor:
        x = x.unsqueeze(1) if left == 2 else x
        y = y.unsqueeze(2) if right == 2 else y
        z = multiply(x, y)
        z = z.squeeze(2) if right == 2 else z
        return z.squeeze(1) if left == 2 else z
    return batched_dot
