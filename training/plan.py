"""What an experiment is going to do, before it does it: phases of its schedule, size, memory, time.

``python train.py --experiment NAME --dry-run`` prints it. Memory and time are estimates: the step's activations,
weights and optimizer state; the multiplications of its convolutions at the speed of a plain matrix product measured on
this machine just now, and on a GPU also the bytes that its kernels move and their number.
"""

import inspect
import os
import pprint
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from theano_torch import gpus

import numpy as np

import theano_env
from common.console import format_time
from common.errors import UserError
from common.images import class_grid_size, snapshot_grid_size
from common.objects import defaults_of
from data import hdf5_format
from nets import costs
from nets.network import Network
from training.data_sets import check_data_set, data_path
from training.experiment import build_network
from training.options import check_options, check_utility, is_training
from training.schedule import training_schedule

D_STEP_FORWARDS = 13        # A D step of WGAN-GP in forward passes of D: four evaluations and their derivatives...
G_STEP_FORWARDS = 5         # ...and a G step, in which G costs about as much as D.
# On a GPU, of a D and a G step in tf32; benchmarks/gpu_model.py counts them.
MOVES = 11, 4.5             # How often they read or write each activation of both networks...
WEIGHT_MOVES = 13, 8        # ...and each weight.
LAUNCHES = 14, 6.5          # Kernels for each layer with weights.
LAUNCH_SECONDS = 2e-6       # Least time of a kernel inside of a CUDA graph.
SHARE_OF_PEAK = 0.6         # Of the matrix product's speed that training steps reach; benchmarks/README.md.
VALUES_PER_ACTIVATION = 3.0     # Float32 values that a D step holds at its peak for each of D's activations; measured.
SHORT_KIMG = 100            # A training up to this length is started without an estimate.
LONGEST_SECONDS = 30 * 86400    # A training that is estimated longer is not started on a CPU that nobody asked for.
BASE_MEMORY_GB = 0.45       # What the process takes without any network.


class Phase(NamedTuple):
    """A stretch of the schedule with one resolution, fading in or not, and one minibatch."""

    start_kimg: float
    end_kimg: float
    resolution: int
    fading: bool
    minibatch: int


class Speed(NamedTuple):
    """What a device can do. On the CPU the operations stand for everything."""

    flops: float                    # Operations a second.
    bandwidth: float = np.inf       # Bytes a second.
    launch: float = 0.0             # Seconds that a kernel takes at least.


class Estimate(NamedTuple):
    """What a phase takes."""

    seconds_per_kimg: float
    memory_gb: float


def phases(resolution: int, **schedule_kwargs: Any) -> list[Phase]:
    """The schedule as a list of :class:`Phase`; `schedule_kwargs` are those of `training_schedule`."""
    options = {**defaults_of(training_schedule), **schedule_kwargs}
    training, transition = options['lod_training_kimg'], options['lod_transition_kimg']
    total, period = options['total_kimg'], training + transition
    starts = {0.0}
    for index in range(len(bin(resolution)) if period else 0):
        starts |= {float(index * period), float(index * period + training)}
    result: list[Phase] = []
    for start in sorted(start for start in starts if start < total):
        # A little after the start: the first image still belongs to the phase before.
        schedule = training_schedule(int(start * 1000) + 1, resolution, **schedule_kwargs)
        phase = Phase(start, total, schedule.resolution, schedule.min_lod != schedule.max_lod, schedule.minibatch_size)
        if result and phase[2:] == result[-1][2:]:
            continue
        if result:
            result[-1] = result[-1]._replace(end_kimg=start)
        result.append(phase)
    return result


def estimate(phase: Phase, G: Network, D: Network, repeats: int, speed: Speed) -> Estimate:
    """The :class:`Estimate` of a phase: `repeats` D steps per G step, on a device of the given speed."""
    forwards_d = D_STEP_FORWARDS + G_STEP_FORWARDS / 2 / repeats
    forwards_g = 1 + G_STEP_FORWARDS / 2 / repeats      # A D step generates, too.
    work = forwards_d * costs.multiplications(D, phase.resolution) + \
        forwards_g * costs.multiplications(G, phase.resolution)
    # Both networks with their gradients and the two moments of Adam, and Gs.
    values = 5.0 * costs.num_trainable(G) + 4.0 * costs.num_trainable(D)
    values += VALUES_PER_ACTIVATION * phase.minibatch * costs.activations(D, phase.resolution)
    per_step = step_traffic(phase, G, D, repeats) / speed.bandwidth + \
        step_launches(phase, G, D, repeats) * speed.launch
    return Estimate(1000 * (2 * work / (speed.flops * SHARE_OF_PEAK) + per_step / phase.minibatch),
                    BASE_MEMORY_GB + values * 4 / 2 ** 30)


def step_traffic(phase: Phase, G: Network, D: Network, repeats: int) -> float:
    """About how many bytes the kernels of a D step and of its share of a G step read and write on a GPU."""
    values = phase.minibatch * sum(costs.activations(net, phase.resolution) for net in (G, D))
    weights = sum(map(costs.num_trainable, (G, D)))
    return sum(4 * (moves * values + weight_moves * weights) / times for moves, weight_moves, times in
               zip(MOVES, WEIGHT_MOVES, (1, repeats), strict=True))


