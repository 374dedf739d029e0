"""picture_folder: the same entries are left out at every depth; .zip files; dataset.json of StyleGAN."""

import json
import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.picture_folder import json_labels, list_pictures
from tests.helpers import ROOT, run_tool


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 8), (value, 255 - value, 0)).save(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'images').mkdir()
    return tmp_path / 'images'


def make_odd_entries(folder, number=0):
    """A good picture, a link to it, and an entry of each kind that is left out."""
    save(folder / 'a.png', number)
    (folder / '.b.png').write_text('hidden')
    (folder / '.hidden').mkdir()
    save(folder / '.hidden' / 'c.png')
    (folder / 'good link.png').symlink_to('a.png')
    (folder / 'bad link.png').symlink_to('gone.png')
    (folder / 'self.png').symlink_to('self.png')
    (folder / 'set.h5').write_text('no picture')
    os.mkfifo(folder / 'pipe.png')


@pytest.mark.parametrize('depth', [0, 1, 2])
def test_one_rule_at_every_depth(depth, folder, capsys):
    place = folder.joinpath(*['one', 'two'][:depth])
    place.mkdir(parents=True, exist_ok=True)
    make_odd_entries(place)
    found = list_pictures(folder)
    below = '/'.join(['one', 'two'][:depth] + [''])
    assert found.names == [f'{below}a.png', f'{below}good link.png']
    assert found.classes == (['one', 'one'] if depth else None)
    assert capsys.readouterr().out.replace(below, '').splitlines() == [
        'Left out: 2 hidden files and folders: .b.png, .hidden',
        'Left out: 2 broken links: bad link.png, self.png',
        'Left out: 1 neither files nor folders: pipe.png',
        'Left out: 1 files without the suffix of an image: set.h5']


def test_links_to_folders_are_followed_but_not_in_circles(folder, tmp_path, capsys):
    save(tmp_path / 'elsewhere' / 'deep' / 'a.png')
    for parent in (folder, folder / 'class'):
        parent.mkdir(exist_ok=True)
        (parent / 'link').symlink_to(tmp_path / 'elsewhere')
        (parent / 'up').symlink_to(folder)
    found = list_pictures(folder)
    assert found.names == ['class/link/deep/a.png', 'link/deep/a.png'] and found.classes == ['class', 'link']
    assert capsys.readouterr().out == 'Left out: 2 links to parent folders: up, class/up\n'


def test_names_that_are_not_utf8(folder, tmp_path, capsys):
    for name in (b'caf\xe9', b'dog'):
        os.mkdir(os.path.join(os.fsencode(folder), name))
        with open(os.path.join(os.fsencode(folder), name, b'\xff.png'), 'wb') as file:
            Image.new('RGB', (8, 8)).save(file, 'png')
        with open(os.path.join(os.fsencode(folder), name, b'\xff.txt'), 'wb'):
            pass
    status, out, err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert (status, err) == (0, '') and 'Labels: 0 caf\\xe9 (1 images), 1 dog (1 images)' in out
    assert 'Left out: 2 files without the suffix of an image: caf\\xe9/\\xff.txt, dog/\\xff.txt' in out
    out.encode('utf-8')


def test_paths_that_are_not_utf8(folder, tmp_path):
    save(folder / 'a.png')
    folder = os.path.join(os.fsencode(tmp_path), b'im\xe9ges')
    os.rename(tmp_path / 'images', folder)
    for command in ([b'create_from_images', folder, folder + b'.h5'], [b'inspect', folder + b'.h5'],
                    [b'create_from_images', folder + b'.h5', folder], [b'inspect', folder]):
        run = subprocess.run([sys.executable, 'dataset_tool.py', *command], cwd=ROOT, capture_output=True)
        is_mistake = command[-1] == folder
        assert run.returncode == is_mistake and run.stderr.count(b'\n') == is_mistake, run.stderr
        assert is_mistake or b'im\\udce9ges.h5' in run.stdout


@pytest.mark.parametrize('name', ['set.h5', 'text.pdf', 'film.mpg', 'film.mpeg', 'x.grib', 'x.bufr', 'x.wmf',
                                  'Makefile.sgi', 'run.fit', 'slides.ps'])
def test_formats_that_pillow_only_writes_or_recognises_are_no_pictures(name, folder, tmp_path, capsys):
    save(folder / 'a.png')
    (folder / name).write_bytes(b'some bytes of another kind')
    status, out, err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert (status, err) == (0, '') and f'Left out: 1 files without the suffix of an image: {name}\n' in out


def test_messages_about_odd_pictures(folder, tmp_path, capfd):
    Image.new('RGB', (8, 8)).save(folder / 'film.gif', save_all=True, append_images=[Image.new('RGB', (8, 8), 'red')])
    Image.new('RGB', (8, 8), 'red').save(folder / 'photo.jpg', exif=b'Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01')
    status, out, err = run_tool(capfd, 'create_from_images', folder, tmp_path / 'a.h5')
    assert (status, err) == (0, '')
    assert '1 images have several frames or pages; the first one is used: film.gif (2)\n' in out
    assert '1 images use less than 1/25 of their range of values: film.gif (palette)\n' in out
    assert out.count('Warning: photo.jpg: Corrupt EXIF data. Expecting to read 12 bytes but only got 2.\n') == 1


# ----------------------------------------------------------------------------------------------------------------------
# .zip files.


def packed(folder, path, arcname=''):
    with zipfile.ZipFile(path, 'w') as archive:
        for file in sorted(folder.rglob('*')):
            archive.write(file, os.path.join(arcname, file.relative_to(folder)))
    return path


