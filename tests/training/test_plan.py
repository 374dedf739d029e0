"""plan: every experiment of config.py resolves, its networks build, and its schedule is described."""

import copy
import gc
import json
import os
import re
import subprocess
import sys

import theano_torch  # noqa: F401  (lets Lasagne be imported)

import lasagne
import numpy as np
import pytest

import config
import train
from common.errors import UserError
from common.objects import defaults_of
from data.hdf5_writer import HDF5Writer
from nets import costs
from tests.helpers import GOLDEN, ROOT, Ones
from training import plan
from training.building import build_network
from training.experiment import open_dataset
from training.options import check_options, is_training, resolve_config
from training.schedule import training_schedule

TRAININGS = [name for name in config.experiments if is_training(config.experiments[name])]
VARIANTS = [f'celebahq-v2-1gpu-{name}' for name in config.variants]


@pytest.fixture(scope='module')
def built():
    """Cache {arguments of a network: network}, because many experiments have the same networks."""
    return {}


def build(built, chosen, name, channels=3, label_size=0):
    key = json.dumps([chosen[name], chosen['dataset']['resolution'], channels, label_size], sort_keys=True)
    if key not in built:
        lasagne.random.set_rng(Ones())
        net = built[key] = build_network(name, chosen, channels, chosen['dataset']['resolution'], label_size)
        for var in net.vars.values():       # The weights of all networks would take gigabytes.
            value = var.get_value(borrow=True)
            var.set_value(np.broadcast_to(value.flat[0], value.shape), borrow=True)
    return built[key]


def test_table_has_every_experiment_of_the_paper():
    names = list(config.experiments)
    assert sum(name.startswith('lsun-') for name in names) == 30
    for data in ('celeba', 'lsun-bedroom'):
        rows = [name.split('-')[2 if data == 'celeba' else 3] for name in names if name.startswith('table1-' + data)]
        assert rows == ['a', 'b', 'c', 'd', 'estar', 'e', 'f', 'g', 'h']
    assert sum(name.startswith('mnist-modes-') for name in names) == 2 * 4


@pytest.mark.parametrize('name', [*TRAININGS, *VARIANTS])
def test_experiment_resolves_and_builds(name, built):
    chosen = resolve_config(config, name)
    train_func, options, _loss = check_options(chosen, train.train_gan)
    assert train_func is train.train_gan
    G, D = [build(built, chosen, net) for net in 'GD']
    resolution = chosen['dataset']['resolution']
    assert G.output_shape == D.input_shape == [None, 3, resolution, resolution]
    assert D.output_shape == [None, 1]


def test_sizes_of_table_2(built):
    chosen = resolve_config(config, 'celebahq-1024')
    assert [costs.num_trainable(build(built, chosen, net)) for net in 'GD'] == [23079115, 23087249]


RECORDED = {
    'celebahq-1024': 'celebahq_1024', 'lsun-cat': 'lsun_256', 'cifar10': 'cifar10_32',
    'table1-celeba-a-gulrajani': 'celeba128_gulrajani', 'table1-celeba-b-growing': 'celeba128_progressive',
    'table1-celeba-g-pixelwise-normalization': 'celeba128_pixelwise', 'mnist-modes-k4-mb-stddev': 'mnist_nonprog_32',
    'mnist-modes-k2-progression': 'mnist_prog_32',
}


@pytest.mark.parametrize('name', RECORDED)
def test_options_are_those_of_the_release(name):
    """All recorded options, except those that only disable growing, and minibatches of other resolutions."""
    recorded = json.loads((GOLDEN / 'schedule.json').read_text())[RECORDED[name]]
    chosen = resolve_config(config, name)
    assert chosen['dataset']['resolution'] == recorded['resolution']
    options = {**defaults_of(train.train_gan), **chosen['train']}
    for key, value in recorded['train'].items():
        if key == 'minibatch_overrides':
            value = {int(res): size for res, size in value.items()}
            assert (options[key] or {}) == value
        elif key == 'lod_initial_resolution':
            assert min(options[key], recorded['resolution']) == value
        else:
            assert options[key] == pytest.approx(value), key


def test_variants_combine():
    chosen = resolve_config(config, 'table1-celeba-g-pixelwise-normalization-nowscale-VERBOSE',
                            ['train.total_kimg=7'])
    assert chosen['desc'] == 'table1-celeba-g-pixelwise-normalization-nowscale-VERBOSE'
    assert not chosen['G']['use_wscale'] and not chosen['D']['use_wscale']
    assert (chosen['train']['tick_kimg_default'], chosen['train']['total_kimg']) == (1, 7)
    assert config.experiments['table1-celeba-g-pixelwise-normalization']['G'].get('use_wscale', True)


