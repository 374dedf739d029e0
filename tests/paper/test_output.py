"""paper.output: cells, Markdown and LaTeX tables, captions, pictures in rows, units of time."""

import types

import numpy as np
import pytest
from PIL import Image

from paper import output
from paper.numbers import MARKS, Number
from paper.output import GAP, Table

TABLE = Table('A & B, 100%', ['name_1', 'x'], [['a|b*', (Number(1.234, 0.5, 'S1'), 1)], ['c', (Number(2.0), 2)],
                                               ['none', None]], notes=('A note.',))


def test_a_cell_is_a_text_or_a_number_with_its_digits():
    assert output.text_of(None) == ('', None) and output.text_of('words') == ('words', None)
    assert output.text_of((Number(1.26, None, 'M'), 1)) == ('1.3', 'M')
    assert output.text_of((Number(1.26, 0.04), 2)) == ('1.26 ± 0.04', None)


def test_a_single_result_has_no_deviation():
    assert output.mean_and_deviation([3.0]) == Number(3.0, None)
    mean, deviation, mark = output.mean_and_deviation([1.0, 2.0, 6.0])
    assert (mean, mark) == (3.0, None) and deviation == pytest.approx(np.sqrt(7))


def test_only_the_marks_in_use_are_explained():
    assert output.notes_of(TABLE) == ['A note.', f"Marks of the paper's numbers: S1: {MARKS['S1']}."]
    assert output.notes_of(Table('', ['a'], [['b']])) == []


def test_markdown():
    assert output.markdown(TABLE).splitlines()[:7] == [
        '**A & B, 100%**', '', '| name_1 | x |', '| --- | ---: |', '| a\\|b\\* | 1.2 ± 0.5 <sup>S1</sup> |',
        '| c | 2.00 |', '| none |  |']


def test_latex_escapes_special_characters():
    lines = output.latex(TABLE, 'tab:one').splitlines()
    assert r'\caption{A \& B, 100\%}' in lines and r'\label{tab:one}' in lines and r'\begin{tabular}{lr}' in lines
    assert r'name\_1 & x \\' in lines and r'a|b* & 1.2 $\pm$ 0.5\textsuperscript{S1} \\' in lines


def test_tables_are_files_in_both_languages(tmp_path):
    material = types.SimpleNamespace(path=lambda name: str(tmp_path / name), entries=[])
    output.save_tables(material, 'table9', [TABLE, TABLE])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['table9.json', 'table9.md', 'table9.tex']
    assert (tmp_path / 'table9.md').read_text().count('**A & B, 100%**') == 2
    assert r'\label{tab:table9-2}' in (tmp_path / 'table9.tex').read_text()


def test_a_caption_is_below_the_picture_and_broken_into_its_width():
    picture = Image.new('RGB', (200, 50), 'red')
    assert output.captioned(picture, '') is picture
    short, long = [output.captioned(picture, ' '.join(['word'] * count)) for count in (1, 30)]
    assert short.width == 200 and 50 < short.height < long.height
    pixels = np.asarray(short)
    assert (pixels[:50, :200] == [255, 0, 0]).all() and pixels[50:].min() < 128 and (pixels[-1] == 255).all()


def test_pictures_in_rows_have_gaps():
    pictures = [Image.new('RGB', size, 'black') for size in ((10, 20), (30, 10), (20, 20))]
    arranged = np.asarray(output.arranged(pictures, 2))[:, :, 0]
    assert arranged.shape == (20 + 20 + 3 * GAP, 20 + 30 + 3 * GAP)
    assert (arranged == 0).sum() == 10 * 20 + 30 * 10 + 20 * 20
    # The third picture makes the column wide, and the first one is centred in it.
    assert (arranged[GAP:GAP + 20, GAP + 5:GAP + 15] == 0).all()
    for edge in (arranged[:GAP], arranged[-GAP:], arranged[:, :GAP], arranged[:, -GAP:]):
        assert (edge == 255).all()


@pytest.mark.parametrize('seconds, unit', [(59, 'minutes'), (3599, 'minutes'), (3600, 'hours'), (1e6, 'hours')])
def test_units_of_time(seconds, unit):
    assert output.time_unit(seconds)[0] == unit
