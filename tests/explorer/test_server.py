"""explorer/server.py: its answers, and the requests that it refuses."""

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image

import config
import util_scripts
from common.errors import UserError
from explorer import server
from explorer.films import Film
from explorer.points import Point
from tests.helpers import ROOT

JSON = {'Content-Type': 'application/json'}


@pytest.fixture
def ask(port):
    """Function that sends a request and returns (status, headers, body)."""
    def ask(method, path, body=None, headers=JSON):
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
        connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body), headers)
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found
    return ask


@pytest.fixture
def point(site):
    return {'latents': site.painter.latents_of_seed(5), 'label': [0.0, 1.0, 0.0], 'psi': 0.8, 'lod': 0.5}


def pixels(body):
    with Image.open(io.BytesIO(body)) as image:
        return np.asarray(image)


def images_of(site, points):
    return [image.transpose(1, 2, 0) for image in site.paint([Point(**point) for point in points])]


def test_page_and_network(ask):
    for path, kind in [('/', 'text/html; charset=utf-8'), ('/page.js', 'text/javascript; charset=utf-8'),
                       ('/page.css', 'text/css; charset=utf-8')]:
        status, headers, body = ask('GET', path)
        assert (status, headers['Content-Type']) == (200, kind) and len(body) > 1000
        assert "default-src 'none'" in headers['Content-Security-Policy']
    status, _headers, body = ask('GET', '/api/network')
    assert status == 200 and json.loads(body)['classes'] == ['cat', 'dog', 'eel']


def test_images_are_made_at_that_moment(ask, site, point):
    latents = json.loads(ask('GET', '/api/latents?seed=5')[2])['latents']
    np.testing.assert_array_equal(np.float32(latents), np.random.RandomState(5).randn(1, 8)[0].astype('f'))
    other = {**point, 'latents': site.painter.latents_of_seed(6), 'lod': 0.0}
    status, headers, body = ask('POST', '/api/images', {'points': [point, other, point], 'columns': 2})
    assert (status, headers['Content-Type']) == (200, 'image/png') and 'dur=' in headers['Server-Timing']
    grid, expected = pixels(body), images_of(site, [point, other])
    assert grid.shape == (32, 32, 3)
    for row, column, image in [(0, 0, expected[0]), (0, 1, expected[1]), (1, 0, expected[0]), (1, 1, 0)]:
        found = grid[16 * row:16 * row + 16, 16 * column:16 * column + 16].astype(int)
        np.testing.assert_allclose(found, image, atol=1)        # Another minibatch, another order of sums.
    status, _headers, body = ask('POST', '/api/images', {'points': [point, other], 'between': [0.0, 1.0]})
    np.testing.assert_allclose(pixels(body).astype(int), np.concatenate(expected), atol=1)


def test_arrays(ask, point):
    for name, rows in [('latents', [point['latents']] * 2), ('labels', [point['label']] * 2)]:
        status, _headers, body = ask('POST', '/api/arrays', {'points': [point, point], 'array': name})
        assert status == 200
        found = np.load(io.BytesIO(body))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.float32(rows))


def test_the_tray_is_a_file(ask, site, point):
    assert json.loads(ask('GET', '/api/kept')[2]) == {'revision': 0, 'kept': []}
    kept = [{'name': '../../evil', **point}]
    assert ask('PUT', '/api/kept', {'kept': kept, 'revision': 0})[0] == 200
    assert json.loads(ask('GET', '/api/kept')[2]) == {'revision': 1, 'kept': kept}
    status, _headers, body = ask('PUT', '/api/kept', {'kept': [], 'revision': 0})
    assert status == 409 and b'another window' in body
    assert sorted(os.listdir(site.temporary)) == [server.TRAY_FILE]     # Names do not become paths.
    again = server.Tray(site.tray.path, site.painter)
    assert again.as_dict() == {'revision': 0, 'kept': kept}
    with open(site.tray.path, 'w', encoding='utf-8') as file:
        json.dump({'revision': 0, 'kept': [{**kept[0], 'latents': [1.0]}]}, file)
    with pytest.raises(UserError, match='explored.json: cannot be used .*1 numbers; this network takes 8.*move it'):
        server.Tray(site.tray.path, site.painter)


@pytest.mark.parametrize('kind, magic', [('mp4', b'ftyp'), ('gif', b'GIF89a')])
def test_a_video(kind, magic, ask, site, point):
    assert ask('GET', '/api/video')[0] == 404 == ask('GET', '/api/video/file')[0]
    coarse = {**point, 'lod': 2.0, 'latents': site.painter.latents_of_seed(6)}
    request = {'points': [point, coarse], 'seconds': 1.0, 'fps': 4, 'format': kind, 'loop': False}
    assert json.loads(ask('POST', '/api/video', request)[2])['frames'] == 5
    site.film.wait()
    state = json.loads(ask('GET', '/api/video')[2])
    assert (state['finished'], state['done'], state['error'], state['file']) == (True, 5, '', 'interpolation.' + kind)
    status, headers, body = ask('GET', '/api/video/file')
    assert status == 200 and headers['Content-Type'].endswith(kind) and magic in body[:12]
    if kind == 'gif':
        with Image.open(io.BytesIO(body)) as video:
            assert (video.n_frames, video.size, video.info['duration']) == (5, (512, 512), 250)


