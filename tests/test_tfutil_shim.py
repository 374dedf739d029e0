"""tfutil_shim: networks as objects; moving averages and output operations against numbers of the 2018 release."""

import copy
import json
import pickle
import re

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import DenseLayer, InputLayer, Layer, NonlinearityLayer

import tfutil_shim
import theano_env
from common.errors import UserError
from nets.network import Network
from tests.helpers import ANY_ENGINE, GOLDEN, load_golden
from tfutil_shim import Optimizer

TRAIN_UTILS = load_golden('tf/train_utils')[0]
TRAIN_UTILS_INFO = json.loads((GOLDEN / 'tf' / 'train_utils.json').read_text())
SMALL = {'num_channels': 3, 'resolution': 16, 'fmap_base': 64, 'fmap_max': 8, 'latent_size': 8}


@pytest.fixture(autouse=True)
def quick_engine():
    """By default, use Theano's Python linker (on NumPy 2 PyTorch), which starts quickly, and a fixed random seed."""
    before = theano.config.mode
    theano_env.configure(ANY_ENGINE)
    np.random.seed(1)
    yield
    theano.config.mode = before


# ----------------------------------------------------------------------------------------------------------------------
# Small networks.


class NoiseLayer(Layer):
    """Adds `shift`, and counts nondeterministic evaluations in a parameter, like the averages of batch norm."""

    def __init__(self, incoming, **kwargs):
        super().__init__(incoming, **kwargs)
        self.calls = self.add_param(lasagne.init.Constant(0), (), name='calls', trainable=False)

    def get_output_for(self, input, deterministic=False, shift=0.0, **kwargs):
        if not deterministic:
            running = theano.clone(self.calls, share_inputs=False)
            running.default_update = running + 1
            input = input + 1 + 0 * running
        return input + shift


def build_dense(num_inputs=3, num_outputs=2, label_size=0, **_kwargs):
    """Two outputs, one parameter of each kind, a top-level variable; weights are random."""
    latents = InputLayer((None, num_inputs), name='latents')
    inputs = [latents] + ([InputLayer((None, label_size), name='labels')] if label_size else [])
    net = lasagne.layers.ConcatLayer(inputs, name='concat') if label_size else latents
    net = NoiseLayer(DenseLayer(net, 4, name='hidden'), name='noise')
    gain = theano.shared(np.float32(2), name='gain')
    scores = DenseLayer(net, num_outputs, nonlinearity=lambda x: x * gain, name='scores')
    return {'input_layers': inputs, 'output_layers': [scores, net], 'gain': gain}


def build_identity(num_channels=3, resolution=16):
    images = InputLayer((None, num_channels, resolution, resolution), name='images')
    return {'input_layers': [images], 'output_layers': [NonlinearityLayer(images, None, name='out')]}


def build_random():
    """A build function that makes another network in every call."""
    images = InputLayer((None, 2), name='images')
    return {'input_layers': [images], 'output_layers': [DenseLayer(images, np.random.randint(1000), name='out')]}


def build_renamed():
    images = InputLayer((None, 2), name=f'images{np.random.randint(1000)}')
    return {'input_layers': [images], 'output_layers': [DenseLayer(images, 2, name='out')]}


class BagLayer(Layer):
    """Holds parameters of any name and shape."""

    def __init__(self, incoming, arrays, **kwargs):
        super().__init__(incoming, **kwargs)
        for name, array in arrays.items():
            self.add_param(array, array.shape, name=name, trainable=name != 'lod')


def build_bag(which):
    """A network with all variables recorded for the moving average; `which` selects their values."""
    prefix = f'ema/{which}/'
    arrays = {key[len(prefix):]: TRAIN_UTILS[key] for key in TRAIN_UTILS if key.startswith(prefix)}
    latents = InputLayer((None, 4), name='latents')
    return {'input_layers': [latents], 'output_layers': [BagLayer(latents, arrays)]}


def dense(**kwargs):
    return Network('N', build_dense, **kwargs)


def values(net):
    return {name: net.get_var(name) for name in net.vars}


def assert_same_values(a, b):
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def random_state():
    name, keys, *rest = np.random.get_state()
    return name, keys.tobytes(), *rest


