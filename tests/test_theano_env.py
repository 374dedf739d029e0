"""theano_env: Theano imports without warnings on current Python and NumPy versions, with the requested engine."""

import importlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import theano
import theano.tensor as T

import config
import theano_env
import train
from tests.helpers import ANY_ENGINE

ROOT = pathlib.Path(theano_env.__file__).resolve().parent

HIDE_WHAT_PYTHON_3_12_LACKS = '''
import sys
from importlib.machinery import PathFinder
hidden = {'imp', 'distutils', 'pkg_resources', 'numpy.distutils'}
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name in hidden else find_spec(name, *args)
sys.meta_path = [finder for finder in sys.meta_path if 'Distutils' not in type(finder).__name__]
for name in hidden:
    sys.modules.pop(name, None)
'''

RUN_A_CONVOLUTION = '''
import theano_env, theano, lasagne, numpy as np, theano.tensor as T
theano_env.configure('python', {'device': 'cpu'})
x = T.ftensor4()
f = theano.function([x], T.grad(T.nnet.conv2d(x, np.ones((1, 1, 3, 3), 'f'), border_mode='half').sum(), x))
assert f(np.zeros((1, 1, 3, 3), 'f'))[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
assert lasagne.__version__ == '0.1'
'''


@pytest.fixture(autouse=True)
def restore_theano_config():
    mode, cxx, ldflags = theano.config.mode, theano.config.cxx, theano.config.blas.ldflags
    cxxflags, floatx = theano.config.gcc.cxxflags, theano.config.floatX
    yield
    theano.config.mode, theano.config.cxx, theano.config.blas.ldflags = mode, cxx, ldflags
    theano.config.gcc.cxxflags, theano.config.floatX = cxxflags, floatx


@pytest.mark.own_engines
@pytest.mark.parametrize('prelude', ['', HIDE_WHAT_PYTHON_3_12_LACKS], ids=['this-python', 'as-on-3.12'])
def test_theano_and_lasagne_import_and_run_without_a_word(prelude):
    done = subprocess.run([sys.executable, '-W', 'default', '-W', 'ignore::DeprecationWarning', '-c',
                           prelude + RUN_A_CONVOLUTION], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_importing_leaves_the_environment_and_temporary_modules_alone(monkeypatch):
    code = 'import os, sys, theano_env; print(os.environ.get("THEANO_FLAGS"), "scipy.signal.sigtools" in sys.modules)'
    monkeypatch.delenv('THEANO_FLAGS', raising=False)
    assert subprocess.check_output([sys.executable, '-c', code], cwd=ROOT, text=True).split() == ['None', 'False']


FIRST_TRAINING_STEP = '''
import sys, numpy as np
import theano_env
theano_env.configure('torch', {'device': 'cpu'})
import tfutil_shim, train
from tests import helpers
kwargs = {'num_channels': 1, 'resolution': 4, 'fmap_max': 4}
G = tfutil_shim.Network('G', func='networks.G_paper', latent_size=4, **kwargs)
D = tfutil_shim.Network('D', func='networks.D_paper', **kwargs)
functions = helpers.training_functions(G, D, G.clone(), train.Schedule(0, 0, 0, 4, 4, 1.0, 1.0))
nothing = np.zeros((4, 0), 'f')
functions.train_d(np.zeros((4, 1, 4, 4), 'uint8'), nothing, np.ones((4, 4), 'f'), nothing)     # Trains G, too.
print({'torch._dynamo', 'sympy', 'scipy.stats'} & set(sys.modules))
import scipy.stats
print(scipy.stats.chi2.sf(0.0, 3))
'''


@pytest.mark.slow
def test_training_avoids_slow_imports():
    """Training imports neither scipy.stats nor PyTorch's compiler, which would double its time and memory to start."""
    printed = subprocess.check_output([sys.executable, '-c', FIRST_TRAINING_STEP], cwd=ROOT, text=True)
    assert printed.split() == ['set()', '1.0']


def test_the_users_theano_flags_have_the_last_word(monkeypatch):
    monkeypatch.setenv('THEANO_FLAGS', 'floatX=float64')
    code = 'import os, theano_env, theano; print(theano.config.floatX, os.environ["THEANO_FLAGS"])'
    printed = subprocess.check_output([sys.executable, '-c', code], cwd=ROOT, text=True)
    assert printed.split() == ['float64', 'floatX=float64']


@pytest.mark.parametrize('engine', ['torch', 'theano', 'python'])
def test_every_engine_computes_the_same(engine):
    chosen = theano_env.configure(engine, {'device': 'cpu'})
    assert (chosen.engine, chosen.device) == (engine, 'cpu')
    assert str(chosen).startswith('Engine: ') and '\n' not in str(chosen)
    images, kernel = np.random.RandomState(1).randn(2, 3, 8, 8), np.random.RandomState(2).randn(4, 3, 3, 3)
    x, w = T.dtensor4(), theano.shared(kernel)
    y = T.nnet.conv2d(x, w, border_mode='half')
    loss, grad = theano.function([x], [T.sum(y ** 2), T.grad(T.sum(y ** 2), w)])(images)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))     # N, C, H, W, 3, 3
    expected = np.einsum('nchwij,ocij->nohw', windows, kernel[:, :, ::-1, ::-1])
    assert loss == pytest.approx(np.sum(expected ** 2), rel=1e-12)
    expected_grad = 2 * np.einsum('nchwij,nohw->ocij', windows, expected)[:, :, ::-1, ::-1]
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-10)


