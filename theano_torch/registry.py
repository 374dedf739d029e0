"""Registries that map ops to PyTorch calls. Importable without PyTorch, so any module may register its ops."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

# Tag of a rewrite; modes that include it accumulate float32 sums in float32, see `theano_torch.float32_sums`.
FLOAT32_SUMS = 'float32_sums'


class UnsupportedOp(NotImplementedError):
    """The engine has no lowering for an op of the graph, or for these inputs, and the op has no Python code."""


@functools.singledispatch
def lower(op: Any, node: Any, build: Any) -> Callable | tuple[Callable, Sequence]:
    """Return a function that computes the outputs of `node` from its inputs; dispatched on the class of `op`.

    Called when a graph is specialised to the shapes of its inputs, not when it runs.

    Parameters
    ----------
    op : theano.gof.Op
        Selects the lowering.
    node : theano.gof.Apply
        The op with its input and output variables, whose types are known: dtypes, broadcastable dimensions.
    build : theano_torch.trace.Build
        Information: ``build.shape(variable)`` of an input is a tuple of ints, ``build.host(variable)`` the value of a
        variable that must be known on the host (a shape, an index) as an ndarray, ``build.device`` the torch device.

    Returns
    -------
    callable, or pair of a callable and a sequence of variables
        The callable takes the tensors of all inputs of `node`, or only those of the variables in the pair. It returns a
        tensor, or a tuple of tensors if the op has several outputs. It must not write to its arguments, except those
        that the op's `destroy_map` names, and may return views of them. Dtypes and shapes of the results must be those
        of Theano's op.

    Raises
    ------
    UnsupportedOp
        A lowering may raise it for some nodes. These run the op's Python code on the host, like ops without a lowering.

    Notes
    -----
    On a GPU, functions are recorded as CUDA graphs after some calls. If a callable waits for the device or copies from
    the host, its function runs step by step instead, after one warning; an op with the class attribute
    ``can_be_captured = False`` avoids the warning.

    On the CPU, callables may run in two threads, concurrently with others of the same function, and twice in the first
    call. If an op has side effects, set the class attribute ``in_order = True``: its function then runs node by node in
    Theano's order. An op with ``starts = True`` starts work that runs in parallel with the function; nodes that it
    needs are moved forward.
    """
    raise UnsupportedOp(
        f'theano_torch cannot run the op {op} (class {type(op).__module__}.{type(op).__name__}) of the node {node}. '
        f'Register a lowering with @theano_torch.lower.register({type(op).__name__}), or theano_torch.on_host to run '
        'its Python code on the host')


@functools.singledispatch
def prepare(op: Any, node: Any, linker: Any) -> Any:
    """Compute once per function what all lowerings of `node` share; dispatched on the class of `op`.

    Called when the function is compiled, by `linker`, a `theano_torch.linker.TorchLinker`. The lowering gets the result
    from ``build.prepared(node)``.
    """
    return None


def is_registered(op: Any) -> bool:
    """Whether the class of `op` has a lowering."""
    return lower.dispatch(type(op)) is not lower.dispatch(object)


@functools.singledispatch
def lower_scalar(op: Any, node: Any) -> Callable:
    """Return a function of tensors that applies the scalar op `op` element by element; dispatched on its class.

    `node` is the Apply node; all its inputs and outputs have a dtype. The tensors can be broadcast to each other, and
    have the common type of the node's inputs and output. The caller casts the result to the output's type.
    """
    raise UnsupportedOp(
        f'theano_torch cannot run the scalar op {op} (class {type(op).__module__}.{type(op).__name__}) of the node '
        f'{node}. Register a lowering with @theano_torch.lower_scalar.register({type(op).__name__})')


@functools.singledispatch
def lower_activation(op: Any) -> tuple[str, list, Callable] | None:
    """Describe how to fuse the scalar op `op` into a convolution; dispatched on its class.

    Returns
    -------
    (str, list, callable) or None
        Its name in PyTorch's ``torch.ops.mkldnn._convolution_pointwise`` ('' if oneDNN has no equivalent), its
        parameters there, and a function that applies it to a tensor in place and returns the tensor. None if it cannot
        be fused.
    """
    return None


def on_host(op: Any, node: Any, build: Any) -> Callable:
    """Lowering that runs the op's own Python code on the host, for ops whose speed does not matter.

    >>> theano_torch.lower.register(MyOp)(theano_torch.on_host)
    """
    return build.on_host(node)
