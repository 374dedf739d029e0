"""A short training on a GPU: several ranges of lods, the next one compiled beside replays, stopped and resumed."""

import numpy as np
import pytest
import theano

import config
import train
from data.dataset import Dataset
from nets.pickles import load_pkl
from tests.training import kill_resume

# Ten iterations in each of two lod ranges: made, warmed up, recorded, replayed.
OPTIONS = {**kill_resume.OPTIONS, 'train.lod_training_kimg': 0.04, 'train.lod_transition_kimg': 0.04,
           'train.total_kimg': 0.08, 'train.tick_kimg_default': 0.04, 'train.state_minutes': 'None',
           'train.image_snapshot_ticks': 0, 'train.network_snapshot_ticks': 0}
RESULTS = 4         # Of D's function: each is fetched.


@pytest.fixture
def trained(cuda, tmp_path, monkeypatch):
    """A function that trains in a folder of that name and gives the parameters of the networks at the end."""
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


@pytest.mark.slow
def test_a_training_goes_on_as_if_it_had_not_been_stopped(trained, cuda, monkeypatch):
    waits, read = [], Dataset.next_minibatch

    def next_minibatch(dataset, *args, **kwargs):
        if cuda:
            waits.append(cuda.here.waits)
        return read(dataset, *args, **kwargs)
    monkeypatch.setattr(Dataset, 'next_minibatch', next_minibatch)
    alone = trained('alone')
    if cuda:
        # In an iteration the thread that trains waits for D's results only: it reads and blends the next images while
        # the GPU still has G's step to do.
        steps = np.diff(waits)
        assert steps.min() == RESULTS and (steps == RESULTS).sum() >= 15, steps
    trained('stopped', **{'train.total_kimg': 0.06})       # While it fades in.
    resumed = trained('stopped', '--resume', 'latest')
    assert [value.tobytes() for value in resumed] == [value.tobytes() for value in alone]
