"""runs/states.py and resuming runs: files, folders, user errors, signals, kills (kill_resume.py has more of them)."""

import contextlib
import copy
import errno
import io
import json
import os
import random
import re
import shutil
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
import theano_env
import train
import util_scripts
from common.errors import UserError, WriteError
from common.files import TEMPORARY_SUFFIX
from data.dataset import Dataset
from nets.pickles import load_pkl
from nets.ranks import SINGLE
from runs import states
from runs.folder import DONE_FILE, in_use, state_paths
from tests.helpers import ROOT
from tests.training import kill_resume
from training import experiment, recorded, stopping
from training.event_file import tag_of
from training.options import resolve_config
from training.recorded import differing_options
from training.resume import Start, changes_since, check_data, check_length, resume_in
from training.snapshots import link_final

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
    # Other programs can read the file.
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
    assert states.newest(str(tmp_path)) is None
    with pytest.raises(UserError, match='only damaged training states'):
        states.check_nothing_is_lost(str(tmp_path))
    for name, named in [('network-final.pkl', 'final'), ('network-snapshot-000007.pkl', '7')]:
        (tmp_path / name).touch()
        with pytest.raises(UserError, match=f'train.resume_snapshot={named}$'):
            states.check_nothing_is_lost(str(tmp_path))
        (tmp_path / name).unlink()


def test_a_disk_with_room_for_two_states(state, tmp_path, monkeypatch):
    """The older of two states is removed first; the only intact one is kept."""
    write, errors = states.write, []

    def write_on_a_full_disk(path, state):
        if len(state_paths(str(tmp_path))) >= room:
            errors.append(path)
            try:
                raise OSError(errno.ENOSPC, 'No space left on device')
            except OSError as error:
                raise WriteError(f'{path}: cannot be written (No space left on device)') from error
        write(path, state)

    monkeypatch.setattr(states, 'write', write_on_a_full_disk)
    run_states, room = states.RunStates(str(tmp_path), {}), 2
    for nimg in (1, 2, 3, 4):
        run_states.save(nimg, state.arrays, {'cur_nimg': nimg})
        assert states.newest(str(tmp_path)).document['cur_nimg'] == nimg
    assert [path[-5:] for path in state_paths(str(tmp_path))] == ['3.npz', '4.npz'] and len(errors) == 2
    os.truncate(state_paths(str(tmp_path))[-1], 100)
    run_states.save(5, state.arrays, {'cur_nimg': 5})
    assert [path[-5:] for path in state_paths(str(tmp_path))] == ['3.npz', '5.npz'], 'the damaged one went'
    room = 1
    for nimg in (6, 7):
        with pytest.raises(WriteError):
            run_states.save(nimg, state.arrays, {'cur_nimg': nimg})
        assert [path[-5:] for path in state_paths(str(tmp_path))] == ['5.npz']


def rest(folder):
    return {path.name: path.read_text(errors='replace') for path in folder.glob('*[!z]')}


def test_rewinding_takes_the_files_back_to_the_state(state, tmp_path):
    (tmp_path / 'log.txt').write_text('before')
    for name in ('fakes000000.png', 'fakes000004.png', 'network-snapshot-000003.pkl', 'reals.png', 'mine.png'):
        (tmp_path / name).touch()
    run_states = states.RunStates(str(tmp_path), {})
    run_states.save(5900, state.arrays, {'cur_nimg': 5900})
    kept = rest(tmp_path)
    (tmp_path / 'log.txt').write_text('before and after')
    (tmp_path / 'stats.jsonl').write_text('{}')
    for name in ('training-state-000005901.npz', 'x.png.host-1-0.tmp', DONE_FILE, 'fakes000005.png', 'fakes000010.png',
                 'network-snapshot-000006.pkl', 'network-final.pkl'):
        (tmp_path / name).touch()
    start = states.read(tmp_path / 'training-state-000005900.npz')
    for _twice in range(2):
        states.RunStates(str(tmp_path), {}, start).rewind()
        assert rest(tmp_path) == {**kept, 'stats.jsonl': ''}
        assert state_paths(str(tmp_path)) == [str(tmp_path / 'training-state-000005900.npz')]


