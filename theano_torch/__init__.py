"""Run Theano graphs on PyTorch: cuDNN on a CUDA GPU, oneDNN on the CPU.

Theano builds the graph, differentiates it and rewrites it as always; only what executes the result is another::

    import theano, theano_torch
    x = theano.tensor.fmatrix()
    f = theano.function([x], theano.tensor.tanh(x).sum(), mode=theano_torch.mode())     # One function.
    theano.config.mode = theano_torch.install(device='cuda:0')                          # All from now on.
    f(numpy_array)

No torch.autograd is involved. Functions take and return ndarrays. After :func:`install` on a GPU, `theano.shared` makes
variables that live there and speak NumPy (`get_value`, `set_value`, pickle).

An op that the engine does not know runs its own Python code on the host, after a warning that names it. One without
such code is an error, `UnsupportedOp`. To teach the engine an op, register a lowering, a function that returns what
computes the outputs from the inputs' tensors (see `registry.lower`)::

    @theano_torch.lower.register(MyOp)
    def _(op, node, build):
        return lambda x: torch.roll(x, op.shift)

    @theano_torch.lower_scalar.register(MyScalarOp)     # Then every Elemwise of it works.
    def _(op, node):
        return lambda x: torch.sign(x)

    theano_torch.lower.register(MyRareOp)(theano_torch.on_host)     # Runs the op's own Python code.

The registries can be used without PyTorch being installed. Importing this package imports Theano, see `compat`.
"""

from typing import Any

from theano_torch.compat import theano
from theano_torch.memory import OutOfMemory
from theano_torch.registry import FLOAT32_SUMS, UnsupportedOp, lower, lower_activation, lower_scalar, on_host

__all__ = ['OutOfMemory', 'UnsupportedOp', 'float32_sums', 'install', 'lower', 'lower_activation', 'lower_scalar',
           'mode', 'on_host']

def mode(device: str = 'cpu', precision: str = 'float32', capture: bool = True) -> Any:
    """A Theano mode whose functions run on the torch device `device`, for ``theano.function(..., mode=...)``.

    `precision` and `capture` are those of :func:`install`, which alone switches TF32 on and off.
    """
    from theano_torch.linker import TorchLinker
    return TorchLinker(device, precision, capture).mode()


def float32_sums(mode: Any) -> Any:
    """`mode` with sums of float32 that accumulate in float32, which is faster; Theano accumulates them in float64.

    Modes of other engines are returned as they are.
    """
    chosen = theano.compile.mode.get_mode(mode)
    return chosen.including(FLOAT32_SUMS) if getattr(chosen.linker, 'runs_on_torch', False) else mode


def install(device: str = 'cpu', cudnn: bool = True, deterministic: bool = False, benchmark: bool = True,
            precision: str = 'float32', capture: bool = True, flush_denormals: bool = False) -> Any:
    """Put shared variables on `device` from now on and return the mode to be set as ``theano.config.mode``.

    Sets what is global: TF32 on or off, denormal numbers, Theano compiles no C code, freed host memory stays with the
    process.

    Parameters
    ----------
    device : str
        ``'cpu'`` or ``'cuda:N'``.
    cudnn : bool
        Use cuDNN for convolutions on a GPU.
    deterministic : bool
        Use algorithms that give the same bits in every run and in every call, where torch has them (it warns where it
        has not). Call this before anything else uses the GPU: cuBLAS reads its part of it once. Overrules `benchmark`.
        Functions run without the kernels of `fuser`, which add up in another order than their first calls.
    benchmark : bool
        Let cuDNN time its algorithms in the first call with new shapes, and take the fastest. The engine does so, too,
        where it has several ways, see `gpus.Fastest`.
    precision : str
        What convolutions and matrix products of float32 tensors compute in. They take and give float32 in any case;
        everything else stays as it is, and so does float64. ``'float32'``; ``'tf32'``: float32 with inputs rounded
        to 11 significant bits, on GPUs of compute capability 8 and higher; ``'bfloat16'``; ``'float16'``, which needs
        loss scaling.
    capture : bool
        On a GPU, record what a function does as a CUDA graph after some calls, and replay that. See `capture.py`.
    flush_denormals : bool
        Denormal numbers count as zero in this process, in NumPy, too: processors compute with them up to a hundred
        times slower. For trainings.

    Returns
    -------
    theano.compile.Mode
    """
    import os

    from theano_torch import gpus, lanes, memory, shared

    import numpy as np
    import torch
    chosen = mode(device, precision, capture)
    # Constant folding goes through Theano's own thunks; without a compiler they are Python and start at once.
    theano.config.cxx = ''
    if device.startswith('cuda'):
        torch.cuda.set_device(device)       # That of everything that just says 'cuda'.
    torch.backends.cudnn.enabled = cudnn
    gpus.set_algorithms(deterministic, benchmark)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == 'tf32'
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')     # cuBLAS asks for it in deterministic mode.
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic, warn_only=True)   # Imports torch's compiler: 2 s, 70 MB.
    torch.utils.deterministic.fill_uninitialized_memory = False     # type: ignore[attr-defined]  # A property.
    for dtype in (np.float16, np.float32, np.float64):
        np.finfo(dtype)     # NumPy looks at denormals the first time and would warn that there are none.
    torch.set_flush_denormal(flush_denormals)
    lanes.end_second_lane()     # The next one inherits that.
    memory.keep_freed_memory()
    shared.install(device)
    return chosen
