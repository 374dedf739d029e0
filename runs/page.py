"""One self-contained HTML page to look at a run: ``python util_scripts.py report RUN``.

Needs nothing but the files of a run folder, any of which may be missing, and no Theano. ``page.html`` is the page,
``page.css`` and ``page.js`` are put into it: ``@@name@@`` is replaced. Its security policy forbids the page every
access to other files and hosts.
"""

import base64
import html
import io
import itertools
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from common.class_names import list_classes, read_class_names
from common.console import format_time, progress
from common.errors import UserError
from common.files import atomic_write, open_input
from runs.folder import DONE_FILE
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

MAX_PICTURES = 48               # A page shows at most so many, chosen evenly.
PICTURE_BYTES = 14_000_000      # Of all pictures together; base64 makes 19 MB of them.
MAX_PICTURE_SIDE = 2048         # Pixels of a picture that has to be scaled down.
JPEG_QUALITY = 85
TICK_COLUMNS = ('kimg', 'lod', 'seconds', 'Gloss', 'Dloss', 'Dreal', 'Dfake', 'Dgdrop', 'sec_per_kimg')

PICTURE_CONTROLS = '''<div class="controls">
<button id="back" aria-label="earlier">&#9664;&#xFE0E;</button>
<input id="slider" type="range" min="0" max="%d" value="%d" aria-label="picture">
<button id="on" aria-label="later">&#9654;&#xFE0E;</button>
<button id="play">Play</button>
<button id="size" aria-pressed="false">Larger</button>
</div>'''


def write_report(run_dir: str, path: str | None = None) -> str:
    """Write the page of a run.

    Parameters
    ----------
    run_dir : str
        Run folder; the run may be going on.
    path : str, optional
        Default: ``report.html`` in `run_dir`.

    Returns
    -------
    str
        `path`.

    Raises
    ------
    UserError
        There is nothing of a run in the folder, or the file cannot be written.
    """
    path = path or os.path.join(run_dir, 'report.html')
    stats, fakes = read_stats(run_dir), list_fakes(run_dir)
    config = read_text(run_dir, 'config.txt')
    if not (stats or fakes or config):
        raise UserError(f'{run_dir}: has no stats.jsonl, config.txt or fakesNNNNNN.png; give a run folder, for '
                        'example results/000-digits')
    phases, metrics = find_phases(stats), read_metrics(run_dir)
    pictures, reals = embed_pictures(run_dir, fakes, stats)
    tables, curves, metric_curves = make_charts(stats, metrics)
    data = {'tables': tables, 'charts': curves + metric_curves, 'pictures': pictures,
            'spans': [{key: getattr(phase, key) for key in ('begin', 'end', 'name', 'fading')} for phase in phases]}
    sections = [
        section('Pictures', picture_section(pictures, reals, len(fakes), class_line(run_dir, config))),
        section('Curves', f'<div class="charts">{chart_figures(curves, 0)}</div>' if stats else
                '<p>No status line has been written yet.</p>'),
        section('Timing', timing_section(phases)),
        section('Metrics', metric_section(run_dir, metrics, chart_figures(metric_curves, len(curves)))),
        section('Configuration', file_blocks({'config.txt': config, 'run.txt': read_text(run_dir, 'run.txt')})),
    ]
    page = fill(_read_part('html'), title=html.escape(os.path.basename(os.path.abspath(run_dir))),
                summary=summary(run_dir, stats, config), sections=''.join(sections), style=_read_part('css'),
                script=_read_part('js'), data=json_for_script(data), written=time.strftime('%Y-%m-%d %H:%M:%S'))
    with atomic_write(path, 'w', encoding='utf-8', errors='replace') as page_file:
        page_file.write(page)
    print(f'Wrote {path} ({os.path.getsize(path) / 1e6:.1f} MB)')
    return path


# ----------------------------------------------------------------------------------------------------------------------
# The content of a run folder.


class Phase(NamedTuple):
    """Time and memory of a part of a training. None: unknown. A phase ends with its last tick."""

    name: str
    fading: bool                        # Whether layers were fading in.
    begin: float                        # kimg.
    end: float
    minibatch: float | None
    seconds: float | None
    compile_seconds: float | None       # Part of `seconds`.
    sec_per_kimg: float | None          # Without compiling.
    peak_memory_mb: float | None        # Of the process until then.


