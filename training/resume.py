"""What a run starts from, and going on exactly where it ended."""

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

LARGEST_COUNT = 2 ** 53     # Of images and bytes.


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
        raise UserError(f'the training state is damaged: it says that its pictures are {size[0]}x{size[1]} images')
    likes = {'reals': np.empty((num, *dataset.shape), np.uint8),
             'latents': np.empty((num, G.input_shape[1]), np.float32),
             'labels': np.empty((num, dataset.label_size), np.float32)}
    return SnapshotGrid((size[0], size[1]), *[fitting(arrays, 'grid/' + name, like) for name, like in likes.items()])


# What the training reads in the document of a state, and what it has to be.
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
    """A list with a number for each name of a tick; [None] of anything else."""
    return value if isinstance(value, list) and len(value) == len(Tick.names) else [None]


def check_document(run_dir: str, document: dict) -> dict:
    """The document of a training state in `run_dir`; a `UserError` unless it has what the training reads in it."""
    wrong = [name for name, is_right in DOCUMENT.items() if not is_right(document.get(name))]
    if wrong:
        raise UserError(f'{run_dir}: its newest training state is not one of this program, {" and ".join(wrong)} '
                        'should be something else; start a new run from its networks with train.resume_snapshot')
    return document


class Start(NamedTuple):
    """What a run starts from."""

    run_dir: str | None = None          # Its folder. None: a new one, not made yet.
    is_new: bool = False                # Whether it starts in a folder of its own.
    networks: str | None = None         # Network pickle with G, D and Gs. None: they are built anew.
    kimg: float | None = None           # Training progress of these networks, parsed from the file name.
    state: states.State | None = None   # Training state to go on from.
    about: dict | None = None           # Facts about the run that its training states carry.
    is_finished: bool = False
    is_trained: bool = False            # Its networks are there; metrics at the end may be missing.


def find_start(experiment: dict, result_dir: str, environment: theano_env.Environment) -> Start:
    """The :class:`Start` of an experiment according to some options in ``experiment['train']``.

    Parameters
    ----------
    experiment : dict
        Its section 'train' may have: `resume_run_id`, the run to go on with (see `runs.folder.locate_run_dir`), or the
        path of a network pickle; `resume_snapshot`, 'latest' (default) to go on exactly in the folder of that run, or
        the kimg of one of its network snapshots or 'final', to start a new run from these networks; `resume_kimg`, the
        place in the schedule at which such a new run starts, by default as the file name or the run says, else 0;
        `resume_with_changes`, True to go on with a run although options of the sections 'train' and 'loss' have
        changed since.
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
    """The :class:`Start` for going on with a run in its folder; says what will be different. Changes nothing there.

    Parameters
    ----------
    run_dir : str
    experiment : dict
    environment : theano_env.Environment
    train_gan : callable
        The training function of experiments that name none.
    record : dict, optional
        What ``config.txt`` is going to say beside the experiment, see `training.recorded`.

    Raises
    ------
    UserError
        The run is not the one that `experiment` describes, or has nothing to go on from.
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
                        f'which was started with: {recorded["command"]}; or let train.* and loss.* change with '
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
        print(f'Going on with changed options: {", ".join(changed)}')
    if others := others_than(recorded, about):
        print(f'Not bit for bit as it would have gone on: until now the run used: {"; ".join(others)}')
    other = {key: (recorded_facts[key], value) for key, value in (record or {}).items()
             if key in ('theano_flags', 'data_set') and recorded_facts.get(key, value) != value}
    if other:
        print('Other than until now: ' + ', '.join(f'{key} {value!r} (until now {before!r})'
                                                   for key, (before, value) in other.items()))
    networks = recorded.get('networks')
    about.update(command=recorded['command'], networks=networks)
    if networks and not os.path.isfile(networks) and list_network_pkls(run_dir):
        networks = os.path.abspath(list_network_pkls(run_dir)[-1])      # Of the same build; the state has the values.
    return Start(run_dir=run_dir, networks=networks, state=state, about=about)


def others_than(recorded: dict, about: dict) -> list[str]:
    """What the run used until now and does not use any more: engine, versions, processor; as far as it is recorded."""
    before, now = recorded.get('versions'), about['versions']
    others = [recorded[name] for name in ('environment', 'processor') if recorded.get(name, about[name]) != about[name]]
    return others + [f'{name} {before[name]} (now {now[name]})' for name in now
                     if isinstance(before, dict) and before.get(name, now[name]) != now[name]]


def check_data(start: Start, experiment: dict, facts: dict[str, str]) -> None:
    """Compare the data set with that of the run so far, and let the states of the run have its digests from now on.

    Parameters
    ----------
    start : Start
    experiment : dict
    facts : dict
        Of :func:`training.fingerprint.of_data`.

    Raises
    ------
    UserError
        It is another one, and ``train.resume_with_changes`` is not set.
    """
    digests = {name: facts[name] for name in fingerprint.DATA}
    before = start.state.document.get('data') if start.state else None
    other = [name for name in digests if isinstance(before, dict) and before.get(name, digests[name]) != digests[name]]
    if other and not experiment['train'].get('resume_with_changes'):
        raise UserError(f'dataset.h5_path={experiment["dataset"]["h5_path"]!r}: {" and ".join(other)} have other '
                        f'contents than until now in {start.run_dir}; bring the data back, or accept the change with '
                        'train.resume_with_changes=True')
    if other:
        print(f'Going on with other contents of {" and ".join(other)}')
    if start.about is not None:
        start.about['data'] = digests


def check_length(train: dict, before: float, now: float, kimg: float) -> None:
    """Raise `UserError` if another length would have given another run until `kimg`.

    Parameters
    ----------
    train : dict
        All options of the training.
    before, now : float
        Lengths in kimg.
    kimg : float
        Where the run is.
    """
    rampdown = train.get('rampdown_kimg') or 0
    if rampdown and before != now and kimg > min(before, now) - rampdown:
        raise UserError(f'train.total_kimg={now:g}: the learning rates ramp down to the end (train.rampdown_kimg='
                        f'{rampdown:g}), and this run, planned for {before:g} kimg, is at {kimg:g}: with another '
                        'length it would have been another run; start a new one from its networks with '
                        'train.resume_snapshot, or accept the change with train.resume_with_changes=True')
