"""Random general programs: element-wise ops, reductions, shapes, indices, products, sorts, updates, gradients."""

import numpy as np

from tests.theano_torch.fuzz.maker import FLOATS, INTEGERS, Maker
from tests.theano_torch.fuzz.recipes import Recipe, Ref, pruned

UNARY = ['operator.neg', 'operator.invert', *['T.' + name for name in '''
    abs_ angle arccos arccosh arcsin arcsinh arctan arctanh ceil conj cos cosh deg2rad erf erfc erfcinv erfcx erfinv
    exp exp2 expm1 floor gamma gammaln i0 i1 imag inv iround isinf isnan j0 j1 log log10 log1p log2 psi rad2deg real
    round sgn sin sinh sqr sqrt tan tanh tri_gamma trunc zeros_like ones_like
    nnet.relu nnet.elu nnet.selu nnet.sigmoid nnet.softplus nnet.softsign nnet.hard_sigmoid nnet.ultra_fast_sigmoid
    xlogx.xlogx'''.split()]]
BINARY = ['operator.add', 'operator.sub', 'operator.mul', 'operator.truediv', 'operator.pow',
          *['T.' + name for name in '''
    maximum minimum eq neq lt le gt ge isclose arctan2 and_ or_ xor xlogx.xlogy0 chi2sf nnet.binary_crossentropy
    sub mul add fill jv iv'''.split()]]
REDUCTIONS = ['sum', 'sum', 'prod', 'mean', 'var', 'std', 'max', 'min', 'any', 'all', 'argmax', 'argmin', 'ptp',
              'max_and_argmax']
TYPES = ('float64', 'float32', 'float16', 'bool', *INTEGERS)


def make(seed: int) -> Recipe:
    """Make the program of a seed."""
    maker = Maker(np.random.RandomState(seed))
    add_sources(maker)
    count = len(maker.sources)
    for _ in range(maker.integer(2, 9)):
        add_call(maker)
    made = maker.tensors(count) or maker.tensors()
    outputs = made[-maker.integer(1, 4):]
    if maker.chance(0.4):
        outputs += add_gradients(maker, outputs)
    updates = []
    for ref in map(Ref, range(count)):
        if maker.sources[ref.index].is_shared:
            fitting = maker.tensors(count, lambda variable, ref=ref: can_update(maker[ref], variable))
            updates += [(ref, maker.any_of(fitting))] if fitting else []
    return pruned(Recipe(tuple(maker.sources), tuple(maker.calls), tuple(outputs), tuple(updates)))


def can_update(shared, variable):
    return variable.dtype == shared.dtype and variable.broadcastable == shared.broadcastable


def add_sources(maker: Maker) -> None:
    """Add one to three sources, most of which have matching shapes."""
    ndim = maker.integer(0 if maker.chance(0.2) else 1, 5)
    shape = [0 if maker.chance(0.04) else maker.integer(1, 5) for _ in range(ndim)]
    dtype = maker.any_of(FLOATS if maker.chance(0.6) else (*INTEGERS, 'bool', 'complex64', 'complex128'))
    for _ in range(maker.integer(1, 4)):
        dtype = dtype if maker.chance(0.7) else maker.any_of(TYPES)
        kept = shape[maker.integer(0, len(shape) + 1):] if maker.chance(0.2) else shape
        maker.add_source(maker.source(dtype, [1 if maker.chance(0.15) else size for size in kept]))


def add_call(maker: Maker) -> None:
    """Add a random op on existing variables."""
    maker.any_of(KINDS)(maker, maker.any_of(maker.tensors()), maker.any_of(maker.tensors()))


def add_gradients(maker: Maker, outputs: list[Ref]) -> list[Ref]:
    """Add gradients of the sum of the outputs with respect to the sources."""
    sources = maker.floats()
    costs = [ref for ref in outputs if maker[ref].dtype.startswith('float')]
    if not sources or not costs:
        return []
    cost = None
    for ref in costs:
        ref = maker.add('T.mul', ref, maker.add('T.cos', ref)) if maker.chance(0.3) else ref
        total = maker.add('T.sum', ref)
        cost = total if cost is None else maker.add('T.add', cost, total)
    gradients = maker.add('T.grad', cost, sources, disconnected_inputs='ignore')
    if gradients is None:
        return []
    return [maker.add('operator.getitem', gradients, index) for index in range(len(sources))]


