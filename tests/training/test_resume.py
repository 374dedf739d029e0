"""runs/states.py and going on with runs: files, folders, mistakes, signals, kills (more of them: kill_resume.py)."""

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import filelock
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from theano.sandbox import rng_mrg

import config
import train
from common.errors import UserError
from common.files import TEMPORARY_SUFFIX
from nets.pickles import load_pkl
from runs import states
from runs.folder import DONE_FILE, in_use, state_paths
from tests.helpers import ROOT
from tests.training import kill_resume
from training import experiment, stopping
from training.options import resolve_config
from training.resume import differing_options, resume_in

pytestmark = pytest.mark.usefixtures('restore_theano_config')

ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS='1')
SHORT = {'train.total_kimg': 0.2, 'train.lod_training_kimg': 0.06, 'train.lod_transition_kimg': 0.06,
         'train.tick_kimg_default': 0.03, 'train.rampup_kimg': 0.05}


# ----------------------------------------------------------------------------------------------------------------------
# Files.


@pytest.fixture
def state():
    arrays = {'G/4x4/W': np.arange(12, dtype=np.float32).reshape(3, 4), 'n': np.float64(3), 'none': np.zeros((0, 3))}
    return states.State(arrays, {'cur_nimg': 12, 'average': 0.1 + 0.2, 'lod_range': [1, 2]})


def test_a_state_is_read_as_it_was_written(state, tmp_path):
    path = tmp_path / 'training-state-000000012.npz'
    states.write(path, state)
    arrays, document = states.read(path)
    assert document == {**state.document, 'version': states.VERSION}
    assert sorted(arrays) == sorted(state.arrays)
    for name, array in state.arrays.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    # Other programs read it, too.
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive['G/4x4/W'], state.arrays['G/4x4/W'])


def test_every_damage_is_found(state, tmp_path):
    path = tmp_path / 'state.npz'
    states.write(path, state)
    intact = path.read_bytes()
    for size in range(0, len(intact), 7):
        path.write_bytes(intact[:size])
        with pytest.raises(states.DamagedState, match='cut off|checksum'):
            states.read(path)
    for position in range(0, len(intact), 3):
        path.write_bytes(intact[:position] + bytes([intact[position] ^ 4]) + intact[position + 1:])
        with pytest.raises(states.DamagedState, match='checksum'):
            states.read(path)
    path.write_bytes(intact + b'more')
    with pytest.raises(states.DamagedState, match='checksum'):
        states.read(path)


def test_nothing_but_arrays_is_written(state, tmp_path):
    with pytest.raises(ValueError, match='allow_pickle=False'):
        states.write(tmp_path / 'state.npz', state._replace(arrays={'object': np.array([object()])}))
    assert not list(tmp_path.iterdir())


def test_a_state_of_another_version(state, tmp_path, monkeypatch):
    monkeypatch.setattr(states, 'VERSION', 99)
    states.write(tmp_path / 'state.npz', state)
    monkeypatch.undo()
    with pytest.raises(UserError, match='writes version 1, the file has 99'):
        states.read(tmp_path / 'state.npz')


def test_the_last_two_are_kept_and_the_newest_intact_one_is_used(state, tmp_path, capsys):
    run_states = states.RunStates(str(tmp_path), {'command': 'train.py'})
    for nimg in (999, 1000, 1000000000):
        run_states.save(nimg, state.arrays, {'cur_nimg': nimg})
    names = [os.path.basename(path) for path in state_paths(str(tmp_path))]
    assert names == ['training-state-000001000.npz', 'training-state-1000000000.npz']
    assert states.newest(str(tmp_path)).document['cur_nimg'] == 1000000000
    os.truncate(tmp_path / names[1], 100)
    found = states.newest(str(tmp_path))
    assert found.document['cur_nimg'] == 1000 and found.document['command'] == 'train.py'
    assert re.fullmatch(r'.*training-state-1000000000.npz is damaged: .*; trying the one before\n',
                        capsys.readouterr().out)
    os.truncate(tmp_path / names[0], 100)
    with pytest.raises(UserError, match='only damaged training states'):
        states.newest(str(tmp_path))
    (tmp_path / 'network-snapshot-000007.pkl').touch()
    with pytest.raises(UserError, match='train.resume_snapshot=7$'):
        states.newest(str(tmp_path))


