"""Options of an experiment: resolved, with variants and overrides, and checked."""

import ast
import contextlib
import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import theano_torch
from theano_torch import memory

import numpy as np

import loss
import metrics
from common.errors import UserError, did_you_mean
from common.objects import defaults_of, import_obj
from data.dataset import Dataset
from metrics import evaluation
from nets.ranks import Ranks
from training import processes
from training.schedule import Schedule

RESUME_OPTIONS = ('resume_run_id', 'resume_snapshot', 'resume_with_changes')   # In the section 'train', see where_from.
PLAIN = (bool, int, float, str, list, tuple, dict, type(None))      # What options are made of.
SECTIONS = ('desc', 'random_seed', 'dataset', 'create_dataset', 'G', 'D', 'loss', 'train', 'metrics')


def resolve_config(config: Any, name: str, overrides: Iterable[str] = ()) -> dict:
    """The experiment `name` of `config` as one dict, checked, with `overrides` applied.

    Parameters
    ----------
    config : module
        `config.py`.
    name : str
        Key of ``config.experiments``, followed by any number of keys of ``config.variants``: ``'NAME-VARIANT'``.
    overrides : iterable of str
        ``'SECTION.KEY=VALUE'``, for example ``'train.total_kimg=10'``.

    Raises
    ------
    UserError
        Unknown experiment, section or key; the message names the nearest valid one.
    """
    experiment = with_variants(config, name)
    for override in overrides:
        path, equals, text = override.partition('=')
        section, _, key = path.partition('.')
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        if equals and not key and section in ('desc', 'random_seed', 'metrics'):
            experiment[section] = value
        elif equals and key:
            experiment.setdefault(section, {})[key] = value
        else:
            raise UserError(f'--set {override}: write SECTION.KEY=VALUE, for example train.total_kimg=10')
    check_keys(name, experiment, SECTIONS)
    for section in ('dataset', 'G', 'D', 'train') if is_training(experiment) else ():
        if section not in experiment:
            raise UserError(f'experiments[{name!r}]: the section {section!r} is missing')
    return experiment


def with_variants(config: Any, name: str) -> dict:
    """A copy of the experiment that `name` begins with, changed by the variants that follow."""
    base = name
    chosen: list[str] = []
    while base not in config.experiments:
        base, _, variant = base.rpartition('-')
        if variant not in config.variants:
            raise UserError(f'experiment={name!r}: config.py has no such '
                            f'experiment{nearest(name, [*config.experiments, *config.variants])}')
        chosen.insert(0, variant)
    experiment = copy.deepcopy(config.experiments[base])
    for variant in chosen:
        for section, options in config.variants[variant].items():
            experiment[section] = {**experiment.get(section, {}), **copy.deepcopy(options)}
        experiment['desc'] = f'{experiment.get("desc", base)}-{variant}'
    return experiment


def is_training(experiment: dict) -> bool:
    """Whether an experiment trains networks. Otherwise its ``train.func`` is one of util_scripts.py or like those."""
    func = experiment.get('train', {}).get('func')
    return func is None or 'dataset' in inspect.signature(import_obj(func)).parameters


def describe_experiment(experiment: dict) -> str:
    """A few words on an experiment, for a list of them."""
    train = experiment['train']
    if 'dataset' not in experiment:
        return train.get('func', '')
    return (f'{experiment["dataset"]["resolution"]}x{experiment["dataset"]["resolution"]}, '
            f'{train.get("total_kimg", 15000)} kimg')


def check_arguments(section: str, kwargs: dict, func: Callable, given: Iterable[str] = (),
                    more: Iterable[str] = ()) -> None:
    """Check the keys of a config section against the parameters of the function that gets them.

    Parameters
    ----------
    section : str
    kwargs : dict
    func : callable
    given : sequence of str
        Parameters that are no options.
    more : sequence of str
        Options that are no parameters.
    """
    parameters = inspect.signature(func).parameters.values()
    valid = {parameter.name for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD} - set(given)
    check_keys(section, kwargs, valid | {'func'} | set(more))


def check_keys(section: str, given: Iterable[str], valid: Iterable[str]) -> None:
    for key in given:
        if key not in valid:
            raise UserError(f'{section}.{key}: no such option{nearest(key, valid)}')


def nearest(word: object, candidates: Iterable) -> str:
    """'; did you mean ...?' for an error message, or the list of what there is."""
    return did_you_mean(word, candidates, cutoff=0.5) or '; choose from ' + ', '.join(sorted(map(str, candidates)))


def training_function(experiment: dict, train_gan: Callable) -> Callable:
    """The function that ``train.func`` names, or `train_gan` where an experiment names none."""
    func = experiment['train'].get('func')
    return train_gan if func is None else import_obj(func)


def with_defaults(experiment: dict, train_gan: Callable) -> dict:
    """The experiment with the default values of all options that it does not mention.

    Parameters
    ----------
    experiment : dict
    train_gan : callable
        The training function of experiments that name none.

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


def check_options(experiment: dict, train_gan: Callable) -> tuple[Callable, dict, dict]:
    """Check the options of an experiment that trains.

    Parameters
    ----------
    experiment : dict
    train_gan : callable
        The training function of experiments that name none.

    Returns
    -------
    (callable, dict, dict)
        The training function, its options, and those of the loss.

    Raises
    ------
    UserError
        An option that does not exist; the message names the nearest one.
    """
    train, loss_kwargs = dict(experiment['train']), experiment.get('loss', {})
    train_func = training_function(experiment, train_gan)
    check_arguments('train', train, train_func, given=['run_dir', 'dataset', 'G', 'D', 'loss_kwargs', 'ranks',
                                                       'loss_scaling', 'Gs', 'run_states'], more=RESUME_OPTIONS)
    for option in ('func', *RESUME_OPTIONS):
        train.pop(option, None)
    if 'run_states' not in inspect.signature(train_func).parameters and experiment['train'].get('resume_run_id'):
        raise UserError(f'train.resume_run_id: {experiment["train"]["func"]!r} cannot resume')
    check_arguments('loss', loss_kwargs, loss.evaluate_loss, given=['G', 'D', 'random', 'ranks'])
    loss.check_choices(**{key: loss_kwargs[key] for key in ('type', 'cond_type') if key in loss_kwargs})
    if type(train.get('metric_ticks', 1)) is not int or train.get('metric_ticks', 1) < 0:
        raise UserError(f'train.metric_ticks={train["metric_ticks"]!r}: must be a whole number, 0 for never')
    evaluation.check_settings(train.get('metrics') or [], train.get('metric_num_images'), 'train.')
    check_keys('metrics', experiment.get('metrics', []), ['digit_recognition', *metrics.METRICS])
    return train_func, train, loss_kwargs


def check_minibatches(ranks: Ranks, train_func: Callable, train: dict, resolution: int) -> None:
    """Whether the ranks can share the minibatches of the whole schedule, see `processes.check_minibatches`."""
    options = {**defaults_of(train_func), **train}
    lowest = min(2 ** int(np.log2(options['lod_initial_resolution'])), resolution)
    resolutions = [2 ** k for k in range(lowest.bit_length() - 1, resolution.bit_length())]
    processes.check_minibatches(ranks, resolutions, options['minibatch_default'], options['minibatch_overrides'])


@contextlib.contextmanager
def naming_minibatch(schedule: Callable[[], Schedule], minibatch_overrides: dict[int, int] | None,
                     ranks: Ranks) -> Iterator[None]:
    """Around the training: too little memory is an error that names the minibatch to change.

    Parameters
    ----------
    schedule : callable
        Returns the Schedule in force.
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
