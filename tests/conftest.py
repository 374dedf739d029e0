"""The fixtures that all tests share: the choice of what executes a Theano graph, a browser."""

import gc
import importlib.util
import os
import shutil
import sys

import numpy as np
import pytest

# pytest explains failed assertions in these helpers as it does in tests.
pytest.register_assert_rewrite('tests.helpers', 'tests.theano_torch.helpers', 'tests.training.kill_resume')

from tests.helpers import NUMPY_2, restored_settings  # noqa: E402

# Limit the size of files, so that no test or child process can fill the disk.
if importlib.util.find_spec('resource'):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 30, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

# With ``pytest -n auto`` every core has a process; more threads would only compete for the cores.
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ.setdefault('OMP_NUM_THREADS', '1')

# Set these flags before anything imports Theano. Processes that compile C code poll the compiler's lock every second
# instead of every five. Tests of images and datasets also run without Theano.
if importlib.util.find_spec('theano'):
    with pytest.MonkeyPatch.context() as flags:
        flags.setenv('THEANO_FLAGS', 'compile.wait=1,compile.timeout=120', prepend=',')
        import theano_env

# Triton chooses between its interpreter and GPUs when it is imported, which torch may do.
if importlib.util.find_spec('torch') and importlib.util.find_spec('triton'):
    import torch
    if not torch.cuda.is_available():
        with pytest.MonkeyPatch.context() as flags:
            flags.setenv('TRITON_INTERPRET', '1')
            import triton  # noqa: F401

# Theano's graphs consist of many small objects. At the default, garbage collection takes a seventh of the tests' time.
gc.set_threshold(20000, 20, 20)


def pytest_addoption(parser):
    parser.addoption('--quick', action='store_true', help='run only the first case of each test, and no slow tests')


def pytest_collection_modifyitems(config, items):
    """Add markers, skip tests of Theano's own engines on NumPy 2, and deselect tests for --quick."""
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
            item.add_marker(pytest.mark.timeout(900))       # The first compilation of Theano's C code takes minutes.
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
    """Make Lasagne draw from NumPy's global generator, regardless of earlier tests."""
    if 'lasagne' in sys.modules:
        sys.modules['lasagne'].random.set_rng(np.random)


@pytest.fixture
def restore_theano_config():
    """Restore Theano's mode, floatX and kinds of shared variables after the test."""
    with restored_settings():
        yield


@pytest.fixture
def cuda(restore_theano_config):
    """A CUDA GPU: a real one (None), else the stand-in, a `tests.standin.Gpu`."""
    from tests.standin.engine import a_gpu
    with a_gpu() as stand_in:
        yield stand_in


@pytest.fixture(scope='session')
def python_mode():
    """A Theano mode that runs Theano's own Python code, as the reference for single ops. It works on NumPy 2, too."""
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
