"""networks.py against the recorded networks of the 2017 release: structure, initial weights, outputs, side effects."""

import re
import zlib

import lasagne
import numpy as np
import pytest
import theano
from scipy.signal import convolve2d
from theano.configparser import change_flags
from theano.sandbox.rng_mrg import MRG_RandomStreams

import networks
from common.errors import UserError
from nets import layers
from tests.helpers import GOLDEN, load_golden

CASES = sorted(path.stem for path in GOLDEN.glob('nets_*.npz') if path.stem != 'nets_float64')
FLOAT64_KEYS = list(load_golden('nets_float64')[0])
FLOAT64_CASES = [case for case in CASES if any(key.startswith(case[5:] + '__') for key in FLOAT64_KEYS)]
TOLERANCES = {
    'float32': 1e-4,    # Relative to the largest value. Pixelwise normalization amplifies rounding to 2e-5.
    'float64': 1e-9,
}


class Net:
    """A network built from the arguments in a golden file, with the recorded parameter values."""

    def __init__(self, spec, values=None):
        spec = dict(spec)
        self.built = getattr(networks, spec.pop('func'))(**spec)
        self.outputs = self.built['output_layers']
        self.inputs = [layer.input_var for layer in self.built['input_layers']]
        self.params = lasagne.layers.get_all_params(self.outputs)
        self.values = values
        self.functions = {}
        if values is not None:
            self.reset()

    def reset(self):
        for index, param in enumerate(self.params):
            param.set_value(self.values[f'param_{index:03d}'].astype(param.dtype))

    def set(self, **scalars):
        for name, value in scalars.items():
            self.built[name].set_value(np.float32(value))

    def expressions(self, cur_lod, static=True, **kwargs):
        """The outputs for the lod range of `cur_lod`, or for all lods if not `static`."""
        if static:
            kwargs.update(min_lod=int(np.floor(cur_lod)), max_lod=int(np.ceil(cur_lod)))
        return lasagne.layers.get_output(self.outputs, **kwargs)

    def call(self, function, arrays):
        """Call a compiled function on the inputs in `arrays`."""
        inputs = [arrays[key] for key in ('in_latents', 'in_labels', 'in_images') if key in arrays]
        inputs = [array.astype(var.dtype) for array, var in zip(inputs, self.inputs, strict=True)]
        return function(*inputs)

    def evaluate(self, arrays, cur_lod, static=True, **kwargs):
        self.set(cur_lod=cur_lod)
        # Compile once per lod range, or once for all lods with static=False.
        key = static and (np.floor(cur_lod), np.ceil(cur_lod)), *sorted(kwargs.items())
        if key not in self.functions:
            self.functions[key] = theano.function(self.inputs, self.expressions(cur_lod, static, **kwargs))
        return self.call(self.functions[key], arrays)

    def evaluate_lods(self, arrays, lods, **kwargs):
        """`evaluate` for several lods with one function, which shares common computations."""
        outputs = [theano.clone(output, {self.built['cur_lod']: theano.tensor.constant(np.float32(lod))})
                   for lod in lods for output in self.expressions(lod, **kwargs)]
        values = self.call(theano.function(self.inputs, outputs), arrays)
        return [values[i:i + len(self.outputs)] for i in range(0, len(values), len(self.outputs))]


def recorded_evaluations(keys):
    """{(kind, lod): {output: key}} for the arrays named ``out_<kind>_lod<lod>_<output>``."""
    found = {}
    for key in keys:
        match = re.fullmatch(r'out_(det|nd|detfull)_lod([\d.]+)_(\w+)', key)
        if match:
            kind, lod, what = match.groups()
            found.setdefault((kind, float(lod)), {})[what] = key
    return found


def assert_close(actual, desired, tolerance, what):
    scale = np.abs(desired).max()
    deviation = np.abs(np.asarray(actual, dtype='float64') - desired).max()
    assert deviation <= tolerance * scale, f'{what}: off by {deviation:g} of {scale:g}'


def pick(outputs, what):
    return outputs[1] if what == 'labels' else outputs[0]


# ----------------------------------------------------------------------------------------------------------------------
# Construction.


