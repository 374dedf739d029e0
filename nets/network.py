"""The class `Network`: a Lasagne graph made by a build function, which can be evaluated, copied and pickled."""

import copy
import copyreg
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import theano_torch

import lasagne
import numpy as np
import theano
import theano.tensor as T
from numpy.typing import ArrayLike, DTypeLike
from theano.tensor.signal.pool import pool_2d

import theano_env
from common.defaults import as_written, spelled_out
from common.errors import UserError, did_you_mean
from common.objects import defaults_of, import_obj
from nets import updates
from nets.network_2017 import NetworkOf2017
from nets.tf_functions import Updates, is_tf_expression, set_vars, shape_to_list
from nets.tf_training import histogram
from nets.variables import Variables, fix_shape, shape_of

STATE_VERSION = 3       # Version of our pickles. The 2017 release has none, the 2018 release has 2: see legacy.py.


class Network(NetworkOf2017):
    """A network made by a build function. It holds layers and variables, and can be evaluated, copied and pickled.

    Parameters
    ----------
    name : str or None
        Default: the name of the build function.
    func : str or callable
        The build function, preferably as a dotted name (``'networks.G_paper'``); unpickling imports it. A name without
        a dot is looked up in `networks`, as in 2017. It is called once, with `static_kwargs`, and returns a dict:
        `input_layers` and `output_layers` are lists of Lasagne layers, all other entries are named shared variables.
    **static_kwargs
        Arguments of the build function, plain data. They are also the defaults of dynamic arguments, see Notes.

    Attributes
    ----------
    name, func_name : str
    static_kwargs : dict
    input_layers, output_layers : list of lasagne.layers.Layer
    toplevel_params : OrderedDict
        {name: shared variable} of the other entries.
    vars : Variables
        {local name: shared variable} of all variables: first those of the layers, in the order of
        `lasagne.layers.get_all_params`, then the top-level ones. Local names are Lasagne's, for example ``'G1a.W'``.
    trainables : Variables
        The variables in `vars` that are trained.

    Notes
    -----
    Dynamic arguments are passed to `get_output_for` of all layers: ``deterministic``, ``min_lod`` and so on. Unknown
    arguments are ignored, as in the 2018 release.
    """

    __module__ = 'tfutil_shim'      # Pickles refer to the class by this name, wherever it is defined.
    source: str | None = None       # The file that the network was read from, for messages.

    def __init__(self, name: str | None = None, func: str | Callable | None = None, **static_kwargs: Any) -> None:
        if func is None:
            raise UserError("Network(func=None): give a build function, for example func='networks.G_paper'")
        if isinstance(func, str) and '.' not in func:
            func = 'networks.' + func
        self._func = func if callable(func) else import_obj(func)
        self.func_name = f'{func.__module__}.{func.__qualname__}' if callable(func) else func
        self.name = name or self.func_name.rpartition('.')[2]
        self.static_kwargs = spelled_out(self.func_name, self._func, static_kwargs)
        self._adopt(self._func(**static_kwargs))

    def _adopt(self, built, local_names=None):
        """Store the build function's result. `local_names`, if given, replace the parameters' own names."""
        toplevel = dict(built)
        self.input_layers = list(toplevel.pop('input_layers'))
        self.output_layers = list(toplevel.pop('output_layers'))
        self.toplevel_params = OrderedDict(toplevel)
        self.vars = Variables(self.name)
        params = lasagne.layers.get_all_params(self.output_layers)
        for param, local_name in zip(params, local_names or [param.name or 'param' for param in params], strict=True):
            repeats = sum(known.partition('#')[0] == local_name for known in self.vars)
            self.vars[local_name + (f'#{repeats + 1}' if repeats else '')] = param
        self.num_layer_params = len(self.vars)
        self.vars.update(self.toplevel_params)
        trainable = set(lasagne.layers.get_all_params(self.output_layers, trainable=True))
        self.trainables = Variables(self.name, (item for item in self.vars.items() if item[1] in trainable))
        for var in self.vars.values():
            fix_shape(var)
        self._functions = {}
        self._output_templates = None

    def __repr__(self):
        return f'<Network {self.name}: {self.func_name}, {len(self.vars)} variables>'

    # Shapes and names.

    @property
    def name(self) -> str:
        """Name of the network, and prefix of its variables' names."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = name
        for variables in (self.__dict__.get('vars'), self.__dict__.get('trainables')):
            if variables is not None:
                variables.scope = name

    scope = property(lambda self: self.name, doc='The name, as a prefix of names of variables.')
    num_inputs = property(lambda self: len(self.input_layers))
    num_outputs = property(lambda self: len(self.output_layers))
    input_names = property(lambda self: [layer.name for layer in self.input_layers])
    output_names = property(lambda self: [layer.name for layer in self.output_layers])
    output_shapes = property(lambda self: [shape_to_list(layer.output_shape) for layer in self.output_layers],
                             doc='Lists of sizes; the minibatch size is None.')
    input_shape = property(lambda self: self.input_shapes[0], doc='Shape of the first input.')
    output_shape = property(lambda self: self.output_shapes[0], doc='Shape of the first output.')
    input_templates = property(lambda self: [layer.input_var for layer in self.input_layers],
                               doc='Symbolic variables with the types of the inputs.')

    @property
    def input_shapes(self) -> list[list]:
        """Lists of sizes; the minibatch size is None.

        A generator without classes has [None, 0] at the end, for empty labels, because scripts of the 2018 release
        expect this shape; `run` accepts and ignores such labels.
        """
        shapes = [shape_to_list(layer.output_shape) for layer in self.input_layers]
        if len(shapes) == 1 and len(shapes[0]) == 2 and 'label_size' in defaults_of(self._func):
            shapes.append([None, 0])
        return shapes

    @property
    def output_templates(self) -> list:
        """Symbolic outputs for `input_templates`, always the same expressions, in deterministic mode."""
        if self._output_templates is None:
            self._output_templates = self.get_output_for(*self.input_templates, return_as_list=True, deterministic=True)
        return list(self._output_templates)

    # Variables.

    def find_var(self, name_or_var):
        """Shared variable with this name, see `nets.variables.Variables`; shared variables are returned unchanged."""
        if is_tf_expression(name_or_var):
            return name_or_var
        if str(name_or_var) not in self.vars:
            near = did_you_mean(str(name_or_var).removeprefix(self.scope + '/'), self.vars)
            raise UserError(f'{self.name} has no variable {name_or_var!r}{near}')
        return self.vars[str(name_or_var)]

    def get_var_localname(self, name_or_var) -> str:
        """Local name of a variable of this network."""
        var = self.find_var(name_or_var)
        for name, known in self.vars.items():
            if known is var:
                return name
        raise UserError(f'{self.name} has no variable {var!r}')

    def get_var(self, name_or_var) -> np.ndarray:
        """Value of a variable as an array."""
        return self.find_var(name_or_var).get_value()

    def set_var(self, name_or_var, value: ArrayLike) -> None:
        """Assign an array or number to a variable."""
        set_vars({self.find_var(name_or_var): value})

    def reset_vars(self) -> None:
        """Reinitialise all variables, with the same random draws as a construction."""
        self.copy_vars_from(Network(self.name, self._func, **self.static_kwargs))

    def reset_trainables(self) -> None:
        """Reinitialise the trainable variables, with the same random draws as `reset_vars`."""
        self.copy_trainables_from(Network(self.name, self._func, **self.static_kwargs))

    def copy_vars_from(self, src_net: 'Network') -> None:
        """Copy the values of all variables from those with the same local names in another network."""
        set_vars({var: src_net.get_var(name) for name, var in self.vars.items()})

    def copy_trainables_from(self, src_net: 'Network') -> None:
        """`copy_vars_from` for trainable variables only."""
        set_vars({var: src_net.get_var(name) for name, var in self.trainables.items()})

    # Copies.

    def clone(self, name: str | None = None, share_nontrainables: bool = False) -> 'Network':
        """Copy the network without drawing random numbers.

        Parameters
        ----------
        name : str or None
            Default: the same name.
        share_nontrainables : bool
            Make a smoothed copy as in the 2017 release: only trainable variables are copied, and the copies have no
            names of their own (local names stay). All others (batch-norm averages, weight scales, top-level variables)
            are shared with this network.
        """
        memo = {}
        if share_nontrainables:
            memo = {id(var): var for local_name, var in self.vars.items() if local_name not in self.trainables}
        net = self._copy(memo)
        net.name = name or self.name
        if share_nontrainables:
            for var in net.trainables.values():
                var.name = None
        return net

    def convert(self, name: str | None = None, func: str | Callable | None = None, **static_kwargs: Any) -> 'Network':
        """Make a network with another build function or other arguments, and copy the values of this one.

        Parameters
        ----------
        name : str or None
            Default: the name of the build function.
        func : str or callable or None
            Default: the build function of this network.
        **static_kwargs
            Arguments of the build function; those of this network are not used.

        Raises
        ------
        UserError
            The new network has a variable that this one lacks.
        """
        net = Network(name, self._func if func is None else func, **static_kwargs)
        net.copy_vars_from(self)
        return net

    def _copy(self, memo):
        net = object.__new__(type(self))
        net._func, net.func_name, net.name = self._func, self.func_name, self.name
        net.static_kwargs = copy.deepcopy(self.static_kwargs, memo)
        built = dict(self.toplevel_params, input_layers=self.input_layers, output_layers=self.output_layers)
        net._adopt(copy.deepcopy(built, memo), list(self.vars)[:self.num_layer_params])
        return net

    __deepcopy__ = _copy

    def setup_as_moving_average_of(self, src_net: 'Network', beta=0.99, beta_nontrainable=0.0) -> Updates:
        """Updates that make this network a moving average of `src_net`: ``new = src + (old - src) * beta``.

        Parameters
        ----------
        src_net : Network
            Network with the same local names. If one function also updates `src_net`, its values from before the step
            are used, because Theano applies all updates simultaneously.
        beta, beta_nontrainable : float or scalar expression
            Decay of trainable and of other variables; 0 copies the value.

        Returns
        -------
        Updates
            {shared variable: expression}, without the variables that both networks share.
        """
        new_values = Updates()
        for is_trainable, decay in ((True, beta), (False, beta_nontrainable)):
            pairs = [(var, src_net.find_var(name)) for name, var in self.vars.items()
                     if (name in self.trainables) == is_trainable]
            pairs = [(var, src) for var, src in pairs if src is not var]
            if not is_tf_expression(decay) and decay == 0:
                new_values.update(pairs)
            elif pairs:
                averages, sources = zip(*pairs, strict=True)
                new_values.update(updates.moving_average(averages, sources, decay))
        return new_values

    # Pickling stores plain data, no source text and no Theano objects.

    def __reduce__(self):
        return copyreg.__newobj__, (type(self),), self._state()

    def __getstate__(self) -> dict:
        """State to pickle, plus 'variables': all (name, array) pairs, as in the 2018 release."""
        state = self._state()
        values = [*state['param_values'], *state['toplevel_values'].items()]
        return {**state, 'variables': [('lod' if name == 'cur_lod' else name, value) for name, value in values],
                'build_func_name': self.func_name.rpartition('.')[2]}

    def _state(self):
        if import_obj(self.func_name) is not self._func:
            raise UserError(f'{self.name}: the build function {self.func_name} cannot be pickled, because its name '
                            'refers to another object')
        values = [(name, var.get_value()) for name, var in self.vars.items()]
        return {'version': STATE_VERSION, 'name': self.name, 'func': self.func_name,
                'static_kwargs': copy.deepcopy(self.static_kwargs), 'param_values': values[:self.num_layer_params],
                'toplevel_values': dict(values[self.num_layer_params:])}

    def __setstate__(self, state):
        """Rebuild the network, with the random draws of a construction, then assign the stored values."""
        if state.get('version') != STATE_VERSION:
            raise UserError(f'network pickle of version {state.get("version", 1)!r}: this class reads version '
                            f'{STATE_VERSION}; use legacy.py for networks of the 2017 and 2018 releases')
        self.__init__(state['name'], state['func'], **as_written(state['func'], state['static_kwargs']))
        stored = list(state['param_values']) + list(state['toplevel_values'].items())
        ours = [f'{name} {tuple(shape_of(var))}' for name, var in self.vars.items()]
        theirs = [f'{name} {np.shape(value)}' for name, value in stored]
        if ours != theirs:
            strange = [item for item in theirs + ours if item not in ours or item not in theirs]
            raise UserError(f'network pickle of {self.name}: {self.func_name} now builds a network with other '
                            f'variables: {", ".join(strange[:6]) or "in another order"}')
        for name, value in stored:
            self.set_var(name, value)

    def verify_rebuild(self) -> None:
        """Check that pickling will work: rebuild the network from its pickle, compare, and discard the result.

        This repeats all random draws of a construction, as the 2017 release does after every construction.

        Raises
        ------
        ValueError
            The build function makes a different network on the second call.
        """
        rebuilt = pickle.loads(pickle.dumps(self))
        for what, ours, theirs in zip(('layers', 'trainable variables', 'values'), self._structure(),
                                      rebuilt._structure(), strict=True):
            if ours != theirs:
                raise ValueError(f'{self.name}: {self.func_name}, called again with {self.static_kwargs!r}, builds a '
                                 f'network with different {what}')

    def _structure(self):
        layers = [(layer.name, type(layer), layer.output_shape)
                  for layer in lasagne.layers.get_all_layers(self.output_layers)]
        arrays = [(name, var.get_value()) for name, var in self.vars.items()]
        return layers, list(self.trainables), [(name, a.dtype.str, a.shape, a.tobytes()) for name, a in arrays]

    # Evaluation.

    def get_output_for(self, *in_expr, return_as_list: bool = False, **dynamic_kwargs: Any):
        """Symbolic outputs for symbolic inputs.

        Parameters
        ----------
        *in_expr : expressions
            One per input layer. The labels of a generator without classes may be given or omitted.
        return_as_list : bool
            Always return a list. Otherwise a single output is returned itself, and several as a tuple.
        **dynamic_kwargs
            Arguments of the layers; they override `static_kwargs`.
        """
        theano_env.ensure_configured()
        if self.num_inputs < len(in_expr) == len(self.input_shapes):
            in_expr = in_expr[:self.num_inputs]
        if len(in_expr) != self.num_inputs:
            raise ValueError(f'{self.name} takes {self.num_inputs} inputs ({", ".join(map(str, self.input_names))}), '
                             f'but was given {len(in_expr)}')
        kwargs = {**self.static_kwargs, **dynamic_kwargs}
        outputs = lasagne.layers.get_output(self.output_layers, dict(zip(self.input_layers, in_expr, strict=True)),
                                            **kwargs)
        return _as_outputs(outputs, return_as_list)

    def present_lods(self) -> dict[str, int]:
        """Dynamic arguments that limit computation to the current ``cur_lod``; {} if there is no ``cur_lod``."""
        if 'cur_lod' not in self.toplevel_params:
            return {}
        cur_lod = float(self.get_var('cur_lod'))
        return {'min_lod': int(np.floor(cur_lod)), 'max_lod': int(np.ceil(cur_lod))}

    def run(self, *in_arrays: np.ndarray, return_as_list: bool = False, print_progress: bool = False,
            minibatch_size: int | None = None, num_gpus: int = 1, out_mul: float = 1.0, out_add: float = 0.0,
            out_shrink: int = 1, out_dtype: DTypeLike | None = None, **dynamic_kwargs: Any) -> Any:
        """Evaluate the network on arrays.

        Outputs are multiplied, shifted, averaged over boxes of pixels, for integer types rounded half to even and
        clipped to the type's range, and converted, in this order.

        Parameters
        ----------
        *in_arrays : arrays
            One per input layer, with equal numbers of rows, which may be 0. An additional array [N, 0] is ignored: it
            is the empty labels of a 2018 script. A last input without columns may be omitted.
        return_as_list : bool
            Always return a list. Otherwise a single output is returned itself, and several as a tuple.
        print_progress : bool
            Print the number of finished rows.
        minibatch_size : int or None
            Rows per evaluation; the last one may have fewer. Default: all rows.
        num_gpus : int
            Ignored: everything runs on the one device that theano_env selected.
        out_mul, out_add : float
        out_shrink : int
            Size of the boxes; remaining pixels at the border are dropped.
        out_dtype : dtype or None
            Default: the dtype of the computation.
        **dynamic_kwargs
            Arguments of the layers; they override `static_kwargs`. ``deterministic`` defaults to True; if it is False,
            layers may draw noise and update their statistics. If the network has a top-level ``cur_lod``, ``min_lod``
            and ``max_lod`` default to its floor and ceil, which saves work but does not change the outputs.
        """
        theano_env.ensure_configured()
        arrays = self._check_inputs(in_arrays)
        if minibatch_size is not None and minibatch_size < 1:
            raise UserError(f'minibatch_size={minibatch_size!r}: must be at least 1')
        num_rows = len(arrays[0])
        if num_rows == 0:
            # Evaluate one row to find shapes and types, without side effects.
            arrays = [np.zeros((1,) + array.shape[1:], array.dtype) for array in arrays]
            dynamic_kwargs = dict(dynamic_kwargs, deterministic=True)
        function = self._compile([array.dtype.name for array in arrays], float(out_mul), float(out_add), out_shrink,
                                 out_dtype, dynamic_kwargs)
        minibatch_size = minibatch_size or len(arrays[0])
        minibatches = []
        for begin in range(0, len(arrays[0]), minibatch_size):
            if print_progress:
                print(f'\r{begin} / {num_rows}', end='', flush=True)
            minibatches.append(function(*[array[begin : begin + minibatch_size] for array in arrays]))
        if print_progress:
            print(f'\r{num_rows} / {num_rows}')
        outputs = [np.concatenate(parts)[:num_rows] if len(parts) > 1 else np.asarray(parts[0])[:num_rows]
                   for parts in zip(*minibatches, strict=True)]
        return _as_outputs(outputs, return_as_list)

    def _check_inputs(self, in_arrays):
        """Convert the inputs of `run` to the types of the input layers.

        Float32 arrays stay float32 even if floatX is float64, as in the 2017 release.
        """
        arrays = [np.asarray(array) for array in in_arrays]
        if len(arrays) == self.num_inputs + 1 and arrays[-1].ndim == 2 and arrays[-1].shape[1] == 0:
            arrays.pop()
        if arrays and len(arrays) == self.num_inputs - 1 and self.input_shapes[-1][1:] == [0]:
            arrays.append(np.zeros((len(arrays[0]), 0), np.float32))
        if len(arrays) != self.num_inputs:
            raise UserError(f'{self.name}.run takes {self.num_inputs} arrays '
                            f'({", ".join(map(str, self.input_names))}), but was given {len(arrays)}')
        for array, name, shape in zip(arrays, self.input_names, self.input_shapes[:self.num_inputs], strict=True):
            if array.ndim != len(shape) or any(size not in (None, got)
                                               for size, got in zip(shape[1:], array.shape[1:], strict=True)):
                raise UserError(f'{self.name}.run: input {name} must have the shape {[None] + shape[1:]}, not '
                                f'{list(array.shape)}')
            if len(array) != len(arrays[0]):
                raise UserError(f'{self.name}.run: inputs must have the same number of rows, not '
                                f'{", ".join(str(len(other)) for other in arrays)}')
        return [array if array.dtype == np.float32 else array.astype(layer.input_var.dtype)
                for array, layer in zip(arrays, self.input_layers, strict=True)]

    def _compile(self, in_dtypes, out_mul, out_add, out_shrink, out_dtype, dynamic_kwargs):
        """Compiled function for these settings and the current engine, cached."""
        kwargs = {'deterministic': True, **self.static_kwargs, **dynamic_kwargs}
        if 'min_lod' not in kwargs and 'max_lod' not in kwargs:
            kwargs.update(self.present_lods())
        out_dtype = None if out_dtype is None else np.dtype(out_dtype).name
        # Static arguments never change, so the key needs only the others.
        key = (*in_dtypes, out_mul, out_add, out_shrink, out_dtype, theano.config.mode, theano.config.floatX) + tuple(
            (name, value) for name, value in sorted(kwargs.items()) if name not in self.static_kwargs
            or name in dynamic_kwargs)
        if key not in self._functions:
            inputs = [T.TensorType(dtype, layer.input_var.broadcastable)(layer.name)
                      for dtype, layer in zip(in_dtypes, self.input_layers, strict=True)]
            outputs = [_convert_output(output, out_mul, out_add, out_shrink, out_dtype)
                       for output in self.get_output_for(*inputs, return_as_list=True, **kwargs)]
            with theano_env.COMPILING:
                self._functions[key] = theano.function(
                    inputs, outputs, on_unused_input='ignore', mode=theano_torch.float32_sums(theano.config.mode))
        return self._functions[key]

    # Tables of layers.

    def list_layers(self) -> list[tuple]:
        """[(name, output expression for `input_templates`, [shared variables])] of the layers."""
        layers = lasagne.layers.get_all_layers(self.output_layers)
        outputs = lasagne.layers.get_output(layers, **{**self.static_kwargs, 'deterministic': True})
        return [(layer.name or '', output, layer.get_params())
                for layer, output in zip(layers, outputs, strict=True)]

    def topology_lines(self, title: str = 'LayerName', hide_layers_with_no_params: bool = False) -> list[str]:
        """Table of the layers in the format of the 2017 release: list of str. Counts only trainable parameters."""
        local_names = {var: name for name, var in self.vars.items()}
        rows = [(title, 'LayerType', 'Params', 'OutputShape', 'WeightShape', 'Activation'), ('---',) * 6]
        for layer in lasagne.layers.get_all_layers(self.output_layers):
            num_params = _count(layer.get_params(trainable=True))
            if hide_layers_with_no_params and not num_params:
                continue
            weights = [var for var in layer.get_params() if re.split('[./]', local_names[var])[-1] in ('W', 'weight')]
            activation = getattr(layer, 'nonlinearity', None)
            rows.append((layer.name or '', type(layer).__name__, num_params, _format_shape(layer.output_shape),
                         ''.join(_format_shape(shape_of(var)) for var in weights),
                         '' if activation is None else getattr(activation, '__name__', type(activation).__name__)))
        rows += [('---',) * 6, ('Total', '', _count(self.trainables.values()), '', '', '')]
        return [''] + ['%-16s%-28s%-10s%-20s%-20s%s' % row for row in rows] + ['']

    def print_layers(self, title: str | None = None, hide_layers_with_no_params: bool = False) -> None:
        """Print the table of layers. `title` heads the first column; default: the network's name."""
        print('\n'.join(self.topology_lines(title or self.name, hide_layers_with_no_params)))

    def print_topology(self) -> None:
        """Print the table of layers exactly as the 2017 release does."""
        print('\n'.join(self.topology_lines()))


    def setup_weight_histograms(self, title: str | None = None) -> None:
        """Make `save_summaries` write histograms of the trainable variables to a TensorBoard `SummaryWriter`.

        They are named ``TITLE_W/LAYER``; `title` defaults to the network's name.
        """
        for local_name, var in self.trainables.items():
            layer, _, kind = local_name.replace('/', '.').rpartition('.')
            histogram(f'{title or self.name}_{kind if layer else "toplevel"}/{layer or kind}', var)


