"""figure_plots: marks of an axis, doublings of the resolution, and drawings that need no run."""

import types

import numpy as np
import pytest
from PIL import Image

from paper import plots


def stats(*rows):
    return [{'seconds': seconds, 'resolution': resolution} for seconds, resolution in rows]


def test_the_resolution_doubles_where_a_status_line_says_so():
    assert plots.doublings(stats((1, 4), (2, 4), (3, 8), (5, 8), (8, 16))) == [(2, 8), (5, 16)]
    assert plots.doublings(stats((1, 4), (2, 4))) == plots.doublings(stats((1, 4))) == []


@pytest.mark.parametrize('limits, labels', [
    ((1, 10), ['1', '2', '5', '10']), ((0.3, 3), ['0.5', '1', '2']), ((150, 300), ['200']), ((21, 49), [])])
def test_marks_of_a_logarithmic_axis(limits, labels):
    values, texts = plots.tick_marks(*limits)
    assert texts == labels
    np.testing.assert_allclose(values, [float(label) for label in labels])


def test_drawings_that_need_no_run(tmp_path):
    material = types.SimpleNamespace(path=lambda name: str(tmp_path / name), run=lambda *experiments: None)
    plots.growing_scheme(material, 'figure1', ['celebahq-1024'], 6)
    plots.fade_in(material, 'figure2')
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'figure1.pdf', 'figure1.png', 'figure2.pdf', 'figure2.png']
    for name in ('figure1.png', 'figure2.png'):
        with Image.open(tmp_path / name) as picture:
            assert len(np.unique(np.asarray(picture.convert('L')))) > 10


def test_curves_are_not_drawn_without_their_runs(tmp_path):
    asked = []
    material = types.SimpleNamespace(path=lambda name: str(tmp_path / name), runs=[],
                                     run=lambda *experiments, folder: asked.append(experiments))
    plots.swd_over_time(material, 'figure4a', 'celeba-128', 'with growing')
    plots.speed(material, 'figure4c', ['growing', 'fixed'])
    assert asked == [('celeba-128',), ('growing',), ('fixed',)] and not list(tmp_path.iterdir())