@pytest.mark.parametrize('case', CASES)
def test_structure(case):
    _arrays, meta = load_golden(case)
    net = Net(meta['spec'])
    all_layers = lasagne.layers.get_all_layers(net.outputs)
    assert [[layer.name, type(layer).__name__, list(layer.output_shape)] for layer in all_layers] == meta['layers']
    described = [dict(name=param.name, tags=sorted(tags), shape=list(param.get_value().shape), dtype=param.dtype)
                 for layer in all_layers for param, tags in layer.params.items()]
    assert described == [{key: param[key] for key in ('name', 'tags', 'shape', 'dtype')} for param in meta['params']]
    trainable = lasagne.layers.get_all_params(net.outputs, trainable=True)
    assert [net.params.index(param) for param in trainable] == meta['trainable_index']
    assert list(net.built['input_layers'][0].output_shape) == meta['input_shape']
    assert list(net.outputs[0].output_shape) == meta['output_shape']
    scalars = [name for name in net.built if name not in ('input_layers', 'output_layers')]
    assert sorted(scalars) == sorted(meta['toplevel_params'])
    assert all(net.built[name].dtype == 'float32' and net.built[name].name == name for name in scalars)
    assert any(isinstance(layer, layers.LODSelectLayer) for layer in all_layers) == meta['has_lod_layers']


def recorder(name, draw, draws):
    """`draw`, wrapped to record name, arguments and result of every call in `draws`."""
    def spy(*args, **kwargs):
        result = draw(*args, **kwargs)
        draws.append((name, list(args), {key: list(value) for key, value in kwargs.items()}, result))
        return result
    return spy


@pytest.mark.parametrize('case', CASES)
def test_random_draws_and_initial_weights(case, monkeypatch):
    arrays, meta = load_golden(case)
    draws = []
    for name in ('normal', 'randint'):
        monkeypatch.setattr(np.random, name, recorder(name, getattr(np.random, name), draws))

    np.random.seed(meta['seed'])
    net = Net(meta['spec'])
    if 'gdrop_mrg_seeds' in arrays:
        assert [result for name, *_, result in draws if name == 'randint'] == list(arrays['gdrop_mrg_seeds'])
    Net(meta['spec'])   # The release builds every network twice.
    assert [draw[:3] for draw in draws] == [(draw['call'], draw['args'], draw['kwargs']) for draw in meta['rng_calls']]

    initial = [param.get_value() for param in net.params]
    recorded = [key for key in arrays if key.startswith('init_')]
    for key in recorded:
        # 1e-6: wscale divides by a float32 root mean square, whose order of summation depends on the machine.
        np.testing.assert_allclose(initial[int(key[5:])], arrays[key], rtol=1e-6, atol=1e-6, err_msg=key)
    if not recorded:
        # The other files have checksums. Only values that are not random have the same bits on every machine.
        for value, param in zip(initial, meta['params'], strict=True):
            if not param['name'].endswith(('.W', '.theta', 'S.scale', 'ws.scale')):
                assert zlib.crc32(np.ascontiguousarray(value).tobytes()) == param['init_crc32'], param['name']


# ----------------------------------------------------------------------------------------------------------------------
# Outputs.


def check_outputs(case, only_lod=None):
    arrays, meta = load_golden(case)
    net = Net(meta['spec'], arrays)
    recorded = recorded_evaluations(arrays)
    lods = [lod for kind, lod in recorded if kind == 'det' and only_lod in (None, lod)]
    for lod, outputs in zip(lods, net.evaluate_lods(arrays, lods, deterministic=True), strict=True):
        for what, key in recorded['det', lod].items():
            assert_close(pick(outputs, what), arrays[key], TOLERANCES['float32'], key)
    assert all(np.array_equal(param.get_value(), arrays[f'param_{i:03d}']) for i, param in enumerate(net.params))
    for (kind, lod), keys in recorded.items():
        if kind == 'det' or only_lod not in (None, lod):
            continue
        net.reset()
        outputs = net.evaluate(arrays, lod, static=kind != 'detfull', deterministic=kind != 'nd')
        for what, key in keys.items():
            assert_close(pick(outputs, what), arrays[key], TOLERANCES['float32'], key)
        for index, param in enumerate(net.params):
            moved = f'bnafter_{kind}_lod{lod:.1f}_{index:03d}'
            if moved in arrays:
                assert_close(param.get_value(), arrays[moved], TOLERANCES['float32'], moved)
            else:
                assert np.array_equal(param.get_value(), arrays[f'param_{index:03d}']), param.name


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
@pytest.mark.parametrize('case', CASES)
def test_outputs(case, engine):
    check_outputs(case)


