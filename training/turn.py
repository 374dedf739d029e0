"""The steps between two looks at the schedule, and the place among them, from which a training can go on."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data.dataset import Dataset


class Turn:
    """The steps of D and G for which the schedule is looked up once.

    Parameters
    ----------
    steps : str
        A letter each, 'D' or 'G'.
    start_nimg : int
        Real images shown before it.

    Attributes
    ----------
    D_loss : float
        Of the last D step, averaged over its images.
    """

    def __init__(self, steps: str, start_nimg: int) -> None:
        self.steps, self.start_nimg = steps, start_nimg
        self.num_made = len(steps)      # None is left: the first turn is still to begin.
        self.D_loss = 0.0
        self.random_before: Any = None     # NumPy's generator before the step that is being made.

    @property
    def is_over(self) -> bool:
        return self.num_made == len(self.steps)

    def begin(self, cur_nimg: int) -> None:
        self.start_nimg, self.num_made = cur_nimg, 0

    def remaining(self) -> Iterator[str]:
        """The steps that are left. One counts as made when the next one is asked for."""
        while not self.is_over:
            self.random_before = np.random.get_state()
            yield self.steps[self.num_made]
            self.num_made += 1
        self.random_before = None

    def take_back(self, dataset: Dataset) -> None:
        """Undo the random draws of a step that has failed before it changed a network."""
        if self.random_before:
            np.random.set_state(self.random_before)
            if self.steps[self.num_made] == 'D':
                dataset.take_back()

    def get_state(self) -> dict:
        """Plain data for :meth:`set_state`."""
        state = {'turn_start_nimg': self.start_nimg}
        return state if self.is_over else {**state, 'turn_steps': self.num_made, 'D_loss': self.D_loss}

    def set_state(self, state: dict) -> None:
        """Go on where :meth:`get_state` was called; states of earlier versions lie between two turns."""
        self.start_nimg = state.get('turn_start_nimg', state['cur_nimg'])
        self.num_made = min(state.get('turn_steps', len(self.steps)), len(self.steps))
        self.D_loss = state.get('D_loss', 0.0)
