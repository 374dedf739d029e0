"""metrics.floor: metrics of reals against other reals; results are kept by content."""

import json

import numpy as np
import pytest

import dataset_tool
import evaluate_metrics
import metrics
from common.errors import UserError
from data.dataset import Dataset
from metrics import evaluation, floor
from metrics.results import key_of

pytestmark = pytest.mark.usefixtures('restore_theano_config')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    dataset_tool.create_digits(str(folder / 'digits-16x16.h5'), resolution=16)
    return folder


def lines_of(run_dir):
    return [json.loads(line) for line in (run_dir / 'metrics-reals.jsonl').read_text().splitlines()]


class Recorder:
    """A metric that counts how many of the fakes are also among the reals."""

    decides = 'common'
    better = {'common': 'lower'}

    def __init__(self, **_options):
        self.fed = {}

    def names(self):
        return ['common', 'reals', 'fakes']

    def begin(self, mode):
        self.fed[mode] = []

    def feed(self, mode, images):
        self.fed[mode] += [image.tobytes() for image in images]

    def end(self, mode):
        reals, fakes = (self.fed.get(name, []) for name in ('reals', 'fakes'))
        return [float(len({*reals} & {*fakes})), float(len(reals)), float(len(fakes))]

    def get_reals(self):
        return None


@pytest.mark.parametrize('num_images, used', [(500, 500), (898, 898), (5000, 898)])
def test_a_distance_is_between_samples_without_a_common_image(data_dir, tmp_path, monkeypatch, num_images, used):
    monkeypatch.setattr(metrics, 'make_metric', lambda name, **options: Recorder(**options))
    entry, = floor.evaluate_reals(tmp_path, ['swd'], lambda: Dataset(data_dir / 'digits-16x16.h5'), tmp_path,
                                  num_images)
    assert entry['values'] == {'common': 0, 'reals': used, 'fakes': used} and entry['num_images'] == used


def test_a_sample_is_that_of_the_metric_and_the_next_one_other_reals(data_dir):
    with Dataset(data_dir / 'digits-16x16.h5', mirror_augment=True) as dataset:
        metric = Recorder()
        evaluation.feed_reals(metric, dataset, 300, 7)
        assert evaluation.feed_reals(metric, dataset, 300, 7, 'fakes')[0] == 300    # The same images again.
        assert evaluation.feed_reals(metric, dataset, 300, 7, 'fakes', skip=300)[0] < 10    # Mirrored zeros, ones.


def test_results_are_kept_by_content(data_dir, tmp_path, monkeypatch):
    run_dir = tmp_path / '000-test'
    run_dir.mkdir()
    (run_dir / 'config.txt').write_text(repr({
        'desc': 'test', 'dataset': {'h5_path': 'digits-16x16.h5'}, 'G': {}, 'D': {}, 'train': {}}))
    (run_dir / 'network-final.pkl').write_bytes(b'')

    def run(*arguments):
        return evaluate_metrics.main([str(run_dir), '--reals', '--metrics', 'swd', 'ms_ssim', '--data-dir',
                                      str(data_dir), '--cache-dir', str(tmp_path), '--engine', 'torch', *arguments])

    assert run('--num-images', '200') == 0
    first = lines_of(run_dir)
    assert [(entry['metric'], entry['snapshot'], entry['num_images'], entry['kimg']) for entry in first] == [
        ('swd', 'reals', 200, None), ('ms_ssim', 'reals', 200, None)]
    assert not (run_dir / 'metrics.jsonl').exists() and not (run_dir / 'metric-swd.txt').exists()
    # Reals are close to other reals; noise is not.
    with Dataset(data_dir / 'digits-16x16.h5') as dataset:
        metric = metrics.make_metric('swd', random_seed=1000)
        evaluation.feed_reals(metric, dataset, 200, 1000)
        metric.begin('fakes')
        metric.feed('fakes', np.random.RandomState(0).randint(256, size=(200, 1, 16, 16)).astype(np.uint8))
        assert 0 < first[0]['values']['SWDx1e3_avg'] < metric.end('fakes')[-1] / 3
    assert 0 < first[1]['values']['MS-SSIM'] < 1
    monkeypatch.setattr(floor, 'feed_reals', lambda *_args: pytest.fail('evaluated again'))
    assert run('--num-images', '200') == 0 and lines_of(run_dir) == first
    monkeypatch.undo()
    assert run('--num-images', '200', '--seed', '3') == 0
    assert len({key_of(entry) for entry in lines_of(run_dir)}) == 4


@pytest.mark.parametrize('name, wanted, num_reals, size', [
    ('swd', 16384, 30000, 15000), ('swd', 16384, 40000, 16384), ('fid', 50000, 5, 2), ('ms_ssim', 20000, 7, 6),
    ('inception_score', 50000, 50000, 50000), ('mnist_modes', 256000, 1000, 1000)])
def test_size_of_a_sample(name, wanted, num_reals, size):
    assert floor.sample_size(name, wanted, num_reals) == size


def test_too_few_reals_are_an_error():
    for name, num_reals in (('swd', 3), ('fid', 1), ('ms_ssim', 1)):
        with pytest.raises(UserError, match=f'{name}: {num_reals} reals are too few'):
            floor.sample_size(name, 100, num_reals)


def test_options_of_networks_do_not_fit(tmp_path, capsys):
    assert evaluate_metrics.main([str(tmp_path), '--reals', '--only-final']) == 1
    assert capsys.readouterr().err.count('\n') == 1
