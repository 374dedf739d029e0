"""Time ten typical programs of Theano and Lasagne users on the torch engine and with Theano's C code.

    python -m benchmarks.programs
    python -m benchmarks.programs lstm rbm --seconds 2

The Markdown table shows milliseconds per training step, as wall-clock and processor time: medians over rounds in which
the engines take turns, each in its own process. Needs g++ and NumPy 1; the first run spends minutes on compiling C
code. Theano's C loop does not compile on Python 3.11 and newer. There, the reference for `lstm`, `rbm` and
`lasagne_lstm` is Theano's Python loop, whose ops are C code. `tests/theano_torch/test_programs.py` compares the values.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from theano_torch.compat import T, lasagne, theano

import numpy as np

import theano_env

ENGINES = {'torch': 'torch', 'theano': 'C'}
CLASSES = 10


# ----------------------------------------------------------------------------------------------------------------------
# Helpers of the programs. Each program makes parameters and data, compiles, and returns a function: it takes the number
# of a step, trains one step and returns the values that the user's program would print.


class Data:
    """Random data and initial parameters, the same for every program; they replace MNIST."""

    def __init__(self):
        self.random = np.random.RandomState(1)

    def images(self, count, size=28):
        """float32 array (count, size * size) of values from 0 to 1."""
        return self.random.rand(count, size * size).astype('float32')

    def classes(self, count):
        return self.random.randint(0, CLASSES, count).astype('int32')

    def sequences(self, *shape):
        return self.random.randn(*shape).astype('float32')

    def weights(self, *shape):
        """A shared variable with Glorot's uniform initialization."""
        bound = np.sqrt(6 / (np.prod(shape[1:]) + shape[0]))
        return theano.shared(self.random.uniform(-bound, bound, shape).astype('float32'))


def zeros(*shape):
    return theano.shared(np.zeros(shape, 'float32'))


def descent(cost, parameters, rate):
    return [(parameter, parameter - rate * gradient)
            for parameter, gradient in zip(parameters, T.grad(cost, parameters), strict=True)]


def with_momentum(cost, parameters, rate, momentum=0.9):
    updates = []
    for parameter, gradient in zip(parameters, T.grad(cost, parameters), strict=True):
        velocity = theano.shared(np.zeros_like(parameter.get_value()))
        moved = momentum * velocity - rate * gradient
        updates += [(velocity, moved), (parameter, parameter + moved)]
    return updates


def streams(seed):
    from theano.sandbox.rng_mrg import MRG_RandomStreams
    return MRG_RandomStreams(seed)


# ----------------------------------------------------------------------------------------------------------------------
# The programs.


def logistic_regression(batch=32, size=28):
    """Minibatches are slices of shared variables; the cost indexes the log likelihoods with the classes."""
    data = Data()
    x, y, index = T.fmatrix(), T.ivector(), T.lscalar()
    W, b = zeros(size * size, CLASSES), zeros(CLASSES)
    probabilities = T.nnet.softmax(T.dot(x, W) + b)
    cost = -T.mean(T.log(probabilities)[T.arange(y.shape[0]), y])
    errors = T.mean(T.neq(T.argmax(probabilities, axis=1), y))
    images, classes = theano.shared(data.images(4 * batch, size)), theano.shared(data.classes(4 * batch))
    here = slice(index * batch, (index + 1) * batch)
    train = theano.function([index], [cost, errors], updates=descent(cost, [W, b], 0.1),
                            givens={x: images[here], y: classes[here]})
    return lambda step: train(step % 4)


def mlp(batch=128, size=28, units=500):
    """One hidden tanh layer, L1 and L2 penalties, momentum."""
    data = Data()
    x, y = T.fmatrix(), T.ivector()
    W, b, V, c = data.weights(size * size, units), zeros(units), data.weights(units, CLASSES), zeros(CLASSES)
    hidden = T.tanh(T.dot(x, W) + b)
    probabilities = T.nnet.softmax(T.dot(hidden, V) + c)
    penalty = 1e-4 * ((W ** 2).sum() + (V ** 2).sum()) + 1e-5 * (abs(W).sum() + abs(V).sum())
    cost = T.nnet.categorical_crossentropy(probabilities, y).mean() + penalty
    train = theano.function([x, y], cost, updates=with_momentum(cost, [W, b, V, c], 0.01))
    images, classes = data.images(batch, size), data.classes(batch)
    return lambda step: [train(images, classes)]


