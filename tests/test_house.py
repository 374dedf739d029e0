"""The plan of the house: imports point only to lower layers, there are no import cycles, and few top-level files."""

import ast

import pytest

from tests.helpers import ROOT

# Layers from top to bottom. A module imports only from its own layer and the layers below.
LAYERS = [
    ['reproduce'],      # It calls other scripts.
    ['train', 'dataset_tool', 'util_scripts', 'figures', 'evaluate_metrics', 'train_classifier', 'export', 'legacy'],
    ['misc', 'tfutil_shim', 'dataset', 'network'],      # Modules with the names of the 2017 and 2018 releases.
    ['paper'],
    ['training'],
    ['metrics'],
    ['explorer'],
    ['runs'],
    ['networks', 'networks_2018', 'loss'],
    ['data'],
    ['nets'],
    ['theano_env'],
    ['theano_torch'],
    ['common'],
]
SCRIPTS = [name for layer in LAYERS[:2] for name in layer]
FACES = LAYERS[2]
MAX_TOP_LEVEL = 16
# These import modules by name: the resolver of function names in configs and files, the table of metrics (imported when
# needed), and the reader of the Inception network (in another package).
IMPORT_BY_NAME = {'common.objects', 'metrics', 'metrics.inception'}


def modules():
    """{name: syntax tree} of all modules except tests and benchmarks."""
    found = {}
    for path in sorted(ROOT.rglob('*.py')):
        parts = path.relative_to(ROOT).with_suffix('').parts
        packages = [ROOT.joinpath(*parts[:depth]) for depth in range(1, len(parts))]
        if parts[0] not in ('tests', 'benchmarks', 'setup') and all((p / '__init__.py').exists() for p in packages):
            name = '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)
            found[name] = ast.parse(path.read_text(encoding='utf-8'))
    return found


MODULES = modules()


def imported(tree):
    """The project's modules that a module imports, including imports in functions and for type checkers."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, 'imports name their package'
            names |= {f'{node.module}.{alias.name}' if f'{node.module}.{alias.name}' in MODULES else node.module
                      for alias in node.names}
    return {name for name in names if name in MODULES}


IMPORTS = {name: imported(tree) for name, tree in MODULES.items()}


def layer_of(module):
    return next(index for index, layer in enumerate(LAYERS) if module.partition('.')[0] in layer)


def circle_from(module, path=()):
    """The modules of an import cycle reachable from `module`, or None."""
    if module in path:
        return path[path.index(module):]
    for other in sorted(IMPORTS[module]):
        if other not in circle_from.known and (found := circle_from(other, (*path, module))):
            return found
    circle_from.known.add(module)
    return None


def test_every_module_has_a_place():
    assert {name.partition('.')[0] for name in MODULES} - {name for layer in LAYERS for name in layer} == {'config'}
    assert len([name for name in MODULES if (ROOT / f'{name}.py').exists()]) <= MAX_TOP_LEVEL


@pytest.mark.parametrize('name', sorted(set(MODULES) - {'config'}))
def test_imports_point_down(name):
    upward = [other for other in IMPORTS[name] - {'config'} if layer_of(other) < layer_of(name)]
    assert not upward, f'{name} imports {upward} from above'


def test_no_circle():
    circle_from.known = set()
    circles = [circle for name in MODULES if (circle := circle_from(name))]
    assert not circles


def test_config_is_data_for_scripts():
    assert IMPORTS['config'] == {'common.easy_dict'}       # Scripts of 2018 import EasyDict from config.
    assert {name for name, others in IMPORTS.items() if 'config' in others} <= set(SCRIPTS)


def test_faces_are_for_scripts_of_others():
    assert {name for name, others in IMPORTS.items() if others & set(FACES)} <= set(FACES)


@pytest.mark.parametrize('package', ['theano_torch', 'common'])
def test_packages_that_stand_alone(package):
    for name in MODULES:
        if name.partition('.')[0] == package:
            assert {other.partition('.')[0] for other in IMPORTS[name]} <= {package}, name


def test_modules_are_imported_by_name_in_one_place():
    by_name = {name for name, tree in MODULES.items() for node in ast.walk(tree) if isinstance(node, ast.Call)
               and ast.unparse(node.func) in ('importlib.import_module', '__import__', 'exec', 'eval')}
    assert by_name == IMPORT_BY_NAME
