"""runs.projection: the target picture is read as by create_from_images; other files are one-line errors."""

import os
import struct

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.image_folder import load_image
from runs.projection import load_target


class Generator:
    """The attributes of a network that :func:`load_target` uses."""

    def __init__(self, channels):
        self.output_shape = [None, channels, 16, 16]


def pictures():
    half = np.zeros((16, 20, 3), np.uint8)
    half[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[4:12, 4:12, 3] = 255
    return {'rotated': (Image.fromarray(half), {'exif': exif}), 'black on transparent': (Image.fromarray(ink), {}),
            '16 bit': (Image.fromarray(np.full((16, 16), 100 * 257, np.uint16)), {})}


@pytest.mark.parametrize('mode, channels', [('RGB', 3), ('L', 1)])
@pytest.mark.parametrize('name', pictures())
def test_targets_are_read_like_images_of_data_sets(name, mode, channels, tmp_path):
    image, options = pictures()[name]
    image.save(tmp_path / 'a.png', **options)
    target = np.rint((load_target(str(tmp_path / 'a.png'), Generator(channels)) + 1) * 127.5)
    np.testing.assert_array_equal(target, load_image(tmp_path / 'a.png', 16, 'center', mode))
    assert {'rotated': (target[:, :, 8:] == 255).all() and not target[:, :, :8].any(),
            'black on transparent': (target[:, :4] == 255).all() and not target[:, 4:12, 4:12].any(),
            '16 bit': (target == 100).all()}[name]


def test_colours_that_become_grey_are_reported(tmp_path, capsys):
    Image.new('RGB', (16, 16), 'red').save(tmp_path / 'a.png')
    load_target(str(tmp_path / 'a.png'), Generator(3))
    assert capsys.readouterr().out == ''
    load_target(str(tmp_path / 'a.png'), Generator(1))
    told = f'{tmp_path / "a.png"}: converted to grey, as the network makes grey images\n'
    assert capsys.readouterr().out == told


@pytest.mark.parametrize('content, message', [
    (b'BM' + struct.pack('<IIIIiiHHIIIIII', 54, 0, 54, 40, 100000, 100000, 1, 24, 0, 0, 0, 0, 0, 0), 'too large: '),
    (b'DDS ' + struct.pack('<7I', 124, 0x1007, 8, 8, 0, 0, 0) + bytes(44) + struct.pack('<8I', 32, 8, *[0] * 6)
     + bytes(20), 'broken: not in a supported image format'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n', 'broken: not in a supported image format'),
])
def test_files_that_are_no_pictures_are_one_line_errors(content, message, tmp_path):
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(UserError) as raised:
        load_target(str(tmp_path / 'a.png'), Generator(3))
    line = str(raised.value)
    assert message in line and str(tmp_path / 'a.png') in line and '\n' not in line


def test_pipes_and_folders_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / 'pipe.png')
    for path in (tmp_path / 'pipe.png', tmp_path):
        with pytest.raises(UserError, match='is not a file; give a picture'):
            load_target(str(path), Generator(3))
