"""Random loops: taps, states, early ends, truncated gradients, random numbers, nested loops."""

import dataclasses
from typing import Any

import numpy as np
import theano.tensor as T

from tests.theano_torch.fuzz.maker import Maker
from tests.theano_torch.fuzz.recipes import Body, Call, Recipe, Ref, pruned

WIDTH = 3       # Length of rows; matrices are square.
# These functions keep states bounded, so that rounding errors do not grow from step to step.
BOUNDED = ['T.tanh', 'T.sin', 'T.nnet.sigmoid', 'T.cos', 'T.nnet.softsign']
COMBINING = ['operator.add', 'operator.sub', 'operator.mul', 'T.maximum', 'T.minimum', 'T.dot']
MAX_TAP = 3


@dataclasses.dataclass
class Plan:
    """The arguments of ``theano.scan`` and of its inner function.

    Attributes
    ----------
    arguments : list of variables
        Placeholders for the arguments of the inner function.
    states : list of variables or None
        For each output, a variable of the type of its state; None for an output without a state.
    """

    sequences: list = dataclasses.field(default_factory=list)
    outputs_info: list = dataclasses.field(default_factory=list)
    others: list = dataclasses.field(default_factory=list)
    arguments: list = dataclasses.field(default_factory=list)
    states: list = dataclasses.field(default_factory=list)


def make(seed: int) -> Recipe:
    """Make the program of a seed."""
    maker = Maker(np.random.RandomState(seed))
    looped = None
    while looped is None:
        maker.sources, maker.calls, maker.variables, maker.sizes = [], [], [], []
        looped = add_loop(maker)
    results, more = looped
    outputs = [shortened(maker, ref) for ref in results]
    if maker.chance(0.6):
        outputs += add_gradients(maker, outputs)
    return pruned(Recipe(tuple(maker.sources), tuple(maker.calls), tuple(outputs), more_updates=(more,)))


def add_loop(maker: Maker) -> tuple[list[Ref], Ref] | None:
    """Add a loop; return (its outputs, its updates), or None if Theano refuses it."""
    steps = maker.integer(1, 7)
    dtype = maker.any_of(['float64', 'float64', 'float64', 'float32', 'int64'])
    plan = plan_loop(maker, steps, dtype)
    body = make_body(maker, plan, nests=maker.chance(0.15))
    options: dict[str, Any] = {'sequences': plan.sequences, 'outputs_info': plan.outputs_info,
                               'non_sequences': plan.others, 'return_list': True}
    if not plan.sequences or maker.chance(0.3):
        options['n_steps'] = maker.integer(1, steps + 1)
    if maker.chance(0.25):
        options['go_backwards'] = True
    if maker.chance(0.2) and body.until is None:
        options['truncate_gradient'] = maker.integer(1, 4)
    if maker.chance(0.1):
        options['strict'] = True
    pair = maker.add('theano.scan', body, **options)
    if pair is None:
        return None
    outputs = maker.add('operator.getitem', pair, 0)
    refs = [maker.add('operator.getitem', outputs, index) for index in range(len(body.outputs))]
    return refs, maker.add('operator.getitem', pair, 1)


def row(maker: Maker, dtype: str, *lead: int) -> Ref:
    """Add a source with several rows."""
    source = maker.source(dtype, (*lead, WIDTH))
    return maker.add_source(dataclasses.replace(source, special=0, scale=1.0, is_shared=False))


def plan_loop(maker: Maker, steps: int, dtype: str) -> Plan:
    plan = Plan()
    vector = T.TensorType(dtype, (False,))
    for _ in range(maker.integer(0, 3)):
        taps = sorted({maker.integer(-2, 3) for _ in range(maker.integer(1, 3))}) if maker.chance(0.4) else [0]
        length = steps + max(taps[-1], 0) - min(taps[0], 0)
        plan.sequences.append({'input': row(maker, dtype, length), 'taps': taps})
        plan.arguments += [vector() for _ in taps]
    for _ in range(maker.integer(1, 4)):
        kind = maker.integer(0, 4)
        if kind == 0:
            plan.outputs_info.append(None)
        elif kind < 3:
            plan.outputs_info.append({'initial': row(maker, dtype), 'taps': [-1]})
            plan.arguments.append(vector())
        else:
            taps = sorted({maker.integer(-MAX_TAP, 0) for _ in range(2)} | {-2})
            plan.outputs_info.append({'initial': row(maker, dtype, -taps[0]), 'taps': taps})
            plan.arguments += [vector() for _ in taps]
        plan.states.append(None if kind == 0 else vector)
    for _ in range(maker.integer(0, 3)):
        lead = maker.any_of([(), (WIDTH,)])
        source = dataclasses.replace(maker.source(dtype, (*lead, WIDTH)), special=0, scale=0.5)
        plan.others.append(maker.add_source(source))
        plan.arguments.append(T.TensorType(dtype, (False,) * (len(lead) + 1))())
    if not plan.arguments:
        plan.others.append(row(maker, dtype))
        plan.arguments.append(vector())
    return plan


