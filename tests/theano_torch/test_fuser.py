"""theano_torch.fuser: fused programs, whose kernels Triton interprets, give the same results as unfused ones."""

import json
import logging
import math
import os
import subprocess
import sys

import theano_torch
from theano_torch.fuser.kernels import loaded
from theano_torch.fuser.program import CallStep, FusedProgram, KernelStep
from theano_torch.fuser.recording import CannotFuse, Recorder

import numpy as np
import pytest
import theano
import theano.tensor as T
import torch

from tests.helpers import ROOT
from tests.theano_torch.helpers import Graphs, numbers

F = torch.nn.functional
aten = torch.ops.aten
POINTERS = {torch.float32: '*fp32', torch.bfloat16: '*bf16', torch.float64: '*fp64', torch.float16: '*fp16',
            torch.int64: '*i64', torch.bool: '*i1'}


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    torch.manual_seed(0)
    loaded.cache_clear()
    yield
    loaded.cache_clear()        # Interpreted kernels must not be used on a GPU later.


@pytest.fixture
def check(tmp_path):
    """A function that runs a program unfused, recorded, and fused twice, compares results, and returns the fused one.

    Element-wise results must be equal. Sums, whose order differs, may differ by `tolerance` of the largest element.
    """
    def check(program, *inputs, tolerance=0):
        with torch.inference_mode():
            wanted = [value.clone() for value in program([copy(value) for value in inputs])]
            results, ours = fused(program, [copy(value) for value in inputs], str(tmp_path))
            for found in (results, ours([copy(value) for value in inputs]), ours([copy(value) for value in inputs])):
                for mine, other in zip(found, wanted, strict=True):
                    assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
                    numbers = other[torch.isfinite(other)].double().abs()
                    scale = max(numbers.max().item(), 1e-30) if numbers.numel() else 1
                    torch.testing.assert_close(mine, other, rtol=0, atol=tolerance * scale, equal_nan=True)
        return ours
    return check


def fused(program, inputs, folder):
    """Run and record a program; return (its results, the fused program)."""
    with Recorder(inputs) as recorder:
        results = program(inputs)
    return results, FusedProgram(recorder, results, str(folder))


