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

# One step of a stream as matrices that its state is multiplied with: its first three numbers modulo M1, the others M2.
STEP = (((0, 2 ** 22, 129), (1, 0, 0), (0, 1, 0)), M1), (((2 ** 15, 0, 2 ** 15 + 1), (1, 0, 0), (0, 1, 0)), M2)
LONGEST = 32        # Steps one after the other: streams that need more are cut into chains, which run side by side.

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


def power(matrix: Sequence[Sequence[int]], exponent: int, modulus: int) -> list[list[int]]:
    """`matrix` ** `exponent` modulo `modulus`, in Python's exact integers."""
    def times(left: Sequence, right: Sequence) -> list[list[int]]:
        return [[sum(a * b for a, b in zip(row, column, strict=True)) % modulus
                 for column in zip(*right, strict=True)] for row in left]
    result = [[int(row == column) for column in range(3)] for row in range(3)]
    squares: Sequence = matrix
    while exponent:
        if exponent % 2:
            result = times(result, squares)
        exponent, squares = exponent // 2, times(squares, squares)
    return result


def jump(steps: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function of states, int64 (..., 6), that gives the states `steps` steps later."""
    matrices = [(torch.tensor(power(matrix, steps, modulus), device=device), modulus) for matrix, modulus in STEP]

    def ahead(states: Tensor) -> Tensor:
        # The products have 62 bits: each is reduced before they are added.
        return torch.cat([(half.unsqueeze(-2) * matrix % modulus).sum(-1) % modulus for half, (matrix, modulus) in
                          zip(states.split(3, dim=-1), matrices, strict=True)], dim=-1)
    return ahead


def chained(count: int, streams: int, device: torch.device) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function of the streams' states, int32 (streams, 6), that gives their new states and `count` samples.

    It cuts streams into chains of `LONGEST` steps, jumps to where these begin, and lets all chains step at once.
    """
    steps, last = -(-count // streams), (count - 1) % streams + 1   # The last step is that of the first `last` streams.
    chains = -(-steps // LONGEST)
    doublings = [jump(LONGEST << number, device) for number in range((chains - 1).bit_length())]
    before_last = jump(steps - 1, device)

    def run(rstate: Tensor) -> tuple[Tensor, Tensor]:
        states = rstate.long().unsqueeze(0)
        new_state = before_last(states[0])
        new_state[:last] = torch.stack(step(new_state[:last].unbind(1))[0], dim=1)
        for double in doublings:
            states = torch.cat([states, double(states)])
        state: Sequence[Tensor] = states[:chains].unbind(2)
        samples = []
        for _ in range(LONGEST):
            state, sample = step(state)
            samples.append(sample)
        return new_state.to(rstate.dtype), torch.stack(samples, dim=1).flatten()[:count]
    return run


def stepped(count: int, streams: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The same as `chained`, step by step."""
    def run(rstate: Tensor) -> tuple[Tensor, Tensor]:
        rstate = rstate.clone()
        samples = []
        for first in range(0, count, streams):
            used = min(count - first, streams)
            state, sample = step(rstate[:used].long().unbind(1))
            rstate[:used] = torch.stack(state, dim=1)
            samples.append(sample)
        return rstate, torch.cat(samples) if samples else torch.empty(0, dtype=torch.int64, device=rstate.device)
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
    draw = chained(count, streams, build.device) if count > 2 * LONGEST * streams else stepped(count, streams)

    def uniform(rstate: Tensor) -> tuple[Tensor, Tensor]:
        rstate, values = draw(rstate)
        if name == 'float16':
            values = (values & 0x7fff) + 1
        return rstate, (values.to(norm.dtype) * norm).reshape(shape)
    return uniform, node.inputs[:1]
