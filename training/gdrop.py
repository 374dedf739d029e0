"""Feedback for GDrop, the multiplicative noise of the discriminator (appendix B of the paper)."""

import numpy as np

from nets.network import Network


class GDropFeedback:
    """Controls the strength of the noise by a running average of the discriminator's outputs.

    Parameters
    ----------
    beta : float
        Decay of the average per update.
    lim, coef, exp : float
        The strength is ``coef * max(average - lim, 0) ** exp``.
    """

    def __init__(self, beta: float, lim: float, coef: float, exp: float) -> None:
        self.beta, self.lim, self.coef, self.exp = beta, lim, coef, exp
        self.average = 0.0

    @property
    def strength(self) -> float:
        return self.coef * max(self.average - self.lim, 0.0) ** self.exp

    def update(self, d_output: float, D: Network) -> None:
        """Add an output of `D`, clipped to [0, 1], to the average, and set the strength of its noise."""
        self.average = self.beta * self.average + (1.0 - self.beta) * min(max(d_output, 0.0), 1.0)
        if 'gdrop_strength' in D.toplevel_params:
            D.toplevel_params['gdrop_strength'].set_value(np.float32(self.strength))
