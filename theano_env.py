"""Choose the engine, device and precision that execute Theano's graphs, and set Theano's flags.

``import theano`` and ``import lasagne`` work after this module is imported, see `theano_torch.compat`.
:func:`configure` chooses one of these engines:

======== ===========================================================================================================
engine   execution of an optimized Theano graph
======== ===========================================================================================================
torch    `theano_torch`: a Theano linker on PyTorch (cuDNN on a CUDA GPU, oneDNN on the CPU)
theano   Theano's own C code; needs g++, and a BLAS to be fast
python   Theano's own Python code; needs nothing, but is slow; for checks
auto     torch if PyTorch is installed, else theano if g++ is installed, else python
======== ===========================================================================================================

The engines theano and python need NumPy 1; torch also runs on NumPy 2.
"""

import argparse
import contextlib
import ctypes.util
import importlib.util
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple

import theano_torch
from theano_torch import gpus
from theano_torch.compat import NUMPY_2, USER_DEVICE, theano

import numpy as np

from common.arguments import RememberOrigin, said
from common.errors import did_you_mean
from common.old_options import advice

ENGINES = ('auto', 'torch', 'theano', 'python')
COMPILING = threading.RLock()   # Hold this to compile functions beside other threads: Theano is not thread-safe.
THEANOS_OWN_MODE = 'Mode'       # The value of theano.config.mode before an engine is chosen.
PRECISIONS = ('auto', 'float32', 'tf32', 'bfloat16', 'float16')


class EnvironmentProblem(ValueError):
    """A flag, device or engine that is not available on this machine. The message is one line that names the cure."""


class Environment(NamedTuple):
    """The choices of :func:`configure`; ``str()`` gives one line for the log."""

    engine: str       # 'torch', 'theano' or 'python'
    device: str       # 'cpu' or 'cuda:N'
    precision: str    # 'float32', 'tf32', 'bfloat16' or 'float16'
    description: str

    def __str__(self) -> str:
        return self.description


def add_arguments(parser: argparse.ArgumentParser, config: ModuleType) -> None:
    """Add the options --engine and --device to a parser; `config` is config.py."""
    parser.add_argument('--engine', default=config.engine, action=RememberOrigin,
                        help=f'auto, torch, theano or python; default: {config.engine}')
    parser.add_argument('--device', action=RememberOrigin,
                        help="cpu, cuda, cuda:1, ... or auto; default: theano_flags['device'] of config.py")


def with_device(flags: Mapping[str, object] | None, device: str | None) -> dict[str, object]:
    """Copy Theano flags, with `device` in place of their device unless it is None."""
    return {**(flags or {}), **({} if device is None else {'device': device})}


