"""Rewrites that affect values: the accumulation type of sums, and zero factors beside matrix products."""

from typing import Any

from theano_torch.registry import FLOAT32_SUMS
from theano_torch.rewrites.fusion import is_elemwise, only_client

import theano
from theano import gof, scalar, tensor
from theano.tensor import basic, elemwise


@gof.local_optimizer([elemwise.Sum])
def accumulate_in_float32(node: Any) -> list | bool:
    """Accumulate sums of float32 in float32. PyTorch adds pairwise, which is as accurate for values of similar size."""
    op = node.op
    if not isinstance(op, elemwise.Sum) or op.acc_dtype != 'float64' or \
            {node.inputs[0].dtype, node.outputs[0].dtype} != {'float32'}:
        return False
    return [elemwise.Sum(axis=op.axis, dtype='float32', acc_dtype='float32')(node.inputs[0])]


@gof.local_optimizer([elemwise.Elemwise])
def zero_times_anything(node: Any) -> list | bool:
    """Make ``a * y + dot(A, x)`` ignore y if the scalar a is 0, as in BLAS, which Theano's C code calls."""
    if not is_elemwise(node, scalar.Add) or len(node.inputs) != 2:
        return False
    for product, dot in (node.inputs, node.inputs[::-1]):
        is_product = product.owner and is_elemwise(product.owner, scalar.Mul) and len(product.owner.inputs) == 2
        if not is_product or not dot.owner or not isinstance(dot.owner.op, basic.Dot) or \
                only_client(node.fgraph, product) is not node or product.dtype != dot.dtype:
            continue
        for factor in product.owner.inputs:
            if factor.ndim and all(factor.broadcastable) and not isinstance(factor, theano.Constant) \
                    and product.ndim in (1, 2) and factor.type != product.type:
                chosen = tensor.switch(tensor.eq(factor, 0), tensor.zeros_like(product), product)
                return [chosen + dot]
    return False


theano.compile.optdb.register('torch_float32_sums', gof.opt.in2out(accumulate_in_float32), 49.1, FLOAT32_SUMS)
theano.compile.optdb.register('torch_zero_times_anything', gof.opt.in2out(zero_times_anything), 49.0, 'torch')
