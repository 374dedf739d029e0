"""Typical user scripts for the 2018 release, with its names, on small networks that it saved.

Each test is a script that follows ``import tfutil_shim as tfutil``. The first use configures the engine.
"""

import ast
import shutil

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import theano
import theano.tensor as T

import config
import dataset
import dataset_tool
import legacy
import misc
import tfutil_shim as tfutil
import theano_env
import train
import util_scripts
from common.console import is_logged
from common.errors import UserError
from data.hdf5_writer import HDF5Writer
from tests.helpers import GOLDEN, load_golden
from training.options import check_options


@pytest.fixture(autouse=True)
def folder_of_a_user(tmp_path, monkeypatch, restore_theano_config):
    """A working folder with run 0, conditional on 10 classes, and run 1, unconditional. No engine is configured."""
    theano.config.mode = theano_env.THEANOS_OWN_MODE
    monkeypatch.chdir(tmp_path)
    np.random.seed(1)
    for number, name in enumerate(('cond16', 'uncond32')):
        (tmp_path / 'results' / f'{number:03d}-{name}').mkdir(parents=True)
        shutil.copy(GOLDEN / 'tf' / 'pickles' / f'{name}.pkl', f'results/{number:03d}-{name}/network-final.pkl')


def test_latent_walk():
    tfutil.init_tf({'gpu_options.allow_growth': True, 'intra_op_parallelism_threads': 1, 'env.TF_CPP_MIN_LOG_LEVEL': 1})
    _G, _D, Gs = misc.load_network_pkl(1)
    start, end = misc.random_latents(2, Gs, random_state=np.random.RandomState(5))
    latents = util_scripts.interpolate_latents(start, end, 5)
    labels = np.zeros([len(latents)] + Gs.input_shapes[1][1:])
    images = Gs.run(latents, labels, minibatch_size=2, num_gpus=1, out_mul=127.5, out_add=127.5, out_shrink=2,
                    out_dtype=np.uint8)
    misc.save_image_grid(images, 'walk.png', drange=[0, 255], grid_size=(5, 1))
    assert PIL.Image.open('walk.png').size == (5 * 16, 16)
    np.testing.assert_allclose(latents[[0, -1]], [start, end], rtol=0, atol=1e-5)
    lengths = np.linalg.norm(latents, axis=1)
    np.testing.assert_allclose(lengths, np.linspace(lengths[0], lengths[-1], 5), rtol=1e-5)
    assert len({image.tobytes() for image in images}) == 5


def test_attribute_axis():
    _G, _D, Gs = misc.load_network_pkl('results/000-cond16')
    latents = np.random.RandomState(0).randn(64, *Gs.input_shape[1:])
    labels = np.tile(np.eye(Gs.input_shapes[1][1])[3], [64, 1])
    redness = Gs.run(latents, labels, minibatch_size=16)[:, 0].mean(axis=(1, 2))
    axis = np.linalg.lstsq(latents, redness - redness.mean(), rcond=None)[0]
    axis /= np.linalg.norm(axis)
    moved = [Gs.run(latents + step * axis, labels)[:, 0].mean() for step in (-2, 0, 2)]
    assert moved[0] < moved[1] < moved[2]


def test_weight_averaging():
    _G, _D, Gs = misc.load_network_pkl(0)
    other = Gs.clone('Other')
    other.reset_trainables()
    average = Gs.clone('Average')
    for name, var in average.trainables.items():
        assert var.shape == Gs.vars[name].shape == other.vars['Other/' + name + ':0'].shape
        assert tfutil.shape_to_list(var.shape) == var.shape.as_list() == list(var.get_value().shape)
    values = [tfutil.run(net.trainables) for net in (Gs, other)]
    tfutil.set_vars({var: (values[0][name] + values[1][name]) / 2 for name, var in average.trainables.items()})
    np.testing.assert_array_equal(average.get_var('4x4/Conv/bias'), values[0]['4x4/Conv/bias'] / 2)  # Initially 0.
    assert tfutil.run({Gs.vars['lod']: Gs.vars['lod']}) == {Gs.vars['lod']: np.float32(0.4)}
    state = average.__getstate__()
    stored = dict(state['variables'])
    assert stored.keys() == {'lod', *average.trainables} and state['build_func_name'] == 'G_paper'
    misc.save_pkl((average, average, average), 'average.pkl')
    loaded = misc.load_pkl('average.pkl')[2]
    np.testing.assert_array_equal(loaded.get_var('Average/ToRGB_lod0/weight:0'), stored['ToRGB_lod0/weight'])


