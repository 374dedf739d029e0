"""Theano's MRG31k3p random streams (L'Ecuyer and Touzin 2000), bit for bit, and NumPy's generators on the host."""

import math
from collections.abc import Sequence

from theano_torch.convert import torch_dtype
from theano_torch.registry import lower, on_host

import torch
from theano.sandbox import rng_mrg
from theano.tensor.raw_random import RandomFunction
from torch import Tensor

M1, M2 = 2 ** 31 - 1, 2 ** 31 - 21069
NORM = {'float16': 3.0458e-05, 'float32': 4.6566126e-10, 'float64': 4.656612873077392578125e-10}

lower.register(RandomFunction)(on_host)


def wrap(value: Tensor, modulus: int) -> Tensor:
    """`value` less `modulus` once where it has reached it. In int64 nothing overflows, unlike in Theano's 32 bits."""
    return torch.where(value >= modulus, value - modulus, value)


def step(state: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """One step of every stream: `state` is six int64 tensors. Returns the new state and samples in 1 ... 2^31 - 1."""
    x11, x12, x13, x21, x22, x23 = state
    first = wrap(((x12 & 511) << 22) + (x12 >> 9) + ((x13 & 16777215) << 7) + (x13 >> 24), M1)
    first = wrap(first + x13, M1)
    second = wrap(((x21 & 65535) << 15) + 21069 * (x21 >> 16), M2)
    third = wrap(wrap(((x23 & 65535) << 15) + 21069 * (x23 >> 16), M2) + x23, M2)
    third = wrap(third + second, M2)
    difference = first - third
    return [first, x11, x12, third, x21, x22], torch.where(difference <= 0, difference + M1, difference)


@lower.register(rng_mrg.mrg_uniform)
def _(op, node, build):
    """Uniform numbers; element i comes from stream i modulo the number of streams."""
    shape = build.integers(node.inputs[1])
    count, streams = math.prod(shape), build.shape(node.inputs[0])[0]
    if count > M1:
        raise ValueError(f'rng_mrg does not support more than {M1} samples (2^31 - 1), got {count}')
    name = op.output_type.dtype
    norm = torch.tensor(NORM[name], dtype=torch_dtype(name), device=build.device)

    def uniform(rstate: Tensor) -> tuple[Tensor, Tensor]:
        rstate = rstate.clone()
        samples = []
        for first in range(0, count, streams):
            used = min(count - first, streams)
            state, sample = step(rstate[:used].long().unbind(1))
            rstate[:used] = torch.stack(state, dim=1)
            samples.append(sample)
        values = torch.cat(samples) if samples else torch.empty(0, dtype=torch.int64, device=rstate.device)
        if name == 'float16':
            values = (values & 0x7fff) + 1
        return rstate, (values.to(norm.dtype) * norm).reshape(shape)
    return uniform, node.inputs[:1]
