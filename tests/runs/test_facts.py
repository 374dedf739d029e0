"""runs/facts.py: the facts of a run; damaged files give fewer facts and no errors."""

import numpy as np
import pytest

from data.hdf5_writer import HDF5Writer
from runs.facts import network_sizes, read_facts

LOG = '''Engine: x
LayerName       LayerType                   Params    OutputShape
---             ---                         ---       ---
Glatents        InputLayer                  0         ?, 32
Total                                       181731

LayerName       LayerType                   Params    OutputShape
---             ---                         ---       ---
Dimages         InputLayer                  0         ?, 1, 16, 16
Total                                       1005739
'''
RUN = '''command: train.py
started: 2026-11-30 15:45:06
machine: Linux, Python 3.11.7
Engine: torch on CPU
'''


def write(folder, config='', log='', run=''):
    for name, text in (('config.txt', config), ('log.txt', log), ('run.txt', run)):
        (folder / name).write_text(text, encoding='utf-8')
    return read_facts(str(folder))


def test_facts_of_a_run(tmp_path):
    h5_path = str(tmp_path / 'faces.h5')
    with HDF5Writer(h5_path, 8, 1) as writer:
        writer.add_images(np.zeros((5, 1, 8, 8), np.uint8))
    config = {'dataset': {'h5_path': 'faces.h5', 'resolution': 8, 'mirror_augment': True},
              'G': {'func': 'networks.G_paper'}, 'D': {'func': 'networks.D_paper'}, 'loss': {'type': 'lsgan'},
              'run': {'data_set': h5_path}}
    facts = write(tmp_path, repr(config), LOG, RUN)
    assert facts == {
        'dataset': 'faces.h5, 5 images of 8x8, mirrored',
        'networks': 'G networks.G_paper, 181,731 parameters; D networks.D_paper, 1,005,739 parameters',
        'loss': 'least squares (lsgan)', 'device': 'torch on CPU', 'started': '2026-11-30 15:45:06'}
    again = RUN.replace('started', 'resumed at kimg 7.000').replace('on CPU', 'on a GPU').replace('15:45', '16:00')
    facts = write(tmp_path, repr(config), LOG, RUN + again)
    assert (facts['device'], facts['started'], facts['resumed']) == (
        'torch on a GPU', '2026-11-30 15:45:06', 'at kimg 7.000, 2026-11-30 16:00:06')
    config['dataset']['max_images'] = 3
    assert write(tmp_path, repr(config))['dataset'] == 'faces.h5, 3 images of 8x8, mirrored'
    (tmp_path / 'faces.h5').unlink()
    del config['dataset']['max_images']
    assert write(tmp_path, repr(config))['dataset'] == 'faces.h5, 8x8, mirrored'


@pytest.mark.parametrize('config', ['', '[', '7', "{'dataset': 3, 'G': [], 'loss': 'x'}", "{'dataset': {'h5_path': 8}}",
                                    "{'dataset': {}, 'G': {'func': None}, 'run': {'data_set': 1}}"])
def test_damaged_files_tell_nothing(config, tmp_path):
    assert set(write(tmp_path, config, 'LayerName\nTotal', ': :\n\n')) <= {'loss'}


def test_sizes_of_a_log_that_is_cut_off():
    assert network_sizes(LOG[:LOG.index('Total  ') + 60]) == {'G': 181731}
