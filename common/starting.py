"""The first import of every script: until work begins, Ctrl-C ends the script with one line, without a traceback.

Importing Theano and PyTorch takes seconds, during which no file is open or half-written.
"""

import os
import signal
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def _end(_signum: int, _frame: object) -> None:
    os.write(2, f'{os.path.basename(sys.argv[0])}: interrupted\n'.encode(errors='replace'))
    os._exit(130)       # sys.exit and KeyboardInterrupt do not work: libraries catch them during their own imports.


def begin_work() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt as usual."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Not if another program imports a script, nor if Ctrl-C is ignored, as with nohup.
if os.path.dirname(os.path.realpath(getattr(sys.modules['__main__'], '__file__', None) or '/')) == _ROOT and \
        signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
