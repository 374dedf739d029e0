"""nets/layers.py: single layers against NumPy. test_networks.py tests whole networks."""

import copy

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import InputLayer, get_output
from theano.sandbox.rng_mrg import MRG_RandomStreams
from theano.tensor.nnet import abstract_conv

from nets import layers, ops
from nets.ranks import SINGLE, Ranks

ENGINES = ['torch', 'python']
ROUNDING = dict(rtol=2e-6, atol=2e-6)     # float32 sums of a few hundred products.


@pytest.fixture(autouse=True)
def fixed_initial_weights():
    np.random.seed(1)


def normal(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype('float32')


def input_layer(*shape):
    return InputLayer((None,) + shape, name='in')


def evaluate(layer, array, **kwargs):
    """Output of `layer` if its only input layer has the value `array`."""
    inputs = [below for below in lasagne.layers.get_all_layers(layer) if isinstance(below, InputLayer)]
    return theano.function([inputs[0].input_var], get_output(layer, **kwargs))(array)


# ----------------------------------------------------------------------------------------------------------------------
# Resampling and fading.


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_resize_activations(engine):
    x = normal(2, 3, 4, 4)
    variable = T.ftensor4()

    def resize(*to_shape):
        return theano.function([variable], layers.resize_activations(variable, (None, 3, 4, 4), (None,) + to_shape))(x)

    np.testing.assert_array_equal(resize(3, 4, 4), x)
    np.testing.assert_array_equal(resize(2, 4, 4), x[:, :2])
    np.testing.assert_array_equal(resize(5, 4, 4), np.pad(x, [(0, 0), (0, 2), (0, 0), (0, 0)]))
    np.testing.assert_array_equal(resize(3, 8, 8), x.repeat(2, axis=2).repeat(2, axis=3))
    average = x.reshape(2, 3, 2, 2, 2, 2).mean((3, 5))
    np.testing.assert_allclose(resize(3, 2, 2), average, **ROUNDING)
    np.testing.assert_allclose(resize(4, 2, 2), np.pad(average, [(0, 0), (0, 1), (0, 0), (0, 0)]), **ROUNDING)


def test_resize_activations_by_a_fraction():
    with pytest.raises(ValueError, match='whole multiples'):
        layers.resize_activations(T.ftensor4(), (None, 3, 4, 4), (None, 3, 6, 6))


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('lod', [0.0, 0.25, 1.0, 1.75, 2.0, 5.0])
def test_lod_select(engine, lod):
    incomings = [input_layer(2, 8, 8), input_layer(2, 4, 4), input_layer(2, 2, 2)]
    cur_lod = theano.shared(np.float32(lod))
    layer = layers.LODSelectLayer(incomings, cur_lod)
    variables = [incoming.input_var for incoming in incomings]
    arrays = [normal(3, 2, 8 >> i, 8 >> i, seed=i) for i in range(3)]
    full = [x.repeat(2 ** i, axis=2).repeat(2 ** i, axis=3) for i, x in enumerate(arrays)]
    clipped = min(lod, 2.0)
    lo = min(int(clipped), 1)
    wanted = full[lo] * (1 - (clipped - lo)) + full[lo + 1] * (clipped - lo)

    static = dict(min_lod=int(np.floor(lod)), max_lod=int(np.ceil(lod)))
    for kwargs in (static, {}):
        function = theano.function(variables, get_output(layer, **kwargs), on_unused_input='ignore')
        np.testing.assert_allclose(function(*arrays), wanted, **ROUNDING)
    if lod == 1.75:
        function = theano.function(variables, get_output(layer, image_lod=1, **static), on_unused_input='ignore')
        np.testing.assert_allclose(function(*arrays), wanted[:, :, ::2, ::2], **ROUNDING)


def test_lod_select_uses_no_more_than_it_needs():
    incomings = [input_layer(2, 8, 8), input_layer(2, 4, 4), input_layer(2, 2, 2)]
    layer = layers.LODSelectLayer(incomings, theano.shared(np.float32(0)), first_incoming_lod=3)

    def used(min_lod, max_lod):
        found = theano.gof.graph.inputs([get_output(layer, min_lod=min_lod, max_lod=max_lod)])
        return [incoming.input_var in found for incoming in incomings]

    assert used(0, 1) == used(3, 3) == [True, False, False]
    assert used(3, 4) == [True, True, False]
    assert used(5, 5) == used(8, 9) == [False, False, True]


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
def test_pooling(engine):
    x = normal(2, 3, 4, 4)
    windows = x.reshape(2, 3, 2, 2, 2, 2)
    average = layers.Pool2DLayer(input_layer(3, 4, 4))
    assert average.output_shape == (None, 3, 2, 2)
    np.testing.assert_allclose(evaluate(average, x), windows.mean((3, 5)), **ROUNDING)
    np.testing.assert_array_equal(evaluate(layers.Pool2DLayer(input_layer(3, 4, 4), mode='max'), x),
                                  windows.max((3, 5)))
    of_images = layers.Pool2DLayer(input_layer(3, 4, 4), 4, image_lod=2)
    np.testing.assert_allclose(evaluate(of_images, x), x.mean((2, 3), keepdims=True), **ROUNDING)
    np.testing.assert_allclose(evaluate(of_images, x, image_lod=1), windows.mean((3, 5)), **ROUNDING)
    for image_lod in (2, 3):
        np.testing.assert_array_equal(evaluate(of_images, x, image_lod=image_lod), x)


def test_pooling_mistakes():
    with pytest.raises(ValueError, match="mode='median': use 'average' or 'max'"):
        layers.Pool2DLayer(input_layer(3, 4, 4), mode='median')
    with pytest.raises(ValueError, match='pool_size=3: must divide the input size, which is 4x4'):
        layers.Pool2DLayer(input_layer(3, 4, 4), 3)


# ----------------------------------------------------------------------------------------------------------------------
# Weights.


def numpy_convolution(x, W, pad):
    """Convolution with flipped filters, computed from the definition."""
    size = W.shape[2]
    x = np.pad(x.astype('float64'), [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    h, w = x.shape[2] - size + 1, x.shape[3] - size + 1
    out = np.zeros((len(x), len(W), h, w))
    for i in range(size):
        for j in range(size):
            out += np.einsum('nchw,fc->nfhw', x[:, :, i:i + h, j:j + w], W[:, :, size - 1 - i, size - 1 - j])
    return out


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('size, filter_size, pad, pixels', [
    (5, 3, 'same', 1), (4, 4, 'valid', 0), (1, 4, 'full', 3), (5, 2, 'full', 1), (5, 3, 2, 2)])
def test_convolution(size, filter_size, pad, pixels, engine):
    layer = layers.Conv2DLayer(input_layer(3, size, size), 4, filter_size, pad, W=lasagne.init.Normal(1.0),
                               nonlinearity=layers.rectify)
    layer.b.set_value(normal(4, seed=1))
    x = normal(2, 3, size, size)
    wanted = numpy_convolution(x, layer.W.get_value(), pixels) + layer.b.get_value()[:, None, None]
    result = evaluate(layer, x)
    assert layer.output_shape[1:] == result.shape[1:]
    np.testing.assert_allclose(result, np.maximum(wanted, 0), rtol=1e-5, atol=1e-5)     # Sums of 48 products.


def ops_of(function):
    return [node.op for node in function.maker.fgraph.toposort()]


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_convolution_of_an_upscaled_image(engine):
    """The fused form repeats no pixels and equals the plain form."""
    below = layers.Upscale2DLayer(input_layer(3, 5, 4))
    layer = layers.Conv2DLayer(below, 4, 3, W=lasagne.init.Normal(1.0), nonlinearity=layers.LeakyRectify(0.2))
    layer.b.set_value(normal(4, seed=1))
    plain = layers.Conv2DLayer(input_layer(3, 10, 8), 4, 3, W=layer.W, nonlinearity=layer.nonlinearity)
    plain.b = layer.b
    x, W = T.ftensor4(), layer.W
    functions = []
    for y in (get_output(layer, {below.input_layer: x}), get_output(plain, ops.upscale2d(x, 2))):
        gradient, = T.grad(T.sum(T.sqr(y)), [x])
        functions.append(theano.function([x], [y, gradient, T.grad(T.sum(T.sqr(gradient)), W)]))
    fused, other = functions
    assert not any(isinstance(op, ops.Repeat2D | ops.AveragePool2D) for op in ops_of(fused))
    array = normal(2, 3, 5, 4, seed=2)
    for result, wanted in zip(fused(array), other(array), strict=True):
        assert result.shape == wanted.shape
        # The order of summation of some hundred numbers differs. Relative to the largest value.
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
@pytest.mark.parametrize('factor, filter_size, pad', [(4, 3, 'same'), (2, 5, 'same'), (2, 3, 'valid'), (2, 3, 'full')])
def test_convolution_of_an_upscaled_image_that_is_not_fused(factor, filter_size, pad, engine):
    below = layers.Upscale2DLayer(input_layer(3, 4, 4), factor)
    layer = layers.Conv2DLayer(below, 2, filter_size, pad, W=lasagne.init.Normal(1.0))
    x = normal(2, 3, 4, 4)
    repeated = x.repeat(factor, axis=2).repeat(factor, axis=3)
    wanted = numpy_convolution(repeated, layer.W.get_value(), layer.pad)
    np.testing.assert_allclose(evaluate(layer, x), wanted, rtol=1e-5, atol=1e-5)    # Sums of 75 products.


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('size, pad', [(4, 'valid'), (1, 'full')])
def test_convolution_as_a_product(size, pad, engine):
    """From or to a single pixel, neither the graph nor its derivatives contain a convolution."""
    layer = layers.Conv2DLayer(input_layer(3, size, size), 5, 4, pad, W=lasagne.init.Normal(1.0))
    layer.b.set_value(normal(5, seed=1))
    x, W = T.ftensor4(), T.ftensor4()
    by_definition = T.nnet.conv2d(x, W, border_mode=layer.pad) + layer.b.dimshuffle('x', 0, 'x', 'x')
    functions = []
    for y, weights in ((get_output(layer, x), layer.W), (by_definition, W)):
        gradient = T.grad(T.sum(T.sqr(y)), x)
        function = theano.function([x] + [W] * (weights is W), [
            y, gradient, T.grad(T.sum(T.sqr(y)), weights), T.grad(T.sum(T.sqr(gradient)), weights)])
        functions.append(function)
    product, convolution = functions
    assert not any(isinstance(op, abstract_conv.BaseAbstractConv) for op in ops_of(product))
    array = normal(2, 3, size, size, seed=2)
    for result, wanted in zip(product(array), convolution(array, layer.W.get_value()), strict=True):
        assert result.shape == wanted.shape
        # float32 rounding, relative to the largest value.
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_same_padding_needs_an_odd_filter():
    with pytest.raises(ValueError, match="pad='same' needs an odd filter_size, not 4"):
        layers.Conv2DLayer(input_layer(3, 8, 8), 4, 4, W=lasagne.init.Normal(1.0))


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_network_in_network(engine):
    layer = layers.NINLayer(input_layer(3, 5, 6), 2, W=lasagne.init.Normal(1.0))
    assert layer.output_shape == (None, 2, 5, 6) and layer.W.get_value().shape == (3, 2)
    x = normal(2, 3, 5, 6)
    np.testing.assert_allclose(evaluate(layer, x), np.einsum('nchw,cf->nfhw', x, layer.W.get_value()), **ROUNDING)


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('kind', ['conv', 'dense'])
def test_equalized_learning_rate(kind, engine):
    W = normal(4, 3, 3, 3) if kind == 'conv' else normal(48, 4)
    if kind == 'conv':
        below = layers.Conv2DLayer(input_layer(3, 4, 4), 4, 3, W=W, nonlinearity=layers.LeakyRectify(0.2), name='c')
    else:
        below = lasagne.layers.DenseLayer(input_layer(3, 4, 4), 4, W=W, nonlinearity=layers.LeakyRectify(0.2))
    x = normal(2, 3, 4, 4, seed=1)
    before = evaluate(below, x)
    layer = layers.WScaleLayer(below, name='cws')
    np.testing.assert_allclose(evaluate(layer, x), before, **ROUNDING)

    stored, = below.get_params()
    np.testing.assert_allclose(np.mean(np.square(stored.get_value())), 1, rtol=1e-6)    # Rounding of float32.
    np.testing.assert_allclose(layer.scale.get_value(), np.sqrt(np.mean(np.square(W))), rtol=1e-6)
    assert (below.b, below.nonlinearity) == (None, lasagne.nonlinearities.identity)
    assert layer.get_params(trainable=True) == [layer.b]

    stored.set_value(np.zeros_like(W))
    layer.b.set_value(np.asarray([1, -1, 2, -2], 'float32'))
    result = evaluate(layer, x)
    np.testing.assert_allclose(result.reshape(2, 4, -1)[0, :, 0], [1, -0.2, 2, -0.4], **ROUNDING)


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
def test_copies_of_scaled_layers_have_their_own_weights(engine):
    below = layers.Conv2DLayer(input_layer(3, 4, 4), 4, 3, W=lasagne.init.Normal(1.0), name='c')
    layer = layers.WScaleLayer(below, name='cws')
    x = normal(2, 3, 4, 4)
    before = evaluate(layer, x)
    twin = copy.deepcopy(layer)
    for param in lasagne.layers.get_all_params(twin):
        param.set_value((param.get_value() + 1).astype('float32'))
    np.testing.assert_array_equal(evaluate(layer, x), before)
    assert np.abs(evaluate(twin, x) - before).min() > 0


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_constant_scale(engine):
    layer = layers.ScaleLayer(input_layer(3, 4, 4), 0.5)
    x = normal(2, 3, 4, 4)
    np.testing.assert_array_equal(evaluate(layer, x), x / 2)
    assert layer.get_params(trainable=True) == layer.get_params(regularizable=True) == []


# ----------------------------------------------------------------------------------------------------------------------
# Normalization.


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_pixel_norm(engine):
    for shape in [(2, 5, 3, 3), (2, 5)]:
        x = normal(*shape)
        wanted = x / np.sqrt(np.mean(np.square(x), axis=1, keepdims=True) + 1e-8)
        np.testing.assert_allclose(evaluate(layers.PixelNormLayer(input_layer(*shape[1:])), x), wanted, **ROUNDING)


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_layer_norm(engine):
    below = layers.NINLayer(input_layer(3, 4, 4), 3, W=np.eye(3, dtype='float32'), nonlinearity=layers.rectify)
    layer = layers.LayerNormLayer(below)
    layer.gain.set_value(np.float32(1.5))
    layer.b.set_value(normal(3, seed=1))
    x = normal(2, 3, 4, 4) + 3
    centered = x - x.mean((1, 2, 3), keepdims=True)
    wanted = centered / np.sqrt(x.var((1, 2, 3), keepdims=True) + 1e-4) * 1.5 + layer.b.get_value()[:, None, None]
    np.testing.assert_allclose(evaluate(layer, x), np.maximum(wanted, 0), **ROUNDING)


def batch_normalized():
    W = np.eye(3, dtype='float32')
    below = layers.NINLayer(input_layer(3, 4, 4), 3, W=W, nonlinearity=layers.rectify, name='c')
    top = layers.batch_norm(below)
    assert (top.name, top.input_layer.name, below.b) == ('c_bn_nonlin', 'c_bn', None)
    bn = top.input_layer
    bn.beta.set_value(normal(3, seed=1))
    bn.gamma.set_value(normal(3, seed=2))
    bn.mean.set_value(normal(3, seed=3))
    bn.inv_std.set_value(np.exp(normal(3, seed=4)))
    return top, bn


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_batch_norm(engine):
    top, bn = batch_normalized()
    x = normal(4, 3, 4, 4) * 2 + 1

    def wanted(mean, inv_std):
        value = (x - mean[:, None, None]) * (inv_std * bn.gamma.get_value())[:, None, None]
        return np.maximum(value + bn.beta.get_value()[:, None, None], 0)

    running = [bn.mean.get_value(), bn.inv_std.get_value()]
    of_batch = [x.mean((0, 2, 3)), 1 / np.sqrt(x.var((0, 2, 3)) + 1e-4)]
    np.testing.assert_allclose(evaluate(top, x, deterministic=True), wanted(*running), **ROUNDING)
    np.testing.assert_allclose(evaluate(top, x, batch_norm_update_averages=False), wanted(*of_batch), **ROUNDING)
    np.testing.assert_allclose(evaluate(top, x, batch_norm_use_averages=True), wanted(*running), **ROUNDING)
    for update_averages in (False, True):
        np.testing.assert_allclose(
            evaluate(top, x, deterministic=True, batch_norm_use_averages=False,
                     batch_norm_update_averages=update_averages), wanted(*of_batch), **ROUNDING)
    np.testing.assert_array_equal(bn.mean.get_value(), running[0])
    np.testing.assert_array_equal(bn.inv_std.get_value(), running[1])
    np.testing.assert_allclose(evaluate(top, x), wanted(*of_batch), **ROUNDING)
    np.testing.assert_allclose(bn.mean.get_value(), running[0] * 0.9 + of_batch[0] * 0.1, **ROUNDING)
    np.testing.assert_allclose(bn.inv_std.get_value(), running[1] * 0.9 + of_batch[1] * 0.1, **ROUNDING)


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_batch_norm_follows_one_of_several_evaluations(engine):
    """The order of the outputs in the function does not matter."""
    top, bn = batch_normalized()
    first, second = T.ftensor4(), T.ftensor4()
    outputs = [get_output(top, first, batch_norm_update_averages=False), get_output(top, second)]
    x, y = normal(4, 3, 4, 4), normal(4, 3, 4, 4, seed=1) + 1
    for ordered in (outputs, outputs[::-1]):
        before = bn.mean.get_value()
        theano.function([first, second], ordered)(x, y)
        np.testing.assert_allclose(bn.mean.get_value(), before * 0.9 + y.mean((0, 2, 3)) * 0.1, **ROUNDING)


# ----------------------------------------------------------------------------------------------------------------------
# Noise and minibatch statistics.


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('mode', ['prop', 'mul', 'drop'])
def test_gdrop(mode, engine):
    np.random.seed(5)
    layer = layers.GDropLayer(input_layer(4, 2, 3), theano.shared(np.float32(0.25)), mode)
    np.random.seed(5)
    random = MRG_RandomStreams(np.random.randint(1, 2147462579))
    x = normal(6, 4, 2, 3)
    n = T.iscalar()
    if mode == 'drop':
        kept = theano.function([n], random.binomial((n, 4), p=np.float32(0.75)))(6)
        noise = kept / 0.75
        assert 0 < kept.sum() < kept.size
    else:
        gaussian = theano.function([n], random.normal((n, 4)))(6)
        noise = 1 + gaussian * 0.25 * 2 if mode == 'prop' else 1.25 ** gaussian
    np.testing.assert_allclose(evaluate(layer, x), x * noise[:, :, None, None], **ROUNDING)
    np.testing.assert_array_equal(evaluate(layer, x, deterministic=True), x)


def test_gdrop_mistakes():
    with pytest.raises(ValueError, match="GDropLayer mode='add': use 'prop', 'drop' or 'mul'"):
        layers.GDropLayer(input_layer(4, 2, 3), theano.shared(np.float32(0)), 'add')


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
@pytest.mark.parametrize('func, epsilon', [('Tstdeps', 1e-8), ('Tstd', 0.0)])
@pytest.mark.parametrize('averaging', ['all', 'spatial', 'none', 'gpool', 'flat', 'group2', 'group1', 'group4'])
def test_minibatch_statistic(averaging, func, epsilon, engine):
    x = normal(3, 4, 2, 2)
    layer = layers.MinibatchStatConcatLayer(input_layer(4, 2, 2), func, averaging)
    std = np.sqrt(x.var(axis=0) + epsilon)
    maps = {
        'all': std.mean()[None, None, None],
        'spatial': std.mean((1, 2))[:, None, None],
        'none': std,
        'gpool': np.sqrt(x.var((0, 2, 3)) + epsilon)[:, None, None],
        'flat': np.sqrt(x.var() + epsilon)[None, None, None],
        'group1': std.mean()[None, None, None],
        'group2': np.asarray([std[:2].mean(), std[2:].mean()])[:, None, None],
        'group4': std.mean((1, 2))[:, None, None],
    }[averaging]
    result = evaluate(layer, x)
    assert result.shape[1:] == layer.output_shape[1:]
    np.testing.assert_array_equal(result[:, :4], x)
    for sample in result[:, 4:]:
        np.testing.assert_allclose(sample, np.broadcast_to(maps, (len(maps), 2, 2)), **ROUNDING)


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
@pytest.mark.parametrize('averaging', ['all', 'none', 'flat'])
def test_minibatch_statistic_of_parts(averaging, engine):
    x = normal(6, 4, 2, 2)
    inputs = input_layer(4, 2, 2)
    whole = layers.MinibatchStatConcatLayer(inputs, averaging=averaging)
    parts = layers.MinibatchStatConcatLayer(inputs, averaging=averaging, num_parts=3)
    wanted = np.concatenate([evaluate(whole, x[i:i + 2]) for i in (0, 2, 4)])
    np.testing.assert_allclose(evaluate(parts, x), wanted, **ROUNDING)
    with pytest.raises(AssertionError, match='mbstat_groups=3: must divide the size of the minibatch'):
        evaluate(parts, x[:5])


@pytest.mark.parametrize('num_parts', [0, 1.5])
def test_minibatch_statistic_of_impossible_parts(num_parts):
    with pytest.raises(ValueError, match=f'num_parts={num_parts}: use 1 for the whole minibatch'):
        layers.MinibatchStatConcatLayer(input_layer(4, 2, 2), num_parts=num_parts)


@pytest.mark.parametrize('engine', ['torch'], indirect=True)
@pytest.mark.parametrize('mode', ['prop', 'mul', 'drop'])
def test_gdrop_of_ranks_is_that_of_the_whole_minibatch(mode, engine):
    x = normal(6, 3, 2, 2)
    results = []
    for ranks in (SINGLE, Ranks(0, 2), Ranks(1, 2)):
        np.random.seed(5)
        layer = layers.GDropLayer(input_layer(3, 2, 2), theano.shared(np.float32(0.25)), mode)
        results.append(evaluate(layer, x[ranks.share(6)], ranks=ranks))
    np.testing.assert_array_equal(np.concatenate(results[1:]), results[0])


@pytest.mark.parametrize('options', [dict(averaging='group3'), dict(averaging='group0'), dict(averaging='groups'),
                                     dict(averaging='most'), dict(func='Tvar')])
def test_minibatch_statistic_mistakes(options):
    (name, value), = options.items()
    with pytest.raises(ValueError, match=f'{name}={value!r}: use one of'):
        layers.MinibatchStatConcatLayer(input_layer(4, 2, 2), **options)


def numpy_mbdisc(x, theta, log_weight_scale, b):
    W = theta * (np.exp(log_weight_scale) / np.sqrt(np.square(theta).sum(axis=0)))
    projected = np.einsum('ni,ikd->nkd', x, W)
    features = np.zeros(projected.shape[:2])
    for i, one in enumerate(projected):
        for j, other in enumerate(projected):
            if i != j:
                features[i] += np.exp(-np.abs(one - other).sum(axis=1))
    return features + b


@pytest.mark.parametrize('engine', ENGINES, indirect=True)
def test_minibatch_discrimination(engine):
    inputs = input_layer(3, 2, 1)
    layer = layers.MinibatchLayer(inputs, 4)
    x = normal(5, 3, 2, 1)
    assert layer.output_shape == (None, 10)

    def check():
        wanted = numpy_mbdisc(x.reshape(5, 6), *[param.get_value() for param in layer.get_params()])
        result = evaluate(layer, x)
        np.testing.assert_array_equal(result[:, :6], x.reshape(5, 6))
        np.testing.assert_allclose(result[:, 6:], wanted, **ROUNDING)
        return result[:, 6:]

    check()
    layers.initialize_mbdisc(inputs, [layer], x)
    # 1e-6: float32 rounding. After the initialisation, the features of the same samples have zero mean.
    np.testing.assert_allclose(check().mean(axis=0), 0, atol=1e-6)


def test_has_mbdisc():
    inputs = input_layer(3, 2, 2)
    assert not layers.has_mbdisc([inputs])
    assert layers.has_mbdisc([lasagne.layers.DenseLayer(layers.MinibatchLayer(inputs, 2), 1), inputs])
