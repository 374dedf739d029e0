"""Time the D + G training step at every level of detail of a network.

    python benchmarks/train_step.py --resolution 32 --fmap-max 64
    python benchmarks/train_step.py --resolution 128 --fmap-base 2048 --fmap-max 512 --lods 0 --json out.json

Each row is one lod range. `sec/kimg` is the median over the repetitions with the smallest and largest in brackets;
`of peak` compares the multiplications that the convolutions of a step need with what this machine does in a plain
matrix product, measured in between: the machine's own speed varies, so compare fractions rather than seconds.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

D_FORWARDS_PER_STEP = 13    # D step of WGAN-GP in forward passes of D: four evaluations and their derivatives...
G_FORWARDS_PER_STEP = 5     # ...and the G step, in which G costs about as much as D.


def matrix_product_flops(np, size=2048, repetitions=3):
    """Multiplications and additions per second of a float32 matrix product with the threads in use."""
    import torch
    a = torch.from_numpy(np.random.randn(size, size).astype(np.float32))
    best = 0
    for _ in range(repetitions):
        start = time.perf_counter()
        torch.mm(a, a)
        best = max(best, 2 * size ** 3 / (time.perf_counter() - start))
    return best


def step_arguments(np, schedule, args, label_size):
    """Random reals, labels and latents for one step."""
    size, n = schedule.resolution, schedule.minibatch_size
    labels = np.zeros((n, label_size), np.float32)
    return (np.random.randint(0, 256, (n, args.channels, size, size)).astype(np.uint8), labels,
            np.random.randn(n, min(args.fmap_max, args.fmap_base)).astype(np.float32), labels)


def time_lod(lod, nets, args, np, theano, train):
    """Compile and time the step at one `lod`; returns a dict for one row."""
    G, D, Gs = nets
    resolution = args.resolution >> int(lod)
    schedule = train.Schedule(lod, int(lod), int(np.ceil(lod)), resolution, args.minibatch, 1.0, 1.0)
    for net in (G, D):
        net.toplevel_params['cur_lod'].set_value(np.float32(lod))
    rate = theano.shared(np.float32(1e-4))
    start = time.perf_counter()
    functions = train.compile_training_functions(
        G, D, Gs, schedule, rate, rate, 0.999, {}, {'beta1': 0.0, 'beta2': 0.99, 'epsilon': 1e-8}, True, False)
    compile_seconds = time.perf_counter() - start
    arguments = step_arguments(np, schedule, args, 0)

    def step():
        functions.train_d(*arguments)
        functions.train_g(*arguments[2:])

    start = time.perf_counter()
    step()
    first_seconds = time.perf_counter() - start
    seconds, peaks = [], []
    for _ in range(args.repetitions):
        start, steps = time.perf_counter(), 0
        while steps < 2 or time.perf_counter() - start < args.seconds / args.repetitions:
            step()
            steps += 1
        seconds.append((time.perf_counter() - start) / steps)
        if args.engine != 'theano':
            peaks.append(matrix_product_flops(np))
    flops = 2 * args.minibatch * (D_FORWARDS_PER_STEP + G_FORWARDS_PER_STEP) * train.multiplications(D, resolution)
    median = float(np.median(seconds))
    return {'lod': lod, 'resolution': resolution, 'sec_per_kimg': median / args.minibatch * 1000,
            'min': min(seconds) / args.minibatch * 1000, 'max': max(seconds) / args.minibatch * 1000,
            'compile_seconds': compile_seconds, 'first_step_seconds': first_seconds,
            'of_peak': flops / median / float(np.median(peaks)) if peaks else None,
            'peak_gflops': float(np.median(peaks)) / 1e9 if peaks else None,
            'peak_memory_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--resolution', type=int, default=32, help='of the networks; default: %(default)s')
    parser.add_argument('--channels', type=int, default=3, help='default: %(default)s')
    parser.add_argument('--fmap-base', type=int, default=8192, help='default: %(default)s')
    parser.add_argument('--fmap-max', type=int, default=64, help='default: %(default)s')
    parser.add_argument('--minibatch', type=int, default=16, help='images per step; default: %(default)s')
    parser.add_argument('--lods', type=float, nargs='*', help='default: all, whole and half')
    parser.add_argument('--engine', default='torch', help='torch or theano; default: %(default)s')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='default: all cores')
    parser.add_argument('--repetitions', type=int, default=5, help='default: %(default)s')
    parser.add_argument('--seconds', type=float, default=10, help='per lod; default: %(default)s')
    parser.add_argument('--json', metavar='FILE', help='write the rows there, too')
    return parser.parse_args()


def main():
    args = parse_arguments()
    os.environ['OMP_NUM_THREADS'] = str(args.threads)
    import numpy as np

    import theano_env
    print(theano_env.configure(args.engine, {'floatX': 'float32'}))
    import theano

    import tfutil_shim
    import train
    kwargs = {'num_channels': args.channels, 'resolution': args.resolution, 'fmap_base': args.fmap_base,
              'fmap_max': args.fmap_max}
    G = tfutil_shim.Network('G', func='networks.G_paper', latent_size=min(args.fmap_max, args.fmap_base), **kwargs)
    D = tfutil_shim.Network('D', func='networks.D_paper', use_gdrop=False, **kwargs)
    nets = G, D, G.clone(share_nontrainables=True)
    lods = args.lods
    if lods is None:
        lods = [half / 2 for half in range(2 * int(np.log2(args.resolution)) - 4, -1, -1)]
    rows = []
    print('%-5s %-6s %-26s %-9s %-9s %-9s %s' % ('lod', 'size', 'sec/kimg', 'compile', 'first', 'of peak', 'memory'))
    for lod in lods:
        row = time_lod(lod, nets, args, np, theano, train)
        rows.append(row)
        print('%-5.1f %-6d %-26s %-9s %-9s %-9s %d MB' % (
            lod, row['resolution'], '%.1f (%.1f - %.1f)' % (row['sec_per_kimg'], row['min'], row['max']),
            '%.1f s' % row['compile_seconds'], '%.1f s' % row['first_step_seconds'],
            '-' if row['of_peak'] is None else '%.0f %%' % (100 * row['of_peak']), row['peak_memory_mb']), flush=True)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(
            {'date': time.strftime('%Y-%m-%d'), 'machine': platform.platform(), 'options': vars(args), 'rows': rows},
            indent=1) + '\n')


if __name__ == '__main__':
    main()
