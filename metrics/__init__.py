"""Metrics, one per file, all with the same calls: ``begin(mode)``, ``feed(mode, images, ...)``, ``end(mode)``.

`METRICS` is what `evaluate_metrics.py` and the experiments of `config.py` call them by.
"""

import importlib
from typing import NamedTuple

from common.errors import UserError, did_you_mean


class Metric(NamedTuple):
    """What is known of a metric before it is imported."""

    class_path: str         # 'module.Class'
    num_images: int         # Generated images in the paper's setting.
    needs: tuple = ()       # Of 'reals', 'inception', 'classifier'.


METRICS = {
    'swd': Metric('metrics.sliced_wasserstein.SlicedWasserstein', 16384, ('reals',)),
    'ms_ssim': Metric('metrics.ms_ssim.MultiScaleSSIM', 20000),
    'inception_score': Metric('metrics.inception_score.InceptionScore', 50000, ('inception',)),
    'fid': Metric('metrics.frechet_inception_distance.FrechetInceptionDistance', 50000, ('reals', 'inception')),
    'mnist_modes': Metric('metrics.mnist_modes.MnistModes', 256000, ('classifier',)),
}


def check_name(name):
    """Raise a `UserError` unless there is a metric `name`."""
    if name not in METRICS:
        raise UserError('metrics: there is no %r%s' % (
            name, did_you_mean(name, METRICS) or '; choose from ' + ', '.join(METRICS)))


def make_metric(name, **options):
    """A new metric `name` of `METRICS`; `options` are the arguments of its class."""
    check_name(name)
    module_name, _, class_name = METRICS[name].class_path.rpartition('.')
    return getattr(importlib.import_module(module_name), class_name)(**options)
