"""image_folder: recorded folders; all kinds of odd images; one folder per class; CelebA."""

import os
import re

import h5py
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data import image_folder, image_source
from data.hdf5_format import labels_digest
from dataset_tool import create_celeba, create_from_images
from tests.helpers import check_h5_file, load_golden, run_tool

ARRAYS, META = load_golden('h5tool_custom')
CELEBA, CELEBA_META = load_golden('h5tool_celeba')


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'images').mkdir()
    return tmp_path / 'images'


def pixels(size=8, channels=3, seed=0):
    shape = (size, size) if channels == 1 else (size, size, channels)
    return np.random.RandomState(seed).randint(256, size=shape, dtype=np.uint8)


# ----------------------------------------------------------------------------------------------------------------------
# create_from_images.


@pytest.mark.parametrize('command', ['create_from_images', 'create_custom'])
@pytest.mark.parametrize('kind, source', [('rgb', 'custom_source_rgb_HWC'), ('gray', 'custom_source_gray_HW')])
def test_the_recorded_datasets(kind, source, command, folder, tmp_path, capsys):
    for name, image in zip(ARRAYS['custom_source_names'], ARRAYS[source], strict=True):
        Image.fromarray(image).save(folder / str(name))
    # In the releases, the output file is the first argument; we accept both orders.
    paths = (folder, tmp_path / 'a.h5') if kind == 'rgb' else (tmp_path / 'a.h5', folder)
    assert run_tool(capsys, command, *paths) == (0, f'Wrote 12 images to {tmp_path / "a.h5"}\n', '')
    check_h5_file(tmp_path / 'a.h5', (ARRAYS, META), 'custom_' + kind)


