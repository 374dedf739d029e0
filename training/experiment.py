"""Runs an experiment: checks its options, opens the dataset, builds the networks, makes the run folder, trains.

The scripts pass in entries of `config.py`, which this module must not import.
"""

import contextlib
import inspect
import os
import platform
import pprint
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

import theano_env
from common.class_names import write_class_names
from common.console import OutputLogger, command_line, print_and_log
from common.errors import UserError
from common.files import append_bytes, atomic_write, one_at_a_time
from common.objects import defaults_of, import_obj
from common.options import BatchNorm
from data.dataset import Dataset
from data.hdf5_format import labels_path
from metrics import digit_recognition, evaluation
from nets.network import Network
from nets.pickles import load_gan
from nets.ranks import SINGLE, Ranks
from runs import states
from runs.folder import create_result_subdir, in_use, mark_as_done, sizes_of_growing_files
from training import fingerprint, processes, stopping
from training.building import build_and_verify
from training.data_sets import check_data_set, count_note, data_path
from training.divergence import check_start
from training.options import (
    check_arguments,
    check_labels,
    check_minibatches,
    check_options,
    check_utility,
    final_metrics,
    is_training,
)
from training.recorded import RECORD, make_record
from training.resume import Start, check_data, find_start, resume_in
from training.saving import until_written
from training.summary import print_summary


def open_dataset(experiment: dict, data_dir: str, make: bool = True) -> Dataset:
    """Open the dataset of an experiment; with `make`, make a missing file as its `create_dataset` describes."""
    if not make:
        experiment = {'dataset': experiment['dataset'], 'desc': str(experiment.get('desc', ''))}
    kwargs = dict(experiment['dataset'])
    check_arguments('dataset', kwargs, Dataset)
    kwargs['h5_path'] = data_path(kwargs['h5_path'], data_dir)
    check_data_set(experiment, data_dir)
    create = dict(experiment.get('create_dataset', {}))
    if create and not os.path.exists(kwargs['h5_path']):
        create_func = import_obj(create.pop('func'))
        check_arguments('create_dataset', create, create_func, given=['h5_path'])
        try:
            os.makedirs(data_dir, exist_ok=True)
        except OSError as error:
            raise UserError(f'data_dir={data_dir!r}: cannot make this folder ({error.strerror}); choose another '
                            'one with --data-dir') from error
        with one_at_a_time(kwargs['h5_path']):
            if not os.path.exists(kwargs['h5_path']):
                create_func(h5_path=kwargs['h5_path'], **create)
    training_set = Dataset(**kwargs)
    try:
        training_set.check_labels()
    except UserError:
        training_set.close()
        raise
    return training_set


