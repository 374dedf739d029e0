"""Estimate the training steps on a GPU without having one: kernels, bytes, FLOP, milliseconds, memory.

    python benchmarks/gpu_model.py
    python benchmarks/gpu_model.py --lods 0 4 --precision bfloat16 --kernels

The real program runs on the stand-in of tests/standin, with tensors that have no values, which observes each kernel
launch with its arguments. The time of a kernel on an H200 is modelled as the longest of three: the time to move its
bytes at the bandwidth of a large element-wise kernel; the time for its FLOP at the share of the tensor cores' peak that
its numbers of channels allow; the least time between two launches. The last line gives the hours of two schedules of
the 1024x1024 networks: the 19 000 kimg of the paper (celebahq-1024) and the 12 000 kimg of a preset
(celebahq-v2-1gpu). The lines before it give the same for other cards.
"""

import argparse
import collections
import gc
import inspect
import json
import pathlib
import sys
from typing import NamedTuple

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]

import train_step

POINTS = 3000               # Points of a schedule to evaluate.
LOD_OF_PAPER = 'celebahq-1024'
SCHEDULES = ('celebahq-1024', 'celebahq-v2-1gpu')       # Keys of config.experiments.

# One H200.
HBM = 3.9e12                # Bytes per second of a large element-wise kernel; a plain copy moves 4.3e12.
PEAK = {'float32': 420e12, 'bfloat16': 780e12, 'float16': 780e12}      # FLOP per second; float32 computes as TF32.
OTHER_PEAK = 30e12
LAUNCH = 2.0e-6             # Least time in seconds between two kernels of a CUDA graph.
SMALL_REDUCTION = 0.35      # Share of the bandwidth that sums over few neighbouring channels reach.
FEW, BIG = 64, 1 << 20      # Such sums have at most this many channels, and more than this many bytes.
MATMUL_SHARE = 0.6          # Share of the peak that large products reach.
WGRAD_SHARE = 0.6           # Speed of weight gradients relative to other products.
TILE = 64                   # Width of the tensor cores' tiles; with fewer channels, tiles are partly empty.


class Card(NamedTuple):
    """Parameters of a GPU in the model: bandwidth in bytes per second, peak in FLOP per second by type."""

    name: str
    hbm: float
    peak: dict[str, float]


H200 = Card('H200', HBM, PEAK)
# Data sheet values, reduced by the factors of the H200. A T4 has no TF32, and uses float16 instead of bfloat16.
OTHER_CARDS = (
    Card('A100', 1.65e12, {'float32': 133e12, 'bfloat16': 246e12, 'float16': 246e12}),
    Card('RTX 4090', 0.82e12, {'float32': 70e12, 'bfloat16': 130e12, 'float16': 130e12}),
    Card('T4', 0.26e12, {'float32': 6.9e12, 'bfloat16': 51e12, 'float16': 51e12}),
)


def seconds(kernel, card=H200):
    """Modelled time in seconds of a `tests.standin.kernels.Kernel`."""
    if kernel.kind == 'h2d':
        return LAUNCH       # Uploads overlap with the step, on a separate stream.
    memory = kernel.bytes / card.hbm
    if kernel.kind == 'reduce' and kernel.reduced <= FEW and kernel.bytes > BIG:
        memory /= SMALL_REDUCTION
    compute = 0
    if kernel.flops:
        share = share_of_peak(kernel) if kernel.kind == 'conv' else MATMUL_SHARE
        compute = kernel.flops / (card.peak.get(str(kernel.dtype).rpartition('.')[2], OTHER_PEAK) * share)
    return max(memory, compute, LAUNCH)


def share_of_peak(kernel):
    """The share of the peak that a convolution reaches with its numbers of channels."""
    channels_in, channels_out, taps, way = kernel.channels
    depth = channels_in * (1 if way == 'wgrad' else taps)
    share = MATMUL_SHARE * min(1, channels_out / TILE) * min(1, depth / TILE)
    return share * (WGRAD_SHARE if way == 'wgrad' else 1)


class Row(NamedTuple):
    """A step of one network at one lod."""

    lod: float
    resolution: int
    minibatch: int
    net: str                # 'D' or 'G'.
    kernels: int
    gb: float               # Memory traffic.
    tflop: float
    ms: float
    conv_ms: float          # Time of convolutions and matrix products.
    peak_gb: float          # Peak memory of tensors, without cuDNN's workspaces.
    waits: int              # How often the host waits for the GPU: once per result.

    def on(self, card, kernels):
        """The row of the same step, which consists of `kernels`, on another card."""
        return self._replace(ms=1e3 * sum(seconds(kernel, card) for kernel in kernels))


HEAD = '| lod | resolution | minibatch | net | kernels | GB | TFLOP | ms | conv ms | peak GB | host waits |'
ROW = '| %.1f | %d | %d | %s | %d | %.1f | %.2f | %.2f | %.2f | %.2f | %d |'


