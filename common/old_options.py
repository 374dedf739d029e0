"""Options of the 2017 and 2018 releases: their names here, or the reason why there is no such option.

This one table serves errors about unknown options, ``python legacy.py config OLD_CONFIG.py``, and
``docs/old-options.md``, which ``python legacy.py options`` prints. It holds names of options, but no text of the
releases.
"""

from typing import Any, NamedTuple


class OldOption(NamedTuple):
    """An option of a release."""

    release: str            # '2017', '2018' or '2017 and 2018'
    name: str               # 'SECTION.NAME', or 'NAME' at the top of the old config.py.
    ours: str | None        # Name here, in the same form; None: there is no such option.
    note: str = ''          # The difference, or why there is no such option and what to do.


# Options with the same name here: {release: {section: names}}.
_SAME = {
    '2017': {
        '': 'random_seed data_dir result_dir',
        'dataset': 'h5_path resolution max_labels max_images mirror_augment shuffle prefetch_images',
        'G': 'fmap_base fmap_decay fmap_max latent_size normalize_latents use_wscale use_pixelnorm use_leakyrelu '
             'use_batchnorm tanh_at_end progressive',
        'D': 'fmap_base fmap_decay fmap_max mbstat_func mbstat_avg mbdisc_kernels use_wscale use_gdrop use_layernorm '
             'use_batchnorm X progressive',
        'loss': 'type iwass_lambda iwass_epsilon iwass_target cond_type cond_weight L2_fake_weight',
        'train': 'separate_funcs D_training_repeats G_learning_rate_max D_learning_rate_max G_smoothing adam_beta1 '
                 'adam_beta2 adam_epsilon minibatch_default minibatch_overrides rampup_kimg rampdown_kimg '
                 'lod_initial_resolution lod_training_kimg lod_transition_kimg total_kimg dequantize_reals gdrop_beta '
                 'gdrop_lim gdrop_coef gdrop_exp tick_kimg_default tick_kimg_overrides image_snapshot_ticks '
                 'network_snapshot_ticks image_grid_type image_grid_size resume_kimg resume_time snapshot grid_size '
                 'random_seed minibatch_size',
    },
    '2018': {
        '': 'desc random_seed data_dir result_dir',
        'dataset': 'resolution',
        'G': 'fmap_base fmap_decay fmap_max latent_size normalize_latents use_wscale use_pixelnorm pixelnorm_epsilon '
             'use_leakyrelu fused_scale dtype',
        'D': 'fmap_base fmap_decay fmap_max use_wscale fused_scale dtype',
        'train': 'G_smoothing minibatch_repeats total_kimg image_snapshot_ticks network_snapshot_ticks resume_run_id '
                 'resume_snapshot resume_kimg resume_time snapshot grid_size image_zoom random_seed minibatch_size',
    },
}

_FUNC = 'the releases name functions of their own; the printed entry has ours'
_RANGE = 'networks always use images in the range -1 to 1: leave it out'
_PRECISION = "losses are scaled if and only if precision = 'float16' in config.py"
_OPTIMIZER = 'one for both networks'
_READING = 'reading ahead needs no options: leave it out'
_VIDEO = 'videos are H.264 in .mp4 files: leave it out'