def find_phases(stats: list[dict]) -> list[Phase]:
    """The phases of a training in their order: one per resolution, and one for fading it in."""
    def phase_of(tick):
        return tick.get('resolution'), tick.get('lod', 0) % 1 > 0

    def total(ticks, name):
        return sum(tick[name] for tick in ticks if name in tick) if any(name in tick for tick in ticks) else None

    phases: list[Phase] = []
    for (resolution, fading), group in itertools.groupby(stats, phase_of):
        ticks = list(group)
        begin, end = phases[-1].end if phases else first_kimg(stats), ticks[-1]['kimg']
        seconds, compile_seconds = total(ticks, 'sec_per_tick'), total(ticks, 'compile_seconds')
        phases.append(Phase(
            name=(f'{resolution}x{resolution}' if resolution else '?') + (' fading in' if fading else ''),
            fading=fading, begin=begin, end=end,
            minibatch=min((tick['minibatch'] for tick in ticks if 'minibatch' in tick), default=None),
            seconds=seconds, compile_seconds=compile_seconds,
            sec_per_kimg=max(seconds - (compile_seconds or 0), 0) / (end - begin)
            if seconds is not None and end > begin else None,
            peak_memory_mb=max((tick['peak_memory_mb'] for tick in ticks if 'peak_memory_mb' in tick), default=None)))
    return phases


def first_kimg(stats: list[dict]) -> float:
    """The kimg at which the first tick began: a resumed run does not begin at 0."""
    tick = stats[0]
    if tick.get('sec_per_kimg', 0) > 0 and 'sec_per_tick' in tick:
        return max(round(tick['kimg'] - tick['sec_per_tick'] / tick['sec_per_kimg'], 3), 0)
    return 0


def read_metrics(run_dir: str) -> dict[str, list[dict]]:
    """{title: entries} of ``metrics.jsonl``, what `evaluate_metrics` writes; the entries in the order of training."""
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


def metric_columns(entries: list[dict]) -> dict[str, list]:
    """{'kimg', 'seconds' and names of numbers: values} of those entries that know their kimg."""
    entries = [entry for entry in entries if is_finite(entry.get('kimg'))]
    table = {key: [finite_or_none(entry.get(key)) for entry in entries] for key in ('kimg', 'seconds')}
    for name in dict.fromkeys(name for entry in entries for name in entry['values']):
        table[name] = [finite_or_none(entry['values'].get(name)) for entry in entries]
    return table


# ----------------------------------------------------------------------------------------------------------------------
# Pictures.


def embed_pictures(run_dir: str, fakes: list[tuple[int, str]], stats: list[dict]) -> tuple[list[dict], str | None]:
    """([{'src', 'kimg', 'caption'}], src of the reals or None); files that are not pictures are passed over."""
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
    """A data URI of a PNG file, as a smaller JPEG if it has more than `max_bytes`; None if it is no picture."""
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
    """``page.html``, ``page.css`` or ``page.js``."""
    return pathlib.Path(__file__).with_suffix('.' + kind).read_text(encoding='utf-8')


def fill(template: str, **values: str) -> str:
    """`template` with each ``@@name@@`` replaced; what looks like one in a value stays."""
    return re.sub('@@([a-z]+)@@', lambda match: values[match[1]], template)


def json_for_script(data: Any) -> str:
    """JSON that cannot end the script element that holds it; numbers with six digits, those not finite are null."""
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


def chart(title: str, table: str, series: list[str], log: bool = False, note: str = '') -> dict[str, Any]:
    """Data from which the script draws a chart: some columns of a table over kimg."""
    return {'title': title, 'table': table, 'series': series, 'log': log, 'note': note}


