"""data/inspection.py: recorded commands; damaged files; contact sheets, windows, comparisons."""

import os
import re

import h5py
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data import inspection
from data.hdf5_writer import HDF5Writer
from data.sheets import PAPER
from tests.helpers import load_golden, run_tool

ARRAYS, META = load_golden('h5tool_custom')
RGB = ARRAYS['custom_source_rgb_HWC'].transpose(0, 3, 1, 2)


def write(h5_path, images, labels=None):
    with HDF5Writer(h5_path, images.shape[2], images.shape[1], labels) as writer:
        writer.add_images(images)
    return h5_path


@pytest.fixture
def rgb_h5(tmp_path, capsys):
    path = write(tmp_path / 'rgb.h5', RGB)
    capsys.readouterr()
    return path


@pytest.fixture
def gray_h5(tmp_path):
    """A dataset without compression and chunks."""
    with h5py.File(tmp_path / 'gray.h5', 'w') as h5:
        for key, value in ARRAYS.items():
            if key.startswith('custom_gray_data'):
                h5[key[len('custom_gray_'):]] = value
    return tmp_path / 'gray.h5'


def damage(h5_path, name, index):
    """Overwrite some bytes in the chunk of an image."""
    with h5py.File(h5_path) as h5:
        chunk = h5[name].id.get_chunk_info_by_coord((index, 0, 0, 0))
    with open(h5_path, 'r+b') as file:
        file.seek(chunk.byte_offset + 2)
        file.write(b'\xff\xff\xff\xff')


# ----------------------------------------------------------------------------------------------------------------------
# inspect.


def test_inspect(gray_h5, capsys):
    np.save(gray_h5.parent / 'gray-labels.npy', np.eye(12, dtype=np.float32)[:, :3])
    status, out, err = run_tool(capsys, 'inspect', gray_h5)
    assert (status, err) == (0, '')
    recorded = [line for line in META['inspect_printed'] if line.startswith(('Total images', 'Resolution'))]
    assert len(recorded) == 2 and set(recorded) <= set(out.splitlines())
    assert re.search(r'Color channels +1\n', out)
    assert re.search(r'Labels .*gray-labels.npy; 3 columns, images per column: 1 1 1; 9 rows are not one-hot\n', out)
    assert re.findall(r'^data(\d+)x', out, re.M) == ['32', '16', '8', '4', '2', '1']
    assert 'Complete: has all levels from 32x32 to 1x1' in out


def test_the_recorded_inspection(rgb_h5, capsys):
    """The output equals the recording, except the path and the size in bytes, which depends on the compressor."""
    _status, out, _err = run_tool(capsys, 'inspect', rgb_h5)
    for line in META['inspect_printed']:
        assert line.startswith(('HDF5', 'Size per image')) or line in out.splitlines()


def test_inspect_of_an_incomplete_file(gray_h5, capsys):
    with h5py.File(gray_h5, 'a') as h5:
        del h5['data8x8']
    status, _out, err = run_tool(capsys, 'inspect', gray_h5)
    assert status == 1 and 'data8x8 is missing' in err and err.count('\n') == 1


@pytest.mark.parametrize('labels, message', [
    (np.eye(11), 'rgb-labels.npy: has 11 rows, but the dataset has 12 images'),
    (np.zeros(12), 'rgb-labels.npy: must hold one-hot labels'),
])
def test_inspect_of_labels_that_do_not_fit(labels, message, rgb_h5, capsys):
    np.save(rgb_h5.parent / 'rgb-labels.npy', labels)
    status, _out, err = run_tool(capsys, 'inspect', rgb_h5)
    assert status == 1 and message in err and err.count('\n') == 1


def test_inspect_of_images_that_were_never_written(tmp_path, capsys):
    with h5py.File(tmp_path / 'a.h5', 'w') as h5:
        for name, size in (('data2x2', 2), ('data1x1', 1)):
            level = h5.create_dataset(name, (8, 1, size, size), np.uint8, chunks=(2, 1, size, size))
            level[:4 if size == 1 else 8] = 1
    status, _out, err = run_tool(capsys, 'inspect', tmp_path / 'a.h5')
    assert status == 1 and 'at 1x1 some images were never written, such as image 4' in err and err.count('\n') == 1


