"""Shorter types in convolutions and matrix products, and the loss scaling that float16 needs."""

import theano_torch

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
import torch

import theano_env
import train
from nets import updates
from nets.network import Network
from nets.ranks import SINGLE, Ranks
from training import processes, steps
from training.schedule import Schedule

FLAGS = {'device': 'cpu', 'floatX': 'float32'}


pytestmark = pytest.mark.usefixtures('restore_theano_config')


# ----------------------------------------------------------------------------------------------------------------------
# theano_torch.


def network(dtype, precision):
    """Values, gradients and second derivatives of a small network with all kinds of convolutions and products."""
    random = np.random.RandomState(3)

    def weights(*shape):
        return theano.shared((random.randn(*shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype))

    x = T.TensorType(dtype, (False,) * 4)()
    params = w1, b1, w2, w3, w4 = [weights(6, 3, 3, 3), weights(6), weights(6, 5, 4, 4), weights(5 * 256, 7),
                                   weights(7, 2)]
    h = T.nnet.relu(T.nnet.conv2d(x, w1, border_mode='half') + b1.dimshuffle('x', 0, 'x', 'x'), 0.2)
    h = T.nnet.abstract_conv.conv2d_grad_wrt_inputs(h, w2, (None, 5, 16, 16), border_mode=1, subsample=(2, 2))
    y = T.dot(T.tanh(T.dot(h.flatten(2), w3)), w4)
    gradient = T.grad(y.sum(), x)
    loss = T.sum(y ** 2) + T.sum(gradient ** 2)
    images = random.randn(4, 3, 8, 8).astype(dtype)
    f = theano.function([x], [y, gradient, *T.grad(loss, params, disconnected_inputs='ignore')],
                        mode=theano_torch.mode(precision=precision))
    return f(images)


@pytest.fixture(scope='module')
def reference():
    return network('float32', 'float32')


@pytest.mark.parametrize('precision, tolerance', [('bfloat16', 0.15), ('float16', 0.015)])
def test_shorter_types_are_close_and_used(reference, precision, tolerance):
    """Compare the norm of the difference with the norm of each array. The types have 8 and 11 significant bits.

    The tolerance is this large because the second derivatives jump if rounding flips the sign of an activation.
    """
    for value, expected in zip(network('float32', precision), reference, strict=True):
        difference = np.linalg.norm(value - expected) / np.linalg.norm(expected)
        assert value.dtype == np.float32
        assert tolerance / 1000 < difference < tolerance


def test_float64_is_left_alone():
    for value, expected in zip(network('float64', 'bfloat16'), network('float64', 'float32'), strict=True):
        assert value.dtype == np.float64
        np.testing.assert_array_equal(value, expected)


def test_products_of_other_kinds_and_biases():
    x, y = T.ftensor3(), T.ftensor3()
    a, b = (np.random.RandomState(seed).randn(2, 3, 3).astype('float32') for seed in (1, 2))
    rounded = [torch.from_numpy(value).bfloat16().double().numpy() for value in (a, b)]
    f = theano.function([x, y], T.batched_dot(x, y), mode=theano_torch.mode(precision='bfloat16'))
    np.testing.assert_allclose(f(a, b), np.matmul(*rounded), rtol=0.01, atol=0.01)
    # The bias is added in float32: 256 + 1 needs nine bits.
    image, filters = T.ftensor4(), np.full((1, 1, 1, 1), 256, 'float32')
    bias = theano.shared(np.ones(1, 'float32')).dimshuffle('x', 0, 'x', 'x')
    f = theano.function([image], T.nnet.conv2d(image, filters) + bias, mode=theano_torch.mode(precision='bfloat16'))
    assert f(np.ones((1, 1, 2, 2), 'float32')).tolist() == [[[[257, 257], [257, 257]]]]


def test_install_switches_tf32():
    try:
        for precision, allowed in (('tf32', True), ('float32', False), ('bfloat16', False)):
            theano_torch.install(precision=precision)
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed
    finally:
        theano_torch.install()
    with pytest.raises(ValueError, match="precision='half': choose one of float32, tf32"):
        theano_torch.mode(precision='half')


def test_deterministic_flags():
    import os
    try:
        theano_torch.install(deterministic=True, benchmark=True)
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark and os.environ['CUBLAS_WORKSPACE_CONFIG']
    finally:
        theano_torch.install()
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic


def test_short_sums_are_not_worth_a_conversion():
    x, y, z = T.fmatrix(), T.fmatrix(), T.ftensor3()
    f = theano.function([x, y, z], [T.dot(x, y), T.batched_dot(z, z)], mode=theano_torch.mode(precision='bfloat16'))
    random = np.random.RandomState(1)
    for terms, is_exact in ((9, True), (64, False)):
        a, b, c = (random.randn(*shape).astype('f') for shape in ((20, terms), (terms, 16), (2, terms, terms)))
        for result, wanted in zip(f(a, b, c), (a @ b, c @ c), strict=True):
            # Float32 differs by the order of summation; bfloat16 has 8 significant bits.
            assert (np.abs(result - wanted).max() < 1e-5 * np.abs(wanted).max()) == is_exact


# ----------------------------------------------------------------------------------------------------------------------
# theano_env.


def test_configure():
    chosen = theano_env.configure('torch', FLAGS)
    assert chosen.precision == 'float32' and 'products' not in str(chosen)
    chosen = theano_env.configure('torch', FLAGS, precision='bfloat16')
    assert chosen.precision == theano.config.mode.linker.precision == 'bfloat16'
    assert str(chosen).endswith('float32, products in bfloat16')
    if not theano_env.NUMPY_2:
        assert theano_env.configure('python', FLAGS).precision == 'float32'


@pytest.mark.parametrize('capability, auto', [((7, 5), 'float32'), ((8, 0), 'tf32'), ((9, 0), 'tf32')])
def test_auto_is_tf32_where_there_is_such_a_gpu(monkeypatch, capability, auto):
    for name, value in (('is_available', True), ('device_count', 1), ('get_device_capability', capability),
                        ('get_device_name', 'a GPU')):
        monkeypatch.setattr(torch.cuda, name, lambda *args, value=value: value)
    installed = []
    monkeypatch.setattr(theano_torch, 'install', lambda **kwargs: installed.append(kwargs) or theano_torch.mode())
    assert theano_env.configure('torch').precision == auto == installed[-1]['precision']
    if auto == 'float32':
        with pytest.raises(theano_env.EnvironmentProblem, match="precision='tf32': needs a GPU of compute capability"):
            theano_env.configure('torch', precision='tf32')


@pytest.mark.parametrize('engine, precision, message', [
    ('torch', 'fp16', "precision='fp16': choose one of auto, float32, tf32, bfloat16, float16"),
    ('python', 'bfloat16', "precision='bfloat16': only the torch engine has it"),
    ('torch', 'tf32', "precision='tf32': needs a GPU"),
])
def test_a_precision_that_cannot_be_had_is_one_line(engine, precision, message):
    with pytest.raises(theano_env.EnvironmentProblem, match=message) as caught:
        theano_env.configure(engine, FLAGS, precision=precision)
    assert '\n' not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------------------
# Loss scaling.


class Steps:
    """A tiny joint training step at 4x4; `values` are all variables that it may change."""

    def __init__(self, exponents, ranks=SINGLE):
        theano_env.configure('torch', FLAGS)
        np.random.seed(1)
        lasagne.random.set_rng(np.random.RandomState(1))
        kwargs = {'num_channels': 1, 'resolution': 4, 'fmap_base': 8, 'fmap_max': 4}
        self.G = Network('G', func='networks.G_paper', latent_size=4, **kwargs)
        self.D = Network('D', func='networks.D_paper', use_gdrop=False, **kwargs)
        self.Gs = self.G.clone(share_nontrainables=True)
        rate = theano.shared(np.float32(1e-3))
        lasagne.random.set_rng(np.random.RandomState(2))
        self.train_d = steps.compile_training_functions(
            self.G, self.D, self.Gs, Schedule(0, 0, 0, 4, 4, 1, 1), rate, rate, 0.9, {},
            {'beta1': 0.5, 'beta2': 0.99, 'epsilon': 1e-8}, False, False, ranks, exponents).train_d
        self.random = np.random.RandomState(3)

    def step(self):
        reals = self.random.randint(0, 256, (4, 1, 4, 4)).astype(np.uint8)
        nothing = np.zeros((4, 0), np.float32)
        return self.train_d(reals, nothing, self.random.randn(4, 4).astype(np.float32), nothing)

    def state(self):
        """{variable: value} of all variables that a step updates, except random streams."""
        updated = [var for var in self.train_d.get_shared() if var.dtype == 'float32' and var.get_value().size]
        return {var: var.get_value() for var in updated}


@pytest.fixture(scope='module')
def plain_steps():
    steps = Steps((None, None))
    outputs = [steps.step() for _ in range(2)]
    return steps, outputs


def test_scaling_changes_nothing_but_the_exponents(plain_steps):
    plain, expected = plain_steps
    exponents = [updates.loss_scaling_exponent() for _ in 'DG']
    assert all(exponent.get_value() == 64 for exponent in exponents)
    steps = Steps(exponents)
    for outputs, reference in zip([steps.step(), steps.step()], expected, strict=True):
        for value, other in zip(outputs, reference, strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-5)
    for net in ('G', 'D', 'Gs'):
        for name, var in getattr(steps, net).vars.items():
            np.testing.assert_allclose(var.get_value(), getattr(plain, net).vars[name].get_value(), rtol=1e-4,
                                       atol=1e-6)
    assert [exponent.get_value() for exponent in exponents] == pytest.approx([64.001] * 2, abs=1e-4)


def test_gradients_that_overflow_change_nothing_but_the_exponent():
    exponents = [updates.loss_scaling_exponent() for _ in 'DG']
    steps = Steps(exponents)
    steps.step()
    exponents[0].set_value(np.float32(140))         # Exceeds float32: only D's gradients become infinite.
    before = steps.state()
    steps.step()
    changed = {var for var, value in steps.state().items() if not np.array_equal(value, before[var])}
    trained = [var for net in (steps.G, steps.D, steps.Gs) for var in net.trainables.values()]
    assert exponents[0].get_value() == 139 and exponents[0] in changed
    assert exponents[1].get_value() == pytest.approx(64.001, abs=1e-4)
    assert not changed.intersection(steps.D.trainables.values())
    assert changed.intersection(steps.G.trainables.values()) and changed.intersection(steps.Gs.trainables.values())
    exponents[1].set_value(np.float32(200))
    before = steps.state()
    steps.step()
    changed = {var for var, value in steps.state().items() if not np.array_equal(value, before[var])}
    # Parameters, moments and step counts stay; Gs still moves towards the old weights.
    assert changed - set(steps.Gs.trainables.values()) == set(exponents)
    assert changed.intersection(trained) <= set(steps.Gs.trainables.values())
    assert [exponent.get_value() for exponent in exponents] == [138, 199]
    assert all(np.isfinite(value).all() for value in steps.state().values())


def test_an_overflow_on_another_rank_counts_here(monkeypatch):
    of_others = theano.shared(np.float32(0))
    monkeypatch.setattr(processes.collective, 'all_reduce_mean', lambda tensors, sizes: [
        x + T.cast(of_others, x.dtype) for x in tensors])
    exponents = [updates.loss_scaling_exponent() for _ in 'DG']
    steps = Steps(exponents, Ranks(0, 2))
    steps.step()
    assert [exponent.get_value() for exponent in exponents] == pytest.approx([64.0005] * 2, abs=1e-4)
    of_others.set_value(np.float32(np.inf))
    before = steps.state()
    steps.step()
    changed = {var for var, value in steps.state().items() if not np.array_equal(value, before[var])}
    assert changed - set(steps.Gs.trainables.values()) == set(exponents)
    assert [exponent.get_value() for exponent in exponents] == pytest.approx([63.0005] * 2, abs=1e-4)


@pytest.mark.slow
def test_float16_runs_train_with_loss_scaling(tmp_path, monkeypatch):
    """--precision reaches the updates, and the exponents fall until the gradients fit."""
    exponents = []
    monkeypatch.setattr(updates, 'loss_scaling_exponent', lambda: exponents.append(
        theano.shared(np.float32(64))) or exponents[-1])
    argv = ['--precision', 'float16', '--data-dir', str(tmp_path), '--result-dir', str(tmp_path)]
    options = {'G.fmap_max': 4, 'D.fmap_max': 4, 'train.minibatch_default': 4, 'train.total_kimg': 0.012,
               'dataset.resolution': 4, 'train.show_progress': False, 'metrics': []}
    status = train.main(argv + [word for key, value in options.items() for word in ('--set', f'{key}={value}')])
    assert status == 0 and len(exponents) == 2
    assert all(exponent.get_value() == 61 for exponent in exponents)     # 2^64 is far too large for float16.
    assert 'products in float16' in (tmp_path / '000-digits' / 'log.txt').read_text()
