"""The server of the page: ``python util_scripts.py explore RUN``.

Only this machine can reach it. The headers Host and Origin must name the server, so that no other web page can use it,
not even by DNS rebinding. The server reads three files and writes one, ``explored.json``; requests never choose a path.
"""

import concurrent.futures
import functools
import io
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.parse
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from common.errors import UserError, one_line
from common.files import atomic_write, open_input
from common.images import convert_to_pil_image, create_image_grid
from common.options import Allowed, FileName, Run, Snapshot, checked
from explorer.films import Film, formats
from explorer.painter import Painter
from explorer.points import ArraysRequest, ImagesRequest, Kept, TrayRequest, VideoRequest, blend, parse
from runs.images import load_generator

HOST = '127.0.0.1'
DEFAULT_PORTS = range(8765, 8785)       # The first free one is used.
MAX_BODY = 1 << 26
TRAY_FILE = 'explored.json'
FOLDER = os.path.dirname(os.path.abspath(__file__))
PAGE = {'/': ('page.html', 'text/html; charset=utf-8'), '/page.css': ('page.css', 'text/css; charset=utf-8'),
        '/page.js': ('page.js', 'text/javascript; charset=utf-8')}
HEADERS = {'X-Content-Type-Options': 'nosniff', 'Cross-Origin-Resource-Policy': 'same-origin',
           'Referrer-Policy': 'no-referrer', 'Cache-Control': 'no-store',
           'Content-Security-Policy': "default-src 'none'; img-src 'self' blob: data:; style-src 'self'; script-src "
                                      "'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
                                      "form-action 'none'"}
Port = Annotated[int, Ge(0), Le(65535), Allowed('a port from 0, for any free one, to 65535')]
Answer = tuple[str, bytes]      # Content type and body.


