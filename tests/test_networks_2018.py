"""networks_2018.py against the recorded networks, losses and gradients of the 2018 TensorFlow release."""

import json

import theano_torch

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T

import loss
import networks_2018
import theano_env
import train
from common.errors import UserError
from nets import costs
from nets.network import Network
from tests.helpers import GOLDEN, load_golden, training_functions
from training.schedule import Schedule

NAMES = json.loads((GOLDEN / 'tf' / 'networks' / 'index.json').read_text())['networks']
INPUTS, _ = load_golden('tf/networks/inputs')
# Absolute, as the golden README suggests: pixelwise normalization in G amplifies float32 rounding. In float16, the
# recorded networks round after every operation of TensorFlow.
TOLERANCES = {'images_out': 2e-5, 'scores_out': 5e-6, 'labels_out': 5e-6}
FLOAT16_TOLERANCE = 2e-2
SMALL = {'num_channels': 3, 'resolution': 16, 'fmap_base': 64, 'fmap_max': 8}


@pytest.fixture(autouse=True)
def torch_engine(restore_theano_config):
    theano_env.configure('torch', {'device': 'cpu'})
    np.random.seed(1)


def recorded_network(name):
    """(network with the recorded values, its description, recorded arrays)."""
    info = json.loads((GOLDEN / 'tf' / 'networks' / (name + '.json')).read_text())
    arrays, _meta = load_golden('tf/networks/' + name)
    net = Network(name, func='networks_2018.' + info['func'], **info['static_kwargs'])
    for var in info['variables']:
        net.set_var(var['name'], arrays['var/' + var['name']])
    return net, info, arrays


def recorded_inputs(net, num):
    if 'images_in' in net.input_names:
        images = INPUTS['images_u8_c%d_r%d' % tuple(net.input_shape[1:3])][:num].astype(np.float32)
        return [images * np.float32(2 / 255) - np.float32(1)]
    latent_size, label_size = [shape[1] for shape in net.input_shapes]
    return [INPUTS['latents64'][:num, :latent_size], INPUTS['labels10'][:num, :label_size]]


# ----------------------------------------------------------------------------------------------------------------------
# Structure.


@pytest.mark.parametrize('name', NAMES)
def test_structure(name):
    net, info, _arrays = recorded_network(name)
    for what in ('input_names', 'output_names', 'input_shapes', 'output_shapes'):
        assert getattr(net, what) == info[what]
    shapes = {var['name']: (var['shape'], var['trainable']) for var in info['variables']}
    assert shapes == {var.name: (list(var.get_value().shape), local_name in net.trainables)
                      for local_name, var in net.vars.items()}


@pytest.mark.parametrize('name', ['G00_default_32', 'G02_no_wscale', 'D01_label10', 'D02_no_wscale'])
def test_initial_values(name):
    """Weights are standard normal or have the recorded standard deviation; scales are the recorded ones."""
    info = json.loads((GOLDEN / 'tf' / 'networks' / (name + '.json')).read_text())
    net = Network(func='networks_2018.' + info['func'], **info['static_kwargs'])
    for var in info['variables']:
        values = net.get_var(var['name'])
        if 'std' not in var:
            assert not values.any()
            continue
        wanted = 1.0 if var['use_wscale'] else var['std']
        # Five standard errors of a standard deviation.
        assert abs(values.std() / wanted - 1) < 5 / np.sqrt(2 * values.size)
        layer, = [layer for layer in _layers(net) if layer.name == var['name'].rpartition('/')[0]]
        assert layer.scale == np.float32(var['std_float32'])


def _layers(net):
    import lasagne
    return [layer for layer in lasagne.layers.get_all_layers(net.output_layers) if hasattr(layer, 'scale')]


def test_defaults():
    """Defaults are those of the 2018 release, which differ from 2017."""
    G, D = Network(func='networks_2018.G_paper'), Network(func='networks_2018.D_paper')
    assert G.input_shapes == [[None, 512], [None, 0]] and G.output_shape == [None, 1, 32, 32]
    assert G.get_var('4x4/Dense/weight').shape == (512, 512 * 16)
    assert D.get_var('32x32/Conv1_down/weight').shape == (3, 3, 512, 512)


def test_table_of_layers():
    lines = Network(func='networks_2018.D_paper', **SMALL).topology_lines()
    row, = [line.split() for line in lines if line.startswith('8x8/Conv1_down ')]
    assert row == '8x8/Conv1_down ConvDownscaleLayer 584 ?, 8, 4, 4 3, 3, 8, 8 LeakyRectify'.split()


