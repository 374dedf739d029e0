"""Run Theano graphs on PyTorch: cuDNN on a CUDA GPU, oneDNN on the CPU.

Theano builds the graph, differentiates it and rewrites it as always; only what executes the optimised graph is another::

    import theano, theano_torch
    x = theano.tensor.fmatrix()
    f = theano.function([x], theano.tensor.tanh(x).sum(), mode=theano_torch.mode())            # one function
    theano_torch.install(device='cuda:0')                                                      # all from now on
    f(numpy_array)

No torch.autograd is involved. After :func:`install`, `theano.shared` makes variables that live on the device and speak
NumPy (`get_value`, `set_value`, pickle).

An op that the engine does not know is an error that names it. To teach it one, register a lowering, a function that
returns what computes the outputs from the inputs' tensors; `build` tells static facts (see `program.Build`)::

    @theano_torch.lower.register(MyOp)
    def _(op, node, build):
        return lambda x: torch.roll(x, op.shift)

    @theano_torch.lower_scalar.register(MyScalarOp)     # then every Elemwise of it works
    def _(op, node):
        return lambda x: torch.nn.functional.softsign(x)

Both registries can be used without PyTorch being installed.
"""

from theano_torch.registry import UnsupportedOp, lower, lower_scalar

__all__ = ['UnsupportedOp', 'install', 'lower', 'lower_scalar', 'mode']

# Rewrites that turn ops which map one to one onto PyTorch into ones that do not, or that only serve Theano's own C code:
# convolutions by GEMM, in-place variants, fusion into generated C loops, calls of a BLAS.
EXCLUDED_REWRITES = ('conv_opts', 'AbstractConvCheck', 'conv_gemm', 'conv_dnn', 'inplace', 'fusion', 'BlasOpt',
                     'c_blas', 'blas_opt_inplace', 'scan', 'gpuarray_opt', 'crossentropy_to_crossentropy_with_softmax')


def mode(device='cpu'):
    """A Theano mode whose functions run on the torch device `device`, for ``theano.function(..., mode=...)``."""
    from theano_torch.linker import TorchLinker, TorchMode
    return TorchMode(TorchLinker(device=device), 'fast_run').excluding(*EXCLUDED_REWRITES)


def install(device='cpu', cudnn=True, deterministic=False, benchmark=False):
    """Put shared variables on `device` from now on and return the mode to be set as ``theano.config.mode``.

    Parameters
    ----------
    device : str
        ``'cpu'`` or ``'cuda:N'``.
    cudnn : bool
        Use cuDNN for convolutions on a GPU.
    deterministic : bool
        Only algorithms that give the same bits in every run.
    benchmark : bool
        Let cuDNN time its algorithms and take the fastest.

    Returns
    -------
    theano.compile.Mode
    """
    import theano
    import torch

    from theano_torch import shared
    # Constant folding goes through Theano's own thunks; without a compiler they are Python and start at once.
    theano.config.cxx = ''
    torch.backends.cudnn.enabled = cudnn
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    shared.install(device)
    return mode(device)
