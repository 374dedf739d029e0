"""Adam and moving averages of all parameters at once.

Each is a single Theano op that works in place, on all engines. A training step updates hundreds of tensors, most of
them small; several ops for each would cost as much as a convolution.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import theano_torch

import numpy as np
import theano
import theano.tensor as T
from theano import gof
from theano.gof.destroyhandler import DestroyHandler

from nets.variables import shape_of


class _Step(gof.Op):
    """Base of ops whose last `num_sets` * `num` inputs, after `num_before` others, become the outputs.

    Graphs are built with ``inplace=False``; the rewrite below lets outputs reuse the memory of these inputs.
    """

    def __init__(self, num, num_sets, num_before, inplace):
        self.num, self.inplace = num, inplace
        self.num_changed = num * num_sets
        if inplace:
            self.destroy_map = {i: [num_before + i] for i in range(self.num_changed)}

    def infer_shape(self, node, input_shapes):
        return input_shapes[-self.num_changed:]

    def perform(self, node, inputs, output_storage):
        changed = [x if self.inplace else x.copy() for x in inputs[-self.num_changed:]]
        self.step([*inputs[:-self.num_changed], *changed])
        for cell, value in zip(output_storage, changed, strict=True):
            cell[0] = value

    def lowered(self, step):
        """`step`, a function that modifies a list of tensors, for `theano_torch`."""
        def run(*values):
            changed = [x if self.inplace else x.clone() for x in values[-self.num_changed:]]
            step([*values[:-self.num_changed], *changed])
            return tuple(changed)
        return run


class WorkInPlace(gof.Optimizer):
    """Make each :class:`_Step` work in place if it may overwrite its inputs."""

    def add_requirements(self, fgraph) -> None:
        if not hasattr(fgraph, 'destroyers'):
            fgraph.attach_feature(DestroyHandler())

    def apply(self, fgraph) -> None:
        returned = {root_of(var) for var in fgraph.outputs}     # Old values that the caller needs.
        for node in fgraph.toposort():
            if isinstance(node.op, _Step) and not node.op.inplace and \
                    not returned.intersection(map(root_of, node.inputs[-node.op.num_changed:])):
                outputs = node.op.in_place()(*node.inputs, return_list=True)
                with contextlib.suppress(gof.InconsistencyError):       # Others still need the inputs.
                    fgraph.replace_all_validate(list(zip(node.outputs, outputs, strict=True)), reason='updates')


def root_of(var):
    """The variable that owns the memory of `var`, following views."""
    while var.owner is not None and getattr(var.owner.op, 'view_map', None):
        source = var.owner.op.view_map.get(var.owner.outputs.index(var))
        if source is None:
            break
        var = var.owner.inputs[source[0]]
    return var


theano.compile.optdb.register('updates_in_place', WorkInPlace(), 75, 'fast_run')


class AdamStep(_Step):
    """``m <- beta1 m + (1 - beta1) g``, ``v <- beta2 v + (1 - beta2) g^2``, ``p <- p - rate m / (sqrt(v) + epsilon)``.

    Inputs: rate, overflow (scalars; if overflow is 1, the step changes nothing), then `num` each of gradients g,
    parameters p, moments m and v, all of one dtype. Outputs: p, m and v, in the memory of the inputs.
    """

    __props__ = ('num', 'beta1', 'beta2', 'epsilon', 'inplace')

    def __init__(self, num: int, beta1: float, beta2: float, epsilon: float, inplace: bool = False) -> None:
        super().__init__(num, num_sets=3, num_before=2 + num, inplace=inplace)
        self.beta1, self.beta2, self.epsilon = float(beta1), float(beta2), float(epsilon)

    def in_place(self) -> 'AdamStep':
        return type(self)(self.num, self.beta1, self.beta2, self.epsilon, inplace=True)

    def make_node(self, rate, overflow, *tensors):
        inputs = [T.as_tensor_variable(x) for x in (rate, overflow, *tensors)]
        return gof.Apply(self, inputs, [x.type() for x in inputs[-self.num_changed:]])

    def sets(self, values: Sequence) -> list[list]:
        """Split inputs into gradients, parameters, first and second moments."""
        return [list(values[2 + i * self.num:2 + (i + 1) * self.num]) for i in range(4)]

    def step(self, values: Sequence) -> None:
        rate, overflow = values[:2]
        if overflow > 0:
            return
        for g, p, m, v in zip(*self.sets(values), strict=True):
            m[...] = self.beta1 * m + (1 - self.beta1) * g
            v[...] = self.beta2 * v + (1 - self.beta2) * g ** 2
            p[...] = p - rate * m / (np.sqrt(v) + self.epsilon)


@theano_torch.lower.register(AdamStep)
def _(op, node, build):
    import torch
    # The fused kernel corrects the moments for the number of steps, but `rate` already does; infinity disables it.
    steps = [torch.tensor(torch.inf, dtype=torch.float32, device=build.device)] * op.num
    on_cpu = build.device.type == 'cpu'

    def step_in_float64(values):
        """For float64: CUDA's fused kernel stores the rate, and so the step, as float32."""
        rate, overflow = values[:2]
        for g, p, m, v in zip(*op.sets(values), strict=True):
            mean, square = torch.lerp(g, m, op.beta1), torch.lerp(g ** 2, v, op.beta2)
            for old, new in ((p, p - rate * mean / (square.sqrt() + op.epsilon)), (m, mean), (v, square)):
                old.copy_(torch.where(overflow > 0, old, new))

    if not on_cpu and node.outputs[0].type.dtype == 'float64':
        return op.lowered(step_in_float64)

    def step(values):
        rate, overflow = values[:2]
        grads, params, means, squares = op.sets(values)
        torch._fused_adam_(
            params, [grad.contiguous() for grad in grads], means, squares, [], steps,
            lr=rate.item() if on_cpu else rate.float(), beta1=op.beta1, beta2=op.beta2, weight_decay=0.0,
            eps=op.epsilon, amsgrad=False, maximize=False, grad_scale=None, found_inf=overflow.float())
    return op.lowered(step)