def test_an_unknown_dtype_is_an_error():
    with pytest.raises(UserError, match="dtype='bfloat16': use 'float32' or 'float16'"):
        Network(func='networks_2018.G_paper', dtype='bfloat16', **SMALL)


# ----------------------------------------------------------------------------------------------------------------------
# Outputs.


def evaluate(net, runs, **kwargs):
    """[{name of an output: value}] for the minibatch sizes and lods in `runs`."""
    results = []
    for run in runs:
        net.set_var('lod', run['lod'])
        outputs = net.run(*recorded_inputs(net, run['minibatch']), return_as_list=True, **kwargs)
        results.append(dict(zip(net.output_names, outputs, strict=True)))
    return results


@pytest.mark.parametrize('name', NAMES)
def test_outputs(name):
    """`run` returns the recorded values and types for all recorded lods and minibatch sizes."""
    net, info, arrays = recorded_network(name)
    runs = {(run['lod'], run['minibatch']): run for run in info['runs']}
    # One function for all lods saves time; by default there is one per lod range.
    kwargs = {} if 'label10' in name else {'min_lod': None, 'max_lod': None}
    results = dict(zip(runs, evaluate(net, runs.values(), **kwargs), strict=True))
    for run in info['runs']:
        output = results[run['lod'], run['minibatch']][run['output']]
        desired = arrays[run['key']]
        assert output.dtype == desired.dtype and output.shape == desired.shape
        tolerance = FLOAT16_TOLERANCE if 'float16' in name else TOLERANCES[run['output']]
        np.testing.assert_allclose(output.astype('float64'), desired, rtol=0, atol=tolerance, err_msg=run['key'])


@pytest.mark.own_engines
@pytest.mark.parametrize('name', ['G00_default_32', 'D01_label10', 'D04_mbstd0'])
def test_outputs_on_theano(name):
    """Theano's own Python code gives the recorded outputs, too."""
    theano_env.configure('python')
    net, info, arrays = recorded_network(name)
    run = info['runs'][0 if name.startswith('G') else -2]
    output = evaluate(net, [run])[0][run['output']]
    np.testing.assert_allclose(output, arrays[run['key']], rtol=0, atol=TOLERANCES[run['output']])


