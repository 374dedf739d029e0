"""Functions of the 2017 and 2018 releases that old scripts call, implemented with ours.

Scripts import them from `misc`, `dataset`, `train` and `util_scripts`.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import lasagne
import numpy as np
import theano
import theano.tensor as T
from theano.sandbox.rng_mrg import MRG_RandomStreams

import theano_env
from common.console import OutputLogger, is_logged
from common.easy_dict import EasyDict
from common.errors import UserError
from common.files import AnyPath, GrowingFile, atomic_write
from common.old_options import find
from data.dataset import Dataset
from metrics import evaluation, results
from nets.network import random_latents
from nets.pickles import load_pkl
from runs.folder import locate_network_pkl, locate_run_dir
from runs.images import num_classes
from training import steps
from training.data_sets import check_data_set, data_path, is_same_set
from training.options import check_arguments
from training.recorded import data_dir_of, read_folder

DATA_DIR = 'datasets'
METRICS_2018 = {'swd': 'swd', 'fid': 'fid', 'is': 'inception_score', 'msssim': 'ms_ssim'}    # {name there: name here}
READING_OPTIONS = ('repeat', 'shuffle_mb', 'prefetch_mb', 'buffer_mb')      # Options of 2018 without effect here.

# ----------------------------------------------------------------------------------------------------------------------
# Runs and networks: misc.


def load_network_pkl(run_id: int | str, snapshot: int | str | None = None, result_dir: str = 'results') -> Any:
    """Load the networks (G, D, Gs) from a run's snapshot, by default the latest, or from a pickle."""
    return load_pkl(locate_network_pkl(run_id, snapshot, result_dir))


def locate_result_subdir(run_id: int | str, result_dir: str = 'results') -> str:
    """Find the folder of a run by number, name or path."""
    return locate_run_dir(run_id, result_dir)


def get_id_string_for_network_pkl(network_pkl: AnyPath) -> str:
    """'RUN-SNAPSHOT' for 'results/RUN/SNAPSHOT.pkl', as a part of file names."""
    folder, name = os.path.split(os.path.abspath(network_pkl))
    return f'{os.path.basename(folder)}-{name.removesuffix(".pkl")}'.lstrip('-')


# ----------------------------------------------------------------------------------------------------------------------
# The log of a script: misc.


class _Unnamed(GrowingFile):
    """Collects output until a file for it is chosen."""

    def __init__(self) -> None:
        super().__init__('')

    def append(self, data: bytes = b'') -> None:
        self.waiting += data


class ScriptLog(OutputLogger):
    """Collects printed output until a file for it is chosen, and writes it there until the program ends."""

    def __init__(self) -> None:     # Without the file that an OutputLogger opens.
        self.start(_Unnamed())

    def write_to(self, path: AnyPath, mode: str) -> None:
        """Log to the file `path` from now on; output that has no file yet is written first."""
        try:
            open(path, mode, encoding='utf-8').close()
        except OSError as error:
            raise UserError(f'{path}: the log cannot be written ({error.strerror}); choose another folder') from error
        before, self.file = self.file, GrowingFile(path)
        if isinstance(before, _Unnamed):
            self.log(before.waiting.decode('utf-8'))


def init_output_logging() -> None:
    """Collect printed output from now on, for :func:`set_output_log_file`."""
    if not isinstance(is_logged(), ScriptLog):
        ScriptLog().__enter__()


def set_output_log_file(filename: AnyPath, mode: str = 'wt') -> None:
    """Write to a file everything printed since :func:`init_output_logging`, and all further output."""
    init_output_logging()
    log = is_logged()
    assert isinstance(log, ScriptLog)
    log.write_to(filename, mode)


# ----------------------------------------------------------------------------------------------------------------------
# Images and datasets: misc, dataset, train.


def apply_mirror_augment(minibatch: np.ndarray) -> np.ndarray:
    """Mirror each of the images (N, C, H, W) with probability 1/2, drawn from NumPy's generator; return a copy."""
    mirrored = np.random.rand(len(minibatch)) < 0.5
    return np.where(mirrored[:, np.newaxis, np.newaxis, np.newaxis], minibatch[..., ::-1], minibatch)


