"""Images and videos of trained networks, and pages to look at a run: ``python util_scripts.py COMMAND RUN_OR_PKL``.

An entry of `config.py`'s table whose ``train.func`` names one of the functions below runs it in a new run folder:

    'faces': {'desc': 'fake-images', 'train': {'func': 'util_scripts.generate_fake_images', 'run': 3, 'seeds': [1, 2]}},

``run`` is a run's number, its folder or a network pickle. Classes of conditional networks go by their index.
"""

import argparse
import contextlib
import inspect
import itertools
import os
import re
import sys

import numpy as np
import scipy.ndimage
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import theano_env  # isort: skip  (restores what the imports of Theano and Lasagne need)

import theano
import theano.tensor as T

import experiment
import misc
import run_report
import tfutil_shim
from common.errors import UserError, exit_status
from common.files import atomic_write, publish, temporary_path
from common.images import (
    adjust_dynamic_range,
    convert_to_pil_image,
    create_image_grid,
    save_image,
    save_image_grid,
    save_pil_image,
)
from nets import ops
from nets.network import Network, random_latents
from nets.pickles import load_pkl
from run_report import caption_of, list_fakes, read_stats

DYNAMIC_RANGE_NETS = (-1, 1)
MINIBATCH_PIXELS = 1 << 20          # Generated at once; a process that makes a 1024x1024 image takes 1 GB.
VIDEO_QUALITY = 18                  # H.264's constant rate factor: 0 is lossless, 18 looks so.


# ----------------------------------------------------------------------------------------------------------------------
# Networks and what goes into them.


def load_generator(run, snapshot=None, net='Gs', result_dir='results'):
    """A generator out of a network pickle.

    Parameters
    ----------
    run, snapshot, result_dir
        See `misc.locate_network_pkl`.
    net : str
        ``'Gs'``: averaged weights. ``'G'``: those of the last step.
    """
    path = misc.locate_network_pkl(run, snapshot, result_dir)
    if net not in ('G', 'Gs'):
        raise UserError(f"net={net!r}: use 'Gs' or 'G'")
    networks = load_pkl(path)
    if isinstance(networks, tuple) and len(networks) == 3:
        networks = networks[0 if net == 'G' else 2]
    if not isinstance(networks, Network) or len(networks.output_shape) != 4:
        raise UserError(f'{path}: holds no generator')
    return networks


def num_classes(G):
    """Label columns of a generator, 0 of an unconditional one."""
    return G.input_shapes[1][1] if len(G.input_shapes) > 1 else 0


def one_hot(G, classes):
    """(N, label_size) float32 labels for class indices; without columns for an unconditional generator."""
    size = num_classes(G)
    for index in classes:
        if not size:
            raise UserError(f'classes: {G.name} knows no classes, leave them out')
        if not 0 <= index < size:
            raise UserError(f'classes: there is no class {index}, {G.name} has 0 to {size - 1}')
    return np.eye(size, dtype=np.float32)[list(classes)]


def classes_in_turn(G, classes, num):
    """`num` class indices: those given, again and again; None: all of a conditional generator, [] of another one."""
    if not num_classes(G):
        return one_hot(G, classes or []) if classes else []
    classes = list(range(num_classes(G))) if classes is None else list(classes)
    return [classes[index % len(classes)] for index in range(num)]


