"""runs/folder.py: Run folders and network snapshots: made, numbered, found."""

import concurrent.futures
import json
import os

import pytest

from common.errors import UserError
from runs.folder import (
    can_go_on,
    create_result_subdir,
    is_trained,
    kimg_of_networks,
    list_network_pkls,
    locate_network_pkl,
    locate_run_dir,
    thin_out,
)


def test_run_folders_are_numbered_above_the_highest(tmp_path):
    result_dir = tmp_path / 'new' / 'results'
    assert os.path.basename(create_result_subdir(result_dir, 'digits')) == '000-digits'
    (result_dir / '007-faces').mkdir()
    (result_dir / '9 notes.txt').write_text('')
    assert os.path.basename(create_result_subdir(result_dir, 'digits')) == '008-digits'
    (result_dir / '1234').mkdir()
    assert os.path.basename(create_result_subdir(result_dir, 'digits')) == '1235-digits'


def test_run_folders_made_at_the_same_moment_get_different_numbers(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        made = list(executor.map(lambda desc: create_result_subdir(tmp_path, desc), 'abcdefgh' * 3))
    assert sorted(int(os.path.basename(run_dir)[:3]) for run_dir in made) == list(range(24))
    assert len(os.listdir(tmp_path)) == 24


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'results').write_text('a file where a folder should be')
    with pytest.raises(UserError, match=r"result_dir='.*results': cannot make a run folder there .*--result-dir"):
        create_result_subdir(str(tmp_path / 'results'), 'digits')
    with pytest.raises(UserError, match="desc='a/b'"):
        create_result_subdir(str(tmp_path), 'a/b')


@pytest.fixture
def results(tmp_path):
    for folder in ('000-digits', '003-faces', '012-a', '012-b', 'notes'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'log.txt').touch()
    (tmp_path / '004-being-made').mkdir()
    for name in ('network-snapshot-000004.pkl', 'network-snapshot-000100.pkl', 'network-snapshot-1000000.pkl', 'x.pkl'):
        (tmp_path / '003-faces' / name).touch()
    return tmp_path


def test_runs_are_found_by_number_name_or_path(results):
    faces = str(results / '003-faces')
    for run in (3, '3', '003', '003-faces', faces):
        assert locate_run_dir(run, results) == faces
    assert locate_run_dir(0, results) == str(results / '000-digits')
    for run, message in [(4, 'run 4: no such run in .*; there are 000-digits, 003-faces'), (12, '012-a and 012-b'),
                         ('003-facse', "did you mean '003-faces'"), ('nowhere/', 'no such run')]:
        with pytest.raises(UserError, match=message):
            locate_run_dir(run, results)
    with pytest.raises(UserError, match='there are none'):
        locate_run_dir(3, results / 'nothing')


def test_networks_are_found_by_run_and_kimg_or_path(results):
    faces = results / '003-faces'
    assert locate_network_pkl(3, result_dir=results) == str(faces / 'network-snapshot-1000000.pkl')
    (faces / 'network-final.pkl').touch()
    assert locate_network_pkl('3', result_dir=results) == str(faces / 'network-final.pkl')
    assert locate_network_pkl(3, 'final', results) == str(faces / 'network-final.pkl')
    assert locate_network_pkl(faces, 4) == locate_network_pkl(3, '4', results) == str(
        faces / 'network-snapshot-000004.pkl')
    assert locate_network_pkl(faces / 'x.pkl') == str(faces / 'x.pkl')
    assert len(list_network_pkls(faces)) == 4
    for args, message in [((faces, 5), "snapshot=5: .*no such snapshot; use 'latest', .* network-snapshot-000004.pkl"),
                          ((faces, 'lates'), "snapshot=lates: .*use 'latest', 'final'"),
                          ((faces / 'y.pkl',), 'y.pkl: no such file'), ((results / 'notes',), 'no network snapshots')]:
        with pytest.raises(UserError, match=message):
            locate_network_pkl(*args)


def make(run_dir, *names, **files):
    """A run folder with empty files, and some of a given content."""
    run_dir.mkdir(parents=True)
    for name in names:
        (run_dir / name).touch()
    for name, content in files.items():
        (run_dir / name.replace('_', '.')).write_text(content)
    return str(run_dir)


TRAINING, IMAGES = "{'dataset': {'resolution': 8}}", "{'train': {'func': 'util_scripts.generate_fake_images'}}"


