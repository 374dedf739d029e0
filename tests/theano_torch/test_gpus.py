"""theano_torch.gpus: why there is no GPU, or none that PyTorch can use, what to install; what the card decides."""

import theano_torch
from theano_torch import gpus
from theano_torch.capture import WARM_UP_CALLS
from theano_torch.lowerings import conv

import numpy as np
import pytest
import theano.tensor as T
import torch
from theano import function

import theano_env
from nets.ops import flip_filters
from tests.standin.engine import a_gpu
from tests.theano_torch.helpers import numbers

pytestmark = pytest.mark.usefixtures('restore_theano_config')

TOO_OLD = ('The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by '
           'downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx')
NO_DRIVER = ('Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver '
             'from http://www.nvidia.com/Download/index.aspx')


@pytest.fixture
def no_gpu(monkeypatch):
    """A function that says which build of PyTorch there is, and why it sees no GPU."""
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
    with a_gpu(capability=(6, 1)):
        environment = theano_env.configure('torch', {'device': 'auto'})
        assert environment.device == 'cpu' and 'has compute capability 6.1' in str(environment)
        with pytest.raises(theano_env.EnvironmentProblem, match='compute capability 6.1.*kernels for sm_75'):
            theano_env.configure('torch', {'device': 'cuda0'})


@pytest.mark.standin
@pytest.mark.parametrize('precision, cure', [('bfloat16', "'float16'"), ('tf32', "'float32'")])
def test_precisions_that_the_card_lacks(precision, cure):
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


@pytest.mark.parametrize('capability, precision, dtype, is_last', [
    ((9, 0), 'tf32', torch.float32, True), ((9, 0), 'float32', torch.float32, False),
    ((9, 0), 'float32', torch.float64, False), ((8, 0), 'bfloat16', torch.bfloat16, True),
    ((7, 5), 'float16', torch.float16, True), ((6, 1), 'float16', torch.float16, False),
    ((7, 5), 'float32', torch.float32, False)])
def test_channels_last_on_tensor_cores_only(capability, precision, dtype, is_last, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', precision == 'tf32')
    assert gpus.image_format(torch.device('cuda:0'), dtype) == (
        torch.channels_last if is_last else torch.contiguous_format)
    assert gpus.image_format(torch.device('cpu'), dtype) == torch.channels_last


@pytest.mark.parametrize('precision, is_last', [('float16', True), ('float32', False)])
def test_formats_of_what_is_convolved(precision, is_last, cuda, monkeypatch):
    """Of images and filters, which `nets` flips by an op of its own."""
    formats, convolution = [], conv.convolution

    def noted(*args):
        formats.extend(x.is_contiguous(memory_format=torch.channels_last) for x in args[:2])
        return convolution(*args)
    monkeypatch.setattr(conv, 'convolution', noted)
    mode = theano_torch.install('cuda:0', precision=precision, capture=False)
    x, w = T.ftensor4s(2)
    compiled = function([x, w], T.nnet.conv2d(x, flip_filters(w), filter_flip=False), mode=mode)
    compiled(numbers(2, 3, 4, 4), numbers(5, 3, 3, 3))
    assert formats == [is_last, is_last]


class Gradient:
    """A compiled gradient of 16 filters for 16 channels, for which `FoldedGradient` is expected to be faster."""

    SHAPE = 16, 16, 3, 3

    def __init__(self, **options):
        mode = theano_torch.install('cuda:0', **options)
        images, grads = T.ftensor4s(2)
        self.function = function([images, grads], T.nnet.abstract_conv.conv2d_grad_wrt_weights(
            images, grads, self.SHAPE, border_mode='half'), mode=mode)
        self.arguments = numbers(2, 16, 4, 4), numbers(2, 16, 4, 4, seed=1)

    def __call__(self):
        return self.function(*self.arguments)

    def is_folded(self):
        """Whether the last program folds, by the convolutions that a new call has."""
        channels = []
        backward = conv.convolution_backward

        def noted(*args):
            channels.append(args[1].shape[1])
            return backward(*args)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conv, 'convolution_backward', noted)
            self()
        return channels == [64]


@pytest.fixture
def timer(monkeypatch):
    """Replaces the timer of `Fastest`; has the seconds of its next answers, and counts its uses."""
    class Timer:
        seconds, uses = [2.0, 1.0], 0

        def __call__(self, way, device):
            assert not torch.cuda.is_current_stream_capturing()
            way()
            self.uses += 1
            return self.seconds[(self.uses - 1) % 2]
    monkeypatch.setattr(gpus, 'seconds_of', timer := Timer())
    return timer


@pytest.mark.parametrize('options, seconds, is_folded, uses', [
    ({}, [1.0, 2.0], False, 2), ({}, [2.0, 1.0], True, 2), ({}, [1.0, 1.0], True, 2),
    ({'deterministic': True}, [2.0, 1.0], False, 0), ({'benchmark': False}, [1.0, 2.0], True, 0)])
def test_the_fastest_gradient_of_filters(options, seconds, is_folded, uses, cuda, timer):
    timer.seconds = seconds
    gradient = Gradient(precision='float16', capture=False, **options)
    images, grads = map(torch.from_numpy, gradient.arguments)
    wanted = torch.nn.grad.conv2d_weight(images, gradient.SHAPE, grads, padding=1).flip(2, 3)
    # Inputs rounded to 11 bits, relative to the largest.
    np.testing.assert_allclose(gradient(), wanted.numpy(), rtol=0, atol=1e-2 * wanted.abs().max().item())
    assert gradient.is_folded() == is_folded and timer.uses == uses
    again = Gradient(precision='float16', capture=False, **options)      # The same shapes: known.
    again()
    assert again.is_folded() == is_folded and timer.uses == uses


def test_no_folding_without_tensor_cores(cuda, timer):
    gradient = Gradient(precision='float32', capture=False)
    gradient()
    assert not gradient.is_folded() and timer.uses == 0


def test_choices_are_made_before_the_recording(cuda, timer):
    """The stand-in ends a recording in which the host waits; so does CUDA."""
    gradient = Gradient(precision='float16')
    first = gradient()
    assert timer.uses == 2
    for _ in range(WARM_UP_CALLS + 2):
        # Programs of ours add up in another order than the first call.
        np.testing.assert_allclose(gradient(), first, rtol=0, atol=1e-2 * np.abs(first).max())
    program, = gradient.function.fn.programs.popitem()[1]
    assert program.graph is not None and timer.uses == 2
    # What is called for the first time while it is recorded neither times nor remembers.
    way = gpus.Fastest([lambda x: x + 1, lambda x: x + 2], 1, 'key', torch.device('cuda:0'))
    graphs, x = program.graphs, torch.ones(2, device='cuda:0')
    graph, result = graphs.record(lambda inputs: way(*inputs), [x])
    graph.replay()
    assert result.tolist() == [3, 3] and timer.uses == 2 and way.way is None


def test_the_timer_itself(cuda):
    calls, x = [], torch.ones(4, device='cuda:0')
    assert 0 <= gpus.seconds_of(lambda: calls.append(x + 1), torch.device('cuda:0')) < 60
    assert len(calls) == gpus.WARM_UPS + gpus.ROUNDS
