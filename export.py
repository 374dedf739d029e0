"""Export networks to other programs: ``python export.py onnx PKL OUT.onnx``, ``python export.py state PKL OUT.npz``.

``onnx`` writes a generator at one lod. The inputs are ``latents`` [N, latent_size] and, for conditional networks,
``labels`` [N, label_size]; the output is ``images`` [N, C, resolution, resolution] from -1 (black) to 1 (white), for
any N. By default, batch norm uses the running averages of the training, so that an image depends only on its latents.
With ``--batchnorm minibatch`` it uses the statistics of the N images, like the image generation of the 2017 release.

``state`` writes a network in the layout of the 2018 release, as an npz file of plain arrays: ``variables/NAME`` for
every variable, for example ``variables/4x4/Dense/weight``, and ``meta``, a JSON document. To load it with the 2018
release::

    state = np.load('OUT.npz')
    meta = json.loads(str(state['meta']))
    net = tfutil.Network('Gs', func='networks.' + meta['build_func_name'], **meta['static_kwargs'])
    tfutil.set_vars({net.find_var(name): state['variables/' + name] for name in meta['variable_names']})
"""

import common.starting  # noqa: F401  (Ctrl-C while the rest is imported)

import argparse
import functools
import inspect
import json
import sys
from typing import Any

import theano_torch  # noqa: F401  (lets Theano be imported)

import lasagne
import numpy as np
from lasagne.nonlinearities import identity, tanh

import networks
import networks_2018
import theano_env
from common.arrays import save_arrays
from common.errors import UserError, exit_status
from common.files import atomic_write
from common.objects import defaults_of
from common.options import BatchNorm, check_settings, reading_config
from nets import layers
from nets.network import Network
from nets.pickles import load_pkl, pick
from runs.folder import locate_network_pkl

# ----------------------------------------------------------------------------------------------------------------------
# The layout of the 2018 release.


def state_2018(net: Network) -> tuple[str, dict, dict[str, np.ndarray]]:
    """A network in the layout of the 2018 release.

    Parameters
    ----------
    net : Network
        Built by `networks.G_paper`, `networks.D_paper` or the functions in `networks_2018`.

    Returns
    -------
    build_func_name : str
    static_kwargs : dict
    variables : dict
        {name: float32 array}.

    Raises
    ------
    UserError
        The 2018 release cannot build this network; the message names the option.
    """
    module, _, func_name = net.func_name.rpartition('.')
    if module == 'networks_2018':
        values = {'lod' if name == 'cur_lod' else name: var.get_value() for name, var in net.vars.items()}
        return func_name, dict(net.static_kwargs), values
    if net.func_name not in ('networks.G_paper', 'networks.D_paper'):
        raise UserError(f'{net.func_name}: the 2018 release has no such network; use G_paper and D_paper')
    defaults = defaults_of(getattr(networks, func_name))
    options = {name: net.static_kwargs.get(name, default) for name, default in defaults.items()
               if default is not inspect.Parameter.empty}
    _check_expressible(net, options)
    variables = {'lod': np.float32(net.get_var('cur_lod'))}
    variables.update(_variables_of_G(net, options) if func_name == 'G_paper' else _variables_of_D(net, options))
    common = ['num_channels', 'resolution', 'label_size', 'fmap_base', 'fmap_decay', 'fmap_max', 'use_wscale']
    if func_name == 'G_paper':
        common += ['normalize_latents', 'use_pixelnorm', 'use_leakyrelu']
    # Our statistic covers the whole minibatch; for up to 16 images, so do groups of 16.
    group_size = 0 if options.get('mbstat_avg', 'all') is None else 16
    kwargs = {**{name: options[name] for name in common}, 'fused_scale': False, 'mbstd_group_size': group_size}
    if func_name == 'G_paper':
        kwargs['latent_size'] = net.input_shape[1]
    return func_name, kwargs, {name: np.asarray(value, np.float32) for name, value in variables.items()}


def _check_expressible(net, options):
    allowed = {'use_batchnorm': [False], 'tanh_at_end': [None, False], 'use_layernorm': [False], 'mbstat_groups': [1],
               'mbdisc_kernels': [None, 0], 'mbstat_func': ['Tstdeps'], 'mbstat_avg': ['all', None]}
    for name, values in allowed.items():
        if name in options and options[name] not in values:
            raise UserError(f'{name}={options[name]!r}: the networks of the 2018 release support only {values[0]!r}')
    if net.func_name == 'networks.G_paper' and options['label_size'] and options['normalize_latents']:
        raise UserError(f'label_size={options["label_size"]!r}: the 2018 release normalizes latents and labels '
                        'together, unlike this network; export as ONNX instead')


