"""legacy.py and load_pkl: networks of the 2017 and 2018 releases and our own, against recorded arrays."""

import json
import pickle

import lasagne
import numpy as np
import pytest

import legacy
import theano_env
import train
from common import safe_pickle
from common.errors import UserError
from common.files import save_pkl
from nets.network import Network
from nets.pickles import load_pkl
from tests.helpers import (
    GOLDEN,
    LEGACY_IMPORT,
    dumps,
    legacy_import_state,
    load_golden,
    small_state_2017,
    small_state_2018,
    state_2017,
    state_2018,
    text_of_python_2,
    training_functions,
    with_numpy_names,
    write,
)
from training.schedule import Schedule

NETS_2017 = sorted(path.stem for path in GOLDEN.glob('nets_*.npz') if path.stem != 'nets_float64')
NETS_2018 = json.loads((GOLDEN / 'tf' / 'networks' / 'index.json').read_text())['networks']
# Absolute, for images between -1 and 1: float32 rounding, amplified by pixelwise normalization. The golden README
# suggests these values.
IMAGES, SCORES = 2e-5, 5e-6


@pytest.fixture(autouse=True)
def torch_engine(restore_theano_config):
    theano_env.configure('torch', {'device': 'cpu'})
    np.random.seed(1)


def states(path):
    """The states of the networks in a pickle of a release."""
    return safe_pickle.load(path, {name: dict for name in ('network.Network', 'tfutil.Network')})


def assert_same_network(ours, other):
    assert ours.func_name == other.func_name and ours.static_kwargs == other.static_kwargs
    assert list(ours.vars) == list(other.vars) and ours.name == other.name
    for name in ours.vars:
        np.testing.assert_array_equal(ours.get_var(name), other.get_var(name))


# ----------------------------------------------------------------------------------------------------------------------
# The 2017 release.


def test_snapshot_of_2017():
    """A pickle written by Python 2.7 yields all recorded values, images and scores."""
    arrays, meta = load_golden('snapshot')
    G, D, Gs = load_pkl(GOLDEN / 'snapshot.pkl')
    for key, net in (('G', G), ('D', D), ('Gs', Gs)):
        assert net.func_name == ('networks.D_paper' if key == 'D' else 'networks.G_paper')
        assert net.get_var('cur_lod') == np.float32(meta['cur_lod_saved'])
        for index, name in enumerate(list(net.vars)[:net.num_layer_params]):
            np.testing.assert_array_equal(net.get_var(name), arrays[f'param_{key}_{index:03d}'])
    assert D.get_var('gdrop_strength') == np.float32(meta['gdrop_strength_saved'])
    np.testing.assert_allclose(D.run(arrays['D_images']), arrays['D_scores_lod0.25'], rtol=0, atol=SCORES)
    for key in arrays:
        if not key.startswith('images'):
            continue
        kind, name, lod = key.rsplit('_', 2)
        net = {'G': G, 'Gs': Gs}[name]
        net.set_var('cur_lod', float(lod[3:]))
        to_255 = dict(minibatch_size=4, out_mul=127.5, out_add=127.5)
        if kind == 'images255':
            np.testing.assert_allclose(net.run(arrays['latents'], **to_255), arrays[key], rtol=0, atol=IMAGES * 127.5)
        else:
            images = net.run(arrays['latents'], out_dtype=np.uint8, **to_255).astype(int)
            # Values close to one half may be rounded differently.
            assert abs(images - arrays[key]).max() <= 1 and (images != arrays[key]).sum() <= 3


