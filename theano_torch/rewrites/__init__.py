"""Graph rewrites of this engine. Importing this package registers them with Theano, under the tag 'torch'."""

from theano_torch.rewrites import fusion, inline, shapes, values

__all__ = ['fusion', 'inline', 'shapes', 'values']
