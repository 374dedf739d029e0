"""figures: figures are made from the given runs; for missing ones, the commands are listed."""

import json
import os
import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

import config
import dataset_tool
import evaluate_metrics
import figures
import theano_env
import train
from common.errors import UserError
from common.images import save_image
from metrics import evaluation
from paper import material, numbers, output
from paper.pictures import caption_of
from runs.records import read_config
from training import experiment
from training.options import resolve_config

LEVELS = ('128', '64', '32', '16', 'avg')
NOTHING_NEEDED = ('table2', 'figure1', 'figure2')
OTHER = '--allow-other'       # The tiny runs differ from the paper's experiments.


# ----------------------------------------------------------------------------------------------------------------------
# A tiny run, and copies of it that stand for the experiments of the paper, with made-up metrics.


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(run folder, data folder) of a training of a few steps on the demo's digits."""
    import theano
    root, before = tmp_path_factory.mktemp('trained'), theano.config.mode
    dataset_tool.create_digits(str(root / 'digits-16x16.h5'), resolution=16)
    chosen = resolve_config(config, 'digits', [
        'dataset.max_labels=0', 'G.fmap_base=32', 'G.fmap_max=8', 'G.latent_size=8', 'D.fmap_base=32', 'D.fmap_max=8',
        'train.lod_initial_resolution=16', 'train.total_kimg=0.4', 'train.lod_training_kimg=0',
        'train.lod_transition_kimg=0', 'train.tick_kimg_default=0.1', 'train.image_grid_type=default', 'metrics=[]'])
    chosen['loss'] = {'type': 'iwass'}
    run_dir = experiment.run_experiment(chosen, str(root), str(root / 'results'), 'torch', {'device': 'cpu'},
                                        show_progress=False, train_gan=train.train_gan)
    theano.config.mode = before
    return pathlib.Path(run_dir), root


def copy_run(trained, folder, desc, results=(), stats=None):
    """Copy a run with description `desc` and `results` [(metric, snapshot, kimg, seconds, num_images, values)]."""
    shutil.copytree(trained[0], folder)
    chosen = read_config(folder)
    (folder / 'config.txt').write_text(repr({**chosen, 'desc': desc}))
    keys = ('metric', 'snapshot', 'kimg', 'seconds', 'num_images', 'values')
    lines = [json.dumps({**dict(zip(keys, line, strict=True)), 'random_seed': 1000}) for line in results]
    (folder / 'metrics.jsonl').write_text(''.join(line + '\n' for line in lines))
    if stats is not None:
        (folder / 'stats.jsonl').write_text(''.join(json.dumps(dict(zip(('seconds', 'kimg', 'resolution'), line,
                                                                        strict=True))) + '\n' for line in stats))
    return folder


def swd_results(scale, num_images=16384):
    """Results of SWD that decrease over four snapshots."""
    return [('swd', 'network-final' if index == 3 else f'network-snapshot-{index:06d}', 2500.0 * index, 7200.0 * index,
             num_images, {'SWDx1e3_' + level: scale * (4 - index) + number for number, level in enumerate(LEVELS)})
            for index in range(4)]


def one_result(metric, num_images, **values):
    return (metric, 'network-final', 10.0, 100.0, num_images, values)


