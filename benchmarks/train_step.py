"""Time the training step of D and G at every lod of a network.

    python benchmarks/train_step.py --resolution 32 --fmap-max 64
    python benchmarks/train_step.py --resolution 128 --fmap-base 2048 --fmap-max 512 --lods 0 --json out.json

Each row is one lod. `sec/kimg` is the median (minimum - maximum) over the repetitions. `of peak` is the rate of
multiplications in the convolutions of a step, relative to a matrix product that is timed between the repetitions. The
speed of a machine varies, so compare `of peak` rather than seconds.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))


def matrix_product_flops(size=2048, repetitions=3):
    """Multiplications and additions per second of a float32 matrix product, with the current number of threads."""
    import torch
    a = torch.randn(size, size)
    best = 0
    for _ in range(repetitions):
        start = time.perf_counter()
        torch.mm(a, a)
        best = max(best, 2 * size ** 3 / (time.perf_counter() - start))
    return best


class Trainer:
    """Our networks, with their training step at any lod.

    Parameters
    ----------
    args : argparse.Namespace
        Options of :func:`add_network_options` and `engine`.
    device, precision : str
        See `theano_env.configure`.
    """

    def __init__(self, args, device='auto', precision='auto'):
        import theano_env
        self.args = args
        self.environment = theano_env.configure(args.engine, {'floatX': 'float32', 'device': device},
                                                precision=precision, flush_denormals=True)
        kwargs = {'num_channels': args.channels, 'resolution': args.resolution, 'fmap_base': args.fmap_base,
                  'fmap_max': args.fmap_max}
        self.latent_size = min(args.fmap_max, args.fmap_base)
        from nets.network import Network
        self.G = Network('G', func='networks.G_paper', latent_size=self.latent_size, **kwargs)
        self.D = Network('D', func='networks.D_paper', use_gdrop=False, **kwargs)
        self.Gs = self.G.clone(share_nontrainables=True)

    def compile(self, lod):
        """The training step of D and G at `lod`, as a function without arguments."""
        return self.step(self.functions(lod), lod, self.args.minibatch)

    def functions(self, lod, loss_scaling=(None, None), epsilon=1e-8, **options):
        """`training.steps.TrainingFunctions` at `lod`; `epsilon` is Adam's, `options` go to the compiling function."""
        import numpy as np
        import theano

        from training import steps
        args, resolution = self.args, self.args.resolution >> int(lod)
        from training.schedule import Schedule
        schedule = Schedule(lod, int(lod), int(np.ceil(lod)), resolution, args.minibatch, 1.0, 1.0)
        for net in (self.G, self.D):
            net.toplevel_params['cur_lod'].set_value(np.float32(lod))
        rate = theano.shared(np.float32(1e-4))
        functions = steps.compile_training_functions(
            self.G, self.D, self.Gs, schedule, rate, rate, 0.999, {},
            {'beta1': 0.0, 'beta2': 0.99, 'epsilon': epsilon}, True, False, loss_scaling=loss_scaling, **options)
        steps.seed_streams(functions)
        return functions

    def step(self, functions, lod, minibatch):
        """One D step and one G step on random images, as a function without arguments."""
        import numpy as np
        resolution = self.args.resolution >> int(lod)
        images = np.random.randint(0, 256, (minibatch, self.args.channels, resolution, resolution)).astype(np.uint8)
        labels = np.zeros((minibatch, 0), np.float32)

        def step():
            for function, inputs in [(functions.train_d, (images, labels)), (functions.train_g, ())]:
                latents = np.random.randn(minibatch, self.latent_size).astype(np.float32)
                function(*inputs, latents, labels)
        return step

    def step_flops(self, lod):
        """Multiplications and additions in the convolutions of one step, counted for direct convolution."""
        from nets import costs
        from training import plan
        passes = plan.D_STEP_FORWARDS + plan.G_STEP_FORWARDS
        return 2 * self.args.minibatch * passes * costs.multiplications(self.D, self.args.resolution >> int(lod))