def test_the_latest_run_is_one_that_was_trained_and_has_something_to_go_on_from(tmp_path):
    with pytest.raises(UserError, match='run latest: no training has saved a state .*; there are none'):
        locate_run_dir('latest', tmp_path, can_go_on)
    failed = make(tmp_path / '000-failed', 'log.txt', 'reals.png', config_txt=TRAINING)
    for latest in (can_go_on, is_trained):
        with pytest.raises(UserError, match='run latest: no training has saved .*; there are 000-failed'):
            locate_run_dir('latest', tmp_path, latest)
    trained = make(tmp_path / '001-trained', 'network-snapshot-000003.pkl', 'stats.jsonl', config_txt=TRAINING)
    stopped = make(tmp_path / '002-stopped', 'training-state-000000004.npz', config_txt=TRAINING)
    # What came after it, and a copy of a network among images.
    make(tmp_path / '003-images', 'seed0000.png', config_txt=IMAGES)
    make(tmp_path / '004-images', 'network-final.pkl', 'stats.jsonl', config_txt=IMAGES)
    make(tmp_path / '005-figures', 'figure1.png')
    make(tmp_path / '006-failed', 'log.txt', config_txt=TRAINING)
    (tmp_path / '007-being-made').mkdir()
    assert locate_run_dir('latest', tmp_path, can_go_on) == stopped
    assert locate_run_dir('latest', tmp_path, is_trained) == trained
    assert locate_run_dir('latest', tmp_path) == stopped
    assert locate_network_pkl('latest', result_dir=tmp_path) == os.path.join(trained, 'network-snapshot-000003.pkl')
    assert locate_run_dir(0, tmp_path) == failed, 'by its number it is found'
    # The highest number, not the last of the alphabet; a release's folder, without config.txt, is one of a training.
    make(tmp_path / '1000-old', 'network-final.pkl')
    assert locate_run_dir('latest', tmp_path) == str(tmp_path / '1000-old')


def test_the_kimg_of_networks(tmp_path):
    make(tmp_path / '000-a', 'network-final.pkl', stats_jsonl='{"kimg": 3.5}\n{"kimg": 7.25}\n')
    assert kimg_of_networks(str(tmp_path / '000-a' / 'network-final.pkl')) == 7.25
    assert kimg_of_networks('elsewhere/network-snapshot-000006.pkl') == 6
    assert kimg_of_networks(str(tmp_path / 'network-final.pkl')) is kimg_of_networks('foreign.pkl') is None


def test_snapshots_are_thinned_out(tmp_path):
    """But for the newest, every tenth, the best and worst by a metric, the final one and one that is no tick's."""
    for number in range(1, 26):
        (tmp_path / f'network-snapshot-{2 * number:06d}.pkl').touch()
    for name in ('network-snapshot-000033.pkl', 'network-final.pkl', 'mine.pkl'):
        (tmp_path / name).touch()
    (tmp_path / 'stats.jsonl').write_text(''.join(
        json.dumps({'tick': 4 * number, 'kimg': 2 * number + 0.016}) + '\n' for number in range(1, 26)))
    entries = [{'metric': 'swd', 'num_images': 4, 'snapshot': f'network-snapshot-{kimg:06d}', 'values': {'avg': value}}
               for kimg, value in [(2, 3.0), (4, 1.0), (6, 2.0), (8, float('nan')), (10, 4.0)]]
    entries.append({'metric': 'fid', 'snapshot': 'network-snapshot-000012', 'best': True})
    # Where the good end is known, the other one is not kept, nor are deviations.
    entries += [{'metric': 'inception_score', 'snapshot': f'network-snapshot-{kimg:06d}', 'better': {'mean': 'higher'},
                 'values': {'mean': value, 'std': kimg / 9}} for kimg, value in [(14, 3.0), (16, 5.0), (18, 4.0)]]
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    for _twice in range(2):
        thin_out(str(tmp_path), 2, 4)
        kept = [os.path.basename(path) for path in list_network_pkls(tmp_path)]
        assert kept == [f'network-snapshot-{kimg:06d}.pkl' for kimg in (4, 10, 12, 16, 20, 33, 40, 48, 50)] + [
            'network-final.pkl']
    thin_out(str(tmp_path), 0, 4)
    assert (tmp_path / 'network-snapshot-000050.pkl').exists() and (tmp_path / 'mine.pkl').exists()
