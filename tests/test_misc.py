"""misc.py: helpers for scripts of 2017 and 2018, against recorded values."""

import types

import numpy as np

import misc
from misc import adjust_dynamic_range, convert_to_pil_image, create_image_grid, random_latents
from tests.helpers import load_golden

TRAIN_UTILS = load_golden('tf/train_utils')[0]


def test_names_that_scripts_know():
    names = ('adjust_dynamic_range', 'convert_to_pil_image', 'create_image_grid', 'create_result_subdir', 'format_time',
             'list_network_pkls', 'load_pkl', 'locate_network_pkl', 'locate_run_dir', 'OutputLogger', 'random_latents',
             'rampdown_linear', 'rampup', 'save_image', 'save_image_grid', 'save_pkl', 'UserError', 'load_network_pkl',
             'init_output_logging', 'set_output_log_file', 'get_id_string_for_network_pkl', 'locate_result_subdir',
             'apply_mirror_augment', 'load_dataset_for_previous_run')
    assert all(callable(getattr(misc, name)) for name in names)


def test_image_helpers_of_the_2018_release():
    x = TRAIN_UTILS['misc/x']
    np.testing.assert_array_equal(adjust_dynamic_range(x, (-1, 1), (0, 255)),
                                  TRAIN_UTILS['misc/adjust_m11_to_0255'])
    reals = TRAIN_UTILS['process_reals/input_lod0']
    np.testing.assert_array_equal(adjust_dynamic_range(reals, (0, 255), (-1, 1)),
                                  TRAIN_UTILS['misc/adjust_0255_to_m11'])
    np.testing.assert_array_equal(convert_to_pil_image(x[0], (-1, 1)), TRAIN_UTILS['misc/pil_rgb_drange_m11'])
    np.testing.assert_array_equal(convert_to_pil_image(x[0, :1], (-1, 1)), TRAIN_UTILS['misc/pil_gray_drange_m11'])
    np.testing.assert_array_equal(create_image_grid(x), TRAIN_UTILS['misc/grid_auto'])
    np.testing.assert_array_equal(create_image_grid(x, (3, 1)), TRAIN_UTILS['misc/grid_3x1'])
    recorded = load_golden('tf/pickles/cond16.expected')[0]['misc_random_latents_seed123']
    generator = types.SimpleNamespace(input_shapes=[[None, recorded.shape[1]]])
    latents = random_latents(3, generator, np.random.RandomState(123))
    np.testing.assert_array_equal(latents, np.float32(recorded))
