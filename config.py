"""The experiments and settings. Data only: the scripts read it and pass plain arguments to the library.

Choose an experiment by name below, or with ``python train.py --experiment NAME``. An experiment lists only options that
differ from the defaults of `data.dataset.Dataset`, `networks.G_paper`, `networks.D_paper`, `loss.evaluate_loss` and
`train.train_gan`. An unknown option is an error that names the nearest valid one.
"""

from common.easy_dict import EasyDict  # noqa: F401  (scripts of 2018 import it from here)

experiment = 'digits'       # The experiment to run, a key of `experiments` below.
data_dir = 'datasets'       # Folder of the datasets.
result_dir = 'results'      # Folder of the runs: 000-digits, 001-..., ...

engine = 'auto'             # Engine that runs the Theano graphs: 'auto', 'torch', 'theano' or 'python'; see
                            # theano_env.py.
precision = 'auto'          # Precision of convolutions and matrix products: 'float32', 'tf32' (GPUs since 2020),
                            # 'bfloat16' or 'float16' (with loss scaling, as in the 2018 release). 'auto' is 'tf32' on
                            # GPUs that support it, else 'float32'. Weights and all other values are float32.
theano_flags = {            # Theano's flags, named as in 2017.
    'device': 'auto',       # 'cpu', 'cuda0', 'cuda1', ...; 'auto': the first CUDA GPU if there is one, else the CPU.
    'floatX': 'float32',
    'dnn.enabled': 'auto',
    'dnn.conv.algo_fwd': 'small',
    'dnn.conv.algo_bwd_filter': 'none',     # 'deterministic' makes two runs on one GPU bit-identical. Otherwise cuDNN
                                            # times its algorithms and uses the fastest; 'guess_once' skips the timing.
    'dnn.conv.algo_bwd_data': 'none',
}

# ----------------------------------------------------------------------------------------------------------------------
# Options that several experiments share.

# Table 2: the networks for 1024x1024. For lower resolutions, the networks lack the layers above.
_G = {'func': 'networks.G_paper', 'fmap_base': 8192, 'fmap_max': 512, 'latent_size': 512}
_D = {'func': 'networks.D_paper', 'fmap_base': 8192, 'fmap_max': 512, 'use_gdrop': False}

_celebahq = {
    'dataset': {'h5_path': 'celeba-hq-1024x1024.h5', 'resolution': 1024, 'max_labels': 0, 'mirror_augment': True,
                'expected_images': 30000},
    'G': _G,
    'D': _D,
    'loss': {'type': 'iwass'},
}
_train_1024 = {
    'lod_training_kimg': 800, 'lod_transition_kimg': 800, 'total_kimg': 19000,
    'minibatch_default': 16, 'minibatch_overrides': {256: 14, 512: 6, 1024: 3},
}

# Figure 4c: only the training time matters, so any images will do. 6400 kimg as in the paper, which does not give the
# schedule of growing. Ours leaves 400 kimg at 1024x1024 after the last fade-in.
_figure4c = {'dataset': {'h5_path': 'timing-1024x1024.h5', 'resolution': 1024, 'max_labels': 0, 'mirror_augment': True},
             'G': _G, 'D': _D, 'loss': {'type': 'iwass'}}
_train_figure4c = {**_train_1024, 'lod_training_kimg': 375, 'lod_transition_kimg': 375, 'total_kimg': 6400}

# Presets of the 2018 release, with its networks. The minibatch sizes are totals over all GPUs.
_G_2018 = {'func': 'networks_2018.G_paper'}
_D_2018 = {'func': 'networks_2018.D_paper', 'mbstd_group_size': 4}
_celebahq_2018 = {**_celebahq, 'G': _G_2018, 'D': _D_2018}
_train_2018 = {
    'rampup_kimg': 0, 'minibatch_repeats': 4, 'total_kimg': 12000,
    'tick_kimg_default': 160, 'image_snapshot_ticks': 1, 'network_snapshot_ticks': 10,
    'tick_kimg_overrides': {8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40, 512: 20, 1024: 10},
}

_lsun_categories = [
    'bedroom', 'bridge', 'church_outdoor', 'classroom', 'conference_room', 'dining_room', 'kitchen', 'living_room',
    'restaurant', 'tower', 'airplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
    'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor',
]

# Bedroom and dog have enough images, so we use all of them, without mirroring; LSUN announces these numbers. For the
# other categories, run create_lsun with --max-images 100000.
_lsun_whole = {'bedroom': 3033042, 'dog': 5054817}

