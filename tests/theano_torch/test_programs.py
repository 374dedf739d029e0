"""Ten typical user programs (`benchmarks/programs.py`) train to the same values as on Theano's engines.

The values were recorded by `np.savez(path, **{name: values('python', name) for name in PROGRAMS})` with NumPy 1.26.
"""

import numpy as np
import pytest

import theano_env
from benchmarks.programs import PROGRAMS
from tests.helpers import load_golden

# Small sizes, since compiling takes most of the time anyway.
SMALL = {'logistic_regression': dict(batch=8, size=6), 'mlp': dict(batch=8, size=6, units=10),
         'lenet': dict(batch=3, size=16, filters=(2, 3), units=5), 'lstm': dict(batch=4, length=5, inputs=3, units=6),
         'rbm': dict(batch=4, size=4, units=5, steps=3), 'autoencoder': dict(batch=6, size=5, units=8),
         'lasagne_mnist': dict(batch=3, size=16, filters=2, units=6),
         'lasagne_lstm': dict(batch=4, length=5, inputs=3, units=6), 'vae': dict(batch=4, size=5, units=8, codes=3),
         'word_embedding': dict(batch=8, words=40, context=3, width=4, units=6)}
STEPS = 10


def values(engine, name):
    """Outputs of all steps, (STEPS, number of outputs)."""
    theano_env.configure(engine, {'device': 'cpu', 'floatX': 'float32'})
    step = PROGRAMS[name](**SMALL[name])
    return np.array([[float(value) for value in step(number)] for number in range(STEPS)])


@pytest.mark.parametrize('engine', ['torch', 'theano'])
@pytest.mark.parametrize('name', PROGRAMS)
def test_same_values_as_on_theanos_engines(name, engine, restore_theano_config):
    recorded = load_golden('theano_programs')[0][name]
    assert recorded.shape[0] == STEPS and np.ptp(recorded[:, 0]) > 1e-4     # The outputs change.
    # Float32 has seven digits, some of which ten training steps lose.
    np.testing.assert_allclose(values(engine, name), recorded, rtol=1e-4, atol=1e-5)
