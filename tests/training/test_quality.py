"""Metrics during training: they are reported everywhere, mark the best networks, and do not affect the training."""

import json
import pathlib

import lasagne
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import config
import metrics
import theano_env
import train
from common.errors import UserError
from data.dataset import Dataset
from metrics import evaluation, identity
from nets.network import Network
from nets.pickles import load_pkl
from nets.ranks import SINGLE
from runs import states
from runs.page import write_report
from runs.records import best_snapshot, read_results, read_stats
from training import experiment, quality
from training.event_file import EventFile
from training.options import resolve_config
from training.snapshots import SnapshotWriter

pytestmark = pytest.mark.usefixtures('restore_theano_config')

OPTIONS = {
    'dataset.mirror_augment': True, 'G.fmap_max': 4, 'D.fmap_max': 4, 'D.use_gdrop': True, 'G.latent_size': 8,
    'train.lod_initial_resolution': 8, 'train.minibatch_default': 4, 'train.lod_training_kimg': 0.0,
    'train.lod_transition_kimg': 0.04, 'train.total_kimg': 0.08, 'train.tick_kimg_default': 0.02,
    'train.tick_kimg_overrides': {}, 'train.image_snapshot_ticks': 2, 'train.network_snapshot_ticks': 100,
    'train.image_grid_size': (2, 2), 'train.image_grid_type': 'default', 'train.show_progress': False, 'metrics': [],
    'train.metric_num_images': 8, 'train.metric_ticks': 1}
data_dir = None


@pytest.fixture(scope='module', autouse=True)
def digits(tmp_path_factory):
    global data_dir
    data_dir = str(tmp_path_factory.mktemp('data'))


def trained(folder, **options):
    """(folder of a run, state of the random generators at its end)."""
    chosen = resolve_config(config, 'digits', [f'{name}={value}' for name, value in {
        **OPTIONS, **{f'train.{name}': value for name, value in options.items()}}.items()])
    run_dir = experiment.run_experiment(chosen, data_dir, str(folder), 'torch', {'device': 'cpu'},
                                        train_gan=train.train_gan)
    return pathlib.Path(run_dir), np.random.get_state()


def weights(run_dir):
    return [var.get_value() for net in load_pkl(str(run_dir / 'network-final.pkl')) for var in net.vars.values()]


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """A training without metrics."""
    import theano
    before = theano.config.mode
    yield trained(tmp_path_factory.mktemp('plain'))
    theano.config.mode = before


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """The same training with metrics."""
    import theano
    before = theano.config.mode
    yield trained(tmp_path_factory.mktemp('measured'), metrics=['swd', 'ms_ssim'])
    theano.config.mode = before


def check_same(one, other):
    for first, second in zip(weights(one[0]), weights(other[0]), strict=True):
        np.testing.assert_array_equal(first, second)
    for first, second in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(first, second)
    names = ('kimg', 'lod', 'Gloss', 'Dloss', 'Dreal', 'Dfake', 'Dgdrop')
    assert [[line[name] for name in names] for line in read_stats(str(one[0]))] == [
        [line[name] for name in names] for line in read_stats(str(other[0]))]


def test_a_training_with_metrics_is_the_training_without_bit_for_bit(plain, measured):
    check_same(plain, measured)


def test_values_are_in_stats_events_and_report(measured):
    run_dir = measured[0]
    stats, entries = read_stats(str(run_dir)), read_results(run_dir)
    assert len(stats) == 4 and all(line['SWDx1e3_avg'] > 0 and 0 <= line['MS-SSIM'] <= 1 for line in stats)
    assert [(entry['kimg'], entry['values']['MS-SSIM']) for entry in entries if entry['metric'] == 'ms_ssim'][-1] == (
        stats[-1]['kimg'], stats[-1]['MS-SSIM'])
    assert entries[-1]['snapshot'] == 'network-final' and all(entry['training'] for entry in entries)
    events = EventAccumulator(str(run_dir)).Reload()
    assert [event.step for event in events.Scalars('Metrics/swd')] == [round(1000 * line['kimg']) for line in stats]
    page = pathlib.Path(write_report(str(run_dir))).read_text()
    assert 'swd, 8 images' in page and page.count('(best)') == 1 and 'MS-SSIM' in page
    assert 'best so far' in (run_dir / 'log.txt').read_text()


