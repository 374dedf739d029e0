"""training/experiment.py: the dataset of an experiment is made once, even if several processes need it."""

import subprocess
import sys

from tests.helpers import ROOT

OPEN = '''
import sys, time
import config, dataset_tool
from training import experiment
from training.options import resolve_config
create_digits = dataset_tool.create_digits
def create(**kwargs):
    print('making', flush=True)
    time.sleep(0.5)
    create_digits(**kwargs)
create.__signature__ = __import__('inspect').signature(create_digits)
dataset_tool.create_digits = create
print('ready', flush=True)
sys.stdin.readline()
with experiment.open_dataset(resolve_config(config, 'digits'), sys.argv[1]) as dataset:
    print(dataset.num_images, dataset.label_size)
'''


def test_first_runs_that_start_together_make_the_data_set_once(tmp_path):
    starts = [subprocess.Popen([sys.executable, '-c', OPEN, str(tmp_path / 'data')], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, cwd=ROOT) for _start in range(3)]
    assert [start.stdout.readline() for start in starts] == ['ready\n'] * 3
    for start in starts:
        start.stdin.write('\n')
        start.stdin.flush()
    outputs = [start.communicate()[0].splitlines() for start in starts]
    assert [start.returncode for start in starts] == [0, 0, 0]
    assert sum('making' in output for output in outputs) == 1
    assert [output[-1] for output in outputs] == ['1797 10'] * 3
    assert {path.name for path in (tmp_path / 'data').iterdir()} == {'digits-16x16.h5', 'digits-16x16-labels.npy'}