# ----------------------------------------------------------------------------------------------------------------------
# Construction and variables.


def test_attributes():
    net = Network('Net', 'networks.G_paper', label_size=3, **SMALL)
    assert (net.name, net.func_name, net.static_kwargs) == ('Net', 'networks.G_paper', dict(SMALL, label_size=3))
    assert net.input_names == ['Glatents', 'Glabels']
    assert net.input_shapes == [[None, 8], [None, 3]]
    assert net.output_shapes == [[None, 3, 16, 16]]
    assert (net.input_shape, net.output_shape) == ([None, 8], [None, 3, 16, 16])
    assert (net.num_inputs, net.num_outputs) == (2, 1)
    assert Network('Net', 'networks.G_paper', **SMALL).input_shapes == [[None, 8], [None, 0]]
    assert Network('Net', 'networks.D_paper', **SMALL).input_shapes == [[None, 3, 16, 16]]
    assert list(net.toplevel_params) == ['cur_lod']
    params = lasagne.layers.get_all_params(net.output_layers)
    assert list(net.vars) == [param.name for param in params] + ['cur_lod']
    assert list(net.vars.values()) == params + [net.toplevel_params['cur_lod']]
    assert list(net.trainables.values()) == lasagne.layers.get_all_params(net.output_layers, trainable=True)
    assert net.trainables['G1a.W'] is net.find_var('G1a.W') is net.find_var(net.vars['G1a.W'])
    assert [template.ndim for template in net.input_templates] == [2, 2]
    assert Network(func='networks.G_paper', **SMALL).name == 'G_paper'


def test_get_and_set_variables():
    net = dense()
    net.set_var('hidden.b', [1, 2, 3, 4])
    assert net.get_var('hidden.b').dtype == np.float32
    np.testing.assert_array_equal(net.get_var(net.vars['hidden.b']), [1, 2, 3, 4])
    assert net.get_var_localname(net.vars['hidden.b']) == 'hidden.b'
    with pytest.raises(ValueError, match=r'hidden.b.*\(3,\).*\(4,\)'):
        net.set_var('hidden.b', [1, 2, 3])
    with pytest.raises(UserError, match="no variable 'hidden.B'; did you mean 'hidden.b'"):
        net.get_var('hidden.B')


def test_parameters_without_or_with_equal_names_get_their_own_local_names():
    def build():
        net = InputLayer((None, 2))
        for _ in range(3):
            net = DenseLayer(net, 2)
        return {'input_layers': lasagne.layers.get_all_layers(net)[:1], 'output_layers': [net]}
    assert list(Network('N', build).vars) == ['W', 'b', 'W#2', 'b#2', 'W#3', 'b#3']


def test_variables_by_their_global_names():
    net = dense()
    assert net.find_var('N/hidden.W') is net.vars['hidden.W']
    assert net.get_var_localname('N/hidden.W') == 'hidden.W'
    net.set_var('N/gain', 3)
    assert net.get_var('gain') == 3
    with pytest.raises(UserError, match="no variable 'N/hidden.Wx'; did you mean 'hidden.W'"):
        net.find_var('N/hidden.Wx')


def test_names_of_2018_lead_to_the_same_variables():
    for func in ('networks.G_paper', 'networks_2018.G_paper'):
        net = Network('Gs', func, **SMALL)
        local = next(iter(net.trainables))
        for name in (local, 'Gs/' + local, local + ':0', f'Gs/{local}:0'):
            assert net.vars[name] is net.trainables[name] is net.find_var(name) is net.vars[local] and name in net.vars
        for name in ('lod', 'Gs/lod:0', 'cur_lod'):
            assert net.vars[name] is net.vars.get(name) is net.find_var(name) is net.cur_lod
        assert 'lod' not in net.trainables and 'Other/' + local not in net.vars and len(set(net.vars)) == len(net.vars)
        assert 'Copy/lod' in net.clone('Copy').vars and net.vars.get('x') is None
        with pytest.raises(KeyError, match="'x:0'"):
            net.vars['x:0']