class Refusal(Exception):
    """A refused request: an HTTP status and one line."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        super().__init__(line)
        self.status = status


class Tray:
    """The images that the user has kept, stored in a file.

    Raises
    ------
    UserError
        The file exists, but cannot be read or belongs to another network. It is not overwritten.
    """

    def __init__(self, path: str, painter: Painter) -> None:
        self.path, self.painter, self.revision = path, painter, 0
        self.kept: list[Kept] = []
        self._lock = threading.Lock()
        if os.path.exists(path):
            try:
                with open_input(path) as file:
                    self.kept = parse(TrayRequest, file.read(MAX_BODY)).kept
                self._check(self.kept)
            except (OSError, UserError) as error:
                raise UserError(f'{path}: cannot be used ({error}); move it away') from error

    def as_dict(self) -> dict:
        """The content of the file."""
        return {'revision': self.revision, 'kept': [kept.model_dump() for kept in self.kept]}

    def replace(self, request: TrayRequest) -> None:
        """Replace all kept images and write the file.

        Raises
        ------
        Refusal
            The request changes an old revision, since another window has changed the tray in the meantime.
        """
        self._check(request.kept)
        with self._lock:
            if request.revision != self.revision:
                raise Refusal(HTTPStatus.CONFLICT, 'the tray was changed in another window; reload the page')
            before, self.kept = self.kept, request.kept
            try:
                with atomic_write(self.path, 'w', encoding='utf-8') as file:
                    json.dump({**self.as_dict(), 'revision': 0}, file)
            except UserError:
                self.kept = before
                raise
            self.revision += 1

    def _check(self, kept):
        # Clip the lods: they depend on the snapshot, and all snapshots of a run share the file.
        first, last = self.painter.lods
        self.painter.check([point.model_copy(update={'lod': min(max(point.lod, first), last)}) for point in kept])


class Site:
    """Answers to the requests of the page. It knows nothing of HTTP but status codes and content types.

    Parameters
    ----------
    painter : Painter
    title, snapshot : str
        Names of the run and the snapshot.
    tray_path : str
        File of the kept images.
    temporary : str
        Folder for videos.
    """

    def __init__(self, painter: Painter, title: str, snapshot: str, tray_path: str, temporary: str) -> None:
        self.painter, self.title, self.snapshot, self.temporary = painter, title, snapshot, temporary
        self.tray = Tray(tray_path, painter)
        self.film: Film | None = None
        self._closed = False
        self._film_lock, self._film_numbers = threading.Lock(), itertools.count()
        # One thread generates all images: PyTorch starts a thread pool for each thread that uses it.
        self._worker = concurrent.futures.ThreadPoolExecutor(1)

    def close(self) -> None:
        """Cancel the video and stop the worker thread."""
        self._closed = True
        if self.film:
            self.film.cancel()
        self._worker.shutdown()

    def paint(self, points, level=None) -> list[np.ndarray]:
        """The images of some points. It may be called from any thread."""
        if self._closed:
            raise UserError('the program is ending')
        return self._worker.submit(lambda: list(self.painter.images(points, level))).result()

    def measure(self) -> float:
        """Compile, and return the seconds per image."""
        point = parse(ImagesRequest, json.dumps({'points': [{
            'latents': self.painter.latents_of_seed(0), 'label': [0.0] * self.painter.label_size,
            'lod': self.painter.lods[0]}]}).encode()).points[0]
        return self._worker.submit(self.painter.seconds_per_image, point).result()

    # Answers: functions of the body and the query. ROUTES maps HTTP methods and paths to them.

    def network(self, _body: bytes, _query: dict) -> Answer:
        return _json({**self.painter.describe(), 'title': self.title, 'snapshot': self.snapshot, 'formats': formats()})

    def latents(self, _body: bytes, query: dict) -> Answer:
        seed = query.get('seed', '')
        if not (seed.isascii() and seed.isdecimal() and len(seed) <= 10 and int(seed) < 2 ** 32):
            raise UserError('seed: must be a whole number from 0 to 4294967295')
        return _json({'latents': self.painter.latents_of_seed(int(seed))})

    def images(self, body: bytes, _query: dict) -> Answer:
        request = parse(ImagesRequest, body)
        self.painter.check(request.points)
        points = request.points
        if request.between is not None:
            if len(points) != 2:
                raise UserError(f'between: takes two points, not {len(points)}')
            points = [blend(points[0], points[1], share) for share in request.between]
        images = self.paint(points)
        grid = create_image_grid(np.stack(images), (request.columns, -(-len(images) // request.columns)))
        file = io.BytesIO()
        convert_to_pil_image(grid, (0, 255)).save(file, 'PNG', compress_level=1)
        return 'image/png', file.getvalue()

    def arrays(self, body: bytes, _query: dict) -> Answer:
        request = parse(ArraysRequest, body)
        self.painter.check(request.points)
        name = 'latents' if request.array == 'latents' else 'label'
        rows = [getattr(point, name) for point in request.points]
        file = io.BytesIO()
        np.save(file, np.array(rows, np.float32).reshape(len(rows), -1))
        return 'application/octet-stream', file.getvalue()

    def kept(self, _body: bytes, _query: dict) -> Answer:
        return _json(self.tray.as_dict())

    def keep(self, body: bytes, _query: dict) -> Answer:
        self.tray.replace(parse(TrayRequest, body))
        return _json({'revision': self.tray.revision})

    def begin_video(self, body: bytes, _query: dict) -> Answer:
        request = parse(VideoRequest, body)
        self.painter.check(request.points)
        with self._film_lock:
            if self.film and self.film.state()['running']:
                raise Refusal(HTTPStatus.CONFLICT, 'another video is being made; wait for it or cancel it')
            folder = os.path.join(self.temporary, str(next(self._film_numbers)))
            os.mkdir(folder)
            before, self.film = self.film, Film(request, self.paint, self.painter.resolution, folder)
            if before and before.finished:
                os.remove(before.path)
        return _json(self.film.state())

    def video(self, _body: bytes, _query: dict) -> Answer:
        return _json(self._present_film().state())

    def cancel_video(self, _body: bytes, _query: dict) -> Answer:
        self._present_film().cancel()
        return _json(self._present_film().state())

    def video_file(self, _body: bytes, _query: dict) -> Answer:
        film = self._present_film()
        if not film.finished:
            raise Refusal(HTTPStatus.NOT_FOUND, 'the video is not complete')
        with open(film.path, 'rb') as file:
            return 'video/mp4' if film.path.endswith('.mp4') else 'image/gif', file.read()

    def _present_film(self):
        if self.film is None:
            raise Refusal(HTTPStatus.NOT_FOUND, 'there is no video')
        return self.film


ROUTES = {
    ('GET', '/api/network'): Site.network,
    ('GET', '/api/latents'): Site.latents,
    ('POST', '/api/images'): Site.images,
    ('POST', '/api/arrays'): Site.arrays,
    ('GET', '/api/kept'): Site.kept,
    ('PUT', '/api/kept'): Site.keep,
    ('GET', '/api/video'): Site.video,
    ('POST', '/api/video'): Site.begin_video,
    ('DELETE', '/api/video'): Site.cancel_video,
    ('GET', '/api/video/file'): Site.video_file,
}


def _json(value) -> Answer:
    return 'application/json', json.dumps(value).encode()


class Handler(BaseHTTPRequestHandler):
    """Serves a `Site` by HTTP; see :func:`make_server`."""

    protocol_version = 'HTTP/1.1'
    server_version, sys_version = 'explore', ''
    timeout = 60                # Seconds that a browser may take to send a request.
    error_message_format, error_content_type = '%(code)d %(message)s\n', 'text/plain; charset=utf-8'

    def __init__(self, site: Site, *args) -> None:
        self.site = site
        super().__init__(*args)

    def answer(self) -> None:
        begin, status = time.perf_counter(), HTTPStatus.OK
        try:
            self._check_sender()
            kind, body = self._route(self._read_body())
        except (Refusal, UserError) as error:
            status = error.status if isinstance(error, Refusal) else HTTPStatus.BAD_REQUEST
            kind, body = 'text/plain; charset=utf-8', (one_line(error) + '\n').encode()
            self.close_connection = True        # The unread rest of the body must not be parsed as a request.
        self.send_response(status)
        for name, value in {**HEADERS, 'Content-Type': kind, 'Content-Length': str(len(body)),
                            'Server-Timing': f'all;dur={1000 * (time.perf_counter() - begin):.1f}'}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header('Connection', 'close')
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def _check_sender(self):
        own = [f'{name}:{self.server.server_address[1]}' for name in (HOST, 'localhost')]
        hosts, origins = (self.headers.get_all(name, []) for name in ('Host', 'Origin'))
        if len(hosts) != 1 or hosts[0] not in own:
            raise Refusal(HTTPStatus.FORBIDDEN, f'Host: must be {" or ".join(own)}')
        if any(origin not in ['http://' + name for name in own] for origin in origins):
            raise Refusal(HTTPStatus.FORBIDDEN, 'Origin: requests of other pages are refused')
        # Requests may lack an Origin, but a form on another page cannot send this content type.
        if self.command in ('POST', 'PUT') and self.headers.get_content_type() != 'application/json':
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 'Content-Type: must be application/json')

    def _read_body(self):
        length = self.headers.get('Content-Length', '0')
        if 'Transfer-Encoding' in self.headers or not (length.isascii() and length.isdecimal()):
            raise UserError('Content-Length: must be a whole number of bytes')
        if len(length) > 12 or int(length) > MAX_BODY:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f'Content-Length: must be at most {MAX_BODY} bytes')
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise UserError('Content-Length: the body is shorter')
        return body

    def _route(self, body):
        path, _mark, query = self.path.partition('?')
        if self.command == 'GET' and path in PAGE:
            name, kind = PAGE[path]
            with open(os.path.join(FOLDER, name), 'rb') as file:
                return kind, file.read()
        if (self.command, path) in ROUTES:
            return ROUTES[self.command, path](self.site, body, dict(urllib.parse.parse_qsl(query)))
        if path in PAGE or any(path == other for _method, other in ROUTES):
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, 'this address needs another method')
        raise Refusal(HTTPStatus.NOT_FOUND, 'there is nothing at this address')

    def log_message(self, *_args: object) -> None:
        """Print nothing: the page sends many requests a second."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name != 'nt'       # On Windows, two programs could bind the same port.

    def handle_error(self, request, client_address) -> None:
        """Ignore errors of connections that the browser has closed."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def make_server(site: Site, port: int | None = None) -> Server:
    """Create a server for `site`, bound to this machine.

    Parameters
    ----------
    site : Site
    port : int, optional
        0: any free port. Default: the first free one of `DEFAULT_PORTS`.

    Raises
    ------
    UserError
        The port cannot be used, for example because another program uses it.
    """
    for candidate in DEFAULT_PORTS if port is None else [port]:
        try:
            return Server((HOST, candidate), functools.partial(Handler, site))
        except OSError as error:
            reason = error.strerror
    wanted = f'port={port}' if port is not None else f'port: {DEFAULT_PORTS[0]} to {DEFAULT_PORTS[-1]}'
    raise UserError(f'{wanted}: cannot be used ({reason}); choose another one with --port')


def end_as_by_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does, unless the parent process has set them to be ignored."""
    for name in ('SIGTERM', 'SIGHUP'):
        number = getattr(signal, name, None)        # Windows has no SIGHUP.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


