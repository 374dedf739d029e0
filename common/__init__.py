"""Helpers for every package: errors, files, images, the terminal. Imports nothing else of the project."""

import pathlib
import sys

# The project's modules take precedence over others of the same names, whatever the working directory or PYTHONPATH.
_ROOT = str(pathlib.Path(__file__).resolve().parent.parent)
if sys.path[:1] != [_ROOT]:
    sys.path.insert(0, _ROOT)
