"""Training steps of 1024x1024 networks on a GPU are recorded and replayed, within limits on kernels and memory.

The networks are those of the presets for the paper and the 2018 release. They run on meta tensors, which may have any
size, so these tests always use the stand-in, even if there is a GPU.
"""

import gc
from typing import NamedTuple

from theano_torch.capture import WARM_UP_CALLS, CapturedProgram

import lasagne
import numpy as np
import pytest
import theano

import config
import theano_env
from nets import updates
from tests.helpers import Ones
from tests.standin.engine import a_gpu
from tests.standin.kernels import Trace
from tests.standin.transfers import ASYNCHRONOUS, DOWNLOAD
from training import steps
from training.building import build_network
from training.schedule import Schedule

pytestmark = pytest.mark.standin


class Case(NamedTuple):
    """A step of D and one of G, and limits of their costs: the present costs, so that no change adds to them."""

    lod: float
    precision: str
    minibatch: int
    kernels: tuple[int, ...]        # Number of kernels of D's and G's step, or of the joint step.
    gb: tuple[float, ...]           # Gigabytes that the kernels read and write.
    memory_gb: float                # Peak of both, without cuDNN's workspaces, with leftovers of other tests.
    preset: str = 'celebahq-1024'
    labels: int = 0
    loss: str = 'iwass'
    nets: dict = {}                 # noqa: RUF012  # Options of G and D in addition to the preset's.
    joint: bool = False             # Whether D's function updates G, too.


CASES = {
    'highest, stable': Case(0.0, 'tf32', 3, (896, 437), (77.4, 31.3), 4.3),
    'fading, labels, bfloat16': Case(6.5, 'bfloat16', 16, (438, 208), (3.4, 2.7), 0.72, labels=10),
    'lowest, GDrop, float16': Case(8.0, 'float16', 16, (360, 155), (1.3, 1.2), 0.52, nets={'D': {'use_gdrop': True}}),
    'LSGAN': Case(7.0, 'tf32', 16, (188, 133), (1.9, 1.9), 0.6, loss='lsgan'),
    'one function, GDrop, bfloat16': Case(7.5, 'bfloat16', 16, (622,), (3.2,), 0.62, nets={'D': {'use_gdrop': True}},
                                          joint=True),
    '2018, fading': Case(7.5, 'tf32', 128, (336, 152), (5.6, 3.0), 0.75, 'celebahq-v2-1gpu'),
    '2018, one function, labels, float16': Case(
        8.0, 'float16', 128, (375,), (2.7,), 0.55, 'celebahq-v2-1gpu', labels=10,
        nets={'G': {'dtype': 'float16'}, 'D': {'dtype': 'float16'}}, joint=True),
}


@pytest.fixture
def gpu():
    with a_gpu('meta') as stand_in:
        yield stand_in
        gc.unfreeze()
        gc.collect()
        gc.freeze()


def compiled(case, gpu):
    """Compile the step functions of a case, and check that this copies no value from the GPU."""
    experiment = config.experiments[case.preset]
    G, D = [build_network(name, {**experiment, name: {**experiment[name], **case.nets.get(name, {})}}, 3, 1024,
                          case.labels) for name in 'GD']
    Gs = G.clone(share_nontrainables=True)
    for net in (G, D):
        net.toplevel_params['cur_lod'].set_value(np.float32(case.lod))
    rate = theano.shared(np.float32(1e-3))
    exponents = [updates.loss_scaling_exponent() if case.precision == 'float16' else None for _ in 'DG']
    schedule = Schedule(case.lod, int(case.lod), int(np.ceil(case.lod)), 1024 >> int(case.lod), case.minibatch, 1, 1)
    gpu.reset_notes()
    functions = steps.compile_training_functions(
        G, D, Gs, schedule, rate, rate, 0.999, {'type': case.loss}, {'beta1': 0.0, 'beta2': 0.99, 'epsilon': 1e-8},
        not case.joint, False, loss_scaling=exponents)
    steps.seed_streams(functions)
    assert not [place for kind, _op, place in gpu.notes if kind == DOWNLOAD]
    return functions


def inputs_of(case):
    """Arguments of D's function and of G's function."""
    resolution = 1024 >> int(case.lod)
    images = np.zeros((case.minibatch, 3, resolution, resolution), np.uint8)
    labels, latents = (np.zeros((case.minibatch, size), np.float32) for size in (case.labels, 512))
    return (images, labels, latents, labels), (latents, labels)


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_steps_of_the_paper(name, gpu):
    case = CASES[name]
    theano_env.configure('torch', {'device': 'cuda0', 'floatX': 'float32'}, precision=case.precision)
    lasagne.random.set_rng(Ones())
    functions = compiled(case, gpu)
    gc.collect()
    gc.freeze()         # Without it, each garbage collection takes a second.
    costs = []
    for function, inputs in zip((functions.train_d, functions.train_g), inputs_of(case), strict=True):
        if function is None:
            assert case.joint
            continue
        for _ in range(1 + WARM_UP_CALLS):      # Compile the program and warm it up.
            function(*inputs)
        gc.collect()
        gpu.reset_peak()
        trace = Trace()
        gpu.observers.append(trace)
        function(*inputs)       # This call records the graph.
        gpu.observers.remove(trace)
        costs.append((len(trace.kernels), sum(kernel.bytes for kernel in trace.kernels) / 1e9, gpu.peak / 2 ** 30))
        gpu.reset_notes()
        function(*inputs)
        (program,), = function.fn.programs.values()
        assert isinstance(program, CapturedProgram) and program.graph.replays == 2
        # The host waits for results only, and its uploads are asynchronous.
        assert {kind for kind, _op, _place in gpu.notes} <= {DOWNLOAD, ASYNCHRONOUS}
        assert gpu.waits == len(program.outputs[:program.num_returned])
    kernels, gb, memory = zip(*costs, strict=True)
    assert all(used <= limit for used, limit in zip((*kernels, *gb), (*case.kernels, *case.gb), strict=True)), costs
    assert max(memory) <= case.memory_gb
