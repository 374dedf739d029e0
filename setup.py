"""The requirements; everything else that pip and uv want to know stands in pyproject.toml. See docs/installing.md."""

import configparser
import importlib.metadata
import site
import sys
import sysconfig

from setuptools import find_packages, setup

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
    'notebook': ['ipykernel', 'nbclient'],
}


def theano_is_there():
    """Whether the environment that is installed into has a Theano; pip hides its packages from this script."""
    folders = [sysconfig.get_path('purelib'), site.getusersitepackages()]
    return any(found.metadata['Name'].lower() == 'theano' for found in importlib.metadata.distributions(path=folders))


# pip would find out only after it has downloaded everything.
if not hasattr(configparser, 'SafeConfigParser') and not theano_is_there():
    raise SystemExit("Python %d.%d cannot build Theano 1.0.5; use Python 3.11: uv venv --python 3.11 .venv && uv pip "
                     "install --python .venv '.[demo]' (without uv: docs/installing.md)" % sys.version_info[:2])

setup(
    # Scripts run from the clone; what other programs import is theano_torch.
    packages=find_packages(include=['theano_torch', 'theano_torch.*']),
    py_modules=[],
    install_requires=['theano==1.0.5', 'lasagne==0.1', 'numpy', 'scipy', 'h5py', 'deflate', 'isal', 'pillow',
                      'threadpoolctl', 'tqdm', 'filelock>=4.1', 'psutil', 'pydantic>=2'],
    extras_require={
        **EXTRAS,
        'all': sorted({package for packages in EXTRAS.values() for package in packages}) + [
            'mypy', 'onnxruntime', 'playwright', 'pyte', 'pytest', 'pytest-timeout', 'pytest-xdist', 'ruff',
            'scipy-openblas32',
            # Its interpreter runs the kernels of theano_torch.fuser. Elsewhere they run on no GPU either.
            'triton; sys_platform == "linux"'],
    },
)
