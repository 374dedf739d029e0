"""Make Theano 1.0.5 and Lasagne 0.1 import and run on today's Python and NumPy, and choose what executes the graphs.

Importing this module is enough to make ``import theano`` and ``import lasagne`` work afterwards. What runs the compiled
functions is chosen by :func:`configure`:

======== ===========================================================================================================
engine   what executes an optimised Theano graph
======== ===========================================================================================================
torch    `theano_torch`: a Theano linker on PyTorch (cuDNN on a CUDA GPU, oneDNN on the CPU)
theano   Theano's own C code: needs g++, and a BLAS to be fast
python   Theano's own Python thunks: need nothing, slow, for checks
auto     torch if PyTorch can be imported, else theano if there is a g++, else python
======== ===========================================================================================================

Theano's own two need NumPy 1, torch runs on NumPy 2, too.

This is the only module of the project that patches anything. Every patch restores what a newer Python, NumPy or SciPy
took away; the one thing that worked and is replaced is a loop that took seconds, see `_speed_up_random_streams`.
"""

import contextlib
import ctypes.util
import difflib
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
import tempfile
import threading
import types
import warnings
from typing import NamedTuple

import numpy as np

ENGINES = ('auto', 'torch', 'theano', 'python')
COMPILING = threading.RLock()   # For whoever compiles functions beside other threads: Theano is not made for that.
NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= '2.0.0'
PRECISIONS = ('auto', 'float32', 'tf32', 'bfloat16', 'float16')


class EnvironmentProblem(ValueError):
    """A flag, device or engine that cannot be had on this machine. The message is one line that names the cure."""


# ----------------------------------------------------------------------------------------------------------------------
# What has to be restored before `import theano` works.


class _Casts(dict):
    """NumPy's removed `np.cast[dtype](x)`."""

    def __missing__(self, dtype):
        return lambda x: np.asarray(x).astype(dtype)


def _restore_numpy_names():
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


def _stub(name, **contents):
    """Register a module `name` with the given contents unless the real one is already imported."""
    if name in sys.modules:
        return
    module = types.ModuleType(name, 'Stand-in made by theano_env.py for a module that newer Pythons do not have.')
    module.__dict__.update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition('.')
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


@contextlib.contextmanager
def _temporary_stub(name, **contents):
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


def _restore_build_modules():
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


@contextlib.contextmanager
def _import_flags():
    """Set THEANO_FLAGS for the import of Theano; whatever the user put there keeps the last word.

    No compiler and no BLAS are looked for yet: a Theano that runs on PyTorch needs neither, and compiling Theano's C
    helpers at import takes half a minute. :func:`configure` sets both for the engine that needs them.
    """
    before = os.environ.get('THEANO_FLAGS')
    ours = 'cxx=,blas.ldflags=,floatX=float32,traceback.limit=0'
    home = os.path.expanduser('~')
    if not os.access(home, os.W_OK):
        user = f'-{os.getuid()}' if hasattr(os, 'getuid') else ''      # Windows has one such folder for each user.
        ours += ',base_compiledir=' + os.path.join(tempfile.gettempdir(), 'theano' + user)
    os.environ['THEANO_FLAGS'] = ours + (',' + before if before else '')
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


def _scipy_convolution_of_2015():
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


def _restore_python_pooling():
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


