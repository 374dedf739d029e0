"""What a run starts from, and going on exactly where it ended."""

import json
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

import theano_env
from common.console import command_line
from common.errors import UserError
from data.dataset import Dataset
from nets.network import Network
from runs import states
from runs.folder import (
    DONE_FILE,
    find_networks,
    find_run,
    is_pickle,
)
from runs.states import State
from training.functions_ahead import FunctionsAhead
from training.options import with_defaults
from training.schedule import Schedule
from training.snapshots import SnapshotGrid
from training.steps import TrainingFunctions


def state_arrays(networks: dict[str, Network], exponents: Sequence, compiler: FunctionsAhead, dataset: Dataset,
                 grid: SnapshotGrid) -> tuple[dict[str, np.ndarray], dict]:
    """({name: array}, JSON) of all that decides what comes next, but for the counters of the loop."""
    arrays = {f'{key}/{name}': var.get_value(borrow=True) for key, net in networks.items()
              for name, var in (net.trainables if key == 'Gs' else net.vars).items()}
    arrays.update((f'loss_scaling/{index}', var.get_value()) for index, var in enumerate(exponents) if var)
    arrays.update(('reader/' + key, np.asarray(value)) for key, value in dataset.get_state().items())
    arrays.update(('grid/' + key, np.asarray(value)) for key, value in grid._asdict().items())
    function_arrays, lod_range = compiler.get_state()
    arrays.update(function_arrays)
    algorithm, arrays['numpy_random'], *rest = np.random.get_state()
    return arrays, {'lod_range': lod_range, 'numpy_random': [algorithm, *rest]}


def restore_state(state: State, networks: dict[str, Network], exponents: Sequence, compiler: FunctionsAhead,
                  dataset: Dataset, schedule: Schedule) -> tuple[SnapshotGrid, TrainingFunctions | None]:
    """Put back what :func:`state_arrays` has collected; NumPy's generator last.

    Returns
    -------
    (SnapshotGrid, TrainingFunctions or None)
    """
    arrays, document = state
    for key, net in networks.items():
        for name in net.trainables if key == 'Gs' else net.vars:
            net.set_var(name, arrays[f'{key}/{name}'])
    for index, var in enumerate(exponents):
        if var and f'loss_scaling/{index}' in arrays:
            var.set_value(arrays[f'loss_scaling/{index}'])
    dataset.set_state({key[len('reader/'):]: value for key, value in arrays.items() if key.startswith('reader/')})
    size, *contents = [arrays['grid/' + key] for key in SnapshotGrid._fields]
    functions = compiler.set_state(arrays, document['lod_range'], schedule)
    algorithm, *rest = document['numpy_random']
    np.random.set_state((algorithm, arrays['numpy_random'], *rest))
    return SnapshotGrid(tuple(map(int, size)), *contents), functions


class Start(NamedTuple):
    """What a run starts from."""

    run_dir: str | None = None          # Its folder. None: a new one, not made yet.
    is_new: bool = False                # Whether it starts in a folder of its own.
    networks: str | None = None         # Network pickle with G, D and Gs. None: they are built anew.
    kimg: float | None = None           # Training progress of these networks, parsed from the file name.
    state: states.State | None = None   # Training state to go on from.
    about: dict | None = None           # Facts about the run that its training states carry.
    is_finished: bool = False


def find_start(experiment: dict, result_dir: str, environment: theano_env.Environment) -> Start:
    """The :class:`Start` of an experiment according to some options in ``experiment['train']``.

    Parameters
    ----------
    experiment : dict
        Its section 'train' may have: `resume_run_id`, the run to go on with (see `runs.folder.find_run`), or the
        path of a network pickle; `resume_snapshot`, 'latest' (default) to go on exactly in the folder of that run, or
        the kimg of one of its network snapshots, to start a new run from these networks; `resume_kimg`, the place in
        the schedule at which such a new run starts, by default as the file name says, else 0; `resume_with_changes`,
        True to go on with a run although options of the sections 'train' and 'loss' have changed since.
    result_dir : str
    environment : theano_env.Environment

    Raises
    ------
    UserError
    """
    run_id, snapshot = experiment['train'].get('resume_run_id'), experiment['train'].get('resume_snapshot', 'latest')
    about = _about(experiment, environment)
    if run_id is None:
        return Start(is_new=True, about=about)
    if snapshot == 'latest' and not is_pickle(run_id):
        return Start(run_dir=find_run(result_dir, run_id))
    networks, kimg = find_networks(result_dir, run_id, snapshot)
    networks = os.path.abspath(networks)
    return Start(is_new=True, networks=networks, kimg=kimg or 0.0, about=dict(about, networks=networks))


