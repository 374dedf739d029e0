"""``python train.py --data PICTURES``: the experiment for pictures that no entry of `config.py` is made for.

Networks and schedule are those of the paper for the resolution where there is a GPU. A CPU would take months for them:
there the networks are the widest ones whose training ends within hours and still shows each resolution for long enough.
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
    """Networks and schedule of the paper for a resolution, and where they are from."""

    fmap_base: int
    fmap_max: int           # Also the number of latents.
    lod_kimg: int           # Of each resolution, and again of each fade-in.
    total_kimg: int
    source: str


# The row of the next larger resolution serves those between: the networks of the paper are the lower part of one.
PAPER = {
    32: PaperRow(4096, 128, 400, 20000, 'CIFAR-10, appendix D'),
    128: PaperRow(8192, 512, 800, 20000, 'Table 1, row h'),
    256: PaperRow(8192, 512, 800, 20000, 'LSUN, appendix G'),
    1024: PaperRow(8192, 512, 800, 19000, 'CelebA-HQ, Table 2'),
}
LARGEST = max(PAPER)
MINIBATCH = 16
MINIBATCHES = {256: 14, 512: 6, 1024: 3}    # At these resolutions, of the paper; on a CPU 16 images fit anywhere.
SMALLEST_MINIBATCH = 3
DIVISORS = 1, 2, 4, 8, 16   # Of the paper's numbers of maps, all of them alike...
LEAST_MAPS = 32, 8          # ...as long as so many are left in the widest layer and at the full resolution.
MEMORY_SHARE = 0.8      # Of the memory that a training may fill by the estimate of `plan`.

# For CPUs. The speed is that of two cores of an AMD EPYC (Zen 3), where a thousand images took 29 seconds at 32x32 with
# 64 maps (benchmarks/README.md) and 4.5 at 16x16 in the demo. It is a constant, so that the same command chooses the
# same networks, whatever else the machine is doing. More cores than some do not help networks as small as these.
CPU_SPEED = plan.Speed(flops=115e9, launch=42e-6)
USEFUL_CORES = 16
CPU_HOURS = 6
LEAST_KIMG = 60         # At each resolution. Networks trained for less show outlines and colours.
LAST_PHASES = 4         # The full resolution is trained for so many phases beyond its fade-in, as in the paper.

SAMPLE = 64             # Pictures whose sizes are looked at.
FEW_PICTURES = 1000


class Machine(NamedTuple):
    """What a training has to get along with."""

    device: str             # 'cpu', 'cuda:0', ...
    memory_gb: float        # Of that device.
    cores: int              # Threads that compute.


class Source(NamedTuple):
    """Pictures, or the data set that they are already."""

    name: str               # Of the experiment, without the resolution.
    path: str
    num_images: int
    side: int               # Pixels, in height or width.
    digest: str | None      # Of the pictures; None for a data set.


class Sizes(NamedTuple):
    """What is chosen for a resolution and a machine."""

    fmap_base: int
    fmap_max: int
    minibatches: dict[int, int]     # {resolution: images}, where it is not `MINIBATCH`.
    schedule: dict[str, Any]        # More options of the training.
    hours: float | None             # Estimate for a CPU.


# ----------------------------------------------------------------------------------------------------------------------
# The command line.


def choose(config: ModuleType, args: argparse.Namespace, ranks: Ranks, train_gan: Callable) -> recorded.Chosen:
    """What a command line of `train.py` asks for, with ``--data`` or without; see :func:`training.recorded.choose`.

    Raises
    ------
    UserError
        There are no such pictures, they are too small, or this machine is too small for them.
    """
    if args.data is None:
        for option in ('resolution', 'labels'):
            if getattr(args, option):
                raise UserError(f'--{option}: goes with --data PICTURES; in an experiment it is dataset.'
                                f'{"resolution" if option == "resolution" else "max_labels"}')
        return recorded.choose(config, args, ranks, train_gan)
    for option in ('experiment', 'resume'):
        if getattr(args, option) is not None:
            raise UserError(f'--data {args.data} and --{option}: leave out one of them; --data makes an experiment of '
                            'its own')
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
    return chosen._replace(origin={**chosen.origin, 'experiment': None})     # `config.py` has none of this name.


def make_experiment(path: str, resolution: int | None, labels: bool, data_dir: str,
                    machine: Machine) -> tuple[dict[str, Any], list[str]]:
    """An experiment for pictures, as an entry of `config.py`, and some lines on what was chosen.

    Parameters
    ----------
    path : str
        Folder or .zip file of pictures, or a data set in an HDF5 file.
    resolution : int or None
        None: the largest one that the pictures have and the machine bears.
    labels : bool
        Train with the labels of the data set, or with sub-folders as classes.
    data_dir : str
        Where data sets are kept.
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
    """Lines on what was chosen for pictures, and why."""
    resolution, file = (experiment['dataset'][key] for key in ('resolution', 'h5_path'))
    row, train = paper_row(resolution), experiment['train']
    h5_path = os.path.join(data_dir, file)
    state = 'used as it is'
    if source.digest is not None:
        state = 'kept from before' if os.path.exists(h5_path) else 'to be made'
    share = row.fmap_max // sizes.fmap_max
    lines = [
        f'{experiment["desc"]}: {source.num_images} pictures in {h5_path}, {state}',
        f'Networks: {sizes.fmap_max} maps, '
        + (f'the paper has {row.fmap_max}' if share > 1 else f"the paper's ({row.source})") + '; schedule: '
        f'{train["lod_training_kimg"]:g} kimg at each resolution, {train["total_kimg"]:g} in all']
    if sizes.hours is not None:
        lines.append(f'No GPU: sizes for a training of some {max(sizes.hours, 1):.0f} hours on '
                     f'{machine.cores} core{"s" * (machine.cores > 1)} with nothing else to do; the paper shows '
                     f'{row.total_kimg} kimg')
    if source.num_images < FEW_PICTURES:
        lines.append(f'{source.num_images} pictures are few: the networks may learn them by heart (the paper has '
                     '30 000 and more)')
    if source.digest is not None:
        pattern = glob.escape(h5_path.removesuffix(f'{source.digest}.h5')) + '?' * len(source.digest) + '.h5'
        lines += [f'{other} is of other pictures, or of these as they were before; delete it if nobody needs it'
                  for other in sorted(glob.glob(pattern)) if other != h5_path]
    return lines


