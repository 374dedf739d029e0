"""Write one self-contained HTML page about a run: ``python util_scripts.py report RUN``.

The page is made from the files of the run folder, any of which may be missing, and without Theano. ``page.html`` is the
template; each ``@@name@@`` in it is replaced, among them ``page.css`` and ``page.js``. The page's content security
policy forbids access to other files and hosts.
"""

import base64
import html
import io
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from common.class_names import list_classes, read_class_names
from common.console import format_time, progress
from common.errors import UserError
from common.files import atomic_write, open_input
from runs.facts import read_facts
from runs.folder import DONE_FILE, is_training
from runs.phases import Phase, find_phases, whole_run
from runs.records import (
    caption_of,
    finite_or_none,
    grid_type_of,
    is_finite,
    list_fakes,
    load_picture,
    read_results,
    read_stats,
    read_text,
    total_kimg_of,
)

MAX_PICTURES = 48               # If a run has more, the page shows evenly spaced ones.
PICTURE_BYTES = 14_000_000      # Limit of all pictures together; 19 MB in base64.
MAX_PICTURE_SIDE = 2048         # Pixels of a picture that is stored as a smaller JPEG.
JPEG_QUALITY = 85
TICK_COLUMNS = ('kimg', 'lod', 'seconds', 'Gloss', 'Dloss', 'Dreal', 'Dfake', 'Dgdrop')
STEP_SPEED = 'sec/kimg'         # Column that is computed from the ticks, without compile time.

PICTURE_CONTROLS = '''<div class="controls">
<button id="back" aria-label="earlier">&#9664;&#xFE0E;</button>
<input id="slider" type="range" min="0" max="%d" value="%d" aria-label="picture">
<button id="on" aria-label="later">&#9654;&#xFE0E;</button>
<button id="play">Play</button>
<button id="size" aria-pressed="false">Fill the page</button>
</div>'''


def write_report(run_dir: str, path: str | None = None,
                 better: Callable[[str], tuple[str, bool] | None] = lambda metric: None) -> str:
    """Write the page of a run.

    Parameters
    ----------
    run_dir : str
        Run folder; the training may still be running.
    path : str, optional
        Default: ``report.html`` in `run_dir`.
    better : callable
        Function from the name of a metric to (name of the value that decides which snapshot is best, whether lower is
        better), or None; see :func:`metrics.decision`.

    Returns
    -------
    str
        `path`.

    Raises
    ------
    UserError
        `run_dir` is not the folder of a training, or the file cannot be written.
    """
    path = path or os.path.join(run_dir, 'report.html')
    stats, fakes = read_stats(run_dir), list_fakes(run_dir)
    config = read_text(run_dir, 'config.txt')
    if not (stats or fakes or is_training(run_dir)):
        raise UserError(f'{run_dir}: is not the folder of a training, it has no stats.jsonl, no fakesNNNNNN.png and no '
                        'config.txt with a dataset; give the folder of a training, for example results/000-digits')
    phases, metrics = find_phases(stats), read_metrics(run_dir)
    best = {title: find_best(entries, better(entries[0]['metric'])) for title, entries in metrics.items()}
    pictures, reals = embed_pictures(run_dir, fakes, stats)
    tables, curves, metric_curves = make_charts(stats, metrics, best)
    data = {'tables': tables, 'charts': curves + metric_curves, 'pictures': pictures,
            'spans': [{key: getattr(phase, key) for key in ('begin', 'end', 'name', 'fading')} for phase in phases]}
    sections = [
        section('Pictures', picture_section(pictures, reals, len(fakes), class_line(run_dir, config))),
        section('Curves', f'<div class="charts">{chart_figures(curves, 0)}</div>' if stats else
                '<p>No status line has been written yet.</p>'),
        section('Timing', timing_section(phases)),
        section('Metrics', metric_section(run_dir, metrics, best, chart_figures(metric_curves, len(curves)))),
        section('Configuration', file_blocks({'config.txt': config, 'run.txt': read_text(run_dir, 'run.txt')})),
    ]
    page = fill(_read_part('html'), title=html.escape(os.path.basename(os.path.abspath(run_dir))),
                summary=summary(run_dir, stats, config, best), sections=''.join(sections), style=_read_part('css'),
                script=_read_part('js'), data=json_for_script(data), written=time.strftime('%Y-%m-%d %H:%M:%S'))
    with atomic_write(path, 'w', encoding='utf-8', errors='replace') as page_file:
        page_file.write(page)
    print(f'Wrote {path} ({os.path.getsize(path) / 1e6:.1f} MB)')
    return path