def test_inspect_of_a_file_that_was_cut_off(rgb_h5, capsys):
    content = rgb_h5.read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - 1):
        rgb_h5.write_bytes(content[:length])
        status, out, err = run_tool(capsys, 'inspect', rgb_h5, '--verify')
        assert (status, out) == (1, '') and 'is not a complete HDF5 file' in err and err.count('\n') == 1


def checksums(out):
    return re.findall(r'^data(\S+) +([0-9a-f]{64})', out, re.M)


def test_verify(rgb_h5, gray_h5, capsys):
    status, out, err = run_tool(capsys, 'inspect', rgb_h5, '--verify')
    assert (status, err) == (0, '') and 'Verified' in out
    assert len(re.findall(r'^data.* {2}yes$', out, re.M)) == 5 and '+-1' not in out
    # The same pixels in another layout have the same checksums.
    with h5py.File(rgb_h5) as h5, h5py.File(rgb_h5.parent / 'plain.h5', 'w') as plain:
        for name, level in h5.items():
            plain[name] = level[:]
    expected = checksums(out)
    assert len(expected) == 6
    assert checksums(run_tool(capsys, 'inspect', rgb_h5.parent / 'plain.h5', '--verify')[1]) == expected
    assert checksums(run_tool(capsys, 'inspect', gray_h5, '--verify')[1]) != expected


def test_verify_of_images_that_were_floats(tmp_path, capsys):
    images = np.random.RandomState(0).uniform(0, 255, size=(5, 3, 16, 16))
    status, out, _err = run_tool(capsys, 'inspect', write(tmp_path / 'a.h5', images), '--verify')
    assert status == 0 and 'yes, +-1: averaged before rounding' in out and 'Verified' in out


def test_verify_of_levels_that_are_no_averages(rgb_h5, capsys):
    with h5py.File(rgb_h5, 'a') as h5:
        for index in (3, 7):
            h5['data8x8'][index, 0, 0, 0] ^= 128
    status, out, err = run_tool(capsys, 'inspect', rgb_h5, '--verify')
    assert status == 1 and re.search(r'^data8x8 .* {2}no$', out, re.M) and 'Verified' not in out
    assert 'rgb.h5: at 8x8 2 images (3, 7) differ from the average of the finer level, by up to 128; make' in err
    assert err.count('\n') == 1


def test_verify_names_every_image_that_cannot_be_read(rgb_h5, capsys):
    for name, index in (('data32x32', 1), ('data32x32', 11), ('data16x16', 4)):
        damage(rgb_h5, name, index)
    status, out, err = run_tool(capsys, 'inspect', rgb_h5, '--verify')
    assert status == 1 and len(checksums(out)) == 4
    assert 'at 32x32 2 images (1, 11) cannot be read; at 16x16 image 4 cannot be read; make or copy' in err
    assert err.count('\n') == 1


def test_many_images_are_counted_and_ten_listed():
    assert inspection.list_images(list(range(11))) == '11 images (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)'


# ----------------------------------------------------------------------------------------------------------------------
# Pictures.


def cells_of(path, side, zoom):
    """uint8 (rows, columns, side, side, 3) of a sheet without titles: the images as they were, without the gaps."""
    sheet, gap = np.asarray(Image.open(path)), max(round(side * zoom / 32), 1)
    step = side * zoom + gap
    rows, columns = (sheet.shape[0] - gap) // step, (sheet.shape[1] - gap) // step
    assert sheet.shape == (rows * step + gap, columns * step + gap, 3)
    assert (sheet[::step] == PAPER).all() and (sheet[:, ::step] == PAPER).all()      # Between the images.
    inner = sheet[gap:, gap:].reshape(rows, step, columns, step, 3).swapaxes(1, 2)[:, :, :-gap, :-gap]
    np.testing.assert_array_equal(inner, inner[:, :, ::zoom, ::zoom].repeat(zoom, 2).repeat(zoom, 3))
    return inner[:, :, ::zoom, ::zoom]


