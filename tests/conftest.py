"""What all tests share: the recorded arrays, and the choice of what executes a Theano graph."""

import importlib.util
import json
import os
import pathlib
import sys

import h5py
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / 'tests' / 'golden'
sys.path.insert(0, str(ROOT))

# With ``pytest -n auto`` every core has a process: threads of more would wait for each other.
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ.setdefault('OMP_NUM_THREADS', '1')

# Before anything imports Theano. The tests of images and data sets run without it, also on NumPy 2.
if importlib.util.find_spec('theano'):
    import theano_env

NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= '2.0.0'    # Like theano_env's, where there is no Theano.
# For tests of what does not depend on the engine.
ANY_ENGINE = 'torch' if NUMPY_2 else 'python'


def pytest_collection_modifyitems(items):
    """Mark the tests that have one of Theano's own engines as `engine`; skip all that are so marked on NumPy 2."""
    for item in items:
        if getattr(item, 'callspec', None) and item.callspec.params.get('engine') in ('python', 'theano'):
            item.add_marker(pytest.mark.own_engines)
        if NUMPY_2 and item.get_closest_marker('own_engines'):
            item.add_marker(pytest.mark.skip(reason="Theano's own engines need NumPy 1"))


def load_golden(name):
    """(arrays, meta) of tests/golden/NAME.npz; meta is the JSON document stored in it, or None."""
    with np.load(GOLDEN / f'{name}.npz', allow_pickle=False) as archive:
        arrays = dict(archive)
    meta = arrays.pop('meta', None)
    return arrays, None if meta is None else json.loads(str(meta))


def training_functions(G, D, Gs, schedule):
    """The compiled and seeded steps of the training loop on these networks."""
    import theano

    import training_step
    for net in (G, D):
        net.toplevel_params['cur_lod'].set_value(np.float32(schedule.lod))
    rate = theano.shared(np.float32(0.01))
    functions = training_step.compile_training_functions(
        G, D, Gs, schedule, rate, rate, 0.9, {}, dict(beta1=0.0, beta2=0.99, epsilon=1e-8), False, False)
    training_step.seed_streams(functions)
    return functions


def run_tool(capsys, *argv):
    """(exit status, stdout, stderr) of a command of dataset_tool.py."""
    import dataset_tool
    status = dataset_tool.main([str(arg) for arg in argv])
    return status, *capsys.readouterr()


def check_h5_file(h5_path, recording, key):
    """The file is the recorded one, `recording` being load_golden's: data, chunks, filters, names of everything."""
    arrays, meta = recording
    recorded = {name: values for name, values in meta[key].items() if not name.startswith('_')}
    with h5py.File(h5_path) as h5:
        assert sorted(h5) == sorted(recorded) and list(h5.attrs) == meta[key]['_file_attrs']
        for name, values in recorded.items():
            level = h5[name]
            assert {'attrs': list(level.attrs), 'chunks': list(level.chunks), 'compression': level.compression,
                    'compression_opts': level.compression_opts, 'dtype': str(level.dtype),
                    'maxshape': list(level.maxshape), 'shape': list(level.shape)} == values
        compared = [name for name in recorded if f'{key}_{name}' in arrays]
        assert compared
        for name in compared:
            np.testing.assert_array_equal(h5[name][:], arrays[f'{key}_{name}'])


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


@pytest.fixture(scope='session')
def python_mode():
    """A Theano mode that runs on Theano's own Python code. Single ops are compared with it, on NumPy 2 as well."""
    return theano_env._python_engine('cpu')[0]
