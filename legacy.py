"""Convert pickles and configurations of the 2017 Theano and 2018 TensorFlow releases.

``python legacy.py PUBLISHED.pkl OURS.pkl`` converts a pickle; :mod:`nets.pickles` documents and reads the formats.
``python legacy.py config OLD_CONFIG.py`` prints the entry for our table of experiments; see :mod:`training.old_config`.
``python legacy.py options`` prints the releases' options and their names here.
"""

import common.starting  # noqa: F401  (handles Ctrl-C during the imports)

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
    """Write the networks of a pickle in our format, and print a description."""
    loaded = load_pkl(source, ignore_source=ignore_source)
    networks = networks_in(loaded, source)
    save_pkl(loaded, target)
    for net in networks:
        print(net)


def print_entry(path: str) -> None:
    """Print an old configuration as an entry for the table of experiments in `config.py`."""
    values, unread = old_config.read(path)
    try:
        entry = old_config.translate(values)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    print(old_config.entry_text(entry, unread, path, train_gan))


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        usage='legacy.py [--ignore-source] SOURCE.pkl TARGET.pkl\n       legacy.py config OLD_CONFIG.py\n'
              '       legacy.py options',
        description='Convert a pickle of the 2017 Theano or 2018 TensorFlow release to our format; print a config.py '
                    'of these releases as an entry for our table of experiments; or print a table of their options.',
        epilog='example: python legacy.py karras2018iclr-celebahq-1024x1024.pkl celebahq.pkl')
    if argv[:1] == ['options'] and len(argv) == 1:
        return exit_status('legacy.py', lambda: print(old_options.markdown(), end=''))
    if argv[:1] == ['config']:
        parser.add_argument('command', metavar='config')
        parser.add_argument('path', metavar='OLD_CONFIG.py', help='is read, not executed')
        args = parser.parse_args(argv)
        return exit_status('legacy.py', lambda: print_entry(args.path))
    parser.add_argument('source', help='pickle of (G, D, Gs)')
    parser.add_argument('target', help='pickle to write')
    parser.add_argument('--ignore-source', action='store_true', help='build the networks as the releases define them, '
                        'regardless of the source text in the pickle')
    args = parser.parse_args(argv)
    return exit_status('legacy.py', lambda: convert(args.source, args.target, args.ignore_source))


if __name__ == '__main__':
    sys.exit(main())