# Table 1: 128x128, with a quarter of the feature maps. Each row adds one change to the previous row.
_table1_datasets = {
    'celeba': {'h5_path': 'celeba-128x128.h5', 'resolution': 128, 'max_labels': 0, 'mirror_augment': True,
               'expected_images': 202599},
    'lsun-bedroom': {'h5_path': 'lsun-bedroom-256x256.h5', 'resolution': 128, 'max_labels': 0,
                     'mirror_augment': False, 'expected_images': _lsun_whole['bedroom']},
}
_G_small = {'func': 'networks.G_paper', 'fmap_base': 2048, 'fmap_max': 512}
_D_small = {'func': 'networks.D_paper', 'fmap_base': 2048, 'fmap_max': 512, 'use_gdrop': False}
_no_growing = {'lod_initial_resolution': 1024, 'lod_training_kimg': 0, 'lod_transition_kimg': 0}
_train_table1 = {
    'total_kimg': 10000, 'lod_training_kimg': 800, 'lod_transition_kimg': 800, 'minibatch_default': 16,
    'rampup_kimg': 0,
}
_train_gulrajani = {
    **_train_table1, 'minibatch_default': 64, 'D_training_repeats': 5, 'adam_beta2': 0.9, 'G_learning_rate_max': 0.0001,
    'D_learning_rate_max': 0.0001, 'G_smoothing': 0.999 ** 20,
}
_gulrajani = {      # The networks and loss of Gulrajani et al. 2017.
    'G': {**_G_small, 'latent_size': 128, 'normalize_latents': False, 'use_wscale': False, 'use_pixelnorm': False,
          'use_leakyrelu': False, 'use_batchnorm': True, 'tanh_at_end': 1.0},
    'D': {**_D_small, 'use_wscale': False, 'use_layernorm': True, 'mbstat_avg': None},
    'loss': {'type': 'iwass', 'iwass_epsilon': 0.0},
}
_G_revised = {**_G_small, 'latent_size': 512, 'use_wscale': False, 'use_pixelnorm': False}
_D_revised = {**_D_small, 'use_wscale': False, 'mbstat_avg': None}
_train_revised = {**_train_table1, 'G_learning_rate_max': 0.0001, 'D_learning_rate_max': 0.0001}
_snapshots_figure4 = {'network_snapshot_ticks': 10}     # Figures 4a and 4b need several snapshots at every resolution.
table1_rows = {
    'a-gulrajani': {**_gulrajani, 'train': {**_train_gulrajani, **_no_growing, **_snapshots_figure4}},
    'b-growing': {**_gulrajani, 'train': {**_train_gulrajani, **_snapshots_figure4}},
    'c-small-minibatch': {
        **_gulrajani, 'train': {**_train_gulrajani, 'minibatch_default': 16, 'G_smoothing': 0.999 ** 5}},
    'd-revised-training': {'G': _G_revised, 'D': _D_revised, 'train': _train_revised},
    'estar-minibatch-discrimination': {
        'G': _G_revised, 'D': {**_D_revised, 'mbdisc_kernels': 100}, 'train': _train_revised},
    'e-minibatch-stddev': {'G': _G_revised, 'D': {**_D_revised, 'mbstat_avg': 'all'}, 'train': _train_revised},
    'f-equalized-learning-rate': {'G': {**_G_revised, 'use_wscale': True}, 'D': _D_small, 'train': _train_table1},
    'g-pixelwise-normalization': {'G': {**_G_small, 'latent_size': 512}, 'D': _D_small, 'train': _train_table1},
    # The paper does not give its training length; we choose twice the length of the other rows.
    'h-converged': {'G': _G, 'D': _D, 'train': {**_train_table1, 'total_kimg': 20000}},
}

# Table 4: discrete modes of MNIST, on RGB images of three digits, after Metz et al. 2016. Each variant adds one change
# to the previous one. The networks are tiny; the discriminator has 1 / K of the feature maps.
_mnist_networks = {'fmap_base': 64, 'fmap_max': 256}
_mnist_train = {'total_kimg': 10000, **_no_growing, 'minibatch_default': 64, 'D_training_repeats': 5}
_mnist_norm = {'use_batchnorm': False, 'use_wscale': True}
_mnist: dict[str, tuple[dict, dict, dict]] = {
    'wgan-gp': ({}, {}, _mnist_train),
    'our-norm': ({**_mnist_norm, 'use_pixelnorm': True}, _mnist_norm, _mnist_train),
    'mb-stddev': ({**_mnist_norm, 'use_pixelnorm': True}, {**_mnist_norm, 'mbstat_avg': 'all'}, _mnist_train),
    'progression': (
        {**_mnist_norm, 'use_pixelnorm': True, 'progressive': True},
        {**_mnist_norm, 'mbstat_avg': 'all', 'progressive': True},
        {**_mnist_train, 'total_kimg': 15000, 'lod_initial_resolution': 4, 'lod_training_kimg': 500,
         'lod_transition_kimg': 2000}),
}

# ----------------------------------------------------------------------------------------------------------------------
# The experiments.

