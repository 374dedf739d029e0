"""The Theano linker: turns an optimised function graph into a callable that works on Theano's storage cells."""

from typing import Any

import theano_torch.lowerings  # noqa: F401  (fills the registries)
from theano_torch import hosts, rewrites
from theano_torch.program import Runner
from theano_torch.registry import is_registered, lower, lower_scalar, prepare

import torch
from theano.compile.mode import Mode
from theano.gof.link import Container, LocalLinker, map_storage
from theano.scalar import Composite
from theano.tensor import Elemwise

# {precision: type in which float32 convolutions and matrix products are computed}; 'tf32' is a flag of torch.
PRODUCT_DTYPES = {'float32': torch.float32, 'tf32': torch.float32, 'bfloat16': torch.bfloat16,
                  'float16': torch.float16}


class TorchLinker(LocalLinker):
    """Links a function graph to a `program.Runner`.

    Parameters
    ----------
    device : str
        Torch device on which the graph runs.
    precision : str
        See `theano_torch.install`.
    capture : bool
        See `theano_torch.install`.
    """

    runs_on_torch = True

    def __init__(self, device: str = 'cpu', precision: str = 'float32', capture: bool = True) -> None:
        super().__init__()
        if precision not in PRODUCT_DTYPES:
            raise ValueError(f'precision={precision!r}: choose one of {", ".join(PRODUCT_DTYPES)}')
        self.device, self.precision, self.capture = str(device), precision, capture
        self.fgraph: Any = None
        self.updated_vars: dict = {}

    def accept(self, fgraph: Any, no_recycling: Any = None, profile: Any = None) -> 'TorchLinker':
        """A new linker for `fgraph`, so that modes, which keep a linker, do not keep graphs alive."""
        linker = self.clone()
        linker.fgraph = fgraph
        return linker

    def accept_var_updates(self, updated_vars: dict) -> None:
        """`updated_vars` maps shared inputs to the outputs that are their new values after each call."""
        self.updated_vars = updated_vars

    def clone(self, allow_gc: bool | None = None) -> 'TorchLinker':
        """A linker with the same settings, without a graph."""
        return type(self)(self.device, self.precision, self.capture)

    def mode(self) -> Mode:
        """The mode for this linker."""
        return Mode(self, 'fast_run').including('torch').excluding(*rewrites.EXCLUDED)

    def make_all(self, input_storage: list | None = None, output_storage: list | None = None,
                 storage_map: dict | None = None) -> tuple:
        """Theano's linker interface: (callable, input containers, output containers, thunks, order of nodes)."""
        order = starts_first(last_destroyers_last(self.schedule(self.fgraph)))
        for node in order:
            check_supported(node)
        prepared = {node: prepare(node.op, node, self) for node in order}
        input_storage, output_storage, storage_map = map_storage(
            self.fgraph, order, input_storage, output_storage, storage_map)
        updated = [var for var in self.fgraph.inputs if var in self.updated_vars]
        runner = Runner(self.fgraph, order, input_storage, output_storage, updated, torch.device(self.device),
                        PRODUCT_DTYPES[self.precision], self.capture, prepared)
        return (runner,
                [Container(var, cell) for var, cell in zip(self.fgraph.inputs, input_storage, strict=True)],
                [Container(var, cell, readonly=True) for var, cell in
                 zip(self.fgraph.outputs, output_storage, strict=True)],
                [], order)


def last_destroyers_last(order: list) -> list:
    """Move nodes that destroy their inputs, and nodes that need their outputs, to the end of `order`.

    A run that turns out to need another program (`errors.WrongShapes`) has then not destroyed anything.
    """
    late = set()
    for node in order:
        if getattr(node.op, 'destroy_map', None) or any(var.owner in late for var in node.inputs):
            late.add(node)
    return [node for node in order if node not in late] + [node for node in order if node in late]


def starts_first(order: list) -> list:
    """Move nodes that only a single starting node (``starts``, see `registry.lower`) needs as early as possible.

    All other nodes keep their order, and thus their memory use. The first node that destroys its inputs, and all nodes
    after it, keep their places.
    """
    last = next((index for index, node in enumerate(order) if getattr(node.op, 'destroy_map', None)), len(order))
    clients: dict = {node: [] for node in order}
    missing: dict = {}      # {node: number of its inputs that are not computed yet}
    for node in order:
        owners = {var.owner for var in node.inputs} - {None}
        missing[node] = len(owners)
        for owner in owners:
            clients[owner].append(node)
    needed_by: dict = {node: {None} for node in order[last:]}   # None stands for all nodes that start nothing.
    for node in reversed(order[:last]):
        needed_by[node] = {node} if getattr(node.op, 'starts', False) else \
            set().union(*(needed_by[client] for client in clients[node])) or {None}
    early = {node for node, starts in needed_by.items() if len(starts) == 1 and None not in starts}
    result: list = []
    done: set = set()
    for node in order[:last]:
        ready = [node] if node not in done and not (node in early and missing[node]) else []
        while ready:
            current = ready.pop()
            result.append(current)
            done.add(current)
            for client in reversed(clients[current]):
                missing[client] -= 1
                if client in early and not missing[client]:
                    ready.append(client)
    return result + order[last:]


def check_supported(node: Any) -> None:
    """Raise `UnsupportedOp` at compilation for a node that cannot run."""
    if hosts.has_python_code(node.op):
        return
    if isinstance(node.op, Elemwise):
        check_scalar(node.op.scalar_op, node)
    elif not is_registered(node.op):
        lower(node.op, node, None)      # type: ignore[arg-type]  # Only raises.


def check_scalar(op: Any, node: Any) -> None:
    """Raise `UnsupportedOp` if `op`, a scalar op of `node`, or a scalar op within it is unknown."""
    if isinstance(op, Composite):
        for inner in op.fgraph.apply_nodes:
            check_scalar(inner.op, inner)
    elif lower_scalar.dispatch(type(op)) is lower_scalar.dispatch(object):
        lower_scalar(op, node)
