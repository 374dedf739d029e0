"""Metrics that the package torch-fidelity computes from Inception features: KID, precision and recall.

Both need all features of reals and fakes in memory, 8 KB per image. For the same features, the values equal those of
``fidelity --kid`` and ``fidelity --prc --feature-extractor inception-v3-compat``.
"""

import abc
from typing import Any

import numpy as np

from common.errors import UserError
from metrics import Direction, check_finite
from metrics.inception import Features, InceptionFeatures, fidelity_module

MAX_SAVED_BYTES = 1 << 30       # Larger features of reals are not saved in a file; `swd` has the same limit.


class FeatureMetric(abc.ABC):
    """Base class of metrics on features. Feed the reals once, then the fakes of each generator.

    Parameters
    ----------
    features : callable, optional
        Function from images to (features, probabilities). Default: a new
        :class:`metrics.inception.InceptionFeatures`.
    """

    name = ''
    decides = ''
    better: dict[str, Direction] = {}

    def __init__(self, features: Features | None = None) -> None:
        self.features = features or InceptionFeatures()
        self.parts: list[np.ndarray] = []
        self.reals: np.ndarray | None = None

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Names of the values that :meth:`end` returns."""

    def begin(self, mode: str) -> None:
        """Start to feed images; `mode` is 'reals' or 'fakes'."""
        if mode == 'fakes' and self.reals is None:
            raise ValueError("begin('fakes'): feed 'reals' first")
        self.parts = []

    def feed(self, mode: str, images: np.ndarray) -> None:
        """Add uint8 images (N, C, H, W)."""
        features = self.features(images)[0]
        check_finite(f'{self.name}: features', features)
        self.parts.append(features.astype(np.float32))

    def end(self, mode: str) -> list[float]:
        """The values of the fakes, see :meth:`compare`. For 'reals', keep the features and return :meth:`perfect`."""
        fed, self.parts = np.concatenate(self.parts), []
        if mode == 'reals':
            self.reals = fed
            return self.perfect()
        assert self.reals is not None
        return self.compare(fed, self.reals)

    @abc.abstractmethod
    def perfect(self) -> list[float]:
        """The values of fakes that are identical to the reals."""

    @abc.abstractmethod
    def compare(self, fakes: np.ndarray, reals: np.ndarray) -> list[float]:
        """The values for features of fakes (N, F) and reals (M, F), both float32."""

    def get_reals(self) -> dict[str, Any] | None:
        """The features of the reals as {name: array}, for :meth:`set_reals`; None if they exceed 1 GB."""
        if self.reals is None or self.reals.nbytes > MAX_SAVED_BYTES:
            return None
        return {'features': self.reals}

    def set_reals(self, arrays: dict[str, Any]) -> None:
        """Restore the features of reals from :meth:`get_reals`.

        Raises
        ------
        KeyError, ValueError
            The arrays are not such features.
        """
        features = arrays['features']
        if features.ndim != 2 or features.dtype != np.float32 or not features.size:
            raise ValueError(f'features {features.shape} of {features.dtype}')
        self.reals = features


class KernelInceptionDistance(FeatureMetric):
    """KID x 1000: squared maximum mean discrepancy with a cubic kernel; mean and deviation over 100 random subsets.

    Binkowski et al., "Demystifying MMD GANs" (2018). KID is unbiased, so few images suffice, and for equal
    distributions it may be slightly negative. Subsets have 1000 images, or all images if there are fewer.
    """

    name = 'kid'
    decides = 'KIDx1e3_mean'
    better: dict[str, Direction] = {'KIDx1e3_mean': 'lower'}
    subset_size = 1000

    def names(self) -> list[str]:
        """Names of the values that :meth:`end` returns."""
        return ['KIDx1e3_mean', 'KIDx1e3_std']

    def perfect(self) -> list[float]:
        """[0, 0]."""
        return [0.0, 0.0]

    def compare(self, fakes: np.ndarray, reals: np.ndarray) -> list[float]:
        """[mean, standard deviation] over the subsets of 1000 times the distance."""
        if min(len(fakes), len(reals)) < 2:
            raise UserError(f'kid: {len(fakes)} fakes and {len(reals)} reals are too few; needs 2 of each')
        values = fidelity_module('metric_kid', self.name).kid_features_to_metric(
            *as_tensors(fakes, reals), verbose=False, kid_subset_size=min(self.subset_size, len(fakes), len(reals)))
        return [1000 * values[f'kernel_inception_distance_{number}'] for number in ('mean', 'std')]


class PrecisionRecall(FeatureMetric):
    """Improved precision and recall, and their harmonic mean.

    Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models" (2019). Precision is the
    share of fakes that are at most as far from some real as that real's third nearest neighbour among the reals. Recall
    exchanges reals and fakes. The paper uses features of VGG16; this class uses those of Inception-v3, as FID does, so
    values are not comparable with the paper's.
    """

    name = 'precision_recall'
    decides = 'f_score'
    better: dict[str, Direction] = {'precision': 'higher', 'recall': 'higher', 'f_score': 'higher'}
    neighbours = 3
    rows = 1000     # Rows of the distance matrix computed at once: 200 MB for 50 000 images.

    def names(self) -> list[str]:
        """Names of the values that :meth:`end` returns."""
        return ['precision', 'recall', 'f_score']

    def perfect(self) -> list[float]:
        """[1, 1, 1]."""
        return [1.0, 1.0, 1.0]

    def compare(self, fakes: np.ndarray, reals: np.ndarray) -> list[float]:
        """[precision, recall, harmonic mean]."""
        if min(len(fakes), len(reals)) <= self.neighbours:
            raise UserError(f'precision_recall: {len(fakes)} fakes and {len(reals)} reals are too few; needs '
                            f'{self.neighbours + 1} of each')
        values = fidelity_module('metric_prc', self.name).prc_features_to_metric(
            *as_tensors(fakes, reals), verbose=False, prc_neighborhood=self.neighbours, prc_batch_size=self.rows,
            save_cpu_ram=True)
        return [values[number] for number in self.names()]


def as_tensors(*arrays: np.ndarray) -> list[Any]:
    """Convert arrays to PyTorch tensors that share their memory."""
    import torch  # Imported late, since other users of this package do without PyTorch.
    return [torch.from_numpy(array) for array in arrays]
