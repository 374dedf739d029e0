"""What every room may use: errors, files, images, the terminal. Imports nothing of the project."""

import pathlib
import sys

# The project's own modules come before others of their names, in whatever folder or PYTHONPATH a script was started.
_ROOT = str(pathlib.Path(__file__).resolve().parent.parent)
if sys.path[:1] != [_ROOT]:
    sys.path.insert(0, _ROOT)
