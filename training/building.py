"""Builds the networks that the sections G and D of an experiment describe."""

from common.console import print_and_log
from common.errors import UserError
from common.objects import import_obj
from data.dataset import Dataset
from nets.network import Network
from training.options import NETWORK_SHAPE, check_arguments, network_options


def build_network(name: str, experiment: dict, num_channels: int, resolution: int, label_size: int) -> Network:
    """Build the network `name`, 'G' or 'D', of an experiment."""
    kwargs = network_options(experiment, name)
    func = kwargs.pop('func')
    check_arguments(name, kwargs, import_obj(func), given=NETWORK_SHAPE)
    try:
        net = Network(name, func=func, num_channels=num_channels, resolution=resolution, label_size=label_size,
                      **kwargs)
    except UserError as error:
        raise UserError(f'{name}.{error}') from error
    except ValueError as error:     # Layers raise it for options that do not fit together.
        raise UserError(f'{name}: {" ".join(str(error).split())}') from error
    is_right = [len(shape) for shape in (net.input_shape, net.output_shape)] == ([2, 4] if name == 'G' else [4, 2])
    if not is_right or name == 'D' and net.output_shape[1] != 1:
        raise UserError(f'{name}.func={func!r}: builds no {"generator" if name == "G" else "discriminator"}')
    return net


def build_and_verify(name: str, experiment: dict, training_set: Dataset) -> Network:
    """Build the network `name` for a dataset, verify that a pickle of it can be loaded, and log its layers.

    The verification builds the network again, which draws from NumPy's generator. As in the release, G is verified
    before D is built, so that both start from the same weights.
    """
    net = build_network(name, experiment, training_set.shape[0], training_set.resolution, training_set.label_size)
    net.verify_rebuild()    # Fail now rather than after two weeks of training.
    print_and_log(None, '\n'.join(net.topology_lines()))
    return net
