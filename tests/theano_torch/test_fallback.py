"""Ops, scalar ops and types without a lowering run their own Python code on the host."""

import logging
import sys
import types

from theano_torch import errors

import numpy as np
import pytest
import scipy.sparse
import theano
import theano.tensor as T
from theano import scalar, sparse
from theano.gof.type import EnumList
from theano.tensor import elemwise

from tests.theano_torch.helpers import TORCH, numbers


class Counted(theano.Op):
    """Doubles the non-negative elements of its input, and counts its calls."""

    __props__ = ()
    calls = 0

    def make_node(self, x):
        return theano.Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        type(self).calls += 1
        outputs[0][0] = inputs[0][inputs[0] >= 0] * 2


class Tripled(scalar.UnaryScalarOp):
    def impl(self, x):
        return x * 3

    def c_code(self, *arguments):
        return ''       # Never compiled; Theano compares composite ops by their C code.


def test_an_own_op_runs_once_in_each_call(caplog):
    class Own(Counted):
        pass

    x = T.fvector()
    f = theano.function([x], T.exp(Own()(x) + 1), mode=TORCH)
    errors.warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, 'theano_torch'):
        for calls, values in enumerate([[1, 2], [3, 4], [-1, 2], [5, 6], [7, 8, 9]], 1):
            values = np.array(values, 'float32')
            np.testing.assert_allclose(f(values), np.exp(values[values >= 0] * 2 + 1), rtol=1e-5)
            assert Own.calls == calls
    assert [record.message.count('test_fallback.Own for') for record in caplog.records] == [1]
    # Such programs are never recorded.
    assert not any(program.is_fixed for programs in f.fn.programs.values() for program in programs)


