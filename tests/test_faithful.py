"""docs/faithful.md names every recording of networks, and no file that does not exist."""

import re

from tests.helpers import GOLDEN, ROOT

TEXT = (ROOT / 'docs' / 'faithful.md').read_text()
NAMED = set(re.findall(r'`((?:nets|loss|losses|trajectory|[GD]\d\d)_?[\w*.]*)`', TEXT))


def test_every_recording_of_a_network_is_named():
    recorded = [path.stem for folder, pattern in ((GOLDEN, 'nets_*.npz'), (GOLDEN / 'tf' / 'networks', '[GD]*.npz'))
                for path in folder.glob(pattern) if path.stem != 'nets_float64']
    assert len(recorded) > 50 and not [name for name in recorded if name not in NAMED]


def test_named_files_exist():
    assert len(NAMED) > 55
    for name in NAMED:
        assert list(GOLDEN.rglob(f'{name}.npz')), name
    tests = ''.join(path.read_text() for path in (ROOT / 'tests').rglob('test_*.py'))
    for name in re.findall(r'`(test_\w+)`', TEXT):
        assert f'def {name}(' in tests, name
    for name in re.findall(r'`((?:tests|common)/[\w/.]+)`', TEXT):
        assert (ROOT / name).exists(), name