@pytest.mark.parametrize('engine', ['theano'], indirect=True)
@pytest.mark.parametrize('case', ['nets_G_label10', 'nets_D_label10'])
def test_outputs_at_one_lod_in_c(case, engine):
    check_outputs(case, only_lod=1.5)


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
@pytest.mark.parametrize('case', FLOAT64_CASES)
def test_float64_outputs(case, engine):
    arrays, meta = load_golden(case)
    recorded = {key[len(case) - 3:]: value for key, value in load_golden('nets_float64')[0].items()
                if key.startswith(case[5:] + '__')}
    with change_flags(floatX='float64'):
        net = Net(meta['spec'], arrays)
        evaluations = recorded_evaluations(recorded)
        lods = [lod for kind, lod in evaluations if kind == 'det']
        results = {('det', lod): outputs for lod, outputs in
                   zip(lods, net.evaluate_lods(arrays, lods, deterministic=True), strict=True)}
        for kind, lod in evaluations:
            if kind == 'nd':
                net.reset()
                results[kind, lod] = net.evaluate(arrays, lod, deterministic=False)
        for evaluation, keys in evaluations.items():
            for what, key in keys.items():
                desired = recorded[key]
                actual = pick(results[evaluation], what)[:len(desired)]    # G has one image.
                assert_close(actual, desired, TOLERANCES['float64'], key)


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
def test_gdrop_noise(engine):
    arrays, meta = load_golden('nets_D_gdrop')
    np.random.seed(meta['seed'])
    net = Net(meta['spec'], arrays)
    net.set(gdrop_strength=0.15)
    noisy, = net.evaluate(arrays, 0.0, deterministic=False)
    assert_close(noisy, arrays['out_nd_gdrop0.15_lod0.0_scores'], TOLERANCES['float32'], 'noisy scores')


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
def test_initialization_of_minibatch_discrimination(engine):
    arrays, meta = load_golden('nets_D_mbdisc5')
    net = Net(meta['spec'], arrays)
    assert layers.has_mbdisc(net.outputs)
    net.set(cur_lod=2.0)
    layers.initialize_mbdisc(net.built['input_layers'][0], net.outputs, arrays['in_images'])
    for index, param in enumerate(net.params):
        assert_close(param.get_value(), arrays[f'mbdiscinit_lod2.0_{index:03d}'], TOLERANCES['float32'], param.name)
    scores, = net.evaluate(arrays, 2.0, deterministic=True)
    assert_close(scores, arrays['out_after_mbdiscinit_lod2.0_scores'], TOLERANCES['float32'], 'scores')


# ----------------------------------------------------------------------------------------------------------------------
# Images below full resolution.


def repeat_pixels(x, factor):
    return x.repeat(factor, axis=2).repeat(factor, axis=3)


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
@pytest.mark.parametrize('case', ['nets_G_label10', 'nets_D_label10', 'nets_Gmnist_prog', 'nets_Dmnist_X4_prog_all'])
@pytest.mark.parametrize('cur_lod, image_lod', [(1.0, 1), (1.3, 1), (2.0, 1), (2.0, 2)])
def test_image_lod_changes_no_value(case, cur_lod, image_lod, engine):
    arrays, meta = load_golden(case)
    with change_flags(floatX='float64'):
        net = Net(meta['spec'], arrays)
        plain = dict(arrays)
        if 'in_images' in arrays:
            arrays['in_images'] = arrays['in_images'][:, :, ::2 ** image_lod, ::2 ** image_lod]
            plain['in_images'] = repeat_pixels(arrays['in_images'], 2 ** image_lod)
        wanted = net.evaluate(plain, cur_lod, deterministic=True)
        outputs = net.evaluate(arrays, cur_lod, deterministic=True, image_lod=image_lod)
        for output, desired in zip(outputs, wanted, strict=True):
            if output.ndim == 4:
                assert output.shape[2] == 16 >> image_lod
                output = repeat_pixels(output, 2 ** image_lod)
            assert_close(output, desired, 1e-12, case)      # Rounding of float64.


def test_image_lod_needs_min_lod():
    net = Net(dict(func='G_paper', fmap_max=8, latent_size=4))
    for kwargs in (dict(), dict(min_lod=0, max_lod=1)):
        with pytest.raises(ValueError, match='image_lod=1 needs min_lod >= image_lod'):
            lasagne.layers.get_output(net.outputs, image_lod=1, **kwargs)


# ----------------------------------------------------------------------------------------------------------------------
# Options that no golden file has.


def layer_names(func, **spec):
    return [layer.name for layer in lasagne.layers.get_all_layers(Net(dict(spec, func=func)).outputs)]


def count_trainable(func, **spec):
    net = Net(dict(spec, func=func))
    return sum(param.get_value().size for param in lasagne.layers.get_all_params(net.outputs, trainable=True))


def test_parameter_counts_of_table_2():
    paper = dict(num_channels=3, resolution=1024, fmap_base=8192, fmap_max=512)
    # The totals in the table, 23 071 507 and 23 077 137, plus the image layers of the eight lower resolutions.
    assert count_trainable('G_paper', **paper) == 23079115
    assert count_trainable('D_paper', **paper) == 23087249