def _weight_and_bias(net, name, suffix, gain, fan_in):
    """(weight, bias) of a layer, scaled as in the 2018 release, in our layout."""
    W = net.get_var(name + '.W')
    if name + suffix + '.scale' not in net.vars:
        return W, net.get_var(name + '.b')
    scale = net.get_var(name + suffix + '.scale') / np.float32(gain / np.sqrt(fan_in))
    return W * scale, net.get_var(name + suffix + '.b')


def _conv_2018(W):
    """Filters for convolution (K, C, height, width) as filters for cross-correlation (height, width, C, K)."""
    return W[:, :, ::-1, ::-1].transpose(2, 3, 1, 0)


def _variables_of_G(net, options):
    gain = networks.RELU_GAIN
    W, b = _weight_and_bias(net, 'G1a', 'S', gain / 4, net.vars['G1a.W'].get_value(borrow=True).shape[1])
    yield from _pair('4x4/Dense', W.transpose(1, 0, 2, 3).reshape(W.shape[1], -1), b)
    last = int(options['resolution']).bit_length() - 2
    for stage in range(1, last + 1):
        names = {'b': '4x4/Conv'} if stage == 1 else {'a': '%dx%d/Conv0', 'b': '%dx%d/Conv1'}
        for letter, name in names.items():
            layer = f'G{stage}{letter}'
            W, b = _weight_and_bias(net, layer, 'S', gain, np.prod(net.get_var(layer + '.W').shape[1:]))
            yield from _pair(name.replace('%d', str(2 ** (stage + 1))), _conv_2018(W), b)
    for lod in range(last):
        W, b = _weight_and_bias(net, f'Glod{lod}', 'S', 1.0, len(net.get_var(f'Glod{lod}.W')))
        yield from _pair(f'ToRGB_lod{lod}', W[np.newaxis, np.newaxis], b)


def _variables_of_D(net, options):
    gain = networks.RELU_GAIN
    last = int(options['resolution']).bit_length() - 2
    for stage in range(last, 0, -1):
        W, b = _weight_and_bias(net, f'D{stage}x', 'ws', gain, options['num_channels'])
        yield from _pair(f'FromRGB_lod{last - stage}', W[np.newaxis, np.newaxis], b)
        names = {'b': '4x4/Conv'} if stage == 1 else {'b': '%dx%d/Conv0', 'a': '%dx%d/Conv1'}
        for letter, name in names.items():
            layer = f'D{stage}{letter}'
            W, b = _weight_and_bias(net, layer, 'ws', gain, np.prod(net.get_var(layer + '.W').shape[1:]))
            yield from _pair(name.replace('%d', str(2 ** (stage + 1))), _conv_2018(W), b)
    W, b = _weight_and_bias(net, 'D1a', 'ws', gain, np.prod(net.get_var('D1a.W').shape[1:]))
    yield from _pair('4x4/Dense0', W[:, :, ::-1, ::-1].reshape(len(W), -1).T, b)
    outputs = [_weight_and_bias(net, name, 'ws', 1.0, len(net.get_var(name + '.W')))
               for name in ('Dscores', 'Dlabels') if name + '.W' in net.vars]
    yield from _pair('4x4/Dense1', np.concatenate([W for W, _b in outputs], axis=1),
                     np.concatenate([b for _W, b in outputs]))


def _pair(name, weight, bias):
    return [(name + '/weight', weight), (name + '/bias', bias)]


def save_state(net: Network, path: str) -> None:
    """Write :func:`state_2018` of a network as an npz file, see the module docstring."""
    func_name, kwargs, variables = state_2018(net)
    meta = {'build_func_name': func_name, 'static_kwargs': kwargs, 'variable_names': list(variables)}
    save_arrays(path, {'meta': json.dumps(meta), **{'variables/' + name: value for name, value in variables.items()}})


# ----------------------------------------------------------------------------------------------------------------------
# ONNX.


