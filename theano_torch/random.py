"""Theano's MRG31k3p random streams, bit for bit, in vectorised integer arithmetic."""

import torch
from theano.sandbox import rng_mrg
from theano.tensor.raw_random import RandomFunction

from theano_torch.registry import lower
from theano_torch.shared import from_numpy

M1, M2 = 2 ** 31 - 1, 2 ** 31 - 21069
MASK12, MASK13, MASK2, MULT2 = 511, 16777215, 65535, 21069
NORM = {'float32': 4.6566126e-10, 'float64': 4.656612873077392578125e-10}


def step(state):
    """One step of every stream. `state` is a list of six int64 tensors; returns the new state and the samples."""
    x11, x12, x13, x21, x22, x23 = state
    y1 = ((x12 & MASK12) << 22) + (x12 >> 9) + ((x13 & MASK13) << 7) + (x13 >> 24)
    y1 = wrap(wrap(y1, M1) + x13, M1)
    y2 = wrap(((x21 & MASK2) << 15) + MULT2 * (x21 >> 16), M2)
    y3 = wrap(wrap(((x23 & MASK2) << 15) + MULT2 * (x23 >> 16), M2) + x23, M2)
    y3 = wrap(y3 + y2, M2)
    difference = y1 - y3
    return [y1, x11, x12, y3, x21, x22], torch.where(difference <= 0, difference + M1, difference)


def wrap(value, modulus):
    """Subtract `modulus` once where the 32-bit value has reached it or has run over into the sign."""
    return torch.where(value >= modulus, value - modulus, value)


@lower.register(rng_mrg.mrg_uniform)
def _(op, node, build):
    shape = [int(size) for size in build.host(node.inputs[1])]
    dtype = op.output_type.dtype
    if dtype not in NORM:
        raise TypeError('mrg_uniform of %s' % dtype)
    norm = torch.tensor(NORM[dtype], dtype=getattr(torch, dtype), device=build.device)

    def uniform(rstate, _):
        count = 1
        for size in shape:
            count *= size
        streams = rstate.shape[0]
        columns = list(rstate.long().unbind(1))
        samples, rest = [], count
        while rest > 0:
            used = min(rest, streams)
            new, sample = step([column[:used] for column in columns])
            columns = [torch.cat([head, column[used:]]) if used < streams else head
                       for head, column in zip(new, columns, strict=True)]
            samples.append(sample)
            rest -= used
        values = torch.cat(samples) if samples else torch.empty(0, dtype=torch.int64, device=rstate.device)
        return torch.stack(columns, dim=1).to(torch.int32), values.to(norm.dtype).mul_(norm).reshape(shape)
    return uniform


@lower.register(RandomFunction)
def _(op, node, build):
    """NumPy's generators run where they live: on the host."""
    build.forget()

    def draw(*inputs):
        cells = [[None], [None]]
        arguments = [build.host(var) if isinstance(value, torch.Tensor) else value
                     for var, value in zip(node.inputs, inputs, strict=True)]
        op.perform(node, arguments, cells)
        return cells[0][0], from_numpy(cells[1][0], build.device)
    return draw
