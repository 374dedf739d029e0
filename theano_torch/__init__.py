"""Run Theano graphs on PyTorch: cuDNN on a CUDA GPU, oneDNN on the CPU.

Theano builds, differentiates and rewrites the graph as usual; PyTorch replaces only its execution::

    import theano, theano_torch
    x = theano.tensor.fmatrix()
    f = theano.function([x], theano.tensor.tanh(x).sum(), mode=theano_torch.mode())     # For one function.
    theano.config.mode = theano_torch.install(device='cuda:0')                          # For all later functions.
    f(numpy_array)

torch.autograd is not used. Functions take and return ndarrays. After :func:`install` on a GPU, `theano.shared` makes
variables on the GPU whose interface is NumPy's (`get_value`, `set_value`, pickle).

An op without a lowering runs its own Python code on the host, after a warning that names it. If it has no Python code,
that is an error, `UnsupportedOp`. To support an op, register a lowering: a function that returns another function,
which computes the outputs from the tensors of the inputs (see `registry.lower`)::

    @theano_torch.lower.register(MyOp)
    def _(op, node, build):
        return lambda x: torch.roll(x, op.shift)

    @theano_torch.lower_scalar.register(MyScalarOp)     # Supports all Elemwise ops of it.
    def _(op, node):
        return lambda x: torch.sign(x)

    theano_torch.lower.register(MyRareOp)(theano_torch.on_host)     # Runs the op's own Python code.

The registries work without PyTorch. Importing this package imports Theano, see `compat`.
"""

from typing import Any

from theano_torch.compat import theano
from theano_torch.memory import OutOfMemory
from theano_torch.registry import FLOAT32_SUMS, UnsupportedOp, lower, lower_activation, lower_scalar, on_host

__all__ = ['OutOfMemory', 'UnsupportedOp', 'float32_sums', 'install', 'lower', 'lower_activation', 'lower_scalar',
           'mode', 'on_host']

def mode(device: str = 'cpu', precision: str = 'float32', capture: bool = True) -> Any:
    """A Theano mode for ``theano.function(..., mode=...)`` that runs functions on the torch device `device`.

    See :func:`install` for `precision` and `capture`; only :func:`install` switches TF32 on and off.
    """
    from theano_torch.linker import TorchLinker
    return TorchLinker(device, precision, capture).mode()


def float32_sums(mode: Any) -> Any:
    """`mode` with float32 sums that accumulate in float32, which is faster; Theano accumulates them in float64.

    Modes of other engines are returned unchanged.
    """
    chosen = theano.compile.mode.get_mode(mode)
    return chosen.including(FLOAT32_SUMS) if getattr(chosen.linker, 'runs_on_torch', False) else mode


def install(device: str = 'cpu', cudnn: bool = True, deterministic: bool = False, benchmark: bool = True,
            precision: str = 'float32', capture: bool = True, flush_denormals: bool = False) -> Any:
    """Put later shared variables on `device`, and return the mode for ``theano.config.mode``.

    This changes global settings: TF32, denormal numbers, no C code from Theano, and freed host memory stays with the
    process.

    Parameters
    ----------
    device : str
        ``'cpu'`` or ``'cuda:N'``.
    cudnn : bool
        Use cuDNN for convolutions on a GPU.
    deterministic : bool
        Use algorithms that give bitwise equal results in every run and call, where torch has them; it warns where it
        has not. Must be set before anything else uses the GPU, because cuBLAS reads its setting once. Overrides
        `benchmark`. Disables the kernels of `fuser`, which sum in another order than the first calls do.
    benchmark : bool
        Let cuDNN time its algorithms in the first call with new shapes, and take the fastest. The engine does so, too,
        where it has several ways, see `gpus.Fastest`.
    precision : str
        Type in which convolutions and matrix products of float32 tensors are computed. Inputs and outputs are float32;
        other ops and float64 are not affected. ``'float32'``; ``'tf32'``: float32 with inputs rounded to 11 significant
        bits, on GPUs of compute capability 8 and higher; ``'bfloat16'``; ``'float16'``, which needs loss scaling.
    capture : bool
        On a GPU, record a function as a CUDA graph after some calls, and replay the graph. See `capture.py`.
    flush_denormals : bool
        Treat denormal numbers as zero in this process, NumPy included: processors are up to a hundred times slower with
        them. For training.

    Returns
    -------
    theano.compile.Mode
    """
    import os

    from theano_torch import gpus, lanes, memory, shared

    import numpy as np
    import torch
    chosen = mode(device, precision, capture)
    # Constant folding runs Theano's own thunks; without a compiler they are Python code and start at once.
    theano.config.cxx = ''
    if device.startswith('cuda'):
        torch.cuda.set_device(device)       # Makes it the device of everything that just names 'cuda'.
    torch.backends.cudnn.enabled = cudnn
    gpus.set_algorithms(deterministic, benchmark)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == 'tf32'
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')     # cuBLAS requires it in deterministic mode.
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic, warn_only=True)   # Imports torch's compiler: 2 s, 70 MB.
    torch.utils.deterministic.fill_uninitialized_memory = False     # type: ignore[attr-defined]  # A property.
    for dtype in (np.float16, np.float32, np.float64):
        np.finfo(dtype)     # Otherwise NumPy's first use would warn that there are no denormals.
    torch.set_flush_denormal(flush_denormals)
    lanes.end_second_lane()     # The next one inherits the setting for denormals.
    memory.keep_freed_memory()
    shared.install(device)
    return chosen
