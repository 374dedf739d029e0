"""Progressive Growing of GANs (Karras et al. 2017): the training loop.

``python train.py`` runs the experiment chosen in `config.py`; ``--list`` prints all of them. ``--data PICTURES`` trains
on your own pictures, see `training/own_data.py`. ``torchrun --nproc_per_node=N train.py`` divides the work among N
processes, see `training/processes.py`.
"""

from common.starting import begin_work

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import theano_torch  # noqa: F401  (lets Theano be imported)

import numpy as np
import theano

import theano_env
from common.arguments import RememberOrigin
from common.console import lasting_output
from common.errors import UserError
from common.options import (
    BatchNorm,
    CountTable,
    Decay,
    FileName,
    GridSize,
    Names,
    NetResolution,
    NonNegative,
    Number,
    NumberTable,
    Positive,
    PositiveInt,
    Probability,
    RateTable,
    Ticks,
    Zoom,
    check_settings,
    checked,
    reading_config,
)
from nets import updates
from nets.network import Network, random_latents
from nets.ranks import SINGLE
from runs.records import read_text
from training import catalogue, experiment, fingerprint, own_data, plan, processes, versions
from training.divergence import check_start, check_weights
from training.event_file import EventFile
from training.functions_ahead import FunctionsAhead
from training.gdrop import GDropFeedback
from training.old_scripts import (  # noqa: F401  (names of 2017 and 2018)
    imgapi_compile_gen_fn,
    imgapi_generate_batch,
    imgapi_load_net,
    process_reals,
)
from training.options import naming_minibatch
from training.quality import TrainingMetrics
from training.reporting import StatusLines, Tick, TrainingProgress
from training.resume import restore_state, state_arrays
from training.saving import StateSaver, Unwritten
from training.schedule import Schedule, learning_rate, lod_range_of, next_lod_range, training_schedule
from training.snapshots import SnapshotWriter, setup_snapshot_grid
from training.step_sequence import StepSequence
from training.steps import TrainingFunctions, initialize_mbdisc
from training.stopping import Stopped, StopRequest


class StepReport(NamedTuple):
    """The argument of the `on_step` callback of :func:`train_gan`."""

    net: str                # 'D' or 'G': the network that was updated; 'D' if one step updates both.
    cur_nimg: int           # Real images shown, including this step.
    schedule: Schedule
    reals: object           # uint8 (N, C, H, W) at the resolution of the step, None for G. N: the rank's share.
    labels: object          # Labels of the reals, None for G.
    latents: object
    fake_labels: object
    outputs: object         # G_loss, D_loss, real scores, fake scores, averaged over all ranks; None for G.
    networks: dict          # 'G', 'D' and 'Gs' after the step.


SmoothedStart = Literal['keep', 'restart']
GridType = Literal['default', 'category', 'category-rows']
OnStep = Callable[[StepReport], None]


# ----------------------------------------------------------------------------------------------------------------------
# Training loop.


