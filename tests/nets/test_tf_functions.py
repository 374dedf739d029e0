"""nets/tf_functions.py: objects by name, small expressions, evaluation and assignment."""

import numpy as np
import pytest
import theano
import theano.tensor as T

import tfutil_shim
import theano_env
from common.errors import UserError
from nets.network import Network
from tests.helpers import ANY_ENGINE
from tfutil_shim import Updates


@pytest.fixture(autouse=True)
def quick_engine(restore_theano_config):
    theano_env.configure(ANY_ENGINE)


def test_import_and_call_by_name():
    assert tfutil_shim.import_obj('operator.add')(1, 2) == tfutil_shim.call_func_by_name(1, 2, func='operator.add') == 3
    assert tfutil_shim.import_obj('tfutil_shim.Network.run') is Network.run
    assert tfutil_shim.call_func_by_name(func=dict, a=1) == {'a': 1}
    with pytest.raises(UserError, match='func=None'):
        tfutil_shim.call_func_by_name(1)


def test_import_of_a_module_with_a_missing_import_is_not_blamed_on_the_name(tmp_path, monkeypatch):
    (tmp_path / 'needs_something.py').write_text('import something_that_is_not_there\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match='something_that_is_not_there'):
        tfutil_shim.import_obj('needs_something.func')


def test_small_expressions():
    x = T.fvector()
    for function, expected in [
        (lambda x: tfutil_shim.lerp(x, 3.0, 0.25), [0.75, 2.25, 6.75]),
        (lambda x: tfutil_shim.lerp_clip(x, 2.0, 1.5), [2, 2, 2]),
        (lambda x: tfutil_shim.lerp_clip(x, 2.0, x), [0, 2, 2]),
        (tfutil_shim.exp2, [1, 4, 256]),
        (lambda x: tfutil_shim.log2(x + 8), [3, np.log2(10), 4]),
    ]:
        array = np.float32([0, 2, 8])
        for result in (function(array), theano.function([x], function(x))(array)):
            np.testing.assert_allclose(result, expected, rtol=1e-6)     # float32 rounding.
    assert tfutil_shim.flatten(np.zeros((2, 3))).shape == (6,)
    assert tfutil_shim.shape_to_list((None, np.int64(3))) == [None, 3]
    assert tfutil_shim.is_tf_expression(x) and not tfutil_shim.is_tf_expression(1.0)


def test_imports_in_two_steps():
    module, rest = tfutil_shim.import_module('tfutil_shim.Network.run')
    assert (module, rest) == (tfutil_shim, 'Network.run')
    assert tfutil_shim.find_obj_in_module(module, rest) is Network.run
    assert tfutil_shim.import_module('np.random') == (np.random, '')
    assert tfutil_shim.import_obj('np.random') is np.random and tfutil_shim.import_obj('np.float32') is np.float32
    assert tfutil_shim.find_obj_in_module(np, '') is np
    with pytest.raises(UserError, match="there is no 'runs' in tfutil_shim.Network; did you mean 'run'"):
        tfutil_shim.find_obj_in_module(tfutil_shim, 'Network.runs')
    with pytest.raises(UserError, match="no module 'tf'"):
        tfutil_shim.import_module('tf.train')


def test_set_vars():
    variable = theano.shared(np.zeros(2, 'f'))
    tfutil_shim.set_vars({variable: [5, 6]})
    np.testing.assert_array_equal(variable.get_value(), np.float32([5, 6]))
    tfutil_shim.init_uninited_vars([variable])
    np.testing.assert_array_equal(variable.get_value(), np.float32([5, 6]))
    with pytest.raises(ValueError, match='shape'):
        tfutil_shim.set_vars({variable: [1]})


def test_run_evaluates_any_structure():
    variable, x = theano.shared(np.zeros(2, 'f')), T.fvector()
    assert tfutil_shim.run(Updates({variable: variable + x}), {x: [1, 2]}) is None
    np.testing.assert_array_equal(tfutil_shim.run(variable * 2), [2, 4])
    assert [list(a) for a in tfutil_shim.run([variable, variable + x], {x: [1, 1]})] == [[1, 2], [2, 3]]
    result = tfutil_shim.run({'a': variable, 'b': (x, [Updates({variable: variable + 1})])}, {x: [7, 8]})
    assert list(result['a']) == [1, 2] and list(result['b'][0]) == [7, 8] and result['b'][1] == [None]
    assert type(result['b']) is tuple and list(variable.get_value()) == [2, 3]
    assert tfutil_shim.run([]) == [] and tfutil_shim.run({}) == {}
    # A dict is a structure even if its keys are variables: its expressions are evaluated, nothing is assigned.
    result = tfutil_shim.run({variable: variable + 1, 3: x}, {x: [7, 8]})
    assert list(result[variable]) == [3, 4] and list(result[3]) == [7, 8] and list(variable.get_value()) == [2, 3]
    with pytest.raises(TypeError, match="cannot evaluate 'x'"):
        tfutil_shim.run(['x'])


def test_run_carries_out_updates_at_the_same_moment():
    a, b = theano.shared(np.float32(1)), theano.shared(np.float32(10))
    assert tfutil_shim.run([Updates({a: b}), Updates({b: a + 1}), a + b]) == [None, None, 11]
    assert (a.get_value(), b.get_value()) == (10, 2)
    with pytest.raises(ValueError, match='two updates'):
        tfutil_shim.run([Updates({a: b}), Updates({a: a + 1})])


def test_run_feeds_inputs_variables_and_intermediate_results():
    variable, x = theano.shared(np.float32(3), name='variable'), T.fscalar('x')
    middle = variable * x
    result = middle + 1
    assert tfutil_shim.run(result, {x: 2}) == 7
    assert tfutil_shim.run(result, {x: 2, variable: 10}) == 21
    assert tfutil_shim.run(result, {middle: 5}) == 6
    assert variable.get_value() == 3
    assert tfutil_shim.run(Updates({variable: variable + x}), {variable: 10, x: 2}) is None
    assert variable.get_value() == 12


def test_run_compiles_the_same_expressions_once(monkeypatch):
    variable, x = theano.shared(np.float32(0)), T.fscalar('x')
    step, compiled, function = Updates({variable: variable + x}), [], theano.function
    monkeypatch.setattr(theano, 'function', lambda *args, **kwargs: compiled.append(1) or function(*args, **kwargs))
    for value in (1, 2, 3):
        tfutil_shim.run([step], {x: value})
    assert variable.get_value() == 6 and len(compiled) == 1
    step[variable] = variable - x       # Another update of the same name.
    tfutil_shim.run([step], {x: 4})
    assert variable.get_value() == 2 and len(compiled) == 2


def test_init_tf_chooses_engine_and_flags():
    environment = tfutil_shim.init_tf({'engine': ANY_ENGINE, 'device': 'cpu', 'graph_options.place_pruned_graph': True,
                                       'gpu_options.allow_growth': True})
    assert environment.engine == ANY_ENGINE
    with pytest.raises(theano_env.EnvironmentProblem, match='floatx'):
        tfutil_shim.init_tf({'engine': ANY_ENGINE, 'floatx': 'float32'})
