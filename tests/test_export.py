"""export.py: ONNX models against our images, the 2018 layout against the conversion of the 2018 release."""

import json

import numpy as np
import pytest

import export
import theano_env
from common.errors import UserError
from common.files import save_pkl
from nets.network import Network
from nets.pickles import load_pkl
from tests.helpers import GOLDEN, LEGACY_IMPORT, dumps, legacy_import_state, load_golden, write

SMALL = {'num_channels': 3, 'resolution': 16, 'fmap_base': 64, 'fmap_max': 8, 'latent_size': 8}
# Absolute: pixelwise normalization amplifies the rounding differences of two float32 convolutions. Images are between
# -1 and 1, images of random networks up to 4.
IMAGES = 5e-5


@pytest.fixture(autouse=True)
def torch_engine(restore_theano_config):
    theano_env.configure('torch', {'device': 'cpu'})
    np.random.seed(1)


def perturbed(net, sigma=0.1):
    """`net` with random biases and other parameters that would be constant initially."""
    for name, var in net.vars.items():
        value = var.get_value()
        if name not in net.toplevel_params and not name.endswith('scale'):
            net.set_var(name, abs(value + sigma * np.random.randn(*value.shape)) if 'inv_std' in name
                        else value + sigma * np.random.randn(*value.shape))
    return net


# ----------------------------------------------------------------------------------------------------------------------
# ONNX.


def run_onnx(path, inputs):
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    names = [item.name for item in session.get_inputs()]
    assert [item.name for item in session.get_outputs()] == ['images']
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


GENERATORS = {
    'paper': ('networks.G_paper', {}, 2e-5),
    'batchnorm tanh': ('networks.G_paper', {'use_batchnorm': True, 'use_pixelnorm': False, 'tanh_at_end': 0.5}, IMAGES),
    'plain': ('networks.G_paper', {'use_wscale': False, 'normalize_latents': False, 'use_leakyrelu': False}, IMAGES),
    'labels': ('networks.G_paper', {'label_size': 3}, IMAGES),
    'mnist': ('networks.G_mnist_mode_recovery', {'label_size': 0}, IMAGES),
    'mnist progressive': (
        'networks.G_mnist_mode_recovery', {'label_size': 0, 'progressive': True, 'use_wscale': True}, IMAGES),
    '2018': ('networks_2018.G_paper', {}, IMAGES),
    '2018 labels': ('networks_2018.G_paper', {'label_size': 3, 'fused_scale': False, 'use_wscale': False}, IMAGES),
    # ONNX rounds to float16 at other places than our layers.
    '2018 float16': ('networks_2018.G_paper', {'dtype': 'float16', 'pixelnorm_epsilon': 1e-4}, 2e-2),
}


@pytest.mark.parametrize('name', GENERATORS)
def test_onnx(name, tmp_path):
    """Images of all kinds of generators at several lods and minibatch sizes agree."""
    func, kwargs, tolerance = GENERATORS[name]
    net = perturbed(Network('Gs', func=func, **SMALL, **kwargs))
    inputs = [np.random.randn(5, 8).astype(np.float32)]
    if net.num_inputs == 2 and net.input_shapes[1][1]:
        inputs.append(np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]])
    for lod in [0.0, 0.3, 1.0, 1.75, 2.0]:
        net.set_var('cur_lod', lod)
        path = str(tmp_path / f'{lod:g}.onnx')
        export.save_onnx(net, path, lod)
        images = net.run(*inputs, min_lod=None, max_lod=None)
        exported = run_onnx(path, inputs)
        assert exported.dtype == images.dtype and exported.shape == images.shape
        assert abs(exported.astype('float64') - images).max() <= tolerance * max(abs(images).max(), 1)
        single = run_onnx(path, [array[2:3] for array in inputs])
        np.testing.assert_allclose(single, exported[2:3], rtol=0, atol=tolerance)


def test_onnx_with_the_statistics_of_the_minibatch(tmp_path):
    net = perturbed(Network('Gs', func='networks.G_paper', use_batchnorm=True, **SMALL))
    latents, path = np.random.randn(5, 8).astype(np.float32), str(tmp_path / 'Gs.onnx')
    export.save_onnx(net, path, batchnorm='minibatch')
    images = run_onnx(path, [latents])
    np.testing.assert_allclose(images, net.run(latents, batch_norm_use_averages=False), rtol=0, atol=IMAGES)
    assert abs(images - net.run(latents)).max() > 0.1


