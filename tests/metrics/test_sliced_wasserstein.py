"""metrics.sliced_wasserstein against the recorded numbers of both releases and against plain SciPy and sorting."""

import json

import numpy as np
import pytest
import scipy.ndimage

from common.errors import UserError
from metrics import sliced_wasserstein as sw
from tests.helpers import GOLDEN, load_golden

SWD, _meta = load_golden('metrics_swd')
TF, _meta = load_golden('tf/metrics')
TF_META = json.loads((GOLDEN / 'tf' / 'metrics.json').read_text())['swd']


def descriptors_of(level, nhood_size, nhoods_per_image, random):
    centers = sw.draw_centers(len(level), nhoods_per_image, nhood_size, *level.shape[2:], random)
    return sw.extract_descriptors(level, *centers, nhood_size)


def descriptor_set(*parts):
    result = sw.DescriptorSet(parts[0].shape[1])
    for part in parts:
        rows = part.reshape(len(part), -1)
        squares = np.square(part, dtype=np.float64)
        result.append(rows, part.sum(axis=(0, 2, 3), dtype=np.float64), squares.sum(axis=(0, 2, 3)))
    return result


def normalized(descriptors):
    """All descriptors of a DescriptorSet, normalised as for the distance."""
    return descriptors.projected(np.eye(descriptors.length, dtype=np.float32)).T


def normalized_set(rows):
    """A DescriptorSet of normalised descriptors: one channel with mean 0 and deviation 1."""
    result = sw.DescriptorSet(1)
    result.append(rows, 0.0, float(rows.size))
    return result


# ----------------------------------------------------------------------------------------------------------------------
# The pyramid, bit for bit.


def test_pyramid_is_the_recorded_one_exactly():
    levels = sw.laplacian_pyramid(SWD['lp_input'], 3)
    for index, level in enumerate(levels):
        np.testing.assert_array_equal(level, SWD[f'lp_level{index}'])
        assert level.dtype == np.float32
    restored = levels[2]
    for level in levels[1::-1]:
        restored = level + sw.pyr_up(restored)
    np.testing.assert_array_equal(restored, SWD['lp_reconstructed'])
    np.testing.assert_array_equal(sw.pyr_down(SWD['lp_input'], bits=8), SWD['pyr_down'])
    np.testing.assert_array_equal(sw.pyr_up(SWD['lp_input'][:, :, :8, :8], bits=8), SWD['pyr_up'])


def test_pyramid_of_the_2018_release_exactly():
    reals = TF['swd/reals']
    for index, level in enumerate(sw.laplacian_pyramid(reals[:1], 3)):
        np.testing.assert_array_equal(level, TF[f'swd/laplacian_level{index}'])
    np.testing.assert_array_equal(sw.pyr_down(reals[:1]), TF['swd/pyr_down'])
    np.testing.assert_array_equal(sw.pyr_up(reals[:1, :, ::4, ::4]), TF['swd/pyr_up'])
    assert TF_META['reconstruct_max_abs_error'] == 0.0


@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_filters_are_scipys_also_where_they_are_computed_in_bands(dtype):
    # 256 pixels need several bands. Sums of uint8 are exact; both sides round other sums once, from float64.
    images = np.random.RandomState(0).uniform(0, 256, (1, 2, 256, 128)).astype(dtype)
    kernel = (np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256)[np.newaxis, np.newaxis]
    current = images.astype(np.float32)
    for level in sw.laplacian_pyramid(images, 4)[:-1]:
        smaller = scipy.ndimage.convolve(current, kernel, mode='mirror')[:, :, ::2, ::2]
        stretched = np.zeros_like(current)
        stretched[:, :, ::2, ::2] = smaller
        expected = current - scipy.ndimage.convolve(stretched, kernel * 4, mode='mirror')
        np.testing.assert_allclose(level, expected, rtol=0, atol=0 if dtype == 'uint8' else 2e-5)
        current = smaller


def test_downscaling_is_the_recorded_one_exactly():
    for lod in (1, 2):
        np.testing.assert_array_equal(sw.downscale(SWD['lp_input'], 2 ** lod), SWD[f'downscale_lod{lod}'])
        np.testing.assert_array_equal(sw.downscale(TF['swd/reals'][:2], 2 ** lod), TF[f'swd/downscale_lod{lod}'])


# ----------------------------------------------------------------------------------------------------------------------
# Descriptors and distances.


