"""Infer symbolic shapes only for variables whose shape a rewrite requests.

Theano infers the shapes of all variables of a graph, and of all that rewrites add. This takes two thirds of the time to
compile a training step, mostly for unused shapes. `ShapesOnDemand` replaces this feature and gives the same shapes, but
infers them on first use.
"""

from typing import Any

import theano
from theano import gof
from theano.compile.ops import Shape_i
from theano.tensor.opt import ShapeFeature


class ShapesOnDemand(ShapeFeature):
    """Theano's ShapeFeature with a table `shape_of` that fills itself."""

    def on_attach(self, fgraph: gof.FunctionGraph) -> None:
        if hasattr(fgraph, 'shape_feature'):
            raise gof.toolbox.AlreadyThere('the graph has a shape_feature')
        fgraph.shape_feature = self
        self.lscalar_one = theano.tensor.constant(1, dtype='int64')
        self.shape_of = _ShapeTable(self)
        self.shape_of_reverse_index: dict = {}
        self.scheduled: dict = {}

    def on_import(self, fgraph: gof.FunctionGraph, node: Any, reason: Any) -> None:
        """Do nothing: the shapes of the node's outputs are inferred on first use."""

    def on_change_input(self, fgraph: gof.FunctionGraph, node: Any, i: int, r: Any, new_r: Any, reason: Any) -> None:
        """`new_r` replaces `r`: transfer known shapes between them."""
        requested = any(isinstance(getattr(client, 'op', None), Shape_i) for client, _ in [*r.clients, (node, i)])
        if requested or r in self.shape_of or r in self.shape_of_reverse_index or r in self.scheduled.values():
            self.infer(r)
            self.infer(new_r)
            super().on_change_input(fgraph, node, i, r, new_r, reason)

    def infer(self, var: Any) -> None:
        """Enter the shape of `var`, and the shapes of ancestors that it needs, into the table."""
        pending = [var]
        while pending:
            node = pending[-1].owner
            missing = [] if node is None else [r for r in node.inputs if r not in self.shape_of]
            if missing:
                pending.extend(missing)
                continue
            done = pending.pop()
            if done in self.shape_of:
                continue
            if node is None:
                self.init_r(done)
            else:
                super().on_import(None, node, None)


class _ShapeTable(dict):
    """Variable -> shape, inferred on first use."""

    def __init__(self, feature: ShapesOnDemand) -> None:
        super().__init__()
        self.feature = feature

    def __missing__(self, var: Any) -> tuple | None:
        self.feature.infer(var)
        return self[var]


class InferShapesOnDemand(gof.Optimizer):
    """Attaches the feature; rewrites nothing."""

    def add_requirements(self, fgraph: gof.FunctionGraph) -> None:
        fgraph.attach_feature(ShapesOnDemand())

    def apply(self, fgraph: gof.FunctionGraph) -> None:
        pass


# At the position of Theano's own ShapeOpt, which this engine's modes exclude.
theano.compile.optdb.register('torch_shapes', InferShapesOnDemand(), 0.1, 'torch')
