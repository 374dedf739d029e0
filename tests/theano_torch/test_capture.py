"""theano_torch/capture.py: recording functions as CUDA graphs and replaying them, with a stand-in for CUDA."""


import gc
import logging
import threading

import theano_torch
from theano_torch import capture
from theano_torch.capture import WARM_UP_CALLS, CapturedProgram
from theano_torch.shared import DeviceConstructor

import numpy as np
import pytest
import theano
import theano.tensor as T
import torch

from nets import updates
from tests.theano_torch.helpers import Graphs

MODE = theano_torch.mode()
EAGER_CALLS = 1 + WARM_UP_CALLS     # The first call compiles the program.
shared = DeviceConstructor('cpu')


def compiled(inputs, outputs, graphs=None, **kwargs):
    """(a function that may be recorded, the stand-in for CUDA graphs)"""
    f = theano.function(inputs, outputs, mode=MODE, **kwargs)
    f.fn.graphs = graphs or Graphs()
    return f, f.fn.graphs


def captured(f):
    """The only program of a function."""
    (program,), = f.fn.programs.values()
    return program


def test_recorded_after_some_calls_and_replayed_from_then_on():
    x = T.dvector()
    f, graphs = compiled([x], [x * 2, x.sum()])
    for call in range(1, EAGER_CALLS + 4):
        doubled, total = f(np.full(3, float(call)))
        np.testing.assert_array_equal(doubled, np.full(3, 2. * call))
        assert (total, type(total)) == (3 * call, np.ndarray)
        assert graphs.recordings == (call > EAGER_CALLS)
        assert graphs.warm_ups == min(max(call - 1, 0), WARM_UP_CALLS)
    assert captured(f).graph.replays == 3


def test_results_belong_to_the_caller():
    x = T.dvector()
    f, _ = compiled([x], x + 1)
    results = [f(np.full(2, float(call))) for call in range(EAGER_CALLS + 3)]
    for call, result in enumerate(results):
        np.testing.assert_array_equal(result, [call + 1.] * 2)
        result[:] = -1


def test_updates_are_simultaneous_and_stay_where_they_are():
    a, b, c = shared(np.array([1., 2])), shared(np.array([3., 4])), shared(np.array(0.))
    f, graphs = compiled([], [a, b.sum()], updates=[(a, b), (b, a), (c, a.sum())])
    addresses = [var.container.storage.tensor.data_ptr() for var in (a, b, c)]
    values = [np.array([1., 2]), np.array([3., 4])]
    for _ in range(EAGER_CALLS + 4):
        old, total = f()
        np.testing.assert_array_equal(old, values[0])
        assert total == values[1].sum() and c.get_value() == values[0].sum()
        values.reverse()
        np.testing.assert_array_equal(a.get_value(), values[0])
        np.testing.assert_array_equal(b.get_value(), values[1])
        assert [var.container.storage.tensor.data_ptr() for var in (a, b, c)] == addresses
    assert graphs.recordings == 1


def test_values_set_between_calls_count():
    rate, total = shared(np.array(1.)), shared(np.array(0.))
    f, _ = compiled([], [], updates=[(total, total + rate)])
    for _ in range(EAGER_CALLS + 1):
        f()
    rate.set_value(10.)
    f()
    assert total.get_value() == EAGER_CALLS + 11
    total.set_value(100.)
    f()
    assert total.get_value() == 110
    # If a variable gets another tensor, its value is copied to the tensor that the graph reads.
    cell = rate.container.storage
    cell.tensor = torch.tensor(1000., dtype=torch.float64)
    f()
    assert total.get_value() == 1110 and rate.get_value() == 1000
    assert any(cell.tensor is place for place in captured(f).inputs)


def test_functions_share_variables():
    a = shared(np.array(0.))
    f, graphs = compiled([], a, updates=[(a, a + 1)])
    g, _ = compiled([], a * 10, graphs)
    for call in range(EAGER_CALLS + 4):
        assert (f(), g()) == (call, 10 * (call + 1))
    assert graphs.recordings == 2 and len(graphs.recorded) == 2


def test_variables_on_the_host_are_copied_in_and_out():
    """Variables that were made before `install` have their values on the host."""
    a = theano.shared(np.array([1., 2]))
    f, graphs = compiled([], a.sum(), updates=[(a, a * 2)])
    for call in range(EAGER_CALLS + 4):
        assert f() == 3 * 2 ** call
    a.set_value(np.array([1., 1]))
    assert f() == 2 and f() == 4
    assert graphs.recordings == 1


