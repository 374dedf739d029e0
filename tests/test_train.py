"""train: replays the recorded runs of the 2017 release from their seeds."""

import inspect
import json
import os
import re

import h5py
import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from PIL import Image
from theano.sandbox.rng_mrg import MRG_RandomStreams

import config
import theano_env
import train
from nets import costs
from nets.network import Network
from tests.helpers import GOLDEN, load_golden
from training.experiment import run_experiment
from training.options import resolve_config
from training.schedule import learning_rate, training_schedule
from training.snapshots import SnapshotWriter

pytestmark = pytest.mark.usefixtures('restore_theano_config')


@pytest.fixture
def engine_torch():
    theano_env.configure('torch', {'device': 'cpu', 'floatX': 'float32'})


def integer_keys(overrides):
    return {int(key): value for key, value in overrides.items()}


# ----------------------------------------------------------------------------------------------------------------------
# Schedule.

SCHEDULES = json.loads((GOLDEN / 'schedule.json').read_text())


@pytest.mark.parametrize('name', SCHEDULES)
def test_schedule_is_the_recorded_one_exactly(name):
    recorded = SCHEDULES[name]
    kwargs = {key: value for key, value in recorded['train'].items()
              if key in ('total_kimg', 'lod_initial_resolution', 'lod_training_kimg', 'lod_transition_kimg',
                         'minibatch_default', 'rampup_kimg', 'rampdown_kimg')}
    kwargs['minibatch_overrides'] = integer_keys(recorded['train']['minibatch_overrides'])
    for row in recorded['rows']:
        schedule = training_schedule(row['cur_nimg'], recorded['resolution'], **kwargs)
        assert schedule == (row['cur_lod'], row['min_lod'], row['max_lod'], row['cur_res'], row['minibatch_size'],
                            row['tick_duration_kimg'], row['lrate_coef']), row
        # The float32 columns were recorded as integers.
        assert int(np.float32(schedule.lod)) == row['cur_lod_f32']
        for net in 'GD':
            rate = recorded['train'][net + '_learning_rate_max'] * schedule.lrate_coef
            assert int(np.float32(rate)) == row[net + '_lrate_f32']


SCHEDULES_2018 = {case['name']: case for case in json.loads((GOLDEN / 'tf' / 'schedule.json').read_text())['cases']}
DEFAULTS_2018 = {'minibatch_base': 16, 'minibatch_dict': {}, 'max_minibatch_per_gpu': {}, 'G_lrate_dict': {},
                 'D_lrate_dict': {}, 'lod_initial_resolution': 4, 'lod_training_kimg': 600, 'lod_transition_kimg': 600,
                 'tick_kimg_base': 160,
                 'tick_kimg_dict': {'4': 160, '8': 140, '16': 120, '32': 100, '64': 80, '128': 60, '256': 40, '512': 20,
                                    '1024': 10}}


def options_of_2018(case):
    """Our options for a recorded case. The 2018 release adapts the minibatch to the GPUs; ours raises an error."""
    theirs = {**DEFAULTS_2018, **case['kwargs']}
    tables = {key: integer_keys(value) for key, value in theirs.items() if isinstance(value, dict)}
    minibatches = {}
    for resolution in (2 ** k for k in range(2, case['resolution_log2'] + 1)):
        size = tables['minibatch_dict'].get(resolution, theirs['minibatch_base'])
        size -= size % case['num_gpus']
        limit = tables['max_minibatch_per_gpu'].get(resolution)
        minibatches[resolution] = size if limit is None else min(size, limit * case['num_gpus'])
    return {
        'minibatch_overrides': minibatches, 'rampup_kimg': 0, 'tick_kimg_default': theirs['tick_kimg_base'],
        'tick_kimg_overrides': tables['tick_kimg_dict'], 'G_learning_rate_overrides': tables['G_lrate_dict'],
        'D_learning_rate_overrides': tables['D_lrate_dict'],
        **{key: theirs[key] for key in ('lod_initial_resolution', 'lod_training_kimg', 'lod_transition_kimg')}}


