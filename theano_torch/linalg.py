"""Matrix products."""

import torch
from theano.tensor import basic, blas

from theano_torch.registry import lower


@lower.register(basic.Dot)
@lower.register(blas.Dot22)
def _(op, node, build):
    dtype = getattr(torch, node.outputs[0].type.dtype)
    if all(var.type.dtype == node.outputs[0].type.dtype for var in node.inputs):
        return torch.matmul
    return lambda x, y: torch.matmul(x.to(dtype), y.to(dtype))


@lower.register(blas.Dot22Scalar)
def _(op, node, build):
    return lambda x, y, factor: torch.mm(x, y) * factor


@lower.register(blas.Gemm)
@lower.register(blas.Gemv)
def _(op, node, build):
    return lambda z, a, x, y, b: b * z + a * torch.matmul(x, y)


@lower.register(blas.Ger)
def _(op, node, build):
    return lambda z, a, x, y: z + a * torch.outer(x, y)


@lower.register(blas.BatchedDot)
def _(op, node, build):
    left, right = (var.ndim for var in node.inputs)

    def batched_dot(x, y):
        x = x.unsqueeze(1) if left == 2 else x
        y = y.unsqueeze(2) if right == 2 else y
        z = torch.bmm(x, y)
        z = z.squeeze(2) if right == 2 else z
        return z.squeeze(1) if left == 2 else z
    return batched_dot
