"""util_scripts: images, videos and projections, from a 2018 script, the command line and config.py."""

import json
import os
import subprocess
import sys

import imageio_ffmpeg
import lasagne
import numpy as np
import pytest
import scipy.ndimage
import theano
from PIL import Image

import config
import theano_env
import train
import util_scripts
from common.class_names import write_class_names
from common.errors import UserError
from common.files import save_pkl
from common.images import save_image
from nets.network import Network
from nets.ranks import Ranks
from runs.folder import locate_network_pkl
from runs.images import generate, generate_fake_images, load_generator
from runs.projection import load_target, project_image, pyramid_distance
from runs.records import caption_of, read_stats
from runs.videos import generate_interpolation_video, generate_training_video, smooth_latents, video_writer
from tests.helpers import ANY_ENGINE, ROOT, load_golden
from training import experiment

SMALL = {'num_channels': 3, 'resolution': 16, 'fmap_base': 64, 'fmap_max': 8, 'latent_size': 8}


@pytest.fixture(autouse=True)
def torch_engine(restore_theano_config):
    theano_env.configure('torch', {'device': 'cpu'})


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """A result folder with run 0, without classes, and run 3, with three classes."""
    np.random.seed(1)
    result_dir = tmp_path_factory.mktemp('results')
    for folder, label_size in (('000-plain', 0), ('003-classes', 3)):
        kwargs = dict(SMALL, label_size=label_size)
        G, D = Network('G', 'networks.G_paper', **kwargs), Network('D', 'networks.D_paper', **kwargs)
        (result_dir / folder).mkdir()
        save_pkl((G, D, G), result_dir / folder / 'network-snapshot-000002.pkl')
        for kimg, level in ((0, 20), (1, 110), (2, 220)):
            image = np.full((1, 33, 47), level, np.uint8)
            save_image(image, result_dir / folder / f'fakes{kimg:06d}.png', (0, 255))
        lines = [{'tick': tick, 'kimg': tick + 0.25, 'lod': 2 - tick / 2, 'seconds': 100.0 * tick} for tick in (1, 2)]
        with open(result_dir / folder / 'stats.jsonl', 'w', encoding='utf-8') as stats_file:
            stats_file.write(''.join(json.dumps(line) + '\n' for line in lines) + '{"tick": 3, "ki')
    return result_dir


def pixels(path):
    """Pixels of an image file, uint8 (H, W, C) or (H, W)."""
    with Image.open(path) as image:
        return np.asarray(image)


def images_of(G, seeds, labels):
    """The expected pixels of images of some seeds, in the layout of files."""
    latents = np.concatenate([np.random.RandomState(seed).randn(1, 8) for seed in seeds])
    images = G.run(latents, labels, out_mul=127.5, out_add=127.5, out_dtype=np.uint8)
    return images.transpose(0, 2, 3, 1)


def load(results, run):
    return load_generator(run, result_dir=results)


# ----------------------------------------------------------------------------------------------------------------------
# A script of the 2018 release.

SCRIPT = '''
import pickle
import numpy as np
import tfutil_shim as tfutil
import PIL.Image

tfutil.init_tf()
with open({pkl!r}, 'rb') as file:
    G, D, Gs = pickle.load(file)
Gs.print_layers()
latents = np.random.RandomState(1000).randn(1000, *Gs.input_shapes[0][1:])
latents = latents[[477, 56, 83, 887, 583, 391, 86, 340, 341, 415]]
labels = np.zeros([latents.shape[0]] + Gs.input_shapes[1][1:])
images = Gs.run(latents, labels)
images = np.clip(np.rint((images + 1.0) / 2.0 * 255.0), 0.0, 255.0).astype(np.uint8)
images = images.transpose(0, 2, 3, 1)
for idx in range(images.shape[0]):
    PIL.Image.fromarray(images[idx], 'RGB').save('img%d.png' % idx)
'''


