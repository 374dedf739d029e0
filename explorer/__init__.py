"""A local web page to explore the images of a generator; see :mod:`explorer.server`."""
