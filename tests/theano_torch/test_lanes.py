"""theano_torch/scheduler.py and lanes.py: the number of threads per node, and steps that run concurrently."""


import gc
import os
import signal
import threading
import weakref

import theano_torch
from theano_torch import collective, lanes, scheduler
from theano_torch.lanes import Lanes, Work, tasks_of
from theano_torch.scheduler import ThreadPolicy, first_in_lanes
from theano_torch.steps import Step, execute

import numpy as np
import pytest
import theano
import theano.tensor as T
import torch
from theano import gof
from theano.tensor.nnet import conv2d

from nets import updates
from tests.theano_torch.helpers import TORCH, numbers


@pytest.fixture
def set_threads():
    """Sets torch's number of threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(set_threads):
    set_threads(2)


class Witness(gof.Op):
    """The identity. Appends (name, torch's number of threads, whether it runs in the main thread) to `seen`.

    Fails for negative numbers. If there is a `barrier`, waits for the op in the other lane.
    """

    __props__ = ('name', 'in_order')
    seen = []
    barrier = None

    def __init__(self, name='', in_order=False):
        self.name, self.in_order = name, in_order

    def make_node(self, x):
        return gof.Apply(self, [x], [x.type()])

    def grad(self, inputs, grads):
        return grads


@theano_torch.lower.register(Witness)
def _(op, node, build):
    def look(x):
        op.seen.append((op.name, torch.get_num_threads(), threading.current_thread() is threading.main_thread()))
        if (x < 0).any():
            raise ArithmeticError('negative: ' + op.name)
        if op.barrier is not None:
            op.barrier.wait(60)
        return x.clone()
    return look


@pytest.fixture
def seen():
    Witness.seen.clear()
    return Witness.seen


def programs_of(function):
    return [kept for programs in function.fn.programs.values() for kept in programs]


def lanes_of(function):
    return [part for kept in programs_of(function) for part in kept.parts if isinstance(part, Lanes)]


# ----------------------------------------------------------------------------------------------------------------------
# Numbers of threads.


def test_little_work_runs_in_one_thread(set_threads, seen):
    set_threads(3)
    x = T.fmatrix()
    function = theano.function([x], T.dot(Witness()(x), x.T), mode=TORCH)
    array = np.abs(numbers(4, 5))
    for _ in range(3):
        np.testing.assert_allclose(function(array), np.dot(array, array.T), rtol=1e-6)    # Covers rounding.
        assert torch.get_num_threads() == 3
    assert seen == [('', 1, True)] * 3


def test_much_work_runs_in_all_threads(set_threads, seen, monkeypatch):
    """The first call uses as many threads as later ones, so that all results have the same bits."""
    set_threads(3)
    monkeypatch.setattr(scheduler, 'WIDE_ELEMENTS', 20)
    x = T.fmatrix()
    function = theano.function([x], Witness()(x).sum(), mode=TORCH)
    for rows, threads in ((4, 3), (3, 1), (4, 3), (3, 1)):
        function(np.ones((rows, 5), 'float32'))
        assert seen.pop() == ('', threads, True)
        assert torch.get_num_threads() == 3


def test_a_single_thread_stays_one(set_threads, seen, monkeypatch):
    monkeypatch.setattr(scheduler, 'WIDE_ELEMENTS', 0)
    set_threads(1)
    x = T.fmatrix()
    function = theano.function([x], Witness()(x), mode=TORCH)
    function(np.ones((2, 2), 'float32'))
    set_threads(2)      # A change after the first call takes effect.
    function(np.ones((2, 2), 'float32'))
    assert seen == [('', 1, True), ('', 2, True)]


def test_threads_of_products():
    image, filters = T.ftensor4(), T.ftensor4()
    product, other = conv2d(image, filters).owner, (image * 2).owner
    plan = ThreadPolicy([product, other], 4)
    for size, threads in ((29999, (1, 1)), (30000, (4, 1)), (499999, (4, 1)), (500000, (4, 4))):
        shapes = {image: (size, 1, 1, 1), filters: (100, 1, 3, 3), other.inputs[1]: (1, 1, 1, 1)}
        assert (plan.threads_of(product, shapes), plan.threads_of(other, shapes)) == threads


def test_threads_come_back_after_an_error(set_threads, seen):
    set_threads(3)
    x = T.fmatrix()
    function = theano.function([x], Witness()(x), mode=TORCH)
    function(np.ones((2, 2), 'float32'))
    for _ in range(2):
        with pytest.raises(ArithmeticError, match='(?s)negative.*Apply node'):
            function(-np.ones((2, 2), 'float32'))
        assert torch.get_num_threads() == 3


def test_threads_of_wrong_shapes(set_threads):
    """An abandoned run restores the number of threads."""
    set_threads(3)
    x = T.fvector()
    function = theano.function([x], x[Witness()(x).nonzero()], mode=TORCH)
    for array in ([1, 0, 1], [1, 1, 1], [0, 0, 1], [1, 0, 1], [1, 1, 1]):
        array = np.asarray(array, 'float32')
        np.testing.assert_array_equal(function(array), array[array > 0])
        assert torch.get_num_threads() == 3
    assert len(programs_of(function)) == 3


# ----------------------------------------------------------------------------------------------------------------------
# What runs in lanes.


def chain(x, length):
    for _ in range(length):
        x = T.dot(x, x)
    return x


def order_of(*outputs):
    """The nodes that compute `outputs` from their inputs, in order."""
    return gof.graph.io_toposort(gof.graph.inputs(outputs), outputs)


def test_the_plan_ends_before_what_destroys_its_inputs():
    x, param = T.fmatrix(), theano.shared(np.ones((2, 2), 'float32'))
    new = updates.MovingAverageStep(1, inplace=True)(np.float64(0.5), chain(x, 10), param)
    order = order_of(new * 2)
    last = ThreadPolicy(order, 2).last
    assert ThreadPolicy(order_of(chain(x, 10)), 2).last == 10
    assert order[last].op.destroy_map and last == len(order) - 2        # Only it and the product come last.


def test_no_lanes_for_what_does_more_than_compute():
    x = T.fmatrix()
    for output in (Witness(in_order=True)(x), *collective.all_reduce_mean([x]), theano.printing.Print('x')(x)):
        assert not ThreadPolicy(order_of(output * 2), 2).may_have_lanes
    assert ThreadPolicy(order_of(Witness()(x) * 2), 2).may_have_lanes


def test_when_there_are_lanes(monkeypatch):
    monkeypatch.setattr(scheduler, 'SMALL_STEP', 10)
    monkeypatch.setattr(scheduler, 'BIG_PRODUCT', 125)
    x = T.fmatrix()
    nodes = [T.dot(x, x).owner, T.dot(x, x).owner, T.exp(x).owner, None]
    for size, wanted in ((2, False), (3, True), (4, True), (5, False)):      # 2 n^3 multiplications in four steps.
        shapes = {x: (size, size), **{node.outputs[0]: (size, size) for node in nodes[:3]}}
        assert ThreadPolicy([], 2).has_lanes(nodes, shapes) == wanted
        assert not ThreadPolicy([], 3).has_lanes(nodes, shapes)
    assert not ThreadPolicy([], 2).has_lanes([], {})
    assert [ThreadPolicy([], number).lane_threads for number in (2, 4, 8)] == [1, 2, 4]


def chains_of_steps(*lengths):
    """Independent chains of steps, followed by one step that needs all of them."""
    steps, ends = [], []
    for length in lengths:
        for number in range(length):
            steps.append(Step(None, (len(steps) - 1,) if number else (), len(steps)))
        ends.append(len(steps) - 1)
    return [*steps, Step(None, tuple(ends), len(steps))]


def test_first_in_lanes():
    def first(steps, speed_up):
        return first_in_lanes(steps, [1.0] * len(steps), [1 / speed_up] * len(steps))
    assert first(chains_of_steps(5, 5), 1.5) == 0
    assert first(chains_of_steps(10), 1.5) == 11        # Nothing can run concurrently.
    assert first(chains_of_steps(10), 1) == 11
    assert first(chains_of_steps(5, 5), 2) == 11        # Lanes would not be faster.
    steps = chains_of_steps(5, 5)                       # Add five steps on which all others depend.
    steps = [Step(None, (slot - 1,) if slot else (), slot) for slot in range(5)] + [
        Step(None, tuple(slot + 5 for slot in step.sources) or (4,), step.target + 5) for step in steps]
    assert first(steps, 1.5) == 5
    assert first([], 1.5) == 0


# ----------------------------------------------------------------------------------------------------------------------
# Tasks.


def random_steps(seed, num=60):
    """(random steps on lists of numbers, each with one or two results; number of slots, the first 4 of them inputs)"""
    random, steps, num_slots = np.random.RandomState(seed), [], 4
    for number in range(num):
        sources = tuple(random.choice(num_slots, size=random.randint(0, 4)).tolist())
        if random.rand() < 0.3:
            target, num_slots = (num_slots, num_slots + 1), num_slots + 2
            steps.append(Step(lambda *x, n=number: ([n, *sum(x, [])][-9:], [-n]), sources, target))
        else:
            target, num_slots = num_slots, num_slots + 1
            steps.append(Step(lambda *x, n=number: [n, *sum(x, [])][-9:], sources, target))
    return steps, num_slots


@pytest.mark.parametrize('seed', range(30))
def test_lanes_give_what_one_after_the_other_gives(seed):
    steps, num_slots = random_steps(seed)
    random = np.random.RandomState(seed)
    costs = (10.0 ** random.uniform(-6, -3, len(steps))).tolist()
    expected = [[-1], [-2], [-2.5], [-3]] + [None] * (num_slots - 4)
    values = expected.copy()
    execute(steps, expected)
    made = range(4, num_slots)
    kept = set(random.choice(made, size=5).tolist()) | {0}
    part = Lanes(steps, costs, kept, threads=1)
    for _ in range(3):
        found = values.copy()
        part.run(found)
        assert [found[slot] for slot in kept] == [expected[slot] for slot in kept]
        # All other slots are empty, except for values that no step has used.
        assert all(found[slot] is None for slot in made if slot not in kept)
    assert sorted(id(step.function) for step in part.steps) == sorted(id(step.function) for step in steps)


def test_tasks():
    """A cheap step joins the task that makes its sources; a slot is emptied after its last use."""
    steps = [Step(name, sources, target) for name, sources, target in (
        ('a', (0,), 1), ('a, cheap', (1,), 2), ('b', (1,), (3, 4)), ('c', (2, 3), 5), ('b, cheap', (3, 3), 6))]
    first, second, third = tasks_of(steps, [1.0, 1e-6, 1.0, 1e-6, 2e-6], kept={5})
    assert first.steps == [('a', (0,), 1, (0,), None), ('a, cheap', (1,), 2, (), None)]
    assert second.steps == [('b', (1,), (3, 4), (4,), None), ('b, cheap', (3, 3), 6, (6,), None)]
    assert third.steps == [('c', (2, 3), 5, (), None)]      # Needs results of two tasks.
    assert [task.followers for task in (first, second, third)] == [[1, 2], [2], []]
    assert [sorted(task.shared) for task in (first, second, third)] == [[1, 2], [1, 3], [2, 3]]
    assert [task.seconds for task in (first, second, third)] == pytest.approx([1 + 1e-6, 1 + 2e-6, 1e-6])


@pytest.mark.parametrize('seconds, wakes', [((1, 1), True), ((1, 0), True), ((0, 1), True), ((0, 0), False)])
def test_the_other_lane_is_woken_where_it_pays(seconds, wakes):
    """Of two tasks with a common source, the running lane takes one and leaves the other to the sleeping lane."""
    part = Lanes([Step(abs, (0,), 1), Step(abs, (1,), 2), Step(abs, (1,), 3)], [1.0] * 3, {2, 3}, 1)
    for task, cost in zip(part.tasks[1:], seconds, strict=True):
        task.seconds = cost
    work = Work(part, [1, None, None, None])
    mine, theirs = threading.Lock(), threading.Lock()
    theirs.acquire()
    work.sleeper = theirs
    source = work.next(None, mine)
    assert source is part.tasks[0] and theirs.locked()      # Nothing else can run yet.
    assert work.next(source, mine) is part.tasks[1]
    assert theirs.locked() != wakes


# ----------------------------------------------------------------------------------------------------------------------
# Functions.


@pytest.fixture
def always(monkeypatch, two_threads):
    """Use lanes even for the smallest functions."""
    monkeypatch.setattr(scheduler, 'SMALL_STEP', 0)
    monkeypatch.setattr(lanes, 'WAKING_SECONDS', 0.0)


def two_chains():
    """(inputs, outputs) of a function that can run in lanes."""
    x, y = T.fmatrix('x'), T.fmatrix('y')
    return [x, y], [chain(Witness('x')(x), 4) + 1, chain(Witness('y')(y), 4) - chain(x, 2)]


def function_in_lanes():
    """(function of two arrays, an array, the function's results if both arguments are this array)"""
    inputs, outputs = two_chains()
    function = theano.function(inputs, outputs, mode=TORCH)
    array = np.eye(3, dtype='float32')
    return function, array, function(array, array)


def assert_arrays_equal(found, expected):
    for mine, reference in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, reference)


def test_functions_in_lanes(always, seen, monkeypatch):
    inputs, outputs = two_chains()
    function = theano.function(inputs, outputs, mode=TORCH)
    x, y = numbers(3, 3, low=0, high=1), numbers(3, 3, low=0, high=1, seed=1)
    expected = [np.linalg.matrix_power(x, 16) + 1, np.linalg.matrix_power(y, 16) - np.linalg.matrix_power(x, 4)]
    first = function(x, y)
    assert [entry[1:] for entry in seen[:2]] == [(1, True)] * 2     # The first call runs in the main thread only.
    assert sorted(entry[0] for entry in seen) == ['x', 'x', 'y', 'y']
    monkeypatch.setattr(Witness, 'barrier', threading.Barrier(2))
    for _ in range(3):
        seen.clear()
        for mine, reference, before in zip(function(x, y), expected, first, strict=True):
            np.testing.assert_allclose(mine, reference, rtol=1e-4)      # Covers rounding of sixteen factors in float32.
            np.testing.assert_array_equal(mine, before)
        assert sorted(entry[1:] for entry in seen) == [(1, False), (1, True)]
        assert torch.get_num_threads() == 2
    assert len(lanes_of(function)) == 1


def test_functions_made_in_another_thread_have_lanes(always):
    """Lanes depend on the caller's number of threads, not on that of the thread that made the function."""
    inputs, outputs = two_chains()
    made = []

    def run(work):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    run(lambda: torch.set_num_threads(1))       # New threads inherit the last value set by any thread.
    run(lambda: made.extend([torch.get_num_threads(), theano.function(inputs, outputs, mode=TORCH)]))
    threads, function = made
    assert threads == 1
    array = np.eye(3, dtype='float32')
    function(array, array)
    assert torch.get_num_threads() == 2
    assert len(lanes_of(function)) == 1


def test_too_small_for_lanes(always, monkeypatch):
    monkeypatch.setattr(scheduler, 'SMALL_STEP', 27)
    inputs, outputs = two_chains()
    function = theano.function(inputs, outputs, mode=TORCH)
    for size, used in ((2, False), (4, True)):      # 8 and 64 multiplications in most steps.
        function.fn.programs.clear()
        function(np.ones((size, size), 'float32'), np.ones((size, size), 'float32'))
        assert bool(lanes_of(function)) == used


def test_printing_happens_once(always, capsys):
    (x, y), outputs = two_chains()
    function = theano.function([x, y], [theano.printing.Print('x', global_fn=tell)(outputs[0]), outputs[1]], mode=TORCH)
    array = np.eye(3, dtype='float32')
    for _ in range(3):
        function(array, array)
        assert capsys.readouterr().out == 'x\n'
    assert not lanes_of(function)


def tell(op, value):
    print(op.message)


@pytest.mark.parametrize('failing', ['x', 'y', 'xy'])
def test_errors_in_lanes(always, failing):
    inputs, outputs = two_chains()
    function = theano.function(inputs, outputs, mode=TORCH)
    good = {name: np.eye(3, dtype='float32') for name in 'xy'}
    expected = function(**good)
    for _ in range(3):
        bad = {name: -value if name in failing else value for name, value in good.items()}
        with pytest.raises(ArithmeticError, match=f'(?s)^negative: [{failing}]\n.*Apply node'):
            function(**bad)
        assert_arrays_equal(function(**good), expected)


def test_ctrl_c_in_lanes(always):
    """Whenever Ctrl-C comes, the other lane ends, and the function works afterwards."""
    function, array, expected = function_in_lanes()
    tasks = lanes_of(function)[0].tasks

    def interrupt(*arguments):
        raise KeyboardInterrupt
    for task in tasks:
        whole = task.steps
        task.steps = [whole[0]._replace(function=interrupt), *whole[1:]]
        with pytest.raises(KeyboardInterrupt):
            function(array, array)
        assert torch.get_num_threads() == 2
        task.steps = whole
        assert_arrays_equal(function(array, array), expected)


@pytest.mark.timeout(method='thread')     # The test uses the alarm signal itself.
def test_signals_in_lanes(always):
    """Like the test above, but with real signals at arbitrary moments."""
    function, array, expected = function_in_lanes()

    def interrupt(signum, frame):
        raise KeyboardInterrupt
    before = signal.signal(signal.SIGALRM, interrupt)
    num_interrupted = 0
    try:
        for delay in np.linspace(2e-5, 1e-3, 200):
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                function(array, array)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                num_interrupted += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert num_interrupted > 0
    assert torch.get_num_threads() == 2
    assert_arrays_equal(function(array, array), expected)


def test_one_lane_alone(always):
    """If the second lane is busy, the first lane does everything."""
    function, array, expected = function_in_lanes()
    end = threading.Event()
    lanes.second_lane().put(end.wait)
    try:
        found = function(array, array)
    finally:
        end.set()
    assert_arrays_equal(found, expected)


def test_shapes_that_depend_on_values_in_lanes(always):
    x, y = T.fmatrix(), T.fmatrix()
    chosen = T.flatten(chain(x, 4))[T.flatten(Witness('y')(y)).nonzero()]
    function = theano.function([x, y], [chosen, chain(y, 4)], mode=TORCH)
    array = np.eye(2, dtype='float32')
    for mask in ([1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]):
        mask = np.reshape(mask, (2, 2)).astype('float32')
        found, power = function(array, mask)
        np.testing.assert_array_equal(found, array[mask > 0])
        np.testing.assert_array_equal(power, np.linalg.matrix_power(mask, 16))
    assert len(lanes_of(function)) == 3


def test_memory_is_given_back(always):
    """When a call ends, both threads have released all intermediate results."""
    inputs, outputs = two_chains()
    function = theano.function(inputs, outputs, mode=TORCH)
    array = np.eye(3, dtype='float32')
    function(array, array)
    part, = lanes_of(function)
    made = []

    def watched(run):
        def step(*arguments):
            result = run(*arguments)
            made.append(weakref.ref(result))
            return result
        return step
    for task in part.tasks:
        task.steps = [step._replace(function=watched(step.function)) for step in task.steps]
    function(array, array)
    gc.collect()
    idle = threading.Event()
    lanes.second_lane().put(idle.set)
    assert idle.wait(60)        # Now the thread has released its previous task.
    assert len(made) > 10 and all(reference() is None for reference in made)


def test_updates_in_place_come_after_the_lanes(always):
    x, y = T.fmatrix(), T.fmatrix()
    param = theano.shared(np.eye(3, dtype='float32'))
    loss = chain(T.dot(x, param), 3).sum() + chain(T.dot(param, y), 3).sum()
    function = theano.function([x, y], loss, updates=updates.adam(theano.grad(loss, [param]), [param], 0.1), mode=TORCH)
    single = theano.function([x, y], loss, mode=TORCH)
    for seed in range(4):
        arrays = numbers(3, 3, low=0, high=0.5, seed=seed), numbers(3, 3, low=0, high=0.5, seed=seed + 10)
        expected = single(*arrays)
        np.testing.assert_allclose(function(*arrays), expected, rtol=1e-6)    # From the old parameter.
    assert len(lanes_of(function)) == 1


@pytest.mark.parametrize('flush', [True, False])
def test_denormal_numbers_in_the_second_lane(always, flush):
    """The second lane treats denormal numbers like the thread that starts it."""
    inputs, outputs = two_chains()
    function = theano.function([*inputs], [*outputs, inputs[1] * np.float32(1e-20)], mode=TORCH)
    array = np.full((3, 3), 1e-20, 'float32')
    torch.set_flush_denormal(flush)
    lanes.end_second_lane()
    try:
        are_zero = [(function(array, array)[2] == 0).all() for _ in range(3)]
    finally:
        torch.set_flush_denormal(True)      # The setting of `install`.
        lanes.end_second_lane()
    assert are_zero == [flush] * 3


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_a_forked_process_has_a_second_lane_of_its_own(always):
    inputs, outputs = two_chains()
    function = theano.function(inputs, outputs, mode=TORCH)
    array = np.eye(3, dtype='float32')
    expected = [function(array, array) for _ in range(2)][1]
    child = os.fork()
    if not child:
        same = all(map(np.array_equal, function(array, array), expected))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_two_callers_at_once(always):
    inputs, outputs = two_chains()
    functions = [theano.function(inputs, outputs, mode=TORCH) for _ in range(2)]
    array = np.eye(3, dtype='float32')
    expected = [function(array, array) for function in functions]
    found = [[], []]

    def call(number):
        torch.set_num_threads(2)
        found[number] = [functions[number](array, array) for _ in range(30)]
    callers = [threading.Thread(target=call, args=[number]) for number in (0, 1)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for results, reference in zip(found, expected, strict=True):
        assert len(results) == 30
        for result in results:
            assert all(map(np.array_equal, result, reference))