@pytest.mark.parametrize('case', NETS_2017)
def test_every_network_of_2017(case, tmp_path):
    """Networks with every recorded combination of options load; test_networks.py compares their outputs."""
    arrays, meta = load_golden(case)
    params = [arrays[key] for key in sorted(key for key in arrays if key.startswith('param_'))]
    toplevel = dict.fromkeys(meta['toplevel_params'], np.float32(0.5))
    spec = dict(meta['spec'])
    data = dumps([('network.Network', state_2017(spec.pop('func'), params, toplevel, **spec))])
    net, = load_pkl(write(tmp_path, data))
    assert [net.get_var(name).tobytes() for name in list(net.vars)[:net.num_layer_params]] == [
        param.tobytes() for param in params]
    assert {name: var.get_value() for name, var in net.toplevel_params.items()} == toplevel
    assert net.input_shape == meta['input_shape'] and net.output_shape == meta['output_shape']


MNIST = {'func': 'G_mnist_mode_recovery', 'num_channels': 3, 'resolution': 8}


def test_defaults_of_2017(tmp_path):
    """A pickle without the numbers of feature maps and labels gets the defaults of 2017."""
    shapes = [(64, 74, 4, 4), (64,), (64,), (64,), (64,), (32, 64, 3, 3), (32,), (32,), (32,), (32,), (3, 32, 3, 3),
              (3,)]
    params = [np.random.rand(*shape).astype(np.float32) for shape in shapes]
    options = {name: value for name, value in MNIST.items() if name != 'func'}
    data = dumps([('network.Network', state_2017(MNIST['func'], params, {'cur_lod': np.float32(0)}, **options))])
    net, = load_pkl(write(tmp_path, data))
    assert net.input_shapes == [[None, 64], [None, 10]]
    again = pickle.loads(pickle.dumps(net))
    assert_same_network(again, net)
    assert (net.static_kwargs['fmap_base'], net.static_kwargs['label_size']) == (64, 10)


def test_our_pickles_keep_the_defaults_that_they_were_made_with(tmp_path):
    """Older versions of our networks for MNIST had more feature maps and no labels by default."""
    options = {'num_channels': 3, 'resolution': 8}
    net = Network('G', func='networks.G_mnist_mode_recovery', fmap_base=4096, label_size=0, **options)
    state = {**net.__getstate__(), 'static_kwargs': options}
    earlier, = load_pkl(write(tmp_path, dumps([('tfutil_shim.Network', state)])))
    assert_same_network(earlier, net)


@pytest.mark.parametrize('case', ['nets_G_batchnorm', 'nets_G_label10', 'nets_D_layernorm', 'nets_D_mbdisc5'])
def test_outputs_of_imported_networks_of_2017(case, tmp_path):
    arrays, meta = load_golden(case)
    params = [arrays[key] for key in sorted(key for key in arrays if key.startswith('param_'))]
    toplevel = dict.fromkeys(meta['toplevel_params'], np.float32(0.0))
    toplevel['cur_lod'] = np.float32(1.5)
    spec = dict(meta['spec'])
    data = dumps([('network.Network', state_2017(spec.pop('func'), params, toplevel, **spec))])
    net, = load_pkl(write(tmp_path, data))
    inputs = [arrays[key] for key in ('in_latents', 'in_labels', 'in_images') if key in arrays]
    desired = arrays['out_det_lod1.5_' + ('scores' if 'nets_D' in case else 'images')]
    output = net.run(*inputs, return_as_list=True)[0]
    np.testing.assert_allclose(output, desired, rtol=0, atol=1e-4 * abs(desired).max())     # As in test_networks.py.


@pytest.mark.parametrize('old_name', [False, True])
@pytest.mark.parametrize('case', LEGACY_IMPORT, ids=lambda case: case['tag'])
def test_networks_of_2017_that_the_2018_release_imported(case, old_name, tmp_path):
    """Outputs equal those of the release after its import. 16 images form one group of the minibatch statistic."""
    arrays, state = legacy_import_state(case)
    if old_name:
        state['build_func_spec']['func'] = state['build_func_spec']['func'].replace('paper', 'progressive_8')
    net, = load_pkl(write(tmp_path, dumps([('network.Network', state)])))
    inputs = arrays['latents'] if case['tag'].startswith('G') else arrays['images']
    for lod in case['lods'][:1] if old_name else case['lods']:
        net.set_var('cur_lod', lod)
        np.testing.assert_allclose(net.run(inputs, min_lod=None, max_lod=None),
                                   arrays[f'{case["tag"]}/out/lod{lod:.2f}'], rtol=0,
                                   # Without wscale, values reach 3.6. Compared with float64, the release is off
                                   # by 8e-6 and our float32 by 1.6e-5, in opposite directions.
                                   atol=5e-5 if case['tag'].startswith('G') else SCORES)