@checked
def train_gan(
    run_dir,                                              # Folder for images, network snapshots and statistics.
    dataset,                                              # dataset.Dataset: real images.
    G, D,                                                 # Networks to train.
    loss_kwargs                             = None,       # For loss.evaluate_loss. None = its defaults (WGAN-GP).
    separate_funcs: bool                    = True,       # One function for each network; False = both in one step.
    D_training_repeats: PositiveInt         = 1,          # D steps per G step. Needs separate_funcs.
    minibatch_repeats: PositiveInt          = 1,          # Iterations before the schedule is looked up again.
    G_learning_rate_max: NonNegative        = 0.001,      # Adam learning rate of G, before ramps.
    D_learning_rate_max: NonNegative        = 0.001,      # Adam learning rate of D, before ramps.
    G_learning_rate_overrides: RateTable | None = None,   # The same for G at some resolutions {resolution: rate}...
    D_learning_rate_overrides: RateTable | None = None,   # ...and for D.
    G_smoothing: Probability                = 0.999,      # Decay per step of the averaged generator weights Gs.
    adam_beta1: Decay                       = 0.0,        # Adam: decay of the first moment.
    adam_beta2: Decay                       = 0.99,       # Adam: decay of the second moment.
    adam_epsilon: Positive                  = 1e-8,       # Adam: added to the root of the second moment.
    reset_optimizer: bool                   = True,       # Reset Adam whenever a fade-in begins or ends.
    total_kimg: Positive                    = 15000,      # Length of the training, in thousands of real images.
    lod_initial_resolution: NetResolution   = 4,          # Image resolution at the beginning.
    lod_training_kimg: NonNegative          = 600,        # Thousands of images before the resolution doubles.
    lod_transition_kimg: NonNegative        = 600,        # Thousands of images while the new layers fade in.
    minibatch_default: PositiveInt          = 16,         # Images per step...
    minibatch_overrides: CountTable | None  = None,       # ...and at some resolutions {resolution: images}.
    rampup_kimg: NonNegative                = 40,         # Thousands of images until full learning rates. 0 = none.
    rampdown_kimg: NonNegative              = 0,          # Thousands of images at the end that ramp to zero. 0 = none.
    tick_kimg_default: Positive | None      = None,       # Thousands of images per status line. None = the release's.
    tick_kimg_overrides: NumberTable | None = None,       # The same at some resolutions. None = see tick_length.
    image_snapshot_ticks: Ticks             = 4,          # Ticks between saved image grids. 0 = never.
    network_snapshot_ticks: Ticks           = 40,         # Ticks between network snapshots. 0 = at the end only.
    keep_snapshots: PositiveInt | None      = None,       # Keep the last N, every tenth and the best. None = all.
    metrics: Names | None                   = None,       # Metrics to evaluate, as ['swd']; the first defines the best.
    metric_ticks: Ticks                     = 10,         # Ticks between evaluations; also at the end. 0 = never.
    metric_num_images: PositiveInt          = 2000,       # Generated images per evaluation.
    metric_inception_weights: FileName | None = None,     # File for 'fid' and 'inception_score'. None = fetch it.
    metric_classifier: FileName | None      = None,       # File for 'mnist_modes', made by train_classifier.py.
    state_minutes: NonNegative | None       = 10,         # Minutes between saved states. None = at the end only.
    resume_kimg: NonNegative | None         = None,       # Kimg behind the given networks. None = by file name, or 0.
    resume_Gs: SmoothedStart                = 'keep',     # Given Gs: 'keep' it (2018), or 'restart' it as a copy of G
                                                          # (2017).
    resume_time: NonNegative                = 0.0,        # Seconds of training behind the given networks.
    image_grid_type: GridType               = 'default',  # Random images, or one class per column ('category') or row.
    image_grid_size: GridSize | None        = None,       # (columns, rows) of the grid. None = choose.
    image_grid_zoom: Zoom                   = 1,          # Integer factor by which saved grids are enlarged.
    batchnorm: BatchNorm                    = 'minibatch',    # Statistics for grids and metrics: of the 'minibatch', or
                                                          # 'running' averages of the training.
    dequantize_reals: bool                  = False,      # Add uniform noise of one grey level to the real images.
    gdrop_beta: Probability                 = 0.9,        # Decay of the average that controls GDrop.
    gdrop_lim: Number                       = 0.5,        # GDrop starts where that average exceeds this...
    gdrop_coef: NonNegative                 = 0.0,        # ...with strength coef * max(average - lim, 0) ^ exp.
    gdrop_exp: Positive                     = 2.0,
    show_progress: bool                     = True,       # Progress bar with the estimated time to the end.
    on_step: OnStep | None                  = None,       # Called with a StepReport after every iteration.
    ranks                                   = SINGLE,     # Ranks: rank of this process, and number of processes.
    loss_scaling                            = False,      # Scale losses before the gradients; for float16.
    Gs                                      = None,       # Averaged generator to start from. None = a copy of G.
    run_states                              = None,       # RunStates: saves states, holds the one to resume from.
) -> Network:
    """Train `G` and `D` and write images, snapshots, states and statistics into `run_dir`.

    Returns
    -------
    Network
        Gs, the generator with averaged weights, whose images the paper shows.

    Raises
    ------
    TrainingDiverged
        A loss became NaN or infinite; earlier snapshots are kept.
    Stopped
        After Ctrl-C, SIGTERM or SIGHUP; networks and training state are saved.
    """
    resolution = dataset.shape[-1]
    is_first = ranks.rank == 0              # Only rank 0 writes.
    schedule_kwargs = {
        'total_kimg': total_kimg, 'lod_initial_resolution': lod_initial_resolution,
        'lod_training_kimg': lod_training_kimg, 'lod_transition_kimg': lod_transition_kimg,
        'minibatch_default': minibatch_default, 'minibatch_overrides': minibatch_overrides,
        'rampup_kimg': rampup_kimg, 'rampdown_kimg': rampdown_kimg,
        'tick_kimg_default': tick_kimg_default, 'tick_kimg_overrides': tick_kimg_overrides}

    def schedule_at(nimg):
        return training_schedule(int(nimg), resolution, **schedule_kwargs)

    events, unwritten = EventFile(run_dir), Unwritten()
    status_lines = StatusLines(run_dir, events, unwritten)

    # Averaged generator, fixed latents.
    start = run_states.start if run_states else None
    cur_nimg = start.document['cur_nimg'] if start else int((resume_kimg or 0) * 1000)
    sequence = StepSequence(('D' * D_training_repeats + 'G') * minibatch_repeats, cur_nimg)
    if start:
        sequence.set_state(start.document)
    schedule = schedule_at(cur_nimg if sequence.is_over else sequence.start_nimg)
    quality = TrainingMetrics(metrics, metric_ticks, metric_num_images, run_dir, dataset, ranks, cur_nimg,
                              metric_inception_weights, metric_classifier, batchnorm, G, unwritten)
    averaged, Gs = Gs, G.clone(share_nontrainables=True)
    if averaged and resume_Gs == 'keep':
        Gs.copy_trainables_from(averaged)
    networks = {'G': G, 'D': D, 'Gs': Gs}
    if not start:
        grid = setup_snapshot_grid(G, dataset, image_grid_size, image_grid_type)
        if not averaged:
            initialize_mbdisc(D, dataset, schedule.lod)
    processes.copy_from_rank_0(ranks, [var for net in networks.values() for var in net.vars.values()])
    print('Saving results to', run_dir)
    if not start:
        check_start(networks, G.source)
        snapshots = SnapshotWriter(run_dir, events, networks, grid, image_grid_zoom, batchnorm)
        if is_first:
            events.text(cur_nimg, 'Configuration/config.txt', read_text(run_dir, 'config.txt'))
            snapshots.save_reals()
            if averaged:
                set_lod(schedule.lod, G, D)
            snapshots.save_fakes(cur_nimg)

    # Learning rates, Adam, and the compiled steps of each lod range.
    G_lrate, D_lrate = theano.shared(np.float32(0)), theano.shared(np.float32(0))
    exponents = [updates.loss_scaling_exponent() if loss_scaling else None for _net in 'DG']
    compiler = FunctionsAhead(
        G, D, Gs, G_lrate, D_lrate, G_smoothing, loss_kwargs or {},
        {'beta1': adam_beta1, 'beta2': adam_beta2, 'epsilon': adam_epsilon}, separate_funcs, dequantize_reals, ranks,
        exponents, reset_optimizer=reset_optimizer)
    functions: TrainingFunctions | None = None
    upcoming: Schedule | None = None
    gdrop = GDropFeedback(gdrop_beta, gdrop_lim, gdrop_coef, gdrop_exp)
    tick = Tick(1, cur_nimg, time.monotonic() - resume_time, time.monotonic())
    done = cur_nimg >= total_kimg * 1000

    def check_ranks():
        """Check before saving that the ranks have not drifted apart."""
        if ranks.size > 1:
            arrays, _document = state_arrays(networks, exponents, compiler, dataset, grid)
            processes.check_same(ranks, fingerprint.of_state(arrays), f' at kimg {cur_nimg / 1000:.1f}')

    def end_tick(images, pickle=False):
        check_ranks()
        cur_time = time.monotonic()
        statistics = tick.statistics(cur_nimg, cur_time, schedule, gdrop.strength)
        statistics.update(quality.measure(tick.number, cur_nimg, done, statistics['seconds'], snapshots))
        if is_first:
            status_lines.report(statistics)
        if is_first and images:
            save_fakes()
        if is_first and pickle and quality.can_save(cur_nimg):
            with unwritten.tolerated('network snapshot'):
                snapshots.save_networks(cur_nimg, keep_snapshots, network_snapshot_ticks)
        return tick.next(cur_nimg, cur_time + statistics.get('metric_seconds', 0.0))

    def save_fakes():
        with unwritten.tolerated('pictures'):
            snapshots.save_fakes(cur_nimg)

    def save_networks():
        if quality.can_save(cur_nimg):
            snapshots.save_networks(cur_nimg)

    def save_final():
        snapshots.save_final()
        with unwritten.tolerated('network snapshot'):
            snapshots.number_final(cur_nimg, keep_snapshots, network_snapshot_ticks)

    def collect_state():
        check_weights(networks)
        arrays, document = state_arrays(networks, exponents, compiler, dataset, grid)
        return cur_nimg, arrays, {**document, **tick.get_state(), **sequence.get_state(), 'cur_nimg': cur_nimg,
                                  'gdrop_average': gdrop.average, 'done': done}

    saver = StateSaver(run_states, state_minutes, collect_state, unwritten)

    device = getattr(getattr(theano.config.mode, 'linker', None), 'device', 'cpu')
    with TrainingProgress(plan.stretches(G, D, D_training_repeats, device, schedule_kwargs), cur_nimg / 1000,
                          start.document['seconds'] if start else resume_time, show_progress and is_first
                          ) as progress, \
            compiler, naming_minibatch(lambda: schedule, minibatch_overrides, ranks), StopRequest(ranks) as stop, \
            saver.rescuing(sequence, dataset, stop):

        # Resume from a training state.
        if start:
            restore_time = time.monotonic()
            with progress.apart('compiling', compiling=True):
                grid, functions = restore_state(start, networks, exponents, compiler, dataset, schedule)
            check_start(networks, 'the training state')
            if functions:
                upcoming = next_lod_range(cur_nimg, resolution, schedule_kwargs)
            snapshots = SnapshotWriter(run_dir, events, networks, grid, image_grid_zoom, batchnorm)
            gdrop.average = start.document['gdrop_average']
            tick = Tick.from_state(start.document, restore_time)
            if is_first:
                run_states.rewind()
            # The state was saved before the tick was ended.
            schedule = schedule_at(sequence.start_nimg)
            set_lod(schedule.lod, G, D)
            if sequence.is_over and tick.is_over(cur_nimg, schedule):
                tick = end_tick(images=tick.is_every(image_snapshot_ticks),
                                pickle=tick.is_every(network_snapshot_ticks) and not done)

        while not (done and sequence.is_over):

            # Look up the schedule.
            if sequence.is_over:
                sequence.begin(cur_nimg)
            schedule = schedule_at(sequence.start_nimg)
            set_lod(schedule.lod, G, D)
            G_lrate.set_value(np.float32(learning_rate(schedule, G_learning_rate_max, G_learning_rate_overrides)))
            D_lrate.set_value(np.float32(learning_rate(schedule, D_learning_rate_max, D_learning_rate_overrides)))

            # A fade-in begins or ends: take the functions of the new lod range.
            if compiler.lod_range != lod_range_of(schedule):
                print('Compiling training funcs...')
                with tick.compiling(), progress.apart('compiling', compiling=True):
                    functions = compiler.take(schedule)
                    upcoming = next_lod_range(cur_nimg, resolution, schedule_kwargs)
            assert functions

            # Train D, then G. Every rank draws the whole minibatch and takes its share of the rows.
            rows = ranks.share(schedule.minibatch_size)
            for net in sequence.remaining():
                if net == 'D':
                    reals, labels = dataset.next_minibatch(schedule.minibatch_size, schedule.lod,
                                                           shrink_based_on_lod=True, rows=rows)
                    latents = random_latents(schedule.minibatch_size, G)[rows]
                    fake_labels = dataset.random_labels(schedule.minibatch_size)[rows]
                    outputs = functions.train_d(reals, labels, latents, fake_labels)
                    cur_nimg += schedule.minibatch_size
                    tick.add(outputs, G if functions.train_g else None, labels=labels, fake_labels=fake_labels,
                             latents=latents)
                    sequence.D_loss = float(np.mean(outputs[1]))
                    if on_step:
                        on_step(StepReport('D', cur_nimg, schedule, reals, labels, latents, fake_labels, outputs,
                                           networks))
                    continue
                if functions.train_g:
                    latents = random_latents(schedule.minibatch_size, G)[rows]
                    fake_labels = dataset.random_labels(schedule.minibatch_size)[rows]
                    functions.train_g(latents, fake_labels)
                    if on_step:
                        on_step(StepReport('G', cur_nimg, schedule, None, None, latents, fake_labels, None, networks))
                # The release feeds GDrop back with output number 2 of the last D step, which is D's loss.
                gdrop.update(sequence.D_loss, D)
            progress.advance(cur_nimg)
            if upcoming:    # Compile ahead only after the first step.
                compiler.prepare(upcoming)
                upcoming = None

            # Save the training state: every state_minutes, at the end, and on a request to stop.
            done = cur_nimg >= total_kimg * 1000
            due = is_first and saver.is_due(networks_follow=tick.is_over(cur_nimg, schedule))
            signum, due = (0, True) if done else stop.requested(due)
            if run_states and (signum or due):
                check_ranks()
            if signum:
                raise saver.save_and_stop(stop, signum, save_networks, cur_nimg / 1000)
            if is_first and due:
                with progress.apart('saving the state'):
                    saver.try_to_save()

            # Once per tick: print the status line, save images and networks.
            if tick.is_over(cur_nimg, schedule):
                with progress.apart():
                    tick = end_tick(images=tick.is_every(image_snapshot_ticks),
                                    pickle=tick.is_every(network_snapshot_ticks) and not done)

        # End the last tick early. The saved state precedes it, so a longer run can complete this tick.
        if tick.start_nimg < cur_nimg:
            end_tick(images=image_snapshot_ticks > 0)
        elif is_first and image_snapshot_ticks > 0 and not snapshots.has_fakes(cur_nimg):
            save_fakes()

    if is_first:
        saver.finish(save_final, f'the networks need {snapshots.megabytes()} MB in {run_dir}: trying again until '
                     'there is free space', ranks)
        status_lines.catch_up()
    return Gs


