"""Pictures and network snapshots of a short training, and a training that starts from them."""

import json
import os
import pathlib

import numpy as np
import pytest

import config
import evaluate_metrics
import theano_env
import train
from common import files
from metrics import evaluation
from nets.network import Network
from nets.pickles import load_pkl
from runs.folder import FINAL_NETWORKS, network_snapshots
from runs.records import find_snapshots, read_config, twin_of_final
from training import experiment
from training.event_file import EventFile
from training.options import resolve_config
from training.recorded import read_folder
from training.snapshots import SnapshotGrid, SnapshotWriter, link_final

OPTIONS = {
    'dataset.resolution': 4, 'dataset.max_labels': 0, 'G.fmap_max': 4, 'D.fmap_max': 4, 'G.latent_size': 8,
    'G.use_batchnorm': True, 'train.minibatch_default': 64, 'train.lod_training_kimg': 0, 'metrics': [],
    'train.lod_transition_kimg': 0, 'train.total_kimg': 4.5, 'train.tick_kimg_default': 1, 'train.state_minutes': None,
    'train.image_snapshot_ticks': 0, 'train.network_snapshot_ticks': 1, 'train.keep_snapshots': 2,
    'train.image_grid_size': (2, 2), 'train.image_grid_type': 'default', 'train.show_progress': False}


def trained(folder, **options):
    chosen = resolve_config(config, 'digits', [f'{name}={value}' for name, value in {
        **OPTIONS, **{f'train.{name}': value for name, value in options.items()}}.items()])
    return pathlib.Path(experiment.run_experiment(
        chosen, str(folder / 'data'), str(folder / 'results'), 'torch', {'device': 'cpu'}, train_gan=train.train_gan))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    import theano
    before, folder = theano.config.mode, tmp_path_factory.mktemp('finished')
    yield folder, trained(folder)
    theano.config.mode = before


def values(net, names):
    return [net.get_var(name) for name in names]


def test_the_last_snapshot_has_its_number_too(finished):
    """The final file has two names; earlier snapshots are thinned out."""
    names = sorted(path.name for path in finished[1].glob('*.pkl'))
    assert names == ['network-final.pkl', 'network-snapshot-000003.pkl', 'network-snapshot-000004.pkl']
    assert os.path.samefile(finished[1] / names[0], finished[1] / names[2])


def test_the_folder_knows_which_defaults_have_changed(finished):
    """Without this record, a resumed run would use the old default of `gdrop_coef`."""
    assert 'train.train_gan.gdrop_coef' in read_config(finished[1])['run']['changed_defaults']
    assert 'gdrop_coef' not in read_folder(str(finished[1]))[0]['train']
    text = (finished[1] / 'config.txt').read_text()
    (finished[1] / 'config.txt').write_text(text.replace('changed_defaults', 'x'))
    assert read_folder(str(finished[1]))[0]['train']['gdrop_coef'] == 0.2
    (finished[1] / 'config.txt').write_text(text)


def test_one_file_is_evaluated_once(finished, capsys, monkeypatch):
    folder, run_dir = finished
    fed, feed_fakes = [], evaluation.feed_fakes
    monkeypatch.setattr(evaluation, 'feed_fakes', lambda *args: (fed.append(args[5]), feed_fakes(*args))[1])
    monkeypatch.setattr(evaluation.metrics, 'check_name', lambda *args: None)
    argv = [str(run_dir), '--metrics', 'counted', '--num-images', '8', '--data-dir', str(folder / 'data'), '--engine',
            'torch', '--cache-dir', str(folder / 'cache')]
    monkeypatch.setitem(evaluation.metrics.METRICS, 'counted', evaluation.metrics.METRICS['ms_ssim']._replace(needs=()))
    monkeypatch.setattr(evaluation.metrics, 'make_metric', lambda name, **kwargs: Counted())
    assert evaluate_metrics.main(argv) == 0
    assert fed == ['network-snapshot-000003', 'network-final']
    for more in (['--snapshot', '4'], ['--snapshot', 'final'], ['--only-final'], []):
        assert evaluate_metrics.main([*argv, *more]) == 0
    assert len(fed) == 2
    lines = [json.loads(line) for line in (run_dir / 'metrics.jsonl').read_text().splitlines()]
    assert [line['snapshot'] for line in lines] == fed
    assert [line['batchnorm_minibatch'] for line in lines] == [64, 64]


