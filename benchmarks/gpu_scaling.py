"""Estimate how the presets for many GPUs scale: the time of a D and a G step at 1024x1024, with sums of gradients.

    python benchmarks/gpu_scaling.py --precision bfloat16

The real program of one process runs on the stand-in of tests/standin, with tensors that have no values and a process
group that sends nothing. This shows each kernel and each bucket of gradients in order. The time of kernels comes from
benchmarks/gpu_model.py. The sum of a bucket starts when its gradients are computed and the previous sum is complete,
and overlaps with the following kernels. Its time is that of a ring: the GPUs of a machine are connected by NVLink, and
a ring over machines is as fast as its slowest link, which the GPUs of a machine share. The model ignores that NCCL's
kernels occupy a few of the GPU's processors.
"""

import argparse
import json
import pathlib
import sys
from typing import NamedTuple

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]

import gpu_model
import train_step

NVLINK = 360e9              # Bytes per second in each direction between neighbours in a ring of H200s.
START = 15e-6               # Overhead of a collective operation in seconds.
HOP = 10e-6                 # Latency of each hop between machines in seconds.
GPUS_PER_MACHINE = 8
LINKS = (25, 100, 400)      # Gigabits per second between machines.
CLUSTERS = ((1, 1), (2, 1), (4, 1), (8, 1), (16, 2), (32, 4), (64, 8))      # GPUs, machines.


class Part(NamedTuple):
    """A part of a step: kernels for some seconds, or the start of a sum, or the wait for the oldest sum."""

    seconds: float = 0
    starts: int = 0         # Bytes of a bucket.
    waits: bool = False


def parts_of(kernels):
    """The parts of a step that launches these `tests.standin.kernels.Kernel`."""
    for kernel in kernels:
        if kernel.kind == 'sum over processes':
            yield Part(starts=kernel.bytes)
        elif kernel.kind == 'wait for processes':
            yield Part(waits=True)
        else:
            yield Part(seconds=gpu_model.seconds(kernel))


def gradient_bytes(parts):
    """Number of bytes that a process sums in a step: its gradients and, for D, its outputs."""
    return sum(part.starts for part in parts)


def ring_seconds(size, gpus, machines, link):
    """Time in seconds of the sum of `size` bytes over all GPUs; `link` in gigabits per second."""
    per_machine = gpus // machines
    seconds = START + 2 * (per_machine - 1) / per_machine * size / NVLINK
    if machines > 1:
        seconds += 2 * (machines - 1) * (HOP + size / machines / (link * 1e9 / 8))
    return seconds


def step_seconds(parts, sum_seconds):
    """(seconds of a step, seconds of it in which the GPU only waits); ``sum_seconds(bytes)`` gives a bucket's time."""
    now, waited, ends = 0.0, 0.0, []
    for part in parts:
        now += part.seconds
        if part.starts:
            ends.append(max([now, *ends]) + sum_seconds(part.starts))
        if part.waits:
            pause = max(0.0, ends.pop(0) - now)
            waited += pause
            now += pause
    return now, waited


def in_one_bucket(parts):
    """The same step with a single sum, between the kernels before the first wait and those after it."""
    parts = list(parts)
    first = next(index for index, part in enumerate(parts) if part.waits)
    kernels = [Part(seconds=part.seconds) for part in parts]
    return [*kernels[:first], Part(starts=gradient_bytes(parts)), Part(waits=True), *kernels[first:]]


def observed_steps(gpu, trainer, lod, minibatch, ranks):
    """The parts of a D and a G step of one process, with `minibatch` images."""
    import numpy as np
    args = trainer.args
    resolution = args.resolution >> int(lod)
    functions = trainer.functions(lod, ranks=ranks)
    latents = np.zeros((minibatch, trainer.latent_size), np.float32)
    labels = np.zeros((minibatch, 0), np.float32)
    images = np.zeros((minibatch, args.channels, resolution, resolution), np.uint8)
    return [list(parts_of(gpu_model.observed(gpu, function, inputs)[0])) for function, inputs in (
        (functions.train_d, (images, labels, latents, labels)), (functions.train_g, (latents, labels)))]


def steps_of(args, minibatch):
    """The parts of a D and a G step for the options `args`, on the stand-in, in one process of two."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from nets.ranks import Ranks
    from tests.standin.engine import a_gpu
    with a_gpu('meta') as gpu:
        dist.init_process_group('fake', rank=0, world_size=2, store=FakeStore())
        try:
            trainer = train_step.Trainer(args, 'cuda0', args.precision)
            return observed_steps(gpu, trainer, 0.0, minibatch, Ranks(0, 2))
        finally:
            dist.destroy_process_group()


def table(steps, per_gpu):
    """The lines of a table: seconds per kimg, and the share in which GPUs only wait for gradients.

    Parameters
    ----------
    steps : list of lists of Part
        The steps of D and G.
    per_gpu : int
        Images per GPU in a step.
    """
    columns = [f'sec/kimg, {name} (waiting)' for name in ('one bucket', 'buckets', 'buckets of bfloat16')]
    lines = [f'| GPUs | machines | link, Gb/s | {" | ".join(columns)} |', '|' + ' ---: |' * (3 + len(columns))]
    for gpus, machines in CLUSTERS:
        for link in LINKS if machines > 1 else (None,):
            cells = []
            for arranged, share in ((in_one_bucket, 1), (list, 1), (list, 0.5)):
                times = [step_seconds(arranged(parts), lambda size, share=share, where=(gpus, machines, link):
                                      ring_seconds(share * size, *where) if where[0] > 1 else 0) for parts in steps]
                total, waited = map(sum, zip(*times, strict=True))
                cells.append(f'{total / per_gpu / gpus * 1e3:.2f} ({100 * waited / total:.0f} %)')
            lines.append(f'| {gpus} | {machines} | {link or "NVLink"} | {" | ".join(cells)} |')
    return lines


def images_per_gpu():
    """Number of images per GPU in a step at 1024x1024, which is the same in all presets."""
    import config
    number, = {config.experiments[f'celebahq-v2-{gpus}gpu{"s" * (gpus > 1)}']['train']['minibatch_default'] // gpus
               for gpus in (1, 2, 4, 8)}
    return number


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    train_step.add_network_options(parser)
    parser.set_defaults(resolution=1024, fmap_max=512, fmap_base=8192, engine='torch', minibatch=None)
    parser.add_argument('--precision', default='bfloat16', help='float32, tf32, bfloat16 or float16; default: '
                        '%(default)s')
    args = parser.parse_args(argv)
    args.minibatch = args.minibatch or images_per_gpu()
    steps = steps_of(args, args.minibatch)
    for name, parts in zip('DG', steps, strict=True):
        buckets = [part.starts for part in parts if part.starts]
        print(f'{name}: {gradient_bytes(parts) / 1e6:.1f} MB in {len(buckets)} buckets')
    print('\n'.join(table(steps, args.minibatch)))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps([[part._asdict() for part in parts] for parts in steps]) + '\n')


if __name__ == '__main__':
    main()
