"""Make Theano 1.0.5 and Lasagne 0.1 work with today's Python, NumPy and SciPy.

Importing `theano_torch` imports this module first; ``import theano`` and ``import lasagne`` work from then on. Modules
that may be imported first take both from here, in one sorted block of imports::

    from theano_torch.compat import T, lasagne, theano

Only this module patches anything. Each patch restores something that newer versions of Python, NumPy or SciPy removed;
the exception is a slow loop that is replaced, see `_speed_up_random_streams`.

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
    """Restore names that NumPy 1.24 and 2.0 removed, and that Theano 1.0.5 and Lasagne 0.1 use."""
    removed = dict(bool=bool, int=int, float=float, object=object, complex=complex, str=str, cast=_Casts(),
                   product=np.prod, alltrue=np.all, sometrue=np.any, float_=np.float64, complex_=np.complex128,
                   Inf=np.inf, NaN=np.nan, MAXDIMS=32,
                   sctype2char=lambda dtype: np.dtype(dtype).char,
                   ComplexWarning=getattr(np, 'exceptions', np).ComplexWarning)
    deprecated = ('product', 'alltrue', 'sometrue')     # NumPy 1 has them, but each call warns.
    for name, value in removed.items():
        if name not in np.__dict__ or name in deprecated:
            setattr(np, name, value)


def _stub(name: str, **contents: Any) -> None:
    """Register a module `name` with the given contents, unless the real one is already imported."""
    if name in sys.modules:
        return
    module = types.ModuleType(name, 'Stand-in by theano_torch.compat for a module that newer Pythons do not have.')
    module.__dict__.update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition('.')
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


@contextlib.contextmanager
def _temporary_stub(name: str, **contents: Any) -> Iterator[None]:
    """`_stub` for the duration of an import, so that no other code takes the stand-in for the real module."""
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
    """Replace `numpy.distutils`, `distutils` and `imp`; Theano needs only include paths and the compiler's name.

    `numpy.distutils` is always replaced: its import is slow, prints warnings, and fails with newer versions of
    setuptools.
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
    """Import hook for a module of `theano.scan`, which imports two modules that no longer exist.

    Newer setuptools lack `pkg_resources`, newer NumPys lack `numpy.linalg.linalg`. Both are replaced during the import.
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
    """Loader that provides the exception classes that a module imports from the two missing modules."""

    def exec_module(self, module):
        with _temporary_stub('pkg_resources', DistributionNotFound=importlib.metadata.PackageNotFoundError), \
                _temporary_stub('numpy.linalg.linalg', LinAlgError=np.linalg.LinAlgError):
            super().exec_module(module)


def _restore_scan() -> None:
    """Make `theano.scan` importable, and make Theano's own engines use the loop in Python.

    The loop in C, which Cython generated in 2018, does not compile with today's Python. Theano by itself uses the loop
    in Python only if there is no compiler.
    """
    sys.meta_path.insert(0, _ScanImports)
    sys.modules['theano.scan_module.scan_perform_ext'] = None   # type: ignore[assignment]  # Importing it fails.


def _user_device() -> str | None:
    """The device in THEANO_FLAGS, or else in Theano's configuration files; None if there is none."""
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
    """Set THEANO_FLAGS for the import of Theano. The user's own flags take precedence, except for the device.

    Theano would start its own GPU code, which no longer compiles, or reject device names of even older GPU code.
    Therefore a device in the user's flags or in ~/.theanorc becomes `USER_DEVICE`.

    The search for compiler and BLAS is switched off: Theano on PyTorch needs neither, and compiling Theano's C helpers
    on import takes half a minute. Engines that run Theano's C code set both.
    """
    before = os.environ.get('THEANO_FLAGS')
    ours = 'cxx=,blas.ldflags=,floatX=float32,traceback.limit=0'
    home = os.path.expanduser('~')
    if not os.access(home, os.W_OK):
        user = f'-{os.getuid()}' if hasattr(os, 'getuid') else ''      # On Windows the folder belongs to the user.
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
    """`theano.tensor.signal.downsample.max_pool_2d`, with the name and arguments that Lasagne 0.1 uses."""
    from theano.tensor.signal.pool import pool_2d
    return pool_2d(input, ws=ds, ignore_border=ignore_border, stride=st, pad=padding, mode=mode)


