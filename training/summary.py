"""Prints a ten-line summary when a training begins. The log has the details, such as tables of the layers."""

import os
import re

import numpy as np

import theano_env
from common.console import print_and_log, rough_time
from data.dataset import Dataset
from nets import costs
from nets.network import Network
from nets.ranks import SINGLE, Ranks
from training import plan

ESTIMATED_KIMG = 10     # Shorter trainings are not worth the second that measuring the machine takes.


def print_summary(run_dir: str, dataset: Dataset, G: Network, D: Network, environment: theano_env.Environment,
                  options: dict, kimg: float = 0.0, ranks: Ranks = SINGLE) -> None:
    """Print a summary of a training on the screen, not to the log.

    Parameters
    ----------
    run_dir : str
    dataset : Dataset
    G, D : Network
    environment : theano_env.Environment
    options : dict
        All options of the training function.
    kimg : float
        Thousands of images shown before.
    ranks : Ranks
    """
    if ranks.rank == 0:
        lines = summary(run_dir, dataset, G, D, environment, options, kimg, ranks)
        print_and_log('\n'.join(['', *(f'{name:<11}{text}' for name, text in lines if text), '']), None)


def summary(run_dir: str, dataset: Dataset, G: Network, D: Network, environment: theano_env.Environment, options: dict,
            kimg: float, ranks: Ranks) -> list[tuple[str, str]]:
    """The lines of :func:`print_summary` as (name, text); lines with an empty text are not printed."""
    training = plan.Training(G, D, True, options, plan.phases(dataset.resolution, **plan.schedule_options(options)),
                             ranks.size)
    words = re.fullmatch(r'Engine: (.*?), (float\d+(, products in \w+)?)', str(environment))
    engine, precision = words.group(1, 2) if words else (str(environment), environment.precision)
    return [
        ('Run', run_dir), ('Dataset', of_data_set(dataset)),
        *((net.name, f'{net.func_name}, {costs.num_trainable(net):,} trainable parameters')
          for net in (G, D)),
        ('Engine', engine + (f', {ranks.size} processes' if ranks.size > 1 else '')), ('Precision', precision),
        ('Phases', of_phases(training.schedule, kimg)),
        ('Time', of_time(training, environment, kimg)),
        ('Memory', of_memory(training, environment)),
        ('More', 'log.txt: all values of each tick, layers of the networks')]


def of_data_set(dataset: Dataset) -> str:
    """'digits.h5: 1,797 images of 16x16, grey, 10 classes'."""
    channels, height, width = dataset.shape
    colours = {1: 'grey', 3: 'RGB'}.get(channels, f'{channels} channels')
    classes = f', {dataset.label_size} classes' if dataset.label_size else ''
    return f'{os.path.basename(dataset.h5_path)}: {dataset.num_images:,} images of {height}x{width}, {colours}{classes}'


def of_phases(schedule: list[plan.Phase], kimg: float) -> str:
    """'4x4 until kimg 4, 8x8 until 12, 16x16 until 44'; with the current kimg if the training is resumed."""
    ends: dict[int, float] = {}
    for phase in schedule:
        ends[phase.resolution] = phase.end_kimg
    words = [f'{resolution}x{resolution} until {end:g}' for resolution, end in ends.items()]
    if len(words) > 4:
        words = [words[0], '...', *words[-2:]]
    return ', '.join(words).replace('until', 'until kimg', 1) + (f'; resumed at {kimg:.1f}' if kimg else '')


def of_time(training: plan.Training, environment: theano_env.Environment, kimg: float) -> str:
    """'about 16 minutes (within a factor of 2)'; empty if the training is short or the engine compiles slowly."""
    left = [phase._replace(start_kimg=max(phase.start_kimg, kimg)) for phase in training.schedule]
    if left[-1].end_kimg - kimg < ESTIMATED_KIMG or environment.engine != 'torch':
        return ''
    needs = training.estimates(plan.speed_of(environment))
    left_of = [(phase, need) for phase, need in zip(left, needs, strict=True) if phase.end_kimg > phase.start_kimg]
    phases, estimates = map(list, zip(*left_of, strict=True))
    return f'{rough_time(plan.total_time(phases, estimates))} (within a factor of 2)'


def of_memory(training: plan.Training, environment: theano_env.Environment) -> str:
    """'about 0.6 GB': the peak per process or GPU."""
    most = np.max([needs.memory_gb for needs in training.estimates(plan.USUAL_SPEEDS[1])])
    each = '' if training.processes == 1 else ' per GPU' if environment.device != 'cpu' else ' per process'
    return f'about {most:.1f} GB{each}'