@pytest.mark.parametrize('source', ['snapshot.pkl', 'tf/pickles/cond16.pkl', 'tf/pickles/uncond32.pkl'])
def test_onnx_of_published_networks(source, tmp_path, capsys):
    """Models exported on the command line at the current lod make the images of the releases."""
    path = str(tmp_path / 'Gs.onnx')
    assert export.main(['onnx', str(GOLDEN / source), path]) == 0
    assert path in capsys.readouterr().out
    if source == 'snapshot.pkl':
        arrays, _meta = load_golden('snapshot')
        images = run_onnx(path, [arrays['latents'].astype(np.float32)]) * 127.5 + 127.5
        np.testing.assert_allclose(images, arrays['images255_Gs_lod0.25'], rtol=0, atol=IMAGES * 127.5)
        return
    arrays, _meta = load_golden(source[:-len('.pkl')] + '.expected')
    images = run_onnx(path, [array for array in (arrays['latents'], arrays['labels']) if array.size])
    np.testing.assert_allclose(images, arrays['Gs_run'], rtol=0, atol=IMAGES)


def test_onnx_has_only_the_layers_of_the_lod():
    net = Network('Gs', func='networks.G_paper', **SMALL)
    graphs = [export.onnx_model(net, lod).graph for lod in (0, 1, 2)]
    num_values = [sum(np.prod(item.dims) for item in graph.initializer) for graph in graphs]
    assert num_values[0] > num_values[1] > num_values[2]


def test_errors(tmp_path, capsys):
    source, target = str(GOLDEN / 'snapshot.pkl'), str(tmp_path / 'target')
    for argv, message in [(['onnx', source, target, '--network', 'D'], 'only generators can be exported'),
                          (['onnx', source, target, '--lod', '3'], 'lod=3.0: use a value from 0 (full'),
                          (['state', str(tmp_path), target], 'has no network snapshots yet'),
                          (['state', source, str(tmp_path / 'none' / 'x')], 'cannot be written')]:
        assert export.main(argv) == 1
        error = capsys.readouterr().err
        assert error.startswith('export.py: error: ') and message in error and error.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_a_run_by_its_number(tmp_path, capsys):
    run_dir = tmp_path / '003-faces'
    run_dir.mkdir()
    (run_dir / 'network-snapshot-000006.pkl').write_bytes((GOLDEN / 'snapshot.pkl').read_bytes())
    for run, snapshot in [('3', '6'), ('latest', 'latest'), (str(run_dir), '000006')]:
        assert export.main(['onnx', run, str(tmp_path / 'x.onnx'), '--snapshot', snapshot, '--result-dir',
                            str(tmp_path)]) == 0
    capsys.readouterr()
    assert export.main(['onnx', '3', str(tmp_path / 'y.onnx'), '--snapshot', 'final', '--result-dir', str(tmp_path)])
    assert 'snapshot=final: ' in capsys.readouterr().err
    save_pkl({'Gs': 1}, tmp_path / 'dict.pkl')
    assert export.main(['onnx', str(tmp_path / 'dict.pkl'), str(tmp_path / 'y.onnx')]) == 1
    assert 'holds a dict, not a network or (G, D, Gs)' in capsys.readouterr().err


def test_unknown_layers_are_an_error():
    from lasagne.layers import DropoutLayer
    net = Network('Gs', func='networks.G_paper', **SMALL)
    net.output_layers = [DropoutLayer(net.output_layers[0])]
    with pytest.raises(UserError, match='layers of type DropoutLayer cannot be exported'):
        export.onnx_model(net)


def test_without_onnx(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'onnx', None)
    with pytest.raises(UserError, match=r"pip install '.\[export\]'"):
        export.onnx_model(Network('Gs', func='networks.G_paper', **SMALL))


# ----------------------------------------------------------------------------------------------------------------------
# The 2018 layout.


def load_state(path):
    """Load an exported npz file like the 2018 release, with our networks."""
    state = np.load(path)
    meta = json.loads(str(state['meta']))
    net = Network('Gs', func='networks_2018.' + meta['build_func_name'], **meta['static_kwargs'])
    assert {var.name for var in net.vars.values()} == set(meta['variable_names'])
    for name in meta['variable_names']:
        net.set_var(name, state['variables/' + name])
    return net


