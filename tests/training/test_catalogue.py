"""catalogue: the help of train.py fits a screen and names every experiment, alone or by its family."""

import re
import types

import pytest

import config
import train
from training import catalogue


@pytest.mark.parametrize('columns', [80, 200])
def test_the_help_fits_a_screen(columns, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', str(columns))
    with pytest.raises(SystemExit) as stopped:
        train.main(['--help'])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert 24 <= len(lines) <= 40 and max(map(len, lines)) <= 80 + 20 * (columns > 80)
    options = {option for line in lines for option in re.findall(r'^  (--[a-z-]+)', line)}
    assert {'--data', '--resolution', '--labels', '--experiment', '--list', '--set', '--dry-run', '--resume'} <= options


def test_every_experiment_is_in_the_overview_or_in_a_family():
    text = catalogue.overview(config)
    counts = {prefix: int(count) for prefix, count in re.findall(r'^  (\S+?)[A-Z][A-Z-]* \((\d+)\)$', text, re.M)}
    assert counts['lsun-'] == 30 and 'lsun-CATEGORY (30)' in text
    for name in config.experiments:
        assert name in re.split(r'[\s,]+', text) or any(name.startswith(prefix) for prefix in counts)
    for prefix, count in counts.items():
        assert sum(name.startswith(prefix) for name in config.experiments) == count
    for example in catalogue.EXAMPLES:
        assert set(re.findall('--[a-z-]+', example.partition('train.py')[2])) <= {
            f'--{name}' for name in ('data', 'resolution', 'experiment', 'dry-run', 'set', 'resume')}


def test_a_small_family_is_named_one_by_one():
    few = types.SimpleNamespace(experiments={'lsun-cat': {}, 'lsun-dog': {}, 'mine': {}}, variants={'cond': {}})
    assert '  mine, lsun-cat, lsun-dog\n' in catalogue.overview(few)