# ----------------------------------------------------------------------------------------------------------------------
# Metrics.


def read_metrics(run_dir: str) -> dict[str, list[dict]]:
    """{title: entries} of ``metrics.jsonl``, the entries in the order of training."""
    groups: dict[tuple, list[dict]] = {}
    for entry in read_results(run_dir):
        groups.setdefault((entry['metric'], entry['num_images'], entry.get('random_seed')), []).append(entry)
    names = [metric for metric, _num_images, _seed in groups]
    titles = {}
    for (metric, num_images, seed), entries in groups.items():
        title = f'{metric}, {num_images} images' if num_images else metric
        if names.count(metric) > 1:
            title += f', seed {seed}'
        titles[title] = sorted(entries, key=lambda entry: (
            entry['kimg'] if is_finite(entry.get('kimg')) else math.inf, entry.get('snapshot') == 'network-final'))
    return titles


class Best(NamedTuple):
    """The best snapshot by a metric."""

    entry: dict         # Its entry in ``metrics.jsonl``.
    name: str           # Name of the value that decides.
    of: int             # Number of snapshots compared.


def find_best(entries: list[dict], decision: tuple[str, bool] | None) -> Best | None:
    """The best entry of a metric. `decision`: (name of the value that decides, whether lower is better), or None."""
    if decision is None:
        return None
    name, lower_is_better = decision
    sign = 1 if lower_is_better else -1
    finite = [entry for entry in entries if is_finite(entry['values'].get(name))]
    if not finite:
        return None
    return Best(min(finite, key=lambda entry: sign * entry['values'][name]), name, len(entries))


def metric_columns(entries: list[dict]) -> dict[str, list]:
    """{'kimg', 'seconds' and names of values: column}, from the entries that have a kimg."""
    entries = [entry for entry in entries if is_finite(entry.get('kimg'))]
    table = {key: [finite_or_none(entry.get(key)) for entry in entries] for key in ('kimg', 'seconds')}
    for name in dict.fromkeys(name for entry in entries for name in entry['values']):
        table[name] = [finite_or_none(entry['values'].get(name)) for entry in entries]
    return table


# ----------------------------------------------------------------------------------------------------------------------
# Pictures.


def embed_pictures(run_dir: str, fakes: list[tuple[int, str]], stats: list[dict]) -> tuple[list[dict], str | None]:
    """([{'src', 'kimg', 'caption'}], src of the reals or None). Files that are not pictures are left out."""
    if len(fakes) > MAX_PICTURES:
        fakes = [fakes[index] for index in np.linspace(0, len(fakes) - 1, MAX_PICTURES).round().astype(int)]
    max_bytes = PICTURE_BYTES // (len(fakes) + 1)
    pictures = []
    for kimg, path in progress(fakes, 'Pictures', unit='pictures'):
        source = embed_picture(path, max_bytes)
        if source:
            pictures.append({'src': source, 'kimg': kimg, 'caption': caption_of(kimg, stats)})
    return pictures, embed_picture(os.path.join(run_dir, 'reals.png'), max_bytes)


def embed_picture(path: str, max_bytes: int) -> str | None:
    """A data URI of a PNG file; a smaller JPEG if the file exceeds `max_bytes`; None if it is not a picture."""
    try:
        with open_input(path) as file:
            content = file.read()
    except OSError:
        return None
    image = load_picture(io.BytesIO(content))
    if image is None:
        return None
    if image.format == 'PNG' and len(content) <= max_bytes:
        return data_uri('png', content)
    picture = image.convert('L' if image.mode == 'L' else 'RGB')
    side = min(MAX_PICTURE_SIDE, max(picture.size))
    while True:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, 'JPEG', quality=JPEG_QUALITY)
        if buffer.tell() <= max_bytes or side <= 64:
            return data_uri('jpeg', buffer.getvalue())
        side = side * 4 // 5


def data_uri(kind: str, content: bytes) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode("ascii")}'


# ----------------------------------------------------------------------------------------------------------------------
# The page.