def test_a_sheet_has_images_from_all_over_the_dataset(tmp_path, capsys):
    images = np.arange(1000, dtype=np.float32)[:, np.newaxis, np.newaxis, np.newaxis] / 4 * np.ones((1, 8, 8))
    path = write(tmp_path / 'a.h5', images)
    assert run_tool(capsys, 'inspect', path, '--sheet', tmp_path / 'a.png')[0] == 0
    cells = cells_of(tmp_path / 'a.png', 8, 8)
    assert cells.shape[:2] == (16, 16)      # At most 16 in a row, enlarged to about a thousand pixels.
    levels = cells[:, :, 0, 0, 0].ravel().astype(int)
    assert levels[0] == 0 and levels[-1] == 250 and set(np.diff(levels)) <= {0, 1, 2}


def test_a_sheet_of_few_images(rgb_h5, capsys):
    run_tool(capsys, 'inspect', rgb_h5, '--sheet', rgb_h5.parent / 'a.png')
    cells = cells_of(rgb_h5.parent / 'a.png', 32, 8)
    np.testing.assert_array_equal(cells.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2), RGB)
    assert cells.shape[:2] == (3, 4)        # Of twelve none is missing in the last row.


def test_a_sheet_with_a_row_for_each_class(tmp_path, capsys):
    """Two of three classes have images, 3 and 2; the numbers of the classes stand to the left."""
    classes = np.array([2, 0, 0, 2, 0])
    images = np.repeat(10 * np.arange(1, 6, dtype=np.uint8), 16).reshape(5, 1, 4, 4)
    path = write(tmp_path / 'a.h5', images, np.eye(3)[classes])
    out = run_tool(capsys, 'inspect', path, '--sheet', tmp_path / 'a.png')[1]
    assert 'Wrote 5 images of 2 classes at 4x4' in out
    sheet = np.asarray(Image.open(tmp_path / 'a.png')).astype(int)
    assert abs(max(sheet.shape) - 1000) < 200
    rows = [[level for level in np.unique(row) if level % 10 == 0 and (row == level).mean() > 0.1]
            for row in np.array_split(sheet[..., 0], 2)]
    assert rows == [[20, 30, 50], [10, 40]]
    names = sheet[:, :36]       # There is a gap between them and the images.
    assert sheet[:, 35:42].min() > 200 and all((part < 100).any() for part in np.array_split(names, 2))


@pytest.mark.parametrize('num_classes', [40, 300])
def test_a_sheet_shows_all_classes(num_classes, tmp_path, capsys):
    """In several blocks side by side."""
    path = write(tmp_path / 'a.h5', np.full((num_classes, 1, 16, 16), 7, np.uint8), np.eye(num_classes))
    assert f'of {num_classes} classes' in run_tool(capsys, 'inspect', path, '--sheet', tmp_path / 'a.png')[1]
    sheet = np.asarray(Image.open(tmp_path / 'a.png'))
    zoom = round((np.sum((sheet == 7).all(axis=2)) / num_classes) ** 0.5 / 16)
    assert np.sum((sheet == 7).all(axis=2)) == num_classes * (16 * zoom) ** 2
    assert 0.4 < sheet.shape[0] / sheet.shape[1] < 2.5


def test_a_sheet_of_large_images_shows_them_smaller(tmp_path, capsys):
    path = write(tmp_path / 'a.h5', np.full((2, 1, 256, 256), 9, np.uint8))
    assert 'at 128x128' in run_tool(capsys, 'inspect', path, '--sheet', tmp_path / 'a.png')[1]
    assert cells_of(tmp_path / 'a.png', 128, 4).shape[:2] == (1, 2)


def test_sheets_that_cannot_be_written(rgb_h5, capsys):
    for name, message in [('none/a.png', 'cannot be written'), ('a.xyz', "no image format has the suffix '.xyz'")]:
        status, _out, err = run_tool(capsys, 'inspect', rgb_h5, '--sheet', rgb_h5.parent / name)
        assert status == 1 and message in err and err.count('\n') == 1


def test_display_without_a_display(rgb_h5, capsys, monkeypatch):
    monkeypatch.setattr(inspection, 'open_window', lambda: None)
    monkeypatch.chdir(rgb_h5.parent)
    status, out, err = run_tool(capsys, 'display', rgb_h5)
    assert (status, err) == (0, '') and 'Wrote 12 images at 32x32 to rgb-images.png' in out
    assert Image.open('rgb-images.png').size == (4 * 264 + 8, 3 * 264 + 8)


