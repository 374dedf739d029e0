"""benchmarks/gpu_model.py: table and last line for small networks; the estimated cost of a kernel."""

import json
import sys
import types

import pytest

import config
from tests.helpers import load_benchmark

pytestmark = pytest.mark.standin


@pytest.fixture
def model(monkeypatch, restore_theano_config):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    return load_benchmark('gpu_model')


@pytest.mark.slow
def test_table_and_last_line(model, capsys, tmp_path):
    model.main(['--resolution', '4', '--fmap-max', '8', '--json', str(tmp_path / 'rows.json')])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == model.HEAD and [line.split('|')[1:5] for line in lines[3:5]] == [
        [' 0.0 ', ' 4 ', ' 16 ', f' {net} '] for net in 'DG']
    rows = json.loads((tmp_path / 'rows.json').read_text())
    # The time of such small kernels is the time to launch them.
    assert all(row['ms'] == pytest.approx(row['kernels'] * model.LAUNCH * 1e3, rel=0.1) for row in rows)
    assert [row['waits'] for row in rows] == [4, 0]
    assert lines[-2].startswith('T4: ')
    assert lines[-1].startswith('19000 kimg: 0.') and lines[-1].endswith(' sec/kimg')


def kernel(kind, size, **facts):
    return types.SimpleNamespace(kind=kind, bytes=size, **{
        'flops': 0, 'channels': None, 'reduced': None, 'dtype': 'torch.float32', **facts})


def test_what_a_kernel_takes(model):
    assert model.seconds(kernel('pointwise', 39)) == model.LAUNCH
    assert model.seconds(kernel('pointwise', 39e9)) == pytest.approx(0.01)
    assert model.seconds(kernel('reduce', 39e9, reduced=1000)) == pytest.approx(0.01)
    assert model.seconds(kernel('reduce', 39e9, reduced=64)) == pytest.approx(0.01 / 0.35)
    for channels, share in (((512, 512, 9, 'fwd'), 0.6), ((512, 512, 9, 'wgrad'), 0.36), ((16, 512, 9, 'wgrad'), 0.09),
                            ((512, 16, 9, 'fwd'), 0.15), ((3, 64, 1, 'fwd'), 0.6 * 3 / 64)):
        for dtype, peak in (('torch.float32', 420e12), ('torch.bfloat16', 780e12), ('torch.float64', 30e12)):
            found = model.seconds(kernel('conv', 1000, flops=1e12, channels=channels, dtype=dtype))
            assert found == pytest.approx(1e12 / peak / share)


def test_hours_of_a_schedule(model):
    rows = [model.Row(lod, 1024 >> lod, 10, net, 0, 0, 0, 1.0 + lod, 0, 0, 0) for lod in range(9) for net in 'DG']
    options = config.experiments['celebahq-1024']['train']
    # Each lod fades in and stays for 800 kimg each, but the first one does not fade in, and the last one stays longer.
    wanted = sum(kimg * 2 * (1 + lod) / 10 for lod, kimg in enumerate([7000, *[1600] * 7, 800])) / 3600
    assert model.hours(rows, 1024, options) == pytest.approx(wanted, rel=5e-3)
    faded = [row._replace(lod=0.5, ms=100.0) for row in rows[:2]]
    wanted += 800 * (2 * 100 - 2) / 10 / 3600
    assert model.hours(rows + faded, 1024, options) == pytest.approx(wanted, rel=5e-3)
