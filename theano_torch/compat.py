"""Keep Theano 1.0.5 and Lasagne 0.1 alive on today's Python, NumPy and SciPy.

Importing `theano_torch` imports this module first: ``import theano`` and ``import lasagne`` work from then on. A module
that is imported before anything else of the project takes them from here, in one sorted block of imports::

    from theano_torch.compat import T, lasagne, theano

This is the only module that patches anything. Every patch restores what a newer Python, NumPy or SciPy took away. The
one thing that worked and is replaced is a loop that took seconds, see `_speed_up_random_streams`.

Lasagne is optional: without it, `lasagne` is None.
"""

import configparser
import contextlib
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= '2.0.0'

__all__ = ['T', 'lasagne', 'theano']


class _Casts(dict):
    """NumPy's removed `np.cast[dtype](x)`."""

    def __missing__(self, dtype: Any) -> Callable[[Any], np.ndarray]:
        return lambda x: np.asarray(x).astype(dtype)


def _restore_numpy_names() -> None:
    """Names that NumPy removed in 1.24 and 2.0 and that Theano 1.0.5 and Lasagne 0.1 use."""
    removed = dict(bool=bool, int=int, float=float, object=object, complex=complex, str=str, cast=_Casts(),
                   product=np.prod, alltrue=np.all, sometrue=np.any, float_=np.float64, complex_=np.complex128,
                   Inf=np.inf, NaN=np.nan, MAXDIMS=32,
                   sctype2char=lambda dtype: np.dtype(dtype).char,
                   ComplexWarning=getattr(np, 'exceptions', np).ComplexWarning)
    deprecated = ('product', 'alltrue', 'sometrue')     # Still there before NumPy 2, with a warning at every call.
    for name, value in removed.items():
        if name not in np.__dict__ or name in deprecated:
            setattr(np, name, value)


def _stub(name: str, **contents: Any) -> None:
    """Register a module `name` with the given contents unless the real one is already imported."""
    if name in sys.modules:
        return
    module = types.ModuleType(name, 'Stand-in made by theano_torch.compat for a module that newer Pythons do not have.')
    module.__dict__.update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition('.')
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


@contextlib.contextmanager
def _temporary_stub(name: str, **contents: Any) -> Iterator[None]:
    """`_stub` for the duration of one import, so that nobody else takes the stand-in for the real module."""
    present = name in sys.modules
    _stub(name, **contents)
    try:
        yield
    finally:
        if not present:
            stub = sys.modules.pop(name)
            parent, _, child = name.rpartition('.')
            if getattr(sys.modules.get(parent), '__dict__', {}).get(child) is stub:
                delattr(sys.modules[parent], child)


def _restore_build_modules() -> None:
    """`numpy.distutils`, `distutils` and `imp`: Theano asks them for include paths and the name of the compiler only.

    `numpy.distutils` is always stood in for: it takes long to import, warns, and does not import at all beside a
    newer setuptools.
    """
    _stub('numpy.distutils')
    _stub('numpy.distutils.__config__', blas_opt_info={})
    _stub('numpy.distutils.misc_util', get_numpy_include_dirs=lambda: [np.get_include()])
    _stub('numpy.distutils.system_info', system_info=types.SimpleNamespace(verbosity=0), get_info=lambda name: {})
    if importlib.util.find_spec('distutils') is None:
        paths = sysconfig.get_paths()
        _stub('distutils')
        _stub('distutils.spawn', find_executable=shutil.which)
        _stub('distutils.sysconfig',
              get_config_var=sysconfig.get_config_var,
              get_config_h_filename=sysconfig.get_config_h_filename,
              get_python_inc=lambda plat_specific=False: paths['platinclude' if plat_specific else 'include'],
              get_python_lib=lambda plat_specific=False, standard_lib=False: paths['purelib'],
              get_python_version=sysconfig.get_python_version)
    if importlib.util.find_spec('imp') is None:
        _stub('imp')


