"""Compare the torch engine with Theano's own engines on random programs.

    python -m benchmarks.fuzz_engine graphs --count 10000 --seed 0
    python -m benchmarks.fuzz_engine convolutions --count 1000
    python -m benchmarks.fuzz_engine scans --count 1000 --reference theano

The reference is Theano's Python code. If it differs and there is a C++ compiler, Theano's C code decides. With
`--reference theano`, the C code is the reference for all programs; each new op takes seconds to compile. A program that
differs is printed with its seed, reduced to the failing part. The last line has the counts. The exit status is 1 if any
program differs. Needs NumPy 1.
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
    """Compare the programs of `seeds`; return the number that differ. `report` is called with each line of output."""
    wrong, without_compiler = 0, kind.comparison()
    for number, seed in enumerate(seeds, 1):
        recipe = kind.make(seed)
        found = comparison(recipe)
        if found:
            wrong += 1
            small = shrink(recipe, without_compiler)      # Compiling C code for every candidate would take minutes.
            report(f'seed {seed}: {found}\n{small!r}\n{comparison(small)}\n')
        if number % 100 == 0:
            report(f'{number} programs, {wrong} differ')
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=KINDS)
    parser.add_argument('--count', type=int, default=1000, help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='seed of the first program; default: %(default)s')
    parser.add_argument('--reference', choices=['python', 'theano'], default='python', help='default: %(default)s')
    parser.add_argument('--no-compiler', action='store_true',
                        help='report all differences from the Python code, without a check against the C code')
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)       # Theano logs each rewrite that fails and skips it.
    warnings.simplefilter('ignore')
    compiler = '' if args.no_compiler else shutil.which('g++') or ''
    if args.reference == 'theano' and not compiler:
        parser.error('--reference theano: no g++ found')
    kind = KINDS[args.kind]
    comparison = kind.comparison(args.reference, compiler)
    start = time.process_time()
    wrong = run(kind, range(args.seed, args.seed + args.count), comparison, lambda text: print(text, flush=True))
    print(f'{args.count} {args.kind}: {wrong} differ; {comparison.num_failing} run on no engine, '
          f'{comparison.num_refused} only on torch; the C code decided {comparison.num_decided}; '
          f'{time.process_time() - start:.0f} s of processor time')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()
