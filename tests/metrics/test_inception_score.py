"""metrics.inception_score: scores of recorded class probabilities."""

import numpy as np
import pytest

from metrics.inception_score import InceptionScore, ScoreStatistics
from tests.helpers import load_golden

RECORDED, _meta = load_golden('metrics_inception')


@pytest.mark.parametrize('splits, key', [(10, 'mean_std'), (1, 'mean_std_splits1')])
@pytest.mark.parametrize('case', ['a', 'b', 'c'])
@pytest.mark.parametrize('minibatch_size', [9, 1000])
def test_recorded_scores(case, splits, key, minibatch_size):
    probabilities = RECORDED[f'is_{case}_probabilities']
    statistics = ScoreStatistics(len(probabilities), splits)
    for begin in range(0, len(probabilities), minibatch_size):
        statistics.add(probabilities[begin:begin + minibatch_size])
    # The release uses float32.
    np.testing.assert_allclose(statistics.mean_std(), RECORDED[f'is_{case}_{key}'], rtol=2e-6, atol=1e-12)


def test_probabilities_of_zero_count_nothing():
    statistics = ScoreStatistics(4, num_splits=1)
    statistics.add(np.eye(4, dtype=np.float32))
    np.testing.assert_allclose(statistics.mean_std(), (4, 0), rtol=1e-12)


def test_feeding_images_and_wrong_numbers_of_them():
    def features(images):
        return None, np.eye(2)[images[:, 0, 0, 0]]

    metric = InceptionScore(num_images=4, num_splits=2, features=features)
    images = np.uint8([0, 1, 0, 0]).reshape(4, 1, 1, 1)
    metric.begin('fakes')
    metric.feed('fakes', images)
    np.testing.assert_allclose(metric.end('fakes'), [1.5, 0.5])
    with pytest.raises(ValueError, match='4 images announced, but 8 fed'):
        metric.feed('fakes', images)
    metric.begin('fakes')
    metric.feed('fakes', images[:3])
    with pytest.raises(ValueError, match='4 images announced, but only 3 fed'):
        metric.end('fakes')