def step_launches(phase: Phase, G: Network, D: Network, repeats: int) -> float:
    """About how many kernels they are."""
    layers = sum(height <= phase.resolution and count > 0 for net in (G, D)
                 for height, count in costs.layer_multiplications(net))
    return layers * (LAUNCHES[0] + LAUNCHES[1] / repeats)


def total_time(schedule: list[Phase], G: Network, D: Network, repeats: int, speed: Speed) -> float:
    """The estimated seconds of a whole schedule, see :func:`estimate`."""
    return sum(estimate(phase, G, D, repeats, speed).seconds_per_kimg * (phase.end_kimg - phase.start_kimg)
               for phase in schedule)


class Writes(NamedTuple):
    """What a run leaves on the disk; sizes in bytes."""

    pickles: int
    pickle_size: int
    pictures: int
    picture_size: int       # At most: PNG files are compressed.
    state_size: int


def number_of_ticks(resolution: int, **schedule_kwargs: Any) -> int:
    """Status lines of a whole run; `schedule_kwargs` are those of `training_schedule`."""
    nimg, ticks, total = 0.0, 0, {**defaults_of(training_schedule), **schedule_kwargs}['total_kimg'] * 1000
    while nimg < total:
        schedule = training_schedule(int(nimg), resolution, **schedule_kwargs)
        nimg += max(schedule.tick_kimg * 1000, schedule.minibatch_size)
        ticks += 1
    return ticks


