"""Time the training of the paper's 1024x1024 networks on a GPU at every lod, and project the time of a whole run.

    python benchmarks/gpu.py --out OUT --precisions tf32 bfloat16
    python benchmarks/gpu.py --device cpu --resolution 32 --fmap-max 16 --budget 60 --out OUT       # to try it out

It first times the paper's minibatch at every lod in each precision, the most expensive lod first. It then doubles the
minibatch until memory runs out or the speed no longer grows. OUT/gpu.json and OUT/gpu.md are rewritten after every row,
so that no measurement is lost when the time budget or the machine ends.

`gpu_check.py` does the same on a machine without internet, and also checks that results are right.
"""

import argparse
import collections
import gc
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import train_step

PROJECTED = ('celebahq-1024', 'celebahq-v2-1gpu')       # Keys of config.experiments.
MIN_GAIN = 0.03             # The minibatch is doubled while that reduces the time per image by this share.
MAX_MINIBATCH = 512
UNFINISHED = 'the program ended here'       # Error of a row that is being measured.
POINTS = 1000               # Points of the schedule that a projection evaluates.
COLUMNS = (('lod', '%.1f'), ('resolution', '%d'), ('precision', '%s'), ('how', '%s'), ('minibatch', '%d'),
           ('sec_per_kimg', '%.2f'), ('estimated', '%.2f'), ('memory_mb', '%d'), ('estimated_mb', '%d'),
           ('compile_seconds', '%.1f'), ('prepare_seconds', '%.1f'), ('error', '%s'))
PROJECTION_COLUMNS = (('experiment', '%s'), ('precision', '%s'), ('how', '%s'), ('hours', '%.1f'),
                      ('estimated', '%.1f'), ('measured', '%d %%'))


def lods_by_importance(resolution):
    """Whole lods, the finest and most expensive first, then half lods."""
    coarsest = resolution.bit_length() - 3
    return [float(lod) for lod in range(coarsest + 1)] + [lod + 0.5 for lod in range(coarsest)]


def words(row, columns):
    """The cells of a table row; '-' for unknown values."""
    return ['-' if row.get(name) is None else template % row[name] for name, template in columns]


def table(rows, columns):
    """Lines of Markdown."""
    lines = ['| ' + ' | '.join(name for name, _ in columns) + ' |', '|' + ' --- |' * len(columns)]
    return lines + ['| ' + ' | '.join(words(row, columns)).replace('\n', ' ') + ' |' for row in rows]


def tables(rows, projections):
    """The measurements, as lines of Markdown."""
    return ['Seconds per kimg are medians of three. Estimates are those of gpu_model.py, for an H200.', '',
            *table(rows, COLUMNS), '', 'Hours of the part of the schedule whose resolutions were measured:', '',
            *table(projections, PROJECTION_COLUMNS)]


def read_estimates(path):
    """The estimates of gpu_model.py in a file of `gpu_carry.py`: {(precision, lod, minibatch): facts of a row}."""
    found = collections.defaultdict(dict)
    for row in json.loads(pathlib.Path(path).read_text()):
        found[row['precision'], row['lod'], row['minibatch']][row['net']] = row
    return {key: {'estimated': sum(row['ms'] for row in nets.values()) / key[2],
                  'estimated_mb': max(row['peak_gb'] for row in nets.values()) * 1024} for key, nets in found.items()}


