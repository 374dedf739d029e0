"""Layout and files of figures and tables: Markdown and LaTeX tables, pictures of images, plots and drawings."""

import dataclasses
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError
from common.files import atomic_write
from common.images import convert_to_pil_image, create_image_grid, save_pil_image
from paper.entries import Entry, table_of
from paper.material import Material
from paper.numbers import MARKS, Number

# Sizes in pixels.
TEXT_SIZE = 16
SMALL_TEXT = 11         # For the lines below a picture that name its runs.
GAP = 12                # Between pictures in rows and columns.
MIN_WIDTH = 600         # For a picture with such lines.
GREY = '#555555'
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000', '#7f7f7f')   # Okabe and Ito.
LATEX = {'±': r'$\pm$', '×': r'$\times$', '^': r'\^{}', '~': r'\~{}', '\\': r'\textbackslash{}'}    # Others get a '\'.
G_COLOR, D_COLOR, RGB_COLOR = '#c6dbef', '#fdd0a2', '#e5e5e5'


# ----------------------------------------------------------------------------------------------------------------------
# Tables.


Cell = str | tuple[Number, int] | None      # Text, a number with its number of decimals, or an empty cell.


class Table(NamedTuple):
    """A table whose first `num_labels` columns are text."""

    caption: str
    header: list[str]
    rows: list[list[Cell]]
    num_labels: int = 1
    notes: Sequence[str] = ()


def text_of(cell: Cell) -> tuple[str, str | None]:
    """(text, mark or None) of a cell."""
    if cell is None:
        return '', None
    if isinstance(cell, str):
        return cell, None
    number, digits = cell
    text = '%.*f' % (digits, number.value)
    if number.deviation is not None:
        text += ' ± %.*f' % (digits, number.deviation)
    return text, number.mark