class _Graph:
    """An ONNX graph under construction, with the output names of the layers that it contains so far."""

    def __init__(self, onnx, lod, batchnorm):
        self.onnx, self.lod, self.batchnorm = onnx, lod, batchnorm
        self.nodes, self.constants, self.values = [], [], {}

    def constant(self, array):
        name = f'constant{len(self.constants)}'
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, op, *inputs, **attributes):
        """Add a node; return the name of its output. Arrays among the inputs become constants."""
        names = [self.constant(item) if isinstance(item, (np.ndarray, np.generic)) else item for item in inputs]
        name = f'{op.lower()}{len(self.nodes)}'
        self.nodes.append(self.onnx.helper.make_node(op, names, [name], **attributes))
        return name

    def value(self, layer):
        """Name of the output of `layer`; adds the layer and its inputs if necessary."""
        if layer not in self.values:
            self.values[layer] = onnx_of(layer, self)
        return self.values[layer]

    def per_channel(self, op, x, vector):
        return self.add(op, x, np.asarray(vector, np.float32).reshape(1, -1, 1, 1))

    def upscale(self, x, factor):
        if factor == 1:
            return x
        return self.add('Resize', x, '', np.float32([1, 1, factor, factor]), mode='nearest', nearest_mode='floor',
                        coordinate_transformation_mode='asymmetric')

    def nonlinearity(self, x, function):
        if isinstance(function, lasagne.nonlinearities.LeakyRectify):
            return self.add('LeakyRelu', x, alpha=float(function.leakiness))
        ops = {layers.rectify: 'Relu', tanh: 'Tanh', identity: None}
        if function not in ops:
            raise UserError(f'the nonlinearity {function!r} cannot be exported')
        return self.add(ops[function], x) if ops[function] else x

    def convolution(self, x, filters, pad):
        """Cross-correlation with filters (K, C, height, width)."""
        return self.add('Conv', x, np.asarray(filters, np.float32), pads=[pad] * 4)

    def rounded(self, x, rounding):
        """`x`, rounded to float16 in networks that round with :func:`networks_2018.as_float16`."""
        if rounding is networks_2018.unrounded:
            return x
        types = self.onnx.TensorProto
        return self.add('Cast', self.add('Cast', x, to=types.FLOAT16), to=types.FLOAT)


@functools.singledispatch
def onnx_of(layer, graph: _Graph) -> str:
    """Add `layer`, without noise, to the graph; return the name of its output."""
    raise UserError(f'layers of type {type(layer).__name__} cannot be exported as ONNX; only generators can')


@onnx_of.register(lasagne.layers.ConcatLayer)
def _(layer, graph):
    return graph.add('Concat', *map(graph.value, layer.input_layers), axis=1)


@onnx_of.register(lasagne.layers.ReshapeLayer)
def _(layer, graph):
    # A list means the size of an input axis. In all our networks this is the same axis, which ONNX writes as 0.
    return graph.add('Reshape', graph.value(layer.input_layer),
                     np.int64([0 if isinstance(size, list) else size for size in layer.shape]))


@onnx_of.register(lasagne.layers.NonlinearityLayer)
def _(layer, graph):
    return graph.nonlinearity(graph.value(layer.input_layer), layer.nonlinearity)


@onnx_of.register(layers.Conv2DLayer)
@onnx_of.register(layers.NINLayer)
def _(layer, graph, scale=1.0):
    x, W = graph.value(layer.input_layer), layer.get_params()[0].get_value() * np.float32(scale)
    if isinstance(layer, layers.NINLayer):
        x = graph.convolution(x, W.T[:, :, np.newaxis, np.newaxis], 0)
    else:
        x = graph.convolution(x, W[:, :, ::-1, ::-1], layer.pad)
    if layer.b is not None:
        x = graph.per_channel('Add', x, layer.b.get_value())
    return graph.nonlinearity(x, layer.nonlinearity)


@onnx_of.register(layers.WScaleLayer)
def _(layer, graph):
    x = onnx_of.dispatch(type(layer.input_layer))(layer.input_layer, graph, layer.scale.get_value())
    if layer.b is not None:
        x = graph.per_channel('Add', x, layer.b.get_value())
    return graph.nonlinearity(x, layer.nonlinearity)