def test_shapes_of_variables_are_numbers():
    net = Network('G', 'networks.G_paper', **SMALL)
    twin = net.clone()
    for name, var in net.vars.items():
        shape = var.get_value().shape
        assert var.shape == shape == twin.vars[name].shape and list(shape) == var.get_shape().as_list()
        assert not var.shape != list(shape) and var.shape != (*shape, 1) and hash(var.shape) == hash(shape)
    W = net.vars['G1a.W']
    assert W.shape.ndims == 4 and W.shape.num_elements() == W.get_value().size == int(np.prod(W.shape))
    np.testing.assert_array_equal(theano.function([], T.zeros(W.shape) + T.sum(W) * 0)(), np.zeros(W.shape))
    with pytest.raises(AttributeError, match="'assign': write net.set_var"):
        W.assign(0)


def test_labels_of_a_generator_without_classes_may_be_given():
    net, latents, labels = Network('G', 'networks.G_paper', **SMALL), T.fmatrix(), T.fmatrix()
    images = [net.get_output_for(*inputs, deterministic=True) for inputs in ((latents,), (latents, labels))]
    feeds = {latents: np.random.randn(2, 8), labels: np.zeros((2, 0))}
    np.testing.assert_array_equal(*tfutil_shim.run(images, feeds))
    assert [len(shape) for shape in net.input_shapes] == [2, 2]


def test_the_state_has_the_words_of_2018_and_the_file_does_not():
    net = Network('Gs', 'networks_2018.G_paper', **SMALL)
    state = net.__getstate__()
    assert [name for name, _value in state['variables']] == [*net.trainables, 'lod']
    assert (state['build_func_name'], state['static_kwargs']) == ('G_paper', SMALL)
    assert b'build_func_name' not in pickle.dumps(net) and b'variables' not in pickle.dumps(net)


def test_templates():
    net = dense()
    assert net.output_templates == net.output_templates and len(net.output_templates) == 2
    latents = np.random.randn(2, 3).astype('f')
    outputs = theano.function(net.input_templates, net.output_templates)(latents)
    for output, expected in zip(outputs, net.run(latents), strict=True):
        np.testing.assert_array_equal(output, expected)


def test_convert_makes_another_network_with_the_same_values():
    net = dense(shift=1.0)
    net.set_var('gain', 9)
    converted = net.convert('C', shift=5.0)
    assert (converted.name, converted.static_kwargs) == ('C', {'shift': 5.0})
    assert_same_values(values(net), values(converted))
    latents = np.zeros((1, 3))
    np.testing.assert_allclose(converted.run(latents)[1], net.run(latents)[1] + 4, rtol=1e-6)   # float32.
    assert net.convert(func=build_dense).name == 'build_dense'
    with pytest.raises(UserError, match='no variable'):
        net.convert(label_size=2, func='networks.G_paper')


def test_reset_draws_as_a_construction():
    np.random.seed(5)
    expected = values(dense())
    net = dense()
    net.set_var('gain', 7)
    net.set_var('noise.calls', 3)
    np.random.seed(5)
    net.reset_trainables()
    assert_same_values({**expected, 'gain': np.float32(7), 'noise.calls': np.float32(3)}, values(net))
    np.random.seed(5)
    net.reset_vars()
    assert_same_values(expected, values(net))


def test_copy_values_from_another_network():
    a, b = dense(), dense()
    a.set_var('gain', 5)
    b.copy_trainables_from(a)
    assert b.get_var('gain') == 2
    assert_same_values({name: a.get_var(name) for name in a.trainables}, {n: b.get_var(n) for n in b.trainables})
    b.copy_vars_from(a)
    assert_same_values(values(a), values(b))
    with pytest.raises(UserError, match='no variable'):
        b.copy_vars_from(Network('I', build_identity))


@pytest.mark.parametrize('func, message', [
    (None, r'func=None'),
    ('networks.G_papre', r"no 'G_papre' in networks; did you mean 'G_paper'"),
    ('network5.G_paper', r"no module 'network5'"),
    ('G_papre', r"no 'G_papre' in networks; did you mean 'G_paper'"),
    ('networks.G paper', r'write MODULE.NAME'),
])
def test_unknown_build_function(func, message):
    with pytest.raises(UserError, match=message):
        Network('N', func)


