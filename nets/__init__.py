"""Networks: the class `Network`, layers, Theano ops, optimizers, and reading networks from files."""

import theano_torch  # noqa: F401  (makes Theano importable)