@pytest.fixture(scope='module')
def runs(trained, tmp_path_factory):
    """Result folder with runs for some of the figures."""
    root = tmp_path_factory.mktemp('results')
    growth = [(1000.0 * tick, 500.0 * tick, 4 * 2 ** min(tick // 4, 5)) for tick in range(1, 25)]
    copy_run(trained, root / '000-a', 'table1-celeba-a-gulrajani',
             [*swd_results(1), one_result('ms_ssim', 20000, **{'MS-SSIM': 0.2987})])
    copy_run(trained, root / '001-b', 'table1-celeba-b-growing',
             [*swd_results(0.5, 2000), one_result('ms_ssim', 20000, **{'MS-SSIM': 0.3123})], growth)
    for number, score, highest in ((2, 8.123, 9.2), (3, 8.323, 9.1)):
        copy_run(trained, root / f'{number:03d}-cifar', 'cifar10', [
            ('inception_score', 'network-snapshot-000005', 5.0, 50.0, 50000, {'IS_mean': highest, 'IS_std': 0.08}),
            one_result('inception_score', 50000, IS_mean=score, IS_std=0.07)])
    (root / '003-cifar' / 'metrics-reals.jsonl').write_text(json.dumps({
        'metric': 'inception_score', 'snapshot': 'reals', 'num_images': 50000, 'random_seed': 1000, 'kimg': None,
        'values': {'IS_mean': 11.24, 'IS_std': 0.12}}) + '\n')
    for number, (modes, divergence) in ((4, (900.5, 1.01)), (5, (910.5, 1.11))):
        copy_run(trained, root / f'{number:03d}-modes', 'mnist-modes-k4-mb-stddev', [one_result(
            'mnist_modes', 256000, modes_mean=modes, modes_std=1.0, KL_mean=divergence, KL_std=0.1)])
    copy_run(trained, root / '006-face', 'celeba-hq-1024',
             [*swd_results(2), one_result('fid', 50000, FID=7.89)])
    # Growing takes 1, 2, ..., 256 sec/kimg at 4x4, 8x8, ..., 1024x1024. Without growing, always 256.
    growing = [(10.0 * (2 ** (stage + 1) - 1), 10.0 * (stage + 1), 4 * 2 ** stage) for stage in range(9)]
    copy_run(trained, root / '007-fast', 'figure4c-growing', stats=growing)
    copy_run(trained, root / '008-slow', 'figure4c-nogrowing', stats=[(2560.0 * k, 10.0 * k, 1024) for k in (1, 2)])
    copy_run(trained, root / '009-bedroom', 'lsun-bedroom')
    return root


@pytest.fixture(scope='module')
def stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stages')
    for number, step in enumerate(('decoded', 'crop', 'transform', 'delta')):
        pixels = np.random.RandomState(number).randint(0, 256, size=(3, 90, 60 + 30 * number)).astype(np.uint8)
        save_image(pixels, str(folder / f'{number:02d}-{step}.png'), (0, 255))
    return folder


def run_main(*arguments):
    import theano
    before = theano.config.mode
    try:
        return figures.main([*map(str, arguments), '--engine', 'torch'])
    finally:
        theano.config.mode = before


@pytest.fixture(scope='module')
def made(runs, stages, trained, tmp_path_factory):
    """Folder of all figures of these runs."""
    out = tmp_path_factory.mktemp('figures')
    given = [argument for path in sorted(runs.iterdir()) for argument in ('--run', path)]
    assert run_main('all', *given, '--out', out, '--stages', stages, '--data-dir', trained[1], OTHER) == 0
    return out


# ----------------------------------------------------------------------------------------------------------------------
# Figures that can be made.

PICTURES = ['figure1', 'figure2', 'figure3', 'figure4a', 'figure4b', 'figure4c', 'figure5', 'figure6', 'figure8',
            'figure9', 'figure10', 'figure11', 'figure12', 'appendix-h-celeba-a', 'appendix-h-celeba-b']


def test_exactly_the_figures_of_the_given_runs_are_made(made):
    plots = [name for name in PICTURES if name.startswith(('figure1', 'figure2', 'figure4'))]
    expected = {name + '.png' for name in PICTURES}
    expected |= {name + '.pdf' for name in plots if name not in ('figure10', 'figure11', 'figure12')}
    expected |= {f'table{number}.{suffix}' for number in (1, 2, 3, 4) for suffix in ('md', 'tex')}
    expected |= {path.rpartition('.')[0] + '.json' for path in expected}
    assert {path.name for path in made.iterdir()} == expected


@pytest.mark.parametrize('name', PICTURES)
def test_pictures_are_not_blank(made, name):
    with Image.open(made / (name + '.png')) as picture:
        pixels = np.asarray(picture.convert('L'))
    assert min(pixels.shape) > 100
    assert pixels.std() > 10
    # No quarter of the picture is blank.
    for rows in np.array_split(pixels, 2, axis=0):
        assert all(part.std() > 5 for part in np.array_split(rows, 2, axis=1))


@pytest.mark.parametrize('name', ['figure1', 'figure2', 'figure4a', 'figure4b', 'figure4c'])
def test_plots_are_also_pdf(made, name):
    content = (made / (name + '.pdf')).read_bytes()
    assert content.startswith(b'%PDF') and b'CreationDate' not in content


def rows_of(path):
    """Cells of the lines of Markdown tables."""
    lines = [line for line in path.read_text().split('\n') if line.startswith('| ')]
    return [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]] for line in lines]


def test_table_1_has_our_numbers_below_those_of_the_paper(made):
    rows = rows_of(made / 'table1.md')
    paper = next(index for index, row in enumerate(rows) if row[0] == 'b')
    assert rows[paper][2:] == ['paper', '4.62 <sup>M+</sup>', '2.64 <sup>M+</sup>', '3.78 <sup>M+</sup>',
                               '6.06 <sup>M+</sup>', '4.28 <sup>S2</sup>', '0.2838 <sup>M+</sup>']
    assert rows[paper + 1][2:] == ['ours, NOT the experiment', '0.50', '1.50', '2.50', '3.50', '4.50', '0.3123']
    assert sum(row[2] == 'paper' for row in rows) == 18 and sum(row[2].startswith('ours') for row in rows) == 2
    text = (made / 'table1.md').read_text()
    assert 'swd of 2000 images (paper: 16384)' in text and 'M+: recalled' in text and 'row h is a guess' in text


def test_table_2_is_exact(made):
    rows = [row for row in rows_of(made / 'table2.md') if row[4].isdigit()]
    assert all(row[5] == row[4] + ' <sup>C</sup>' for row in rows)
    totals = [row[4] for row in rows if row[0].startswith('total')]
    assert totals == ['23071507', '23079115', '23077137', '23087249']
    assert ['conv 4×4', 'LReLU, pixel norm', '512 × 4 × 4', '4.2M', '4194816'] in [row[:5] for row in rows]
    assert ['toRGB, conv 1×1', 'linear', '3 × 1024 × 1024', '51'] in [row[:4] for row in rows]
    # G normalizes the latents and after each 3x3 and 4x4 convolution; D never does.
    assert sum('pixel norm' in row[1] for row in rows_of(made / 'table2.md')) == 19


def test_table_3_has_the_best_and_the_mean_run(made):
    rows = rows_of(made / 'table3.md')
    ours = 'ours, NOT the experiment'
    assert ['unsupervised', f'{ours}, best of 2 runs, highest during training', '9.20 ± 0.08'] in rows
    assert ['unsupervised', f'{ours}, mean of 2 runs, highest during training', '9.15 ± 0.07'] in rows
    assert ['unsupervised', f'{ours}, best of 2 runs, final networks', '8.32 ± 0.07'] in rows
    assert ['unsupervised', f'{ours}, mean of 2 runs, final networks', '8.22 ± 0.14'] in rows
    assert ['floor', 'reals (inception_score: 50000 images)', '11.24 ± 0.12'] in rows
    assert ['unsupervised', 'Progressive GAN, best run', '8.80 ± 0.05 <sup>S1</sup>'] in rows


def test_table_4_has_mean_and_deviation_over_runs(made):
    rows = rows_of(made / 'table4.md')
    ours = 'ours, NOT the experiment'
    assert ['', '', ours, '', '', '', '', '905.5 ± 7.1', ''] in rows
    assert ['', '', ours, '', '', '', '', '1.06 ± 0.07', ''] in rows
    assert sum(row[2] == 'paper' for row in rows) == 4


def test_table_1_of_real_metrics(trained, tmp_path, engine_torch):
    folder = copy_run(trained, tmp_path / 'run', 'table1-lsun-bedroom-d-revised-training')
    evaluated = evaluation.evaluate_run(
        str(folder), ['swd', 'ms_ssim'], lambda: experiment.open_dataset(read_config(str(folder)), str(trained[1])),
        str(tmp_path / 'cache'), num_images=64)
    values = {name: value for entry in evaluated for name, value in entry['values'].items()}
    assert run_main('table1', '--run', folder, '--out', tmp_path, OTHER) == 0
    row, = [row for row in rows_of(tmp_path / 'table1.md') if row[2].startswith('ours')]
    # Images of 16x16 have no finer levels.
    assert row[3:] == ['', '', '', f'{values["SWDx1e3_16"]:.2f}', f'{values["SWDx1e3_avg"]:.2f}',
                       f'{values["MS-SSIM"]:.4f}']


@pytest.mark.parametrize('number', [1, 2, 3, 4])
def test_latex_has_the_same_cells(made, number):
    text = (made / f'table{number}.tex').read_text()
    assert text.count('{') == text.count('}')
    assert not re.search(r'(?<!\\)[%#_^]', text)
    assert text.count(r'\begin{tabular}') == text.count(r'\end{tabular}') > 0
    body = [line for line in text.split('\n') if line.endswith(r'\\')]
    header = [row for row in rows_of(made / f'table{number}.md') if not set(row) <= {'---', '---:'}]
    assert [line.count('&') + 1 for line in body] == [len(row) for row in header]


def test_captions_have_metrics_beside_the_paper(runs):
    run = material.Run(str(runs / '006-face'), 'celebahq-1024')
    assert caption_of(run, 'Faces', True) == (
        'Faces. SWD x 1000: 2.00 (paper 3.51) at 128, 3.00 (paper 3.55) at 64, 4.00 (paper 3.02) at 32, 5.00 (paper '
        '7.22) at 16, 6.00 (paper 5.44) on average. FID 7.89 (paper 7.30)')
    assert caption_of(run, 'Faces', False) == 'Faces'
    few = material.Run(str(runs / '001-b'), 'lsun-cow')
    assert caption_of(few, 'Cows', True).endswith(
        '0.50 at 128, 1.50 at 64, 2.50 at 32, 3.50 at 16, 4.50 on average. swd of 2000 images (paper: 16384)')


# ----------------------------------------------------------------------------------------------------------------------
# Figures that cannot be made.


def missing_lines(text):
    """[(what, figures, command)] of the groups below 'Missing'; each name of a group makes a command of its own."""
    found = []
    for group in text.partition('\nMissing, by the command that makes it:\n')[2].strip().split('\n\n'):
        command, *lines = re.sub(r'\n {6}', ' ', group).split('\n')
        what = lines.pop(0).strip() if not lines[0].startswith('  for ') else 'dataset' if '.h5' in command else 'run'
        for line in lines:
            figures_, _colon, names = re.fullmatch('  for ([^:]+)(: )?(.*)', line).groups()
            for name in names.split(', '):
                own = re.sub(r'\bNAME\b', name, command).replace('random_seed=N', 'random_seed=1000')
                found.append((re.sub(r'\bNAME\b', name, what), figures_, own))
    return found


def check_command(command):
    """Check that the script accepts a command line."""
    python, script, *arguments = shlex.split(command)
    assert python == 'python'
    if script == 'train.py':
        resolve_config(config, train.parse_arguments(config, arguments).experiment)
    elif script == 'evaluate_metrics.py':
        evaluate_metrics.parse_arguments(config, arguments)
    elif script == 'train_classifier.py':
        assert arguments[0].endswith('.h5') and arguments[1] == 'classifier.npz' and len(arguments) == 2
    else:
        assert script == 'dataset_tool.py'
        dataset_tool.parse_arguments(arguments)


def test_without_runs_everything_else_is_listed_with_its_command(tmp_path, capsys):
    assert run_main('all', '--out', tmp_path) == 0
    out = capsys.readouterr().out
    missing = missing_lines(out)
    assert out.count('python train.py --experiment') == 3 and out.count('create_lsun') < 5       # Grouped.
    assert all(len(line) <= 80 for line in out.partition('Missing')[2].split('\n') if line.startswith(' '))
    listed = {name for _what, names, _command in missing for name in names.split(', ')}
    assert listed == set(figures.FIGURES) - {'table2', 'figure2'}
    assert {path.stem for path in tmp_path.iterdir()} == set(NOTHING_NEEDED)
    for _what, _names, command in missing:
        check_command(command)
    commands = [command for _what, _names, command in missing]
    assert len(commands) == len(set(commands))
    wanted = {name for figure in figures.FIGURES.values() for name in figure.experiments}
    assert wanted <= {command.split()[3] for command in commands if command.startswith('python train.py')}


def test_missing_metrics_are_listed_with_the_command(runs, tmp_path, capsys):
    # These runs have status lines and snapshots, but lack the metrics of the figures.
    assert run_main('table1', 'figure4a', 'table3', 'figure12', '--out', tmp_path, OTHER,
                    '--run', f'cifar10={runs / "009-bedroom"}',
                    '--run', f'table1-celeba-a-gulrajani={runs / "002-cifar"}', '--run', runs / '009-bedroom') == 0
    commands = {command for _what, _names, command in missing_lines(capsys.readouterr().out)}
    for line in (f'{runs / "002-cifar"} --metrics swd ms_ssim --only-final',
                 f'{runs / "002-cifar"} --metrics swd',
                 f'{runs / "009-bedroom"} --metrics inception_score',
                 f'{runs / "009-bedroom"} --metrics swd fid --only-final'):
        assert 'python evaluate_metrics.py ' + line in commands
        check_command('python evaluate_metrics.py ' + line)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['figure12.json', 'figure12.png']


def test_commands_for_metrics_have_all_options(runs, tmp_path, capsys):
    assert run_main('table4', '--out', tmp_path, '--data-dir', 'my data', OTHER,
                    '--run', f'mnist-modes-k2-our-norm={runs / "009-bedroom"}') == 1     # Nothing was made.
    missing = missing_lines(capsys.readouterr().out)
    for _what, _names, command in missing:
        check_command(command)
        assert 'my data' in command
    assert any(command.startswith('python train_classifier.py') for _what, _names, command in missing)
    command, = [command for what, _names, command in missing if what.startswith('mnist_modes')]
    assert command.endswith("--metrics mnist_modes --only-final --classifier classifier.npz --data-dir 'my data'")
    check_command(command)


def test_missing_dataset_and_stages_are_listed(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)     # A folder without datasets.
    face = tmp_path / 'face'
    shutil.copytree(runs / '006-face', face)
    (face / 'config.txt').write_text(repr({**read_config(face), 'run': {}}))     # Without the recorded data folder.
    assert run_main('figure10', 'figure8', '--out', tmp_path, '--run', face, '--data-dir', tmp_path,
                    '--stages', tmp_path / 'none', OTHER) == 1
    missing = {(what, command.split()[2]): command for what, _names, command in missing_lines(capsys.readouterr().out)}
    for command in missing.values():
        check_command(command)
    assert [key for key in missing if key[0] == 'dataset'] == [
        ('dataset', 'create_digits'), ('dataset', 'create_celebahq')]
    stages = f'--stages {tmp_path / "none"}: the folder has no PNG files of the stages of an image'
    assert missing[stages, 'create_celebahq'].endswith(f'--save_stages {tmp_path / "none"}')


def test_one_failure_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__('sys').modules, 'matplotlib.figure', None)
    assert run_main('figure2', 'table2', '--out', tmp_path) == 1
    assert 'figure2: error: plots and drawings need matplotlib' in capsys.readouterr().err
    assert (tmp_path / 'table2.md').exists()