# ----------------------------------------------------------------------------------------------------------------------
# Evaluation.


def test_get_output_for_merges_static_and_dynamic_arguments():
    net = dense(shift=10.0)
    x = T.fmatrix()
    hidden = dict(zip(('static', 'dynamic'), [
        theano.function([x], net.get_output_for(x, deterministic=True, **kwargs)[1])
        for kwargs in ({}, {'shift': 20.0})], strict=True))
    array = np.zeros((1, 3), np.float32)
    np.testing.assert_array_equal(hidden['dynamic'](array), hidden['static'](array) + 10)
    assert isinstance(net.get_output_for(x), tuple)
    assert isinstance(net.get_output_for(x, return_as_list=True), list)
    identity = Network('I', build_identity)
    assert tfutil_shim.is_tf_expression(identity.get_output_for(T.ftensor4()))
    with pytest.raises(ValueError, match=r'takes 1 inputs \(latents\), but was given 3'):
        net.get_output_for(x, x, x)


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
def test_run_equals_direct_evaluation(engine):
    net = Network('G', 'networks.G_paper', label_size=2, **SMALL)
    latents, labels = np.random.randn(5, 8).astype('f'), np.eye(2, dtype='f')[[0, 1, 0, 1, 1]]
    x, y = T.fmatrix(), T.fmatrix()
    for lod in (0.0, 0.75, 1.0, 2.0):
        net.set_var('cur_lod', lod)
        # Without static lods all resolutions are computed and blended.
        direct = theano.function([x, y], net.get_output_for(x, y, deterministic=True))(latents, labels)
        for minibatch_size in (None, 5, 2, 1, 8):
            images = net.run(latents, labels, minibatch_size=minibatch_size)
            # Pixel norm amplifies another order of summation. golden/README.md reports 2e-5 between precisions.
            np.testing.assert_allclose(images, direct, rtol=0, atol=2e-5 * np.abs(direct).max())
            assert images.dtype == np.float32


def test_run_skips_levels_of_detail_that_the_present_one_does_not_need():
    net = Network('G', 'networks.G_paper', **SMALL)
    latents = np.zeros((1, 8), 'f')
    counts = {}
    for lod in (0.0, 0.5, 1.0, 2.0):
        net.set_var('cur_lod', lod)
        net.run(latents)
        function = list(net._functions.values())[-1]
        counts[lod] = sum('Conv' in str(node.op) for node in function.maker.fgraph.toposort())
    for lod in (0.25, 1.0):
        net.set_var('cur_lod', lod)
        net.run(latents)
    assert len(net._functions) == 4
    assert counts[2.0] < counts[1.0] < counts[0.5]


def test_run_is_deterministic_by_default():
    net = dense()
    latents = np.random.randn(3, 3).astype('f')
    _scores, hidden = net.run(latents)
    assert net.get_var('noise.calls') == 0
    _scores, noisy = net.run(latents, deterministic=False)
    np.testing.assert_allclose(noisy, hidden + 1, rtol=1e-6)    # One rounding in float32.
    assert net.get_var('noise.calls') == 1
    net.run(latents, deterministic=False, minibatch_size=1)
    assert net.get_var('noise.calls') == 4


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
def test_run_as_in_the_2017_snapshots(engine, monkeypatch):
    """Reproduce the first images of a recorded run: floatX float64, float32 latents, batch norm in training mode."""
    monkeypatch.setattr(theano.config, 'floatX', 'float64')
    golden, meta = load_golden('trajectory_labels_float64')
    G = topology_of(meta['config'], 'G', label_size=5)
    names = list(G.vars)[:-1]
    recorded = {name: golden[f'params_init_G_{index:03d}'] for index, name in enumerate(names)}
    for name in G.trainables:
        G.set_var(name, recorded[name])
    labels = np.tile(np.eye(5, dtype='float32'), (5, 1))
    images = G.run(golden['grid_latents'], labels, deterministic=False)
    # Float64 rounding.
    np.testing.assert_allclose(images[:4], golden['gen_images_first4'][0], rtol=0, atol=1e-12)
    for name in names:
        # Parameters were recorded after this evaluation, which updates the averages of batch norm.
        np.testing.assert_allclose(G.get_var(name), recorded[name], rtol=0, atol=1e-13, err_msg=name)


