"""loss.py against the recorded losses, gradients and side effects of the 2017 release."""

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from theano.configparser import change_flags

import loss
from common.errors import UserError
from nets.network import Network
from tests.helpers import GOLDEN, load_golden

CASES = sorted(path.stem for path in GOLDEN.glob('loss_*.npz'))
LOW_RESOLUTION_CASES = [case for case in CASES if load_golden(case)[1]['min_lod'] > 0]
PYTHON_CASES = [case for case in CASES if 'label10' in case or 'mnist' in case or 'mbdisc' in case]
TOLERANCES = {
    'float32': 1e-4,    # Relative to the largest value in an array.
    'float64': 1e-9,
}


class FixedGenerator:
    """Replaces NumPy's generator: returns the recorded seed of the mixing factors and records the arguments."""

    def __init__(self, seed):
        self.seed = seed
        self.calls = []

    def randint(self, *args):
        self.calls.append(list(args))
        return self.seed


class Case:
    """The networks, inputs and loss expressions of one golden file."""

    def __init__(self, name, image_lod=0, input_dtype=None):
        self.arrays, self.meta = load_golden(name)
        self.image_lod = image_lod
        self.nets = {}
        for key in 'GD':
            spec = dict(self.meta[key])
            self.nets[key] = Network(key, func='networks.' + spec.pop('func'), **spec)
            self.nets[key].set_var('cur_lod', self.meta['cur_lod'])
        self.params = {key: lasagne.layers.get_all_params(net.output_layers) for key, net in self.nets.items()}
        # The release feeds float32 images, latents and labels even if floatX is float64.
        dtype = input_dtype or self.meta['input_dtype']
        self.inputs = [T.TensorType(dtype, (False,) * 4)('real_images'), T.fmatrix('real_labels'),
                       T.TensorType(dtype, (False,) * 2)('fake_latents'), T.fmatrix('fake_labels')]
        generator = FixedGenerator(self.meta['mrg_seed'])
        before = lasagne.random.get_rng()
        lasagne.random.set_rng(generator)
        try:
            self.losses = loss.evaluate_loss(self.nets['G'], self.nets['D'], self.meta['min_lod'], self.meta['max_lod'],
                                             *self.inputs, image_lod=image_lod, **self.meta['loss'])
        finally:
            lasagne.random.set_rng(before)
        assert generator.calls == [self.meta['randint_args']]
        self.reset()

    def reset(self):
        for key, params in self.params.items():
            for index, param in enumerate(params):
                param.set_value(self.arrays[f'param_{key}_{index:03d}'].astype(param.dtype))

    def input_values(self):
        """The recorded inputs, with images downscaled to image_lod."""
        arrays = [self.arrays['in_' + key] for key in ('reals', 'real_labels', 'latents', 'fake_labels')]
        factor = 2 ** self.image_lod
        n, c, h, w = arrays[0].shape
        arrays[0] = arrays[0].astype('float64').reshape(n, c, h // factor, factor, w // factor, factor).mean((3, 5))
        return [array.astype(var.dtype) for array, var in zip(arrays, self.inputs, strict=True)]

    def gradients(self):
        """{name in the golden file: expression of a gradient}; checks which parameters have one."""
        expressions = {}
        for key, cost in [('G', self.losses.G_loss), ('D', self.losses.D_loss)]:
            trainables = list(self.nets[key].trainables.values())
            grads = theano.grad(cost, trainables, disconnected_inputs='ignore', return_disconnected='None')
            connected = {self.params[key].index(param): grad for param, grad in zip(trainables, grads, strict=True)
                         if grad is not None}
            assert sorted(connected) == self.meta['connected_param_index'][key]
            expressions.update({f'grad_{key}_{index:03d}': grad for index, grad in connected.items()})
        return expressions

    def check_side_effects(self, tolerance):
        """Check that an evaluation changes the averages of batch norm and nothing else."""
        for key, params in self.params.items():
            for index, param in enumerate(params):
                suffix = f'{key}_{index:03d}'
                if 'after_' + suffix in self.arrays:
                    assert_close(param.get_value(), self.arrays['after_' + suffix], tolerance, 'after_' + suffix)
                else:
                    assert np.array_equal(param.get_value(), self.arrays['param_' + suffix].astype(param.dtype)), suffix

    def compile(self, outputs, **kwargs):
        """A function that returns {name: value}, without fusion: Theano's fused Python code skips float32 rounding."""
        mode = theano.config.mode
        if not isinstance(mode, str) and 'c_thunks' in vars(mode.linker) and not mode.linker.c_thunks:
            mode = mode.excluding('fusion')
        return theano.function(self.inputs, outputs, mode=mode, on_unused_input='ignore', **kwargs)


def assert_close(actual, desired, tolerance, what):
    """Compare within `tolerance` of the largest value, or within four times the rounding of 1.

The bias of the scores needs the latter with iwass: the parts +1 and -1 of its gradient cancel.
    """
    scale = np.abs(desired).max(initial=0)
    deviation = np.abs(np.asarray(actual, dtype='float64') - desired).max(initial=0)
    dtype = desired.dtype if desired.dtype.kind == 'f' else 'float64'
    allowed = max(tolerance * scale, 4 * np.finfo(dtype).eps)
    assert deviation <= allowed, f'{what}: off by {deviation:g} of {scale:g}'


def check_case(name, tolerance=None, **options):
    """Compare everything in a golden file except the mixing factors, which are inputs."""
    dtype = load_golden(name)[1]['floatX']
    tolerance = tolerance or TOLERANCES[dtype]
    with change_flags(floatX=dtype):
        case = Case(name, **options)
        mixing_factors = theano.shared(case.arrays['mixing_factors'], broadcastable=(False, True, True, True))
        outputs = dict(case.losses._asdict(), **case.gradients())
        del outputs['mixing_factors']
        assert sorted(key for key in case.arrays if key.startswith('grad_')) == sorted(
            key for key in outputs if key.startswith('grad_'))
        function = case.compile(outputs, givens={case.losses.mixing_factors: mixing_factors})
        for prefix in ('', 'second_call_'):
            case.reset()
            mixing_factors.set_value(case.arrays[prefix + 'mixing_factors'])
            for key, value in function(*case.input_values()).items():
                if prefix + key in case.arrays:
                    assert_close(value, case.arrays[prefix + key], tolerance, prefix + key)
            if not prefix:
                case.check_side_effects(tolerance)


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
@pytest.mark.parametrize('name', CASES)
def test_losses_and_gradients(name, engine):
    check_case(name)


@pytest.mark.slow
@pytest.mark.parametrize('engine', ['python'], indirect=True)
@pytest.mark.parametrize('name', PYTHON_CASES)
def test_losses_and_gradients_in_python(name, engine):
    check_case(name)


@pytest.mark.parametrize('engine', ['theano'], indirect=True)
def test_losses_in_c(engine):
    """Losses only: the gradients would take minutes to compile."""
    case = Case('loss_lsgan_label10_lod1.5')
    values = case.compile(case.losses._asdict())(*case.input_values())
    for key, value in values.items():
        # 1e-6 allows for the last bit of the float32 mixing factors.
        assert_close(value, case.arrays[key], 1e-6 if key == 'mixing_factors' else TOLERANCES['float32'], key)


@pytest.mark.parametrize('name, engine', [(name, 'torch') for name in CASES] + [(CASES[0], 'python')],
                         indirect=['engine'])
def test_mixing_factors(name, engine):
    """Two calls draw twice from the stream. 1e-6 allows for the last bit, which Theano's Python code gets wrong."""
    case = Case(name)
    function = theano.function(case.inputs[:1], case.losses.mixing_factors)
    for prefix in ('', 'second_call_'):
        assert_close(function(case.input_values()[0]), case.arrays[prefix + 'mixing_factors'], 1e-6, prefix)


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
def test_loss_draws_its_own_mixing_factors(engine):
    case = Case('loss_iwass1_label0_lod1.5')
    function = case.compile(dict(D_loss=case.losses.D_loss))
    for prefix in ('', 'second_call_'):
        value = function(*case.input_values())['D_loss']
        # Mixing factors of another draw change the loss by 1 %.
        assert_close(value, case.arrays[prefix + 'D_loss'], 1e-6, prefix + 'D_loss')


# ----------------------------------------------------------------------------------------------------------------------
# Images below full resolution.


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
@pytest.mark.parametrize('name', LOW_RESOLUTION_CASES)
def test_recorded_losses_from_small_images(name, engine):
    # 1e-6 also in float64, because the averages of the recorded float32 images are rounded to float32.
    check_case(name, tolerance=1e-6 if name.endswith('float64') else None, image_lod=1)


@pytest.mark.slow
@pytest.mark.parametrize('engine', ['torch'], indirect=True)
@pytest.mark.parametrize('name', ['loss_iwass1_label10_lod1.5', 'loss_iwass750_label0_lod1.5',
                                  'loss_lsgan_label10_lod1.5'])
def test_image_lod_changes_no_value(name, engine):
    with change_flags(floatX='float64'):
        results = []
        for image_lod in (0, 1):
            case = Case(name, image_lod, input_dtype='float64')
            outputs = dict(case.losses._asdict(), **case.gradients())
            results.append(case.compile(outputs)(*case.input_values()))
    plain, small = results
    assert plain.keys() == small.keys()
    for key, value in plain.items():
        # Rounding of float64. The mixing factors are equal.
        assert_close(small[key], value, 1e-12, key)


# ----------------------------------------------------------------------------------------------------------------------
# Helper functions.


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
def test_cross_entropy(engine):
    logits, labels = T.fmatrix(), T.fmatrix()
    cost = loss.cross_entropy(logits, labels)
    function = theano.function([logits, labels], [cost, theano.grad(cost, logits)])
    # Far apart, so that softmax without a shift would overflow.
    x = np.asarray([[0, 0], [2, 1], [1000, 0], [-1000, 0]], dtype='float32')
    y = np.asarray([[1, 0], [0, 1], [0, 1], [0, 1]], dtype='float32')
    value, gradient = function(x, y)
    wanted = [np.log(2), 1 + np.log1p(np.exp(-1)), 1000, 0]
    np.testing.assert_allclose(value, np.mean(wanted), rtol=1e-6)       # Rounding of float32.
    softmax = np.asarray([[0.5, 0.5], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], [1, 0], [0, 1]])
    np.testing.assert_allclose(gradient, (softmax - y) / 4, atol=1e-6)