@pytest.mark.slow
def test_a_script_for_the_2018_release(results, tmp_path):
    script = tmp_path / 'import_example.py'
    script.write_text(SCRIPT.format(pkl=locate_network_pkl(0, result_dir=results)))
    subprocess.run([sys.executable, '-W', 'ignore', str(script)], cwd=tmp_path, check=True,
                   env={**os.environ, 'PYTHONPATH': str(ROOT)})
    latents = np.random.RandomState(1000).randn(1000, 8)[[477, 56, 83, 887, 583, 391, 86, 340, 341, 415]]
    theano_env.configure(ANY_ENGINE)
    images = load(results, 0).run(latents, np.zeros((10, 0)))
    for index in range(10):
        written = pixels(tmp_path / f'img{index}.png').astype(float)
        # Rounding to integer grey levels after float32 rounding.
        expected = np.clip((images[index].transpose(1, 2, 0) + 1) * 127.5, 0, 255)
        np.testing.assert_allclose(written, expected, rtol=0, atol=0.51)


# ----------------------------------------------------------------------------------------------------------------------
# Images.


def test_single_images(results, tmp_path):
    paths = generate_fake_images(tmp_path, 0, seeds=[5, 7, 1234], minibatch_size=2, result_dir=results)
    assert [os.path.basename(path) for path in paths] == ['seed0005.png', 'seed0007.png', 'seed1234.png']
    expected = images_of(load(results, 0), [5, 7, 1234], np.zeros((3, 0)))
    for path, image in zip(paths, expected, strict=True):
        # The minibatch size may change the order of summation.
        np.testing.assert_allclose(pixels(path).astype(int), image, rtol=0, atol=1)
    assert len(generate_fake_images(tmp_path, 0, result_dir=results)) == 16


def test_batch_norm_of_images(tmp_path):
    """Images with batch norm equal those of the 2017 release in training mode; the network does not change."""
    arrays, meta = load_golden('nets_G_batchnorm')
    G = Network('G', **{**meta['spec'], 'func': 'networks.' + meta['spec']['func']})
    for index, var in enumerate(lasagne.layers.get_all_params(G.output_layers)):
        var.set_value(arrays[f'param_{index:03d}'])
    before = [var.get_value() for var in G.vars.values()]
    kinds = {'minibatch': arrays['out_nd_lod0.0_images'], 'running': arrays['out_det_lod0.0_images']}
    for batchnorm, images in kinds.items():
        made = np.stack(list(generate(G, arrays['in_latents'], [], 'x', batchnorm=batchnorm)))
        np.testing.assert_allclose(made, np.clip(images * 127.5 + 127.5, 0, 255), rtol=0, atol=0.51)   # Grey levels.
        alone = np.stack(list(generate(G, arrays['in_latents'], [], 'x', 1, batchnorm)))
        assert (abs(alone.astype(int) - made).max() > 8) == (batchnorm == 'minibatch')
    assert abs(kinds['minibatch'] - kinds['running']).max() > 0.1
    for var, value in zip(G.vars.values(), before, strict=True):
        np.testing.assert_array_equal(var.get_value(), value)
    (tmp_path / '000-run').mkdir()
    save_pkl((None, None, G), tmp_path / '000-run' / 'network-final.pkl')
    command = ['generate_fake_images', '0', '--result-dir', str(tmp_path), '--seeds', '0-2', '--engine', 'torch']
    assert util_scripts.main([*command, '--out', str(tmp_path / 'a')]) == 0
    assert util_scripts.main([*command, '--out', str(tmp_path / 'b'), '--batchnorm', 'running']) == 0
    assert not np.array_equal(*(pixels(tmp_path / folder / 'seed0000.png') for folder in 'ab'))


def test_images_of_classes(results, tmp_path):
    G = load(results, 3)
    paths = generate_fake_images(tmp_path, 3, seeds=[1, 2], classes=[2, 0], result_dir=results)
    assert [os.path.basename(path) for path in paths] == [
        'seed0001-class2.png', 'seed0002-class2.png', 'seed0001-class0.png', 'seed0002-class0.png']
    expected = images_of(G, [1, 2, 1, 2], np.eye(3)[[2, 2, 0, 0]])
    for path, image in zip(paths, expected, strict=True):
        np.testing.assert_allclose(pixels(path).astype(int), image, rtol=0, atol=1)
    paths = generate_fake_images(tmp_path, 3, seeds=[1, 2, 3, 4], result_dir=results)
    assert [path[-5] for path in paths] == ['0', '1', '2', '0']


