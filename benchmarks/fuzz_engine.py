"""Compare the torch engine with Theano's own on random programs, as many as asked for.

    python -m benchmarks.fuzz_engine graphs --count 10000 --seed 0
    python -m benchmarks.fuzz_engine convolutions --count 1000
    python -m benchmarks.fuzz_engine scans --count 1000 --reference theano

Programs are compared with Theano's Python code. Where that differs and there is a C++ compiler, Theano's C code
decides. With `--reference theano` all of them are compared with the C code: every new op takes seconds to compile.
A program that differs is printed with its seed, cut down to what is needed. Needs NumPy 1. The last line counts; the
exit status is 1 if a program differed.
"""

import argparse
import logging
import os
import shutil
import sys
import time
import warnings

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import theano_env  # noqa: F401  (before Theano)
from tests.theano_torch.fuzz.kinds import KINDS
from tests.theano_torch.fuzz.shrink import shrink


def run(kind, seeds, comparison, report):
    """Compare the programs of `seeds`; returns how many differ. `report` is called with texts."""
    wrong, without_compiler = 0, kind.comparison()
    for number, seed in enumerate(seeds, 1):
        recipe = kind.make(seed)
        found = comparison(recipe)
        if found:
            wrong += 1
            small = shrink(recipe, without_compiler)      # To compile the C code of each part would take minutes.
            report(f'seed {seed}: {found}\n{small!r}\n{comparison(small)}\n')
        if number % 100 == 0:
            report(f'{number} programs, {wrong} differ')
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=KINDS)
    parser.add_argument('--count', type=int, default=1000, help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='the first one; default: %(default)s')
    parser.add_argument('--reference', choices=['python', 'theano'], default='python', help='default: %(default)s')
    parser.add_argument('--no-compiler', action='store_true',
                        help='where the Python code differs, the C code is not asked')
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)       # Theano reports rewrites that fail, and goes on without them.
    warnings.simplefilter('ignore')
    compiler = '' if args.no_compiler else shutil.which('g++') or ''
    if args.reference == 'theano' and not compiler:
        parser.error('--reference theano: no g++ found')
    kind = KINDS[args.kind]
    comparison = kind.comparison(args.reference, compiler)
    start = time.process_time()
    wrong = run(kind, range(args.seed, args.seed + args.count), comparison, lambda text: print(text, flush=True))
    print(f'{args.count} {args.kind}: {wrong} differ; {comparison.num_failing} run on no engine, '
          f'{comparison.num_refused} on torch alone, C code decided {comparison.num_decided}; '
          f'{time.process_time() - start:.0f} s of processor time')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()
