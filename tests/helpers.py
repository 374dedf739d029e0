"""Helpers for tests: recorded arrays, compiled functions, commands, and pickles in the formats of the releases."""

import contextlib
import importlib.util
import json
import pathlib
import pickle
import re
import signal
import sys
import types

import h5py
import numpy as np

from data.hdf5_format import LABEL_ATTRIBUTES

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / 'tests' / 'golden'
NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= '2.0.0'    # theano_env.NUMPY_2 without an import of Theano.
ANY_ENGINE = 'torch' if NUMPY_2 else 'python'    # For tests that do not depend on the engine.


@contextlib.contextmanager
def restored_settings():
    """Restore Theano's mode, floatX and kinds of shared variables at the end."""
    import theano
    constructors = theano.compile.sharedvalue.shared.constructors
    before = theano.config.mode, theano.config.floatX, list(constructors)
    try:
        yield
    finally:
        theano.config.mode, theano.config.floatX, constructors[:] = before


def load_benchmark(name):
    """The module of benchmarks/NAME.py, which is in no package; a new one in each call."""
    spec = importlib.util.spec_from_file_location(f'benchmark_{name}', ROOT / 'benchmarks' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_golden(name):
    """(arrays, meta) of tests/golden/NAME.npz; meta is the JSON document stored in it, or None."""
    with np.load(GOLDEN / f'{name}.npz', allow_pickle=False) as archive:
        arrays = dict(archive)
    meta = arrays.pop('meta', None)
    return arrays, None if meta is None else json.loads(str(meta))


def training_functions(G, D, Gs, schedule):
    """The compiled and seeded training functions of these networks."""
    import theano

    from training import steps
    for net in (G, D):
        net.toplevel_params['cur_lod'].set_value(np.float32(schedule.lod))
    rate = theano.shared(np.float32(0.01))
    functions = steps.compile_training_functions(
        G, D, Gs, schedule, rate, rate, 0.9, {}, dict(beta1=0.0, beta2=0.99, epsilon=1e-8), False, False)
    steps.seed_streams(functions)
    return functions


class Ones(np.random.RandomState):
    """For networks whose weights nobody reads, ``lasagne.random.set_rng(Ones())``: drawing them takes seconds."""

    def normal(self, loc=0.0, scale=1.0, size=None):
        return np.broadcast_to(np.float32(1), size)


def run_tool(capsys, *argv):
    """(exit status, stdout, stderr) of a command of dataset_tool.py."""
    import dataset_tool
    status = dataset_tool.main([str(arg) for arg in argv])
    return status, *capsys.readouterr()


def check_h5_file(h5_path, recording, key):
    """Compare data, chunks, filters and names in an HDF5 file with a `recording` of :func:`load_golden`."""
    arrays, meta = recording
    recorded = {name: values for name, values in meta[key].items() if not name.startswith('_')}
    with h5py.File(h5_path) as h5:
        assert sorted(h5) == sorted(recorded) and [
            name for name in h5.attrs if name not in LABEL_ATTRIBUTES] == meta[key]['_file_attrs']
        for name, values in recorded.items():
            level = h5[name]
            assert {'attrs': list(level.attrs), 'chunks': list(level.chunks), 'compression': level.compression,
                    'compression_opts': level.compression_opts, 'dtype': str(level.dtype),
                    'maxshape': list(level.maxshape), 'shape': list(level.shape)} == values
        compared = [name for name in recorded if f'{key}_{name}' in arrays]
        assert compared
        for name in compared:
            np.testing.assert_array_equal(h5[name][:], arrays[f'{key}_{name}'])


def heed_interrupts():
    """`preexec_fn` for processes that receive SIGINT. After ``nohup pytest &`` they would inherit to ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# ----------------------------------------------------------------------------------------------------------------------
# Pickles of networks from plain states.

def class_named(name):
    """A class with the dotted name `name`, importable while :func:`dumps` runs."""
    module, _, cls = name.rpartition('.')
    return type(cls, (), {'__module__': module, '__qualname__': cls})


def dumps(objects, protocol=2):
    """Pickle a tuple of (class name, state) pairs as objects of these classes."""
    classes = {name: class_named(name) for name, _state in objects}
    before = {}
    for name, cls in classes.items():
        module = name.rpartition('.')[0]
        before.setdefault(module, sys.modules.get(module))
        if before[module] is None:
            sys.modules[module] = types.ModuleType(module)
        before.setdefault((module, 'Network'), getattr(sys.modules[module], 'Network', None))
        sys.modules[module].Network = cls
    try:
        instances = []
        for name, state in objects:
            instance = classes[name]()
            instance.__dict__.update(state)
            instances.append(instance)
        return pickle.dumps(tuple(instances), protocol)
    finally:
        for key, value in before.items():
            if isinstance(key, tuple):
                if value is not None:
                    sys.modules[key[0]].Network = value
            elif value is None:
                del sys.modules[key]


def state_2017(func, params, toplevel, **spec):
    return {'param_values': list(params), 'build_module_src': 'raise SystemExit', 'toplevel_params': toplevel,
            'build_func_spec': {'func': func, **spec}}


def state_2018(func, variables, name='Gs', **static_kwargs):
    """State of a network of 2018. `variables` is {name: array}; the scalar is a NumPy scalar, as in the release."""
    values = [(key, value if np.ndim(value) else np.float32(value)) for key, value in variables.items()]
    return {'version': 2, 'name': name, 'static_kwargs': static_kwargs, 'build_module_src': 'raise SystemExit',
            'build_func_name': func, 'variables': values}


def text_of_python_2(value):
    """`value` pickled in protocol 0 as by Python 2.7. A dict with 'build_func_spec' is the state of a 2017 network."""
    if isinstance(value, (tuple, list)):
        return b'(' + b''.join(map(text_of_python_2, value)) + (b't' if isinstance(value, tuple) else b'l')
    if isinstance(value, dict):
        items = b''.join(text_of_python_2(key) + text_of_python_2(item) + b's' for key, item in value.items())
        if 'build_func_spec' not in value:
            return b'(d' + items
        return b'ccopy_reg\n_reconstructor\n(cnetwork\nNetwork\nc__builtin__\nobject\nNtR(d' + items + b'b'
    if isinstance(value, (np.ndarray, np.generic)):
        dtype = b'cnumpy\ndtype\n' + text_of_python_2((value.dtype.str[1:], 0, 1)) + b'R' + text_of_python_2(
            (3, '<', None, None, None, -1, -1, 0)) + b'b'
        if isinstance(value, np.generic):
            return b'cnumpy.core.multiarray\nscalar\n(' + dtype + text_of_python_2(value.tobytes()) + b'tR'
        return b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n' + text_of_python_2((0,)) + text_of_python_2(
            'b') + b'tR(' + text_of_python_2(1) + text_of_python_2(value.shape) + dtype + b'I00\n' + text_of_python_2(
            value.tobytes()) + b'tb'
    if isinstance(value, (str, bytes)):
        return b'S' + repr(value.encode('latin1') if isinstance(value, str) else value)[1:].encode() + b'\n'
    if value is None:
        return b'N'
    return (b'I%02d\n' if isinstance(value, bool) else b'I%d\n' if isinstance(value, int) else b'F%r\n') % value


def with_numpy_names(data, core):
    """A pickle of protocol 2 or 3 with the module names of NumPy 1 (`core` is 'core') or NumPy 2 ('_core')."""
    return re.sub(rb'cnumpy\._?core\.', b'cnumpy.%s.' % core.encode(), data)


def write(tmp_path, data, name='networks.pkl'):
    path = tmp_path / name
    path.write_bytes(data)
    return str(path)


def small_state_2018(**changes):
    from nets.network import Network
    net = Network('G', func='networks_2018.G_paper', resolution=4, fmap_base=8, fmap_max=2, latent_size=2)
    variables = {'lod' if name == 'cur_lod' else name: var.get_value() for name, var in net.vars.items()}
    return dict(state_2018('G_paper', variables, **net.static_kwargs), **changes)


def small_state_2017(**changes):
    from nets.network import Network
    net = Network('G', func='networks.G_paper', resolution=4, fmap_base=8, fmap_max=2, latent_size=2)
    params = [var.get_value() for var in list(net.vars.values())[:net.num_layer_params]]
    return dict(state_2017('G_paper', params, {'cur_lod': np.float32(0)}, **net.static_kwargs), **changes)


LEGACY_IMPORT = json.loads((GOLDEN / 'tf' / 'legacy_import.json').read_text())['cases']


def legacy_import_state(case):
    """(recorded arrays, state of the recorded network of the 2017 release)."""
    arrays, _meta = load_golden('tf/legacy_import')
    params = [arrays[f'{case["tag"]}/theano/{param["index"]:03d}']
              if f'{case["tag"]}/theano/{param["index"]:03d}' in arrays
              else arrays[f'{case["tag"]}/theano/{param["index"]}'] for param in case['theano_params']]
    toplevel = {name: np.float32(value) for name, value in case['toplevel_params'].items()}
    spec = dict(case['theano_build_func_spec'])
    return arrays, state_2017(spec.pop('func'), params, toplevel, **spec)
