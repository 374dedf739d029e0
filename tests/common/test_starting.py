"""common.starting: Ctrl-C during the imports of a script gives a one-line message."""

import ast
import signal
import subprocess
import sys

import pytest

from tests.helpers import ROOT, heed_interrupts
from tests.test_house import SCRIPTS


@pytest.mark.parametrize('name', SCRIPTS)
def test_every_script_begins_with_it(name):
    first = next(node for node in ast.parse((ROOT / f'{name}.py').read_text(encoding='utf-8')).body
                 if isinstance(node, (ast.Import, ast.ImportFrom)))
    assert 'common.starting' in (getattr(first, 'module', None), first.names[0].name)


@pytest.mark.parametrize('module', ['common.starting', 'numpy', 'theano.tensor'])
def test_interrupted_while_importing(module):
    process = subprocess.Popen([sys.executable, '-X', 'importtime', str(ROOT / 'train.py'), '--experiment', 'none'],
                               text=True, stderr=subprocess.PIPE, preexec_fn=heed_interrupts)
    while process.stderr.readline().split()[-1] != module:
        pass
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.splitlines()[-1] == 'train.py: interrupted' and 'Traceback' not in err


def test_a_program_that_imports_a_script_keeps_its_own_handler():
    code = 'import signal, dataset_tool; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler'
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, preexec_fn=heed_interrupts)