def test_display_into_a_file(rgb_h5, capsys, monkeypatch):
    monkeypatch.setattr(inspection, 'open_window', lambda: pytest.fail('a window'))
    assert run_tool(capsys, 'display', rgb_h5, '--output', rgb_h5.parent / 'b.png')[0] == 0
    assert Image.open(rgb_h5.parent / 'b.png').size == (4 * 264 + 8, 3 * 264 + 8)


@pytest.mark.skipif(os.name != 'posix' or os.uname().sysname == 'Darwin', reason='X11 only')
def test_there_is_no_window_without_a_display(monkeypatch):
    monkeypatch.delenv('DISPLAY', raising=False)
    assert inspection.open_window() is None


class FakeWindow:
    """Records what a viewer does with its window, and sends keys when its main loop starts."""

    def __init__(self, keys):
        self.keys, self.titles, self.bindings, self.open = keys, [], {}, True

    def bind(self, key, function):
        self.bindings[key] = function

    def title(self, text):
        self.titles.append(text)

    def mainloop(self):
        for key in self.keys:
            assert self.open
            self.bindings[key](None)

    def destroy(self):
        self.open = False


def test_the_keys_of_the_window(rgb_h5, capsys, monkeypatch):
    tkinter = pytest.importorskip('tkinter')
    pictures = []

    class Widget:
        def __init__(self, *_args, **kwargs):
            if 'data' in kwargs:
                pictures.append(kwargs['data'])

        def pack(self):
            pass

        def configure(self, image):
            pass

    np.save(rgb_h5.parent / 'rgb-labels.npy', np.eye(12, dtype=np.float32)[::-1])
    window = FakeWindow(['<Right>', '<Left>', '<Left>', '<Next>', '<space>', '<Prior>', '<End>', '<Home>', '<Escape>'])
    monkeypatch.setattr(inspection, 'open_window', lambda: window)
    monkeypatch.setattr(tkinter, 'Label', Widget)
    monkeypatch.setattr(tkinter, 'PhotoImage', Widget)
    assert run_tool(capsys, 'display', rgb_h5, '--start', 1)[0] == 0 and not window.open
    shown = [1, 2, 1, 0, 11, 11, 0, 11, 0]
    assert window.titles == [f'image {index} of 12, label {11 - index}' for index in shown]
    for index, picture in zip(shown, pictures, strict=True):
        image = np.asarray(Image.open(inspection.io.BytesIO(picture)))
        assert image.shape == (512, 512, 3)
        np.testing.assert_array_equal(image[::16, ::16].transpose(2, 0, 1), RGB[index])


def test_display_from_an_image_that_is_not_there(rgb_h5, capsys):
    status, _out, err = run_tool(capsys, 'display', rgb_h5, '--start', 12)
    assert status == 1 and '--start 12: must be from 0 to 11' in err and err.count('\n') == 1


def test_the_recorded_extraction(gray_h5, tmp_path, capsys):
    output_dir = tmp_path / 'new' / 'extracted'
    argv = ['extract', gray_h5, output_dir, '--start', 1, '--stop', 9, '--step', 3]
    assert run_tool(capsys, *argv) == (0, f'Extracted 3 images to {output_dir}\n', '')
    assert sorted(os.listdir(output_dir)) == META['extract_names']
    for name, recorded in zip(META['extract_names'], ARRAYS['extract_gray_1_9_3'], strict=True):
        image = Image.open(output_dir / name)
        assert image.mode == 'L'
        np.testing.assert_array_equal(np.asarray(image), recorded)
    status, _out, err = run_tool(capsys, *argv)
    assert status == 1 and 'img00000001.png: exists' in err
    assert run_tool(capsys, *argv, '--force')[0] == 0


@pytest.mark.parametrize('argv, message', [
    (['--start', 12], '--start 12 --stop None: no images in this range'),
    (['--step', 0], '--step 0: must be at least 1'),
])
def test_ranges_that_cannot_be_extracted(argv, message, gray_h5, tmp_path, capsys):
    status, _out, err = run_tool(capsys, 'extract', gray_h5, tmp_path / 'out', *argv)
    assert status == 1 and message in err and not (tmp_path / 'out').exists()