def generate(G, latents, labels, desc, minibatch_size=None):
    """Yield uint8 images (C, H, W) for latents (N, latent_size) and labels, with a progress bar."""
    minibatch_size = minibatch_size or int(np.clip(MINIBATCH_PIXELS // G.output_shape[-1] ** 2, 1, 64))
    with tqdm(total=len(latents), desc=desc, unit='image') as progress:
        for begin in range(0, len(latents), minibatch_size):
            rows = slice(begin, begin + minibatch_size)
            inputs = [latents[rows], labels[rows] if len(labels) else np.zeros((len(latents[rows]), 0))]
            images = G.run(*inputs, out_mul=127.5, out_add=127.5, out_dtype=np.uint8)
            progress.update(len(images))
            yield from images


# ----------------------------------------------------------------------------------------------------------------------
# Images.


def generate_fake_images(
    run_dir,                    # Folder to write into.
    run,                        # Run or network pickle.
    snapshot        = None,     # Of a run: thousands of images. None = the latest.
    seeds           = None,     # One random image each. None = enough to fill one grid, or 16.
    classes         = None,     # Class indices; each seed in each of them. None = one class after the other.
    grid_size       = None,     # (columns, rows): write grids. None = one file per image.
    image_zoom      = 1,        # Enlarge every pixel to so many.
    net             = 'Gs',     # 'Gs' = averaged weights, 'G' = those of the last step.
    minibatch_size  = None,     # Images generated at once. None = by resolution.
    result_dir      = 'results',
):
    """Write generated images as ``seedNNNN.png`` (``seedNNNN-classK.png``), or as grids ``gridNNN.png``.

    A seed stands for the latents ``RandomState(seed).randn(1, latent_size)``, whatever else is generated. Images come
    class by class, so a grid with as many columns as seeds has one row per class.

    Returns
    -------
    list of str
        The files.
    """
    G = load_generator(run, snapshot, net, result_dir)
    seeds = list(range(np.prod(grid_size or 16)) if seeds is None else seeds)
    if not seeds:
        raise UserError('seeds=[]: give at least one')
    if classes is None:
        jobs = list(zip(seeds, classes_in_turn(G, None, len(seeds)) or [None] * len(seeds), strict=True))
    else:
        one_hot(G, classes)
        jobs = [(seed, index) for index in classes for seed in seeds]
    latents = np.concatenate([random_latents(1, G, np.random.RandomState(seed)) for seed, _class in jobs])
    labels = one_hot(G, [index for _seed, index in jobs if index is not None])
    images = generate(G, latents, labels, 'Generating', minibatch_size)
    paths = []
    if grid_size is None:
        for image, (seed, index) in zip(images, jobs, strict=True):
            name = 'seed%04d%s.png' % (seed, '' if index is None else '-class%d' % index)
            paths.append(os.path.join(run_dir, name))
            save_image(_zoomed(image, image_zoom), paths[-1], (0, 255))
    else:
        cells = int(np.prod(grid_size))
        for number in range(-(-len(jobs) // cells)):
            grid = np.stack(list(itertools.islice(images, cells)))
            paths.append(os.path.join(run_dir, f'grid{number:03d}.png'))
            save_image_grid(_zoomed(grid, image_zoom), paths[-1], (0, 255), grid_size)
    print(f'Wrote {len(paths)} files to {run_dir}')
    return paths


def _zoomed(images, zoom):
    return images if zoom == 1 else images.repeat(zoom, axis=-2).repeat(zoom, axis=-1)


# ----------------------------------------------------------------------------------------------------------------------
# Videos.


@contextlib.contextmanager
def video_writer(path, fps):
    """Write an H.264 video: ``with video_writer('x.mp4', 30) as write: write(image)``.

    The images are Pillow images of one size; an odd row or column gets a black one beside it. `path` is never seen
    half-written.

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
    temporary = temporary_path(path)
    encoder = None

    def write(image):
        nonlocal encoder
        size = tuple(length + length % 2 for length in image.size)
        if encoder is None:
            encoder = imageio_ffmpeg.write_frames(
                temporary, size, fps=fps, codec='libx264', quality=None, macro_block_size=1, ffmpeg_log_level='error',
                output_params=['-crf', str(VIDEO_QUALITY), '-f', 'mp4', '-movflags', '+faststart'])
            encoder.send(None)
        encoder.send(image.convert('RGB').crop((0, 0, *size)).tobytes())

    try:
        yield write
        if encoder is None:
            raise UserError(f'{path}: no images for a video')
        encoder.close()
        publish(temporary, path)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({str(error).strip().splitlines()[0]})') from error
    finally:
        if encoder is not None:
            encoder.close()
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def smooth_latents(num_frames, num_cells, latent_size, sigma_frames, random_state):
    """Latents (num_frames, num_cells, latent_size) float32 that wander: the paper's video.

    Independent normal latents for every frame are blurred over time with a Gaussian and normalised to the length that
    normal latents have on average. The end goes on to the beginning.
    """
    latents = random_state.randn(num_frames, num_cells, latent_size)
    latents = scipy.ndimage.gaussian_filter1d(latents, sigma_frames, axis=0, mode='wrap')
    return (latents / np.sqrt(np.mean(np.square(latents), axis=-1, keepdims=True))).astype(np.float32)


def generate_interpolation_video(
    run_dir,                        # Folder to write into.
    run,                            # Run or network pickle.
    snapshot            = None,     # Of a run: thousands of images. None = the latest.
    duration_seconds    = 60.0,     # The video goes round: it ends where it began.
    fps                 = 60,       # Frames per second.
    smoothing_seconds   = 0.75,     # Standard deviation of the blur over time; the paper's: 45 frames at 60 Hz.
    grid_size           = (1, 1),   # (columns, rows) of images side by side.
    classes             = None,     # Class indices of the grid's cells, in turn. None = one after the other.
    image_zoom          = 1,        # Enlarge every pixel to so many.
    random_seed         = 1000,
    net                 = 'Gs',     # 'Gs' = averaged weights, 'G' = those of the last step.
    minibatch_size      = None,     # Images generated at once. None = by resolution.
    result_dir          = 'results',
):
    """Write ``interpolation.mp4``, a walk through the latent space; see :func:`smooth_latents`.

    Returns
    -------
    str
        The file.
    """
    G = load_generator(run, snapshot, net, result_dir)
    num_frames, num_cells = int(np.rint(duration_seconds * fps)), int(np.prod(grid_size))
    if num_frames < 1:
        raise UserError(f'duration_seconds={duration_seconds!r}: less than one frame')
    latents = smooth_latents(num_frames, num_cells, G.input_shape[1], smoothing_seconds * fps,
                             np.random.RandomState(random_seed))
    labels = one_hot(G, classes_in_turn(G, classes, num_cells) * num_frames)
    images = generate(G, latents.reshape(-1, G.input_shape[1]), labels, 'Generating', minibatch_size)
    path = os.path.join(run_dir, 'interpolation.mp4')
    with video_writer(path, fps) as write:
        for _frame in range(num_frames):
            cells = np.stack(list(itertools.islice(images, num_cells)))
            grid = create_image_grid(_zoomed(cells, image_zoom), grid_size)
            write(convert_to_pil_image(grid, (0, 255)))
    print('Wrote', path)
    return path


def captioned(image, caption, longest_caption):
    """`image` with one line of text in a black strip below it, wide enough for `longest_caption`."""
    height = max(image.height // 32, 14)
    font = ImageFont.load_default(height)
    width = max(image.width, int(font.getlength(longest_caption)) + 2 * height)
    canvas = Image.new('RGB', (width, image.height + 2 * height))
    canvas.paste(image, ((width - image.width) // 2, 0))
    ImageDraw.Draw(canvas).text((width // 2, image.height + height), caption, fill='white', font=font, anchor='mm')
    return canvas


def generate_training_video(
    run_dir,                        # Folder to write into.
    run,                            # Run whose pictures fakesNNNNNN.png to show.
    duration_seconds    = 20.0,     # Without the end.
    hold_seconds        = 2.0,      # For how long the last picture stays.
    fps                 = 30,       # Frames per second.
    captions            = True,     # Thousands of images shown, lod and time below each picture.
    result_dir          = 'results',
):
    """Write ``training.mp4``: how the images of a run's fixed latents develop.

    Returns
    -------
    str
        The file.
    """
    source_dir = misc.locate_run_dir(run, result_dir)
    fakes, stats = list_fakes(source_dir), read_stats(source_dir)
    if not fakes:
        raise UserError(f'{source_dir}: has no pictures fakesNNNNNN.png')
    num_frames = max(int(np.rint(duration_seconds * fps)), 1)
    shown = [index * len(fakes) // num_frames for index in range(num_frames)]
    shown += [len(fakes) - 1] * int(np.rint(hold_seconds * fps))
    texts = [caption_of(kimg, stats) for kimg, _path in fakes]
    longest = max(texts, key=len)
    path = os.path.join(run_dir, 'training.mp4')
    with video_writer(path, fps) as write:
        frame = previous = None
        for index in tqdm(shown, desc='Encoding', unit='frame'):
            if index != previous:
                with Image.open(fakes[index][1]) as image:
                    frame = captioned(image, texts[index], longest) if captions else image.copy()
                previous = index
            write(frame)
    print('Wrote', path)
    return path


# ----------------------------------------------------------------------------------------------------------------------
# The latent of an image.


def load_target(path, G):
    """An image file as (C, H, W) float32 in -1..1, of the shape of what `G` makes: its centre square, resized."""
    channels, resolution = G.output_shape[1], G.output_shape[-1]
    try:
        with Image.open(path) as image:
            image = image.convert('RGB' if channels == 3 else 'L')
    except OSError as error:
        raise UserError(f'image={path!r}: cannot be read ({error.strerror or "not an image"})') from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((resolution, resolution), Image.Resampling.LANCZOS)
    pixels = np.asarray(image).reshape(resolution, resolution, -1).transpose(2, 0, 1)
    return adjust_dynamic_range(pixels, (0, 255), DYNAMIC_RANGE_NETS)


def pyramid_distance(images, target):
    """(N,) mean squared differences of images (N, C, H, W) to an array (1, C, H, W), averaged over a pyramid.

    Its levels are averages over boxes of 1, 2, 4, ... pixels, down to 4x4 pixels in all, and count alike: the coarse
    ones lead the search, the fine ones refine it. Where the target is white, whiter is no difference, and where it is
    black, blacker: picture files hold no more than that.
    """
    lowest = np.where(target <= -1, 0, -np.inf).astype(np.float32)
    highest = np.where(target >= 1, 0, np.inf).astype(np.float32)
    difference, size, levels = T.clip(images - target, lowest, highest), target.shape[-1], []
    while size >= 4:
        levels.append(T.mean(T.sqr(difference), axis=(1, 2, 3)))
        difference, size = ops.downscale2d(difference, 2), size // 2
    return sum(levels) / len(levels)


class _Search:
    """Adam on a minibatch of latents of `G`, compiled once.

    The loss is the :func:`pyramid_distance` plus the prior: normal latents of so many components are all about as long
    as each other, so the mean of their squares should be one.
    """

    def __init__(self, G, target, num_latents, prior_weight):
        self.latents = theano.shared(np.zeros((num_latents, G.input_shape[1]), np.float32), name='latents')
        self.labels = theano.shared(np.zeros((num_latents, num_classes(G)), np.float32), name='labels')
        self.learning_rate = theano.shared(np.float32(0), name='learning_rate')
        images = G.get_output_for(*[self.latents, self.labels][:G.num_inputs], deterministic=True, **G.present_lods())
        distances = pyramid_distance(T.cast(images, 'float32'), target[np.newaxis])
        prior = T.sqr(T.mean(T.sqr(self.latents), axis=1) - 1)
        self.optimizer = tfutil_shim.Optimizer('Projection', learning_rate=self.learning_rate, beta1=0.9, beta2=0.99,
                                               summaries=False)
        self.optimizer.register_gradients(T.sum(distances + prior_weight * prior), [self.latents])
        updates = self.optimizer.apply_updates()
        with theano_env.COMPILING:
            self.step = theano.function([], distances, updates=updates)

    def run(self, latents, labels, num_steps, learning_rate, progress):
        """All latents on the way (num_steps, N, latent_size) and their distances (num_steps, N)."""
        self.latents.set_value(latents)
        self.labels.set_value(labels)
        self.optimizer.reset_optimizer_state()
        trace, distances = [], []
        for step in range(num_steps):
            self.learning_rate.set_value(np.float32(learning_rate * (0.5 + 0.5 * np.cos(np.pi * step / num_steps))))
            trace.append(self.latents.get_value())
            distances.append(np.asarray(self.step()))
            progress.set_postfix(distance=f'{np.nanmin(distances):.5f}', refresh=False)
            progress.update()
        return np.stack(trace), np.stack(distances)


def project_image(
    run_dir,                    # Folder to write into.
    run,                        # Run or network pickle.
    image,                      # Image file; its centre square is used.
    snapshot        = None,     # Of a run: thousands of images. None = the latest.
    num_steps       = 300,      # Adam steps from each starting point.
    num_starts      = None,     # Random starting points; the best end counts. None = 4, or one per class.
    learning_rate   = 0.3,      # Of Adam at the start; it falls to zero along a cosine.
    prior_weight    = 0.01,     # Of the latents' length against the pixels.
    classes         = None,     # Class indices of the starts, in turn. None = one class after the other.
    video           = False,    # Also write a video of the way.
    random_seed     = 1000,
    net             = 'Gs',     # 'Gs' = averaged weights, 'G' = those of the last step.
    minibatch_size  = None,     # Starts at once. None = by resolution.
    result_dir      = 'results',
):
    """Find the latents whose image is nearest to a given one.

    Writes ``projected-latents.npy`` (1, latent_size), with classes ``projected-labels.npy`` (1, label_size), the given
    and the found image side by side as ``projected.png`` and, if wanted, the way as ``projected.mp4``.

    Returns
    -------
    latents : ndarray, shape (1, latent_size), float32
    labels : ndarray, shape (1, label_size), float32
    distance : float
        See :func:`pyramid_distance`.
    """
    G = load_generator(run, snapshot, net, result_dir)
    if num_starts is None:
        num_starts = max(4, num_classes(G) if classes is None else len(classes))
    for name, value in (('num_steps', num_steps), ('num_starts', num_starts)):
        if value < 1:
            raise UserError(f'{name}={value!r}: must be at least 1')
    target = load_target(image, G)
    limit = minibatch_size or int(np.clip(MINIBATCH_PIXELS // G.output_shape[-1] ** 2, 1, 64))
    num_batches = -(-num_starts // limit)
    batch_size = -(-num_starts // num_batches)      # All the same, for the sake of one compiled function.
    starts = random_latents(num_batches * batch_size, G, np.random.RandomState(random_seed))
    labels = one_hot(G, classes_in_turn(G, classes, len(starts))).reshape(len(starts), -1)
    print('Compiling...')
    search, best = _Search(G, target, batch_size, prior_weight), (np.inf,)
    with tqdm(total=num_batches * num_steps, desc='Projecting', unit='step') as progress:
        for begin in range(0, len(starts), batch_size):
            rows = slice(begin, begin + batch_size)
            trace, distances = search.run(starts[rows], labels[rows], num_steps, learning_rate, progress)
            step, row = np.unravel_index(np.nanargmin(distances), distances.shape)
            if distances[step, row] < best[0]:
                best = float(distances[step, row]), trace[:step + 1, row], labels[begin + row:begin + row + 1]
    distance, way, label = best
    save_projection(run_dir, G, target, way, label, video)
    print(f'Distance {distance:.5f}; wrote the latents to {os.path.join(run_dir, "projected-latents.npy")}')
    return way[-1:], label, distance


def save_projection(run_dir, G, target, way, label, video, fps=30):
    """Write the files of :func:`project_image`; `way` is (steps, latent_size)."""
    arrays = {'latents': way[-1:], 'labels': label}
    for name, array in arrays.items():
        if array.shape[1]:
            with atomic_write(os.path.join(run_dir, f'projected-{name}.npy')) as file:
                np.save(file, array)
    target = np.rint(adjust_dynamic_range(target, DYNAMIC_RANGE_NETS, (0, 255))).astype(np.uint8)

    def beside_target(images):
        return (convert_to_pil_image(np.concatenate([target, image], axis=2), (0, 255)) for image in images)

    picture, = beside_target(generate(G, way[-1:], label, 'Generating'))
    save_pil_image(picture, os.path.join(run_dir, 'projected.png'))
    if video:
        with video_writer(os.path.join(run_dir, 'projected.mp4'), fps) as write:
            for frame in beside_target(generate(G, way, label.repeat(len(way), axis=0), 'Encoding')):
                write(frame)


# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def number_list(text):
    """'0-3,7' -> [0, 1, 2, 3, 7]."""
    numbers = []
    for part in text.split(','):
        match = re.fullmatch(r'(\d+)(?:-(\d+))?', part)
        if not match:
            raise argparse.ArgumentTypeError(f'{text!r}: write numbers and ranges, for example 0-3,7')
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return numbers


def grid(text):
    """'8x4' -> (8, 4)."""
    match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'{text!r}: write COLUMNSxROWS, for example 8x4')
    return int(match[1]), int(match[2])


OPTIONS = {     # Of all commands; defaults are those of the functions.
    'snapshot': {'metavar': 'KIMG', 'help': "thousands of images, or 'final'; default: the latest"},
    'seeds': {'type': number_list, 'metavar': 'LIST', 'help': 'one random image each, for example 0-15,40'},
    'classes': {'type': number_list, 'metavar': 'LIST', 'help': 'class indices; default: one after the other'},
    'grid_size': {'type': grid, 'metavar': 'COLUMNSxROWS', 'help': 'images side by side, for example 8x4'},
    'image_zoom': {'type': int, 'metavar': 'N', 'help': 'enlarge every pixel; default: %(default)s'},
    'net': {'choices': ['G', 'Gs'], 'help': 'default: %(default)s, with averaged weights'},
    'minibatch_size': {'type': int, 'metavar': 'N', 'help': 'images at once; default: by resolution'},
    'duration_seconds': {'type': float, 'metavar': 'S', 'help': 'default: %(default)s'},
    'smoothing_seconds': {'type': float, 'metavar': 'S', 'help': 'blur of the latents; default: %(default)s'},
    'hold_seconds': {'type': float, 'metavar': 'S', 'help': 'the last picture stays; default: %(default)s'},
    'fps': {'type': int, 'metavar': 'N', 'help': 'frames per second; default: %(default)s'},
    'captions': {'action': argparse.BooleanOptionalAction, 'help': 'kimg, lod and time below the pictures'},
    'random_seed': {'type': int, 'metavar': 'N', 'help': 'default: %(default)s'},
    'num_steps': {'type': int, 'metavar': 'N', 'help': 'Adam steps; default: %(default)s'},
    'num_starts': {'type': int, 'metavar': 'N', 'help': 'random starting points; default: 4, or one per class'},
    'learning_rate': {'type': float, 'metavar': 'X', 'help': 'default: %(default)s'},
    'prior_weight': {'type': float, 'metavar': 'X', 'help': "of the latents' length; default: %(default)s"},
    'video': {'action': 'store_true', 'help': 'also write a video of the way'},
}

COMMANDS = {    # function: (help, examples, what it takes beside a run)
    generate_fake_images: (
        'Write generated images, single or in grids.',
        ['generate_fake_images 3 --seeds 0-99',
         'generate_fake_images 000-digits --seeds 0-9 --classes 0-9 --grid-size 10x10',
         'generate_fake_images karras2018iclr-celebahq-1024x1024.pkl --seeds 1000'], ()),
    generate_interpolation_video: (
        'Write a video of images that change into each other.',
        ['generate_interpolation_video 3 --duration-seconds 20 --grid-size 3x2',
         'generate_interpolation_video 000-digits --grid-size 10x1 --classes 0-9 --image-zoom 4'], ()),
    generate_training_video: (
        "Write a video of a run's pictures fakesNNNNNN.png.",
        ['generate_training_video 3',
         'generate_training_video results/000-digits --duration-seconds 10 --no-captions'], ()),
    project_image: (
        'Find the latents of a given image.',
        ['project_image 3 face.png',
         'project_image 000-digits seven.png --classes 7 --num-starts 8 --video'], ('image',)),
}


def parse_arguments(argv, config):
    parser = argparse.ArgumentParser(description='Make images and videos of trained networks, or a page on a run.',
                                     epilog='More on each: python util_scripts.py COMMAND --help')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for function, (help_text, examples, positional) in COMMANDS.items():
        command = commands.add_parser(
            function.__name__, help=help_text, description=help_text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog='examples:\n' + '\n'.join('  python util_scripts.py ' + example for example in examples))
        command.add_argument('run', metavar='RUN_OR_PKL', help='number or folder of a run, or a network pickle')
        for name in positional:
            command.add_argument(name, metavar=name.upper())
        for name, parameter in inspect.signature(function).parameters.items():
            if name in OPTIONS:
                command.add_argument('--' + name.replace('_', '-'), default=parameter.default, **OPTIONS[name])
        command.add_argument('--out', metavar='DIR', help='folder to write; default: a new one in the result folder')
        command.add_argument('--result-dir', default=config.result_dir, metavar='DIR', help='default: %(default)s')
        command.add_argument('--engine', default=config.engine, help='what computes; default: %(default)s')
        command.set_defaults(command=function.__name__)
    command = commands.add_parser(
        'report', help='Write a page to look at a run: curves, timing, pictures, metrics, configuration.',
        description='Write one self-contained HTML page with the curves, timing, pictures, metrics and configuration '
                    'of a run. It opens in any browser, without a server; the run may be going on.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n  python util_scripts.py report 3\n'
               '  python util_scripts.py report results/000-digits --out digits.html')
    command.add_argument('run', metavar='RUN', help='number or folder of a run')
    command.add_argument('--out', metavar='FILE', help='default: report.html in the folder of the run')
    command.add_argument('--result-dir', default=config.result_dir, metavar='DIR', help='default: %(default)s')
    command.set_defaults(command='report', engine=None)
    return vars(parser.parse_args(argv))


def run_command(args, config):
    """Run a command with the options that :func:`parse_arguments` returned."""
    command, out, result_dir, engine = (args.pop(name) for name in ('command', 'out', 'result_dir', 'engine'))
    chosen = {'desc': command.replace('_', '-'), 'train': {'func': 'util_scripts.' + command, **args}}
    if command == 'report':
        run_report.write_report(misc.locate_run_dir(args['run'], result_dir), out)
    else:
        experiment.run_utility(chosen, result_dir, engine, config.theano_flags, config.precision, out)


def main(argv=None):
    """Run a command; return the exit status."""
    import config
    args = parse_arguments(argv, config)
    return exit_status('util_scripts.py', lambda: run_command(args, config),
                       (UserError, theano_env.EnvironmentProblem))


if __name__ == '__main__':
    sys.exit(main())
