"""The helpers that scripts of the 2017 and 2018 releases import as `misc`. Our own modules do not import it."""

from common.console import OutputLogger, format_time, progress
from common.errors import UserError, WriteError, did_you_mean, exit_status
from common.files import append_bytes as append
from common.files import atomic_write, publish, remove_stale_temporaries, save_pkl, temporary_path
from common.images import (
    adjust_dynamic_range,
    convert_to_pil_image,
    create_image_grid,
    save_image,
    save_image_grid,
    save_pil_image,
    snapshot_grid_size,
)
from common.machine import num_cores, peak_memory
from nets.network import random_latents
from nets.pickles import load_pkl
from runs.folder import create_result_subdir, list_network_pkls, locate_network_pkl, locate_run_dir
from training.old_scripts import (
    apply_mirror_augment,
    get_id_string_for_network_pkl,
    init_output_logging,
    load_dataset_for_previous_run,
    load_network_pkl,
    locate_result_subdir,
    set_output_log_file,
)
from training.schedule import rampdown_linear, rampup