@pytest.mark.parametrize('has_number', [False, True])
def test_the_networks_of_an_end_outlive_it(has_number, state, tmp_path):
    states.RunStates(str(tmp_path), {}).save(5900, state.arrays, {'cur_nimg': 5900, 'done': True})
    (tmp_path / 'network-final.pkl').write_text('of the end')
    if has_number:      # As at the end of a training; earlier versions wrote only network-final.pkl.
        link_final(str(tmp_path), 5.9)
    states.RunStates(str(tmp_path), {}, states.newest(str(tmp_path))).rewind()
    assert rest(tmp_path) == {'network-snapshot-000005.pkl': 'of the end'}


def test_starting_over_keeps_what_was_written_since(tmp_path):
    (tmp_path / 'log.txt').write_text('of the first attempt; of the second')
    for name in ('stats.jsonl', 'fakes000000.png', DONE_FILE):
        (tmp_path / name).write_text('first')
    states.RunStates(str(tmp_path), {}).start_over({'log.txt': len('of the first attempt; '), 'stats.jsonl': 5})
    assert rest(tmp_path) == {'log.txt': 'of the second', 'stats.jsonl': ''}


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


@pytest.mark.parametrize('before, now, kimg, allowed', [
    (44, 60, 40, True), (44, 60, 41, False), (44, 60, 44, False), (60, 44, 41, False), (44, 44, 44, True)])
def test_another_length_while_the_learning_rates_ramp_down(before, now, kimg, allowed):
    check_length({'rampdown_kimg': 0}, before, now, kimg)
    with contextlib.nullcontext() if allowed else pytest.raises(UserError, match='total_kimg=.*rampdown_kimg=4'):
        check_length({'rampdown_kimg': 4}, before, now, kimg)


def arguments(*argv):
    return train.parse_arguments(config, argv)


def choose(*words):
    """Complete a command line of train.py."""
    return recorded.choose(config, arguments(*words), SINGLE, train.train_gan)


@pytest.fixture
def recorded_run(tmp_path, monkeypatch):
    """The folder of a run, with its config.txt and a state."""
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'digits-16x16.h5').touch()
    environment = theano_env.Environment('torch', 'cpu', 'float32', 'Engine: torch')
    overrides = ['G.fmap_max=4', 'train.minibatch_overrides={4: 8}', 'train.resume_run_id=5']
    chosen = resolve_config(config, 'digits-nopixelnorm', overrides)
    record = recorded.make_record({'experiment': 'digits-nopixelnorm', 'set': overrides}, environment,
                                  config.theano_flags, chosen, str(tmp_path / 'data'))
    run_dir = tmp_path / '000-digits'
    run_dir.mkdir()
    experiment.write_run_files(str(run_dir), chosen, environment, Start(), record)
    (run_dir / 'training-state-000000004.npz').touch()
    return run_dir


def test_a_run_is_gone_on_with_as_its_folder_says(recorded_run, monkeypatch, capsys):
    text = (recorded_run / 'config.txt').read_text()
    for word in ("'engine': 'torch'", "'device': 'cpu'", "'precision': 'float32'", "'floatX'", 'digits-16x16.h5'):
        assert word in text
    monkeypatch.setattr(config, 'experiment', 'cifar10')
    monkeypatch.setattr(config, 'engine', 'theano')
    argv = ['--result-dir', str(recorded_run.parent), '--set', 'train.total_kimg=7', '--resume', 'latest']
    chosen = choose(*argv)
    assert capsys.readouterr().out == ''
    wanted = resolve_config(config, 'digits-nopixelnorm', [
        'G.fmap_max=4', 'train.minibatch_overrides={4: 8}', 'train.total_kimg=7'])
    wanted['train'].update(resume_run_id=str(recorded_run), resume_snapshot='latest')
    assert chosen.experiment == wanted
    assert chosen.origin == {'experiment': 'digits-nopixelnorm', 'set': [
        'G.fmap_max=4', 'train.minibatch_overrides={4: 8}', 'train.total_kimg=7']}
    assert (chosen.engine, chosen.precision) == ('torch', 'float32')
    assert chosen.theano_flags == {**config.theano_flags, 'device': 'cpu'}
    assert chosen.data_dir == str(recorded_run.parent / 'data')
    # The command line takes precedence.
    chosen = choose(*argv, '--data-dir', 'x', '--device', 'auto')
    assert (chosen.data_dir, chosen.theano_flags['device']) == ('x', 'auto')


