"""Datasets: the HDF5 format, minibatch reading, and importers for image folders and published datasets."""