def test_results_of_a_training_count_for_evaluate_run(measured, tmp_path, monkeypatch):
    run_dir = measured[0]
    before = [entry for entry in read_results(run_dir) if entry['snapshot'] == 'network-final']
    monkeypatch.setattr(evaluation, 'feed_fakes', None)
    chosen = {'dataset': {'h5_path': 'digits-16x16.h5', 'resolution': 16, 'mirror_augment': True}}
    for _call in range(2):
        results = evaluation.evaluate_run(
            run_dir, ['swd', 'ms_ssim'], lambda: experiment.open_dataset(chosen, data_dir), tmp_path, num_images=8,
            only_final=True)
        after = [entry for entry in results if entry['snapshot'] == 'network-final']
        assert [entry['values'] for entry in after] == [entry['values'] for entry in before]


# ----------------------------------------------------------------------------------------------------------------------
# A metric with given values.


class Scripted:
    """Returns the values of a list one by one, and draws from all random generators."""

    values: list = []
    decides = 'score'
    better = {'score': 'lower'}
    dataset = None

    def names(self):
        return ['score', 'other']

    def begin(self, mode):
        np.random.rand(3)
        lasagne.random.get_rng().randint(9)
        lasagne.random.set_rng(np.random.RandomState(1))

    def feed(self, mode, images):
        np.random.rand(3)
        if self.dataset:
            self.dataset.next_minibatch(5)

    def end(self, mode):
        return [self.values.pop(0), 0.5]


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setitem(metrics.METRICS, 'scripted', metrics.Metric('tests.training.test_quality.Scripted', 8))
    made = quality.Evaluator.prepare

    def prepare(self, names):
        made(self, names)
        for metric in self.made.values():
            metric.dataset = self.dataset

    monkeypatch.setattr(quality.Evaluator, 'prepare', prepare)
    monkeypatch.setattr(Scripted, 'values', [])
    return monkeypatch


def test_no_metric_can_touch_the_random_generators(plain, scripted, tmp_path):
    Scripted.values += [1.0] * 10
    check_same(plain, trained(tmp_path, metrics=['scripted']))


@pytest.mark.parametrize('values, better, best, saved', [
    ([5.0, 3.0, 4.0, 3.0, 6.0], 'lower', 1, [0, 1]),
    ([5.0, 3.0, 4.0, 7.0, 6.0], 'higher', 3, [0, 3]),
    ([float('nan'), 3.0, float('inf'), 4.0, 2.0], 'lower', 4, [1]),
])
def test_the_best_networks_are_saved_and_marked(
        plain, scripted, tmp_path, capsys, values, better, best, saved):
    Scripted.values += values
    scripted.setattr(Scripted, 'better', {'score': better})
    theano_env.configure('torch', {'device': 'cpu'})
    networks = {'Gs': Network('Gs', 'networks.G_paper', num_channels=1, resolution=16, fmap_base=8, fmap_max=2)}
    snapshots = SnapshotWriter(str(tmp_path), EventFile(str(tmp_path)), {**networks, 'G': None, 'D': None}, None, 1)
    with Dataset(f'{data_dir}/digits-16x16.h5', max_labels=0) as dataset:
        measuring = quality.TrainingMetrics(['scripted'], 2, 8, str(tmp_path), dataset, SINGLE)
        statistics = [measuring.measure(tick, 500 * tick, tick == 10, 7.0, snapshots) for tick in range(1, 11)]
    snapshots.save_final()
    assert [bool(numbers) for numbers in statistics] == [False, True] * 5
    names = [f'network-snapshot-{kimg:06d}' for kimg in range(1, 5)] + ['network-final']
    run_dir, entries = tmp_path, read_results(tmp_path)
    assert [entry['snapshot'] for entry in entries] == [
        name for name, value in zip(names, values, strict=True) if np.isfinite(value)]
    assert best_snapshot(run_dir) == names[best] and sum('best' in entry for entry in entries) == 1
    assert {path.stem for path in run_dir.glob('*.pkl')} == {names[index] for index in saved} | {'network-final'}
    told = sum(not np.isfinite(value) for value in values)
    assert capsys.readouterr().err.count('is not finite and not stored') == told
    assert sum('score' in numbers for numbers in statistics) == len(values) - told


