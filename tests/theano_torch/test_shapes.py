"""theano_torch/rewrites/shapes.py: shapes are correct and computed only for variables whose shape is requested."""

from theano_torch.rewrites.shapes import ShapesOnDemand

import numpy as np
import pytest
import theano
import theano.tensor as T
from theano import gof
from theano.tensor.opt import ShapeFeature


def graph():
    x, w = T.tensor4('x'), T.tensor4('w')
    y = T.nnet.conv2d(x, w, border_mode='half')
    y = T.signal.pool.pool_2d(y, (2, 2), ignore_border=True, mode='average_exc_pad')
    z = T.concatenate([y.sum(axis=(2, 3)), T.alloc(1.0, y.shape[0], 3)], axis=1)
    return [x, w], [y, z, T.nnet.relu(z).T[1:]]


VALUES = [np.ones((5, 2, 8, 6), np.float32), np.ones((7, 2, 3, 3), np.float32)]


def attached(feature, inputs, outputs):
    """(graph with `feature`, its inputs, its outputs), all of them copies."""
    fgraph = gof.FunctionGraph(inputs, outputs)
    fgraph.attach_feature(feature)
    return fgraph, fgraph.inputs, fgraph.outputs


def value_of(shape, inputs):
    return [int(theano.function(inputs, size, mode='FAST_COMPILE', on_unused_input='ignore')(*VALUES))
            for size in map(T.as_tensor_variable, shape)]


@pytest.mark.parametrize('index, expected', [(0, [5, 7, 4, 3]), (1, [5, 10]), (2, [9, 5])])
def test_shapes_are_right(index, expected):
    fgraph, inputs, outputs = attached(ShapesOnDemand(), *graph())
    shape = fgraph.shape_feature.shape_of[outputs[index]]
    fgraph.disown()
    assert value_of(shape, inputs) == expected


def test_nothing_is_inferred_before_somebody_asks():
    fgraph, inputs, outputs = attached(ShapesOnDemand(), *graph())
    feature = fgraph.shape_feature
    fgraph.replace(outputs[2], T.exp(outputs[2]))
    assert not feature.shape_of
    feature.shape_of[outputs[0]]
    assert outputs[0] in feature.shape_of and inputs[0] in feature.shape_of and outputs[1] not in feature.shape_of


def test_known_shape_passes_to_what_replaces_a_variable():
    """If an op with unknown shape replaces a variable, the known shape is kept, as in Theano's `ShapeFeature`."""
    class Opaque(gof.Op):
        __props__ = ()

        def make_node(self, x):
            return gof.Apply(self, [x], [x.type()])

        def perform(self, node, inputs, output_storage):
            output_storage[0][0] = inputs[0] + 1

    x = T.matrix()
    for feature in (ShapesOnDemand(), ShapeFeature()):
        fgraph, (source,), (y,) = attached(feature, [x], [T.exp(x)])
        feature.shape_of[y]
        opaque = Opaque()(source)
        fgraph.replace(y, opaque)
        assert feature.same_shape(opaque, source)


def test_deep_graphs():
    x = y = T.vector()
    for _ in range(3000):
        y = T.tanh(y)
    fgraph, (x,), (y,) = attached(ShapesOnDemand(), [x], [y])
    assert fgraph.shape_feature.same_shape(x, y)


def test_a_graph_has_one_shape_feature():
    fgraph, inputs, outputs = attached(ShapesOnDemand(), *graph())
    with pytest.raises(gof.toolbox.AlreadyThere):
        ShapesOnDemand().on_attach(fgraph)
