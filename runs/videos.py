"""Videos of interpolations in latent space and of the progress of a training."""

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any, Literal

import numpy as np
import scipy.ndimage
from PIL import Image, ImageDraw, ImageFont

from common.console import progress
from common.errors import UserError, one_line
from common.files import publish, temporary_path
from common.images import (
    convert_to_pil_image,
    create_image_grid,
    zoom_to_see,
    zoomed,
)
from common.options import (
    BatchNorm,
    Classes,
    FileName,
    FramesPerSecond,
    GridSize,
    PositiveInt,
    Run,
    Seconds,
    Seed,
    Snapshot,
    Zoom,
    checked,
)
from runs.folder import locate_run_dir
from runs.images import classes_in_turn, generate, load_generator, one_hot
from runs.records import caption_of, list_fakes, load_picture, read_stats

VIDEO_PIXELS = 720                  # Small images are enlarged until the longer side of the video is about this long.
VIDEO_QUALITY = 18                  # H.264's constant rate factor: 0 is lossless, 18 looks lossless.


@contextlib.contextmanager
def video_writer(path: str, fps: float) -> Iterator[Callable[[Image.Image], None]]:
    """Write an H.264 video: ``with video_writer('x.mp4', 30) as write: write(image)``.

    The images are Pillow images of one size; H.264 needs even sides, so a black row or column is added to odd ones. The
    file appears under `path` only when it is complete.

    Raises
    ------
    UserError
        imageio-ffmpeg is missing, or the file cannot be written.
    """
    if not path.endswith('.mp4'):
        raise UserError(f'{path}: videos are .mp4 files')
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError('videos need imageio-ffmpeg: pip install imageio-ffmpeg') from error
    temporary = os.path.abspath(temporary_path(path))       # ffmpeg could take a relative path for an option or a URL.
    encoder: subprocess.Popen | None = None
    with tempfile.TemporaryFile() as errors:

        def write(image):
            nonlocal encoder
            size = tuple(length + length % 2 for length in image.size)
            if encoder is None:
                encoder = start_encoder(imageio_ffmpeg.get_ffmpeg_exe(), temporary, size, fps, errors)
            assert encoder.stdin is not None
            encoder.stdin.write(image.convert('RGB').crop((0, 0, *size)).tobytes())

        try:
            yield write
            if encoder is None:
                raise UserError(f'{path}: no images for a video')
            encoder.communicate()       # Close its input and wait.
            if encoder.returncode:
                raise OSError(f'ffmpeg ended with exit status {encoder.returncode}')
            publish(temporary, path)
        except OSError as error:        # For example a broken pipe, since ffmpeg stops reading when it fails.
            if encoder is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):    # Wait for its error message.
                    encoder.wait(10)
            reason = last_line(errors) or error.strerror or error
            raise UserError(f'{path}: cannot be written ({one_line(reason)}); choose another folder or make '
                            'room') from error
        finally:
            if encoder is not None:
                encoder.kill()
                encoder.wait()
                with contextlib.suppress(OSError, ValueError):      # Flushing unread input fails.
                    encoder.communicate()
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)


def start_encoder(ffmpeg: str, path: str, size: tuple[int, int], fps: float, errors: IO[bytes]) -> subprocess.Popen:
    """Start ffmpeg, which encodes RGB images from its stdin into `path` and writes messages to the file `errors`."""
    return subprocess.Popen(
        [ffmpeg, '-y', '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', '%dx%d' % size, '-r', str(fps), '-i', '-', '-an',
         '-c:v', 'libx264', '-pix_fmt', 'yuv420p', '-v', 'error', '-crf', str(VIDEO_QUALITY), '-f', 'mp4', '-movflags',
         '+faststart', path],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors,
        start_new_session=True)     # Ctrl-C reaches this process only, which then ends ffmpeg.


def last_line(file: IO[bytes]) -> str:
    """The last line of an open file that is not blank; '' if there is none."""
    file.seek(0)
    lines = file.read().decode(errors='replace').split('\n')
    return next((line.strip() for line in reversed(lines) if line.strip()), '')


def smooth_latents(num_frames: int, num_cells: int, latent_size: int, sigma_frames: float,
                   random_state: np.random.RandomState) -> np.ndarray:
    """Latents (num_frames, num_cells, latent_size), float32, that change smoothly, as in the paper's video.

    Independent normal latents of all frames are blurred over time with a Gaussian and normalized to a mean square of 1.
    The last frame leads back to the first.
    """
    latents = random_state.randn(num_frames, num_cells, latent_size)
    if sigma_frames >= 0.125:       # Below, SciPy's filter has one tap.
        latents = scipy.ndimage.gaussian_filter1d(latents, sigma_frames, axis=0, mode='wrap')
    return (latents / np.sqrt(np.mean(np.square(latents), axis=-1, keepdims=True))).astype(np.float32)


