"""Recognition rate: how often a classifier of real digits assigns the requested class to a generated digit."""

import os
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import atomic_write
from metrics import check_finite
from runs.images import finite_images

TEST_SHARE = 0.2    # Fraction of the reals that is held out to measure the classifier's accuracy.


class DigitRecognition:
    """Recognition rate of conditional generators.

    First feed all reals with their labels: they train a support vector machine on the pixels; every fifth one is held
    out to measure its accuracy. Then feed fakes with the labels they were generated for.

    Raises
    ------
    UserError
        scikit-learn is missing, or the dataset has no labels.
    """

    def __init__(self) -> None:
        self.classifier: Any = None     # A support vector machine of scikit-learn.
        self.images: list[np.ndarray] = []
        self.classes: list[np.ndarray] = []

    def begin(self, mode: str) -> None:
        """Start with `mode` 'reals' or 'fakes'."""
        if mode == 'fakes' and self.classifier is None:
            raise ValueError("begin('fakes'): feed 'reals' first, which train the classifier")
        self.images, self.classes = [], []

    def feed(self, mode: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Add uint8 images (N, C, H, W) and one-hot labels (N, classes)."""
        if labels.shape[1] < 2:
            raise UserError('digit_recognition: the dataset has no labels')
        check_finite('digit_recognition: images', images)
        check_finite('digit_recognition: labels', labels)
        self.images.append(images.reshape(len(images), -1).astype(np.float32) / 255)
        self.classes.append(np.argmax(labels, axis=1))

    def end(self, mode: str) -> float:
        """Fraction of images that are recognised, of the held-out reals or of the fakes: from 0 to 1."""
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


def report(run_dir, training_set, Gs, num_images=1000, seed=2000, batchnorm='minibatch'):
    """Write the fraction of recognised generated digits to a run's folder, as one line, and return the line.

    The classifier is trained on the reals. See `runs.images.finite_images` for `batchnorm`.
    """
    metric = DigitRecognition()
    metric.begin('reals')
    metric.feed('reals', *training_set.get_images(np.arange(training_set.num_images)))
    accuracy = metric.end('reals')
    latents = np.random.RandomState(seed).randn(num_images, *Gs.input_shapes[0][1:]).astype(np.float32)
    labels = np.eye(training_set.label_size, dtype=np.float32)[np.arange(num_images) % training_set.label_size]
    images = finite_images(Gs, latents, labels, minibatch_size=64, source=os.path.join(run_dir, 'network-final.pkl'),
                           batchnorm=batchnorm)
    metric.begin('fakes')
    metric.feed('fakes', images, labels)
    line = (f'digit_recognition: {100 * metric.end("fakes"):.1f} % of {num_images} generated digits are recognised as '
            f'the requested class, by a classifier that recognises {100 * accuracy:.1f} % of unseen real digits')
    with atomic_write(os.path.join(run_dir, 'metric-digit_recognition.txt'), 'w', encoding='utf-8') as metric_file:
        metric_file.write(line + '\n')
    return line