# ----------------------------------------------------------------------------------------------------------------------
# Runs on the command line.


def test_runs_are_recognised(runs):
    for argument in ('6', '006-face', str(runs / '006-face')):
        run = material.recognise(config, argument, str(runs))
        assert (run.name, pathlib.Path(run.path)) == ('celebahq-1024', runs / '006-face')
    assert material.recognise(config, 'latest', str(runs), 'final').snapshot == 'final'
    with pytest.raises(UserError, match='snapshot=77: .*006-face has no such snapshot'):
        material.recognise(config, '6', str(runs), '77')
    pkl = runs / '006-face' / 'network-final.pkl'
    assert material.recognise(config, str(pkl)).name is None
    named = material.recognise(config, f'lsun-cat={pkl}')
    assert (named.name, named.path, named.folder) == ('lsun-cat', str(pkl), None)
    assert material.experiment_called(config, 'cifar10-cond') == 'cifar10-cond'
    assert material.experiment_called(config, 'mine') is None


@pytest.mark.parametrize('argument, message', [
    ('lsun-catt=9', "did you mean 'lsun-cat'"),
    ('cifar10=77', 'no such run in'),
    ('nowhere.pkl', 'nowhere.pkl: no such file'),
])
def test_unknown_runs_are_errors(runs, tmp_path, capsys, argument, message):
    assert run_main('figure9', '--out', tmp_path, '--result-dir', runs, '--run', argument) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.strip().split('\n')) == 1


