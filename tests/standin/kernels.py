"""A model of the kernels that ops launch on a GPU: the bytes that each reads and writes, and its work.

Each op launches one kernel, fused kernels included, except for the ops that are handled separately below.
"""

import math

import torch

from tests.standin.tensors import GpuTensor, storage_id, tensors_in

aten = torch.ops.aten

FREE = {aten.empty.memory_format, aten.new_empty.default, aten.empty_strided.default, aten.empty_like.default,
        aten.new_empty_strided.default, aten.detach.default, aten.alias.default, aten.lift_fresh.default}
PRODUCTS = {'mm', 'bmm', 'addmm', 'baddbmm', 'dot', 'mv'}
REDUCTIONS = {'sum', 'mean', 'amax', 'amin', 'prod', 'argmax', 'all', 'any', 'max', 'min', 'var', 'std'}
RESAMPLING = {'avg_pool2d', 'upsample_nearest2d', 'max_pool2d_with_indices'}
MOVES = {'clone', 'cat', 'flip', 'index', 'index_put_', 'constant_pad_nd', 'gather', 'scatter_'}
FILLS = {'fill_', 'zero_', 'full', 'zeros', 'ones', 'full_like', 'zeros_like', 'ones_like', 'scalar_tensor', 'arange',
         'eye', 'new_zeros', 'new_full'}
# Number of parameters that one launch of PyTorch's multi-tensor kernels takes.
ADAM_CHUNK, LERP_CHUNK = 36, 48


class Kernel:
    """One launch.

    Attributes
    ----------
    name : str
        Name of the op, or of its part.
    kind : str
        conv, matmul, pointwise, reduce, move (copies, casts, layout), resample, optimizer, h2d (from the host), 'sum
        over processes', which others run beside, or 'wait for processes', which is none.
    reads, writes : list of (int, int)
        (storage, bytes) of each tensor.
    shape, dtype
        Shape and type of the tensor that determines the amount of work.
    flops : int
        Multiplications and additions of a product.
    channels : (int, int, int, str) or None
        For convolutions: input channels, output channels, taps of the filters, 'fwd' or 'wgrad'.
    reduced : int or None
        For reductions: number of elements that become one.
    """

    def __init__(self, name, kind, reads, writes, like, flops=0, channels=None, reduced=None, dtype=None):
        self.name, self.kind, self.flops, self.channels, self.reduced = name, kind, flops, channels, reduced
        self.reads, self.writes = sizes(reads), sizes(writes)
        self.shape, self.dtype = tuple(like.shape), like.dtype if dtype is None else dtype

    @property
    def bytes(self):
        return sum(size for _storage, size in self.reads + self.writes)


def sizes(tensors):
    return [(storage_id(x.behind), touched(x)) for x in tensors if isinstance(x, GpuTensor)]


def touched(x):
    """Bytes of the elements of `x`; repeated elements count once."""
    distinct = [size for size, step in zip(x.shape, x.stride(), strict=True) if step != 0]
    return math.prod(distinct) * x.element_size() if x.numel() else 0