def test_extremes_of_the_critic():
    _G, D, Gs = misc.load_network_pkl(1)
    latents = misc.random_latents(12, Gs)
    images = Gs.run(latents, np.zeros([12, 0]))
    scores, labels = D.run(images, minibatch_size=4)
    assert scores.shape == (12, 1) and labels.shape == (12, 0)
    compiled = len(D._functions)
    np.testing.assert_array_equal(D.run(images, minibatch_size=4)[0], scores)
    assert len(D._functions) == compiled
    order = np.argsort(np.ravel(scores))
    name = misc.get_id_string_for_network_pkl(misc.locate_network_pkl(1))
    misc.save_image_grid(images[order[[0, -1]]], f'{name}-extremes.png', drange=[-1, 1])
    assert PIL.Image.open('001-uncond32-network-final-extremes.png').size == (64, 32)


def test_recovery_of_latents():
    _G, _D, Gs = misc.load_network_pkl(0)
    feeds = np.eye(10)[:1]
    target = Gs.run(misc.random_latents(1, Gs), feeds)
    found, labels = theano.shared(misc.random_latents(1, Gs), name='latents'), T.fmatrix('labels')
    images = Gs.get_output_for(found, labels, is_training=False)
    loss = T.mean(T.sqr(images - target))
    optimizer = tfutil.Optimizer(name='Recover', learning_rate=0.1, beta1=0.9, beta2=0.99)
    optimizer.register_gradients(loss, [found])
    step = optimizer.apply_updates()
    tfutil.init_uninited_vars()
    losses = [tfutil.run([loss, step], {labels: feeds})[0] for _ in range(30)]
    assert losses[-1] < losses[0] / 2 and tfutil.run([step], {labels: feeds}) == [None]


def test_features():
    _G, D, Gs = misc.load_network_pkl(0)
    images = Gs.run(misc.random_latents(4, Gs), np.eye(10)[:4])
    layers = {name: output for name, output, _vars in D.list_layers()}
    features = tfutil.run({'deep': layers['4x4/Dense0'], 'fine': tfutil.flatten(layers['FromRGB_lod0'])},
                          {D.input_templates[0]: images})
    assert features['deep'].shape == (4, 16) and features['fine'].shape == (4 * 8 * 16 * 16,)
    with pytest.raises(AttributeError, match=r"'op': there are no op attributes: .*net\.vars\[NAME\]"):
        print(D.vars['4x4/Dense0/weight'].op.name)
    with pytest.raises(AttributeError, match=r'no sessions: write tfutil.run'):
        tfutil.get_default_session()


def test_interpolation_video():
    _G, _D, Gs = misc.load_network_pkl(1)
    shape = [6, 4] + Gs.input_shape[1:]
    latents = scipy.ndimage.gaussian_filter(np.random.RandomState(1).randn(*shape), [2, 0, 0], mode='wrap')
    latents /= np.sqrt(np.mean(np.square(latents)))
    misc.init_output_logging()
    try:
        for frame in range(6):
            labels = np.zeros([4, 0], np.float32)
            images = Gs.run(latents[frame], labels, minibatch_size=4, out_mul=127.5, out_add=127.5, out_dtype=np.uint8)
            grid = misc.create_image_grid(images, [2, 2]).transpose(1, 2, 0)
            PIL.Image.fromarray(grid).save('frame%d.png' % frame)
            print('frame', frame)
            if frame == 2:
                misc.set_output_log_file('results/log.txt')
    finally:
        is_logged().__exit__(None, None, None)
    assert PIL.Image.open('frame5.png').size == (64, 64)
    with open('results/log.txt', encoding='utf-8') as log_file:
        assert log_file.read() == ''.join(f'frame {frame}\n' for frame in range(6))


