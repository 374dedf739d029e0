"""Importing the project needs no modules that Windows lacks. The project was not tested on Windows itself."""

import os
import subprocess
import sys

import pytest

from common.machine import peak_memory
from tests.helpers import ROOT

WITHOUT_UNIX = '''
import os, sys
for name in ('fcntl', 'grp', 'pwd', 'resource', 'termios'):
    sys.modules[name] = None
for name in ('fork', 'getuid', 'sched_getaffinity'):
    vars(os).pop(name, None)
'''

IMPORT_ALL = WITHOUT_UNIX + '''
import importlib
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        print(f'{name}: {error!r}')
'''

# On Linux, psutil needs `resource`.
PEAK_MEMORY = 'import psutil\n' + WITHOUT_UNIX + '''
from common.machine import peak_memory
print(peak_memory())
'''


def modules():
    """Names of all modules of the project, in its folder and in its packages at any depth."""
    names = []
    for path in ROOT.rglob('*.py'):
        parts = path.relative_to(ROOT).with_suffix('').parts
        folders = [ROOT.joinpath(*parts[:depth]) for depth in range(1, len(parts))]
        if parts != ('setup',) and all((folder / '__init__.py').exists() for folder in folders):
            names.append('.'.join(parts[:-1] if parts[-1] == '__init__' else parts))
    return sorted(names)


def test_every_module_can_be_imported(tmp_path):
    assert len(modules()) > 80
    # Without fcntl, filelock warns on Linux; on Windows it uses other locks.
    result = subprocess.run([sys.executable, '-W', 'ignore:only soft', '-c', IMPORT_ALL, *modules()], text=True,
                            capture_output=True, cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')


def test_peak_memory():
    pytest.importorskip('psutil')
    elsewhere = int(subprocess.check_output([sys.executable, '-c', PEAK_MEMORY], cwd=ROOT))
    for peak in (elsewhere, peak_memory()):
        assert 10 * 2 ** 20 < peak < 2 ** 40
