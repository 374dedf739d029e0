"""Kernels of ours: compiled by Triton on first use, launched as an op that PyTorch knows.

The op is ``torch.ops.theano_torch.launch(number, inputs, outputs)``. On meta tensors, which have shapes only, it does
nothing; on the CPU it runs where Triton interprets its programs (``TRITON_INTERPRET=1``).
"""

import functools
import importlib.util
import itertools
import os
import pathlib
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

from theano_torch.fuser.source import Source

import torch

LIBRARY = torch.library.Library('theano_torch', 'DEF')
LIBRARY.define('launch(int number, Tensor[] inputs, Tensor(a!)[] outputs) -> ()')


def can_run(device: torch.device) -> bool:
    """Whether kernels of ours run on a device: Triton is installed, for this device."""
    if importlib.util.find_spec('triton') is None:
        return False
    return device.type == 'cuda' or os.environ.get('TRITON_INTERPRET') == '1'


class Kernel:
    """A kernel and how it is launched.

    Parameters
    ----------
    source : Source
    folder : str
        Where its text is kept; Triton reads it from there.
    """

    known: 'weakref.WeakValueDictionary[int, Kernel]' = weakref.WeakValueDictionary()
    numbers = itertools.count()

    def __init__(self, source: Source, folder: str) -> None:
        self.source, self.folder = source, folder
        self.number = next(Kernel.numbers)
        Kernel.known[self.number] = self

    @functools.cached_property
    def function(self) -> Any:
        """The function that Triton has made of the text."""
        return loaded(self.source.name, self.source.text, self.folder)

    def launch(self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> None:
        """Run on tensors that begin where their memory begins."""
        self.function[self.source.num_programs,](*inputs, *outputs, num_warps=self.source.num_warps)


@functools.lru_cache(maxsize=4096)
def loaded(name: str, text: str, folder: str) -> Any:
    """The kernel in a text, which is kept in the file `name` of `folder`: Triton reads sources from files."""
    path = pathlib.Path(folder, f'fused_{name}.py')
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile('w', dir=path.parent, suffix='.tmp', delete=False, encoding='utf-8') as file:
            file.write(text)
        os.replace(file.name, path)
    spec = importlib.util.spec_from_file_location(f'theano_torch_fused_{name}', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.kernel


def launch(number: int, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
    Kernel.known[number].launch(inputs, outputs)


def launch_on_meta(number: int, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
    """Shapes are known already."""


for key, function in (('CUDA', launch), ('CPU', launch), ('Meta', launch_on_meta)):
    LIBRARY.impl('launch', function, key)