def mean_and_deviation(values: Sequence[float]) -> Number:
    """Mean and sample standard deviation of our results; no deviation for a single value."""
    return Number(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def notes_of(table: Table) -> list[str]:
    """The notes of a table, and a legend of its marks."""
    used = {text_of(cell)[1] for row in table.rows for cell in row} - {None}
    legend = '; '.join(f'{mark}: {meaning}' for mark, meaning in MARKS.items() if mark in used)
    return [*table.notes, *([f"Marks of the paper's numbers: {legend}."] if legend else [])]


def markdown_lines(header: Sequence[str], rows: Iterable[Iterable], num_labels: int = 1) -> list[str]:
    """The lines of a table in GitHub's Markdown. The first `num_labels` columns are text, the rest numbers."""
    alignment = ['---'] * num_labels + ['---:'] * (len(header) - num_labels)
    return [f'| {" | ".join(map(str, cells))} |' for cells in (header, alignment, *rows)]


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with caption and notes."""
    def cell_text(cell):
        text, mark = text_of(cell)
        text = text.replace('|', '\\|').replace('*', '\\*')
        return text + (f' <sup>{mark}</sup>' if mark else '')

    rows = [map(cell_text, row) for row in table.rows]
    lines = [f'**{table.caption}**', '', *markdown_lines(table.header, rows, table.num_labels)]
    for note in notes_of(table):
        lines += ['', note]
    return '\n'.join(lines) + '\n'


def latex(table: Table, label: str) -> str:
    """The table in LaTeX, with caption and notes; it needs the package booktabs."""
    def escaped(text):
        return re.sub(r'[&%$#_{}~^\\±×]', lambda match: LATEX.get(match[0], '\\' + match[0]), text)

    def cell_text(cell):
        text, mark = text_of(cell)
        return escaped(text) + (f'\\textsuperscript{{{mark}}}' if mark else '')

    def line(cells):
        return f'{" & ".join(cells)} \\\\'

    num_numbers = len(table.header) - table.num_labels
    lines = [r'\begin{table}', r'\centering', f'\\caption{{{escaped(table.caption)}}}', f'\\label{{{label}}}',
             f'\\begin{{tabular}}{{{"l" * table.num_labels + "r" * num_numbers}}}', r'\toprule',
             line(map(escaped, table.header)), r'\midrule', *(line(map(cell_text, row)) for row in table.rows),
             r'\bottomrule', r'\end{tabular}']
    lines += [f'\\par\\smallskip\\footnotesize {escaped(note)}' for note in notes_of(table)]
    return '\n'.join([*lines, r'\end{table}']) + '\n'


def save_tables(material: Material, name: str, tables: list[Table]) -> None:
    """Write tables as ``NAME.md`` and ``NAME.tex``, with a table of the runs behind them."""
    entries = save_entries(material, name)
    if entries:
        header, rows = table_of(entries)
        tables = [*tables, Table('Runs behind our numbers', header, [list(row) for row in rows], len(header))]
    labels = ['tab:%s%s' % (name, '' if len(tables) == 1 else '-%d' % number) for number in range(1, len(tables) + 1)]
    texts = {'md': '\n'.join(map(markdown, tables)), 'tex': '\n'.join(map(latex, tables, labels))}
    for suffix, text in texts.items():
        with atomic_write(material.path(f'{name}.{suffix}'), 'w', encoding='utf-8') as file:
            file.write(text)


# ----------------------------------------------------------------------------------------------------------------------
# Files. save_tables, save_picture and save_figure write all figures and tables, each with the record of its runs.


def save_entries(material: Material, name: str) -> list[Entry]:
    """Write the record of the runs that a figure shows as ``NAME.json``; return the record and clear it."""
    entries, material.entries = material.entries, []
    document = {'figure': name, 'entries': [dataclasses.asdict(entry) for entry in entries]}
    with atomic_write(material.path(f'{name}.json'), 'w', encoding='utf-8') as file:
        json.dump(document, file, indent=1, ensure_ascii=False)
        file.write('\n')
    return entries


def save_picture(material: Material, name: str, picture: Image.Image) -> None:
    """Write a picture as ``NAME.png``, with captions for the runs that it shows."""
    entries = save_entries(material, name)
    if entries and picture.width < MIN_WIDTH:
        wide = Image.new('RGB', (MIN_WIDTH, picture.height), 'white')
        wide.paste(picture, ((MIN_WIDTH - picture.width) // 2, 0))
        picture = wide
    for entry in entries:
        picture = captioned(picture, entry.caption(), max(SMALL_TEXT, picture.width // 110), 'left')
    save_pil_image(picture, material.path(name + '.png'))


def save_figure(material: Material, name: str, figure: Any) -> None:
    """Write a matplotlib figure as ``NAME.png`` and ``NAME.pdf``, with captions for the runs that it shows."""
    texts = [textwrap.fill(entry.caption(), int(21 * figure.get_figwidth())) for entry in save_entries(material, name)]
    if texts:
        lines = sum(text.count('\n') + 1 for text in texts)
        figure.set_figheight(figure.get_figheight() + lines * 0.1 + 0.05)
        figure.supxlabel('\n'.join(texts), fontsize=6, x=0.01, ha='left', linespacing=1.15)
    for suffix, metadata in (('png', {}), ('pdf', {'CreationDate': None})):
        with atomic_write(material.path(f'{name}.{suffix}')) as file:
            figure.savefig(file, format=suffix, dpi=200, metadata=metadata)


# ----------------------------------------------------------------------------------------------------------------------
# Pictures of images.


def sized(image: np.ndarray, size: int) -> Image.Image:
    """A uint8 image (C, H, W) as an RGB picture about `size` pixels high. Small images are enlarged by an integer."""
    picture = convert_to_pil_image(image, (0, 255)).convert('RGB')
    if picture.height > size:
        return picture.resize((max(picture.width * size // picture.height, 1), size), Image.Resampling.LANCZOS)
    zoom = max(round(size / picture.height), 1)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def image_grid(images: Iterable[np.ndarray], columns: int, size: int) -> Image.Image:
    """uint8 images (C, H, W) in a grid, each about `size` pixels high."""
    cells = [np.asarray(sized(image, size)).transpose(2, 0, 1) for image in images]
    columns = min(columns, len(cells))
    return convert_to_pil_image(create_image_grid(np.stack(cells), (columns, -(-len(cells) // columns))),
                                (0, 255))


def wrapped(text: str, font: Any, width: float) -> list[str]:
    """A text in lines of at most `width` pixels; only a single longer word exceeds this."""
    lines: list[str] = []
    for word in text.split():
        longer = f'{lines[-1]} {word}' if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def captioned(picture: Image.Image, caption: str, text_size: int = TEXT_SIZE, align: str = 'centre') -> Image.Image:
    """A picture with text below it, wrapped to its width; `align` is 'centre' or 'left'."""
    if not caption:
        return picture
    font = ImageFont.load_default(text_size)
    lines = wrapped(caption, font, picture.width - (2 * GAP if align == 'left' else 0))
    width = max([picture.width, *(int(np.ceil(font.getlength(line))) for line in lines)])
    line_height = round(text_size * 1.35)
    canvas = Image.new('RGB', (width, picture.height + len(lines) * line_height + text_size // 2), 'white')
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        x, anchor = (width / 2, 'ma') if align == 'centre' else (GAP, 'la')
        draw.text((x, picture.height + number * line_height + text_size // 4), line, 'black', font, anchor)
    return canvas


def arranged(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows and columns on white, with gaps around each; columns may differ in width."""
    rows = [pictures[begin:begin + columns] for begin in range(0, len(pictures), columns)]
    widths = [max(row[column].width for row in rows if column < len(row)) for column in range(len(rows[0]))]
    heights = [max(picture.height for picture in row) for row in rows]
    canvas = Image.new('RGB', (sum(widths) + GAP * (len(widths) + 1), sum(heights) + GAP * (len(heights) + 1)), 'white')
    y = GAP
    for row, height in zip(rows, heights, strict=True):
        x = GAP
        for picture, width in zip(row, widths, strict=False):
            canvas.paste(picture, (x + (width - picture.width) // 2, y))
            x += width + GAP
        y += height + GAP
    return canvas


# ----------------------------------------------------------------------------------------------------------------------
# Plots and drawings. They avoid pyplot because it has global state.


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure; `width` and `height` are in inches.

    Raises
    ------
    UserError
        matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError('plots and drawings need matplotlib: pip install matplotlib') from error
    return Figure((width, height), layout='constrained')


def time_unit(seconds: float) -> tuple[str, int]:
    """(name, seconds) of the unit to show a duration in: hours, as in the paper, or minutes for short ones."""
    return ('hours', 3600) if seconds >= 3600 else ('minutes', 60)


def tidy(axes: Any) -> None:
    """Give axes a light grid, no box and small text."""
    axes.grid(True, which='major', color='#dddddd', linewidth=0.6)
    axes.tick_params(labelsize=8)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_size(9)
    axes.set_axisbelow(True)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)


def box(axes: Any, x: float, y: float, width: float, height: float, text: str, color: str, fontsize: float = 8) -> None:
    """Draw a rounded box with text, centred at (x, y)."""
    from matplotlib.patches import FancyBboxPatch
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, facecolor=color, edgecolor='#444444',
                                  boxstyle='round,pad=0,rounding_size=0.08', linewidth=0.7))
    axes.text(x, y, text, ha='center', va='center_baseline', fontsize=fontsize)


def arrow(axes: Any, *points: tuple[float, float]) -> None:
    """Draw an arrow along points (x, y)."""
    for (x0, y0), (x1, y1) in zip(points[:-2], points[1:-1], strict=True):
        axes.plot([x0, x1], [y0, y1], color='#444444', linewidth=0.8, solid_capstyle='round')
    axes.annotate('', points[-1], points[-2], arrowprops={
        'arrowstyle': '-|>', 'color': '#444444', 'linewidth': 0.8, 'shrinkA': 0, 'shrinkB': 0, 'mutation_scale': 8})


def blank_axes(figure: Any, *position: Any, x: tuple[float, float], y: tuple[float, float]) -> Any:
    """Empty axes for a drawing, with limits `x` and `y` and equal units."""
    axes = figure.add_subplot(*position)
    axes.set(xlim=x, ylim=y, aspect='equal')
    axes.axis('off')
    return axes
