"""The stand-in for a GPU detects a violation of each rule of CUDA that it knows."""

import gc

import pytest
import torch

from tests.standin import installed
from tests.standin.gpu import GpuError
from tests.standin.streams import Race
from tests.standin.transfers import ASYNCHRONOUS, DOWNLOAD, UPLOAD, VALUE

pytestmark = pytest.mark.standin


@pytest.fixture
def gpu():
    with installed() as stand_in:
        yield stand_in


def on_gpu(*values):
    return torch.tensor(values, device='cuda:0')


class Recorded:
    """Records a graph of `function` in `pool`; `result` is its result."""

    def __init__(self, function, pool=None):
        self.graph, self.stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.stream(self.stream), torch.cuda.graph(self.graph, pool=pool, stream=self.stream):
            self.result = function()

    def replay(self):
        self.graph.replay()
        return self.result


def test_torch_is_restored_afterwards():
    before = torch.cuda.is_available(), torch.version.cuda, torch.tensor, torch.get_num_threads()
    with installed():
        assert torch.cuda.is_available() and torch.cuda.device_count() == 1
        x = torch.ones(2, 3, device='cuda:0')
        assert (x.device, x.is_cuda, x.is_cpu, x.is_meta) == (torch.device('cuda:0'), True, False, False)
    assert (torch.cuda.is_available(), torch.version.cuda, torch.tensor, torch.get_num_threads()) == before


def test_results_have_correct_values(gpu):
    x = torch.arange(6., device='cuda:0').reshape(2, 3)
    y = torch.nn.functional.leaky_relu(x.T @ x - 20, 0.5).sum(0)
    x = torch.arange(6.).reshape(2, 3)
    torch.testing.assert_close(y.cpu(), torch.nn.functional.leaky_relu(x.T @ x - 20, 0.5).sum(0))
    z = (on_gpu(1., 2.) * 3).to(torch.float64)
    assert z.dtype == torch.float64 and z.tolist() == [3, 6] and z.device.type == 'cuda'
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        z.numpy()


def test_devices_do_not_mix(gpu):
    assert (on_gpu(1., 2.) * torch.tensor(2.)).tolist() == [2, 4]      # 0-d tensors are allowed.
    with pytest.raises(GpuError, match=r'at least two devices.*aten\.mul\.Tensor, called in .*test_rules\.py:\d+'):
        on_gpu(1., 2.) * torch.ones(2)
    with pytest.raises(GpuError, match='invalid device ordinal'):
        torch.ones(2, device='cuda:1')


@pytest.mark.parametrize('kind, call', [
    (VALUE, lambda x: x.sum().item()), (VALUE, lambda x: x.nonzero()), (VALUE, lambda x: x[x > 0]),
    (DOWNLOAD, lambda x: x.cpu()), (DOWNLOAD, lambda x: torch.zeros(3).copy_(x)),
    (UPLOAD, lambda x: x.copy_(torch.zeros(3))), (UPLOAD, lambda x: torch.zeros(3).to('cuda:0')),
    (UPLOAD, lambda x: torch.zeros(3).to('cuda:0', non_blocking=True))])     # The source is not pinned.
def test_waits_are_counted_and_end_a_recording(kind, call, gpu):
    x = on_gpu(1., 0., 3.)
    gpu.reset_notes()
    call(x)
    (found, _op, place), = gpu.notes
    assert (found, gpu.waits) == (kind, 1) and 'tests/standin/test_rules.py:' in place
    with pytest.raises(GpuError, match='previous error during capture') as caught:
        Recorded(lambda: call(x))
    assert 'operation not permitted' in str(caught.value.__context__) and 'test_rules.py:' in str(
        caught.value.__context__)


def test_a_recording_that_failed_stays_open_in_the_allocator(gpu):
    x, pool = on_gpu(1.), torch.cuda.graph_pool_handle()
    with pytest.raises(GpuError):
        Recorded(x.item, pool)
    with pytest.raises(RuntimeError, match='INTERNAL ASSERT'):
        torch.cuda.empty_cache()
    torch._C._cuda_endAllocateToPool(0, pool)
    assert Recorded(lambda: x + 1).replay().item() == 2


def test_graphs_compute_when_they_are_replayed(gpu):
    x, total = on_gpu(1., 2.), on_gpu(0., 0.)

    def add():
        row = (x * 2).unsqueeze(0)
        total.add_(row.squeeze_(0))
        return total + x
    recorded = Recorded(add)
    assert total.tolist() == [0, 0] and recorded.result.isnan().all()
    assert recorded.replay().tolist() == [3, 6]
    x.fill_(5)
    assert recorded.replay().tolist() == [17, 19] and total.tolist() == [12, 14]
    assert recorded.graph.replays == 2
    with pytest.raises(GpuError, match='once it is recorded'):
        torch.cuda.CUDAGraph().replay()
    with pytest.raises(GpuError, match='non-default stream'):
        torch.cuda.CUDAGraph().capture_begin()


