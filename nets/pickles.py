"""Networks out of files: our own pickles, and those of the 2017 Theano and the 2018 TensorFlow release.

``python legacy.py PUBLISHED.pkl OURS.pkl`` converts a file. Nothing that is stored in a pickle is executed:
`safe_pickle` reads plain data, and our build functions recreate the networks; their outputs match the original
release. This is the only module that knows the old formats.

======= ==================== ===========================================================================================
release class                state
======= ==================== ===========================================================================================
2017    network.Network      build_func_spec {func: name, arguments}, param_values [array] in Lasagne's order,
                             toplevel_params {name: number}, may be missing, build_module_src (source text)
2018    tfutil.Network       version 2, name, build_func_name, static_kwargs, variables [(name, array)],
                             build_module_src
ours    tfutil_shim.Network  see `nets.network.Network.__getstate__`
======= ==================== ===========================================================================================

:mod:`nets.stored_source` reads from the source text, without executing it, where a network means something else than in
the releases.
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
MAX_NETWORKS = 16           # In a file, which has three. The graph of each takes up to 1 MB beside its arrays.
MAX_NAME = 1000             # Letters of a name or another text.
MAX_ITEMS = 10000           # Of the arguments of a network, with those in their lists; of its variables.


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

    def __init__(self, path, build_funcs=(), ignore_source=False):
        self.path, self.ignore_source = path, ignore_source
        self.deviations, self.unread = {}, {}       # Facts about the sources, in the order in which they came up.
        self.build_funcs = {*BUILD_FUNCS, *build_funcs}
        self.bytes_left = os.path.getsize(path) if os.path.isfile(path) else 0
        self.num_networks = 0

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
        if not self.ignore_source:
            self.buildable(stored_source.differences_2017(state.get('build_module_src'), func))
        values = _entry(state, 'param_values', list)
        toplevel = _entry({'toplevel_params': {}, **state}, 'toplevel_params', dict)
        net = self.checked(func, BUILD_FUNCS_2017[func], spec, values, toplevel)
        names = list(net.vars)[:net.num_layer_params]
        if len(values) != len(names):
            raise UserError(f'{func} has {len(values)} arrays, this network has {len(names)}')
        # Without them, the lod and so on stay as they are in a new network, as in the release.
        _assign(net, [*zip(names, values, strict=True), *toplevel.items()],
                optional=() if 'toplevel_params' in state else net.toplevel_params)
        return net

    def of_2018(self, state):
        if state['version'] != 2:
            raise UserError(f'a network of version {state["version"]!r:.20} of the 2018 format; known is 2')
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
        """The arguments that follow from the source of a network of the 2018 release."""
        meaning = stored_source.meaning_2018(source, func, kwargs, BUILD_FUNCS_2018[func].endswith('.G_paper'))
        self.buildable(meaning.unbuildable)
        self.deviations.update(dict.fromkeys(meaning.deviations))
        self.unread.update(dict.fromkeys(meaning.unread))
        return meaning.kwargs

    def buildable(self, differences):
        """Refuse networks of which our layers are no copy."""
        if differences:
            raise UserError(f'its source means another network: {"; ".join(differences)}; `python legacy.py '
                            f'--ignore-source {self.path} OURS.pkl` makes networks of our meaning all the same')

    def report(self):
        """Print a line where sources deviate from the release, and one where they could not be read."""
        if self.deviations:
            print(f'{self.path}: built as its source says, unlike the release: {"; ".join(self.deviations)}')
        if self.unread:
            print(f'Warning: {self.path}: its source does not tell {", ".join(self.unread)}; taken as in the release',
                  file=sys.stderr)

    def ours(self, state):
        func = _entry(state, 'func', str)
        if func not in self.build_funcs:
            raise UserError(f'the build function {func!r:.80} is not known to be harmless; if it is, name it in '
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
        """Refuse what would make the build function do more than it should, or take more memory than the file has."""
        if len(name) > MAX_NAME or len(values) > MAX_ITEMS or not _is_small(list(kwargs.values())):
            raise UserError(f'the network {name!r:.80} has more arguments or variables than any')
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
        self.num_networks += 1
        if self.bytes_left < 0 or self.num_networks > MAX_NETWORKS:
            raise UserError(f'its networks have more numbers than the file, or are more than {MAX_NETWORKS}')


def _entry(state, key, kind):
    if not isinstance(state.get(key), kind):
        raise UserError(f'the state of a network has no {kind.__name__} {key!r}')
    return state[key]


def _pairs(items):
    """[(name, value)] with names that are text."""
    if not all(isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str)
               and len(item[0]) <= MAX_NAME for item in items):
        raise ValueError('its variables are no pairs of name and value')
    return items


def _is_small(arguments):
    """Whether lists in lists have few items in all, although one list may stand in many places."""
    num_items, containers = 0, [arguments]
    while containers:
        num_items += sum(map(len, containers))
        if num_items > MAX_ITEMS:       # Before they are listed.
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
        return abs(value) < MAX_ARGUMENT        # Not so for NaN and infinity.
    return value is None or isinstance(value, str) and len(value) <= MAX_NAME


def _assign(net, values, optional=()):
    """Give `net` [(name, value)]: each variable must get one value of its shape; those in `optional` may get none."""
    counts = collections.Counter(name for name, _value in values)
    known = set(net.vars)       # Local names; `net.vars` itself knows others, too.
    for name in [*net.vars, *counts]:
        if not counts[name] and name in optional:
            continue
        if counts[name] != 1 or name not in known:
            raise UserError(f'{net.func_name}: {"unknown" if name not in known else "missing or repeated"} '
                            f'variable {name!r:.80}')
    for name, value in values:
        shape = net.vars[name].get_value(borrow=True).shape
        if np.shape(value) != shape:
            raise UserError(f'{net.func_name}: the variable {name} should have the shape {shape}, stored is '
                            f'{np.shape(value)}')
        net.set_var(name, value)


def load_pkl(path: AnyPath, build_funcs: Iterable[str] = (), ignore_source: bool = False) -> Any:
    """Read a pickle of networks: ours, or one of the 2017 Theano or the 2018 TensorFlow release; runs nothing in it.

    Parameters
    ----------
    path : str
        A pickle of networks in plain containers, as a rule of the tuple (G, D, Gs).
    build_funcs : sequence of str
        Dotted names of build functions of your own that the file may call, besides those of `networks` and
        `networks_2018`.
    ignore_source : bool
        Build published networks as the releases define them, whatever the source text beside them says.

    Returns
    -------
    tuple or whatever was pickled
        With `Network` objects.

    Raises
    ------
    UserError
        The file cannot be read or is not admitted, see above and :mod:`common.safe_pickle`.
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
                # A build function raises these for arguments that make no sense.
                raise UserError('a network cannot be built from it: %s' % ' '.join(
                    ('%.200s' % error).split())) from error
        return network
    content = safe_pickle.load(path, {name: guarded(make) for name, make in reader.classes().items()})
    reader.report()
    return content


