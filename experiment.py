"""From an entry of `config.py`'s table to a run: checked options, data set, networks, run folder, final metrics.

Shared by the scripts that run experiments; `config.py` itself is handed in by them.
"""

import ast
import contextlib
import copy
import inspect
import os
import platform
import pprint
import shlex
import shutil
import sys
import time
from typing import NamedTuple

import numpy as np

import theano_env  # isort: skip  (restores what the imports of Theano and Lasagne need)

import dataset
import distributed
import loss
import metrics
import misc
import tfutil_shim
import theano_torch
import training_state
from metrics.digit_recognition import DigitRecognition
from theano_torch import memory

RESUME_OPTIONS = ('resume_run_id', 'resume_snapshot', 'resume_with_changes')   # In the section 'train', see where_from.
SECTIONS = ('desc', 'random_seed', 'dataset', 'create_dataset', 'G', 'D', 'loss', 'train', 'metrics')


def resolve_config(config, name, overrides=()):
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
    misc.UserError
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
            raise misc.UserError(f'--set {override}: write SECTION.KEY=VALUE, for example train.total_kimg=10')
    check_keys(name, experiment, SECTIONS)
    for section in ('dataset', 'G', 'D', 'train') if is_training(experiment) else ():
        if section not in experiment:
            raise misc.UserError(f'experiments[{name!r}]: the section {section!r} is missing')
    return experiment


def with_variants(config, name):
    """A copy of the experiment that `name` begins with, changed by the variants that follow."""
    base, chosen = name, []
    while base not in config.experiments:
        base, _, variant = base.rpartition('-')
        if variant not in config.variants:
            raise misc.UserError(f'experiment={name!r}: config.py has no such '
                                 f'experiment{nearest(name, [*config.experiments, *config.variants])}')
        chosen.insert(0, variant)
    experiment = copy.deepcopy(config.experiments[base])
    for variant in chosen:
        for section, options in config.variants[variant].items():
            experiment[section] = {**experiment.get(section, {}), **copy.deepcopy(options)}
        experiment['desc'] = f'{experiment.get("desc", base)}-{variant}'
    return experiment


def is_training(experiment):
    """Whether an experiment trains networks. Otherwise its ``train.func`` is one of util_scripts.py or like those."""
    func = experiment.get('train', {}).get('func', 'train.train_gan')
    return 'dataset' in inspect.signature(tfutil_shim.import_obj(func)).parameters


def describe(experiment):
    """A few words on an experiment, for a list of them."""
    train = experiment['train']
    if 'dataset' not in experiment:
        return train.get('func', '')
    return (f'{experiment["dataset"]["resolution"]}x{experiment["dataset"]["resolution"]}, '
            f'{train.get("total_kimg", 15000)} kimg')


def check_arguments(section, kwargs, func, given=(), more=()):
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


def check_keys(section, given, valid):
    for key in given:
        if key not in valid:
            raise misc.UserError(f'{section}.{key}: no such option{nearest(key, valid)}')


def nearest(word, candidates):
    """'; did you mean ...?' for an error message, or the list of what there is."""
    return misc.did_you_mean(word, candidates, cutoff=0.5) or '; choose from ' + ', '.join(sorted(map(str, candidates)))


def open_dataset(experiment, data_dir):
    """Open the dataset of an experiment; build it first where the experiment says how and it is not there."""
    kwargs = dict(experiment['dataset'])
    check_arguments('dataset', kwargs, dataset.Dataset)
    kwargs['h5_path'] = os.path.join(data_dir, kwargs['h5_path'])
    create = dict(experiment.get('create_dataset', {}))
    if create and not os.path.exists(kwargs['h5_path']):
        create_func = tfutil_shim.import_obj(create.pop('func'))
        check_arguments('create_dataset', create, create_func, given=['h5_path'])
        try:
            os.makedirs(data_dir, exist_ok=True)
        except OSError as error:
            raise misc.UserError(f'data_dir={data_dir!r}: cannot make this folder ({error.strerror}); choose another '
                                 'one with --data-dir') from error
        create_func(h5_path=kwargs['h5_path'], **create)
    return dataset.Dataset(**kwargs)