def process_reals(x: Any, lod: Any, mirror_augment: bool, drange_data: Sequence[float],
                  drange_net: Sequence[float]) -> Any:
    """Prepare reals as the 2018 release does: full-size images, faded between two resolutions.

    Parameters
    ----------
    x : expression, shape (N, C, H, W)
        Reals at the resolution of ``floor(lod)``.
    lod : number or scalar expression
    mirror_augment : bool
        Mirror each image with a probability of one half.
    drange_data, drange_net : (float, float)
        Dynamic range (lowest, highest value) of `x` and of the result.

    Returns
    -------
    expression, shape (N, C, 2^floor(lod) H, 2^floor(lod) W), float32
    """
    draws = None
    if mirror_augment:
        draws = MRG_RandomStreams(lasagne.random.get_rng().randint(1, 2147462579)).uniform(
            (x.shape[0],), dtype='float32')
    lod = T.as_tensor_variable(lod)
    images = steps.process_reals(x, lod - T.floor(lod), 0, drange_data, drange_net, draws)
    factor = T.cast(2 ** T.floor(lod), 'int64')
    num, channels, height, width = images.shape
    blocks = T.alloc(np.float32(0), num, channels, height, factor, width, factor) + images.dimshuffle(
        0, 1, 2, 'x', 3, 'x')
    return blocks.reshape((num, channels, height * factor, width * factor))