def lenet(batch=128, size=28, filters=(20, 50), units=500):
    """Two convolutions of 5x5, each followed by max pooling and tanh, and two dense layers."""
    from theano.tensor.signal.pool import pool_2d
    data = Data()
    x, y = T.fmatrix(), T.ivector()
    layer, channels, side, parameters = x.reshape((-1, 1, size, size)), 1, size, []
    for count in filters:
        W, b = data.weights(count, channels, 5, 5), zeros(count)
        pooled = pool_2d(T.nnet.conv2d(layer, W), (2, 2), ignore_border=True)
        layer = T.tanh(pooled + b.dimshuffle('x', 0, 'x', 'x'))
        channels, side, parameters = count, (side - 4) // 2, [*parameters, W, b]
    W, b, V, c = data.weights(channels * side * side, units), zeros(units), data.weights(units, CLASSES), zeros(CLASSES)
    hidden = T.tanh(T.dot(layer.flatten(2), W) + b)
    cost = T.nnet.categorical_crossentropy(T.nnet.softmax(T.dot(hidden, V) + c), y).mean()
    train = theano.function([x, y], cost, updates=descent(cost, [*parameters, W, b, V, c], 0.05))
    images, classes = data.images(batch, size), data.classes(batch)
    return lambda step: [train(images, classes)]


def lstm(batch=128, length=30, inputs=20, units=64):
    """An LSTM written with scan, whose gates are slices of one product; the last state is classified."""
    data = Data()
    x, y = T.ftensor3(), T.ivector()
    W, U, b = data.weights(inputs, 4 * units), data.weights(units, 4 * units), zeros(4 * units)
    V, c = data.weights(units, CLASSES), zeros(CLASSES)

    def step(row, hidden, cell):
        gates = row + T.dot(hidden, U)
        i, f, o, g = (gates[:, number * units:(number + 1) * units] for number in range(4))
        cell = T.nnet.sigmoid(f) * cell + T.nnet.sigmoid(i) * T.tanh(g)
        return T.nnet.sigmoid(o) * T.tanh(cell), cell

    start = T.zeros((x.shape[1], units), 'float32')
    (hidden, _), _ = theano.scan(step, sequences=T.dot(x, W) + b, outputs_info=[start, start])
    cost = T.nnet.categorical_crossentropy(T.nnet.softmax(T.dot(hidden[-1], V) + c), y).mean()
    train = theano.function([x, y], cost, updates=descent(cost, [W, U, b, V, c], 0.1))
    sequences, classes = data.sequences(length, batch, inputs), data.classes(batch)
    return lambda step: [train(sequences, classes)]


def rbm(batch=128, size=28, units=100, steps=5):
    """A restricted Boltzmann machine, trained by contrastive divergence; a scan draws the Gibbs samples."""
    data = Data()
    x, rng = T.fmatrix(), streams(7)
    W, visible_bias, hidden_bias = data.weights(size * size, units), zeros(size * size), zeros(units)

    def sample(means):
        return rng.binomial(size=means.shape, n=1, p=means, dtype='float32')

    def hidden_means(visible):
        return T.nnet.sigmoid(T.dot(visible, W) + hidden_bias)

    def gibbs(hidden):
        means = T.nnet.sigmoid(T.dot(hidden, W.T) + visible_bias)
        visible = sample(means)
        return means, visible, sample(hidden_means(visible))

    def free_energy(visible):
        return -T.dot(visible, visible_bias) - T.nnet.softplus(T.dot(visible, W) + hidden_bias).sum(axis=1)

    (means, visible, _), updates = theano.scan(gibbs, outputs_info=[None, None, sample(hidden_means(x))], n_steps=steps)
    end = visible[-1]
    cost = free_energy(x).mean() - free_energy(end).mean()
    parameters = [W, visible_bias, hidden_bias]
    for parameter, gradient in zip(parameters, T.grad(cost, parameters, consider_constant=[end]), strict=True):
        updates[parameter] = parameter - 0.1 * gradient
    distance = T.nnet.binary_crossentropy(means[-1], x).sum(axis=1).mean()
    train = theano.function([x], [cost, distance], updates=updates)
    images = (data.images(batch, size) > 0.5).astype('float32')
    return lambda step: train(images)


