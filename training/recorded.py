"""Writes and reads the record of a run in its ``config.txt``, and completes a command line from it.

``config.txt`` holds the experiment, and in its section 'run' the origin of the experiment, engine, device and dataset.
"""

import argparse
import json
import os
from collections.abc import Callable, Collection, Iterable
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import theano_env
from common import defaults
from common.errors import UserError
from common.options import parse_text
from nets.pickles import BUILD_FUNCS
from nets.ranks import Ranks
from runs import records
from runs.folder import can_go_on, is_pickle, locate_run_dir
from training.options import RESUME_OPTIONS, as_recorded, is_training, resolve_config

RECORD = 'run'              # The section of config.txt that is not part of the experiment.
CHANGED_DEFAULTS = 'changed_defaults'      # Changed defaults that a run or state has, see common.defaults.
RECORDED: dict[str, type] = {       # Keys of the section, see make_record.
    'experiment': str, 'set': list, 'engine': str, 'device': str, 'precision': str, 'theano_flags': dict,
    'data_dir': str, 'data_set': str, 'networks': str, CHANGED_DEFAULTS: list}
# The functions that the files of a run may name, by section. The user's own functions are accepted only from config.py
# and the command line.
FUNCTIONS: dict[str, set[str]] = {
    'train': {'train.train_gan'}, 'G': BUILD_FUNCS, 'D': BUILD_FUNCS,
    'create_dataset': {f'dataset_tool.create_{name}' for name in (
        'mnist', 'mnistrgb', 'cifar10', 'cifar100', 'svhn', 'lsun', 'celeba', 'celebahq', 'from_images',
        'from_tfrecords', 'digits', 'synthetic')}}


class Chosen(NamedTuple):
    """A command line, completed from `config.py` and from the folder of the run to resume."""

    experiment: dict        # See training.options.resolve_config.
    origin: dict            # 'experiment': its name in config.py; 'set': list of 'SECTION.KEY=VALUE'.
    data_dir: str
    engine: str
    theano_flags: dict
    precision: str


# ----------------------------------------------------------------------------------------------------------------------
# Writing and reading.


def make_record(origin: dict | None, environment: theano_env.Environment, theano_flags: dict | None,
                experiment: dict, data_dir: str | None, networks: str | None = None) -> dict:
    """Make the section 'run' of ``config.txt``.

    Parameters
    ----------
    origin : dict or None
        See :class:`Chosen`.
    environment : theano_env.Environment
    theano_flags : dict or None
    experiment : dict
    data_dir : str or None
        Folder of the dataset. None: the run has no dataset.
    networks : str or None
        The pickle that the run started from.
    """
    record = {**(origin or {}), 'engine': environment.engine, 'device': environment.device,
              'precision': environment.precision,
              'theano_flags': {name: value for name, value in (theano_flags or {}).items() if name != 'device'},
              CHANGED_DEFAULTS: defaults.CHANGED}
    if data_dir is not None:
        data_dir = os.path.abspath(data_dir)
        record.update(data_dir=data_dir, data_set=os.path.join(data_dir, str(experiment['dataset'].get('h5_path'))))
    if networks:
        record['networks'] = networks
    return record


def read_folder(run_dir: str, trusted: Iterable[str] = ()) -> tuple[dict, dict]:
    """Read (experiment, record) from ``config.txt`` in the folder of a training.

    Parameters
    ----------
    run_dir : str
    trusted : iterable of str
        Functions that the experiment may name in addition to our own.

    Raises
    ------
    UserError
        The folder does not belong to a training, or names a function that is not trusted.
    """
    config = records.config_or_none(run_dir)
    if config is None:
        reason = 'it has no config.txt' if not os.path.exists(os.path.join(run_dir, 'config.txt')) else \
            'its config.txt is damaged'
        raise UserError(f'train.resume_run_id: {run_dir} is not the folder of a run: {reason}')
    record = config.pop(RECORD, {})
    record = {key: value for key, value in (record.items() if isinstance(record, dict) else ())
              if isinstance(value, RECORDED.get(key, ()))}
    if 'dataset' not in config:
        raise UserError(f'train.resume_run_id: {run_dir} is not the folder of a training: its experiment has no '
                        'dataset')
    experiment = checked(run_dir, config, trusted, record.get(CHANGED_DEFAULTS))
    for named in named_by(_overrides(record)):
        check_functions(run_dir, named, trusted)
    for option in RESUME_OPTIONS:
        experiment['train'].pop(option, None)
    return experiment, record


