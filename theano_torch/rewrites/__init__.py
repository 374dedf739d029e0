"""Graph rewrites of this engine. Importing this package registers them with Theano, under the tag 'torch'."""

from theano_torch.rewrites import fusion, shapes, values

__all__ = ['fusion', 'shapes', 'values']