def _read_part(kind):
    """The text of ``page.html``, ``page.css`` or ``page.js``."""
    return pathlib.Path(__file__).with_suffix('.' + kind).read_text(encoding='utf-8')


def fill(template: str, **values: str) -> str:
    """Replace each ``@@name@@`` of a template once; names inside of values are not replaced."""
    return re.sub('@@([a-z]+)@@', lambda match: values[match[1]], template)


def json_for_script(data: Any) -> str:
    """JSON that is safe inside a script element. Floats have six digits; those that are not finite become null."""
    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, float):
            return float(f'{value:.6g}') if math.isfinite(value) else None
        return value

    text = json.dumps(plain(data), allow_nan=False, separators=(',', ':'))
    return text.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


def chart(title: str, table: str, series: list[str], log: bool = False, note: str = '',
          best: dict | None = None) -> dict[str, Any]:
    """Data of a chart for the script: the columns `series` of `table` over kimg, and the best value."""
    return {'title': title, 'table': table, 'series': series, 'log': log, 'note': note, 'best': best}


def make_charts(stats: list[dict], metrics: dict[str, list[dict]],
                best: dict[str, Best | None]) -> tuple[dict[str, dict], list[dict], list[dict]]:
    """(tables, charts of the status lines, charts of metrics). A table is {name: column}.

    Metrics of a single snapshot get no chart. `best` has the best entry of each of `metrics`.
    """
    tables = {'ticks': {name: [tick.get(name) for tick in stats] for name in TICK_COLUMNS}}
    tables['ticks'][STEP_SPEED] = [step_speed(tick) for tick in stats]
    curves = [chart('Losses', 'ticks', ['Gloss', 'Dloss'], note='of the generator and the discriminator'),
              chart('Scores of the discriminator', 'ticks', ['Dreal', 'Dfake'],
                    note='with WGAN-GP Dreal is 0 and Dfake is fake minus real'),
              chart('Seconds per thousand images', 'ticks', [STEP_SPEED], log=True, note='without compiling')]
    if any(tables['ticks']['Dgdrop']):
        curves.append(chart('Strength of GDrop', 'ticks', ['Dgdrop']))
    metric_curves = []
    for title, entries in metrics.items():
        table = metric_columns(entries)
        if len(table['kimg']) > 1:
            name = f'metric {len(tables)}'
            tables[name] = table
            metric_curves.append(chart(title, name, distinct_series(table), **best_point(best[title])))
    return tables, curves if stats else [], metric_curves


def step_speed(tick: dict) -> float | None:
    """Seconds per thousand images of a tick, without compile time."""
    if 'sec_per_kimg' not in tick:
        return None
    share = tick.get('compile_seconds', 0) / tick['sec_per_tick'] if tick.get('sec_per_tick', 0) > 0 else 0
    return tick['sec_per_kimg'] * max(1 - share, 0)


def distinct_series(table: dict[str, list]) -> list[str]:
    """Names of a metric's columns. Of equal columns, such as one level and their average, only the last one."""
    names = [name for name in table if name not in ('kimg', 'seconds')]
    return [name for index, name in enumerate(names) if all(table[name] != table[later] for later in names[index + 1:])]


def best_point(found: Best | None) -> dict[str, Any]:
    """The arguments `best` and `note` of :func:`chart` for the best snapshot."""
    if found is None or not is_finite(found.entry.get('kimg')):
        return {}
    return {'best': {'kimg': found.entry['kimg'], 'series': found.name},
            'note': f'best {found.name}: {found.entry.get("snapshot", "snapshot")}'}


def chart_figures(charts: list[dict], first_index: int) -> str:
    """HTML figures into which the script draws charts."""
    return ''.join('<figure class="chart" data-chart="%d"><figcaption>%s <small>%s</small></figcaption></figure>' % (
        index, html.escape(item['title']), html.escape(item['note'])) for index, item in enumerate(charts, first_index))


def section(title: str, content: str) -> str:
    return f'<section id="{title.lower()}"><h2>{title}</h2>{content}</section>\n' if content else ''


