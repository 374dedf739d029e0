"""Resolves the options of an experiment with its variants and overrides, and checks them."""

import contextlib
import copy
import difflib
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import theano_torch
from theano_torch import memory

import numpy as np

import loss
import metrics
from common.defaults import as_written
from common.errors import UserError, did_you_mean
from common.objects import defaults_of, import_obj
from common.old_options import advice
from common.options import Names, Run, RunName, Seed, Snapshot, annotations_of, check_value, parse_text, short_repr
from common.options import check_options as check_options_of
from data.dataset import Dataset
from metrics import evaluation
from nets.ranks import SINGLE, Ranks
from networks import FeatureMaps
from training import processes
from training.schedule import Schedule

# Options of the section 'train' that the training function does not get, see training.resume.find_start.
RESUME_OPTIONS = ('resume_run_id', 'resume_snapshot', 'resume_with_changes')
PLAIN = (bool, int, float, str, list, tuple, dict, type(None))      # Types of options.
LOSS_INPUTS = ('G', 'D', 'min_lod', 'max_lod', 'real_images', 'real_labels', 'fake_latents', 'fake_labels', 'image_lod',
               'random', 'ranks')       # Parameters of evaluate_loss that are not options.
NETWORK_SHAPE = ('num_channels', 'resolution', 'label_size')    # Parameters of networks that the dataset determines.
ABSENT = ('use_gdrop', 'use_batchnorm', 'use_layernorm', 'use_pixelnorm')    # May be False in any network.
RESUME_TYPES: dict[str, Any] = {'resume_run_id': Run | None, 'resume_snapshot': Snapshot, 'resume_with_changes': bool}
TOP_LEVEL_TYPES: dict[str, Any] = {'desc': RunName, 'random_seed': Seed, 'metrics': Names}
FUNC_EXAMPLES = {'G': 'networks.G_paper', 'D': 'networks.D_paper', 'create_dataset': 'dataset_tool.create_digits'}
NEAREST = 3     # Largest number of names to suggest for an unknown one.
SECTIONS = ('desc', 'random_seed', 'dataset', 'create_dataset', 'G', 'D', 'loss', 'train', 'metrics')


def resolve_config(config: Any, name: str, overrides: Iterable[str] = (),
                   train_gan: Callable | None = None) -> dict:
    """Return the experiment `name` of `config` as one dict, with `overrides` applied and its sections checked.

    Parameters
    ----------
    config : module
        `config.py`.
    name : str
        Key of ``config.experiments``, followed by any number of keys of ``config.variants``: ``'NAME-VARIANT'``.
    overrides : iterable of str
        ``'SECTION.KEY=VALUE'``, for example ``'train.total_kimg=10'``.
    train_gan : callable, optional
        Default training function of experiments; its annotations determine how VALUE is parsed.

    Raises
    ------
    UserError
        An experiment, section or key is unknown, or a value is invalid; the message suggests valid ones.
    """
    experiment = with_variants(config, name)
    apply_overrides(experiment, overrides, train_gan)
    check_keys(name, experiment, SECTIONS)
    if 'train' not in experiment:
        raise UserError(f"experiments[{name!r}]: the section 'train' is missing; it may be empty: 'train': {{}}")
    for section in ('dataset', 'G', 'D') if is_training(experiment) else ():
        if section not in experiment:
            raise UserError(f'experiments[{name!r}]: the section {section!r} is missing')
    for section in ('G', 'D', 'create_dataset'):
        if 'func' not in experiment.get(section, {'func': ''}):
            raise UserError(f'{section}.func: is missing; name the function, for example {FUNC_EXAMPLES[section]!r}')
    return experiment


