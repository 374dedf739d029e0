"""Estimates what a training takes before it starts: phases of the schedule, time, memory, disk space.

``python train.py --experiment NAME --dry-run`` prints the plan. Memory is estimated from the activations, weights and
optimizer state of a step. Time is estimated from the multiplications of its convolutions and the measured speed of a
matrix product; on a GPU, also from the bytes that its kernels move and their number. A dry run corrects the estimates
with a measurement of D.
"""

import inspect
import os
import pprint
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from theano_torch import gpus

import numpy as np

import theano_env
from common.console import rough_time
from common.errors import UserError
from common.images import class_grid_size, snapshot_grid_size
from common.objects import defaults_of
from data import hdf5_format
from nets import costs
from nets.network import Network
from nets.ranks import SINGLE, Ranks
from training import measuring
from training.building import build_network
from training.data_sets import check_data_set, data_path
from training.options import check_options, check_utility, is_training
from training.schedule import training_schedule

D_STEP_FORWARDS = 13        # Cost of a D step of WGAN-GP in forward passes of D: four evaluations, their derivatives.
G_STEP_FORWARDS = 5         # Cost of a G step, half of it in G and half in D.
# On a GPU, for a D step and a G step in tf32; benchmarks/gpu_model.py counts them.
MOVES = 11, 4.5             # Reads and writes of each activation of both networks.
WEIGHT_MOVES = 13, 8        # Reads and writes of each weight.
LAUNCHES = 14, 6.5          # Kernels per layer with weights.
LAUNCH_SECONDS = 2e-6       # Least time of a kernel inside a CUDA graph.
SHARE_OF_PEAK = 0.6         # Speed of training steps relative to a matrix product, see benchmarks/README.md.
CPU_SHARE_OF_PEAK = 1.7     # The same on a CPU, where Winograd convolutions save multiplications.
CPU_LAUNCH_SECONDS = 5e-5   # Least time per kernel on a CPU. This and the line above are fitted to 4x4 to 64x64.
STEP_GRADIENTS = 6          # Cost of a D step and a G step in gradients of D, see training.measuring.
CPU_PIXELS = 2 ** 16        # Largest number of pixels in the minibatch that is measured on a CPU.
LONG_SECONDS = 2.0          # A resolution is not measured if that would take longer...
SMALL_SHARE = 0.05          # ...or if it takes a smaller share of the training.
VALUES_PER_ACTIVATION = 3.0     # Peak number of float32 values in a D step per activation of D; measured.
SHORT_KIMG = 100            # A training up to this length starts without an estimate.
LONGEST_SECONDS = 30 * 86400    # Longer trainings do not start on a CPU unless the user chose it.
BASE_MEMORY_GB = 0.45       # Memory of the process without networks.


class Phase(NamedTuple):
    """A part of the schedule with constant resolution and minibatch, entirely within or outside a fade-in."""

    start_kimg: float
    end_kimg: float
    resolution: int
    fading: bool
    minibatch: int

    def size(self) -> str:
        """'16x16 fading in'."""
        return f'{self.resolution}x{self.resolution}{" fading in" if self.fading else ""}'


class Speed(NamedTuple):
    """Speed of a device. On a CPU the bandwidth is infinite, because `flops` already accounts for memory."""

    flops: float                    # Operations per second.
    bandwidth: float = np.inf       # Bytes per second.
    launch: float = 0.0             # Least time of a kernel in seconds.
    share: float = SHARE_OF_PEAK    # Share of `flops` that training steps reach.


# Typical speeds of a GPU and a CPU, to compare the phases of a schedule.
USUAL_SPEEDS = Speed(1e14, 2e12, LAUNCH_SECONDS), Speed(
    1e11, launch=CPU_LAUNCH_SECONDS, share=CPU_SHARE_OF_PEAK)


