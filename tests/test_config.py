"""config.py: the networks of all experiments have the expected numbers of parameters."""

import lasagne
import numpy as np
import pytest

import config
from nets import costs
from training.building import build_network
from training.options import is_training

# Sources of the expected numbers.
TABLE_2 = 'Table 2 of the paper, whose sums have the image layers of all resolutions added'
ROWS_OF_TABLE_2 = 'the rows of Table 2 up to 256x256, with their image layers'
RELEASE = 'counted in the networks that the 2017 release builds'
FORMULA = 'counted by the functions below, which follow the description of the networks, not networks.py'

_LSUN = ['lsun-' + name for name in config._lsun_categories]


def _table1(row):
    return [f'table1-{data}-{row}' for data in ('celeba', 'lsun-bedroom')]


SIZES = [       # (experiments, parameters of G, of D, source)
    (['celebahq-1024', 'celebahq-1024-lsgan', 'figure4c-growing', 'figure4c-nogrowing'], 23079115, 23087249, TABLE_2),
    ([f'celebahq-{name}' for name in ('v1-1gpu', 'v2-1gpu', 'v2-2gpus', 'v2-4gpus', 'v2-8gpus')],
     23079115, 23087249, TABLE_2),
    (_LSUN, 23044309, 23052353, ROWS_OF_TABLE_2),
    (['digits'], 181731, 205739, FORMULA),
    (['cifar10'], 1296908, 1298689, FORMULA),
    (_table1('a-gulrajani'), 10487090, 13632301, FORMULA),
    (_table1('b-growing'), 10487090, 13632301, FORMULA),
    (_table1('c-small-minibatch'), 10487090, 13632301, FORMULA),
    (_table1('d-revised-training'), 13629810, 13632289, FORMULA),
    (_table1('estar-minibatch-discrimination'), 13629810, 13888989, FORMULA),
    (_table1('e-minibatch-stddev'), 13629810, 13636897, FORMULA),
    (_table1('f-equalized-learning-rate'), 13629810, 13636897, FORMULA),
    (_table1('g-pixelwise-normalization'), 13629810, 13636897, FORMULA),
    (_table1('h-converged'), 22933394, 22941313, FORMULA),
    (['mnist-modes-k4-wgan-gp'], 90187, 571, RELEASE),
    (['mnist-modes-k4-our-norm'], 90067, 557, FORMULA),
    (['mnist-modes-k4-mb-stddev'], 90067, 573, FORMULA),
    (['mnist-modes-k4-progression'], 93100, 629, FORMULA),
    (['mnist-modes-k2-wgan-gp'], 90187, 1861, FORMULA),
    (['mnist-modes-k2-our-norm'], 90067, 1833, FORMULA),
    (['mnist-modes-k2-mb-stddev'], 90067, 1849, FORMULA),
    (['mnist-modes-k2-progression'], 93100, 1961, FORMULA),
]
TRAINED = [name for name, experiment in config.experiments.items() if is_training(experiment)]


class Ones:
    """Replaces Lasagne's random generator; initial weights do not matter for counting."""

    def normal(self, loc=0.0, scale=1.0, size=()):
        return np.ones(size, np.float32)

    def randint(self, low, high):
        return low


@pytest.fixture
def no_draws():
    before = lasagne.random.get_rng()
    lasagne.random.set_rng(Ones())
    yield
    lasagne.random.set_rng(before)


def shape_of(experiment):
    """(resolution, channels, classes)"""
    return experiment['dataset']['resolution'], *((1, 10) if experiment['desc'] == 'digits' else (3, 0))


def counted(options):
    """The options of a network that change the number of its parameters."""
    return {name: value for name, value in options.items() if name not in ('use_gdrop', 'mbstd_group_size')}


# ----------------------------------------------------------------------------------------------------------------------
# Expected numbers from a formula.


def conv(inputs, outputs, size, more=0):
    """Weights and biases of a convolution, and `more` parameters per map: batch norm replaces the bias by two."""
    return inputs * outputs * size ** 2 + outputs * (1 + more)


def maps_of(options):
    return lambda stage: min(int(options['fmap_base'] / 2 ** stage), options['fmap_max'])


def stages_of(resolution):
    """The stages after the first, which has 4x4 pixels."""
    return range(2, resolution.bit_length() - 1)


def count_g(options, resolution, channels, classes):
    nf, more = maps_of(options), int(options.get('use_batchnorm', False))
    latents = (options.get('latent_size') or nf(0)) + classes
    total = conv(latents, nf(1), 4, more) + conv(nf(1), nf(1), 3, more) + conv(nf(1), channels, 1)
    for stage in stages_of(resolution):
        total += conv(nf(stage - 1), nf(stage), 3, more) + conv(nf(stage), nf(stage), 3, more)
        total += conv(nf(stage), channels, 1)
    return total


