"""evaluate_metrics: metrics over the snapshots of a run folder, resumable."""

import json
import pprint

import h5py
import numpy as np
import pytest

import config
import dataset_tool
import evaluate_metrics
import metrics
import theano_env
import train
from common.errors import UserError
from common.files import save_pkl
from data.hdf5_writer import HDF5Writer
from metrics import classifier, evaluation
from nets.network import Network
from nets.pickles import load_pkl
from runs.records import read_config
from training import experiment
from training.options import check_options, resolve_config

pytestmark = pytest.mark.usefixtures('restore_theano_config')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Digits at 16x16, and a labelled-less RGB set at 32x32."""
    folder = tmp_path_factory.mktemp('data')
    dataset_tool.create_digits(str(folder / 'digits-16x16.h5'), resolution=16)
    images = np.random.RandomState(0).randint(256, size=(8, 3, 32, 32)).astype(np.uint8)
    with HDF5Writer(str(folder / 'rgb-32x32.h5'), 32, 3) as writer:
        writer.add_images(images)
    return folder


def make_run(folder, dataset, channels, resolution, label_size=0, snapshots=('snapshot-000002', 'final')):
    """A run folder as train.py leaves it, with generators that were never trained."""
    theano_env.configure('torch', {'device': 'cpu'})
    folder.mkdir()
    config = {'desc': 'test', 'dataset': dataset, 'G': {}, 'D': {}, 'train': {'total_kimg': 4}}
    (folder / 'config.txt').write_text(pprint.pformat(config) + '\n')
    ticks = [{'kimg': kimg, 'seconds': 10 * kimg} for kimg in (1.0, 2.016, 3.5)]
    (folder / 'stats.jsonl').write_text(''.join(json.dumps(tick) + '\n' for tick in ticks))
    for index, name in enumerate(snapshots):
        np.random.seed(index)
        Gs = Network('Gs', func='networks.G_paper', num_channels=channels, resolution=resolution,
                     label_size=label_size, fmap_base=64, fmap_max=8, latent_size=8)
        save_pkl((None, None, Gs), folder / f'network-{name}.pkl')
    return folder


@pytest.fixture
def digits_run(tmp_path):
    dataset = {'h5_path': 'digits-16x16.h5', 'resolution': 16, 'max_labels': 'all', 'mirror_augment': True}
    return make_run(tmp_path / '000-test', dataset, 1, 16, label_size=10)


def evaluate_run(run_dir, names, data_dir, cache_dir, **kwargs):
    """The results of a run whose data set is in `data_dir`."""
    return evaluation.evaluate_run(
        str(run_dir), names, lambda: experiment.open_dataset(read_config(run_dir), str(data_dir)), str(cache_dir),
        only_final=True, **kwargs)


def run_main(capsys, *argv):
    status = evaluate_metrics.main([*map(str, argv), '--engine', 'torch'])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def read_results(run_dir):
    return [json.loads(line) for line in (run_dir / 'metrics.jsonl').read_text().splitlines()]


def test_all_snapshots_are_evaluated_once(digits_run, data_dir, tmp_path, capsys, monkeypatch):
    options = [digits_run, '--data-dir', data_dir, '--cache-dir', tmp_path / 'cache', '--num-images', '20']
    status, out, _err = run_main(capsys, *options, '--metrics', 'swd')
    assert status == 0 and out.count('swd ') == 2
    results = read_results(digits_run)
    assert [(entry['snapshot'], entry['kimg'], entry['seconds'], entry['num_images']) for entry in results] == [
        ('network-snapshot-000002', 2.016, 20.16, 20), ('network-final', 3.5, 35.0, 20)]
    assert list(results[0]['values']) == ['SWDx1e3_16', 'SWDx1e3_avg']
    assert results[0]['values'] != results[1]['values']
    lines = (digits_run / 'metric-swd.txt').read_text().splitlines()
    assert [line.split()[:3] for line in lines] == [['network-snapshot-000002', 'kimg', '2.0'],
                                                    ['network-final', 'kimg', '3.5']]
    assert f'SWDx1e3_16 {results[0]["values"]["SWDx1e3_16"]:.4f}' in lines[0]

    # What is there is kept; a new metric is computed for all snapshots, a new snapshot by all metrics.
    fed = []
    feed_fakes = evaluation.feed_fakes
    monkeypatch.setattr(evaluation, 'feed_fakes', lambda wanted, *args: (
        fed.append((sorted(wanted), args[-1])), feed_fakes(wanted, *args))[1])
    assert run_main(capsys, *options, '--metrics', 'swd')[0] == 0
    assert fed == [] and read_results(digits_run) == results
    assert run_main(capsys, *options, '--metrics', 'swd', 'ms_ssim')[0] == 0
    assert fed == [(['ms_ssim'], 'network-snapshot-000002'), (['ms_ssim'], 'network-final')]
    (digits_run / 'network-snapshot-000001.pkl').write_bytes((digits_run / 'network-final.pkl').read_bytes())
    assert run_main(capsys, *options, '--metrics', 'swd', 'ms_ssim')[0] == 0
    assert fed[2:] == [(['ms_ssim', 'swd'], 'network-snapshot-000001')]
    by_name = {(entry['snapshot'], entry['metric']): entry['values'] for entry in read_results(digits_run)}
    assert len(by_name) == 6
    # The same generator gets the same values whatever was evaluated before it, with reals from the cache.
    for metric in ('swd', 'ms_ssim'):
        assert by_name['network-snapshot-000001', metric] == by_name['network-final', metric]


def test_reals_are_read_once_per_dataset(digits_run, data_dir, tmp_path, monkeypatch):
    fed = []
    feed_reals = evaluation.feed_reals
    monkeypatch.setattr(evaluation, 'feed_reals', lambda metric, dataset, *args: (
        fed.append(args), feed_reals(metric, dataset, *args))[1])

    def evaluate(name, **kwargs):
        return evaluate_run(digits_run, [name], data_dir, tmp_path / 'cache', **kwargs)[-1]['values']

    first = evaluate('swd', num_images=20)
    (digits_run / 'metrics.jsonl').unlink()
    assert evaluate('swd', num_images=20) == first
    assert fed == [(20, 1000)]
    evaluate('swd', num_images=22)
    evaluate('swd', num_images=22, random_seed=1)
    assert fed == [(20, 1000), (22, 1000), (22, 1)]


class Recorder:
    """A metric that keeps what it is fed."""

    def begin(self, mode):
        self.images = []

    def feed(self, mode, images):
        self.images.append(images)

    def end(self, mode):
        return [float(len(np.concatenate(self.images)))]

    def names(self):
        return ['count']


def test_reals_are_shown_before_any_is_shown_twice_and_mirrored_like_the_training(data_dir):
    class Few:
        num_images, mirror_augment = 8, False

        def get_images(self, indices):
            with h5py.File(data_dir / 'rgb-32x32.h5') as h5:
                return h5['data32x32'][:][indices], None

    images, _labels = Few().get_images(np.arange(8))
    metric = Recorder()
    evaluation.feed_reals(metric, Few(), 20, 0)
    fed = np.concatenate(metric.images)
    assert len(fed) == 20
    order = [int(np.flatnonzero((images == image).all(axis=(1, 2, 3)))[0]) for image in fed]
    assert sorted(order[:8]) == sorted(order[8:16]) == list(range(8)) and len(set(order[16:])) == 4
    Few.mirror_augment = True
    evaluation.feed_reals(metric, Few(), 20, 0)
    mirrored = [not (image == images[index]).all() for image, index in zip(np.concatenate(metric.images), order,
                                                                          strict=True)]
    assert 3 < sum(mirrored) < 17
    for image, index, flip in zip(np.concatenate(metric.images), order, mirrored, strict=True):
        np.testing.assert_array_equal(image[:, :, ::-1] if flip else image, images[index])


def test_each_metric_gets_its_own_number_of_the_same_images(digits_run, data_dir):
    Gs = load_pkl(digits_run / 'network-final.pkl')[2]
    wanted = {'few': (Recorder(), 10), 'many': (Recorder(), 300)}

    class Labels:
        labels = np.eye(10, dtype=np.float32)

    assert evaluation.feed_fakes(wanted, Gs, Labels, 64, 7, 'x') == {'few': {'count': 10.0}, 'many': {'count': 300.0}}
    few, many = (np.concatenate(wanted[name][0].images) for name in ('few', 'many'))
    np.testing.assert_array_equal(few, many[:10])
    assert many.shape == (300, 1, 16, 16) and many.dtype == np.uint8 and len(np.unique(many, axis=0)) > 250


def test_inception_metrics(digits_run, data_dir, tmp_path, monkeypatch):
    class Features:
        def __init__(self, weights_path):
            assert weights_path == 'given.pth'

        def __call__(self, images):
            vectors = images.reshape(len(images), -1)[:, ::32].astype(np.float32)
            exponentials = np.exp(vectors / 255)
            return vectors, exponentials / exponentials.sum(axis=1, keepdims=True)

    monkeypatch.setattr('metrics.inception.InceptionFeatures', Features)
    results = evaluate_run(digits_run, ['fid', 'inception_score'], data_dir, tmp_path, num_images=40,
                           inception_weights='given.pth')
    assert [list(entry['values']) for entry in results] == [['FID'], ['IS_mean', 'IS_std']]
    assert results[0]['values']['FID'] > 0 and results[1]['values']['IS_mean'] > 1


def test_modes_with_a_classifier(tmp_path, data_dir):
    run_dir = make_run(tmp_path / '001-rgb', {'h5_path': 'rgb-32x32.h5', 'resolution': 32}, 3, 32)
    network = Network('c', func='networks.mnist_classifier', num_channels=1, resolution=32, label_size=10)
    classifier.save_classifier(network, tmp_path / 'classifier.npz')
    results = evaluate_run(run_dir, ['mnist_modes'], data_dir, tmp_path, num_images=12,
                           classifier=str(tmp_path / 'classifier.npz'))
    values = results[0]['values']
    assert 1 <= values['modes_mean'] <= 12 and 0 < values['KL_mean'] <= np.log(1000)


@pytest.mark.parametrize('argv, message', [
    (['--metrics', 'swt'], "there is no 'swt'; did you mean 'swd'?"),
    (['--metrics', 'ms_ssim', '--num-images', '21'], 'num_images=21: ms_ssim compares pairs'),
    (['--num-images', '0'], '--num-images 0: must be at least 2'),
    (['--minibatch', '0'], '--minibatch 0: must be a whole number from 1'),
    (['--metrics', 'mnist_modes'], 'has 1 colour channels; needs 3'),
    (['--num-images', '4', '--spill-dir', 'nowhere'], "spill_dir='nowhere': no file can be made there"),
    (['--num-images', '4', '--cache-dir', __file__], 'choose another folder with --cache-dir'),
    (['--metrics', 'fid', '--inception-weights', 'nowhere.pth'], 'inception weights nowhere.pth: no such file'),
])
def test_a_mistake_is_one_line_and_exit_status_1(argv, message, digits_run, data_dir, capsys):
    status, _out, err = run_main(capsys, digits_run, '--data-dir', data_dir, *argv)
    err = err.rpartition('\r')[2]     # A progress bar was there.
    assert status == 1 and message in err and err.startswith('evaluate_metrics.py: error: ') and err.count('\n') == 1
    assert not (digits_run / 'metrics.jsonl').exists()


def test_folders_that_are_no_runs(digits_run, tmp_path, capsys):
    assert 'no config.txt in there' in run_main(capsys, tmp_path)[2]
    for snapshot in digits_run.glob('*.pkl'):
        snapshot.unlink()
    assert 'no network-snapshot-*.pkl or network-final.pkl in there' in run_main(capsys, digits_run)[2]
    (digits_run / 'config.txt').write_text('__import__("os")')
    assert 'is not the configuration of a run' in run_main(capsys, digits_run)[2]


def test_every_metric_of_the_table_can_be_imported():
    for name, entry in metrics.METRICS.items():
        module_name, _, class_name = entry.class_path.rpartition('.')
        metric_class = getattr(__import__(module_name, fromlist=[class_name]), class_name)
        assert all(callable(getattr(metric_class, call)) for call in ('begin', 'feed', 'end', 'names')), name
        assert ('reals' in entry.needs) == hasattr(metric_class, 'set_reals'), name


@pytest.mark.slow
def test_an_experiment_names_metrics_of_its_final_networks(tmp_path, monkeypatch):
    monkeypatch.setitem(metrics.METRICS, 'swd', metrics.METRICS['swd']._replace(num_images=16))
    chosen = resolve_config(config, 'digits', [
        "metrics=['swd']", 'train.total_kimg=0.05', 'G.fmap_max=4', 'D.fmap_max=4', 'train.image_grid_size=(2, 2)',
        'train.image_grid_type=default', 'train.show_progress=False'])
    run_dir = experiment.run_experiment(chosen, str(tmp_path / 'data'), str(tmp_path / 'results'), 'torch',
                                        train_gan=train.train_gan)
    document, = [json.loads(line) for line in open(run_dir + '/metrics.jsonl', encoding='utf-8')]
    assert (document['metric'], document['snapshot'], document['num_images']) == ('swd', 'network-final', 16)
    assert all(value > 0 for value in document['values'].values())
    with pytest.raises(UserError, match="did you mean 'swd'"):
        check_options({**chosen, 'metrics': ['swdd']}, train.train_gan)
