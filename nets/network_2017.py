"""Methods of the 2017 release's networks that `nets.network` lacks, for old scripts."""

from collections import OrderedDict
from typing import Any

import lasagne

import theano_env
from common.errors import UserError, did_you_mean


class NetworkOf2017:
    """Methods of the 2017 release's `network.Network`; mixed into `nets.network.Network`.

    Top-level variables are attributes: ``G.cur_lod.set_value(1.5)``.
    """

    def __getattr__(self, name: str) -> Any:
        toplevel = self.__dict__.get('toplevel_params', {})
        if name not in toplevel:
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        return toplevel[name]

    def eval(self: Any, *inputs: Any, ignore_unused_inputs: bool = False, **dynamic_kwargs: Any) -> Any:
        """First symbolic output for symbolic inputs; not deterministic unless requested.

        Parameters
        ----------
        *inputs : expressions
            One per input layer.
        ignore_unused_inputs : bool
            Ignore additional inputs, such as the labels of a network without classes.
        **dynamic_kwargs
            Arguments of the layers, for example `min_lod` and `max_lod`.
        """
        return self.eval_multi(*inputs, ignore_unused_inputs=ignore_unused_inputs, **dynamic_kwargs)[0]

    def eval_d(self: Any, *inputs: Any, **kwargs: Any) -> Any:
        """:meth:`eval`, deterministic."""
        return self.eval(*inputs, deterministic=True, **kwargs)

    def eval_nd(self: Any, *inputs: Any, **kwargs: Any) -> Any:
        """:meth:`eval` with ``deterministic=False``: with noise and batch statistics, as in training."""
        return self.eval(*inputs, deterministic=False, **kwargs)

    def eval_multi(self: Any, *inputs: Any, ignore_unused_inputs: bool = False, **dynamic_kwargs: Any) -> list:
        """Like :meth:`eval`, but returns a list of all outputs."""
        used = inputs[:self.num_inputs] if ignore_unused_inputs else inputs
        return self.get_output_for(*used, return_as_list=True, **dynamic_kwargs)

    def eval_multi_d(self: Any, *inputs: Any, **kwargs: Any) -> list:
        """:meth:`eval_multi`, deterministic."""
        return self.eval_multi(*inputs, deterministic=True, **kwargs)

    def eval_multi_nd(self: Any, *inputs: Any, **kwargs: Any) -> list:
        """:meth:`eval_multi` with ``deterministic=False``."""
        return self.eval_multi(*inputs, deterministic=False, **kwargs)

    def find_layer(self: Any, name: str) -> lasagne.layers.Layer:
        """Find a Lasagne layer by its name.

        Raises
        ------
        UserError
            There is no such layer; the message suggests the most similar name.
        """
        theano_env.ensure_configured()
        layers = {layer.name: layer for layer in lasagne.layers.get_all_layers(self.output_layers)}
        if name not in layers:
            raise UserError(f'{self.name} has no layer {name!r}{did_you_mean(name, layers)}')
        return layers[name]

    def trainable_params(self: Any) -> list:
        """Trainable shared variables, in Lasagne's order."""
        return list(self.trainables.values())

    def create_temporally_smoothed_version(self: Any, beta: Any = 0.99, explicit_updates: bool = False) -> Any:
        """Make a copy whose trainable variables are moving averages of this network's: the generator Gs.

        Parameters
        ----------
        beta : float or scalar expression
            Decay per step.
        explicit_updates : bool
            False: the copy is updated by default updates, whenever a function updates the variables of this network.

        Returns
        -------
        Network, or with `explicit_updates` (Network, list of (shared variable, expression))
        """
        smoothed = self.clone(share_nontrainables=True)
        updates: OrderedDict = smoothed.setup_as_moving_average_of(self, beta=beta)
        if explicit_updates:
            return smoothed, list(updates.items())
        for var, new_value in updates.items():
            var.default_update = new_value
        return smoothed
