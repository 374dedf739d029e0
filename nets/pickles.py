"""Read networks from our pickles and from those of the 2017 Theano and 2018 TensorFlow releases.

``python legacy.py PUBLISHED.pkl OURS.pkl`` converts a file. Nothing in a pickle is executed: `safe_pickle` reads plain
data, and our build functions recreate the networks; docs/faithful.md lists the outputs that were compared with the
releases. Only this module and `nets.stored_source` know the old formats.

======= ==================== ===========================================================================================
release class                state
======= ==================== ===========================================================================================
2017    network.Network      build_func_spec {func: name, arguments}, param_values [array] in Lasagne's order,
                             toplevel_params {name: number}, optional, build_module_src (source text)
2018    tfutil.Network       version 2, name, build_func_name, static_kwargs, variables [(name, array)],
                             build_module_src
ours    tfutil_shim.Network  see `nets.network.Network.__getstate__`
======= ==================== ===========================================================================================

:mod:`nets.stored_source` reads the source text, without executing it, to find how a network differs from the release.
"""

import collections
import contextlib
import math
import os
import sys
from collections.abc import Iterable
from typing import Any

import lasagne
import numpy as np

from common import safe_pickle
from common.errors import UserError
from common.files import AnyPath
from nets import stored_source
from nets.network import Network

# {name in a release, including older versions: our build function}
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
MAX_ARGUMENT = 2 ** 31      # Magnitude of numbers among a build function's arguments.
MAX_NETWORKS = 16           # Per file, usually three. Each graph takes up to 1 MB in addition to its arrays.
MAX_NAME = 1000             # Characters of a name or another text.
MAX_ITEMS = 10000           # Arguments of a network, including the items of lists; also its variables.


class _StoredValues:
    """Stands in for Lasagne's random generator while networks are built whose values come from a file.

    It draws no weights, and returns no more numbers than the file holds, so that a file cannot request a giant network.
    Noise layers still get their seeds from the real generator.
    """

    def __init__(self, num_values):
        self.num_values = num_values
        self.generator = lasagne.random.get_rng()

    def normal(self, loc=0.0, scale=1.0, size=()):
        self.num_values -= math.prod(size)
        if self.num_values < 0:
            raise UserError('its arguments describe a larger network than the stored arrays')
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
    """Build a network whose parameters will be assigned, without drawing random numbers.

    Parameters
    ----------
    name : str
    func : str
        Dotted name of the build function.
    static_kwargs : dict
    values : list of arrays
        Arrays that will be assigned; the network may not have more numbers.
    """
    with _drawing_from(_StoredValues(sum(np.size(value) for value in values))):
        return Network(name, func, **static_kwargs)