class Model:
    """The networks of `args` and their steps on the stand-in `gpu`."""

    def __init__(self, args, gpu):
        import config
        self.args, self.gpu = args, gpu
        self.trainer = train_step.Trainer(args, 'cuda0', args.precision)
        options = config.experiments[LOD_OF_PAPER]['train']
        self.minibatches = {**dict.fromkeys((2 ** k for k in range(2, 11)), options['minibatch_default']),
                            **options['minibatch_overrides']}

    def rows(self, lod):
        """The rows of one lod, and {network: kernels of its step}."""
        import numpy as np

        from nets import updates
        resolution = self.args.resolution >> int(lod)
        minibatch = self.args.minibatch or self.minibatches[resolution]
        exponents = [updates.loss_scaling_exponent() if self.args.precision == 'float16' else None for _ in 'DG']
        functions = self.trainer.functions(lod, exponents)
        latents = np.zeros((minibatch, self.trainer.latent_size), np.float32)
        labels = np.zeros((minibatch, 0), np.float32)
        images = np.zeros((minibatch, self.args.channels, resolution, resolution), np.uint8)
        rows, kernels = [], {}
        for net, function, inputs in (('D', functions.train_d, (images, labels, latents, labels)),
                                      ('G', functions.train_g, (latents, labels))):
            kernels[net], peak, waits = observed(self.gpu, function, inputs)
            rows.append(summary(kernels[net], lod, resolution, minibatch, net, peak, waits))
        return rows, kernels


def observed(gpu, function, inputs):
    """(kernels of a call of a compiled function, peak memory in bytes, number of host waits).

    The first calls make the function's program and warm it up; the observed last one records it.
    """
    from theano_torch.capture import WARM_UP_CALLS

    from tests.standin.kernels import Trace
    for _ in range(1 + WARM_UP_CALLS):
        function(*inputs)
    gc.collect()
    gpu.reset_peak()
    gpu.reset_notes()
    trace = Trace()
    gpu.observers.append(trace)
    function(*inputs)
    gpu.observers.remove(trace)
    return trace.kernels, gpu.peak, gpu.waits


def summary(kernels, lod, resolution, minibatch, net, peak, waits):
    return Row(lod, resolution, minibatch, net, len(kernels), sum(k.bytes for k in kernels) / 1e9,
               sum(k.flops for k in kernels) / 1e12, 1e3 * sum(map(seconds, kernels)),
               1e3 * sum(seconds(k) for k in kernels if k.kind in ('conv', 'matmul')), peak / 2 ** 30, waits)


def print_kernels(kernels):
    """Print a table of the kernels by kind and name, in descending order of time."""
    found = collections.defaultdict(list)
    for kernel in kernels:
        found[kernel.kind, kernel.name].append(kernel)
    for (kind, name), group in sorted(found.items(), key=lambda item: -sum(map(seconds, item[1]))):
        print('    %-10s %-28s %5d kernels %9.3f GB %8.3f ms' % (
            kind, name, len(group), sum(k.bytes for k in group) / 1e9, 1e3 * sum(map(seconds, group))))


def hours(rows, resolution, options):
    """Hours of the schedule with the `options` of a training.

    A point of the schedule uses the rows of its lod. During a fade-in, these are the rows of the half lod, or of the
    whole lod below if there are none.
    """
    from training.schedule import training_schedule
    taken = {(row.lod, row.net): row for row in rows}
    accepted = inspect.signature(training_schedule).parameters
    options = {name: value for name, value in options.items() if name in accepted}
    total, images = 0.0, 1000 * options['total_kimg'] / POINTS
    for point in range(POINTS):
        schedule = training_schedule((point + 0.5) * images, resolution, **options)
        lod = schedule.min_lod + 0.5 * (schedule.lod != schedule.min_lod)
        if (lod, 'D') not in taken:
            lod = float(schedule.min_lod)
        total += sum(taken[lod, net].ms / taken[lod, net].minibatch for net in 'DG') / 1e3 * images
    return total / 3600


def last_line(rows, resolution):
    """The hours of both schedules, and the seconds per kimg at the full resolution."""
    import config
    finest = sum(row.ms / row.minibatch for row in rows if row.lod == 0)
    words = ['%d kimg: %.1f h' % (options['total_kimg'], hours(rows, resolution, options))
             for options in (config.experiments[name]['train'] for name in SCHEDULES)]
    return '%s, %s, %dx%d: %.1f sec/kimg' % (*words, resolution, resolution, finest)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    train_step.add_network_options(parser)
    parser.set_defaults(resolution=1024, fmap_max=512, fmap_base=8192, engine='torch', minibatch=None)
    parser.add_argument('--precision', default='tf32', help='float32, tf32, bfloat16 or float16; default: tf32')
    parser.add_argument('--kernels', action='store_true', help='list the kernels of each step')
    args = parser.parse_args(argv)
    coarsest = args.resolution.bit_length() - 3
    lods = args.lods or [lod / 2 for lod in range(2 * coarsest + 1)]
    from tests.standin.engine import a_gpu
    with a_gpu('meta') as gpu:
        model, rows = Model(args, gpu), []
        others = [(card, []) for card in OTHER_CARDS]
        print(model.trainer.environment)
        print(HEAD + '\n' + '|' + ' --- |' * HEAD.count(' | ') + ' --- |')
        for lod in lods:
            found, kernels = model.rows(lod)
            for row in found:
                print(ROW % row, flush=True)
                if args.kernels:
                    print_kernels(kernels[row.net])
                for card, known in others:
                    known.append(row.on(card, kernels[row.net]))
            rows += found
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps([row._asdict() for row in rows], indent=1) + '\n')
    if {float(lod) for lod in range(coarsest + 1)} <= {row.lod for row in rows}:
        for card, known in others:
            print(f'{card.name}: {last_line(known, args.resolution)}')
        print(last_line(rows, args.resolution))


if __name__ == '__main__':
    main()
