"""paper.plots: drawings without runs."""

import types

import numpy as np
from PIL import Image

from paper import plots


def test_drawings_that_need_no_run(tmp_path):
    material = types.SimpleNamespace(path=lambda name: str(tmp_path / name), run=lambda *experiments: None, entries=[])
    plots.growing_scheme(material, 'figure1', ['celebahq-1024'], 6)
    plots.fade_in(material, 'figure2')
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f'figure{number}.{suffix}' for number in (1, 2) for suffix in ('json', 'pdf', 'png')]
    for name in ('figure1.png', 'figure2.png'):
        with Image.open(tmp_path / name) as picture:
            assert len(np.unique(np.asarray(picture.convert('L')))) > 10
