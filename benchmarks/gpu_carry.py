"""Make the folder that `gpu_check.py` needs on a machine without internet: wheels, and estimates of the model.

    python benchmarks/gpu_carry.py carry

Run it on a machine with internet, with Python 3.10 or 3.11, which can build Theano 1.0.5. The wheels are for the Python
of the target machine, Linux on x86-64. PyTorch with CUDA, Triton and the packages of --there must be installed there.

carry/wheels holds the wheels, carry/estimates.json the estimates of gpu_model.py for the rows to measure. Estimating
takes half an hour or more; --wheels-only skips it and keeps an older estimates.json.
"""

import argparse
import json
import pathlib
import subprocess
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]

import gpu
import gpu_model

BUILT = ('theano==1.0.5', 'lasagne==0.1')       # Pure Python, but only Python below 3.12 can build them.
NEEDED = ('numpy', 'scipy', 'h5py', 'deflate', 'isal', 'pillow', 'threadpoolctl', 'tqdm', 'filelock>=4.1', 'psutil',
          'pydantic>=2', 'six', 'pytest', 'pytest-timeout')
THERE = ('numpy', 'scipy', 'h5py', 'pillow', 'threadpoolctl', 'tqdm', 'psutil', 'six')
PLATFORMS = [f'manylinux_2_{minor}_x86_64' for minor in (34, 31, 28, 27, 24, 17)] + ['manylinux2014_x86_64']
LARGER = (1, 2, 4)          # Multiples of the paper's minibatch at whole lods.


def make_wheels(folder, python, there):
    """Fill `folder` with wheels for a version of Python, except the packages in `there`; return their paths.

    Raises
    ------
    subprocess.CalledProcessError
        pip has failed, and has printed the reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob('*.whl'):        # Two versions of one package stop the installation.
        old.unlink()
    pip = [sys.executable, '-m', 'pip']
    subprocess.run([*pip, 'wheel', '--quiet', '--no-deps', '--wheel-dir', folder, *BUILT], check=True)
    subprocess.run([*pip, 'download', '--quiet', '--only-binary=:all:', '--python-version', python,
                    '--implementation', 'cp', *(word for name in PLATFORMS for word in ('--platform', name)),
                    '--dest', folder, *(name for name in NEEDED if name not in there)], check=True)
    return sorted(folder.glob('*.whl'))


def estimates(args):
    """Rows of gpu_model.py for everything that gpu.py measures, as dicts with the precision."""
    from tests import standin
    from tests.standin.engine import forget
    found = []
    for precision in args.precisions:
        args.precision, args.minibatch = precision, None
        forget()        # Discards what the engine has cached about the previous stand-in.
        with standin.installed('meta') as device:
            model = gpu_model.Model(args, device)
            for lod in gpu.lods_by_importance(args.resolution) if args.lods is None else args.lods:
                is_whole = lod == int(lod)
                if not is_whole and precision != args.precisions[0]:
                    continue
                for factor in LARGER if is_whole and not args.paper_only else LARGER[:1]:
                    args.minibatch = factor * model.minibatches[args.resolution >> int(lod)]
                    for row in model.rows(lod)[0]:
                        found.append({'precision': precision, **row._asdict()})
                        print(precision, gpu_model.ROW % row, flush=True)
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=pathlib.Path, help='folder to make or fill')
    parser.add_argument('--python', default='3.12', help='Python version of the target; default: %(default)s')
    parser.add_argument('--there', nargs='*', default=THERE, metavar='PACKAGE',
                        help='packages that the target has besides PyTorch; default: ' + ' '.join(THERE))
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument('--wheels-only', action='store_true', help='make no estimates')
    parts.add_argument('--estimates-only', action='store_true', help='make no wheels')
    gpu.add_options(parser)
    parser.set_defaults(precisions=['bfloat16', 'tf32'])
    args = parser.parse_args(argv)
    if not args.estimates_only:
        for path in make_wheels(args.folder / 'wheels', args.python, args.there):
            print(path)
    if not args.wheels_only:
        args.folder.mkdir(parents=True, exist_ok=True)
        (args.folder / 'estimates.json').write_text(json.dumps(estimates(args), indent=1) + '\n')


if __name__ == '__main__':
    main()
