"""The training steps on a GPU, with our kernels (`theano_torch.fuser`), equal the same steps on the CPU."""

from theano_torch.fuser.program import FusedProgram, KernelStep

import numpy as np
import pytest
import theano

import theano_env
from nets.network import Network
from training import steps
from training.schedule import Schedule

CALLS = 5       # Three calls, the recording, and one replay.
STEP = {'beta1': 0.0, 'beta2': 0.99, 'epsilon': 1e-8}


def trained(device, lod, label_size, loss, joint, networks):
    """(weights after some steps, their outputs, the programs)"""
    theano_env.configure('torch', {'device': device, 'floatX': 'float32'}, precision='float32')
    np.random.seed(3)
    common = {'num_channels': 3, 'resolution': 8, 'label_size': label_size, 'fmap_base': 32, 'fmap_max': 4}
    G = Network('G', 'networks.G_paper', latent_size=4, **common, **networks.get('G', {}))
    D = Network('D', 'networks.D_paper', **{'use_gdrop': False, **common, **networks.get('D', {})})
    Gs = G.clone(share_nontrainables=True)
    for net in (G, D):
        net.toplevel_params['cur_lod'].set_value(np.float32(lod))
    resolution = 8 >> int(lod)
    rate = theano.shared(np.float32(1e-3))
    functions = steps.compile_training_functions(
        G, D, Gs, Schedule(lod, int(lod), int(np.ceil(lod)), resolution, 4, 1.0, 1.0), rate, rate, 0.99,
        {'type': loss}, STEP, not joint, False)
    steps.seed_streams(functions)
    called = [function for function in (functions.train_d, functions.train_g) if function is not None]
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
    (0.5, 3, 'iwass', False, {}),
    (0.0, 0, 'lsgan', True, {'D': {'use_gdrop': True}, 'G': {'use_pixelnorm': False, 'use_batchnorm': True}}),
], ids=['fading, labels', 'one function, LSGAN, noise, batch norm'])
def test_steps(cuda, lod, label_size, loss, joint, networks):
    case = lod, label_size, loss, joint, networks
    wanted, found = trained('cpu', *case), trained('cuda0', *case)
    for program in found[2]:
        assert isinstance(program.runs, FusedProgram)
        kernels = [step for step in program.runs.steps if isinstance(step, KernelStep)]
        assert len(kernels) > 10 and len(program.runs.steps) < len(program.program.nodes) * 1.5
    # The order of summation differs, and Adam divides by roots of squares that are nearly zero.
    for mine, other in zip(found[1], wanted[1], strict=True):
        np.testing.assert_allclose(np.hstack(list(map(np.ravel, mine))), np.hstack(list(map(np.ravel, other))),
                                   rtol=2e-4, atol=2e-4)
    for mine, other in zip(found[0], wanted[0], strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=2e-3)
        assert np.mean(np.abs(mine - other)) < 1e-4
