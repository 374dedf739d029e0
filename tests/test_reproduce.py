"""reproduce: its runs are those of config.py made small; the report is that of made-up runs, its words stay."""

import json

import pytest

import reproduce
import train
from data.dataset import Dataset
from paper import small_scale
from training.options import check_arguments, check_options


def test_all_jobs_are_valid_experiments():
    jobs = [job for part in reproduce.PARTS.values() for job in part()]
    assert len({job.folder for job in jobs}) == len(jobs) == 4 + 8 * 3 + 3 * 2
    for job in jobs:
        train_func, _options, _loss = check_options(job.experiment, train.train_gan)
        assert train_func.__name__ == 'train_gan'
        check_arguments('dataset', job.experiment['dataset'], Dataset)


@pytest.fixture
def runs(tmp_path):
    """(jobs of two parts, {folder: run folder}): distances 10, 20 and 40 of the rows' three seeds."""
    jobs = [job for job in reproduce.ablation_jobs() if job.name in ('a-gulrajani', 'b-growing')]
    jobs += reproduce.growing_jobs()[:2]
    run_dirs = {}
    for job in jobs:
        run_dir = tmp_path / job.folder / ('000-' + job.name)
        run_dir.mkdir(parents=True)
        distance = {1000: 10.0, 1001: 20.0, 1002: 40.0}[job.seed]
        entries = [{'metric': 'swd', 'kimg': kimg, 'seconds': 60 * kimg, 'values': {'32': 1.0, 'avg': distance * kimg}}
                   for kimg in (2.0, 1.0)]
        entries.append({'metric': 'ms_ssim', 'kimg': 2.0, 'seconds': 120.0, 'values': {'MS-SSIM': 0.25}})
        (run_dir / 'metrics.jsonl').write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
        (run_dir / 'stats.jsonl').write_text('{"kimg": 1.0, "seconds": 60.0}\n{"kimg": 2.0, "seconds": 120.0}\n')
        (run_dir / '_training-done.txt').touch()
        run_dirs[job.folder] = reproduce.run_dir_of(job, tmp_path)
    return jobs, run_dirs


def test_report(runs, tmp_path):
    report_dir = tmp_path / 'report'
    small_scale.write(*runs, report_dir)
    text = (report_dir / 'README.md').read_text()
    # The last snapshot counts: distances 20, 40 and 80.
    assert '| a-gulrajani | 3 | 1.0 ± 0.0 | 46.7 ± 30.6 | 0.250 ± 0.000 |' in text
    assert '| growing | 2.00 | 20.0 |' in text
    for name in ('growing', 'ablation'):
        assert (report_dir / f'small-scale-{name}.png').read_bytes().startswith(b'\x89PNG')
    (report_dir / 'README.md').write_text(text.replace('## Every row', 'Our words.\n\n## Every row'))
    small_scale.write(*runs, report_dir)
    assert (report_dir / 'README.md').read_text() == text.replace('## Every row', 'Our words.\n\n## Every row')