experiments: dict[str, dict] = {
    # The demo: handwritten digits at 16x16. Takes minutes on a laptop CPU. Image grids have one row per class.
    'digits': {
        'desc': 'digits',
        'dataset': {'h5_path': 'digits-16x16.h5', 'resolution': 16, 'max_labels': 'all', 'mirror_augment': False},
        'create_dataset': {'func': 'dataset_tool.create_digits', 'resolution': 16},
        'G': {'func': 'networks.G_paper', 'fmap_base': 256, 'fmap_max': 64, 'latent_size': 32},
        'D': {'func': 'networks.D_paper', 'fmap_base': 256, 'fmap_max': 64, 'use_gdrop': False},
        'loss': {'type': 'iwass', 'cond_type': 'acgan'},
        'train': {
            'separate_funcs': False,
            'lod_training_kimg': 4, 'lod_transition_kimg': 4, 'total_kimg': 44, 'rampup_kimg': 1,
            'G_learning_rate_max': 0.003, 'D_learning_rate_max': 0.003, 'G_smoothing': 0.998,
            'tick_kimg_default': 2, 'tick_kimg_overrides': {}, 'image_snapshot_ticks': 2, 'network_snapshot_ticks': 10,
            'image_grid_type': 'category-rows', 'image_grid_zoom': 4,
        },
        'metrics': ['digit_recognition'],
    },

    # Section 6.3, figures 5, 8, 10, 11: faces at 1024x1024. Figure 1: with the least squares loss of appendix B.
    'celebahq-1024': {**_celebahq, 'desc': 'celeba-hq-1024', 'train': _train_1024},
    'celebahq-1024-lsgan': {
        **_celebahq, 'desc': 'celeba-hq-1024-lsgan', 'D': {**_D, 'use_gdrop': True}, 'loss': {'type': 'lsgan'},
        'train': {**_train_1024, 'gdrop_coef': 0.2},
    },

    # Figure 4c: training time with and without growing.
    'figure4c-growing': {**_figure4c, 'desc': 'figure4c-growing', 'train': _train_figure4c},
    'figure4c-nogrowing': {
        **_figure4c, 'desc': 'figure4c-nogrowing', 'train': {**_train_figure4c, **_no_growing}},

    # Section 6.4, figures 6, 7, 12 to 17: LSUN at 256x256, one network for each of 30 categories.
    **{'lsun-' + category: {
        'desc': 'lsun-' + category,
        'dataset': {'h5_path': 'lsun-%s-256x256.h5' % category, 'resolution': 256, 'max_labels': 0,
                    'mirror_augment': category not in _lsun_whole,
                    'expected_images': _lsun_whole.get(category, 100000)},
        'G': _G,
        'D': _D,
        'train': {'lod_training_kimg': 800, 'lod_transition_kimg': 800, 'total_kimg': 20000},
    } for category in _lsun_categories},

    # Table 1, figures 3 and 4: 'table1-celeba-a-gulrajani', ..., 'table1-lsun-bedroom-h-converged'.
    **{'table1-%s-%s' % (data, row): {
        'desc': 'table1-%s-%s' % (data, row), 'dataset': dataset, **entry,
    } for data, dataset in _table1_datasets.items() for row, entry in table1_rows.items()},

    # Section 6.5, table 3, figure 9: ten runs with --set random_seed=N. The label-conditioned column is variant 'cond'.
    'cifar10': {
        'desc': 'cifar10',
        'dataset': {'h5_path': 'cifar10-32x32.h5', 'resolution': 32, 'max_labels': 0, 'mirror_augment': False,
                    'expected_images': 50000},
        'G': {'func': 'networks.G_paper', 'fmap_base': 4096, 'fmap_max': 128, 'latent_size': 128},
        'D': {'func': 'networks.D_paper', 'fmap_base': 4096, 'fmap_max': 128, 'use_gdrop': False},
        'loss': {'type': 'iwass', 'iwass_target': 750.0},
        'train': {'separate_funcs': False, 'lod_training_kimg': 400, 'lod_transition_kimg': 400, 'total_kimg': 20000,
                  'rampup_kimg': 0},
    },

    # Table 4: 'mnist-modes-k4-wgan-gp', ..., 'mnist-modes-k2-progression'.
    **{'mnist-modes-k%d-%s' % (divisor, variant): {
        'desc': 'mnist-modes-k%d-%s' % (divisor, variant),
        'random_seed': 0,
        'dataset': {'h5_path': 'mnist-rgb-32x32.h5', 'resolution': 32, 'max_labels': 0, 'mirror_augment': False,
                    'expected_images': 1000000},
        'G': {'func': 'networks.G_mnist_mode_recovery', **_mnist_networks, **G},
        'D': {'func': 'networks.D_mnist_mode_recovery', **_mnist_networks, 'X': divisor, **D},
        'loss': {'type': 'iwass', 'iwass_epsilon': 0.0},
        'train': train,
    } for divisor in (4, 2) for variant, (G, D, train) in _mnist.items()},

    # The presets of the 2018 release. v1 has the schedule of the paper. Start v2-Ngpus with torchrun, see the README.
    'celebahq-v1-1gpu': {
        **_celebahq_2018, 'desc': 'celebahq-v1-1gpu', 'D': {**_D_2018, 'mbstd_group_size': 16},
        'train': {**_train_2018, **_train_1024, 'minibatch_repeats': 4}},
    'celebahq-v2-1gpu': {
        **_celebahq_2018, 'desc': 'celebahq-v2-1gpu',
        'train': {
            **_train_2018,
            'minibatch_default': 4,
            'minibatch_overrides': {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8},
            'G_learning_rate_overrides': {1024: 0.0015},
            'D_learning_rate_overrides': {1024: 0.0015},
        },
    },
    'celebahq-v2-2gpus': {
        **_celebahq_2018, 'desc': 'celebahq-v2-2gpus',
        'train': {
            **_train_2018,
            'minibatch_default': 8,
            'minibatch_overrides': {4: 256, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16},
            'G_learning_rate_overrides': {512: 0.0015, 1024: 0.002},
            'D_learning_rate_overrides': {512: 0.0015, 1024: 0.002},
        },
    },
    'celebahq-v2-4gpus': {
        **_celebahq_2018, 'desc': 'celebahq-v2-4gpus',
        'train': {
            **_train_2018,
            'minibatch_default': 16,
            'minibatch_overrides': {4: 512, 8: 256, 16: 128, 32: 64, 64: 32},
            'G_learning_rate_overrides': {256: 0.0015, 512: 0.002, 1024: 0.003},
            'D_learning_rate_overrides': {256: 0.0015, 512: 0.002, 1024: 0.003},
        },
    },
    'celebahq-v2-8gpus': {
        **_celebahq_2018, 'desc': 'celebahq-v2-8gpus',
        'train': {
            **_train_2018,
            'minibatch_default': 32,
            'minibatch_overrides': {4: 512, 8: 256, 16: 128, 32: 64},
            'G_learning_rate_overrides': {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003},
            'D_learning_rate_overrides': {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003},
        },
    },

    # Images and videos, see util_scripts.py. 'run' is the number or folder of a run, or a network pickle.
    'fake-images': {
        'desc': 'fake-images',
        'train': {'func': 'util_scripts.generate_fake_images', 'run': 0, 'grid_size': (10, 10)},
    },
    'interpolation-video': {
        'desc': 'interpolation-video',
        'train': {'func': 'util_scripts.generate_interpolation_video', 'run': 0, 'grid_size': (10, 1)},
    },
    'training-video': {
        'desc': 'training-video',
        'train': {'func': 'util_scripts.generate_training_video', 'run': 0},
    },
    'projection': {
        'desc': 'projection',
        'train': {'func': 'util_scripts.project_image', 'run': 0, 'image': 'image.png'},
    },
}