def test_user_training_loop():
    """Users write their own config and loop: the step of the 2018 release with other losses."""
    dataset_tool.create_digits('datasets/digits-8x8.h5', resolution=8)
    options = config.EasyDict(tfrecord_dir='datasets/digits', max_label_size='full', prefetch_mb=8, shuffle_mb=16)
    options.resolution = 4
    with pytest.raises(UserError, match='NAME-labels.npy'):
        dataset.load_dataset(label_file='digits.labels', **options)
    with pytest.raises(UserError, match="dataset.max_label: no such option; did you mean 'max_labels'"):
        dataset.load_dataset(max_label=3, **options)
    training_set = dataset.load_dataset(data_dir='datasets', verbose=True, **options)
    assert training_set.shape == (1, 4, 4) and training_set.label_size == 10
    sizes = dict(num_channels=1, resolution=4, fmap_base=16, fmap_max=4, label_size=training_set.label_size)
    G = tfutil.Network('G', func='networks_2018.G_paper', latent_size=4, **sizes)
    D = tfutil.Network('D', func='networks_2018.D_paper', mbstd_group_size=2, **sizes)
    Gs = G.clone('Gs')
    Gs_update = Gs.setup_as_moving_average_of(G, beta=0.9)
    with tfutil.absolute_name_scope('Inputs'):
        reals_in, lod_in, labels_in = T.TensorType('uint8', [False] * 4)('reals'), T.fscalar('lod'), T.fmatrix('labels')
        latents_in = T.fmatrix('latents')
    reals = train.process_reals(reals_in, lod_in, True, training_set.dynamic_range, [-1, 1])
    fakes = G.get_output_for(latents_in, labels_in, is_training=True)
    real_scores, _logits = D.get_output_for(reals, is_training=True)
    fake_scores, _logits = D.get_output_for(fakes, is_training=True)
    G_opt, D_opt = (tfutil.Optimizer(name=name, learning_rate=0.01, beta1=0.0) for name in ('TrainG', 'TrainD'))
    G_opt.register_gradients(T.mean(T.nnet.softplus(-fake_scores)), G.trainables)
    D_loss = tfutil.autosummary('Loss/D', T.mean(T.nnet.softplus(fake_scores) + T.nnet.softplus(-real_scores)))
    D_opt.register_gradients(D_loss, D.trainables)
    G_step, D_step = G_opt.apply_updates(), D_opt.apply_updates()
    before, losses = Gs.get_var('ToRGB_lod0/weight'), []
    for _step in range(3):
        reals, labels = training_set.get_minibatch_np(4, lod=0)
        feeds = {latents_in: misc.random_latents(4, G), labels_in: training_set.get_random_labels_np(4),
                 reals_in: misc.apply_mirror_augment(reals), lod_in: 0.0}
        losses.append(tfutil.run([D_loss, D_step, Gs_update], feeds)[0])
        tfutil.run([G_step], feeds)
    assert np.isfinite(losses).all() and len(set(map(float, losses))) == 3
    assert not np.array_equal(before, Gs.get_var('ToRGB_lod0/weight'))
    training_set.close()


def test_reals_as_in_the_2018_release():
    """`train.process_reals` with a symbolic lod, against recorded values."""
    recorded = load_golden('tf/train_utils')[0]
    images, lod = T.TensorType('uint8', [False] * 4)('images'), T.fscalar('lod')
    reals = train.process_reals(images, lod, False, [0, 255], [-1, 1])
    for key in [key for key in recorded if key.startswith('process_reals/out_lod')]:
        value = float(key.rpartition('lod')[2])
        result = tfutil.run(reals, {images: recorded[f'process_reals/input_lod{int(value)}'], lod: value})
        np.testing.assert_allclose(result, recorded[key], rtol=0, atol=3e-7)    # Float32 rounding.
    np.random.seed(17)
    np.testing.assert_array_equal(misc.apply_mirror_augment(recorded['process_reals/input_lod0']),
                                  recorded['misc/mirror_augment_np_seed17'])


