"""paper.entries and paper.material: figures describe their runs, and refuse runs of other experiments."""

import json

import pytest

import config
import dataset_tool
import train
from common.errors import UserError
from metrics import identity
from paper import entries, material, tables
from tests.paper.fake_runs import entries_of, fake_run, material_of, ms_ssim, swd

ROW = 'table1-celeba-d-revised-training'
RESULTS = [swd(8.0), ms_ssim(0.3)]


def our_rows(tmp_path):
    lines = (tmp_path / 'out' / 'table1.md').read_text().splitlines()
    return [line for line in lines if line.startswith('|  |  | ours')]


def test_a_run_of_the_experiment_is_ours_without_more(tmp_path):
    made = material_of(tmp_path, fake_run(tmp_path / 'run', ROW, RESULTS))
    tables.table1(made, 'table1')
    assert our_rows(tmp_path) == ['|  |  | ours | 8.00 | 8.00 | 8.00 | 8.00 | 8.00 | 0.3000 |'] and not made.refused
    entry, = entries_of(tmp_path, 'table1')
    assert (entry['part'], entry['experiment'], entry['run'], entry['snapshot']) == (
        'CelebA, row d', ROW, str(tmp_path / 'run'), 'network-final')
    assert (entry['kimg'], entry['planned_kimg'], entry['runs'], entry['seed']) == (10000, 10000, 1, 1000)
    assert entry['images'] == {'swd': 16384, 'ms_ssim': 20000} and entry['differs'] == entry['other'] == []
    assert entry['data'] == 'celeba-128x128.h5, number of images unknown, 128x128, mirrored'


@pytest.mark.parametrize('override, told', [
    ('dataset.h5_path=photos.h5', 'dataset.h5_path "photos.h5" (config.py: "celeba-128x128.h5")'),
    ('dataset.resolution=64', 'dataset.resolution 64 (config.py: 128)'),
    ('dataset.mirror_augment=false', 'dataset.mirror_augment false (config.py: true)'),
    ('dataset.max_images=5000', '5000 training images instead of 202599'),
    ('dataset.max_labels=all', 'dataset.max_labels "all" (config.py: 0)'),
    ('G.fmap_base=4096', 'G.fmap_base 4096 (config.py: 2048)'),
    ('G.fmap_decay=0.5', 'G.fmap_decay 0.5 (config.py: 1.0)'),          # A default of the signature.
    ('D.mbstat_avg=all', 'D.mbstat_avg "all" (config.py: null)'),
    ('loss.type=lsgan', 'loss.type "lsgan" (config.py: "iwass")'),
    ('loss.iwass_target=750', 'loss.iwass_target 750 (config.py: 1.0)'),
])
def test_other_data_networks_or_losses_are_refused_or_marked(tmp_path, override, told):
    run = fake_run(tmp_path / 'run', ROW, RESULTS, overrides=[override])
    made = material_of(tmp_path, run)
    tables.table1(made, 'table1')
    assert len(made.refused) == 1 and made.refused[0].startswith(f'{run.path} is not {ROW}: {told}')
    assert '\n' not in made.refused[0] and '--allow-other' in made.refused[0] and not made.files
    made = material_of(tmp_path, run, allow_other=True)
    tables.table1(made, 'table1')
    assert not made.refused and our_rows(tmp_path)[0].startswith('|  |  | ours, NOT the experiment |')
    entry, = entries_of(tmp_path, 'table1')
    assert entry['other'] == [told]
    for suffix in ('md', 'tex'):
        assert 'row d (NOT the experiment)' in (tmp_path / 'out' / f'table1.{suffix}').read_text()


@pytest.mark.parametrize('override, told', [
    ('train.total_kimg=4000', 'train.total_kimg 4000 (config.py: 10000)'),
    ('train.minibatch_default=8', 'train.minibatch_default 8 (config.py: 16)'),
    ('train.adam_beta2=0.9', 'train.adam_beta2 0.9 (config.py: 0.99)'),
    ('random_seed=5', None), ('dataset.cache_gb=0', None), ('train.network_snapshot_ticks=3', None),
    ('dataset.max_images=202599', None), ('dataset.h5_path=elsewhere/celeba-128x128.h5', None)])
def test_other_trainings_are_shown_and_described(tmp_path, override, told):
    made = material_of(tmp_path, fake_run(tmp_path / 'run', ROW, RESULTS, overrides=[override]))
    tables.table1(made, 'table1')
    assert not made.refused
    assert our_rows(tmp_path)[0].startswith('|  |  | ours, differs: see below |' if told else '|  |  | ours |')
    entry, = entries_of(tmp_path, 'table1')
    assert entry['differs'] == ([told] if told else []) and entry['other'] == []
    assert (told or '| - |') in (tmp_path / 'out' / 'table1.md').read_text()


