"""explorer/page.*: the page in headless Chromium."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from explorer.points import Point


@pytest.fixture
def open_page(browser, port):
    """Function that opens the page. After the test, checks for console messages, errors and requests elsewhere."""
    problems, contexts, address = [], [], f'http://127.0.0.1:{port}/'

    def open_page(width=1400):
        contexts.append(browser.new_context(viewport={'width': width, 'height': 900}))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on('console', lambda message: problems.append(message.text))
        page.on('pageerror', lambda error: problems.append(str(error)))
        page.on('request', lambda request: None if request.url.startswith((address, 'blob:', 'data:'))
                else problems.append(request.url))
        page.goto(address)
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def settle(page):
    page.wait_for_selector('#stage[aria-busy=false]')


def shown(page, canvas='#image'):
    """Pixels of the large image, or of another canvas: uint8 (H, W, 3)."""
    settle(page)
    data = page.locator(canvas).evaluate('canvas => canvas.toDataURL()').partition(',')[2]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert('RGB'))


def download(page, button):
    with page.expect_download() as waiting:
        page.click(button)
    with open(waiting.value.path(), 'rb') as file:
        return waiting.value.suggested_filename, file.read()


def test_page_in_a_browser(open_page, site):
    page = open_page()
    assert page.title() == '000-animals'
    assert page.locator('#class option').all_text_contents() == ['cat', 'dog', 'eel']

    def assert_shows(seed, **point):
        expected, = site.paint([Point(latents=site.painter.latents_of_seed(seed), **point)])
        # Another minibatch, another order of sums.
        np.testing.assert_allclose(shown(page).astype(int), expected.transpose(1, 2, 0), atol=1)

    assert_shows(seed=0, label=[1, 0, 0])
    page.fill('#seed', '7')
    page.press('#seed', 'Enter')
    page.select_option('#class', 'dog')
    page.fill('#psi', '0.5')
    assert_shows(seed=7, label=[0, 1, 0], psi=0.5)
    page.fill('#lod', '1.5')
    assert_shows(seed=7, label=[0, 1, 0], psi=0.5, lod=1.5)
    page.fill('#lod', '0')
    page.locator('h1').click()
    page.keyboard.press('ArrowLeft')
    assert_shows(seed=0, label=[0, 1, 0], psi=0.5)
    page.keyboard.press('ArrowRight')
    page.keyboard.press('k')
    page.keyboard.press('r')
    settle(page)
    page.keyboard.press('k')
    assert page.locator('.kept').count() == 2
    page.fill('.kept >> nth=0 >> input', 'Rex')
    page.press('.kept >> nth=0 >> input', 'Enter')
    page.evaluate('storing')
    assert [kept.name for kept in site.tray.kept] == ['Rex', 'dog #2']

    # Keep an image, and save it as files.
    page.click('.kept >> nth=0 >> canvas')
    assert_shows(seed=7, label=[0, 1, 0], psi=0.5)
    name, body = download(page, '#save-png')
    assert name == 'Rex.png'
    with Image.open(io.BytesIO(body)) as image:
        np.testing.assert_array_equal(np.asarray(image), shown(page))
    name, body = download(page, '#save-latents')
    assert name == 'Rex-latents.npy'
    # Nine digits tell all float32 numbers apart.
    np.testing.assert_array_equal(np.load(io.BytesIO(body))[0], np.float32(site.painter.latents_of_seed(7)))
    assert np.load(io.BytesIO(download(page, '#save-labels')[1])).tolist() == [[0, 1, 0]]

    # Moving in the map keeps the length of the latents.
    before = shown(page)
    page.click('#pad', position={'x': 250, 'y': 60})
    assert np.abs(shown(page).astype(int) - before).max() > 3
    moved = np.load(io.BytesIO(download(page, '#save-latents')[1]))[0]
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(site.painter.latents_of_seed(7)), rel=1e-5)
    page.focus('#pad')
    page.keyboard.press('Home')
    np.testing.assert_array_equal(shown(page), before)

    # The interpolation begins at the first kept image.
    page.fill('#time', '0')
    np.testing.assert_allclose(shown(page).astype(int), before, atol=1)
    page.fill('#seconds', '0.2')
    page.locator('h1').click()
    page.keyboard.press('p')
    page.locator('#play', has_text='Stop').wait_for()
    page.keyboard.press('p')
    settle(page)
    page.keyboard.press('p')
    page.locator('#play', has_text='Stop').wait_for()
    page.keyboard.press('r')        # Showing another image stops it.
    settle(page)
    assert page.locator('#play').text_content() == 'Play'
    page.select_option('#format', 'gif')
    name, body = download(page, '#export')
    assert name == 'interpolation.gif' and body[:6] == b'GIF89a'
    page.wait_for_selector('#progress', state='hidden')

    # Another window shows the kept images and changes them; then the first one must not overwrite the change.
    other = open_page()
    assert other.locator('.kept input').evaluate_all('inputs => inputs.map(input => input.value)') == ['Rex', 'dog #2']
    other.click('.kept >> nth=1 >> [title="Remove"]')
    other.evaluate('storing')
    with open(site.tray.path, encoding='utf-8') as file:
        assert [kept['name'] for kept in json.load(file)['kept']] == ['Rex']


def test_page_on_a_phone(open_page):
    page = open_page(width=390)
    page.click('#keep')
    assert page.evaluate('document.documentElement.scrollWidth') == 390
    for button in page.locator('button:visible').all():
        box = button.bounding_box()
        assert box['x'] >= 0 and box['x'] + box['width'] <= 390, button.text_content()
        assert button.evaluate('button => button.scrollWidth <= button.clientWidth'), button.text_content()


def test_a_map_of_a_slow_network_comes_in_parts(open_page):
    """And shows the same; one of a network that is too slow is left out."""
    page = open_page()
    at_once = shown(page, '#map')
    requests = []
    page.on('request', lambda request: requests.append(request.url))
    page.evaluate('drawMap(0.09)')
    assert at_once.shape == (80, 80, 3)
    # Another minibatch, another order of sums.
    np.testing.assert_allclose(shown(page, '#map').astype(int), at_once, atol=1)
    assert len(requests) == 9       # 25 images, 3 at a time.
    page.evaluate('drawMap(1)')
    assert page.locator('#map').evaluate('map => map.width') == 1
