"""Measures signal magnitudes in a network. They escalate if G and D compete without normalization (section 4.2)."""

import theano_torch  # noqa: F401  (lets Theano be imported)

import lasagne
import numpy as np
import theano

import theano_env
from nets.network import Network, random_latents
from nets.pickles import load_pkl, pick
from runs.folder import locate_network_pkl

NUM_IMAGES = 64


def largest_signal(net: Network, *inputs: np.ndarray) -> float:
    """The largest root mean square of the activations of any layer with weights.

    Parameters
    ----------
    net : Network
    *inputs : arrays
        One per input of the network, all with the same number of rows.

    Returns
    -------
    float
        The mean is over rows, channels and pixels. The output layer is left out.
    """
    theano_env.ensure_configured()
    weighted = [layer for layer in lasagne.layers.get_all_layers(net.output_layers)
                if layer.params and layer not in net.output_layers]
    variables = [layer.input_var for layer in net.input_layers]
    outputs = lasagne.layers.get_output(weighted, deterministic=True, **net.present_lods())
    strengths = theano.function(variables, [(output ** 2).mean() ** 0.5 for output in outputs],
                                on_unused_input='ignore')(*inputs)
    return float(max(strengths))


def signals_of_run(run_dir: str) -> tuple[float, float]:
    """:func:`largest_signal` of G on random latents and of D on the fakes, for the last networks of a run.

    The run must be trained without labels.
    """
    path = locate_network_pkl(run_dir)
    loaded = load_pkl(path)
    G, D = pick(loaded, 'G', path), pick(loaded, 'D', path)
    latents = random_latents(NUM_IMAGES, G, np.random.RandomState(1000))
    return largest_signal(G, latents), largest_signal(D, G.run(latents))
