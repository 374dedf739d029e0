"""The training steps with kernels of ours (`theano_torch.fuser`), which Triton interprets, beside the same without."""

from theano_torch.fuser.kernels import loaded
from theano_torch.fuser.program import FusedProgram, KernelStep

import numpy as np
import pytest
import theano

import theano_env
from nets.network import Network
from tests.theano_torch.helpers import Graphs
from training import steps
from training.schedule import Schedule

CALLS = 6       # Three of them before the steps are recorded.
STEP = {'beta1': 0.0, 'beta2': 0.99, 'epsilon': 1e-8}


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    loaded.cache_clear()
    yield
    loaded.cache_clear()


def trained(graphs, lod, label_size, loss, joint, networks):
    """(weights after some steps, their outputs, the programs) with the stand-in `graphs`, or with none."""
    np.random.seed(3)
    common = {'num_channels': 3, 'resolution': 16, 'label_size': label_size, 'fmap_base': 32, 'fmap_max': 4}
    G = Network('G', 'networks.G_paper', latent_size=4, **common, **networks.get('G', {}))
    D = Network('D', 'networks.D_paper', **{'use_gdrop': False, **common, **networks.get('D', {})})
    Gs = G.clone(share_nontrainables=True)
    for net in (G, D):
        net.toplevel_params['cur_lod'].set_value(np.float32(lod))
    resolution = 16 >> int(lod)
    rate = theano.shared(np.float32(1e-3))
    functions = steps.compile_training_functions(
        G, D, Gs, Schedule(lod, int(lod), int(np.ceil(lod)), resolution, 4, 1.0, 1.0), rate, rate, 0.99,
        {'type': loss}, STEP, not joint, False)
    steps.seed_streams(functions)
    called = [function for function in (functions.train_d, functions.train_g) if function is not None]
    for function in called:
        function.fn.graphs = graphs
    random, outputs = np.random.RandomState(1), []
    for _ in range(CALLS):
        images = random.randint(0, 256, (4, 3, resolution, resolution)).astype(np.uint8)
        labels = random.rand(4, label_size).astype(np.float32)
        latents = random.randn(4, 4).astype(np.float32)
        outputs.append(functions.train_d(images, labels, latents, labels))
        if functions.train_g is not None:
            functions.train_g(latents, labels)
    programs = [program for function in called for kept in function.fn.programs.values() for program in kept]
    weights = [var.get_value() for net in (G, D, Gs) for var in net.vars.values()]
    return weights, outputs, programs


@pytest.mark.parametrize('lod, label_size, loss, joint, networks', [
    (0.0, 0, 'iwass', False, {}),
    (0.5, 0, 'iwass', False, {}),
    (2.0, 3, 'iwass', False, {}),
    (1.0, 0, 'lsgan', False, {'D': {'use_gdrop': True}}),
    (0.0, 0, 'iwass', True, {'G': {'use_pixelnorm': False, 'use_batchnorm': True}}),
], ids=['stable', 'fading', 'labels', 'lsgan and noise', 'one function and batch norm'])
def test_steps(lod, label_size, loss, joint, networks):
    theano_env.configure('torch', {'device': 'cpu'})
    wanted = trained(None, lod, label_size, loss, joint, networks)
    found = trained(Graphs(), lod, label_size, loss, joint, networks)
    for program in found[2]:
        assert isinstance(program.runs, FusedProgram)
        kernels = [step for step in program.runs.steps if isinstance(step, KernelStep)]
        assert len(kernels) > 20 and len(program.runs.steps) < len(program.program.nodes) * 1.5
    # Sums in another order; Adam divides by roots of squares, some of which are all but zero.
    for mine, other in zip(found[1], wanted[1], strict=True):
        np.testing.assert_allclose(np.hstack(list(map(np.ravel, mine))), np.hstack(list(map(np.ravel, other))),
                                   rtol=2e-4, atol=2e-4)
    for mine, other in zip(found[0], wanted[0], strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=2e-3)
        assert np.mean(np.abs(mine - other)) < 1e-4