_OTHER = [
    # Top level and sections.
    OldOption('2017', 'run_desc', 'desc'),
    OldOption('2018', 'num_gpus', None,
              'start with torchrun --nproc_per_node=N train.py; minibatch sizes are totals over all GPUs'),
    OldOption('2018', 'tf_config', None, 'there is no TensorFlow: leave it out'),
    OldOption('2018', 'env', None, 'there is no TensorFlow: leave it out'),
    OldOption('2018', 'sched', 'train', 'the schedule is part of the training'),
    OldOption('2018', 'grid', 'train', 'image_grid_size, image_grid_type'),
    OldOption('2018', 'G_opt', 'train', 'adam_beta1, adam_beta2, adam_epsilon'),
    OldOption('2018', 'D_opt', 'train', 'adam_beta1, adam_beta2, adam_epsilon'),
    OldOption('2018', 'G_loss', 'loss', 'one section for both networks'),
    OldOption('2018', 'D_loss', 'loss', 'one section for both networks'),
    # Datasets.
    OldOption('2017', 'dataset.label_path', None, 'labels are in NAME-labels.npy beside the dataset; rename the file'),
    OldOption('2017', 'dataset.max_gb_to_load_right_away', 'dataset.cache_gb',
              'levels of the file up to this size, in GB, stay in memory once read'),
    OldOption('2018', 'dataset.tfrecord_dir', 'dataset.h5_path',
              'make the file with: python dataset_tool.py create_from_tfrecords TFRECORD_DIR H5'),
    OldOption('2018', 'dataset.max_label_size', 'dataset.max_labels', "'full' is 'all'; the default was 0"),
    OldOption('2018', 'dataset.label_file', None,
              'labels are in NAME-labels.npy beside the dataset; create_from_tfrecords copies them'),
    OldOption('2018', 'dataset.repeat', None, 'training always repeats the dataset: leave it out'),
    OldOption('2018', 'dataset.shuffle_mb', None, 'dataset.shuffle and dataset.prefetch_images determine the order'),
    OldOption('2018', 'dataset.prefetch_mb', None, _READING),
    OldOption('2018', 'dataset.buffer_mb', None, _READING),
    OldOption('2018', 'dataset.num_threads', 'dataset.read_threads'),
    # Networks.
    OldOption('2017 and 2018', 'G.func', 'G.func', _FUNC),
    OldOption('2017 and 2018', 'D.func', 'D.func', _FUNC),
    OldOption('2018', 'D.mbstd_group_size', 'D.mbstd_group_size',
              'an option of networks_2018.D_paper; networks.D_paper uses one group per minibatch, or '
              'D.mbstat_groups of them'),
    OldOption('2018', 'G.structure', None, 'layers that a lod does not need are never computed: leave it out'),
    OldOption('2018', 'D.structure', None, 'layers that a lod does not need are never computed: leave it out'),
    OldOption('2018', 'G.tanh_at_end', None, 'the 2018 release ignored it; networks.G_paper, of 2017, has it'),
    # Losses.
    OldOption('2018', 'G_loss.func', 'loss.type', _FUNC),
    OldOption('2018', 'D_loss.func', 'loss.type', _FUNC),
    OldOption('2018', 'G_loss.cond_weight', 'loss.cond_weight', _OPTIMIZER),
    OldOption('2018', 'D_loss.cond_weight', 'loss.cond_weight', _OPTIMIZER),
    OldOption('2018', 'D_loss.wgan_lambda', 'loss.iwass_lambda'),
    OldOption('2018', 'D_loss.wgan_epsilon', 'loss.iwass_epsilon'),
    OldOption('2018', 'D_loss.wgan_target', 'loss.iwass_target'),
    # Optimizers.
    *(OldOption('2018', f'{net}_opt.{old}', f'train.adam_{ours}', _OPTIMIZER) for net in 'GD'
      for old, ours in (('beta1', 'beta1'), ('beta2', 'beta2'), ('epsilon', 'epsilon'))),
    *(OldOption('2018', f'{net}_opt.learning_rate', f'train.{net}_learning_rate_max') for net in 'GD'),
    *(OldOption('2018', f'{net}_opt.tf_optimizer', None, 'the optimizer is always Adam: leave it out') for net in 'GD'),
    *(OldOption('2018', f'{net}_opt.{name}', None, _PRECISION) for net in 'GD' for name in (
        'use_loss_scaling', 'loss_scaling_init', 'loss_scaling_inc', 'loss_scaling_dec')),
    # Training.
    OldOption('2017 and 2018', 'train.func', 'train.func', 'default: train.train_gan'),
    OldOption('2017 and 2018', 'train.drange_net', None, _RANGE),
    OldOption('2017', 'train.drange_viz', None, 'images are saved in the range -1 to 1 of the networks: leave it out'),
    OldOption('2017', 'train.resume_network_pkl', 'train.resume_run_id'),
    OldOption('2018', 'train.D_repeats', 'train.D_training_repeats'),
    OldOption('2018', 'train.reset_opt_for_new_lod', 'train.reset_optimizer'),
    OldOption('2018', 'train.mirror_augment', 'dataset.mirror_augment'),
    OldOption('2018', 'train.save_tf_graph', None, 'there is no TensorFlow: leave it out'),
    OldOption('2018', 'train.save_weight_histograms', None,
              'training does not write them; call Network.setup_weight_histograms in a script'),
    OldOption('2018', 'sched.lod_initial_resolution', 'train.lod_initial_resolution'),
    OldOption('2018', 'sched.lod_training_kimg', 'train.lod_training_kimg'),
    OldOption('2018', 'sched.lod_transition_kimg', 'train.lod_transition_kimg'),
    OldOption('2018', 'sched.minibatch_base', 'train.minibatch_default'),
    OldOption('2018', 'sched.minibatch_dict', 'train.minibatch_overrides'),
    OldOption('2018', 'sched.max_minibatch_per_gpu', None,
              'if memory is too small, lower train.minibatch_overrides at that resolution'),
    *(OldOption('2018', f'sched.{net}_lrate_base', f'train.{net}_learning_rate_max') for net in 'GD'),
    *(OldOption('2018', f'sched.{net}_lrate_dict', f'train.{net}_learning_rate_overrides') for net in 'GD'),
    OldOption('2018', 'sched.tick_kimg_base', 'train.tick_kimg_default'),
    OldOption('2018', 'sched.tick_kimg_dict', 'train.tick_kimg_overrides'),
    OldOption('2018', 'grid.size', 'train.image_grid_size', "(columns, rows); '1080p' is None"),
    OldOption('2018', 'grid.layout', 'train.image_grid_type',
              "'random' is 'default', 'col_per_class' is 'category', 'row_per_class' is 'category-rows'"),
    # Utilities, which the releases started like trainings.
    OldOption('2017 and 2018', 'train.run_id', 'train.run'),
    OldOption('2017 and 2018', 'train.num_pngs', None, 'use train.seeds, a list: one random image or cell for each'),
    OldOption('2017 and 2018', 'train.png_prefix', None, 'files are named after their seeds: leave it out'),
    OldOption('2017 and 2018', 'train.image_shrink', None,
              'images have the size of the network: shrink them in a script, with out_shrink of Network.run'),
    OldOption('2017 and 2018', 'train.duration_sec', 'train.duration_seconds'),
    OldOption('2017 and 2018', 'train.smoothing_sec', 'train.smoothing_seconds'),
    OldOption('2017 and 2018', 'train.mp4_fps', 'train.fps'),
    *(OldOption('2017 and 2018', f'train.{name}', None, _VIDEO) for name in ('mp4', 'mp4_codec', 'mp4_bitrate')),
    # Flags of Theano.
    *(OldOption('2017', f'theano_flags.{name}', f'theano_flags.{name}') for name in (
        'device', 'floatX', 'dnn.enabled', 'dnn.conv.algo_fwd', 'dnn.conv.algo_bwd_filter', 'dnn.conv.algo_bwd_data')),
    *(OldOption('2017', f'theano_flags.{name}', None, "a flag of Theano's old GPU code: leave it out") for name in (
        'lib.cnmem', 'nvcc.fastmath')),
]

