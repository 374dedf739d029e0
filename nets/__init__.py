"""Networks: the class `Network`, layers, Theano ops, optimizers, and networks out of files."""

import theano_torch  # noqa: F401  (lets Theano be imported)