# ----------------------------------------------------------------------------------------------------------------------
# Which network.


def is_generator(net: Network) -> bool:
    """Whether a network makes images out of latents."""
    return (len(net.input_shape), len(net.output_shape)) == (2, 4)


def is_discriminator(net: Network) -> bool:
    """Whether a network gives images a score."""
    return (len(net.input_shape), len(net.output_shape)) == (4, 2) and net.output_shape[1] == 1


def networks_in(loaded: Any, path: AnyPath) -> list[Network]:
    """All networks of what :func:`load_pkl` has read from a file; a `UserError` if it holds anything else."""
    networks = list(loaded) if isinstance(loaded, (tuple, list)) else [loaded]
    if not networks or not _are_networks(networks):
        raise UserError(f'{path}: holds {_described(loaded)}, not a network or (G, D, Gs); choose another pickle')
    return networks


def pick(loaded: Any, name: str, path: AnyPath) -> Network:
    """The network called G, D or Gs of what :func:`load_pkl` has read from a file, or the only one.

    Raises
    ------
    UserError
        It is neither (G, D, Gs) nor one network.
    """
    if isinstance(loaded, Network):
        return loaded
    index = ('G', 'D', 'Gs').index(name)
    if not isinstance(loaded, (tuple, list)) or len(loaded) != 3 or not isinstance(loaded[index], Network):
        raise UserError(f'{path}: holds no {"discriminator" if name == "D" else "generator"}: the pickle holds '
                        f'{_described(loaded)}, not a network or (G, D, Gs)')
    return loaded[index]


def load_gan(path: AnyPath, build_funcs: Iterable[str] = ()) -> tuple[Network, Network, Network]:
    """The networks (G, D, Gs) of a training, out of a pickle as for :func:`load_pkl`.

    Raises
    ------
    UserError
        See :func:`load_pkl`; or it holds something else.
    """
    loaded = load_pkl(path, build_funcs)
    if not _are_networks(loaded) or len(loaded) != 3:
        raise UserError(f'{path}: holds {_described(loaded)}, not the three networks (G, D, Gs) of a training; choose '
                        'another pickle')
    G, D, Gs = loaded
    for net, name, is_right in ((G, 'G', is_generator), (D, 'D', is_discriminator), (Gs, 'Gs', is_generator)):
        if not is_right(net) or 'cur_lod' not in net.toplevel_params:
            raise UserError(f'{path}: its {name} is a network of {net.func_name}, which is no '
                            f'{"discriminator" if name == "D" else "generator"} to be trained; choose another pickle')
    if [(name, G.get_var(name).shape) for name in G.vars] != [(name, Gs.get_var(name).shape) for name in Gs.vars]:
        raise UserError(f'{path}: its Gs is no averaged G, they have different variables; choose another pickle')
    return G, D, Gs


def _are_networks(loaded):
    return isinstance(loaded, (tuple, list)) and all(isinstance(net, Network) for net in loaded)


def _described(loaded):
    if isinstance(loaded, Network):
        return f'one network of {loaded.func_name}'
    if isinstance(loaded, (tuple, list)):
        return f'{len(loaded)} {"networks" if _are_networks(loaded) else "objects"}'
    return f'a {type(loaded).__name__}'