def test_unknown_figures_are_errors(capsys):
    assert run_main('figure33') == 1
    assert "did you mean 'figure3'?" in capsys.readouterr().err


def test_a_nameless_network_stands_for_the_experiment_of_the_figure(runs, tmp_path, capsys):
    pkl = runs / '006-face' / 'network-final.pkl'
    assert run_main('figure11', '--run', pkl, '--seeds', '3,5-9', '--out', tmp_path, OTHER) == 0
    assert 'Missing' not in capsys.readouterr().out
    with Image.open(tmp_path / 'figure11.png') as picture:
        assert picture.width >= 6 * 256
    assert run_main('figure3', '--run', pkl, '--out', tmp_path) == 1
    assert f'{pkl}: which experiment is this; to use it, give --run EXPERIMENT={pkl}' in capsys.readouterr().out
    assert run_main('table2', '--run', f'digits={pkl}', '--out', tmp_path) == 0
    assert f'{pkl}: no figure shows runs of digits' in capsys.readouterr().out


def test_a_seed_is_the_same_image_in_any_company(runs, engine_torch):
    first, second = (material.Run(str(runs / name), None) for name in ('000-a', '001-b'))
    together, alone = first.images([3, 5, 7]), second.images([5])
    np.testing.assert_array_equal(together[1], alone[0])
    assert (together[0] != together[1]).any()
    np.testing.assert_array_equal(first.images([7, 3]), [together[2], together[0]])