# ----------------------------------------------------------------------------------------------------------------------
# Kinds of calls.


def unary(maker, a, b):
    maker.add(maker.any_of(UNARY), a)


def binary(maker, a, b):
    maker.add(maker.any_of(BINARY), a, b)


def with_number(maker, a, b):
    """Add an op with a constant. Integers are divided by constants only, since Theano's engines disagree on zero."""
    function = maker.any_of(['operator.floordiv', 'operator.mod', 'operator.pow', 'operator.add', 'operator.mul',
                             'operator.truediv', 'operator.sub', 'T.maximum', 'T.minimum', 'T.gt', 'T.le', 'T.eq'])
    number = maker.any_of([1, 2, 3, 0.5, 1.5] + ([-1, -2, -0.5] if maker[a].dtype[0] in 'fi' else []))
    if maker.chance(0.2) and function not in ('operator.floordiv', 'operator.mod'):
        maker.add(function, number, a)
    else:
        maker.add(function, a, number)


def divided(maker, a, b):
    if maker[b].dtype.startswith('float'):
        maker.add(maker.any_of(['operator.floordiv', 'operator.mod']), a, b)


def chosen(maker, a, b):
    compared = maker.any_of(maker.tensors())
    condition = maker.add(maker.any_of(['T.gt', 'T.eq', 'T.le']), compared, maker.any_of([0, 1, a]))
    if condition is not None:
        maker.add(maker.any_of(['T.switch', 'T.where']), condition, a, maker.any_of([b, 0, 1.5]))


def clipped(maker, a, b):
    maker.add('T.clip', a, maker.any_of([-1, 0, b]), maker.any_of([1, 2, 3.5]))


def cast(maker, a, b):
    """Add a cast. Values are clipped before a cast to integers, which is undefined for values out of range."""
    dtype = maker.any_of(TYPES)
    if dtype[0] in 'ui' and maker[a].dtype[0] in 'fc':
        isfinite = maker.add('T.lt', maker.add('T.abs_', a), 1e4)
        a = maker.add('T.switch', isfinite, a, 1)
        a = a and maker.add('T.clip', a, 0 if dtype[0] == 'u' else -100, 100)
    if a is not None:
        maker.add('T.cast', a, dtype)


def reduction(maker, a, b):
    name = maker.any_of(REDUCTIONS)
    options = {'axis': maker.axes(maker[a])}
    if maker.chance(0.3):
        options['keepdims'] = True
    if name in ('sum', 'prod', 'mean') and maker.chance(0.2):
        options['dtype'] = maker.any_of(['float64', 'float32', 'int64'])
        if maker.chance(0.3):
            options['acc_dtype'] = maker.any_of(['float64', 'float32', 'int64'])
    made = maker.add('T.' + name, a, **options)
    if made is not None and name == 'max_and_argmax':
        maker.add('operator.getitem', made, maker.integer(0, 2))


def cumulated(maker, a, b):
    if maker[a].ndim:
        axis = maker.axis(maker[a])
        # Theano wrongly gives the difference along a dimension of size one a size of one, too.
        functions = ['T.cumsum', 'T.cumprod'] + ([] if maker[a].broadcastable[axis] else ['T.extra_ops.diff'])
        maker.add(maker.any_of(functions), a, axis=axis)


def norm(maker, a, b):
    maker.add('.norm', a, maker.any_of([1, 2, 3, np.inf]), axis=maker.axes(maker[a]))


def softmax(maker, a, b):
    if maker[a].ndim == 2:
        maker.add(maker.any_of(['T.nnet.softmax', 'T.nnet.logsoftmax']), a)


def crossentropy(maker, a, b):
    if maker[a].ndim == 2:
        classes = maker.add('T.argmax', a, axis=1)
        probabilities = maker.add('T.nnet.softmax', a)
        if classes is not None and probabilities is not None:
            maker.add('T.nnet.categorical_crossentropy', probabilities, classes)


# Shapes.