def test_combinations_of_normalizations():
    small = dict(resolution=8, label_size=0, fmap_base=64, fmap_max=8, latent_size=4)
    assert layer_names('G_mnist_mode_recovery', use_batchnorm=False, use_pixelnorm=True, use_wscale=True,
                       progressive=True, **small) == [
        'Glatents', 'Glnorm', 'Ginb', 'G1a', 'G1aS', 'G1aSpn', 'G2up', 'G2a', 'G2aS', 'G2aSpn', 'Glod0', 'Glod0S',
        'Glod1', 'Glod1S', 'Glod', 'Gtanh']
    assert layer_names('D_mnist_mode_recovery', use_batchnorm=False, use_wscale=True, progressive=True,
                       mbstat_avg='all', **small) == [
        'Dimages', 'D2a', 'D2aws', 'D2dn', 'D1xs', 'D1x', 'D1xws', 'D1lod', 'Dstat', 'Dflatten', 'Dscores',
        'Dscoresws']
    assert layer_names('D_mnist_mode_recovery', use_gdrop=True, use_layernorm=True, use_batchnorm=False,
                       **{**small, 'label_size': 3}) == [
        'Dimages', 'Dimagesgd', 'D2a', 'D2aln', 'D2dn', 'D2dngd', 'Dflatten', 'Dscores', 'Dlabels']
    assert layer_names('D_paper', use_wscale=False, use_layernorm=True, use_gdrop=False, mbstat_avg=None, **small) == [
        'Dimages', 'D2x', 'D2b', 'D2bln', 'D2a', 'D2aln', 'D2dn', 'D1xs', 'D1x', 'D1lod', 'D1b', 'D1bln', 'D1a',
        'D1aln', 'Dscores']


def conv_3x3(x, W):
    """SciPy's convolution of images (N, C, H, W), padded with zeros, with filters (K, C, 3, 3)."""
    return np.stack([[sum(map(lambda channel, taps: convolve2d(channel, taps, 'same'), image, filters))
                      for filters in W] for image in x])


def standardized(x, axes):
    centered = x - x.mean(axis=axes, keepdims=True)
    return centered / np.sqrt((centered ** 2).mean(axis=axes, keepdims=True) + 1e-4)


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
def test_mnist_discriminator_with_both_normalizations(engine):
    """BN(LN(WS(conv))), against NumPy and SciPy: each layer takes bias and nonlinearity from the one before."""
    spec = dict(func='D_mnist_mode_recovery', num_channels=3, resolution=8, label_size=0, X=2, fmap_base=16,
                use_wscale=True, use_layernorm=True)
    assert layer_names(**spec) == ['Dimages', 'D2a', 'D2aws', 'D2awsln', 'D2awsln_bn', 'D2awsln_bn_nonlin', 'D2dn',
                                   'Dflatten', 'Dscores', 'Dscoresws']
    net, random = Net(spec), np.random.RandomState(3)
    value = {param.name: np.float32(random.rand(*param.get_value().shape)) for param in net.params}
    assert list(value) == ['D2a.W', 'D2aws.scale', 'D2awsln.gain', 'D2awsln_bn.beta', 'D2awsln_bn.gamma',
                           'D2awsln_bn.mean', 'D2awsln_bn.inv_std', 'Dscores.W', 'Dscoresws.scale', 'Dscoresws.b']
    for param in net.params:
        param.set_value(value[param.name])
    images = random.randn(4, 3, 8, 8).astype('float32')
    x = standardized(conv_3x3(images, value['D2a.W'] * value['D2aws.scale']), (1, 2, 3)) * value['D2awsln.gain']
    x = standardized(x, (0, 2, 3)) * value['D2awsln_bn.gamma'].reshape(-1, 1, 1) + value[
        'D2awsln_bn.beta'].reshape(-1, 1, 1)
    x = np.where(x > 0, x, 0.2 * x).reshape(4, 4, 4, 2, 4, 2).mean(axis=(3, 5)).reshape(4, -1)
    scores, = net.evaluate({'in_images': images}, 0.0)
    assert_close(scores, x @ value['Dscores.W'] * value['Dscoresws.scale'] + value['Dscoresws.b'],
                 TOLERANCES['float32'], 'scores')


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
def test_noise_in_front_of_the_dense_layer_of_the_mnist_discriminator(engine, monkeypatch):
    draws = []
    monkeypatch.setattr(np.random, 'randint', recorder('randint', np.random.randint, draws))
    net = Net(dict(func='D_mnist_mode_recovery', num_channels=1, resolution=8, label_size=0, X=1, fmap_base=16,
                   mbstat_avg='all', use_batchnorm=False, use_gdrop=True))
    noisy = [layer for layer in lasagne.layers.get_all_layers(net.outputs) if isinstance(layer, layers.GDropLayer)]
    assert [layer.name for layer in noisy] == ['Dimagesgd', 'Dstatgd'] and len(draws) == 2
    net.set(gdrop_strength=0.5)
    x = theano.tensor.ftensor4()
    scores = theano.function([x], lasagne.layers.get_output(net.outputs[0], {noisy[1].input_layer: x}))
    features = np.random.RandomState(2).randn(4, 9, 4, 4).astype('float32')
    noise = theano.function([], MRG_RandomStreams(int(draws[1][-1])).normal((4, 9), dtype='float32'))()
    W, b = (param.get_value() for param in net.params[-2:])
    wanted = (features * (1 + 0.5 * 3 * noise)[:, :, np.newaxis, np.newaxis]).reshape(4, -1) @ W + b
    assert_close(scores(features), wanted, TOLERANCES['float32'], 'scores')


