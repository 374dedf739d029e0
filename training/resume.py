"""Finds the start of a run: new, from given networks, or from a training state, which continues it exactly."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import theano_env
from common import defaults
from common.console import command_line
from common.errors import UserError
from data.dataset import Dataset
from nets.network import Network
from runs import states
from runs.folder import (
    DONE_FILE,
    FINAL_NETWORKS,
    can_go_on,
    is_pickle,
    kimg_of_networks,
    list_network_pkls,
    locate_network_pkl,
    locate_run_dir,
)
from runs.records import is_finite, read_command
from runs.states import State, fitting
from training import fingerprint
from training.functions_ahead import FunctionsAhead
from training.options import with_defaults
from training.recorded import CHANGED_DEFAULTS, checked, differing_options, functions_of, read_folder
from training.reporting import Tick
from training.schedule import Schedule
from training.snapshots import SnapshotGrid
from training.steps import TrainingFunctions

LARGEST_COUNT = 2 ** 53     # Largest valid number of images or bytes in a state.


def state_arrays(networks: dict[str, Network], exponents: Sequence, compiler: FunctionsAhead, dataset: Dataset,
                 grid: SnapshotGrid) -> tuple[dict[str, np.ndarray], dict]:
    """Collect ({name: array}, JSON) of everything that determines the rest of a training, except the loop's counters.
    """
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
    """Restore the state that :func:`state_arrays` collected. NumPy's generator comes last, as other steps draw from it.

    Returns
    -------
    (SnapshotGrid, TrainingFunctions or None)
        For the functions see :meth:`training.functions_ahead.FunctionsAhead.set_state`.
    """
    arrays, document = state
    for key, net in networks.items():
        for name, var in (net.trainables if key == 'Gs' else net.vars).items():
            net.set_var(name, fitting(arrays, f'{key}/{name}', var.get_value(borrow=True)))
    for index, var in enumerate(exponents):
        if var and f'loss_scaling/{index}' in arrays:
            var.set_value(fitting(arrays, f'loss_scaling/{index}', var.get_value()))
    dataset.set_state({'order': arrays.get('reader/order', np.zeros(0, np.int64)),
                       'position': fitting(arrays, 'reader/position', np.asarray(0))})
    grid = _stored_grid(arrays, networks['G'], dataset)
    functions = compiler.set_state(arrays, document['lod_range'], schedule)
    algorithm, *rest = document['numpy_random']
    np.random.set_state((algorithm, fitting(arrays, 'numpy_random', np.empty(624, np.uint32)), *rest))
    return grid, functions


def _stored_grid(arrays, G, dataset):
    """The SnapshotGrid in a training state."""
    size = [int(number) for number in fitting(arrays, 'grid/size', np.array([1, 1]))]
    num, reals = size[0] * size[1], arrays.get('grid/reals')
    if min(size) < 1 or reals is None or reals.shape[:1] != (num,):
        raise UserError(f'the training state is damaged: its image grid does not have {size[0]}x{size[1]} images')
    likes = {'reals': np.empty((num, *dataset.shape), np.uint8),
             'latents': np.empty((num, G.input_shape[1]), np.float32),
             'labels': np.empty((num, dataset.label_size), np.float32)}
    return SnapshotGrid((size[0], size[1]), *[fitting(arrays, 'grid/' + name, like) for name, like in likes.items()])


# {entry that the training reads in the document of a state: check of its value}
DOCUMENT: dict[str, Callable[[Any], bool]] = {
    'experiment': lambda value: isinstance(value, dict),
    'command': lambda value: isinstance(value, str),
    'networks': lambda value: value is None or isinstance(value, str),
    'lod_range': lambda value: isinstance(value, list),
    'growing_files': lambda value: isinstance(value, dict) and all(map(_is_count, value.values())),
    'numpy_random': lambda value: isinstance(value, list) and len(value) == 4 and value[0] == 'MT19937' and all(
        map(_is_count, value[1:3])) and value[1] <= 624 and is_finite(value[3]),
    'tick': lambda value: isinstance(value, dict) and all(map(is_finite, [
        value.get('compile_seconds'), *_one_each(value.get('sums')), *_one_each(value.get('counts'))])),
    **dict.fromkeys(['cur_nimg', 'cur_tick', 'tick_start_nimg'], lambda value: _is_count(value)),
    **dict.fromkeys(['seconds', 'tick_seconds', 'gdrop_average'], is_finite),
}


def _is_count(value):
    return type(value) is int and 0 <= value < LARGEST_COUNT


def _one_each(value):
    """`value` if it is a list with one entry per name of a tick, else [None]."""
    return value if isinstance(value, list) and len(value) == len(Tick.names) else [None]


def check_document(run_dir: str, document: dict) -> dict:
    """Return the document of a training state in `run_dir`; raise `UserError` if an entry of `DOCUMENT` is invalid."""
    wrong = [name for name, is_right in DOCUMENT.items() if not is_right(document.get(name))]
    if wrong:
        raise UserError(f'{run_dir}: its newest training state is invalid ({", ".join(wrong)}); start a new run from '
                        'its networks with train.resume_snapshot')
    return document


class Start(NamedTuple):
    """The start of a run: its folder, and the networks or state that it starts from."""

    run_dir: str | None = None          # Folder of the run. None: a new folder, not made yet.
    is_new: bool = False                # Whether the run gets a new folder.
    networks: str | None = None         # Network pickle with G, D and Gs. None: build them.
    kimg: float | None = None           # Training progress of these networks, parsed from the file name.
    state: states.State | None = None   # Training state to resume from.
    about: dict | None = None           # Facts about the run, stored in its training states.
    is_finished: bool = False
    is_trained: bool = False            # The final networks exist; final metrics may be missing.


def find_start(experiment: dict, result_dir: str, environment: theano_env.Environment) -> Start:
    """The :class:`Start` of an experiment.

    Parameters
    ----------
    experiment : dict
        Its section 'train' may have these options:

        - `resume_run_id`: the run to resume (see `runs.folder.locate_run_dir`), or the path of a network pickle.
        - `resume_snapshot`: 'latest' (default) resumes the run in its folder. The kimg of a network snapshot, or
          'final', starts a new run from these networks.
        - `resume_kimg`: the position in the schedule at which such a new run starts. Default: the kimg of the
          networks, or 0 if unknown.
        - `resume_with_changes`: True allows changed options in the sections 'train' and 'loss'.
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
        return Start(run_dir=locate_run_dir(run_id, result_dir, can_go_on))
    networks = os.path.abspath(locate_network_pkl(run_id, snapshot, result_dir))
    kimg = kimg_of_networks(networks) or 0.0
    return Start(is_new=True, networks=networks, kimg=kimg, about=dict(about, networks=networks))


