"""`theano.scan` gives the same results as loops in NumPy, and its gradients equal finite differences or formulas."""

import theano_torch
from theano_torch.shared import DeviceConstructor

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from theano.sandbox.rng_mrg import MRG_RandomStreams
from theano.scan_module.scan_utils import until

from tests.theano_torch.helpers import TORCH, Graphs, numbers


def function(inputs, outputs, **options):
    return theano.function(inputs, outputs, mode=TORCH, **options)


def close(mine, reference, rtol=1e-5):
    assert mine.shape == np.shape(reference)
    np.testing.assert_allclose(mine, reference, rtol=rtol, atol=rtol)


# ----------------------------------------------------------------------------------------------------------------------
# Kinds of inputs and outputs.


def test_sequences_state_and_outputs_without_one():
    x, w, h0 = T.fmatrix(), T.fmatrix(), T.fvector()
    (h, doubled), updates = theano.scan(lambda row, h: (T.tanh(T.dot(h, w) + row), 2 * row[0]), sequences=x,
                                        outputs_info=[h0, None])
    run = function([x, w, h0], [h, doubled, h[-1]])
    for length in (4, 1, 7, 4):             # Calls with changing shapes.
        rows, weights, state = numbers(length, 3), numbers(3, 3, seed=1), numbers(3, seed=2)
        expected = []
        for row in rows:
            expected.append(np.tanh((expected[-1] if expected else state) @ weights + row))
        states, firsts, last = run(rows, weights, state)
        close(states, expected)
        close(firsts, 2 * rows[:, 0])
        close(last, expected[-1])
    assert not updates


def test_several_taps_of_sequences_and_states():
    x, initial = T.fvector(), T.fvector()
    y, _ = theano.scan(lambda before, now, third, last: before - now + 0.5 * third + last,
                       sequences=dict(input=x, taps=[-1, 0]),
                       outputs_info=dict(initial=initial, taps=[-3, -1]))
    values, start = numbers(8), numbers(3, seed=1)
    expected = list(start)
    for before, now in zip(values, values[1:], strict=False):
        expected.append(before - now + 0.5 * expected[-3] + expected[-1])
    run = function([x, initial], [y, y[-2:]])
    both, last = run(values, start)
    close(both, expected[3:])
    close(last, expected[-2:])


@pytest.mark.parametrize('last', [1, 2, 5])
def test_only_the_last_steps_are_kept(last):
    """A rewrite of Theano gives the loop fewer rows than steps, so that steps overwrite earlier rows."""
    n = T.iscalar()
    y, _ = theano.scan(lambda a, b: a + b, outputs_info=dict(initial=T.constant(np.array([1, 1])), taps=[-2, -1]),
                       n_steps=n)
    run = function([n], y[-last:])
    fibonacci = [1, 1]
    while len(fibonacci) < 30:
        fibonacci.append(sum(fibonacci[-2:]))
    for steps in (9, 20, 9, 6):
        np.testing.assert_array_equal(run(steps), fibonacci[2:][steps - last:steps])


def test_integers_index_and_count():
    x, n = T.fmatrix(), T.iscalar()
    (rows, count), _ = theano.scan(lambda i, k: (x[i] * x[k, 0], (k + 1) % 3), sequences=T.arange(n),
                                   outputs_info=[None, T.constant(np.int64(1))])
    run = function([x, n], [rows, count])
    values = numbers(5, 2)
    for steps in (5, 3):
        got, counts = run(values, steps)
        close(got, [values[i] * values[(1 + i) % 3, 0] for i in range(steps)])
        np.testing.assert_array_equal(counts, [(2 + i) % 3 for i in range(steps)])


def test_going_backwards_and_other_sequences():
    x = T.fvector()
    y, _ = theano.scan(lambda a, h: a + 0.5 * h, sequences=x, outputs_info=T.constant(np.float32(0)), go_backwards=True)
    values, expected = numbers(5), [np.float32(0)]
    for value in values[::-1]:
        expected.append(value + 0.5 * expected[-1])
    close(function([x], y)(values), expected[1:])


def test_steps_that_cannot_be():
    x, n = T.fvector(), T.iscalar()
    y, _ = theano.scan(lambda a, h: a * h, sequences=x, outputs_info=T.constant(np.float32(1)), n_steps=n)
    run = function([x, n], y)
    values = numbers(4)
    for steps, error in ((0, NotImplementedError), (5, ValueError)):
        with pytest.raises(error):
            run(values, steps)
    close(run(values, 3), np.cumprod(values[:3]))