@onnx_of.register(layers.BatchNormLayer)
def _(layer, graph):
    x, factor = graph.value(layer.input_layer), layer.gamma.get_value()
    if graph.batchnorm == 'minibatch':
        x = graph.add('Sub', x, graph.add('ReduceMean', x, axes=[0, 2, 3], keepdims=1))
        variance = graph.add('ReduceMean', graph.add('Mul', x, x), axes=[0, 2, 3], keepdims=1)
        x = graph.add('Div', x, graph.add('Sqrt', graph.add('Add', variance, np.float32(layer.epsilon))))
    else:
        x, factor = graph.per_channel('Sub', x, layer.mean.get_value()), factor * layer.inv_std.get_value()
    return graph.per_channel('Add', graph.per_channel('Mul', x, factor), layer.beta.get_value())


@onnx_of.register(layers.PixelNormLayer)
def _(layer, graph):
    x = graph.value(layer.input_layer)
    mean_square = graph.add('ReduceMean', graph.add('Mul', x, x), axes=[1], keepdims=1)
    return graph.add('Div', x, graph.add('Sqrt', graph.add('Add', mean_square, np.float32(layer.epsilon))))


@onnx_of.register(layers.ScaleLayer)
def _(layer, graph):
    return graph.per_channel('Mul', graph.value(layer.input_layer), layer.scales.get_value())


@onnx_of.register(layers.Upscale2DLayer)
def _(layer, graph):
    return graph.upscale(graph.value(layer.input_layer), layer.scale_factor)


