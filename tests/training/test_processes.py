"""Training in two processes on the CPU equals training in one; if one process dies, the other ends properly."""

import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np
import pytest
import theano

import config
import theano_env
import train
from common.errors import UserError
from common.files import TEMPORARY_SUFFIX
from nets.ranks import SINGLE, Ranks
from tests.helpers import ROOT
from tests.training import distributed_worker, kill_resume
from training import fingerprint, processes, stopping

WORKER = str(ROOT / 'tests' / 'training' / 'distributed_worker.py')
TINY = [word for option in (
    'dataset.resolution=4', 'G.fmap_max=4', 'D.fmap_max=4', 'train.minibatch_default=4', 'train.show_progress=False',
    'train.tick_kimg_default=0.02', 'train.network_snapshot_ticks=1', 'train.image_snapshot_ticks=1000', 'metrics=[]')
    for word in ('--set', option)] + ['--engine', 'torch']


def start_ranks(folder, *command, size=2):
    """Start processes as torchrun does, but without torchrun, which would add output and end them itself."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    return [kill_resume.Script(command, {'RANK': str(rank), 'WORLD_SIZE': str(size), 'LOCAL_RANK': str(rank),
                                         'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)},
                               tempfile.mkdtemp(dir=folder)) for rank in range(size)]


@pytest.fixture
def ranks(tmp_path_factory):
    """A function that starts processes, which are killed after the test."""
    started, folder = [], tmp_path_factory.mktemp('printed')

    def start(*command, size=2):
        started.extend(start_ranks(folder, *command, size=size))
        return started

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Folder in which the first training makes the digits."""
    return str(tmp_path_factory.mktemp('data'))