def test_steps_in_place():
    params = [shared(np.array([1., -2])), shared(np.array([[3.]]))]
    references = [theano.shared(param.get_value()) for param in params]

    def train(params):
        rate = theano.shared(np.array(0.1))
        loss = sum(T.sum(T.sqr(param)) for param in params)
        return rate, updates.adam(T.grad(loss, params), params, rate)

    rate, changes = train(params)
    f, graphs = compiled([], params[0], updates=changes)
    reference_rate, changes = train(references)
    g = theano.function([], references[0], updates=changes, mode=MODE)
    for call in range(EAGER_CALLS + 4):
        for variable in (rate, reference_rate):
            variable.set_value(0.1 / (call + 1))
        np.testing.assert_array_equal(f(), g())
    for param, reference in zip(params, references, strict=True):
        np.testing.assert_array_equal(param.get_value(), reference.get_value())
    assert graphs.recordings == 1


def test_random_streams():
    from theano.sandbox.rng_mrg import MRG_RandomStreams
    draws = []
    for graphs in (Graphs(), None):
        f = theano.function([], MRG_RandomStreams(7).uniform((5,), dtype='float64'), mode=MODE)
        f.fn.graphs = graphs
        draws.append([f() for _ in range(EAGER_CALLS + 3)])
    np.testing.assert_array_equal(*draws)
    assert len({draw.tobytes() for draw in draws[0]}) == EAGER_CALLS + 3


def test_one_graph_per_shape_and_a_limit():
    x = T.dvector()
    f, graphs = compiled([x], x * 2)
    sizes = range(1, capture.MAX_GRAPHS + 4)
    for size in sizes:
        for call in range(EAGER_CALLS + 1):
            np.testing.assert_array_equal(f(np.full(size, float(call))), np.full(size, 2. * call))
    assert len(graphs.recorded) == capture.MAX_GRAPHS
    programs = [program for program, in f.fn.programs.values()]
    assert [program.graph is not None for program in programs] == [size > 3 for size in sizes]
    # A discarded graph is recorded again, and replaces the least recently used one.
    for _ in range(EAGER_CALLS):
        np.testing.assert_array_equal(f(np.ones(1)), [2])
    assert programs[0].graph is not None and programs[3].graph is None
    del f, programs
    gc.collect()
    assert len(graphs.recorded) == 0


class Unrecorded(theano.Op):
    """The same tensor, by an op that must not be in a CUDA graph."""

    __props__ = ()
    can_be_captured = False

    def make_node(self, x):
        return theano.Apply(self, [x], [x.type()])


@theano_torch.lower.register(Unrecorded)
def _(op, node, build):
    return lambda x: x * 1


@pytest.mark.parametrize('why', ['an integer argument', 'a value-dependent shape', 'work on the host', 'the op'])
def test_never_recorded(why):
    x, n = T.dvector(), T.lscalar()
    arguments = [np.array([1., 0, 2])]
    if why == 'an integer argument':
        f, graphs = compiled([x, n], x[:n])
        arguments.append(2)
    elif why == 'a value-dependent shape':
        f, graphs = compiled([x], x.nonzero_values())
    elif why == 'work on the host':
        f, graphs = compiled([x], T.nlinalg.matrix_inverse(T.diag(x + 1)))
    else:
        f, graphs = compiled([x], Unrecorded()(x) + 1)
    results = [f(*arguments) for _ in range(EAGER_CALLS + 2)]
    assert graphs.recordings == 0 and not isinstance(captured(f), CapturedProgram)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize('in_step', [True, False], ids=['a-step-fails', 'ending-fails'])
