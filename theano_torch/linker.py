"""The Theano linker: from an optimised function graph to a callable that works on Theano's storage cells."""

import theano
from theano.compile.function_module import Function, FunctionMaker
from theano.gof.link import Container, LocalLinker, map_storage

from theano_torch.program import Runner


class TorchLinker(LocalLinker):
    """Links a function graph to a `program.Runner`.

    Parameters
    ----------
    device : str
        Torch device on which the graph runs.
    """

    def __init__(self, device='cpu', schedule=None):
        super().__init__()
        self.device = device
        self.fgraph = None
        self.updated_vars = {}
        if schedule:
            self.schedule = schedule

    def accept(self, fgraph, no_recycling=None, profile=None):
        if self.fgraph is not None and self.fgraph is not fgraph:
            return type(self)(self.device).accept(fgraph, no_recycling, profile)
        self.fgraph = fgraph
        self.no_recycling = no_recycling
        return self

    def accept_var_updates(self, updated_vars):
        """`updated_vars` maps shared inputs to the outputs that become their new values after each call."""
        self.updated_vars = updated_vars

    def clone(self, allow_gc=None):
        return type(self)(self.device)

    def make_all(self, input_storage=None, output_storage=None, storage_map=None):
        order = self.schedule(self.fgraph)
        input_storage, output_storage, storage_map = map_storage(
            self.fgraph, order, input_storage, output_storage, storage_map)
        runner = Runner(self.fgraph, order, input_storage, output_storage, self.updated_vars, self.device)
        return (runner,
                [Container(var, cell) for var, cell in zip(self.fgraph.inputs, input_storage, strict=True)],
                [Container(var, cell, readonly=True) for var, cell in
                 zip(self.fgraph.outputs, output_storage, strict=True)],
                [], order)


class TorchFunction(Function):
    """A Theano function without the check for inputs that share memory: nothing is ever computed in place here."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._check_for_aliased_inputs = False


class TorchFunctionMaker(FunctionMaker):
    def __init__(self, *args, **kwargs):
        kwargs['function_builder'] = TorchFunction
        super().__init__(*args, **kwargs)


class TorchMode(theano.compile.Mode):
    """The mode of this engine; `theano.function` takes the function class from it."""

    function_maker = TorchFunctionMaker
