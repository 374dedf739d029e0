"""Metrics, one per file, with a common interface: ``begin(mode)``, ``feed(mode, images, ...)``, ``end(mode)``.

`METRICS` maps the names that `evaluate_metrics.py` and the experiments of `config.py` use to the metrics.
"""

import importlib
from typing import Any, NamedTuple, Protocol

import numpy as np

from common.errors import UserError, did_you_mean


class Metric(NamedTuple):
    """Properties of a metric that are needed before it is imported."""

    class_path: str         # 'module.Class'
    num_images: int         # Number of generated images in the paper.
    needs: tuple[str, ...] = ()     # Subset of 'reals', 'inception', 'classifier'.


METRICS = {
    'swd': Metric('metrics.sliced_wasserstein.SlicedWasserstein', 16384, ('reals',)),
    'ms_ssim': Metric('metrics.ms_ssim.MultiScaleSSIM', 20000),
    'inception_score': Metric('metrics.inception_score.InceptionScore', 50000, ('inception',)),
    'fid': Metric('metrics.frechet_inception_distance.FrechetInceptionDistance', 50000, ('reals', 'inception')),
    'mnist_modes': Metric('metrics.mnist_modes.MnistModes', 256000, ('classifier',)),
}


class Meter(Protocol):
    """The interface of all metrics."""

    decides: str                # Name of the value that selects the best of several networks.
    lower_is_better: bool       # Whether smaller is better for this value.

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


def make_metric(name: str, **options: Any) -> Any:
    """Make the metric `name` of `METRICS`; `options` are the arguments of its class."""
    check_name(name)
    module_name, _, class_name = METRICS[name].class_path.rpartition('.')
    return getattr(importlib.import_module(module_name), class_name)(**options)