def apply_overrides(experiment: dict, overrides: Iterable[str], train_gan: Callable | None = None) -> None:
    """Apply overrides ``'SECTION.KEY=VALUE'`` to an experiment, see :func:`resolve_config`."""
    given, own_file = [], experiment.get('dataset', {}).get('h5_path')
    for override in overrides:
        path, equals, text = override.partition('=')
        section, _, key = path.strip().partition('.')
        if key and section not in SECTIONS and (known := advice(path.strip())):
            raise UserError(f'--set {path.strip()}: no such option{known}')
        if key:
            check_keys('--set', [section], SECTIONS)
        if not equals or bool(key) == (section in TOP_LEVEL_TYPES) or section not in SECTIONS:
            raise UserError(f'--set {override}: write SECTION.KEY=VALUE, for example train.total_kimg=10')
        given.append((section, key.strip(), text))
    # Functions first, because their annotations determine how the other values are parsed.
    for section, key, text in sorted(given, key=lambda entry: entry[1] != 'func'):
        if not key:
            experiment[section] = parse_text(section, text, TOP_LEVEL_TYPES[section])
            continue
        types = {} if key == 'func' else types_of(section, experiment, train_gan)
        option, at, resolution = key.partition('[')
        value = parse_text(f'{section}.{key}', text, Any if at else types.get(key, Any))
        options = experiment.setdefault(section, {})
        if at and resolution[:-1].isdigit() and resolution.endswith(']'):
            # One entry of a table: train.minibatch_overrides[64]=8.
            options[option] = {**(options.get(option) or {}), int(resolution[:-1]): value}
        else:
            options[key] = value
    # create_dataset makes only the experiment's own file; another name must be an existing file.
    file = experiment.get('dataset', {}).get('h5_path')
    if file != own_file and 'create_dataset' not in {section for section, _key, _text in given} and (
            os.path.isabs(str(file)) or os.path.basename(str(file)) != own_file):
        experiment.pop('create_dataset', None)


def types_of(section: str, experiment: dict, train_gan: Callable | None) -> dict[str, Any]:
    """{option: annotation} of a section; {} if the function that gets the options is unknown."""
    funcs: dict[str, Callable] = {'dataset': Dataset, 'loss': loss.evaluate_loss}
    func = funcs.get(section)
    if section == 'train':
        func = training_function(experiment, train_gan) if train_gan or 'func' in experiment['train'] else None
    elif func is None and 'func' in experiment.get(section, {}):
        func = function_of(section, experiment)
    types: dict[str, Any] = annotations_of(func) if func else {}
    return {**types, **RESUME_TYPES} if section == 'train' else types


def with_variants(config: Any, name: str) -> dict:
    """A copy of the experiment that `name` begins with, with the variants in the rest of `name` applied."""
    base = name
    chosen: list[str] = []
    while base not in config.experiments:
        base, _, variant = base.rpartition('-')
        if variant not in config.variants:
            raise UserError(f'experiment={name!r}: config.py has no such experiment{nearest_names(name, config)}')
        chosen.insert(0, variant)
    check_sections(f'experiments[{base!r}]', config.experiments[base])
    experiment = copy.deepcopy(config.experiments[base])
    for variant in chosen:
        check_sections(f'variants[{variant!r}]', config.variants[variant])
        for section, options in config.variants[variant].items():
            changes = copy.deepcopy(options)
            experiment[section] = {**experiment.get(section, {}), **changes} if isinstance(options, dict) else changes
        experiment['desc'] = f'{experiment.get("desc", base)}-{variant}'
    return experiment


def check_sections(place: str, sections: object) -> None:
    """Raise `UserError` unless an experiment or variant is a dict of sections of the right types."""
    if not isinstance(sections, dict):
        raise UserError(f"{place}={short_repr(sections)}: must be a dict of sections, for example {{'train': {{}}}}")
    for section, options in sections.items():
        if section in SECTIONS and section not in TOP_LEVEL_TYPES and not isinstance(options, dict):
            raise UserError(f"{place}[{section!r}]={short_repr(options)}: must be a dict {{option: value}}")


def is_training(experiment: dict) -> bool:
    """Whether an experiment trains networks, rather than calling a utility such as those of util_scripts.py."""
    func = experiment.get('train', {}).get('func')
    return func is None or 'dataset' in parameters_of('train', function_of('train', experiment))


def describe_experiment(experiment: dict) -> str:
    """Describe an experiment in a few words for a list: its size and length, or its error if it cannot be run."""
    try:
        check_sections('experiment', experiment)
        for section in ('train', *(() if 'func' in experiment.get('train', {}) else ('dataset', 'G', 'D'))):
            if section not in experiment:
                return f'error: the section {section!r} is missing'
        if 'dataset' not in experiment:
            return str(experiment['train'].get('func', ''))
        types, options = annotations_of(Dataset), experiment['dataset']
        if 'h5_path' not in options:
            return 'error: dataset.h5_path is missing'
        for name in ('h5_path', 'resolution'):
            check_value('dataset.' + name, options.get(name, None if name == 'resolution' else ''), types[name])
    except UserError as error:
        return f'error: {error}'
    resolution = options.get('resolution')
    size = f'{resolution}x{resolution}' if resolution else options['h5_path']
    return f'{size}, {experiment["train"].get("total_kimg", 15000)} kimg'