def test_extraction_into_a_path_that_is_no_folder(gray_h5, capsys):
    status, _out, err = run_tool(capsys, 'extract', gray_h5, gray_h5)
    assert status == 1 and 'cannot be written (File exists)' in err and err.count('\n') == 1


# ----------------------------------------------------------------------------------------------------------------------
# compare.


def test_the_recorded_comparison_of_equal_datasets(rgb_h5, tmp_path, capsys):
    same = write(tmp_path / 'same.h5', RGB, np.eye(12))
    np.save(tmp_path / 'rgb-labels.npy', np.eye(12))
    capsys.readouterr()
    status, out, err = run_tool(capsys, 'compare', rgb_h5, same)
    assert (status, err) == (0, '') and META['compare_same_printed'][-2] in out.splitlines()
    assert f'Comparing {rgb_h5} vs. {same}' in out and 'All labels are identical.' in out


def test_the_recorded_comparison(rgb_h5, tmp_path, capsys):
    changed = RGB[:11].copy()
    changed[[2, 7], 1, 3, 4] ^= 1
    other = write(tmp_path / 'other.h5', changed)
    status, out, _err = run_tool(capsys, 'compare', rgb_h5, other)
    assert status == 1 and 'The datasets contain different number of images: 12 vs. 11' in META['compare_printed']
    assert 'The datasets contain different number of images: 12 vs. 11\n' in out
    assert '2 images out of 11 are different.' in META['compare_printed']
    assert '2 images out of 11 are different: 2, 7\n' in out
    fields = re.search(r'^data32x32 +(\d+) +(\d+) +([\d.]+) vs. ([\d.]+) +([\d.]+) vs. ([\d.]+)$', out, re.M).groups()
    assert fields[:2] == ('2', '1')
    # For the 11 compared images, up to half a unit in the last printed digit.
    np.testing.assert_allclose(np.array(fields[2:], dtype=float),
                               [RGB[:11].mean(), changed.mean(), RGB[:11].std(), changed.std()], rtol=0, atol=5.01e-4)


def test_the_recorded_comparison_of_other_channels(rgb_h5, gray_h5, capsys):
    status, out, err = run_tool(capsys, 'compare', rgb_h5, gray_h5)
    assert (status, err) == (1, '') and META['compare_gray_printed'][1] in out.splitlines()


def test_comparison_of_other_resolutions(rgb_h5, tmp_path, capsys):
    other = write(tmp_path / 'other.h5', RGB[:, :, ::2, ::2])
    status, out, _err = run_tool(capsys, 'compare', rgb_h5, other)
    assert status == 1 and 'The datasets have different resolutions: 32 vs. 16\n' in out


def test_a_difference_at_a_coarse_level_counts(rgb_h5, tmp_path, capsys):
    other = write(tmp_path / 'other.h5', RGB)
    with h5py.File(other, 'a') as h5:
        h5['data2x2'][5, 0, 0, 0] ^= 64
    status, out, _err = run_tool(capsys, 'compare', rgb_h5, other)
    assert status == 1 and '1 images out of 12 are different: 5\n' in out
    assert re.search(r'^data2x2 +1 +64 ', out, re.M) and re.search(r'^data32x32 +0 +0 ', out, re.M)


@pytest.mark.parametrize('labels, message', [
    (None, 'Only the first dataset has labels.'),
    (np.eye(13)[:12], 'The labels have different numbers of columns: 12 vs. 13'),
    (np.eye(12)[[0, 2, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]], 'The labels of 2 images are different: 1, 2'),
])
def test_comparison_of_labels(labels, message, tmp_path, capsys):
    paths = write(tmp_path / 'a.h5', RGB, np.eye(12)), write(tmp_path / 'b.h5', RGB, labels)
    status, out, _err = run_tool(capsys, 'compare', *paths)
    assert status == 1 and 'All 12 images are identical.' in out and message in out


def test_comparison_with_a_damaged_file(rgb_h5, tmp_path, capsys):
    other = write(tmp_path / 'other.h5', RGB)
    damage(other, 'data32x32', 3)
    status, _out, err = run_tool(capsys, 'compare', rgb_h5, other)
    assert status == 1 and 'other.h5: image 3 at 32x32 cannot be read' in err and err.count('\n') == 1
    with pytest.raises(UserError, match='no such file'):
        inspection.compare(rgb_h5, tmp_path / 'none.h5')
