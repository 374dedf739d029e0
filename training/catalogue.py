"""Overviews of the experiments of `config.py`: by families for ``--help``, all of them for ``--list``."""

import argparse
import shutil
import textwrap
from typing import Any

from training.options import describe_experiment

# {common prefix of experiments: placeholder for the rest of the name}
FAMILIES = {'lsun-': 'CATEGORY', 'table1-': 'DATA-ROW', 'mnist-modes-': 'K-ROW', 'celebahq-v': 'N'}
LARGE_FAMILY = 4        # The experiments of smaller families are listed one by one.
EXAMPLES = ('python train.py --data my_pictures --resolution 64',
            'python train.py --experiment cifar10-cond --set train.total_kimg=2 --dry-run',
            'python train.py --resume latest',
            'torchrun --nproc_per_node=8 train.py --experiment celebahq-v2-8gpus')
MAX_WIDTH = 100


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Prints options and their help side by side, so that ``--help`` fits on a screen."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=help_width())


def help_width() -> int:
    """The width of help texts in columns: at most the terminal's, and no wider than is easy to read."""
    return min(shutil.get_terminal_size().columns - 2, MAX_WIDTH)


def overview(config: Any) -> str:
    """Experiments by families, variants and examples, for the end of ``--help``."""
    single: list[str] = []
    families: dict[str, list[str]] = {}
    for name in config.experiments:
        prefix = next((prefix for prefix in FAMILIES if name.startswith(prefix)), None)
        if prefix:
            families.setdefault(prefix, []).append(name)
        else:
            single.append(name)
    for prefix in [prefix for prefix, names in families.items() if len(names) < LARGE_FAMILY]:
        single += families.pop(prefix)
    lines = [f'  {prefix}{FAMILIES[prefix]} ({len(names)})' for prefix, names in families.items()]
    examples = [f'  {example}' for example in EXAMPLES]
    return '\n'.join([
        'experiments (--list describes each):', *wrapped(single), *lines,
        'variants, appended as in digits-nogrowing:', *wrapped(config.variants), 'examples:', *examples])


def wrapped(names: Any) -> list[str]:
    """Lines of names, wrapped to the width of the help."""
    return textwrap.wrap(', '.join(names), help_width(), initial_indent='  ', subsequent_indent='  ',
                         break_on_hyphens=False)


def listing(config: Any) -> str:
    """All experiments with a short description each, and the variants."""
    width = max(map(len, config.experiments))
    return '\n'.join([
        *(f'{name:<{width}}  {describe_experiment(entry)}' for name, entry in config.experiments.items()),
        '', 'Variants, appended to any name: ' + ', '.join(f'-{name}' for name in config.variants)])
