"""Make a video that interpolates between kept images, in a background thread."""

import contextlib
import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from common.errors import UserError
from common.files import atomic_write
from common.images import convert_to_pil_image, zoomed
from explorer.painter import MINIBATCH_PIXELS, finest_level
from explorer.points import Point, VideoRequest, way
from runs.videos import video_writer

MIN_PIXELS = 512        # Smaller images are enlarged by a whole number, to at most this side.
MAX_FRAMES = 20_000
MAX_GIF_BYTES = 1 << 29 # All frames stay in memory until the file is written.
MAX_CHUNK = 16          # Frames generated at once.

Paint = Callable[[Sequence[Point], int], list[np.ndarray]]


def formats() -> list[str]:
    """The video formats that this machine can write."""
    return (['mp4'] if importlib.util.find_spec('imageio_ffmpeg') else []) + ['gif']


@contextlib.contextmanager
def gif_writer(path: str, fps: float) -> Iterator[Callable[[Image.Image], None]]:
    """Write a GIF that loops forever; used like :func:`runs.videos.video_writer`.

    GIF frames last whole hundredths of a second, and browsers slow down frames shorter than two: the GIF plays at 50
    frames a second at most. Each frame has 256 colours.
    """
    frames: list[Image.Image] = []
    yield lambda image: frames.append(image if image.mode == 'L' else image.quantize(256))
    with atomic_write(path) as file:
        frames[0].save(file, 'GIF', save_all=True, append_images=frames[1:], loop=0,
                       duration=max(round(100 / fps), 2) * 10)


class Film:
    """A video that is being made by a thread.

    Parameters
    ----------
    request : VideoRequest
    paint : callable
        Makes the images of some points at a level of detail. It may be called from any thread.
    resolution : int
        Full resolution of the network, in pixels.
    folder : str
        Folder to write into.

    Attributes
    ----------
    path : str
    frames, done : int
        Number of frames in all, and of those that are made.
    finished : bool
        Whether the file is complete.
    error : str
        One line that says why the video failed; '' if it did not.

    Raises
    ------
    UserError
        The video would be too long or too large, or imageio-ffmpeg is missing.
    """

    def __init__(self, request: VideoRequest, paint: Paint, resolution: int, folder: str) -> None:
        if request.format not in formats():
            raise UserError('format: MP4 needs imageio-ffmpeg (pip install imageio-ffmpeg); choose gif')
        per_step = max(round(request.seconds * request.fps), 1)
        if per_step * len(request.points) > MAX_FRAMES:
            raise UserError(f'seconds={request.seconds:g}: a video has at most {MAX_FRAMES} frames; choose fewer '
                            'seconds or images')
        self.level = finest_level(request.points)
        side = resolution >> self.level
        self._zoom = max(MIN_PIXELS // side, 1)
        if request.format == 'gif' and per_step * len(request.points) * (side * self._zoom) ** 2 > MAX_GIF_BYTES:
            raise UserError('format: a GIF of so many frames would be too large; choose mp4, or fewer seconds')
        self._chunk = int(np.clip(MINIBATCH_PIXELS // side ** 2, 1, MAX_CHUNK))
        self.points = way(request.points, per_step, request.loop)
        self.path = os.path.join(folder, f'interpolation.{request.format}')
        self.frames, self.done, self.finished, self.error = len(self.points), 0, False, ''
        self._fps, self._paint, self._cancelled, self._begin = request.fps, paint, threading.Event(), time.monotonic()
        self._writer = video_writer if request.format == 'mp4' else gif_writer
        self._thread = threading.Thread(target=self._make, daemon=True)
        self._thread.start()

    def state(self) -> dict:
        """Progress, for JSON; ``seconds_left`` is None before the first frame."""
        left = (time.monotonic() - self._begin) * (self.frames - self.done) / self.done if self.done else None
        running = self._thread.is_alive()
        return {'running': running, 'finished': self.finished, 'done': self.done, 'frames': self.frames,
                'error': self.error or ('' if running or self.finished else 'it failed; see the terminal'),
                'seconds_left': left, 'file': os.path.basename(self.path)}

    def cancel(self) -> None:
        """Stop the thread and wait for its end."""
        self._cancelled.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until the video is made or has failed."""
        self._thread.join()

    def _make(self):
        try:
            with self._writer(self.path, self._fps) as write:
                for begin in range(0, self.frames, self._chunk):
                    if self._cancelled.is_set():
                        raise UserError('cancelled')
                    for image in self._paint(self.points[begin:begin + self._chunk], self.level):
                        write(convert_to_pil_image(zoomed(image, self._zoom), (0, 255)))
                        self.done += 1
            self.finished = True
        except UserError as error:
            self.error = str(error)