def build_network(name, kwargs, training_set):
    """Build G or D for the shape and labels of the training set."""
    kwargs = dict(kwargs)
    func = kwargs.pop('func')
    check_arguments(name, kwargs, tfutil_shim.import_obj(func))
    channels, resolution, _ = training_set.shape
    network = tfutil_shim.Network(name, func=func, num_channels=channels, resolution=resolution,
                                  label_size=training_set.label_size, **kwargs)
    # A network that cannot be rebuilt from its pickle is better found out now than after two weeks.
    network.verify_rebuild()
    network.print_topology()
    return network


def run_experiment(
    experiment,             # Resolved experiment, see resolve_config.
    data_dir,               # Folder of the HDF5 files.
    result_dir,             # Folder in which a new run folder is made.
    engine      = 'auto',   # See theano_env.py.
    theano_flags = None,
    ranks       = distributed.SINGLE,   # Which of how many processes this is.
    precision   = 'auto',   # See theano_env.configure.
    **train_kwargs          # More arguments for the training function: show_progress, on_step.
):
    """Run one experiment in a new run folder, or go on with a run in its own folder; return that folder.

    Which of the two ``experiment['train']`` says: see :func:`where_from`.
    """
    if not is_training(experiment):
        if ranks.size > 1:
            raise misc.UserError(f'{experiment["train"]["func"]} runs in one process: start it without torchrun')
        return run_utility(experiment, result_dir, engine, theano_flags, precision)
    environment = theano_env.configure(engine, theano_flags, ranks.local_rank if ranks.size > 1 else None, precision)
    if environment.precision == 'float16':
        train_kwargs['loss_scaling'] = True
    with distributed.process_group(ranks, environment.device), contextlib.ExitStack() as run:
        source = None
        with distributed.rank_0_first(ranks):
            train_func, train, loss_kwargs = check_options(experiment)
            if ranks.rank == 0:
                source = where_from(experiment, result_dir, environment)
                is_new = source.run_dir is None
                unused = run.enter_context(contextlib.ExitStack())      # Left after the log and the lock are closed.
                if is_new:
                    run_dir = misc.create_result_subdir(result_dir, experiment.get('desc', 'run'))
                    source = source._replace(run_dir=run_dir)
                run.enter_context(training_state.in_use(source.run_dir))
                if not is_new:
                    source = source_within(source.run_dir, experiment, environment)
        source = distributed.from_rank_0(ranks, source)
        run_dir = source.run_dir
        if source.is_finished:
            print(f'{run_dir} is finished; raise train.total_kimg to train on')
            return run_dir
        if ranks.size > 1:
            train_kwargs['ranks'] = ranks
        with logging(run_dir, ranks), distributed.ending_together(ranks, run_dir):
            print(environment)
            if ranks.rank == 0:
                write_run_files(run_dir, experiment, environment, source)
            try:
                # The data set may have to be made, so one after the other.
                with distributed.rank_0_first(ranks):
                    training_set, G, D, Gs = prepare(experiment, data_dir, source.networks)
                    check_minibatches(ranks, train_func, train, training_set.resolution)
            except misc.UserError:
                if ranks.rank == 0 and is_new:
                    unused.callback(shutil.rmtree, run_dir)     # Nothing has begun.
                raise
            if Gs and not source.state:
                train_kwargs['Gs'] = Gs
                if train.get('resume_kimg') is None:
                    train['resume_kimg'] = source.kimg
            if 'run_states' in inspect.signature(train_func).parameters:
                train_kwargs['run_states'] = training_state.RunStates(run_dir, source.about, source.state)
            with training_set:
                Gs = train_func(run_dir, training_set, G, D, loss_kwargs, **train, **train_kwargs)
                for metric in experiment.get('metrics', []) if ranks.rank == 0 else []:
                    if metric == 'digit_recognition':
                        print(digit_recognition(run_dir, training_set, Gs))
                    else:
                        import evaluate_metrics  # Which imports this module.
                        evaluate_metrics.evaluate_run(run_dir, [metric], data_dir, only_final=True)
            print('Done.')
    return run_dir


