"""The first import of every script: until its work begins, Ctrl-C ends it with one line instead of a traceback.

Importing Theano and PyTorch takes seconds, in which nothing is open or half-written.
"""

import os
import signal
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def _end(_signum: int, _frame: object) -> None:
    os.write(2, f'{os.path.basename(sys.argv[0])}: interrupted\n'.encode(errors='replace'))
    os._exit(130)       # Libraries catch KeyboardInterrupt, and SystemExit, in the middle of their own imports.


def begin_work() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, as ever."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Not where another program imports a script, nor where Ctrl-C is ignored, as after nohup.
if os.path.dirname(os.path.realpath(getattr(sys.modules['__main__'], '__file__', None) or '/')) == _ROOT and \
        signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
