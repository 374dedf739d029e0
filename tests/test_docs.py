"""README and docs: links lead somewhere, the examples run, every layer is described."""

import ast
import importlib.util
import re
from urllib.parse import unquote

import theano_torch

import numpy as np
import pytest
import theano

from tests.helpers import ROOT
from tests.test_house import LAYERS, MODULES

PAGES = [path for pattern in ('*.md', 'docs/*.md', 'theano_torch/*.md', 'benchmarks/*.md', 'results/*.md')
         for path in sorted(ROOT.glob(pattern))]
LINK = re.compile(r'(?<!`)\[[^\]]*\]\(([^)\s]+)\)')
BLOCK = re.compile(r'^( *)```(\w*)\n(.*?)^ *```', re.MULTILINE | re.DOTALL)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def anchor(heading):
    return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_links(page):
    text = BLOCK.sub('', page.read_text(encoding='utf-8'))
    for link in LINK.findall(text):
        path, _, fragment = link.partition('#')
        if path.startswith(('http://', 'https://')):
            continue
        target = (page.parent / unquote(path)).resolve() if path else page
        assert target.exists(), f'{link} leads nowhere'
        if fragment:
            headings = re.findall(r'^#+ (.*)$', target.read_text(encoding='utf-8'), re.MULTILINE)
            assert fragment in map(anchor, headings), f'{link}: no such heading'


# ----------------------------------------------------------------------------------------------------------------------
# The worked examples of CONTRIBUTING.md.


@pytest.fixture(scope='module')
def examples(tmp_path_factory):
    """{file named in its first line: module} of the Python examples."""
    folder, modules = tmp_path_factory.mktemp('examples'), {}
    for number, (_indent, language, code) in enumerate(BLOCK.findall((ROOT / 'CONTRIBUTING.md').read_text())):
        if language == 'python':
            path = folder / f'example_{number}.py'
            path.write_text(code)
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            modules[re.match(r'# ([\w/.]+)', code)[1]] = module
    return modules


def test_example_of_a_layer(examples):
    layer = examples['nets/layers.py'].CenterLayer((None, 2, 4, 4))
    x = np.random.RandomState(1).randn(3, 2, 4, 4).astype(np.float32)
    np.testing.assert_allclose(layer.get_output_for(theano.tensor.constant(x)).eval(),
                               x - x.mean(axis=(2, 3), keepdims=True), atol=1e-6)     # Rounding of float32.


def test_example_of_a_data_set(examples, tmp_path):
    from data.dataset import Dataset
    from data.image_source import create
    create(str(tmp_path / 'x.h5'), examples['data/stripes.py'].stripes, 10)
    with Dataset(str(tmp_path / 'x.h5'), max_labels='all') as dataset:
        images, labels = dataset.get_images([0, 1])
    assert (images[0] == images[1].transpose(0, 2, 1)).all() and (labels == np.eye(2)).all()


def test_example_of_a_metric(examples):
    metric = examples['metrics/brightness.py'].Brightness()
    metric.begin('fakes')
    metric.feed('fakes', np.full((2, 1, 4, 4), 7, np.uint8))
    assert dict(zip(metric.names(), metric.end('fakes'), strict=True)) == {'brightness': 7}


def test_example_of_an_experiment(examples):
    import train
    from training.options import resolve_config
    config = examples['config.py']
    config.variants = {}
    assert resolve_config(config, 'my-digits', (), train.train_gan)['train']['total_kimg'] == 60


def test_example_of_an_op(examples):
    example = examples['theano_torch/lowerings/tensors.py']
    x = theano.tensor.fvector()
    function = theano.function([x], example.Roll(1)(x), mode=theano_torch.mode('cpu'))
    assert function(np.float32([1, 2, 3])).tolist() == [3, 1, 2]


# ----------------------------------------------------------------------------------------------------------------------
# Design and terms.


def test_design_describes_every_layer():
    text = (ROOT / 'docs' / 'design.md').read_text(encoding='utf-8')
    rows = ''.join(re.findall(r'^\| (`.*?) \|', text, re.MULTILINE))
    assert [name for layer in LAYERS for name in layer if f'`{name}.py`' not in rows and f'`{name}/`' not in rows] == []


def test_design_names_modules_that_exist():
    text = (ROOT / 'docs' / 'design.md').read_text(encoding='utf-8')
    names = {name for name in re.findall(r'`([\w/]+\.py)`', text) if '/' in name and not name.startswith('tests')}
    known = {name.replace('.', '/') + '.py' for name in MODULES}
    in_theano_torch = {name.removeprefix('theano_torch/') for name in known}
    assert names <= known | in_theano_torch, names - known


def test_terms_are_sorted_and_said_once():
    rows = re.findall(r'^\| ([^|]+?) \| [^|]+ \|$', (ROOT / 'docs' / 'terms.md').read_text(), re.MULTILINE)[1:]
    terms = [row for row in rows if row != '---']
    assert terms == sorted(terms, key=str.lower) and len(set(terms)) == len(terms) > 30


def test_python_in_the_docs_is_python():
    for page in PAGES:
        for _indent, language, code in BLOCK.findall(page.read_text(encoding='utf-8')):
            if language == 'python':
                ast.parse(code if not code.lstrip().startswith("'") else '{' + code + '}')


# Not printed by us.
FOREIGN = {'No module named venv', 'ensurepip is not available', '--resume', 'dataset.h5_path'}


def test_troubleshooting_quotes_our_messages():
    text = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| ([^|]+) \|', text, re.MULTILINE)
    quoted = {text for row in rows for text in re.findall(r'`([^`]+)`', row)} - FOREIGN
    # Messages are broken over lines of source: compare without quotes, f prefixes and spaces.
    def squeezed(text):
        return re.sub(r"""['"]\s*f?['"]|\s+""", '', text.replace("'\n", "'"))
    source = ''.join(squeezed(path.read_text(encoding='utf-8')) for name in MODULES
                     for path in (ROOT.joinpath(*name.split('.')).with_suffix('.py'),) if path.exists())
    source += squeezed((ROOT / 'setup.py').read_text())
    assert len(quoted) > 8
    assert [text for text in sorted(quoted) if squeezed(text) not in source] == []
