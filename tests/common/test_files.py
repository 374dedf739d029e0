"""common/files.py: files are complete or absent."""

import os
import pickle
import subprocess
import sys

import filelock
import numpy as np
import pytest

from common.errors import UserError
from common.files import atomic_write, one_at_a_time, remove_stale_temporaries, save_pkl
from tests.helpers import ROOT


def test_an_exception_leaves_the_old_file(tmp_path):
    path = tmp_path / 'file.txt'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), atomic_write(path, 'w') as file:
        file.write('new')
        raise KeyboardInterrupt
    assert path.read_text() == 'old'
    with atomic_write(path, 'w') as file:
        file.write('new')
    assert path.read_text() == 'new'
    assert os.listdir(tmp_path) == ['file.txt']


def test_kill_9_leaves_the_old_file_and_the_leftover_is_found(tmp_path):
    path = tmp_path / 'file.txt'
    path.write_text('old')
    code = ('import sys, time\nfrom common.files import atomic_write\n'
            'with atomic_write(sys.argv[1], "w") as file:\n'
            '    file.write("new"); file.flush(); print("writing", flush=True); time.sleep(60)\n')
    writer = subprocess.Popen([sys.executable, '-c', code, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert writer.stdout.readline() == 'writing\n'
    assert remove_stale_temporaries(path) == []    # It is still being written.
    writer.kill()
    writer.communicate()
    assert path.read_text() == 'old'
    assert len(os.listdir(tmp_path)) == 2
    assert len(remove_stale_temporaries(str(path))) == 1
    assert os.listdir(tmp_path) == ['file.txt']


@pytest.mark.parametrize('name', ['missing/file.pkl', 'plain/file.pkl'])
def test_a_file_that_cannot_be_written(name, tmp_path):
    (tmp_path / 'plain').write_text('a file where a folder should be')
    with pytest.raises(UserError, match=name + r': cannot be written \((No such file|Not a directory)'):
        save_pkl(1, tmp_path / name)


def test_save_pkl(tmp_path):
    save_pkl(('G', np.arange(3)), tmp_path / 'net.pkl')
    with open(tmp_path / 'net.pkl', 'rb') as file:
        name, values = pickle.load(file)
    assert name == 'G' and values.tolist() == [0, 1, 2]


MAKE = '''
import sys, time
from common.files import one_at_a_time
path = sys.argv[1]
print('ready', flush=True)
sys.stdin.readline()
with one_at_a_time(path):
    try:
        made = open(path, 'x')
    except FileExistsError:
        print('was there')
    else:
        with made:
            time.sleep(0.5)
            made.write('complete')
        print('made')
'''


def test_a_file_is_made_by_one_of_several(tmp_path):
    path = tmp_path / 'file.txt'
    makers = [subprocess.Popen([sys.executable, '-c', MAKE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, cwd=ROOT) for _maker in range(4)]
    assert [maker.stdout.readline() for maker in makers] == ['ready\n'] * 4
    for maker in makers:
        maker.stdin.write('\n')
        maker.stdin.flush()
    outputs = [maker.communicate()[0].splitlines() for maker in makers]
    assert sorted(output[-1] for output in outputs) == ['made', 'was there', 'was there', 'was there']
    assert sum(output[0].endswith('waiting for it') for output in outputs) >= 1
    assert os.listdir(tmp_path) == ['file.txt']


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(filelock.FileLock, 'acquire', lambda *args, **kwargs: os.mkdir(tmp_path))
    with one_at_a_time(tmp_path / 'file.txt'):
        pass
