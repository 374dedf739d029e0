r"""Time the training of the paper's 1024x1024 networks on a GPU at every lod, and project how long a whole run takes.

    python benchmarks/gpu.py --out OUT --precisions tf32 bfloat16
    python benchmarks/gpu.py --device cpu --resolution 32 --fmap-max 16 --budget 60 --out OUT       # to try it out

For each lod, the most expensive first, and each precision: the paper's minibatch, then twice as many images and so on
until memory ends or the speed no longer grows. OUT/gpu.json and OUT/gpu.md are written anew after every row, so that
what was measured is there when the time budget or the machine ends.

On a machine without internet, whose Python is 3.12 and has PyTorch with CUDA: make wheels of what it lacks elsewhere.
Theano and Lasagne are pure Python, but only a Python below 3.12 builds them; the others must be those of that Python:

    pip wheel --no-deps --wheel-dir wheels theano==1.0.5 lasagne==0.1
    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 --dest wheels \
        numpy==1.26.4 h5py isal

Carry them along and begin there with ``pip install --no-index --no-deps --target site wheels/*.whl && export
PYTHONPATH=$PWD/site``. SciPy, six, Pillow and tqdm must be there, or travel likewise, made for
NumPy 1.26. ``python -m pytest -m gpu`` (pytest travels, too) is worth the first minute.
"""

import argparse
import gc
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import train_step

PROJECTED = ('celebahq-1024', 'celebahq-v2-1gpu')       # Of config.experiments.
MIN_GAIN = 0.03             # Larger minibatches are tried while each doubling takes that much off the time per image.
MAX_MINIBATCH = 512
MAX_SHARE = 0.1             # Of the budget for the minibatches of one lod.
POINTS = 1000               # Of the schedule that a projection looks at.
COLUMNS = (('lod', '%.1f'), ('resolution', '%d'), ('precision', '%s'), ('how', '%s'), ('minibatch', '%d'),
           ('sec_per_kimg', '%.2f'), ('memory_mb', '%d'), ('compile_seconds', '%.1f'), ('prepare_seconds', '%.1f'))


def lods_by_importance(resolution):
    """Whole lods, the finest and most expensive first, then half ones."""
    coarsest = resolution.bit_length() - 3
    return [float(lod) for lod in range(coarsest + 1)] + [lod + 0.5 for lod in range(coarsest)]


class Bench:
    """Rows of measurements, saved as they come.

    Parameters
    ----------
    args : argparse.Namespace
        Options of :func:`main`.
    """

    def __init__(self, args):
        import config
        self.args, self.rows, self.start = args, [], time.monotonic()
        self.trainer = train_step.Trainer(args, args.device, args.precisions[0])
        self.device = self.trainer.environment.device
        options = config.experiments['celebahq-1024']['train']
        self.minibatches = {2 ** k: options['minibatch_overrides'].get(2 ** k, options['minibatch_default'])
                            for k in range(2, args.resolution.bit_length())}

    def out_of_time(self):
        return time.monotonic() - self.start > self.args.budget

    def run(self):
        lods = lods_by_importance(self.args.resolution) if self.args.lods is None else self.args.lods
        jobs = [(lod, precision, how) for lod in lods
                for precision in (self.args.precisions if lod == int(lod) else self.args.precisions[:1])
                for how in self.args.how]
        for job in jobs:
            if self.out_of_time():
                print(f'the time is up; {job} and what follows is left out')
                break
            self.measure(*job)

    def measure(self, lod, precision, how):
        """One lod, with growing minibatches."""
        import theano_torch

        import theano

        import theano_env
        from nets import updates
        theano_env.configure('torch', {'floatX': 'float32', 'device': self.device}, precision=precision,
                             flush_denormals=True)
        theano.config.mode = theano_torch.mode(self.device, precision, capture=how == 'captured')
        start = time.perf_counter()
        exponents = [updates.loss_scaling_exponent() if precision == 'float16' else None for _ in 'DG']
        functions = self.trainer.functions(lod, exponents)
        facts = {'lod': lod, 'resolution': self.args.resolution >> int(lod), 'precision': precision, 'how': how,
                 'compile_seconds': time.perf_counter() - start}
        minibatch, before = self.minibatches[facts['resolution']], None
        while minibatch <= MAX_MINIBATCH and not self.out_of_time():
            try:
                row = {**facts, 'minibatch': minibatch, **self.time(functions, lod, minibatch)}
            except theano_torch.OutOfMemory as error:
                print(f'lod {lod:.1f}, {precision}, minibatch {minibatch}: {error}')
                break
            finally:
                for function in functions[:2]:  # Graphs and programs of one minibatch are of no use to the next.
                    function.fn.programs.clear()
                self.free_memory()
            self.rows.append(row)
            self.save()
            print('  '.join(template % row[name] for name, template in COLUMNS), flush=True)
            if self.args.paper_only or before and row['sec_per_kimg'] > before * (1 - MIN_GAIN) or \
                    time.perf_counter() - start > self.args.budget * MAX_SHARE:
                break
            before = row['sec_per_kimg']
            minibatch *= 2

    def time(self, functions, lod, minibatch):
        """Seconds per kimg, peak memory and the seconds of the first calls, in which graphs are recorded."""
        from theano_torch.capture import WARM_UP_CALLS
        step = self.trainer.step(functions, lod, minibatch)

        def finished_step():
            step()
            self.synchronize()

        start = time.perf_counter()
        train_step.time_steps(finished_step, 0, minimum=WARM_UP_CALLS + 2)
        prepare_seconds = time.perf_counter() - start
        seconds = [train_step.time_steps(finished_step, self.args.seconds / 3, minimum=1) for _ in range(3)]
        seconds = [value / minibatch * 1000 for value in seconds]
        return {'sec_per_kimg': sorted(seconds)[1], 'min': min(seconds), 'max': max(seconds),
                'memory_mb': self.peak_memory_mb(), 'prepare_seconds': prepare_seconds}

    def synchronize(self):
        if self.device != 'cpu':
            import torch
            torch.cuda.synchronize()

    def free_memory(self):
        gc.collect()
        if self.device != 'cpu':
            import torch
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_memory_mb(self):
        """Most memory that tensors took on the GPU since `free_memory`; of the whole process on the CPU."""
        if self.device == 'cpu':
            return train_step.peak_memory_mb()
        import torch
        return torch.cuda.max_memory_allocated() / 2 ** 20

    def save(self):
        projections = self.projections()
        train_step.write_json(self.args, self.rows, engine=str(self.trainer.environment), projections=projections)
        lines = [f'{str(self.trainer.environment)}; seconds per kimg are medians of three.', '',
                 '| ' + ' | '.join(name for name, _ in COLUMNS) + ' |', '|' + ' --- |' * len(COLUMNS)]
        lines += ['| ' + ' | '.join(template % row[name] for name, template in COLUMNS) + ' |' for row in self.rows]
        lines += ['', '| experiment | precision | how | days | of the kimg, measured |', '|' + ' --- |' * 5]
        lines += ['| %(experiment)s | %(precision)s | %(how)s | %(days).2f | %(measured)d %% |' % projection
                  for projection in projections]
        pathlib.Path(self.args.out, 'gpu.md').write_text('\n'.join(lines) + '\n')

    def projections(self):
        """How long whole runs take, for each way that has been measured."""
        import config
        results = []
        for precision, how in dict.fromkeys((row['precision'], row['how']) for row in self.rows):
            rows = [row for row in self.rows if (row['precision'], row['how']) == (precision, how)]
            for name in PROJECTED:
                seconds, measured = project(rows, self.args.resolution, config.experiments[name]['train'])
                results.append({'experiment': name, 'precision': precision, 'how': how, 'days': seconds / 86400,
                                'measured': 100 * measured})
        return results


