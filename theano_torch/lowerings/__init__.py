"""Theano's ops on PyTorch. Importing this package fills the registries."""

from theano_torch.lowerings import (
    conv,
    elemwise,
    fused,
    indexing,
    linalg,
    nnet,
    pool,
    random,
    scalars,
    scan,
    tensors,
    winograd,
)

__all__ = ['conv', 'elemwise', 'fused', 'indexing', 'linalg', 'nnet', 'pool', 'random', 'scalars', 'scan',
           'tensors', 'winograd']