def checked(run_dir: str, experiment: dict, trusted: Iterable[str], known: Any) -> dict:
    """Check and complete an experiment from the files of a run, see :func:`training.options.resolve_config`.

    `known` are the changed defaults that the run already had, see :func:`training.options.as_recorded`.

    Raises
    ------
    UserError
        The experiment does not train, or names a function that is neither ours nor `trusted`.
    """
    check_functions(run_dir, experiment, trusted)
    try:
        json.dumps(experiment)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f'{run_dir}: its experiment has options that are not plain data ({error})') from error
    experiment = as_recorded(experiment, known)
    experiment = resolve_config(SimpleNamespace(experiments={run_dir: experiment}, variants={}), run_dir)
    if not is_training(experiment):
        raise UserError(f'train.resume_run_id: {run_dir} is not the folder of a training: its train.func='
                        f'{experiment["train"]["func"]!r} does not train')
    return experiment


def functions_of(experiments: Iterable[Any]) -> set[str]:
    """The functions named by experiments or variants."""
    return {section['func'] for experiment in experiments if isinstance(experiment, dict)
            for section in experiment.values() if isinstance(section, dict) and isinstance(section.get('func'), str)}


def named_by(overrides: Iterable[str]) -> list[dict]:
    """Parse overrides ``'SECTION.func=NAME'`` for :func:`functions_of` and :func:`check_functions`."""
    parts = [override.partition('=') for override in overrides]
    return [{path.partition('.')[0].strip(): {'func': parse_text(path, text)}} for path, _equals, text in parts
            if path.partition('.')[2].strip() == 'func']


def check_functions(run_dir: str, experiment: dict, trusted: Iterable[str] = ()) -> None:
    """Raise `UserError` if an experiment from a run folder names functions that are neither ours nor `trusted`.

    Functions named only by a folder are never imported, because the folder may come from anyone.
    """
    trusted = set(trusted)
    for section, options in experiment.items():
        if not isinstance(options, dict) or 'func' not in options:
            continue
        func = options['func']
        if not isinstance(func, str) or func not in FUNCTIONS.get(section, ()) and func not in trusted:
            raise UserError(f'{run_dir}: {section}.func={func!r:.80} is not a function of this program; if you trust '
                            'it, name it in an experiment of config.py')


def trusted_functions(config: ModuleType) -> set[str]:
    """The functions named by `config.py`."""
    return functions_of([*config.experiments.values(), *config.variants.values()])


# ----------------------------------------------------------------------------------------------------------------------
# Completing a command line.


def choose(config: ModuleType, args: argparse.Namespace, ranks: Ranks, train_gan: Callable) -> Chosen:
    """Complete a command line of `train.py`.

    With ``--resume RUN``, experiment, engine, device, precision, flags and dataset come from the run unless the command
    line overrides them. Differences from `config.py`, and settings that are unavailable on this machine, are printed.
    `train_gan` is the default training function.

    Raises
    ------
    UserError
    """
    origin: dict[str, Any] = {'experiment': args.experiment or getattr(config, 'experiment', None),
                              'set': list(args.overrides)}
    record: dict = {}
    if args.resume and not is_pickle(args.resume):
        run_dir = locate_run_dir(args.resume, args.result_dir, can_go_on)
        trusted = trusted_functions(config) | functions_of(named_by(args.overrides))
        experiment, record = read_folder(run_dir, trusted)
        if args.experiment is None:
            if ranks.rank == 0 and (note := config_note(config, experiment, record)):
                print(f'{run_dir} keeps its own options; {note}')
            origin = {'experiment': record.get('experiment'), 'set': _merged([*_overrides(record), *args.overrides])}
            as_config = SimpleNamespace(experiments={run_dir: experiment}, variants={})
            experiment = resolve_config(as_config, run_dir, args.overrides, train_gan)
        else:
            experiment = resolve_config(config, args.experiment, args.overrides, train_gan)
        experiment['train'].update(resume_run_id=run_dir, resume_snapshot='latest')
    else:
        if origin['experiment'] is None:
            raise UserError("config.py: `experiment = ...` is missing; give --experiment NAME, or set it there, for "
                            "example experiment = 'digits'")
        experiment = resolve_config(config, origin['experiment'], args.overrides, train_gan)
        if args.resume:
            experiment['train'].update(resume_run_id=args.resume, resume_snapshot='latest')
    return Chosen(experiment, origin, args.data_dir or data_dir_of(record, config.data_dir, experiment),
                  *environment_options(config, args, record, ranks))


def data_dir_of(record: dict | None, data_dir: str, experiment: dict) -> str:
    """The folder of a run's dataset: the recorded one, or `data_dir` if the dataset has been moved there."""
    recorded = record.get('data_dir') if isinstance(record, dict) else None
    name = str(experiment.get('dataset', {}).get('h5_path'))
    if not isinstance(recorded, str):
        return data_dir
    moved = not os.path.exists(os.path.join(recorded, name)) and os.path.exists(os.path.join(data_dir, name))
    return data_dir if moved else recorded


