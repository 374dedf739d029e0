"""The studies: the paper's comparisons with small versions of its experiments, for a few hours on two CPU cores."""

import copy
import os
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from common.files import one_at_a_time
from data import hdf5_format, labelled_sets
from data.hdf5_writer import HDF5Writer
from data.image_source import create
from paper.campaign import Part

BFLOAT16 = 'bfloat16'   # The row of `variations` that differs only in precision.
NUM_STACKED = 20000     # Number of RGB images that consist of three digits each.
CLASSIFIER_DATA = 'digits-32x32.h5'
COLOUR_DATA = 'emoji-32x32.h5'

DIGITS: dict[str, Any] = {'h5_path': CLASSIFIER_DATA, 'resolution': 32, 'max_labels': 0, 'mirror_augment': False}
SMALL_DIGITS = {**DIGITS, 'resolution': 16}
STACKED = {**DIGITS, 'h5_path': 'digits-rgb-32x32.h5'}
COLOUR = {**DIGITS, 'h5_path': COLOUR_DATA}
NETWORKS = {'fmap_base': 128, 'fmap_max': 32, 'latent_size': 32}
TRAIN = {'rampup_kimg': 0, 'tick_kimg_default': 2, 'tick_kimg_overrides': {}, 'image_snapshot_ticks': 5,
         'network_snapshot_ticks': 1000, 'show_progress': False}


class Study(NamedTuple):
    """A comparison of the paper at small scale."""

    title: str
    name: str               # Prefix of its folders and pictures.
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    num_images: int
    all_snapshots: bool = False


STUDIES = {study.name: study for study in (
    Study('Growing makes training faster (section 6.2, Figure 4)', 'growing', (1000, 1001), ('swd',), 1024, True),
    Study('Every row of Table 1 adds something', 'ablation', (1000, 1001, 1002), ('swd', 'ms_ssim'), 1024),
    Study('The rows of Table 1 on colour pictures', 'colour', (1000, 1001, 1002), ('swd', 'ms_ssim'), 2048),
    Study('Loss, weights, normalization and precision, one change at a time', 'variations', (1000, 1001, 1002),
          ('swd', 'ms_ssim'), 1024),
    Study('Our normalization and the minibatch standard deviation find more modes (Table 4)', 'modes',
          (0, 1, 2), ('mnist_modes',), 25600),
)}
TARGETS = {             # {target of reproduce.py: the studies that replace it at small scale}
    'table1': ('ablation', 'colour'), 'table4': ('modes',), 'figure4': ('growing',), 'figure4a': ('growing',),
    'figure4b': ('growing',), 'figure4c': ('growing',), 'study': tuple(STUDIES),
}


# ----------------------------------------------------------------------------------------------------------------------
# The runs.


def parts_of(config: ModuleType, name: str, num_seeds: int | None = None) -> list[Part]:
    """The parts of a study, in the order of their seeds, so that each finished seed is a whole comparison.

    Parameters
    ----------
    config : module
        `config.py`.
    name : str
        Key of `STUDIES`.
    num_seeds : int, optional
        Number of seeds per row, counted from the first seed of the study. Default: the seeds of the study.
    """
    study = STUDIES[name]
    seeds = [study.seeds[0] + index for index in range(num_seeds or len(study.seeds))]
    makers = {'growing': growing, 'ablation': ablation, 'colour': colour, 'variations': variations, 'modes': modes}
    return [Part(row, seed, {**chosen, 'desc': row, 'random_seed': seed}, f'{name}-{row}-seed{seed}', study.metrics,
                 study.all_snapshots, study.num_images, 'bfloat16' if row == BFLOAT16 else None)
            for seed in seeds for row, chosen in makers[name](config).items()]


def derived(config: ModuleType, name: str, dataset: dict, networks: dict, **train: Any) -> dict:
    """An experiment of `config.py` with another dataset, smaller networks and a shorter training."""
    chosen: dict = copy.deepcopy(config.experiments[name])
    growing = chosen['train'].get('lod_training_kimg', 600) > 0
    chosen['dataset'] = dict(dataset)
    for net in 'GD':
        chosen[net].update({key: value for key, value in networks.items() if net == 'G' or key != 'latent_size'})
    if not growing:
        train.pop('lod_training_kimg', None)
        train.pop('lod_transition_kimg', None)
    chosen['train'].update({**TRAIN, **train})
    return chosen


