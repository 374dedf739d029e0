"""misc: recorded images, times and ramps; files and folders that survive kills and races."""

import concurrent.futures
import json
import os
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from common.console import OutputLogger, format_time
from common.errors import UserError, exit_status
from common.files import atomic_write, remove_stale_temporaries, save_pkl
from common.images import (
    adjust_dynamic_range,
    convert_to_pil_image,
    create_image_grid,
    save_image,
    save_image_grid,
    snapshot_grid_size,
)
from nets.network import random_latents
from runs.folder import create_result_subdir, list_network_pkls, locate_network_pkl, locate_run_dir
from tests.helpers import GOLDEN, ROOT, load_golden
from training.schedule import rampdown_linear, rampup

ARRAYS = load_golden('misc')[0]
TRAIN_UTILS = load_golden('tf/train_utils')[0]
NUMBERS = json.loads((GOLDEN / 'misc.json').read_text())


def raising(error):
    def work():
        raise error
    return work


def test_exit_status_of_what_went_well(capsys):
    assert (exit_status('x.py', lambda: None), exit_status('x.py', lambda: 3)) == (0, 3)
    assert capsys.readouterr() == ('', '')


def test_exit_status_tells_mistakes_and_interruptions_in_one_line(capsys):
    assert exit_status('x.py', raising(UserError('n=0: must be 1 or more'))) == 1
    assert exit_status('x.py', raising(LookupError('gone')), (UserError, LookupError)) == 1
    assert exit_status('x.py', raising(KeyboardInterrupt), interrupted='interrupted; all is kept') == 130
    assert capsys.readouterr().err == ('x.py: error: n=0: must be 1 or more\nx.py: error: gone\n'
                                       'x.py: interrupted; all is kept\n')


def test_exit_status_leaves_bugs_their_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_status('x.py', raising(ZeroDivisionError()))


# ----------------------------------------------------------------------------------------------------------------------
# Recorded values, exactly.


@pytest.mark.parametrize('name', sorted(key[:-3] for key in ARRAYS if key.startswith('adr_') and key.endswith('_in')))
def test_adjust_dynamic_range(name):
    drange_in, drange_out = ARRAYS['_'.join(name.split('_')[:2]) + '_ranges']
    result = adjust_dynamic_range(ARRAYS[name + '_in'], drange_in, drange_out)
    assert result.dtype == ARRAYS[name + '_out'].dtype
    np.testing.assert_array_equal(result, ARRAYS[name + '_out'])


@pytest.mark.parametrize('name', sorted(key[:-3] for key in ARRAYS if key.startswith('grid_') and key.endswith('_in')))
def test_image_grids_and_their_pil_images(name):
    grid = create_image_grid(ARRAYS[name + '_in'], (3, 2) if name == 'grid_rgb_grid' else None)
    assert grid.dtype == ARRAYS[name + '_out'].dtype
    np.testing.assert_array_equal(grid, ARRAYS[name + '_out'])
    image = convert_to_pil_image(grid, (-1, 1))
    assert image.mode == ARRAYS[name + '_mode']
    np.testing.assert_array_equal(np.asarray(image), ARRAYS[name + '_pil'])


@pytest.mark.parametrize('seconds, text', NUMBERS['format_time'])
def test_format_time(seconds, text):
    assert format_time(seconds) == text


def test_image_helpers_of_the_2018_release():
    x = TRAIN_UTILS['misc/x']
    np.testing.assert_array_equal(adjust_dynamic_range(x, (-1, 1), (0, 255)),
                                  TRAIN_UTILS['misc/adjust_m11_to_0255'])
    reals = TRAIN_UTILS['process_reals/input_lod0']
    np.testing.assert_array_equal(adjust_dynamic_range(reals, (0, 255), (-1, 1)),
                                  TRAIN_UTILS['misc/adjust_0255_to_m11'])
    np.testing.assert_array_equal(convert_to_pil_image(x[0], (-1, 1)), TRAIN_UTILS['misc/pil_rgb_drange_m11'])
    np.testing.assert_array_equal(convert_to_pil_image(x[0, :1], (-1, 1)), TRAIN_UTILS['misc/pil_gray_drange_m11'])
    np.testing.assert_array_equal(create_image_grid(x), TRAIN_UTILS['misc/grid_auto'])
    np.testing.assert_array_equal(create_image_grid(x, (3, 1)), TRAIN_UTILS['misc/grid_3x1'])
    recorded = load_golden('tf/pickles/cond16.expected')[0]['misc_random_latents_seed123']
    generator = types.SimpleNamespace(input_shapes=[[None, recorded.shape[1]]])
    latents = random_latents(3, generator, np.random.RandomState(123))
    np.testing.assert_array_equal(latents, np.float32(recorded))


@pytest.mark.parametrize('seconds, text', json.loads((GOLDEN / 'tf' / 'train_utils.json').read_text())['format_time'])
def test_format_time_of_the_2018_release(seconds, text):
    """It writes the hours beside days with two digits, the 2017 release with as many as they have."""
    assert format_time(seconds) == text.replace('d 0', 'd ')


