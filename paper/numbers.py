"""Numbers from "Progressive Growing of GANs" (Karras et al. 2017), which `figures.py` shows beside ours. Data only.

The paper itself was not at hand, so each number carries a mark for its source, see `MARKS`.
"""

from typing import NamedTuple

MARKS = {
    'S1': "found in a reading note that quotes the paper's text",
    'S2': 'found in a reading note that quotes captions and cells',
    'S3': 'found in the results list of paperswithcode.com',
    'C': 'computed from the official networks',
    'M+': 'recalled; consistent with the averages and with the cells that could be found',
    'M': 'recalled, not verified',
}


class Number(NamedTuple):
    """A number, its standard deviation (None if unknown) and its mark (None for our own numbers)."""

    value: float
    deviation: float | None = None
    mark: str | None = None


# ----------------------------------------------------------------------------------------------------------------------
# Table 1: sliced Wasserstein distance x 1000 at the levels 128, 64, 32 and 16, its average, and MS-SSIM.


def _row(*values, **marks):
    names = ('128', '64', '32', '16', 'avg', 'ms_ssim')
    return {name: Number(value, None, marks.get(name, 'M+')) for name, value in zip(names, values, strict=True)}


TABLE1_ROWS = {         # {end of the experiment's name: (row, configuration)}
    'a-gulrajani': ('a', 'Gulrajani et al. 2017'),
    'b-growing': ('b', '+ progressive growing'),
    'c-small-minibatch': ('c', '+ small minibatch'),
    'd-revised-training': ('d', '+ revised training parameters'),
    'estar-minibatch-discrimination': ('e*', '+ minibatch discrimination'),
    'e-minibatch-stddev': ('e', 'minibatch stddev instead'),
    'f-equalized-learning-rate': ('f', '+ equalized learning rate'),
    'g-pixelwise-normalization': ('g', '+ pixelwise normalization'),
    'h-converged': ('h', 'converged'),
}
TABLE1 = {
    'celeba': {
        'a': _row(12.99, 7.79, 7.62, 8.73, 9.28, 0.2854, avg='S2', ms_ssim='S2'),
        'b': _row(4.62, 2.64, 3.78, 6.06, 4.28, 0.2838, avg='S2'),
        'c': _row(75.42, 41.33, 41.62, 26.57, 46.23, 0.4065, avg='S2'),
        'd': _row(9.20, 6.53, 4.71, 11.84, 8.07, 0.3027),
        'e*': _row(10.76, 6.28, 6.04, 16.29, 9.84, 0.3057),
        'e': _row(13.94, 5.67, 2.82, 5.71, 7.04, 0.2950),
        'f': _row(4.42, 3.28, 2.32, 7.52, 4.39, 0.2902),
        'g': _row(4.06, 3.04, 2.02, 5.13, 3.56, 0.2845),
        'h': _row(2.42, 2.17, 2.24, 4.99, 2.96, 0.2828, avg='S2', ms_ssim='S2'),
    },
    'lsun-bedroom': {
        'a': _row(11.97, 10.51, 8.03, 14.48, 11.25, 0.0587),
        'b': _row(7.09, 6.27, 7.40, 9.64, 7.60, 0.0615),
        'c': _row(72.73, 40.16, 42.75, 42.46, 49.52, 0.1061),
        'd': _row(7.39, 5.51, 3.65, 9.63, 6.54, 0.0662),
        'e*': _row(10.29, 6.22, 5.32, 11.88, 8.43, 0.0648),
        'e': _row(7.77, 5.23, 3.27, 9.64, 6.48, 0.0671),
        'f': _row(3.61, 3.32, 2.71, 6.44, 4.02, 0.0668),
        'g': _row(3.89, 3.05, 3.24, 5.87, 4.01, 0.0640),
        'h': _row(3.47, 2.60, 2.30, 4.87, 3.31, 0.0636),
    },
}


# ----------------------------------------------------------------------------------------------------------------------
# Table 2: trainable parameters of each layer, in the order of the table, and their totals.

TABLE2 = {      # The paper prints rounded values, see `rounded`: 4.2M, 2.4M, 1.2M, 590k, 295k, 148k, ...
    'G': [4194816, *7 * [2359808], 1179904, 590080, 295040, 147584, 73792, 36928, 18464, 9248, 4624, 2320, 51],
    'D': [64, 2320, 4640, 9248, 18496, 36928, 73856, 147584, 295168, 590080, 1180160, *6 * [2359808], 2364416, 4194816,
          513],
}
TABLE2_TOTAL = {'G': 23071507, 'D': 23077137}           # Like the table: toRGB and fromRGB at full resolution only.
TABLE2_TOTAL_ALL = {'G': 23079115, 'D': 23087249}       # With toRGB and fromRGB at all resolutions.