def run_utility(experiment, result_dir, engine='auto', theano_flags=None, precision='auto', run_dir=None):
    """Run an experiment whose ``train.func`` does not train, such as ``'util_scripts.generate_fake_images'``.

    Parameters
    ----------
    experiment : dict
        ``desc``, ``random_seed`` and ``train``; the latter has the function and its arguments but for `run_dir` and
        `result_dir`, which it gets from here.
    run_dir : str or None
        Where it writes. None: a new run folder.
    result_dir, engine, theano_flags, precision
        See :func:`run_experiment`.

    Returns
    -------
    str
        The folder.
    """
    environment = theano_env.configure(engine, theano_flags, precision=precision)
    kwargs = dict(experiment['train'])
    func = tfutil_shim.import_obj(kwargs.pop('func'))
    check_arguments('train', kwargs, func, given=['run_dir', 'result_dir'])
    missing = [name for name, parameter in inspect.signature(func).parameters.items()
               if parameter.default is parameter.empty and name not in kwargs and name != 'run_dir']
    if missing:
        raise misc.UserError(f'train.{missing[0]}: is missing, {experiment["train"]["func"]} needs it')
    if 'result_dir' in inspect.signature(func).parameters:
        kwargs['result_dir'] = result_dir
    np.random.seed(experiment.get('random_seed', 1000))
    if run_dir is not None:
        try:
            os.makedirs(run_dir, exist_ok=True)
        except OSError as error:
            raise misc.UserError(f'{run_dir}: cannot make this folder ({error.strerror})') from error
        func(run_dir=run_dir, **kwargs)
        return run_dir
    run_dir = misc.create_result_subdir(result_dir, experiment.get('desc', func.__name__))
    try:
        func(run_dir=run_dir, **kwargs)
    except misc.UserError:
        if not os.listdir(run_dir):     # Nothing has begun.
            os.rmdir(run_dir)
        raise
    write_run_files(run_dir, experiment, environment, Source())
    return run_dir


# ----------------------------------------------------------------------------------------------------------------------
# Where a run starts from.


class Source(NamedTuple):
    """What a run starts from."""

    run_dir: str = None         # Its folder. None: a new one.
    networks: str = None        # Network pickle with G, D and Gs. None: they are built anew.
    kimg: float = None          # What the name of that file says of the training that they have behind them.
    state: object = None        # training_state.State to go on from.
    about: dict = None          # What the training states of the run say of it.
    is_finished: bool = False


def where_from(experiment, result_dir, environment):
    """The :class:`Source` of an experiment according to some options in ``experiment['train']``.

    Parameters
    ----------
    experiment : dict
        Its section 'train' may have: `resume_run_id`, the run to go on with (see `training_state.find_run`), or the
        path of a network pickle; `resume_snapshot`, 'latest' (default) to go on exactly in the folder of that run, or
        the kimg of one of its network snapshots, to start a new run from these networks; `resume_kimg`, the place in
        the schedule at which such a new run starts, by default as the file name says, else 0; `resume_with_changes`,
        True to go on with a run although options of the sections 'train' and 'loss' have changed since.
    result_dir : str
    environment : theano_env.Environment

    Raises
    ------
    misc.UserError
    """
    run_id, snapshot = experiment['train'].get('resume_run_id'), experiment['train'].get('resume_snapshot', 'latest')
    about = {'experiment': experiment, 'command': command_line(), 'environment': str(environment)}
    if run_id is None:
        return Source(about=about)
    if snapshot == 'latest' and not training_state.is_pickle(run_id):
        return Source(run_dir=training_state.find_run(result_dir, run_id))
    networks, kimg = training_state.find_networks(result_dir, run_id, snapshot)
    networks = os.path.abspath(networks)
    return Source(networks=networks, kimg=kimg or 0.0, about=dict(about, networks=networks))


