"""What a person wants to know when a training begins, in some ten lines; the log has the tables of the networks."""

import os
import re

import numpy as np

import theano_env
from common.console import rough_time, tell
from data.dataset import Dataset
from nets import costs
from nets.network import Network
from nets.ranks import SINGLE, Ranks
from training import plan

ESTIMATED_KIMG = 10     # What is shorter is soon over, and measuring the machine takes a second.


def tell_summary(run_dir: str, dataset: Dataset, G: Network, D: Network, environment: theano_env.Environment,
                 options: dict, kimg: float = 0.0, ranks: Ranks = SINGLE) -> None:
    """Print on the screen, not into the log, what is about to be trained.

    Parameters
    ----------
    run_dir : str
    dataset : Dataset
    G, D : Network
    environment : theano_env.Environment
    options : dict
        All of the training function.
    kimg : float
        Thousands of images that were shown before.
    ranks : Ranks
    """
    if ranks.rank == 0:
        lines = summary(run_dir, dataset, G, D, environment, options, kimg, ranks)
        tell('\n'.join(['', *(f'{name:<11}{text}' for name, text in lines if text), '']), None)


def summary(run_dir: str, dataset: Dataset, G: Network, D: Network, environment: theano_env.Environment, options: dict,
            kimg: float, ranks: Ranks) -> list[tuple[str, str]]:
    """The lines of :func:`tell_summary` as (name, text); a text is empty where nothing can be said."""
    training = plan.Training(G, D, True, options, plan.phases(dataset.resolution, **plan.schedule_options(options)),
                             ranks.size)
    words = re.fullmatch(r'Engine: (.*?), (float\d+(, products in \w+)?)', str(environment))
    engine, precision = words.group(1, 2) if words else (str(environment), environment.precision)
    return [
        ('Run', run_dir), ('Data set', of_data_set(dataset)),
        *((net.name, f'{net.func_name}, {costs.num_trainable(net):,} trainable parameters')
          for net in (G, D)),
        ('Engine', engine + (f', {ranks.size} processes' if ranks.size > 1 else '')), ('Precision', precision),
        ('Phases', of_phases(training.schedule, kimg)),
        ('Time', of_time(training, environment, kimg)),
        ('Memory', of_memory(training, environment)),
        ('More', 'log.txt: all values of each tick, layers of the networks')]


def of_data_set(dataset: Dataset) -> str:
    """'digits.h5: 1797 images of 16x16, grey, 10 classes'."""
    channels, height, width = dataset.shape
    colours = {1: 'grey', 3: 'RGB'}.get(channels, f'{channels} channels')
    classes = f', {dataset.label_size} classes' if dataset.label_size else ''
    return f'{os.path.basename(dataset.h5_path)}: {dataset.num_images:,} images of {height}x{width}, {colours}{classes}'


def of_phases(schedule: list[plan.Phase], kimg: float) -> str:
    """'4x4 until kimg 4, 8x8 until 12, 16x16 until 44'; of a training that goes on also how far it is."""
    ends: dict[int, float] = {}
    for phase in schedule:
        ends[phase.resolution] = phase.end_kimg
    words = [f'{resolution}x{resolution} until {end:g}' for resolution, end in ends.items()]
    if len(words) > 4:
        words = [words[0], '...', *words[-2:]]
    return ', '.join(words).replace('until', 'until kimg', 1) + (f'; going on at {kimg:.1f}' if kimg else '')


def of_time(training: plan.Training, environment: theano_env.Environment, kimg: float) -> str:
    """'about 16 minutes (within a factor of 2)'; empty if the training is short or the engine's compiling takes long.
    """
    left = [phase._replace(start_kimg=max(phase.start_kimg, kimg)) for phase in training.schedule]
    if left[-1].end_kimg - kimg < ESTIMATED_KIMG or environment.engine != 'torch':
        return ''
    needs = training.estimates(plan.speed_of(environment))
    left_of = [(phase, need) for phase, need in zip(left, needs, strict=True) if phase.end_kimg > phase.start_kimg]
    phases, estimates = map(list, zip(*left_of, strict=True))
    return f'{rough_time(plan.total_time(phases, estimates))} (within a factor of 2)'


def of_memory(training: plan.Training, environment: theano_env.Environment) -> str:
    """'about 0.6 GB', at most, of each process or GPU."""
    most = np.max([needs.memory_gb for needs in training.estimates(plan.USUAL_SPEEDS[1])])
    each = '' if training.processes == 1 else ' per GPU' if environment.device != 'cpu' else ' per process'
    return f'about {most:.1f} GB{each}'
