"""``python train.py --data PICTURES``: makes an experiment for the user's own pictures.

On a GPU, networks and schedule are the paper's for the resolution. They would take months on a CPU, which gets the
widest networks that train within hours and still see enough images at each resolution.
"""

import argparse
import glob
import hashlib
import itertools
import os
import pprint
import re
import zipfile
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

import h5py

import theano_env
from common.errors import UserError, did_you_mean
from common.machine import num_cores
from common.options import NetResolution, check_value
from data import hdf5_format
from data.picture_folder import PictureFolder, find_pictures
from data.pictures import ImageKind, picture_kind
from nets.network import Network
from nets.ranks import Ranks
from training import plan, recorded


class PaperRow(NamedTuple):
    """Networks and schedule of the paper for a resolution, and their source."""

    fmap_base: int
    fmap_max: int           # Also the number of latents.
    lod_kimg: int           # Length of the training at each resolution, and of each fade-in.
    total_kimg: int
    source: str


# Other resolutions use the next larger row: smaller networks of the paper are the lower part of a larger one.
PAPER = {
    32: PaperRow(4096, 128, 400, 20000, 'CIFAR-10, appendix D'),
    128: PaperRow(8192, 512, 800, 20000, 'Table 1, row h'),
    256: PaperRow(8192, 512, 800, 20000, 'LSUN, appendix G'),
    1024: PaperRow(8192, 512, 800, 19000, 'CelebA-HQ, Table 2'),
}
LARGEST = max(PAPER)
MINIBATCH = 16
MINIBATCHES = {256: 14, 512: 6, 1024: 3}    # The paper's minibatches on a GPU; on a CPU, 16 images always fit.
SMALLEST_MINIBATCH = 3
DIVISORS = 1, 2, 4, 8, 16   # The paper's numbers of feature maps may be divided by one of these.
LEAST_MAPS = 32, 8          # Smallest number of feature maps in the widest layer and at the full resolution.
MEMORY_SHARE = 0.8      # Share of the memory that a training may use by the estimate of `plan`.

# Speed of two cores of an AMD EPYC (Zen 3), where a thousand images took 29 seconds at 32x32 with 64 feature maps
# (benchmarks/README.md) and 4.5 at 16x16 in the demo. It is a constant, so that the same command chooses the same
# networks on a busy machine.
CPU_SPEED = plan.Speed(flops=115e9, launch=42e-6)
USEFUL_CORES = 16       # More cores do not make such small networks faster.
CPU_HOURS = 6
LEAST_KIMG = 60         # Kimg per resolution. With fewer, networks learn only outlines and colours.
LAST_PHASES = 4         # Phases of the full resolution after its fade-in, as in the paper.

SAMPLE = 64             # Number of pictures whose sizes are read.
FEW_PICTURES = 1000


class Machine(NamedTuple):
    """The device that a training runs on."""

    device: str             # 'cpu', 'cuda:0', ...
    memory_gb: float        # Memory of the device.
    cores: int              # Threads that compute.


class Source(NamedTuple):
    """A collection of pictures, or an existing dataset."""

    name: str               # Name for the experiment, without the resolution.
    path: str
    num_images: int
    side: int               # Shorter side in pixels.
    digest: str | None      # Digest of the pictures; None for a dataset.


class Sizes(NamedTuple):
    """Network widths, minibatches and schedule for a resolution and a machine."""

    fmap_base: int
    fmap_max: int
    minibatches: dict[int, int]     # {resolution: images} if it differs from `MINIBATCH`.
    schedule: dict[str, Any]        # Further options of the training.
    hours: float | None             # Estimated duration on a CPU.


# ----------------------------------------------------------------------------------------------------------------------
# The command line.


def choose(config: ModuleType, args: argparse.Namespace, ranks: Ranks, train_gan: Callable) -> recorded.Chosen:
    """Complete a command line of `train.py`, with or without ``--data``; see :func:`training.recorded.choose`.

    Raises
    ------
    UserError
        There are no such pictures, they are too small, or this machine is too small for them.
    """
    if args.data is None:
        for option in ('resolution', 'labels'):
            if getattr(args, option):
                raise UserError(f'--{option}: needs --data PICTURES; for an experiment, use --set dataset.'
                                f'{"resolution" if option == "resolution" else "max_labels"}=VALUE')
        return recorded.choose(config, args, ranks, train_gan)
    for option in ('experiment', 'resume'):
        if getattr(args, option) is not None:
            raise UserError(f'--data {args.data} and --{option}: omit one of them; --data makes a new experiment')
    data_dir = args.data_dir or config.data_dir
    environment = theano_env.configure(*recorded.environment_options(config, args, {}, ranks)[:2],
                                       ranks.local_rank if ranks.size > 1 else None)
    experiment, lines = make_experiment(args.data, args.resolution, args.labels, data_dir, machine_of(environment))
    if args.overrides:
        lines.append(f'Changed by --set: {", ".join(args.overrides)}')
    if ranks.rank == 0:
        print('\n'.join(lines))
    with_entry = ModuleType(config.__name__)
    vars(with_entry).update(vars(config), experiment=experiment['desc'],
                            experiments={**config.experiments, experiment['desc']: experiment})
    chosen = recorded.choose(with_entry, args, ranks, train_gan)
    return chosen._replace(origin={**chosen.origin, 'experiment': None})     # `config.py` has no such experiment.