# As in the 2018 release: initial exponent of two, increase after a step, decrease after an overflow.
LOSS_SCALING_START, LOSS_SCALING_INCREASE, LOSS_SCALING_DECREASE = np.array([64, 0.0005, 1], np.float32)


def loss_scaling_exponent():
    """The shared variable for the argument `loss_scaling` of :func:`scaled` and :func:`adam`."""
    return theano.shared(LOSS_SCALING_START)


def scaled(loss, loss_scaling):
    """`loss` times a power of two, so that its gradients do not vanish in float16; unchanged without `loss_scaling`."""
    return loss if loss_scaling is None else loss * T.cast(np.float32(2) ** loss_scaling, loss.dtype)


def any_not_finite(tensors: Iterable):
    """Whether any element is NaN or infinite.

    Call it before loss scaling is undone: Theano may cancel the two factors, which would hide an overflow.
    """
    return T.invert(T.all(T.stack([T.all(T.le(abs(x), np.finfo(x.dtype).max)) for x in tensors])))


class AdamState:
    """Moments of parameters and the number of steps: shared variables that start at zero."""

    def __init__(self, params: Iterable) -> None:
        self.steps = theano.shared(np.asarray(0, theano.config.floatX))
        self.moments = {param: [theano.shared(np.zeros(shape_of(param), param.dtype)) for _ in range(2)]
                        for param in params}

    def variables(self) -> list:
        """All shared variables, in the same order in every process."""
        return [self.steps, *(moment for moments in self.moments.values() for moment in moments)]


