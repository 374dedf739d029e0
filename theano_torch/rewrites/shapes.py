"""Symbolic shapes only of those variables that a rewrite asks for.

Theano infers the shapes of all variables of a graph, and again of all that its rewrites bring in: two thirds of the
time that compiling a training step takes, most of it for shapes that nobody looks at. `ShapesOnDemand` stands in for
that feature, gives the same answers, and infers when it is asked.
"""

from typing import Any

import theano
from theano import gof
from theano.compile.ops import Shape_i
from theano.tensor.opt import ShapeFeature


class ShapesOnDemand(ShapeFeature):
    """Theano's ShapeFeature whose table `shape_of` fills itself."""

    def on_attach(self, fgraph: gof.FunctionGraph) -> None:
        if hasattr(fgraph, 'shape_feature'):
            raise gof.toolbox.AlreadyThere('the graph has a shape_feature')
        fgraph.shape_feature = self
        self.lscalar_one = theano.tensor.constant(1, dtype='int64')
        self.shape_of = _ShapeTable(self)
        self.shape_of_reverse_index: dict = {}
        self.scheduled: dict = {}

    def on_import(self, fgraph: gof.FunctionGraph, node: Any, reason: Any) -> None:
        """Nothing: the shapes of the new node's outputs are inferred when someone asks."""

    def on_change_input(self, fgraph: gof.FunctionGraph, node: Any, i: int, r: Any, new_r: Any, reason: Any) -> None:
        """`new_r` takes the place of `r`: what is known about the shape of one holds for the other."""
        asked = any(isinstance(getattr(client, 'op', None), Shape_i) for client, _ in [*r.clients, (node, i)])
        if asked or r in self.shape_of or r in self.shape_of_reverse_index or r in self.scheduled.values():
            self.infer(r)
            self.infer(new_r)
            super().on_change_input(fgraph, node, i, r, new_r, reason)

    def infer(self, var: Any) -> None:
        """Enter the shape of `var` into the table, and those of its ancestors that it takes."""
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
    """Variable -> its shape, which is inferred when it is missing."""

    def __init__(self, feature: ShapesOnDemand) -> None:
        super().__init__()
        self.feature = feature

    def __missing__(self, var: Any) -> tuple | None:
        self.feature.infer(var)
        return self[var]


class InferShapesOnDemand(gof.Optimizer):
    """Attaches the feature, and rewrites nothing."""

    def add_requirements(self, fgraph: gof.FunctionGraph) -> None:
        fgraph.attach_feature(ShapesOnDemand())

    def apply(self, fgraph: gof.FunctionGraph) -> None:
        pass


# Where Theano's own ShapeOpt stands, which the modes of this engine leave out.
theano.compile.optdb.register('torch_shapes', InferShapesOnDemand(), 0.1, 'torch')
