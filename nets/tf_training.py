"""Training functions of `tfutil_shim`: optimizers with loss scaling, and averages over the time between two saves.

`tfutil_shim` imports everything here; other modules import it from there.
"""

import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import theano
import theano.tensor as T

from common.errors import UserError
from nets.tf_functions import Updates, exp2
from nets.updates import any_not_finite

# ----------------------------------------------------------------------------------------------------------------------
# Averages between two saves.


class Autosummaries:
    """Averages, by name, of all values fed since the last save: numbers, arrays and Theano expressions.

    All components have equal weight: a vector of three counts three times as much as a number. Values fed to the same
    name in several places are pooled. A value whose sum is not finite is dropped. A name without values averages to
    NaN.
    """

    def __init__(self) -> None:
        self._accumulators: OrderedDict[str, list] = OrderedDict()      # Shared vectors (sum, count), one per call.
        self._immediate: OrderedDict[str, np.ndarray] = OrderedDict()   # (sum, count)
        self._finalized = False
        self._histograms: OrderedDict = OrderedDict()   # {name: shared variable}

    def add(self, name: str, value: Any) -> Any:
        """Feed `value` to the average `name` and return it.

        Parameters
        ----------
        name : str
        value : number, array or Theano expression
            An expression is fed whenever a function computes the returned expression, which has the same value and
            type. It carries a default update, so functions compiled with ``no_default_updates`` feed nothing.

        Raises
        ------
        AssertionError
            The name was first used after `finalize`.
        """
        if self._finalized and name not in self._accumulators:
            raise AssertionError(f'autosummary {name!r}: feed new names before finalize_autosummaries or the '
                                 'first save_summaries')
        places = self._accumulators.setdefault(name, [])
        if isinstance(value, theano.gof.Variable):
            place = theano.shared(np.zeros(2), name=name)
            places.append(place)
            return self._feed_from_graph(place, value)
        total = self._immediate.setdefault(name, np.zeros(2))
        array = np.asarray(value, dtype=np.float32)
        fed = np.array([array.sum(dtype=np.float64), array.size])
        if np.isfinite(fed[0]):
            total += fed
        return value

    def add_histogram(self, name: str, var) -> None:
        """Write a histogram of the shared variable `var` at every future save to a TensorBoard writer."""
        self._histograms[name] = var

    @staticmethod
    def _feed_from_graph(place, value):
        total = T.sum(T.cast(value, 'float32'), dtype='float64', acc_dtype='float64')
        fed = T.stack([total, T.cast(T.prod(value.shape) if value.ndim else 1, 'float64')])
        # The comparison is false for infinity and NaN.
        place.default_update = place + T.switch(T.lt(abs(total), np.inf), fed, 0.0)
        # Adding zero makes functions that compute the result find the default update.
        nothing = T.cast(0 * place[0], value.dtype)
        return T.or_(value, nothing) if value.dtype == 'bool' else value + nothing

    def finalize(self) -> None:
        """Make new names an error from now on."""
        self._finalized = True

    def averages(self, reset: bool = False) -> OrderedDict[str, float]:
        """Averages in order of first use, with float32 precision as in the 2018 release: OrderedDict {name: float}.

        Parameters
        ----------
        reset : bool
            Start new averages.
        """
        result = OrderedDict()
        for name, places in self._accumulators.items():
            immediate = self._immediate.get(name, np.zeros(2))
            total, count = immediate + sum(place.get_value() for place in places)
            result[name] = float(np.float32(total / count)) if count else float('nan')
            if reset:
                immediate[:] = 0
                for place in places:
                    place.set_value(np.zeros(2))
        return result

    def save(self, filewriter: Any = None, global_step: float | None = None) -> OrderedDict[str, float]:
        """Write the averages, reset them, and `finalize`.

        Parameters
        ----------
        filewriter : text file, SummaryWriter or None
            An object with a ``write`` method receives one line of JSON, with null for NaN. A TensorBoard writer, with
            the methods ``add_scalar`` and ``add_histogram``, receives the averages and the histograms of
            `add_histogram`. None: nothing is written.
        global_step : number or None
            Written as ``"step"``.

        Returns
        -------
        OrderedDict
            {name: float}.
        """
        self.finalize()
        values = self.averages(reset=True)
        if hasattr(filewriter, 'add_scalar'):
            for name, value in values.items():
                filewriter.add_scalar(name, value, global_step)
            for name, var in self._histograms.items():
                filewriter.add_histogram(name, var.get_value(), global_step)
        elif filewriter is not None:
            line = {'step': global_step, **{name: value if np.isfinite(value) else None
                                            for name, value in values.items()}}
            filewriter.write(json.dumps(line) + '\n')
        return values


_default_summaries = Autosummaries()
autosummary = _default_summaries.add
finalize_autosummaries = _default_summaries.finalize
save_summaries = _default_summaries.save
get_autosummaries = _default_summaries.averages
histogram = _default_summaries.add_histogram


