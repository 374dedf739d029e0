"""Compute metrics of all network snapshots of a run, and write them to its ``metric-NAME.txt`` and ``metrics.jsonl``.

    python evaluate_metrics.py results/000-digits --metrics swd ms_ssim

Results that ``metrics.jsonl`` already has are not computed again: an interrupted evaluation can be repeated, and a run
in progress can be evaluated from time to time. Networks, dataset and weights are identified by their content.
"""

import common.starting  # noqa: F401  (handles Ctrl-C during the imports)

import argparse
import os
import sys
from types import ModuleType

import metrics
import theano_env
from common.errors import UserError, exit_status
from common.options import PositiveInt, Seed, check_settings, check_value, option_name, reading_config
from metrics import evaluation, floor, results
from runs.folder import is_trained, locate_network_pkl, locate_run_dir
from runs.records import RESULTS_NAME, read_config
from training import experiment, recorded

# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def parse_arguments(config: ModuleType, argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Compute metrics of all network snapshots of a run.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='metrics, with their default numbers of generated images:\n%s\n\nexamples:\n'
               '  python evaluate_metrics.py results/000-digits --metrics swd ms_ssim --num-images 2000\n'
               '  python evaluate_metrics.py results/003-celeba --metrics fid --inception-weights weights.pth\n'
               '  python evaluate_metrics.py results/004-mnistrgb --metrics mnist_modes --classifier classifier.npz\n'
               '  python evaluate_metrics.py results/003-celeba --metrics swd ms_ssim --reals\n'
               % '\n'.join('  %-16s %d' % (name, entry.num_images) for name, entry in metrics.METRICS.items()))
    parser.add_argument('run', metavar='RUN', help="number or folder of a run, or 'latest'")
    parser.add_argument('--metrics', nargs='+', default=['swd', 'ms_ssim'], metavar='NAME',
                        help='default: swd ms_ssim')
    parser.add_argument('--num-images', type=int, metavar='N', help='generated images per snapshot')
    parser.add_argument('--only-final', action='store_true', help='only the last snapshot')
    parser.add_argument('--snapshot', metavar='KIMG', help="one snapshot: thousands of images, 'final' or 'latest'")
    parser.add_argument('--reals', action='store_true', help='evaluate the reals of the run instead of its networks: '
                        'the values of perfect networks')
    parser.add_argument('--seed', type=int, default=1000, help='seed of latents and samples (default: %(default)s)')
    parser.add_argument('--minibatch', type=int, default=64, metavar='N', help='images generated at a time')
    parser.add_argument('--batchnorm', choices=['minibatch', 'running'], default='minibatch', help='statistics for '
                        'batch norm: of each minibatch, or running averages of the training (default: %(default)s)')
    parser.add_argument('--inception-weights', metavar='FILE', help='weights of torch-fidelity')
    parser.add_argument('--classifier', metavar='FILE', help='file of train_classifier.py or of the 2017 release')
    parser.add_argument('--data-dir', metavar='DIR', help=f"default: the run's, or {config.data_dir}")
    parser.add_argument('--cache-dir', metavar='DIR', help='folder for statistics of reals (default: '
                        'DATA_DIR/metric-cache)')
    parser.add_argument('--spill-dir', metavar='DIR', help='folder for temporary files of swd, to save memory')
    parser.add_argument('--result-dir', default=config.result_dir, metavar='DIR', help='default: %(default)s')
    theano_env.add_arguments(parser, config)
    return parser.parse_args(argv)


def run_command(args: argparse.Namespace, config: ModuleType) -> None:
    """Evaluate with the options from :func:`parse_arguments`."""
    if args.num_images is not None and args.num_images < 2:
        raise UserError(f'--num-images {args.num_images}: must be at least 2')
    for name, annotation in (('minibatch', PositiveInt), ('seed', Seed)):
        check_value(option_name(name), getattr(args, name), annotation, ' ')
    for name in args.metrics:
        metrics.check_name(name)
    run_dir = locate_run_dir(args.run, args.result_dir, is_trained)
    snapshot = None
    if args.reals and (args.snapshot is not None or args.only_final):
        raise UserError('--reals: evaluates no networks; omit '
                        f'{"--only-final" if args.only_final else "--snapshot"}')
    if args.snapshot is not None:
        snapshot = os.path.splitext(os.path.basename(locate_network_pkl(run_dir, args.snapshot)))[0]
    config_of_run = read_config(run_dir)
    recorded.check_functions(run_dir, config_of_run, recorded.trusted_functions(config))
    data_dir = args.data_dir or recorded.data_dir_of(config_of_run.get(recorded.RECORD), config.data_dir,
                                                     config_of_run)
    theano_env.configure(args.engine, theano_env.with_device(config.theano_flags, args.device), None, config.precision)
    cache_dir = args.cache_dir or os.path.join(data_dir, 'metric-cache')
    options = {'num_images': args.num_images, 'random_seed': args.seed, 'inception_weights': args.inception_weights,
               'classifier': args.classifier, 'spill_dir': args.spill_dir}

    def open_dataset():
        return experiment.open_dataset(config_of_run, data_dir, make=False)

    if args.reals:
        entries = floor.evaluate_reals(run_dir, args.metrics, open_dataset, cache_dir, **options)
    else:
        entries = evaluation.evaluate_run(run_dir, args.metrics, open_dataset, cache_dir, only_final=args.only_final,
                                          only_snapshot=snapshot, minibatch_size=args.minibatch,
                                          batchnorm=args.batchnorm, **options)
    print(results.table(entries, args.metrics))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return the exit status."""
    with reading_config('evaluate_metrics.py'):
        import config
        check_settings(config)
    args = parse_arguments(config, argv)
    return exit_status('evaluate_metrics.py', lambda: run_command(args, config),
                       (UserError, theano_env.EnvironmentProblem),
                       f'interrupted; {RESULTS_NAME} keeps the finished results')


if __name__ == '__main__':
    sys.exit(main())
