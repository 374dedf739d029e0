"""What to run. Data only: `train.py` reads it and passes plain arguments on; no other module imports it.

Choose an experiment by name below, or run ``python train.py --experiment NAME``. An experiment lists only what differs
from the defaults in the signatures of `dataset.Dataset`, `networks.G_paper`, `networks.D_paper`, `loss.evaluate_loss`
and `train.train_gan`; an unknown key is an error that names the nearest valid one.
"""

experiment = 'digits'       # Which entry of the table below to run.
data_dir = 'datasets'       # Where the HDF5 files are.
result_dir = 'results'      # Where run folders 000-digits, 001-... are made.

engine = 'auto'             # What executes the Theano graphs: 'auto', 'torch', 'theano' or 'python'; see theano_env.py.
theano_flags = {            # Theano's flags by their names of 2017.
    'device': 'auto',       # 'auto': the first CUDA GPU, else the CPU. 'cpu', 'cuda0', 'cuda1', ...
    'floatX': 'float32',
    'dnn.enabled': 'auto',
    'dnn.conv.algo_fwd': 'small',
    'dnn.conv.algo_bwd_filter': 'none',     # 'deterministic' here makes two runs on one GPU bit-identical.
    'dnn.conv.algo_bwd_data': 'none',
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
}