def _speed_up_random_streams():
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
    graphs would have the precision of float32. The Python code of reciprocals divides a float32 by Python's floats, and
    that of the MRG streams masks an int32 with 32 bits.
    """
    import theano
    from theano.sandbox import rng_mrg
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

    theano._asarray = wrapping_asarray
    Inv.impl = reciprocal
    NumpyAutocaster.__call__ = exact_autocast
    rng_mrg.mrg_next_value = wide_next_value


def _import_theano():
    """Import Theano and Lasagne quietly, with what they miss restored."""
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
        import theano.tensor.signal  # noqa: F401
        _stub('theano.tensor.signal.downsample', max_pool_2d=_pool_2d_of_2015)
        # Lasagne asks the package resources for its version; newer setuptools no longer have them.
        with _temporary_stub('pkg_resources', get_distribution=importlib.metadata.distribution):
            import lasagne  # noqa: F401
    _restore_python_pooling()
    _speed_up_random_streams()
    _restore_number_rules()
    for logger in loggers:
        logger.setLevel(logging.NOTSET)


_import_theano()


# ----------------------------------------------------------------------------------------------------------------------
# Choosing the engine.


class Environment(NamedTuple):
    """What :func:`configure` chose; ``str()`` of it is one line for the log."""

    engine: str       # 'torch', 'theano' or 'python'
    device: str       # 'cpu' or 'cuda:N'
    precision: str    # 'float32', 'tf32', 'bfloat16' or 'float16', see configure
    description: str

    def __str__(self):
        return self.description


def configure(engine='auto', flags=None, local_rank=None, precision='auto'):
    """Choose what runs Theano functions from now on and set Theano's flags.

    Parameters
    ----------
    engine : str
        One of `ENGINES`, see the table at the top of this module.
    flags : dict or None
        Theano flags by their full names of 2017 (``{'floatX': 'float32', 'dnn.conv.algo_bwd_filter':
        'deterministic'}``). ``device`` is ``'auto'`` (default: the first GPU, else the CPU), ``'cpu'``, ``'cuda'`` or
        ``'cudaN'``; the older spelling ``'gpuN'`` works too.
    local_rank : int or None
        Of several processes on this machine that each take a GPU of their own, the number of this one: ``'auto'`` then
        means the GPU of that number.
    precision : str
        One of `PRECISIONS`: what the torch engine computes convolutions and matrix products of float32 in, see
        `theano_torch.install`. ``'auto'`` is ``'tf32'`` on GPUs that have it, else ``'float32'``.

    Returns
    -------
    Environment

    Raises
    ------
    EnvironmentProblem
        Unknown flag, bad value, or an engine or device that this machine does not have.
    """
    import theano
    flags = dict(flags or {})
    if engine not in ENGINES:
        raise EnvironmentProblem(f'engine={engine!r}: choose one of {", ".join(ENGINES)}')
    if precision not in PRECISIONS:
        raise EnvironmentProblem(f'precision={precision!r}: choose one of {", ".join(PRECISIONS)}')
    device = _parse_device(flags.pop('device', 'auto'), local_rank)
    _set_flags(flags)
    asked = engine
    if engine == 'auto':
        engine = 'torch' if importlib.util.find_spec('torch') else 'theano' if _find_compiler() else 'python'
    if engine != 'torch' and device.startswith('cuda'):
        raise EnvironmentProblem(f'device={device!r}: only the torch engine runs on a GPU; pip install torch, or set '
                                 'device to \'cpu\'')
    if engine != 'torch' and precision not in ('auto', 'float32'):
        raise EnvironmentProblem(f"precision={precision!r}: only the torch engine has it; use 'float32', or set engine "
                                 "to 'torch'")
    if engine == 'torch':
        mode, device, precision, description = _torch_engine(device, local_rank, precision)
    else:
        if NUMPY_2:
            raise EnvironmentProblem(f"engine={asked!r}: Theano's own engines need NumPy 1, this is {np.__version__}; "
                                     "pip install 'numpy<2', or pip install torch and set engine to 'torch'")
        precision = 'float32'
        mode, device, description = {'theano': _theano_engine, 'python': _python_engine}[engine](device)
    theano.config.mode = mode
    return Environment(engine, device, precision, 'Engine: %s, %s%s' % (
        description, theano.config.floatX, '' if precision == 'float32' else ', products in ' + precision))


def _parse_device(device, local_rank=None):
    """'auto', 'cpu' or 'cuda:N' out of the spellings 'cpu', 'cuda', 'cudaN', 'cuda:N', 'gpu', 'gpuN'."""
    name = str(device).replace(':', '')
    if local_rank is not None and name.startswith(('cuda', 'gpu')):
        raise EnvironmentProblem(f"theano_flags['device']={device!r}: every process of a run takes a GPU of its own; "
                                 "use 'auto' or 'cpu'")
    for prefix in ('cuda', 'gpu'):
        number = name[len(prefix):]
        if name.startswith(prefix) and (number == '' or number.isdigit()):
            return f'cuda:{int(number or 0)}'
    if name not in ('auto', 'cpu'):
        raise EnvironmentProblem(f"theano_flags['device']={device!r}: use 'auto', 'cpu', 'cuda', 'cuda0', 'cuda1', ...")
    return name


def _set_flags(flags):
    """Set Theano flags by full name; an unknown name or value is an error that names it."""
    import theano
    from theano.configparser import _config_var_list
    known = {param.fullname: param for param in _config_var_list}
    for name, value in flags.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise EnvironmentProblem('theano_flags[%r]: Theano has no such flag%s' % (
                name, '; did you mean %r?' % near[0] if near else ''))
        section, _, leaf = name.rpartition('.')
        owner = theano.config
        for part in filter(None, section.split('.')):
            owner = getattr(owner, part)
        if getattr(owner, leaf) == value or str(getattr(owner, leaf)) == str(value):
            continue
        if not known[name].allow_override:
            raise EnvironmentProblem(f'theano_flags[{name!r}]={value!r}: Theano reads this flag only while it is '
                                     f'imported; set it in the environment instead: THEANO_FLAGS={name}={value}')
        try:
            setattr(owner, leaf, value)
        except (ValueError, TypeError) as error:
            raise EnvironmentProblem(f'theano_flags[{name!r}]={value!r}: {" ".join(str(error).split())}') from error


def _torch_engine(device, local_rank, precision):
    import theano
    if importlib.util.find_spec('torch') is None:
        raise EnvironmentProblem("engine='torch': PyTorch is missing; pip install torch, or set engine to 'theano'")
    # How long an OpenMP thread waits awake for more work (loops). The default of 300 000 is fast on a quiet machine and
    # up to forty times slower beside busy neighbours; 3000 is 1.2 and 3 times slower (benchmarks/README.md). PyTorch
    # must not have been imported before.
    os.environ.setdefault('GOMP_SPINCOUNT', '3000')
    import torch

    import theano_torch
    if device == 'auto':
        device = f'cuda:{local_rank or 0}' if torch.cuda.is_available() else 'cpu'
    if local_rank is not None and device.startswith('cuda') and local_rank >= torch.cuda.device_count():
        raise EnvironmentProblem(f"--nproc_per_node: process {local_rank} of this machine has no GPU, PyTorch sees "
                                 f"{torch.cuda.device_count()}; start that many processes, or set "
                                 "theano_flags['device'] to 'cpu'")
    if device.startswith('cuda') and int(device[5:]) >= torch.cuda.device_count():
        raise EnvironmentProblem(f"theano_flags['device']={device.replace(':', '')!r}: PyTorch sees "
                                 f"{torch.cuda.device_count()} CUDA GPUs here; set it to 'cpu' or 'auto'")
    has_tf32 = device != 'cpu' and torch.cuda.get_device_capability(device) >= (8, 0)
    if precision == 'tf32' and not has_tf32:
        raise EnvironmentProblem("precision='tf32': needs a GPU of compute capability 8.0; use 'auto' or 'float32'")
    if precision == 'auto':
        precision = 'tf32' if has_tf32 else 'float32'
    dnn = theano.config.dnn
    algorithms = [dnn.conv.algo_fwd, dnn.conv.algo_bwd_data, dnn.conv.algo_bwd_filter]
    mode = theano_torch.install(
        device=device,
        cudnn=dnn.enabled not in ('False', False),
        deterministic='deterministic' in algorithms or theano.config.deterministic == 'more',
        benchmark=any(algorithm.startswith('time_') for algorithm in algorithms),
        precision=precision)
    where = f'CPU ({torch.get_num_threads()} threads)'
    if device != 'cpu':
        where = f'GPU {device[5:]} ({torch.cuda.get_device_name(device)})'
    return mode, device, precision, f'torch {torch.__version__} on {where}'


def _theano_engine(device):
    import theano
    from theano.gof.vm import VM_Linker
    compiler = theano.config.cxx or _find_compiler()
    if not compiler:
        raise EnvironmentProblem("engine='theano': no g++ found; install one (Debian: apt install g++), or set "
                                 "engine to 'torch' (pip install torch)")
    theano.config.cxx = compiler
    blas = 'as set in blas.ldflags'
    if not theano.config.blas.ldflags:
        blas, theano.config.blas.ldflags, macros = _find_blas()
        if macros and macros not in theano.config.gcc.cxxflags:
            theano.config.gcc.cxxflags = (theano.config.gcc.cxxflags + ' ' + macros).strip()
    mode = theano.compile.Mode(VM_Linker(use_cloop=False, c_thunks=True), 'fast_run')
    return mode, 'cpu', f"Theano's C code ({compiler}, BLAS: {blas}); compiling takes minutes the first time"


def _python_engine(device):
    import theano
    from theano.gof.vm import VM_Linker
    theano.config.cxx = ''
    # Without the C-only convolutions the abstract ones stay in the graph; they have Python code.
    mode = theano.compile.Mode(VM_Linker(use_cloop=False, c_thunks=False), 'fast_run')
    mode = mode.excluding('conv_opts', 'AbstractConvCheck')
    return mode, 'cpu', "Theano's Python code, slow, for checks"


def _find_compiler():
    return shutil.which('clang++' if sys.platform == 'darwin' else 'g++') or ''


def _find_blas():
    """(name, blas.ldflags, compiler macros) of the best BLAS for Theano's C code; empty flags if there is none.

    The system's OpenBLAS comes first. The wheel `scipy-openblas32` serves as well: its symbols carry a prefix that the
    macros add to the names that Theano's sources use.
    """
    library = ctypes.util.find_library('openblas')
    if library:
        return library, '-l:' + library if sys.platform == 'linux' else '-lopenblas', ''
    if importlib.util.find_spec('scipy_openblas32'):
        import scipy_openblas32 as wheel
        names = [letter + name + '_' for letter in 'sd' for name in
                 ('gemm', 'gemv', 'ger', 'dot', 'axpy', 'swap', 'scal', 'copy', 'nrm2', 'asum', 'rot', 'rotg', 'rotm',
                  'rotmg', 'symv', 'syr', 'syr2', 'syrk', 'syr2k', 'symm', 'trmm', 'trmv', 'trsm', 'trsv')]
        names += ['openblas_get_num_threads', 'openblas_set_num_threads']
        macros = ' '.join(f'-D{name}=scipy_{name}' for name in names)
        return 'scipy-openblas32', f'-L{wheel.get_lib_dir()} -l{wheel.get_library()}', macros
    return 'none found, convolutions will be slow: pip install scipy-openblas32', '', ''