def test_grids(results, tmp_path, capsys):
    """One row per class, more than one grid; rows without images are left out, other empty places white, and told."""
    paths = generate_fake_images(tmp_path, 3, seeds=[1, 2], classes=[0, 1, 2], grid_size=(2, 2),
                                 image_zoom=2, result_dir=results)
    assert [os.path.basename(path) for path in paths] == ['grid000.png', 'grid001.png']
    expected = images_of(load(results, 3), [1, 2] * 3, np.eye(3)[[0, 0, 1, 1, 2, 2]]).astype(int)
    for number in range(6):
        grid = pixels(paths[number // 4])
        y, x = number % 4 // 2 * 32, number % 2 * 32
        assert grid.shape == ((64, 64, 3) if number < 4 else (32, 64, 3))
        np.testing.assert_allclose(grid[y:y + 32:2, x + 1:x + 32:2].astype(int), expected[number], rtol=0, atol=1)
    out = capsys.readouterr().out
    assert f'Wrote {paths[0]}, 4 images of 16x16\n' in out
    assert f'Wrote {paths[1]}, 2 images of 16x16, 2 of 4 cells are empty\n' in out
    path, = generate_fake_images(tmp_path, 3, seeds=[1, 2, 3, 4], grid_size=(3, 2), image_zoom=1, result_dir=results)
    assert (pixels(path)[16:, 16:] == 255).all() and not (pixels(path)[16:, :16] == 255).all()


def test_grids_that_a_person_can_see(results, tmp_path, capsys):
    """Filled, and enlarged to about a thousand pixels; single images keep their size."""
    path, = generate_fake_images(tmp_path, 3, grid_size=(3, 2), result_dir=results)
    assert pixels(path).shape == (32 * 21, 48 * 21, 3)
    path, = generate_fake_images(tmp_path, 3, classes=[0, 2], grid_size=(4, 2), result_dir=results)
    expected = images_of(load(results, 3), [0, 1, 2, 3] * 2, np.eye(3)[[0] * 4 + [2] * 4]).astype(int)
    grid = pixels(path)[::16, ::16].astype(int).reshape(2, 16, 4, 16, 3).swapaxes(1, 2).reshape(8, 16, 16, 3)
    np.testing.assert_allclose(grid, expected, rtol=0, atol=1)
    path, = generate_fake_images(tmp_path, 0, seeds=[3], result_dir=results)
    assert pixels(path).shape == (16, 16, 3) and f'Wrote {path}\n' in capsys.readouterr().out


def test_classes_by_name(fresh_results, tmp_path, capsys):
    """Class names, stored in the run folder, select classes on the command line and label the rows of grids."""
    out = tmp_path / 'out'
    arguments = ['--result-dir', str(fresh_results), '--engine', 'torch', '--out', str(out), '--seeds', '1']
    assert util_scripts.main(['generate_fake_images', '3', '--classes', 'cat', *arguments]) == 1
    assert 'G stores no class names' in capsys.readouterr().err
    write_class_names(fresh_results / '003-classes', ['cat', 'dog', 'eel'])
    assert util_scripts.main(['generate_fake_images', '3', '--classes', 'dog,0', *arguments]) == 0
    assert sorted(os.listdir(out)) == ['seed0001-class0.png', 'seed0001-class1.png']
    assert util_scripts.main(['generate_fake_images', '3', '--classes', 'dgo', *arguments]) == 1
    assert "no class 'dgo'; G has 0 cat, 1 dog, 2 eel; did you mean 'dog'?" in capsys.readouterr().err
    grids = {}
    for titles in (True, False):
        path, = generate_fake_images(out, 3, seeds=[1, 2], classes=['eel', 'cat'], grid_size=(2, 2), titles=titles,
                                     image_zoom=1, result_dir=fresh_results)
        grids[titles] = pixels(path)
    assert grids[False].shape == (32, 32, 3) and grids[True].shape[0] == 32
    np.testing.assert_array_equal(grids[True][:, -32:], grids[False])
    left = grids[True][:, :-32]
    assert left[:16].min() < 100 and left[16:].min() < 100 and (left[:16] != left[16:]).any()
    path, = generate_fake_images(out, 3, grid_size=(3, 2), image_zoom=1, result_dir=fresh_results)
    assert pixels(path).shape == (32, 48, 3), 'rows of several classes have no name'


@pytest.mark.parametrize('run, kwargs, message', [
    (0, {'classes': [0]}, 'classes: G is unconditional'),
    (3, {'classes': [3]}, 'classes: there is no class 3; G has 0 to 2'),
    (3, {'classes': [-1]}, r'classes=\[-1\]: must be a list of one or more class numbers from 0'),
    (0, {'seeds': []}, r'seeds=\[\]'),
    (0, {'net': 'D'}, "net='D'"),
    (1, {}, 'run 1: no such run'),
    (0, {'snapshot': 5}, 'snapshot=5'),
])
def test_mistakes_are_named(results, tmp_path, run, kwargs, message):
    with pytest.raises(UserError, match=message):
        generate_fake_images(tmp_path, run, result_dir=results, **kwargs)


def test_a_pickle_without_a_generator(results, tmp_path):
    for content in ('text', Network('D', 'networks.D_paper', **SMALL)):
        save_pkl(content, tmp_path / 'x.pkl')
        with pytest.raises(UserError, match='holds no generator'):
            load_generator(tmp_path / 'x.pkl')
    save_pkl(Network('G', 'networks.G_paper', **SMALL), tmp_path / 'x.pkl')
    assert load_generator(tmp_path / 'x.pkl').name == 'G'


# ----------------------------------------------------------------------------------------------------------------------
# Videos.


def decode(path):
    """(frames, uint8 (N, H, W, 3); metadata of the file)."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta['size']
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]), meta


def test_latents_wander_smoothly_round_the_sphere():
    latents = smooth_latents(200, 3, 64, 5.0, np.random.RandomState(1))
    assert latents.shape == (200, 3, 64) and latents.dtype == np.float32
    np.testing.assert_allclose(np.mean(latents ** 2, axis=-1), 1, rtol=1e-5)        # Rounding.
    noise = np.random.RandomState(1).randn(200, 3, 64)
    blurred = scipy.ndimage.gaussian_filter(noise, [5, 0, 0], mode='wrap')
    np.testing.assert_allclose(latents, blurred / np.sqrt(np.mean(blurred ** 2, axis=-1, keepdims=True)), atol=1e-5)
    steps = np.sqrt(np.sum((latents - np.roll(latents, 1, axis=0)) ** 2, axis=-1))
    # The step from the last frame to the first is as small as all others. Independent latents are 11 apart.
    assert steps.max() < 2.5 and steps[0].max() < 2.5


def test_interpolation_video(results, tmp_path):
    path = generate_interpolation_video(tmp_path, 3, duration_seconds=1.5, fps=20, grid_size=(3, 1),
                                        smoothing_seconds=0.2, image_zoom=4, result_dir=results)
    frames, meta = decode(path)
    assert frames.shape == (30, 64, 192, 3)
    assert meta['codec'] == 'h264' and meta['fps'] == 20 and meta['duration'] == pytest.approx(1.5, abs=0.06)
    latents = smooth_latents(30, 3, 8, 4.0, np.random.RandomState(1000))
    G = load(results, 3)
    for index in (0, 11, 29):
        images = G.run(latents[index], np.eye(3), out_mul=127.5, out_add=127.5, out_dtype=np.uint8)
        expected = np.concatenate(list(images.repeat(4, 2).repeat(4, 3)), axis=2).transpose(1, 2, 0)
        # Tolerance for compression and colours at half the resolution.
        assert np.abs(frames[index].astype(int) - expected).mean() < 12
        others = np.abs(frames.astype(int) - expected).mean(axis=(1, 2, 3))
        assert np.argmin(others) == index
    assert sorted(os.listdir(tmp_path)) == ['interpolation.mp4']


def test_training_video(results, tmp_path):
    path = generate_training_video(tmp_path, 0, duration_seconds=0.9, hold_seconds=0.5, fps=10,
                                   result_dir=results)
    frames, _meta = decode(path)
    assert len(frames) == 14
    pictures = frames[:, :33, frames.shape[2] // 2]
    # Each picture fills a third of the time; the last one stays for half a second more.
    np.testing.assert_allclose(pictures.mean(axis=(1, 2)), [20] * 3 + [110] * 3 + [220] * 8, atol=4)
    captions = frames[[0, 3, 6], 33:].max(axis=3) > 128
    assert captions.any(axis=(1, 2)).all() and (captions[1] != captions[2]).any()

    path = generate_training_video(tmp_path, results / '000-plain', captions=False, duration_seconds=0.3,
                                   hold_seconds=0, fps=10, result_dir=results)
    frames, _meta = decode(path)
    # H.264 needs even sizes, so a black row and a black column are added.
    assert frames.shape == (3, 34, 48, 3) and frames[2, 33, :40].max() < 60 < frames[2, :32, :46].min()


def test_captions(results):
    stats = read_stats(results / '000-plain')
    assert [line['tick'] for line in stats] == [1, 2]       # Without the last line, which is incomplete.
    assert caption_of(0, stats) == 'kimg 0'
    assert caption_of(1, stats) == 'kimg 1   lod 1.50   time 1m 40s'
    assert caption_of(7, stats) == 'kimg 7   lod 1.00   time 3m 20s'
    assert caption_of(2, [{**stats[-1], 'resolution': 64}]) == 'kimg 2   64x64   lod 1.00   time 3m 20s'
    assert read_stats(results) == []


def test_videos_that_cannot_be_made(results, tmp_path, monkeypatch):
    with pytest.raises(UserError, match='less than one frame'):
        generate_interpolation_video(tmp_path, 0, duration_seconds=0.001, result_dir=results)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='has no pictures'):
        generate_training_video(tmp_path, tmp_path / 'empty')
    with pytest.raises(UserError, match='videos are .mp4 files'):
        with video_writer(str(tmp_path / 'x.avi'), 10):
            pass
    with pytest.raises(UserError, match='cannot be written'):
        with video_writer(str(tmp_path / 'nowhere' / 'x.mp4'), 10) as write:
            for _frame in range(3):
                write(Image.new('RGB', (64, 64)))
    with pytest.raises(KeyError):
        with video_writer(str(tmp_path / 'x.mp4'), 10) as write:
            write(Image.new('RGB', (64, 64)))
            raise KeyError
    assert os.listdir(tmp_path) == ['empty']
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
    with pytest.raises(UserError, match='pip install imageio-ffmpeg'):
        generate_training_video(tmp_path, 0, result_dir=results)


# ----------------------------------------------------------------------------------------------------------------------
# Projection.


@pytest.mark.slow
def test_the_latents_of_a_generated_image_are_found(results, tmp_path):
    G = load(results, 3)
    latents, label = np.random.RandomState(77).randn(1, 8), np.eye(3)[[1]]
    image = images_of(G, [77], label)[0]
    Image.fromarray(image).save(tmp_path / 'target.png')
    found, labels, distance = project_image(
        tmp_path, 3, str(tmp_path / 'target.png'), num_steps=150, num_starts=14, video=True, minibatch_size=8,
        result_dir=results)
    # The network normalizes its latents, so only directions count. Rounding to grey levels leaves some freedom.
    cosine = np.sum(found * latents) / np.linalg.norm(found) / np.linalg.norm(latents)
    assert cosine > 0.99 and distance < 1e-3
    np.testing.assert_array_equal(labels, label)
    assert abs(np.mean(found ** 2) - 1) < 0.3   # The length agrees with the prior.
    np.testing.assert_array_equal(np.load(tmp_path / 'projected-latents.npy'), found)
    np.testing.assert_array_equal(np.load(tmp_path / 'projected-labels.npy'), labels)
    picture = pixels(tmp_path / 'projected.png')
    assert picture.shape == (16, 32, 3)
    np.testing.assert_array_equal(picture[:, :16], image)
    assert np.abs(picture[:, 16:].astype(int) - image).mean() < 6
    frames, _meta = decode(tmp_path / 'projected.mp4')
    assert 1 < len(frames) <= 150 and frames.shape[1:] == (16, 32, 3)


def test_distance_counts_all_levels_of_the_pyramid_alike():
    a, b = (np.tanh(np.random.RandomState(num).randn(num, 3, 8, 8)).astype('f') for num in (2, 1))
    x = theano.tensor.ftensor4()
    distance = theano.function([x], pyramid_distance(x, b))(a)
    coarse = (a - b).reshape(2, 3, 4, 2, 4, 2).mean(axis=(3, 5))
    expected = (np.mean((a - b) ** 2, axis=(1, 2, 3)) + np.mean(coarse ** 2, axis=(1, 2, 3))) / 2
    np.testing.assert_allclose(distance, expected, rtol=1e-5)       # Order of summation.


def test_whiter_than_white_is_white():
    x = theano.tensor.ftensor4()
    target = np.float32([1, -1, 0.5, 1] * 4).reshape(1, 1, 4, 4)
    distance = theano.function([x], pyramid_distance(x, target))
    for image, expected in [([3, -2, 0.5, 1], 0),
                            ([1, -1, 0.5, 0], 1 / 4), ([1, 0, 0.5, 1], 1 / 4), ([1, -1, 2, 1], 9 / 16)]:
        assert distance(np.float32(image * 4).reshape(1, 1, 4, 4)) == pytest.approx(expected)


def test_target_images_are_cut_and_resized(results, tmp_path):
    G = load(results, 0)
    image = np.zeros((40, 64, 3), np.uint8)
    image[:, 12:52] = (255, 0, 51)
    Image.fromarray(image).save(tmp_path / 'wide.png')
    target = load_target(str(tmp_path / 'wide.png'), G)
    assert target.shape == (3, 16, 16) and target.dtype == np.float32
    np.testing.assert_allclose(target, np.float32([1, -1, -0.6]).reshape(3, 1, 1) + np.zeros((3, 16, 16)), atol=1e-6)
    (tmp_path / 'text.png').write_text('no image')
    for name, message in (('text.png', 'not in a supported image format'), ('none.png', 'No such file')):
        with pytest.raises(UserError, match=message):
            load_target(str(tmp_path / name), G)
    with pytest.raises(UserError, match='num_steps=0'):
        project_image(tmp_path, 0, 'x.png', num_steps=0, result_dir=results)


# ----------------------------------------------------------------------------------------------------------------------
# From config.py and the command line.


def run_dirs(folder):
    return sorted(name for name in os.listdir(folder) if name[0].isdecimal())


@pytest.fixture
def fresh_results(results, tmp_path):
    """A copy of the result folder with the two runs."""
    for name in run_dirs(results)[:2]:
        (tmp_path / name).symlink_to(results / name)
    return tmp_path


def test_from_config(fresh_results, capsys):
    arguments = ['--result-dir', str(fresh_results), '--engine', 'torch']
    for name, setting, files in (
            ('fake-images', 'train.grid_size=(2,2)', ['grid000.png']),
            ('interpolation-video', 'train.duration_seconds=0.1', ['interpolation.mp4']),
            ('training-video', 'train.fps=5', ['training.mp4']),
            ('projection', 'train.num_steps=2', ['projected-latents.npy', 'projected.png'])):
        overrides = ['--set', setting]
        if name == 'projection':
            overrides += ['--set', f'train.image={fresh_results / "000-plain" / "fakes000000.png"}']
        assert train.main(['--experiment', name, *arguments, *overrides]) == 0
        run_dir = fresh_results / run_dirs(fresh_results)[-1]
        assert run_dir.name[4:] == name
        assert sorted(os.listdir(run_dir)) == sorted([*files, 'config.txt', 'run.txt'])
    assert train.main(['--experiment', 'fake-images', '--set', 'train.seed=3', *arguments]) == 1
    assert "train.seed: no such option; did you mean 'seeds'" in capsys.readouterr().err
    assert train.main(['--experiment', 'fake-images', '--set', 'train.run=9', *arguments]) == 1
    assert 'run 9: no such run' in capsys.readouterr().err
    assert len(run_dirs(fresh_results)) == 6        # Runs that do not begin leave no folder.


def test_an_experiment_that_lacks_something():
    with pytest.raises(UserError, match='train.image: is missing'):
        experiment.run_utility({'train': {'func': 'util_scripts.project_image', 'run': 0}}, 'nowhere')
    with pytest.raises(UserError, match='without torchrun'):
        experiment.run_experiment(config.experiments['fake-images'], 'nowhere', 'nowhere',
                                  ranks=Ranks(0, 2, 0), train_gan=train.train_gan)


def test_command_line(fresh_results, capsys):
    arguments = ['--result-dir', str(fresh_results), '--engine', 'torch']
    assert util_scripts.main(['generate_fake_images', '003', '--seeds', '0-1,7', '--classes', '1', *arguments]) == 0
    run_dir = fresh_results / '004-generate-fake-images'
    assert sorted(os.listdir(run_dir)) == ['config.txt', 'run.txt', 'seed0000-class1.png', 'seed0001-class1.png',
                                           'seed0007-class1.png']
    # Files in an existing folder are kept.
    assert util_scripts.main(['generate_fake_images', str(fresh_results / '000-plain' / 'network-snapshot-000002.pkl'),
                              '--seeds', '3', '--out', str(run_dir), *arguments]) == 0
    assert 'seed0003.png' in os.listdir(run_dir) and len(os.listdir(run_dir)) == 6
    assert util_scripts.main(['generate_training_video', '0', '--no-captions', '--fps', '5', '--out',
                              str(fresh_results / 'new'), *arguments]) == 0
    assert os.listdir(fresh_results / 'new') == ['training.mp4']
    capsys.readouterr()
    assert util_scripts.main(['generate_fake_images', '7', *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith('util_scripts.py: error: run 7: no such run') and error.count('\n') == 1


@pytest.mark.parametrize('command', [function.__name__ for function in util_scripts.COMMANDS])
def test_help_has_examples_that_are_right(command, capsys):
    with pytest.raises(SystemExit) as stop:
        util_scripts.main([command, '--help'])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    examples = [line.split()[2:] for line in out.splitlines() if line.startswith('  python util_scripts.py ')]
    assert len(examples) >= 2
    for example in examples:
        assert util_scripts.parse_arguments(example, config)['command'] == command


@pytest.mark.parametrize('arguments', [['--seeds', '1,x'], ['--grid-size', '0x2'], ['--net', 'X']])
def test_arguments_that_make_no_sense(arguments, capsys):
    with pytest.raises(SystemExit):
        util_scripts.main(['generate_fake_images', '0', *arguments])
    assert arguments[0] in capsys.readouterr().err


def test_a_network_of_nan_is_an_error_that_names_the_file(tmp_path):
    theano_env.configure('torch', {'device': 'cpu'})
    Gs = Network('Gs', func='networks.G_paper', num_channels=1, resolution=8, fmap_base=8, fmap_max=2, latent_size=2)
    name = next(name for name in Gs.trainables if name.endswith('.W'))
    for value in (np.nan, np.inf):
        Gs.set_var(name, np.full_like(Gs.get_var(name), value))
        path = tmp_path / 'network-snapshot-000004.pkl'
        save_pkl((None, None, Gs), path)
        with pytest.raises(UserError, match=r'network-snapshot-000004\.pkl: this network makes images of NaN'):
            util_scripts.generate_fake_images(str(tmp_path), str(path), seeds=[1])
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
