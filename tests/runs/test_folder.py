"""runs/folder.py: Run folders and network snapshots: made, numbered, found."""

import concurrent.futures
import os

import pytest

from common.errors import UserError
from runs.folder import create_result_subdir, list_network_pkls, locate_network_pkl, locate_run_dir


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
    for args, message in [((faces, 5), 'snapshot=5: .*000005.pkl; there are network-snapshot-000004.pkl'),
                          ((faces / 'y.pkl',), 'y.pkl: no such file'), ((results / 'notes',), 'no network snapshots')]:
        with pytest.raises(UserError, match=message):
            locate_network_pkl(*args)