def source_within(run_dir, experiment, environment):
    """The :class:`Source` for going on with a run in its folder; says if another engine is going to do that.

    Raises
    ------
    misc.UserError
        The run is another one than `experiment` describes, or has no intact training state.
    """
    if not os.path.exists(os.path.join(run_dir, 'config.txt')):
        raise misc.UserError(f'train.resume_run_id: {run_dir} is not the folder of a run: it has no config.txt')
    about = {'experiment': experiment, 'command': command_line(), 'environment': str(environment)}
    state = training_state.newest(run_dir)
    if state is None:
        print(f'{run_dir} has no training state yet: starting again')
        training_state.RunStates(run_dir, about).rewind()
        return Source(run_dir=run_dir, about=about)
    recorded = state.document
    differing = training_state.differing_options(with_defaults(recorded['experiment']), with_defaults(experiment))
    changed = []
    if experiment['train'].get('resume_with_changes'):
        changed = [line for line in differing if line.startswith(('train.', 'loss.'))]
    forbidden = [line for line in differing if line not in changed]
    if forbidden:
        raise misc.UserError(f'the config does not fit {run_dir}: {", ".join(forbidden)}; set them as in the run, '
                             f'which was started with: {recorded["command"]}; or let train.* and loss.* change with '
                             'train.resume_with_changes=True')
    if changed:
        print(f'Going on with changed options: {", ".join(changed)}')
    if recorded.get('environment', about['environment']) != about['environment']:
        print(f'Not bit for bit as it would have gone on: until now the run used: {recorded["environment"]}')
    if os.path.exists(os.path.join(run_dir, training_state.DONE_FILE)):
        totals = [with_defaults(options)['train']['total_kimg'] for options in (recorded['experiment'], experiment)]
        if totals[1] <= totals[0]:
            return Source(run_dir=run_dir, is_finished=True)
    about.update(command=recorded['command'], networks=recorded.get('networks'))
    return Source(run_dir=run_dir, networks=recorded.get('networks'), state=state, about=about)


def with_defaults(experiment):
    """The experiment with the default values of all options that it does not mention."""
    funcs = {'dataset': dataset.Dataset, 'loss': loss.evaluate_loss, 'train': 'train.train_gan'}
    full = dict(experiment)
    for section in ('dataset', 'G', 'D', 'loss', 'train'):
        options = experiment.get(section, {})
        func = options.get('func', funcs.get(section))
        func = tfutil_shim.import_obj(func) if isinstance(func, str) else func
        defaults = {name: parameter.default for name, parameter in inspect.signature(func).parameters.items()
                    if isinstance(parameter.default, PLAIN)}
        full[section] = {**defaults, **options}
    return full


PLAIN = (bool, int, float, str, list, tuple, dict, type(None))      # What options are made of.


def command_line():
    """How this program was started, for messages."""
    return shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])


def check_options(experiment):
    """(training function, its options, those of the loss) of an experiment, checked."""
    train, loss_kwargs = dict(experiment['train']), experiment.get('loss', {})
    train_func = tfutil_shim.import_obj(train.pop('func', 'train.train_gan'))
    check_arguments('train', train, train_func, given=['run_dir', 'dataset', 'G', 'D', 'loss_kwargs', 'ranks',
                                                       'loss_scaling', 'Gs', 'run_states'], more=RESUME_OPTIONS)
    for option in RESUME_OPTIONS:
        train.pop(option, None)
    if 'run_states' not in inspect.signature(train_func).parameters and experiment['train'].get('resume_run_id'):
        raise misc.UserError(f'train.resume_run_id: {experiment["train"]["func"]!r} cannot resume')
    check_arguments('loss', loss_kwargs, loss.evaluate_loss, given=['G', 'D', 'random', 'ranks'])
    loss.check_choices(**{key: loss_kwargs[key] for key in ('type', 'cond_type') if key in loss_kwargs})
    check_keys('metrics', experiment.get('metrics', []), ['digit_recognition', *metrics.METRICS])
    return train_func, train, loss_kwargs


def check_minibatches(ranks, train_func, train, resolution):
    """Whether the minibatches of the whole schedule can be shared by the ranks, see `distributed.check_minibatches`."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(train_func).parameters.items()}
    options = {**defaults, **train}
    lowest = min(2 ** int(np.log2(options['lod_initial_resolution'])), resolution)
    resolutions = [2 ** k for k in range(lowest.bit_length() - 1, resolution.bit_length())]
    distributed.check_minibatches(ranks, resolutions, options['minibatch_default'], options['minibatch_overrides'])


@contextlib.contextmanager
def naming_minibatch(schedule, minibatch_overrides, ranks):
    """Around the training: too little memory is an error that names the minibatch to change.

    Parameters
    ----------
    schedule : callable
        Returns the train.Schedule in force.
    minibatch_overrides : dict or None
    ranks : distributed.Ranks

    Raises
    ------
    misc.UserError
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
        raise misc.UserError(f'{reason}; at {resolution}x{resolution} {present} is too much: {cure}') from error


