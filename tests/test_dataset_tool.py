"""dataset_tool: the recorded commands; folders with every kind of odd image; the embedded digits."""

import os
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
from conftest import ROOT, load_golden
from PIL import Image
from test_hdf5_format import check_file

import dataset
import dataset_tool
import misc

ARRAYS, META = load_golden('h5tool_custom')


def run(capsys, *argv):
    """(exit status, stdout, stderr) of a command."""
    status = dataset_tool.main([str(arg) for arg in argv])
    return status, *capsys.readouterr()


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
    # The releases name the file to write first; both orders do.
    paths = (folder, tmp_path / 'a.h5') if kind == 'rgb' else (tmp_path / 'a.h5', folder)
    assert run(capsys, command, *paths) == (0, 'Wrote 12 images to %s\n' % (tmp_path / 'a.h5'), '')
    check_file(tmp_path / 'a.h5', 'custom_' + kind)


def test_more_images_than_are_decoded_at_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_tool, 'MIN_GROUP', 2)
    monkeypatch.setattr(dataset_tool, 'GROUP_BYTES', 1)
    for number in range(5):
        Image.fromarray(pixels(seed=number)).save(folder / ('%d.png' % number))
    dataset_tool.create_from_images(tmp_path / 'a.h5', folder)
    with h5py.File(tmp_path / 'a.h5') as h5:
        np.testing.assert_array_equal(h5['data8x8'][:].transpose(0, 2, 3, 1), [pixels(seed=n) for n in range(5)])