def permuted(maker, a, b):
    order = [int(axis) for axis in maker.random.permutation(maker[a].ndim)]
    for _ in range(maker.integer(0, 2)):
        order.insert(maker.integer(0, len(order) + 1), 'x')
    maker.add('.dimshuffle', a, *order)


def swapped(maker, a, b):
    if maker[a].ndim >= 2:
        maker.add('.swapaxes', a, maker.integer(0, maker[a].ndim), maker.integer(0, maker[a].ndim))


def reshaped(maker, a, b):
    ndim = maker[a].ndim
    kind = maker.integer(0, 4)
    if kind == 0:
        maker.add('.flatten', a, maker.integer(1, max(ndim, 1) + 1))
    elif kind == 1:
        maker.add('.reshape', a, [-1])
    elif ndim:
        size = maker.add('operator.getitem', maker.add('T.shape', a), maker.integer(0, ndim))
        maker.add('.reshape', a, [-1, size] if kind == 2 else [size, -1, 1], ndim=2 if kind == 2 else 3)


def squeezed(maker, a, b):
    maker.add(maker.any_of(['T.squeeze', 'T.shape_padleft', 'T.shape_padright', 'T.atleast_3d']), a)


def joined(maker, a, b):
    ndim = maker[a].ndim
    if maker.chance(0.3):
        maker.add('T.stack', [a, maker.any_of([a, b])], axis=maker.integer(0, ndim + 1), growth=2)
    elif ndim:
        other = maker.any_of([a, b]) if maker.chance(0.5) else maker.add('T.tanh', a)
        maker.add('T.concatenate', [a, other or a, b if maker.chance(0.3) else a], axis=maker.axis(maker[a]), growth=3)


def repeated(maker, a, b):
    if maker[a].ndim:
        if maker.chance(0.5):
            maker.add('T.repeat', a, maker.integer(0, 3), axis=maker.axis(maker[a]) % maker[a].ndim, growth=2)
        else:
            maker.add('T.tile', a, [maker.integer(1, 3) for _ in range(maker[a].ndim)], growth=4)


def rolled(maker, a, b):
    if maker[a].ndim:
        maker.add('T.roll', a, maker.integer(-3, 4), axis=maker.axis(maker[a]) % maker[a].ndim)


def diagonal(maker, a, b):
    ndim = maker[a].ndim
    if ndim == 1:
        maker.add('T.diag', a, growth=5)
    elif ndim >= 2:
        maker.add(maker.any_of(['T.diagonal', 'T.tril', 'T.triu', 'T.nlinalg.trace']), a)


def filled(maker, a, b):
    maker.add('operator.add', maker.add('T.zeros_like', a), b)


def counted(maker, a, b):
    """Add `arange` or `eye`."""
    size = maker.add('operator.getitem', maker.add('T.shape', a), 0) if maker[a].ndim else None
    if size is not None:
        numbers = maker.add('T.arange', size)
        if maker.chance(0.5):
            maker.add('operator.mul', numbers, 0.5)
        elif maker.chance(0.5):
            maker.add('T.eye', size, size, maker.integer(-1, 2), dtype=maker.any_of(['float32', 'int64']))


# Indices.


def random_slice(maker):
    """A random slice of a dimension of a few elements."""
    start, stop = (None if maker.chance(0.5) else maker.integer(-4, 5) for _ in range(2))
    return slice(start, stop, maker.any_of([None, None, 1, 2, -1, -2, 3]))


def basic_index(maker, variable):
    entries = []
    for _ in range(maker.integer(1, variable.ndim + 1)):
        kind = maker.random.rand()
        if kind < 0.25:
            entries.append(maker.integer(-1, 1))
        else:
            entries.append(random_slice(maker) if kind < 0.8 else slice(None))
    if maker.chance(0.15):
        entries.insert(maker.integer(0, len(entries) + 1), Ellipsis)
    if maker.chance(0.1):
        entries.insert(maker.integer(0, len(entries) + 1), None)
    return tuple(entries)