def test_descriptors_are_drawn_in_the_recorded_order():
    levels = sw.laplacian_pyramid(SWD['lp_input'], 3)
    random = np.random.RandomState(int(SWD['desc_seed']))
    first = descriptors_of(levels[0], *SWD['desc_nhood'], random)
    np.testing.assert_array_equal(first, SWD['desc_out'])
    np.testing.assert_array_equal(descriptors_of(levels[1], *SWD['desc2_nhood_second_call'], random), SWD['desc2_out'])
    # The release normalises with float32 sums, we use float64.
    np.testing.assert_allclose(normalized(descriptor_set(first[:30], first[30:])), SWD['final_out'], atol=1e-6)


def test_descriptors_and_distance_of_the_2018_release():
    reals, fakes = (descriptors_of(TF['swd/' + name][:2].astype(np.float32), 7, 16, np.random.RandomState(seed))
                    for name, seed in (('reals', 7), ('fakes', 8)))
    np.testing.assert_array_equal(reals, TF['swd/descriptors_seed7_first2_nhoods16'])
    np.testing.assert_array_equal(fakes, TF['swd/descriptors_seed8_fakes'])
    reals, fakes = descriptor_set(reals), descriptor_set(fakes)
    np.testing.assert_allclose(normalized(reals), TF['swd/finalized'], atol=1e-6)
    distance = sw.sliced_wasserstein(reals, fakes, 4, 128, np.random.RandomState(9))
    np.testing.assert_allclose(distance, TF['swd/distance_seed9'], rtol=1e-6)


@pytest.mark.parametrize('repeats, directions', [(4, 16), (1, 147)])
def test_distances_are_the_recorded_ones(repeats, directions):
    random = np.random.RandomState(int(SWD['sw_seed']))
    sets = [normalized_set(SWD[name]) for name in ('final_out', 'sw_B')]
    distance = sw.sliced_wasserstein(*sets, repeats, directions, random)
    # Another order of summation of 147 float32 products.
    np.testing.assert_allclose(distance, SWD[f'sw_out_{repeats}x{directions}'], rtol=1e-6)