@pytest.mark.parametrize('case', LEGACY_IMPORT, ids=lambda case: case['tag'])
def test_the_conversion_of_the_2018_release(case, tmp_path):
    """Variables, arguments and outputs equal the release's own conversion of the same 2017 networks."""
    arrays, state = legacy_import_state(case)
    net, = load_pkl(write(tmp_path, dumps([('network.Network', state)])))
    func, kwargs, variables = export.state_2018(net)
    assert func == case['tf_build_func_name']
    assert {key: value for key, value in kwargs.items() if key in case['tf_static_kwargs_after_import']} == {
        key: value for key, value in case['tf_static_kwargs_after_import'].items() if key in kwargs}
    # Neither the release's D nor ours uses this variable.
    assert set(case['tf_static_kwargs_after_import']) <= set(kwargs) | {'latent_size'}
    assert set(variables) == set(case['tf_variables_in_import_order'])
    for name, value in variables.items():
        np.testing.assert_allclose(value, arrays[f'{case["tag"]}/tf/{name}'], rtol=1e-6, atol=0, err_msg=name)
        assert value.dtype == np.float32
    path = str(tmp_path / 'state.npz')
    export.save_state(net, path)
    loaded = load_state(path)
    inputs = arrays['latents'] if case['tag'].startswith('G') else arrays['images']
    for lod in case['lods']:
        loaded.set_var('lod', lod)
        output = loaded.run(inputs, return_as_list=True, min_lod=None, max_lod=None)[0]
        np.testing.assert_allclose(output, arrays[f'{case["tag"]}/out/lod{lod:.2f}'], rtol=0, atol=IMAGES)


@pytest.mark.parametrize('func, kwargs', [
    ('networks.G_paper', {'label_size': 3, 'normalize_latents': False}),
    ('networks.G_paper', {'use_leakyrelu': False, 'use_pixelnorm': False, 'fmap_decay': 0.5}),
    ('networks.D_paper', {'label_size': 3}), ('networks.D_paper', {'mbstat_avg': None, 'use_wscale': False})])
def test_more_options(func, kwargs, tmp_path):
    """The export supports options that the import of the 2018 release refuses."""
    net = perturbed(Network('net', func=func, **SMALL, **kwargs))
    net.set_var('cur_lod', 0.5)
    export.save_state(net, str(tmp_path / 'state.npz'))
    loaded = load_state(str(tmp_path / 'state.npz'))
    num = 6
    inputs = [np.random.randn(num, *shape[1:]).astype(np.float32) for shape in net.input_shapes]
    for ours, theirs in zip(net.run(*inputs, return_as_list=True), loaded.run(*inputs, return_as_list=True),
                            strict=False):
        assert abs(ours - theirs).max() <= 1e-5 * abs(ours).max()       # Float32 rounding.


def test_networks_of_2018_are_exported_as_they_are(tmp_path, capsys):
    source = str(GOLDEN / 'tf' / 'pickles' / 'cond16.pkl')
    assert export.main(['state', source, str(tmp_path / 'D.npz'), '--network', 'D']) == 0
    loaded, original = load_state(str(tmp_path / 'D.npz')), load_pkl(source)[1]
    assert loaded.static_kwargs == original.static_kwargs
    for name in original.vars:
        np.testing.assert_array_equal(loaded.get_var(name), original.get_var(name))


@pytest.mark.parametrize('func, kwargs, message', [
    ('networks.G_paper', {'label_size': 3}, 'label_size=3: the 2018 release normalizes latents and labels together'),
    ('networks.G_paper', {'tanh_at_end': 1.0}, 'tanh_at_end=1.0'),
    ('networks.G_paper', {'use_batchnorm': True}, 'use_batchnorm=True'),
    ('networks.D_paper', {'use_layernorm': True}, 'use_layernorm=True'),
    ('networks.D_paper', {'mbdisc_kernels': 5}, 'mbdisc_kernels=5'),
    ('networks.D_paper', {'mbstat_avg': 'gpool'}, "mbstat_avg='gpool'"),
    ('networks.D_paper', {'mbstat_groups': 2}, 'mbstat_groups=2'),
    ('networks.G_mnist_mode_recovery', {}, 'the 2018 release has no such network')])
def test_options_that_the_2018_release_lacks(func, kwargs, message):
    with pytest.raises(UserError) as error:
        export.state_2018(Network('net', func=func, **SMALL, **kwargs))
    assert message in str(error.value)