OLD_OPTIONS = [*_OTHER, *(OldOption(release, name := f'{section}.{option}'.lstrip('.'), name)
                          for release, sections in _SAME.items() for section, options in sections.items()
                          for option in options.split())]

# Defaults of the 2018 release that differ from ours.
DEFAULTS_2018: dict[str, dict[str, Any]] = {
    'dataset': {'max_labels': 0},
    'train': {'minibatch_repeats': 4, 'rampup_kimg': 0, 'image_snapshot_ticks': 1, 'network_snapshot_ticks': 10,
              'tick_kimg_default': 160, 'tick_kimg_overrides': {
                  8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40, 512: 20, 1024: 10}},
}


def find(option: str, release: str = '') -> OldOption | None:
    """Entry of an option ``'SECTION.NAME'`` of a release; '': of any release."""
    return next((old for old in OLD_OPTIONS if old.name == option and release in old.release), None)


def advice(option: str) -> str:
    """End of an error message about an unknown option: the replacement for an option of a release, else ''.

    Parameters
    ----------
    option : str
        ``'SECTION.NAME'`` or ``'NAME'``. Options of a release are also recognised in a wrong section.
    """
    section, _, name = option.rpartition('.')
    elsewhere = (old for old in OLD_OPTIONS if old.name.rpartition('.')[2] == name and old.ours != old.name)
    # Simple names, such as 'epsilon', have other meanings in other sections.
    old = find(option) or next((old for old in elsewhere if old.ours is None or '.' not in old.name or '_' in name
                                or old.ours.partition('.')[0] == section), None)
    if old is None:
        return ''
    if old.ours is None or old.ours == option:
        return f'; it is one of {old.release}: {old.note}' if old.note else ''
    return f'; {old.name} of {old.release} is {old.ours} here{f" ({old.note})" if old.note else ""}'


def markdown() -> str:
    """The table as a Markdown page for docs/."""
    releases: dict[tuple, list[str]] = {}
    for old in OLD_OPTIONS:
        releases.setdefault((old.name, old.ours, old.note), []).append(old.release)
    rows = sorted(releases.items(), key=lambda row: ('.' in row[0][0], row[0][0].partition('.')[0], row[0][0].lower()))
    lines = ['# Options of the 2017 and 2018 releases', '',
             '<!-- Printed by `python legacy.py options` from common/old_options.py; a test compares. -->', '',
             '`python legacy.py config OLD_CONFIG.py` prints the entry for the table of experiments in `config.py`.',
             'The error about an unknown option of a release shows the last two columns of its row.', '',
             '| option | release | here | |', '| --- | --- | --- | --- |']
    lines += [f'| `{name}` | {" and ".join(found)} | {f"`{ours}`" if ours else "none"} | {note} |'
              for (name, ours, note), found in rows]
    return '\n'.join(lines) + '\n'