@pytest.mark.parametrize('name', ['celebahq-1042', 'digits-nogroving', 'nogrowing', ''])
def test_unknown_experiment(name):
    with pytest.raises(UserError, match=f'experiment={name!r}'):
        resolve_config(config, name)


def test_phases_are_the_schedule_at_every_image():
    kwargs = {'total_kimg': 60, 'lod_training_kimg': 7, 'lod_transition_kimg': 5, 'minibatch_default': 16,
              'minibatch_overrides': {16: 8}}
    phases = plan.phases(32, **kwargs)
    assert [(phase.start_kimg, phase.end_kimg) for phase in phases] == [
        (0, 7), (7, 12), (12, 19), (19, 24), (24, 31), (31, 36), (36, 60)]
    for nimg in range(0, 60000, 250):
        phase = [phase for phase in phases if phase.start_kimg * 1000 <= nimg][-1]
        schedule = training_schedule(nimg, 32, **kwargs)
        if nimg != phase.start_kimg * 1000:     # The first image has the lod of the previous phase.
            assert (schedule.resolution, schedule.minibatch_size) == (phase.resolution, phase.minibatch)
            assert (schedule.min_lod != schedule.max_lod) == phase.fading


@pytest.mark.parametrize('kwargs, expected', [
    ({'lod_training_kimg': 0, 'lod_transition_kimg': 0, 'lod_initial_resolution': 1024}, [(0, 50, 16, False, 16)]),
    ({'lod_training_kimg': 10, 'lod_transition_kimg': 0},
     [(0, 10, 4, False, 16), (10, 20, 8, False, 16), (20, 50, 16, False, 16)]),
    ({'lod_training_kimg': 0, 'lod_transition_kimg': 10},
     [(0, 10, 8, True, 16), (10, 20, 16, True, 16), (20, 50, 16, False, 16)]),
    ({'lod_training_kimg': 100, 'lod_transition_kimg': 100}, [(0, 50, 4, False, 16)]),
])
def test_phases_of_other_schedules(kwargs, expected):
    assert plan.phases(16, total_kimg=50, **kwargs) == expected


@pytest.fixture
def given_speed(monkeypatch):
    """A machine with 1e10 operations per second in matrix products that takes 0.01 seconds per image."""
    monkeypatch.setattr(plan, 'measured_speed', lambda device, precision: plan.Speed(1e10))
    monkeypatch.setattr(plan.measuring, 'gradient_seconds', lambda D, resolution, num: 0.01 * num)