def make_charts(stats: list[dict], metrics: dict[str, list[dict]]) -> tuple[dict[str, dict], list[dict], list[dict]]:
    """(tables, charts of the status lines, charts of the metrics with several snapshots); a table is {name: column}."""
    tables = {'ticks': {name: [tick.get(name) for tick in stats] for name in TICK_COLUMNS}}
    curves = [chart('Losses', 'ticks', ['Gloss', 'Dloss']),
              chart('Scores of the discriminator', 'ticks', ['Dreal', 'Dfake'],
                    note='with WGAN-GP Dreal is 0 and Dfake is fake minus real'),
              chart('sec/kimg', 'ticks', ['sec_per_kimg'], log=True, note='compiling included')]
    if any(tables['ticks']['Dgdrop']):
        curves.append(chart('Strength of GDrop', 'ticks', ['Dgdrop']))
    metric_curves = []
    for title, entries in metrics.items():
        table = metric_columns(entries)
        if len(table['kimg']) > 1:
            name = f'metric {len(tables)}'
            tables[name] = table
            metric_curves.append(chart(title, name, [key for key in table if key not in ('kimg', 'seconds')]))
    return tables, curves if stats else [], metric_curves


def chart_figures(charts: list[dict], first_index: int) -> str:
    """HTML of the places into which the script draws."""
    return ''.join('<figure class="chart" data-chart="%d"><figcaption>%s <small>%s</small></figcaption></figure>' % (
        index, html.escape(item['title']), html.escape(item['note'])) for index, item in enumerate(charts, first_index))


def section(title: str, content: str) -> str:
    return f'<section id="{title.lower()}"><h2>{title}</h2>{content}</section>\n' if content else ''


def html_table(head: Sequence, rows: Iterable[Sequence], foot: Sequence | None = None) -> str:
    """HTML of a table; cells are text, the first column is a heading."""
    def row(cells, tag):
        first = '<th scope="row">%s</th>' if tag == 'td' else '<th>%s</th>'
        return '<tr>%s</tr>' % ''.join((first if not index else '<%s>%%s</%s>' % (tag, tag)) % html.escape(str(cell))
                                       for index, cell in enumerate(cells))

    return '<div class="wide"><table><thead>%s</thead><tbody>%s</tbody>%s</table></div>' % (
        row(head, 'th'), ''.join(row(cells, 'td') for cells in rows),
        '<tfoot>%s</tfoot>' % row(foot, 'td') if foot else '')


def file_blocks(texts: dict[str, str]) -> str:
    """{name: text} as blocks; empty texts are left out."""
    return ''.join(f'<h3>{html.escape(name)}</h3><pre>{html.escape(text.rstrip())}</pre>'
                   for name, text in texts.items() if text.strip())


def summary(run_dir: str, stats: list[dict], config: str) -> str:
    """The run's state in a line, and its last numbers."""
    if os.path.exists(os.path.join(run_dir, DONE_FILE)):
        state = 'Finished.'
    elif stats:
        modified = time.localtime(os.path.getmtime(os.path.join(run_dir, 'stats.jsonl')))
        state = f'Not finished; last status line {time.strftime("%Y-%m-%d %H:%M", modified)}.'
    else:
        state = 'Not finished.'
    last, total = stats[-1] if stats else {}, total_kimg_of(config)
    facts = []
    if stats:
        facts.append(('kimg', f'{last["kimg"]:.1f}' + (f' of {total:g}' if total else '')))
    if 'resolution' in last:
        facts.append(('resolution', f'{last["resolution"]}x{last["resolution"]}'))
    if 'lod' in last:
        facts.append(('lod', f'{last["lod"]:.2f}'))
    if 'seconds' in last:
        facts.append(('time', format_time(last['seconds'])))
    if 'sec_per_kimg' in last:
        facts.append(('sec/kimg', digits(last['sec_per_kimg'])))
    return '<p>%s</p><dl>%s</dl>' % (html.escape(state), ''.join(
        '<div><dt>%s</dt><dd>%s</dd></div>' % (name, html.escape(value)) for name, value in facts))


def class_line(run_dir: str, config: str) -> str:
    """The names of the classes that the run was trained on, and how its pictures are arranged by them; '' without."""
    names = read_class_names(run_dir)
    if not names:
        return ''
    arrangement = {'category': 'one column each', 'category-rows': 'one row each'}.get(grid_type_of(config) or '')
    return f'Classes{f", {arrangement}" if arrangement else ""}: {list_classes(names, len(names))}'


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
    """Three significant digits, no exponent."""
    if not value:
        return '-' if value is None else '0'
    return '%.*f' % (0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3, value)


