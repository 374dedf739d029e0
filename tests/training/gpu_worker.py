"""Program of the processes in test_processes_on_gpus.py: ``python gpu_worker.py DEVICE TASK FOLDER [ARGUMENT ...]``.

With the device 'cuda0', each process has one stand-in for a GPU. Gloo replaces NCCL, and works on the CPU tensors
behind the stand-in's tensors.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from theano_torch import capture, collective

import numpy as np
import torch.distributed as dist
import train_step

import train
from data.dataset import Dataset
from tests.standin.engine import a_gpu
from training import processes

# Small networks, as options of benchmarks/train_step.py.
NETWORKS = {'engine': 'torch', 'resolution': 4, 'channels': 3, 'fmap_base': 32, 'fmap_max': 4, 'minibatch': 4}
CALLS = 5                   # The steps are recorded after three of these calls.
LAST = 8                    # Minibatches before a process is killed.


def steps(device, bucket_bytes, ranks):
    """Make D and G steps; return (weights, bytes summed in each step, replays of the recorded steps)."""
    collective.BUCKET_BYTES = bucket_bytes
    np.random.seed(3)
    trainer = train_step.Trainer(argparse.Namespace(**NETWORKS), device, 'float32')
    functions = trainer.functions(0.0, ranks=ranks)
    num, size = NETWORKS['minibatch'], NETWORKS['resolution']
    random, sent = np.random.RandomState(1), []
    rows, labels = ranks.share(ranks.size * num), np.zeros((num, 0), np.float32)
    with counting(sent):
        for _ in range(CALLS):
            images = random.randint(0, 256, (ranks.size * num, 3, size, size)).astype(np.uint8)
            latents = random.randn(ranks.size * num, trainer.latent_size).astype(np.float32)
            for function, inputs in ((functions.train_d, (images[rows], labels)), (functions.train_g, ())):
                sent.append(0)
                function(*inputs, latents[rows], labels)
    replays = [captured.graph.replays for graphs in capture.CudaGraphs.known for captured in graphs.recorded]
    weights = {f'{net.name} {name}': var.get_value()
               for net in (trainer.G, trainer.D) for name, var in net.vars.items()}
    capture.release_graphs()
    return weights, sent, replays


@contextlib.contextmanager
def counting(sent):
    """Add the bytes of each sum over the processes to the last number in the list `sent`."""
    all_reduce = dist.all_reduce

    def counted(tensor, *args, **kwargs):
        sent[-1] += tensor.nbytes
        return all_reduce(tensor, *args, **kwargs)
    dist.all_reduce = counted
    try:
        yield
    finally:
        dist.all_reduce = all_reduce


def compare_buckets(device, folder, *bucket_bytes):
    ranks = processes.from_environment()
    with processes.process_group(ranks, 'cuda:0' if device == 'cuda0' else device):
        for size in map(int, bucket_bytes):
            weights, *facts = steps(device, size, ranks)
            name = f'{device}-{size}-{ranks.rank}'
            np.savez(pathlib.Path(folder) / f'{name}.npz', **weights)
            pathlib.Path(folder, f'{name}.json').write_text(json.dumps(facts))


def train_until_killed(device, *argv):
    """Train; kill rank 1 after its steps have been recorded, and shorten the timeout of rank 0 from then on."""
    ranks, seen, read = processes.from_environment(), [], Dataset.next_minibatch

    def next_minibatch(dataset, *args, **kwargs):
        seen.append(dataset)
        if len(seen) == LAST:
            if ranks.rank:
                os.kill(os.getpid(), signal.SIGKILL)
            os.environ[processes.TIMEOUT_VARIABLE] = '3'
        return read(dataset, *args, **kwargs)
    Dataset.next_minibatch = next_minibatch
    return train.main(argv)


def main(device, task, *arguments):
    os.environ['LOCAL_RANK'] = '0'
    # Always use the stand-in, because NCCL does not connect processes on the same GPU.
    with a_gpu(capability=(9, 0)) if device == 'cuda0' else contextlib.nullcontext():
        return {'buckets': compare_buckets, 'killed': train_until_killed}[task](device, *arguments)


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
