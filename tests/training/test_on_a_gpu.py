"""A short training on a GPU: two lod ranges, the second one compiled during replays; stopped and resumed."""

import itertools
import shutil
import threading

import numpy as np
import pytest
import theano

import config
import train
from data.dataset import Dataset
from nets.pickles import load_pkl
from tests.standin.graphs import Graph
from tests.training import kill_resume
from training import functions_ahead
from training.saving import StateSaver

# Ten iterations in each of two lod ranges: made, warmed up, recorded, replayed.
OPTIONS = {**kill_resume.OPTIONS, 'train.lod_training_kimg': 0.04, 'train.lod_transition_kimg': 0.04,
           'train.total_kimg': 0.08, 'train.tick_kimg_default': 0.04, 'train.state_minutes': 'None',
           'train.image_snapshot_ticks': 0, 'train.network_snapshot_ticks': 0}
RESULTS = 4         # Outputs of D's function; each is copied to the host.


@pytest.fixture
def trained(cuda, tmp_path, monkeypatch):
    """A function that trains in a folder of the given name and returns the final parameters of the networks."""
    flag = theano.config.dnn.conv.algo_bwd_filter
    monkeypatch.setattr(config, 'theano_flags', {
        **config.theano_flags, 'device': 'cuda0', 'dnn.conv.algo_bwd_filter': 'deterministic'})

    def run(name, *arguments, **options):
        words = kill_resume.command(tmp_path / name, {**OPTIONS, **options}, *arguments)[2:]
        assert train.main(words) == 0
        networks = load_pkl(str(tmp_path / name / '000-digits' / 'network-final.pkl'))
        return [var.get_value() for net in networks for var in net.vars.values()]
    yield run
    theano.config.dnn.conv.algo_bwd_filter = flag


def watched(monkeypatch):
    """A list that collects, for each compilation in a thread, the number of graph replays meanwhile."""
    counts, ahead = itertools.count(), []
    compile_functions, replay = functions_ahead.compile_training_functions, Graph.replay

    def compile_and_count(*args, **kwargs):
        before = next(counts)
        functions = compile_functions(*args, **kwargs)
        if threading.current_thread() is not threading.main_thread():
            ahead.append(next(counts) - before - 1)
        return functions

    def replay_and_count(graph):
        next(counts)
        replay(graph)
    monkeypatch.setattr(functions_ahead, 'compile_training_functions', compile_and_count)
    monkeypatch.setattr(Graph, 'replay', replay_and_count)
    return ahead


def copy_after(iterations, folder, copy, monkeypatch):
    """Make a training save its state after some iterations, and copy its folder at that time."""
    calls, save = itertools.count(1), StateSaver.try_to_save

    def save_and_copy(saver):
        save(saver)
        if not copy.exists():       # The state is saved again at the end.
            shutil.copytree(folder, copy)
    monkeypatch.setattr(StateSaver, 'is_due', lambda saver, networks_follow: next(calls) == iterations)
    monkeypatch.setattr(StateSaver, 'try_to_save', save_and_copy)


@pytest.mark.slow
def test_a_training_goes_on_as_if_it_had_not_been_stopped(trained, cuda, tmp_path, monkeypatch):
    waits, read = [], Dataset.next_minibatch

    def next_minibatch(dataset, *args, **kwargs):
        if cuda:
            waits.append(cuda.here.waits)
        return read(dataset, *args, **kwargs)
    monkeypatch.setattr(Dataset, 'next_minibatch', next_minibatch)
    ahead = watched(monkeypatch)
    copy_after(15, tmp_path / 'alone', tmp_path / 'stopped', monkeypatch)       # During a fade-in.
    alone = trained('alone')
    if cuda:
        assert [replays > 0 for replays in ahead] == [True], 'compiled beside replays'
        # In an iteration, the training thread waits only for D's results: it reads and blends the next images while the
        # GPU computes G's step.
        steps = np.diff(waits)
        assert steps.min() == RESULTS and (steps == RESULTS).sum() >= 15, steps
    resumed = trained('stopped', '--resume', 'latest')
    assert [value.tobytes() for value in resumed] == [value.tobytes() for value in alone]