def test_a_config_that_says_something_else_by_now_is_told_in_one_line(recorded_run, monkeypatch, capsys):
    argv = ['--result-dir', str(recorded_run.parent), '--resume', '0']
    monkeypatch.setitem(config.experiments['digits']['D'], 'fmap_max', 32)
    monkeypatch.setitem(config.experiments['digits']['train'], 'total_kimg', 50)
    monkeypatch.setattr(config, 'theano_flags', {**config.theano_flags, 'dnn.enabled': 'True'})
    chosen = choose(*argv)
    assert (chosen.experiment['D']['fmap_max'], chosen.experiment['train']['total_kimg']) == (64, 44)
    assert chosen.theano_flags['dnn.enabled'] == 'auto'
    out = capsys.readouterr().out
    assert out.count('\n') == 1 and re.search(
        r'config.py has changed since: D.fmap_max \(64 in the run, 32 now\), theano_flags.dnn.enabled .*'
        r'train.total_kimg \(44 in the run, 50 now\)', out)
    # --experiment overrides the recorded experiment.
    chosen = choose(*argv, '--experiment', 'digits')
    assert chosen.experiment['D']['fmap_max'] == 32
    monkeypatch.delitem(config.experiments, 'digits')
    choose(*argv)
    assert "config.py no longer has its experiment 'digits-nopixelnorm'" in capsys.readouterr().out


def test_a_device_of_the_run_that_is_not_here(recorded_run, capsys):
    path = recorded_run / 'config.txt'
    path.write_text(path.read_text().replace("'device': 'cpu'", "'device': 'cuda:17'"))
    chosen = choose('--result-dir', str(recorded_run.parent), '--resume', '0')
    assert chosen.theano_flags == config.theano_flags
    out = capsys.readouterr().out
    assert out.count('\n') == 1 and 'so far (torch on cuda:17 in float32) is not available: ' in out


@pytest.mark.parametrize('func', ['evil.build', 'os.system', 'networks.np.load', 'train.sys.exit', 'runs.folder.in_use',
                                  'dataset_tool.os.remove', 'evil', 3, None])
def test_functions_that_only_a_folder_names_are_not_looked_up(func, recorded_run, monkeypatch):
    (recorded_run / 'evil.py').write_text('raise SystemExit("imported")')
    monkeypatch.syspath_prepend(recorded_run)
    for section in ('G', 'train', 'create_dataset'):
        chosen = copy.deepcopy(config.experiments['digits'])
        chosen[section]['func'] = func
        with pytest.raises(UserError, match=rf'{section}.func=.* is not a function of this program'):
            recorded.check_functions('results/000', chosen)
        (recorded_run / 'config.txt').write_text(repr(chosen))
        with pytest.raises(UserError, match='is not a function of this program'):
            choose('--result-dir', str(recorded_run.parent), '--resume', '0')
    # Our functions and those of the user's config are trusted.
    recorded.check_functions('', {'G': {'func': 'mine.build'}}, recorded.functions_of([{'D': {'func': 'mine.build'}}]))
    for entry in config.experiments.values():
        if 'dataset' in entry:
            recorded.check_functions('', entry)


def test_flags_of_a_folder_start_no_other_programs(recorded_run):
    path = recorded_run / 'config.txt'
    path.write_text(path.read_text().replace("'floatX': 'float32'", "'floatX': 'float32', 'cxx': '/tmp/evil'"))
    chosen = choose('--result-dir', str(recorded_run.parent), '--resume', '0')
    assert 'cxx' not in chosen.theano_flags