def test_a_recording_that_fails_is_one_line_and_then_steps(in_step, caplog):
    class Failing(Graphs):
        is_recording = False

        def record(self, function, inputs):
            self.recordings += 1
            self.is_recording = True
            try:
                if in_step:
                    function(inputs)
                raise RuntimeError('CUDA error: operation failed due to a previous error\nand more lines')
            finally:
                self.is_recording = False

    graphs, a = Failing(), shared(np.array(0.))
    x = T.dvector()
    f, _ = compiled([x], T.tanh(x), graphs, updates=[(a, a + 1)])

    def fragile(program):
        part, = program.parts
        for position, step in enumerate(part.steps):
            if step.node is None:       # This step sets the number of threads.
                continue

            def function(*arguments, function=step.function):
                if graphs.is_recording:
                    raise RuntimeError(f'operation not permitted when stream is capturing ({in_step})')
                return function(*arguments)
            part.steps[position] = step._replace(function=function)

    capture.warn_once.cache_clear()
    f([1.])
    fragile(captured(f).program)
    with caplog.at_level(logging.WARNING, 'theano_torch'):
        for call in range(2, EAGER_CALLS + 4):
            np.testing.assert_allclose(f([float(call)]), np.tanh([float(call)]))
    assert a.get_value() == EAGER_CALLS + 3 and graphs.recordings == 1
    message, = [record.getMessage() for record in caplog.records]
    assert '\n' not in message and 'run step by step' in message
    if in_step:
        assert 'operation not permitted' in message and 'Elemwise' in message
    else:
        assert 'a function' in message and 'operation failed' in message


def test_only_on_gpus_and_only_if_asked_for(monkeypatch):
    made = []
    monkeypatch.setattr(capture, 'graphs_on', made.append)
    monkeypatch.setattr(theano_torch.linker.torch, 'device', lambda name: type('', (), {'type': name[:4]})())
    for device, wanted, count in (('cpu', True, 0), ('cuda:0', False, 0), ('cuda:0', True, 1)):
        theano.function([], T.constant(1.), mode=theano_torch.mode(device, capture=wanted))
        assert len(made) == count
    linker = theano_torch.mode('cuda:1', 'tf32', capture=False).linker.clone()
    assert (linker.device, linker.precision, linker.capture) == ('cuda:1', 'tf32', False)


# ----------------------------------------------------------------------------------------------------------------------
# On a GPU.


@pytest.fixture
def graphs(cuda):
    return capture.graphs_on(torch.device('cuda:0'))


def test_streams_wait_for_each_other(graphs):
    x = torch.ones(2, device='cuda:0')
    for _ in range(3):
        x = graphs.warm_up(lambda inputs: inputs[0] * 2, [x + 1]) + 1
    assert x.tolist() == [29, 29]
    with pytest.raises(TypeError):
        graphs.warm_up(sum, ['text'])
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    graph, result = graphs.record(lambda inputs: inputs[0] * 2, [x])
    x.add_(1)
    graph.replay()
    assert (result + 1).tolist() == [61, 61]


def test_a_broken_recording_is_over(graphs):
    """If a failed recording stayed open, PyTorch's allocator would fail in the next recording."""
    x = torch.ones(2, device='cuda:0')
    for _ in range(2):
        with pytest.raises(RuntimeError) as caught:
            graphs.record(lambda inputs: inputs[0].sum().item(), [x])
        assert 'operation not permitted' in capture.one_line(caught.value)
    torch.cuda.empty_cache()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    graph, result = graphs.record(lambda inputs: inputs[0] + 1, [x])
    graph.replay()
    assert result.tolist() == [2, 2]


def test_what_cannot_be_recorded_is_named(cuda, caplog):
    x = T.fvector()
    f = theano.function([x], waiting()()(x), mode=theano_torch.mode('cuda:0'))
    for _ in range(EAGER_CALLS + 2):
        assert f(np.ones(3, 'f')).tolist() == [3, 3, 3]
    (message,) = {record.message for record in caplog.records}
    assert 'cannot record Waiting' in message and 'operation not permitted' in message and 'test_capture.py:' in message


def waiting():
    """An op with a lowering that makes the host wait for a value."""
    class Waiting(theano.Op):
        __props__ = ()

        def make_node(self, x):
            return theano.Apply(self, [x], [x.type()])

    @theano_torch.lower.register(Waiting)
    def _(op, node, build):
        return lambda x: x * x.sum().item()
    return Waiting


@pytest.mark.parametrize('call', [lambda a: a.get_value(), lambda a: a.set_value(np.zeros(3))])
def test_values_are_copied_before_or_after_a_recording(graphs, call):
    """Another thread, such as the one that compiles functions, must not copy values during a recording."""
    a = DeviceConstructor('cuda:0')(np.ones(3))
    thread = threading.Thread(target=call, args=(a,))

    def compute(inputs):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        return inputs[0] + 1
    graph, result = graphs.record(compute, [a.get_value(return_internal_type=True)])
    thread.join()
    graph.replay()
    np.testing.assert_array_equal(result.cpu().numpy(), a.get_value() + 1)