def advanced_index(maker, variable):
    positions = maker.any_of([[0, 0, -1], [-1], [0, -1], [[0, -1], [0, 0]]])
    numbers = np.array(positions, maker.any_of(['int64', 'int32', 'int8']))
    kind = maker.integer(0, 5) if variable.ndim > 1 else 0
    if kind == 0:
        return numbers
    if kind == 1:
        return (slice(None), numbers)
    if kind == 2:
        return (numbers, numbers)
    if kind == 3:
        return (numbers, Ellipsis, maker.any_of([numbers, 0, random_slice(maker)]))
    return (random_slice(maker), numbers)


def mask(maker, a):
    return maker.add(maker.any_of(['T.gt', 'T.le', 'T.neq']), a, maker.any_of([0, 1]))


def any_index(maker, a):
    """A random index of `a`, which must not be 0-d."""
    kind = maker.random.rand()
    if kind < 0.5:
        return basic_index(maker, maker[a])
    if kind < 0.85:
        return advanced_index(maker, maker[a])
    return mask(maker, a)


def taken(maker, a, b):
    if maker[a].ndim:
        index = any_index(maker, a)
        if index is not None:
            maker.add('operator.getitem', a, index, growth=4)


def written(maker, a, b):
    if not maker[a].ndim:
        return
    index = any_index(maker, a)
    target = None if index is None else maker.add('operator.getitem', a, index, growth=4)
    if target is None:
        return
    value = maker.any_of([1, 2, b])
    if maker.chance(0.3):
        value = maker.add('operator.mul', target, 2) or 1
    maker.add(maker.any_of(['T.set_subtensor', 'T.inc_subtensor']), target, value)


def computed_index(maker, a, b):
    """Add an index that is computed from values."""
    if maker[a].ndim:
        position = maker.add('T.argmax', a, axis=0)
        if position is not None:
            maker.add('operator.getitem', a, position, growth=4)


def sought(maker, a, b):
    if maker[a].ndim:
        kind = maker.any_of(['T.sort', 'T.argsort', 'T.nonzero_values', 'T.flatnonzero', 'T.Unique', 'T.topk'])
        if kind == 'T.sort':
            maker.add(kind, a, axis=maker.axis(maker[a]))
        elif kind == 'T.argsort':
            maker.add(kind, a, axis=maker.axis(maker[a]), kind='mergesort')
        elif kind == 'T.topk':
            maker.add(kind, a, maker.any_of([1, -1]), axis=maker.axis(maker[a]))
        elif kind != 'T.Unique':
            maker.add(kind, a)


# Products.


def product(maker, a, b):
    kind = maker.any_of(['T.dot', 'T.dot', 'T.outer', 'T.batched_dot', 'T.tensordot', 'gemm'])
    if kind == 'T.outer':
        maker.add(kind, maker.add('.flatten', a), maker.add('.flatten', b), growth=16)
        return
    if not maker[a].ndim:
        return
    if kind == 'T.tensordot':
        maker.add(kind, a, b, axes=[[0], [0]], growth=5)
    elif kind == 'T.batched_dot':
        if maker[a].ndim == 3:
            maker.add(kind, a, maker.add('.dimshuffle', a, 0, 2, 1), growth=5)
    else:
        left = maker.add('T.dot', a, maker.add('T.transpose', b) if maker.chance(0.7) else b, growth=5)
        if kind == 'gemm' and left is not None:
            maker.add('operator.add', maker.add('operator.mul', left, 0.5), b)


def derived(maker, a, b):
    """Add a gradient as an intermediate result."""
    if maker[a].dtype.startswith('float'):
        sources, cost = maker.floats(), maker.add('T.sum', maker.add('T.tanh', a))
        if sources:
            maker.add('T.grad', cost, maker.any_of(sources), disconnected_inputs='ignore')


def in_one_branch(maker, a, b):
    condition = maker.add('T.gt', maker.add('T.sum', a), 0)
    if condition is not None and maker[a].type == maker[b].type:
        maker.add('theano.ifelse.ifelse', condition, a, b)


KINDS = [unary] * 6 + [binary] * 6 + [with_number] * 4 + [reduction] * 4 + [taken] * 4 + [written] * 4 + [
    divided, chosen, clipped, cast, cast, cumulated, norm, softmax, crossentropy, permuted, permuted, swapped, reshaped,
    reshaped, squeezed, joined, joined, repeated, rolled, diagonal, filled, counted, computed_index, sought, sought,
    product, product, derived, in_one_branch]