@pytest.mark.parametrize('num', [1 << 14, 50001, 300000])
@pytest.mark.parametrize('kind', ['equal', 'shifted', 'heavy tails', 'few values', 'mostly zero', 'constant'])
def test_counting_in_bins_equals_sorting(kind, num):
    random = np.random.RandomState(num)
    a, b = {
        'equal': lambda: random.randn(2, num),
        'shifted': lambda: random.randn(2, num) + [[0.0], [0.02]],
        'heavy tails': lambda: random.standard_cauchy((2, num)),
        'few values': lambda: np.rint(3 * random.randn(2, num)),
        'mostly zero': lambda: np.where(random.rand(2, num) < 0.6, 0, random.randn(2, num)),
        'constant': lambda: np.float32([[1.5], [2.5]]) + np.zeros((2, num)),
    }[kind]().astype(np.float32)
    expected = np.mean(np.abs(np.sort(a).astype(np.float64) - np.sort(b)))
    np.testing.assert_allclose(sw.wasserstein_1d(a, b), expected, rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------------------
# Whole evaluations.


def recorded_flow(name):
    """Scores as in the scoring command of 2017, computed with our functions."""
    meta = json.loads(str(SWD[f'swd_{name}_meta']))
    options = meta['kwargs']
    reals = SWD[f'swd_{name}_reals']
    minibatch_size, per_image = options['minibatch_size'], options['nhoods_per_image']
    directions = options.get('dir_repeats', 1), options.get('dirs_per_repeat', 147)
    highest = min(reals.shape[2], options.get('resolution_max', 1024))
    shrink = reals.shape[2] // highest
    num_levels = (highest // options.get('resolution_min', 16)).bit_length()
    # Below full resolution, the release downscales the reals and repeats them to full size; it only downscales fakes.
    reals = sw.downscale(reals, shrink).repeat(shrink, axis=2).repeat(shrink, axis=3)

    def feed(images, sets_per_level):
        for begin in range(0, len(images), minibatch_size):
            pyramid = sw.laplacian_pyramid(images[begin:begin + minibatch_size], num_levels)
            for level, parts_of_sets in zip(pyramid, sets_per_level, strict=True):
                for parts in parts_of_sets:
                    parts.append(descriptors_of(level, 7, per_image, np.random))
        return [[descriptor_set(*parts) for parts in parts_of_sets] for parts_of_sets in sets_per_level]

    np.random.seed(meta['seed_before'])
    real_sets = feed(reals, [([], []) for _level in range(num_levels)])
    scores = [[sw.sliced_wasserstein(*sets, *directions) for sets in real_sets]]
    for index in range(len(SWD[f'swd_{name}_scores']) - 1):
        np.random.seed(index)
        np.random.randn(*meta['latents_drawn_before_fakes'])
        fakes = sw.downscale(SWD[f'swd_{name}_fakes{index}'], shrink)
        fake_sets = feed(fakes, [([],) for _level in range(num_levels)])
        scores.append([sw.sliced_wasserstein(sets[0], fakes[0], *directions)
                       for sets, fakes in zip(real_sets, fake_sets, strict=True)])
    return scores


@pytest.mark.parametrize('name', ['a', 'b', 'c'])
def test_recorded_scores_of_the_2017_command(name):
    np.testing.assert_allclose(recorded_flow(name), SWD[f'swd_{name}_scores'], rtol=1e-6)


def test_recorded_calls_of_the_2018_interface():
    np.random.seed(1234)
    metric = sw.SlicedWasserstein()
    assert (metric.nhood_size, metric.nhoods_per_image) == (TF_META['nhood_size'], TF_META['nhoods_per_image'])
    assert (metric.dir_repeats, metric.dirs_per_repeat) == (TF_META['dir_repeats'], TF_META['dirs_per_repeat'])
    for mode, images in (('warmup', 'reals'), ('reals', 'reals'), ('fakes', 'fakes')):
        metric.begin(mode)
        for begin in (0, 8):
            metric.feed(mode, TF['swd/' + images][begin:begin + 8])
        result = metric.end(mode)
        np.testing.assert_allclose(result, TF['swd/api_' + mode], rtol=1e-6)
        np.testing.assert_allclose(result, TF_META['api_seed1234_warmup_reals_fakes'][mode], rtol=1e-6)
    assert metric.names() == TF_META['metric_names']
    assert metric.resolutions == TF_META['resolutions']


def evaluate(reals, fakes, sizes=(16,), saved=None, **kwargs):
    metric = sw.SlicedWasserstein(random_seed=5, dir_repeats=1, dirs_per_repeat=40, nhoods_per_image=64, **kwargs)
    for mode, images in (('reals', reals), ('fakes', fakes)):
        if mode == 'reals' and saved:
            metric.set_reals(saved)
            continue
        metric.begin(mode)
        begin = 0
        while begin < len(images):
            size = sizes[begin % len(sizes)]
            metric.feed(mode, images[begin:begin + size])
            begin += size
        result = metric.end(mode)
    return result, metric


def test_descriptors_on_disk_and_saved_reals_change_nothing(tmp_path):
    reals, fakes = TF['swd/reals'], TF['swd/fakes']
    expected, metric = evaluate(reals, fakes)
    assert evaluate(reals, fakes, spill_dir=str(tmp_path))[0] == expected
    np.savez(tmp_path / 'reals.npz', **metric.get_reals())
    with np.load(tmp_path / 'reals.npz') as arrays:
        assert evaluate(reals, fakes, saved=dict(arrays))[0] == expected
    # The same metric gives the same values again: every begin() restarts the random numbers.
    metric.begin('fakes')
    metric.feed('fakes', fakes)
    assert metric.end('fakes') == expected


def test_larger_images_are_shrunk_and_gray_ones_work():
    reals, fakes = TF['swd/reals'], TF['swd/fakes']
    shrunk, metric = evaluate(reals, fakes, resolution_max=32)
    assert metric.names() == ['SWDx1e3_32', 'SWDx1e3_16', 'SWDx1e3_avg']
    assert shrunk == evaluate(sw.downscale(reals, 2), sw.downscale(fakes, 2))[0]
    gray, _metric = evaluate(reals[:, :1], reals[:, 1:2])
    assert all(value > 0 for value in gray)


def test_wrong_use():
    with pytest.raises(ValueError, match="feed 'reals' first"):
        sw.SlicedWasserstein().begin('fakes')
    metric = sw.SlicedWasserstein()
    metric.begin('reals')
    with pytest.raises(UserError, match='images of 8x8; needs a power of two, 16 or more'):
        metric.feed('reals', np.zeros((2, 3, 8, 8), np.uint8))
    metric.feed('reals', np.zeros((2, 3, 32, 32), np.uint8))
    with pytest.raises(ValueError, match='images of 16x16 after images of 32x32'):
        metric.feed('reals', np.zeros((2, 3, 16, 16), np.uint8))
    with pytest.raises(ValueError, match='same number of images'):
        evaluate(TF['swd/reals'], TF['swd/fakes'][:8])
