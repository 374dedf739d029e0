"""The sequence of D and G steps between two updates of the schedule, in which a training can be resumed anywhere."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data.dataset import Dataset


class StepSequence:
    """The D and G steps that share one look-up of the schedule, and the position among them.

    Parameters
    ----------
    steps : str
        'D' or 'G' for each step.
    start_nimg : int
        Real images shown before the first step.

    Attributes
    ----------
    D_loss : float
        D's loss in the last D step, averaged over its images.
    """

    def __init__(self, steps: str, start_nimg: int) -> None:
        self.steps, self.start_nimg = steps, start_nimg
        self.num_done = len(steps)      # The first sequence has not begun.
        self.D_loss = 0.0
        self.random_before: Any = None     # State of NumPy's generator before the current step.

    @property
    def is_over(self) -> bool:
        return self.num_done == len(self.steps)

    def begin(self, cur_nimg: int) -> None:
        self.start_nimg, self.num_done = cur_nimg, 0

    def remaining(self) -> Iterator[str]:
        """Yield the remaining steps. Requesting the next step marks the current one as done."""
        while not self.is_over:
            self.random_before = np.random.get_state()
            yield self.steps[self.num_done]
            self.num_done += 1
        self.random_before = None

    def take_back(self, dataset: Dataset) -> None:
        """Undo the random draws of a step that failed before it changed a network."""
        if self.random_before:
            np.random.set_state(self.random_before)
            if self.steps[self.num_done] == 'D':
                dataset.take_back()

    def get_state(self) -> dict:
        """Plain data for :meth:`set_state`."""
        state = {'turn_start_nimg': self.start_nimg}
        return state if self.is_over else {**state, 'turn_steps': self.num_done, 'D_loss': self.D_loss}

    def set_state(self, state: dict) -> None:
        """Restore the position of :meth:`get_state`. Earlier versions saved states only between two sequences."""
        self.start_nimg = state.get('turn_start_nimg', state['cur_nimg'])
        self.num_done = min(state.get('turn_steps', len(self.steps)), len(self.steps))
        self.D_loss = state.get('D_loss', 0.0)