@pytest.mark.parametrize('values, kept, saved', [
    # At 1.2, 1.5 and 1.8 kimg, which share a file name; the best value is at 12.0 kimg.
    ([5.0, 9.0, 7.0, 1.0], 5.0, 1200),
    ([5.0, 3.0, 7.0, 1.0], 3.0, 1500),
    ([5.0, float('nan'), 4.0, 1.0], 4.0, 1800),
])
def test_of_several_networks_of_one_name_the_best_are_kept_with_their_results(
        plain, scripted, tmp_path, values, kept, saved):
    Scripted.values += values
    theano_env.configure('torch', {'device': 'cpu'})
    Gs = Network('Gs', 'networks.G_paper', num_channels=1, resolution=16, fmap_base=8, fmap_max=2)
    name = next(iter(Gs.trainables))
    snapshots = SnapshotWriter(str(tmp_path), EventFile(str(tmp_path)), {'Gs': Gs, 'G': Gs, 'D': Gs}, None, 1)
    with Dataset(f'{data_dir}/digits-16x16.h5', max_labels=0) as dataset:
        measuring = quality.TrainingMetrics(['scripted'], 1, 8, str(tmp_path), dataset, SINGLE)
        for tick, cur_nimg in enumerate((1200, 1500, 1800, 12000)):
            Gs.set_var(name, np.full_like(Gs.get_var(name), cur_nimg))
            measuring.measure(tick, cur_nimg, False, 7.0, snapshots)
            if measuring.can_save(cur_nimg):       # Like a regular network snapshot.
                snapshots.save_networks(cur_nimg)
    first, second = read_results(tmp_path)
    assert [first[key] for key in ('snapshot', 'kimg')] == ['network-snapshot-000001', saved / 1000]
    assert first['values']['score'] == kept
    for entry, number in ((first, saved), (second, 12000)):
        network = load_pkl(str(tmp_path / f'{entry["snapshot"]}.pkl'))[2]
        assert (network.get_var(name) == number).all() and identity.of_network(network) == entry['network']
    assert best_snapshot(tmp_path) == 'network-snapshot-000012'


def test_results_of_networks_that_were_not_saved_make_way(plain, scripted, tmp_path):
    Scripted.values += [1.0, 5.0]
    theano_env.configure('torch', {'device': 'cpu'})
    Gs = Network('Gs', 'networks.G_paper', num_channels=1, resolution=16, fmap_base=8, fmap_max=2)
    snapshots = SnapshotWriter(str(tmp_path), EventFile(str(tmp_path)), {'Gs': Gs, 'G': Gs, 'D': Gs}, None, 1)
    with Dataset(f'{data_dir}/digits-16x16.h5', max_labels=0) as dataset:
        measuring = quality.TrainingMetrics(['scripted'], 1, 8, str(tmp_path), dataset, SINGLE)
        for cur_nimg in (1200, 2200):
            measuring.measure(1, cur_nimg, False, 7.0, snapshots)
    assert not (tmp_path / 'network-snapshot-000002.pkl').exists() and len(read_results(tmp_path)) == 2
    assert measuring.can_save(2200) and len(read_results(tmp_path)) == 2
    assert measuring.can_save(2700) and [entry['kimg'] for entry in read_results(tmp_path)] == [1.2]
    assert not measuring.can_save(1700)