def make_odd_folder(folder):
    """Four good images of 8x8 RGB and one of every kind of trouble."""
    for number in range(4):
        Image.fromarray(pixels(seed=number)).save(folder / ('good%d.png' % number))
    Image.fromarray(pixels(16)).save(folder / 'large.png')
    Image.fromarray(pixels(channels=4)).save(folder / 'alpha.png')
    Image.fromarray(pixels(channels=1)).save(folder / 'grey.png')
    Image.fromarray(pixels()).quantize(16).save(folder / 'palette.png')
    Image.fromarray(np.full((8, 8), 257 * 100, dtype=np.uint16)).save(folder / 'deep.png')
    good = (folder / 'good0.png').read_bytes()
    (folder / 'cut.png').write_bytes(good[:len(good) // 2])
    (folder / 'text.jpg').write_text('not an image')
    (folder / 'empty.png').write_bytes(b'')
    (folder / 'notes.txt').write_text('left out without being asked')
    (folder / '.hidden.png').write_text('left out without being asked')


def test_odd_images_are_all_named_before_anything_is_written(folder, tmp_path, capsys):
    make_odd_folder(folder)
    status, _out, err = run(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 1 and err.count('\n') == 1
    assert '8 of 12 images are broken or not 8x8 RGB like most' in err
    for name, kind in [('large.png', '16x16 RGB'), ('alpha.png', '8x8 RGB with alpha'), ('grey.png', '8x8 grey'),
                       ('palette.png', '8x8 palette'), ('deep.png', '8x8 16 bit grey'), ('cut.png', 'broken: .+'),
                       ('text.jpg', 'broken: .+'), ('empty.png', 'broken: .+')]:
        assert re.search(r'%s \(%s\)' % (name, kind), err), name
    assert '--resize 8' in err and '--skip-bad' in err and 'notes' not in err and 'hidden' not in err
    assert os.listdir(tmp_path) == ['images']


def test_ten_names_are_listed_and_the_rest_counted(folder, tmp_path):
    for number in range(30):
        Image.fromarray(pixels(8 if number < 16 else 16)).save(folder / ('%02d.png' % number))
    with pytest.raises(misc.UserError) as raised:
        dataset_tool.create_from_images(tmp_path / 'a.h5', folder)
    assert str(raised.value).count('.png') == 10 and ' and 4 more;' in str(raised.value)


def test_skip_bad_leaves_them_out(folder, tmp_path, capsys):
    make_odd_folder(folder)
    status, out, err = run(capsys, 'create_from_images', folder, tmp_path / 'a.h5', '--skip-bad')
    assert (status, err) == (0, '') and 'Left out: 8 of 12' in out and 'cut.png' in out
    with h5py.File(tmp_path / 'a.h5') as h5:
        np.testing.assert_array_equal(h5['data8x8'][:].transpose(0, 2, 3, 1), [pixels(seed=n) for n in range(4)])


def test_resize_takes_all_but_broken_ones(folder, tmp_path, capsys):
    make_odd_folder(folder)
    status, _out, err = run(capsys, 'create_from_images', folder, tmp_path / 'a.h5', '--resize', 8)
    assert status == 1 and '3 of 12 images are broken: ' in err and 'large' not in err and '--resize' not in err
    status, out, err = run(capsys, 'create_from_images', folder, tmp_path / 'a.h5', '--resize', 8, '--skip-bad')
    assert (status, err) == (0, '') and 'Wrote 9 images' in out
    with h5py.File(tmp_path / 'a.h5') as h5:
        images = dict(zip(['alpha', 'deep', 'good0', 'good1', 'good2', 'good3', 'grey', 'large', 'palette'],
                          h5['data8x8'][:].transpose(0, 2, 3, 1), strict=True))
    np.testing.assert_array_equal(images['good0'], pixels())
    np.testing.assert_array_equal(images['grey'], np.repeat(pixels(channels=1)[..., np.newaxis], 3, axis=2))
    np.testing.assert_array_equal(images['deep'], np.full((8, 8, 3), 100))
    np.testing.assert_array_equal(images['large'], Image.fromarray(pixels(16)).resize((8, 8), Image.LANCZOS))
    # Transparency on white; rounding of the blend may differ by one.
    source = pixels(channels=4).astype(float)
    alpha = source[..., 3:] / 255
    np.testing.assert_allclose(images['alpha'], source[..., :3] * alpha + 255 * (1 - alpha), atol=1)


def test_resize_keeps_grey_images_grey(folder, tmp_path):
    Image.fromarray(pixels(channels=1)).save(folder / 'a.png')
    Image.fromarray(np.full((8, 8), 65535, dtype=np.uint16)).save(folder / 'b.png')
    Image.fromarray(pixels(channels=1) > 127).save(folder / 'c.png')
    dataset_tool.create_from_images(tmp_path / 'a.h5', folder, resize=4)
    with h5py.File(tmp_path / 'a.h5') as h5:
        assert h5['data4x4'].shape == (3, 1, 4, 4) and (h5['data4x4'][1] == 255).all()


def test_resize_cuts_the_centred_square_of_the_upright_image(folder, tmp_path):
    image = np.zeros((8, 12, 3), np.uint8)
    image[:, 2:10] = pixels()
    exif = Image.Exif()
    exif[0x0112] = 6    # Orientation: turn clockwise to see it upright.
    Image.fromarray(image).save(folder / 'a.png', exif=exif)
    Image.fromarray(np.rot90(image, -1)).save(folder / 'b.png')
    dataset_tool.create_from_images(tmp_path / 'a.h5', folder, resize=8)
    with h5py.File(tmp_path / 'a.h5') as h5:
        for upright in h5['data8x8'][:].transpose(0, 2, 3, 1):
            np.testing.assert_array_equal(upright, np.rot90(pixels(), -1))


@pytest.mark.parametrize('size, kind, cure', [
    ((32, 16), '32x16 RGB', '--resize 16'), ((20, 20), '20x20 RGB', '--resize 16'), ((7, 9), '7x9 RGB', '--resize 4'),
])
def test_images_that_are_not_square_or_no_power_of_two(size, kind, cure, folder, tmp_path, capsys):
    Image.new('RGB', size).save(folder / 'a.png')
    status, _out, err = run(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 1 and err.count('\n') == 1 and 'the images are ' + kind in err and cure in err


def test_folders_without_images(folder, tmp_path, capsys):
    (folder / 'notes.txt').write_text('')
    (folder / 'more').mkdir()
    for image_dir, message in [(folder, 'has no images (1 other files, 1 sub-folders, which are not searched)'),
                               (tmp_path / 'none', 'cannot be read (No such file or directory)')]:
        status, _out, err = run(capsys, 'create_from_images', image_dir, tmp_path / 'a.h5')
        assert status == 1 and err.count('\n') == 1 and message in err and str(image_dir) in err
    (folder / 'a.png').write_text('')
    status, _out, err = run(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 1 and 'none of its 1 images can be read: a.png (broken:' in err


def test_resize_to_no_power_of_two(folder, tmp_path, capsys):
    status, _out, err = run(capsys, 'create_from_images', folder, tmp_path / 'a.h5', '--resize', 100)
    assert (status, err) == (1, 'dataset_tool.py: error: --resize 100: must be a power of two, for example 64\n')


# ----------------------------------------------------------------------------------------------------------------------
# create_digits.


def center_of_mass(images):
    """(N, 2) distances in pixels, down and right, from the middle of the images (N, H, H)."""
    coordinates = np.arange(images.shape[1]) + 0.5 - images.shape[1] / 2
    weights = images / images.sum(axis=(1, 2), keepdims=True)
    return np.stack([weights.sum(axis=2) @ coordinates, weights.sum(axis=1) @ coordinates], axis=1)


@pytest.mark.parametrize('resolution', [16, 32])
def test_digits(resolution, tmp_path, capsys):
    h5_path = tmp_path / 'digits.h5'
    assert run(capsys, 'create_digits', h5_path, '--resolution', resolution) == (
        0, 'Wrote 1797 images to %s\n' % h5_path, '')
    with dataset.Dataset(h5_path) as reader:
        assert reader.shape == (1, resolution, resolution) and reader.num_images == 1797
        images, labels = reader.get_images(range(1797))
    # About equally many of each class, each digit from black to white, and strokes never at the edge.
    assert set(labels.sum(axis=1)) == {1} and (170 < labels.sum(axis=0)).all()
    assert (images.min(axis=(1, 2, 3)) == 0).all() and (images.max(axis=(1, 2, 3)) == 255).all()
    inner = images[:, :, 1:-1, 1:-1]
    assert inner.sum(dtype=np.int64) == images.sum(dtype=np.int64)
    # Enlarged in place: the centres of mass are, on average, where they are in the 8x8 digits.
    from sklearn.datasets import load_digits
    enlargement = resolution * 0.75 / 8
    shift = center_of_mass(images[:, 0]) - center_of_mass(load_digits().images) * enlargement
    # In pixels. A shift by half a pixel of the 8x8 digits, the usual mistake, is enlargement / 2 >= 0.75.
    assert np.abs(shift.mean(axis=0)).max() < 0.05
    np.testing.assert_array_equal(labels.argmax(axis=1), load_digits().target)


def test_digits_are_the_same_every_time(tmp_path):
    dataset_tool.create_digits(tmp_path / 'a.h5')
    dataset_tool.create_digits(tmp_path / 'b.h5', resolution=16, margin=2)
    with h5py.File(tmp_path / 'a.h5') as a, h5py.File(tmp_path / 'b.h5') as b:
        np.testing.assert_array_equal(a['data16x16'][:], b['data16x16'][:])


@pytest.mark.parametrize('argv, message', [
    (['--resolution', 20], 'resolution=20: must be a power of two'),
    (['--resolution', 4], 'resolution=4: must be a power of two, at least 8'),
    (['--margin', 8], 'margin=8: must be from 0 to 7 at a resolution of 16'),
])
def test_digits_that_cannot_be_made(argv, message, tmp_path, capsys):
    status, _out, err = run(capsys, 'create_digits', tmp_path / 'a.h5', *argv)
    assert status == 1 and message in err and err.count('\n') == 1
    assert os.listdir(tmp_path) == []


def test_digits_without_scikit_learn(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    status, _out, err = run(capsys, 'create_digits', tmp_path / 'a.h5')
    assert status == 1 and 'pip install scikit-learn' in err


def test_an_existing_file_needs_force(tmp_path, capsys):
    (tmp_path / 'a.h5').write_text('precious')
    status, _out, err = run(capsys, 'create_digits', tmp_path / 'a.h5')
    assert status == 1 and 'a.h5: exists' in err and '--force' in err
    assert (tmp_path / 'a.h5').read_text() == 'precious'
    assert run(capsys, 'create_digits', tmp_path / 'a.h5', '--force')[0] == 0
    assert run(capsys, 'inspect', tmp_path / 'a.h5')[0] == 0


# ----------------------------------------------------------------------------------------------------------------------
# Command line.


@pytest.mark.parametrize('command', ['inspect', 'extract', 'create_from_images', 'create_custom', 'create_digits'])
def test_every_command_has_an_example_that_parses(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        dataset_tool.main([command, '--help'])
    assert stopped.value.code == 0
    example = capsys.readouterr().out.split('example:\n  python dataset_tool.py ')[1]
    arguments = dataset_tool.parse_arguments(example.split())
    assert arguments.command == command.replace('custom', 'from_images')


def test_the_commands_are_listed_and_one_is_needed(capsys):
    with pytest.raises(SystemExit):
        dataset_tool.main(['--help'])
    assert 'create_digits' in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        dataset_tool.main([])
    assert stopped.value.code == 2 and 'COMMAND' in capsys.readouterr().err


def test_as_a_program(tmp_path):
    result = subprocess.run([sys.executable, 'dataset_tool.py', 'inspect', str(tmp_path / 'none.h5')], cwd=ROOT,
                            capture_output=True, text=True)
    assert result.returncode == 1 and result.stdout == ''
    assert result.stderr.startswith('dataset_tool.py: error: h5_path=') and result.stderr.count('\n') == 1


def test_ctrl_c(tmp_path, capsys, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt
    monkeypatch.setattr(dataset_tool, 'enlarge_digit', interrupted)
    status, _out, err = run(capsys, 'create_digits', tmp_path / 'a.h5')
    assert status == 130 and 'interrupted' in err and err.count('\n') == 1
    assert os.listdir(tmp_path) == []