def count_d(options, resolution, channels, classes):
    nf, gain = maps_of(options), int(options.get('use_layernorm', False))
    kernels, statistic = options.get('mbdisc_kernels', 0), options.get('mbstat_avg', 'all') == 'all'
    total = conv(channels, nf(1), 1) + conv(nf(1) + statistic, nf(1), 3) + conv(nf(1), nf(0), 4) + 2 * gain
    for stage in stages_of(resolution):
        total += conv(channels, nf(stage), 1) + conv(nf(stage), nf(stage), 3) + conv(nf(stage), nf(stage - 1), 3)
        total += 2 * gain
    total += nf(0) * kernels * 5 + kernels * 5 + kernels
    return total + (nf(0) + kernels + 1) * (1 + classes)


def count_g_mnist(options, resolution, channels, classes):
    nf, more = maps_of(options), int(options.get('use_batchnorm', True))
    total, widths = conv(nf(0) + classes, 64, 4, more), [64]
    for stage in stages_of(resolution):
        total += conv(widths[-1], nf(stage - 1), 3, more)
        widths.append(nf(stage - 1))
    return total + sum(conv(width, channels, 3) for width in (widths if options.get('progressive') else widths[-1:]))


def count_d_mnist(options, resolution, channels, classes):
    nf, more = maps_of(options), int(options.get('use_batchnorm', True))
    total, width = 0, channels
    for stage in reversed(stages_of(resolution)):
        total += conv(width, nf(stage - 1) // options['X'], 3, more)
        width = nf(stage - 1) // options['X']
        total += conv(channels, width, 1) if options.get('progressive') else 0
    return total + ((width + (options.get('mbstat_avg') == 'all')) * 16 + 1) * (1 + classes)


COUNTS = {'networks.G_paper': count_g, 'networks.D_paper': count_d, 'networks.G_mnist_mode_recovery': count_g_mnist,
          'networks.D_mnist_mode_recovery': count_d_mnist}


# ----------------------------------------------------------------------------------------------------------------------
# Tests.


def test_every_experiment_has_its_line():
    assert sorted(name for names, *_ in SIZES for name in names) == sorted(TRAINED)


@pytest.mark.parametrize('names, size_g, size_d, source', SIZES, ids=[names[0] for names, *_ in SIZES])
def test_sizes_of_networks(names, size_g, size_d, source, no_draws):
    first = config.experiments[names[0]]
    resolution, channels, classes = shape_of(first)
    built = [costs.num_trainable(build_network(net, first, channels, resolution, classes)) for net in 'GD']
    assert built == [size_g, size_d], source
    for net, size in zip('GD', built, strict=True):
        if first[net]['func'] in COUNTS:
            assert COUNTS[first[net]['func']](first[net], resolution, channels, classes) == size
    for name in names:
        experiment = config.experiments[name]
        assert shape_of(experiment) == (resolution, channels, classes)
        for net in 'GD':
            assert counted(experiment[net]) == counted(first[net])


def test_sums_of_table_2():
    """The layers in the table add up to its totals."""
    four, wide = 4194816 + 2359808, 2359808
    halves = [1179904 + 590080, 295040 + 147584, 73792 + 36928, 18464 + 9248, 4624 + 2320]
    assert four + 6 * wide + sum(halves) + 51 == 23071507
    to_rgb = [3 * maps + 3 for maps in (512, 512, 512, 512, 256, 128, 64, 32, 16)]
    sizes = {names[0]: size for names, size, *_ in SIZES}
    assert four + 6 * wide + sum(halves) + sum(to_rgb) == sizes['celebahq-1024']
    assert four + 6 * wide + sum(halves[:3]) + sum(to_rgb[:7]) == sizes['lsun-bedroom']


def test_networks_of_table_4_are_tiny():
    """As in the release: 64 latents, and K divides the feature maps of D."""
    for divisor in (4, 2):
        experiment = config.experiments[f'mnist-modes-k{divisor}-wgan-gp']
        assert experiment['random_seed'] == 0
        G, D = (build_network(net, experiment, 3, 32, 0) for net in 'GD')
        assert G.input_shape == [None, 64]
        assert [layer.output_shape[1] for layer in lasagne.layers.get_all_layers(D.output_layers)
                if type(layer).__name__ == 'Conv2DLayer'] == [8 // divisor, 16 // divisor, 32 // divisor]


def test_presets_of_2018_train_its_networks():
    for name in TRAINED:
        if name.startswith('celebahq-v'):
            G, D = (config.experiments[name][net] for net in 'GD')
            assert G['func'] == 'networks_2018.G_paper'
            assert (D['func'], D['mbstd_group_size']) == ('networks_2018.D_paper', 16 if '-v1-' in name else 4)


def test_gdrop_is_for_lsgan():
    for name in TRAINED:
        is_lsgan = config.experiments[name].get('loss', {}).get('type') == 'lsgan'
        assert config.experiments[name]['train'].get('gdrop_coef', 0.0) == (0.2 if is_lsgan else 0.0)