def test_an_own_scalar_op_alone_and_in_others():
    x = T.fmatrix()
    triple = elemwise.Elemwise(Tripled(scalar.same_out))
    a = scalar.float32()
    composite = elemwise.Elemwise(scalar.Composite([a], [Tripled(scalar.same_out)(a) + 1]))
    f = theano.function([x], [triple(x) + x, composite(x), triple(x.T)], mode=TORCH)
    for rows in (2, 0):
        values = numbers(rows, 3)
        for value, wanted in zip(f(values), [values * 4, values * 3 + 1, values.T * 3], strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_an_own_op_gets_its_parameters():
    class Own(theano.Op):
        __props__ = ()
        params_type = EnumList(('ADD', '+'), ('SUB', '-'))

        def get_params(self, node):
            return '-'

        def make_node(self, x):
            return theano.Apply(self, [x], [x.type()])

        def perform(self, node, inputs, outputs, op):
            outputs[0][0] = inputs[0] + {self.params_type.ADD: 1, self.params_type.SUB: -1}[op]

    x = T.fvector()
    assert theano.function([x], Own()(x), mode=TORCH)([3]) == [2]


def test_errors_of_own_ops_stay_as_they_are():
    class Own(Counted):
        def perform(self, node, inputs, outputs):
            raise RuntimeError('a size that does not fit the shape')

    x = T.fvector()
    with pytest.raises(RuntimeError, match='does not fit'):
        theano.function([x], Own()(x), mode=TORCH)([3])


def test_graphs_as_ops_are_part_of_the_graph():
    x, y = T.fvectors('xy')
    shared = theano.shared(np.float32(2))
    inner = theano.OpFromGraph([x], [x * shared], grad_overrides=[lambda inputs, grads: grads[0] * 7] * 2)
    outer = theano.OpFromGraph([x, y], [inner(x) + y, y])
    first, second = outer(x, y)
    f = theano.function([x, y], [first, second, T.grad(inner(x).sum(), x)], mode=TORCH)
    assert [list(value) for value in f([1, 2], [3, 4])] == [[5, 8], [3, 4], [7, 7]]
    shared.set_value(np.float32(1))
    assert list(f([1, 2], [3, 4])[0]) == [4, 6]
    assert not any(isinstance(node.op, theano.OpFromGraph) for node in f.maker.fgraph.apply_nodes)


def test_lists_of_tensors(caplog):
    errors.warn_once.cache_clear()
    from theano import typed_list
    x = T.fvector()
    values = typed_list.TypedListType(T.fvector)()
    f = theano.function([values, x], [values[-1] * 2, typed_list.append(values, x), typed_list.length(values)],
                        mode=TORCH)
    given = [np.ones(2, 'float32'), np.zeros(3, 'float32')]
    for length in (2, 1):
        last, longer, count = f(given[:length], [5])
        np.testing.assert_array_equal(last, given[length - 1] * 2)
        assert [list(value) for value in longer] == [list(value) for value in given[:length]] + [[5]]
        assert count == length == len(given[:length])
    assert any('typed_list.basic.Append for' in record.message for record in caplog.records)


@pytest.mark.parametrize('kind', ['csr', 'csc'])
def test_sparse_matrices(kind):
    s, x = sparse.matrix(kind, dtype='float64'), T.dmatrix()
    dense = sparse.dense_from_sparse(s)
    f = theano.function([s, x], [sparse.dot(s, x), sparse.transpose(s), dense * 2, s.shape[0],
                                 T.grad(sparse.dot(s, x).sum(), x), sparse.sp_sum(s, axis=0), sparse.add(s, s),
                                 s[[0, 1], [1, 2]]],
                        mode=TORCH)
    for rows in (2, 3, 2):
        matrix = scipy.sparse.random(rows, 3, 0.5, kind, random_state=rows)
        values = numbers(3, 2, dtype='float64')
        product, transposed, doubled, size, gradient, total, added, picked = f(matrix, values)
        full = matrix.toarray()
        np.testing.assert_allclose(product, full @ values)
        np.testing.assert_array_equal(transposed.toarray(), full.T)
        np.testing.assert_array_equal(doubled, full * 2)
        assert size == rows
        np.testing.assert_allclose(gradient, full.T @ np.ones((rows, 2)))
        np.testing.assert_allclose(total, full.sum(axis=0))
        np.testing.assert_allclose(added.toarray(), full * 2)
        np.testing.assert_allclose(picked, full[[0, 1], [1, 2]], rtol=1e-6)      # The result has the type floatX.


def test_sizes_alone_of_what_depends_on_values():
    s, x = sparse.csr_matrix(dtype='float64'), T.dvector()
    f = theano.function([s, x], [s.size, x[x > 0].shape[0], Counted()(x).shape[0]], mode=TORCH)
    matrix = scipy.sparse.csr_matrix(np.zeros((2, 2)))
    assert [int(size) for size in f(matrix, [-1, -2])] == [0, 0, 0]
    assert [int(size) for size in f(matrix + np.eye(2), [1, -2])] == [2, 1, 1]


def test_a_shared_sparse_matrix():
    matrix = scipy.sparse.csr_matrix(np.eye(3))
    s, x = theano.shared(matrix), T.dvector()
    f = theano.function([x], sparse.dot(s, x.dimshuffle(0, 'x')), updates=[(s, sparse.add(s, s))], mode=TORCH)
    assert [f([1, 2, 3]).ravel().tolist() for _ in range(2)] == [[1, 2, 3], [2, 4, 6]]
    np.testing.assert_array_equal(s.get_value().toarray(), np.eye(3) * 4)


def test_breakpoints_pass_their_values_on(monkeypatch):
    from theano.tests import breakpoint as theanos
    stops = []
    monkeypatch.setattr(theanos, 'imp', types.SimpleNamespace(find_module=lambda name: True))
    monkeypatch.setitem(sys.modules, 'pudb', types.SimpleNamespace(set_trace=lambda: stops.append(1)))
    x, y = T.fvector(), T.fscalar()
    x_seen, y_seen = theanos.PdbBreakpoint('here')(T.gt(y, 2), x, y)
    f = theano.function([x, y], x_seen * y_seen, mode=TORCH)
    for factor in (1, 3, 1):
        np.testing.assert_array_equal(f([1, 2], factor), [factor, 2 * factor])
    assert len(stops) == 1


def test_pooling_over_four_dimensions():
    from theano.tensor.signal.pool import Pool
    x = T.TensorType('float32', (False,) * 5)()
    f = theano.function([x], Pool(True, 'max', 4)(x, (2, 1, 2, 2), (2, 1, 2, 2), (0, 0, 0, 0)), mode=TORCH)
    values = numbers(2, 4, 3, 2, 4)
    wanted = values.reshape(2, 2, 2, 3, 1, 2, 2, 2).max(axis=(2, 5, 7))
    np.testing.assert_array_equal(f(values), wanted)


def test_numbers_of_scalar_types_and_missing_arguments():
    from theano.tensor.nnet.nnet import Prepend_scalar_to_each_row
    x, n = T.fmatrix(), T.fscalar()
    number = T.scalar_from_tensor(n)
    f = theano.function([x, n], [Prepend_scalar_to_each_row()(number, x), Prepend_scalar_to_each_row()(5., x)],
                        mode=TORCH)
    for row in f([[1, 2]], 3):
        np.testing.assert_array_equal(row[0, 1:], [1, 2])
    assert [row[0, 0] for row in f([[1, 2]], 3)] == [3, 5]
    d = T.dscalar('d')
    f = theano.function([d], T.default(d, T.constant(7., dtype='float64')), mode=TORCH)
    assert [f(3), f(None), f(4)] == [3, 7, 4]
    n, m = T.iscalars('nm')
    f = theano.function([n, m], T.eye(n, m, 1, dtype='uint16'), mode=TORCH)
    assert [f(2, columns).tolist() for columns in (None, 3, None)] == [np.eye(2, columns, 1).tolist()
                                                                       for columns in (None, 3, None)]
    f = theano.function([theano.In(d, value=1., update=T.default(d, T.constant(5., dtype='float64')) + 1, name='d')], d,
                        mode=TORCH)
    f()
    assert f.value['d'] == 2
    f.value['d'] = None
    f()
    assert f.value['d'] == 6
    with pytest.raises(ValueError, match='(?s)no value.*Apply node.*d'):
        theano.function([d], d * 2, mode=TORCH)(None)
