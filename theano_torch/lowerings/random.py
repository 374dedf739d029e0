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

# One step of a stream: (matrix, modulus) for the first three numbers of its state, and for the last three.
STEP = (((0, 2 ** 22, 129), (1, 0, 0), (0, 1, 0)), M1), (((2 ** 15, 0, 2 ** 15 + 1), (1, 0, 0), (0, 1, 0)), M2)
LONGEST = 32        # Longest sequence of steps; longer streams are cut into chains that run side by side.

lower.register(RandomFunction)(on_host)


def remainder(value: Tensor, modulus: int) -> Tensor:
    """Reduce whole numbers in float64, up to 2^48, modulo `modulus`, in place.

    Adding a half keeps the quotient away from whole numbers by more than its rounding error, so its floor is exact.
    """
    quotient = torch.add(0.5 / modulus, value, alpha=1 / modulus).floor_()
    return value.sub_(quotient, alpha=modulus)


def step(state: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """One step of every stream: the new state, and samples from 1 to 2^31 - 1.

    All values are whole numbers in float64, in which this arithmetic is exact and fast. The six tensors of `state` are
    `M1` and `M2`.
    """
    x11, x12, x13, x21, x22, x23 = state
    first = (x12 * 2. ** 22).sub_((x12 * 2. ** -9).floor_(), alpha=M1)      # Congruent modulo M1, below 2^32.
    first = remainder(first.add_(x13, alpha=129), M1)
    second = remainder((x21 * 2. ** 15).add_(x23, alpha=2 ** 15 + 1), M2)
    difference = first - second
    samples = difference.sub_((difference / M1).ceil_(), alpha=M1).add_(M1)     # The ceiling is 0 or 1.
    return [first, x11, x12, second, x21, x22], samples


def stepped(count: int, streams: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function from the streams' states, int32 (streams, 6), to their new states and `count` samples."""
    def run(rstate: Tensor) -> tuple[Tensor, Tensor]:
        rstate = rstate.clone()
        state: Sequence[Tensor] = rstate[:count].T.double().contiguous().unbind(0)
        samples = []
        for first in range(0, count, streams):
            used = min(count - first, streams)
            if used < len(state[0]):        # The last streams have finished.
                rstate[:len(state[0])] = torch.stack(list(state), dim=1)
                state = [part[:used] for part in state]
            state, sample = step(state)
            samples.append(sample)
        rstate[:len(state[0])] = torch.stack(list(state), dim=1)
        return rstate, torch.cat(samples) if samples else torch.empty(0, dtype=torch.float64, device=rstate.device)
    return run


def stepped_on_gpu(count: int, streams: int, device: torch.device) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Like :func:`stepped`, with a quarter of the kernels, in int64, which is slow on the CPU."""
    # Both halves at once: rows 1 and 3 of the states times these factors, plus rows 2 and 5 times the others.
    left, right, moduli = (torch.tensor(numbers, device=device).unsqueeze(1) for numbers in (
        (2 ** 22, 2 ** 15), (129, 2 ** 15 + 1), (M1, M2)))

    def run(rstate: Tensor) -> tuple[Tensor, Tensor]:
        rstate = rstate.clone()
        state, samples = rstate[:count].T.long(), [rstate.new_empty(0, dtype=torch.int64)]
        for first in range(0, count, streams):
            used = min(count - first, streams)
            if used < state.shape[1]:       # The last streams have finished.
                rstate[:state.shape[1]] = state.T
                state = state[:, :used]
            new = (state[1:4:2] * left).addcmul_(state[2:6:3], right).remainder_(moduli)
            samples.append(M1 - (new[1] - new[0]).remainder_(M1))
            state = torch.cat([new[:1], state[:2], new[1:], state[3:5]])
        rstate[:state.shape[1]] = state.T
        return rstate, samples[-1] if len(samples) == 2 else torch.cat(samples)
    return run


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
    """A function that advances states, int64 (..., 6), by `steps` steps."""
    matrices = [(torch.tensor(power(matrix, steps, modulus), device=device), modulus) for matrix, modulus in STEP]

    def ahead(states: Tensor) -> Tensor:
        # The products have 62 bits, so each is reduced before the addition.
        return torch.cat([(half.unsqueeze(-2) * matrix % modulus).sum(-1) % modulus for half, (matrix, modulus) in
                          zip(states.split(3, dim=-1), matrices, strict=True)], dim=-1)
    return ahead


def chained(count: int, streams: int, device: torch.device) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function from the streams' states, int32 (streams, 6), to their new states and `count` samples.

    It cuts streams into chains of `LONGEST` steps, jumps to the start of each, and advances all chains together.
    """
    steps, last = -(-count // streams), (count - 1) % streams + 1   # Only the first `last` streams make the last step.
    chains = -(-steps // LONGEST)
    doublings = [jump(LONGEST << number, device) for number in range((chains - 1).bit_length())]
    before_last = jump(steps - 1, device)

    def run(rstate: Tensor) -> tuple[Tensor, Tensor]:
        states = rstate.long().unsqueeze(0)
        new_state = before_last(states[0])
        new_state[:last] = torch.stack(step(new_state[:last].double().unbind(1))[0], dim=1)
        for double in doublings:
            states = torch.cat([states, double(states)])
        state: Sequence[Tensor] = states[:chains].double().unbind(2)
        samples = []
        for _ in range(LONGEST):
            state, sample = step(state)
            samples.append(sample)
        return new_state.to(rstate.dtype), torch.stack(samples, dim=1).flatten()[:count]
    return run


@lower.register(rng_mrg.mrg_uniform)
def _(op, node, build):
    """Uniform numbers; element i comes from stream i modulo the number of streams."""
    shape = build.integers(node.inputs[1])
    count, streams = math.prod(shape), build.shape(node.inputs[0])[0]
    if count > M1:
        raise ValueError(f'rng_mrg does not support more than {M1} samples (2^31 - 1), not {count}')
    name = op.output_type.dtype
    norm = torch.tensor(NORM[name], dtype=torch_dtype(name), device=build.device)
    if count > 2 * LONGEST * streams:
        draw = chained(count, streams, build.device)
    else:
        is_on_cpu = build.device.type == 'cpu'
        draw = stepped(count, streams) if is_on_cpu else stepped_on_gpu(count, streams, build.device)

    def uniform(rstate: Tensor) -> tuple[Tensor, Tensor]:
        rstate, values = draw(rstate)
        if name == 'float16':
            values = (values.long() & 0x7fff) + 1
        return rstate, (values.to(norm.dtype) * norm).reshape(shape)
    return uniform, node.inputs[:1]