def copy(tensor):
    """Copy a tensor with its strides."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def images(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).contiguous(
        memory_format=torch.channels_last)


def kernels_of(program):
    return [step for step in program.steps if isinstance(step, KernelStep)]


def test_chain_becomes_one_kernel(check):
    x, bias = images(2, 5, 6, 4), torch.randn(5)

    def program(inputs):
        x, bias = inputs
        return [F.leaky_relu(x + bias.view(1, -1, 1, 1), 0.2) * 3 - 1]
    ours = check(program, x, bias)
    assert len(ours.steps) == len(kernels_of(ours)) == 1


# Not bfloat16: Triton's interpreter rounds it wrongly; compilers for GPUs do not.
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_all_expressions(check, dtype):
    x, y = images(2, 3, 4, 4, dtype=dtype), images(2, 3, 4, 4, dtype=dtype, seed=1)

    def program(inputs):
        x, y = inputs
        values = [x + y, torch.add(x, y, alpha=2), x - y, 1.5 - x, x * y, x / y, -x, x ** 2, x ** 3, (x * x) ** 0.5,
                  torch.sqrt(y * y), torch.reciprocal(y), torch.abs(x), torch.maximum(x, y), torch.minimum(x, y),
                  torch.clamp(x, -0.5, 0.5), torch.clamp(x, min=0.1), F.relu(x), F.leaky_relu(x, 0.1),
                  aten.leaky_relu_backward(x, y, 0.2, False), torch.square(y)]
        flags = [x < y, x <= y, x > 0.5, x >= y, x == x, x != y, (x < y) & (x > 0), (x < y) | (x > 0)]
        return [*(value + 1 for value in values), *(torch.where(flag, x, y) for flag in flags), flags[0]]
    # PyTorch's CPU kernels round some intermediate results to 16 bits; its GPU kernels and ours do not.
    ours = check(program, x, y, tolerance=2e-3 if dtype == torch.float16 else 0)
    assert not [step.call.function for step in ours.steps if isinstance(step, CallStep)
                and step.call.function is not aten.lt.Tensor]


def test_special_numbers(check):
    x = torch.tensor([[math.nan, math.inf, -math.inf, 0., -0., 1e-42, 3e38]])

    def program(inputs):
        x, = inputs
        y = x.flip(1).contiguous()
        return [torch.maximum(x, y) * 1, torch.minimum(x, y) * 1, torch.clamp(x, -1, 1) * 1, F.relu(x) * 1,
                F.leaky_relu(x, 0.2) * 1, x / y * 1, x * y + 1, torch.sqrt(torch.clamp(x, max=9)) + 0,
                torch.where(x > y, x, y) + 0]
    check(program, x)


def test_integers_and_booleans(check):
    x = torch.arange(-6, 6).reshape(3, 4)
    y = torch.arange(12, dtype=torch.int32).reshape(3, 4)

    def program(inputs):
        x, y = inputs
        return [x * 2 + y, (x > y) & (y > 3), torch.where(x > 0, x, y) - 1, (x & 3) | (x ^ 1),
                x.to(torch.float32) * 0.5, y.to(torch.int64) * x]
    check(program, x, y)


@pytest.mark.parametrize('factors', [(2, 2), (1, 2), (4, 1)])
def test_pooling_and_repeating(check, factors):
    x, g = images(2, 3, 8, 4), images(2, 3, 8, 4, seed=1)

    def program(inputs):
        x, g = inputs
        y = F.leaky_relu(x * 2, 0.2)
        pooled = F.avg_pool2d(y, factors)
        larger = F.interpolate(pooled * 3, scale_factor=factors, mode='nearest')
        return [y, pooled, aten.leaky_relu_backward(g + larger, y, 0.2, True)]
    ours = check(program, x, g, tolerance=1e-7)
    assert len(kernels_of(ours)) == 1


def test_other_pooling_stays_as_it_is(check):
    x = images(2, 3, 6, 6)

    def program(inputs):
        x, = inputs
        y = x * 2 + 1
        return [F.avg_pool2d(y, 2, padding=1), F.avg_pool2d(y, 3, stride=1), F.avg_pool2d(y, 4, ceil_mode=True),
                F.avg_pool2d(y, 2, divisor_override=3), F.avg_pool2d(y, 2) + 1,
                F.interpolate(y, size=(7, 9), mode='nearest')]
    check(program, x, tolerance=1e-6)


def test_sums(check):
    x = images(3, 5, 4, 6)

    def program(inputs):
        x, = inputs
        y = x * x
        norm = y / torch.sqrt(y.sum(1, keepdim=True) / 5 + 1e-8)
        other = y * y.sum([1]).reshape(3, 1, 4, 6)
        return [norm, other, y.sum([0, 2, 3]), y.sum([0, 2, 3], keepdim=True), y.sum(), y.sum([1, 2, 3]),
                y.sum([2, 3]), norm.sum([0, 2, 3], dtype=torch.float64)]
    ours = check(program, x, tolerance=1e-6)
    assert len(kernels_of(ours)) == 1


def test_sum_over_many_programs_of_a_kernel(check):
    x = images(4, 3, 40, 40)

    def program(inputs):
        x, = inputs
        y = x * 2 + 1
        return [y.sum([0, 2, 3]), y.sum(), y]
    check(program, x, tolerance=1e-5)


def test_reading_a_sum_needs_another_kernel(check):
    x = images(2, 4, 3, 3)

    def program(inputs):
        x, = inputs
        y = x * 2
        total = y.sum([0, 2, 3], keepdim=True)
        return [y / total, y - y.sum()]
    check(program, x, tolerance=1e-5)


@pytest.mark.parametrize('shape', [(7,), (3, 5), (2, 3, 4), (1, 1, 5, 1), (2, 1, 3, 1, 2), ()])
def test_other_shapes(check, shape):
    x = torch.randn(shape)

    def program(inputs):
        x, = inputs
        return [(x + 1) * x, (x * 2).sum() + 1]
    check(program, x, tolerance=1e-6)


def test_empty(check):
    def program(inputs):
        x, = inputs
        return [x * 2 + 1, (x * 2).sum()]
    check(program, torch.zeros(0, 3))


def test_broadcasting(check):
    x, rows, columns, number = torch.randn(3, 4), torch.randn(3, 1), torch.randn(4), torch.tensor(2.)

    def program(inputs):
        x, rows, columns, number = inputs
        scale = torch.sqrt(rows * rows + 1)
        shift = columns * 2 + number
        return [x * scale + shift, scale, shift, rows + columns]
    check(program, x, rows, columns, number, tolerance=2e-7)      # The interpreter's square root may be off by one bit.


def test_transposed_and_sliced_reads(check):
    x = torch.randn(4, 6)

    def program(inputs):
        x, = inputs
        y = x * 2 + 1
        return [y.t() + 1, y[1:, ::2] * 3 - 1, y.flip(0) * 2 + 1, y.reshape(6, 4) + y.t(), y.view(2, 2, 6)[1] * 2 - 1]
    check(program, x)


def test_writing_in_place(check):
    x, y = torch.randn(3, 4), torch.randn(3, 4)

    def program(inputs):
        x, y = inputs
        a = x * 2
        b = a + 1           # Reads a before it changes.
        a.mul_(3).add_(y)
        c = a - b
        part = a[1]
        d = part * 2
        part.add_(10)       # Changes a.
        e = a + c
        y.copy_(e)          # Changes an input.
        return [a, b, c, d, e, y + 1]
    check(program, x, y)


def test_reads_come_before_writes(check):
    """A kernel must not join two calls if memory that it reads is overwritten between them."""
    x = torch.randn(4, 4)

    def program(inputs):
        x, = inputs
        a = x + 1
        b = torch.exp(x)    # Stays a PyTorch call.
        x.mul_(0)
        c = a * 2 + b
        return [c, x + a]
    check(program, x)


def test_rounded_copies_are_read(check):
    """The 16-bit input of a convolution is stored once, and other kernels read it, too."""
    x, w, g = images(2, 4, 6, 6), torch.randn(4, 4, 3, 3), images(2, 4, 6, 6, seed=3)

    def program(inputs):
        x, w, g = inputs
        y = F.leaky_relu(x + 0.5, 0.2)
        z = torch.conv2d(y.half(), w.half(), padding=1)
        return [z.to(torch.float32) + 1, aten.leaky_relu_backward(g + z, y, 0.2, True) * 2]
    ours = check(program, x, w, g, tolerance=2e-3)     # Covers rounding to 16 bits.
    first = kernels_of(ours)[0]
    assert [output.dtype for output in first.kernel.source.outputs] == [torch.float16]


def test_short_computations_are_repeated(check):
    """The sum of a 16-bit value and a bias is recomputed, not stored in 32 bits."""
    x, bias, g = images(2, 4, 6, 6, dtype=torch.float16), torch.randn(4), images(2, 4, 3, 3, seed=3)

    def program(inputs):
        x, bias, g = inputs
        y = F.leaky_relu(x + bias.view(1, -1, 1, 1), 0.2)
        pooled = torch.exp(F.avg_pool2d(y, 2) + 1)
        larger = F.interpolate(g * pooled, scale_factor=2, mode='nearest')
        return [aten.leaky_relu_backward(larger, y, 0.2, True)]
    ours = check(program, x, bias, g, tolerance=1e-6)
    first, last = kernels_of(ours)
    assert len(first.kernel.source.outputs) == 1 and x.shape in [operand.shape for operand in last.kernel.source.inputs]


def test_outputs_take_the_memory_of_inputs_that_end(check):
    x = torch.randn(3, 4)

    def program(inputs):
        x, = inputs
        y = torch.tanh(x)       # Stays a PyTorch call.
        z = torch.exp(y * 2 + y.flip(0))        # Reads y in another order, too.
        kept = torch.tanh(z)
        return [z * 3 - 1, kept, kept * 2 + 1]
    ours = check(program, x)
    assert [step.taken for step in kernels_of(ours)] == [{}, {0: 0}, {}]


def test_the_same_is_computed_once(check):
    x, w = images(1, 2, 3, 3), torch.randn(2, 2, 1, 1)

    def program(inputs):
        x, w = inputs
        y = x * 2
        return [torch.conv2d(y.half(), w.half()), torch.conv2d(y.half(), -w.half())]
    ours = check(program, x, w, tolerance=2e-3)        # PyTorch may choose another kernel for the convolution.
    assert sum(len(step.makes) for step in kernels_of(ours)) <= 3


def random_program(random):
    """Make a program of random calls on images of two sizes."""
    plan = [(random.choice(KINDS), random.randint(1 << 30), random.randint(1 << 30))
            for _ in range(random.randint(4, 25))]

    def program(inputs):
        values = list(inputs)
        for kind, first, second in plan:
            x, y = values[first % len(values)], values[second % len(values)]
            if kind in ('add', 'mul', 'sub', 'leaky') and x.shape != y.shape:
                y = x
            values.append(KIND_FUNCTIONS[kind](x, y))
        return values[len(inputs):]
    return program


KIND_FUNCTIONS = {
    'add': lambda x, y: x + y, 'mul': lambda x, y: x * y * 0.5, 'sub': lambda x, y: x - y,
    'leaky': lambda x, y: aten.leaky_relu_backward(x, y, 0.2, False), 'relu': lambda x, y: F.leaky_relu(x, 0.3),
    'pool': lambda x, y: F.avg_pool2d(x, 2) if x.shape[2] == 8 else x + 1,
    'larger': lambda x, y: F.interpolate(x, scale_factor=2, mode='nearest') if x.shape[2] == 4 else x - 1,
    'norm': lambda x, y: x / torch.sqrt((x * x).sum(1, keepdim=True) + 1),
    'bias': lambda x, y: x + y.sum([0, 2, 3]).view(1, -1, 1, 1) * 0.01,
    'mean': lambda x, y: x + y.sum() * 0.001,
    'own': lambda x, y: torch.tanh(x), 'flip': lambda x, y: x.flip(3) * 1,
    'write': lambda x, y: (x * 1.5).add_(1).mul_(0.5), 'turn': lambda x, y: x + x.transpose(2, 3),
}
KINDS = sorted(KIND_FUNCTIONS)


@pytest.mark.parametrize('seed', range(20))
def test_random_programs(check, seed):
    random = np.random.RandomState(seed)
    check(random_program(random), images(2, 3, 8, 8, seed=seed, dtype=torch.float64),
          images(2, 3, 4, 4, seed=seed + 1, dtype=torch.float64), tolerance=1e-11)


def test_values_on_the_host_are_a_reason_not_to(tmp_path):
    with pytest.raises(CannotFuse, match='to the host'), torch.inference_mode():
        fused(lambda inputs: [inputs[0] * inputs[0].sum().item()], [torch.ones(3)], str(tmp_path))


COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from theano_torch.fuser.kernels import loaded

name, text, folder, types = json.loads(sys.argv[1])
function = loaded(name, text, folder)
for capability in (75, 80, 89, 90):     # T4, A100, RTX 4090, H100 and H200.
    source = ASTSource(fn=function, signature=dict(zip(function.arg_names, types, strict=True)), constexprs={})
    assert triton.compile(source, target=GPUTarget('cuda', capability, 32)).asm['cubin']
    print(capability)
"""