def test_a_run_of_another_row_or_data_set_is_refused(tmp_path):
    other = fake_run(tmp_path / 'run', ROW, RESULTS, name='table1-lsun-bedroom-d-revised-training')
    made = material_of(tmp_path, other, fake_run(tmp_path / 'good', ROW, RESULTS))
    tables.table1(made, 'table1')
    assert len(made.refused) == 1 and 'celeba-128x128.h5' in made.refused[0]
    assert [entry['run'] for entry in entries_of(tmp_path, 'table1')] == [str(tmp_path / 'good')]  # The other one.


def test_the_number_of_images_is_read_from_the_file(tmp_path):
    dataset_tool.create_synthetic(str(tmp_path / 'celeba-128x128.h5'), resolution=128, num_images=3)
    run = fake_run(tmp_path / 'run', ROW, RESULTS)
    made = material_of(tmp_path, run)
    assert made.all_runs(ROW) == [] and '3 training images instead of 202599' in made.refused[0]
    made = material_of(tmp_path, run, allow_other=True)
    assert made.show('x', run, ROW).data == 'celeba-128x128.h5, 3 images, 128x128, mirrored'
    # Any images will do if only the speed is shown.
    timed = fake_run(tmp_path / 'timed', 'figure4c-growing', overrides=['dataset.h5_path=mine.h5'])
    assert material_of(tmp_path, timed).all_runs('figure4c-growing') == [timed]


def test_configurations_that_cannot_be_read_are_other_experiments(tmp_path):
    for number, change in enumerate([{'G': {'func': 'os.system'}}, {'G': None}, {'D': {}}, {'loss': 3}]):
        run = fake_run(tmp_path / str(number), ROW, RESULTS)
        own = run.own_config()
        (tmp_path / str(number) / 'config.txt').write_text(repr({**own, **change}))
        made = material_of(tmp_path, run)
        assert made.all_runs(ROW) == [] and len(made.refused) == 1


def test_a_pickle_is_known_by_the_config_beside_it_or_by_its_network(tmp_path):
    run = fake_run(tmp_path / 'run', ROW)
    assert material.Run(str(tmp_path / 'run' / 'karras.pkl'), 'lsun-cat').own_config() is None    # Foreign.
    pickle = material.Run(str(tmp_path / 'run' / 'network-final.pkl'), 'lsun-cat')
    assert pickle.own_config() == run.own_config()
    assert 'celeba-128x128.h5' in material_of(tmp_path, pickle).compared(pickle, 'lsun-cat').other[0]

    def compared(shape, **options):
        return entries.compare(config, 'lsun-cat', None, 'net.pkl', str(tmp_path), train.train_gan, (shape, options))

    assert compared([3, 256, 256], fmap_base=8192, latent_size=None).other == []
    assert compared([3, 256, 256]).data == 'training and dataset unknown'
    assert compared([3, 128, 128]).other == ['images of 128x128, colour instead of 256x256, colour']
    assert compared([1, 256, 256]).other == ['images of 256x256, grey instead of 256x256, colour']
    assert compared([3, 256, 256], label_size=10).other == ['a network for 10 classes']
    assert compared([3, 256, 256], fmap_base=2048).other == ['G.fmap_base 2048 (config.py: 8192)']


# ----------------------------------------------------------------------------------------------------------------------
# Choice of networks and results.


def test_the_final_networks_count_even_if_others_were_evaluated(tmp_path):
    results = [swd(400.0, 'network-snapshot-000000', 0.64), swd(9.0, num_images=512), ms_ssim(0.4)]
    run = fake_run(tmp_path / 'run', ROW, results, snapshots=('network-snapshot-000000', 'network-final'))
    made = material_of(tmp_path, run)
    tables.table1(made, 'table1')
    assert our_rows(tmp_path) == ['|  |  | ours, differs: see below | 9.00 | 9.00 | 9.00 | 9.00 | 9.00 | 0.4000 |']
    assert 'swd of 512 images (paper: 16384)' in (tmp_path / 'out' / 'table1.md').read_text()
    early = material.Run(run.path, ROW, '0')
    assert early.swd()['avg'] == 400.0
    entry = material_of(tmp_path, early).show('x', early, ROW, results=[early.result('swd')])
    assert (entry.snapshot, entry.kimg, entry.planned_kimg) == ('network-snapshot-000000', 0.64, 10000)
    assert '0.64 of 10000 kimg' in entry.caption()


def test_the_last_evaluation_with_the_most_images_counts(tmp_path):
    run = fake_run(tmp_path / 'run', ROW, [swd(1.0, num_images=100), swd(2.0), swd(3.0, num_images=500),
                                           swd(4.0, seconds=1.0)])
    assert run.swd()['avg'] == 4.0 and run.values('fid') == {} and run.result('fid') is None
    # A curve uses a single number of images: the one with the most points.
    run = fake_run(tmp_path / 'curve', ROW, [swd(1.0), *(
        swd(2.0, f'network-snapshot-{kimg:06d}', float(kimg), 2000) for kimg in (300, 100, 200))])
    assert [entry['kimg'] for entry in run.series('swd')] == [100, 200, 300]


