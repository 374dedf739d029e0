"""What the 2017 Theano and the 2018 TensorFlow release left behind: pickles, configurations, options.

``python legacy.py PUBLISHED.pkl OURS.pkl`` converts a pickle; :mod:`nets.pickles` describes the formats and reads them.
``python legacy.py config OLD_CONFIG.py`` prints the entry for our table of experiments; see :mod:`training.old_config`.
``python legacy.py options`` prints what the releases' options are called here.
"""

import common.starting  # noqa: F401  (Ctrl-C while the rest is imported)

import argparse
import sys

from common import old_options
from common.errors import UserError, exit_status
from common.files import save_pkl
from nets.pickles import load_pkl, networks_in
from train import train_gan
from training import old_config

# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def convert(source: str, target: str, ignore_source: bool = False) -> None:
    """Write the networks of a pickle in our format, and print what they are."""
    loaded = load_pkl(source, ignore_source=ignore_source)
    networks = networks_in(loaded, source)
    save_pkl(loaded, target)
    for net in networks:
        print(net)


def print_entry(path: str) -> None:
    """Print an old config as an entry for the table of experiments in `config.py`."""
    values, unread = old_config.read(path)
    try:
        entry = old_config.translate(values)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    print(old_config.entry_text(entry, unread, path, train_gan))


def main(argv: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        usage='legacy.py [--ignore-source] SOURCE.pkl TARGET.pkl\n       legacy.py config OLD_CONFIG.py\n'
              '       legacy.py options',
        description='Convert a pickle of the 2017 Theano or the 2018 TensorFlow release into one of this project; or '
                    'print a config.py of theirs as an entry for our table of experiments; or the list of their '
                    'options.',
        epilog='example: python legacy.py karras2018iclr-celebahq-1024x1024.pkl celebahq.pkl')
    if argv[:1] == ['options'] and len(argv) == 1:
        return exit_status('legacy.py', lambda: print(old_options.markdown(), end=''))
    if argv[:1] == ['config']:
        parser.add_argument('command', metavar='config')
        parser.add_argument('path', metavar='OLD_CONFIG.py', help='it is read, not executed')
        args = parser.parse_args(argv)
        return exit_status('legacy.py', lambda: print_entry(args.path))
    parser.add_argument('source', help='pickle of (G, D, Gs)')
    parser.add_argument('target', help='pickle to write')
    parser.add_argument('--ignore-source', action='store_true', help='build the networks as the releases define them, '
                        'whatever the source text in the pickle says')
    args = parser.parse_args(argv)
    return exit_status('legacy.py', lambda: convert(args.source, args.target, args.ignore_source))


if __name__ == '__main__':
    sys.exit(main())