def test_groups_of_images(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(image_source, 'GROUP_BYTES', 2 * 8 * 8 * 3)
    for number in range(5):
        Image.fromarray(pixels(seed=number)).save(folder / f'{number}.png')
    source = image_folder.image_folder(folder)
    assert (source.num_images, source.resolution, source.channels, source.labels) == (5, 8, 3, None)
    assert [len(group) for group in source.images(0, 5)] == [2, 2, 1]
    for start, stop in [(0, 5), (1, 4), (4, 5)]:
        np.testing.assert_array_equal(np.concatenate(list(source.images(start, stop))).transpose(0, 2, 3, 1),
                                      [pixels(seed=number) for number in range(start, stop)])


def make_odd_folder(folder):
    """Three good 8x8 RGB images, and one file with each kind of problem."""
    for number in range(3):
        Image.fromarray(pixels(seed=number)).save(folder / f'good{number}.png')
    Image.fromarray(pixels(16)).save(folder / 'large.png')
    Image.fromarray(pixels(channels=4)).save(folder / 'alpha.png')
    Image.fromarray(pixels(channels=1)).save(folder / 'grey.png')
    Image.fromarray(pixels()).quantize(16).save(folder / 'palette.png')
    Image.fromarray(np.full((8, 8), 257 * 100, dtype=np.uint16)).save(folder / 'deep.png')
    Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)).save(folder / 'float.tif')
    good = (folder / 'good0.png').read_bytes()
    (folder / 'cut.png').write_bytes(good[:len(good) // 2])
    (folder / 'text.jpg').write_text('not an image')
    (folder / 'empty.png').write_bytes(b'')
    (folder / 'notes.txt').write_text('left out without being asked')
    (folder / '.hidden.png').write_text('left out without being asked')


def test_odd_images_are_all_named_before_anything_is_written(folder, tmp_path, capsys):
    make_odd_folder(folder)
    status, _out, err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 1 and err.count('\n') == 1
    assert '5 of 12 images are broken or not 8x8 like most' in err
    for name, kind in [('large.png', '16x16'), ('cut.png', 'broken: .+'), ('text.jpg', 'broken: .+'),
                       ('empty.png', 'broken: .+'), ('float.tif', 'floating-point values')]:
        assert re.search(f'{name} \\({kind}', err), name
    assert '--resize 8' in err and '--skip-bad' in err and 'notes' not in err and 'hidden' not in err
    assert os.listdir(tmp_path) == ['images']


def test_ten_names_are_listed_and_the_rest_counted(folder, tmp_path):
    for number in range(30):
        Image.fromarray(pixels(8 if number < 16 else 16)).save(folder / f'{number:02d}.png')
    with pytest.raises(UserError) as raised:
        create_from_images(tmp_path / 'a.h5', folder)
    assert str(raised.value).count('.png') == 10 and ' and 4 more;' in str(raised.value)


def test_all_that_are_left_out_are_listed(folder, tmp_path, capsys):
    for number in range(30):
        Image.fromarray(pixels(8 if number < 16 else 16)).save(folder / f'{number:02d}.png')
    create_from_images(tmp_path / 'a.h5', folder, skip_bad=True)
    listed = re.findall(r'^  (\d+).png \(16x16\)$', capsys.readouterr().out, re.M)
    assert list(map(int, listed)) == list(range(16, 30))


@pytest.mark.parametrize('resize', [False, True])
def test_skip_bad_leaves_out_broken_images_and_other_sizes_and_converts_the_rest(resize, folder, tmp_path, capsys):
    make_odd_folder(folder)
    argv = ['create_from_images', folder, tmp_path / 'a.h5'] + ['--resize', 8] * resize
    if resize:
        status, _out, err = run_tool(capsys, *argv)
        assert status == 1 and '4 of 12 images are broken: ' in err and 'large' not in err and '--resize' not in err
    status, out, err = run_tool(capsys, *argv, '--skip-bad')
    assert (status, err) == (0, '') and f'Left out: {4 if resize else 5} of 12' in out and 'cut.png' in out
    assert 'Converted to 8 bit RGB: 1 RGB with alpha, 1 16 bit grey, 1 grey, 1 palette\n' in out
    assert 'Left out: 1 files without the suffix of an image' in out
    names = ['alpha', 'deep', 'good0', 'good1', 'good2', 'grey', *['large'] * resize, 'palette']
    with h5py.File(tmp_path / 'a.h5') as h5:
        images = dict(zip(names, h5['data8x8'][:].transpose(0, 2, 3, 1), strict=True))
    for number in range(3):
        np.testing.assert_array_equal(images[f'good{number}'], pixels(seed=number))
    np.testing.assert_array_equal(images['grey'], np.repeat(pixels(channels=1)[..., np.newaxis], 3, axis=2))
    np.testing.assert_array_equal(images['deep'], np.full((8, 8, 3), 100))
    np.testing.assert_array_equal(images['palette'], Image.open(folder / 'palette.png').convert('RGB'))
    if resize:
        np.testing.assert_array_equal(images['large'], Image.fromarray(pixels(16)).resize((8, 8), Image.LANCZOS))
    # Transparent pixels are blended with white; rounding may differ by one.
    source = pixels(channels=4).astype(float)
    alpha = source[..., 3:] / 255
    np.testing.assert_allclose(images['alpha'], source[..., :3] * alpha + 255 * (1 - alpha), atol=1)


def test_resize_keeps_grey_images_grey(folder, tmp_path):
    Image.fromarray(pixels(channels=1)).save(folder / 'a.png')
    Image.fromarray(np.full((8, 8), 65535, dtype=np.uint16)).save(folder / 'b.png')
    Image.fromarray(pixels(channels=1) > 127).save(folder / 'c.png')
    create_from_images(tmp_path / 'a.h5', folder, resize=4)
    with h5py.File(tmp_path / 'a.h5') as h5:
        assert h5['data4x4'].shape == (3, 1, 4, 4) and (h5['data4x4'][1] == 255).all()


def test_resize_cuts_the_centred_square_of_the_upright_image(folder, tmp_path):
    image = np.zeros((8, 12, 3), np.uint8)
    image[:, 2:10] = pixels()
    exif = Image.Exif()
    exif[0x0112] = 6    # Orientation: must be rotated clockwise.
    Image.fromarray(image).save(folder / 'a.png', exif=exif)
    Image.fromarray(np.rot90(image, -1)).save(folder / 'b.png')
    create_from_images(tmp_path / 'a.h5', folder, resize=8)
    with h5py.File(tmp_path / 'a.h5') as h5:
        for upright in h5['data8x8'][:].transpose(0, 2, 3, 1):
            np.testing.assert_array_equal(upright, np.rot90(pixels(), -1))


@pytest.mark.parametrize('size, kind, cure', [
    ((32, 16), '32x16', '--resize 16'), ((20, 20), '20x20', '--resize 16'), ((7, 9), '7x9', '--resize 4'),
])
def test_images_that_are_not_square_or_no_power_of_two(size, kind, cure, folder, tmp_path, capsys):
    Image.new('RGB', size).save(folder / 'a.png')
    status, _out, err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 1 and err.count('\n') == 1 and 'the images are ' + kind in err and cure in err


def test_folders_without_images(folder, tmp_path, capsys):
    (folder / 'notes.txt').write_text('')
    (folder / 'more').mkdir()
    for image_dir, message in [(folder, 'has no images (1 other files, 1 sub-folders without images)'),
                               (tmp_path / 'none', 'cannot be read (No such file or directory)')]:
        status, _out, err = run_tool(capsys, 'create_from_images', image_dir, tmp_path / 'a.h5')
        assert status == 1 and err.count('\n') == 1 and message in err and str(image_dir) in err
    (folder / 'a.png').write_text('')
    status, _out, err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 1 and 'none of its 1 images can be read: a.png (broken:' in err


def test_resize_to_no_power_of_two(folder, tmp_path, capsys):
    status, _out, err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5', '--resize', 100)
    assert (status, err) == (1, 'dataset_tool.py: error: --resize 100: must be a power of two, for example 64\n')


@pytest.mark.parametrize('argv, expected', [
    (['--crop', 'center'], lambda image: image.crop((4, 0, 12, 8))),
    (['--crop', 'none', '--resize', 8], lambda image: image.resize((8, 8), Image.LANCZOS)),
    (['--crop', 'center', '--resize', 4], lambda image: image.crop((4, 0, 12, 8)).resize((4, 4), Image.LANCZOS)),
    (['--resize', 4], lambda image: image.crop((4, 0, 12, 8)).resize((4, 4), Image.LANCZOS)),
])
def test_crops_of_images_that_are_no_squares(argv, expected, folder, tmp_path, capsys):
    image = Image.fromarray(pixels(17)[:8])
    image.save(folder / 'a.png')
    assert run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5', *argv)[0] == 0
    with h5py.File(tmp_path / 'a.h5') as h5:
        finest = next(h5[name][0] for name in ('data8x8', 'data4x4') if name in h5)
    np.testing.assert_array_equal(finest.transpose(1, 2, 0), expected(image))


def test_a_file_that_breaks_while_the_dataset_is_made(folder, tmp_path):
    Image.fromarray(pixels()).save(folder / 'a.png')
    source = image_folder.image_folder(folder)
    (folder / 'a.png').write_text('')
    with pytest.raises(UserError, match='a.png: can no longer be read .*; it may have changed'):
        list(source.images(0, 1))


@pytest.mark.parametrize('shard, expected', [(None, [0, 1, 1]), ((1, 2), [0]), ((2, 2), [1, 1])])
def test_with_skip_bad_such_a_file_ends_nothing(shard, expected, folder, tmp_path, capsys):
    for number, name in enumerate(['a/0.png', 'a/1.png', 'b/2.png', 'b/3.png']):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels(seed=number)).save(folder / name)
    source = image_folder.image_folder(folder, skip_bad=True)
    (folder / 'a' / '1.png').write_text('')
    image_source.write_dataset(source, tmp_path / 'a.h5', shard=shard)
    lost = 'Left out: a/1.png can no longer be read (broken: not in a supported image format)\n'
    assert (lost in capsys.readouterr().out) == (shard != (2, 2))
    np.testing.assert_array_equal(np.load(tmp_path / 'a-labels.npy'), np.eye(2)[expected])
    with h5py.File(tmp_path / 'a.h5') as h5:
        assert len(h5['data8x8']) == len(expected)
        assert bytes(h5.attrs['labels_sha256']).decode() == labels_digest(np.eye(2)[expected])


# ----------------------------------------------------------------------------------------------------------------------
# One folder per class.


def make_classes(folder):
    """Folders of three classes, one nested and one with a broken image, and a folder without images."""
    for number, name in enumerate(['dog/1.png', 'cat/deep/er/2.png', 'cat/1.png', 'ant/x.png', 'dog/0.png']):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed=number)).save(folder / name)
    (folder / 'ant' / 'broken.png').write_text('')
    (folder / '.hidden').mkdir()
    Image.fromarray(pixels()).save(folder / '.hidden' / 'a.png')
    (folder / 'nothing').mkdir()