@pytest.mark.parametrize('epoch, length, value', NUMBERS['rampup'])
def test_rampup(epoch, length, value):
    assert rampup(epoch, length) == value


@pytest.mark.parametrize('epoch, num_epochs, length, value', NUMBERS['rampdown_linear'])
def test_rampdown_linear(epoch, num_epochs, length, value):
    assert rampdown_linear(epoch, num_epochs, length) == value


@pytest.mark.parametrize('height, width, grid', [
    (1024, 1024, (3, 2)), (256, 256, (7, 4)), (128, 128, (15, 8)), (16, 16, (16, 16)), (128, 256, (7, 8)),
])
def test_snapshot_grid_size(height, width, grid):
    assert snapshot_grid_size(height, width) == grid


# ----------------------------------------------------------------------------------------------------------------------
# Image files.


def test_a_saved_grid_is_the_image(tmp_path):
    images = np.random.RandomState(0).randint(256, size=(5, 3, 4, 6), dtype=np.uint8)
    save_image_grid(images, tmp_path / 'grid.png', (0, 255), (2, 3))
    saved = np.asarray(Image.open(tmp_path / 'grid.png'))
    assert saved.shape == (12, 12, 3)
    np.testing.assert_array_equal(saved[4:8, 6:], images[3].transpose(1, 2, 0))
    assert not saved[8:, 6:].any()
    save_image(images[0, 0], tmp_path / 'gray.jpg', (0, 255))
    assert Image.open(tmp_path / 'gray.jpg').mode == 'L'
    assert sorted(os.listdir(tmp_path)) == ['gray.jpg', 'grid.png']


def test_shapes_that_are_no_images():
    with pytest.raises(ValueError, match=r'shape \(2, 4\)'):
        create_image_grid(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r'shape \(2, 4, 4\)'):
        convert_to_pil_image(np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r'grid_size=\(2, 2\): holds 4 images, got 5'):
        create_image_grid(np.zeros((5, 1, 4, 4)), (2, 2))


def test_an_image_format_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"grid.pong: no image format has the suffix '.pong'"):
        save_image(np.zeros((4, 4)), tmp_path / 'grid.pong')


# ----------------------------------------------------------------------------------------------------------------------
# Complete files or none.


def test_an_exception_leaves_the_old_file(tmp_path):
    path = tmp_path / 'file.txt'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), atomic_write(path, 'w') as file:
        file.write('new')
        raise KeyboardInterrupt
    assert path.read_text() == 'old'
    with atomic_write(path, 'w') as file:
        file.write('new')
    assert path.read_text() == 'new'
    assert os.listdir(tmp_path) == ['file.txt']