# ----------------------------------------------------------------------------------------------------------------------
# Whole runs.


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """(folder, contents) of an uninterrupted run."""
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
    """Stop with Ctrl-C, then with SIGTERM; then damage the newest state."""
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
        assert re.fullmatch(f'train.py: stopped by {signum.name} at kimg [\\d.]+; continue with: python train.py '
                            f'--resume {run_dir}\\n', err)
        assert kill_resume.newest_state(run_dir) > before
        assert list(run_dir.glob('network-snapshot-*.pkl'))
        arguments = ['--resume', '0']
    kill_resume.damage(kill_resume.newest_state(run_dir), random.Random(0))
    out, _err = kill_resume.finish(folder, SHORT, '--resume', str(run_dir))
    assert 'is damaged' in out and 'trying the one before' in out
    kill_resume.assert_same(wanted, kill_resume.contents(run_dir))
    # Resume once more: there is nothing left to do.
    out, _err = kill_resume.finish(folder, SHORT, '--resume', 'latest')
    assert 'is finished; raise train.total_kimg' in out
    # TensorBoard's curves continue without overlap.
    events = EventAccumulator(str(run_dir), {'images': 0, 'scalars': 0})
    events.Reload()
    rows = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    for tag in ('Gloss', 'Dloss', 'Dreal', 'Dfake', 'lod', 'sec_per_kimg', 'minibatch'):
        scalars = events.Scalars(tag_of(tag))
        assert [scalar.step for scalar in scalars] == [round(row['kimg'] * 1000) for row in rows]
        np.testing.assert_allclose([scalar.value for scalar in scalars], [row[tag] for row in rows], rtol=1e-6)
    assert len(events.Images('Images/reals')) == 1 and events.Tags()['tensors'] == ['Configuration/config.txt']
    fakes = events.Images('Images/fakes')
    assert [image.step // 1000 for image in fakes][0] == 0 and len({image.step for image in fakes}) == len(fakes)
    shown, saved = [Image.open(io.BytesIO(png)) for png in (fakes[-1].encoded_image_string,
                                                            (run_dir / 'fakes000000.png').read_bytes())]
    np.testing.assert_array_equal(np.array(shown), np.array(saved))


def main(capsys, folder, *arguments, options=()):
    """Run train.main in this process; return (exit status, stdout, stderr)."""
    status = train.main(kill_resume.command(folder, dict(options))[2:] + list(arguments))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.mark.slow
def test_mistakes_are_one_line(alone, capsys):
    folder, _wanted = alone
    run_dir = folder / '000-digits'
    for path in state_paths(str(run_dir)):
        os.remove(path)
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    for options, arguments, message in [
            ({}, ['--resume', '3'], "run 3: no such run in"),
            ({}, ['--resume', 'lates'], "run lates: no such run"),
            ({}, ['--resume', str(folder)], 'is not the folder of a run'),
            ({}, ['--set', 'train.resume_run_id=none.pkl'], 'none.pkl: no such file'),
            ({}, ['--set', 'train.resume_run_id=0', '--set', 'train.resume_snapshot=77'], 'snapshot=77: '),
            ({'train.total_kimg': 0.3}, ['--resume', '0'], 'has no intact training state; .*resume_snapshot=final'),
            ({'G.fmap_max': 8}, ['--resume', 'latest'], r'does not fit .*G.fmap_max \(4 in the run, 8 now\)'),
            ({'G.fmap_max': 8}, ['--set', 'train.resume_run_id=0'], r'does not fit .*G.fmap_max \(4 in the run')]:
        status, _out, err = main(capsys, folder, *arguments, options={**SHORT, **options})
        assert status == 1 and re.search(message, err) and err.count('\n') == 1, err
    with in_use(str(run_dir)):
        status, _out, err = main(capsys, folder, '--resume', '0', options=SHORT)
    assert status == 1 and 'another process is training in' in err and err.count('\n') == 1
    status, out, _err = main(capsys, folder, '--resume', '0', options=SHORT)
    assert status == 0 and 'is finished; raise train.total_kimg' in out
    assert {path.name: path.read_bytes() for path in run_dir.iterdir()} == before, 'nothing changes'


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
    """Start from a run's number and kimg, and from a pickle elsewhere at a given kimg in the middle of a fade-in."""
    folder, _wanted = alone
    snapshot = folder / '000-digits' / 'network-final.pkl'
    options = {**SHORT, 'train.resume_run_id': snapshot, 'train.resume_kimg': 0.09, 'train.total_kimg': 0.13,
               'train.G_smoothing': 1.0, 'train.G_learning_rate_max': 0.0, 'train.D_learning_rate_max': 0.0,
               'G.fmap_max': 99}
    status, out, err = main(capsys, tmp_path / 'results', options=options)
    assert (status, err) == (0, '') and 'the options of the sections G and D are ignored' in out
    run_dir = tmp_path / 'results' / '000-digits'
    rows = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    assert rows[0]['kimg'] > 0.09 and rows[0]['tick'] == 1 and 0 < rows[0]['lod'] < 1
    # With learning rates of 0, the networks do not change, including Gs.
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
    # With resume_with_changes, options of the training may change; options of the networks may not.
    overrides = kill_resume.command(folder, {**SHORT, 'train.resume_with_changes': True, 'train.total_kimg': 1,
                                             'train.G_learning_rate_max': 0.002})[9::2]
    chosen = resolve_config(config, 'digits', overrides)
    source = resume_in(str(folder / '000-digits'), chosen, 'another machine', train.train_gan)
    assert source.state.document['cur_nimg'] == 200 and source.state.document['done']
    out = capsys.readouterr().out
    assert 'with changed options: train.G_learning_rate_max (0.003 in the run, 0.002 now)\n' in out
    assert 'will not be bit-identical, because the run so far used: Engine: torch' in out
    chosen['G']['fmap_max'] = 8
    with pytest.raises(UserError, match=r'does not fit .*000-digits: G.fmap_max \(4 in the run, 8 now\); set'):
        resume_in(str(folder / '000-digits'), chosen, 'another machine', train.train_gan)


def test_changed_engines_versions_and_processors_are_listed():
    now = {'environment': 'e', 'versions': {'Python': '3.11', 'NumPy': '2.4'}, 'processor': 'x86_64 AVX2'}
    assert changes_since(now, now) == changes_since({}, now) == []      # Old states record nothing.
    before = {**now, 'versions': {'Python': '3.10', 'NumPy': '2.4', 'gone': '1'}, 'processor': 'x86_64 AVX512'}
    assert changes_since(before, now) == ['x86_64 AVX512', 'Python 3.10 (now 3.11)']


def test_the_contents_of_the_data_set_are_compared(capsys):
    chosen = {'dataset': {'h5_path': 'a.h5'}, 'train': {}}
    facts = {'labels': '1', 'images': '2', 'more': '3'}

    def start(**document):
        return Start(run_dir='000-run', about={}, state=states.State({}, document))

    for intact in (start(), start(data={'labels': '1', 'images': '2'}), Start(about={})):
        check_data(intact, chosen, facts)
        assert intact.about['data'] == {'labels': '1', 'images': '2'}
    other = start(data={'labels': '1', 'images': '0'})
    with pytest.raises(UserError, match=r"h5_path='a.h5': images have changed since 000-run was saved; .*or "
                                        'accept the change with train.resume_with_changes=True'):
        check_data(other, chosen, facts)
    check_data(other, {**chosen, 'train': {'resume_with_changes': True}}, facts)
    assert capsys.readouterr().out == 'Resuming with changed images\n'


@pytest.mark.slow
def test_resume_alone_is_enough(tmp_path, capsys):
    """`--resume latest` finds the last run that can be resumed, and takes all options from its folder."""
    folder, options = tmp_path / 'results', {**SHORT, 'train.state_minutes': 10, 'train.total_kimg': 0.04}
    assert main(capsys, tmp_path / 'once', options=options)[0] == 0
    assert main(capsys, folder, options={**options, 'train.total_kimg': 0.02})[0] == 0
    run_dir = folder / '000-digits'
    assert [os.path.basename(path) for path in state_paths(str(run_dir))] == ['training-state-000000020.npz']
    assert util_scripts.main(['generate_fake_images', 'latest', '--seeds', '1', '--result-dir', str(folder)]) == 0
    (folder / '002-digits').mkdir()
    for name in ('config.txt', 'log.txt', 'run.txt'):
        (folder / '002-digits' / name).write_bytes((run_dir / name).read_bytes())     # A failed start.
    capsys.readouterr()
    status = train.main(['--result-dir', str(folder), '--resume', 'latest', '--set', 'train.total_kimg=0.04'])
    assert (status, capsys.readouterr().err) == (0, '')
    assert 'resumed at kimg 0.020' in (run_dir / 'run.txt').read_text()
    assert {path.name for path in folder.iterdir()} == {'000-digits', '001-generate-fake-images', '002-digits'}
    assert not list(folder.glob('00[12]*/*.pkl'))
    kill_resume.assert_same(*[kill_resume.contents(path / '000-digits') for path in (tmp_path / 'once', folder)])
    assert (run_dir / 'network-snapshot-000000.pkl').exists(), 'the networks of the first end'


@pytest.mark.slow
def test_metrics_at_the_end_that_were_interrupted_are_made(alone, tmp_path, monkeypatch, capsys):
    """After Ctrl-C or a kill during the evaluation, only the evaluation is repeated."""
    folder, _wanted = alone
    run_dir = tmp_path / '000-digits'
    shutil.copytree(folder / '000-digits', run_dir)
    os.remove(run_dir / DONE_FILE)
    options = {**SHORT, 'metrics': "['digit_recognition']"}
    arguments = ['--resume', '0', '--data-dir', str(folder.parent / 'data')]
    before = {path.name: path.read_bytes() for path in run_dir.iterdir() if path.name != 'log.txt'}

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment.digit_recognition, 'report', interrupt)
        status, _out, err = main(capsys, tmp_path, *arguments, options=options)
    assert status == 130 and err == ('train.py: interrupted; the networks are saved, their metrics are missing; '
                                     f'continue with: python train.py --resume {run_dir}\n')
    assert not (run_dir / DONE_FILE).exists()
    status, out, err = main(capsys, tmp_path, *arguments, options=options)
    assert (status, err) == (0, '') and 'digit_recognition: ' in out and 'tick ' not in out
    assert {path.name: path.read_bytes() for path in run_dir.iterdir() if path.name in before} == before
    assert {path.name for path in run_dir.iterdir()} - {*before, 'log.txt'} == {
        DONE_FILE, 'metric-digit_recognition.txt'}


