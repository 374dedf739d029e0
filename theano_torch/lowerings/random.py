"""Theano's MRG31k3p random streams (L'Ecuyer and Touzin 2000), bit for bit, and NumPy's generators on the host."""

import math
from collections.abc import Callable, Sequence

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


def step(state: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """One step of every stream. Returns the new state and samples in 1 ... 2^31 - 1.

    All are whole numbers in float64, in which everything here is exact and fast; the six tensors of `state` are below
    `M1` and `M2`.
    """
    x11, x12, x13, x21, x22, x23 = state
    first = (x12 * 2. ** 22).sub_((x12 * 2. ** -9).floor_(), alpha=M1)      # Modulo M1, below 2^32.
    first = remainder(first.add_(x13, alpha=129), M1)
    second = remainder((x21 * 2. ** 15).add_(x23, alpha=2 ** 15 + 1), M2)
    difference = first - second
    samples = difference.sub_((difference / M1).ceil_(), alpha=M1).add_(M1)     # The ceiling is 0 or 1.
    return [first, x11, x12, second, x21, x22], samples


def stepped(count: int, streams: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function of the streams' states, int32 (streams, 6), that gives their new states and `count` samples."""
    def run(rstate: Tensor) -> tuple[Tensor, Tensor]:
        rstate = rstate.clone()
        state: Sequence[Tensor] = rstate[:count].T.double().contiguous().unbind(0)
        samples = []
        for first in range(0, count, streams):
            used = min(count - first, streams)
            if used < len(state[0]):        # The last streams are done.
                rstate[:len(state[0])] = torch.stack(list(state), dim=1)
                state = [part[:used] for part in state]
            state, sample = step(state)
            samples.append(sample)
        rstate[:len(state[0])] = torch.stack(list(state), dim=1)
        return rstate, torch.cat(samples) if samples else torch.empty(0, dtype=torch.float64, device=rstate.device)
    return run


@lower.register(rng_mrg.mrg_uniform)
def _(op, node, build):
    """Uniform numbers; element i comes from stream i modulo the number of streams."""
    shape = build.integers(node.inputs[1])
    count, streams = math.prod(shape), build.shape(node.inputs[0])[0]
    if count > M1:
        raise ValueError(f'rng_mrg does not support more than {M1} samples (2^31 - 1), got {count}')
    name = op.output_type.dtype
    norm = torch.tensor(NORM[name], dtype=torch_dtype(name), device=build.device)

    draw = stepped(count, streams)

    def uniform(rstate: Tensor) -> tuple[Tensor, Tensor]:
        rstate, values = draw(rstate)
        if name == 'float16':
            values = (values.long() & 0x7fff) + 1
        return rstate, (values.to(norm.dtype) * norm).reshape(shape)
    return uniform, node.inputs[:1]
