"""Compiles the steps of the next lod range in a background thread while the current ones train."""

import ctypes
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

import theano_env
from common.errors import UserError
from nets import updates
from nets.network import Network
from runs.states import fitting
from training.schedule import Schedule, lod_range_of
from training.steps import TrainingFunctions, compile_training_functions, layer_streams, seed_streams

SWITCH_SECONDS = 0.0005             # How long the compiling thread may hold the interpreter lock.


class FunctionsAhead:
    """The training functions of each lod range; the next ones are compiled while the current ones train.

    Parameters
    ----------
    *args
        Arguments of :func:`compile_training_functions` without `schedule` and `adam_states`.
    reset_optimizer : bool
        Reset Adam for every lod range, as the 2017 release did by rebuilding its functions.
    """

    def __init__(self, G: Network, D: Network, Gs: Network, *args: Any, reset_optimizer: bool = True) -> None:
        self.networks = {'G': G, 'D': D, 'Gs': Gs}
        self.args = args
        self.adam_states = [None if reset_optimizer else updates.AdamState(net.trainables.values()) for net in (D, G)]
        self.outliving = [var for state in self.adam_states if state for var in state.variables()]
        self.lod_range: tuple[int, int] | None = None       # Lod range of `functions`.
        self.functions: TrainingFunctions | None = None     # The functions that `take` returned last.
        self.layer_streams = layer_streams(G, D)
        self.layer_rstates = [stream.rstate for stream in self.layer_streams]     # Initial states of the next ones.
        # (lod range, thread, list for its result) while a thread compiles.
        self.pending: tuple[tuple[int, int], threading.Thread, list] | None = None

    def take(self, schedule: Schedule) -> TrainingFunctions:
        """The functions for the lod range of `schedule`, newly seeded; compiles them now unless they are ready."""
        self.lod_range = lod_range_of(schedule)
        self.functions = functions = self._finish(self.lod_range) or self._compile(schedule)
        self.layer_rstates = functions.layer_rstates
        seed_streams(functions)
        return functions

    def get_state(self) -> tuple[dict[str, np.ndarray], list[int]]:
        """The arguments ({name: array}, lod range) for :meth:`set_state`."""
        assert self.functions and self.lod_range, 'nothing has been compiled yet'
        arrays = {f'functions/{index:04d}': var.get_value(borrow=True)
                  for index, var in enumerate(self.functions.variables)}
        arrays.update((f'optimizer/{index:04d}', var.get_value(borrow=True))
                      for index, var in enumerate(self.outliving))
        arrays.update((f'layer_rstates/{index:04d}', rstate) for index, rstate in enumerate(self.layer_rstates))
        return arrays, list(self.lod_range)

    def set_state(self, arrays: dict[str, np.ndarray], lod_range: Sequence[int],
                  schedule: Schedule) -> TrainingFunctions | None:
        """Restore the functions as they were in :meth:`get_state`.

        Returns
        -------
        TrainingFunctions or None
            None if `schedule` needs functions of another lod range.

        Raises
        ------
        UserError
            The state belongs to other functions.
        """
        functions = None
        if tuple(lod_range) == lod_range_of(schedule):
            functions = self.functions = self._compile(schedule)
            self.lod_range = lod_range_of(schedule)
            values = [arrays[name] for name in sorted(arrays) if name.startswith('functions/')]
            if [(value.shape, value.dtype) for value in values] != [
                    (var.get_value(borrow=True).shape, var.get_value(borrow=True).dtype)
                    for var in functions.variables]:
                raise UserError('the training state belongs to other losses or steps; resume with the options and '
                                'the version of this program that saved it')
            for var, value in zip(functions.variables, values, strict=True):
                var.set_value(value)
        for index, var in enumerate(self.outliving):
            var.set_value(fitting(arrays, f'optimizer/{index:04d}', var.get_value(borrow=True)))
        self.layer_rstates = [fitting(arrays, f'layer_rstates/{index:04d}', np.asarray(stream.rstate))
                              for index, stream in enumerate(self.layer_streams)]
        return functions

    def prepare(self, schedule: Schedule) -> None:
        """Start compiling the functions for `schedule` in the background."""
        result = []

        def compile_quietly():
            try:
                result.append(self._compile(schedule))
            except (Exception, _Abandoned) as error:    # Raised again in `take`.
                result.append(error)

        thread = threading.Thread(target=compile_quietly, name='compiling ahead', daemon=True)
        self.pending = lod_range_of(schedule), thread, result
        thread.start()

    def _compile(self, schedule):
        with theano_env.COMPILING:
            # Functions that were compiled but not used have advanced the streams.
            for stream, rstate in zip(self.layer_streams, self.layer_rstates, strict=True):
                stream.rstate = rstate
            return compile_training_functions(*self.networks.values(), schedule, *self.args,
                                              adam_states=self.adam_states)

    def _finish(self, wanted):
        """Wait for the background thread; return its functions, or None if they are not for the lod range `wanted`."""
        if self.pending is None:
            return None
        lod_range, thread, result = self.pending
        thread.join()
        self.pending = None
        if lod_range != wanted:
            return None
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]

    def __enter__(self):
        self.switch_seconds = sys.getswitchinterval()
        sys.setswitchinterval(min(self.switch_seconds, SWITCH_SECONDS))
        return self

    def __exit__(self, *exception):
        if self.pending:
            # Compiling may take minutes on Theano's own C code, and the result is not needed any more.
            thread_id = ctypes.c_ulong(self.pending[1].ident)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread_id, ctypes.py_object(_Abandoned))
            self._finish(None)
        sys.setswitchinterval(self.switch_seconds)


class _Abandoned(BaseException):
    """Raised in the compiling thread to end it. Not an Exception, as Theano's rewrites catch those."""