# In one process, which stops itself at exact positions, with everything that has a state.

UNREADABLE = 76     # Images shown before the next image cannot be read.
SCENARIOS = {
    # Minibatches of 4 and two D steps: 8 images per iteration. 4x4 until image 40, fade-in until 80, then 8x8.
    'separate': ({'D.use_gdrop': True, 'train.gdrop_lim': 0.0, 'train.gdrop_coef': 2.0, 'train.D_training_repeats': 2,
                  'G.use_batchnorm': True}, [64, UNREADABLE]),
    # 4 images per iteration, and loss scaling, whose exponents outlive the lod ranges.
    'joint': ({'train.separate_funcs': False, 'train.minibatch_repeats': 2, 'D.mbdisc_kernels': 4}, [24, 80]),
}


@pytest.mark.slow
@pytest.mark.timeout(900)     # Several runs.
@pytest.mark.parametrize('scenario', SCENARIOS)
def test_stopped_at_chosen_moments(scenario, tmp_path, monkeypatch):
    """Stop within a lod range, at its end, during a fade-in, and between D steps because of unreadable data."""
    # Use random streams that are quick to start.
    monkeypatch.setattr(rng_mrg, 'guess_n_streams', lambda size, warn=False: 6)
    options, moments = SCENARIOS[scenario]
    options = {**kill_resume.OPTIONS, **SHORT, 'train.lod_training_kimg': 0.04, 'train.lod_transition_kimg': 0.04,
               'train.total_kimg': 0.104, 'train.state_minutes': None, 'dataset.prefetch_images': 32, **options}
    known = {key: value for key, value in options.items() if key != 'metrics'}

    def run(folder, moment, unreadable=False, **resume):
        chosen = resolve_config(config, 'digits', ['%s=%s' % item for item in {**known, **resume}.items()])
        chosen['metrics'] = []
        recorded = []

        def read(reader, lod, indices, *args):
            if recorded and recorded[-1][1] == moment:
                raise OSError(errno.EIO, 'Input/output error')
            return dataset_read(reader, lod, indices, *args)

        def on_step(report):
            recorded.append((report.net, report.cur_nimg, [np.copy(output) for output in report.outputs or []]))
            if not unreadable and report.cur_nimg == moment and report.net == ('G' if scenario == 'separate' else 'D'):
                os.kill(os.getpid(), signal.SIGTERM)

        stopped = contextlib.nullcontext() if moment is None else pytest.raises(stopping.Stopped)
        if unreadable:
            monkeypatch.setattr(Dataset, '_read', read)
            stopped = pytest.raises(UserError, match='Input/output error.* is saved; continue with: python train.py')
        with stopped:
            experiment.run_experiment(chosen, str(tmp_path / 'data'), str(folder), 'torch', {'device': 'cpu'},
                                      loss_scaling=scenario == 'joint', on_step=on_step, train_gan=train.train_gan)
        monkeypatch.setattr(Dataset, '_read', dataset_read)
        return recorded

    dataset_read = Dataset._read
    wanted = run(tmp_path / 'alone', None)
    found = []
    for moment in [*moments, None]:
        found += run(tmp_path / 'stopped', moment, moment == UNREADABLE,
                     **{'train.resume_run_id': 0} if found else {})
    np.testing.assert_equal(found, wanted)
    kill_resume.assert_same(*[kill_resume.contents(tmp_path / name / '000-digits') for name in ('alone', 'stopped')])


DISK_FULL = '''
import resource, sys
sys.path.insert(0, sys.argv.pop(1))
import theano_env
import train
import util_scripts
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
