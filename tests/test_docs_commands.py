"""Every command of README and docs runs as printed, shortened where it takes long, or `NOT_RUN` gives a reason."""

import importlib
import re
import shlex
import shutil

import numpy as np
import PIL.Image
import pytest

from tests.helpers import ROOT
from tests.test_docs import BLOCK

PAGES = [path for pattern in ('*.md', 'docs/*.md') for path in sorted(ROOT.glob(pattern))]
SHORT = ['--set', 'train.total_kimg=0.06', '--set', 'train.image_grid_size=[10,2]']
LONGER = ['--set', 'train.total_kimg=0.09']
# Words that are added to commands that begin so, in this order: the first that fits.
SHORTENED = {
    'train.py --data PICTURES': SHORT,
    'train.py --data emoji': ['--dry-run'],
    'train.py --resume': LONGER,
    'train.py --set train.resume': [*LONGER, '--dry-run'],
    'train.py --list': [],
    'train.py': SHORT,
    'evaluate_metrics.py 0': ['--num-images', '64'],
    'train_classifier.py': ['--epochs', '1'],
    'util_scripts.py generate_interpolation_video': ['--duration-sec', '0.2'],
    'util_scripts.py project_image': ['--num-steps', '2', '--num-starts', '1'],
}
NOT_RUN = {     # {regular expression: reason}
    r'torchrun': 'starts several processes: tests/training/test_processes.py does, on CPUs',
    r'create_lsun|create_celebahq|merge datasets/bedroom': 'needs photos of others: tests/data has small ones',
    r'figures.py (all|figure5)': 'needs runs of the paper: tests/test_figures.py has small ones',
    r'legacy.py karras|export.py onnx celebahq': 'needs a published pickle: tests/test_legacy.py, test_export.py',
    r'reproduce.py table[14]( --part| --draw|$)': 'takes months: tests/test_reproduce.py has small parts',
    r'util_scripts.py explore': 'serves until it is stopped: its own tests call the server',
}


def commands_of(page):
    """Our commands in the shell blocks of a page, each as a text of words."""
    for _indent, language, block in BLOCK.findall(page.read_text(encoding='utf-8')):
        for line in block.replace('\\\n', ' ').splitlines() if language == 'sh' else ():
            for part in re.split(r'&&|;|\|| do ', line):
                found = re.search(r'(?:python[\d.]*|torchrun .*|uv run) (\w+\.py.*)', part)
                if found:
                    words = shlex.split(found[1].replace('; done', '').rstrip(') &'), comments=True)
                    yield ' '.join(map(shlex.quote, [*(['torchrun'] if 'torchrun' in part else []), *words]))


# In the order of the pages: the README trains first.
COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page) if command != 'setup.py'))
RUN = [command for command in COMMANDS if not any(re.search(pattern, command) for pattern in NOT_RUN)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder as a reader of the docs has it after `python train.py`: runs 0 and 12, pictures, an old config."""
    folder = tmp_path_factory.mktemp('docs')
    (folder / 'PICTURES').mkdir()
    random = np.random.RandomState(1)
    for number in range(20):
        PIL.Image.fromarray(random.randint(256, size=(64, 64, 3)).astype(np.uint8)).save(
            folder / 'PICTURES' / f'{number}.png')
    shutil.copytree(folder / 'PICTURES', folder / 'emoji')
    PIL.Image.fromarray(random.randint(256, size=(16, 16)).astype(np.uint8)).save(folder / 'seven.png')
    (folder / 'old_config.py').write_text("dataset = dict(tfrecord_dir='celebahq')\ntrain = dict(total_kimg=12000)\n")
    return folder


def run(command, extra=()):
    script, *words = shlex.split(command)
    return importlib.import_module(script.removesuffix('.py')).main([*words, *extra])


@pytest.fixture(scope='module')
def trained(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run('train.py', SHORT) == 0
        first, = (folder / 'results').glob('000-*')
        other = folder / 'results' / '012-digits'
        shutil.copytree(first, other)
        shutil.copy(other / 'network-final.pkl', other / 'network-snapshot-008000.pkl')
        shutil.copy(other / 'network-final.pkl', folder / 'karras.pkl')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('command', RUN)
def test_command(command, trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    extra = next((words for begin, words in SHORTENED.items() if command.startswith(begin)), [])
    assert run(command, extra) in (0, None), capsys.readouterr().err


def test_reasons_are_for_commands_that_exist():
    assert len(COMMANDS) > 30
    for pattern in NOT_RUN:
        assert any(re.search(pattern, command) for command in COMMANDS), pattern
