"""metrics.digit_recognition: the metric for the conditional generator of the demo."""

import numpy as np
import pytest

import dataset_tool
from common.errors import UserError
from data.dataset import Dataset
from metrics.digit_recognition import DigitRecognition


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """All real digits: uint8 images (1797, 1, 16, 16) and one-hot labels."""
    h5_path = str(tmp_path_factory.mktemp('data') / 'digits.h5')
    dataset_tool.create_digits(h5_path, resolution=16)
    with Dataset(h5_path) as dataset:
        return dataset.get_images(np.arange(dataset.num_images))


def fed(metric, mode, images, labels):
    metric.begin(mode)
    for begin in range(0, len(images), 500):
        metric.feed(mode, images[begin:begin + 500], labels[begin:begin + 500])
    return metric.end(mode)


def test_reads_real_digits_and_detects_wrong_labels(digits):
    images, labels = digits
    metric = DigitRecognition()
    # A support vector machine classifies about 98 % of unseen digits correctly.
    assert 0.95 < fed(metric, 'reals', images, labels) <= 1
    assert fed(metric, 'fakes', images, labels) > 0.98
    assert fed(metric, 'fakes', images, np.roll(labels, 1, axis=1)) < 0.05
    noise = np.random.RandomState(0).randint(0, 256, images.shape).astype(np.uint8)
    assert fed(metric, 'fakes', noise, labels) < 0.25


def test_fakes_before_reals_is_an_error(digits):
    with pytest.raises(ValueError, match="feed 'reals' first"):
        DigitRecognition().begin('fakes')


def test_data_without_labels_is_the_users_mistake(digits):
    metric = DigitRecognition()
    metric.begin('reals')
    with pytest.raises(UserError, match='no labels'):
        metric.feed('reals', digits[0], np.zeros((len(digits[0]), 0), np.float32))