@onnx_of.register(layers.LODSelectLayer)
def _(layer, graph):
    """Add only the one or two inputs that the lod selects."""
    lod = float(np.clip(graph.lod - layer.first_incoming_lod, 0, len(layer.input_layers) - 1))
    size = layer.output_shape[2]
    parts = []
    for index, weight in ((int(lod), 1 - lod % 1), (int(lod) + 1, lod % 1)):
        if weight:
            incoming = layer.input_layers[index]
            x = graph.upscale(graph.value(incoming), size // incoming.output_shape[2])
            parts.append(graph.add('Mul', x, np.float32(weight)) if weight != 1 else x)
    return parts[0] if len(parts) == 1 else graph.add('Add', *parts)


@onnx_of.register(networks_2018.WeightLayer)
def _(layer, graph):
    # Scaling the weight here saves a node in the graph; the values are the same.
    x, round_array = graph.value(layer.input_layer), functools.partial(_rounded_array, layer.rounding)
    weight = round_array(layer.weight.get_value() * (layer.scale if layer.use_wscale else np.float32(1)))
    if isinstance(layer, networks_2018.DenseTo4x4Layer):
        x = graph.add('Reshape', graph.add('MatMul', x, weight), np.int64([0, layer.num_units, 4, 4]))
    elif isinstance(layer, networks_2018.UpscaleConvLayer):
        filters = weight.transpose(2, 3, 0, 1)[:, :, ::-1, ::-1] if layer.fused else weight.transpose(3, 2, 0, 1)
        x = graph.convolution(graph.upscale(x, 2), filters, 1)
    elif isinstance(layer, networks_2018.ConvLayer):
        x = graph.convolution(x, weight.transpose(3, 2, 0, 1), layer.pad)
    else:
        return onnx_of.dispatch(object)(layer, graph)
    x = graph.rounded(x, layer.rounding)
    x = graph.rounded(graph.per_channel('Add', x, round_array(layer.bias.get_value())), layer.rounding)
    return graph.rounded(graph.nonlinearity(x, layer.nonlinearity), layer.rounding)


def _rounded_array(rounding, array):
    return array if rounding is networks_2018.unrounded else array.astype(np.float16).astype(np.float32)


@onnx_of.register(networks_2018.RoundLayer)
def _(layer, graph):
    return graph.rounded(graph.value(layer.input_layer), layer.rounding)


@onnx_of.register(networks_2018.Float16Layer)
def _(layer, graph):
    return graph.add('Cast', graph.value(layer.input_layer), to=graph.onnx.TensorProto.FLOAT16)


def onnx_model(net: Network, lod: float | None = None, batchnorm: BatchNorm = 'running') -> Any:
    """A generator as an ONNX model, see the module docstring.

    Parameters
    ----------
    net : Network
    lod : float or None
        Level of detail of the model; fractions blend two levels. None: the current lod of the network.
    batchnorm : str
        ``'running'`` or ``'minibatch'``, see the module docstring.

    Returns
    -------
    onnx.ModelProto
        Opset 17.

    Raises
    ------
    UserError
        The package `onnx` is not installed, the network is no generator, or the lod is out of range.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError("ONNX files need the package onnx: pip install '.[export]'") from error
    if len(net.output_layers) != 1 or len(net.output_shape) != 4 or len(net.input_shape) != 2:
        raise UserError(f'{net.name}: only generators can be exported as ONNX; choose one with --network')
    coarsest = np.log2(net.output_shape[-1]) - 2
    if lod is None:
        lod = min(float(net.get_var('cur_lod')), coarsest)
    if not 0 <= lod <= coarsest:
        raise UserError(f'lod={lod!r}: use a value from 0 (full resolution) to {coarsest} (4x4 pixels)')
    graph, types, inputs = _Graph(onnx, lod, batchnorm), onnx.TensorProto, []
    for name, layer in zip(('latents', 'labels'), net.input_layers, strict=False):
        if layer.output_shape[1]:       # Networks of the 2018 release may have empty labels.
            graph.values[layer] = name
            inputs.append(onnx.helper.make_tensor_value_info(name, types.FLOAT, ['N', layer.output_shape[1]]))
    graph.nodes.append(onnx.helper.make_node('Identity', [graph.value(net.output_layers[0])], ['images']))
    is_float16 = isinstance(net.output_layers[0], networks_2018.Float16Layer)
    images = onnx.helper.make_tensor_value_info('images', types.FLOAT16 if is_float16 else types.FLOAT,
                                                ['N', *net.output_shape[1:]])
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, net.name, inputs, [images], graph.constants),
        opset_imports=[onnx.helper.make_opsetid('', 17)], ir_version=8,
        doc_string=f'Generator of a progressively grown GAN. Images from -1 (black) to 1 (white). lod {lod:g}.' + (
            f' Batch norm: {"running averages" if batchnorm == "running" else "statistics of the N images"}.'
            if layers.has_batch_norm(net.output_layers) else ''))
    onnx.checker.check_model(model)
    return model


def save_onnx(net: Network, path: str, lod: float | None = None, batchnorm: BatchNorm = 'running') -> None:
    """Write a generator as an ONNX file, see :func:`onnx_model`."""
    model = onnx_model(net, lod, batchnorm)
    with atomic_write(path) as file:
        file.write(model.SerializeToString())


# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def main(argv: list[str] | None = None) -> int:
    with reading_config('export.py'):
        import config
        check_settings(config)
    parser = argparse.ArgumentParser(
        description='Export a network to other programs.', formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n  python export.py onnx 0 digits.onnx\n'
               '  python export.py state results/000-digits/network-final.pkl digits.npz --network G')
    parser.add_argument('format', choices=['onnx', 'state'], help='ONNX, or npz in the layout of the 2018 release')
    parser.add_argument('source', metavar='RUN_OR_PKL', help="number or folder of a run, 'latest', or a pickle of "
                        '(G, D, Gs)')
    parser.add_argument('target', help='output file')
    parser.add_argument('--network', choices=['G', 'D', 'Gs'], default='Gs', help='network to export; '
                        'default: %(default)s')
    parser.add_argument('--lod', type=float, help='level of detail of the ONNX model; default: the current lod of the '
                        'network')
    parser.add_argument('--batchnorm', choices=['running', 'minibatch'], default='running', help='statistics that '
                        'batch norm uses in the ONNX model; default: %(default)s')
    parser.add_argument('--snapshot', metavar='KIMG', help="snapshot of the run: thousands of images, 'final' or "
                        "'latest'; default: latest")
    parser.add_argument('--result-dir', default=config.result_dir, metavar='DIR', help='folder of the runs; default: '
                        '%(default)s')
    args = parser.parse_args(argv)

    def export():
        path = locate_network_pkl(args.source, args.snapshot, args.result_dir)
        net = pick(load_pkl(path), args.network, path)
        if args.format == 'onnx':
            save_onnx(net, args.target, args.lod, args.batchnorm)
            if layers.has_batch_norm(net.output_layers):
                print(f'Batch norm uses {args.batchnorm} statistics')
        else:
            save_state(net, args.target)
        print(f'{args.target}: {net}')
    return exit_status('export.py', export, (UserError, theano_env.EnvironmentProblem))


if __name__ == '__main__':
    sys.exit(main())
