"""runs/page.py: the contents of the page of a run; its look and behaviour in headless Chromium."""

import base64
import html.parser
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import metrics
import util_scripts
from common.class_names import write_class_names
from common.errors import UserError
from common.images import save_image
from runs import page as run_page
from runs.records import read_stats

EVIL = '</script><script>window.evil = 1</script><img src=x onerror="window.evil = 1">&amp;'
LEVELS = {0: 20, 2: 90, 4: 160, 6: 230}        # {kimg: gray level of the picture}


class Page(html.parser.HTMLParser):
    """Contents of a page: `data` of the script, `text`, `tables` (lists of rows of cells), `elements`, attributes."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.attributes, self.tables, self.texts, self.open, self.kind = [], [], [], {}, [], 'text'
        with open(path, encoding='utf-8') as file:
            self.source = file.read()
        self.feed(self.source)
        self.close()
        self.data = json.loads(self.texts['data'][0])
        self.text = '\n'.join(self.texts['text'])

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs
        self.kind = dict(attrs).get('id', tag) if tag == 'script' else tag if tag == 'style' else 'text'
        if tag == 'table':
            self.tables.append([])
        if tag == 'tr':
            self.tables[-1].append([])
        if tag in ('td', 'th'):
            self.tables[-1][-1].append('')
            self.open = self.tables[-1][-1]

    def handle_endtag(self, tag):
        self.open, self.kind = [], 'text'

    def handle_data(self, data):
        self.texts.setdefault(self.kind, []).append(data)
        if self.open:
            self.open[-1] += data


def tick(number, kimg, lod, **others):
    """A status line as from `train`, for a 16x16 run with ticks of 1 kimg."""
    return {'tick': number, 'kimg': kimg, 'lod': lod, 'resolution': 2 ** (4 - int(lod)), 'minibatch': 16,
            'seconds': 20.0 * number, 'sec_per_tick': 20.0, 'sec_per_kimg': 20.0, 'compile_seconds': 0.0,
            'peak_memory_mb': 512.0 * number, 'Dgdrop': 0.0, 'Gloss': 1.5 - number, 'Dloss': 0.25 * number,
            'Dreal': 0.0, 'Dfake': -number, **others}


TICKS = [tick(1, 1.0, 2.0, compile_seconds=4.0), tick(2, 2.0, 2.0), tick(3, 3.0, 1.5, compile_seconds=8.0),
         tick(4, 4.0, 1.0), tick(5, 5.0, 0.5, Dgdrop=0.125), tick(6, 6.0, 0.0)]


def write_stats(folder, lines, end=''):
    text = ''.join(line if isinstance(line, str) else json.dumps(line) + '\n' for line in lines)
    (folder / 'stats.jsonl').write_text(text + end, encoding='utf-8')


def write_picture(path, level, size=(20, 30)):
    save_image(np.full((1, *size), level, np.uint8), path, (0, 255))


def metric_line(name, kimg, snapshot=None, **values):
    """A line of metrics.jsonl as from `evaluate_metrics`."""
    return {'metric': name, 'snapshot': snapshot or f'network-snapshot-{int(kimg):06d}', 'kimg': kimg,
            'seconds': 20.0 * kimg, 'num_images': 64, 'random_seed': 1000, 'values': values,
            'evaluated': '2026-01-01 00:00:00'}


def write_metrics(folder, lines):
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines), encoding='utf-8')


@pytest.fixture
def run_dir(tmp_path):
    """A run with all kinds of files."""
    folder = tmp_path / '004-faces'
    folder.mkdir()
    write_stats(folder, TICKS)
    for kimg, level in LEVELS.items():
        write_picture(folder / f'fakes{kimg:06d}.png', level)
    write_picture(folder / 'reals.png', 128)
    write_metrics(folder, [metric_line('swd', 2.0, avg=9.5, level16=8.0), metric_line('fid', 4.0, FID=33.25),
                           metric_line('swd', 6.0, 'network-final', avg=float('nan'), level16=4.0)])
    (folder / 'metric-swd.txt').write_text('the same as in metrics.jsonl', encoding='utf-8')
    (folder / 'metric-digits.txt').write_text('digits: 99.6 %\n', encoding='utf-8')
    (folder / 'config.txt').write_text("{'desc': 'faces', 'dataset': {'h5_path': 'faces.h5'}, "
                                       "'train': {'total_kimg': 12}}\n", encoding='utf-8')
    (folder / 'run.txt').write_text('command: train.py\n', encoding='utf-8')
    return folder


# ----------------------------------------------------------------------------------------------------------------------
# Contents.


@pytest.mark.parametrize('grid_type, text', [('category', 'Classes, one column each: 0 <i>cat</i>, 1 dog'),
                                             ('default', 'Classes: 0 <i>cat</i>, 1 dog')])
def test_names_of_classes(grid_type, text, run_dir):
    assert 'Classes' not in Page(run_page.write_report(run_dir)).text
    write_class_names(run_dir, ['<i>cat</i>', 'dog'])
    (run_dir / 'config.txt').write_text(f"{{'train': {{'image_grid_type': '{grid_type}'}}}}", encoding='utf-8')
    assert text in Page(run_page.write_report(run_dir)).text


def test_the_good_end_of_a_number_is_told(run_dir):
    write_metrics(run_dir, [{**metric_line('precision_recall', 2.0, precision=0.5, recall=0.25, spread=0.1),
                             'better': {'precision': 'higher', 'recall': 'higher'}}])
    assert Page(run_page.write_report(run_dir)).tables[1][0][3:] == [
        'precision (higher is better)', 'recall (higher is better)', 'spread']


def test_numbers_of_a_run(run_dir):
    path = run_page.write_report(run_dir)
    assert path == os.path.join(run_dir, 'report.html')
    page = Page(path)
    ticks = page.data['tables']['ticks']
    for name in run_page.TICK_COLUMNS:
        assert ticks[name] == [line[name] for line in TICKS]
    assert ticks['sec/kimg'] == [16, 20, 12, 20, 20, 20]        # Without compiling.
    shown = {chart['title']: chart['series'] for chart in page.data['charts']}
    assert shown == {'Losses': ['Gloss', 'Dloss'], 'Scores of the discriminator': ['Dreal', 'Dfake'],
                     'Seconds per thousand images': ['sec/kimg'], 'Strength of GDrop': ['Dgdrop'],
                     'swd, 64 images': ['avg', 'level16']}         # FID has one snapshot: no curve.
    assert page.data['tables'][page.data['charts'][-1]['table']] == {
        'kimg': [2, 6], 'seconds': [40, 120], 'avg': [9.5, None], 'level16': [8, 4]}
    assert [(span['begin'], span['end'], span['name'], span['fading']) for span in page.data['spans']] == [
        (0, 2, '4x4', False), (2, 3, '8x8 fading in', True), (3, 4, '8x8', False), (4, 5, '16x16 fading in', True),
        (5, 6, '16x16', False)]
    assert page.tables[0] == [
        ['phase', 'kimg', 'minibatch', 'sec/kimg', 'compiling', 'time', 'peak memory'],
        ['4x4', '0 - 2', '16', '18.0', '4s', '40s', '1.0 GB'],        # (40 s - 4 s) / 2 kimg.
        ['8x8 fading in', '2 - 3', '16', '12.0', '8s', '20s', '1.5 GB'],
        ['8x8', '3 - 4', '16', '20.0', '0s', '20s', '2.0 GB'],
        ['16x16 fading in', '4 - 5', '16', '20.0', '0s', '20s', '2.5 GB'],
        ['16x16', '5 - 6', '16', '20.0', '0s', '20s', '3.0 GB'],
        ['whole run', '0 - 6', '', '18.0', '12s', '2m 00s', '3.0 GB']]
    assert page.tables[1:] == [
        [['snapshot', 'kimg', 'time', 'avg', 'level16'], ['network-snapshot-000002', '2.0', '40s', '9.5000', '8.0000'],
         ['network-final', '6.0', '2m 00s', 'nan', '4.0000']],
        [['snapshot', 'kimg', 'time', 'FID'], ['network-snapshot-000004', '4.0', '1m 20s', '33.2500']]]
    for text in ('004-faces', '6.0 of 12', '2m 00s', "'total_kimg': 12", 'command: train.py', 'digits: 99.6 %'):
        assert text in page.text
    assert 'the same as in metrics.jsonl' not in page.text
    assert 'Not finished' in page.text
    (run_dir / '_training-done.txt').touch()
    assert 'Finished.' in Page(run_page.write_report(run_dir)).text


def picture_of(source):
    """(format, gray levels) of an image in a data URI."""
    kind, content = re.fullmatch('data:image/(png|jpeg);base64,(.*)', source).groups()
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.format.lower() == kind
        return kind, np.asarray(image)


def test_pictures_of_a_run(run_dir):
    page = Page(run_page.write_report(run_dir))
    assert [(picture['kimg'], picture['caption']) for picture in page.data['pictures']] == [
        (0, 'kimg 0'), (2, 'kimg 2   4x4   lod 2.00   time 40s'), (4, 'kimg 4   8x8   lod 1.00   time 1m 20s'),
        (6, 'kimg 6   16x16   lod 0.00   time 2m 00s')]
    for picture in page.data['pictures']:
        kind, pixels = picture_of(picture['src'])
        assert kind == 'png' and pixels.shape == (20, 30) and (pixels == LEVELS[picture['kimg']]).all()
    reals, = [value for name, value in page.attributes if name == 'src']
    assert (picture_of(reals)[1] == 128).all()


def test_page_needs_no_other_file(run_dir):
    page = Page(run_page.write_report(run_dir))
    assert all(value.startswith('data:') for name, value in page.attributes if name in ('src', 'href', 'srcset'))
    assert 'url(' not in page.texts['style'][0] and '@import' not in page.texts['style'][0]
    assert re.findall(r'https?://[^\'"]*', page.source) == ['http://www.w3.org/2000/svg'] * 2      # A namespace.


def test_times_add_up(run_dir):
    """Time spent in metrics at the end of a tick lies before the next one; all phases make the time of the header."""
    lines, seconds = [], 0.0
    for number, line in enumerate(TICKS, 1):
        seconds += 20.0
        lines.append(dict(line, seconds=seconds, metric_seconds=5.0) if number % 2 else dict(line, seconds=seconds))
        seconds += lines[-1].get('metric_seconds', 0.0)
    write_stats(run_dir, lines)
    head, *phases, whole = Page(run_page.write_report(run_dir)).tables[0]
    assert [row[head.index('metrics')] for row in phases] == ['5s', '-', '5s', '-', '5s'] and whole[5] == '15s'
    assert [row[head.index('time')] for row in phases] == ['45s', '20s', '25s', '20s', '25s']
    assert whole[6] == '2m 15s' and '2m 15s' in Page(run_dir / 'report.html').text


def test_best_snapshots(run_dir):
    """By the number that decides, lower or higher; metrics that nobody knows have none."""
    names = {'swd': 'SWDx1e3_avg', 'inception_score': 'IS_mean', 'mine': 'x'}
    write_metrics(run_dir, [metric_line(name, kimg, **{number: value, 'other': value}) for name, number in names.items()
                            for kimg, value in ((1.0, 5.0), (2.0, 9.0), (3.0, 7.0))])
    page = Page(run_page.write_report(run_dir, better=metrics.decision))
    best = {chart['title']: (chart['best'] or {}).get('kimg') for chart in page.data['charts'][4:]}
    assert best == {'swd, 64 images': 1, 'inception_score, 64 images': 2, 'mine, 64 images': None}
    assert [[row[0] for row in table if '(best)' in row[0]] for table in page.tables[1:]] == [
        ['network-snapshot-000001 (best)'], ['network-snapshot-000002 (best)'], []]
    assert 'best swd, 64 images\n5.0000 at kimg 1.0' in page.text
    write_metrics(run_dir, [metric_line('swd', 1.0, SWDx1e3_avg=5.0)])      # Of one, nothing is the best.
    text = Page(run_page.write_report(run_dir, better=metrics.decision)).text
    assert 'swd, 64 images\n5.0000 at kimg 1.0' in text and 'best' not in text
    # 'other' is the same number: it stands there once.
    assert {len(chart['series']) for chart in page.data['charts'][4:]} == {1}


def test_long_runs_and_large_pictures(run_dir, monkeypatch):
    noise = np.random.RandomState(1).randint(256, size=(3, 270, 480), dtype=np.uint8)
    for kimg in range(10, 110):
        shutil.copy(run_dir / 'fakes000002.png', run_dir / f'fakes{kimg:06d}.png')
    save_image(noise, run_dir / 'fakes000200.png', (0, 255))
    monkeypatch.setattr(run_page, 'PICTURE_BYTES', 49 * 20_000)      # The pictures of noise have 390 kB.
    page = Page(run_page.write_report(run_dir))
    pictures = page.data['pictures']
    assert len(pictures) == run_page.MAX_PICTURES
    kimg = [picture['kimg'] for picture in pictures]
    assert kimg == sorted(kimg) and kimg[0] == 0 and kimg[-1] == 200
    assert max(np.diff(kimg[4:-1])) <= 3
    kind, pixels = picture_of(pictures[-1]['src'])
    assert kind == 'jpeg' and len(pictures[-1]['src']) < 20_000 * 4 / 3 + 100
    assert pixels.shape[0] >= 60 and abs(pixels.shape[1] / pixels.shape[0] - 480 / 270) < 0.05
    assert abs(pixels.mean() - 127.5) < 4
    assert '48 of 105 pictures' in page.text
    # In base64, all pictures together leave space for the rest of a page of 20 MB.
    monkeypatch.undo()
    assert run_page.PICTURE_BYTES * 4 / 3 < 19e6


def test_runs_in_progress(run_dir):
    content = (run_dir / 'fakes000006.png').read_bytes()
    (run_dir / 'fakes000006.png').write_bytes(content[:len(content) // 2])
    (run_dir / 'reals.png').write_text('nothing', encoding='utf-8')
    nan = dict(TICKS[1], Gloss=float('nan'), Dloss=float('inf'), lod=None, seconds='soon', Dfake=10 ** 400)
    write_stats(run_dir, [TICKS[0], '\n', 'Ünsinn\n', '[1]\n', nan, {'tick': 3}, {'kimg': 3.5}],
                '{"tick": 5, "kimg": 5.0')
    page = Page(run_page.write_report(run_dir))
    ticks = page.data['tables']['ticks']
    assert ticks['kimg'] == [1, 2, 3.5]
    assert ticks['Gloss'] == [0.5, None, None] and ticks['Dloss'] == [0.25, None, None]
    assert ticks['lod'] == [2, None, None] and ticks['Dfake'] == [-1, None, None]
    assert page.tables[0][-2][:4] == ['?', '2 - 3.5', '-', '-']
    assert [picture['kimg'] for picture in page.data['pictures']] == [0, 2, 4]
    assert not [value for name, value in page.attributes if name == 'src']


def test_files_that_are_missing(run_dir):
    for name in os.listdir(run_dir):
        if name != 'config.txt':
            os.remove(run_dir / name)
    page = Page(run_page.write_report(run_dir))
    assert 'No status line has been written yet.' in page.text and 'No picture has been written yet.' in page.text
    assert page.tables == [] and page.data['charts'] == []
    os.rename(run_dir / 'config.txt', run_dir / 'other.txt')
    with pytest.raises(UserError, match=r'is not the folder of a training, it has no stats.jsonl, no fakes'):
        run_page.write_report(run_dir)
    write_stats(run_dir, TICKS[:1])
    page = Page(run_page.write_report(run_dir))
    assert page.tables[0][1] == ['4x4', '0 - 1', '16', '16.0', '4s', '20s', '0.5 GB']


def test_resumed_runs(run_dir):
    """Repeated ticks count once, and a run resumed from another run does not begin at 0."""
    again = dict(TICKS[2], Gloss=7.0)
    write_stats(run_dir, TICKS[1:5] + [again])
    assert read_stats(run_dir) == [TICKS[1], again]
    assert Page(run_page.write_report(run_dir)).data['spans'][0]['begin'] == 1


def test_text_cannot_become_code(tmp_path):
    folder = tmp_path / EVIL.replace('/', '⁄')
    folder.mkdir()
    write_stats(folder, TICKS)
    write_metrics(folder, [metric_line(EVIL, kimg, EVIL, **{EVIL: 1.0}) for kimg in (1.0, 2.0)])
    for name in ('config.txt', 'run.txt', 'metric-x.txt'):
        (folder / name).write_text(f'{{"{EVIL}": "@@data@@"}}', encoding='utf-8')
    page = Page(run_page.write_report(folder))
    assert page.elements.count('script') == 2 and 'img' not in page.elements
    assert folder.name in page.text and page.text.count(f'{{"{EVIL}": "@@data@@"}}') == 3
    assert [EVIL, '1.0', '20s', '1.0000'] in page.tables[1]
    assert page.data['charts'][-1]['series'] == [EVIL]


def test_command(run_dir, tmp_path, capsys):
    results = str(tmp_path)
    assert util_scripts.main(['report', '4', '--result-dir', results]) == 0
    assert f'Wrote {run_dir / "report.html"}' in capsys.readouterr().out
    assert util_scripts.main(['report', str(run_dir), '--out', str(tmp_path / 'page.html')]) == 0
    written = re.compile('Written [-0-9: ]*')
    first, second = [written.sub('', path.read_text(encoding='utf-8'))
                     for path in (run_dir / 'report.html', tmp_path / 'page.html')]
    assert first == second
    assert sorted(os.listdir(tmp_path)) == ['004-faces', 'page.html']      # No new run folder.
    nowhere, images = str(tmp_path / 'no' / 'x.html'), tmp_path / '005-fake-images'
    images.mkdir()
    (images / 'config.txt').write_text("{'train': {'func': 'util_scripts.generate_fake_images'}}", encoding='utf-8')
    for arguments, message in [(['report', '6', '--result-dir', results], 'run 6: no such run'),
                               (['report', results], 'is not the folder of a training'),
                               (['report', str(images)], 'is not the folder of a training'),
                               (['report', str(run_dir), '--out', nowhere], 'cannot be written')]:
        assert util_scripts.main(arguments) == 1
        error = capsys.readouterr().err
        assert message in error and error.count('\n') == 1
    with pytest.raises(SystemExit):
        util_scripts.main(['report', '--help'])
    assert 'python util_scripts.py report 3' in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------------------
# In a browser.


@pytest.fixture
def open_page(browser):
    """A function that opens a file. At the end, check that there was no message, error or access to other addresses."""
    problems, contexts = [], []

    def open_page(path, width=1280, scheme='light', touch=False):
        contexts.append(browser.new_context(viewport={'width': width, 'height': 900}, color_scheme=scheme,
                                            has_touch=touch))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on('console', lambda message: problems.append(message.text))
        page.on('pageerror', lambda error: problems.append(str(error)))
        page.on('request', lambda request: None if request.url.startswith(('file:', 'data:')) else
                problems.append(request.url))
        page.goto(path.absolute().as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def screenshot(page_or_element, **options):
    """Pixels of a screenshot, uint8 (H, W, 3)."""
    with Image.open(io.BytesIO(page_or_element.screenshot(**options))) as image:
        return np.asarray(image.convert('RGB'))


def level_of_picture(page):
    """Gray level in the centre of the fakes on the screen."""
    page.locator('#fakes').evaluate('image => image.decode()')
    pixels = screenshot(page.locator('#fakes'))
    return pixels[len(pixels) // 2, pixels.shape[1] // 2].tolist()


def test_page_in_a_browser(run_dir, open_page):
    run_page.write_report(run_dir)
    page = open_page(run_dir / 'report.html')
    assert page.title() == '004-faces'
    pixels = screenshot(page, full_page=True)
    assert pixels.shape[1] == 1280 and pixels.shape[0] > 1500
    # No tenth of the height is blank.
    assert all((part.min(axis=(1, 2)) < 200).mean() > 0.1 for part in np.array_split(pixels, 10))
    assert (pixels == 255).all(axis=2).mean() > 0.3

    # The slider begins at the last picture. Keys, buttons and dragging move it.
    caption = page.locator('#caption')
    assert caption.text_content() == 'kimg 6   16x16   lod 0.00   time 2m 00s'
    assert level_of_picture(page) == [230] * 3
    page.keyboard.press('ArrowLeft')
    assert caption.text_content().startswith('kimg 4 ') and level_of_picture(page) == [160] * 3
    page.locator('#back').click()
    assert level_of_picture(page) == [90] * 3
    page.locator('#slider').fill('0')
    assert caption.text_content() == 'kimg 0' and level_of_picture(page) == [20] * 3
    page.locator('#slider').focus()
    page.keyboard.press('ArrowLeft')        # There is no earlier picture.
    page.keyboard.press('ArrowRight')
    assert level_of_picture(page) == [90] * 3 and page.locator('#slider').input_value() == '1'
    page.locator('#on').click()
    assert level_of_picture(page) == [160] * 3
    page.locator('#on').click()
    page.evaluate('''const caption = document.getElementById('caption');
                     window.seen = [];
                     new MutationObserver(() => seen.push(caption.textContent)).observe(caption, {childList: true});''')
    play = page.locator('#play')
    play.click()            # Plays from the beginning.
    play.get_by_text('Play').wait_for()
    assert [text.split()[1] for text in page.evaluate('seen')] == ['0', '2', '4', '6']
    assert level_of_picture(page) == [230] * 3

    # 30 x 20 pixels are enlarged by an integer, which is smaller beside the reals.
    def width():
        return page.locator('#fakes').bounding_box()['width']

    beside, reals = width(), page.locator('#reals').bounding_box()
    assert beside == reals['width'] and beside % 30 == 0 and 500 < beside < 620
    page.locator('#size').click()
    assert width() == page.locator('main').bounding_box()['width']
    page.locator('#fakes').click()
    assert width() == beside


def test_curves_in_a_browser(run_dir, open_page):
    run_page.write_report(run_dir)
    page = open_page(run_dir / 'report.html')
    charts = page.locator('.chart')
    assert charts.count() == 5
    losses = charts.nth(0)
    assert losses.locator('path.curve').count() == 2 and losses.locator('circle').count() == 12
    assert losses.locator('.legend').text_content() == 'GlossDloss'
    # A line at the beginning of each phase but the first, the name of each resolution, and two fade-ins.
    assert losses.locator('.boundary').count() == 4 and losses.locator('.fade').count() == 2
    assert losses.locator('.resolution').all_text_contents() == ['16x16', '8x8', '4x4']
    # D's loss rises linearly and kimg are evenly spaced, so its points are on a rising line.
    points = [(float(circle.get_attribute('cx')), float(circle.get_attribute('cy')))
              for circle in losses.locator('circle').all()[6:]]
    steps = np.diff(points, axis=0)
    np.testing.assert_allclose(steps, steps[:1].repeat(5, axis=0), atol=1e-3)
    assert steps[0, 0] > 20 and steps[0, 1] < 0

    tip = losses.locator('.tip')
    assert not tip.is_visible()
    losses.scroll_into_view_if_needed()
    box = losses.locator('svg').bounding_box()
    page.mouse.move(box['x'] + points[2][0] + 5, box['y'] + 100)
    assert tip.is_visible()
    assert tip.locator('div').all_text_contents() == ['kimg 3  lod 1.50', 'time 1m 00s', 'Gloss -1.5', 'Dloss 0.75']
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    # A missing value of a metric leaves a gap.
    assert charts.nth(4).locator('circle').count() == 3
    # Both curves have their colours.
    pixels = screenshot(losses).astype(int)
    for colour in ((31, 111, 208), (200, 88, 10)):
        assert (abs(pixels - colour).max(axis=2) < 12).sum() > 50


def test_curves_side_by_side_are_aligned(run_dir, open_page):
    """Left and right have their axes at one height, and all have the training's kimg, whatever is said above them."""
    run_page.write_report(run_dir, better=lambda metric: ('level16', True))
    page = open_page(run_dir / 'report.html')
    boxes = [svg.bounding_box() for svg in page.locator('.chart svg').all()]
    assert boxes[0]['y'] == boxes[1]['y'] and boxes[2]['y'] == boxes[3]['y']
    assert {box['height'] for box in boxes} == {260}
    axes = page.locator('.axis').all_text_contents()
    assert axes == ['linear axis'] * 5      # All speeds are within a factor of 5.
    swd = page.locator('.chart').nth(4)
    ring, last = swd.locator('path.best').bounding_box(), swd.locator('circle').last.bounding_box()
    for side, length in (('x', 'width'), ('y', 'height')):
        assert abs(ring[side] + ring[length] / 2 - last[side] - last[length] / 2) < 1
    assert [label.text_content() for label in swd.locator('.resolution').all()] == ['16x16', '8x8', '4x4']


