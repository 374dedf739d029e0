"""A page on this machine on which one moves through the images of a generator; see :mod:`explorer.server`."""