@checked
def explore(
    run: Run,                                   # Run or network pickle.
    snapshot: Snapshot | None    = None,        # Snapshot of the run, in kimg. None = the latest.
    net: Literal['G', 'Gs']      = 'Gs',        # 'Gs' = averaged weights, 'G' = weights of the last step.
    port: Port | None            = None,        # None = the first free one from 8765 on.
    browser: bool                = True,        # Open the page in the browser.
    result_dir: FileName         = 'results',
) -> None:
    """Serve a local web page to explore the images of a network, until Ctrl-C."""
    end_as_by_ctrl_c()
    print('Loading the network...')
    G = load_generator(run, snapshot, net, result_dir)
    assert G.source
    folder, name = os.path.split(os.path.abspath(G.source))
    painter = Painter(G)
    with tempfile.TemporaryDirectory(prefix='explore-') as temporary:
        site = Site(painter, os.path.basename(folder), os.path.splitext(name)[0], os.path.join(folder, TRAY_FILE),
                    temporary)
        try:
            server = make_server(site, port)
            with server:
                print('Compiling...')
                print(f'An image of {painter.resolution}x{painter.resolution} takes {site.measure():.3g} s')
                address = f'http://{HOST}:{server.server_address[1]}/'
                print(f'Explore {site.title}, {site.snapshot}, at {address}  (Ctrl-C ends)', flush=True)
                if browser:
                    webbrowser.open(address)
                server.serve_forever()
        except KeyboardInterrupt:
            print('\nEnded;', f'the kept images are in {site.tray.path}' if site.tray.kept else 'no images are kept')
        finally:
            site.close()