def check_schedule_of_2018(case, options):
    schedule_options = {key: value for key, value in options.items()
                        if key in inspect.signature(training_schedule).parameters}
    for row in case['rows']:
        cur_nimg, _kimg, lod, resolution, minibatch, G_lrate, D_lrate, tick_kimg = row
        schedule = training_schedule(cur_nimg, 2 ** case['resolution_log2'], **schedule_options)
        # The two releases differ in the last bits of float64.
        assert schedule.lod == pytest.approx(lod, rel=0, abs=1e-12), row
        assert schedule[3:6] == (resolution, minibatch, tick_kimg), row
        for net, wanted in (('G', G_lrate), ('D', D_lrate)):
            maximum = options.get(net + '_learning_rate_max', 0.001)
            assert learning_rate(schedule, maximum, options.get(net + '_learning_rate_overrides')) == wanted, row


@pytest.mark.parametrize('name', SCHEDULES_2018)
def test_schedules_of_2018(name):
    check_schedule_of_2018(SCHEDULES_2018[name], options_of_2018(SCHEDULES_2018[name]))


@pytest.mark.parametrize('name', ['v1-1gpu', 'v2-1gpu', 'v2-2gpu', 'v2-4gpu', 'v2-8gpu'])
def test_presets_of_2018(name):
    options = config.experiments['celebahq-' + re.sub('([248])gpu', r'\1gpus', name)]['train']
    case = SCHEDULES_2018[f'preset-{name}-fp32']
    check_schedule_of_2018(case, options)


@pytest.mark.parametrize('variant', ['BENCHMARK', 'BENCHMARK0', 'VERBOSE', 'nogrowing'])
def test_modes_of_2018(variant):
    options = resolve_config(config, 'celebahq-v2-1gpu-' + variant)['train']
    check_schedule_of_2018(SCHEDULES_2018['v2-1gpu-' + variant], options)


# ----------------------------------------------------------------------------------------------------------------------
# Replays.


