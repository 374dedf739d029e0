"""Convert a pickle of the 2017 Theano or the 2018 TensorFlow release: ``python legacy.py PUBLISHED.pkl OURS.pkl``.

:mod:`nets.pickles` describes the formats and reads them.
"""

import argparse
import sys

from common.errors import exit_status
from common.files import save_pkl
from nets.pickles import load_pkl, networks_in

# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description='Convert a pickle of the 2017 Theano or the 2018 TensorFlow release into one of this project.',
        epilog='example: python legacy.py karras2018iclr-celebahq-1024x1024.pkl celebahq.pkl')
    parser.add_argument('source', help='pickle of (G, D, Gs)')
    parser.add_argument('target', help='pickle to write')
    parser.add_argument('--ignore-source', action='store_true', help='build the networks as the releases define them, '
                        'whatever the source text in the pickle says')
    args = parser.parse_args(argv)

    def convert():
        loaded = load_pkl(args.source, ignore_source=args.ignore_source)
        networks = networks_in(loaded, args.source)
        save_pkl(loaded, args.target)
        for net in networks:
            print(net)
    return exit_status('legacy.py', convert)


if __name__ == '__main__':
    sys.exit(main())