def environment_options(config: ModuleType, args: argparse.Namespace, record: dict,
                        ranks: Ranks) -> tuple[str, dict, str]:
    """(engine, Theano's flags, precision) from the command line, else from the run's record, else from `config.py`."""
    plain = (args.engine or config.engine, theano_env.with_device(config.theano_flags, args.device),
             args.precision or config.precision)
    if not record:
        return plain
    device = record.get('device')
    if ranks.size > 1 and device != 'cpu':
        device = 'auto'     # Every process uses the GPU of its local rank.
    # Only flags of config.py, because some flags name programs that Theano starts.
    recorded = record.get('theano_flags')
    flags = {**config.theano_flags, 'device': device or 'auto', **{
        name: value for name, value in (recorded if isinstance(recorded, dict) else {}).items()
        if name in config.theano_flags and name != 'device'}}
    chosen = (args.engine or record.get('engine', config.engine), theano_env.with_device(flags, args.device),
              args.precision or record.get('precision', config.precision))
    try:
        theano_env.configure(chosen[0], chosen[1], ranks.local_rank if ranks.size > 1 else None, chosen[2])
    except theano_env.EnvironmentProblem as error:
        if ranks.rank == 0:
            print(f'The engine, device or precision of the run so far ({record.get("engine")} on '
                  f'{record.get("device")} in {record.get("precision")}) is not available: {error}')
        return plain
    return chosen


def config_note(config: ModuleType, experiment: dict, record: dict) -> str:
    """A note on changes of `config.py` since the run started; '' if there are none."""
    if not isinstance(record.get('experiment'), str):
        return ''
    try:
        present = resolve_config(config, record['experiment'], _overrides(record))
    except UserError:
        return f'config.py no longer has its experiment {record["experiment"]!r}'
    flags = {name: value for name, value in config.theano_flags.items() if name != 'device'}
    differing = differing_options({**experiment, 'theano_flags': record.get('theano_flags', flags)},
                                  {**present, 'theano_flags': flags}, free=[f'train.{name}' for name in RESUME_OPTIONS])
    return f'config.py has changed since: {", ".join(differing)}' if differing else ''


def _overrides(record):
    given = record.get('set')
    return [text for text in given if isinstance(text, str)] if isinstance(given, list) else []


def _merged(overrides):
    """Remove overrides that choose the run to resume, and all but the last of equal overrides."""
    kept = [text for text in overrides
            if text.partition('=')[0].strip() not in [f'train.{name}' for name in RESUME_OPTIONS]]
    return list(dict.fromkeys(reversed(kept)))[::-1]


# ----------------------------------------------------------------------------------------------------------------------
# Comparing.


# Options that may differ in a resumed run: they affect length, output and paths, but not the training itself.
FREE_OPTIONS = {
    'desc', 'create_dataset', 'metrics', 'dataset.h5_path', 'dataset.cache_gb', 'dataset.read_threads',
    'dataset.require_labels', 'dataset.expected_images',
    'train.total_kimg', 'train.tick_kimg_default', 'train.tick_kimg_overrides', 'train.image_snapshot_ticks',
    'train.network_snapshot_ticks', 'train.keep_snapshots', 'train.image_grid_zoom',
    'train.state_minutes', 'train.show_progress', 'train.resume_run_id', 'train.resume_snapshot', 'train.resume_kimg',
    'train.resume_time', 'train.resume_Gs', 'train.resume_with_changes', 'train.metrics', 'train.metric_ticks',
    'train.metric_num_images', 'train.metric_inception_weights', 'train.metric_classifier',
}


def differing_options(recorded: dict, present: dict, free: Collection[str] = FREE_OPTIONS) -> list[str]:
    """Describe the differing options of two experiments, except those in `free`, one per str."""
    return [f'{key} ({one} in the run, {other} now)' for key, one, other in differences(recorded, present, free)]


def differences(recorded: dict, present: dict, free: Collection[str]) -> list[tuple[str, str, str]]:
    """[(SECTION.KEY, value in `recorded`, value in `present`)] of differing options; values as JSON, or 'not set'.

    Parameters
    ----------
    recorded, present : dict
        Experiments with all defaults filled in. They are compared as JSON, because `recorded` was stored as JSON.
    free : collection of str
        Options and sections to ignore.
    """
    recorded, present = [flat_options(json.loads(json.dumps(options))) for options in (recorded, present)]
    return [(key, *(json.dumps(options[key]) if key in options else 'not set' for options in (recorded, present)))
            for key in sorted(recorded.keys() | present.keys())
            if key not in free and key.partition('.')[0] not in free
            and recorded.get(key) != present.get(key)]


def flat_options(experiment: dict) -> dict:
    """The options of an experiment as {'SECTION.KEY': value}."""
    flat: dict[str, Any] = {}
    for section, value in experiment.items():
        if isinstance(value, dict):
            flat.update((f'{section}.{key}', option) for key, option in value.items())
        else:
            flat[section] = value
    return flat