# ----------------------------------------------------------------------------------------------------------------------
# The 2018 release.


@pytest.mark.slow
@pytest.mark.parametrize('name', ['uncond32', 'cond16'])
def test_pickles_of_2018(name):
    """Loaded networks have the recorded variables and give the recorded results of `run`."""
    expected, _meta = load_golden(f'tf/pickles/{name}.expected')
    infos, = [info for info in json.loads((GOLDEN / 'tf' / 'pickles' / 'pickles.json').read_text())
              if info['file'] == name + '.pkl']
    nets = dict(zip(infos['tuple_order'], load_pkl(GOLDEN / 'tf' / 'pickles' / (name + '.pkl')), strict=True))
    for key, info in infos['networks'].items():
        net = nets[key]
        assert net.name == info['name'] and net.static_kwargs == info['static_kwargs']
        assert net.func_name == 'networks_2018.' + info['build_func_name']
        for what in ('input_names', 'output_names', 'input_shapes', 'output_shapes', 'input_shape', 'output_shape'):
            assert getattr(net, what) == info[what]
        assert set(net.trainables) == set(info['trainables'])
        stored = dict(states(GOLDEN / 'tf' / 'pickles' / (name + '.pkl'))[list(nets).index(key)]['variables'])
        assert set(stored) == {variable['name'] for variable in info['variables']}
        for variable, value in stored.items():
            np.testing.assert_array_equal(net.get_var(variable), value)

    G, D, Gs = nets.values()
    inputs = [expected['latents'], expected['labels']]
    recorded = np.random.RandomState(123).randn(3, *Gs.input_shape[1:]).astype(np.float32)
    np.testing.assert_array_equal(recorded, expected['misc_random_latents_seed123'])
    to_uint8 = dict(out_mul=127.5, out_add=127.5, out_dtype=np.uint8)
    runs = {'': {}, '_minibatch2': dict(minibatch_size=2), '_u8': to_uint8, '_u8_shrink2': dict(to_uint8, out_shrink=2),
            '_f32_shrink4': dict(out_shrink=4), '_mul_add_f32': dict(out_mul=127.5, out_add=127.5),
            '_int16_shrink2': dict(out_mul=127.5, out_add=127.5, out_shrink=2, out_dtype=np.int16),
            '_mul300_u8': dict(out_mul=300, out_add=100.25, out_dtype=np.uint8)}
    results = {'Gs_run' + key: Gs.run(*inputs, **kwargs) for key, kwargs in runs.items()}
    results['G_run'] = G.run(*inputs)
    for suffix, kwargs in (('', {}), ('_minibatch2', dict(minibatch_size=2))):
        results['D_run_scores_of_Gs' + suffix], results['D_run_labels_of_Gs' + suffix] = D.run(expected['Gs_run'],
                                                                                              **kwargs)
    assert set(results) == set(expected) - {'latents', 'labels', 'misc_random_latents_seed123'}
    for key, result in results.items():
        assert result.dtype == expected[key].dtype and result.shape == expected[key].shape
        deviation = abs(result.astype('float64') - expected[key])
        if result.dtype.kind == 'f':
            assert deviation.max(initial=0) <= {'D': SCORES}.get(key[0], IMAGES) * (127.5 if 'mul' in key else 1), key
        else:
            # Values close to one half may be rounded differently.
            assert deviation.max() <= 1 and (deviation > 0).sum() <= 3, key