# Suffixes for the name of any experiment. They can be combined: 'celebahq-v2-1gpu-nopixelnorm-VERBOSE'.
variants: dict[str, dict] = {
    'nogrowing': {'train': _no_growing},
    'nopixelnorm': {'G': {'use_pixelnorm': False}},
    'nowscale': {'G': {'use_wscale': False}, 'D': {'use_wscale': False}},
    'noleakyrelu': {'G': {'use_leakyrelu': False}},
    'nosmoothing': {'train': {'G_smoothing': 0.0}},
    'norepeat': {'train': {'minibatch_repeats': 1}},
    'noreset': {'train': {'reset_optimizer': False}},
    'cond': {'dataset': {'max_labels': 'all', 'require_labels': True}},     # Networks conditional on class labels.
    # Short trainings for timing: BENCHMARK grows quickly, BENCHMARK0 stays at full resolution.
    'BENCHMARK': {'train': {'lod_initial_resolution': 4, 'lod_training_kimg': 3, 'lod_transition_kimg': 3,
                            'total_kimg': 51, 'tick_kimg_default': 1, 'tick_kimg_overrides': {},
                            'image_snapshot_ticks': 1000, 'network_snapshot_ticks': 1000}},
    'BENCHMARK0': {'train': {'lod_initial_resolution': 1024, 'total_kimg': 10, 'tick_kimg_default': 1,
                             'tick_kimg_overrides': {}, 'image_snapshot_ticks': 1000, 'network_snapshot_ticks': 1000}},
    'VERBOSE': {'train': {'tick_kimg_default': 1, 'tick_kimg_overrides': {}, 'image_snapshot_ticks': 1,
                          'network_snapshot_ticks': 100}},
}