def _about(experiment, environment):
    return {'experiment': experiment, 'command': command_line(), 'environment': str(environment),
            CHANGED_DEFAULTS: defaults.CHANGED, 'versions': fingerprint.of_program(),
            'processor': fingerprint.of_processor()}


def resume_in(run_dir: str, experiment: dict, environment: theano_env.Environment, train_gan: Callable,
              record: dict | None = None) -> Start:
    """The :class:`Start` of a run that is resumed in its folder. Prints what has changed; does not modify the folder.

    Parameters
    ----------
    run_dir : str
    experiment : dict
    environment : theano_env.Environment
    train_gan : callable
        Default training function of experiments.
    record : dict, optional
        New section 'run' of ``config.txt``, see :func:`training.recorded.make_record`.

    Raises
    ------
    UserError
        `experiment` differs from the run, or the run has nothing to resume from.
    """
    trusted = functions_of([experiment])
    in_folder, recorded_facts = read_folder(run_dir, trusted)
    state = states.newest(run_dir)
    recorded: dict = {'experiment': in_folder, 'command': read_command(run_dir)}
    if state:
        recorded = check_document(run_dir, state.document)
        recorded['experiment'] = checked(run_dir, recorded['experiment'], trusted, recorded.get(CHANGED_DEFAULTS))
    recorded_options, options = (with_defaults(entry, train_gan) for entry in (recorded['experiment'], experiment))
    differing = differing_options(recorded_options, options)
    changed = []
    if experiment['train'].get('resume_with_changes'):
        changed = [line for line in differing if line.startswith(('train.', 'loss.'))]
    forbidden = [line for line in differing if line not in changed]
    if forbidden:
        raise UserError(f'the config does not fit {run_dir}: {", ".join(forbidden)}; set them as in the run, '
                        f'which was started with: {recorded["command"]}; or allow changes of train.* and loss.* with '
                        'train.resume_with_changes=True')
    lengths = recorded_options['train']['total_kimg'], options['train']['total_kimg']
    if os.path.exists(os.path.join(run_dir, DONE_FILE)) and lengths[1] <= lengths[0]:
        return Start(run_dir=run_dir, is_finished=True)
    final = os.path.join(run_dir, FINAL_NETWORKS)
    if os.path.exists(final) and lengths[1] <= lengths[0]:
        return Start(run_dir=run_dir, networks=os.path.abspath(final), is_trained=True)
    about = _about(experiment, environment)
    if state is None:
        states.check_nothing_is_lost(run_dir)
        print(f'{run_dir} has no training state yet: starting again')
        networks = recorded_facts.get('networks')
        return Start(run_dir=run_dir, about=dict(about, networks=networks), networks=networks,
                     kimg=networks and kimg_of_networks(networks) or 0.0)
    if not experiment['train'].get('resume_with_changes'):
        check_length(options['train'], *lengths, recorded['cur_nimg'] / 1000)
    if changed:
        print(f'Resuming with changed options: {", ".join(changed)}')
    if changes := changes_since(recorded, about):
        print(f'The result will not be bit-identical, because the run so far used: {"; ".join(changes)}')
    other = {key: (recorded_facts[key], value) for key, value in (record or {}).items()
             if key in ('theano_flags', 'data_set') and recorded_facts.get(key, value) != value}
    if other:
        print('Changed since the run started: ' + ', '.join(f'{key} {value!r} (was {before!r})'
                                                            for key, (before, value) in other.items()))
    networks = recorded.get('networks')
    about.update(command=recorded['command'], networks=networks)
    if networks and not os.path.isfile(networks) and list_network_pkls(run_dir):
        # Any snapshot of the run has the same layers; the values come from the state.
        networks = os.path.abspath(list_network_pkls(run_dir)[-1])
    return Start(run_dir=run_dir, networks=networks, state=state, about=about)