class Replay:
    """A recorded run, repeated with our training loop, which keeps everything for comparison."""

    def __init__(self, name, folder, monkeypatch, engine='torch', floatx='float32', max_d_steps=None, **train_kwargs):
        self.golden, self.meta = load_golden(name)
        self.config = self.meta['config']
        self.max_d_steps = max_d_steps
        self.d_steps, self.g_steps, self.grids, self.compiles, self.params = [], [], [], [], {}
        self.write_dataset(folder)
        self.experiment = experiment = {'desc': self.meta['subdir'][4:], 'random_seed': self.config['random_seed']}
        experiment.update((key, self.config[key]) for key in ('dataset', 'loss'))
        for net in 'GD':
            experiment[net] = dict(self.config[net], func='networks.' + self.config[net]['func'])
        experiment['train'] = dict(self.config['train'], func='train.train_gan', **train_kwargs)
        for key in ('minibatch_overrides', 'tick_kimg_overrides'):
            experiment['train'][key] = integer_keys(experiment['train'][key])

        take, save_grid = train.FunctionsAhead.take, SnapshotWriter._save_grid
        monkeypatch.setattr(train.FunctionsAhead, 'take', lambda *args: self.on_take(take, *args))
        monkeypatch.setattr(SnapshotWriter, '_save_grid', lambda *args: self.on_grid(save_grid, *args))
        self.run_dir = folder / 'results' / self.meta['subdir']
        try:
            run_experiment(experiment, str(folder), str(folder / 'results'), engine,
                           {'floatX': floatx, 'device': 'cpu'}, show_progress=False, on_step=self.on_step,
                           train_gan=train.train_gan)
        except StopIteration:
            return
        self.keep_params('final')

    @property
    def separate_funcs(self):
        return self.experiment['train']['separate_funcs']

    def write_dataset(self, folder):
        arrays = self.golden if 'dataset_data16x16' in self.golden else load_golden('trajectory')[0]
        with h5py.File(folder / self.config['dataset']['h5_path'], 'w') as h5:
            for key, value in arrays.items():
                if key.startswith('dataset_data'):
                    h5[key[len('dataset_'):]] = value
        if 'dataset_labels' in self.golden:
            labels_name = self.config['dataset']['h5_path'].replace('.h5', '-labels.npy')
            np.save(folder / labels_name, self.golden['dataset_labels'])

    def on_take(self, take, functions_ahead, schedule):
        self.networks = functions_ahead.networks
        if not self.compiles:
            self.keep_params('init')
        self.compiles.append((len(self.g_steps), schedule.min_lod, schedule.max_lod))
        return take(functions_ahead, schedule)

    def on_grid(self, save_grid, writer, name, images, drange):
        self.grids.append((name, len(self.d_steps), images))
        return save_grid(writer, name, images, drange)

    def on_step(self, step):
        (self.d_steps if step.net == 'D' else self.g_steps).append(step)
        if step.net == 'G' or not self.separate_funcs:
            self.keep_params(f'it{len(self.d_steps):03d}')
            if len(self.d_steps) == self.max_d_steps:
                raise StopIteration

    def keep_params(self, when):
        for name, net in self.networks.items():
            if f'params_{when}_{name}_000' in self.golden:
                params = lasagne.layers.get_all_params(net.output_layers)
                self.params[when, name] = [param.get_value() for param in params]

    def check_params(self, tolerance):
        """Compare parameters at all recorded moments, relative to the largest value of each (at least 0.01)."""
        assert {'params_%s_%s' % key for key in self.params} == {
            key[:-4] for key in self.golden if key.startswith('params_')}
        for (when, name), values in self.params.items():
            for index, value in enumerate(values):
                recorded = self.golden[f'params_{when}_{name}_{index:03d}']
                assert_close(value, recorded, tolerance, f'parameter {index} of {name}, {when}', floor=0.01)

    def check_inputs(self):
        """Compare random inputs, exactly."""
        for index, step in enumerate(self.d_steps):
            golden_reals = self.golden[f'reals_{index + 1:03d}']
            assert step.reals.dtype == np.uint8
            np.testing.assert_array_equal(step.reals, golden_reals)
            size = self.golden['minibatch'][index]
            assert len(step.latents) == size
            np.testing.assert_array_equal(step.latents, self.golden['latents_D'][index, :size])
            assert step.cur_nimg - size == self.golden['nimg_before'][index]
            assert np.float32(step.schedule.lod) == self.golden['cur_lod'][index]
            for net in 'GD':
                rate = self.config['train'][net + '_learning_rate_max'] * step.schedule.lrate_coef
                assert np.float32(rate) == self.golden[net + '_lrate'][index]
            if 'labels_D' in self.golden:
                np.testing.assert_array_equal(step.labels, self.golden['labels_D'][index, :size])
                np.testing.assert_array_equal(step.fake_labels, self.golden['fake_labels_D'][index, :size])
        for index, step in enumerate(self.g_steps):
            np.testing.assert_array_equal(step.latents, self.golden['latents_G'][index, :len(step.latents)])
            if 'labels_G' in self.golden:
                np.testing.assert_array_equal(step.fake_labels, self.golden['labels_G'][index, :len(step.latents)])

    def check_outputs(self, tolerance):
        names = ('loss_out_G', 'loss_out_D', 'real_scores_out', 'fake_scores_out')
        for name, values in zip(names, zip(*[step.outputs for step in self.d_steps], strict=True), strict=True):
            recorded = self.golden[name][:len(values)]
            scale = np.max(np.abs(recorded)) or 1
            for index, value in enumerate(values):
                size = np.shape(recorded[index]) and len(np.ravel(value))
                target = recorded[index][:size] if size else recorded[index]
                deviation = np.max(np.abs(np.ravel(value) - target)) / scale
                assert deviation <= tolerance, f'{name} of step {index + 1}: deviation {deviation:.2g}'

    def check_schedule_of_compiles_and_grids(self):
        assert self.compiles == [(c['iteration'], c['min_lod'], c['max_lod']) for c in self.meta['compiles']]
        assert [grid[1] for grid in self.grids if grid[0] != 'reals.png'] == list(self.golden['gen_iterations'])

    def check_snapshots(self, tolerance):
        fakes = [images for name, _step, images in self.grids if name != 'reals.png']
        for images, recorded in zip(fakes, self.golden['gen_images_first4'], strict=True):
            assert_close(images[:4], recorded, tolerance, 'generator snapshot')

    def check_pictures(self):
        """Compare the names of all files and the picture of reals, exactly, and the last fakes, as float32 allows."""
        assert set(self.meta['result_files']) <= {path.name for path in self.run_dir.iterdir()}
        np.testing.assert_array_equal(np.array(Image.open(self.run_dir / 'reals.png')), self.golden['png_reals'])
        fakes = np.array(Image.open(self.run_dir / 'fakes000000.png'))[:16].astype(int)
        # The picture was recorded in float32. At this point, it deviates by 1e-2 in [-1, 1]: 1.3 of 255 grey levels.
        assert np.mean(np.abs(fakes - self.golden['png_fakes000000_first_row'])) < 1.3

    def check_random_state(self):
        """Compare the final state of NumPy's generator: all draws were made, and no others."""
        _name, keys, position = np.random.get_state()[:3]
        np.testing.assert_array_equal(keys, self.golden['final_rng_state_keys'])
        assert position == self.golden['final_rng_state_pos']

    def check_log(self):
        """Compare topology tables, messages and status lines, except times."""
        def comparable(lines):
            lines = [re.sub(r'(time|sec/tick|sec/kimg) .*? (?=sec|Dgdrop)', r'\1 ', line.rstrip()) for line in lines]
            return [line for line in lines if line and not line.startswith(('Saving', 'Setting', 'Engine'))]

        log = (self.run_dir / 'log.txt').read_text().splitlines()
        assert comparable(log) == comparable(map(str, self.golden['log_lines']))