@pytest.mark.parametrize('arcname', ['', 'photos'])
@pytest.mark.parametrize('classes', [False, True])
def test_a_zip_file_is_read_like_a_folder(classes, arcname, folder, tmp_path, capsys):
    for number, name in enumerate(['cat/2.png', 'ant/1.png', 'ant/deep/0.png'] if classes else ['b.png', 'a.png']):
        save(folder / name, number * 50)
    (folder / '.DS_Store').write_text('')
    (folder / 'notes.txt').write_text('')
    (folder / '__MACOSX').mkdir()
    (folder / '__MACOSX' / '._a.png').write_text('')
    path = packed(folder, tmp_path / 'photos.zip', arcname)
    status, out, err = run_tool(capsys, 'create_from_images', tmp_path / 'zip.h5', path)
    assert (status, err) == (0, '') and 'Left out: 1 files without the suffix of an image: notes.txt\n' in out
    (folder / '__MACOSX' / '._a.png').unlink()
    assert run_tool(capsys, 'create_from_images', folder, tmp_path / 'folder.h5')[0] == 0
    assert (tmp_path / 'zip.h5').read_bytes() == (tmp_path / 'folder.h5').read_bytes()
    assert (tmp_path / 'zip-labels.npy').exists() == classes


def test_zip_files_that_are_broken(folder, tmp_path, capsys):
    save(folder / 'a.png')
    path = packed(folder, tmp_path / 'a.zip')
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    status, _out, err = run_tool(capsys, 'create_from_images', path, tmp_path / 'a.h5')
    assert status == 1 and 'a.png (broken: Bad CRC-32' in err and err.count('\n') == 1
    path.write_bytes(content[:100])
    status, _out, err = run_tool(capsys, 'create_from_images', path, tmp_path / 'a.h5')
    assert status == 1 and 'give a folder of images, or a .zip file' in err and err.count('\n') == 1
    assert sorted(os.listdir(tmp_path)) == ['a.zip', 'images']


# ----------------------------------------------------------------------------------------------------------------------
# dataset.json.


def make_stylegan_folder(folder, labels):
    for number in range(4):
        save(folder / f'0000{number // 2}' / f'img{number}.png', number * 10)
    (folder / 'dataset.json').write_text(json.dumps({'labels': labels}))


NAMES = [f'0000{number // 2}/img{number}.png' for number in range(4)]


@pytest.mark.parametrize('labels', [[2, 0, 0, 2], [[0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 0, 1]]])
@pytest.mark.parametrize('as_zip', [False, True])
def test_labels_of_dataset_json(as_zip, labels, folder, tmp_path, capsys):
    make_stylegan_folder(folder, list(reversed(list(zip(NAMES, labels, strict=True)))))
    source = packed(folder, tmp_path / 'a.zip') if as_zip else folder
    status, out, err = run_tool(capsys, 'create_from_images', source, tmp_path / 'a.h5')
    assert (status, err) == (0, '') and 'Left out' not in out
    np.testing.assert_array_equal(np.load(tmp_path / 'a-labels.npy'), np.eye(3)[[2, 0, 0, 2]])
    with h5py.File(tmp_path / 'a.h5') as h5:
        np.testing.assert_array_equal(h5['data8x8'][:, 0, 0, 0], [0, 10, 20, 30])


def test_dataset_json_without_labels(folder, tmp_path, capsys):
    make_stylegan_folder(folder, None)
    status, out, _err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 0 and 'Labels' not in out and not (tmp_path / 'a-labels.npy').exists()


@pytest.mark.parametrize('labels, message', [
    ([[NAMES[0], 0]], 'has no label for 3 of 4 images: 00000/img1.png, 00001/img2.png, 00001/img3.png'),
    ([[name, 'cat'] for name in NAMES], 'must be class numbers from 0, or vectors of equal length'),
    ([[name, -1] for name in NAMES], 'must be class numbers from 0, or vectors of equal length'),
    ([[name, [1] * number] for number, name in enumerate(NAMES)], 'or vectors of equal length'),
    ([1, 2], 'must be a list of [name, label]'),
])
def test_labels_of_dataset_json_that_are_none(labels, message):
    with pytest.raises(UserError) as raised:
        json_labels(json.dumps({'labels': labels}).encode(), NAMES)
    assert str(raised.value).startswith('dataset.json: ') and message in str(raised.value)


def test_other_files_of_that_name(folder, tmp_path, capsys):
    save(folder / 'a.png')
    (folder / 'dataset.json').write_text('[1]')
    status, out, _err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 0 and 'Left out: 1 files without the suffix of an image: dataset.json\n' in out
    (folder / 'dataset.json').write_text('{"labels": [')
    status, _out, err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'b.h5')
    assert status == 1 and 'dataset.json: is not a JSON file' in err and err.count('\n') == 1


def test_labels_without_an_image_are_counted(capsys):
    labels = json_labels(json.dumps({'labels': [['a.png', 1], ['gone.png', 0]]}).encode(), ['a.png'])
    np.testing.assert_array_equal(labels, [[0, 1]])
    assert capsys.readouterr().out == 'Left out: 1 labels of dataset.json without an image: gone.png\n'


def test_images_that_cannot_be_read_are_not_called_broken(folder, tmp_path, capsys):
    save(folder / 'a.png')
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(folder / 'float.tif')
    status, _out, err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5')
    assert status == 1 and '1 of 2 images cannot be used or not 8x8 like most: float.tif (floating-point values' in err
    assert 'broken:' not in err
    status, out, err = run_tool(capsys, 'create_from_images', folder, tmp_path / 'a.h5', '--skip-bad')
    assert (status, err) == (0, '') and 'Wrote 1 images' in out
