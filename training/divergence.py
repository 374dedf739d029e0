"""NaN and infinity in a training: found before anything is saved, and where they come from."""

import numpy as np

from common.errors import UserError
from nets.network import Network
from training import processes


class TrainingDiverged(processes.SharedError):
    """A loss or a weight is NaN or infinite."""


ADVICE = 'Lower the learning rates, see to the options loss.* and train.adam_*, or change random_seed'


def bad_weights(networks: dict[str, Network]) -> str | None:
    """The first of the variables of some networks that holds NaN or infinity, 'D: 4x4/Conv.W'; None: none does."""
    return next((f'{key}: {name}' for key, net in networks.items() if net for name, var in net.vars.items()
                 if not np.isfinite(var.get_value(borrow=True)).all()), None)


def check_start(networks: dict[str, Network], source: str | None) -> None:
    """Raise `UserError` if networks to begin with hold NaN; `source` is where they come from, None: they are new."""
    if bad := bad_weights(networks):
        raise UserError(f'{source or "the new networks"}: {bad} holds NaN or infinity, and so nothing can be learnt '
                        'from there; ' + ('start from an earlier snapshot' if source else
                                          'see to the options of G and D, or change random_seed'))


def check_weights(networks: dict[str, Network]) -> None:
    """Before networks are saved: raise `TrainingDiverged` if a weight of theirs is NaN or infinite."""
    if bad := bad_weights(networks):
        raise TrainingDiverged(f'{bad} became NaN or infinite; the last snapshots are kept. {ADVICE}')


def cause(G: Network | None, inputs: dict[str, np.ndarray]) -> str:
    """Why the outputs of a step are not finite, and what to do.

    Parameters
    ----------
    G : Network, optional
        If it has the weights of that step.
    inputs : dict
        {name: array} of what the step was given; images are of bytes, and so they are finite.
    """
    for name, values in inputs.items():
        if not np.isfinite(values).all():
            return f'The {name.replace("_", " ")} of this step hold NaN or infinity: correct the data set'
    if G and (bad := bad_weights({'G': G})):
        return f'Before that, {bad} had become NaN or infinite. {ADVICE}'
    return f'Images, labels and latents were finite. {ADVICE}'