def _as_outputs(outputs, return_as_list):
    if return_as_list:
        return list(outputs)
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _convert_output(x, mul, add, shrink, dtype):
    """The operations of :meth:`Network.run` on one output expression."""
    if mul != 1:
        x = x * mul
    if add != 0:
        x = x + add
    if shrink != 1:
        if x.ndim != 4:
            raise UserError(f'out_shrink={shrink!r}: only outputs [N, C, H, W] can be shrunk, this one has '
                            f'{x.ndim} axes')
        x = pool_2d(x, ws=(shrink, shrink), ignore_border=True, mode='average_inc_pad')
    if dtype is None or dtype == x.dtype:
        return x
    if np.issubdtype(dtype, np.integer) and not np.issubdtype(x.dtype, np.integer):
        info = np.iinfo(dtype)
        # The largest int32 and int64 are not floats: use the next smaller float.
        high = np.asarray(info.max, x.dtype)
        if int(high) > info.max:
            high = np.nextafter(high, np.asarray(0, x.dtype))
        x = T.clip(T.round(x, mode='half_to_even'), np.asarray(info.min, x.dtype), high)
    return T.cast(x, dtype)


def _count(variables):
    return sum(shape_of(var).num_elements() for var in variables)


def _format_shape(shape):
    return ', '.join('?' if size is None else str(size) for size in shape)


def random_latents(num_latents: int, G: Network | Sequence,
                   random_state: np.random.RandomState | None = None) -> np.ndarray:
    """Standard normal latents, (num_latents, latent_size) float32, for a generator, or its input shape as in 2017.

    `random_state` has a method ``randn``, like NumPy's RandomState; default: NumPy's global generator.
    """
    shape = G if isinstance(G, Sequence) else G.input_shapes[0]
    return (random_state or np.random).randn(num_latents, *shape[1:]).astype(np.float32)