def prepare(experiment, data_dir, networks=None):
    """(data set, G, D, Gs or None), ready for the training; seeds NumPy's generator.

    Parameters
    ----------
    experiment : dict
    data_dir : str
    networks : str, optional
        Network pickle with G, D and Gs to be used instead of building G and D.
    """
    np.random.seed(experiment.get('random_seed', 1000))
    training_set = open_dataset(experiment, data_dir)
    if networks is None:
        return training_set, *[build_network(name, experiment[name], training_set) for name in 'GD'], None
    if not os.path.isfile(networks):
        raise misc.UserError(f'train.resume_run_id: there is no network pickle {networks}')
    print(f'G and D come from {networks}; the options of the sections G and D are not used')
    G, D, Gs = misc.load_pkl(networks)
    label_shape, image_shape = [None, training_set.label_size], [None, *training_set.shape]
    for name, expected, found in [('images of D', [image_shape], D.input_shapes[:1]),
                                  ('images of G', [image_shape], G.output_shapes[:1]),
                                  ('labels of G', [label_shape] if label_shape[1] else [],
                                   [shape for shape in G.input_shapes[1:] if shape[1]])]:
        if list(map(list, found)) != expected:
            raise misc.UserError(f'{networks}: its {name} have the shapes {found}, the data set needs {expected}; '
                                 'choose another data set or network')
    return training_set, G, D, Gs


@contextlib.contextmanager
def logging(run_dir, ranks):
    """Rank 0 writes what it prints into the log, too; the others print nothing."""
    if ranks.rank == 0:
        with misc.OutputLogger(os.path.join(run_dir, 'log.txt')):
            yield
    else:
        with open(os.devnull, 'w', encoding='utf-8') as nowhere, contextlib.redirect_stdout(nowhere):
            yield


def digit_recognition(run_dir, training_set, Gs, num_images=1000, seed=2000):
    """Share of generated digits that a classifier trained on the real ones reads as the class asked for; one line."""
    metric = DigitRecognition()
    metric.begin('reals')
    metric.feed('reals', *training_set.get_images(np.arange(training_set.num_images)))
    accuracy = metric.end('reals')
    latents = np.random.RandomState(seed).randn(num_images, *Gs.input_shapes[0][1:]).astype(np.float32)
    labels = np.eye(training_set.label_size, dtype=np.float32)[np.arange(num_images) % training_set.label_size]
    images = Gs.run(latents, labels, minibatch_size=64, out_mul=127.5, out_add=127.5, out_dtype='uint8')
    metric.begin('fakes')
    metric.feed('fakes', images, labels)
    line = (f'digit_recognition: {100 * metric.end("fakes"):.1f} % of {num_images} generated digits are read as the '
            f'class asked for, by a classifier that reads {100 * accuracy:.1f} % of unseen real digits')
    with open(os.path.join(run_dir, 'metric-digit_recognition.txt'), 'w', encoding='utf-8') as metric_file:
        metric_file.write(line + '\n')
    return line


def write_run_files(run_dir, experiment, environment, source):
    """``config.txt``: what was run; ``run.txt``: how, when and on what, once for every time it was gone on with."""
    with misc.atomic_write(os.path.join(run_dir, 'config.txt'), 'w', encoding='utf-8') as config_file:
        config_file.write(pprint.pformat(experiment, width=120, sort_dicts=False) + '\n')
    begin = 'started'
    if source.state:
        begin = f'resumed at kimg {source.state.document["cur_nimg"] / 1000:.3f}'
    misc.append(os.path.join(run_dir, 'run.txt'), (f'command: {command_line()}\n{begin}: '
                                                   f'{time.strftime("%Y-%m-%d %H:%M:%S")}\nmachine: '
                                                   f'{platform.platform()}, Python {platform.python_version()}, NumPy '
                                                   f'{np.__version__}\n{environment}\n').encode())