def adam(grads: Sequence, params: Sequence, learning_rate, beta1: float = 0.9, beta2: float = 0.999,
         epsilon: float = 1e-8, overflow=None, loss_scaling=None, state: AdamState | None = None) -> OrderedDict:
    """Updates of `lasagne.updates.adam` (Kingma and Ba 2014).

    Parameters
    ----------
    grads : list of expressions
    params : list of shared variables
    learning_rate : scalar expression
    beta1, beta2, epsilon : float
    overflow : scalar expression, optional
        If true, the step is skipped: parameters, moments and the number of steps keep their values.
    loss_scaling : shared variable, optional
        Exponent by which the loss was scaled, see :func:`scaled`. The scaling is undone. A step with gradients that
        are not finite changes only the exponent.
    state : AdamState, optional
        State for at least `params`. Default: a new one.

    Returns
    -------
    OrderedDict
        {shared variable: expression}
    """
    updates: OrderedDict = OrderedDict()
    if loss_scaling is not None:
        overflow = any_not_finite(grads)
        updates[loss_scaling] = loss_scaling + T.switch(overflow, -LOSS_SCALING_DECREASE, LOSS_SCALING_INCREASE)
        grads = [grad * T.cast(np.float32(2) ** -loss_scaling, grad.dtype) for grad in grads]
    overflow = T.constant(np.float32(0)) if overflow is None else T.cast(T.neq(overflow, 0), 'float32')
    state = state or AdamState(params)
    steps = state.steps + T.cast(1 - overflow, state.steps.dtype)
    rate = learning_rate * T.sqrt(1 - beta2 ** steps) / (1 - beta1 ** steps)
    # One step for each dtype.
    for dtype in dict.fromkeys(param.dtype for param in params):
        pairs = [(grad, param) for grad, param in zip(grads, params, strict=True) if param.dtype == dtype]
        means, squares = zip(*[state.moments[param] for _, param in pairs], strict=True)
        changed = [*(param for _, param in pairs), *means, *squares]
        step = AdamStep(len(pairs), beta1, beta2, epsilon)
        results = step(rate, overflow, *[T.cast(grad, dtype) for grad, _ in pairs], *changed, return_list=True)
        updates.update(zip(changed, results, strict=True))
    updates[state.steps] = steps
    return updates


class MovingAverageStep(_Step):
    """``average <- source + (average - source) * decay`` for `num` averages and sources.

    Inputs: decay (scalar), `num` sources, `num` averages of one dtype. Outputs: the averages, in the same memory.
    """

    __props__ = ('num', 'inplace')

    def __init__(self, num: int, inplace: bool = False) -> None:
        super().__init__(num, num_sets=1, num_before=1 + num, inplace=inplace)

    def in_place(self) -> 'MovingAverageStep':
        return type(self)(self.num, inplace=True)

    def make_node(self, decay, *tensors):
        inputs = [T.as_tensor_variable(x) for x in (decay, *tensors)]
        return gof.Apply(self, inputs, [x.type() for x in inputs[-self.num_changed:]])

    def step(self, values: Sequence) -> None:
        for source, average in zip(values[1:1 + self.num], values[1 + self.num:], strict=True):
            average[...] = source + (average - source) * values[0]


@theano_torch.lower.register(MovingAverageStep)
def _(op, node, build):
    import torch
    decay = build.number(node.inputs[0])

    def step(values):
        sources, averages = list(values[-2 * op.num:-op.num]), list(values[-op.num:])
        if decay is not None:
            torch._foreach_lerp_(averages, sources, 1 - decay)
            return
        for source, average in zip(sources, averages, strict=True):
            average.lerp_(source, 1 - values[0].to(average.dtype))
    return op.lowered(step), node.inputs if decay is None else node.inputs[1:]


def moving_average(averages: Sequence, sources: Sequence, decay) -> OrderedDict:
    """Updates ``average <- source + (average - source) * decay``.

    Parameters
    ----------
    averages, sources : lists of shared variables
    decay : float or scalar expression

    Returns
    -------
    OrderedDict
        {shared variable: expression}
    """
    updates: OrderedDict = OrderedDict()
    for dtype in dict.fromkeys(average.dtype for average in averages):
        pairs = [pair for pair in zip(averages, sources, strict=True) if pair[0].dtype == dtype]
        targets = [average for average, _ in pairs]
        results = MovingAverageStep(len(pairs))(decay, *[T.cast(source, dtype) for _, source in pairs], *targets,
                                                return_list=True)
        updates.update(zip(targets, results, strict=True))
    return updates