def changes_since(recorded: dict, about: dict) -> list[str]:
    """The recorded engine, processor and versions that differ from the present ones."""
    before, now = recorded.get('versions'), about['versions']
    others = [recorded[name] for name in ('environment', 'processor') if recorded.get(name, about[name]) != about[name]]
    return others + [f'{name} {before[name]} (now {now[name]})' for name in now
                     if isinstance(before, dict) and before.get(name, now[name]) != now[name]]


def check_data(start: Start, experiment: dict, facts: dict[str, str]) -> None:
    """Compare the dataset with that of the run so far, and add its digests to the facts of the run's states.

    Parameters
    ----------
    start : Start
    experiment : dict
    facts : dict
        Result of :func:`training.fingerprint.of_data`.

    Raises
    ------
    UserError
        The dataset has changed, and ``train.resume_with_changes`` is not set.
    """
    digests = {name: facts[name] for name in fingerprint.DATA}
    before = start.state.document.get('data') if start.state else None
    other = [name for name in digests if isinstance(before, dict) and before.get(name, digests[name]) != digests[name]]
    if other and not experiment['train'].get('resume_with_changes'):
        raise UserError(f'dataset.h5_path={experiment["dataset"]["h5_path"]!r}: {" and ".join(other)} have '
                        f'changed since {start.run_dir} was saved; restore the file, or accept the change with '
                        'train.resume_with_changes=True')
    if other:
        print(f'Resuming with changed {" and ".join(other)}')
    if start.about is not None:
        start.about['data'] = digests


def check_length(train: dict, before: float, now: float, kimg: float) -> None:
    """Raise `UserError` if the new length would have changed the run before `kimg`.

    Parameters
    ----------
    train : dict
        All options of the training.
    before, now : float
        Old and new length in kimg.
    kimg : float
        Training progress of the run.
    """
    rampdown = train.get('rampdown_kimg') or 0
    if rampdown and before != now and kimg > min(before, now) - rampdown:
        raise UserError(f'train.total_kimg={now:g}: the learning rates ramp down at the end (train.rampdown_kimg='
                        f'{rampdown:g}), and this run, planned for {before:g} kimg, is at {kimg:g}; the new length '
                        'would have changed its learning rates; start a new run from its networks with '
                        'train.resume_snapshot, or accept the change with train.resume_with_changes=True')