def test_run_returns_array_tuple_or_list():
    net = dense()
    latents = np.zeros((2, 3))
    assert isinstance(net.run(latents), tuple)
    assert isinstance(net.run(latents, return_as_list=True), list)
    identity = Network('I', build_identity)
    assert identity.run(np.zeros((1, 3, 16, 16))).shape == (1, 3, 16, 16)
    assert len(identity.run(np.zeros((1, 3, 16, 16)), return_as_list=True)) == 1


def test_run_with_zero_rows():
    net = dense()
    scores, hidden = net.run(np.zeros((0, 3)), deterministic=False, minibatch_size=4)
    assert scores.shape == (0, 2) and hidden.shape == (0, 4) and scores.dtype == np.float32
    assert net.get_var('noise.calls') == 0
    images = Network('I', build_identity).run(np.zeros((0, 3, 16, 16)), out_shrink=4, out_dtype=np.uint8)
    assert images.shape == (0, 3, 4, 4) and images.dtype == np.uint8


def test_run_follows_changed_variables_and_compiles_once():
    net = dense()
    latents = np.ones((1, 3))
    before, _hidden = net.run(latents)
    net.set_var('gain', 4)
    after, _hidden = net.run(latents)
    np.testing.assert_array_equal(after, before * 2)
    assert len(net._functions) == 1
    net.run(latents, out_mul=2)
    assert len(net._functions) == 2


def test_run_accepts_the_empty_labels_of_2018_scripts():
    net = dense()
    latents = np.random.randn(4, 3)
    np.testing.assert_array_equal(net.run(latents, np.zeros((4, 0)))[0], net.run(latents)[0])


def test_run_prints_progress(capsys):
    dense().run(np.zeros((5, 3)), minibatch_size=2, print_progress=True)
    assert capsys.readouterr().out.replace('\r', '\n').split('\n') == ['', '0 / 5', '2 / 5', '4 / 5', '5 / 5', '']


@pytest.mark.parametrize('arrays, kwargs, message', [
    ([np.zeros((2, 3))], {}, r'takes 2 arrays \(latents, labels\), but was given 1'),
    ([np.zeros((2, 3)), np.zeros((2, 5))], {}, r'input labels must have the shape \[None, 2\], not \[2, 5\]'),
    ([np.zeros((2, 3)), np.zeros(2)], {}, r'input labels must have the shape'),
    ([np.zeros((2, 3)), np.zeros((3, 2))], {}, r'same number of rows, not 2, 3'),
    ([np.zeros((2, 3)), np.zeros((2, 2))], {'minibatch_size': 0}, r'minibatch_size=0'),
    ([np.zeros((2, 3)), np.zeros((2, 2))], {'out_shrink': 2}, r'out_shrink=2'),
])
def test_run_reports_bad_arguments(arrays, kwargs, message):
    with pytest.raises(UserError, match=message):
        dense(label_size=2).run(*arrays, **kwargs)


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
@pytest.mark.parametrize('key, kwargs', [
    ('Gs_run_u8', {'out_mul': 127.5, 'out_add': 127.5, 'out_dtype': np.uint8}),
    ('Gs_run_u8_shrink2', {'out_mul': 127.5, 'out_add': 127.5, 'out_dtype': np.uint8, 'out_shrink': 2}),
    ('Gs_run_f32_shrink4', {'out_shrink': 4}),
    ('Gs_run_mul_add_f32', {'out_mul': 127.5, 'out_add': 127.5}),
    ('Gs_run_int16_shrink2', {'out_mul': 127.5, 'out_add': 127.5, 'out_dtype': 'int16', 'out_shrink': 2}),
    ('Gs_run_mul300_u8', {'out_mul': 300, 'out_add': 100.25, 'out_dtype': 'uint8'}),
])
def test_operations_on_outputs_are_those_of_the_2018_release(engine, key, kwargs):
    golden, _meta = load_golden('tf/pickles/cond16.expected')
    images = Network('I', build_identity).run(golden['Gs_run'], minibatch_size=3, **kwargs)
    assert images.dtype == golden[key].dtype
    if images.dtype.kind == 'f':
        # The order of summation within the boxes differs.
        np.testing.assert_allclose(images, golden[key], atol=2e-7 * np.abs(golden[key]).max())
    else:
        # Values close to one half may be rounded differently; at most one pixel is affected.
        difference = np.abs(images.astype(int) - golden[key])
        assert difference.max() <= 1 and np.sum(difference) <= 1


