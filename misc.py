"""Image grids, run folders, logs, files that are either complete or not there, and schedules' ramps."""

import contextlib
import difflib
import errno
import itertools
import math
import os
import pickle
import re
import socket
import sys
import threading
import traceback

import numpy as np
from PIL import Image
from tqdm import tqdm

TEMPORARY_SUFFIX = '.tmp'
LOCK_FILE = '.lock'         # In the folder of a run that goes on.
_temporary_counter = itertools.count()


class UserError(ValueError):
    """A mistake of the user, in one line that names the option, its value and the cure; shown without a traceback."""


class WriteError(UserError):
    """A file cannot be written: disk full, no permission, no such folder."""


def did_you_mean(word, candidates, cutoff=0.6):
    """``"; did you mean 'nearest candidate'?"`` for the end of an error message, '' where nothing is near."""
    matches = difflib.get_close_matches(str(word), [str(candidate) for candidate in candidates], n=1, cutoff=cutoff)
    return f'; did you mean {matches[0]!r}?' if matches else ''


def exit_status(script, work, mistakes=UserError, interrupted='interrupted'):
    """Call ``work()`` and return the exit status of `script`; mistakes of the user and Ctrl-C become one line.

    Parameters
    ----------
    script : str
        Its name, for the line.
    work : callable
        Returns an exit status, or None for success.
    mistakes : exception type or tuple of them
        What is told without a traceback: status 1.
    interrupted : str
        What is told after Ctrl-C: status 130.

    Returns
    -------
    int
    """
    try:
        return work() or 0
    except mistakes as error:
        print(f'{script}: error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'{script}: {interrupted}', file=sys.stderr)
        return 130


# ----------------------------------------------------------------------------------------------------------------------
# Images.


def adjust_dynamic_range(data, drange_in, drange_out):
    """Map values linearly so that `drange_in` becomes `drange_out`.

    Parameters
    ----------
    data : ndarray or Theano expression
    drange_in, drange_out : (float, float)
        Lowest and highest value.

    Returns
    -------
    ndarray or Theano expression
        `data` itself when the ranges are equal. Otherwise scale and offset are float32, integers become float32 and
        float64 stays float64. Values outside the range are not clipped.
    """
    if tuple(drange_in) == tuple(drange_out):
        return data
    if isinstance(data, np.ndarray) and data.dtype.kind in 'bui':
        data = data.astype(np.float32)
    low_in, high_in, low_out, high_out = np.float32([*drange_in, *drange_out])
    scale = (high_out - low_out) / (high_in - low_in)
    return data * scale + (low_out - low_in * scale)


def create_image_grid(images, grid_size=None):
    """Lay images out row by row in one image.

    Parameters
    ----------
    images : ndarray, shape (N, C, H, W) or (N, H, W)
    grid_size : (columns, rows), optional
        Default: the smallest nearly square grid that holds them.

    Returns
    -------
    ndarray, shape (C, rows * H, columns * W) or (rows * H, columns * W), dtype of `images`
        Cells without an image are 0.

    Raises
    ------
    ValueError
        The images have other axes, or are more than the grid holds.
    """
    if images.ndim not in (3, 4):
        raise ValueError(f'images of shape {images.shape}: need [N, C, H, W] or [N, H, W]')
    num, (height, width) = len(images), images.shape[-2:]
    if grid_size is None:
        columns = max(math.ceil(math.sqrt(num)), 1)
        grid_size = columns, max(math.ceil(num / columns), 1)
    columns, rows = grid_size
    if num > columns * rows:
        raise ValueError(f'grid_size={tuple(grid_size)}: holds {columns * rows} images, got {num}')
    grid = np.zeros(images.shape[1:-2] + (rows * height, columns * width), dtype=images.dtype)
    for index, image in enumerate(images):
        y, x = index // columns * height, index % columns * width
        grid[..., y:y + height, x:x + width] = image
    return grid


def convert_to_pil_image(image, drange=(0, 1)):
    """A Pillow image of mode L or RGB.

    Parameters
    ----------
    image : ndarray, shape (1, H, W), (3, H, W) or (H, W)
    drange : (float, float)
        The values shown as black and white. Values are rounded half to even, then clipped.

    Raises
    ------
    ValueError
        `image` has another shape.
    """
    if image.ndim == 3 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[0] == 3):
        raise ValueError(f'image of shape {image.shape}: need [1, H, W], [3, H, W] or [H, W]')
    image = np.rint(adjust_dynamic_range(image, drange, (0, 255))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)) if image.ndim == 3 else image)