def assert_close(value, recorded, tolerance, what, floor=1e-30):
    assert np.shape(value) == recorded.shape, what
    deviation = np.max(np.abs(value - recorded), initial=0) / max(np.max(np.abs(recorded), initial=0), floor)
    assert deviation <= tolerance, f'{what}: deviation {deviation:.2g}'


@pytest.mark.slow
def test_growing_run_in_float64(tmp_path, monkeypatch):
    replay = Replay('trajectory_float64', tmp_path, monkeypatch, floatx='float64')
    shared = load_golden('trajectory')[0]       # Identical in both precisions and stored once.
    replay.golden = {**shared, **replay.golden}
    replay.check_random_state()
    replay.check_inputs()
    replay.check_schedule_of_compiles_and_grids()
    # All but the images is float64. The release downscales float32 images to the current resolution (rounding 6e-8);
    # ours have this resolution. In the last steps, which need no downscaling, the deviation is 1e-10.
    replay.check_outputs(1e-7)
    replay.check_snapshots(1e-7)
    replay.check_params(1e-7)
    replay.check_log()
    replay.check_pictures()


@pytest.mark.slow
def test_growing_run_in_float32(tmp_path, monkeypatch):
    """float32 agrees to 1e-4 for 30 steps, before chaos dominates. Integers and text agree exactly."""
    replay = Replay('trajectory', tmp_path, monkeypatch, max_d_steps=30)
    replay.check_inputs()
    replay.check_outputs(1e-4)
    assert {when for when, _name in replay.params} == {'init', 'it001', 'it002', 'it020'}


def test_mixing_factors_of_every_lod_range(engine_torch):
    """WGAN-GP mixes reals and fakes with the recorded factors, exactly; each lod range restarts the random stream."""
    golden, meta = load_golden('trajectory')
    images = T.ftensor4()
    starts = [compiled['iteration'] for compiled in meta['compiles']] + [len(golden['minibatch'])]
    for compiled, end in zip(meta['compiles'], starts[1:], strict=True):
        factors = MRG_RandomStreams(compiled['mrg_seed']).uniform((images.shape[0], 1, 1, 1), dtype='float32')
        draw = theano.function([images], factors)
        for iteration in range(compiled['iteration'], end):
            size = golden['minibatch'][iteration]
            drawn = draw(np.zeros((size, 1, 1, 1), np.float32))
            np.testing.assert_array_equal(drawn.ravel(), golden['mixing_factors'][iteration, :size])


def test_growing_run_of_joint_steps_in_float64(tmp_path, monkeypatch):
    """Joint steps use one batch of latents and one function for both networks. There is no recording of them."""
    replay = Replay('trajectory_float64', tmp_path, monkeypatch, floatx='float64', max_d_steps=3, separate_funcs=False)
    assert not replay.g_steps
    assert [step.net for step in replay.d_steps] == ['D'] * 3
    # G changes in the first step. Gs averages the weights before each step, so it changes in the second.
    start = replay.params['init', 'G']
    assert np.max(np.abs(replay.params['it001', 'G'][0] - start[0])) > 0
    np.testing.assert_allclose(replay.params['it001', 'Gs'][0], start[0], rtol=1e-12)
    np.testing.assert_allclose(replay.params['it002', 'Gs'][0], 0.9 * start[0] + 0.1 * replay.params['it001', 'G'][0],
                               rtol=1e-12)


