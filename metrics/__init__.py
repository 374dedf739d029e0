"""Metrics, one per file, with a common interface: ``begin(mode)``, ``feed(mode, images, ...)``, ``end(mode)``.

`METRICS` maps the names that `evaluate_metrics.py` and the experiments of `config.py` use to the metrics.
"""

import importlib
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from common.errors import UserError, did_you_mean

Direction = Literal['lower', 'higher']     # Which values of a number are better.


class Metric(NamedTuple):
    """Properties of a metric that are needed before it is imported."""

    class_path: str         # 'module.Class'
    num_images: int         # Generated images in the setting of the paper, this one or that of the metric.
    needs: tuple[str, ...] = ()     # Of 'reals', 'inception', 'classifier'.


METRICS = {
    'swd': Metric('metrics.sliced_wasserstein.SlicedWasserstein', 16384, ('reals',)),
    'ms_ssim': Metric('metrics.ms_ssim.MultiScaleSSIM', 20000),
    'inception_score': Metric('metrics.inception_score.InceptionScore', 50000, ('inception',)),
    'fid': Metric('metrics.frechet_inception_distance.FrechetInceptionDistance', 50000, ('reals', 'inception')),
    'kid': Metric('metrics.fidelity.KernelInceptionDistance', 50000, ('reals', 'inception')),
    'precision_recall': Metric('metrics.fidelity.PrecisionRecall', 50000, ('reals', 'inception')),
    'mnist_modes': Metric('metrics.mnist_modes.MnistModes', 256000, ('classifier',)),
}


class Meter(Protocol):
    """The interface of all metrics."""

    decides: str                # The number that selects the best of several networks.
    better: dict[str, Direction]    # {number: which values are better}, for all numbers but deviations.

    def names(self) -> list[str]:
        """Names of the values that :meth:`end` returns."""

    def begin(self, mode: str) -> None:
        """Start with `mode` 'reals' or 'fakes'."""

    def feed(self, mode: str, images: np.ndarray) -> None:
        """Add uint8 images (N, C, H, W)."""

    def end(self, mode: str) -> list[float]:
        """Values for the images that were fed."""


class ComparingMeter(Meter, Protocol):
    """The interface of metrics that compare fakes with reals."""

    def get_reals(self) -> dict[str, Any] | None:
        """Statistics of the reals, {name: array}, for :meth:`set_reals`; None if they are too large to store."""

    def set_reals(self, arrays: dict[str, Any]) -> None:
        """Use the statistics of reals from an earlier :meth:`get_reals`."""


def check_finite(name: str, values: np.ndarray) -> None:
    """Raise UserError if `values` contain NaN or infinity, which a metric might turn into an ordinary number."""
    if values.dtype.kind == 'f' and not np.isfinite(values).all():
        raise UserError(f'{name} contain NaN or infinity, so no metric can be computed')


def check_name(name: str, section: str = '') -> None:
    """Raise UserError if there is no metric `name`; `section` is a prefix of the option in the message."""
    if name not in METRICS:
        raise UserError('%smetrics: there is no %r%s' % (
            section, name, did_you_mean(name, METRICS) or '; choose from ' + ', '.join(METRICS)))


def _class_of(name):
    module_name, _, class_name = METRICS[name].class_path.rpartition('.')
    return getattr(importlib.import_module(module_name), class_name)


def make_metric(name: str, **options: Any) -> Any:
    """Make the metric `name` of `METRICS`; `options` are the arguments of its class."""
    check_name(name)
    return _class_of(name)(**options)


def decision(name: str) -> tuple[str, bool] | None:
    """(number that selects the best of several networks, whether lower is better); None: there is no such metric."""
    if name not in METRICS:
        return None
    meter = _class_of(name)
    return meter.decides, meter.better[meter.decides] == 'lower'
