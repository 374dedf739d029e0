"""data/celebahq*.py: all arrays recorded with Pillow 3.1.1, libjpeg 8d and NumPy 1; errors for missing or wrong files.

These tests need neither Theano nor NumPy 1.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

import dataset_tool
from common.errors import UserError
from data import celebahq, celebahq_files, pillow_2015
from tests.helpers import GOLDEN, ROOT

FIXTURE = GOLDEN / 'celebahq'
CELEBA, DELTAS = FIXTURE / 'celeba', FIXTURE / 'deltas'
EXPECTED = celebahq_files.Expected(10, 9, '9cface1656b8657bb55f20e3b6187480')
IMAGES = json.loads((FIXTURE / 'steps.json').read_text())
SMALL = '1,3,5'     # Images that are made quickly.

# Only platforms with a wheel of jpeglib have libjpeg 8d.
HAS_WHEEL = (sys.platform, platform.machine()) in [('linux', 'x86_64'), ('darwin', 'arm64'), ('win32', 'AMD64')]
needs_libjpeg_8d = pytest.mark.skipif(not HAS_WHEEL, reason='no wheel of jpeglib for this platform')


def load(name):
    with np.load(FIXTURE / (name + '.npz')) as archive:
        return dict(archive)


def read_entries(celeba_dir=CELEBA, delta_dir=DELTAS, **choice):
    return celebahq_files.read_lists(celeba_dir, delta_dir, expected=EXPECTED, **choice)


@pytest.fixture
def folders(tmp_path):
    """Copies of the folders (CelebA, deltas), which tests may damage."""
    shutil.copytree(FIXTURE, tmp_path / 'fixture')
    return tmp_path / 'fixture' / 'celeba', tmp_path / 'fixture' / 'deltas'


def run(capsys, h5_path, *options, celeba_dir=CELEBA, delta_dir=DELTAS, num_processes=2):
    """(exit status, stdout, stderr) of create_celebahq."""
    argv = ['create_celebahq', h5_path, celeba_dir, delta_dir, '--num_processes', num_processes, *options]
    status = dataset_tool.main([str(arg) for arg in argv])
    return status, *capsys.readouterr()


# ----------------------------------------------------------------------------------------------------------------------
# Single operations.


@pytest.mark.parametrize('case', range(15))
def test_recorded_resize(case):
    arrays = load('unit_resize')
    expected = arrays[f'out{case:02d}']
    result = pillow_2015.resize(arrays[f'in{case:02d}'], (expected.shape[1], expected.shape[0]))
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.uint8


def test_resizing_to_the_same_size_copies():
    image = load('unit_resize')['in00']
    result = pillow_2015.resize(image, (29, 37))
    np.testing.assert_array_equal(result, image)
    assert not np.shares_memory(result, image)


@pytest.mark.parametrize('case', range(9))
def test_recorded_transform(case):
    arrays = load('unit_quad')
    source, quad, expected = (arrays[f'{name}{case:02d}'] for name in ('in', 'quad', 'out'))
    size = expected.shape[1], expected.shape[0]
    np.testing.assert_array_equal(pillow_2015.transform_exactly(source, quad, size), expected)
    fast = pillow_2015.transform_fast(source, quad, size)
    if case in (2, 8):      # Positions on an edge or the centre of a pixel, where the last bit matters.
        assert np.mean(fast != expected) < 0.02
    else:
        np.testing.assert_array_equal(fast, expected)


@pytest.mark.parametrize('exact', [True, False])
@pytest.mark.parametrize('case', range(5))
def test_recorded_padding(case, exact):
    arrays = load('unit_pad')
    steps = {}
    blur = 1024 * 0.02 / float(arrays[f'zoom{case:02d}'])
    result = celebahq.pad_photo(arrays[f'in{case:02d}'], arrays[f'pad{case:02d}'].tolist(), blur, exact,
                                lambda step, image: steps.update({step: image.copy()}))
    np.testing.assert_array_equal(result, arrays[f'out{case:02d}'])
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(steps['mask'], arrays[f'mask{case:02d}'])
    assert {step: image.dtype for step, image in steps.items()} == dict.fromkeys(
        ['padraw', 'mask', 'padblur', 'padmed'], np.float32)


def test_recorded_geometry():
    arrays = load('geometry')
    columns = [name.decode() for name in arrays['ints_columns']]
    for case in range(596):
        plan = celebahq.plan_alignment(arrays['landmarks'][case], tuple(arrays['size'][case].tolist()))
        ints = dict(shrink=plan.shrink, border=plan.border, crop_done=plan.crop_done, superres=plan.superres,
                    pad_done=plan.pad_done, width_before_pad=plan.superres_size[0],
                    height_before_pad=plan.superres_size[1])
        ints.update(zip(['crop_x0', 'crop_y0', 'crop_x1', 'crop_y1'], plan.crop, strict=True))
        ints.update(zip(['pad_left', 'pad_top', 'pad_right', 'pad_bottom'], plan.pad, strict=True))
        assert [ints.pop(name) for name in columns] == arrays['ints'][case].tolist() and not ints
        assert plan.quads['start'].dtype == plan.quads['pad'].dtype == np.float32
        np.testing.assert_array_equal(plan.quads['start'], arrays['quad0'][case])
        np.testing.assert_array_equal((plan.quads['pad'] + np.float32(0.5)).ravel(), arrays['quad_arg'][case])
        assert (plan.zooms['start'], plan.zooms['pad']) == (arrays['zoom0'][case], arrays['zoom'][case])


def test_landmarks_of_no_face():
    with pytest.raises(celebahq.BadImage, match=r'landmarks \[\[7.0, 7.0\].*coincide'):
        celebahq.plan_alignment(np.full((5, 2), 7, np.float32), (100, 100))
    plan = celebahq.plan_alignment(np.float32([[1, 1], [9, 1], [5, 5], [2, 9], [8, 9]]) + 1000, (50, 50))
    with pytest.raises(celebahq.BadImage, match='outside the photo of 50x50'):
        celebahq.align(np.zeros((50, 50, 3), np.uint8), plan)


# ----------------------------------------------------------------------------------------------------------------------
# Whole images.


@pytest.mark.slow
@needs_libjpeg_8d
@pytest.mark.parametrize('recorded', IMAGES, ids=lambda recorded: recorded['orig_file'])
def test_recorded_steps(recorded):
    """All recorded arrays of an image. Images with a large blur use the fast method, as the exact one is slow."""
    entry = read_entries()[recorded['idx']]
    assert entry[:5] == tuple(recorded[name] for name in ('idx', 'orig_idx', 'orig_file', 'proc_md5', 'final_md5'))
    photo = celebahq.decode_jpeg(celebahq.photo_path(CELEBA, entry.orig_file))
    plan = celebahq.plan_alignment(entry.landmarks, (photo.shape[1], photo.shape[0]))
    np.testing.assert_array_equal(plan.quads['start'], np.float32(recorded['quad0']))
    assert plan.zooms['start'] == recorded['zoom0']
    pieces = recorded_pieces(entry.orig_file)
    steps = list(recorded['steps'])

    def check(step, image):
        expected = steps.pop(0)
        assert (step, str(image.dtype), list(image.shape)) == (expected['step'], expected['dtype'], expected['shape'])
        if step not in ('padblur', 'padmed'):   # exp of other C libraries may differ in the last bit of float64.
            assert celebahq.image_md5(image) == expected['md5'], step
        for y, x, piece in pieces.pop(step, []):
            # 2e-5, for the same reason: one or two units in the last place of float32 values up to 255.
            np.testing.assert_allclose(image[y:y + piece.shape[0], x:x + piece.shape[1]], piece, rtol=0,
                                       atol=2e-5 if image.dtype == np.float32 else 0, err_msg=step)
        if 'quad' in expected:
            name = 'pad' if step in ('transform', 'final') else step
            np.testing.assert_array_equal(plan.quads[name], np.float32(expected['quad']))
            assert plan.zooms[name] == expected['zoom']
        for name in {'shrink', 'border', 'superres', 'crop', 'pad'} & set(expected):
            value = getattr(plan, name)
            assert (list(value) if isinstance(value, tuple) else value) == expected[name]
        if 'blur' in expected:
            assert celebahq.SIZE * 0.02 / plan.zooms['pad'] == expected['blur']

    aligned = celebahq.align(photo, plan, exact=max(plan.pad) < 500, record=check)
    assert celebahq.image_md5(aligned.transpose(2, 0, 1)) == recorded['proc_md5']
    assert not steps and not pieces


def recorded_pieces(orig_file):
    """{stage: [(row, column, pixels)]} of the recorded pieces of an image."""
    name = orig_file[:6]
    debug = 'debug_' + name
    arrays = load(debug) if (FIXTURE / (debug + '.npz')).exists() else {
        key[7:]: value for key, value in load('crops').items() if key.startswith(name)}
    pieces = {}
    for key, value in arrays.items():
        step, *place = key.split('_')
        row, column = map(int, place) if place else (0, 0)
        pieces.setdefault(step, []).append((row, column, value))
    assert pieces
    return pieces


@pytest.mark.slow
@needs_libjpeg_8d
def test_the_exact_form_where_the_fast_one_differs(monkeypatch):
    entry = read_entries()[3]
    monkeypatch.setattr(celebahq, 'transform_fast', lambda image, quad, size: np.zeros(size + (3,), np.uint8))
    image, exact = celebahq.make_image(entry, CELEBA, DELTAS)
    assert exact and celebahq.image_md5(image) == entry.final_md5


@needs_libjpeg_8d
def test_a_grey_jpeg_becomes_rgb(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(tmp_path / 'grey.jpg')
    pixels = celebahq.decode_jpeg(tmp_path / 'grey.jpg')
    assert pixels.shape == (8, 8, 3) and (pixels == pixels[..., :1]).all()


# ----------------------------------------------------------------------------------------------------------------------
# Missing and wrong files.


def reason(folders, idx=3):
    celeba_dir, delta_dir = map(str, folders)
    with pytest.raises(celebahq.BadImage) as caught:
        celebahq.make_image(read_entries(celeba_dir, delta_dir)[idx], celeba_dir, delta_dir)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
@needs_libjpeg_8d
def test_wrong_photos_are_explained(folders):
    path = folders[0] / 'img_celeba' / '000001.jpg'
    original = path.read_bytes()
    path.write_bytes(original + b'\0')
    assert reason(folders) == (f'{path}: has the right pixels but other bytes than the original file, which is the '
                               'key to the delta of image 3: its metadata were changed; unpack the original again')
    with Image.open(path) as image:
        image.save(path, quality=95)
    text = reason(folders)
    assert '000001.jpg: is not the photo that image 3 was made from: its aligned image has the MD5 ' in text
    assert f', expected {IMAGES[3]["proc_md5"]}; it is likely from another version of CelebA or was saved again' in text
    Image.new('RGB', (178, 218)).save(path)
    assert '000001.jpg: is one of the aligned 178x218 images' in reason(folders)
    Image.new('RGB', (8, 8)).save(path, 'PNG')
    assert reason(folders) == f'{path}: is not a JPEG file; need the original photo of CelebA "in the wild"'
    path.write_bytes(original[:20000])
    assert '000001.jpg: is damaged (' in reason(folders)
    path.unlink()
    assert reason(folders) == f'{path}: is missing; image 3 needs it'


@needs_libjpeg_8d
def test_wrong_deltas_are_explained(folders):
    path = folders[1] / 'deltas00000.zip'
    with zipfile.ZipFile(path) as archive:
        position = archive.getinfo('delta00003.dat').header_offset
    content = bytearray(path.read_bytes())
    content[position + 1000] ^= 1
    path.write_bytes(content)
    assert reason(folders) == (f'{path}: delta00003.dat cannot be read (Bad CRC-32 for file {"delta00003.dat"!r}); '
                               'download it again')
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('delta00000.dat', b'')
    assert reason(folders) == f'{path}: lacks delta00003.dat, which image 3 needs; download it again'
    path.write_bytes(b'<html>')
    assert 'deltas00000.zip: delta00003.dat cannot be read (File is not a zip file); download it again' in \
        reason(folders)
    path.unlink()
    assert reason(folders) == f'{path}: is missing; image 3 needs it'


@needs_libjpeg_8d
def test_wrong_lists_are_explained(folders, monkeypatch):
    """If the photo is right but the result is not, the error names the list that does not match."""
    zeros = np.zeros((1024, 1024, 3), np.uint8)
    monkeypatch.setattr(celebahq, 'align', lambda photo, plan, exact: zeros)
    assert (f'000001.jpg: is the right photo, but its aligned image has the MD5 {celebahq.image_md5(zeros)}, expected '
            f'{IMAGES[3]["proc_md5"]}: list_landmarks') in reason(folders)
    path = folders[1] / 'image_list.txt'
    path.write_text(path.read_text().replace(IMAGES[3]['proc_md5'], celebahq.image_md5(zeros)))
    assert f', expected {IMAGES[3]["final_md5"]}: image_list.txt and the deltas do not belong together' in \
        reason(folders)


def list_error(folders):
    with pytest.raises(UserError) as caught:
        read_entries(*folders)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_damaged_lists(folders):
    image_list, landmarks = folders[1] / 'image_list.txt', folders[0] / 'Anno' / 'list_landmarks_celeba.txt'
    text = landmarks.read_text()
    landmarks.write_text(text.replace('000005.jpg', '000055.jpg'))
    assert list_error(folders) == (f'{landmarks}: row 4 is 000055.jpg, expected 000005.jpg (image 0 of CelebA-HQ); '
                                   'the list is likely of another version of CelebA')
    landmarks.write_text(text.replace('114  190', '114  x'))
    assert 'the row of 000005.jpg is damaged: need ten numbers, not 114 x 243' in list_error(folders)
    landmarks.write_text(text[:300])
    assert 'does not have as many rows as its first line claims' in list_error(folders)
    landmarks.unlink()
    assert f'{landmarks}: cannot be read (No such file or directory); CELEBA_DIR must be' in list_error(folders)
    text = image_list.read_text()
    image_list.write_text(text[:-10])
    assert 'image_list.txt: line 10 is damaged: ' in list_error(folders)
    image_list.write_text(text.replace('orig_file', 'file'))
    assert 'must name the columns idx orig_idx orig_file proc_md5 final_md5' in list_error(folders)
    image_list.write_bytes(b'\xff')
    assert f'{image_list}: cannot be read (is not text); DELTA_DIR must be' in list_error(folders)


def test_columns_are_found_by_name(folders):
    path = folders[1] / 'image_list.txt'
    rows = [line.split() for line in path.read_text().splitlines()]
    path.write_text('\n'.join(' '.join([*reversed(row), 'more']) for row in rows))
    for entry, expected in zip(read_entries(*folders), read_entries(), strict=True):
        assert entry[:5] == expected[:5]
        np.testing.assert_array_equal(entry.landmarks, expected.landmarks)


def test_choice_of_images():
    assert [entry.idx for entry in read_entries(indices='7, 0-2,1')] == [0, 1, 2, 7]
    assert [entry.idx for entry in read_entries(num_images=2)] == [0, 1]
    for choice, message in [
            ({'indices': '0-9'}, "--indices 0-9: '0-9' is not a number or range within 0-8; example: 0-99,205"),
            ({'indices': '3-1'}, "--indices 3-1: '3-1' is not a number"),
            ({'indices': '1,'}, "--indices 1,: '' is not a number"),
            ({'indices': '-1'}, "--indices -1: '-1' is not a number"),
            ({'num_images': 10}, '--num_images 10: must be from 1 to 9'),
            ({'num_images': 0}, '--num_images 0: must be'),
            ({'num_images': 1, 'indices': '1'}, '--indices and --num_images: both select images')]:
        with pytest.raises(UserError) as caught:
            read_entries(**choice)
        assert message in str(caught.value)


@needs_libjpeg_8d
def test_the_first_photo_is_decoded_first(folders, capsys):
    celebahq_files.check_decoder(CELEBA, EXPECTED)
    assert capsys.readouterr() == ('', '')
    celebahq_files.check_decoder(CELEBA)
    assert 'decodes to the MD5 9cface1656b8657bb55f20e3b6187480, expected the MD5 9cad8178d6cb0196b36f7b34bc5eb6d3' in \
        capsys.readouterr().err
    path = folders[0] / 'img_celeba' / '000001.jpg'
    path.write_bytes(b'')
    celebahq_files.check_decoder(folders[0])
    assert '000001.jpg: cannot be decoded as JPEG (' in capsys.readouterr().err
    path.unlink()
    celebahq_files.check_decoder(folders[0])
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize('package', ['jpeglib', 'cryptography.fernet'])
def test_a_package_is_missing(package, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    status, _, stderr = run(capsys, tmp_path / 'a.h5')
    assert status == 1 and stderr.count('\n') == 1 and 'pip install ' + package.split('.')[0] in stderr
    assert os.listdir(tmp_path) == []


# ----------------------------------------------------------------------------------------------------------------------
# The command create_celebahq.


@pytest.fixture(scope='module')
def small_file(tmp_path_factory):
    """The dataset of SMALL, made without interruption."""
    h5_path = tmp_path_factory.mktemp('small') / 'a.h5'
    assert dataset_tool.main(['create_celeba_hq', str(h5_path), str(CELEBA), str(DELTAS), '--indices', SMALL]) == 0
    return h5_path.read_bytes()


@pytest.mark.slow
@needs_libjpeg_8d
def test_all_images_and_stages(tmp_path, capsys):
    h5_path, stages = tmp_path / 'new' / 'hq.h5', tmp_path / 'stages'
    status, stdout, stderr = run(capsys, h5_path, '--save_stages', stages)
    assert (status, stdout) == (0, f'Wrote 12 steps of 000005.jpg to {stages}\nWrote 9 images to {h5_path}\n')
    assert stderr.count('Warning: ') == 3   # Both numbers and the first photo differ from the real dataset.
    assert os.listdir(tmp_path / 'new') == ['hq.h5']
    with h5py.File(h5_path) as h5:
        assert sorted(h5) == sorted(f'data{1 << level}x{1 << level}' for level in range(11))
        images = h5['data1024x1024'][:]
    assert [celebahq.image_md5(image) for image in images] == [recorded['final_md5'] for recorded in IMAGES]

    recorded = {step['step']: step['md5'] for step in IMAGES[0]['steps']}
    steps = ['decoded', 'crop', 'superres', 'padraw', 'mask', 'padblur', 'padmed', 'pad', 'region', 'transform',
             'final', 'delta']
    assert sorted(os.listdir(stages)) == ['%02d-%s.png' % item for item in enumerate(steps)]
    pictures = {step: np.asarray(Image.open(stages / f'{number:02d}-{step}.png'))
                for number, step in enumerate(steps)}
    for step in ('decoded', 'crop', 'superres', 'pad', 'transform', 'final'):
        assert celebahq.image_md5(pictures[step]) == recorded[step]
    np.testing.assert_array_equal(pictures['delta'], images[0].transpose(1, 2, 0))
    np.testing.assert_array_equal(pictures['padmed'], pictures['pad'])
    assert pictures['mask'][0, 0] == 255 and pictures['mask'][800, 800] == 0
    drawn = (pictures['region'] != pictures['pad']).any(axis=2)
    assert 0 < drawn.mean() < 0.05 and drawn[1327 - 2:1327 + 3, 1111 - 2:1111 + 3].any()    # The lower right corner.


@pytest.mark.slow
@needs_libjpeg_8d
def test_bad_files_do_not_stop_the_others(small_file, folders, tmp_path, capsys):
    celeba_dir, delta_dir = folders
    h5_path, work_dir = tmp_path / 'a.h5', tmp_path / 'a.h5.images'
    missing, wrong = celeba_dir / 'img_celeba' / '000001.jpg', celeba_dir / 'img_celeba' / '000004.jpg'
    kept = missing.read_bytes(), wrong.read_bytes()
    missing.unlink()
    wrong.write_bytes(b'no photo')
    for unneeded in ('000003', '000006', '000010'):
        (celeba_dir / 'img_celeba' / (unneeded + '.jpg')).unlink()

    def run_small(*options):
        return run(capsys, h5_path, '--indices', SMALL, *options, celeba_dir=celeba_dir, delta_dir=delta_dir)

    status, _, stderr = run_small()
    assert status == 1
    assert f'Bad image: {missing}: is missing; image 3 needs it\n' in stderr
    assert f'Bad image: {wrong}: is damaged (cannot identify image file' in stderr
    assert stderr.splitlines()[-1] == (
        'dataset_tool.py: error: 2 of 3 images cannot be made, for the reasons above: 000001.jpg, 000004.jpg; '
        f'{work_dir} keeps the others; correct the files and add --resume, or add --resume --skip-bad to make a '
        'dataset without these images')
    assert os.listdir(work_dir) == ['image00001.png'] and not h5_path.exists()

    status, _, stderr = run_small()
    assert status == 1 and f'{work_dir}: holds 1 finished images of an interrupted run; add --resume' in stderr

    missing.write_bytes(kept[0])
    finished = work_dir / 'image00001.png'
    before = finished.stat().st_mtime_ns
    (work_dir / 'image00003.png.host-1-0.tmp').write_bytes(b'half')     # A killed process left it.
    status, _, stderr = run_small('--resume')
    assert status == 1 and '1 of 3 images cannot be made, for the reasons above: 000004.jpg;' in stderr
    assert sorted(os.listdir(work_dir)) == ['image00001.png', 'image00003.png'] and not h5_path.exists()
    assert finished.stat().st_mtime_ns == before

    status, stdout, _ = run_small('--resume', '--skip-bad')
    assert status == 0 and 'Left out: 1 of 3 images cannot be made' in stdout and 'Wrote 2 images' in stdout
    with h5py.File(h5_path) as h5:
        assert [celebahq.image_md5(image) for image in h5['data1024x1024']] == [
            IMAGES[idx]['final_md5'] for idx in (1, 3)]
    assert not work_dir.exists()

    status, _, stderr = run_small('--resume')
    assert status == 1 and 'exists; choose another name, or add --force' in stderr
    wrong.write_bytes(kept[1])
    assert run_small('--force')[0] == 0
    assert h5_path.read_bytes() == small_file


@pytest.mark.slow
@pytest.mark.timeout(900)     # The test waits for processes.
@needs_libjpeg_8d
def test_a_killed_run_can_be_resumed(small_file, tmp_path, capsys):
    """After a kill, no process remains; the next call keeps finished images and writes the same file."""
    h5_path, work_dir = tmp_path / 'a.h5', tmp_path / 'a.h5.images'
    command = [sys.executable, ROOT / 'dataset_tool.py', 'create_celebahq', h5_path, CELEBA, DELTAS]
    process = subprocess.Popen([*map(str, command), '--indices', SMALL, '--num_processes', '1'],
                               stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (work_dir / 'image00001.png').exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stderr.read()       # Blocks until all child processes have ended.
    process.stderr.close()
    finished = [path for path in sorted(work_dir.iterdir()) if path.suffix == '.png']
    assert not h5_path.exists() and 1 <= len(finished) < 3
    before = [path.stat().st_mtime_ns for path in finished]
    with open(finished[0], 'r+b') as png_file:      # The next call must detect the damage and make the image again.
        png_file.seek(1000)
        png_file.write(bytes(1000))
    os.utime(finished[0], ns=(before[0], before[0]))
    os.remove(work_dir / 'image00005.png') if len(finished) == 3 else None
    status, stdout, stderr = run(capsys, h5_path, '--indices', SMALL, '--resume')
    assert status == 0 and f'{len(finished)} of 3 images are already finished\n' in stdout
    assert f'Warning: {finished[0]}: is damaged; making it again' in stderr
    assert h5_path.read_bytes() == small_file


@pytest.mark.slow
@needs_libjpeg_8d
def test_force_starts_over(small_file, tmp_path, capsys):
    h5_path, work_dir = tmp_path / 'a.h5', tmp_path / 'a.h5.images'
    work_dir.mkdir()
    (work_dir / 'image00001.png').write_bytes(b'of another run')
    (work_dir / 'notes.txt').write_text('mine')
    status, stdout, _ = run(capsys, h5_path, '--indices', SMALL, '--force')
    assert status == 0 and 'already finished' not in stdout and h5_path.read_bytes() == small_file
    assert os.listdir(work_dir) == ['notes.txt']


@needs_libjpeg_8d
def test_hopeless_runs_end(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(celebahq_files, 'HOPELESS_IMAGES', 2)
    for path in (folders[0] / 'img_celeba').iterdir():
        path.write_bytes(b'no photo')
    options = dict(celeba_dir=folders[0], delta_dir=folders[1])
    status, _, stderr = run(capsys, tmp_path / 'a.h5', **options)
    assert status == 1 and 'error: the first 2 images all failed, the last one: ' in stderr
    shutil.rmtree(folders[0] / 'img_celeba')
    status, _, stderr = run(capsys, tmp_path / 'a.h5', **options)
    assert status == 1
    assert '000005.jpg: is missing; image 0 needs it; the files of all other images are missing, too' in stderr


@needs_libjpeg_8d
def test_a_process_is_killed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(celebahq_files, 'start_worker', os.abort)
    status, _, stderr = run(capsys, tmp_path / 'a.h5', '--indices', SMALL, num_processes=1)
    assert status == 1 and 'error: a process was killed, likely for lack of memory: each of the 1 takes' in stderr


@needs_libjpeg_8d
def test_options_that_cannot_be(tmp_path, capsys):
    status, _, stderr = run(capsys, tmp_path / 'a.h5', num_processes=0)
    assert status == 1 and '--num-processes 0: must be a whole number from 1' in stderr
    (tmp_path / 'file').touch()
    status, _, stderr = run(capsys, tmp_path / 'a.h5', '--save_stages', tmp_path / 'file')
    assert status == 1 and f'--save_stages {tmp_path / "file"}: cannot be made (File exists)' in stderr
    status, _, stderr = run(capsys, tmp_path / 'file' / 'a.h5')
    assert status == 1 and 'a.h5.images: cannot be made (Not a directory); choose another place' in stderr
