"""theano_torch/uploads.py: arguments and shared variables are copied to a GPU asynchronously."""

import theano_torch
from theano_torch import uploads

import numpy as np
import pytest
import theano
import theano.tensor as T
import torch

import theano_env
from tests.standin.engine import a_gpu
from tests.standin.transfers import ASYNCHRONOUS, DOWNLOAD


def test_values_of_all_kinds_arrive(cuda):
    device = torch.device('cuda:0')
    for value in (np.arange(6.).reshape(2, 3), np.arange(6).reshape(2, 3).T, np.zeros((0, 3), 'f'), np.float32(2.5),
                  np.array(7, 'uint8'), np.array(True), np.arange(3, dtype='>i4'), np.random.randn(2, 5)[:, ::-2]):
        found = uploads.to_device(value, device)
        assert found.device == device and found.is_contiguous()
        np.testing.assert_array_equal(found.cpu().numpy(), value)
        assert str(found.dtype) == f'torch.{np.asarray(value).dtype.newbyteorder("=").name}'


def test_memory_is_used_again_when_its_copy_is_over(cuda):
    device = torch.device('cuda:0')
    found = [uploads.to_device(np.full(100, number), device) for number in range(3 * uploads.MAX_BUFFERS)]
    assert [int(value[50].cpu()) for value in found] == list(range(3 * uploads.MAX_BUFFERS))
    (buffers,) = uploads.uploads_to(device).buffers.values()
    assert len(buffers) <= uploads.MAX_BUFFERS


@pytest.mark.standin
def test_a_call_waits_for_its_results_alone():
    with a_gpu('meta') as gpu:
        x, rate = T.fmatrix(), theano_torch.shared.DeviceConstructor('cuda:0')(np.float32(1))
        total = theano_torch.shared.DeviceConstructor('cuda:0')(np.float32(0))
        f = theano.function([x], [], updates=[(total, total + rate * x.sum())], mode=theano_torch.mode('cuda:0'))
        for number in range(6):     # The first calls run eagerly, then one is recorded, then replayed.
            gpu.reset_notes()
            rate.set_value(np.float32(number))
            f(np.ones((500, 300), 'f'))
            assert {kind for kind, _op, _place in gpu.notes} == {ASYNCHRONOUS} and not gpu.waits
        (program,), = f.fn.programs.values()
        assert program.graph.replays >= 2
        total.get_value()
        assert gpu.waits == 1 and DOWNLOAD in {kind for kind, _op, _place in gpu.notes}


def test_numbers_in_shared_variables(cuda):
    theano_env.configure('torch', {'device': 'cuda0', 'floatX': 'float32'})
    for first, second in ((np.float32(1.5), np.float32(-3e38)), (np.float64(0.1), np.float64(1e300)),
                          (np.int64(3), np.int64(2 ** 62 + 1)), (np.uint8(3), np.uint8(255)),
                          (np.array(True), np.array(False)), (np.float32(0), np.float32(np.nan))):
        variable = theano.shared(first)
        tensor = variable.get_value(return_internal_type=True)
        variable.set_value(second)
        assert variable.get_value(return_internal_type=True) is tensor      # Recorded graphs read this tensor.
        np.testing.assert_array_equal(variable.get_value(), second)
        assert variable.get_value().dtype == second.dtype