def project(rows, resolution, options):
    """Seconds that the training schedule with `options` takes, and for which part of its kimg that is known.

    Each point of the schedule takes the measured row of its resolution (a half lod for fading in, if there is one) with
    the most similar minibatch. Compilation, snapshots and reading images are not in it.
    """
    import inspect
    import math

    from training.schedule import training_schedule
    accepted = inspect.signature(training_schedule).parameters
    options = {key: value for key, value in options.items() if key in accepted}
    seconds, known = 0.0, 0
    for point in range(POINTS):
        kimg = (point + 0.5) / POINTS * options['total_kimg']
        schedule = training_schedule(kimg * 1000, resolution, **options)
        fading = schedule.lod != schedule.min_lod
        candidates = [row for row in rows if row['resolution'] == schedule.resolution]
        if candidates:
            row = min(candidates, key=lambda row: (
                abs(math.log(row['minibatch'] / schedule.minibatch_size)), (row['lod'] != int(row['lod'])) != fading))
            seconds += row['sec_per_kimg'] * options['total_kimg'] / POINTS
            known += 1
    return seconds, known / POINTS


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    train_step.add_network_options(parser)
    # Its --minibatch, --repetitions and --json have no meaning here.
    parser.set_defaults(resolution=1024, fmap_max=512, fmap_base=8192, engine='torch')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda0, ...; default: %(default)s')
    parser.add_argument('--precisions', nargs='+', default=['auto'], metavar='PRECISION',
                        help='float32, tf32, bfloat16, float16; half lods are timed in the first one only')
    parser.add_argument('--how', nargs='+', default=['captured'], choices=['captured', 'eager'],
                        help='as CUDA graphs, or step by step; default: captured')
    parser.add_argument('--paper-only', action='store_true', help='leave out larger minibatches')
    parser.add_argument('--seconds', type=float, default=3, help='of timing per row; default: %(default)s')
    parser.add_argument('--budget', type=float, default=540, help='seconds for everything; default: %(default)s')
    parser.add_argument('--out', default='.', metavar='DIR', help='where gpu.json and gpu.md go')
    args = parser.parse_args(argv)
    os.makedirs(args.out, exist_ok=True)
    args.json = os.path.join(args.out, 'gpu.json')
    bench = Bench(args)
    args.precisions[0] = bench.trainer.environment.precision        # What 'auto' is here.
    print(bench.trainer.environment)
    print('  '.join(name for name, _ in COLUMNS))
    bench.run()
    print(f'written: {args.json} and gpu.md beside it')


if __name__ == '__main__':
    main()