def writes(ticks: int, options: dict, G: Network, D: Network) -> Writes:
    """What a run of so many ticks writes; `options` are all those of the training."""
    def every(option):
        return ticks // options[option] if options[option] else 0

    pickles, keep = every('network_snapshot_ticks'), options.get('keep_snapshots')
    if keep is not None:
        pickles = min(pickles, pickles // 10 + keep)
    channels, height, width = G.output_shape[1:]
    columns, rows = options['image_grid_size'] or snapshot_grid_size(height, width)
    if not options['image_grid_size'] and options['image_grid_type'] != 'default' and len(G.input_shapes) > 1:
        columns, rows = class_grid_size(G.input_shapes[1][1], height, width,
                                        options['image_grid_type'] == 'category-rows')
    of_G, of_D = costs.num_trainable(G), costs.num_trainable(D)
    return Writes(pickles + 1, 4 * (2 * of_G + of_D), every('image_snapshot_ticks') + 2,
                  columns * rows * height * width * channels * options['image_grid_zoom'] ** 2,
                  4 * (4 * of_G + 3 * of_D))     # Weights, two moments, and Gs.


def format_size(size: float) -> str:
    """'277 MB' or '48.4 GB'."""
    return f'{size / 1e6:.3g} MB' if size < 1e9 else f'{size / 1e9:.1f} GB'


def measured_speed(device: str, precision: str = 'float32', size: int = 2048, seconds: float = 0.3) -> Speed:
    """The :class:`Speed` of a torch device in matrix products of a `precision` of `theano_env`."""
    import torch  # Which the other engines do without.

    def least(function: Callable, a: torch.Tensor) -> float:
        best, end = np.inf, time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            float(function(a)[0, 0])        # Waits for the device.
            best = min(best, time.perf_counter() - start)
        return best

    if device == 'cpu':
        return Speed(2 * size ** 3 / least(lambda a: torch.mm(a, a), torch.randn(size, size)))
    size *= 4       # Else it would be done before the host has seen it.
    dtype = {'float16': torch.float16, 'bfloat16': torch.bfloat16}.get(precision, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    return Speed(2 * size ** 3 / least(lambda a: torch.mm(a, a), a), 2 * a.nbytes / least(torch.neg, a), LAUNCH_SECONDS)


def build_networks(chosen: dict, data_dir: str) -> tuple[Network, Network, bool]:
    """(G, D, whether the data set is there) of a resolved experiment; without it, for RGB images without labels."""
    section = chosen['dataset']
    h5_path = data_path(section['h5_path'], data_dir)
    channels, label_size = 3, 0
    there = os.path.exists(h5_path)
    if there:
        h5, levels = hdf5_format.open_levels(h5_path)
        with h5:
            num_images, channels = levels[max(levels)].shape[:2]
            labels = None if section.get('max_labels', 'all') == 0 else hdf5_format.read_labels(
                h5, h5_path, num_images, section.get('require_labels', False))
        if labels is not None:
            label_size = labels.shape[1] if section.get('max_labels', 'all') == 'all' else section['max_labels']
    resolution = section.get('resolution')
    if resolution is None:
        if not there:
            raise UserError(f'dataset.resolution: is missing, and there is no {h5_path} that could tell it; set it')
        resolution = max(levels)
    G, D = (build_network(name, chosen, channels, resolution, label_size) for name in 'GD')
    return G, D, there


def schedule_options(options: dict) -> dict:
    """Return those of the `options` of a training that `training_schedule` takes."""
    return {name: options[name] for name in inspect.signature(training_schedule).parameters if name in options}


def whole_run(chosen: dict, data_dir: str, speed: Speed, train_gan: Callable) -> tuple[float, float]:
    """What the whole training of a resolved experiment takes: estimated seconds, and bytes on the disk.

    Parameters
    ----------
    chosen : dict
    data_dir : str
    speed : Speed
        See :func:`measured_speed`.
    train_gan : callable
        The training function of experiments that name none.
    """
    train_func, options, _ = check_options(chosen, train_gan)
    G, D, _there = build_networks(chosen, data_dir)
    options = {**defaults_of(train_func), **options}
    schedule_kwargs = schedule_options(options)
    resolution = D.input_shape[-1]
    seconds = total_time(phases(resolution, **schedule_kwargs), G, D, options.get('D_training_repeats', 1), speed)
    written = writes(number_of_ticks(resolution, **schedule_kwargs), options, G, D)
    return seconds, (written.pickles * written.pickle_size + written.pictures * written.picture_size
                     + 2 * written.state_size)


def check_duration(chosen: dict, data_dir: str, engine: str = 'auto', theano_flags: Mapping[str, Any] | None = None,
                   precision: str = 'auto', *, train_gan: Callable, is_device_named: bool = False) -> None:
    """Raise `UserError` where a new training would take over a month, as no GPU is seen and no device was named.

    Parameters
    ----------
    chosen : dict
        Resolved experiment.
    data_dir, engine, theano_flags, precision
        See `training.experiment.run_experiment`.
    train_gan : callable
        The training function of experiments that name none.
    is_device_named : bool
        Whether the user has said which device to use elsewhere than in `theano_flags`.
    """
    flags = dict(theano_flags or {})
    is_device_named = is_device_named or flags.get('device', 'auto') != 'auto' or theano_env.USER_DEVICE == 'cpu'
    if is_device_named or not is_training(chosen):
        return
    train_func, options, _ = check_options(chosen, train_gan)
    options = {**defaults_of(train_func), **options}
    if chosen['train'].get('resume_run_id') is not None or options.get('total_kimg', 0) <= SHORT_KIMG:
        return
    check_data_set(chosen, data_dir)
    environment = theano_env.configure(engine, flags, precision=precision)
    if environment.device != 'cpu' or environment.engine != 'torch':
        return
    seconds, _size = whole_run(chosen, data_dir, measured_speed('cpu'), train_gan)
    if seconds > LONGEST_SECONDS:
        raise UserError(f'no GPU is seen, and on this CPU the training would take about {seconds / 86400:.0f} days; '
                        "to do so all the same, name the device: --device cpu, or theano_flags['device'] = 'cpu' in "
                        f'config.py; {gpus.why_none()}')


def describe(chosen: dict, data_dir: str, engine: str = 'auto', theano_flags: dict | None = None,
             precision: str = 'auto', *, train_gan: Callable) -> None:
    """Print the resolved experiment `chosen`, its schedule, and estimates of memory and time."""
    if not is_training(chosen):
        check_utility(chosen)
        pprint.pprint(chosen, width=120, sort_dicts=False)
        return
    train_func, options, _ = check_options(chosen, train_gan)
    environment = theano_env.configure(engine, theano_flags, precision=precision)
    pprint.pprint(chosen, width=120, sort_dicts=False)
    G, D, there = build_networks(chosen, data_dir)
    print('\n%s: %s' % (data_path(chosen['dataset']['h5_path'], data_dir), 'there' if there else
                        'not there; planned for RGB images without labels'))
    for net in (G, D):
        print(f'{net.name}: {chosen[net.name]["func"]}, {costs.num_trainable(net)} trainable parameters')
    options = {**defaults_of(train_func), **options}
    schedule_kwargs = schedule_options(options)
    print('\n' + str(environment))
    speed = measured_speed(environment.device, environment.precision)
    resolution = D.input_shape[-1]
    schedule = phases(resolution, **schedule_kwargs)
    total_seconds = total_time(schedule, G, D, options['D_training_repeats'], speed)
    print(f'\n{"kimg":>15}  {"resolution":<22} {"minibatch":>9} {"sec/kimg ~":>12} {"memory ~":>10}')
    for phase in schedule:
        needs = estimate(phase, G, D, options['D_training_repeats'], speed)
        print('%7g - %5g  %-22s %9d %12.1f %7.1f GB' % (
            phase.start_kimg, phase.end_kimg,
            '%dx%d%s' % (phase.resolution, phase.resolution, ' fading in' if phase.fading else ''), phase.minibatch,
            *needs))
    written = writes(number_of_ticks(resolution, **schedule_kwargs), options, G, D)
    thinned = '' if options.get('keep_snapshots') is not None else '; train.keep_snapshots=N thins them out'
    print(f'\nIt will write some {written.pickles} network pickles of {format_size(written.pickle_size)} each, '
          f'{format_size(written.pickles * written.pickle_size)} together{thinned};\n'
          f'some {written.pictures} pictures of up to {format_size(written.picture_size)}; 2 training states of '
          f'{format_size(written.state_size)}.')
    print(f'\nEstimated time of the whole run on this machine: {format_time(total_seconds)}, between half of it '
          'and twice')
