"""Networks out of files: our own pickles, and those of the 2017 Theano and the 2018 TensorFlow release.

``python legacy.py PUBLISHED.pkl OURS.pkl`` converts a file. Nothing that is stored in a pickle is executed:
`safe_pickle` reads plain data, and our build functions recreate the networks; their outputs match the original
release. This is the only module that knows the old formats.

======= ==================== ===========================================================================================
release class                state
======= ==================== ===========================================================================================
2017    network.Network      build_func_spec {func: name, arguments}, param_values [array] in Lasagne's order,
                             toplevel_params {name: number}, build_module_src (source text, ignored)
2018    tfutil.Network       version 2, name, build_func_name, static_kwargs, variables [(name, array)],
                             build_module_src
ours    tfutil_shim.Network  see `nets.network.Network.__getstate__`
======= ==================== ===========================================================================================
"""

import collections
import contextlib
import math
import os
from collections.abc import Iterable
from typing import Any

import lasagne
import numpy as np

from common import safe_pickle
from common.errors import UserError
from nets.network import Network

# {name in a release, older ones included: our build function}
BUILD_FUNCS_2017 = {
    'G_paper': 'networks.G_paper', 'G_progressive_8': 'networks.G_paper',
    'D_paper': 'networks.D_paper', 'D_progressive_8': 'networks.D_paper',
    'G_mnist_mode_recovery': 'networks.G_mnist_mode_recovery',
    'D_mnist_mode_recovery': 'networks.D_mnist_mode_recovery',
    'mnist_classifier': 'networks.mnist_classifier',
}
BUILD_FUNCS_2018 = {
    'G_paper': 'networks_2018.G_paper', 'G_progressive_8': 'networks_2018.G_paper',
    'D_paper': 'networks_2018.D_paper', 'D_progressive_8': 'networks_2018.D_paper',
}
BUILD_FUNCS = {*BUILD_FUNCS_2017.values(), *BUILD_FUNCS_2018.values()}
MAX_RESOLUTION = 2 ** 14
MAX_ARGUMENT = 2 ** 31      # Of numbers among a build function's arguments.


class _StoredValues:
    """Stands in for Lasagne's generator while networks are built whose values come from a file.

    Draws no weights, and gives no more numbers than the file holds, so that no file can ask for a giant network. Noise
    layers still get their seeds from the real generator.
    """

    def __init__(self, num_values):
        self.num_values = num_values
        self.generator = lasagne.random.get_rng()

    def normal(self, loc=0.0, scale=1.0, size=()):
        self.num_values -= math.prod(size)
        if self.num_values < 0:
            raise UserError('its arguments describe a larger network than the arrays that are stored')
        return np.ones(size, np.float32)

    def uniform(self, low=0.0, high=1.0, size=()):
        return self.normal(size=size)

    def randint(self, *args):
        return self.generator.randint(*args)


@contextlib.contextmanager
def _drawing_from(generator):
    before = lasagne.random.get_rng()
    lasagne.random.set_rng(generator)
    try:
        yield
    finally:
        lasagne.random.set_rng(before)


def build(name: str, func: str, static_kwargs: dict, values: list) -> Network:
    """A network whose parameters are about to be assigned, made without drawing from the random generators.

    Parameters
    ----------
    name : str
    func : str
        Dotted name of the build function.
    static_kwargs : dict
    values : list of arrays
        That will be assigned: the network may have no more numbers.
    """
    with _drawing_from(_StoredValues(sum(np.size(value) for value in values))):
        return Network(name, func, **static_kwargs)


