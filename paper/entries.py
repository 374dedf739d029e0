"""The record of the runs in a figure or table: snapshot, training length, dataset, differences from `config.py`.

This module compares a run with the experiment that it stands for. If the dataset, the networks or the loss differ, the
figure leaves the run out, or marks it if the user insists.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from types import ModuleType

import metrics
from common.errors import UserError
from common.objects import defaults_of
from data import hdf5_format
from training.data_sets import data_path
from training.options import as_recorded, function_of, with_defaults, with_variants
from training.recorded import (
    CHANGED_DEFAULTS,
    FREE_OPTIONS,
    RECORD,
    check_functions,
    data_dir_of,
    differences,
    trusted_functions,
)

# Options that do not change the result of a training. Its length does, so it is reported as a difference.
FREE = (FREE_OPTIONS - {'train.total_kimg', 'dataset.h5_path'}) | {'random_seed', 'dataset.prefetch_images'}
DATA_SECTIONS = ('dataset', 'G', 'D', 'loss')       # A run that differs here is a run of another experiment.
ANY_DATA = ('figure4c-growing', 'figure4c-nogrowing')       # Only their speed is shown, so any images do.
NETWORK_OPTIONS = ('fmap_base', 'fmap_max', 'latent_size', 'normalize_latents', 'use_wscale', 'use_pixelnorm',
                   'use_leakyrelu', 'use_batchnorm')        # Options of G that are compared if the pickle has them.
TOLERANCE = 0.01            # Share of images that may be missing because their records cannot be decoded.
SHOWN_DIFFERENCES = 4       # In the captions of pictures. Tables and JSON files list all.


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A run compared with the experiment of `config.py` that it stands for."""

    data: str               # Description of the dataset.
    planned_kimg: float | None
    seed: int | None
    differs: list[str]      # Training options that differ.
    other: list[str]        # Reasons why the run belongs to another experiment: dataset, networks, loss.


@dataclasses.dataclass
class Entry:
    """One run in one row, panel or curve of a figure or table. The JSON file beside the figure has these fields."""

    part: str               # Row, panel or curve.
    experiment: str
    run: str                # Folder or pickle.
    snapshot: str           # File name without suffix, or a description of several snapshots.
    kimg: float | None      # Thousands of training images; None if unknown.
    planned_kimg: float | None      # Training length of the experiment.
    data: str
    runs: int               # Number of runs in the same row, panel or curve.
    seed: int | None
    images: dict[str, int]  # {metric: number of generated images}
    differs: list[str]
    other: list[str]
    notes: list[str] = dataclasses.field(default_factory=list)
    chosen: bool = False    # Whether the snapshot is the best one of its training, as in the paper.

    @property
    def trained(self) -> str:
        """'4000 of 10000 kimg'"""
        planned = '' if self.planned_kimg is None else f' of {self.planned_kimg:g}'
        return ('unknown' if self.kimg is None else f'{self.kimg:g}') + f'{planned} kimg'

    @property
    def evaluated(self) -> str:
        """'swd of 512 images (paper: 16384)'"""
        return ', '.join(images_text(name, num) for name, num in self.images.items())

    @property
    def is_exact(self) -> bool:
        """Whether the run matches the experiment, is fully trained and was measured on the paper's number of images."""
        is_long_enough = bool(self.kimg and self.planned_kimg and self.kimg >= 0.999 * self.planned_kimg)
        return ((is_long_enough or self.chosen) and not self.differs and not self.other
                and '(paper' not in self.evaluated)

    def caption(self) -> str:
        """One paragraph for the margin of a picture."""
        facts = [self.run_name, self.snapshot, self.trained, self.data, f'1 of {self.runs} runs' if self.runs > 1 else
                 '1 run', '' if self.seed is None else f'seed {self.seed}', self.evaluated, *self.notes]
        text = f'{self.part}: ' + '; '.join(filter(None, facts)) + '.'
        if self.other:
            text += f' NOT {self.experiment}: {some(self.other)}.'
        return text + (f' Differs from {self.experiment}: {some(self.differs)}.' if self.differs else '')

    @property
    def run_name(self) -> str:
        """Name of the folder; for a pickle, its name and its folder's."""
        folder, name = os.path.split(os.path.normpath(self.run))
        return os.path.join(os.path.basename(folder), name) if name.endswith('.pkl') else name


