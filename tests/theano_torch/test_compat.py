"""theano_torch/compat.py: Theano works after importing theano_torch, even on Pythons without modules that it needs."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT

HIDE = '''
import sys
from importlib.machinery import PathFinder
hidden = {'imp', 'distutils', 'pkg_resources', 'numpy.distutils', *sys.argv[1:]}
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name in hidden else find_spec(name, *args)
sys.meta_path = [finder for finder in sys.meta_path if 'Distutils' not in type(finder).__name__]
for name in hidden:
    sys.modules.pop(name, None)
'''


@pytest.mark.parametrize('hidden, code', [
    ([], 'import theano_torch, theano, lasagne; from theano_torch import compat; '
         'assert (compat.theano, compat.T, compat.lasagne) == (theano, theano.tensor, lasagne)'),
    (['torch'], 'import theano_torch; theano_torch.lower.register(int)(theano_torch.on_host)'),
    (['lasagne'], 'from theano_torch.compat import T, lasagne, theano; assert lasagne is None; T.exp(T.fvector())'),
    (['numpy.linalg.linalg'],
     'import sys, theano_torch, theano; x = theano.tensor.fvector(); mode = theano_torch.mode(); '
     'theano.function([x], x + 1, mode=mode); y, _ = theano.scan(lambda a: a * 2, outputs_info=x, n_steps=2); '
     'assert theano.function([x], y[1], mode=mode)([1, 2]).tolist() == [4, 8]; '
     'assert "pkg_resources" not in sys.modules and "numpy.linalg.linalg" not in sys.modules'),
], ids=['all', 'without PyTorch', 'without Lasagne', 'for scan'])
def test_theano_can_be_imported(hidden, code):
    done = subprocess.run([sys.executable, '-c', HIDE + code, *hidden], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