def time_steps(step, seconds, minimum=2):
    """Mean seconds per call of `step`, measured for at least `seconds` and at least `minimum` calls."""
    start, count = time.perf_counter(), 0
    while count < minimum or time.perf_counter() - start < seconds:
        step()
        count += 1
    return (time.perf_counter() - start) / count


def peak_memory_mb():
    """Largest resident memory of this process so far, in MB."""
    from common.machine import peak_memory
    return peak_memory() / 2 ** 20


def time_lod(lod, trainer):
    """Compile and time the step at one lod; return the row as a dict."""
    import numpy as np
    args = trainer.args
    start = time.perf_counter()
    step = trainer.compile(lod)
    compile_seconds = time.perf_counter() - start
    first_seconds = time_steps(step, 0, minimum=1)
    seconds, peaks = [], []
    for _ in range(args.repetitions):
        seconds.append(time_steps(step, args.seconds / args.repetitions))
        if args.engine != 'theano':
            peaks.append(matrix_product_flops())
    median = float(np.median(seconds))
    return {'lod': lod, 'resolution': args.resolution >> int(lod), 'sec_per_kimg': median / args.minibatch * 1000,
            'min': min(seconds) / args.minibatch * 1000, 'max': max(seconds) / args.minibatch * 1000,
            'compile_seconds': compile_seconds, 'first_step_seconds': first_seconds,
            'of_peak': trainer.step_flops(lod) / median / float(np.median(peaks)) if peaks else None,
            'peak_gflops': float(np.median(peaks)) / 1e9 if peaks else None, 'peak_memory_mb': peak_memory_mb()}


def add_network_options(parser):
    """Add the options that all benchmarks of the training step share."""
    parser.add_argument('--resolution', type=int, default=32, help='resolution of the networks; default: %(default)s')
    parser.add_argument('--channels', type=int, default=3, help='default: %(default)s')
    parser.add_argument('--fmap-base', type=int, default=8192, help='default: %(default)s')
    parser.add_argument('--fmap-max', type=int, default=64, help='default: %(default)s')
    parser.add_argument('--minibatch', type=int, default=16, help='images per step; default: %(default)s')
    parser.add_argument('--lods', type=float, nargs='*', help='default: all multiples of 0.5')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='default: all cores')
    parser.add_argument('--repetitions', type=int, default=5, help='default: %(default)s')
    parser.add_argument('--json', metavar='FILE', help='also write the rows to this file')


def chosen_lods(args):
    if args.lods is not None:
        return args.lods
    return [half / 2 for half in range(2 * (args.resolution.bit_length() - 3), -1, -1)]


def write_json(args, rows, **facts):
    """Write the rows to the file of `--json`, with date, machine, options and `facts`."""
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(
            {'date': time.strftime('%Y-%m-%d'), 'machine': platform.platform(), **facts, 'options': vars(args),
             'rows': rows}, indent=1) + '\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_options(parser)
    parser.add_argument('--engine', default='torch', help='torch or theano; default: %(default)s')
    parser.add_argument('--seconds', type=float, default=10, help='per lod; default: %(default)s')
    args = parser.parse_args()
    os.environ['OMP_NUM_THREADS'] = str(args.threads)
    trainer = Trainer(args)
    print(trainer.environment)
    rows = []
    print(f'{"lod":<5} {"size":<6} {"sec/kimg":<26} {"compile":<9} {"first":<9} {"of peak":<9} {"memory"}')
    for lod in chosen_lods(args):
        row = time_lod(lod, trainer)
        rows.append(row)
        print('%-5.1f %-6d %-26s %-9s %-9s %-9s %d MB' % (
            lod, row['resolution'], '%.1f (%.1f - %.1f)' % (row['sec_per_kimg'], row['min'], row['max']),
            '%.1f s' % row['compile_seconds'], '%.1f s' % row['first_step_seconds'],
            '-' if row['of_peak'] is None else '%.0f %%' % (100 * row['of_peak']), row['peak_memory_mb']), flush=True)
    write_json(args, rows, engine=str(trainer.environment))


if __name__ == '__main__':
    main()