class _Reader:
    """Makes networks from the states in one file."""

    def __init__(self, path, build_funcs=(), ignore_source=False):
        self.path, self.ignore_source = path, ignore_source
        self.deviations, self.unread = {}, {}       # Facts about the sources, in order of discovery; keys only.
        self.build_funcs = {*BUILD_FUNCS, *build_funcs}
        self.bytes_left = os.path.getsize(path) if os.path.isfile(path) else 0
        self.num_networks = 0

    def classes(self):
        """{name in a pickle: function that makes an object from its state}, for :func:`common.safe_pickle.load`."""
        return {'network.Network': self.foreign, 'tfutil.Network': self.foreign, 'tfutil_shim.Network': self.ours}

    def foreign(self, state):
        """Make a network of the 2017 release, whose states have no version, or of the 2018 release."""
        return self.of_2018(state) if 'version' in state else self.of_2017(state)

    def of_2017(self, state):
        spec = _entry(state, 'build_func_spec', dict)
        spec = {str(key): value for key, value in spec.items()}
        func = str(spec.pop('func', None)).rpartition('.')[2]
        if func not in BUILD_FUNCS_2017:
            raise UserError(f'the 2017 release has no network {func!r}')
        if not self.ignore_source:
            self.buildable(stored_source.differences_2017(state.get('build_module_src'), func))
        values = _entry(state, 'param_values', list)
        toplevel = _entry({'toplevel_params': {}, **state}, 'toplevel_params', dict)
        net = self.checked(func, BUILD_FUNCS_2017[func], spec, values, toplevel)
        names = list(net.vars)[:net.num_layer_params]
        if len(values) != len(names):
            raise UserError(f'{func} has {len(values)} arrays, but this network has {len(names)}')
        # Without stored top-level values, lod and so on keep the values of a new network, as in the 2017 release.
        _assign(net, [*zip(names, values, strict=True), *toplevel.items()],
                optional=() if 'toplevel_params' in state else net.toplevel_params)
        return net

    def of_2018(self, state):
        if state['version'] != 2:
            raise UserError(f'version {state["version"]!r:.20} of the 2018 format is not supported; version 2 is')
        func = _entry(state, 'build_func_name', str)
        if func not in BUILD_FUNCS_2018:
            raise UserError(f'the 2018 release has no network {func!r:.80}')
        variables = _pairs(_entry(state, 'variables', list))
        kwargs = _entry(state, 'static_kwargs', dict)
        if not self.ignore_source:
            kwargs = {**kwargs, **self.meant_by_source(state.get('build_module_src'), func, kwargs)}
        net = self.checked(_entry(state, 'name', str), BUILD_FUNCS_2018[func], kwargs,
                           [value for _name, value in variables])
        _assign(net, [('cur_lod' if name == 'lod' else name, value) for name, value in variables])
        return net

    def meant_by_source(self, source, func, kwargs):
        """Arguments that follow from the source of a network of the 2018 release."""
        meaning = stored_source.meaning_2018(source, func, kwargs, BUILD_FUNCS_2018[func].endswith('.G_paper'))
        self.buildable(meaning.unbuildable)
        self.deviations.update(dict.fromkeys(meaning.deviations))
        self.unread.update(dict.fromkeys(meaning.unread))
        return meaning.kwargs

    def buildable(self, differences):
        """Raise UserError for networks that our layers cannot reproduce."""
        if differences:
            raise UserError(f'its source defines another network: {"; ".join(differences)}; `python legacy.py '
                            f'--ignore-source {self.path} OURS.pkl` converts it nevertheless, with our definitions')

    def report(self):
        """Print one line about sources that deviate from the release, and one about sources that cannot be read."""
        if self.deviations:
            print(f'{self.path}: built according to its source, unlike the release: {"; ".join(self.deviations)}')
        if self.unread:
            print(f'Warning: {self.path}: its source does not define {", ".join(self.unread)}; using the release\'s',
                  file=sys.stderr)

    def ours(self, state):
        func = _entry(state, 'func', str)
        if func not in self.build_funcs:
            raise UserError(f'the build function {func!r:.80} is not known to be harmless; if it is, list it in '
                            'the argument build_funcs')
        pairs, toplevel = _pairs(_entry(state, 'param_values', list)), _entry(state, 'toplevel_values', dict)
        values = [value for _name, value in pairs]
        self.check(_entry(state, 'name', str), _entry(state, 'static_kwargs', dict), [*values, *toplevel.values()])
        net = object.__new__(Network)
        with _drawing_from(_StoredValues(sum(np.size(value) for value in values))):
            net.__setstate__(state)
        return net

    def checked(self, name, func, kwargs, values, toplevel=()):
        self.check(name, kwargs, [*values, *dict(toplevel).values()])
        kwargs = {key: value.item() if isinstance(value, (np.generic, np.ndarray)) else value
                  for key, value in kwargs.items()}
        return build(name, func, kwargs, values)

    def check(self, name, kwargs, values):
        """Raise UserError if the build function would do more than intended, or need more memory than the file."""
        if len(name) > MAX_NAME or len(values) > MAX_ITEMS or not _is_small(list(kwargs.values())):
            raise UserError(f'the network {name!r:.80} has too many arguments or variables')
        for key, value in kwargs.items():
            if isinstance(value, (np.generic, np.ndarray)) and np.size(value) == 1:
                value = value.item()
            if type(key) is not str or not key.isidentifier() or key in ('name', 'func', 'self'):
                raise UserError(f'{key!r:.80} is not an argument name')
            if not _is_plain(value):
                raise UserError(f'the value of the argument {key} is not plain data or too large')
        resolution = kwargs.get('resolution', 4)
        if resolution > MAX_RESOLUTION:
            raise UserError(f'resolution={resolution!r:.40} is larger than {MAX_RESOLUTION}')
        if not all(isinstance(value, (np.ndarray, np.generic, int, float)) for value in values):
            raise UserError(f'the values of {name!r:.80} are not arrays')
        # Several networks may refer to the same array, but each will hold its own copy.
        self.bytes_left -= sum(value.nbytes for value in values if isinstance(value, np.ndarray))
        self.num_networks += 1
        if self.bytes_left < 0 or self.num_networks > MAX_NETWORKS:
            raise UserError(f'its networks have more numbers than the file, or are more than {MAX_NETWORKS}')


