"""Compile fused kernels with Triton and launch them through PyTorch ops.

The ops are ``torch.ops.theano_torch.launch(number, inputs, outputs)`` and ``prepare(number, like)``, which compiles a
kernel for the device of a tensor. On meta tensors they do nothing. On the CPU, kernels run only in Triton's interpreter
(``TRITON_INTERPRET=1``).
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

# Options of Triton's compiler. Without fusion of products and sums, both are rounded, as in PyTorch's kernels.
OPTIONS = {'num_warps': 4, 'enable_fp_fusion': False}

LIBRARY = torch.library.Library('theano_torch', 'DEF')
LIBRARY.define('launch(int number, Tensor[] inputs, Tensor(a!)[] outputs) -> ()')
LIBRARY.define('prepare(int number, Tensor like) -> ()')


def can_run(device: torch.device) -> bool:
    """Whether fused kernels can run on a device: Triton is installed and supports it."""
    if importlib.util.find_spec('triton') is None:
        return False
    return device.type == 'cuda' or os.environ.get('TRITON_INTERPRET') == '1'


class Kernel:
    """A fused kernel.

    Parameters
    ----------
    source : Source
    folder : str
        Folder for its source file, which Triton reads.
    """

    known: 'weakref.WeakValueDictionary[int, Kernel]' = weakref.WeakValueDictionary()
    numbers = itertools.count()

    def __init__(self, source: Source, folder: str) -> None:
        self.source, self.folder = source, folder
        self.number = next(Kernel.numbers)
        Kernel.known[self.number] = self

    @functools.cached_property
    def function(self) -> Any:
        """The Triton function."""
        return loaded(self.source.name, self.source.text, self.folder)

    def launch(self, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> None:
        """Run the kernel. All tensors must have a storage offset of 0."""
        self.function[self.source.num_programs,](*inputs, *outputs, **OPTIONS)

    def compile(self) -> None:
        """Compile for the current device.

        Raises
        ------
        CannotFuse
            Triton cannot compile the kernel.
        """
        source = self.source
        try:
            self.function.warmup(*source.types, grid=(source.num_programs,), **OPTIONS)
        except Exception as error:      # Errors come from Triton, a C compiler, the driver or a full disk.
            first = next(iter(str(error).splitlines()), '')
            raise CannotFuse(f'Triton cannot compile a kernel: {type(error).__name__}: {first}') from error


@functools.lru_cache(maxsize=4096)
def loaded(name: str, text: str, folder: str) -> Any:
    """Load the kernel with the source `text`. It is written to a file, since Triton reads sources from files only."""
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
    """Implement both ops on meta tensors, and `prepare` in the interpreter, which compiles nothing."""


for key, launching, preparing in (('CUDA', launch, prepare), ('CPU', launch, do_nothing),
                                  ('Meta', do_nothing, do_nothing)):
    LIBRARY.impl('launch', launching, key)
    LIBRARY.impl('prepare', preparing, key)
