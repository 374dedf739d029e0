"""Graph rewrites of this engine. Importing this package registers them with Theano, under the tag 'torch'."""

from theano_torch.rewrites import fusion, inline, shapes, values

__all__ = ['EXCLUDED', 'fusion', 'inline', 'shapes', 'values']

# Rewrites that replace ops with a direct counterpart in PyTorch, or that only serve Theano's C code: convolutions by
# GEMM, in-place variants, fusion into generated C loops, BLAS calls. `shapes` replaces 'ShapeOpt'. 'gpuarray' must be
# given as a tag: Theano treats an excluded name as used, and could then not register a rewrite of this name, such as
# 'gpuarray_opt' when `theano.gpuarray` is imported.
EXCLUDED = ('conv_opts', 'AbstractConvCheck', 'conv_gemm', 'conv_dnn', 'inplace', 'fusion', 'BlasOpt', 'c_blas',
            'blas_opt_inplace', 'gpuarray', 'ShapeOpt')