@pytest.mark.parametrize('name', ['G00_default_32', 'D00_default_32', 'D06_no_fused_scale'])
def test_work_at_a_low_resolution(name):
    """With `image_lod`, which training uses, smaller images give the same values."""
    net, info, arrays = recorded_network(name)
    net.set_var('lod', 1.5)
    lods = dict(min_lod=1, max_lod=2, image_lod=1)
    if name.startswith('G'):
        images = net.run(*recorded_inputs(net, 4), **lods)
        assert images.shape[-1] == info['static_kwargs']['resolution'] // 2
        np.testing.assert_allclose(images.repeat(2, axis=2).repeat(2, axis=3), arrays['out/images_out/lod1.50'], rtol=0,
                                   atol=TOLERANCES['images_out'])
        return
    images = T.tensor4('images')
    # D's input layer requires full resolution, but its graph does not.
    scores = theano.function([images], net.get_output_for(images, **lods)[0])
    half = info['static_kwargs']['resolution'] // 2
    shrunk = recorded_inputs(net, 16)[0].reshape(16, 3, half, 2, half, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(scores(shrunk), arrays['out/scores_out/lod1.50_mb16'], rtol=0,
                               atol=TOLERANCES['scores_out'])


@pytest.mark.parametrize('engine', ['torch', 'python'])
def test_a_minibatch_that_groups_do_not_divide(engine):
    theano_env.configure(engine)
    D = Network(func='networks_2018.D_paper', **SMALL)
    with pytest.raises(AssertionError, match='mbstd_group_size=4'):
        D.run(np.zeros((6, 3, 16, 16), np.float32))


def test_empty_labels_may_be_left_out():
    G = Network(func='networks_2018.G_paper', **SMALL)
    latents = np.random.randn(2, *G.input_shape[1:])
    assert (G.run(latents) == G.run(latents, np.zeros((2, 0)))).all()
    assert G.run(np.zeros((0, *G.input_shape[1:]))).shape == (0, 3, 16, 16)
    conditional = Network(func='networks_2018.G_paper', label_size=3, **SMALL)
    with pytest.raises(UserError, match='takes 2 arrays'):
        conditional.run(latents)


# ----------------------------------------------------------------------------------------------------------------------
# Training.


class FixedMixing:
    """Replaces the random stream of the mixing factors by recorded values."""

    def __init__(self, factors):
        self.factors = factors

    def uniform(self, size, dtype):
        return T.constant(self.factors.astype(dtype))


# {loss argument of the 2018 release: (our name, the default of the release)}
LOSS_ARGUMENTS = {'wgan_lambda': ('iwass_lambda', 10.0), 'wgan_epsilon': ('iwass_epsilon', 0.001),
                  'wgan_target': ('iwass_target', 1.0), 'cond_weight': ('cond_weight', 1.0)}


class LossCase:
    """Recorded networks and inputs of the losses for one label size, and functions of the lod and the arguments."""

    def __init__(self, label_size):
        self.arrays, _meta = load_golden(f'tf/losses/losses_label{label_size}')
        self.info = json.loads((GOLDEN / 'tf' / 'losses' / f'losses_label{label_size}.json').read_text())
        self.nets = {}
        for key in 'GD':
            net = Network(key, func=f'networks_2018.{key}_paper', **self.info[key + '_kwargs'])
            for name in net.trainables:
                net.set_var(name, self.arrays[f'{key}/var/{name}'])
            self.nets[key] = net

    def function(self, min_lod, max_lod, image_lod):
        """A function of lod and loss arguments: {net: [loss, scores of the fakes (D only), gradients]}."""
        arguments = {ours: T.fscalar(ours) for ours, _default in LOSS_ARGUMENTS.values()}
        reals = self.arrays['reals']
        n, c, h, w = reals.shape
        f = 2 ** image_lod
        reals = reals.reshape(n, c, h // f, f, w // f, f).mean((3, 5), dtype='float32')
        outputs = []
        for key, fake_labels in (('G', 'labels_G'), ('D', 'labels_reals')):
            losses = loss.evaluate_loss(
                self.nets['G'], self.nets['D'], min_lod, max_lod, T.constant(reals),
                *[T.constant(self.arrays[name]) for name in ('labels_reals', 'latents', fake_labels)],
                random=FixedMixing(self.arrays['mixing_factors']), image_lod=image_lod, **arguments)
            expression = losses.G_loss if key == 'G' else losses.D_loss
            outputs += [expression, losses.fake_scores_out] if key == 'D' else [expression]
            outputs += theano.grad(expression, list(self.nets[key].trainables.values()), disconnected_inputs='ignore')
        # TensorFlow sums in float32, as our training does.
        function = theano.function(list(arguments.values()), outputs, on_unused_input='ignore',
                                   mode=theano_torch.float32_sums(theano.config.mode))

        def evaluate(lod, kwargs):
            for net in self.nets.values():
                net.set_var('lod', lod)
            values = function(*[kwargs.get(name, default) for name, (_ours, default) in LOSS_ARGUMENTS.items()])
            num_of_G = 1 + len(self.nets['G'].trainables)
            return {'G': values[:num_of_G], 'D': values[num_of_G:]}
        return evaluate


@pytest.mark.slow
@pytest.mark.parametrize('label_size, min_lod, image_lod', [(0, None, 0), (10, None, 0), (10, 1, 1)])
def test_losses_and_gradients(label_size, min_lod, image_lod):
    """Losses and gradients equal the means of the recorded ones, also for images at a lower resolution."""
    case = LossCase(label_size)
    evaluate = case.function(min_lod, min_lod, image_lod)
    for record in case.info['cases']:
        if min_lod is not None and record['lod'] != min_lod:
            continue
        prefix, net = record['prefix'], case.nets[record['wrt']]
        value, *grads = evaluate(record['lod'], record['kwargs'])[record['wrt']]
        recorded = case.arrays[prefix + 'loss'].astype('float64').mean()
        np.testing.assert_allclose(value, recorded, rtol=1e-5, err_msg=prefix)      # Float32 rounding.
        if record['wrt'] == 'D':
            summary = {name: case.arrays[prefix + f'summary/Loss/{name}_scores'] for name in ('real', 'fake')}
            np.testing.assert_allclose(grads.pop(0), summary['fake'] - summary['real'], rtol=0, atol=1e-5)
        if not record['grad_stored']:
            continue
        for name, grad in zip(net.trainables, grads, strict=True):
            desired = case.arrays[prefix + 'grad/' + name]
            if name in record['zero_gradients']:
                assert not desired.any() and not grad.any()
            np.testing.assert_allclose(grad, desired, rtol=0, atol=1e-4 * abs(desired).max(), err_msg=prefix + name)


@pytest.mark.parametrize('label_size', [0, 10])
def test_statistics_of_the_losses(label_size):
    """Scores, gradient norms, penalties and cross-entropies of each sample equal the release's reports."""
    case = LossCase(label_size)
    G, D = case.nets['G'], case.nets['D']
    reals, labels = [T.constant(case.arrays[key]) for key in ('reals', 'labels_reals')]
    fakes = G.get_output_for(T.constant(case.arrays['latents']), labels)
    mixed = reals + (fakes - reals) * T.constant(case.arrays['mixing_factors'])
    scores = {name: D.get_output_for(images) for name, images in (('real', reals), ('fake', fakes), ('mixed', mixed))}
    wanted = {f'Loss/{name}_scores': outputs[0] for name, outputs in scores.items()}
    gradients = theano.grad(T.sum(scores['mixed'][0]), mixed)
    wanted['Loss/mixed_norms'] = T.sqrt(T.sum(T.sqr(gradients), axis=(1, 2, 3)))
    wanted['Loss/epsilon_penalty'] = T.sqr(scores['real'][0])
    if label_size:
        for name in ('real', 'fake'):
            wanted[f'Loss/label_penalty_{name}s'] = T.stack(
                [loss.cross_entropy(scores[name][1][i:i + 1], labels[i:i + 1]) for i in range(8)])
    function = theano.function([], [*wanted.values(), fakes])
    for record in case.info['cases']:
        if record['wrt'] != 'D':
            continue
        for net in (G, D):
            net.set_var('lod', record['lod'])
        *values, images = function()
        recorded = {key.partition('/summary/')[2]: value for key, value in case.arrays.items()
                    if key.startswith(record['prefix'] + 'summary/')}
        assert set(recorded) == set(wanted)
        for name, value in zip(wanted, values, strict=True):
            np.testing.assert_allclose(value, recorded[name], rtol=1e-4, atol=1e-5, err_msg=record['prefix'] + name)
        key = f'lod{record["lod"]:.1f}/fakes_for_reals_labels'
        np.testing.assert_allclose(images, case.arrays[key], rtol=0, atol=TOLERANCES['images_out'])


@pytest.mark.parametrize('kwargs', [{'label_size': 3, 'fused_scale': False}, {'dtype': 'float16'}])
def test_training(kwargs):
    """Training steps on these networks give finite losses and change weights and averages."""
    G, D = [Network(func=f'networks_2018.{key}_paper', **SMALL, **kwargs) for key in 'GD']
    Gs = G.clone(share_nontrainables=True)
    before = {name: value.get_value() for name, value in Gs.trainables.items()}
    schedule = Schedule(1.5, 1, 2, 8, 4, 1.0, 1.0)
    functions = training_functions(G, D, Gs, schedule)
    labels = np.eye(3, dtype=np.float32)[np.arange(4) % 3][:, :G.input_shapes[1][1]]
    reals = np.random.randint(256, size=(4, 3, 8, 8)).astype(np.uint8)
    for _step in range(2):  # Gs averages the weights before each step.
        latents = train.random_latents(4, G)
        outputs = functions.train_d(reals, labels, latents, labels)
    assert all(np.isfinite(output).all() for output in outputs)
    moved = [name for name, value in before.items() if (Gs.get_var(name) != value).any()]
    assert {'4x4/Dense/weight', '8x8/Conv1/bias', 'ToRGB_lod1/weight', 'ToRGB_lod2/weight'} <= set(moved)
    assert not any(name.startswith(('16x16', 'ToRGB_lod0')) for name in moved)


def test_multiplications_of_fused_downscaling():
    """Fused downscaling counts as one 4x4 convolution with stride 2 per output pixel."""
    D = Network('D', func='networks_2018.D_paper', **SMALL)
    counts = [count for layer, (_height, count) in zip(lasagne.layers.get_all_layers(D.output_layers),
                                                       costs.layer_multiplications(D), strict=True)
              if isinstance(layer, networks_2018.ConvDownscaleLayer)]
    assert counts == [4 * 4 * 8 * 8 * 8 * 8, 4 * 4 * 8 * 8 * 4 * 4]
