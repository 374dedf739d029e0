"""Measure the time and memory of generating 1024x1024 images: loading the paper's generator, compiling, generating.

``python benchmarks/generate_image.py`` saves a network with random weights and generates images in a new process, like
`generate_fake_images`. OMP_NUM_THREADS sets the number of cores.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import theano_env
from common.files import save_pkl
from common.machine import peak_memory
from nets.network import (
    Network,
    random_latents,
)
from runs.images import generate, load_generator


def peak_memory_gb():
    return peak_memory() / 2 ** 30


def save_network(path, resolution):
    G = Network('Gs', 'networks.G_paper', num_channels=3, resolution=resolution, fmap_base=8192,
                fmap_max=512, latent_size=512)
    save_pkl(G, path)


def measure(path, engine, num_images):
    print(theano_env.configure(engine))
    start = time.monotonic()
    G = load_generator(path)
    print(f'load      {time.monotonic() - start:6.2f} s, peak memory {peak_memory_gb():.2f} GB')
    latents = random_latents(num_images + 1, G, np.random.RandomState(1000))
    start = time.monotonic()
    for index, _image in enumerate(generate(G, latents, [], 'Generating')):
        what = f'image {index:<3d}' if index else 'compile and first image'
        print(f'{what} {time.monotonic() - start:6.2f} s, {time.process_time():.2f} s of processors, peak memory '
              f'{peak_memory_gb():.2f} GB')
        start = time.monotonic()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--resolution', type=int, default=1024)
    parser.add_argument('--engine', default='auto')
    parser.add_argument('--images', type=int, default=5)
    parser.add_argument('--pkl', help='measure this network, in this process')
    args = parser.parse_args()
    if args.pkl:
        measure(args.pkl, args.engine, args.images)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'network.pkl')
        save_network(path, args.resolution)
        subprocess.run([sys.executable, __file__, '--pkl', path, '--engine', args.engine, '--images',
                        str(args.images)], check=True)


if __name__ == '__main__':
    main()