@pytest.mark.parametrize('name', NETS_2018)
def test_every_network_of_2018(name, tmp_path):
    """Networks with every recorded combination of options load; test_networks_2018.py compares their outputs."""
    info = json.loads((GOLDEN / 'tf' / 'networks' / (name + '.json')).read_text())
    arrays, _meta = load_golden('tf/networks/' + name)
    variables = {var['name']: arrays['var/' + var['name']] for var in info['variables']}
    data = dumps([('tfutil.Network', state_2018(info['func'], variables, name, **info['static_kwargs']))], 4)
    net, = load_pkl(write(tmp_path, data))
    assert net.static_kwargs == info['static_kwargs'] and net.name == name
    for variable, value in variables.items():
        np.testing.assert_array_equal(net.get_var(variable), value)


# ----------------------------------------------------------------------------------------------------------------------
# Pickle protocols and NumPy versions.


def assert_same_data(ours, other):
    if isinstance(other, np.ndarray):
        np.testing.assert_array_equal(ours, other)
        assert ours.dtype == other.dtype
        return
    assert type(ours) is type(other)
    if isinstance(other, (list, tuple)):
        for item, other_item in zip(ours, other, strict=True):
            assert_same_data(item, other_item)
    elif isinstance(other, dict):
        assert list(ours) == list(other)
        assert_same_data(list(ours.values()), list(other.values()))
    else:
        assert ours == other


@pytest.mark.parametrize('core', ['core', '_core'])
@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('source', ['snapshot.pkl', 'tf/pickles/cond16.pkl'])
def test_protocols_and_numpy_versions(source, protocol, core, tmp_path):
    """Pickles written by Python 3 in every protocol, with the module names of NumPy 1 and NumPy 2, load."""
    name = 'network.Network' if source.startswith('snapshot') else 'tfutil.Network'
    stored = states(GOLDEN / source)
    data = dumps([(name, state) for state in stored], protocol)
    if protocol < 4:
        data = with_numpy_names(data, core)
        assert f'cnumpy.{core}.multiarray'.encode() in data
    assert_same_data(states(write(tmp_path, data)), stored)


def test_pickle_of_protocol_5():
    """In protocol 5, NumPy restores arrays by another function."""
    folder = GOLDEN / 'tf' / 'pickles'
    assert_same_data(states(folder / 'cond16-protocol5.pkl'), states(folder / 'cond16.pkl'))
    assert load_pkl(folder / 'cond16-protocol5.pkl')[0].get_var('lod') == np.float32(0.4)


def test_text_of_python_2(tmp_path):
    """The snapshot of the 2017 release loads in protocol 0, which users of the release could choose."""
    data = text_of_python_2(tuple(states(GOLDEN / 'snapshot.pkl'))) + b'.'
    assert data.isascii() and b'\\xff' in data
    path = write(tmp_path, data)
    assert_same_data(states(path), states(GOLDEN / 'snapshot.pkl'))
    for ours, other in zip(load_pkl(path), load_pkl(GOLDEN / 'snapshot.pkl'), strict=True):
        assert_same_network(ours, other)


def test_a_network_of_2017_without_toplevel_params(tmp_path):
    state = small_state_2017()
    expected, = load_pkl(write(tmp_path, dumps([('network.Network', {**state, 'toplevel_params': {
        'cur_lod': np.float32(0)}})])))
    del state['toplevel_params']
    net, = load_pkl(write(tmp_path, dumps([('network.Network', state)])))
    assert_same_network(net, expected)