def make_experiment(path: str, resolution: int | None, labels: bool, data_dir: str,
                    machine: Machine) -> tuple[dict[str, Any], list[str]]:
    """Make an experiment for pictures, as an entry of `config.py`, and lines that describe the choice.

    Parameters
    ----------
    path : str
        Folder or .zip file of pictures, or a dataset in an HDF5 file.
    resolution : int or None
        None: the largest one that fits the pictures and the machine.
    labels : bool
        Train with the labels of the dataset, or with sub-folders as classes.
    data_dir : str
        Folder of the datasets.
    machine : Machine

    Returns
    -------
    (dict, list of str)

    Raises
    ------
    UserError
    """
    if resolution is not None:
        check_value('--resolution', resolution, NetResolution, ' ')
    source = find_source(path, labels)
    resolution, sizes = choose_sizes(source, resolution, machine)
    name = f'{source.name}-{resolution}x{resolution}'
    experiment: dict[str, Any] = {'desc': name, 'dataset': {
        'h5_path': source.path, 'resolution': resolution, 'max_labels': 'all' if labels else 0,
        'mirror_augment': False, **({'require_labels': True} if labels else {})}}
    if source.digest is not None:
        experiment['dataset']['h5_path'] = f'{name}{"-classes" if labels else ""}-{source.digest}.h5'
        experiment['create_dataset'] = {'func': 'dataset_tool.create_from_images', 'image_dir': source.path,
                                        'resize': resolution, 'skip_bad': True, 'labels': labels}
    widths = {'fmap_base': sizes.fmap_base, 'fmap_max': sizes.fmap_max}
    experiment.update(
        G={'func': 'networks.G_paper', **widths, 'latent_size': sizes.fmap_max},
        D={'func': 'networks.D_paper', **widths, 'use_gdrop': False}, loss={'type': 'iwass'},
        train={**sizes.schedule, 'minibatch_default': MINIBATCH, 'minibatch_overrides': sizes.minibatches})
    return experiment, describe(source, experiment, sizes, data_dir, machine)


def describe(source: Source, experiment: dict[str, Any], sizes: Sizes, data_dir: str, machine: Machine) -> list[str]:
    """Lines that describe the experiment chosen for pictures, and the reasons."""
    resolution, file = (experiment['dataset'][key] for key in ('resolution', 'h5_path'))
    row, train = paper_row(resolution), experiment['train']
    h5_path = os.path.join(data_dir, file)
    state = 'used unchanged'
    if source.digest is not None:
        state = 'already made' if os.path.exists(h5_path) else 'will be made'
    share = row.fmap_max // sizes.fmap_max
    lines = [
        f'{experiment["desc"]}: {source.num_images} pictures in {h5_path}, {state}',
        f'Networks: {sizes.fmap_max} maps, '
        + (f'the paper has {row.fmap_max}' if share > 1 else f"the paper's ({row.source})") + '; schedule: '
        f'{train["lod_training_kimg"]:g} kimg at each resolution, {train["total_kimg"]:g} in all']
    if sizes.hours is not None:
        lines.append(f'No GPU: sizes for a training of about {max(sizes.hours, 1):.0f} hours on '
                     f'{machine.cores} idle core{"s" * (machine.cores > 1)}; the paper trains for '
                     f'{row.total_kimg} kimg')
    if source.num_images < FEW_PICTURES:
        lines.append(f'{source.num_images} pictures are few: the networks may memorize them (the paper uses at least '
                     '30 000)')
    if source.digest is not None:
        pattern = glob.escape(h5_path.removesuffix(f'{source.digest}.h5')) + '?' * len(source.digest) + '.h5'
        lines += [f'{other} holds other pictures or an earlier version of these; delete it if you do not need it'
                  for other in sorted(glob.glob(pattern)) if other != h5_path]
    return lines


def entry_text(experiment: dict[str, Any]) -> str:
    """Source text of an experiment, to paste into the table of `config.py`."""
    lines = [f'    {experiment["desc"]!r}: {{']
    for section, value in experiment.items():
        begin = f'        {section!r}: '
        text = pprint.pformat(value, width=119 - len(begin), sort_dicts=False, compact=True)
        lines.append(begin + text.replace('\n', '\n' + ' ' * len(begin)) + ',')
    return '\n'.join([*lines, '    },'])