def some(texts: Sequence[str]) -> str:
    """The first `SHOWN_DIFFERENCES` texts and the number of the rest."""
    rest = len(texts) - SHOWN_DIFFERENCES
    return ', '.join(texts[:SHOWN_DIFFERENCES]) + (f' and {rest} more' if rest > 0 else '')


def images_text(name: str, num: int) -> str:
    """'swd of 512 images (paper: 16384)'"""
    usual = metrics.METRICS[name].num_images
    return f'{name} of {num} images' + (f' (paper: {usual})' if num != usual else '')


def table_of(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the table that lists the runs behind another table."""
    header = ['shown', 'run', 'snapshot', 'kimg', 'dataset', 'runs', 'seed', 'metrics', 'differs from config.py']
    return header, [[
        entry.part + (' (NOT the experiment)' if entry.other else ''), entry.run, entry.snapshot,
        entry.trained.removesuffix(' kimg'), entry.data, str(entry.runs),
        '-' if entry.seed is None else str(entry.seed), entry.evaluated or '-',
        '; '.join([*entry.other, *entry.differs, *entry.notes]) or '-'] for entry in entries]


# ----------------------------------------------------------------------------------------------------------------------
# Comparison of a run with an experiment.


def compare(config: ModuleType, name: str, own: dict | None, path: str, data_dir: str, train_gan: Callable | None,
            network: tuple[list[int], dict] | None = None) -> Comparison:
    """Compare a run with the experiment `name` of `config`.

    Parameters
    ----------
    config : module
    name : str
        The experiment.
    own : dict or None
        ``config.txt`` of the run, None without one.
    path : str
        Path of the run, for messages.
    data_dir : str
        Folder of the datasets.
    train_gan : callable or None
        The training function of experiments that name none. None: its defaults are not filled in.
    network : (image shape [C, H, W], options), optional
        Of the run's generator, if it has been loaded.
    """
    experiment = with_variants(config, name)
    planned = {**(defaults_of(train_gan) if train_gan else {}), **experiment['train']}.get('total_kimg')
    if own is None:
        return _compare_network(experiment, planned, *(network or ([], {})))
    if not isinstance(own['dataset'], dict):
        return Comparison('unknown', planned, None, [], ['dataset (config.txt lacks its options)'])
    data, num, shape = _data_of(config, own, data_dir)
    differs = _differences(config, experiment, own, path, train_gan, (shape or [None])[-1])
    any_data = name in ANY_DATA
    other = [text for text in differs if text.partition('.')[0] in DATA_SECTIONS and not (
        any_data and text.startswith('dataset.') and not text.startswith('dataset.resolution'))]
    different_options = {text.partition(' ')[0] for text in other}
    if 'dataset.resolution' not in different_options:
        other += _other_shape(experiment, network[0] if network else shape)
    expected_num = experiment['dataset'].get('expected_images')
    if not {'dataset.h5_path', 'dataset.classes'} & different_options and num and expected_num and abs(
            num - expected_num) > TOLERANCE * expected_num:
        other.append(f'{num} training images instead of {expected_num}')
    record = own.get(RECORD)
    if isinstance(record, dict):
        differs += [f'began from {record["networks"]}'] if record.get('networks') else []
        differs += [f'precision {record["precision"]}'] if record.get('precision') in ('bfloat16', 'float16') else []
    seed = own.get('random_seed', 1000)
    return Comparison(data, planned, seed if isinstance(seed, int) else None,
                      [text for text in differs if text not in other], other)


def _compare_network(experiment, planned, shape, options):
    """The :class:`Comparison` of a pickle without a ``config.txt``, by its image shape [C, H, W] and options."""
    expected = {**defaults_of(function_of('G', experiment)), **experiment['G']}
    other = [f'G.{key} {options[key]} (config.py: {expected[key]})' for key in NETWORK_OPTIONS
             if key in options and key in expected and options[key] != expected[key] and not (
                 key == 'latent_size' and None in (options[key], expected[key]))]
    if options.get('label_size') and experiment['dataset'].get('max_labels') == 0:
        other.append(f'a network for {options["label_size"]} classes')
    return Comparison('training and dataset unknown', planned, None, [], [*_other_shape(experiment, shape), *other])


def same_task(config: ModuleType, first: str, second: str) -> bool:
    """Whether two experiments have the same dataset, networks and loss. Training options may differ."""
    one, two = (with_variants(config, name) for name in (first, second))
    return all(one.get(section, {}) == two.get(section, {}) for section in DATA_SECTIONS)


def _differences(config, experiment, own, path, train_gan, resolution):
    """['SECTION.KEY X (config.py: Y)'] of a run whose dataset has the given resolution (None if unknown)."""
    record = own.get(RECORD)
    known = record.get(CHANGED_DEFAULTS) if isinstance(record, dict) else None
    own = {section: options for section, options in own.items() if section != RECORD}
    try:
        check_functions(path, own, trusted_functions(config))
        own = as_recorded(own, known)
        own, present = (_filled(options, train_gan) for options in (own, experiment))
    except UserError as error:
        return [f'G.func ({error})']
    except (KeyError, TypeError, AttributeError, ValueError):
        return ['G.func (config.txt lacks sections or options)']
    for options in (own, present):
        options['dataset'] = {**options['dataset'], 'h5_path': os.path.basename(str(options['dataset'].get('h5_path')))}
    if own['dataset']['resolution'] is None:
        own['dataset']['resolution'] = resolution or present['dataset']['resolution']
    # `compare` counts the images where the experiment expects a number.
    counted = {'dataset.max_images'} if present['dataset']['expected_images'] else set()
    found = [f'{key} {one} (config.py: {other})' for key, one, other in differences(own, present, FREE | counted)]
    sections = [*DATA_SECTIONS, 'train']        # Captions show the first differences only; the dataset matters most.
    return sorted(found, key=lambda text: sections.index(text.partition('.')[0])
                  if text.partition('.')[0] in sections else len(sections))


def _filled(experiment, train_gan):
    if train_gan is None:
        train_gan = _no_training
    return {section: dict(options) if isinstance(options, dict) else options
            for section, options in with_defaults({'loss': {}, **experiment}, train_gan).items()}


def _no_training():
    """Placeholder for a training function whose defaults are unknown."""


def _data_of(config, own, data_dir):
    """(description of a run's dataset, number of images or None, [channels, height, width] or [])."""
    options = own['dataset']
    h5_path = path_of_data(config, own, data_dir)
    num, channels, resolution = _shape_in_file(h5_path)
    if options.get('classes') is not None:
        num = None
    num = options.get('max_images') or num
    resolution = options.get('resolution') or resolution
    words = [os.path.basename(h5_path), f'{num} images' if num else 'number of images unknown']
    words += [f'{resolution}x{resolution}'] if resolution else []
    words += ['mirrored'] if options.get('mirror_augment') else []
    words += [f'classes {options["classes"]}'] if options.get('classes') is not None else []
    return ', '.join(words), num, [channels, resolution, resolution] if channels and resolution else []


def path_of_data(config: ModuleType, own: dict, data_dir: str) -> str:
    """The dataset of a run: the file in `data_dir`, or the recorded path if only that exists."""
    name = str(own['dataset'].get('h5_path')) if isinstance(own['dataset'], dict) else ''
    path = data_path(name, data_dir)
    if name and not os.path.exists(path):
        recorded = data_path(name, data_dir_of(own.get(RECORD), config.data_dir, own))
        path = recorded if os.path.exists(recorded) else path
    return path


def _shape_in_file(h5_path):
    """(images, channels, resolution) of a dataset; three times None if it cannot be read."""
    try:
        h5, levels = hdf5_format.open_levels(h5_path)
    except UserError:
        return None, None, None
    with h5:
        num, channels, resolution, _ = levels[max(levels)].shape
        return num, channels, resolution


def _other_shape(experiment, shape):
    """[the difference] if an image shape [C, H, W] is not the experiment's, else []. An unknown shape is []."""
    expected = [1 if 'digits' in experiment['dataset']['h5_path'] else 3] + 2 * [experiment['dataset'].get(
        'resolution')]
    if not shape or None in expected or list(shape) == expected:
        return []
    words = ['%dx%d, %s' % (size[2], size[1], 'grey' if size[0] == 1 else 'colour') for size in (shape, expected)]
    return [f'images of {words[0]} instead of {words[1]}']