def set_lod(lod: float, *networks: Network) -> None:
    """Set the level of detail of networks, which determines their resolution and the weight of a fading layer."""
    for net in networks:
        if 'cur_lod' in net.toplevel_params:
            net.toplevel_params['cur_lod'].set_value(np.float32(lod))


# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def parse_arguments(config: Any, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage='python train.py [--data PICTURES | --experiment NAME] [options]',
        description='Train a progressively grown GAN. Default: the experiment chosen in config.py.',
        formatter_class=catalogue.HelpFormatter, epilog=catalogue.overview(config))
    parser.add_argument('--data', metavar='PICTURES', help='train on a folder or .zip of pictures, or an .h5')
    parser.add_argument('--resolution', type=int, metavar='N', help='for --data; default: the largest that fits')
    parser.add_argument('--labels', action='store_true', help='for --data: sub-folders are classes')
    parser.add_argument('--experiment', metavar='NAME', help=f'experiment of config.py; default: {config.experiment}')
    parser.add_argument('--list', action='store_true', help='print all experiments and variants, and stop')
    parser.add_argument('--version', action='store_true', help='print versions, engine, device and commit, and stop')
    parser.add_argument('--set', action='append', default=[], metavar='SECTION.KEY=VALUE', dest='overrides',
                        help='change one option; may be repeated')
    parser.add_argument('--dry-run', action='store_true', help='print the plan with time and memory, and stop')
    parser.add_argument('--resume', metavar='RUN', help="resume a run: its number, folder, or 'latest'")
    parser.add_argument('--precision', action=RememberOrigin, help='auto, float32, tf32, bfloat16 or float16')
    parser.add_argument('--data-dir', metavar='DIR', help=f'folder of the datasets; default: {config.data_dir}')
    parser.add_argument('--result-dir', default=config.result_dir, metavar='DIR', help='folder of the runs; default: '
                        '%(default)s')
    theano_env.add_arguments(parser, config)
    parser.set_defaults(engine=None)        # The default is that of the run to resume, else that of config.py.
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    with lasting_output():
        return run_command(argv)