class Counted:
    better = {'num': 'higher'}

    def begin(self, mode):
        self.num = 0

    def feed(self, mode, images):
        self.num += len(images)

    def end(self, mode):
        return [self.num]

    def names(self):
        return ['num']


def test_a_new_training_can_restart_the_averages(finished, tmp_path):
    """test_resume.py checks the default, which keeps them."""
    _folder, run_dir = finished
    stands_still = {'G_learning_rate_max': 0.0, 'G_smoothing': 1.0, 'total_kimg': 4.6, 'resume_kimg': 4.5,
                    'resume_run_id': run_dir / FINAL_NETWORKS}
    G, _D, Gs = load_pkl(run_dir / FINAL_NETWORKS)
    made = load_pkl(trained(tmp_path, resume_Gs='restart', **stands_still) / FINAL_NETWORKS)[2]
    for ours, theirs in zip(values(made, made.trainables), values(G, G.trainables), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not all(map(np.array_equal, values(G, G.trainables), values(Gs, Gs.trainables)))


@pytest.mark.usefixtures('restore_theano_config')
@pytest.mark.parametrize('batchnorm', ['minibatch', 'running'])
def test_batch_norm_of_pictures(batchnorm, tmp_path):
    theano_env.configure('torch', {'device': 'cpu'})
    Gs = Network('Gs', 'networks.G_paper', resolution=4, fmap_max=2, latent_size=3, use_batchnorm=True)
    statistics = [name for name in Gs.vars if name not in Gs.trainables and '_bn.' in name]
    before = values(Gs, statistics)
    latents = np.random.RandomState(0).randn(4, 3).astype(np.float32)
    grid = SnapshotGrid((2, 2), None, latents, np.zeros((4, 0), np.float32))
    SnapshotWriter(str(tmp_path), EventFile(str(tmp_path)), {'Gs': Gs}, grid, 1, batchnorm).save_fakes(1000)
    moved = [not np.array_equal(old, new) for old, new in zip(before, values(Gs, statistics), strict=True)]
    assert statistics and moved == [batchnorm == 'minibatch'] * len(statistics)


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(1, 'Operation not permitted')

    (tmp_path / FINAL_NETWORKS).write_bytes(b'networks')
    monkeypatch.setattr(files.os, 'link', refuse)
    link_final(str(tmp_path), 7.9)
    assert (tmp_path / 'network-snapshot-000007.pkl').read_bytes() == b'networks'
    assert twin_of_final(find_snapshots(tmp_path)).kimg == 7
    (tmp_path / FINAL_NETWORKS).write_bytes(b'NETWORKS')
    assert twin_of_final(find_snapshots(tmp_path)) is None


def test_linking_again_leaves_nothing_behind(tmp_path):
    (tmp_path / FINAL_NETWORKS).write_bytes(b'networks')
    for _twice in range(2):
        link_final(str(tmp_path), 7.0)
        assert len(list(tmp_path.iterdir())) == 2


def test_the_best_networks_are_not_replaced(tmp_path):
    (tmp_path / FINAL_NETWORKS).write_bytes(b'the last')
    (tmp_path / 'network-snapshot-000007.pkl').write_bytes(b'the best')
    entry = {'metric': 'swd', 'snapshot': 'network-snapshot-000007', 'values': {'avg': 1.0}, 'best': True}
    (tmp_path / 'metrics.jsonl').write_text(json.dumps(entry))
    link_final(str(tmp_path), 7.4)
    assert [pathlib.Path(path).read_bytes() for path in network_snapshots(str(tmp_path))] == [b'the best']
