"""Matrix products."""

import torch
from theano.tensor import basic, blas

from theano_torch.convert import torch_dtype
from theano_torch.registry import lower


@lower.register(basic.Dot)
@lower.register(blas.Dot22)
def _(op, node, build):
    dtype = torch_dtype(node.outputs[0].type.dtype)
    if all(var.type.dtype == node.outputs[0].type.dtype for var in node.inputs):
        return torch.matmul
    return lambda x, y: torch.matmul(x.to(dtype), y.to(dtype))


@lower.register(blas.Dot22Scalar)
def _(op, node, build):
    return lambda x, y, factor: torch.mm(x, y) * factor


@lower.register(blas.Gemm)
@lower.register(blas.Gemv)
def _(op, node, build):
    """``b * z + a * dot(x, y)``; what z holds does not matter where b is 0."""
    if build.number(node.inputs[4]) == 0:
        return lambda a, x, y: torch.matmul(x, y) * a, node.inputs[1:4]
    return lambda z, a, x, y, b: b * z + a * torch.matmul(x, y)


@lower.register(blas.Ger)
def _(op, node, build):
    return lambda z, a, x, y: z + a * torch.outer(x, y)


@lower.register(blas.BatchedDot)
def _(op, node, build):
    dtype = torch_dtype(node.outputs[0].type.dtype)
    left, right = (var.ndim for var in node.inputs)
    sizes = [build.shape(var)[0] for var in node.inputs]
    if sizes[0] != sizes[1]:
        raise TypeError('Shapes of the inputs of BatchedDot differ in the first dimension: %s' % sizes)

    def batched_dot(x, y):
        x, y = x.to(dtype), y.to(dtype)
        x = x.unsqueeze(1) if left == 2 else x
        y = y.unsqueeze(2) if right == 2 else y
        z = torch.bmm(x, y)
        z = z.squeeze(2) if right == 2 else z
        return z.squeeze(1) if left == 2 else z
    return batched_dot
