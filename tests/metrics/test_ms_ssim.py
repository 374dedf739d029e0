"""metrics.ms_ssim against the recorded numbers of the 2018 release."""

import json

import numpy as np
import pytest

from common.errors import UserError
from metrics import ms_ssim
from tests.helpers import GOLDEN, load_golden

GOLDEN_2017, _meta = load_golden('metrics_msssim')
TF, _meta = load_golden('tf/metrics')
TF_META = json.loads((GOLDEN / 'tf' / 'metrics.json').read_text())['msssim']
TOLERANCE = 5e-6    # The release stores images and their squares in float32; we use float64.


def images_of(case):
    return {letter: GOLDEN_2017[f'{case}_{name}'].transpose(0, 3, 1, 2)
            for letter, name in zip('ABC', ['A', 'B_noisy', 'C_blend'], strict=True)}


@pytest.mark.parametrize('pair', ['AA', 'AB', 'AC'])
@pytest.mark.parametrize('case', ['a', 'b', 'tiny'])
def test_recorded_pairs(case, pair):
    images = images_of(case)
    a, b = images[pair[0]], images[pair[1]]
    ssim, contrast = ms_ssim.ssim_per_pair(a, b)
    np.testing.assert_allclose(ssim, np.atleast_1d(GOLDEN_2017[f'{case}_ssim_{pair}']), atol=TOLERANCE)
    np.testing.assert_allclose(contrast, np.atleast_1d(GOLDEN_2017[f'{case}_cs_{pair}']), atol=TOLERANCE)
    mean = ms_ssim.ms_ssim_per_pair(a, b).mean()
    np.testing.assert_allclose(mean, GOLDEN_2017[f'{case}_msssim_{pair}'], atol=TOLERANCE)


def test_recorded_pair_with_other_weights():
    images = images_of('a')
    result = ms_ssim.ms_ssim_per_pair(images['A'], images['C'], weights=(0.5, 0.5)).mean()
    np.testing.assert_allclose(result, GOLDEN_2017['a_msssim_AC_weights_0.5_0.5'], atol=TOLERANCE)


def test_recorded_windows():
    for recorded, size, sigma in [(GOLDEN_2017['window_11'], 11, 1.5), (GOLDEN_2017['window_4'], 4, 0.5),
                                  (TF['msssim/gauss_11_1.5'], 11, 1.5), (TF['msssim/gauss_8_1.0909'], 8, 12 / 11)]:
        window = ms_ssim.gaussian_window(size, sigma)
        np.testing.assert_allclose(np.outer(window, window), recorded, rtol=0, atol=1e-16)


def test_recorded_pairs_of_the_2018_release():
    a, b = TF['msssim/images_a_nchw'], TF['msssim/images_b_nchw']
    result = ms_ssim.ms_ssim_per_pair(a, b)
    np.testing.assert_allclose(result, TF['msssim/per_pair'], atol=TOLERANCE)
    np.testing.assert_allclose(result, TF_META['values'], atol=TOLERANCE)
    np.testing.assert_allclose(result.mean(), TF['msssim/all_pairs_mean'], atol=TOLERANCE)
    ssim, contrast = ms_ssim.ssim_per_pair(a, b)
    np.testing.assert_allclose(ssim, TF['msssim/level0_ssim'], atol=TOLERANCE)
    np.testing.assert_allclose(contrast, TF['msssim/level0_cs'], atol=TOLERANCE)
    scaled = ms_ssim.ms_ssim_per_pair(a / np.float32(255), b / np.float32(255), max_val=1)
    np.testing.assert_allclose(scaled, TF['msssim/per_pair_max_val_1'], atol=TOLERANCE)
    small = ms_ssim.ms_ssim_per_pair(a[:, :, :32, :32], b[:, :, :32, :32])
    np.testing.assert_allclose(small, TF['msssim/per_pair_32px'], atol=TOLERANCE)


def fed(images, minibatch_size):
    metric = ms_ssim.MultiScaleSSIM()
    metric.begin('fakes')
    for begin in range(0, len(images), minibatch_size):
        metric.feed('fakes', images[begin:begin + minibatch_size])
    return metric.end('fakes')


def test_recorded_minibatches():
    recorded = GOLDEN_2017['api_result']
    images, size = GOLDEN_2017['api_images_NCHW'], int(GOLDEN_2017['api_minibatch'])
    np.testing.assert_allclose(fed(images, size), [recorded], atol=TOLERANCE)
    np.testing.assert_allclose(fed(images, 12), [recorded], atol=TOLERANCE)
    pairs = np.stack([TF['msssim/images_a_nchw'], TF['msssim/images_b_nchw']], axis=1).reshape(8, 3, 64, 64)
    np.testing.assert_allclose(fed(pairs, 4), TF['msssim/api_result'], atol=TOLERANCE)
    assert ms_ssim.MultiScaleSSIM().names() == TF_META['metric_names']


def test_images_of_16x16_in_one_channel_and_wrong_ones():
    digits = np.random.RandomState(0).randint(256, size=(6, 1, 16, 16)).astype(np.uint8)
    assert 0 <= fed(digits, 6)[0] < 0.5
    np.testing.assert_allclose(fed(np.repeat(digits, 2, axis=0), 6), [1], atol=1e-9)
    with pytest.raises(ValueError, match='an even number'):
        fed(digits, 3)
    with pytest.raises(UserError, match='8x8; sides must be multiples of 16'):
        fed(digits[:, :, :8, :8], 6)