def test_user_config(capsys, monkeypatch):
    """The output of `legacy.py config` for an old config is a valid experiment in our config."""
    with open('old_config.py', 'w', encoding='utf-8') as old_config:
        old_config.write('''
class EasyDict(dict):
    def __getattr__(self, name): return self[name]
    def __setattr__(self, name, value): self[name] = value
desc = 'pgan'; random_seed = 3
dataset = EasyDict(); train = EasyDict(func='train.train_progressive_gan')
G = EasyDict(func='networks.G_paper'); D = EasyDict(func='networks.D_paper')
G_opt = EasyDict(beta1=0.0, beta2=0.99, epsilon=1e-8); D_opt = EasyDict(G_opt)
G_loss = EasyDict(func='loss.G_wgan_acgan'); D_loss = EasyDict(func='loss.D_wgangp_acgan', wgan_lambda=5.0)
sched = EasyDict(); grid = EasyDict(size='1080p', layout='random')
desc += '-digits'; dataset = EasyDict(tfrecord_dir='digits', resolution=4); train.mirror_augment = False
if 1: sched.minibatch_base = 4; sched.minibatch_dict = {4: 8}; sched.lod_training_kimg = 0.01; train.total_kimg = 0.02
if 0: raise SystemExit('not executed')
for net in (G, D): net.update(fmap_base=16, fmap_max=4)
G.latent_size = 4; num_gpus = 1
''')
    assert legacy.main(['config', 'old_config.py']) == 0
    printed = capsys.readouterr().out
    assert 'num_gpus = 1: no counterpart: start with torchrun' in printed
    assert 'line 14 was not read: for net in (G, D):' in printed
    experiments = ast.literal_eval('{' + printed + '}')     # As when it is pasted into the table.
    entry = experiments['pgan-digits']
    assert entry['loss'] == {'type': 'iwass', 'iwass_lambda': 5.0} and entry['G']['func'] == 'networks_2018.G_paper'
    assert entry['train']['minibatch_overrides'] == {4: 8} and entry['random_seed'] == 3
    monkeypatch.setattr(config, 'experiments', experiments)
    assert train.main(['--experiment', 'pgan-digits', '--device', 'cpu']) == 1
    assert "dataset.h5_path='digits.h5': there is no datasets/digits.h5; make it with" in capsys.readouterr().err
    train_func, options, losses = check_options(experiments['pgan-digits'], train.train_gan)
    assert train_func is train.train_gan and options['total_kimg'] == 0.02 and losses['iwass_lambda'] == 5.0


def test_metrics_of_a_run(capsys):
    labels = np.eye(10, dtype=np.float32)[np.arange(40) % 10]
    with HDF5Writer('datasets/digits-16x16.h5', 16, 3, labels) as writer:
        writer.add_images(np.random.RandomState(0).randint(256, size=(40, 3, 16, 16), dtype=np.uint8))
    with open('results/000-cond16/config.txt', 'w', encoding='utf-8') as config_file:
        config_file.write(repr({
            'dataset': {'h5_path': 'digits-16x16.h5', 'mirror_augment': True}, 'G': {'func': 'networks_2018.G_paper'},
            'D': {'func': 'networks_2018.D_paper'}, 'train': {}}))
    training_set, mirrored = misc.load_dataset_for_previous_run(0, shuffle_mb=0)
    with training_set:
        assert training_set.shape == (3, 16, 16) and mirrored and not training_set.mirror_augment
    assert misc.locate_result_subdir(0).endswith('000-cond16')
    entries = util_scripts.evaluate_metrics(0, log='metric.txt', metrics=['msssim'], num_images=4, real_passes=1)
    assert [entry['metric'] for entry in entries] == ['ms_ssim'] and 0 < entries[0]['values']['MS-SSIM'] < 1
    with open('results/000-cond16/metric.txt', encoding='utf-8') as log_file:
        assert log_file.read() in capsys.readouterr().out
    with pytest.raises(UserError, match='classifier: no file of weights is given'):
        util_scripts.calc_mnist_histogram(0, num_images=4)
