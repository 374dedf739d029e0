"""A training that is killed at some of its file operations (all of them: kill_points.py)."""

import pytest

from tests.training import kill_points, kill_resume


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """(folder, contents) of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp('points') / 'alone'
    options = {**kill_points.OPTIONS, 'train.state_minutes': 10}
    kill_resume.finish(folder, options)
    return folder.parent, options, kill_resume.contents(folder / '000-digits')


# Before config.txt is there, and between the first network snapshot and the next picture.
@pytest.mark.slow
@pytest.mark.parametrize('number, wanted', [(9, 'nothing'), (56, 'went on')])
def test_killed_at_a_file_operation(number, wanted, alone):
    folder, options, contents = alone
    assert kill_points.outcome(number, folder / 'killed', options, contents) == wanted