def kernels_of(func, args, kwargs, outputs):
    """The kernels of one op, list of `Kernel`; the arguments are those of an observer, see `Gpu`."""
    inputs, outs = tensors_in((args, kwargs)), tensors_in(outputs)
    name = func._schema.name.partition('::')[2]
    if name == '_to_copy' and not any(isinstance(x, GpuTensor) for x in inputs):
        return [Kernel('h2d', 'h2d', [], outs, outs[0])]
    inputs = [x for x in inputs if isinstance(x, GpuTensor)]
    known = {storage_id(x.behind) for x in inputs}
    is_view = all(storage_id(x.behind) in known for x in outs) and not func._schema.is_mutable
    if func in FREE or is_view:
        return []
    if name == 'start_sum':
        return [Kernel(name, 'sum over processes', [], [args[0]], args[0])]
    if name == 'finish_sum':
        return [Kernel(name, 'wait for processes', [], [], args[0])]
    if name == 'convolution':
        return convolution(args, outs[0])
    if name == 'convolution_backward':
        return weight_gradient(args, outs[-1])
    if name in PRODUCTS:
        a, b = [x for x in args if isinstance(x, torch.Tensor)][-2:]
        flops = 2 * a.numel() * (b.shape[-1] if b.dim() > 1 else 1)
        return [Kernel(name, 'matmul', inputs, outs, outs[0], flops, dtype=a.dtype)]
    if name.startswith('_fused_adam'):
        return on_lists('fused_adam', args[:4], (0, 2, 3), ADAM_CHUNK)
    if name == '_foreach_lerp_':
        return on_lists('foreach_lerp', args[:2], (0,), LERP_CHUNK)
    if name in REDUCTIONS:
        return [Kernel(name, 'reduce', inputs, outs, inputs[0], reduced=num_reduced(inputs[0], args))]
    if name in RESAMPLING:
        return [Kernel(name, 'resample', inputs, outs, largest(inputs + outs))]
    if name == 'copy_':
        if not isinstance(args[1], GpuTensor):
            return [Kernel('h2d', 'h2d', [], [args[0]], args[0])]
        return [Kernel(name, 'move', [args[1]], [args[0]], args[0])]
    if name in MOVES or name == '_to_copy':
        return [Kernel(name, 'move', inputs, outs, outs[0])]
    if name in FILLS:
        return [Kernel(name, 'pointwise', [], outs, outs[0])]
    written = outs or inputs[:1]
    return [Kernel(name, 'pointwise', inputs, written, largest(written))]


def largest(tensors):
    return max(tensors, key=lambda x: x.numel())


def on_lists(name, lists, written, chunk):
    """Kernels of a multi-tensor op: each takes `chunk` tensors of each list and writes those of the lists `written`."""
    kernels = []
    for start in range(0, len(lists[0]), chunk):
        parts = [tensors[start:start + chunk] for tensors in lists]
        kernels.append(Kernel(name, 'optimizer', sum(parts, []), sum((parts[i] for i in written), []), parts[0][0]))
    return kernels


def num_reduced(x, args):
    axes = args[1] if len(args) > 1 and args[1] is not None else range(x.dim())
    return math.prod(x.shape[axis] for axis in (axes if isinstance(axes, list | tuple | range) else [axes]))


def in_channels_last(name, x):
    """The copy that cuDNN makes of `x` if it is not in the channels-last layout."""
    if x.dim() != 4 or x.is_contiguous(memory_format=torch.channels_last):
        return []
    return [Kernel(name, 'move', [x], [x], x)]


def convolution(args, y):
    x, w, bias, _stride, _pad, _dilation, is_transposed, _more, groups = args
    taps = math.prod(w.shape[2:])
    flops = 2 * (x if is_transposed else y).numel() * taps * (y if is_transposed else x).shape[1] // groups
    return [*in_channels_last('weight to channels-last', w), *in_channels_last('image to channels-last', x),
            Kernel('convolution_t' if is_transposed else 'convolution', 'conv', [x, w], [y], y, flops,
                   (x.shape[1], y.shape[1], taps, 'fwd'), dtype=x.dtype),
            *([] if bias is None else [Kernel('conv bias', 'pointwise', [y, bias], [y], y)])]


def weight_gradient(args, y):
    g, x, w, *_rest, groups, mask = args
    if list(mask) != [False, True, False]:
        raise ValueError(f'only the gradient of the filters is supported: {mask}')
    taps = math.prod(w.shape[2:])
    return [*in_channels_last('to channels-last', g), *in_channels_last('to channels-last', x),
            Kernel('convolution_weight', 'conv', [g, x], [y], y, 2 * g.numel() * x.shape[1] * taps // groups,
                   (x.shape[1], g.shape[1], taps, 'wgrad'), dtype=x.dtype)]


class Trace:
    """An observer that collects the kernels of all ops: ``gpu.observers.append(trace)``."""

    def __init__(self):
        self.kernels = []

    def __call__(self, func, args, kwargs, outputs):
        self.kernels.extend(kernels_of(func, args, kwargs, outputs))