def test_rewinding_takes_the_files_back_to_the_state(state, tmp_path):
    (tmp_path / 'log.txt').write_text('before')
    run_states = states.RunStates(str(tmp_path), {})
    run_states.save(5, state.arrays, {'cur_nimg': 5})
    (tmp_path / 'log.txt').write_text('before and after')
    (tmp_path / 'stats.jsonl').write_text('{}')
    for name in ('training-state-000000006.npz', 'x.png.host-1-0.tmp', DONE_FILE, 'fakes000000.png'):
        (tmp_path / name).touch()
    start = states.read(tmp_path / 'training-state-000000005.npz')
    for _twice in range(2):
        states.RunStates(str(tmp_path), {}, start).rewind()
        assert {path.name: path.read_text(errors='replace') for path in tmp_path.glob('*[!z]')} == {
            'log.txt': 'before', 'stats.jsonl': '', 'fakes000000.png': ''}
        assert state_paths(str(tmp_path)) == [str(tmp_path / 'training-state-000000005.npz')]


# ----------------------------------------------------------------------------------------------------------------------
# Options.


def test_options_that_may_differ_and_those_that_may_not():
    run = {'desc': 'a', 'random_seed': 1, 'G': {'fmap_max': 4}, 'train': {'total_kimg': 3, 'overrides': {8: 4}}}
    recorded = json.loads(json.dumps(run))
    assert differing_options(recorded, run) == []
    run = {**run, 'desc': 'b', 'metrics': ['digit_recognition'], 'train': {**run['train'], 'total_kimg': 9}}
    assert differing_options(recorded, run) == []
    run['G'] = {'fmap_max': 8, 'fmap_base': 2}
    assert differing_options(recorded, run) == [
        'G.fmap_base (not set in the run, 2 now)', 'G.fmap_max (4 in the run, 8 now)']


