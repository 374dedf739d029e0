"""theano_torch/gpus.py: messages that say why PyTorch cannot use a GPU, and what to install."""

from theano_torch import gpus

import pytest
import torch

import theano_env

pytestmark = pytest.mark.usefixtures('restore_theano_config')

TOO_OLD = ('The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by '
           'downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx')
NO_DRIVER = ('Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver '
             'from http://www.nvidia.com/Download/index.aspx')


@pytest.fixture
def no_gpu(monkeypatch):
    """A function that simulates a build of PyTorch that finds no GPU for some reason."""
    def pretend(build, reason=None):
        def init():
            if reason:
                raise RuntimeError(reason)
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
        monkeypatch.setattr(torch.cuda, 'init', init)
        monkeypatch.setattr(torch.version, 'cuda', build)
    return pretend


@pytest.mark.parametrize('build, reason, words', [
    (None, None, 'this PyTorch is a build without CUDA'),
    ('13.0', TOO_OLD, 'this PyTorch is a build for CUDA 13.0, too new for the NVIDIA driver, which has CUDA 12.2 at '
     'most: install a driver of version 580 or newer, or install PyTorch for another version of CUDA'),
    ('12.6', TOO_OLD, 'install a driver of version 525 or newer, or'),
    ('13.0', NO_DRIVER, 'this PyTorch is a build for CUDA 13.0, which reports: Found no NVIDIA driver on your system'),
    ('13.0', None, 'this PyTorch is a build for CUDA 13.0, which reports: No CUDA GPUs are available')])
def test_why_there_is_none(build, reason, words, no_gpu):
    no_gpu(build, reason)
    assert words in gpus.why_none() and '\n' not in gpus.why_none() and 'http' not in gpus.why_none()
    environment = theano_env.configure('torch', {'device': 'auto'})
    assert environment.device == 'cpu' and (words in str(environment)) == (build is not None)
    with pytest.raises(theano_env.EnvironmentProblem, match="PyTorch sees 0 CUDA GPUs here.*this PyTorch") as caught:
        theano_env.configure('torch', {'device': 'cuda0'})
    assert words in str(caught.value)


NAMES = ['sm_75', 'sm_80', 'sm_86', 'sm_90']


@pytest.mark.parametrize('capability, names, is_there', [
    ((7, 5), NAMES, True), ((8, 9), NAMES, True), ((9, 0), [*NAMES, 'sm_90a'], True), ((6, 1), NAMES, False),
    ((7, 0), NAMES, False), ((12, 0), NAMES, False), ((12, 0), [*NAMES, 'compute_90'], True),
    ((10, 3), ['sm_100'], True), ((9, 0), ['compute_100'], False), ((9, 0), [], True)])
def test_kernels_for_the_card(capability, names, is_there, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Some GPU')
    monkeypatch.setattr(torch.cuda, 'get_arch_list', lambda: names)
    missing = gpus.missing_kernels('cuda:0')
    assert (missing == '') == is_there
    if missing:
        assert f'Some GPU has compute capability {capability[0]}.{capability[1]}' in missing and names[0] in missing


@pytest.mark.standin
def test_a_card_without_kernels():
    from tests.standin.engine import a_gpu
    with a_gpu(capability=(6, 1)):
        environment = theano_env.configure('torch', {'device': 'auto'})
        assert environment.device == 'cpu' and 'has compute capability 6.1' in str(environment)
        with pytest.raises(theano_env.EnvironmentProblem, match='compute capability 6.1.*kernels for sm_75'):
            theano_env.configure('torch', {'device': 'cuda0'})


@pytest.mark.standin
@pytest.mark.parametrize('precision, cure', [('bfloat16', "'float16'"), ('tf32', "'float32'")])
def test_precisions_that_the_card_lacks(precision, cure):
    from tests.standin.engine import a_gpu
    with a_gpu(capability=(7, 5)):
        with pytest.raises(theano_env.EnvironmentProblem, match=f'{precision}.*compute capability 8.0.*{cure}'):
            theano_env.configure('torch', {'device': 'cuda0'}, precision=precision)


@pytest.mark.parametrize('algorithm, is_timed, is_fixed', [
    ('none', True, False), ('time_once', True, False), ('guess_once', False, False), ('deterministic', False, True)])
def test_cudnn_times_its_algorithms_unless_results_have_to_be_the_same(algorithm, is_timed, is_fixed, cuda):
    before = theano_env.theano.config.dnn.conv.algo_bwd_filter
    try:
        theano_env.configure('torch', {'device': 'cuda0', 'dnn.conv.algo_bwd_filter': algorithm})
        assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (is_timed, is_fixed)
    finally:
        theano_env.theano.config.dnn.conv.algo_bwd_filter = before


def test_the_gpu_of_that_number_is_the_current_one(cuda, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    theano_env.configure('torch', {'device': 'cuda0'})
    theano_env.configure('torch', {'device': 'cpu'})
    assert chosen == ['cuda:0']