def test_dry_run_prints_schedule_and_sizes(capsys, tmp_path):
    assert train.main(['--experiment', 'digits', '--dry-run', '--data-dir', str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "'lod_transition_kimg': 4" in output and 'is missing; planned for' in output
    assert 'D: networks.D_paper, ' in output
    rows = [line.split() for line in output.splitlines() if line.endswith(' GB')]
    assert [row[:3] for row in rows] == [
        ['0', '-', '4'], ['4', '-', '8'], ['8', '-', '12'], ['12', '-', '16'], ['16', '-', '44']]
    assert all(float(row[-3]) > 0 and float(row[-2]) > 0 for row in rows)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_what_a_step_takes(capsys, tmp_path, given_speed):
    assert train.main(['--experiment', 'digits', '--dry-run', '--data-dir', str(tmp_path), '--device', 'cpu']) == 0
    out = capsys.readouterr().out
    # A step takes about six gradients of D, not exactly, because G has other layers. 4x4 is not measured.
    rates = [float(line.split()[-3]) for line in out.splitlines() if line.endswith(' GB')]
    assert len(rates) == 5 and all(50 < rate < 70 for rate in rates[1:])
    minutes, = re.findall(r'whole run: about (\d+) minutes on this machine \(within a factor of 2\)', out)
    assert 44 * 50 / 60 < int(minutes) < 44 * 70 / 60


def test_a_dry_run_for_several_gpus_names_torchrun(capsys, tmp_path, given_speed, monkeypatch):
    monkeypatch.setattr('sys.argv', ['train.py', '--dry-run', '--experiment', 'celebahq-v2-8gpus'])
    assert train.main(['--experiment', 'celebahq-v2-8gpus', '--dry-run', '--device', 'cpu', '--data-dir',
                       str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert 'torchrun --nproc_per_node=8 train.py --experiment celebahq-v2-8gpus\n' in out
    assert 'memory per process' in out
    largest = float([line for line in out.splitlines() if line.endswith(' GB')][-1].split()[-2])
    assert 3 < largest < 12         # For four images at 1024x1024; 32 images would take eight times as much.


def test_several_gpus_divide_time_and_memory(built):
    chosen = resolve_config(config, 'celebahq-v2-8gpus')
    G, D = [build(built, chosen, net) for net in 'GD']
    phase = plan.Phase(0, 1, 1024, False, 32)
    for speed, times in [(plan.USUAL_SPEEDS[0], 8), (plan.USUAL_SPEEDS[1], 1)]:
        one, eight = (plan.estimate(phase, G, D, 1, speed, processes) for processes in (1, 8))
        assert 0.7 * times <= one.seconds_per_kimg / eight.seconds_per_kimg <= times
        assert one.memory_gb > 3 * eight.memory_gb
    assert [plan.wanted_gpus({'desc': name}) for name in ('celebahq-v2-8gpus-nowscale', 'celebahq-v2-1gpu', '')] == [
        8, 1, 1]


@pytest.mark.parametrize('engine', ['theano', 'python'])
@pytest.mark.own_engines
def test_a_dry_run_without_pytorch(engine, tmp_path):
    """The dry run works in a process that cannot import PyTorch."""
    code = f"""
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'torch':
            raise ModuleNotFoundError("No module named 'torch'", name='torch')

sys.meta_path.insert(0, NoTorch())
import train
status = train.main(['--experiment', 'digits', '--dry-run', '--engine', {engine!r}, '--data-dir', {str(tmp_path)!r}])
assert 'torch' not in sys.modules
sys.exit(status)
"""
    ended = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False)
    # Another process of the tests may hold Theano's lock meanwhile.
    printed = [line for line in ended.stderr.splitlines() if 'compilelock' not in line]
    assert (ended.returncode, printed) == (0, [])
    assert "Theano's" in ended.stdout and 'Estimated time of the whole run: about ' in ended.stdout


def test_dry_run_tells_what_will_be_written(capsys, tmp_path, given_speed):
    arguments = ['--experiment', 'celebahq-1024', '--dry-run', '--data-dir', str(tmp_path), '--device', 'cpu']
    # 7000 ticks at 1024x1024, 800 at 512x512, then 320, 160, 160, 80 and a few at lower resolutions.
    for overrides, told in [
            ([], 'about 215 network pickles of 277 MB each, 59.6 GB in all; train.keep_snapshots=N keeps fewer'),
            (['train.keep_snapshots=3'], 'about 25 network pickles of 277 MB each, 6.9 GB in all;\n'),
            (['train.network_snapshot_ticks=0', 'train.image_snapshot_ticks=0'], 'about 1 network pickles of 277 MB')]:
        assert train.main([*arguments, *[word for text in overrides for word in ('--set', text)]]) == 0
        out = capsys.readouterr().out
        assert told in out
        if not overrides:
            assert 'about 2150 pictures of up to ' in out and '2 training states of 646 MB' in out
        gc.collect()        # Networks are reference cycles.


@pytest.mark.parametrize('kwargs', [
    {'total_kimg': 50}, {'total_kimg': 3, 'tick_kimg_default': 0.7, 'tick_kimg_overrides': {}},
    {'total_kimg': 2, 'tick_kimg_default': 0, 'tick_kimg_overrides': {}, 'minibatch_default': 500}])
def test_ticks_are_those_of_the_loop(kwargs):
    ticks, nimg, start = 0, 0, 0
    while nimg < kwargs['total_kimg'] * 1000:
        schedule = plan.training_schedule(nimg, 16, **kwargs)
        nimg += schedule.minibatch_size
        if nimg >= start + schedule.tick_kimg * 1000 or nimg >= kwargs['total_kimg'] * 1000:
            ticks, start = ticks + 1, nimg
    assert plan.number_of_ticks(16, **kwargs) == ticks


def test_estimates_grow_with_the_work(built):
    chosen = copy.deepcopy(resolve_config(config, 'cifar10'))
    G, D = [build(built, chosen, net) for net in 'GD']
    small, large = plan.Phase(0, 1, 8, False, 16), plan.Phase(0, 1, 32, False, 16)
    assert plan.estimate(small, G, D, 1, plan.Speed(1e11)) < plan.estimate(large, G, D, 1, plan.Speed(1e11))
    few, many = [plan.estimate(large, G, D, 1, plan.Speed(flops)) for flops in (1e11, 2e11)]
    assert few.seconds_per_kimg == pytest.approx(2 * many.seconds_per_kimg) and few.memory_gb == many.memory_gb


def test_on_a_gpu_bytes_and_launches_take_time_too(built):
    chosen = copy.deepcopy(resolve_config(config, 'celebahq-1024'))
    G, D = [build(built, chosen, net) for net in 'GD']
    phase, speed = plan.Phase(0, 1, 1024, False, 3), plan.Speed(420e12, 3.9e12, 2e-6)
    seconds = [plan.estimate(phase, G, D, 1, part).seconds_per_kimg for part in (
        speed._replace(bandwidth=np.inf, launch=0.0), speed._replace(flops=np.inf, launch=0.0),
        speed._replace(flops=np.inf, bandwidth=np.inf))]
    assert min(seconds) > 0 and plan.estimate(phase, G, D, 1, speed).seconds_per_kimg == pytest.approx(sum(seconds))
    # Within a factor of two of the counts of benchmarks/gpu_model.py for this step.
    assert 0.5 < plan.step_traffic(phase, G, D, 1) / 109e9 < 2 and 0.5 < plan.step_launches(phase, G, D, 1) / 1333 < 2
    assert plan.estimate(phase, G, D, 4, speed).seconds_per_kimg < 0.8 * sum(seconds)


def test_the_speed_of_a_gpu(cuda):
    speed = plan.measured_speed('cuda:0', 'bfloat16', size=8 if cuda else 1024, seconds=0.01)
    assert 0 < speed.flops < np.inf and 0 < speed.bandwidth < np.inf and 0 < speed.launch < 1e-4


@pytest.fixture
def large_set(tmp_path):
    """A dataset with the name and resolution of CelebA-HQ, but few images."""
    with HDF5Writer(str(tmp_path / 'celeba-hq-1024x1024.h5'), 1024, 3) as writer:
        writer.add_images(np.zeros((1, 3, 1024, 1024), np.uint8))
    return str(tmp_path)


@pytest.mark.slow
def test_weeks_on_a_cpu_that_nobody_asked_for(large_set, capsys, monkeypatch, restore_theano_config):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr(plan, 'measured_speed', lambda device: plan.Speed(1e11))
    results = large_set + '/results'
    status = train.main(['--experiment', 'celebahq-1024', '--data-dir', large_set, '--result-dir', results])
    err = capsys.readouterr().err
    assert status == 1 and err.count('\n') == 1 and '--device cpu' in err
    years, = re.findall(r'no GPU was found, and on this CPU the training would take about ([\d.]+) years', err)
    assert 1 < float(years) < 80
    assert not os.path.exists(results)


def test_a_device_that_was_named_or_a_short_training_is_not_estimated(large_set, monkeypatch):
    monkeypatch.setattr(plan, 'measured_speed', lambda device: pytest.fail('it measures'))
    monkeypatch.setattr(plan, 'build_networks', lambda *args: pytest.fail('it builds'))
    chosen = resolve_config(config, 'celebahq-1024')
    plan.check_duration(chosen, large_set, theano_flags={'device': 'cpu'}, train_gan=train.train_gan)
    plan.check_duration(chosen, large_set, train_gan=train.train_gan, is_device_named=True)
    plan.check_duration(resolve_config(config, 'digits'), large_set, train_gan=train.train_gan)
    plan.check_duration(resolve_config(config, 'training-video'), large_set, train_gan=train.train_gan)
    chosen['train']['resume_run_id'] = 3
    plan.check_duration(chosen, large_set, train_gan=train.train_gan)


def test_a_dry_run_without_resolution(tmp_path, capsys):
    chosen = resolve_config(config, 'digits')
    del chosen['dataset']['resolution']
    with pytest.raises(UserError, match='dataset.resolution: is missing, and cannot be read because there is no'):
        plan.describe(chosen, str(tmp_path), train_gan=train.train_gan)
    open_dataset(chosen, str(tmp_path)).close()
    plan.describe(chosen, str(tmp_path), train_gan=train.train_gan)
    assert '16x16' in capsys.readouterr().out
