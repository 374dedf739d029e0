"""Facts about program, options, data and state, to compare ranks with each other and a resumed run with its past."""

import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np

import theano_env
from data.dataset import Dataset
from metrics import identity
from training.options import with_defaults
from training.recorded import flat_options

ROOT = pathlib.Path(__file__).resolve().parent.parent
NO_PROGRAM = {'config.py', 'setup.py', 'tests', 'benchmarks'}
DATA = ('labels', 'images')     # The keys of of_data() that identify the dataset.
# Options that may differ between ranks: paths, reading, and what only rank 0 does.
OWN_OPTIONS = {'desc', 'dataset.h5_path', 'dataset.cache_gb', 'dataset.read_threads', 'train.show_progress',
               'train.resume_run_id', 'train.metric_inception_weights', 'train.metric_classifier'}


@functools.cache
def of_program() -> dict[str, str]:
    """{name: version} of this program, as a digest of its files, of Python and of the packages that compute."""
    digest, packages = hashlib.sha256(), [path.parent for path in ROOT.glob('*/__init__.py')]
    files = [*ROOT.glob('*.py'), *(path for package in packages for path in package.rglob('*.py'))]
    for name, path in sorted((path.relative_to(ROOT).as_posix(), path) for path in files):
        if name.partition('/')[0] not in NO_PROGRAM:
            digest.update(name.encode() + b'\0' + path.read_bytes() + b'\0')
    facts = {'this program': digest.hexdigest()[:identity.DIGITS], 'Python': platform.python_version()}
    for name in ('NumPy', 'SciPy', 'Theano', 'Lasagne', 'torch'):
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = 'none'
    return facts


def of_processor() -> str:
    """The processor's architecture, and its instruction set for convolutions if PyTorch is loaded."""
    torch = sys.modules.get('torch')
    capability = getattr(getattr(torch, 'backends', None), 'cpu', None)
    return f'{platform.machine()} {capability.get_cpu_capability()}' if capability else platform.machine()


def of_rank(experiment: dict, train_gan: Callable, environment: theano_env.Environment,
            theano_flags: dict | None) -> dict[str, Any]:
    """{name: value} of everything that must be equal on all ranks from the start.

    Parameters
    ----------
    experiment : dict
    train_gan : callable
        Default training function of experiments.
    environment : theano_env.Environment
    theano_flags : dict or None
    """
    options = flat_options(with_defaults(experiment, train_gan))
    flags = {f'theano_flags[{name!r}]': value for name, value in (theano_flags or {}).items() if name != 'device'}
    # Values of config.py that are not plain data are compared by their types only.
    facts = {name: json.dumps(value, sort_keys=True, default=lambda other: type(other).__name__)
             for name, value in {**options, **flags}.items()
             if name not in OWN_OPTIONS and not name.startswith('create_dataset.')}
    return {**facts, **of_program(), 'engine': environment.engine, 'precision': environment.precision,
            'device': environment.device.partition(':')[0]}


def of_data(dataset: Dataset) -> dict[str, str]:
    """{name: digest} of the dataset and of NumPy's generator, which must be seeded already."""
    keys = cast(tuple, np.random.get_state())[1]
    return {'labels': identity.of_array(dataset.labels),
            'images': identity.of_images_quickly(dataset).hex()[:identity.DIGITS],
            "NumPy's random numbers": identity.of_array(keys)}


def of_state(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """{name: digest} of those arrays of a training state that are equal on all ranks.

    Running averages of batch norm differ, because each rank averages over its share of the minibatch.
    """
    return {name: identity.of_array(np.asarray(array)) for name, array in arrays.items()
            if not name.startswith('grid/') and not name.endswith(('.mean', '.inv_std'))}