def function_of(section: str, experiment: dict) -> Callable:
    """The function named by ``SECTION.func``."""
    func = import_obj(experiment[section]['func'])
    if not callable(func):
        raise UserError(f'{section}.func={experiment[section]["func"]!r}: is not a function')
    return func


def parameters_of(section: str, func: Callable) -> dict[str, inspect.Parameter]:
    """{name: parameter} of a function, without ``*args`` and ``**kwargs``."""
    try:
        parameters = inspect.signature(func).parameters
    except (ValueError, TypeError):     # Some functions written in C have no signature.
        raise UserError(f'{section}.func={getattr(func, "__name__", func)!r}: cannot be called with options') from None
    return {name: parameter for name, parameter in parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)}


def network_options(experiment: dict, name: str) -> dict:
    """The options of the network `name`, 'G' or 'D', for its function.

    Options of `ABSENT` that are False are dropped if the function does not have them.
    """
    known = parameters_of(name, function_of(name, experiment))
    return {option: value for option, value in experiment[name].items()
            if option in known or option not in ABSENT or value is not False}


def check_arguments(section: str, kwargs: dict, func: Callable, given: Iterable[str] = (),
                    more: Iterable[str] = ()) -> None:
    """Check a config section against the signature of its function: names, values, and required options.

    Parameters
    ----------
    section : str
    kwargs : dict
    func : callable
    given : sequence of str
        Parameters that are not options.
    more : sequence of str
        Options that are not parameters.
    """
    parameters, given = parameters_of(section, func), set(given)
    has_func = section in ('train', *FUNC_EXAMPLES)
    check_keys(section, kwargs, (set(parameters) - given) | ({'func'} if has_func else set()) | set(more))
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in kwargs and name not in given:
            raise UserError(f'{section}.{name}: is missing, {func.__name__} needs it')
    check_options_of(kwargs, func, lambda name: f'{section}.{name}', more={
        name: RESUME_TYPES.get(name, Any) for name in more})


def check_keys(section: str, given: Iterable[str], valid: Iterable[str]) -> None:
    for key in given:
        if key not in valid:
            raise UserError(f'{section}.{key}: no such option{advice(f"{section}.{key}") or nearest(key, valid)}')


def nearest(word: object, candidates: Iterable) -> str:
    """'; did you mean ...?' for an error message, or a list of all candidates."""
    return did_you_mean(word, candidates, cutoff=0.5) or '; choose from ' + ', '.join(sorted(map(str, candidates)))


def nearest_names(name: str, config: Any) -> str:
    """'; did you mean ...?' with similar experiments of `config`, with variants; otherwise the command to list all."""
    def near(word: str, words: Iterable[str]) -> list[str]:
        of_lower = {word.lower(): word for word in words}
        return [of_lower[found] for found in difflib.get_close_matches(word.lower(), of_lower, n=NEAREST, cutoff=0.6)]

    words = name.split('-')
    candidates = dict.fromkeys(near(name, config.experiments))
    for first in range(1, len(words)):      # Treat the words from here on as variants.
        variants = [near(word, config.variants)[:1] for word in words[first:]]
        if all(variants):
            base = '-'.join(words[:first])
            candidates |= dict.fromkeys('-'.join([found, *(word for [word] in variants)])
                                        for found in near(base, config.experiments))
    matches = [found for found in config.experiments if name and found.startswith(name)] or near(name, candidates)
    matches = matches[:NEAREST]
    if not matches:
        return '; `python train.py --list` prints all names'
    return f'; did you mean {" or ".join(map(repr, matches))}?'


def training_function(experiment: dict, train_gan: Callable | None) -> Callable:
    """The function named by ``train.func``, by default `train_gan`."""
    if experiment['train'].get('func') is not None:
        return function_of('train', experiment)
    assert train_gan
    return train_gan