class OldDataset(Dataset):
    """A dataset with the methods of the 2018 release."""

    def configure(self, minibatch_size: int, lod: float = 0) -> None:
        """Set the defaults of :meth:`get_minibatch_np`."""
        self._chosen_minibatch = minibatch_size, lod

    def get_minibatch_np(self, minibatch_size: int | None = None,
                         lod: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The next images, at the resolution of `lod`, and their labels."""
        chosen = getattr(self, '_chosen_minibatch', (16, 0))
        return self.next_minibatch(chosen[0] if minibatch_size is None else minibatch_size,
                                   chosen[1] if lod is None else lod, shrink_based_on_lod=True)

    def get_random_labels_np(self, minibatch_size: int) -> np.ndarray:
        """Labels of random images."""
        return self.random_labels(minibatch_size)


def dataset_options(options: dict[str, Any], data_dir: str) -> dict[str, Any]:
    """Translate dataset options with names of either release or ours into arguments of :class:`OldDataset`.

    Raises
    ------
    UserError
        The file is missing, or an option has no counterpart.
    """
    ours: dict[str, Any] = {}
    for name, value in options.items():
        old = find(f'dataset.{name}')
        if name in READING_OPTIONS or name == 'verbose':
            continue
        if old and old.ours is None:
            raise UserError(f'dataset.{name}: {old.note}')
        ours[old.ours.partition('.')[2] if old and old.ours else name] = value
    if 'tfrecord_dir' in options:
        ours['h5_path'] = os.path.basename(os.path.normpath(options['tfrecord_dir'])) + '.h5'
        ours.setdefault('max_labels', 0)
        there = sorted(os.listdir(data_dir)) if os.path.isdir(data_dir) else []
        same = [name for name in there if name.endswith('.h5') and is_same_set(name, ours['h5_path'])]
        ours['h5_path'] = ours['h5_path'] if ours['h5_path'] in same or not same else same[0]
    if ours.get('max_labels') == 'full':
        ours['max_labels'] = 'all'
    if 'h5_path' not in ours:
        raise UserError("load_dataset: h5_path is missing, for example h5_path='celeba-hq-1024x1024.h5'")
    check_arguments('dataset', ours, Dataset)
    check_data_set({'dataset': {'h5_path': ours['h5_path']}}, data_dir)
    return {**ours, 'h5_path': data_path(ours['h5_path'], data_dir)}


def load_dataset(dataset_spec: dict[str, Any] | None = None, data_dir: str | None = None, verbose: bool = False,
                 class_name: str | None = None, **options: Any) -> OldDataset:
    """Open a dataset, given options with names of either release or ours.

    Parameters
    ----------
    dataset_spec : dict, optional
        Options; `options` take precedence.
    data_dir : str, optional
        Default: 'datasets'.
    verbose : bool
        Print the shape, dynamic range and label size.
    class_name : str, optional
        Name of a class of the release; has no effect.
    **options
        For example ``tfrecord_dir='celebahq'`` for ``celebahq.h5``, or ``h5_path='celeba-128x128.h5'``.

    Returns
    -------
    OldDataset
    """
    opened = OldDataset(**dataset_options({**(dataset_spec or {}), **options}, data_dir or DATA_DIR))
    if verbose:
        print(f'Dataset shape = {list(opened.shape)}, dynamic range = {list(opened.dynamic_range)}, '
              f'label size = {opened.label_size}')
    return opened


def load_dataset_for_previous_run(run_id: int | str, data_dir: str | None = None, result_dir: str = 'results',
                                  **options: Any) -> tuple[OldDataset, bool]:
    """Open the dataset of a run, unmirrored; also return whether the training mirrored it.

    Parameters
    ----------
    run_id : int or str
    data_dir : str, optional
        Default: the folder recorded by the run.
    result_dir : str
    **options
        Options that replace those of the run.

    Returns
    -------
    (OldDataset, bool)
    """
    run_dir = locate_run_dir(run_id, result_dir)
    experiment, record = read_folder(run_dir)
    data_dir = data_dir or data_dir_of(record, DATA_DIR, experiment)
    recorded = dict(experiment['dataset'])
    mirrored = bool(recorded.pop('mirror_augment', False))
    return load_dataset(recorded, data_dir, **options), mirrored


# ----------------------------------------------------------------------------------------------------------------------
# Images of a trained network: train.imgapi_* of 2017.


def imgapi_load_net(run_id: int | str, snapshot: int | str | None = None, random_seed: int = 1000,
                    num_example_latents: int = 1000, load_dataset: bool = True, compile_gen_fn: bool = True,
                    result_dir: str = 'results') -> EasyDict:
    """Load the networks of a run, with example latents and labels.

    Parameters
    ----------
    run_id, snapshot, result_dir
        See :func:`load_network_pkl`.
    random_seed : int
        Seed of NumPy's global generator, which draws the latents.
    num_example_latents : int
    load_dataset : bool
        Take the labels of random images of the run's dataset. Otherwise the labels cycle through the classes.
    compile_gen_fn : bool
        Compile the function that :func:`imgapi_generate_batch` calls.

    Returns
    -------
    EasyDict
        run_id, snapshot, network_pkl, G, D, Gs, example_latents, example_labels; dataset, gen_fn.
    """
    network_pkl = locate_network_pkl(run_id, snapshot, result_dir)
    G, D, Gs = load_pkl(network_pkl)
    net = EasyDict(run_id=run_id, snapshot=snapshot, network_pkl=network_pkl, G=G, D=D, Gs=Gs)
    np.random.seed(random_seed)
    net.example_latents = random_latents(num_example_latents, Gs)
    if load_dataset:
        net.dataset, _mirrored = load_dataset_for_previous_run(run_id, result_dir=result_dir)
        net.example_labels = net.dataset.random_labels(num_example_latents)
    else:
        size = num_classes(Gs)
        net.example_labels = np.eye(size, dtype=np.float32)[np.arange(num_example_latents) % size] if size else \
            np.zeros((num_example_latents, 0), np.float32)
    if compile_gen_fn:
        imgapi_compile_gen_fn(net)
    return net


def imgapi_compile_gen_fn(net: EasyDict) -> Callable:
    """Compile ``net.gen_fn``: latents, labels -> images (N, C, H, W), float32 from -1 to 1."""
    latents, labels = T.fmatrix('latents'), T.fmatrix('labels')
    images = net.Gs.eval_nd(latents, labels, ignore_unused_inputs=True)
    with theano_env.COMPILING:
        net.gen_fn = theano.function([latents, labels], images, on_unused_input='ignore')
    return net.gen_fn


def imgapi_generate_batch(net: EasyDict, latents: np.ndarray, labels: np.ndarray, minibatch_size: int = 16,
                          convert_to_uint8: bool = False) -> np.ndarray:
    """Generate images (N, C, H, W) from latents and labels: float32 from -1 to 1, or uint8."""
    generate = net.gen_fn if 'gen_fn' in net else imgapi_compile_gen_fn(net)
    parts = [generate(*[np.asarray(array[begin:begin + minibatch_size], np.float32) for array in (latents, labels)])
             for begin in range(0, len(latents), minibatch_size)]
    images = np.concatenate(parts)
    return np.clip(np.rint(images * 127.5 + 127.5), 0, 255).astype(np.uint8) if convert_to_uint8 else images


# ----------------------------------------------------------------------------------------------------------------------
# Metrics and latents: util_scripts.


def interpolate_latents(start: np.ndarray, end: np.ndarray, num_frames: int) -> np.ndarray:
    """Interpolate latents along the great circle: shape (num_frames, ...), both ends included.

    Parameters
    ----------
    start, end : ndarray, shape (..., latent_size)
    num_frames : int
    """
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    lengths = [np.linalg.norm(latents, axis=-1, keepdims=True) for latents in (start, end)]
    directions = [latents / np.maximum(length, 1e-12) for latents, length in zip((start, end), lengths, strict=True)]
    angle = np.arccos(np.clip(np.sum(directions[0] * directions[1], axis=-1, keepdims=True), -1, 1))
    frames = []
    for t in np.linspace(0, 1, num_frames):
        weights = [np.where(angle < 1e-6, weight, np.sin(weight * angle) / np.maximum(np.sin(angle), 1e-12))
                   for weight in (1 - t, t)]
        direction = weights[0] * directions[0] + weights[1] * directions[1]
        frames.append(direction * (lengths[0] * (1 - t) + lengths[1] * t))
    return np.stack(frames).astype(np.float32)


def evaluate_metrics(run_id: int | str, log: str | None = None, metrics: Sequence[str] = ('swd',),
                     num_images: int | None = None, real_passes: int = 1, minibatch_size: int | None = None,
                     data_dir: str | None = None, result_dir: str = 'results', **files: Any) -> list[dict]:
    """Evaluate metrics on all snapshots of a run, as ``python evaluate_metrics.py`` does.

    Parameters
    ----------
    run_id : int or str
    log : str, optional
        File in the run folder that also gets the printed table.
    metrics : sequence of str
        Names of 2018 ('swd', 'fid', 'is', 'msssim') or ours.
    num_images : int, optional
        Generated images. Default: as in the paper.
    real_passes : int
        Has no effect: metrics of the reals themselves are not computed.
    minibatch_size : int, optional
    data_dir, result_dir : str, optional
    **files
        `inception_weights` and `classifier`, see :func:`metrics.evaluation.evaluate_run`.

    Returns
    -------
    list of dict
        See :func:`metrics.evaluation.evaluate_run`.
    """
    run_dir = locate_run_dir(run_id, result_dir)
    names = [METRICS_2018.get(name, name) for name in metrics]
    experiment, record = read_folder(run_dir)
    data_dir = data_dir or data_dir_of(record, DATA_DIR, experiment)
    entries = evaluation.evaluate_run(
        run_dir, names, lambda: load_dataset(experiment['dataset'], data_dir), os.path.join(data_dir, 'metric-cache'),
        num_images=num_images, minibatch_size=minibatch_size or 64, **files)
    table = results.table(entries, names)
    print(table)
    if log is not None:
        with atomic_write(os.path.join(run_dir, log), 'w', encoding='utf-8') as log_file:
            log_file.write(table + '\n')
    return entries


def calc_sliced_wasserstein_scores(run_id: int | str, log: str | None = None, num_images: int | None = None,
                                   **options: Any) -> list[dict]:
    """:func:`evaluate_metrics` for 'swd'."""
    return evaluate_metrics(run_id, log, ['swd'], num_images, **options)


def calc_inception_scores(run_id: int | str, log: str | None = None, num_images: int | None = None,
                          **options: Any) -> list[dict]:
    """:func:`evaluate_metrics` for 'inception_score'."""
    return evaluate_metrics(run_id, log, ['inception_score'], num_images, **options)


def calc_mnist_histogram(run_id: int | str, log: str | None = None, num_images: int | None = None,
                         **options: Any) -> list[dict]:
    """:func:`evaluate_metrics` for 'mnist_modes', which needs `classifier`."""
    return evaluate_metrics(run_id, log, ['mnist_modes'], num_images, **options)