class Estimate(NamedTuple):
    """Time and memory of a phase."""

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
        # One image later, because the first image still belongs to the previous phase.
        schedule = training_schedule(int(start * 1000) + 1, resolution, **schedule_kwargs)
        phase = Phase(start, total, schedule.resolution, schedule.min_lod != schedule.max_lod, schedule.minibatch_size)
        if result and phase[2:] == result[-1][2:]:
            continue
        if result:
            result[-1] = result[-1]._replace(end_kimg=start)
        result.append(phase)
    return result


def step_work(G: Network, D: Network, resolution: int, repeats: int) -> float:
    """Multiplications per image of a D step and its share of a G step; there are `repeats` D steps per G step."""
    forwards_d = D_STEP_FORWARDS + G_STEP_FORWARDS / 2 / repeats
    forwards_g = 1 + G_STEP_FORWARDS / 2 / repeats      # A D step also generates images.
    return forwards_d * costs.multiplications(D, resolution) + forwards_g * costs.multiplications(G, resolution)


def estimate(phase: Phase, G: Network, D: Network, repeats: int, speed: Speed, processes: int = 1) -> Estimate:
    """The :class:`Estimate` of a phase with `repeats` D steps per G step, on a device of the given speed.

    The memory is that of one process. Several processes divide the time only on GPUs, where each has its own device.
    """
    work, minibatch = step_work(G, D, phase.resolution, repeats), phase.minibatch / processes
    # Weights, gradients and two moments of Adam for G and D; weights of Gs.
    values = 5.0 * costs.num_trainable(G) + 4.0 * costs.num_trainable(D)
    values += VALUES_PER_ACTIVATION * minibatch * costs.activations(D, phase.resolution)
    on_gpus = np.isfinite(speed.bandwidth)
    per_step = step_traffic(phase, G, D, repeats, processes) / speed.bandwidth + \
        step_launches(phase, G, D, repeats) * speed.launch
    seconds = 2 * work / (speed.flops * speed.share) + per_step / minibatch
    return Estimate(1000 * seconds / (processes if on_gpus else 1), BASE_MEMORY_GB + values * 4 / 2 ** 30)


def step_traffic(phase: Phase, G: Network, D: Network, repeats: int, processes: int = 1) -> float:
    """Approximate number of bytes that a D step and its share of a G step read and write on a GPU."""
    values = phase.minibatch / processes * sum(costs.activations(net, phase.resolution) for net in (G, D))
    weights = sum(map(costs.num_trainable, (G, D)))
    return sum(4 * (moves * values + weight_moves * weights) / times for moves, weight_moves, times in
               zip(MOVES, WEIGHT_MOVES, (1, repeats), strict=True))


def step_launches(phase: Phase, G: Network, D: Network, repeats: int) -> float:
    """Approximate number of kernels in a D step and its share of a G step."""
    layers = sum(height <= phase.resolution and count > 0 for net in (G, D)
                 for height, count in costs.layer_multiplications(net))
    return layers * (LAUNCHES[0] + LAUNCHES[1] / repeats)


def total_time(schedule: list[Phase], estimates: list[Estimate]) -> float:
    """Estimated duration of a schedule in seconds."""
    return sum(needs.seconds_per_kimg * (phase.end_kimg - phase.start_kimg)
               for phase, needs in zip(schedule, estimates, strict=True))


class Stretch(NamedTuple):
    """A part of a schedule with its relative cost."""

    start_kimg: float
    end_kimg: float
    seconds_per_kimg: float
    tick_kimg: float


def stretches(G: Network, D: Network, repeats: int, device: str, schedule_kwargs: dict) -> list[Stretch]:
    """The schedule as a list of :class:`Stretch`, for a typical device of this kind. Measures nothing."""
    speed, resolution = USUAL_SPEEDS[device == 'cpu'], D.input_shape[-1]
    return [Stretch(phase.start_kimg, phase.end_kimg, estimate(phase, G, D, repeats, speed).seconds_per_kimg,
                    training_schedule(phase.start_kimg * 1000 + 1, resolution, **schedule_kwargs).tick_kimg)
            for phase in phases(resolution, **schedule_kwargs)]


