"""metrics.mnist_modes against the recorded histograms of the 2017 release."""

import numpy as np
import pytest

from metrics.mnist_modes import MnistModes, mode_statistics
from tests.helpers import load_golden

RECORDED, _meta = load_golden('metrics_histogram')
RELEASE_DIVISOR = 25600


def classify(images):
    """A classifier for images whose pixels contain the digit itself."""
    return images[:, 0, 0, 0]


@pytest.mark.parametrize('case', ['skewed', 'small_two_evals', 'uniform'])
@pytest.mark.parametrize('minibatch_size', [700, 10000])
def test_recorded_modes_and_divergences(case, minibatch_size):
    digits = RECORDED[f'hist_{case}_predictions']
    per_draw, num_draws = RECORDED[f'hist_{case}_num']
    metric = MnistModes(classify, per_draw, divisor=RELEASE_DIVISOR)
    metric.begin('fakes')
    for begin in range(0, len(digits), minibatch_size):
        metric.feed('fakes', digits[begin:begin + minibatch_size, :, np.newaxis, np.newaxis])
    assert len(metric.results) == num_draws
    values = dict(zip(metric.names(), metric.end('fakes'), strict=True))
    assert values['modes_mean'] == RECORDED[f'hist_{case}_mean_modes']
    np.testing.assert_allclose(values['KL_mean'], RECORDED[f'hist_{case}_mean_kl'], rtol=1e-13)


def test_the_default_divides_by_the_number_of_images():
    digits = RECORDED['hist_small_two_evals_predictions'][:3000]
    modes, divergence = mode_statistics(digits)
    counts = np.unique(digits, axis=0, return_counts=True)[1] / 3000
    assert modes == len(counts)
    np.testing.assert_allclose(divergence, np.sum(counts * np.log(counts * 1000)))
    # With the release's number of images, both values are equal.
    digits = RECORDED['hist_skewed_predictions']
    assert mode_statistics(digits) == mode_statistics(digits, RELEASE_DIVISOR)
    assert mode_statistics(np.tile(np.uint8([1, 2, 3]), (50, 1))) == (1, pytest.approx(np.log(1000)))


def test_images_that_make_no_draw():
    metric = MnistModes(classify, images_per_draw=4)
    metric.begin('fakes')
    metric.feed('fakes', np.zeros((3, 3, 1, 1), np.uint8))
    with pytest.raises(ValueError, match='3 images fed, but a draw needs 4'):
        metric.end('fakes')
    with pytest.raises(ValueError, match='1 channels: must have 3'):
        metric.feed('fakes', np.zeros((3, 1, 1, 1), np.uint8))