def entry_text(experiment: dict[str, Any]) -> str:
    """An experiment as it stands in the table of `config.py`, to be pasted there."""
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
        There is none, or it has no labels where they are asked for.
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
        raise UserError(f'{option}: is no folder of pictures, .zip file or data set (HDF5); unpack other archives')
    if os.path.isdir(full) and glob.glob(os.path.join(glob.escape(full), '*.tfrecords')):
        raise UserError(f'{option}: these are TFRecords; make a data set with `python dataset_tool.py '
                        f'create_from_tfrecords {path} {name}.h5`, then give that')
    try:
        folder = find_pictures(full)
    except UserError as error:
        raise UserError(str(error).replace(f'IMAGE_DIR={full!r}', option, 1)) from error
    if labels and not folder.classes and folder.labels_file is None:
        raise UserError(f'{option}: has neither pictures in sub-folders, one for each class, nor a dataset.json; leave '
                        'out --labels')
    return Source(name, full, len(folder.names), side_of(folder, option), digest_of(folder, full))


def side_of(folder: PictureFolder, option: str) -> int:
    """The shorter side of pictures, of the middle one of some of them, in pixels."""
    steps = range(0, len(folder.names), max(len(folder.names) // SAMPLE, 1))
    kinds = [picture_kind(folder.source(folder.names[index])) for index in steps]
    sides = sorted(min(kind.width, kind.height) for kind in kinds if isinstance(kind, ImageKind))
    if not sides:
        raise UserError(f'{option}: none of {len(kinds)} pictures can be read: {folder.names[0]} ({kinds[0]})')
    side = sides[len(sides) // 2]
    if side < 4:
        raise UserError(f'{option}: the pictures are too small, {side} pixels; the networks begin with 4')
    return side


def digest_of(folder: PictureFolder, path: str) -> str:
    """A few digits that change with the pictures: their names, sizes and times; in a .zip file, their checksums."""
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
    """What the device of an environment has."""
    import psutil  # Slow to import, and only needed here.
    memory, cores = psutil.virtual_memory().total, num_cores()
    if environment.engine == 'torch':
        import torch  # Which the other engines do without.
        cores = torch.get_num_threads()
        if environment.device != 'cpu':
            memory = torch.cuda.get_device_properties(environment.device).total_memory
    return Machine(environment.device, memory / 2 ** 30, cores)


def paper_row(resolution: int) -> PaperRow:
    """The row of the paper's networks that a resolution takes."""
    return PAPER[min(size for size in PAPER if size >= resolution)]


def choose_sizes(source: Source, resolution: int | None, machine: Machine) -> tuple[int, Sizes]:
    """(resolution, :class:`Sizes`) for pictures; without a resolution, the largest one that fits."""
    largest = min(1 << (source.side.bit_length() - 1), LARGEST)
    # Pictures may be enlarged a little; a data set has what it has.
    if resolution is not None and resolution > (largest if source.digest is None else min(2 * largest, LARGEST)):
        limit = f'the largest networks have {LARGEST}' if source.side > LARGEST else (
            f'the pictures have {source.side} pixels a side')
        raise UserError(f'--resolution {resolution}: {limit}; use --resolution {largest}')
    if resolution is not None and (sizes := sizes_for(resolution, machine)):
        return resolution, sizes
    tried = [size for size in (1 << k for k in range(2, 11)) if size <= largest]
    for size in reversed(tried):
        if size != resolution and (sizes := sizes_for(size, machine)):
            if resolution is None:
                return size, sizes
            reason = f'{machine.memory_gb:.1f} GB of memory are too little' if machine.device != 'cpu' else (
                f'without a GPU, {machine.cores} cores would take days')
            raise UserError(f'--resolution {resolution}: {reason}; use --resolution {size}')
    raise UserError(f'--data {source.path}: {machine.memory_gb:.1f} GB of memory are too little for any training')


def sizes_for(resolution: int, machine: Machine) -> Sizes | None:
    """The :class:`Sizes` for a resolution; None where nothing fits the machine."""
    if machine.device == 'cpu':
        # From the narrow ones on, which are built in no time; where one takes too long, wider ones do.
        fitting = itertools.takewhile(bool, (_sizes_on_cpu(resolution, divisor, machine) for divisor in DIVISORS[::-1]
                                             if _is_wide_enough(resolution, divisor)))
        return max(fitting, key=lambda sizes: sizes.fmap_max, default=None)
    return next(filter(bool, (_sizes_on_gpu(resolution, divisor, machine) for divisor in DIVISORS
                              if _is_wide_enough(resolution, divisor))), None)


def networks(resolution: int, divisor: int) -> tuple[int, int, Network, Network]:
    """(fmap_base, fmap_max, G, D) with 1 / divisor of the paper's maps, to estimate with."""
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
