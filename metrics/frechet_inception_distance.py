"""Frechet inception distance, between Gaussians fitted to the Inception features of reals and of fakes.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (2017):
|m1 - m2|^2 + trace(S1 + S2 - 2 sqrt(S1 S2)).
"""

from typing import Any

import numpy as np
import scipy.linalg

from metrics import Direction, check_finite
from metrics.inception import Features, InceptionFeatures


class GaussianStatistics:
    """Streaming mean and covariance (divided by N - 1) of feature vectors, in float64.

    Attributes
    ----------
    num : int
    mean : ndarray, shape (features,)
    scatter : ndarray, shape (features, features)
        Sum of the products of deviations from the mean.
    """

    def __init__(self) -> None:
        self.num = 0
        self.mean: np.ndarray = np.zeros(())
        self.scatter: np.ndarray = np.zeros(())

    def add(self, features: np.ndarray) -> None:
        """Add features (N, features), merged by Chan's formula."""
        check_finite('fid: features', features)
        x = features.astype(np.float64)
        mean = x.mean(axis=0)
        x -= mean
        shift = mean - self.mean
        total = self.num + len(x)
        self.scatter = self.scatter + x.T @ x + np.outer(shift, shift) * (self.num * len(x) / total)
        self.mean = self.mean + shift * (len(x) / total)
        self.num = total

    def covariance(self) -> np.ndarray:
        """(features, features), float64."""
        return self.scatter / (self.num - 1)


def frechet_distance(mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray,
                     covariance_b: np.ndarray) -> float:
    """Squared Frechet distance of two Gaussians.

    The trace of sqrt(S1 S2) equals that of sqrt(R S2 R) with R = sqrt(S1). R S2 R is symmetric, so its eigenvalues are
    real and not negative even if a covariance is singular, as with fewer images than features.

    Parameters
    ----------
    mean_a, mean_b : ndarray, shape (n,)
    covariance_a, covariance_b : ndarray, shape (n, n)

    Returns
    -------
    float
        0 for equal Gaussians, up to rounding errors of either sign.
    """
    values, vectors = scipy.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = root @ covariance_b @ root
    trace_of_root = np.sum(np.sqrt(np.maximum(scipy.linalg.eigvalsh((product + product.T) / 2), 0)))
    difference = np.asarray(mean_a, np.float64) - mean_b
    return float(difference @ difference + np.trace(covariance_a) + np.trace(covariance_b) - 2 * trace_of_root)


class FrechetInceptionDistance:
    """FID: feed reals first, then fakes of any number of generators. Stores one matrix per set.

    Parameters
    ----------
    features : callable, optional
        images -> (features, probabilities). Default: a new :class:`metrics.inception.InceptionFeatures`.
    """

    decides = 'FID'
    better: dict[str, Direction] = {'FID': 'lower'}

    def __init__(self, features: Features | None = None) -> None:
        self.features = features or InceptionFeatures()
        self.statistics = GaussianStatistics()
        self.reals: dict[str, Any] = {}

    def names(self) -> list[str]:
        """Names of the values that :meth:`end` returns."""
        return ['FID']

    def begin(self, mode: str) -> None:
        """Start with `mode` 'reals' or 'fakes'."""
        if mode == 'fakes' and not self.reals:
            raise ValueError("begin('fakes'): feed 'reals' first")
        self.statistics = GaussianStatistics()

    def feed(self, mode: str, images: np.ndarray) -> None:
        """Add uint8 images (N, C, H, W)."""
        self.statistics.add(self.features(images)[0])

    def end(self, mode: str) -> list[float]:
        """[FID]; 0 for the reals."""
        if mode == 'reals':
            self.reals = {'num': self.statistics.num, 'mean': self.statistics.mean,
                          'covariance': self.statistics.covariance()}
            return [0.0]
        return [frechet_distance(self.statistics.mean, self.statistics.covariance(), self.reals['mean'],
                                 self.reals['covariance'])]

    def get_reals(self) -> dict[str, Any]:
        """Statistics of the reals, {name: array}, for :meth:`set_reals` of another evaluation."""
        return self.reals

    def set_reals(self, arrays: dict[str, Any]) -> None:
        """Use statistics of reals from an earlier :meth:`get_reals`; ValueError or KeyError if they are invalid."""
        mean, covariance = arrays['mean'], arrays['covariance']
        if mean.ndim != 1 or covariance.shape != 2 * mean.shape or not len(mean) or any(
                array.dtype.kind != 'f' or not np.isfinite(array).all() for array in (mean, covariance)):
            raise ValueError(f'a mean {mean.shape} with a covariance {covariance.shape}')
        self.reals = arrays