def _entry(state, key, kind):
    if not isinstance(state.get(key), kind):
        raise UserError(f'the state of a network has no {kind.__name__} {key!r}')
    return state[key]


def _pairs(items):
    """(name, value) pairs whose names are text."""
    if not all(isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str)
               and len(item[0]) <= MAX_NAME for item in items):
        raise ValueError('its variables are not pairs of name and value')
    return items


def _is_small(arguments):
    """Whether nested lists have few items in total, though the same list may occur in many places."""
    num_items, containers = 0, [arguments]
    while containers:
        num_items += sum(map(len, containers))
        if num_items > MAX_ITEMS:       # Checked before the items are listed.
            return False
        items = [item for container in containers
                 for item in (container.values() if isinstance(container, dict) else container)]
        containers = [item for item in items if isinstance(item, (list, tuple, dict))]
    return True


def _is_plain(value, depth=0):
    if isinstance(value, (list, tuple)):
        return depth < 3 and all(_is_plain(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) for key in value) and _is_plain(list(value.values()), depth)
    if isinstance(value, (int, float)):
        return abs(value) < MAX_ARGUMENT        # False for NaN and infinity.
    return value is None or isinstance(value, str) and len(value) <= MAX_NAME


def _assign(net, values, optional=()):
    """Assign (name, value) pairs to `net`: each variable must get one value of its shape, unless in `optional`."""
    counts = collections.Counter(name for name, _value in values)
    known = set(net.vars)       # Local names only; `net.vars` itself accepts other names, too.
    for name in [*net.vars, *counts]:
        if not counts[name] and name in optional:
            continue
        if counts[name] != 1 or name not in known:
            raise UserError(f'{net.func_name}: {"unknown" if name not in known else "missing or repeated"} '
                            f'variable {name!r:.80}')
    for name, value in values:
        shape = net.vars[name].get_value(borrow=True).shape
        if np.shape(value) != shape:
            raise UserError(f'{net.func_name}: the variable {name} must have the shape {shape}, but the stored one is '
                            f'{np.shape(value)}')
        net.set_var(name, value)


