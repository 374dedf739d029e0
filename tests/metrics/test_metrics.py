"""metrics: every name leads to a class with the common interface; unknown names are errors."""

import importlib

import pytest

import metrics
from common.errors import UserError


@pytest.mark.parametrize('name', metrics.METRICS)
def test_every_name_is_a_class_with_the_common_calls(name):
    module_name, _, class_name = metrics.METRICS[name].class_path.rpartition('.')
    metric_class = getattr(importlib.import_module(module_name), class_name)
    for call in ('begin', 'feed', 'end'):
        assert callable(getattr(metric_class, call))
    assert set(metrics.METRICS[name].needs) <= {'reals', 'inception', 'classifier'}
    assert metrics.METRICS[name].num_images >= 16384


@pytest.mark.parametrize('name, message', [
    ('sdw', "metrics: there is no 'sdw'.*'swd'"), ('distance', "there is no 'distance'.* choose from swd, ms_ssim")])
def test_an_unknown_metric(name, message):
    with pytest.raises(UserError, match=message):
        metrics.make_metric(name)