@pytest.fixture
def engine_torch():
    import theano
    before = theano.config.mode
    theano_env.configure('torch', {'device': 'cpu'})
    yield
    theano.config.mode = before


def test_pictures_describe_their_runs_and_refuse_others(runs, trained, tmp_path, capsys, monkeypatch):
    captions = []
    captioned = output.captioned
    monkeypatch.setattr(output, 'captioned', lambda picture, text, *args: (
        captions.append(text), captioned(picture, text, *args))[1])
    folder = runs / '006-face'
    for given in (folder, f'celebahq-1024={folder / "network-final.pkl"}'):
        assert run_main('figure5', 'figure10', 'figure11', '--run', given, '--out', tmp_path / 'none', '--seeds', '1,2',
                        '--data-dir', trained[1]) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if ': error: ' in line]
        assert len(errors) == 3 and all('is not celebahq-1024' in line and OTHER in line for line in errors)
        assert not os.listdir(tmp_path / 'none') and not captions
    assert run_main('figure5', 'figure10', 'figure11', '--run', folder, '--out', tmp_path, '--seeds', '1,2',
                    '--data-dir', trained[1], OTHER) == 0
    below = [text for text in captions if '006-face; network-final; ' in text]
    assert len(below) == 3 and all(
        'of 19000 kimg; digits-16x16.h5, 1797 images, 16x16; 1 run; seed 1000' in text and 'NOT celebahq-1024: ' in text
        for text in below)
    assert captions[0] == 'CelebA-HQ, NOT celebahq-1024'
    for name in ('figure5', 'figure10', 'figure11'):
        entry, = json.loads((tmp_path / f'{name}.json').read_text())['entries']
        assert entry['run'] == str(folder) and entry['other'] and entry['experiment'] == 'celebahq-1024'
    assert json.loads((tmp_path / 'figure11.json').read_text())['entries'][0]['images'] == {'swd': 16384, 'fid': 50000}


