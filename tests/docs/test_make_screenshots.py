"""docs/make_screenshots.py: colours of a terminal as HTML, small files, and a picture for each line of its table."""

import numpy as np
from PIL import Image

from docs.make_screenshots import COLOURS, MAX_BYTES, SCREENSHOTS, as_html, save_small
from tests.helpers import ROOT


def test_colours_of_a_terminal():
    assert as_html('a <b>\x1b[K') == 'a &lt;b&gt;'
    red = f'<span style="font-weight:bold;color:{COLOURS[1]}">red</span>'
    assert as_html('\x1b[1;31mred\x1b[0m plain') == f'{red} plain'
    assert as_html('\x1b[38;5;196mx\x1b[39;104my') == (
        f'<span style="color:rgb(255,0,0)">x</span><span style="background:{COLOURS[12]}">y</span>')
    assert as_html('\x1b[48;2;1;2;3mx\x1b[49m') == '<span style="background:rgb(1,2,3)">x</span>'
    assert as_html('\x1b[38;5;244m\x1b[2mx\x1b[22m\x1b[39my') == (
        '<span style="color:rgb(128,128,128);opacity:0.65">x</span>y')


def test_files_are_small(tmp_path):
    noise = np.random.RandomState(0).randint(256, size=(900, 900, 3), dtype=np.uint8)
    size = save_small(Image.fromarray(noise), tmp_path / 'noise.png')
    assert size == (tmp_path / 'noise.png').stat().st_size <= MAX_BYTES
    plain = Image.new('RGB', (300, 200), (1, 2, 3))
    save_small(plain, tmp_path / 'plain.png')
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'plain.png')), np.asarray(plain))


def test_every_screenshot_is_in_the_documentation():
    for name in SCREENSHOTS:
        path = ROOT / 'docs' / 'images' / f'{name}.png'
        assert path.stat().st_size <= MAX_BYTES
        with Image.open(path) as picture:
            assert picture.width >= 390