def test_numpy_2_names_in_protocol_5(tmp_path):
    """Protocol 5 stores the lengths of names. The test leaves the length of the frame wrong, which does not matter."""
    data = (GOLDEN / 'tf' / 'pickles' / 'cond16-protocol5.pkl').read_bytes()
    for module in (b'numpy.core.multiarray', b'numpy.core.numeric'):
        renamed = module.replace(b'core', b'_core')
        assert data.count(b'\x8c%c%s' % (len(module), module)) == 1
        data = data.replace(b'\x8c%c%s' % (len(module), module), b'\x8c%c%s' % (len(renamed), renamed))
    assert_same_data(states(write(tmp_path, data)), states(GOLDEN / 'tf' / 'pickles' / 'cond16.pkl'))


@pytest.mark.parametrize('order', ['F', 'big endian', 'float64', 'transposed'])
def test_arrays_in_other_forms(order, tmp_path):
    state = states(GOLDEN / 'tf' / 'pickles' / 'cond16.pkl')[0]
    change = {'F': lambda x: np.array(x, order='F'), 'big endian': lambda x: x.astype('>f4'), 'float64': np.float64,
              'transposed': lambda x: x.T.copy().T}[order]
    changed = dict(state, variables=[(name, change(value)) for name, value in state['variables']])
    original = Network('G', func='networks_2018.G_paper', **state['static_kwargs'])
    for name, value in state['variables']:
        original.set_var(name, value)
    for protocol in (2, 5):
        net, = load_pkl(write(tmp_path, dumps([('tfutil.Network', changed)], protocol)))
        assert_same_network(net, original)


@pytest.mark.parametrize('source', ['snapshot.pkl', 'tf/pickles/cond16.pkl'])
def test_our_own_format(source, tmp_path):
    """Loaded networks can be copied, saved and loaded again, with our loader and with Python's pickle."""
    nets = load_pkl(GOLDEN / source)
    path = str(tmp_path / 'ours.pkl')
    save_pkl(nets, path)
    state = np.random.get_state()[1].tobytes()
    for net, again in zip(nets, load_pkl(path), strict=True):
        assert_same_network(net, again)
        assert_same_network(net, net.clone())
    if source.startswith('tf'):     # The noise layers of the 2017 networks draw new seeds.
        assert np.random.get_state()[1].tobytes() == state
    with open(path, 'rb') as pkl_file:
        for net, again in zip(nets, pickle.load(pkl_file), strict=True):
            assert_same_network(net, again)


def test_loading_draws_no_weights():
    state = np.random.get_state()[1].tobytes(), np.random.get_state()[2]
    load_pkl(GOLDEN / 'tf' / 'pickles' / 'cond16.pkl')
    assert (np.random.get_state()[1].tobytes(), np.random.get_state()[2]) == state


def test_noise_layers_get_different_seeds(tmp_path):
    D = Network('D', func='networks.D_paper', resolution=8, fmap_base=16)
    save_pkl(D, str(tmp_path / 'D.pkl'))
    layers = [layer for layer in lasagne.layers.get_all_layers(load_pkl(str(tmp_path / 'D.pkl')).output_layers)
              if hasattr(layer, 'random')]
    assert len({str(layer.random.rstate) for layer in layers}) == len(layers) == 4


def test_other_data_and_single_networks(tmp_path):
    net, = load_pkl(GOLDEN / 'tf' / 'pickles' / 'cond16.pkl')[:1]
    save_pkl({'net': net, 'again': [net], 'kimg': 7, 'log': None}, str(tmp_path / 'a.pkl'))
    loaded = load_pkl(str(tmp_path / 'a.pkl'))
    assert loaded['net'] is loaded['again'][0] and loaded['kimg'] == 7 and loaded['log'] is None
    assert_same_network(loaded['net'], net)


def test_own_build_functions(tmp_path):
    """Only build functions that the caller names are called."""
    net = Network('mine', func=build_own, size=3)
    save_pkl(net, str(tmp_path / 'own.pkl'))
    with pytest.raises(UserError, match="'tests.test_legacy.build_own' is not known to be harmless"):
        load_pkl(str(tmp_path / 'own.pkl'))
    assert_same_network(load_pkl(str(tmp_path / 'own.pkl'), build_funcs=['tests.test_legacy.build_own']), net)


