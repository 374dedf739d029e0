"""runs/page.html, page.css and page.js: the places to fill, and that the page may load nothing."""

import pathlib
import re

from runs import page

PAGE, STYLE, SCRIPT = (pathlib.Path(page.__file__).with_suffix(suffix).read_text(encoding='utf-8')
                       for suffix in ('.html', '.css', '.js'))


def test_the_page_has_a_place_for_all_that_is_filled_in():
    assert set(re.findall('@@([a-z]+)@@', PAGE)) == {
        'title', 'style', 'summary', 'sections', 'written', 'data', 'script'}
    assert "default-src 'none'" in PAGE


def test_every_element_that_the_script_asks_for_by_name_exists():
    names = set(re.findall(r"getElementById\('([a-z]+)'\)", SCRIPT))
    made = set(re.findall(r'id="([a-z]+)"', PAGE + page.PICTURE_CONTROLS))
    assert {'slider', 'back', 'on', 'play', 'size', 'data'} <= names & made
    # The others belong to the pictures, which runs/page.py writes.
    assert names - made == {'fakes', 'caption'}


def test_style_and_script_refer_to_no_other_place():
    for text in (PAGE, STYLE, SCRIPT):
        assert '@import' not in text
        assert set(re.findall(r'https?://[^\'"\s]*', text)) <= {'http://www.w3.org/2000/svg'}


def test_colours_of_curves_are_there_by_day_and_by_night():
    day, night = STYLE.split('@media (prefers-color-scheme: dark)')[:2]
    names = set(re.findall(r'(--c\d+):', day))
    assert len(names) == 8 and names == set(re.findall(r'(--c\d+):', night))