def html_table(head: Sequence, rows: Iterable[Sequence], foot: Sequence | None = None) -> str:
    """An HTML table of texts; the first column has headings.

    On narrow screens each row becomes a block, so each cell has the heading of its column as an attribute.
    """
    def row(cells):
        first, *others = (html.escape(str(cell)) for cell in cells)
        return f'<tr><th scope="row">{first}</th>' + ''.join(
            f'<td data-name="{html.escape(str(name))}">{cell}</td>'
            for name, cell in zip(head[1:], others, strict=True)) + '</tr>'

    return '<div class="wide"><table><thead><tr>%s</tr></thead><tbody>%s</tbody>%s</table></div>' % (
        ''.join(f'<th scope="col">{html.escape(str(name))}</th>' for name in head), ''.join(map(row, rows)),
        f'<tfoot>{row(foot)}</tfoot>' if foot else '')


def file_blocks(texts: dict[str, str]) -> str:
    """HTML blocks of {name: text}; empty texts are left out."""
    return ''.join(f'<h3>{html.escape(name)}</h3><pre>{html.escape(text.rstrip())}</pre>'
                   for name, text in texts.items() if text.strip())


def summary(run_dir: str, stats: list[dict], config: str, best: dict[str, Best | None]) -> str:
    """HTML of the run's state in one line, its latest numbers, and its :func:`read_facts`."""
    if os.path.exists(os.path.join(run_dir, DONE_FILE)):
        state = 'Finished.'
    elif stats:
        modified = time.localtime(os.path.getmtime(os.path.join(run_dir, 'stats.jsonl')))
        state = f'Not finished; last status line {time.strftime("%Y-%m-%d %H:%M", modified)}.'
    else:
        state = 'Not finished.'
    last, total = stats[-1] if stats else {}, total_kimg_of(config)
    tiles = []
    if stats:
        tiles.append(('kimg', f'{last["kimg"]:.1f}' + (f' of {total:g}' if total else '')))
    if 'resolution' in last:
        tiles.append(('resolution', f'{last["resolution"]}x{last["resolution"]}'))
    if 'lod' in last:
        tiles.append(('lod', f'{last["lod"]:.2f}'))
    if 'seconds' in last:
        tiles.append(('time', format_time(last['seconds'])))
    for title, found in best.items():
        if found and is_finite(found.entry.get('kimg')):
            value, kimg = metric_value(found.entry['values'].get(found.name)), found.entry['kimg']
            tiles.append((f'best {title}' if found.of > 1 else title, f'{value} at kimg {kimg:.1f}'))
    return '<p>%s</p><dl class="tiles">%s</dl><dl class="facts">%s</dl>' % (
        html.escape(state), pairs(tiles), pairs(read_facts(run_dir).items()))


def pairs(facts: Iterable[tuple[str, str]]) -> str:
    """HTML of (name, value) pairs."""
    return ''.join(f'<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>' for name, value in facts)


def class_line(run_dir: str, config: str) -> str:
    """A line with the class names of the run and their arrangement in its pictures; '' if they are unknown."""
    names = read_class_names(run_dir)
    if not names:
        return ''
    arrangement = {'category': 'one column each', 'category-rows': 'one row each'}.get(grid_type_of(config) or '')
    are_numbers = names == [str(number) for number in range(len(names))]
    listed = f'0 to {len(names) - 1}' if are_numbers else list_classes(names, len(names))
    return f'Classes{f", {arrangement}" if arrangement else ""}: {listed}'


def picture_section(pictures: list[dict], reals: str | None, num_fakes: int, classes: str = '') -> str:
    if not pictures and not reals:
        return '<p>No picture has been written yet.</p>'
    figures, controls = '', ''
    if pictures:
        figures += '<figure><img id="fakes" alt="generated images"><figcaption id="caption"></figcaption></figure>'
        controls = PICTURE_CONTROLS % (len(pictures) - 1, len(pictures) - 1)
        if len(pictures) < num_fakes:
            controls += f'<p><small>{len(pictures)} of {num_fakes} pictures.</small></p>'
    if reals:
        figures += f'<figure><img id="reals" alt="real images" src="{reals}"><figcaption>reals</figcaption></figure>'
    note = f'<p><small>{html.escape(classes)}</small></p>' if classes else ''
    return controls + f'<div class="pictures">{figures}</div>{note}'


def digits(value: float | None) -> str:
    """Format a number with three significant digits and no exponent."""
    if not value:
        return '-' if value is None else '0'
    return '%.*f' % (0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3, value)


