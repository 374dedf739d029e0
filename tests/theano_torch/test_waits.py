"""theano_torch.waits: since when the host waits, and where the engine says so."""

import threading
import time

from theano_torch import waits

import numpy as np
import theano
import theano.tensor as T

from tests.theano_torch.helpers import TORCH

SECONDS = 0.05


def test_the_longest_wait_of_all_threads_counts():
    assert waits.longest() == 0
    begun, end = threading.Event(), threading.Event()

    def wait():
        with waits.noted():
            begun.set()
            end.wait()
    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    time.sleep(SECONDS)
    with waits.noted(), waits.noted():
        assert waits.longest() >= SECONDS
    end.set()
    thread.join()
    assert waits.longest() == 0


def test_a_wait_inside_of_another_does_not_end_it():
    with waits.noted():
        time.sleep(SECONDS)
        with waits.noted():
            pass
        assert waits.longest() >= SECONDS


def test_values_on_their_way_to_the_host_are_waits(cuda, monkeypatch):
    noted = []
    x = T.fvector()
    shared = theano.shared(np.ones(3, 'f'))
    for name in ('on the CPU', 'on a GPU'):
        if name == 'on a GPU':
            import theano_torch
            theano_torch.install('cuda:0')
            shared = theano.shared(np.ones(3, 'f'))
        f = theano.function([x], x + shared, mode=TORCH if name == 'on the CPU' else theano_torch.mode('cuda:0'))
        monkeypatch.setattr('theano_torch.program.to_numpy', lambda value: noted.append(waits.longest()) or np.zeros(3))
        f(np.ones(3, 'f'))
    assert len(noted) == 2 and min(noted) > 0
