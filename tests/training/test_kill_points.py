"""A training that is killed at some of its file operations (all of them: kill_points.py)."""

import pytest

from tests.training import kill_points, kill_resume


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """(folder, contents) of an uninterrupted run."""
    folder = tmp_path_factory.mktemp('points') / 'alone'
    options = {**kill_points.OPTIONS, 'train.state_minutes': 10}
    kill_resume.finish(folder, options)
    return folder.parent, options, kill_resume.contents(folder / '000-digits')


@pytest.mark.slow
@pytest.mark.parametrize('moment, wanted', [
    ('os.rename .*config.txt', 'nothing'),
    ('os.remove .*network-snapshot', 'went on'),    # The snapshot just got its name; the next state is far away.
    ('open .*_training-done', 'went on')])
def test_killed_at_a_file_operation(moment, wanted, alone):
    folder, options, contents = alone
    assert kill_points.outcome(moment, folder / 'killed', options, contents) == wanted
