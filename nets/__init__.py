"""Networks: the class `Network`, layers, Theano ops, optimizers, and networks out of files."""