@pytest.mark.parametrize('func', ['G_paper', 'G_mnist_mode_recovery'])
def test_no_tanh(func):
    small = dict(resolution=8, label_size=0, fmap_base=64, fmap_max=8, latent_size=4)
    assert layer_names(func, tanh_at_end=False, **small) == layer_names(func, tanh_at_end=None, **small)
    assert layer_names(func, tanh_at_end=True, **small)[-1] == 'Gtanh'
    with pytest.raises(UserError, match='tanh_at_end=0.0: makes all images equal'):
        getattr(networks, func)(tanh_at_end=0.0, **small)


def test_defaults_of_the_mnist_networks():
    G, D = networks.G_mnist_mode_recovery(), networks.D_mnist_mode_recovery()
    assert [layer.output_shape for layer in G['input_layers']] == [(None, 64), (None, 10)]
    assert [layer.output_shape for layer in D['output_layers']] == [(None, 1), (None, 10)]


def test_defaults_and_unknown_arguments():
    G = networks.G_paper(no_such_option=1)
    assert G['input_layers'][0].output_shape == (None, 256)     # min(fmap_base, fmap_max)
    assert G['output_layers'][0].output_shape == (None, 1, 32, 32)
    G = networks.G_paper(fmap_base=128, fmap_decay=0.5)
    assert G['input_layers'][0].output_shape == (None, 128)
    shapes = {layer.name: layer.output_shape for layer in lasagne.layers.get_all_layers(G['output_layers'])}
    assert [shapes[f'G{stage}b'][1] for stage in (1, 2, 3, 4)] == [90, 64, 45, 32]


def test_smallest_resolution():
    assert layer_names('G_paper', resolution=4, fmap_max=8, latent_size=4, use_wscale=False) == [
        'Glatents', 'Glnorm', 'Ginb', 'G1a', 'G1apn', 'G1b', 'G1bpn', 'Glod0', 'Glod']
    assert layer_names('D_paper', resolution=4, fmap_max=8, use_gdrop=False, use_wscale=False) == [
        'Dimages', 'D1x', 'Dstat', 'D1b', 'D1a', 'Dscores']


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
def test_mnist_classifier(engine):
    built = networks.mnist_classifier()
    images, probs = built['input_layers'][0].input_var, lasagne.layers.get_output(built['output_layers'][0])
    values = theano.function([images], probs)(np.random.RandomState(1).randn(3, 1, 32, 32).astype('float32'))
    assert values.shape == (3, 10)
    np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-6)    # Rounding of float32.
    maps = [layer.output_shape[1:3] for layer in lasagne.layers.get_all_layers(built['output_layers'])
            if isinstance(layer, layers.Conv2DLayer)]
    assert maps == [(32, 32), (32, 32), (55, 16), (55, 16), (96, 6), (96, 4)]


@pytest.mark.parametrize('func, spec, message', [
    ('G_paper', dict(resolution=24), 'resolution=24: .* a power of two'),
    ('D_paper', dict(resolution=2), 'resolution=2: .* at least 4'),
    ('G_paper', dict(fmap_base=8, resolution=64), 'fmap_base=8: gives no feature maps at 32x32'),
    ('D_mnist_mode_recovery', dict(X=16, fmap_base=64), 'X=16: leaves none of 8 feature maps'),
])
def test_user_mistakes(func, spec, message):
    with pytest.raises(UserError, match=message):
        getattr(networks, func)(**spec)