def finished(process, timeout=60):
    """Wait for a process; return (exit status, stdout, stderr)."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def wait_for(condition, process, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.05)


@pytest.fixture
def float64():
    before = theano.config.mode, theano.config.floatX
    yield
    theano.config.mode, theano.config.floatX = before


# ----------------------------------------------------------------------------------------------------------------------
# Two processes make the same run as one.


def write_dataset(path):
    random = np.random.RandomState(0)
    with h5py.File(path, 'w') as h5:
        images = random.randint(0, 256, (20, 1, 8, 8))
        for factor in (1, 2, 4, 8):
            h5[f'data{8 // factor}x{8 // factor}'] = images.reshape(
                20, 1, 8 // factor, factor, 8 // factor, factor).mean((3, 5)).round().astype(np.uint8)
    np.save(str(path).replace('.h5', '-labels.npy'), np.eye(2, dtype=np.float32)[random.randint(2, size=20)])


@pytest.mark.slow
@pytest.mark.parametrize('scenario', distributed_worker.SCENARIOS)
def test_two_ranks_train_like_one_process(scenario, ranks, tmp_path, float64):
    write_dataset(tmp_path / 'tiny.h5')
    if scenario == 'joint':
        pair = [subprocess.Popen([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
                                  WORKER, scenario, str(tmp_path)], env=dict(os.environ, OMP_NUM_THREADS='1'))]
    else:
        pair = ranks(WORKER, scenario, str(tmp_path))
    distributed_worker.run(scenario, tmp_path, mbstat_groups=2)
    for process in pair:
        process.communicate(timeout=120)
    assert not any(process.returncode for process in pair)
    single, *pair = [dict(np.load(tmp_path / f'{scenario}-{name}.npz')) for name in ('1-0', '2-0', '2-1')]
    lods = single['lods']
    assert scenario == 'joint' or lods[0] == 1 and 0 < lods[-1] < 1, 'before and while the new layers fade in'
    for result in pair:
        assert sorted(result) == sorted(single)
        for name, value in single.items():
            # In float64, only the order of the sums over the minibatch makes a difference.
            scale = max(np.abs(value).max(initial=0), 1)
            np.testing.assert_allclose(result[name], value, rtol=0, atol=1e-10 * scale, err_msg=name)
    single_rows, pair_rows = [status_rows(tmp_path / f'results-{size}', scenario) for size in (1, 2)]
    np.testing.assert_allclose(pair_rows, single_rows, rtol=1e-10, atol=1e-10)


def status_rows(result_dir, scenario):
    path, = result_dir.glob(f'*-{scenario}/stats.jsonl')
    rows = map(json.loads, path.read_text().splitlines())
    return [[row[key] for key in ('kimg', 'lod', 'minibatch', 'Dgdrop', 'Gloss', 'Dloss', 'Dreal', 'Dfake')]
            for row in rows]


def test_the_op_averages_and_is_not_optimised_away_and_ranks_are_compared(ranks, tmp_path):
    for process in ranks(WORKER, 'average', str(tmp_path)):
        status, _out, err = finished(process)
        assert status == 0, err
    first, second = [(tmp_path / f'said-{rank}').read_text().splitlines() for rank in range(2)]
    assert first == second and first[1:] == ['the same', 'the same']
    assert first[0] == ('rank 1 differs from rank 0 at kimg 5.0: random_seed 2 (rank 0: 1); all processes need the '
                        'same options, data and versions')


@pytest.mark.slow
def test_ranks_that_drift_apart_end_before_they_save(ranks, tmp_path):
    write_dataset(tmp_path / 'tiny.h5')
    for process in ranks(WORKER, 'drift', str(tmp_path)):
        status, _out, err = finished(process)
        assert status == 0, err
    first, second = [(tmp_path / f'drift-{rank}').read_text() for rank in range(2)]
    assert first == second and first.startswith('rank 1 differs from rank 0 at kimg 0.0: D/')
    assert not list(tmp_path.glob('results-2/*/network-*')) and not list(tmp_path.glob('results-2/*/training-*'))


@pytest.mark.parametrize('change, named', [
    ({'random_seed': 7}, 'random_seed'), ({'train': {'adam_beta2': 0.5}}, 'train.adam_beta2'),
    ({'loss': {'iwass_lambda': 1.0}}, 'loss.iwass_lambda'), ({'dataset': {'h5_path': 'b.h5', 'max_images': 3}},
                                                             'dataset.max_images'),
    ({'G': {**config.experiments['digits']['G'], 'fmap_max': 1}}, 'G.fmap_max')])
def test_what_has_to_be_the_same_on_all_ranks(change, named):
    environment = theano_env.Environment('torch', 'cuda:0', 'float32', 'words')
    one = fingerprint.of_rank(config.experiments['digits'], train.train_gan, environment, {'device': 'cuda0'})
    same = fingerprint.of_rank(config.experiments['digits'], train.train_gan, environment._replace(device='cuda:1'),
                               {'device': 'auto'})
    assert one == same
    other = fingerprint.of_rank({**config.experiments['digits'], **change}, train.train_gan, environment, None)
    assert named in [name for name in {**one, **other} if one.get(name) != other.get(name)]
    for name, changed in (('engine', 'python'), ('device', 'cpu'), ('precision', 'tf32')):
        other = fingerprint.of_rank(config.experiments['digits'], train.train_gan, environment._replace(
            **{name: changed}), None)
        assert one[name] != other[name]


# ----------------------------------------------------------------------------------------------------------------------
# Ends.


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_with_one_line_and_leaves_the_snapshot(ranks, data_dir, tmp_path):
    first, second = ranks(str(ROOT / 'train.py'), '--data-dir', data_dir, '--result-dir',
                          str(tmp_path / 'results'), *TINY)
    run_dir = tmp_path / 'results' / '000-digits'
    wait_for(lambda: list(run_dir.glob('network-snapshot-*.pkl')), first)
    second.kill()
    killed = time.time()
    status, _out, err = finished(first)
    assert time.time() - killed < 10
    assert status == 1 and err.count('\n') == 1 and 'Traceback' not in err
    snapshot = sorted(run_dir.glob('network-snapshot-*.pkl'))[-1]
    assert 'another process of the run has ended' in err and str(snapshot) in err
    assert 'another process of the run has ended' in (run_dir / 'log.txt').read_text().splitlines()[-1]
    assert finished(second)[1] == '', 'rank 1 is silent'
    assert not list(run_dir.glob('*' + TEMPORARY_SUFFIX))
    with open(snapshot, 'rb') as file:
        assert [net.name for net in pickle.load(file)] == ['G', 'D', 'G']


@pytest.mark.slow
@pytest.mark.timeout(900)     # Three runs of two processes.
def test_a_rank_that_is_stopped_stops_all_and_they_go_on_bit_for_bit(ranks, data_dir, tmp_path):
    def start(name, *arguments):
        return ranks(str(ROOT / 'train.py'), '--data-dir', data_dir, '--result-dir', str(tmp_path / name), *TINY,
                     '--set', 'train.total_kimg=0.2', '--set', 'train.dequantize_reals=True', *arguments)[-2:]

    assert [finished(process, 300)[0] for process in start('alone')] == [0, 0]
    first, second = start('stopped', '--set', 'train.state_minutes=0')
    run_dir = tmp_path / 'stopped' / '000-digits'
    wait_for(lambda: kill_resume.newest_state(run_dir), first, 300)
    second.terminate()
    (status, _out, err), (second_status, _out, second_err) = finished(first, 300), finished(second, 300)
    assert (status, second_status, second_err) == (143, 143, '')
    assert err.startswith('train.py: stopped by SIGTERM at kimg') and err.count('\n') == 1
    results = [finished(process, 300) for process in start('stopped', '--resume', 'latest')]
    assert [(status, err) for status, _out, err in results] == [(0, ''), (0, '')]
    kill_resume.assert_same(*[kill_resume.contents(tmp_path / name / '000-digits') for name in ('alone', 'stopped')])


@pytest.mark.slow
def test_sigterm_ends_a_rank_that_waits_in_a_collective(ranks, tmp_path):
    first, _second = ranks(WORKER, 'hang', str(tmp_path))
    wait_for((tmp_path / 'waiting').exists, first)
    time.sleep(0.5)
    first.terminate()
    status, _out, err = finished(first, stopping.GRACE_SECONDS + 10)
    assert status == 1 and 'another process of the run has ended' in err and 'there is no snapshot yet' in err


@pytest.mark.slow
def test_one_of_the_others_tells_that_rank_0_was_killed(ranks, tmp_path):
    first, *others = ranks(WORKER, 'orphaned', str(tmp_path), size=3)
    for number in range(3):
        wait_for((tmp_path / f'waiting-{number}').exists, first)
    time.sleep(0.5)
    first.kill()
    results = [finished(process, 10) for process in others]
    assert [status for status, _out, _err in results] == [0, 0]
    reported = [out for _status, out, _err in results if out != 'reported elsewhere\n']
    assert len(reported) == 1 and reported[0].startswith('another process of the run has ended, see its own message')


@pytest.mark.parametrize('options, message', [
    (['train.minibatch_default=5'], r'train.minibatch_default=5: 2 processes cannot share it equally; use 4 or 6'),
    (['train.G_learning_rate_max=1e18', 'train.D_learning_rate_max=1e18', 'train.rampup_kimg=0'], 'became'),
])
@pytest.mark.slow
def test_errors_of_all_ranks_are_printed_once(options, message, ranks, data_dir, tmp_path):
    options = [word for option in options for word in ('--set', option)]
    processes = ranks(str(ROOT / 'train.py'), '--data-dir', data_dir, '--result-dir',
                      str(tmp_path / 'results'), *TINY, *options)
    results = [finished(process) for process in processes]
    assert [status for status, _out, _err in results] == [1, 1]
    assert message in results[0][2] and results[0][2].count('\n') == 1
    assert results[1][1:] == ('', '')
    assert message == 'became' or not list(tmp_path.glob('results/*')), 'nothing half-written'


# ----------------------------------------------------------------------------------------------------------------------
# Pieces.


def test_ranks_come_from_the_environment(monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    assert processes.from_environment() == SINGLE == (0, 1, 0)
    for name, value in [('RANK', '5'), ('WORLD_SIZE', '8'), ('LOCAL_RANK', '1')]:
        monkeypatch.setenv(name, value)
    assert processes.from_environment() == (5, 8, 1)
    monkeypatch.setenv('RANK', 'first')
    with pytest.raises(UserError, match="RANK='first': must be a whole number"):
        processes.from_environment()


def test_shares():
    assert [Ranks(rank, 3).share(6) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(ValueError, match='7 rows cannot be divided evenly among 3 processes'):
        Ranks(0, 3).share(7)


def test_minibatches_of_all_resolutions_are_checked():
    processes.check_minibatches(Ranks(0, 2), [4, 8], 16, {8: 6, 16: 3})
    with pytest.raises(UserError, match=r'train.minibatch_overrides\[8\]=6: 4 processes .* use 4 or 8'):
        processes.check_minibatches(Ranks(0, 4), [4, 8], 16, {8: 6})


def test_every_process_takes_its_own_gpu():
    with pytest.raises(theano_env.EnvironmentProblem, match="uses a different GPU; use 'auto' or 'cpu'"):
        theano_env.configure('torch', {'device': 'cuda0'}, local_rank=1)


def test_nccl_is_told_which_gpu_it_has(monkeypatch):
    import torch
    asked = []
    for name in ('TORCH_NCCL_ASYNC_ERROR_HANDLING', 'TORCH_NCCL_BLOCKING_WAIT'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda backend, **kwargs: asked.append(kwargs))
    monkeypatch.setattr(torch.distributed, 'destroy_process_group', lambda: None)
    for device in ('cuda:1', 'cpu'):
        with processes.process_group(Ranks(1, 2, 1), device):
            pass
    assert [kwargs['device_id'] for kwargs in asked] == [torch.device('cuda:1'), None]
    # NCCL errors do not end the process, and the calling thread does not wait, so that steps can be recorded.
    assert os.environ['TORCH_NCCL_ASYNC_ERROR_HANDLING'] == '0' and 'TORCH_NCCL_BLOCKING_WAIT' not in os.environ