# ----------------------------------------------------------------------------------------------------------------------
# Pictures.


def find_source(path: str, labels: bool) -> Source:
    """The :class:`Source` at a path.

    Raises
    ------
    UserError
        The path has no pictures, or no labels although `labels` is set.
    """
    option, full = f'--data {path}', os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(full):
        above, name = os.path.split(full)
        near = did_you_mean(name, os.listdir(above)) if os.path.isdir(above) else ''
        raise UserError(f'{option}: there is no such folder or file{near}')
    stem = os.path.splitext(os.path.basename(full))[0] if os.path.isfile(full) else os.path.basename(full)
    name = re.sub('[^A-Za-z0-9_]+', '-', stem).strip('-')[:100] or 'pictures'
    if os.path.isfile(full) and h5py.is_hdf5(full):
        h5, levels = hdf5_format.open_levels(full)
        with h5:
            side = max(levels)
            num_images = levels[side].shape[0]
        return Source(re.sub(r'-\d+x\d+(-classes)?(-[0-9a-f]{8})?$', '', name), full, num_images, side, None)
    if os.path.isfile(full) and not zipfile.is_zipfile(full):
        raise UserError(f'{option}: is not a folder of pictures, .zip file or dataset (HDF5); unpack other archives')
    if os.path.isdir(full) and glob.glob(os.path.join(glob.escape(full), '*.tfrecords')):
        raise UserError(f'{option}: has TFRecords; make a dataset with `python dataset_tool.py create_from_tfrecords '
                        f'{path} {name}.h5`, and use --data {name}.h5')
    try:
        folder = find_pictures(full)
    except UserError as error:
        raise UserError(str(error).replace(f'IMAGE_DIR={full!r}', option, 1)) from error
    if labels and not folder.classes and folder.labels_file is None:
        raise UserError(f'{option}: has neither one sub-folder of pictures per class nor a dataset.json; omit '
                        '--labels')
    return Source(name, full, len(folder.names), side_of(folder, option), digest_of(folder, full))