def configure(engine: str = 'auto', flags: dict[str, object] | None = None, local_rank: int | None = None,
              precision: str = 'auto', flush_denormals: bool = False) -> Environment:
    """Choose the engine for all Theano functions that are compiled from now on, and set Theano's flags.

    Parameters
    ----------
    engine : str
        One of `ENGINES`; see the table at the top of this module.
    flags : dict or None
        Theano flags by full name (``{'floatX': 'float32', 'dnn.conv.algo_bwd_filter': 'deterministic'}``). ``device``
        is ``'auto'`` (default: the first GPU, else the CPU), ``'cpu'``, ``'cuda'`` or ``'cudaN'``; the older spelling
        ``'gpuN'`` also works.
    local_rank : int or None
        Number of this process among several on this machine that each use one GPU. ``'auto'`` then means the GPU with
        this number.
    precision : str
        One of `PRECISIONS`: the type in which the torch engine computes float32 convolutions and matrix products, see
        `theano_torch.install`. ``'auto'`` is ``'tf32'`` on GPUs that support it, else ``'float32'``.
    flush_denormals : bool
        Whether the torch engine treats denormal numbers as zero in this process; for training.

    Returns
    -------
    Environment

    Raises
    ------
    EnvironmentProblem
        A flag is unknown, a value is invalid, or an engine or device is not available.
    """
    given: dict = dict(flags or {})
    if engine not in ENGINES:
        raise EnvironmentProblem(f'{said("engine", engine)}: choose one of {", ".join(ENGINES)}')
    if precision not in PRECISIONS:
        raise EnvironmentProblem(f'{said("precision", precision)}: choose one of {", ".join(PRECISIONS)}')
    spelt = given.pop('device', 'auto')
    device = _parse_device(spelt, local_rank)
    _set_flags(given)
    shown_engine = said('engine', engine)
    if engine == 'auto':
        engine = 'torch' if importlib.util.find_spec('torch') else 'theano' if _find_compiler() else 'python'
    if engine != 'torch' and device.startswith('cuda'):
        raise EnvironmentProblem(f'{_said_device(spelt)}: only the torch engine runs on a GPU; pip install torch, '
                                 "or set device to 'cpu'")
    if engine != 'torch' and precision not in ('auto', 'float32'):
        raise EnvironmentProblem(f"{said('precision', precision)}: only the torch engine has it; use 'float32', or set "
                                 "engine to 'torch'")
    if engine == 'torch':
        if importlib.util.find_spec('torch') is None:
            raise EnvironmentProblem(f"{shown_engine}: PyTorch is missing; pip install torch, or set engine "
                                     "to 'theano'")
        mode, device, precision, description = _torch_engine(device, local_rank, precision, spelt, flush_denormals)
    else:
        if NUMPY_2:
            raise EnvironmentProblem(f"{shown_engine}: Theano's own engines need NumPy 1, this is {np.__version__}; "
                                     "pip install 'numpy<2', or pip install torch and set engine to 'torch'")
        precision = 'float32'
        mode, device, description = {'theano': _theano_engine, 'python': _python_engine}[engine](device)
    theano.config.mode = mode
    return Environment(str(engine), device, str(precision), 'Engine: %s, %s%s' % (
        description, theano.config.floatX, '' if precision == 'float32' else ', products in ' + precision))


def ensure_configured() -> None:
    """Call :func:`configure` with its defaults, unless an engine has already been chosen."""
    if isinstance(theano.config.mode, str) and theano.config.mode == THEANOS_OWN_MODE:
        configure()


def _parse_device(device: str, local_rank: int | None = None) -> str:
    """Normalize the spellings 'auto', 'cpu', 'cuda', 'cudaN', 'cuda:N', 'gpu', 'gpuN' to 'auto', 'cpu' or 'cuda:N'."""
    name = str(device).replace(':', '')
    if local_rank is not None and name.startswith(('cuda', 'gpu')):
        raise EnvironmentProblem(f"{_said_device(device)}: each process of a run uses a different GPU; "
                                 "use 'auto' or 'cpu'")
    for prefix in ('cuda', 'gpu'):
        number = name[len(prefix):]
        if name.startswith(prefix) and (number == '' or number.isdigit()):
            return f'cuda:{int(number or 0)}'
    if name not in ('auto', 'cpu'):
        raise EnvironmentProblem(f"{_said_device(device)}: use 'auto', 'cpu', 'cuda', 'cuda0', 'cuda1', ...")
    return name


def _said_device(device: object) -> str:
    return said('device', device, "theano_flags['device']")


def _device_of_user_flags(local_rank: int | None) -> tuple[str, str]:
    """(device of THEANO_FLAGS or ~/.theanorc, or 'auto'; a note for the log if that device is not available)"""
    import torch
    if USER_DEVICE is None or local_rank is not None:
        return 'auto', ''
    with contextlib.suppress(EnvironmentProblem):
        device = _parse_device(USER_DEVICE)
        if not device.startswith('cuda') or int(device[5:]) < torch.cuda.device_count():
            return device, ''
    return 'auto', f" (not on device={USER_DEVICE} of THEANO_FLAGS or ~/.theanorc, which PyTorch doesn't see)"


def _set_flags(flags: dict[str, object]) -> None:
    """Set Theano flags by full name; raise `EnvironmentProblem` for unknown names and invalid values."""
    from theano.configparser import _config_var_list
    known = {param.fullname: param for param in _config_var_list}
    for name, value in flags.items():
        if name not in known:
            raise EnvironmentProblem(f'theano_flags[{name!r}]: Theano has no such flag'
                                     f'{advice(f"theano_flags.{name}") or did_you_mean(name, known)}')
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