def test_states_that_change_shape_are_an_error():
    x = T.fvector()
    y, _ = theano.scan(lambda h: T.concatenate([h, h]), outputs_info=x, n_steps=2)
    with pytest.raises(ValueError, match='changed shape'):
        function([x], y)(numbers(2))


def test_unknown_ops_inside_are_named_when_the_function_is_compiled():
    class Unknown(theano.Op):
        __props__ = ()

        def make_node(self, x):
            return theano.gof.Apply(self, [x], [x.type()])

    x = T.fvector()
    with pytest.raises(theano_torch.UnsupportedOp, match='Unknown'):
        function([x], theano.scan(lambda a: Unknown()(a), outputs_info=x, n_steps=3)[0])


# ----------------------------------------------------------------------------------------------------------------------
# Loops that end by themselves.


def test_until():
    x, bound = T.fvector(), T.fscalar()
    y, _ = theano.scan(lambda a, h: (a + h, until(a + h > bound)), sequences=x,
                       outputs_info=T.constant(np.float32(0)))
    run = function([x, bound], [y, y[-1], y.sum()])
    values = np.arange(1, 13, dtype='f')
    for limit in (1, 9, 70, 9, 200, *range(0, 60, 4)):      # More lengths than the cache has programs.
        expected = np.cumsum(values)
        expected = expected[:1 + np.argmax(expected > limit) if limit < 78 else None]
        rows, last, total = run(values, limit)
        close(rows, expected)
        close(last, expected[-1])
        close(total, expected.sum())


def test_a_loop_of_a_known_length_does_not_run_in_vain(monkeypatch):
    """A loop runs once per call, even if the cached program does not fit or a new one is compiled."""
    calls = []
    monkeypatch.setattr('theano_torch.lowerings.scan.Loop.__call__',
                        lambda loop, *arguments, run=theano_torch.lowerings.scan.Loop.__call__:
                        calls.append(loop.num_steps) or run(loop, *arguments))
    x, n = T.fscalar(), T.lscalar()
    y, _ = theano.scan(lambda h: h * x, outputs_info=T.constant(np.float32(1)), n_steps=n)
    (_, z), _ = theano.scan(lambda h, total: (h + total, h * total), sequences=y,
                            outputs_info=[T.constant(np.float32(0)), None])
    run = function([x, n], z)
    for steps in (2, 5, 3, 5, 2):
        calls.clear()
        powers = 2. ** np.arange(1, steps + 1)
        close(run(2, steps), powers * (powers - 2))
        assert calls == [steps, steps]


def test_a_loop_that_ends_by_itself_runs_at_most_twice(monkeypatch):
    calls = []
    monkeypatch.setattr('theano_torch.lowerings.scan.Loop.__call__',
                        lambda loop, *arguments, run=theano_torch.lowerings.scan.Loop.__call__:
                        calls.append(1) or run(loop, *arguments))
    bound = T.fscalar()
    y, _ = theano.scan(lambda h: (h * 2, until(h * 2 > bound)), outputs_info=T.constant(np.float32(1)), n_steps=40)
    run = function([bound], y)
    for power in (3, 5, 7, 9, 11, 3, 11, 11):
        calls.clear()
        close(run(2. ** power), 2. ** np.arange(1, power + 2))
        assert len(calls) <= 2
    assert len(calls) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Gradients, which are scans themselves.


def differences(run, value, eps=1e-6):
    """The gradient of `run` at `value`, float64, by central differences."""
    result = np.zeros_like(value)
    for index in np.ndindex(*value.shape):
        ahead, back = value.copy(), value.copy()
        ahead[index] += eps
        back[index] -= eps
        result[index] = (run(ahead) - run(back)) / (2 * eps)
    return result


@pytest.mark.parametrize('taps', [[-1], [-3, -1]], ids=str)
def test_gradients(taps):
    x, w, h0 = T.dmatrix(), T.dmatrix(), T.dmatrix()

    def step(row, *states):
        return T.tanh(T.dot(sum(states[:-1]), w) + row) + row * states[0]

    initial = h0[0] if taps == [-1] else dict(initial=h0, taps=taps)
    h, _ = theano.scan(step, sequences=x, outputs_info=initial, non_sequences=w)
    cost = (h ** 2).sum() + h[-1].sum()
    run = function([x, w, h0], [cost, *T.grad(cost, [x, w, h0])])
    values = [numbers(length, 2, dtype='float64', seed=length, low=-1, high=1) for length in (5, 2, -min(taps))]
    _, *gradients = run(*values)
    for index, gradient in enumerate(gradients):
        def cost_of(value, index=index):
            return run(*values[:index], value, *values[index + 1:])[0]
        close(gradient, differences(cost_of, values[index]), rtol=1e-6)


