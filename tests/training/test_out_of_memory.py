"""Running out of memory anywhere in a step gives a one-line error that names the minibatch to reduce."""

import re
import sys

import theano_torch
from theano_torch import memory

import numpy as np
import pytest
import theano
import theano.tensor as T
import torch

import theano_env
import train
from common.errors import UserError
from nets.ranks import Ranks
from training.options import naming_minibatch
from training.schedule import Schedule

OF_NUMPY = sys.modules[('numpy._core' if theano_env.NUMPY_2 else 'numpy.core') + '._exceptions']._ArrayMemoryError
ON_GPU = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\na total of 79 GiB')
ON_HOST = RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                       'tried to allocate 400 bytes. Error code 12 (Cannot allocate memory)')


pytestmark = pytest.mark.usefixtures('restore_theano_config')


@pytest.fixture
def gpu(monkeypatch):
    facts = type('', (), {'name': 'Some GPU', 'total_memory': 24 * 2 ** 30})
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: facts)
    return torch.device('cuda:1')


def raising(error):
    def fail(*arguments, **kwargs):
        raise error
    return fail


@pytest.mark.parametrize('error', [
    ON_GPU, RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'),
    RuntimeError('cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED'),
    RuntimeError('GET was unable to find an engine to execute this computation')])
def test_errors_of_a_gpu(error, gpu):
    with pytest.raises(theano_torch.OutOfMemory, match=r'^out of memory: cuda:1 \(Some GPU\) has 24.0 GiB$') as caught:
        with memory.translating_errors(gpu):
            raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize('error', [ON_HOST, MemoryError(), OF_NUMPY((9,), np.dtype('f4'))])
def test_errors_of_the_host(error, gpu):
    with pytest.raises(theano_torch.OutOfMemory, match=r'^out of memory: the machine has [0-9.]+ GiB$'):
        with memory.translating_errors(gpu):
            raise error


def test_other_errors_stay_what_they_are(gpu):
    for error in (RuntimeError('sizes must match'), ValueError('out of memory'), theano_torch.OutOfMemory('told')):
        with pytest.raises(type(error)) as caught, memory.translating_errors(gpu):
            raise error
        assert caught.value is error


@pytest.mark.parametrize('error', [ON_GPU, ON_HOST, MemoryError()], ids=['gpu', 'host', 'numpy'])
def test_functions_raise_it_while_and_after_they_are_specialised(error, monkeypatch):
    x = T.dmatrix()
    f = theano.function([x], T.exp(x).sum(axis=0), mode=theano_torch.mode())
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(torch, 'sum', raising(error))
            with pytest.raises(theano_torch.OutOfMemory, match='out of memory: the machine has'):
                f(np.zeros((2, 2)))
        assert f(np.zeros((2, 2))).tolist() == [2, 2]


@pytest.mark.parametrize('overrides, ranks, line', [
    ({}, 1, 'at 8x8 train.minibatch_default=16 is too much: set train.minibatch_overrides[8] to 8'),
    (None, 1, 'at 8x8 train.minibatch_default=16 is too much: set train.minibatch_overrides[8] to 8'),
    ({8: 16}, 1, 'at 8x8 train.minibatch_overrides[8]=16 is too much: set train.minibatch_overrides[8] to 8'),
    ({8: 16, 4: 3}, 16, 'at 8x8 train.minibatch_overrides[8]=16 is too much: lower G.fmap_base and D.fmap_base'),
    ({8: 18}, 6, 'at 8x8 train.minibatch_overrides[8]=18 is too much: set train.minibatch_overrides[8] to 6')])
def test_the_proposal(overrides, ranks, line):
    schedule = Schedule(1, 1, 1, 8, (overrides or {}).get(8, 16), 1, 1)
    with pytest.raises(UserError) as caught:
        with naming_minibatch(lambda: schedule, overrides, Ranks(0, ranks)):
            raise theano_torch.OutOfMemory('out of memory: 4 GiB')
    assert str(caught.value) == 'out of memory: 4 GiB; ' + line


@pytest.mark.slow
@pytest.mark.parametrize('error', [ON_GPU, ON_HOST], ids=['gpu', 'host'])
def test_training_ends_with_one_line(error, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, '_fused_adam_', raising(error))
    argv = ['--data-dir', str(tmp_path), '--result-dir', str(tmp_path)]
    options = {'G.fmap_max': 4, 'D.fmap_max': 4, 'train.minibatch_overrides': '{4:6}', 'dataset.resolution': 4}
    status = train.main(argv + [word for key, value in options.items() for word in ('--set', f'{key}={value}')])
    err = capsys.readouterr().err
    assert status == 1 and 'Traceback' not in err
    assert re.search(r'^train.py: error: out of memory: the machine has .* GiB; at 4x4 train.minibatch_overrides.4.=6 '
                     r'is too much: set train.minibatch_overrides\[4\] to 3\n$', err, re.MULTILINE)