class _ScanImports:
    """Finds a module that `theano.scan` imports and that imports two others which are gone.

    Newer setuptools lack `pkg_resources`, newer NumPys `numpy.linalg.linalg`. Both are stood in for during that import.
    """

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname != 'theano.gpuarray.linalg':
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _WithStandIns(fullname, spec.origin)
        return spec


class _WithStandIns(importlib.machinery.SourceFileLoader):
    """Imports a module that takes an exception from each of two modules."""

    def exec_module(self, module):
        with _temporary_stub('pkg_resources', DistributionNotFound=importlib.metadata.PackageNotFoundError), \
                _temporary_stub('numpy.linalg.linalg', LinAlgError=np.linalg.LinAlgError):
            super().exec_module(module)


def _restore_scan() -> None:
    """Let `theano.scan` be imported, and Theano's own engines run it with the loop in Python.

    The loop in C is a file that Cython generated in 2018, for the Pythons of then. It does not compile with today's.
    Theano takes its loop in Python instead only where there is no compiler.
    """
    sys.meta_path.insert(0, _ScanImports)
    sys.modules['theano.scan_module.scan_perform_ext'] = None   # type: ignore[assignment]  # Importing it fails.


def _user_device() -> str | None:
    """The device in THEANO_FLAGS or else in Theano's configuration files, None if there is none."""
    flags = [flag.partition('=') for flag in os.environ.get('THEANO_FLAGS', '').split(',')]
    named = [value.strip() for name, _, value in flags if name.strip() == 'device']
    if named:
        return named[-1] or None
    files = os.environ.get('THEANORC', '~/.theanorc' + (os.pathsep + '~/.theanorc.txt') * (os.name == 'nt'))
    parser = configparser.RawConfigParser()
    parser.read(os.path.expanduser(path) for path in files.split(os.pathsep))
    return parser.get('global', 'device', fallback='').partition('#')[0].strip() or None


@contextlib.contextmanager
def _import_flags() -> Iterator[None]:
    """Set THEANO_FLAGS for the import of Theano; whatever the user put there keeps the last word, but for the device.

    Theano would start its own GPU code, which no longer builds, or refuse the names of the one before that: a device
    in the user's flags or in ~/.theanorc becomes `USER_DEVICE`.

    No compiler and no BLAS are looked for yet: a Theano that runs on PyTorch needs neither, and compiling Theano's C
    helpers at import takes half a minute. Whoever runs Theano's C code sets both.
    """
    before = os.environ.get('THEANO_FLAGS')
    ours = 'cxx=,blas.ldflags=,floatX=float32,traceback.limit=0'
    home = os.path.expanduser('~')
    if not os.access(home, os.W_OK):
        user = f'-{os.getuid()}' if hasattr(os, 'getuid') else ''      # Windows has one such folder for each user.
        ours += ',base_compiledir=' + os.path.join(tempfile.gettempdir(), 'theano' + user)
    os.environ['THEANO_FLAGS'] = ','.join(filter(None, [ours, before, 'device=cpu,init_gpu_device=,contexts=']))
    try:
        yield
    finally:
        if before is None:
            del os.environ['THEANO_FLAGS']
        else:
            os.environ['THEANO_FLAGS'] = before


def _pool_2d_of_2015(input, ds, ignore_border=None, st=None, padding=(0, 0), mode='max'):
    """`theano.tensor.signal.downsample.max_pool_2d`, the name and spelling that Lasagne 0.1 calls."""
    from theano.tensor.signal.pool import pool_2d
    return pool_2d(input, ws=ds, ignore_border=ignore_border, stride=st, pad=padding, mode=mode)