@pytest.mark.slow
def test_labels_gdrop_minibatch_discrimination_run(tmp_path, monkeypatch):
    """LSGAN + AC-GAN, two D steps per G step, dequantised reals, batch norm in G, GDrop feedback, 'category' grid."""
    replay = Replay('trajectory_labels_float64', tmp_path, monkeypatch, floatx='float64')
    replay.check_random_state()
    replay.check_inputs()
    replay.check_schedule_of_compiles_and_grids()
    replay.check_log()
    # The dequantisation noise of the reals is float32.
    replay.check_outputs(1e-7)
    replay.check_params(1e-7)
    replay.check_snapshots(1e-7)


# ----------------------------------------------------------------------------------------------------------------------
# Command line, configuration, user errors.


def run_main(capsys, *argv):
    """(exit status, stdout, stderr) of train.main."""
    status = train.main(list(argv))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


TINY = ['--set', 'G.fmap_max=4', '--set', 'D.fmap_max=4', '--set', 'train.minibatch_default=4',
        '--set', 'train.lod_training_kimg=0.01', '--set', 'train.lod_transition_kimg=0.01',
        '--set', 'train.tick_kimg_default=0.01', '--set', 'train.show_progress=False',
        '--set', 'train.image_snapshot_ticks=1', '--set', 'train.network_snapshot_ticks=2', '--set', 'metrics=[]']


@pytest.fixture
def folders(tmp_path):
    return ['--data-dir', str(tmp_path / 'data'), '--result-dir', str(tmp_path / 'results')]


@pytest.mark.skipif(os.name == 'nt', reason='no pseudo-terminals')
def test_a_training_in_a_terminal_shows_one_line_of_progress_also_when_it_goes_on(folders, tmp_path):
    from tests.terminal import run_in_terminal
    words = [*TINY, '--set', 'train.show_progress=True', '--set', 'train.lod_training_kimg=1', *folders]
    first = run_in_terminal(['train.py', *words, '--set', 'train.total_kimg=0.024'])
    log = (tmp_path / 'results' / '000-digits' / 'log.txt').read_text()
    second = run_in_terminal(['train.py', '--resume', 'latest', '--set', 'train.total_kimg=0.04', *folders])
    for shown, start, end in [(first, 0, '0.0240/0.024 kimg'), (second, 60, '0.0400/0.04 kimg')]:
        assert shown.status == 0
        assert all(sum(line.startswith('Training ') for line in screen) <= 1 for screen in shown.screens)
        bars = [line for screen in shown.screens for line in screen if line.startswith('Training ')]
        assert re.match(rf'Training {start}% ', bars[0]) and end in bars[-1]
        assert any(', compiling' in bar for bar in bars)
        summary = [line.split()[0] for line in shown.lines]
        assert [name for name in ('Run', 'Dataset', 'G', 'D', 'Engine', 'Precision', 'Phases', 'Memory')
                if name not in summary] == []
        assert not any('LayerName' in line or 'Dgdrop' in line for line in shown.lines)
        ticks = [line for line in shown.lines if line.startswith('tick ')]
        form = r'tick \d+ +kimg 0.0 +4x4 +\d+s +[\d.]+ sec/kimg  G \S+ D \S+'
        assert ticks and all(re.fullmatch(form, line) for line in ticks)
    assert 'Training' not in log.replace('training', '') and log.count('LayerName') == 2 and 'Dgdrop 0.0000' in log


