"""Install with ``pip install .[demo]`` (PyTorch engine and the embedded digits) or ``pip install .[all]``."""

import pathlib

from setuptools import setup

TORCH = ['torch==2.13.0']
EXTRAS = {
    'torch': TORCH,
    'demo': [*TORCH, 'scikit-learn'],
    # Libjpeg 8d and decryption; jpeglib can only be installed where it has a wheel.
    'celebahq': ['jpeglib; (sys_platform == "linux" and platform_machine == "x86_64") or '
                 '(sys_platform == "darwin" and platform_machine == "arm64") or sys_platform == "win32"',
                 'cryptography'],
    'lsun': ['lmdb'],
    'tfrecords': ['google-crc32c'],
    'video': ['imageio-ffmpeg'],
    'inception': [*TORCH, 'torch-fidelity'],
    'export': ['onnx'],
    'tensorboard': ['tensorboard'],
    'figures': ['matplotlib'],
}

setup(
    name='progressive-growing-of-gans-theano',
    version='0.1.0',
    description='Progressive Growing of GANs (Karras et al. 2017) on Theano and Lasagne, alive on current machines',
    long_description=open('README.md', encoding='utf-8').read(),
    long_description_content_type='text/markdown',
    license='MIT',
    python_requires='>=3.10,<3.12',
    py_modules=[path.stem for path in sorted(pathlib.Path(__file__).parent.glob('*.py')) if path.stem != 'setup'],
    packages=['metrics', 'theano_torch'],
    install_requires=['theano==1.0.5', 'lasagne==0.1', 'numpy<2', 'scipy', 'h5py', 'deflate', 'isal', 'pillow',
                      'threadpoolctl', 'tqdm'],
    extras_require={
        **EXTRAS,
        'all': sorted({package for packages in EXTRAS.values() for package in packages}) + [
            'onnxruntime', 'playwright', 'pytest', 'pytest-timeout', 'pytest-xdist', 'ruff', 'scipy-openblas32'],
    },
)
