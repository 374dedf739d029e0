"""lsun: recorded databases; broken records; truncated, damaged and missing databases."""

import io
import os
import subprocess
import sys

import h5py
import lmdb
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data import lsun
from tests.helpers import GOLDEN, ROOT, check_h5_file, load_golden, run_tool

ARRAYS, META = load_golden('h5tool_lsun')
DECODED = [ARRAYS[f'decoded_rgb_{list(ARRAYS["keys"]).index(key)}'] for key in META['cursor_order']]


def write_lmdb(folder, records):
    folder.mkdir(exist_ok=True)
    with lmdb.open(str(folder), map_size=1 << 24) as env, env.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key.encode(), value)
    return folder


RECORDS = {str(key): ARRAYS[f'value_{index}'].tobytes() for index, key in enumerate(ARRAYS['keys'])}


@pytest.fixture
def lmdb_dir(tmp_path):
    return write_lmdb(tmp_path / 'bedroom_lmdb', RECORDS)


def encoded(image, image_format='png', **kwargs):
    file = io.BytesIO()
    image.save(file, image_format, **kwargs)
    return file.getvalue()


def image_of_class(size, value):
    return Image.fromarray(np.full((size, size, 3), value, np.uint8))


@pytest.mark.parametrize('key, argv', [('lsun_r32', ['--resolution', 32]),
                                       ('lsun_r64_max5', ['--resolution', 64, '--max_images', 5])])
def test_the_recorded_datasets(key, argv, lmdb_dir, tmp_path, capsys):
    h5_path = tmp_path / 'a.h5'
    num = len(ARRAYS[key + '_order_in_file'])
    assert run_tool(capsys, 'create_lsun', lmdb_dir, h5_path, *argv) == (
        0, f'Wrote {num} images to {h5_path}\n', '')
    check_h5_file(h5_path, (ARRAYS, META), key)


