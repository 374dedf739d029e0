"""Detects NaN and infinity before anything is saved, and diagnoses their cause."""

import numpy as np

from common.errors import UserError
from nets.network import Network
from training import processes


class TrainingDiverged(processes.SharedError):
    """A loss or a weight is NaN or infinite."""


ADVICE = 'Lower the learning rates, check the options loss.* and train.adam_*, or change random_seed'


def bad_weights(networks: dict[str, Network]) -> str | None:
    """The first variable that holds NaN or infinity, for example 'D: 4x4/Conv.W'; None if all are finite."""
    return next((f'{key}: {name}' for key, net in networks.items() if net for name, var in net.vars.items()
                 if not np.isfinite(var.get_value(borrow=True)).all()), None)


def check_start(networks: dict[str, Network], source: str | None) -> None:
    """Raise `UserError` if the initial networks hold NaN or infinity.

    Parameters
    ----------
    networks : dict
    source : str or None
        File that the networks were loaded from, for the message. None: they are new.
    """
    if bad := bad_weights(networks):
        raise UserError(f'{source or "the new networks"}: {bad} holds NaN or infinity, so training is impossible; ' + (
            'start from an earlier snapshot' if source else 'check the options of G and D, or change random_seed'))


def check_weights(networks: dict[str, Network]) -> None:
    """Raise `TrainingDiverged` if a weight is NaN or infinite. Call it before networks are saved."""
    if bad := bad_weights(networks):
        raise TrainingDiverged(f'{bad} became NaN or infinite; the last snapshots are kept. {ADVICE}')


def cause(G: Network | None, inputs: dict[str, np.ndarray]) -> str:
    """Explain why the outputs of a step are not finite, and suggest a cure.

    Parameters
    ----------
    G : Network, optional
        Generator, unless its weights have changed since the step.
    inputs : dict
        {name: array}: inputs of the step without the images, which are uint8 and thus always finite.
    """
    for name, values in inputs.items():
        if not np.isfinite(values).all():
            return f'The {name.replace("_", " ")} of this step hold NaN or infinity: correct the dataset'
    if G and (bad := bad_weights({'G': G})):
        return f'{bad} had become NaN or infinite before this step. {ADVICE}'
    return f'Images, labels and latents were finite. {ADVICE}'