def with_defaults(experiment: dict, train_gan: Callable) -> dict:
    """The experiment, completed with the default values of all other options.

    Parameters
    ----------
    experiment : dict
    train_gan : callable
        Default training function of experiments.

    Returns
    -------
    dict
    """
    funcs = {'dataset': Dataset, 'loss': loss.evaluate_loss, 'train': training_function(experiment, train_gan),
             'G': import_obj(experiment['G']['func']), 'D': import_obj(experiment['D']['func'])}
    full = dict(experiment)
    for section, func in funcs.items():
        defaults = {name: default for name, default in defaults_of(func).items() if isinstance(default, PLAIN)}
        full[section] = {**defaults, **experiment.get(section, {})}
    return full


def as_recorded(experiment: dict, known: Any) -> dict:
    """A recorded experiment, with the defaults of its time filled in where they have changed since.

    `known` are the changed defaults that the run already had, see `common.defaults`.
    """
    recorded, known = dict(experiment), known if isinstance(known, list) else ()
    for section, default in (('train', 'train.train_gan'), ('G', ''), ('D', '')):
        if isinstance(experiment.get(section), dict):
            options = as_written(experiment[section].get('func', default), experiment[section], known)
            recorded[section] = {option: value for option, value in options.items() if option not in NETWORK_SHAPE}
    return recorded


def check_options(experiment: dict, train_gan: Callable, ranks: Ranks = SINGLE) -> tuple[Callable, dict, dict]:
    """Check all options of an experiment that trains: names, values, and combinations.

    Parameters
    ----------
    experiment : dict
    train_gan : callable
        Default training function of experiments.
    ranks : Ranks
        Processes that share the minibatches.

    Returns
    -------
    (callable, dict, dict)
        The training function, its options, and the options of the loss.

    Raises
    ------
    UserError
        An option does not exist, or a value is invalid.
    """
    check_top_level(experiment)
    train, loss_kwargs = dict(experiment['train']), experiment.get('loss', {})
    train_func = training_function(experiment, train_gan)
    check_arguments('train', train, train_func, given=['run_dir', 'dataset', 'G', 'D', 'loss_kwargs', 'ranks',
                                                       'loss_scaling', 'Gs', 'run_states'], more=RESUME_OPTIONS)
    for option in ('func', *RESUME_OPTIONS):
        train.pop(option, None)
    if 'run_states' not in inspect.signature(train_func).parameters and experiment['train'].get('resume_run_id'):
        raise UserError(f'train.resume_run_id: {experiment["train"]["func"]!r} cannot resume')
    check_arguments('loss', loss_kwargs, loss.evaluate_loss, given=LOSS_INPUTS)
    evaluation.check_settings(train.get('metrics') or [], train.get('metric_num_images'), 'train.')
    check_keys('metrics', experiment.get('metrics', []), ['digit_recognition', *metrics.METRICS])
    check_arguments('dataset', experiment['dataset'], Dataset)
    if 'create_dataset' in experiment:
        check_arguments('create_dataset', experiment['create_dataset'], function_of('create_dataset', experiment),
                        given=['h5_path'])
    for net in 'GD':
        check_arguments(net, network_options(experiment, net), function_of(net, experiment), given=NETWORK_SHAPE)
    check_together(experiment, {**defaults_of(train_func), **train}, ranks)
    return train_func, train, loss_kwargs


def check_utility(experiment: dict) -> Callable:
    """Check the options of an experiment that does not train; return its function."""
    check_top_level(experiment)
    func = function_of('train', experiment)
    check_arguments('train', experiment['train'], func, given=['run_dir', 'result_dir'])
    return func


def check_top_level(experiment: dict) -> None:
    """Check the options of an experiment outside of its sections: desc, random_seed, metrics."""
    for name, annotation in TOP_LEVEL_TYPES.items():
        if name in experiment:
            check_value(name, experiment[name], annotation)


def check_together(experiment: dict, train: dict, ranks: Ranks) -> None:
    """Check combinations of options that do not depend on the dataset's file."""
    resolution = experiment['dataset'].get('resolution')
    check_labels(train, experiment['dataset'].get('max_labels', 'all'))
    if 'digit_recognition' in experiment.get('metrics', []) and not importlib.util.find_spec('sklearn'):
        raise UserError("metrics: 'digit_recognition' needs scikit-learn; pip install it, or use --set metrics=[]")
    for name in experiment.get('metrics', []):
        if name in metrics.METRICS and 'classifier' in metrics.METRICS[name].needs:
            raise UserError(f'metrics: {name!r} needs the file of a classifier; remove it, and after the training run '
                            f'python evaluate_metrics.py RUN --metrics {name} --classifier FILE')
    if resolution is None:
        return
    for net in 'GD':
        func = function_of(net, experiment)
        types, options = annotations_of(func), {**defaults_of(func), **experiment[net]}
        if 'resolution' in types:
            check_value('dataset.resolution', resolution, types['resolution'])
        if {'fmap_base', 'fmap_decay', 'fmap_max'} <= options.keys():
            # Raises an error if the last stage has no feature maps.
            maps = FeatureMaps(resolution, options['fmap_base'], options['fmap_decay'], options['fmap_max'], net + '.')
            maps(maps.last_stage - ('progressive' in options))      # The networks for MNIST have one stage less.
    check_minibatches(ranks, train, resolution, experiment['D'])