def make_body(outer: Maker, plan: Plan, nests: bool) -> Body:
    """Make an inner function for `plan`; with `nests`, it contains another loop."""
    maker = Maker(outer.random, plan.arguments, [WIDTH ** 2] * len(plan.arguments))
    dtype = plan.arguments[0].dtype
    for _ in range(maker.integer(1, 6)):
        a, b = maker.any_of(maker.tensors()), maker.any_of(maker.tensors())
        if maker.chance(0.5):
            maker.add(maker.any_of(COMBINING), a, b)
        elif maker.chance(0.6):
            maker.add(maker.any_of(BOUNDED), a)
        else:
            maker.any_of(INSIDE)(maker, a, b)
    if nests:
        inner_loop(maker)
    outputs = [fitting_output(maker, state, dtype) for state in plan.states]
    until = None
    if maker.chance(0.2):
        total = maker.add('T.sum', maker.any_of([ref for ref in outputs if ref is not None]))
        until = maker.add('T.gt', total, maker.any_of([1, 2, 100]))
    return Body(len(plan.arguments), tuple(maker.calls), tuple(outputs), until)


def fitting_output(maker: Maker, state: Any, dtype: str) -> Ref:
    """A recent variable, converted to the type of the state; any recent variable for an output without a state."""
    latest = maker.tensors()[::-1]
    if state is None:
        return maker.any_of(latest[:4])
    ref = maker.any_of([ref for ref in latest if maker[ref].ndim == 1][:maker.any_of([2, 4, 8])])
    if dtype.startswith('float'):
        ref = maker.add(maker.any_of(BOUNDED[:3]), ref)
    else:
        ref = maker.add('T.clip', ref, -50, 50)
    return ref if maker[ref].dtype == dtype else maker.add('T.cast', ref, dtype)


def written(maker, a, b):
    maker.add('T.set_subtensor', maker.add('operator.getitem', a, slice(0, 1)), 0.5)


def shuffled(maker, a, b):
    maker.add('operator.getitem', a, slice(None, None, -1))


def counted(maker, a, b):
    maker.add('operator.mul', a, maker.add('T.sum', b))


def drawn(maker, a, b):
    """Add random numbers, whose generator has a state that passes from step to step."""
    generator = maker.add(maker.any_of(['MRG_RandomStreams', 'RandomStreams']), maker.integer(1, 1000))
    numbers = maker.add('.uniform', generator, (WIDTH,)) if maker.chance(0.5) else maker.add(
        '.normal', generator, (WIDTH,))
    maker.add('operator.add', a, maker.add('T.cast', numbers, maker[a].dtype))


def chosen(maker, a, b):
    maker.add('T.switch', maker.add('T.gt', a, 0), b, a)


def derived(maker, a, b):
    if maker[a].dtype.startswith('float'):
        maker.add('T.grad', maker.add('T.sum', maker.add('T.sqr', maker.add('T.tanh', a))), a)


def inner_loop(maker: Maker) -> None:
    """Add a loop over a row to the inner function."""
    vectors = [ref for ref in maker.tensors() if maker[ref].ndim == 1]
    a, b = maker.any_of(vectors), maker.any_of(vectors)
    body = Body(2, (Call('operator.mul', (Ref(1), Ref(0))), Call('T.tanh', (Ref(2),)),
                    Call('T.cast', (Ref(3), maker[b].dtype))), (Ref(4),))
    pair = maker.add('theano.scan', body, sequences=[a], outputs_info=[b], return_list=True)
    if pair is not None:
        states = maker.add('operator.getitem', maker.add('operator.getitem', pair, 0), 0)
        maker.add('operator.getitem', states, -1)


INSIDE = [written, shuffled, counted, drawn, drawn, chosen, derived]


def shortened(maker: Maker, ref: Ref) -> Ref:
    """`ref`, or some of its rows: if only the last ones are used, Theano allocates fewer."""
    if maker.chance(0.5):
        return ref
    return maker.add('operator.getitem', ref, maker.any_of([-1, slice(-2, None), slice(None, None, -1), 0])) or ref


def add_gradients(maker: Maker, outputs: list[Ref]) -> list[Ref]:
    """Add gradients with respect to the sources; in some programs, also of second order."""
    costs = [maker.add('T.sum', ref) for ref in outputs if maker[ref].dtype.startswith('float')]
    found: list[Ref] = []
    for _ in range(1 if maker.chance(0.8) else 2):
        if not costs or not maker.floats():
            break
        cost = costs[0]
        for other in costs[1:]:
            cost = maker.add('operator.add', cost, other)
        gradients = maker.add('T.grad', cost, maker.floats(), disconnected_inputs='ignore')
        if gradients is None:
            break
        found += [maker.add('operator.getitem', gradients, index) for index in range(len(maker.floats()))]
        costs = [maker.add('T.sum', maker.add('T.sqr', found[-1]))]
    return found