def run_command(argv: Sequence[str] | None) -> int:
    with reading_config('train.py'):
        import config
        check_settings(config)
    args = parse_arguments(config, argv)
    if args.list:
        print(catalogue.listing(config))
        return 0
    if args.version:
        print('\n'.join(versions.describe(args.engine or config.engine, theano_env.with_device(
            config.theano_flags, args.device), args.precision or config.precision)))
        return 0
    ranks, chosen = SINGLE, None
    try:
        begin_work()
        ranks = processes.from_environment()
        chosen = own_data.choose(config, args, ranks, train_gan)
        if args.dry_run:
            if ranks.rank == 0:
                plan.describe(chosen.experiment, chosen.data_dir, chosen.engine, chosen.theano_flags, chosen.precision,
                              train_gan=train_gan, ranks=ranks)
                if args.data:
                    print(f'\nFor the table of experiments in config.py:\n{own_data.entry_text(chosen.experiment)}')
            return 0
        if ranks.size == 1:
            plan.check_duration(chosen.experiment, chosen.data_dir, chosen.engine, chosen.theano_flags,
                                chosen.precision, train_gan=train_gan)
        experiment.run_experiment(chosen.experiment, chosen.data_dir, args.result_dir, chosen.engine,
                                  chosen.theano_flags, ranks, chosen.precision, train_gan=train_gan,
                                  origin=chosen.origin)
    except Stopped as stopped:
        if ranks.rank == 0:
            print(f'train.py: {stopped}', file=sys.stderr)
        return 128 + stopped.signum
    except (UserError, theano_env.EnvironmentProblem) as error:
        # An error that all ranks share is printed once.
        if ranks.rank == 0 or isinstance(error, processes.EndedElsewhere) and error.is_reported_here:
            print(f'train.py: error: {error}', file=sys.stderr)
        elif chosen and not isinstance(error, processes.SharedError):
            print(f'train.py: error on rank {ranks.rank}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if ranks.rank == 0:
            print('train.py: interrupted', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