class Writes(NamedTuple):
    """Files that a run leaves on the disk; sizes in bytes."""

    pickles: int
    pickle_size: int
    pictures: int
    picture_size: int       # Upper limit, as PNG files are compressed.
    state_size: int


def number_of_ticks(resolution: int, **schedule_kwargs: Any) -> int:
    """Number of ticks in a whole run; `schedule_kwargs` are those of `training_schedule`."""
    nimg, ticks, total = 0.0, 0, {**defaults_of(training_schedule), **schedule_kwargs}['total_kimg'] * 1000
    while nimg < total:
        schedule = training_schedule(int(nimg), resolution, **schedule_kwargs)
        nimg += max(schedule.tick_kimg * 1000, schedule.minibatch_size)
        ticks += 1
    return ticks


def writes(ticks: int, options: dict, G: Network, D: Network) -> Writes:
    """The :class:`Writes` of a run of `ticks` ticks; `options` are all options of the training."""
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
                  4 * (4 * of_G + 3 * of_D))     # Weights and two moments of Adam for G and D; weights of Gs.


def format_size(size: float) -> str:
    """'277 MB' or '48.4 GB'."""
    return f'{size / 1e6:.3g} MB' if size < 1e9 else f'{size / 1e9:.1f} GB'


def measured_speed(device: str, precision: str = 'float32', size: int = 1024, seconds: float = 0.3) -> Speed:
    """Measure the :class:`Speed` of a torch device with matrix products in a `precision` of `theano_env`."""
    import torch  # Other engines do not need it.

    def duration(function: Callable, a: torch.Tensor) -> float:
        return measuring.mean_seconds(lambda: float(function(a)[0, 0]), seconds)      # Waits for the device.

    if device == 'cpu':
        a = torch.randn(size, size)
        return Speed(2 * size ** 3 / duration(lambda a: torch.mm(a, a), a), launch=CPU_LAUNCH_SECONDS,
                     share=CPU_SHARE_OF_PEAK)
    size *= 8       # A smaller product would finish before the host notices.
    dtype = {'float16': torch.float16, 'bfloat16': torch.bfloat16}.get(precision, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    return Speed(2 * size ** 3 / duration(lambda a: torch.mm(a, a), a), 2 * a.nbytes / duration(torch.neg, a),
                 LAUNCH_SECONDS)


def speed_of(environment: theano_env.Environment) -> Speed:
    """Measure the :class:`Speed` of the current engine and device."""
    if environment.engine == 'torch':
        return measured_speed(environment.device, environment.precision)
    return Speed(measuring.convolution_flops(), launch=CPU_LAUNCH_SECONDS, share=1.0)


def build_networks(chosen: dict, data_dir: str) -> tuple[Network, Network, bool]:
    """(G, D, whether the dataset exists) of a resolved experiment; a missing dataset is taken as RGB without labels."""
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
            raise UserError(f'dataset.resolution: is missing, and cannot be read because there is no {h5_path}; set it')
        resolution = max(levels)
    G, D = (build_network(name, chosen, channels, resolution, label_size) for name in 'GD')
    return G, D, there


def schedule_options(options: dict) -> dict:
    """The subset of a training's `options` that `training_schedule` takes."""
    return {name: options[name] for name in inspect.signature(training_schedule).parameters if name in options}


class Training(NamedTuple):
    """Everything known about a training before it begins."""

    G: Network
    D: Network
    is_there: bool              # Whether the dataset exists.
    options: dict               # All options of the training function, including defaults.
    schedule: list[Phase]
    processes: int = 1          # Number of processes that share the minibatches.

    @property
    def repeats(self) -> int:
        return self.options.get('D_training_repeats', 1)

    def estimates(self, speed: Speed) -> list[Estimate]:
        """The :class:`Estimate` of each phase."""
        return [estimate(phase, self.G, self.D, self.repeats, speed, self.processes) for phase in self.schedule]

    def writes(self) -> Writes:
        """The files that it leaves on the disk."""
        ticks = number_of_ticks(self.D.input_shape[-1], **schedule_options(self.options))
        return writes(ticks, self.options, self.G, self.D)


def planned(chosen: dict, data_dir: str, train_gan: Callable) -> Training:
    """The :class:`Training` of a resolved experiment; `train_gan` is the default training function."""
    train_func, options, _ = check_options(chosen, train_gan)
    options = {**defaults_of(train_func), **options}
    G, D, there = build_networks(chosen, data_dir)
    return Training(G, D, there, options, phases(D.input_shape[-1], **schedule_options(options)))


def whole_run(chosen: dict, data_dir: str, speed: Speed, train_gan: Callable) -> tuple[float, float]:
    """Estimate the whole training of a resolved experiment: seconds, and bytes on the disk.

    Parameters
    ----------
    chosen : dict
    data_dir : str
    speed : Speed
        See :func:`speed_of`.
    train_gan : callable
        Default training function of experiments.
    """
    training = planned(chosen, data_dir, train_gan)
    written = training.writes()
    return total_time(training.schedule, training.estimates(speed)), (
        written.pickles * written.pickle_size + written.pictures * written.picture_size + 2 * written.state_size)


def wanted_gpus(chosen: dict) -> int:
    """The number of GPUs in an experiment's name, such as 8 in 'celebahq-v2-8gpus'; default: 1."""
    named = re.search(r'(?<![0-9])([1-9][0-9]?)gpus\b', str(chosen.get('desc', '')))
    return int(named[1]) if named else 1


def measured_estimates(training: Training, environment: theano_env.Environment) -> list[Estimate]:
    """The :class:`Estimate` of each phase, corrected by a measurement of the gradient of D on this machine.

    The gradient is measured at the resolutions that make up most of the training. Resolutions at which that would take
    long use the correction factor of a smaller one. On Theano's own engines, nothing is measured beyond
    :func:`speed_of`.
    """
    estimates = training.estimates(speed_of(environment))
    if environment.engine != 'torch':
        return estimates
    total, factors = total_time(training.schedule, estimates), dict[int, float]()
    for resolution in sorted({phase.resolution for phase in training.schedule}):
        stretch = [(phase, needs) for phase, needs in zip(training.schedule, estimates, strict=True)
                   if phase.resolution == resolution]
        if total_time(*map(list, zip(*stretch, strict=True))) < SMALL_SHARE * total:
            continue
        (phase, needs), *_ = stretch
        num = max(phase.minibatch // training.processes, 1)
        if environment.device == 'cpu':     # On a CPU, the time per image hardly depends on the minibatch.
            num = min(num, max(CPU_PIXELS // resolution ** 2, 1))
        expected = needs.seconds_per_kimg / 1000 * num / STEP_GRADIENTS * max(factors.values(), default=1.0)
        if not factors or expected < LONG_SECONDS:
            gradient = measuring.gradient_seconds(training.D, resolution, num)
            step = gradient / num * step_work(training.G, training.D, resolution, training.repeats) / (
                measuring.GRADIENT_FORWARDS * costs.multiplications(training.D, resolution))
            if environment.device != 'cpu':
                step /= training.processes
            factors[resolution] = 1000 * step / needs.seconds_per_kimg
    return [needs._replace(seconds_per_kimg=needs.seconds_per_kimg * _nearest(factors, phase.resolution))
            for phase, needs in zip(training.schedule, estimates, strict=True)]


def _nearest(factors, resolution):
    """The factor of the nearest resolution on a logarithmic scale; 1 if there are no factors."""
    return factors[min(factors, key=lambda other: abs(np.log2(other / resolution)))] if factors else 1.0


def check_duration(chosen: dict, data_dir: str, engine: str = 'auto', theano_flags: Mapping[str, Any] | None = None,
                   precision: str = 'auto', *, train_gan: Callable, is_device_named: bool = False) -> None:
    """Raise `UserError` if a new training would take over a month on a CPU that the user did not choose.

    Parameters
    ----------
    chosen : dict
        Resolved experiment.
    data_dir, engine, theano_flags, precision
        See `training.experiment.run_experiment`.
    train_gan : callable
        Default training function of experiments.
    is_device_named : bool
        Whether the user chose a device by other means than `theano_flags`.
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
        raise UserError(f'no GPU was found, and on this CPU the training would take {rough_time(seconds)}; to train '
                        "on it anyway, use --device cpu, or theano_flags['device'] = 'cpu' in config.py; "
                        f'{gpus.why_none()}')


def describe(chosen: dict, data_dir: str, engine: str = 'auto', theano_flags: dict | None = None,
             precision: str = 'auto', *, train_gan: Callable, ranks: Ranks = SINGLE) -> None:
    """Print the resolved experiment `chosen`, its schedule, and estimates of memory, time and disk space.

    `ranks` are the processes that share the work. A single process plans for the number of GPUs in the experiment's
    name.
    """
    if not is_training(chosen):
        check_utility(chosen)
        pprint.pprint(chosen, width=120, sort_dicts=False)
        return
    environment = theano_env.configure(engine, theano_flags, precision=precision)
    training = planned(chosen, data_dir, train_gan)
    pprint.pprint(chosen, width=120, sort_dicts=False)
    print('\n%s: %s' % (data_path(chosen['dataset']['h5_path'], data_dir), 'exists' if training.is_there else
                        'is missing; planned for RGB images without labels'))
    for net in (training.G, training.D):
        print(f'{net.name}: {chosen[net.name]["func"]}, {costs.num_trainable(net)} trainable parameters')
    print(f'\n{environment}')
    num_processes = ranks.size if ranks.size > 1 else wanted_gpus(chosen)
    shared = training._replace(processes=num_processes)
    estimates = measured_estimates(shared, environment)
    each = '' if num_processes == 1 else ' per GPU' if environment.device != 'cpu' else ' per process'
    print(f'\n{"kimg":>15}  {"resolution":<22} {"minibatch":>9} {"sec/kimg ~":>12}    memory{each} ~')
    for phase, needs in zip(training.schedule, estimates, strict=True):
        rate = needs.seconds_per_kimg
        print(f'{phase.start_kimg:7g} - {phase.end_kimg:5g}  {phase.size():<22} {phase.minibatch:9d} '
              f'{f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}":>12} {needs.memory_gb:7.1f} GB')
    print_writes(training)
    if num_processes > 1 and ranks.size == 1:
        print(f'\nThe experiment is made for {num_processes} GPUs: torchrun --nproc_per_node={num_processes} '
              f'train.py {shlex.join(argument for argument in sys.argv[1:] if argument != "--dry-run")}')
    where = 'on this machine'
    if num_processes > 1 and environment.device != 'cpu':
        where = f'on {num_processes} GPUs like this one'
    print(f'\nEstimated time of the whole run: {rough_time(total_time(training.schedule, estimates))} {where} '
          '(within a factor of 2)')


def print_writes(training: Training) -> None:
    """Print how much disk space a training needs."""
    written = training.writes()
    thinned = '' if training.options.get('keep_snapshots') is not None else '; train.keep_snapshots=N keeps fewer'
    print(f'\nIt will write about {written.pickles} network pickles of {format_size(written.pickle_size)} each, '
          f'{format_size(written.pickles * written.pickle_size)} in all{thinned};\n'
          f'about {written.pictures} pictures of up to {format_size(written.picture_size)}; 2 training states of '
          f'{format_size(written.state_size)}.')
