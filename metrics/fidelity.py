"""Metrics that the package torch-fidelity computes from the Inception features of reals and of fakes.

Both compare the features themselves, so all of them are kept: 8 KB for each image, of reals and of fakes. For the same
features the values are those of ``fidelity --kid``, and of ``fidelity --prc --feature-extractor inception-v3-compat``.
"""

import abc
from typing import Any

import numpy as np

from common.errors import UserError
from metrics import Direction, check_finite
from metrics.inception import Features, InceptionFeatures, fidelity_module

MAX_SAVED_BYTES = 1 << 30       # Features of more reals are not kept in a file; as those of `swd`.


class FeatureMetric(abc.ABC):
    """What they share: feed reals first, then fakes as often as there are generators.

    Parameters
    ----------
    features : callable, optional
        images -> (features, probabilities); default: a new :class:`metrics.inception.InceptionFeatures`.
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
        """Names of the numbers that :meth:`end` returns."""

    def begin(self, mode: str) -> None:
        """Start with `mode` 'reals' or 'fakes'."""
        if mode == 'fakes' and self.reals is None:
            raise ValueError("begin('fakes'): feed 'reals' first")
        self.parts = []

    def feed(self, mode: str, images: np.ndarray) -> None:
        """Add uint8 images (N, C, H, W)."""
        features = self.features(images)[0]
        check_finite(f'{self.name}: features', features)
        self.parts.append(features.astype(np.float32))

    def end(self, mode: str) -> list[float]:
        """The values of the fakes, see :meth:`compare`; for 'reals', which are kept, those of perfect fakes."""
        fed, self.parts = np.concatenate(self.parts), []
        if mode == 'reals':
            self.reals = fed
            return self.perfect()
        assert self.reals is not None
        return self.compare(fed, self.reals)

    @abc.abstractmethod
    def perfect(self) -> list[float]:
        """The values of fakes that are the reals."""

    @abc.abstractmethod
    def compare(self, fakes: np.ndarray, reals: np.ndarray) -> list[float]:
        """The values of features (N, F) against (M, F), both float32."""

    def get_reals(self) -> dict[str, Any] | None:
        """Features of the reals as {name: array}, for :meth:`set_reals`; None if they take more than 1 GB."""
        if self.reals is None or self.reals.nbytes > MAX_SAVED_BYTES:
            return None
        return {'features': self.reals}

    def set_reals(self, arrays: dict[str, Any]) -> None:
        """Take the features of reals that were fed earlier; a ValueError or KeyError if they are no such."""
        features = arrays['features']
        if features.ndim != 2 or features.dtype != np.float32 or not features.size:
            raise ValueError(f'features {features.shape} of {features.dtype}')
        self.reals = features


class KernelInceptionDistance(FeatureMetric):
    """KID x 1000: squared maximum mean discrepancy by a cubic kernel, mean and deviation over 100 random subsets.

    Binkowski et al., "Demystifying MMD GANs" (2018). It has no bias, so few images will do, and of equal distributions
    it may be a little below 0. Subsets have 1000 images, or all of fewer.
    """

    name = 'kid'
    decides = 'KIDx1e3_mean'
    better: dict[str, Direction] = {'KIDx1e3_mean': 'lower'}
    subset_size = 1000

    def names(self) -> list[str]:
        """Names of the numbers that :meth:`end` returns."""
        return ['KIDx1e3_mean', 'KIDx1e3_std']

    def perfect(self) -> list[float]:
        """[0, 0], as of the other distances."""
        return [0.0, 0.0]

    def compare(self, fakes: np.ndarray, reals: np.ndarray) -> list[float]:
        """[mean, standard deviation] of 1000 times the distance over the subsets."""
        if min(len(fakes), len(reals)) < 2:
            raise UserError(f'kid: {len(fakes)} fakes and {len(reals)} reals are too few; needs 2 of each')
        values = fidelity_module('metric_kid', self.name).kid_features_to_metric(
            *as_tensors(fakes, reals), verbose=False, kid_subset_size=min(self.subset_size, len(fakes), len(reals)))
        return [1000 * values[f'kernel_inception_distance_{number}'] for number in ('mean', 'std')]


class PrecisionRecall(FeatureMetric):
    """Improved precision and recall, and their harmonic mean.

    Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models" (2019). Precision: the
    share of fakes that lie as near to some real as its third nearest real does. Recall: the same with reals and fakes
    exchanged. The paper takes features of VGG16; these are those of Inception-v3 that FID uses, so values compare with
    each other, not with the paper's.
    """

    name = 'precision_recall'
    decides = 'f_score'
    better: dict[str, Direction] = {'precision': 'higher', 'recall': 'higher', 'f_score': 'higher'}
    neighbours = 3
    rows = 1000     # Of the matrix of distances, computed at a time: 200 MB for 50 000 images.

    def names(self) -> list[str]:
        """Names of the numbers that :meth:`end` returns."""
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
    """The arrays as tensors of PyTorch that share their memory."""
    import torch  # Which data sets and images do without.
    return [torch.from_numpy(array) for array in arrays]
