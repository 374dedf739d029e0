"""How often a classifier trained on the real digits reads a generated digit as the class that was asked for."""

from typing import Any

import numpy as np

from common.errors import UserError

TEST_SHARE = 0.2    # Of the real images, kept from the classifier to measure how far it can be trusted.


class DigitRecognition:
    """Recognition rate of conditional generators.

    Feed all reals with their labels first: they train a support vector machine on the pixels, and every fifth of them
    measures its accuracy. Then feed fakes with the labels that were asked for.

    Raises
    ------
    UserError
        scikit-learn is missing or the data have no labels.
    """

    def __init__(self) -> None:
        self.classifier: Any = None     # A support vector machine of scikit-learn.
        self.images: list[np.ndarray] = []
        self.classes: list[np.ndarray] = []

    def begin(self, mode: str) -> None:
        """Start with `mode` 'reals' or 'fakes'."""
        if mode == 'fakes' and self.classifier is None:
            raise ValueError("begin('fakes'): the classifier is trained by feeding 'reals' first")
        self.images, self.classes = [], []

    def feed(self, mode: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Add uint8 images (N, C, H, W) and one-hot labels (N, classes)."""
        if labels.shape[1] < 2:
            raise UserError('digit_recognition: the data have no labels')
        self.images.append(images.reshape(len(images), -1).astype(np.float32) / 255)
        self.classes.append(np.argmax(labels, axis=1))

    def end(self, mode: str) -> float:
        """Return the share of images read correctly: of the held-out reals, or of the fakes, in [0, 1]."""
        images, classes = np.concatenate(self.images), np.concatenate(self.classes)
        if mode == 'fakes':
            return float(np.mean(self.classifier.predict(images) == classes))
        try:
            from sklearn.svm import SVC
        except ImportError as error:
            raise UserError("metrics 'digit_recognition': needs scikit-learn; pip install scikit-learn") from error
        order = np.random.RandomState(0).permutation(len(images))
        num_test = max(int(len(images) * TEST_SHARE), 1)
        test, train = order[:num_test], order[num_test:]
        self.classifier = SVC(C=10, gamma='scale').fit(images[train], classes[train])
        return float(np.mean(self.classifier.predict(images[test]) == classes[test]))