def _scipy_convolution_of_2015() -> tuple[dict, dict]:
    """The private SciPy functions behind Theano's Python convolutions, on top of SciPy's public ones."""
    def convolve2d(in1, in2, flip, mode, boundary, fill):
        from scipy import signal
        function = signal.convolve2d if flip else signal.correlate2d
        return function(in1, in2, mode=mode, boundary=boundary, fillvalue=fill)

    def convolve(*args, **kwargs):
        from scipy import signal
        return signal.convolve(*args, **kwargs)

    return (dict(_valfrommode=str, _bvalfromboundary=str, convolve=convolve), dict(_convolve2d=convolve2d))


class _ListIndexed(np.ndarray):
    """An array that still takes a list of slices as an index, as arrays did before NumPy 1.23."""

    def __getitem__(self, index):
        return super().__getitem__(tuple(index) if isinstance(index, list) else index)

    def __setitem__(self, index, value):
        super().__setitem__(tuple(index) if isinstance(index, list) else index, value)


def _restore_python_pooling() -> None:
    """Let the Python code of Theano's pooling ops, which the `python` engine runs, index with lists of slices."""
    from theano.tensor.signal import pool

    class Numpy:
        zeros = staticmethod(lambda *args, **kwargs: np.zeros(*args, **kwargs).view(_ListIndexed))

        def __getattr__(self, name):
            return getattr(np, name)

    def repaired(perform):
        def run(self, node, inputs, outputs, *params):
            perform(self, node, [inputs[0].view(_ListIndexed), *inputs[1:]], outputs, *params)
            outputs[0][0] = np.asarray(outputs[0][0])
        return run

    pool.np = Numpy()
    for op in (pool.Pool, pool.MaxPoolGrad, pool.AveragePoolGrad, pool.DownsampleFactorMaxGradGrad, pool.MaxPoolRop):
        op.perform = repaired(op.perform)


def _speed_up_random_streams() -> None:
    """Compute the start states of Theano's MRG streams with whole arrays: the same numbers in 1/1000 of the time.

    Theano steps through the 15360 streams of a minibatch of unknown size one by one with a compiled function, at every
    compilation of the training functions.
    """
    from theano.sandbox import rng_mrg

    def modular_product(a, b, modulus):
        """a @ b modulo `modulus`; the entries fit 31 bits, their products 62."""
        return (a[:, :, np.newaxis] * b[np.newaxis] % modulus).sum(axis=1) % modulus

    def multiply_state(state, a, modulus1, b, modulus2):
        halves = np.asarray(state, dtype=np.int64).reshape(2, 3, 1)
        return np.concatenate([modular_product(a, halves[0], int(modulus1)),
                               modular_product(b, halves[1], int(modulus2))]).ravel().astype(np.int32)

    def get_substream_rstates(self, n_streams, dtype, inc_rstate=True):
        """States of `n_streams` streams, each 2^72 samples after the one before it; int32 (n_streams, 6)."""
        states = np.asarray(self.rstate, dtype=np.int64).reshape(1, 6)
        jumps = [(rng_mrg.A1p72, int(rng_mrg.M1)), (rng_mrg.A2p72, int(rng_mrg.M2))]
        while len(states) < n_streams:      # The second half of the streams is the first half, jumped ahead.
            ahead = [modular_product(states[:, 3 * i:3 * i + 3], jump.T, modulus)
                     for i, (jump, modulus) in enumerate(jumps)]
            states = np.concatenate([states, np.concatenate(ahead, axis=1)])
            jumps = [(modular_product(jump, jump, modulus), modulus) for jump, modulus in jumps]
        if inc_rstate:
            self.inc_rstate()
        return states[:n_streams].astype(np.int32)

    rng_mrg.multMatVect = multiply_state
    rng_mrg.MRG_RandomStreams.get_substream_rstates = get_substream_rstates


