"""Run Lasagne's own tests on an engine.

    pip install 'mock<4'
    pip download --no-deps --no-binary :all: lasagne==0.1
    python benchmarks/lasagne_suite.py Lasagne-0.1.tar.gz
    python benchmarks/lasagne_suite.py Lasagne-0.1.tar.gz --engine theano

The script unpacks the tests from Lasagne's source distribution, because its wheel lacks them, and runs them on the
installed Lasagne. Newer versions of mock cannot replace Lasagne's layers. The last lines list the tests that fail.
`test_import_without_gpu_or_cudnn_raises` fails on every engine because it needs cuDNN. The other tests of GPU layers
are skipped.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINE = 'LASAGNE_SUITE_ENGINE'     # Environment variable with the engine for the plugin below.


def pytest_configure(config):
    """Choose the engine before the tests import Theano; this file is also a pytest plugin."""
    if ENGINE in os.environ:
        import theano_env
        theano_env.configure(os.environ[ENGINE], {'device': 'cpu', 'floatX': 'float32'})


def unpack(archive, folder):
    """Extract the tests of Lasagne's source distribution into `folder`."""
    with tarfile.open(archive) as contents:
        for member in contents.getmembers():
            parts = Path(member.name).parts
            if member.isfile() and parts[1:3] == ('lasagne', 'tests'):
                target = Path(folder, *parts[2:])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(contents.extractfile(member).read())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('archive', help='Lasagne-0.1.tar.gz')
    parser.add_argument('--engine', default='torch', choices=['torch', 'theano', 'python'],
                        help='default: %(default)s')
    parser.add_argument('--jobs', default='1', help='processes, needs pytest-xdist; default: %(default)s')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unpack(args.archive, folder)
        paths = [str(ROOT), str(ROOT / 'benchmarks'), os.environ.get('PYTHONPATH', '')]
        jobs = [] if args.jobs == '1' else ['-n', args.jobs]
        command = [sys.executable, '-m', 'pytest', '-p', 'lasagne_suite', '-p', 'no:cacheprovider', '-q', '-rfs',
                   '--tb', 'line', '-W', 'ignore', '--rootdir', folder, *jobs, folder + '/tests']
        sys.exit(subprocess.run(command, cwd=folder, check=False, env={
            **os.environ, ENGINE: args.engine, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}).returncode)


if __name__ == '__main__':
    main()