def test_a_video_is_cancelled(ask, site, point):
    request = {'points': [point] * 100, 'seconds': 6.0, 'fps': 30}
    assert ask('POST', '/api/video', request)[0] == 200
    status, _headers, body = ask('POST', '/api/video', request)
    assert status == 409 and b'another video' in body
    state = json.loads(ask('DELETE', '/api/video')[2])
    assert (state['running'], state['finished'], state['error']) == (False, False, 'cancelled')
    assert ask('GET', '/api/video/file')[0] == 404
    assert b'20000 frames' in ask('POST', '/api/video', {**request, 'seconds': 60.0})[2]
    assert b'choose mp4' in ask('POST', '/api/video', {**request, 'format': 'gif'})[2]
    with pytest.raises(UserError, match='format'), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'imageio_ffmpeg', None)
        patch.setattr('explorer.films.formats', lambda: ['gif'])
        Film(server.VideoRequest(points=[Point(**point)] * 2, seconds=1.0), site.paint, 16, site.temporary)


@pytest.mark.parametrize('method, path, body, status', [
    ('GET', '/../config.py', None, 404), ('GET', '/%2e%2e/config.py', None, 404), ('GET', '/page.html', None, 404),
    ('GET', '//etc/passwd', None, 404), ('GET', '/server.py', None, 404), ('POST', '/', {}, 405),
    ('GET', '/api/images', None, 405), ('GET', '/api/latents', None, 400), ('GET', '/api/latents?seed=-1', None, 400),
    ('GET', '/api/latents?seed=4294967296', None, 400), ('GET', '/api/latents?seed=%C2%B2', None, 400),
    ('POST', '/api/images', b'{', 400), ('POST', '/api/images', {'points': [{'latents': [0.0]}]}, 400),
    ('POST', '/api/arrays', {'points': [], 'array': 'latents'}, 400), ('PUT', '/api/kept', {'kept': 1}, 400),
    ('POST', '/api/video', {'points': []}, 400), ('PATCH', '/', None, 501)])
def test_bad_requests_are_one_line(method, path, body, status, ask):
    found, headers, line = ask(method, path, body)
    assert found == status and headers['Content-Type'].startswith('text/plain')
    assert line.endswith(b'\n') and line.count(b'\n') == 1


def test_other_pages_are_refused(ask, port):
    own = f'127.0.0.1:{port}'
    for headers, status in [({'Host': own}, 200), ({'Host': f'localhost:{port}'}, 200),
                            ({'Host': own, 'Origin': f'http://localhost:{port}'}, 200),
                            ({'Host': 'evil.example'}, 403), ({'Host': f'evil.example:{port}'}, 403),
                            ({'Host': '127.0.0.1'}, 403), ({'Host': own, 'Origin': 'http://evil.example'}, 403),
                            ({'Host': own, 'Origin': 'null'}, 403),
                            ({'Host': own, 'Origin': f'https://{own}'}, 403)]:
        for path in ('/', '/api/network'):
            assert ask('GET', path, headers=headers)[0] == status, headers
    for kind in ('text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data'):
        assert ask('PUT', '/api/kept', {'kept': [], 'revision': 0}, {'Content-Type': kind})[0] == 415


@pytest.mark.parametrize('lines, status', [
    ([], 403), (['Host: {own}', 'Host: evil.example'], 403), (['Host: {own}', 'Content-Length: -1'], 400),
    (['Host: {own}', 'Content-Length: 99999999999'], 413), (['Host: {own}', 'Transfer-Encoding: chunked'], 400),
    (['Host: {own}', 'Content-Length: 9'], 400)])
def test_headers_that_are_refused(lines, status, port):
    with socket.create_connection(('127.0.0.1', port), timeout=60) as connection:
        lines = ['POST /api/images HTTP/1.1', *lines, 'Content-Type: application/json', '', '3']
        connection.sendall('\r\n'.join(lines).format(own=f'127.0.0.1:{port}').encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile('rb').readline().split()[1] == str(status).encode()


def test_nothing_is_made_after_the_end(ask, site, point):
    site.close()
    assert ask('POST', '/api/images', {'points': [point]})[2] == b'the program is ending\n'


def test_a_port_that_is_taken(site, port):
    with pytest.raises(UserError, match=f'port={port}: cannot be used .*choose another one with --port'):
        server.make_server(site, port)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, 'DEFAULT_PORTS', [port, 0])
        server.make_server(site).server_close()


@pytest.mark.slow
def test_command(network_folder):
    """The program from its start to Ctrl-C."""
    command = [sys.executable, 'util_scripts.py', 'explore', '0', '--result-dir', str(network_folder.parent),
               '--no-browser', '--port', '0', '--engine', 'torch']
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        lines = iter(process.stdout.readline, '')
        address = next(line for line in lines if 'Ctrl-C ends' in line).split(' at ')[1].split()[0]
        with urllib.request.urlopen(address + 'api/network', timeout=60) as answer:
            assert json.loads(answer.read())['title'] == '000-animals'
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not (network_folder / server.TRAY_FILE).exists()


def test_help_has_examples_that_are_right(capsys):
    with pytest.raises(SystemExit):
        util_scripts.main(['explore', '--help'])
    examples = [line.split()[2:] for line in capsys.readouterr().out.splitlines() if line.startswith('  python util')]
    assert len(examples) == 3
    for example in examples:
        assert util_scripts.parse_arguments(example, config)['command'] == 'explore'


def test_command_line_mistakes(network_folder, capsys):
    arguments = ['explore', str(network_folder), '--no-browser', '--engine', 'torch']
    for wrong, words in [(['--port', '70000'], '70000: must be a port'), (['--snapshot', '7'], 'no such snapshot')]:
        assert util_scripts.main([*arguments, *wrong]) == 1
        error = capsys.readouterr().err
        assert words in error and error.count('\n') == 1
