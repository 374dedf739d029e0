"""benchmarks/: every command imports, and says what it does."""

import sys

import pytest

from tests.helpers import ROOT, load_benchmark

BENCHMARKS = sorted(path for path in (ROOT / 'benchmarks').glob('*.py') if "__name__ == '__main__'" in path.read_text())


@pytest.mark.parametrize('path', BENCHMARKS, ids=lambda path: path.stem)
def test_help(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'path', [str(path.parent), *sys.path])
    monkeypatch.setattr(sys, 'argv', [path.name, '--help'])
    module = load_benchmark(path.stem)
    with pytest.raises(SystemExit) as exit_info:
        module.main()
    assert exit_info.value.code == 0
    assert module.__doc__ and capsys.readouterr().out.startswith(f'usage: {path.name}')