def build_own(size):
    from lasagne.layers import DenseLayer, InputLayer
    latents = InputLayer((None, size), name='latents')
    return {'input_layers': [latents], 'output_layers': [DenseLayer(latents, 2, name='out')]}


# ----------------------------------------------------------------------------------------------------------------------
# Use.


@pytest.mark.parametrize('source', ['snapshot.pkl', 'tf/pickles/cond16.pkl'])
def test_loaded_networks_can_be_trained(source, tmp_path):
    """A step of the training loop on loaded networks, which are saved and loaded again."""
    nets = G, D, Gs = load_pkl(GOLDEN / source)
    before = {var: var.get_value() for net in nets for var in net.trainables.values()}
    schedule = Schedule(2.0, 2, 2, 4, 4, 1.0, 1.0)
    functions = training_functions(G, D, Gs, schedule)
    labels = np.eye(10, dtype=np.float32)[[1, 2, 3, 4]][:, :10 if source.startswith('tf') else 0]
    reals = np.random.randint(256, size=(4, 3, 4, 4)).astype(np.uint8)
    outputs = functions.train_d(reals, labels, train.random_latents(4, G), labels)
    assert all(np.isfinite(output).all() for output in outputs)
    for net in nets:
        # Networks of 4x4 pixels.
        assert sum((var.get_value() != before[var]).any() for var in net.trainables.values()) >= 6
    save_pkl(nets, str(tmp_path / 'trained.pkl'))
    for net, again in zip(nets, load_pkl(str(tmp_path / 'trained.pkl')), strict=True):
        assert_same_network(net, again)


def test_command_line(tmp_path, capsys):
    source, target = str(GOLDEN / 'snapshot.pkl'), str(tmp_path / 'ours.pkl')
    assert legacy.main([source, target]) == 0
    assert capsys.readouterr().out.count('networks.G_paper') == 2
    for net, again in zip(load_pkl(source), load_pkl(target), strict=True):
        assert_same_network(net, again)
    assert legacy.main([str(tmp_path / 'none.pkl'), target]) == 1
    error = capsys.readouterr().err
    assert 'none.pkl: there is no such file' in error and error.count('\n') == 1


# ----------------------------------------------------------------------------------------------------------------------
# Files that do not fit.


def kwargs_of(state, **changes):
    key = 'static_kwargs' if 'version' in state else 'build_func_spec'
    return dict(state, **{key: dict(state[key], **changes)})