def _torch_engine(device: str, local_rank: int | None, precision: str, spelt: object,
                  flush_denormals: bool) -> tuple:
    # Number of loops for which an OpenMP thread spins before it sleeps. The default of 300 000 is fast on a quiet
    # machine, but up to forty times slower beside busy neighbours; 3000 is 1.2 and 3 times slower
    # (benchmarks/README.md). It has an effect only if PyTorch is not imported yet.
    os.environ.setdefault('GOMP_SPINCOUNT', '3000')
    import torch
    unused = ''
    if device == 'auto':
        device, unused = _device_of_user_flags(local_rank)
    if device == 'auto':
        device = f'cuda:{local_rank or 0}' if torch.cuda.is_available() else 'cpu'
        missing = ''
        if device == 'cpu' and torch.version.cuda is not None:
            missing = gpus.why_none()
        elif device != 'cpu' and local_rank is None:
            missing = gpus.missing_kernels(device)
        if missing:
            device, unused = 'cpu', f'{unused} (no GPU: {missing})'
    if local_rank is not None and device.startswith('cuda') and local_rank >= torch.cuda.device_count():
        raise EnvironmentProblem(f"--nproc_per_node: process {local_rank} of this machine has no GPU, PyTorch sees "
                                 f"{torch.cuda.device_count()}; start that many processes, or train with --device cpu")
    if device.startswith('cuda') and int(device[5:]) >= torch.cuda.device_count():
        reason = gpus.why_none()
        raise EnvironmentProblem(f"{_said_device(spelt)}: PyTorch sees {torch.cuda.device_count()} CUDA GPUs here; set "
                                 f"it to 'cpu' or 'auto'{reason and f'; {reason}'}")
    missing = '' if device == 'cpu' else gpus.missing_kernels(device)
    if missing:
        raise EnvironmentProblem(f"{_said_device(spelt)}: {missing}; or set it to 'cpu'")
    has_tf32 = device != 'cpu' and torch.cuda.get_device_capability(device) >= (8, 0)
    if not has_tf32 and (precision == 'tf32' or precision == 'bfloat16' and device != 'cpu'):
        other = 'float32' if precision == 'tf32' else 'float16'
        raise EnvironmentProblem(f"{said('precision', precision)}: needs a GPU of compute capability 8.0; use 'auto' "
                                 f"or '{other}'")
    if precision == 'auto':
        precision = 'tf32' if has_tf32 else 'float32'
    dnn = theano.config.dnn
    algorithms = [dnn.conv.algo_fwd, dnn.conv.algo_bwd_data, dnn.conv.algo_bwd_filter]
    mode = theano_torch.install(
        device=device,
        cudnn=dnn.enabled not in ('False', False),
        deterministic='deterministic' in algorithms or theano.config.deterministic == 'more',
        benchmark=not any(algorithm.startswith('guess_') for algorithm in algorithms),
        precision=precision, flush_denormals=flush_denormals)
    where = f'CPU ({torch.get_num_threads()} threads)'
    if device != 'cpu':
        where = f'GPU {device[5:]} ({torch.cuda.get_device_name(device)})'
    return mode, device, precision, f'torch {torch.__version__} on {where}{unused}'


def _theano_engine(device: str) -> tuple:
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


def _python_engine(device: str) -> tuple:
    from theano.gof.vm import VM_Linker
    theano.config.cxx = ''
    # Exclude rewrites to convolutions in C; the abstract convolutions that remain have Python code.
    mode = theano.compile.Mode(VM_Linker(use_cloop=False, c_thunks=False), 'fast_run')
    mode = mode.excluding('conv_opts', 'AbstractConvCheck')
    return mode, 'cpu', "Theano's Python code, slow, for checks"


def _find_compiler() -> str:
    return shutil.which('clang++' if sys.platform == 'darwin' else 'g++') or ''


def _find_blas() -> tuple[str, str, str]:
    """(name, blas.ldflags, compiler macros) of the best BLAS for Theano's C code; empty flags if there is none.

    The system's OpenBLAS is preferred to the wheel `scipy-openblas32`. The wheel's symbols have a prefix, which the
    macros add to the names in Theano's sources.
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