def test_spikes_do_not_flatten_a_curve(run_dir, open_page):
    random = np.random.RandomState(1)
    lines = [tick(number, float(number), 0.0, Gloss=random.randn(), Dloss=1e6 if number == 50 else random.randn())
             for number in range(1, 101)]
    write_stats(run_dir, lines)
    run_page.write_report(run_dir)
    page = open_page(run_dir / 'report.html')
    losses, scores = page.locator('.chart').nth(0), page.locator('.chart').nth(1)
    assert 'linear axis, spikes cut off' in losses.text_content() and 'spikes' not in scores.text_content()
    heights = [float(y) for y in re.findall(r'[ML][-.\d]+ ([-.\d]+)',
                                            losses.locator('path.curve').first.get_attribute('d'))]
    assert len(heights) == 100 and max(heights) - min(heights) > 60


def test_page_on_a_phone_in_the_dark(run_dir, open_page):
    run_page.write_report(run_dir)
    page = open_page(run_dir / 'report.html', 400, 'dark', touch=True)
    assert page.evaluate('document.documentElement.scrollWidth') == 400      # No element is wider than the screen.
    pixels = screenshot(page, full_page=True)
    assert (pixels.max(axis=2) < 60).mean() > 0.5 and (pixels.min(axis=2) > 200).mean() > 0.01
    svg = page.locator('.chart svg').first
    assert svg.bounding_box()['width'] > 300
    svg.tap()
    assert page.locator('.chart .tip').first.is_visible()
    # Each number of a table is on the screen, with the heading of its column.
    cells = page.locator('table').first.locator('tbody tr').first.locator('td')
    assert all(0 <= box['x'] and box['x'] + box['width'] <= 400 for box in map(lambda cell: cell.bounding_box(),
                                                                               cells.all()))
    assert cells.first.evaluate("cell => getComputedStyle(cell, '::before').content") == '"kimg"'
    # After turning the phone, curves have the new width.
    page.set_viewport_size({'width': 700, 'height': 400})
    page.locator('.chart svg[viewBox^="0 0 642 "]').first.wait_for()
    assert page.evaluate('document.documentElement.scrollWidth') == 700


