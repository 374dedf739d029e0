"""Train the digit classifier for the metric mnist_modes, and report its accuracy on unseen digits.

    python dataset_tool.py create_mnist MNIST_DIR datasets/mnist-32x32.h5
    python train_classifier.py datasets/mnist-32x32.h5 classifier.npz

Any labelled dataset of single-channel images will do. Without MNIST, use the digits of scikit-learn:
``python dataset_tool.py create_digits datasets/digits-32x32.h5 --resolution 32``.
"""

import common.starting  # noqa: F401  (Ctrl-C while the rest is imported)

import argparse
import sys
from types import ModuleType

import numpy as np

import theano_env
from common.errors import UserError, exit_status
from common.options import PositiveInt, Seed, check_settings, check_value, option_name, reading_config
from data.dataset import Dataset
from metrics import classifier

# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def run_command(args: argparse.Namespace, config: ModuleType) -> None:
    """Train and save the classifier, then print its accuracy and confusion table."""
    for name, annotation in (('epochs', PositiveInt), ('seed', Seed)):
        check_value(option_name(name), getattr(args, name), annotation, ' ')
    theano_env.configure(args.engine, theano_env.with_device(config.theano_flags, args.device), None, config.precision)
    with Dataset(args.h5_path) as dataset:
        dataset.check_labels()
        if dataset.label_size < 2 or dataset.shape[0] != 1:
            raise UserError(f'{args.h5_path}: has {dataset.shape[0]} colour channels and {dataset.label_size} '
                            'classes; the classifier needs one channel and at least two classes')
        images, labels = dataset.get_images(np.arange(dataset.num_images))
    network, confusion = classifier.train_classifier(images, labels, args.epochs, random_seed=args.seed)
    accuracy = float(np.trace(confusion) / np.sum(confusion))
    classifier.save_classifier(network, args.output, accuracy=accuracy, num_images=len(images))
    print(f'{args.output}: reads {100 * accuracy:.2f} % of unseen digits correctly')
    print(classifier.confusion_table(confusion))


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    with reading_config('train_classifier.py'):
        import config
        check_settings(config)
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0],
                                     epilog=__doc__.partition('\n\n')[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('h5_path', metavar='H5', help='labelled dataset of single-channel images')
    parser.add_argument('output', metavar='NPZ', help='output file for the weights')
    parser.add_argument('--epochs', type=int, default=4, metavar='N', help='passes over the dataset; '
                        'default: %(default)s')
    parser.add_argument('--seed', type=int, default=1000, help='random seed; default: %(default)s')
    theano_env.add_arguments(parser, config)
    args = parser.parse_args(argv)
    return exit_status('train_classifier.py', lambda: run_command(args, config),
                       (UserError, theano_env.EnvironmentProblem))


if __name__ == '__main__':
    sys.exit(main())