def check_labels(train: dict, label_size: int | str, labels_path: str | None = None) -> None:
    """Raise `UserError` if an option needs labels and the dataset has none.

    Parameters
    ----------
    train : dict
        Options of the training function, with defaults.
    label_size : int or 'all'
        Number of columns of the labels.
    labels_path : str, optional
        Expected file of the labels, for the message.
    """
    grid_type = train.get('image_grid_type', 'default')
    if grid_type != 'default' and label_size == 0:
        cure = f'add {labels_path}, or ' if labels_path else ''
        raise UserError(f"train.image_grid_type={grid_type!r}: the dataset has no labels; {cure}use 'default'")


def final_metrics(experiment: dict, label_size: int) -> list[str]:
    """The metrics to evaluate after a training. Prints a note if digit_recognition is skipped for lack of classes."""
    names = list(experiment.get('metrics', []))
    if 'digit_recognition' in names and label_size < 2:
        names.remove('digit_recognition')
        print(f'digit_recognition is skipped: it needs at least two classes, this training has {label_size or "none"}; '
              'use --set metrics=[] to omit this note')
    return names


def check_minibatches(ranks: Ranks, train: dict, resolution: int, D_options: dict) -> None:
    """Raise `UserError` unless ranks and groups of minibatch statistics divide all minibatches of the schedule.

    Parameters
    ----------
    ranks : Ranks
    train : dict
        Options of the training function, with defaults.
    resolution : int
        Resolution of the dataset.
    D_options : dict
    """
    if not {'lod_initial_resolution', 'minibatch_default', 'minibatch_overrides'} <= train.keys():
        return      # A training function of the user's own.
    lowest = min(2 ** int(np.log2(train['lod_initial_resolution'])), resolution)
    resolutions = [2 ** k for k in range(lowest.bit_length() - 1, resolution.bit_length())]
    sizes = {res: (train['minibatch_overrides'] or {}).get(res, train['minibatch_default']) for res in resolutions}
    processes.check_minibatches(ranks, resolutions, train['minibatch_default'], train['minibatch_overrides'])
    for option in ('mbstat_groups', 'mbstd_group_size'):
        number = D_options.get(option) or 1
        for res, size in sizes.items():
            share = size // ranks.size
            if share % number and not (option == 'mbstd_group_size' and share < number):
                raise UserError(f'D.{option}={number}: must divide the minibatch, which is {share} at {res}x{res}'
                                f'{" per process" if ranks.size > 1 else ""}')


@contextlib.contextmanager
def naming_minibatch(schedule: Callable[[], Schedule], minibatch_overrides: dict[int, int] | None,
                     ranks: Ranks) -> Iterator[None]:
    """Context of the training that turns MemoryError into a `UserError` that names the minibatch to reduce.

    Parameters
    ----------
    schedule : callable
        Returns the current Schedule.
    minibatch_overrides : dict or None
    ranks : Ranks

    Raises
    ------
    UserError
    """
    try:
        yield
    except MemoryError as error:
        resolution, size = schedule().resolution, schedule().minibatch_size
        reason = str(error) if isinstance(error, theano_torch.OutOfMemory) else f'out of memory: {memory.host()}'
        option = f'train.minibatch_overrides[{resolution}]'
        present = f'{option}={size}'
        if resolution not in (minibatch_overrides or {}):
            present = f'train.minibatch_default={size}'
        smaller = size // 2 // ranks.size * ranks.size
        cure = f'set {option} to {smaller}' if smaller else 'lower G.fmap_base and D.fmap_base'
        raise UserError(f'{reason}; at {resolution}x{resolution} {present} is too much: {cure}') from error