def test_sub_folders_are_classes(folder, tmp_path, capsys):
    make_classes(folder)
    status, _out, err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 1 and '1 of 6 images are broken' in err and os.path.join('ant', 'broken.png') in err
    status, out, err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5', '--skip-bad')
    assert (status, err) == (0, '') and 'Labels: 0 ant (1 images), 1 cat (2 images), 2 dog (2 images)\n' in out
    labels = np.load(tmp_path / 'a-labels.npy')
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.eye(3)[[0, 1, 1, 2, 2]])
    with h5py.File(tmp_path / 'a.h5') as h5:
        np.testing.assert_array_equal(h5['data8x8'][:].transpose(0, 2, 3, 1),
                                      [pixels(seed=number) for number in (3, 2, 1, 4, 0)])


def test_sub_folders_that_are_no_classes(folder, tmp_path, capsys):
    make_classes(folder)
    status, out, _err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5', '--skip-bad', '--no-labels')
    assert status == 0 and 'Labels' not in out and sorted(os.listdir(tmp_path)) == ['a.h5', 'images']


def test_images_beside_sub_folders_are_taken_alone(folder, tmp_path, capsys):
    make_classes(folder)
    Image.fromarray(pixels()).save(folder / 'a.png')
    status, out, _err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 0 and 'Left out: 4 sub-folders: ant, cat, dog, nothing\n' in out
    assert 'Left out: 1 hidden files and folders: .hidden\n' in out and 'Wrote 1 images' in out
    assert not (tmp_path / 'a-labels.npy').exists()


