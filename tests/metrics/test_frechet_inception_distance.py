"""metrics.frechet_inception_distance: statistics and distances against the recorded ones."""

import json

import numpy as np
import pytest

from metrics.frechet_inception_distance import FrechetInceptionDistance, GaussianStatistics, frechet_distance
from tests.helpers import GOLDEN, load_golden

FID, _meta = load_golden('metrics_fid')
TF, _meta = load_golden('tf/metrics')
TF_VALUES = json.loads((GOLDEN / 'tf' / 'metrics.json').read_text())['fid']


def statistics_of(features, size=37):
    result = GaussianStatistics()
    for begin in range(0, len(features), size):
        result.add(features[begin:begin + size])
    return result


@pytest.mark.parametrize('name', ['real', 'fake_a', 'fake_b', 'few'])
def test_recorded_statistics_and_distances(name):
    statistics, reals = statistics_of(FID['act_' + name]), statistics_of(FID['act_real'])
    np.testing.assert_allclose(statistics.mean, FID['mu_' + name], atol=1e-6)   # Recorded in float32.
    np.testing.assert_allclose(statistics.covariance(), FID['sigma_' + name], atol=1e-12)
    recorded = FID[f'fid_{name}_vs_real']
    distance = frechet_distance(statistics.mean, statistics.covariance(), reals.mean, reals.covariance())
    np.testing.assert_allclose(distance, recorded, rtol=3e-7, atol=1e-10)       # The recording used float32 means.
    from_recorded = frechet_distance(FID['mu_' + name], FID['sigma_' + name], FID['mu_real'], FID['sigma_real'])
    np.testing.assert_allclose(from_recorded, recorded, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize('a, b, rtol', [('act1', 'act2', 1e-12), ('act2', 'act1', 1e-12), ('act1', 'act1', 1e-12),
                                        # Singular matrices: the release's square root is accurate to 1e-8 of its trace.
                                        ('act_small', 'act1', 1e-8), ('act1', 'act_small', 1e-8)])
def test_recorded_distances_of_the_2018_release(a, b, rtol):
    key = f'fid/{a.replace("act_", "")}_vs_{b.replace("act_", "")}'
    sets = {name: statistics_of(TF['fid/' + name]) for name in {a, b}}
    for name, statistics in sets.items():
        np.testing.assert_allclose(statistics.mean, TF['fid/mu_' + name], atol=1e-14)
        np.testing.assert_allclose(statistics.covariance(), TF['fid/sigma_' + name], atol=1e-14)
    distance = frechet_distance(sets[a].mean, sets[a].covariance(), sets[b].mean, sets[b].covariance())
    np.testing.assert_allclose(distance, TF[key], rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(distance, TF_VALUES[key], rtol=rtol, atol=1e-12)


def test_feeding_images_and_taking_saved_reals():
    def features(images):
        return images.reshape(len(images), -1).astype(np.float32), None

    random = np.random.RandomState(0)
    reals, fakes = random.randint(256, size=(2, 60, 3, 2, 2)).astype(np.uint8)
    metric = FrechetInceptionDistance(features)
    with pytest.raises(ValueError, match="feed 'reals' first"):
        metric.begin('fakes')
    metric.begin('reals')
    metric.feed('reals', reals[:10])
    metric.feed('reals', reals[10:])
    assert metric.end('reals') == [0.0]

    def distance(metric):
        metric.begin('fakes')
        metric.feed('fakes', fakes)
        return metric.end('fakes')

    a, b = (x.reshape(60, 12).astype(np.float64) for x in (fakes, reals))
    expected = frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    np.testing.assert_allclose(distance(metric), [expected], rtol=1e-10)
    other = FrechetInceptionDistance(features)
    other.set_reals(metric.get_reals())
    assert distance(other) == distance(metric)
