"""benchmarks/gpu.py: the script runs on the CPU, and its projection adds up."""

import json
import sys

import pytest
import theano

import config
from tests.helpers import load_benchmark


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    module = load_benchmark('gpu')
    mode = theano.config.mode
    yield module
    theano.config.mode = mode


@pytest.mark.slow
def test_rows_and_projections_are_written(gpu, tmp_path):
    gpu.main(['--device', 'cpu', '--resolution', '8', '--fmap-max', '4', '--lods', '1', '--seconds', '0.01',
              '--precisions', 'float32', 'bfloat16', '--paper-only', '--out', str(tmp_path / 'out')])
    written = json.loads((tmp_path / 'out' / 'gpu.json').read_text())
    assert [(row['lod'], row['resolution'], row['precision'], row['minibatch']) for row in written['rows']] == [
        (1, 4, 'float32', 16), (1, 4, 'bfloat16', 16)]
    assert all(row['sec_per_kimg'] > 0 and row['compile_seconds'] > 0 for row in written['rows'])
    assert 0 < written['projections'][0]['measured'] < 100
    assert '| celebahq-v2-1gpu | bfloat16 |' in (tmp_path / 'out' / 'gpu.md').read_text()


def test_projection(gpu):
    options = config.experiments['celebahq-1024']['train']
    rows = [{'resolution': 2 ** k, 'lod': 10 - k, 'minibatch': minibatch, 'sec_per_kimg': seconds}
            for k in range(2, 11) for minibatch, seconds in ((8, 2.0), (128, 1.0))]
    seconds, measured = gpu.project(rows, 1024, options)
    assert (measured, seconds) == (1, pytest.approx(2 * 19000))
    # The second half of each phase fades in the next resolution.
    rows.append({'resolution': 1024, 'lod': 0.5, 'minibatch': 8, 'sec_per_kimg': 12.0})
    fading_kimg = (gpu.project(rows, 1024, options)[0] - 2 * 19000) / 10
    assert fading_kimg == pytest.approx(800, abs=2 * 19000 / gpu.POINTS)
    seconds, measured = gpu.project(rows[-1:], 1024, options)
    assert measured == pytest.approx(1 - 12000 / 19000, abs=0.01) and seconds == pytest.approx(12 * 19000 * measured)


def test_expensive_lods_first(gpu):
    assert gpu.lods_by_importance(16) == [0, 1, 2, 0.5, 1.5]
