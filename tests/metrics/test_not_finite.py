"""Metrics report NaN and infinity as errors, not as results."""

import numpy as np
import pytest

from common.errors import UserError
from metrics import make_metric
from metrics.digit_recognition import DigitRecognition

BAD = [np.nan, np.inf, -np.inf]


def features_of(images):
    return images.reshape(len(images), -1)[:, :8], np.abs(images.reshape(len(images), -1)[:, :8])


def metric_named(name):
    options = {'inception_score': {'num_images': 4, 'num_splits': 1, 'features': features_of},
               **dict.fromkeys(['fid', 'kid', 'precision_recall'], {'features': features_of}),
               'mnist_modes': {'classify': lambda images: np.zeros(len(images), int), 'images_per_draw': 4}}
    metric = make_metric(name, **options.get(name, {}))
    metric.begin('reals')
    return metric


@pytest.mark.parametrize('bad', BAD)
@pytest.mark.parametrize('name', ['swd', 'ms_ssim', 'inception_score', 'fid', 'kid', 'precision_recall', 'mnist_modes'])
def test_images_or_features(name, bad):
    images = np.random.RandomState(0).rand(4, 3, 16, 16).astype(np.float32)
    metric_named(name).feed('reals', images)
    images[2, 0, 0, 0] = bad
    with pytest.raises(UserError, match=f'{name}: .*contain NaN or infinity'):
        metric_named(name).feed('reals', images)


@pytest.mark.parametrize('bad', BAD)
def test_labels_of_digits(bad):
    metric = DigitRecognition()
    metric.begin('reals')
    with pytest.raises(UserError, match='digit_recognition: labels contain NaN or infinity'):
        metric.feed('reals', np.zeros((1, 1, 8, 8), np.uint8), np.array([[bad, 0]]))
