"""What to run. Data only: `train.py` reads it and passes plain arguments on; no other module imports it.

Choose an experiment by name below, or run ``python train.py --experiment NAME``. An experiment lists only what differs
from the defaults in the signatures of `dataset.Dataset`, `networks.G_paper`, `networks.D_paper`, `loss.evaluate_loss`
and `train.train_gan`; an unknown key is an error that names the nearest valid one.
"""

experiment = 'digits'       # Which entry of the table below to run.
data_dir = 'datasets'       # Where the HDF5 files are.
result_dir = 'results'      # Where run folders 000-digits, 001-... are made.

engine = 'auto'             # What executes the Theano graphs: 'auto', 'torch', 'theano' or 'python'; see theano_env.py.
precision = 'auto'          # What convolutions and matrix products compute in, weights and all else being float32:
                            # 'float32', 'tf32' (GPUs since 2020), 'bfloat16', 'float16' (with loss scaling, as in the
                            # 2018 release); 'auto': 'tf32' where there is such a GPU, else 'float32'.
theano_flags = {            # Theano's flags by their names of 2017.
    'device': 'auto',       # 'auto': the first CUDA GPU, else the CPU. 'cpu', 'cuda0', 'cuda1', ...
    'floatX': 'float32',
    'dnn.enabled': 'auto',
    'dnn.conv.algo_fwd': 'small',
    'dnn.conv.algo_bwd_filter': 'none',     # 'deterministic' here makes two runs on one GPU bit-identical.
    'dnn.conv.algo_bwd_data': 'none',
}

# What the presets of the 2018 release share. Their minibatches are those of all GPUs together.
_celebahq = {
    'random_seed': 1000,
    'dataset': {'h5_path': 'celeba-hq-1024x1024.h5', 'resolution': 1024, 'max_labels': 0, 'mirror_augment': True},
    'G': {'func': 'networks.G_paper', 'fmap_base': 8192, 'fmap_max': 512, 'latent_size': 512},
    'D': {'func': 'networks.D_paper', 'fmap_base': 8192, 'fmap_max': 512, 'use_gdrop': False},
    'loss': {'type': 'iwass'},
}
_train_2018 = {
    'func': 'train.train_gan', 'rampup_kimg': 0, 'minibatch_repeats': 4, 'total_kimg': 12000,
    'tick_kimg_default': 160, 'image_snapshot_ticks': 1, 'network_snapshot_ticks': 10,
    'tick_kimg_overrides': {8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40, 512: 20, 1024: 10},
}

experiments = {
    # The demo: handwritten digits at 16x16, one row of the final picture per class. Minutes on a laptop CPU.
    'digits': {
        'desc': 'digits',
        'random_seed': 1000,
        'dataset': {'h5_path': 'digits-16x16.h5', 'resolution': 16, 'max_labels': 'all', 'mirror_augment': False},
        'create_dataset': {'func': 'dataset_tool.create_digits', 'resolution': 16},
        'G': {'func': 'networks.G_paper', 'fmap_base': 256, 'fmap_max': 64, 'latent_size': 32},
        'D': {'func': 'networks.D_paper', 'fmap_base': 256, 'fmap_max': 64, 'use_gdrop': False},
        'loss': {'type': 'iwass', 'cond_type': 'acgan'},
        'train': {
            'func': 'train.train_gan', 'separate_funcs': False,
            'lod_training_kimg': 4, 'lod_transition_kimg': 4, 'total_kimg': 44, 'rampup_kimg': 1,
            'G_learning_rate_max': 0.003, 'D_learning_rate_max': 0.003, 'G_smoothing': 0.998,
            'tick_kimg_default': 2, 'tick_kimg_overrides': {}, 'image_snapshot_ticks': 2, 'network_snapshot_ticks': 10,
            'image_grid_type': 'category-rows', 'image_grid_zoom': 4,
        },
        'metrics': ['digit_recognition'],
    },

    # Section 6.3 and Table 2 of the paper: 1024x1024 faces.
    'celebahq-1024': {
        'desc': 'celeba-hq-1024',
        'random_seed': 1000,
        'dataset': {'h5_path': 'celeba-hq-1024x1024.h5', 'resolution': 1024, 'max_labels': 0, 'mirror_augment': True},
        'G': {'func': 'networks.G_paper', 'fmap_base': 8192, 'fmap_max': 512, 'latent_size': 512},
        'D': {'func': 'networks.D_paper', 'fmap_base': 8192, 'fmap_max': 512, 'use_gdrop': False},
        'loss': {'type': 'iwass'},
        'train': {
            'func': 'train.train_gan',
            'lod_training_kimg': 800, 'lod_transition_kimg': 800, 'total_kimg': 19000,
            'minibatch_default': 16, 'minibatch_overrides': {256: 14, 512: 6, 1024: 3},
        },
    },

    # The presets of the 2018 release: v1 is the schedule of the paper; start v2-Ngpus with torchrun, see the README.
    'celebahq-v1-1gpu': {
        **_celebahq, 'desc': 'celebahq-v1-1gpu',
        'train': {
            **_train_2018,
            'lod_training_kimg': 800, 'lod_transition_kimg': 800, 'total_kimg': 19000,
            'minibatch_default': 16, 'minibatch_overrides': {256: 14, 512: 6, 1024: 3},
        },
    },
    'celebahq-v2-1gpu': {
        **_celebahq, 'desc': 'celebahq-v2-1gpu',
        'train': {
            **_train_2018,
            'minibatch_default': 4,
            'minibatch_overrides': {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8},
            'G_learning_rate_overrides': {1024: 0.0015},
            'D_learning_rate_overrides': {1024: 0.0015},
        },
    },
    'celebahq-v2-2gpus': {
        **_celebahq, 'desc': 'celebahq-v2-2gpus',
        'train': {
            **_train_2018,
            'minibatch_default': 8,
            'minibatch_overrides': {4: 256, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16},
            'G_learning_rate_overrides': {512: 0.0015, 1024: 0.002},
            'D_learning_rate_overrides': {512: 0.0015, 1024: 0.002},
        },
    },
    'celebahq-v2-4gpus': {
        **_celebahq, 'desc': 'celebahq-v2-4gpus',
        'train': {
            **_train_2018,
            'minibatch_default': 16,
            'minibatch_overrides': {4: 512, 8: 256, 16: 128, 32: 64, 64: 32},
            'G_learning_rate_overrides': {256: 0.0015, 512: 0.002, 1024: 0.003},
            'D_learning_rate_overrides': {256: 0.0015, 512: 0.002, 1024: 0.003},
        },
    },
    'celebahq-v2-8gpus': {
        **_celebahq, 'desc': 'celebahq-v2-8gpus',
        'train': {
            **_train_2018,
            'minibatch_default': 32,
            'minibatch_overrides': {4: 512, 8: 256, 16: 128, 32: 64},
            'G_learning_rate_overrides': {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003},
            'D_learning_rate_overrides': {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003},
        },
    },

    # Images and videos, see util_scripts.py; 'run' is a run's number or folder, or a network pickle.
    'fake-images': {
        'desc': 'fake-images',
        'train': {'func': 'util_scripts.generate_fake_images', 'run': 0, 'grid_size': (10, 10), 'image_zoom': 4},
    },
    'interpolation-video': {
        'desc': 'interpolation-video',
        'train': {'func': 'util_scripts.generate_interpolation_video', 'run': 0, 'grid_size': (10, 1), 'image_zoom': 4},
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
