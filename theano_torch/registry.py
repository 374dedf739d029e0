"""How an op becomes PyTorch calls: three registries. Importable without PyTorch: any module may register its ops."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

# Tag of a rewrite: a mode that includes it asks for sums that accumulate in float32, see `theano_torch.float32_sums`.
FLOAT32_SUMS = 'float32_sums'


class UnsupportedOp(NotImplementedError):
    """The engine has no lowering for an op of the graph, or none for these inputs; the op has no Python code either."""


@functools.singledispatch
def lower(op: Any, node: Any, build: Any) -> Callable | tuple[Callable, Sequence]:
    """Return what computes the outputs of `node` from its inputs; dispatched on the class of `op`.

    Called when a graph is specialised to the shapes of its inputs, not while it runs.

    Parameters
    ----------
    op : theano.gof.Op
        What is dispatched on.
    node : theano.gof.Apply
        The op with its input and output variables: dtypes, broadcastable dimensions.
    build : theano_torch.trace.Build
        Facts: ``build.shape(variable)`` of every input is a tuple of ints, ``build.host(variable)`` is the value of a
        variable that must be known on the host (a shape, an index) as an ndarray, ``build.device`` the torch device.

    Returns
    -------
    callable, or pair of a callable and a sequence of variables
        The callable takes the tensors of all of `node`'s inputs, or, with the pair, of those variables only. It
        returns a tensor, or a tuple of tensors where the op has several outputs. It must not write into its arguments,
        except those that the op's `destroy_map` names; it may return views of them. Dtypes and shapes of the results
        are those of Theano's op.

    Raises
    ------
    UnsupportedOp
        A lowering may say so of some nodes: these run the op's Python code on the host, as ops without a lowering do.

    Notes
    -----
    On a GPU, what runs is recorded as a CUDA graph after some calls. A callable that waits for the device or copies
    from the host makes the function run step by step instead, after one warning; an op with a class attribute
    ``can_be_captured = False`` does so without one.

    On the CPU, callables may run in two threads, at the same time as others of the same function, and twice in the
    first call. A function with an op that has a class attribute ``in_order = True``, because it does more than compute
    its outputs, runs one by one in Theano's order. An op with ``starts = True`` begins what goes on beside the
    function; what it needs is computed before what it does not need.
    """
    raise UnsupportedOp(
        f'theano_torch cannot run the op {op} (class {type(op).__module__}.{type(op).__name__}) of the node {node}. '
        f'Register a lowering with @theano_torch.lower.register({type(op).__name__}), or theano_torch.on_host to run '
        'its Python code on the host')


@functools.singledispatch
def prepare(op: Any, node: Any, linker: Any) -> Any:
    """Make what the lowering of `node` needs once for all programs of a function; dispatched on the class of `op`.

    Called while the function is compiled, by `linker`, a `theano_torch.linker.TorchLinker`. The lowering finds the
    result as ``build.prepared(node)``.
    """
    return None


def is_registered(op: Any) -> bool:
    """Whether `lower` knows the class of `op`."""
    return lower.dispatch(type(op)) is not lower.dispatch(object)


@functools.singledispatch
def lower_scalar(op: Any, node: Any) -> Callable:
    """Return a function of tensors that applies the scalar op `op` element by element; dispatched on its class.

    `node` is the Apply node; all its inputs and outputs have a dtype. The function gets tensors that can be broadcast
    to each other, in the common type of the node's inputs and output; the caller casts the result to the output's type.
    """
    raise UnsupportedOp(
        f'theano_torch cannot run the scalar op {op} (class {type(op).__module__}.{type(op).__name__}) of the node '
        f'{node}. Register a lowering with @theano_torch.lower_scalar.register({type(op).__name__})')


@functools.singledispatch
def lower_activation(op: Any) -> tuple[str, list, Callable] | None:
    """How the scalar op `op` can be worked into a convolution; dispatched on its class. None: it cannot.

    Returns
    -------
    (str, list, callable) or None
        What oneDNN calls it in PyTorch's ``torch.ops.mkldnn._convolution_pointwise`` ('': it has nothing equal), its
        parameters there, and a function that applies it to a tensor in place and returns the tensor.
    """
    return None


def on_host(op: Any, node: Any, build: Any) -> Callable:
    """A lowering that runs the op's own Python code on the host, for ops where speed does not matter.

    >>> theano_torch.lower.register(MyOp)(theano_torch.on_host)
    """
    return build.on_host(node)