def timing_section(phases: list[Phase]) -> str:
    if not phases:
        return ''
    rows = []
    for phase in phases:
        rows.append([phase.name, f'{phase.begin:g} - {phase.end:g}',
                     '-' if phase.minibatch is None else f'{phase.minibatch}', *timing_cells(phase)])
    known = {name: [getattr(phase, name) for phase in phases if getattr(phase, name) is not None]
             for name in ('seconds', 'compile_seconds', 'peak_memory_mb')}
    begin, end = phases[0].begin, phases[-1].end
    seconds, compile_seconds = sum(known['seconds']), sum(known['compile_seconds'])
    whole = Phase('whole run', fading=False, begin=begin, end=end, minibatch=None, seconds=seconds,
                  compile_seconds=compile_seconds, peak_memory_mb=max(known['peak_memory_mb'], default=None),
                  sec_per_kimg=max(seconds - compile_seconds, 0) / (end - begin)
                  if known['seconds'] and end > begin else None)
    foot = [whole.name, f'{begin:g} - {end:g}', '', *timing_cells(whole)]
    head = ['phase', 'kimg', 'minibatch', 'sec/kimg', 'hours', 'compile seconds', 'peak memory']
    note = '<p><small>sec/kimg without compiling, hours with it. Peak memory is that of the process on the host, ' \
           'since its start. A phase ends with its last tick.</small></p>'
    return '<div class="charts">%s%s</div>%s%s' % (
        bars('sec/kimg', phases, [phase.sec_per_kimg for phase in phases], 1),
        bars('hours', phases, [phase.seconds for phase in phases], 3600),
        html_table(head, rows, foot), note)


def timing_cells(phase: Phase) -> list[str]:
    memory = phase.peak_memory_mb
    return [digits(phase.sec_per_kimg), hours(phase.seconds), digits(phase.compile_seconds),
            '-' if memory is None else f'{memory / 1024:.1f} GB']


def hours(seconds: float | None) -> str:
    return '-' if seconds is None else digits(seconds / 3600)


def bars(title: str, phases: list[Phase], values: list[float | None], unit: float) -> str:
    """HTML of horizontal bars, one per phase."""
    longest = max((value or 0 for value in values), default=0) or 1
    row = '<div class="bar%s"><span>%s</span><span><i style="width:%.2f%%"></i></span><span>%s</span></div>'
    rows = ''.join(row % (
        ' fading' if phase.fading else '', html.escape(phase.name), 100 * (value or 0) / longest,
        digits(None if value is None else value / unit)) for phase, value in zip(phases, values, strict=True))
    return f'<figure class="bars"><figcaption>{html.escape(title)}</figcaption>{rows}</figure>'


def metric_section(run_dir: str, metrics: dict[str, list[dict]], figures: str) -> str:
    """Tables of ``metrics.jsonl``, and of other metrics the text file."""
    content = f'<div class="charts">{figures}</div>' if figures else ''
    for title, entries in metrics.items():
        names = list(dict.fromkeys(name for entry in entries for name in entry['values']))
        rows = [[f'{entry.get("snapshot", "-")}{" (best)" if entry.get("best") is True else ""}',
                 f'{entry["kimg"]:.1f}' if is_finite(entry.get('kimg')) else '-',
                 format_time(entry['seconds']) if is_finite(entry.get('seconds')) else '-',
                 *(metric_value(entry['values'].get(name)) for name in names)] for entry in entries]
        content += f'<h3>{html.escape(title)}</h3>{html_table(["snapshot", "kimg", "time", *names], rows)}'
    in_tables = {f'metric-{entries[0]["metric"]}.txt' for entries in metrics.values()}
    names = sorted(name for name in os.listdir(run_dir) if re.fullmatch(r'metric-.*\.txt', name))
    return content + file_blocks({name: read_text(run_dir, name) for name in names if name not in in_tables})


def metric_value(value: Any) -> str:
    return f'{value:.4f}' if isinstance(value, (int, float)) else '-'