def run_experiment(
    experiment,             # Resolved experiment, see resolve_config.
    data_dir,               # Folder of the HDF5 files.
    result_dir,             # Folder in which a new run folder is made.
    engine      = 'auto',   # See theano_env.py.
    theano_flags = None,
    ranks       = SINGLE,   # Rank of this process, and number of processes.
    precision   = 'auto',   # See theano_env.configure.
    *,
    train_gan,              # Default training function of experiments.
    origin      = None,     # Name and overrides of the experiment, for config.txt; see training.recorded.Chosen.
    **train_kwargs          # Further arguments of the training function: show_progress, on_step.
) -> str:
    """Run an experiment in a new folder, or resume a run in its folder; return the folder.

    Options in ``experiment['train']`` choose between the two, see :func:`training.resume.find_start`.
    """
    if not is_training(experiment):
        if ranks.size > 1:
            raise UserError(f'{experiment["train"]["func"]} runs in one process: start it without torchrun')
        return run_utility(experiment, result_dir, engine, theano_flags, precision, origin=origin)
    environment = theano_env.configure(engine, theano_flags, ranks.local_rank if ranks.size > 1 else None, precision,
                                       flush_denormals=True)
    if environment.precision == 'float16':
        train_kwargs['loss_scaling'] = True
    if ranks.size > 1:
        train_kwargs['ranks'] = ranks
    with processes.process_group(ranks, environment.device), stopping.ending_with_launcher(ranks), \
            contextlib.ExitStack() as lock:
        start, unused = None, lock.enter_context(contextlib.ExitStack())     # Closed after the log and the lock.
        with processes.rank_0_first(ranks):
            train_func, options, loss_kwargs = check_options(experiment, train_gan, ranks)
            check_data_set(experiment, data_dir)
            record = make_record(origin, environment, theano_flags, experiment, data_dir)
            facts = fingerprint.of_rank(experiment, train_gan, environment, theano_flags)
        processes.check_same(ranks, facts)
        with processes.rank_0_first(ranks):
            if ranks.rank == 0:
                start = claim_folder(experiment, result_dir, environment, train_gan, record, lock)
        start = processes.from_rank_0(ranks, start)
        if start.is_finished:
            print(f'{start.run_dir} is finished; raise train.total_kimg to train on')
            return start.run_dir
        sizes = sizes_of_growing_files(start.run_dir)
        with logging(start.run_dir, ranks), stopping.ending_together(ranks, start.run_dir):
            print_and_log(None, str(environment))
            if ranks.rank == 0 and start.is_new:
                write_run_files(start.run_dir, experiment, environment, start, record)
            try:
                # Rank 0 goes first, as it may have to make the dataset.
                with processes.rank_0_first(ranks):
                    training_set, G, D, Gs = prepare(experiment, data_dir, start.networks)
                    all_options = {**defaults_of(train_func), **options}
                    check_labels(all_options, training_set.label_size, labels_path(training_set.h5_path))
                    check_minibatches(ranks, all_options, training_set.resolution, experiment['D'])
                    data = fingerprint.of_data(training_set)
                    check_data(start, experiment, data)
                processes.check_same(ranks, data)
            except UserError:
                if ranks.rank == 0 and start.is_new:
                    unused.callback(shutil.rmtree, start.run_dir)       # No training has begun.
                raise
            if ranks.rank == 0 and start.is_new:
                write_class_names(start.run_dir, training_set.class_names)
            metrics_at_end = final_metrics(experiment, training_set.label_size)
            if start.is_trained:
                assert Gs
                if ranks.rank == 0:
                    states.cut_back(start.run_dir, sizes)       # The log then reads like that of an uninterrupted run.
                with training_set:
                    finish(metrics_at_end, start.run_dir, training_set, Gs, data_dir, ranks,
                           all_options.get('batchnorm', 'minibatch'))
                return start.run_dir
            run_states = states.RunStates(start.run_dir, start.about, start.state, lambda: write_run_files(
                start.run_dir, experiment, environment, start, record))
            if ranks.rank == 0 and not start.is_new and not start.state:    # The folder was not changed before.
                run_states.start_over(sizes)
            if Gs and not start.state:
                train_kwargs['Gs'] = Gs
                if options.get('resume_kimg') is None:
                    options['resume_kimg'] = start.kimg
            if 'run_states' in inspect.signature(train_func).parameters:
                train_kwargs['run_states'] = run_states
            with training_set:
                print_summary(start.run_dir, training_set, G, D, environment, all_options,
                              start.state.document['cur_nimg'] / 1000 if start.state else
                              options.get('resume_kimg') or 0.0, ranks)
                Gs = train_func(start.run_dir, training_set, G, D, loss_kwargs, **options, **train_kwargs)
                finish(metrics_at_end, start.run_dir, training_set, Gs, data_dir, ranks,
                       all_options.get('batchnorm', 'minibatch'))
    return start.run_dir


def claim_folder(experiment: dict, result_dir: str, environment: theano_env.Environment, train_gan: Callable,
                 record: dict, lock: contextlib.ExitStack) -> Start:
    """Find the :class:`training.resume.Start` of an experiment; make and lock its folder.

    Parameters
    ----------
    experiment : dict
    result_dir : str
    environment : theano_env.Environment
    train_gan : callable
        Default training function of experiments.
    record : dict
        Section 'run' of ``config.txt``, see :func:`training.recorded.make_record`.
    lock : contextlib.ExitStack
        Releases the lock when it is closed.
    """
    start = find_start(experiment, result_dir, environment)
    run_dir = start.run_dir or create_result_subdir(result_dir, experiment.get('desc', 'run'))
    lock.enter_context(in_use(run_dir))
    if start.is_new:
        return start._replace(run_dir=run_dir)
    return resume_in(run_dir, experiment, environment, train_gan, record)


def finish(metrics_at_end: Sequence[str], run_dir: str, training_set: Dataset, Gs: Network, data_dir: str,
           ranks: Ranks, batchnorm: BatchNorm) -> None:
    """Evaluate the metrics at the end of a training, whose networks are already saved, and mark the run as done."""
    if ranks.rank == 0:
        try:
            evaluate_final(metrics_at_end, run_dir, training_set, Gs, data_dir, batchnorm)
        except KeyboardInterrupt:
            raise stopping.Stopped(f'interrupted; the networks are saved, their metrics are missing; '
                                   f'{stopping.resume_hint(ranks, run_dir)}', signal.SIGINT) from None
        until_written(lambda: mark_as_done(run_dir), 'trying again')
    print('Done.')


def evaluate_final(names: Sequence[str], run_dir: str, training_set: Dataset, Gs: Network, data_dir: str,
                   batchnorm: BatchNorm = 'minibatch') -> None:
    """Evaluate metrics on the final generator `Gs` of a run, with the dataset that is already open."""
    for name in names:
        if name == 'digit_recognition':
            print(digit_recognition.report(run_dir, training_set, Gs, batchnorm=batchnorm))
        else:
            evaluation.evaluate_run(run_dir, [name], lambda: contextlib.nullcontext(training_set),
                                    os.path.join(data_dir, 'metric-cache'), only_final=True, final_Gs=Gs,
                                    batchnorm=batchnorm)