def autoencoder(batch=128, size=28, units=256):
    """A denoising autoencoder with tied weights; an op that calls NumPy's generator draws the noise."""
    from theano.tensor.shared_randomstreams import RandomStreams
    data = Data()
    x, rng = T.fmatrix(), RandomStreams(3)
    W, b, c = data.weights(size * size, units), zeros(units), zeros(size * size)
    corrupted = rng.binomial(size=x.shape, n=1, p=0.7, dtype='float32') * x
    code = T.nnet.sigmoid(T.dot(corrupted, W) + b)
    image = T.nnet.sigmoid(T.dot(code, W.T) + c)
    cost = -(x * T.log(image) + (1 - x) * T.log(1 - image)).sum(axis=1).mean()
    train = theano.function([x], cost, updates=descent(cost, [W, b, c], 0.01))
    images = data.images(batch, size)
    return lambda step: [train(images)]


def lasagne_mnist(batch=128, size=28, filters=32, units=128):
    """Convolution, max pooling, dropout and dense layers of Lasagne; a second function measures the accuracy."""
    from lasagne import layers
    data = Data()
    lasagne.random.set_rng(data.random)
    x, y = T.tensor4(), T.ivector()
    net = layers.InputLayer((None, 1, size, size), x)
    for _ in range(2):
        net = layers.MaxPool2DLayer(layers.Conv2DLayer(net, filters, (5, 5)), (2, 2))
    net = layers.DenseLayer(layers.dropout(net, 0.5), units)
    net = layers.DenseLayer(layers.dropout(net, 0.5), CLASSES, nonlinearity=lasagne.nonlinearities.softmax)
    cost = lasagne.objectives.categorical_crossentropy(layers.get_output(net), y).mean()
    parameters = layers.get_all_params(net, trainable=True)
    train = theano.function([x, y], cost, updates=lasagne.updates.nesterov_momentum(cost, parameters, 0.01, 0.9))
    classified = T.argmax(layers.get_output(net, deterministic=True), axis=1)
    validate = theano.function([x, y], T.mean(T.eq(classified, y), dtype='float32'))
    images, classes = data.images(batch, size).reshape(batch, 1, size, size), data.classes(batch)
    return lambda step: [train(images, classes), validate(images, classes)]


def lasagne_lstm(batch=128, length=30, inputs=20, units=64):
    """Lasagne's LSTM layer, whose last state is classified, and Adam."""
    from lasagne import layers
    data = Data()
    lasagne.random.set_rng(data.random)
    x, y = T.ftensor3(), T.ivector()
    net = layers.LSTMLayer(layers.InputLayer((batch, length, inputs), x), units, grad_clipping=100)
    net = layers.DenseLayer(layers.SliceLayer(net, -1, 1), CLASSES, nonlinearity=lasagne.nonlinearities.softmax)
    cost = lasagne.objectives.categorical_crossentropy(layers.get_output(net), y).mean()
    train = theano.function([x, y], cost, updates=lasagne.updates.adam(cost, layers.get_all_params(net)))
    sequences, classes = data.sequences(batch, length, inputs), data.classes(batch)
    return lambda step: [train(sequences, classes)]


def vae(batch=128, size=28, units=400, codes=20):
    """A variational autoencoder: noise from Theano's generator, binary cross-entropy, Adam."""
    data = Data()
    x, rng = T.fmatrix(), streams(5)
    W, b, M, S = data.weights(size * size, units), zeros(units), data.weights(units, codes), data.weights(units, codes)
    D, c, V, d = data.weights(codes, units), zeros(units), data.weights(units, size * size), zeros(size * size)
    hidden = T.nnet.relu(T.dot(x, W) + b)
    mean, log_variance = T.dot(hidden, M), T.dot(hidden, S)
    code = mean + T.exp(0.5 * log_variance) * rng.normal(mean.shape, dtype='float32')
    image = T.nnet.sigmoid(T.dot(T.nnet.relu(T.dot(code, D) + c), V) + d)
    divergence = -0.5 * (1 + log_variance - mean ** 2 - T.exp(log_variance)).sum(axis=1)
    cost = (T.nnet.binary_crossentropy(image, x).sum(axis=1) + divergence).mean()
    train = theano.function([x], cost, updates=lasagne.updates.adam(cost, [W, b, M, S, D, c, V, d]))
    images = data.images(batch, size)
    return lambda step: [train(images)]