# ----------------------------------------------------------------------------------------------------------------------
# Whole runs.


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """(folder, contents) of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp('runs') / 'alone'
    kill_resume.finish(folder, {**SHORT, 'train.state_minutes': None})
    return folder, kill_resume.contents(folder / '000-digits')


@pytest.mark.slow
@pytest.mark.timeout(900)     # Several runs.
def test_killed_runs_go_on_bit_for_bit(alone):
    folder, wanted = alone
    counts = kill_resume.kill_and_resume(folder.parent / 'killed', SHORT, 3, random.Random(1), seconds=0.7)
    assert counts['kills'] >= 1
    kill_resume.assert_same(wanted, kill_resume.contents(folder.parent / 'killed' / '000-digits'))


def wait_for_state(process, run_dir):
    deadline = time.time() + 120
    while not kill_resume.newest_state(run_dir):
        assert process.poll() is None and time.time() < deadline, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(900)     # Several runs.
def test_signals_save_first_and_what_they_print_goes_on(alone):
    """Ctrl-C, then SIGTERM, then the newest state is damaged."""
    folder, wanted = alone
    folder = folder.parent / 'stopped'
    run_dir = folder / '000-digits'
    arguments = []
    for signum, status in [(signal.SIGINT, 130), (signal.SIGTERM, 143)]:
        process = kill_resume.start(folder, {**SHORT, 'train.state_minutes': 0 if not arguments else None}, *arguments,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if arguments:
            for line in process.stdout:
                if line.startswith('Saving'):
                    break
            time.sleep(0.3)
        else:
            wait_for_state(process, run_dir)
        before = kill_resume.newest_state(run_dir)
        process.send_signal(signum)
        _out, err = process.communicate(timeout=120)
        assert process.returncode in (status, 0), err
        if process.returncode == 0:
            break
        match = re.fullmatch(f'train.py: stopped by {signum.name} at kimg [\\d.]+; go on with: python train.py '
                             '(.*)\\n', err)
        assert match and match[1].endswith(f' --resume {run_dir}') and match[1].count('--resume') == 1
        assert kill_resume.newest_state(run_dir) > before
        assert list(run_dir.glob('network-snapshot-*.pkl'))
        arguments = ['--resume', '0']
    kill_resume.damage(kill_resume.newest_state(run_dir), random.Random(0))
    out, _err = kill_resume.finish(folder, SHORT, '--resume', str(run_dir))
    assert 'is damaged' in out and 'trying the one before' in out
    kill_resume.assert_same(wanted, kill_resume.contents(run_dir))
    # Once more: there is nothing left to do.
    out, _err = kill_resume.finish(folder, SHORT, '--resume', 'latest')
    assert 'is finished; raise train.total_kimg' in out
    # TensorBoard's curves go on without overlap.
    events = EventAccumulator(str(run_dir), {'images': 0, 'scalars': 0})
    events.Reload()
    rows = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    for tag in ('Gloss', 'Dloss', 'Dreal', 'Dfake', 'lod', 'sec_per_kimg', 'minibatch'):
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [round(row['kimg'] * 1000) for row in rows]
        np.testing.assert_allclose([scalar.value for scalar in scalars], [row[tag] for row in rows], rtol=1e-6)
    fakes = events.Images('fakes')
    assert [image.step // 1000 for image in fakes][0] == 0 and len({image.step for image in fakes}) == len(fakes)
    shown, saved = [Image.open(io.BytesIO(png)) for png in (fakes[-1].encoded_image_string,
                                                            (run_dir / 'fakes000000.png').read_bytes())]
    np.testing.assert_array_equal(np.array(shown), np.array(saved))


def main(capsys, folder, *arguments, options=()):
    """(exit status, stdout, stderr) of train.main in this process."""
    status = train.main(kill_resume.command(folder, dict(options))[2:] + list(arguments))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.mark.slow
def test_mistakes_are_one_line(alone, capsys):
    folder, _wanted = alone
    run_dir = folder / '000-digits'
    (run_dir / 'training-state-000000100.npz').unlink(missing_ok=True)
    for options, arguments, message in [
            ({}, ['--resume', '3'], "run 3: no such run in"),
            ({}, ['--resume', 'lates'], "run lates: no such run"),
            ({}, ['--resume', str(folder)], 'is not the folder of a run'),
            ({}, ['--set', 'train.resume_run_id=none.pkl'], 'none.pkl: no such file'),
            ({}, ['--set', 'train.resume_run_id=0', '--set', 'train.resume_snapshot=77'], 'snapshot=77: '),
            ({}, ['--resume', '0'], 'has no intact training state; .*train.resume_snapshot=0')]:
        status, _out, err = main(capsys, folder, *arguments, options={**SHORT, **options})
        assert status == 1 and re.search(message, err) and err.count('\n') == 1, err
    with in_use(str(run_dir)):
        status, _out, err = main(capsys, folder, '--resume', '0', options=SHORT)
    assert status == 1 and 'another process is training in' in err and err.count('\n') == 1
    assert (run_dir / 'network-final.pkl').exists(), 'nothing is deleted'


HOLDER = '''
import sys, time
from runs.folder import in_use
with in_use(sys.argv[1]):
    print('in use', flush=True)
    time.sleep(600)
'''


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    with subprocess.Popen([sys.executable, '-c', HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE,
                          text=True) as holder:
        assert holder.stdout.readline() == 'in use\n'
        with pytest.raises(UserError, match='another process is training in'), in_use(tmp_path):
            pass
        holder.kill()
    for _ in range(2):
        with in_use(tmp_path):
            pass
    assert not list(tmp_path.iterdir()), 'no file is left where a file may be deleted while it is open'


@pytest.mark.parametrize('error', [OSError(38, 'Function not implemented'), PermissionError(13, 'denied')])
def test_a_file_system_without_locks(error, tmp_path, monkeypatch):
    def acquire(self, *args, **kwargs):
        raise error
    monkeypatch.setattr(filelock.FileLock, 'acquire', acquire)
    with in_use(tmp_path):
        pass


@pytest.mark.slow
def test_a_new_run_from_the_networks_of_another(alone, tmp_path, capsys):
    """By number and kimg, and as a foreign pickle at a chosen place of the schedule, in the middle of a fade-in."""
    folder, _wanted = alone
    snapshot = folder / '000-digits' / 'network-final.pkl'
    options = {**SHORT, 'train.resume_run_id': snapshot, 'train.resume_kimg': 0.09, 'train.total_kimg': 0.13,
               'train.G_smoothing': 1.0, 'train.G_learning_rate_max': 0.0, 'train.D_learning_rate_max': 0.0,
               'G.fmap_max': 99}
    status, out, err = main(capsys, tmp_path / 'results', options=options)
    assert (status, err) == (0, '') and 'the options of the sections G and D are not used' in out
    run_dir = tmp_path / 'results' / '000-digits'
    rows = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    assert rows[0]['kimg'] > 0.09 and rows[0]['tick'] == 1 and 0 < rows[0]['lod'] < 1
    # With nothing to learn the networks stay what they were, Gs included.
    for ours, theirs in zip(load_pkl(run_dir / 'network-final.pkl'), load_pkl(snapshot), strict=True):
        for name in ours.trainables:
            np.testing.assert_array_equal(ours.get_var(name), theirs.get_var(name))


@pytest.mark.slow
@pytest.mark.timeout(900)     # Several runs.
def test_a_run_that_does_not_fit_and_one_that_is_made_longer(alone, capsys):
    folder, wanted = alone
    folder = folder.parent / 'longer'
    kill_resume.finish(folder, {**SHORT, 'train.total_kimg': 0.15})
    status, _out, err = main(capsys, folder, '--resume', '0', options={
        **SHORT, 'G.fmap_max': 8, 'train.adam_beta1': 0.5, 'train.adam_beta2': 0.99})
    assert status == 1 and err.count('\n') == 1
    assert re.search(r'does not fit .*000-digits: G.fmap_max \(4 in the run, 8 now\), '
                     r'train.adam_beta1 \(0.0 in the run, 0.5 now\); .* started with: ', err)
    kill_resume.finish(folder, SHORT, '--resume', '0')
    kill_resume.assert_same(wanted, kill_resume.contents(folder / '000-digits'))
    # Options of the training may change if the user says so, those of the networks may not.
    overrides = kill_resume.command(folder, {**SHORT, 'train.resume_with_changes': True, 'train.total_kimg': 1,
                                             'train.G_learning_rate_max': 0.002})[9::2]
    chosen = resolve_config(config, 'digits', overrides)
    source = resume_in(str(folder / '000-digits'), chosen, 'another machine', train.train_gan)
    assert source.state.document['cur_nimg'] == 196
    out = capsys.readouterr().out
    assert 'with changed options: train.G_learning_rate_max (0.003 in the run, 0.002 now)\n' in out
    assert 'Not bit for bit as it would have gone on: until now the run used: Engine: torch' in out
    chosen['G']['fmap_max'] = 8
    with pytest.raises(UserError, match=r'does not fit .*000-digits: G.fmap_max \(4 in the run, 8 now\); set'):
        resume_in(str(folder / '000-digits'), chosen, 'another machine', train.train_gan)


# In one process, which stops itself: where exactly, and with everything that has a state.

SCENARIOS = {
    # Minibatches of 4 and two D steps: 8 images per iteration. 4x4 until 40, fading in until 80, 8x8 then.
    'separate': ({'D.use_gdrop': True, 'train.gdrop_lim': 0.0, 'train.gdrop_coef': 2.0, 'train.D_training_repeats': 2,
                  'G.use_batchnorm': True}, [64]),
    # 4 images per iteration, and loss scaling, whose exponents outlive the lod ranges.
    'joint': ({'train.separate_funcs': False, 'train.minibatch_repeats': 2, 'D.mbdisc_kernels': 4}, [24, 80]),
}


@pytest.mark.slow
@pytest.mark.timeout(900)     # Several runs.
@pytest.mark.parametrize('scenario', SCENARIOS)
def test_stopped_at_chosen_moments(scenario, tmp_path, monkeypatch):
    """Within a lod range, at the end of one, while new layers fade in."""
    # Streams of random numbers that are quick to start.
    monkeypatch.setattr(rng_mrg, 'guess_n_streams', lambda size, warn=False: 6)
    options, moments = SCENARIOS[scenario]
    options = {**kill_resume.OPTIONS, **SHORT, 'train.lod_training_kimg': 0.04, 'train.lod_transition_kimg': 0.04,
               'train.total_kimg': 0.104, 'train.state_minutes': None, 'dataset.prefetch_images': 32, **options}
    known = {key: value for key, value in options.items() if key != 'metrics'}

    def run(folder, moment, **resume):
        chosen = resolve_config(config, 'digits', ['%s=%s' % item for item in {**known, **resume}.items()])
        chosen['metrics'] = []
        recorded = []

        def on_step(report):
            recorded.append((report.net, report.cur_nimg, [np.copy(output) for output in report.outputs or []]))
            if report.cur_nimg == moment and report.net == ('G' if scenario == 'separate' else 'D'):
                os.kill(os.getpid(), signal.SIGTERM)

        stopped = contextlib.nullcontext() if moment is None else pytest.raises(stopping.Stopped)
        with stopped:
            experiment.run_experiment(chosen, str(tmp_path / 'data'), str(folder), 'torch', {'device': 'cpu'},
                                      loss_scaling=scenario == 'joint', on_step=on_step, train_gan=train.train_gan)
        return recorded

    wanted = run(tmp_path / 'alone', None)
    found = []
    for moment in [*moments, None]:
        found += run(tmp_path / 'stopped', moment, **{'train.resume_run_id': 0} if found else {})
    np.testing.assert_equal(found, wanted)
    kill_resume.assert_same(*[kill_resume.contents(tmp_path / name / '000-digits') for name in ('alone', 'stopped')])


DISK_FULL = '''
import resource, sys
sys.path.insert(0, sys.argv.pop(1))
import theano_env
import train
from runs import folder, states
save = states.RunStates.save
def save_on_a_full_disk(self, cur_nimg, *args):
    full = 40 < cur_nimg < 100
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000 if full else resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        save(self, cur_nimg, *args)
    finally:
        print('states', cur_nimg, folder.state_paths(self.run_dir)[-1][-13:-4])
states.RunStates.save = save_on_a_full_disk
sys.exit(train.main())
'''


@pytest.mark.slow
@pytest.mark.timeout(900)     # Several runs.
@pytest.mark.skipif(os.name == 'nt', reason='Windows cannot limit the size of files')
def test_a_full_disk_keeps_the_last_state_and_the_training_goes_on(alone, tmp_path):
    folder, wanted = alone
    _python, _train, *arguments = kill_resume.command(folder.parent / 'full', SHORT)
    result = subprocess.run([sys.executable, '-c', DISK_FULL, str(ROOT), *arguments], env=ENVIRONMENT, text=True,
                            capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, '')
    warnings = re.findall('warning: .*', result.stdout)
    assert warnings and 'training-state-000000044.npz: cannot be written (File too large)' in warnings[0]
    states = dict(re.findall(r'states (\d+) (\d+)', result.stdout))
    assert states['40'] == states['44'] == states['96'] == '000000040' and states['100'] == '000000100'
    found = kill_resume.contents(folder.parent / 'full' / '000-digits')
    assert not list((folder.parent / 'full' / '000-digits').glob('*' + TEMPORARY_SUFFIX))
    for name in wanted:
        if name not in ('log', 'stats') and not name.endswith('.png'):
            np.testing.assert_array_equal(found[name], wanted[name])