def load_pkl(path: AnyPath, build_funcs: Iterable[str] = (), ignore_source: bool = False) -> Any:
    """Read a pickle of networks, ours or of the 2017 Theano or 2018 TensorFlow release, without executing its content.

    Parameters
    ----------
    path : str
        A pickle of networks in plain containers, usually the tuple (G, D, Gs).
    build_funcs : sequence of str
        Dotted names of your own build functions that the file may call, in addition to those of `networks` and
        `networks_2018`.
    ignore_source : bool
        Build published networks as the releases define them, regardless of the source text in the file.

    Returns
    -------
    tuple or any other pickled object
        Contains `Network` objects.

    Raises
    ------
    UserError
        The file cannot be read or is not allowed, see above and :mod:`common.safe_pickle`.
    """
    reader = _Reader(path, build_funcs, ignore_source)

    def guarded(make):
        def network(state):
            try:
                net = make(state)
                net.source = os.fspath(path)
                return net
            except UserError:
                raise
            except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
                # Build functions raise these for invalid arguments.
                raise UserError('a network cannot be built from it: %s' % ' '.join(
                    ('%.200s' % error).split())) from error
        return network
    content = safe_pickle.load(path, {name: guarded(make) for name, make in reader.classes().items()})
    reader.report()
    return content


# ----------------------------------------------------------------------------------------------------------------------
# Selecting networks.


def is_generator(net: Network) -> bool:
    """Whether a network maps latents to images."""
    return (len(net.input_shape), len(net.output_shape)) == (2, 4)


def is_discriminator(net: Network) -> bool:
    """Whether a network maps images to scores."""
    return (len(net.input_shape), len(net.output_shape)) == (4, 2) and net.output_shape[1] == 1


def networks_in(loaded: Any, path: AnyPath) -> list[Network]:
    """All networks in a result of :func:`load_pkl`; UserError if it contains anything else."""
    networks = list(loaded) if isinstance(loaded, (tuple, list)) else [loaded]
    if not networks or not _are_networks(networks):
        raise UserError(f'{path}: holds {_described(loaded)}, not a network or (G, D, Gs); choose another pickle')
    return networks


def pick(loaded: Any, name: str, path: AnyPath) -> Network:
    """Select the network G, D or Gs from a result of :func:`load_pkl`; a single network is returned in any case.

    Raises
    ------
    UserError
        The result is neither (G, D, Gs) nor a single network.
    """
    if isinstance(loaded, Network):
        return loaded
    index = ('G', 'D', 'Gs').index(name)
    if not isinstance(loaded, (tuple, list)) or len(loaded) != 3 or not isinstance(loaded[index], Network):
        raise UserError(f'{path}: holds no {"discriminator" if name == "D" else "generator"}: the pickle holds '
                        f'{_described(loaded)}, not a network or (G, D, Gs)')
    return loaded[index]


def load_gan(path: AnyPath, build_funcs: Iterable[str] = ()) -> tuple[Network, Network, Network]:
    """Read the networks (G, D, Gs) of a training from a pickle, see :func:`load_pkl`.

    Raises
    ------
    UserError
        See :func:`load_pkl`; or the file holds other networks.
    """
    loaded = load_pkl(path, build_funcs)
    if not _are_networks(loaded) or len(loaded) != 3:
        raise UserError(f'{path}: holds {_described(loaded)}, not the three networks (G, D, Gs) of a training; choose '
                        'another pickle')
    G, D, Gs = loaded
    for net, name, is_right in ((G, 'G', is_generator), (D, 'D', is_discriminator), (Gs, 'Gs', is_generator)):
        if not is_right(net) or 'cur_lod' not in net.toplevel_params:
            raise UserError(f'{path}: its {name} is a network of {net.func_name}, which is not a '
                            f'{"discriminator" if name == "D" else "generator"} for training; choose another pickle')
    if [(name, G.get_var(name).shape) for name in G.vars] != [(name, Gs.get_var(name).shape) for name in Gs.vars]:
        raise UserError(f'{path}: its Gs is not an average of G, because their variables differ; choose another pickle')
    return G, D, Gs


def _are_networks(loaded):
    return isinstance(loaded, (tuple, list)) and all(isinstance(net, Network) for net in loaded)


def _described(loaded):
    if isinstance(loaded, Network):
        return f'one network of {loaded.func_name}'
    if isinstance(loaded, (tuple, list)):
        return f'{len(loaded)} {"networks" if _are_networks(loaded) else "objects"}'
    return f'a {type(loaded).__name__}'
