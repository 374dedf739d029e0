"""The engine on a GPU: results, CUDA graphs, determinism, memory.

Without a GPU, these tests run on the stand-in. They also run on the CPU, where they check less.
"""

import contextlib
import functools
import gc
import re
from typing import NamedTuple

import theano_torch
from theano_torch import capture

import lasagne
import numpy as np
import pytest
import theano
import torch

import config
import theano_env
import train
from nets import updates
from nets.network import Network
from tests.standin.engine import a_gpu
from training import functions_ahead, steps
from training.schedule import Schedule

ON_ALL_DEVICES = pytest.mark.parametrize('device', ['cpu', pytest.param('cuda:0', marks=pytest.mark.standin)],
                                         indirect=True)
MINIBATCH = 4
HAS_GPU = torch.cuda.is_available()
SIZE = {'cpu': 4, 'cuda:0': 8 if HAS_GPU else 4}        # Image size; small without a real GPU.


@pytest.fixture
def device(request):
    with a_gpu() if request.param != 'cpu' else contextlib.nullcontext():
        yield request.param


@pytest.fixture(autouse=True)
def restore_engine():
    constructors = theano.compile.sharedvalue.shared.constructors
    before = theano.config.mode, theano.config.floatX, theano.config.dnn.conv.algo_bwd_filter, list(constructors)
    yield
    theano_torch.install('cpu')
    theano.config.mode, theano.config.floatX, theano.config.dnn.conv.algo_bwd_filter, constructors[:] = before


class Trainer:
    """A small G and D with separate training steps on `device`; all random numbers have fixed seeds."""

    def __init__(self, device, precision='float32', deterministic=False, captures=True, size=None):
        theano_env.configure('torch', {
            'device': device.replace(':', ''), 'floatX': 'float32',
            'dnn.conv.algo_bwd_filter': 'deterministic' if deterministic else 'none'}, precision=precision)
        theano.config.mode = theano_torch.mode(device, precision, captures)
        self.size = size or SIZE[device]
        lod = 0.5 if self.size > 4 else 0.0
        lasagne.random.set_rng(np.random.RandomState(1))
        self.random = np.random.RandomState(2)
        kwargs = {'num_channels': 3, 'resolution': self.size, 'fmap_base': 32, 'fmap_max': 8}
        self.G = Network('G', func='networks.G_paper', latent_size=8, **kwargs)
        self.D = Network('D', func='networks.D_paper', use_gdrop=False, **kwargs)
        self.Gs = self.G.clone(share_nontrainables=True)
        for net in (self.G, self.D):
            net.toplevel_params['cur_lod'].set_value(np.float32(lod))
        rate = theano.shared(np.float32(1e-3))
        exponents = [updates.loss_scaling_exponent() if precision == 'float16' else None for _ in 'DG']
        # A large epsilon: with a small one, the sign of a tiny gradient would decide a whole step.
        schedule = Schedule(lod, 0, int(lod > 0), self.size, MINIBATCH, 1, 1)
        self.functions = steps.compile_training_functions(
            self.G, self.D, self.Gs, schedule, rate, rate, 0.9, {},
            {'beta1': 0.0, 'beta2': 0.99, 'epsilon': 1e-2}, True, False, loss_scaling=exponents)

    def step(self):
        """Make a step of D and one of G; return D's outputs."""
        nothing = np.zeros((MINIBATCH, 0), np.float32)
        reals = self.random.randint(0, 256, (MINIBATCH, 3, self.size, self.size)).astype(np.uint8)
        outputs = self.functions.train_d(reals, nothing, self.latents(), nothing)
        self.functions.train_g(self.latents(), nothing)
        return outputs

    def latents(self):
        return self.random.randn(MINIBATCH, 8).astype(np.float32)

    def parameters(self):
        return [var.get_value() for net in (self.G, self.D, self.Gs) for var in net.trainables.values()]

    def graphs(self):
        """Number of programs that have become CUDA graphs."""
        programs = [program for function in self.functions[:2] for kept in function.fn.programs.values()
                    for program in kept]
        return sum(isinstance(program, capture.CapturedProgram) and program.graph is not None for program in programs)


class Results(NamedTuple):
    """Results of a few training steps."""

    outputs: list           # Outputs of each step of D.
    parameters: list        # Parameters at the end.
    graphs: int             # Number of CUDA graphs.
    memory: tuple           # Memory in use, and after more steps; () if not measured.


def results(device, precision='float32', deterministic=False, captures=True, size=None, run=1):
    """Cached `Results` of training; another `run` trains again."""
    if precision == 'tf32' and not HAS_GPU:
        precision = 'float32'       # The stand-in lacks TF32. tests/standin/test_paper_steps.py counts its kernels.
    return computed(device, precision, deterministic, captures, size or SIZE[device], run)


