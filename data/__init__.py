"""Data sets: the HDF5 format, reading minibatches, and the sources that data sets are made of."""