def states_that_do_not_fit():
    """(module, state, expected message)."""
    new, old = small_state_2018(), small_state_2017()
    ours = {'version': 3, 'name': 'G', 'func': 'networks.G_paper', 'static_kwargs': {}, 'param_values': [],
            'toplevel_values': {}}
    yield 'tfutil', dict(new, version=5), 'version 5 of the 2018 format'
    yield 'tfutil', dict(new, build_func_name='G_style'), "no network 'G_style'"
    yield 'tfutil', dict(new, build_func_name=None), "no str 'build_func_name'"
    yield 'tfutil', dict(new, variables=[item for item in new['variables'] if item[0] != 'lod']), "variable 'cur_lod'"
    yield 'tfutil', dict(new, variables=new['variables'][:1] + new['variables']), 'missing or repeated'
    yield 'tfutil', dict(new, variables=[*new['variables'], ('x', np.float32(0))]), "unknown variable 'x'"
    flat = [(name, np.reshape(value, (-1, 1))) for name, value in new['variables']]
    yield 'tfutil', dict(new, variables=flat), 'must have the shape'
    yield 'tfutil', dict(new, variables=[(name, 'text') for name, _value in new['variables']]), 'are not arrays'
    yield 'tfutil', dict(new, variables=[name for name, _value in new['variables']]), 'not pairs of name and value'
    yield 'tfutil', kwargs_of(new, dtype='float8'), "dtype='float8'"
    yield 'tfutil', kwargs_of(new, resolution=12), 'resolution=12'
    yield 'tfutil', kwargs_of(new, resolution=2 ** 20), 'resolution=1048576'
    yield 'tfutil', kwargs_of(new, resolution='big'), 'a network cannot be built'
    yield 'tfutil', kwargs_of(new, latent_size=2 ** 30), 'a larger network than the stored arrays'
    yield 'tfutil', kwargs_of(new, latent_size=-3), 'a network cannot be built'
    yield 'tfutil', kwargs_of(new, fmap_base=2 ** 30, fmap_max=2 ** 30), 'a larger network than the stored arrays'
    yield 'tfutil', kwargs_of(new, fmap_max=float('nan')), 'the value of the argument fmap_max is not plain'
    yield 'tfutil', kwargs_of(new, func='os.system'), "'func' is not an argument name"
    yield 'network', dict(old, build_func_spec={'func': 'os.system'}), "no network 'system'"
    yield 'network', dict(old, param_values=old['param_values'][:-1]), 'arrays'
    yield 'network', dict(old, toplevel_params={}), "missing or repeated variable 'cur_lod'"
    yield 'network', dict(old, toplevel_params={'cur_lod': np.float32(0), 'x': 1.0}), "unknown variable 'x'"
    yield 'network', kwargs_of(old, num_channels=2 ** 30), 'a larger network than the stored arrays'
    yield 'network', kwargs_of(old, label_size=2 ** 30), 'a larger network than the stored arrays'
    yield 'network', {'anything': 1}, "no dict 'build_func_spec'"
    yield 'tfutil_shim', dict(ours, version=4), 'network pickle of version 4'
    yield 'tfutil_shim', dict(ours, func='os.system', static_kwargs={'command': 'true'}), 'not known to be harmless'
    yield 'tfutil_shim', dict(ours, func='networks.misc.save_pkl'), 'not known to be harmless'
    yield 'tfutil_shim', dict(ours, func='legacy.main'), 'not known to be harmless'
    yield 'tfutil_shim', ours, 'a larger network than the stored arrays'
    yield 'tfutil_shim', dict(ours, param_values=[1, 2]), 'a network cannot be built'
    yield 'tfutil_shim', {'version': 3}, "no str 'func'"
    yield 'tfutil_shim', {}, 'class tfutil_shim.Network has no state'


def test_states_that_do_not_fit(tmp_path):
    """Wrong versions, names, shapes and arguments are one-line errors that name the problem."""
    for module, state, message in states_that_do_not_fit():
        path = write(tmp_path, dumps([(module + '.Network', state)], 4))
        with pytest.raises(UserError) as error:
            load_pkl(path)
        assert message in str(error.value) and path in str(error.value) and '\n' not in str(error.value)


def test_small_states_fit(tmp_path):
    """The state that each case above changes is valid by itself."""
    data = dumps([('tfutil.Network', small_state_2018()), ('network.Network', small_state_2017())], 4)
    assert [net.func_name for net in load_pkl(write(tmp_path, data))] == ['networks_2018.G_paper',
                                                                              'networks.G_paper']


def test_one_array_for_many_networks(tmp_path):
    """Each network would copy the array, so a small file could fill the memory; it is refused."""
    state = small_state_2018()
    data = dumps([('tfutil.Network', dict(state)) for _index in range(1000)], 4)
    with pytest.raises(UserError, match='its networks have more numbers than the file'):
        load_pkl(write(tmp_path, data))


def test_source_text_is_not_run(tmp_path):
    """All states of these tests contain source text that would exit the program if it ran."""
    assert small_state_2018()['build_module_src'] == small_state_2017()['build_module_src'] == 'raise SystemExit'
