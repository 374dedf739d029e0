"""The helpers that scripts of the 2017 and 2018 releases know as `misc`; the rooms below the scripts do not use it."""

import math
import os
import re

import numpy as np

from common.console import OutputLogger, format_time, progress
from common.errors import UserError, WriteError, did_you_mean, exit_status
from common.files import append_bytes as append
from common.files import atomic_write, save_pkl
from common.images import (
    adjust_dynamic_range,
    convert_to_pil_image,
    create_image_grid,
    save_image,
    save_image_grid,
    save_pil_image,
    snapshot_grid_size,
)