def test_plots_and_tables_describe_their_runs(made):
    for name in figures.FIGURES:
        if (made / f'{name}.json').exists():
            document = json.loads((made / f'{name}.json').read_text())
            assert bool(document['entries']) == (name not in ('table2', 'figure2', 'figure8')), name
    assert all('Runs behind our numbers' in (made / f'table{number}.{suffix}').read_text()
               for number in (1, 3, 4) for suffix in ('md', 'tex'))


def test_networks_of_another_loss_do_not_replace_the_figures(runs, trained, tmp_path, capsys):
    """Figure 1 shows networks of the LSGAN loss; others need --allow-other. Without a run it is only a drawing."""
    arguments = ['figure1', '--run', runs / '006-face', '--out', tmp_path, '--data-dir', trained[1]]
    assert run_main(*arguments) == 0
    assert 'python train.py --experiment celebahq-1024-lsgan' in capsys.readouterr().out
    assert json.loads((tmp_path / 'figure1.json').read_text())['entries'] == []
    assert run_main(*arguments, OTHER) == 0
    entry, = json.loads((tmp_path / 'figure1.json').read_text())['entries']
    assert any(text.startswith('loss.type "iwass"') for text in entry['other'])


def test_the_best_of_several_runs_is_shown(made):
    entry, = json.loads((made / 'figure9.json').read_text())['entries']
    assert entry['run'].endswith('002-cifar') and 'chosen from 2 runs: ' in entry['notes'][0] and '9.20' in str(
        entry['notes'])