def test_compiles_for_gpus(tmp_path):
    """Triton compiles a kernel with all kinds of elements for four kinds of GPUs, without running it."""
    def program(inputs):
        x, bias, g = inputs
        y = F.leaky_relu(x + bias.view(1, -1, 1, 1), 0.2)
        norm = y / torch.sqrt((y * y).sum(1, keepdim=True) + 1e-8)
        back = aten.leaky_relu_backward(F.interpolate(g, scale_factor=2), y, 0.2, True)
        return [norm, F.avg_pool2d(norm, 2), back.bfloat16(), back.sum([0, 2, 3]), back.sum(),
                torch.where(y > 0, y, 1 - y)]
    inputs = [images(2, 16, 8, 8, dtype=torch.bfloat16), torch.randn(16), images(2, 16, 4, 4)]
    with torch.inference_mode():
        kernel, = kernels_of(fused(program, inputs, tmp_path)[1])
    source = kernel.kernel.source
    types = [POINTERS[dtype] for dtype in source.types]
    # Compile in another process, since the interpreter has changed Triton in this one.
    environment = {**os.environ, 'TRITON_CACHE_DIR': str(tmp_path), 'PYTHONPATH': str(ROOT)}
    del environment['TRITON_INTERPRET']
    arguments = json.dumps([source.name, source.text, str(tmp_path), types])
    ended = subprocess.run([sys.executable, '-c', COMPILE, arguments], env=environment, capture_output=True, text=True)
    assert ended.stdout.split() == ['75', '80', '89', '90'], ended.stderr


