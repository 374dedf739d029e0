"""Make images, videos and pages from trained networks and runs: ``python util_scripts.py COMMAND RUN_OR_PKL``.

An experiment of `config.py` whose ``train.func`` names one of the functions below runs it in a new run folder:

    'faces': {'desc': 'fake-images', 'train': {'func': 'util_scripts.generate_fake_images', 'run': 3, 'seeds': [1, 2]}},

``run`` is the number or folder of a run, or a network pickle. Choose classes of conditional networks by number or, if
the run has class names, by name.
"""

import common.starting  # noqa: F401  (Ctrl-C while the rest is imported)

import argparse
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import metrics
import theano_env
from common.arguments import class_list, grid, number_list
from common.errors import UserError, exit_status
from common.objects import defaults_of
from common.options import check_command_line, check_settings, reading_config
from explorer.server import explore
from runs import page
from runs.folder import locate_run_dir
from runs.images import generate_fake_images
from runs.projection import project_image
from runs.videos import generate_interpolation_video, generate_training_video
from training import experiment
from training.old_scripts import (  # noqa: F401  (names of 2017 and 2018)
    calc_inception_scores,
    calc_mnist_histogram,
    calc_sliced_wasserstein_scores,
    evaluate_metrics,
    imgapi_compile_gen_fn,
    imgapi_generate_batch,
    imgapi_load_net,
    interpolate_latents,
)

# ----------------------------------------------------------------------------------------------------------------------
# Command line.


OPTIONS: dict[str, dict[str, Any]] = {     # Options of all commands; the functions have their defaults.
    'snapshot': {'metavar': 'KIMG', 'help': "snapshot of the run: its kimg, 'final' or 'latest'; default: latest"},
    'seeds': {'type': number_list, 'metavar': 'LIST', 'help': 'one random image for each, for example 0-15,40'},
    'classes': {'type': class_list, 'metavar': 'LIST',
                'help': 'numbers or names of classes, for example 0-3 or cat,dog; default: cycle through all'},
    'grid_size': {'type': grid, 'metavar': 'COLUMNSxROWS', 'help': 'images side by side, for example 8x4'},
    'image_zoom': {'type': int, 'metavar': 'N',
                   'help': 'enlarge every pixel; default: enlarge grids and videos of small images'},
    'net': {'choices': ['G', 'Gs'], 'help': 'Gs has averaged weights; default: %(default)s'},
    'minibatch_size': {'type': int, 'metavar': 'N', 'help': 'images generated at once; default: by resolution'},
    'batchnorm': {'type': str, 'metavar': '{minibatch,running}', 'help': 'statistics of batch norm: those of the '
                  'images generated at once, or running averages of the training; default: %(default)s'},
    'duration_seconds': {'type': float, 'metavar': 'S', 'help': 'length of the video; default: %(default)s'},
    'smoothing_seconds': {'type': float, 'metavar': 'S', 'help': 'blur of the latents over time; default: %(default)s'},
    'hold_seconds': {'type': float, 'metavar': 'S', 'help': 'how long the last picture stays; default: %(default)s'},
    'titles': {'action': argparse.BooleanOptionalAction, 'help': 'write class names beside the rows of a grid'},
    'fps': {'type': int, 'metavar': 'N', 'help': 'frames per second; default: %(default)s'},
    'captions': {'action': argparse.BooleanOptionalAction, 'help': 'write kimg, resolution, lod and time below images'},
    'random_seed': {'type': int, 'metavar': 'N', 'help': 'default: %(default)s'},
    'num_steps': {'type': int, 'metavar': 'N', 'help': 'Adam steps; default: %(default)s'},
    'num_starts': {'type': int, 'metavar': 'N', 'help': 'random starting points; default: 4, or one per class'},
    'learning_rate': {'type': float, 'metavar': 'X', 'help': 'initial rate of Adam; default: %(default)s'},
    'prior_weight': {'type': float, 'metavar': 'X', 'help': "weight of the prior on the latents' length; "
                     'default: %(default)s'},
    'video': {'action': 'store_true', 'help': 'also write a video of the search'},
}

COMMANDS: dict[Callable, tuple] = {    # function: (help, examples, further positional arguments)
    generate_fake_images: (
        'Write generated images, one per file or in grids.',
        ['generate_fake_images 3 --seeds 0-99',
         'generate_fake_images 000-digits --classes 0-9 --grid-size 10x10',
         'generate_fake_images 007-cifar10-cond --seeds 0-9 --classes cat,dog --grid-size 10x2',
         'generate_fake_images karras2018iclr-celebahq-1024x1024.pkl --seeds 1000'], ()),
    generate_interpolation_video: (
        'Write a video that interpolates between random images.',
        ['generate_interpolation_video 3 --duration-seconds 60 --fps 60 --grid-size 3x2',
         'generate_interpolation_video 000-digits --grid-size 10x1 --classes 0-9'], ()),
    generate_training_video: (
        "Write a video of a training from its pictures fakesNNNNNN.png.",
        ['generate_training_video 3',
         'generate_training_video results/000-digits --duration-seconds 10 --no-captions'], ()),
    project_image: (
        'Find the latents whose image is nearest to a given one.',
        ['project_image 3 face.png',
         'project_image 000-digits seven.png --classes 7 --num-starts 8 --video'], ('image',)),
}


