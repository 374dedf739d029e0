"""The progressive schedule of section 2 and appendix A of the paper, as pure functions of the images shown."""

import math
from typing import NamedTuple

import numpy as np

from common.options import CountTable, NetResolution, NonNegative, NumberTable, Positive, PositiveInt

RELEASE_TICK_KIMG = 50
RELEASE_TICK_KIMG_OVERRIDES: dict[int, float] = {32: 20, 64: 10, 128: 10, 256: 5, 512: 2, 1024: 1}


class Schedule(NamedTuple):
    """The schedule at some number of real images shown, see :func:`training_schedule`."""

    lod: float              # Level of detail: 0 = full resolution, k = resolution / 2^k, fractions = fading in.
    min_lod: int            # floor(lod): the finer of the two blended resolutions.
    max_lod: int            # ceil(lod): the coarser one.
    resolution: int         # Resolution of the images in the minibatch: full resolution / 2^min_lod.
    minibatch_size: int     # Images per training step.
    tick_kimg: float        # Thousands of images between two status lines.
    lrate_coef: float       # Factor on both learning rates: ramp-up times ramp-down.


def training_schedule(
    cur_nimg: float,                                  # Number of real images shown so far.
    resolution: int,                                  # Full resolution of the networks.
    total_kimg: Positive                    = 15000,  # Length of the training, in thousands of real images.
    lod_initial_resolution: NetResolution   = 4,      # Image resolution at the beginning.
    lod_training_kimg: NonNegative          = 600,    # Thousands of images before the resolution doubles.
    lod_transition_kimg: NonNegative        = 600,    # Thousands of images while the new layers fade in.
    minibatch_default: PositiveInt          = 16,     # Images per step...
    minibatch_overrides: CountTable | None  = None,   # ...and at some resolutions {resolution: images}.
    rampup_kimg: NonNegative                = 40,     # Thousands of images until full learning rates. 0 = none.
    rampdown_kimg: NonNegative              = 0,      # Thousands of images at the end that ramp to zero. 0 = none.
    tick_kimg_default: Positive | None      = None,   # Thousands of images per tick. None = the release's.
    tick_kimg_overrides: NumberTable | None = None,   # The same at some resolutions. None = see tick_length.
) -> Schedule:
    """The progressive schedule of section 2 and appendix A of the paper as a pure function of `cur_nimg`.

    Returns
    -------
    Schedule
    """
    kimg = cur_nimg / 1000.0
    resolution_log2 = int(np.log2(resolution))
    lod = max(resolution_log2 - np.floor(np.log2(lod_initial_resolution)), 0)
    phase_kimg = lod_training_kimg + lod_transition_kimg
    if phase_kimg > 0:
        phase = kimg / phase_kimg
        lod -= np.floor(phase)
        if lod_transition_kimg > 0:
            lod -= max(1.0 + (np.fmod(phase, 1.0) - 1.0) * phase_kimg / lod_transition_kimg, 0.0)
    lod = max(float(lod), 0.0)
    min_lod = int(np.floor(lod))
    cur_resolution = 2 ** (resolution_log2 - min_lod)
    return Schedule(
        lod=lod,
        min_lod=min_lod,
        max_lod=int(np.ceil(lod)),
        resolution=cur_resolution,
        minibatch_size=(minibatch_overrides or {}).get(cur_resolution, minibatch_default),
        tick_kimg=tick_length(cur_resolution, tick_kimg_default, tick_kimg_overrides),
        lrate_coef=rampup(kimg, rampup_kimg) * rampdown_linear(kimg, total_kimg, rampdown_kimg))


def tick_length(resolution: int, default: float | None, overrides: dict[int, float] | None) -> float:
    """Thousands of images per tick: from `overrides`, else `default`; the release's table if both are None."""
    if default is None and overrides is None:
        overrides = RELEASE_TICK_KIMG_OVERRIDES
    return (overrides or {}).get(resolution, RELEASE_TICK_KIMG if default is None else default)


def learning_rate(schedule: Schedule, maximum: float, overrides: dict[int, float] | None = None) -> float:
    """The learning rate: `maximum`, or its entry in `overrides` {resolution: rate}, times the ramps."""
    return (overrides or {}).get(schedule.resolution, maximum) * schedule.lrate_coef


def next_lod_range(cur_nimg: int, resolution: int, schedule_kwargs: dict) -> Schedule | None:
    """The :class:`Schedule` at some time within the next lod range; None if the training ends in this one."""
    total_nimg = schedule_kwargs['total_kimg'] * 1000
    training, transition = [schedule_kwargs[key] for key in ('lod_training_kimg', 'lod_transition_kimg')]
    present = lod_range_of(training_schedule(cur_nimg, resolution, **schedule_kwargs))
    # Look at the middle of each phase, and at the end, which may come before the middle of the last phase.
    starts = [(training + transition) * index for index in range(resolution.bit_length() + 1)]
    offsets = [training / 2] * (training > 0) + [training + transition / 2] * (transition > 0)
    middles = [1000 * (start + offset) for start in starts for offset in offsets]
    for nimg in [*(nimg for nimg in middles if cur_nimg <= nimg < total_nimg), total_nimg - 1]:
        schedule = training_schedule(nimg, resolution, **schedule_kwargs)
        if lod_range_of(schedule) != present:
            return schedule
    return None


def rampup(epoch: float, rampup_length: float) -> float:
    """Factor that rises from exp(-5) at 0 to 1 at `rampup_length`: ``exp(-5 (1 - epoch / rampup_length)^2)``."""
    if epoch >= rampup_length:
        return 1.0
    remaining = 1.0 - max(epoch, 0.0) / rampup_length
    return math.exp(-5.0 * remaining ** 2)


def rampdown_linear(epoch: float, num_epochs: float, rampdown_length: float) -> float:
    """Factor that falls linearly from 1 to 0 over the last `rampdown_length` of `num_epochs`."""
    if rampdown_length <= 0 or epoch < num_epochs - rampdown_length:
        return 1.0
    return max(num_epochs - epoch, 0.0) / rampdown_length


def lod_range_of(schedule: Schedule) -> tuple[int, int]:
    """(floor, ceil) of the lod. Functions compiled for such a range serve all lods in it."""
    return schedule.min_lod, schedule.max_lod