@functools.cache
def computed(device, precision, deterministic, captures, size, run):
    trainer = Trainer(device, precision, deterministic, captures, size)
    outputs = [trainer.step() for _ in range(capture.WARM_UP_CALLS + 4)]
    parameters, graphs, memory = trainer.parameters(), trainer.graphs(), ()
    if precision == 'float32' and not deterministic:
        before = memory_in_use(device)
        for _ in range(200 if HAS_GPU else 5):
            trainer.step()
            trainer.D.toplevel_params['cur_lod'].set_value(np.float32(0.25))
        memory = before, memory_in_use(device)
    return Results(outputs, parameters, graphs, memory)


def memory_in_use(device):
    """Bytes of all tensors on a GPU, or number of tensors on the CPU."""
    gc.collect()
    if device == 'cpu':
        return sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects())
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def assert_same_bits(ours, theirs):
    for mine, other in zip(ours[0], theirs[0], strict=True):
        assert [value.tobytes() for value in mine] == [value.tobytes() for value in other]
    assert [value.tobytes() for value in ours[1]] == [value.tobytes() for value in theirs[1]]


@pytest.mark.slow
@ON_ALL_DEVICES
def test_training_steps_as_on_the_cpu(device):
    outputs, parameters, *_ = results(device)
    expected_outputs, expected_parameters, *_ = results('cpu', size=SIZE[device])
    for step, expected in zip(outputs, expected_outputs, strict=True):
        for value, reference in zip(step, expected, strict=True):
            np.testing.assert_allclose(value, reference, rtol=1e-3, atol=1e-3)
    for value, reference in zip(parameters, expected_parameters, strict=True):
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-4)


@pytest.mark.slow
@ON_ALL_DEVICES
def test_graphs_give_the_same_bits_as_single_steps(device):
    recorded = results(device, deterministic=True)
    single = results(device, deterministic=True, captures=False)
    assert (recorded.graphs, single.graphs) == (2 if device != 'cpu' else 0, 0)
    assert_same_bits(recorded, single)


@pytest.mark.slow
@ON_ALL_DEVICES
def test_two_runs_give_the_same_bits(device):
    assert_same_bits(results(device, deterministic=True), results(device, deterministic=True, run=2))


@ON_ALL_DEVICES
@pytest.mark.parametrize('precision', ['tf32', 'bfloat16', 'float16'])
def test_precisions_run_and_stay_finite(device, precision):
    if precision == 'tf32' and (device == 'cpu' or torch.cuda.get_device_capability() < (8, 0)):
        with pytest.raises(theano_env.EnvironmentProblem, match='needs a GPU'):
            Trainer(device, precision)
        return
    outputs, parameters, *_ = results(device, precision)
    assert all(np.isfinite(value).all() for step in outputs for value in step)
    assert all(np.isfinite(value).all() for value in parameters)
    expected = results('cpu', size=SIZE[device])[0][0]
    for value, reference in zip(outputs[0], expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=0.1, atol=0.1)


@ON_ALL_DEVICES
def test_memory_stays_constant(device):
    before, after = results(device).memory
    assert after == before


@contextlib.contextmanager
def no_more_memory(device, monkeypatch):
    """Let allocations fail inside the context."""
    if device == 'cpu':
        def fail(*arguments, **kwargs):
            raise MemoryError
        with monkeypatch.context() as patch:
            patch.setattr(torch, '_fused_adam_', fail)
            yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2 ** 21) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@ON_ALL_DEVICES
def test_too_little_memory_is_one_line(device, tmp_path, capsys, monkeypatch):
    compile_functions = steps.compile_training_functions
    with contextlib.ExitStack() as stack:
        def compile_and_fill(*args, **kwargs):
            functions = compile_functions(*args, **kwargs)
            stack.enter_context(no_more_memory(device, monkeypatch))
            return functions
        monkeypatch.setattr(functions_ahead, 'compile_training_functions', compile_and_fill)
        monkeypatch.setattr(config, 'theano_flags', {'device': device.replace(':', '')})
        options = {'G.fmap_max': 8, 'D.fmap_max': 8, 'train.minibatch_default': 512, 'dataset.resolution': 4}
        status = train.main(['--data-dir', str(tmp_path), '--result-dir', str(tmp_path)] + [
            word for key, value in options.items() for word in ('--set', f'{key}={value}')])
    err = capsys.readouterr().err
    assert status == 1 and 'Traceback' not in err
    assert re.search(r'error: out of memory: .* GiB; at 4x4 train.minibatch_default=512 is too much: set '
                     r'train.minibatch_overrides\[4\] to 256', err)


def test_whole_training_steps_are_recorded(monkeypatch):
    """Both steps become CUDA graphs, on the CPU with a stand-in for graphs and with shared variables on a device."""
    from tests.theano_torch.helpers import Graphs
    constructors = theano.compile.sharedvalue.shared.constructors
    monkeypatch.setattr(theano_torch.shared, 'install', lambda device: None)
    constructors.append(theano_torch.shared.DeviceConstructor('cpu'))
    trainer, graphs = Trainer('cpu'), Graphs()
    for function in trainer.functions[:2]:
        function.fn.graphs = graphs
    outputs = [trainer.step() for _ in range(capture.WARM_UP_CALLS + 4)]
    assert trainer.graphs() == graphs.recordings == 2
    assert_same_bits((outputs, trainer.parameters()), results('cpu'))
