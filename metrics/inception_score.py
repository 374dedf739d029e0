"""Inception score: exp of the mean KL divergence between an image's class probabilities and those of its split.

Salimans et al., "Improved Techniques for Training GANs" (2016). High if images are clear and their classes varied.
"""

import numpy as np

from common.options import PositiveInt, checked
from metrics import Direction, check_finite
from metrics.inception import Features, InceptionFeatures


class ScoreStatistics:
    """Streaming sums of class probabilities for the inception score of `num_images` images in `num_splits` splits."""

    def __init__(self, num_images: int, num_splits: int = 10) -> None:
        self.edges = [split * num_images // num_splits for split in range(num_splits + 1)]
        self.num = 0
        self.sums: np.ndarray | None = None         # Sums of probabilities per split.
        self.negative_entropies = np.zeros(num_splits)

    def add(self, probabilities: np.ndarray) -> None:
        """Add probabilities (N, classes), whose rows sum to 1."""
        if self.num + len(probabilities) > self.edges[-1]:
            raise ValueError(f'{self.edges[-1]} images announced, but {self.num + len(probabilities)} fed')
        check_finite('inception_score: class probabilities', probabilities)
        p = probabilities.astype(np.float64)
        if self.sums is None:
            self.sums = np.zeros((len(self.negative_entropies), p.shape[1]))
        for split, (begin, end) in enumerate(zip(self.edges, self.edges[1:], strict=False)):
            part = p[max(begin - self.num, 0):max(end - self.num, 0)]
            self.sums[split] += part.sum(axis=0)
            self.negative_entropies[split] += _sum_p_log_p(part)
        self.num += len(p)

    def mean_std(self) -> tuple[float, float]:
        """(mean, standard deviation) of the splits' scores; ValueError if images are missing."""
        if self.num != self.edges[-1] or self.sums is None:
            raise ValueError(f'{self.edges[-1]} images announced, but only {self.num} fed')
        scores = []
        for total, negative_entropy, count in zip(self.sums, self.negative_entropies, np.diff(self.edges), strict=True):
            scores.append(np.exp(negative_entropy / count - _sum_p_log_p(total / count)))
        return float(np.mean(scores)), float(np.std(scores))


def _sum_p_log_p(p):
    return np.sum(p * np.log(np.where(p > 0, p, 1)))


class InceptionScore:
    """Inception score over splits of the images, in the order in which they are fed.

    Parameters
    ----------
    num_images : int
        Number of images that will be fed. It is needed in advance so that only sums are stored.
    num_splits : int
    features : callable, optional
        images -> (features, probabilities). Default: a new :class:`metrics.inception.InceptionFeatures`.
    """

    decides = 'IS_mean'
    better: dict[str, Direction] = {'IS_mean': 'higher'}

    @checked
    def __init__(self, num_images: PositiveInt, num_splits: PositiveInt = 10, features: Features | None = None) -> None:
        self.num_images, self.num_splits = num_images, num_splits
        self.features = features or InceptionFeatures()
        self.statistics = ScoreStatistics(num_images, num_splits)

    def names(self) -> list[str]:
        """Names of the values that :meth:`end` returns."""
        return ['IS_mean', 'IS_std']

    def begin(self, mode: str) -> None:
        """Start a new evaluation; `mode` may be any name."""
        self.statistics = ScoreStatistics(self.num_images, self.num_splits)

    def feed(self, mode: str, images: np.ndarray) -> None:
        """Add uint8 images (N, C, H, W)."""
        self.statistics.add(self.features(images)[1])

    def end(self, mode: str) -> list[float]:
        """[mean, standard deviation] of the splits' scores."""
        return list(self.statistics.mean_std())