def _restore_number_rules():
    """What NumPy 1 did with Python's numbers beside narrower ones of its own, and NumPy 2 does otherwise.

    Theano finds the type of a constant by trying the narrow ones and comparing. NumPy 2 says OverflowError to an
    integer that does not fit, and compares a float in the narrow type, in which it always fits: constants of float64
    graphs would have the precision of float32. The Python code of reciprocals divides a float32 by Python's floats,
    that of the MRG streams masks an int32 with 32 bits, and that of multinomial samples multiplies an int8, their
    number, with the number of rows.
    """
    import theano
    from theano.sandbox import multinomial, rng_mrg
    from theano.scalar.basic import Inv, NumpyAutocaster
    asarray, next_value, autocast = theano._asarray, rng_mrg.mrg_next_value, NumpyAutocaster.__call__

    def wrapping_asarray(a, dtype, order=None):
        try:
            return asarray(a, dtype, order)
        except OverflowError:
            if not NUMPY_2:
                raise
            return asarray(np.asarray(a, dtype=np.int64).astype(dtype), dtype, order)    # Raises beyond 64 bits.

    def wide_next_value(rstate, new_rstate, NORM, mask, offset):
        return next_value(rstate, new_rstate, NORM, np.int64(mask), offset)

    def exact_autocast(self, x):
        if type(x) is not float or theano.config.cast_policy != 'custom' or theano.config.floatX != 'float64':
            return autocast(self, x)
        for dtype in self.dtypes:
            array = asarray(x, dtype)
            if dtype != 'float16' and array.item() == x:
                break
        return array

    def reciprocal(self, x):
        return (np.float32(1) if isinstance(x, np.generic) else np.float64(1)) / x

    def with_wide_count(perform):
        return lambda self, node, inputs, outputs: perform(
            self, node, [*inputs[:2], *map(np.int64, inputs[2:])], outputs)

    for op in (multinomial.MultinomialFromUniform, multinomial.ChoiceFromUniform):
        op.perform = with_wide_count(op.perform)
    theano._asarray = wrapping_asarray
    Inv.impl = reciprocal
    NumpyAutocaster.__call__ = exact_autocast
    rng_mrg.mrg_next_value = wide_next_value


def _import_theano() -> tuple[types.ModuleType, types.ModuleType | None]:
    """Import Theano and Lasagne quietly, with what they miss restored; return both."""
    _restore_numpy_names()
    _restore_build_modules()
    # Both warn about the C compiler and the BLAS that are not looked for yet.
    loggers = [logging.getLogger(name) for name in ('theano.configdefaults', 'theano.tensor.blas')]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    signaltools, sigtools = _scipy_convolution_of_2015()
    with _import_flags(), warnings.catch_warnings(), \
            _temporary_stub('scipy.signal.signaltools', **signaltools), \
            _temporary_stub('scipy.signal.sigtools', **sigtools), \
            _temporary_stub('scipy.stats'):     # For one rare op, which finds the real one; half a second, 30 MB.
        warnings.simplefilter('ignore')
        import theano
        import theano.tensor.signal
        _stub('theano.tensor.signal.downsample', max_pool_2d=_pool_2d_of_2015)
        lasagne = _import_lasagne()
    _restore_scan()
    _restore_python_pooling()
    _speed_up_random_streams()
    _restore_number_rules()
    for logger in loggers:
        logger.setLevel(logging.NOTSET)
    return theano, lasagne


def _import_lasagne() -> types.ModuleType | None:
    """Lasagne, or None where it is not installed.

    It asks the package resources for its version; newer setuptools no longer have them.
    """
    if not importlib.util.find_spec('lasagne'):
        return None
    with _temporary_stub('pkg_resources', get_distribution=importlib.metadata.distribution):
        import lasagne
    return lasagne


try:
    USER_DEVICE = _user_device()
    theano, lasagne = _import_theano()
except (ValueError, configparser.Error) as error:
    # What the user has set; Theano itself raises nothing of this kind.
    raise SystemExit(f'error: Theano cannot be imported with what stands in THEANO_FLAGS or ~/.theanorc: '
                     f'{" ".join(str(error).split())}') from error
T = theano.tensor
