"""Graph rewrites of this engine. Importing this package registers them with Theano, under the tag 'torch'."""

from theano_torch.rewrites import fusion, inline, shapes, values

__all__ = ['EXCLUDED', 'fusion', 'inline', 'shapes', 'values']

# Rewrites that turn ops which map one to one onto PyTorch into others, or that only serve Theano's own C code:
# convolutions by GEMM, in-place variants, fusion into generated C loops, calls of a BLAS. `shapes` replaces 'ShapeOpt'.
# 'gpuarray' is a tag and must be: Theano takes an excluded name for one that is in use, and then cannot register a
# rewrite of that name, such as 'gpuarray_opt' when `theano.gpuarray` is imported.
EXCLUDED = ('conv_opts', 'AbstractConvCheck', 'conv_gemm', 'conv_dnn', 'inplace', 'fusion', 'BlasOpt', 'c_blas',
            'blas_opt_inplace', 'gpuarray', 'ShapeOpt')
