"""Estimate how the presets for many GPUs scale, out of the rows of benchmarks/gpu_model.py.

    python benchmarks/gpu_model.py --precision bfloat16 --json rows.json
    python benchmarks/gpu_scaling.py rows.json

A step takes what its share of the minibatch takes on one GPU. Then the gradients of both networks travel around a ring,
after all else: nothing overlaps today. GPUs of a machine are connected by NVLink. A ring over machines is as fast as
its slowest link, which the GPUs of a machine share. Latencies of the network are not in the model.
"""

import argparse
import json
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]

import gpu_model

NVLINK = 360e9              # Bytes a second in each direction between neighbours in a ring of H200s.
GPUS_PER_MACHINE = 8
LINKS = (25, 100, 400)      # Gigabits a second between machines.
BYTES = {'float32': 4, 'bfloat16': 2}


def ring_seconds(size, gpus, machines, link):
    """How long the mean of `size` bytes over all GPUs takes; `link` in gigabits a second."""
    per_machine = gpus // machines
    seconds = 2 * (per_machine - 1) / per_machine * size / NVLINK
    if machines > 1:
        seconds += 2 * (machines - 1) / machines * size / (link * 1e9 / 8)
    return seconds


def step_seconds(rows, per_gpu):
    """How long a D and a G step take at the full resolution with `per_gpu` images.

    In proportion to the images, but no less than the launches of all kernels.
    """
    return sum(max(row.ms / 1e3 * per_gpu / row.minibatch, row.kernels * gpu_model.LAUNCH)
               for row in rows if row.lod == 0)


def gradient_numbers():
    """How many numbers travel after a D and a G step of the 1024x1024 networks."""
    from nets import costs
    from nets.network import Network
    kwargs = {'num_channels': 3, 'resolution': 1024, 'fmap_base': 8192, 'fmap_max': 512}
    return sum(costs.num_trainable(net) for net in (Network('G', func='networks.G_paper', latent_size=512, **kwargs),
                                                    Network('D', func='networks.D_paper', **kwargs)))


def table(rows, numbers):
    """The lines of a table: seconds per kimg and the network's share of them, by type of the gradients."""
    import config
    columns = [f'sec/kimg, {dtype} gradients (network)' for dtype in BYTES]
    lines = [f'| GPUs | machines | link, Gb/s | images per GPU | {" | ".join(columns)} |',
             '|' + ' ---: |' * (4 + len(BYTES))]
    for gpus, machines in ((1, 1), (2, 1), (4, 1), (8, 1), (16, 2), (32, 4), (64, 8)):
        preset = min(gpus, GPUS_PER_MACHINE)
        name = f'celebahq-v2-{preset}gpu{"s" * (preset > 1)}'
        per_gpu = config.experiments[name]['train']['minibatch_default'] // preset
        for link in LINKS if machines > 1 else (None,):
            cells = []
            for size in BYTES.values():
                network = ring_seconds(numbers * size, gpus, machines, link) if gpus > 1 else 0
                step = step_seconds(rows, per_gpu) + network
                cells.append(f'{step / per_gpu / gpus * 1e3:.2f} ({100 * network / step:.0f} %)')
            lines.append(f'| {gpus} | {machines} | {link or "NVLink"} | {per_gpu} | {" | ".join(cells)} |')
    return lines


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('rows', metavar='JSON', help='rows of gpu_model.py')
    args = parser.parse_args(argv)
    rows = [gpu_model.Row(**row) for row in json.loads(pathlib.Path(args.rows).read_text())]
    import theano_env
    theano_env.configure('auto', {'device': 'cpu'})
    print('\n'.join(table(rows, gradient_numbers())))


if __name__ == '__main__':
    main()