def test_weight_of_the_fakes_in_least_squares():
    """D_loss is linear in the weight, so the value for the release's 0.1 is between those for 0 and 1."""
    G, D = (Network(name, func=f'networks.{name}_paper', resolution=4, fmap_base=8, fmap_max=2) for name in 'GD')
    images, latents, labels = (np.random.randn(*shape).astype('f') for shape in ((3, 1, 4, 4), (3, 2), (3, 0)))
    losses = []
    for weight in ({}, {'L2_fake_weight': 0.0}, {'L2_fake_weight': 1.0}):
        inputs = T.ftensor4(), T.fmatrix(), T.fmatrix(), T.fmatrix()
        np.random.seed(3)
        expressions = loss.evaluate_loss(G, D, 0, 0, *inputs, type='lsgan', **weight)
        losses.append(theano.function(list(inputs), [expressions.G_loss, expressions.D_loss],
                                      on_unused_input='ignore')(images, labels, latents, labels))
    (G_loss, default), (_same, without), (_same, whole) = losses
    np.testing.assert_allclose(default, 0.9 * without + 0.1 * whole, rtol=1e-5)
    assert whole > without and losses[1][0] == losses[2][0] == G_loss


@pytest.mark.parametrize('option, value', [('type', 'wgan'), ('cond_type', 'projection')])
def test_user_mistakes(option, value):
    small = dict(resolution=4, fmap_max=4)
    G = Network('G', func='networks.G_paper', **small)
    D = Network('D', func='networks.D_paper', **small)
    with pytest.raises(UserError, match=f"loss.{option}='{value}': use '"):
        loss.evaluate_loss(G, D, 0, 0, T.ftensor4(), T.fmatrix(), T.fmatrix(), T.fmatrix(), **{option: value})