def test_resumed_trainings_forget_what_came_later(scripted, plain, tmp_path):
    run_dir = tmp_path / 'run'
    run_dir.mkdir()
    with experiment.open_dataset({'dataset': {'h5_path': 'digits-16x16.h5'}}, data_dir) as dataset:
        evaluator = quality.Evaluator(['scripted'], dataset, tmp_path, 8)
        lines = [{**evaluator.key('scripted', f'network-snapshot-{kimg:06d}', 'n'), 'kimg': float(kimg),
                  'seconds': 1.0, 'values': {'score': score, 'other': 0.0}, **more}
                 for kimg, score, more in ((1, 2.0, {'training': True}), (2, 3.0, {'training': True}),
                                           (3, 1.0, {'training': True, 'best': True}), (4, 0.0, {}))]
        (run_dir / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
        quality.TrainingMetrics(['scripted'], 1, 8, str(run_dir), dataset, SINGLE, 2000)
        first = read_results(run_dir)
        quality.TrainingMetrics(None, 1, 8, str(run_dir), dataset, SINGLE, 1500)
    assert [(entry['kimg'], 'best' in entry) for entry in first] == [(1.0, True), (2.0, False), (4.0, False)]
    assert [entry['kimg'] for entry in read_results(run_dir)] == [1.0, 4.0]


def test_a_stopped_and_resumed_training_with_metrics_is_the_one_without(plain, scripted, tmp_path):
    Scripted.values += [1.0] * 20
    saved = states.RunStates.save

    class Stop(Exception):
        pass

    def save_and_stop(self, cur_nimg, *args):
        saved(self, cur_nimg, *args)
        if cur_nimg >= 48:
            raise Stop

    scripted.setattr(states.RunStates, 'save', save_and_stop)
    with pytest.raises(Stop):
        trained(tmp_path, metrics=['scripted'], state_minutes=0)
    scripted.setattr(states.RunStates, 'save', saved)
    check_same(plain, trained(tmp_path, metrics=['scripted'], metric_ticks=2, resume_run_id=0))


def test_the_best_networks_of_a_finished_training_outlive_its_going_on(plain, scripted, tmp_path):
    with experiment.open_dataset({'dataset': {'h5_path': 'digits-16x16.h5'}}, data_dir) as dataset:
        line = {**quality.Evaluator(['scripted'], dataset, tmp_path, 8).key('scripted', 'network-final', 'n'),
                'kimg': 4.096, 'seconds': 1.0, 'values': {'score': 1.0, 'other': 0.0}, 'training': True, 'best': True}
        (tmp_path / 'metrics.jsonl').write_text(json.dumps(line))
        (tmp_path / 'network-final.pkl').write_bytes(b'networks')
        quality.TrainingMetrics(['scripted'], 1, 8, str(tmp_path), dataset, SINGLE, 4096)
    assert best_snapshot(tmp_path) == 'network-snapshot-000004'
    assert (tmp_path / 'network-snapshot-000004.pkl').read_bytes() == b'networks'


@pytest.mark.parametrize('options, message', [
    ({'metrics': ['swt']}, "train.metrics: there is no 'swt'; did you mean 'swd'?"),
    ({'metrics': 'swd'}, r"train.metrics='swd': must be a list of names"),
    ({'metrics': ['swd'], 'metric_num_images': 1}, 'train.metric_num_images=1: must be a whole number of at least 2'),
    ({'metrics': ['swd'], 'metric_num_images': 'many'}, "metric_num_images='many': must be a whole number"),
    ({'metrics': ['swd'], 'metric_ticks': -1}, 'train.metric_ticks=-1: must be a whole number of ticks, 0 for never'),
    ({'metrics': ['digit_recognition']}, "train.metrics: there is no 'digit_recognition'"),
    ({'metrics': ['ms_ssim'], 'metric_num_images': 7}, 'train.metric_num_images=7: ms_ssim compares pairs'),
])
def test_mistakes_are_found_before_there_is_a_folder(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        trained(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_what_metrics_do_not_bear_is_found_before_the_training(tmp_path):
    with pytest.raises(UserError, match=r'train\.metrics: mnist_modes: .* has 1 colour channels'):
        trained(tmp_path, metrics=['mnist_modes'])
    assert not list(tmp_path.glob('*/stats.jsonl'))


def test_every_metric_says_which_of_its_numbers_decides():
    options = {'inception_score': {'num_images': 4, 'features': print}, 'mnist_modes': {'classify': print},
               **dict.fromkeys(['fid', 'kid', 'precision_recall'], {'features': print})}
    ends = {'swd': 'lower', 'ms_ssim': 'lower', 'fid': 'lower', 'kid': 'lower', 'inception_score': 'higher',
            'precision_recall': 'higher', 'mnist_modes': 'higher'}
    for name, end in ends.items():
        metric = metrics.make_metric(name, **options.get(name, {}))
        assert metric.better[metric.decides] == end
        assert {*metric.better} == {number for number in metric.names() if not number.endswith('_std')}
    assert set(ends) == set(metrics.METRICS)
