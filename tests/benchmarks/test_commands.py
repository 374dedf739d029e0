"""benchmarks/: every script can be imported and has a help text."""

import importlib.util
import sys

import pytest

from tests.helpers import ROOT

BENCHMARKS = sorted((ROOT / 'benchmarks').glob('*.py'))


@pytest.mark.parametrize('path', BENCHMARKS, ids=lambda path: path.stem)
def test_help(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'path', [str(path.parent), *sys.path])
    monkeypatch.setattr(sys, 'argv', [path.name, '--help'])
    spec = importlib.util.spec_from_file_location(f'benchmark_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit) as exit_info:
        module.main()
    assert exit_info.value.code == 0
    assert module.__doc__ and capsys.readouterr().out.startswith(f'usage: {path.name}')