def _scipy_convolution_of_2015() -> tuple[dict, dict]:
    """Private SciPy functions that Theano's Python convolutions use, implemented with SciPy's public ones."""
    def convolve2d(in1, in2, flip, mode, boundary, fill):
        from scipy import signal
        function = signal.convolve2d if flip else signal.correlate2d
        return function(in1, in2, mode=mode, boundary=boundary, fillvalue=fill)

    def convolve(*args, **kwargs):
        from scipy import signal
        return signal.convolve(*args, **kwargs)

    return (dict(_valfrommode=str, _bvalfromboundary=str, convolve=convolve), dict(_convolve2d=convolve2d))


class _ListIndexed(np.ndarray):
    """An array that accepts a list of slices as an index, as before NumPy 1.23."""

    def __getitem__(self, index):
        return super().__getitem__(tuple(index) if isinstance(index, list) else index)

    def __setitem__(self, index, value):
        super().__setitem__(tuple(index) if isinstance(index, list) else index, value)


def _restore_python_pooling() -> None:
    """Make the Python code of Theano's pooling ops, which the `python` engine runs, index with lists of slices."""
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
    """Compute the initial states of Theano's MRG streams with whole arrays: same numbers, in 1/1000 of the time.

    For a minibatch of unknown size, Theano makes the states of 15360 streams one by one with a compiled function, each
    time the training functions are compiled.
    """
    from theano.sandbox import rng_mrg

    def modular_product(a, b, modulus):
        """a @ b modulo `modulus`; the entries have 31 bits, their products 62."""
        return (a[:, :, np.newaxis] * b[np.newaxis] % modulus).sum(axis=1) % modulus

    def multiply_state(state, a, modulus1, b, modulus2):
        halves = np.asarray(state, dtype=np.int64).reshape(2, 3, 1)
        return np.concatenate([modular_product(a, halves[0], int(modulus1)),
                               modular_product(b, halves[1], int(modulus2))]).ravel().astype(np.int32)

    def get_substream_rstates(self, n_streams, dtype, inc_rstate=True):
        """States of `n_streams` streams, each 2^72 samples after the previous one; int32 (n_streams, 6)."""
        states = np.asarray(self.rstate, dtype=np.int64).reshape(1, 6)
        jumps = [(rng_mrg.A1p72, int(rng_mrg.M1)), (rng_mrg.A2p72, int(rng_mrg.M2))]
        while len(states) < n_streams:      # Double the number of streams by jumping ahead.
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
    """Restore NumPy 1's rules for Python numbers combined with narrower NumPy numbers, which NumPy 2 changed.

    Theano determines the type of a constant by comparing it with its value in narrow types. In NumPy 2, integers that
    do not fit raise OverflowError, and floats are compared in the narrow type, where they always fit: constants of
    float64 graphs would have the precision of float32. In addition, the Python code of reciprocals divides a float32 by
    Python floats, that of the MRG streams masks an int32 with 32 bits, and that of multinomial samples multiplies an
    int8, the number of samples, by the number of rows.
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
            return asarray(np.asarray(a, dtype=np.int64).astype(dtype), dtype, order)    # Raises above 64 bits.

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
    """Import Theano and Lasagne without warnings, with everything restored that they need; return both."""
    _restore_numpy_names()
    _restore_build_modules()
    # Both warn about the missing C compiler and BLAS.
    loggers = [logging.getLogger(name) for name in ('theano.configdefaults', 'theano.tensor.blas')]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    signaltools, sigtools = _scipy_convolution_of_2015()
    with _import_flags(), warnings.catch_warnings(), \
            _temporary_stub('scipy.signal.signaltools', **signaltools), \
            _temporary_stub('scipy.signal.sigtools', **sigtools), \
            _temporary_stub('scipy.stats'):     # Used by one rare op, which gets the real one; saves 0.5 s and 30 MB.
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
    """Import Lasagne; None if it is not installed.

    Lasagne reads its version by means of `pkg_resources`, which newer setuptools lack.
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
    # The user's settings are the cause: Theano itself raises no such error.
    raise SystemExit(f'error: Theano cannot be imported with the settings in THEANO_FLAGS or ~/.theanorc: '
                     f'{" ".join(str(error).split())}') from error
T = theano.tensor