def parse_arguments(argv: list[str] | None, config: ModuleType) -> dict:
    parser = argparse.ArgumentParser(description='Make images, videos and pages from trained networks and runs.',
                                     epilog='Options of a command: python util_scripts.py COMMAND --help')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for function, (help_text, examples, positional) in COMMANDS.items():
        command = commands.add_parser(
            function.__name__, help=help_text, description=help_text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog='examples:\n' + '\n'.join('  python util_scripts.py ' + example for example in examples))
        command.add_argument('run', metavar='RUN_OR_PKL',
                             help="number or folder of a run, 'latest', or a network pickle")
        for name in positional:
            command.add_argument(name, metavar=name.upper())
        for name, default in defaults_of(function).items():
            if name in OPTIONS:
                command.add_argument('--' + name.replace('_', '-'), default=default, **OPTIONS[name])
        command.add_argument('--out', metavar='DIR', help='folder to write into; default: a new run folder')
        command.add_argument('--result-dir', default=config.result_dir, metavar='DIR', help='default: %(default)s')
        theano_env.add_arguments(command, config)
        command.set_defaults(command=function.__name__)
    command = commands.add_parser(
        'report', help='Write a page about a run: curves, timing, pictures, metrics, configuration.',
        description='Write one self-contained HTML page with the curves, timing, pictures, metrics and configuration '
                    'of a run. It opens in any browser, without a server. The run need not be finished.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n  python util_scripts.py report 3\n'
               '  python util_scripts.py report results/000-digits --out digits.html')
    command.add_argument('run', metavar='RUN', help="number or folder of a run, or 'latest'")
    command.add_argument('--out', metavar='FILE', help='default: report.html in the folder of the run')
    command.add_argument('--result-dir', default=config.result_dir, metavar='DIR', help='default: %(default)s')
    command.set_defaults(command='report', engine=None, device=None)
    add_explore(commands, config)
    return vars(parser.parse_args(argv))


def add_explore(commands: Any, config: ModuleType) -> None:
    """Add the command ``explore`` to `commands`, the result of `add_subparsers`."""
    command = commands.add_parser(
        'explore', help='Explore the images of a network in the browser.',
        description='Open a page in the browser to explore latents, classes and levels of detail, and to keep, name, '
                    'interpolate and save images. Only this machine can reach the page. Ctrl-C ends the command.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n  python util_scripts.py explore 3\n'
               '  python util_scripts.py explore 3 --snapshot 2000 --port 9000 --no-browser\n'
               '  python util_scripts.py explore karras2018iclr-celebahq-1024x1024.pkl')
    command.add_argument('run', metavar='RUN_OR_PKL', help="number or folder of a run, 'latest', or a network pickle")
    for name in ('snapshot', 'net'):
        command.add_argument('--' + name, default=defaults_of(explore)[name], **OPTIONS[name])
    command.add_argument('--port', type=int, metavar='N', help='default: the first free one from 8765 on')
    command.add_argument('--no-browser', dest='browser', action='store_false', help='only print the address')
    command.add_argument('--result-dir', default=config.result_dir, metavar='DIR', help='default: %(default)s')
    theano_env.add_arguments(command, config)
    command.set_defaults(command='explore', out=None)


def run_command(args: dict, config: ModuleType) -> None:
    """Run a command with the options that :func:`parse_arguments` returned."""
    command, out, result_dir, engine, device = (
        args.pop(name) for name in ('command', 'out', 'result_dir', 'engine', 'device'))
    chosen = {'desc': command.replace('_', '-'), 'train': {'func': 'util_scripts.' + command, **args}}
    if command == 'report':
        page.write_report(locate_run_dir(args['run'], result_dir), out, metrics.decision)
    elif command == 'explore':
        check_command_line(args, explore)
        theano_env.configure(engine, theano_env.with_device(config.theano_flags, device), precision=config.precision)
        explore(**args, result_dir=result_dir)
    else:
        check_command_line(args, next(function for function in COMMANDS if function.__name__ == command))
        experiment.run_utility(chosen, result_dir, engine, theano_env.with_device(config.theano_flags, device),
                               config.precision, out)


def main(argv: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    with reading_config('util_scripts.py'):
        import config
        check_settings(config)
    args = parse_arguments(argv, config)
    return exit_status('util_scripts.py', lambda: run_command(args, config),
                       (UserError, theano_env.EnvironmentProblem))


if __name__ == '__main__':
    sys.exit(main())
