"""Sums over processes on a GPU: they are recorded, go beside the rest, and are the same in buckets of any size.

One process here; tests/training/test_processes_on_gpus.py has two.
"""

import itertools

import theano_torch
import theano_torch.sums  # noqa: F401  (it defines the ops)
from theano_torch import collective
from theano_torch.capture import WARM_UP_CALLS, CapturedProgram
from theano_torch.fuser.program import FusedProgram

import numpy as np
import pytest
import theano
import theano.tensor as T
import torch
import torch.distributed as dist

from tests.standin.engine import a_gpu
from tests.standin.gpu import GpuError
from tests.standin.streams import Race
from tests.standin.test_rules import Recorded, on_gpu

pytestmark = pytest.mark.standin
ops = torch.ops.theano_torch


@pytest.fixture
def gpu():
    """Always the stand-in: it says what is recorded."""
    with a_gpu(total_memory=1 << 30) as stand_in:
        yield stand_in


@pytest.fixture
def group(gpu):
    """A function that connects the processes, of which this one is all."""
    def connect(backend):
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1,
                                device_id=torch.device('cuda:0') if 'nccl' in backend else None)
    yield connect
    dist.destroy_process_group()


@pytest.fixture
def nccl(group):
    group('cpu:gloo,cuda:nccl')


def summed(x, between=lambda: None):
    """The sum over the processes of twice `x`, and what is computed beside it."""
    bucket = x * 2
    ops.start_sum(bucket, None)
    beside = between()
    ops.finish_sum(bucket)
    return bucket + 1, beside


def test_sums_are_recorded_once_the_processes_are_connected(gpu, nccl):
    x = on_gpu(1., 2.)
    with pytest.raises(GpuError, match='previous error') as caught:
        Recorded(lambda: summed(x))
    assert 'connecting processes' in str(caught.value.__context__)
    torch._C._cuda_endAllocateToPool(0, list(gpu.broken_pools)[0])
    assert summed(x)[0].tolist() == [3, 5]
    gpu.reset_notes()
    recorded = Recorded(lambda: summed(x, lambda: x + 5))
    assert not gpu.waits and recorded.result[0].isnan().all()
    for number in range(2):
        x.fill_(number)
        result, beside = recorded.replay()
        assert result.tolist() == [2 * number + 1] * 2 and beside.tolist() == [5 + number] * 2


def test_nothing_else_may_touch_a_bucket_meanwhile(gpu, nccl):
    x = on_gpu(1., 2.)
    bucket = x * 2
    ops.start_sum(bucket, None)
    with pytest.raises(Race, match='reads memory that stream 1 may still be writing'):
        bucket + 1
    ops.finish_sum(bucket)
    assert (bucket + 1).tolist() == [3, 5]


def test_a_recorded_sum_has_to_be_waited_for(gpu, nccl):
    x = on_gpu(1., 2.)
    summed(x)
    buckets = [x * 2, x * 3]
    ops.start_sum(buckets[0], None)
    with pytest.raises(GpuError, match='uncaptured work in another stream'):
        Recorded(lambda: ops.finish_sum(buckets[0]))
    with pytest.raises(GpuError, match='unjoined work'):
        Recorded(lambda: ops.start_sum(buckets[1], None))


def test_a_sum_on_the_host_is_not_recorded(gpu, nccl):
    x = on_gpu(1., 2.)
    summed(x)
    with pytest.raises(GpuError, match='previous error') as caught:
        Recorded(lambda: dist.all_reduce(torch.ones(2)))
    assert 'a collective on the host' in str(caught.value.__context__)


def test_gloo_makes_the_host_wait(gpu, group):
    group('gloo')
    x = on_gpu(1., 2.)
    gpu.reset_notes()
    summed(x)
    assert gpu.waits == 2
    with pytest.raises(GpuError, match='previous error') as caught:
        Recorded(lambda: summed(x))
    assert 'a sum on the host' in str(caught.value.__context__)


WIDTHS = 2, 3, 4, 2      # Of the layers of a network.


def trained(bucket_bytes):
    """(weights after some steps, [(name, numbers in it)] of what is recorded, the program)"""
    theano.config.mode = theano_torch.install('cuda:0')
    random = np.random.RandomState(0)
    params = [theano.shared(random.randn(*shape).astype(np.float32)) for shape in itertools.pairwise(WIDTHS)]
    x = T.fmatrix()
    hidden = x
    for param in params:
        hidden = T.tanh(T.dot(hidden, param))
    grads = collective.all_reduce_mean(T.grad(hidden.sum(), params), [size * next for size, next in
                                                                      itertools.pairwise(WIDTHS)], bucket_bytes)
    f = theano.function([x], [], updates=[(param, param - 0.1 * grad)
                                          for param, grad in zip(params, grads, strict=True)])
    for call in range(WARM_UP_CALLS + 4):
        f(np.array([[0.1, 0.02 * call]], np.float32))
    (program,), = f.fn.programs.values()
    recorded = [(node.op._schema.name.partition('::')[2], node.args[0].numel()) for node in program.graph.nodes
                if isinstance(node.args[0], torch.Tensor)]
    return [param.get_value() for param in params], recorded, program


def test_buckets_start_in_order_and_give_the_same_bits(gpu, nccl, restore_theano_config):
    whole, recorded, program = trained(1 << 20)
    assert sums_in(recorded) == [('start_sum', 26), ('finish_sum', 26)]
    assert isinstance(program, CapturedProgram) and program.graph.replays == 3
    assert isinstance(program.runs, FusedProgram)
    parts, recorded, _program = trained(4 * 8)
    assert sums_in(recorded) == [('start_sum', 8), ('start_sum', 12), ('start_sum', 6), ('finish_sum', 8),
                                 ('finish_sum', 12), ('finish_sum', 6)]
    assert [value.tobytes() for value in parts] == [value.tobytes() for value in whole]
    # The gradients of a layer are computed beside the sum of those of the layer after it.
    starts = [index for index, (name, _size) in enumerate(recorded) if name == 'start_sum']
    for first, second in itertools.pairwise(starts):
        assert 'mm' in [name for name, _size in recorded[first:second]]


def sums_in(recorded):
    return [(name, size) for name, size in recorded if name in ('start_sum', 'finish_sum')]


def test_steps_are_not_recorded_where_nccl_waits_in_the_calling_thread(gpu, nccl, monkeypatch, restore_theano_config):
    monkeypatch.setenv('TORCH_NCCL_BLOCKING_WAIT', '1')
    with pytest.raises(AttributeError, match='graph'):
        trained(12)


@pytest.mark.parametrize('sizes, limit, wanted', [
    ([], 4, []), ([1, 2], 4, [[1, 0]]), ([5, 1, 3, 9, 0, 0], 4, [[5, 4, 3], [2, 1], [0]]), ([0, 0], 1, [[1, 0]])])
def test_buckets(sizes, limit, wanted):
    assert collective.in_buckets(sizes, limit) == wanted
