"""evaluate_metrics: metrics over the snapshots of a run folder, resumable."""

import json
import os
import pprint
import subprocess
import sys

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
from tests.helpers import ROOT
from training import experiment
from training.options import check_options, resolve_config

pytestmark = pytest.mark.usefixtures('restore_theano_config')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Digits at 16x16, and an RGB set without labels at 32x32."""
    folder = tmp_path_factory.mktemp('data')
    dataset_tool.create_digits(str(folder / 'digits-16x16.h5'), resolution=16)
    images = np.random.RandomState(0).randint(256, size=(8, 3, 32, 32)).astype(np.uint8)
    with HDF5Writer(str(folder / 'rgb-32x32.h5'), 32, 3) as writer:
        writer.add_images(images)
    return folder


def make_run(folder, dataset, channels, resolution, label_size=0, snapshots=('snapshot-000002', 'final')):
    """A run folder like those of train.py, with untrained generators."""
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
    """The results of a run whose dataset is in `data_dir`."""
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

    # Existing results are kept. A new metric covers all snapshots, and a new snapshot gets all metrics.
    fed = []
    feed_fakes = evaluation.feed_fakes
    monkeypatch.setattr(evaluation, 'feed_fakes', lambda wanted, *args: (
        fed.append((sorted(wanted), args[4])), feed_fakes(wanted, *args))[1])
    assert run_main(capsys, *options, '--metrics', 'swd')[0] == 0
    assert fed == [] and read_results(digits_run) == results
    assert run_main(capsys, *options, '--metrics', 'swd', 'ms_ssim')[0] == 0
    assert fed == [(['ms_ssim'], 'network-snapshot-000002'), (['ms_ssim'], 'network-final')]
    (digits_run / 'network-snapshot-000001.pkl').write_bytes((digits_run / 'network-final.pkl').read_bytes())
    assert run_main(capsys, *options, '--metrics', 'swd', 'ms_ssim')[0] == 0
    assert fed[2:] == [(['ms_ssim', 'swd'], 'network-snapshot-000001')]
    by_name = {(entry['snapshot'], entry['metric']): entry['values'] for entry in read_results(digits_run)}
    assert len(by_name) == 6
    # The values of a generator do not depend on earlier evaluations or on the cache of reals.
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
    """A metric that records the images that it is fed."""

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
    names = ['fid', 'inception_score', 'kid', 'precision_recall']
    results = evaluate_run(digits_run, names, data_dir, tmp_path, num_images=40, inception_weights='given.pth')
    assert [list(entry['values']) for entry in results] == [
        ['FID'], ['IS_mean', 'IS_std'], ['KIDx1e3_mean', 'KIDx1e3_std'], ['precision', 'recall', 'f_score']]
    fid, score, kid, precision_recall = [entry['values'] for entry in results]
    assert fid['FID'] > 0 and score['IS_mean'] > 1 and kid['KIDx1e3_mean'] > 0
    assert 0 <= precision_recall['precision'] < 1 and 0 <= precision_recall['recall'] <= 1
    assert [entry['better'] for entry in results[:2]] == [{'FID': 'lower'}, {'IS_mean': 'higher'}]


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
    (['--num-images', '4', '--spill-dir', 'nowhere'], "spill_dir='nowhere': cannot make a file in it"),
    (['--num-images', '4', '--cache-dir', __file__], 'choose another folder with --cache-dir'),
    (['--metrics', 'fid', '--inception-weights', 'nowhere.pth'], 'inception weights nowhere.pth: no such file'),
])
def test_a_mistake_is_one_line_and_exit_status_1(argv, message, digits_run, data_dir, capsys):
    status, _out, err = run_main(capsys, digits_run, '--data-dir', data_dir, *argv)
    err = err.rpartition('\r')[2]     # Without the progress bar.
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


# ----------------------------------------------------------------------------------------------------------------------
# Results that are not computed again.


def counting(monkeypatch):
    """A list to which each further evaluation adds (metrics, snapshot)."""
    fed = []
    feed_fakes = evaluation.feed_fakes
    monkeypatch.setattr(evaluation, 'feed_fakes', lambda wanted, *args: (
        fed.append((sorted(wanted), args[4])), feed_fakes(wanted, *args))[1])
    return fed


def test_a_longer_run_is_evaluated_again(digits_run, data_dir, tmp_path, monkeypatch):
    first, = evaluate_run(digits_run, ['ms_ssim'], data_dir, tmp_path, num_images=8)
    (digits_run / 'network-final.pkl').write_bytes((digits_run / 'network-snapshot-000002.pkl').read_bytes())
    fed = counting(monkeypatch)
    second, = evaluate_run(digits_run, ['ms_ssim'], data_dir, tmp_path, num_images=8)
    assert len(fed) == 1 and second['values'] != first['values'] and read_results(digits_run) == [second]
    assert evaluate_run(digits_run, ['ms_ssim'], data_dir, tmp_path, num_images=8) == [second] and len(fed) == 1


def test_results_of_batch_norm_depend_on_the_minibatch(digits_run, data_dir, tmp_path, monkeypatch):
    """Results of generators without batch norm are kept when the minibatch changes."""
    def evaluate(**kwargs):
        return evaluate_run(digits_run, ['ms_ssim'], data_dir, tmp_path, num_images=8, **kwargs)[-1]

    fed = counting(monkeypatch)
    plain = evaluate()
    assert 'batchnorm_minibatch' not in plain
    assert evaluate(batchnorm='running') == evaluate(minibatch_size=4) == plain and len(fed) == 1
    Gs = Network('Gs', func='networks.G_paper', num_channels=1, resolution=16, label_size=10, fmap_base=64, fmap_max=8,
                 latent_size=8, use_batchnorm=True)
    save_pkl((None, None, Gs), digits_run / 'network-final.pkl')
    results = [evaluate(), evaluate(minibatch_size=4), evaluate(batchnorm='running')]
    assert [entry.get('batchnorm_minibatch') for entry in results] == [64, 4, None] and len(fed) == 4
    assert len({json.dumps(entry['values']) for entry in results}) == 3
    assert [evaluate(), evaluate(minibatch_size=4), evaluate(batchnorm='running')] == results and len(fed) == 4


def test_lines_of_earlier_versions_are_read_but_do_not_count_as_done(digits_run, data_dir, tmp_path):
    new, = evaluate_run(digits_run, ['ms_ssim'], data_dir, tmp_path, num_images=8)
    old = {key: value for key, value in new.items() if key not in ('network', 'data', 'weights')}
    other = {**old, 'snapshot': 'network-snapshot-000077'}
    (digits_run / 'metrics.jsonl').write_text(json.dumps({**old, 'values': {'MS-SSIM': 7}}) + '\n' + json.dumps(other))
    kept, again = evaluate_run(digits_run, ['ms_ssim'], data_dir, tmp_path, num_images=8)
    assert kept == other and again['values'] == new['values']


def test_other_reals_are_noticed_even_with_the_same_date(tmp_path, monkeypatch):
    images = np.random.RandomState(0).randint(256, size=(24, 1, 16, 16)).astype(np.uint8)
    labels = np.eye(3, dtype=np.float32)[np.arange(24) % 3]
    path = tmp_path / 'set.h5'

    def write(images):
        with HDF5Writer(str(path), 16, 1, labels, force=True) as writer:
            writer.add_images(images)
        os.utime(path, (1000, 1000))

    run_dir = make_run(tmp_path / '000-run', {'h5_path': 'set.h5', 'classes': [1], 'max_labels': 0}, 1, 16)
    fed, cache = counting(monkeypatch), tmp_path / 'cache'

    def evaluate(run_dir=run_dir):
        return evaluate_run(run_dir, ['swd'], tmp_path, cache, num_images=4)[-1]['values']

    write(images)
    first = evaluate()
    assert evaluate() == first and len(fed) == 1 and len(list(cache.iterdir())) == 1
    write(255 - images)
    assert evaluate() != first and len(fed) == 2 and len(list(cache.iterdir())) == 2
    # Both results are kept; the requested one is last.
    write(images)
    assert evaluate() == first and len(fed) == 2 and len(read_results(run_dir)) == 2
    # Other classes are other reals; another path is not.
    config_text = (run_dir / 'config.txt').read_text()
    (run_dir / 'config.txt').write_text(config_text.replace('[1]', '[2]'))
    assert evaluate() != first and len(fed) == 3 and len(list(cache.iterdir())) == 3
    for suffix in ('.h5', '-labels.npy'):
        os.rename(tmp_path / f'set{suffix}', tmp_path / f'moved{suffix}')
    (run_dir / 'config.txt').write_text(config_text.replace('set.h5', 'moved.h5'))
    assert evaluate() == first and len(fed) == 3 and len(list(cache.iterdir())) == 3
    # Damaged statistics are computed again.
    for statistics in cache.iterdir():
        statistics.write_bytes(b'PK' + statistics.read_bytes()[:100])
    (run_dir / 'metrics.jsonl').unlink()
    assert evaluate() == first


def test_another_classifier_is_noticed(tmp_path, data_dir, monkeypatch):
    run_dir = make_run(tmp_path / '001-rgb', {'h5_path': 'rgb-32x32.h5', 'resolution': 32}, 3, 32, snapshots=['final'])
    weights, fed = tmp_path / 'classifier.npz', counting(monkeypatch)
    for seed, evaluations in ((0, 1), (0, 1), (1, 2), (0, 2)):
        np.random.seed(seed)
        classifier.save_classifier(Network('c', func='networks.mnist_classifier', num_channels=1, resolution=32,
                                           label_size=10), weights)
        results = evaluate_run(run_dir, ['mnist_modes'], data_dir, tmp_path, num_images=12, classifier=str(weights))
        assert len(fed) == len(results) == evaluations
    assert results[0]['weights'] != results[1]['weights']


def test_other_inception_weights_are_noticed_and_have_their_own_reals(digits_run, data_dir, tmp_path, monkeypatch):
    class Features:
        def __init__(self, weights_path):
            self.factor = len(open(weights_path).read())

        def __call__(self, images):
            return images.reshape(len(images), -1)[:, ::32].astype(np.float32) * self.factor, None

    monkeypatch.setattr('metrics.inception.InceptionFeatures', Features)
    weights, fed = tmp_path / 'weights.pth', counting(monkeypatch)
    values = []
    for text in ('a', 'a', 'aa'):
        weights.write_text(text)
        values.append(evaluate_run(digits_run, ['fid'], data_dir, tmp_path / 'cache', num_images=20,
                                   inception_weights=weights)[-1]['values']['FID'])
    assert len(fed) == 2 and values[0] == values[1] and values[2] == pytest.approx(4 * values[0])
    assert len(list((tmp_path / 'cache').iterdir())) == 2


def test_a_repeated_call_prints_the_table(digits_run, data_dir, tmp_path, capsys):
    options = [digits_run, '--data-dir', data_dir, '--num-images', '8', '--metrics', 'ms_ssim']
    tables = [run_main(capsys, *options)[1].partition('ms_ssim:\n')[2] for _call in range(2)]
    assert tables[0] == tables[1] == (digits_run / 'metric-ms_ssim.txt').read_text() and tables[0].count('\n') == 2


def test_evaluations_at_once_lose_nothing(digits_run, data_dir, tmp_path):
    options = [str(digits_run), '--data-dir', str(data_dir), '--cache-dir', str(tmp_path), '--engine', 'torch',
               '--num-images', '20', '--only-final', '--metrics']
    both = [subprocess.Popen([sys.executable, 'evaluate_metrics.py', *options, name], cwd=ROOT,
                             stdout=subprocess.DEVNULL) for name in ('swd', 'ms_ssim')]
    assert [process.wait(200) for process in both] == [0, 0]
    assert sorted(entry['metric'] for entry in read_results(digits_run)) == ['ms_ssim', 'swd']


# ----------------------------------------------------------------------------------------------------------------------
# NaN and infinity.


def test_results_that_are_not_finite_are_reported_and_not_kept(digits_run, data_dir, tmp_path, monkeypatch, capsys):
    end = metrics.make_metric('ms_ssim').end
    monkeypatch.setattr('metrics.ms_ssim.MultiScaleSSIM.end', lambda self, mode: [float('nan')])
    options = [digits_run, '--data-dir', data_dir, '--num-images', '8', '--metrics', 'ms_ssim', '--only-final']
    status, _out, err = run_main(capsys, *options)
    assert status == 1 and 'error: ms_ssim of network-final is not finite and not stored: MS-SSIM nan' in err
    assert not (digits_run / 'metrics.jsonl').exists()
    monkeypatch.undo()
    assert end and run_main(capsys, *options)[0] == 0 and len(read_results(digits_run)) == 1


def test_a_network_of_nan_is_an_error_and_the_others_are_evaluated(digits_run, data_dir, capsys):
    path = digits_run / 'network-snapshot-000002.pkl'
    Gs = load_pkl(str(path))[2]
    name = next(name for name in Gs.trainables if name.endswith('.W'))
    Gs.set_var(name, np.full_like(Gs.get_var(name), np.nan))
    save_pkl((None, None, Gs), path)
    status, _out, err = run_main(capsys, digits_run, '--data-dir', data_dir, '--num-images', '8', '--metrics',
                                 'ms_ssim')
    assert status == 1 and f'{digits_run}/network-snapshot-000002: this network makes images of NaN' in err
    assert [entry['snapshot'] for entry in read_results(digits_run)] == ['network-final']


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


def test_runs_go_by_number_or_name_and_snapshots_by_kimg(digits_run, data_dir, tmp_path, capsys):
    common = ['--result-dir', tmp_path, '--data-dir', data_dir, '--num-images', '4', '--metrics', 'ms_ssim']
    images = tmp_path / '001-images'
    images.mkdir()
    (images / 'config.txt').write_text("{'train': {'func': 'util_scripts.generate_fake_images'}}")
    for run, snapshot, evaluated in [('0', '2', 'snapshot-000002'), ('latest', 'latest', 'final')]:
        assert run_main(capsys, run, '--snapshot', snapshot, *common)[0] == 0
        assert read_results(digits_run)[-1]['snapshot'] == f'network-{evaluated}'
    assert len(read_results(digits_run)) == 2
    for run, arguments, message in [('3', (), 'run 3: no such run in'), ('0', ('--snapshot', '5'), 'snapshot=5: '),
                                    ('1', (), 'is not the configuration of a run')]:
        status, _out, err = run_main(capsys, run, *arguments, *common)
        assert status == 1 and message in err and err.count('\n') == 1


def test_the_data_set_and_the_functions_of_a_run(digits_run, data_dir, tmp_path, capsys, monkeypatch):
    """The recorded path of the dataset is used; functions that only the run folder names are not imported."""
    run = read_config(digits_run)
    monkeypatch.chdir(tmp_path)
    arguments = [digits_run, '--num-images', '4', '--metrics', 'ms_ssim', '--cache-dir', tmp_path, '--snapshot', '2']
    assert 'digits-16x16.h5' in run_main(capsys, *arguments)[2]
    (digits_run / 'config.txt').write_text(repr({**run, 'create_dataset': {'func': 'os.system'}}))
    assert "create_dataset.func='os.system' is not a function of this program" in run_main(capsys, *arguments)[2]
    (digits_run / 'config.txt').write_text(repr({**run, 'run': {'data_dir': str(data_dir)}}))
    assert run_main(capsys, *arguments)[0] == 0