def test_truncated_gradient():
    """The gradient covers the last two of five steps: d(w^5 h)/dw counts w twice."""
    w = T.dscalar()
    h, _ = theano.scan(lambda h: h * w, outputs_info=T.constant(np.float64(1)), n_steps=5, truncate_gradient=2)
    close(function([w], T.grad(h[-1], w))(1.5), 2 * 1.5 ** 4)


def test_gradient_through_a_loop_that_ends_by_itself():
    w = T.dscalar()
    h, _ = theano.scan(lambda h: (h * w, until(h * w > 10)), outputs_info=T.constant(np.float64(1)), n_steps=30)
    run = function([w], T.grad(h[-1], w))
    for value, steps in ((2., 4), (3., 3), (1.5, 6), (2., 4)):
        close(run(value), steps * value ** (steps - 1))


def test_jacobian_hessian_and_r_operator():
    x, v = T.dvector(), T.dvector()
    y, _ = theano.scan(lambda a, h: a * a * h, sequences=x, outputs_info=T.constant(np.float64(1)))
    run = function([x, v], [theano.gradient.jacobian(x ** 3, x), theano.gradient.hessian((x ** 3).sum() * x[0], x),
                            T.Rop(y, x, v), theano.gradient.jacobian(y, x)])
    a, direction = np.array([1.5, -0.5, 2.]), np.array([1., 2., -1.])
    jacobian, hessian, along, of_loop = run(a, direction)
    products = np.cumprod(a * a)
    expected = np.tril(2 * products[:, np.newaxis] / a)
    close(jacobian, np.diag(3 * a ** 2), rtol=1e-10)
    second = np.diag(6 * a) * a[0]
    second[0] += 3 * a ** 2
    second[:, 0] += 3 * a ** 2
    close(hessian, second, rtol=1e-10)
    close(of_loop, expected, rtol=1e-10)
    close(along, expected @ direction, rtol=1e-10)


# ----------------------------------------------------------------------------------------------------------------------
# Shared variables, random numbers, loops in loops.


def test_shared_variables_are_updated_in_each_step():
    count, total = theano.shared(np.int64(3)), theano.shared(np.zeros(2, 'f'))
    x = T.fmatrix()
    y, updates = theano.scan(lambda row: (row * count, {count: count + 1, total: total + row}), sequences=x)
    run = function([x], y, updates=updates)
    values = numbers(4, 2)
    close(run(values), values * np.arange(3, 7)[:, np.newaxis])
    close(run(values), values * np.arange(7, 11)[:, np.newaxis])
    assert count.get_value() == 11
    close(total.get_value(), 2 * values.sum(0))


def test_numpys_random_streams():
    streams = T.shared_randomstreams.RandomStreams(5)
    y, updates = theano.scan(lambda: streams.uniform((3,)), n_steps=4)
    run = function([], y, updates=updates)
    state = np.random.RandomState(np.random.RandomState(5).randint(2 ** 30))
    for _ in range(2):
        close(run(), state.uniform(size=(4, 3)))


def test_mrg_streams():
    """Each step of a loop draws the same numbers as a call outside of a loop."""
    inside, outside = MRG_RandomStreams(3), MRG_RandomStreams(3)
    y, updates = theano.scan(lambda: inside.uniform((2, 3)), n_steps=3)
    run, step = function([], y, updates=updates), function([], outside.uniform((2, 3)))
    for _ in range(2):
        np.testing.assert_array_equal(run(), [step(), step(), step()])


def test_a_loop_in_a_loop():
    x = T.dmatrix()

    def outer(row, total):
        inner, _ = theano.scan(lambda a, h: a * h, sequences=row, outputs_info=total)
        return inner[-1] + 1

    y, _ = theano.scan(outer, sequences=x, outputs_info=T.constant(np.float64(1)))
    run = function([x], [y, T.grad(y[-1], x)])
    values, expected = numbers(3, 4, dtype='float64'), [1.]
    for row in values:
        expected.append(expected[-1] * np.prod(row) + 1)
    got, gradient = run(values)
    close(got, expected[1:])
    close(gradient, differences(lambda value: run(value)[0][-1], values), rtol=1e-5)