def test_graphs_of_a_pool_share_their_memory(gpu):
    x, pool = on_gpu(1., 2.), torch.cuda.graph_pool_handle()
    first, second = Recorded(lambda: x + 1, pool), Recorded(lambda: x + 2, pool)
    kept = first.replay()
    second.replay()
    assert kept.tolist() == [2, 3]      # The program still has it.
    behind = first.result.behind
    del kept, first.result
    gc.collect()
    second.replay()
    assert behind.isnan().all()


def test_uninitialized_memory_is_garbage(gpu):
    assert torch.empty(3, device='cuda:0').isnan().all()


def test_streams_wait_for_each_other(gpu):
    x, stream = on_gpu(1., 2.), torch.cuda.Stream()
    x.mul_(2)
    with torch.cuda.stream(stream):
        with pytest.raises(Race, match=r'stream 1 reads memory that stream 0 may still be writing \(aten.add'):
            x + 1
        stream.wait_stream(torch.cuda.default_stream())
        y = x + 1
    with pytest.raises(Race, match='stream 0 writes memory that stream 1 may still be using'):
        x.zero_()
    event = stream.record_event()
    torch.cuda.current_stream().wait_event(event)
    x.zero_()
    assert y.tolist() == [3, 5]


def test_the_host_waits_for_events(gpu):
    x, stream = on_gpu(1., 2.), torch.cuda.Stream()
    event = torch.cuda.Event()
    x.mul_(2)
    event.record()
    assert not event.query()
    event.synchronize()
    assert event.query()
    with torch.cuda.stream(stream):
        x.add_(1)


def test_memory_goes_back_to_its_stream(gpu):
    stream = torch.cuda.Stream()
    for is_recorded in (True, False):
        x = torch.ones(3, device='cuda:0')
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            x.sum()
        if is_recorded:
            x.record_stream(stream)
        del x
        gc.collect()
        if is_recorded:
            torch.ones(3, device='cuda:0')
    with pytest.raises(Race, match='given back while stream 1 may still be using it'):
        torch.ones(3, device='cuda:0')


def test_pinned_memory_is_read_later(gpu):
    source = torch.ones(3, pin_memory=True)
    assert source.is_pinned() and torch.ones(3).pin_memory().is_pinned() and not torch.ones(3).is_pinned()
    gpu.reset_notes()
    source.to('cuda:0', non_blocking=True)
    assert {kind for kind, _op, _place in gpu.notes} == {ASYNCHRONOUS} and not gpu.waits
    torch.cuda.synchronize()
    source.fill_(2)
    x = source.to('cuda:0', non_blocking=True)
    source.fill_(3)
    with pytest.raises(Race, match='pinned memory was overwritten'):
        x.cpu()


def test_memory_is_counted_and_limited(gpu):
    before = torch.cuda.memory_allocated()
    x = torch.ones(1000, device='cuda:0')
    y = x[:10]
    assert torch.cuda.memory_allocated() - before == 4096
    del x
    assert torch.cuda.memory_allocated() - before == 4096
    del y
    assert torch.cuda.memory_allocated() == before and torch.cuda.max_memory_allocated() >= before + 4096
    torch.cuda.set_per_process_memory_fraction((before + 100) / gpu.total_memory)
    with pytest.raises(torch.OutOfMemoryError, match='out of memory'):
        torch.ones(1000, device='cuda:0')


def test_fused_adam_takes_float32_only(gpu):
    tensors = [torch.ones(2, dtype=torch.float64, device='cuda:0') for _ in range(4)]
    step = torch.ones((), device='cuda:0')
    with pytest.raises(GpuError, match='expected scalar type Float'):
        torch._fused_adam_(*([x] for x in tensors), [], [step], lr=tensors[0].sum(),
                           beta1=0.0, beta2=0.9, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False)


def test_meta_tensors_have_shapes_only():
    with installed('meta') as gpu:
        x = torch.empty(1 << 20, 1 << 16, device='cuda:0')
        assert (x * 2 + 1).sum(0).shape == (1 << 16,) and gpu.peak > 1 << 38
        assert torch.ones(3, device='cuda:0').cpu().tolist() == [0, 0, 0]     # The host gets zeros.
        with pytest.raises(GpuError, match='have no values'):
            x.sum().item()


def test_threads_have_the_gpu_too(gpu):
    import threading
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2, device='cuda:0').sum().item()))
    thread.start()
    thread.join()
    assert found == [2]