def rounded(num: int) -> str:
    """A parameter count in the paper's format: '4.2M', '590k', '9.2k', '513'."""
    for unit, letter in ((1e6, 'M'), (1e3, 'k')):
        if num >= unit:
            return f'{num / unit:.{0 if 10 <= num / unit and letter == "k" else 1}f}{letter}'
    return str(num)


# ----------------------------------------------------------------------------------------------------------------------
# Table 3: inception scores of CIFAR-10; each run counts with its highest score during the training.

TABLE3 = {
    'unsupervised': [
        ('ALI', Number(5.34, 0.05, 'M')), ('GMAN', Number(6.00, 0.19, 'M')), ('Improved GAN', Number(6.86, 0.06, 'M')),
        ('CEGAN-Ent-VI', Number(7.07, 0.07, 'M')), ('LR-GAN', Number(7.17, 0.17, 'M')),
        ('DFM', Number(7.72, 0.13, 'M')), ('WGAN-GP', Number(7.86, 0.07, 'M')),
        ('Splitting GAN', Number(7.90, 0.09, 'S1')),
        ('Progressive GAN, best run', Number(8.80, 0.05, 'S1')),
        ('Progressive GAN, mean of 10 runs', Number(8.56, 0.06, 'M')),
    ],
    'label conditioned': [
        ('DCGAN', Number(6.58, None, 'M')), ('Improved GAN', Number(8.09, 0.07, 'M')),
        ('AC-GAN', Number(8.25, 0.07, 'M')), ('SGAN', Number(8.59, 0.12, 'M')), ('WGAN-GP', Number(8.67, 0.14, 'M')),
        ('Splitting GAN', Number(8.87, 0.09, 'S1')),
    ],
}

TABLE3_RUNS = 10
TABLE3_NOTE = ('The marks apply to the scores. The deviations are recalled, except the deviation of 8.80, which was '
               'found second-hand.')

# ----------------------------------------------------------------------------------------------------------------------
# Table 4: modes of MNIST-RGB found, of 1000, and KL divergence from the uniform distribution.

TABLE4_COLUMNS = {      # {column: end of the experiment's name, None without an experiment}
    'GAN': None, '+ unrolling': None, 'WGAN-GP': 'wgan-gp', '+ our norm': 'our-norm', '+ mb stddev': 'mb-stddev',
    '+ progression': 'progression',
}
TABLE4 = {      # {divisor of D's feature maps: {quantity: a number per column}}
    4: {
        'modes': [Number(*pair, 'M') for pair in (
            (30.6, 20.7), (372.2, 20.7), (640.1, 136.3), (856.7, 50.4), (881.3, 39.2), (859.5, 36.2))],
        'KL': [Number(*pair, 'M') for pair in (
            (5.99, 0.42), (4.66, 0.46), (1.97, 0.70), (1.10, 0.19), (1.09, 0.10), (1.05, 0.09))],
    },
    2: {
        'modes': [Number(*pair, 'M') for pair in (
            (628.0, 140.9), (817.4, 37.9), (772.4, 146.5), (886.6, 58.5), (918.3, 30.2), (919.8, 35.1))],
        'KL': [Number(*pair, 'M') for pair in (
            (2.58, 0.75), (1.43, 0.12), (1.35, 0.55), (0.98, 0.33), (0.89, 0.21), (0.82, 0.13))],
    },
}

TABLE4_RUNS = 8
TABLE4_NOTE = "The least certain numbers of the paper are the divergences in the last four columns."

# ----------------------------------------------------------------------------------------------------------------------
# Numbers in the captions of figures, by experiment.

SWD = {         # x 1000, at each level and averaged.
    'celebahq-1024': {name: Number(value, None, 'S2') for name, value in zip(
        ('1024', '512', '256', '128', '64', '32', '16', 'avg'), (7.48, 7.24, 6.08, 3.51, 3.55, 3.02, 7.22, 5.44),
        strict=True)},
}
FID = {         # With 50 000 images.
    'celebahq-1024': Number(7.30, None, 'S2'),
    'lsun-bedroom': Number(8.34, None, 'S3'),
    'lsun-church_outdoor': Number(6.42, None, 'S3'),
    'lsun-cat': Number(37.52, None, 'S3'),
}

TABLE1_KIMG = 10000     # Length of the trainings in Table 1.
TABLE1_NOTE = ('The length of row h is a guess: the paper does not give it. Our training is twice as long as the '
               'trainings of the other rows.')

# Our guesses where the paper gives no value: {end of the experiment's name: note}.
GUESSES = {
    '-h-converged': 'its length is a guess, the paper does not give it',
    'figure4c-growing': 'the schedule of growing is a guess, the paper does not give it',
}

# Figure 4c: (hours of training, kimg) for 1024x1024 on one Tesla P100. The hours without growing are extrapolated.
FIGURE4C = {'growing': (Number(96, None, 'S1'), 6400), 'not growing': (Number(520, None, 'S1'), 6400)}