# ----------------------------------------------------------------------------------------------------------------------
# In functions of Theano.


def test_functions_are_fused(tmp_path):
    x, w = T.ftensor4(), theano.shared(numbers(4, 3, 3, 3))
    y = T.nnet.relu(T.nnet.conv2d(x, w, border_mode='half'), 0.2)
    loss = T.sum(T.sqr(y / T.sqrt(T.mean(T.sqr(y), axis=1, keepdims=True) + 1e-8) * 2))
    results = []
    for graphs in (None, Graphs()):
        w.set_value(numbers(4, 3, 3, 3))
        f = theano.function([x], [loss, y], updates=[(w, w - np.float32(0.01) * T.grad(loss, w))],
                            mode=theano_torch.mode())
        f.fn.graphs = graphs
        results.append([value for seed in range(6) for value in f(numbers(2, 3, 6, 6, seed=seed))] + [w.get_value()])
    (program,), = f.fn.programs.values()
    assert isinstance(program.runs, FusedProgram) and kernels_of(program.runs)
    for mine, reference in zip(results[1], results[0], strict=True):
        # Covers the order of summation, over six steps.
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-4)


def test_what_triton_cannot_compile_runs_as_it_is(monkeypatch, caplog):
    def fail(*arguments):
        raise CannotFuse('Triton cannot compile a kernel: no compiler here')
    monkeypatch.setattr(FusedProgram, 'prepare', fail)
    x = T.fmatrix()
    f = theano.function([x], T.sqr(x) * 2 + 1, mode=theano_torch.mode())
    f.fn.graphs = Graphs()
    with caplog.at_level(logging.WARNING, 'theano_torch'):
        for _ in range(5):
            np.testing.assert_allclose(f(numbers(2, 3)), numbers(2, 3) ** 2 * 2 + 1, rtol=1e-6)
    assert 'no compiler here; such functions run with more kernels' in caplog.text