@pytest.mark.slow
def test_the_default_experiment_builds_its_dataset_and_leaves_a_complete_run_folder(folders, tmp_path, capsys):
    status, out, err = run_main(capsys, *folders, *TINY, '--set', 'train.total_kimg=0.05')
    assert (status, err) == (0, '')
    run_dir = tmp_path / 'results' / '000-digits'
    written = {path.name for path in run_dir.iterdir()}
    assert {'log.txt', 'config.txt', 'run.txt', 'reals.png', 'fakes000000.png', 'network-snapshot-000000.pkl',
            'network-final.pkl', '_training-done.txt', 'stats.jsonl', 'class-names.json',
            'training-state-000000012.npz', 'training-state-000000052.npz'
            } == written - {'events.out.tfevents.training'}
    log = (run_dir / 'log.txt').read_text()
    assert 'LayerName' in log and 'Dgdrop 0.0000' in log and 'Dgdrop' not in out and 'trainable parameters' not in log
    assert max(map(len, out.splitlines())) <= 80 or str(run_dir) in out
    stats = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    assert [row['tick'] for row in stats] == list(range(1, len(stats) + 1))
    assert {row['resolution'] for row in stats} == {4, 8, 16}
    assert Image.open(run_dir / 'reals.png').size[0] >= 160
    # The next run gets the next number.
    assert run_main(capsys, *folders, *TINY, '--set', 'train.total_kimg=0.004')[0] == 0
    assert (tmp_path / 'results' / '001-digits' / 'network-final.pkl').exists()


@pytest.mark.slow
def test_numbers_of_snapshots_and_pictures(folders, tmp_path, capsys):
    options = ['dataset.resolution=4', 'train.lod_training_kimg=9', 'train.minibatch_default=64',
               'train.tick_kimg_default=1', 'train.total_kimg=4.5', 'train.image_snapshot_ticks=0']
    words = [word for text in options for word in ('--set', text)]
    pickles = {}
    for number, more in enumerate([['train.network_snapshot_ticks=1', 'train.keep_snapshots=2'],
                                   ['train.network_snapshot_ticks=0']]):
        status, _out, err = run_main(capsys, *folders, *TINY, *words, *[w for text in more for w in ('--set', text)])
        assert (status, err) == (0, '')
        run_dir = tmp_path / 'results' / f'{number:03d}-digits'
        pickles[number] = [path.name for path in sorted(run_dir.glob('*.pkl'))]
        assert [path.name for path in run_dir.glob('fakes*')] == ['fakes000000.png']
    assert pickles == {0: ['network-final.pkl', 'network-snapshot-000003.pkl', 'network-snapshot-000004.pkl'],
                       1: ['network-final.pkl', 'network-snapshot-000004.pkl']}


@pytest.mark.slow
def test_minibatch_repeats(folders, tmp_path, capsys):
    """With minibatch_repeats=4, the training ends only after a group of four steps, here of four images each."""
    status, _out, err = run_main(capsys, *folders, *TINY, '--set', 'train.minibatch_repeats=4', '--set',
                                 'train.total_kimg=0.004', '--set', 'dataset.resolution=4')
    assert (status, err) == (0, '')
    row, = (tmp_path / 'results' / '000-digits' / 'stats.jsonl').read_text().splitlines()
    assert json.loads(row)['kimg'] == 0.016


@pytest.mark.slow
@pytest.mark.timeout(900)     # The first time, Theano's C code takes minutes to compile.
@pytest.mark.own_engines
def test_training_works_on_theanos_own_c_code(folders, tmp_path, capsys):
    status, _out, err = run_main(capsys, *folders, *TINY, '--engine', 'theano', '--set', 'train.total_kimg=0.012',
                                 '--set', 'G.fmap_max=2', '--set', 'D.fmap_max=2')
    assert (status, err) == (0, '')
    assert (tmp_path / 'results' / '000-digits' / '_training-done.txt').exists()


def test_list_has_a_line_on_each_experiment(capsys):
    assert train.main(['--list']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:len(config.experiments)]] == list(config.experiments)
    assert all(f'-{name}' in lines[-1] for name in config.variants)


