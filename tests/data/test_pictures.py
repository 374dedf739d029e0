"""pictures: all kinds of pictures that are not 8 bit RGB; the errors for pictures that are refused."""

import ast
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from data import pictures
from data.pictures import PictureError, as_array, picture_kind, printable, read_picture
from tests.helpers import ROOT

SIDE = 64


def png(width, height, bits, colour, extra, row):
    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, 0))
            + b''.join(chunk(*item) for item in extra) + chunk(b'IDAT', zlib.compress((b'\0' + row) * SIDE))
            + chunk(b'IEND', b''))


def tiff(data, bits, samples=1, sample_format=1, photometric=1, compression=1, more=()):
    tags = [(256, 3, 1, SIDE), (257, 3, 1, SIDE), (258, 3, samples, bits), (259, 3, 1, compression),
            (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, samples), (278, 3, 1, SIDE), (279, 4, 1, len(data)),
            *more, *([(339, 3, 1, sample_format)] if sample_format != 1 else [])]
    return (b'II*\0' + struct.pack('<I', 8 + len(data)) + data + struct.pack('<H', len(tags))
            + b''.join(struct.pack('<HHII', *tag) for tag in tags) + bytes(4))


def encoded(image, kind='png', **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey_of(content):
    image, kind = read_picture(content)
    assert image.mode == 'L' and image.size == (SIDE, SIDE) and kind.is_grey
    return np.asarray(image).astype(int)


RAMP = [x * 4095 // 63 for x in range(SIDE)]
TWELVE_BITS = b''.join(struct.pack('>I', a << 12 | b)[1:] for a, b in zip(RAMP[::2], RAMP[1::2], strict=True)) * SIDE


@pytest.mark.parametrize('content, expected', [
    (tiff(bytes(v for y in range(SIDE) for x in range(SIDE) for v in (x * 2, 128 + y)), 8 | 8 << 16, 2,
          more=[(338, 3, 1, 1)]),
     np.clip(np.arange(SIDE) * 2 + 127 - np.arange(SIDE)[:, np.newaxis], 0, 255)),
    (tiff(TWELVE_BITS, 12), np.rint(np.array(RAMP) / 4095 * 255)),
    (tiff(struct.pack('<64H', *(1040 * x for x in range(SIDE))) * SIDE, 16), np.rint(1040 * np.arange(SIDE) / 257)),
    (tiff(struct.pack('<64H', *(1040 * x for x in range(SIDE))) * SIDE, 16, photometric=0),
     255 - np.rint(1040 * np.arange(SIDE) / 257)),
    (b'P5 64 64 4095\n' + struct.pack('>64H', *RAMP) * SIDE, np.rint(np.array(RAMP) / 4095 * 255)),
    (png(SIDE, SIDE, 16, 0, [(b'tRNS', struct.pack('>H', 1000))], struct.pack('>64H', *[1000] * 32 + [30000] * 32)),
     np.array([255] * 32 + [117] * 32)),
    (png(SIDE, SIDE, 2, 0, [(b'tRNS', b'\0\1')], bytes([0b01010101] * 8 + [0b10101010] * 8)),
     np.array([255] * 32 + [170] * 32)),
    (png(SIDE, SIDE, 4, 0, [(b'tRNS', b'\0\3')], bytes([0x33] * 16 + [0xaa] * 16)), np.array([255] * 32 + [170] * 32)),
    (png(SIDE, SIDE, 1, 0, [(b'tRNS', b'\0\0')], bytes(8)), np.full(SIDE, 255)),
    (png(SIDE, SIDE, 8, 0, [(b'tRNS', b'\0\7')], bytes([7] * 32 + [8] * 32)), np.array([255] * 32 + [8] * 32)),
], ids=['premultiplied', '12 bit', '16 bit', '16 bit, zero is white', '12 bit PGM', '16 bit tRNS', '2 bit tRNS',
        '4 bit tRNS', '1 bit tRNS', '8 bit tRNS'])
def test_grey(content, expected):
    assert isinstance(picture_kind(content), pictures.ImageKind)
    np.testing.assert_array_equal(grey_of(content), np.broadcast_to(expected, (SIDE, SIDE)))
    np.testing.assert_array_equal(np.asarray(read_picture(content, 'RGB')[0])[..., 1], grey_of(content))


def test_transparency_of_16_bit_colours():
    row = struct.pack('>192H', *[1000, 2000, 3000] * 32 + [9000, 0, 65535] * 32)
    content = png(SIDE, SIDE, 16, 2, [(b'tRNS', struct.pack('>3H', 1000, 2000, 3000))], row)
    pixels = np.asarray(read_picture(content)[0])
    assert (pixels[:, :32] == 255).all() and (pixels[:, 32:] == (35, 0, 255)).all()


@pytest.mark.parametrize('bits, data, sample_format, message', [
    (32, bytes(4 * SIDE * SIDE), 1, '32 bit integers of unknown range'),
    (32, bytes(4 * SIDE * SIDE), 2, 'signed 32 bit integers of unknown range'),
    (16, bytes(2 * SIDE * SIDE), 2, 'signed 16 bit integers of unknown range'),
    (8, bytes(SIDE * SIDE), 2, 'signed 8 bit integers of unknown range'),
    (32, bytes(4 * SIDE * SIDE), 3, 'floating-point values of unknown range'),
])
def test_values_whose_range_is_not_known(bits, data, sample_format, message):
    content = tiff(data, bits, sample_format=sample_format)
    assert picture_kind(content) == message
    with pytest.raises(PictureError, match=message):
        read_picture(content)


IDAT = [(b'zTXt', b'a\0\0' + zlib.compress(bytes(2 << 20)))]


@pytest.mark.parametrize('content, reason', [
    (png(20000, 20000, 8, 0, [], b'\0'), 'too large: Image size (400000000 pixels)'),
    (b'BM' + struct.pack('<IIIIiiHHIIIIII', 54, 0, 54, 40, 100000, 100000, 1, 24, 0, 0, 0, 0, 0, 0), 'too large: '),
    (png(1, 1, 8, 0, IDAT, b'\0'), 'cannot be read: Decompressed data too large'),
    (tiff(bytes(SIDE * SIDE), 8, compression=50001), 'cannot be read: decoder error -2 (WEBP compression support is'),
    (tiff(bytes(8 * SIDE * SIDE), 64), 'cannot be read: unknown pixel mode'),
    (b'II*\0\xff\xff\xff\xff', 'broken: '),
    (b'', 'broken: not in a supported image format'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n', 'broken: not in a supported image format'),
    (encoded(Image.new('RGB', (64, 64)))[:60], 'broken: '),
    ('/none/such.png', 'cannot be read: No such file or directory'),
    (os.path.dirname(__file__), 'cannot be read: Is a directory'),
])
def test_reasons_have_one_line(content, reason, capfd):
    found = picture_kind(content)
    assert found.startswith(reason) and '\n' not in found
    assert capfd.readouterr() == ('', '')


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    """A PostScript file with the name of a picture is refused. Pillow would start Ghostscript."""
    (tmp_path / 'gs').write_text(f'#!/bin/sh\ntouch {tmp_path}/started\n')
    (tmp_path / 'gs').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    (tmp_path / 'cat.jpg').write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n')
    code = f'from data.pictures import picture_kind; print(picture_kind({str(tmp_path / "cat.jpg")!r}))'
    run = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == 'broken: not in a supported image format\n' and not (tmp_path / 'started').exists()


def test_all_that_opens_pictures_names_their_formats():
    calls = [(path.name, call) for path in ROOT.rglob('*.py') if not {'tests', 'benchmarks', '.venv', 'build'} & set(
        path.relative_to(ROOT).parts) for call in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == 'Image.open']
    assert len(calls) >= 5
    assert not [(name, ast.unparse(call)) for name, call in calls
                if 'formats' not in {keyword.arg for keyword in call.keywords}]


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'webp', 'avif', 'tiff', 'bmp', 'dib', 'gif', 'jpeg2000', 'ppm', 'tga'])
def test_the_formats_of_the_docs_are_read(kind):
    pixels = np.full((SIDE, SIDE, 3), (0, 51, 204), np.uint8)
    image, found = read_picture(encoded(Image.fromarray(pixels), kind))
    assert image.mode == 'RGB' and found.size == '64x64'
    np.testing.assert_allclose(np.asarray(image), pixels, atol=3)


@pytest.mark.parametrize('content', [
    encoded(Image.new('RGB', (8, 8)), 'sgi'), encoded(Image.new('RGB', (8, 8)), 'pcx'),
    encoded(Image.new('RGB', (8, 8)), 'eps'), encoded(Image.new('RGB', (8, 8)), 'im')], ids=['sgi', 'pcx', 'eps', 'im'])
def test_other_formats_are_not(content):
    assert picture_kind(content) == 'broken: not in a supported image format'


@pytest.mark.parametrize('orientation', range(1, 9))
def test_all_orientations(orientation):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    turn = [None, lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, np.transpose, lambda a: np.rot90(a, -1),
            lambda a: np.rot90(a, 2).T, np.rot90][orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ('png', 'tiff'):
        image, found = read_picture(encoded(Image.fromarray(pixels), kind, exif=exif))
        np.testing.assert_array_equal(np.asarray(image), turn(pixels), kind)
        assert (found.height, found.width) == turn(pixels).shape


@pytest.mark.parametrize('kind', ['gif', 'png', 'webp', 'tiff'])
def test_the_first_of_several_frames_is_used_and_the_number_reported(kind):
    frames = [Image.new('RGB', (SIDE, SIDE), (value, 0, 255)) for value in (0, 100, 200)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert picture_kind(content).frames == 3
    np.testing.assert_allclose(np.asarray(read_picture(content)[0]), np.asarray(frames[0]), atol=3)
    assert picture_kind(encoded(frames[0], kind)).frames == 1


@pytest.mark.parametrize('content, says', [
    (png(SIDE, SIDE, 8, 0, [(b'acTL', bytes(8))], bytes(SIDE)), 'Invalid APNG'),
    (encoded(Image.new('RGB', (SIDE, SIDE), 'red'), 'jpeg', exif=b'Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01'),
     'Corrupt EXIF data. Expecting to read 12 bytes but only got 2.'),
    (encoded(Image.new('RGB', (SIDE, SIDE), 'red'), icc_profile=b'rubbish'), 'its colour profile cannot be read'),
])
def test_warnings_are_kept_with_the_picture(content, says, capfd):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        kind = picture_kind(content)
        assert len(kind.warnings) == 1 and kind.warnings[0].startswith(says)
    assert not seen and capfd.readouterr() == ('', '')


def test_warnings_of_others_are_shown_as_ever():
    with pytest.warns(UserWarning, match='of mine'), pictures.collected_warnings() as notes:
        thread = threading.Thread(target=warnings.warn, args=('of mine',))
        thread.start()
        thread.join()
        warnings.warn('of the picture', stacklevel=1)
    assert notes == ['of the picture']


def test_a_palette_with_transparency_is_no_reason_to_warn():
    content = encoded(Image.new('RGB', (8, 8), 'red').quantize(4), transparency=bytes([0, 128, 255, 255]))
    assert picture_kind(content).warnings == ()


def wide_profile():
    """An sRGB profile with red and green swapped, by exchanging the tags of the primaries."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    return profile.replace(b'rXYZ', b'#XYZ').replace(b'gXYZ', b'rXYZ').replace(b'#XYZ', b'gXYZ').replace(
        b's\0R\0G\0B', b'S\0w\0a\0p')


def test_colour_profiles_become_srgb():
    image = Image.new('RGB', (SIDE, SIDE), (200, 40, 40))
    assert picture_kind(encoded(image, icc_profile=ImageCms.ImageCmsProfile(
        ImageCms.createProfile('sRGB')).tobytes())).profile == ''
    content = encoded(image, icc_profile=wide_profile())
    assert picture_kind(content).profile.startswith('Swap')
    np.testing.assert_allclose(np.asarray(read_picture(content)[0]), np.full((SIDE, SIDE, 3), (40, 200, 40)), atol=2)
    np.testing.assert_array_equal(np.asarray(read_picture(content, as_released=True)[0]), np.asarray(image))
    faint = Image.new('RGBA', (SIDE, SIDE), (200, 40, 40, 0))
    assert (np.asarray(read_picture(encoded(faint, icc_profile=wide_profile()))[0]) == 255).all()


def test_a_profile_for_other_colours_is_not_used():
    kind = picture_kind(encoded(Image.new('L', (SIDE, SIDE), 99), icc_profile=wide_profile()))
    assert kind.profile == '' and kind.warnings == ('its colour profile is for RGB and is ignored',)


@pytest.mark.parametrize('image, is_narrow', [
    (Image.new('RGB', (8, 8), (0, 9, 10)), True), (Image.new('RGB', (8, 8), (0, 9, 11)), False),
    (Image.fromarray(np.uint16([[0, 4095]])), True), (Image.fromarray(np.uint16([[0, 4096]])), False),
    (Image.fromarray(np.uint8([[0, 1]])), True),
    (Image.fromarray(np.uint8([[[0, 0, 0, 0], [0, 0, 0, 255]]])), False),       # Black on transparency.
])
def test_pictures_that_use_little_of_their_range(image, is_narrow):
    assert picture_kind(encoded(image)).is_narrow == is_narrow


def test_large_pictures_are_decoded_one_after_the_other(monkeypatch):
    monkeypatch.setattr(pictures, '_PIXEL_BUDGET', pictures._PixelBudget(100))
    at_once, most = [], []
    decode = pictures._decode

    def counting(*args):
        at_once.append(1)
        most.append(len(at_once))
        threading.Event().wait(0.05)
        try:
            return decode(*args)
        finally:
            at_once.pop()

    monkeypatch.setattr(pictures, '_decode', counting)
    for side, together in ((8, 1), (5, 4)):
        most.clear()
        content = encoded(Image.new('L', (side, side)))
        threads = [threading.Thread(target=read_picture, args=(content,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(most) == 6 and max(most) <= together


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='only Linux tells the memory of one process')
def test_two_pictures_of_170_megapixels_stay_under_2_gb(tmp_path):
    Image.new('RGBA', (13000, 13000), 'red').save(tmp_path / 'a.png', compress_level=1)
    code = f"""
import re, threading
from data.pictures import read_picture
threads = [threading.Thread(target=read_picture, args=({str(tmp_path / 'a.png')!r}, 'RGB', 'center', 256))]
threads += [threading.Thread(target=read_picture, args=({str(tmp_path / 'a.png')!r}, 'L'))]
[thread.start() for thread in threads], [thread.join() for thread in threads]
# Not ru_maxrss: that counts what the process was before it started Python, a copy of the test runner.
print(int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) / 2 ** 20)
"""
    run = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 2.0 and run.stderr == ''


def test_memory_that_runs_out_is_named(monkeypatch):
    def fail(*_args):
        raise MemoryError

    monkeypatch.setattr(pictures, '_in_strips', fail)
    content = encoded(Image.new('RGBA', (8, 8)))
    assert picture_kind(content) == 'too large for the free memory; make it smaller, or free some memory'


def test_strips_make_no_difference(monkeypatch):
    content = encoded(Image.fromarray(np.random.RandomState(0).randint(256, size=(37, 29, 4), dtype=np.uint8)))
    whole = as_array(read_picture(content)[0])
    monkeypatch.setattr(pictures, 'STRIP_PIXELS', 100)
    np.testing.assert_array_equal(as_array(read_picture(content)[0]), whole)


def test_names_on_one_line():
    assert printable('caf\udce9\n.png') == 'caf\\xe9\\n.png' and printable('Käse 猫.png') == 'Käse 猫.png'
