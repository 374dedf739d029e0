"""The fixtures that all tests share: the choice of what executes a Theano graph, a browser."""

import gc
import importlib.util
import os
import shutil
import sys

import numpy as np
import pytest

# Their assertions say as much as those of tests.
pytest.register_assert_rewrite('tests.helpers', 'tests.theano_torch.helpers', 'tests.training.kill_resume')

from tests.helpers import NUMPY_2  # noqa: E402

# No file that a test writes, or a process that it starts, may fill the disk.
if importlib.util.find_spec('resource'):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 30, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

# With ``pytest -n auto`` every core has a process: threads of more would wait for each other.
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ.setdefault('OMP_NUM_THREADS', '1')

# Before anything imports Theano. The tests of images and data sets run without it, also on NumPy 2. Processes that
# compile C code ask for the compiler's lock every second, not every five.
if importlib.util.find_spec('theano'):
    with pytest.MonkeyPatch.context() as flags:
        flags.setenv('THEANO_FLAGS', 'compile.wait=1,compile.timeout=120', prepend=',')
        import theano_env

# Triton's own functions are for its interpreter or for GPUs, as it was when Triton was imported; torch may import it.
if importlib.util.find_spec('torch') and importlib.util.find_spec('triton'):
    import torch
    if not torch.cuda.is_available():
        with pytest.MonkeyPatch.context() as flags:
            flags.setenv('TRITON_INTERPRET', '1')
            import triton  # noqa: F401

# Theano's graphs are many small objects: a seventh of the tests' time would go into looking for cycles among them.
gc.set_threshold(20000, 20, 20)


def pytest_addoption(parser):
    parser.addoption('--quick', action='store_true', help='only the first case of each test, and none that is slow')


def pytest_collection_modifyitems(config, items):
    """Mark the tests of Theano's own engines, and skip them on NumPy 2; with --quick choose some of each file."""
    for item in items:
        if hasattr(item, 'callspec') and item.callspec.params.get('engine') in ('python', 'theano'):
            item.add_marker(pytest.mark.own_engines)
        if item.get_closest_marker('standin') or {'agree', 'cuda'}.intersection(item.fixturenames):
            item.add_marker(pytest.mark.standin)
            item.add_marker(pytest.mark.gpu)
        if NUMPY_2 and item.get_closest_marker('own_engines'):
            item.add_marker(pytest.mark.skip(reason="Theano's own engines need NumPy 1"))
        if hasattr(item, 'callspec') and 'theano' in map(str, item.callspec.params.values()):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(900))       # The first time, Theano's C code takes minutes to compile.
    if config.getoption('--quick'):
        tests, chosen, left_out = set(), [], []
        for item in items:
            test = item.nodeid.partition('[')[0]
            (left_out if test in tests or item.get_closest_marker('slow') else chosen).append(item)
            tests.add(test)
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen


def pytest_collection_finish():
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()       # Or Triton reports its own objects as leaks, below the summary.


@pytest.fixture
def engine(request):
    """Run a test on one engine: ``@pytest.mark.parametrize('engine', ['torch', 'python'], indirect=True)``."""
    import theano
    before = theano.config.mode
    chosen = theano_env.configure(request.param, {'device': 'cpu'})
    yield chosen
    theano.config.mode = before


@pytest.fixture(autouse=True)
def same_generator():
    """Lasagne draws from NumPy's global generator, whatever the tests and fixtures before chose."""
    if 'lasagne' in sys.modules:
        sys.modules['lasagne'].random.set_rng(np.random)


@pytest.fixture
def restore_theano_config():
    """What executes the graphs, and their float type, for the tests after this one."""
    import theano
    before = theano.config.mode, theano.config.floatX
    yield
    theano.config.mode, theano.config.floatX = before


@pytest.fixture
def cuda(restore_theano_config):
    """A CUDA GPU: a real one (None), else the stand-in, a `tests.standin.Gpu`."""
    from tests.standin.engine import a_gpu
    with a_gpu() as stand_in:
        yield stand_in


@pytest.fixture(scope='session')
def python_mode():
    """A Theano mode that runs on Theano's own Python code. Single ops are compared with it, on NumPy 2 as well."""
    return theano_env._python_engine('cpu')[0]


@pytest.fixture(scope='module')
def browser():
    """Headless Chromium: the system's, else Playwright's own."""
    playwright = pytest.importorskip('playwright.sync_api', reason="needs Playwright: pip install '.[all]'")
    with playwright.sync_playwright() as api:
        path = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
        if path is None and not os.path.exists(api.chromium.executable_path):
            pytest.skip('needs Chromium: apt-get install chromium, or playwright install --with-deps chromium')
        browser = api.chromium.launch(executable_path=path, timeout=120_000)
        yield browser
        browser.close()