# ----------------------------------------------------------------------------------------------------------------------
# Optimizers.


def _adam(optimizer, params, grads, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Adam (Kingma and Ba 2014) with epsilon outside the bias correction, with the same operations as in Lasagne."""
    t_prev = optimizer.slot('t', np.asarray(0, theano.config.floatX))
    t = t_prev + 1
    a_t = learning_rate * T.sqrt(1 - beta2 ** t) / (1 - beta1 ** t)
    updates = OrderedDict()
    for param, grad in zip(params, grads, strict=True):
        m_prev, v_prev = optimizer.slot('m', param), optimizer.slot('v', param)
        updates[m_prev] = m = beta1 * m_prev + (1 - beta1) * grad
        updates[v_prev] = v = beta2 * v_prev + (1 - beta2) * grad ** 2
        updates[param] = param - a_t * m / (T.sqrt(v) + epsilon)
    updates[t_prev] = t
    return updates


def _gradient_descent(optimizer, params, grads, learning_rate):
    return OrderedDict((param, param - learning_rate * grad) for param, grad in zip(params, grads, strict=True))


def _momentum(optimizer, params, grads, learning_rate, momentum, use_nesterov=False):
    """``velocity = momentum * velocity + grad``; the learning rate is applied afterwards (Sutskever et al. 2013)."""
    updates = OrderedDict()
    for param, grad in zip(params, grads, strict=True):
        previous = optimizer.slot('velocity', param)
        updates[previous] = velocity = momentum * previous + grad
        updates[param] = param - learning_rate * (grad + momentum * velocity if use_nesterov else velocity)
    return updates


class Optimizer:
    """Computes gradients of registered losses, and the updates that minimise the mean of these losses.

    Parameters
    ----------
    name : str
        Prefix of the summaries; '/' becomes '.'.
    tf_optimizer : str
        ``'tf.train.AdamOptimizer'``, ``'tf.train.GradientDescentOptimizer'`` or ``'tf.train.MomentumOptimizer'``.
    learning_rate : number, shared variable or scalar expression
    use_loss_scaling : bool
        Multiply losses by a power of two before differentiation and gradients by its inverse, against underflow in low
        precision (Micikevicius et al. 2017). The exponent is adapted automatically.
    loss_scaling_init, loss_scaling_inc, loss_scaling_dec : float
        Initial exponent; its increase after a step; its decrease after an overflow of gradients.
    skip_nonfinite : bool
        Skip steps with NaN or infinity in any gradient: they change only the exponent, as in the 2018 release. False:
        such steps are taken, and the updates are those of `lasagne.updates.adam` (2017 release).
    summaries : bool
        At every step, feed `autosummary` with ``NAME/learning_rate``, ``NAME/overflow_frequency`` (0 or 1) and, with
        loss scaling, ``NAME/loss_scaling_log2``.
    **kwargs
        For Adam: beta1 (0.9), beta2 (0.999), epsilon (1e-8). For momentum: momentum, use_nesterov (False).

    Notes
    -----
    The state belongs to this object. It is kept when functions are compiled again, for which the gradients must be
    registered again. A new Optimizer starts with a new state.
    """

    RULES: dict[str, tuple[Callable, set[str]]] = {
        'tf.train.AdamOptimizer': (_adam, {'beta1', 'beta2', 'epsilon'}),
        'tf.train.GradientDescentOptimizer': (_gradient_descent, set()),
        'tf.train.MomentumOptimizer': (_momentum, {'momentum', 'use_nesterov'}),
    }

    def __init__(self, name: str = 'Train', tf_optimizer: str = 'tf.train.AdamOptimizer', learning_rate=0.001,
                 use_loss_scaling: bool = False, loss_scaling_init: float = 64.0, loss_scaling_inc: float = 0.0005,
                 loss_scaling_dec: float = 1.0, skip_nonfinite: bool = True, summaries: bool = True,
                 **kwargs: Any) -> None:
        if tf_optimizer not in self.RULES:
            raise UserError(f'tf_optimizer={tf_optimizer!r}: choose one of {", ".join(self.RULES)}')
        self._rule, known = self.RULES[tf_optimizer]
        for key in kwargs:
            if key not in known:
                raise UserError(f'Optimizer({key}={kwargs[key]!r}): {tf_optimizer} takes '
                                f'{", ".join(sorted(known)) or "only a learning rate"}')
        if self._rule is _momentum and 'momentum' not in kwargs:
            raise UserError(f'Optimizer: {tf_optimizer} needs momentum=..., for example 0.9')
        if use_loss_scaling and not skip_nonfinite:
            raise UserError('use_loss_scaling=True: needs skip_nonfinite=True, because it causes overflows')
        self.name = name
        self.id = name.replace('/', '.')
        self.learning_rate = learning_rate
        self.use_loss_scaling = use_loss_scaling
        self.loss_scaling_inc, self.loss_scaling_dec = loss_scaling_inc, loss_scaling_dec
        self.skip_nonfinite = skip_nonfinite
        self.summaries = summaries
        self._kwargs = kwargs
        self._slots: OrderedDict = OrderedDict()
        self._registered: list[list[tuple]] = []    # Lists of (gradient, variable), one per loss.
        self._loss_scaling = theano.shared(np.float32(loss_scaling_init), name=self.id + '/loss_scaling_log2')

    # Loss scaling.

    def get_loss_scaling_var(self, device: str | None = None):
        """The exponent (shared float32), or None without loss scaling. `device` is ignored: there is one exponent."""
        return self._loss_scaling if self.use_loss_scaling else None

    def apply_loss_scaling(self, value):
        """`value` times the current power of two; `value` itself without loss scaling."""
        return value * exp2(self._loss_scaling) if self.use_loss_scaling else value

    def undo_loss_scaling(self, value):
        """Undo `apply_loss_scaling`."""
        return value * exp2(-self._loss_scaling) if self.use_loss_scaling else value

    # Gradients and updates.

    def register_gradients(self, loss, vars: list | dict) -> None:
        """Differentiate a loss. The mean of all registered losses is minimised.

        Parameters
        ----------
        loss : scalar expression
        vars : list of shared variables, or dict of them by name
            Variables on which the loss does not depend are left out; neither they nor their state change.
        """
        if loss.ndim != 0:
            raise ValueError(f'register_gradients: the loss must be a scalar, but has {loss.ndim} axes; use its mean')
        variables = list(vars.values()) if isinstance(vars, dict) else list(vars)
        grads = theano.grad(self.apply_loss_scaling(loss), variables, disconnected_inputs='ignore',
                            return_disconnected='None')
        connected = [(grad, var) for grad, var in zip(grads, variables, strict=True) if grad is not None]
        if not connected:
            raise ValueError(f'register_gradients: the loss does not depend on any of the {len(variables)} variables')
        self._registered.append(connected)

    def apply_updates(self) -> Updates:
        """Updates of one step for all losses registered since the last call.

        Returns
        -------
        Updates
            {shared variable: expression} of the variables, the optimizer's state and the loss scaling exponent.
        """
        if not self._registered:
            raise ValueError('apply_updates: call register_gradients first')
        scaled, grads = self._mean_gradients()
        params = list(grads)
        self._registered = []
        learning_rate = self._summary('learning_rate', T.as_tensor_variable(self.learning_rate))
        updates = self._rule(self, params, list(grads.values()), learning_rate, **self._kwargs)
        updates = Updates((var, T.cast(new, var.dtype)) for var, new in updates.items())
        if not self.skip_nonfinite:
            return updates
        overflow = self._summary('overflow_frequency', any_not_finite(scaled))
        updates = Updates((var, T.switch(overflow, var, new)) for var, new in updates.items())
        if self.use_loss_scaling:
            exponent = self._summary('loss_scaling_log2', self._loss_scaling)
            updates[self._loss_scaling] = exponent + T.switch(
                overflow, np.float32(-self.loss_scaling_dec), np.float32(self.loss_scaling_inc))
        return updates

    def _summary(self, name, value):
        return autosummary(self.id + '/' + name, value) if self.summaries else value

    def _mean_gradients(self):
        """Gradients of the sum of the scaled losses, and {variable: mean gradient without loss scaling}."""
        sums = OrderedDict()
        for connected in self._registered:
            for grad, var in connected:
                sums[var] = sums[var] + grad if var in sums else grad
        num_losses = len(self._registered)
        if num_losses == 1 and not self.use_loss_scaling:
            return list(sums.values()), sums
        factor = self.undo_loss_scaling(np.float32(1.0 / num_losses))
        return list(sums.values()), OrderedDict((var, T.cast(grad * factor, grad.dtype)) for var, grad in sums.items())

    # State.

    def slot(self, name: str, like):
        """Shared variable of the state by name: one for each parameter `like`, or a single one shaped like an array."""
        key = (name, like) if isinstance(like, theano.gof.Variable) else name
        if key not in self._slots:
            value = like.get_value() if isinstance(like, theano.gof.Variable) else like
            broadcastable = getattr(like, 'broadcastable', None)
            self._slots[key] = theano.shared(np.zeros_like(value), name=f'{self.id}/{name}',
                                             **({} if broadcastable is None else {'broadcastable': broadcastable}))
        return self._slots[key]

    def get_optimizer_state(self) -> OrderedDict:
        """Moments and step count: OrderedDict {(slot name, variable) or slot name: array}."""
        return OrderedDict((key, var.get_value()) for key, var in self._slots.items())

    def reset_optimizer_state(self) -> None:
        """Reset moments and step count; the loss scaling exponent is kept."""
        for var in self._slots.values():
            var.set_value(np.zeros_like(var.get_value()))
