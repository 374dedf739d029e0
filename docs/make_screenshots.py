"""The screenshots of the documentation, out of a run: ``python docs/make_screenshots.py results/000-digits``.

They are made as a user would make them: commands of this project are run, pages are opened in headless Chromium, and a
training begins in a real terminal of 80 columns. This takes Playwright (``pip install playwright``), Chromium
(``apt-get install chromium`` or ``playwright install --with-deps chromium``) and tmux (``apt-get install tmux``). The
results are PNG files of at most 200 kB in docs/images. A new page is one more line in `SCREENSHOTS`.
"""

import argparse
import ast
import contextlib
import html
import io
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_BYTES = 200_000
TERMINAL_COLUMNS, TERMINAL_ROWS = 80, 30
PAGE_MILLISECONDS = 3000    # A page makes its images meanwhile.
GAP = 24                    # Pixels between the screens of a phone.
COLOURS = ['#2e3436', '#cc4b4b', '#5fa84a', '#c4a000', '#5b8fd0', '#9b6fae', '#2fa3a8', '#d3d7cf',
           '#7a7f7c', '#ef6b6b', '#8ae234', '#fce94f', '#7fb0ea', '#c495c9', '#5ad8dd', '#ffffff']
TERMINAL_PAGE = '''<!DOCTYPE html><meta charset="utf-8"><style>
body { margin: 0; background: #1b1e23; }
pre { margin: 0; padding: 16px 20px; display: inline-block; color: #d8dce2;
  font: 15px/1.3 "DejaVu Sans Mono", Menlo, Consolas, "Liberation Mono", monospace; }
</style><pre>%s</pre>'''


class Material(NamedTuple):
    """What screenshots are made of."""

    run_dir: pathlib.Path
    h5_path: pathlib.Path       # The dataset of the run.
    folder: pathlib.Path        # For files on the way.
    seconds: float              # How long the training in the terminal goes on.
    browser: Any                # Playwright's.


# ----------------------------------------------------------------------------------------------------------------------
# Commands and pages.


def run_script(*arguments: object) -> None:
    """Run a script of this project; its errors are seen."""
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def report(material: Material) -> Iterator[str]:
    """The address of the page of the run."""
    path = material.folder / 'report.html'
    if not path.exists():
        run_script('util_scripts.py', 'report', material.run_dir, '--out', path)
    yield path.as_uri()


