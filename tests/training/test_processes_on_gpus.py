"""Two processes with a GPU each: their steps are recorded, including sums over both; the number of bytes sent."""

import argparse
import json
import sys
import time

import numpy as np
import pytest

from tests.helpers import ROOT, load_benchmark
from tests.training import gpu_worker
from tests.training.test_processes import TINY, data_dir, finished, ranks  # noqa: F401  (fixtures)

pytestmark = pytest.mark.standin
WORKER = str(ROOT / 'tests' / 'training' / 'gpu_worker.py')
SMALL, LARGE = 1 << 9, 1 << 20      # Bytes of a bucket: several of them, one.


def trained(ranks, device, folder, *bucket_bytes):  # noqa: F811
    """[[(weights, bytes of each step, replays) for each rank] for each bucket size]"""
    for process in ranks(WORKER, device, 'buckets', str(folder), *map(str, bucket_bytes)):
        status, _out, err = finished(process, 300)
        assert status == 0, err
    names = [[folder / f'{device}-{size}-{rank}' for rank in range(2)] for size in bucket_bytes]
    return [[(dict(np.load(f'{name}.npz')), *json.loads(name.with_suffix('.json').read_text())) for name in pair]
            for pair in names]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_recorded_steps_and_their_bytes(ranks, scaling, tmp_path):  # noqa: F811
    on_gpu, = trained(ranks, 'cuda0', tmp_path, SMALL)
    on_cpu, in_one_bucket = trained(ranks, 'cpu', tmp_path, SMALL, LARGE)
    for group in (on_gpu, on_cpu + in_one_bucket):
        (weights, *facts), *others = group
        for other, *other_facts in others:
            assert [value.tobytes() for value in other.values()] == [value.tobytes() for value in weights.values()]
            assert other_facts == facts
    weights, sent, replays = on_gpu[0]
    assert replays == [gpu_worker.CALLS - 3] * 2        # The steps of D and G.
    for name, value in on_cpu[0][0].items():
        # The order of summation differs, and Adam divides by roots of squares that are nearly zero.
        np.testing.assert_allclose(weights[name], value, rtol=0, atol=2e-3, err_msg=name)
        assert np.mean(np.abs(weights[name] - value)) < 1e-4
    # The model of scaling uses the number of bytes that the processes send.
    args = argparse.Namespace(**gpu_worker.NETWORKS, precision='float32')
    estimated = [scaling.gradient_bytes(parts) for parts in scaling.steps_of(args, args.minibatch)]
    assert min(estimated) > 1000
    assert sent == on_cpu[0][1] == estimated * gpu_worker.CALLS


@pytest.fixture
def scaling(monkeypatch, restore_theano_config):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    return load_benchmark('gpu_scaling')


def test_what_overlaps(scaling):
    part = scaling.Part
    parts = [part(seconds=1), part(starts=30), part(seconds=2), part(starts=10), part(waits=True), part(seconds=0.5),
             part(waits=True)]
    # The first sum ends at 4 s, after a wait of 1 s; the other at 5 s.
    assert scaling.step_seconds(parts, lambda size: size / 10) == (5, 1.5)
    assert scaling.step_seconds(scaling.in_one_bucket(parts), lambda size: size / 10) == (7.5, 4)
    assert scaling.gradient_bytes(parts) == scaling.gradient_bytes(scaling.in_one_bucket(parts)) == 40
    assert scaling.ring_seconds(9e9, 8, 1, None) == pytest.approx(2 * 7 / 8 * 9 / 360, rel=1e-3)
    assert scaling.ring_seconds(9e9, 16, 2, 100) == pytest.approx(2 * 7 / 8 * 9 / 360 + 9 / 12.5, rel=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_rank_ends_a_run_whose_steps_are_recorded(ranks, data_dir, tmp_path):  # noqa: F811
    first, second = ranks(WORKER, 'cuda0', 'killed', '--data-dir', data_dir, '--result-dir',
                          str(tmp_path / 'results'), *TINY, '--set', 'train.separate_funcs=True')
    assert finished(second, 300)[0] == -9
    killed = time.monotonic()
    status, _out, err = finished(first, 60)
    assert status == 1 and err.count('\n') == 1 and 'Traceback' not in err
    assert err.startswith('gpu_worker.py: error: another process of the run has ended, see its own message')
    assert 'another process of the run has ended' in (
        tmp_path / 'results' / '000-digits' / 'log.txt').read_text().splitlines()[-1]
    assert time.monotonic() - killed > 2, 'it was the wait for the GPU that ended it'