def test_map_reduce_and_folds():
    x = T.dvector()
    one = T.constant(np.float64(1))
    run = function([x], [
        theano.map(lambda a: a ** 2, x)[0], theano.reduce(lambda a, b: 2 * a + b, x, one)[0],
        theano.foldl(lambda a, b: a - b, x, one)[0], theano.foldr(lambda a, b: a / b, x, one)[0]])
    values = numbers(5, dtype='float64')
    reduced = left = right = 1.
    for a in values:
        reduced, left = 2 * a + reduced, a - left
    for a in values[::-1]:
        right = a / right
    for mine, expected in zip(run(values), (values ** 2, reduced, left, right), strict=True):
        close(mine, expected)


def test_lasagnes_lstm():
    x, units = T.ftensor3(), 4
    layer = lasagne.layers.LSTMLayer(lasagne.layers.InputLayer((2, 5, 3), x), units)
    out = lasagne.layers.get_output(layer)
    params = lasagne.layers.get_all_params(layer)
    gradients = T.grad(out.sum(), lasagne.layers.get_all_params(layer, trainable=True))
    run = function([x], [out, *gradients])
    p = {param.name.split('.')[-1]: param.get_value() for param in params}
    values, h, c = numbers(2, 5, 3), p['hid_init'], p['cell_init']
    expected = []

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    for t in range(5):
        gate = {kind: values[:, t] @ p[f'W_in_to_{kind}'] + h @ p[f'W_hid_to_{kind}'] + p[f'b_{kind}']
                for kind in ('ingate', 'forgetgate', 'cell', 'outgate')}
        c = sigmoid(gate['forgetgate'] + c * p['W_cell_to_forgetgate']) * c + \
            sigmoid(gate['ingate'] + c * p['W_cell_to_ingate']) * np.tanh(gate['cell'])
        h = (sigmoid(gate['outgate']) + c * p['W_cell_to_outgate']) * np.tanh(c)    # As in Lasagne 0.1.
        expected.append(h)
    got, *gradients = run(values)
    close(got, np.stack(expected, 1))
    assert all(np.isfinite(gradient).all() and gradient.any() for gradient in gradients)


# ----------------------------------------------------------------------------------------------------------------------
# Beside other things.


def test_nothing_shares_memory_with_arguments_or_constants():
    x = T.fvector()
    y, _ = theano.scan(lambda a: (a, x), sequences=x)
    run = function([x], y)
    values = numbers(3)
    first, second = run(values)
    first += 1
    second += 1
    close(run(values)[1], [numbers(3)] * 3)
    np.testing.assert_array_equal(values, numbers(3))


def test_a_mode_that_watches_sees_the_steps():
    seen = []
    mode = theano.compile.MonitorMode(post_func=lambda index, node, run: seen.append(run.outputs[0][0].max()))
    x = T.fvector()
    y, _ = theano.scan(lambda h: h * x, outputs_info=T.ones_like(x), n_steps=3, mode=mode)
    run = function([x], y[-1])
    for _ in range(2):
        seen.clear()
        close(run(np.array([1, 2], 'f')), [1, 8])
        assert seen == [2, 4, 8]


@pytest.mark.parametrize('is_fixed', [True, False], ids=['fixed', 'until'])
def test_loops_become_cuda_graphs_with_their_functions(is_fixed):
    """Loops with a stand-in for CUDA."""
    x, w = T.fmatrix(), DeviceConstructor('cpu')(np.eye(2, dtype='f'))
    h, _ = theano.scan(lambda row, h: T.dot(h, w) + row if is_fixed else (T.dot(h, w) + row, until(h[0] > 99)),
                       sequences=x, outputs_info=T.zeros(2))
    run = function([x], h, updates=[(w, 2 * w)])
    run.fn.graphs = Graphs()
    for call in range(6):
        values, state = numbers(3, 2, seed=call), np.zeros(2)
        expected = []
        for row in values:
            state = state * 2 ** call + row
            expected.append(state)
        close(run(values), expected)
    assert run.fn.graphs.recordings == is_fixed


def test_theanos_own_engine(python_mode):
    x = T.fvector()
    y, _ = theano.scan(lambda a, h: a + h, sequences=x, outputs_info=T.constant(np.float32(0)), mode=python_mode)
    close(theano.function([x], y, mode=python_mode)(np.ones(3, 'f')), [1, 2, 3])


def test_what_has_effects_runs_in_every_step():
    seen = []
    watch = theano.printing.Print('sum', global_fn=lambda op, values: seen.append(float(values)))
    x = T.fvector()
    sums, _updates = theano.scan(lambda value, total: watch(value + total), [x], [T.zeros(())])
    np.testing.assert_array_equal(theano.function([x], sums, mode=TORCH)(np.float32([1, 2, 3])), [1, 3, 6])
    assert seen == [1, 3, 6]