@contextlib.contextmanager
def explorer(material: Material) -> Iterator[str]:
    """The address of the page to explore the run with."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    command = [sys.executable, 'util_scripts.py', 'explore', str(material.run_dir), '--no-browser', '--port', str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as server:
        try:
            address = f'http://127.0.0.1:{port}/'
            for _attempt in range(120):
                with contextlib.suppress(OSError), urllib.request.urlopen(address):
                    break
                time.sleep(0.5)
            yield address
        finally:
            server.terminate()


def screens(material: Material, page_of: Callable, width: int, height: int, places: tuple[str, ...]) -> Image.Image:
    """A page as a browser shows it, at several places of it side by side.

    Parameters
    ----------
    material : Material
    page_of : callable
        Context manager: function of `material` whose value is the page's address, which is there meanwhile.
    width, height : int
        Of the screen.
    places : tuple of str
        CSS selectors of what is at the top of a screen. '': the top of the page.
    """
    pictures = []
    with page_of(material) as address, contextlib.closing(material.browser.new_page(
            viewport={'width': width, 'height': height})) as page:
        page.goto(address)
        page.wait_for_load_state('networkidle')
        for place in places:
            page.evaluate('place => place ? document.querySelector(place).scrollIntoView() : scrollTo(0, 0)', place)
            page.wait_for_timeout(PAGE_MILLISECONDS)
            pictures.append(Image.open(io.BytesIO(page.screenshot()), formats=('PNG',)).convert('RGB'))
    canvas = Image.new('RGB', (len(pictures) * (width + GAP) - GAP, height), (208, 212, 218))
    for number, picture in enumerate(pictures):
        canvas.paste(picture, (number * (width + GAP), 0))
    return canvas


def sheet(material: Material) -> Image.Image:
    """Images of the dataset."""
    path = material.folder / 'sheet.png'
    run_script('dataset_tool.py', 'inspect', material.h5_path, '--sheet', path)
    return Image.open(path, formats=('PNG',))


def grid(material: Material) -> Image.Image:
    """Images of the run, one row a class if there are classes."""
    config = read_config(material.run_dir)
    by_class = (material.run_dir / 'class-names.json').exists() and config['dataset'].get('max_labels') != 0
    num = len(json.loads((material.run_dir / 'class-names.json').read_text(encoding='utf-8'))) if by_class else 8
    run_script('util_scripts.py', 'generate_fake_images', material.run_dir, '--out', material.folder,
               '--grid-size', f'10x{num}', *(['--classes', f'0-{num - 1}'] if by_class else []))
    return Image.open(material.folder / 'grid000.png', formats=('PNG',))


# ----------------------------------------------------------------------------------------------------------------------
# The terminal.


def terminal(material: Material) -> Image.Image:
    """A training that has gone on for some time in a terminal."""
    for name in ('train.py', 'datasets'):
        if (ROOT / name).exists():
            (material.folder / name).symlink_to(ROOT / name)
    path = material.folder / 'terminal.html'
    path.write_text(TERMINAL_PAGE % as_html(in_terminal('python train.py', material.folder, material.seconds)),
                    encoding='utf-8')
    with contextlib.closing(material.browser.new_page()) as page:
        page.goto(path.as_uri())
        return Image.open(io.BytesIO(page.locator('pre').screenshot()), formats=('PNG',))


def in_terminal(command: str, folder: pathlib.Path, seconds: float) -> str:
    """What a terminal shows when a command has run for some time, with escape sequences of colours; then Ctrl-C."""
    tmux = ['tmux', '-L', f'screenshots-{os.getpid()}', '-f', os.devnull]
    environment = {**os.environ, 'PS1': '$ ', 'PATH': os.path.dirname(sys.executable) + os.pathsep
                   + os.environ.get('PATH', os.defpath), 'TERM': 'xterm-256color', 'LC_ALL': 'C.UTF-8'}
    subprocess.run([*tmux, '-u', 'new-session', '-d', '-x', str(TERMINAL_COLUMNS), '-y', str(TERMINAL_ROWS), '-c',
                    str(folder), 'bash --noprofile --norc'], env=environment, check=True)
    try:
        subprocess.run([*tmux, 'set', '-g', 'status', 'off'], check=True)
        subprocess.run([*tmux, 'resize-window', '-x', str(TERMINAL_COLUMNS), '-y', str(TERMINAL_ROWS)], check=True)
        subprocess.run([*tmux, 'send-keys', command, 'Enter'], check=True)
        for _second in tqdm(range(int(seconds)), desc='Terminal', unit='s', leave=False):
            time.sleep(1)
        shown = subprocess.run([*tmux, 'capture-pane', '-e', '-p'], check=True, stdout=subprocess.PIPE).stdout
        subprocess.run([*tmux, 'send-keys', 'C-c'], check=True)
        time.sleep(10)      # It saves its state.
    finally:
        subprocess.run([*tmux, 'kill-server'], check=False)
    return shown.decode('utf-8', 'replace').rstrip('\n')


def as_html(text: str) -> str:
    """Text with escape sequences of colours (ECMA-48 SGR) as HTML; other escape sequences are left out."""
    parts: list[str] = []
    style: dict[str, str] = {}
    for piece in re.split(r'(\x1b\[[0-9;]*[A-Za-z])', text):
        if not piece.startswith('\x1b['):
            css = ';'.join(f'{name}:{value}' for name, value in style.items())
            plain = html.escape(re.sub('[\x00-\x08\x0b-\x1f]', '', piece))
            parts.append(f'<span style="{css}">{plain}</span>' if css and plain else plain)
        elif piece.endswith('m'):
            style = with_codes(style, [int(code or 0) for code in piece[2:-1].split(';')])
    return ''.join(parts)


def with_codes(style: dict[str, str], codes: list[int]) -> dict[str, str]:
    """CSS properties after some codes of SGR."""
    style = dict(style)
    while codes:
        code = codes.pop(0)
        if code == 0:
            style.clear()
        elif code in (1, 2):
            style.update({'font-weight': 'bold'} if code == 1 else {'opacity': '0.65'})
        elif code == 22:
            style.pop('font-weight', None)
            style.pop('opacity', None)
        elif code in (38, 48) and codes[:1] in ([5], [2]):
            name, kind = 'color' if code == 38 else 'background', codes.pop(0)
            style[name] = colour_256(codes.pop(0)) if kind == 5 else 'rgb(%d,%d,%d)' % tuple(
                codes.pop(0) for _channel in range(3))
        elif code in (39, 49):
            style.pop('color' if code == 39 else 'background', None)
        elif code % 10 < 8 and code // 10 in (3, 4, 9, 10):
            style['color' if code // 10 in (3, 9) else 'background'] = COLOURS[code % 10 + 8 * (code >= 90)]
    return style


def colour_256(number: int) -> str:
    """A colour of the table of 256: 16 colours, a cube, levels of grey."""
    if number < 16:
        return COLOURS[number]
    if number >= 232:
        return 'rgb({0},{0},{0})'.format(8 + 10 * (number - 232))
    levels = [0, 95, 135, 175, 215, 255]
    return 'rgb(%d,%d,%d)' % tuple(levels[(number - 16) // step % 6] for step in (36, 6, 1))


# ----------------------------------------------------------------------------------------------------------------------
# All of them.

# {name: function of Material}. For a page: what serves it, width and height of the screen, places in the page.
SCREENSHOTS: dict[str, Callable[[Material], Image.Image]] = {
    'report-1400': lambda material: screens(material, report, 1400, 1900, ('',)),
    'report-390': lambda material: screens(material, report, 390, 844, ('', '#curves', '#timing')),
    'explore-1400': lambda material: screens(material, explorer, 1400, 950, ('',)),
    'explore-390': lambda material: screens(material, explorer, 390, 844, ('', '#tray')),
    'terminal': terminal,
    'sheet': sheet,
    'grid': grid,
}


def read_config(run_dir: pathlib.Path) -> dict:
    """The experiment of a run."""
    return ast.literal_eval((run_dir / 'config.txt').read_text(encoding='utf-8'))


def save_small(picture: Image.Image, path: pathlib.Path) -> int:
    """Write a PNG of at most `MAX_BYTES`, with fewer colours or smaller if it has to be; return its size."""
    picture = picture.convert('L' if picture.mode == 'L' else 'RGB')
    for colours, scale in ((None, 1), (256, 1), (128, 1), (64, 1), (256, 0.7), (128, 0.5)):
        small = picture if scale == 1 else picture.resize([round(length * scale) for length in picture.size],
                                                          Image.Resampling.LANCZOS)
        if colours:
            small = small.quantize(colours, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        small.save(buffer, 'png', optimize=True)
        if buffer.tell() <= MAX_BYTES:
            break
    path.write_bytes(buffer.getvalue())
    return buffer.tell()


def main() -> None:
    """Make the screenshots that the command line asks for."""
    parser = argparse.ArgumentParser(description='Make the screenshots of the documentation.')
    parser.add_argument('run', type=pathlib.Path, metavar='RUN', help='folder of a training')
    parser.add_argument('--data', type=pathlib.Path, metavar='H5', help='default: the dataset of the run')
    parser.add_argument('--out', type=pathlib.Path, metavar='DIR', default=ROOT / 'docs' / 'images',
                        help='default: docs/images')
    parser.add_argument('--only', nargs='+', choices=SCREENSHOTS, metavar='NAME', default=list(SCREENSHOTS),
                        help=f'some of {", ".join(SCREENSHOTS)}')
    parser.add_argument('--seconds', type=float, default=90, metavar='S',
                        help='how long a training runs in the terminal; default: %(default)s')
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright
    run_dir = args.run.resolve()
    data = args.data or pathlib.Path(read_config(run_dir)['run']['data_set'])
    args.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
        browser = playwright.chromium.launch(executable_path=chromium)
        material = Material(run_dir, data.resolve(), pathlib.Path(folder), args.seconds, browser)
        for name in args.only:
            path = args.out / f'{name}.png'
            size = save_small(SCREENSHOTS[name](material), path)
            print(f'Wrote {path}, {size / 1000:.0f} kB')
        browser.close()


if __name__ == '__main__':
    main()
