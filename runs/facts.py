"""A short summary of a run: dataset, networks, loss and device, in a few words each.

The facts come from the files of the run folder, any of which may be missing or damaged, and from the dataset if it
still exists.
"""

import os
import re

from common.errors import UserError
from data import hdf5_format
from runs.records import parse_config, read_text

LOSSES = {'iwass': 'WGAN-GP', 'lsgan': 'least squares'}


def read_facts(run_dir: str) -> dict[str, str]:
    """{'dataset', 'networks', 'loss', 'device', 'started': text} of a run, without the facts that are unknown."""
    config = parse_config(read_text(run_dir, 'config.txt')) or {}
    facts = {'dataset': data_set(config), 'networks': networks(config, network_sizes(read_text(run_dir, 'log.txt'))),
             'loss': loss(config), **machine(read_text(run_dir, 'run.txt'))}
    return {name: text for name, text in facts.items() if text}


def _section(config, name):
    options = config.get(name)
    return options if isinstance(options, dict) else {}


def data_set(config: dict) -> str:
    """The dataset in one line, such as ``digits-16x16.h5, 1797 images of 16x16, mirrored``; '' if unknown."""
    options = _section(config, 'dataset')
    name = options.get('h5_path')
    if not isinstance(name, str):
        return ''
    path = _section(config, 'run').get('data_set')
    num, size = _shape_of(path if isinstance(path, str) else name)
    num = options.get('max_images') or (None if options.get('classes') is not None else num)
    resolution = options.get('resolution') or size
    images = f'{num} images' if num else ''
    if resolution:
        images += f'{" of " if images else ""}{resolution}x{resolution}'
    return ', '.join(filter(None, [os.path.basename(name), images, 'mirrored' * bool(options.get('mirror_augment'))]))


def _shape_of(path):
    """(number of images, resolution) of a dataset; (None, None) if its file is missing or damaged."""
    if not os.path.isfile(path):
        return None, None
    try:
        h5, levels = hdf5_format.open_levels(path)
    except UserError:
        return None, None
    with h5:
        return len(levels[max(levels)]), max(levels)


def networks(config: dict, sizes: dict[str, int]) -> str:
    """Both networks in one line, such as ``G networks.G_paper, 181,731 parameters; D ...``; '' if unknown."""
    texts = []
    for name in 'GD':
        func = _section(config, name).get('func')
        size = f'{sizes[name]:,} parameters' if name in sizes else ''
        if func or size:
            texts.append(f'{name} ' + ', '.join(filter(None, [str(func or ''), size])))
    return '; '.join(texts)


def network_sizes(log: str) -> dict[str, int]:
    """{'G', 'D': number of parameters}, read from the tables of layers in a ``log.txt``; the last table of each counts.

    A table begins with a line of headings. The names of its layers, such as G1a or D1a, begin with the network.
    """
    sizes: dict[str, int] = {}
    for table in re.split(r'^LayerName\b.*$', log, flags=re.MULTILINE)[1:]:
        first = re.search(r'^([GD])\w', table, re.MULTILINE)
        total = re.search(r'^Total +(\d{1,18})\b', table, re.MULTILINE)
        if first and total:
            sizes[first[1]] = int(total[1])
    return sizes


def loss(config: dict) -> str:
    """The loss, such as ``WGAN-GP (iwass)``; '' if unknown."""
    kind = str(_section(config, 'loss').get('type') or 'iwass' * ('dataset' in config))
    return f'{LOSSES[kind]} ({kind})' if kind in LOSSES else kind


def machine(run_text: str) -> dict[str, str]:
    """{'device', 'started', 'resumed': text}, read from a ``run.txt``; the device is the last one of a resumed run."""
    lines = [line.partition(': ') for line in run_text.splitlines()]
    last = {name: text for name, _colon, text in lines}
    resumed = [name.removeprefix('resumed ') + f', {text}' for name, _colon, text in lines
               if name.startswith('resumed at kimg ')]
    facts = {'device': last.get('Engine', ''), 'started': last.get('started', '')}
    if resumed:
        facts['resumed'] = f'{len(resumed)} times, the last one {resumed[-1]}' if len(resumed) > 1 else resumed[0]
    return facts
