"""dataset_tool: the command line. The tests of the modules in data/ cover the commands themselves."""

import os
import subprocess
import sys

import pytest

import dataset_tool
from data import labelled_sets
from tests.helpers import ROOT, run_tool

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
