"""metrics/fidelity.py: KID, precision and recall compared with torch-fidelity and with their definitions."""

import sys

import numpy as np
import pytest
import torch

from common.errors import UserError
from metrics.fidelity import KernelInceptionDistance, PrecisionRecall
from metrics.inception import fidelity_module


def features_of(images):
    """Replaces Inception: random projections of the pixels."""
    directions = np.random.RandomState(5).randn(images[0].size, 64) / 1000
    return (images.reshape(len(images), -1) @ directions).astype(np.float32), None


def random_images(seed, num, low=0):
    return np.random.RandomState(seed).randint(low, 256, size=(num, 3, 4, 4)).astype(np.uint8)


REALS, FAKES = random_images(0, 450), random_images(1, 400, low=60)


def fed(metric, reals, fakes):
    """The values of fakes that are fed in two parts."""
    for mode, images in (('reals', reals), ('fakes', fakes)):
        metric.begin(mode)
        metric.feed(mode, images[:30])
        metric.feed(mode, images[30:])
        values = metric.end(mode)
    return values


def test_kid_is_that_of_torch_fidelity(monkeypatch):
    monkeypatch.setattr(KernelInceptionDistance, 'subset_size', 100)      # The default takes ten times as long.
    tensors = [torch.from_numpy(features_of(images)[0]) for images in (FAKES, REALS)]
    expected = fidelity_module('metric_kid').kid_features_to_metric(*tensors, verbose=False, kid_subset_size=100)
    values = fed(KernelInceptionDistance(features_of), REALS, FAKES)
    assert values[0] > values[1] > 0
    np.testing.assert_allclose(np.array(values) / 1000, list(expected.values()), rtol=1e-6)


def test_kid_is_the_unbiased_discrepancy():
    """With 40 images each, every subset has all images, so the definition gives the value."""
    x, y = (features_of(images[:40])[0].astype(np.float64) for images in (FAKES, REALS))
    xx, yy, xy = ((a @ b.T / 64 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    others = ~np.eye(40, dtype=bool)
    mean, deviation = fed(KernelInceptionDistance(features_of), REALS[:40], FAKES[:40])
    # Kernels are sums of 64 products in float32.
    np.testing.assert_allclose(mean, 1000 * (xx[others].mean() + yy[others].mean() - 2 * xy.mean()), rtol=1e-4)
    assert deviation < 1e-4 * mean


def test_precision_and_recall_are_those_of_torch_fidelity():
    tensors = [torch.from_numpy(features_of(images)[0]) for images in (FAKES, REALS)]
    expected = fidelity_module('metric_prc').prc_features_to_metric(
        *tensors, verbose=False, prc_batch_size=10000, save_cpu_ram=False)
    values = fed(PrecisionRecall(features_of), REALS, FAKES)
    np.testing.assert_allclose(values, list(expected.values()), atol=1e-6)
    assert len(set(values)) == 3


def test_precision_and_recall_are_those_of_the_paper():
    x, y = (features_of(images[:60])[0].astype(np.float64) for images in (FAKES, REALS))

    def share_within(points, others):
        radii = np.sort(np.linalg.norm(others[:, None] - others, axis=2), axis=1)[:, 3]
        return (np.linalg.norm(points[:, None] - others, axis=2) <= radii).any(axis=1).mean()

    precision, recall, mean = fed(PrecisionRecall(features_of), REALS[:60], FAKES[:60])
    assert precision == pytest.approx(share_within(x, y)) and recall == pytest.approx(share_within(y, x))
    assert precision != recall and mean == pytest.approx(2 / (1 / precision + 1 / recall))


@pytest.mark.parametrize('metric_class', [KernelInceptionDistance, PrecisionRecall])
def test_saved_reals_and_mistakes(metric_class):
    metric = metric_class(features_of)
    with pytest.raises(ValueError, match="feed 'reals' first"):
        metric.begin('fakes')
    assert metric.get_reals() is None
    values = fed(metric, REALS[:60], FAKES[:60])
    assert len(values) == len(metric.names())
    other = metric_class(features_of)
    other.set_reals(metric.get_reals())
    other.begin('fakes')
    other.feed('fakes', FAKES[:60])
    assert other.end('fakes') == values
    for junk in ({}, {'features': np.zeros(3, np.float32)}, {'features': np.zeros((2, 3))}):
        with pytest.raises((ValueError, KeyError)):
            other.set_reals(junk)
    other.begin('fakes')
    other.feed('fakes', FAKES[:1])
    with pytest.raises(UserError, match=f'{metric.name}: 1 fakes and 60 reals are too few'):
        other.end('fakes')


def test_nothing_stands_in_for_the_package_afterwards():
    assert fidelity_module('metric_kid').mmd2 and not [name for name in sys.modules if name in (
        'torch_fidelity', 'torch_fidelity.utils', 'torch_fidelity.metric_kid')]
