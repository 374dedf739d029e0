"""Softmax and cross-entropy."""

from typing import Any

from theano_torch.registry import lower
from theano_torch.trace import Build

import torch
from theano.tensor.nnet import nnet
from torch import Tensor


def check_bias(node: Any, build: Build) -> None:
    """Raise ValueError for a bias of a wrong size; torch would broadcast a bias of one element."""
    columns, biases = build.shape(node.inputs[0])[1], build.shape(node.inputs[1])[0]
    if columns != biases:
        raise ValueError(f'b must have same number of columns as x: {biases} are not {columns}')


def check_rows(build: Build, *variables: Any) -> None:
    """Raise ValueError if numbers of rows differ; torch would ignore surplus rows."""
    rows = [build.shape(var)[0] for var in variables]
    if len(set(rows)) > 1:
        raise ValueError(f'inputs must have the same number of rows, not {rows}')


@lower.register(nnet.Softmax)
def _(op, node, build):
    return lambda x: torch.softmax(x, dim=-1)


@lower.register(nnet.LogSoftmax)
def _(op, node, build):
    return lambda x: torch.log_softmax(x, dim=-1)


@lower.register(nnet.SoftmaxWithBias)
def _(op, node, build):
    check_bias(node, build)
    return lambda x, b: torch.softmax(x + b, dim=-1)


@lower.register(nnet.SoftmaxGrad)
def _(op, node, build):
    def softmax_grad(dy: Tensor, sm: Tensor) -> Tensor:
        product = dy * sm
        return product - product.sum(dim=-1, keepdim=True) * sm
    return softmax_grad


@lower.register(nnet.CrossentropySoftmaxArgmax1HotWithBias)
def _(op, node, build):
    check_bias(node, build)
    check_rows(build, node.inputs[0], node.inputs[2])

    def cross_entropy(x: Tensor, b: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = x + b
        log_probs = torch.log_softmax(logits, dim=-1)
        picked = log_probs.gather(1, target.long().unsqueeze(1)).squeeze(1)
        return -picked, log_probs.exp(), logits.argmax(dim=-1).to(target.dtype)
    return cross_entropy


@lower.register(nnet.CrossentropySoftmax1HotWithBiasDx)
def _(op, node, build):
    check_rows(build, node.inputs[1], node.inputs[2])

    def gradient(dy: Tensor, sm: Tensor, target: Tensor) -> Tensor:
        dy = dy.expand(sm.shape[0]).unsqueeze(1)
        index = target.long().unsqueeze(1)
        product = dy * sm
        # scatter_add_ has no deterministic implementation on GPUs.
        return product.scatter_(1, index, product.gather(1, index) - dy)
    return gradient


@lower.register(nnet.CrossentropyCategorical1Hot)
def _(op, node, build):
    check_rows(build, *node.inputs)
    return lambda coding, target: -torch.log(coding.gather(1, target.long().unsqueeze(1)).squeeze(1))


@lower.register(nnet.CrossentropyCategorical1HotGrad)
def _(op, node, build):
    check_rows(build, *node.inputs)

    def gradient(dy: Tensor, coding: Tensor, target: Tensor) -> Tensor:
        index = target.long().unsqueeze(1)
        return torch.zeros_like(coding).scatter_(1, index, -dy.unsqueeze(1) / coding.gather(1, index))
    return gradient


@lower.register(nnet.Prepend_scalar_constant_to_each_row)
@lower.register(nnet.Prepend_scalar_to_each_row)
def _(op, node, build):
    def prepend(value: Tensor, rows: Tensor) -> Tensor:
        return torch.cat([value.to(rows.dtype).expand(rows.shape[0], 1), rows], dim=1)
    if isinstance(op, nnet.Prepend_scalar_to_each_row):
        return prepend
    constant = torch.tensor(float(getattr(op.val, 'data', op.val)), device=build.device)
    return lambda rows: prepend(constant, rows)
