"""Train the digit classifier for the metric mnist_modes, and report its accuracy on unseen digits.

    python dataset_tool.py create_mnist MNIST_DIR datasets/mnist-32x32.h5
    python train_classifier.py datasets/mnist-32x32.h5 classifier.npz

Any labelled dataset of single-channel images works. Without MNIST, make one from scikit-learn's digits:
``python dataset_tool.py create_digits datasets/digits-32x32.h5 --resolution 32``.
"""

import json
import math
from collections.abc import Callable
from typing import Any

import theano_torch  # noqa: F401  (makes Theano importable)

import lasagne
import numpy as np
import theano
import theano.tensor as T

from common import safe_pickle
from common.arrays import read_arrays, save_arrays
from common.console import Progress
from common.errors import UserError
from common.files import AnyPath
from common.images import adjust_dynamic_range
from common.options import Positive, PositiveInt, Seed, checked
from metrics import check_finite
from nets import updates
from nets.network import Network
from nets.pickles import build

TEST_SHARE = 0.2        # Fraction of the images that is held out for testing.
MINIBATCH_SIZE = 16
CLASSIFY_IMAGES = 256   # Images classified at a time.


@checked
def train_classifier(images: np.ndarray, labels: np.ndarray, num_epochs: PositiveInt = 4,
                     learning_rate: Positive = 0.002, random_seed: Seed = 1000,
                     show_progress: bool = True) -> tuple[Network, np.ndarray]:
    """Train :func:`networks.mnist_classifier`.

    Images are shifted randomly by up to an eighth of their size, because generated digits are not centred like reals.

    Parameters
    ----------
    images : uint8 array, shape (N, 1, R, R)
    labels : float array, shape (N, classes)
        One-hot.
    num_epochs : int
        Number of passes over the images.
    learning_rate : float
        Initial learning rate of Adam; falls linearly to 0.
    random_seed : int
    show_progress : bool

    Returns
    -------
    (Network, int array of shape (classes, classes))
        The classifier, and its confusion matrix on the held-out fifth of the images: number of images of each class
        (rows) that it classified as each class (columns).
    """
    random = np.random.RandomState(random_seed)
    lasagne.random.set_rng(random)
    try:
        network = Network('classifier', func='networks.mnist_classifier', num_channels=1,
                          resolution=images.shape[2], label_size=labels.shape[1])
    finally:
        lasagne.random.set_rng(np.random)
    order = random.permutation(len(images))
    test, train = np.split(order, [max(int(len(images) * TEST_SHARE), 1)])
    step, rate = _training_step(network)
    num_steps = num_epochs * (len(train) // MINIBATCH_SIZE)
    if num_steps < 1:
        raise UserError(f'{len(images)} images: a classifier needs at least '
                        f'{int(MINIBATCH_SIZE / (1 - TEST_SHARE)) + 1}')
    margin = images.shape[2] // 8
    with Progress('classifier', num_steps, 'steps', show=show_progress) as bar:
        shown = np.concatenate([random.permutation(train)[:num_steps // num_epochs * MINIBATCH_SIZE]
                                for _epoch in range(num_epochs)])
        for number, rows in enumerate(shown.reshape(num_steps, MINIBATCH_SIZE)):
            rate.set_value(np.float32(learning_rate * (1 - number / num_steps)))
            step(_moved(images[rows], margin, random), labels[rows].astype(np.float32))
            bar.update()
    read = classify(network, images[test])
    confusion = np.zeros((labels.shape[1], labels.shape[1]), np.int64)
    np.add.at(confusion, (np.argmax(labels[test], axis=1), read), 1)
    return network, confusion


def confusion_table(confusion: np.ndarray) -> str:
    """Format a confusion matrix as lines of text, with '.' for 0."""
    size = len(confusion)
    width = max(len(str(confusion.max())), len(str(size - 1))) + 1
    lines = ['read as' + ''.join(f'{column:{width}d}' for column in range(size))]
    lines += [f'{row:7d}' + ''.join(f'{count or ".":>{width}}' for count in counts)
              for row, counts in enumerate(confusion)]
    return '\n'.join(lines)


def _training_step(network):
    """(training function, learning rate): the function takes uint8 images and one-hot labels and makes an Adam step."""
    images, labels = T.tensor4('images', dtype='uint8'), T.matrix('labels', dtype='float32')
    rate = theano.shared(np.float32(0))
    probabilities = network.get_output_for(_to_network(T.cast(images, 'float32')))
    loss = T.mean(T.nnet.categorical_crossentropy(probabilities, labels))
    params = list(network.trainables.values())
    adam = updates.adam(theano.grad(loss, params), params, rate, beta1=0.9, beta2=0.99)
    return theano.function([images, labels], [], updates=adam), rate


def _to_network(images):
    return adjust_dynamic_range(images, (0, 255), (-1, 1))


def _moved(images, margin, random):
    """Shift each image randomly by up to `margin` pixels along both axes, filled with black."""
    padded = np.pad(images, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    result = np.empty_like(images)
    for index, (y, x) in enumerate(random.randint(2 * margin + 1, size=(len(images), 2))):
        result[index] = padded[index, :, y:y + images.shape[2], x:x + images.shape[3]]
    return result


def classify(network: Network, images: np.ndarray) -> np.ndarray:
    """Classify uint8 images (N, 1, R, R): classes (N,)."""
    parts = (images[begin:begin + CLASSIFY_IMAGES] for begin in range(0, len(images), CLASSIFY_IMAGES))
    digits = []
    for part in parts:
        probabilities = network.run(_to_network(part))
        check_finite('classifier: class probabilities', probabilities)
        digits.append(np.argmax(probabilities, axis=1))
    return np.concatenate(digits)


def save_classifier(network: Network, path: AnyPath, **facts: Any) -> None:
    """Write the weights as ``.npz``: param_000 and so on, and ``meta``: the shapes and `facts` as JSON."""
    meta = {key: network.static_kwargs[key] for key in ('num_channels', 'resolution', 'label_size')}
    params = {f'param_{index:03d}': var.get_value() for index, var in enumerate(network.vars.values())}
    save_arrays(path, {'meta': json.dumps({**meta, **facts}), **params})


def load_classifier(path: AnyPath | None, resolution: int) -> Callable[[np.ndarray], np.ndarray]:
    """Load a classifier, as a function from uint8 images (N, 1, resolution, resolution) to classes (N,).

    Parameters
    ----------
    path : str or None
        File of :func:`save_classifier`, or the pickle of the 2017 release: a list of 14 arrays in Lasagne's order, the
        weights and biases of six convolutions and of the output. The pickle does not describe the network; we assume
        that its images range from -1 to 1, like those of all networks here.
    resolution : int

    Raises
    ------
    UserError
        No file is given, or it is missing, of another kind, or for another resolution.
    """
    if path is None:
        raise UserError('classifier: no file of weights is given; make one with train_classifier.py and pass it '
                        'with --classifier')
    shape, values = _read_released(path) if _is_pickle(path) else _read_saved(path)
    if shape['resolution'] != resolution:
        raise UserError('classifier %s: is for images of %sx%s, but these are %dx%d; train one on such images' % (
            path, *[shape['resolution']] * 2, *[resolution] * 2))
    try:
        network = build('classifier', 'networks.mnist_classifier', shape, values)
    except ValueError as error:
        raise _not_weights(path, error) from error
    if len(values) != len(network.vars):
        raise _not_weights(path, f'holds {len(values)} arrays, not {len(network.vars)}')
    for (name, var), value in zip(network.vars.items(), values, strict=True):
        if var.get_value(borrow=True).shape != value.shape:
            raise UserError(f'classifier {path}: {name} has the shape {value.shape}, but must have '
                            f'{var.get_value(borrow=True).shape}; train one with train_classifier.py')
        network.set_var(name, value.astype(np.float32))
    return lambda images: classify(network, images)


def _is_pickle(path):
    """Whether a file is not an archive of `save_classifier`."""
    try:
        with open(path, 'rb') as file:
            return file.read(2) not in (b'PK', b'')
    except OSError:
        return False


def _read_saved(path):
    """(arguments of the build function, values) from a file of :func:`save_classifier`."""
    try:
        arrays = read_arrays(path, 'train one')
        meta = json.loads(str(arrays.pop('meta')))
        shape = {key: meta[key] for key in ('num_channels', 'resolution', 'label_size')}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _not_weights(path, error) from error
    if shape['num_channels'] != 1 or any(type(size) is not int or not 1 <= size < 2 ** 15 for size in shape.values()):
        raise _not_weights(path, f'is for {shape!s:.80}')
    return _checked(path, shape, [arrays[name] for name in sorted(arrays)])


def _read_released(path):
    """(arguments of the build function, values) from the classifier of the 2017 release."""
    values = safe_pickle.load(path, {}, 'the weights of a classifier')
    if not isinstance(values, list) or not all(isinstance(value, np.ndarray) for value in values) \
            or len(values) < 3 or values[-3].ndim != 1 or values[-2].ndim != 2:
        raise _not_weights(path, 'is not a list of arrays')
    # Images are halved three times; before the last time, two convolutions remove a pixel on each side.
    size = math.isqrt(len(values[-2]) // max(len(values[-3]), 1))
    return _checked(path, {'num_channels': 1, 'resolution': 8 * size + 16, 'label_size': values[-2].shape[1]}, values)


def _checked(path, shape, values):
    if any(value.dtype.kind != 'f' or not np.isfinite(value).all() for value in values):
        raise _not_weights(path, 'holds arrays that are not finite numbers')
    return shape, values


def _not_weights(path, reason):
    return UserError(f'classifier {path}: is not a file of weights of train_classifier.py, nor the classifier of the '
                     f'2017 release ({reason!s:.400}); make one with train_classifier.py')
