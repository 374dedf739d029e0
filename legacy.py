"""Convert a pickle of the 2017 Theano or the 2018 TensorFlow release: ``python legacy.py PUBLISHED.pkl OURS.pkl``.

:mod:`nets.pickles` describes the formats and reads them.
"""

import common.starting  # noqa: F401  (Ctrl-C while the rest is imported)

import argparse
import sys

from common.errors import exit_status
from common.files import save_pkl
from nets.pickles import load_pkl

# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description='Convert a pickle of the 2017 Theano or the 2018 TensorFlow release into one of this project.',
        epilog='example: python legacy.py karras2018iclr-celebahq-1024x1024.pkl celebahq.pkl')
    parser.add_argument('source', help='pickle of (G, D, Gs)')
    parser.add_argument('target', help='pickle to write')
    args = parser.parse_args(argv)

    def convert():
        loaded = load_pkl(args.source)
        save_pkl(loaded, args.target)
        for net in loaded if isinstance(loaded, (tuple, list)) else [loaded]:
            print(net)
    return exit_status('legacy.py', convert)


if __name__ == '__main__':
    sys.exit(main())