def test_messages_name_the_first_and_last_of_many_classes(folder, tmp_path, capsys):
    for number in range(25):
        (folder / f'class{number:02d}').mkdir()
        Image.fromarray(pixels()).save(folder / f'class{number:02d}' / 'a.png')
    status, out, _err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 0 and '19 class19 (1 images) and so on to 24 class24\n' in out and 'class20' not in out
    np.testing.assert_array_equal(np.load(tmp_path / 'a-labels.npy'), np.eye(25))


# ----------------------------------------------------------------------------------------------------------------------
# CelebA.


@pytest.fixture
def celeba_dir(tmp_path):
    (tmp_path / 'celeba' / 'img_align_celeba_png').mkdir(parents=True)
    for number, image in enumerate(CELEBA['source_HWC']):
        Image.fromarray(image).save(tmp_path / 'celeba' / 'img_align_celeba_png' / f'{number + 1:06d}.png')
    return tmp_path / 'celeba'


@pytest.mark.parametrize('key, argv', [('celeba', []), ('celeba_cx100_cy110', ['--cx', 100, '--cy', 110])])
@pytest.mark.parametrize('subdir', ['', 'img_align_celeba_png'])
def test_the_recorded_celeba(subdir, key, argv, celeba_dir, tmp_path, capsys):
    argv = ['create_celeba', celeba_dir / subdir, tmp_path / 'a.h5', *argv]
    assert run_tool(capsys, *argv, '--expected-images', 3) == (0, f'Wrote 3 images to {tmp_path / "a.h5"}\n', '')
    check_h5_file(tmp_path / 'a.h5', (CELEBA, CELEBA_META), key)


def test_celeba_with_another_number_of_images(celeba_dir, tmp_path, capsys):
    assert '202599' in CELEBA_META['wrong_count_printed']
    status, out, err = run_tool(capsys, 'create_celeba', celeba_dir, tmp_path / 'a.h5')
    assert (status, out) == (1, '') and err == (
        f'dataset_tool.py: error: {celeba_dir / "img_align_celeba_png"}: has 3 images, expected 202599; unpack '
        'img_align_celeba_png.7z completely, or --expected-images 3 if that is meant\n')
    assert os.listdir(tmp_path) == ['celeba']
    assert run_tool(capsys, 'create_celeba', celeba_dir, tmp_path / 'a.h5', '--expected_images=0')[0] == 0


@pytest.mark.parametrize('argv, message', [
    (['--cx', 63], '--cx 63: must be from 64 to 114'), (['--cx', 115], '--cx 115: must be'),
    (['--cy', 63], '--cy 63: must be from 64 to 154'), (['--cy', 155], '--cy 155: must be'),
])
def test_crops_that_leave_the_image(argv, message, celeba_dir, tmp_path, capsys):
    status, _out, err = run_tool(capsys, 'create_celeba', celeba_dir, tmp_path / 'a.h5', *argv)
    assert status == 1 and message in err and err.count('\n') == 1


def test_folders_that_are_not_celeba(celeba_dir, tmp_path, capsys):
    create_celeba(tmp_path / 'a.h5', celeba_dir, cx=64, cy=154, expected_images=3)
    images = celeba_dir / 'img_align_celeba_png'
    Image.fromarray(pixels(178)).save(images / '000002.png')
    for message in ('000002.png: has 178x178 pixels, but the aligned images of CelebA have 178x218',
                    '000002.png: is broken ('):
        status, _out, err = run_tool(capsys, 'create_celeba', celeba_dir, tmp_path / 'b.h5', '--expected-images', 0)
        assert status == 1 and message in err and err.count('\n') == 1
        (images / '000002.png').write_bytes((images / '000001.png').read_bytes()[:5000])
    status, _out, err = run_tool(capsys, 'create_celeba', tmp_path / 'none', tmp_path / 'b.h5')
    assert status == 1 and 'img_align_celeba_png.7z' in err and err.count('\n') == 1
    assert not (tmp_path / 'b.h5').exists()


def test_celeba_as_jpeg_files(tmp_path, capsys):
    (tmp_path / 'img_align_celeba').mkdir()
    Image.fromarray(CELEBA['source_HWC'][0]).save(tmp_path / 'img_align_celeba' / '000001.jpg')
    status, out, _err = run_tool(capsys, 'create_celeba', tmp_path, tmp_path / 'a.h5', '--expected-images', 1)
    assert status == 0 and 'the paper used the PNG files' in out