def _about(experiment, environment):
    return {'experiment': experiment, 'command': command_line(), 'environment': str(environment)}


def resume_in(run_dir: str, experiment: dict, environment: theano_env.Environment, train_gan: Callable) -> Start:
    """The :class:`Start` for going on with a run in its folder; prints a note if the engine has changed.

    Raises
    ------
    UserError
        The run is not the one that `experiment` describes, or has no intact training state.
    """
    if not os.path.exists(os.path.join(run_dir, 'config.txt')):
        raise UserError(f'train.resume_run_id: {run_dir} is not the folder of a run: it has no config.txt')
    about = _about(experiment, environment)
    state = states.newest(run_dir)
    if state is None:
        print(f'{run_dir} has no training state yet: starting again')
        states.RunStates(run_dir, about).rewind()
        return Start(run_dir=run_dir, about=about)
    recorded = state.document
    recorded_options, options = (with_defaults(entry, train_gan) for entry in (recorded['experiment'], experiment))
    differing = differing_options(recorded_options, options)
    changed = []
    if experiment['train'].get('resume_with_changes'):
        changed = [line for line in differing if line.startswith(('train.', 'loss.'))]
    forbidden = [line for line in differing if line not in changed]
    if forbidden:
        raise UserError(f'the config does not fit {run_dir}: {", ".join(forbidden)}; set them as in the run, '
                        f'which was started with: {recorded["command"]}; or let train.* and loss.* change with '
                        'train.resume_with_changes=True')
    if changed:
        print(f'Going on with changed options: {", ".join(changed)}')
    if recorded.get('environment', about['environment']) != about['environment']:
        print(f'Not bit for bit as it would have gone on: until now the run used: {recorded["environment"]}')
    if os.path.exists(os.path.join(run_dir, DONE_FILE)):
        if options['train']['total_kimg'] <= recorded_options['train']['total_kimg']:
            return Start(run_dir=run_dir, is_finished=True)
    about.update(command=recorded['command'], networks=recorded.get('networks'))
    return Start(run_dir=run_dir, networks=recorded.get('networks'), state=state, about=about)


# Options by which a resumed run may differ: when to stop, what to show, where to look.
FREE_OPTIONS = {
    'desc', 'create_dataset', 'metrics', 'dataset.h5_path', 'dataset.cache_gb', 'dataset.read_threads',
    'dataset.require_labels',
    'train.total_kimg', 'train.image_snapshot_ticks', 'train.network_snapshot_ticks', 'train.image_grid_zoom',
    'train.state_minutes', 'train.show_progress', 'train.resume_run_id', 'train.resume_snapshot', 'train.resume_kimg',
    'train.resume_time', 'train.resume_with_changes',
}


def differing_options(recorded: dict, present: dict) -> list[str]:
    """How the options of two experiments differ, apart from those in `FREE_OPTIONS`: a list of str.

    Parameters
    ----------
    recorded, present : dict
        Experiments with all defaults filled in. They are compared as JSON, in which `recorded` has been stored.
    """
    recorded, present = [_flat(json.loads(json.dumps(options))) for options in (recorded, present)]
    return ['%s (%s in the run, %s now)' % (key, *[json.dumps(options[key]) if key in options else 'not set'
                                                   for options in (recorded, present)])
            for key in sorted(recorded.keys() | present.keys())
            if key not in FREE_OPTIONS and key.partition('.')[0] not in FREE_OPTIONS
            and recorded.get(key) != present.get(key)]


def _flat(experiment):
    """{'SECTION.KEY': value}"""
    flat = {}
    for section, value in experiment.items():
        if isinstance(value, dict):
            flat.update((f'{section}.{key}', option) for key, option in value.items())
        else:
            flat[section] = value
    return flat
