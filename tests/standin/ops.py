"""Handle every op: find its device, check that it may run there now, and compute its result."""

import functools

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.standin import meta, transfers
from tests.standin.collectives import FINISH, START
from tests.standin.gpu import GpuError
from tests.standin.streams import forbid_while_recording
from tests.standin.tensors import GpuTensor, fill_with_garbage, mapped, storage_id, tensors_in, unwrapped, wrapped

aten = torch.ops.aten

UNINITIALIZED = {aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default,
                 aten.new_empty_strided.default}
CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}
WITHOUT_META = {'aten::_fused_adam_', 'aten::_foreach_lerp_'}       # In place, and without an implementation on meta.


class EveryOp(TorchDispatchMode):
    """Sends all ops of a thread to `gpu`, including those without tensors of it among their arguments."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    @classmethod
    def _should_skip_dynamo(cls):
        return False        # Otherwise PyTorch imports its compiler, which slows down every op.

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if is_composite(func):      # In inference mode, PyTorch does not decompose them first.
            with self:
                # `func.decompose` would prefer Python decompositions, which are not used on a GPU.
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **(kwargs or {}))
        if GpuTensor not in types and not (kwargs and kwargs.get('device')):     # A fast path for most ops.
            return on_host(self.gpu, func, args, kwargs or {})
        return dispatch(self.gpu, func, args, kwargs or {})


@functools.cache
def is_composite(func):
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), 'CompositeImplicitAutograd')


def dispatch(gpu, func, args, kwargs):
    """Run an op on the device of its arguments."""
    tensors = tensors_in((args, kwargs))
    ours = [value for value in tensors if isinstance(value, GpuTensor)]
    of_host = [value for value in tensors if not isinstance(value, GpuTensor)]
    device = None if kwargs.get('device') is None else torch.device(kwargs['device'])
    for_gpu = device is not None and device.type in ('cuda', 'meta')       # For C++, a GpuTensor is a meta tensor.
    if not ours and not for_gpu:
        return on_host(gpu, func, args, kwargs)
    if for_gpu and device.type == 'cuda' and device.index not in (None, 0):
        raise GpuError('CUDA error: invalid device ordinal', func)
    transfers.check_waiting(gpu, func, args)
    if func is aten._to_copy.default and not ours:
        return transfers.to_device(gpu, func, args, kwargs)
    if func is aten._to_copy.default and device is not None and device.type == 'cpu':
        return transfers.to_host(gpu, func, args, kwargs)
    if func is aten.copy_.default and of_host:
        return transfers.copy_between(gpu, func, args, kwargs)
    for tensor in of_host:
        if tensor.dim():
            raise GpuError('Expected all tensors to be on the same device, but found at least two devices, cuda:0 and '
                           'cpu!', func)
        gpu.note('number of the host', func)
    if of_host and gpu.backing == 'meta':
        args, kwargs = mapped(lambda x: x if isinstance(x, GpuTensor) else x.to('meta'), (args, kwargs))
    return on_gpu(gpu, func, args, kwargs, ours, for_gpu)


def on_host(gpu, func, args, kwargs):
    """Run an op on the CPU. Pinned memory, which a CPU build lacks, is only recorded."""
    if func is aten.is_pinned.default:
        return gpu.pinned.has(args[0])
    if func.namespace == 'c10d':
        forbid_while_recording(gpu, 'a collective on the host', func)
    if func is aten._pin_memory.default:
        return gpu.pinned.add(args[0].clone())
    if not kwargs.get('pin_memory'):
        return func(*args, **kwargs)
    return gpu.pinned.add(func(*args, **{**kwargs, 'pin_memory': False}))


def on_gpu(gpu, func, args, kwargs, ours, for_gpu):
    check_fused_adam(func, args, kwargs)
    real_args, real_kwargs = unwrapped(args), unwrapped(kwargs)
    real_kwargs.pop('pin_memory', None)
    if for_gpu:
        real_kwargs['device'] = gpu.backing
    outputs = wrapped(run(gpu, func, real_args, real_kwargs), gpu, ours)
    if torch.Tag.inplace_view in func.tags:     # The wrapper must change its shape, too.
        with no_dispatch():
            func(*args, **kwargs)
    for observer in gpu.observers:
        observer(func, args, kwargs, outputs)
    return outputs


def check_fused_adam(func, args, kwargs):
    """CUDA's fused Adam needs its numbers in float32, whatever the type of the parameters."""
    if func is not aten._fused_adam_.tensor_lr:
        return
    for value in (kwargs.get('lr'), kwargs.get('found_inf'), *args[5]):
        if value is not None and value.dtype != torch.float32:
            raise GpuError(f'expected scalar type Float but found {value.dtype} (fused Adam on CUDA)', func)


def run(gpu, func, args, kwargs):
    """An op on the real tensors, as part of the graph that is being recorded if there is one."""
    if func._schema.name in (START, FINISH):
        return gpu.nccl.call(func, args)
    written, inputs, graph = written_arguments(func, args, kwargs), tensors_in((args, kwargs)), gpu.here.graph
    if graph is not None:
        graph.keep(written)
    outputs = compute(gpu, func, args, kwargs, inputs)
    known = {storage_id(real) for real in inputs}
    new = [real for real in tensors_in(outputs) if storage_id(real) not in known]
    if func in UNINITIALIZED:
        for real in new:
            fill_with_garbage(real)
    if new or written:      # Otherwise it is a view.
        gpu.clocks.use(inputs, [*written, *new], func, new)
        if graph is not None:
            graph.add(func, args, kwargs, outputs, new, written)
    return outputs


def compute(gpu, func, args, kwargs, inputs):
    if gpu.backing == 'meta' and func._schema.name in WITHOUT_META:
        return None
    if gpu.here.graph is not None and not func._schema.returns:
        return None         # The op only changes values, which the replay computes.
    if gpu.backing == 'cpu':
        return func(*args, **kwargs)

    def on_meta(*args, **kwargs):
        outputs = func(*args, **kwargs)
        return mapped(lambda output: as_cudnn_lays_it(output, inputs), outputs) if func in CONVOLUTIONS else outputs
    return meta.computed(func, args, kwargs, on_meta)


def as_cudnn_lays_it(output, inputs):
    """Convert the result of a convolution to cuDNN's memory format; on meta, PyTorch gives it the CPU's format."""
    if output.dim() != 4 or output.dtype == torch.float64:
        return output
    formats = [torch._prims_common.suggest_memory_format(x) for x in inputs if x.dim() == 4]
    return output.contiguous(memory_format=torch.channels_last) if torch.channels_last in formats else output


@functools.cache
def written_places(func):
    """(positions, names) of the arguments that an op writes to."""
    writable = [(index, argument) for index, argument in enumerate(func._schema.arguments)
                if argument.alias_info is not None and argument.alias_info.is_write]
    return [index for index, argument in writable if not argument.kwarg_only], \
        [argument.name for _index, argument in writable if argument.kwarg_only]


def written_arguments(func, args, kwargs):
    positions, names = written_places(func)
    return tensors_in([args[index] for index in positions if index < len(args)] +
                      [kwargs[name] for name in names if name in kwargs])