@pytest.mark.parametrize('dtype', ['uint8', 'int8', 'int16', 'int32'])
def test_conversion_to_integers_rounds_half_to_even_and_saturates(dtype):
    info = np.iinfo(dtype)
    array = np.array([-0.5, 0.5, 1.5, 2.5, 3.49, -1e12, 1e12, 126.5], 'f').reshape(1, 2, 2, 2)
    result = Network('I', build_identity, num_channels=2, resolution=2).run(array, out_dtype=dtype).ravel()
    # The largest int32 is not a float32 number, so the largest smaller float32 replaces it.
    top = info.max if info.bits < 32 else info.max - 127
    assert list(result) == [0, 0, 2, 2, 3, info.min, top, 126]


# ----------------------------------------------------------------------------------------------------------------------
# Copies and pickles.


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
@pytest.mark.parametrize('func, kwargs', [
    ('networks.G_paper', {}),
    ('networks.G_paper', {'use_batchnorm': True, 'use_wscale': False, 'use_pixelnorm': False}),
    ('networks.D_paper', {'use_gdrop': True, 'label_size': 3}),
])
def test_clone_is_independent_equal_and_draws_nothing(engine, func, kwargs):
    net = Network('Net', func, **SMALL, **kwargs)
    net.set_var('cur_lod', 0.5)
    state = random_state()
    copies = net.clone('Copy'), copy.deepcopy(net)
    assert random_state() == state
    inputs = [np.random.randn(2, *shape[1:]) for shape in net.input_shapes]
    outputs = net.run(*inputs, return_as_list=True)
    for duplicate, name in zip(copies, ('Copy', 'Net'), strict=True):
        assert duplicate.name == name
        assert_same_values(values(net), values(duplicate))
        assert list(duplicate.trainables) == list(net.trainables)
        assert not set(duplicate.vars.values()) & set(net.vars.values())
        for ours, theirs in zip(outputs, duplicate.run(*inputs, return_as_list=True), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for name in net.vars:
            duplicate.set_var(name, duplicate.get_var(name) + 1)
    for before, after in zip(outputs, net.run(*inputs, return_as_list=True), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
def test_smoothed_copy_owns_its_trainables_only(engine):
    net = Network('G', 'networks.G_paper', **dict(SMALL, use_batchnorm=True))
    state = random_state()
    smoothed = net.clone('Gs', share_nontrainables=True)
    assert random_state() == state
    assert list(smoothed.vars) == list(net.vars) and list(smoothed.trainables) == list(net.trainables)
    for name, var in smoothed.vars.items():
        assert (var is net.vars[name]) == (name not in net.trainables)
    assert {var.name for var in smoothed.trainables.values()} == {None}
    assert smoothed.topology_lines() == net.topology_lines()
    # The pickle contains values; the build function restores the names.
    assert_same_values(values(pickle.loads(pickle.dumps(smoothed))), values(net))

    # In training mode, the copy updates the averages of the original.
    name = next(name for name in net.vars if name.endswith('.mean'))
    smoothed.run(np.random.randn(4, 8), deterministic=False)
    assert np.abs(net.get_var(name)).max() > 0

    updates = smoothed.setup_as_moving_average_of(net, beta=0.75)
    assert set(updates) == set(smoothed.trainables.values())


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
def test_pickle_is_plain_data_and_restores_everything(engine):
    net = Network('G', 'networks.G_paper', label_size=2, **SMALL)
    net.set_var('cur_lod', 0.25)
    state = net.__getstate__()
    assert (state['func'], state['name'], state['toplevel_values']) == ('networks.G_paper', 'G', {'cur_lod': 0.25})
    assert {type(value) for _name, value in state['param_values']} == {np.ndarray}
    data = pickle.dumps(net)
    for word in (b'theano', b'lasagne', b'def '):
        assert word not in data
    loaded = pickle.loads(data)
    assert (loaded.name, loaded.func_name, loaded.static_kwargs) == (net.name, net.func_name, net.static_kwargs)
    assert_same_values(values(loaded), values(net))
    inputs = np.random.randn(2, 8), np.eye(2)
    np.testing.assert_array_equal(loaded.run(*inputs), net.run(*inputs))


def test_loading_and_verifying_draw_as_a_construction():
    np.random.seed(3)
    net, _second = dense(), dense()
    state = random_state()
    np.random.seed(3)
    dense().verify_rebuild()
    assert random_state() == state
    np.random.seed(3)
    dense()
    pickle.loads(pickle.dumps(net))
    assert random_state() == state


def test_networks_that_cannot_be_rebuilt_are_found():
    with pytest.raises(ValueError, match='build_random now builds a network with other variables: out.W'):
        Network('R', build_random).verify_rebuild()
    with pytest.raises(ValueError, match='build_renamed, called again with {}, builds a network with different layers'):
        Network('R', build_renamed).verify_rebuild()
    with pytest.raises(UserError, match='no .<lambda>|MODULE.NAME'):
        Network('L', lambda: build_dense()).verify_rebuild()


def test_loading_reports_mismatches():
    net = dense()
    state = net.__getstate__()
    with pytest.raises(UserError, match='version 2: .* legacy.py'):
        Network.__new__(Network).__setstate__(dict(state, version=2))
    with pytest.raises(UserError, match='other variables: old.W'):
        Network.__new__(Network).__setstate__(dict(state, param_values=state['param_values'] + [('old.W', 0)]))


# ----------------------------------------------------------------------------------------------------------------------
# Tables of layers.


def topology_of(experiment, name, **kwargs):
    spec = {key: value for key, value in experiment[name].items() if key != 'func'}
    return Network(name, 'networks.' + experiment[name]['func'], num_channels=3, resolution=16, **spec, **kwargs)


@pytest.mark.parametrize('run, label_size', [('trajectory', 0), ('trajectory_labels_float64', 5)])
def test_topology_is_printed_as_in_the_2017_log(capsys, run, label_size):
    golden, meta = load_golden(run)
    for name in 'GD':
        topology_of(meta['config'], name, label_size=label_size).print_topology()
    printed = capsys.readouterr().out.split('\n')[:-1]
    assert printed == list(map(str, golden['log_lines'][:len(printed)]))
    assert golden['log_lines'][len(printed)] == 'Setting up Theano...'


def test_topology_text():
    recorded = json.loads((GOLDEN / 'misc.json').read_text())['topology_text']
    meta = load_golden('trajectory')[1]
    G = topology_of(meta['config'], 'G')
    lines = G.topology_lines() + topology_of(meta['config'], 'D').topology_lines()
    lines += G.clone(share_nontrainables=True).topology_lines()
    assert lines + [''] == recorded


def test_print_layers(capsys):
    net = dense()
    net.print_layers()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ['N', 'LayerType'] and [line.split()[0] for line in lines[3:7]] == [
        'latents', 'hidden', 'noise', 'scores']
    net.print_layers(title='Dense', hide_layers_with_no_params=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith('Dense ') and [line.split()[0] for line in lines[3:5]] == ['hidden', 'scores']
    assert lines[-2].split() == ['Total', '26']


def test_list_layers():
    net = dense()
    listed = net.list_layers()
    assert [name for name, _output, _vars in listed] == ['latents', 'hidden', 'noise', 'scores']
    assert [len(variables) for _name, _output, variables in listed] == [0, 2, 1, 2]
    assert listed[1][2][0] is net.vars['hidden.W']
    latents = np.random.randn(2, 3).astype('f')
    scores = theano.function(net.input_templates, listed[3][1])(latents)
    np.testing.assert_array_equal(scores, net.run(latents)[0])
    G = Network('G', 'networks.G_paper', **SMALL)
    assert [var for _n, _o, variables in G.list_layers() for var in variables] == list(G.vars.values())[:-1]


# ----------------------------------------------------------------------------------------------------------------------
# Moving average.


@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)
@pytest.mark.parametrize('case', [key for key, value in TRAIN_UTILS_INFO['ema'].items() if 'beta' in str(value)])
def test_moving_average(engine, case):
    betas = TRAIN_UTILS_INFO['ema'][case]
    src, net = Network('src', build_bag, which='src'), Network('net', build_bag, which=case + '/before')
    step = theano.function([], [], updates=net.setup_as_moving_average_of(src, **betas))
    for after in ('after1', 'after2'):
        step()
        prefix = f'ema/{case}/{after}/'
        recorded = {key[len(prefix):]: value for key, value in TRAIN_UTILS.items() if key.startswith(prefix)}
        assert sorted(recorded) == sorted(net.vars)
        for name, value in recorded.items():
            # Two roundings of float32 per step.
            np.testing.assert_allclose(net.get_var(name), value, rtol=0, atol=3e-7 * np.abs(value).max())


# ----------------------------------------------------------------------------------------------------------------------
# The rest of the interface.


def test_training_loop_of_a_2018_script():
    """Least squares with optimizer, averaged network and summaries, used as in the release's training script."""
    tfutil = tfutil_shim
    with tfutil.absolute_name_scope('Inputs'):
        x, y, learning_rate = T.fmatrix('x'), T.fmatrix('y'), T.fscalar('learning_rate')
    net = tfutil.Network('net', build_dense)
    average = net.clone('average')
    update_average = average.setup_as_moving_average_of(net, beta=0.5)
    optimizer = tfutil.Optimizer(name='TrainNet', learning_rate=learning_rate, beta1=0.0, beta2=0.99, epsilon=1e-8)
    scores, _hidden = net.get_output_for(x, deterministic=True)
    loss = tfutil.autosummary('Loss/squares', T.mean(T.sqr(scores - y)))
    optimizer.register_gradients(loss, net.trainables)
    train_op = optimizer.apply_updates()
    tfutil.init_uninited_vars()
    inputs = np.random.randn(16, 3)
    targets = np.stack([inputs[:, 0] + 1, inputs[:, 1] - inputs[:, 2]], axis=1)
    losses = []
    for _step in range(60):
        before = net.get_var('scores.W')
        old_average = average.get_var('scores.W')
        tfutil.run([train_op, update_average], {x: inputs, y: targets, learning_rate: 0.02})
        # The average uses the weights before the step, as everywhere in this project. One float32 rounding.
        np.testing.assert_allclose(average.get_var('scores.W'), (before + old_average) / 2, rtol=1e-5, atol=1e-6)
        losses.append(tfutil.get_autosummaries(reset=True)['Loss/squares'])
    assert losses[-1] < losses[0] / 5
    optimizer.reset_optimizer_state()
    assert not any(value.any() for value in optimizer.get_optimizer_state().values())


def test_names_without_meaning_name_a_replacement():
    with pytest.raises(AttributeError, match='no sessions'):
        tfutil_shim.create_session()
    with pytest.raises(AttributeError, match='misc.load_pkl'):
        tfutil_shim.network_import_handlers.append(len)
    with pytest.raises(AttributeError, match='has no attribute'):
        tfutil_shim.does_not_exist()


def test_every_name_in_the_docstring_is_there():
    table, network = tfutil_shim.__doc__.split('=\n')[1:3], False
    num_names = 0
    for line in table[0].splitlines():
        network = network or line.startswith('`Network`')
        for name in re.findall(r'`(\.?\w+)`', line[:43]):
            num_names += 1
            owner = tfutil_shim if name[0] != '.' else Network if network else Optimizer
            if name in tfutil_shim.WITHOUT_MEANING:
                assert 'an error' in line
            elif name[1:] not in ('name', 'static_kwargs', 'vars', 'trainables'):     # The constructor sets these.
                assert hasattr(owner, name.lstrip('.')), name
    assert num_names >= 60