@pytest.mark.own_engines
def test_auto_prefers_torch_then_a_compiler_then_python(monkeypatch):
    assert theano_env.configure('auto', {'device': 'cpu'}).engine == 'torch'
    monkeypatch.setattr(theano_env.importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setattr(theano_env, '_find_compiler', lambda: '/usr/bin/g++')
    assert theano_env.configure('auto').engine == 'theano'
    theano.config.cxx = ''
    monkeypatch.setattr(theano_env, '_find_compiler', lambda: '')
    assert theano_env.configure('auto').engine == 'python'


def test_flags_are_set():
    theano_env.configure(ANY_ENGINE, {'floatX': 'float64', 'dnn.conv.algo_bwd_filter': 'deterministic'})
    assert theano.config.floatX == 'float64'
    assert theano.config.dnn.conv.algo_bwd_filter == 'deterministic'
    theano_env.configure(ANY_ENGINE, {'floatX': 'float32', 'dnn.conv.algo_bwd_filter': 'none'})
    assert theano.config.floatX == 'float32'


@pytest.mark.parametrize('flags, message', [
    ({'floatx': 'float32'}, r"theano_flags\['floatx'\]: Theano has no such flag; did you mean 'floatX'\?"),
    ({'floatX': 'float31'}, r"theano_flags\['floatX'\]='float31': Invalid value .*float64"),
    ({'device': 'tpu'}, r"theano_flags\['device'\]='tpu': use 'auto', 'cpu', 'cuda'"),
    ({'device': 'cuda0'}, 'only the torch engine runs on a GPU'),
    ({'base_compiledir': '/nowhere'}, 'THEANO_FLAGS=base_compiledir=/nowhere'),
])
def test_a_bad_flag_is_one_line_that_names_it(flags, message):
    with pytest.raises(theano_env.EnvironmentProblem, match=message) as caught:
        theano_env.configure('python', flags)       # Also an error on NumPy 2, because flags are checked first.
    assert '\n' not in str(caught.value)


def test_an_unknown_engine_is_named():
    with pytest.raises(theano_env.EnvironmentProblem, match=r"engine='cuda': choose one of auto, torch"):
        theano_env.configure('cuda')


@pytest.mark.parametrize('spelling', ['cuda99', 'gpu99', 'cuda:99'])
def test_a_gpu_that_is_not_there(spelling):
    with pytest.raises(theano_env.EnvironmentProblem, match=f"'{spelling}': PyTorch sees . CUDA GPUs here; set it to"):
        theano_env.configure('torch', {'device': spelling})


@pytest.mark.parametrize('engine', ['auto', 'theano', 'python'])
def test_engines_that_need_numpy_1(engine, monkeypatch):
    monkeypatch.setattr(theano_env, 'NUMPY_2', True)
    monkeypatch.setattr(theano_env.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(theano_env.EnvironmentProblem, match=f"^engine='{engine}': .* need NumPy 1, this is .*numpy<2"):
        theano_env.configure(engine)


def test_missing_torch_and_missing_compiler_name_the_cure(monkeypatch):
    monkeypatch.setattr(theano_env.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(theano_env.EnvironmentProblem, match='pip install torch'):
        theano_env.configure('torch')
    monkeypatch.setattr(theano_env, 'NUMPY_2', False)
    theano.config.cxx = ''
    monkeypatch.setattr(theano_env.shutil, 'which', lambda name: None)
    with pytest.raises(theano_env.EnvironmentProblem, match='apt install g'):
        theano_env.configure('theano')


def test_blas_of_the_system_then_of_the_wheel_then_none(monkeypatch):
    monkeypatch.setattr(theano_env.ctypes.util, 'find_library', lambda name: 'libopenblas.so.0')
    name, ldflags, macros = theano_env._find_blas()
    assert 'openblas' in ldflags and macros == ''

    monkeypatch.setattr(theano_env.ctypes.util, 'find_library', lambda name: None)
    wheel = type(sys)('scipy_openblas32')
    wheel.get_lib_dir, wheel.get_library = lambda: '/wheel/lib', lambda: 'scipy_openblas'
    monkeypatch.setitem(sys.modules, 'scipy_openblas32', wheel)
    monkeypatch.setattr(theano_env.importlib.util, 'find_spec', lambda name: True)
    name, ldflags, macros = theano_env._find_blas()
    assert ldflags == '-L/wheel/lib -lscipy_openblas'
    assert '-Dsgemm_=scipy_sgemm_' in macros.split()

    monkeypatch.setattr(theano_env.importlib.util, 'find_spec', lambda name: None)
    name, ldflags, macros = theano_env._find_blas()
    assert ldflags == '' and 'pip install scipy-openblas32' in name


@pytest.mark.parametrize('argv', [
    ['train'], ['util_scripts', 'generate_fake_images'], ['util_scripts', 'generate_interpolation_video'],
    ['util_scripts', 'generate_training_video'], ['util_scripts', 'project_image'], ['figures'], ['evaluate_metrics'],
    ['train_classifier'], ['reproduce']], ids=' '.join)
def test_all_scripts_that_compute_take_engine_and_device(argv, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(argv[0]).main([*argv[1:], '--help'])
    out = capsys.readouterr().out
    assert '--engine ENGINE' in out and '--device DEVICE' in out


def test_a_device_from_the_command_line():
    flags = {'device': 'cuda3', 'floatX': 'float32'}
    assert theano_env.with_device(flags, None) == flags
    assert theano_env.with_device(flags, 'cpu') == {**flags, 'device': 'cpu'}
    assert theano_env.with_device(None, 'cuda:1') == {'device': 'cuda:1'}


@pytest.mark.parametrize('argv, words', [
    (['--device', 'tpu'], '--device tpu: use'), (['--device=cuda97'], '--device cuda97: PyTorch sees'),
    (['--engine', 'tf'], '--engine tf: choose one of'), ([], "theano_flags['device']='opencl': use 'auto'"),
    (['--precision', 'int8'], '--precision int8: choose one of')])
def test_a_mistake_names_the_option_that_the_user_has_used(argv, words, capsys, monkeypatch):
    monkeypatch.setattr(config, 'theano_flags', {**config.theano_flags, 'device': 'opencl'})
    monkeypatch.setattr(config, 'engine', 'torch')
    assert train.main(['--dry-run', '--experiment', 'digits', *argv]) == 1
    assert capsys.readouterr().err.startswith(f'train.py: error: {words}')


SCRIPTS = ['train.py', 'export.py', 'util_scripts.py', 'dataset_tool.py']


def run_script(words, cwd=ROOT, **environment):
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, **{name: str(value) for name, value in environment.items()}})


@pytest.mark.parametrize('lines', [
    'device = cuda', 'device = gpu0\nforce_device = True', 'device = cuda\n[lib]\ncnmem = 0.8\n[nvcc]\nfastmath = True',
    'device = opencl0:0\ninit_gpu_device = cuda', 'device = nonsense', 'contexts = dev0->cuda0;dev1->cuda1'])
def test_a_theanorc_of_2017(lines, tmp_path):
    (tmp_path / '.theanorc').write_text(f'[global]\nfloatX = float32\n{lines}\n')
    done = run_script(['train.py', '--help'], HOME=tmp_path, THEANO_FLAGS='')
    assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize('script', SCRIPTS)
def test_theano_flags_of_2017(script):
    done = run_script([script, '--help'], THEANO_FLAGS='device=gpu,lib.cnmem=1,optimizer_including=cudnn')
    assert (done.returncode, done.stderr) == (0, '')


def test_flags_that_theano_refuses_are_one_line(tmp_path):
    done = run_script(['train.py', '--help'], THEANO_FLAGS='floatX=float99')
    assert done.returncode == 1 and done.stderr.count('\n') == 1
    assert 'THEANO_FLAGS or ~/.theanorc: Invalid value ("float99")' in done.stderr
    (tmp_path / '.theanorc').write_text('device = cuda\n')      # Options need a section.
    done = run_script(['train.py', '--help'], HOME=tmp_path, THEANO_FLAGS='')
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'THEANO_FLAGS or ~/.theanorc:' in done.stderr


@pytest.mark.parametrize('asked, words', [('cpu', None), ('cuda97', 'not on device=cuda97'), ('gpu98', 'not on'),
                                          ('opencl0', 'not on device=opencl0'), (None, None)])
def test_the_device_of_the_users_flags_is_used_if_it_exists(asked, words, monkeypatch, restore_theano_config):
    monkeypatch.setattr(theano_env, 'USER_DEVICE', asked)
    environment = theano_env.configure('torch', {'device': 'auto'})
    assert (words or 'not on') in str(environment) if words else 'not on' not in str(environment)
    if asked == 'cpu':
        assert environment.device == 'cpu'
    assert 'not on' not in str(theano_env.configure('torch', {'device': 'cpu'}))


def test_settings_of_the_user(monkeypatch, tmp_path):
    from theano_torch.compat import _user_device
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.delenv('THEANORC', raising=False)
    monkeypatch.setenv('THEANO_FLAGS', 'floatX=float32')
    assert _user_device() is None
    (tmp_path / '.theanorc').write_text('[global]\ndevice = gpu1    # The large one.\n')
    assert _user_device() == 'gpu1'
    monkeypatch.setenv('THEANO_FLAGS', 'device=cpu, device=cuda0')
    assert _user_device() == 'cuda0'


@pytest.mark.parametrize('words', [[str(ROOT / 'train.py')], ['-m', 'train']])
def test_modules_of_the_same_names_elsewhere_are_left_alone(words, tmp_path):
    names = ('misc', 'dataset', 'networks', 'loss', 'config', 'metrics', 'data', 'runs', 'training', 'tfutil_shim')
    for name in names:
        (tmp_path / f'{name}.py').write_text('raise SystemExit("the wrong one")\n')
    paths = [ROOT, tmp_path] if words[0] == '-m' else [tmp_path]
    done = run_script([*words, '--dry-run', '--experiment', 'training-video'], cwd=tmp_path,
                      PYTHONPATH=os.pathsep.join(map(str, paths)))
    assert (done.returncode, done.stderr) == (0, '')
