"""Requirements of the project; pyproject.toml has all other metadata. See docs/installing.md."""

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
    # jpeglib provides libjpeg 8d and is installable only on platforms with a wheel; cryptography decrypts the deltas.
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
    """Whether the target environment has Theano. pip builds in isolation, so an import would not find it."""
    folders = [sysconfig.get_path('purelib'), site.getusersitepackages()]
    return any(found.metadata['Name'].lower() == 'theano' for found in importlib.metadata.distributions(path=folders))


# Theano's own build would fail only after pip has downloaded all requirements.
if not hasattr(configparser, 'SafeConfigParser') and not theano_is_there():
    raise SystemExit("Python %d.%d cannot build Theano 1.0.5; use Python 3.11: uv venv --python 3.11 .venv && uv pip "
                     "install --python .venv '.[demo]' (without uv: docs/installing.md)" % sys.version_info[:2])

setup(
    # The scripts run from the clone; only theano_torch is installed for other programs.
    packages=find_packages(include=['theano_torch', 'theano_torch.*']),
    py_modules=[],
    install_requires=['theano==1.0.5', 'lasagne==0.1', 'numpy', 'scipy', 'h5py', 'deflate', 'isal', 'pillow',
                      'threadpoolctl', 'tqdm', 'filelock>=4.1', 'psutil', 'pydantic>=2'],
    extras_require={
        **EXTRAS,
        'all': sorted({package for packages in EXTRAS.values() for package in packages}) + [
            'mypy', 'onnxruntime', 'playwright', 'pyte', 'pytest', 'pytest-timeout', 'pytest-xdist', 'ruff',
            'scipy-openblas32',
            # The tests run the kernels of theano_torch.fuser in its interpreter. Other platforms do not use Triton.
            'triton; sys_platform == "linux"'],
    },
)