def word_embedding(batch=64, words=5000, context=5, width=50, units=100):
    """A language model over five words; updates change only the embedding rows of the words in the minibatch."""
    data = Data()
    indices, targets = T.imatrix(), T.ivector()
    embeddings, W, b = data.weights(words, width), data.weights(context * width, units), zeros(units)
    V = data.weights(units, words)
    rows = embeddings[indices.flatten()]
    hidden = T.tanh(T.dot(rows.reshape((indices.shape[0], context * width)), W) + b)
    probabilities = T.nnet.softmax(T.dot(hidden, V))
    cost = -T.mean(T.log(probabilities[T.arange(targets.shape[0]), targets]))
    updates = [(embeddings, T.inc_subtensor(rows, -0.5 * T.grad(cost, rows))), *descent(cost, [W, b, V], 0.1)]
    train = theano.function([indices, targets], cost, updates=updates)
    read = data.random.randint(0, words, (batch, context)).astype('int32')
    read[:, 0] = 7      # All texts share a word, so its row is updated several times.
    follows = data.random.randint(0, words, batch).astype('int32')
    return lambda step: [train(read, follows)]


PROGRAMS = {program.__name__: program for program in (
    logistic_regression, mlp, lenet, lstm, rbm, autoencoder, lasagne_mnist, lasagne_lstm, vae, word_embedding)}


# ----------------------------------------------------------------------------------------------------------------------
# Times.


def work(engine, name, seconds):
    """Compile a program; then, for each line of standard input, time it and print a line of JSON."""
    theano_env.configure(engine, {'device': 'cpu', 'floatX': 'float32'})
    start = time.time()
    step = PROGRAMS[name]()
    for number in range(3):
        step(number)
    print(json.dumps({'compile': time.time() - start}), flush=True)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        for number in itertools.count(1):
            step(number)
            elapsed = time.perf_counter() - wall
            if elapsed > seconds:
                break
        print(json.dumps({'wall': 1000 * elapsed / number,
                          'processor': 1000 * (time.process_time() - processor) / number}), flush=True)


class Worker:
    """A child process that times a program on an engine on request, see :func:`work`."""

    def __init__(self, engine, name, args):
        command = [sys.executable, '-m', 'benchmarks.programs', name, '--seconds', str(args.seconds), '--work', engine]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                                        env={**os.environ, 'OMP_NUM_THREADS': str(args.threads)})
        self.compile = self.read()['compile']

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f'programs.py: error: {self.process.args} has ended')
        return json.loads(line)

    def time(self):
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        return self.read()

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def compare(name, args):
    """Time a program on both engines; return its row of the table."""
    workers = {engine: Worker(engine, name, args) for engine in ENGINES}
    times = {engine: [] for engine in ENGINES}
    for _ in range(args.rounds):
        for engine, worker in workers.items():
            times[engine].append(worker.time())
    for worker in workers.values():
        worker.end()
    cells = [name.replace('_', ' ')]
    for clock in ('wall', 'processor'):
        ours, theirs = ([found[clock] for found in times[engine]] for engine in ENGINES)
        ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
        cells += ['%.2f' % statistics.median(ours), '%.2f' % statistics.median(theirs),
                  '%.2f (%.2f - %.2f)' % (statistics.median(ratios), ratios[0], ratios[-1])]
    return '| %s |' % ' | '.join([*cells, *['%.0f' % workers[engine].compile for engine in ENGINES]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'programs: {", ".join(PROGRAMS)}; default: all')
    parser.add_argument('--rounds', type=int, default=7, help='default: %(default)s')
    parser.add_argument('--seconds', type=float, default=1, help='per engine and round; default: %(default)s')
    parser.add_argument('--threads', type=int, default=2, help='threads per engine; default: %(default)s')
    parser.add_argument('--work', choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = set(args.names) - set(PROGRAMS)
    if unknown:
        parser.error(f'no such program: {", ".join(sorted(unknown))}')
    if args.work:
        work(args.work, args.names[0], args.seconds)
        return
    heads = [f'{engine}, {clock}' for clock in ('ms', 'processor ms') for engine in (*ENGINES.values(), 'torch / C')]
    print('| program | %s |' % ' | '.join([*heads, 'compile s, torch', 'C']))
    print('| --- |%s' % (' ---: |' * (len(heads) + 2)))
    for name in args.names or PROGRAMS:
        print(compare(name, args), flush=True)


if __name__ == '__main__':
    main()