@checked
def generate_interpolation_video(
    run_dir,                                         # Folder to write into.
    run: Run,                                        # Run or network pickle.
    snapshot: Snapshot | None          = None,       # Snapshot of the run, in kimg. None = the latest.
    duration_seconds: Seconds          = 10.0,       # The video is a loop.
    fps: FramesPerSecond               = 30,         # Frames per second; the paper: 60.
    smoothing_seconds: Seconds         = 0.75,       # Sigma of the blur over time; the paper: 45 frames at 60 Hz.
    grid_size: GridSize                = (1, 1),     # (columns, rows) of images side by side.
    classes: Classes | None            = None,       # Numbers or names of classes. None = cycle through all.
    image_zoom: Zoom | None            = None,       # Enlarge every pixel. None = to about 720 pixels.
    random_seed: Seed                  = 1000,
    net: Literal['G', 'Gs']            = 'Gs',       # 'Gs' = averaged weights, 'G' = weights of the last step.
    minibatch_size: PositiveInt | None = None,       # Images generated at once. None = by resolution.
    batchnorm: BatchNorm               = 'minibatch',    # Statistics: of the 'minibatch', or 'running' averages.
    result_dir: FileName               = 'results',
) -> str:
    """Write ``interpolation.mp4``, a walk through the latent space; see :func:`smooth_latents`.

    With ``batchnorm='minibatch'``, the image jumps between minibatches; with ``'running'``, the video is smooth.

    Returns
    -------
    str
        Path of the file.
    """
    G = load_generator(run, snapshot, net, result_dir)
    num_frames, num_cells = int(np.rint(duration_seconds * fps)), int(np.prod(grid_size))
    if num_frames < 1:
        raise UserError(f'duration_seconds={duration_seconds!r}: less than one frame')
    latents = smooth_latents(num_frames, num_cells, G.input_shape[1], smoothing_seconds * fps,
                             np.random.RandomState(random_seed))
    labels = one_hot(G, classes_in_turn(G, classes, num_cells) * num_frames)
    images = generate(G, latents.reshape(-1, G.input_shape[1]), labels, 'Generating', minibatch_size,
                      batchnorm)
    zoom = image_zoom or zoom_to_see(grid_size[1] * G.output_shape[-2], grid_size[0] * G.output_shape[-1], VIDEO_PIXELS)
    path = os.path.join(run_dir, 'interpolation.mp4')
    with video_writer(path, fps) as write:
        for _frame in range(num_frames):
            cells = np.stack(list(itertools.islice(images, num_cells)))
            grid = create_image_grid(zoomed(cells, zoom), grid_size)
            write(convert_to_pil_image(grid, (0, 255)))
    print('Wrote', path)
    return path


def subtitled(image: Image.Image, caption: str, longest_caption: str) -> Image.Image:
    """Add a black strip with a caption below an image; the result is wide enough for `longest_caption`."""
    height = max(image.height // 32, 14)
    font = ImageFont.load_default(height)
    width = max(image.width, int(font.getlength(longest_caption)) + 2 * height)
    canvas = Image.new('RGB', (width, image.height + 2 * height))
    canvas.paste(image, ((width - image.width) // 2, 0))
    ImageDraw.Draw(canvas).text((width // 2, image.height + height), caption, fill='white', font=font, anchor='mm')
    return canvas


@checked
def generate_training_video(
    run_dir,                                # Folder to write into.
    run: Run,                               # Run whose pictures fakesNNNNNN.png are shown.
    duration_seconds: Seconds = 20.0,       # Without hold_seconds.
    hold_seconds: Seconds     = 2.0,        # How long the last picture stays.
    fps: FramesPerSecond      = 30,         # Frames per second.
    captions: bool            = True,       # Kimg, resolution, lod and time below each picture.
    result_dir: FileName      = 'results',
) -> str:
    """Write ``training.mp4``, which shows how the images of fixed latents change during a training.

    Returns
    -------
    str
        Path of the file.
    """
    source_dir = locate_run_dir(run, result_dir)
    fakes, stats = list_fakes(source_dir), read_stats(source_dir)
    damaged = [path for _kimg, path in fakes if load_picture(path) is None]
    fakes = [(kimg, path) for kimg, path in fakes if path not in damaged]
    if damaged:
        print(f'{source_dir}: {len(damaged)} pictures cannot be read and are left out, the first is '
              f'{os.path.basename(damaged[0])}', file=sys.stderr)
    if not fakes:
        raise UserError(f'{source_dir}: has no pictures fakesNNNNNN.png')
    num_frames = max(int(np.rint(duration_seconds * fps)), 1)
    shown = [index * len(fakes) // num_frames for index in range(num_frames)]
    shown += [len(fakes) - 1] * int(np.rint(hold_seconds * fps))
    texts = [caption_of(kimg, stats) for kimg, _path in fakes]
    longest = max(texts, key=len)
    path = os.path.join(run_dir, 'training.mp4')
    with video_writer(path, fps) as write:
        frame: Any = None
        previous = None
        for index in progress(shown, 'Encoding', unit='frames'):
            if index != previous:
                image = load_picture(fakes[index][1])
                assert image, 'damaged pictures are left out'
                frame = subtitled(image, texts[index], longest) if captions else image
                previous = index
            write(frame)
    print('Wrote', path)
    return path
