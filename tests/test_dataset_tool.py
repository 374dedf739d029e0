"""dataset_tool: looking into files, and the command line."""

import os
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
from conftest import ROOT, load_golden, run_tool
from PIL import Image

import dataset_tool
import labelled_sets

ARRAYS, META = load_golden('h5tool_custom')


# ----------------------------------------------------------------------------------------------------------------------
# inspect and extract.


@pytest.fixture
def gray_h5(tmp_path):
    with h5py.File(tmp_path / 'gray.h5', 'w') as h5:
        for key, value in ARRAYS.items():
            if key.startswith('custom_gray_data'):
                h5[key[len('custom_gray_'):]] = value
    return tmp_path / 'gray.h5'


def test_inspect(gray_h5, capsys):
    np.save(gray_h5.parent / 'gray-labels.npy', np.eye(12, dtype=np.float32)[:, :3])
    status, out, err = run_tool(capsys, 'inspect', gray_h5)
    assert (status, err) == (0, '')
    recorded = [line for line in META['inspect_printed'] if line.startswith(('Total images', 'Resolution'))]
    assert len(recorded) == 2 and set(recorded) <= set(out.splitlines())
    assert re.search(r'Color channels +1\n', out) and re.search(r'Labels +3 columns, .*: 1 1 1\n', out)
    assert re.findall(r'^data(\d+)x', out, re.M) == ['32', '16', '8', '4', '2', '1']
    assert 'Complete: all levels from 32x32 to 1x1' in out


def test_inspect_of_an_incomplete_file(gray_h5, capsys):
    with h5py.File(gray_h5, 'a') as h5:
        del h5['data8x8']
    status, _out, err = run_tool(capsys, 'inspect', gray_h5)
    assert status == 1 and 'data8x8 is missing' in err and err.count('\n') == 1


def test_the_recorded_extraction(gray_h5, tmp_path, capsys):
    output_dir = tmp_path / 'new' / 'extracted'
    argv = ['extract', gray_h5, output_dir, '--start', 1, '--stop', 9, '--step', 3]
    assert run_tool(capsys, *argv) == (0, 'Extracted 3 images to %s\n' % output_dir, '')
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


def test_extraction_into_what_is_no_folder(gray_h5, capsys):
    status, _out, err = run_tool(capsys, 'extract', gray_h5, gray_h5)
    assert status == 1 and 'cannot be written (File exists)' in err and err.count('\n') == 1


# ----------------------------------------------------------------------------------------------------------------------
# Command line.


ALIASES = {'create_custom': 'create_from_images', 'create_mnist_rgb': 'create_mnistrgb'}


@pytest.mark.parametrize('command', [*dataset_tool.COMMANDS, *ALIASES])
def test_every_command_has_an_example_that_parses(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        dataset_tool.main([command, '--help'])
    assert stopped.value.code == 0
    example = capsys.readouterr().out.split('example:\n  python dataset_tool.py ')[1]
    arguments = dataset_tool.parse_arguments(example.split())
    assert arguments.command == ALIASES.get(command, command)


def test_options_are_understood_with_underscores():
    for words in (['--max_images', '5'], ['--max-images', '5'], ['--max_images=5']):
        arguments = dataset_tool.parse_arguments(['create_lsun', 'some_lmdb', 'a_b.h5', *words])
        assert (arguments.max_images, arguments.lmdb_dir, arguments.h5_path) == (5, 'some_lmdb', 'a_b.h5')


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
    monkeypatch.setattr(labelled_sets, 'enlarge_digit', interrupted)
    status, _out, err = run_tool(capsys, 'create_digits', tmp_path / 'a.h5')
    assert status == 130 and 'interrupted' in err and err.count('\n') == 1
    assert os.listdir(tmp_path) == []