def growing(config: ModuleType) -> dict[str, dict]:
    """Figure 4: row g of Table 1 with and without growing, with a snapshot at every tick."""
    common: dict[str, Any] = {'total_kimg': 48, 'network_snapshot_ticks': 1, 'minibatch_default': 16,
                              'G_learning_rate_max': 0.003, 'D_learning_rate_max': 0.003}
    grown = derived(config, 'table1-celeba-g-pixelwise-normalization', DIGITS, {**NETWORKS, 'fmap_base': 256},
                    lod_training_kimg=3, lod_transition_kimg=3, **common)
    fixed = copy.deepcopy(grown)
    fixed['train'].update(config.variants['nogrowing']['train'])
    return {'growing': grown, 'nogrowing': fixed}


def table1_rows(config: ModuleType, dataset: dict, networks: dict, **train: Any) -> dict[str, dict]:
    """The rows of Table 1, which differ as in the paper, with half its minibatch and five times its learning rate."""
    rows = {}
    for row in config.table1_rows:
        if row.startswith('h-'):
            continue    # Row h is row g with more feature maps and a longer training.
        name = 'table1-celeba-' + row
        original = config.experiments[name]['train']
        rows[row] = derived(config, name, dataset, networks, minibatch_default=original['minibatch_default'] // 2,
                            G_learning_rate_max=5 * original.get('G_learning_rate_max', 0.001),
                            D_learning_rate_max=5 * original.get('D_learning_rate_max', 0.001), **train)
        if rows[row]['D'].get('mbdisc_kernels'):
            rows[row]['D']['mbdisc_kernels'] = 20
    return rows


def ablation(config: ModuleType) -> dict[str, dict]:
    return table1_rows(config, SMALL_DIGITS, NETWORKS, total_kimg=32, lod_training_kimg=4, lod_transition_kimg=4)


def colour(config: ModuleType) -> dict[str, dict]:
    """The rows of Table 1 on colour pictures with coarse and fine structure, at 32x32."""
    return table1_rows(config, COLOUR, {**NETWORKS, 'fmap_base': 256}, total_kimg=40, lod_training_kimg=3,
                       lod_transition_kimg=3)


def variations(config: ModuleType) -> dict[str, dict]:
    """Row g of :func:`ablation` and versions with one change each. The rows 'lsgan*' follow appendix B."""
    base = ablation(config)['g-pixelwise-normalization']
    lsgan = changed(base, loss={'type': 'lsgan'})
    unnormalized = {'use_pixelnorm': False}
    return {
        'g': base,
        'gamma-750': changed(base, loss={'type': 'iwass', 'iwass_target': 750.0}),
        'plain-weights': changed(base, train={'G_smoothing': 0.0}),
        BFLOAT16: base,
        'no-pixelnorm': changed(base, G=unnormalized),
        'lsgan': changed(lsgan, D={'use_gdrop': True}, train={'gdrop_coef': 0.2}),
        'lsgan-no-noise': lsgan,
        'lsgan-no-noise-no-pixelnorm': changed(lsgan, G=unnormalized),
    }


def changed(experiment: dict, **sections: dict) -> dict:
    """A copy of an experiment with some options changed. The section 'loss' is replaced as a whole."""
    return {**experiment, **{name: options if name == 'loss' else {**experiment[name], **options}
                             for name, options in sections.items()}}


def modes(config: ModuleType) -> dict[str, dict]:
    """Table 4 on stacked digits of scikit-learn, for 400 kimg instead of 10 000. The networks have their full size."""
    rows = {}
    for name in config.experiments:
        match = re.fullmatch(r'mnist-modes-(k\d)-(.+)', name)
        if match:
            rows['-'.join(match.groups())] = derived(
                config, name, STACKED, {}, total_kimg=400, tick_kimg_default=20, image_snapshot_ticks=4,
                lod_training_kimg=20, lod_transition_kimg=60)
    return rows


# ----------------------------------------------------------------------------------------------------------------------
# Datasets.


def make_datasets(names: Sequence[str], data_dir: str) -> None:
    """Make the missing datasets of studies that need no download: digits, and RGB images of three digits."""
    os.makedirs(data_dir, exist_ok=True)
    digits, stacked = [os.path.join(data_dir, section['h5_path']) for section in (DIGITS, STACKED)]
    if set(names) - {'colour'}:
        with one_at_a_time(digits):
            if not os.path.exists(digits):
                create(digits, labelled_sets.digits, 32)
    if 'modes' in names:
        with one_at_a_time(stacked):
            if not os.path.exists(stacked):
                stack_digits(digits, stacked)


def stack_digits(digits: str, stacked: str) -> None:
    """Write a dataset of RGB images whose channels are random images of a dataset with one channel."""
    h5, levels = hdf5_format.open_levels(digits)
    with h5:
        images = levels[max(levels)][:, 0]
    indices = np.random.RandomState(123).randint(len(images), size=(NUM_STACKED, 3))
    with HDF5Writer(stacked, images.shape[-1], 3) as writer:
        for group in np.array_split(indices, 40):
            writer.add_images(images[group])
