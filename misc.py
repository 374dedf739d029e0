"""The helpers that scripts of the 2017 and 2018 releases know as `misc`; the rooms below the scripts do not use it."""

import math
import os
import re

import numpy as np

from common.console import OutputLogger, format_time, progress
from common.errors import UserError, WriteError, did_you_mean, exit_status
from common.files import append, atomic_write, save_pkl
from common.images import (
    adjust_dynamic_range,
    convert_to_pil_image,
    create_image_grid,
    save_image,
    save_image_grid,
    save_pil_image,
    snapshot_grid_size,
)

# ----------------------------------------------------------------------------------------------------------------------
# Time and schedules.


def rampup(epoch, rampup_length):
    """Factor that rises from exp(-5) at 0 to 1 at `rampup_length`: ``exp(-5 (1 - epoch / rampup_length)^2)``."""
    if epoch >= rampup_length:
        return 1.0
    remaining = 1.0 - max(epoch, 0.0) / rampup_length
    return math.exp(-5.0 * remaining ** 2)


def rampdown_linear(epoch, num_epochs, rampdown_length):
    """Factor that falls linearly from 1 to 0 over the last `rampdown_length` of `num_epochs`."""
    if rampdown_length <= 0 or epoch < num_epochs - rampdown_length:
        return 1.0
    return max(num_epochs - epoch, 0.0) / rampdown_length