class Bench:
    """Measures rows of the table, and saves them one by one.

    Parameters
    ----------
    args : argparse.Namespace
        Options of :func:`main`.
    save : function
        Called without arguments before and after every row is measured.
    rows : list of dict
        Earlier measurements, which are kept.
    """

    def __init__(self, args, save, rows=()):
        import config
        self.args, self.save, self.rows, self.start = args, save, list(rows), time.monotonic()
        self.trainer = train_step.Trainer(args, args.device, args.precisions[0])
        self.device = self.trainer.environment.device
        options = config.experiments['celebahq-1024']['train']
        self.minibatches = {2 ** k: options['minibatch_overrides'].get(2 ** k, options['minibatch_default'])
                            for k in range(2, args.resolution.bit_length())}
        self.estimates = read_estimates(args.estimates) if args.estimates else {}

    def out_of_time(self):
        return time.monotonic() - self.start > self.args.budget

    def jobs(self):
        """(lod, precision, how), the most important jobs first."""
        lods = lods_by_importance(self.args.resolution) if self.args.lods is None else self.args.lods
        return [(lod, precision, how) for lod in lods
                for precision in (self.args.precisions if lod == int(lod) else self.args.precisions[:1])
                for how in self.args.how]

    def run(self):
        """Measure the paper's minibatches, then larger ones."""
        for _ in self.steps():
            pass

    def steps(self):
        """Like `run`, but as a generator that yields every row. Existing rows are not measured again."""
        for is_larger in [False] if self.args.paper_only else [False, True]:
            for job in self.jobs():
                for row in self.rows_of(*job, is_larger):
                    self.save()
                    print('  '.join(words(row, COLUMNS)), flush=True)
                    yield row
                    if self.out_of_time():
                        print('the time budget is used up; the remaining rows are skipped')
                        return

    def rows_of(self, lod, precision, how, is_larger):
        """Yield the row of the paper's minibatch, or the rows of larger ones as long as they are faster."""
        resolution = self.args.resolution >> int(lod)
        facts = {'lod': lod, 'resolution': resolution, 'precision': precision, 'how': how}
        known = [row for row in self.rows if facts.items() <= row.items()]
        minibatch, before = self.minibatches[resolution], None
        if len(known) > is_larger or is_larger and 'error' in known[0]:
            return
        if is_larger:
            minibatch, before = 2 * minibatch, known[0]['sec_per_kimg']
        functions = None
        while minibatch <= MAX_MINIBATCH:
            row = {**facts, 'minibatch': minibatch, **self.estimates.get((precision, lod, minibatch), {}),
                   'error': UNFINISHED}
            self.rows.append(row)
            self.save()
            try:
                if functions is None:
                    start = time.perf_counter()
                    functions = self.compiled(lod, precision, how)
                    facts['compile_seconds'] = time.perf_counter() - start
                self.free_memory()
                row.update(facts, **self.time(functions, lod, minibatch))
                del row['error']
            except Exception as error:      # Even after a bug, the other rows are worth having.
                row['error'] = one_line(error)
            for function in functions[:2] if functions else ():
                function.fn.programs.clear()    # Another minibatch needs other programs.
            yield row
            if not is_larger or 'error' in row or row['sec_per_kimg'] > before * (1 - MIN_GAIN):
                return
            minibatch, before = 2 * minibatch, row['sec_per_kimg']

    def compiled(self, lod, precision, how):
        """The step functions."""
        import theano_torch

        import theano

        import theano_env
        from nets import updates
        theano_env.configure('torch', {'floatX': 'float32', 'device': self.device}, precision=precision,
                             flush_denormals=True)
        theano.config.mode = theano_torch.mode(self.device, precision, capture=how == 'captured')
        exponents = [updates.loss_scaling_exponent() if precision == 'float16' else None for _ in 'DG']
        return self.trainer.functions(lod, exponents)

    def time(self, functions, lod, minibatch):
        """Measure seconds per kimg, peak memory, and the time of the first calls, which record graphs."""
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
        """Peak memory of tensors on the GPU since `free_memory`; on the CPU, of the whole process."""
        if self.device == 'cpu':
            return train_step.peak_memory_mb()
        import torch
        return torch.cuda.max_memory_allocated() / 2 ** 20

    def projections(self):
        """The projected hours of whole runs, for each measured precision and mode."""
        import config
        results = []
        timed = [row for row in self.rows if 'sec_per_kimg' in row]
        for precision, how in dict.fromkeys((row['precision'], row['how']) for row in timed):
            rows = [row for row in timed if (row['precision'], row['how']) == (precision, how)]
            estimates = [{**row, 'sec_per_kimg': row['estimated']} for row in rows if 'estimated' in row]
            for name in PROJECTED:
                options = config.experiments[name]['train']
                seconds, measured = project(rows, self.args.resolution, options)
                of_model, known = project(estimates, self.args.resolution, options)
                results.append({'experiment': name, 'precision': precision, 'how': how, 'hours': seconds / 3600,
                                'estimated': of_model / 3600 if known == measured else None,
                                'measured': 100 * measured})
        return results


def one_line(error):
    """The type of an error and the first non-empty line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{type(error).__name__}: {lines[0] if lines else "no message"}'


def project(rows, resolution, options):
    """Project the seconds of a training schedule with `options`; also return the share of its kimg that is covered.

    Each point of the schedule uses the measured row of its resolution with the most similar minibatch (during a
    fade-in, of a half lod if there is one). Compiling, snapshots and reading images are not included.
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


def add_options(parser):
    """Add the options of the networks and of the timing; return `parser`."""
    train_step.add_network_options(parser)
    # This also adds --minibatch, --repetitions and --json, which are not used here.
    parser.set_defaults(resolution=1024, fmap_max=512, fmap_base=8192, engine='torch')
    parser.add_argument('--precisions', nargs='+', default=['auto'], metavar='PRECISION',
                        help='float32, tf32, bfloat16, float16; half lods are timed only in the first one')
    parser.add_argument('--how', nargs='+', default=['captured'], choices=['captured', 'eager'],
                        help='as CUDA graphs, or step by step; default: captured')
    parser.add_argument('--paper-only', action='store_true', help='skip larger minibatches')
    parser.add_argument('--seconds', type=float, default=3, help='seconds of timing per row; default: %(default)s')
    parser.add_argument('--budget', type=float, default=540, help='seconds for everything; default: %(default)s')
    parser.add_argument('--estimates', metavar='FILE', help='estimates of gpu_carry.py to show beside measurements')
    return parser


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda0, ...; default: %(default)s')
    parser.add_argument('--out', default='.', metavar='DIR', help='folder for gpu.json and gpu.md')
    args = parser.parse_args(argv)
    os.makedirs(args.out, exist_ok=True)
    args.json = os.path.join(args.out, 'gpu.json')

    def save():
        engine = str(bench.trainer.environment)
        projections = bench.projections()
        train_step.write_json(args, bench.rows, engine=engine, projections=projections)
        pathlib.Path(args.out, 'gpu.md').write_text('\n'.join([engine, '', *tables(bench.rows, projections)]) + '\n')
    bench = Bench(args, save)
    args.precisions[0] = bench.trainer.environment.precision        # Resolves 'auto'.
    print(bench.trainer.environment)
    print('  '.join(name for name, _ in COLUMNS))
    bench.run()
    print(f'written: {args.json} and gpu.md beside it')


if __name__ == '__main__':
    main()
