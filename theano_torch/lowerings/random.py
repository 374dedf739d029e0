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


def remainder(value: Tensor, modulus: int) -> Tensor:
    """Integers in float64 modulo `modulus`, in place; up to 2^48, so that the rounded quotient has the right floor.

    The half keeps it away from whole numbers, by more than it is off.
    """
    quotient = torch.add(0.5 / modulus, value, alpha=1 / modulus).floor_()
    return value.sub_(quotient, alpha=modulus)


def step(state: Sequence[Tensor], differences: Tensor) -> list[Tensor]:
    """One step of every stream; returns the new state.

    `state` is six tensors of whole numbers below `M1` or `M2` in float64, in which everything here is exact and fast.
    `differences` receives the samples, from 1 - `M2` on: those below 1 lack `M1`.
    """
    x11, x12, x13, x21, x22, x23 = state
    first = (x12 * 2. ** 22).sub_((x12 * 2. ** -9).floor_(), alpha=M1)      # Modulo M1, below 2^32.
    first = remainder(first.add_(x13, alpha=129), M1)
    second = remainder((x21 * 2. ** 15).add_(x23, alpha=2 ** 15 + 1), M2)
    torch.sub(first, second, out=differences)
    return [first, x11, x12, second, x21, x22]


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
        samples = torch.empty(count, dtype=torch.float64, device=rstate.device)
        state: Sequence[Tensor] = rstate[:count].T.double().contiguous().unbind(0)
        for first in range(0, count, streams):
            used = min(count - first, streams)
            if used < len(state[0]):        # The last streams are done.
                rstate[:len(state[0])] = torch.stack(list(state), dim=1)
                state = [part[:used] for part in state]
            state = step(state, samples[first:first + used])
        rstate[:len(state[0])] = torch.stack(list(state), dim=1)
        samples.sub_((samples / M1).ceil_(), alpha=M1).add_(M1)
        if name == 'float16':
            samples = (samples.long() & 0x7fff) + 1
        return rstate, (samples.to(norm.dtype) * norm).reshape(shape)
    return uniform, node.inputs[:1]
