"""Kernels of ours: compiled by Triton on first use, launched as an op that PyTorch knows.

The ops are ``torch.ops.theano_torch.launch(number, inputs, outputs)`` and ``prepare(number, like)``, which compiles a
kernel for the device of a tensor. On meta tensors, which have shapes only, they do nothing. On the CPU kernels run
where Triton interprets its programs (``TRITON_INTERPRET=1``).
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

from theano_torch.fuser.recording import CannotFuse
from theano_torch.fuser.source import Source

import torch

# Of Triton's compiler. A product and a sum are rounded each, as in PyTorch's kernels.
OPTIONS = {'num_warps': 4, 'enable_fp_fusion': False}

LIBRARY = torch.library.Library('theano_torch', 'DEF')
LIBRARY.define('launch(int number, Tensor[] inputs, Tensor(a!)[] outputs) -> ()')
LIBRARY.define('prepare(int number, Tensor like) -> ()')


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
        self.function[self.source.num_programs,](*inputs, *outputs, **OPTIONS)

    def compile(self) -> None:
        """Compile for the current device.

        Raises
        ------
        CannotFuse
            Triton cannot.
        """
        source = self.source
        try:
            self.function.warmup(*source.types, grid=(source.num_programs,), **OPTIONS)
        except Exception as error:      # Of Triton, a C compiler, the driver or a full disk.
            first = next(iter(str(error).splitlines()), '')
            raise CannotFuse(f'Triton cannot compile a kernel: {type(error).__name__}: {first}') from error


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


def prepare(number: int, like: torch.Tensor) -> None:
    with torch.cuda.device(like.device):
        Kernel.known[number].compile()


def do_nothing(number: int, *tensors: Any) -> None:
    """On meta tensors, whose shapes are known already; the interpreter has nothing to compile."""


for key, launching, preparing in (('CUDA', launch, prepare), ('CPU', launch, do_nothing),
                                  ('Meta', do_nothing, do_nothing)):
    LIBRARY.impl('launch', launching, key)
    LIBRARY.impl('prepare', preparing, key)