TIMING_COLUMNS: dict[str, Callable[[Phase], object]] = {       # {heading: function from a phase to the cell's value}
    'kimg': lambda phase: f'{phase.begin:g} - {phase.end:g}',
    'minibatch': lambda phase: '-' if phase.minibatch is None else phase.minibatch,
    'sec/kimg': lambda phase: digits(phase.sec_per_kimg),
    'compiling': lambda phase: duration(phase.compile_seconds),
    'metrics': lambda phase: duration(phase.metric_seconds),
    'time': lambda phase: duration(phase.seconds),
    'peak memory': lambda phase: '-' if phase.peak_memory_mb is None else f'{phase.peak_memory_mb / 1024:.1f} GB',
}


def timing_section(phases: list[Phase]) -> str:
    """HTML of bars and a table of the phases, with a row for the whole run; without metrics, their column is absent."""
    if not phases:
        return ''
    whole = whole_run(phases)
    columns = {name: cell for name, cell in TIMING_COLUMNS.items()
               if name != 'metrics' or whole.metric_seconds is not None}
    rows = [[phase.name, *(cell(phase) for cell in columns.values())] for phase in phases]
    foot = [whole.name, *('' if name == 'minibatch' else cell(whole) for name, cell in columns.items())]
    note = '<p><small>sec/kimg: seconds per thousand images, without compiling and metrics. time: everything ' \
           'included. peak memory: host memory of the process since its start. A phase ends with its last status ' \
           'line.</small></p>'
    return '<div class="charts">%s%s</div>%s%s' % (
        bars('sec/kimg', phases, [phase.sec_per_kimg for phase in phases], digits),
        bars('time', phases, [phase.seconds for phase in phases], duration),
        html_table(['phase', *columns], rows, foot), note)


def duration(seconds: float | None) -> str:
    return '-' if seconds is None else format_time(seconds)


def bars(title: str, phases: list[Phase], values: list[float | None], text: Callable[[float | None], str]) -> str:
    """HTML of horizontal bars, one per phase; `text` formats their values."""
    longest = max((value or 0 for value in values), default=0) or 1
    row = '<div class="bar%s"><span>%s</span><span><i style="width:%.2f%%"></i></span><span>%s</span></div>'
    rows = ''.join(row % (
        ' fading' if phase.fading else '', html.escape(phase.name), 100 * (value or 0) / longest,
        text(value)) for phase, value in zip(phases, values, strict=True))
    return f'<figure class="bars"><figcaption>{html.escape(title)}</figcaption>{rows}</figure>'


def metric_section(run_dir: str, metrics: dict[str, list[dict]], best: dict[str, Best | None], figures: str) -> str:
    """HTML tables of ``metrics.jsonl``, then the text files of metrics without entries there."""
    content = f'<div class="charts">{figures}</div>' if figures else ''
    for title, entries in metrics.items():
        marked = marked_entries(entries, best[title])
        names = distinct_series({name: [entry['values'].get(name) for entry in entries] for name in dict.fromkeys(
            name for entry in entries for name in entry['values'])})
        rows = [[f'{entry.get("snapshot", "-")}{" (best)" if entry in marked else ""}',
                 f'{entry["kimg"]:.1f}' if is_finite(entry.get('kimg')) else '-',
                 format_time(entry['seconds']) if is_finite(entry.get('seconds')) else '-',
                 *(metric_value(entry['values'].get(name)) for name in names)] for entry in entries]
        better = {name: end for entry in entries for name, end in entry.get('better', {}).items()}
        titles = [f'{name} ({better[name]} is better)' if name in better else name for name in names]
        content += f'<h3>{html.escape(title)}</h3>{html_table(["snapshot", "kimg", "time", *titles], rows)}'
    in_tables = {f'metric-{entries[0]["metric"]}.txt' for entries in metrics.values()}
    names = sorted(name for name in os.listdir(run_dir) if re.fullmatch(r'metric-.*\.txt', name))
    return content + file_blocks({name: read_text(run_dir, name) for name in names if name not in in_tables})


def marked_entries(entries: list[dict], found: Best | None) -> list[dict]:
    """The entries that the table marks as the best: `found` if there are several, else those the training marked."""
    if found is None:
        return [entry for entry in entries if entry.get('best') is True]
    return [found.entry] if found.of > 1 else []


def metric_value(value: Any) -> str:
    return f'{value:.4f}' if isinstance(value, (int, float)) else '-'