def test_dry_run_prints_the_resolved_experiment_and_writes_nothing(folders, tmp_path, capsys):
    status, out, _err = run_main(capsys, *folders, '--dry-run', '--experiment', 'celebahq-1024', '--set',
                                 'G.fmap_max=7')
    assert status == 0 and "'fmap_max': 7" in out and "'total_kimg': 19000" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('argv, message', [
    (['--experiment', 'digit'], r"experiment='digit': .*did you mean 'digits'\?"),
    (['--experiment', 'celebhq-v2-1gpu-nopixlnorm-verbose'], "did you mean 'celebahq-v2-1gpu-nopixelnorm-VERBOSE' or"),
    (['--experiment', 'table1-celeba-e'], "-estar-minibatch-discrimination' or 'table1-celeba-e-minibatch-stddev'"),
    (['--experiment', 'something'], 'no such experiment; `python train.py --list` prints all names'),
    (['--set', 'train.totalkimg=3'], r"train.totalkimg: no such option; did you mean 'total_kimg'\?"),
    (['--set', 'G.fmapmax=3'], r"G.fmapmax: no such option; did you mean 'fmap_max'\?"),
    (['--set', 'loss.lambda=3'], r"loss.lambda: no such option; did you mean 'iwass_lambda'\?"),
    (['--set', 'dataset.mirror=3'], r"dataset.mirror: no such option; did you mean 'mirror_augment'\?"),
    (['--set', 'trian.total_kimg=3'], r"trian: no such option; did you mean 'train'\?"),
    (['--set', 'total_kimg=3'], 'write SECTION.KEY=VALUE'),
    (['--set', 'G.func=networks.G_papre'], r"networks.G_papre"),
    (['--set', 'loss.type=wgan'], r"wgan"),
    (['--set', 'dataset.resolution=20'], r'20'),
    (['--engine', 'fast'], '--engine fast: choose one of'),
    (['--experiment', 'celebahq-1024'], 'celeba-hq-1024x1024.h5'),
])
def test_a_mistake_is_one_line_and_exit_status_1(argv, message, folders, tmp_path, capsys):
    status, _out, err = run_main(capsys, *folders, *argv)
    assert status == 1
    assert re.search(message, err) and err.count('\n') == 1 and 'Traceback' not in err
    assert not list(tmp_path.glob('results/*')), 'nothing half-written'


def test_a_gpu_that_is_not_there(folders, capsys, monkeypatch):
    monkeypatch.setattr(config, 'theano_flags', {'device': 'cuda99'})
    status, _out, err = run_main(capsys, *folders)
    assert status == 1 and "'cuda99'" in err and err.count('\n') == 1


def test_a_result_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / 'results').write_text('a file where the folder should be')
    status, _out, err = run_main(capsys, '--data-dir', str(tmp_path), '--result-dir', str(tmp_path / 'results'))
    assert status == 1 and str(tmp_path / 'results') in err and err.count('\n') == 1


def test_a_data_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / 'data').write_text('a file where the folder should be')
    status, _out, err = run_main(capsys, '--data-dir', str(tmp_path / 'data' / 'deeper'), '--result-dir',
                                 str(tmp_path / 'results'))
    assert status == 1 and 'data_dir=' in err and err.count('\n') == 1
    assert not list(tmp_path.glob('results/*'))


@pytest.mark.slow
def test_nan_stops_the_run_and_keeps_the_snapshots(folders, tmp_path, capsys):
    options = {'train.total_kimg': 10, 'train.rampup_kimg': 0, 'train.lod_training_kimg': 5,
               'train.network_snapshot_ticks': 1, 'train.G_learning_rate_max': 1e18, 'train.D_learning_rate_max': 1e18}
    overrides = [word for key, value in options.items() for word in ('--set', f'{key}={value}')]
    status, _out, err = run_main(capsys, *folders, *TINY, *overrides)
    assert status == 1 and err.count('\n') == 1
    assert re.search(r'(Gloss|Dloss|Dreal|Dfake) became (nan|-?inf) in tick \d+', err)
    assert not (tmp_path / 'results' / '000-digits' / '_training-done.txt').exists()


def test_multiplications_count_the_paper_networks():
    """The count agrees with Table 2: the 4x4 layer of G uses each of its 4x4x512x512 weights once."""
    net = Network('G', func='networks.G_paper', num_channels=3, resolution=8, fmap_base=64, fmap_max=8,
                  latent_size=8)
    full = 8 * 8 * 16 * 16 + 8 * 8 * 9 * 16 + 2 * 8 * 8 * 9 * 64 + 8 * 3 * 64 + 8 * 3 * 16
    assert costs.multiplications(net, 8) == full
    assert costs.multiplications(net, 4) == 8 * 8 * 16 * 16 + 8 * 8 * 9 * 16 + 8 * 3 * 16