def test_kill_9_leaves_the_old_file_and_the_leftover_is_found(tmp_path):
    path = tmp_path / 'file.txt'
    path.write_text('old')
    code = ('import sys, time\nfrom common.files import atomic_write\n'
            'with atomic_write(sys.argv[1], "w") as file:\n'
            '    file.write("new"); file.flush(); print("writing", flush=True); time.sleep(60)\n')
    writer = subprocess.Popen([sys.executable, '-c', code, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert writer.stdout.readline() == 'writing\n'
    assert remove_stale_temporaries(path) == []    # It is still being written.
    writer.kill()
    writer.communicate()
    assert path.read_text() == 'old'
    assert len(os.listdir(tmp_path)) == 2
    assert len(remove_stale_temporaries(str(path))) == 1
    assert os.listdir(tmp_path) == ['file.txt']


@pytest.mark.parametrize('name', ['missing/file.pkl', 'plain/file.pkl'])
def test_a_file_that_cannot_be_written(name, tmp_path):
    (tmp_path / 'plain').write_text('a file where a folder should be')
    with pytest.raises(UserError, match=name + r': cannot be written \((No such file|Not a directory)'):
        save_pkl(1, tmp_path / name)


def test_save_pkl(tmp_path):
    save_pkl(('G', np.arange(3)), tmp_path / 'net.pkl')
    with open(tmp_path / 'net.pkl', 'rb') as file:
        name, values = pickle.load(file)
    assert name == 'G' and values.tolist() == [0, 1, 2]


# ----------------------------------------------------------------------------------------------------------------------
# Run folders.


def test_run_folders_are_numbered_above_the_highest(tmp_path):
    result_dir = tmp_path / 'new' / 'results'
    assert os.path.basename(create_result_subdir(result_dir, 'digits')) == '000-digits'
    (result_dir / '007-faces').mkdir()
    (result_dir / '9 notes.txt').write_text('')
    assert os.path.basename(create_result_subdir(result_dir, 'digits')) == '008-digits'
    (result_dir / '1234').mkdir()
    assert os.path.basename(create_result_subdir(result_dir, 'digits')) == '1235-digits'


def test_run_folders_made_at_the_same_moment_get_different_numbers(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        made = list(executor.map(lambda desc: create_result_subdir(tmp_path, desc), 'abcdefgh' * 3))
    assert sorted(int(os.path.basename(run_dir)[:3]) for run_dir in made) == list(range(24))
    assert len(os.listdir(tmp_path)) == 24


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'results').write_text('a file where a folder should be')
    with pytest.raises(UserError, match=r"result_dir='.*results': cannot make a run folder there .*--result-dir"):
        create_result_subdir(str(tmp_path / 'results'), 'digits')
    with pytest.raises(UserError, match="desc='a/b'"):
        create_result_subdir(str(tmp_path), 'a/b')


# ----------------------------------------------------------------------------------------------------------------------
# Logs.


def test_the_log_gets_both_streams_and_they_are_restored(capsys, tmp_path):
    before = sys.stdout, sys.stderr
    with OutputLogger(tmp_path / 'log.txt'):
        print('columns   ', end='')
        print('warning', file=sys.stderr)
        print('more  ')
        print('no newline', end='')
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ('columns   more  \nno newline', 'warning\n')
    assert (tmp_path / 'log.txt').read_text() == 'warning\ncolumns   more  \nno newline\n'


def test_of_a_progress_bar_the_log_gets_the_last_state_only(capsys, tmp_path):
    with OutputLogger(tmp_path / 'log.txt'):
        with tqdm(range(100), desc='kimg', mininterval=0, miniters=1, ascii=True, ncols=60) as bar:
            for step in bar:
                if step == 50:
                    tqdm.write('tick 1', file=sys.stdout)
    assert capsys.readouterr().err.count('\r') > 100
    first, last = (tmp_path / 'log.txt').read_text().splitlines()
    assert first == 'tick 1'
    assert last.startswith('kimg: 100%|') and '100/100' in last and '\x1b' not in last


def test_the_log_says_what_ended_the_run(capsys, tmp_path):
    with pytest.raises(ZeroDivisionError), OutputLogger(tmp_path / 'log.txt'):
        print(1 / 0)
    log = (tmp_path / 'log.txt').read_text()
    assert 'Traceback' in log and log.endswith('ZeroDivisionError: division by zero\n')
    with pytest.raises(UserError), OutputLogger(tmp_path / 'log2.txt'):
        raise UserError('lod=-1: must be positive')
    assert (tmp_path / 'log2.txt').read_text() == 'error: lod=-1: must be positive\n'


def test_printing_after_the_end_of_the_log_still_reaches_the_terminal(capsys, tmp_path):
    with OutputLogger(tmp_path / 'log.txt'):
        kept = sys.stderr
    print('late', file=kept)
    assert capsys.readouterr().err == 'late\n' and (tmp_path / 'log.txt').read_text() == ''


def test_a_log_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r'missing/log.txt: the log cannot be written \(No such file'):
        OutputLogger(tmp_path / 'missing' / 'log.txt')


# ----------------------------------------------------------------------------------------------------------------------
# Finding runs and their networks.


@pytest.fixture
def results(tmp_path):
    for folder in ('000-digits', '003-faces', '012-a', '012-b', 'notes'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'log.txt').touch()
    (tmp_path / '004-being-made').mkdir()
    for name in ('network-snapshot-000004.pkl', 'network-snapshot-000100.pkl', 'network-snapshot-1000000.pkl', 'x.pkl'):
        (tmp_path / '003-faces' / name).touch()
    return tmp_path


def test_runs_are_found_by_number_name_or_path(results):
    faces = str(results / '003-faces')
    for run in (3, '3', '003', '003-faces', faces):
        assert locate_run_dir(run, results) == faces
    assert locate_run_dir(0, results) == str(results / '000-digits')
    for run, message in [(4, 'run 4: no such run in .*; there are 000-digits, 003-faces'), (12, '012-a and 012-b'),
                         ('003-facse', "did you mean '003-faces'"), ('nowhere/', 'no such run')]:
        with pytest.raises(UserError, match=message):
            locate_run_dir(run, results)
    with pytest.raises(UserError, match='there are none'):
        locate_run_dir(3, results / 'nothing')


def test_networks_are_found_by_run_and_kimg_or_path(results):
    faces = results / '003-faces'
    assert locate_network_pkl(3, result_dir=results) == str(faces / 'network-snapshot-1000000.pkl')
    (faces / 'network-final.pkl').touch()
    assert locate_network_pkl('3', result_dir=results) == str(faces / 'network-final.pkl')
    assert locate_network_pkl(3, 'final', results) == str(faces / 'network-final.pkl')
    assert locate_network_pkl(faces, 4) == locate_network_pkl(3, '4', results) == str(
        faces / 'network-snapshot-000004.pkl')
    assert locate_network_pkl(faces / 'x.pkl') == str(faces / 'x.pkl')
    assert len(list_network_pkls(faces)) == 4
    for args, message in [((faces, 5), 'snapshot=5: .*000005.pkl; there are network-snapshot-000004.pkl'),
                          ((faces / 'y.pkl',), 'y.pkl: no such file'), ((results / 'notes',), 'no network snapshots')]:
        with pytest.raises(UserError, match=message):
            locate_network_pkl(*args)
