"""Number of the 1000 colour combinations of digits that a generator makes, and their distribution (MNIST-RGB).

Appendix E of the paper, after Metz et al., "Unrolled Generative Adversarial Networks" (2016): a classifier reads a
digit in each colour channel, and three digits are one of 1000 modes. The paper averages 10 draws of 25600 images.
"""

from collections.abc import Callable

import numpy as np

from common.options import PositiveInt, checked
from metrics import Direction, check_finite


def mode_statistics(digits: np.ndarray, divisor: int | None = None) -> tuple[int, float]:
    """Number of modes found and KL(found || uniform).

    Parameters
    ----------
    digits : int array, shape (N, 3)
        Digits from 0 to 9.
    divisor : int, optional
        Divisor that turns counts of modes into shares. Default: N. The 2017 release always divides by 25600; for
        another N its shares do not sum to 1, and its divergence may be negative.

    Returns
    -------
    (int, float)
        Number of modes found at least once; sum over these of share * log(share * 1000).
    """
    modes = digits.astype(np.int64) @ [100, 10, 1]
    counts = np.bincount(modes, minlength=1000)
    shares = counts[counts > 0] / (len(digits) if divisor is None else divisor)
    return len(shares), float(np.sum(shares * np.log(shares * 1000)))


class MnistModes:
    """Modes found and their divergence, averaged over several draws of images.

    Parameters
    ----------
    classify : callable
        uint8 images of one channel (N, 1, H, W) -> digits (N,), for example from `classifier.load_classifier`.
    images_per_draw : int
        Number of images of one draw; the images fed are divided into draws, and remaining images are ignored.
    divisor : int, optional
        See :func:`mode_statistics`.
    """

    decides = 'modes_mean'
    better: dict[str, Direction] = {'modes_mean': 'higher', 'KL_mean': 'lower'}

    @checked
    def __init__(self, classify: Callable[[np.ndarray], np.ndarray], images_per_draw: PositiveInt = 25600,
                 divisor: PositiveInt | None = None) -> None:
        self.classify = classify
        self.images_per_draw, self.divisor = images_per_draw, divisor
        self.digits: np.ndarray = np.zeros((0, 3), np.uint8)
        self.results: list[tuple[int, float]] = []

    def names(self) -> list[str]:
        """Names of the values that :meth:`end` returns."""
        return ['modes_mean', 'modes_std', 'KL_mean', 'KL_std']

    def begin(self, mode: str) -> None:
        """Start a new evaluation; `mode` may be any name."""
        self.digits, self.results = np.zeros((0, 3), np.uint8), []

    def feed(self, mode: str, images: np.ndarray) -> None:
        """Add uint8 images (N, 3, H, W)."""
        num, channels, height, width = images.shape
        if channels != 3:
            raise ValueError(f'images of {channels} channels: must have 3, one for each digit')
        check_finite('mnist_modes: images', images)
        digits = np.asarray(self.classify(images.reshape(num * 3, 1, height, width))).reshape(num, 3)
        self.digits = np.concatenate([self.digits, digits.astype(np.uint8)])
        while len(self.digits) >= self.images_per_draw:
            self.results.append(mode_statistics(self.digits[:self.images_per_draw], self.divisor))
            self.digits = self.digits[self.images_per_draw:]

    def end(self, mode: str) -> list[float]:
        """[mean, deviation of the number of modes; mean, deviation of the divergence] over the draws."""
        if not self.results:
            raise ValueError(f'{len(self.digits)} images fed, but a draw needs {self.images_per_draw}')
        modes, divergences = np.array(self.results, np.float64).T
        return [float(x) for x in (modes.mean(), modes.std(), divergences.mean(), divergences.std())]