def save_image(image, path, drange=(0, 1), quality=95):
    """Write one image, (C, H, W) or (H, W); the suffix of `path` tells the format. `quality` is for JPEG."""
    save_pil_image(convert_to_pil_image(image, drange), path, quality)


def save_image_grid(images, path, drange=(0, 1), grid_size=None):
    """Write images (N, C, H, W) or (N, H, W) as one image file; see :func:`create_image_grid`."""
    save_image(create_image_grid(images, grid_size), path, drange)


def save_pil_image(image, path, quality=95):
    """Write a Pillow image; `path` is never seen half-written."""
    extensions = Image.registered_extensions()
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in extensions:
        raise UserError(f'{path}: no image format has the suffix {suffix!r}; use .png or .jpg')
    with atomic_write(path) as image_file:
        image.save(image_file, format=extensions[suffix], quality=quality)


def snapshot_grid_size(height, width):
    """(columns, rows) of the image grids of a training run: what fits on a Full HD screen, within limits."""
    return int(np.clip(1920 // width, 3, 16)), int(np.clip(1080 // height, 2, 16))


# ----------------------------------------------------------------------------------------------------------------------
# Time and schedules.


def progress(iterable, desc, total=None):
    """A progress bar with ETA. Not on a terminal it stays silent for half a minute and is rare after that."""
    seconds = 0 if sys.stderr.isatty() else 30
    return tqdm(iterable, desc=desc, total=total, unit='img', delay=seconds, mininterval=max(seconds, 0.1))


def num_cores():
    """Of this process, where the system can tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def peak_memory():
    """Largest resident memory of this process so far, in bytes."""
    try:
        import resource
    except ImportError:     # Windows.
        import psutil
        memory = psutil.Process().memory_info()
        return getattr(memory, 'peak_wset', memory.rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def format_time(seconds):
    """'12s', '3m 07s', '2h 03m 07s' or '4d 2h 03m'; seconds are rounded half to even."""
    minutes, sec = divmod(int(np.rint(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f'{days}d {hour}h {minute:02d}m'
    if hours:
        return f'{hour}h {minute:02d}m {sec:02d}s'
    if minutes:
        return f'{minute}m {sec:02d}s'
    return f'{sec}s'


def rampup(epoch, rampup_length):
    """Factor that rises from exp(-5) at 0 to 1 at `rampup_length`: ``exp(-5 (1 - epoch / rampup_length)^2)``."""
    if epoch >= rampup_length:
        return 1.0
    remaining = 1.0 - max(epoch, 0.0) / rampup_length
    return math.exp(-5.0 * remaining ** 2)


def rampdown_linear(epoch, num_epochs, rampdown_length):
    """Factor that falls linearly from 1 to 0 over the last `rampdown_length` of `num_epochs`."""
    if rampdown_length <= 0 or epoch < num_epochs - rampdown_length:
        return 1.0
    return max(num_epochs - epoch, 0.0) / rampdown_length


# ----------------------------------------------------------------------------------------------------------------------
# Files.


def temporary_path(path):
    """A name beside `path` that no other writer uses; says who writes it, so that leftovers can be told."""
    return f'{path}.{socket.gethostname()}-{os.getpid()}-{next(_temporary_counter)}{TEMPORARY_SUFFIX}'


def remove_stale_temporaries(path):
    """Delete what writers of `path` on this machine that were killed have left behind.

    Returns
    -------
    list of str
        The files deleted.
    """
    folder, name = os.path.split(path)
    owned = re.compile(re.escape(f'{name}.{socket.gethostname()}-') + r'(\d+)-\d+' + re.escape(TEMPORARY_SUFFIX))
    removed = []
    for entry in os.listdir(folder or '.'):
        match = owned.fullmatch(entry)
        if match and not _process_exists(int(match[1])):
            stale_path = os.path.join(folder, entry)
            with contextlib.suppress(FileNotFoundError):    # Another writer tidies up at the same time.
                os.remove(stale_path)
                removed.append(stale_path)
    return removed


def _process_exists(pid):
    if os.name == 'nt':     # There, os.kill ends the process.
        import psutil
        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


def publish(temporary, path):
    """Give the finished file `temporary` its real name, its content safely on the disk first, and the name after."""
    _fsync(temporary)
    os.replace(temporary, path)
    with contextlib.suppress(OSError):      # Not all file systems let a folder be opened.
        _fsync(os.path.dirname(path) or '.')


def _fsync(path):
    # Windows wants a file that may be written.
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path, mode='wb', **open_kwargs):
    """Open a file for writing that gets its name when it is complete: ``with atomic_write(path) as file: ...``.

    After an exception, or a kill, `path` is what it was before: the old file or none.

    Raises
    ------
    WriteError
        The file cannot be written: no permission, no such folder, disk full.
    """
    path = os.fspath(path)
    temporary = temporary_path(path)
    try:
        with open(temporary, mode, **open_kwargs) as file:
            yield file
        publish(temporary, path)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.remove(temporary)


def append(path, data):
    """Append bytes to a file, all of them or, with a `WriteError`, none."""
    try:
        with open(path, 'ab', buffering=0) as file:
            size = file.tell()
            try:
                while data:
                    data = data[file.write(data):]
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise _write_error(path, error) from error


def _write_error(path, error):
    return WriteError(f'{path}: cannot be written ({error.strerror or error}); choose another folder or make room')


def save_pkl(obj, path):
    """Pickle `obj` into a file that is either complete or not there."""
    with atomic_write(path) as file:
        pickle.dump(obj, file, protocol=4)


def load_pkl(path, build_funcs=()):
    """Read a pickle of networks: ours, or one of the 2017 Theano or the 2018 TensorFlow release; runs nothing in it.

    Parameters
    ----------
    path : str
        A pickle of networks in plain containers, as a rule of the tuple (G, D, Gs).
    build_funcs : sequence of str
        Dotted names of build functions of your own that the file may call, besides those of `networks` and
        `networks_2018`.

    Returns
    -------
    tuple or whatever was pickled
        With `tfutil_shim.Network` objects.

    Raises
    ------
    UserError
        The file cannot be read or is not admitted, see :mod:`legacy` and :mod:`safe_pickle`.
    """
    import legacy  # Which imports this module.

    return legacy.load_pkl(path, build_funcs)


# ----------------------------------------------------------------------------------------------------------------------
# Run folders and their logs.


def create_result_subdir(result_dir, desc):
    """Make the folder ``result_dir/NNN-desc``, NNN being one above the highest number there.

    Two runs that start at the same moment get different numbers.

    Returns
    -------
    str
        Path of the new folder.

    Raises
    ------
    UserError
        The folder cannot be made there, or `desc` is not a file name.
    """
    if os.path.basename(desc) != desc:
        raise UserError(f'desc={desc!r}: becomes part of a folder name; leave out the {os.sep!r}')
    try:
        os.makedirs(result_dir, exist_ok=True)
        number = 0
        while True:
            number = max([number, *(used + 1 for used in _run_numbers(result_dir))])
            # mkdir alone would let '003-a' and '003-b' both succeed: the bare number is taken first.
            reserved = os.path.join(result_dir, f'.{number:03d}')
            try:
                os.mkdir(reserved)
            except FileExistsError:
                number += 1
                continue
            if number not in _run_numbers(result_dir):
                run_dir = os.path.join(result_dir, f'{number:03d}-{desc}')
                os.rename(reserved, run_dir)
                return run_dir
            os.rmdir(reserved)
    except OSError as error:
        raise UserError(f'result_dir={result_dir!r}: cannot make a run folder there ({error.strerror}); choose another '
                        'one with --result-dir') from error


def _run_numbers(result_dir):
    return [int(match[1]) for match in map(re.compile(r'(\d+)(-.*)?').fullmatch, os.listdir(result_dir)) if match]


def locate_run_dir(run, result_dir='results'):
    """The folder of a run.

    Parameters
    ----------
    run : int or str
        Its number, ``3`` or ``'003'``, the name of its folder or a path.
    result_dir : str
        Where run folders are.

    Raises
    ------
    UserError
        There is no such run, or there are several.
    """
    text = str(run)
    for path in (text, os.path.join(result_dir, text)):
        if os.path.isdir(path) and not text.isdecimal():
            return path
    folders = []
    for name in sorted(os.listdir(result_dir)) if os.path.isdir(result_dir) else ():
        path = os.path.join(result_dir, name)
        if re.match(r'\d+', name) and os.path.isdir(path) and {*os.listdir(path)} - {LOCK_FILE}:    # Else just made.
            folders.append(name)
    if text.isdecimal():
        number = re.compile(f'0*{int(text)}(-.*)?')
        matches = list(filter(number.fullmatch, folders))
        if len(matches) == 1:
            return os.path.join(result_dir, matches[0])
        if matches:
            raise UserError(f'run {text}: there are several in {result_dir}, {" and ".join(matches)}; give the folder')
    raise UserError('run %s: no such run in %s%s' % (
        run, result_dir, did_you_mean(text, folders) or '; there are ' + (', '.join(folders) or 'none')))


def list_network_pkls(run_dir):
    """Paths of the network snapshots of a run, the earliest first, ``network-final.pkl`` at the end."""
    pattern = re.compile(r'network-(snapshot-(\d+)|final)\.pkl')
    found = [(not match[2], int(match[2] or 0), match[0]) for match in map(pattern.fullmatch, os.listdir(run_dir))
             if match]
    return [os.path.join(run_dir, name) for _final, _kimg, name in sorted(found)]


def locate_network_pkl(run_or_pkl, snapshot=None, result_dir='results'):
    """Path of a network pickle.

    Parameters
    ----------
    run_or_pkl : int or str
        A run as for :func:`locate_run_dir`, or a pickle.
    snapshot : int, str or None
        Of a run: thousands of images of the snapshot, or ``'final'``. None: the latest.

    Raises
    ------
    UserError
        There is no such file.
    """
    if os.path.isfile(str(run_or_pkl)):
        return str(run_or_pkl)
    if str(run_or_pkl).endswith('.pkl'):
        raise UserError(f'{run_or_pkl}: no such file')
    run_dir = locate_run_dir(run_or_pkl, result_dir)
    pkls = list_network_pkls(run_dir)
    if not pkls:
        raise UserError(f'{run_dir}: has no network snapshots yet')
    if snapshot is None:
        return pkls[-1]
    wanted = 'network-final.pkl' if snapshot == 'final' else f'network-snapshot-{int(snapshot):06d}.pkl'
    for path in pkls:
        if os.path.basename(path) == wanted:
            return path
    raise UserError(f'snapshot={snapshot}: {run_dir} has no {wanted}; there are '
                    f'{", ".join(map(os.path.basename, pkls))}')


def random_latents(num_latents, G, random_state=None):
    """(num_latents, latent_size) float32 standard normal latents for a generator.

    `random_state` is a NumPy generator with a method ``randn``; None: NumPy's global one.
    """
    return (random_state or np.random).randn(num_latents, *G.input_shapes[0][1:]).astype(np.float32)


class OutputLogger:
    """Copies what is printed, on stdout and stderr, into a file: ``with OutputLogger('log.txt'): ...``.

    The file gets finished lines only, as they stand on the screen when the line ends: of a progress bar the last state
    only. An exception that leaves the block is written into the file, too.

    Raises
    ------
    UserError
        The file cannot be written.
    """

    def __init__(self, path):
        try:
            self.file = open(path, 'a', encoding='utf-8')
        except OSError as error:
            raise UserError(f'{path}: the log cannot be written ({error.strerror}); choose another folder') from error
        self.lock = threading.Lock()
        self.streams = None

    def __enter__(self):
        self.streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_LoggedStream(stream, self) for stream in self.streams)
        return self

    def __exit__(self, error_type, error, trace):
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _LoggedStream):
                stream.flush()
                stream.log_pending()
        sys.stdout, sys.stderr = self.streams
        if isinstance(error, UserError):
            self.log(f'error: {error}\n')
        elif error is not None:
            self.log(''.join(traceback.format_exception(error_type, error, trace)))
        with self.lock, contextlib.suppress(OSError):
            self.file.close()

    def log(self, text):
        with self.lock:
            if not self.file.closed:    # A progress bar may outlive the block.
                # A full disk does not end a training; what is not written now is written when there is room.
                with contextlib.suppress(OSError):
                    self.file.write(text)
                    self.file.flush()


class _LoggedStream:
    """Stands in for sys.stdout or sys.stderr within OutputLogger."""

    CONTROL_SEQUENCE = re.compile(r'\x1b\[[0-9;]*[A-Za-z]')

    def __init__(self, stream, logger):
        self.stream = stream
        self.logger = logger
        self.pending = ''

    def write(self, text):
        self.stream.write(text)
        *lines, self.pending = (self.pending + text).split('\n')
        for line in lines:
            self.logger.log(self.visible(line) + '\n')
        # Progress bars return to the start of their line a few times a second: keep the last state only.
        self.pending = self.pending[max(self.pending.rfind('\r', 0, -1), 0):]
        return len(text)

    def visible(self, line):
        """What a terminal shows of a line with carriage returns and control sequences."""
        if '\r' not in line and '\x1b' not in line:
            return line
        shown = ''
        for part in self.CONTROL_SEQUENCE.sub('', line).split('\r'):
            shown = part + shown[len(part):]
        return shown.rstrip()

    def log_pending(self):
        if self.visible(self.pending):
            self.logger.log(self.visible(self.pending) + '\n')
        self.pending = ''

    def __getattr__(self, name):
        return getattr(self.stream, name)