def side_of(folder: PictureFolder, option: str) -> int:
    """The median of the shorter sides of a sample of pictures, in pixels."""
    steps = range(0, len(folder.names), max(len(folder.names) // SAMPLE, 1))
    kinds = [picture_kind(folder.source(folder.names[index])) for index in steps]
    sides = sorted(min(kind.width, kind.height) for kind in kinds if isinstance(kind, ImageKind))
    if not sides:
        raise UserError(f'{option}: none of the {len(kinds)} pictures tried can be read: {folder.names[0]} '
                        f'({kinds[0]})')
    side = sides[len(sides) // 2]
    if side < 4:
        raise UserError(f'{option}: the pictures are too small, {side} pixels; the networks need at least 4')
    return side


def digest_of(folder: PictureFolder, path: str) -> str:
    """A short digest of the pictures' names, sizes and modification times; in a .zip file, of their checksums."""
    facts: Iterable[object]
    if os.path.isfile(path):
        with zipfile.ZipFile(path) as archive:
            facts = [(member.filename, member.file_size, member.CRC) for member in archive.infolist()]
    else:
        states = [(name, os.stat(os.path.join(path, name))) for name in folder.names]
        facts = [(name, state.st_size, state.st_mtime_ns) for name, state in states]
    return hashlib.sha256(repr((list(facts), folder.labels_file)).encode(errors='surrogateescape')).hexdigest()[:8]


# ----------------------------------------------------------------------------------------------------------------------
# Sizes.


def machine_of(environment: theano_env.Environment) -> Machine:
    """The :class:`Machine` of an environment."""
    import psutil  # Slow to import, and only needed here.
    memory, cores = psutil.virtual_memory().total, num_cores()
    if environment.engine == 'torch':
        import torch  # Other engines do not need it.
        cores = torch.get_num_threads()
        if environment.device != 'cpu':
            memory = torch.cuda.get_device_properties(environment.device).total_memory
    return Machine(environment.device, memory / 2 ** 30, cores)


def paper_row(resolution: int) -> PaperRow:
    """The row of `PAPER` for a resolution."""
    return PAPER[min(size for size in PAPER if size >= resolution)]


def choose_sizes(source: Source, resolution: int | None, machine: Machine) -> tuple[int, Sizes]:
    """(resolution, :class:`Sizes`) for pictures; the default resolution is the largest one that fits."""
    largest = min(1 << (source.side.bit_length() - 1), LARGEST)
    # Pictures may be enlarged to the next power of two, datasets may not.
    if resolution is not None and resolution > (largest if source.digest is None else min(2 * largest, LARGEST)):
        limit = f'the largest networks have {LARGEST}' if source.side > LARGEST else (
            f'the pictures have {source.side} pixels per side')
        raise UserError(f'--resolution {resolution}: {limit}; use --resolution {largest}')
    if resolution is not None and (sizes := sizes_for(resolution, machine)):
        return resolution, sizes
    tried = [size for size in (1 << k for k in range(2, 11)) if size <= largest]
    for size in reversed(tried):
        if size != resolution and (sizes := sizes_for(size, machine)):
            if resolution is None:
                return size, sizes
            reason = f'{machine.memory_gb:.1f} GB of memory are not enough' if machine.device != 'cpu' else (
                f'without a GPU, {machine.cores} cores would take days')
            raise UserError(f'--resolution {resolution}: {reason}; use --resolution {size}')
    raise UserError(f'--data {source.path}: {machine.memory_gb:.1f} GB of memory are not enough for any training')


def sizes_for(resolution: int, machine: Machine) -> Sizes | None:
    """The :class:`Sizes` for a resolution; None if no networks fit the machine."""
    if machine.device == 'cpu':
        # Narrow networks first, as they are built quickly: if one takes too long, so do all wider ones.
        fitting = itertools.takewhile(bool, (_sizes_on_cpu(resolution, divisor, machine) for divisor in DIVISORS[::-1]
                                             if _is_wide_enough(resolution, divisor)))
        return max(fitting, key=lambda sizes: sizes.fmap_max, default=None)
    return next(filter(bool, (_sizes_on_gpu(resolution, divisor, machine) for divisor in DIVISORS
                              if _is_wide_enough(resolution, divisor))), None)


def networks(resolution: int, divisor: int) -> tuple[int, int, Network, Network]:
    """(fmap_base, fmap_max, G, D) with 1 / divisor of the paper's feature maps, for estimates."""
    row = paper_row(resolution)
    widths = {'fmap_base': row.fmap_base // divisor, 'fmap_max': row.fmap_max // divisor}
    shape = {'num_channels': 3, 'resolution': resolution, 'label_size': 0}
    G = Network('G', func='networks.G_paper', latent_size=widths['fmap_max'], **widths, **shape)
    D = Network('D', func='networks.D_paper', **widths, **shape)
    return widths['fmap_base'], widths['fmap_max'], G, D


def _is_wide_enough(resolution, divisor):
    row = paper_row(resolution)
    widest, narrowest = row.fmap_max // divisor, row.fmap_base // divisor // 2 ** (resolution.bit_length() - 2)
    return widest >= LEAST_MAPS[0] and narrowest >= LEAST_MAPS[1]


def _sizes_on_cpu(resolution, divisor, machine):
    row = paper_row(resolution)
    fmap_base, fmap_max, G, D = networks(resolution, divisor)
    speed = CPU_SPEED._replace(flops=CPU_SPEED.flops * min(machine.cores, USEFUL_CORES))
    doublings = resolution.bit_length() - 3
    of_one = {'lod_training_kimg': 1, 'lod_transition_kimg': 1, 'total_kimg': 2 * doublings + LAST_PHASES}
    phases = plan.phases(resolution, minibatch_default=MINIBATCH, **of_one)
    estimates = [plan.estimate(phase, G, D, 1, speed) for phase in phases]
    seconds = sum(needs.seconds_per_kimg * (phase.end_kimg - phase.start_kimg)
                  for phase, needs in zip(phases, estimates, strict=True))
    kimg = min(CPU_HOURS * 3600 / seconds, row.lod_kimg)
    memory = max(needs.memory_gb for needs in estimates)
    if kimg < LEAST_KIMG or memory > MEMORY_SHARE * machine.memory_gb:
        return None
    kimg = int(kimg // 5) * 5
    schedule = {name: value * kimg for name, value in of_one.items()}
    schedule.update(tick_kimg_default=max(kimg // 20, 1), tick_kimg_overrides={}, image_snapshot_ticks=5,
                    network_snapshot_ticks=25)
    return Sizes(fmap_base, fmap_max, {}, schedule, kimg * seconds / 3600)


def _sizes_on_gpu(resolution, divisor, machine):
    row = paper_row(resolution)
    fmap_base, fmap_max, G, D = networks(resolution, divisor)
    schedule = {'lod_training_kimg': row.lod_kimg, 'lod_transition_kimg': row.lod_kimg, 'total_kimg': row.total_kimg}
    minibatches = {}
    for size in (1 << k for k in range(2, resolution.bit_length())):
        images = MINIBATCHES.get(size, MINIBATCH)
        while plan.estimate(plan.Phase(0, 1, size, False, images), G, D, 1, CPU_SPEED).memory_gb > (
                MEMORY_SHARE * machine.memory_gb):
            images //= 2
            if images < SMALLEST_MINIBATCH:
                return None
        if images != MINIBATCH:
            minibatches[size] = images
    return Sizes(fmap_base, fmap_max, minibatches, schedule, None)