def test_records_are_decoded_as_recorded(lmdb_dir):
    """JPEG, WebP, grey images and images with an alpha channel, cropped to the largest square, equal the recording."""
    for key, (name, value), decoded in zip(META['cursor_order'], sorted(RECORDS.items()), DECODED, strict=True):
        side = min(decoded.shape[:2])
        top, left = ((length - side) // 2 for length in decoded.shape[:2])
        image = lsun.decode_record((key.encode(), value), side)
        assert key == name
        np.testing.assert_array_equal(image.transpose(1, 2, 0), decoded[top:top + side, left:left + side])


def test_any_range_can_be_read(lmdb_dir):
    source = lsun.lsun(lmdb_dir, 32)
    assert (source.num_images, source.resolution, source.channels, source.labels) == (8, 32, 3, None)
    whole = np.concatenate(list(source.images(0, 8)))
    for start, stop in [(0, 3), (3, 8), (7, 8), (2, 2)]:
        parts = list(source.images(start, stop))
        np.testing.assert_array_equal(np.concatenate(parts) if parts else whole[:0], whole[start:stop])


def test_the_default_resolution_is_the_paper_s(lmdb_dir):
    assert lsun.lsun(lmdb_dir).resolution == 256 and lsun.lsun(lmdb_dir, max_images=100).num_images == 8


def test_broken_records_are_left_out_and_counted(tmp_path, capsys):
    records = {f'k{number:03d}': encoded(image_of_class(8, number)) for number in range(100)}
    records['k003'], records['k050'], records['k099'] = b'', b'no image', records['k099'][:-40]
    folder = write_lmdb(tmp_path / 'lmdb', records)
    status, out, err = run_tool(capsys, 'create_lsun', folder, tmp_path / 'a.h5', '--resolution', 8)
    assert (status, err) == (0, '') and 'Left out: 3 of 100 records cannot be decoded: k003 (' in out
    assert 'k050 (' in out and 'k099 (' in out and 'Wrote 97 images' in out
    with h5py.File(tmp_path / 'a.h5') as h5:
        np.testing.assert_array_equal(h5['data8x8'][:, 0, 0, 0], sorted(set(range(100)) - {3, 50, 99}))
    folder = write_lmdb(tmp_path / 'broken', {'a': b'x', 'b': b'y'})
    status, out, err = run_tool(capsys, 'create_lsun', folder, tmp_path / 'b.h5', '--resolution', 8)
    assert status == 1 and '2 of 2 records' in out and 'no images were added' in err


def test_photos_that_lie_on_their_side_are_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6    # Orientation: must be rotated clockwise.
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    image = lsun.decode_record((b'', encoded(Image.fromarray(pixels), exif=exif)), 8)
    np.testing.assert_array_equal(image.transpose(1, 2, 0), np.rot90(pixels, -1))


def check_message(capsys, folder, tmp_path, *messages):
    status, _out, err = run_tool(capsys, 'create_lsun', folder, tmp_path / 'a.h5')
    assert status == 1 and err.count('\n') == 1 and not (tmp_path / 'a.h5').exists(), err
    for message in messages:
        assert message in err


def test_folders_that_are_no_databases(tmp_path, capsys):
    check_message(capsys, tmp_path / 'none', tmp_path, "none': has no data.mdb; give the unpacked folder")
    write_lmdb(tmp_path / 'bedroom_val_lmdb', {})
    check_message(capsys, tmp_path, tmp_path, 'has no data.mdb, only the folders bedroom_val_lmdb; give')
    check_message(capsys, tmp_path / 'bedroom_val_lmdb', tmp_path, 'has no records')
    for content in (b'', b'text', bytes(100000)):
        (tmp_path / 'bedroom_val_lmdb' / 'data.mdb').write_bytes(content)
        check_message(capsys, tmp_path / 'bedroom_val_lmdb', tmp_path, 'data.mdb: cannot be read (')


def read_in_another_process(tmp_path, variants):
    """Read databases; return the error message or the number of images for each.

A child process reads them, because reading beyond the end of a file would kill the process.
    """
    for number, content in enumerate(variants):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / 'data.mdb').write_bytes(content)
    script = f'''
import os, sys
from common.errors import UserError
from data import lsun
for number in range({len(variants)}):
    try:
        source = lsun.lsun(os.path.join(sys.argv[1], str(number)), 32)
        result = sum(map(len, source.images(0, source.num_images)))
    except UserError as error:
        result = error
    print("RESULT", result)
'''
    result = subprocess.run([sys.executable, '-c', script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, '')
    results = [line.removeprefix('RESULT ') for line in result.stdout.splitlines() if line.startswith('RESULT ')]
    assert len(results) == len(variants)
    return results


def test_a_database_that_is_cut_off(lmdb_dir, tmp_path):
    whole = (lmdb_dir / 'data.mdb').read_bytes()
    lengths = [100, 5000, *range(10000, len(whole), 5000), len(whole) - 4096, len(whole) - 1]
    results = read_in_another_process(tmp_path, [whole[:length] for length in lengths])
    for result in results:
        assert 'data.mdb: ' in result and result.endswith('; unpack or download it again')
    assert f'is cut off: has {len(whole) - 1} of {len(whole)} bytes;' in results[-1]


def test_a_damaged_database(lmdb_dir, tmp_path):
    """Damage to any page gives an error, a skipped record or no problem, but never a crash."""
    whole = (lmdb_dir / 'data.mdb').read_bytes()
    variants = [whole[:start] + b'\xff' * 4096 + whole[start + 4096:] for start in range(8192, len(whole), 4096)]
    results = read_in_another_process(tmp_path, [whole, *variants])
    assert results[0] == '8'
    assert any(result.endswith('; unpack or download it again') for result in results)
    assert any(result in ('6', '7') for result in results)


def test_the_filter_is_the_recorded_one():
    """The filter passes the cases of CelebA-HQ: small and large; up, down, and up in one direction only."""
    with np.load(GOLDEN / 'celebahq' / 'unit_resize.npz') as cases:
        names = [name for name in cases if name.startswith('in')]
        assert len(names) == 15
        for name in names:
            image, resized = cases[name], cases['out' + name[2:]]
            np.testing.assert_array_equal(lsun.resize(image, (resized.shape[1], resized.shape[0])), resized)


@pytest.mark.parametrize('kwargs, message', [
    ({'resolution': 100}, '--resolution 100: must be a power of two'), ({'resolution': 0}, '--resolution 0: must be'),
    ({'max_images': 0}, '--max-images 0: must be at least 1'), ({'max_images': -3}, '--max-images -3: must be'),
])
def test_impossible_options(kwargs, message, lmdb_dir):
    with pytest.raises(UserError, match=message):
        lsun.lsun(lmdb_dir, **kwargs)


def test_without_the_package_for_lmdb(lmdb_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    check_message(capsys, lmdb_dir, tmp_path, 'pip install lmdb')


def test_the_database_is_not_changed(lmdb_dir, tmp_path, capsys):
    before = {name: (lmdb_dir / name).read_bytes() for name in os.listdir(lmdb_dir)}
    assert run_tool(capsys, 'create_lsun', lmdb_dir, tmp_path / 'a.h5', '--resolution', 8)[0] == 0
    assert {name: (lmdb_dir / name).read_bytes() for name in os.listdir(lmdb_dir)} == before