@pytest.mark.parametrize('change', [
    {'num_images': None}, {'num_images': '16384'}, {'kimg': 'many'}, {'kimg': float('nan')}, {'seconds': []},
    {'values': {}}, {'values': {'SWDx1e3_avg': None}}, {'values': {'SWDx1e3_avg': 'low'}}, {'snapshot': 3}])
def test_lines_that_are_no_results_are_passed_over(tmp_path, change):
    run = fake_run(tmp_path / 'run', ROW, [swd(1.0)])
    line = json.loads((tmp_path / 'run' / 'metrics.jsonl').read_text())
    (tmp_path / 'run' / 'metrics.jsonl').write_text(json.dumps({**line, 'num_images': 50000, **change}) + '\n')
    assert run.result('swd') is None and run.series('swd') == []


def test_results_of_networks_that_were_replaced_do_not_count(tmp_path):
    run = fake_run(tmp_path / 'run', ROW)
    digest = identity.of_file(tmp_path / 'run' / 'network-final.pkl')
    for network, is_shown in (('0123456789abcdef', False), (digest, True), ('values-0123', True), (None, True)):
        line = dict(zip(('metric', 'snapshot', 'kimg', 'seconds', 'num_images', 'values'), swd(1.0), strict=False))
        (tmp_path / 'run' / 'metrics.jsonl').write_text(json.dumps({**line, 'random_seed': 1, 'network': network}))
        assert bool(material.Run(run.path, ROW).result('swd')) == is_shown


def test_a_training_that_stopped_has_no_final_networks(tmp_path):
    run = fake_run(tmp_path / 'run', ROW, [swd(1.0, 'network-snapshot-000400', 400.0)], [(9.0, 412.0, 128, 0.0)],
                   snapshots=('network-snapshot-000400',))
    made = material_of(tmp_path, run)
    assert made.images(run, ROW, [0]) == [] and run.result('swd') is None
    need, = made.needs
    assert 'which stopped at kimg 412' in need.what and need.command == f'python train.py --resume {run.path}'
    assert material.Run(run.path, ROW, 'latest').swd()['avg'] == 1.0


# ----------------------------------------------------------------------------------------------------------------------
# Missing runs, and results of reals.


def test_missing_runs_have_different_seeds(tmp_path):
    runs = [fake_run(tmp_path / str(seed), 'cifar10', overrides=[f'random_seed={seed}']) for seed in (1000, 1002)]
    made = material_of(tmp_path, *runs, result_dir='my runs')
    assert made.all_runs('cifar10', count=5) == runs
    need, = made.needs
    assert need.what == '3 more runs of cifar10, --set random_seed=N with 1001 1003 1004'
    assert need.command == (f'python train.py --experiment cifar10 --data-dir {tmp_path} --result-dir \'my runs\' '
                            '--set random_seed=1001')
    assert need.data == str(tmp_path / 'cifar10-32x32.h5')
    chosen = train.parse_arguments(config, ['--experiment', 'cifar10', '--set', 'random_seed=1001'])
    assert chosen.overrides == ['random_seed=1001']


def test_the_floor_is_that_of_the_same_reals(tmp_path):
    run = fake_run(tmp_path / 'run', ROW, [swd(8.0, data='mine'), ms_ssim(0.3)])
    other = fake_run(tmp_path / 'other', ROW, [swd(8.0, data='others'), ms_ssim(0.3)])

    def add(folder, value, data, num_images=16384):
        line = {'metric': 'swd', 'snapshot': 'reals', 'num_images': num_images, 'random_seed': 1000, 'data': data,
                'kimg': None, 'seconds': None, 'values': {'SWDx1e3_avg': value}}
        with open(f'{folder.path}/metrics-reals.jsonl', 'a') as file:
            file.write(json.dumps(line) + '\n')

    add(other, 9.0, 'others')
    made = material_of(tmp_path, run, other)
    assert made.floor([run], 'swd') is None
    add(run, 2.0, 'mine', 100)
    add(run, 1.5, 'mine')
    add(run, 9.5, 'others')
    assert made.floor([run], 'swd')['values'] == {'SWDx1e3_avg': 1.5} and made.floor([run, other], 'swd') is None
    made.runs.remove(other)
    tables.table1(made, 'table1')
    assert '| reals (swd: 16384 images) | floor |  |  |  |  | 1.50 |  |' in (tmp_path / 'out' / 'table1.md').read_text()
    assert [need.command for need in made.needs if need.command.endswith('--reals') or '--reals ' in need.command] == [
        f'python evaluate_metrics.py {run.path} --metrics ms_ssim --reals --data-dir {tmp_path}']


def test_unknown_experiments_are_errors(tmp_path):
    with pytest.raises(UserError, match="did you mean 'lsun-cat'"):
        material.recognise(config, f'lsun-catt={tmp_path}')
