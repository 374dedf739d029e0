"""Run Lasagne's own tests on an engine.

    pip install 'mock<4'
    pip download --no-deps --no-binary :all: lasagne==0.1
    python benchmarks/lasagne_suite.py Lasagne-0.1.tar.gz
    python benchmarks/lasagne_suite.py Lasagne-0.1.tar.gz --engine theano

The tests are in Lasagne's source distribution and not in the wheel that pip builds of it. They are unpacked into a
temporary folder and run on the installed Lasagne. Newer versions of mock cannot stand in for its layers. The last lines
say which tests fail. One does on every engine, `test_import_without_gpu_or_cudnn_raises`, which looks for cuDNN; those
of other layers for GPUs are skipped.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINE = 'LASAGNE_SUITE_ENGINE'     # The environment variable that tells the plugin below.


def pytest_configure(config):
    """This file is also a plugin of pytest, which chooses the engine before the tests import Theano."""
    if ENGINE in os.environ:
        import theano_env
        theano_env.configure(os.environ[ENGINE], {'device': 'cpu', 'floatX': 'float32'})


def unpack(archive, folder):
    """Put the tests of Lasagne's source distribution into `folder`."""
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