@pytest.mark.parametrize('lines', [[], TICKS[:1], [{'kimg': 1.0}], [{'kimg': 1.0, 'Gloss': 2.0}, {'kimg': 2.0}]])
def test_little_to_show_in_a_browser(run_dir, open_page, lines):
    write_stats(run_dir, lines)
    for name in ('reals.png', 'metrics.jsonl', *(f'fakes{kimg:06d}.png' for kimg in LEVELS)):
        os.remove(run_dir / name)
    run_page.write_report(run_dir)
    page = open_page(run_dir / 'report.html')
    assert page.locator('h1').text_content() == '004-faces'
    assert page.locator('.chart').count() == (3 if lines else 0)
    if lines:
        drawn = page.locator('.chart').first.locator('circle').count()
        assert drawn == sum(name in line for line in lines for name in ('Gloss', 'Dloss'))
        assert ('No values.' in page.locator('.chart').first.text_content()) == (drawn == 0)


def test_text_is_no_code_in_a_browser(tmp_path, open_page):
    folder = tmp_path / EVIL.replace('/', '⁄')
    folder.mkdir()
    write_stats(folder, TICKS)
    write_metrics(folder, [metric_line(EVIL, kimg, EVIL, **{EVIL: kimg, 'b': 2.0}) for kimg in (1.0, 2.0)])
    (folder / 'config.txt').write_text(EVIL, encoding='utf-8')
    run_page.write_report(folder, tmp_path / 'page.html')
    page = open_page(tmp_path / 'page.html')
    assert page.title() == folder.name and page.locator('img').count() == 0
    chart = page.locator('.chart').last
    chart.locator('svg').hover()
    assert EVIL in chart.locator('.tip').text_content() and EVIL in chart.locator('.legend').text_content()
    assert page.evaluate('window.evil') is None