class _Reader:
    """Makes networks out of the states in one file."""

    def __init__(self, path, build_funcs=()):
        self.build_funcs = {*BUILD_FUNCS, *build_funcs}
        self.bytes_left = os.path.getsize(path) if os.path.isfile(path) else 0

    def classes(self):
        """{name in a pickle: function that makes the object from its state}, for :func:`common.safe_pickle.load`."""
        return {'network.Network': self.foreign, 'tfutil.Network': self.foreign, 'tfutil_shim.Network': self.ours}

    def foreign(self, state):
        """A network of the 2017 release, whose states have no version, or of the 2018 release."""
        return self.of_2018(state) if 'version' in state else self.of_2017(state)

    def of_2017(self, state):
        spec = _entry(state, 'build_func_spec', dict)
        spec = {str(key): value for key, value in spec.items()}
        func = str(spec.pop('func', None)).rpartition('.')[2]
        if func not in BUILD_FUNCS_2017:
            raise UserError(f'the 2017 release has no network {func!r}')
        values = _entry(state, 'param_values', list)
        toplevel = _entry(state, 'toplevel_params', dict)
        net = self.checked(func, BUILD_FUNCS_2017[func], spec, values)
        names = list(net.vars)[:net.num_layer_params]
        if len(values) != len(names):
            raise UserError(f'{func} has {len(values)} arrays, this network has {len(names)}')
        _assign(net, [*zip(names, values, strict=True), *toplevel.items()])
        return net

    def of_2018(self, state):
        if state['version'] != 2:
            raise UserError(f'a network of version {state["version"]!r:.20} of the 2018 format; known is 2')
        func = _entry(state, 'build_func_name', str)
        if func not in BUILD_FUNCS_2018:
            raise UserError(f'the 2018 release has no network {func!r:.80}')
        variables = _entry(state, 'variables', list)
        if not all(isinstance(item, (tuple, list)) and len(item) == 2 for item in variables):
            raise UserError('its variables are no pairs of name and value')
        net = self.checked(_entry(state, 'name', str), BUILD_FUNCS_2018[func], _entry(state, 'static_kwargs', dict),
                           [value for _name, value in variables])
        _assign(net, [('cur_lod' if name == 'lod' else name, value) for name, value in variables])
        return net

    def ours(self, state):
        func = _entry(state, 'func', str)
        if func not in self.build_funcs:
            raise UserError(f'the build function {func!r:.80} is not known to be harmless; if it is, name it in '
                            'the argument build_funcs')
        pairs, toplevel = _entry(state, 'param_values', list), _entry(state, 'toplevel_values', dict)
        values = [value for _name, value in pairs]
        self.check(_entry(state, 'name', str), _entry(state, 'static_kwargs', dict), [*values, *toplevel.values()])
        net = object.__new__(Network)
        with _drawing_from(_StoredValues(sum(np.size(value) for value in values))):
            net.__setstate__(state)
        return net

    def checked(self, name, func, kwargs, values):
        self.check(name, kwargs, values)
        kwargs = {key: value.item() if isinstance(value, (np.generic, np.ndarray)) else value
                  for key, value in kwargs.items()}
        return build(name, func, kwargs, values)

    def check(self, name, kwargs, values):
        """Refuse what would make the build function do more than it should, or take more memory than the file has."""
        for key, value in kwargs.items():
            if isinstance(value, (np.generic, np.ndarray)) and np.size(value) == 1:
                value = value.item()
            if type(key) is not str or not key.isidentifier() or key in ('name', 'func', 'self'):
                raise UserError(f'{key!r:.80} is no name of an argument')
            if not _is_plain(value):
                raise UserError(f'the argument {key} has a value that is not plain or too large')
        resolution = kwargs.get('resolution', 4)
        if resolution > MAX_RESOLUTION:
            raise UserError(f'resolution={resolution!r:.40} is larger than {MAX_RESOLUTION}')
        if not all(isinstance(value, (np.ndarray, np.generic, int, float)) for value in values):
            raise UserError(f'the values of {name!r:.80} are no arrays')
        # Several networks may refer to one array, but then each holds a copy of it.
        self.bytes_left -= sum(value.nbytes for value in values if isinstance(value, np.ndarray))
        if self.bytes_left < 0:
            raise UserError('its networks have more numbers than the file')


def _entry(state, key, kind):
    if not isinstance(state.get(key), kind):
        raise UserError(f'the state of a network has no {kind.__name__} {key!r}')
    return state[key]


def _is_plain(value, depth=0):
    if isinstance(value, (list, tuple)):
        return depth < 3 and len(value) < 1000 and all(_is_plain(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) for key in value) and _is_plain(list(value.values()), depth)
    if isinstance(value, (int, float)):
        return abs(value) < MAX_ARGUMENT        # Not so for NaN and infinity.
    return value is None or isinstance(value, str) and len(value) < 1000


def _assign(net, values):
    """Give `net` [(name, value)]: each variable must get one value of its shape."""
    counts = collections.Counter(name for name, _value in values)
    known = set(net.vars)       # Local names; `net.vars` itself knows others, too.
    for name in [*net.vars, *counts]:
        if counts[name] != 1 or name not in known:
            raise UserError(f'{net.func_name}: {"unknown" if name not in known else "missing or repeated"} '
                            f'variable {name!r:.80}')
    for name, value in values:
        shape = net.vars[name].get_value(borrow=True).shape
        if np.shape(value) != shape:
            raise UserError(f'{net.func_name}: the variable {name} should have the shape {shape}, stored is '
                            f'{np.shape(value)}')
        net.set_var(name, value)


def load_pkl(path: str, build_funcs: Iterable[str] = ()) -> Any:
    """Read a pickle of networks: ours, or one of the 2017 Theano or the 2018 TensorFlow release; runs nothing in it.

    Parameters
    ----------
    path : str
        A pickle of networks in plain containers, as a rule of the tuple (G, D, Gs).
    build_funcs : sequence of str
        Dotted names of build functions of your own that the file may call, besides those of `networks` and
        `networks_2018`.

    Returns
    -------
    tuple or whatever was pickled
        With `Network` objects.

    Raises
    ------
    UserError
        The file cannot be read or is not admitted, see above and :mod:`common.safe_pickle`.
    """
    reader = _Reader(path, build_funcs)

    def guarded(make):
        def network(state):
            try:
                net = make(state)
                net.source = os.fspath(path)
                return net
            except UserError:
                raise
            except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
                # A build function raises these for arguments that make no sense.
                raise UserError('a network cannot be built from it: %s' % ' '.join(
                    ('%.200s' % error).split())) from error
        return network
    return safe_pickle.load(path, {name: guarded(make) for name, make in reader.classes().items()})