def test_a_run_given_twice_is_one(runs):
    given = [material.Run(str(runs / '000-a'), name) for name in ('cifar10', 'cifar10', 'cifar10-cond')]
    given.append(material.Run(f'{runs / "000-a"}{os.sep}', 'cifar10'))
    assert figures.without_repeats(given) == [given[0], given[2]]


# ----------------------------------------------------------------------------------------------------------------------
# Details.


def test_pictures_keep_pixels_or_shrink():
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    assert output.sized(image, 30).size == (32, 32)
    assert output.sized(np.zeros((3, 256, 128), np.uint8), 64).size == (32, 64)
    grid = np.asarray(output.image_grid([image, image + 100, image], 2, 8))
    assert grid.shape == (16, 16, 3) and grid[0, 8, 0] == 100 and grid[8:, 8:].max() == 0


def test_averages_of_table_1_are_those_of_its_cells():
    for rows in numbers.TABLE1.values():
        for row in rows.values():
            # The table shows two decimals.
            assert abs(np.mean([row[level].value for level in LEVELS[:4]]) - row['avg'].value) < 0.0051


def test_every_figure_is_described(capsys):
    assert run_main('--list') == 0
    text = capsys.readouterr().out
    for name, figure in figures.FIGURES.items():
        assert re.search(f'^{name} +{re.escape(figure.shows)}$', text, re.MULTILINE)
        assert set(figure.experiments) <= {*config.experiments, 'cifar10-cond'}
    assert [name for name in figures.FIGURES if name.startswith('figure')] == [
        'figure1', 'figure2', 'figure3', 'figure4a', 'figure4b', 'figure4c',
        *(f'figure{number}' for number in range(5, 18))]