def run_utility(experiment: dict, result_dir: str, engine: str = 'auto', theano_flags: dict | None = None,
                precision: str = 'auto', run_dir: str | None = None, origin: dict | None = None) -> str:
    """Run an experiment whose ``train.func`` does not train, such as ``'util_scripts.generate_fake_images'``.

    Parameters
    ----------
    experiment : dict
        ``desc``, ``random_seed`` and ``train``: the function with its arguments, except `run_dir` and `result_dir`,
        which are added here.
    run_dir : str or None
        Folder for its files. None: a new run folder.
    result_dir, engine, theano_flags, precision, origin
        See :func:`run_experiment`.

    Returns
    -------
    str
        Folder of the files.
    """
    func, kwargs = check_utility(experiment), dict(experiment['train'])
    kwargs.pop('func')
    environment = theano_env.configure(engine, theano_flags, precision=precision)
    if 'result_dir' in inspect.signature(func).parameters:
        kwargs['result_dir'] = result_dir
    np.random.seed(experiment.get('random_seed', 1000))
    if run_dir is not None:
        try:
            os.makedirs(run_dir, exist_ok=True)
        except OSError as error:
            raise UserError(f'{run_dir}: cannot make this folder ({error.strerror})') from error
        func(run_dir=run_dir, **kwargs)
        return run_dir
    run_dir = create_result_subdir(result_dir, experiment.get('desc', func.__name__))
    try:
        func(run_dir=run_dir, **kwargs)
    except UserError:
        if not os.listdir(run_dir):     # The function wrote nothing.
            os.rmdir(run_dir)
        raise
    write_run_files(run_dir, experiment, environment, Start(),
                    make_record(origin, environment, theano_flags, experiment, None))
    return run_dir


def prepare(experiment: dict, data_dir: str, networks: str | None = None) -> tuple[Dataset, Network, Network,
            Network | None]:
    """Seed NumPy's generator, open the dataset, and build or load the networks.

    Parameters
    ----------
    experiment : dict
    data_dir : str
    networks : str, optional
        Network pickle to load G, D and Gs from. Default: build G and D.

    Returns
    -------
    (Dataset, Network, Network, Network or None)
        Dataset, G, D, and Gs if it was loaded.
    """
    np.random.seed(experiment.get('random_seed', 1000))
    training_set = open_dataset(experiment, data_dir)
    if note := count_note(training_set):
        print(note)
    if networks is None:
        G, D = (build_and_verify(name, experiment, training_set) for name in 'GD')
        return training_set, G, D, None
    if not os.path.isfile(networks):
        raise UserError(f'train.resume_run_id: there is no network pickle {networks}')
    print(f'G and D are loaded from {networks}; the options of the sections G and D are ignored')
    G, D, Gs = load_gan(networks, [experiment[name]['func'] for name in 'GD'])
    check_start({'G': G, 'D': D, 'Gs': Gs}, networks)
    label_shape, image_shape = [None, training_set.label_size], [None, *training_set.shape]
    for name, expected, found in [('images of D', [image_shape], D.input_shapes[:1]),
                                  ('images of G', [image_shape], G.output_shapes[:1]),
                                  ('labels of G', [label_shape] if label_shape[1] else [],
                                   [shape for shape in G.input_shapes[1:] if shape[1]])]:
        if list(map(list, found)) != expected:
            raise UserError(f'{networks}: its {name} have the shapes {found}, the dataset needs {expected}; '
                            'choose another dataset or network')
    return training_set, G, D, Gs


@contextlib.contextmanager
def logging(run_dir: str, ranks: Ranks) -> Iterator[None]:
    """Copy what rank 0 prints to ``log.txt``, and silence the other ranks."""
    if ranks.rank == 0:
        with OutputLogger(os.path.join(run_dir, 'log.txt')):
            yield
    else:
        with open(os.devnull, 'w', encoding='utf-8') as nowhere, contextlib.redirect_stdout(nowhere):
            yield


def write_run_files(run_dir: str, experiment: dict, environment: theano_env.Environment, start: Start,
                    record: dict) -> None:
    """Write the experiment and `record` to ``config.txt``; append command, time and machine to ``run.txt``."""
    if start.networks:
        record = {**record, 'networks': start.networks}
    with atomic_write(os.path.join(run_dir, 'config.txt'), 'w', encoding='utf-8') as config_file:
        config_file.write(pprint.pformat({**experiment, RECORD: record}, width=120, sort_dicts=False) + '\n')
    begin = 'started'
    if start.state:
        begin = f'resumed at kimg {start.state.document["cur_nimg"] / 1000:.3f}'
    text = (f'command: {command_line()}\n'
            f'{begin}: {time.strftime("%Y-%m-%d %H:%M:%S")}\n'
            f'machine: {platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}\n'
            f'{environment}\n')
    append_bytes(os.path.join(run_dir, 'run.txt'), text.encode())
